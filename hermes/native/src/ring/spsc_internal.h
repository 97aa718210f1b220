/* spsc_internal.h -- the shortest way through hm_spsc.h: records of one word, without a call.
 *
 * A pointer or an index handed to another thread costs less than a function call.  These two do
 * what hm_spsc_push and hm_spsc_pop do with 8 bytes, and may be mixed with every other call; they
 * go the long way by themselves where the ring wraps or has to look for room.
 *
 * The layout below is private to the core: C that is built apart from it uses the functions of
 * hm_spsc.h.
 */
#ifndef HM_SPSC_WORD_H
#define HM_SPSC_WORD_H

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

#include "hm_spsc.h"

#define HM_SPSC_LINES  128 /* bytes: two cache lines, which the hardware prefetches in pairs */
#define HM_SPSC_RECORD 8   /* bytes before a record's payload */
#define HM_SPSC_WORD   8   /* bytes */

/* The tests weaken one release at a time, to prove that ThreadSanitizer would notice. */
#ifdef HM_WEAKEN_SPSC_TAIL
#define HM_SPSC_RELEASE_TAIL memory_order_relaxed
#else
#define HM_SPSC_RELEASE_TAIL memory_order_release
#endif
#ifdef HM_WEAKEN_SPSC_HEAD
#define HM_SPSC_RELEASE_HEAD memory_order_relaxed
#else
#define HM_SPSC_RELEASE_HEAD memory_order_release
#endif

/* What both sides see: foreign to each. */
struct hm_spsc_shared {
    _Atomic uint64_t magic;
    uint32_t version;
    uint32_t header;
    uint64_t capacity;
    _Alignas(HM_SPSC_LINES) _Atomic uint64_t tail; /* the producer's, stored on every commit */
    _Alignas(HM_SPSC_LINES) _Atomic uint64_t head; /* the consumer's, stored on every release */
};
_Static_assert(offsetof(struct hm_spsc_shared, version) == 8, "layout");
_Static_assert(offsetof(struct hm_spsc_shared, header) == 12, "layout");
_Static_assert(offsetof(struct hm_spsc_shared, capacity) == 16, "layout");
_Static_assert(offsetof(struct hm_spsc_shared, tail) == 128, "the producer owns its lines");
_Static_assert(offsetof(struct hm_spsc_shared, head) == 256, "the consumer owns its lines");
_Static_assert(sizeof(struct hm_spsc_shared) <= HM_SPSC_HEADER, "the data area follows");

struct hm_spsc {
    /* Constant after construction. */
    struct hm_spsc_shared *shared;
    uint8_t *data;
    uint64_t capacity;
    uint64_t mask;
    uint64_t record_max;
    /* The producer's.  `tail` is where the next record goes; shared->tail catches up on commit. */
    _Alignas(HM_SPSC_LINES) uint64_t tail;
    uint64_t writable; /* room from tail up to here is free, and contiguous */
    uint64_t claim;    /* the tail at the last claim, which stands while the tail is there */
    uint64_t claimed;  /* bytes of it */
    /* The consumer's.  `head` is the oldest record, and what shared->head holds. */
    _Alignas(HM_SPSC_LINES) uint64_t head;
    uint64_t readable;  /* records from head up to here are published, and contiguous */
    uint64_t tail_seen; /* last tail the consumer loaded; tail_seen - head <= capacity */
    uint64_t peeked;    /* head and readable as of behind what the last peek described */
    uint64_t peeked_readable;
};
_Static_assert(offsetof(struct hm_spsc, tail) == HM_SPSC_LINES, "the producer owns its lines");
_Static_assert(offsetof(struct hm_spsc, head) == 2 * HM_SPSC_LINES, "the consumer owns its lines");

static inline void hm_spsc_publish(hm_spsc *ring, uint64_t tail) {
    /* release (A): the records' bytes are visible before the cursor that publishes them. */
    atomic_store_explicit(&ring->shared->tail, tail, HM_SPSC_RELEASE_TAIL);
}

static inline void hm_spsc_give_back(hm_spsc *ring, uint64_t head) {
    assert(head - ring->head <= ring->capacity);
    ring->head = head;
    /* release (B): our reads of the records are done before the cursor that gives them back. */
    atomic_store_explicit(&ring->shared->head, head, HM_SPSC_RELEASE_HEAD);
}

/* `header`: size, and kind in the upper half.  Atomic because a consumer gone wrong may be reading
 * here; (A) is what orders it. */
static inline void hm_spsc_write_header(uint8_t *at, uint64_t header) {
    atomic_store_explicit((_Atomic uint64_t *)(void *)at, header, memory_order_relaxed);
}

/* Read it once: a peer may change it between check and use. */
static inline uint64_t hm_spsc_read_header(const uint8_t *at) {
    return atomic_load_explicit((const _Atomic uint64_t *)(const void *)at, memory_order_relaxed);
}

static inline int hm_spsc_load_tail(hm_spsc *ring) {
    /* acquire: pairs with (A) -- the records' bytes arrive with the cursor. */
    uint64_t tail = atomic_load_explicit(&ring->shared->tail, memory_order_acquire);

    if (tail - ring->head > ring->capacity || tail - ring->tail_seen > ring->capacity ||
        tail % 8 != 0)
        return -HM_ELENGTH;
    ring->tail_seen = tail;
    return 0;
}

/* Moves `*readable` on from `cursor`, which has reached it. */
static inline int hm_spsc_look_ahead(hm_spsc *ring, uint64_t cursor, uint64_t *readable) {
    uint64_t end = (cursor | ring->mask) + 1;
    int result = cursor == ring->tail_seen ? hm_spsc_load_tail(ring) : 0;

    if (result != 0)
        return result;
    *readable = ring->tail_seen < end ? ring->tail_seen : end;
    assert(*readable - cursor <= ring->capacity);
    return *readable == cursor ? -HM_EEMPTY : 0;
}

/* As hm_spsc_push of the 8 bytes of `word`. */
static inline int hm_spsc_push_word(hm_spsc *ring, uint64_t word) {
    uint64_t tail = ring->tail;
    uint8_t *at = ring->data + (tail & ring->mask);

    if (ring->writable - tail < HM_SPSC_RECORD + HM_SPSC_WORD)
        return hm_spsc_push(ring, &word, sizeof word);
    memcpy(at + HM_SPSC_RECORD, &word, sizeof word);
    hm_spsc_write_header(at, HM_SPSC_WORD);
    ring->tail = tail + HM_SPSC_RECORD + HM_SPSC_WORD;
    hm_spsc_publish(ring, tail + HM_SPSC_RECORD + HM_SPSC_WORD);
    return 0;
}

/* As hm_spsc_pop into 8 bytes.  -HM_ETRUNC: the oldest record has more, and stays; if it has fewer,
 * the upper bytes of
 * `*word` are 0.  What follows does not wait for the record's size to come back from memory. */
static inline int hm_spsc_pop_word(hm_spsc *ring, uint64_t *word) {
    uint64_t head = ring->head;
    int result = head == ring->readable ? hm_spsc_look_ahead(ring, head, &ring->readable) : 0;
    const uint8_t *at = ring->data + (head & ring->mask);
    uint32_t size;

    if (result != 0)
        return result;
    if (hm_spsc_read_header(at) != HM_SPSC_WORD ||
        ring->readable - head < HM_SPSC_RECORD + HM_SPSC_WORD) {
        *word = 0;
        return hm_spsc_pop(ring, word, sizeof *word, &size);
    }
    memcpy(word, at + HM_SPSC_RECORD, sizeof *word);
    hm_spsc_give_back(ring, head + HM_SPSC_RECORD + HM_SPSC_WORD);
    return 0;
}

#endif
