/* hm_slots.h -- the floor of shared memory: the simplest ring there is, between two processes.
 *
 * Fixed slots in a mapping that both share; no broker, no kernel, no framing.  One producer, one
 * consumer, each spinning: the processes trust each other, which the rings of the core do not.
 *
 *   offset size field    unit, rule
 *      128    8 tail     messages published; written by the producer alone
 *      256    8 head     messages taken; written by the consumer alone; tail - head <= HM_SLOTS
 *     4096      slots    HM_SLOTS of `size` bytes rounded up to 64
 */
#ifndef HM_SLOTS_H
#define HM_SLOTS_H

#include "hm_pace.h"

/* cdef-begin -- functions that return 0, or -HM_E*. */
#define HM_SLOTS        1024 /* slots of a ring: a power of two */
#define HM_SLOTS_HEADER 4096 /* bytes before the slots */

/* Bytes of a ring whose messages have `size` bytes.  A new one is all zeros. */
uint64_t hm_slots_bytes(uint32_t size);
/* Puts `count` messages into each of the rings.  `*start_ns`: when it began. */
int hm_slots_load(void *const *rings, uint32_t ring_count, uint32_t size, uint64_t count,
                  int64_t idle_ns, uint64_t *start_ns);
/* Takes up to `count` messages. */
int hm_slots_drain(void *ring, uint32_t size, uint64_t count, int64_t idle_ns, hm_tally *tally);
/* Puts `count` messages on schedule; `*late_ns`: how late the latest went. */
int hm_slots_pace(void *ring, uint32_t size, uint64_t count, const hm_schedule *schedule,
                  int64_t idle_ns, uint64_t *late_ns);
/* Takes up to `count` paced messages; `latencies`: ns of each. */
int hm_slots_hear(void *ring, uint32_t size, uint64_t count, int64_t idle_ns, int64_t *latencies,
                  hm_tally *tally);
/* Puts a message into `there` and takes it from `back`, `count` times; `latencies`: ns of each. */
int hm_slots_pingpong(void *there, void *back, uint32_t size, uint64_t count, int64_t idle_ns,
                      int64_t *latencies, hm_tally *tally);
/* The other side of it: takes from `there`, puts into `back`. */
int hm_slots_answer(void *there, void *back, uint32_t size, uint64_t count, int64_t idle_ns);
/* cdef-end */

#endif
