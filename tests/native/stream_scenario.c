/* Random appends, subscriptions, reads and trims; every delivery is held against a plain list.
 *
 *     stream_scenario STEPS SEED
 *
 * With HM_SMALL_BOUNDS the core's rings and lists are so small that this overflows them all the
 * time.
 */
#include "scenario.h"

#include <time.h>

#define CURSORS 24u
#define OUT     (6 * KIB)

static hm_cursor *cursors[CURSORS];
static uint32_t filter_of[CURSORS];
static uint64_t covered[CURSORS];
static uint64_t got, gaps, walks;

static void verify(uint32_t i, const hm_delivery *delivery, const uint8_t *frames, uint64_t size) {
    must(delivery->after == covered[i] && delivery->through >= covered[i], "coverage");
    uint64_t messages =
        hold_against(filter_of[i], delivery->after, delivery->through, frames, size);
    must(delivery->messages == messages, "the count of messages");
    got += messages;
    covered[i] = delivery->through;
}

static int take(hm_log *log, uint32_t i, uint64_t limit) {
    static uint8_t out[OUT];
    hm_delivery delivery;
    hm_log_status status;
    uint64_t capacity = HM_BATCH_HEADER + below(OUT - HM_BATCH_HEADER);
    int error = hm_cursor_next(cursors[i], out, capacity, limit, (int)below(2), 1, &delivery);
    must(error == 0, "reading");
    if (delivery.kind == HM_DELIVER_COPIED) {
        verify(i, &delivery, out + HM_BATCH_HEADER, delivery.written - HM_BATCH_HEADER);
    } else if (delivery.kind == HM_DELIVER_RANGE) {
        uint64_t mapped;
        hm_segment *segment = hm_log_pin(log, delivery.range.segment);
        must(segment != NULL, "pinning");
        verify(i, &delivery, hm_segment_memory(segment, &mapped) + delivery.range.offset,
               delivery.range.size);
        hm_segment_release(segment);
    } else if (delivery.kind == HM_DELIVER_GAP) {
        hm_log_status_get(log, &status);
        must(delivery.gap_first == covered[i] + 1 && delivery.gap_last >= delivery.gap_first &&
                 delivery.gap_last < status.first_sequence,
             "a gap of what is gone");
        covered[i] = delivery.gap_last;
        gaps++;
    }
    must(hm_cursor_through(cursors[i]) == covered[i], "through");
    return delivery.kind;
}

static void subscribe(hm_stream *stream, uint32_t i) {
    static const int starts[] = {HM_START_LATEST, HM_START_EARLIEST, HM_START_SEQUENCE};
    const char *text = filters[filter_of[i] = below((uint32_t)FILTERS)].text;
    uint64_t back = below(300), value = last > back ? last - back : 1;
    int error = hm_cursor_open(stream, filters[filter_of[i]].kind, (const uint8_t *)text,
                               (uint32_t)strlen(text), 1, starts[below(3)], value, &cursors[i]);
    must(error == 0, "subscribing");
    covered[i] = hm_cursor_through(cursors[i]);
}

static void unsubscribe(uint32_t i) {
    hm_cursor_close(cursors[i]);
    cursors[i] = NULL;
}

int main(int argc, char **argv) {
    must(argc == 3, "usage: stream_scenario STEPS SEED");
    uint32_t steps = (uint32_t)strtoul(argv[1], NULL, 10);
    state = strtoul(argv[2], NULL, 10);
    hm_log_options options = {.segment_bytes = 32 * KIB,
                              .retention_bytes = 128 * KIB,
                              .message_max = HM_MESSAGE_MAX,
                              .spares = 1};
    hm_log *log;
    hm_stream *stream;
    hm_stream_status status;
    hm_log_status kept;
    uint64_t known;
    must(hm_log_open_memory(&options, &log) == 0, "opening a log");
    must(hm_stream_open(log, 0, 1000, 1, &stream) == 0, "opening a stream");
    hm_router *router = hm_router_new();
    must(hm_router_add(router, stream) == 0, "adding the stream");
    hm_ingest *ingest = hm_ingest_new(router, 64 * KIB);
    must(hm_ingest_open(ingest, 1, (const uint8_t *)"a publisher's id", &known) == 0, "opening");
    for (uint32_t step = 0; step < steps && last + BATCH_MAX < MESSAGES_MAX; step++) {
        uint32_t i = below(CURSORS);
        switch (below(8)) {
        case 0:
        case 1:
            publish(ingest);
            break;
        case 2:
            if (cursors[i] == NULL)
                subscribe(stream, i);
            else if (below(8) == 0)
                unsubscribe(i);
            break;
        case 3:
            hm_log_trim(log, 1);
            hm_stream_wake(stream);
            hm_stream_status_get(stream, &status);
            walks += status.walks;
            break;
        default:
            if (cursors[i] != NULL)
                take(log, i, below(4) == 0 ? 1 : below(8 * KIB));
        }
    }
    for (uint32_t i = 0; i < CURSORS; i++) {
        if (cursors[i] == NULL)
            continue;
        for (int kind = HM_DELIVER_AGAIN, quiet = 0; kind != HM_DELIVER_NOTHING || quiet < 20;) {
            kind = take(log, i, 64 * KIB); /* progress is asked for at random: be patient */
            quiet = kind == HM_DELIVER_NOTHING ? quiet + 1 : 0;
        }
        must(covered[i] == last, "everything is covered in the end");
        unsubscribe(i);
    }
    hm_stream_status_get(stream, &status);
    hm_log_status_get(log, &kept);
    for (int i = 0; kept.pinned > 0 && i < 60000; i++) { /* the helper may be at work on one */
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        hm_log_status_get(log, &kept);
    }
    must(kept.pinned == 0, "no retired segment is held");
    must(status.filters == 0 && status.cursors == 0 && status.notes == 0, "nothing is left");
    hm_ingest_free(ingest);
    hm_router_free(router);
    hm_stream_close(stream);
    hm_log_close(log);
    printf("%llu messages, %llu delivered, %llu gaps, %llu walks\n", (unsigned long long)last,
           (unsigned long long)got, (unsigned long long)gaps, (unsigned long long)walks);
    must(gaps > 0 && got > last, "the scenario reaches what it is about");
    return 0;
}
