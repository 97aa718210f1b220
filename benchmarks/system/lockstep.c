/* lockstep.c -- one publisher and many subscribers in C, straight on the wire, in step.
 *
 *     lockstep FD PUBLISHER SIZE ROUNDS SUBSCRIBER_FD...
 *
 * FD is a connection on which Hello and Open have been answered (ack level none); on each of the
 * others a subscription has been.  A round publishes one message and waits until every subscriber
 * has it: so each delivery is a send of its own, and what a send costs cannot hide in a batch.
 * Prints `{}`, waits for a line on standard input, prints one JSON object, and keeps the
 * connections open until standard input ends.  The frames are trusted, not checked.
 */
#include "hm_frame.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#define BUFFER_BYTES   131072 /* a connection; holds the largest batch of one message */
#define SIZE_MAX_BYTES 65536
#define EVENTS         256

struct connection {
    int fd;
    uint64_t held; /* bytes in the buffer */
    uint8_t buffer[BUFFER_BYTES];
};

static uint64_t delivered;

static uint64_t clock_ns(clockid_t clock) {
    struct timespec time;

    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void publish(int fd, uint32_t publisher, uint32_t size, uint64_t sequence) {
    static uint8_t payload[SIZE_MAX_BYTES], out[2 * SIZE_MAX_BYTES];
    uint64_t now_ns = clock_ns(CLOCK_REALTIME), at = 0;
    int64_t frame =
        hm_frame_encode(out + HM_BATCH_HEADER, SIZE_MAX_BYTES + 1024, HM_MESSAGE,
                        (const uint8_t *)"bench.fan", 9, NULL, 0, payload, size, sequence, now_ns);

    if (frame < 0)
        exit(1);
    hm_batch_encode(out, publisher, 0, sequence - 1, sequence, (uint64_t)frame, now_ns);
    while (at < HM_BATCH_HEADER + (uint64_t)frame) {
        ssize_t done = send(fd, out + at, HM_BATCH_HEADER + (uint64_t)frame - at, MSG_NOSIGNAL);

        if (done < 0 && errno != EINTR)
            exit(1);
        at += done > 0 ? (uint64_t)done : 0;
    }
}

/* Counts the messages that are whole. */
static void take(struct connection *connection) {
    ssize_t got = recv(connection->fd, connection->buffer + connection->held,
                       BUFFER_BYTES - connection->held, MSG_DONTWAIT);
    uint64_t at = 0;

    if (got <= 0) {
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        fprintf(stderr, "lockstep: the broker hung up\n");
        exit(1);
    }
    connection->held += (uint64_t)got;
    while (connection->held - at >= HM_FRAME_HEADER) {
        hm_frame_header header;
        uint64_t size;

        memcpy(&header, connection->buffer + at, sizeof header);
        size = header.type == HM_BATCH ? HM_BATCH_HEADER
                                       : hm_frame_size(header.flags & 255, 0, header.payload_len);
        if (connection->held - at < size)
            break;
        delivered += header.type == HM_MESSAGE;
        at += size;
    }
    memmove(connection->buffer, connection->buffer + at, connection->held - at);
    connection->held -= at;
}

int main(int argc, char **argv) {
    struct epoll_event events[EVENTS];
    int epoll = epoll_create1(0);
    char line[16];

    if (argc < 6 || epoll < 0)
        return 2;
    int fd = atoi(argv[1]);
    uint32_t publisher = (uint32_t)strtoul(argv[2], NULL, 10);
    uint32_t size = (uint32_t)strtoul(argv[3], NULL, 10);
    uint64_t rounds = strtoull(argv[4], NULL, 10), subscribers = (uint64_t)argc - 5;
    struct connection *connections = calloc(subscribers, sizeof *connections);
    if (size > SIZE_MAX_BYTES || connections == NULL)
        return 2;
    for (uint64_t i = 0; i < subscribers; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &connections[i]};

        connections[i].fd = atoi(argv[5 + i]);
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, connections[i].fd, &event) != 0)
            return 1;
    }
    printf("{}\n");
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL)
        return 1;
    uint64_t start = clock_ns(CLOCK_MONOTONIC);
    for (uint64_t round = 1; round <= rounds; round++) {
        publish(fd, publisher, size, round);
        while (delivered < round * subscribers) {
            int ready = epoll_wait(epoll, events, EVENTS, -1);

            for (int i = 0; i < ready; i++)
                take(events[i].data.ptr);
        }
    }
    printf("{\"start_ns\": %llu, \"end_ns\": %llu, \"messages\": %llu}\n",
           (unsigned long long)start, (unsigned long long)clock_ns(CLOCK_MONOTONIC),
           (unsigned long long)delivered);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL)
        ;
    return 0;
}
