/* batches.c -- a publisher that puts every message into a batch of its own, straight on the wire.
 *
 *     batches FD PUBLISHER TOPIC SIZE PER_CALL COUNT
 *
 * FD is a connection on which Hello and Open have been answered (ack level none).  Writes COUNT
 * messages of SIZE bytes, PER_CALL one-message batches per system call.  Prints `ready`, waits for
 * a line on standard input, prints one JSON object, and keeps the connection open until standard
 * input ends.
 */
#include "hm_frame.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static uint64_t clock_ns(clockid_t clock) {
    struct timespec time;

    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void write_all(int fd, const uint8_t *from, uint64_t size) {
    static uint8_t ignored[4096];

    while (size > 0) {
        ssize_t done = send(fd, from, size, MSG_NOSIGNAL);

        if (done < 0 && errno != EINTR)
            fail("send");
        if (done > 0) {
            from += done;
            size -= (uint64_t)done;
        }
        while (recv(fd, ignored, sizeof ignored, MSG_DONTWAIT) > 0)
            ; /* a broker may have something to say; not to us */
    }
}

static uint64_t encode(uint8_t *out, uint32_t publisher, const char *topic, uint32_t size,
                       uint64_t sequence, uint64_t now_ns) {
    static uint8_t payload[65536];
    uint32_t topic_len = (uint32_t)strlen(topic);
    int64_t frame =
        hm_frame_encode(out + HM_BATCH_HEADER, UINT32_MAX, HM_MESSAGE, (const uint8_t *)topic,
                        topic_len, NULL, 0, payload, size, sequence, now_ns);

    if (frame < 0)
        exit(1);
    hm_batch_encode(out, publisher, 0, sequence - 1, sequence, (uint64_t)frame, now_ns);
    return HM_BATCH_HEADER + (uint64_t)frame;
}

int main(int argc, char **argv) {
    char line[16];
    uint64_t start, count, per_call, sequence = 0;
    uint32_t publisher, size;
    uint8_t *buffer;
    int fd;

    if (argc != 7)
        return 2;
    fd = atoi(argv[1]);
    publisher = (uint32_t)strtoul(argv[2], NULL, 10);
    size = (uint32_t)strtoul(argv[4], NULL, 10);
    per_call = strtoull(argv[5], NULL, 10);
    count = strtoull(argv[6], NULL, 10);
    buffer = malloc(per_call * (HM_BATCH_HEADER + HM_FRAME_HEADER + HM_TOPIC_MAX + size + 16));
    if (buffer == NULL || size > 65536)
        return 1;
    printf("ready\n");
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL)
        return 1;
    start = clock_ns(CLOCK_MONOTONIC);
    while (sequence < count) {
        uint64_t now_ns = clock_ns(CLOCK_REALTIME);
        uint64_t bytes = 0;

        for (uint64_t i = 0; i < per_call && sequence < count; i++)
            bytes += encode(buffer + bytes, publisher, argv[3], size, ++sequence, now_ns);
        write_all(fd, buffer, bytes);
    }
    printf("{\"start_ns\": %llu, \"end_ns\": %llu, \"messages\": %llu}\n",
           (unsigned long long)start, (unsigned long long)clock_ns(CLOCK_MONOTONIC),
           (unsigned long long)count);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL)
        ;
    return 0;
}
