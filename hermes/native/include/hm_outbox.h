/* hm_outbox.h -- a publisher's outbox: frames encoded once, kept until acknowledged.
 *
 * A list of chunks filled with whole MESSAGE frames in the order of their sequences; a frame larger
 * than a chunk gets one of its own.  Three cursors move along the list, each written by one side
 * only:
 *
 *     acked <= sent <= put        (bytes between acked and put <= capacity)
 *
 *     put    the publishing side, by hm_outbox_put*: one thread at a time, guarded (-HM_EBUSY)
 *     sent   the thread that writes to the wire: hm_outbox_batch / hm_outbox_sent, or the flusher
 *            under its mutex
 *     acked  the thread that reads the acknowledgements: hm_outbox_ack; one thread at a time, not
 *            guarded
 *
 * Chunks that are wholly acknowledged go back to the publishing side, last in, first out: memory
 * follows what is unacknowledged, not the capacity, and stays warm in the cache.  After a reconnect
 * hm_outbox_rewind sets sent back to acked, and everything unacknowledged is sent again.
 */
#ifndef HM_OUTBOX_H
#define HM_OUTBOX_H

#include "hm_frame.h"

/* cdef-begin -- an opaque outbox. */
typedef struct hm_outbox hm_outbox;

#define HM_OUTBOX_CAPACITY     67108864 /* bytes, by default: 64 MiB of unacknowledged messages */
#define HM_OUTBOX_CAPACITY_MIN 65536    /* bytes: four chunks of the smallest size */
#define HM_OUTBOX_CHUNK 262144 /* bytes: a batch of this size costs one system call and fits L2 */

/* `capacity`: bytes of frames, >= HM_OUTBOX_CAPACITY_MIN.  `id`: the publisher id its batches
 * carry. `first_sequence` >= 1.  NULL: no memory, or an argument out of its bounds. */
hm_outbox *hm_outbox_new(uint64_t capacity, uint32_t id, uint64_t first_sequence);
/* No other thread may be in a call, and no flusher have it: see hm_flusher_dispose. */
void hm_outbox_free(hm_outbox *outbox);
/* Refuses payloads over `message_max` bytes with -HM_ELENGTH from now on. */
void hm_outbox_limit(hm_outbox *outbox, uint32_t message_max);
/* Refuses everything with -HM_ECLOSED from now on.  Any thread, also in a forked child. */
void hm_outbox_close(hm_outbox *outbox);
/* Takes messages again. */
void hm_outbox_reopen(hm_outbox *outbox);

/* Encodes into the outbox, sequence after sequence.  `timestamp_ns` 0: now.  Returns the sequence
 * given; -HM_EFULL: no room until something is acknowledged; -HM_ELENGTH: can never fit; -HM_EBUSY:
 * another thread is putting; -HM_ECLOSED; -HM_ENOMEM; -HM_E* as the encoder.  On all of them
 * nothing was written. */
int64_t hm_outbox_put(hm_outbox *outbox, const uint8_t *topic, uint32_t topic_len,
                      const uint8_t *properties, uint32_t properties_len, const uint8_t *payload,
                      uint32_t payload_len, uint64_t timestamp_ns);

/* The next unsent frames as one BATCH of at most `limit` bytes of frames (at least one frame),
 * contiguous: writes the 56-byte header to `header`, sets `*frames` and `*size`.  Returns 1, or 0
 * if all is sent. hm_outbox_sent confirms it; until then the same batch is not given again. */
int hm_outbox_batch(hm_outbox *outbox, uint64_t limit, uint64_t now_ns, uint8_t *header,
                    const uint8_t **frames, uint64_t *size);
void hm_outbox_sent(hm_outbox *outbox);
/* Takes the batch under way back, as if it had not been asked for. */
void hm_outbox_abandon(hm_outbox *outbox);
/* Frees what is acknowledged up to `sequence`; an older sequence only tidies up.  -HM_ESEQUENCE:
 * never sent. */
int hm_outbox_ack(hm_outbox *outbox, uint64_t sequence);
/* Everything unacknowledged is unsent again.  No batch may be under way. */
void hm_outbox_rewind(hm_outbox *outbox);
/* Sequences: last put, last sent, last acked.  Any thread; each is exact when it is read. */
void hm_outbox_status(const hm_outbox *outbox, uint64_t *put, uint64_t *sent, uint64_t *acked);
/* The last sequence that was ever on its way to the peer, also if that was cut short. */
uint64_t hm_outbox_offered(const hm_outbox *outbox);
/* Bytes of frames not acknowledged.  The acknowledging thread only. */
uint64_t hm_outbox_queued(const hm_outbox *outbox);
/* Bytes of memory held in chunks.  The acknowledging thread only, nobody putting. */
uint64_t hm_outbox_memory(const hm_outbox *outbox);
/* cdef-end */

#endif
