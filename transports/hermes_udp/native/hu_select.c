/* hu_select.c -- picks a subscriber's messages out of a group's stream. */
#include "hu_select.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define NONE   UINT32_MAX
#define HEADER HM_BATCH_HEADER
/* Bytes: header, topic, the beginning of a property block. */
#define LOOK_MAX (HM_FRAME_HEADER + 256 + 8)

typedef struct {
    uint64_t told;
    uint64_t seen;
    uint64_t quiet; /* bytes looked at since `told` */
    uint32_t out;
    int wanted;
} route;

typedef struct {
    int used;
    int prefix;
    uint32_t id;
    uint32_t size;
    uint8_t filter[HM_TOPIC_MAX];
    route routes[HU_SELECT_STREAMS];
} row;

/* One message frame of the input. */
typedef struct {
    uint64_t size;
    uint64_t sequence;
    uint32_t topic_len;
    const uint8_t *topic;
    uint8_t memory[LOOK_MAX]; /* where it stands if it wraps */
} look;

struct hu_select {
    uint32_t stream_count;
    uint32_t indexes[HU_SELECT_STREAMS];
    uint64_t throughs[HU_SELECT_STREAMS];
    uint64_t gaps[HU_SELECT_STREAMS]; /* up to where the rows are to be told of one; 0: nowhere */
    uint32_t gap_count;
    row rows[HU_SELECT_ROWS];
    uint32_t row_count; /* rows below were in use once */

    /* The batch under way. */
    int inside;
    uint32_t slot; /* of its stream; NONE: nobody knows it */
    uint64_t left; /* bytes of its frames that are not consumed */
    uint64_t after;
    uint64_t through;
    uint64_t timestamp_ns;
    int skipping; /* no row wants it */

    /* The part of it that the rows take in turn. */
    int open;
    uint64_t size;
    uint64_t chunk_through;
    uint32_t turn; /* the row */
    uint64_t at;   /* how far that row is in it, */
    uint64_t last; /* and the sequence it looked at last */

    /* A batch of one frame for which the output had no room in one piece. */
    uint8_t head[HEADER];
    uint32_t head_left;
    uint64_t frame_at;
    uint64_t frame_left;

    uint8_t control[HU_SELECT_CONTROL];
};

typedef struct {
    const hu_bytes *input;
    uint64_t start; /* of what is not consumed */
    uint8_t *out;
    uint64_t capacity;
    uint64_t written;
} walk;

hu_select *hu_select_new(void) {
    return calloc(1, sizeof(hu_select));
}

void hu_select_free(hu_select *select) {
    free(select);
}

/* ---- the input ---- */

static uint64_t padded(uint64_t size) {
    return (size + 7) & ~(uint64_t)7;
}

static uint32_t load32(const uint8_t *data) {
    return (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 |
           (uint32_t)data[3] << 24;
}

static uint64_t load64(const uint8_t *data) {
    return load32(data) | (uint64_t)load32(data + 4) << 32;
}

static uint64_t available(const walk *w) {
    return w->input->size[0] + w->input->size[1] - w->start;
}

static void copy(const walk *w, uint64_t offset, uint8_t *out, uint64_t size) {
    const hu_bytes *input = w->input;
    uint64_t at = w->start + offset;
    assert(at + size <= input->size[0] + input->size[1]);
    uint64_t first = at < input->size[0] ? input->size[0] - at : 0;
    first = first < size ? first : size;
    if (first > 0)
        memcpy(out, input->data[0] + at, first);
    if (first < size)
        memcpy(out + first, input->data[1] + (at + first - input->size[0]), size - first);
}

/* Bytes in one piece: where they stand, or copied to `memory`. */
static const uint8_t *peek(const walk *w, uint64_t offset, uint64_t size, uint8_t *memory) {
    uint64_t at = w->start + offset, border = w->input->size[0];
    if (at + size <= border)
        return w->input->data[0] + at;
    if (at >= border)
        return w->input->data[1] + (at - border);
    copy(w, offset, memory, size);
    return memory;
}

/* The message frame at `offset`, of which `bound` bytes may be: 1; 0: not all of it is there; or
 * -HM_E*. */
static int see(const walk *w, uint64_t offset, uint64_t bound, look *frame) {
    uint64_t there = available(w) - offset;
    if (bound < HM_FRAME_HEADER)
        return -HM_ELENGTH;
    there = there < bound ? there : bound;
    if (there < HM_FRAME_HEADER)
        return 0;
    uint64_t size = there < LOOK_MAX ? there : LOOK_MAX;
    const uint8_t *data = peek(w, offset, size, frame->memory);
    if (memcmp(data, "HRMS", 4) != 0)
        return -HM_EMAGIC;
    if (data[4] != HM_FRAME_VERSION || data[5] != HM_MESSAGE || data[7] > 1)
        return -HM_ETYPE;
    uint64_t head = HM_FRAME_HEADER + padded(data[6]);
    if (data[7] != 0) { /* a property block, whose length it begins with */
        if (bound < head + 8)
            return -HM_ELENGTH;
        if (size < head + 8)
            return 0;
        head += padded(4 + (uint64_t)load32(data + head));
    }
    frame->size = head + padded(load32(data + 24));
    frame->sequence = load64(data + 8);
    frame->topic_len = data[6];
    frame->topic = data + HM_FRAME_HEADER;
    if (frame->size > bound)
        return -HM_ELENGTH;
    return frame->size <= there;
}

/* ---- tables ---- */

static uint32_t slot_of(const hu_select *select, uint32_t index) {
    for (uint32_t i = 0; i < select->stream_count; i++)
        if (select->indexes[i] == index)
            return i;
    return NONE;
}

int hu_select_stream(hu_select *select, uint32_t index, uint64_t through) {
    uint32_t slot = slot_of(select, index);
    if (slot == NONE && select->stream_count == HU_SELECT_STREAMS)
        return -HM_EFULL;
    if (slot == NONE)
        slot = select->stream_count++;
    select->indexes[slot] = index;
    select->throughs[slot] = through;
    return 0;
}

uint64_t hu_select_through(const hu_select *select, uint32_t index) {
    uint32_t slot = slot_of(select, index);
    return slot == NONE ? UINT64_MAX : select->throughs[slot];
}

int hu_select_border(const hu_select *select) {
    return !select->open && select->gap_count == 0 &&
           !(select->inside && (select->skipping || select->left == 0));
}

int hu_select_pending(const hu_select *select) {
    return select->head_left > 0 || select->frame_left > 0;
}

int hu_select_add(hu_select *select, uint32_t id, int prefix, const uint8_t *filter,
                  uint32_t size) {
    uint32_t number = 0;
    assert(size <= HM_TOPIC_MAX && hu_select_border(select));
    while (number < select->row_count && select->rows[number].used)
        number++;
    if (number == HU_SELECT_ROWS)
        return -HM_EFULL;
    if (number == select->row_count)
        select->row_count++;
    row *fresh = &select->rows[number];
    *fresh = (row){.used = 1, .prefix = prefix, .id = id, .size = size};
    if (size > 0)
        memcpy(fresh->filter, filter, size);
    return (int)number;
}

int hu_select_route(hu_select *select, uint32_t number, uint32_t index, uint32_t out,
                    uint64_t through) {
    uint32_t slot = slot_of(select, index);
    assert(number < select->row_count && hu_select_border(select));
    if (slot == NONE)
        return -HM_EUNKNOWN;
    select->rows[number].routes[slot] =
        (route){.told = through, .seen = through, .out = out, .wanted = 1};
    return 0;
}

void hu_select_remove(hu_select *select, uint32_t number) {
    assert(number < select->row_count && !hu_select_pending(select));
    select->rows[number].used = 0;
}

void hu_select_resync(hu_select *select) {
    assert(!hu_select_pending(select));
    select->inside = select->open = select->skipping = 0;
    for (uint32_t i = 0; i < select->stream_count; i++)
        select->throughs[i] = UINT64_MAX;
}

const uint8_t *hu_select_control(const hu_select *select) {
    return select->control;
}

static int is_wanted(const hu_select *select, uint32_t slot) {
    for (uint32_t i = 0; i < select->row_count; i++)
        if (select->rows[i].used && select->rows[i].routes[slot].wanted)
            return 1;
    return 0;
}

static int matches(const row *one, const look *frame) {
    if (one->prefix)
        return frame->topic_len >= one->size && memcmp(frame->topic, one->filter, one->size) == 0;
    return hu_core->pattern_match(one->filter, one->size, frame->topic, frame->topic_len);
}

/* ---- envelopes ---- */

static void open_chunk(hu_select *select, uint64_t size, uint64_t through) {
    select->open = 1;
    select->size = size;
    select->chunk_through = through;
    select->turn = 0;
    select->at = 0;
}

void hu_select_gap(hu_select *select, uint32_t index, uint64_t last) {
    uint32_t slot = slot_of(select, index);
    if (slot != NONE && last == 0 && select->throughs[slot] == UINT64_MAX)
        select->throughs[slot] = 0; /* known, and nothing is missing */
    if (slot == NONE || last <= select->gaps[slot])
        return;
    if (select->throughs[slot] != UINT64_MAX && last <= select->throughs[slot])
        return;
    select->gap_count += select->gaps[slot] == 0;
    select->gaps[slot] = last;
}

/* A gap as a batch that begins behind it and has nothing. */
static void begin_gap(hu_select *select) {
    uint32_t slot = 0;
    while (select->gaps[slot] == 0)
        slot++;
    select->inside = 1;
    select->skipping = 0;
    select->slot = slot;
    select->left = 0;
    select->after = select->through = select->gaps[slot];
    select->gaps[slot] = 0;
    select->gap_count--;
}

static int begin_batch(hu_select *select, walk *w) {
    uint8_t memory[HEADER];
    hm_slice slice;
    hm_batch batch;
    uint64_t needed;
    if (available(w) < HEADER)
        return HU_SELECT_MORE;
    const uint8_t *data = peek(w, 0, HEADER, memory);
    int64_t checked = hu_core->frame_check(data, HEADER, UINT32_MAX, &slice, &needed);
    if (checked < 0)
        return HU_SELECT_MALFORMED;
    hu_core->batch_parse(data, &batch);
    w->start += HEADER;
    select->inside = 1;
    select->left = batch.frames_size;
    select->after = batch.after;
    select->through = batch.through;
    select->timestamp_ns = batch.timestamp_ns;
    select->slot = slot_of(select, batch.stream);
    select->skipping = select->slot == NONE || !is_wanted(select, select->slot);
    return -1;
}

static int take_control(hu_select *select, walk *w, uint64_t size, hu_select_event *event) {
    hm_slice slice;
    uint64_t needed;
    if (size > sizeof select->control)
        return HU_SELECT_MALFORMED;
    if (available(w) < size)
        return HU_SELECT_MORE;
    copy(w, 0, select->control, size);
    if (hu_core->frame_check(select->control, size, UINT32_MAX, &slice, &needed) < 0)
        return HU_SELECT_MALFORMED;
    w->start += size;
    event->size = (uint32_t)size;
    return HU_SELECT_CONTROL_AT;
}

/* What stands next in the stream: -1: a batch has begun; else why the walk stops. */
static int begin(hu_select *select, walk *w, hu_select_event *event) {
    uint8_t memory[HM_FRAME_HEADER];
    if (available(w) < HM_FRAME_HEADER)
        return HU_SELECT_MORE;
    const uint8_t *data = peek(w, 0, HM_FRAME_HEADER, memory);
    if (memcmp(data, "HRMS", 4) != 0 || data[4] != HM_FRAME_VERSION)
        return HU_SELECT_MALFORMED;
    if (data[5] == HM_BATCH)
        return begin_batch(select, w);
    if (data[5] < HM_HELLO || data[5] > HM_CLOSE)
        return HU_SELECT_MALFORMED;
    return take_control(select, w, HM_FRAME_HEADER + padded(load32(data + 24)), event);
}

/* Nobody wants the batch: past it.  -1, or HU_SELECT_MORE. */
static int skip(hu_select *select, walk *w) {
    uint64_t size = available(w) < select->left ? available(w) : select->left;
    w->start += size;
    select->left -= size;
    if (select->left > 0)
        return HU_SELECT_MORE;
    if (select->slot != NONE)
        select->throughs[select->slot] = select->through;
    select->inside = select->skipping = 0;
    return -1;
}

/* The next whole frames of the batch as a chunk.  -1, or why the walk stops. */
static int next_chunk(hu_select *select, const walk *w) {
    uint64_t size = 0, last = select->after;
    look frame;
    while (size < select->left && size < HU_SELECT_CHUNK) {
        int seen = see(w, size, select->left - size, &frame);
        if (seen < 0 || (seen > 0 && (frame.sequence <= last || frame.sequence > select->through)))
            return HU_SELECT_MALFORMED;
        if (seen == 0)
            break;
        size += frame.size;
        last = frame.sequence;
    }
    if (size == 0 && select->left > 0)
        return HU_SELECT_MORE;
    open_chunk(select, size, size == select->left ? select->through : last);
    return -1;
}

static void close_chunk(hu_select *select, walk *w) {
    w->start += select->size;
    select->left -= select->size;
    select->after = select->chunk_through;
    select->throughs[select->slot] = select->chunk_through;
    select->open = 0;
    select->inside = select->left > 0;
}

/* ---- output ---- */

static void tell(route *to, uint64_t through) {
    to->told = to->seen = through;
    to->quiet = 0;
}

/* What is left of a frame that is being written. */
static void drain(hu_select *select, walk *w) {
    uint64_t room = w->capacity - w->written;
    uint32_t head = select->head_left < room ? select->head_left : (uint32_t)room;
    memcpy(w->out + w->written, select->head + HEADER - select->head_left, head);
    select->head_left -= head;
    w->written += head;
    room -= head;
    uint64_t size = select->frame_left < room ? select->frame_left : room;
    if (size > 0)
        copy(w, select->frame_at, w->out + w->written, size);
    select->frame_at += size;
    select->frame_left -= size;
    w->written += size;
}

/* A batch without messages.  0: there was no room for all of it, and it is pending if there was
 * nothing before it. */
static int mark(hu_select *select, walk *w, const row *one, route *to, uint64_t through) {
    int fits = w->capacity - w->written >= HEADER;
    if (!fits && w->written > 0)
        return 0;
    hu_core->batch_encode(fits ? w->out + w->written : select->head, one->id, to->out, to->told,
                          through, 0, select->timestamp_ns);
    tell(to, through);
    if (fits)
        w->written += HEADER;
    else
        select->head_left = HEADER;
    return fits;
}

static void end_batch(hu_select *select, walk *w, const row *one, route *to, uint64_t through,
                      uint64_t size) {
    hu_core->batch_encode(w->out + w->written, one->id, to->out, to->told, through, size,
                          select->timestamp_ns);
    w->written += HEADER + size;
    tell(to, through);
}

/* A frame that the output has no room for: as much of it as fits. */
static void begin_long(hu_select *select, const row *one, route *to, const look *frame) {
    hu_core->batch_encode(select->head, one->id, to->out, to->told, frame->sequence, frame->size,
                          select->timestamp_ns);
    select->head_left = HEADER;
    select->frame_at = select->at;
    select->frame_left = frame->size;
    tell(to, frame->sequence);
}

/* What the row wants of the rest of the chunk.  1: all is written; 0: there was no room. */
static int serve(hu_select *select, walk *w, const row *one, route *to) {
    uint64_t used = 0, seen = to->seen;
    look frame;
    while (select->at < select->size) {
        int whole = see(w, select->at, select->size - select->at, &frame);
        assert(whole == 1); /* next_chunk has seen it */
        if (frame.sequence > seen && matches(one, &frame)) {
            uint64_t room = w->capacity - w->written;
            if (room < HEADER + used || room - HEADER - used < frame.size) {
                if (used > 0) {
                    end_batch(select, w, one, to, select->last, used);
                    return 0;
                }
                if (w->written > 0) /* it may fit next time */
                    return 0;
                begin_long(select, one, to, &frame);
                select->at += frame.size;
                select->last = frame.sequence;
                return 0;
            }
            copy(w, select->at, w->out + w->written + HEADER + used, frame.size);
            used += frame.size;
        }
        select->at += frame.size;
        select->last = frame.sequence;
    }
    if (used > 0) {
        end_batch(select, w, one, to, select->chunk_through, used);
        return 1;
    }
    uint64_t quiet = to->quiet + select->size;
    if ((quiet >= HU_MARK_BYTES || select->chunk_through - to->told >= HU_MARK_SEQUENCES) &&
        !mark(select, w, one, to, select->chunk_through))
        return 0;
    to->quiet = to->told == select->chunk_through ? 0 : quiet;
    to->seen = select->chunk_through;
    return 1;
}

/* The row's turn.  -1: it is done; else why the walk stops. */
static int take_turn(hu_select *select, walk *w, row *one, hu_select_event *event) {
    route *to = &one->routes[select->slot];
    if (!one->used || !to->wanted || select->chunk_through <= to->seen)
        return -1;
    if (select->after > to->seen) {
        if (to->seen > to->told && !mark(select, w, one, to, to->seen))
            return HU_SELECT_FULL;
        *event = (hu_select_event){.id = one->id, .stream = to->out};
        event->first = to->told + 1;
        event->last = select->after;
        tell(to, select->after);
        return HU_SELECT_HOLE;
    }
    if (select->at == 0)
        select->last = select->after > to->seen ? select->after : to->seen;
    return serve(select, w, one, to) ? -1 : HU_SELECT_FULL;
}

/* All rows' turns.  -1: the chunk is done; else why the walk stops. */
static int serve_rows(hu_select *select, walk *w, hu_select_event *event) {
    while (select->turn < select->row_count) {
        int stop = take_turn(select, w, &select->rows[select->turn], event);
        if (stop >= 0)
            return stop;
        select->turn++;
        select->at = 0;
    }
    close_chunk(select, w);
    return -1;
}

static int step(hu_select *select, walk *w, hu_select_event *event) {
    if (select->open)
        return serve_rows(select, w, event);
    if (select->inside)
        return select->skipping ? skip(select, w) : next_chunk(select, w);
    if (select->gap_count > 0) {
        begin_gap(select);
        return -1;
    }
    return begin(select, w, event);
}

uint64_t hu_select_walk(hu_select *select, const hu_bytes *input, uint8_t *out, uint64_t capacity,
                        uint64_t *consumed, hu_select_event *event) {
    walk w = {.input = input, .out = out, .capacity = capacity};
    int stop = -1;
    *event = (hu_select_event){0};
    while (stop < 0) {
        drain(select, &w);
        if (hu_select_pending(select)) {
            stop = HU_SELECT_FULL;
            break;
        }
        stop = step(select, &w, event);
        if (stop == HU_SELECT_FULL && hu_select_pending(select) && w.written < capacity)
            stop = -1; /* a part of it fits */
    }
    event->what = (uint32_t)stop;
    *consumed = w.start;
    return w.written;
}
