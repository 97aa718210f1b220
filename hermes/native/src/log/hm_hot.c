/* hm_hot.c -- segments that are written in memory that is always in place, and carried to their files.
 *
 * The file "hot" in the log's directory is that memory: a page that says whose it is, then slots of a
 * segment's size, which are mapped for as long as the log is open and are used again and again.  The
 * map of a hot segment is a slot: appends, reads and pins use it like any other.  The helper carries
 * what was appended to the segment's file, past the page cache.  Once the file has all of it and
 * nobody reads the slot, the segment is cooled: it has no map until it is read again, and its slot is
 * free.  Where there is no free slot, the next segment is a mapped file.
 *
 *   offset size field of the first page; every other byte of it is zero
 *        0    8 magic       "HMHOT\r\n\0"
 *        8    4 version     1
 *       12    4 reserved    0
 *       16    8 slot_bytes
 *       24    4 crc         CRC-32C of bytes 0..24
 *
 * A slot is the image of its segment, header page first; one without a header is free.  A process
 * that ends leaves the slots as they are, in the page cache; a system that ends, or a copy that was made
 * beside a running broker, any mixture of old and new.  The next open lays each slot over its
 * segment's file as far as its frames are sound, if the file has fewer of the same, and then recovers
 * the log as ever.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log_internal.h"

#define HOT_NAME    "hot"
#define HOT_VERSION 1
#define HOT_CRC     24 /* offset of the sum: what stands before it is summed */
#define NAME_SIZE   40

/* The tests make one mistake at a time here, to prove that they would notice. */
#ifdef HM_WEAKEN_LOG_LAY
#define JUDGES_SLOTS false
#else
#define JUDGES_SLOTS true
#endif
#ifdef HM_WEAKEN_LOG_COOL
#define WAITS_FOR_FILE false
#else
#define WAITS_FOR_FILE true
#endif

static const uint8_t MAGIC[8] = {'H', 'M', 'H', 'O', 'T', '\r', '\n', 0};

/* Bytes of slots that all logs of this process have. */
static _Atomic uint64_t slots_bytes;

static uint64_t slot_offset(uint64_t slot_bytes, uint64_t index) {
    return HM_PAGE + index * slot_bytes;
}

static uint64_t page_down(uint64_t offset) {
    return offset / HM_PAGE * HM_PAGE;
}

/* the first page ------------------------------------------------------------------------------ */

static void encode(uint8_t *page, uint64_t slot_bytes) {
    uint32_t version = HOT_VERSION;
    memset(page, 0, HM_PAGE);
    memcpy(page, MAGIC, sizeof MAGIC);
    memcpy(page + 8, &version, sizeof version);
    memcpy(page + 16, &slot_bytes, sizeof slot_bytes);
    uint32_t crc = hm_crc32c(0, page, HOT_CRC);
    memcpy(page + HOT_CRC, &crc, sizeof crc);
}

/* The size of the slots, and how many they are; 0: the page is not sound.  0 or -HM_E*. */
static int decode(int fd, uint64_t *slot_bytes, uint64_t *count) {
    uint8_t page[HM_PAGE], wanted[HM_PAGE];
    struct stat status;
    *slot_bytes = *count = 0;
    ssize_t got = pread(fd, page, sizeof page, 0);
    if (got < 0 || fstat(fd, &status) != 0) {
        return hm_code_of(errno);
    }
    if (got != (ssize_t)sizeof page) {
        return 0;
    }
    memcpy(slot_bytes, page + 16, sizeof *slot_bytes);
    encode(wanted, *slot_bytes);
    if (*slot_bytes == 0 || *slot_bytes % HM_PAGE || *slot_bytes > UINT32_MAX ||
        memcmp(page, wanted, sizeof page) != 0) {
        return 0;
    }
    *count = ((uint64_t)status.st_size - HM_PAGE) / *slot_bytes;
    *count = *count < HM_HOT_SLOTS_MAX ? *count : HM_HOT_SLOTS_MAX;
    return 0;
}

/* taking and giving slots --------------------------------------------------------------------- */

static hm_slot *free_slot(hm_hot *hot) {
    for (uint32_t i = 0; i < hot->count; i++) {
        hm_slot *slot = &hot->slots[i];
        if (!hot->refused && slot->segment == NULL && slot->ready &&
            hm_fault_count(slot->fault) == 0) {
            return slot;
        }
    }
    return NULL;
}

bool hm_hot_has_slot(hm_pool *pool) {
    return !pool->failed && free_slot(&pool->hot) != NULL;
}

void hm_hot_heat(hm_segment *segment, uint64_t now_ns) {
    hm_pool *pool = segment->pool;
    char name[NAME_SIZE];
    assert(segment->slot == NULL && segment->name == HM_NAME_SPARE && segment->map);
    pthread_mutex_lock(&pool->lock);
    hm_slot *slot = pool->failed ? NULL : free_slot(&pool->hot);
    if (slot) {
        slot->segment = segment;
        pool->hot.used_ns = now_ns;
    } else {
        pool->hot.enough = false;
    }
    pthread_mutex_unlock(&pool->lock);
    if (slot == NULL) {
        return;
    }
    hm_spare_name(name, sizeof name, segment->spare_number, "log");
    int fd = hm_platform_open_direct(pool->dirfd, name);
    if (fd < 0) {
        pthread_mutex_lock(&pool->lock);
        slot->segment = NULL;
        pool->hot.refused = true; /* until the log is opened again */
        pthread_mutex_unlock(&pool->lock);
        return;
    }
    hm_fault_drop(segment->map_fault);
    munmap(segment->map, segment->map_size);
    segment->map = slot->map;
    segment->map_fault = slot->fault;
    segment->direct_fd = fd;
    segment->slot = slot;
    segment->warmed = segment->map_size;
    segment->piecemeal = false;
}

void hm_hot_give(hm_segment *segment) {
    hm_slot *slot = segment->slot;
    assert(slot && slot->segment == segment);
    bool done = segment->name != HM_NAME_BASE || segment->retired || hm_hot_is_carried(segment);
    if (done && segment->pool->process == getpid()) {
        memset(slot->map, 0, HM_HEADER_SIZE);
    } /* else the log closes, and its file cannot be written: the next open finds the image; or this is
       * a forked child, whose parent may have given the slot to another segment */
    slot->segment = NULL;
    segment->slot = NULL;
    segment->map = NULL;
    segment->map_fault = NULL;
    segment->carries = segment->complete = false;
    if (segment->fd >= 0) {
        close(segment->fd);
    }
    close(segment->direct_fd);
    segment->fd = segment->direct_fd = -1;
}

bool hm_hot_is_carried(const hm_segment *segment) {
    /* relaxed: what is complete no longer moves. */
    bool carried = !segment->header_stale &&
                   segment->carried == atomic_load_explicit(&segment->tail, memory_order_relaxed);
    return segment->complete && (carried || !WAITS_FOR_FILE);
}

uint32_t hm_hot_carried(hm_pool *pool, hm_segment **segments) {
    uint32_t count = 0;
    pthread_mutex_lock(&pool->lock);
    for (uint32_t i = 0; i < pool->hot.count; i++) {
        hm_segment *segment = pool->hot.slots[i].segment;
        if (segment && segment->carries && !segment->retired && hm_hot_is_carried(segment)) {
            segments[count++] = segment;
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return count;
}

/* growing ------------------------------------------------------------------------------------- */

/* Takes `bytes` more for slots, if all logs of the process have so much to share. */
static bool reserve(uint64_t bytes, uint64_t limit) {
    uint64_t taken = atomic_load_explicit(&slots_bytes, memory_order_relaxed);
    do {
        if (taken + bytes > limit) {
            return false;
        }
    } while (!atomic_compare_exchange_weak_explicit(&slots_bytes, &taken, taken + bytes,
                                                    memory_order_relaxed, memory_order_relaxed));
    return true;
}

static void unreserve(uint64_t bytes) {
    atomic_fetch_sub_explicit(&slots_bytes, bytes, memory_order_relaxed);
}

/* Makes the file, without slots.  False: this place has none. */
static bool make_file(hm_pool *pool) {
    uint8_t page[HM_PAGE];
    int fd = openat(pool->dirfd, HOT_NAME, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) {
        return false;
    }
    pool->hot.fd = fd;
    encode(page, pool->options.segment_bytes);
    return hm_platform_takes_direct(fd) && pwrite(fd, page, sizeof page, 0) == (ssize_t)sizeof page;
}

/* Makes the memory of one more slot, which is not warm yet. */
static bool make_slot(hm_pool *pool, hm_slot *slot, uint64_t index) {
    uint64_t size = pool->options.segment_bytes, offset = slot_offset(size, index);
    struct stat status;
    /* Where somebody has cut the file, it stays cut: what was there would be zeros that nobody notices. */
    if (fstat(pool->hot.fd, &status) != 0 ||
        (uint64_t)status.st_size < (index ? offset : HM_PAGE) ||
        hm_file_allocate(pool->hot.fd, offset, size) != 0) {
        return false;
    }
    void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, pool->hot.fd, (off_t)offset);
    if (map == MAP_FAILED) {
        return false;
    }
    slot->fault = hm_fault_watch(map, size);
    if (slot->fault == NULL) {
        munmap(map, size);
        return false;
    }
    slot->map = map;
    return true;
}

bool hm_hot_wants_slot(const hm_pool *pool) {
    const hm_hot *hot = &pool->hot;
    if (hot->refused || hot->enough || hot->full || pool->dirfd < 0 || pool->failed ||
        pool->starved || !pool->spare_wanted || pool->options.spares == 0) {
        return false;
    }
    for (uint32_t i = 0; i < hot->count; i++) {
        if (hot->slots[i].segment == NULL) {
            return !hot->slots[i].ready;
        }
    }
    uint64_t taken = atomic_load_explicit(&slots_bytes, memory_order_relaxed);
    return hot->count < HM_HOT_SLOTS_MAX &&
           taken + pool->options.segment_bytes <= pool->options.hot_bytes;
}

/* Cuts the file behind the slots there are, or removes it.  One that somebody has cut shorter is left so:
 * lengthened, it would show zeros where messages were, and no fault would tell. */
static void give_back(hm_pool *pool) {
    hm_hot *hot = &pool->hot;
    struct stat status;
    if (hot->fd >= 0 && hot->count == 0) {
        close(hot->fd);
        hot->fd = -1;
        unlinkat(pool->dirfd, HOT_NAME, 0);
    } else if (hot->fd >= 0) {
        off_t size = (off_t)slot_offset(pool->options.segment_bytes, hot->count);
        bool shorter = fstat(hot->fd, &status) != 0 || status.st_size < size;
        hot->refused |= shorter || ftruncate(hot->fd, size) != 0;
    }
}

/* Lock held on entry and exit. */
static hm_slot *add_slot(hm_pool *pool) {
    hm_hot *hot = &pool->hot;
    uint64_t size = pool->options.segment_bytes;
    if (hot->count == HM_HOT_SLOTS_MAX || !reserve(size, pool->options.hot_bytes)) {
        return NULL;
    }
    hm_slot *slot = &hot->slots[hot->count];
    *slot = (hm_slot){0};
    pthread_mutex_unlock(&pool->lock);
    bool made = (hot->fd >= 0 || make_file(pool)) && make_slot(pool, slot, hot->count);
    pthread_mutex_lock(&pool->lock);
    if (!made) {
        unreserve(size);
        hot->full = true; /* until the log is opened again */
        give_back(pool);
        return NULL;
    }
    hot->count++;
    return slot;
}

bool hm_hot_grow(hm_pool *pool, uint64_t slice, uint64_t now_ns) {
    hm_hot *hot = &pool->hot;
    hm_slot *slot = hot->count ? &hot->slots[hot->count - 1] : NULL;
    hot->growing = true;
    if (slot == NULL || slot->ready) {
        slot = add_slot(pool);
    }
    if (slot == NULL) {
        hot->growing = false;
        return false;
    }
    hot->used_ns = now_ns;
    uint64_t left = pool->options.segment_bytes - slot->warmed;
    slice = left < slice ? left : slice;
    pthread_mutex_unlock(&pool->lock);
    hm_platform_warm(slot->map + slot->warmed, slice);
    pthread_mutex_lock(&pool->lock);
    slot->warmed += slice;
    slot->ready = slot->warmed == pool->options.segment_bytes;
    hot->growing = false;
    return true;
}

static void unmap_slot(const hm_pool *pool, const hm_slot *slot) {
    hm_fault_drop(slot->fault);
    munmap(slot->map, pool->options.segment_bytes);
    unreserve(pool->options.segment_bytes);
}

void hm_hot_shrink(hm_pool *pool, uint64_t now_ns) {
    hm_hot *hot = &pool->hot;
    pthread_mutex_lock(&pool->lock);
    while (hot->count && !hot->growing && now_ns > hot->used_ns + HM_HOT_IDLE_NS &&
           hot->slots[hot->count - 1].segment == NULL) {
        hot->enough = true;
        unmap_slot(pool, &hot->slots[--hot->count]);
        give_back(pool);
    }
    pthread_mutex_unlock(&pool->lock);
}

void hm_hot_free(hm_pool *pool) {
    hm_hot *hot = &pool->hot;
    for (uint32_t i = 0; i < hot->count; i++) {
        unmap_slot(pool, &hot->slots[i]);
    }
    if (hot->fd >= 0) {
        close(hot->fd);
    }
}

/* carrying ------------------------------------------------------------------------------------ */

/* 0 or errno. */
static int write_all(int fd, const uint8_t *data, uint64_t size, uint64_t offset) {
    while (size) {
        ssize_t written = pwrite(fd, data, size, (off_t)offset);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written <= 0) {
            return written < 0 ? errno : EIO;
        }
        data += written;
        offset += (uint64_t)written;
        size -= (uint64_t)written;
    }
    return 0;
}

/* Whether somebody has cut the file, or that of the slots: writing would only make a hole where messages
 * were. */
static bool is_cut(const hm_segment *segment) {
    struct stat status;
    uint64_t wanted = segment->shrunk ? segment->end : segment->map_size;
    return hm_fault_count(segment->map_fault) > 0 || fstat(segment->fd, &status) != 0 ||
           (uint64_t)status.st_size < wanted;
}

/* The header page is small and changes: it goes through the page cache.  So does what fills no page. */
static int carry_header(hm_segment *segment) {
    uint8_t page[HM_PAGE];
    hm_pool *pool = segment->pool;
    pthread_mutex_lock(&pool->lock);
    bool stale = segment->header_stale;
    segment->header_stale = false;
    memcpy(page, segment->map, sizeof page);
    pthread_mutex_unlock(&pool->lock);
    int error = stale ? write_all(segment->fd, page, sizeof page, 0) : 0;
    if (error) {
        pthread_mutex_lock(&pool->lock);
        segment->header_stale = true;
        pthread_mutex_unlock(&pool->lock);
    }
    return error;
}

int hm_hot_carry(hm_segment *segment, uint64_t end) {
    hm_pool *pool = segment->pool;
    pthread_mutex_lock(&pool->lock);
    uint64_t from = segment->carried;
    int fault = pool->carry_fault;
    pthread_mutex_unlock(&pool->lock);
    assert(end <= segment->map_size && from <= segment->map_size);
    int error = fault ? fault : is_cut(segment) ? EIO : 0;
    uint64_t whole = page_down(end), begin = page_down(from);
    if (error == 0 && whole > begin) {
        error = write_all(segment->direct_fd, segment->map + begin, whole - begin, begin);
        if (error == EINVAL) { /* not this file system, after all */
            error = write_all(segment->fd, segment->map + begin, whole - begin, begin);
        }
    }
    begin = whole > from ? whole : from;
    if (error == 0 && end > begin) {
        error = write_all(segment->fd, segment->map + begin, end - begin, begin);
    }
    error = error ? error : carry_header(segment); /* last: a seal says that all is there */
    pthread_mutex_lock(&pool->lock);
    if (error == 0 && end > segment->carried) {
        segment->carried = end;
    }
    pthread_mutex_unlock(&pool->lock);
    return error;
}

/* How far the segment is to be carried now; 0: not at all.  What is complete is carried to its end, what
 * is written fast in large pieces, and what is left over after a while. */
static uint64_t carry_end(const hm_segment *segment, bool rested) {
    /* acquire: pairs with the append -- the frames before the tail are in the slot. */
    uint64_t tail = atomic_load_explicit(&segment->tail, memory_order_acquire);
    uint64_t whole = page_down(tail), from = segment->carried;
    if (tail - from >= HM_CARRY_BYTES) {
        uint64_t most = page_down(from) + HM_CARRY_BYTES;
        return most < whole ? most : whole;
    }
    bool more = tail > from || segment->header_stale;
    return more && (segment->complete || rested) ? tail : 0;
}

/* The oldest hot segment that has something to be carried, and up to where. */
static hm_segment *next_to_carry(const hm_pool *pool, uint64_t now_ns, uint64_t *end) {
    hm_segment *found = NULL;
    bool rested = now_ns >= pool->hot.carried_ns + HM_CARRY_REST_NS;
    for (uint32_t i = 0; i < pool->hot.count; i++) {
        hm_segment *segment = pool->hot.slots[i].segment;
        if (segment == NULL || !segment->carries || segment->retired ||
            (found && found->base_sequence < segment->base_sequence)) {
            continue;
        }
        uint64_t to = carry_end(segment, rested);
        if (to) {
            found = segment;
            *end = to;
        }
    }
    return found;
}

bool hm_hot_carry_next(hm_pool *pool, uint64_t now_ns) {
    uint64_t end;
    hm_segment *segment = pool->failed ? NULL : next_to_carry(pool, now_ns, &end);
    if (segment == NULL) {
        return false;
    }
    hm_segment_retain(segment);
    pool->hot.carried_ns = now_ns;
    pthread_mutex_unlock(&pool->lock);
    int error = hm_hot_carry(segment, end);
    hm_segment_release(segment);
    pthread_mutex_lock(&pool->lock);
    if (error && pool->failed == 0) {
        /* Acknowledged messages stay readable, and the next open finds them in the slot. */
        pool->failed_errno = error;
        atomic_store_explicit(&pool->failed, -HM_EIO, memory_order_relaxed);
    }
    return true;
}

uint64_t hm_hot_next_look(const hm_pool *pool) {
    for (uint32_t i = 0; i < pool->hot.count && !pool->failed; i++) {
        const hm_segment *segment = pool->hot.slots[i].segment;
        if (segment && segment->carries && !segment->retired && carry_end(segment, true)) {
            return pool->hot.carried_ns + HM_CARRY_REST_NS;
        }
    }
    return 0;
}

/* closing ------------------------------------------------------------------------------------- */

int hm_hot_finish(hm_pool *pool) {
    int error = 0;
    for (uint32_t i = 0; i < pool->hot.count; i++) {
        hm_segment *segment = pool->hot.slots[i].segment;
        if (segment && segment->carries && !segment->retired && error == 0) {
            error = hm_hot_carry(segment, segment->end);
            error = error == 0 && fsync(segment->fd) != 0 ? errno : error;
        }
    }
    if (error == 0 && pool->hot.fd >= 0) {
        unlinkat(pool->dirfd, HOT_NAME, 0);
    }
    return error;
}

/* opening ------------------------------------------------------------------------------------- */

/* Where the sound frames of an image end; `map` has a sound header page. */
static uint64_t sound_end(const uint8_t *map, uint64_t size, const hm_header *header) {
    hm_seal seal;
    uint64_t base = header->base_sequence;
    bool sealed =
        hm_seal_decode(map, header->crc, &seal) == 0 && seal.end >= HM_PAGE && seal.end < size;
    return HM_PAGE + hm_log_sound(map + HM_PAGE, (sealed ? seal.end : size) - HM_PAGE, &base);
}

/* The seal and the marks of a header page, and how far the frames behind it are sound. */
typedef struct {
    uint64_t end; /* of the sound frames behind it */
    uint64_t synced;
    bool sealed;
    bool whole; /* and nothing is missing before the seal */
} said;

static said read_page(const uint8_t *map, uint64_t size, const hm_header *header) {
    hm_seal seal;
    hm_synced synced;
    hm_synced_decode(map, header->crc, &synced);
    said found = {.end = sound_end(map, size, header), .synced = synced.next_sequence};
    found.sealed = hm_seal_decode(map, header->crc, &seal) == 0;
    found.whole = found.sealed && seal.end == found.end;
    return found;
}

/* Up to where a slot is to be laid over its segment's file; 0: not at all.  `*from`: and from where on. */
static uint64_t judge(const uint8_t *slot, uint64_t slot_bytes, const uint8_t *file,
                      uint64_t file_bytes, uint64_t *from) {
    hm_header header, of_file;
    *from = 0;
    if (hm_header_decode(slot, &header) != 0) {
        return 0;
    }
    if (!JUDGES_SLOTS) {
        return slot_bytes;
    }
    said ours = read_page(slot, slot_bytes, &header);
    bool known = file_bytes >= HM_PAGE && hm_header_decode(file, &of_file) == 0 &&
                 of_file.base_sequence == header.base_sequence;
    if (!known) {
        return ours.end;
    }
    said theirs = read_page(file, file_bytes, &of_file);
    if (of_file.crc != header.crc || theirs.whole || theirs.end > ours.end) {
        return 0; /* another life's, or as good as the slot, or better */
    }
    bool more = theirs.sealed != ours.sealed ? theirs.sealed : theirs.synced > ours.synced;
    *from = more ? HM_PAGE : 0;
    return ours.end;
}

/* A private copy of slot `index`, if it is the image of the segment `base` and stays so while it is
 * copied; UINT64_MAX: of any.  `*copy`: NULL if it is not.  0 or -HM_E*. */
static int copy_slot(int fd, uint64_t slot_bytes, uint64_t index, uint64_t base, hm_header *header,
                     uint8_t **copy) {
    uint8_t page[HM_PAGE];
    hm_header again;
    off_t offset = (off_t)slot_offset(slot_bytes, index);
    *copy = NULL;
    ssize_t got = pread(fd, page, sizeof page, offset);
    if (got != (ssize_t)sizeof page || hm_header_decode(page, header) != 0 ||
        (base != UINT64_MAX && header->base_sequence != base)) {
        return got < 0 ? hm_code_of(errno) : 0;
    }
    uint8_t *map = mmap(NULL, slot_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        return -HM_EMAPS;
    }
    uint64_t done = 0;
    while (done < slot_bytes &&
           (got = pread(fd, map + done, slot_bytes - done, offset + (off_t)done)) > 0) {
        done += (uint64_t)got;
    }
    int error = got < 0 ? hm_code_of(errno) : 0;
    bool stays = pread(fd, page, sizeof page, offset) == (ssize_t)sizeof page &&
                 hm_header_decode(page, &again) == 0 && again.crc == header->crc;
    if (error == 0 && done == slot_bytes && stays) {
        *copy = map;
        return 0;
    }
    munmap(map, slot_bytes);
    return error;
}

/* Lays one slot over its segment's file, of `size` bytes, for good.  0 or -HM_E*. */
static int lay_over(int fd, uint64_t size, const uint8_t *slot, uint64_t slot_bytes) {
    uint8_t *file = size < HM_PAGE ? NULL : mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    if (file == MAP_FAILED) {
        return -HM_EMAPS;
    }
    hm_fault *fault = file ? hm_fault_watch(file, size) : NULL;
    int code = file && fault == NULL ? -HM_ENOMEM : 0;
    if (code == 0) {
        uint64_t from, end = judge(slot, slot_bytes, file, file ? size : 0, &from);
        int error = end > from ? write_all(fd, slot + from, end - from, from) : 0;
        error = error == 0 && end && fsync(fd) != 0 ? errno : error;
        code = error ? hm_code_of(error) : 0;
    }
    if (file) {
        hm_fault_drop(fault);
        munmap(file, size);
    }
    return code;
}

static int lay(int dirfd, const uint8_t *slot, uint64_t slot_bytes, uint64_t base) {
    char name[NAME_SIZE];
    struct stat status;
    hm_segment_name(name, sizeof name, base, "log");
    int fd = openat(dirfd, name, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return errno == ENOENT ? 0 : hm_code_of(errno); /* retired, or not installed yet */
    }
    int error = fstat(fd, &status) != 0 ? hm_code_of(errno)
                                        : lay_over(fd, (uint64_t)status.st_size, slot, slot_bytes);
    close(fd);
    return error;
}

int hm_hot_restore(int dirfd) {
    uint64_t slot_bytes, count;
    int fd = openat(dirfd, HOT_NAME, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return errno == ENOENT ? 0 : hm_code_of(errno);
    }
    int error = decode(fd, &slot_bytes, &count);
    for (uint64_t i = 0; i < count && error == 0; i++) {
        hm_header header;
        uint8_t *slot;
        error = copy_slot(fd, slot_bytes, i, UINT64_MAX, &header, &slot);
        if (slot) {
            error = lay(dirfd, slot, slot_bytes, header.base_sequence);
            munmap(slot, slot_bytes);
        }
    }
    close(fd);
    /* Last, and only when the files have it all: killed before, the next open does it again. */
    return error || unlinkat(dirfd, HOT_NAME, 0) == 0 ? error : hm_code_of(errno);
}

int hm_hot_image(int dirfd, uint64_t base, const uint8_t *file, uint64_t file_bytes,
                 uint8_t **image, uint64_t *size) {
    uint64_t count, from;
    *image = NULL;
    int fd = openat(dirfd, HOT_NAME, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return errno == ENOENT ? 0 : hm_code_of(errno);
    }
    int error = decode(fd, size, &count);
    for (uint64_t i = 0; i < count && error == 0 && *image == NULL; i++) {
        hm_header header;
        error = copy_slot(fd, *size, i, base, &header, image);
    }
    if (*image && judge(*image, *size, file, file_bytes, &from) == 0) {
        munmap(*image, *size);
        *image = NULL;
    }
    close(fd);
    return error;
}
