/* hm_conn.c -- one connection of the broker's: from its cursors to its medium, and the common round. */
#include "output_internal.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "../base/hm_platform.h"
#include "hm_ack.h"

#define LOOK_MASK     15u /* others are looked for after 16 empty reads: some 5 us */
#define OTHERS_MASK   3u  /* and after 4 rounds: some 40 us */
#define ACK_FRAME_MAX 96u /* bytes: header, a map of two names and two numbers, padding */
#define GATHER_MAX    256 /* pieces of one sendmsg: 4 KiB of stack */

typedef struct {
    uint32_t publisher;
    int level;
} grade;

struct hm_conn {
    hm_readers readers; /* the first member: conn_of */
    hm_conns *conns;
    hm_ingest *ingest;
    uint64_t number;
    int fd;                /* the stream socket that output goes to; -1: Python moves it */
    const hm_sends *sends; /* by which small output leaves with that of others; NULL: it does not */
    int error;             /* errno of a send that failed */
    bool held;             /* Python has something to say first */
    bool full;             /* the socket had no room */
    bool stopped;          /* nothing is delivered any more */
    hm_gap gap;            /* to be told; `first` 0: none */
    uint32_t cold_stream;
    uint64_t cold_position;
    uint64_t limit; /* bytes to flush at once */
    uint64_t sent;
    uint64_t deliveries;
    uint64_t seen; /* bytes taken when hm_conn_unpin looked */
    output out;
    grade *grades;
    uint32_t grade_count;
    uint32_t grade_capacity;
    hm_touched touched[HM_CONN_TOUCHED_MAX];
};

static hm_conn *conn_of(hm_readers *readers) {
    return (hm_conn *)(void *)readers;
}

hm_conn *hm_conn_new(hm_conns *conns, hm_ingest *ingest, uint64_t number) {
    assert(conns != NULL && ingest != NULL);
    hm_conn *conn = calloc(1, sizeof *conn);
    if (conn == NULL)
        return NULL;
    conn->conns = conns;
    conn->readers.list = &conns->awake;
    conn->ingest = ingest;
    conn->number = number;
    conn->fd = -1;
    conn->limit = HM_CONN_PULL_MIN;
    return conn;
}

void hm_conn_free(hm_conn *conn) {
    if (conn == NULL)
        return;
    assert(conn->readers.followed == 0);
    hm_readers_unlist(&conn->readers);
    output_clear(&conn->out);
    free(conn->grades);
    free(conn);
}

void hm_conn_status_get(const hm_conn *conn, hm_conn_status *status) {
    *status =
        (hm_conn_status){conn->sent, conn->deliveries, conn->out.waiting, conn->out.in_flight};
}

void hm_conn_add(hm_conn *conn, hm_cursor *cursor) {
    hm_cursor_follow(cursor, &conn->readers);
}

void hm_conn_remove(hm_cursor *cursor) {
    hm_cursor_unfollow(cursor);
}

void hm_conn_hold(hm_conn *conn) {
    conn->held = true;
}

void hm_conn_stop(hm_conn *conn) {
    conn->stopped = true;
}

bool hm_conn_busy(const hm_conn *conn) {
    return conn->readers.awake > 0 || conn->out.waiting > 0;
}

int hm_conn_put(hm_conn *conn, const uint8_t *frames, uint64_t size) {
    return output_copy(&conn->out, conn->conns, frames, size);
}

/* ---- acknowledgements ---- */

int hm_conn_level(hm_conn *conn, uint32_t publisher, int level) {
    assert(conn != NULL);
    assert(level >= HM_LEVEL_NONE && level <= HM_LEVEL_OTHER);
    for (uint32_t i = 0; i < conn->grade_count; i++) {
        if (conn->grades[i].publisher == publisher) {
            if (level == HM_LEVEL_OTHER) /* as good as not there */
                conn->grades[i] = conn->grades[--conn->grade_count];
            else
                conn->grades[i].level = level;
            return 0;
        }
    }
    if (level == HM_LEVEL_OTHER)
        return 0;
    if (conn->grade_count == HM_PUBLISHERS_MAX)
        return -HM_ELIMIT;
    if (conn->grade_count == conn->grade_capacity) {
        uint32_t capacity = conn->grade_capacity == 0 ? 4 : 2 * conn->grade_capacity;
        grade *grown = realloc(conn->grades, capacity * sizeof *grown);
        if (grown == NULL)
            return -HM_ENOMEM;
        conn->grades = grown;
        conn->grade_capacity = capacity;
    }
    conn->grades[conn->grade_count++] = (grade){publisher, level};
    return 0;
}

static int level_of(const hm_conn *conn, uint32_t publisher) {
    for (uint32_t i = 0; i < conn->grade_count; i++)
        if (conn->grades[i].publisher == publisher)
            return conn->grades[i].level;
    return HM_LEVEL_OTHER;
}

static int put_ack(hm_conn *conn, uint32_t publisher, uint64_t sequence) {
    uint8_t payload[HM_ACK_MAX];
    uint32_t length = hm_ack_encode(payload, publisher, sequence);
    uint64_t room;
    uint8_t *place = chunk_room(conn->conns, &room);
    if (place == NULL)
        return -HM_ENOMEM;
    int64_t size = hm_frame_encode(place, room, HM_ACK, NULL, 0, NULL, 0, payload, length, 0, 0);
    assert(size > 0 && size <= (int64_t)ACK_FRAME_MAX);
    return output_put(&conn->out, conn->conns, (uint64_t)size);
}

/* Acknowledges what may be acknowledged at once, and keeps the others for the caller; those that
 * find no room stay with the ingest, where the caller looks too. */
static void acknowledge(hm_conn *conn, hm_served *served) {
    uint32_t room, count;
    do {
        hm_touched found[HM_CONN_TOUCHED_MAX];
        room = HM_CONN_TOUCHED_MAX - served->touched;
        count = room == 0 ? 0 : hm_ingest_touched(conn->ingest, found, room);
        for (uint32_t i = 0; i < count; i++) {
            int level = level_of(conn, found[i].publisher);
            if (level == HM_LEVEL_NONE)
                continue;
            if (level == HM_LEVEL_OTHER || put_ack(conn, found[i].publisher, found[i].through) != 0)
                conn->touched[served->touched++] = found[i];
        }
    } while (count != 0 && count == room);
}

const hm_touched *hm_conn_touched(const hm_conn *conn) {
    return conn->touched;
}

/* ---- deliveries ---- */

static void note_gap(hm_conn *conn, const hm_cursor *cursor, const hm_delivery *delivery) {
    conn->gap = (hm_gap){.first = delivery->gap_first,
                         .last = delivery->gap_last,
                         .subscription = hm_cursor_id(cursor),
                         .stream = hm_stream_index(hm_cursor_stream(cursor)),
                         .reason = delivery->gap_reason};
}

void hm_conn_gap(hm_conn *conn, hm_gap *gap) {
    *gap = conn->gap;
    conn->gap.first = 0;
}

static void note_cold(hm_conn *conn, const hm_cursor *cursor, const hm_delivery *delivery) {
    conn->cold_stream = hm_stream_index(hm_cursor_stream(cursor));
    conn->cold_position = delivery->range.position;
}

uint32_t hm_conn_cold(const hm_conn *conn, uint64_t *position) {
    *position = conn->cold_position;
    return conn->cold_stream;
}

/* Puts log memory behind its envelope, which stands at the beginning of `room` bytes. */
static int put_range(hm_conn *conn, hm_stream *stream, uint8_t *place, uint64_t room,
                     const hm_delivery *delivery) {
    const hm_range *range = &delivery->range;
    uint64_t envelope = delivery->written, mapped;
    hm_segment *segment = hm_log_pin(hm_stream_log(stream), range->segment);
    if (segment == NULL)
        return -HM_EIO;
    const uint8_t *memory = hm_segment_memory(segment, &mapped) + range->offset;
    assert(range->offset + range->size <= mapped);
    if (range->size <= HM_CONN_COPY_MAX && envelope + range->size <= room) {
        memcpy(place + envelope, memory, range->size);
        hm_segment_release(segment);
        return output_put(&conn->out, conn->conns, envelope + range->size);
    }
    int error = output_put(&conn->out, conn->conns, envelope);
    if (error != 0) {
        hm_segment_release(segment);
        return error;
    }
    return output_range(&conn->out, segment, memory, range->size);
}

/* One batch of the first cursor that is awake, or why there is none: HM_DELIVER_* or -HM_E*. */
static int deliver(hm_conn *conn, uint64_t limit, uint64_t now_ns, uint64_t *size) {
    hm_reader *reader = conn->readers.first;
    hm_cursor *cursor = hm_reader_cursor(reader);
    uint64_t room;
    uint8_t *place = chunk_room(conn->conns, &room);
    if (place == NULL)
        return -HM_ENOMEM;
    hm_delivery delivery;
    int error = hm_cursor_next(cursor, place, room, limit, reader->progress, now_ns, &delivery);
    if (error != 0)
        return error;
    switch (delivery.kind) {
    case HM_DELIVER_COPIED:
        error = output_put(&conn->out, conn->conns, delivery.written);
        break;
    case HM_DELIVER_RANGE:
        error = put_range(conn, hm_cursor_stream(cursor), place, room, &delivery);
        break;
    case HM_DELIVER_NOTHING:
        hm_reader_sleep(reader);
        break;
    case HM_DELIVER_GAP:
        note_gap(conn, cursor, &delivery);
        break;
    case HM_DELIVER_COLD:
        note_cold(conn, cursor, &delivery);
        hm_readers_turn(&conn->readers); /* others need not wait for it */
        break;
    default:
        hm_readers_turn(&conn->readers);
        break;
    }
    *size = delivery.written + delivery.range.size;
    return error != 0 ? error : delivery.kind;
}

static bool has_room(const hm_conn *conn, uint64_t limit) {
    const output *out = &conn->out;
    return out->waiting < limit && out->tail - out->next < HM_CONN_PIECES_MAX;
}

bool hm_conn_choked(const hm_conn *conn) {
    return conn->out.in_flight >= HM_CONN_IN_FLIGHT_MAX;
}

static int pull(hm_conn *conn, uint64_t limit, uint64_t now_ns) {
    hm_readers *readers = &conn->readers;
    conn->held = false;
    if (conn->gap.first != 0)
        return HM_PULL_GAP;
    if (conn->stopped)
        return HM_PULL_DONE;
    if (readers->awake == 0 || hm_conn_choked(conn))
        return readers->awake == 0 ? HM_PULL_DONE : HM_PULL_LIMIT;
    uint64_t share = readers->awake > 1 && limit > HM_CONN_SHARE ? HM_CONN_SHARE : limit;
    uint64_t taken = 0; /* bytes of the first cursor */
    uint32_t again = 0; /* times a cursor found nothing yet */
    while (readers->awake > again && has_room(conn, limit)) {
        uint64_t size = 0;
        int kind = deliver(conn, share, now_ns, &size);
        if (kind < 0)
            return kind;
        if (kind == HM_DELIVER_GAP)
            return HM_PULL_GAP;
        if (kind == HM_DELIVER_COLD)
            return HM_PULL_COLD;
        if (kind == HM_DELIVER_AGAIN || kind == HM_DELIVER_NOTHING) {
            again += kind == HM_DELIVER_AGAIN;
            taken = 0;
            continue;
        }
        conn->deliveries++;
        taken += size;
        if (taken >= share) {
            hm_readers_turn(readers);
            taken = 0;
        }
    }
    return readers->awake == 0     ? HM_PULL_DONE
           : has_room(conn, limit) ? HM_PULL_AGAIN
                                   : HM_PULL_LIMIT;
}

int hm_conn_pull(hm_conn *conn, uint64_t limit) {
    return pull(conn, limit, hm_ingest_now(conn->ingest));
}

/* ---- media that Python moves ---- */

uint32_t hm_conn_views(const hm_conn *conn, hm_view *views) {
    const output *out = &conn->out;
    uint32_t count = 0;
    uint64_t skip = out->next_done;
    if (hm_conn_choked(conn))
        return 0;
    for (uint32_t i = out->next; i != out->tail && count < HM_CONN_PIECES_MAX; i++, skip = 0) {
        const piece *one = piece_at(out, i);
        const hm_chunk *chunk = one->chunk;
        views[count++] =
            (hm_view){.data = one->data + skip,
                      .size = one->size - skip,
                      .chunk = one->chunk,
                      .segment = one->segment,
                      .offset = chunk == NULL ? 0 : (uint64_t)(one->data + skip - chunk->data)};
    }
    return count;
}

uint32_t hm_conn_take(hm_conn *conn, uint64_t limit, hm_view *views, int *came_to) {
    *came_to = HM_PULL_DONE;
    if (conn->out.waiting == 0 && !hm_conn_choked(conn))
        *came_to = hm_conn_pull(conn, limit);
    return hm_conn_views(conn, views);
}

void hm_conn_advance(hm_conn *conn, uint64_t size) {
    conn->sent += size;
    output_advance(&conn->out, size);
}

void hm_conn_release(hm_conn *conn, uint64_t size) {
    output_release(&conn->out, size);
}

uint64_t hm_conn_unpin(hm_conn *conn) {
    bool stalled = conn->out.waiting > 0 && conn->seen == conn->sent;
    conn->seen = conn->sent;
    return stalled ? output_unpin(&conn->out) : 0;
}

/* ---- media that are moved here ---- */

/* Where bytes come from and go to. */
typedef struct {
    const hm_medium *medium; /* NULL: the socket itself */
    int fd;
    int watch_fd;
} port;

/* The medium was given `size` bytes and `sent` says what came of it: 1: it took all; 0: it has no
 * room for the rest; -1: it is broken. */
static int note_sent(hm_conn *conn, int64_t sent, uint64_t size) {
    if (sent < 0 && sent != -EAGAIN && sent != -EWOULDBLOCK && sent != -EINTR) {
        conn->error = (int)-sent;
        return -1;
    }
    if (sent <= 0)
        return 0;
    hm_conn_advance(conn, (uint64_t)sent);
    hm_conn_release(conn, (uint64_t)sent);
    return (uint64_t)sent == size;
}

/* Sends what waits; returns as note_sent. */
static int send_waiting(hm_conn *conn, const port *to) {
    while (conn->out.waiting > 0) {
        struct iovec pieces[GATHER_MAX];
        uint64_t size;
        int count = output_gather(&conn->out, pieces, GATHER_MAX, &size);
        int64_t sent;
        if (to->medium != NULL) {
            sent = to->medium->write(to->medium->context, pieces, count);
        } else {
            struct msghdr message = {.msg_iov = pieces, .msg_iovlen = (size_t)count};
            sent = sendmsg(to->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (sent < 0)
                sent = -errno;
        }
        int noted = note_sent(conn, sent, size);
        if (noted != 1)
            return noted;
    }
    return 1;
}

void hm_conn_attach(hm_conn *conn, int fd, const hm_sends *sends) {
    conn->fd = fd;
    conn->sends = sends;
}

int hm_conn_error(const hm_conn *conn) {
    return conn->error;
}

/* `sent` as of note_sent: `result`, or what is the matter with the socket. */
static int settle(hm_conn *conn, int sent, int result) {
    if (sent < 0)
        return HM_PULL_LOST;
    if (sent > 0)
        return result;
    conn->full = true;
    conn->limit = conn->limit / 2 < HM_CONN_PULL_MIN ? HM_CONN_PULL_MIN : conn->limit / 2;
    return HM_PULL_FULL;
}

/* Sends that leave together, of connections that have nothing else. */
typedef struct {
    const hm_sends *by; /* of all of them */
    uint32_t count;
    hm_send sends[HM_CONN_TOGETHER_MAX];
    hm_conn *conns[HM_CONN_TOGETHER_MAX];
} together;

/* Whether what `conn` has waiting joins the others, as one small piece of memory that stays as it is
 * until they are sent. */
static bool join(together *all, hm_conn *conn) {
    struct iovec one;
    uint64_t size;
    if (conn->sends == NULL || conn->out.waiting == 0 ||
        conn->out.waiting > HM_CONN_TOGETHER_SIZE || (all->count > 0 && all->by != conn->sends))
        return false;
    output_gather(&conn->out, &one, 1, &size);
    if (size != conn->out.waiting)
        return false;
    all->by = conn->sends;
    all->sends[all->count] = (hm_send){.data = one.iov_base, .size = size, .fd = conn->fd};
    all->conns[all->count++] = conn;
    return true;
}

/* Sends them; writes the numbers of those that need Python, and returns how many. */
static uint32_t send_together(together *all, uint64_t *numbers) {
    uint32_t count = 0;
    if (all->count > 0)
        all->by->send(all->by->context, all->sends, all->count);
    assert(all->count <= HM_CONN_TOGETHER_MAX);
    for (uint32_t i = 0; i < all->count; i++) {
        hm_conn *conn = all->conns[i];
        int sent = note_sent(conn, all->sends[i].result, all->sends[i].size);
        if (settle(conn, sent, HM_PULL_DONE) != HM_PULL_DONE)
            numbers[count++] = conn->number;
    }
    all->count = 0;
    return count;
}

/* DONE: also if the last of it has joined `all`, which may be NULL. */
static int flush(hm_conn *conn, uint64_t now_ns, together *all) {
    assert(conn->fd >= 0);
    port to = {NULL, conn->fd, -1};
    int result = HM_PULL_LIMIT;
    conn->full = conn->held = false;
    for (int writes = 0; writes < HM_CONN_WRITES_MAX && result == HM_PULL_LIMIT; writes++) {
        if (conn->out.waiting < conn->limit) /* what Python has put in leaves with the rest */
            result = pull(conn, conn->limit, now_ns);
        if (all != NULL && result == HM_PULL_DONE && join(all, conn))
            break;
        uint64_t size = conn->out.waiting;
        int sent = send_waiting(conn, &to);
        result = settle(conn, sent, result);
        if (sent > 0 && size >= conn->limit && conn->limit < HM_CONN_PULL_MAX)
            conn->limit *= 2;
    }
    return result;
}

int hm_conn_flush(hm_conn *conn) {
    int saved = errno, result = flush(conn, hm_ingest_now(conn->ingest), NULL);
    errno = saved;
    return result;
}

uint32_t hm_conns_flush(hm_conns *conns, uint64_t *numbers, uint32_t capacity) {
    if (conns->awake.first == NULL)
        return 0;
    uint64_t now_ns = hm_ingest_now(conn_of(conns->awake.first)->ingest);
    uint32_t count = 0;
    int saved = errno;
    together all;
    all.count = 0;
    while (conns->awake.first != NULL && count < capacity) {
        hm_conn *conn = conn_of(conns->awake.first);
        hm_readers_unlist(&conn->readers);
        if (conn->full)
            continue; /* its listener knows, and flushes it when there is room */
        if (conn->fd < 0 || conn->held || flush(conn, now_ns, &all) != HM_PULL_DONE)
            numbers[count++] = conn->number;
        if (all.count == HM_CONN_TOGETHER_MAX || count + all.count == capacity)
            count += send_together(&all, numbers + count);
    }
    count += send_together(&all, numbers + count);
    errno = saved;
    return count;
}

/* ---- the common round ---- */

static uint64_t clock_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Bytes; 0: what is in `why`. */
static int64_t read_now(const port *from, uint8_t *buffer, int32_t *why) {
    if (from->medium != NULL) {
        int error;
        int64_t count =
            from->medium->receive(from->medium->context, buffer, HM_CONN_READ, 0, 0, &error);
        *why = count == -HM_EEMPTY  ? HM_SERVE_IDLE
               : count == -HM_EBUSY ? HM_SERVE_OTHERS
                                    : HM_SERVE_ENDED;
        return count > 0 ? count : 0;
    }
    ssize_t count = recv(from->fd, buffer, HM_CONN_READ, MSG_DONTWAIT);
    if (count > 0)
        return count;
    *why = count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
               ? HM_SERVE_IDLE
               : HM_SERVE_ENDED;
    return 0;
}

/* Reads, polling for `spin_ns`.  Bytes; 0: IDLE, OTHERS or ENDED is in `why`. */
static int64_t read_some(const port *from, uint8_t *buffer, uint64_t spin_ns, int32_t *why) {
    uint64_t begun = 0;
    for (uint32_t tries = 1;; tries++) {
        int64_t count = read_now(from, buffer, why);
        if (count > 0 || *why != HM_SERVE_IDLE)
            return count;
        if (spin_ns == 0)
            return 0;
        if ((tries & LOOK_MASK) == 0) {
            sched_yield(); /* the peer may wait for this very core */
            uint64_t now = clock_ns();
            begun = begun == 0 ? now : begun;
            if (now - begun >= spin_ns)
                return 0;
            if (hm_platform_others(from->watch_fd, from->fd)) {
                *why = HM_SERVE_OTHERS;
                return 0;
            }
        }
    }
}

/* Wakes those who may want what was appended; returns how many connections were woken. */
static uint32_t wake(hm_conn *conn, uint64_t streams, hm_served *served) {
    uint32_t woken = 0;
    for (; streams != 0; streams &= streams - 1) {
        hm_stream *stream = hm_ingest_stream(conn->ingest, (uint32_t)__builtin_ctzll(streams));
        if (hm_stream_held(stream))
            served->held |= streams & -streams;
        else
            woken += hm_stream_wake(stream);
    }
    return woken;
}

static void serve(hm_conn *conn, const port *place, uint8_t *buffer, uint64_t spin_ns,
                  uint64_t bound_ns, hm_feed *feed, hm_served *served) {
    uint64_t end = clock_ns() + bound_ns;
    while (served->rounds < HM_CONN_ROUNDS_MAX) {
        int64_t count = read_some(place, buffer, spin_ns, &served->why);
        if (count == 0)
            return;
        uint64_t size = (uint64_t)count, now_ns = hm_ingest_now(conn->ingest);
        served->rounds++;
        served->received += size;
        hm_ingest_feed(conn->ingest, buffer, size, now_ns, feed);
        served->messages += feed->messages;
        served->batches += feed->batches;
        served->duplicates += feed->duplicates;
        uint32_t others = wake(conn, feed->streams, served);
        if (feed->kind != HM_FEED_MORE || feed->consumed != size || size == HM_CONN_READ) {
            served->why = HM_SERVE_INPUT;
            served->size = size;
            return;
        }
        acknowledge(conn, served);
        int pulled = pull(conn, HM_CONN_READ, now_ns);
        int sent = send_waiting(conn, place);
        served->why = HM_SERVE_WORK;
        if (pulled != HM_PULL_DONE || sent != 1 || others > 0 || served->touched > 0 ||
            served->held != 0)
            return;
        served->why = HM_SERVE_OTHERS;
        if (spin_ns == 0 || clock_ns() >= end)
            return;
        if ((served->rounds & OTHERS_MASK) == 0 && hm_platform_others(place->watch_fd, place->fd))
            return;
    }
}

void hm_conn_serve(hm_conn *conn, int fd, const hm_medium *medium, int watch_fd, uint8_t *buffer,
                   uint64_t spin_ns, uint64_t bound_ns, hm_feed *feed, hm_served *served) {
    assert(conn != NULL && buffer != NULL);
    *served = (hm_served){0};
    if (conn->held || conn->full || conn->stopped || conn->readers.listed || hm_conn_busy(conn))
        return;
    int saved = errno;
    port place = {medium, fd, watch_fd};
    conn->readers.listed = true; /* what wakes it is served here */
    serve(conn, &place, buffer, spin_ns, bound_ns, feed, served);
    conn->readers.listed = false;
    if (hm_conn_busy(conn) || conn->gap.first != 0)
        hm_readers_list(&conn->readers);
    errno = saved;
}
