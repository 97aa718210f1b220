/* hm_mpmc.c -- the bounded queue of records for many producers and consumers. */
#include "hm_mpmc.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_LINE 64
#define LINE_PAIR  128 /* the hardware prefetches cache lines in pairs */

/* The tests weaken one release at a time, to prove that ThreadSanitizer would notice. */
#ifdef HM_WEAKEN_MPMC_PUSH
#define RELEASE_FULL memory_order_relaxed
#else
#define RELEASE_FULL memory_order_release
#endif
#ifdef HM_WEAKEN_MPMC_POP
#define RELEASE_FREE memory_order_relaxed
#else
#define RELEASE_FREE memory_order_release
#endif

struct slot {
    _Atomic uint64_t sequence; /* whose turn it is: see the header */
    uint32_t size;             /* bytes of data */
    uint32_t reserved;
    uint8_t data[];
};
_Static_assert(sizeof(struct slot) == 16, "data is 8-byte aligned");

struct hm_mpmc {
    /* Constant after construction. */
    uint8_t *slots;
    uint64_t capacity;
    uint64_t stride; /* bytes from slot to slot: whole cache lines, so that neighbours do not share
                        one */
    uint32_t record_max;
    /* The next position to be won by a producer ... */
    _Alignas(LINE_PAIR) _Atomic uint64_t pushed;
    /* ... and by a consumer. */
    _Alignas(LINE_PAIR) _Atomic uint64_t popped;
};
_Static_assert(offsetof(struct hm_mpmc, pushed) == LINE_PAIR, "producers own their lines");
_Static_assert(offsetof(struct hm_mpmc, popped) == 2 * LINE_PAIR, "consumers own their lines");

static inline struct slot *slot_at(const hm_mpmc *ring, uint64_t position) {
    return (struct slot *)(void *)(ring->slots + (position & (ring->capacity - 1)) * ring->stride);
}

int hm_mpmc_new(uint64_t capacity, uint32_t record_max, hm_mpmc **ring) {
    uint64_t stride =
        (sizeof(struct slot) + (uint64_t)record_max + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    hm_mpmc *made;

    if (capacity < HM_MPMC_SLOTS_MIN || capacity > HM_MPMC_SLOTS_MAX || (capacity & (capacity - 1)))
        return -HM_EINVAL;
    if (record_max > HM_MPMC_RECORD_MAX || capacity * stride > HM_MPMC_MEMORY_MAX)
        return -HM_EINVAL;
    made = aligned_alloc(LINE_PAIR, sizeof *made);
    if (made == NULL)
        return -HM_ENOMEM;
    memset(made, 0, sizeof *made);
    made->slots = aligned_alloc(CACHE_LINE, capacity * stride);
    if (made->slots == NULL) {
        free(made);
        return -HM_ENOMEM;
    }
    made->capacity = capacity;
    made->stride = stride;
    made->record_max = record_max;
    for (uint64_t i = 0; i < capacity; i++)
        atomic_init(&slot_at(made, i)->sequence, i);
    *ring = made;
    return 0;
}

void hm_mpmc_free(hm_mpmc *ring) {
    if (ring == NULL)
        return;
    free(ring->slots);
    free(ring);
}

uint64_t hm_mpmc_used(const hm_mpmc *ring) {
    /* The consumers' first: it never passes a producers' count that is loaded after it. */
    uint64_t popped = atomic_load_explicit(&ring->popped, memory_order_relaxed);
    uint64_t pushed = atomic_load_explicit(&ring->pushed, memory_order_relaxed);
    uint64_t used = pushed > popped ? pushed - popped : 0;

    return used < ring->capacity ? used : ring->capacity;
}

/* Wins the next position of `counter` whose slot has sequence `position + turn`.  Returns 0 when
 * that slot still waits for the other side: full for a producer, empty for a consumer. */
static inline struct slot *win(hm_mpmc *ring, _Atomic uint64_t *counter, uint64_t turn,
                               uint64_t *position) {
    /* Relaxed: the counter only hands out positions; the slot's sequence carries the bytes. */
    uint64_t at = atomic_load_explicit(counter, memory_order_relaxed);

    for (;;) {
        struct slot *slot = slot_at(ring, at);
        /* acquire: a producer's pairs with (D) -- the last reader is done; a consumer's with (C) --
         * the bytes arrive with the sequence. */
        uint64_t sequence = atomic_load_explicit(&slot->sequence, memory_order_acquire);
        int64_t ahead = (int64_t)(sequence - (at + turn));

        if (ahead == 0) {
            if (atomic_compare_exchange_weak_explicit(counter, &at, at + 1, memory_order_relaxed,
                                                      memory_order_relaxed)) {
                *position = at;
                return slot;
            }
        } else if (ahead < 0) {
            return NULL;
        } else {
            at = atomic_load_explicit(counter, memory_order_relaxed); /* another was faster */
        }
    }
}

int hm_mpmc_push(hm_mpmc *ring, const void *data, uint32_t size) {
    uint64_t position;
    struct slot *slot;

    if (size > ring->record_max)
        return -HM_EINVAL;
    slot = win(ring, &ring->pushed, 0, &position);
    if (slot == NULL)
        return -HM_EFULL;
    slot->size = size;
    if (size > 0)
        memcpy(slot->data, data, size);
    /* release (C): the bytes are visible before the sequence that hands the slot to a consumer. */
    atomic_store_explicit(&slot->sequence, position + 1, RELEASE_FULL);
    return 0;
}

int64_t hm_mpmc_push_many(hm_mpmc *ring, const void *joined, uint64_t joined_size,
                          const uint32_t *lengths, uint64_t count) {
    const uint8_t *from = joined;
    uint64_t total = 0;
    uint64_t done = 0;

    for (uint64_t i = 0; i < count; i++) {
        total += lengths[i];
        if (lengths[i] > ring->record_max || total > joined_size)
            return -HM_EINVAL;
    }
    while (done < count && hm_mpmc_push(ring, from, lengths[done]) == 0)
        from += lengths[done++];
    return done > 0 || count == 0 ? (int64_t)done : -HM_EFULL;
}

int hm_mpmc_pop(hm_mpmc *ring, void *out, uint32_t *size) {
    uint64_t position;
    struct slot *slot = win(ring, &ring->popped, 1, &position);

    if (slot == NULL)
        return -HM_EEMPTY;
    assert(slot->size <= ring->record_max);
    *size = slot->size;
    if (slot->size > 0)
        memcpy(out, slot->data, slot->size);
    /* release (D): our reads are done before the sequence that hands the slot to a producer. */
    atomic_store_explicit(&slot->sequence, position + ring->capacity, RELEASE_FREE);
    return 0;
}

int64_t hm_mpmc_pop_many(hm_mpmc *ring, void *out, uint64_t capacity, uint32_t *lengths,
                         uint64_t count) {
    uint8_t *to = out;
    uint64_t done = 0;

    if (capacity < ring->record_max)
        return -HM_EINVAL;
    while (done < count && capacity >= ring->record_max &&
           hm_mpmc_pop(ring, to, &lengths[done]) == 0) {
        to += lengths[done];
        capacity -= lengths[done];
        done++;
    }
    return done > 0 || count == 0 ? (int64_t)done : -HM_EEMPTY;
}
