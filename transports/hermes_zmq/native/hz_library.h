/* hz_library.h -- the functions of libzmq that the pump calls, and what its files share.
 *
 * Not for Python.  A test passes a table of its own.
 */
#ifndef HZ_LIBRARY_H
#define HZ_LIBRARY_H

#include <stddef.h>
#include <stdint.h>

#include "hm_frame.h"
#include "hz_pump.h"

/* zmq_msg_t: 64 opaque bytes, a promise of libzmq's binary interface. */
typedef union {
    uint8_t bytes[64];
    void *aligned;
} hz_zmq_msg;

typedef struct {
    int (*msg_init)(hz_zmq_msg *message);
    int (*msg_init_size)(hz_zmq_msg *message, size_t size);
    void *(*msg_data)(hz_zmq_msg *message);
    size_t (*msg_size)(const hz_zmq_msg *message);
    int (*msg_more)(const hz_zmq_msg *message);
    int (*msg_recv)(hz_zmq_msg *message, void *socket, int flags);
    int (*msg_send)(hz_zmq_msg *message, void *socket, int flags);
    int (*msg_close)(hz_zmq_msg *message);
    int (*send)(void *socket, const void *data, size_t size, int flags);
    int (*getsockopt)(void *socket, int option, void *value, size_t *size);
    int (*error)(void);
    void (*version)(int *major, int *minor, int *patch);
} hz_zmq;

_Static_assert(sizeof(hz_zmq_msg) == 64, "zmq_msg_t has 64 bytes");

hz_pump *hz_pump_new_with(const hz_zmq *zmq, hz_map *map);

/* The core's envelope functions, which the map knows. */
void hz_batch_begin(const hz_map *map, uint8_t *out, uint32_t id, uint64_t after, uint64_t through,
                    uint64_t frames_size, uint64_t now_ns);
void hz_batch_parse(const hz_map *map, const uint8_t *data, hm_batch *batch);

#endif
