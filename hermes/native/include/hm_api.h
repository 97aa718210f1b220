/* hm_api.h -- the core's functions as a table, for other compiled modules.
 *
 * A plugin with C of its own builds against the headers that `hermes.get_include()` names and
 * reaches the core through this table, whose address `hermes.native.api_address()` gives: nothing
 * is linked, so plugin and core may be built by different compilers at different times.
 *
 * Functions are only ever appended; `version` counts how often.  A table serves modules that were
 * compiled against its version or an older one.
 */
#ifndef HM_API_H
#define HM_API_H

#include "hm_ack.h"
#include "hm_envelope.h"
#include "hm_flusher.h"
#include "hm_pattern.h"

/* cdef-begin -- opaque to Python. */
#define HM_API_VERSION 2

typedef struct hm_api hm_api;

/* The table; it lives as long as the process. */
const hm_api *hm_api_get(void);
/* cdef-end */

struct hm_api {
    uint32_t version;
    uint32_t size; /* bytes of this struct */
    /* Version 1. */
    const char *(*error_text)(int code);
    uint32_t (*crc32c)(uint32_t crc, const void *data, size_t size);
    uint64_t (*frame_size)(uint32_t topic_len, uint32_t properties_len, uint32_t payload_len);
    int64_t (*frame_encode)(uint8_t *out, uint64_t capacity, uint8_t type, const uint8_t *topic,
                            uint32_t topic_len, const uint8_t *properties, uint32_t properties_len,
                            const uint8_t *payload, uint32_t payload_len, uint64_t sequence,
                            uint64_t timestamp_ns);
    int64_t (*frame_check)(const uint8_t *data, uint64_t size, uint32_t message_max,
                           hm_slice *slice, uint64_t *needed);
    uint64_t (*frame_skip)(const uint8_t *data);
    int64_t (*frame_index)(const uint8_t *data, uint64_t size, uint32_t message_max,
                           hm_slice *slices, uint64_t capacity, uint64_t *consumed, int32_t *error);
    void (*batch_encode)(uint8_t *out, uint32_t id, uint32_t stream, uint64_t after,
                         uint64_t through, uint64_t frames_size, uint64_t timestamp_ns);
    void (*batch_parse)(const uint8_t *data, hm_batch *batch);
    void (*envelope_next)(const uint8_t *data, uint64_t start, uint64_t end, uint32_t control_max,
                          uint32_t batch_max, hm_envelope *envelope);
    int (*topic_check)(const uint8_t *name, uint32_t len);
    int (*pattern_check)(const uint8_t *pattern, uint32_t len);
    int (*pattern_match)(const uint8_t *pattern, uint32_t pattern_len, const uint8_t *name,
                         uint32_t len);
    int64_t (*outbox_send)(hm_outbox *outbox, const uint8_t *topic, uint32_t topic_len,
                           const uint8_t *payload, uint32_t payload_len, uint64_t timestamp_ns,
                           int *waiting);
    /* Version 2. */
    int (*outbox_ack)(hm_outbox *outbox, uint64_t sequence);
    int (*ack_parse)(const uint8_t *payload, uint32_t size, uint32_t *publisher,
                     uint64_t *sequence);
    int64_t (*socket_receive)(int fd, uint8_t *buffer, uint64_t capacity, uint64_t spin_ns,
                              int64_t timeout_ns, int *error);
    int64_t (*medium_receive)(const hm_medium *medium, uint8_t *buffer, uint64_t capacity,
                              uint64_t spin_ns, int64_t timeout_ns, int *error);
};

#endif
