/* hu_endpoint.c -- makes, polls and frees an endpoint. */
#include "hu_parts.h"

#include <assert.h>
#include <errno.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>

/* ---- making ---- */

static void prepare_reads(hu_endpoint *endpoint) {
    for (uint32_t i = 0; i < BATCH; i++) {
        endpoint->iov[i] = (struct iovec){endpoint->memory + (size_t)i * READ_SIZE, READ_SIZE};
        endpoint->messages[i].msg_hdr = (struct msghdr){.msg_name = &endpoint->names[i],
                                                        .msg_iov = &endpoint->iov[i],
                                                        .msg_iovlen = 1,
                                                        .msg_control = endpoint->controls[i]};
    }
}

static void ask_kernel(hu_endpoint *endpoint) {
    int size = 0;
    socklen_t length = sizeof size;
    int fd = endpoint->options.fd;
    endpoint->gso = endpoint->options.tap_fd < 0 &&
                    getsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, &length) == 0;
    hu_input_ask(fd);
    if (endpoint->options.listens)
        hu_input_ask_where(fd);
}

int hu_endpoint_new(const hu_options *options, hu_endpoint **result) {
    assert(options->sessions_max > 0 && options->fd >= 0);
    assert(options->datagram >= HU_DATAGRAM_MIN && options->datagram <= HU_DATAGRAM_MAX);
    hu_endpoint *endpoint = calloc(1, sizeof *endpoint);
    if (endpoint == NULL)
        return -HM_ENOMEM;
    endpoint->options = *options;
    endpoint->now_ns = hu_now();
    endpoint->random = options->seed * 0x9E3779B97F4A7C15u + 1;
    uint32_t buckets = hu_slots_buckets(options->sessions_max);
    endpoint->buckets = malloc(buckets * sizeof *endpoint->buckets);
    endpoint->train = hu_train_new();
    endpoint->memory = malloc((size_t)BATCH * READ_SIZE);
    if (endpoint->buckets == NULL || endpoint->train == NULL || endpoint->memory == NULL ||
        !hu_slots_grow(endpoint)) {
        hu_endpoint_free(endpoint);
        return -HM_ENOMEM;
    }
    for (uint32_t i = 0; i < buckets; i++)
        endpoint->buckets[i] = NO_SLOT;
    prepare_reads(endpoint);
    ask_kernel(endpoint);
    *result = endpoint;
    return 0;
}

void hu_endpoint_free(hu_endpoint *endpoint) {
    if (endpoint == NULL)
        return;
    for (uint32_t i = 0; i < endpoint->used; i++)
        hu_session_free(endpoint->slots[i].session);
    free(endpoint->slots);
    free(endpoint->free_slots);
    free(endpoint->buckets);
    free(endpoint->heap);
    free(endpoint->dirty);
    free(endpoint->eventful);
    hu_train_free(endpoint->train);
    free(endpoint->memory);
    free(endpoint);
}

/* ---- at work ---- */

uint32_t hu_endpoint_poll(hu_endpoint *endpoint, hu_event *events) {
    int saved = errno;
    endpoint->now_ns = hu_now();
    for (uint32_t i = 0; i < HU_READS_MAX && hu_input_read(endpoint, endpoint->options.fd); i++)
        ;
    if (endpoint->group != NULL)
        for (uint32_t i = 0; i < HU_READS_MAX && hu_input_read(endpoint, endpoint->group_fd); i++)
            ;
    hu_input_timers(endpoint);
    uint32_t count = 0, left = 0;
    for (uint32_t i = 0; i < endpoint->eventful_count; i++) {
        uint32_t number = endpoint->eventful[i];
        slot *s = &endpoint->slots[number];
        if (count == HU_EVENTS_MAX) {
            endpoint->eventful[left++] = number;
            continue;
        }
        events[count++] = (hu_event){number, s->events, s->released};
        s->events = 0;
        s->released = 0;
        s->eventful = 0;
    }
    endpoint->eventful_count = left;
    if (count == 0) /* else the owner has something to add first */
        hu_endpoint_flush(endpoint);
    errno = saved;
    return count;
}

uint64_t hu_endpoint_deadline(hu_endpoint *endpoint) {
    if (endpoint->eventful_count > 0)
        return 0;
    if (endpoint->dirty_count > 0)
        return endpoint->blocked_ns;
    uint64_t due = endpoint->heap_count == 0 ? NEVER : endpoint->slots[endpoint->heap[0]].due_ns;
    uint64_t group = endpoint->group == NULL ? NEVER : hu_group_deadline(endpoint->group);
    uint64_t cast = endpoint->cast == NULL ? NEVER : hu_caster_deadline(endpoint->cast);
    cast = cast > endpoint->blocked_ns ? cast : endpoint->blocked_ns;
    due = group < due ? group : due;
    return cast < due ? cast : due;
}

/* ---- the medium ---- */

static void quieten(hu_endpoint *endpoint, uint32_t number) {
    slot *s = &endpoint->slots[number];
    if (s->released > 0 || (s->events & ~(uint32_t)(HU_READABLE | HU_RELEASED | HU_WIDER)) != 0)
        return;
    s->events = 0;
    if (s->eventful)
        hu_slot_unlist(endpoint->eventful, &endpoint->eventful_count, number);
    s->eventful = 0;
}

static int64_t take(hu_endpoint *endpoint, uint32_t number, uint8_t *buffer, uint64_t capacity) {
    const uint8_t *data;
    uint64_t size = hu_endpoint_readable(endpoint, number, &data);
    size = size < capacity ? size : capacity;
    if (size == 0)
        return 0;
    memcpy(buffer, data, size);
    hu_endpoint_consume(endpoint, number, size);
    if (hu_endpoint_readable(endpoint, number, &data) > 0)
        hu_slot_report(endpoint, number, HU_READABLE); /* whoever stops here must find it */
    else
        quieten(endpoint, number);
    return (int64_t)size;
}

static int64_t medium_receive(void *context, uint8_t *buffer, uint64_t capacity, uint64_t spin_ns,
                              int64_t timeout_ns, int *error) {
    hu_endpoint *endpoint = context;
    uint32_t number = endpoint->medium_slot;
    (void)spin_ns;
    (void)timeout_ns;
    (void)error;
    int64_t taken = take(endpoint, number, buffer, capacity);
    if (taken > 0)
        return taken;
    endpoint->now_ns = hu_now();
    hu_input_read(endpoint, endpoint->options.fd);
    hu_input_timers(endpoint);
    taken = take(endpoint, number, buffer, capacity);
    if (taken > 0)
        return taken;
    quieten(endpoint, number);
    hu_endpoint_flush(endpoint);
    return endpoint->eventful_count > 0 ? -HM_EBUSY : -HM_EEMPTY;
}

static int64_t medium_write(void *context, const struct iovec *pieces, int count) {
    hu_endpoint *endpoint = context;
    slot *s = &endpoint->slots[endpoint->medium_slot];
    int64_t taken = 0;
    for (int i = 0; i < count; i++) {
        uint64_t size = hu_session_push(s->session, pieces[i].iov_base, pieces[i].iov_len, 1);
        taken += (int64_t)size;
        if (size < pieces[i].iov_len)
            break;
    }
    s->silent_end = hu_sender_end(hu_session_sender(s->session));
    hu_slot_soil(endpoint, endpoint->medium_slot);
    hu_endpoint_flush(endpoint);
    return taken;
}

uintptr_t hu_endpoint_medium(hu_endpoint *endpoint, uint32_t number) {
    slot *s = &endpoint->slots[number];
    if (hu_sender_acked(hu_session_sender(s->session)) < s->pushed_end || s->released > 0)
        return 0;
    endpoint->medium_slot = number;
    endpoint->medium = (hm_medium){endpoint, medium_write, medium_receive, NULL};
    return (uintptr_t)&endpoint->medium;
}

/* ---- what its owner does ---- */

void hu_endpoint_stop(hu_endpoint *endpoint) {
    endpoint->stopped = 1;
}

hu_session *hu_endpoint_session(const hu_endpoint *endpoint, uint32_t number) {
    assert(number < endpoint->used && endpoint->slots[number].session != NULL);
    return endpoint->slots[number].session;
}

uint64_t hu_endpoint_push(hu_endpoint *endpoint, uint32_t number, const uint8_t *data,
                          uint64_t size) {
    uint64_t taken = hu_session_push(hu_endpoint_session(endpoint, number), data, size,
                                     !endpoint->options.listens);
    slot *s = &endpoint->slots[number];
    s->pushed_end = hu_sender_end(hu_session_sender(s->session));
    hu_slot_soil(endpoint, number);
    return taken;
}

uint64_t hu_endpoint_room(const hu_endpoint *endpoint, uint32_t number) {
    return hu_sender_room(hu_session_sender(hu_endpoint_session(endpoint, number)));
}

uint64_t hu_endpoint_readable(const hu_endpoint *endpoint, uint32_t number, const uint8_t **data) {
    return hu_receiver_readable(hu_session_receiver(hu_endpoint_session(endpoint, number)), data);
}

void hu_endpoint_consume(hu_endpoint *endpoint, uint32_t number, uint64_t size) {
    hu_session_consume(hu_endpoint_session(endpoint, number), size);
    hu_slot_soil(endpoint, number);
}

void hu_endpoint_finish(hu_endpoint *endpoint, uint32_t number) {
    hu_session_finish(hu_endpoint_session(endpoint, number), hu_now());
    hu_slot_soil(endpoint, number);
}

void hu_endpoint_part(hu_endpoint *endpoint, uint32_t number, uint32_t reason) {
    hu_session *session = hu_endpoint_session(endpoint, number);
    int saved = errno;
    uint8_t out[HU_HEADER];
    hu_header header = {.session = hu_session_id(session), .type = HU_RESET, .window = reason};
    hu_header_encode(out, &header);
    endpoint->counters.resets_sent++;
    hu_output_say(endpoint, &endpoint->slots[number].peer, out, sizeof out);
    hu_session_lose(session, reason);
    errno = saved;
}

void hu_endpoint_drop(hu_endpoint *endpoint, uint32_t number, uint32_t reason) {
    if (reason != 0)
        hu_endpoint_part(endpoint, number, reason);
    hu_slot_discharge(endpoint, number);
}

void hu_endpoint_peer(const hu_endpoint *endpoint, uint32_t number, uint8_t *out) {
    hu_peer_prefix(&endpoint->slots[number].peer, out);
}

void hu_endpoint_count(const hu_endpoint *endpoint, hu_endpoint_counters *counters) {
    *counters = endpoint->counters;
}

int hu_endpoint_adopt(hu_endpoint *endpoint, uint64_t id, const hu_setup *accepted) {
    hu_peer nobody = {0};
    uint32_t number = hu_slot_admit(endpoint, id, &nobody, accepted);
    return number == NO_SLOT ? -HM_ENOMEM : (int)number;
}
