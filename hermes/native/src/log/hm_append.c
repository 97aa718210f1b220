/* hm_append.c -- appends frames to a log's active segment. */
#include <assert.h>
#include <errno.h>

#include "log_internal.h"

#define CACHE_LINE 64 /* bytes */
#define EXPECT_MAX                                                                                 \
    1024 /* bytes fetched per frame: longer copies are fetched ahead by the hardware */
#define COPY_BLOCK 8192 /* bytes copied at a time: a quarter of the nearest cache */

static const hm_origin nobody;

/* Whether a run by `origin` may extend the last record. */
static bool extends(const hm_log *log, const hm_origin *origin, uint64_t now_ns) {
    if (!log->last_extensible) {
        return false;
    }
    const hm_record *last = &log->active->records[log->active->record_count - 1];
    return memcmp(last->publisher, origin->publisher, sizeof last->publisher) == 0 &&
           origin->first_sequence == log->last_publisher_next &&
           now_ns - last->time_ns < HM_INDEX_TICK &&
           log->end_position - last->position < HM_INDEX_SPAN;
}

/* Copies whole frames of at most `budget` bytes (at least one) and stamps them.  Returns the bytes,
 * 0 if what stands there is not whole frames.  In blocks, so that the stamps meet the copy in the
 * nearest cache. */
static uint64_t copy_run(uint8_t *to, const uint8_t *from, uint64_t size, uint64_t budget,
                         uint64_t sequence, uint32_t *count) {
    uint64_t done = 0, copied = 0;
    uint32_t frames = 0;
    while (size - done >= HM_FRAME_HEADER) {
        uint64_t end = done + hm_frame_span(from + done);
        if (end > size || (end > budget && frames)) {
            break;
        }
        if (end > copied) {
            uint64_t block = end - copied < COPY_BLOCK ? COPY_BLOCK : end - copied;
            block = block < size - copied ? block : size - copied;
            memcpy(to + copied, from + copied, block);
            copied += block;
        }
        uint64_t stamp = sequence + frames;
        memcpy(to + done + offsetof(hm_frame_header, sequence), &stamp, sizeof stamp);
        done = end;
        frames++;
    }
    *count = frames;
    return size <= budget && done != size ? 0 : done;
}

static void note_publisher(hm_log *log, const hm_origin *origin, uint64_t count) {
    if (hm_publisher_nobody(origin->publisher)) {
        log->last_publisher = NULL;
        log->last_publisher_next = 0;
        return;
    }
    uint64_t next = origin->first_sequence + count;
    log->last_publisher =
        hm_publishers_keep(log->publishers, origin->publisher, origin->first_sequence, next);
    log->last_publisher_next = next;
    /* What was lost and is sent again is a record of its own: extending one only counts on. */
    log->last_extensible = log->last_publisher == NULL || log->last_publisher->last < next;
}

/* Lengthens the last record by `count` messages. */
static void extend_record(hm_log *log, uint32_t count) {
    hm_segment *segment = log->active;
    hm_record *record = &segment->records[segment->record_count - 1];
    uint32_t total = hm_record_count(record) + count;
    /* release: as in hm_index_add. */
    atomic_store_explicit(&record->count_crc, hm_record_count_crc(log->last_body_crc, total),
                          memory_order_release);
    if (log->last_publisher) {
        log->last_publisher->last += count;
        log->last_publisher_next += count;
    }
}

static void add_record(hm_log *log, const hm_origin *origin, uint64_t now_ns, uint32_t count) {
    hm_record *record =
        hm_index_add(log->active, origin, log->next_sequence, log->end_position, now_ns, count);
    log->last_body_crc = hm_record_crc_body(record);
    log->last_extensible = true;
    note_publisher(log, origin, count);
}

static void advance(hm_log *log, uint64_t size, uint32_t count, uint64_t now_ns) {
    hm_segment *segment = log->active;
    log->next_sequence += count;
    log->end_position += size;
    segment->end += size;
    /* release: the helper carries what stands before the tail. */
    atomic_store_explicit(&segment->tail, segment->end, memory_order_release);
    segment->next_sequence += count;
    segment->last_time_ns = now_ns;
}

/* Meets a fault of the index before the record counts. */
static void touch_record(const hm_segment *segment) {
    const hm_record *next = &segment->records[segment->record_count];
    (void)*(const volatile uint64_t *)(next > segment->records ? &(next - 1)->time_ns
                                                               : &next->time_ns);
    (void)*(const volatile uint64_t *)&next->time_ns;
}

/* Somebody has cut the files that are written to, or their disk fails: the frames just copied are in
 * no file, and are not in the log.  It refuses appends until it is opened again. */
static int lose_files(hm_log *log) {
    log->last_extensible = false;
    log->pool->failed_errno = EIO;
    atomic_store_explicit(&log->pool->failed, -HM_EIO, memory_order_relaxed);
    return -HM_EIO;
}

/* Appends what fits in the active segment: the caller knows that `size` does. */
static int append_here(hm_log *log, const uint8_t *frames, uint64_t size, uint32_t count,
                       hm_origin *origin, uint64_t now_ns) {
    hm_segment *segment = log->active;
    assert(size <= segment->map_size - segment->end);
    /* Two consecutive records cover more than HM_INDEX_SPAN between them. */
    uint64_t records = 2 * (size / HM_INDEX_SPAN) + 2;
    int error = hm_index_room(segment, records);
    if (error == -HM_ENOSPACE && hm_segment_frame_bytes(segment)) {
        /* Its index cannot grow.  A prepared segment has an index of its own. */
        error = hm_log_roll(log, now_ns);
        segment = log->active;
        assert(error || size <= segment->map_size - segment->end);
        error = error ? error : hm_index_room(segment, records);
    }
    if (error) {
        return hm_log_starve(log, error);
    }
    bool anonymous = hm_publisher_nobody(origin->publisher);
    while (size) {
        bool same = extends(log, origin, now_ns);
        const hm_record *last = same ? &segment->records[segment->record_count - 1] : NULL;
        uint64_t budget = HM_INDEX_SPAN - (same ? log->end_position - last->position : 0);
        uint32_t taken;
        uint64_t done =
            copy_run(segment->map + segment->end, frames, size, budget, log->next_sequence, &taken);
        if (done == 0 || taken > count || (done == size && taken != count)) {
            return -HM_EINVAL;
        }
        touch_record(segment);
        if (hm_segment_faults(segment)) {
            return lose_files(log);
        }
        if (same && log->end_position - last->position + done <= HM_INDEX_SPAN) {
            extend_record(log, taken);
        } else {
            add_record(log, origin, now_ns, taken);
        }
        advance(log, done, taken, now_ns);
        frames += done;
        size -= done;
        count -= taken;
        origin->first_sequence += anonymous ? 0 : taken;
    }
    if (segment->end > log->nudge_at) {
        hm_log_nudge(log);
    }
    return 0;
}

/* The longest prefix of whole frames that fits `room`. */
static uint64_t fit(const uint8_t *frames, uint64_t size, uint64_t room, uint32_t *count) {
    uint64_t done = 0;
    *count = 0;
    while (size - done >= HM_FRAME_HEADER) {
        uint64_t span = hm_frame_span(frames + done);
        if (span > size - done || span > room - done) {
            break;
        }
        done += span;
        ++*count;
    }
    return done;
}

/* Rolls, possibly more than once. */
static int append_split(hm_log *log, const uint8_t *frames, uint64_t size, uint32_t count,
                        hm_origin *origin, uint64_t now_ns, uint32_t *appended) {
    uint64_t capacity = log->pool->options.segment_bytes - HM_LOG_SEGMENT_HEADER;
    bool anonymous = hm_publisher_nobody(origin->publisher);
    while (size) {
        uint64_t room = log->active->map_size - log->active->end;
        uint32_t fitting;
        uint64_t part = fit(frames, size, room, &fitting);
        if (part == 0 && hm_frame_span(frames) > capacity) {
            return -HM_ELENGTH;
        }
        if (part == 0) {
            int error = hm_log_roll(log, now_ns);
            if (error) {
                return error;
            }
            continue;
        }
        if (part < size && fitting >= count) {
            return -HM_EINVAL;
        }
        hm_origin run = *origin;
        int error = append_here(log, frames, part, fitting, &run, now_ns);
        if (error) {
            return error;
        }
        frames += part;
        size -= part;
        count -= fitting;
        *appended += fitting;
        origin->first_sequence += anonymous ? 0 : fitting;
    }
    return count ? -HM_EINVAL : 0;
}

/* No frame may be larger than a segment: known before anything is written. */
static int check_lengths(const hm_log *log, const uint8_t *frames, uint64_t size) {
    uint64_t capacity = log->pool->options.segment_bytes - HM_LOG_SEGMENT_HEADER;
    for (uint64_t done = 0; done < size;) {
        if (size - done < HM_FRAME_HEADER) {
            return -HM_EINVAL;
        }
        uint64_t span = hm_frame_span(frames + done);
        if (span > capacity) {
            return -HM_ELENGTH;
        }
        if (span > size - done) {
            return -HM_EINVAL;
        }
        done += span;
    }
    return 0;
}

/* A prepared segment in hand before the first byte is copied: a batch that needs one more segment
 * is all or nothing. */
static int secure_next(hm_log *log) {
    hm_segment *segment = NULL;
    hm_log_retire_due(log, log->pool->options.segment_bytes + hm_segment_frame_bytes(log->active),
                      0);
    int error = hm_log_take(log, &segment);
    if (error) {
        return hm_log_starve(log, error);
    }
    hm_log_put_back(log, segment);
    return 0;
}

int hm_log_append(hm_log *log, const uint8_t *frames, uint64_t size, uint32_t count,
                  const hm_origin *origin, uint64_t now_ns, uint64_t *first_sequence,
                  uint64_t *first_position, uint32_t *appended) {
    *appended = 0;
    *first_sequence = log->next_sequence;
    *first_position = log->end_position;
    if (count == 0 || size < HM_FRAME_HEADER || size % HM_FRAME_ALIGN) {
        return -HM_EINVAL;
    }
    /* relaxed: a failure is noticed at the next append at the latest. */
    int error = atomic_load_explicit(&log->pool->failed, memory_order_relaxed);
    error = error ? error : hm_window_admit(log, size);
    if (error) {
        return error;
    }
    if (now_ns >= log->time_ns) {
        log->time_ns = now_ns;
    } else if (log->time_ns - now_ns > HM_BACK_SLACK_NS) {
        hm_log_step_back(log, now_ns);
    }
    hm_origin run = origin && !hm_publisher_nobody(origin->publisher) ? *origin : nobody;
    log->appends++;
    if (size <= log->active->map_size - log->active->end) {
        error = append_here(log, frames, size, count, &run, log->time_ns);
        *appended = error ? 0 : count;
        return error;
    }
    error = check_lengths(log, frames, size);
    error = error ? error : secure_next(log);
    uint64_t before = log->next_sequence;
    error = error ? error : append_split(log, frames, size, count, &run, log->time_ns, appended);
    *appended = (uint32_t)(log->next_sequence - before);
    return error;
}

void hm_log_expect(const hm_log *log, uint64_t offset, uint64_t size) {
    const hm_segment *segment = log->active;
    uint64_t at = segment->end + offset;
    size = size < EXPECT_MAX ? size : EXPECT_MAX;
    if (at + size > segment->map_size) {
        return; /* it will stand in another segment */
    }
    for (uint64_t line = at / CACHE_LINE * CACHE_LINE; line < at + size; line += CACHE_LINE) {
        __builtin_prefetch(segment->map + line, 1, 2);
    }
}

int hm_log_misses(const hm_log *log, const uint8_t *publisher, uint64_t sequence) {
    return hm_publishers_misses(log->publishers, publisher, sequence);
}

uint64_t hm_log_publisher(hm_log *log, const uint8_t *publisher) {
    const hm_publisher *found = hm_publishers_find(log->publishers, publisher);
    return found ? found->last : 0;
}
