/* hu_dial.c -- sets up a session: the question, the cookie, and the size of datagrams. */
#include "hu_dial.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define NEVER    UINT64_MAX
#define NS_PER_S 1000000000u

enum { ASKING, CONFIRMING, DONE };

struct hu_dial {
    int phase;
    hu_options options;
    hu_endpoint *endpoint; /* NULL: it was taken */
    uint64_t nonce;
    uint64_t until_ns;
    uint64_t again_ns; /* when the last datagram is sent again, */
    uint64_t pause_ns; /* after this */
    uint32_t sizes[HU_SIZES_MAX];
    uint32_t size_count;
    uint32_t tries;
    uint32_t chosen; /* bytes of our datagrams */
    hu_setup challenge;
    uint8_t buffer[HU_DATAGRAM_MAX];
};

static uint64_t least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

hu_dial *hu_dial_new(const hu_options *options, const uint32_t *sizes, uint32_t size_count,
                     int64_t timeout_ns) {
    assert(size_count > 0 && size_count <= HU_SIZES_MAX);
    assert(options->sessions_max == 1 && !options->listens);
    hu_dial *dial = calloc(1, sizeof *dial);
    if (dial == NULL)
        return NULL;
    if (hu_endpoint_new(options, &dial->endpoint) < 0) {
        free(dial);
        return NULL;
    }
    dial->options = *options;
    dial->pause_ns = HU_REQUEST_FIRST;
    dial->until_ns = timeout_ns < 0 ? NEVER : hu_now() + (uint64_t)timeout_ns;
    memcpy(dial->sizes, sizes, size_count * sizeof *sizes);
    dial->size_count = size_count;
    ssize_t got = getrandom(&dial->nonce, sizeof dial->nonce, 0);
    assert(got == sizeof dial->nonce);
    return dial;
}

void hu_dial_free(hu_dial *dial) {
    if (dial == NULL)
        return;
    if (dial->phase == DONE && dial->endpoint != NULL)
        hu_endpoint_part(dial->endpoint, 0, HU_BYE);
    hu_endpoint_free(dial->endpoint);
    free(dial);
}

hu_endpoint *hu_dial_take(hu_dial *dial, int *fd) {
    hu_endpoint *endpoint = dial->endpoint;
    assert(dial->phase == DONE && endpoint != NULL);
    dial->endpoint = NULL;
    *fd = dial->options.fd;
    return endpoint;
}

/* ---- saying ---- */

static int say(hu_dial *dial, uint8_t type, uint32_t datagram, uint64_t size) {
    hu_header header = {.session = dial->nonce, .type = type};
    hu_setup ours = dial->challenge;
    ours.window = (uint32_t)dial->options.window;
    ours.liveness_ms = dial->options.liveness_ms;
    ours.datagram = datagram;
    hu_header_encode(dial->buffer, &header);
    hu_setup_encode(dial->buffer + HU_HEADER, &ours);
    memset(dial->buffer + HU_HEADER + HU_SETUP, 0, size - HU_HEADER - HU_SETUP);
    hu_seal(dial->buffer, size);
    return hu_endpoint_say(dial->endpoint, dial->buffer, size);
}

/* Asks for the size whose turn it is, or the first below it that the way out takes. */
static int request(hu_dial *dial) {
    for (;;) {
        uint32_t at = (uint32_t)least(dial->tries / HU_SIZE_TRIES, dial->size_count - 1);
        dial->chosen = dial->sizes[at];
        int error = say(dial, HU_REQUEST, dial->chosen, dial->chosen);
        if (error != EMSGSIZE || at + 1 == dial->size_count)
            return error;
        dial->tries = (at + 1) * HU_SIZE_TRIES;
    }
}

static int repeat(hu_dial *dial, uint64_t now_ns) {
    int confirms = dial->phase == CONFIRMING;
    int error =
        confirms ? say(dial, HU_CONFIRM, dial->chosen, HU_HEADER + HU_SETUP) : request(dial);
    dial->again_ns = now_ns + dial->pause_ns;
    if (confirms || dial->tries / HU_SIZE_TRIES >= dial->size_count)
        dial->pause_ns = least(2 * dial->pause_ns, HU_REQUEST_MAX);
    dial->tries++;
    return error;
}

/* ---- hearing ---- */

static int accepted(hu_dial *dial, hu_setup *setup) {
    if (hu_endpoint_adopt(dial->endpoint, setup->session, setup) < 0)
        return HU_DIAL_MEMORY;
    dial->phase = DONE;
    return 0;
}

static int hear(hu_dial *dial, uint64_t size) {
    hu_header header;
    hu_setup setup;
    if (hu_header_decode(dial->buffer, size, &header) < 0 || header.session != dial->nonce)
        return HU_DIAL_GOING;
    if (header.type == HU_RESET)
        return HU_REFUSED;
    if (header.type != (dial->phase == ASKING ? HU_CHALLENGE : HU_ACCEPT))
        return HU_DIAL_GOING;
    hu_setup_decode(dial->buffer + HU_HEADER, &setup);
    if (setup.datagram < HU_DATAGRAM_MIN)
        return HU_DIAL_GOING;
    setup.datagram = dial->chosen = (uint32_t)least(setup.datagram, dial->chosen);
    if (dial->phase == CONFIRMING)
        return accepted(dial, &setup);
    dial->challenge = setup;
    dial->phase = CONFIRMING;
    dial->again_ns = 0;
    dial->pause_ns = HU_REQUEST_FIRST;
    return HU_DIAL_GOING;
}

int hu_dial_step(hu_dial *dial, uint64_t span_ns) {
    uint64_t now = hu_now();
    int saved = errno, status = HU_DIAL_GOING;
    assert(dial->phase != DONE);
    if (now >= dial->until_ns)
        return HU_DIAL_TIMEOUT;
    if (now >= dial->again_ns && repeat(dial, now) == ECONNREFUSED)
        return HU_GONE;
    uint64_t wait = least(span_ns, least(dial->again_ns, dial->until_ns) - now);
    struct timespec left = {(time_t)(wait / NS_PER_S), (long)(wait % NS_PER_S)};
    struct pollfd readable = {.fd = dial->options.fd, .events = POLLIN};
    if (ppoll(&readable, 1, &left, NULL) > 0) {
        ssize_t size = recv(dial->options.fd, dial->buffer, sizeof dial->buffer, MSG_DONTWAIT);
        if (size >= 0)
            status = hear(dial, (uint64_t)size);
        else if (errno == ECONNREFUSED)
            status = HU_GONE;
    }
    errno = saved;
    return status;
}
