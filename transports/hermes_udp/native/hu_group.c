/* hu_group.c -- a subscriber's end of a group's stream. */
#include "hu_group.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NEVER      UINT64_MAX
#define NS_PER_MS  1000000u
#define RANGES_MAX ((HU_STATUS_MAX - HU_HEADER) / HU_RANGE)

struct hu_group {
    uint32_t state;
    uint32_t reason;
    uint64_t cast;
    hu_receiver *receiver; /* NULL while waiting */
    uint64_t window;
    uint64_t liveness_ns;
    uint64_t heard_ns;
    uint64_t random;

    uint64_t oldest; /* what is before it is not repeated */
    uint32_t receivers;

    uint64_t call_ns; /* when to call for what is missing; NEVER: no time was drawn */

    hu_group_counters counters;
    hu_beacon beacon; /* with which it was joined last, or will be */
    hu_beacon_entry entries[HU_BEACON_STREAMS];
};

hu_group *hu_group_new(uint32_t liveness_ms, uint64_t seed, uint64_t now_ns) {
    assert(liveness_ms > 0);
    hu_group *group = calloc(1, sizeof *group);
    if (group == NULL)
        return NULL;
    group->liveness_ns = (uint64_t)liveness_ms * NS_PER_MS;
    group->heard_ns = now_ns;
    group->random = seed * 0x9E3779B97F4A7C15u + 1;
    group->call_ns = NEVER;
    return group;
}

void hu_group_free(hu_group *group) {
    if (group == NULL)
        return;
    hu_receiver_free(group->receiver);
    free(group);
}

/* ---- input ---- */

static uint32_t lose(hu_group *group, uint32_t reason) {
    group->state = HU_GROUP_LOST;
    group->reason = reason;
    return HU_LOST;
}

/* Calls for nothing from now on; what comes is of no use before hu_group_skip. */
static void cut_off(hu_group *group) {
    group->state = HU_GROUP_CUT;
    group->call_ns = NEVER;
    group->counters.cuts++;
}

/* What stands at `position` is not so far off that repeating what is before it were no repair. */
static int within_reach(const hu_group *group, uint64_t position) {
    uint64_t highest = hu_receiver_highest(group->receiver);
    return position <= highest || position - highest <= group->window / HU_CUT_SHARE;
}

static void note_oldest(hu_group *group, uint64_t oldest) {
    if (oldest > group->oldest)
        group->oldest = oldest;
    if (group->state == HU_GROUP_JOINED && hu_receiver_received(group->receiver) < group->oldest)
        cut_off(group);
}

/* The stream reaches to `position`, so far as there is room for it. */
static void expect(hu_group *group, uint64_t position, uint64_t now_ns) {
    if (group->state != HU_GROUP_JOINED)
        return;
    uint64_t limit = hu_receiver_limit(group->receiver);
    position = position < limit ? position : limit;
    if (within_reach(group, position))
        hu_receiver_expect(group->receiver, position, now_ns);
    else
        cut_off(group);
}

static void keep(hu_group *group, const hu_beacon *beacon, const hu_beacon_entry *entries) {
    group->beacon = *beacon;
    memcpy(group->entries, entries, beacon->streams * sizeof *entries);
}

static int join(hu_group *group, const hu_header *header, const hu_beacon *beacon,
                const hu_beacon_entry *entries) {
    group->receiver = hu_receiver_new(beacon->history, beacon->join, 0);
    if (group->receiver == NULL)
        return 0; /* the next beacon may find some */
    group->cast = header->session;
    group->window = beacon->history;
    keep(group, beacon, entries);
    group->state = HU_GROUP_JOINED;
    return 1;
}

static uint32_t take_beacon(hu_group *group, const hu_header *header, const uint8_t *data,
                            uint64_t size, uint64_t now_ns) {
    hu_beacon beacon;
    hu_beacon_entry entries[HU_BEACON_STREAMS];
    if (hu_beacon_decode(header, data, size, &beacon, entries) < 0) {
        group->counters.impossible++;
        return HU_MALFORMED;
    }
    if (group->state == HU_GROUP_WAITING && !join(group, header, &beacon, entries))
        return 0;
    if (hu_receiver_received(group->receiver) > header->position + group->window)
        return lose(group, HU_UNKNOWN); /* it is behind what we have of it: another stream */
    group->counters.beacons++;
    group->heard_ns = now_ns;
    group->receivers = beacon.receivers;
    note_oldest(group, header->received);
    expect(group, header->position, now_ns);
    if (group->state == HU_GROUP_CUT)
        keep(group, &beacon, entries);
    return 0;
}

static uint32_t take_data(hu_group *group, const hu_header *header, const uint8_t *data,
                          uint64_t size, uint64_t now_ns) {
    int repeat = (header->flags & HU_REPEAT) != 0;
    group->heard_ns = now_ns;
    group->counters.datagrams++;
    group->counters.repeats += (uint64_t)repeat;
    if (group->state != HU_GROUP_JOINED)
        return 0;
    if (!within_reach(group, header->position)) {
        /* While the owner has not made room for it, it is merely dropped. */
        if (header->position <= hu_receiver_limit(group->receiver))
            cut_off(group);
        return 0;
    }
    uint64_t before = hu_receiver_received(group->receiver);
    hu_receiver_take(group->receiver, header->position, data, size, repeat, now_ns);
    if (header->received <= header->position)
        note_oldest(group, header->received);
    return hu_receiver_received(group->receiver) > before ? HU_READABLE : 0;
}

uint32_t hu_group_input(hu_group *group, const hu_header *header, const uint8_t *data,
                        uint64_t size, uint64_t now_ns) {
    assert(header->stream == HU_GROUP_STREAM);
    if (group->state == HU_GROUP_LOST)
        return HU_LOST;
    if (group->state != HU_GROUP_WAITING && header->session != group->cast) {
        group->counters.foreign++;
        int usurped = now_ns > group->heard_ns && now_ns - group->heard_ns >= HU_USURPED;
        return usurped ? lose(group, HU_UNKNOWN) : 0;
    }
    if (header->type == HU_BEACON)
        return take_beacon(group, header, data, size, now_ns);
    if (header->type == HU_DATA)
        return group->state == HU_GROUP_WAITING ? 0 : take_data(group, header, data, size, now_ns);
    group->counters.impossible++;
    return HU_MALFORMED;
}

uint32_t hu_group_tick(hu_group *group, uint64_t now_ns) {
    if (group->state != HU_GROUP_LOST && now_ns > group->heard_ns &&
        now_ns - group->heard_ns >= group->liveness_ns)
        lose(group, HU_SILENT);
    return group->state == HU_GROUP_LOST ? HU_LOST : 0;
}

/* ---- calls ---- */

static double uniform(hu_group *group) {
    group->random = group->random * 6364136223846793005u + 1442695040888963407u;
    return (double)(group->random >> 11) / (double)(UINT64_C(1) << 53);
}

/* How long to wait before calling. */
static uint64_t backoff(hu_group *group, uint64_t rtt_ns) {
    if (group->receivers <= 1)
        return 0; /* nobody else can have lost it */
    uint64_t span =
        rtt_ns < HU_BACKOFF_MAX / HU_BACKOFF_RTTS ? rtt_ns * HU_BACKOFF_RTTS : HU_BACKOFF_MAX;
    span = span < HU_BACKOFF_MIN ? HU_BACKOFF_MIN : span;
    double lambda = log((double)group->receivers) + 1;
    return (uint64_t)((double)span / lambda * log1p(uniform(group) * expm1(lambda)));
}

static uint64_t write_call(const hu_group *group, uint64_t session, const hu_range *ranges,
                           uint32_t count, uint8_t *out) {
    hu_header header = {.session = session,
                        .type = HU_STATUS,
                        .stream = HU_GROUP_STREAM,
                        .received = hu_receiver_received(group->receiver)};
    hu_header_encode(out, &header);
    for (uint32_t i = 0; i < count; i++)
        hu_range_encode(out + HU_HEADER + (size_t)i * HU_RANGE, &ranges[i]);
    uint64_t size = HU_HEADER + (uint64_t)count * HU_RANGE;
    hu_seal(out, size);
    return size;
}

uint64_t hu_group_emit(hu_group *group, uint64_t session, uint64_t rtt_ns, uint8_t *out,
                       uint64_t capacity, uint64_t now_ns) {
    hu_range ranges[RANGES_MAX];
    assert(capacity >= HU_HEADER + HU_RANGE);
    if (group->state != HU_GROUP_JOINED)
        return 0;
    int due = hu_receiver_deadline(group->receiver) <= now_ns;
    if (!due) {
        group->counters.nacks_spared += group->call_ns != NEVER;
        group->call_ns = NEVER;
        return 0;
    }
    if (group->call_ns == NEVER)
        group->call_ns = now_ns + backoff(group, rtt_ns);
    if (now_ns < group->call_ns)
        return 0;
    uint64_t room = (capacity - HU_HEADER) / HU_RANGE;
    uint32_t most = room < RANGES_MAX ? (uint32_t)room : (uint32_t)RANGES_MAX;
    uint32_t count = hu_receiver_call(group->receiver, ranges, most, rtt_ns, now_ns);
    group->call_ns = NEVER;
    if (count == 0)
        return 0;
    group->counters.nacks_sent++;
    return write_call(group, session, ranges, count, out);
}

uint64_t hu_group_deadline(const hu_group *group) {
    if (group->state == HU_GROUP_LOST)
        return NEVER;
    uint64_t due = group->heard_ns + group->liveness_ns, call = NEVER;
    if (group->state == HU_GROUP_JOINED)
        call = group->call_ns != NEVER ? group->call_ns : hu_receiver_deadline(group->receiver);
    return call < due ? call : due;
}

/* ---- what its owner does ---- */

uint32_t hu_group_state(const hu_group *group) {
    return group->state;
}

uint32_t hu_group_reason(const hu_group *group) {
    return group->reason;
}

const hu_beacon *hu_group_beacon(const hu_group *group) {
    return group->receiver == NULL ? NULL : &group->beacon;
}

const hu_beacon_entry *hu_group_entries(const hu_group *group) {
    return group->entries;
}

void hu_group_bytes(const hu_group *group, hu_bytes *bytes) {
    *bytes = (hu_bytes){0};
    if (group->receiver != NULL)
        hu_receiver_bytes(group->receiver, bytes);
}

void hu_group_consume(hu_group *group, uint64_t size) {
    assert(group->receiver != NULL || size == 0);
    if (size > 0)
        hu_receiver_consume(group->receiver, size);
}

int hu_group_can_skip(const hu_group *group) {
    return group->state == HU_GROUP_CUT &&
           group->beacon.join > hu_receiver_received(group->receiver);
}

int hu_group_skip(hu_group *group) {
    if (!hu_group_can_skip(group))
        return 0;
    group->counters.skipped_bytes += hu_receiver_skip(group->receiver, group->beacon.join);
    group->state = HU_GROUP_JOINED;
    return 1;
}

uint64_t hu_group_window(const hu_group *group) {
    return group->window;
}

uint64_t hu_group_received(const hu_group *group) {
    return group->receiver == NULL ? 0 : hu_receiver_received(group->receiver);
}

void hu_group_count(const hu_group *group, hu_group_counters *counters,
                    hu_receiver_counters *receiver) {
    *counters = group->counters;
    *receiver = (hu_receiver_counters){0};
    if (group->receiver != NULL)
        hu_receiver_count(group->receiver, receiver);
}
