/* output_internal.h -- the output of one connection: pieces of memory, oldest first.
 *
 *     head            next            tail
 *     | in flight ... | waiting ...   |
 *
 * A piece is a part of a chunk, or of a pinned segment.  Copies are put one behind the other into
 * the chunk that the connections of a listener share; one that follows the last piece in memory
 * makes that piece longer.
 */
#ifndef HM_OUTPUT_INTERNAL_H
#define HM_OUTPUT_INTERNAL_H

#include <stdatomic.h>
#include <sys/uio.h>

#include "hm_conn.h"

#define CHUNK_SIZE 65536u /* bytes; a chunk lives as long as a piece of it does */
#define CHUNK_REST 16384u /* with less left a new one is begun, or batches get small at its end */

struct hm_chunk {
    _Atomic uint32_t holds;
    uint32_t used;
    uint64_t capacity;
    _Alignas(16) uint8_t data[];
};

struct hm_conns {
    hm_awake awake;
    hm_chunk *chunk; /* that is written to; NULL at first */
};

typedef struct {
    const uint8_t *data;
    uint64_t size;
    hm_chunk *chunk;     /* NULL: log memory */
    hm_segment *segment; /* of log memory, pinned */
} piece;

typedef struct {
    piece *pieces;     /* a ring; head, next and tail are free-running */
    uint32_t capacity; /* 0 or a power of two */
    uint32_t head;
    uint32_t next;
    uint32_t tail;
    uint64_t head_done; /* bytes of the piece at `head` that are released */
    uint64_t next_done; /* bytes of the piece at `next` that are taken */
    uint64_t waiting;   /* bytes */
    uint64_t in_flight; /* bytes */
} output;

/* Room for one delivery in the shared chunk, at least CHUNK_REST bytes; NULL: no memory. */
uint8_t *chunk_room(hm_conns *conns, uint64_t *size);
/* The first `size` bytes of that room are a piece.  -HM_ENOMEM. */
int output_put(output *out, hm_conns *conns, uint64_t size);
/* Copies `size` bytes, whatever their number.  -HM_ENOMEM. */
int output_copy(output *out, hm_conns *conns, const uint8_t *data, uint64_t size);
/* Log memory of `segment`, whose pin is taken over.  -HM_ENOMEM: it is released. */
int output_range(output *out, hm_segment *segment, const uint8_t *data, uint64_t size);
void output_advance(output *out, uint64_t size);
void output_release(output *out, uint64_t size);
/* Copies the waiting pieces of log memory; returns the bytes copied. */
uint64_t output_unpin(output *out);
/* Describes the bytes that wait as at most `capacity` pieces of memory; returns how many pieces, and
 * in `size` their bytes. */
int output_gather(const output *out, struct iovec *pieces, int capacity, uint64_t *size);
void output_clear(output *out);

static inline piece *piece_at(const output *out, uint32_t index) {
    return &out->pieces[index & (out->capacity - 1)];
}

#endif
