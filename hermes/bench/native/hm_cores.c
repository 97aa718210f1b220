/* hm_cores.c -- measures a cache line between two cores, and the steps of the clock. */
#include "hm_cores.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "hm_error.h"
#include "hm_pace.h"

#define READS      10000
#define PATIENCE   1000000000u /* ns */
#define CHECK_MASK 0xffffu     /* spins between two looks at the clock */

/* The ball: written by both, alone on its lines. */
struct court {
    _Alignas(128) _Atomic uint32_t ball;
    _Alignas(128) int core;
    uint32_t rounds;
    int result;
};

static int move_to(int core) {
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET((size_t)core, &set);
    return pthread_setaffinity_np(pthread_self(), sizeof set, &set) == 0 ? 0 : -HM_EINVAL;
}

static int await_ball(struct court *court, uint32_t value) {
    uint64_t since = 0;
    uint32_t tries = 0;

    /* acquire: pairs with (A). */
    while (atomic_load_explicit(&court->ball, memory_order_acquire) != value) {
        hm_pace_relax();
        if ((++tries & CHECK_MASK) != 0)
            continue;
        since = since == 0 ? hm_pace_now() : since;
        if (hm_pace_now() - since > PATIENCE)
            return -HM_ETIMEDOUT;
    }
    return 0;
}

static void hit(struct court *court, uint32_t value) {
    /* release (A): nothing but the ball is passed; the order is for whoever adds something. */
    atomic_store_explicit(&court->ball, value, memory_order_release);
}

static void *answer(void *argument) {
    struct court *court = argument;

    court->result = move_to(court->core);
    for (uint32_t i = 0; court->result == 0 && i < court->rounds; i++) {
        court->result = await_ball(court, 2 * i + 1);
        hit(court, 2 * i + 2);
    }
    return NULL;
}

int hm_cores_round_trip(int core_a, int core_b, uint32_t rounds, int64_t *took) {
    struct court court = {.ball = 0, .core = core_b, .rounds = rounds, .result = 0};
    cpu_set_t before;
    pthread_t thread;
    int result;

    assert(rounds > 0 && rounds < UINT32_MAX / 2);
    if (core_a < 0 || core_b < 0 || core_a >= CPU_SETSIZE || core_b >= CPU_SETSIZE)
        return -HM_EINVAL;
    if (pthread_getaffinity_np(pthread_self(), sizeof before, &before) != 0)
        return -HM_ESYS;
    result = move_to(core_a);
    if (result != 0)
        return result;
    if (pthread_create(&thread, NULL, answer, &court) != 0) {
        result = -HM_ENOMEM;
    } else {
        for (uint32_t i = 0; result == 0 && i < rounds; i++) {
            uint64_t start = hm_pace_now();

            hit(&court, 2 * i + 1);
            result = await_ball(&court, 2 * i + 2);
            took[i] = (int64_t)(hm_pace_now() - start);
        }
        pthread_join(thread, NULL);
        result = result == 0 ? court.result : result;
    }
    pthread_setaffinity_np(pthread_self(), sizeof before, &before);
    return result;
}

void hm_cores_clock(uint64_t *step_ns, double *read_ns) {
    uint64_t start = hm_pace_now(), last = start;

    assert(step_ns != NULL && read_ns != NULL);
    *step_ns = UINT64_MAX;
    for (uint32_t i = 0; i < READS; i++) {
        uint64_t now = hm_pace_now();

        if (now != last && now - last < *step_ns)
            *step_ns = now - last;
        last = now;
    }
    *read_ns = (double)(last - start) / READS;
}
