/* hm_express.h -- a connection's common round in one call: read, feed, acknowledge, deliver, send.
 *
 * The common case: whole batches come in, acknowledgements and what the connection's own cursors
 * want of them go out, and the socket takes it all.  hm_express_run does rounds of that until
 * something else turns up, and hands that back, nothing of it lost: a control frame, a refusal, an
 * unfinished frame, a stream that others follow, an acknowledgement that waits for a sync, a gap, a
 * socket that is full.
 *
 * One thread owns an express and everything it was given.
 */
#ifndef HM_EXPRESS_H
#define HM_EXPRESS_H

#include "hm_ingest.h"
#include "hm_medium.h"

/* cdef-begin -- an opaque handle, and what a run came to. */
typedef struct hm_express hm_express;
typedef struct hm_medium hm_medium; /* hm_medium.h */

#define HM_EXPRESS_READ                                                                            \
    65536 /* bytes read per round: more at once is bulk, which others do better */
#define HM_EXPRESS_CURSORS_MAX                                                                     \
    64 /* cursors served here; with more the connection does not use it */
#define HM_EXPRESS_ROUNDS_MAX  4096 /* rounds of one run */
#define HM_EXPRESS_TOUCHED_MAX 16   /* publishers handed back at once */

enum {                      /* why a run came back */
       HM_EXPRESS_IDLE = 0, /* nothing more came within the time given */
       HM_EXPRESS_INPUT =
           1, /* `size` bytes of input stand in the buffer, fed as `feed` says: go on from there */
       HM_EXPRESS_OTHERS = 2, /* another descriptor is ready, or the run's bounds are reached */
       HM_EXPRESS_ENDED = 3,  /* the socket has an end or an error to report: read it */
       HM_EXPRESS_WORK = 4,   /* look at moved, touched, unsent and gap */
};

enum { HM_LEVEL_NONE = 0, HM_LEVEL_APPENDED = 1, HM_LEVEL_OTHER = 2 };

typedef struct {
    uint64_t received; /* bytes */
    uint64_t sent;     /* bytes */
    uint64_t rounds;
    uint64_t messages; /* appended */
    uint64_t batches;  /* of publishers */
    uint64_t duplicates;
    uint64_t deliveries; /* batches to the connection's subscriptions */
    uint64_t moved;      /* bit set of streams that were appended to */
    uint64_t size;       /* INPUT: bytes in the buffer */
    uint64_t unsent; /* bytes of output that the socket did not take: they are the end of `out` */
    uint64_t out_size;
    uint64_t gap_first; /* 0: no gap */
    uint64_t gap_last;
    uint32_t gap_cursor; /* number of the cursor it is about */
    int32_t gap_reason;
    uint64_t again;   /* bit set of cursors, by number, that must be called again */
    uint32_t touched; /* publishers in the list of hm_express_touched */
    int32_t why;
} hm_express_result;

#define HM_HAND_OUT_LIMIT                                                                          \
    16384 /* bytes of a batch that are copied; and twice that of a connection: more is bulk */

/* One connection of many that are served by one hm_express_hand_out. */
typedef struct {
    hm_express *express;
    uint64_t seats;          /* bit set of the cursors to ask, by number */
    const hm_medium *medium; /* NULL: the socket itself */
    uint64_t sent;           /* out: bytes */
    uint64_t deliveries;     /* out: batches, whether sent or not */
    int32_t fd;
    int32_t special; /* out: not 0: look at hm_express_left */
} hm_hand_out;

/* `ingest` is borrowed.  NULL: no memory. */
hm_express *hm_express_new(hm_ingest *ingest);
void hm_express_free(hm_express *express);
/* Sets the acknowledgement level of a publisher; OTHER: Python acknowledges it, or it is closed.
 * -HM_ELIMIT: more than HM_PUBLISHERS_MAX are open. */
int hm_express_level(hm_express *express, uint32_t publisher, int level);
/* Serves `cursor` of `stream`, whose index is `index`; returns its number, or -HM_ELIMIT. */
int hm_express_add(hm_express *express, hm_stream *stream, hm_cursor *cursor, uint32_t index);
void hm_express_remove(hm_express *express, int number);
/* The output of the last run; `unsent` bytes at its end are still to be sent. */
const uint8_t *hm_express_output(const hm_express *express);
const hm_touched *hm_express_touched(const hm_express *express);

/* Runs until there is a reason to come back.  `buffer` has HM_EXPRESS_READ bytes.  `shared`: bit
 * set of streams that others follow too: an append there ends the run.  `spin_ns`: how long to wait
 * for more by polling; `bound_ns`: how long to run at most.  `epoll_fd`: looked at meanwhile for
 * others than `fd`. The cursors must have been called until they were caught up. */
void hm_express_run(hm_express *express, int fd, int epoll_fd, uint8_t *buffer, uint64_t shared,
                    uint64_t spin_ns, uint64_t bound_ns, hm_feed *feed, hm_express_result *result);
/* As hm_express_run, over a medium that is not a socket; its `receive` never waits here, and ends
 * the run with OTHERS by -HM_EBUSY.  `fd`: what it waits on, in `epoll_fd`. */
void hm_express_run_medium(hm_express *express, const hm_medium *medium, int fd, int epoll_fd,
                           uint8_t *buffer, uint64_t shared, uint64_t spin_ns, uint64_t bound_ns,
                           hm_feed *feed, hm_express_result *result);

/* Has each connection's cursors deliver, and sends that, as far as nothing special turns up. */
void hm_express_hand_out(hm_hand_out *items, uint32_t count, uint64_t now_ns);
/* Leftovers of hm_express_hand_out: of the result, `unsent`, the gap and `again` count.  `range`:
 * log memory that comes behind the unsent output, the rest of the batch of cursor `gap_cursor`; its
 * size may be 0. */
void hm_express_left(const hm_express *express, hm_express_result *result, hm_range *range);
/* cdef-end */

_Static_assert(sizeof(hm_hand_out) == 48, "written and read by Python");

#endif
