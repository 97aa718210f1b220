/* udp_group_threads.c -- a client's channel of the udp transport beside a group, used by several
 * threads at a time.
 *
 * One thread serves a listener that casts batches to a socket of the client's, some of which get
 * lost; one joins, takes what comes in order, leaves and joins again; two wait on the channel, look
 * at it and talk through its filter all the time, and go on while it is closed, and after.
 */
#include <assert.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "hu_channel.h"
#include "udp_client.h"

#define WINDOW  65536
#define HISTORY (1 << 20)
#define CAST    0xCA57
#define ROUNDS  4   /* times the group is joined */
#define BATCHES 400 /* taken in each */

static hu_endpoint *endpoint;
static hu_caster *caster;
static hu_channel *channel;
static hu_outward *outward;
static int listener, group;
static _Atomic int stop_serving, stop_looking, finished;

static uint64_t make_batch(uint8_t *out, uint64_t sequence) {
    static const uint8_t payload[900];
    int64_t size =
        hu_core->frame_encode(out + HM_BATCH_HEADER, 1024, HM_MESSAGE, (const uint8_t *)"t", 1,
                              NULL, 0, payload, sizeof payload, sequence, 1);
    assert(size > 0);
    hu_core->batch_encode(out, 1, 0, sequence - 1, sequence, (uint64_t)size, 1);
    return HM_BATCH_HEADER + (uint64_t)size;
}

static void *serve(void *nothing) {
    static hu_event events[HU_EVENTS_MAX];
    static uint8_t out[2048];
    uint64_t sequence = 1, size = make_batch(out, sequence);
    (void)nothing;
    while (!stop_serving) {
        uint32_t count = hu_endpoint_poll(endpoint, events), control;
        for (uint32_t i = 0; i < count; i++)
            if (events[i].flags & HU_LOST)
                hu_endpoint_drop(endpoint, events[i].slot, 0);
        if (hu_caster_feed(caster, out, size, &control) == (int64_t)size)
            size = make_batch(out, ++sequence);
        hu_endpoint_flush(endpoint);
        poll(&(struct pollfd){.fd = listener, .events = POLLIN}, 1, 1);
    }
    return NULL;
}

/* Takes BATCHES batches of the group's; each begins where the one before ended. */
static void take_some(hu_select *select) {
    static uint8_t out[4096];
    uint64_t through = 0, taken = 0;
    while (taken < BATCHES) {
        hu_select_event event;
        uint64_t size = hu_channel_pull(channel, select, out, sizeof out, 20000, 10000000, &event);
        assert(event.what != HU_SELECT_MALFORMED);
        for (uint64_t at = 0; at < size;) {
            hm_batch batch;
            hu_core->batch_parse(out + at, &batch);
            assert(through == 0 || batch.after == through);
            through = batch.through;
            at += HM_BATCH_HEADER + batch.frames_size;
            assert(at <= size);
            taken++;
        }
        if (event.what == HU_SELECT_HOLE)
            through = event.last;
    }
}

static void *receive_all(void *nothing) {
    static hu_beacon beacon;
    static hu_beacon_entry entries[HU_BEACON_STREAMS];
    (void)nothing;
    for (uint64_t i = 0; i < ROUNDS; i++) {
        hu_select *select = hu_select_new();
        int status = hu_channel_join(channel, group, i);
        assert(select != NULL && status == 0);
        while (hu_channel_group(channel, &beacon, entries) == HU_GROUP_WAITING)
            hu_channel_wait(channel, 1, 0, 0, 10000000);
        assert(beacon.streams <= 1);
        hu_select_stream(select, 0, 0);
        int row = hu_select_add(select, 7, 0, (const uint8_t *)">", 1);
        assert(row == 0);
        status = hu_select_route(select, 0, 0, 0, beacon.streams == 1 ? entries[0].through : 0);
        assert(status == 0);
        take_some(select);
        hu_channel_leave(channel);
        hu_select_free(select);
    }
    finished = 1;
    return NULL;
}

/* As a client and the owner of its filter would. */
static void talk(void) {
    static const uint8_t subscribe[HM_FRAME_HEADER] = {'H', 'R', 'M', 'S', 1, HM_SUBSCRIBE};
    static const uint8_t end[HM_FRAME_HEADER] = {'H', 'R', 'M', 'S', 1, HM_UNSUBSCRIBE};
    uint8_t note[HU_NOTE_MAX];
    hu_channel_send(channel, subscribe, sizeof subscribe);
    while (hu_outward_read(outward, note) != 0)
        ;
    hu_outward_take(outward, end, sizeof end);
    hu_channel_send(channel, end, sizeof end);
    hu_outward_forget(outward, end, sizeof end);
    hu_outward_say(outward, subscribe, sizeof subscribe);
}

static void *look(void *nothing) {
    hu_group_counters of_group;
    hu_receiver_counters receiver;
    (void)nothing;
    while (!stop_looking) {
        hu_channel_count_group(channel, &of_group, &receiver);
        hu_channel_held(channel);
        hu_channel_hold(channel, 1);
        hu_channel_wait(channel, 0, 1, 0, 1000000);
        hu_channel_hold(channel, 0);
        hu_channel_wait(channel, 1, 0, 1000, 1000000);
        talk();
        usleep(200);
    }
    return NULL;
}

static void cast_to(const struct sockaddr_in *name) {
    uint8_t address[HU_TAP_PREFIX] = {0};
    memcpy(address, &name->sin_family, 2);
    memcpy(address + 2, &name->sin_port, 2);
    memcpy(address + 4, &name->sin_addr, 4);
    hu_caster_options options = {.id = CAST,
                                 .rate = 100000000,
                                 .history = HISTORY,
                                 .datagram = 1000,
                                 .pattern_size = 1,
                                 .pattern = ">"};
    caster = hu_caster_new(&options, hu_now());
    assert(caster != NULL);
    hu_caster_name(caster, 0, (const uint8_t *)"default", 7);
    hu_endpoint_cast(endpoint, caster, address);
}

static void open_channel(hu_options *options, const struct sockaddr_in *there) {
    uint32_t sizes[] = {8000, 1200};
    int status = connect(options->fd, (const struct sockaddr *)there, sizeof *there);
    assert(status == 0);
    hu_dial *dial = hu_dial_new(options, sizes, 2, 10000000000);
    assert(dial != NULL);
    while ((status = hu_dial_step(dial, 100000000)) == HU_DIAL_GOING)
        continue;
    assert(status == 0);
    status = hu_channel_open(dial, &channel);
    assert(status == 0);
    hu_dial_free(dial);
}

int main(void) {
    struct sockaddr_in here, there, grouped;
    pthread_t server, threads[3];
    void *(*work[3])(void *) = {receive_all, look, look};
    hu_bind((uintptr_t)hm_api_get());
    listener = bound(&there);
    group = bound(&grouped);
    hu_options options = {.fd = listener,
                          .tap_fd = -1,
                          .listens = 1,
                          .sessions_max = 4,
                          .datagram = 8000,
                          .liveness_ms = 10000,
                          .window = WINDOW,
                          .copy_size = WINDOW,
                          .drop = 1 << 26}; /* of 2^32 */
    int status = hu_endpoint_new(&options, &endpoint);
    assert(status == 0);
    cast_to(&grouped);
    pthread_create(&server, NULL, serve, NULL);
    options.fd = bound(&here);
    options.listens = 0;
    options.sessions_max = 1;
    int closed = eventfd(0, 0);
    assert(closed >= 0);
    open_channel(&options, &there);
    outward = hu_outward_new();
    assert(outward != NULL);
    hu_channel_filter(channel, outward);
    for (int i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, work[i], NULL);
    while (!finished)
        usleep(1000);
    pthread_join(threads[0], NULL);
    status = hu_channel_join(channel, group, 1); /* it ends with a group */
    assert(status == 0);
    hu_channel_close(channel, closed);
    uint64_t told;
    ssize_t size = read(closed, &told, sizeof told);
    assert(size == sizeof told);
    close(options.fd);
    close(group);
    usleep(20000); /* it is still looked at */
    stop_looking = 1;
    for (int i = 1; i < 3; i++)
        pthread_join(threads[i], NULL);
    hu_channel_free(channel);
    hu_outward_free(outward);
    stop_serving = 1;
    pthread_join(server, NULL);
    hu_endpoint_free(endpoint);
    hu_caster_free(caster);
    close(listener);
    close(closed);
    printf("all came back\n");
    return 0;
}
