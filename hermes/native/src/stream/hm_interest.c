/* hm_interest.c -- each filter's ring of notes, and whether it still wants everything. */
#include "stream_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#ifdef HM_SMALL_BOUNDS /* a test reaches them */
#define NOTES_MIN        4u
#define NOTES_MAX        8u
#define STREAM_NOTES_MAX 40u
#else
#define NOTES_MIN        64u
#define NOTES_MAX        HM_NOTES_MAX
#define STREAM_NOTES_MAX HM_STREAM_NOTES_MAX
#endif

_Static_assert((NOTES_MAX & (NOTES_MAX - 1)) == 0, "rings double from 64 to this");

void hm_interest_news(hm_stream *stream, uint32_t filter) {
    hm_interest *interest = &stream->interests[filter];
    if (interest->ready)
        return;
    assert(stream->ready_count < stream->interest_room);
    interest->ready = 1;
    interest->ready_at = stream->ready_count;
    stream->ready[stream->ready_count++] = filter;
}

/* ---- the ring ---- */

/* Forgets the notes that every cursor of the filter has passed. */
static void release_passed(hm_interest *interest) {
    uint64_t passed = UINT64_MAX;
    for (const hm_cursor *cursor = interest->cursors; cursor != NULL; cursor = cursor->next)
        if (cursor->position < passed)
            passed = cursor->position;
    while (interest->head < interest->tail &&
           hm_note_end(hm_note_at(interest, interest->head)) <= passed)
        interest->complete_from = hm_note_end(hm_note_at(interest, interest->head++));
}

static int grow(hm_stream *stream, hm_interest *interest) {
    uint32_t capacity = interest->capacity == 0 ? NOTES_MIN : interest->capacity * 2;
    uint64_t more = capacity - interest->capacity;
    if (capacity > NOTES_MAX || stream->note_room + more > STREAM_NOTES_MAX)
        return -HM_ELIMIT;
    hm_note *notes = malloc(capacity * sizeof *notes);
    if (notes == NULL)
        return -HM_ENOMEM;
    for (uint64_t i = interest->head; i < interest->tail; i++)
        notes[i & (capacity - 1)] = *hm_note_at(interest, i);
    free(interest->notes);
    interest->notes = notes;
    interest->capacity = capacity;
    stream->note_room += more;
    return 0;
}

/* Makes a full ring less full: what is passed goes, then the ring grows, then the oldest quarter
 * goes, and cursors that had not read it walk the log instead.  Returns 0 if there is no ring at
 * all. */
static int make_room(hm_stream *stream, hm_interest *interest) {
    /* As many notes as cursors at least, so that looking at every cursor is paid for. */
    if (interest->capacity >= interest->cursor_count || interest->capacity == NOTES_MAX)
        release_passed(interest);
    if (interest->capacity > 0 && interest->tail - interest->head <= interest->capacity / 2)
        return 1;
    if (grow(stream, interest) == 0)
        return 1;
    if (interest->capacity == 0)
        return 0;
    uint64_t keep = interest->capacity / 4 * 3;
    if (interest->tail - interest->head > keep) {
        interest->head = interest->tail - keep;
        interest->complete_from = hm_note_end(hm_note_at(interest, interest->head - 1));
    }
    return 1;
}

void hm_interest_note(hm_stream *stream, uint32_t filter, uint64_t position, uint64_t sequence,
                      uint64_t size, uint32_t count) {
    hm_interest *interest = &stream->interests[filter];
    if (!interest->used ||
        interest->everything) /* no cursor has it yet, or any more; or any will do */
        return;
    assert(position >= interest->complete_from && size <= HM_APPEND_MAX);
    hm_interest_news(stream, filter);
    if (interest->tail > interest->head) {
        hm_note *last = hm_note_at(interest, interest->tail - 1);
        if (hm_note_end(last) == position && last->size + size <= HM_APPEND_MAX) {
            last->size += (uint32_t)size;
            last->count += count;
            return;
        }
    }
    if (interest->tail - interest->head == interest->capacity && !make_room(stream, interest)) {
        interest->complete_from = position + size;
        return;
    }
    *hm_note_at(interest, interest->tail++) = (hm_note){position, sequence, (uint32_t)size, count};
}

/* ---- everything so far ---- */

static void everything_add(hm_stream *stream, uint32_t filter) {
    stream->interests[filter].turning = stream->everything_count;
    stream->everything[stream->everything_count++] = filter;
}

static void everything_remove(hm_stream *stream, uint32_t filter) {
    uint32_t at = stream->interests[filter].turning, last = --stream->everything_count;
    assert(stream->everything[at] == filter);
    stream->everything[at] = stream->everything[last];
    stream->interests[stream->everything[at]].turning = at;
}

void hm_interest_topic(hm_stream *stream, uint32_t index) {
    hm_filters_topic(stream->filters, index);
    uint32_t topics = hm_topics_count(stream->topics);
    for (uint32_t i = 0; i < stream->everything_count;) {
        uint32_t filter = stream->everything[i];
        if (hm_filters_matched(stream->filters, filter) == topics) {
            i++;
            continue;
        }
        everything_remove(stream, filter);
        hm_interest *interest = &stream->interests[filter];
        interest->everything = 0;
        interest->everything_until = interest->complete_from = stream->end_position;
        hm_interest_news(stream, filter);
    }
}

/* ---- filters come and go ---- */

static int reserve(hm_stream *stream) {
    if (hm_filters_numbers(stream->filters) < stream->interest_room)
        return 0;
    uint32_t room = stream->interest_room == 0 ? 16 : stream->interest_room * 2;
    hm_interest *interests = realloc(stream->interests, room * sizeof *interests);
    if (interests == NULL)
        return -HM_ENOMEM;
    stream->interests = interests;
    memset(interests + stream->interest_room, 0,
           (room - stream->interest_room) * sizeof *interests);
    uint32_t *everything = realloc(stream->everything, room * sizeof *everything);
    if (everything == NULL)
        return -HM_ENOMEM;
    stream->everything = everything;
    uint32_t *ready = realloc(stream->ready, room * sizeof *ready);
    if (ready == NULL)
        return -HM_ENOMEM;
    stream->ready = ready;
    stream->interest_room = room;
    return 0;
}

int64_t hm_interest_want(hm_stream *stream, int kind, const uint8_t *text, uint32_t len) {
    int error = reserve(stream);
    if (error != 0)
        return error;
    int64_t filter = hm_filters_add(stream->filters, kind, text, len);
    assert(filter < stream->interest_room);
    return filter;
}

int64_t hm_interest_open(hm_stream *stream, int kind, const uint8_t *text, uint32_t len) {
    int64_t filter = hm_interest_want(stream, kind, text, len);
    if (filter < 0)
        return filter;
    uint32_t number = (uint32_t)filter;
    while (!hm_filters_settled(stream->filters, number))
        hm_filters_sweep(stream->filters, UINT64_MAX);
    hm_interest *interest = &stream->interests[filter];
    if (interest->used)
        return filter;
    int everything = hm_filters_matched(stream->filters, number) == hm_topics_count(stream->topics);
    *interest = (hm_interest){.complete_from = stream->end_position,
                              .everything_until = everything ? UINT64_MAX : 0,
                              .everything = (uint8_t)everything,
                              .used = 1};
    if (everything)
        everything_add(stream, number);
    return filter;
}

void hm_interest_close(hm_stream *stream, uint32_t filter) {
    hm_interest *interest = &stream->interests[filter];
    if (!hm_filters_remove(stream->filters, filter))
        return;
    assert(interest->cursors == NULL);
    if (interest->everything)
        everything_remove(stream, filter);
    if (interest->ready) {
        uint32_t at = interest->ready_at, last = stream->ready[--stream->ready_count];
        assert(stream->ready[at] == filter);
        stream->ready[at] = last;
        stream->interests[last].ready_at = at;
    }
    stream->note_room -= interest->capacity;
    free(interest->notes);
    *interest = (hm_interest){0};
}
