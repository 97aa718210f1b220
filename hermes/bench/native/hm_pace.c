/* hm_pace.c -- the clock, the schedule and the waiting that the controls share. */
#include "hm_pace.h"

#include <poll.h>
#include <sched.h>
#include <time.h>

#include "hm_error.h"

#define SECOND_NS 1000000000u
#define NEAR_NS   60000 /* a sleep may end this late on a virtual machine: spin the rest */

uint64_t hm_pace_now(void) {
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * SECOND_NS + (uint64_t)time.tv_nsec;
}

void hm_pace_until(uint64_t due_ns) {
    uint64_t now = hm_pace_now();

    if (due_ns > now + NEAR_NS) {
        uint64_t wake = due_ns - NEAR_NS;
        struct timespec until = {(time_t)(wake / SECOND_NS), (long)(wake % SECOND_NS)};

        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    }
    while (hm_pace_now() < due_ns)
        sched_yield(); /* who waits for this core has more to do */
}

uint64_t hm_pace_due(const hm_schedule *schedule, uint64_t number) {
    return schedule->start_ns + (uint64_t)((double)number * schedule->interval_ns);
}

int hm_pace_wait(int fd, short events, const hm_patience *patience, uint64_t idle_since) {
    struct pollfd wanted = {.fd = fd, .events = events};
    uint64_t now = hm_pace_now();
    int64_t waited = now > idle_since ? (int64_t)(now - idle_since) : 0;
    int64_t left = patience->idle_ns - waited;

    if (left <= 0)
        return -HM_ETIMEDOUT;
    if (patience->spin_ns < 0 || waited < patience->spin_ns) {
        sched_yield(); /* whom we wait for may want this very core */
        return 0;
    }
    poll(&wanted, 1, (int)(left / 1000000) + 1);
    return 0;
}
