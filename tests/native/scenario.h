/* scenario.h -- random filters and messages, and the list that deliveries are held against. */
#ifndef SCENARIO_H
#define SCENARIO_H

#include "hm_ingest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KIB          1024u
#define MESSAGES_MAX 400000u
#define BATCH_MAX    12u

static const char *const topics[] = {"a", "a.x", "a.y", "b", "b.x", "b.x.c", "ab", "c.d.e.f"};
static const struct {
    int kind;
    const char *text;
} filters[] = {
    {HM_FILTER_PATTERN, ">"},     {HM_FILTER_PATTERN, "a"},     {HM_FILTER_PATTERN, "a.*"},
    {HM_FILTER_PATTERN, "*.x"},   {HM_FILTER_PATTERN, "*.x.*"}, {HM_FILTER_PATTERN, "b.>"},
    {HM_FILTER_PATTERN, "none"},  {HM_FILTER_PREFIX, "a"},      {HM_FILTER_PREFIX, ""},
    {HM_FILTER_PATTERN, "*.*.>"}, {HM_FILTER_PATTERN, "*"},     {HM_FILTER_PREFIX, "b.x"},
};

#define TOPICS  (sizeof topics / sizeof topics[0])
#define FILTERS (sizeof filters / sizeof filters[0])

static uint64_t state;
static uint8_t topic_of[MESSAGES_MAX + 1]; /* by sequence */
static uint64_t last;                      /* sequence */

static void must(int holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "%s, at sequence %llu\n", what, (unsigned long long)last);
        abort();
    }
}

static uint32_t below(uint32_t bound) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % bound;
}

static int wants(uint32_t filter, const char *topic) {
    size_t len = strlen(filters[filter].text);
    if (filters[filter].kind == HM_FILTER_PREFIX)
        return strncmp(topic, filters[filter].text, len) == 0;
    return hm_pattern_match((const uint8_t *)filters[filter].text, (uint32_t)len,
                            (const uint8_t *)topic, (uint32_t)strlen(topic));
}

static void publish(hm_ingest *ingest) {
    static uint8_t bytes[64 * KIB];
    static const uint8_t payload[2 * KIB];
    uint32_t count = 1 + below(BATCH_MAX);
    uint64_t used = HM_BATCH_HEADER, after = last;
    uint32_t known = last < 200 ? 3 : (uint32_t)TOPICS; /* some topics come late */
    for (uint32_t i = 0; i < count; i++) {
        uint32_t topic = below(known);
        int64_t size = hm_frame_encode(
            bytes + used, sizeof bytes - used, HM_MESSAGE, (const uint8_t *)topics[topic],
            (uint32_t)strlen(topics[topic]), NULL, 0, payload,
            below(8) == 0 ? below(sizeof payload) : below(64), last + 1, 1);
        must(size > 0, "encoding");
        used += (uint64_t)size;
        topic_of[++last] = (uint8_t)topic;
    }
    hm_batch_encode(bytes, 1, 0, after, last, used - HM_BATCH_HEADER, 1);
    uint64_t at = 0;
    while (at < used) { /* in random pieces */
        hm_feed feed;
        uint64_t there = at + 1 + below(4 * KIB);
        hm_ingest_feed(ingest, bytes + at, (there < used ? there : used) - at, 1, &feed);
        must(feed.kind == HM_FEED_MORE, "feeding");
        if (feed.consumed == 0) {
            hm_ingest_feed(ingest, bytes + at, used - at, 1, &feed);
            must(feed.kind == HM_FEED_MORE && feed.consumed == used - at, "feeding the rest");
        }
        at += feed.consumed;
    }
}

/* The size of a frame that stands at `frames`, which must be whole, sound and the next one. */
static uint64_t frame_of(const uint8_t *frames, uint64_t size, uint64_t sequence) {
    hm_slice slice;
    uint64_t needed;
    int64_t frame = hm_frame_check(frames, size, HM_MESSAGE_MAX, &slice, &needed);
    must(frame > 0 && slice.sequence == sequence, "frames in order");
    return (uint64_t)frame;
}

/* Holds the frames of a batch against the list; returns how many there are. */
static uint64_t hold_against(uint32_t filter, uint64_t after, uint64_t through,
                             const uint8_t *frames, uint64_t size) {
    uint64_t at = 0, messages = 0;
    for (uint64_t sequence = after + 1; sequence <= through; sequence++) {
        if (!wants(filter, topics[topic_of[sequence]]))
            continue;
        must(at < size, "a wanted message is missing");
        at += frame_of(frames + at, size - at, sequence);
        messages++;
    }
    must(at == size, "an unwanted message was sent");
    return messages;
}

#endif
