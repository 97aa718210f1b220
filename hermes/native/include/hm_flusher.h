/* hm_flusher.h -- what writes to one connection's socket: control frames and the batches of its
 * outboxes.
 *
 * Writing never blocks: hm_flusher_drain writes what the socket takes now, and remembers where it
 * stopped. A mutex is held around socket writes only, so that control frames go between whole
 * batches and any thread may drain.  A publisher that lingers adds a native thread, which writes
 * what nobody else has written when a message has waited for the linger, whether or not Python
 * runs: it never holds the GIL.
 *
 * A flusher outlives its connections: it is detached from a broken one and attached to the next.
 * Outboxes are paused then, until the broker has said how far it got (hm_flusher_resume).
 */
#ifndef HM_FLUSHER_H
#define HM_FLUSHER_H

#include "hm_medium.h"
#include "hm_outbox.h"

/* cdef-begin -- an opaque flusher. */
typedef struct hm_flusher hm_flusher;
typedef struct hm_medium hm_medium; /* hm_medium.h */

#define HM_FLUSHER_OUTBOXES 1024    /* publishers of one connection: as many as a broker takes */
#define HM_FLUSHER_CONTROL  4194304 /* bytes of control frames that may wait */
#define HM_FLUSHER_EAGER                                                                           \
    65536 /* bytes: a lingering outbox with this much unsent is written at once */
#define HM_FLUSHER_SHARE 1048576     /* bytes written per hold of the mutex */
#define HM_LINGER_MAX    60000000000 /* ns: a minute; longer is a mistake of units */

/* NULL: no memory or no descriptors. */
hm_flusher *hm_flusher_new(void);
/* Stops the thread, if there is one, and frees.  In a forked child it does nothing at all. */
void hm_flusher_free(hm_flusher *flusher);

/* Writes to `fd` from now on: a connected stream socket, non-blocking, borrowed.  `batch_max`:
 * bytes of frames in a batch, unless one frame alone is larger. */
int hm_flusher_attach(hm_flusher *flusher, int fd, uint64_t batch_max);
/* As hm_flusher_attach, for a medium that is not a socket; it must live until hm_flusher_detach. */
int hm_flusher_attach_medium(hm_flusher *flusher, const hm_medium *medium, uint64_t batch_max);
/* Returns when nobody writes any more.  What was half written is forgotten, outboxes are paused. */
void hm_flusher_detach(hm_flusher *flusher);

/* Adds an outbox.  `linger_ns` 0: hm_outbox_send puts it on the wire before it returns.
 * -HM_ELIMIT; -HM_EINVAL: a linger over HM_LINGER_MAX; -HM_ESYS: no thread could be started. */
int hm_flusher_add(hm_flusher *flusher, hm_outbox *outbox, uint64_t linger_ns);
/* A batch of it half written is finished from a copy.  -HM_EUNKNOWN; -HM_EBUSY: this is a forked
 * child, nothing was done. */
int hm_flusher_remove(hm_flusher *flusher, hm_outbox *outbox);
/* Takes an outbox from its flusher, if it has one, and frees it.  No other thread may be in a call.
 * In a forked child that may not touch the flusher, the outbox is left alone. */
void hm_flusher_dispose(hm_outbox *outbox);
/* Begins no more batches of it until hm_flusher_resume. */
int hm_flusher_pause(hm_flusher *flusher, hm_outbox *outbox);
/* Sends it (again) from its last acknowledged message on.  The acknowledging thread only.
 * -HM_EBUSY: half a batch of it is written: drain first. */
int hm_flusher_resume(hm_flusher *flusher, hm_outbox *outbox);

/* Queues `size` bytes of whole frames to go out before the next batch, and drains.  As
 * hm_flusher_drain; -HM_EFULL: HM_FLUSHER_CONTROL bytes wait already, nothing was queued. */
int hm_flusher_write(hm_flusher *flusher, const uint8_t *data, uint64_t size);
/* Writes what can be written without waiting.  1: everything is written; 0: the socket has no room
 * now; -HM_ECLOSED: not attached; -HM_ESYS: the socket failed, hm_flusher_error says how. */
int hm_flusher_drain(hm_flusher *flusher);
/* Reads what is there into `buffer`: tries for `spin_ns`, then sleeps until something is there or
 * `timeout_ns` (negative: none) have passed since the call.  Returns bytes; 0: the peer has ended;
 * -HM_EEMPTY: nothing came, or a signal did; -HM_ESYS: `*error` is the errno. */
int64_t hm_socket_receive(int fd, uint8_t *buffer, uint64_t capacity, uint64_t spin_ns,
                          int64_t timeout_ns, int *error);
/* As its medium's `receive`. */
int64_t hm_medium_receive(const hm_medium *medium, uint8_t *buffer, uint64_t capacity,
                          uint64_t spin_ns, int64_t timeout_ns, int *error);
/* 0, or the errno with which the attached socket failed. */
int hm_flusher_error(const hm_flusher *flusher);

/* Puts as hm_outbox_put, then does what the linger asks for.  `*waiting` is 1 if the caller has to see to it
 * that the flusher is drained: the socket had no room, has failed, or is not there. */
int64_t hm_outbox_send(hm_outbox *outbox, const uint8_t *topic, uint32_t topic_len,
                       const uint8_t *payload, uint32_t payload_len, uint64_t timestamp_ns,
                       int *waiting);
/* Returns how many of the `count` were taken: as many as fit; -HM_E* as hm_outbox_put: none was. */
int64_t hm_outbox_send_many(hm_outbox *outbox, const uint8_t *topic, uint32_t topic_len,
                            const uint8_t *joined, uint64_t joined_size, const uint32_t *lengths,
                            uint32_t count, uint64_t timestamp_ns, int *waiting);
int64_t hm_outbox_send_rows(hm_outbox *outbox, const uint8_t *topic, uint32_t topic_len,
                            const uint8_t *rows, uint32_t row_size, int64_t stride, uint32_t count,
                            uint64_t timestamp_ns, int *waiting);
/* Whole MESSAGE frames, each with its topic, properties and timestamp; their sequences are the
 * outbox's.  Returns how many were taken; -HM_E* if none was, also for a frame that is not sound.
 */
int64_t hm_outbox_send_frames(hm_outbox *outbox, const uint8_t *frames, uint64_t size,
                              int *waiting);
/* cdef-end */

#endif
