/* hm_conn.h -- the broker's end of one connection: what it reads into (an ingest), what it delivers
 * from (its cursors), and what waits to be sent, oldest first.
 *
 * There is one way for a message to leave.  hm_conn_pull takes what the cursors have into the
 * output, behind the control frames that are there; from there it goes
 *
 *     to a stream socket     hm_conn_flush, and hm_conns_flush for all connections in one call
 *     to anything else       hm_conn_views, hm_conn_advance, hm_conn_release
 *
 * hm_conn_serve does the common round: it reads, feeds, acknowledges, pulls and sends, until
 * something else turns up.  What is Python's to do is never lost on the way: a gap, memory that has
 * to be fetched, a publisher whose acknowledgement waits for a disk stay with the connection until
 * they are asked for.
 *
 * Output is frames: either copies in chunks of memory that all connections of a listener share, or
 * ranges of log memory, pinned until they are released.
 *
 * One thread owns the connections and all that they were given.
 */
#ifndef HM_CONN_H
#define HM_CONN_H

#include "hm_ingest.h"
#include "hm_medium.h"
#include "hm_sends.h"

/* cdef-begin -- opaque handles, and what a call came to. */
typedef struct hm_conn hm_conn;
typedef struct hm_conns hm_conns; /* the connections of one listener */
typedef struct hm_chunk hm_chunk;
typedef struct hm_medium hm_medium; /* hm_medium.h */
typedef struct hm_sends hm_sends;   /* hm_sends.h */

/* bytes read per round: more at once is bulk, which others do better */
#define HM_CONN_READ          65536
#define HM_CONN_ROUNDS_MAX    4096    /* rounds of one hm_conn_serve */
#define HM_CONN_TOUCHED_MAX   16      /* publishers handed back at once */
#define HM_CONN_PIECES_MAX    512     /* pieces of output that wait; half of what sendmsg takes */
#define HM_CONN_IN_FLIGHT_MAX 4194304 /* bytes taken by the medium and not released */
#define HM_CONN_SHARE         262144  /* bytes a cursor gives before the next one's turn */
#define HM_CONN_COPY_MAX      16384   /* bytes of log memory that are copied, not pinned */
#define HM_CONN_PULL_MIN      65536   /* bytes flushed at once to a peer that has just stalled */
#define HM_CONN_PULL_MAX      1048576 /* and to one that takes all it is given */
#define HM_CONN_WRITES_MAX    8       /* sends to one connection before others have their turn */
/* bytes of a send that leaves with others: beside copying more, a system call of its own is nothing */
#define HM_CONN_TOGETHER_SIZE 16384
/* sends that leave together: the first waits until the last is prepared, some 20 us */
#define HM_CONN_TOGETHER_MAX 64

/* Results of a pull or a flush; negative: -HM_E*.
 * DONE: no cursor has more.  LIMIT: some may.  AGAIN: a cursor has looked at its share of the log:
 * call again in the next pass.  GAP: hm_conn_gap says which messages cannot be had.  COLD:
 * hm_conn_cold says what is to be brought into memory.  FULL: the socket has no room.  LOST: it is
 * broken, hm_conn_error. */
enum {
    HM_PULL_DONE = 0,
    HM_PULL_LIMIT = 1,
    HM_PULL_AGAIN = 2,
    HM_PULL_GAP = 3,
    HM_PULL_COLD = 4,
    HM_PULL_FULL = 5,
    HM_PULL_LOST = 6,
};

/* Reasons for which hm_conn_serve comes back.
 * IDLE: nothing more came within the time given.  INPUT: `size` bytes of input stand in the buffer,
 * fed as `feed` says: go on from there.  OTHERS: another descriptor is ready, or the bounds are
 * reached.  ENDED: the medium has an end or an error to report: read it.  WORK: there is output
 * left, or publishers are, or others may have output. */
enum {
    HM_SERVE_IDLE = 0,
    HM_SERVE_INPUT = 1,
    HM_SERVE_OTHERS = 2,
    HM_SERVE_ENDED = 3,
    HM_SERVE_WORK = 4,
};

enum { HM_LEVEL_NONE = 0, HM_LEVEL_APPENDED = 1, HM_LEVEL_OTHER = 2 };

typedef struct {
    uint64_t received; /* bytes */
    uint64_t rounds;
    uint64_t messages; /* appended */
    uint64_t batches;  /* of publishers */
    uint64_t duplicates;
    uint64_t held;    /* bit set of streams that were appended to and show nothing yet */
    uint64_t size;    /* INPUT: bytes in the buffer */
    uint32_t touched; /* publishers in the list of hm_conn_touched */
    int32_t why;
} hm_served;

/* Messages `first`..`last` of a stream that a subscription cannot have; `reason`: HM_EGONE or
 * HM_EDAMAGED. */
typedef struct {
    uint64_t first;
    uint64_t last;
    uint32_t subscription;
    uint32_t stream;
    int32_t reason;
} hm_gap;

/* One piece of output, at `offset` of a chunk, or in a pinned segment. */
typedef struct {
    const uint8_t *data;
    uint64_t size;
    hm_chunk *chunk;     /* NULL: log memory */
    hm_segment *segment; /* of log memory */
    uint64_t offset;
} hm_view;

typedef struct {
    uint64_t sent;       /* bytes, ever */
    uint64_t deliveries; /* batches to the connection's subscriptions, ever */
    uint64_t waiting;    /* bytes */
    uint64_t in_flight;  /* bytes */
} hm_conn_status;

/* NULL: no memory. */
hm_conns *hm_conns_new(void);
/* After the last connection. */
void hm_conns_free(hm_conns *conns);

/* `number`: what hm_conns_flush calls it.  `ingest` is borrowed.  NULL: no memory. */
hm_conn *hm_conn_new(hm_conns *conns, hm_ingest *ingest, uint64_t number);
/* Before its ingest, and when its cursors are removed. */
void hm_conn_free(hm_conn *conn);
void hm_conn_status_get(const hm_conn *conn, hm_conn_status *status);

/* ---- what is delivered ---- */

/* Delivers from `cursor`, until it is removed or closed. */
void hm_conn_add(hm_conn *conn, hm_cursor *cursor);
void hm_conn_remove(hm_cursor *cursor);
/* Sets the acknowledgement level of a publisher; OTHER: Python acknowledges it, or it is closed.
 * -HM_ELIMIT: more than HM_PUBLISHERS_MAX are open; -HM_ENOMEM. */
int hm_conn_level(hm_conn *conn, uint32_t publisher, int level);
/* Puts control frames behind what waits.  -HM_ENOMEM. */
int hm_conn_put(hm_conn *conn, const uint8_t *frames, uint64_t size);
/* Python has something to say first: nothing leaves by itself until the next hm_conn_pull or
 * hm_conn_flush. */
void hm_conn_hold(hm_conn *conn);
/* Delivers nothing any more. */
void hm_conn_stop(hm_conn *conn);
/* Whether a cursor may have something, or output waits. */
bool hm_conn_busy(const hm_conn *conn);

/* Takes what the cursors have into the output, until `limit` bytes wait. */
int hm_conn_pull(hm_conn *conn, uint64_t limit);
/* Whether as much is in flight as may be: then nothing is pulled. */
bool hm_conn_choked(const hm_conn *conn);
/* After GAP: the gap, which is told now, and forgotten here. */
void hm_conn_gap(hm_conn *conn, hm_gap *gap);
/* After COLD: the stream, and the position in it. */
uint32_t hm_conn_cold(const hm_conn *conn, uint64_t *position);

/* ---- for media that Python moves ---- */

/* Describes what waits, oldest first, at most HM_CONN_PIECES_MAX of `views`; returns how many.  None
 * while as much is in flight as may be: then nothing is pulled either. */
uint32_t hm_conn_views(const hm_conn *conn, hm_view *views);
/* Pulls if nothing waits, and describes it: `*came_to` as of hm_conn_pull. */
uint32_t hm_conn_take(hm_conn *conn, uint64_t limit, hm_view *views, int *came_to);
/* The memory of a chunk lives until each hold of it is given back; any thread. */
const uint8_t *hm_chunk_hold(hm_chunk *chunk, uint64_t *size);
void hm_chunk_release(hm_chunk *chunk);
/* The medium has taken the oldest `size` bytes of what waits. */
void hm_conn_advance(hm_conn *conn, uint64_t size);
/* The medium needs the oldest `size` bytes that it has taken no more. */
void hm_conn_release(hm_conn *conn, uint64_t size);
/* Copies what refers to log memory if nothing of it has moved since the last call; returns the
 * bytes copied. */
uint64_t hm_conn_unpin(hm_conn *conn);

/* ---- for stream sockets ---- */

/* Output goes to the non-blocking stream socket `fd` from now on; what is small, and flushed with
 * that of others, by way of `sends`, unless that is NULL. */
void hm_conn_attach(hm_conn *conn, int fd, const hm_sends *sends);
/* Pulls and sends, until there is no more, the socket is full, or it has had its share (LIMIT). */
int hm_conn_flush(hm_conn *conn);
int hm_conn_error(const hm_conn *conn);
/* Flushes the connections that were woken, in order.  Writes the numbers of those that need
 * Python, at most `capacity`, and returns how many; call again when it returns `capacity`. */
uint32_t hm_conns_flush(hm_conns *conns, uint64_t *numbers, uint32_t capacity);

/* ---- the common round ---- */

/* Rounds of it, until there is a reason to come back.  `fd`: the socket, or what `medium` waits on
 * if that is not NULL: its `receive` never waits here, and ends the run with OTHERS by -HM_EBUSY.
 * `watch_fd` is looked at meanwhile for others than `fd`; -1: it cannot be, so the run is short.
 * `buffer` has HM_CONN_READ bytes.  `spin_ns`: how long to wait for more by polling; `bound_ns`: how
 * long to run at most. */
void hm_conn_serve(hm_conn *conn, int fd, const hm_medium *medium, int watch_fd, uint8_t *buffer,
                   uint64_t spin_ns, uint64_t bound_ns, hm_feed *feed, hm_served *served);
const hm_touched *hm_conn_touched(const hm_conn *conn);
/* cdef-end */

_Static_assert(sizeof(hm_view) == 40, "read in bulk by Python");
_Static_assert(sizeof(hm_served) == 64, "read at once by Python");

#endif
