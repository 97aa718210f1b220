/* udp_client.h -- a client of a udp listener by hand: its socket and its set-up. */
#ifndef UDP_CLIENT_H
#define UDP_CLIENT_H

#include <arpa/inet.h>
#include <assert.h>

#include "hu_endpoint.h"

static inline int bound(struct sockaddr_in *name) {
    socklen_t size = sizeof *name;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    *name = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert(fd >= 0 && bind(fd, (const struct sockaddr *)name, sizeof *name) == 0);
    assert(getsockname(fd, (struct sockaddr *)name, &size) == 0);
    return fd;
}

/* One datagram that came; its size. */
static inline uint64_t hear(int fd, uint8_t *out, hu_header *header) {
    ssize_t size = recv(fd, out, HU_DATAGRAM_MAX, 0);
    if (size < 0)
        return 0;
    int sound = hu_header_decode(out, (uint64_t)size, header);
    assert(sound == 0);
    return (uint64_t)size;
}

static uint8_t buffer[HU_DATAGRAM_MAX];

static inline void ask(int fd, uint8_t type, uint64_t nonce, const hu_setup *setup) {
    hu_header header = {.session = nonce, .type = type};
    hu_header_encode(buffer, &header);
    hu_setup_encode(buffer + HU_HEADER, setup);
    hu_seal(buffer, HU_HEADER + HU_SETUP);
    ssize_t sent = send(fd, buffer, HU_HEADER + HU_SETUP, 0);
    assert(sent == HU_HEADER + HU_SETUP);
}

/* Sets up a session as a client would; its slot. */
static inline uint32_t join(hu_endpoint *endpoint, int fd, uint64_t nonce) {
    static hu_event events[HU_EVENTS_MAX];
    hu_setup setup = {.window = 1 << 20, .datagram = 4000, .liveness_ms = 10000};
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

#endif
