/* hm_topics.h -- one stream's topics: name -> small index, and what is known of each.
 *
 * Open addressing over 8-byte slots {32-bit tag, index + 1}: a probe touches names only where the
 * tag agrees, and growing needs no name at all.  Names and entries stand in chunks that never move,
 * so a name's address stays valid as long as the table.  Topics are never removed.
 *
 *   slots     8 bytes each, at most 3/4 full, doubled when fuller
 *   entries   32 bytes each, chunks of HM_TOPIC_CHUNK
 *   names     length byte, then the name zero-padded to a multiple of 8, chunks of 64 KiB
 *
 * One thread owns a table.
 */
#ifndef HM_TOPICS_H
#define HM_TOPICS_H

#include "hm_frame.h"

/* cdef-begin -- an opaque table. */
typedef struct hm_topics hm_topics;

/* NULL: no memory. */
hm_topics *hm_topics_new(void);
void hm_topics_free(hm_topics *topics);

/* The index of `name`; -HM_EUNKNOWN if it is not there. */
int64_t hm_topics_find(const hm_topics *topics, const uint8_t *name, uint32_t len);
/* The same, but adds it.  The name is not checked.  -HM_ENOMEM, -HM_ELIMIT (4 GiB of names). */
int64_t hm_topics_add(hm_topics *topics, const uint8_t *name, uint32_t len);
uint32_t hm_topics_count(const hm_topics *topics);
/* Memory taken, slack included. */
uint64_t hm_topics_bytes(const hm_topics *topics);
/* The name of topic `index`, zero-padded to a multiple of 8; valid as long as the table. */
const uint8_t *hm_topics_name(const hm_topics *topics, uint32_t index, uint32_t *len);
/* cdef-end */

#define HM_TOPIC_CHUNK 4096 /* entries allocated at once: 128 KiB */

/* A stream's knowledge of one topic. */
typedef struct {
    uint64_t last_sequence; /* 0: no message seen */
    uint64_t last_position;
    uint64_t messages; /* appended since the table was built */
    uint32_t list;     /* who wants it: hm_filters.h */
    uint32_t name;     /* where its name stands: chunk << 13 | offset / 8 */
} hm_topic;

_Static_assert(sizeof(hm_topic) == 32, "a million topics have a budget");

/* Hash of a name that is zero-padded to a multiple of 8, as in a frame.  Its seed is random per
 * process: nobody outside can choose names that collide. */
uint64_t hm_topic_hash(const uint8_t *padded, uint32_t len);

/* 1 if two zero-padded names of `len` bytes are equal. */
static inline int hm_topic_equal(const uint8_t *a, const uint8_t *b, uint32_t len) {
    uint64_t difference = 0;
    for (uint32_t i = 0; i < len; i += 8) {
        uint64_t x, y;
        __builtin_memcpy(&x, a + i, 8);
        __builtin_memcpy(&y, b + i, 8);
        difference |= x ^ y;
    }
    return difference == 0;
}

/* The two functions above for a padded name whose hash is at hand. */
int64_t hm_topics_find_hashed(const hm_topics *topics, const uint8_t *padded, uint32_t len,
                              uint64_t hash);
int64_t hm_topics_add_hashed(hm_topics *topics, const uint8_t *padded, uint32_t len, uint64_t hash);
/* Entry `index`; does not move. */
hm_topic *hm_topics_at(const hm_topics *topics, uint32_t index);

#endif
