/* hm_lines.h -- text lines to messages and messages to text lines, a whole buffer at a time.
 *
 * A line is the bytes before a '\n'; nothing else ends one: '\r' and NUL belong to it, and an empty
 * line is an empty message.  For pipes: a gigabyte of lines goes through without Python seeing one
 * of them.
 */
#ifndef HM_LINES_H
#define HM_LINES_H

#include <stdint.h>

#include "hm_frame.h"

/* cdef-begin -- pure functions over the caller's buffers; any thread. */
/* Moves the complete lines at the start of `data` together, in place: afterwards they stand at
 * `data`, one after the other and without their newlines, and `lengths[i]` is the length of line i.
 * Stops at the last newline, or after `capacity` lines.  Returns the count; `*joined` is the bytes
 * the lines take, `*consumed` how many bytes of input that was, newlines included: the rest still
 * stands at `data + *consumed`. */
int64_t hm_lines_split(uint8_t *data, uint64_t size, uint32_t *lengths, uint64_t capacity,
                       uint64_t *joined, uint64_t *consumed);

/* Writes the payload of each of the validated MESSAGE frames at `frames`, followed by '\n', to
 * `out`.  Stops at the end, after `count_max` messages or where the next does not fit.  Returns the
 * count; `*consumed` bytes of frames are done, `*written` bytes of `out` are filled, and `*needed`
 * is 0 or the bytes the next message takes. */
int64_t hm_lines_join(const uint8_t *frames, uint64_t size, uint64_t count_max, uint8_t *out,
                      uint64_t capacity, uint64_t *consumed, uint64_t *written, uint64_t *needed);
/* cdef-end */

#endif
