/* hu_receiver.c -- puts one direction's datagrams in order. */
#include "hu_receiver.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define NEVER UINT64_MAX

typedef struct {
    uint64_t start;
    uint64_t end;
    uint64_t born_ns;
    uint64_t due_ns;
    uint32_t tries;
} hole;

struct hu_receiver {
    uint8_t *memory;
    uint64_t window;
    uint64_t base; /* the position that stands at memory[0], or a multiple of `window` before it */
    uint64_t consumed;
    uint64_t received;
    uint64_t highest;
    uint64_t due_ns; /* no hole is due before it */
    uint64_t tolerance_ns;
    uint64_t random; /* 0: no jitter */
    uint32_t count;
    hole holes[HU_HOLES_MAX]; /* by position, disjoint */
    hu_receiver_counters counters;
};

hu_receiver *hu_receiver_new(uint64_t window, uint64_t position, uint64_t jitter) {
    assert(window >= 4096 && (window & (window - 1)) == 0);
    hu_receiver *receiver = malloc(sizeof *receiver);
    uint8_t *memory = malloc(window);
    if (receiver == NULL || memory == NULL) {
        free(receiver);
        free(memory);
        return NULL;
    }
    memset(receiver, 0, offsetof(hu_receiver, holes));
    memset(&receiver->counters, 0, sizeof receiver->counters);
    receiver->memory = memory;
    receiver->window = window;
    receiver->base = position & ~(uint64_t)7;
    receiver->consumed = receiver->received = receiver->highest = position;
    receiver->due_ns = NEVER;
    receiver->tolerance_ns = HU_REORDER_MIN;
    receiver->random = jitter;
    return receiver;
}

void hu_receiver_free(hu_receiver *receiver) {
    if (receiver == NULL)
        return;
    free(receiver->memory);
    free(receiver);
}

/* xorshift: it spreads, nothing depends on more. */
static uint64_t spread(hu_receiver *receiver, uint64_t wait_ns) {
    if (receiver->random == 0 || wait_ns == 0)
        return wait_ns;
    receiver->random ^= receiver->random << 13;
    receiver->random ^= receiver->random >> 7;
    receiver->random ^= receiver->random << 17;
    return wait_ns + receiver->random % wait_ns;
}

static void store(hu_receiver *receiver, uint64_t position, const uint8_t *data, uint64_t size) {
    uint64_t at = (position - receiver->base) & (receiver->window - 1);
    uint64_t first = receiver->window - at < size ? receiver->window - at : size;
    assert(position >= receiver->received && size <= receiver->window);
    memcpy(receiver->memory + at, data, first);
    memcpy(receiver->memory, data + first, size - first);
}

static void settle(hu_receiver *receiver) {
    receiver->received = receiver->count ? receiver->holes[0].start : receiver->highest;
    if (receiver->count == 0)
        receiver->due_ns = NEVER;
}

static void insert(hu_receiver *receiver, uint32_t at, hole fresh) {
    assert(receiver->count < HU_HOLES_MAX && fresh.start < fresh.end);
    memmove(&receiver->holes[at + 1], &receiver->holes[at], (receiver->count - at) * sizeof(hole));
    receiver->holes[at] = fresh;
    receiver->count++;
}

/* What is missing between `highest` and `position`. */
static void open_hole(hu_receiver *receiver, uint64_t position, uint64_t now_ns) {
    hole fresh = {.start = receiver->highest, .end = position, .born_ns = now_ns};
    fresh.due_ns = now_ns + spread(receiver, receiver->tolerance_ns);
    if (fresh.due_ns < receiver->due_ns)
        receiver->due_ns = fresh.due_ns;
    insert(receiver, receiver->count, fresh);
    receiver->counters.holes++;
}

void hu_receiver_expect(hu_receiver *receiver, uint64_t position, uint64_t now_ns) {
    if (position <= receiver->highest || position > hu_receiver_limit(receiver) ||
        receiver->count == HU_HOLES_MAX)
        return;
    open_hole(receiver, position, now_ns);
    receiver->highest = position;
    settle(receiver);
}

/* The first hole that ends behind `position`. */
static uint32_t find(const hu_receiver *receiver, uint64_t position) {
    uint32_t low = 0, high = receiver->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (receiver->holes[middle].end <= position)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Something came for a hole: was it late, or had it been lost? */
static void learn(hu_receiver *receiver, const hole *closed, int repeat, uint64_t now_ns) {
    uint64_t late = now_ns - closed->born_ns;
    if (repeat) {
        uint64_t less = receiver->tolerance_ns - receiver->tolerance_ns / 16;
        receiver->tolerance_ns = less < HU_REORDER_MIN ? HU_REORDER_MIN : less;
        return;
    }
    receiver->counters.reordered++;
    late += late / 4;
    if (late > receiver->tolerance_ns)
        receiver->tolerance_ns = late < HU_REORDER_MAX ? late : HU_REORDER_MAX;
}

/* Copies what of [start, end) is missing.  HU_TOOK, HU_DUPLICATE, HU_CROWDED. */
static int fill(hu_receiver *receiver, uint64_t start, uint64_t end, const uint8_t *data,
                int repeat, uint64_t now_ns) {
    int taken = HU_DUPLICATE;
    uint32_t i = find(receiver, start);
    while (i < receiver->count && receiver->holes[i].start < end) {
        hole *open = &receiver->holes[i];
        uint64_t from = open->start > start ? open->start : start;
        uint64_t to = open->end < end ? open->end : end;
        int splits = from > open->start && to < open->end;
        if (splits && receiver->count == HU_HOLES_MAX)
            return taken == HU_TOOK ? HU_TOOK : HU_CROWDED;
        if (taken != HU_TOOK)
            learn(receiver, open, repeat, now_ns);
        taken = HU_TOOK;
        store(receiver, from, data + (from - start), to - from);
        if (splits) {
            hole right = *open;
            right.start = to;
            open->end = from;
            insert(receiver, i + 1, right);
            break;
        }
        if (from > open->start) {
            open->end = from;
            i++;
        } else if (to < open->end) {
            open->start = to;
            break;
        } else {
            receiver->count--;
            memmove(open, open + 1, (receiver->count - i) * sizeof(hole));
        }
    }
    return taken;
}

int hu_receiver_take(hu_receiver *receiver, uint64_t position, const uint8_t *data, uint64_t size,
                     int repeat, uint64_t now_ns) {
    hu_receiver_counters *counters = &receiver->counters;
    uint64_t limit = hu_receiver_limit(receiver), end = position + size;
    if (end < position || end > limit) {
        counters->outside++;
        return HU_OUTSIDE;
    }
    if (end <= receiver->received) {
        counters->duplicates += size > 0;
        return HU_DUPLICATE;
    }
    if (position < receiver->received) {
        data += receiver->received - position;
        position = receiver->received;
    }
    uint64_t before = receiver->highest;
    int taken = HU_DUPLICATE;
    if (end > before) {
        uint64_t from = position > before ? position : before;
        if (from > before) {
            if (receiver->count == HU_HOLES_MAX) {
                counters->crowded++;
                return HU_CROWDED;
            }
            open_hole(receiver, from, now_ns);
        }
        store(receiver, from, data + (from - position), end - from);
        receiver->highest = end;
        taken = HU_TOOK;
    }
    if (position < before) {
        int filled = fill(receiver, position, end < before ? end : before, data, repeat, now_ns);
        taken = taken == HU_TOOK ? HU_TOOK : filled;
    }
    settle(receiver);
    counters->datagrams += taken == HU_TOOK;
    counters->duplicates += taken == HU_DUPLICATE;
    counters->crowded += taken == HU_CROWDED;
    return taken;
}

static uint64_t pause(hu_receiver *receiver, uint64_t retry_ns, uint32_t tries) {
    uint64_t wait = retry_ns == 0 ? HU_RETRY_BEGIN : retry_ns;
    wait = wait < HU_RETRY_MIN ? HU_RETRY_MIN : wait > HU_RETRY_MAX ? HU_RETRY_MAX : wait;
    wait <<= tries < HU_RETRY_DOUBLE ? tries : HU_RETRY_DOUBLE;
    return spread(receiver, wait < HU_RETRY_MAX ? wait : HU_RETRY_MAX);
}

static void find_due(hu_receiver *receiver) {
    receiver->due_ns = NEVER;
    for (uint32_t i = 0; i < receiver->count; i++)
        if (receiver->holes[i].due_ns < receiver->due_ns)
            receiver->due_ns = receiver->holes[i].due_ns;
}

uint32_t hu_receiver_call(hu_receiver *receiver, hu_range *ranges, uint32_t capacity,
                          uint64_t retry_ns, uint64_t now_ns) {
    uint32_t written = 0;
    if (now_ns < receiver->due_ns)
        return 0;
    for (uint32_t i = 0; i < receiver->count && written < capacity; i++) {
        hole *open = &receiver->holes[i];
        if (open->due_ns > now_ns)
            continue;
        uint64_t size = open->end - open->start;
        ranges[written++] = (hu_range){open->start, size < UINT32_MAX ? size : UINT32_MAX};
        open->due_ns = now_ns + pause(receiver, retry_ns, open->tries);
        receiver->counters.calls++;
        receiver->counters.retries += open->tries > 0;
        open->tries++;
    }
    find_due(receiver);
    return written;
}

void hu_receiver_heard(hu_receiver *receiver, const hu_range *range, uint64_t retry_ns,
                       uint64_t now_ns) {
    uint64_t end = range->position + range->size;
    if (end < range->position)
        return;
    for (uint32_t i = find(receiver, range->position); i < receiver->count; i++) {
        hole *open = &receiver->holes[i];
        if (open->start >= end)
            break;
        if (open->start >= range->position && open->end <= end)
            open->due_ns = now_ns + pause(receiver, retry_ns, open->tries);
    }
    find_due(receiver);
}

uint64_t hu_receiver_deadline(const hu_receiver *receiver) {
    return receiver->due_ns;
}

uint64_t hu_receiver_readable(const hu_receiver *receiver, const uint8_t **data) {
    uint64_t at = (receiver->consumed - receiver->base) & (receiver->window - 1);
    uint64_t size = receiver->received - receiver->consumed;
    *data = receiver->memory + at;
    return size < receiver->window - at ? size : receiver->window - at;
}

void hu_receiver_bytes(const hu_receiver *receiver, hu_bytes *bytes) {
    uint64_t first = hu_receiver_readable(receiver, &bytes->data[0]);
    bytes->size[0] = first;
    bytes->data[1] = receiver->memory;
    bytes->size[1] = receiver->received - receiver->consumed - first;
}

void hu_receiver_consume(hu_receiver *receiver, uint64_t size) {
    assert(size <= receiver->received - receiver->consumed);
    receiver->consumed += size;
    if (receiver->consumed == receiver->highest) /* empty: begin anew where the cache is warm; */
        receiver->base = receiver->consumed & ~(uint64_t)7; /* frames stay aligned as sent */
}

uint64_t hu_receiver_skip(hu_receiver *receiver, uint64_t position) {
    uint64_t missing = 0;
    if (position <= receiver->consumed)
        return 0;
    uint32_t i = 0;
    for (; i < receiver->count && receiver->holes[i].end <= position; i++)
        missing += receiver->holes[i].end - receiver->holes[i].start;
    receiver->count -= i;
    memmove(receiver->holes, receiver->holes + i, receiver->count * sizeof(hole));
    if (receiver->count > 0 && receiver->holes[0].start < position) {
        missing += position - receiver->holes[0].start;
        receiver->holes[0].start = position;
    }
    if (position > receiver->highest) {
        missing += position - receiver->highest;
        receiver->highest = position;
    }
    receiver->consumed = position;
    settle(receiver);
    hu_receiver_consume(receiver, 0);
    return missing;
}

uint64_t hu_receiver_received(const hu_receiver *receiver) {
    return receiver->received;
}

uint64_t hu_receiver_highest(const hu_receiver *receiver) {
    return receiver->highest;
}

uint64_t hu_receiver_limit(const hu_receiver *receiver) {
    return receiver->consumed + receiver->window;
}

uint32_t hu_receiver_holes(const hu_receiver *receiver) {
    return receiver->count;
}

void hu_receiver_count(const hu_receiver *receiver, hu_receiver_counters *counters) {
    *counters = receiver->counters;
}
