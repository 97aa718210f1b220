/* hu_caster.c -- sends a group's stream, and repeats what its receivers miss. */
#include "hu_caster.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define NS_PER_S   1000000000u
#define UNKNOWN    UINT64_MAX /* `through` of a stream of which no batch has come */
#define RANGES_MAX ((HU_STATUS_MAX - HU_HEADER) / HU_RANGE)

typedef struct {
    uint64_t target;
    uint64_t start;
    uint64_t end;
    uint64_t sent_ns; /* 0: it waits */
    uint32_t caller;  /* whose turn it waits for */
} repair;

/* Who calls; of more than there is room for, some share one. */
typedef struct {
    uint64_t id;
    uint64_t ranges; /* that wait for its turns, */
    uint64_t bytes;  /* and how much they are */
} share;

/* What stands in the stream before a border. */
typedef struct {
    uint64_t border;
    uint32_t streams;
    uint64_t through[HU_BEACON_STREAMS];
} standing;

struct hu_caster {
    hu_caster_options options;
    uint8_t *ring;
    uint64_t end;
    uint64_t sent;
    uint64_t left; /* bytes of the newest envelope that are still to come */
    hm_batch batch;
    int is_full;

    standing newest; /* before the envelope that is being taken, or is to come */
    standing coming; /* what beacons say once all before it has been sent; `border` 0: nothing */
    standing shown;  /* what they say now */
    hu_beacon_entry names[HU_BEACON_STREAMS];
    uint64_t borders[HU_CAST_BORDERS]; /* a ring, ascending; free-running indices */
    uint32_t border_head;
    uint32_t border_tail;

    repair repairs[HU_CAST_REPAIRS]; /* by target and position, disjoint */
    uint32_t repair_count;
    uint32_t waiting; /* of them */
    uint32_t cursor;  /* where to go on among them */
    share callers[HU_CAST_CALLERS];
    uint32_t turn;     /* whose turn it is */
    int64_t turn_left; /* bytes of it */
    int64_t credit;    /* bytes that may be repeated before new ones have their turn */

    uint64_t pace;    /* bytes a second, now */
    uint64_t pace_ns; /* when it last grew, or had reason not to */
    uint64_t slowed_ns;

    int64_t tokens; /* bytes that may leave now */
    uint64_t tokens_ns;
    uint64_t fed_ns;    /* when new bytes were sent last */
    uint64_t beacon_ns; /* when a beacon was */
    uint64_t pause_ns;  /* from `fed_ns` to the next beacon */
    int beacon_unsent;
    uint64_t train_target;
    hu_beacon beacon;
    hu_beacon_entry entries[HU_BEACON_STREAMS];
    uint8_t body[HU_DATAGRAM_MAX];
    hu_caster_counters counters;
};

static uint64_t least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static uint64_t most(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

static int64_t bounded(int64_t credit) {
    return credit < -HU_CAST_BURST  ? -HU_CAST_BURST
           : credit < HU_CAST_BURST ? credit
                                    : HU_CAST_BURST;
}

hu_caster *hu_caster_new(const hu_caster_options *options, uint64_t now_ns) {
    uint32_t history = options->history;
    assert(history >= HU_HISTORY_MIN && history <= HU_HISTORY_MAX);
    assert((history & (history - 1)) == 0 && options->id != 0);
    assert(options->rate >= HU_CAST_RATE_MIN && options->rate <= HU_CAST_RATE_MAX);
    assert(options->rate_min == 0 ||
           (options->rate_min >= HU_CAST_RATE_MIN && options->rate_min <= options->rate));
    assert(options->datagram >= 2 * HU_DATAGRAM_MIN && options->datagram <= HU_DATAGRAM_MAX);
    assert(options->pattern_size > 0 && options->pattern_size <= HU_NAME_MAX);
    hu_caster *caster = calloc(1, sizeof *caster);
    uint8_t *ring = malloc(history);
    if (caster == NULL || ring == NULL) {
        free(caster);
        free(ring);
        return NULL;
    }
    caster->options = *options;
    if (options->rate_min == 0)
        caster->options.rate_min = options->rate;
    caster->pace = options->rate;
    caster->ring = ring;
    caster->tokens = caster->credit = HU_CAST_BURST;
    caster->tokens_ns = caster->fed_ns = caster->beacon_ns = now_ns;
    caster->pause_ns = HU_BEACON_MIN;
    caster->turn = HU_CAST_CALLERS - 1; /* the first place is next */
    caster->beacon =
        (hu_beacon){.history = history, .pattern_size = (uint8_t)options->pattern_size};
    memcpy(caster->beacon.pattern, options->pattern, options->pattern_size);
    return caster;
}

void hu_caster_free(hu_caster *caster) {
    if (caster == NULL)
        return;
    free(caster->ring);
    free(caster);
}

/* ---- taking ---- */

uint64_t hu_caster_oldest(const hu_caster *caster) {
    return caster->end > caster->options.history ? caster->end - caster->options.history : 0;
}

uint64_t hu_caster_room(const hu_caster *caster) {
    uint64_t ahead = least(HU_CAST_AHEAD, caster->options.history / 8);
    return ahead - least(ahead, caster->end - caster->sent);
}

static void store(hu_caster *caster, const uint8_t *data, uint64_t size) {
    uint64_t at = caster->end & (caster->options.history - 1);
    uint64_t first = least(size, caster->options.history - at);
    memcpy(caster->ring + at, data, first);
    memcpy(caster->ring, data + first, size - first);
    caster->end += size;
}

/* Beacons speak of the newest border before which all has been sent. */
static void catch_up(hu_caster *caster) {
    if (caster->newest.border <= caster->sent) {
        caster->shown = caster->newest;
        caster->coming.border = 0;
    } else if (caster->coming.border != 0 && caster->coming.border <= caster->sent) {
        caster->shown = caster->coming;
        caster->coming.border = 0;
    }
}

/* An envelope ends here. */
static void set_border(hu_caster *caster) {
    uint64_t apart = caster->options.history / HU_CAST_BORDERS * 2;
    uint32_t count = caster->border_tail - caster->border_head;
    caster->counters.envelopes++;
    caster->newest.border = caster->end;
    if (caster->coming.border == 0 || caster->coming.border <= caster->sent) {
        catch_up(caster);
        caster->coming = caster->newest;
    }
    if (count > 0 &&
        caster->end - caster->borders[(caster->border_tail - 1) % HU_CAST_BORDERS] < apart)
        return;
    if (count == HU_CAST_BORDERS)
        caster->border_head++;
    caster->borders[caster->border_tail++ % HU_CAST_BORDERS] = caster->end;
}

static void note_batch(hu_caster *caster) {
    for (uint32_t i = 0; i < caster->newest.streams; i++)
        if (caster->names[i].index == caster->batch.stream)
            caster->newest.through[i] = caster->batch.through;
}

void hu_caster_gap(hu_caster *caster, uint32_t index, uint64_t last) {
    for (uint32_t i = 0; i < caster->newest.streams; i++) {
        uint64_t *through = &caster->newest.through[i];
        if (caster->names[i].index == index && (*through == UNKNOWN || *through < last))
            *through = last;
    }
}

/* The header of a batch at `data`.  0 or -HM_E*. */
static int begin_batch(hu_caster *caster, const uint8_t *data, uint64_t size) {
    hm_slice slice;
    uint64_t needed = 0;
    int64_t whole = hu_core->frame_check(data, size, UINT32_MAX, &slice, &needed);
    if (whole < 0)
        return (int)whole;
    if ((uint64_t)whole > caster->options.history / 2)
        return -HM_ELENGTH;
    hu_core->batch_parse(data, &caster->batch);
    caster->left = (uint64_t)whole;
    return 0;
}

int64_t hu_caster_feed(hu_caster *caster, const uint8_t *data, uint64_t size, uint32_t *control) {
    uint64_t taken = 0, room = hu_caster_room(caster);
    *control = 0;
    while (taken < size && room > 0) {
        if (caster->left == 0) {
            if (size - taken >= HM_FRAME_HEADER && data[taken + 5] != HM_BATCH) {
                *control = data[taken + 5];
                return (int64_t)taken;
            }
            int error = begin_batch(caster, data + taken, size - taken);
            if (error != 0)
                return error;
        }
        uint64_t piece = least(least(caster->left, size - taken), room);
        store(caster, data + taken, piece);
        taken += piece;
        room -= piece;
        caster->left -= piece;
        if (caster->left == 0) {
            note_batch(caster);
            set_border(caster);
        }
    }
    caster->counters.full += taken < size && !caster->is_full;
    caster->is_full = taken < size;
    return (int64_t)taken;
}

int hu_caster_append(hu_caster *caster, const uint8_t *data, uint64_t size) {
    assert(caster->left == 0);
    if (size > hu_caster_room(caster))
        return -HM_EFULL;
    store(caster, data, size);
    set_border(caster);
    return 0;
}

void hu_caster_name(hu_caster *caster, uint32_t index, const uint8_t *name, uint64_t size) {
    uint32_t at = caster->newest.streams;
    if (at == HU_BEACON_STREAMS || size == 0 || size > HU_NAME_MAX) {
        caster->counters.nameless++;
        return;
    }
    caster->names[at].index = index;
    caster->names[at].name_size = (uint8_t)size;
    memcpy(caster->names[at].name, name, size);
    caster->newest.through[at] = UNKNOWN;
    caster->newest.streams++;
}

/* ---- repairs ---- */

/* The first that ends behind `position`, or is another target's behind it. */
static uint32_t find(const hu_caster *caster, uint64_t target, uint64_t position) {
    uint32_t low = 0, high = caster->repair_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const repair *r = &caster->repairs[middle];
        if (r->target < target || (r->target == target && r->end <= position))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* A range begins to wait, with `sign` 1, or waits no more, with -1. */
static void count(hu_caster *caster, const repair *r, int sign) {
    if (r->sent_ns != 0)
        return;
    share *c = &caster->callers[r->caller];
    caster->waiting += (uint32_t)sign;
    c->ranges += (uint64_t)(int64_t)sign;
    c->bytes += sign > 0 ? r->end - r->start : r->start - r->end;
}

static void resize(hu_caster *caster, repair *r, uint64_t start, uint64_t end) {
    count(caster, r, -1);
    r->start = start;
    r->end = end;
    count(caster, r, 1);
}

static void delete_at(hu_caster *caster, uint32_t at) {
    repair *gone = &caster->repairs[at];
    count(caster, gone, -1);
    caster->repair_count--;
    memmove(gone, gone + 1, (caster->repair_count - at) * sizeof *gone);
}

/* 0: there is no room. */
static int insert_at(hu_caster *caster, uint32_t at, repair fresh) {
    assert(fresh.start < fresh.end);
    if (caster->repair_count == HU_CAST_REPAIRS)
        return 0;
    repair *place = &caster->repairs[at];
    memmove(place + 1, place, (caster->repair_count - at) * sizeof *place);
    *place = fresh;
    caster->repair_count++;
    count(caster, place, 1);
    return 1;
}

/* Deletes those from `at` on that begin before `end` and were repeated `age_ns` ago or earlier. */
static void expire(hu_caster *caster, uint32_t at, uint64_t target, uint64_t end, uint64_t age_ns,
                   uint64_t now_ns) {
    uint32_t kept = at, i = at;
    for (; i < caster->repair_count; i++) {
        const repair *r = &caster->repairs[i];
        if (r->target > target || (r->target == target && r->start >= end))
            break;
        if (r->sent_ns == 0 || now_ns - r->sent_ns < age_ns)
            caster->repairs[kept++] = *r;
    }
    if (kept < i)
        memmove(&caster->repairs[kept], &caster->repairs[i],
                (caster->repair_count - i) * sizeof(repair));
    caster->repair_count -= i - kept;
}

/* ---- callers ---- */

/* Its place: one that nothing waits for may be given to another. */
static uint32_t place_of(hu_caster *caster, uint64_t id) {
    uint32_t idle = HU_CAST_CALLERS;
    for (uint32_t i = 0; i < HU_CAST_CALLERS; i++) {
        if (caster->callers[i].id == id)
            return i;
        if (caster->callers[i].ranges == 0 && idle == HU_CAST_CALLERS)
            idle = i;
    }
    if (idle == HU_CAST_CALLERS)
        return (uint32_t)(id % HU_CAST_CALLERS);
    caster->callers[idle].id = id;
    return idle;
}

/* Gives up a range of whoever has most waiting; 0: nobody has more than `who` would. */
static int make_room(hu_caster *caster, uint32_t who) {
    uint32_t greediest = who;
    for (uint32_t i = 0; i < HU_CAST_CALLERS; i++)
        if (caster->callers[i].ranges > caster->callers[greediest].ranges)
            greediest = i;
    if (caster->callers[greediest].ranges <= caster->callers[who].ranges + 1)
        return 0;
    uint32_t at = caster->repair_count - 1;
    while (caster->repairs[at].sent_ns != 0 || caster->repairs[at].caller != greediest)
        at--;
    delete_at(caster, at);
    caster->counters.calls_spared++;
    return 1;
}

/* What of [start, end) waits as number `at` waits for a turn of `who` from now on, if it comes sooner.
 */
static void claim(hu_caster *caster, uint32_t at, uint64_t start, uint64_t end, uint32_t who) {
    repair whole = caster->repairs[at], part = whole;
    part.start = most(start, whole.start);
    part.end = least(end, whole.end);
    part.caller = who;
    uint32_t more = (uint32_t)(whole.start < part.start) + (uint32_t)(part.end < whole.end);
    if (whole.sent_ns != 0 || caster->repair_count + more > HU_CAST_REPAIRS ||
        caster->callers[whole.caller].bytes <= caster->callers[who].bytes + part.end - part.start)
        return;
    delete_at(caster, at);
    if (part.end < whole.end)
        insert_at(caster, at, (repair){whole.target, part.end, whole.end, 0, whole.caller});
    insert_at(caster, at, part);
    if (whole.start < part.start)
        insert_at(caster, at, (repair){whole.target, whole.start, part.start, 0, whole.caller});
}

static int waits_at(const hu_caster *caster, uint32_t at, uint64_t target, uint32_t who) {
    return at < caster->repair_count && caster->repairs[at].target == target &&
           caster->repairs[at].sent_ns == 0 && caster->repairs[at].caller == who;
}

/* Has [start, end), which lies between number `at` - 1 and number `at`, wait: joined to neighbours
 * that do.  0: there is no room. */
static int enqueue(hu_caster *caster, uint32_t at, uint64_t target, uint64_t start, uint64_t end,
                   uint32_t who) {
    repair *list = caster->repairs;
    int before = at > 0 && waits_at(caster, at - 1, target, who) && list[at - 1].end == start;
    int behind = waits_at(caster, at, target, who) && list[at].start == end;
    if (before && behind) {
        uint64_t last = list[at].end;
        delete_at(caster, at);
        resize(caster, &list[at - 1], list[at - 1].start, last);
    } else if (before) {
        resize(caster, &list[at - 1], list[at - 1].start, end);
    } else if (behind) {
        resize(caster, &list[at], start, list[at].end);
    } else {
        return insert_at(caster, at, (repair){target, start, end, 0, who});
    }
    return 1;
}

/* Has those parts of a range wait that neither do nor were repeated within the hold-off.  0: there
 * is no room for them, or no step is left. */
static int call(hu_caster *caster, uint64_t target, uint32_t who, const hu_range *range,
                uint64_t hold_ns, uint64_t now_ns, uint32_t *steps) {
    uint64_t start = most(range->position, hu_caster_oldest(caster));
    uint64_t end = least(range->position + range->size, caster->sent);
    if (range->position + range->size < range->position || start >= end) {
        caster->counters.calls_late++;
        return 1;
    }
    expire(caster, find(caster, target, start), target, end, hold_ns, now_ns);
    if (caster->repair_count == HU_CAST_REPAIRS)
        expire(caster, 0, UINT64_MAX, UINT64_MAX, HU_CAST_HOLD, now_ns);
    int taken = 0;
    while (start < end) {
        if (*steps == 0)
            return 0;
        --*steps;
        uint32_t at = find(caster, target, start);
        const repair *next = &caster->repairs[at];
        int met = at < caster->repair_count && next->target == target && next->start < end;
        uint64_t until = met ? next->start : end, on = met ? next->end : end;
        if (until > start) {
            if (!enqueue(caster, at, target, start, until, who)) {
                if (!make_room(caster, who))
                    return 0;
                continue;
            }
            taken = 1;
        } else {
            claim(caster, at, start, end, who);
        }
        start = until > start ? until : on;
    }
    caster->counters.calls_held += !taken;
    return 1;
}

/* As fast as has become right since the pace changed. */
static void speed_up(hu_caster *caster, uint64_t now_ns) {
    while (caster->pace < caster->options.rate && now_ns - caster->pace_ns >= HU_CAST_SLOW) {
        caster->pace = least(caster->pace + caster->pace / HU_CAST_GROW, caster->options.rate);
        caster->pace_ns += HU_CAST_SLOW;
    }
}

/* Someone lacks what stands at `position`: if that is far back, it goes slower for a while. */
static void slow_down(hu_caster *caster, uint64_t position, uint64_t rtt_ns, uint64_t now_ns) {
    uint64_t trips = 2 * (caster->pace * rtt_ns / NS_PER_S);
    uint64_t lag = least(caster->options.history / HU_CAST_LATE, most(HU_CAST_LAG, trips));
    if (position >= caster->sent || position < hu_caster_oldest(caster) ||
        caster->sent - position < lag)
        return;
    speed_up(caster, now_ns);
    caster->pace_ns = now_ns;
    if (caster->pace == caster->options.rate_min ||
        now_ns - caster->slowed_ns < most(rtt_ns, HU_CAST_SLOW))
        return;
    caster->pace = most(caster->pace / 2, caster->options.rate_min);
    caster->slowed_ns = now_ns;
    caster->counters.slowed++;
}

void hu_caster_status(hu_caster *caster, uint64_t caller, const uint8_t *ranges, uint64_t size,
                      uint64_t rtt_ns, uint64_t now_ns) {
    uint64_t target = caster->options.unicast ? caller : HU_CAST_ALL;
    uint64_t hold_ns = least(most(rtt_ns, HU_CAST_HOLD), HU_CAST_HOLD_MAX);
    uint64_t whole = least(size / HU_RANGE, RANGES_MAX);
    uint32_t steps = HU_CAST_STEPS, who = place_of(caster, caller);
    caster->counters.nacks += whole > 0;
    caster->counters.calls += whole;
    for (uint64_t i = 0; i < whole; i++) {
        hu_range range;
        hu_range_decode(ranges + i * HU_RANGE, &range);
        slow_down(caster, range.position, hold_ns, now_ns);
        if (!call(caster, target, who, &range, hold_ns, now_ns, &steps)) {
            caster->counters.calls_spared += whole - i; /* they are called for again */
            break;
        }
    }
}

/* The first `size` bytes of number `at` are being repeated; returns who is next. */
static uint32_t repeat_at(hu_caster *caster, uint32_t at, uint64_t size, uint64_t now_ns) {
    repair *r = &caster->repairs[at];
    repair done = {r->target, r->start, r->start + size, now_ns, r->caller};
    uint32_t behind = at; /* the rest waits until the others have had their turn */
    if (done.end < r->end) {
        resize(caster, r, done.end, r->end);
        behind++;
    } else {
        delete_at(caster, at);
    }
    return behind + (uint32_t)insert_at(caster, at, done); /* no room: it may be repeated twice */
}

/* The number of the range whose turn it is; something waits. */
static uint32_t next_in_turn(hu_caster *caster, uint64_t size_max) {
    while (caster->turn_left <= 0 || caster->callers[caster->turn].ranges == 0) {
        caster->turn = (caster->turn + 1) % HU_CAST_CALLERS;
        caster->turn_left = (int64_t)size_max;
    }
    for (;; caster->cursor++) {
        if (caster->cursor >= caster->repair_count)
            caster->cursor = 0;
        const repair *r = &caster->repairs[caster->cursor];
        if (r->sent_ns == 0 && r->caller == caster->turn)
            return caster->cursor;
    }
}

/* The next to repeat: what of it is kept, `size_max` bytes at most; size 0: there is none. */
static void next_repeat(hu_caster *caster, uint64_t size_max, uint64_t now_ns, hu_span *span) {
    uint64_t oldest = hu_caster_oldest(caster);
    while (caster->waiting > 0) {
        uint32_t at = next_in_turn(caster, size_max);
        repair *r = &caster->repairs[at];
        if (r->end <= oldest) {
            delete_at(caster, at);
            caster->counters.calls_late++;
            continue;
        }
        resize(caster, r, most(r->start, oldest), r->end);
        uint64_t size = least(r->end - r->start, size_max);
        *span = (hu_span){r->start, size, 1, 0};
        caster->train_target = r->target;
        caster->credit = bounded(caster->credit - (int64_t)size);
        caster->turn_left -= (int64_t)size;
        caster->cursor = repeat_at(caster, at, size, now_ns);
        return;
    }
}

static void unrepeat(hu_caster *caster, uint64_t position, uint64_t end) {
    uint32_t at = find(caster, caster->train_target, position), who = caster->turn;
    repair *r = &caster->repairs[at];
    if (at < caster->repair_count && r->target == caster->train_target && r->sent_ns != 0 &&
        r->start <= position && r->end == end) {
        r->end = position;
        if (r->start == position)
            delete_at(caster, at);
        else
            at++;
    }
    /* No room: it is called for again. */
    enqueue(caster, at, caster->train_target, position, end, who);
}

/* ---- sending ---- */

static void refill(hu_caster *caster, uint64_t now_ns) {
    speed_up(caster, now_ns);
    uint64_t rate = caster->pace, passed = now_ns - caster->tokens_ns;
    uint64_t missing = (uint64_t)(HU_CAST_BURST - caster->tokens);
    if (passed >= missing * NS_PER_S / rate + 1) {
        caster->tokens = HU_CAST_BURST;
        caster->tokens_ns = now_ns;
        return;
    }
    uint64_t gained = passed * rate / NS_PER_S;
    caster->tokens += (int64_t)gained;
    caster->tokens_ns += (gained * NS_PER_S + rate - 1) / rate; /* the rest counts next time */
}

static uint64_t refilled_ns(const hu_caster *caster) {
    uint64_t rate = caster->pace;
    if (caster->tokens > 0)
        return 0;
    return caster->tokens_ns + ((uint64_t)(1 - caster->tokens) * NS_PER_S + rate - 1) / rate;
}

static uint64_t beacon_due(const hu_caster *caster) {
    uint64_t due = caster->beacon_ns + HU_BEACON_MAX;
    if (caster->beacon_unsent)
        return 0;
    return caster->pause_ns <= HU_BEACON_MAX ? least(due, caster->fed_ns + caster->pause_ns) : due;
}

static hu_header heading(const hu_caster *caster, uint8_t type, uint64_t position,
                         uint64_t now_ns) {
    return (hu_header){.session = caster->options.id,
                       .type = type,
                       .position = position,
                       .received = hu_caster_oldest(caster),
                       .stamp = hu_stamp(now_ns),
                       .stream = HU_GROUP_STREAM};
}

static uint8_t *put_header(hu_train *train, const hu_header *header) {
    uint8_t *head = train->headers[train->count];
    train->first[train->count++] = train->pieces;
    hu_header_encode(head, header);
    hu_train_put(train, head, HU_HEADER);
    return head;
}

static void put_data(hu_caster *caster, hu_train *train, const hu_header *header, uint64_t size) {
    uint64_t at = header->position & (caster->options.history - 1);
    uint64_t first = least(size, caster->options.history - at);
    uint8_t *head = put_header(train, header);
    uint32_t crc = hu_core->crc32c(hu_crc_header(head), caster->ring + at, first);
    hu_train_put(train, caster->ring + at, first);
    if (size > first) {
        crc = hu_core->crc32c(crc, caster->ring, size - first);
        hu_train_put(train, caster->ring, size - first);
    }
    hu_crc_store(head, crc);
}

static void next_span(hu_caster *caster, uint64_t size_max, uint64_t now_ns, hu_span *span) {
    uint64_t fresh = least(caster->end - caster->sent, size_max);
    if (fresh == 0 || caster->credit > 0)
        next_repeat(caster, size_max, now_ns, span);
    if (span->size > 0 || fresh == 0)
        return;
    *span = (hu_span){caster->sent, fresh, 0, 0};
    caster->credit = bounded(caster->credit + (int64_t)fresh);
    caster->train_target = HU_CAST_ALL;
    caster->sent += fresh;
    caster->fed_ns = now_ns;
    caster->pause_ns = HU_BEACON_MIN;
}

static uint32_t emit_data(hu_caster *caster, hu_train *train, uint64_t now_ns) {
    uint64_t payload = caster->options.datagram - HU_HEADER;
    uint64_t count = least(HU_TRAIN_MAX, HU_DATAGRAM_MAX / caster->options.datagram);
    hu_span *span = &train->span;
    next_span(caster, count * payload, now_ns, span);
    if (span->size == 0)
        return 0;
    uint64_t end = span->position + span->size;
    hu_header header = heading(caster, HU_DATA, span->position, now_ns);
    header.flags = span->repeat ? HU_REPEAT : 0;
    for (; header.position < end; header.position += payload)
        put_data(caster, train, &header, least(payload, end - header.position));
    train->segment_size = train->count > 1 ? caster->options.datagram : train->size;
    *(span->repeat ? &caster->counters.repeats : &caster->counters.datagrams) += train->count;
    *(span->repeat ? &caster->counters.repeat_bytes : &caster->counters.bytes) += span->size;
    return train->count;
}

/* The oldest border that is kept and not behind the one that is shown. */
static uint64_t oldest_border(hu_caster *caster) {
    uint64_t oldest = hu_caster_oldest(caster);
    if (oldest == 0)
        return 0; /* the stream begins with one */
    while (caster->border_head != caster->border_tail &&
           caster->borders[caster->border_head % HU_CAST_BORDERS] < oldest)
        caster->border_head++;
    if (caster->border_head == caster->border_tail)
        return caster->shown.border;
    return least(caster->borders[caster->border_head % HU_CAST_BORDERS], caster->shown.border);
}

static void tell_streams(hu_caster *caster) {
    caster->beacon.streams = 0;
    for (uint32_t i = 0; i < caster->shown.streams; i++) {
        if (caster->shown.through[i] == UNKNOWN)
            continue;
        hu_beacon_entry *entry = &caster->entries[caster->beacon.streams++];
        *entry = caster->names[i];
        entry->through = caster->shown.through[i];
    }
}

static uint32_t emit_beacon(hu_caster *caster, hu_train *train, uint32_t receivers,
                            uint64_t now_ns) {
    hu_header header = heading(caster, HU_BEACON, caster->sent, now_ns);
    catch_up(caster);
    tell_streams(caster);
    caster->beacon.join = caster->shown.border;
    caster->beacon.oldest = oldest_border(caster);
    caster->beacon.receivers = receivers;
    caster->beacon.datagram = (uint16_t)caster->options.datagram;
    assert(caster->beacon.oldest >= header.received && caster->beacon.join <= caster->sent);
    uint64_t size = hu_beacon_encode(caster->body, caster->options.datagram - HU_HEADER,
                                     &caster->beacon, caster->entries);
    uint8_t *head = put_header(train, &header);
    hu_train_put(train, caster->body, size);
    hu_crc_store(head, hu_core->crc32c(hu_crc_header(head), caster->body, size));
    train->segment_size = train->size;
    caster->train_target = HU_CAST_ALL;
    caster->beacon_unsent = 0;
    caster->beacon_ns = now_ns;
    while (caster->pause_ns <= HU_BEACON_MAX && caster->fed_ns + caster->pause_ns <= now_ns)
        caster->pause_ns *= 2;
    caster->counters.beacons++;
    return 1;
}

uint32_t hu_caster_emit(hu_caster *caster, hu_train *train, uint32_t receivers, uint64_t now_ns,
                        uint64_t *target) {
    uint32_t count = 0;
    hu_train_begin(train);
    refill(caster, now_ns);
    if (beacon_due(caster) <= now_ns)
        count = emit_beacon(caster, train, receivers, now_ns);
    else if (caster->tokens > 0)
        count = emit_data(caster, train, now_ns);
    caster->tokens -= (int64_t)train->size;
    *target = caster->train_target;
    return count;
}

void hu_caster_unsend(hu_caster *caster, const hu_train *train, uint32_t count) {
    const hu_span *span = &train->span;
    uint32_t unsent = train->count - count;
    assert(count <= train->count);
    if (unsent == 0)
        return;
    caster->tokens += (int64_t)(train->size - count * train->segment_size);
    if (span->size == 0) {
        caster->counters.beacons--;
        caster->beacon_unsent = 1;
        return;
    }
    uint64_t position = span->position + count * (train->segment_size - HU_HEADER);
    uint64_t end = span->position + span->size;
    *(span->repeat ? &caster->counters.repeats : &caster->counters.datagrams) -= unsent;
    *(span->repeat ? &caster->counters.repeat_bytes : &caster->counters.bytes) -= end - position;
    if (span->repeat)
        unrepeat(caster, position, end);
    else
        caster->sent = position;
}

uint64_t hu_caster_deadline(const hu_caster *caster) {
    uint64_t due = beacon_due(caster);
    if (caster->waiting > 0 || caster->end > caster->sent)
        due = least(due, refilled_ns(caster));
    return due;
}

/* ---- looking ---- */

uint32_t hu_caster_datagram(const hu_caster *caster) {
    return caster->options.datagram;
}

void hu_caster_shrink(hu_caster *caster, uint32_t datagram) {
    assert(datagram >= 2 * HU_DATAGRAM_MIN && datagram <= caster->options.datagram);
    caster->options.datagram = datagram;
}

uint64_t hu_caster_end(const hu_caster *caster) {
    return caster->end;
}

uint64_t hu_caster_sent(const hu_caster *caster) {
    return caster->sent;
}

void hu_caster_count(const hu_caster *caster, hu_caster_counters *counters) {
    *counters = caster->counters;
}
