/* hm_envelope.h -- what stands next in a connection's bytes: one control frame, or one batch.
 *
 * For the ends that want whole frames: a client, and a broker before the first Hello.  (Once a
 * connection is open the broker takes batches frame by frame with hm_ingest.h.)  Judges magic and
 * version from the first byte on, so that a peer of another protocol gets an answer at once, before
 * a whole header has arrived.
 */
#ifndef HM_ENVELOPE_H
#define HM_ENVELOPE_H

#include "hm_frame.h"

/* cdef-begin -- one struct, read in bulk by Python. */
#define HM_CONTROL_MAX                                                                             \
    1048576 /* bytes of a control frame's payload: 1 MiB, an answer's page or 64 long names */

typedef struct {
    uint64_t size;  /* bytes of the whole frame */
    uint64_t after; /* of a batch */
    uint64_t through;
    uint64_t needed; /* kind 0: bytes that must be there in all before calling again */
    uint32_t id;     /* of a batch */
    uint32_t stream;
    uint32_t payload_len; /* of a control frame: its payload stands at offset 32 */
    int32_t kind; /* the frame's type; 0: the input ends before the frame does; -HM_E*: malformed */
} hm_envelope;

/* Describes the frame at `data + start`, of which `end - start` bytes are there.  A control frame
 * is validated wholly, a batch as an envelope: the frames in it are hm_frame_index's.
 * `control_max`, `batch_max`: limits in bytes of a control frame's payload and of a batch's frames;
 * a length over its limit is -HM_ELENGTH before any more bytes are asked for. */
void hm_envelope_next(const uint8_t *data, uint64_t start, uint64_t end, uint32_t control_max,
                      uint32_t batch_max, hm_envelope *envelope);
/* cdef-end */

_Static_assert(sizeof(hm_envelope) == 48, "read in bulk by Python");

#endif
