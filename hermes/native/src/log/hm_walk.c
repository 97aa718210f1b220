/* hm_walk.c -- walks the frames of a segment, and finds the next sound one behind damage. */
#include <assert.h>
#include <stdlib.h>

#include "log_internal.h"

#define CHAIN_STRONG 16 /* sound consecutive frames after which a place is believed to be one */
#define PROGRESS_INTERVAL 1048576 /* bytes between two updates of the progress count */

/* The tests make one mistake at a time here, to prove that they would notice. */
#ifdef HM_WEAKEN_LOG_COVERED
#define NEEDS_RECORDS false
#else
#define NEEDS_RECORDS true
#endif
#ifdef HM_WEAKEN_LOG_SYNCED
#define KNOWS_SYNCED false
#else
#define KNOWS_SYNCED true
#endif
#ifdef HM_WEAKEN_LOG_CRC
#define CHECKS_FRAMES false
#else
#define CHECKS_FRAMES true
#endif

/* frames -------------------------------------------------------------------------------------- */

/* Any sound MESSAGE frame: its size, and its sequence. */
static int64_t check_any(const hm_walk *walk, uint64_t offset, uint64_t *sequence) {
    uint64_t left = offset < walk->end ? walk->end - offset : 0;
    hm_slice slice;
    uint64_t needed;
    /* Whatever fits the segment may have been a message when the limit was another. */
    uint32_t limit = left < UINT32_MAX ? (uint32_t)left : UINT32_MAX;
    if (left < HM_FRAME_HEADER) {
        return -HM_ETRUNC;
    }
    int64_t size = hm_frame_check(walk->map + offset, left, limit, &slice, &needed);
    if (size == -HM_ECRC && !CHECKS_FRAMES) {
        *sequence = hm_frame_sequence(walk->map + offset);
        return (int64_t)hm_frame_span(walk->map + offset);
    }
    if (size < 0) {
        return size;
    }
    if (slice.type != HM_MESSAGE || (uint64_t)size > left) {
        return -HM_ETYPE;
    }
    *sequence = slice.sequence;
    return size;
}

int64_t hm_walk_check(const hm_walk *walk, uint64_t offset, uint64_t sequence) {
    uint64_t found = 0;
    int64_t size = check_any(walk, offset, &found);
    return size > 0 && found != sequence ? -HM_ESEQUENCE : size;
}

/* The size that the frame at `offset` claims, 0 if it cannot be one; its contents are not believed.
 */
static uint64_t claimed_span(const hm_walk *walk, uint64_t offset) {
    if (offset + HM_FRAME_HEADER > walk->end) {
        return 0;
    }
    hm_frame_header header;
    memcpy(&header, walk->map + offset, sizeof header);
    uint64_t properties = offset + HM_FRAME_HEADER + hm_pad8(header.flags & 0xffU);
    if ((header.flags & HM_FRAME_PROPERTIES) && properties + sizeof(uint32_t) > walk->end) {
        return 0;
    }
    uint64_t span = hm_frame_span(walk->map + offset);
    return offset + span <= walk->end ? span : 0;
}

void hm_walk_add_damage(hm_walk *walk, uint64_t offset, uint64_t end, uint64_t next_sequence,
                        int32_t error) {
    uint64_t position = walk->base_position + offset - HM_LOG_SEGMENT_HEADER;
    uint64_t end_position = walk->base_position + end - HM_LOG_SEGMENT_HEADER;
    hm_damage *last = walk->damage_count ? &walk->damage[walk->damage_count - 1] : NULL;
    if (last && last->end == position) {
        last->end = end_position;
        last->next_sequence = next_sequence;
        return;
    }
    hm_damage *grown = realloc(walk->damage, (walk->damage_count + 1U) * sizeof *grown);
    if (grown == NULL) {
        walk->out_of_memory = true;
        return;
    }
    walk->damage = grown;
    walk->damage[walk->damage_count++] =
        (hm_damage){position, end_position, walk->expected, next_sequence, error};
}

/* finding the way back ------------------------------------------------------------------------ */

typedef struct {
    uint64_t offset;
    uint64_t sequence;
} place;

static uint64_t mark_offset(const hm_walk *walk, const hm_record *mark) {
    return mark->position - walk->base_position + HM_LOG_SEGMENT_HEADER;
}

/* Whether the message `sequence`, which should stand at `offset`, was on disk. */
static bool is_synced(const hm_walk *walk, uint64_t offset, uint64_t sequence) {
    return offset < walk->synced.end && sequence < walk->synced.next_sequence;
}

/* The first mark behind the walk's offset that is also ahead of its sequence. */
static const hm_record *mark_behind(const hm_walk *walk) {
    uint64_t position = walk->base_position + walk->offset - HM_LOG_SEGMENT_HEADER;
    uint64_t low = 0, high = walk->mark_count;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (walk->marks[middle].position <= position) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    while (low < walk->mark_count && walk->marks[low].first_sequence <= walk->expected) {
        low++;
    }
    bool usable = low < walk->mark_count && walk->marks[low].first_sequence < walk->next_sequence &&
                  mark_offset(walk, &walk->marks[low]) < walk->end;
    return usable ? &walk->marks[low] : NULL;
}

/* Whether sound consecutive frames lead from a candidate to the place we must pass, or far enough.
 * Single unsound frames whose length still leads to their successor may stand between. */
static bool leads_on(const hm_walk *walk, place from, uint64_t bound, uint64_t bound_sequence) {
    for (int frames = 0; frames < CHAIN_STRONG; frames++) {
        if (from.offset >= bound || from.sequence == walk->next_sequence) {
            return from.offset <= bound && (from.offset < bound || bound_sequence == UINT64_MAX ||
                                            from.sequence == bound_sequence);
        }
        int64_t size = hm_walk_check(walk, from.offset, from.sequence);
        if (size < 0) {
            uint64_t span = claimed_span(walk, from.offset);
            uint64_t after = from.offset + span;
            bool passes = after == bound ? from.sequence + 1 == bound_sequence
                                         : hm_walk_check(walk, after, from.sequence + 1) > 0;
            if (span == 0 || !passes) {
                return false;
            }
            size = (int64_t)span;
        }
        from.offset += (uint64_t)size;
        from.sequence++;
    }
    return true;
}

/* The unsound frame's own length may still be right: then only it is lost. */
static bool skip_one(const hm_walk *walk, uint64_t bound, uint64_t bound_sequence, place *found) {
    uint64_t span = claimed_span(walk, walk->offset);
    place next = {walk->offset + span, walk->expected + 1};
    if (span == 0 || next.offset > bound) {
        return false;
    }
    *found = next;
    if (next.offset == bound) {
        return next.sequence == bound_sequence;
    }
    return hm_walk_check(walk, next.offset, next.sequence) > 0;
}

/* The sequence after the last of the sound consecutive frames from `from` on; `from` ends behind
 * it. */
static uint64_t follow_chain(const hm_walk *walk, place *from) {
    for (int64_t size; (size = hm_walk_check(walk, from->offset, from->sequence)) > 0;) {
        from->offset += (uint64_t)size;
        from->sequence++;
    }
    return from->sequence;
}

/* Whether a frame that could be one of those to come stands at `at`. */
static bool plausible(const hm_walk *walk, uint64_t at, place *here) {
    static const char magic[4] = {'H', 'R', 'M', 'S'};
    if (memcmp(walk->map + at, magic, sizeof magic) != 0) {
        return false;
    }
    uint64_t most = walk->expected + (at - walk->offset) / HM_FRAME_SMALLEST;
    uint64_t sequence = hm_frame_sequence(walk->map + at);
    *here = (place){at, sequence};
    return sequence > walk->expected && sequence <= most && sequence < walk->next_sequence &&
           hm_walk_check(walk, at, sequence) > 0;
}

/* Looks at every aligned place for a frame that could be one of those to come.  A damaged payload
 * may hold whole frames itself, with any sequence: a candidate is believed if it leads on to what
 * is known.  Behind the last mark it is also believed if nothing sound behind its chain contradicts
 * it. */
static bool scan(const hm_walk *walk, uint64_t bound, uint64_t bound_sequence, bool marked,
                 place *found) {
    bool any = false;
    uint64_t chain_next = 0;
    place here;
    for (uint64_t at = walk->offset + 8; at + HM_FRAME_HEADER <= bound; at += 8) {
        if (!plausible(walk, at, &here)) {
            continue;
        }
        if (leads_on(walk, here, bound, bound_sequence)) {
            *found = any && here.sequence >= chain_next ? *found : here;
            return true;
        }
        if (marked) {
            continue;
        }
        if (!any || here.sequence < chain_next) {
            *found = here;
            chain_next = follow_chain(walk, &here);
            any = true;
        } else {
            follow_chain(walk, &here);
        }
        at = here.offset - 8;
    }
    return any;
}

/* Where sound frames go on behind the unsound one at the walk's offset.  How far a sync came bounds
 * the search, and does not make it stricter: what is served before a sync is served after it. */
static bool resync(const hm_walk *walk, place *found) {
    const hm_record *mark = mark_behind(walk);
    uint64_t bound = mark ? mark_offset(walk, mark) : walk->end;
    uint64_t bound_sequence = mark           ? mark->first_sequence
                              : walk->sealed ? walk->next_sequence
                                             : UINT64_MAX;
    bool marked = mark != NULL, ends = marked;
    if (is_synced(walk, walk->offset, walk->expected) && (!marked || walk->synced.end < bound)) {
        bound = walk->synced.end;
        bound_sequence = walk->synced.next_sequence;
        ends = true;
    }
    if (skip_one(walk, bound, bound_sequence, found) ||
        scan(walk, bound, bound_sequence, marked, found)) {
        return true;
    }
    if (ends) {
        *found = (place){bound, bound_sequence};
    }
    return ends;
}

/* Damage at the very end of an unsealed segment that others follow ends where the caller says, as
 * far as it was not synced. */
static void give_back_tail(hm_walk *walk) {
    uint64_t position = walk->base_position + walk->offset - HM_LOG_SEGMENT_HEADER;
    hm_damage *last = walk->damage_count ? &walk->damage[walk->damage_count - 1] : NULL;
    if (last == NULL || last->end != position) {
        return;
    }
    uint64_t offset = last->position - walk->base_position + HM_LOG_SEGMENT_HEADER;
    if (walk->offset == walk->synced.end) {
        return;
    }
    walk->tail_error = last->error;
    if (is_synced(walk, offset, last->first_sequence)) {
        walk->offset = walk->synced.end;
        walk->expected = last->next_sequence = walk->synced.next_sequence;
        last->end = walk->base_position + walk->offset - HM_LOG_SEGMENT_HEADER;
        return;
    }
    walk->offset = offset;
    walk->expected = last->first_sequence;
    walk->damage_count--;
}

/* Counts the marks that a sound frame at the walk's offset contradicts. */
static uint64_t match_marks(hm_walk *walk, uint64_t mark, uint64_t position) {
    while (mark < walk->mark_count && walk->marks[mark].position <= position) {
        const hm_record *here = &walk->marks[mark++];
        walk->bad_marks += here->position != position || here->first_sequence != walk->expected;
    }
    return mark;
}

static uint64_t skip_marks(const hm_walk *walk, uint64_t mark, uint64_t position) {
    while (mark < walk->mark_count && walk->marks[mark].position < position) {
        mark++;
    }
    return mark;
}

static void report_progress(const hm_walk *walk, uint64_t *reported) {
    if (walk->progress) {
        /* relaxed: a number for people, nothing hangs on it. */
        atomic_fetch_add_explicit((_Atomic uint64_t *)walk->progress, walk->offset - *reported,
                                  memory_order_relaxed);
    }
    *reported = walk->offset;
}

/* Frames that no record covers are not believed: their publishers may send them again.  Those that
 * were synced are damage all the same. */
static void quarantine_uncovered(hm_walk *walk) {
    if (walk->expected < walk->covered || !is_synced(walk, walk->offset, walk->expected)) {
        return;
    }
    hm_walk_add_damage(walk, walk->offset, walk->synced.end, walk->synced.next_sequence,
                       -HM_EEMPTY);
    walk->offset = walk->synced.end;
    walk->expected = walk->synced.next_sequence;
}

void hm_walk_run(hm_walk *walk) {
    uint64_t mark = 0, reported = HM_LOG_SEGMENT_HEADER;
    walk->offset = HM_LOG_SEGMENT_HEADER;
    walk->expected = walk->base_sequence;
    walk->end = hm_align_down(walk->end); /* a file that was cut may have any size */
    if (walk->synced.next_sequence > walk->next_sequence) {
        walk->synced = (hm_synced){0};
    }
    if (walk->synced.end > walk->end) {
        walk->synced.end = walk->end; /* somebody has cut the file */
    }
    uint64_t stop = walk->covered < walk->next_sequence ? walk->covered : walk->next_sequence;
    while (walk->expected < stop && walk->offset < walk->end) {
        int64_t size = hm_walk_check(walk, walk->offset, walk->expected);
        uint64_t position = walk->base_position + walk->offset - HM_LOG_SEGMENT_HEADER;
        if (size > 0) {
            mark = match_marks(walk, mark, position);
            walk->offset += (uint64_t)size;
            walk->bytes += (uint64_t)size;
            walk->expected++;
            walk->messages++;
            if (walk->offset - reported > PROGRESS_INTERVAL) {
                report_progress(walk, &reported);
            }
            continue;
        }
        place next = {0, 0};
        bool ends = walk->last && !is_synced(walk, walk->offset, walk->expected);
        if (ends || !resync(walk, &next)) {
            walk->tail_error = (int32_t)size;
            break;
        }
        hm_walk_add_damage(walk, walk->offset, next.offset, next.sequence, (int32_t)size);
        walk->offset = next.offset;
        walk->expected = next.sequence;
        mark = skip_marks(walk, mark, walk->base_position + next.offset - HM_LOG_SEGMENT_HEADER);
    }
    quarantine_uncovered(walk);
    bool complete =
        walk->expected >= walk->next_sequence && (!walk->sealed || walk->offset == walk->end);
    if (walk->last && walk->offset < walk->end) {
        walk->sealed = false; /* it ends before its seal */
    }
    if (!walk->sealed) {
        give_back_tail(walk);
    } else if (!complete && walk->tail_error == 0) {
        walk->tail_error = -HM_ETRUNC;
    }
    report_progress(walk, &reported);
}

/* records ------------------------------------------------------------------------------------- */

uint64_t hm_records_sift(const hm_record *slots, uint64_t count, uint64_t base_sequence,
                         uint64_t base_position, hm_record *out, uint64_t *unsound,
                         uint64_t *next_sequence) {
    uint64_t kept = 0, holes = 0;
    uint64_t sequence = base_sequence, position = base_position, time_ns = 0;
    *unsound = 0;
    for (uint64_t i = 0; i < count; i++) {
        const hm_record *slot = &slots[i];
        int error = hm_record_check(slot);
        if (error == -HM_EEMPTY) {
            holes++; /* beyond the last record, or lost with the power */
            continue;
        }
        uint32_t messages = hm_record_count(slot);
        if (error || slot->first_sequence < sequence || slot->position < position ||
            slot->time_ns < time_ns || slot->first_sequence > HM_LOG_FARTHEST ||
            slot->position > HM_LOG_FARTHEST || slot->position % HM_FRAME_ALIGN) {
            ++*unsound;
            continue;
        }
        *unsound += holes;
        holes = 0;
        sequence = slot->first_sequence + messages;
        position = slot->position + (uint64_t)messages * HM_FRAME_SMALLEST;
        time_ns = slot->time_ns;
        memcpy(&out[kept++], slot, sizeof *out);
    }
    *next_sequence = sequence;
    return kept;
}

hm_synced hm_synced_extent(const hm_files *files, uint64_t base_sequence, uint64_t base_position,
                           const hm_end *end) {
    uint64_t offset = end->position - base_position + HM_LOG_SEGMENT_HEADER;
    bool sealed = files->seal_error == 0;
    if (!KNOWS_SYNCED) {
        return (hm_synced){0};
    }
    if (end->next_sequence <= files->synced.next_sequence || end->next_sequence <= base_sequence ||
        end->position < base_position) {
        return files->synced;
    }
    if (sealed && end->next_sequence >= files->seal.next_sequence) {
        return (hm_synced){files->seal.end, files->seal.next_sequence};
    }
    /* Beyond the file: segments behind it are lost, and where its own frames end is not known. */
    return offset > files->size ? files->synced : (hm_synced){offset, end->next_sequence};
}

uint64_t hm_records_covered(const hm_files *files, uint64_t base_sequence) {
    bool sealed = files->seal_error == 0;
    uint64_t covered = base_sequence, wanted = sealed ? files->seal.records : files->slot_count;
    if (!files->has_index || !NEEDS_RECORDS) {
        return UINT64_MAX;
    }
    for (uint64_t i = 0; i < wanted && i < files->slot_count; i++) {
        const hm_record *slot = &files->slots[i];
        int error = hm_record_check(slot);
        if (error == -HM_EEMPTY || (error == 0 && slot->first_sequence > covered)) {
            return covered; /* it, or how far the one before it was extended, is not on disk */
        }
        if (error || slot->first_sequence < covered) {
            return UINT64_MAX;
        }
        covered += hm_record_count(slot);
    }
    bool complete = files->slot_count >= wanted && covered >= files->seal.next_sequence;
    return sealed && complete ? UINT64_MAX : covered;
}

uint64_t hm_records_position(const hm_record *slots, uint64_t count, uint64_t base,
                             uint64_t otherwise) {
    for (uint64_t i = 0; i < count; i++) {
        if (slots[i].first_sequence == base && hm_record_check(&slots[i]) == 0 &&
            slots[i].position <= HM_LOG_FARTHEST && slots[i].position % HM_FRAME_ALIGN == 0) {
            return slots[i].position;
        }
    }
    return otherwise;
}
