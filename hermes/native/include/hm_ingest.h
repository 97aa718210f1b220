/* hm_ingest.h -- from a connection's bytes to the streams' logs, many batches a call.
 *
 * An ingest is one connection's inbound state: its publishers, and how far into a batch it is.
 * Batches are taken frame by frame as they arrive: nothing waits for a whole batch, so a connection
 * needs room for one frame only. Each frame is validated (structure, padding, CRC, sequence) before
 * it is appended; what the publisher has sent before (its sequence <= the stream's last of that
 * publisher) is skipped and counted. Control frames are validated and returned; Python handles
 * them.
 *
 * What makes a batch malformed, for good (HM_FEED_ERROR):
 *     -HM_EUNKNOWN    the publisher is not open, or the stream index is not 0
 *     -HM_ESEQUENCE   through < after; frames that are not after + 1 .. through
 *     -HM_ESEQUENCE   a hole: it begins behind the end of the publisher's batch before
 *                     (the first batch after an open may begin anywhere)
 *     -HM_ELENGTH     over message_max + HM_BATCH_SLACK, or an inner frame crosses its end
 *     -HM_ETYPE       anything but a MESSAGE inside, or a MESSAGE outside
 *     and whatever hm_frame_check finds; a control frame is bounded by HM_CONTROL_MAX
 *
 * Consecutive messages of one publisher to one stream are one append, across batches: a read that
 * holds thousands of one-message batches costs one append per HM_GATHER_MAX bytes.
 */
#ifndef HM_INGEST_H
#define HM_INGEST_H

#include "hm_envelope.h"
#include "hm_grant.h"
#include "hm_router.h"

/* cdef-begin -- an opaque ingest. */
typedef struct hm_ingest hm_ingest;

#define HM_PUBLISHERS_MAX 1024 /* open publishers of one connection */

typedef struct {
    uint32_t publisher;
    uint32_t pad;
    uint64_t through; /* its messages up to here, as far as this connection brought them, are in
                         their logs */
    uint64_t streams; /* bit set of streams that had messages of it when it was opened, or got some
                         since */
} hm_touched;

/* `router`: borrowed.  `message_max`: bytes of payload.  NULL: no memory. */
hm_ingest *hm_ingest_new(hm_router *router, uint32_t message_max);
void hm_ingest_free(hm_ingest *ingest);

/* Opens (or, after a refusal, opens again) publisher `id`; `publisher`: its 16 bytes.  `*last`: the
 * last sequence that any stream has of it.  -HM_ELIMIT. */
int hm_ingest_open(hm_ingest *ingest, uint32_t id, const uint8_t *publisher, uint64_t *last);
/* After hm_ingest_open: what the logs have of the publisher `older` (16 bytes) counts as this one's
 * too; nothing is ever appended under `older` by this call.  `*last` as for hm_ingest_open.
 * -HM_EUNKNOWN: `id` is not open; -HM_ENOMEM. */
int hm_ingest_inherit(hm_ingest *ingest, uint32_t id, const uint8_t *older, uint64_t *last);
/* -HM_EUNKNOWN: it is not open.  What it touched is forgotten: collect it before. */
int hm_ingest_close_publisher(hm_ingest *ingest, uint32_t id);
/* Skips what comes of publisher `id` until it is opened again, as after a refusal.  -HM_EUNKNOWN.
 */
int hm_ingest_refuse(hm_ingest *ingest, uint32_t id);

/* From now on only what hm_ingest_allow names may be published: a message of another topic is
 * refused with -HM_EDENIED, before its topic is added anywhere.  Without this call, everything may.
 * -HM_ENOMEM. */
int hm_ingest_restrict(hm_ingest *ingest);
/* After hm_ingest_restrict.  -HM_ETOPIC; -HM_ELIMIT: HM_GRANT_PATTERNS are there; -HM_ENOMEM. */
int hm_ingest_allow(hm_ingest *ingest, const uint8_t *pattern, uint32_t len);

/* Takes what it can of `data`; see hm_feed.  Call again after each CONTROL (with the frame
 * removed). */
void hm_ingest_feed(hm_ingest *ingest, const uint8_t *data, uint64_t size, uint64_t now_ns,
                    hm_feed *feed);
/* Publishers that made progress since the last call; clears the list. */
uint32_t hm_ingest_touched(hm_ingest *ingest, hm_touched *touched, uint32_t capacity);
/* cdef-end */

/* The broker's clock; see hm_router_set_clock. */
uint64_t hm_ingest_now(const hm_ingest *ingest);
/* The stream with this index. */
hm_stream *hm_ingest_stream(const hm_ingest *ingest, uint32_t index);

#endif
