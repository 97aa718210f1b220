#include "hm_spsc.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* Two cache lines: the hardware prefetches them in pairs. */
#define LINE_PAIR 128

#define MAGIC         UINT64_C(0x43535053534d5248) /* "HRMSSPSC" */
#define RECORD_HEADER 8                            /* bytes */
#define KIND_RECORD   0
#define KIND_PADDING  1
#define UNCLAIMED     UINT64_MAX

/* Out of line, so that the common case stays small. */
#define SELDOM __attribute__((noinline, cold))

/* The tests weaken one release at a time, to prove that ThreadSanitizer would notice. */
#ifdef HM_WEAKEN_SPSC_TAIL
#define RELEASE_TAIL memory_order_relaxed
#else
#define RELEASE_TAIL memory_order_release
#endif
#ifdef HM_WEAKEN_SPSC_HEAD
#define RELEASE_HEAD memory_order_relaxed
#else
#define RELEASE_HEAD memory_order_release
#endif

/* What both sides see: foreign to each. */
struct shared {
    _Atomic uint64_t magic;
    uint32_t version;
    uint32_t header;
    uint64_t capacity;
    _Alignas(LINE_PAIR) _Atomic uint64_t tail; /* the producer's, stored on every commit */
    _Alignas(LINE_PAIR) _Atomic uint64_t head; /* the consumer's, stored on every release */
};
_Static_assert(offsetof(struct shared, version) == 8, "layout");
_Static_assert(offsetof(struct shared, header) == 12, "layout");
_Static_assert(offsetof(struct shared, capacity) == 16, "layout");
_Static_assert(offsetof(struct shared, tail) == 128, "layout; the producer owns its lines");
_Static_assert(offsetof(struct shared, head) == 256, "layout; the consumer owns its lines");
_Static_assert(sizeof(struct shared) <= HM_SPSC_HEADER, "the data area follows");

struct hm_spsc {
    /* Constant after construction. */
    struct shared *shared;
    uint8_t *data;
    uint64_t capacity;
    uint64_t mask;
    uint64_t record_max;
    /* The producer's. */
    _Alignas(LINE_PAIR)
        uint64_t tail; /* where the next record goes; shared->tail catches up on commit */
    uint64_t writable; /* room from tail up to here is free, and contiguous */
    uint64_t claimed;  /* bytes claimed, or UNCLAIMED */
    /* The consumer's. */
    _Alignas(LINE_PAIR) uint64_t head; /* the oldest record; what shared->head holds */
    uint64_t readable;  /* records from head up to here are published, and contiguous */
    uint64_t tail_seen; /* last tail the consumer loaded; tail_seen - head <= capacity */
    uint64_t peeked;    /* head and readable as of behind what the last peek described */
    uint64_t peeked_readable;
};
_Static_assert(offsetof(struct hm_spsc, tail) == LINE_PAIR, "the producer owns its lines");
_Static_assert(offsetof(struct hm_spsc, head) == 2 * LINE_PAIR, "the consumer owns its lines");

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
static int adopt(struct shared *shared, uint64_t capacity, hm_spsc **ring) {
    uint64_t tail = atomic_load_explicit(&shared->tail, memory_order_relaxed);
    /* acquire: pairs with (B), as in look_for_room.  Behind the tail's load: it never passes that
     * tail. */
    uint64_t head = atomic_load_explicit(&shared->head, memory_order_acquire);
    hm_spsc *made;

    assert(is_capacity(capacity));
    if (tail - head > capacity || tail % 8 != 0 || head % 8 != 0)
        return -HM_ELENGTH;
    made = aligned_alloc(LINE_PAIR, sizeof *made);
    if (made == NULL)
        return -HM_ENOMEM;
    *made = (hm_spsc){
        .shared = shared,
        .data = (uint8_t *)shared + HM_SPSC_HEADER,
        .capacity = capacity,
        .mask = capacity - 1,
        .record_max = capacity / 2 - RECORD_HEADER,
        .tail = tail,
        .writable = tail, /* the first claim looks for room, ... */
        .claimed = UNCLAIMED,
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
    struct shared *shared = memory;

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
    error = posix_fallocate(fd, 0, (off_t)size);
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
static int recognise(const struct shared *shared, uint64_t capacity) {
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
    uint8_t *at = ring->data + (cursor & ring->mask);

    /* Atomic because a consumer gone wrong may be reading here; (A) is what orders it. */
    atomic_store_explicit((_Atomic uint64_t *)(void *)at, size | kind << 32, memory_order_relaxed);
}

/* Makes `need` bytes at the tail writable, behind padding if the end of the data area is in the
 * way. */
SELDOM static int look_for_room(hm_spsc *ring, uint64_t need) {
    /* acquire: pairs with (B) -- the consumer has read what it released before we overwrite it. */
    uint64_t head = atomic_load_explicit(&ring->shared->head, memory_order_acquire);
    uint64_t to_end = ring->capacity - (ring->tail & ring->mask);
    uint64_t skip = need <= to_end ? 0 : to_end;

    assert(need - RECORD_HEADER <= ring->record_max);
    if (ring->tail - head > ring->capacity || head % 8 != 0)
        return -HM_ELENGTH;
    if (ring->tail + skip + need - head > ring->capacity)
        return -HM_EFULL;
    if (skip != 0)
        write_header(ring, ring->tail, skip - RECORD_HEADER, KIND_PADDING);
    ring->tail += skip;
    ring->writable = least(head + ring->capacity, (ring->tail | ring->mask) + 1);
    return 0;
}

/* Room for a record of `size` bytes at the tail. */
static inline int reserve(hm_spsc *ring, uint64_t size) {
    uint64_t need = RECORD_HEADER + round_up(size);

    if (need <= ring->writable - ring->tail && size <= ring->record_max)
        return 0;
    return size <= ring->record_max ? look_for_room(ring, need) : -HM_EINVAL;
}

/* Completes the record at the tail; publish shows it. */
static inline void finish(hm_spsc *ring, uint64_t size) {
    write_header(ring, ring->tail, size, KIND_RECORD);
    ring->tail += RECORD_HEADER + round_up(size);
    assert(ring->tail <= ring->writable);
}

static inline void publish(hm_spsc *ring) {
    ring->claimed = UNCLAIMED;
    /* release (A): the records' bytes are visible before the cursor that publishes them. */
    atomic_store_explicit(&ring->shared->tail, ring->tail, RELEASE_TAIL);
}

static inline uint8_t *payload_at(hm_spsc *ring, uint64_t cursor) {
    return ring->data + (cursor & ring->mask) + RECORD_HEADER;
}

int hm_spsc_claim(hm_spsc *ring, uint32_t size, hm_spsc_span *span) {
    int result = reserve(ring, size);

    if (result != 0)
        return result;
    ring->claimed = size;
    *span = (hm_spsc_span){(uint32_t)((ring->tail & ring->mask) + RECORD_HEADER), size};
    return 0;
}

int hm_spsc_commit(hm_spsc *ring, uint32_t size) {
    if (ring->claimed == UNCLAIMED || size > ring->claimed)
        return -HM_EINVAL;
    finish(ring, size);
    publish(ring);
    return 0;
}

/* A record of one word, which most are that hand over a pointer or an index, takes no general path:
 * what follows does not wait for its length to come back from memory. */
#define WORD       8
#define WORD_WHOLE (RECORD_HEADER + WORD)

static int push_any(hm_spsc *ring, const void *data, uint32_t size) {
    int result = reserve(ring, size);

    if (result != 0)
        return result;
    copy(payload_at(ring, ring->tail), data, size);
    finish(ring, size);
    publish(ring);
    return 0;
}

int hm_spsc_push(hm_spsc *ring, const void *data, uint32_t size) {
    if (size != WORD || ring->writable - ring->tail < WORD_WHOLE)
        return push_any(ring, data, size);
    memcpy(payload_at(ring, ring->tail), data, WORD);
    finish(ring, WORD);
    publish(ring);
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
    publish(ring);
    return (int64_t)done;
}

/* ---- the consumer's ---- */

static inline int load_tail(hm_spsc *ring) {
    /* acquire: pairs with (A) -- the records' bytes arrive with the cursor. */
    uint64_t tail = atomic_load_explicit(&ring->shared->tail, memory_order_acquire);

    if (tail - ring->head > ring->capacity || tail - ring->tail_seen > ring->capacity ||
        tail % 8 != 0)
        return -HM_ELENGTH;
    ring->tail_seen = tail;
    return 0;
}

/* Moves `*readable` on from `cursor`, which has reached it. */
static inline int look_for_records(hm_spsc *ring, uint64_t cursor, uint64_t *readable) {
    int result = cursor == ring->tail_seen ? load_tail(ring) : 0;

    if (result != 0)
        return result;
    *readable = least(ring->tail_seen, (cursor | ring->mask) + 1);
    assert(*readable - cursor <= ring->capacity);
    return *readable == cursor ? -HM_EEMPTY : 0;
}

static inline uint64_t read_header(const hm_spsc *ring, uint64_t cursor) {
    const uint8_t *at = ring->data + (cursor & ring->mask);

    return atomic_load_explicit((const _Atomic uint64_t *)(const void *)at, memory_order_relaxed);
}

/* Describes the record at `*cursor` and moves the cursor behind it.  The bytes are foreign. */
static inline int next_record(hm_spsc *ring, uint64_t *cursor, uint64_t *readable,
                              hm_spsc_span *span) {
    for (;;) {
        uint64_t start = *cursor;
        uint64_t header, whole;
        int result = start == *readable ? look_for_records(ring, start, readable) : 0;

        if (result != 0)
            return result;
        header = read_header(ring, start); /* once: a peer may change it between check and use */
        whole = RECORD_HEADER + round_up(header & UINT32_MAX);
        if (whole > *readable - start)
            return -HM_ELENGTH;
        *cursor = start + whole;
        if (header >> 32 == KIND_RECORD) {
            *span =
                (hm_spsc_span){(uint32_t)((start & ring->mask) + RECORD_HEADER), (uint32_t)header};
            return 0;
        }
        if (header >> 32 != KIND_PADDING || (*cursor & ring->mask) != 0)
            return -HM_ELENGTH;
    }
}

static inline void give_back(hm_spsc *ring, uint64_t head, uint64_t readable) {
    assert(head - ring->head <= ring->capacity);
    ring->head = ring->peeked = head;
    ring->readable = readable;
    /* release (B): our reads of the records are done before the cursor that gives them back. */
    atomic_store_explicit(&ring->shared->head, head, RELEASE_HEAD);
}

int64_t hm_spsc_peek(hm_spsc *ring, hm_spsc_span *spans, uint64_t capacity) {
    uint64_t cursor = ring->head;
    uint64_t readable = ring->readable;
    uint64_t count = 0;
    int result = load_tail(ring); /* once a call: the line is the producer's */

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
    if (ring->peeked != ring->head)
        give_back(ring, ring->peeked, ring->peeked_readable);
}

static int pop_any(hm_spsc *ring, void *out, uint64_t capacity, uint32_t *size) {
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
    give_back(ring, cursor, readable);
    return 0;
}

int hm_spsc_pop(hm_spsc *ring, void *out, uint64_t capacity, uint32_t *size) {
    uint64_t head = ring->head;
    int result = head == ring->readable ? look_for_records(ring, head, &ring->readable) : 0;

    if (result != 0)
        return result;
    if (read_header(ring, head) != WORD || ring->readable - head < WORD_WHOLE || capacity < WORD)
        return pop_any(ring, out, capacity, size);
    memcpy(out, payload_at(ring, head), WORD);
    *size = WORD;
    give_back(ring, head + WORD_WHOLE, ring->readable);
    return 0;
}

int64_t hm_spsc_pop_many(hm_spsc *ring, void *out, uint64_t capacity, uint32_t *lengths,
                         uint64_t count) {
    uint8_t *to = out;
    uint64_t head = ring->head;
    uint64_t readable = ring->readable;
    uint64_t done = 0;
    int result = load_tail(ring);

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
        give_back(ring, head, result == 0 ? readable : head);
        return (int64_t)done;
    }
    if (result != 0)
        return result;
    return head == ring->tail_seen ? -HM_EEMPTY : 0;
}
