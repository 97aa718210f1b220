/* hm_window.c -- a log in memory in front of a store, and what was brought back from it. */
#include <assert.h>
#include <stdlib.h>

#include "log_internal.h"

struct hm_window {
    uint64_t stored_position; /* the store has what stands before */
    uint64_t start_position;  /* of the oldest message it keeps */
    uint64_t start_sequence;
    uint64_t unstored_max;
    int32_t refusal;                      /* 0, or why appends are refused */
    hm_segment *brought[HM_LOG_COLD_MAX]; /* the last used first */
    uint32_t brought_count;
};

hm_window *hm_window_new(uint64_t unstored_max) {
    hm_window *window = calloc(1, sizeof *window);
    if (window) {
        window->unstored_max = unstored_max;
    }
    return window;
}

void hm_window_free(hm_window *window) {
    if (window == NULL) {
        return;
    }
    for (uint32_t i = 0; i < window->brought_count; i++) {
        hm_segment_release(window->brought[i]);
    }
    free(window);
}

/* the store's progress ------------------------------------------------------------------------ */

bool hm_window_may_retire(const hm_log *log, const hm_segment *segment) {
    return log->window == NULL || hm_segment_end_position(segment) <= log->window->stored_position;
}

int hm_window_admit(const hm_log *log, uint64_t size) {
    const hm_window *window = log->window;
    if (window == NULL) {
        return 0;
    }
    if (window->refusal) {
        return window->refusal;
    }
    uint64_t unstored = log->end_position - window->stored_position;
    return unstored && unstored + size > window->unstored_max ? -HM_ENOSPACE : 0;
}

void hm_log_stored(hm_log *log, uint64_t position) {
    assert(log->window && position <= log->end_position);
    log->window->stored_position = position;
}

void hm_log_store_begins(hm_log *log, uint64_t sequence, uint64_t position) {
    assert(log->window && position <= log->end_position);
    log->window->start_sequence = sequence;
    log->window->start_position = position;
}

void hm_log_refuse(hm_log *log, int error) {
    assert(log->window && error <= 0);
    log->window->refusal = error;
}

int hm_log_remember(hm_log *log, const uint8_t *publisher, uint64_t last) {
    return hm_publishers_set(log->publishers, publisher, last) ? 0 : -HM_ENOMEM;
}

uint64_t hm_log_start(const hm_log *log, uint64_t *sequence) {
    const hm_segment *oldest = hm_log_oldest(log);
    bool store = log->window && log->window->start_position < oldest->base_position;
    *sequence = store ? log->window->start_sequence : oldest->base_sequence;
    return store ? log->window->start_position : oldest->base_position;
}

/* what is to be handed on --------------------------------------------------------------------- */

static uint64_t position_of(const hm_segment *segment, uint64_t record) {
    return record < segment->record_count ? segment->records[record].position
                                          : hm_segment_end_position(segment);
}

/* The part of a record from `position` on. */
static hm_log_run run_of(const hm_segment *segment, uint64_t index, uint64_t position) {
    const hm_record *record = &segment->records[index];
    uint64_t offset = hm_segment_offset(segment, position);
    uint64_t sequence = hm_frame_sequence(segment->map + offset);
    uint64_t passed = sequence - record->first_sequence;
    hm_log_run run = {.publisher_first = record->publisher_first,
                      .first_sequence = sequence,
                      .position = position,
                      .size = position_of(segment, index + 1) - position,
                      .time_ns = record->time_ns,
                      .segment = segment->base_sequence,
                      .offset = offset - HM_LOG_SEGMENT_HEADER,
                      .count = hm_record_count(record) - passed};
    memcpy(run.publisher, record->publisher, sizeof run.publisher);
    if (!hm_publisher_nobody(record->publisher)) {
        run.publisher_first += passed;
    }
    return run;
}

static uint32_t runs_of(const hm_segment *segment, uint64_t position, hm_log_run *runs,
                        uint32_t capacity) {
    uint64_t end = hm_segment_end_position(segment);
    uint32_t count = 0;
    for (uint64_t i = hm_index_by_position(segment, position);
         i < segment->record_count && position < end && count < capacity; i++) {
        if (position_of(segment, i + 1) > position) { /* else it only names a publisher */
            runs[count] = run_of(segment, i, position);
            position += runs[count++].size;
        }
    }
    return count;
}

uint32_t hm_log_runs(hm_log *log, uint64_t position, hm_log_run *runs, uint32_t capacity) {
    assert(position >= hm_log_oldest(log)->base_position);
    uint32_t count = 0;
    for (uint64_t i = 0; i < log->segments_count && count < capacity; i++) {
        const hm_segment *segment = log->segments[log->segments_first + i];
        if (hm_segment_end_position(segment) > position) {
            count += runs_of(segment, position, runs + count, capacity - count);
            position = hm_segment_end_position(segment);
        }
    }
    return count;
}

/* what is brought back ------------------------------------------------------------------------ */

static void put_first(hm_window *window, uint32_t index) {
    hm_segment *segment = window->brought[index];
    memmove(&window->brought[1], &window->brought[0], index * sizeof window->brought[0]);
    window->brought[0] = segment;
}

static bool holds(const hm_segment *segment, uint64_t position) {
    uint64_t end =
        segment->damage_count ? segment->damage[0].end : hm_segment_end_position(segment);
    return segment->base_position <= position && position < end;
}

hm_segment *hm_window_find(hm_log *log, uint64_t position, hm_range *range, int *error) {
    hm_window *window = log->window;
    if (window == NULL) {
        return NULL;
    }
    uint64_t start = hm_log_start(log, &range->first_sequence);
    if (position < start) {
        range->position = start;
        return NULL;
    }
    for (uint32_t i = 0; i < window->brought_count; i++) {
        if (holds(window->brought[i], position)) {
            put_first(window, i);
            return window->brought[0];
        }
    }
    range->position = position;
    *error = -HM_ECOLD;
    return NULL;
}

hm_segment *hm_window_named(const hm_log *log, uint64_t base_sequence) {
    const hm_window *window = log->window;
    for (uint32_t i = 0; window && i < window->brought_count; i++) {
        if (window->brought[i]->base_sequence == base_sequence) {
            return window->brought[i];
        }
    }
    return NULL;
}

/* One segment of a name: what another read brought under it goes. */
static void bring(hm_window *window, hm_segment *segment) {
    uint32_t at = 0;
    while (at < window->brought_count &&
           window->brought[at]->base_sequence != segment->base_sequence) {
        at++;
    }
    if (at < window->brought_count) {
        hm_segment_release(window->brought[at]);
    } else if (window->brought_count == HM_LOG_COLD_MAX) {
        hm_segment_release(window->brought[--at]);
    } else {
        window->brought_count++;
    }
    window->brought[at] = segment;
    put_first(window, at);
}

uint64_t hm_log_sound(const uint8_t *frames, uint64_t size, uint64_t *sequence) {
    uint64_t done = 0;
    while (done < size) {
        hm_slice slice;
        uint64_t needed;
        int64_t frame = hm_frame_check(frames + done, size - done, HM_STORED_MAX, &slice, &needed);
        if (frame < 0 || slice.type != HM_MESSAGE || slice.sequence != *sequence) {
            break;
        }
        done += (uint64_t)frame;
        ++*sequence;
    }
    return done;
}

int64_t hm_log_fill(hm_log *log, uint64_t position, uint64_t sequence, const uint8_t *frames,
                    uint64_t size) {
    assert(log->window && position % HM_FRAME_ALIGN == 0);
    uint64_t next = sequence, bytes = hm_log_sound(frames, size, &next);
    if (bytes == 0) {
        return 0;
    }
    hm_segment *segment;
    int error = hm_segment_copy(log->pool, frames, bytes, &segment);
    if (error) {
        return error;
    }
    segment->base_sequence = sequence;
    segment->base_position = position;
    segment->next_sequence = next;
    bring(log->window, segment);
    return (int64_t)bytes;
}

int hm_log_fill_hole(hm_log *log, uint64_t position, uint64_t sequence, uint64_t end,
                     uint64_t next_sequence) {
    if (end <= position || next_sequence < sequence) {
        return -HM_EINVAL;
    }
    hm_segment *segment;
    int error = hm_segment_placeholder(log->pool, &segment);
    hm_damage *damage = error ? NULL : malloc(sizeof *damage);
    if (damage == NULL) {
        hm_segment_release(error ? NULL : segment);
        return -HM_ENOMEM;
    }
    *damage = (hm_damage){position, end, sequence, next_sequence, -HM_EDAMAGED};
    segment->damage = damage;
    segment->damage_count = 1;
    segment->base_sequence = sequence;
    segment->base_position = position;
    segment->next_sequence = sequence;
    bring(log->window, segment);
    return 0;
}
