/* hm_crc32c.c -- CRC-32C by table, by the CPU's instruction, and by carry-less multiplication. */
#include "hm_crc32c.h"

#include <assert.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_acle.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#endif

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "frames are read in place");

#define FOLD_WORDS_MIN 12 /* words: below, one chain is done before three are joined */
#define FOLD_LANE_MAX  64 /* words a lane: the join is paid once in 1.5 KiB by then */
#define ALWAYS_INLINE  static inline __attribute__((always_inline))

ALWAYS_INLINE uint64_t load64(const uint8_t *at) {
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

ALWAYS_INLINE uint32_t load32(const uint8_t *at) {
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

ALWAYS_INLINE void store64(uint8_t *at, uint64_t word) {
    memcpy(at, &word, sizeof word);
}

ALWAYS_INLINE size_t padded(size_t size) {
    return (size + 7) & ~(size_t)7;
}

static inline void copy_padded(uint8_t *out, const uint8_t *data, size_t size) {
    if (size == 0)
        return;
    store64(out + padded(size) - 8, 0);
    memcpy(out, data, size);
}

/* The last `size` (1 to 8) bytes of a piece as a number, upper bytes 0, without reading beyond
 * them. `before`: whether 8 bytes stand in front of the piece's end. */
ALWAYS_INLINE uint64_t last_word(const uint8_t *at, size_t size, int before) {
    if (before)
        return load64(at + size - 8) >> (64 - size * 8);
    uint64_t word = 0;
    for (size_t i = size; i > 0; i--)
        word = word << 8 | at[i - 1];
    return word;
}

/* A frame's pieces in the order of the checksum.  The parameters are the variant's own: its
 * state, a step of 8 bytes, one of 4, a padded piece that tends to be short, and one that may be
 * long. */
#define FRAME_CRC(type, word, half, brief, piece)                                                  \
    type state = word(UINT32_MAX, load64(frame));                                                  \
    state = word(state, load64(frame + 16));                                                       \
    state = half(state, load32(frame + 24));                                                       \
    const uint8_t *at = frame + 32;                                                                \
    state = brief(state, at, topic_len);                                                           \
    at += padded(topic_len);                                                                       \
    if (properties_size > 0) {                                                                     \
        state = brief(state, at, properties_size);                                                 \
        at += padded(properties_size);                                                             \
    }                                                                                              \
    return (uint32_t)piece(state, at, payload_len)

/* ---- the portable variant: slicing by 8 ---- */

static uint32_t slices[8][256]; /* slices[k][b]: byte b followed by k zero bytes */

static void table_prepare(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (crc & 1 ? 0x82F63B78U : 0); /* the polynomial, reflected */
        slices[0][byte] = crc;
    }
    for (int k = 1; k < 8; k++)
        for (int byte = 0; byte < 256; byte++)
            slices[k][byte] = (slices[k - 1][byte] >> 8) ^ slices[0][slices[k - 1][byte] & 0xFF];
}

ALWAYS_INLINE uint32_t table_word(uint32_t state, uint64_t word) {
    word ^= state;
    return slices[7][word & 0xFF] ^ slices[6][word >> 8 & 0xFF] ^ slices[5][word >> 16 & 0xFF] ^
           slices[4][word >> 24 & 0xFF] ^ slices[3][word >> 32 & 0xFF] ^
           slices[2][word >> 40 & 0xFF] ^ slices[1][word >> 48 & 0xFF] ^ slices[0][word >> 56];
}

ALWAYS_INLINE uint32_t table_half(uint32_t state, uint32_t half) {
    half ^= state;
    return slices[3][half & 0xFF] ^ slices[2][half >> 8 & 0xFF] ^ slices[1][half >> 16 & 0xFF] ^
           slices[0][half >> 24];
}

static uint32_t table_update(uint32_t state, const uint8_t *data, size_t size) {
    for (; size >= 8; size -= 8, data += 8)
        state = table_word(state, load64(data));
    for (; size > 0; size--, data++)
        state = (state >> 8) ^ slices[0][(state ^ *data) & 0xFF];
    return state;
}

static uint32_t table_frame(const uint8_t *frame, uint32_t topic_len, uint32_t properties_size,
                            uint32_t payload_len) {
    FRAME_CRC(uint32_t, table_word, table_half, table_update, table_update);
}

static uint32_t table_copy(uint32_t state, uint8_t *out, const uint8_t *data, size_t size) {
    copy_padded(out, data, size);
    return table_update(state, data, size);
}

static const hm_crc32c_ops table_ops = {"table", table_update, table_copy, table_frame};

/* ---- x86-64 ---- */

#if defined(__x86_64__)
#define SSE42  __attribute__((target("sse4.2")))
#define PCLMUL __attribute__((target("sse4.2,pclmul")))

/* A state has 64 bits here, the upper half 0: that is how crc32q takes and gives it, and narrowing
 * it at each step would cost a third of the speed. */
ALWAYS_INLINE SSE42 uint64_t sse42_word(uint64_t state, uint64_t word) {
    return _mm_crc32_u64(state, word);
}

ALWAYS_INLINE SSE42 uint64_t sse42_half(uint64_t state, uint32_t half) {
    return _mm_crc32_u32((uint32_t)state, half);
}

/* The `size` (1 to 8) low bytes of `word` in one step.  Zero bytes shifted in in front of them
 * change nothing while the state is 0, so they are pushed up to the end of a word of 8; what they
 * leave of the state, if they are fewer than 4, is added afterwards, as the bytewise definition
 * does. */
ALWAYS_INLINE SSE42 uint64_t sse42_last(uint64_t state, uint64_t word, size_t size) {
    unsigned bits = (unsigned)size * 8;
    uint32_t left =
        (uint32_t)((uint64_t)state >> (bits / 2) >> (bits / 2)); /* 64 is no legal shift */
    return left ^ sse42_word(0, (word ^ state) << (64 - bits));
}

/* Fewer than 8 bytes, none readable beyond. */
ALWAYS_INLINE SSE42 uint64_t sse42_short(uint64_t state, const uint8_t *data, size_t size) {
    uint32_t crc = (uint32_t)state;
    if (size & 4) {
        crc = _mm_crc32_u32(crc, load32(data));
        data += 4;
    }
    if (size & 2) {
        uint16_t pair;
        memcpy(&pair, data, sizeof pair);
        crc = _mm_crc32_u16(crc, pair);
        data += 2;
    }
    return size & 1 ? _mm_crc32_u8(crc, *data) : crc;
}

ALWAYS_INLINE SSE42 uint64_t sse42_any(uint64_t state, const uint8_t *data, size_t size) {
    for (; size >= 8; size -= 8, data += 8)
        state = sse42_word(state, load64(data));
    return sse42_short(state, data, size);
}

/* `data` can be read up to the next multiple of 8 after `size`. */
ALWAYS_INLINE SSE42 uint64_t sse42_padded(uint64_t state, const uint8_t *data, size_t size) {
    if (size == 0)
        return state;
    for (; size > 8; size -= 8, data += 8)
        state = sse42_word(state, load64(data));
    return sse42_last(state, load64(data), size);
}

SSE42 static uint32_t sse42_update(uint32_t state, const uint8_t *data, size_t size) {
    return (uint32_t)sse42_any(state, data, size);
}

SSE42 static uint32_t sse42_frame(const uint8_t *frame, uint32_t topic_len,
                                  uint32_t properties_size, uint32_t payload_len) {
    FRAME_CRC(uint64_t, sse42_word, sse42_half, sse42_padded, sse42_padded);
}

/* What is left of a piece that is copied: fewer words than are worth folding, then the last 1 to 8
 * bytes. `before`: whether 8 bytes stand in front of the piece's end. */
ALWAYS_INLINE SSE42 uint64_t sse42_copy_rest(uint64_t state, uint8_t *out, const uint8_t *data,
                                             size_t size, int before) {
    for (; size > 8; size -= 8, data += 8, out += 8) {
        uint64_t word = load64(data);
        store64(out, word);
        state = sse42_word(state, word);
    }
    uint64_t word = last_word(data, size, before);
    store64(out, word);
    return sse42_last(state, word, size);
}

SSE42 static uint32_t sse42_copy(uint32_t state, uint8_t *out, const uint8_t *data, size_t size) {
    return size == 0 ? state : (uint32_t)sse42_copy_rest(state, out, data, size, size >= 8);
}

static const hm_crc32c_ops sse42_ops = {"sse4.2", sse42_update, sse42_copy, sse42_frame};

/* shift[n]: what a state is multiplied by to be moved n words ahead: x^(64 n - 33) modulo the
 * polynomial, reflected.  The missing 33 come back with the product (1: a reflected product of two
 * 32-bit values stands one bit low in 64 bits) and with the crc32q that reduces it (32). */
static uint32_t shift[3 * FOLD_LANE_MAX + 1];

SSE42 static void pclmul_prepare(void) {
    shift[1] = 1; /* x^31 */
    for (size_t words = 2; words <= 3 * FOLD_LANE_MAX; words++)
        shift[words] = (uint32_t)sse42_word(shift[words - 1], 0);
}

ALWAYS_INLINE PCLMUL __m128i moved(uint64_t state, size_t words) {
    return _mm_clmulepi64_si128(_mm_cvtsi64_si128((int64_t)state), _mm_cvtsi64_si128(shift[words]),
                                0);
}

ALWAYS_INLINE uint64_t take64(const uint8_t *data, size_t at, uint8_t *out) {
    uint64_t word = load64(data + at);
    if (out != NULL)
        store64(out + at, word);
    return word;
}

/* Three lanes of `lane` words side by side: crc32q answers after 3 cycles but starts every cycle.
 * The state from before is joined at the end like the lanes are, so that nothing waits for it.
 * Copies to `out` unless it is NULL. */
ALWAYS_INLINE PCLMUL uint64_t pclmul_fold(uint64_t state, const uint8_t *data, size_t lane,
                                          uint8_t *out) {
    uint64_t a = 0, b = 0, c = 0;
    size_t second = lane * 8, third = lane * 16, last = second - 8;
    for (size_t at = 0; at < last; at += 8) {
        a = sse42_word(a, take64(data, at, out));
        b = sse42_word(b, take64(data, second + at, out));
        c = sse42_word(c, take64(data, third + at, out));
    }
    a = sse42_word(a, take64(data, last, out));
    b = sse42_word(b, take64(data, second + last, out));
    __m128i sum = _mm_xor_si128(moved(state, 3 * lane), moved(a, 2 * lane));
    sum = _mm_xor_si128(sum, moved(b, lane));
    return sse42_word(c, take64(data, third + last, out) ^ (uint64_t)_mm_cvtsi128_si64(sum));
}

/* The words of the next fold; 0: too few are left to be worth one. */
ALWAYS_INLINE size_t fold_lane(size_t words) {
    size_t lane = words / 3;
    if (words < FOLD_WORDS_MIN)
        return 0;
    return lane < FOLD_LANE_MAX ? lane : FOLD_LANE_MAX;
}

PCLMUL static uint32_t pclmul_update(uint32_t crc, const uint8_t *data, size_t size) {
    uint64_t state = crc;
    for (size_t lane; (lane = fold_lane(size / 8)) > 0; size -= lane * 24, data += lane * 24)
        state = pclmul_fold(state, data, lane, NULL);
    return (uint32_t)sse42_any(state, data, size);
}

/* Here and below the last word is not folded: it may be a part of one. */
ALWAYS_INLINE PCLMUL uint64_t pclmul_padded(uint64_t state, const uint8_t *data, size_t size) {
    if (size == 0)
        return state;
    for (size_t lane; (lane = fold_lane((size - 1) / 8)) > 0; size -= lane * 24, data += lane * 24)
        state = pclmul_fold(state, data, lane, NULL);
    return sse42_padded(state, data, size);
}

PCLMUL static uint32_t pclmul_copy(uint32_t crc, uint8_t *out, const uint8_t *data, size_t size) {
    uint64_t state = crc;
    int before = size >= 8;
    if (size == 0)
        return crc;
    for (size_t lane; (lane = fold_lane((size - 1) / 8)) > 0;) {
        state = pclmul_fold(state, data, lane, out);
        size -= lane * 24;
        data += lane * 24;
        out += lane * 24;
    }
    return (uint32_t)sse42_copy_rest(state, out, data, size, before);
}

PCLMUL static uint32_t pclmul_frame(const uint8_t *frame, uint32_t topic_len,
                                    uint32_t properties_size, uint32_t payload_len) {
    FRAME_CRC(uint64_t, sse42_word, sse42_half, sse42_padded, pclmul_padded);
}

static const hm_crc32c_ops pclmul_ops = {"sse4.2+pclmul", pclmul_update, pclmul_copy, pclmul_frame};
#endif

/* ---- AArch64 ---- */

#if defined(__aarch64__)
#define ARMV8 __attribute__((target("+crc")))

ALWAYS_INLINE ARMV8 uint32_t armv8_word(uint32_t state, uint64_t word) {
    return __crc32cd(state, word);
}

ALWAYS_INLINE ARMV8 uint32_t armv8_half(uint32_t state, uint32_t half) {
    return __crc32cw(state, half);
}

ARMV8 static uint32_t armv8_update(uint32_t state, const uint8_t *data, size_t size) {
    for (; size >= 8; size -= 8, data += 8)
        state = __crc32cd(state, load64(data));
    if (size & 4) {
        state = __crc32cw(state, load32(data));
        data += 4;
    }
    for (size &= 3; size > 0; size--, data++)
        state = __crc32cb(state, *data);
    return state;
}

ARMV8 static uint32_t armv8_frame(const uint8_t *frame, uint32_t topic_len,
                                  uint32_t properties_size, uint32_t payload_len) {
    FRAME_CRC(uint32_t, armv8_word, armv8_half, armv8_update, armv8_update);
}

ARMV8 static uint32_t armv8_copy(uint32_t state, uint8_t *out, const uint8_t *data, size_t size) {
    copy_padded(out, data, size);
    return armv8_update(state, data, size);
}

static const hm_crc32c_ops armv8_ops = {"armv8", armv8_update, armv8_copy, armv8_frame};

static int armv8_has_crc(void) {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
#else
    return 1; /* every AArch64 machine of the other systems has it */
#endif
}
#endif

/* ---- the choice ---- */

const hm_crc32c_ops *hm_crc32c_active = &table_ops;

/* NULL if this CPU lacks it. */
static const hm_crc32c_ops *variant_ops(int variant) {
    switch (variant) {
    case HM_CRC32C_TABLE:
        return &table_ops;
#if defined(__x86_64__)
    case HM_CRC32C_SSE42:
        return __builtin_cpu_supports("sse4.2") ? &sse42_ops : NULL;
    case HM_CRC32C_PCLMUL:
        return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul") ? &pclmul_ops
                                                                                    : NULL;
#elif defined(__aarch64__)
    case HM_CRC32C_ARMV8:
        return armv8_has_crc() ? &armv8_ops : NULL;
#endif
    default:
        return NULL;
    }
}

/* Runs while the library is loaded, before any thread can be in it: so the tables and the choice
 * need no synchronisation. */
__attribute__((constructor)) static void choose(void) {
    table_prepare();
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (variant_ops(HM_CRC32C_PCLMUL) != NULL)
        pclmul_prepare();
#endif
    for (int variant = HM_CRC32C_TABLE; variant <= HM_CRC32C_ARMV8; variant++)
        if (variant_ops(variant) != NULL) /* later ones are faster */
            hm_crc32c_active = variant_ops(variant);
}

int hm_crc32c_select(int variant) {
    const hm_crc32c_ops *ops = variant_ops(variant);
    if (ops == NULL)
        return -HM_EINVAL;
    hm_crc32c_active = ops;
    return 0;
}

uint32_t hm_crc32c(uint32_t crc, const void *data, size_t size) {
    assert(data != NULL || size == 0);
    return ~hm_crc32c_active->update(~crc, data, size);
}

const char *hm_crc32c_variant(void) {
    return hm_crc32c_active->name;
}
