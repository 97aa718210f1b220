/* hu_sender.c -- sends one direction's bytes, and repeats what was lost. */
#include "hu_sender.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define NEVER         UINT64_MAX
#define CHUNKS_BEGIN  64u      /* references there is room for at first */
#define CHUNKS_SPARE  4u       /* a push takes two at most */
#define RECENT_NS_MAX 5000000u /* ns: a range called for again after this was lost again */
#define SHRINK_AFTER  3u       /* probes without an answer after which to begin small again */
#define ACK_DELAY_NS                                                                               \
    300000u /* ns the receiver may keep an acknowledgement, and its clock's grain */

typedef struct {
    uint64_t position;
    const uint8_t *data;
    uint64_t size;
    int copied;
} chunk;

typedef struct {
    uint64_t start;
    uint64_t end;
    uint64_t sent_ns;
} recent;

struct hu_sender {
    uint64_t acked;
    uint64_t next;
    uint64_t end;
    uint64_t limit;
    uint32_t payload_max;
    int awaiting; /* an answer, though nothing is on its way */
    int stalled;

    chunk *chunks; /* a ring; free-running indices */
    uint32_t chunk_capacity;
    uint32_t chunk_head;
    uint32_t chunk_tail;
    uint8_t *ring;
    uint64_t ring_size;
    uint64_t ring_head;
    uint64_t ring_tail;

    hu_range repeats[HU_REPEATS_MAX]; /* by position, disjoint */
    uint32_t repeat_count;
    recent recents[HU_RECENT_MAX];
    uint32_t recent_next;
    uint32_t calls_left;
    uint64_t calls_ns; /* when HU_CALLS_MAX begins anew */

    uint64_t srtt_ns;
    uint64_t rttvar_ns;
    uint64_t congestion;
    uint64_t threshold;
    uint64_t recover; /* losses before it are of the same event */
    int64_t tokens;   /* bytes that may leave now */
    uint64_t tokens_ns;
    uint64_t probe_ns; /* when to probe, if there is reason to */
    uint64_t sent_ns;  /* when something left last */
    uint32_t probe_count;
    hu_sender_counters counters;
};

static uint64_t least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static uint64_t most(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

static uint64_t congestion_min(const hu_sender *sender) {
    return most(HU_CONGESTION_MIN, (uint64_t)HU_CONGESTION_COUNT * sender->payload_max);
}

hu_sender *hu_sender_new(uint64_t position, uint32_t payload_max, uint64_t copy_size) {
    assert(payload_max > 0 && payload_max <= HU_DATAGRAM_MAX - HU_HEADER);
    assert(copy_size >= 2 * HU_COPY_MAX && (copy_size & (copy_size - 1)) == 0);
    hu_sender *sender = calloc(1, sizeof *sender);
    if (sender == NULL)
        return NULL;
    sender->chunks = malloc(CHUNKS_BEGIN * sizeof(chunk));
    sender->ring = malloc(copy_size);
    if (sender->chunks == NULL || sender->ring == NULL) {
        hu_sender_free(sender);
        return NULL;
    }
    sender->chunk_capacity = CHUNKS_BEGIN;
    sender->ring_size = copy_size;
    sender->acked = sender->next = sender->end = sender->limit = position;
    sender->recover = position;
    sender->payload_max = payload_max;
    sender->congestion = 2 * congestion_min(sender);
    sender->threshold = NEVER;
    sender->tokens = HU_BURST;
    return sender;
}

void hu_sender_free(hu_sender *sender) {
    if (sender == NULL)
        return;
    free(sender->chunks);
    free(sender->ring);
    free(sender);
}

/* ---- what is kept ---- */

static chunk *chunk_at(const hu_sender *sender, uint32_t index) {
    return &sender->chunks[index & (sender->chunk_capacity - 1)];
}

/* Room for two more; 0: there is none. */
static int make_room(hu_sender *sender) {
    uint32_t count = sender->chunk_tail - sender->chunk_head;
    if (count + 2 <= sender->chunk_capacity)
        return 1;
    uint32_t capacity = 2 * sender->chunk_capacity;
    if (capacity > HU_CHUNKS_MAX)
        return 0;
    chunk *grown = malloc(capacity * sizeof(chunk));
    if (grown == NULL)
        return 0;
    for (uint32_t i = 0; i < count; i++)
        grown[(sender->chunk_head + i) & (capacity - 1)] =
            *chunk_at(sender, sender->chunk_head + i);
    free(sender->chunks);
    sender->chunks = grown;
    sender->chunk_capacity = capacity;
    return 1;
}

static void append(hu_sender *sender, const uint8_t *data, uint64_t size, int copied) {
    if (copied && sender->chunk_tail != sender->chunk_head) {
        chunk *last = chunk_at(sender, sender->chunk_tail - 1);
        if (last->copied && last->data + last->size == data) {
            last->size += size;
            sender->end += size;
            return;
        }
    }
    *chunk_at(sender, sender->chunk_tail++) = (chunk){sender->end, data, size, copied};
    sender->end += size;
}

static uint64_t copy_in(hu_sender *sender, const uint8_t *data, uint64_t size) {
    size = least(size, sender->ring_size - (sender->ring_tail - sender->ring_head));
    uint64_t at = sender->ring_tail & (sender->ring_size - 1);
    uint64_t first = least(size, sender->ring_size - at);
    if (first > 0) {
        memcpy(sender->ring + at, data, first);
        append(sender, sender->ring + at, first, 1);
    }
    if (size > first) {
        memcpy(sender->ring, data + first, size - first);
        append(sender, sender->ring, size - first, 1);
    }
    sender->ring_tail += size;
    return size;
}

uint64_t hu_sender_push(hu_sender *sender, const uint8_t *data, uint64_t size, int copy) {
    if (size == 0 || !make_room(sender))
        return 0;
    uint64_t room = sender->ring_size - (sender->ring_tail - sender->ring_head);
    if (copy || (size <= HU_COPY_MAX && room >= size))
        return copy_in(sender, data, size);
    append(sender, data, size, 0);
    return size;
}

uint64_t hu_sender_room(const hu_sender *sender) {
    if (sender->chunk_tail - sender->chunk_head + CHUNKS_SPARE > HU_CHUNKS_MAX)
        return 0;
    uint64_t until = least(sender->limit, sender->acked + sender->congestion);
    uint64_t room = until > sender->end ? until - sender->end : 0;
    /* One datagram is always kept ready, so that a probe asks for room when there is none. */
    return sender->end == sender->next ? most(room, sender->payload_max) : room;
}

static void forget(hu_sender *sender, uint64_t position) {
    while (sender->chunk_head != sender->chunk_tail) {
        chunk *oldest = chunk_at(sender, sender->chunk_head);
        uint64_t size = least(oldest->size, position - oldest->position);
        if (oldest->copied)
            sender->ring_head += size;
        if (size < oldest->size) {
            oldest->position += size;
            oldest->data += size;
            oldest->size -= size;
            return;
        }
        sender->chunk_head++;
        if (sender->chunk_head != sender->chunk_tail &&
            chunk_at(sender, sender->chunk_head)->position >= position)
            return;
    }
    if (sender->ring_head == sender->ring_tail) /* empty: begin anew where the cache is warm */
        sender->ring_head = sender->ring_tail = 0;
}

uint32_t hu_sender_locate(const hu_sender *sender, uint64_t position, uint64_t size,
                          hu_piece *pieces, uint32_t capacity, uint64_t *found) {
    assert(position >= sender->acked && size <= sender->end - position);
    uint32_t low = 0, high = sender->chunk_tail - sender->chunk_head, count = 0;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (chunk_at(sender, sender->chunk_head + middle)->position <= position)
            low = middle;
        else
            high = middle;
    }
    *found = 0;
    for (uint32_t i = sender->chunk_head + low; *found < size && count < capacity; i++) {
        const chunk *place = chunk_at(sender, i);
        uint64_t skip = position + *found - place->position;
        uint64_t length = least(place->size - skip, size - *found);
        pieces[count++] = (hu_piece){place->data + skip, length};
        *found += length;
    }
    return count;
}

/* ---- time ---- */

static uint64_t probe_pause(const hu_sender *sender) {
    uint64_t pause = sender->srtt_ns == 0 ? HU_RTT_BEGIN
                                          : sender->srtt_ns + 4 * sender->rttvar_ns + ACK_DELAY_NS;
    pause = most(pause, HU_PROBE_MIN) << least(sender->probe_count, 10);
    return least(pause, HU_PROBE_MAX);
}

void hu_sender_rtt(hu_sender *sender, uint64_t rtt_ns) {
    if (rtt_ns == 0)
        rtt_ns = 1;
    if (sender->srtt_ns == 0) {
        sender->srtt_ns = rtt_ns;
        sender->rttvar_ns = rtt_ns / 2;
        return;
    }
    uint64_t off = rtt_ns > sender->srtt_ns ? rtt_ns - sender->srtt_ns : sender->srtt_ns - rtt_ns;
    sender->rttvar_ns = (3 * sender->rttvar_ns + off) / 4;
    sender->srtt_ns = (7 * sender->srtt_ns + rtt_ns) / 8;
}

/* The round trip as far as it holds anything back: how long the peer has held our stamp is its word
 * alone, and who claims to be very near, or says nothing, must not be flooded at its own wish. */
static uint64_t paced_rtt(const hu_sender *sender) {
    return sender->srtt_ns == 0 ? HU_RTT_BEGIN : most(sender->srtt_ns, HU_PACE_MIN);
}

/* A congestion window a round trip, and a quarter more; a burst at once. */
static void refill(hu_sender *sender, uint64_t now_ns) {
    uint64_t passed = now_ns - sender->tokens_ns, rtt = paced_rtt(sender);
    sender->tokens_ns = now_ns;
    if (passed > rtt * 16) {
        sender->tokens = HU_BURST;
        return;
    }
    uint64_t gained = sender->congestion * passed / rtt * 5 / 4;
    sender->tokens = (int64_t)least((uint64_t)(sender->tokens + (int64_t)gained + HU_BURST),
                                    2 * (uint64_t)HU_BURST) -
                     HU_BURST;
}

static uint64_t refilled_ns(const hu_sender *sender) {
    if (sender->tokens > 0)
        return 0;
    uint64_t missing = (uint64_t)(1 - sender->tokens), rtt = paced_rtt(sender);
    uint64_t wait = missing * rtt / (sender->congestion * 5 / 4) + 1;
    return sender->tokens_ns + least(wait, rtt * 16 + 1);
}

/* ---- what the receiver says ---- */

static void drop_repeats(hu_sender *sender) {
    uint32_t gone = 0;
    for (uint32_t i = 0; i < sender->repeat_count; i++) {
        hu_range *range = &sender->repeats[i];
        uint64_t end = range->position + range->size;
        if (end <= sender->acked) {
            gone++;
            continue;
        }
        if (range->position < sender->acked)
            *range = (hu_range){sender->acked, end - sender->acked};
        break;
    }
    sender->repeat_count -= gone;
    memmove(sender->repeats, sender->repeats + gone, sender->repeat_count * sizeof(hu_range));
}

static void grow(hu_sender *sender, uint64_t newly, uint64_t in_flight) {
    if (in_flight < sender->congestion / 2)
        return; /* not what holds us back */
    if (sender->congestion < sender->threshold)
        sender->congestion += newly;
    else /* a sixteenth a round trip */
        sender->congestion +=
            most(sender->payload_max, sender->congestion / 16) * newly / sender->congestion;
    sender->congestion = least(sender->congestion, UINT32_MAX);
}

uint64_t hu_sender_acknowledge(hu_sender *sender, uint64_t received, uint64_t limit,
                               uint64_t now_ns) {
    if (received > sender->next || limit < received)
        return 0;
    uint64_t newly = received > sender->acked ? received - sender->acked : 0;
    if (newly > 0) {
        grow(sender, newly, sender->next - sender->acked);
        forget(sender, received);
        sender->acked = received;
        drop_repeats(sender);
    }
    int wider = limit > sender->limit;
    if (wider)
        sender->limit = limit;
    if (newly > 0 || wider) { /* what is left has been under way since it was sent */
        sender->probe_count = 0;
        sender->probe_ns = most(sender->sent_ns + probe_pause(sender), now_ns + ACK_DELAY_NS);
    }
    if (sender->limit > sender->next)
        sender->stalled = 0;
    return newly;
}

static int just_sent(const hu_sender *sender, uint64_t start, uint64_t end, uint64_t now_ns) {
    uint64_t patience = least(paced_rtt(sender) / 2, RECENT_NS_MAX);
    for (uint32_t i = 0; i < HU_RECENT_MAX; i++) {
        const recent *r = &sender->recents[i];
        if (r->start <= start && end <= r->end && now_ns - r->sent_ns < patience)
            return 1;
    }
    return 0;
}

/* Keeps the list sorted and disjoint; 0: it is full. */
static int add_repeat(hu_sender *sender, uint64_t start, uint64_t end) {
    hu_range *list = sender->repeats;
    uint32_t first = 0, last;
    while (first < sender->repeat_count && list[first].position + list[first].size < start)
        first++;
    for (last = first; last < sender->repeat_count && list[last].position <= end; last++) {
        start = least(start, list[last].position);
        end = most(end, list[last].position + list[last].size);
    }
    if (last == first && sender->repeat_count == HU_REPEATS_MAX)
        return 0;
    memmove(list + first + 1, list + last, (sender->repeat_count - last) * sizeof(hu_range));
    sender->repeat_count = sender->repeat_count + 1 - (last - first);
    list[first] = (hu_range){start, end - start};
    return 1;
}

/* Each range is looked for in two lists, and a peer may call for hundreds in every datagram. */
uint32_t hu_sender_admit(hu_sender *sender, uint32_t count, uint64_t now_ns) {
    if (now_ns >= sender->calls_ns) {
        sender->calls_ns = now_ns + HU_CALLS_SPAN;
        sender->calls_left = HU_CALLS_MAX;
    }
    uint32_t admitted = count < sender->calls_left ? count : sender->calls_left;
    sender->calls_left -= admitted;
    sender->counters.calls_spared += count - admitted;
    return admitted;
}

void hu_sender_repeat(hu_sender *sender, const hu_range *range, uint64_t now_ns) {
    uint64_t start = most(range->position, sender->acked);
    uint64_t end = range->position + range->size;
    sender->counters.calls++;
    end = least(end, sender->next);
    if (range->position + range->size < range->position || start >= end ||
        just_sent(sender, start, end, now_ns) || !add_repeat(sender, start, end)) {
        sender->counters.calls_ignored++;
        return;
    }
    if (end > sender->recover) { /* once for all that was on its way when the first was lost */
        sender->congestion = most(sender->congestion * 7 / 10, congestion_min(sender));
        sender->threshold = sender->congestion;
        sender->recover = sender->next;
        sender->counters.losses++;
    }
    sender->probe_count = 0;
    sender->probe_ns = now_ns + probe_pause(sender);
}

/* ---- what goes out ---- */

static uint64_t datagrams(const hu_sender *sender, uint64_t size) {
    return (size + sender->payload_max - 1) / sender->payload_max;
}

static void next_repeat(hu_sender *sender, uint64_t size_max, uint64_t now_ns, hu_span *span) {
    hu_range *first = &sender->repeats[0];
    uint64_t size = least(first->size, size_max);
    *span = (hu_span){first->position, size, 1, 0};
    sender->recents[sender->recent_next++ % HU_RECENT_MAX] =
        (recent){first->position, first->position + size, now_ns};
    first->position += size;
    first->size -= size;
    if (first->size == 0) {
        sender->repeat_count--;
        memmove(first, first + 1, sender->repeat_count * sizeof(hu_range));
    }
    sender->counters.repeats += datagrams(sender, size);
    sender->counters.repeat_bytes += size;
}

/* Bytes of new stream that may leave in whole datagrams now. */
static uint64_t sendable(const hu_sender *sender, uint64_t size_max) {
    uint64_t waiting = sender->end - sender->next;
    uint64_t until = least(sender->limit, sender->acked + sender->congestion);
    uint64_t size = least(until > sender->next ? until - sender->next : 0, size_max);
    if (waiting <= size)
        return waiting;
    if (size >= sender->payload_max)
        return size - size % sender->payload_max;
    return sender->next == sender->acked ? size : 0; /* a small one only if none is under way */
}

static int probes(const hu_sender *sender) {
    return sender->next > sender->acked || sender->end > sender->next || sender->awaiting;
}

static void next_probe(hu_sender *sender, uint64_t size_max, uint64_t now_ns, hu_span *span) {
    uint64_t size = least(sender->next - sender->acked, least(sender->payload_max, size_max));
    *span = (hu_span){sender->next - size, size, size > 0, 1};
    sender->probe_count++;
    sender->counters.probes++;
    sender->probe_ns = now_ns + probe_pause(sender);
    if (sender->probe_count == SHRINK_AFTER && size > 0) {
        sender->threshold = most(sender->congestion / 2, congestion_min(sender));
        sender->congestion = congestion_min(sender);
        sender->recover = sender->next;
    }
}

void hu_sender_next(hu_sender *sender, uint64_t size_max, uint64_t now_ns, hu_span *span) {
    *span = (hu_span){0};
    refill(sender, now_ns);
    size_max = least(size_max, HU_BURST);
    if (sender->tokens > 0 && sender->repeat_count > 0) {
        next_repeat(sender, size_max, now_ns, span);
    } else if (sender->tokens > 0 && (span->size = sendable(sender, size_max)) > 0) {
        span->position = sender->next;
        if (sender->next == sender->acked)
            sender->probe_count = 0;
        sender->next += span->size;
        sender->probe_ns = now_ns + probe_pause(sender);
        sender->counters.datagrams += datagrams(sender, span->size);
        sender->counters.bytes += span->size;
    } else if (probes(sender) && now_ns >= sender->probe_ns) {
        next_probe(sender, size_max, now_ns, span);
    }
    sender->tokens -= (int64_t)span->size;
    if (span->size > 0)
        sender->sent_ns = now_ns;
    if (sender->end > sender->next && sender->next >= sender->limit && !sender->stalled) {
        sender->stalled = 1;
        sender->counters.stalls++;
    }
}

void hu_sender_unsend(hu_sender *sender, const hu_span *span, uint64_t position) {
    uint64_t end = span->position + span->size;
    assert(position >= span->position && position <= end);
    sender->tokens += (int64_t)(end - position);
    if (position == end || span->probe)
        return;
    if (span->repeat) {
        if (position >= sender->acked)
            add_repeat(sender, position, end); /* if it is full, it is called for again */
        sender->recents[(sender->recent_next - 1) % HU_RECENT_MAX].end = position;
    } else {
        assert(end == sender->next);
        sender->next = position;
    }
}

uint64_t hu_sender_deadline(const hu_sender *sender, uint64_t now_ns) {
    uint64_t due = probes(sender) ? sender->probe_ns : NEVER;
    if (sender->repeat_count > 0 || sendable(sender, HU_BURST) > 0)
        due = least(due, most(now_ns, refilled_ns(sender)));
    return due;
}

void hu_sender_await(hu_sender *sender, int awaiting, uint64_t now_ns) {
    if (awaiting && !probes(sender)) {
        sender->probe_count = 0;
        sender->probe_ns = now_ns + probe_pause(sender);
    }
    sender->awaiting = awaiting;
}

void hu_sender_shrink(hu_sender *sender, uint32_t payload_max) {
    assert(payload_max > 0 && payload_max <= sender->payload_max);
    sender->payload_max = payload_max;
}

uint64_t hu_sender_ring_room(const hu_sender *sender) {
    return sender->ring_size - (sender->ring_tail - sender->ring_head);
}

uint64_t hu_sender_acked(const hu_sender *sender) {
    return sender->acked;
}

uint64_t hu_sender_sent(const hu_sender *sender) {
    return sender->next;
}

uint64_t hu_sender_end(const hu_sender *sender) {
    return sender->end;
}

uint64_t hu_sender_congestion(const hu_sender *sender) {
    return sender->congestion;
}

uint64_t hu_sender_srtt(const hu_sender *sender) {
    return sender->srtt_ns;
}

uint64_t hu_sender_rttvar(const hu_sender *sender) {
    return sender->rttvar_ns;
}

void hu_sender_count(const hu_sender *sender, hu_sender_counters *counters) {
    *counters = sender->counters;
}
