/* fuzz_dial.c -- any datagrams to a client of the udp transport: while it dials, and then, with a
 * session and a group beside it, by either socket.
 *
 * What reads and writes datagrams is ours, and so are the clock and the nonce.  The input is a list
 * of events of four bytes and what follows:
 *
 *     what (u8 % 6)  0..2 a datagram by the session's socket, 3 one by the group's, 4 bytes are
 *                    pushed, 5 so many times 1 ms pass
 *     how  (u8)      for a datagram: bits of what is set right in it (below)
 *     size (u16)     of the datagram, whose bytes follow, or of what is pushed
 *
 * Beside what the sanitizers see, these must hold:
 *   - what is sent is sound: set-ups, with the nonce, until there is a session, and then its
 *     datagrams and calls in its name, and that other sessions are unknown;
 *   - there is a session only after a challenge and an acceptance that have the nonce;
 *   - what comes by the group's socket changes nothing unless it is the caster's;
 *   - no event makes more than a window's datagrams leave, and a few.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/random.h>

#include "hu_dial.h"

#include "fuzz_clock.h"
#include "fuzz_driver.h"

#define EVENTS      64 /* of an input: the rest is left */
#define HEAD        4u /* bytes */
#define SIZE_MAX_   2048
#define WINDOW      65536u
#define DATAGRAM    1408u
#define NONCE_      0x0706050403020100u
#define CAST        7u
#define CASTER_PORT 50
#define OTHER_PORT  51
#define LIVENESS    1000 /* ms */
#define BEGIN_NS    1000000000u
#define NS_PER_MS   1000000u
#define ANSWERS     64 /* datagrams: a window of them, and a few */

enum { RAW = 1, OURS = 2, GROUPED = 4, STRANGER = 8, SMALL_WINDOW = 16 };

static struct {
    uint8_t bytes[SIZE_MAX_];
    uint64_t size; /* 0: nothing comes */
    int grouped;   /* by the group's socket */
    in_port_t port;
} incoming;
static int asked = -1, asked_too = -1; /* what the kernel can do, and nothing else */
static uint64_t session, sent_now, challenged, accepted;

/* ---- the system ---- */

ssize_t getrandom(void *buffer, size_t size, unsigned flags) {
    (void)flags;
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)buffer)[i] = (uint8_t)i;
    return (ssize_t)size;
}

int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask) {
    (void)fds, (void)timeout, (void)mask;
    must(count == 1);
    return incoming.size > 0 && !incoming.grouped;
}

static ssize_t take(int fd, void *out, size_t room) {
    if (incoming.size == 0 || (fd == asked_too) != incoming.grouped) {
        errno = EAGAIN;
        return -1;
    }
    must(room >= incoming.size);
    memcpy(out, incoming.bytes, incoming.size);
    ssize_t size = (ssize_t)incoming.size;
    incoming.size = 0;
    return size;
}

ssize_t recv(int fd, void *out, size_t room, int flags) {
    (void)flags;
    return take(fd, out, room);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_port = incoming.port};
    (void)flags;
    ssize_t size = take(fd, message->msg_iov[0].iov_base, message->msg_iov[0].iov_len);
    if (size < 0)
        return -1;
    must(message->msg_namelen >= sizeof from);
    memcpy(message->msg_name, &from, sizeof from);
    message->msg_controllen = 0;
    return size;
}

int recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags,
             struct timespec *timeout) {
    (void)timeout;
    must(count > 0);
    ssize_t size = recvmsg(fd, &messages[0].msg_hdr, flags);
    messages[0].msg_len = size < 0 ? 0 : (unsigned)size;
    return size < 0 ? -1 : 1;
}

static void look_at(const uint8_t *data, uint64_t size) {
    hu_header header;
    must(hu_header_decode(data, size, &header) == 0);
    must(size <= DATAGRAM && ++sent_now <= ANSWERS);
    if (header.type == HU_REQUEST || header.type == HU_CONFIRM) {
        must(session == 0 && header.session == NONCE_);
        must(header.type == HU_REQUEST || challenged > 0);
        return;
    }
    must(session != 0 && header.type <= HU_RESET);
    must(header.session == session || header.type == HU_RESET);
    must(header.stream == 0 || (header.stream == HU_GROUP_STREAM && header.type == HU_STATUS));
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    static uint8_t whole[HU_DATAGRAM_MAX];
    struct cmsghdr *head = CMSG_FIRSTHDR(message);
    uint64_t size = 0;
    (void)flags;
    must(fd == asked);
    for (size_t i = 0; i < message->msg_iovlen; i++) {
        must(message->msg_iov[i].iov_len <= sizeof whole - size);
        memcpy(whole + size, message->msg_iov[i].iov_base, message->msg_iov[i].iov_len);
        size += message->msg_iov[i].iov_len;
    }
    uint16_t given = 0;
    if (head != NULL)
        memcpy(&given, CMSG_DATA(head), sizeof given);
    uint64_t segment = given > 0 ? given : size;
    for (uint64_t at = 0; at < size; at += segment)
        look_at(whole + at, size - at < segment ? size - at : segment);
    return (ssize_t)size;
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic" /* glibc's own take a union of pointers */
ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to,
               socklen_t to_size) {
    (void)flags, (void)to, (void)to_size;
    must(fd == asked);
    look_at(data, size);
    return (ssize_t)size;
}

ssize_t send(int fd, const void *data, size_t size, int flags) {
    (void)flags;
    must(fd == asked);
    look_at(data, size);
    return (ssize_t)size;
}

int getpeername(int fd, struct sockaddr *name, socklen_t *size) {
    struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = CASTER_PORT};
    must(fd == asked && *size >= sizeof peer);
    memcpy(name, &peer, sizeof peer);
    *size = sizeof peer;
    return 0;
}
#pragma GCC diagnostic pop

/* ---- what comes ---- */

/* Makes a datagram out of anything that is long enough. */
static void mend(uint8_t *data, uint64_t size, int how) {
    uint64_t id = (how & GROUPED) != 0 ? CAST : session != 0 ? session : NONCE_;
    if (size < HU_HEADER || (how & RAW) != 0)
        return;
    memcpy(data, "HU\1", 3);
    data[3] = (uint8_t)(1 + data[3] % HU_BEACON);
    if (how & (OURS | GROUPED))
        memcpy(data + 8, &id, sizeof id);
    if (how & GROUPED) {
        data[3] = data[3] % 2 == 0 ? HU_BEACON : HU_DATA;
        data[46] = HU_GROUP_STREAM;
        data[47] = 0;
    }
    if ((how & SMALL_WINDOW) != 0 && data[3] == HU_BEACON &&
        size >= HU_HEADER + HU_BEACON_FIXED) /* large ones only cost time */
        memcpy(data + HU_HEADER + 16, "\0\0\1\0", 4);
    hu_seal(data, size);
}

static void deliver(const uint8_t *data, uint64_t size, int how, int grouped) {
    hu_header header;
    memcpy(incoming.bytes, data, size);
    mend(incoming.bytes, size, how);
    incoming.size = size;
    incoming.grouped = grouped;
    incoming.port = (how & STRANGER) != 0 ? OTHER_PORT : CASTER_PORT;
    if (session != 0 || grouped || hu_header_decode(incoming.bytes, size, &header) != 0 ||
        header.session != NONCE_)
        return;
    challenged += header.type == HU_CHALLENGE;
    accepted += header.type == HU_ACCEPT && challenged > 0;
}

/* ---- the client ---- */

typedef struct {
    hu_dial *dial;
    hu_endpoint *endpoint; /* NULL: it dials yet */
    hu_group *group;
    int over;
} client;

static void look_at_group(hu_group *group) {
    hu_bytes bytes;
    hu_group_bytes(group, &bytes);
    hu_group_consume(group, bytes.size[0] + bytes.size[1]);
    hu_group_skip(group);
}

static void work(client *c) {
    static hu_event events[HU_EVENTS_MAX];
    uint32_t count = hu_endpoint_poll(c->endpoint, events);
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *data;
        uint64_t size;
        must(events[i].slot == 0 && (events[i].flags & HU_NEW) == 0);
        c->over |= (events[i].flags & HU_LOST) != 0;
        while ((size = hu_endpoint_readable(c->endpoint, 0, &data)) > 0)
            hu_endpoint_consume(c->endpoint, 0, size);
    }
    if (!c->over)
        hu_endpoint_flush(c->endpoint);
    look_at_group(c->group);
}

static void settle(client *c) {
    for (int i = 0; i < 8 && !c->over && c->endpoint != NULL; i++)
        work(c);
    incoming.size = 0;
}

static void go_on_dialling(client *c) {
    int fd, status = hu_dial_step(c->dial, 0);
    if (status != 0) {
        c->over = status != HU_DIAL_GOING;
        return;
    }
    must(challenged > 0 && accepted > 0);
    c->endpoint = hu_dial_take(c->dial, &fd);
    session = hu_session_id(hu_endpoint_session(c->endpoint, 0));
    must(fd == asked);
    c->over = session == 0; /* as good as any, but not for what is looked at here */
    c->group = hu_group_new(LIVENESS, 1, now_ns);
    must(c->group != NULL);
    hu_endpoint_join(c->endpoint, c->group, asked_too);
}

static void take_cast(client *c, int how) {
    hu_group_counters before, after;
    hu_receiver_counters receiver;
    hu_group_count(c->group, &before, &receiver);
    settle(c);
    hu_group_count(c->group, &after, &receiver);
    if (how & STRANGER)
        must(before.beacons == after.beacons && before.datagrams == after.datagrams &&
             before.foreign == after.foreign);
}

/* One event; returns its bytes. */
static size_t step(client *c, const uint8_t *data, size_t left) {
    static const uint8_t stream[SIZE_MAX_];
    uint8_t what = data[0] % 6, how = data[1];
    uint64_t size = ((uint64_t)data[2] | (uint64_t)data[3] << 8) % SIZE_MAX_;
    sent_now = 0;
    if (what <= 3) {
        size = size < left - HEAD ? size : left - HEAD;
        deliver(data + HEAD, size, how, what == 3 && c->endpoint != NULL);
        if (c->endpoint == NULL)
            go_on_dialling(c);
        else if (what == 3)
            take_cast(c, how);
        settle(c);
        return HEAD + size;
    }
    if (what == 5)
        now_ns += size * NS_PER_MS;
    else if (c->endpoint != NULL)
        hu_endpoint_push(c->endpoint, 0, stream, size);
    if (c->endpoint == NULL)
        go_on_dialling(c);
    settle(c);
    return HEAD;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const uint32_t sizes[] = {DATAGRAM, 600};
    if (asked < 0) {
        hu_bind((uintptr_t)hm_api_get());
        asked = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        asked_too = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    }
    hu_options options = {.fd = asked,
                          .tap_fd = -1,
                          .sessions_max = 1,
                          .datagram = DATAGRAM,
                          .liveness_ms = LIVENESS,
                          .window = WINDOW,
                          .copy_size = WINDOW};
    client c = {0};
    now_ns = BEGIN_NS;
    session = sent_now = challenged = accepted = incoming.size = 0;
    c.dial = hu_dial_new(&options, sizes, 2, 5000 * (int64_t)NS_PER_MS);
    must(c.dial != NULL);
    go_on_dialling(&c);
    for (size_t at = 0, count = 0; size - at >= HEAD && count < EVENTS && !c.over; count++)
        at += step(&c, data + at, size - at);
    hu_dial_free(c.dial);
    hu_endpoint_free(c.endpoint);
    hu_group_free(c.group);
    now_ns = 0;
    return 0;
}
