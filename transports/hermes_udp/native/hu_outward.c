/* hu_outward.c -- collects the subscriptions in what a client of a group sends. */
#include "hu_outward.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE_MAX (HU_NOTE_MAX + HU_SAID_MAX)
#define TYPE_AT   5
#define LENGTH_AT 24
#define NO_FRAMES (UINT64_C(1) << 63) /* bytes that pass where frames were expected */

typedef struct {
    uint64_t size; /* 0: free */
    uint8_t frame[HU_ENDING];
} ending;

struct hu_outward {
    pthread_mutex_t mutex; /* around all of it */
    uint64_t have;         /* of `frame` */
    uint64_t passing;
    uint64_t queue_start;
    uint64_t queue_end;
    uint64_t later_size;
    uint64_t notes_size; /* each: u32 size, frame */
    int deaf;            /* a note found no room */
    ending endings[HU_SELECT_ROWS];
    uint8_t frame[HU_NOTE_MAX];
    uint8_t queue[QUEUE_MAX];
    uint8_t later[HU_SAID_MAX]; /* of the owner's: goes behind the batch that passes */
    uint8_t notes[HU_NOTES_MAX];
};

hu_outward *hu_outward_new(void) {
    hu_outward *outward = calloc(1, sizeof *outward);
    if (outward != NULL)
        pthread_mutex_init(&outward->mutex, NULL);
    return outward;
}

void hu_outward_free(hu_outward *outward) {
    if (outward == NULL)
        return;
    pthread_mutex_destroy(&outward->mutex);
    free(outward);
}

static void lock(hu_outward *outward) {
    pthread_mutex_lock(&outward->mutex);
}

static void unlock(hu_outward *outward) {
    pthread_mutex_unlock(&outward->mutex);
}

static void enqueue(hu_outward *outward, const uint8_t *data, uint64_t size) {
    assert(QUEUE_MAX - outward->queue_end >= size);
    memcpy(outward->queue + outward->queue_end, data, size);
    outward->queue_end += size;
}

/* ---- frames ---- */

static uint64_t size_of(const uint8_t *header) {
    uint32_t length;
    memcpy(&length, header + LENGTH_AT, sizeof length);
    return HM_FRAME_HEADER +
           (((uint64_t)length + HM_FRAME_ALIGN - 1) & ~(uint64_t)(HM_FRAME_ALIGN - 1));
}

static ending *find_ending(hu_outward *outward, const uint8_t *frame, uint64_t size) {
    for (uint32_t i = 0; i < HU_SELECT_ROWS; i++) {
        ending *one = &outward->endings[i];
        if (one->size == size && memcmp(one->frame, frame, size) == 0)
            return one;
    }
    return NULL;
}

/* 0: there is no room. */
static int note(hu_outward *outward, uint64_t size) {
    if (HU_NOTES_MAX - outward->notes_size < size + 4)
        return 0;
    uint32_t length = (uint32_t)size;
    memcpy(outward->notes + outward->notes_size, &length, sizeof length);
    memcpy(outward->notes + outward->notes_size + 4, outward->frame, size);
    outward->notes_size += size + 4;
    return 1;
}

/* A control frame is whole; 0: it must wait. */
static int judge(hu_outward *outward) {
    uint8_t type = outward->frame[TYPE_AT];
    if (type == HM_UNSUBSCRIBE) {
        ending *ended = find_ending(outward, outward->frame, outward->have);
        if (ended != NULL) {
            if (!note(outward, outward->have))
                return 0;
            ended->size = 0;
            return 1;
        }
    }
    if ((type == HM_SUBSCRIBE || type == HM_UNSUBSCRIBE) && !note(outward, outward->have))
        outward->deaf = 1;
    enqueue(outward, outward->frame, outward->have);
    return 1;
}

static uint64_t extend(hu_outward *outward, const uint8_t *data, uint64_t size, uint64_t to) {
    uint64_t part = outward->have < to ? to - outward->have : 0;
    part = part < size ? part : size;
    memcpy(outward->frame + outward->have, data, part);
    outward->have += part;
    return part;
}

/* Whether the frame that begins so is looked at: else it passes. */
static int interests(const uint8_t *header) {
    uint8_t type = header[TYPE_AT];
    return memcmp(header, "HRMS", 4) == 0 && (type == HM_SUBSCRIBE || type == HM_UNSUBSCRIBE) &&
           size_of(header) <= HU_NOTE_MAX;
}

static uint64_t collect(hu_outward *outward, const uint8_t *data, uint64_t size) {
    uint64_t taken = extend(outward, data, size, HM_FRAME_HEADER);
    if (outward->have < HM_FRAME_HEADER)
        return taken;
    int sound = memcmp(outward->frame, "HRMS", 4) == 0;
    uint64_t whole = sound ? size_of(outward->frame) : NO_FRAMES;
    if (!interests(outward->frame)) {
        enqueue(outward, outward->frame, HM_FRAME_HEADER);
        outward->passing = whole - HM_FRAME_HEADER;
        outward->have = 0;
        return taken;
    }
    uint64_t part = extend(outward, data + taken, size - taken, whole);
    if (outward->have < whole)
        return taken + part;
    if (!judge(outward)) { /* it is offered again */
        outward->have -= part;
        return taken;
    }
    outward->have = 0;
    return taken + part;
}

/* ---- whoever sends ---- */

uint64_t hu_outward_collect(hu_outward *outward, const uint8_t *data, uint64_t size) {
    lock(outward);
    uint64_t taken = collect(outward, data, size);
    unlock(outward);
    return taken;
}

uint64_t hu_outward_queued(hu_outward *outward, const uint8_t **data) {
    lock(outward);
    uint64_t size = outward->queue_end - outward->queue_start;
    *data = outward->queue + outward->queue_start;
    unlock(outward);
    return size;
}

void hu_outward_sent(hu_outward *outward, uint64_t size) {
    lock(outward);
    assert(size <= outward->queue_end - outward->queue_start);
    outward->queue_start += size;
    if (outward->queue_start == outward->queue_end)
        outward->queue_start = outward->queue_end = 0;
    unlock(outward);
}

uint64_t hu_outward_passing(hu_outward *outward) {
    lock(outward);
    uint64_t passing = outward->passing;
    unlock(outward);
    return passing;
}

void hu_outward_passed(hu_outward *outward, uint64_t size) {
    lock(outward);
    assert(size <= outward->passing);
    outward->passing -= size;
    if (outward->passing == 0) {
        enqueue(outward, outward->later, outward->later_size);
        outward->later_size = 0;
    }
    unlock(outward);
}

/* ---- the owner ---- */

static int say(hu_outward *outward, const uint8_t *frame, uint64_t size) {
    if (outward->passing > 0) {
        if (HU_SAID_MAX - outward->later_size < size)
            return 0;
        memcpy(outward->later + outward->later_size, frame, size);
        outward->later_size += size;
        return 1;
    }
    if (outward->queue_end + size > HU_SAID_MAX) /* the rest is for what the client says */
        return 0;
    enqueue(outward, frame, size);
    return 1;
}

int hu_outward_say(hu_outward *outward, const uint8_t *frame, uint64_t size) {
    lock(outward);
    int done = say(outward, frame, size);
    unlock(outward);
    return done;
}

int hu_outward_take(hu_outward *outward, const uint8_t *frame, uint64_t size) {
    int done = 0;
    assert(size > 0 && size <= HU_ENDING);
    lock(outward);
    for (uint32_t i = 0; i < HU_SELECT_ROWS && !done; i++) {
        ending *one = &outward->endings[i];
        if (one->size != 0)
            continue;
        if (outward->notes_size > 0 || outward->deaf || !say(outward, frame, size))
            break;
        memcpy(one->frame, frame, size);
        one->size = size;
        done = 1;
    }
    unlock(outward);
    return done;
}

void hu_outward_forget(hu_outward *outward, const uint8_t *frame, uint64_t size) {
    lock(outward);
    ending *one = find_ending(outward, frame, size);
    if (one != NULL)
        one->size = 0;
    unlock(outward);
}

int hu_outward_noted(hu_outward *outward) {
    lock(outward);
    int noted = outward->notes_size > 0 || outward->deaf;
    unlock(outward);
    return noted;
}

int64_t hu_outward_read(hu_outward *outward, uint8_t *out) {
    uint32_t size = 0;
    int64_t result = 0;
    lock(outward);
    if (outward->notes_size > 0) {
        memcpy(&size, outward->notes, sizeof size);
        memcpy(out, outward->notes + 4, size);
        outward->notes_size -= size + 4;
        memmove(outward->notes, outward->notes + 4 + size, outward->notes_size);
        result = size;
    } else if (outward->deaf) {
        outward->deaf = 0;
        result = -HM_EFULL;
    }
    unlock(outward);
    return result;
}
