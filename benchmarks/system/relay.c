/* relay.c -- the floor: what raw TCP over loopback gives a program that only moves bytes.
 *
 *     relay relay WAIT READ_BYTES SINKS     copies one source's bytes to SINKS sinks (0: back to
 * the source) relay pingpong PORT WAIT SIZE COUNT   sends SIZE bytes, waits for all of them, COUNT
 * times relay load PORT SIZE WRITE_BYTES BYTES  writes messages of SIZE bytes, WRITE_BYTES per
 * system call relay sink PORT BYTES                 reads BYTES, 256 KiB per system call at most
 *
 * WAIT is `poll` (non-blocking calls in a loop) or `block`.  The relay prints its port; first the
 * sinks connect, then the source.  The others print `ready`, wait for a line on standard input, and
 * print one JSON object.  Times are CLOCK_MONOTONIC, ns, so that those of two processes can be
 * compared.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SINKS_MAX  64
#define READ_BYTES 262144

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static uint64_t number(const char *text) {
    return strtoull(text, NULL, 10);
}

static void *allocate(uint64_t size) {
    void *memory = calloc(1, size);

    if (memory == NULL)
        fail("calloc");
    return memory;
}

static void no_delay(int fd) {
    int one = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static void set_wait(int fd, const char *wait) {
    if (strcmp(wait, "poll") == 0)
        fcntl(fd, F_SETFL, O_NONBLOCK);
}

static int connect_to(const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number(port))};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        fail("connect");
    no_delay(fd);
    return fd;
}

/* Returns 0 at the end of input.  A non-blocking descriptor is tried until it has something. */
static uint64_t read_some(int fd, void *to, uint64_t size) {
    for (;;) {
        ssize_t got = recv(fd, to, size, 0);

        if (got >= 0)
            return (uint64_t)got;
        if (errno == ECONNRESET)
            return 0;
        if (errno != EAGAIN && errno != EINTR)
            fail("recv");
    }
}

/* Returns 0 if the other side is gone. */
static int write_all(int fd, const uint8_t *from, uint64_t size) {
    while (size > 0) {
        ssize_t done = send(fd, from, size, MSG_NOSIGNAL);

        if (done > 0) {
            from += done;
            size -= (uint64_t)done;
        } else if (errno == EPIPE || errno == ECONNRESET) {
            return 0;
        } else if (errno != EAGAIN && errno != EINTR) {
            fail("send");
        }
    }
    return 1;
}

static void wait_for_go(void) {
    char line[16];

    printf("ready\n");
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL)
        exit(1);
}

/* ---- the relay ---- */

static int accept_one(int listener, const char *wait) {
    int fd = accept(listener, NULL, NULL);

    if (fd < 0)
        fail("accept");
    no_delay(fd);
    set_wait(fd, wait);
    return fd;
}

static int relay(const char *wait, uint64_t read_bytes, unsigned sinks) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    uint8_t *buffer = allocate(read_bytes);
    int to[SINKS_MAX];
    int source;
    uint64_t got;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (sinks > SINKS_MAX || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(listener, SINKS_MAX) != 0)
        fail("listen");
    getsockname(listener, (struct sockaddr *)&address, &length);
    printf("%u\n", ntohs(address.sin_port));
    fflush(stdout);
    for (unsigned i = 0; i < sinks; i++)
        to[i] = accept_one(listener, wait);
    source = accept_one(listener, wait);
    if (sinks == 0)
        to[sinks++] = source;
    while ((got = read_some(source, buffer, read_bytes)) > 0)
        for (unsigned i = 0; i < sinks; i++)
            if (!write_all(to[i], buffer, got))
                return 1;
    return 0;
}

/* ---- its peers ---- */

static int pingpong(const char *port, const char *wait, uint64_t size, uint64_t count) {
    int fd = connect_to(port);
    uint8_t *buffer = allocate(size);
    uint64_t *took = allocate(count * sizeof *took);
    uint64_t warm = count / 10;

    set_wait(fd, wait);
    wait_for_go();
    for (uint64_t i = 0; i < warm + count; i++) {
        uint64_t start = now_ns();

        if (!write_all(fd, buffer, size))
            return 1;
        for (uint64_t got = 0; got < size;) {
            uint64_t more = read_some(fd, buffer + got, size - got);

            if (more == 0)
                return 1;
            got += more;
        }
        if (i >= warm)
            took[i - warm] = now_ns() - start;
    }
    printf("{\"round_trips_ns\": [");
    for (uint64_t i = 0; i < count; i++)
        printf("%s%llu", i ? "," : "", (unsigned long long)took[i]);
    printf("]}\n");
    return 0;
}

static int load(const char *port, uint64_t size, uint64_t write_bytes, uint64_t bytes) {
    int fd = connect_to(port);
    uint8_t *buffer = allocate(write_bytes);
    uint64_t start;

    wait_for_go();
    start = now_ns();
    for (uint64_t sent = 0; sent < bytes; sent += write_bytes)
        if (!write_all(fd, buffer, write_bytes < bytes - sent ? write_bytes : bytes - sent))
            return 1;
    shutdown(fd, SHUT_WR);
    printf("{\"start_ns\": %llu, \"end_ns\": %llu, \"messages\": %llu}\n",
           (unsigned long long)start, (unsigned long long)now_ns(),
           (unsigned long long)(bytes / size));
    fflush(stdout);
    read_some(fd, buffer, 1); /* until the relay has passed everything on */
    return 0;
}

static int sink(const char *port, uint64_t bytes) {
    int fd = connect_to(port);
    uint8_t *buffer = allocate(READ_BYTES);
    uint64_t total = 0, reads = 0, start = 0;

    wait_for_go();
    while (total < bytes) {
        uint64_t got = read_some(fd, buffer, READ_BYTES);

        if (got == 0)
            return 1;
        start = start == 0 ? now_ns() : start;
        total += got;
        reads++;
    }
    printf("{\"start_ns\": %llu, \"end_ns\": %llu, \"bytes\": %llu, \"reads\": %llu}\n",
           (unsigned long long)start, (unsigned long long)now_ns(), (unsigned long long)total,
           (unsigned long long)reads);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 5 && strcmp(argv[1], "relay") == 0)
        return relay(argv[2], number(argv[3]), (unsigned)number(argv[4]));
    if (argc == 6 && strcmp(argv[1], "pingpong") == 0)
        return pingpong(argv[2], argv[3], number(argv[4]), number(argv[5]));
    if (argc == 6 && strcmp(argv[1], "load") == 0)
        return load(argv[2], number(argv[3]), number(argv[4]), number(argv[5]));
    if (argc == 4 && strcmp(argv[1], "sink") == 0)
        return sink(argv[2], number(argv[3]));
    fprintf(stderr, "usage: see the top of relay.c\n");
    return 2;
}
