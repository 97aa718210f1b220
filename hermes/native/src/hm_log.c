#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "hm_log_parts.h"

#define COPY_BLOCK 8192 /* bytes copied at a time: a quarter of the nearest cache */

static const hm_origin nobody;

/* opening ------------------------------------------------------------------------------------- */

static void init_sync(hm_pool *pool) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, &attributes);
    pthread_cond_init(&pool->done, &attributes);
    pthread_condattr_destroy(&attributes);
}

static uint64_t index_chunk(uint64_t segment_bytes) {
    uint64_t chunk = segment_bytes / 32 / HM_PAGE * HM_PAGE;
    return chunk < HM_PAGE ? HM_PAGE : chunk > HM_INDEX_CHUNK ? HM_INDEX_CHUNK : chunk;
}

static hm_pool *pool_new(const hm_log_options *options) {
    hm_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL) {
        return NULL;
    }
    atomic_init(&pool->refs, 1);
    init_sync(pool);
    pool->options = *options;
    pool->index_chunk = index_chunk(options->segment_bytes);
    pool->dirfd = -1;
    pool->eventfd = -1;
    return pool;
}

static bool options_are_sound(const hm_log_options *options) {
    return options->segment_bytes % HM_PAGE == 0 &&
           options->segment_bytes >= 2 * HM_LOG_SEGMENT_HEADER &&
           options->segment_bytes <= UINT32_MAX && options->spares <= HM_LOG_SPARES_MAX;
}

static void log_free(hm_log *log) {
    for (uint64_t i = 0; i < log->segments_count; i++) {
        hm_segment_release(log->segments[log->segments_first + i]);
    }
    free(log->segments);
    hm_publishers_free(log->publishers);
    if (log->pool) {
        hm_pool_unref(log->pool);
    }
    free(log);
}

static hm_log *log_new(const hm_log_options *options) {
    hm_log *log = calloc(1, sizeof *log);
    if (log == NULL) {
        return NULL;
    }
    log->pool = pool_new(options);
    log->publishers = hm_publishers_new();
    log->next_sequence = 1;
    if (log->pool == NULL || log->publishers == NULL) {
        log_free(log);
        return NULL;
    }
    return log;
}

int hm_log_add_segment(hm_log *log, hm_segment *segment) {
    if (log->segments_first + log->segments_count == log->segments_capacity) {
        if (log->segments_first > log->segments_capacity / 2) {
            memmove(log->segments, log->segments + log->segments_first,
                    log->segments_count * sizeof *log->segments);
            log->segments_first = 0;
        } else {
            uint64_t capacity = log->segments_capacity ? log->segments_capacity * 2 : 64;
            hm_segment **grown = realloc(log->segments, capacity * sizeof *grown);
            if (grown == NULL) {
                return -HM_ENOMEM;
            }
            log->segments = grown;
            log->segments_capacity = capacity;
        }
    }
    log->segments[log->segments_first + log->segments_count++] = segment;
    return 0;
}

/* rolling ------------------------------------------------------------------------------------- */

static uint64_t frame_bytes(const hm_segment *segment) {
    return segment->end - HM_LOG_SEGMENT_HEADER;
}

static void wake_helper(hm_log *log, bool want_spare, uint64_t warm_target) {
    hm_pool *pool = log->pool;
    pthread_mutex_lock(&pool->lock);
    pool->spare_wanted |= want_spare;
    pool->warm_target = warm_target > pool->warm_target ? warm_target : pool->warm_target;
    pthread_cond_signal(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

/* The tail has passed `nudge_at`: the busier the segment, the further ahead it is made warm, so
 * that an idle stream costs little and a busy one soon has all of it, and then a spare. */
static void nudge(hm_log *log) {
    hm_segment *segment = log->active;
    uint64_t target = (segment->end + HM_PAGE - 1) / HM_PAGE * HM_PAGE * 8;
    target = target < HM_WARM_FIRST       ? HM_WARM_FIRST
             : target > segment->map_size ? segment->map_size
                                          : target;
    target = target > segment->map_size ? segment->map_size : target;
    bool busy = target == segment->map_size;
    log->nudge_at = busy ? UINT64_MAX : segment->end * 2;
    wake_helper(log, busy, target);
}

/* A count-0 record for each publisher: the duplicate filter no longer depends on older segments. */
static int write_checkpoint(hm_log *log, hm_segment *segment) {
    int error = hm_index_room(segment, hm_publishers_count(log->publishers) + 1U);
    if (error) {
        return error;
    }
    for (hm_publisher *publisher = hm_publishers_oldest(log->publishers); publisher;
         publisher = hm_publishers_newer(log->publishers, publisher)) {
        hm_origin origin = {.first_sequence = publisher->last + 1};
        memcpy(origin.publisher, publisher->id, sizeof origin.publisher);
        hm_index_add(segment, &origin, segment->base_sequence, segment->base_position, log->time_ns,
                     0);
    }
    return 0;
}

/* A segment to go on in: a prepared one, one just returned, or a new one made here. */
static int take_segment(hm_log *log, hm_segment **taken) {
    hm_pool *pool = log->pool;
    pthread_mutex_lock(&pool->lock);
    hm_segment *segment = pool->ready;
    if (segment) {
        pool->ready = segment->next;
        pool->ready_count--;
    }
    pthread_mutex_unlock(&pool->lock);
    if (segment) {
        *taken = segment;
        return 0;
    }
    int error = hm_segment_make(pool, taken);
    log->cold_rolls += error == 0;
    return error;
}

static void put_back(hm_log *log, hm_segment *segment) {
    hm_pool *pool = log->pool;
    pthread_mutex_lock(&pool->lock);
    segment->next = pool->ready;
    pool->ready = segment;
    pool->ready_count++;
    pthread_mutex_unlock(&pool->lock);
}

static void seal_active(hm_log *log, bool shrink) {
    hm_segment *segment = log->active;
    hm_pool *pool = log->pool;
    hm_segment_seal(segment, shrink);
    log->sealed_bytes += frame_bytes(segment);
    pthread_mutex_lock(&pool->lock);
    if (!segment->unsynced && pool->dirfd >= 0) {
        hm_segment **at = &pool->unsynced;
        segment->unsynced = true;
        segment->unsynced_next = *at;
        *at = segment;
    }
    pthread_mutex_unlock(&pool->lock);
}

/* It was the last in the list, and holds nothing. */
static void drop_placeholder(hm_log *log) {
    hm_segment *segment = log->active;
    assert(segment == log->segments[log->segments_first + log->segments_count - 1]);
    log->segments_count--;
    log->active = NULL;
    hm_segment_release(segment);
}

static void activate(hm_log *log, hm_segment *segment) {
    hm_pool *pool = log->pool;
    log->active = segment;
    log->last_extensible = false;
    log->nudge_at = HM_LOG_SEGMENT_HEADER;
    hm_segment_retain(segment);
    pthread_mutex_lock(&pool->lock);
    hm_segment *before = pool->warm;
    pool->warm = segment;
    pool->warm_target = segment->map_size < HM_WARM_FIRST ? segment->map_size : HM_WARM_FIRST;
    pool->spare_wanted = false;
    pthread_cond_signal(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    hm_segment_release(before);
}

/* Makes `segment` the active one; the one before is sealed first, so that a crash in between leaves
 * nothing half done.  On failure of the file system the log is failed. */
static int install(hm_log *log, hm_segment *segment, uint64_t now_ns) {
    segment->base_sequence = segment->next_sequence = log->next_sequence;
    segment->base_position = log->end_position;
    segment->last_time_ns = log->time_ns;
    segment->record_count = 0;
    int error = write_checkpoint(log, segment);
    if (error) {
        put_back(log, segment);
        return error;
    }
    bool placeholder = log->active && log->active->placeholder;
    if (log->active && !placeholder) {
        seal_active(log, false);
    }
    error = hm_segment_install(segment, now_ns);
    if (error == 0 && placeholder) {
        drop_placeholder(log); /* not before: a log that fails here still has an active segment */
    }
    error = error ? error : hm_log_add_segment(log, segment);
    if (error) {
        hm_segment_release(segment);
        log->pool->failed_errno = EIO;
        atomic_store_explicit(&log->pool->failed, -HM_EIO, memory_order_relaxed);
        return -HM_EIO;
    }
    activate(log, segment);
    return 0;
}

static void retire_oldest(hm_log *log) {
    hm_segment *segment = log->segments[log->segments_first];
    assert(segment != log->active);
    log->segments_first++;
    log->segments_count--;
    log->sealed_bytes -= frame_bytes(segment);
    log->trimmed++;
    hm_segment_retire(segment);
}

/* What the active segment may yet hold counts, so that the bound holds at every instant. */
static bool is_too_big(const hm_log *log, uint64_t capacity) {
    uint64_t bound = log->pool->options.retention_bytes;
    return bound && log->sealed_bytes + capacity - HM_LOG_SEGMENT_HEADER > bound;
}

static bool is_too_old(const hm_log *log, const hm_segment *segment, uint64_t now_ns) {
    uint64_t age = log->pool->options.retention_ns;
    return age && now_ns > age && segment->last_time_ns < now_ns - age;
}

/* Retires sealed segments for as long as one is too many or too old.  `capacity`: of the active
 * segment, and of the one to come if it is about to be sealed. */
static void retire_due(hm_log *log, uint64_t capacity, uint64_t now_ns) {
    while (log->segments_count > 1 &&
           (is_too_big(log, capacity) ||
            is_too_old(log, log->segments[log->segments_first], now_ns))) {
        retire_oldest(log);
    }
}

static int starve(hm_log *log, int error) {
    if (error == -HM_ENOSPACE) {
        pthread_mutex_lock(&log->pool->lock);
        log->pool->starved = true;
        pthread_cond_signal(&log->pool->wake);
        pthread_mutex_unlock(&log->pool->lock);
    }
    return error;
}

static int roll(hm_log *log, uint64_t now_ns) {
    hm_segment *segment = NULL;
    /* Retire first: on a full disk that is where the space comes from. */
    retire_due(log, log->pool->options.segment_bytes + frame_bytes(log->active), now_ns);
    int error = take_segment(log, &segment);
    return starve(log, error ? error : install(log, segment, now_ns));
}

static uint64_t realtime_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

static int start_writing(hm_log *log, uint64_t now_ns) {
    hm_segment *segment = NULL;
    int error = take_segment(log, &segment);
    return error ? error : install(log, segment, now_ns);
}

/* On a full disk the log opens all the same, to be read: its active segment is one without room, so
 * that every append tries to get a real one. */
static int start_reading(hm_log *log) {
    hm_segment *segment = NULL;
    int error = hm_segment_placeholder(log->pool, &segment);
    if (error) {
        return error;
    }
    segment->base_sequence = segment->next_sequence = log->next_sequence;
    segment->base_position = log->end_position;
    segment->last_time_ns = log->time_ns;
    error = hm_log_add_segment(log, segment);
    if (error) {
        hm_segment_release(segment);
        return error;
    }
    activate(log, segment);
    log->pool->starved = true; /* the helper is yet to start */
    return 0;
}

static int start(hm_log *log) {
    uint64_t now_ns = realtime_ns();
    int error = start_writing(log, now_ns);
    if (error == -HM_ENOSPACE) {
        retire_due(log, log->pool->options.segment_bytes, now_ns);
        error = start_writing(log, now_ns);
    }
    error = error == -HM_ENOSPACE ? start_reading(log) : error;
    log->cold_rolls = 0;
    if (error == 0 && pthread_create(&log->helper, NULL, hm_helper_main, log->pool) != 0) {
        error = -HM_ENOMEM;
    }
    log->helper_runs = error == 0;
    return error;
}

int hm_log_open_memory(const hm_log_options *options, hm_log **opened) {
    if (!options_are_sound(options) || options->retention_bytes == 0) {
        return -HM_EINVAL;
    }
    hm_log *log = log_new(options);
    if (log == NULL) {
        return -HM_ENOMEM;
    }
    int error = start(log);
    if (error) {
        hm_log_close(log);
        return error;
    }
    *opened = log;
    return 0;
}

static int open_files(hm_log *log, const char *directory) {
    hm_pool *pool = log->pool;
    pool->dirfd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    pool->eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return pool->dirfd < 0 || pool->eventfd < 0 ? -HM_ESYS : 0;
}

int hm_log_open(const char *directory, const hm_log_options *options, uint64_t *progress,
                hm_log_report *report, hm_log **opened) {
    if (!options_are_sound(options)) {
        return -HM_EINVAL;
    }
    hm_log *log = log_new(options);
    if (log == NULL) {
        return -HM_ENOMEM;
    }
    memset(report, 0, sizeof *report);
    int error = open_files(log, directory);
    error = error ? error : hm_log_recover(log, progress, report);
    error = error ? error : start(log);
    if (error) {
        hm_log_close(log);
        return error;
    }
    *opened = log;
    return 0;
}

/* closing ------------------------------------------------------------------------------------- */

static void stop_helper(hm_log *log) {
    pthread_mutex_lock(&log->pool->lock);
    log->pool->closing = true;
    pthread_cond_signal(&log->pool->wake);
    pthread_mutex_unlock(&log->pool->lock);
    if (log->helper_runs) {
        pthread_join(log->helper, NULL);
    }
}

static void free_list(hm_segment *list) {
    while (list) {
        hm_segment *next = list->next;
        hm_segment_destroy(list);
        list = next;
    }
}

static void free_pool_segments(hm_pool *pool) {
    free_list(pool->ready);
    free_list(pool->returned);
    pool->ready = pool->returned = NULL;
    pool->ready_count = 0;
    hm_segment_release(pool->warm);
    hm_segment_release(pool->sync_active);
    pool->warm = pool->sync_active = NULL;
    for (uint32_t i = 0; i < pool->populate_count; i++) {
        hm_segment_release(pool->populate[i].segment);
    }
    pool->populate_count = 0;
}

static void ask_sync(hm_log *log) {
    hm_pool *pool = log->pool;
    hm_segment *before = pool->sync_active;
    hm_segment *segment = log->active;
    pool->sync_asked++;
    pool->sync_target = log->next_sequence;
    pool->sync_active = segment->sealed || segment->placeholder ? NULL : segment;
    pool->sync_end = segment->end;
    pool->sync_records = segment->record_count;
    if (pool->sync_active) {
        hm_segment_retain(segment);
    }
    if (before) {
        pthread_mutex_unlock(&pool->lock);
        hm_segment_release(before);
        pthread_mutex_lock(&pool->lock);
    }
}

static int close_active(hm_log *log) {
    hm_pool *pool = log->pool;
    int error = 0;
    if (log->active && !log->active->sealed && !log->active->placeholder) {
        seal_active(log, true);
    }
    if (log->active && pool->dirfd >= 0) {
        pthread_mutex_lock(&pool->lock);
        ask_sync(log);
        hm_helper_sync(pool);
        error = pool->failed;
        pthread_mutex_unlock(&pool->lock);
    }
    return error;
}

/* Retired segments that readers still hold have the names of spares: the names go now, because the
 * readers may outlive the lock of the directory.  What a failure leaves is litter for the next
 * open. */
static void sweep_names(hm_pool *pool) {
    hm_listing listing = {0};
    pthread_mutex_lock(&pool->lock);
    bool any = pool->retired_pinned > 0;
    if (any && pool->dirfd >= 0 && hm_listing_read(pool->dirfd, &listing) == 0) {
        for (uint64_t i = 0; i < listing.litter_count; i++) {
            unlinkat(pool->dirfd, listing.litter[i], 0);
        }
    }
    pool->swept = true;
    pthread_mutex_unlock(&pool->lock);
    hm_listing_free(&listing);
}

int hm_log_close(hm_log *log) {
    if (log == NULL) {
        return 0;
    }
    stop_helper(log);
    int error = close_active(log);
    free_pool_segments(log->pool);
    if (log->helper_runs) {
        sweep_names(log->pool);
    }
    log_free(log);
    return error;
}

/* appending ----------------------------------------------------------------------------------- */

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
    uint64_t last = origin->first_sequence + count - 1;
    log->last_publisher = hm_publishers_set(log->publishers, origin->publisher, last);
    log->last_publisher_next = last + 1;
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
    segment->next_sequence += count;
    segment->last_time_ns = now_ns;
}

/* Appends what fits in the active segment: the caller knows that `size` does. */
static int append_here(hm_log *log, const uint8_t *frames, uint64_t size, uint32_t count,
                       hm_origin *origin, uint64_t now_ns) {
    hm_segment *segment = log->active;
    assert(size <= segment->map_size - segment->end);
    /* Two consecutive records cover more than HM_INDEX_SPAN between them. */
    int error = hm_index_room(segment, 2 * (size / HM_INDEX_SPAN) + 2);
    if (error) {
        return starve(log, error);
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
        nudge(log);
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
            int error = roll(log, now_ns);
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
    retire_due(log, log->pool->options.segment_bytes + frame_bytes(log->active), log->time_ns);
    int error = take_segment(log, &segment);
    if (error) {
        return starve(log, error);
    }
    put_back(log, segment);
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
    if (error) {
        return error;
    }
    log->time_ns = now_ns > log->time_ns ? now_ns : log->time_ns;
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

uint64_t hm_log_publisher(hm_log *log, const uint8_t *publisher) {
    const hm_publisher *found = hm_publishers_find(log->publishers, publisher);
    return found ? found->last : 0;
}

/* reading ------------------------------------------------------------------------------------- */

static hm_segment *oldest(const hm_log *log) {
    return log->segments[log->segments_first];
}

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

static int read_segment(hm_segment *segment, uint64_t position, uint64_t limit, hm_range *range) {
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
    return 1;
}

int hm_log_read(hm_log *log, uint64_t position, uint64_t limit, hm_range *range) {
    if (position >= log->end_position) {
        at_tail(log, range);
        return position > log->end_position ? -HM_EINVAL : 0;
    }
    if (position < oldest(log)->base_position) {
        at_segment(range, oldest(log), oldest(log)->base_position, oldest(log)->base_sequence);
        return -HM_EGONE;
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
    return read_segment(segment, position, limit, range);
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
    uint64_t record = hm_index_by_sequence(segment, sequence);
    uint64_t offset = segment->record_count
                          ? hm_segment_offset(segment, segment->records[record].position)
                          : HM_LOG_SEGMENT_HEADER;
    walk_to(segment, offset, sequence, at);
}

void hm_log_locate_time(hm_log *log, uint64_t time_ns, hm_range *at) {
    uint64_t low = 0, high = log->segments_count;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (nth(log, middle)->last_time_ns < time_ns) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == log->segments_count) {
        at_tail(log, at);
        return;
    }
    hm_segment *segment = nth(log, low);
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
}

uint64_t hm_log_time(hm_log *log, uint64_t position) {
    if (position >= log->end_position || position < oldest(log)->base_position) {
        return 0;
    }
    const hm_segment *segment = nth(log, segment_by_position(log, position));
    if (position >= hm_segment_end_position(segment) || segment->record_count == 0) {
        return 0;
    }
    return segment->records[hm_index_by_position(segment, position)].time_ns;
}

hm_segment *hm_log_pin(hm_log *log, uint64_t base_sequence) {
    hm_segment *segment = nth(log, segment_by_sequence(log, base_sequence));
    if (segment->base_sequence != base_sequence) {
        return NULL;
    }
    hm_segment_retain(segment);
    return segment;
}

const uint8_t *hm_segment_memory(const hm_segment *segment, uint64_t *size) {
    *size = segment->map_size - HM_LOG_SEGMENT_HEADER;
    return segment->map + HM_LOG_SEGMENT_HEADER;
}

/* upkeep -------------------------------------------------------------------------------------- */

int hm_log_trim(hm_log *log, uint64_t now_ns) {
    now_ns = now_ns > log->time_ns ? now_ns : log->time_ns;
    uint64_t before = log->trimmed;
    hm_segment *active = log->active;
    bool refused = atomic_load_explicit(&log->pool->failed, memory_order_relaxed) != 0;
    uint64_t age = log->pool->options.retention_ns;
    uint64_t first_ns = active->record_count ? active->records[0].time_ns : now_ns;
    if (age && !refused && frame_bytes(active) && now_ns > age && first_ns < now_ns - age) {
        /* A quiet stream would keep its old messages for ever in a segment that never fills. */
        log->time_ns = now_ns;
        roll(log, now_ns); /* no space: it is tried again at the next trim */
    }
    retire_due(log, log->active->map_size, now_ns);
    return (int)(log->trimmed - before);
}

int hm_log_sync_begin(hm_log *log) {
    hm_pool *pool = log->pool;
    if (pool->dirfd < 0) {
        return -HM_EINVAL;
    }
    pthread_mutex_lock(&pool->lock);
    int error = pool->failed;
    if (error == 0) {
        ask_sync(log);
        pthread_cond_signal(&pool->wake);
    }
    pthread_mutex_unlock(&pool->lock);
    return error;
}

int hm_log_sync_wait(hm_log *log, uint64_t timeout_ns) {
    hm_pool *pool = log->pool;
    struct timespec until;
    int error = hm_log_sync_begin(log);
    if (error) {
        return error;
    }
    clock_gettime(CLOCK_MONOTONIC, &until);
    uint64_t nanoseconds = (uint64_t)until.tv_nsec + timeout_ns % 1000000000U;
    until.tv_sec += (time_t)(timeout_ns / 1000000000U + nanoseconds / 1000000000U);
    until.tv_nsec = (long)(nanoseconds % 1000000000U);
    pthread_mutex_lock(&pool->lock);
    uint64_t mine = pool->sync_asked;
    int waited = 0;
    while (pool->sync_served < mine && pool->failed == 0 && waited != ETIMEDOUT) {
        waited = pthread_cond_timedwait(&pool->done, &pool->lock, &until);
    }
    error = pool->failed ? pool->failed : pool->sync_served < mine ? -HM_ETIMEDOUT : 0;
    pthread_mutex_unlock(&pool->lock);
    return error;
}

void hm_log_fault(hm_log *log, int error) {
    pthread_mutex_lock(&log->pool->lock);
    log->pool->sync_fault = error;
    pthread_mutex_unlock(&log->pool->lock);
}

int hm_log_fileno(const hm_log *log) {
    return log->pool->eventfd;
}

int hm_log_events(hm_log *log) {
    hm_pool *pool = log->pool;
    if (pool->eventfd < 0) {
        return 0;
    }
    uint64_t count;
    pthread_mutex_lock(&pool->lock);
    ssize_t taken = read(pool->eventfd, &count, sizeof count);
    (void)taken; /* nothing there is an answer, too */
    int events = (int)pool->events;
    pool->events = 0;
    pthread_mutex_unlock(&pool->lock);
    return events;
}

void hm_log_populate(hm_log *log, uint64_t position, uint64_t size) {
    if (position >= log->end_position || position < oldest(log)->base_position) {
        return;
    }
    hm_segment *segment = nth(log, segment_by_position(log, position));
    uint64_t offset = hm_segment_offset(segment, position) / HM_PAGE * HM_PAGE;
    if (offset >= segment->end) {
        return;
    }
    size = size < segment->end - offset ? size : segment->end - offset;
    hm_pool *pool = log->pool;
    pthread_mutex_lock(&pool->lock);
    if (pool->populate_count < HM_POPULATE_MAX) {
        hm_segment_retain(segment);
        pool->populate[pool->populate_count].segment = segment;
        pool->populate[pool->populate_count].offset = offset;
        pool->populate[pool->populate_count++].size = size;
        pthread_cond_signal(&pool->wake);
    }
    pthread_mutex_unlock(&pool->lock);
}

void hm_log_status_get(hm_log *log, hm_log_status *status) {
    hm_pool *pool = log->pool;
    memset(status, 0, sizeof *status);
    status->first_sequence = oldest(log)->base_sequence;
    status->next_sequence = log->next_sequence;
    status->start_position = oldest(log)->base_position;
    status->end_position = log->end_position;
    status->segments = log->segments_count;
    status->trimmed = log->trimmed;
    status->appends = log->appends;
    status->cold_rolls = log->cold_rolls;
    pthread_mutex_lock(&pool->lock);
    status->synced_sequence = pool->synced_next ? pool->synced_next - 1 : 0;
    status->spares = pool->ready_count;
    status->recycled = pool->recycled;
    status->syncs = pool->syncs;
    status->pinned = pool->retired_pinned;
    status->failed = pool->failed;
    status->failed_errno = pool->failed_errno;
    pthread_mutex_unlock(&pool->lock);
}
