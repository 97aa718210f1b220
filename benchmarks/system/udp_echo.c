/* udp_echo.c -- the floor: a datagram there and back over loopback, without anything around it.
 *
 *     udp_echo doze                     answers every datagram; prints its port; sleeps when
 *                                       nothing has come for a while
 *     udp_echo steady PORT SIZE COUNT RATE PASSES
 *                                       sends COUNT times SIZE bytes, RATE times a second,
 *                                       whatever comes back; all that PASSES times
 *
 * Both ends poll.  For each pass `steady` prints `{}`, waits for a line on standard input, and
 * prints one JSON object.  Its figures count from when a datagram was to be sent: where nothing is
 * in the way they show for how long the machine itself holds up one of two cores that poll.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define LARGEST      65507
#define BUFFER_BYTES 4194304     /* of the sockets: what comes while a core is held up fits */
#define PATIENCE_NS  1000000000u /* after the last was sent: what is not back then is lost */
#define DOZE_NS      5000000u    /* without a datagram: no pass is under way */

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static int open_socket(void) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0), size = BUFFER_BYTES;

    if (fd < 0)
        fail("socket");
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) < 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    return fd;
}

static struct sockaddr_in loopback(uint16_t port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

/* Answers; sleeps after DOZE_NS without a datagram. */
static void echo(void) {
    static uint8_t buffer[LARGEST];
    struct sockaddr_in address = loopback(0);
    socklen_t size = sizeof address;
    int fd = open_socket();

    if (bind(fd, (struct sockaddr *)&address, size) < 0)
        fail("bind");
    getsockname(fd, (struct sockaddr *)&address, &size);
    printf("%u\n", ntohs(address.sin_port));
    fflush(stdout);
    for (uint64_t last = now_ns();;) {
        struct sockaddr_in peer;
        socklen_t length = sizeof peer;
        ssize_t count =
            recvfrom(fd, buffer, sizeof buffer, MSG_DONTWAIT, (struct sockaddr *)&peer, &length);

        if (count >= 0) {
            sendto(fd, buffer, (size_t)count, 0, (struct sockaddr *)&peer, length);
            last = now_ns();
        } else if (errno != EAGAIN && errno != EINTR) {
            fail("recvfrom");
        } else if (now_ns() - last > DOZE_NS) {
            struct pollfd readable = {.fd = fd, .events = POLLIN};
            poll(&readable, 1, -1);
            last = now_ns();
        }
    }
}

/* A socket to the echo. */
static int dial(uint16_t port) {
    struct sockaddr_in address = loopback(port);
    int fd = open_socket();

    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("connect");
    return fd;
}

/* Until the line has come. */
static void await_word(void) {
    char line[16];

    printf("{}\n");
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL)
        exit(1);
}

static void report(const uint64_t *took, uint64_t count) {
    printf("{\"one_way_ns\": [");
    for (uint64_t i = 0; i < count; i++)
        printf("%s%llu", i == 0 ? "" : ", ", (unsigned long long)took[i]);
    printf("]}\n");
    fflush(stdout);
}

static uint64_t *room_for(uint64_t count, size_t size) {
    uint64_t *took = malloc(count * sizeof *took);

    if (took == NULL || size > LARGEST || size < sizeof *took)
        fail("arguments");
    for (uint64_t i = 0; i < count; i++) /* its pages are there before the clock runs */
        took[i] = 1;
    return took;
}

/* Takes what has come back; how many. */
static uint64_t collect(int fd, uint8_t *buffer, uint64_t *took, uint64_t at, uint64_t count) {
    ssize_t size = recv(fd, buffer, LARGEST, MSG_DONTWAIT);
    uint64_t due;

    if (size < 0 && errno != EAGAIN && errno != EINTR)
        fail("recv");
    if (size < (ssize_t)sizeof due)
        return 0;
    memcpy(&due, buffer, sizeof due);
    took[at % count] = now_ns() - due;
    return 1;
}

static void one_pass(int fd, size_t size, uint64_t *took, uint64_t count, uint64_t rate) {
    static uint8_t out[LARGEST], in[LARGEST];
    uint64_t total = count / 10 + count, got = 0, begun = now_ns();

    for (uint64_t i = 0; i < total; i++) {
        uint64_t due = begun + i * 1000000000u / rate;

        while (now_ns() < due)
            got += collect(fd, in, took, got, count);
        memcpy(out, &due, sizeof due);
        send(fd, out, size, 0);
    }
    uint64_t until = now_ns() + PATIENCE_NS;
    while (got < total && now_ns() < until)
        got += collect(fd, in, took, got, count);
    if (got < total) {
        fprintf(stderr, "udp_echo: %llu datagrams were lost\n", (unsigned long long)(total - got));
        exit(1);
    }
}

static void steady(uint16_t port, size_t size, uint64_t count, uint64_t rate, uint64_t passes) {
    uint64_t *took = room_for(count, size);
    int fd = dial(port);

    for (uint64_t i = 0; i < passes; i++) {
        await_word();
        one_pass(fd, size, took, count, rate);
        report(took, count);
    }
    free(took);
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "doze") == 0)
        echo();
    else if (argc == 7 && strcmp(argv[1], "steady") == 0)
        steady((uint16_t)atoi(argv[2]), strtoull(argv[3], NULL, 10), strtoull(argv[4], NULL, 10),
               strtoull(argv[5], NULL, 10), strtoull(argv[6], NULL, 10));
    else
        return 2;
    return 0;
}
