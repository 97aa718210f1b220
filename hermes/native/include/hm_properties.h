/* hm_properties.h -- what stands in a message's property block: a key, then headers.
 *
 * The content of the block, behind its u32 length; nothing in it is aligned:
 *
 *   offset size field       unit, rule
 *        0    2 key_len     bytes; 0: no key
 *        2      key
 *               headers     until the end of the block, in the publisher's order, each:
 *          0  1 name_len    bytes, at least 1
 *          1  2 value_len   bytes
 *          3    name        UTF-8; the same name may occur more than once
 *               value       any bytes
 *
 * Header-only, so that plugins need nothing at run time.  The bytes may be foreign: reading is safe
 * on any.
 */
#ifndef HM_PROPERTIES_H
#define HM_PROPERTIES_H

#include <stdint.h>
#include <string.h>

#include "hm_error.h"

#define HM_PROPERTY_NAME_MAX  255   /* bytes: its length has one byte */
#define HM_PROPERTY_VALUE_MAX 65535 /* bytes: its length has two */

typedef struct {
    const uint8_t *name;
    const uint8_t *value;
    uint32_t name_len;  /* bytes */
    uint32_t value_len; /* bytes */
} hm_property;

/* Bytes a header takes. */
static inline uint32_t hm_property_size(uint32_t name_len, uint32_t value_len) {
    return 3 + name_len + value_len;
}

/* Begins a block at `out` with no key.  Returns its size so far. */
static inline uint32_t hm_properties_begin(uint8_t *out) {
    out[0] = out[1] = 0;
    return 2;
}

/* Adds a header at `out + size`, where hm_property_size bytes must be free; the lengths are within
 * their limits.  Returns the new size. */
static inline uint32_t hm_properties_put(uint8_t *out, uint32_t size, const char *name,
                                         uint32_t name_len, const void *value, uint32_t value_len) {
    uint8_t *at = out + size;
    at[0] = (uint8_t)name_len;
    at[1] = (uint8_t)(value_len & 0xFFU);
    at[2] = (uint8_t)(value_len >> 8);
    memcpy(at + 3, name, name_len);
    if (value_len > 0)
        memcpy(at + 3 + name_len, value, value_len);
    return size + hm_property_size(name_len, value_len);
}

/* Where the first header of the `size` bytes at `data` stands, or -HM_ELENGTH. */
static inline int64_t hm_properties_headers(const uint8_t *data, uint32_t size) {
    if (size < 2)
        return -HM_ELENGTH;
    uint32_t key_len = (uint32_t)data[0] | (uint32_t)data[1] << 8;
    return 2 + key_len <= size ? (int64_t)(2 + key_len) : -HM_ELENGTH;
}

/* Reads the header at `*offset` and moves it on.  1; 0 at the end; -HM_ELENGTH: malformed. */
static inline int hm_properties_next(const uint8_t *data, uint32_t size, uint32_t *offset,
                                     hm_property *property) {
    uint32_t left = size - *offset;
    const uint8_t *at = data + *offset;
    if (left == 0)
        return 0;
    if (left < 3 || at[0] == 0)
        return -HM_ELENGTH;
    property->name_len = at[0];
    property->value_len = (uint32_t)at[1] | (uint32_t)at[2] << 8;
    if (hm_property_size(property->name_len, property->value_len) > left)
        return -HM_ELENGTH;
    property->name = at + 3;
    property->value = at + 3 + property->name_len;
    *offset += hm_property_size(property->name_len, property->value_len);
    return 1;
}

#endif
