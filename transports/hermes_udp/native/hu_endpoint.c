#include "hu_endpoint.h"

#include <assert.h>
#include <errno.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "hm_medium.h"
#include "hu_cookie.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define NEVER     UINT64_MAX
#define NS_PER_S  1000000000u
#define BATCH     8u     /* reads of one call */
#define READ_SIZE 65536u /* bytes of one: what the kernel joins at most */
#define NO_SLOT   UINT32_MAX
#define CONTROL   64u   /* bytes of ancillary data of one read */
#define SMALL     1024u /* bytes of a datagram that is joined before it is written */
#define SHRUNK    1232u /* bytes of a datagram that every path should take */

typedef struct {
    uint16_t family;
    uint16_t port; /* network order */
    uint8_t address[16];
    uint32_t scope;
    int one_by_one; /* no address: the way there takes no trains */
} hu_peer;

typedef struct {
    hu_session *session; /* NULL: free */
    hu_peer peer;
    uint64_t due_ns; /* as the heap knows it */
    uint32_t heap_at;
    uint32_t events;
    uint64_t released;
    uint64_t pushed_end; /* behind what hu_endpoint_push has taken */
    uint64_t silent_end; /* behind what the medium has: acknowledged, but not released */
    uint32_t id_next;    /* in the chain of its bucket */
    uint8_t dirty;       /* is on the list of those to flush */
    uint8_t eventful;    /* is on the list of those to report */
} slot;

struct hu_endpoint {
    hu_options options;
    uint64_t now_ns;
    int gso;
    int stopped;
    uint64_t blocked_ns; /* until then the socket takes nothing; 0: it does */

    slot *slots;
    uint32_t capacity;
    uint32_t used; /* slots below were in use once */
    uint32_t count;
    uint32_t *free_slots;
    uint32_t free_count;
    uint32_t *buckets; /* by id */
    uint32_t *heap;    /* slots by due_ns */
    uint32_t heap_count;
    uint32_t *dirty;
    uint32_t dirty_count;
    uint32_t *eventful;
    uint32_t eventful_count;

    uint64_t gone[HU_GONE_MAX];
    uint32_t gone_next;
    uint64_t resets_ns; /* when the last reset would have been sent, had they been spread evenly */
    uint64_t random;
    uint32_t overflows_seen;
    int in_a_row; /* the last look at the socket found something */

    hu_caster *cast; /* NULL: it does not cast */
    hu_peer cast_to;

    hu_group *group; /* NULL: none has been joined */
    int group_fd;
    hu_peer caster;
    uint32_t group_overflows_seen;

    hm_medium medium; /* of slot `medium_slot` */
    uint32_t medium_slot;
    hu_train *train;
    struct mmsghdr messages[BATCH];
    struct iovec iov[BATCH];
    struct sockaddr_storage names[BATCH];
    _Alignas(struct cmsghdr) uint8_t controls[BATCH][CONTROL];
    uint8_t *memory; /* BATCH * READ_SIZE */
    hu_endpoint_counters counters;
};

uint64_t hu_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * NS_PER_S + (uint64_t)time.tv_nsec;
}

int hu_timer_new(void) {
    return timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
}

void hu_timer_set(int timer, uint64_t when_ns) {
    struct itimerspec when = {
        .it_value = {(time_t)(when_ns / NS_PER_S), (long)(when_ns % NS_PER_S)}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

void hu_timer_free(int timer) {
    close(timer);
}

/* ---- making ---- */

static uint32_t buckets_of(uint32_t capacity) {
    uint32_t count = 16;
    while (count < capacity && count < 65536)
        count *= 2;
    return count;
}

/* Slots are made as they are needed: a listener for ten thousand has room for few at first. */
static int grow(hu_endpoint *endpoint) {
    uint32_t capacity = endpoint->capacity == 0 ? 16 : 2 * endpoint->capacity;
    if (capacity > endpoint->options.sessions_max)
        capacity = endpoint->options.sessions_max;
    if (capacity == endpoint->capacity)
        return 0;
    slot *slots = realloc(endpoint->slots, capacity * sizeof *slots);
    if (slots != NULL)
        endpoint->slots = slots;
    uint32_t **lists[] = {&endpoint->free_slots, &endpoint->heap, &endpoint->dirty,
                          &endpoint->eventful};
    int sound = slots != NULL;
    for (unsigned i = 0; i < 4; i++) {
        uint32_t *list = realloc(*lists[i], capacity * sizeof *list);
        if (list != NULL)
            *lists[i] = list;
        sound = sound && list != NULL;
    }
    if (sound)
        endpoint->capacity = capacity;
    return sound;
}

static void prepare_reads(hu_endpoint *endpoint) {
    for (uint32_t i = 0; i < BATCH; i++) {
        endpoint->iov[i] = (struct iovec){endpoint->memory + (size_t)i * READ_SIZE, READ_SIZE};
        endpoint->messages[i].msg_hdr = (struct msghdr){.msg_name = &endpoint->names[i],
                                                        .msg_iov = &endpoint->iov[i],
                                                        .msg_iovlen = 1,
                                                        .msg_control = endpoint->controls[i]};
    }
}

static void ask_for_more(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof on);    /* a kernel without does without */
    setsockopt(fd, SOL_SOCKET, SO_RXQ_OVFL, &on, sizeof on); /* likewise */
}

static void ask_kernel(hu_endpoint *endpoint) {
    int size = 0;
    socklen_t length = sizeof size;
    int fd = endpoint->options.fd;
    endpoint->gso = endpoint->options.tap_fd < 0 &&
                    getsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, &length) == 0;
    ask_for_more(fd);
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
    uint32_t buckets = buckets_of(options->sessions_max);
    endpoint->buckets = malloc(buckets * sizeof *endpoint->buckets);
    endpoint->train = hu_train_new();
    endpoint->memory = malloc((size_t)BATCH * READ_SIZE);
    if (endpoint->buckets == NULL || endpoint->train == NULL || endpoint->memory == NULL ||
        !grow(endpoint)) {
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

/* ---- slots ---- */

static uint32_t *bucket_of(hu_endpoint *endpoint, uint64_t id) {
    return &endpoint->buckets[id & (buckets_of(endpoint->options.sessions_max) - 1)];
}

static uint32_t find(hu_endpoint *endpoint, uint64_t id) {
    uint32_t at = *bucket_of(endpoint, id);
    while (at != NO_SLOT && hu_session_id(endpoint->slots[at].session) != id)
        at = endpoint->slots[at].id_next;
    return at;
}

static void swap_up(hu_endpoint *endpoint, uint32_t at) {
    uint32_t *heap = endpoint->heap, moved = heap[at];
    slot *slots = endpoint->slots;
    while (at > 0 && slots[heap[(at - 1) / 2]].due_ns > slots[moved].due_ns) {
        heap[at] = heap[(at - 1) / 2];
        slots[heap[at]].heap_at = at;
        at = (at - 1) / 2;
    }
    heap[at] = moved;
    slots[moved].heap_at = at;
}

static void swap_down(hu_endpoint *endpoint, uint32_t at) {
    uint32_t *heap = endpoint->heap, moved = heap[at];
    slot *slots = endpoint->slots;
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= endpoint->heap_count)
            break;
        if (child + 1 < endpoint->heap_count &&
            slots[heap[child + 1]].due_ns < slots[heap[child]].due_ns)
            child++;
        if (slots[heap[child]].due_ns >= slots[moved].due_ns)
            break;
        heap[at] = heap[child];
        slots[heap[at]].heap_at = at;
        at = child;
    }
    heap[at] = moved;
    slots[moved].heap_at = at;
}

static void set_due(hu_endpoint *endpoint, uint32_t number, uint64_t due_ns) {
    slot *s = &endpoint->slots[number];
    uint64_t before = s->due_ns;
    s->due_ns = due_ns;
    if (due_ns < before)
        swap_up(endpoint, s->heap_at);
    else if (due_ns > before)
        swap_down(endpoint, s->heap_at);
}

static void soil(hu_endpoint *endpoint, uint32_t number) {
    slot *s = &endpoint->slots[number];
    if (!s->dirty) {
        s->dirty = 1;
        endpoint->dirty[endpoint->dirty_count++] = number;
    }
}

static void report(hu_endpoint *endpoint, uint32_t number, uint32_t events) {
    slot *s = &endpoint->slots[number];
    s->events |= events;
    if (!s->eventful && events != 0) {
        s->eventful = 1;
        endpoint->eventful[endpoint->eventful_count++] = number;
    }
}

/* A session in a slot of its own; NO_SLOT: no memory. */
static uint32_t admit(hu_endpoint *endpoint, uint64_t id, const hu_peer *peer,
                      const hu_setup *theirs) {
    uint32_t number;
    hu_options *ours = &endpoint->options;
    if (endpoint->free_count > 0)
        number = endpoint->free_slots[endpoint->free_count - 1];
    else if (endpoint->used < endpoint->capacity || grow(endpoint))
        number = endpoint->used;
    else
        return NO_SLOT;
    uint32_t patience = theirs->liveness_ms;
    patience = patience < HU_LIVENESS_MIN ? HU_LIVENESS_MIN : patience;
    hu_session_options options = {
        .id = id,
        .window = ours->window,
        .copy_size = ours->copy_size,
        .datagram = theirs->datagram < ours->datagram ? theirs->datagram : ours->datagram,
        .peer_window = theirs->window,
        .liveness_ms = ours->liveness_ms,
        .patience_ms = patience < HU_LIVENESS_MAX ? patience : HU_LIVENESS_MAX,
    };
    hu_session *session = hu_session_new(&options, endpoint->now_ns);
    if (session == NULL)
        return NO_SLOT;
    if (number == endpoint->used)
        endpoint->used++;
    else
        endpoint->free_count--;
    uint32_t *bucket = bucket_of(endpoint, id);
    endpoint->slots[number] =
        (slot){.session = session, .peer = *peer, .due_ns = NEVER, .id_next = *bucket};
    *bucket = number;
    endpoint->slots[number].heap_at = endpoint->heap_count;
    endpoint->heap[endpoint->heap_count++] = number;
    endpoint->count++;
    soil(endpoint, number);
    return number;
}

static void unlist(uint32_t *list, uint32_t *count, uint32_t number) {
    for (uint32_t i = 0; i < *count; i++)
        if (list[i] == number) {
            list[i] = list[--*count];
            return;
        }
}

static void discharge(hu_endpoint *endpoint, uint32_t number) {
    slot *s = &endpoint->slots[number];
    uint64_t id = hu_session_id(s->session);
    uint32_t *link = bucket_of(endpoint, id);
    while (*link != number)
        link = &endpoint->slots[*link].id_next;
    *link = s->id_next;
    uint32_t at = s->heap_at, last = endpoint->heap[--endpoint->heap_count];
    if (at < endpoint->heap_count) {
        endpoint->heap[at] = last;
        endpoint->slots[last].heap_at = at;
        swap_up(endpoint, at);
        swap_down(endpoint, endpoint->slots[last].heap_at);
    }
    if (s->dirty)
        unlist(endpoint->dirty, &endpoint->dirty_count, number);
    if (s->eventful)
        unlist(endpoint->eventful, &endpoint->eventful_count, number);
    hu_session_free(s->session);
    *s = (slot){0};
    endpoint->free_slots[endpoint->free_count++] = number;
    endpoint->count--;
    endpoint->gone[endpoint->gone_next++ % HU_GONE_MAX] = id;
}

/* ---- addresses ---- */

static void peer_of(const struct sockaddr_storage *name, hu_peer *peer) {
    *peer = (hu_peer){.family = name->ss_family};
    if (name->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)name;
        peer->port = v4->sin_port;
        memcpy(peer->address, &v4->sin_addr, 4);
    } else if (name->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)name;
        peer->port = v6->sin6_port;
        peer->scope = v6->sin6_scope_id;
        memcpy(peer->address, &v6->sin6_addr, 16);
    }
}

static socklen_t name_of(const hu_peer *peer, struct sockaddr_storage *name) {
    memset(name, 0, sizeof *name);
    name->ss_family = peer->family;
    if (peer->family == AF_INET) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)name;
        v4->sin_port = peer->port;
        memcpy(&v4->sin_addr, peer->address, 4);
        return sizeof *v4;
    }
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)name;
    v6->sin6_port = peer->port;
    v6->sin6_scope_id = peer->scope;
    memcpy(&v6->sin6_addr, peer->address, 16);
    return sizeof *v6;
}

static int same_peer(const hu_peer *a, const hu_peer *b) {
    return a->family == b->family && a->port == b->port && a->scope == b->scope &&
           memcmp(a->address, b->address, 16) == 0;
}

static void prefix_of(const hu_peer *peer, uint8_t *out) {
    memcpy(out, &peer->family, 2);
    memcpy(out + 2, &peer->port, 2);
    memcpy(out + 4, peer->address, 16);
}

/* ---- writing ---- */

static int drops(hu_endpoint *endpoint) {
    if (endpoint->options.drop == 0)
        return 0;
    endpoint->random = endpoint->random * 6364136223846793005u + 1442695040888963407u;
    int dropped = endpoint->random >> 32 < endpoint->options.drop;
    endpoint->counters.dropped += (uint64_t)dropped;
    return dropped;
}

/* One small datagram, joined: the kernel takes longer over a list of pieces than this over copying
 * them.  0 or an errno. */
static int write_joined(hu_endpoint *endpoint, const struct sockaddr_storage *name, socklen_t named,
                        const struct iovec *pieces, size_t piece_count) {
    uint8_t joined[SMALL];
    size_t size = 0;
    for (size_t i = 0; i < piece_count; i++) {
        assert(pieces[i].iov_len <= SMALL - size);
        memcpy(joined + size, pieces[i].iov_base, pieces[i].iov_len);
        size += pieces[i].iov_len;
    }
    const struct sockaddr *to = named > 0 ? (const struct sockaddr *)name : NULL;
    endpoint->counters.writes++;
    while (sendto(endpoint->options.fd, joined, size, MSG_DONTWAIT | MSG_NOSIGNAL, to, named) < 0)
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
    _Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(sizeof(uint16_t))] = {0};
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = piece_count};
    if (endpoint->options.listens) {
        message.msg_namelen = name_of(peer, &name);
        message.msg_name = &name;
    }
    if (count == 1 && is_small(pieces, piece_count))
        return write_joined(endpoint, &name, message.msg_namelen, pieces, piece_count);
    if (count > 1) {
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = IPPROTO_UDP;
        head->cmsg_type = UDP_SEGMENT;
        head->cmsg_len = CMSG_LEN(sizeof(uint16_t));
        uint16_t size = (uint16_t)segment;
        memcpy(CMSG_DATA(head), &size, sizeof size);
    }
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
    prefix_of(peer, prefix);
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
    return drops(endpoint) ? 0 : write_one(endpoint, &nobody, &piece, 1);
}

/* A datagram past the sessions. */
static void say(hu_endpoint *endpoint, const hu_peer *peer, uint8_t *data, uint64_t size) {
    struct iovec piece = {data, size};
    hu_seal(data, size);
    if (!drops(endpoint))
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
        while (to < train->count && !drops(endpoint))
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
        report(endpoint, number, HU_LOST);
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
                set_due(endpoint, number, due);
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
    uint32_t number = find(endpoint, target);
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

static void call_group(hu_endpoint *endpoint);

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
    int more = endpoint->cast != NULL && flush_cast(endpoint);
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
    if (endpoint->blocked_ns != 0)
        put_last(endpoint->dirty, served, left);
    errno = saved;
    return (left > 0 || more) && endpoint->blocked_ns == 0;
}

/* ---- set-up ---- */

static uint64_t hash(const hu_endpoint *endpoint, int key, const hu_peer *peer, uint64_t nonce,
                     uint32_t issued_s) {
    uint8_t data[36];
    prefix_of(peer, data);
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
    say(endpoint, peer, out, size);
}

static void reset(hu_endpoint *endpoint, const hu_peer *peer, uint64_t id, uint32_t reason) {
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
    say(endpoint, peer, out, sizeof out);
}

/* The answer is as large as the question, so that the path is proven both ways for that size. */
static void take_request(hu_endpoint *endpoint, const hu_peer *peer, const hu_header *header,
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

static void take_confirm(hu_endpoint *endpoint, const hu_peer *peer, const hu_header *header,
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
    uint32_t number = find(endpoint, id);
    if (number == NO_SLOT ? was_here(endpoint, id)
                          : hu_session_reason(endpoint->slots[number].session) != 0) {
        endpoint->counters.replayed++;
        return;
    }
    if (number == NO_SLOT) {
        if (!endpoint->stopped && endpoint->count < endpoint->options.sessions_max)
            number = admit(endpoint, id, peer, &theirs);
        if (number == NO_SLOT) {
            endpoint->counters.refused++;
            reset(endpoint, peer, header->session, HU_REFUSED);
            return;
        }
        report(endpoint, number, HU_NEW);
    }
    ours.session = id;
    ours.datagram = theirs.datagram < ours.datagram ? theirs.datagram : ours.datagram;
    answer(endpoint, peer, HU_ACCEPT, header->session, &ours, HU_HEADER + HU_SETUP);
}

/* ---- the group ---- */

void hu_endpoint_join(hu_endpoint *endpoint, hu_group *group, int fd) {
    struct sockaddr_storage name = {0};
    socklen_t size = sizeof name;
    assert(!endpoint->options.listens && endpoint->group == NULL);
    getpeername(endpoint->options.fd, (struct sockaddr *)&name,
                &size); /* nobody: none is believed */
    peer_of(&name, &endpoint->caster);
    ask_for_more(fd);
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
    report(endpoint, 0, HU_LOST);
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
    else if (!same_peer(&endpoint->caster, peer))
        endpoint->counters.spoofed++;
    else
        take_group(endpoint, &header, data + HU_HEADER, size - HU_HEADER);
}

/* Sends a call for what is missing; unsent is as good as lost. */
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

/* A receiver of our cast calls for what it misses. */
static void take_call(hu_endpoint *endpoint, hu_session *session, const uint8_t *ranges,
                      uint64_t size) {
    if (hu_session_reason(session) == 0)
        hu_caster_status(endpoint->cast, hu_session_id(session), ranges, size,
                         hu_sender_srtt(hu_session_sender(session)), endpoint->now_ns);
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
            take_request(endpoint, peer, &header, size);
        else if (endpoint->options.listens && header.type == HU_CONFIRM)
            take_confirm(endpoint, peer, &header, body);
        return;
    }
    uint32_t number = find(endpoint, header.session);
    if (number == NO_SLOT) {
        endpoint->counters.unknown_session++;
        if (header.type != HU_RESET)
            reset(endpoint, peer, header.session, HU_UNKNOWN);
        return;
    }
    slot *s = &endpoint->slots[number];
    if (endpoint->options.listens && !same_peer(&s->peer, peer)) {
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
    report(endpoint, number, events & ~(uint32_t)HU_MALFORMED);
    soil(endpoint, number);
}

static void look_at_control(hu_endpoint *endpoint, struct msghdr *message, uint64_t *segment,
                            uint32_t *overflows_seen) {
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
        }
    }
}

static void take_read(hu_endpoint *endpoint, uint32_t index, int grouped) {
    struct msghdr *message = &endpoint->messages[index].msg_hdr;
    uint64_t size = endpoint->messages[index].msg_len, segment = size;
    const uint8_t *data = endpoint->memory + (size_t)index * READ_SIZE;
    hu_peer peer;
    peer_of(&endpoint->names[index], &peer);
    look_at_control(endpoint, message, &segment,
                    grouped ? &endpoint->group_overflows_seen : &endpoint->overflows_seen);
    if (size == 0)
        endpoint->counters.malformed++;
    for (uint64_t at = 0; at < size; at += segment) {
        uint64_t left = size - at < segment ? size - at : segment;
        if (!grouped)
            take_datagram(endpoint, &peer, data + at, left);
        else if (!drops(endpoint))
            take_cast(endpoint, &peer, data + at, left);
    }
}

/* A client's socket tells that nobody listens at the other end. */
static void read_failed(hu_endpoint *endpoint, int error) {
    if (error != ECONNREFUSED || endpoint->options.listens || endpoint->count == 0)
        return;
    hu_session_lose(endpoint->slots[0].session, HU_GONE);
    report(endpoint, 0, HU_LOST);
}

/* As recvmmsg for one: it costs a quarter less. */
static int receive_one(int fd, struct mmsghdr *message) {
    ssize_t size = recvmsg(fd, &message->msg_hdr, MSG_DONTWAIT);
    message->msg_len = size < 0 ? 0 : (unsigned)size;
    return size < 0 ? -1 : 1;
}

static int read_batch(hu_endpoint *endpoint, int fd) {
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

static void serve_timers(hu_endpoint *endpoint) {
    uint64_t now = endpoint->now_ns;
    if (endpoint->group != NULL && hu_group_tick(endpoint->group, now))
        lose_group(endpoint);
    while (endpoint->heap_count > 0 && endpoint->slots[endpoint->heap[0]].due_ns <= now) {
        uint32_t number = endpoint->heap[0];
        hu_session *session = endpoint->slots[number].session;
        if (hu_session_tick(session, now))
            report(endpoint, number, HU_LOST);
        uint64_t due = hu_session_deadline(session, now);
        soil(endpoint, number);
        set_due(endpoint, number, due > now ? due : now + 1); /* flushing says it exactly */
    }
}

uint32_t hu_endpoint_poll(hu_endpoint *endpoint, hu_event *events) {
    int saved = errno;
    endpoint->now_ns = hu_now();
    for (uint32_t i = 0; i < HU_READS_MAX && read_batch(endpoint, endpoint->options.fd); i++)
        ;
    if (endpoint->group != NULL)
        for (uint32_t i = 0; i < HU_READS_MAX && read_batch(endpoint, endpoint->group_fd); i++)
            ;
    serve_timers(endpoint);
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
        unlist(endpoint->eventful, &endpoint->eventful_count, number);
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
        report(endpoint, number, HU_READABLE); /* whoever stops here must find it */
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
    read_batch(endpoint, endpoint->options.fd);
    serve_timers(endpoint);
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
    soil(endpoint, endpoint->medium_slot);
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
    soil(endpoint, number);
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
    soil(endpoint, number);
}

void hu_endpoint_finish(hu_endpoint *endpoint, uint32_t number) {
    hu_session_finish(hu_endpoint_session(endpoint, number), hu_now());
    soil(endpoint, number);
}

void hu_endpoint_part(hu_endpoint *endpoint, uint32_t number, uint32_t reason) {
    hu_session *session = hu_endpoint_session(endpoint, number);
    int saved = errno;
    uint8_t out[HU_HEADER];
    hu_header header = {.session = hu_session_id(session), .type = HU_RESET, .window = reason};
    hu_header_encode(out, &header);
    endpoint->counters.resets_sent++;
    say(endpoint, &endpoint->slots[number].peer, out, sizeof out);
    hu_session_lose(session, reason);
    errno = saved;
}

void hu_endpoint_drop(hu_endpoint *endpoint, uint32_t number, uint32_t reason) {
    if (reason != 0)
        hu_endpoint_part(endpoint, number, reason);
    discharge(endpoint, number);
}

void hu_endpoint_peer(const hu_endpoint *endpoint, uint32_t number, uint8_t *out) {
    prefix_of(&endpoint->slots[number].peer, out);
}

void hu_endpoint_count(const hu_endpoint *endpoint, hu_endpoint_counters *counters) {
    *counters = endpoint->counters;
}

int hu_endpoint_adopt(hu_endpoint *endpoint, uint64_t id, const hu_setup *accepted) {
    hu_peer nobody = {0};
    uint32_t number = admit(endpoint, id, &nobody, accepted);
    return number == NO_SLOT ? -HM_ENOMEM : (int)number;
}
