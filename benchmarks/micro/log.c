/* log.c -- what does it cost to append a message to the mapped log, and to find and verify it
 * again?
 *
 * Control: `check`, the validation without an append, and `copy`, a memcpy of the same bytes to
 * memory that is in place.  One thread and the log's helper; 256 B payloads in batches of 64 KiB;
 * files in $TMPDIR, or /tmp, which should be a disk file system.  `warm`: segments are recycled, as
 * retention does in steady state.  `cold`: every segment is new, so that the host has to supply its
 * memory.  `hot`: every segment is new, and is written in a slot.
 *
 *     log [--json]
 */
#include "hm_log.h"

#include <assert.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS        9
#define TOPIC         "md.xnas.AAPL"
#define PAYLOAD       256
#define BATCH         208      /* messages: about 64 KiB, a read of a socket */
#define SEGMENT       33554432 /* bytes */
#define WARM_SEGMENTS 6
#define HOT_SLOTS     8
#define ROUND_BATCHES 512 /* 32 MiB a round */

static uint8_t batch[BATCH * (PAYLOAD + 64)];
static uint8_t *scratch; /* as large as a round */
static uint64_t batch_size;
static hm_slice slices[BATCH];
static char directory[256];
static hm_origin origin = {.publisher = "a publisher's id", .first_sequence = 1};
static uint64_t clock_ns = 1000000000;
static volatile uint64_t sink;

static uint64_t now_ns(void) {
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void empty_directory(void) {
    DIR *stream = opendir(directory);
    assert(stream);
    for (struct dirent *entry; (entry = readdir(stream));)
        if (entry->d_name[0] != '.')
            unlinkat(dirfd(stream), entry->d_name, 0);
    closedir(stream);
}

static hm_log *open_log(uint64_t retention, uint64_t hot) {
    hm_log_options options = {.segment_bytes = SEGMENT,
                              .retention_bytes = retention,
                              .message_max = HM_MESSAGE_MAX,
                              .spares = 1,
                              .hot_bytes = hot};
    hm_log_report report;
    hm_log *log;
    int error = hm_log_open(directory, &options, NULL, &report, &log);
    if (error) {
        fprintf(stderr, "%s: %s\n", directory, hm_error_text(error));
        exit(1);
    }
    return log;
}

static void check(void) {
    uint64_t consumed;
    int32_t error;
    int64_t count =
        hm_frame_index(batch, batch_size, HM_MESSAGE_MAX, slices, BATCH, &consumed, &error);
    assert(count == BATCH && error == 0);
}

static void append(hm_log *log, const uint8_t *frames, uint64_t size, uint32_t count) {
    uint64_t sequence, position;
    uint32_t appended;

    clock_ns += 20000; /* as at 10 M messages a second */
    int error =
        hm_log_append(log, frames, size, count, &origin, clock_ns, &sequence, &position, &appended);
    assert(error == 0 && appended == count);
    origin.first_sequence += count;
}

/* ---- one round each; returns how many operations it did ---- */

static uint64_t round_check(hm_log *log) {
    (void)log;
    for (int i = 0; i < ROUND_BATCHES; i++)
        check();
    return (uint64_t)ROUND_BATCHES * BATCH;
}

static uint64_t round_copy(hm_log *log) {
    (void)log;
    for (uint64_t i = 0; i < ROUND_BATCHES; i++)
        memcpy(scratch + i * batch_size, batch, batch_size);
    return (uint64_t)ROUND_BATCHES * BATCH;
}

/* As the broker takes a batch: frame by frame, then appended at once. */
static uint64_t round_append(hm_log *log) {
    uint64_t size = batch_size / BATCH, needed;
    hm_slice slice;

    for (int i = 0; i < ROUND_BATCHES; i++) {
        for (uint64_t at = 0; at < batch_size; at += size) {
            hm_log_expect(log, at, size);
            int64_t checked = hm_frame_check(batch + at, size, HM_MESSAGE_MAX, &slice, &needed);
            assert(checked > 0);
        }
        append(log, batch, batch_size, BATCH);
    }
    return (uint64_t)ROUND_BATCHES * BATCH;
}

static uint64_t round_unchecked(hm_log *log) {
    for (int i = 0; i < ROUND_BATCHES; i++)
        append(log, batch, batch_size, BATCH);
    return (uint64_t)ROUND_BATCHES * BATCH;
}

static uint64_t round_single(hm_log *log) {
    uint64_t size = batch_size / BATCH;
    for (int i = 0; i < 50000; i++)
        append(log, batch, size, 1);
    return 50000;
}

static uint64_t round_locate(hm_log *log) {
    hm_log_status status;
    hm_range range;
    uint64_t state = 88172645463325252u;

    hm_log_status_get(log, &status);
    for (int i = 0; i < 20000; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        uint64_t kept = status.next_sequence - status.first_sequence;
        hm_log_locate(log, status.first_sequence + state % kept, &range);
        sink = range.position;
    }
    return 20000;
}

static uint64_t round_read(hm_log *log) {
    hm_log_status status;
    hm_range range;
    uint64_t runs = 0;

    hm_log_status_get(log, &status);
    for (uint64_t at = status.start_position; hm_log_read(log, at, 262144, &range) == 1; runs++)
        at += range.size;
    return runs;
}

static uint64_t round_recover(hm_log *log) {
    hm_log_status status;

    (void)log;
    hm_log *opened = open_log(0, 0);
    hm_log_status_get(opened, &status);
    hm_log_close(opened);
    return status.next_sequence - status.first_sequence;
}

typedef struct {
    const char *operation;
    const char *note;
    uint64_t (*run)(hm_log *log);
    uint64_t retention;
    uint64_t hot; /* bytes of slots */
    int needs_log;
    int fills;    /* rounds of appends before the first measured one */
    uint64_t per; /* bytes of one operation; 0: no rate */
} question;

static const question questions[] = {
    {"check 256 B", "control: validate, no append", round_check, 0, 0, 0, 0, 312},
    {"copy 256 B", "control: memcpy to memory in place", round_copy, 0, 0, 0, 0, 312},
    {"append 256 B, warm", "check, stamp, copy; segments recycled", round_append,
     (uint64_t)WARM_SEGMENTS * SEGMENT, 0, 1, 12, 312},
    {"append 256 B, unchecked", "stamp and copy alone; segments recycled", round_unchecked,
     (uint64_t)WARM_SEGMENTS * SEGMENT, 0, 1, 12, 312},
    {"append 256 B, cold", "the same; every segment is new", round_append, 0, 0, 1, 0, 312},
    {"append 256 B, hot", "the same; every segment is new, in a slot", round_append, 0,
     (uint64_t)HOT_SLOTS * SEGMENT, 1, 24, 312},
    {"append 256 B alone, warm", "one message a call, unchecked", round_single,
     (uint64_t)WARM_SEGMENTS * SEGMENT, 0, 1, 12, 0},
    {"locate by sequence", "at random", round_locate, (uint64_t)WARM_SEGMENTS * SEGMENT, 0, 1, 12,
     0},
    {"read 256 KiB", "a run of whole frames, in order", round_read,
     (uint64_t)WARM_SEGMENTS * SEGMENT, 0, 1, 12, 0},
    {"recover 256 B", "open: CRC and continuity of each message", round_recover, 0, 0, 0, 8, 312},
};

static int compare(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;
    return left < right ? -1 : left > right;
}

static void measure(const question *asked, double *ns) {
    empty_directory();
    hm_log *log = asked->needs_log || asked->fills ? open_log(asked->retention, asked->hot) : NULL;
    for (int i = 0; i < asked->fills; i++)
        round_append(log);
    if (!asked->needs_log) {
        hm_log_close(log);
        log = NULL;
    }
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t begin = now_ns();
        uint64_t count = asked->run(log);
        ns[i] = (double)(now_ns() - begin) / (double)count;
    }
    hm_log_close(log);
    qsort(ns, ROUNDS, sizeof *ns, compare);
}

static void report(const question *asked, const double *ns, int json, int first) {
    double median = ns[ROUNDS / 2];
    char note[160];

    snprintf(note, sizeof note, "%s", asked->note);
    if (asked->per)
        snprintf(note, sizeof note, "%s; %.1f GB/s", asked->note, (double)asked->per / median);
    if (json)
        printf("%s{\"operation\": \"%s\", \"ns\": %.3f, \"ns_min\": %.3f, \"ns_max\": %.3f, "
               "\"per_s\": %.0f, \"note\": \"%s\"}",
               first ? "" : ", ", asked->operation, median, ns[0], ns[ROUNDS - 1], 1e9 / median,
               note);
    else
        printf("%-26s %8.2f ns  (%.2f..%.2f)  %s\n", asked->operation, median, ns[0],
               ns[ROUNDS - 1], note);
}

int main(int argc, char **argv) {
    int json = argc > 1 && strcmp(argv[1], "--json") == 0;
    const char *place = getenv("TMPDIR");
    static uint8_t payloads[BATCH * PAYLOAD];

    snprintf(directory, sizeof directory, "%s/hermes-log-XXXXXX", place ? place : "/tmp");
    if (mkdtemp(directory) == NULL) {
        perror(directory);
        return 1;
    }
    for (size_t i = 0; i < sizeof payloads; i++)
        payloads[i] = (uint8_t)(i * 31 + i / 7);
    int64_t written =
        hm_frame_encode_rows(batch, sizeof batch, (const uint8_t *)TOPIC, sizeof TOPIC - 1,
                             payloads, PAYLOAD, PAYLOAD, BATCH, 1, 1);
    assert(written > 0);
    batch_size = (uint64_t)written;
    scratch = malloc(ROUND_BATCHES * batch_size);
    assert(scratch);
    memset(scratch, 1, ROUND_BATCHES * batch_size);
    if (json)
        printf("{\"name\": \"log\", \"rows\": [");
    for (size_t i = 0; i < sizeof questions / sizeof *questions; i++) {
        double ns[ROUNDS];
        measure(&questions[i], ns);
        report(&questions[i], ns, json, i == 0);
    }
    if (json)
        printf("]}\n");
    empty_directory();
    rmdir(directory);
    free(scratch);
    return 0;
}
