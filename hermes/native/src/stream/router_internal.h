/* router_internal.h -- what the router and the ingest share: routes, known publishers, runs. */
#ifndef HM_ROUTER_PARTS_H
#define HM_ROUTER_PARTS_H

#include "hm_router.h"

/* A publisher that some connection has open. */
typedef struct hm_known {
    struct hm_known *next; /* in its bucket */
    uint8_t publisher[16];
    uint32_t users;
    uint64_t last[HM_STREAMS_MAX]; /* the last sequence each stream has of it */
} hm_known;

/* Where a topic's messages go.  On a failure only `stream` means something. */
typedef struct {
    uint32_t stream;
    uint32_t topic;
    uint32_t len;
    const uint8_t *name; /* zero-padded, in the stream's table; NULL: no route yet */
} hm_route;

/* Consecutive messages of one publisher to one stream: the next append.  Empty between calls. */
typedef struct {
    const uint8_t *frames; /* where they stand, or `gather` */
    uint64_t size;
    uint64_t first_sequence; /* the publisher's */
    hm_known *known;         /* NULL: nobody in particular, no duplicate filter */
    void *owner;             /* who is told when it is refused */
    uint32_t count;
    uint32_t stream;
    uint32_t span_count;
    int gathered;
    hm_span spans[HM_RUN_SPANS];
    _Alignas(HM_FRAME_ALIGN) uint8_t gather[HM_GATHER_MAX];
} hm_run;

typedef struct {
    uint32_t tag;
    uint32_t topic;
    uint32_t stream; /* + 1; 0: empty */
} hm_cached;

typedef struct {
    uint32_t stream;
    uint32_t len;
    uint8_t pattern[HM_TOPIC_MAX];
} hm_claim;

struct hm_router {
    hm_stream *streams[HM_STREAMS_MAX];
    uint32_t count;
    uint32_t claim_count;
    uint32_t claim_room;
    hm_claim *claims;
    hm_cached *cache; /* NULL: no claims, no need */
    hm_known **buckets;
    uint32_t bucket_mask;
    uint32_t known_count;
    hm_route previous; /* of the message before */
    hm_run run;
    int64_t clock_offset_ns; /* the broker's clock minus CLOCK_BOOTTIME */
};

/* The route of a zero-padded name, its topic added if need be.  -HM_ETOPIC, -HM_ELIMIT,
 * -HM_EUNKNOWN. */
int hm_router_find(hm_router *router, const uint8_t *padded, uint32_t len, hm_route *route);
/* One more user of a publisher's state; NULL: no memory. */
hm_known *hm_known_open(hm_router *router, const uint8_t *publisher);
void hm_known_close(hm_router *router, hm_known *known);

/* Appends the run.  Returns 0, or the -HM_E* of a refusal; `*appended` messages of it are in the
 * log then. */
int hm_run_flush(hm_router *router, uint64_t now_ns, hm_feed *feed, uint32_t *appended);
/* Adds a frame to the run, which is of its publisher and stream.  0: it does not fit, flush first.
 */
int hm_run_add(hm_run *run, const uint8_t *frame, uint64_t size, uint64_t sequence,
               const hm_route *route);

/* Whether the stream has this message of the publisher: it is sent again. */
static inline int hm_known_has(const hm_router *router, const hm_known *known, uint32_t stream,
                               uint64_t sequence) {
    return known != NULL && sequence <= known->last[stream] &&
           !hm_log_misses(hm_stream_log(router->streams[stream]), known->publisher, sequence);
}

/* 1 if the run is empty, or goes on with this message. */
static inline int hm_run_continues(const hm_run *run, const hm_known *known, const void *owner,
                                   uint32_t stream, uint64_t sequence) {
    return run->count == 0 ||
           (run->known == known && run->owner == owner && run->stream == stream &&
            run->first_sequence + run->count == sequence);
}

/* The route of a validated MESSAGE frame. */
static inline int hm_router_frame(hm_router *router, const uint8_t *frame) {
    hm_route *previous = &router->previous;
    uint32_t len = frame[6];
    const uint8_t *name = frame + HM_FRAME_HEADER;
    if (previous->name != NULL && previous->len == len && hm_topic_equal(previous->name, name, len))
        return 0;
    return hm_router_find(router, name, len, previous);
}

#endif
