/* hu_setup.c -- a listener's part of setting up sessions. */
#include "hu_parts.h"

#include <assert.h>
#include <string.h>

static uint64_t hash(const hu_endpoint *endpoint, int key, const hu_peer *peer, uint64_t nonce,
                     uint32_t issued_s) {
    uint8_t data[36];
    hu_peer_prefix(peer, data);
    memcpy(data + 20, &peer->scope, 4);
    memcpy(data + 24, &nonce, 8);
    memcpy(data + 32, &issued_s, 4);
    return hu_siphash(endpoint->options.secret + (key ? 16 : 0), data, sizeof data);
}

static hu_setup our_setup(const hu_endpoint *endpoint) {
    const hu_options *options = &endpoint->options;
    return (hu_setup){.window = (uint32_t)options->window,
                      .datagram = options->datagram,
                      .liveness_ms = options->liveness_ms};
}

static void answer(hu_endpoint *endpoint, const hu_peer *peer, uint8_t type, uint64_t nonce,
                   const hu_setup *setup, uint64_t size) {
    uint8_t out[HU_DATAGRAM_MAX];
    hu_header header = {.session = nonce, .type = type};
    assert(size >= HU_HEADER + HU_SETUP && size <= sizeof out);
    hu_header_encode(out, &header);
    hu_setup_encode(out + HU_HEADER, setup);
    memset(out + HU_HEADER + HU_SETUP, 0, size - HU_HEADER - HU_SETUP);
    hu_output_say(endpoint, peer, out, size);
}

void hu_setup_reset(hu_endpoint *endpoint, const hu_peer *peer, uint64_t id, uint32_t reason) {
    uint8_t out[HU_HEADER];
    uint64_t step = NS_PER_S / HU_RESETS_MAX, now = endpoint->now_ns;
    if (endpoint->resets_ns > now + NS_PER_S / 10) {
        endpoint->counters.resets_spared++;
        return;
    }
    endpoint->resets_ns = (endpoint->resets_ns > now ? endpoint->resets_ns : now) + step;
    hu_header header = {.session = id, .type = HU_RESET, .window = reason};
    hu_header_encode(out, &header);
    endpoint->counters.resets_sent++;
    hu_output_say(endpoint, peer, out, sizeof out);
}

/* The answer is as large as the question, so that the path is proven both ways for that size. */
void hu_setup_request(hu_endpoint *endpoint, const hu_peer *peer, const hu_header *header,
                      uint64_t size) {
    hu_setup setup = our_setup(endpoint);
    endpoint->counters.requests++;
    setup.issued_s = (uint32_t)(endpoint->now_ns / NS_PER_S);
    setup.cookie = hash(endpoint, 0, peer, header->session, setup.issued_s);
    answer(endpoint, peer, HU_CHALLENGE, header->session, &setup, size);
}

static int was_here(const hu_endpoint *endpoint, uint64_t id) {
    for (uint32_t i = 0; i < HU_GONE_MAX; i++)
        if (endpoint->gone[i] == id)
            return 1;
    return 0;
}

void hu_setup_confirm(hu_endpoint *endpoint, const hu_peer *peer, const hu_header *header,
                      const uint8_t *data) {
    hu_setup theirs, ours = our_setup(endpoint);
    hu_setup_decode(data, &theirs);
    uint32_t age_s = (uint32_t)(endpoint->now_ns / NS_PER_S) - theirs.issued_s;
    if (age_s > HU_COOKIE_LIFE / NS_PER_S || theirs.datagram < HU_DATAGRAM_MIN ||
        theirs.cookie != hash(endpoint, 0, peer, header->session, theirs.issued_s)) {
        endpoint->counters.bad_cookies++;
        return;
    }
    uint64_t id = hash(endpoint, 1, peer, header->session, theirs.issued_s);
    uint32_t number = hu_slot_find(endpoint, id);
    if (number == NO_SLOT ? was_here(endpoint, id)
                          : hu_session_reason(endpoint->slots[number].session) != 0) {
        endpoint->counters.replayed++;
        return;
    }
    if (number == NO_SLOT) {
        if (!endpoint->stopped && endpoint->count < endpoint->options.sessions_max)
            number = hu_slot_admit(endpoint, id, peer, &theirs);
        if (number == NO_SLOT) {
            endpoint->counters.refused++;
            hu_setup_reset(endpoint, peer, header->session, HU_REFUSED);
            return;
        }
        hu_slot_report(endpoint, number, HU_NEW);
    }
    ours.session = id;
    ours.datagram = theirs.datagram < ours.datagram ? theirs.datagram : ours.datagram;
    answer(endpoint, peer, HU_ACCEPT, header->session, &ours, HU_HEADER + HU_SETUP);
}
