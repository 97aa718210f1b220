/* hm_cores.h -- what the machine itself takes: a cache line from core to core and back, and the
 * steps of its clock.
 */
#ifndef HM_CORES_H
#define HM_CORES_H

#include <stdint.h>

/* cdef-begin -- functions that return 0, or -HM_E*. */
/* Bounces a word between two threads, one on each core, `rounds` times; `took`: ns of each round
 * trip.  The caller's thread is moved to `core_a` and back.  -HM_EINVAL: no such core for us;
 * -HM_ETIMEDOUT: the other core did not answer for a second. */
int hm_cores_round_trip(int core_a, int core_b, uint32_t rounds, int64_t *took);
/* The smallest step of the clock that was seen, and what reading it costs, ns. */
void hm_cores_clock(uint64_t *step_ns, double *read_ns);
/* cdef-end */

#endif
