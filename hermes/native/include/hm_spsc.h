/* hm_spsc.h -- bounded ring of variable-length records: one producer, one consumer.
 *
 * The two are threads that share a handle, or processes that map the same file, each through a
 * handle of its own.  A role belongs to one handle at a time: the process that takes it over opens
 * the ring again.
 *
 * Both cursors are free-running 64-bit byte counts, never masked when stored:
 *     tail - head      bytes published and not yet released   (0 .. capacity)
 *     cursor & mask    the byte of the data area that a cursor names
 *
 * What is shared (a mapping starts with it; private memory has it too):
 *
 *   offset size field     unit, rule
 *        0    8 magic     "HRMSSPSC"; written last, so a half-made file is not one
 *        8    4 version   HM_SPSC_VERSION
 *       12    4 header    bytes before the data area: HM_SPSC_HEADER
 *       16    8 capacity  bytes of the data area: a power of two in the bounds below
 *      128    8 tail      multiple of 8; written by the producer alone
 *      256    8 head      multiple of 8; written by the consumer alone; tail - head <= capacity
 *     4096      data      records; the file ends where it ends
 *
 * A record starts on a multiple of 8 and never wraps:
 *
 *        0    4 size      bytes of payload
 *        4    4 kind      0: a record; 1: padding up to the end of the data area
 *        8      payload   up to the next multiple of 8
 *
 * A peer may write anything into a mapping at any time.  Each side keeps its own cursor in private
 * memory, reads a foreign one or a length once, and bounds it before use: nonsense is -HM_ELENGTH,
 * for as long as it stands there, and no byte outside the data area is touched.  (A peer that
 * shrinks the file still ends us with SIGBUS: seal a memfd, or map only files whose owner is
 * trusted not to.)
 */
#ifndef HM_SPSC_H
#define HM_SPSC_H

#include <stddef.h>
#include <stdint.h>

#include "hm_error.h"

/* cdef-begin -- an opaque handle and functions that return 0, a count or -HM_E*. */
#define HM_SPSC_VERSION      1
#define HM_SPSC_HEADER       4096 /* bytes: a page, so that the data area starts on one */
#define HM_SPSC_CAPACITY_MIN 64   /* bytes: a record of 24 always fits */
#define HM_SPSC_CAPACITY_MAX                                                                       \
    1073741824 /* bytes: spans have 32-bit offsets; 1 GiB is a log, not a queue */

typedef struct hm_spsc hm_spsc;

/* Address of a record's payload in the memory of the ring. */
typedef struct {
    uint32_t offset; /* bytes, a multiple of 8 */
    uint32_t size;   /* bytes */
} hm_spsc_span;

/* A ring in private memory.  `capacity`: bytes, a power of two in the bounds above, else
 * -HM_EINVAL. */
int hm_spsc_new(uint64_t capacity, hm_spsc **ring);
/* Makes the empty file (or memfd) behind `fd` a ring and maps it.  `fd` stays the caller's and is
 * not needed afterwards.  -HM_EBUSY: the file is not empty; -HM_ENOSPACE: the disk is full;
 * -HM_ESYS: no such mapping. */
int hm_spsc_create(int fd, uint64_t capacity, hm_spsc **ring);
/* Maps the ring behind `fd`, which another process made.  -HM_ETRUNC, -HM_EMAGIC, -HM_EVERSION,
 * -HM_ELENGTH: it is not (yet) one; -HM_ESYS: it cannot be mapped. */
int hm_spsc_open(int fd, hm_spsc **ring);
/* Unmaps it: no view and no other thread may use it any more.  NULL is fine. */
void hm_spsc_free(hm_spsc *ring);

uint64_t hm_spsc_capacity(const hm_spsc *ring);
/* The largest record that always fits an empty ring, wherever its cursors stand: capacity / 2 - 8.
 */
uint64_t hm_spsc_record_max(const hm_spsc *ring);
/* The data area: spans are relative to it. */
uint8_t *hm_spsc_memory(hm_spsc *ring);
/* Bytes published and not yet released, headers and padding included; any thread.  -HM_ELENGTH. */
int64_t hm_spsc_used(const hm_spsc *ring);

/* ---- the producer's ---- */

/* Room for a record of at most `size` bytes, contiguous, until the commit.  A claim not committed
 * is replaced by the next.  -HM_EFULL: no room now; -HM_EINVAL: never (over record_max);
 * -HM_ELENGTH: a bad cursor. */
int hm_spsc_claim(hm_spsc *ring, uint32_t size, hm_spsc_span *span);
/* Publishes the claimed record with its first `size` bytes.  -HM_EINVAL: nothing, or less, was
 * claimed. */
int hm_spsc_commit(hm_spsc *ring, uint32_t size);
/* Copies `size` bytes in.  As claim; on any failure nothing was written. */
int hm_spsc_push(hm_spsc *ring, const void *data, uint32_t size);
/* Copies records in, the next `lengths[i]` bytes of `joined` each, and publishes them at once.
 * Returns how many fitted; -HM_EFULL: none; -HM_EINVAL: `joined` ends too early, or the first is
 * over record_max. */
int64_t hm_spsc_push_many(hm_spsc *ring, const void *joined, uint64_t joined_size,
                          const uint32_t *lengths, uint64_t count);

/* ---- the consumer's ---- */

/* Describes up to `capacity` of the oldest records; they stay until the release.  Returns how many;
 * -HM_EEMPTY: none.  -HM_ELENGTH: a bad cursor or length, with no sound record before it. */
int64_t hm_spsc_peek(hm_spsc *ring, hm_spsc_span *spans, uint64_t capacity);
/* Gives back all that the last peek described and no pop took since. */
void hm_spsc_release(hm_spsc *ring);
/* Copies the oldest record out and releases it.  -HM_EEMPTY; -HM_ETRUNC: it has `*size` bytes, more
 * than `capacity`, and stays; -HM_ELENGTH. */
int hm_spsc_pop(hm_spsc *ring, void *out, uint64_t capacity, uint32_t *size);
/* Copies as many records as fit `out`, one after another without gaps, and releases them at once.
 * Returns how many of at most `count`, their sizes in `lengths`.  Failures as pop, `lengths[0]`
 * being the size. */
int64_t hm_spsc_pop_many(hm_spsc *ring, void *out, uint64_t capacity, uint32_t *lengths,
                         uint64_t count);
/* cdef-end */

_Static_assert(sizeof(hm_spsc_span) == 8, "read in bulk by Python");

#endif
