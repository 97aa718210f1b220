/* hz_map.c -- turns ZeroMQ messages into frames, and frames into messages. */
#include "hz_map.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "hm_api.h"
#include "hm_properties.h"
#include "hz_library.h"

#define API_VERSION_NEEDED 1

#define RAW          "_zmq.raw"
#define RESERVED     "_zmq"
#define RESERVED_LEN 4

#define MORE   "zmq.more"
#define SINGLE "zmq.single"
#define WHOLE  "zmq.whole"
#define TOPIC  "zmq.topic"
#define PARTS  "zmq.parts"
#define LEN(x) ((uint32_t)sizeof(x) - 1)

#define JOINED_KEPT 1048576 /* bytes of scratch kept between messages: larger ones are rare */
#define FRAME_EXTRA                                                                                \
    70000 /* bytes of a frame beside payload and parts: header, topic, paddings, a                 \
             property block */

#define WORDS_ROOM 1024 /* slots that the table of words begins with */

struct hz_map {
    const hm_api *api;
    int split;
    int form;
    uint32_t message_max;
    uint32_t topic_len;
    uint32_t legal_len;          /* of the topic that was found legal last */
    uint8_t topic[HM_TOPIC_MAX]; /* the fixed one */
    uint8_t legal[HM_TOPIC_MAX];
    uint64_t *words;      /* hashes of the first words seen; open addressing, 0: free */
    uint64_t words_room;  /* slots, a power of two; 0: there is no table */
    uint64_t words_count; /* hashes in it, at most half of the slots */
    uint64_t words_max;
    uint64_t spared;      /* single parts carried whole because of words_max */
    uint8_t *joined;      /* scratch: parts in one piece */
    uint64_t joined_size; /* bytes */
    uint8_t properties[HM_PROPERTIES_MAX];
};

/* What a message will be. */
typedef struct {
    const uint8_t *topic;
    uint32_t topic_len;
    const hz_part *body; /* payload and further parts */
    uint32_t body_count;
    const hz_part *first; /* goes into zmq.topic, or NULL */
    const char *mark;     /* zmq.single or zmq.whole, or NULL */
} plan;

hz_map *hz_map_new(uintptr_t api, int split, int form, const uint8_t *topic, uint32_t topic_len,
                   uint32_t message_max) {
    const hm_api *table = (const hm_api *)api;
    if (table == NULL || table->version < API_VERSION_NEEDED || topic_len > HM_TOPIC_MAX)
        return NULL;
    hz_map *map = calloc(1, sizeof *map);
    if (map == NULL)
        return NULL;
    map->api = table;
    map->split = split;
    map->words_max = UINT64_MAX;
    map->form = form;
    map->message_max = message_max;
    map->topic_len = topic_len;
    if (topic_len > 0)
        memcpy(map->topic, topic, topic_len);
    return map;
}

void hz_map_free(hz_map *map) {
    if (map != NULL) {
        free(map->joined);
        free(map->words);
    }
    free(map);
}

void hz_map_words(hz_map *map, uint64_t words_max) {
    map->words_max = words_max;
}

uint64_t hz_map_words_taken(const hz_map *map) {
    return map->words_count;
}

uint64_t hz_map_spared(const hz_map *map) {
    return map->spared;
}

/* ---- in ---- */

/* Whether the bytes are a topic that may stand in a frame; the one before is recognised. */
static int is_topic(hz_map *map, const uint8_t *name, uint64_t size) {
    if (size == 0 || size > HM_TOPIC_MAX)
        return 0;
    uint32_t len = (uint32_t)size;
    if (len == map->legal_len && memcmp(name, map->legal, len) == 0)
        return 1;
    if (len >= RESERVED_LEN && memcmp(name, RESERVED, RESERVED_LEN) == 0 &&
        (len == RESERVED_LEN || name[RESERVED_LEN] == '.'))
        return 0;
    if (map->api->topic_check(name, len) != 0)
        return 0;
    memcpy(map->legal, name, len);
    map->legal_len = len;
    return 1;
}

/* FNV-1a, mixed once more: slots are taken from the low bits.  Never 0. */
static uint64_t hash_word(const uint8_t *word, uint32_t len) {
    uint64_t hash = 0xcbf29ce484222325U;
    for (uint32_t i = 0; i < len; i++)
        hash = (hash ^ word[i]) * 0x100000001b3U;
    hash = (hash ^ (hash >> 32)) * 0xd6e8feb86659fd93U;
    return (hash ^ (hash >> 32)) | 1U;
}

static uint64_t *find_word(uint64_t *words, uint64_t room, uint64_t hash) {
    uint64_t at = (hash >> 1) & (room - 1);
    while (words[at] != 0 && words[at] != hash)
        at = (at + 1) & (room - 1);
    return words + at;
}

/* Doubles the table; 0: no memory. */
static int grow_words(hz_map *map) {
    uint64_t room = map->words_room == 0 ? WORDS_ROOM : 2 * map->words_room;
    uint64_t *words = calloc(room, sizeof *words);
    if (words == NULL)
        return 0;
    for (uint64_t i = 0; i < map->words_room; i++)
        if (map->words[i] != 0)
            *find_word(words, room, map->words[i]) = map->words[i];
    free(map->words);
    map->words = words;
    map->words_room = room;
    return 1;
}

/* Whether the first word of a single part may be a topic: it was one before, or there is room. */
static int may_be_topic(hz_map *map, const uint8_t *word, uint32_t len) {
    if (2 * map->words_count >= map->words_room && !grow_words(map) &&
        map->words_count + 1 >= map->words_room)
        return 0;
    uint64_t hash = hash_word(word, len);
    uint64_t *slot = find_word(map->words, map->words_room, hash);
    if (*slot == hash)
        return 1;
    if (map->words_count >= map->words_max)
        return 0;
    *slot = hash;
    map->words_count++;
    return 1;
}

static void plan_raw(plan *to, const hz_part *parts, uint32_t count) {
    to->topic = (const uint8_t *)RAW;
    to->topic_len = LEN(RAW);
    to->body = parts;
    to->body_count = count;
    to->mark = WHOLE;
}

/* `split_part` is where the rest of a single part is described. */
static void make_plan(hz_map *map, const hz_part *parts, uint32_t count, hz_part *split_part,
                      plan *to) {
    const hz_part *first = parts;
    *to = (plan){.body = parts + 1, .body_count = count - 1};
    if (map->topic_len > 0) {
        to->topic = map->topic;
        to->topic_len = map->topic_len;
        to->body = parts;
        to->body_count = count;
    } else if (count > 1) {
        to->topic = first->data;
        to->topic_len = (uint32_t)first->size;
        if (!is_topic(map, first->data, first->size)) {
            to->topic = (const uint8_t *)RAW;
            to->topic_len = LEN(RAW);
            to->first = first;
            if (first->size > HM_PROPERTY_VALUE_MAX / 2)
                plan_raw(to, parts, count), to->first = NULL;
        }
    } else {
        uint64_t span = first->size < HM_TOPIC_MAX + 1 ? first->size : HM_TOPIC_MAX + 1;
        const uint8_t *space =
            map->split && span > 0 ? memchr(first->data, ' ', (size_t)span) : NULL;
        uint64_t len = space == NULL ? 0 : (uint64_t)(space - first->data);
        if (!is_topic(map, first->data, len)) {
            plan_raw(to, parts, count);
            return;
        }
        if (!may_be_topic(map, first->data, (uint32_t)len)) {
            map->spared++;
            plan_raw(to, parts, count);
            return;
        }
        to->topic = first->data;
        to->topic_len = (uint32_t)len;
        split_part->data = space + 1;
        split_part->size = first->size - len - 1;
        to->body = split_part;
        to->body_count = 1;
        to->mark = SINGLE;
    }
}

static int grow_joined(hz_map *map, uint64_t size) {
    if (size <= map->joined_size)
        return 0;
    free(map->joined);
    map->joined = malloc(size);
    map->joined_size = map->joined == NULL ? 0 : size;
    return map->joined == NULL ? -HM_ENOMEM : 0;
}

/* All of the body in one piece, and a header with the lengths. */
static int join(hz_map *map, const plan *how, uint32_t *properties_len, hz_part *payload) {
    uint64_t total = 0;
    for (uint32_t i = 0; i < how->body_count; i++)
        total += how->body[i].size;
    if (total > map->message_max)
        return -HM_ELENGTH;
    if (grow_joined(map, total) < 0)
        return -HM_ENOMEM;
    uint32_t lengths[HZ_PARTS_MAX];
    uint64_t at = 0;
    for (uint32_t i = 0; i < how->body_count; i++) {
        lengths[i] = (uint32_t)how->body[i].size;
        if (lengths[i] > 0)
            memcpy(map->joined + at, how->body[i].data, lengths[i]);
        at += lengths[i];
    }
    *properties_len = hm_properties_put(map->properties, *properties_len, PARTS, LEN(PARTS),
                                        lengths, how->body_count * (uint32_t)sizeof lengths[0]);
    payload->data = map->joined;
    payload->size = total;
    return 0;
}

/* Fills the property block; sets what the payload is. */
static int make_properties(hz_map *map, const plan *how, uint32_t *len, hz_part *payload) {
    uint8_t *block = map->properties;
    uint32_t size = hm_properties_begin(block);
    if (how->mark != NULL)
        size = hm_properties_put(block, size, how->mark, (uint32_t)strlen(how->mark), NULL, 0);
    if (how->first != NULL)
        size = hm_properties_put(block, size, TOPIC, LEN(TOPIC), how->first->data,
                                 (uint32_t)how->first->size);
    uint64_t more = 0;
    for (uint32_t i = 1; i < how->body_count; i++)
        more += how->body[i].size + hm_property_size(LEN(MORE), 0);
    *payload = how->body[0];
    if (size + more > HM_PROPERTIES_MAX) {
        *len = size;
        return join(map, how, len, payload);
    }
    for (uint32_t i = 1; i < how->body_count; i++) {
        assert(how->body[i].size <= HM_PROPERTY_VALUE_MAX); /* the block has no more */
        size = hm_properties_put(block, size, MORE, LEN(MORE), how->body[i].data,
                                 (uint32_t)how->body[i].size);
    }
    *len = size;
    return 0;
}

int64_t hz_map_in(hz_map *map, const hz_part *parts, uint32_t count, uint8_t *out,
                  uint64_t capacity, uint64_t sequence, uint64_t timestamp_ns) {
    assert(count > 0 && count <= HZ_PARTS_MAX);
    plan how;
    hz_part split_part, payload;
    uint32_t properties_len = 0;
    make_plan(map, parts, count, &split_part, &how);
    payload = how.body[0];
    if (how.mark != NULL || how.first != NULL || how.body_count > 1) {
        int status = make_properties(map, &how, &properties_len, &payload);
        if (status < 0)
            return status;
    }
    if (payload.size > map->message_max)
        return -HM_ELENGTH;
    int64_t size = map->api->frame_encode(out, capacity, HM_MESSAGE, how.topic, how.topic_len,
                                          map->properties, properties_len, payload.data,
                                          (uint32_t)payload.size, sequence, timestamp_ns);
    if (map->joined_size > JOINED_KEPT) {
        free(map->joined);
        map->joined = NULL;
        map->joined_size = 0;
    }
    return size;
}

uint64_t hz_map_bound(const hz_part *parts, uint32_t count) {
    uint64_t total = FRAME_EXTRA;
    for (uint32_t i = 0; i < count; i++)
        total += parts[i].size;
    return total;
}

/* ---- out ---- */

static int is(const hm_property *property, const char *name, uint32_t len) {
    return property->name_len == len && memcmp(property->name, name, len) == 0;
}

static void add(hz_message *message, const uint8_t *data, uint64_t size) {
    message->parts[message->count++] = (hz_part){data, size};
}

/* Cuts the payload into the parts whose lengths the header tells; 0 if they do not fit it. */
static int cut(const hm_property *lengths, const uint8_t *payload, uint64_t size,
               hz_message *message) {
    uint64_t at = 0;
    if (lengths->value_len % 4 != 0 || lengths->value_len / 4 > HZ_PARTS_MAX - message->count ||
        lengths->value_len == 0)
        return 0;
    for (uint32_t i = 0; i < lengths->value_len; i += 4) {
        uint32_t length;
        memcpy(&length, lengths->value + i, sizeof length);
        if (length > size - at)
            return 0;
        add(message, payload + at, length);
        at += length;
    }
    return at == size;
}

/* The parts of a frame with properties.  0: there are none of ours, or they make no sense. */
static int from_properties(const uint8_t *block, uint32_t block_len, const hz_part *topic,
                           const hz_part *payload, int bare, hz_message *message, int *odd) {
    hm_property property, first = {0}, parts = {0};
    int single = 0, whole = 0, found = 0;
    int64_t begin = hm_properties_headers(block, block_len);
    if (begin < 0)
        return 0; /* somebody else's encoding */
    uint32_t offset = (uint32_t)begin;
    int status;
    while ((status = hm_properties_next(block, block_len, &offset, &property)) > 0) {
        found += is(&property, MORE, LEN(MORE));
        if (is(&property, SINGLE, LEN(SINGLE)))
            single = 1;
        else if (is(&property, WHOLE, LEN(WHOLE)))
            whole = 1;
        else if (is(&property, TOPIC, LEN(TOPIC)))
            first = property;
        else if (is(&property, PARTS, LEN(PARTS)))
            parts = property;
    }
    if (!(found || single || whole || first.name || parts.name))
        return 0;
    *odd = status < 0 || single + whole + (first.name != NULL) > 1 ||
           (found && parts.name != NULL) || found > HZ_PARTS_MAX - 1 - !whole ||
           (single && (found || parts.name != NULL));
    if (*odd)
        return 0;
    if (first.name != NULL)
        add(message, first.value, first.value_len);
    else if (!whole && !bare)
        add(message, topic->data, topic->size);
    message->single = single && !bare;
    if (parts.name != NULL) {
        *odd = !cut(&parts, payload->data, payload->size, message);
        return !*odd;
    }
    add(message, payload->data, payload->size);
    offset = (uint32_t)begin;
    while (found && hm_properties_next(block, block_len, &offset, &property) > 0)
        if (is(&property, MORE, LEN(MORE)))
            add(message, property.value, property.value_len);
    return 1;
}

int64_t hz_map_out(hz_map *map, const uint8_t *frame, uint64_t size, hz_message *message,
                   int *odd) {
    hm_slice slice;
    uint64_t needed;
    *odd = 0;
    int64_t taken = map->api->frame_check(frame, size, map->message_max, &slice, &needed);
    if (taken < 0)
        return taken;
    if (slice.type != HM_MESSAGE)
        return -HM_ETYPE;
    hz_part topic = {frame + HM_FRAME_HEADER, slice.topic_len};
    hz_part payload = {frame + slice.payload_offset, slice.payload_len};
    message->count = message->single = 0;
    if (slice.properties) {
        const uint8_t *block = topic.data + ((slice.topic_len + 7U) & ~7U);
        uint32_t block_len;
        memcpy(&block_len, block, sizeof block_len);
        if (from_properties(block + 4, block_len, &topic, &payload, map->form == HZ_BARE, message,
                            odd))
            return taken;
        message->count = message->single = 0;
    }
    message->single = map->form == HZ_SINGLE;
    if (map->form != HZ_BARE)
        add(message, topic.data, topic.size);
    add(message, payload.data, payload.size);
    return taken;
}

/* ---- what the pump needs of the core ---- */

void hz_batch_begin(const hz_map *map, uint8_t *out, uint32_t id, uint64_t after, uint64_t through,
                    uint64_t frames_size, uint64_t now_ns) {
    map->api->batch_encode(out, id, 0, after, through, frames_size, now_ns);
}

void hz_batch_parse(const hz_map *map, const uint8_t *data, hm_batch *batch) {
    map->api->batch_parse(data, batch);
}
