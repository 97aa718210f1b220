/* hm_verify.c -- looks at a log's files without changing them. */
#include "hm_verify.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log_internal.h"

#define NAME_SIZE   40
#define HEADER_TAIL (HM_SEAL_OFFSET + HM_SEAL_SIZE)
#define SYNCED_TAIL (HM_SYNCED_OFFSET + 2 * HM_SYNCED_SIZE)

struct hm_verification {
    hm_verified *segments;
    uint64_t segment_count;
    hm_problem *problems;
    uint64_t problem_count;
    bool out_of_memory;
};

typedef struct {
    hm_verification *result;
    int dirfd;
    bool frames;
    bool last; /* no messages stand behind it */
    uint64_t *progress;
    uint64_t next_base;    /* of the following segment, UINT64_MAX: none */
    uint64_t expected;     /* sequence after the segment before, 0: there is none */
    uint64_t end_position; /* of the segment before */
    hm_end end;            /* what the end mark says */
} verifier;

static void add_problem(verifier *self, hm_problem problem) {
    hm_verification *result = self->result;
    hm_problem *grown =
        realloc(result->problems, (result->problem_count + 1) * sizeof *result->problems);
    if (grown == NULL) {
        result->out_of_memory = true;
        return;
    }
    result->problems = grown;
    result->problems[result->problem_count++] = problem;
}

static void add_simple(verifier *self, uint64_t base, int kind, uint64_t offset, int error) {
    add_problem(self, (hm_problem){base, offset, 0, 0, 0, kind, error});
}

/* header, seal, index ---------------------------------------------------------------------------
 */

/* The first byte of [from, to) that is not zero, or `to`. */
static uint64_t first_nonzero(const uint8_t *page, uint64_t from, uint64_t to) {
    while (from < to && page[from] == 0) {
        from++;
    }
    return from;
}

/* A mark that is being written while we look is sound when we look again. */
static void check_synced(verifier *self, uint64_t base, const hm_files *files, int header_error) {
    hm_synced again;
    uint32_t unsound = files->synced_unsound;
    if (unsound && header_error == 0 &&
        hm_synced_decode(files->map, files->header.crc, &again) == unsound) {
        add_simple(self, base, HM_PROBLEM_HEADER, unsound, -HM_ECRC);
    }
}

static void check_header(verifier *self, uint64_t base, const hm_files *files) {
    int error = files->header_error;
    if (error == 0 && files->header.base_sequence != base) {
        error = -HM_ESEQUENCE;
    }
    if (error) {
        add_simple(self, base, HM_PROBLEM_HEADER, 0, error);
    }
    if (files->size < HM_LOG_SEGMENT_HEADER) {
        return;
    }
    uint64_t gap = first_nonzero(files->map, HM_HEADER_SIZE, HM_SEAL_OFFSET);
    uint64_t middle = first_nonzero(files->map, HEADER_TAIL, HM_SYNCED_OFFSET);
    uint64_t tail = first_nonzero(files->map, SYNCED_TAIL, HM_LOG_SEGMENT_HEADER);
    if (gap < HM_SEAL_OFFSET || middle < HM_SYNCED_OFFSET || tail < HM_LOG_SEGMENT_HEADER) {
        add_simple(self, base, HM_PROBLEM_HEADER,
                   gap < HM_SEAL_OFFSET        ? gap
                   : middle < HM_SYNCED_OFFSET ? middle
                                               : tail,
                   -HM_EPADDING);
    }
    check_synced(self, base, files, error);
    if (files->seal_error && files->seal_error != -HM_EEMPTY && error == 0) {
        add_simple(self, base, HM_PROBLEM_SEAL, HM_SEAL_OFFSET, files->seal_error);
    }
}

static uint64_t first_unsound(const hm_files *files) {
    for (uint64_t i = 0; i < files->slot_count; i++) {
        if (hm_record_check(&files->slots[i]) != 0) {
            return i * sizeof(hm_record);
        }
    }
    return 0;
}

static void check_index(verifier *self, uint64_t base, const hm_files *files, uint64_t records,
                        uint64_t unsound, uint64_t bad_marks) {
    if (!files->has_index) {
        add_simple(self, base, HM_PROBLEM_INDEX, 0, -HM_EEMPTY);
    } else if (unsound) {
        add_simple(self, base, HM_PROBLEM_INDEX, first_unsound(files), -HM_ECRC);
    } else if (bad_marks) {
        add_simple(self, base, HM_PROBLEM_INDEX, 0, -HM_ESEQUENCE);
    } else if (files->seal_error == 0 && (files->seal.records != records ||
                                          files->slot_bytes != records * sizeof(hm_record))) {
        add_simple(self, base, HM_PROBLEM_INDEX, records * sizeof(hm_record), -HM_ELENGTH);
    }
}

/* frames -------------------------------------------------------------------------------------- */

static uint64_t offset_of(const hm_walk *walk, uint64_t position) {
    return position - walk->base_position + HM_LOG_SEGMENT_HEADER;
}

static void add_damage(verifier *self, uint64_t base, const hm_walk *walk) {
    for (uint32_t i = 0; i < walk->damage_count; i++) {
        const hm_damage *damage = &walk->damage[i];
        uint64_t resume = offset_of(walk, damage->end);
        bool sound_follows = damage->next_sequence < walk->expected;
        add_problem(self, (hm_problem){base, offset_of(walk, damage->position),
                                       sound_follows ? resume : 0, damage->first_sequence,
                                       damage->next_sequence, HM_PROBLEM_FRAMES, damage->error});
    }
}

static void add_tail(verifier *self, uint64_t base, const hm_walk *walk, uint64_t promised) {
    if (walk->expected >= promised && walk->tail_error == 0) {
        return;
    }
    bool torn = !walk->sealed && self->last && /* else it is quarantined */
                walk->expected >= self->end.next_sequence;
    add_problem(self, (hm_problem){base, walk->offset, 0, walk->expected,
                                   promised > walk->expected ? promised : walk->expected,
                                   torn ? HM_PROBLEM_TORN : HM_PROBLEM_FRAMES,
                                   walk->tail_error ? walk->tail_error : -HM_ETRUNC});
}

/* What the segment must hold: up to its seal, else up to the next segment, else what its records
 * cover, or its synced mark. */
static uint64_t promised_next(const verifier *self, const hm_files *files, const hm_synced *synced,
                              uint64_t covered) {
    covered = synced->next_sequence > covered ? synced->next_sequence : covered;
    return files->seal_error == 0 ? files->seal.next_sequence
           : self->last           ? covered
                                  : self->next_base;
}

static void check_frames(verifier *self, hm_verified *out, const hm_files *files,
                         const hm_record *records, uint64_t count, uint64_t promised,
                         const hm_synced *synced, uint64_t *bad_marks) {
    bool sealed = files->seal_error == 0;
    hm_walk walk = {.map = files->map,
                    .end = sealed ? files->seal.end : files->size,
                    .base_sequence = out->base_sequence,
                    .base_position = out->base_position,
                    .next_sequence = promised,
                    .covered = hm_records_covered(files, out->base_sequence),
                    .sealed = sealed,
                    .last = self->last,
                    .synced = *synced,
                    .marks = records,
                    .mark_count = count,
                    .progress = self->progress};
    hm_walk_run(&walk);
    self->result->out_of_memory |= walk.out_of_memory;
    add_damage(self, out->base_sequence, &walk);
    add_tail(self, out->base_sequence, &walk, promised);
    *bad_marks = walk.bad_marks;
    out->messages = walk.messages;
    out->bytes = walk.bytes;
    out->end = walk.sealed ? walk.end : walk.offset;
    free(walk.damage);
}

/* Without looking at the frames: where the last one ends is known from the seal, else walked from
 * the last record. */
static void claim_frames(hm_verified *out, const hm_files *files, const hm_record *records,
                         uint64_t count, uint64_t promised) {
    out->messages = promised - out->base_sequence;
    out->end = HM_LOG_SEGMENT_HEADER;
    if (files->seal_error == 0) {
        out->end = files->seal.end;
    } else if (count) {
        hm_walk probe = {.map = files->map, .end = files->size};
        uint64_t sequence = records[count - 1].first_sequence;
        out->end = records[count - 1].position - out->base_position + HM_LOG_SEGMENT_HEADER;
        for (int64_t size;
             sequence < promised && (size = hm_walk_check(&probe, out->end, sequence)) > 0;) {
            out->end += (uint64_t)size;
            sequence++;
        }
    }
    out->bytes = out->end - HM_LOG_SEGMENT_HEADER;
}

/* segments ------------------------------------------------------------------------------------ */

static void describe(const verifier *self, hm_verified *out, const hm_files *files,
                     const hm_record *records, uint64_t count) {
    bool header = files->header_error == 0;
    out->file_bytes = files->size;
    out->index_bytes = files->slot_bytes;
    out->records = count;
    out->sealed = files->seal_error == 0;
    out->base_position = header  ? files->header.base_position
                         : count ? records[0].position
                                 : self->end_position;
    out->created_ns = header ? files->header.created_ns : 0;
    out->generation = header ? files->header.generation : 0;
    out->first_time_ns = count ? records[0].time_ns : 0;
    out->last_time_ns = out->sealed ? files->seal.last_time_ns
                        : count     ? records[count - 1].time_ns
                                    : 0;
}

static void check_hole(verifier *self, const hm_verified *out) {
    if (self->expected && self->expected < out->base_sequence) {
        add_problem(self, (hm_problem){out->base_sequence, HM_LOG_SEGMENT_HEADER,
                                       HM_LOG_SEGMENT_HEADER, self->expected, out->base_sequence,
                                       HM_PROBLEM_HOLE, -HM_ESEQUENCE});
    }
}

static int judge(verifier *self, uint64_t base, const hm_files *files, hm_record *records,
                 hm_verified *out) {
    uint64_t unsound, covered, bad_marks = 0;
    uint64_t position = files->header_error ? hm_records_position(files->slots, files->slot_count,
                                                                  base, self->end_position)
                                            : files->header.base_position;
    uint64_t count = hm_records_sift(files->slots, files->slot_count, base, position, records,
                                     &unsound, &covered);
    describe(self, out, files, records, count);
    out->base_sequence = base;
    out->base_position = position;
    check_header(self, base, files);
    check_hole(self, out);
    hm_synced synced =
        self->last ? hm_synced_extent(files, base, position, &self->end) : files->synced;
    uint64_t promised = promised_next(self, files, &synced, covered);
    if (files->size < HM_LOG_SEGMENT_HEADER) {
        out->end = files->size;
        if (promised != UINT64_MAX && promised > base) {
            add_problem(self, (hm_problem){base, files->size, 0, base, promised, HM_PROBLEM_FRAMES,
                                           -HM_ETRUNC});
        }
    } else if (self->frames) {
        check_frames(self, out, files, records, count, promised, &synced, &bad_marks);
    } else {
        claim_frames(out, files, records, count, promised);
    }
    check_index(self, base, files, count, unsound, bad_marks);
    out->next_sequence = promised > base ? promised : base;
    return 0;
}

/* Whether the name still leads to what was looked at: else retention has taken it meanwhile. */
static bool still_there(int dirfd, uint64_t base, const struct stat *before) {
    char name[NAME_SIZE];
    struct stat now;
    hm_segment_name(name, sizeof name, base, "log");
    return fstatat(dirfd, name, &now, 0) == 0 && now.st_ino == before->st_ino;
}

/* Retention was faster: the next segment is the oldest one. */
static int was_taken(verifier *self) {
    self->expected = 0;
    return 0;
}

static int check_segment(verifier *self, uint64_t base) {
    char name[NAME_SIZE];
    struct stat before;
    hm_files files;
    hm_segment_name(name, sizeof name, base, "log");
    if (fstatat(self->dirfd, name, &before, 0) != 0) {
        return errno == ENOENT ? was_taken(self) : -HM_EIO;
    }
    int error = hm_files_open(self->dirfd, base, false, &files);
    if (error) {
        return still_there(self->dirfd, base, &before) ? error : was_taken(self);
    }
    hm_record *records = malloc((files.slot_count + 1) * sizeof *records);
    uint64_t problems = self->result->problem_count;
    hm_verified *out = &self->result->segments[self->result->segment_count];
    error = records == NULL                      ? -HM_ENOMEM
            : files.header_error == -HM_EVERSION ? -HM_EVERSION
                                                 : judge(self, base, &files, records, out);
    free(records);
    hm_files_close(&files);
    if (error == 0 && still_there(self->dirfd, base, &before)) {
        out->problems = (int32_t)(self->result->problem_count - problems);
        self->expected = out->next_sequence;
        self->end_position = out->base_position + out->end - HM_LOG_SEGMENT_HEADER;
        self->result->segment_count++;
    } else {
        self->result->problem_count = problems;
        was_taken(self);
    }
    return error;
}

/* The mark was read before the segments: a broker that is at work may have gone on since. */
static void check_end(verifier *self, bool damaged) {
    const hm_end *end = &self->end;
    uint64_t first = end->first_sequence ? end->first_sequence : 1;
    uint64_t expected = self->expected ? self->expected : first;
    if (damaged) {
        add_simple(self, end->next_sequence, HM_PROBLEM_MARK, 0, -HM_ECRC);
    }
    if (expected < end->next_sequence) {
        add_problem(self, (hm_problem){end->next_sequence, 0, 0, expected, end->next_sequence,
                                       HM_PROBLEM_END, -HM_ETRUNC});
    }
}

/* Whether opening would find messages in it if nothing stood behind it. */
static bool holds_messages(int dirfd, uint64_t base) {
    hm_files files;
    if (hm_files_open(dirfd, base, false, &files) != 0) {
        return false;
    }
    hm_walk probe = {.map = files.map, .end = files.size};
    bool holds = files.synced.next_sequence > base ||
                 (hm_records_covered(&files, base) > base &&
                  hm_walk_check(&probe, HM_LOG_SEGMENT_HEADER, base) > 0);
    hm_files_close(&files);
    return holds;
}

/* Index of the last segment that holds messages, 0 if none does. */
static uint64_t last_written(const verifier *self, const hm_listing *listing) {
    uint64_t last = listing->count;
    while (last > 0 && !holds_messages(self->dirfd, listing->bases[last - 1])) {
        last--;
    }
    return last ? last - 1 : 0;
}

static int check_all(verifier *self) {
    hm_listing listing;
    bool damaged;
    hm_end_read(self->dirfd, &self->end, &damaged);
    int error = hm_listing_read(self->dirfd, &listing);
    if (error) {
        return error;
    }
    self->result->segments = calloc(listing.count + 1, sizeof *self->result->segments);
    error = self->result->segments ? 0 : -HM_ENOMEM;
    uint64_t last = error ? 0 : last_written(self, &listing);
    for (uint64_t i = 0; error == 0 && i < listing.count; i++) {
        self->last = i >= last;
        self->next_base = i + 1 == listing.count ? UINT64_MAX : listing.bases[i + 1];
        error = check_segment(self, listing.bases[i]);
    }
    if (error == 0) {
        check_end(self, damaged);
    }
    hm_listing_free(&listing);
    return error ? error : self->result->out_of_memory ? -HM_ENOMEM : 0;
}

int hm_verify(const char *directory, int frames, uint64_t *progress,
              hm_verification **verification) {
    hm_verification *result = calloc(1, sizeof *result);
    if (result == NULL) {
        return -HM_ENOMEM;
    }
    verifier self = {.result = result,
                     .dirfd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
                     .frames = frames != 0,
                     .progress = progress};
    int error = self.dirfd < 0 ? -HM_EIO : check_all(&self);
    if (self.dirfd >= 0) {
        close(self.dirfd);
    }
    if (error) {
        hm_verification_free(result);
        return error;
    }
    *verification = result;
    return 0;
}

void hm_verification_free(hm_verification *verification) {
    if (verification) {
        free(verification->segments);
        free(verification->problems);
        free(verification);
    }
}

const hm_verified *hm_verification_segments(const hm_verification *verification, uint64_t *count) {
    *count = verification->segment_count;
    return verification->segments;
}

const hm_problem *hm_verification_problems(const hm_verification *verification, uint64_t *count) {
    *count = verification->problem_count;
    return verification->problems;
}
