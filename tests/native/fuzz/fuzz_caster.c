/* fuzz_caster.c -- any bytes as what receivers of a multicast group call for.
 *
 * Input: an operation, u8, with what it needs, again and again:
 *
 *     0  u16        a batch of so many bytes is fed
 *     1  u8, bytes  a status datagram: caller, length in ranges, and ranges as they come
 *     2  u16        so many microseconds pass
 *     3  u8         the socket takes so many datagrams of the next train, then no more
 *     4             what can be sent is sent
 *
 * Positions of ranges are taken modulo what has been sent, mostly: else nearly all would miss.
 *
 * Beside what the sanitizers see, these must hold:
 *   - each datagram is sound, and has the bytes that were fed at its position;
 *   - new bytes leave once, in order; repeats go to who called, or to all;
 *   - beacons are beacons;
 *   - no more leaves than `rate` and a burst;
 *   - calls alone are answered with a bounded number of datagrams.
 */
#include <stdlib.h>
#include <string.h>

#include "hu_caster.h"

#include "fuzz_driver.h"

#define HISTORY  65536u
#define DATAGRAM 512u
#define RATE     10000000u
#define FED_MAX  4194304u
#define BATCH    56u
#define BEGIN_NS 1000000000u

typedef struct {
    hu_caster *caster;
    uint8_t *fed; /* all of it */
    uint64_t end;
    uint64_t sent;
    uint64_t through;
    uint64_t now_ns;
    uint64_t carried;
    uint64_t left; /* bytes of `fed` that were not taken yet */
    int unicast;
} world;

static hu_train *train;

static void must(int holds) {
    if (!holds)
        abort();
}

static void check_datagram(world *w, uint32_t index, uint64_t target) {
    static uint8_t out[HU_DATAGRAM_MAX];
    static hu_beacon beacon;
    static hu_beacon_entry entries[HU_BEACON_STREAMS];
    hu_header header;
    uint64_t size = hu_train_copy(train, index, out), body = size - HU_HEADER;
    must(size <= DATAGRAM && hu_header_decode(out, size, &header) == 0);
    must(header.stream == HU_GROUP_STREAM && header.session == 9);
    w->carried += size;
    must(w->carried <= (w->now_ns - BEGIN_NS) * RATE / 1000000000u + 3 * HU_CAST_BURST);
    if (header.type == HU_BEACON) {
        must(hu_beacon_decode(&header, out + HU_HEADER, body, &beacon, entries) == 0);
        must(target == HU_CAST_ALL && header.position == w->sent);
        return;
    }
    must(header.type == HU_DATA && body > 0 && header.position >= header.received);
    must(memcmp(out + HU_HEADER, w->fed + header.position, body) == 0);
    if ((header.flags & HU_REPEAT) == 0) {
        must(target == HU_CAST_ALL && header.position == w->sent);
        w->sent += body;
    } else {
        must(header.position + body <= w->sent);
        must(w->unicast ? target >= 1 && target <= 4 : target == HU_CAST_ALL);
    }
}

/* All that can leave, or `most` datagrams. */
static void flush(world *w, uint32_t most) {
    uint64_t target;
    uint32_t count;
    while ((count = hu_caster_emit(w->caster, train, 3, w->now_ns, &target)) > 0) {
        uint32_t taken = count < most ? count : most;
        for (uint32_t i = 0; i < taken; i++)
            check_datagram(w, i, target);
        most -= taken;
        if (taken < count) {
            hu_caster_unsend(w->caster, train, taken);
            break;
        }
    }
    must(hu_caster_sent(w->caster) == w->sent && w->sent <= w->end);
}

static void feed(world *w) {
    uint32_t control;
    int64_t taken = hu_caster_feed(w->caster, w->fed + w->end, w->left, &control);
    must(taken >= 0 && (uint64_t)taken <= w->left && control == 0);
    w->end += (uint64_t)taken;
    w->left -= (uint64_t)taken;
    must(hu_caster_end(w->caster) == w->end);
}

static void make_batch(world *w, uint32_t size) {
    size = BATCH + size % 16384 / 8 * 8;
    if (w->left > 0 || w->end + size > FED_MAX)
        return;
    hu_core->batch_encode(w->fed + w->end, 1, 0, w->through, w->through + 1, size - BATCH, 1);
    for (uint32_t i = BATCH; i < size; i++)
        w->fed[w->end + i] = (uint8_t)(w->through + i);
    w->through++;
    w->left = size;
}

static void call(world *w, const uint8_t *data, uint64_t size, uint8_t caller) {
    uint8_t ranges[64 * HU_RANGE];
    size = size / HU_RANGE * HU_RANGE;
    memcpy(ranges, data, size);
    for (uint64_t at = 0; at < size; at += HU_RANGE) {
        hu_range range;
        hu_range_decode(ranges + at, &range);
        if ((range.position >> 56) % 4 != 0 && w->sent > 0) {
            range.position %= w->sent;
            range.size = 1 + range.size % 4096;
            hu_range_encode(ranges + at, &range);
        }
    }
    hu_caster_status(w->caster, 1 + caller % 4, ranges, size, caller * 10000u, w->now_ns);
}

static uint64_t step(world *w, const uint8_t *data, uint64_t size) {
    uint32_t wide = size >= 3 ? (uint32_t)data[1] | (uint32_t)data[2] << 8 : 0;
    uint64_t length = size >= 3 ? data[2] % 64 * (uint64_t)HU_RANGE : 0;
    switch (data[0] % 5) {
    case 0:
        make_batch(w, wide);
        return 3;
    case 1:
        length = size >= 3 && length > size - 3 ? size - 3 : length;
        if (length > 0)
            call(w, data + 3, length, data[1]);
        return 3 + length;
    case 2:
        w->now_ns += wide * 1000u;
        return 3;
    case 3:
        flush(w, size >= 2 ? data[1] : 0);
        return 2;
    default:
        flush(w, UINT32_MAX);
        return 1;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static uint8_t *fed;
    if (fed == NULL) {
        hu_bind((uintptr_t)hm_api_get());
        train = hu_train_new();
        fed = malloc(FED_MAX);
    }
    must(fed != NULL && train != NULL);
    hu_caster_options options = {.id = 9,
                                 .rate = RATE,
                                 .rate_min = size % 3 == 0 ? RATE / 8 : 0,
                                 .history = HISTORY,
                                 .datagram = DATAGRAM,
                                 .unicast = size % 2,
                                 .pattern_size = 1,
                                 .pattern = {'>'}};
    world w = {.fed = fed, .now_ns = BEGIN_NS, .unicast = (int)(size % 2)};
    w.caster = hu_caster_new(&options, w.now_ns);
    must(w.caster != NULL);
    hu_caster_name(w.caster, 0, (const uint8_t *)"default", 7);
    for (uint64_t at = 0; at < size;) {
        at += step(&w, data + at, size - at);
        feed(&w);
    }
    for (int i = 0; i < 100; i++) { /* nobody calls any more: it comes to rest */
        w.now_ns += 10000000;
        flush(&w, UINT32_MAX);
        feed(&w);
    }
    must(w.sent == w.end && w.left == 0 && hu_caster_deadline(w.caster) > w.now_ns);
    hu_caster_free(w.caster);
    return 0;
}
