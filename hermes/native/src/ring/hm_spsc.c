/* hm_spsc.c -- the bounded ring of records for one producer and one consumer. */
#include "hm_spsc.h"
#include "spsc_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "../base/hm_platform.h"

#define MAGIC        UINT64_C(0x43535053534d5248) /* "HRMSSPSC" */
#define KIND_RECORD  0
#define KIND_PADDING 1
#define NOWHERE      UINT64_MAX /* never a cursor: it is not a multiple of 8 */

/* Out of line, so that the shortest way saves no registers for the longer one. */
#define SELDOM __attribute__((noinline, cold))

static inline uint64_t round_up(uint64_t size) {
    return (size + 7) & ~UINT64_C(7);
}

static inline int is_capacity(uint64_t capacity) {
    return capacity >= HM_SPSC_CAPACITY_MIN && capacity <= HM_SPSC_CAPACITY_MAX &&
           (capacity & (capacity - 1)) == 0;
}

static inline uint64_t least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

/* A word is what most small records are, and a call of memcpy costs as much as the rest of a push.
 */
static inline void copy(uint8_t *to, const uint8_t *from, uint64_t size) {
    if (size == 8)
        memcpy(to, from, 8);
    else if (size > 0)
        memcpy(to, from, size);
}

/* ---- construction ---- */

/* Takes over `shared`, and the roles where whoever had them left off. */
static int adopt(struct hm_spsc_shared *shared, uint64_t capacity, hm_spsc **ring) {
    uint64_t tail = atomic_load_explicit(&shared->tail, memory_order_relaxed);
    /* acquire: pairs with (B), as in look_for_room.  Behind the tail's load: it never passes that
     * tail. */
    uint64_t head = atomic_load_explicit(&shared->head, memory_order_acquire);
    hm_spsc *made;

    assert(is_capacity(capacity));
    if (tail - head > capacity || tail % 8 != 0 || head % 8 != 0)
        return -HM_ELENGTH;
    made = aligned_alloc(HM_SPSC_LINES, sizeof *made);
    if (made == NULL)
        return -HM_ENOMEM;
    *made = (hm_spsc){
        .shared = shared,
        .data = (uint8_t *)shared + HM_SPSC_HEADER,
        .capacity = capacity,
        .mask = capacity - 1,
        .record_max = capacity / 2 - HM_SPSC_RECORD,
        .tail = tail,
        .writable = tail, /* the first claim looks for room, ... */
        .claim = NOWHERE,
        .head = head,
        .readable = head, /* ... and the first peek for records */
        .tail_seen = head,
        .peeked = head,
        .peeked_readable = head,
    };
    *ring = made;
    return 0;
}

static int format(void *memory, uint64_t capacity, hm_spsc **ring) {
    struct hm_spsc_shared *shared = memory;

    shared->version = HM_SPSC_VERSION;
    shared->header = HM_SPSC_HEADER;
    shared->capacity = capacity;
    atomic_store_explicit(&shared->tail, 0, memory_order_relaxed);
    atomic_store_explicit(&shared->head, 0, memory_order_relaxed);
    /* release (M): whoever sees the magic sees a whole header. */
    atomic_store_explicit(&shared->magic, MAGIC, memory_order_release);
    return adopt(shared, capacity, ring);
}

static int map(int fd, uint64_t capacity, void **memory) {
    int saved = errno;
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;

    *memory = mmap(NULL, HM_SPSC_HEADER + capacity, PROT_READ | PROT_WRITE, flags, fd, 0);
    errno = saved;
    return *memory == MAP_FAILED ? (fd < 0 ? -HM_ENOMEM : -HM_ESYS) : 0;
}

static int map_and_format(int fd, uint64_t capacity, hm_spsc **ring) {
    void *memory;
    int result = map(fd, capacity, &memory);

    if (result != 0)
        return result;
    result = format(memory, capacity, ring);
    if (result != 0)
        munmap(memory, HM_SPSC_HEADER + capacity);
    return result;
}

int hm_spsc_new(uint64_t capacity, hm_spsc **ring) {
    return is_capacity(capacity) ? map_and_format(-1, capacity, ring) : -HM_EINVAL;
}

static int allocate(int fd, uint64_t size) {
    struct stat status;
    int saved = errno;
    int error;

    if (fstat(fd, &status) != 0) {
        errno = saved;
        return -HM_ESYS;
    }
    if (status.st_size != 0)
        return -HM_EBUSY;
    error = hm_platform_allocate(fd, 0, size);
    errno = saved;
    return error == 0 ? 0 : error == ENOSPC ? -HM_ENOSPACE : -HM_ESYS;
}

int hm_spsc_create(int fd, uint64_t capacity, hm_spsc **ring) {
    int result;

    if (fd < 0 || !is_capacity(capacity))
        return -HM_EINVAL;
    result = allocate(fd, HM_SPSC_HEADER + capacity);
    return result == 0 ? map_and_format(fd, capacity, ring) : result;
}

/* The header is read before we know that the file is one: `capacity` is what the file's size says.
 */
static int recognise(const struct hm_spsc_shared *shared, uint64_t capacity) {
    /* acquire: pairs with (M) -- the header arrives with the magic. */
    if (atomic_load_explicit(&shared->magic, memory_order_acquire) != MAGIC)
        return -HM_EMAGIC;
    if (shared->version != HM_SPSC_VERSION)
        return -HM_EVERSION;
    if (shared->header != HM_SPSC_HEADER || shared->capacity != capacity || !is_capacity(capacity))
        return -HM_ELENGTH;
    return 0;
}

int hm_spsc_open(int fd, hm_spsc **ring) {
    struct stat status;
    int saved = errno;
    uint64_t capacity;
    void *memory;
    int result;

    if (fd < 0)
        return -HM_EINVAL;
    if (fstat(fd, &status) != 0) {
        errno = saved;
        return -HM_ESYS;
    }
    if (status.st_size < HM_SPSC_HEADER + HM_SPSC_CAPACITY_MIN)
        return -HM_ETRUNC;
    if (status.st_size > (off_t)HM_SPSC_HEADER + HM_SPSC_CAPACITY_MAX)
        return -HM_ELENGTH;
    capacity = (uint64_t)status.st_size - HM_SPSC_HEADER;
    result = map(fd, capacity, &memory);
    if (result != 0)
        return result;
    result = recognise(memory, capacity);
    if (result == 0)
        result = adopt(memory, capacity, ring);
    if (result != 0)
        munmap(memory, HM_SPSC_HEADER + capacity);
    return result;
}

void hm_spsc_free(hm_spsc *ring) {
    int saved = errno;

    if (ring == NULL)
        return;
    munmap(ring->shared, HM_SPSC_HEADER + ring->capacity);
    free(ring);
    errno = saved;
}

uint64_t hm_spsc_capacity(const hm_spsc *ring) {
    return ring->capacity;
}

uint64_t hm_spsc_record_max(const hm_spsc *ring) {
    return ring->record_max;
}

uint8_t *hm_spsc_memory(hm_spsc *ring) {
    return ring->data;
}

int64_t hm_spsc_used(const hm_spsc *ring) {
    /* Head first: it never passes a tail that is loaded after it. */
    uint64_t head = atomic_load_explicit(&ring->shared->head, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&ring->shared->tail, memory_order_relaxed);

    if (tail - head > INT64_MAX)
        return -HM_ELENGTH;
    /* Between the two loads a lap may have passed. */
    return (int64_t)least(tail - head, ring->capacity);
}

/* ---- the producer's ---- */

static inline void write_header(hm_spsc *ring, uint64_t cursor, uint64_t size, uint64_t kind) {
    hm_spsc_write_header(ring->data + (cursor & ring->mask), size | kind << 32);
}

/* Makes `need` bytes at the tail writable, behind padding if the end of the data area is in the
 * way. */
SELDOM static int look_for_room(hm_spsc *ring, uint64_t need) {
    /* acquire: pairs with (B) -- the consumer has read what it released before we overwrite it. */
    uint64_t head = atomic_load_explicit(&ring->shared->head, memory_order_acquire);
    uint64_t to_end = ring->capacity - (ring->tail & ring->mask);
    uint64_t skip = need <= to_end ? 0 : to_end;

    assert(need - HM_SPSC_RECORD <= ring->record_max);
    if (ring->tail - head > ring->capacity || head % 8 != 0)
        return -HM_ELENGTH;
    if (ring->tail + skip + need - head > ring->capacity)
        return -HM_EFULL;
    if (skip != 0)
        write_header(ring, ring->tail, skip - HM_SPSC_RECORD, KIND_PADDING);
    ring->tail += skip;
    ring->writable = least(head + ring->capacity, (ring->tail | ring->mask) + 1);
    return 0;
}

/* Room for a record of `size` bytes at the tail. */
static inline int reserve(hm_spsc *ring, uint64_t size) {
    uint64_t need = HM_SPSC_RECORD + round_up(size);

    if (need <= ring->writable - ring->tail && size <= ring->record_max)
        return 0;
    return size <= ring->record_max ? look_for_room(ring, need) : -HM_EINVAL;
}

/* Completes the record at the tail; publish shows it. */
static inline void finish(hm_spsc *ring, uint64_t size) {
    write_header(ring, ring->tail, size, KIND_RECORD);
    ring->tail += HM_SPSC_RECORD + round_up(size);
    assert(ring->tail <= ring->writable);
}

static inline uint8_t *payload_at(hm_spsc *ring, uint64_t cursor) {
    return ring->data + (cursor & ring->mask) + HM_SPSC_RECORD;
}

int hm_spsc_claim(hm_spsc *ring, uint32_t size, hm_spsc_span *span) {
    int result = reserve(ring, size);

    if (result != 0)
        return result;
    ring->claim = ring->tail;
    ring->claimed = size;
    *span = (hm_spsc_span){(uint32_t)((ring->tail & ring->mask) + HM_SPSC_RECORD), size};
    return 0;
}

int hm_spsc_commit(hm_spsc *ring, uint32_t size) {
    if (ring->claim != ring->tail || size > ring->claimed)
        return -HM_EINVAL;
    finish(ring, size);
    hm_spsc_publish(ring, ring->tail);
    return 0;
}

int hm_spsc_push(hm_spsc *ring, const void *data, uint32_t size) {
    int result = reserve(ring, size);

    if (result != 0)
        return result;
    copy(payload_at(ring, ring->tail), data, size);
    finish(ring, size);
    hm_spsc_publish(ring, ring->tail);
    return 0;
}

int64_t hm_spsc_push_many(hm_spsc *ring, const void *joined, uint64_t joined_size,
                          const uint32_t *lengths, uint64_t count) {
    const uint8_t *from = joined;
    uint64_t done = 0;
    int result = 0;

    for (; done < count; done++) {
        result = lengths[done] > joined_size ? -HM_EINVAL : reserve(ring, lengths[done]);
        if (result != 0)
            break;
        copy(payload_at(ring, ring->tail), from, lengths[done]);
        finish(ring, lengths[done]);
        from += lengths[done];
        joined_size -= lengths[done];
    }
    if (done == 0)
        return result;
    hm_spsc_publish(ring, ring->tail);
    return (int64_t)done;
}

/* ---- the consumer's ---- */

/* Describes the record at `*cursor` and moves the cursor behind it.  The bytes are foreign. */
static inline int next_record(hm_spsc *ring, uint64_t *cursor, uint64_t *readable,
                              hm_spsc_span *span) {
    for (;;) {
        uint64_t start = *cursor;
        uint64_t header, whole;
        int result = start == *readable ? hm_spsc_look_ahead(ring, start, readable) : 0;

        if (result != 0)
            return result;
        header = hm_spsc_read_header(
            ring->data +
            (start & ring->mask)); /* once: a peer may change it between check and use */
        whole = HM_SPSC_RECORD + round_up(header & UINT32_MAX);
        if (whole > *readable - start)
            return -HM_ELENGTH;
        *cursor = start + whole;
        if (header >> 32 == KIND_RECORD) {
            *span =
                (hm_spsc_span){(uint32_t)((start & ring->mask) + HM_SPSC_RECORD), (uint32_t)header};
            return 0;
        }
        if (header >> 32 != KIND_PADDING || (*cursor & ring->mask) != 0)
            return -HM_ELENGTH;
    }
}

int64_t hm_spsc_peek(hm_spsc *ring, hm_spsc_span *spans, uint64_t capacity) {
    uint64_t cursor = ring->head;
    uint64_t readable = ring->readable;
    uint64_t count = 0;
    int result = hm_spsc_load_tail(ring); /* once a call: the line is the producer's */

    ring->peeked = cursor;
    while (result == 0 && count < capacity && cursor != ring->tail_seen) {
        result = next_record(ring, &cursor, &readable, &spans[count]);
        if (result != 0)
            break;
        ring->peeked = cursor;
        ring->peeked_readable = readable;
        count++;
    }
    if (count > 0 || result != 0)
        return count > 0 ? (int64_t)count : result;
    return cursor == ring->tail_seen ? -HM_EEMPTY : 0;
}

void hm_spsc_release(hm_spsc *ring) {
    if ((int64_t)(ring->peeked - ring->head) <= 0)
        return; /* nothing was peeked, or it has been popped since */
    ring->readable = ring->peeked_readable;
    hm_spsc_give_back(ring, ring->peeked);
}

int hm_spsc_pop(hm_spsc *ring, void *out, uint64_t capacity, uint32_t *size) {
    uint64_t cursor = ring->head;
    uint64_t readable = ring->readable;
    hm_spsc_span span;
    int result = next_record(ring, &cursor, &readable, &span);

    if (result != 0)
        return result;
    *size = span.size;
    if (span.size > capacity)
        return -HM_ETRUNC;
    copy(out, ring->data + span.offset, span.size);
    ring->readable = readable;
    hm_spsc_give_back(ring, cursor);
    return 0;
}

int64_t hm_spsc_pop_many(hm_spsc *ring, void *out, uint64_t capacity, uint32_t *lengths,
                         uint64_t count) {
    uint8_t *to = out;
    uint64_t head = ring->head;
    uint64_t readable = ring->readable;
    uint64_t done = 0;
    int result = hm_spsc_load_tail(ring);

    while (result == 0 && done < count && head != ring->tail_seen) {
        uint64_t cursor = head;
        hm_spsc_span span;

        result = next_record(ring, &cursor, &readable, &span);
        if (result != 0)
            break;
        lengths[done] = span.size;
        if (span.size > capacity) {
            result = -HM_ETRUNC;
            break;
        }
        copy(to, ring->data + span.offset, span.size);
        to += span.size;
        capacity -= span.size;
        head = cursor;
        done++;
    }
    if (done > 0) {
        /* Of a record that was refused, `readable` may be a lap on: look again from head. */
        ring->readable = result == 0 ? readable : head;
        hm_spsc_give_back(ring, head);
        return (int64_t)done;
    }
    if (result != 0)
        return result;
    return head == ring->tail_seen ? -HM_EEMPTY : 0;
}
