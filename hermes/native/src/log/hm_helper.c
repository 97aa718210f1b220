/* hm_helper.c -- the helper thread: it syncs, populates and makes segments ready. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "log_internal.h"

/* The tests make one mistake at a time here, to prove that they would notice. */
#ifdef HM_WEAKEN_LOG_FOLDED
#define ALWAYS_SYNCS false
#else
#define ALWAYS_SYNCS true
#endif

#define NAME_SIZE 40

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

/* Lock held on entry and exit. */
static void populate_next(hm_pool *pool) {
    hm_segment *segment = pool->populate[0].segment;
    uint64_t offset = pool->populate[0].offset;
    uint64_t size = pool->populate[0].size;
    uint64_t slice = size < HM_WARM_BULK ? size : HM_WARM_BULK;
    if (size > slice) {
        pool->populate[0].offset += slice;
        pool->populate[0].size -= slice;
        hm_segment_retain(segment);
    } else {
        pool->populate_count--;
        memmove(&pool->populate[0], &pool->populate[1],
                pool->populate_count * sizeof pool->populate[0]);
    }
    pthread_mutex_unlock(&pool->lock);
    hm_platform_populate(segment->map + offset, slice);
    hm_segment_release(segment);
    pthread_mutex_lock(&pool->lock);
}

typedef struct {
    hm_segment *segment;
    bool unmapped; /* synced, and marked, by its files */
    uint64_t end;
    uint64_t records;
    bool seal; /* the header page is to be synced again */
} job;

/* Whether somebody has cut its file since it was made: what is mapped there is in no file.  (What was
 * found when the log was opened is a gap then, and promises nothing.) */
static bool is_cut(const job *todo) {
    const hm_segment *segment = todo->segment;
    char name[NAME_SIZE];
    struct stat status;
    hm_segment_name(name, sizeof name, segment->base_sequence, "log");
    return !segment->adopted &&
           ((!todo->unmapped && hm_segment_faults(segment)) ||
            (fstatat(segment->pool->dirfd, name, &status, 0) == 0 && /* else: it is retired */
             (uint64_t)status.st_size < todo->end));
}

/* Syncs a file of a segment that does not map it.  0 or errno. */
static int sync_file(const hm_segment *segment, const char *suffix) {
    char name[32];
    hm_segment_name(name, sizeof name, segment->base_sequence, suffix);
    int fd = openat(segment->pool->dirfd, name, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return errno == ENOENT ? 0 : errno; /* retention was faster */
    }
    int error = fsync(fd) == 0 ? 0 : errno;
    close(fd);
    return error;
}

/* 0 or errno.  Without the lock: the segment is referenced, and what is sealed no longer moves. */
static int sync_segment(const job *todo) {
    hm_segment *segment = todo->segment;
    if (is_cut(todo)) {
        return EIO;
    }
    if (segment->slot && !todo->unmapped) {
        int error = hm_hot_carry(segment, todo->end);
        if (error) {
            return error;
        }
    }
    if (todo->unmapped) {
        int error = sync_file(segment, "index");
        return error ? error : sync_file(segment, "log");
    }
    if (segment->folded && (ALWAYS_SYNCS || segment->synced_records < todo->records)) {
        /* Also when all records were synced: the last may have been extended since. */
        int error = sync_file(segment, "index");
        if (error) {
            return error;
        }
    }
    if (!segment->heap_records) {
        uint64_t from = segment->synced_records ? segment->synced_records - 1 : 0;
        int error = hm_map_sync(segment->records, from * sizeof(hm_record),
                                todo->records * sizeof(hm_record));
        if (error) {
            return error;
        }
    }
    if (segment->slot) {
        return fsync(segment->fd) == 0 ? 0 : errno;
    }
    if (todo->seal && segment->synced_end >= HM_PAGE) {
        int error = hm_map_sync(segment->map, 0, HM_PAGE);
        if (error) {
            return error;
        }
    }
    return hm_map_sync(segment->map, segment->synced_end, todo->end);
}

/* Notes the outcome of a job and lets go of its segment. */
static void end_job(hm_pool *pool, const job *done, int error) {
    pthread_mutex_lock(&pool->lock);
    if (error == 0) {
        done->segment->synced_end = done->end;
        done->segment->synced_records = done->records;
    }
    pthread_mutex_unlock(&pool->lock);
    hm_segment_release(done->segment);
}

/* Takes the list of sealed segments that are not on disk, each referenced.  Returns how many. */
static uint32_t take_unsynced(hm_pool *pool, hm_segment **list) {
    uint32_t count = 0;
    pthread_mutex_lock(&pool->lock);
    *list = pool->unsynced;
    pool->unsynced = NULL;
    for (hm_segment *at = *list; at; at = at->unsynced_next) {
        at->unsynced = false;
        at->sync_unmapped = at->map == NULL;
        hm_segment_retain(at);
        count++;
    }
    pthread_mutex_unlock(&pool->lock);
    return count;
}

/* Says in the segment what is on disk, for who opens it after a crash.  The mark itself is left to
 * the kernel: without it, what is unsound there is taken for a torn tail. */
static void mark_synced(hm_segment *segment, uint64_t turn, uint64_t end, uint64_t next_sequence) {
    const hm_synced synced = {end, next_sequence};
    pthread_mutex_lock(&segment->pool->lock); /* the owner may be sealing it */
    hm_synced_encode(segment->map, segment->header_crc, turn, &synced);
    segment->header_stale = segment->slot != NULL;
    pthread_mutex_unlock(&segment->pool->lock);
    if (segment->slot) {
        hm_hot_carry(segment, 0); /* an error is met again */
    }
}

/* What is marked already is left alone: of thousands of segments none is written again. */
static void mark_sealed(hm_segment *segment, uint64_t turn) {
    hm_synced before;
    if (segment->header_crc == 0) {
        return; /* its header page is lost */
    }
    hm_synced_decode(segment->map, segment->header_crc, &before);
    if (before.next_sequence < segment->next_sequence) {
        mark_synced(segment, turn, segment->end, segment->next_sequence);
    }
}

/* mark_sealed for a segment that is not mapped. */
static void mark_file(const hm_segment *segment, uint64_t turn) {
    char name[32];
    uint8_t page[HM_PAGE];
    hm_synced before;
    hm_segment_name(name, sizeof name, segment->base_sequence, "log");
    int fd = openat(segment->pool->dirfd, name, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return; /* retention was faster; and without the mark an earlier one counts */
    }
    if (segment->header_crc != 0 && pread(fd, page, sizeof page, 0) == (ssize_t)sizeof page) {
        hm_synced_decode(page, segment->header_crc, &before);
        const hm_synced synced = {segment->end, segment->next_sequence};
        if (before.next_sequence < segment->next_sequence) {
            hm_synced_encode(page, segment->header_crc, turn, &synced);
            ssize_t written =
                pwrite(fd, page + HM_SYNCED_OFFSET, 2 * (size_t)HM_SYNCED_SIZE, HM_SYNCED_OFFSET);
            (void)written; /* likewise */
        }
    }
    close(fd);
}

/* The files of hot segments get what they lack.  0 or errno. */
static int carry_each(hm_segment *list) {
    int error = 0;
    for (hm_segment *at = list; at && error == 0; at = at->unsynced_next) {
        error = at->slot ? hm_hot_carry(at, at->end) : 0;
    }
    return error;
}

/* 0 or errno.  `failed`: no sync says anything any more.  `turn`: of the marks. */
static int sync_sealed(hm_pool *pool, bool failed, uint64_t turn) {
    hm_segment *list;
    bool many = take_unsynced(pool, &list) > HM_SYNC_EACH_MAX;
    int carried = many ? carry_each(list) : 0;
    /* Each sync of a file waits for the journal; beyond a few, one for the whole file system is
     * cheaper, if there is such a thing. */
    int error = carried ? carried : many ? hm_platform_sync_all(pool->dirfd) : -1;
    bool each = error < 0;
    error = each ? 0 : error;
    while (list) {
        job todo = {list, list->sync_unmapped, list->end, list->record_count, true};
        list = list->unsynced_next;
        if (error == 0 && each) {
            error = sync_segment(&todo);
        }
        if (error == 0 && !failed && todo.unmapped) {
            mark_file(todo.segment, turn);
        } else if (error == 0 && !failed) {
            mark_sealed(todo.segment, turn);
        }
        end_job(pool, &todo, error);
    }
    return error;
}

static int sync_everything(hm_pool *pool, const job *active, bool directory, bool failed,
                           uint64_t turn) {
    int error = sync_sealed(pool, failed, turn);
    if (error == 0 && active->segment) {
        error = sync_segment(active);
    }
    if (error == 0 && directory && fsync(pool->dirfd) != 0) {
        error = errno;
    }
    return error;
}

void hm_helper_sync(hm_pool *pool) {
    uint64_t asked = pool->sync_asked;
    uint64_t target = pool->sync_target;
    job active = {pool->sync_active, false, pool->sync_end, pool->sync_records, false};
    pool->sync_active = NULL;
    bool directory = pool->directory_dirty;
    pool->directory_dirty = false;
    int fault = pool->sync_fault;
    pool->sync_runs = true;
    bool failed = pool->failed != 0; /* what is not on disk may have been thrown away since */
    uint64_t turn = pool->syncs;
    hm_end mark = pool->sync_mark;
    pthread_mutex_unlock(&pool->lock);

    /* A sync that is to fail, for a test, does nothing. */
    int error = fault ? fault : sync_everything(pool, &active, directory, failed, turn);
    if (active.segment) {
        if (error == 0 && !failed) {
            mark_synced(active.segment, turn, active.end, target);
        }
        end_job(pool, &active, error);
    }
    if (error == 0 && !failed && pool->end_fd >= 0) {
        hm_end_write(pool->end_fd,
                     &mark); /* without it, or with half of it, an earlier one counts */
    }

    pthread_mutex_lock(&pool->lock);
    pool->sync_runs = false;
    pool->sync_served = asked;
    if (error && pool->failed == 0) {
        /* What the kernel could not write it may have thrown away: nothing can be promised any
         * more. */
        pool->failed_errno = error;
        atomic_store_explicit(&pool->failed, -HM_EIO, memory_order_relaxed);
    } else if (pool->failed == 0) {
        pool->synced_next = target;
        pool->syncs++;
    }
    hm_pool_event(pool, HM_LOG_EVENT_SYNC);
    pthread_cond_broadcast(&pool->done);
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
    bool grown = hm_hot_grow(pool, HM_WARM_BULK);
    uint64_t ended_ns = now_ns();
    pool->rest_ns = ended_ns + rest_after(pool, HM_WARM_BULK, ended_ns - begun_ns);
    return grown;
}

/* What a reader will fault on, then what the writer will.  False: nothing is to be done now. */
static bool prepare(hm_pool *pool) {
    uint64_t target;
    hm_segment *next;
    if (pool->populate_count) {
        populate_next(pool);
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
        hm_helper_sync(pool);
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
