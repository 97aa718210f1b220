/* hu_timer.c -- the clock, and timers that a poll can wait for. */
#include "hu_timer.h"

#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000u

uint64_t hu_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * NS_PER_S + (uint64_t)time.tv_nsec;
}

int hu_timer_new(void) {
    return timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
}

void hu_timer_set(int timer, uint64_t when_ns) {
    struct itimerspec when = {
        .it_value = {(time_t)(when_ns / NS_PER_S), (long)(when_ns % NS_PER_S)}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

void hu_timer_free(int timer) {
    close(timer);
}
