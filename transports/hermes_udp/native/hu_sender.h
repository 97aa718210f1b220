/* hu_sender.h -- one direction's sending end: what is on its way, by position.
 *
 *     acked <= next <= end        next <= limit, and next - acked <= the congestion window
 *
 * What is pushed is kept as references into its owner's memory, which must stay as it is until it
 * is acknowledged; small pieces are copied to a ring instead.  A call for missing ranges puts them
 * on a list that goes out before anything new.  When nothing is heard, a probe repeats the last
 * datagram, which makes the receiver say what it lacks.
 *
 * Sans-IO: it fills hu_piece lists; time is an argument.  One thread at a time.
 */
#ifndef HU_SENDER_H
#define HU_SENDER_H

#include "hu_wire.h"

/* cdef-begin -- an opaque sender; constants that docs/udp.md lists. */
typedef struct hu_sender hu_sender;

#define HU_CHUNKS_MAX       4096      /* references kept; with as many nothing more is taken */
#define HU_COPY_MAX         1024      /* bytes: a smaller piece is copied if there is room */
#define HU_REPEATS_MAX      512       /* ranges that wait to be sent again; more are called again */
#define HU_RECENT_MAX       128       /* ranges remembered as just sent again */
#define HU_CALLS_MAX        1024      /* ranges of one peer's looked at in HU_CALLS_SPAN */
#define HU_CALLS_SPAN       10000000  /* ns */
#define HU_CONGESTION_MIN   65536     /* bytes that may always be on their way, */
#define HU_CONGESTION_COUNT 16        /* and datagrams: the larger of the two counts */
#define HU_PROBE_MIN        500000    /* ns of silence before the last datagram is repeated */
#define HU_PROBE_MAX        100000000 /* ns: the pause between probes doubles up to this */
#define HU_RTT_BEGIN        10000000  /* ns: assumed before one has been measured */
#define HU_BURST            262144    /* bytes that may leave at once before pacing holds them */
#define HU_PACE_MIN         100000    /* ns: pacing believes in no shorter round trip */

typedef struct {
    uint64_t datagrams;     /* sent for the first time */
    uint64_t bytes;         /* of them */
    uint64_t repeats;       /* datagrams sent again because they were called for */
    uint64_t repeat_bytes;  /* of them */
    uint64_t probes;        /* the last datagram repeated, or an empty question */
    uint64_t calls;         /* ranges called for */
    uint64_t calls_ignored; /* of those, ranges that are none or have just been sent again */
    uint64_t calls_spared;  /* ranges not looked at: HU_CALLS_MAX */
    uint64_t stalls;        /* times the receiver's window was full */
    uint64_t losses;        /* times the congestion window was reduced */
} hu_sender_counters;

/* What to send: one datagram's payload, or a run of such. */
typedef struct {
    uint64_t position;
    uint64_t size;   /* bytes, 0: nothing to send now */
    uint32_t repeat; /* 1: sent before */
    uint32_t probe;  /* 1: to be answered at once */
} hu_span;

/* `payload_max`: bytes of stream in a datagram.  `copy_size`: bytes of the ring for small pieces,
 * a power of two.  NULL: no memory. */
hu_sender *hu_sender_new(uint64_t position, uint32_t payload_max, uint64_t copy_size);
void hu_sender_free(hu_sender *sender);
/* Takes bytes by reference, or copies them: always with `copy`, else only if they are few.
 * Returns how many: all of them, or with `copy` what the ring has room for; 0: no room now. */
uint64_t hu_sender_push(hu_sender *sender, const uint8_t *data, uint64_t size, int copy);
/* Bytes it would be good to have pushed: what may be sent and is not there. */
uint64_t hu_sender_room(const hu_sender *sender);
/* The receiver has all before `received` and takes up to `limit`; returns bytes newly
 * acknowledged.  Impossible values are ignored. */
uint64_t hu_sender_acknowledge(hu_sender *sender, uint64_t received, uint64_t limit,
                               uint64_t now_ns);
/* Of `count` ranges called for, as many of the first as may be looked at now. */
uint32_t hu_sender_admit(hu_sender *sender, uint32_t count, uint64_t now_ns);
/* The receiver calls for a range. */
void hu_sender_repeat(hu_sender *sender, const hu_range *range, uint64_t now_ns);
void hu_sender_rtt(hu_sender *sender, uint64_t rtt_ns);
/* What goes out next, `size_max` bytes at most: repeats first, then what is new, then a probe if it
 * is time.  It counts as sent. */
void hu_sender_next(hu_sender *sender, uint64_t size_max, uint64_t now_ns, hu_span *span);
/* The medium did not take the span after all, from `position` on. */
void hu_sender_unsend(hu_sender *sender, const hu_span *span, uint64_t position);
/* When hu_sender_next has something that it has not now; UINT64_MAX: not by itself. */
uint64_t hu_sender_deadline(const hu_sender *sender, uint64_t now_ns);
/* Whether an answer is awaited although nothing need be on its way: then it probes too. */
void hu_sender_await(hu_sender *sender, int awaiting, uint64_t now_ns);
/* Smaller datagrams from now on. */
void hu_sender_shrink(hu_sender *sender, uint32_t payload_max);
/* Bytes the ring for copies has room for. */
uint64_t hu_sender_ring_room(const hu_sender *sender);
uint64_t hu_sender_acked(const hu_sender *sender);
uint64_t hu_sender_sent(const hu_sender *sender);
uint64_t hu_sender_end(const hu_sender *sender);
uint64_t hu_sender_congestion(const hu_sender *sender);
/* Smoothed round trip and its variation; 0 while none has been measured. */
uint64_t hu_sender_srtt(const hu_sender *sender);
uint64_t hu_sender_rttvar(const hu_sender *sender);
void hu_sender_count(const hu_sender *sender, hu_sender_counters *counters);
/* cdef-end */

/* A piece of memory. */
typedef struct {
    const uint8_t *data;
    uint64_t size;
} hu_piece;

/* Where the bytes from `position` on stand; returns the pieces, `capacity` at most, and how many
 * bytes they have. */
uint32_t hu_sender_locate(const hu_sender *sender, uint64_t position, uint64_t size,
                          hu_piece *pieces, uint32_t capacity, uint64_t *found);

#endif
