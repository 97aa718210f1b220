#include <assert.h>
#include <stdlib.h>

#include "hm_log_parts.h"

#define BUCKETS 32768 /* twice the publishers, so that chains stay short */
_Static_assert((BUCKETS & (BUCKETS - 1)) == 0, "a power of two");

struct hm_publishers {
    hm_publisher *entries;
    uint32_t count;
    uint32_t capacity;
    uint32_t newest, oldest; /* index + 1 */
    uint32_t buckets[BUCKETS];
};

hm_publishers *hm_publishers_new(void) {
    return calloc(1, sizeof(hm_publishers));
}

void hm_publishers_free(hm_publishers *table) {
    if (table) {
        free(table->entries);
        free(table);
    }
}

/* Ids are random or chosen by peers; a peer that provokes long chains only slows its own opens
 * down: the table is bounded. */
static uint32_t bucket_of(const uint8_t *id) {
    uint64_t words[2];
    memcpy(words, id, sizeof words);
    uint64_t hash = (words[0] ^ (words[1] << 29 | words[1] >> 35)) * 0x9e3779b97f4a7c15U;
    return (uint32_t)(hash >> 49) & (BUCKETS - 1);
}

hm_publisher *hm_publishers_find(hm_publishers *table, const uint8_t *id) {
    for (uint32_t at = table->buckets[bucket_of(id)]; at; at = table->entries[at - 1].chain) {
        if (memcmp(table->entries[at - 1].id, id, sizeof table->entries->id) == 0) {
            return &table->entries[at - 1];
        }
    }
    return NULL;
}

static void unlink_use(hm_publishers *table, const hm_publisher *entry) {
    *(entry->newer ? &table->entries[entry->newer - 1].older : &table->newest) = entry->older;
    *(entry->older ? &table->entries[entry->older - 1].newer : &table->oldest) = entry->newer;
}

static void link_newest(hm_publishers *table, hm_publisher *entry) {
    uint32_t self = (uint32_t)(entry - table->entries) + 1;
    entry->newer = 0;
    entry->older = table->newest;
    *(table->newest ? &table->entries[table->newest - 1].newer : &table->oldest) = self;
    table->newest = self;
}

static void unlink_bucket(hm_publishers *table, const hm_publisher *entry) {
    uint32_t self = (uint32_t)(entry - table->entries) + 1;
    uint32_t *at = &table->buckets[bucket_of(entry->id)];
    while (*at != self) {
        assert(*at);
        at = &table->entries[*at - 1].chain;
    }
    *at = entry->chain;
}

/* A free entry: a new one, or the longest silent one's. */
static hm_publisher *take_entry(hm_publishers *table) {
    if (table->count == table->capacity && table->capacity < HM_LOG_PUBLISHERS_MAX) {
        uint32_t capacity = table->capacity ? table->capacity * 2 : 64;
        hm_publisher *grown = realloc(table->entries, capacity * sizeof *grown);
        if (grown) {
            table->entries = grown;
            table->capacity = capacity;
        }
    }
    if (table->count < table->capacity) {
        return &table->entries[table->count++];
    }
    if (table->oldest == 0) {
        return NULL; /* no memory for even one: the filter forgets */
    }
    hm_publisher *entry = &table->entries[table->oldest - 1];
    unlink_use(table, entry);
    unlink_bucket(table, entry);
    return entry;
}

hm_publisher *hm_publishers_set(hm_publishers *table, const uint8_t *id, uint64_t last) {
    hm_publisher *entry = hm_publishers_find(table, id);
    if (entry) {
        unlink_use(table, entry);
    } else {
        entry = take_entry(table);
        if (entry == NULL) {
            return NULL;
        }
        uint32_t bucket = bucket_of(id);
        memcpy(entry->id, id, sizeof entry->id);
        entry->chain = table->buckets[bucket];
        table->buckets[bucket] = (uint32_t)(entry - table->entries) + 1;
    }
    entry->last = last;
    link_newest(table, entry);
    return entry;
}

uint32_t hm_publishers_count(const hm_publishers *table) {
    return table->count;
}

hm_publisher *hm_publishers_oldest(hm_publishers *table) {
    return table->oldest ? &table->entries[table->oldest - 1] : NULL;
}

hm_publisher *hm_publishers_newer(hm_publishers *table, const hm_publisher *publisher) {
    return publisher->newer ? &table->entries[publisher->newer - 1] : NULL;
}
