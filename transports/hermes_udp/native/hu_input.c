/* hu_input.c -- what an endpoint does with the datagrams that arrive. */
#include "hu_parts.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <string.h>

void hu_input_ask(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof on);    /* a kernel without does without */
    setsockopt(fd, SOL_SOCKET, SO_RXQ_OVFL, &on, sizeof on); /* likewise */
}

/* Of a listener on all addresses: has every datagram say which of them it came to, so that the
 * answer comes from there. */
void hu_input_ask_where(int fd) {
    struct sockaddr_storage name = {0};
    socklen_t size = sizeof name;
    hu_peer own;
    int on = 1;
    if (getsockname(fd, (struct sockaddr *)&name, &size) != 0)
        return;
    hu_peer_of(&name, &own);
    for (size_t i = 0; i < sizeof own.address; i++)
        if (own.address[i] != 0)
            return; /* one address: there is no other */
    if (own.family == AF_INET)
        setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on);
    else if (own.family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on);
}

/* ---- the group ---- */

void hu_endpoint_join(hu_endpoint *endpoint, hu_group *group, int fd) {
    struct sockaddr_storage name = {0};
    socklen_t size = sizeof name;
    assert(!endpoint->options.listens && endpoint->group == NULL);
    getpeername(endpoint->options.fd, (struct sockaddr *)&name,
                &size); /* nobody: none is believed */
    hu_peer_of(&name, &endpoint->caster);
    hu_input_ask(fd);
    endpoint->group = group;
    endpoint->group_fd = fd;
    endpoint->group_overflows_seen = 0;
}

void hu_endpoint_leave(hu_endpoint *endpoint) {
    endpoint->group = NULL;
}

uint32_t hu_endpoint_liveness(const hu_endpoint *endpoint) {
    return endpoint->options.liveness_ms;
}

static void lose_group(hu_endpoint *endpoint) {
    hu_session_lose(endpoint->slots[0].session, hu_group_reason(endpoint->group));
    hu_slot_report(endpoint, 0, HU_LOST);
}

static void take_group(hu_endpoint *endpoint, const hu_header *header, const uint8_t *body,
                       uint64_t size) {
    uint32_t events = hu_group_input(endpoint->group, header, body, size, endpoint->now_ns);
    if (events & HU_LOST)
        lose_group(endpoint);
}

/* What came by the group's socket. */
static void take_cast(hu_endpoint *endpoint, const hu_peer *peer, const uint8_t *data,
                      uint64_t size) {
    hu_header header;
    endpoint->counters.datagrams_in++;
    if (hu_header_decode(data, size, &header) < 0 || header.stream != HU_GROUP_STREAM)
        endpoint->counters.malformed++;
    else if (!hu_peer_same(&endpoint->caster, peer))
        endpoint->counters.spoofed++;
    else
        take_group(endpoint, &header, data + HU_HEADER, size - HU_HEADER);
}

/* Sends a call for what is missing; unsent is as good as lost. */
static void take_call(hu_endpoint *endpoint, hu_session *session, const uint8_t *ranges,
                      uint64_t size) {
    hu_sender *sender = hu_session_sender(session);
    if (hu_session_reason(session) != 0)
        return;
    uint32_t count = hu_sender_admit(sender, (uint32_t)(size / HU_RANGE), endpoint->now_ns);
    hu_caster_status(endpoint->cast, hu_session_id(session), ranges, (uint64_t)count * HU_RANGE,
                     hu_sender_srtt(sender), endpoint->now_ns);
}

/* ---- reading ---- */

static void take_datagram(hu_endpoint *endpoint, const hu_peer *peer, const uint8_t *data,
                          uint64_t size) {
    hu_header header;
    endpoint->counters.datagrams_in++;
    if (hu_header_decode(data, size, &header) < 0) {
        endpoint->counters.malformed++;
        return;
    }
    const uint8_t *body = data + HU_HEADER;
    if (header.stream == HU_GROUP_STREAM && endpoint->group != NULL) {
        take_group(endpoint, &header, body, size - HU_HEADER);
        return;
    }
    if (header.type >= HU_REQUEST) {
        if (endpoint->options.listens && header.type == HU_REQUEST)
            hu_setup_request(endpoint, peer, &header, size);
        else if (endpoint->options.listens && header.type == HU_CONFIRM)
            hu_setup_confirm(endpoint, peer, &header, body);
        return;
    }
    uint32_t number = hu_slot_find(endpoint, header.session);
    if (number == NO_SLOT) {
        endpoint->counters.unknown_session++;
        if (header.type != HU_RESET)
            hu_setup_reset(endpoint, peer, header.session, HU_UNKNOWN);
        return;
    }
    slot *s = &endpoint->slots[number];
    if (endpoint->options.listens && !hu_peer_same(&s->peer, peer)) {
        endpoint->counters.spoofed++;
        return;
    }
    if (header.stream == HU_GROUP_STREAM && header.type == HU_STATUS && endpoint->cast != NULL) {
        take_call(endpoint, s->session, body, size - HU_HEADER);
        return;
    }
    uint64_t acked = hu_sender_acked(hu_session_sender(s->session));
    uint32_t events =
        hu_session_input(s->session, &header, body, size - HU_HEADER, endpoint->now_ns);
    uint64_t from = acked > s->silent_end ? acked : s->silent_end;
    acked = hu_sender_acked(hu_session_sender(s->session));
    s->released += acked > from ? acked - from : 0;
    hu_slot_report(endpoint, number, events & ~(uint32_t)HU_MALFORMED);
    hu_slot_soil(endpoint, number);
}

static void look_at_control(hu_endpoint *endpoint, struct msghdr *message, hu_peer *peer,
                            uint64_t *segment, uint32_t *overflows_seen) {
    for (struct cmsghdr *head = CMSG_FIRSTHDR(message); head != NULL;
         head = CMSG_NXTHDR(message, head)) {
        if (head->cmsg_level == IPPROTO_UDP && head->cmsg_type == UDP_GRO) {
            int size;
            memcpy(&size, CMSG_DATA(head), sizeof size);
            *segment = size > 0 ? (uint64_t)size : *segment;
        } else if (head->cmsg_level == SOL_SOCKET && head->cmsg_type == SO_RXQ_OVFL) {
            uint32_t seen;
            memcpy(&seen, CMSG_DATA(head), sizeof seen);
            endpoint->counters.overflows += seen - *overflows_seen;
            *overflows_seen = seen;
        } else {
            hu_peer_came_to(peer, head);
        }
    }
}

static void take_read(hu_endpoint *endpoint, uint32_t index, int grouped) {
    struct msghdr *message = &endpoint->messages[index].msg_hdr;
    uint64_t size = endpoint->messages[index].msg_len, segment = size;
    const uint8_t *data = endpoint->memory + (size_t)index * READ_SIZE;
    hu_peer peer;
    hu_peer_of(&endpoint->names[index], &peer);
    look_at_control(endpoint, message, &peer, &segment,
                    grouped ? &endpoint->group_overflows_seen : &endpoint->overflows_seen);
    if (size == 0)
        endpoint->counters.malformed++;
    for (uint64_t at = 0; at < size; at += segment) {
        uint64_t left = size - at < segment ? size - at : segment;
        if (!grouped)
            take_datagram(endpoint, &peer, data + at, left);
        else if (!hu_output_drops(endpoint))
            take_cast(endpoint, &peer, data + at, left);
    }
}

/* A client's socket tells that nobody listens at the other end. */
static void read_failed(hu_endpoint *endpoint, int error) {
    if (error != ECONNREFUSED || endpoint->options.listens || endpoint->count == 0)
        return;
    hu_session_lose(endpoint->slots[0].session, HU_GONE);
    hu_slot_report(endpoint, 0, HU_LOST);
}

/* As recvmmsg for one: it costs a quarter less. */
static int receive_one(int fd, struct mmsghdr *message) {
    ssize_t size = recvmsg(fd, &message->msg_hdr, MSG_DONTWAIT);
    message->msg_len = size < 0 ? 0 : (unsigned)size;
    return size < 0 ? -1 : 1;
}

int hu_input_read(hu_endpoint *endpoint, int fd) {
    int grouped = fd != endpoint->options.fd;
    /* After a look that found nothing one is usually all there is. */
    uint32_t room = grouped || endpoint->in_a_row ? BATCH : 1;
    for (uint32_t i = 0; i < room; i++) {
        endpoint->messages[i].msg_hdr.msg_namelen = sizeof endpoint->names[i];
        endpoint->messages[i].msg_hdr.msg_controllen = CONTROL;
    }
    int count = room == 1 ? receive_one(fd, endpoint->messages)
                          : recvmmsg(fd, endpoint->messages, room, MSG_DONTWAIT, NULL);
    if (!grouped)
        endpoint->in_a_row = count > 0;
    if (count < 0) {
        if (!grouped)
            read_failed(endpoint, errno);
        return 0;
    }
    endpoint->counters.reads++;
    endpoint->now_ns = hu_now();
    for (int i = 0; i < count; i++)
        take_read(endpoint, (uint32_t)i, grouped);
    return count == (int)BATCH;
}

void hu_input_timers(hu_endpoint *endpoint) {
    uint64_t now = endpoint->now_ns;
    if (endpoint->group != NULL && hu_group_tick(endpoint->group, now))
        lose_group(endpoint);
    while (endpoint->heap_count > 0 && endpoint->slots[endpoint->heap[0]].due_ns <= now) {
        uint32_t number = endpoint->heap[0];
        hu_session *session = endpoint->slots[number].session;
        if (hu_session_tick(session, now))
            hu_slot_report(endpoint, number, HU_LOST);
        uint64_t due = hu_session_deadline(session, now);
        hu_slot_soil(endpoint, number);
        hu_slot_due(endpoint, number, due > now ? due : now + 1); /* flushing says it exactly */
    }
}
