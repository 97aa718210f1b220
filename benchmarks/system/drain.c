/* drain.c -- subscribers in C, straight on the wire: counts what many connections receive.
 *
 *     drain COUNT FD...
 *
 * On each FD a subscription has been answered.  Counts the messages of all batches until there are
 * COUNT.  Prints `{}`, waits for a line on standard input, and prints one JSON object.  The
 * frames are trusted, not checked.
 */
#include "hm_frame.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#define BUFFER_BYTES 65536 /* a connection; larger batches are walked in parts */
#define EVENTS       256

struct connection {
    int fd;
    uint64_t held;  /* bytes in the buffer */
    uint64_t batch; /* bytes of the current batch's frames that are still to come */
    uint8_t buffer[BUFFER_BYTES];
};

static uint64_t messages, batches, reads;

static uint64_t now_ns(void) {
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Size of what stands at `at` and may be skipped as a whole; 0 if more bytes must come first. */
static uint64_t step(struct connection *connection, const uint8_t *at, uint64_t held) {
    hm_frame_header header;
    uint64_t size;

    if (held < HM_FRAME_HEADER)
        return 0;
    memcpy(&header, at, sizeof header);
    if (header.type == HM_BATCH) {
        if (held < HM_BATCH_HEADER)
            return 0;
        connection->batch = header.payload_len - HM_BATCH_PREFIX;
        batches++;
        return HM_BATCH_HEADER;
    }
    size = hm_frame_size(header.flags & 255, 0, header.payload_len);
    if (held < size)
        return 0;
    if (header.type == HM_MESSAGE) {
        connection->batch -= size;
        messages++;
    }
    return size;
}

static void take(struct connection *connection) {
    ssize_t got = recv(connection->fd, connection->buffer + connection->held,
                       BUFFER_BYTES - connection->held, MSG_DONTWAIT);
    uint64_t at = 0, size;

    if (got <= 0) {
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        fprintf(stderr, "drain: the broker hung up\n");
        exit(1);
    }
    reads++;
    connection->held += (uint64_t)got;
    while ((size = step(connection, connection->buffer + at, connection->held - at)) > 0)
        at += size;
    memmove(connection->buffer, connection->buffer + at, connection->held - at);
    connection->held -= at;
}

int main(int argc, char **argv) {
    uint64_t count = argc > 2 ? strtoull(argv[1], NULL, 10) : 0;
    struct connection *connections = calloc((size_t)argc, sizeof *connections);
    struct epoll_event events[EVENTS];
    int epoll = epoll_create1(0);
    uint64_t start = 0;
    char line[16];

    if (argc < 3 || connections == NULL || epoll < 0)
        return 2;
    for (int i = 2; i < argc; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &connections[i]};

        connections[i].fd = atoi(argv[i]);
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, connections[i].fd, &event) != 0)
            return 1;
    }
    printf("{}\n");
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL)
        return 1;
    while (messages < count) {
        int ready = epoll_wait(epoll, events, EVENTS, -1);

        start = start == 0 ? now_ns() : start;
        for (int i = 0; i < ready; i++)
            take(events[i].data.ptr);
    }
    printf("{\"start_ns\": %llu, \"end_ns\": %llu, \"messages\": %llu, \"batches\": %llu, "
           "\"reads\": %llu}\n",
           (unsigned long long)start, (unsigned long long)now_ns(), (unsigned long long)messages,
           (unsigned long long)batches, (unsigned long long)reads);
    return 0;
}
