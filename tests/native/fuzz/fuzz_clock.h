/* fuzz_clock.h -- time as a target wants it, and what must hold. */
#ifndef HM_FUZZ_CLOCK_H
#define HM_FUZZ_CLOCK_H

#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns; /* 0: the system's clock */

static void must(int holds) {
    if (!holds)
        abort();
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (clock != CLOCK_MONOTONIC || now_ns == 0)
        return (int)syscall(SYS_clock_gettime, clock, time);
    *time = (struct timespec){(time_t)(now_ns / 1000000000u), (long)(now_ns % 1000000000u)};
    return 0;
}

#endif
