/* hu_slots.c -- the table of an endpoint's sessions. */
#include "hu_parts.h"

#include <stdlib.h>

uint32_t hu_slots_buckets(uint32_t capacity) {
    uint32_t count = 16;
    while (count < capacity && count < 65536)
        count *= 2;
    return count;
}

/* Slots are made as they are needed: a listener for ten thousand has room for few at first. */
int hu_slots_grow(hu_endpoint *endpoint) {
    uint32_t capacity = endpoint->capacity == 0 ? 16 : 2 * endpoint->capacity;
    if (capacity > endpoint->options.sessions_max)
        capacity = endpoint->options.sessions_max;
    if (capacity == endpoint->capacity)
        return 0;
    slot *slots = realloc(endpoint->slots, capacity * sizeof *slots);
    if (slots != NULL)
        endpoint->slots = slots;
    uint32_t **lists[] = {&endpoint->free_slots, &endpoint->heap, &endpoint->dirty,
                          &endpoint->eventful};
    int sound = slots != NULL;
    for (unsigned i = 0; i < 4; i++) {
        uint32_t *list = realloc(*lists[i], capacity * sizeof *list);
        if (list != NULL)
            *lists[i] = list;
        sound = sound && list != NULL;
    }
    if (sound)
        endpoint->capacity = capacity;
    return sound;
}

static uint32_t *bucket_of(hu_endpoint *endpoint, uint64_t id) {
    return &endpoint->buckets[id & (hu_slots_buckets(endpoint->options.sessions_max) - 1)];
}

uint32_t hu_slot_find(hu_endpoint *endpoint, uint64_t id) {
    uint32_t at = *bucket_of(endpoint, id);
    while (at != NO_SLOT && hu_session_id(endpoint->slots[at].session) != id)
        at = endpoint->slots[at].id_next;
    return at;
}

static void swap_up(hu_endpoint *endpoint, uint32_t at) {
    uint32_t *heap = endpoint->heap, moved = heap[at];
    slot *slots = endpoint->slots;
    while (at > 0 && slots[heap[(at - 1) / 2]].due_ns > slots[moved].due_ns) {
        heap[at] = heap[(at - 1) / 2];
        slots[heap[at]].heap_at = at;
        at = (at - 1) / 2;
    }
    heap[at] = moved;
    slots[moved].heap_at = at;
}

static void swap_down(hu_endpoint *endpoint, uint32_t at) {
    uint32_t *heap = endpoint->heap, moved = heap[at];
    slot *slots = endpoint->slots;
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= endpoint->heap_count)
            break;
        if (child + 1 < endpoint->heap_count &&
            slots[heap[child + 1]].due_ns < slots[heap[child]].due_ns)
            child++;
        if (slots[heap[child]].due_ns >= slots[moved].due_ns)
            break;
        heap[at] = heap[child];
        slots[heap[at]].heap_at = at;
        at = child;
    }
    heap[at] = moved;
    slots[moved].heap_at = at;
}

void hu_slot_due(hu_endpoint *endpoint, uint32_t number, uint64_t due_ns) {
    slot *s = &endpoint->slots[number];
    uint64_t before = s->due_ns;
    s->due_ns = due_ns;
    if (due_ns < before)
        swap_up(endpoint, s->heap_at);
    else if (due_ns > before)
        swap_down(endpoint, s->heap_at);
}

void hu_slot_soil(hu_endpoint *endpoint, uint32_t number) {
    slot *s = &endpoint->slots[number];
    if (!s->dirty) {
        s->dirty = 1;
        endpoint->dirty[endpoint->dirty_count++] = number;
    }
}

void hu_slot_report(hu_endpoint *endpoint, uint32_t number, uint32_t events) {
    slot *s = &endpoint->slots[number];
    s->events |= events;
    if (!s->eventful && events != 0) {
        s->eventful = 1;
        endpoint->eventful[endpoint->eventful_count++] = number;
    }
}

/* A session in a slot of its own; NO_SLOT: no memory. */
uint32_t hu_slot_admit(hu_endpoint *endpoint, uint64_t id, const hu_peer *peer,
                       const hu_setup *theirs) {
    uint32_t number;
    hu_options *ours = &endpoint->options;
    if (endpoint->free_count > 0)
        number = endpoint->free_slots[endpoint->free_count - 1];
    else if (endpoint->used < endpoint->capacity || hu_slots_grow(endpoint))
        number = endpoint->used;
    else
        return NO_SLOT;
    uint32_t patience = theirs->liveness_ms;
    patience = patience < HU_LIVENESS_MIN ? HU_LIVENESS_MIN : patience;
    hu_session_options options = {
        .id = id,
        .window = ours->window,
        .copy_size = ours->copy_size,
        .datagram = theirs->datagram < ours->datagram ? theirs->datagram : ours->datagram,
        .peer_window = theirs->window,
        .liveness_ms = ours->liveness_ms,
        .patience_ms = patience < HU_LIVENESS_MAX ? patience : HU_LIVENESS_MAX,
    };
    hu_session *session = hu_session_new(&options, endpoint->now_ns);
    if (session == NULL)
        return NO_SLOT;
    if (number == endpoint->used)
        endpoint->used++;
    else
        endpoint->free_count--;
    uint32_t *bucket = bucket_of(endpoint, id);
    endpoint->slots[number] =
        (slot){.session = session, .peer = *peer, .due_ns = NEVER, .id_next = *bucket};
    *bucket = number;
    endpoint->slots[number].heap_at = endpoint->heap_count;
    endpoint->heap[endpoint->heap_count++] = number;
    endpoint->count++;
    /* Not only by flushing: a full socket may keep that waiting for longer than the peer is silent.
     */
    hu_slot_due(endpoint, number, hu_session_deadline(session, endpoint->now_ns));
    hu_slot_soil(endpoint, number);
    return number;
}

void hu_slot_unlist(uint32_t *list, uint32_t *count, uint32_t number) {
    for (uint32_t i = 0; i < *count; i++)
        if (list[i] == number) {
            list[i] = list[--*count];
            return;
        }
}

void hu_slot_discharge(hu_endpoint *endpoint, uint32_t number) {
    slot *s = &endpoint->slots[number];
    uint64_t id = hu_session_id(s->session);
    uint32_t *link = bucket_of(endpoint, id);
    while (*link != number)
        link = &endpoint->slots[*link].id_next;
    *link = s->id_next;
    uint32_t at = s->heap_at, last = endpoint->heap[--endpoint->heap_count];
    if (at < endpoint->heap_count) {
        endpoint->heap[at] = last;
        endpoint->slots[last].heap_at = at;
        swap_up(endpoint, at);
        swap_down(endpoint, endpoint->slots[last].heap_at);
    }
    if (s->dirty)
        hu_slot_unlist(endpoint->dirty, &endpoint->dirty_count, number);
    if (s->eventful)
        hu_slot_unlist(endpoint->eventful, &endpoint->eventful_count, number);
    hu_session_free(s->session);
    *s = (slot){0};
    endpoint->free_slots[endpoint->free_count++] = number;
    endpoint->count--;
    endpoint->gone[endpoint->gone_next++ % HU_GONE_MAX] = id;
}
