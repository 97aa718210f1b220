/* hm_recover.c -- from a directory to a list of sound segments; see docs/log-format.md. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "log_internal.h"

#define NAME_SIZE 40

/* The tests make one mistake at a time here, to prove that they would notice. */
#ifdef HM_WEAKEN_LOG_CLIP
#define CLIPS_RECORDS false
#else
#define CLIPS_RECORDS true
#endif
#ifdef HM_WEAKEN_LOG_END
#define KNOWS_END false
#else
#define KNOWS_END true
#endif

typedef struct {
    uint64_t base;
    hm_files files;
    hm_walk walk;
    hm_record *records; /* the sound ones, copied */
    uint64_t record_count;
    uint64_t unsound_records;
    bool mislaid; /* its header names another segment: a recycled file whose new name was lost */
    bool gone;    /* not part of the log */
    bool foreign; /* a file by a segment's name that is no segment */
} found;

typedef struct {
    hm_log *log;
    hm_log_report *report;
    uint64_t *progress;
    hm_listing listing;
    found *found;
    uint64_t count;
    hm_end end; /* where the log had ended, as far as its end mark knows */
    bool again; /* a segment was written in the place of those that are lost: recover once more */
    uint64_t
        unnamed; /* messages lost that no record names the sender of: see remember_publishers */
} recovery;

static bool is_sealed(const found *segment) {
    return segment->files.seal_error == 0;
}

/* Whether it held messages, whatever is left of them. */
static bool was_written(const found *segment) {
    return segment->walk.messages > 0 || segment->walk.synced.next_sequence > segment->base ||
           (segment->walk.sealed && segment->walk.next_sequence > segment->base);
}

/* reading ------------------------------------------------------------------------------------- */

static int read_records(found *segment, uint64_t base_position) {
    const hm_files *files = &segment->files;
    uint64_t covered;
    free(segment->records);
    segment->record_count = 0;
    segment->records = malloc((files->slot_count + 1) * sizeof *segment->records);
    if (segment->records == NULL) {
        return -HM_ENOMEM;
    }
    segment->record_count =
        hm_records_sift(files->slots, files->slot_count, segment->base, base_position,
                        segment->records, &segment->unsound_records, &covered);
    return 0;
}

/* Maps the segment's files again: between the passes none is, because a log may have more segments
 * than a process may have maps. */
static int unpark(const recovery *self, found *segment) {
    int error = hm_files_unpark(self->log->pool->dirfd, segment->base, &segment->files);
    segment->walk.map = segment->files.map;
    return error;
}

static bool is_foreign(const hm_files *files) {
    static const uint8_t nothing[HM_HEADER_SIZE];
    return files->size > 0 && files->header_error == -HM_EMAGIC &&
           memcmp(files->map, nothing, sizeof nothing) != 0;
}

/* Where the segment begins: its header, else its first record, else where the one before ended. */
static uint64_t base_position(const found *segment, uint64_t previous_end) {
    const hm_files *files = &segment->files;
    if (files->header_error == 0) {
        return files->header.base_position;
    }
    return hm_records_position(files->slots, files->slot_count, segment->base, previous_end);
}

/* Sequence up to which messages of a segment without a seal, and without another behind it, are
 * believed to have been committed. */
static uint64_t committed_next(const hm_synced *synced, uint64_t covered) {
    return covered > synced->next_sequence ? covered : synced->next_sequence;
}

/* Verifies one segment.  `previous_*`: where the one before ended, 0: there is none.  `next_base`:
 * of the one after it, UINT64_MAX if nothing was written behind it: then the log ends where a frame
 * is unsound or without a record, unless it was synced. */
static int verify(recovery *self, found *segment, uint64_t previous_end, uint64_t previous_next,
                  uint64_t next_base) {
    hm_walk *walk = &segment->walk;
    int error = unpark(self, segment);
    if (error) {
        return error;
    }
    free(walk->damage);
    walk->damage = NULL;
    uint64_t position = base_position(segment, previous_end);
    position = position < previous_end ? previous_end : position;
    if (previous_next && segment->base > previous_next && position == previous_end) {
        /* Where it stood is lost with what stood before it: a hole in the sequences is one in the
         * positions. */
        position += (segment->base - previous_next) * HM_FRAME_SMALLEST;
    }
    error = read_records(segment, position);
    if (error) {
        return error;
    }
    const hm_seal *seal = &segment->files.seal;
    bool sealed = is_sealed(segment) && seal->next_sequence <= next_base;
    uint64_t covered = hm_records_covered(&segment->files, segment->base);
    bool last = next_base == UINT64_MAX;
    hm_synced synced = last ? hm_synced_extent(&segment->files, segment->base, position, &self->end)
                            : segment->files.synced;
    *walk = (hm_walk){.map = segment->files.map,
                      .end = sealed ? seal->end : segment->files.size,
                      .base_sequence = segment->base,
                      .base_position = position,
                      .next_sequence = sealed                    ? seal->next_sequence
                                       : next_base != UINT64_MAX ? next_base
                                                                 : committed_next(&synced, covered),
                      .covered = covered,
                      .sealed = sealed,
                      .last = last,
                      .synced = synced,
                      .marks = segment->records,
                      .mark_count = segment->record_count,
                      .progress = self->progress};
    if (segment->files.size >= HM_LOG_SEGMENT_HEADER) {
        hm_walk_run(walk);
    } else {
        walk->offset = HM_LOG_SEGMENT_HEADER;
        walk->expected = segment->base;
    }
    return walk->out_of_memory ? -HM_ENOMEM : 0;
}

static int load(recovery *self, found *segment, uint64_t base) {
    segment->base = base;
    int error = hm_files_open(self->log->pool->dirfd, base, true, &segment->files);
    if (error == 0 && segment->files.header_error == -HM_EVERSION) {
        return -HM_EVERSION; /* a newer Hermes wrote it: hands off */
    }
    segment->mislaid = error == 0 && segment->files.header_error == 0 &&
                       segment->files.header.base_sequence != base;
    segment->gone = segment->mislaid;
    segment->foreign = error == 0 && is_foreign(&segment->files);
    hm_files_park(&segment->files);
    return error;
}

static uint64_t end_position(const found *segment) {
    return segment->walk.base_position + segment->walk.offset - HM_LOG_SEGMENT_HEADER;
}

static uint64_t next_base(const recovery *self, uint64_t index) {
    for (uint64_t i = index + 1; i < self->count; i++) {
        if (!self->found[i].gone) {
            return self->found[i].base;
        }
    }
    return UINT64_MAX;
}

static found *following(const recovery *self, const found *segment) {
    for (found *next = self->found + (segment - self->found) + 1; next < self->found + self->count;
         next++) {
        if (!next->gone) {
            return next;
        }
    }
    return NULL;
}

/* The first segment, with neither header nor records: it ends where the next one begins. */
static void place_first(found *segment, const found *next) {
    hm_walk *walk = &segment->walk;
    if (next == NULL || next->files.header_error || segment->files.header_error == 0 ||
        segment->record_count) {
        return;
    }
    uint64_t size =
        walk->expected == next->base ? walk->offset : hm_align_down(segment->files.size);
    uint64_t end = next->files.header.base_position;
    uint64_t shift = end > size - HM_LOG_SEGMENT_HEADER ? end - (size - HM_LOG_SEGMENT_HEADER) : 0;
    shift -= walk->base_position;
    walk->base_position += shift;
    for (uint32_t i = 0; i < walk->damage_count; i++) {
        walk->damage[i].position += shift;
        walk->damage[i].end += shift;
    }
}

static int verify_all(recovery *self) {
    uint64_t previous_end = 0, previous_next = 0;
    for (uint64_t i = 0; i < self->count; i++) {
        found *segment = &self->found[i];
        if (segment->gone) {
            continue;
        }
        int error = verify(self, segment, previous_end, previous_next, next_base(self, i));
        if (error) {
            return error;
        }
        if (previous_end == 0 && segment->files.size >= HM_LOG_SEGMENT_HEADER) {
            place_first(segment, following(self, segment));
        }
        if (was_written(segment)) {
            const hm_walk *walk = &segment->walk;
            uint64_t end = walk->sealed ? walk->end : walk->offset;
            previous_end = walk->base_position + end - HM_LOG_SEGMENT_HEADER;
            /* A sealed segment without frames stands for lost ones: a hole, as a missing file is. */
            bool has_frames = end > HM_LOG_SEGMENT_HEADER;
            previous_next = walk->sealed && has_frames ? walk->next_sequence : walk->expected;
        }
        hm_files_park(&segment->files);
    }
    return 0;
}

/* deciding ------------------------------------------------------------------------------------ */

static found *last_written(const recovery *self) {
    for (uint64_t i = self->count; i > 0; i--) {
        if (!self->found[i - 1].gone && was_written(&self->found[i - 1])) {
            return &self->found[i - 1];
        }
    }
    return NULL;
}

static void unlink_files(const recovery *self, const found *segment) {
    char name[NAME_SIZE];
    hm_segment_name(name, sizeof name, segment->base, "log");
    unlinkat(self->log->pool->dirfd, name, 0);
    hm_segment_name(name, sizeof name, segment->base, "index");
    unlinkat(self->log->pool->dirfd, name, 0);
}

/* A file by a segment's name that is no segment: moved out of the way, never overwritten. */
static void set_aside(const recovery *self, const found *segment) {
    char from[NAME_SIZE], to[NAME_SIZE + 16];
    hm_segment_name(from, sizeof from, segment->base, "log");
    snprintf(to, sizeof to, "%s.unsound", from);
    renameat(self->log->pool->dirfd, from, self->log->pool->dirfd, to);
}

static int open_again(int dirfd, uint64_t base, const char *suffix) {
    char name[NAME_SIZE];
    hm_segment_name(name, sizeof name, base, suffix);
    return openat(dirfd, name, O_RDWR | O_CLOEXEC);
}

/* Cuts off frames that were never committed; on disk before a new segment takes the file's name.
 * Its index gets its own first: if the power goes in between, the records of new messages meet this
 * file, and what it held would be taken for them. */
static int cut_frames_durably(const recovery *self, const found *segment) {
    if (segment->files.size <= HM_LOG_SEGMENT_HEADER) {
        return 0;
    }
    int fd = open_again(self->log->pool->dirfd, segment->base, "log");
    bool failed = fd < 0 || ftruncate(fd, HM_LOG_SEGMENT_HEADER) != 0 || fsync(fd) != 0;
    int error = failed ? hm_code_of(errno) : 0;
    if (fd >= 0) {
        close(fd);
    }
    return error;
}

/* Segments without messages: what the last open made and nobody wrote to, or what a power loss
 * left. One that begins where we go on is replaced by the new segment, name by name, so that the
 * numbering is never without a file that tells it. */
static int drop_empty(recovery *self, const found *last, uint64_t next_sequence) {
    int error = 0;
    for (uint64_t i = 0; i < self->count; i++) {
        found *segment = &self->found[i];
        bool lost = last && segment < last && segment->files.size > HM_LOG_SEGMENT_HEADER;
        if (segment == last || (!segment->gone && (was_written(segment) || lost))) {
            continue; /* `lost`: damaged from end to end, and messages stand behind it */
        }
        segment->gone = true;
        if (segment->foreign) {
            set_aside(self, segment);
        } else if (segment->mislaid || segment->base != next_sequence) {
            unlink_files(self, segment);
        } else if (error == 0) {
            error = cut_frames_durably(self, segment);
        }
    }
    return error;
}

static void delete_litter(const recovery *self) {
    for (uint64_t i = 0; i < self->listing.litter_count; i++) {
        unlinkat(self->log->pool->dirfd, self->listing.litter[i], 0);
    }
}

/* repairing ----------------------------------------------------------------------------------- */

/* Bytes of frames that look written behind the cut: never acknowledged, or torn. */
static uint64_t bytes_behind(const found *segment) {
    hm_walk probe = segment->walk;
    uint64_t extent = probe.offset;
    for (int64_t size; (size = hm_walk_check(&probe, extent, probe.expected)) > 0;) {
        extent += (uint64_t)size;
        probe.expected++;
    }
    for (uint64_t i = 0; i < segment->record_count; i++) {
        uint64_t offset =
            segment->records[i].position - probe.base_position + HM_LOG_SEGMENT_HEADER;
        bool written = hm_record_count(&segment->records[i]) && offset < segment->files.size;
        extent =
            written && offset + HM_FRAME_SMALLEST > extent ? offset + HM_FRAME_SMALLEST : extent;
    }
    return extent - segment->walk.offset;
}

/* Records speak of nothing at or behind the cut. */
static void clip_records(found *segment) {
    uint64_t next = segment->walk.expected;
    while (segment->record_count && CLIPS_RECORDS) {
        hm_record *last = &segment->records[segment->record_count - 1];
        uint32_t count = hm_record_count(last);
        if (last->first_sequence + count <= next) {
            return;
        }
        if (last->first_sequence < next) {
            count = (uint32_t)(next - last->first_sequence);
            atomic_store_explicit(&last->count_crc,
                                  hm_record_count_crc(hm_record_crc_body(last), count),
                                  memory_order_relaxed);
            return;
        }
        segment->record_count--;
    }
}

/* What should stand up to where the next segment begins, or the seal, and does not. */
static void close_damage(found *segment, const found *next) {
    hm_walk *walk = &segment->walk;
    bool sealed = walk->sealed;
    uint64_t next_sequence = sealed ? walk->next_sequence : next ? next->base : walk->expected;
    if (walk->expected >= next_sequence) {
        return;
    }
    uint64_t end = sealed ? walk->end : walk->offset;
    if (!sealed && next->walk.base_position > walk->base_position) {
        end = next->walk.base_position - walk->base_position + HM_LOG_SEGMENT_HEADER;
        uint64_t room = hm_align_down(segment->files.size);
        end = end > room ? room : end;
    }
    end = end < walk->offset ? walk->offset : end;
    if (end == walk->offset) {
        return; /* nothing is there to quarantine: the missing sequences are a hole between segments
                 */
    }
    hm_walk_add_damage(walk, walk->offset, end, next_sequence,
                       walk->tail_error ? walk->tail_error : -HM_ETRUNC);
    walk->offset = end;
    walk->expected = next_sequence;
}

/* Rebuilds the marks of a segment whose records are damaged, contradict its frames, or leave out
 * where a quarantined range ends: so that every mark is the start of a sound frame, and none is far
 * from the next. */
typedef struct {
    hm_record *records;
    uint64_t count;
    uint64_t capacity;
} builder;

static bool build(builder *self, const hm_record *from, uint64_t sequence, uint64_t position) {
    if (self->count == self->capacity) {
        uint64_t capacity = self->capacity ? self->capacity * 2 : 64;
        hm_record *grown = realloc(self->records, capacity * sizeof *grown);
        if (grown == NULL) {
            return false;
        }
        self->records = grown;
        self->capacity = capacity;
    }
    hm_record *record = &self->records[self->count++];
    memcpy(record, from, sizeof *record);
    record->first_sequence = sequence;
    record->position = position;
    return true;
}

static const hm_damage *damage_at(const hm_walk *walk, uint64_t position) {
    for (uint32_t i = 0; i < walk->damage_count; i++) {
        if (walk->damage[i].position == position) {
            return &walk->damage[i];
        }
    }
    return NULL;
}

static bool rebuild_marks(found *segment, builder *self) {
    const hm_walk *walk = &segment->walk;
    uint64_t position = walk->base_position, sequence = segment->base, next = 0;
    hm_record unknown = {.time_ns =
                             segment->files.header_error ? 0 : segment->files.header.created_ns};
    bool wanted = true;
    while (position < end_position(segment)) {
        const hm_damage *damage = damage_at(walk, position);
        if (damage) {
            position = damage->end;
            sequence = damage->next_sequence;
            wanted = true;
            continue;
        }
        while (next < segment->record_count && segment->records[next].position <= position) {
            const hm_record *here = &segment->records[next++];
            unknown.time_ns = here->time_ns > unknown.time_ns ? here->time_ns : unknown.time_ns;
            wanted |= here->position == position;
        }
        wanted |= self->count && position - self->records[self->count - 1].position > HM_INDEX_SPAN;
        if (wanted && !build(self, &unknown, sequence, position)) {
            return false;
        }
        wanted = false;
        uint64_t offset = position - walk->base_position + HM_LOG_SEGMENT_HEADER;
        position += hm_frame_span(segment->files.map + offset);
        sequence++;
    }
    return true;
}

/* taking over --------------------------------------------------------------------------------- */

/* Messages that the damage of `walk` took out of [first, next). */
static uint64_t lost_of(const hm_walk *walk, uint64_t first, uint64_t next) {
    uint64_t lost = 0;
    for (uint32_t i = 0; i < walk->damage_count; i++) {
        const hm_damage *damage = &walk->damage[i];
        uint64_t from = damage->first_sequence > first ? damage->first_sequence : first;
        uint64_t to = damage->next_sequence < next ? damage->next_sequence : next;
        lost += to > from ? to - from : 0;
    }
    return lost;
}

/* Messages of the segment that are lost and that no record names the sender of. */
static uint64_t lost_unnamed(const found *segment) {
    uint64_t named = 0;
    for (uint64_t i = 0; i < segment->record_count; i++) {
        const hm_record *record = &segment->records[i];
        named += lost_of(&segment->walk, record->first_sequence,
                         record->first_sequence + hm_record_count(record));
    }
    return lost_of(&segment->walk, 0, UINT64_MAX) - named;
}

/* The publisher's messages of one record: what the log has of them, and what it has lost. */
static void remember_run(hm_publishers *publishers, const hm_walk *walk, const hm_record *record) {
    uint64_t first = record->first_sequence, end = first + hm_record_count(record);
    uint64_t shift = record->publisher_first - first; /* from the log's sequence to its own */
    for (uint32_t i = 0; i < walk->damage_count && first < end; i++) {
        const hm_damage *damage = &walk->damage[i];
        uint64_t from = damage->first_sequence > first ? damage->first_sequence : first;
        uint64_t to = damage->next_sequence < end ? damage->next_sequence : end;
        if (from >= to) {
            continue;
        }
        if (from > first) {
            hm_publishers_keep(publishers, record->publisher, first + shift, from + shift);
        }
        hm_publishers_lose(publishers, record->publisher, from + shift, to + shift);
        first = to;
    }
    if (first < end) {
        hm_publishers_keep(publishers, record->publisher, first + shift, end + shift);
    }
}

/* The checkpoint at the beginning of a segment: of each publisher its next sequence, or where what is
 * lost of it begins and ends, in turn, and then its next.  Returns how many records it takes. */
static uint64_t remember_checkpoint(recovery *self, const found *segment) {
    hm_publishers *publishers = self->log->publishers;
    uint64_t i = 0, turn = 0;
    for (; i < segment->record_count && hm_record_count(&segment->records[i]) == 0; i++) {
        const hm_record *record = &segment->records[i];
        const hm_record *before = i ? record - 1 : record;
        bool same = i && memcmp(before->publisher, record->publisher, 16) == 0;
        turn = same ? turn + 1 : 0;
        if (record->publisher_first == 0 || hm_publisher_nobody(record->publisher)) {
            continue;
        }
        if (turn % 2) {
            hm_publishers_lose(publishers, record->publisher, before->publisher_first,
                               record->publisher_first);
        } else {
            hm_publishers_expect(publishers, record->publisher, record->publisher_first,
                                 self->unnamed);
        }
    }
    return i;
}

/* What each publisher has in the log, and what of it is lost, so that it can be sent again.  Where
 * messages are lost that no record names (the file is gone, or the record as well), what is missing
 * between what is known of a publisher before and after is taken for lost, as far as so many are. */
static void remember_publishers(recovery *self, const found *segment) {
    hm_publishers *publishers = self->log->publishers;
    uint64_t checkpoint = remember_checkpoint(self, segment);
    self->unnamed = (checkpoint == 0 ? self->unnamed : 0) + lost_unnamed(segment);
    for (uint64_t i = 0; i < segment->record_count; i++) {
        const hm_record *record = &segment->records[i];
        uint64_t *time_ns = &self->log->time_ns;
        *time_ns = record->time_ns > *time_ns ? record->time_ns : *time_ns;
        if (i >= checkpoint && !hm_publisher_nobody(record->publisher)) {
            hm_publishers_expect(publishers, record->publisher, record->publisher_first,
                                 self->unnamed);
            remember_run(publishers, &segment->walk, record);
        }
    }
}

static bool index_is_sound(const found *segment) {
    const hm_files *files = &segment->files;
    return files->slots && segment->record_count && segment->unsound_records == 0 &&
           segment->walk.bad_marks == 0 && segment->walk.damage_count == 0;
}

static int take_records(hm_segment *segment, found *from) {
    hm_files *files = &from->files;
    segment->index_slots = files->slot_count;
    if (index_is_sound(from)) {
        segment->records = files->slots;
        segment->record_count = from->record_count;
        segment->record_capacity = files->slot_count;
        segment->index_reserved = files->slot_bytes;
        segment->records_fault = files->slots_fault;
        files->slots = NULL;
        uint64_t last = from->record_count - 1; /* it may have been clipped */
        if (memcmp(&segment->records[last], &from->records[last], sizeof(hm_record)) != 0) {
            memcpy(&segment->records[last], &from->records[last], sizeof(hm_record));
        }
        return 0;
    }
    builder built = {0};
    if (!rebuild_marks(from, &built)) {
        free(built.records);
        return -HM_ENOMEM;
    }
    segment->heap_records = true;
    segment->records = built.records;
    segment->record_count = segment->record_capacity = built.count;
    return 0;
}

static uint64_t last_time(const found *segment) {
    if (segment->walk.sealed) {
        return segment->files.seal.last_time_ns;
    }
    /* A record may have been extended for up to a tick. */
    return segment->record_count
               ? segment->records[segment->record_count - 1].time_ns + HM_INDEX_TICK - 1
               : 0;
}

static void count_damage(recovery *self, const hm_walk *walk) {
    for (uint32_t i = 0; i < walk->damage_count; i++) {
        const hm_damage *damage = &walk->damage[i];
        self->report->damaged_ranges++;
        self->report->damaged_bytes += damage->end - damage->position;
        self->report->missing += damage->next_sequence - damage->first_sequence;
    }
}

static hm_segment *new_segment(hm_log *log, found *from) {
    hm_segment *segment = calloc(1, sizeof *segment);
    if (segment == NULL) {
        return NULL;
    }
    hm_files *files = &from->files;
    hm_walk *walk = &from->walk;
    segment->pool = log->pool;
    atomic_fetch_add_explicit(&log->pool->refs, 1, memory_order_relaxed);
    atomic_init(&segment->refs, 1);
    segment->name = HM_NAME_BASE;
    segment->map = files->map;
    segment->map_size = files->size;
    segment->end = walk->offset;
    segment->base_sequence = from->base;
    segment->base_position = walk->base_position;
    segment->next_sequence = walk->expected;
    segment->last_time_ns = last_time(from);
    segment->first_time_ns = from->record_count ? from->records[0].time_ns : segment->last_time_ns;
    segment->generation = files->header_error ? 0 : files->header.generation;
    segment->header_crc = files->header_error ? 0 : files->header.crc;
    segment->damage = walk->damage;
    segment->damage_count = walk->damage_count;
    segment->fd = segment->index_fd = segment->direct_fd = -1;
    segment->disk_bytes = files->size + files->slot_bytes;
    segment->warmed = files->size;
    segment->sealed = true;
    segment->adopted = true;
    segment->shrunk = files->size != log->pool->options.segment_bytes;
    log->pool->disk_used += segment->disk_bytes;
    segment->map_fault = files->map_fault;
    files->map = NULL;
    walk->damage = NULL;
    return segment;
}

static void list_unsynced(hm_pool *pool, hm_segment *segment) {
    segment->unsynced = true;
    segment->unsynced_next = pool->unsynced;
    pool->unsynced = segment;
}

/* A header page that was lost is written again: the seal hangs on it. */
static void renew_header(hm_segment *segment) {
    hm_header header = {.base_sequence = segment->base_sequence,
                        .base_position = segment->base_position,
                        .generation = 1,
                        .segment_bytes = segment->map_size};
    hm_header_encode(segment->map, &header);
    hm_header_decode(segment->map, &header);
    segment->header_crc = header.crc;
}

static void mark_whole(hm_segment *segment) {
    const hm_synced synced = {segment->end, segment->next_sequence};
    for (uint64_t turn = 0; turn < 2; turn++) {
        hm_synced_encode(segment->map, segment->header_crc, turn, &synced);
    }
}

/* Seals the cut segment; on disk before anything new is written, and its frames before the seal that
 * says so. */
static int seal_durably(hm_segment *segment, bool header_lost) {
    int dirfd = segment->pool->dirfd;
    segment->fd = open_again(dirfd, segment->base_sequence, "log");
    segment->index_fd =
        segment->heap_records ? -1 : open_again(dirfd, segment->base_sequence, "index");
    int fd = dup(segment->fd);
    int index_fd = segment->heap_records ? -1 : dup(segment->index_fd);
    bool failed = fd < 0 || (index_fd < 0 && !segment->heap_records);
    if (!failed) {
        if (header_lost) {
            renew_header(segment);
        }
        failed = fsync(fd) != 0 || (index_fd >= 0 && fsync(index_fd) != 0);
    }
    if (!failed) {
        segment->sealed = false;
        mark_whole(segment);
        hm_segment_seal(segment, true);
        failed = fsync(fd) != 0 || (index_fd >= 0 && fsync(index_fd) != 0) || fsync(dirfd) != 0;
    }
    int error = failed ? hm_code_of(errno) : 0;
    if (fd >= 0) {
        close(fd);
    }
    if (index_fd >= 0) {
        close(index_fd);
    }
    return error;
}

static int adopt(recovery *self, found *from, bool needs_seal) {
    hm_log *log = self->log;
    int error = unpark(self, from);
    if (error) {
        return error;
    }
    hm_segment *segment = new_segment(log, from);
    if (segment == NULL) {
        return -HM_ENOMEM;
    }
    error = hm_log_add_segment(log, segment);
    if (error) {
        hm_segment_release(segment);
        return error;
    }
    from->walk.damage = segment->damage; /* lent: counting and rebuilding need it */
    from->files.map = segment->map;
    count_damage(self, &from->walk);
    clip_records(from);
    remember_publishers(self, from);
    error = take_records(segment, from);
    from->walk.damage = NULL;
    from->files.map = NULL;
    log->sealed_bytes += segment->end - HM_LOG_SEGMENT_HEADER;
    self->report->segments++;
    self->report->messages += from->walk.messages;
    self->report->bytes += from->walk.bytes;
    if (error == 0 && needs_seal) {
        error = seal_durably(segment, from->files.header_error != 0);
    }
    list_unsynced(log->pool, segment);
    if (error == 0) {
        hm_segment_fold(segment);
        error = hm_log_map(log, segment);
    }
    return error;
}

static void note_hole(recovery *self, const found *segment, const found *next) {
    uint64_t first = segment->walk.expected, position = end_position(segment);
    if (next && next->base > first) {
        self->unnamed += next->base - first;
        self->report->damaged_ranges++;
        self->report->missing += next->base - first;
        self->report->damaged_bytes += next->walk.base_position - position;
    }
}

static int adopt_all(recovery *self, const found *last) {
    for (uint64_t i = 0; i < self->count; i++) {
        found *segment = &self->found[i];
        if (segment->gone) {
            continue;
        }
        const found *next = segment == last ? NULL : following(self, segment);
        close_damage(segment, next);
        int error = adopt(self, segment, segment == last && !segment->walk.sealed);
        if (error) {
            return error;
        }
        note_hole(self, segment, next);
    }
    return 0;
}

/* With no message anywhere, the oldest empty segment tells how far the numbering had come, and which
 * publishers' messages were trimmed: what stood between it and newer ones was not synced, is lost,
 * and may be sent again. */
static const found *numbering(const recovery *self) {
    for (uint64_t i = 0; i < self->count; i++) {
        if (!self->found[i].mislaid && !self->found[i].foreign) {
            return &self->found[i];
        }
    }
    return NULL;
}

/* The empty segment that begins where we go on: its checkpoint is the newest, and may be the only
 * one. */
static void remember_empty(recovery *self, const found *last) {
    for (uint64_t i = 0; i < self->count; i++) {
        found *segment = &self->found[i];
        if (segment->gone && !segment->mislaid && segment->base == self->log->next_sequence &&
            (last == NULL || segment > last)) {
            clip_records(segment); /* of what it held nothing is left but the checkpoint */
            remember_publishers(self, segment);
        }
    }
}

/* Sequence that the next message must have at least: what the log is known to have had, or what its
 * owner knows to have been delivered, is not given to other messages. */
static uint64_t known_next(const recovery *self, uint64_t next) {
    uint64_t given_out = self->log->pool->options.given_out;
    next = KNOWS_END && self->end.next_sequence > next ? self->end.next_sequence : next;
    return given_out < HM_LOG_FARTHEST && given_out >= next ? given_out + 1 : next;
}

static int write_page(int dirfd, uint64_t base, const uint8_t *page) {
    char name[NAME_SIZE];
    hm_segment_name(name, sizeof name, base, "index");
    int index = openat(dirfd, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    hm_segment_name(name, sizeof name, base, "log");
    int fd = openat(dirfd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool failed = index < 0 || fd < 0 || fsync(index) != 0 ||
                  pwrite(fd, page, HM_PAGE, 0) != HM_PAGE || fsync(fd) != 0 || fsync(dirfd) != 0;
    int error = failed ? hm_code_of(errno) : 0;
    if (index >= 0) {
        close(index);
    }
    if (fd >= 0) {
        close(fd);
    }
    return error;
}

/* Every message that the log had is lost: a sealed segment without frames says which they were, so
 * that readers are told of them, now and after the next open. */
static int stand_in(recovery *self, uint64_t next) {
    uint8_t page[HM_PAGE] = {0};
    const hm_end *end = &self->end;
    uint64_t first = end->first_sequence ? end->first_sequence : 1;
    hm_header header = {.base_sequence = first,
                        .base_position = end->first_position,
                        .generation = 1,
                        .segment_bytes = HM_PAGE};
    hm_header_encode(page, &header);
    hm_header_decode(page, &header);
    hm_seal seal = {.end = HM_LOG_SEGMENT_HEADER, .next_sequence = next};
    hm_seal_encode(page, header.crc, &seal);
    for (uint64_t i = 0; i < self->count; i++) {
        const found *segment = &self->found[i];
        if (segment->foreign) {
            set_aside(self, segment);
        } else if (segment->files.size <= HM_LOG_SEGMENT_HEADER) {
            unlink_files(self,
                         segment); /* it holds nothing, and stands where there was something */
        }
    }
    self->again = true;
    return write_page(self->log->pool->dirfd, first, page);
}

/* Goes on behind what was at the end and is lost. */
static void skip_lost_end(recovery *self, uint64_t next) {
    hm_log *log = self->log;
    uint64_t lost = next - log->next_sequence;
    log->end_position += lost * HM_FRAME_SMALLEST; /* as between segments */
    if (self->end.next_sequence == next && self->end.position > log->end_position) {
        log->end_position = self->end.position;
    }
    log->next_sequence = next;
    self->report->damaged_ranges++;
    self->report->missing += lost;
    self->report->end_missing = lost;
}

static bool is_whole(const found *segment) {
    const hm_walk *walk = &segment->walk;
    return walk->sealed && walk->damage_count == 0 && walk->offset == walk->end;
}

static int decide(recovery *self) {
    hm_log *log = self->log;
    found *last = last_written(self);
    while (last && !last->walk.last && !is_whole(last)) {
        /* Nothing was written behind it: it ends where something is missing that was not synced. */
        int error = verify(self, last, last->walk.base_position, 0, UINT64_MAX);
        if (error) {
            return error;
        }
        if (was_written(last)) {
            break;
        }
        last = last_written(self); /* nothing in it was committed: the one before was the last */
    }
    if (last && !last->walk.sealed) {
        int error = unpark(self, last);
        if (error) {
            return error;
        }
        self->report->cut_bytes += bytes_behind(last);
    }
    const found *empty = last ? NULL : numbering(self);
    if (last) {
        close_damage(last, NULL);
        log->next_sequence = last->walk.expected;
    } else if (empty) {
        log->next_sequence = empty->base;
        log->end_position = empty->walk.base_position;
    }
    uint64_t next = known_next(self, log->next_sequence);
    uint64_t first = self->end.first_sequence ? self->end.first_sequence : 1;
    if (last == NULL && first < next && log->next_sequence < next) {
        return stand_in(self, next);
    }
    int error = drop_empty(self, last, next);
    error = error ? error : adopt_all(self, last);
    if (last) {
        log->end_position = end_position(last);
    }
    remember_empty(self, last);
    if (error == 0 && log->next_sequence < next) {
        skip_lost_end(self, next);
    }
    return error;
}

static void recovery_free(recovery *self) {
    for (uint64_t i = 0; self->found && i < self->count; i++) {
        hm_files_close(&self->found[i].files);
        free(self->found[i].walk.damage);
        free(self->found[i].records);
    }
    free(self->found);
    hm_listing_free(&self->listing);
}

static int load_all(recovery *self) {
    int error = hm_listing_read(self->log->pool->dirfd, &self->listing);
    if (error) {
        return error;
    }
    self->found = calloc(self->listing.count + 1, sizeof *self->found);
    if (self->found == NULL) {
        return -HM_ENOMEM;
    }
    for (uint64_t i = 0; error == 0 && i < self->listing.count; i++) {
        error = load(self, &self->found[i], self->listing.bases[i]);
        self->count = i + 1;
    }
    return error;
}

int hm_log_recover(hm_log *log, uint64_t *progress, hm_log_report *report) {
    recovery self = {.log = log, .report = report, .progress = progress};
    bool damaged;
    hm_end_read(log->pool->dirfd, &self.end, &damaged);
    int error = hm_hot_restore(log->pool->dirfd);
    error = error ? error : load_all(&self);
    error = error ? error : verify_all(&self);
    error = error ? error : decide(&self);
    if (error == 0 && self.again) {
        recovery_free(&self);
        self = (recovery){.log = log, .report = report, .progress = progress, .end = self.end};
        error = load_all(&self);
        error = error ? error : verify_all(&self);
        error = error ? error : decide(&self);
    }
    report->end_damaged = damaged;
    if (error == 0) {
        delete_litter(&self);
        log->pool->directory_dirty = true;
    }
    recovery_free(&self);
    return error;
}
