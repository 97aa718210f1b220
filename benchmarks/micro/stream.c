/* stream.c -- what does a message cost between the socket's buffer and a subscriber's batch?
 *
 * Control: `validate and copy`, a loop over hm_frame_check and one memcpy: no topic, log or
 * subscriber. One thread, a log that stays in the L3 cache (how fast
 * memory takes stores is the log's question), reads of 64 KiB, messages of 256 B.  Time is taken
 * around the calls in question only; making the publisher's next bytes is not counted.
 *
 *     stream [--json]
 */
#include "hm_ingest.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS       15
#define ROUND_READS  256   /* reads of a round: 16 MiB */
#define READ         65536 /* bytes */
#define PAYLOAD      256
#define SEGMENT      (4u << 20)
#define RETENTION    (8u << 20)
#define MANY         10000
#define MILLION      1000000
#define OUT          (1u << 18)
#define DELIVER_SIZE (1u << 17)

static uint8_t payload[PAYLOAD];
static uint8_t read_buffer[READ];
static uint8_t copy[READ];
static uint8_t out[OUT];
static int json;
static int rows;

static uint64_t now_ns(void) {
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;

    return (left > right) - (left < right);
}

static void report(const char *operation, double *ns, int rounds, const char *note) {
    qsort(ns, (size_t)rounds, sizeof *ns, by_value);
    double median = ns[rounds / 2];
    if (json)
        printf("%s{\"operation\": \"%s\", \"ns\": %.3f, \"ns_min\": %.3f, \"ns_max\": %.3f, "
               "\"per_s\": %.0f, \"note\": \"%s\"}",
               rows++ > 0 ? ", " : "", operation, median, ns[0], ns[rounds - 1], 1e9 / median,
               note);
    else
        printf("%-44s %8.2f ns  (%.2f..%.2f)  %s\n", operation, median, ns[0], ns[rounds - 1],
               note);
    fflush(stdout);
}

/* ---- one publisher and its broker ---- */

typedef struct {
    hm_log *log;
    hm_stream *stream;
    hm_router *router;
    hm_ingest *ingest;
    uint64_t sequence; /* the publisher's last */
    uint32_t topics;   /* its messages go round robin over so many */
    uint32_t topic;
} side;

static void side_open(side *s, uint32_t topics, int claims) {
    hm_log_options options = {.segment_bytes = SEGMENT,
                              .retention_bytes = RETENTION,
                              .message_max = HM_MESSAGE_MAX,
                              .spares = 1};
    uint64_t last;
    *s = (side){.topics = topics};
    int error = hm_log_open_memory(&options, &s->log);
    assert(error == 0);
    error = hm_stream_open(s->log, 0, 2 * MILLION, 1, &s->stream);
    assert(error == 0);
    s->router = hm_router_new();
    hm_router_add(s->router, s->stream);
    if (claims) /* as with several streams: topics are found through the router's cache */
        hm_router_claim(s->router, 0, (const uint8_t *)"other.>", 7);
    s->ingest = hm_ingest_new(s->router, HM_MESSAGE_MAX);
    error = hm_ingest_open(s->ingest, 1, (const uint8_t *)"benchmark's id..", &last);
    assert(error == 0 && last == 0);
}

static void side_close(side *s) {
    hm_ingest_free(s->ingest);
    hm_router_free(s->router);
    hm_stream_close(s->stream);
    hm_log_close(s->log);
}

static uint64_t put_message(side *s, uint8_t *at, uint64_t room) {
    char topic[32];
    int len = s->topics == 1 ? snprintf(topic, sizeof topic, "md.xnas.AAPL")
                             : snprintf(topic, sizeof topic, "md.xnas.%06u", s->topic);
    int64_t size = hm_frame_encode(at, room, HM_MESSAGE, (const uint8_t *)topic, (uint32_t)len,
                                   NULL, 0, payload, PAYLOAD, s->sequence + 1, 1);
    if (size < 0)
        return 0;
    s->sequence++;
    s->topic = (s->topic + 1) % s->topics;
    return (uint64_t)size;
}

/* The publisher's next read: one batch, or as many of one message as fit.  Returns its size. */
static uint64_t next_read(side *s, int one_message, uint32_t *messages) {
    uint64_t used = 0, first = s->sequence;
    while (READ - used > HM_BATCH_HEADER) {
        uint64_t begun = used, after = s->sequence, size;
        used += HM_BATCH_HEADER;
        while ((size = put_message(s, read_buffer + used, READ - used)) > 0) {
            used += size;
            if (one_message)
                break;
        }
        if (used == begun + HM_BATCH_HEADER) {
            used = begun;
            break;
        }
        hm_batch_encode(read_buffer + begun, 1, 0, after, s->sequence,
                        used - begun - HM_BATCH_HEADER, 1);
        if (!one_message)
            break;
    }
    *messages = (uint32_t)(s->sequence - first);
    return used;
}

static void feed(side *s, uint64_t size, uint32_t messages) {
    hm_feed taken;
    hm_ingest_feed(s->ingest, read_buffer, size, 1, &taken);
    assert(taken.kind == HM_FEED_MORE && taken.consumed == size && taken.messages == messages);
}

/* ---- the questions ---- */

static void control(void) {
    double ns[ROUNDS];
    side s = {.topics = 1};
    uint32_t messages;
    uint64_t size = next_read(&s, 0, &messages);
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t begun = now_ns();
        for (int i = 0; i < ROUND_READS; i++) {
            for (uint64_t at = HM_BATCH_HEADER; at < size;) {
                hm_slice slice;
                uint64_t needed;
                at += (uint64_t)hm_frame_check(read_buffer + at, size - at, HM_MESSAGE_MAX, &slice,
                                               &needed);
            }
            memcpy(copy, read_buffer, size);
        }
        ns[round] = (double)(now_ns() - begun) / ROUND_READS / messages;
    }
    report("validate and copy 256 B", ns, ROUNDS, "control");
}

static void ingest(const char *operation, uint32_t topics, int one_message, int claims,
                   const char *note) {
    double ns[ROUNDS];
    side s;
    side_open(&s, topics, claims);
    for (int round = -2 * (int)(RETENTION / READ / ROUND_READS); round < ROUNDS; round++) {
        uint64_t spent = 0, taken = 0;
        for (int i = 0; i < ROUND_READS; i++) {
            uint32_t messages;
            uint64_t size = next_read(&s, one_message, &messages), begun = now_ns();
            feed(&s, size, messages);
            spent += now_ns() - begun;
            taken += messages;
        }
        if (round >= 0) /* before: until the log's memory is used again */
            ns[round] = (double)spent / (double)taken;
    }
    report(operation, ns, ROUNDS, note);
    side_close(&s);
}

static uint64_t pull(side *s, hm_cursor *cursor) {
    hm_delivery delivery;
    uint64_t messages = 0;
    do {
        int error = hm_cursor_next(cursor, out, sizeof out, DELIVER_SIZE, 0, 1, &delivery);
        assert(error == 0);
        messages += delivery.messages;
    } while (delivery.kind != HM_DELIVER_NOTHING);
    (void)s;
    return messages;
}

/* 10,000 topics, followed by one who wants all and one who wants ten of them. */
static void followed(void) {
    double in[ROUNDS], all[ROUNDS], ten[ROUNDS];
    side s;
    hm_cursor *everything, *selected;
    side_open(&s, MANY, 0);
    int error = hm_cursor_open(s.stream, HM_FILTER_PATTERN, (const uint8_t *)">", 1, 1,
                               HM_START_LATEST, 0, &everything);
    assert(error == 0);
    error = hm_cursor_open(s.stream, HM_FILTER_PREFIX, (const uint8_t *)"md.xnas.00500", 13, 2,
                           HM_START_LATEST, 0, &selected);
    assert(error == 0);
    for (int round = -2 * (int)(RETENTION / READ / ROUND_READS); round < ROUNDS; round++) {
        uint64_t spent[3] = {0}, count[3] = {0};
        for (int i = 0; i < ROUND_READS; i++) {
            uint32_t messages;
            uint64_t size = next_read(&s, 0, &messages), t0 = now_ns();
            feed(&s, size, messages);
            uint64_t t1 = now_ns();
            count[1] += pull(&s, everything);
            uint64_t t2 = now_ns();
            count[2] += pull(&s, selected);
            uint64_t t3 = now_ns();
            count[0] += messages;
            spent[0] += t1 - t0;
            spent[1] += t2 - t1;
            spent[2] += t3 - t2;
        }
        assert(count[1] == count[0]);
        if (round >= 0) {
            in[round] = (double)spent[0] / (double)count[0];
            all[round] = (double)spent[1] / (double)count[1];
            ten[round] = (double)spent[2] / ROUND_READS;
        }
    }
    report("ingest, 10,000 topics, > and 10 followed", in, ROUNDS, "");
    report("  deliver to >, a message", all, ROUNDS, "ranges of log memory");
    report("  deliver to 10 topics, a read", ten, ROUNDS, "0 to 10 messages of 215, copied");
    hm_cursor_close(everything);
    hm_cursor_close(selected);
    side_close(&s);
}

/* Half of the messages of every read, alternately: one note each, copied one by one. */
static void half_selected(void) {
    double ns[ROUNDS];
    side s;
    hm_cursor *cursor;
    side_open(&s, 2, 0);
    int error = hm_cursor_open(s.stream, HM_FILTER_PATTERN, (const uint8_t *)"*.*.000001", 10, 2,
                               HM_START_LATEST, 0, &cursor);
    assert(error == 0);
    for (int round = -2; round < ROUNDS; round++) {
        uint64_t spent = 0, got = 0;
        for (int i = 0; i < ROUND_READS; i++) {
            uint32_t messages;
            uint64_t size = next_read(&s, 0, &messages);
            feed(&s, size, messages);
            uint64_t begun = now_ns();
            got += pull(&s, cursor);
            spent += now_ns() - begun;
        }
        if (round >= 0)
            ns[round] = (double)spent / (double)got;
    }
    report("deliver every second message, selected", ns, ROUNDS, "256 B, copied by note");
    hm_cursor_close(cursor);
    side_close(&s);
}

/* Names as a frame has them: zero-padded. */
static uint8_t (*padded_names(uint32_t count, uint32_t *len))[24] {
    uint8_t (*names)[24] = calloc(count, sizeof *names);
    assert(names != NULL);
    for (uint32_t i = 0; i < count; i++)
        *len = (uint32_t)snprintf((char *)names[i], sizeof *names, "md.xnas.%07u", i);
    return names;
}

static void look_up(uint32_t count, const char *added, const char *operation) {
    double ns[ROUNDS], once[1];
    char note[64];
    uint32_t len = 0;
    uint8_t (*names)[24] = padded_names(count, &len);
    hm_topics *topics = hm_topics_new();
    uint64_t begun = now_ns();
    for (uint32_t i = 0; i < count; i++)
        hm_topics_add_hashed(topics, names[i], len, hm_topic_hash(names[i], len));
    once[0] = (double)(now_ns() - begun) / count;
    snprintf(note, sizeof note, "%.0f bytes each (target: under 200)",
             (double)hm_topics_bytes(topics) / count);
    report(added, once, 1, count == MILLION ? note : "");
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t at = 0;
        begun = now_ns();
        for (uint32_t i = 0; i < count; i++) {
            at = (at + 7919) % count; /* not in the order of addition */
            int64_t found =
                hm_topics_find_hashed(topics, names[at], len, hm_topic_hash(names[at], len));
            assert(found == at);
        }
        ns[round] = (double)(now_ns() - begun) / count;
    }
    report(operation, ns, ROUNDS, "hash, probe and compare, in scattered order");
    hm_topics_free(topics);
    free(names);
}

int main(int argc, char **argv) {
    json = argc > 1 && strcmp(argv[1], "--json") == 0;
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)(i * 31 + i / 7);
    if (json)
        printf("{\"name\": \"stream\", \"rows\": [");
    control();
    ingest("ingest, 64 KiB batches", 1, 0, 0, "check, look up, copy, stamp, account");
    ingest("ingest, one-message batches", 1, 1, 0, "target: at most 100 ns");
    ingest("ingest, 10,000 topics", MANY, 0, 0, "");
    ingest("ingest, 10,000 topics, claims", MANY, 0, 1, "through the router's cache");
    followed();
    half_selected();
    look_up(1000, "add 1,000 topics", "look up 1 of 1,000 topics");
    look_up(MILLION, "add 1,000,000 topics", "look up 1 of 1,000,000 topics");
    if (json)
        printf("]}\n");
    return 0;
}
