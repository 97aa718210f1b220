/* hm_segment.c -- one segment: its files, its mapping and its references. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log_internal.h"

#define FILE_MODE 0600
#define NAME_SIZE 40
#define HUGE_PAGE 2097152

void hm_segment_name(char *out, size_t size, uint64_t base, const char *suffix) {
    snprintf(out, size, "%020llu.%s", (unsigned long long)base, suffix);
}

void hm_spare_name(char *out, size_t size, uint32_t number, const char *suffix) {
    snprintf(out, size, "spare-%u.%s", number, suffix);
}

uint64_t hm_index_reserve(uint64_t segment_bytes) {
    uint64_t records = segment_bytes / HM_FRAME_SMALLEST + HM_LOG_PUBLISHERS_MAX +
                       2 * (uint64_t)HM_LOG_MISSING_MAX;
    return (records * sizeof(hm_record) + HM_PAGE - 1) / HM_PAGE * HM_PAGE;
}

static int create(hm_segment *segment, const char *suffix, int *fd) {
    char name[NAME_SIZE];
    hm_spare_name(name, sizeof name, segment->spare_number, suffix);
    *fd = openat(segment->pool->dirfd, name, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, FILE_MODE);
    return *fd < 0 ? hm_code_of(errno) : 0;
}

static int map_memory(int fd, uint64_t size, void **map) {
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED;
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (at == MAP_FAILED) {
        return -HM_EMAPS;
    }
    *map = at;
    return 0;
}

/* Maps a file whose faults are noted, or memory. */
static int map_watched(int fd, uint64_t size, void **map, hm_fault **fault) {
    int error = map_memory(fd, size, map);
    *fault = error || fd < 0 ? NULL : hm_fault_watch(*map, size);
    if (error == 0 && fd >= 0 && *fault == NULL) {
        munmap(*map, size);
        *map = NULL;
        return -HM_ENOMEM;
    }
    return error;
}

static void drop_index(hm_segment *segment) {
    if (segment->heap_records) {
        free(segment->records);
    } else if (segment->records) {
        hm_fault_drop(segment->records_fault);
        munmap(segment->records, segment->index_reserved);
    }
    segment->records_fault = NULL;
    if (segment->index_fd >= 0) {
        close(segment->index_fd);
    }
    segment->records = NULL;
    segment->index_fd = -1;
    segment->heap_records = segment->folded = false;
    segment->record_count = 0;
    segment->record_capacity = 0;
}

static int make_index(hm_segment *segment) {
    hm_pool *pool = segment->pool;
    segment->index_reserved = hm_index_reserve(pool->options.segment_bytes);
    if (pool->dirfd < 0) {
        return map_memory(-1, segment->index_reserved, (void **)&segment->records);
    }
    int error = create(segment, "index", &segment->index_fd);
    if (error == 0) {
        error = hm_index_room(segment, 1);
    }
    if (error == 0) {
        error = map_watched(segment->index_fd, segment->index_reserved, (void **)&segment->records,
                            &segment->records_fault);
    }
    return error;
}

void hm_segment_read_ahead(hm_segment *segment, bool ahead) {
    if (segment->pool->dirfd >= 0 && segment->map && segment->slot == NULL &&
        segment->piecemeal == ahead) {
        segment->piecemeal = !ahead;
        madvise(segment->map, segment->map_size, ahead ? MADV_NORMAL : MADV_RANDOM);
    }
}

static int fill_segment(hm_segment *segment) {
    hm_pool *pool = segment->pool;
    segment->map_size = pool->options.segment_bytes;
    int error = hm_segment_charge(segment, segment->map_size);
    if (error == 0 && pool->dirfd >= 0) {
        segment->name = HM_NAME_SPARE;
        error = create(segment, "log", &segment->fd);
        if (error == 0) {
            error = hm_file_allocate(segment->fd, 0, segment->map_size);
        }
    }
    if (error == 0) {
        error = map_watched(segment->fd, segment->map_size, (void **)&segment->map,
                            &segment->map_fault);
    }
    if (error == 0 && pool->dirfd < 0 && segment->map_size >= HUGE_PAGE) {
        hm_platform_huge(segment->map, segment->map_size);
    }
    if (error == 0) {
        hm_segment_read_ahead(segment, false);
    }
    return error ? error : make_index(segment);
}

/* With a slot, the lock is held. */
static void drop_map(hm_segment *segment) {
    if (segment->slot) {
        hm_hot_give(segment);
    } else if (segment->map) {
        hm_fault_drop(segment->map_fault);
        munmap(segment->map, segment->map_size);
        segment->map = NULL;
        segment->map_fault = NULL;
    }
}

static hm_segment *new_segment(hm_pool *pool) {
    hm_segment *segment = calloc(1, sizeof *segment);
    if (segment) {
        segment->pool = pool;
        atomic_fetch_add_explicit(&pool->refs, 1, memory_order_relaxed);
        atomic_init(&segment->refs, 1);
        segment->fd = segment->index_fd = segment->direct_fd = -1;
        segment->end = HM_LOG_SEGMENT_HEADER;
    }
    return segment;
}

int hm_segment_placeholder(hm_pool *pool, hm_segment **made) {
    hm_segment *segment = new_segment(pool);
    if (segment == NULL) {
        return -HM_ENOMEM;
    }
    segment->placeholder = true;
    segment->map_size = HM_LOG_SEGMENT_HEADER;
    int error = map_memory(-1, segment->map_size, (void **)&segment->map);
    if (error) {
        hm_segment_destroy(segment);
        return error;
    }
    *made = segment;
    return 0;
}

int hm_segment_copy(hm_pool *pool, const uint8_t *frames, uint64_t size, hm_segment **made) {
    hm_segment *segment = new_segment(pool);
    if (segment == NULL) {
        return -HM_ENOMEM;
    }
    segment->end = segment->map_size = HM_LOG_SEGMENT_HEADER + size;
    segment->sealed = true;
    int error = map_memory(-1, segment->map_size, (void **)&segment->map);
    if (error) {
        hm_segment_destroy(segment);
        return error;
    }
    memcpy(segment->map + HM_LOG_SEGMENT_HEADER, frames, size);
    *made = segment;
    return 0;
}

int hm_segment_make(hm_pool *pool, hm_segment **made) {
    hm_segment *segment = new_segment(pool);
    if (segment == NULL) {
        return -HM_ENOMEM;
    }
    pthread_mutex_lock(&pool->lock);
    segment->spare_number = pool->spare_next++;
    pthread_mutex_unlock(&pool->lock);
    int error = fill_segment(segment);
    if (error) {
        hm_segment_destroy(segment);
        return error;
    }
    *made = segment;
    return 0;
}

int hm_segment_refit(hm_segment *segment) {
    hm_pool *pool = segment->pool;
    free(segment->damage);
    segment->damage = NULL;
    segment->damage_count = 0;
    segment->end = HM_LOG_SEGMENT_HEADER;
    segment->sealed = segment->retired = segment->recyclable = segment->fetched = false;
    segment->unsynced = segment->complete = false;
    segment->synced_end = segment->synced_records = 0;
    segment->warmed = 0;
    segment->record_count = 0;
    hm_segment_read_ahead(segment, false);
    if (pool->dirfd < 0) {
        return 0; /* its index memory is as good as new */
    }
    drop_index(segment);
    pthread_mutex_lock(&pool->lock);
    if (segment->slot) {
        drop_map(segment);
    }
    pool->disk_used -= segment->disk_bytes - segment->map_size;
    segment->disk_bytes = segment->map_size;
    pthread_mutex_unlock(&pool->lock);
    char name[NAME_SIZE];
    hm_spare_name(name, sizeof name, segment->spare_number, "log");
    segment->fd = openat(pool->dirfd, name, O_RDWR | O_CLOEXEC);
    int error = segment->fd < 0 ? hm_code_of(errno) : 0;
    if (error == 0 && segment->map == NULL) {
        error = map_watched(segment->fd, segment->map_size, (void **)&segment->map,
                            &segment->map_fault);
        hm_segment_read_ahead(segment, false);
    }
    return error ? error : make_index(segment);
}

static void unlink_spare(const hm_segment *segment) {
    hm_pool *pool = segment->pool;
    char name[NAME_SIZE];
    /* Under the lock: a log that is closing takes the names away, and the next one to open the
     * directory numbers its spares anew. */
    pthread_mutex_lock(&pool->lock);
    if (!pool->swept) {
        hm_spare_name(name, sizeof name, segment->spare_number, "log");
        unlinkat(pool->dirfd, name, 0);
        hm_spare_name(name, sizeof name, segment->spare_number, "index");
        unlinkat(pool->dirfd, name, 0);
    }
    pthread_mutex_unlock(&pool->lock);
}

void hm_segment_destroy(hm_segment *segment) {
    hm_pool *pool = segment->pool;
    if (segment->name == HM_NAME_SPARE) {
        unlink_spare(segment);
    }
    drop_index(segment);
    if (segment->slot) {
        pthread_mutex_lock(&pool->lock);
        drop_map(segment);
        pthread_mutex_unlock(&pool->lock);
    } else {
        drop_map(segment);
    }
    if (segment->fd >= 0) {
        close(segment->fd);
    }
    free(segment->damage);
    pthread_mutex_lock(&pool->lock);
    pool->disk_used -= segment->disk_bytes;
    pthread_mutex_unlock(&pool->lock);
    free(segment);
    hm_pool_unref(pool);
}

void hm_pool_unref(hm_pool *pool) {
    /* acq_rel (A): whoever comes last sees what all others did with it; pairs with itself. */
    if (atomic_fetch_sub_explicit(&pool->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    if (pool->dirfd >= 0) {
        close(pool->dirfd);
    }
    hm_hot_free(pool);
    hm_event_close(&pool->event);
    if (pool->end_fd >= 0) {
        close(pool->end_fd);
    }
    pthread_mutex_destroy(&pool->partner.lock);
    pthread_cond_destroy(&pool->partner.change);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

void hm_segment_retain(hm_segment *segment) {
    /* relaxed: the caller holds a reference, or the lock of a list that does. */
    atomic_fetch_add_explicit(&segment->refs, 1, memory_order_relaxed);
}

void hm_segment_release(hm_segment *segment) {
    /* acq_rel (B): the last one sees every reader's reads done before the memory is used again;
     * pairs with itself. */
    if (segment == NULL ||
        atomic_fetch_sub_explicit(&segment->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    hm_pool *pool = segment->pool;
    pthread_mutex_lock(&pool->lock);
    if (segment->retired) {
        pool->retired_pinned--;
    }
    bool recycle = segment->recyclable && !pool->closing;
    if (recycle) {
        segment->next = pool->returned;
        pool->returned = segment;
        pthread_cond_signal(&pool->wake);
    } else if (segment->recyclable) {
        pool->circulating--;
    }
    pthread_mutex_unlock(&pool->lock);
    if (!recycle) {
        hm_segment_destroy(segment);
    }
}

int hm_segment_install(hm_segment *segment, uint64_t created_ns) {
    assert(!segment->sealed && segment->end == HM_LOG_SEGMENT_HEADER);
    hm_header header = {.base_sequence = segment->base_sequence,
                        .base_position = segment->base_position,
                        .created_ns = created_ns,
                        .generation = ++segment->generation,
                        .segment_bytes = segment->map_size};
    hm_header_encode(segment->map, &header);
    hm_header_decode(segment->map, &header);
    segment->header_crc = header.crc;
    atomic_store_explicit(&segment->tail, segment->end, memory_order_relaxed);
    hm_pool *pool = segment->pool;
    if (pool->dirfd < 0) {
        return 0;
    }
    char from[NAME_SIZE], to[NAME_SIZE];
    /* The index first: a log file without its index would lose the duplicate filter. */
    static const char *const suffixes[] = {"index", "log"};
    for (int i = 0; i < 2; i++) {
        hm_spare_name(from, sizeof from, segment->spare_number, suffixes[i]);
        hm_segment_name(to, sizeof to, segment->base_sequence, suffixes[i]);
        if (renameat(pool->dirfd, from, pool->dirfd, to) != 0) {
            return hm_code_of(errno);
        }
    }
    segment->name = HM_NAME_BASE;
    pthread_mutex_lock(&pool->lock);
    pool->directory_dirty = true;
    segment->carried = HM_LOG_SEGMENT_HEADER;
    segment->header_stale = segment->carries = segment->slot != NULL;
    pthread_mutex_unlock(&pool->lock);
    return 0;
}

/* Cuts a file at `size`; what the mapping has beyond it becomes private zeros, so that no read of
 * it can ever fault. */
static uint64_t shrink_file(hm_segment *segment) {
    uint64_t unused = segment->map_size - segment->end;
    if (unused == 0 || ftruncate(segment->fd, (off_t)segment->end) != 0) {
        return 0;
    }
    segment->shrunk = true;
    if (segment->slot) {
        return unused;
    }
    segment->cut = true;
    uint64_t keep = (segment->end + HM_PAGE - 1) / HM_PAGE * HM_PAGE;
    if (keep < segment->map_size) {
        mmap(segment->map + keep, segment->map_size - keep, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    }
    return unused;
}

static uint64_t shrink_index(hm_segment *segment) {
    if (segment->heap_records) {
        return 0; /* what stands in the file is evidence */
    }
    uint64_t used = segment->record_count * sizeof(hm_record);
    uint64_t unused = segment->record_capacity * sizeof(hm_record) - used;
    if (unused && ftruncate(segment->index_fd, (off_t)used) != 0) {
        return 0;
    }
    uint64_t keep = (used + HM_PAGE - 1) / HM_PAGE * HM_PAGE;
    keep = keep ? keep : HM_PAGE;
    if (keep < segment->index_reserved) {
        munmap((uint8_t *)segment->records + keep, segment->index_reserved - keep);
        segment->index_reserved = keep;
        if (segment->records_fault) { /* nothing beyond is ours any more */
            atomic_store_explicit(&segment->records_fault->end, (uintptr_t)segment->records + keep,
                                  memory_order_relaxed);
        }
    }
    segment->record_capacity = segment->record_count;
    return unused;
}

void hm_segment_fold(hm_segment *segment) {
    hm_pool *pool = segment->pool;
    uint64_t size = segment->record_count * sizeof(hm_record);
    if (pool->dirfd < 0 || !segment->sealed || segment->heap_records || segment->records == NULL ||
        size == 0 || size > HM_FOLD_MAX) {
        return;
    }
    hm_record *copy = malloc(size);
    if (copy == NULL) {
        return;
    }
    pthread_mutex_lock(&pool->lock);
    if (!pool->sync_runs) {
        memcpy(copy, segment->records, size);
    }
    if (!pool->sync_runs && hm_fault_count(segment->records_fault) == 0) {
        hm_fault_drop(segment->records_fault);
        segment->records_fault = NULL;
        munmap(segment->records, segment->index_reserved);
        segment->records = copy;
        copy = NULL;
        segment->record_capacity = segment->index_slots = segment->record_count;
        segment->heap_records = segment->folded = true;
    }
    pthread_mutex_unlock(&pool->lock);
    free(copy);
}

bool hm_segment_unmap(hm_segment *segment) {
    hm_pool *pool = segment->pool;
    pthread_mutex_lock(&pool->lock);
    /* acquire: pairs with (B) -- a reader that let go has read what it wanted.  Under the lock, and
     * with the log's own reference alone, nobody else can come to refer to it. */
    bool unused = atomic_load_explicit(&segment->refs, memory_order_acquire) == 1 &&
                  hm_segment_faults(segment) == 0 &&
                  (segment->slot == NULL || hm_hot_is_carried(segment));
    if (unused) {
        segment->fetched |= segment->slot != NULL; /* its file was written around memory */
        drop_map(segment);
        segment->piecemeal = false;
        if (!segment->heap_records && segment->records) {
            hm_fault_drop(segment->records_fault);
            munmap(segment->records, segment->index_reserved);
            segment->records = NULL;
            segment->records_fault = NULL;
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return unused;
}

void hm_segment_drop_pages(hm_segment *segment, uint64_t offset, uint64_t size) {
    char name[NAME_SIZE];
    hm_segment_name(name, sizeof name, segment->base_sequence, "log");
    int fd = openat(segment->pool->dirfd, name, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) { /* else retention was faster */
        hm_platform_drop(segment->map + offset, fd, offset, size);
        close(fd);
    }
}

/* Maps one file of a sealed segment again; where it was cut, its pages fault. */
static int map_again(const hm_segment *segment, const char *suffix, uint64_t size, void **map,
                     hm_fault **fault) {
    char name[NAME_SIZE];
    hm_segment_name(name, sizeof name, segment->base_sequence, suffix);
    int fd = openat(segment->pool->dirfd, name, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return errno == ENOENT ? -HM_EDAMAGED : hm_code_of(errno);
    }
    int error = map_watched(fd, size, map, fault);
    close(fd);
    return error;
}

int hm_segment_map(hm_segment *segment) {
    hm_pool *pool = segment->pool;
    if (segment->map) {
        return 0;
    }
    void *records = NULL, *map = NULL;
    hm_fault *map_fault = NULL, *records_fault = NULL;
    int error = map_again(segment, "log", segment->map_size, &map, &map_fault);
    if (error == 0 && !segment->heap_records && segment->index_reserved) {
        error = map_again(segment, "index", segment->index_reserved, &records, &records_fault);
    }
    if (error && map) {
        hm_fault_drop(map_fault);
        munmap(map, segment->map_size);
    }
    if (error) {
        return error;
    }
    pthread_mutex_lock(&pool->lock); /* a sync looks at it */
    segment->map = map;
    segment->map_fault = map_fault;
    if (records) {
        segment->records = records;
        segment->records_fault = records_fault;
    }
    pthread_mutex_unlock(&pool->lock);
    return 0;
}

void hm_segment_seal(hm_segment *segment, bool shrink) {
    assert(!segment->sealed);
    hm_seal seal = {.end = segment->end,
                    .next_sequence = segment->next_sequence,
                    .last_time_ns = segment->last_time_ns,
                    .records =
                        segment->heap_records ? segment->index_slots : segment->record_count};
    hm_pool *pool = segment->pool;
    /* The index first: who finds the seal finds the index as long as it says. */
    uint64_t freed = pool->dirfd < 0 ? 0 : shrink_index(segment);
    pthread_mutex_lock(&pool->lock); /* the helper may be carrying the page */
    hm_seal_encode(segment->map, segment->header_crc, &seal);
    segment->header_stale = segment->slot != NULL;
    pthread_mutex_unlock(&pool->lock);
    segment->sealed = true;
    if (pool->dirfd < 0) {
        return;
    }
    freed += shrink ? shrink_file(segment) : 0;
    if (segment->slot == NULL) { /* else it is carried yet */
        close(segment->fd);
        segment->fd = -1;
    }
    if (segment->index_fd >= 0) {
        close(segment->index_fd);
    }
    segment->index_fd = -1;
    pthread_mutex_lock(&pool->lock);
    segment->disk_bytes -= freed;
    pool->disk_used -= freed;
    pthread_mutex_unlock(&pool->lock);
}

/* Under the lock: a retired segment needs no sync any more. */
static void forget_unsynced(hm_pool *pool, hm_segment *segment) {
    hm_segment **at = &pool->unsynced;
    while (segment->unsynced && *at != segment) {
        at = &(*at)->unsynced_next;
    }
    if (segment->unsynced) {
        *at = segment->unsynced_next;
        segment->unsynced = false;
    }
}

static void give_up_recycling(hm_segment *segment) {
    pthread_mutex_lock(&segment->pool->lock);
    segment->pool->circulating -= segment->recyclable;
    segment->recyclable = false;
    pthread_mutex_unlock(&segment->pool->lock);
}

/* Whether its file may be written again: it is as large as a spare has to be, and nobody maps it
 * whose references are not ours. */
static bool is_reusable(const hm_segment *segment) {
    return segment->map_size == segment->pool->options.segment_bytes && !segment->shrunk &&
           !segment->adopted && hm_segment_faults(segment) == 0;
}

void hm_segment_retire(hm_segment *segment) {
    hm_pool *pool = segment->pool;
    char from[NAME_SIZE], to[NAME_SIZE];
    pthread_mutex_lock(&pool->lock);
    forget_unsynced(pool, segment);
    segment->retired = true;
    pool->retired_pinned++;
    /* One more than the spares wanted: a roll retires first, then takes one. */
    bool recycle =
        is_reusable(segment) && pool->ready_count + pool->circulating <= pool->options.spares;
    segment->recyclable = recycle;
    pool->circulating += recycle;
    pool->directory_dirty |= pool->dirfd >= 0;
    segment->spare_number = recycle ? pool->spare_next++ : 0;
    pthread_mutex_unlock(&pool->lock);
    if (pool->dirfd >= 0) {
        hm_segment_name(from, sizeof from, segment->base_sequence, "log");
        hm_spare_name(to, sizeof to, segment->spare_number, "log");
        segment->name = HM_NAME_NONE;
        if (recycle && renameat(pool->dirfd, from, pool->dirfd, to) == 0) {
            segment->name = HM_NAME_SPARE;
        } else {
            unlinkat(pool->dirfd, from, 0);
            give_up_recycling(segment);
        }
        /* The log file first: an index alone is litter, a log without its index is a loss. */
        hm_segment_name(from, sizeof from, segment->base_sequence, "index");
        unlinkat(pool->dirfd, from, 0);
    }
    hm_segment_release(segment);
}
