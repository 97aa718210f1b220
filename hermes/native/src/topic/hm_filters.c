/* hm_filters.c -- the trie of filters, and the lists of those that want a topic. */
#include "hm_filters.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define NONE       UINT32_MAX
#define NO_LIST    0u         /* the empty list: of topics that nobody in particular wants */
#define UNINTERNED UINT32_MAX /* matched anew each time */
#define FEW        4u         /* changes of a sweep up to which each is looked at by itself */
#define SLOTS_MIN  16u

#ifdef HM_SMALL_BOUNDS /* a test reaches them */
#define ENTRIES_MAX 16u
#else
#define ENTRIES_MAX HM_FILTERS_ENTRIES_MAX
#endif

/* ---- a map from hashes to numbers, whose keys its user compares ---- */

typedef struct {
    uint64_t *slots; /* tag << 32 | number + 1; 0: free */
    uint32_t mask;
    uint32_t count;
} map;

static int map_new(map *m) {
    *m = (map){calloc(SLOTS_MIN, sizeof(uint64_t)), SLOTS_MIN - 1, 0};
    return m->slots == NULL ? -HM_ENOMEM : 0;
}

static void map_place(map *m, uint64_t slot) {
    uint32_t at = (uint32_t)(slot >> 32) & m->mask;
    while (m->slots[at] != 0)
        at = (at + 1) & m->mask;
    m->slots[at] = slot;
}

/* Makes room for one more, so that map_put can't fail. */
static int map_reserve(map *m) {
    if (m->count + 1 <= m->mask / 2)
        return 0;
    uint32_t old = m->mask + 1;
    uint64_t *slots = m->slots, *more = calloc((size_t)old * 2, sizeof *more);
    if (more == NULL)
        return -HM_ENOMEM;
    m->slots = more;
    m->mask = old * 2 - 1;
    for (uint32_t i = 0; i < old; i++)
        if (slots[i] != 0)
            map_place(m, slots[i]);
    free(slots);
    return 0;
}

static void map_put(map *m, uint64_t hash, uint32_t number) {
    assert(m->count < m->mask);
    map_place(m, hash >> 32 << 32 | ((uint64_t)number + 1));
    m->count++;
}

static void map_remove(map *m, uint64_t hash, uint32_t number) {
    uint64_t slot = hash >> 32 << 32 | ((uint64_t)number + 1);
    uint32_t at = (uint32_t)(hash >> 32) & m->mask;
    while (m->slots[at] != slot) {
        assert(m->slots[at] != 0);
        at = (at + 1) & m->mask;
    }
    /* Close the hole: move back what a probe would no longer reach past it. */
    for (uint32_t next = (at + 1) & m->mask; m->slots[next] != 0; next = (next + 1) & m->mask) {
        uint32_t home = (uint32_t)(m->slots[next] >> 32) & m->mask;
        if (((next - home) & m->mask) >= ((next - at) & m->mask)) {
            m->slots[at] = m->slots[next];
            at = next;
        }
    }
    m->slots[at] = 0;
    m->count--;
}

/* Steps through the numbers stored under `hash`: `*at` begins as its home.  NONE at the end. */
static uint32_t map_next(const map *m, uint64_t hash, uint32_t *at) {
    for (;;) {
        uint64_t slot = m->slots[*at & m->mask];
        if (slot == 0)
            return NONE;
        (*at)++;
        if (slot >> 32 == hash >> 32)
            return (uint32_t)slot - 1;
    }
}

static uint32_t map_home(uint64_t hash) {
    return (uint32_t)(hash >> 32);
}

/* ---- numbered things: an array of pointers whose free numbers are used again ---- */

typedef struct {
    void **items;
    uint32_t used; /* numbers given so far */
    uint32_t room;
    uint32_t *spare; /* numbers free to be used again; has `room` places */
    uint32_t spares;
} numbers;

static int numbers_reserve(numbers *n) {
    if (n->spares > 0 || n->used < n->room)
        return 0;
    uint32_t room = n->room == 0 ? 16 : n->room * 2;
    void **items = realloc(n->items, room * sizeof *items);
    if (items == NULL)
        return -HM_ENOMEM;
    n->items = items;
    uint32_t *spare = realloc(n->spare, room * sizeof *spare);
    if (spare == NULL)
        return -HM_ENOMEM;
    n->spare = spare;
    n->room = room;
    return 0;
}

static uint32_t numbers_put(numbers *n, void *item) {
    assert(n->spares > 0 || n->used < n->room);
    uint32_t number = n->spares > 0 ? n->spare[--n->spares] : n->used++;
    n->items[number] = item;
    return number;
}

static void numbers_remove(numbers *n, uint32_t number) {
    assert(number < n->used && n->items[number] != NULL);
    free(n->items[number]);
    n->items[number] = NULL;
    n->spare[n->spares++] = number;
}

static void numbers_free(numbers *n) {
    for (uint32_t i = 0; i < n->used; i++)
        free(n->items[i]);
    free(n->items);
    free(n->spare);
}

/* ---- what is kept ---- */

typedef struct {
    uint64_t hash;
    uint64_t
        sweep; /* number of the sweep that brings it into the lists, or takes it out; 0: none */
    uint32_t users;   /* 0: it is gone, and its number is kept for as long as lists have it */
    uint32_t matched; /* topics */
    uint32_t counted; /* topics from this one on are in `matched` since they were added */
    uint32_t node;    /* where it ends in the trie; NONE for prefixes */
    uint32_t head;    /* bytes before the first wildcard: most names are refused by them */
    uint32_t len;
    uint8_t kind;
    uint8_t all;   /* wants everything for ever */
    uint8_t exact; /* a pattern without wildcards */
    uint8_t text[];
} filter;

typedef struct {
    uint64_t hash; /* of parent and token: the edge that leads here */
    uint32_t parent;
    uint32_t star;     /* child for any one token */
    uint32_t end;      /* filter that ends here */
    uint32_t more;     /* filter that ends here with `>` */
    uint32_t children; /* the star child included */
    uint32_t len;
    uint8_t token[];
} node;

typedef struct {
    uint64_t hash;
    uint32_t topics; /* that have this list */
    uint32_t count;
    uint32_t ids[];
} list;

struct hm_filters {
    hm_topics *topics;
    uint32_t capacity;
    uint32_t count;
    numbers filters;
    map by_text;
    numbers nodes; /* 0: the root */
    map edges;
    uint32_t prefix_lengths[HM_TOPIC_MAX + 1]; /* prefix filters of each length */
    numbers lists;
    map by_ids;
    uint64_t entries;  /* of all lists */
    uint32_t *scratch; /* one match's result: has room for every filter */
    uint32_t scratch_room;
    /* A sweep goes once over the topics for all filters that have come and gone before it began. */
    uint64_t sweep;    /* number of the one under way, or of the last */
    uint32_t sweep_at; /* next topic */
    uint32_t sweep_end;
    uint32_t *changes; /* filters of the sweep under way, then those of the next */
    uint32_t changes_now;
    uint32_t changes_all;
    uint32_t changes_room;
};

static filter *filter_at(const hm_filters *f, uint32_t number) {
    assert(number < f->filters.used && f->filters.items[number] != NULL);
    return f->filters.items[number];
}

static node *node_at(const hm_filters *f, uint32_t number) {
    assert(number < f->nodes.used && f->nodes.items[number] != NULL);
    return f->nodes.items[number];
}

static list *list_at(const hm_filters *f, uint32_t number) {
    assert(number < f->lists.used && f->lists.items[number] != NULL);
    return f->lists.items[number];
}

static uint64_t text_hash(const uint8_t *text, uint32_t len, uint64_t salt) {
    uint8_t padded[HM_TOPIC_MAX + 1] = {0};
    if (len > 0)
        memcpy(padded, text, len);
    uint64_t hash = (hm_topic_hash(padded, len) ^ salt) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 29;
}

/* ---- lists ---- */

static uint64_t ids_hash(const uint32_t *ids, uint32_t count) {
    uint64_t hash = count;
    for (uint32_t i = 0; i < count; i++) {
        hash = (hash ^ ids[i]) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
    }
    return hash * 0x9e3779b97f4a7c15u;
}

/* The number of the list with these (ascending) ids; UNINTERNED if there is no room for it. */
static uint32_t intern(hm_filters *f, const uint32_t *ids, uint32_t count) {
    if (count == 0)
        return NO_LIST;
    uint64_t hash = ids_hash(ids, count);
    uint32_t at = map_home(hash), number;
    while ((number = map_next(&f->by_ids, hash, &at)) != NONE) {
        const list *known = list_at(f, number);
        if (known->count == count && memcmp(known->ids, ids, count * sizeof *ids) == 0)
            return number;
    }
    if (f->entries + count > ENTRIES_MAX || map_reserve(&f->by_ids) != 0 ||
        numbers_reserve(&f->lists) != 0)
        return UNINTERNED;
    list *new = malloc(sizeof *new + count * sizeof *ids);
    if (new == NULL)
        return UNINTERNED;
    *new = (list){.hash = hash, .count = count};
    memcpy(new->ids, ids, count * sizeof *ids);
    f->entries += count;
    number = numbers_put(&f->lists, new);
    map_put(&f->by_ids, hash, number);
    return number;
}

static void list_forget(hm_filters *f, uint32_t number) {
    const list *gone = list_at(f, number);
    assert(gone->topics == 0 && number != NO_LIST);
    f->entries -= gone->count;
    map_remove(&f->by_ids, gone->hash, number);
    numbers_remove(&f->lists, number);
}

static void topic_set_list(hm_filters *f, hm_topic *topic, uint32_t number) {
    uint32_t old = topic->list;
    if (number == old)
        return;
    if (number != UNINTERNED)
        list_at(f, number)->topics++;
    topic->list = number;
    if (old != UNINTERNED && --list_at(f, old)->topics == 0 && old != NO_LIST)
        list_forget(f, old);
}

/* Where `id` stands in the list, or should. */
static uint32_t list_find(const list *in, uint32_t id) {
    uint32_t low = 0, high = in->count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (in->ids[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The list `number` with `id` added or removed. */
static uint32_t list_changed(hm_filters *f, uint32_t number, uint32_t id, int add) {
    const list *old = list_at(f, number);
    uint32_t at = list_find(old, id);
    int there = at < old->count && old->ids[at] == id;
    if (there == add)
        return number;
    uint32_t *ids = f->scratch, rest = at + (add ? 0 : 1);
    memcpy(ids, old->ids, at * sizeof *ids);
    ids[at] = id;
    memcpy(ids + at + (add ? 1 : 0), old->ids + rest, (old->count - rest) * sizeof *ids);
    return intern(f, ids, old->count + (add ? 1 : 0) - (add ? 0 : 1));
}

/* ---- matching ---- */

static int wants(const filter *wanted, const uint8_t *name, uint32_t len) {
    if (wanted->all)
        return 1;
    if (len < wanted->head || memcmp(name, wanted->text, wanted->head) != 0)
        return 0;
    if (wanted->kind == HM_FILTER_PREFIX)
        return 1;
    if (wanted->exact)
        return len == wanted->len;
    return len > 0 && hm_pattern_match(wanted->text, wanted->len, name, len);
}

int hm_filters_wants(const hm_filters *f, uint32_t number, const uint8_t *name, uint32_t len) {
    return wants(filter_at(f, number), name, len);
}

static uint64_t edge_hash(uint32_t parent, const uint8_t *token, uint32_t len) {
    return text_hash(token, len, ((uint64_t)parent + 1) * 0xd1b54a32d192ed03u);
}

static uint32_t child_find(const hm_filters *f, uint32_t parent, const uint8_t *token, uint32_t len,
                           uint64_t hash) {
    uint32_t at = map_home(hash), number;
    while ((number = map_next(&f->edges, hash, &at)) != NONE) {
        const node *child = node_at(f, number);
        if (child->parent == parent && child->len == len && memcmp(child->token, token, len) == 0)
            return number;
    }
    return NONE;
}

static uint32_t token_len(const uint8_t *at, const uint8_t *end) {
    const uint8_t *dot = at < end ? memchr(at, '.', (size_t)(end - at)) : NULL;
    return (uint32_t)((dot != NULL ? dot : end) - at);
}

/* Appends the filters below node `number` that want the tokens at..end (`at` NULL: none is left) to
 * the scratch. Recursion is as deep as a name has tokens: 128 at most. */
static uint32_t match(hm_filters *f, uint32_t number, const uint8_t *at, const uint8_t *end,
                      uint32_t found) {
    const node *here = node_at(f, number);
    if (at == NULL) {
        if (here->end != NONE)
            f->scratch[found++] = here->end;
        return found;
    }
    if (here->more != NONE)
        f->scratch[found++] = here->more;
    if (here->children == 0)
        return found;
    uint32_t len = token_len(at, end);
    const uint8_t *rest = at + len < end ? at + len + 1 : NULL;
    if (here->star != NONE)
        found = match(f, here->star, rest, end, found);
    uint32_t child = child_find(f, number, at, len, edge_hash(number, at, len));
    return child == NONE ? found : match(f, child, rest, end, found);
}

static uint32_t filter_find(const hm_filters *f, int kind, const uint8_t *text, uint32_t len,
                            uint64_t hash) {
    uint32_t at = map_home(hash), number;
    while ((number = map_next(&f->by_text, hash, &at)) != NONE) {
        const filter *known = filter_at(f, number);
        if (known->kind == kind && known->len == len && memcmp(known->text, text, len) == 0)
            return number;
    }
    return NONE;
}

static uint64_t filter_hash(int kind, const uint8_t *text, uint32_t len) {
    return text_hash(text, len, (uint64_t)kind);
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Every filter that wants `name`, but for those that want everything, into the scratch, ascending.
 */
static uint32_t match_name(hm_filters *f, const uint8_t *name, uint32_t len) {
    uint32_t found = len > 0 ? match(f, 0, name, name + len, 0) : 0;
    for (uint32_t prefix = 1; prefix <= len; prefix++) {
        if (f->prefix_lengths[prefix] == 0)
            continue;
        uint64_t hash = filter_hash(HM_FILTER_PREFIX, name, prefix);
        uint32_t number = filter_find(f, HM_FILTER_PREFIX, name, prefix, hash);
        if (number != NONE)
            f->scratch[found++] = number;
    }
    assert(found <= f->count);
    if (found > 1)
        qsort(f->scratch, found, sizeof *f->scratch, ascending);
    return found;
}

void hm_filters_topic(hm_filters *f, uint32_t index) {
    hm_topic *topic = hm_topics_at(f->topics, index);
    uint32_t len;
    const uint8_t *name = hm_topics_name(f->topics, index, &len);
    uint32_t found = match_name(f, name, len);
    for (uint32_t i = 0; i < found; i++)
        filter_at(f, f->scratch[i])->matched++;
    topic->list = UNINTERNED;
    topic_set_list(f, topic, intern(f, f->scratch, found));
}

const uint32_t *hm_filters_interested(hm_filters *f, uint32_t index, uint32_t *count) {
    const hm_topic *topic = hm_topics_at(f->topics, index);
    if (topic->list != UNINTERNED) {
        const list *wanted = list_at(f, topic->list);
        *count = wanted->count;
        return wanted->ids;
    }
    uint32_t len;
    const uint8_t *name = hm_topics_name(f->topics, index, &len);
    *count = match_name(f, name, len);
    return f->scratch;
}

/* ---- filters come and go ---- */

/* An exact pattern concerns one topic at most. */
static void change_exact(hm_filters *f, uint32_t id, int add) {
    filter *changed = filter_at(f, id);
    int64_t index = hm_topics_find(f->topics, changed->text, changed->len);
    if (index < 0)
        return;
    changed->matched = add ? 1 : 0;
    hm_topic *topic = hm_topics_at(f->topics, (uint32_t)index);
    if (topic->list != UNINTERNED)
        topic_set_list(f, topic, list_changed(f, topic->list, id, add));
}

static int changes_reserve(hm_filters *f) {
    if (f->changes_all < f->changes_room)
        return 0;
    uint32_t room = f->changes_room == 0 ? 16 : f->changes_room * 2;
    uint32_t *changes = realloc(f->changes, room * sizeof *changes);
    if (changes == NULL)
        return -HM_ENOMEM;
    f->changes = changes;
    f->changes_room = room;
    return 0;
}

/* After changes_reserve: has the next sweep look at filter `id`: add it, or take it out if it is
 * gone. */
static void change_later(hm_filters *f, uint32_t id) {
    filter *changed = filter_at(f, id);
    uint64_t next = f->sweep + 1;
    if (changed->sweep == next)
        return;
    changed->sweep = next;
    assert(f->changes_all < f->changes_room);
    f->changes[f->changes_all++] = id;
}

/* One topic's list, where the sweep changes few filters.  Returns what it cost. */
static uint32_t sweep_few(hm_filters *f, uint32_t index) {
    hm_topic *topic = hm_topics_at(f->topics, index);
    uint32_t len, add[FEW], gone[FEW], adds = 0, gones = 0;
    const uint8_t *name = hm_topics_name(f->topics, index, &len);
    for (uint32_t i = 0; i < f->changes_now; i++) {
        uint32_t id = f->changes[i];
        filter *changed = filter_at(f, id);
        if (changed->sweep != f->sweep)
            continue; /* it has gone since: the next sweep's */
        if (changed->users == 0) {
            gone[gones++] = id;
        } else if (wants(changed, name, len)) {
            changed->matched += index < changed->counted;
            add[adds++] = id;
        }
    }
    uint32_t new = topic->list;
    for (uint32_t i = 0; i < adds && new != UNINTERNED; i++)
        topic_set_list(f, topic, new = list_changed(f, new, add[i], 1));
    for (uint32_t i = 0; i < gones && new != UNINTERNED; i++)
        topic_set_list(f, topic, new = list_changed(f, new, gone[i], 0));
    return 1 + f->changes_now + (adds + gones) * 4;
}

/* The same where it changes many: the name is matched again. */
static uint32_t sweep_many(hm_filters *f, uint32_t index) {
    uint32_t len;
    const uint8_t *name = hm_topics_name(f->topics, index, &len);
    uint32_t found = match_name(f, name, len);
    for (uint32_t i = 0; i < found; i++) {
        filter *wanted = filter_at(f, f->scratch[i]);
        wanted->matched += wanted->sweep == f->sweep && index < wanted->counted;
    }
    topic_set_list(f, hm_topics_at(f->topics, index), intern(f, f->scratch, found));
    return 8 + found * 4;
}

static void sweep_begin(hm_filters *f) {
    f->sweep++;
    f->sweep_at = 0;
    f->sweep_end = hm_topics_count(f->topics);
    f->changes_now = f->changes_all;
}

static void sweep_end(hm_filters *f) {
    for (uint32_t i = 0; i < f->changes_now; i++) {
        filter *changed = filter_at(f, f->changes[i]);
        if (changed->sweep != f->sweep)
            continue;
        changed->sweep = 0;
        if (changed->users == 0)
            numbers_remove(&f->filters, f->changes[i]);
    }
    f->changes_all -= f->changes_now;
    if (f->changes_all > 0)
        memmove(f->changes, f->changes + f->changes_now, f->changes_all * sizeof *f->changes);
    f->changes_now = 0;
}

int hm_filters_sweep(hm_filters *f, uint64_t budget) {
    for (uint64_t spent = 0; f->changes_all > 0;) {
        if (f->changes_now == 0)
            sweep_begin(f);
        for (; f->sweep_at < f->sweep_end; f->sweep_at++) {
            if (spent >= budget)
                return 1;
            spent += (f->changes_now <= FEW ? sweep_few : sweep_many)(f, f->sweep_at);
        }
        spent += f->changes_now;
        sweep_end(f);
    }
    return 0;
}

int hm_filters_settled(const hm_filters *f, uint32_t number) {
    return filter_at(f, number)->sweep == 0;
}

static uint32_t node_new(hm_filters *f, uint32_t parent, const uint8_t *token, uint32_t len) {
    if (numbers_reserve(&f->nodes) != 0 || map_reserve(&f->edges) != 0)
        return NONE;
    node *new = malloc(sizeof *new + len);
    if (new == NULL)
        return NONE;
    *new = (node){.parent = parent, .star = NONE, .end = NONE, .more = NONE, .len = len};
    if (len > 0)
        memcpy(new->token, token, len);
    return numbers_put(&f->nodes, new);
}

static uint32_t child_make(hm_filters *f, uint32_t parent, const uint8_t *token, uint32_t len) {
    int star = len == 1 && token[0] == '*';
    uint64_t hash = edge_hash(parent, token, len);
    uint32_t child = star ? node_at(f, parent)->star : child_find(f, parent, token, len, hash);
    if (child != NONE)
        return child;
    child = node_new(f, parent, token, len);
    if (child == NONE)
        return NONE;
    node *above = node_at(f, parent);
    above->children++;
    if (star) {
        above->star = child;
    } else {
        node_at(f, child)->hash = hash;
        map_put(&f->edges, hash, child);
    }
    return child;
}

/* Removes nodes that lead nowhere, from `number` upwards. */
static void prune(hm_filters *f, uint32_t number) {
    while (number != 0) {
        const node *here = node_at(f, number);
        if (here->children > 0 || here->end != NONE || here->more != NONE)
            return;
        uint32_t parent = here->parent;
        node *above = node_at(f, parent);
        above->children--;
        if (above->star == number)
            above->star = NONE;
        else
            map_remove(&f->edges, here->hash, number);
        numbers_remove(&f->nodes, number);
        number = parent;
    }
}

/* Walks, and where needed makes, the pattern's path.  Returns its last node; NONE: no memory. */
static uint32_t plant(hm_filters *f, const uint8_t *text, uint32_t len, int *more) {
    const uint8_t *at = text, *end = text + len;
    uint32_t number = 0;
    for (;;) {
        uint32_t size = token_len(at, end);
        *more = size == 1 && at[0] == '>';
        if (*more)
            return number;
        uint32_t child = child_make(f, number, at, size);
        if (child == NONE) {
            prune(f, number);
            return NONE;
        }
        number = child;
        if (at + size == end)
            return number;
        at += size + 1;
    }
}

static int trie_add(hm_filters *f, uint32_t number) {
    filter *new = filter_at(f, number);
    int more;
    uint32_t last = plant(f, new->text, new->len, &more);
    if (last == NONE)
        return -HM_ENOMEM;
    new->node = last;
    if (more)
        node_at(f, last)->more = number;
    else
        node_at(f, last)->end = number;
    return 0;
}

static void trie_remove(hm_filters *f, uint32_t number) {
    uint32_t last = filter_at(f, number)->node;
    node *here = node_at(f, last);
    if (here->more == number)
        here->more = NONE;
    else
        here->end = NONE;
    prune(f, last);
}

static filter *filter_new(int kind, const uint8_t *text, uint32_t len, uint64_t hash) {
    filter *new = malloc(sizeof *new + len);
    if (new == NULL)
        return NULL;
    *new = (filter){.hash = hash, .node = NONE, .head = len, .len = len, .kind = (uint8_t)kind};
    if (len > 0)
        memcpy(new->text, text, len);
    new->all = kind == HM_FILTER_PREFIX ? len == 0 : len == 1 && text[0] == '>';
    new->exact = kind == HM_FILTER_PATTERN;
    if (kind == HM_FILTER_PREFIX)
        return new;
    /* A wildcard is a token of its own, so one of these characters inside a token is not one. */
    for (uint32_t at = 0; at < len;) {
        uint32_t size = token_len(text + at, text + len);
        if (size == 1 && (text[at] == '*' || text[at] == '>')) {
            new->head = at;
            new->exact = 0;
            break;
        }
        at += size + 1;
    }
    return new;
}

static int reserve(hm_filters *f) {
    if (f->count == f->capacity)
        return -HM_ELIMIT;
    if (f->changes_all >= f->capacity * 2) /* so many have gone: their numbers are needed */
        hm_filters_sweep(f, UINT64_MAX);
    /* + 2: a list with one more is built in it, too, and lists may have filters that are gone. */
    if (f->filters.used + 2 > f->scratch_room) {
        uint32_t room = f->scratch_room == 0 ? 64 : f->scratch_room * 2;
        uint32_t *scratch = realloc(f->scratch, room * sizeof *scratch);
        if (scratch == NULL)
            return -HM_ENOMEM;
        f->scratch = scratch;
        f->scratch_room = room;
    }
    int error = map_reserve(&f->by_text);
    if (error == 0)
        error = changes_reserve(f);
    return error != 0 ? error : numbers_reserve(&f->filters);
}

int64_t hm_filters_add(hm_filters *f, int kind, const uint8_t *text, uint32_t len) {
    if (kind == HM_FILTER_PATTERN ? hm_pattern_check(text, len) != 0
                                  : kind != HM_FILTER_PREFIX || len > HM_TOPIC_MAX)
        return -HM_ETOPIC;
    uint64_t hash = filter_hash(kind, text, len);
    uint32_t number = filter_find(f, kind, text, len, hash);
    if (number != NONE) {
        filter_at(f, number)->users++;
        return number;
    }
    int error = reserve(f);
    if (error != 0)
        return error;
    filter *new = filter_new(kind, text, len, hash);
    if (new == NULL)
        return -HM_ENOMEM;
    number = numbers_put(&f->filters, new);
    if (kind == HM_FILTER_PATTERN && !new->all && (error = trie_add(f, number)) != 0) {
        numbers_remove(&f->filters, number);
        return error;
    }
    if (kind == HM_FILTER_PREFIX)
        f->prefix_lengths[len]++;
    map_put(&f->by_text, hash, number);
    f->count++;
    new->users = 1;
    new->counted = hm_topics_count(f->topics);
    if (new->exact)
        change_exact(f, number, 1);
    else if (!new->all && new->counted > 0)
        change_later(f, number);
    return number;
}

int hm_filters_remove(hm_filters *f, uint32_t number) {
    filter *gone = filter_at(f, number);
    assert(gone->users > 0);
    if (--gone->users > 0)
        return 0;
    if (gone->node != NONE)
        trie_remove(f, number);
    if (gone->kind == HM_FILTER_PREFIX)
        f->prefix_lengths[gone->len]--;
    map_remove(&f->by_text, gone->hash, number);
    f->count--;
    if (gone->exact)
        change_exact(f, number, 0);
    if (gone->exact || gone->all)
        numbers_remove(&f->filters, number);
    else if (changes_reserve(f) == 0) /* without memory its number stays taken, nothing worse */
        change_later(f, number);
    return 1;
}

uint32_t hm_filters_matched(const hm_filters *f, uint32_t number) {
    const filter *wanted = filter_at(f, number);
    return wanted->all ? hm_topics_count(f->topics) : wanted->matched;
}

uint32_t hm_filters_count(const hm_filters *f) {
    return f->count;
}

uint32_t hm_filters_numbers(const hm_filters *f) {
    return f->filters.used;
}

hm_filters *hm_filters_new(hm_topics *topics, uint32_t capacity) {
    hm_filters *f = calloc(1, sizeof *f);
    if (f == NULL)
        return NULL;
    f->topics = topics;
    f->capacity = capacity;
    list *empty = calloc(1, sizeof *empty);
    if (empty == NULL || map_new(&f->by_text) != 0 || map_new(&f->edges) != 0 ||
        map_new(&f->by_ids) != 0 || numbers_reserve(&f->lists) != 0 ||
        node_new(f, NONE, NULL, 0) != 0) {
        free(empty);
        hm_filters_free(f);
        return NULL;
    }
    empty->topics = hm_topics_count(topics);
    numbers_put(&f->lists, empty);
    return f;
}

void hm_filters_free(hm_filters *f) {
    if (f == NULL)
        return;
    numbers_free(&f->filters);
    numbers_free(&f->nodes);
    numbers_free(&f->lists);
    free(f->by_text.slots);
    free(f->edges.slots);
    free(f->by_ids.slots);
    free(f->scratch);
    free(f->changes);
    free(f);
}
