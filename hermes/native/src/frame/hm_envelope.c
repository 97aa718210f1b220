/* hm_envelope.c -- finds the next control frame or batch in a connection's bytes. */
#include "hm_envelope.h"

#include <assert.h>
#include <string.h>

#define OPENING 5 /* bytes: magic and version */

static int is_control(uint8_t type) {
    return type >= HM_HELLO && type <= HM_CLOSE;
}

/* The limits, before anybody waits for bytes because of a length. */
static int length_check(const hm_frame_header *header, uint32_t control_max, uint32_t batch_max) {
    if (is_control(header->type)) {
        if (header->flags != 0) {
            return -HM_EFLAGS; /* no control frame has a topic or properties */
        }
        return header->payload_len <= control_max ? 0 : -HM_ELENGTH;
    }
    if (header->type != HM_BATCH) {
        return -HM_ETYPE; /* messages travel in batches */
    }
    if (header->payload_len < HM_BATCH_PREFIX) {
        return -HM_ELENGTH;
    }
    return header->payload_len - HM_BATCH_PREFIX <= batch_max ? 0 : -HM_ELENGTH;
}

static void wait_for(hm_envelope *envelope, uint64_t needed) {
    envelope->kind = 0;
    envelope->needed = needed;
}

void hm_envelope_next(const uint8_t *data, uint64_t start, uint64_t end, uint32_t control_max,
                      uint32_t batch_max, hm_envelope *envelope) {
    assert(data != NULL && envelope != NULL);
    assert(start <= end);
    const uint8_t *frame = data + start;
    uint64_t size = end - start;
    hm_frame_header header;
    hm_slice slice;
    hm_batch batch;
    uint64_t needed = 0;
    memset(envelope, 0, sizeof *envelope);

    /* Magic and version first, of as many bytes as are there: what they say comes before all else.
     */
    int64_t checked =
        hm_frame_check(frame, size < OPENING ? size : OPENING, UINT32_MAX, &slice, &needed);
    if (checked != -HM_ETRUNC) {
        envelope->kind = (int32_t)checked;
        return;
    }
    if (size < HM_FRAME_HEADER) {
        wait_for(envelope, HM_FRAME_HEADER);
        return;
    }
    memcpy(&header, frame, sizeof header);
    envelope->kind = length_check(&header, control_max, batch_max);
    if (envelope->kind != 0) {
        return;
    }
    uint64_t whole = hm_frame_size(0, 0, header.payload_len);
    uint64_t first = header.type == HM_BATCH ? HM_BATCH_HEADER : whole;
    if (size < first) {
        wait_for(envelope, first);
        return;
    }
    /* Each limit was judged above; here a length is bounded by its field only. */
    checked = hm_frame_check(frame, size, UINT32_MAX, &slice, &needed);
    if (checked < 0) {
        envelope->kind = (int32_t)checked;
        return;
    }
    if (size < whole) {
        wait_for(envelope, whole);
        return;
    }
    envelope->kind = header.type;
    envelope->size = whole;
    envelope->payload_len = header.payload_len;
    if (header.type == HM_BATCH) {
        hm_batch_parse(frame, &batch);
        envelope->id = batch.id;
        envelope->stream = batch.stream;
        envelope->after = batch.after;
        envelope->through = batch.through;
    }
}
