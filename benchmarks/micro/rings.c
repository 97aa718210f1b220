/* rings.c -- what does it cost to hand 8 bytes to another thread through each ring?
 *
 * Control: `empty`, the same loop around a call that does nothing, and `core-to-core`, one cache
 * line bounced between two cores with nothing around it: what the hardware (here often a
 * hypervisor) takes for the hand-over itself. One thread: push and pop in turn, everything in the
 * nearest cache.  Two threads: each pinned to a core of its own.
 *
 *     rings [--json]
 */
#include "hm_mpmc.h"
#include "hm_spsc.h"
#include "../../hermes/native/src/ring/spsc_internal.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS       7         /* medians of this many */
#define SINGLE       10000000u /* operations of one round, one thread */
#define PAIR         10000000u /* records of one round, two threads */
#define BOUNCES      200000u   /* round trips of one round */
#define BATCH        256       /* records published or released at once */
#define RING_BYTES   65536     /* fits the L1 cache twice over */
#define RING_SLOTS   1024
#define SPINS_BEFORE 1000 /* then yield: on a busy machine the other side may not be running */

static uint64_t now_ns(void) {
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void pin(unsigned core) {
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(core % (unsigned)sysconf(_SC_NPROCESSORS_ONLN), &set);
    sched_setaffinity(0, sizeof set, &set); /* best effort: a container may forbid it */
}

static inline void relax(unsigned *spins) {
    if (++*spins < SPINS_BEFORE) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    } else {
        *spins = 0;
        sched_yield();
    }
}

/* ---- one thread ---- */

__attribute__((noinline)) static int nothing(const void *data, uint32_t size) {
    __asm__ volatile("" : : "r"(data), "r"(size) : "memory");
    return 0;
}

static double empty(void) {
    uint64_t value = 0;
    uint64_t start = now_ns();

    for (uint32_t i = 0; i < SINGLE; i++) {
        nothing(&value, sizeof value);
        nothing(&value, sizeof value);
    }
    return (double)(now_ns() - start) / SINGLE;
}

static double spsc_single(void) {
    hm_spsc *ring;
    uint64_t value = 0;
    uint32_t size;
    uint64_t start;
    int made = hm_spsc_new(RING_BYTES, &ring);

    assert(made == 0);
    start = now_ns();
    for (uint64_t i = 0; i < SINGLE; i++) {
        hm_spsc_push(ring, &i, sizeof i);
        hm_spsc_pop(ring, &value, sizeof value, &size);
    }
    start = now_ns() - start;
    assert(value == SINGLE - 1);
    hm_spsc_free(ring);
    return (double)start / SINGLE;
}

static double spsc_single_word(void) {
    hm_spsc *ring;
    uint64_t value = 0;
    uint64_t start;
    int made = hm_spsc_new(RING_BYTES, &ring);

    assert(made == 0);
    start = now_ns();
    for (uint64_t i = 0; i < SINGLE; i++) {
        hm_spsc_push_word(ring, i);
        hm_spsc_pop_word(ring, &value);
    }
    start = now_ns() - start;
    assert(value == SINGLE - 1);
    hm_spsc_free(ring);
    return (double)start / SINGLE;
}

static double spsc_single_batched(void) {
    static uint64_t in[BATCH], out[BATCH];
    static uint32_t lengths[BATCH];
    hm_spsc *ring;
    uint64_t start;
    int made = hm_spsc_new(RING_BYTES, &ring);

    assert(made == 0);
    for (uint32_t i = 0; i < BATCH; i++)
        lengths[i] = 8;
    start = now_ns();
    for (uint32_t i = 0; i < SINGLE / BATCH; i++) {
        in[0] = i;
        hm_spsc_push_many(ring, in, sizeof in, lengths, BATCH);
        hm_spsc_pop_many(ring, out, sizeof out, lengths, BATCH);
    }
    start = now_ns() - start;
    assert(out[0] == SINGLE / BATCH - 1);
    hm_spsc_free(ring);
    return (double)start / (SINGLE / BATCH * BATCH);
}

static double mpmc_single(void) {
    hm_mpmc *ring;
    uint64_t value = 0;
    uint32_t size;
    uint64_t start;
    int made = hm_mpmc_new(RING_SLOTS, 8, &ring);

    assert(made == 0);
    start = now_ns();
    for (uint64_t i = 0; i < SINGLE; i++) {
        hm_mpmc_push(ring, &i, sizeof i);
        hm_mpmc_pop(ring, &value, &size);
    }
    start = now_ns() - start;
    assert(value == SINGLE - 1);
    hm_mpmc_free(ring);
    return (double)start / SINGLE;
}

/* ---- two threads ---- */

static _Alignas(128) _Atomic uint64_t ping;
static _Alignas(128) _Atomic uint64_t pong;

static void *bounce_back(void *unused) {
    unsigned spins = 0;

    (void)unused;
    pin(1);
    for (uint64_t i = 1; i <= BOUNCES; i++) {
        while (atomic_load_explicit(&ping, memory_order_acquire) != i)
            relax(&spins);
        atomic_store_explicit(&pong, i, memory_order_release);
    }
    return NULL;
}

static double core_to_core(void) {
    pthread_t thread;
    unsigned spins = 0;
    uint64_t start;

    atomic_store(&ping, 0);
    atomic_store(&pong, 0);
    pthread_create(&thread, NULL, bounce_back, NULL);
    start = now_ns();
    for (uint64_t i = 1; i <= BOUNCES; i++) {
        atomic_store_explicit(&ping, i, memory_order_release);
        while (atomic_load_explicit(&pong, memory_order_acquire) != i)
            relax(&spins);
    }
    start = now_ns() - start;
    pthread_join(thread, NULL);
    return (double)start / BOUNCES;
}

static void *spsc_producer(void *argument) {
    hm_spsc *ring = argument;
    uint64_t values[BATCH];
    uint32_t lengths[BATCH];
    unsigned spins = 0;

    pin(1);
    for (uint32_t i = 0; i < BATCH; i++)
        lengths[i] = 8;
    for (uint64_t sent = 0; sent < PAIR;) {
        uint64_t want = PAIR - sent < BATCH ? PAIR - sent : BATCH;
        int64_t done;

        for (uint64_t i = 0; i < want; i++)
            values[i] = sent + i;
        done = hm_spsc_push_many(ring, values, want * 8, lengths, want);
        if (done > 0)
            sent += (uint64_t)done;
        else
            relax(&spins);
    }
    return NULL;
}

static double spsc_pair(void) {
    static hm_spsc_span spans[BATCH];
    pthread_t thread;
    hm_spsc *ring;
    const uint8_t *memory;
    unsigned spins = 0;
    uint64_t start, received = 0, sum = 0;
    int made = hm_spsc_new(RING_BYTES * 4, &ring);

    assert(made == 0);
    memory = hm_spsc_memory(ring);
    pthread_create(&thread, NULL, spsc_producer, ring);
    start = now_ns();
    while (received < PAIR) {
        int64_t count = hm_spsc_peek(ring, spans, BATCH);

        if (count <= 0) {
            relax(&spins);
            continue;
        }
        for (int64_t i = 0; i < count; i++) {
            uint64_t value;
            memcpy(&value, memory + spans[i].offset, 8);
            sum += value;
        }
        received += (uint64_t)count;
        hm_spsc_release(ring);
    }
    start = now_ns() - start;
    pthread_join(thread, NULL);
    assert(sum == (uint64_t)PAIR * (PAIR - 1) / 2);
    hm_spsc_free(ring);
    return (double)start / PAIR;
}

static void *spsc_producer_single(void *argument) {
    hm_spsc *ring = argument;
    unsigned spins = 0;

    pin(1);
    for (uint64_t i = 0; i < PAIR;) {
        if (hm_spsc_push(ring, &i, sizeof i) == 0)
            i++;
        else
            relax(&spins);
    }
    return NULL;
}

static double spsc_pair_single(void) {
    pthread_t thread;
    hm_spsc *ring;
    unsigned spins = 0;
    uint64_t start, value, sum = 0;
    uint32_t size;
    int made = hm_spsc_new(RING_BYTES * 4, &ring);

    assert(made == 0);
    pthread_create(&thread, NULL, spsc_producer_single, ring);
    start = now_ns();
    for (uint32_t received = 0; received < PAIR;) {
        if (hm_spsc_pop(ring, &value, sizeof value, &size) == 0) {
            sum += value;
            received++;
        } else {
            relax(&spins);
        }
    }
    start = now_ns() - start;
    pthread_join(thread, NULL);
    assert(sum == (uint64_t)PAIR * (PAIR - 1) / 2);
    hm_spsc_free(ring);
    return (double)start / PAIR;
}

static void *mpmc_producer(void *argument) {
    hm_mpmc *ring = argument;
    unsigned spins = 0;

    pin(1);
    for (uint64_t i = 0; i < PAIR;) {
        if (hm_mpmc_push(ring, &i, sizeof i) == 0)
            i++;
        else
            relax(&spins);
    }
    return NULL;
}

static double mpmc_pair(void) {
    pthread_t thread;
    hm_mpmc *ring;
    unsigned spins = 0;
    uint64_t start, value, sum = 0;
    uint32_t size;
    int made = hm_mpmc_new(RING_SLOTS, 8, &ring);

    assert(made == 0);
    pthread_create(&thread, NULL, mpmc_producer, ring);
    start = now_ns();
    for (uint32_t received = 0; received < PAIR;) {
        if (hm_mpmc_pop(ring, &value, &size) == 0) {
            sum += value;
            received++;
        } else {
            relax(&spins);
        }
    }
    start = now_ns() - start;
    pthread_join(thread, NULL);
    assert(sum == (uint64_t)PAIR * (PAIR - 1) / 2);
    hm_mpmc_free(ring);
    return (double)start / PAIR;
}

/* ---- report ---- */

static int ascending(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;

    return (a > b) - (a < b);
}

static const struct {
    const char *operation;
    double (*run)(void);
    const char *note;
} questions[] = {
    {"empty", empty, "control: two calls that do nothing"},
    {"spsc push_word+pop_word, one thread", spsc_single_word, "inline; target: at most 4 ns"},
    {"spsc push+pop 8 B, one thread", spsc_single, "the general way, two calls"},
    {"spsc push_many+pop_many 8 B, one thread", spsc_single_batched, "256 records a call"},
    {"mpmc push+pop 8 B, one thread", mpmc_single, ""},
    {"core-to-core round trip", core_to_core, "control: one cache line there and back"},
    {"spsc 8 B, two threads, batched", spsc_pair, "256 records a call; aim: at least 50 M/s"},
    {"spsc 8 B, two threads, one by one", spsc_pair_single, ""},
    {"mpmc 8 B, two threads, one by one", mpmc_pair, ""},
};
#define QUESTIONS (sizeof questions / sizeof *questions)

int main(int argc, char **argv) {
    int json = argc > 1 && strcmp(argv[1], "--json") == 0;
    double ns[QUESTIONS][ROUNDS];

    pin(0);
    for (unsigned round = 0; round < ROUNDS; round++)
        for (unsigned i = 0; i < QUESTIONS; i++)
            ns[i][round] = questions[i].run();
    if (json)
        printf("{\"name\": \"rings\", \"rows\": [");
    for (unsigned i = 0; i < QUESTIONS; i++) {
        double median;

        qsort(ns[i], ROUNDS, sizeof(double), ascending);
        median = ns[i][ROUNDS / 2];
        if (json)
            printf("%s{\"operation\": \"%s\", \"ns\": %.3f, \"ns_min\": %.3f, \"ns_max\": %.3f, "
                   "\"per_s\": %.0f, \"note\": \"%s\"}",
                   i ? ", " : "", questions[i].operation, median, ns[i][0], ns[i][ROUNDS - 1],
                   1e9 / median, questions[i].note);
        else
            printf("%-42s %8.2f ns  (%.2f..%.2f) %8.1f M/s  %s\n", questions[i].operation, median,
                   ns[i][0], ns[i][ROUNDS - 1], 1e3 / median, questions[i].note);
    }
    if (json)
        printf("]}\n");
    return 0;
}
