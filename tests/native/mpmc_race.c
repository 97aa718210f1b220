/* mpmc_race.c -- many producers, many consumers: nothing lost, nothing twice, each producer's order
 * kept.
 *
 *     mpmc_race PRODUCERS CONSUMERS COUNT
 *
 * Each producer pushes COUNT records that name it and are numbered; a consumer must see the numbers
 * of each producer rise, and all together must see each exactly once.
 */
#include "hm_mpmc.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS       64
#define RECORD_MAX  40
#define BATCH       8
#define THREADS_MAX 16

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static hm_mpmc *ring;
static uint64_t producers, consumers, count;
static atomic_uchar
    *seen; /* by producer and number; relaxed, so that it orders nothing for the ring */
static _Atomic uint64_t popped;

static uint32_t encode(uint8_t *data, uint64_t producer, uint64_t number) {
    uint32_t size = (uint32_t)(16 + number % (RECORD_MAX - 16 + 1));

    memcpy(data, &producer, 8);
    memcpy(data + 8, &number, 8);
    memset(data + 16, (int)(number & 255), size - 16);
    return size;
}

static void *produce(void *argument) {
    uint64_t producer = (uint64_t)(uintptr_t)argument;
    uint8_t joined[BATCH * RECORD_MAX];
    uint32_t lengths[BATCH];

    for (uint64_t number = 0; number < count;) {
        uint64_t want = number % 3 == 0 ? BATCH : 1;
        uint64_t size = 0;
        int64_t done;

        want = count - number < want ? count - number : want;
        for (uint64_t i = 0; i < want; i++)
            size += lengths[i] = encode(joined + size, producer, number + i);
        done = want > 1 ? hm_mpmc_push_many(ring, joined, size, lengths, want)
                        : hm_mpmc_push(ring, joined, lengths[0]);
        CHECK(done >= 0 || done == -HM_EFULL);
        if (done >= 0)
            number += want > 1 ? (uint64_t)done : 1;
        else
            sched_yield();
    }
    return NULL;
}

static void verify(const uint8_t *data, uint32_t size, uint64_t *next) {
    uint64_t producer, number;

    CHECK(size >= 16 && size <= RECORD_MAX);
    memcpy(&producer, data, 8);
    memcpy(&number, data + 8, 8);
    CHECK(producer < producers && number < count);
    CHECK(size == 16 + number % (RECORD_MAX - 16 + 1));
    for (uint32_t i = 16; i < size; i++)
        CHECK(data[i] == (number & 255));
    CHECK(number >= next[producer]); /* the producer's order */
    next[producer] = number + 1;
    CHECK(atomic_fetch_add_explicit(&seen[producer * count + number], 1, memory_order_relaxed) ==
          0);
}

static void *consume(void *argument) {
    uint64_t next[THREADS_MAX] = {0};
    uint8_t joined[BATCH * RECORD_MAX];
    uint32_t lengths[BATCH];

    (void)argument;
    while (atomic_load_explicit(&popped, memory_order_relaxed) < producers * count) {
        const uint8_t *data = joined;
        int64_t done = hm_mpmc_pop_many(ring, joined, sizeof joined, lengths, BATCH);

        CHECK(done > 0 || done == -HM_EEMPTY);
        if (done <= 0) {
            sched_yield();
            continue;
        }
        for (int64_t i = 0; i < done; data += lengths[i++])
            verify(data, lengths[i], next);
        atomic_fetch_add_explicit(&popped, (uint64_t)done, memory_order_relaxed);
    }
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t threads[2 * THREADS_MAX];
    uint64_t started = 0;

    CHECK(argc == 4);
    producers = strtoull(argv[1], NULL, 10);
    consumers = strtoull(argv[2], NULL, 10);
    count = strtoull(argv[3], NULL, 10);
    CHECK(producers <= THREADS_MAX && consumers <= THREADS_MAX);
    CHECK(hm_mpmc_new(SLOTS, RECORD_MAX, &ring) == 0);
    seen = calloc(producers * count, sizeof *seen);
    CHECK(seen != NULL);
    for (uint64_t i = 0; i < producers; i++)
        CHECK(pthread_create(&threads[started++], NULL, produce, (void *)(uintptr_t)i) == 0);
    for (uint64_t i = 0; i < consumers; i++)
        CHECK(pthread_create(&threads[started++], NULL, consume, NULL) == 0);
    while (started > 0)
        pthread_join(threads[--started], NULL);
    for (uint64_t i = 0; i < producers * count; i++)
        CHECK(atomic_load_explicit(&seen[i], memory_order_relaxed) == 1);
    CHECK(hm_mpmc_used(ring) == 0);
    free(seen);
    hm_mpmc_free(ring);
    printf("%llu records\n", (unsigned long long)(producers * count));
    return 0;
}
