/* generate.c -- a publisher in C, straight on the wire: what is left is the broker's time.
 *
 *     generate FD PUBLISHER TOPICS SIZE PER_BATCH PER_CALL COUNT
 *
 * FD is a connection on which Hello and Open have been answered (ack level none).  Writes COUNT
 * messages of SIZE bytes, PER_BATCH to a batch, PER_CALL messages per system call, round robin over
 * TOPICS topics `t.A.B` with A = i % 1000 and B = i / 1000.  Prints `{}`, waits for a line on
 * standard input, prints one JSON object, and keeps the connection open until standard input ends.
 */
#include "hm_frame.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define SIZE_MAX_BYTES 65536
#define TOPIC_BYTES    24

static struct {
    char name[TOPIC_BYTES];
    uint32_t size;
} *topics;

static uint64_t clock_ns(clockid_t clock) {
    struct timespec time;

    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void *allocate(uint64_t size) {
    void *memory = calloc(1, size);

    if (memory == NULL)
        exit(1);
    return memory;
}

static void name_topics(uint64_t count) {
    topics = allocate(count * sizeof *topics);
    for (uint64_t i = 0; i < count; i++)
        topics[i].size = (uint32_t)snprintf(topics[i].name, TOPIC_BYTES, "t.%u.%u",
                                            (unsigned)(i % 1000), (unsigned)(i / 1000));
}

static void write_all(int fd, const uint8_t *from, uint64_t size) {
    static uint8_t ignored[4096];

    while (size > 0) {
        ssize_t done = send(fd, from, size, MSG_NOSIGNAL);

        if (done < 0 && errno != EINTR) {
            perror("send");
            exit(1);
        }
        if (done > 0) {
            from += done;
            size -= (uint64_t)done;
        }
    }
    while (recv(fd, ignored, sizeof ignored, MSG_DONTWAIT) > 0)
        ; /* a broker may have something to say; not to us */
}

/* One batch of `count` messages with the sequences behind `after`.  Returns its size. */
static uint64_t encode(uint8_t *out, uint32_t publisher, uint64_t topic_count, uint32_t size,
                       uint64_t after, uint64_t count, uint64_t now_ns) {
    static uint8_t payload[SIZE_MAX_BYTES];
    uint64_t bytes = HM_BATCH_HEADER;

    for (uint64_t sequence = after + 1; sequence <= after + count; sequence++) {
        uint64_t topic = (sequence - 1) % topic_count;
        int64_t frame = hm_frame_encode(out + bytes, UINT32_MAX, HM_MESSAGE,
                                        (const uint8_t *)topics[topic].name, topics[topic].size,
                                        NULL, 0, payload, size, sequence, now_ns);

        if (frame < 0)
            exit(1);
        bytes += (uint64_t)frame;
    }
    hm_batch_encode(out, publisher, 0, after, after + count, bytes - HM_BATCH_HEADER, now_ns);
    return bytes;
}

static uint64_t least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

int main(int argc, char **argv) {
    uint64_t numbers[8] = {0};
    uint64_t start, topic_count, per_batch, per_call, count, sent = 0;
    char line[16];
    uint8_t *buffer;

    if (argc != 8)
        return 2;
    for (int i = 1; i < argc; i++)
        numbers[i] = strtoull(argv[i], NULL, 10);
    topic_count = numbers[3];
    per_batch = numbers[5];
    per_call = numbers[6];
    count = numbers[7];
    if (numbers[4] > SIZE_MAX_BYTES)
        return 2;
    name_topics(topic_count);
    buffer =
        allocate(per_call * (HM_BATCH_HEADER + HM_FRAME_HEADER + TOPIC_BYTES + 16 + numbers[4]));
    printf("{}\n");
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL)
        return 1;
    start = clock_ns(CLOCK_MONOTONIC);
    while (sent < count) {
        uint64_t now_ns = clock_ns(CLOCK_REALTIME);
        uint64_t goal = least(sent + per_call, count);
        uint64_t bytes = 0;

        while (sent < goal) {
            uint64_t messages = least(per_batch, goal - sent);

            bytes += encode(buffer + bytes, (uint32_t)numbers[2], topic_count, (uint32_t)numbers[4],
                            sent, messages, now_ns);
            sent += messages;
        }
        write_all((int)numbers[1], buffer, bytes);
    }
    printf("{\"start_ns\": %llu, \"end_ns\": %llu, \"messages\": %llu}\n",
           (unsigned long long)start, (unsigned long long)clock_ns(CLOCK_MONOTONIC),
           (unsigned long long)count);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL)
        ;
    return 0;
}
