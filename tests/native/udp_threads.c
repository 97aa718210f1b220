/* udp_threads.c -- a client's channel of the udp transport, used by several threads at a time.
 *
 *   udp_threads bytes COUNT      one thread sends
 *   udp_threads messages COUNT   one thread puts messages into an outbox, which a flusher with a
 *                                thread of its own writes to the channel as its medium
 *
 * One thread serves a listener that gives back what it gets; another receives on the channel, a
 * third looks at it all the time, and goes on while the channel is closed, and after.
 */
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "hm_error.h"
#include "hm_flusher.h"
#include "hu_channel.h"

#define WINDOW 65536

static hu_endpoint *endpoint;
static hu_channel *channel;
static int listener;
static _Atomic int stop_serving, stop_looking, echoed;
static uint64_t total; /* bytes, or messages */
static uint64_t got;
static hm_outbox *outbox; /* NULL: bytes are sent */
static hm_flusher *flusher;

static void *serve(void *nothing) {
    static hu_event events[HU_EVENTS_MAX];
    (void)nothing;
    while (!stop_serving) {
        uint32_t count = hu_endpoint_poll(endpoint, events);
        for (uint32_t i = 0; i < count; i++) {
            const uint8_t *data;
            uint64_t size, taken = 1;
            uint32_t slot = events[i].slot;
            if (events[i].flags & HU_LOST) {
                hu_endpoint_drop(endpoint, slot, 0);
                continue;
            }
            hm_medium *medium = (hm_medium *)hu_endpoint_medium(endpoint, slot);
            while (taken > 0 && (size = hu_endpoint_readable(endpoint, slot, &data)) > 0) {
                struct iovec piece = {(void *)(uintptr_t)data, size};
                taken = (uint64_t)medium->write(medium->context, &piece, 1);
                hu_endpoint_consume(endpoint, slot, taken);
            }
        }
        hu_endpoint_flush(endpoint);
        poll(&(struct pollfd){.fd = listener, .events = POLLIN}, 1, 1);
    }
    return NULL;
}

static void *send_all(void *nothing) {
    static uint8_t data[3000];
    (void)nothing;
    for (uint64_t sent = 0; sent < total;) {
        uint64_t size = total - sent < sizeof data ? total - sent : sizeof data;
        for (uint64_t i = 0; i < size; i++)
            data[i] = (uint8_t)((sent + i) % 251);
        int64_t taken = hu_channel_send(channel, data, size);
        assert(taken >= 0);
        sent += (uint64_t)taken;
        if (taken == 0)
            hu_channel_wait(channel, 0, 1, 0, 10000000);
    }
    return NULL;
}

static void *put_all(void *nothing) {
    static const uint8_t payload[300];
    int waiting;
    (void)nothing;
    for (uint64_t put = 0; put < total;) {
        uint32_t size = (uint32_t)(1 + put * 37 % sizeof payload);
        int64_t sequence =
            hm_outbox_send(outbox, (const uint8_t *)"md.a", 4, payload, size, 1, &waiting);
        assert(sequence == -HM_EFULL || sequence == (int64_t)put + 1);
        put += sequence > 0;
        if (sequence < 0)
            usleep(100);
    }
    return NULL;
}

static void check_bytes(const uint8_t *data, uint64_t size) {
    for (uint64_t i = 0; i < size; i++)
        assert(data[i] == (uint8_t)((got + i) % 251));
    got += size;
}

/* Whole batches come back one behind the other, and are acknowledged. */
static void check_batches(const uint8_t *data, uint64_t size) {
    static uint8_t held[1 << 20];
    static uint64_t filled;
    uint64_t at = 0, needed;
    hm_slice slice;
    hm_batch batch;
    assert(size <= sizeof held - filled);
    memcpy(held + filled, data, size);
    filled += size;
    int64_t whole;
    while ((whole = hm_frame_check(held + at, filled - at, HM_MESSAGE_MAX, &slice, &needed)) > 0 &&
           (uint64_t)whole <= filled - at) {
        hm_batch_parse(held + at, &batch);
        assert(slice.type == HM_BATCH && batch.after == got);
        got = batch.through;
        at += (uint64_t)whole;
    }
    assert(whole > 0 || whole == -HM_ETRUNC);
    memmove(held, held + at, filled - at);
    filled -= at;
    int status = hm_outbox_ack(outbox, got);
    assert(status == 0);
}

static void *receive_all(void *nothing) {
    static uint8_t data[5000];
    int error;
    (void)nothing;
    while (got < total) {
        int64_t size = hu_channel_receive(channel, data, sizeof data, 1000, 10000000, &error);
        assert(size > 0 || size == -HM_EEMPTY);
        if (size > 0 && outbox != NULL)
            check_batches(data, (uint64_t)size);
        else if (size > 0)
            check_bytes(data, (uint64_t)size);
    }
    echoed = 1; /* from now on until somebody closes it */
    int64_t size;
    while ((size = hu_channel_receive(channel, data, sizeof data, 0, -1, &error)) == -HM_EEMPTY)
        continue;
    assert(size == -HM_ESYS && error == ECONNRESET);
    return NULL;
}

static void *look(void *nothing) {
    uint8_t byte = 0;
    int error;
    (void)nothing;
    while (!stop_looking) {
        hu_endpoint_counters of_endpoint;
        hu_session_counters session;
        hu_sender_counters sender;
        hu_receiver_counters receiver;
        hu_channel_count(channel, &of_endpoint, &session, &sender, &receiver);
        hu_channel_srtt(channel);
        hu_channel_datagram(channel);
        if (hu_channel_reason(channel) != 0) { /* what comes too late is told so */
            assert(hu_channel_send(channel, &byte, 1) < 0);
            assert(hu_channel_receive(channel, &byte, 1, 0, 0, &error) <= 0);
            hu_channel_wait(channel, 1, 1, 0, 0);
        }
        usleep(200);
    }
    return NULL;
}

static void begin_to_flush(void) {
    const hm_medium *medium = (const hm_medium *)hu_channel_medium(channel);
    outbox = hm_outbox_new(1 << 18, 1, 1);
    flusher = hm_flusher_new();
    assert(outbox != NULL && flusher != NULL);
    int status = hm_flusher_attach_medium(flusher, medium, 1 << 14);
    assert(status == 0);
    status = hm_flusher_add(flusher, outbox, 1000000);
    assert(status == 0);
}

static int bound(struct sockaddr_in *name) {
    socklen_t size = sizeof *name;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    *name = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert(fd >= 0 && bind(fd, (const struct sockaddr *)name, sizeof *name) == 0);
    assert(getsockname(fd, (struct sockaddr *)name, &size) == 0);
    return fd;
}

int main(int argc, char **argv) {
    struct sockaddr_in here, there;
    uint32_t sizes[] = {8000, 1200};
    pthread_t server, threads[3];
    void *(*work[3])(void *) = {send_all, receive_all, look};
    assert(argc == 3);
    total = strtoull(argv[2], NULL, 10);
    hu_bind((uintptr_t)hm_api_get());
    listener = bound(&there);
    hu_options options = {.fd = listener,
                          .tap_fd = -1,
                          .listens = 1,
                          .sessions_max = 4,
                          .datagram = 8000,
                          .liveness_ms = 10000,
                          .window = WINDOW,
                          .copy_size = WINDOW,
                          .drop = 1 << 25}; /* of 2^32 */
    int status = hu_endpoint_new(&options, &endpoint);
    assert(status == 0);
    pthread_create(&server, NULL, serve, NULL);
    int fd = bound(&here), closed = eventfd(0, 0);
    status = connect(fd, (const struct sockaddr *)&there, sizeof there);
    assert(status == 0 && closed >= 0);
    options.fd = fd;
    options.listens = 0;
    options.sessions_max = 1;
    hu_dial *dial = hu_dial_new(&options, sizes, 2, 10000000000);
    assert(dial != NULL);
    while ((status = hu_dial_step(dial, 100000000)) == HU_DIAL_GOING)
        continue;
    assert(status == 0);
    status = hu_channel_open(dial, &channel);
    hu_dial_free(dial);
    assert(status == 0);
    if (strcmp(argv[1], "messages") == 0) {
        work[0] = put_all;
        begin_to_flush();
    }
    for (int i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, work[i], NULL);
    pthread_join(threads[0], NULL);
    while (!echoed)
        usleep(1000);
    if (flusher != NULL)
        hm_flusher_detach(flusher);
    hu_channel_close(channel, closed);
    uint64_t told;
    ssize_t size = read(closed, &told, sizeof told);
    assert(size == sizeof told);
    close(fd);
    usleep(20000); /* it is still looked at */
    stop_looking = 1;
    for (int i = 1; i < 3; i++)
        pthread_join(threads[i], NULL);
    hu_channel_free(channel);
    hm_flusher_dispose(outbox);
    hm_flusher_free(flusher);
    stop_serving = 1;
    pthread_join(server, NULL);
    hu_endpoint_free(endpoint);
    close(listener);
    close(closed);
    printf("all came back\n");
    return 0;
}
