/* An outbox without a flusher: two putters, a writer and an acknowledger, a thread each.
 *
 *   outbox_cursors MESSAGES
 *
 * What the writer has written is told to the acknowledger by a relaxed store, so that nothing but
 * the outbox itself orders what the threads do to its memory. */
#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hm_outbox.h"

enum { CAPACITY = 1 << 17, PUTTERS = 2 };

static hm_outbox *outbox;
static uint64_t messages;
static _Atomic uint64_t written;

static void *putter(void *unused) {
    (void)unused;
    uint8_t payload[400];
    memset(payload, 'x', sizeof payload);
    for (uint64_t i = 0; i < messages / PUTTERS;) {
        uint32_t size = (uint32_t)(8 + i * 37 % 380);
        int64_t result =
            hm_outbox_put(outbox, (const uint8_t *)"md.a", 4, NULL, 0, payload, size, 1);
        assert(result > 0 || result == -HM_EFULL || result == -HM_EBUSY);
        if (result > 0)
            i++;
        else
            sched_yield();
    }
    return NULL;
}

static void *writer(void *unused) {
    (void)unused;
    for (uint64_t last = 0; last < messages;) {
        uint8_t header[HM_BATCH_HEADER];
        const uint8_t *frames;
        uint64_t size;
        if (!hm_outbox_batch(outbox, 1 << 14, 1, header, &frames, &size)) {
            sched_yield();
            continue;
        }
        for (uint64_t at = 0; at < size;) {
            hm_slice slice;
            uint64_t needed;
            int64_t taken = hm_frame_check(frames + at, size - at, HM_MESSAGE_MAX, &slice, &needed);
            assert(taken > 0 && slice.sequence == last + 1);
            last = slice.sequence;
            at += (uint64_t)taken;
        }
        hm_outbox_sent(outbox);
        atomic_store_explicit(&written, last, memory_order_relaxed);
    }
    return NULL;
}

int main(int argc, char **argv) {
    assert(argc == 2);
    messages = strtoull(argv[1], NULL, 10);
    outbox = hm_outbox_new(CAPACITY, 9, 1);
    assert(outbox != NULL);
    pthread_t threads[PUTTERS + 1];
    for (int i = 0; i < PUTTERS; i++)
        pthread_create(&threads[i], NULL, putter, NULL);
    pthread_create(&threads[PUTTERS], NULL, writer, NULL);
    for (uint64_t acked = 0; acked < messages;) {
        uint64_t seen = atomic_load_explicit(&written, memory_order_relaxed);
        if (seen == acked)
            sched_yield();
        acked = seen;
        assert(hm_outbox_ack(outbox, acked) == 0);
    }
    for (int i = 0; i <= PUTTERS; i++)
        pthread_join(threads[i], NULL);
    assert(hm_outbox_ack(outbox, messages) == 0 && hm_outbox_queued(outbox) == 0);
    hm_outbox_free(outbox);
    printf("%llu messages\n", (unsigned long long)messages);
    return 0;
}
