/* hm_ingest.c -- takes a connection's batches apart and appends their messages. */
#include "hm_ingest.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "router_internal.h"

#define SLOTS_MIN 16u

typedef struct {
    hm_known *known;
    uint64_t next;    /* the sequence after its last batch; 0: it may begin anywhere */
    uint64_t through; /* see hm_touched */
    uint64_t streams;
    uint32_t id;
    uint8_t refused; /* skip its batches */
    uint8_t touched; /* is on the list */
} publisher;

struct hm_ingest {
    hm_router *router;
    hm_grant *grant; /* NULL: everything may be published */
    uint32_t message_max;
    /* The batch that is being taken, if `left` > 0. */
    int skip; /* its frames are nobody's any more */
    publisher *current;
    uint64_t left;     /* bytes of frames still to come */
    uint64_t sequence; /* of the next frame */
    uint64_t through;
    /* Publishers by id: open addressing over indexes + 1. */
    publisher **publishers;
    uint32_t count;
    uint32_t room;
    uint16_t *slots;
    uint32_t slot_mask;
    publisher **touched; /* has `room` places */
    uint32_t touched_count;
};

/* ---- publishers ---- */

static uint32_t id_home(const hm_ingest *in, uint32_t id) {
    return (id * 0x9e3779b1u >> 16) & in->slot_mask;
}

static publisher *publisher_find(const hm_ingest *in, uint32_t id) {
    if (in->current != NULL && in->current->id == id)
        return in->current;
    if (in->count == 0)
        return NULL;
    for (uint32_t at = id_home(in, id);; at = (at + 1) & in->slot_mask) {
        if (in->slots[at] == 0)
            return NULL;
        publisher *found = in->publishers[in->slots[at] - 1];
        if (found->id == id)
            return found;
    }
}

/* Enters every publisher anew: after one has come or gone. */
static void slots_fill(hm_ingest *in) {
    memset(in->slots, 0, ((size_t)in->slot_mask + 1) * sizeof *in->slots);
    for (uint32_t i = 0; i < in->count; i++) {
        uint32_t at = id_home(in, in->publishers[i]->id);
        while (in->slots[at] != 0)
            at = (at + 1) & in->slot_mask;
        in->slots[at] = (uint16_t)(i + 1);
    }
}

static int publishers_grow(hm_ingest *in) {
    if (in->count < in->room)
        return 0;
    uint32_t room = in->room == 0 ? SLOTS_MIN / 2 : in->room * 2;
    publisher **publishers = realloc(in->publishers, room * sizeof(publisher *));
    if (publishers == NULL)
        return -HM_ENOMEM;
    in->publishers = publishers;
    publisher **touched = realloc(in->touched, room * sizeof(publisher *));
    if (touched == NULL)
        return -HM_ENOMEM;
    in->touched = touched;
    uint16_t *slots = realloc(in->slots, (size_t)room * 2 * sizeof *slots);
    if (slots == NULL)
        return -HM_ENOMEM;
    in->slots = slots;
    in->room = room;
    in->slot_mask = room * 2 - 1;
    slots_fill(in);
    return 0;
}

static publisher *publisher_add(hm_ingest *in, uint32_t id) {
    if (publishers_grow(in) != 0)
        return NULL;
    publisher *new = calloc(1, sizeof *new);
    if (new == NULL)
        return NULL;
    new->id = id;
    in->publishers[in->count++] = new;
    slots_fill(in);
    return new;
}

/* The last sequence that any stream has of a publisher. */
static uint64_t last_known(publisher *opened) {
    uint64_t last = 0;
    for (uint32_t i = 0; opened->known != NULL && i < HM_STREAMS_MAX; i++) {
        if (opened->known->last[i] > last)
            last = opened->known->last[i];
        if (opened->known->last[i] != 0) /* an acknowledgement speaks for these messages too */
            opened->streams |= (uint64_t)1 << i;
    }
    return last;
}

int hm_ingest_open(hm_ingest *in, uint32_t id, const uint8_t *identity, uint64_t *last) {
    static const uint8_t nobody[16];
    assert(identity != NULL && last != NULL);
    publisher *opened = publisher_find(in, id);
    if (opened == NULL && in->count == HM_PUBLISHERS_MAX)
        return -HM_ELIMIT;
    hm_known *known = NULL;
    if (memcmp(identity, nobody, sizeof nobody) != 0) {
        known = hm_known_open(in->router, identity);
        if (known == NULL)
            return -HM_ENOMEM;
    }
    if (opened == NULL)
        opened = publisher_add(in, id);
    if (opened == NULL) {
        hm_known_close(in->router, known);
        return -HM_ENOMEM;
    }
    if (opened->known != known) { /* an id that is used for somebody else now */
        opened->through = 0;
        opened->streams = 0;
    }
    hm_known_close(in->router, opened->known);
    opened->known = known;
    opened->next = 0;
    opened->refused = 0;
    *last = last_known(opened);
    return 0;
}

int hm_ingest_inherit(hm_ingest *in, uint32_t id, const uint8_t *older, uint64_t *last) {
    assert(older != NULL && last != NULL);
    publisher *opened = publisher_find(in, id);
    if (opened == NULL || opened->known == NULL)
        return -HM_EUNKNOWN;
    hm_known *before = hm_known_open(in->router, older);
    if (before == NULL)
        return -HM_ENOMEM;
    for (uint32_t i = 0; i < HM_STREAMS_MAX; i++)
        if (opened->known->last[i] < before->last[i])
            opened->known->last[i] = before->last[i];
    hm_known_close(in->router, before);
    *last = last_known(opened);
    return 0;
}

int hm_ingest_close_publisher(hm_ingest *in, uint32_t id) {
    publisher *closed = publisher_find(in, id);
    if (closed == NULL)
        return -HM_EUNKNOWN;
    for (uint32_t i = 0; i < in->touched_count; i++) {
        if (in->touched[i] == closed) {
            in->touched[i] = in->touched[--in->touched_count];
            break;
        }
    }
    if (in->current == closed) {
        in->current = NULL;
        in->skip = 1;
    }
    uint32_t at = 0;
    while (in->publishers[at] != closed)
        at++;
    in->publishers[at] = in->publishers[--in->count];
    slots_fill(in);
    hm_known_close(in->router, closed->known);
    free(closed);
    return 0;
}

int hm_ingest_refuse(hm_ingest *in, uint32_t id) {
    publisher *who = publisher_find(in, id);
    if (who == NULL)
        return -HM_EUNKNOWN;
    who->refused = 1;
    if (who == in->current)
        in->skip = 1;
    return 0;
}

static void touch(hm_ingest *in, publisher *who, uint64_t through, uint32_t stream) {
    if (through > who->through)
        who->through = through;
    who->streams |= (uint64_t)1 << stream;
    if (!who->touched) {
        who->touched = 1;
        in->touched[in->touched_count++] = who;
    }
}

uint32_t hm_ingest_touched(hm_ingest *in, hm_touched *touched, uint32_t capacity) {
    uint32_t count = in->touched_count < capacity ? in->touched_count : capacity;
    for (uint32_t i = 0; i < count; i++) {
        publisher *who = in->touched[--in->touched_count];
        who->touched = 0;
        touched[i] =
            (hm_touched){.publisher = who->id, .through = who->through, .streams = who->streams};
    }
    return count;
}

hm_ingest *hm_ingest_new(hm_router *router, uint32_t message_max) {
    assert(router != NULL);
    hm_ingest *in = calloc(1, sizeof *in);
    if (in == NULL)
        return NULL;
    in->router = router;
    in->message_max = message_max;
    return in;
}

void hm_ingest_free(hm_ingest *in) {
    if (in == NULL)
        return;
    for (uint32_t i = 0; i < in->count; i++) {
        hm_known_close(in->router, in->publishers[i]->known);
        free(in->publishers[i]);
    }
    hm_grant_free(in->grant);
    free(in->publishers);
    free(in->touched);
    free(in->slots);
    free(in);
}

int hm_ingest_restrict(hm_ingest *in) {
    assert(in != NULL);
    if (in->grant == NULL)
        in->grant = hm_grant_new();
    return in->grant == NULL ? -HM_ENOMEM : 0;
}

int hm_ingest_allow(hm_ingest *in, const uint8_t *pattern, uint32_t len) {
    assert(in != NULL && in->grant != NULL);
    return hm_grant_add(in->grant, pattern, len);
}

/* ---- taking bytes ---- */

/* One call of hm_ingest_feed. */
typedef struct {
    hm_ingest *in;
    const uint8_t *data;
    uint64_t size;
    uint64_t at;
    uint64_t now_ns;
    hm_feed *feed;
} take;

enum { GO_ON, STOP }; /* what a step says; the reason is in the feed */

static int stop(const take *t, int kind, int error) {
    t->feed->kind = kind;
    t->feed->error = error;
    return STOP;
}

static int malformed(const take *t, int error) {
    return stop(t, HM_FEED_ERROR, error);
}

static int more(const take *t, uint64_t needed) {
    t->feed->needed = needed;
    return stop(t, HM_FEED_MORE, 0);
}

static int refused(const take *t, publisher *who, uint32_t stream, uint64_t sequence, int error) {
    who->refused = 1;
    if (who == t->in->current)
        t->in->skip = 1;
    t->feed->publisher = who->id;
    t->feed->stream = stream;
    t->feed->sequence = sequence;
    return stop(t, HM_FEED_REFUSED, error);
}

static int flush(const take *t) {
    hm_run *run = &t->in->router->run;
    if (run->count == 0)
        return GO_ON;
    uint64_t first = run->first_sequence;
    uint32_t appended, stream = run->stream;
    publisher *who = run->owner;
    int error = hm_run_flush(t->in->router, t->now_ns, t->feed, &appended);
    if (appended > 0)
        touch(t->in, who, first + appended - 1, stream);
    return error == 0 ? GO_ON : refused(t, who, stream, first + appended, error);
}

/* Takes the validated frame, which is `size` bytes, for its stream. */
static int accept(const take *t, const uint8_t *frame, uint64_t size) {
    hm_ingest *in = t->in;
    hm_run *run = &in->router->run;
    publisher *who = in->current;
    if (in->grant != NULL && !hm_grant_allows(in->grant, frame + HM_FRAME_HEADER, frame[6]))
        return flush(t) == STOP ? STOP : refused(t, who, 0, in->sequence, -HM_EDENIED);
    int error = hm_router_frame(in->router, frame);
    const hm_route *route = &in->router->previous;
    if (error != 0)
        return flush(t) == STOP ? STOP : refused(t, who, route->stream, in->sequence, error);
    if (!hm_run_continues(run, who->known, who, route->stream, in->sequence) && flush(t) == STOP)
        return STOP;
    if (hm_known_has(in->router, who->known, route->stream, in->sequence)) {
        if (flush(t) == STOP)
            return STOP;
        t->feed->duplicates++;
        touch(in, who, in->sequence, route->stream);
        return GO_ON;
    }
    if (run->count == 0) {
        run->known = who->known;
        run->owner = who;
    }
    if (hm_run_add(run, frame, size, in->sequence, route))
        return GO_ON;
    if (flush(t) == STOP)
        return STOP;
    hm_run_add(run, frame, size, in->sequence, route);
    return GO_ON;
}

/* While the frame is checked, the memory it will be copied to can be fetched.  What its header says
 * is not believed yet: it is only a hint of how much. */
static void expect(const hm_ingest *in, const uint8_t *frame, uint64_t there) {
    const hm_run *run = &in->router->run;
    uint32_t stream = run->count > 0 ? run->stream : in->router->previous.stream;
    uint32_t payload;
    if (there < HM_FRAME_HEADER || stream >= in->router->count)
        return;
    memcpy(&payload, frame + offsetof(hm_frame_header, payload_len), sizeof payload);
    hm_log_expect(hm_stream_log(in->router->streams[stream]), run->size,
                  HM_FRAME_HEADER + (uint64_t)frame[6] + payload);
}

/* The next frame inside a batch. */
static int inner(take *t) {
    hm_ingest *in = t->in;
    uint64_t there = t->size - t->at < in->left ? t->size - t->at : in->left;
    if (in->skip) {
        t->at += there;
        in->left -= there;
        return in->left == 0 ? GO_ON : more(t, 0);
    }
    if (there == 0)
        return more(t, HM_FRAME_HEADER);
    const uint8_t *frame = t->data + t->at;
    hm_slice slice;
    uint64_t needed;
    expect(in, frame, there);
    int64_t size = hm_frame_check(frame, there, in->message_max, &slice, &needed);
    if (size == -HM_ETRUNC)
        return needed > in->left ? malformed(t, -HM_ELENGTH) : more(t, needed);
    if (size < 0)
        return malformed(t, (int)size);
    if (slice.type != HM_MESSAGE)
        return malformed(t, -HM_ETYPE);
    int is_last = (uint64_t)size == in->left;
    if (slice.sequence != in->sequence || (slice.sequence == in->through) != is_last)
        return malformed(t, -HM_ESEQUENCE);
    if (accept(t, frame, (uint64_t)size) == STOP)
        return STOP;
    t->at += (uint64_t)size;
    in->left -= (uint64_t)size;
    in->sequence++;
    return GO_ON;
}

static int begin_batch(take *t, const uint8_t *frame) {
    hm_ingest *in = t->in;
    hm_batch batch;
    hm_batch_parse(frame, &batch);
    if (batch.frames_size > (uint64_t)in->message_max + HM_BATCH_SLACK)
        return malformed(t, -HM_ELENGTH);
    uint64_t count = batch.through - batch.after;
    if (batch.through < batch.after || batch.through > HM_SEQUENCE_MAX ||
        (count == 0) != (batch.frames_size == 0) || count > batch.frames_size / HM_FRAME_HEADER)
        return malformed(t, -HM_ESEQUENCE);
    publisher *who = batch.stream == 0 ? publisher_find(in, batch.id) : NULL;
    if (who == NULL)
        return malformed(t, -HM_EUNKNOWN);
    if (!who->refused && who->next != 0 && batch.after >= who->next)
        return malformed(t, -HM_ESEQUENCE);
    if (batch.through >= who->next)
        who->next = batch.through + 1;
    in->current = who;
    in->skip = who->refused;
    in->left = batch.frames_size;
    in->sequence = batch.after + 1;
    in->through = batch.through;
    t->at += HM_BATCH_HEADER;
    t->feed->batches++;
    return GO_ON;
}

/* The next frame of the connection. */
static int outer(take *t) {
    uint64_t there = t->size - t->at;
    if (there == 0)
        return more(t, 0);
    const uint8_t *frame = t->data + t->at;
    uint8_t type = there >= HM_FRAME_HEADER ? frame[5] : HM_BATCH;
    uint32_t limit = type == HM_BATCH || type == HM_MESSAGE ? t->in->message_max : HM_CONTROL_MAX;
    hm_slice slice;
    uint64_t needed;
    int64_t size = hm_frame_check(frame, there, limit, &slice, &needed);
    if (type == HM_MESSAGE && size != -HM_EMAGIC && size != -HM_EVERSION)
        return malformed(t,
                         -HM_ETYPE); /* the header says it: whatever else is wrong or not there */
    if (size == -HM_ETRUNC)
        return more(t, needed);
    if (size < 0)
        return malformed(t, (int)size);
    if (type == HM_BATCH)
        return begin_batch(t, frame);
    t->feed->frame_size = (uint64_t)size;
    return stop(t, HM_FEED_CONTROL, 0);
}

uint64_t hm_ingest_now(const hm_ingest *ingest) {
    return hm_router_now(ingest->router);
}

hm_stream *hm_ingest_stream(const hm_ingest *ingest, uint32_t index) {
    assert(index < ingest->router->count);
    return ingest->router->streams[index];
}

void hm_ingest_feed(hm_ingest *in, const uint8_t *data, uint64_t size, uint64_t now_ns,
                    hm_feed *feed) {
    assert(in != NULL && feed != NULL && in->router->run.count == 0);
    *feed = (hm_feed){0};
    take t = {in, data, size, 0, now_ns, feed};
    while ((in->left > 0 ? inner(&t) : outer(&t)) == GO_ON)
        continue;
    if (flush(&t) == STOP) { /* what stopped us stands there still: the next call meets it again */
        feed->needed = 0;
        feed->frame_size = 0;
    }
    feed->consumed = t.at;
    feed->touched = in->touched_count;
}
