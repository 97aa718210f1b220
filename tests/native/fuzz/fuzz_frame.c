/* fuzz_frame.c -- any bytes for the frame decoder, the batch parser, topics and patterns.
 *
 * Input: one byte of switches, then the bytes to decode.  A mutation nearly always breaks the
 * checksum, and then nothing behind it is reached: with REPAIR the target sets the one that fits
 * before it decodes.
 *
 * Beside what the sanitizers see, these must hold:
 *   - what is sound lies within its bytes, and encoding what was decoded gives the same bytes
 * again;
 *   - what is said to lack bytes lacks at least one;
 *   - indexing finds the frames that checking one after another finds, and stops for the same
 * reason;
 *   - a pattern wants a topic that is spelled the same, and overlaps itself, in either order.
 */
#include <stdlib.h>
#include <string.h>

#include "hm_frame.h"

#include "fuzz_driver.h"

enum { REPAIR = 1, SMALL = 2, TEXT = 4 };

#define SLICES_MAX 64

static void must(int holds) {
    if (!holds)
        abort();
}

static uint64_t padded(uint64_t size) {
    return (size + 7) & ~(uint64_t)7;
}

/* Gives the frame at `data` the checksum that fits, if all that it covers is there. */
static void repair(uint8_t *data, uint64_t size) {
    uint32_t length, block = 0, crc;
    uint64_t at = HM_FRAME_HEADER;

    if (size < at)
        return;
    memcpy(&length, data + 24, sizeof length);
    crc = hm_crc32c(0, data, 8);
    crc = hm_crc32c(crc, data + 16, 12);
    if (data[5] == HM_BATCH)
        length = HM_BATCH_PREFIX;
    if (at + padded(data[6]) + 4 > size)
        return;
    crc = hm_crc32c(crc, data + at, data[6]);
    at += padded(data[6]);
    if (data[7] & 1) {
        memcpy(&block, data + at, sizeof block);
        if (at + 4 + block > size)
            return;
        crc = hm_crc32c(crc, data + at, 4 + (size_t)block);
        at += padded(4 + (uint64_t)block);
    }
    if (at + length > size)
        return;
    crc = hm_crc32c(crc, data + at, length);
    memcpy(data + 28, &crc, sizeof crc);
}

/* Encoding what was decoded gives the same bytes: a frame has one form. */
static void encode_again(const uint8_t *data, uint64_t size, const hm_slice *slice) {
    uint8_t *again = malloc(size);
    const uint8_t *block = data + HM_FRAME_HEADER + padded(slice->topic_len);
    uint32_t block_len = 0;

    must(again != NULL);
    if (slice->properties)
        memcpy(&block_len, block, sizeof block_len);
    must(hm_frame_encode(again, size, slice->type, data + HM_FRAME_HEADER, slice->topic_len,
                         block + 4, block_len, data + slice->payload_offset, slice->payload_len,
                         slice->sequence, slice->timestamp_ns) == (int64_t)size);
    must(memcmp(again, data, size) == 0);
    free(again);
}

/* Decodes one frame and says what came of it, as hm_frame_check does. */
static int64_t decode_one(const uint8_t *data, uint64_t size, uint32_t message_max,
                          hm_slice *slice) {
    uint64_t needed = 0;
    int64_t found = hm_frame_check(data, size, message_max, slice, &needed);

    must(found != 0);
    if (found == -HM_ETRUNC)
        must(needed > size);
    if (found < 0)
        return found;
    must(found % HM_FRAME_ALIGN == 0 && slice->offset == 0);
    if (slice->type == HM_BATCH) {
        hm_batch batch;
        must(size >= HM_BATCH_HEADER);
        hm_batch_parse(data, &batch);
        must(batch.after <= batch.through);
        must(batch.frames_size + HM_BATCH_HEADER == (uint64_t)found);
        return found;
    }
    must((uint64_t)found <= size && slice->payload_len <= message_max);
    must(slice->payload_offset + padded(slice->payload_len) == (uint64_t)found);
    must(slice->type != HM_MESSAGE || hm_frame_skip(data) == (uint64_t)found);
    encode_again(data, (uint64_t)found, slice);
    return found;
}

static void decode_all(uint8_t *data, uint64_t size, uint32_t message_max) {
    hm_slice slices[SLICES_MAX], slice;
    uint64_t consumed, at = 0;
    int32_t error;
    int64_t count = hm_frame_index(data, size, message_max, slices, SLICES_MAX, &consumed, &error);

    must(consumed <= size && (error != 0 || count == SLICES_MAX || consumed == size));
    for (int64_t i = 0; i < count; i++) {
        must(slices[i].offset == at);
        at += (uint64_t)decode_one(data + at, size - at, message_max, &slice);
        must(slices[i].payload_offset == slices[i].offset + slice.payload_offset);
        must(slices[i].sequence == slice.sequence && slices[i].type == slice.type);
    }
    must(at == consumed);
    if (error != 0) {
        int64_t found = decode_one(data + at, size - at, message_max, &slice);
        must(found == error || (found > 0 && slice.type == HM_BATCH && error == -HM_ETYPE));
    }
    if (consumed > 0) {
        must(hm_frame_stamp(data, consumed, 1) == count);
        must(hm_frame_index(data, consumed, message_max, slices, SLICES_MAX, &at, &error) == count);
    }
    hm_frame_stamp(data, size, 1); /* whatever stands there: it keeps to the buffer */
}

/* The first half as a pattern, the rest as a topic. */
static void text(const uint8_t *data, uint32_t size) {
    const uint8_t *name = data + size / 2;
    uint32_t len = size - size / 2;
    int legal = hm_pattern_check(data, size / 2) == 0;

    if (hm_topic_check(name, len) == 0) {
        must(hm_pattern_check(name, len) == 0);
        must(hm_pattern_match(name, len, name, len) == 1);
        must(!legal || hm_pattern_match(data, size / 2, name, len) ==
                           hm_pattern_overlap(data, size / 2, name, len));
    }
    if (legal) {
        must(hm_pattern_overlap(data, size / 2, data, size / 2) == 1);
        if (hm_pattern_check(name, len) == 0)
            must(hm_pattern_overlap(data, size / 2, name, len) ==
                 hm_pattern_overlap(name, len, data, size / 2));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0)
        return 0;
    uint8_t switches = data[0], *copy = malloc(size > 1 ? size - 1 : 1);
    must(copy != NULL);
    memcpy(copy, data + 1, size - 1);
    if (switches & TEXT)
        text(copy, (uint32_t)(size - 1));
    if (switches & REPAIR)
        repair(copy, size - 1);
    decode_all(copy, size - 1, switches & SMALL ? 16 : HM_MESSAGE_MAX);
    free(copy);
    return 0;
}
