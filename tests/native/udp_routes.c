/* udp_routes.c -- a listener of the udp transport with two sessions, one of whose routes fails.
 *
 * `sendmsg` is ours: it fails for one destination.  What is pushed to the other session must arrive
 * all the same, and the failed one must go on where it stopped when its route is back.
 */
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hu_endpoint.h"

#define PATIENCE_NS 5000000000u

static in_port_t broken; /* network order; 0: none */
static int failure;

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    const struct sockaddr_in *to = message->msg_name;
    if (broken != 0 && to != NULL && to->sin_port == broken) {
        errno = failure;
        return -1;
    }
    return syscall(SYS_sendmsg, fd, message, flags);
}

static int bound(struct sockaddr_in *name) {
    socklen_t size = sizeof *name;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    *name = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert(fd >= 0 && bind(fd, (const struct sockaddr *)name, sizeof *name) == 0);
    assert(getsockname(fd, (struct sockaddr *)name, &size) == 0);
    return fd;
}

/* One datagram that came; its size. */
static uint64_t hear(int fd, uint8_t *out, hu_header *header) {
    ssize_t size = recv(fd, out, HU_DATAGRAM_MAX, 0);
    if (size < 0)
        return 0;
    int sound = hu_header_decode(out, (uint64_t)size, header);
    assert(sound == 0);
    return (uint64_t)size;
}

static uint8_t buffer[HU_DATAGRAM_MAX];

static void ask(int fd, uint8_t type, uint64_t nonce, const hu_setup *setup) {
    hu_header header = {.session = nonce, .type = type};
    hu_header_encode(buffer, &header);
    hu_setup_encode(buffer + HU_HEADER, setup);
    hu_seal(buffer, HU_HEADER + HU_SETUP);
    ssize_t sent = send(fd, buffer, HU_HEADER + HU_SETUP, 0);
    assert(sent == HU_HEADER + HU_SETUP);
}

/* Sets up a session as a client would; its slot. */
static uint32_t join(hu_endpoint *endpoint, int fd, uint64_t nonce) {
    static hu_event events[HU_EVENTS_MAX];
    hu_setup setup = {.window = 1 << 20, .datagram = 1000, .liveness_ms = 10000};
    hu_header header;
    ask(fd, HU_REQUEST, nonce, &setup);
    hu_endpoint_poll(endpoint, events);
    assert(hear(fd, buffer, &header) > 0 && header.type == HU_CHALLENGE);
    hu_setup challenge;
    hu_setup_decode(buffer + HU_HEADER, &challenge);
    setup.cookie = challenge.cookie;
    setup.issued_s = challenge.issued_s;
    ask(fd, HU_CONFIRM, nonce, &setup);
    uint32_t count = hu_endpoint_poll(endpoint, events);
    assert(count == 1 && (events[0].flags & HU_NEW) != 0);
    assert(hear(fd, buffer, &header) > 0 && header.type == HU_ACCEPT);
    return events[0].slot;
}

/* Serves the endpoint until `fd` has got stream bytes up to `end`. */
static void await_bytes(hu_endpoint *endpoint, int fd, uint64_t end) {
    static hu_event events[HU_EVENTS_MAX];
    uint64_t got = 0, until = hu_now() + PATIENCE_NS;
    while (got < end) {
        assert(hu_now() < until);
        hu_header header;
        hu_endpoint_poll(endpoint, events);
        hu_endpoint_flush(endpoint);
        uint64_t size = hear(fd, buffer, &header);
        if (size > 0 && header.type == HU_DATA && header.position <= got)
            got =
                header.position + size - HU_HEADER > got ? header.position + size - HU_HEADER : got;
        if (size == 0)
            poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 1);
    }
}

/* Serves it until `fd` has got any stream bytes. */
static void await_repeat(hu_endpoint *endpoint, int fd) {
    static hu_event events[HU_EVENTS_MAX];
    uint64_t until = hu_now() + PATIENCE_NS;
    hu_header header = {0};
    while (hear(fd, buffer, &header) == 0 || header.type != HU_DATA) {
        assert(hu_now() < until);
        hu_endpoint_poll(endpoint, events);
        hu_endpoint_flush(endpoint);
        poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 1);
    }
}

int main(int argc, char **argv) {
    static uint8_t data[20000];
    struct sockaddr_in here, names[2];
    uint32_t slots[2];
    int clients[2], fd = bound(&here);
    assert(argc == 2);
    hu_bind((uintptr_t)hm_api_get());
    hu_options options = {.fd = fd,
                          .tap_fd = -1,
                          .listens = 1,
                          .sessions_max = 4,
                          .datagram = 1000,
                          .liveness_ms = 10000,
                          .window = 65536,
                          .copy_size = 65536};
    hu_endpoint *endpoint;
    int status = hu_endpoint_new(&options, &endpoint);
    assert(status == 0);
    for (int i = 0; i < 2; i++) {
        clients[i] = bound(&names[i]);
        status = connect(clients[i], (const struct sockaddr *)&here, sizeof here);
        assert(status == 0);
        slots[i] = join(endpoint, clients[i], (uint64_t)i + 1);
    }
    hu_endpoint_flush(endpoint); /* from now on the broken one is flushed first */
    failure = atoi(argv[1]);
    broken = names[0].sin_port;
    for (int i = 0; i < 2; i++) {
        uint64_t taken = hu_endpoint_push(endpoint, slots[i], data, sizeof data);
        assert(taken == sizeof data);
    }
    await_bytes(endpoint, clients[1], sizeof data);
    broken = 0;
    await_repeat(endpoint, clients[0]);
    hu_endpoint_free(endpoint);
    for (int i = 0; i < 2; i++)
        close(clients[i]);
    close(fd);
    printf("both were served\n");
    return 0;
}
