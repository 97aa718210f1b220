/* hm_frame.c -- encodes, checks and indexes frames and batches. */
#include "hm_frame.h"

#include <assert.h>
#include <string.h>

#define MAGIC 0x534D5248U /* "HRMS" as a little-endian number */
/* Magic and version as they stand in the first 8 bytes; type and flags differ. */
#define MARK      (MAGIC | (uint64_t)HM_FRAME_VERSION << 32)
#define MARK_MASK 0x000000FFFFFFFFFFU

static inline uint64_t load64(const uint8_t *at) {
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static inline uint32_t load32(const uint8_t *at) {
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static inline void store64(uint8_t *at, uint64_t word) {
    memcpy(at, &word, sizeof word);
}

static inline void store32(uint8_t *at, uint32_t word) {
    memcpy(at, &word, sizeof word);
}

static inline uint64_t padded(uint64_t size) {
    return (size + (HM_FRAME_ALIGN - 1)) & ~(uint64_t)(HM_FRAME_ALIGN - 1);
}

/* The property block's length field and content, unpadded. */
static inline uint32_t block_size(uint32_t properties_len) {
    return properties_len > 0 ? 4 + properties_len : 0;
}

uint64_t hm_frame_size(uint32_t topic_len, uint32_t properties_len, uint32_t payload_len) {
    return HM_FRAME_HEADER + padded(topic_len) + padded(block_size(properties_len)) +
           padded(payload_len);
}

static int known(uint8_t type) {
    return type == HM_MESSAGE || type == HM_BATCH || (type >= HM_HELLO && type <= HM_CLOSE);
}

/* ---- encoding ---- */

/* Copies `size` bytes and fills up with zeros.  Returns where the next piece begins. */
static inline uint8_t *put(uint8_t *out, const uint8_t *data, uint64_t size) {
    if (size == 0)
        return out;
    store64(out + padded(size) - 8, 0);
    memcpy(out, data, size);
    return out + padded(size);
}

static inline uint8_t *put_header(uint8_t *out, uint8_t type, uint32_t flags, uint64_t sequence,
                                  uint64_t timestamp_ns, uint32_t payload_len) {
    store64(out, MARK | (uint64_t)type << 40 | (uint64_t)flags << 48);
    store64(out + 8, sequence);
    store64(out + 16, timestamp_ns);
    store32(out + 24, payload_len);
    return out + HM_FRAME_HEADER;
}

int64_t hm_frame_encode(uint8_t *out, uint64_t capacity, uint8_t type, const uint8_t *topic,
                        uint32_t topic_len, const uint8_t *properties, uint32_t properties_len,
                        const uint8_t *payload, uint32_t payload_len, uint64_t sequence,
                        uint64_t timestamp_ns) {
    if (topic_len > HM_TOPIC_MAX || properties_len > HM_PROPERTIES_MAX || !known(type) ||
        type == HM_BATCH || (type != HM_MESSAGE && (topic_len > 0 || properties_len > 0)))
        return -HM_EINVAL;
    uint64_t size = hm_frame_size(topic_len, properties_len, payload_len);
    if (size > capacity)
        return -HM_EFULL;
    assert(topic != NULL || topic_len == 0);
    assert(properties != NULL || properties_len == 0);
    assert(payload != NULL || payload_len == 0);
    uint32_t flags = topic_len | (properties_len > 0 ? HM_FRAME_PROPERTIES : 0);
    uint8_t *at = put_header(out, type, flags, sequence, timestamp_ns, payload_len);
    at = put(at, topic, topic_len);
    if (properties_len > 0) {
        store64(at + padded(block_size(properties_len)) - 8, 0);
        store32(at, properties_len);
        memcpy(at + 4, properties, properties_len);
        at += padded(block_size(properties_len));
    }
    uint32_t state = hm_crc32c_active->frame(out, topic_len, block_size(properties_len), 0);
    store32(out + 28, ~hm_crc32c_active->copy(state, at, payload, payload_len));
    return (int64_t)size;
}

/* What the messages of one batch have in common: all of a frame before the payload, but its
 * sequence and length. */
typedef struct {
    uint8_t head[HM_FRAME_HEADER + HM_TOPIC_MAX + 1];
    uint32_t head_size;
    uint32_t topic_len;
    uint32_t payload_len; /* that `state` is for */
    uint32_t state;       /* of the checksum, before the payload */
} mould;

static void mould_init(mould *common, const uint8_t *topic, uint32_t topic_len,
                       uint64_t timestamp_ns) {
    uint8_t *at = put_header(common->head, HM_MESSAGE, topic_len, 0, timestamp_ns, UINT32_MAX);
    put(at, topic, topic_len);
    common->head_size = HM_FRAME_HEADER + (uint32_t)padded(topic_len);
    common->topic_len = topic_len;
    common->payload_len = UINT32_MAX; /* no message's */
}

/* Checksums everything before the payload: the same for all messages of one length. */
static void mould_set(mould *common, uint32_t payload_len) {
    store32(common->head + 24, payload_len);
    common->payload_len = payload_len;
    common->state = hm_crc32c_active->frame(common->head, common->topic_len, 0, 0);
}

static inline uint8_t *put_message(uint8_t *out, mould *common, const uint8_t *payload,
                                   uint32_t payload_len, uint64_t sequence) {
    if (payload_len != common->payload_len)
        mould_set(common, payload_len);
    memcpy(out, common->head, HM_FRAME_HEADER);
    store64(out + 8, sequence);
    uint8_t *at = out + HM_FRAME_HEADER;
    for (const uint8_t *from = common->head + HM_FRAME_HEADER,
                       *end = common->head + common->head_size;
         from < end; from += 8, at += 8) {
        store64(at, load64(from));
        __asm__ volatile(
            ""
            : "+r"(from)); /* two words, say: not worth the call to memcpy it becomes */
    }
    store32(out + 28, ~hm_crc32c_active->copy(common->state, at, payload, payload_len));
    return at + padded(payload_len);
}

int64_t hm_frame_encode_many(uint8_t *out, uint64_t capacity, const uint8_t *topic,
                             uint32_t topic_len, const uint8_t *joined, uint64_t joined_size,
                             const uint32_t *lengths, uint32_t count, uint64_t first_sequence,
                             uint64_t timestamp_ns) {
    assert(topic != NULL || topic_len == 0);
    assert(lengths != NULL || count == 0);
    if (topic_len > HM_TOPIC_MAX)
        return -HM_EINVAL;
    mould common;
    mould_init(&common, topic, topic_len, timestamp_ns);
    uint64_t size = (uint64_t)common.head_size * count, taken = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (lengths[i] == UINT32_MAX)
            return -HM_EINVAL;
        taken += lengths[i];
        size += padded(lengths[i]);
    }
    if (taken != joined_size)
        return -HM_EINVAL;
    if (size > capacity)
        return -HM_EFULL;
    for (uint32_t i = 0; i < count; i++) {
        out = put_message(out, &common, joined, lengths[i], first_sequence + i);
        joined += lengths[i];
    }
    return (int64_t)size;
}

int64_t hm_frame_encode_rows(uint8_t *out, uint64_t capacity, const uint8_t *topic,
                             uint32_t topic_len, const uint8_t *rows, uint32_t row_size,
                             int64_t stride, uint32_t count, uint64_t first_sequence,
                             uint64_t timestamp_ns) {
    assert(topic != NULL || topic_len == 0);
    assert(rows != NULL || count == 0 || row_size == 0);
    if (topic_len > HM_TOPIC_MAX || row_size == UINT32_MAX)
        return -HM_EINVAL;
    mould common;
    mould_init(&common, topic, topic_len, timestamp_ns);
    uint64_t size = common.head_size + padded(row_size);
    if (count > 0 && size > capacity / count)
        return -HM_EFULL;
    for (uint32_t i = 0; i < count; i++)
        out = put_message(out, &common, row_size > 0 ? rows + (int64_t)i * stride : NULL, row_size,
                          first_sequence + i);
    return (int64_t)(size * count);
}

/* ---- decoding ---- */

static int64_t want(uint64_t *needed, uint64_t size) {
    *needed = size;
    return -HM_ETRUNC;
}

/* The first bytes of something, fewer than a header: what is wrong already is not worth waiting
 * for. */
static int64_t check_start(const uint8_t *data, uint64_t size, uint64_t *needed) {
    static const uint8_t magic[4] = {'H', 'R', 'M', 'S'};
    if (size > 0 && memcmp(data, magic, size < 4 ? size : 4) != 0)
        return -HM_EMAGIC;
    if (size > 4 && data[4] != HM_FRAME_VERSION)
        return -HM_EVERSION;
    if (size > 5 && !known(data[5]))
        return -HM_ETYPE;
    return want(needed, HM_FRAME_HEADER);
}

/* Bits of the last word of a piece that lie behind it.  A piece of no bytes has none, whatever the
 * word before it holds. */
static inline uint64_t padding(const uint8_t *piece, uint64_t size) {
    unsigned bits =
        ((unsigned)(size - 1) & 7) * 8 + 7; /* used ones, less one: 64 is no legal shift */
    return load64(piece + padded(size) - 8) >> bits >> 1;
}

static int64_t check_batch(const uint8_t *data, uint64_t size, uint32_t payload_len,
                           uint32_t message_max, uint64_t *needed) {
    if (payload_len < HM_BATCH_PREFIX || payload_len % HM_FRAME_ALIGN != 0 ||
        payload_len > (uint64_t)message_max + HM_BATCH_SLACK)
        return -HM_ELENGTH;
    if (size < HM_BATCH_HEADER)
        return want(needed, HM_BATCH_HEADER);
    if (load32(data + 28) != ~hm_crc32c_active->frame(data, 0, 0, HM_BATCH_PREFIX))
        return -HM_ECRC;
    if (load64(data + 40) > load64(data + 48))
        return -HM_ESEQUENCE;
    return HM_FRAME_HEADER + (int64_t)payload_len;
}

static inline void describe(hm_slice *slice, const uint8_t *data, uint64_t offset,
                            uint64_t payload_offset, uint32_t payload_len) {
    slice->sequence = load64(data + 8);
    slice->timestamp_ns = load64(data + 16);
    slice->offset = (uint32_t)offset;
    slice->payload_offset = (uint32_t)(offset + payload_offset);
    slice->payload_len = payload_len;
    slice->topic_len = data[6];
    slice->type = data[5];
    slice->properties = data[7];
}

/* hm_frame_check for data that stands at `offset` of its buffer. */
static inline int64_t check(const uint8_t *data, uint64_t size, uint64_t offset,
                            uint32_t message_max, hm_slice *slice, uint64_t *needed) {
    if (size < HM_FRAME_HEADER)
        return check_start(data, size, needed);
    uint64_t mark = load64(data);
    if ((mark & MARK_MASK) != MARK)
        return (uint32_t)mark != MAGIC ? -HM_EMAGIC : -HM_EVERSION;
    uint8_t type = data[5];
    uint32_t topic_len = data[6], payload_len = load32(data + 24), properties_size = 0;
    if (type != HM_MESSAGE) {
        if (!known(type))
            return -HM_ETYPE;
        if ((mark >> 48) != 0)
            return -HM_EFLAGS;
        if (type == HM_BATCH) {
            int64_t batch = check_batch(data, size, payload_len, message_max, needed);
            if (batch > 0)
                describe(slice, data, offset, HM_FRAME_HEADER, payload_len);
            return batch;
        }
    }
    if (payload_len > message_max)
        return -HM_ELENGTH;
    uint64_t topic_end = HM_FRAME_HEADER + padded(topic_len), payload_offset = topic_end;
    if (data[7] != 0) {
        if (data[7] != HM_FRAME_PROPERTIES >> 8)
            return -HM_EFLAGS;
        if (size < topic_end + 8) /* the least a block takes; it begins with its length */
            return want(needed, topic_end + 8 + padded(payload_len));
        uint32_t properties_len = load32(data + topic_end);
        if (properties_len == 0 || properties_len > HM_PROPERTIES_MAX)
            return -HM_ELENGTH;
        properties_size = block_size(properties_len);
        payload_offset += padded(properties_size);
    }
    uint64_t total = payload_offset + padded(payload_len);
    if (size < total)
        return want(needed, total);
    uint64_t stray = padding(data + HM_FRAME_HEADER, topic_len) |
                     padding(data + topic_end, properties_size) |
                     padding(data + payload_offset, payload_len);
    if (stray != 0)
        return -HM_EPADDING;
    if (load32(data + 28) !=
        ~hm_crc32c_active->frame(data, topic_len, properties_size, payload_len))
        return -HM_ECRC;
    describe(slice, data, offset, payload_offset, payload_len);
    return (int64_t)total;
}

int64_t hm_frame_check(const uint8_t *data, uint64_t size, uint32_t message_max, hm_slice *slice,
                       uint64_t *needed) {
    assert(data != NULL || size == 0);
    assert(slice != NULL && needed != NULL);
    return check(data, size, 0, message_max, slice, needed);
}

uint64_t hm_frame_skip(const uint8_t *data) {
    uint64_t head = HM_FRAME_HEADER + padded(data[6]);
    if (data[7] != 0)
        head += padded(block_size(load32(data + head)));
    return head + padded(load32(data + 24));
}

int64_t hm_frame_index(const uint8_t *data, uint64_t size, uint32_t message_max, hm_slice *slices,
                       uint64_t capacity, uint64_t *consumed, int32_t *error) {
    assert(data != NULL || size == 0);
    assert(size <= UINT32_MAX);
    uint64_t at = 0, count = 0, needed;
    *error = 0;
    while (at < size && count < capacity) {
        int64_t frame = check(data + at, size - at, at, message_max, &slices[count], &needed);
        if (frame > 0 && slices[count].type == HM_BATCH)
            frame = -HM_ETYPE;
        if (frame < 0) {
            *error = (int32_t)frame;
            break;
        }
        at += (uint64_t)frame;
        count++;
    }
    *consumed = at;
    return (int64_t)count;
}

int64_t hm_frame_stamp(uint8_t *data, uint64_t size, uint64_t first_sequence) {
    assert(data != NULL || size == 0);
    uint64_t at = 0, count = 0;
    while (at < size) {
        uint64_t left = size - at, head = HM_FRAME_HEADER + HM_FRAME_ALIGN;
        /* Where a property block may be, its length must be there before it is read. */
        if (left < HM_FRAME_HEADER || (data[at + 7] != 0 && left < head + padded(data[at + 6])))
            return -HM_ELENGTH;
        uint64_t frame = hm_frame_skip(data + at);
        if (frame > left)
            return -HM_ELENGTH;
        store64(data + at + 8, first_sequence + count++);
        at += frame;
    }
    return (int64_t)count;
}

/* ---- batches ---- */

void hm_batch_encode(uint8_t *out, uint32_t id, uint32_t stream, uint64_t after, uint64_t through,
                     uint64_t frames_size, uint64_t timestamp_ns) {
    assert(frames_size <= UINT32_MAX - HM_BATCH_PREFIX && frames_size % HM_FRAME_ALIGN == 0);
    assert(after <= through);
    put_header(out, HM_BATCH, 0, 0, timestamp_ns, (uint32_t)(HM_BATCH_PREFIX + frames_size));
    store32(out + 32, id);
    store32(out + 36, stream);
    store64(out + 40, after);
    store64(out + 48, through);
    store32(out + 28, ~hm_crc32c_active->frame(out, 0, 0, HM_BATCH_PREFIX));
}

void hm_batch_parse(const uint8_t *data, hm_batch *batch) {
    assert(data[5] == HM_BATCH);
    batch->id = load32(data + 32);
    batch->stream = load32(data + 36);
    batch->after = load64(data + 40);
    batch->through = load64(data + 48);
    batch->timestamp_ns = load64(data + 16);
    batch->frames_size = load32(data + 24) - HM_BATCH_PREFIX;
}
