/* hu_receiver.h -- one direction's receiving end: puts datagrams in order, and says what is
 * missing.
 *
 * Positions count the bytes of a stream from 0 and never wrap:
 *
 *     consumed <= received <= highest <= consumed + window
 *
 * What arrives is copied to its place in a buffer of `window` bytes; between `received` and
 * `highest` there are holes.  A hole becomes due when the reordering tolerance has passed, and
 * again after a time that follows the round trip and doubles, for as long as it is open.  The
 * tolerance adapts: it grows when something merely came late, and decays when it was lost.
 *
 * Sans-IO: time is an argument, in nanoseconds of any monotonic clock.  One thread at a time.
 */
#ifndef HU_RECEIVER_H
#define HU_RECEIVER_H

#include "hu_wire.h"

/* cdef-begin -- an opaque receiver; constants that docs/udp.md lists. */
typedef struct hu_receiver hu_receiver;

#define HU_HOLES_MAX    1024      /* holes kept; a datagram that would make more is dropped */
#define HU_REORDER_MIN  20000     /* ns: tolerance at the beginning, and the least */
#define HU_REORDER_MAX  10000000  /* ns: the most a hole waits before it is called lost */
#define HU_RETRY_MIN    100000    /* ns: between two calls for the same hole, at least */
#define HU_RETRY_MAX    100000000 /* ns: and at most */
#define HU_RETRY_BEGIN  1000000   /* ns: while no round trip has been measured */
#define HU_RETRY_DOUBLE 5         /* times the pause doubles */

enum {
    HU_TOOK = 1,      /* it brought something new */
    HU_DUPLICATE = 2, /* it had arrived before */
    HU_OUTSIDE = 3,   /* it lies outside the window */
    HU_CROWDED = 4,   /* there are HU_HOLES_MAX holes already */
};

typedef struct {
    uint64_t datagrams;  /* that brought something new */
    uint64_t duplicates; /* that did not */
    uint64_t reordered;  /* that closed a hole without having been sent again */
    uint64_t outside;    /* dropped: outside the window */
    uint64_t crowded;    /* dropped: too many holes */
    uint64_t holes;      /* seen */
    uint64_t calls;      /* ranges called for, repeats included */
    uint64_t retries;    /* of those, repeats */
} hu_receiver_counters;

/* Bytes in order that stand in a ring: in one piece, or in two. */
typedef struct {
    const uint8_t *data[2];
    uint64_t size[2];
} hu_bytes;

/* `window`: bytes, a power of two from 4 KiB on.  `jitter`: 0, or a seed: every wait is drawn
 * between once and twice its length (multicast: not all receivers call at once).  NULL: no memory.
 */
hu_receiver *hu_receiver_new(uint64_t window, uint64_t position, uint64_t jitter);
void hu_receiver_free(hu_receiver *receiver);
/* A datagram with `size` bytes from `position` on; `repeat`: it says so.  HU_TOOK and so on. */
int hu_receiver_take(hu_receiver *receiver, uint64_t position, const uint8_t *data, uint64_t size,
                     int repeat, uint64_t now_ns);
/* The sender has sent up to `position`: what is missing before it is a hole. */
void hu_receiver_expect(hu_receiver *receiver, uint64_t position, uint64_t now_ns);
/* Somebody else has called for a range just now: holes in it wait as if it had been us. */
void hu_receiver_heard(hu_receiver *receiver, const hu_range *range, uint64_t retry_ns,
                       uint64_t now_ns);
/* Writes the holes that are due, all of them in order, `capacity` at most; they count as called
 * for.  `retry_ns`: a round trip with its variation, 0: unknown. */
uint32_t hu_receiver_call(hu_receiver *receiver, hu_range *ranges, uint32_t capacity,
                          uint64_t retry_ns, uint64_t now_ns);
/* When hu_receiver_call has something to say; UINT64_MAX: nothing is missing. */
uint64_t hu_receiver_deadline(const hu_receiver *receiver);
/* Bytes that stand in order at `*data`; ask again after hu_receiver_consume, the buffer wraps. */
uint64_t hu_receiver_readable(const hu_receiver *receiver, const uint8_t **data);
void hu_receiver_consume(hu_receiver *receiver, uint64_t size);
/* All that stands in order, beyond the wrap too. */
void hu_receiver_bytes(const hu_receiver *receiver, hu_bytes *bytes);
/* Gives up everything before `position`, and the bytes not consumed; returns how many had not
 * arrived. */
uint64_t hu_receiver_skip(hu_receiver *receiver, uint64_t position);
uint64_t hu_receiver_received(const hu_receiver *receiver);
uint64_t hu_receiver_highest(const hu_receiver *receiver);
/* Behind the last byte that may come. */
uint64_t hu_receiver_limit(const hu_receiver *receiver);
uint32_t hu_receiver_holes(const hu_receiver *receiver);
void hu_receiver_count(const hu_receiver *receiver, hu_receiver_counters *counters);
/* cdef-end */

#endif
