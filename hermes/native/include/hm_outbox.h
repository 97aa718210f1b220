/* hm_outbox.h -- a publisher's outbox: frames encoded once, kept until acknowledged.
 *
 * A byte ring of whole MESSAGE frames in the order of their sequences.  Three free-running cursors, each
 * written by one side only:
 *     acked <= sent <= tail        (tail - acked <= capacity)
 *   tail   the publishing thread, by hm_outbox_put*
 *   sent   whoever writes to the wire: the same thread, or the flusher
 *   acked  whoever reads the acknowledgements
 * A frame that does not fit before the ring's end starts at its beginning; the rest is skipped.
 * After a reconnect hm_outbox_rewind sets sent back to acked, and everything unacknowledged goes out again.
 *
 * A flusher is a native thread that writes the outboxes of one connection to its socket: a message waits at
 * most the linger, whether or not Python runs.  It never holds the GIL and calls no Python.
 */
#ifndef HM_OUTBOX_H
#define HM_OUTBOX_H

#include "hm_frame.h"

/* cdef-begin -- opaque outboxes and flushers. */
typedef struct hm_outbox hm_outbox;
typedef struct hm_flusher hm_flusher;

#define HM_OUTBOX_CAPACITY 67108864 /* bytes, by default: 64 MiB of unacknowledged messages */

/* `capacity`: bytes, a power of two >= 64 KiB.  `id`: the publisher id its batches carry. */
hm_outbox *hm_outbox_new(uint64_t capacity, uint32_t id, uint64_t first_sequence);
void hm_outbox_free(hm_outbox *outbox);

/* Encodes into the ring, sequence after sequence.  Returns the last sequence given; -HM_EFULL: nothing
 * was written; -HM_ELENGTH: can never fit; -HM_E* as the encoder. */
int64_t hm_outbox_put(hm_outbox *outbox, const uint8_t *topic, uint32_t topic_len,
                      const uint8_t *properties, uint32_t properties_len, const uint8_t *payload,
                      uint32_t payload_len, uint64_t timestamp_ns);
/* As many of the `count` as fit.  Returns how many were taken; -HM_EFULL: none. */
int64_t hm_outbox_put_many(hm_outbox *outbox, const uint8_t *topic, uint32_t topic_len,
                           const uint8_t *joined, uint64_t joined_size, const uint32_t *lengths,
                           uint32_t count, uint64_t timestamp_ns);
int64_t hm_outbox_put_rows(hm_outbox *outbox, const uint8_t *topic, uint32_t topic_len,
                           const uint8_t *rows, uint32_t row_size, int64_t stride, uint32_t count,
                           uint64_t timestamp_ns);

/* The next unsent frames as one BATCH of at most `limit` bytes of frames, contiguous: writes the 56-byte header to `header`, sets
 * `*frames` and `*size`.  Returns 1, or 0 if all is sent.  hm_outbox_sent confirms it. */
int hm_outbox_batch(hm_outbox *outbox, uint64_t limit, uint64_t now_ns, uint8_t *header,
                    const uint8_t **frames, uint64_t *size);
void hm_outbox_sent(hm_outbox *outbox);
/* Frees everything up to `sequence`.  -HM_ESEQUENCE: never sent. */
int hm_outbox_ack(hm_outbox *outbox, uint64_t sequence);
void hm_outbox_rewind(hm_outbox *outbox);
/* Sequences and bytes: last put, last sent, last acked. */
void hm_outbox_status(const hm_outbox *outbox, uint64_t *put, uint64_t *sent, uint64_t *acked,
                      uint64_t *queued_bytes);

/* Starts the thread.  `fd`: a connected stream socket, non-blocking, borrowed. */
hm_flusher *hm_flusher_new(int fd, uint64_t linger_ns);
int hm_flusher_add(hm_flusher *flusher, hm_outbox *outbox);
int hm_flusher_remove(hm_flusher *flusher, hm_outbox *outbox);
/* Writes `size` bytes of whole frames between batches, waiting at most `timeout_ns`.  Any thread. */
int hm_flusher_write(hm_flusher *flusher, const uint8_t *data, uint64_t size, uint64_t timeout_ns);
/* Wakes it: everything put so far goes out now.  Returns when it has, or -HM_ETIMEDOUT. */
int hm_flusher_flush(hm_flusher *flusher, uint64_t timeout_ns);
/* 0, or the errno with which the socket failed: the flusher rests until it is freed. */
int hm_flusher_error(const hm_flusher *flusher);
/* Stops and joins the thread; a batch begun is finished within `timeout_ns` or the socket is unusable (-HM_ETIMEDOUT). */
int hm_flusher_free(hm_flusher *flusher, uint64_t timeout_ns);
/* cdef-end */

#endif
