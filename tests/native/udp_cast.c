/* udp_cast.c -- a listener of the udp transport that casts to a group, and who may call for what.
 *
 * The group is a socket of ours.  With the argument `all` what is called for goes to it again, with
 * `one` to who called.  Whoever has no session, or not from that address, makes it send nothing.
 */
#include <assert.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hu_endpoint.h"
#include "udp_client.h"

#define PATIENCE_NS 5000000000u
#define QUIET_NS    20000000u
#define CAST        0xCA57
#define DATAGRAM    1000
#define SIZE        5000 /* of the batch that is cast */
#define MISSING     2000 /* what is called for begins here, */
#define MISSED      700  /* and has so many bytes */
#define CALLS       70   /* ranges of a datagram that calls for much, */
#define CALLERS     30   /* and such datagrams: twice what is looked at */

static hu_event events[HU_EVENTS_MAX];
static uint8_t batch[SIZE];
static uint64_t nonce = 1;

typedef struct {
    hu_endpoint *endpoint;
    hu_caster *caster;
    int group;
    int clients[3];
    uint64_t ids[3];
    uint32_t slots[3];
} world;

static void serve(world *w) {
    hu_endpoint_poll(w->endpoint, events);
    hu_endpoint_flush(w->endpoint);
}

/* The next datagram of a type at a socket, served until it comes; 0: none did in `within_ns`. */
static uint64_t await(world *w, int fd, uint8_t type, uint64_t within_ns, hu_header *header) {
    uint64_t until = hu_now() + within_ns;
    while (hu_now() < until) {
        serve(w);
        uint64_t size = hear(fd, buffer, header);
        if (size > 0 && header->type == type)
            return size;
        if (size == 0)
            poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 1);
    }
    return 0;
}

static void call_often(int fd, uint64_t session, uint32_t count) {
    uint8_t out[HU_HEADER + CALLS * HU_RANGE];
    hu_header header = {.session = session, .type = HU_STATUS, .stream = HU_GROUP_STREAM};
    hu_range range = {MISSING, MISSED};
    uint32_t size = HU_HEADER + count * HU_RANGE;
    assert(count <= CALLS);
    hu_header_encode(out, &header);
    for (uint32_t i = 0; i < count; i++)
        hu_range_encode(out + HU_HEADER + i * HU_RANGE, &range);
    hu_seal(out, size);
    ssize_t sent = send(fd, out, size, 0);
    assert(sent == (ssize_t)size);
}

static void call(int fd, uint64_t session) {
    call_often(fd, session, 1);
}

/* Of what one calls for at once, no more is looked at than on its session. */
static void expect_bound(world *w) {
    hu_caster_counters before, after;
    hu_sender_counters spared;
    hu_session *session = hu_endpoint_session(w->endpoint, w->slots[0]);
    poll(NULL, 0, 1 + HU_CALLS_SPAN / 1000000); /* what it called for before is forgotten */
    hu_caster_count(w->caster, &before);
    for (int i = 0; i < CALLERS; i++)
        call_often(w->clients[0], w->ids[0], CALLS);
    serve(w); /* one look at the clock */
    hu_caster_count(w->caster, &after);
    hu_sender_count(hu_session_sender(session), &spared);
    assert(after.calls - before.calls == HU_CALLS_MAX);
    assert(spared.calls_spared == CALLERS * CALLS - HU_CALLS_MAX);
}

/* What was called for arrives at `fd`, and nowhere else. */
static void expect_repair(world *w, int fd) {
    hu_header header;
    uint64_t size = await(w, fd, HU_DATA, PATIENCE_NS, &header);
    assert(size == HU_HEADER + MISSED && header.position == MISSING);
    assert(header.session == CAST && header.stream == HU_GROUP_STREAM);
    assert((header.flags & HU_REPEAT) != 0);
    assert(memcmp(buffer + HU_HEADER, batch + MISSING, MISSED) == 0);
}

static void expect_nothing(world *w) {
    hu_caster_counters before, after;
    hu_header header;
    hu_caster_count(w->caster, &before);
    uint64_t size = await(w, w->group, HU_DATA, QUIET_NS, &header);
    assert(size == 0);
    hu_caster_count(w->caster, &after);
    assert(after.calls == before.calls && after.repeats == before.repeats);
}

static void open_world(world *w, const char *repair, const struct sockaddr_in *here, int fd) {
    struct sockaddr_in name;
    uint8_t group[HU_TAP_PREFIX] = {0};
    hu_options options = {.fd = fd,
                          .tap_fd = -1,
                          .listens = 1,
                          .sessions_max = 4,
                          .datagram = DATAGRAM,
                          .liveness_ms = 10000,
                          .window = 65536,
                          .copy_size = 65536};
    hu_caster_options casting = {.id = CAST,
                                 .rate = 100000000,
                                 .history = 65536,
                                 .datagram = DATAGRAM,
                                 .unicast = strcmp(repair, "one") == 0,
                                 .pattern_size = 1,
                                 .pattern = {'>'}};
    int status = hu_endpoint_new(&options, &w->endpoint);
    assert(status == 0);
    w->caster = hu_caster_new(&casting, hu_now());
    w->group = bound(&name);
    memcpy(group, &name.sin_family, 2);
    memcpy(group + 2, &name.sin_port, 2);
    memcpy(group + 4, &name.sin_addr, 4);
    hu_endpoint_cast(w->endpoint, w->caster, group);
    for (int i = 0; i < 3; i++) {
        w->clients[i] = bound(&name);
        status = connect(w->clients[i], (const struct sockaddr *)here, sizeof *here);
        assert(status == 0);
        if (i == 2) /* a stranger */
            break;
        w->slots[i] = join(w->endpoint, w->clients[i], nonce++);
        w->ids[i] = hu_session_id(hu_endpoint_session(w->endpoint, w->slots[i]));
    }
}

static void cast_batch(world *w) {
    hu_header header;
    uint32_t control;
    hu_core->batch_encode(batch, 1, 0, 0, 1, SIZE - 56, 1);
    for (int i = 56; i < SIZE; i++)
        batch[i] = (uint8_t)(i * 7);
    int64_t taken = hu_caster_feed(w->caster, batch, SIZE, &control);
    assert(taken == SIZE);
    for (uint64_t at = 0; at < SIZE;) {
        uint64_t size = await(w, w->group, HU_DATA, PATIENCE_NS, &header);
        assert(size > 0 && header.position == at && header.session == CAST);
        assert(memcmp(buffer + HU_HEADER, batch + at, size - HU_HEADER) == 0);
        at += size - HU_HEADER;
    }
    uint64_t size = await(w, w->group, HU_BEACON, PATIENCE_NS, &header);
    assert(size > 0 && header.position == SIZE);
}

int main(int argc, char **argv) {
    struct sockaddr_in here;
    hu_endpoint_counters counters;
    world w;
    int fd = bound(&here);
    assert(argc == 2);
    hu_bind((uintptr_t)hm_api_get());
    open_world(&w, argv[1], &here, fd);
    int to_caller = strcmp(argv[1], "one") == 0;
    cast_batch(&w);

    call(w.clients[0], w.ids[0]);
    expect_repair(&w, to_caller ? w.clients[0] : w.group);
    call(w.clients[1], w.ids[1] ^ 1);
    expect_nothing(&w);
    call(w.clients[2], w.ids[0]);
    expect_nothing(&w);
    hu_endpoint_count(w.endpoint, &counters);
    assert(counters.unknown_session == 1 && counters.spoofed == 1);

    uint8_t range[HU_RANGE];
    hu_header header;
    hu_range_encode(range, &(hu_range){MISSING, MISSED});
    hu_caster_status(w.caster, w.ids[1], range, sizeof range, 0, hu_now());
    hu_endpoint_drop(w.endpoint, w.slots[1], HU_BYE); /* before the answer leaves */
    uint64_t size = await(&w, w.group, HU_DATA, QUIET_NS, &header);
    assert(to_caller ? size == 0 : size > 0);
    hu_caster_counters counted;
    hu_caster_count(w.caster, &counted);
    assert(counted.repeats == 2); /* it was emitted, for nobody */
    poll(NULL, 0, 1);             /* longer than it is held off */
    call(w.clients[0], w.ids[0]);
    expect_repair(&w, to_caller ? w.clients[0] : w.group);

    expect_bound(&w);

    hu_endpoint_cast(w.endpoint, NULL, NULL);
    hu_caster_free(w.caster);
    serve(&w);
    hu_endpoint_free(w.endpoint);
    for (int i = 0; i < 3; i++)
        close(w.clients[i]);
    close(w.group);
    close(fd);
    printf("only who may was answered\n");
    return 0;
}
