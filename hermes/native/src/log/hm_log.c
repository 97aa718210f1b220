/* hm_log.c -- opens, closes and describes a log. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "log_internal.h"

/* opening ------------------------------------------------------------------------------------- */

static void init_sync(hm_pool *pool) {
    pthread_mutex_init(&pool->lock, NULL);
    pthread_mutex_init(&pool->partner.lock, NULL);
    pthread_cond_init(&pool->partner.change, NULL);
    hm_platform_cond_init(&pool->wake);
    hm_platform_cond_init(&pool->done);
}

static uint64_t chunk_of_index(uint64_t segment_bytes) {
    uint64_t chunk = segment_bytes / 32 / HM_PAGE * HM_PAGE;
    return chunk < HM_PAGE ? HM_PAGE : chunk > HM_INDEX_CHUNK ? HM_INDEX_CHUNK : chunk;
}

static hm_pool *pool_new(const hm_log_options *options) {
    hm_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL) {
        return NULL;
    }
    atomic_init(&pool->refs, 1);
    pool->process = getpid();
    init_sync(pool);
    pool->options = *options;
    pool->index_chunk = chunk_of_index(options->segment_bytes);
    pool->dirfd = -1;
    pool->event = HM_EVENT_CLOSED;
    pool->end_fd = -1;
    pool->hot.fd = -1;
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
    hm_window_free(log->window);
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

static uint64_t realtime_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

static int start_writing(hm_log *log, uint64_t now_ns) {
    hm_segment *segment = NULL;
    int error = hm_log_take(log, &segment);
    return error ? error : hm_log_install(log, segment, now_ns);
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
    segment->first_time_ns = segment->last_time_ns = log->time_ns;
    error = hm_log_add_segment(log, segment);
    if (error) {
        hm_segment_release(segment);
        return error;
    }
    hm_log_activate(log, segment);
    log->pool->starved = true; /* the helper is yet to start */
    return 0;
}

static int start(hm_log *log) {
    uint64_t now_ns = realtime_ns();
    if (log->segments_count != 0) {
        const hm_segment *newest = log->segments[log->segments_first + log->segments_count - 1];
        log->time_ns = newest->last_time_ns > log->time_ns ? newest->last_time_ns : log->time_ns;
    }
    if (log->time_ns > now_ns) {
        log->time_ns = now_ns; /* a new segment begins: its times are not those of a wrong clock */
    }
    int error = start_writing(log, now_ns);
    if (error == -HM_ENOSPACE) {
        hm_log_retire_due(log, log->pool->options.segment_bytes, 0);
        error = start_writing(log, now_ns);
    }
    error = hm_log_is_want(error) && log->pool->dirfd >= 0 ? start_reading(log) : error;
    log->cold_rolls = 0;
    if (error == 0 && pthread_create(&log->helper, NULL, hm_helper_main, log->pool) != 0) {
        error = -HM_ENOMEM;
    }
    log->helper_runs = error == 0;
    return error;
}

static int open_memory(const hm_log_options *options, uint64_t sequence, uint64_t position,
                       hm_log **opened) {
    if (!options_are_sound(options) || options->retention_bytes == 0) {
        return -HM_EINVAL;
    }
    hm_log *log = log_new(options);
    if (log == NULL) {
        return -HM_ENOMEM;
    }
    log->next_sequence = sequence;
    log->end_position = position;
    int error = start(log);
    if (error) {
        hm_log_close(log);
        return error;
    }
    *opened = log;
    return 0;
}

int hm_log_open_memory(const hm_log_options *options, hm_log **opened) {
    return open_memory(options, 1, 0, opened);
}

int hm_log_open_window(const hm_log_options *options, uint64_t first_sequence,
                       uint64_t start_position, uint64_t next_sequence, uint64_t end_position,
                       uint64_t unstored_max, hm_log **opened) {
    if (first_sequence == 0 || first_sequence > next_sequence || start_position > end_position ||
        next_sequence > HM_LOG_FARTHEST || end_position > HM_LOG_FARTHEST ||
        end_position % HM_FRAME_ALIGN) {
        return -HM_EINVAL;
    }
    int error = open_memory(options, next_sequence, end_position, opened);
    if (error) {
        return error;
    }
    (*opened)->window = hm_window_new(unstored_max);
    if ((*opened)->window == NULL) {
        hm_log_close(*opened);
        return -HM_ENOMEM;
    }
    hm_log_stored(*opened, end_position);
    hm_log_store_begins(*opened, first_sequence, start_position);
    return 0;
}

static int open_files(hm_log *log, const char *directory) {
    hm_pool *pool = log->pool;
    pool->dirfd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int error = pool->dirfd < 0 ? errno : hm_event_open(&pool->event);
    return error ? hm_code_of(error) : 0;
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
    hm_fault_install();
    int error = open_files(log, directory);
    error = error ? error : hm_log_recover(log, progress, report);
    if (error == 0) {
        log->pool->end_fd = hm_end_open(log->pool->dirfd);
    }
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
    for (uint32_t i = 0; i < pool->hint_count; i++) {
        hm_segment_release(pool->hints[i].segment);
    }
    pool->hint_count = 0;
}

static void ask_sync(hm_log *log) {
    hm_pool *pool = log->pool;
    hm_segment *before = pool->sync_active;
    hm_segment *segment = log->active;
    pool->sync_asked++;
    pool->sync_target = log->next_sequence;
    pool->sync_mark =
        (hm_end){log->next_sequence, log->end_position, hm_log_oldest(log)->base_sequence,
                 hm_log_oldest(log)->base_position};
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
        hm_log_seal_active(log, true);
    }
    if (log->active && pool->dirfd >= 0) {
        pthread_mutex_lock(&pool->lock);
        ask_sync(log);
        hm_sync_all(pool);
        error = pool->failed;
        pthread_mutex_unlock(&pool->lock);
        bool marks = log->active->sealed; /* nothing of what is closed is a torn tail */
        if (error == 0 && marks && log->active->slot == NULL &&
            hm_map_sync(log->active->map, 0, HM_PAGE) != 0) {
            error = -HM_EIO;
        }
        if (error == 0 && hm_hot_finish(pool) != 0) {
            error = -HM_EIO;
        }
        if (error == 0 && pool->end_fd >= 0 && fsync(pool->end_fd) != 0) {
            error = -HM_EIO;
        }
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
    if (log == NULL || log->pool->process != getpid()) {
        return 0; /* a forked child: the files, and the thread to wait for, are its parent's */
    }
    stop_helper(log);
    int error = close_active(log);
    hm_partner_stop(&log->pool->partner);
    free_pool_segments(log->pool);
    if (log->helper_runs) {
        sweep_names(log->pool);
    }
    log_free(log);
    return error;
}
/* upkeep -------------------------------------------------------------------------------------- */

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
    struct timespec now;
    int error = hm_log_sync_begin(log);
    if (error) {
        return error;
    }
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
    uint64_t until_ns = timeout_ns < UINT64_MAX - now_ns ? now_ns + timeout_ns : UINT64_MAX;
    pthread_mutex_lock(&pool->lock);
    uint64_t mine = pool->sync_asked;
    int waited = 0;
    while (pool->sync_served < mine && pool->failed == 0 && waited != ETIMEDOUT) {
        waited = hm_platform_cond_wait(&pool->done, &pool->lock, until_ns);
    }
    error = pool->failed ? pool->failed : pool->sync_served < mine ? -HM_ETIMEDOUT : 0;
    pthread_mutex_unlock(&pool->lock);
    return error;
}

void hm_log_carry_fault(hm_log *log, int error) {
    pthread_mutex_lock(&log->pool->lock);
    log->pool->carry_fault = error;
    pthread_mutex_unlock(&log->pool->lock);
}

void hm_log_fault(hm_log *log, int error) {
    pthread_mutex_lock(&log->pool->lock);
    log->pool->sync_fault = error;
    pthread_mutex_unlock(&log->pool->lock);
}

int hm_log_fileno(const hm_log *log) {
    return log->pool->event.fd;
}

int hm_log_events(hm_log *log) {
    hm_pool *pool = log->pool;
    if (pool->event.fd < 0) {
        return 0;
    }
    pthread_mutex_lock(&pool->lock);
    hm_event_clear(&pool->event);
    int events = (int)pool->events;
    pool->events = 0;
    pthread_mutex_unlock(&pool->lock);
    return events;
}

void hm_log_status_get(hm_log *log, hm_log_status *status) {
    hm_pool *pool = log->pool;
    memset(status, 0, sizeof *status);
    status->first_sequence = hm_log_oldest(log)->base_sequence;
    status->next_sequence = log->next_sequence;
    status->start_position = hm_log_oldest(log)->base_position;
    status->end_position = log->end_position;
    status->segments = log->segments_count;
    status->trimmed = log->trimmed;
    status->appends = log->appends;
    status->cold_rolls = log->cold_rolls;
    status->last_time_ns = log->time_ns;
    pthread_mutex_lock(&pool->lock);
    status->synced_sequence = pool->synced_next ? pool->synced_next - 1 : 0;
    status->spares = pool->ready_count;
    status->recycled = pool->recycled;
    status->syncs = pool->syncs;
    status->pinned = pool->retired_pinned;
    status->failed = pool->failed;
    status->failed_errno = pool->failed_errno;
    for (uint32_t i = 0; i < pool->hot.count; i++) {
        status->hot += pool->hot.slots[i].segment != NULL;
    }
    status->hot_bytes = pool->hot.count * pool->options.segment_bytes;
    pthread_mutex_unlock(&pool->lock);
}
