/* hu_select.h -- a subscriber's choice out of a group's stream: batches in, batches out.
 *
 * The group's stream is what one client of the broker was sent: BATCH, Stream and Gap frames.  Each
 * subscription that is served from it has a row: its filter, and for every stream of the broker
 * that it may meet a route, which says under which index its client knows the stream and how far it
 * was served:
 *
 *     told <= seen       both only grow; a message with a sequence up to `seen` is never given
 * again
 *
 * `told` is what the client's last batch covered, `seen` how far was looked without finding
 * anything; a mark brings `told` up from time to time.  What the walk writes continues the client's
 * coverage without a seam: after = told.  Where the group's stream leaves something out, and where
 * it says so itself, the walk stops with HU_SELECT_HOLE, and the caller tells the client.
 *
 * The input is consumed by whole frames, never by whole batches: it may stand in two pieces, and a
 * batch may be larger than what is there.  What is foreign is checked as far as the walk relies on
 * it; each frame's own checksum is left to the client.
 *
 * Sans-IO, no state but its own.  One thread at a time.
 */
#ifndef HU_SELECT_H
#define HU_SELECT_H

#include "hu_receiver.h"

/* cdef-begin -- an opaque selector and what stops its walk. */
typedef struct hu_select hu_select;

#define HU_SELECT_ROWS    64      /* subscriptions served from one group; others stay on unicast */
#define HU_SELECT_STREAMS 64      /* streams: as many as a broker has */
#define HU_SELECT_CHUNK   65536   /* bytes looked at for one row before it is the next one's turn */
#define HU_SELECT_CONTROL 4096    /* bytes of a control frame; Stream and Gap have some hundred */
#define HU_MARK_BYTES     1048576 /* looked at without a word to the client, at most */
#define HU_MARK_SEQUENCES 65536   /* likewise */

enum {
    HU_SELECT_MORE = 0,       /* all input is used up, but for a frame that has not come wholly */
    HU_SELECT_FULL = 1,       /* the output has no room */
    HU_SELECT_CONTROL_AT = 2, /* a control frame of `size` bytes stands at hu_select_control */
    HU_SELECT_HOLE = 3,       /* the client must be told that `first` to `last` do not come */
    HU_SELECT_MALFORMED = 4,  /* the stream is none: no way on but hu_select_resync */
};

typedef struct {
    uint32_t what;   /* HU_SELECT_MORE and so on */
    uint32_t id;     /* of a hole: the subscription, */
    uint32_t stream; /* and the stream as its client knows it */
    uint32_t size;
    uint64_t first;
    uint64_t last;
} hu_select_event;

/* NULL: no memory. */
hu_select *hu_select_new(void);
void hu_select_free(hu_select *select);
/* Stream `index` of the group stands at `through`, UINT64_MAX: that is not known before a batch of
 * it has come.  0, or -HM_EFULL. */
int hu_select_stream(hu_select *select, uint32_t index, uint64_t through);
/* How far the walk has come in a stream; UINT64_MAX: that is not known, or there is none. */
uint64_t hu_select_through(const hu_select *select, uint32_t index);
/* A stream's messages up to `last` do not come: whoever has not got past them is told so before
 * anything else of the stream. */
void hu_select_gap(hu_select *select, uint32_t index, uint64_t last);
/* A row for a subscription, whose filter is a legal pattern or, with `prefix`, any bytes: its
 * number, or -HM_EFULL.  Only at a border, as all that adds to a row. */
int hu_select_add(hu_select *select, uint32_t id, int prefix, const uint8_t *filter, uint32_t size);
/* The row is served from stream `index`, which its client knows as `out`, behind `through`. */
int hu_select_route(hu_select *select, uint32_t row, uint32_t index, uint32_t out,
                    uint64_t through);
/* Ends a row; not while the walk stands inside a batch that it writes. */
void hu_select_remove(hu_select *select, uint32_t row);
/* Whether the walk stands where `through` holds for all streams. */
int hu_select_border(const hu_select *select);
/* Whether a batch has been begun in the output and not been finished. */
int hu_select_pending(const hu_select *select);
/* What comes next stands behind bytes that were given up, and begins with an envelope.  How far the
 * walk has come in the streams is not known. */
void hu_select_resync(hu_select *select);
/* Walks on: writes to `out`, and says how much of the input is not needed any more; it must stand
 * at the next walk's beginning otherwise.  Returns the bytes written. */
uint64_t hu_select_walk(hu_select *select, const hu_bytes *input, uint8_t *out, uint64_t capacity,
                        uint64_t *consumed, hu_select_event *event);
/* The last control frame. */
const uint8_t *hu_select_control(const hu_select *select);
/* cdef-end */

#endif
