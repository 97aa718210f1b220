/* hm_topics.c -- the hash table of one stream's topics. */
#include "hm_topics.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../base/hm_platform.h"

#define NAME_CHUNK  65536u /* bytes: 8,192 units of 8, so that a name's place fits 32 bits */
#define NAME_UNITS  (NAME_CHUNK / 8)
#define NAME_CHUNKS (1u << 19) /* 32-bit places of 13-bit units */
#define SLOTS_MIN   64u
#define SLOT_INDEX  0xffffffffu

struct hm_topics {
    uint64_t *slots; /* tag << 32 | index + 1; 0: free */
    uint32_t mask;   /* slots - 1 */
    uint32_t count;
    hm_topic **entries;
    uint8_t **names;
    uint32_t entry_chunks; /* in use */
    uint32_t entry_room;   /* pointers allocated */
    uint32_t name_chunks;
    uint32_t name_room;
    uint32_t name_used; /* units of 8 bytes in the last chunk */
};

/* ---- the hash ---- */

__extension__ typedef unsigned __int128 wide;

static uint64_t seeds[3];
static pthread_once_t seeded = PTHREAD_ONCE_INIT;

static void seed(void) {
    if (!hm_platform_random(seeds, sizeof seeds)) {
        /* Early in the boot of a machine: the clock and an address are better than a constant. */
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        seeds[0] ^= (uint64_t)now.tv_nsec * 0x9e3779b97f4a7c15u;
        seeds[1] ^= (uint64_t)now.tv_sec * 0xd1b54a32d192ed03u;
        seeds[2] ^= (uint64_t)(uintptr_t)&now * 0x8cb92ba72f3d8dd7u;
    }
    for (size_t i = 0; i < 3; i++)
        seeds[i] |= 1;
}

/* Both halves of the product, folded: every input bit reaches every output bit. */
static inline uint64_t fold(uint64_t a, uint64_t b) {
    wide product = (wide)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t word(const uint8_t *at) {
    uint64_t value;
    memcpy(&value, at, 8);
    return value;
}

static inline uint64_t hash_words(const uint8_t *name, uint32_t len) {
    uint64_t hash = seeds[0] ^ len;
    uint32_t i = 0;
    for (; i + 8 < len; i += 16)
        hash = fold(word(name + i) ^ hash, word(name + i + 8) ^ seeds[1]);
    if (i < len)
        hash = fold(word(name + i) ^ hash, seeds[1]);
    return fold(hash ^ len, seeds[2]);
}

uint64_t hm_topic_hash(const uint8_t *padded, uint32_t len) {
    assert(len <= HM_TOPIC_MAX);
    return hash_words(padded, len);
}

/* ---- the table ---- */

hm_topics *hm_topics_new(void) {
    pthread_once(&seeded, seed);
    hm_topics *topics = calloc(1, sizeof *topics);
    if (topics == NULL)
        return NULL;
    topics->mask = SLOTS_MIN - 1;
    topics->name_used = NAME_UNITS;
    topics->slots = calloc(SLOTS_MIN, sizeof *topics->slots);
    if (topics->slots == NULL) {
        free(topics);
        return NULL;
    }
    return topics;
}

void hm_topics_free(hm_topics *topics) {
    if (topics == NULL)
        return;
    for (uint32_t i = 0; i < topics->entry_chunks; i++)
        free(topics->entries[i]);
    for (uint32_t i = 0; i < topics->name_chunks; i++)
        free(topics->names[i]);
    free(topics->entries);
    free(topics->names);
    free(topics->slots);
    free(topics);
}

uint32_t hm_topics_count(const hm_topics *topics) {
    return topics->count;
}

uint64_t hm_topics_bytes(const hm_topics *topics) {
    return sizeof *topics + ((uint64_t)topics->mask + 1) * sizeof *topics->slots +
           (uint64_t)topics->entry_chunks * HM_TOPIC_CHUNK * sizeof(hm_topic) +
           (uint64_t)topics->name_chunks * NAME_CHUNK +
           ((uint64_t)topics->entry_room + topics->name_room) * sizeof(void *);
}

hm_topic *hm_topics_at(const hm_topics *topics, uint32_t index) {
    assert(index < topics->count);
    return &topics->entries[index / HM_TOPIC_CHUNK][index % HM_TOPIC_CHUNK];
}

/* The record of a name: its length in the first of 8 bytes, then the padded name. */
static inline const uint8_t *name_record(const hm_topics *topics, uint32_t place) {
    return topics->names[place / NAME_UNITS] + (size_t)(place % NAME_UNITS) * 8;
}

const uint8_t *hm_topics_name(const hm_topics *topics, uint32_t index, uint32_t *len) {
    const uint8_t *record = name_record(topics, hm_topics_at(topics, index)->name);
    *len = record[0];
    return record + 8;
}

int64_t hm_topics_find_hashed(const hm_topics *topics, const uint8_t *padded, uint32_t len,
                              uint64_t hash) {
    assert(len <= HM_TOPIC_MAX);
    uint64_t tag = hash >> 32;
    for (uint32_t at = (uint32_t)tag & topics->mask;; at = (at + 1) & topics->mask) {
        uint64_t slot = topics->slots[at];
        if (slot == 0)
            return -HM_EUNKNOWN;
        if (slot >> 32 != tag)
            continue;
        uint32_t index = (uint32_t)(slot & SLOT_INDEX) - 1;
        const uint8_t *record = name_record(topics, hm_topics_at(topics, index)->name);
        if (record[0] == len && hm_topic_equal(record + 8, padded, len))
            return index;
    }
}

static void place_slot(uint64_t *slots, uint32_t mask, uint64_t slot) {
    uint32_t at = (uint32_t)(slot >> 32) & mask;
    while (slots[at] != 0)
        at = (at + 1) & mask;
    slots[at] = slot;
}

static int grow_slots(hm_topics *topics) {
    if (topics->mask >= UINT32_MAX / 2)
        return -HM_ELIMIT;
    uint32_t mask = topics->mask * 2 + 1;
    uint64_t *slots = calloc((size_t)mask + 1, sizeof *slots);
    if (slots == NULL)
        return -HM_ENOMEM;
    for (uint64_t i = 0; i <= topics->mask; i++)
        if (topics->slots[i] != 0)
            place_slot(slots, mask, topics->slots[i]);
    free(topics->slots);
    topics->slots = slots;
    topics->mask = mask;
    return 0;
}

/* Makes room for one more pointer in a list of chunks, and allocates the chunk. */
static int add_chunk(void ***chunks, uint32_t *used, uint32_t *room, size_t bytes) {
    if (*used == *room) {
        uint32_t more = *room == 0 ? 8 : *room * 2;
        void **bigger = realloc(*chunks, more * sizeof *bigger);
        if (bigger == NULL)
            return -HM_ENOMEM;
        *chunks = bigger;
        *room = more;
    }
    void *chunk = malloc(bytes);
    if (chunk == NULL)
        return -HM_ENOMEM;
    (*chunks)[(*used)++] = chunk;
    return 0;
}

static int reserve(hm_topics *topics, uint32_t units) {
    int error = 0;
    if ((uint64_t)topics->count + 1 > (uint64_t)(topics->mask + 1u) / 4 * 3)
        error = grow_slots(topics);
    if (error == 0 && topics->count == topics->entry_chunks * HM_TOPIC_CHUNK) {
        if (topics->entry_chunks >= UINT32_MAX / HM_TOPIC_CHUNK - 1)
            return -HM_ELIMIT;
        error = add_chunk((void ***)&topics->entries, &topics->entry_chunks, &topics->entry_room,
                          HM_TOPIC_CHUNK * sizeof(hm_topic));
    }
    if (error == 0 && topics->name_used + units > NAME_UNITS) {
        if (topics->name_chunks == NAME_CHUNKS)
            return -HM_ELIMIT;
        error = add_chunk((void ***)&topics->names, &topics->name_chunks, &topics->name_room,
                          NAME_CHUNK);
        if (error == 0)
            topics->name_used = 0;
    }
    return error;
}

int64_t hm_topics_add_hashed(hm_topics *topics, const uint8_t *padded, uint32_t len,
                             uint64_t hash) {
    int64_t known = hm_topics_find_hashed(topics, padded, len, hash);
    if (known >= 0)
        return known;
    uint32_t units = 1 + (len + 7) / 8;
    int error = reserve(topics, units);
    if (error != 0)
        return error;
    uint32_t index = topics->count;
    uint32_t place = (topics->name_chunks - 1) * NAME_UNITS + topics->name_used;
    uint8_t *record = topics->names[topics->name_chunks - 1] + (size_t)topics->name_used * 8;
    memset(record, 0, (size_t)units * 8);
    record[0] = (uint8_t)len;
    memcpy(record + 8, padded, len);
    topics->name_used += units;
    topics->entries[index / HM_TOPIC_CHUNK][index % HM_TOPIC_CHUNK] = (hm_topic){.name = place};
    place_slot(topics->slots, topics->mask, hash >> 32 << 32 | ((uint64_t)index + 1));
    topics->count++;
    return index;
}

/* A name from anywhere, padded as a frame would pad it. */
static const uint8_t *pad(uint8_t *padded, const uint8_t *name, uint32_t len) {
    memset(padded, 0, HM_TOPIC_MAX + 1);
    if (len > 0)
        memcpy(padded, name, len);
    return padded;
}

int64_t hm_topics_find(const hm_topics *topics, const uint8_t *name, uint32_t len) {
    uint8_t padded[HM_TOPIC_MAX + 1];
    if (len > HM_TOPIC_MAX)
        return -HM_EUNKNOWN;
    pad(padded, name, len);
    return hm_topics_find_hashed(topics, padded, len, hm_topic_hash(padded, len));
}

int64_t hm_topics_add(hm_topics *topics, const uint8_t *name, uint32_t len) {
    uint8_t padded[HM_TOPIC_MAX + 1];
    if (len > HM_TOPIC_MAX)
        return -HM_ETOPIC;
    pad(padded, name, len);
    return hm_topics_add_hashed(topics, padded, len, hm_topic_hash(padded, len));
}
