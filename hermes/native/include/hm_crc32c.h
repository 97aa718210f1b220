/* hm_crc32c.h -- CRC-32C (Castagnoli), by the fastest way this CPU knows.
 *
 * The variant is chosen once, when the library is loaded.  Any thread may call anything here but
 * hm_crc32c_select, which is for tests.
 */
#ifndef HM_CRC32C_H
#define HM_CRC32C_H

#include <stddef.h>
#include <stdint.h>

#include "hm_error.h"

/* cdef-begin -- one checksum, four ways. */
enum {
    HM_CRC32C_TABLE = 0,  /* portable: 8 bytes a step by table */
    HM_CRC32C_SSE42 = 1,  /* x86-64: one chain of crc32q */
    HM_CRC32C_PCLMUL = 2, /* x86-64: three chains, joined by carry-less multiplication */
    HM_CRC32C_ARMV8 = 3,  /* AArch64: one chain of crc32cx */
};

/* CRC-32C of `size` bytes, continued from `crc` (0 to begin). */
uint32_t hm_crc32c(uint32_t crc, const void *data, size_t size);
/* The name of the variant in use: "sse4.2+pclmul", "sse4.2", "armv8" or "table". */
const char *hm_crc32c_variant(void);
/* Uses another variant from now on: 0, or -HM_EINVAL if this CPU lacks it.  No other thread may be
 * in this library meanwhile. */
int hm_crc32c_select(int variant);
/* cdef-end */

/* One implementation, called by hm_frame.c with raw states: without the inversion at either end
 * (begin with ~0). */
typedef struct {
    const char *name;
    /* Any bytes, no byte beyond them is read. */
    uint32_t (*update)(uint32_t state, const uint8_t *data, size_t size);
    /* Copies too, and fills up with zeros to a multiple of 8: for one pass over a payload. */
    uint32_t (*copy)(uint32_t state, uint8_t *out, const uint8_t *data, size_t size);
    /* A whole frame in place: bytes 0..8, 16..28, topic, properties (their length field included)
     * and payload, each padded. */
    uint32_t (*frame)(const uint8_t *frame, uint32_t topic_len, uint32_t properties_size,
                      uint32_t payload_len);
} hm_crc32c_ops;

/* Never changes after loading, but for hm_crc32c_select. */
extern const hm_crc32c_ops *hm_crc32c_active;

#endif
