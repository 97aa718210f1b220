/* hm_express.c -- the common round of a connection, without Python between its steps. */
#include "hm_express.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#include "hm_ack.h"

#define LOOK_MASK     15u /* others are looked for after 16 empty reads: some 5 us */
#define OTHERS_MASK   3u  /* and after 4 rounds: some 40 us */
#define ACK_FRAME_MAX 96u /* bytes: header, a map of two names and two numbers, padding */
#define LIMIT         HM_EXPRESS_READ
/* Whatever one read appends fits: each frame once per cursor would not, so a run ends when this is
 * used up. */
#define OUT_SIZE (4u * HM_EXPRESS_READ)

typedef struct {
    hm_stream *stream;
    hm_cursor *cursor;
    uint32_t index;
} seat;

typedef struct {
    uint32_t publisher;
    int level;
} grade;

struct hm_express {
    hm_ingest *ingest;
    seat seats[HM_EXPRESS_CURSORS_MAX];
    grade *grades;
    uint32_t grade_count;
    uint32_t grade_capacity;
    hm_touched touched[HM_EXPRESS_TOUCHED_MAX];
    hm_express_result left; /* of the last hand-out */
    hm_range range;         /* likewise */
    uint64_t used;          /* bytes of `out` */
    uint8_t out[OUT_SIZE];
};

hm_express *hm_express_new(hm_ingest *ingest) {
    assert(ingest != NULL);
    hm_express *express = malloc(sizeof *express);
    if (express == NULL)
        return NULL;
    memset(express, 0, offsetof(hm_express, out));
    express->ingest = ingest;
    return express;
}

void hm_express_free(hm_express *express) {
    if (express == NULL)
        return;
    free(express->grades);
    free(express);
}

int hm_express_level(hm_express *express, uint32_t publisher, int level) {
    assert(express != NULL);
    assert(level >= HM_LEVEL_NONE && level <= HM_LEVEL_OTHER);
    for (uint32_t i = 0; i < express->grade_count; i++) {
        if (express->grades[i].publisher == publisher) {
            if (level == HM_LEVEL_OTHER) /* as good as not there */
                express->grades[i] = express->grades[--express->grade_count];
            else
                express->grades[i].level = level;
            return 0;
        }
    }
    if (level == HM_LEVEL_OTHER)
        return 0;
    if (express->grade_count == HM_PUBLISHERS_MAX)
        return -HM_ELIMIT;
    if (express->grade_count == express->grade_capacity) {
        uint32_t capacity = express->grade_capacity == 0 ? 4 : 2 * express->grade_capacity;
        grade *grown = realloc(express->grades, capacity * sizeof *grown);
        if (grown == NULL)
            return -HM_ENOMEM;
        express->grades = grown;
        express->grade_capacity = capacity;
    }
    express->grades[express->grade_count++] = (grade){publisher, level};
    return 0;
}

static int level_of(const hm_express *express, uint32_t publisher) {
    for (uint32_t i = 0; i < express->grade_count; i++)
        if (express->grades[i].publisher == publisher)
            return express->grades[i].level;
    return HM_LEVEL_OTHER;
}

int hm_express_add(hm_express *express, hm_stream *stream, hm_cursor *cursor, uint32_t index) {
    assert(express != NULL && cursor != NULL);
    assert(index < HM_STREAMS_MAX);
    for (int i = 0; i < HM_EXPRESS_CURSORS_MAX; i++) {
        if (express->seats[i].cursor == NULL) {
            express->seats[i] = (seat){stream, cursor, index};
            return i;
        }
    }
    return -HM_ELIMIT;
}

void hm_express_remove(hm_express *express, int number) {
    assert(express != NULL);
    assert(number >= 0 && number < HM_EXPRESS_CURSORS_MAX);
    express->seats[number].cursor = NULL;
}

const uint8_t *hm_express_output(const hm_express *express) {
    return express->out;
}

const hm_touched *hm_express_touched(const hm_express *express) {
    return express->touched;
}

/* ---- acknowledgements ---- */

static void put_ack(hm_express *express, uint32_t publisher, uint64_t sequence) {
    uint8_t payload[HM_ACK_MAX];
    uint32_t length = hm_ack_encode(payload, publisher, sequence);
    int64_t size = hm_frame_encode(express->out + express->used, OUT_SIZE - express->used, HM_ACK,
                                   NULL, 0, NULL, 0, payload, length, 0, 0);
    assert(size > 0 && size <= (int64_t)ACK_FRAME_MAX);
    express->used += (uint64_t)size;
}

/* Acknowledges what may be acknowledged at once, and keeps the others for the caller; those that
 * find no room stay with the ingest, where the caller looks too. */
static void acknowledge(hm_express *express, hm_express_result *result) {
    uint32_t room, count;
    do {
        hm_touched found[HM_EXPRESS_TOUCHED_MAX];
        room = HM_EXPRESS_TOUCHED_MAX - result->touched;
        count = room == 0 ? 0 : hm_ingest_touched(express->ingest, found, room);
        for (uint32_t i = 0; i < count; i++) {
            int level = level_of(express, found[i].publisher);
            if (level == HM_LEVEL_APPENDED)
                put_ack(express, found[i].publisher, found[i].through);
            else if (level == HM_LEVEL_OTHER)
                express->touched[result->touched++] = found[i];
        }
    } while (count != 0 && count == room);
}

/* ---- deliveries ---- */

/* Copies the log memory of a range behind its envelope. */
static void put_range(hm_express *express, const seat *place, const hm_range *range) {
    hm_segment *segment = hm_log_pin(hm_stream_log(place->stream), range->segment);
    assert(segment != NULL); /* the cursor has just read there */
    uint64_t mapped;
    const uint8_t *memory = hm_segment_memory(segment, &mapped);
    assert(range->offset + range->size <= mapped);
    assert(express->used + range->size <= OUT_SIZE);
    memcpy(express->out + express->used, memory + range->offset, range->size);
    express->used += range->size;
    hm_segment_release(segment);
}

/* How much is delivered before somebody else is to do it. */
typedef struct {
    uint64_t used;  /* bytes of output: a range that is copied still fits behind them */
    uint64_t limit; /* bytes of a batch, unless it is one message */
    uint64_t range; /* bytes of log memory that are copied */
} measure;

/* Of a run: a range may be as large as a read, and its envelope. */
static const measure RUN = {OUT_SIZE - 2 * LIMIT, LIMIT - 4096, UINT64_MAX};
static const measure HAND_OUT = {HM_HAND_OUT_LIMIT, HM_HAND_OUT_LIMIT, HM_HAND_OUT_LIMIT};

/* What one cursor has now.  0: go on; 1: the caller must look at it. */
static int deliver(hm_express *express, uint32_t number, const measure *most, uint64_t now_ns,
                   hm_express_result *result) {
    const seat *place = &express->seats[number];
    for (;;) {
        if (express->used > most->used) {
            result->again |= (uint64_t)1 << number;
            return 1;
        }
        hm_delivery delivery;
        int code = hm_cursor_next(place->cursor, express->out + express->used, LIMIT, most->limit,
                                  0, now_ns, &delivery);
        if (code < 0 || delivery.kind == HM_DELIVER_AGAIN) {
            result->again |= (uint64_t)1 << number;
            return 1;
        }
        if (delivery.kind == HM_DELIVER_NOTHING)
            return 0;
        if (delivery.kind == HM_DELIVER_GAP) {
            result->gap_first = delivery.gap_first;
            result->gap_last = delivery.gap_last;
            result->gap_reason = delivery.gap_reason;
            result->gap_cursor = number;
            result->again |= (uint64_t)1 << number;
            return 1;
        }
        express->used += delivery.written;
        result->deliveries++;
        if (delivery.kind == HM_DELIVER_RANGE && delivery.range.size > most->range) {
            express->range = delivery.range;
            result->gap_cursor = number;
            result->again |= (uint64_t)1 << number;
            return 1;
        }
        if (delivery.kind == HM_DELIVER_RANGE)
            put_range(express, place, &delivery.range);
    }
}

static int deliver_all(hm_express *express, uint64_t moved, uint64_t now_ns,
                       hm_express_result *result) {
    int special = 0;
    for (uint32_t i = 0; i < HM_EXPRESS_CURSORS_MAX && !special; i++)
        if (express->seats[i].cursor != NULL && (moved >> express->seats[i].index & 1) != 0) {
            special = deliver(express, i, &RUN, now_ns, result);
            if (special) /* those behind it have not been asked */
                for (uint32_t j = i + 1; j < HM_EXPRESS_CURSORS_MAX; j++)
                    if (express->seats[j].cursor != NULL)
                        result->again |= (uint64_t)1 << j;
        }
    return special;
}

/* ---- the run ---- */

static uint64_t clock_ns(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static int others_wait(int epoll_fd, int fd) {
    struct epoll_event events[2];
    int count = epoll_wait(epoll_fd, events, 2, 0);
    for (int i = 0; i < count; i++)
        if (events[i].data.fd != fd)
            return 1;
    return 0;
}

/* Where a run's bytes come from and go to. */
typedef struct {
    const hm_medium *medium; /* NULL: the socket itself */
    int fd;
    int epoll_fd;
} port;

/* Bytes; 0: what is in `why`. */
static int64_t read_now(const port *from, uint8_t *buffer, int32_t *why) {
    if (from->medium != NULL) {
        int error;
        int64_t count =
            from->medium->receive(from->medium->context, buffer, HM_EXPRESS_READ, 0, 0, &error);
        *why = count == -HM_EEMPTY  ? HM_EXPRESS_IDLE
               : count == -HM_EBUSY ? HM_EXPRESS_OTHERS
                                    : HM_EXPRESS_ENDED;
        return count > 0 ? count : 0;
    }
    ssize_t count = recv(from->fd, buffer, HM_EXPRESS_READ, MSG_DONTWAIT);
    if (count > 0)
        return count;
    *why = count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
               ? HM_EXPRESS_IDLE
               : HM_EXPRESS_ENDED;
    return 0;
}

/* Reads, polling for `spin_ns`.  Bytes; 0: IDLE, OTHERS or ENDED is in `why`. */
static int64_t read_some(const port *from, uint8_t *buffer, uint64_t spin_ns, int32_t *why) {
    uint64_t begun = 0;
    for (uint32_t tries = 1;; tries++) {
        int64_t count = read_now(from, buffer, why);
        if (count > 0 || *why != HM_EXPRESS_IDLE)
            return count;
        if (spin_ns == 0)
            return 0;
        if ((tries & LOOK_MASK) == 0) {
            sched_yield(); /* the peer may wait for this very core */
            uint64_t now = clock_ns(CLOCK_MONOTONIC);
            begun = begun == 0 ? now : begun;
            if (now - begun >= spin_ns)
                return 0;
            if (others_wait(from->epoll_fd, from->fd)) {
                *why = HM_EXPRESS_OTHERS;
                return 0;
            }
        }
    }
}

/* Sends what there is; 1 if the socket took it all. */
static int send_all(hm_express *express, const port *to, hm_express_result *result) {
    result->out_size = express->used;
    result->unsent = 0;
    if (express->used == 0)
        return 1;
    struct iovec all = {express->out, express->used};
    int64_t sent = to->medium != NULL
                       ? to->medium->write(to->medium->context, &all, 1)
                       : send(to->fd, all.iov_base, all.iov_len, MSG_DONTWAIT | MSG_NOSIGNAL);
    uint64_t taken = sent > 0 ? (uint64_t)sent : 0; /* an error is met again by whoever goes on */
    result->sent += taken;
    result->unsent = express->used - taken;
    return result->unsent == 0;
}

static void run(hm_express *express, const port *place, uint8_t *buffer, uint64_t shared,
                uint64_t spin_ns, uint64_t bound_ns, hm_feed *feed, hm_express_result *result) {
    assert(express != NULL && buffer != NULL);
    int saved = errno;
    uint64_t end = clock_ns(CLOCK_MONOTONIC) + bound_ns;
    memset(result, 0, sizeof *result);
    while (result->rounds < HM_EXPRESS_ROUNDS_MAX) {
        int64_t count = read_some(place, buffer, spin_ns, &result->why);
        if (count == 0)
            break;
        uint64_t size = (uint64_t)count, now_ns = hm_ingest_now(express->ingest);
        express->used = 0;
        result->rounds++;
        result->received += size;
        hm_ingest_feed(express->ingest, buffer, size, now_ns, feed);
        result->messages += feed->messages;
        result->batches += feed->batches;
        result->duplicates += feed->duplicates;
        result->moved |= feed->streams;
        if (feed->kind != HM_FEED_MORE || feed->consumed != size || size == HM_EXPRESS_READ) {
            result->why = HM_EXPRESS_INPUT;
            result->size = size;
            break;
        }
        acknowledge(express, result);
        int special = deliver_all(express, feed->streams, now_ns, result);
        int took_all = send_all(express, place, result);
        result->why = HM_EXPRESS_WORK;
        if (special || !took_all || result->touched != 0 || (feed->streams & shared) != 0)
            break;
        result->why = HM_EXPRESS_OTHERS;
        if (spin_ns == 0 || clock_ns(CLOCK_MONOTONIC) >= end)
            break;
        if ((result->rounds & OTHERS_MASK) == 0 && others_wait(place->epoll_fd, place->fd))
            break;
    }
    errno = saved;
}

void hm_express_run(hm_express *express, int fd, int epoll_fd, uint8_t *buffer, uint64_t shared,
                    uint64_t spin_ns, uint64_t bound_ns, hm_feed *feed, hm_express_result *result) {
    port place = {NULL, fd, epoll_fd};
    run(express, &place, buffer, shared, spin_ns, bound_ns, feed, result);
}

void hm_express_run_medium(hm_express *express, const hm_medium *medium, int fd, int epoll_fd,
                           uint8_t *buffer, uint64_t shared, uint64_t spin_ns, uint64_t bound_ns,
                           hm_feed *feed, hm_express_result *result) {
    assert(medium != NULL);
    port place = {medium, fd, epoll_fd};
    run(express, &place, buffer, shared, spin_ns, bound_ns, feed, result);
}

/* ---- many connections ---- */

static void hand_out(hm_hand_out *item, uint64_t now_ns) {
    hm_express *express = item->express;
    hm_express_result *result = &express->left;
    assert(express != NULL);
    memset(result, 0, sizeof *result);
    express->range.size = 0;
    express->used = 0;
    uint64_t seats = item->seats;
    int special = 0;
    for (uint32_t i = 0; i < HM_EXPRESS_CURSORS_MAX && seats >> i != 0 && !special; i++) {
        if ((seats >> i & 1) == 0)
            continue;
        assert(express->seats[i].cursor != NULL);
        special = deliver(express, i, &HAND_OUT, now_ns, result);
        if (special) /* those behind it have not been asked */
            result->again |= seats >> i << i;
    }
    port to = {item->medium, item->fd, -1};
    if (express->range.size == 0)
        special |= !send_all(express, &to, result);
    else
        result->out_size = result->unsent = express->used;
    item->sent = result->sent;
    item->deliveries = result->deliveries;
    item->special = special;
}

void hm_express_hand_out(hm_hand_out *items, uint32_t count, uint64_t now_ns) {
    assert(items != NULL || count == 0);
    int saved = errno;
    for (uint32_t i = 0; i < count; i++)
        hand_out(&items[i], now_ns);
    errno = saved;
}

void hm_express_left(const hm_express *express, hm_express_result *result, hm_range *range) {
    assert(express != NULL);
    *result = express->left;
    *range = express->range;
}
