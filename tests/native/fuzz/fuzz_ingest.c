/* fuzz_ingest.c -- any bytes as what a connection sends.
 *
 * Input: one byte of switches, then the connection's bytes.  They are fed whole to one broker and
 * in small pieces to another.  With REPAIR checksums are set right first: a mutation nearly always
 * breaks one, and then nothing behind it is reached.
 *
 * Beside what the sanitizers see, these must hold:
 *   - both brokers append the same, skip the same, and stop for the same reason at the same place;
 *   - no more is consumed than is there, and what is asked for is more than what is there;
 *   - whoever was refused is refused once.
 */
#include <stdlib.h>
#include <string.h>

#include "hm_ingest.h"

#include "fuzz_driver.h"

enum { REPAIR = 1, PIECES = 0xFE };

#define MESSAGE_MAX 2048
#define TOPICS_MAX  64

typedef struct {
    hm_log *logs[2];
    hm_stream *streams[2];
    hm_router *router;
} broker;

typedef struct {
    uint64_t consumed;
    uint64_t messages;
    uint64_t duplicates;
    uint64_t batches;
    uint64_t controls;
    uint64_t refusals;
    uint64_t streams;
    uint64_t through;
    int32_t error;
} outcome;

static void must(int holds) {
    if (!holds)
        abort();
}

static void open_broker(broker *b) {
    hm_log_options options = {.segment_bytes = 1 << 16,
                              .retention_bytes = 1 << 18,
                              .message_max = MESSAGE_MAX,
                              .spares = 1};
    b->router = hm_router_new();
    must(b->router != NULL);
    for (uint32_t i = 0; i < 2; i++) {
        must(hm_log_open_memory(&options, &b->logs[i]) == 0);
        must(hm_stream_open(b->logs[i], i, TOPICS_MAX, 1, &b->streams[i]) == 0);
        must(hm_router_add(b->router, b->streams[i]) == (int)i);
    }
    must(hm_router_claim(b->router, 1, (const uint8_t *)"b.>", 3) == 0);
}

/* Made once: what one input leaves in them, the next one finds in both. */
static broker *brokers(void) {
    static broker both[2];
    if (both[0].router == NULL) {
        open_broker(&both[0]);
        open_broker(&both[1]);
    }
    return both;
}

static uint64_t padded(uint64_t size) {
    return (size + 7) & ~(uint64_t)7;
}

/* Gives the frame at `data` the checksum that fits, if all that it covers is there.  Returns how
 * far the next frame is: behind a BATCH's prefix stands the first of its messages. */
static uint64_t repair(uint8_t *data, uint64_t size) {
    uint32_t length;
    if (size < HM_FRAME_HEADER)
        return size;
    memcpy(&length, data + 24, sizeof length);
    int batch = data[5] == HM_BATCH;
    uint64_t covered = batch ? HM_BATCH_PREFIX : length, body = padded(data[6]);
    uint64_t total = HM_FRAME_HEADER + body + padded(covered);
    if (HM_FRAME_HEADER + body + covered > size)
        return size;
    uint32_t crc = hm_crc32c(0, data, 8);
    crc = hm_crc32c(crc, data + 16, 12);
    crc = hm_crc32c(crc, data + HM_FRAME_HEADER, data[6]);
    crc = hm_crc32c(crc, data + HM_FRAME_HEADER + body, covered);
    memcpy(data + 28, &crc, sizeof crc);
    return total < size ? total : size;
}

/* Feeds all of it, at most `piece` new bytes a time. */
static outcome feed_all(broker *b, uint64_t input, const uint8_t *data, uint64_t size,
                        uint64_t piece) {
    outcome seen = {0};
    uint64_t last, there = 0;
    uint32_t refused[2] = {0};
    uint8_t nobody[16] = {0}, somebody[16] = {0};
    hm_touched touched[4];
    hm_ingest *ingest = hm_ingest_new(b->router, MESSAGE_MAX);
    must(ingest != NULL);
    memcpy(somebody, &input, sizeof input);
    must(hm_ingest_open(ingest, 1, somebody, &last) == 0 && last == 0);
    must(hm_ingest_open(ingest, 2, nobody, &last) == 0 && last == 0);
    while (seen.error == 0) {
        hm_feed feed;
        hm_ingest_feed(ingest, data + seen.consumed, there - seen.consumed, 1, &feed);
        must(feed.consumed <= there - seen.consumed);
        seen.consumed += feed.consumed;
        seen.messages += feed.messages;
        seen.duplicates += feed.duplicates;
        seen.batches += feed.batches;
        seen.streams |= feed.streams;
        if (feed.kind == HM_FEED_CONTROL) {
            must(feed.frame_size >= HM_FRAME_HEADER && feed.frame_size <= there - seen.consumed);
            seen.consumed += feed.frame_size;
            seen.controls++;
        } else if (feed.kind == HM_FEED_ERROR) {
            seen.error = feed.error;
        } else if (feed.kind == HM_FEED_REFUSED) {
            must(feed.publisher == 1 || feed.publisher == 2);
            must(refused[feed.publisher - 1]++ == 0 && feed.error < 0);
            seen.refusals++;
        } else {
            must(feed.kind == HM_FEED_MORE);
            must(feed.needed == 0 || feed.needed > there - seen.consumed);
            if (there == size)
                break;
            there = size - there < piece ? size : there + piece;
        }
    }
    for (uint32_t i = hm_ingest_touched(ingest, touched, 4); i > 0; i--)
        seen.through += touched[i - 1].through * touched[i - 1].publisher;
    hm_ingest_free(ingest);
    return seen;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0)
        return 0;
    static uint64_t input; /* each has a publisher that nobody has met */
    broker *both = brokers();
    uint8_t *copy = malloc(size);
    must(copy != NULL);
    memcpy(copy, data + 1, size - 1);
    if (data[0] & REPAIR)
        for (uint64_t at = 0; at < size - 1;)
            at += repair(copy + at, size - 1 - at);
    outcome whole = feed_all(&both[0], ++input, copy, size - 1, size);
    outcome pieces = feed_all(&both[1], input, copy, size - 1, 1 + (data[0] & PIECES));
    must(whole.consumed == pieces.consumed && whole.error == pieces.error);
    must(whole.messages == pieces.messages && whole.duplicates == pieces.duplicates);
    must(whole.batches == pieces.batches && whole.controls == pieces.controls);
    must(whole.refusals == pieces.refusals && whole.streams == pieces.streams);
    must(whole.through == pieces.through);
    for (int i = 0; i < 2; i++) {
        hm_log_status a, b;
        hm_log_status_get(both[0].logs[i], &a);
        hm_log_status_get(both[1].logs[i], &b);
        must(a.next_sequence == b.next_sequence && a.end_position == b.end_position);
    }
    free(copy);
    return 0;
}
