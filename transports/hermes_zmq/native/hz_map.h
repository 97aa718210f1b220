/* hz_map.h -- ZeroMQ messages as Hermes frames, and back: frame for frame what went in.
 *
 * A ZeroMQ message is a list of parts.  It becomes one MESSAGE frame:
 *
 *     what came                              topic      payload            headers
 *     [topic, payload]                       topic      payload            none
 *     [topic, payload, more...]              topic      payload            zmq.more, one each
 *     "topic payload", one part              topic      behind the space   zmq.single
 *     one part without a legal topic         _zmq.raw   the part           zmq.whole
 *     [no legal topic, payload, more...]     _zmq.raw   payload            zmq.topic: the first part
 *     any part, under a fixed topic          that       the first part     zmq.whole
 *
 * Where the further parts would not fit a property block, the payload is all of them joined, and
 * the header zmq.parts has their lengths (u32 each).  Topics that begin with the token `_zmq` are
 * reserved: whoever uses one is carried raw.
 *
 * Lines that begin with a time or a counter would make a topic each.  So a map takes a bounded
 * number of different first words for topics (hz_map_words); parts that begin with further ones
 * are carried as parts without a topic are.
 *
 * A frame without these headers comes from a Hermes publisher: its form is chosen.  One thread per
 * map.
 */
#ifndef HZ_MAP_H
#define HZ_MAP_H

#include <stdint.h>

/* cdef-begin -- what the loops in Python share with those in C. */
#define HZ_PARTS_MAX 1024 /* parts of one message: more is refused */

enum {
    HZ_MULTIPART = 0, /* [topic, payload] */
    HZ_SINGLE = 1,    /* "topic payload" in one part */
    HZ_BARE = 2,      /* [payload] */
};

typedef struct {
    const uint8_t *data;
    uint64_t size; /* bytes */
} hz_part;

typedef struct {
    uint32_t count;
    uint32_t single; /* 1: the first two are one part, with a space between */
    hz_part parts[1024];
} hz_message;

typedef struct hz_map hz_map;

/* `api`: address of the core's table.  `split`: whether a single part is looked through for a
 * topic.  `form`: of what Hermes publishers send.  `topic`: under which everything goes, or none.
 * `message_max`: bytes of payload.  NULL: no memory, or an older core. */
hz_map *hz_map_new(uintptr_t api, int split, int form, const uint8_t *topic, uint32_t topic_len,
                   uint32_t message_max);
void hz_map_free(hz_map *map);

/* Takes at most `words_max` different first words of single parts for topics, those of before
 * included; there is no bound until this is called.  Words are remembered as 64-bit hashes, 8 to 32
 * bytes each. */
void hz_map_words(hz_map *map, uint64_t words_max);
/* Different first words that were taken for topics so far. */
uint64_t hz_map_words_taken(const hz_map *map);
/* Single parts that were carried whole because their first word was one too many. */
uint64_t hz_map_spared(const hz_map *map);

/* Encodes a message of `count` parts as a frame.  Returns its size; -HM_EFULL: `capacity` is less
 * than hz_map_bound says; -HM_ELENGTH: over the limit of a message; -HM_ENOMEM. */
int64_t hz_map_in(hz_map *map, const hz_part *parts, uint32_t count, uint8_t *out,
                  uint64_t capacity, uint64_t sequence, uint64_t timestamp_ns);
/* Bytes that are enough for the frame of these parts. */
uint64_t hz_map_bound(const hz_part *parts, uint32_t count);

/* The parts of the MESSAGE frame at `frame`, which is checked wholly: they point into it.  Headers
 * of ours that make no sense are taken as if they were not there, and `*odd` is set.  Returns the
 * frame's size, or -HM_E*. */
int64_t hz_map_out(hz_map *map, const uint8_t *frame, uint64_t size, hz_message *message, int *odd);
/* cdef-end */

#endif
