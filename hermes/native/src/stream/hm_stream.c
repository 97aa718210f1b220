/* hm_stream.c -- opens a stream, learns its topics, and commits appends. */
#include "stream_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- topics ---- */

hm_topics *hm_stream_table(const hm_stream *stream) {
    return stream->topics;
}

static int64_t topic_add(hm_stream *stream, const uint8_t *padded, uint32_t len, uint64_t hash) {
    if (hm_topic_check(padded, len) != 0)
        return -HM_ETOPIC;
    if (hm_topics_count(stream->topics) >= stream->topics_max)
        return -HM_ELIMIT;
    int64_t index = hm_topics_add_hashed(stream->topics, padded, len, hash);
    if (index >= 0)
        hm_interest_topic(stream, (uint32_t)index);
    return index;
}

int64_t hm_stream_topic(hm_stream *stream, const uint8_t *padded, uint32_t len, uint64_t hash) {
    int64_t index = hm_topics_find_hashed(stream->topics, padded, len, hash);
    if (index >= 0)
        return index;
    return stream->create ? topic_add(stream, padded, len, hash) : -HM_ETOPIC;
}

int64_t hm_stream_declare(hm_stream *stream, const uint8_t *name, uint32_t len) {
    uint8_t padded[HM_TOPIC_MAX + 1] = {0};
    if (hm_topic_check(name, len) != 0)
        return -HM_ETOPIC;
    memcpy(padded, name, len);
    uint64_t hash = hm_topic_hash(padded, len);
    int64_t index = hm_topics_find_hashed(stream->topics, padded, len, hash);
    return index >= 0 ? index : topic_add(stream, padded, len, hash);
}

int64_t hm_stream_topics(hm_stream *stream, uint32_t first, hm_topic_info *infos, uint32_t capacity,
                         uint8_t *names, uint64_t names_capacity, uint64_t *names_used) {
    uint64_t start_sequence, start_position = hm_log_start(stream->log, &start_sequence);
    uint64_t used = 0;
    uint32_t count = 0;
    for (uint32_t i = first; i < hm_topics_count(stream->topics) && count < capacity; i++) {
        uint32_t len;
        const uint8_t *name = hm_topics_name(stream->topics, i, &len);
        if (used + len > names_capacity)
            break;
        const hm_topic *topic = hm_topics_at(stream->topics, i);
        int kept = topic->last_sequence != 0 && topic->last_position >= start_position;
        infos[count++] = (hm_topic_info){.name_offset = (uint32_t)used,
                                         .name_len = len,
                                         .last_sequence = kept ? topic->last_sequence : 0,
                                         .messages = topic->messages};
        memcpy(names + used, name, len);
        used += len;
    }
    *names_used = used;
    return count;
}

/* ---- opening ---- */

/* Enters the topics of a run of the log.  Their number is not bounded here: what is in the log is
 * served. */
static int learn_run(hm_stream *stream, const uint8_t *memory, const hm_range *range) {
    int64_t index = -1;
    const uint8_t *previous = NULL;
    uint64_t sequence = range->first_sequence;
    for (uint64_t at = 0; at < range->size; sequence++) {
        const uint8_t *frame = memory + at;
        uint32_t len = frame[6];
        if (previous == NULL || previous[6] != len ||
            !hm_topic_equal(previous + HM_FRAME_HEADER, frame + HM_FRAME_HEADER, len)) {
            const uint8_t *name = frame + HM_FRAME_HEADER;
            index = hm_topics_add_hashed(stream->topics, name, len, hm_topic_hash(name, len));
            if (index < 0)
                return (int)index;
        }
        hm_topic *topic = hm_topics_at(stream->topics, (uint32_t)index);
        topic->last_sequence = sequence;
        topic->last_position = range->position + at;
        previous = frame;
        at += hm_frame_skip(frame);
    }
    return 0;
}

static int learn(hm_stream *stream, uint64_t position) {
    for (;;) {
        hm_range range;
        int got = hm_log_read(stream->log, position, UINT64_MAX, &range);
        if (got == 0)
            return 0;
        if (got == -HM_EGONE || got == -HM_EDAMAGED) {
            if (range.position <= position)
                return got;
            position = range.position;
            continue;
        }
        if (got < 0)
            return got;
        hm_segment *segment = hm_log_pin(stream->log, range.segment);
        if (segment == NULL)
            return -HM_EIO;
        uint64_t mapped;
        int error = learn_run(stream, hm_segment_memory(segment, &mapped) + range.offset, &range);
        hm_segment_release(segment);
        if (error != 0)
            return error;
        position = range.position + range.size;
    }
}

int hm_stream_open(hm_log *log, uint32_t index, uint32_t topics_max, int create,
                   hm_stream **opened) {
    assert(log != NULL && opened != NULL);
    hm_log_status status;
    hm_log_status_get(log, &status);
    hm_stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL)
        return -HM_ENOMEM;
    stream->log = log;
    stream->index = index;
    stream->topics_max = topics_max;
    stream->create = create;
    stream->end_position = stream->shown_position = status.end_position;
    stream->next_sequence = stream->shown_sequence = status.next_sequence;
    stream->topics = hm_topics_new();
    int error = stream->topics == NULL ? -HM_ENOMEM : learn(stream, status.start_position);
    if (error == 0) {
        stream->filters = hm_filters_new(stream->topics, HM_STREAM_FILTERS_MAX);
        error = stream->filters == NULL ? -HM_ENOMEM : 0;
    }
    if (error != 0) {
        hm_stream_close(stream);
        return error;
    }
    *opened = stream;
    return 0;
}

/* ---- a window ---- */

void hm_stream_hold(hm_stream *stream) {
    assert(stream->messages == 0);
    stream->held = 1;
}

void hm_stream_show(hm_stream *stream, uint64_t position, uint64_t sequence) {
    assert(stream->held && position >= stream->shown_position);
    assert(position <= stream->end_position && sequence <= stream->next_sequence);
    stream->shown_position = position;
    stream->shown_sequence = sequence;
    hm_log_stored(stream->log, position);
}

int64_t hm_stream_learn(hm_stream *stream, uint64_t position, uint64_t sequence,
                        const uint8_t *frames, uint64_t size) {
    assert(stream->held && stream->messages == 0);
    hm_range range = {.position = position, .first_sequence = sequence};
    range.size = hm_log_sound(frames, size, &sequence);
    int error = learn_run(stream, frames, &range);
    return error != 0 ? error : (int64_t)range.size;
}

void hm_stream_close(hm_stream *stream) {
    if (stream == NULL)
        return;
    assert(stream->cursors == 0);
    hm_filters_free(stream->filters);
    hm_topics_free(stream->topics);
    free(stream->interests);
    free(stream->everything);
    free(stream->ready);
    free(stream);
}

hm_log *hm_stream_log(const hm_stream *stream) {
    return stream->log;
}

void hm_stream_status_get(hm_stream *stream, hm_stream_status *status) {
    *status = (hm_stream_status){.topics = hm_topics_count(stream->topics),
                                 .topic_bytes = hm_topics_bytes(stream->topics),
                                 .filters = hm_filters_count(stream->filters),
                                 .cursors = stream->cursors,
                                 .messages = stream->messages,
                                 .bytes = stream->bytes};
    for (uint32_t i = 0; i < stream->interest_room; i++) {
        const hm_interest *interest = &stream->interests[i];
        status->notes += interest->tail - interest->head;
        for (const hm_cursor *cursor = interest->cursors; cursor != NULL; cursor = cursor->next)
            status->walks += cursor->position >= interest->everything_until &&
                             cursor->position < interest->complete_from;
    }
}

/* ---- appending ---- */

/* Enters what an append brought into the topics and the notes.  Only the first `done` messages are
 * in the log; they are fewer than the spans hold only if the disk failed in the middle. */
static void note_spans(hm_stream *stream, const uint8_t *frames, const hm_span *spans,
                       uint32_t span_count, uint32_t done, uint64_t position, uint64_t sequence) {
    for (uint32_t i = 0; i < span_count && done > 0; i++) {
        hm_span span = spans[i];
        if (span.count > done) {
            const uint8_t *frame = frames;
            for (uint32_t k = 0; k < done; k++) {
                span.last = hm_frame_skip(frame);
                frame += span.last;
            }
            span.count = done;
            span.bytes = (uint64_t)(frame - frames);
        }
        hm_topic *topic = hm_topics_at(stream->topics, span.topic);
        topic->last_sequence = sequence + span.count - 1;
        topic->last_position = position + span.bytes - span.last;
        topic->messages += span.count;
        if (topic->list != 0) {
            uint32_t count;
            const uint32_t *wanted = hm_filters_interested(stream->filters, span.topic, &count);
            for (uint32_t k = 0; k < count; k++)
                hm_interest_note(stream, wanted[k], position, sequence, span.bytes, span.count);
        }
        done -= span.count;
        sequence += span.count;
        position += span.bytes;
        frames += span.bytes;
    }
    stream->bytes += position - stream->end_position;
    stream->messages += sequence - stream->next_sequence;
    stream->end_position = position;
    stream->next_sequence = sequence;
    if (!stream->held) {
        stream->shown_position = position;
        stream->shown_sequence = sequence;
    }
}

int hm_stream_commit(hm_stream *stream, const uint8_t *frames, uint64_t size, uint32_t count,
                     const hm_span *spans, uint32_t span_count, const hm_origin *origin,
                     uint64_t now_ns, uint32_t *appended) {
    static const hm_origin nobody;
    assert(count > 0 && size <= HM_APPEND_MAX);
    uint64_t sequence, position;
    *appended = 0;
    int error = hm_log_append(stream->log, frames, size, count, origin != NULL ? origin : &nobody,
                              now_ns, &sequence, &position, appended);
    if (*appended == 0)
        return error;
    assert(sequence == stream->next_sequence && position == stream->end_position);
    note_spans(stream, frames, spans, span_count, *appended, position, sequence);
    return error;
}

/* ---- filters ahead of their cursors ---- */

int64_t hm_stream_want(hm_stream *stream, int filter_kind, const uint8_t *filter,
                       uint32_t filter_len) {
    return hm_interest_want(stream, filter_kind, filter, filter_len);
}

int hm_stream_wanted(const hm_stream *stream, uint32_t filter) {
    return hm_filters_settled(stream->filters, filter);
}

void hm_stream_unwant(hm_stream *stream, uint32_t filter) {
    hm_interest_close(stream, filter);
}

int hm_stream_sweep(hm_stream *stream, uint64_t budget) {
    return hm_filters_sweep(stream->filters, budget);
}

/* ---- who may have something ---- */

static uint32_t wake_all(const hm_interest *interest) {
    uint32_t listed = 0;
    for (hm_cursor *cursor = interest->cursors; cursor != NULL; cursor = cursor->next)
        listed += hm_reader_wake(&cursor->reader);
    return listed;
}

uint32_t hm_stream_wake(hm_stream *stream) {
    uint32_t listed = 0;
    for (uint32_t i = 0; i < stream->everything_count; i++)
        listed += wake_all(&stream->interests[stream->everything[i]]);
    while (stream->ready_count > 0) {
        hm_interest *interest = &stream->interests[stream->ready[--stream->ready_count]];
        interest->ready = 0;
        listed += wake_all(interest);
    }
    return listed;
}

void hm_stream_mark_progress(hm_stream *stream) {
    hm_stream_wake(stream);
    for (uint32_t i = 0; i < stream->interest_room; i++) {
        const hm_interest *interest = &stream->interests[i];
        if (interest->everything)
            continue;
        for (hm_cursor *cursor = interest->cursors; cursor != NULL; cursor = cursor->next) {
            cursor->reader.progress = true;
            hm_reader_wake(&cursor->reader);
        }
    }
}

uint32_t hm_stream_index(const hm_stream *stream) {
    return stream->index;
}

bool hm_stream_held(const hm_stream *stream) {
    return stream->held != 0;
}
