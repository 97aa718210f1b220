/* hm_ingest.h -- from a connection's bytes to the streams' logs, many batches a call.
 *
 * A router knows the streams and which patterns each claims; stream 0 takes what no other claims.  An ingest
 * is one connection's inbound state: its publishers, and how far into a batch it is.  Batches are taken
 * frame by frame as they arrive: nothing waits for a whole batch, so a connection needs room for one frame only.
 * Each frame is validated (structure, padding, CRC, sequence) before it is appended; what the publisher has
 * sent before (its sequence <= the stream's last of that publisher) is skipped and counted.
 * Control frames are validated and handed out; they are Python's.
 */
#ifndef HM_INGEST_H
#define HM_INGEST_H

#include "hm_stream.h"

/* cdef-begin -- opaque routers and ingests. */
typedef struct hm_router hm_router;
typedef struct hm_ingest hm_ingest;

#define HM_STREAMS_MAX 64          /* streams of a broker: a set of them is one 64-bit word */
#define HM_PUBLISHERS_MAX 1024     /* open publishers of one connection */

hm_router *hm_router_new(void);
void hm_router_free(hm_router *router);
/* Streams get the indexes 0, 1, ... in this order. */
int hm_router_add(hm_router *router, hm_stream *stream);
/* Stream `index` takes the topics of `pattern`.  -HM_EBUSY: it overlaps another stream's claim. */
int hm_router_claim(hm_router *router, uint32_t index, const uint8_t *pattern, uint32_t len);
/* The stream that a topic goes to. */
int hm_router_route(hm_router *router, const uint8_t *name, uint32_t len);

enum { /* why hm_ingest_feed came back */
    HM_FEED_MORE = 0,    /* everything usable was taken; bring more bytes (`needed`: the next frame's size, or 0) */
    HM_FEED_CONTROL = 1, /* a whole control frame stands at `consumed`, `frame_size` bytes, not consumed */
    HM_FEED_ERROR = 2,   /* malformed at `consumed`: `error`; the connection is beyond help */
    HM_FEED_REFUSED = 3, /* a stream refused a message: `error`, `publisher`, `stream`, `sequence`; that publisher's
                            batches are skipped from there on until hm_ingest_open reopens it; feed goes on */
};

typedef struct {
    uint64_t consumed; /* bytes of `data` done with */
    uint64_t needed;   /* bytes from `consumed` on that the next step wants in one piece */
    uint64_t frame_size;
    uint64_t sequence;
    uint64_t messages;   /* appended by this call */
    uint64_t bytes;      /* of their frames */
    uint64_t batches;
    uint64_t duplicates; /* skipped */
    uint64_t streams;    /* bit set of the streams appended to */
    uint32_t publisher;
    uint32_t stream;
    uint32_t touched; /* publishers that made progress: hm_ingest_touched */
    int32_t kind;
    int32_t error;
} hm_feed;

typedef struct {
    uint32_t publisher;
    uint32_t pad;
    uint64_t through; /* all its messages up to here are in their logs (or were before) */
    uint64_t streams; /* bit set of streams its messages went to since it was opened */
} hm_touched;

hm_ingest *hm_ingest_new(hm_router *router, uint32_t message_max);
void hm_ingest_free(hm_ingest *ingest);

/* Opens (or, after a refusal, opens again) publisher `id`.  `*last`: the last sequence any stream has of it.
 * -HM_ELIMIT. */
int hm_ingest_open(hm_ingest *ingest, uint32_t id, const uint8_t *publisher, uint64_t *last);
int hm_ingest_close_publisher(hm_ingest *ingest, uint32_t id);

/* Takes what it can of `data`; see hm_feed.  Call again after each CONTROL (with the frame removed). */
void hm_ingest_feed(hm_ingest *ingest, const uint8_t *data, uint64_t size, uint64_t now_ns, hm_feed *feed);
/* Publishers that made progress since the last call; clears the list. */
uint32_t hm_ingest_touched(hm_ingest *ingest, hm_touched *touched, uint32_t capacity);
/* cdef-end */

#endif
