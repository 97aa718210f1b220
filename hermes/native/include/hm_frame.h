/* hm_frame.h -- frames: the one format of the wire and of the log.
 *
 * Little-endian; castable in place; every frame starts and ends on a multiple of 8 bytes.
 *
 *   offset size field         unit, rule
 *        0    4 magic         "HRMS"
 *        4    1 version       HM_FRAME_VERSION
 *        5    1 type          enum below
 *        6    2 flags         low byte: topic length, bytes; bit 8: a property block follows the topic;
 *                             the other bits are reserved and 0
 *        8    8 sequence      the publisher's on the way in; the stream's in the log and on the way out
 *       16    8 timestamp_ns  the publisher's CLOCK_REALTIME: a claim
 *       24    4 payload_len   bytes, without topic, properties and padding
 *       28    4 crc           CRC-32C of bytes 0..8, 16..28, topic, properties and payload
 *       32      topic         zero-padded to a multiple of 8
 *               properties    only with bit 8: u32 length of what follows in the block, then the
 *                             block's content; zero-padded to a multiple of 8
 *               payload       zero-padded to a multiple of 8
 *
 * A BATCH frame has no topic; its payload is the 24-byte prefix below and whole MESSAGE frames; its
 * CRC covers bytes 0..8, 16..28 and the prefix only.
 *
 *       32    4 id            publisher or subscription id, chosen by the client
 *       36    4 stream        stream index as announced by a Stream frame; 0 from a publisher
 *       40    8 after         covers the sequences (after, through]
 *       48    8 through
 *       56      frames        whole MESSAGE frames
 */
#ifndef HM_FRAME_H
#define HM_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "hm_crc32c.h"
#include "hm_error.h"
#include "hm_pattern.h"

/* cdef-begin -- layout, limits and the codec. */
#define HM_FRAME_VERSION    1
#define HM_FRAME_HEADER     32       /* bytes */
#define HM_FRAME_ALIGN      8        /* bytes: start and end of every frame, topic, payload */
#define HM_FRAME_PROPERTIES 256      /* flag: a property block is present */
#define HM_PROPERTIES_MAX   65536    /* bytes: key and headers are small, or they are payload */
#define HM_MESSAGE_MAX      16777216 /* bytes of payload, by default: 16 MiB */
#define HM_STORED_MAX   536870912    /* bytes of payload in a log: what was taken under any limit */
#define HM_SEQUENCE_MAX 9223372036854775807 /* 2^63 - 1: every language has numbers for it */
#define HM_BATCH_PREFIX 24                  /* bytes */
#define HM_BATCH_HEADER 56                  /* bytes: frame header and prefix */
#define HM_BATCH_SLACK  1048576             /* bytes a batch may have beyond the message limit */

enum {
    HM_MESSAGE = 1,
    HM_BATCH = 2,
    HM_HELLO = 16,
    HM_WELCOME = 17,
    HM_OPEN = 18,
    HM_SUBSCRIBE = 19,
    HM_UNSUBSCRIBE = 20,
    HM_STREAM = 21,
    HM_ACK = 22,
    HM_COMMIT = 23,
    HM_GAP = 24,
    HM_PING = 25,
    HM_PONG = 26,
    HM_QUERY = 27,
    HM_INFO = 28,
    HM_ERROR = 29,
    HM_CLOSE = 30,
};

typedef struct {
    uint32_t magic;
    uint8_t version;
    uint8_t type;
    uint16_t flags;
    uint64_t sequence;
    uint64_t timestamp_ns;
    uint32_t payload_len;
    uint32_t crc;
} hm_frame_header;

/* Where one frame of a buffer lies: what a decode fills, 32 bytes, read in bulk by Python. */
typedef struct {
    uint64_t sequence;
    uint64_t timestamp_ns;
    uint32_t offset;         /* of the frame, bytes from the start of the buffer */
    uint32_t payload_offset; /* likewise */
    uint32_t payload_len;    /* bytes */
    uint8_t topic_len;       /* bytes; the topic stands at offset + 32 */
    uint8_t type;
    uint16_t properties; /* 1 if a property block is present */
} hm_slice;

/* A batch's envelope, parsed. */
typedef struct {
    uint32_t id;
    uint32_t stream;
    uint64_t after;
    uint64_t through;
    uint64_t timestamp_ns;
    uint64_t frames_size; /* bytes of frames that follow the 56-byte header */
} hm_batch;

/* Bytes a frame takes.  `properties_len` 0: no block.  No bounds are checked. */
uint64_t hm_frame_size(uint32_t topic_len, uint32_t properties_len, uint32_t payload_len);

/* Encodes one frame of any type but BATCH.  Returns its size, -HM_EFULL if `capacity` is less,
 * -HM_EINVAL if a length is over its limit, or if another type than MESSAGE has a topic or
 * properties.  Does not check that the topic is legal: hm_topic_check does. */
int64_t hm_frame_encode(uint8_t *out, uint64_t capacity, uint8_t type, const uint8_t *topic,
                        uint32_t topic_len, const uint8_t *properties, uint32_t properties_len,
                        const uint8_t *payload, uint32_t payload_len, uint64_t sequence,
                        uint64_t timestamp_ns);

/* Encodes `count` MESSAGE frames of one topic: payload i is the next `lengths[i]` bytes of
 * `joined`, sequence `first_sequence + i`.  All or nothing.  Returns bytes written or -HM_E*. */
int64_t hm_frame_encode_many(uint8_t *out, uint64_t capacity, const uint8_t *topic,
                             uint32_t topic_len, const uint8_t *joined, uint64_t joined_size,
                             const uint32_t *lengths, uint32_t count, uint64_t first_sequence,
                             uint64_t timestamp_ns);

/* The same for a 2-D buffer: row i starts at `rows + i * stride` and has `row_size` bytes. */
int64_t hm_frame_encode_rows(uint8_t *out, uint64_t capacity, const uint8_t *topic,
                             uint32_t topic_len, const uint8_t *rows, uint32_t row_size,
                             int64_t stride, uint32_t count, uint64_t first_sequence,
                             uint64_t timestamp_ns);

/* Validates the frame at `data` wholly (structure, limits, padding, CRC) and describes it, offsets
 * relative to `data`.  A BATCH is validated as an envelope only.  Returns the frame's size (of a
 * BATCH: its whole size, although only 56 bytes need be there); -HM_ETRUNC: `*needed` bytes (more
 * than `size`) must be there in all before calling again; -HM_E*: malformed, for ever.  Safe on any
 * bytes at any address.  Fewer bytes than a header are refused as soon as they cannot begin one.
 * Only a MESSAGE may have a topic and properties (-HM_EFLAGS); whether the topic is legal is not
 * looked at.  A BATCH is refused (-HM_ELENGTH) if its frames can't be whole, (-HM_ESEQUENCE) if
 * after > through. */
int64_t hm_frame_check(const uint8_t *data, uint64_t size, uint32_t message_max, hm_slice *slice,
                       uint64_t *needed);

/* The size of the MESSAGE frame at `data`, which hm_frame_check has accepted before. */
uint64_t hm_frame_skip(const uint8_t *data);

/* Validates and indexes a buffer of whole frames.  Stops at `capacity` slices, at the end, or at
 * the first unsound frame.  Returns the count; `*consumed` is where it stopped and `*error` why: 0
 * (end or capacity), -HM_ETRUNC or the code of the frame that stands there; a BATCH, whose frames
 * stand inside it, is -HM_ETYPE.  `size` at most 4 GiB - 1. */
int64_t hm_frame_index(const uint8_t *data, uint64_t size, uint32_t message_max, hm_slice *slices,
                       uint64_t capacity, uint64_t *consumed, int32_t *error);

/* Gives the frames of a validated buffer the sequences `first_sequence`, + 1, ...  Returns the
 * count. */
int64_t hm_frame_stamp(uint8_t *data, uint64_t size, uint64_t first_sequence);

/* Writes the 56 bytes that stand before `frames_size` bytes of whole frames. */
void hm_batch_encode(uint8_t *out, uint32_t id, uint32_t stream, uint64_t after, uint64_t through,
                     uint64_t frames_size, uint64_t timestamp_ns);
/* Parses a validated BATCH header. */
void hm_batch_parse(const uint8_t *data, hm_batch *batch);
/* cdef-end */

_Static_assert(sizeof(hm_frame_header) == 32, "the header is 32 bytes");
_Static_assert(offsetof(hm_frame_header, flags) == 6, "layout");
_Static_assert(offsetof(hm_frame_header, sequence) == 8, "layout");
_Static_assert(offsetof(hm_frame_header, timestamp_ns) == 16, "layout");
_Static_assert(offsetof(hm_frame_header, payload_len) == 24, "layout");
_Static_assert(offsetof(hm_frame_header, crc) == 28, "layout");
_Static_assert(sizeof(hm_slice) == 32, "read in bulk by Python");

#endif
