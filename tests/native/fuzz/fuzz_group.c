/* fuzz_group.c -- any bytes as the datagrams of a multicast group, and what they carry as its
 * stream.
 *
 * Input: u16 length and so many bytes, again and again: the datagrams, in turn with a little time,
 * a walk and a call for what is missing.  Checksums, the magic, the cast and the stream are set
 * right first: a mutation nearly always breaks them, and then nothing behind them is reached.
 *
 * Beside what the sanitizers see, these must hold:
 *   - the walk writes no more than it may and consumes no more than there is;
 *   - what it writes is a sequence of frames, each subscription's coverage without a seam;
 *   - a call is a sound datagram, and there are boundedly many at one time.
 */
#include <stdlib.h>
#include <string.h>

#include "hu_group.h"
#include "hu_select.h"

#include "fuzz_driver.h"

#define CAST    7
#define INDEX   3
#define ROWS    2
#define ROOM    700
#define STEP_NS 300000
#define CALLS   16

typedef struct {
    hu_select *select;
    uint64_t told[ROWS];
    uint8_t held[8 * ROOM + HU_DATAGRAM_MAX]; /* output that does not end with a frame */
    uint64_t size;
} reader;

static void must(int holds) {
    if (!holds)
        abort();
}

static void open_reader(reader *r) {
    static const uint8_t every[] = ">", some[] = "a.";
    r->size = 0;
    r->select = hu_select_new();
    must(r->select != NULL && hu_select_stream(r->select, INDEX, 0) == 0);
    must(hu_select_add(r->select, 0, 0, every, 1) == 0);
    must(hu_select_add(r->select, 1, 1, some, 2) == 1);
    for (uint32_t i = 0; i < ROWS; i++) {
        r->told[i] = 0;
        must(hu_select_route(r->select, i, INDEX, INDEX, 0) == 0);
    }
}

/* Batches as far as they are whole. */
static void check_output(reader *r) {
    hm_batch batch;
    uint64_t at = 0;
    while (r->size - at >= HM_BATCH_HEADER) {
        hu_core->batch_parse(r->held + at, &batch);
        uint64_t size = HM_BATCH_HEADER + batch.frames_size;
        must(batch.id < ROWS && batch.stream == INDEX && batch.after == r->told[batch.id]);
        must(batch.through >= batch.after);
        if (r->size - at < size) {
            if (at == 0 && size > sizeof r->held) { /* one that we have no room for */
                r->size = 0;
                hu_select_free(r->select);
                open_reader(r);
                return;
            }
            break;
        }
        r->told[batch.id] = batch.through;
        at += size;
    }
    memmove(r->held, r->held + at, r->size - at);
    r->size -= at;
}

static void walk(hu_group *group, reader *r, uint64_t room) {
    hu_select_event event;
    for (uint32_t i = 0; i < 64; i++) {
        hu_bytes bytes;
        uint64_t consumed;
        hu_group_bytes(group, &bytes);
        if (sizeof r->held - r->size < room)
            return;
        uint8_t *out = malloc(room);
        must(out != NULL);
        uint64_t written = hu_select_walk(r->select, &bytes, out, room, &consumed, &event);
        must(written <= room && consumed <= bytes.size[0] + bytes.size[1]);
        memcpy(r->held + r->size, out, written);
        free(out);
        r->size += written;
        hu_group_consume(group, consumed);
        check_output(r);
        if (event.what == HU_SELECT_HOLE) {
            must(event.first == r->told[event.id] + 1 && event.last >= event.first);
            r->told[event.id] = event.last;
        } else if (event.what == HU_SELECT_MALFORMED) {
            hu_select_free(r->select);
            open_reader(r);
            return;
        } else if (event.what == HU_SELECT_CONTROL_AT) {
            must(event.size <= HU_SELECT_CONTROL);
            hu_select_gap(r->select, INDEX, event.size);
        } else if (event.what == HU_SELECT_MORE) {
            if (!hu_group_skip(group))
                return;
            hu_select_resync(r->select);
        }
    }
}

static void deliver(hu_group *group, uint8_t *data, uint64_t size, uint64_t now_ns) {
    hu_header header;
    if (size < HU_HEADER)
        return;
    memcpy(data, "HU\1", 3);
    data[3] = data[3] % 2 == 0 ? HU_BEACON : HU_DATA;
    memset(data + 8, 0, 8);
    data[8] = CAST;
    data[46] = HU_GROUP_STREAM;
    data[47] = 0;
    if (data[3] == HU_BEACON &&
        size >= HU_HEADER + HU_BEACON_FIXED) /* large windows only cost time */
        memcpy(data + HU_HEADER + 16, "\0\0\1\0", 4);
    hu_seal(data, size);
    if (hu_header_decode(data, size, &header) == 0)
        hu_group_input(group, &header, data + HU_HEADER, size - HU_HEADER, now_ns);
}

static void call(hu_group *group, uint64_t now_ns) {
    uint8_t out[HU_STATUS_MAX];
    uint64_t size, calls = 0;
    while ((size = hu_group_emit(group, 1, 100000, out, sizeof out, now_ns)) > 0) {
        hu_header header;
        must(hu_header_decode(out, size, &header) == 0 && header.type == HU_STATUS);
        must(++calls <= CALLS);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static reader r;
    uint64_t now_ns = 1, step = 0;
    hu_bind((uintptr_t)hm_api_get());
    hu_group *group = hu_group_new(1000, 1, now_ns);
    must(group != NULL);
    open_reader(&r);
    for (size_t at = 0; at + 2 <= size && hu_group_reason(group) == 0; step++) {
        size_t length = (size_t)data[at] | (size_t)(data[at + 1] & 3) << 8;
        at += 2;
        length = length < size - at ? length : size - at;
        uint8_t *exact = malloc(length > 0 ? length : 1);
        must(exact != NULL);
        memcpy(exact, data + at, length);
        deliver(group, exact, length, now_ns);
        free(exact);
        at += length;
        walk(group, &r, step % 3 == 0 ? 40 : ROOM);
        call(group, now_ns);
        now_ns += STEP_NS;
        hu_group_tick(group, now_ns);
    }
    hu_select_free(r.select);
    hu_group_free(group);
    return 0;
}
