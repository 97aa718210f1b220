/* hm_read.c -- reads ranges of a log, and finds places by sequence and by time. */
#include <assert.h>
#include <stdlib.h>

#include "log_internal.h"

/* The last segment that begins at or before `position`; the first if none does. */
static uint64_t segment_by_position(const hm_log *log, uint64_t position) {
    uint64_t low = 0, high = log->segments_count;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (log->segments[log->segments_first + middle]->base_position <= position) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low ? low - 1 : 0;
}

static uint64_t segment_by_sequence(const hm_log *log, uint64_t sequence) {
    uint64_t low = 0, high = log->segments_count;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (log->segments[log->segments_first + middle]->base_sequence <= sequence) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low ? low - 1 : 0;
}

static hm_segment *nth(const hm_log *log, uint64_t index) {
    assert(index < log->segments_count);
    return log->segments[log->segments_first + index];
}

/* The first damaged range of `segment` that ends after `position`, or NULL. */
static const hm_damage *damage_from(const hm_segment *segment, uint64_t position) {
    for (uint32_t i = 0; i < segment->damage_count; i++) {
        if (segment->damage[i].end > position) {
            return &segment->damage[i];
        }
    }
    return NULL;
}

static void at_segment(hm_range *range, const hm_segment *segment, uint64_t position,
                       uint64_t sequence) {
    memset(range, 0, sizeof *range);
    range->position = position;
    range->first_sequence = range->next_sequence = sequence;
    range->segment = segment->base_sequence;
    range->offset = position - segment->base_position;
}

static void at_tail(const hm_log *log, hm_range *range) {
    at_segment(range, log->active, log->end_position, log->next_sequence);
}

/* Where whole frames end that begin at `offset`, are sound up to `bound`, and take at most `limit`
 * bytes. */
static uint64_t cut_offset(const hm_segment *segment, uint64_t offset, uint64_t bound,
                           uint64_t limit) {
    if (limit >= bound - offset) {
        return bound;
    }
    uint64_t position = hm_segment_position(segment, offset + limit);
    uint64_t end = offset;
    if (segment->record_count) {
        uint64_t mark = segment->records[hm_index_by_position(segment, position)].position;
        end = mark > hm_segment_position(segment, offset) ? hm_segment_offset(segment, mark) : end;
    }
    while (end < bound) {
        uint64_t span = hm_frame_span(segment->map + end);
        if (end + span > offset + limit && end > offset) {
            break;
        }
        end += span;
    }
    return end < bound ? end : bound;
}

/* Meets the faults of [begin, end) here, and not in a system call that sends it. */
static void touch(const hm_segment *segment, uint64_t begin, uint64_t end) {
    for (uint64_t at = begin; segment->map_fault && at < end; at = (at / HM_PAGE + 1) * HM_PAGE) {
        (void)*(const volatile uint8_t *)(segment->map + at);
    }
}

/* Joins what is damaged with what was before; both are in order.  False: no memory. */
static bool add_damage(hm_segment *segment, const hm_damage *found, uint32_t count) {
    uint32_t had = segment->damage_count, joined = 0;
    hm_damage *all = malloc((had + count + 1U) * sizeof *all);
    if (all == NULL) {
        return false;
    }
    for (uint32_t i = 0, j = 0; i < had || j < count;) {
        bool before = j == count || (i < had && segment->damage[i].position < found[j].position);
        const hm_damage *next = before ? &segment->damage[i++] : &found[j++];
        hm_damage *last = joined ? &all[joined - 1] : NULL;
        if (last == NULL || last->end < next->position) {
            all[joined++] = *next;
        } else if (next->end > last->end) {
            last->end = next->end;
            last->next_sequence = next->next_sequence;
        }
    }
    free(segment->damage);
    segment->damage = all;
    segment->damage_count = joined;
    return true;
}

/* Its publishers may send again what is lost; what was known to be damaged, they could before. */
static void lose(hm_log *log, const hm_segment *segment, const hm_damage *damage) {
    const hm_damage *known = damage_from(segment, damage->position);
    if (known && known->position <= damage->position && known->end >= damage->end) {
        return;
    }
    for (uint64_t i = 0; i < segment->record_count; i++) {
        const hm_record *record = &segment->records[i];
        uint64_t first = record->first_sequence, next = first + hm_record_count(record);
        first = first < damage->first_sequence ? damage->first_sequence : first;
        next = next > damage->next_sequence ? damage->next_sequence : next;
        if (first < next && !hm_publisher_nobody(record->publisher)) {
            uint64_t shift = record->publisher_first - record->first_sequence;
            hm_publishers_lose(log->publishers, record->publisher, first + shift, next + shift);
        }
    }
}

/* Pages that cannot be read hold zeros now: finds out which messages stood there.  An index of which
 * pages are gone is not used any more.  False: no memory. */
static bool examine(hm_log *log, hm_segment *segment) {
    uint32_t faults;
    do {
        faults = hm_segment_faults(segment);
        bool index = hm_fault_count(segment->records_fault) > 0;
        hm_walk walk = {.map = segment->map,
                        .end = segment->end,
                        .base_sequence = segment->base_sequence,
                        .base_position = segment->base_position,
                        .next_sequence = segment->next_sequence,
                        .covered = UINT64_MAX,
                        .sealed = true,
                        .marks = index ? NULL : segment->records,
                        .mark_count = index ? 0 : segment->record_count};
        hm_walk_run(&walk);
        if (walk.offset < walk.end) {
            hm_walk_add_damage(&walk, walk.offset, walk.end, walk.next_sequence, walk.tail_error);
        }
        if (walk.out_of_memory) {
            free(walk.damage);
            return false;
        }
        if (!index) {
            for (uint32_t i = 0; i < walk.damage_count; i++) {
                lose(log, segment, &walk.damage[i]);
            }
        }
        bool fits = add_damage(segment, walk.damage, walk.damage_count);
        free(walk.damage);
        if (!fits) {
            return false;
        }
        segment->examined = faults;
        segment->record_count = index && segment->sealed ? 0 : segment->record_count;
    } while (faults != hm_segment_faults(segment));
    return true;
}

/* Whether what was just read of the segment is right: else it has been looked at again. */
static bool is_right(hm_log *log, hm_segment *segment) {
    return hm_segment_faults(segment) == segment->examined || !examine(log, segment);
}

static int read_sound(hm_segment *segment, uint64_t position, uint64_t limit, hm_range *range) {
    const hm_damage *damage = damage_from(segment, position);
    if (damage && damage->position <= position) {
        at_segment(range, segment, damage->end, damage->next_sequence);
        return -HM_EDAMAGED;
    }
    uint64_t offset = hm_segment_offset(segment, position);
    uint64_t bound = damage ? hm_segment_offset(segment, damage->position) : segment->end;
    uint64_t end = cut_offset(segment, offset, bound, limit);
    at_segment(range, segment, position, hm_frame_sequence(segment->map + offset));
    range->size = end - offset;
    range->next_sequence = end < bound ? hm_frame_sequence(segment->map + end)
                           : damage    ? damage->first_sequence
                                       : segment->next_sequence;
    touch(segment, offset, end);
    return 1;
}

static int read_segment(hm_log *log, hm_segment *segment, uint64_t position, uint64_t limit,
                        hm_range *range) {
    int found = read_sound(segment, position, limit, range);
    while (hm_segment_faults(segment) != segment->examined) {
        if (!examine(log, segment)) { /* no memory to say more */
            at_segment(range, segment, hm_segment_end_position(segment), segment->next_sequence);
            return -HM_EDAMAGED;
        }
        found = read_sound(segment, position, limit, range);
    }
    return found;
}

int hm_log_read(hm_log *log, uint64_t position, uint64_t limit, hm_range *range) {
    if (position >= log->end_position) {
        at_tail(log, range);
        return position > log->end_position ? -HM_EINVAL : 0;
    }
    if (position < hm_log_oldest(log)->base_position) {
        at_segment(range, hm_log_oldest(log), hm_log_oldest(log)->base_position,
                   hm_log_oldest(log)->base_sequence);
        int error = -HM_EGONE;
        hm_segment *brought = hm_window_find(log, position, range, &error);
        return brought ? read_segment(log, brought, position, limit, range) : error;
    }
    hm_segment *segment = log->active;
    if (position < segment->base_position) {
        uint64_t index = segment_by_position(log, position);
        segment = nth(log, index);
        if (position >= hm_segment_end_position(segment)) {
            /* Between two segments: one that was here is missing. */
            segment = nth(log, index + 1);
            at_segment(range, segment, segment->base_position, segment->base_sequence);
            return -HM_EDAMAGED;
        }
    }
    int error = hm_log_map(log, segment);
    if (error == -HM_EDAMAGED) { /* its file is gone: all of it is lost */
        at_segment(range, segment, hm_segment_end_position(segment), segment->next_sequence);
    }
    return error ? error : read_segment(log, segment, position, limit, range);
}

/* From a record on, the first frame with a sequence >= `sequence`. */
static void walk_to(const hm_segment *segment, uint64_t offset, uint64_t sequence, hm_range *at) {
    while (offset < segment->end) {
        uint64_t position = hm_segment_position(segment, offset);
        const hm_damage *damage = damage_from(segment, position);
        if (damage && damage->position <= position) {
            offset = hm_segment_offset(segment, damage->end);
            continue;
        }
        uint64_t here = hm_frame_sequence(segment->map + offset);
        if (here >= sequence) {
            at_segment(at, segment, position, here);
            return;
        }
        offset += hm_frame_span(segment->map + offset);
    }
    at_segment(at, segment, hm_segment_end_position(segment), segment->next_sequence);
}

void hm_log_locate(hm_log *log, uint64_t sequence, hm_range *at) {
    if (sequence >= log->next_sequence) {
        at_tail(log, at);
        return;
    }
    uint64_t index = segment_by_sequence(log, sequence);
    hm_segment *segment = nth(log, index);
    if (sequence >= segment->next_sequence) {
        segment = nth(log, index + 1); /* it stood in a segment that is missing */
    }
    if (hm_log_map(log, segment) != 0) {
        at_segment(at, segment, segment->base_position, segment->base_sequence);
        return; /* the read that follows says why */
    }
    uint64_t record = hm_index_by_sequence(segment, sequence);
    uint64_t offset = segment->record_count
                          ? hm_segment_offset(segment, segment->records[record].position)
                          : HM_LOG_SEGMENT_HEADER;
    walk_to(segment, offset, sequence, at);
    if (!is_right(log, segment)) {
        hm_log_locate(log, sequence, at);
    }
}

/* When what is damaged came is not known: if it ends where `at` is, it may belong to what was asked
 * for, and `at` becomes where it begins. */
static void include_damage(const hm_log *log, hm_range *at) {
    uint64_t index = segment_by_position(log, at->position);
    const hm_segment *segment = nth(log, index);
    for (uint32_t i = 0; i < segment->damage_count; i++) {
        const hm_damage *damage = &segment->damage[i];
        if (damage->end == at->position) {
            at_segment(at, segment, damage->position, damage->first_sequence);
        }
    }
    if (at->position == segment->base_position && index > 0) {
        const hm_segment *before = nth(log, index - 1);
        if (hm_segment_end_position(before) <
            at->position) { /* one that stood between is missing */
            at_segment(at, before, hm_segment_end_position(before), before->next_sequence);
        }
    }
}

/* Whether a segment's append times are those of a wrong clock: ahead of the log's last one, or behind
 * those of the segments before. */
static bool has_wrong_times(const hm_log *log, const hm_segment *segment) {
    return segment->last_time_ns > log->time_ns ||
           (segment->last_time_ns < segment->floor_ns && segment->floor_ns <= log->time_ns);
}

uint64_t hm_log_latest_time(const hm_log *log, uint64_t index) {
    if (!has_wrong_times(log, nth(log, index))) {
        return nth(log, index)->last_time_ns;
    }
    for (uint64_t next = index + 1; next < log->segments_count; next++) {
        if (!has_wrong_times(log, nth(log, next))) {
            return nth(log, next)->first_time_ns;
        }
    }
    return log->time_ns;
}

uint64_t hm_log_newest_time(const hm_log *log) {
    return log->time_ns;
}

void hm_log_locate_time(hm_log *log, uint64_t time_ns, hm_range *at) {
    /* From the newest on, one by one: where a clock was wrong, times are not in order. */
    uint64_t low = log->segments_count, latest = log->time_ns;
    while (low > 0) {
        const hm_segment *before = nth(log, low - 1);
        bool wrong = has_wrong_times(log, before);
        if ((wrong ? latest : before->last_time_ns) < time_ns) {
            break;
        }
        latest = wrong ? latest : before->first_time_ns;
        low--;
    }
    if (low == log->segments_count) {
        at_tail(log, at);
        return;
    }
    hm_segment *segment = nth(log, low);
    if (hm_log_map(log, segment) != 0) {
        at_segment(at, segment, segment->base_position, segment->base_sequence);
        return;
    }
    /* Of a clock that was behind, nobody knows when: all of it is wanted.  What was ahead stands behind
     * what was right, in order. */
    if (has_wrong_times(log, segment) && segment->last_time_ns <= log->time_ns) {
        walk_to(segment, HM_LOG_SEGMENT_HEADER, 0, at);
        include_damage(log, at);
        return;
    }
    /* A record may hold messages up to a tick younger than it says. */
    uint64_t from = time_ns > HM_INDEX_TICK ? time_ns - HM_INDEX_TICK + 1 : 0;
    uint64_t record = hm_index_by_time(segment, from);
    if (record == segment->record_count) {
        record = record ? record - 1 : 0;
    }
    uint64_t offset = segment->record_count
                          ? hm_segment_offset(segment, segment->records[record].position)
                          : HM_LOG_SEGMENT_HEADER;
    walk_to(segment, offset, 0, at);
    if (!is_right(log, segment)) {
        hm_log_locate_time(log, time_ns, at);
        return;
    }
    include_damage(log, at);
}

hm_segment *hm_log_pin(hm_log *log, uint64_t base_sequence) {
    hm_segment *segment = nth(log, segment_by_sequence(log, base_sequence));
    if (segment->base_sequence != base_sequence) {
        segment = hm_window_named(log, base_sequence);
    } else if (hm_log_map(log, segment) != 0) {
        return NULL;
    }
    if (segment) {
        hm_segment_retain(segment);
    }
    return segment;
}

const uint8_t *hm_segment_memory(const hm_segment *segment, uint64_t *size) {
    *size = segment->map_size - HM_LOG_SEGMENT_HEADER;
    return segment->map + HM_LOG_SEGMENT_HEADER;
}

/* hints --------------------------------------------------------------------------------------- */

/* Leaves a hint for the helper about a stretch of one segment.  False: there is no room for more. */
static bool leave_hint(hm_log *log, hm_segment *segment, hm_hint hint) {
    hm_pool *pool = log->pool;
    pthread_mutex_lock(&pool->lock);
    bool room = pool->hint_count < HM_HINTS_MAX;
    if (room) {
        hm_segment_retain(segment);
        hint.segment = segment;
        pool->hints[pool->hint_count++] = hint;
        pthread_cond_signal(&pool->wake);
    }
    pthread_mutex_unlock(&pool->lock);
    return room;
}

static bool leave_hints(hm_log *log, uint64_t position, uint64_t end, bool behind) {
    uint64_t start = hm_log_oldest(log)->base_position;
    bool room = true;
    position = position < start ? start : position;
    end = end < log->end_position ? end : log->end_position;
    for (uint64_t i = segment_by_position(log, position); i < log->segments_count && room; i++) {
        hm_segment *segment = nth(log, i);
        uint64_t from = position < segment->base_position ? segment->base_position : position;
        uint64_t to = hm_segment_end_position(segment);
        to = to < end ? to : end;
        if (segment->base_position >= end) {
            break;
        }
        /* Memory behind a reader can only be given up while it is mapped. */
        bool mapped = behind ? segment->map != NULL : hm_log_map(log, segment) == 0;
        if (from < to && mapped) {
            uint64_t offset = hm_segment_offset(segment, from) / HM_PAGE * HM_PAGE;
            uint64_t size = hm_segment_offset(segment, to) - offset;
            room = leave_hint(log, segment, (hm_hint){NULL, offset, size, behind});
        }
    }
    return room;
}

void hm_log_populate(hm_log *log, uint64_t position, uint64_t size) {
    leave_hints(log, position, position + size, false);
}

int hm_log_forget(hm_log *log, uint64_t position, uint64_t size) {
    return leave_hints(log, position, position + size, true);
}
