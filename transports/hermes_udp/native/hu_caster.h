/* hu_caster.h -- the sending end of a multicast group: one stream of bytes for any number of
 * receivers, who call for what they miss.
 *
 *     oldest <= sent <= end        end - oldest <= history, and end - sent <= what is ahead
 *
 * Envelopes of the wire protocol are copied to a ring of `history` bytes, once for all receivers,
 * and leave in order at no more than `rate`.  Nobody acknowledges anything: what has left the ring
 * is gone, and who still lacks it goes on at a border, where an envelope begins.
 *
 * A call for missing ranges puts them on a list of repairs, sorted by target and position:
 *
 *     called for --> waiting --> repeated --> forgotten, when there is need of room
 *                       ^            |
 *                       +------------+  called for again, later than a hold-off
 *
 * What waits, or was repeated within the caller's round trip, is not taken a second time, whoever
 * calls: one loss that a thousand receivers share costs one repeat.  Repeats count against `rate`
 * like everything else and take turns with what is new, so calls for no end of ranges cost the
 * others half of it at most.  Of that half, each caller has a train in turn, and where the list is
 * full, whoever has most on it gives way.
 *
 * With `rate_min`, a caller who lacks something far back slows all down: the pace halves, once in a
 * HU_CAST_SLOW, and grows by an eighth in each in which nobody does so.
 *
 * Beacons say where the stream stands: 1, 2, 4, ... ms after the last bytes, so that who missed
 * these learns of them soon, and every HU_BEACON_MAX whatever happens.
 *
 * Sans-IO: it fills trains; time is an argument.  Bounded memory, none is allocated after
 * hu_caster_new.  One thread at a time.
 */
#ifndef HU_CASTER_H
#define HU_CASTER_H

#include "hu_session.h"

/* cdef-begin -- an opaque caster; constants that docs/udp.md lists. */
typedef struct hu_caster hu_caster;

#define HU_BEACON_MIN    1000000   /* ns from the last bytes to the first beacon; it doubles */
#define HU_BEACON_MAX    100000000 /* ns between two beacons, at most */
#define HU_CAST_HOLD     200000    /* ns for which what was repeated is not repeated again */
#define HU_CAST_HOLD_MAX 50000000  /* ns: likewise, for callers who are far away */
#define HU_CAST_BURST    65536     /* bytes that may leave at once before `rate` holds them */
#define HU_CAST_AHEAD    1048576   /* bytes taken before they have left; or an eighth of history */
#define HU_CAST_SLOW     10000000  /* ns in which the pace halves once, or grows once */
#define HU_CAST_GROW     8         /* part of the pace by which it grows */
#define HU_CAST_LAG  8388608 /* bytes: who lacks what is so far back is late; or two round trips, */
#define HU_CAST_LATE 8       /* or this part of the history if that is less */
#define HU_CAST_REPAIRS  512 /* ranges that wait or were repeated; more are called again */
#define HU_CAST_CALLERS  64  /* told apart while they wait for repairs; more share places */
#define HU_CAST_STEPS    1024        /* of them looked at for one status, whatever it calls for */
#define HU_CAST_BORDERS  256         /* borders remembered, evenly spread over the history */
#define HU_CAST_RATE_MIN 65536       /* bytes a second */
#define HU_CAST_RATE_MAX 12500000000 /* bytes a second: 100 Gbit/s */
#define HU_CAST_ALL      0           /* the target that is the group */

typedef struct {
    uint64_t id;       /* of the cast, random */
    uint64_t rate;     /* bytes of datagrams a second, at most */
    uint64_t rate_min; /* down to which who falls behind slows it; 0: nobody does */
    uint32_t history;  /* bytes, a power of two */
    uint32_t datagram; /* bytes of the largest */
    uint32_t unicast;  /* 1: repeats go to who called for them, 0: to all */
    uint32_t pattern_size;
    uint8_t pattern[HU_NAME_MAX]; /* what is cast, for the beacons */
} hu_caster_options;

typedef struct {
    uint64_t envelopes;    /* taken */
    uint64_t datagrams;    /* sent for the first time */
    uint64_t bytes;        /* of the stream, in them */
    uint64_t repeats;      /* datagrams sent again */
    uint64_t repeat_bytes; /* of the stream, in them */
    uint64_t beacons;
    uint64_t nacks;        /* status datagrams that call for ranges */
    uint64_t calls;        /* ranges called for */
    uint64_t calls_held;   /* of those, ranges that wait already or were just repeated */
    uint64_t calls_late;   /* ranges that are not kept any more, or were never sent */
    uint64_t calls_spared; /* ranges for which there was no room, and those behind one */
    uint64_t full;         /* times nothing more was taken, because of `rate` */
    uint64_t slowed;       /* times the pace was halved for who fell behind */
    uint64_t nameless;     /* streams for which beacons have no room */
} hu_caster_counters;

/* NULL: no memory. */
hu_caster *hu_caster_new(const hu_caster_options *options, uint64_t now_ns);
void hu_caster_free(hu_caster *caster);
/* Takes batches from a connection's output, in pieces of any size but with their headers in one
 * piece.  Returns how many bytes: it stops before a frame that is no batch, `*control` is its type
 * then, else 0; and where there is no room.  -HM_E*: this is no output of a broker's, or a batch is
 * larger than half the history. */
int64_t hu_caster_feed(hu_caster *caster, const uint8_t *data, uint64_t size, uint32_t *control);
/* Takes one whole control frame.  0; -HM_EFULL: no room now. */
int hu_caster_append(hu_caster *caster, const uint8_t *data, uint64_t size);
/* What batches call a stream; before the first batch of it.  Beyond HU_BEACON_STREAMS streams, or
 * HU_NAME_MAX bytes, it is not told to receivers. */
void hu_caster_name(hu_caster *caster, uint32_t index, const uint8_t *name, uint64_t size);
/* The broker says that a stream's sequences up to `last` do not come; before the control frame that
 * says so is taken. */
void hu_caster_gap(hu_caster *caster, uint32_t index, uint64_t last);
/* A status datagram of a receiver: calls for its ranges, as many as one of HU_STATUS_MAX bytes has.
 * `caller`: the id of its session, which is the target of repeats that are not for all; `rtt_ns`:
 * its round trip, 0: unknown. */
void hu_caster_status(hu_caster *caster, uint64_t caller, const uint8_t *ranges, uint64_t size,
                      uint64_t rtt_ns, uint64_t now_ns);
/* The next datagrams to send, as hu_session_emit, and to whom: HU_CAST_ALL or a session's id.
 * `receivers`: how many sessions there are, for the beacons. */
uint32_t hu_caster_emit(hu_caster *caster, hu_train *train, uint32_t receivers, uint64_t now_ns,
                        uint64_t *target);
/* Of the last train only the first `count` datagrams were sent. */
void hu_caster_unsend(hu_caster *caster, const hu_train *train, uint32_t count);
/* When hu_caster_emit has something to send; 0: now. */
uint64_t hu_caster_deadline(const hu_caster *caster);
/* Bytes that it takes now. */
uint64_t hu_caster_room(const hu_caster *caster);
/* Bytes of the datagrams; the path takes none so large: smaller ones from now on. */
uint32_t hu_caster_datagram(const hu_caster *caster);
void hu_caster_shrink(hu_caster *caster, uint32_t datagram);
uint64_t hu_caster_end(const hu_caster *caster);
uint64_t hu_caster_sent(const hu_caster *caster);
uint64_t hu_caster_oldest(const hu_caster *caster);
void hu_caster_count(const hu_caster *caster, hu_caster_counters *counters);
/* cdef-end */

#endif
