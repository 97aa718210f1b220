/* hm_slots.c -- a ring of slots in memory that two processes share. */
#include "hm_slots.h"

#include <assert.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "hm_error.h"

#define TRIES 1024 /* spins between two looks at the clock, after which others may run */

/* The tests weaken one release at a time, to prove that ThreadSanitizer would notice. */
#ifdef HM_WEAKEN_SLOTS_PUT
#define RELEASE_TAIL memory_order_relaxed
#else
#define RELEASE_TAIL memory_order_release
#endif
#ifdef HM_WEAKEN_SLOTS_TAKE
#define RELEASE_HEAD memory_order_relaxed
#else
#define RELEASE_HEAD memory_order_release
#endif

struct shared {
    _Alignas(128) uint8_t unused[128];
    _Alignas(128) _Atomic uint64_t tail;
    _Alignas(128) _Atomic uint64_t head;
};
_Static_assert(offsetof(struct shared, tail) == 128, "layout");
_Static_assert(offsetof(struct shared, head) == 256, "layout");

static uint64_t slot_bytes(uint32_t size) {
    return ((uint64_t)size + 63) & ~(uint64_t)63;
}

static uint8_t *slot(void *ring, uint32_t size, uint64_t number) {
    return (uint8_t *)ring + HM_SLOTS_HEADER + (number & (HM_SLOTS - 1)) * slot_bytes(size);
}

uint64_t hm_slots_bytes(uint32_t size) {
    return HM_SLOTS_HEADER + HM_SLOTS * slot_bytes(size);
}

/* Waits until `*cursor` has reached `goal`.  0, or -HM_ETIMEDOUT. */
static int await_cursor(const _Atomic uint64_t *cursor, uint64_t goal, int64_t idle_ns) {
    uint64_t since = 0;
    uint32_t tries = 0;

    /* acquire: pairs with (A) for the consumer, with (B) for the producer. */
    while (atomic_load_explicit(cursor, memory_order_acquire) < goal) {
        if (++tries % TRIES != 0) {
            hm_pace_relax();
            continue;
        }
        since = since == 0 ? hm_pace_now() : since;
        if (hm_pace_now() - since > (uint64_t)idle_ns)
            return -HM_ETIMEDOUT;
        sched_yield();
    }
    return 0;
}

/* Copies one message in.  0, or -HM_ETIMEDOUT: the ring stayed full. */
static int put(void *ring, const void *data, uint32_t size, int64_t idle_ns) {
    struct shared *shared = ring;
    uint64_t tail = atomic_load_explicit(&shared->tail, memory_order_relaxed);
    int result = tail < HM_SLOTS ? 0 : await_cursor(&shared->head, tail + 1 - HM_SLOTS, idle_ns);

    if (result == 0) {
        memcpy(slot(ring, size, tail), data, size);
        /* release (A): the message is visible before the count. */
        atomic_store_explicit(&shared->tail, tail + 1, RELEASE_TAIL);
    }
    return result;
}

/* Copies the oldest message out.  0, or -HM_ETIMEDOUT: the ring stayed empty. */
static int take(void *ring, void *data, uint32_t size, int64_t idle_ns) {
    struct shared *shared = ring;
    uint64_t head = atomic_load_explicit(&shared->head, memory_order_relaxed);
    int result = await_cursor(&shared->tail, head + 1, idle_ns);

    if (result == 0) {
        memcpy(data, slot(ring, size, head), size);
        /* release (B): we have read the slot before it is free. */
        atomic_store_explicit(&shared->head, head + 1, RELEASE_HEAD);
    }
    return result;
}

int hm_slots_load(void *const *rings, uint32_t ring_count, uint32_t size, uint64_t count,
                  int64_t idle_ns, uint64_t *start_ns) {
    uint8_t *message = calloc(1, size);
    int result = message == NULL ? -HM_ENOMEM : 0;

    assert(ring_count >= 1);
    *start_ns = hm_pace_now();
    for (uint64_t i = 0; result == 0 && i < count; i++)
        for (uint32_t ring = 0; result == 0 && ring < ring_count; ring++)
            result = put(rings[ring], message, size, idle_ns);
    free(message);
    return result;
}

int hm_slots_drain(void *ring, uint32_t size, uint64_t count, int64_t idle_ns, hm_tally *tally) {
    uint8_t *message = malloc(size);
    int result = message == NULL ? -HM_ENOMEM : 0;

    assert(tally->delivered == 0);
    for (uint64_t i = 0; result == 0 && i < count; i++) {
        result = take(ring, message, size, idle_ns);
        if (result == 0) /* the clock is read once in a while: it costs more than a message */
            hm_tally_add(tally, 1, i % 64 == 0 || i + 64 >= count ? hm_pace_now() : tally->last_ns);
    }
    free(message);
    return result == -HM_ETIMEDOUT ? 0 : result;
}

int hm_slots_pace(void *ring, uint32_t size, uint64_t count, const hm_schedule *schedule,
                  int64_t idle_ns, uint64_t *late_ns) {
    uint8_t *message = calloc(1, size);
    int result = message == NULL ? -HM_ENOMEM : 0;

    assert(size >= sizeof(uint64_t));
    *late_ns = 0;
    for (uint64_t i = 0; result == 0 && i < count; i++) {
        uint64_t due = hm_pace_due(schedule, i), now;

        hm_pace_until(due);
        now = hm_pace_now();
        *late_ns = now - due > *late_ns ? now - due : *late_ns;
        memcpy(message, &due, sizeof due);
        result = put(ring, message, size, idle_ns);
    }
    free(message);
    return result;
}

int hm_slots_hear(void *ring, uint32_t size, uint64_t count, int64_t idle_ns, int64_t *latencies,
                  hm_tally *tally) {
    uint8_t *message = malloc(size);
    int result = message == NULL ? -HM_ENOMEM : 0;

    assert(size >= sizeof(uint64_t));
    for (uint64_t i = 0; result == 0 && i < count; i++) {
        uint64_t due, now;

        result = take(ring, message, size, idle_ns);
        if (result < 0)
            break;
        now = hm_pace_now();
        memcpy(&due, message, sizeof due);
        latencies[i] = (int64_t)(now - due);
        hm_tally_add(tally, 1, now);
    }
    free(message);
    return result == -HM_ETIMEDOUT ? 0 : result;
}

int hm_slots_pingpong(void *there, void *back, uint32_t size, uint64_t count, int64_t idle_ns,
                      int64_t *latencies, hm_tally *tally) {
    uint8_t *message = calloc(1, size);
    int result = message == NULL ? -HM_ENOMEM : 0;

    assert(there != back);
    for (uint64_t i = 0; result == 0 && i < count; i++) {
        uint64_t start = hm_pace_now(), now;

        result = put(there, message, size, idle_ns);
        if (result == 0)
            result = take(back, message, size, idle_ns);
        if (result < 0)
            break;
        now = hm_pace_now();
        latencies[i] = (int64_t)(now - start);
        hm_tally_add(tally, 1, now);
    }
    free(message);
    return result == -HM_ETIMEDOUT ? 0 : result;
}

int hm_slots_answer(void *there, void *back, uint32_t size, uint64_t count, int64_t idle_ns) {
    uint8_t *message = malloc(size);
    int result = message == NULL ? -HM_ENOMEM : 0;

    assert(there != back);
    for (uint64_t i = 0; result == 0 && i < count; i++) {
        result = take(there, message, size, idle_ns);
        if (result == 0)
            result = put(back, message, size, idle_ns);
    }
    free(message);
    return result == -HM_ETIMEDOUT ? 0 : result;
}
