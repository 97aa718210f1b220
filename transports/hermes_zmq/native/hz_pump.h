/* hz_pump.h -- moves messages between ZeroMQ sockets and frames, many per call.
 *
 * It calls the libzmq that Python has loaded already: the functions are looked up at run time in
 * that very library, and the sockets are handles of it.  No call waits.  A pump belongs to one
 * socket and one thread.
 */
#ifndef HZ_PUMP_H
#define HZ_PUMP_H

#include <stdint.h>

#include "hz_map.h"

/* cdef-begin -- opaque handles and two results, read in bulk by Python. */
typedef struct hz_library hz_library;
typedef struct hz_pump hz_pump;

enum {
    HZ_MORE = 0,    /* the bound of one call was reached: there may be more */
    HZ_EMPTY = 1,   /* the socket has nothing more; its descriptor will tell of news */
    HZ_BLOCKED = 2, /* the socket takes nothing now; its descriptor will tell of news */
    HZ_ROOM = 3,    /* the next message needs `needed` bytes of output */
    HZ_BATCH = 4,   /* a batch ends here */
    HZ_CONTROL = 5, /* a control frame stands here */
    HZ_DAMAGED = 6, /* a frame that is not sound; the rest of its batch was skipped */
    HZ_FAILED = 7,  /* libzmq failed: `error` is its errno */
};

typedef struct {
    uint64_t size;      /* bytes written: one whole BATCH frame, or 0 */
    uint64_t needed;    /* with HZ_ROOM */
    uint32_t messages;  /* in it */
    uint32_t oversized; /* messages over the limit, dropped */
    uint32_t crowded;   /* messages of too many parts, dropped */
    int32_t why;
    int32_t error;
    int32_t events; /* ZMQ_EVENTS as they stand now */
} hz_received;

typedef struct {
    uint64_t consumed; /* bytes of input done with */
    uint64_t after;    /* of the batch that ended or was damaged */
    uint64_t through;
    uint64_t bytes; /* of payloads sent */
    uint32_t stream;
    uint32_t messages; /* sent whole */
    uint32_t odd;      /* frames with headers of ours that made no sense */
    int32_t why;
    int32_t error;
    int32_t events;
} hz_sent;

/* The libzmq that the loaded library or extension at `path` is or uses; NULL if there is none.
 * Loads nothing. */
hz_library *hz_library_open(const char *path);
/* Its version as zmq_version tells it: major * 10000 + minor * 100 + patch. */
int hz_library_version(const hz_library *library);
void hz_library_close(hz_library *library);

/* NULL: no memory. */
hz_pump *hz_pump_new(const hz_library *library, hz_map *map);
void hz_pump_free(hz_pump *pump);

/* Takes messages from `socket` and writes them as one BATCH of `publisher`, numbered from
 * `after + 1`, until `bytes_max` bytes or `count_max` messages are there. */
void hz_pump_receive(hz_pump *pump, uintptr_t socket, uint8_t *out, uint64_t capacity,
                     uint64_t bytes_max, uint32_t count_max, uint32_t publisher, uint64_t after,
                     uint64_t now_ns, hz_received *result);

/* Sends the messages of what a connection puts out: `data` is whole frames, going on exactly where
 * the last call stopped.  A message that was begun is finished by the next call. */
void hz_pump_send(hz_pump *pump, uintptr_t socket, const uint8_t *data, uint64_t size,
                  hz_sent *result);
/* The same for MESSAGE frames alone, outside of a batch. */
void hz_pump_send_frames(hz_pump *pump, uintptr_t socket, const uint8_t *data, uint64_t size,
                         hz_sent *result);
/* cdef-end */

#endif
