/* hm_ack.c -- encodes and reads the acknowledgement frame. */
#include "hm_ack.h"

#include <assert.h>
#include <string.h>

#include "hm_frame.h"

/* MessagePack: a map of two, short texts, and unsigned numbers, big-endian. */
#define MAP_OF_2   0x82
#define FIXTEXT    0xa0u
#define FIXINT_MAX 0x7f
#define UINT8      0xcc /* followed by UINT16, UINT32, UINT64: 1 << (tag - UINT8) bytes each */
#define UINT64     0xcf

static uint8_t *put_text(uint8_t *at, const char *text) {
    size_t size = strlen(text);
    *at++ = (uint8_t)(FIXTEXT | size);
    memcpy(at, text, size);
    return at + size;
}

static uint8_t *put_uint(uint8_t *at, uint64_t value) {
    *at++ = UINT64;
    for (int shift = 56; shift >= 0; shift -= 8)
        *at++ = (uint8_t)(value >> shift);
    return at;
}

uint32_t hm_ack_encode(uint8_t *out, uint32_t publisher, uint64_t sequence) {
    assert(sequence <= HM_SEQUENCE_MAX);
    uint8_t *end = out;
    *end++ = MAP_OF_2;
    end = put_uint(put_text(end, "publisher"), publisher);
    end = put_uint(put_text(end, "sequence"), sequence);
    assert(end - out == HM_ACK_MAX);
    return HM_ACK_MAX;
}

/* What is left to read of a payload; `at` NULL: it was something else than expected. */
typedef struct {
    const uint8_t *at;
    const uint8_t *end;
} rest;

static void skip_text(rest *left, const char *text) {
    size_t size = strlen(text);
    if (left->at == NULL || (size_t)(left->end - left->at) < 1 + size ||
        *left->at != (FIXTEXT | size) || memcmp(left->at + 1, text, size) != 0)
        left->at = NULL;
    else
        left->at += 1 + size;
}

static uint64_t take_uint(rest *left) {
    if (left->at == NULL || left->at == left->end)
        goto other;
    uint8_t tag = *left->at++;
    if (tag <= FIXINT_MAX)
        return tag;
    if (tag < UINT8 || tag > UINT64 || left->end - left->at < 1 << (tag - UINT8))
        goto other;
    uint64_t value = 0;
    for (int bytes = 1 << (tag - UINT8); bytes > 0; bytes--)
        value = value << 8 | *left->at++;
    return value;
other:
    left->at = NULL;
    return 0;
}

int hm_ack_parse(const uint8_t *payload, uint32_t size, uint32_t *publisher, uint64_t *sequence) {
    assert(payload != NULL);
    if (size == 0 || *payload != MAP_OF_2)
        return 0;
    rest left = {payload + 1, payload + size};
    skip_text(&left, "publisher");
    uint64_t id = take_uint(&left);
    skip_text(&left, "sequence");
    *sequence = take_uint(&left);
    *publisher = (uint32_t)id;
    return left.at == left.end && id <= UINT32_MAX && *sequence <= HM_SEQUENCE_MAX;
}
