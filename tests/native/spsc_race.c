/* spsc_race.c -- one producer, one consumer, every way in and every way out: in order, whole, once.
 *
 *     spsc_race threads COUNT          two threads share a ring in private memory
 *     spsc_race processes COUNT PATH   two processes map the file PATH, which is made here
 *
 * Records have 0 to 67 bytes, so that they straddle words and wrap at ever other places of a small
 * ring.
 */
#include "hm_spsc.h"
#include "../../hermes/native/src/ring/spsc_internal.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CAPACITY 1024
#define SIZES    68
#define BATCH    16

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static uint64_t count;

static uint32_t size_of(uint64_t number) {
    return (uint32_t)((number * 7) % SIZES);
}

static void fill(uint8_t *data, uint64_t number) {
    for (uint32_t i = 0; i < size_of(number); i++)
        data[i] = (uint8_t)(number + i);
}

static void verify(const uint8_t *data, uint32_t size, uint64_t number) {
    CHECK(size == size_of(number));
    for (uint32_t i = 0; i < size; i++)
        CHECK(data[i] == (uint8_t)(number + i));
}

static uint64_t push_one(hm_spsc *ring, uint64_t number) {
    uint8_t data[SIZES];
    int result;

    fill(data, number);
    result = hm_spsc_push(ring, data, size_of(number));
    CHECK(result == 0 || result == -HM_EFULL);
    return result == 0;
}

static uint64_t push_word(hm_spsc *ring, uint64_t number) {
    uint64_t word;
    int result;

    if (size_of(number) != sizeof word)
        return push_one(ring, number);
    fill((uint8_t *)&word, number);
    result = hm_spsc_push_word(ring, word);
    CHECK(result == 0 || result == -HM_EFULL);
    return result == 0;
}

static uint64_t push_in_place(hm_spsc *ring, uint64_t number) {
    hm_spsc_span span;
    int result = hm_spsc_claim(ring, SIZES, &span); /* more than is committed */

    CHECK(result == 0 || result == -HM_EFULL);
    if (result != 0)
        return 0;
    fill(hm_spsc_memory(ring) + span.offset, number);
    CHECK(hm_spsc_commit(ring, size_of(number)) == 0);
    return 1;
}

static uint64_t push_batch(hm_spsc *ring, uint64_t number) {
    uint8_t joined[BATCH * SIZES];
    uint32_t lengths[BATCH];
    uint64_t records = count - number < BATCH ? count - number : BATCH;
    uint64_t size = 0;
    int64_t done;

    for (uint64_t i = 0; i < records; i++) {
        fill(joined + size, number + i);
        size += lengths[i] = size_of(number + i);
    }
    done = hm_spsc_push_many(ring, joined, size, lengths, records);
    CHECK(done > 0 || done == -HM_EFULL);
    return done > 0 ? (uint64_t)done : 0;
}

static void *produce(void *ring) {
    uint64_t (*const ways[])(hm_spsc *, uint64_t) = {push_one, push_word, push_in_place,
                                                     push_batch};

    for (uint64_t number = 0, turn = 0; number < count; turn++) {
        uint64_t done = ways[turn % 4](ring, number);

        number += done;
        if (done == 0)
            sched_yield();
    }
    return NULL;
}

static uint64_t pop_one(hm_spsc *ring, uint64_t number) {
    uint8_t data[SIZES];
    uint32_t size;
    int result = hm_spsc_pop(ring, data, sizeof data, &size);

    CHECK(result == 0 || result == -HM_EEMPTY);
    if (result == 0)
        verify(data, size, number);
    return result == 0;
}

static uint64_t pop_word(hm_spsc *ring, uint64_t number) {
    uint64_t word;
    int result = hm_spsc_pop_word(ring, &word);

    CHECK(result == 0 || result == -HM_EEMPTY || result == -HM_ETRUNC);
    if (result == -HM_ETRUNC) {
        CHECK(size_of(number) > sizeof word);
        return pop_one(ring, number);
    }
    if (result == 0)
        verify((const uint8_t *)&word, size_of(number), number);
    return result == 0;
}

static uint64_t pop_in_place(hm_spsc *ring, uint64_t number) {
    hm_spsc_span spans[BATCH];
    int64_t done = hm_spsc_peek(ring, spans, BATCH);

    CHECK(done > 0 || done == -HM_EEMPTY);
    for (int64_t i = 0; i < done; i++)
        verify(hm_spsc_memory(ring) + spans[i].offset, spans[i].size, number + (uint64_t)i);
    hm_spsc_release(ring);
    return done > 0 ? (uint64_t)done : 0;
}

static uint64_t pop_batch(hm_spsc *ring, uint64_t number) {
    uint8_t joined[4 * SIZES];
    uint32_t lengths[BATCH];
    const uint8_t *data = joined;
    int64_t done = hm_spsc_pop_many(ring, joined, sizeof joined, lengths, BATCH);

    CHECK(done > 0 || done == -HM_EEMPTY);
    for (int64_t i = 0; i < done; data += lengths[i++])
        verify(data, lengths[i], number + (uint64_t)i);
    return done > 0 ? (uint64_t)done : 0;
}

static void consume(hm_spsc *ring) {
    uint64_t (*const ways[])(hm_spsc *, uint64_t) = {pop_one, pop_word, pop_in_place, pop_batch};

    for (uint64_t number = 0, turn = 0; number < count; turn++) {
        uint64_t done = ways[turn % 4](ring, number);

        number += done;
        if (done == 0)
            sched_yield();
    }
    CHECK(hm_spsc_used(ring) == 0);
}

static void threads(void) {
    pthread_t producer;
    hm_spsc *ring;

    CHECK(hm_spsc_new(CAPACITY, &ring) == 0);
    CHECK(pthread_create(&producer, NULL, produce, ring) == 0);
    consume(ring);
    pthread_join(producer, NULL);
    hm_spsc_free(ring);
}

static void processes(const char *path) {
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int status;
    hm_spsc *ring;
    pid_t child;

    CHECK(fd >= 0 && hm_spsc_create(fd, CAPACITY, &ring) == 0);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        hm_spsc *own;
        int again = open(path, O_RDWR | O_CLOEXEC);

        CHECK(again >= 0 && hm_spsc_open(again, &own) == 0);
        close(again);
        produce(own);
        hm_spsc_free(own);
        hm_spsc_free(ring);
        exit(0);
    }
    consume(ring);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    hm_spsc_free(ring);
    close(fd);
}

int main(int argc, char **argv) {
    CHECK(argc >= 3);
    count = strtoull(argv[2], NULL, 10);
    if (argc > 3)
        processes(argv[3]);
    else
        threads();
    printf("%llu records\n", (unsigned long long)count);
    return 0;
}
