/* hm_pace.h -- what the controls share: the clock, a schedule, and how a wait is spent.
 *
 * Times are CLOCK_MONOTONIC in ns, so that those of two processes can be compared.
 */
#ifndef HM_PACE_H
#define HM_PACE_H

#include <stdint.h>

/* cdef-begin -- what a pass came to, and when something is due. */
/* What arrived in one pass. */
typedef struct {
    uint64_t delivered; /* messages */
    uint64_t first_ns;  /* when the first was there; 0: none came */
    uint64_t last_ns;   /* when the last was */
} hm_tally;

/* How a pass waits: it tries for `spin_ns` (-1: for ever) before it sleeps, and gives up when
 * nothing has happened for `idle_ns`. */
typedef struct {
    int64_t spin_ns;
    int64_t idle_ns;
} hm_patience;

/* Message i is due at start_ns + i * interval_ns. */
typedef struct {
    uint64_t start_ns;
    double interval_ns;
} hm_schedule;

/* The clock of all of these. */
uint64_t hm_pace_now(void);
/* Sleeps, then spins, until `due_ns`. */
void hm_pace_until(uint64_t due_ns);
/* When message `number` is due. */
uint64_t hm_pace_due(const hm_schedule *schedule, uint64_t number);
/* Waits until `fd` has one of `events` (poll's).  `idle_since` is when something last happened.
 * 0: try it again; -HM_ETIMEDOUT: the patience is over. */
int hm_pace_wait(int fd, short events, const hm_patience *patience, uint64_t idle_since);
/* cdef-end */

_Static_assert(sizeof(hm_tally) == 24, "read in bulk by Python");

/* Tells the core that this is a loop that waits. */
static inline void hm_pace_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static inline void hm_tally_add(hm_tally *tally, uint64_t messages, uint64_t now_ns) {
    if (tally->delivered == 0)
        tally->first_ns = now_ns;
    tally->delivered += messages;
    tally->last_ns = now_ns;
}

#endif
