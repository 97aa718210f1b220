/* hz_pump.c -- moves messages between ZeroMQ sockets and frames. */
#include "hz_pump.h"

#include <assert.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hm_error.h"
#include "hm_frame.h"
#include "hz_library.h"

/* Values of libzmq's stable interface. */
#define ZMQ_EVENTS   15
#define ZMQ_DONTWAIT 1
#define ZMQ_SNDMORE  2
#define ZMQ_POLLIN   1

struct hz_pump {
    const hz_zmq *zmq;
    hz_map *map;
    /* Receiving. */
    uint32_t have;    /* parts of the message being received */
    uint32_t refused; /* 1: it has too many, the rest is dropped */
    uint32_t held;    /* 1: it is whole, and had no room */
    hz_zmq_msg messages[HZ_PARTS_MAX];
    hz_part parts[HZ_PARTS_MAX];
    hz_zmq_msg surplus;
    /* Sending. */
    uint64_t batch_left; /* bytes of the batch being sent */
    hm_batch batch;
    hz_message message;
};

/* ---- libzmq ---- */

struct hz_library {
    hz_zmq zmq;
    void *handle;
};

static int look_up(void *handle, const char *name, void *function) {
    void *found = dlsym(handle, name);
    memcpy(function, &found, sizeof found);
    return found != NULL;
}

hz_library *hz_library_open(const char *path) {
    /* A handle's symbols are those of the object and of what it was linked with. */
    void *handle = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    if (handle == NULL)
        return NULL;
    hz_library *library = calloc(1, sizeof *library);
    hz_zmq *zmq = library == NULL ? NULL : &library->zmq;
    if (library != NULL && look_up(handle, "zmq_msg_init", &zmq->msg_init) &&
        look_up(handle, "zmq_msg_init_size", &zmq->msg_init_size) &&
        look_up(handle, "zmq_msg_data", &zmq->msg_data) &&
        look_up(handle, "zmq_msg_size", &zmq->msg_size) &&
        look_up(handle, "zmq_msg_more", &zmq->msg_more) &&
        look_up(handle, "zmq_msg_recv", &zmq->msg_recv) &&
        look_up(handle, "zmq_msg_send", &zmq->msg_send) &&
        look_up(handle, "zmq_msg_close", &zmq->msg_close) &&
        look_up(handle, "zmq_send", &zmq->send) &&
        look_up(handle, "zmq_getsockopt", &zmq->getsockopt) &&
        look_up(handle, "zmq_errno", &zmq->error) &&
        look_up(handle, "zmq_version", &zmq->version)) {
        library->handle = handle;
        return library;
    }
    free(library);
    dlclose(handle);
    return NULL;
}

int hz_library_version(const hz_library *library) {
    int major, minor, patch;
    library->zmq.version(&major, &minor, &patch);
    return major * 10000 + minor * 100 + patch;
}

void hz_library_close(hz_library *library) {
    if (library != NULL)
        dlclose(library->handle);
    free(library);
}

hz_pump *hz_pump_new(const hz_library *library, hz_map *map) {
    return hz_pump_new_with(&library->zmq, map);
}

hz_pump *hz_pump_new_with(const hz_zmq *zmq, hz_map *map) {
    assert(zmq != NULL && map != NULL);
    hz_pump *pump = calloc(1, sizeof *pump);
    if (pump == NULL)
        return NULL;
    pump->zmq = zmq;
    pump->map = map;
    return pump;
}

static void drop_parts(hz_pump *pump) {
    for (uint32_t i = 0; i < pump->have; i++)
        pump->zmq->msg_close(&pump->messages[i]);
    pump->have = pump->held = pump->refused = 0;
}

void hz_pump_free(hz_pump *pump) {
    if (pump != NULL)
        drop_parts(pump);
    free(pump);
}

/* What the socket would do now; also has it look at its own news, which a send may have skipped. */
static int events(const hz_pump *pump, void *socket) {
    int found = 0;
    size_t size = sizeof found;
    return pump->zmq->getsockopt(socket, ZMQ_EVENTS, &found, &size) == 0 ? found : 0;
}

/* ---- receiving ---- */

/* One part; 1: the message is whole, 0: more parts follow, -1: none came (see zmq_errno). */
static int receive_part(hz_pump *pump, void *socket) {
    const hz_zmq *zmq = pump->zmq;
    int surplus = pump->have == HZ_PARTS_MAX;
    hz_zmq_msg *message = surplus ? &pump->surplus : &pump->messages[pump->have];
    zmq->msg_init(message);
    if (zmq->msg_recv(message, socket, ZMQ_DONTWAIT) < 0) {
        zmq->msg_close(message);
        return -1;
    }
    int more = zmq->msg_more(message);
    if (surplus) {
        pump->refused = 1;
        zmq->msg_close(message);
    } else {
        pump->parts[pump->have].data = zmq->msg_data(message);
        pump->parts[pump->have].size = zmq->msg_size(message);
        pump->have++;
    }
    return !more;
}

/* The whole message in hand goes behind the `size` bytes of `out`; bytes written, or -HM_E*. */
static int64_t take(hz_pump *pump, uint8_t *out, uint64_t size, uint64_t capacity,
                    uint64_t sequence, uint64_t now_ns, hz_received *result) {
    int64_t taken = 0;
    if (pump->refused) {
        result->crowded++;
    } else {
        taken = hz_map_in(pump->map, pump->parts, pump->have, out + size, capacity - size, sequence,
                          now_ns);
        if (taken == -HM_EFULL) {
            pump->held = 1;
            return taken;
        }
        if (taken < 0) {
            result->oversized++;
            taken = 0;
        }
    }
    drop_parts(pump);
    return taken;
}

void hz_pump_receive(hz_pump *pump, uintptr_t socket, uint8_t *out, uint64_t capacity,
                     uint64_t bytes_max, uint32_t count_max, uint32_t publisher, uint64_t after,
                     uint64_t now_ns, hz_received *result) {
    void *from = (void *)socket;
    uint64_t size = HM_BATCH_HEADER;
    assert(capacity > size);
    *result = (hz_received){.why = HZ_MORE};
    for (uint32_t seen = 0; seen < count_max && size < bytes_max;) {
        int whole = pump->held ? 1 : receive_part(pump, from);
        if (whole < 0) {
            result->error = pump->zmq->error();
            if (result->error == EINTR)
                continue;
            /* It looked at its news before it said so; those since then make it readable. */
            if (result->error == EAGAIN && events(pump, from) & ZMQ_POLLIN)
                continue;
            result->why = result->error == EAGAIN ? HZ_EMPTY : HZ_FAILED;
            break;
        }
        if (!whole)
            continue;
        uint64_t sequence = after + result->messages + 1;
        int64_t taken = take(pump, out, size, capacity, sequence, now_ns, result);
        if (taken == -HM_EFULL) {
            result->why = HZ_ROOM;
            result->needed = HM_BATCH_HEADER + hz_map_bound(pump->parts, pump->have);
            break;
        }
        seen++;
        result->messages += taken > 0;
        size += (uint64_t)taken;
    }
    if (result->messages > 0) {
        hz_batch_begin(pump->map, out, publisher, after, after + result->messages,
                       size - HM_BATCH_HEADER, now_ns);
        result->size = size;
    }
    result->events = events(pump, from);
    if (result->why == HZ_EMPTY && result->events & ZMQ_POLLIN)
        result->why = HZ_MORE;
}

/* ---- sending ---- */

/* "topic payload" in one part. */
static int send_joined(const hz_pump *pump, void *socket, const hz_part *two, int flags) {
    const hz_zmq *zmq = pump->zmq;
    hz_zmq_msg message;
    size_t topic = (size_t)two[0].size, payload = (size_t)two[1].size;
    if (zmq->msg_init_size(&message, topic + 1 + payload) != 0)
        return -1;
    uint8_t *data = zmq->msg_data(&message);
    memcpy(data, two[0].data, topic);
    data[topic] = ' ';
    if (payload > 0)
        memcpy(data + topic + 1, two[1].data, payload);
    int sent = zmq->msg_send(&message, socket, flags);
    if (sent < 0) {
        int kept = errno;
        zmq->msg_close(&message);
        errno = kept;
    }
    return sent;
}

/* One part of the message in hand, or the first two joined.  0, or the errno. */
static int send_part(const hz_pump *pump, void *socket, uint32_t part, uint32_t width) {
    const hz_part *next = &pump->message.parts[part];
    int flags = ZMQ_DONTWAIT | (part + width < pump->message.count ? ZMQ_SNDMORE : 0);
    for (;;) {
        int sent = width == 2 ? send_joined(pump, socket, next, flags)
                              : pump->zmq->send(socket, next->data, (size_t)next->size, flags);
        int error = sent < 0 ? pump->zmq->error() : 0;
        if (error != EINTR)
            return error;
    }
}

/* The message in hand, from its first part on.  0: sent whole; else the errno: nothing of it will
 * arrive.
 *
 * libzmq takes a message as soon as it takes its first part, unless the peer goes away in between.
 * Then it forgets the parts it has, refuses one, and drops those that follow: with them it is ready
 * for the same message again. */
static int send_parts(const hz_pump *pump, void *socket) {
    uint32_t count = pump->message.count, first = pump->message.single ? 2 : 1;
    int error = 0;
    for (uint32_t part = 0, width = first; part < count; part += width, width = 1) {
        int refused = send_part(pump, socket, part, width);
        if (refused != 0 && part == 0)
            return refused;
        error = error != 0 ? error : refused;
    }
    return error;
}

/* One frame of the `size` bytes at `data`; bytes done with, 0: blocked or failed (in `result`),
 * -HM_E*: not sound. */
static int64_t send_frame(hz_pump *pump, void *socket, const uint8_t *data, uint64_t size,
                          hz_sent *result) {
    int odd;
    int64_t taken = hz_map_out(pump->map, data, size, &pump->message, &odd);
    if (taken < 0)
        return taken;
    int error = send_parts(pump, socket);
    if (error == EAGAIN) {
        /* A send may skip the socket's news (of room, that is): look at them, then try once more.
         */
        result->events = events(pump, socket);
        error = send_parts(pump, socket);
    }
    if (error != 0) {
        result->why = error == EAGAIN ? HZ_BLOCKED : HZ_FAILED;
        result->error = error;
        return 0;
    }
    result->messages++;
    result->odd += (uint32_t)odd;
    for (uint32_t i = pump->message.count > 1; i < pump->message.count; i++)
        result->bytes += pump->message.parts[i].size;
    return taken;
}

/* Whole MESSAGE frames, until the end of `size` bytes; bytes done with. */
static uint64_t send_range(hz_pump *pump, void *socket, const uint8_t *data, uint64_t size,
                           hz_sent *result) {
    uint64_t at = 0;
    while (at < size) {
        int64_t taken = send_frame(pump, socket, data + at, size - at, result);
        if (taken == 0)
            return at;
        if (taken < 0) {
            result->why = HZ_DAMAGED;
            result->error = (int32_t)taken;
            return size;
        }
        at += (uint64_t)taken;
    }
    return at;
}

/* The envelope of a batch, or a control frame, stands at `data`.  Bytes done with. */
static uint64_t begin_batch(hz_pump *pump, const uint8_t *data, uint64_t size, hz_sent *result) {
    const hm_frame_header *header = (const hm_frame_header *)data;
    if (size < HM_FRAME_HEADER || header->type != HM_BATCH || size < HM_BATCH_HEADER) {
        result->why = HZ_CONTROL;
        return 0;
    }
    hz_batch_parse(pump->map, data, &pump->batch);
    pump->batch_left = pump->batch.frames_size;
    return HM_BATCH_HEADER;
}

/* Says which batch it is about. */
static void name_batch(const hz_pump *pump, hz_sent *result) {
    result->stream = pump->batch.stream;
    result->after = pump->batch.after;
    result->through = pump->batch.through;
}

/* What else is new at the socket.  Not when it is blocked: the news might be of room, and then its
 * descriptor would stay silent; the attempt to send must be the last that has looked. */
static void look_around(const hz_pump *pump, void *socket, hz_sent *result) {
    if (result->messages > 0 && result->why != HZ_BLOCKED)
        result->events = events(pump, socket);
}

void hz_pump_send(hz_pump *pump, uintptr_t socket, const uint8_t *data, uint64_t size,
                  hz_sent *result) {
    void *to = (void *)socket;
    *result = (hz_sent){.why = HZ_MORE};
    while (result->consumed < size && result->why == HZ_MORE) {
        const uint8_t *next = data + result->consumed;
        uint64_t left = size - result->consumed;
        if (pump->batch_left == 0) {
            result->consumed += begin_batch(pump, next, left, result);
            if (result->why == HZ_MORE && pump->batch_left == 0)
                result->why = HZ_BATCH;
            continue;
        }
        uint64_t range = left < pump->batch_left ? left : pump->batch_left;
        uint64_t done = send_range(pump, to, next, range, result);
        result->consumed += done;
        pump->batch_left -= done;
        if (pump->batch_left == 0 && result->why == HZ_MORE)
            result->why = HZ_BATCH;
    }
    name_batch(pump, result);
    look_around(pump, to, result);
}

void hz_pump_send_frames(hz_pump *pump, uintptr_t socket, const uint8_t *data, uint64_t size,
                         hz_sent *result) {
    *result = (hz_sent){.why = HZ_MORE};
    result->consumed = send_range(pump, (void *)socket, data, size, result);
    look_around(pump, (void *)socket, result);
}
