/* hm_router.c -- finds the stream of a topic, and gathers runs of messages for one append. */
#include "router_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../base/hm_platform.h"

#define BUCKETS_MIN 64u
#define CLAIMS_MAX  65536u /* patterns of all streams: each new topic is held against them */

_Static_assert((HM_ROUTER_CACHE & (HM_ROUTER_CACHE - 1)) == 0, "indexed with a mask");

static int64_t wall_clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

uint64_t hm_router_now(const hm_router *router) {
    return (uint64_t)(hm_platform_boot_ns() + router->clock_offset_ns);
}

void hm_router_set_clock(hm_router *router, int64_t offset_ns) {
    router->clock_offset_ns = offset_ns;
}

hm_router *hm_router_new(void) {
    hm_router *router = calloc(1, sizeof *router);
    if (router == NULL)
        return NULL;
    router->clock_offset_ns = wall_clock_ns() - hm_platform_boot_ns();
    router->bucket_mask = BUCKETS_MIN - 1;
    router->buckets = calloc(BUCKETS_MIN, sizeof(hm_known *));
    if (router->buckets == NULL) {
        free(router);
        return NULL;
    }
    return router;
}

void hm_router_free(hm_router *router) {
    if (router == NULL)
        return;
    assert(router->known_count == 0);
    free(router->claims);
    free(router->cache);
    free(router->buckets);
    free(router);
}

/* ---- streams and claims ---- */

int hm_router_add(hm_router *router, hm_stream *stream) {
    assert(stream != NULL);
    if (router->count == HM_STREAMS_MAX)
        return -HM_ELIMIT;
    uint32_t index = router->count++;
    router->streams[index] = stream;
    for (uint32_t i = 0; i <= router->bucket_mask; i++)
        for (hm_known *known = router->buckets[i]; known != NULL; known = known->next)
            known->last[index] = hm_log_publisher(hm_stream_log(stream), known->publisher);
    return (int)index;
}

int hm_router_claim(hm_router *router, uint32_t index, const uint8_t *pattern, uint32_t len) {
    if (index >= router->count)
        return -HM_EINVAL;
    if (hm_pattern_check(pattern, len) != 0)
        return -HM_ETOPIC;
    for (uint32_t i = 0; i < router->claim_count; i++) {
        const hm_claim *other = &router->claims[i];
        if (other->stream != index && hm_pattern_overlap(other->pattern, other->len, pattern, len))
            return -HM_EBUSY;
    }
    if (router->claim_count == CLAIMS_MAX)
        return -HM_ELIMIT;
    if (router->claim_count == router->claim_room) {
        uint32_t room = router->claim_room == 0 ? 8 : router->claim_room * 2;
        hm_claim *claims = realloc(router->claims, room * sizeof *claims);
        if (claims == NULL)
            return -HM_ENOMEM;
        router->claims = claims;
        router->claim_room = room;
    }
    if (router->cache == NULL &&
        (router->cache = malloc(HM_ROUTER_CACHE * sizeof(hm_cached))) == NULL)
        return -HM_ENOMEM;
    memset(router->cache, 0, HM_ROUTER_CACHE * sizeof(hm_cached));
    router->previous.name = NULL;
    hm_claim *claim = &router->claims[router->claim_count++];
    claim->stream = index;
    claim->len = len;
    memcpy(claim->pattern, pattern, len);
    return 0;
}

static uint32_t claimed_by(const hm_router *router, const uint8_t *name, uint32_t len) {
    for (uint32_t i = 0; i < router->claim_count; i++) {
        const hm_claim *claim = &router->claims[i];
        if (hm_pattern_match(claim->pattern, claim->len, name, len))
            return claim->stream;
    }
    return 0;
}

int hm_router_route(hm_router *router, const uint8_t *name, uint32_t len) {
    if (hm_topic_check(name, len) != 0)
        return -HM_ETOPIC;
    return router->count == 0 ? -HM_EUNKNOWN : (int)claimed_by(router, name, len);
}

static int enter(const hm_router *router, uint32_t stream, const uint8_t *padded, uint32_t len,
                 uint64_t hash, hm_route *route) {
    route->name = NULL;
    route->stream = stream;
    int64_t topic = hm_stream_topic(router->streams[stream], padded, len, hash);
    if (topic < 0)
        return (int)topic;
    route->topic = (uint32_t)topic;
    route->name =
        hm_topics_name(hm_stream_table(router->streams[stream]), route->topic, &route->len);
    return 0;
}

int hm_router_find(hm_router *router, const uint8_t *padded, uint32_t len, hm_route *route) {
    route->name = NULL;
    route->stream = 0;
    if (len == 0 || router->count == 0)
        return len == 0 ? -HM_ETOPIC : -HM_EUNKNOWN;
    uint64_t hash = hm_topic_hash(padded, len);
    if (router->cache == NULL)
        return enter(router, 0, padded, len, hash, route);
    hm_cached *cached = &router->cache[hash & (HM_ROUTER_CACHE - 1)];
    uint32_t tag = (uint32_t)(hash >> 32);
    if (cached->stream != 0 && cached->tag == tag) {
        route->stream = cached->stream - 1;
        route->topic = cached->topic;
        route->name = hm_topics_name(hm_stream_table(router->streams[route->stream]), route->topic,
                                     &route->len);
        if (route->len == len && hm_topic_equal(route->name, padded, len))
            return 0;
    }
    int error = enter(router, claimed_by(router, padded, len), padded, len, hash, route);
    if (error == 0)
        *cached = (hm_cached){tag, route->topic, route->stream + 1};
    return error;
}

/* ---- known publishers ---- */

static uint32_t bucket_of(const hm_router *router, const uint8_t *publisher) {
    _Alignas(8) uint8_t copy[16];
    memcpy(copy, publisher, sizeof copy);
    return (uint32_t)(hm_topic_hash(copy, sizeof copy) >> 32) & router->bucket_mask;
}

static hm_known *known_find(const hm_router *router, const uint8_t *publisher) {
    hm_known *known = router->buckets[bucket_of(router, publisher)];
    while (known != NULL && memcmp(known->publisher, publisher, sizeof known->publisher) != 0)
        known = known->next;
    return known;
}

static void buckets_grow(hm_router *router) {
    uint32_t old = router->bucket_mask + 1;
    hm_known **before = router->buckets, **buckets = calloc((size_t)old * 2, sizeof *buckets);
    if (buckets == NULL)
        return; /* longer chains, nothing worse */
    router->buckets = buckets;
    router->bucket_mask = old * 2 - 1;
    for (uint32_t i = 0; i < old; i++) {
        for (hm_known *known = before[i], *next; known != NULL; known = next) {
            next = known->next;
            uint32_t at = bucket_of(router, known->publisher);
            known->next = buckets[at];
            buckets[at] = known;
        }
    }
    free(before);
}

hm_known *hm_known_open(hm_router *router, const uint8_t *publisher) {
    hm_known *known = known_find(router, publisher);
    if (known != NULL) {
        known->users++;
        return known;
    }
    known = calloc(1, sizeof *known);
    if (known == NULL)
        return NULL;
    known->users = 1;
    memcpy(known->publisher, publisher, sizeof known->publisher);
    for (uint32_t i = 0; i < router->count; i++)
        known->last[i] = hm_log_publisher(hm_stream_log(router->streams[i]), publisher);
    if (router->known_count++ > router->bucket_mask)
        buckets_grow(router);
    uint32_t at = bucket_of(router, publisher);
    known->next = router->buckets[at];
    router->buckets[at] = known;
    return known;
}

void hm_known_close(hm_router *router, hm_known *known) {
    if (known == NULL || --known->users > 0)
        return;
    hm_known **link = &router->buckets[bucket_of(router, known->publisher)];
    while (*link != known)
        link = &(*link)->next;
    *link = known->next;
    router->known_count--;
    free(known);
}

/* ---- runs ---- */

int hm_run_flush(hm_router *router, uint64_t now_ns, hm_feed *feed, uint32_t *appended) {
    hm_run *run = &router->run;
    hm_origin origin = {.first_sequence = run->first_sequence};
    if (run->known != NULL)
        memcpy(origin.publisher, run->known->publisher, sizeof origin.publisher);
    int error = hm_stream_commit(router->streams[run->stream], run->frames, run->size, run->count,
                                 run->spans, run->span_count, run->known != NULL ? &origin : NULL,
                                 now_ns, appended);
    if (*appended > 0) {
        feed->messages += *appended;
        feed->streams |= (uint64_t)1 << run->stream;
        if (*appended == run->count) {
            feed->bytes += run->size;
        } else {
            const uint8_t *frame = run->frames;
            for (uint32_t i = 0; i < *appended; i++)
                frame += hm_frame_skip(frame);
            feed->bytes += (uint64_t)(frame - run->frames);
        }
        if (run->known != NULL) {
            uint64_t *last = &run->known->last[run->stream];
            uint64_t appended_last = run->first_sequence + *appended - 1;
            *last = appended_last > *last ? appended_last : *last;
        }
    }
    run->count = run->span_count = 0;
    run->size = 0;
    run->gathered = 0;
    return error;
}

/* Makes `frame` the end of the run's bytes.  0: it can't be. */
static int extend(hm_run *run, const uint8_t *frame, uint64_t size) {
    if (run->frames + run->size == frame && !run->gathered)
        return run->size + size <= HM_APPEND_MAX;
    if (run->size + size > HM_GATHER_MAX || (!run->gathered && run->size > HM_GATHER_BEGIN))
        return 0;
    if (!run->gathered) {
        memcpy(run->gather, run->frames, run->size);
        run->frames = run->gather;
        run->gathered = 1;
    }
    memcpy(run->gather + run->size, frame, size);
    return 1;
}

int hm_run_add(hm_run *run, const uint8_t *frame, uint64_t size, uint64_t sequence,
               const hm_route *route) {
    hm_span *last = run->count > 0 ? &run->spans[run->span_count - 1] : NULL;
    int same = last != NULL && last->topic == route->topic;
    if (last == NULL) {
        run->frames = frame;
        run->first_sequence = sequence;
        run->stream = route->stream;
    } else {
        assert(run->stream == route->stream && run->first_sequence + run->count == sequence);
        if ((!same && run->span_count == HM_RUN_SPANS) || !extend(run, frame, size))
            return 0;
    }
    if (same) {
        last->count++;
        last->bytes += size;
        last->last = size;
    } else {
        run->spans[run->span_count++] = (hm_span){route->topic, 1, size, size};
    }
    run->size += size;
    run->count++;
    return 1;
}
