/* frames.c -- what does it cost to checksum, encode, validate and read a frame?
 *
 * Control: `empty`, the same loop around a call that does nothing.  One thread; all memory in the
 * nearest caches, and messages of one topic: the work itself, not the waiting for memory.
 *
 *     frames [--json]
 */
#include "hm_frame.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS   15       /* medians of this many */
#define ROUND_NS 10000000 /* about what one round of one operation takes */
#define MESSAGES 64       /* of one batch: 64 x 312 bytes stay in the L1 cache */
#define TOPIC    "md.xnas.AAPL"

static uint8_t bytes[1 << 16];
static uint8_t frames[1 << 16];
static uint8_t out[1 << 16];
static uint32_t lengths[MESSAGES];
static uint64_t frames_size;
static uint64_t one_size;
static hm_slice slices[MESSAGES];
static volatile uint64_t sink; /* keeps results from being optimised away */

static uint64_t now_ns(void) {
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* ---- the operations: each does `count` of them ---- */

__attribute__((noinline)) static uint64_t nothing(const void *data, uint64_t size) {
    __asm__ volatile("" ::"r"(data), "r"(size) : "memory");
    return size;
}

static void empty(uint32_t size, uint64_t count) {
    for (uint64_t i = 0; i < count; i++)
        sink = nothing(bytes, size);
}

/* Each checksum continues the one before: its latency, not its throughput. */
static void crc(uint32_t size, uint64_t count) {
    uint32_t state = 0;

    for (uint64_t i = 0; i < count; i++)
        state = hm_crc32c(state, bytes, size);
    sink = state;
}

static void encode_one(uint32_t size, uint64_t count) {
    const uint8_t *topic = (const uint8_t *)TOPIC;

    for (uint64_t i = 0; i < count; i++) {
        int64_t written = hm_frame_encode(out, sizeof out, HM_MESSAGE, topic, sizeof TOPIC - 1,
                                          NULL, 0, bytes, size, i, i);
        assert(written > 0);
    }
}

static void encode_many(uint32_t size, uint64_t count) {
    const uint8_t *topic = (const uint8_t *)TOPIC;

    for (uint64_t i = 0; i < count; i += MESSAGES) {
        int64_t written = hm_frame_encode_many(out, sizeof out, topic, sizeof TOPIC - 1, bytes,
                                               MESSAGES * size, lengths, MESSAGES, i, i);
        assert(written > 0);
    }
}

static void encode_rows(uint32_t size, uint64_t count) {
    const uint8_t *topic = (const uint8_t *)TOPIC;

    for (uint64_t i = 0; i < count; i += MESSAGES) {
        int64_t written = hm_frame_encode_rows(out, sizeof out, topic, sizeof TOPIC - 1, bytes,
                                               size, size, MESSAGES, i, i);
        assert(written > 0);
    }
}

static void check_one(uint32_t size, uint64_t count) {
    (void)size;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t needed;
        int64_t found = hm_frame_check(frames, one_size, HM_MESSAGE_MAX, slices, &needed);
        assert(found > 0);
    }
}

static void index_many(uint32_t size, uint64_t count) {
    (void)size;
    for (uint64_t i = 0; i < count; i += MESSAGES) {
        uint64_t consumed;
        int32_t error;
        int64_t found = hm_frame_index(frames, frames_size, HM_MESSAGE_MAX, slices, MESSAGES,
                                       &consumed, &error);
        assert(found == MESSAGES);
    }
}

static void stamp_many(uint32_t size, uint64_t count) {
    (void)size;
    for (uint64_t i = 0; i < count; i += MESSAGES)
        hm_frame_stamp(frames, frames_size, i);
}

/* What a broker does to a message: validate, copy, stamp. */
static void check_copy_stamp(uint32_t size, uint64_t count) {
    (void)size;
    for (uint64_t i = 0; i < count; i += MESSAGES) {
        for (uint64_t at = 0; at < frames_size;) {
            uint64_t needed;
            int64_t found =
                hm_frame_check(frames + at, frames_size - at, HM_MESSAGE_MAX, slices, &needed);
            assert(found > 0);
            at += (uint64_t)found;
        }
        memcpy(out, frames, frames_size);
        hm_frame_stamp(out, frames_size, i);
    }
}

static void header_by_cast(uint32_t size, uint64_t count) {
    const hm_frame_header *header = (const hm_frame_header *)(const void *)frames;
    uint64_t sum = 0;

    (void)size;
    for (uint64_t i = 0; i < count; i++) {
        __asm__ volatile("" : "+r"(header)::"memory"); /* read anew each time */
        sum += header->sequence + header->timestamp_ns + header->payload_len;
    }
    sink = sum;
}

/* ---- the table ---- */

static const struct {
    const char *operation;
    void (*run)(uint32_t size, uint64_t count);
    uint32_t size;
    const char *note;
} questions[] = {
    {"empty", empty, 0, "control: a call that does nothing"},
    {"crc32c 64 B", crc, 64, ""},
    {"crc32c 256 B", crc, 256, ""},
    {"crc32c 4 KiB", crc, 4096, ""},
    {"crc32c 64 KiB", crc, 65536, ""},
    {"encode one 64 B", encode_one, 64, "target: at most 30 ns"},
    {"encode one 256 B", encode_one, 256, ""},
    {"encode many 64 B", encode_many, 64, "target: at most 20 ns a message"},
    {"encode many 256 B", encode_many, 256, ""},
    {"encode rows 64 B", encode_rows, 64, "target: at most 20 ns a message"},
    {"encode rows 256 B", encode_rows, 256, ""},
    {"validate one 64 B", check_one, 64, ""},
    {"validate one 256 B", check_one, 256, ""},
    {"validate + index 64 B", index_many, 64, "target: at most 15 ns a message"},
    {"validate + index 256 B", index_many, 256, ""},
    {"stamp 256 B", stamp_many, 256, ""},
    {"validate + copy + stamp 256 B", check_copy_stamp, 256, "leaves the log its 40 ns"},
    {"header by cast", header_by_cast, 64, "target: at most 1 ns"},
};

static int by_value(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;

    return (left > right) - (left < right);
}

/* Nanoseconds of one operation, in `ROUNDS` rounds, sorted. */
static void measure(void (*run)(uint32_t, uint64_t), uint32_t size, double *ns) {
    uint64_t count = MESSAGES;

    for (;;) { /* how many make a round; warms everything up too */
        uint64_t begun = now_ns();
        run(size, count);
        if (now_ns() - begun > ROUND_NS)
            break;
        count *= 2;
    }
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t begun = now_ns();
        run(size, count);
        ns[round] = (double)(now_ns() - begun) / (double)count;
    }
    qsort(ns, ROUNDS, sizeof *ns, by_value);
}

static void prepare(uint32_t size) {
    const uint8_t *topic = (const uint8_t *)TOPIC;

    for (int i = 0; i < MESSAGES; i++)
        lengths[i] = size;
    if (size == 0 || size * MESSAGES > sizeof bytes)
        return;
    int64_t written = hm_frame_encode_rows(frames, sizeof frames, topic, sizeof TOPIC - 1, bytes,
                                           size, size, MESSAGES, 1, 1);
    assert(written > 0);
    frames_size = (uint64_t)written;
    one_size = frames_size / MESSAGES;
}

int main(int argc, char **argv) {
    int json = argc > 1 && strcmp(argv[1], "--json") == 0;
    size_t rows = sizeof questions / sizeof questions[0];

    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 31 + i / 7);
    if (json)
        printf("{\"name\": \"frames\", \"variant\": \"%s\", \"rows\": [", hm_crc32c_variant());
    else
        printf("CRC-32C by %s\n", hm_crc32c_variant());
    for (size_t i = 0; i < rows; i++) {
        double ns[ROUNDS];
        prepare(questions[i].size);
        measure(questions[i].run, questions[i].size, ns);
        double median = ns[ROUNDS / 2];
        if (json)
            printf("%s{\"operation\": \"%s\", \"ns\": %.3f, \"ns_min\": %.3f, \"ns_max\": %.3f, "
                   "\"per_s\": %.0f, \"note\": \"%s\"}",
                   i > 0 ? ", " : "", questions[i].operation, median, ns[0], ns[ROUNDS - 1],
                   1e9 / median, questions[i].note);
        else
            printf("%-32s %8.2f ns  (%.2f..%.2f)  %s\n", questions[i].operation, median, ns[0],
                   ns[ROUNDS - 1], questions[i].note);
    }
    if (json)
        printf("]}\n");
    return 0;
}
