/* hm_publishers.c -- the last sequence that a log has of each publisher. */
#include <assert.h>
#include <stdlib.h>

#include "log_internal.h"

#define BUCKETS 32768 /* twice the publishers, so that chains stay short */
_Static_assert((BUCKETS & (BUCKETS - 1)) == 0, "a power of two");
_Static_assert(HM_LOG_PUBLISHERS_MAX <= UINT16_MAX, "owned_count holds every count");
#define OWNERS      4096 /* owners that are told apart; two whose tags agree share a list */
#define OWNER_SHARE 256U /* publishers that the others' never make room for; 1/64 of the table */

/* Publishers in the order of use: of everybody, or of one owner. */
typedef struct {
    uint32_t newest, oldest; /* index + 1 */
} use_list;

struct hm_publishers {
    hm_publisher *entries;
    uint32_t count;
    uint32_t capacity;
    use_list all;
    use_list owned[OWNERS];
    uint16_t owned_count[OWNERS];
    hm_missing *missing; /* in no order */
    uint32_t missing_count;
    uint32_t missing_room;
    uint32_t buckets[BUCKETS];
};

hm_publishers *hm_publishers_new(void) {
    return calloc(1, sizeof(hm_publishers));
}

void hm_publishers_free(hm_publishers *table) {
    if (table) {
        free(table->entries);
        free(table->missing);
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

/* The number of the owner whose publisher `id` is, or -1: nobody's; see HM_OWNED_MARK. */
static int owner_of(const uint8_t *id) {
    return id[0] == HM_OWNED_MARK_0 && id[1] == HM_OWNED_MARK_1
               ? (id[2] << 8 | id[3]) & (OWNERS - 1)
               : -1;
}

static void unlink_from(hm_publishers *table, use_list *list, const hm_publisher *entry,
                        int which) {
    const hm_use *use = &entry->use[which];
    *(use->newer ? &table->entries[use->newer - 1].use[which].older : &list->newest) = use->older;
    *(use->older ? &table->entries[use->older - 1].use[which].newer : &list->oldest) = use->newer;
}

static void link_to(hm_publishers *table, use_list *list, hm_publisher *entry, int which) {
    uint32_t self = (uint32_t)(entry - table->entries) + 1;
    entry->use[which].newer = 0;
    entry->use[which].older = list->newest;
    *(list->newest ? &table->entries[list->newest - 1].use[which].newer : &list->oldest) = self;
    list->newest = self;
}

static void unlink_use(hm_publishers *table, const hm_publisher *entry) {
    int owner = owner_of(entry->id);
    unlink_from(table, &table->all, entry, HM_USE_ALL);
    if (owner >= 0) {
        assert(table->owned_count[owner]);
        table->owned_count[owner]--;
        unlink_from(table, &table->owned[owner], entry, HM_USE_OWNED);
    }
}

static void link_newest(hm_publishers *table, hm_publisher *entry) {
    int owner = owner_of(entry->id);
    link_to(table, &table->all, entry, HM_USE_ALL);
    if (owner >= 0) {
        table->owned_count[owner]++;
        link_to(table, &table->owned[owner], entry, HM_USE_OWNED);
    }
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

static bool is_of(const hm_missing *missing, const uint8_t *id) {
    return memcmp(missing->publisher, id, sizeof missing->publisher) == 0;
}

/* Notes that [first, next) are lost.  Without room the oldest such note is given up. */
static void add_missing(hm_publishers *table, const uint8_t *id, uint64_t first, uint64_t next) {
    if (table->missing_count == table->missing_room && table->missing_room < HM_LOG_MISSING_MAX) {
        uint32_t room = table->missing_room ? table->missing_room * 2 : 16;
        hm_missing *grown = realloc(table->missing, room * sizeof *grown);
        if (grown) {
            table->missing = grown;
            table->missing_room = room;
        }
    }
    if (table->missing_room == 0) {
        return;
    }
    if (table->missing_count == table->missing_room) {
        memmove(table->missing, table->missing + 1,
                --table->missing_count * sizeof *table->missing);
    }
    hm_missing *added = &table->missing[table->missing_count++];
    memcpy(added->publisher, id, sizeof added->publisher);
    added->first = first;
    added->next = next;
}

/* [first, next) are not missing, or no longer. */
static void regain(hm_publishers *table, const uint8_t *id, uint64_t first, uint64_t next) {
    for (uint32_t i = 0, count = table->missing_count; i < count; i++) {
        hm_missing *at = &table->missing[i];
        if (!is_of(at, id) || at->first >= next || at->next <= first) {
            continue;
        }
        hm_missing had = *at;
        at->next = at->first; /* empty, unless it begins before */
        if (had.first < first) {
            at->next = first;
        }
        if (had.next > next) {
            add_missing(table, id, next, had.next);
        }
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < table->missing_count; i++) {
        if (table->missing[i].first < table->missing[i].next) {
            table->missing[kept++] = table->missing[i];
        }
    }
    table->missing_count = kept;
}

/* The publisher that makes room, index + 1: the longest silent of the owner that has the most, if
 * that is more than its share, so that nobody has others forgotten; else the longest silent. */
static uint32_t victim(const hm_publishers *table) {
    uint32_t most = 0;
    for (uint32_t owner = 1; owner < OWNERS; owner++) {
        if (table->owned_count[owner] > table->owned_count[most]) {
            most = owner;
        }
    }
    return table->owned_count[most] > OWNER_SHARE ? table->owned[most].oldest : table->all.oldest;
}

/* A free entry: a new one, or that of the one that makes room. */
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
    if (table->all.oldest == 0) {
        return NULL; /* no memory for even one: the filter forgets */
    }
    hm_publisher *entry = &table->entries[victim(table) - 1];
    regain(table, entry->id, 0, UINT64_MAX);
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

static uint64_t last_of(hm_publishers *table, const uint8_t *id) {
    const hm_publisher *entry = hm_publishers_find(table, id);
    return entry ? entry->last : 0;
}

hm_publisher *hm_publishers_keep(hm_publishers *table, const uint8_t *id, uint64_t first,
                                 uint64_t next) {
    uint64_t last = last_of(table, id);
    if (first <= last) {
        regain(table, id, first, next);
    }
    return hm_publishers_set(table, id, next > last ? next - 1 : last);
}

void hm_publishers_lose(hm_publishers *table, const uint8_t *id, uint64_t first, uint64_t next) {
    uint64_t last = last_of(table, id);
    for (uint32_t i = 0; i < table->missing_count; i++) {
        hm_missing *at = &table->missing[i];
        if (!is_of(at, id)) {
            continue;
        }
        if (at->first <= first && at->next >= next) {
            return;
        }
        if (at->next == last + 1 && first >= at->first) { /* nothing that is there lies between */
            at->next = next > at->next ? next : at->next;
            first = next;
            break;
        }
    }
    if (first < next) {
        add_missing(table, id, first, next);
    }
    hm_publishers_set(table, id, next > last ? next - 1 : last);
}

void hm_publishers_expect(hm_publishers *table, const uint8_t *id, uint64_t first, uint64_t lost) {
    uint64_t last = last_of(table, id);
    if (first <= last + 1) {
        return;
    }
    if (lost) {
        if (lost < first - last - 1) { /* what comes before was trimmed, not lost */
            last = first - lost - 1;
            hm_publishers_set(table, id, last);
        }
        hm_publishers_lose(table, id, last + 1, first);
    } else {
        hm_publishers_set(table, id, first - 1);
    }
}

bool hm_publishers_misses(const hm_publishers *table, const uint8_t *id, uint64_t sequence) {
    for (uint32_t i = 0; i < table->missing_count; i++) {
        const hm_missing *at = &table->missing[i];
        if (at->first <= sequence && sequence < at->next && is_of(at, id)) {
            return true;
        }
    }
    return false;
}

const hm_missing *hm_publishers_missing(const hm_publishers *table, const uint8_t *id,
                                        uint64_t from) {
    const hm_missing *first = NULL;
    for (uint32_t i = 0; i < table->missing_count; i++) {
        const hm_missing *at = &table->missing[i];
        if (at->first >= from && is_of(at, id) && (first == NULL || at->first < first->first)) {
            first = at;
        }
    }
    return first;
}

uint32_t hm_publishers_missing_count(const hm_publishers *table) {
    return table->missing_count;
}

uint32_t hm_publishers_count(const hm_publishers *table) {
    return table->count;
}

hm_publisher *hm_publishers_oldest(hm_publishers *table) {
    return table->all.oldest ? &table->entries[table->all.oldest - 1] : NULL;
}

hm_publisher *hm_publishers_newer(hm_publishers *table, const hm_publisher *publisher) {
    uint32_t newer = publisher->use[HM_USE_ALL].newer;
    return newer ? &table->entries[newer - 1] : NULL;
}
