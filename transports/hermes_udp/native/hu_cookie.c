/* hu_cookie.c -- SipHash-2-4, for cookies and session ids. */
#include "hu_cookie.h"

#include <assert.h>
#include <string.h>

static uint64_t load(const uint8_t *data, uint64_t size) {
    uint64_t value = 0;
    for (uint64_t i = 0; i < size; i++)
        value |= (uint64_t)data[i] << 8 * i;
    return value;
}

static uint64_t turn(uint64_t value, int bits) {
    return value << bits | value >> (64 - bits);
}

static void rounds(uint64_t v[4], int count) {
    for (; count > 0; count--) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = turn(v[1], 13) ^ v[0];
        v[3] = turn(v[3], 16) ^ v[2];
        v[0] = turn(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = turn(v[1], 17) ^ v[2];
        v[3] = turn(v[3], 21) ^ v[0];
        v[2] = turn(v[2], 32);
    }
}

uint64_t hu_siphash(const uint8_t *key, const uint8_t *data, uint64_t size) {
    assert(key != NULL && (data != NULL || size == 0));
    uint64_t low = load(key, 8), high = load(key + 8, 8), left = size;
    uint64_t v[4] = {low ^ 0x736f6d6570736575u, high ^ 0x646f72616e646f6du,
                     low ^ 0x6c7967656e657261u, high ^ 0x7465646279746573u};
    for (; left >= 8; data += 8, left -= 8) {
        uint64_t word = load(data, 8);
        v[3] ^= word;
        rounds(v, 2);
        v[0] ^= word;
    }
    uint64_t last = load(data, left) | size << 56;
    v[3] ^= last;
    rounds(v, 2);
    v[0] ^= last;
    v[2] ^= 0xff;
    rounds(v, 4);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}
