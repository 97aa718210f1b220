/* Random appends, subscriptions, readers fast and slow; every byte that leaves a connection is held
 * against a plain list.
 *
 *     conn_scenario STEPS SEED
 *
 * Half of the connections have a socket, which native code writes to, some of them together with
 * others, by sends that are cut short, refused or fail; of the rest the output is taken and released
 * in random parts, and looked at only when it is released.
 */
#include "scenario.h"
#include "hm_conn.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNS   8u
#define READERS 6u          /* cursors of one connection */
#define INPUT   (256 * KIB) /* bytes of a batch that is not whole yet */
#define FLYING  1024u       /* views taken and not released */

typedef struct {
    hm_cursor *cursor;
    uint32_t filter;
    uint64_t covered;
} reader;

typedef struct {
    hm_conn *conn;
    hm_ingest *ingest;
    int ours; /* -1: its output is taken as views */
    int theirs;
    int broken; /* a send has failed */
    reader readers[READERS];
    uint8_t *input;
    uint64_t size;
} end;

static end ends[CONNS];
static uint64_t got, gaps, fulls, copies, together, breaks;

/* Takes the whole batches at the beginning of what has arrived. */
static void parse(end *e) {
    uint64_t at = 0;
    while (e->size - at >= HM_BATCH_HEADER) {
        hm_batch batch;
        hm_batch_parse(e->input + at, &batch);
        uint64_t whole = HM_BATCH_HEADER + batch.frames_size;
        must(whole <= INPUT, "a batch of a sane size");
        if (e->size - at < whole)
            break;
        must(batch.id < READERS, "the number of the subscription");
        reader *r = &e->readers[batch.id];
        if (r->cursor != NULL) { /* else it was sent before its end */
            must(batch.after == r->covered && batch.through >= batch.after, "coverage");
            got += hold_against(r->filter, batch.after, batch.through,
                                e->input + at + HM_BATCH_HEADER, batch.frames_size);
            r->covered = batch.through;
        }
        at += whole;
    }
    e->size -= at;
    memmove(e->input, e->input + at, e->size);
}

static void arrive(end *e, const uint8_t *data, uint64_t size) {
    while (size > 0) {
        uint64_t part = size < INPUT - e->size ? size : INPUT - e->size;
        must(part > 0, "room for a batch");
        memcpy(e->input + e->size, data, part);
        e->size += part;
        data += part;
        size -= part;
        parse(e);
    }
}

static void read_socket(end *e, uint64_t most) {
    static uint8_t buffer[64 * KIB];
    while (most > 0) {
        uint64_t part = most < sizeof buffer ? most : sizeof buffer;
        ssize_t count = recv(e->theirs, buffer, part, MSG_DONTWAIT);
        if (count <= 0)
            return;
        arrive(e, buffer, (uint64_t)count);
        most -= (uint64_t)count;
    }
}

/* Does many sends at once, as a socket might take them. */
static void send_many(void *context, hm_send *sends, uint32_t count) {
    must(context == ends && count > 0 && count <= HM_CONN_TOGETHER_MAX, "a sane number of sends");
    together += count;
    for (uint32_t i = 0; i < count; i++) {
        hm_send *one = &sends[i];
        must(one->size > 0 && one->size <= HM_CONN_TOGETHER_SIZE, "small sends");
        if (below(16) == 0) {
            one->result = below(2) == 0 ? -EAGAIN : -EINTR;
        } else if (below(100) == 0) {
            one->result = -ECONNRESET;
            for (uint32_t k = 0; k < CONNS; k++)
                ends[k].broken |= ends[k].ours == one->fd;
        } else {
            uint64_t part = below(4) == 0 ? below((uint32_t)one->size + 1) : one->size;
            ssize_t sent = send(one->fd, one->data, part, MSG_DONTWAIT | MSG_NOSIGNAL);
            one->result = sent < 0 ? -errno : sent;
        }
    }
}

static const hm_sends sends = {ends, send_many};

/* A gap is told in its place: what was pulled before it has to arrive first. */
static void tell_gap(end *e) {
    hm_gap gap;
    hm_conn_gap(e->conn, &gap);
    reader *r = &e->readers[gap.subscription];
    must(r->cursor != NULL && gap.reason == HM_EGONE, "a gap of what is gone");
    must(gap.first == r->covered + 1 && gap.last >= gap.first, "a gap behind what was covered");
    r->covered = gap.last;
    gaps++;
}

/* Takes everything that waits, part by part; parts are released late, and looked at then. */
static void take_views(end *e) {
    static hm_view views[HM_CONN_PIECES_MAX];
    static struct {
        hm_view view;
        uint64_t size;
    } flying[FLYING];
    uint32_t head = 0, tail = 0;
    uint32_t count;
    while ((count = hm_conn_views(e->conn, views)) > 0) {
        uint64_t size = views[0].size;
        if (below(3) == 0 && size > 1)
            size = 1 + below((uint32_t)size);
        flying[tail % FLYING].view = views[0];
        flying[tail++ % FLYING].size = size;
        hm_conn_advance(e->conn, size);
        while (tail - head == FLYING || (head != tail && below(2) == 0)) {
            arrive(e, flying[head % FLYING].view.data, flying[head % FLYING].size);
            hm_conn_release(e->conn, flying[head++ % FLYING].size);
        }
    }
    for (; head != tail; head++) {
        arrive(e, flying[head % FLYING].view.data, flying[head % FLYING].size);
        hm_conn_release(e->conn, flying[head % FLYING].size);
    }
}

/* One pull or flush; returns what it came to. */
static int serve(end *e, uint64_t limit) {
    int came_to;
    if (e->ours >= 0) {
        came_to = hm_conn_flush(e->conn);
        fulls += came_to == HM_PULL_FULL;
        if (came_to == HM_PULL_GAP)
            read_socket(e, UINT64_MAX);
    } else {
        came_to = hm_conn_pull(e->conn, limit);
        if (came_to == HM_PULL_GAP || below(2) == 0)
            take_views(e);
    }
    must(came_to >= 0, "reading");
    if (came_to == HM_PULL_GAP)
        tell_gap(e);
    return came_to;
}

static void subscribe(hm_stream *stream, end *e, uint32_t i) {
    static const int starts[] = {HM_START_LATEST, HM_START_EARLIEST, HM_START_SEQUENCE};
    reader *r = &e->readers[i];
    uint64_t back = below(300), value = last > back ? last - back : 1;
    r->filter = below((uint32_t)FILTERS);
    const char *text = filters[r->filter].text;
    int error = hm_cursor_open(stream, filters[r->filter].kind, (const uint8_t *)text,
                               (uint32_t)strlen(text), i, starts[below(3)], value, &r->cursor);
    must(error == 0, "subscribing");
    r->covered = hm_cursor_through(r->cursor);
    hm_conn_add(e->conn, r->cursor);
}

/* Ends a subscription once what was pulled for it has arrived. */
static void unsubscribe(end *e, uint32_t i) {
    hm_conn_status status;
    hm_conn_status_get(e->conn, &status);
    if (status.waiting > 0)
        return;
    if (e->ours >= 0)
        read_socket(e, UINT64_MAX);
    if (below(2) == 0)
        hm_conn_remove(e->readers[i].cursor);
    hm_cursor_close(e->readers[i].cursor);
    e->readers[i].cursor = NULL;
}

static void open_end(end *e, hm_conns *conns, hm_router *router, uint32_t number) {
    e->ingest = hm_ingest_new(router, 64 * KIB);
    e->conn = hm_conn_new(conns, e->ingest, number);
    e->input = malloc(INPUT);
    must(e->ingest != NULL && e->conn != NULL && e->input != NULL, "memory");
    e->ours = e->theirs = -1;
    e->size = 0;
    e->broken = 0;
    if (number % 2 == 0) {
        int pair[2], room = 4096;
        must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "sockets");
        must(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof room) == 0, "their room");
        e->ours = pair[0];
        e->theirs = pair[1];
        hm_conn_attach(e->conn, e->ours, number % 4 == 0 ? &sends : NULL);
    }
}

static void close_end(end *e) {
    for (uint32_t i = 0; i < READERS; i++) {
        if (e->readers[i].cursor != NULL)
            hm_cursor_close(e->readers[i].cursor);
        e->readers[i].cursor = NULL;
    }
    hm_conn_free(e->conn);
    hm_ingest_free(e->ingest);
    if (e->ours >= 0) {
        close(e->ours);
        close(e->theirs);
    }
    free(e->input);
}

/* All that were woken: those with sockets natively, the others by their numbers.  One whose socket
 * broke makes room for the next. */
static void serve_woken(hm_stream *stream, hm_conns *conns, hm_router *router, hm_ingest *ingest) {
    uint64_t numbers[4];
    uint32_t count;
    for (uint32_t i = 0; i < CONNS; i += 4) { /* those that send together keep up, as a rule */
        while (below(32) != 0 && hm_conn_busy(ends[i].conn)) {
            read_socket(&ends[i], UINT64_MAX);
            serve(&ends[i], 0);
        }
    }
    if (below(2) == 0)
        publish(ingest);
    hm_stream_wake(stream);
    do {
        count = hm_conns_flush(conns, numbers, 4);
        for (uint32_t i = 0; i < count; i++) {
            end *e = &ends[numbers[i]];
            if (!e->broken) {
                serve(e, 1 + below(64 * KIB));
                continue;
            }
            must(hm_conn_error(e->conn) == ECONNRESET, "the error of the send");
            breaks++;
            close_end(e);
            open_end(e, conns, router, (uint32_t)numbers[i]);
        }
    } while (count == 4);
    for (uint32_t i = 0; i < CONNS; i++)
        must(!ends[i].broken, "a broken socket is told");
}

static void finish(hm_stream *stream, end *e) {
    hm_stream_mark_progress(stream);
    for (uint32_t quiet = 0; quiet < 3;) {
        int came_to = serve(e, 64 * KIB);
        if (e->ours >= 0)
            read_socket(e, UINT64_MAX);
        else
            take_views(e);
        quiet = came_to == HM_PULL_DONE && !hm_conn_busy(e->conn) ? quiet + 1 : 0;
    }
    must(e->size == 0, "whole batches");
    for (uint32_t i = 0; i < READERS; i++)
        must(e->readers[i].cursor == NULL || e->readers[i].covered == last, "all is covered");
}

int main(int argc, char **argv) {
    must(argc == 3, "usage: conn_scenario STEPS SEED");
    uint32_t steps = (uint32_t)strtoul(argv[1], NULL, 10);
    state = strtoul(argv[2], NULL, 10);
    hm_log_options options = {.segment_bytes = 64 * KIB,
                              .retention_bytes = 512 * KIB,
                              .message_max = HM_MESSAGE_MAX,
                              .spares = 1};
    hm_log *log;
    hm_stream *stream;
    uint64_t known;
    must(hm_log_open_memory(&options, &log) == 0, "opening a log");
    must(hm_stream_open(log, 0, 1000, 1, &stream) == 0, "opening a stream");
    hm_router *router = hm_router_new();
    must(hm_router_add(router, stream) == 0, "adding the stream");
    hm_ingest *ingest = hm_ingest_new(router, 64 * KIB);
    must(hm_ingest_open(ingest, 1, (const uint8_t *)"a publisher's id", &known) == 0, "opening");
    hm_conns *conns = hm_conns_new();
    for (uint32_t i = 0; i < CONNS; i++)
        open_end(&ends[i], conns, router, i);

    for (uint32_t step = 0; step < steps && last + BATCH_MAX < MESSAGES_MAX; step++) {
        end *e = &ends[below(CONNS)];
        uint32_t i = below(READERS);
        switch (below(8)) {
        case 0:
        case 1:
        case 2:
            publish(ingest);
            break;
        case 3:
            if (e->readers[i].cursor == NULL)
                subscribe(stream, e, i);
            else if (below(8) == 0)
                unsubscribe(e, i);
            break;
        case 4:
            hm_log_trim(log, 1);
            copies += hm_conn_unpin(e->conn) > 0;
            break;
        case 5:
            if (e->theirs >= 0)
                read_socket(e, below(8 * KIB));
            else
                take_views(e);
            break;
        case 6:
            serve(e, 1 + below(64 * KIB));
            break;
        default:
            serve_woken(stream, conns, router, ingest);
        }
    }
    for (uint32_t i = 0; i < CONNS; i++) {
        finish(stream, &ends[i]);
        close_end(&ends[i]);
    }
    hm_stream_status status;
    hm_stream_status_get(stream, &status);
    must(status.filters == 0 && status.cursors == 0, "nothing is left");
    hm_conns_free(conns);
    hm_ingest_free(ingest);
    hm_router_free(router);
    hm_stream_close(stream);
    hm_log_close(log);
    printf("%llu messages, %llu delivered, %llu gaps, %llu full sockets, %llu copied, %llu sent "
           "together, %llu broken\n",
           (unsigned long long)last, (unsigned long long)got, (unsigned long long)gaps,
           (unsigned long long)fulls, (unsigned long long)copies, (unsigned long long)together,
           (unsigned long long)breaks);
    fflush(stdout);
    must(gaps > 0 && got > last && fulls > 0 && copies > 0 && together > 0 && breaks > 0,
         "the scenario reaches what it is about");
    return 0;
}
