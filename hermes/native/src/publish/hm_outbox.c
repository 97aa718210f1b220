/* hm_outbox.c -- keeps a publisher's frames in chunks until they are acknowledged. */
#include "outbox_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    CHUNK_MIN = 16384,      /* bytes: below, a batch is too small to pay for its system call */
    SPARES_MAX = 16,        /* chunks kept for reuse: 4 MiB of the default size */
    CHUNKS_PER_CAPACITY = 4 /* a small outbox has small chunks, so that acknowledging frees some */
};
#define FRAME_SIZE_MAX 2147483647u /* bytes: `state` has 32 bits for a chunk's bytes */

static uint64_t state_pack(uint64_t used, uint64_t frames) {
    return used << 32 | frames;
}

static uint64_t state_used(uint64_t state) {
    return state >> 32;
}

static uint64_t state_frames(uint64_t state) {
    return state & 0xffffffffu;
}

static uint64_t wall_clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static chunk *chunk_new(uint64_t size, uint64_t first_sequence) {
    chunk *fresh = malloc(sizeof *fresh + size);
    if (fresh == NULL)
        return NULL;
    fresh->size = size;
    fresh->first_sequence = first_sequence;
    fresh->spare = NULL;
    atomic_init(&fresh->state, 0);
    atomic_init(&fresh->next, NULL);
    return fresh;
}

/* The last sequence of a chunk whose state was read as `state`; the one before its first if it is
 * empty. */
static uint64_t chunk_last(const chunk *self, uint64_t state) {
    return self->first_sequence + state_frames(state) - 1;
}

hm_outbox *hm_outbox_new(uint64_t capacity, uint32_t id, uint64_t first_sequence) {
    if (capacity < HM_OUTBOX_CAPACITY_MIN || first_sequence == 0)
        return NULL;
    hm_outbox *outbox = aligned_alloc(CACHE_LINE, sizeof *outbox);
    if (outbox == NULL)
        return NULL;
    memset(outbox, 0, sizeof *outbox);
    uint64_t size = capacity / CHUNKS_PER_CAPACITY;
    size = size > HM_OUTBOX_CHUNK ? HM_OUTBOX_CHUNK : size < CHUNK_MIN ? CHUNK_MIN : size;
    outbox->capacity = capacity;
    outbox->chunk_size = size & ~(uint64_t)(HM_FRAME_ALIGN - 1);
    outbox->id = id;
    atomic_init(&outbox->message_max, HM_MESSAGE_MAX);
    outbox->tail = chunk_new(outbox->chunk_size, first_sequence);
    if (outbox->tail == NULL) {
        free(outbox);
        return NULL;
    }
    outbox->head = outbox->tail;
    outbox->next_sequence = first_sequence;
    atomic_init(&outbox->reading, outbox->tail);
    atomic_init(&outbox->put, first_sequence - 1);
    atomic_init(&outbox->offered, first_sequence - 1);
    atomic_init(&outbox->sent, first_sequence - 1);
    atomic_init(&outbox->acked, first_sequence - 1);
    return outbox;
}

static void free_list(chunk *list) {
    while (list != NULL) {
        chunk *next = list->spare;
        free(list);
        list = next;
    }
}

void hm_outbox_free(hm_outbox *outbox) {
    if (outbox == NULL)
        return;
    assert(atomic_load_explicit(&outbox->flusher, memory_order_relaxed) == NULL);
    assert(atomic_load_explicit(&outbox->putting, memory_order_relaxed) == 0);
    for (chunk *at = outbox->head; at != NULL;) {
        chunk *next = atomic_load_explicit(&at->next, memory_order_relaxed);
        free(at);
        at = next;
    }
    free_list(outbox->spares);
    free_list(atomic_load_explicit(&outbox->returned, memory_order_relaxed));
    free(outbox);
}

void hm_outbox_limit(hm_outbox *outbox, uint32_t message_max) {
    atomic_store_explicit(&outbox->message_max, message_max, memory_order_relaxed);
}

void hm_outbox_close(hm_outbox *outbox) {
    atomic_store_explicit(&outbox->closed, 1, memory_order_relaxed);
}

void hm_outbox_reopen(hm_outbox *outbox) {
    atomic_store_explicit(&outbox->closed, 0, memory_order_relaxed);
}

/* ---- the publishing side ---- */

/* Bytes that may still be put.  Looks at the acknowledging side's counter only when `wanted` does
 * not fit. */
static uint64_t room_for(hm_outbox *outbox, uint64_t wanted) {
    uint64_t put = atomic_load_explicit(&outbox->put_bytes, memory_order_relaxed);
    if (outbox->capacity - (put - outbox->freed_seen) < wanted)
        /* acquire: pairs with (D) -- whoever sees the room may also take the chunks that made it.
         */
        outbox->freed_seen = atomic_load_explicit(&outbox->freed_bytes, memory_order_acquire);
    assert(put - outbox->freed_seen <= outbox->capacity);
    return outbox->capacity - (put - outbox->freed_seen);
}

static chunk *take_spare(hm_outbox *outbox) {
    if (outbox->spares == NULL)
        /* acquire: pairs with (E) -- the acknowledging side is done with them. */
        outbox->spares = atomic_exchange_explicit(&outbox->returned, NULL, memory_order_acquire);
    chunk *spare = outbox->spares;
    if (spare == NULL)
        return NULL;
    outbox->spares = spare->spare;
    atomic_fetch_sub_explicit(&outbox->spares_count, 1, memory_order_relaxed);
    spare->first_sequence = outbox->next_sequence;
    spare->spare = NULL;
    atomic_store_explicit(&spare->state, 0, memory_order_relaxed);
    atomic_store_explicit(&spare->next, NULL, memory_order_relaxed);
    return spare;
}

/* Makes sure that the last chunk has `size` bytes free. */
static int extend(hm_outbox *outbox, uint64_t size) {
    if (outbox->tail->size - outbox->tail_used >= size)
        return 0;
    chunk *next = size <= outbox->chunk_size ? take_spare(outbox) : NULL;
    if (next == NULL)
        next =
            chunk_new(size > outbox->chunk_size ? size : outbox->chunk_size, outbox->next_sequence);
    if (next == NULL)
        return -HM_ENOMEM;
    /* release (B): the next chunk is initialised, and the state of this one final. */
    atomic_store_explicit(&outbox->tail->next, next, memory_order_release);
    outbox->tail = next;
    outbox->tail_used = 0;
    outbox->tail_frames = 0;
    return 0;
}

static uint8_t *tail_bytes(hm_outbox *outbox) {
    return outbox->tail->bytes + outbox->tail_used;
}

static void publish(hm_outbox *outbox, uint64_t bytes, uint64_t frames) {
    assert(outbox->tail_used + bytes <= outbox->tail->size);
    outbox->tail_used += bytes;
    outbox->tail_frames += frames;
    outbox->next_sequence += frames;
    uint64_t put = atomic_load_explicit(&outbox->put_bytes, memory_order_relaxed);
    atomic_store_explicit(&outbox->put_bytes, put + bytes, memory_order_relaxed);
    /* release (A): the frames' bytes are visible before the count that publishes them. */
    atomic_store_explicit(&outbox->tail->state, state_pack(outbox->tail_used, outbox->tail_frames),
                          memory_order_release);
    /* sequentially consistent (F): before the look at the flusher's `asleep`, see hm_flusher.c. */
    atomic_store_explicit(&outbox->put, outbox->next_sequence - 1, memory_order_seq_cst);
}

int hm_outbox_one_check(const hm_outbox *outbox, uint32_t topic_len, uint32_t properties_len,
                        uint32_t payload_len) {
    if (atomic_load_explicit(&outbox->closed, memory_order_relaxed))
        return -HM_ECLOSED;
    if (topic_len > HM_TOPIC_MAX || properties_len > HM_PROPERTIES_MAX)
        return -HM_EINVAL;
    uint64_t size = hm_frame_size(topic_len, properties_len, payload_len);
    int fits = payload_len <= atomic_load_explicit(&outbox->message_max, memory_order_relaxed) &&
               size <= outbox->capacity && size <= FRAME_SIZE_MAX;
    return fits ? 0 : -HM_ELENGTH;
}

int hm_outbox_many_check(const hm_outbox *outbox, uint32_t topic_len, uint64_t joined_size,
                         const uint32_t *lengths, uint32_t count) {
    uint64_t total = 0;
    uint32_t longest = 0;
    for (uint32_t i = 0; i < count; i++) {
        total += lengths[i];
        longest = lengths[i] > longest ? lengths[i] : longest;
    }
    if (total != joined_size)
        return -HM_EINVAL;
    return hm_outbox_one_check(outbox, topic_len, 0, longest);
}

int64_t hm_outbox_put_guarded(hm_outbox *outbox, const uint8_t *topic, uint32_t topic_len,
                              const uint8_t *properties, uint32_t properties_len,
                              const uint8_t *payload, uint32_t payload_len, uint64_t timestamp_ns) {
    uint64_t size = hm_frame_size(topic_len, properties_len, payload_len);
    if (room_for(outbox, size) < size)
        return -HM_EFULL;
    int status = extend(outbox, size);
    if (status < 0)
        return status;
    uint64_t sequence = outbox->next_sequence;
    int64_t written =
        hm_frame_encode(tail_bytes(outbox), outbox->tail->size - outbox->tail_used, HM_MESSAGE,
                        topic, topic_len, properties, properties_len, payload, payload_len,
                        sequence, timestamp_ns ? timestamp_ns : wall_clock_ns());
    if (written < 0)
        return written;
    publish(outbox, (uint64_t)written, 1);
    return (int64_t)sequence;
}

int64_t hm_outbox_many_guarded(hm_outbox *outbox, const uint8_t *topic, uint32_t topic_len,
                               const uint8_t *joined, const uint32_t *lengths, uint32_t count,
                               uint64_t timestamp_ns, uint64_t budget, uint64_t *consumed) {
    uint64_t now = timestamp_ns ? timestamp_ns : wall_clock_ns();
    uint64_t bytes = 0;
    int64_t taken = 0;
    *consumed = 0;
    while (taken < count && bytes < budget) {
        uint64_t first = hm_frame_size(topic_len, 0, lengths[taken]);
        uint64_t room = room_for(outbox, first);
        if (room < first)
            break;
        int status = extend(outbox, first);
        if (status < 0)
            return taken ? taken : status;
        uint64_t free_here = outbox->tail->size - outbox->tail_used;
        room = room < free_here ? room : free_here;
        uint64_t run_bytes = 0, run_payload = 0;
        uint32_t run = 0;
        while (taken + run < count) {
            uint64_t size = hm_frame_size(topic_len, 0, lengths[taken + run]);
            if (run_bytes + size > room)
                break;
            run_bytes += size;
            run_payload += lengths[taken + run];
            run++;
        }
        int64_t written =
            hm_frame_encode_many(tail_bytes(outbox), room, topic, topic_len, joined + *consumed,
                                 run_payload, lengths + taken, run, outbox->next_sequence, now);
        if (written < 0)
            return taken ? taken : written;
        publish(outbox, (uint64_t)written, run);
        taken += run;
        bytes += (uint64_t)written;
        *consumed += run_payload;
    }
    return taken ? taken : -HM_EFULL;
}

int64_t hm_outbox_rows_guarded(hm_outbox *outbox, const uint8_t *topic, uint32_t topic_len,
                               const uint8_t *rows, uint32_t row_size, int64_t stride,
                               uint32_t count, uint64_t timestamp_ns, uint64_t budget) {
    uint64_t now = timestamp_ns ? timestamp_ns : wall_clock_ns();
    uint64_t size = hm_frame_size(topic_len, 0, row_size);
    uint64_t bytes = 0;
    int64_t taken = 0;
    while (taken < count && bytes < budget) {
        uint64_t room = room_for(outbox, size);
        if (room < size)
            break;
        int status = extend(outbox, size);
        if (status < 0)
            return taken ? taken : status;
        uint64_t free_here = outbox->tail->size - outbox->tail_used;
        uint64_t fit = (room < free_here ? room : free_here) / size;
        uint64_t left = count - (uint64_t)taken;
        uint32_t run = (uint32_t)(fit < left ? fit : left);
        int64_t written = hm_frame_encode_rows(tail_bytes(outbox), free_here, topic, topic_len,
                                               rows + stride * taken, row_size, stride, run,
                                               outbox->next_sequence, now);
        if (written < 0)
            return taken ? taken : written;
        publish(outbox, (uint64_t)written, run);
        taken += run;
        bytes += (uint64_t)written;
    }
    return taken ? taken : -HM_EFULL;
}

int64_t hm_outbox_put(hm_outbox *outbox, const uint8_t *topic, uint32_t topic_len,
                      const uint8_t *properties, uint32_t properties_len, const uint8_t *payload,
                      uint32_t payload_len, uint64_t timestamp_ns) {
    int status = hm_outbox_one_check(outbox, topic_len, properties_len, payload_len);
    if (status < 0)
        return status;
    if (!outbox_enter(outbox))
        return -HM_EBUSY;
    int64_t result = hm_outbox_put_guarded(outbox, topic, topic_len, properties, properties_len,
                                           payload, payload_len, timestamp_ns);
    outbox_leave(outbox);
    return result;
}

/* ---- the writer ---- */

/* The chunk with the next unsent frame and its state, moving on from one that is done; NULL: all is
 * sent. */
static chunk *unsent(hm_outbox *outbox, uint64_t *state) {
    chunk *at = atomic_load_explicit(&outbox->reading, memory_order_relaxed);
    for (;;) {
        /* acquire: pairs with (A) -- the frames arrive with their count. */
        *state = atomic_load_explicit(&at->state, memory_order_acquire);
        if (outbox->offset < state_used(*state))
            return at;
        /* acquire: pairs with (B) -- a chunk with a successor has its final state. */
        chunk *next = atomic_load_explicit(&at->next, memory_order_acquire);
        if (next == NULL)
            return NULL;
        if (state_used(atomic_load_explicit(&at->state, memory_order_relaxed)) > outbox->offset)
            continue;
        /* release (C): this side never looks at `at` again, so it may be freed. */
        atomic_store_explicit(&outbox->reading, next, memory_order_release);
        outbox->offset = 0;
        at = next;
    }
}

int hm_outbox_batch(hm_outbox *outbox, uint64_t limit, uint64_t now_ns, uint8_t *header,
                    const uint8_t **frames, uint64_t *size) {
    assert(outbox->batch_size == 0);
    uint64_t state;
    const chunk *at = unsent(outbox, &state);
    if (at == NULL)
        return 0;
    uint64_t after = atomic_load_explicit(&outbox->sent, memory_order_relaxed);
    uint64_t through = chunk_last(at, state);
    uint64_t bytes = state_used(state) - outbox->offset;
    *frames = at->bytes + outbox->offset;
    if (bytes > limit) {
        bytes = hm_frame_skip(*frames);
        for (through = after + 1;; through++) {
            uint64_t next = hm_frame_skip(*frames + bytes);
            if (bytes + next > limit)
                break;
            bytes += next;
        }
    }
    assert(through > after);
    hm_batch_encode(header, outbox->id, 0, after, through, bytes, now_ns);
    outbox->batch_size = *size = bytes;
    outbox->batch_through = through;
    /* Messages that are sent again, behind a resume, were offered before.
     * release: pairs with the acquire in hm_outbox_ack, which may run before hm_outbox_sent does. */
    if (through > atomic_load_explicit(&outbox->offered, memory_order_relaxed))
        atomic_store_explicit(&outbox->offered, through, memory_order_release);
    return 1;
}

void hm_outbox_sent(hm_outbox *outbox) {
    assert(outbox->batch_size != 0);
    uint64_t bytes = atomic_load_explicit(&outbox->sent_bytes, memory_order_relaxed);
    atomic_store_explicit(&outbox->sent_bytes, bytes + outbox->batch_size, memory_order_relaxed);
    outbox->offset += outbox->batch_size;
    outbox->batch_size = 0;
    /* release: pairs with the acquire in hm_outbox_status. */
    atomic_store_explicit(&outbox->sent, outbox->batch_through, memory_order_release);
}

void hm_outbox_abandon(hm_outbox *outbox) {
    outbox->batch_size = 0;
}

/* ---- the acknowledging side ---- */

/* Hands a chunk back to the publishing side, or frees it. */
static void give_back(hm_outbox *outbox, chunk *done) {
    if (done->size != outbox->chunk_size ||
        atomic_load_explicit(&outbox->spares_count, memory_order_relaxed) >= SPARES_MAX) {
        free(done);
        return;
    }
    atomic_fetch_add_explicit(&outbox->spares_count, 1, memory_order_relaxed);
    /* The publishing side takes the whole list at once, so a link read here cannot go stale. */
    done->spare = atomic_load_explicit(&outbox->returned, memory_order_relaxed);
    /* release (E): this side is done with the chunk. */
    while (!atomic_compare_exchange_weak_explicit(&outbox->returned, &done->spare, done,
                                                  memory_order_release, memory_order_relaxed))
        ;
}

int hm_outbox_ack(hm_outbox *outbox, uint64_t sequence) {
    /* acquire: pairs with the release in hm_outbox_batch. */
    if (sequence > atomic_load_explicit(&outbox->offered, memory_order_acquire))
        return -HM_ESEQUENCE;
    uint64_t acked = atomic_load_explicit(&outbox->acked, memory_order_relaxed);
    if (sequence > acked) {
        acked = sequence;
        /* release: pairs with the acquire in hm_outbox_status. */
        atomic_store_explicit(&outbox->acked, acked, memory_order_release);
    }
    /* acquire: pairs with (C) -- the writer is done with the chunks before this one. */
    const chunk *reading = atomic_load_explicit(&outbox->reading, memory_order_acquire);
    uint64_t freed = atomic_load_explicit(&outbox->freed_bytes, memory_order_relaxed);
    for (;;) {
        chunk *head = outbox->head;
        /* acquire: pairs with (A), as the last sequence of the chunk still in use may just have
         * moved. */
        uint64_t state = atomic_load_explicit(&head->state, memory_order_acquire);
        if (acked < chunk_last(head, state))
            break;
        freed += state_used(state) - outbox->head_freed;
        outbox->head_freed = state_used(state);
        if (head == reading)
            break;
        /* acquire: pairs with (B). */
        outbox->head = atomic_load_explicit(&head->next, memory_order_acquire);
        outbox->head_freed = 0;
        assert(outbox->head != NULL);
        give_back(outbox, head);
    }
    /* release (D): after the chunks that make the room. */
    atomic_store_explicit(&outbox->freed_bytes, freed, memory_order_release);
    return 0;
}

/* Where the first unacknowledged frame stands. */
static chunk *first_kept(const hm_outbox *outbox, uint64_t *offset) {
    uint64_t wanted = atomic_load_explicit(&outbox->acked, memory_order_relaxed) + 1;
    chunk *at = outbox->head;
    for (;;) {
        /* acquire: pairs with (A) and (B), as in `unsent`. */
        chunk *next = atomic_load_explicit(&at->next, memory_order_acquire);
        uint64_t state = atomic_load_explicit(&at->state, memory_order_acquire);
        if (wanted <= chunk_last(at, state) || next == NULL) {
            *offset = 0;
            for (uint64_t s = at->first_sequence; s < wanted && *offset < state_used(state); s++)
                *offset += hm_frame_skip(at->bytes + *offset);
            return at;
        }
        at = next;
    }
}

void hm_outbox_rewind(hm_outbox *outbox) {
    assert(outbox->batch_size == 0);
    uint64_t acked = atomic_load_explicit(&outbox->acked, memory_order_relaxed);
    uint64_t back = 0;
    chunk *at = first_kept(outbox, &back);
    /* Counted from the oldest chunk: a partly written batch may be acknowledged further than
     * `sent`. */
    uint64_t bytes = atomic_load_explicit(&outbox->freed_bytes, memory_order_relaxed) + back -
                     outbox->head_freed;
    for (chunk *c = outbox->head; c != at; c = atomic_load_explicit(&c->next, memory_order_acquire))
        bytes += state_used(atomic_load_explicit(&c->state, memory_order_acquire));
    atomic_store_explicit(&outbox->sent_bytes, bytes, memory_order_relaxed);
    atomic_store_explicit(&outbox->reading, at, memory_order_release);
    outbox->offset = back;
    atomic_store_explicit(&outbox->sent, acked, memory_order_release);
}

void hm_outbox_status(const hm_outbox *outbox, uint64_t *put, uint64_t *sent, uint64_t *acked) {
    /* acquire: pairs with the releases that moved them; oldest first keeps acked <= sent <= put. */
    *acked = atomic_load_explicit(&outbox->acked, memory_order_acquire);
    *sent = atomic_load_explicit(&outbox->sent, memory_order_acquire);
    *put = atomic_load_explicit(&outbox->put, memory_order_acquire);
}

uint64_t hm_outbox_offered(const hm_outbox *outbox) {
    /* acquire: as in hm_outbox_ack. */
    return atomic_load_explicit(&outbox->offered, memory_order_acquire);
}

uint64_t hm_outbox_queued(const hm_outbox *outbox) {
    uint64_t offset = 0;
    const chunk *at = first_kept(outbox, &offset);
    uint64_t bytes = 0;
    for (; at != NULL; at = atomic_load_explicit(&at->next, memory_order_acquire)) {
        bytes += state_used(atomic_load_explicit(&at->state, memory_order_acquire)) - offset;
        offset = 0;
    }
    return bytes;
}

uint64_t hm_outbox_memory(const hm_outbox *outbox) {
    uint64_t bytes = 0;
    for (const chunk *at = outbox->head; at != NULL;
         at = atomic_load_explicit(&at->next, memory_order_acquire))
        bytes += at->size;
    return bytes +
           outbox->chunk_size * atomic_load_explicit(&outbox->spares_count, memory_order_relaxed);
}
