/* hu_group.h -- a subscriber's end of a group's stream: beacons and data in, bytes in order and
 * calls for what is missing out.
 *
 *     WAITING -- first beacon --> JOINED -- cut off --> CUT -- hu_group_skip --> JOINED
 *       any of them -- silence, or another cast in its place --> LOST
 *
 * Who joins begins at the newest border that the beacon names.  What is missing is called for from
 * the caster, but not by every subscriber that misses it: each waits a time that is drawn anew, and
 * a repeat that comes meanwhile makes the call needless.  The times are distributed as in RFC 5401,
 * exponentially and cut off at T, so that in a group of n few are short:
 *
 *     t = T / l * ln(1 + u * (e^l - 1))      l = ln(n) + 1, u uniform in [0, 1)
 *
 * A subscriber that lacks more than a share of the history, or what is not repeated any more, is
 * cut off: it calls for nothing, and goes on at the newest border as soon as its owner has taken
 * what stands in order.  What was left out then shows in the coverage of the batches.
 *
 * Fed with datagrams that hu_header_decode has found sound and that came from the caster's address.
 * Sans-IO: time is an argument.  One thread at a time.
 */
#ifndef HU_GROUP_H
#define HU_GROUP_H

#include "hu_session.h"

/* cdef-begin -- an opaque group; constants that docs/udp.md lists. */
typedef struct hu_group hu_group;

#define HU_BACKOFF_RTTS 4         /* round trips within which all of a group's calls are spread */
#define HU_BACKOFF_MIN  200000    /* ns: but not over less than this */
#define HU_BACKOFF_MAX  100000000 /* ns, nor over more */
#define HU_CUT_SHARE    4         /* a hole of this part of the history cuts a subscriber off */
#define HU_USURPED      300000000 /* ns of silence after which another cast has taken its place */

enum { HU_GROUP_WAITING = 0, HU_GROUP_JOINED = 1, HU_GROUP_CUT = 2, HU_GROUP_LOST = 3 };

typedef struct {
    uint64_t beacons;
    uint64_t datagrams; /* of data, repeats included */
    uint64_t repeats;
    uint64_t foreign;       /* of another cast */
    uint64_t impossible;    /* that claim what can't be */
    uint64_t nacks_sent;    /* status datagrams that call for ranges */
    uint64_t nacks_spared;  /* not sent: a repeat that somebody else had called for came first */
    uint64_t cuts;          /* times it was cut off */
    uint64_t skipped_bytes; /* left out then */
} hu_group_counters;

/* `seed`: of the times that are drawn.  NULL: no memory. */
hu_group *hu_group_new(uint32_t liveness_ms, uint64_t seed, uint64_t now_ns);
void hu_group_free(hu_group *group);
/* A datagram of stream HU_GROUP_STREAM; `data` stands behind the header.  HU_READABLE, HU_LOST,
 * HU_MALFORMED as bits. */
uint32_t hu_group_input(hu_group *group, const hu_header *header, const uint8_t *data,
                        uint64_t size, uint64_t now_ns);
/* Serves the silence; HU_LOST or 0. */
uint32_t hu_group_tick(hu_group *group, uint64_t now_ns);
/* Writes a call for what is missing, `capacity` bytes at most, in the name of a unicast session
 * whose round trip with its variation is `rtt_ns` (0: unknown); its size, 0: there is none now. */
uint64_t hu_group_emit(hu_group *group, uint64_t session, uint64_t rtt_ns, uint8_t *out,
                       uint64_t capacity, uint64_t now_ns);
/* When to call hu_group_tick and hu_group_emit, if nothing comes before. */
uint64_t hu_group_deadline(const hu_group *group);
uint32_t hu_group_state(const hu_group *group);
/* HU_SILENT or HU_UNKNOWN, when it is lost. */
uint32_t hu_group_reason(const hu_group *group);
/* The beacon with which it was joined, or went on after it was cut off, and its entries; NULL: none
 * has come. */
const hu_beacon *hu_group_beacon(const hu_group *group);
const hu_beacon_entry *hu_group_entries(const hu_group *group);
/* What stands in order, from where it was joined. */
void hu_group_bytes(const hu_group *group, hu_bytes *bytes);
void hu_group_consume(hu_group *group, uint64_t size);
/* Of one that is cut off: gives up all before the newest border; 1: what comes next begins with an
 * envelope, 0: no border is known yet, or it was not cut off. */
int hu_group_skip(hu_group *group);
/* Whether it would. */
int hu_group_can_skip(const hu_group *group);
uint64_t hu_group_window(const hu_group *group);
uint64_t hu_group_received(const hu_group *group);
void hu_group_count(const hu_group *group, hu_group_counters *counters,
                    hu_receiver_counters *receiver);
/* cdef-end */

#endif
