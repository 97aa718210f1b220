/* hu_timer.h -- the clock of sessions, and descriptors that become readable at a time of it. */
#ifndef HU_TIMER_H
#define HU_TIMER_H

#include <stdint.h>

/* cdef-begin -- functions over numbers. */
/* CLOCK_MONOTONIC, ns. */
uint64_t hu_now(void);
/* A timer descriptor, readable from the time it is set to (CLOCK_MONOTONIC) until it is set again;
 * 0 disarms it.  Negative: none to be had. */
int hu_timer_new(void);
void hu_timer_set(int timer, uint64_t when_ns);
void hu_timer_free(int timer);
/* cdef-end */

#endif
