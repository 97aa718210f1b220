/* hm_helper.c -- the helper thread: it makes segments ready, carries, populates and syncs. */
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "log_internal.h"

void hm_pool_event(hm_pool *pool, uint32_t event) {
    pool->events |= event;
    if (pool->event.fd >= 0) {
        hm_event_set(&pool->event);
    }
}

static uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* In how many ns a slice is to be ready, so that the writer does not catch up. */
static uint64_t lead_ns(const hm_pool *pool, uint64_t size) {
    return pool->written_ns / HM_WARM_LEAD * size / HM_NUDGE_STEP;
}

static bool is_fast(const hm_pool *pool) {
    return pool->written_ns > 0 && lead_ns(pool, HM_WARM_SLICE) < HM_WARM_REST_MIN;
}

/* How long to rest after a slice that took `took_ns`: the owner may have this core to itself, and
 * every slice holds it up.  Where the log is written fast, not at all: a page that is not warm
 * costs the owner more than its share of a slice. */
static uint64_t rest_after(const hm_pool *pool, uint64_t size, uint64_t took_ns) {
    uint64_t most = took_ns * HM_WARM_REST;
    if (pool->written_ns == 0) {
        return most;
    }
    uint64_t lead = lead_ns(pool, size), left = lead > took_ns ? lead - took_ns : 0;
    return is_fast(pool) ? 0 : left < most ? left : most;
}

/* Makes the next slice of `segment` writable without a fault.  Lock held on entry and exit. */
static void warm_slice(hm_pool *pool, hm_segment *segment, uint64_t target) {
    bool fast = is_fast(pool);
    uint64_t begun_ns = now_ns(), from = segment->warmed;
    uint64_t size = fast ? HM_WARM_BULK : HM_WARM_SLICE;
    size = target - from < size ? target - from : size;
    hm_segment_read_ahead(segment, fast);
    hm_segment_retain(segment);
    segment->warmed = from + size;
    pthread_mutex_unlock(&pool->lock);
    hm_platform_warm(segment->map + from, size);
    hm_segment_release(segment);
    uint64_t ended_ns = now_ns();
    pthread_mutex_lock(&pool->lock);
    pool->rest_ns = ended_ns + rest_after(pool, size, ended_ns - begun_ns);
}

/* Does a slice of what the oldest hint asks for.  Of what a reader has left behind, only pages go that were
 * fetched for it: what was in memory before is there for others.  Lock held on entry and exit. */
static void take_hint(hm_pool *pool) {
    hm_hint *first = &pool->hints[0], hint = *first;
    hm_segment *segment = hint.segment;
    uint64_t slice = hint.size < HM_WARM_BULK ? hint.size : HM_WARM_BULK;
    if (hint.behind || hint.size <= slice) {
        pool->hint_count--;
        memmove(first, first + 1, pool->hint_count * sizeof *first);
    } else {
        first->offset += slice;
        first->size -= slice;
        hm_segment_retain(segment);
    }
    bool drops = hint.behind && segment->fetched && segment->slot == NULL, fetches = false;
    pthread_mutex_unlock(&pool->lock);
    if (drops) {
        hm_segment_drop_pages(segment, hint.offset, hint.size);
    } else if (!hint.behind) {
        fetches = pool->dirfd >= 0 && !hm_platform_resident(segment->map + hint.offset, slice);
        hm_platform_populate(segment->map + hint.offset, slice);
    }
    pthread_mutex_lock(&pool->lock);
    segment->fetched |= fetches;
    pthread_mutex_unlock(&pool->lock);
    hm_segment_release(segment);
    pthread_mutex_lock(&pool->lock);
}

static void add_ready(hm_pool *pool, hm_segment *segment) {
    segment->next = pool->ready;
    pool->ready = segment;
    pool->ready_count++;
}

/* Whether the quota and the disk have `bytes` more.  A guess: who asks tries, and is refused again.
 */
static bool has_room(const hm_pool *pool, uint64_t bytes) {
    struct statvfs disk;
    uint64_t quota = pool->options.disk_bytes;
    if (quota && pool->disk_used + bytes > quota) {
        return false;
    }
    return pool->dirfd < 0 || fstatvfs(pool->dirfd, &disk) != 0 ||
           (uint64_t)disk.f_bavail * disk.f_frsize >= bytes;
}

/* The one way out of `starved`, whatever led into it: a segment is ready, and its index can grow.
 * Where that proves wrong, the next refusal leads back; not more often than every
 * HM_STARVED_WAIT_NS. */
static bool relieve(hm_pool *pool) {
    uint64_t now = pool->starved && pool->ready_count ? now_ns() : 0;
    if (now == 0 || now < pool->relieved_ns + HM_STARVED_WAIT_NS ||
        !has_room(pool, pool->starved_bytes)) {
        return false;
    }
    pool->starved = false;
    pool->relieved_ns = now;
    hm_pool_event(pool, HM_LOG_EVENT_SPACE);
    return true;
}

/* Makes a retired segment a spare.  Lock held on entry and exit. */
static void take_returned(hm_pool *pool) {
    hm_segment *segment = pool->returned;
    pool->returned = segment->next;
    pool->circulating--;
    bool keep = pool->ready_count <= pool->options.spares;
    pthread_mutex_unlock(&pool->lock);
    atomic_store_explicit(&segment->refs, 1, memory_order_relaxed); /* nobody else knows it */
    bool ready = keep && hm_segment_refit(segment) == 0;
    if (ready && pool->dirfd >= 0) {
        hm_hot_heat(segment, now_ns());
    }
    if (!ready) {
        hm_segment_destroy(segment);
    }
    pthread_mutex_lock(&pool->lock);
    if (ready) {
        pool->recycled++;
        add_ready(pool, segment);
    }
}

/* Makes a spare from nothing.  False: there is no space.  Lock held on entry and exit. */
static bool make_spare(hm_pool *pool) {
    hm_segment *segment = NULL;
    pthread_mutex_unlock(&pool->lock);
    int error = hm_segment_make(pool, &segment);
    if (error == 0 && pool->dirfd >= 0) {
        hm_hot_heat(segment, now_ns());
    }
    pthread_mutex_lock(&pool->lock);
    if (error == 0) {
        add_ready(pool, segment);
    }
    return error == 0;
}

/* Makes one segment ready if it can.  Lock held on entry and exit. */
static bool make_ready(hm_pool *pool) {
    bool made = true;
    pool->preparing = true;
    if (pool->returned) {
        take_returned(pool); /* quicker than a new one */
    } else {
        made = make_spare(pool);
    }
    pool->preparing = false;
    pthread_cond_broadcast(&pool->done);
    return made;
}

bool hm_helper_hurry(hm_pool *pool) {
    pthread_mutex_lock(&pool->lock);
    bool any = pool->preparing || pool->returned;
    while (pool->preparing) {
        pthread_cond_wait(&pool->done, &pool->lock);
    }
    if (pool->returned && pool->ready == NULL) {
        take_returned(pool);
    }
    pthread_mutex_unlock(&pool->lock);
    return any;
}

/* Until something is asked for; with `until_ns` not 0, until then at most. */
static void wait_for_work(hm_pool *pool, uint64_t until_ns) {
    if (until_ns == 0) {
        pthread_cond_wait(&pool->wake, &pool->lock);
        return;
    }
    hm_platform_cond_wait(&pool->wake, &pool->lock, until_ns);
}

static bool wants_spare(const hm_pool *pool) {
    uint32_t coming = pool->ready_count + pool->circulating;
    bool needed = pool->starved && pool->ready_count == 0;
    return needed || (pool->spare_wanted && coming < pool->options.spares);
}

/* The segment that is to be made warm next, and up to where; NULL: none is. */
static hm_segment *cold(const hm_pool *pool, uint64_t *target) {
    if (pool->warm && pool->warm->warmed < pool->warm_target) {
        *target = pool->warm_target;
        return pool->warm;
    }
    if (pool->ready && pool->ready->warmed < pool->ready->map_size) {
        *target = pool->ready->map_size;
        return pool->ready;
    }
    return NULL;
}

/* Gives a slot to a spare that was made when none was free.  False: there is no such spare, or still no
 * slot.  Lock held on entry and exit. */
static bool heat_ready(hm_pool *pool) {
    hm_segment **at = &pool->ready;
    while (*at && (*at)->slot) {
        at = &(*at)->next;
    }
    hm_segment *segment = *at;
    if (segment == NULL || pool->dirfd < 0 || !hm_hot_has_slot(pool)) {
        return false;
    }
    *at = segment->next;
    pool->ready_count--;
    pool->heating = true;
    pthread_mutex_unlock(&pool->lock);
    hm_hot_heat(segment, now_ns());
    pthread_mutex_lock(&pool->lock);
    pool->heating = false;
    add_ready(pool, segment);
    pthread_cond_broadcast(&pool->done);
    return segment->slot != NULL;
}

/* Makes a piece of a new slot, and rests as after one of a segment.  Lock held on entry and exit. */
static bool grow(hm_pool *pool) {
    uint64_t begun_ns = now_ns();
    bool grown = hm_hot_grow(pool, HM_WARM_BULK, begun_ns);
    uint64_t ended_ns = now_ns();
    pool->rest_ns = ended_ns + rest_after(pool, HM_WARM_BULK, ended_ns - begun_ns);
    return grown;
}

/* What a reader will fault on, then what the writer will.  False: nothing is to be done now. */
static bool prepare(hm_pool *pool) {
    uint64_t target;
    hm_segment *next;
    if (pool->hint_count) {
        take_hint(pool);
    } else if (relieve(pool)) {
        /* somebody waits for it */
    } else if ((pool->returned || wants_spare(pool)) && make_ready(pool)) {
        /* a segment that is not there costs the writer most */
    } else if (heat_ready(pool)) {
        /* before it is taken */
    } else if (hm_hot_carry_next(pool, now_ns())) {
        /* then one that takes a slot */
    } else if (hm_hot_wants_slot(pool) && now_ns() >= pool->rest_ns && grow(pool)) {
        /* then one more slot */
    } else if ((next = cold(pool, &target)) != NULL && now_ns() >= pool->rest_ns) {
        warm_slice(pool, next, target);
    } else {
        return false;
    }
    return true;
}

/* When to look again without being asked; 0: not at all. */
static uint64_t next_look(const hm_pool *pool) {
    uint64_t target, carry_ns = hm_hot_next_look(pool);
    if (cold(pool, &target) != NULL || hm_hot_wants_slot(pool)) {
        return carry_ns && carry_ns < pool->rest_ns ? carry_ns : pool->rest_ns;
    }
    if (carry_ns) {
        return carry_ns;
    }
    return wants_spare(pool) || pool->starved ? now_ns() + HM_STARVED_WAIT_NS : 0;
}

/* A sync first, because somebody waits.  Then a step of the rest even if the next sync is asked for
 * already: where each sync finds another one waiting, the writer would have to make its segments
 * itself. */
static bool one_step(hm_pool *pool) {
    bool sync = pool->sync_served != pool->sync_asked;
    if (sync) {
        hm_sync_all(pool);
    }
    return prepare(pool) || sync;
}

void *hm_helper_main(void *argument) {
    hm_pool *pool = argument;
    pthread_mutex_lock(&pool->lock);
    while (!pool->closing) {
        if (!one_step(pool)) {
            wait_for_work(pool, next_look(pool));
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}
