/* fuzz_endpoint.c -- any datagrams, from any addresses, to a listener of the udp transport.
 *
 * What reads and writes datagrams is ours: nothing reaches a socket.  The input is a list of events
 * of four bytes and what follows:
 *
 *     what (u8 % 11) 0..4 a datagram, 5 bytes are pushed to a session, 6 a session is dropped,
 *                    7 writing fails from now on, with an error chosen by `how`,
 *                    8 casting begins (repairs go to all, or to who called: `how` & 1), or ends,
 *                    9 a batch is cast, 10 so many times 1 ms pass
 *     who  (u8)      which of the addresses it comes from, or which session it concerns
 *     size (u16)     of the datagram, whose bytes follow, or of what is pushed or cast
 *     how  (u8)      for a datagram: bits of what is set right in it (below); its bytes follow
 *
 * Of an input of odd length a quarter of the answers is lost.  A guess would find neither the id of
 * a session, nor a cookie, nor a checksum, nor what was cast, so these are filled in as `how` says.
 * The clock is ours.  Beside what the sanitizers see, these must hold:
 *   - what is answered to a datagram past the sessions is no larger than it;
 *   - a session is made only for who brings back a cookie that was sent to its address;
 *   - there are never more than allowed, and nothing happens to one because of another address;
 *   - what is cast leaves once, in order, to the group, with the bytes that were cast; repeats of
 *     it go to all or to peers with a session, as was chosen; nothing else is of the group's stream;
 *   - no more of it leaves than its rate allows, whatever is called for.
 */
#include <errno.h>
#include <string.h>

#include "hu_endpoint.h"

#include "fuzz_clock.h"
#include "fuzz_driver.h"

#define PEERS      6
#define SESSIONS   4
#define CHALLENGES 64
#define EVENTS     64 /* of an input: the rest is left */
#define SIZE_MAX_  2048
#define WINDOW     4096
#define CAST       9u
#define CAST_RATE  10000000u
#define CAST_MAX   262144u /* bytes of an input's batches: more is not cast */
#define CAST_BATCH 56u     /* bytes of an empty one */
#define GROUP_PORT 99
#define HISTORY    65536u
#define LIVENESS   10000 /* ms */
#define BEGIN_NS   1000000000u
#define NS_PER_MS  1000000u

enum { RAW = 1, LIVE = 2, GONE = 4, NONCE = 8, COOKIE = 16, RUN = 32, CALL = 64 };

typedef struct {
    in_port_t port;
    uint64_t nonce;
    hu_setup setup;
} challenge;

static challenge challenges[CHALLENGES];
static uint32_t challenge_count, live_count;
static struct {
    uint32_t slot;
    int finished; /* nothing is pushed any more */
} live[SESSIONS];
static uint64_t gone, answered, delivered;
static int write_error;
static uint8_t incoming[SIZE_MAX_];
static uint64_t incoming_size; /* 0: nothing comes */
static uint16_t incoming_segment;
static in_port_t incoming_port;
static hu_caster *caster; /* NULL: nothing is cast */
static struct {
    uint8_t bytes[CAST_MAX];
    uint64_t end;
    uint64_t left;     /* has left, or was lost on purpose */
    uint64_t carried;  /* bytes of datagrams, */
    uint64_t begun_ns; /* since */
    int unicast;
} cast;

ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
    (void)fd, (void)flags;
    if (incoming_size == 0) {
        errno = EAGAIN;
        return -1;
    }
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_port = incoming_port};
    must(message->msg_namelen >= sizeof from && message->msg_iov[0].iov_len >= incoming_size);
    memcpy(message->msg_name, &from, sizeof from);
    memcpy(message->msg_iov[0].iov_base, incoming, incoming_size);
    struct cmsghdr *head = CMSG_FIRSTHDR(message);
    must(head != NULL && message->msg_controllen >= CMSG_SPACE(sizeof(int)));
    int segment = incoming_segment;
    *head = (struct cmsghdr){CMSG_LEN(sizeof segment), IPPROTO_UDP, 104};
    memcpy(CMSG_DATA(head), &segment, sizeof segment);
    message->msg_controllen = segment > 0 ? CMSG_SPACE(sizeof segment) : 0;
    ssize_t size = (ssize_t)incoming_size;
    incoming_size = 0;
    return size;
}

int recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags,
             struct timespec *timeout) {
    (void)timeout;
    must(count > 0);
    ssize_t size = recvmsg(fd, &messages[0].msg_hdr, flags);
    messages[0].msg_len = size < 0 ? 0 : (unsigned)size;
    return size < 0 ? -1 : 1;
}

/* A datagram of the group's stream. */
static void look_at_cast(const hu_header *header, const uint8_t *body, uint64_t size,
                         in_port_t to) {
    static hu_beacon beacon;
    static hu_beacon_entry entries[HU_BEACON_STREAMS];
    int repeat = (header->flags & HU_REPEAT) != 0;
    must(caster != NULL && header->session == CAST);
    must(to == GROUP_PORT || (repeat && cast.unicast && to >= 1 && to <= PEERS));
    cast.carried += write_error == 0 ? HU_HEADER + size : 0;
    if (header->type == HU_BEACON) {
        must(hu_beacon_decode(header, body, size, &beacon, entries) == 0);
        return;
    }
    uint64_t end = header->position + size;
    must(header->type == HU_DATA && size > 0 && end <= hu_caster_sent(caster));
    must(memcmp(body, cast.bytes + header->position, size) == 0);
    must(header->position >= (repeat ? 0 : cast.left));
    if (!repeat && write_error == 0)
        cast.left = end;
}

/* A datagram of the listener's: it must be sound, and may be a challenge. */
static void look_at(const uint8_t *data, uint64_t size, in_port_t to) {
    hu_header header;
    must(hu_header_decode(data, size, &header) == 0);
    if (header.stream == HU_GROUP_STREAM) {
        look_at_cast(&header, data + HU_HEADER, size - HU_HEADER, to);
        return;
    }
    must(to != GROUP_PORT);
    if (header.type == HU_CHALLENGE) {
        challenge *next = &challenges[challenge_count++ % CHALLENGES];
        next->port = to;
        next->nonce = header.session;
        hu_setup_decode(data + HU_HEADER, &next->setup);
    }
    if (header.type > HU_STATUS)
        answered += size;
}

static uint64_t segment_of(const struct msghdr *message, uint64_t size) {
    struct cmsghdr *head = CMSG_FIRSTHDR(message);
    uint16_t segment;
    if (head == NULL)
        return size;
    memcpy(&segment, CMSG_DATA(head), sizeof segment);
    must(segment > 0 && segment < size);
    return segment;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    static uint8_t whole[HU_DATAGRAM_MAX];
    const struct sockaddr_in *to = message->msg_name;
    uint64_t size = 0;
    (void)fd, (void)flags;
    must(message->msg_namelen == sizeof *to && to->sin_family == AF_INET);
    for (size_t i = 0; i < message->msg_iovlen; i++) {
        must(message->msg_iov[i].iov_len <= sizeof whole - size);
        memcpy(whole + size, message->msg_iov[i].iov_base, message->msg_iov[i].iov_len);
        size += message->msg_iov[i].iov_len;
    }
    uint64_t segment = segment_of(message, size);
    for (uint64_t at = 0; at < size; at += segment)
        look_at(whole + at, size - at < segment ? size - at : segment, to->sin_port);
    errno = write_error;
    return errno != 0 ? -1 : (ssize_t)size;
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic" /* glibc's own takes a union of pointers */
ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to,
               socklen_t to_size) {
    struct iovec piece = {(void *)(uintptr_t)data, size};
    struct msghdr message = {.msg_name = (void *)(uintptr_t)to,
                             .msg_namelen = to_size,
                             .msg_iov = &piece,
                             .msg_iovlen = 1};
    return sendmsg(fd, &message, flags);
}
#pragma GCC diagnostic pop

static in_port_t port_of(const hu_endpoint *endpoint, uint32_t slot) {
    uint8_t prefix[HU_TAP_PREFIX];
    in_port_t port;
    hu_endpoint_peer(endpoint, slot, prefix);
    memcpy(&port, prefix + 2, sizeof port);
    return port;
}

static void drop(hu_endpoint *endpoint, uint32_t slot, uint32_t reason) {
    gone = hu_session_id(hu_endpoint_session(endpoint, slot));
    for (uint32_t i = 0; i < live_count; i++)
        if (live[i].slot == slot)
            live[i] = live[--live_count];
    hu_endpoint_drop(endpoint, slot, reason);
}

static void handle(hu_endpoint *endpoint, const hu_event *event) {
    const uint8_t *data;
    uint64_t size;
    if (event->flags & HU_NEW) {
        must(live_count < SESSIONS);
        live[live_count].slot = event->slot;
        live[live_count++].finished = 0;
    }
    if (event->flags & HU_LOST) {
        drop(endpoint, event->slot, 0);
        return;
    }
    while ((size = hu_endpoint_readable(endpoint, event->slot, &data)) > 0)
        hu_endpoint_consume(endpoint, event->slot, size);
}

/* Whether a datagram of `incoming` brings back a cookie that was sent to where it comes from. */
static int proves(void) {
    uint64_t segment = incoming_segment > 0 ? incoming_segment : SIZE_MAX_;
    for (uint64_t at = 0; at < incoming_size; at += segment) {
        uint64_t left = incoming_size - at;
        hu_header header;
        if (hu_header_decode(incoming + at, left < segment ? left : segment, &header) != 0 ||
            header.type != HU_CONFIRM)
            continue;
        hu_setup setup;
        hu_setup_decode(incoming + at + HU_HEADER, &setup);
        for (uint32_t i = 0; i < challenge_count && i < CHALLENGES; i++)
            if (challenges[i].port == incoming_port && challenges[i].nonce == header.session &&
                challenges[i].setup.cookie == setup.cookie)
                return 1;
    }
    return 0;
}

static void check_rate(void) {
    must(cast.carried <= (now_ns - cast.begun_ns) * CAST_RATE / 1000000000u + 3 * HU_CAST_BURST);
}

/* What happened before is out of the way afterwards. */
static void settle(hu_endpoint *endpoint) {
    static hu_event events[HU_EVENTS_MAX];
    uint32_t count;
    do {
        count = hu_endpoint_poll(endpoint, events);
        for (uint32_t i = 0; i < count; i++)
            handle(endpoint, &events[i]);
        hu_endpoint_flush(endpoint);
    } while (count > 0 || hu_endpoint_deadline(endpoint) == 0);
    if (caster != NULL)
        check_rate();
}

static void deliver(hu_endpoint *endpoint) {
    static hu_event events[HU_EVENTS_MAX];
    uint64_t size = incoming_size;
    int proven = proves();
    answered = 0;
    uint32_t count = hu_endpoint_poll(endpoint, events);
    must(answered <= size);
    for (uint32_t i = 0; i < count; i++) {
        must(port_of(endpoint, events[i].slot) == incoming_port);
        must(proven || (events[i].flags & HU_NEW) == 0);
        handle(endpoint, &events[i]);
    }
}

static void put_id(hu_endpoint *endpoint, uint8_t *data, int how, uint8_t who) {
    uint64_t id;
    memcpy(&id, data + 8, 8);
    if ((how & LIVE) != 0 && live_count > 0)
        id = hu_session_id(hu_endpoint_session(endpoint, live[who % live_count].slot));
    if (how & GONE)
        id = gone;
    if (how & NONCE)
        id &= 3;
    memcpy(data + 8, &id, 8);
}

static void put_cookie(uint8_t *data) {
    if (challenge_count == 0)
        return;
    const hu_setup *newest = &challenges[(challenge_count - 1) % CHALLENGES].setup;
    hu_setup setup;
    hu_setup_decode(data + HU_HEADER, &setup);
    setup.cookie = newest->cookie;
    setup.issued_s = newest->issued_s;
    hu_setup_encode(data + HU_HEADER, &setup);
}

/* A call for some of what was cast. */
static void put_call(uint8_t *data, uint64_t size) {
    data[3] = HU_STATUS;
    data[46] = HU_GROUP_STREAM;
    data[47] = 0;
    uint64_t sent = caster == NULL ? 0 : hu_caster_sent(caster);
    for (uint64_t at = HU_HEADER; sent > 0 && size - at >= HU_RANGE; at += HU_RANGE) {
        uint64_t position;
        memcpy(&position, data + at, sizeof position);
        position %= sent;
        memcpy(data + at, &position, sizeof position);
    }
}

/* Makes one datagram out of anything. */
static void mend(hu_endpoint *endpoint, uint8_t *data, uint64_t size, int how, uint8_t who) {
    if (size < HU_HEADER || (how & RAW) != 0)
        return;
    memcpy(data, "HU\1", 3);
    data[3] = (uint8_t)(1 + data[3] % HU_BEACON);
    put_id(endpoint, data, how, who);
    if ((how & COOKIE) != 0 && size >= HU_HEADER + HU_SETUP)
        put_cookie(data);
    if (how & CALL)
        put_call(data, size);
    hu_seal(data, size);
}

static void take_datagram(hu_endpoint *endpoint, const uint8_t *data, uint64_t size, int how,
                          uint8_t who) {
    if (size == 0)
        return;
    memcpy(incoming, data, size);
    incoming_segment = (how & RUN) != 0 && size > 1 ? (uint16_t)(size / 2) : 0;
    uint64_t segment = incoming_segment > 0 ? incoming_segment : size;
    for (uint64_t at = 0; at < size; at += segment)
        mend(endpoint, incoming + at, size - at < segment ? size - at : segment, how, who);
    incoming_size = size;
    incoming_port = (in_port_t)(1 + who % PEERS);
    delivered++;
    deliver(endpoint);
}

static void push(hu_endpoint *endpoint, uint32_t which, uint64_t size, int finishes) {
    static const uint8_t stream[SIZE_MAX_];
    if (live[which].finished)
        return;
    hu_endpoint_push(endpoint, live[which].slot, stream, size);
    if (finishes)
        hu_endpoint_finish(endpoint, live[which].slot);
    live[which].finished = finishes;
}

static void stop_casting(hu_endpoint *endpoint) {
    hu_endpoint_cast(endpoint, NULL, NULL);
    hu_caster_free(caster);
    caster = NULL;
}

static void begin_casting(hu_endpoint *endpoint, int unicast) {
    hu_caster_options options = {.id = CAST,
                                 .rate = CAST_RATE,
                                 .history = HISTORY,
                                 .datagram = 1408,
                                 .unicast = (uint32_t)unicast,
                                 .pattern_size = 1,
                                 .pattern = {'>'}};
    uint8_t group[HU_TAP_PREFIX] = {AF_INET, 0, GROUP_PORT & 0xFF, GROUP_PORT >> 8};
    cast.end = cast.left = cast.carried = 0;
    cast.begun_ns = now_ns;
    cast.unicast = unicast;
    caster = hu_caster_new(&options, now_ns);
    must(caster != NULL);
    hu_caster_name(caster, 0, (const uint8_t *)"default", 7);
    hu_endpoint_cast(endpoint, caster, group);
}

static void cast_batch(uint64_t sequence, uint64_t size) {
    uint32_t control, frames = (uint32_t)size / 8 * 8;
    uint8_t *at = cast.bytes + cast.end;
    size = CAST_BATCH + frames;
    if (size > CAST_MAX - cast.end || size > hu_caster_room(caster))
        return;
    hu_core->batch_encode(at, 1, 0, sequence, sequence + 1, frames, 1);
    memset(at + CAST_BATCH, (int)sequence, frames);
    must(hu_caster_feed(caster, at, size, &control) == (int64_t)size && control == 0);
    cast.end += size;
}

/* One event; returns its bytes. */
static size_t step(hu_endpoint *endpoint, const uint8_t *data, size_t left) {
    static const int errors[] = {0, EAGAIN, EMSGSIZE, ECONNREFUSED, ENETUNREACH, EIO};
    uint8_t what = data[0] % 11, who = data[1], how = data[4];
    uint64_t size = ((uint64_t)data[2] | (uint64_t)data[3] << 8) % SIZE_MAX_;
    settle(endpoint);
    if (what < 5) {
        size = size < left - 5 ? size : left - 5;
        take_datagram(endpoint, data + 5, size, how, who);
        return 5 + size;
    }
    if (what == 8 && caster != NULL)
        stop_casting(endpoint);
    else if (what == 8)
        begin_casting(endpoint, how & 1);
    else if (what == 9 && caster != NULL)
        cast_batch(delivered, size);
    else if (what == 10)
        now_ns += size * NS_PER_MS;
    else if (what == 7)
        write_error = errors[how % (sizeof errors / sizeof *errors)];
    else if (live_count > 0 && what == 5)
        push(endpoint, who % live_count, size, how & 1);
    else if (live_count > 0 && what == 6)
        drop(endpoint, live[who % live_count].slot, how % 4);
    return 5;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int asked = -1; /* what the kernel can do, and nothing else */
    if (asked < 0) {
        hu_bind((uintptr_t)hm_api_get());
        asked = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    }
    hu_options options = {.fd = asked,
                          .tap_fd = -1,
                          .listens = 1,
                          .sessions_max = SESSIONS,
                          .datagram = 1408,
                          .liveness_ms = LIVENESS,
                          .window = WINDOW,
                          .copy_size = WINDOW,
                          .drop = size % 2 == 0 ? 0 : 1u << 30};
    hu_endpoint *endpoint;
    hu_endpoint_counters counters;
    now_ns = BEGIN_NS;
    must(hu_endpoint_new(&options, &endpoint) == 0);
    challenge_count = live_count = 0;
    gone = incoming_size = delivered = 0;
    write_error = 0;
    for (size_t at = 0, count = 0; size - at >= 5 && count < EVENTS; count++)
        at += step(endpoint, data + at, size - at);
    settle(endpoint);
    if (caster != NULL)
        stop_casting(endpoint);
    hu_endpoint_count(endpoint, &counters);
    must(counters.datagrams_in + counters.malformed >=
         delivered); /* it is us that they come from */
    hu_endpoint_free(endpoint);
    now_ns = 0;
    return 0;
}
