/* hm_cursor.c -- how far one subscription has read, and what it is sent next. */
#include "stream_internal.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define POPULATE_AHEAD 8388608u /* bytes: eight walks; a replay finds its memory in place */
#define FORGET_BEHIND                                                                              \
    16777216u /* bytes: more than a connection's output, which may not have left yet */

/* Why a step came back.  Negative: -HM_E*. */
enum { CAUGHT_UP, FULL, PAUSED, RANGED, GAP, MORE, COLD };

/* One call of hm_cursor_next: the batch it builds and the stretch of log memory it looks at. */
typedef struct {
    hm_cursor *cursor;
    uint8_t *out;      /* frames go to out + HM_BATCH_HEADER */
    uint64_t room;     /* bytes of frames that several may fill */
    uint64_t room_one; /* bytes of frames that one may fill */
    uint64_t used;
    uint64_t messages;
    uint64_t walked; /* bytes looked at, of HM_CURSOR_TAIL */
    hm_segment *segment;
    const uint8_t *memory; /* of the frame at `run.position` */
    hm_range run;          /* whole frames in `segment`; after GAP: where to go on */
    int reason;            /* after GAP: HM_EGONE or HM_EDAMAGED */
} pass;

/* ---- log memory ---- */

static void unpin(pass *p) {
    if (p->segment != NULL)
        hm_segment_release(p->segment);
    p->segment = NULL;
}

/* Brings the frames at `position`, which is not the end, into the pass's window.  MORE, GAP, COLD
 * or -HM_E*. */
static int look(pass *p, uint64_t position) {
    if (p->segment != NULL && position >= p->run.position &&
        position < p->run.position + p->run.size)
        return MORE;
    unpin(p);
    hm_log *log = p->cursor->stream->log;
    int got = hm_log_read(log, position, UINT64_MAX, &p->run);
    if (got == -HM_EGONE || got == -HM_EDAMAGED) {
        p->reason = -got;
        return GAP;
    }
    if (got == -HM_ECOLD)
        return COLD;
    if (got != 1)
        return got < 0 ? got : -HM_EIO;
    p->segment = hm_log_pin(log, p->run.segment);
    if (p->segment == NULL)
        return -HM_EIO;
    uint64_t mapped;
    p->memory = hm_segment_memory(p->segment, &mapped) + p->run.offset;
    assert(p->run.offset + p->run.size <= mapped);
    return MORE;
}

static const uint8_t *frame_at(const pass *p, uint64_t position) {
    return p->memory + (position - p->run.position);
}

/* Asks for the memory that a replay needs next, and gives up what it has left. */
static void populate_ahead(hm_cursor *cursor) {
    uint64_t end = cursor->stream->end_position, from = cursor->populated;
    if (end - cursor->position < POPULATE_AHEAD || cursor->position + POPULATE_AHEAD / 2 < from)
        return;
    if (from < cursor->position) /* it begins, or has jumped */
        from = cursor->forgotten = cursor->position;
    uint64_t size = end - from < POPULATE_AHEAD ? end - from : POPULATE_AHEAD;
    hm_log_populate(cursor->stream->log, from, size);
    cursor->populated = from + size;
    if (cursor->position > cursor->forgotten + FORGET_BEHIND) {
        uint64_t behind = cursor->position - FORGET_BEHIND;
        uint64_t left = behind - cursor->forgotten;
        if (hm_log_forget(cursor->stream->log, cursor->forgotten, left))
            cursor->forgotten = behind;
    }
}

/* ---- the batch that is built ---- */

static int fits(const pass *p, uint64_t size) {
    return p->used == 0 ? size <= p->room_one : p->used + size <= p->room;
}

static void put(pass *p, const uint8_t *frames, uint64_t size, uint64_t messages) {
    memcpy(p->out + HM_BATCH_HEADER + p->used, frames, size);
    p->used += size;
    p->messages += messages;
}

/* Copies the frames from the cursor's position to `until`, as many as fit.  1: all of them. */
static int copy_run(pass *p, uint64_t until, uint64_t next_sequence) {
    hm_cursor *cursor = p->cursor;
    const uint8_t *frames = frame_at(p, cursor->position);
    uint64_t size = until - cursor->position;
    if (p->used + size > p->room) {
        size = 0;
        next_sequence = cursor->sequence;
        while (cursor->position + size < until) {
            uint64_t frame = hm_frame_skip(frames + size);
            if (p->used + size == 0 ? frame > p->room_one : p->used + size + frame > p->room)
                break;
            size += frame;
            next_sequence++;
        }
    }
    put(p, frames, size, next_sequence - cursor->sequence);
    cursor->position += size;
    cursor->sequence = next_sequence;
    return cursor->position == until;
}

static void describe(const pass *p, uint64_t through, uint64_t size, uint64_t now_ns,
                     hm_delivery *delivery) {
    hm_cursor *cursor = p->cursor;
    assert(through >= cursor->covered);
    hm_batch_encode(p->out, cursor->batch_id, cursor->stream->index, cursor->covered, through, size,
                    now_ns);
    delivery->after = cursor->covered;
    delivery->through = through;
    cursor->covered = through;
}

static void deliver_copied(const pass *p, uint64_t through, uint64_t now_ns,
                           hm_delivery *delivery) {
    describe(p, through, p->used, now_ns, delivery);
    delivery->kind = HM_DELIVER_COPIED;
    delivery->written = HM_BATCH_HEADER + p->used;
    delivery->messages = p->messages;
}

static void deliver_range(const pass *p, uint64_t through, uint64_t now_ns, hm_delivery *delivery) {
    describe(p, through, p->run.size, now_ns, delivery);
    delivery->kind = HM_DELIVER_RANGE;
    delivery->written = HM_BATCH_HEADER;
    delivery->messages = p->run.next_sequence - p->run.first_sequence;
    delivery->range = p->run;
}

static void deliver_gap(hm_cursor *cursor, uint64_t last, int reason, hm_delivery *delivery) {
    delivery->kind = HM_DELIVER_GAP;
    delivery->after = cursor->covered;
    delivery->through = last;
    delivery->gap_first = cursor->covered + 1;
    delivery->gap_last = last;
    delivery->gap_reason = reason;
    cursor->covered = last;
}

/* ---- the three stretches of a cursor's way ---- */

/* Reads a run of at most `limit` bytes of log memory for a RANGE delivery. */
static int take_range(pass *p, uint64_t position, uint64_t limit) {
    unpin(p);
    int got = hm_log_read(p->cursor->stream->log, position, limit, &p->run);
    if (got == -HM_EGONE || got == -HM_EDAMAGED) {
        p->reason = -got;
        return GAP;
    }
    if (got == -HM_ECOLD)
        return COLD;
    return got == 1 ? RANGED : got == 0 ? CAUGHT_UP : got;
}

static int everything(pass *p, uint64_t until, uint64_t limit) {
    hm_cursor *cursor = p->cursor;
    assert(p->used == 0);
    populate_ahead(cursor);
    uint64_t left = until - cursor->position;
    int got = take_range(p, cursor->position, left < limit ? left : limit);
    if (got == RANGED) {
        cursor->position += p->run.size;
        cursor->sequence = p->run.next_sequence;
    }
    return got;
}

static int wanted(const hm_cursor *cursor, const uint8_t *frame, const uint8_t **previous,
                  int *answer) {
    const uint8_t *before = *previous;
    *previous = frame;
    if (before == NULL || before[6] != frame[6] ||
        !hm_topic_equal(before + HM_FRAME_HEADER, frame + HM_FRAME_HEADER, frame[6]))
        *answer = hm_filters_wants(cursor->stream->filters, cursor->filter, frame + HM_FRAME_HEADER,
                                   frame[6]);
    return *answer;
}

/* Looks at every frame of the window from the cursor on, up to `until`. */
static int walk_run(pass *p, uint64_t until) {
    hm_cursor *cursor = p->cursor;
    const uint8_t *previous = NULL;
    int answer = 0;
    while (cursor->position < until) {
        if (p->walked >= HM_CURSOR_TAIL)
            return PAUSED;
        const uint8_t *frame = frame_at(p, cursor->position);
        uint64_t size = hm_frame_skip(frame);
        if (wanted(cursor, frame, &previous, &answer)) {
            if (!fits(p, size))
                return FULL;
            put(p, frame, size, 1);
        }
        p->walked += size;
        cursor->position += size;
        cursor->sequence++;
    }
    return MORE;
}

static int walk(pass *p, uint64_t until) {
    hm_cursor *cursor = p->cursor;
    populate_ahead(cursor);
    while (cursor->position < until) {
        int state = look(p, cursor->position);
        if (state != MORE)
            return state;
        uint64_t run_end = p->run.position + p->run.size;
        state = walk_run(p, run_end < until ? run_end : until);
        if (state != MORE)
            return state;
    }
    return MORE;
}

/* 1 if note `at` is the first that ends behind the cursor's position. */
static int note_is_next(const hm_interest *interest, const hm_cursor *cursor, uint64_t at) {
    return at >= interest->head && at <= interest->tail &&
           (at == interest->tail || hm_note_end(hm_note_at(interest, at)) > cursor->position) &&
           (at == interest->head || hm_note_end(hm_note_at(interest, at - 1)) <= cursor->position);
}

static uint64_t note_find(const hm_interest *interest, const hm_cursor *cursor) {
    if (note_is_next(interest, cursor, cursor->note))
        return cursor->note;
    if (note_is_next(interest, cursor, cursor->note - 1)) /* the last note has grown since */
        return cursor->note - 1;
    uint64_t low = interest->head, high = interest->tail;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (hm_note_end(hm_note_at(interest, middle)) <= cursor->position)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int copy_note(pass *p, const hm_note *note) {
    hm_cursor *cursor = p->cursor;
    uint64_t end = hm_note_end(note), next = note->sequence + note->count;
    if (end > cursor->stream->shown_position) {
        end = cursor->stream->shown_position;
        next = cursor->stream->shown_sequence;
    }
    if (cursor->position < note->position) { /* nothing between is wanted */
        cursor->position = note->position;
        cursor->sequence = note->sequence;
    }
    while (cursor->position < end) {
        int state = look(p, cursor->position);
        if (state != MORE)
            return state;
        uint64_t run_end = p->run.position + p->run.size;
        int whole = end <= run_end;
        if (!copy_run(p, whole ? end : run_end, whole ? next : p->run.next_sequence))
            return FULL;
    }
    return MORE;
}

static int notes(pass *p, hm_interest *interest) {
    hm_cursor *cursor = p->cursor;
    const hm_stream *stream = cursor->stream;
    uint64_t i = note_find(interest, cursor);
    for (; i < interest->tail; i++) {
        cursor->note = i;
        const hm_note *note = hm_note_at(interest, i);
        if (note->position >= stream->shown_position)
            break;
        int state = copy_note(p, note);
        if (state != MORE)
            return state;
        if (hm_note_end(note) > stream->shown_position)
            break;
    }
    cursor->note = i;
    cursor->position = stream->shown_position;
    cursor->sequence = stream->shown_sequence;
    return CAUGHT_UP;
}

static int step(pass *p, uint64_t limit) {
    hm_cursor *cursor = p->cursor;
    hm_interest *interest = &cursor->stream->interests[cursor->filter];
    uint64_t shown = cursor->stream->shown_position;
    if (cursor->position >= shown)
        return CAUGHT_UP;
    if (cursor->position < interest->everything_until)
        return everything(
            p, interest->everything_until < shown ? interest->everything_until : shown, limit);
    if (cursor->position < interest->complete_from) {
        int state = walk(p, interest->complete_from < shown ? interest->complete_from : shown);
        if (state != MORE)
            return state;
        if (cursor->position >= shown)
            return CAUGHT_UP;
    }
    return notes(p, interest);
}

/* ---- start=last: the newest of each topic, before going live ---- */

static void newest_push(hm_cursor *cursor, hm_newest item) {
    uint32_t at = cursor->newest_count++;
    for (; at > 0 && cursor->newest[(at - 1) / 2].position > item.position; at = (at - 1) / 2)
        cursor->newest[at] = cursor->newest[(at - 1) / 2];
    cursor->newest[at] = item;
}

static void newest_pop(hm_cursor *cursor) {
    assert(cursor->newest_count > 0);
    uint32_t count = --cursor->newest_count, at = 0, child;
    hm_newest item = cursor->newest[count];
    for (; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count &&
            cursor->newest[child + 1].position < cursor->newest[child].position)
            child++;
        if (cursor->newest[child].position >= item.position)
            break;
        cursor->newest[at] = cursor->newest[child];
    }
    cursor->newest[at] = item;
}

static void newest_done(hm_cursor *cursor) {
    free(cursor->newest);
    cursor->newest = NULL;
}

int hm_cursor_collect(hm_cursor *cursor, uint32_t topics) {
    hm_stream *stream = cursor->stream;
    uint64_t sequence, from = hm_log_start(stream->log, &sequence);
    uint32_t end = hm_topics_count(stream->topics);
    if (cursor->newest == NULL) {
        /* A topic that is added later has nothing before the cursor. */
        uint32_t wanted = hm_filters_matched(stream->filters, cursor->filter);
        cursor->newest = malloc((wanted > 0 ? wanted : 1) * sizeof *cursor->newest);
        if (cursor->newest == NULL)
            return -HM_ENOMEM;
    }
    if (topics < end - cursor->collected)
        end = cursor->collected + topics;
    for (; cursor->collected < end; cursor->collected++) {
        uint32_t len;
        const uint8_t *name = hm_topics_name(stream->topics, cursor->collected, &len);
        const hm_topic *topic = hm_topics_at(stream->topics, cursor->collected);
        if (topic->last_sequence != 0 && topic->last_position >= from &&
            topic->last_position < cursor->position &&
            hm_filters_wants(stream->filters, cursor->filter, name, len))
            newest_push(cursor, (hm_newest){topic->last_position, topic->last_sequence});
    }
    if (cursor->collected < hm_topics_count(stream->topics))
        return 1;
    if (cursor->newest_count > 0)
        cursor->covered = cursor->newest[0].sequence - 1;
    else
        newest_done(cursor);
    return 0;
}

/* Copies frames.  CAUGHT_UP: they are all copied. */
static int newest_copy(pass *p) {
    hm_cursor *cursor = p->cursor;
    for (; cursor->newest_count > 0; newest_pop(cursor)) {
        uint64_t position = cursor->newest[0].position;
        int state = look(p, position);
        if (state != MORE)
            return state;
        const uint8_t *frame = frame_at(p, position);
        uint64_t size = hm_frame_skip(frame);
        if (!fits(p, size))
            return FULL;
        put(p, frame, size, 1);
    }
    return CAUGHT_UP;
}

/* What stands before the oldest item is covered by the message before it; behind the last,
 * all is. */
static uint64_t newest_through(const hm_cursor *cursor) {
    return cursor->newest_count == 0 ? cursor->sequence - 1 : cursor->newest[0].sequence - 1;
}

/* The memory that the pass has stopped at is to be brought. */
static int ask_for(const pass *p, hm_delivery *delivery) {
    delivery->kind = HM_DELIVER_COLD;
    delivery->range.position = p->run.position;
    return 0;
}

static int newest_next(pass *p, uint64_t now_ns, hm_delivery *delivery) {
    hm_cursor *cursor = p->cursor;
    int state = newest_copy(p);
    if (state < 0)
        return state;
    if (state == COLD && p->used == 0)
        return ask_for(p, delivery);
    if (state == GAP && p->used == 0 && newest_through(cursor) == cursor->covered) {
        uint64_t last = cursor->covered + 1;
        for (; cursor->newest_count > 0; newest_pop(cursor)) {
            if (cursor->newest[0].sequence >= p->run.first_sequence)
                break;
            last = cursor->newest[0].sequence;
        }
        deliver_gap(cursor, last, p->reason, delivery);
    } else if (state == FULL && p->used == 0) {
        state = take_range(p, cursor->newest[0].position, 1);
        if (state != RANGED)
            return state < 0 ? state : -HM_EIO;
        newest_pop(cursor);
        deliver_range(p, newest_through(cursor), now_ns, delivery);
    } else {
        deliver_copied(p, newest_through(cursor), now_ns, delivery);
    }
    if (cursor->newest_count == 0)
        newest_done(cursor);
    return 0;
}

/* ---- putting it together ---- */

/* The frames at the cursor's position can't be had. */
static int meet_gap(pass *p, uint64_t now_ns, hm_delivery *delivery) {
    hm_cursor *cursor = p->cursor;
    if (p->used > 0 || cursor->covered + 1 < cursor->sequence) {
        deliver_copied(p, cursor->sequence - 1, now_ns, delivery); /* the gap is the next call's */
        return 0;
    }
    if (p->run.position <= cursor->position || p->run.first_sequence < cursor->sequence)
        return -HM_EIO;
    cursor->position = p->run.position;
    cursor->sequence = p->run.first_sequence;
    if (cursor->sequence > cursor->covered + 1)
        deliver_gap(cursor, cursor->sequence - 1, p->reason, delivery);
    else
        delivery->kind = HM_DELIVER_AGAIN; /* bytes are missing, but no message */
    return 0;
}

/* A frame that does not fit `out` is sent from the log. */
static int deliver_one(pass *p, uint64_t now_ns, hm_delivery *delivery) {
    hm_cursor *cursor = p->cursor;
    int state = take_range(p, cursor->position, 1);
    if (state != RANGED)
        return state < 0 ? state : -HM_EIO;
    cursor->position += p->run.size;
    cursor->sequence = p->run.next_sequence;
    deliver_range(p, cursor->sequence - 1, now_ns, delivery);
    return 0;
}

static int next(pass *p, uint64_t limit, int progress, uint64_t now_ns, hm_delivery *delivery) {
    hm_cursor *cursor = p->cursor;
    if (cursor->gap_last != 0) {
        deliver_gap(cursor, cursor->gap_last, cursor->gap_reason, delivery);
        cursor->gap_last = 0;
        return 0;
    }
    if (cursor->newest != NULL)
        return newest_next(p, now_ns, delivery);
    int state = step(p, limit);
    if (state < 0)
        return state;
    if (state == GAP)
        return meet_gap(p, now_ns, delivery);
    if (state == RANGED) {
        deliver_range(p, cursor->sequence - 1, now_ns, delivery);
        return 0;
    }
    if (state == FULL && p->used == 0)
        return deliver_one(p, now_ns, delivery);
    if (p->used > 0 || (state == CAUGHT_UP && progress && cursor->covered + 1 < cursor->sequence))
        deliver_copied(p, cursor->sequence - 1, now_ns, delivery);
    else if (state == COLD)
        return ask_for(p, delivery);
    else
        delivery->kind = state == CAUGHT_UP ? HM_DELIVER_NOTHING : HM_DELIVER_AGAIN;
    return 0;
}

/* Whether the time has come that was asked for, which had not when the cursor was opened; the cursor
 * stands at the first message from then on. */
static bool has_begun(hm_cursor *cursor) {
    hm_stream *stream = cursor->stream;
    hm_range at;
    if (hm_log_newest_time(stream->log) < cursor->not_before_ns)
        return false;
    hm_log_locate_time(stream->log, cursor->not_before_ns, &at);
    if (at.position >= stream->shown_position)
        return false;
    if (at.position > cursor->position) {
        cursor->position = at.position;
        cursor->sequence = at.first_sequence; /* the next batch covers what is passed over */
    }
    cursor->not_before_ns = 0;
    return true;
}

int hm_cursor_next(hm_cursor *cursor, uint8_t *out, uint64_t capacity, uint64_t limit, int progress,
                   uint64_t now_ns, hm_delivery *delivery) {
    assert(cursor != NULL && delivery != NULL);
    if (capacity < HM_BATCH_HEADER)
        return -HM_EINVAL;
    *delivery = (hm_delivery){0};
    if (cursor->not_before_ns != 0 && !has_begun(cursor))
        return 0;
    if (limit == 0)
        limit = 1;
    uint64_t room = capacity - HM_BATCH_HEADER;
    pass p = {.cursor = cursor, .out = out, .room = limit < room ? limit : room, .room_one = room};
    int result = next(&p, limit, progress, now_ns, delivery);
    unpin(&p);
    return result;
}

/* ---- opening and closing ---- */

static void begin_at_sequence(hm_cursor *cursor, uint64_t sequence, const hm_log_status *status) {
    hm_range at;
    hm_log_locate(cursor->stream->log, sequence, &at);
    cursor->position = at.position;
    cursor->sequence = at.first_sequence;
    if (sequence == 0 || at.first_sequence <= sequence)
        return;
    cursor->covered = sequence - 1;
    cursor->gap_last = at.first_sequence - 1;
    cursor->gap_reason = sequence < status->first_sequence ? HM_EGONE : HM_EDAMAGED;
}

static int begin(hm_cursor *cursor, int start, uint64_t value) {
    hm_stream *stream = cursor->stream;
    hm_log_status status;
    hm_range at;
    hm_log_status_get(stream->log, &status);
    cursor->position = stream->shown_position;
    cursor->sequence = stream->shown_sequence;
    switch (start) {
    case HM_START_EARLIEST:
        /* Not wherever the first sound one is: damage before it is a gap. */
        begin_at_sequence(cursor, status.first_sequence, &status);
        break;
    case HM_START_SEQUENCE:
        begin_at_sequence(cursor, value, &status);
        break;
    case HM_START_TIME:
        hm_log_locate_time(stream->log, value, &at);
        if (at.position >= stream->shown_position)
            cursor->not_before_ns = value;
        else
            cursor->position = at.position, cursor->sequence = at.first_sequence;
        break;
    default:
        break;
    }
    if (cursor->gap_last == 0)
        cursor->covered = cursor->sequence - 1;
    return start == HM_START_LAST ? hm_cursor_collect(cursor, UINT32_MAX) : 0;
}

int hm_cursor_open(hm_stream *stream, int filter_kind, const uint8_t *filter, uint32_t filter_len,
                   uint32_t batch_id, int start, uint64_t value, hm_cursor **opened) {
    assert(stream != NULL && opened != NULL);
    if (start < HM_START_LATEST || start > HM_START_TIME)
        return -HM_EINVAL;
    hm_cursor *cursor = calloc(1, sizeof *cursor);
    if (cursor == NULL)
        return -HM_ENOMEM;
    int64_t number = hm_interest_open(stream, filter_kind, filter, filter_len);
    if (number < 0) {
        free(cursor);
        return (int)number;
    }
    cursor->stream = stream;
    cursor->filter = (uint32_t)number;
    cursor->batch_id = batch_id;
    int error = begin(cursor, start, value);
    if (error != 0) {
        hm_interest_close(stream, cursor->filter);
        free(cursor);
        return error;
    }
    hm_interest *interest = &stream->interests[cursor->filter];
    cursor->note = interest->tail + 1; /* no hint */
    cursor->next = interest->cursors;
    if (cursor->next != NULL)
        cursor->next->previous = cursor;
    interest->cursors = cursor;
    interest->cursor_count++;
    stream->cursors++;
    *opened = cursor;
    return 0;
}

void hm_cursor_seek(hm_cursor *cursor, uint64_t position, uint64_t sequence, uint64_t wanted,
                    int reason) {
    assert(cursor != NULL && cursor->newest == NULL);
    cursor->position = cursor->populated = cursor->forgotten = position;
    cursor->sequence = sequence;
    cursor->covered = sequence - 1;
    if (wanted != 0 && wanted < sequence) {
        cursor->covered = wanted - 1;
        cursor->gap_last = sequence - 1;
        cursor->gap_reason = reason;
    }
}

void hm_cursor_hold(hm_cursor *cursor, uint64_t time_ns) {
    assert(cursor != NULL && cursor->newest == NULL);
    cursor->not_before_ns = time_ns;
}

void hm_cursor_close(hm_cursor *cursor) {
    if (cursor == NULL)
        return;
    hm_stream *stream = cursor->stream;
    hm_interest *interest = &stream->interests[cursor->filter];
    hm_cursor_unfollow(cursor);
    if (cursor->previous != NULL)
        cursor->previous->next = cursor->next;
    else
        interest->cursors = cursor->next;
    if (cursor->next != NULL)
        cursor->next->previous = cursor->previous;
    interest->cursor_count--;
    stream->cursors--;
    newest_done(cursor);
    hm_interest_close(stream, cursor->filter);
    free(cursor);
}

void hm_cursor_follow(hm_cursor *cursor, hm_readers *owner) {
    assert(cursor->reader.owner == NULL);
    cursor->reader.owner = owner;
    owner->followed++;
    hm_reader_wake(&cursor->reader);
}

void hm_cursor_unfollow(hm_cursor *cursor) {
    hm_readers *owner = cursor->reader.owner;
    if (owner == NULL)
        return;
    hm_reader_sleep(&cursor->reader);
    owner->followed--;
    cursor->reader.owner = NULL;
}

hm_cursor *hm_reader_cursor(hm_reader *reader) {
    return (hm_cursor *)(void *)reader;
}

hm_stream *hm_cursor_stream(const hm_cursor *cursor) {
    return cursor->stream;
}

uint32_t hm_cursor_id(const hm_cursor *cursor) {
    return cursor->batch_id;
}

uint64_t hm_cursor_through(const hm_cursor *cursor) {
    return cursor->covered;
}
