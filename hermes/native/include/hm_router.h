/* hm_router.h -- which stream takes a message, and the way there.
 *
 * A router knows the streams and which patterns each claims; stream 0 takes what no other claims.
 * Where there are claims, a topic's stream and index are remembered in a direct-mapped cache, so
 * that both are found with one hash and one comparison.  It also keeps, for every publisher that
 * some connection has open, the last sequence that each stream has of it: two connections of one
 * publisher (the second began before the first was found dead) never append a message twice.
 *
 * One thread owns a router, its streams and its ingests.
 */
#ifndef HM_ROUTER_H
#define HM_ROUTER_H

#include "hm_stream.h"

/* cdef-begin -- an opaque router. */
typedef struct hm_router hm_router;

#define HM_STREAMS_MAX  64    /* streams of a broker: a set of them is one 64-bit word */
#define HM_ROUTER_CACHE 65536 /* topics whose stream is remembered */
#define HM_RUN_SPANS    1024  /* changes of topic within one append */
#define HM_GATHER_MAX   16384 /* bytes of scattered small messages put together for one append */
#define HM_GATHER_BEGIN 1024  /* bytes: a run longer than this is appended where it stands */

/* Why hm_ingest_feed came back.
 * MORE: everything usable was taken; bring more bytes (`needed`: the next frame's size, or 0).
 * CONTROL: a whole control frame stands at `consumed`, `frame_size` bytes, not consumed.
 * ERROR: malformed at `consumed`: `error`; the connection is beyond help.
 * REFUSED: a stream refused a message: `error`, `publisher`, `stream`, `sequence`; that publisher's
 * batches are skipped from there on until hm_ingest_open reopens it; feed goes on. */
enum {
    HM_FEED_MORE = 0,
    HM_FEED_CONTROL = 1,
    HM_FEED_ERROR = 2,
    HM_FEED_REFUSED = 3,
};

typedef struct {
    uint64_t consumed; /* bytes of `data` done with */
    uint64_t needed;   /* bytes from `consumed` on that the next step wants in one piece */
    uint64_t frame_size;
    uint64_t sequence;
    uint64_t messages; /* appended by this call */
    uint64_t bytes;    /* of their frames */
    uint64_t batches;
    uint64_t duplicates; /* skipped */
    uint64_t streams;    /* bit set of the streams appended to */
    uint32_t publisher;
    uint32_t stream;
    uint32_t touched; /* publishers that made progress: hm_ingest_touched */
    int32_t kind;
    int32_t error;
} hm_feed;

/* NULL: no memory. */
hm_router *hm_router_new(void);
/* After the last ingest; the streams are the caller's. */
void hm_router_free(hm_router *router);
/* The broker's clock is CLOCK_BOOTTIME plus `offset_ns`; at first it agrees with CLOCK_REALTIME. */
void hm_router_set_clock(hm_router *router, int64_t offset_ns);
uint64_t hm_router_now(const hm_router *router);
/* Streams get the indexes 0, 1, ... in this order; the index is returned.  -HM_ELIMIT. */
int hm_router_add(hm_router *router, hm_stream *stream);
/* Stream `index` takes the topics of `pattern`.  -HM_EBUSY: it overlaps another stream's claim. */
int hm_router_claim(hm_router *router, uint32_t index, const uint8_t *pattern, uint32_t len);
/* The index of the stream that a topic goes to; -HM_ETOPIC; -HM_EUNKNOWN: there is no stream. */
int hm_router_route(hm_router *router, const uint8_t *name, uint32_t len);
/* cdef-end */

#endif
