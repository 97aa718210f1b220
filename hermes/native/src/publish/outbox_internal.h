/* outbox_internal.h -- the layout of an outbox, shared by hm_outbox.c and hm_flusher.c. */
#ifndef HM_OUTBOX_PRIVATE_H
#define HM_OUTBOX_PRIVATE_H

#include <stdatomic.h>

#include "hm_outbox.h"

struct hm_flusher; /* hm_flusher.c */

#define CACHE_LINE 64 /* bytes */

typedef struct chunk chunk;

struct chunk {
    /* Bytes used << 32 | frames, so that a reader gets both of one moment.  Release (A): the
     * frames' bytes are visible before the count that publishes them. */
    _Atomic uint64_t state;
    /* Release (B): set once, when the chunk is left: its state is final, and the next one
     * initialised. */
    _Atomic(chunk *) next;
    chunk *spare; /* link of the list of returned chunks */
    uint64_t first_sequence;
    uint64_t size; /* of bytes[] */
    _Alignas(HM_FRAME_ALIGN) uint8_t bytes[];
};

struct hm_outbox {
    /* Constant, or changed while nobody is in a call. */
    uint64_t capacity;
    uint64_t chunk_size;
    uint32_t id;
    _Atomic uint32_t message_max;
    _Atomic uint32_t closed;
    /* The flusher's, changed under its mutex and the guard below. */
    _Atomic(struct hm_flusher *) flusher;
    uint64_t linger_ns;
    int paused;

    /* The publishing side's. */
    _Alignas(CACHE_LINE) _Atomic uint32_t putting; /* guard: 1 while a thread is in put */
    chunk *tail;
    uint64_t tail_used;
    uint64_t tail_frames;
    uint64_t next_sequence;
    uint64_t freed_seen; /* last `freed_bytes` loaded; always <= freed_bytes */
    chunk *spares;
    _Atomic uint64_t put;       /* last sequence; sequentially consistent (F), see hm_flusher.c */
    _Atomic uint64_t put_bytes; /* of frames, ever */

    /* The writer's. */
    _Alignas(CACHE_LINE) _Atomic(chunk *) reading; /* release (C): done with the chunks before it */
    uint64_t offset;                               /* in `reading`, of the next unsent frame */
    uint64_t batch_size;                           /* under way; 0: none */
    uint64_t batch_through;
    _Atomic uint64_t offered; /* last sequence ever handed to a wire */
    _Atomic uint64_t sent;
    _Atomic uint64_t sent_bytes; /* of the frames before the cursor: put_bytes if all is sent */

    /* The acknowledging side's. */
    _Alignas(CACHE_LINE) chunk *head; /* oldest kept */
    uint64_t head_freed;              /* bytes of it already counted in freed_bytes */
    _Atomic uint64_t acked;
    _Atomic uint64_t freed_bytes; /* of frames acknowledged, by the chunk, ever; release (D) */
    _Atomic(chunk *)
        returned; /* release (E): chunks for the publishing side to take, all at once */
    _Atomic uint32_t spares_count; /* in `returned` and `spares` together */
};

/* Takes the guard: 1, or 0 if another thread has it. */
static inline int outbox_enter(hm_outbox *outbox) {
    /* acquire: pairs with the release of the thread that left. */
    return atomic_exchange_explicit(&outbox->putting, 1, memory_order_acquire) == 0;
}

static inline void outbox_leave(hm_outbox *outbox) {
    atomic_store_explicit(&outbox->putting, 0, memory_order_release);
}

/* Puts for a caller that has the guard.  `budget`: bytes of frames after which many and rows may
 * stop early. */
int64_t hm_outbox_put_guarded(hm_outbox *outbox, const uint8_t *topic, uint32_t topic_len,
                              const uint8_t *properties, uint32_t properties_len,
                              const uint8_t *payload, uint32_t payload_len, uint64_t timestamp_ns);
int64_t hm_outbox_many_guarded(hm_outbox *outbox, const uint8_t *topic, uint32_t topic_len,
                               const uint8_t *joined, const uint32_t *lengths, uint32_t count,
                               uint64_t timestamp_ns, uint64_t budget, uint64_t *consumed);
int64_t hm_outbox_rows_guarded(hm_outbox *outbox, const uint8_t *topic, uint32_t topic_len,
                               const uint8_t *rows, uint32_t row_size, int64_t stride,
                               uint32_t count, uint64_t timestamp_ns, uint64_t budget);
/* 0, or the -HM_E* for which none of these may be put. */
int hm_outbox_many_check(const hm_outbox *outbox, uint32_t topic_len, uint64_t joined_size,
                         const uint32_t *lengths, uint32_t count);
int hm_outbox_one_check(const hm_outbox *outbox, uint32_t topic_len, uint32_t properties_len,
                        uint32_t payload_len);

#endif
