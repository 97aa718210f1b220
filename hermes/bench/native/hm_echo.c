/* hm_echo.c -- the UDP echo and the client that counts its answers. */
#include "hm_echo.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "hm_error.h"

#define BATCH 32 /* datagrams of one system call */
#define STALE_NS                                                                                   \
    200000000 /* loopback delivers at once, but who answers may have to wait for a core */
#define ROOM_NS 1000000000 /* a socket that takes nothing for a second is broken */

/* Datagrams of one call, and room for as many. */
struct batch {
    struct mmsghdr headers[BATCH];
    struct iovec places[BATCH];
    struct sockaddr_in peers[BATCH];
    uint8_t *memory;
};

/* Marks a message as one of the pass that began at `start_ns`, if it has room for that. */
static void tag(uint8_t *message, uint32_t size, uint64_t start_ns) {
    if (size >= sizeof start_ns)
        memcpy(message, &start_ns, sizeof start_ns);
}

/* Whether a message is one of that pass: a late one of an earlier pass is lost, and was counted as
 * such. */
static int is_tagged(const uint8_t *message, uint32_t size, uint64_t start_ns) {
    return size < sizeof start_ns || memcmp(message, &start_ns, sizeof start_ns) == 0;
}

static struct batch *batch_new(uint32_t size) {
    struct batch *batch = calloc(1, sizeof *batch);
    uint8_t *memory = calloc(BATCH, size);

    if (batch == NULL || memory == NULL) {
        free(batch);
        free(memory);
        return NULL;
    }
    batch->memory = memory;
    for (uint32_t i = 0; i < BATCH; i++) {
        batch->places[i] = (struct iovec){memory + (size_t)i * size, size};
        batch->headers[i].msg_hdr.msg_iov = &batch->places[i];
        batch->headers[i].msg_hdr.msg_iovlen = 1;
    }
    return batch;
}

static void batch_free(struct batch *batch) {
    if (batch != NULL)
        free(batch->memory);
    free(batch);
}

static int would_block(void) {
    /* ECONNREFUSED is an answer to an earlier datagram, not to this call. */
    return errno == EAGAIN || errno == EINTR || errno == ENOBUFS || errno == ECONNREFUSED;
}

/* Sends the first `count` of the batch; waits where the socket has no room. */
static int send_batch(int fd, struct batch *batch, uint32_t count) {
    static const hm_patience patience = {.spin_ns = 0, .idle_ns = ROOM_NS};
    uint64_t since = hm_pace_now();
    uint32_t sent = 0;

    while (sent < count) {
        int done = sendmmsg(fd, batch->headers + sent, count - sent, MSG_DONTWAIT);
        int result;

        if (done > 0) {
            sent += (uint32_t)done;
            continue;
        }
        if (!would_block())
            return -HM_ESYS;
        result = hm_pace_wait(fd, POLLOUT, &patience, since);
        if (result < 0)
            return result;
    }
    return 0;
}

/* Returns how many came, 0: none is there. */
static int receive_batch(int fd, struct batch *batch, uint32_t count) {
    int got = recvmmsg(fd, batch->headers, count, MSG_DONTWAIT, NULL);

    if (got < 0)
        return would_block() ? 0 : -HM_ESYS;
    return got;
}

int hm_echo_run(int fd, uint32_t size, uint32_t copies, const hm_patience *patience) {
    struct batch *batch = batch_new(size);
    uint64_t since = hm_pace_now();
    int result = 0;

    assert(copies >= 1);
    if (batch == NULL)
        return -HM_ENOMEM;
    while (result >= 0) {
        int got;

        for (uint32_t i = 0; i < BATCH; i++) {
            batch->headers[i].msg_hdr.msg_name = &batch->peers[i];
            batch->headers[i].msg_hdr.msg_namelen = sizeof batch->peers[i];
            batch->places[i].iov_len = size;
        }
        got = receive_batch(fd, batch, BATCH);
        if (got == 0) {
            result = hm_pace_wait(fd, POLLIN, patience, since);
            continue;
        }
        for (int i = 0; i < got; i++)
            batch->places[i].iov_len = batch->headers[i].msg_len;
        if (got < 0 || batch->headers[got - 1].msg_len == 0) {
            result = got < 0 ? got : 0;
            break;
        }
        for (uint32_t copy = 0; result == 0 && copy < copies; copy++)
            result = send_batch(fd, batch, (uint32_t)got);
        since = hm_pace_now();
    }
    batch_free(batch);
    return result;
}

int hm_echo_flood(int fd, uint32_t size, uint64_t count, uint32_t window, uint32_t copies,
                  const hm_patience *patience, uint64_t *start_ns, hm_tally *tally) {
    struct batch *out = batch_new(size), *in = batch_new(size);
    uint64_t sent = 0, expected = 0, since;
    int result = out == NULL || in == NULL ? -HM_ENOMEM : 0;

    assert(window >= 1);
    assert(copies >= 1);
    *start_ns = since = hm_pace_now();
    for (uint32_t i = 0; result == 0 && i < BATCH; i++)
        tag(out->places[i].iov_base, size, *start_ns);
    while (result >= 0 && (sent < count || expected > 0)) {
        uint64_t room = expected / copies < window ? window - expected / copies : 0;
        uint64_t part = count - sent < room ? count - sent : room;
        uint64_t now;
        int got;

        part = part < BATCH ? part : BATCH;
        if (part > 0 && (result = send_batch(fd, out, (uint32_t)part)) == 0) {
            sent += part;
            expected += part * copies;
        }
        got = result < 0 ? 0 : receive_batch(fd, in, BATCH);
        result = got < 0 ? got : result;
        if (got > 0) {
            uint64_t ours = 0;

            for (int i = 0; i < got; i++)
                ours += (uint64_t)is_tagged(in->places[i].iov_base, size, *start_ns);
            since = hm_pace_now();
            hm_tally_add(tally, ours, since);
            expected -= ours < expected ? ours : expected;
            continue;
        }
        now = hm_pace_now();
        if (now > since + STALE_NS) {
            expected = 0; /* they are lost */
            since = now;
        } else if (part == 0) {
            hm_patience moment = {patience->spin_ns, STALE_NS};

            if (hm_pace_wait(fd, POLLIN, &moment, since) == -HM_ETIMEDOUT)
                expected = 0;
        }
    }
    batch_free(out);
    batch_free(in);
    return result;
}

/* Takes what has come back of paced datagrams. */
static int take_echoes(int fd, struct batch *in, uint64_t count, uint64_t start_ns,
                       int64_t *latencies, hm_tally *tally) {
    int got = receive_batch(fd, in, BATCH);
    uint64_t now = hm_pace_now();

    for (int i = 0; i < got && tally->delivered < count; i++) {
        uint64_t due;

        memcpy(&due, in->places[i].iov_base, sizeof due);
        if (due < start_ns)
            continue; /* of an earlier pass */
        latencies[tally->delivered] = (int64_t)(now - due);
        hm_tally_add(tally, 1, now);
    }
    return got;
}

int hm_echo_pace(int fd, uint32_t size, uint64_t count, const hm_schedule *schedule,
                 const hm_patience *patience, int64_t *latencies, hm_tally *tally,
                 uint64_t *late_ns) {
    struct batch *out = batch_new(size), *in = batch_new(size);
    uint64_t sent = 0, since = schedule->start_ns;
    int result = out == NULL || in == NULL ? -HM_ENOMEM : 0;

    assert(size >= sizeof(uint64_t));
    *late_ns = 0;
    while (result >= 0 && tally->delivered < count) {
        uint64_t now = hm_pace_now(), due = hm_pace_due(schedule, sent);
        int got;

        if (sent < count && now >= due) {
            *late_ns = now - due > *late_ns ? now - due : *late_ns;
            memcpy(out->places[0].iov_base, &due, sizeof due);
            result = send_batch(fd, out, 1);
            sent++;
            since = now;
            continue;
        }
        got = take_echoes(fd, in, count, schedule->start_ns, latencies, tally);
        result = got < 0 ? got : 0;
        if (got == 0 && sent == count && now > since + STALE_NS)
            break; /* the rest is lost */
        if (got == 0 && patience->spin_ns >= 0 && sent < count && due > now + 200000) {
            struct pollfd wanted = {.fd = fd, .events = POLLIN};
            struct timespec until = {0, (long)(due - now < 1000000 ? due - now - 100000 : 900000)};

            ppoll(&wanted, 1, &until, NULL); /* what comes back ends it */
        }
    }
    batch_free(out);
    batch_free(in);
    return result < 0 ? result : 0;
}

int hm_echo_pingpong(int fd, uint32_t size, uint64_t count, const hm_patience *patience,
                     int64_t *latencies, hm_tally *tally) {
    hm_patience moment = {patience->spin_ns, STALE_NS};
    uint8_t *buffer;
    int result = 0;

    assert(size >= 1);
    buffer = calloc(1, size);
    if (buffer == NULL)
        return -HM_ENOMEM;
    for (uint64_t i = 0; result >= 0 && i < count; i++) {
        uint64_t start = hm_pace_now();
        ssize_t got = -1;

        tag(buffer, size, start);
        if (send(fd, buffer, size, 0) < 0 && !would_block())
            result = -HM_ESYS;
        while (result == 0) {
            got = recv(fd, buffer, size, MSG_DONTWAIT);
            if (got >= 0 && is_tagged(buffer, size, start))
                break;
            if (got < 0)
                result = would_block() ? hm_pace_wait(fd, POLLIN, &moment, start) : -HM_ESYS;
        }
        if (result == 0) {
            uint64_t now = hm_pace_now();

            latencies[tally->delivered] = (int64_t)(now - start);
            hm_tally_add(tally, 1, now);
        }
        result = result == -HM_ETIMEDOUT ? 0 : result; /* that one is lost */
    }
    free(buffer);
    return result < 0 ? result : 0;
}
