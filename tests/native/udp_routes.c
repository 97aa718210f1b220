/* udp_routes.c -- a listener of the udp transport with three sessions, and what writing to them
 * meets.  `sendmsg` and `sendto` are ours:
 *
 *   udp_routes ERRNO    it fails for the first session: the others are served all the same, and the
 *                       first goes on where it stopped when its route is back
 *   udp_routes large    the way to the first takes only small datagrams: those to it shrink, and
 *                       all three are still sent trains
 *   udp_routes device   the way to the first takes no trains: the other two are still sent some
 *   udp_routes full     the socket takes one train at a time: each gets its share
 *   udp_routes cast     likewise, beside a group that would fill it each time
 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hu_endpoint.h"
#include "udp_client.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#define PATIENCE_NS 5000000000u
#define SESSIONS    3
#define SMALL       1300 /* bytes of a datagram */

static in_port_t ports[SESSIONS + 1]; /* network order; the last is the group's */
static int failure;                   /* for the first of them; 0: none */
static uint32_t writes_left = UINT32_MAX;
static uint64_t trains[SESSIONS + 1], largest[SESSIONS + 1];

static uint64_t segment_of(const struct msghdr *message) {
    uint64_t size = 0;
    for (size_t i = 0; i < message->msg_iovlen; i++)
        size += message->msg_iov[i].iov_len;
    struct cmsghdr *head = CMSG_FIRSTHDR(message);
    if (head != NULL) {
        uint16_t segment;
        assert(head->cmsg_type == UDP_SEGMENT);
        memcpy(&segment, CMSG_DATA(head), sizeof segment);
        size = segment;
    }
    return size;
}

static int failure_of(const struct msghdr *message, int session) {
    if (session == 0 && failure == EMSGSIZE)
        return segment_of(message) > SMALL ? EMSGSIZE : 0;
    if (session == 0 && failure == EIO)
        return message->msg_controllen > 0 ? EIO : 0;
    return session == 0 ? failure : 0;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    const struct sockaddr_in *to = message->msg_name;
    int session = SESSIONS;
    while (session >= 0 && (to == NULL || ports[session] != to->sin_port))
        session--;
    errno = failure_of(message, session);
    if (errno == 0 && writes_left == 0)
        errno = EAGAIN;
    if (errno != 0)
        return -1;
    if (session >= 0) {
        uint64_t size = segment_of(message);
        writes_left--;
        trains[session] += message->msg_controllen > 0;
        largest[session] = size > largest[session] ? size : largest[session];
    }
    return syscall(SYS_sendmsg, fd, message, flags);
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic" /* glibc's own takes a union of pointers */
ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to,
               socklen_t to_size) {
    struct iovec piece = {(void *)(uintptr_t)data, size};
    struct msghdr message = {.msg_name = (void *)(uintptr_t)to,
                             .msg_namelen = to_size,
                             .msg_iov = &piece,
                             .msg_iovlen = 1};
    return sendmsg(fd, &message, flags);
}
#pragma GCC diagnostic pop

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

static hu_endpoint *endpoint;
static int clients[SESSIONS];
static uint32_t slots[SESSIONS];
static uint8_t data[100000];
static int has_trains;

static void push_to_all(uint64_t size) {
    for (int i = 0; i < SESSIONS; i++) {
        uint64_t taken = hu_endpoint_push(endpoint, slots[i], data, size);
        assert(taken == size);
    }
}

static void fail_one_route(int error) {
    failure = error;
    push_to_all(20000);
    for (int i = 1; i < SESSIONS; i++)
        await_bytes(endpoint, clients[i], 20000);
    failure = 0;
    await_repeat(endpoint, clients[0]);
}

static void narrow_one_route(void) {
    failure = EMSGSIZE;
    push_to_all(60000);
    for (int i = 0; i < SESSIONS; i++)
        await_bytes(endpoint, clients[i], 60000);
    assert(largest[0] <= SMALL && largest[1] > SMALL && largest[2] > SMALL);
    for (int i = 0; i < SESSIONS; i++)
        assert(!has_trains || trains[i] > 0);
}

static void fail_one_device(void) {
    failure = EIO;
    push_to_all(40000);
    for (int i = 0; i < SESSIONS; i++)
        await_bytes(endpoint, clients[i], 40000);
    assert(trains[0] == 0);
    assert(!has_trains || (trains[1] > 0 && trains[2] > 0));
}

/* Who is next when the socket has room for one more? */
static void fill_the_socket(int rounds) {
    hu_header header;
    push_to_all(sizeof data);
    for (int round = 0; round < rounds; round++) {
        while (hu_now() < hu_endpoint_deadline(endpoint))
            ;
        writes_left = 1;
        hu_endpoint_flush(endpoint);
        assert(writes_left == 0);
    }
    for (int i = 0; i < SESSIONS; i++) {
        uint64_t size = hear(clients[i], buffer, &header);
        assert(size > 0 && header.type == HU_DATA);
    }
}

/* A group that has more to send than any round has room for. */
static void fill_beside_a_group(void) {
    hu_caster_options options = {.id = 1,
                                 .rate = HU_CAST_RATE_MAX,
                                 .history = 1 << 23,
                                 .datagram = 4000,
                                 .pattern_size = 1,
                                 .pattern = {'>'}};
    static uint8_t batch[1 << 19];
    uint8_t address[HU_TAP_PREFIX] = {0};
    hu_header header;
    struct sockaddr_in name;
    uint32_t control;
    int group = bound(&name);
    hu_caster *caster = hu_caster_new(&options, hu_now());
    assert(caster != NULL);
    ports[SESSIONS] = name.sin_port;
    memcpy(address, &name.sin_family, 2);
    memcpy(address + 2, &name.sin_port, 2);
    memcpy(address + 4, &name.sin_addr, 4);
    hu_core->batch_encode(batch, 1, 0, 0, 1, sizeof batch - 56, 1);
    int64_t taken = hu_caster_feed(caster, batch, sizeof batch, &control);
    assert(taken == sizeof batch);
    hu_endpoint_cast(endpoint, caster, address);
    fill_the_socket(2 * SESSIONS);
    uint64_t size = hear(group, buffer, &header);
    assert(size > 0 && header.stream == HU_GROUP_STREAM);
    hu_endpoint_cast(endpoint, NULL, NULL);
    hu_caster_free(caster);
    close(group);
}

static void run(const char *what) {
    if (strcmp(what, "large") == 0)
        narrow_one_route();
    else if (strcmp(what, "device") == 0)
        fail_one_device();
    else if (strcmp(what, "full") == 0)
        fill_the_socket(SESSIONS);
    else if (strcmp(what, "cast") == 0)
        fill_beside_a_group();
    else
        fail_one_route(atoi(what));
}

int main(int argc, char **argv) {
    struct sockaddr_in here, name;
    int fd = bound(&here), size = 0;
    socklen_t length = sizeof size;
    assert(argc == 2);
    hu_bind((uintptr_t)hm_api_get());
    has_trains = getsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, &length) == 0;
    hu_options options = {.fd = fd,
                          .tap_fd = -1,
                          .listens = 1,
                          .sessions_max = 4,
                          .datagram = 4000,
                          .liveness_ms = 10000,
                          .window = 65536,
                          .copy_size = 65536};
    int status = hu_endpoint_new(&options, &endpoint);
    assert(status == 0);
    for (int i = 0; i < SESSIONS; i++) {
        clients[i] = bound(&name);
        status = connect(clients[i], (const struct sockaddr *)&here, sizeof here);
        assert(status == 0);
        slots[i] = join(endpoint, clients[i], (uint64_t)i + 1);
        ports[i] = name.sin_port;
    }
    hu_endpoint_flush(endpoint); /* from now on the first is flushed first */
    run(argv[1]);
    hu_endpoint_free(endpoint);
    for (int i = 0; i < SESSIONS; i++)
        close(clients[i]);
    close(fd);
    printf("all were served\n");
    return 0;
}
