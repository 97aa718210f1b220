/* udp_echo.c -- the floor: a datagram there and back over loopback, without anything around it.
 *
 *     udp_echo echo                     answers every datagram; prints its port
 *     udp_echo pingpong PORT SIZE COUNT sends SIZE bytes, waits for them, COUNT times
 *
 * Both ends poll.  The second prints `ready`, waits for a line on standard input, and prints one
 * JSON object.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define LARGEST 65507

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
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    if (fd < 0)
        fail("socket");
    return fd;
}

static struct sockaddr_in loopback(uint16_t port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

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
    for (;;) {
        struct sockaddr_in peer;
        socklen_t length = sizeof peer;
        ssize_t count =
            recvfrom(fd, buffer, sizeof buffer, MSG_DONTWAIT, (struct sockaddr *)&peer, &length);

        if (count >= 0)
            sendto(fd, buffer, (size_t)count, 0, (struct sockaddr *)&peer, length);
        else if (errno != EAGAIN && errno != EINTR)
            fail("recvfrom");
    }
}

static void pingpong(uint16_t port, size_t size, uint64_t count) {
    static uint8_t buffer[LARGEST];
    struct sockaddr_in address = loopback(port);
    uint64_t *took = calloc(count, sizeof *took);
    char line[16];
    int fd = open_socket();

    if (took == NULL || size > sizeof buffer)
        fail("arguments");
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("connect");
    printf("ready\n");
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL)
        return;
    for (uint64_t i = 0; i < count / 10 + count; i++) {
        uint64_t start = now_ns();

        send(fd, buffer, size, 0);
        while (recv(fd, buffer, sizeof buffer, MSG_DONTWAIT) < 0)
            if (errno != EAGAIN && errno != EINTR)
                fail("recv");
        took[i % count] = now_ns() - start;
    }
    printf("{\"round_trips_ns\": [");
    for (uint64_t i = 0; i < count; i++)
        printf("%s%llu", i == 0 ? "" : ", ", (unsigned long long)took[i]);
    printf("]}\n");
    free(took);
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "echo") == 0)
        echo();
    else if (argc == 5 && strcmp(argv[1], "pingpong") == 0)
        pingpong((uint16_t)atoi(argv[2]), strtoull(argv[3], NULL, 10), strtoull(argv[4], NULL, 10));
    else
        return 2;
    return 0;
}
