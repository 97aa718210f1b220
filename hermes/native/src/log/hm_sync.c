/* hm_sync.c -- syncing: what a log's messages need on disk is written there, and marked.
 *
 * The helper syncs frames, and its partner, a thread that the first sync starts, the index beside it:
 * a file system writes two files in the time of one when it is asked for both at once.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log_internal.h"

/* The tests make one mistake at a time here, to prove that they would notice. */
#ifdef HM_WEAKEN_LOG_FOLDED
#define ALWAYS_SYNCS false
#else
#define ALWAYS_SYNCS true
#endif

#define NAME_SIZE 40

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

static int sync_index(const job *todo) {
    const hm_segment *segment = todo->segment;
    if (todo->unmapped) {
        return sync_file(segment, "index");
    }
    if (segment->folded && (ALWAYS_SYNCS || segment->synced_records < todo->records)) {
        /* Also when all records were synced: the last may have been extended since. */
        return sync_file(segment, "index");
    }
    if (segment->heap_records) {
        return 0;
    }
    uint64_t from = segment->synced_records ? segment->synced_records - 1 : 0;
    return hm_map_sync(segment->records, from * sizeof(hm_record),
                       todo->records * sizeof(hm_record));
}

static int sync_frames(const job *todo) {
    hm_segment *segment = todo->segment;
    if (todo->unmapped) {
        return sync_file(segment, "log");
    }
    if (segment->slot) {
        int error = hm_hot_carry(segment, todo->end);
        return error ? error : fsync(segment->fd) == 0 ? 0 : errno;
    }
    if (todo->seal && segment->synced_end >= HM_PAGE) {
        int error = hm_map_sync(segment->map, 0, HM_PAGE);
        if (error) {
            return error;
        }
    }
    return hm_map_sync(segment->map, segment->synced_end, todo->end);
}

/* the partner --------------------------------------------------------------------------------- */

static void *partner_main(void *argument) {
    hm_partner *partner = argument;
    pthread_mutex_lock(&partner->lock);
    while (!partner->stops) {
        if (partner->todo == NULL) {
            pthread_cond_wait(&partner->change, &partner->lock);
            continue;
        }
        const job *todo = partner->todo;
        pthread_mutex_unlock(&partner->lock);
        int error = sync_index(todo);
        pthread_mutex_lock(&partner->lock);
        partner->error = error;
        partner->todo = NULL;
        pthread_cond_broadcast(&partner->change);
    }
    pthread_mutex_unlock(&partner->lock);
    return NULL;
}

/* Has the partner begin with the index.  False: there is none. */
static bool partner_begin(hm_partner *partner, const job *todo) {
    if (!partner->runs && !partner->refused) {
        partner->runs = pthread_create(&partner->thread, NULL, partner_main, partner) == 0;
        partner->refused = !partner->runs; /* then both are synced one after the other */
    }
    if (partner->runs) {
        pthread_mutex_lock(&partner->lock);
        partner->todo = todo;
        pthread_cond_broadcast(&partner->change);
        pthread_mutex_unlock(&partner->lock);
    }
    return partner->runs;
}

/* Waits for it: 0 or errno. */
static int partner_end(hm_partner *partner) {
    pthread_mutex_lock(&partner->lock);
    while (partner->todo) {
        pthread_cond_wait(&partner->change, &partner->lock);
    }
    int error = partner->error;
    pthread_mutex_unlock(&partner->lock);
    return error;
}

void hm_partner_stop(hm_partner *partner) {
    if (!partner->runs) {
        return;
    }
    pthread_mutex_lock(&partner->lock);
    partner->stops = true;
    pthread_cond_broadcast(&partner->change);
    pthread_mutex_unlock(&partner->lock);
    pthread_join(partner->thread, NULL);
    partner->runs = false;
}

/* one segment --------------------------------------------------------------------------------- */

/* 0 or errno.  Without the lock: the segment is referenced, and what is sealed no longer moves. */
static int sync_segment(const job *todo) {
    hm_partner *partner = &todo->segment->pool->partner;
    if (is_cut(todo)) {
        return EIO;
    }
    bool both = partner_begin(partner, todo);
    int error = sync_frames(todo);
    int of_index = both ? partner_end(partner) : sync_index(todo);
    return error ? error : of_index;
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

/* A segment that is marked already is left alone: of thousands none is written again. */
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

void hm_sync_all(hm_pool *pool) {
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
        /* The kernel may have thrown away pages that it could not write: nothing can be promised any
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
