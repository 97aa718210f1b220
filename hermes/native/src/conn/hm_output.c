/* hm_output.c -- what waits to be sent over a connection, and what is on its way. */
#include "output_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- chunks ---- */

static hm_chunk *chunk_new(uint64_t capacity) {
    hm_chunk *chunk = malloc(sizeof *chunk + capacity);
    if (chunk == NULL)
        return NULL;
    atomic_init(&chunk->holds, 1);
    chunk->used = 0;
    chunk->capacity = capacity;
    return chunk;
}

const uint8_t *hm_chunk_hold(hm_chunk *chunk, uint64_t *size) {
    atomic_fetch_add_explicit(&chunk->holds, 1, memory_order_relaxed);
    *size = chunk->capacity;
    return chunk->data;
}

void hm_chunk_release(hm_chunk *chunk) {
    /* release, then acquire by whoever frees it or begins it again (A): reads come before that */
    if (atomic_fetch_sub_explicit(&chunk->holds, 1, memory_order_acq_rel) == 1)
        free(chunk);
}

uint8_t *chunk_room(hm_conns *conns, uint64_t *size) {
    hm_chunk *chunk = conns->chunk;
    if (chunk != NULL && chunk->used > 0 &&
        atomic_load_explicit(&chunk->holds, memory_order_acquire) == 1) /* (A) */
        chunk->used = 0; /* nobody refers to it: the cache has it still */
    if (chunk == NULL || chunk->capacity - chunk->used < CHUNK_REST) {
        hm_chunk *begun = chunk_new(CHUNK_SIZE);
        if (begun == NULL)
            return NULL;
        if (chunk != NULL)
            hm_chunk_release(chunk);
        conns->chunk = chunk = begun;
    }
    *size = chunk->capacity - chunk->used;
    return chunk->data + chunk->used;
}

hm_conns *hm_conns_new(void) {
    return calloc(1, sizeof(hm_conns));
}

void hm_conns_free(hm_conns *conns) {
    if (conns == NULL)
        return;
    if (conns->chunk != NULL)
        hm_chunk_release(conns->chunk);
    free(conns);
}

/* ---- pieces ---- */

static void drop(piece *old) {
    if (old->chunk != NULL)
        hm_chunk_release(old->chunk);
    if (old->segment != NULL)
        hm_segment_release(old->segment);
}

static int reserve(output *out) {
    uint32_t used = out->tail - out->head;
    if (used < out->capacity)
        return 0;
    uint32_t capacity = out->capacity == 0 ? 16 : 2 * out->capacity;
    piece *pieces = malloc(capacity * sizeof *pieces);
    if (pieces == NULL)
        return -HM_ENOMEM;
    for (uint32_t i = 0; i < used; i++)
        pieces[i] = *piece_at(out, out->head + i);
    free(out->pieces);
    out->pieces = pieces;
    out->capacity = capacity;
    out->next -= out->head;
    out->head = 0;
    out->tail = used;
    return 0;
}

static void add(output *out, const piece *new) {
    *piece_at(out, out->tail++) = *new;
    out->waiting += new->size;
}

int output_put(output *out, hm_conns *conns, uint64_t size) {
    hm_chunk *chunk = conns->chunk;
    const uint8_t *data = chunk->data + chunk->used;
    assert(size <= chunk->capacity - chunk->used);
    if (out->next != out->tail) {
        piece *last = piece_at(out, out->tail - 1);
        if (last->chunk == chunk && last->data + last->size == data) {
            last->size += size;
            out->waiting += size;
            chunk->used += (uint32_t)size;
            return 0;
        }
    }
    int error = reserve(out);
    if (error != 0)
        return error;
    atomic_fetch_add_explicit(&chunk->holds, 1, memory_order_relaxed);
    add(out, &(piece){.data = data, .size = size, .chunk = chunk});
    chunk->used += (uint32_t)size;
    return 0;
}

int output_copy(output *out, hm_conns *conns, const uint8_t *data, uint64_t size) {
    uint64_t room;
    if (size <= CHUNK_REST) {
        uint8_t *place = chunk_room(conns, &room);
        if (place == NULL)
            return -HM_ENOMEM;
        memcpy(place, data, size);
        return output_put(out, conns, size);
    }
    int error = reserve(out);
    if (error != 0)
        return error;
    hm_chunk *chunk = chunk_new(size);
    if (chunk == NULL)
        return -HM_ENOMEM;
    memcpy(chunk->data, data, size);
    add(out, &(piece){.data = chunk->data, .size = size, .chunk = chunk});
    return 0;
}

int output_range(output *out, hm_segment *segment, const uint8_t *data, uint64_t size) {
    int error = reserve(out);
    if (error != 0)
        hm_segment_release(segment);
    else
        add(out, &(piece){.data = data, .size = size, .segment = segment});
    return error;
}

void output_advance(output *out, uint64_t size) {
    assert(size <= out->waiting);
    out->waiting -= size;
    out->in_flight += size;
    while (size > 0) {
        uint64_t left = piece_at(out, out->next)->size - out->next_done;
        if (size < left) {
            out->next_done += size;
            return;
        }
        size -= left;
        out->next++;
        out->next_done = 0;
    }
}

void output_release(output *out, uint64_t size) {
    assert(size <= out->in_flight);
    out->in_flight -= size;
    while (size > 0) {
        piece *oldest = piece_at(out, out->head);
        uint64_t left = oldest->size - out->head_done;
        if (size < left) {
            out->head_done += size;
            return;
        }
        assert(out->head != out->next);
        size -= left;
        drop(oldest);
        out->head++;
        out->head_done = 0;
    }
}

uint64_t output_unpin(output *out) {
    uint64_t copied = 0;
    for (uint32_t i = out->next; i != out->tail; i++) {
        piece *old = piece_at(out, i);
        uint64_t done = i == out->next ? out->next_done : 0;
        if (old->segment == NULL || (done > 0 && out->in_flight > 0))
            continue; /* of a piece that is partly taken, that part may be in use */
        hm_chunk *chunk = chunk_new(old->size - done);
        if (chunk == NULL)
            break;
        memcpy(chunk->data, old->data + done, old->size - done);
        copied += old->size - done;
        drop(old);
        *old = (piece){.data = chunk->data, .size = old->size - done, .chunk = chunk};
        if (done > 0)
            out->head_done = out->next_done = 0;
    }
    return copied;
}

int output_gather(const output *out, struct iovec *pieces, int capacity, uint64_t *size) {
    int count = 0;
    uint64_t skip = out->next_done;
    *size = 0;
    for (uint32_t i = out->next; i != out->tail && count < capacity; i++, skip = 0) {
        const piece *one = piece_at(out, i);
        void *data = (void *)(uintptr_t)(one->data + skip);
        pieces[count++] = (struct iovec){data, one->size - skip};
        *size += one->size - skip;
    }
    return count;
}

void output_clear(output *out) {
    for (; out->head != out->tail; out->head++)
        drop(piece_at(out, out->head));
    free(out->pieces);
    *out = (output){0};
}
