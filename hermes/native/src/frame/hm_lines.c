/* hm_lines.c -- turns lines of text into messages, and messages into lines. */
#include "hm_lines.h"

#include <assert.h>
#include <string.h>

int64_t hm_lines_split(uint8_t *data, uint64_t size, uint32_t *lengths, uint64_t capacity,
                       uint64_t *joined, uint64_t *consumed) {
    assert(data != NULL || size == 0);
    assert(lengths != NULL || capacity == 0);
    uint64_t from = 0; /* start of the line being looked at */
    uint64_t to = 0;   /* where it goes: never ahead of `from`, so nothing unread is overwritten */
    uint64_t count = 0;
    while (count < capacity && from < size) {
        const uint8_t *newline = memchr(data + from, '\n', size - from);
        if (newline == NULL) {
            break;
        }
        uint64_t length = (uint64_t)(newline - (data + from));
        if (length > UINT32_MAX) {
            break; /* no message is that long: the caller's bound on a line is far below */
        }
        memmove(data + to, data + from, length);
        lengths[count++] = (uint32_t)length;
        to += length;
        from += length + 1;
    }
    *joined = to;
    *consumed = from;
    return (int64_t)count;
}

/* Where the payload of the validated frame at `frame` starts, relative to it. */
static uint64_t payload_offset(const uint8_t *frame, const hm_frame_header *header) {
    uint64_t offset = HM_FRAME_HEADER + (((uint64_t)(header->flags & 0xff) + 7) & ~(uint64_t)7);
    if (header->flags & HM_FRAME_PROPERTIES) {
        uint32_t length;
        memcpy(&length, frame + offset, sizeof length);
        offset += (sizeof length + (uint64_t)length + 7) & ~(uint64_t)7;
    }
    return offset;
}

int64_t hm_lines_join(const uint8_t *frames, uint64_t size, uint64_t count_max, uint8_t *out,
                      uint64_t capacity, uint64_t *consumed, uint64_t *written, uint64_t *needed) {
    assert(frames != NULL || size == 0);
    assert(out != NULL || capacity == 0);
    uint64_t at = 0;
    uint64_t filled = 0;
    uint64_t count = 0;
    *needed = 0;
    while (count < count_max && at < size) {
        hm_frame_header header;
        memcpy(&header, frames + at, sizeof header);
        uint64_t length = header.payload_len;
        if (length + 1 > capacity - filled) {
            *needed = length + 1;
            break;
        }
        uint64_t offset = payload_offset(frames + at, &header);
        memcpy(out + filled, frames + at + offset, length);
        out[filled + length] = '\n';
        filled += length + 1;
        at += (offset + length + 7) & ~(uint64_t)7;
        count++;
    }
    *consumed = at;
    *written = filled;
    return (int64_t)count;
}
