/* Encodes, checks, indexes and stamps frames that lie flush against the ends of their allocations,
 * at every alignment: what reads or writes a byte too many is caught by the sanitizer. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hm_frame.h"

static uint64_t seed = 1;

static uint32_t below(uint32_t bound) {
    seed = seed * 6364136223846793005U + 1442695040888963407U;
    return (uint32_t)(seed >> 33) % bound;
}

/* `size` bytes that end where the allocation ends; `*block` is to be freed. */
static uint8_t *flush(uint64_t size, uint32_t slip, uint8_t **block) {
    uint8_t *start = malloc(size + slip > 0 ? size + slip : 1);
    assert(start != NULL);
    *block = start;
    for (uint64_t i = 0; i < size + slip; i++)
        start[i] = (uint8_t)below(256);
    return start + slip;
}

static void one(uint32_t topic_len, uint32_t properties_len, uint32_t payload_len, uint32_t slip) {
    uint8_t *blocks[4];
    uint8_t *topic = flush(topic_len, 0, &blocks[0]);
    uint8_t *properties = flush(properties_len, 0, &blocks[1]);
    uint8_t *payload = flush(payload_len, slip, &blocks[2]);
    uint64_t size = hm_frame_size(topic_len, properties_len, payload_len);
    uint8_t *frame = flush(size, slip, &blocks[3]);

    assert(hm_frame_encode(frame, size - 1, HM_MESSAGE, topic, topic_len, properties,
                           properties_len, payload, payload_len, 5, 6) == -HM_EFULL);
    assert(hm_frame_encode(frame, size, HM_MESSAGE, topic, topic_len, properties, properties_len,
                           payload, payload_len, 5, 6) == (int64_t)size);
    hm_slice slice, indexed;
    uint64_t needed = 0, consumed;
    int32_t error;
    assert(hm_frame_check(frame, size, HM_MESSAGE_MAX, &slice, &needed) == (int64_t)size);
    assert(slice.sequence == 5 && slice.timestamp_ns == 6 && slice.payload_len == payload_len);
    assert(payload_len == 0 || memcmp(frame + slice.payload_offset, payload, payload_len) == 0);
    assert(hm_frame_index(frame, size, HM_MESSAGE_MAX, &indexed, 1, &consumed, &error) == 1);
    assert(consumed == size && error == 0 && memcmp(&slice, &indexed, sizeof slice) == 0);
    assert(hm_frame_stamp(frame, size, 9) == 1);
    assert(hm_frame_check(frame, size, HM_MESSAGE_MAX, &slice, &needed) == (int64_t)size);
    assert(slice.sequence == 9);
    for (int i = 0; i < 4; i++)
        free(blocks[i]);
}

/* Every prefix says how much it lacks, and never more than the frame has. */
static void prefixes(uint32_t topic_len, uint32_t properties_len, uint32_t payload_len) {
    uint8_t *blocks[2];
    uint8_t *data = flush(topic_len + properties_len + payload_len, 0, &blocks[0]);
    uint64_t size = hm_frame_size(topic_len, properties_len, payload_len);
    uint8_t *frame = flush(size, 0, &blocks[1]);
    hm_slice slice;
    assert(hm_frame_encode(frame, size, HM_MESSAGE, data, topic_len, data, properties_len, data,
                           payload_len, 1, 2) == (int64_t)size);
    for (uint64_t part = 0; part < size; part++) {
        uint8_t *copy = malloc(part > 0 ? part : 1);
        uint64_t needed = 0;
        assert(copy != NULL);
        memcpy(copy, frame, part);
        assert(hm_frame_check(copy, part, HM_MESSAGE_MAX, &slice, &needed) == -HM_ETRUNC);
        assert(needed > part && needed <= size);
        free(copy);
    }
    free(blocks[0]);
    free(blocks[1]);
}

static void batches(void) {
    uint8_t *blocks[5];
    enum { COUNT = 50 };
    uint32_t lengths[COUNT], joined_size = 0;
    uint64_t size = 0;
    for (int i = 0; i < COUNT; i++) {
        lengths[i] = below(200);
        joined_size += lengths[i];
        size += hm_frame_size(7, 0, lengths[i]);
    }
    uint8_t *joined = flush(joined_size, 0, &blocks[0]);
    uint8_t *topic = flush(7, 0, &blocks[1]);
    uint8_t *out = flush(HM_BATCH_HEADER + size, 0, &blocks[2]);
    uint8_t *frames = out + HM_BATCH_HEADER;
    assert(hm_frame_encode_many(frames, size - 1, topic, 7, joined, joined_size, lengths, COUNT, 1,
                                2) == -HM_EFULL);
    assert(hm_frame_encode_many(frames, size, topic, 7, joined, joined_size, lengths, COUNT, 1,
                                2) == (int64_t)size);
    hm_batch_encode(out, 3, 4, 0, COUNT, size, 5);
    hm_slice slices[COUNT];
    uint64_t needed, consumed;
    int32_t error;
    assert(hm_frame_check(out, HM_BATCH_HEADER, HM_MESSAGE_MAX, slices, &needed) ==
           (int64_t)(HM_BATCH_HEADER + size));
    hm_batch batch;
    hm_batch_parse(out, &batch);
    assert(batch.id == 3 && batch.stream == 4 && batch.through == COUNT &&
           batch.frames_size == size);
    assert(hm_frame_index(frames, size, HM_MESSAGE_MAX, slices, COUNT, &consumed, &error) == COUNT);
    assert(consumed == size && error == 0);

    uint64_t rows_size = COUNT * hm_frame_size(7, 0, 13);
    uint8_t *rows = flush(COUNT * 20 - 7, 0, &blocks[3]);
    uint8_t *rows_out = flush(rows_size, 3, &blocks[4]);
    assert(hm_frame_encode_rows(rows_out, rows_size - 1, topic, 7, rows, 13, 20, COUNT, 1, 2) ==
           -HM_EFULL);
    assert(hm_frame_encode_rows(rows_out, rows_size, topic, 7, rows, 13, 20, COUNT, 1, 2) ==
           (int64_t)rows_size);
    /* A size that does not fit 64 bits is no small one. */
    assert(hm_frame_encode_rows(rows_out, rows_size, topic, 7, rows, UINT32_MAX - 8, 0, UINT32_MAX,
                                1, 2) == -HM_EFULL);
    assert(hm_frame_index(rows_out, rows_size, HM_MESSAGE_MAX, slices, COUNT, &consumed, &error) ==
           COUNT);
    assert(memcmp(rows_out + slices[COUNT - 1].payload_offset, rows + (COUNT - 1) * 20, 13) == 0);
    for (int i = 0; i < 5; i++)
        free(blocks[i]);
}

/* All variants give the checksum that the portable one gives, at any size and address. */
static void agree(int variant) {
    uint8_t *block, *data = flush(4096 + 8, 0, &block), copy[4096 + 8];
    for (uint32_t size = 0; size <= 4096; size += size < 700 ? 1 : 97) {
        const uint8_t *at = data + below(8);
        assert(hm_crc32c_select(HM_CRC32C_TABLE) == 0);
        uint32_t crc = hm_crc32c(0, at, size);
        assert(hm_crc32c_select(variant) == 0);
        assert(hm_crc32c(0, at, size) == crc);
        assert(~hm_crc32c_active->copy(UINT32_MAX, copy, at, size) == crc);
        assert(memcmp(copy, at, size) == 0);
        for (uint32_t i = size; i % 8 != 0; i++)
            assert(copy[i] == 0);
    }
    free(block);
}

int main(void) {
    for (int variant = HM_CRC32C_TABLE; variant <= HM_CRC32C_ARMV8; variant++) {
        if (hm_crc32c_select(variant) != 0)
            continue;
        for (int i = 0; i < 4000; i++)
            one(below(256), below(4) == 0 ? below(300) : 0, below(600), below(8));
        one(255, HM_PROPERTIES_MAX, 70000, 1);
        prefixes(0, 0, 0);
        prefixes(9, 0, 100);
        prefixes(255, 33, 41);
        batches();
        agree(variant);
        printf("%s ok\n", hm_crc32c_variant());
    }
    return 0;
}
