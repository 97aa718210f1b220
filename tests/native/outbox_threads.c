/* Putters, a flusher, and an acknowledging thread that reads what arrives: nothing lost, nothing
 * twice.
 *
 *   outbox_threads MESSAGES LINGER_US RECONNECTS
 *
 * The main thread is peer and acknowledger at once: it reads batches from the other end of a socket
 * pair, checks that sequences are contiguous, and acknowledges.  Every so often it breaks the
 * connection in the middle of things and goes on with a new one, as a reconnecting client does. */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hm_flusher.h"

enum { BUFFER = 1 << 20, BATCH_MAX = 1 << 16, CAPACITY = 1 << 18 };

static hm_outbox *outbox;
static hm_flusher *flusher;
static uint64_t messages;

static void *putter(void *unused) {
    (void)unused;
    uint8_t payload[300];
    memset(payload, 'x', sizeof payload);
    for (uint64_t i = 1; i <= messages;) {
        int waiting;
        uint32_t size = (uint32_t)(8 + i * 37 % 280);
        memcpy(payload, &i, sizeof i);
        int64_t result =
            hm_outbox_send(outbox, (const uint8_t *)"md.a", 4, payload, size, 1, &waiting);
        if (result == -HM_EFULL) {
            poll(NULL, 0, 1); /* what a client does: wait for acknowledgements */
            continue;
        }
        assert(result == (int64_t)i);
        i++;
    }
    return NULL;
}

static int ends[2] = {-1, -1};

static void connect_again(void) {
    hm_flusher_detach(flusher);
    if (ends[0] >= 0) {
        close(ends[0]);
        close(ends[1]);
    }
    assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0);
    assert(hm_flusher_attach(flusher, ends[0], BATCH_MAX) == 0);
}

static uint8_t buffer[BUFFER];
static uint64_t filled;

/* Takes whole batches off the buffer.  Returns the last sequence received. */
static uint64_t take(uint64_t last) {
    uint64_t at = 0;
    for (;;) {
        hm_slice slice;
        uint64_t needed;
        int64_t size = hm_frame_check(buffer + at, filled - at, HM_MESSAGE_MAX, &slice, &needed);
        if (size == -HM_ETRUNC || (size > 0 && (uint64_t)size > filled - at))
            break;
        assert(size > 0 && slice.type == HM_BATCH);
        hm_batch batch;
        hm_batch_parse(buffer + at, &batch);
        assert(batch.after <= last && "a batch may repeat, but never skips");
        const uint8_t *frame = buffer + at + HM_BATCH_HEADER;
        for (uint64_t s = batch.after + 1; s <= batch.through; s++) {
            assert(hm_frame_check(frame, batch.frames_size, HM_MESSAGE_MAX, &slice, &needed) > 0);
            uint64_t number;
            memcpy(&number, frame + slice.payload_offset, sizeof number);
            assert(slice.sequence == s && number == s);
            frame += hm_frame_skip(frame);
            last = s > last ? s : last;
        }
        at += (uint64_t)size;
    }
    memmove(buffer, buffer + at, filled - at);
    filled -= at;
    return last;
}

int main(int argc, char **argv) {
    assert(argc == 4);
    messages = strtoull(argv[1], NULL, 10);
    uint64_t linger_ns = strtoull(argv[2], NULL, 10) * 1000;
    uint64_t reconnects = strtoull(argv[3], NULL, 10);
    outbox = hm_outbox_new(CAPACITY, 9, 1);
    flusher = hm_flusher_new();
    assert(outbox != NULL && flusher != NULL);
    connect_again();
    assert(hm_flusher_add(flusher, outbox, linger_ns) == 0);
    pthread_t thread;
    pthread_create(&thread, NULL, putter, NULL);
    uint64_t last = 0, next_break = messages / (reconnects + 1);
    while (last < messages) {
        struct pollfd readable = {.fd = ends[1], .events = POLLIN};
        if (linger_ns == 0)
            hm_flusher_drain(flusher); /* what the publisher left because the socket was full */
        if (poll(&readable, 1, linger_ns == 0 ? 1 : 1000) == 1) {
            ssize_t n = read(ends[1], buffer + filled, BUFFER - filled);
            assert(n > 0);
            filled += (uint64_t)n;
            last = take(last);
            assert(hm_outbox_ack(outbox, last) == 0);
        }
        if (last >= next_break && last < messages) {
            next_break += messages / (reconnects + 1) + 1;
            filled = 0; /* what was under way is lost */
            connect_again();
            assert(hm_flusher_resume(flusher, outbox) == 0);
        }
    }
    pthread_join(thread, NULL);
    uint64_t put, sent, acked;
    hm_outbox_status(outbox, &put, &sent, &acked);
    while (sent < put) { /* the last batch may be confirmed a moment after it was read */
        hm_flusher_drain(flusher);
        hm_outbox_status(outbox, &put, &sent, &acked);
    }
    assert(put == messages && acked == messages && hm_outbox_queued(outbox) == 0);
    hm_flusher_free(flusher);
    hm_outbox_free(outbox);
    close(ends[0]);
    close(ends[1]);
    printf("%llu messages\n", (unsigned long long)messages);
    return 0;
}
