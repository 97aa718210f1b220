/* The controls of `hermes bench`, each with its two sides on threads of one process.
 *
 *     controls_threads MESSAGES
 */
#include "../../hermes/bench/native/hm_echo.c"
#include "../../hermes/bench/native/hm_pace.c"
#include "../../hermes/bench/native/hm_relay.c"
#include "../../hermes/bench/native/hm_slots.c"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#define SIZE    48
#define IDLE_NS 20000000000 /* a sanitizer on a busy machine is slow */

static const hm_patience PATIENCE = {.spin_ns = 1000, .idle_ns = IDLE_NS};
static uint64_t messages;

static void *load_slots(void *ring) {
    uint64_t start;

    assert(hm_slots_load(&ring, 1, SIZE, messages, IDLE_NS, &start) == 0);
    return NULL;
}

static void slots(void) {
    void *ring = aligned_alloc(4096, (hm_slots_bytes(SIZE) + 4095) & ~(uint64_t)4095);
    hm_tally tally = {0};
    pthread_t thread;

    memset(ring, 0, hm_slots_bytes(SIZE));
    assert(pthread_create(&thread, NULL, load_slots, ring) == 0);
    assert(hm_slots_drain(ring, SIZE, messages, IDLE_NS, &tally) == 0);
    pthread_join(thread, NULL);
    assert(tally.delivered == messages);
    free(ring);
}

static int relay_source, relay_sink, load_end;

static void *run_relay(void *unused) {
    assert(hm_relay_run(relay_source, &relay_sink, 1, 4096, &PATIENCE) == 0);
    return unused;
}

static void *load_relay(void *unused) {
    uint64_t start;

    assert(hm_relay_load(load_end, SIZE, messages, 1000, &PATIENCE, &start) == 0);
    shutdown(load_end, SHUT_WR);
    return unused;
}

static void relay(void) {
    hm_tally tally = {0};
    pthread_t threads[2];
    int in[2], out[2];

    assert(socketpair(AF_UNIX, SOCK_STREAM, 0, in) == 0);
    assert(socketpair(AF_UNIX, SOCK_STREAM, 0, out) == 0);
    load_end = in[0], relay_source = in[1], relay_sink = out[0];
    assert(pthread_create(&threads[0], NULL, run_relay, NULL) == 0);
    assert(pthread_create(&threads[1], NULL, load_relay, NULL) == 0);
    assert(hm_relay_drain(out[1], SIZE, messages, &PATIENCE, &tally) == 0);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    assert(tally.delivered == messages);
    for (int i = 0; i < 2; i++)
        close(in[i]), close(out[i]);
}

static int echo_fd;

static void *run_echo(void *unused) {
    assert(hm_echo_run(echo_fd, SIZE, 1, &PATIENCE) == 0);
    return unused;
}

static void echo(void) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    int client = socket(AF_INET, SOCK_DGRAM, 0);
    int64_t latencies[64];
    hm_tally tally = {0}, back = {0};
    pthread_t thread;
    uint64_t start;

    echo_fd = socket(AF_INET, SOCK_DGRAM, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert(bind(echo_fd, (struct sockaddr *)&address, sizeof address) == 0);
    getsockname(echo_fd, (struct sockaddr *)&address, &length);
    assert(connect(client, (struct sockaddr *)&address, sizeof address) == 0);
    assert(pthread_create(&thread, NULL, run_echo, NULL) == 0);
    assert(hm_echo_flood(client, SIZE, 1000, 16, 1, &PATIENCE, &start, &tally) == 0);
    assert(hm_echo_pingpong(client, SIZE, 64, &PATIENCE, latencies, &back) == 0);
    assert(send(client, "", 0, 0) == 0);
    pthread_join(thread, NULL);
    assert(tally.delivered > 0 && tally.delivered <= 1000);
    assert(back.delivered > 0 && back.delivered <= 64);
    close(client);
    close(echo_fd);
}

int main(int argc, char **argv) {
    messages = argc > 1 ? strtoull(argv[1], NULL, 10) : 10000;
    slots();
    relay();
    echo();
    printf("ok\n");
    return 0;
}
