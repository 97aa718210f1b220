/* hu_session.c -- one end of a session: a sender, a receiver and what they report. */
#include "hu_session.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define NEVER         UINT64_MAX
#define NS_PER_MS     1000000u
#define NS_PER_US     1000u
#define ECHO_GRAIN_US 2u /* each end's clock is cut to whole ones */
#define RANGES_MAX    ((HU_STATUS_MAX - HU_HEADER) / HU_RANGE)

struct hu_session {
    uint64_t id;
    hu_sender *sender;
    hu_receiver *receiver;
    uint64_t window;
    uint32_t datagram;
    uint64_t liveness_ns;
    uint64_t keepalive_ns;

    uint64_t begun_ns;
    uint64_t heard_ns;
    uint64_t spoke_ns;
    uint64_t ack_ns;        /* when an acknowledgement is due; NEVER: none is owed */
    uint64_t unacked_bytes; /* received since we last said how far we are */
    uint64_t told_limit;    /* the last limit that we told */

    uint32_t stamp; /* the newest that came; 0: none */
    uint64_t stamp_ns;
    int stamp_echoed;
    uint64_t unechoed; /* stamps of ours that nothing was taken for an echo of */

    int finishing;
    int fin_told;
    int flushed;
    int fin_known;
    uint64_t fin_position;
    uint32_t reason; /* not 0: lost */
    hu_session_counters counters;
};

hu_session *hu_session_new(const hu_session_options *options, uint64_t now_ns) {
    assert(options->datagram >= HU_DATAGRAM_MIN && options->datagram <= HU_DATAGRAM_MAX);
    assert(options->liveness_ms > 0 && options->patience_ms > 0);
    hu_session *session = calloc(1, sizeof *session);
    if (session == NULL)
        return NULL;
    session->sender = hu_sender_new(0, options->datagram - HU_HEADER, options->copy_size);
    session->receiver = hu_receiver_new(options->window, 0, 0);
    if (session->sender == NULL || session->receiver == NULL) {
        hu_session_free(session);
        return NULL;
    }
    session->id = options->id;
    session->window = options->window;
    session->datagram = options->datagram;
    session->liveness_ns = (uint64_t)options->liveness_ms * NS_PER_MS;
    session->keepalive_ns = (uint64_t)options->patience_ms * NS_PER_MS / HU_KEEPALIVES;
    session->begun_ns = session->heard_ns = session->spoke_ns = now_ns;
    session->ack_ns = NEVER;
    session->told_limit = options->window;
    hu_sender_acknowledge(session->sender, 0, options->peer_window, now_ns);
    return session;
}

void hu_session_free(hu_session *session) {
    if (session == NULL)
        return;
    hu_sender_free(session->sender);
    hu_receiver_free(session->receiver);
    free(session);
}

/* ---- input ---- */

static uint64_t retry_ns(const hu_session *session) {
    return hu_sender_srtt(session->sender) + 4 * hu_sender_rttvar(session->sender);
}

/* An echo is of a stamp that was sent and has not been echoed, and no younger than now. */
static void take_echo(hu_session *session, const hu_header *header, uint64_t now_ns) {
    if (header->echo == 0)
        return;
    uint32_t rtt_us = (uint32_t)(now_ns / NS_PER_US) - header->echo;
    if (rtt_us + ECHO_GRAIN_US < ECHO_GRAIN_US) /* held for a part of one more than we count */
        rtt_us = 0;
    uint64_t age_us = (now_ns - session->begun_ns) / NS_PER_US + 1;
    if (rtt_us > HU_RTT_MAX || rtt_us > age_us || session->unechoed == 0) {
        session->counters.echoes_ignored++;
        return;
    }
    session->unechoed--;
    hu_sender_rtt(session->sender, (uint64_t)rtt_us * NS_PER_US);
}

static void take_stamp(hu_session *session, uint32_t stamp, uint64_t now_ns) {
    if (stamp == 0 || (session->stamp != 0 && (int32_t)(stamp - session->stamp) <= 0))
        return;
    session->stamp = stamp;
    session->stamp_ns = now_ns;
    session->stamp_echoed = 0;
}

static void take_ranges(hu_session *session, const uint8_t *data, uint64_t size, uint64_t now_ns) {
    uint32_t count = hu_sender_admit(session->sender, (uint32_t)(size / HU_RANGE), now_ns);
    session->counters.nacks_received += size > 0;
    for (uint32_t i = 0; i < count; i++) {
        hu_range range;
        hu_range_decode(data + (size_t)i * HU_RANGE, &range);
        hu_sender_repeat(session->sender, &range, now_ns);
    }
}

/* The stream ends at `end`; 0: it can't. */
static int take_fin(hu_session *session, uint64_t end) {
    if (session->fin_known)
        return session->fin_position == end;
    if (end < hu_receiver_highest(session->receiver))
        return 0;
    session->fin_known = 1;
    session->fin_position = end;
    return 1;
}

static int all_received(const hu_session *session) {
    return session->fin_known && hu_receiver_received(session->receiver) == session->fin_position;
}

static void owe(hu_session *session, uint64_t when_ns) {
    if (when_ns < session->ack_ns)
        session->ack_ns = when_ns;
}

static uint32_t take_data(hu_session *session, const hu_header *header, const uint8_t *data,
                          uint64_t size, uint64_t now_ns) {
    uint64_t before = hu_receiver_received(session->receiver);
    uint64_t end = header->position + size;
    if (session->fin_known && end > session->fin_position)
        return HU_MALFORMED;
    int taken = hu_receiver_take(session->receiver, header->position, data, size,
                                 (header->flags & HU_REPEAT) != 0, now_ns);
    if (taken == HU_TOOK)
        session->unacked_bytes += size;
    if (taken == HU_OUTSIDE)
        return HU_MALFORMED;
    if (size > 0)
        owe(session, session->unacked_bytes >= HU_ACK_BYTES ? now_ns : now_ns + HU_ACK_DELAY);
    return hu_receiver_received(session->receiver) > before ? HU_READABLE : 0;
}

uint32_t hu_session_input(hu_session *session, const hu_header *header, const uint8_t *data,
                          uint64_t size, uint64_t now_ns) {
    uint32_t events = 0;
    assert(header->session == session->id);
    if (session->reason != 0)
        return HU_LOST;
    session->counters.received++;
    if (header->type == HU_RESET) {
        session->reason =
            header->window == 0 || header->window > HU_REFUSED ? HU_BYE : header->window;
        return HU_LOST;
    }
    if ((header->type != HU_DATA && header->type != HU_STATUS) || header->stream != 0 ||
        header->received > hu_sender_sent(session->sender)) {
        session->counters.impossible++;
        return HU_MALFORMED;
    }
    session->heard_ns = now_ns;
    int ended = all_received(session);
    take_echo(session, header, now_ns);
    take_stamp(session, header->stamp, now_ns);
    uint64_t newly = hu_sender_acknowledge(session->sender, header->received,
                                           header->received + header->window, now_ns);
    events |= newly > 0 ? HU_RELEASED | HU_WIDER : HU_WIDER;
    if (header->type == HU_DATA) {
        events |= take_data(session, header, data, size, now_ns);
    } else {
        take_ranges(session, data, size, now_ns);
        hu_receiver_expect(session->receiver, header->position, now_ns);
    }
    if ((events & HU_MALFORMED) == 0 && (header->flags & HU_FIN) != 0 &&
        !take_fin(session, header->position + (header->type == HU_DATA ? size : 0)))
        events |= HU_MALFORMED;
    if ((header->flags & HU_PROBE) != 0)
        owe(session, now_ns);
    if (!ended && all_received(session)) {
        events |= HU_ENDED;
        owe(session, now_ns);
    }
    if ((header->flags & HU_FIN_RECEIVED) != 0 && session->fin_told && !session->flushed) {
        session->flushed = 1;
        hu_sender_await(session->sender, 0, now_ns);
        events |= HU_FLUSHED;
    }
    session->counters.impossible += (events & HU_MALFORMED) != 0;
    return events;
}

uint32_t hu_session_tick(hu_session *session, uint64_t now_ns) {
    if (session->reason == 0 && now_ns - session->heard_ns >= session->liveness_ns &&
        now_ns > session->heard_ns)
        session->reason = HU_SILENT;
    return session->reason != 0 ? HU_LOST : 0;
}

/* ---- what the application does ---- */

uint64_t hu_session_push(hu_session *session, const uint8_t *data, uint64_t size, int copy) {
    assert(!session->finishing);
    return hu_sender_push(session->sender, data, size, copy);
}

void hu_session_consume(hu_session *session, uint64_t size) {
    hu_receiver_consume(session->receiver, size);
    uint64_t limit = hu_receiver_limit(session->receiver);
    uint64_t told = session->told_limit - hu_receiver_received(session->receiver);
    if (told < session->window / 2 && limit - session->told_limit >= session->window / 4)
        owe(session, 0); /* the peer is about to stall, or has */
}

void hu_session_finish(hu_session *session, uint64_t now_ns) {
    if (session->finishing)
        return;
    session->finishing = 1;
    hu_sender_await(session->sender, 1, now_ns);
    owe(session, now_ns);
}

/* ---- output ---- */

static hu_header heading(hu_session *session, uint8_t type, uint64_t now_ns) {
    uint64_t received = hu_receiver_received(session->receiver);
    hu_header header = {.session = session->id,
                        .type = type,
                        .position = hu_sender_sent(session->sender),
                        .received = received,
                        .stamp = hu_stamp(now_ns)};
    session->unechoed++;
    session->told_limit = hu_receiver_limit(session->receiver);
    header.window = (uint32_t)(session->told_limit - received);
    if (session->stamp != 0 && !session->stamp_echoed) {
        header.echo = session->stamp + (uint32_t)((now_ns - session->stamp_ns) / NS_PER_US);
        header.echo = header.echo == 0 ? 1 : header.echo;
        session->stamp_echoed = 1;
    }
    if (all_received(session))
        header.flags |= HU_FIN_RECEIVED;
    session->ack_ns = NEVER;
    session->unacked_bytes = 0;
    session->spoke_ns = now_ns;
    return header;
}

void hu_train_begin(hu_train *train) {
    train->count = train->pieces = 0;
    train->size = train->segment_size = 0;
    train->span = (hu_span){0};
}

void hu_train_put(hu_train *train, const void *data, uint64_t size) {
    train->iov[train->pieces++] =
        (struct iovec){.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    train->size += size;
}

/* One datagram of stream bytes.  Returns how many it carries: fewer than `size` if they stand in
 * more pieces than there is room for. */
static uint64_t put_data(hu_session *session, hu_train *train, hu_header *header, uint64_t position,
                         uint64_t size) {
    hu_piece pieces[HU_PIECES_MAX];
    uint64_t found;
    if (train->pieces + 2 > HU_PIECES_MAX) /* a header and a piece */
        return 0;
    uint32_t room = HU_PIECES_MAX - 1 - train->pieces;
    uint32_t count = hu_sender_locate(session->sender, position, size, pieces, room, &found);
    if (found < size && train->count > 0)
        return 0;
    if (session->finishing && position + found == hu_sender_end(session->sender)) {
        header->flags |= HU_FIN;
        session->fin_told = 1;
    }
    uint8_t *head = train->headers[train->count];
    train->first[train->count++] = train->pieces;
    header->position = position;
    hu_header_encode(head, header);
    uint32_t crc = hu_crc_header(head);
    hu_train_put(train, head, HU_HEADER);
    for (uint32_t i = 0; i < count; i++) {
        hu_train_put(train, pieces[i].data, pieces[i].size);
        crc = hu_core->crc32c(crc, pieces[i].data, pieces[i].size);
    }
    hu_crc_store(head, crc);
    return found;
}

static uint32_t emit_data(hu_session *session, hu_train *train, uint64_t now_ns) {
    uint64_t payload = session->datagram - HU_HEADER;
    uint64_t most = HU_DATAGRAM_MAX / session->datagram;
    hu_span *span = &train->span;
    most = most < HU_TRAIN_MAX ? most : HU_TRAIN_MAX;
    hu_sender_next(session->sender, most * payload, now_ns, span);
    if (span->size == 0)
        return 0;
    hu_header header = heading(session, HU_DATA, now_ns);
    header.flags |= (uint16_t)((span->repeat ? HU_REPEAT : 0) | (span->probe ? HU_PROBE : 0));
    uint64_t end = span->position + span->size, at = span->position;
    while (at < end) {
        uint64_t size = end - at < payload ? end - at : payload;
        uint64_t put = put_data(session, train, &header, at, size);
        at += put;
        if (put < size)
            break;
    }
    train->segment_size = train->count > 1 ? session->datagram : train->size;
    if (at < end) { /* many small pieces: the rest is another train */
        hu_sender_unsend(session->sender, span, at);
        span->size = at - span->position;
    }
    session->counters.sent += train->count;
    return train->count;
}

static uint32_t emit_status(hu_session *session, hu_train *train, uint64_t now_ns) {
    hu_range ranges[RANGES_MAX];
    uint32_t room = (session->datagram < HU_STATUS_MAX ? session->datagram : HU_STATUS_MAX);
    uint32_t count = hu_receiver_call(session->receiver, ranges, (room - HU_HEADER) / HU_RANGE,
                                      retry_ns(session), now_ns);
    int keepalive = now_ns - session->spoke_ns >= session->keepalive_ns;
    int probe = train->span.probe != 0;
    if (count == 0 && now_ns < session->ack_ns && !keepalive && !probe)
        return 0;
    session->counters.keepalives += keepalive && count == 0 && session->ack_ns == NEVER && !probe;
    session->counters.nacks_sent += count > 0;
    hu_header header = heading(session, HU_STATUS, now_ns);
    if (probe)
        header.flags |= HU_PROBE;
    if (session->finishing && header.position == hu_sender_end(session->sender)) {
        header.flags |= HU_FIN;
        session->fin_told = 1;
    }
    hu_train_begin(train);
    for (uint32_t i = 0; i < count; i++)
        hu_range_encode(train->body + (size_t)i * HU_RANGE, &ranges[i]);
    uint8_t *head = train->headers[0];
    train->first[0] = 0;
    hu_header_encode(head, &header);
    uint64_t size = (uint64_t)count * HU_RANGE;
    hu_crc_store(head, hu_core->crc32c(hu_crc_header(head), train->body, size));
    hu_train_put(train, head, HU_HEADER);
    if (size > 0)
        hu_train_put(train, train->body, size);
    train->count = 1;
    train->segment_size = train->size;
    session->counters.sent++;
    session->counters.statuses_sent++;
    return 1;
}

uint32_t hu_session_emit(hu_session *session, hu_train *train, uint64_t now_ns) {
    hu_train_begin(train);
    if (session->reason != 0)
        return 0;
    /* What is missing is asked for first: it holds the application up. */
    if (hu_receiver_deadline(session->receiver) <= now_ns && emit_status(session, train, now_ns))
        return 1;
    uint32_t count = emit_data(session, train, now_ns);
    return count > 0 ? count : emit_status(session, train, now_ns);
}

void hu_session_unsend(hu_session *session, const hu_train *train, uint32_t count) {
    assert(count <= train->count);
    session->counters.sent -= train->count - count;
    if (train->span.size == 0) {
        if (count == 0)
            owe(session, 0);
        return;
    }
    uint64_t sent = (uint64_t)count * (session->datagram - HU_HEADER);
    if (sent < train->span.size)
        hu_sender_unsend(session->sender, &train->span, train->span.position + sent);
}

uint64_t hu_session_deadline(const hu_session *session, uint64_t now_ns) {
    if (session->reason != 0)
        return NEVER;
    uint64_t due = session->heard_ns + session->liveness_ns;
    uint64_t others[4] = {session->spoke_ns + session->keepalive_ns, session->ack_ns,
                          hu_receiver_deadline(session->receiver),
                          hu_sender_deadline(session->sender, now_ns)};
    for (int i = 0; i < 4; i++)
        due = others[i] < due ? others[i] : due;
    return due;
}

/* ---- looking ---- */

void hu_session_lose(hu_session *session, uint32_t reason) {
    assert(reason != 0);
    if (session->reason == 0)
        session->reason = reason;
}

uint32_t hu_session_datagram(const hu_session *session) {
    return session->datagram;
}

void hu_session_shrink(hu_session *session, uint32_t datagram) {
    assert(datagram >= HU_DATAGRAM_MIN && datagram <= session->datagram);
    session->datagram = datagram;
    hu_sender_shrink(session->sender, datagram - HU_HEADER);
}

uint32_t hu_session_reason(const hu_session *session) {
    return session->reason;
}

uint64_t hu_session_id(const hu_session *session) {
    return session->id;
}

uint32_t hu_session_state(const hu_session *session) {
    return (all_received(session) ? (uint32_t)HU_ENDED : 0) |
           (session->flushed ? (uint32_t)HU_FLUSHED : 0) |
           (session->reason != 0 ? (uint32_t)HU_LOST : 0);
}

hu_sender *hu_session_sender(hu_session *session) {
    return session->sender;
}

hu_receiver *hu_session_receiver(hu_session *session) {
    return session->receiver;
}

void hu_session_count(const hu_session *session, hu_session_counters *counters) {
    *counters = session->counters;
}

hu_train *hu_train_new(void) {
    return calloc(1, sizeof(hu_train));
}

void hu_train_free(hu_train *train) {
    free(train);
}

uint64_t hu_train_copy(const hu_train *train, uint32_t index, uint8_t *out) {
    uint64_t at = 0, from = index * train->segment_size;
    uint64_t to =
        from + train->segment_size < train->size ? from + train->segment_size : train->size;
    assert(index < train->count);
    for (uint32_t i = 0; i < train->pieces && at < to; i++) {
        uint64_t size = train->iov[i].iov_len;
        uint64_t start = at > from ? at : from, end = at + size < to ? at + size : to;
        if (start < end)
            memcpy(out + (start - from), (const uint8_t *)train->iov[i].iov_base + (start - at),
                   end - start);
        at += size;
    }
    return to - from;
}
