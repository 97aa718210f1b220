/* hm_roll.c -- begins a new segment when the active one is full, and retires old ones. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "log_internal.h"

/* The tests make one mistake at a time here, to prove that they would notice. */
#ifdef HM_WEAKEN_LOG_CHECKPOINT
#define CARRIES_LOST false
#else
#define CARRIES_LOST true
#endif
#ifdef HM_WEAKEN_LOG_BEGIN
#define SYNCS_BEGIN false
#else
#define SYNCS_BEGIN true
#endif

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
    if (log->segments_count != 0) {
        const hm_segment *before = log->segments[log->segments_first + log->segments_count - 1];
        segment->floor_ns =
            before->floor_ns > before->last_time_ns ? before->floor_ns : before->last_time_ns;
    }
    log->segments[log->segments_first + log->segments_count++] = segment;
    return 0;
}

void hm_log_cool(hm_log *log) {
    hm_segment *carried[HM_HOT_SLOTS_MAX];
    uint32_t count = hm_hot_carried(log->pool, carried);
    for (uint32_t i = 0; i < count; i++) {
        if (hm_segment_unmap(carried[i])) {
            hm_log_forget_map(log, carried[i]);
        }
    }
}

/* The tail has passed `nudge_at`: the busier the segment, the further ahead it is made warm, so
 * that an idle stream costs little and a busy one soon has all of it, and then a spare. */
void hm_log_nudge(hm_log *log) {
    hm_pool *pool = log->pool;
    hm_segment *segment = log->active;
    uint64_t target = (segment->end + HM_PAGE - 1) / HM_PAGE * HM_PAGE * 8;
    uint64_t bytes = segment->end - log->nudged_at, passed = log->time_ns - log->nudged_ns;
    target = target < HM_WARM_FIRST ? HM_WARM_FIRST : target;
    target = target > segment->map_size ? segment->map_size : target;
    uint64_t step = segment->slot ? HM_CARRY_BYTES : HM_NUDGE_STEP;
    bool first = log->nudged_at == 0;
    log->nudged_at = segment->end;
    log->nudged_ns = log->time_ns;
    log->nudge_at = segment->end < step ? 2 * segment->end : segment->end + step;
    hm_log_cool(log); /* first: the helper gives away the slots that are free then */
    pthread_mutex_lock(&pool->lock);
    pool->spare_wanted |= target == segment->map_size;
    pool->warm_target = target > pool->warm_target ? target : pool->warm_target;
    if (!first) {
        pool->written_ns = passed * HM_NUDGE_STEP / bytes + 1;
    }
    pthread_cond_signal(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

static void checkpoint_record(const hm_log *log, hm_segment *segment, const uint8_t *publisher,
                              uint64_t first_sequence) {
    hm_origin origin = {.first_sequence = first_sequence};
    memcpy(origin.publisher, publisher, sizeof origin.publisher);
    hm_index_add(segment, &origin, segment->base_sequence, segment->base_position, log->time_ns, 0);
}

/* A count-0 record for each publisher: the duplicate filter no longer depends on older segments.
 * Before it, two for each range that is lost: where it begins and where it ends. */
static int write_checkpoint(hm_log *log, hm_segment *segment) {
    uint64_t count = hm_publishers_count(log->publishers) +
                     2 * (uint64_t)hm_publishers_missing_count(log->publishers);
    int error = hm_index_room(segment, count + 1);
    if (error) {
        return error;
    }
    for (hm_publisher *publisher = hm_publishers_oldest(log->publishers); publisher;
         publisher = hm_publishers_newer(log->publishers, publisher)) {
        const hm_missing *lost = hm_publishers_missing(log->publishers, publisher->id, 0);
        while (lost && CARRIES_LOST) {
            checkpoint_record(log, segment, publisher->id, lost->first);
            checkpoint_record(log, segment, publisher->id, lost->next);
            lost = hm_publishers_missing(log->publishers, publisher->id, lost->first + 1);
        }
        checkpoint_record(log, segment, publisher->id, publisher->last + 1);
    }
    return 0;
}

/* Whether the checkpoint of the segment that an open begins tells what no other does: what is lost,
 * which later segments' checkpoints were written too early to know, or, in a log without any other
 * segment, all of it. */
static bool only_checkpoint_tells(const hm_log *log) {
    bool begins = log->active == NULL || log->active->placeholder;
    uint64_t others = log->segments_count - (log->active != NULL);
    return SYNCS_BEGIN && begins && log->pool->dirfd >= 0 &&
           (hm_publishers_missing_count(log->publishers) > 0 ||
            (others == 0 && hm_publishers_count(log->publishers) > 0));
}

static hm_segment *take_ready(hm_pool *pool) {
    pthread_mutex_lock(&pool->lock);
    while (pool->ready == NULL && pool->heating) { /* the helper has it in its hands */
        pthread_cond_wait(&pool->done, &pool->lock);
    }
    hm_segment *segment = pool->ready;
    if (segment) {
        pool->ready = segment->next;
        pool->ready_count--;
    }
    pthread_mutex_unlock(&pool->lock);
    return segment;
}

/* A segment to go on in: a prepared one, or a new one made here.  Where there is no room for it, the
 * one that the helper is making may have taken it: that one, then. */
int hm_log_take(hm_log *log, hm_segment **taken) {
    hm_pool *pool = log->pool;
    int error;
    do {
        *taken = take_ready(pool);
        if (*taken) {
            return 0;
        }
        error = hm_segment_make(pool, taken);
        if (error == -HM_EMAPS && log->mapped) {
            hm_log_unmap(log, 0);
            error = hm_segment_make(pool, taken);
        }
    } while (hm_log_is_want(error) && hm_helper_hurry(pool));
    log->cold_rolls += error == 0;
    return error;
}

void hm_log_put_back(hm_log *log, hm_segment *segment) {
    hm_pool *pool = log->pool;
    pthread_mutex_lock(&pool->lock);
    segment->next = pool->ready;
    pool->ready = segment;
    pool->ready_count++;
    pthread_mutex_unlock(&pool->lock);
}

void hm_log_seal_active(hm_log *log, bool shrink) {
    hm_segment *segment = log->active;
    hm_pool *pool = log->pool;
    hm_segment_seal(segment, shrink);
    log->sealed_bytes += hm_segment_frame_bytes(segment);
    pthread_mutex_lock(&pool->lock);
    segment->complete = true;
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

void hm_log_activate(hm_log *log, hm_segment *segment) {
    hm_pool *pool = log->pool;
    log->active = segment;
    log->last_extensible = false;
    log->nudge_at = HM_LOG_SEGMENT_HEADER;
    log->nudged_at = 0;
    hm_segment_retain(segment);
    pthread_mutex_lock(&pool->lock);
    hm_segment *before = pool->warm;
    if (before) {
        hm_segment_read_ahead(before, true); /* from now on it is only read */
    }
    pool->warm = segment;
    pool->warm_target = segment->map_size < HM_WARM_FIRST ? segment->map_size : HM_WARM_FIRST;
    pool->spare_wanted = false;
    pthread_cond_signal(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    hm_segment_release(before);
}

/* Makes `segment` the active one; the one before is sealed first, so that a crash in between leaves
 * nothing half done.  A checkpoint that alone tells something is on disk before the index takes the
 * name of an older one, and before retention takes the segment that told it until now.  On failure
 * of the file system the log is failed. */
int hm_log_install(hm_log *log, hm_segment *segment, uint64_t now_ns) {
    segment->base_sequence = segment->next_sequence = log->next_sequence;
    segment->base_position = log->end_position;
    segment->first_time_ns = segment->last_time_ns = log->time_ns;
    segment->record_count = 0;
    int error = write_checkpoint(log, segment);
    if (error) {
        hm_log_put_back(log, segment);
        return error;
    }
    bool placeholder = log->active && log->active->placeholder;
    bool durably = only_checkpoint_tells(log);
    if (durably && fsync(segment->index_fd) != 0) {
        hm_log_put_back(log, segment);
        return hm_code_of(errno);
    }
    if (log->active && !placeholder) {
        hm_log_seal_active(log, false);
    }
    error = hm_segment_install(segment, now_ns);
    if (error == 0 && durably && segment->slot && hm_hot_carry(segment, segment->end) != 0) {
        error = -HM_EIO;
    }
    if (error == 0 && durably && (fsync(segment->fd) != 0 || fsync(log->pool->dirfd) != 0)) {
        error = hm_code_of(errno);
    }
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
    hm_log_activate(log, segment);
    if (log->segments_count > 1) {
        hm_log_map(log, log->segments[log->segments_first + log->segments_count - 2]);
    }
    for (uint64_t behind = 2; behind <= HM_FOLD_BEHIND && behind < log->segments_count; behind++) {
        hm_segment_fold(log->segments[log->segments_first + log->segments_count - 1 - behind]);
    }
    return 0;
}

static void retire_oldest(hm_log *log) {
    hm_segment *segment = log->segments[log->segments_first];
    assert(segment != log->active);
    log->segments_first++;
    log->segments_count--;
    log->sealed_bytes -= hm_segment_frame_bytes(segment);
    log->trimmed++;
    hm_log_forget_map(log, segment);
    hm_segment_retire(segment);
}

/* What the active segment may yet hold counts, so that the bound holds at every instant. */
static bool is_too_big(const hm_log *log, uint64_t capacity) {
    uint64_t bound = log->pool->options.retention_bytes;
    return bound && log->sealed_bytes + capacity - HM_LOG_SEGMENT_HEADER > bound;
}

static bool is_too_old(const hm_log *log, uint64_t now_ns) {
    uint64_t age = log->pool->options.retention_ns;
    return age && now_ns > age && hm_log_latest_time(log, 0) < now_ns - age;
}

/* Retires sealed segments for as long as one is too many or too old. */
void hm_log_retire_due(hm_log *log, uint64_t capacity, uint64_t now_ns) {
    while (log->segments_count > 1 &&
           hm_window_may_retire(log, log->segments[log->segments_first]) &&
           (is_too_big(log, capacity) || is_too_old(log, now_ns))) {
        retire_oldest(log);
    }
}

/* Bytes that an index must be able to grow by: a chunk, or the checkpoint it begins with. */
static uint64_t index_need(const hm_log *log) {
    uint64_t checkpoint = (uint64_t)hm_publishers_count(log->publishers) * sizeof(hm_record);
    return checkpoint > log->pool->index_chunk ? checkpoint : log->pool->index_chunk;
}

bool hm_log_is_want(int error) {
    return error == -HM_ENOSPACE || error == -HM_EFSIZE || error == -HM_ENOMEM ||
           error == -HM_EFILES || error == -HM_EMAPS;
}

int hm_log_starve(hm_log *log, int error) {
    if (hm_log_is_want(error)) {
        pthread_mutex_lock(&log->pool->lock);
        log->pool->starved = true;
        log->pool->starved_bytes = index_need(log);
        pthread_cond_signal(&log->pool->wake);
        pthread_mutex_unlock(&log->pool->lock);
    }
    return error;
}

int hm_log_roll(hm_log *log, uint64_t now_ns) {
    hm_segment *segment = NULL;
    /* Retire first: on a full disk that is where the space comes from. */
    hm_log_retire_due(log, log->pool->options.segment_bytes + hm_segment_frame_bytes(log->active),
                      0);
    int error = hm_log_take(log, &segment);
    return hm_log_starve(log, error ? error : hm_log_install(log, segment, now_ns));
}

void hm_log_step_back(hm_log *log, uint64_t now_ns) {
    const hm_segment *active = log->active;
    uint64_t before = log->time_ns;
    /* A second segment with the same base would have the same name. */
    if (active->placeholder || hm_segment_frame_bytes(active) == 0) {
        return;
    }
    log->time_ns = now_ns;
    if (hm_log_roll(log, now_ns) != 0) {
        log->time_ns = before;
    }
}

/* The helper hears only of large pieces: what is less may be there since it last looked. */
static void wake_for_rest(hm_pool *pool) {
    pthread_mutex_lock(&pool->lock);
    if (hm_hot_next_look(pool)) {
        pthread_cond_signal(&pool->wake);
    }
    pthread_mutex_unlock(&pool->lock);
}

int hm_log_trim(hm_log *log, uint64_t now_ns) {
    uint64_t before = log->trimmed;
    hm_segment *active = log->active;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    hm_log_cool(log);
    hm_hot_shrink(log->pool, (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec);
    wake_for_rest(log->pool);
    bool refused = atomic_load_explicit(&log->pool->failed, memory_order_relaxed) != 0;
    uint64_t age = log->pool->options.retention_ns;
    uint64_t first_ns = active->record_count ? active->records[0].time_ns : now_ns;
    if (age && !refused && hm_segment_frame_bytes(active) && now_ns > age &&
        first_ns < now_ns - age) {
        /* A quiet stream would keep its old messages for ever in a segment that never fills. */
        log->time_ns = now_ns > log->time_ns ? now_ns : log->time_ns;
        hm_log_roll(log, now_ns); /* no space: it is tried again at the next trim */
    }
    hm_log_retire_due(log, log->active->map_size, now_ns);
    return (int)(log->trimmed - before);
}
