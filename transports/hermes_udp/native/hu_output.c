/* hu_output.c -- how an endpoint sends its datagrams. */
#include "hu_parts.h"

#include <assert.h>
#include <errno.h>
#include <netinet/udp.h>
#include <string.h>

int hu_output_drops(hu_endpoint *endpoint) {
    if (endpoint->options.drop == 0)
        return 0;
    endpoint->random = endpoint->random * 6364136223846793005u + 1442695040888963407u;
    int dropped = endpoint->random >> 32 < endpoint->options.drop;
    endpoint->counters.dropped += (uint64_t)dropped;
    return dropped;
}

/* One small datagram, joined: the kernel takes longer over a list of pieces than this over copying
 * them.  0 or an errno. */
static int write_joined(hu_endpoint *endpoint, struct msghdr *message) {
    uint8_t joined[SMALL];
    struct iovec whole = {joined, 0};
    for (size_t i = 0; i < message->msg_iovlen; i++) {
        const struct iovec *piece = &message->msg_iov[i];
        assert(piece->iov_len <= SMALL - whole.iov_len);
        memcpy(joined + whole.iov_len, piece->iov_base, piece->iov_len);
        whole.iov_len += piece->iov_len;
    }
    message->msg_iov = &whole;
    message->msg_iovlen = 1;
    int fd = endpoint->options.fd, flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    endpoint->counters.writes++;
    while ((message->msg_controllen > 0 ? sendmsg(fd, message, flags)
                                        : sendto(fd, joined, whole.iov_len, flags,
                                                 message->msg_name, message->msg_namelen)) < 0)
        if (errno != EINTR)
            return errno;
    endpoint->counters.datagrams_out++;
    return 0;
}

static int is_small(const struct iovec *pieces, size_t count) {
    size_t size = 0;
    for (size_t i = 0; i < count && size <= SMALL; i++)
        size += pieces[i].iov_len;
    return size <= SMALL;
}

/* One call for `count` datagrams, of `segment` bytes each but the last.  0 or an errno. */
static int write_pieces(hu_endpoint *endpoint, const hu_peer *peer, struct iovec *pieces,
                        size_t piece_count, uint64_t segment, uint32_t count) {
    struct sockaddr_storage name;
    _Alignas(struct cmsghdr) uint8_t control[CONTROL];
    size_t controlled = 0;
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = piece_count};
    if (endpoint->options.listens) {
        message.msg_namelen = hu_peer_name(peer, &name);
        message.msg_name = &name;
        if (peer->has_local)
            controlled = hu_peer_from(peer, (struct cmsghdr *)control);
    }
    if (count > 1) {
        struct cmsghdr *head = (struct cmsghdr *)(control + controlled);
        head->cmsg_level = IPPROTO_UDP;
        head->cmsg_type = UDP_SEGMENT;
        head->cmsg_len = CMSG_LEN(sizeof(uint16_t));
        uint16_t size = (uint16_t)segment;
        memcpy(CMSG_DATA(head), &size, sizeof size);
        controlled += CMSG_SPACE(sizeof size);
    }
    assert(controlled <= sizeof control);
    message.msg_control = controlled > 0 ? control : NULL;
    message.msg_controllen = controlled;
    if (count == 1 && is_small(pieces, piece_count))
        return write_joined(endpoint, &message);
    endpoint->counters.writes++;
    while (sendmsg(endpoint->options.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        if (errno != EINTR)
            return errno;
    endpoint->counters.datagrams_out += count;
    return 0;
}

static int write_tap(hu_endpoint *endpoint, const hu_peer *peer, const struct iovec *pieces,
                     size_t count) {
    struct iovec all[HU_PIECES_MAX + 1];
    uint8_t prefix[HU_TAP_PREFIX];
    hu_peer_prefix(peer, prefix);
    all[0] = (struct iovec){prefix, sizeof prefix};
    if (count > HU_PIECES_MAX - 1)
        return EMSGSIZE;
    memcpy(all + 1, pieces, count * sizeof *pieces);
    struct msghdr message = {.msg_iov = all, .msg_iovlen = count + 1};
    endpoint->counters.writes++;
    while (sendmsg(endpoint->options.tap_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        if (errno != EINTR)
            return errno;
    endpoint->counters.datagrams_out++;
    return 0;
}

static int write_one(hu_endpoint *endpoint, const hu_peer *peer, struct iovec *pieces,
                     size_t count) {
    return endpoint->options.tap_fd >= 0 ? write_tap(endpoint, peer, pieces, count)
                                         : write_pieces(endpoint, peer, pieces, count, 0, 1);
}

int hu_endpoint_say(hu_endpoint *endpoint, const uint8_t *data, uint64_t size) {
    hu_peer nobody = {0};
    struct iovec piece = {(void *)(uintptr_t)data, size};
    return hu_output_drops(endpoint) ? 0 : write_one(endpoint, &nobody, &piece, 1);
}

/* A datagram past the sessions. */
void hu_output_say(hu_endpoint *endpoint, const hu_peer *peer, uint8_t *data, uint64_t size) {
    struct iovec piece = {data, size};
    hu_seal(data, size);
    if (!hu_output_drops(endpoint))
        write_one(endpoint, peer, &piece, 1); /* unsent is as good as lost */
}

static uint32_t piece_of(const hu_train *train, uint32_t datagram) {
    return datagram < train->count ? train->first[datagram] : train->pieces;
}

/* Datagrams [from, to) of the train; 0, or the errno with which the first of them failed: `*sent`
 * says how many were sent before. */
static int write_run(hu_endpoint *endpoint, hu_peer *peer, hu_train *train, uint32_t from,
                     uint32_t to, uint32_t *sent) {
    *sent = 0;
    if (endpoint->gso && !peer->one_by_one && to - from > 1) {
        struct iovec *pieces = train->iov + train->first[from];
        int error = write_pieces(endpoint, peer, pieces, piece_of(train, to) - train->first[from],
                                 train->segment_size, to - from);
        if (error == 0)
            *sent = to - from;
        if (error != EIO && error != EINVAL && error != EOPNOTSUPP)
            return error;
        peer->one_by_one = 1; /* the device on this way can't */
    }
    for (uint32_t i = from; i < to; i++) {
        struct iovec *pieces = train->iov + train->first[i];
        int error = write_one(endpoint, peer, pieces, piece_of(train, i + 1) - train->first[i]);
        if (error != 0)
            return error;
        ++*sent;
    }
    return 0;
}

/* The train but those datagrams that are to be lost.  0 or an errno; `*sent`: datagrams done with.
 */
static int write_train(hu_endpoint *endpoint, hu_peer *peer, hu_train *train, uint32_t *sent) {
    if (endpoint->options.drop == 0)
        return write_run(endpoint, peer, train, 0, train->count, sent);
    *sent = 0;
    while (*sent < train->count) {
        uint32_t from = *sent, to = from, run;
        while (to < train->count && !hu_output_drops(endpoint))
            to++;
        int lost = to < train->count;
        int error = write_run(endpoint, peer, train, from, to, &run);
        *sent += run;
        if (error != 0)
            return error;
        *sent += (uint32_t)lost;
    }
    return 0;
}

/* Whether it is the socket, or the device behind it, that took nothing: all sessions wait then. */
static int is_full(int error) {
    return error == EAGAIN || error == ENOBUFS || error == ENOMEM;
}

/* What a failed write of all but the first `sent` datagrams of the train means. */
static void write_failed(hu_endpoint *endpoint, uint32_t number, uint32_t sent, int error) {
    slot *s = &endpoint->slots[number];
    if (error == EMSGSIZE && hu_session_datagram(s->session) > SHRUNK) {
        hu_session_unsend(s->session, endpoint->train, sent);
        hu_session_shrink(s->session, SHRUNK);
        s->peer.one_by_one = 0; /* trains of smaller ones may go */
        endpoint->counters.shrunk++;
    } else if (error == ECONNREFUSED) {
        hu_session_lose(s->session, HU_GONE);
        hu_slot_report(endpoint, number, HU_LOST);
    } else if (is_full(error)) {
        hu_session_unsend(s->session, endpoint->train, sent);
        endpoint->counters.no_room++;
        endpoint->blocked_ns = endpoint->now_ns + HU_NO_ROOM;
    } else { /* this peer's route is not there now: lost on the way, and nobody else's matter */
        endpoint->counters.no_route += endpoint->train->count - sent;
    }
}

/* 1: there is more to write. */
static int flush_one(hu_endpoint *endpoint, uint32_t number) {
    slot *s = &endpoint->slots[number];
    hu_train *train = endpoint->train;
    for (uint32_t i = 0; i < HU_TRAINS_MAX; i++) {
        uint32_t sent, count = hu_session_emit(s->session, train, endpoint->now_ns);
        if (count == 0) {
            uint64_t due = hu_session_deadline(s->session, endpoint->now_ns);
            /* Later than it is known: found out when it is time, most are put off again and again.
             */
            if (due < s->due_ns || s->due_ns <= endpoint->now_ns)
                hu_slot_due(endpoint, number, due);
            return 0;
        }
        int error = write_train(endpoint, &s->peer, train, &sent);
        if (error != 0) {
            write_failed(endpoint, number, sent, error);
            return hu_session_reason(s->session) == 0;
        }
    }
    return 1;
}

/* ---- casting ---- */

void hu_endpoint_cast(hu_endpoint *endpoint, hu_caster *caster, const uint8_t *group) {
    assert(endpoint->options.listens);
    endpoint->cast = caster;
    endpoint->cast_to = (hu_peer){0};
    if (caster == NULL)
        return;
    memcpy(&endpoint->cast_to.family, group, 2);
    memcpy(&endpoint->cast_to.port, group + 2, 2);
    memcpy(endpoint->cast_to.address, group + 4, 16);
}

/* Whom a train of the caster's is for; NULL: his session is over. */
static hu_peer *target_of(hu_endpoint *endpoint, uint64_t target) {
    if (target == HU_CAST_ALL)
        return &endpoint->cast_to;
    uint32_t number = hu_slot_find(endpoint, target);
    return number == NO_SLOT ? NULL : &endpoint->slots[number].peer;
}

static void cast_failed(hu_endpoint *endpoint, hu_peer *peer, uint32_t sent, int error) {
    if (is_full(error)) {
        hu_caster_unsend(endpoint->cast, endpoint->train, sent);
        endpoint->counters.no_room++;
        endpoint->blocked_ns = endpoint->now_ns + HU_NO_ROOM;
    } else if (error == EMSGSIZE && hu_caster_datagram(endpoint->cast) > SHRUNK) {
        hu_caster_unsend(endpoint->cast, endpoint->train, sent);
        hu_caster_shrink(endpoint->cast, SHRUNK);
        peer->one_by_one = 0;
        endpoint->counters.shrunk++;
    } else { /* lost on the way: called for again */
        endpoint->counters.no_route += endpoint->train->count - sent;
    }
}

/* 1: there is more to write. */
static int flush_cast(hu_endpoint *endpoint) {
    for (uint32_t i = 0; i < HU_TRAINS_MAX; i++) {
        uint64_t target;
        uint32_t sent, count = hu_caster_emit(endpoint->cast, endpoint->train, endpoint->count,
                                              endpoint->now_ns, &target);
        if (count == 0)
            return 0;
        hu_peer *peer = target_of(endpoint, target);
        int error = peer == NULL ? 0 : write_train(endpoint, peer, endpoint->train, &sent);
        if (error != 0) {
            cast_failed(endpoint, peer, sent, error);
            return 1;
        }
    }
    return 1;
}

/* Sends a call for what of the group is missing. */
static void call_group(hu_endpoint *endpoint) {
    uint8_t out[HU_STATUS_MAX];
    int saved = errno;
    hu_session *session = endpoint->slots[0].session;
    hu_sender *sender = hu_session_sender(session);
    uint32_t room = hu_session_datagram(session);
    uint64_t rtt_ns = hu_sender_srtt(sender) + 4 * hu_sender_rttvar(sender);
    uint64_t size = hu_group_emit(endpoint->group, hu_session_id(session), rtt_ns, out,
                                  room < sizeof out ? room : sizeof out, hu_now());
    if (size > 0 && hu_session_reason(session) == 0)
        hu_endpoint_say(endpoint, out, size);
    errno = saved;
}

/* A receiver of our cast calls for what it misses: for as much as on its session. */
static void turn_round(uint32_t *list, uint32_t count) {
    for (uint32_t i = 0; i < count / 2; i++) {
        uint32_t moved = list[i];
        list[i] = list[count - 1 - i];
        list[count - 1 - i] = moved;
    }
}

/* Who filled the socket comes after those who have had nothing of it. */
static void put_last(uint32_t *list, uint32_t served, uint32_t count) {
    turn_round(list, served);
    turn_round(list + served, count - served);
    turn_round(list, count);
}

int hu_endpoint_flush(hu_endpoint *endpoint) {
    uint32_t count = endpoint->dirty_count, left = 0, served = 0;
    if (endpoint->group != NULL)
        call_group(endpoint);
    if (count == 0 && endpoint->cast == NULL)
        return 0;
    int saved = errno;
    endpoint->now_ns = hu_now();
    if (endpoint->blocked_ns > endpoint->now_ns)
        return 0;
    endpoint->blocked_ns = 0;
    int casts = endpoint->cast != NULL, last = endpoint->cast_filled, more = 0;
    if (casts && !last)
        more = flush_cast(endpoint);
    endpoint->cast_filled = endpoint->blocked_ns != 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t number = endpoint->dirty[i];
        int blocked = endpoint->blocked_ns != 0;
        if (!blocked && !flush_one(endpoint, number))
            endpoint->slots[number].dirty = 0;
        else
            endpoint->dirty[left++] = number;
        if (!blocked)
            served = left;
    }
    endpoint->dirty_count = left;
    if (endpoint->blocked_ns != 0) {
        put_last(endpoint->dirty, served, left);
    } else if (casts && last) {
        more = flush_cast(endpoint);
        endpoint->cast_filled = endpoint->blocked_ns != 0;
    }
    errno = saved;
    return (left > 0 || more) && endpoint->blocked_ns == 0;
}
