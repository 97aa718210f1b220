/* hm_relay.c -- a relay of bytes between stream sockets, and its two ends. */
#include "hm_relay.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "hm_error.h"

/* Returns bytes, 0 at the end of input, -HM_ETIMEDOUT or -HM_ESYS. */
static int64_t read_some(int fd, uint8_t *to, uint64_t size, const hm_patience *patience) {
    uint64_t since = 0;

    for (;;) {
        ssize_t got = recv(fd, to, size, MSG_DONTWAIT);
        int result;

        if (got >= 0)
            return got;
        if (errno == ECONNRESET)
            return 0;
        if (errno != EAGAIN && errno != EINTR)
            return -HM_ESYS;
        since = since == 0 ? hm_pace_now() : since;
        result = hm_pace_wait(fd, POLLIN, patience, since);
        if (result < 0)
            return result;
    }
}

static int write_all(int fd, const uint8_t *from, uint64_t size, const hm_patience *patience) {
    uint64_t since = 0;

    while (size > 0) {
        ssize_t done = send(fd, from, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        int result;

        if (done > 0) {
            from += done;
            size -= (uint64_t)done;
            since = 0;
            continue;
        }
        if (errno != EAGAIN && errno != EINTR)
            return -HM_ESYS;
        since = since == 0 ? hm_pace_now() : since;
        result = hm_pace_wait(fd, POLLOUT, patience, since);
        if (result < 0)
            return result;
    }
    return 0;
}

/* Reads a whole message.  Returns 1, 0 at the end of input or patience, or -HM_ESYS. */
static int read_message(int fd, uint8_t *to, uint32_t size, const hm_patience *patience) {
    for (uint64_t held = 0; held < size;) {
        int64_t got = read_some(fd, to + held, size - held, patience);

        if (got <= 0)
            return got == -HM_ESYS ? -HM_ESYS : 0;
        held += (uint64_t)got;
    }
    return 1;
}

int hm_relay_run(int source, const int *sinks, uint32_t count, uint32_t read_bytes,
                 const hm_patience *patience) {
    uint8_t *buffer;
    int64_t got = 0;
    int result = 0;

    assert(count >= 1 && count <= HM_RELAY_SINKS);
    assert(read_bytes >= 1);
    buffer = malloc(read_bytes);
    if (buffer == NULL)
        return -HM_ENOMEM;
    while (result == 0 && (got = read_some(source, buffer, read_bytes, patience)) > 0)
        for (uint32_t i = 0; result == 0 && i < count; i++)
            result = write_all(sinks[i], buffer, (uint64_t)got, patience);
    free(buffer);
    return result < 0 ? result : (int)got;
}

int hm_relay_load(int fd, uint32_t size, uint64_t count, uint32_t write_bytes,
                  const hm_patience *patience, uint64_t *start_ns) {
    uint64_t left = size * count;
    uint8_t *buffer;
    int result = 0;

    assert(size >= 1);
    assert(write_bytes >= 1);
    buffer = calloc(1, write_bytes);
    if (buffer == NULL)
        return -HM_ENOMEM;
    *start_ns = hm_pace_now();
    while (result == 0 && left > 0) {
        uint64_t part = left < write_bytes ? left : write_bytes;

        result = write_all(fd, buffer, part, patience);
        left -= part;
    }
    free(buffer);
    return result;
}

int hm_relay_drain(int fd, uint32_t size, uint64_t count, const hm_patience *patience,
                   hm_tally *tally) {
    uint8_t *buffer = malloc(HM_RELAY_BYTES);
    uint64_t held = 0;
    int64_t got = 0;

    assert(size >= 1);
    if (buffer == NULL)
        return -HM_ENOMEM;
    while (tally->delivered < count) {
        uint64_t left = (count - tally->delivered) * size - held;

        got = read_some(fd, buffer, left < HM_RELAY_BYTES ? left : HM_RELAY_BYTES, patience);
        if (got <= 0)
            break;
        held += (uint64_t)got;
        if (held >= size)
            hm_tally_add(tally, held / size, hm_pace_now());
        held %= size;
    }
    free(buffer);
    return got == -HM_ESYS ? -HM_ESYS : 0;
}

int hm_relay_pace(int fd, uint32_t size, uint64_t count, const hm_schedule *schedule,
                  const hm_patience *patience, uint64_t *late_ns) {
    uint8_t *buffer;
    int result = 0;

    assert(size >= sizeof(uint64_t));
    buffer = calloc(1, size);
    if (buffer == NULL)
        return -HM_ENOMEM;
    *late_ns = 0;
    for (uint64_t i = 0; result == 0 && i < count; i++) {
        uint64_t due = hm_pace_due(schedule, i), now;

        hm_pace_until(due);
        now = hm_pace_now();
        *late_ns = now - due > *late_ns ? now - due : *late_ns;
        memcpy(buffer, &due, sizeof due);
        result = write_all(fd, buffer, size, patience);
    }
    free(buffer);
    return result;
}

int hm_relay_hear(int fd, uint32_t size, uint64_t count, const hm_patience *patience,
                  int64_t *latencies, hm_tally *tally) {
    uint8_t *buffer;
    int result = 1;

    assert(size >= sizeof(uint64_t));
    buffer = malloc(size);
    if (buffer == NULL)
        return -HM_ENOMEM;
    while (tally->delivered < count && (result = read_message(fd, buffer, size, patience)) > 0) {
        uint64_t due, now = hm_pace_now();

        memcpy(&due, buffer, sizeof due);
        latencies[tally->delivered] = (int64_t)(now - due);
        hm_tally_add(tally, 1, now);
    }
    free(buffer);
    return result < 0 ? result : 0;
}

int hm_relay_pingpong(int fd, uint32_t size, uint64_t count, const hm_patience *patience,
                      int64_t *latencies, hm_tally *tally) {
    uint8_t *buffer;
    int result = 0;

    assert(size >= 1);
    buffer = calloc(1, size);
    if (buffer == NULL)
        return -HM_ENOMEM;
    while (result >= 0 && tally->delivered < count) {
        uint64_t start = hm_pace_now(), now;

        result = write_all(fd, buffer, size, patience);
        if (result == 0)
            result = read_message(fd, buffer, size, patience);
        if (result <= 0)
            break;
        now = hm_pace_now();
        latencies[tally->delivered] = (int64_t)(now - start);
        hm_tally_add(tally, 1, now);
    }
    free(buffer);
    return result < 0 ? result : 0;
}
