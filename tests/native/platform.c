/* platform.c -- hm_platform.h, as Linux keeps its promises and as POSIX does (HM_PORTABLE). */
#include "base/hm_platform.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MS 1000000u /* ns */

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int readable(int fd, int64_t timeout_ns) {
    struct pollfd one = {.fd = fd, .events = POLLIN};
    return hm_platform_poll(&one, 1, timeout_ns) > 0;
}

static void *set(void *event) {
    hm_event_set(event);
    return NULL;
}

static void try_events(void) {
    hm_event event;
    pthread_t other;
    assert(hm_event_open(&event) == 0);
    assert(!readable(event.fd, 0));
    hm_event_clear(&event);
    for (int i = 0; i < 20000; i++) /* more than a pipe holds */
        hm_event_set(&event);
    assert(readable(event.fd, 0));
    hm_event_clear(&event);
    assert(!readable(event.fd, 0));
    assert((fcntl(event.fd, F_GETFD) & FD_CLOEXEC) &&
           (fcntl(event.write_fd, F_GETFD) & FD_CLOEXEC));
    assert(pthread_create(&other, NULL, set, &event) == 0);
    assert(readable(event.fd, -1));
    pthread_join(other, NULL);
    hm_event_close(&event);
    hm_event_close(&event);
    assert(event.fd == -1 && event.write_fd == -1);
}

static void try_waits(void) {
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t condition;
    uint64_t begun = now_ns();
    hm_platform_cond_init(&condition);
    pthread_mutex_lock(&mutex);
    while (hm_platform_cond_wait(&condition, &mutex, begun + 20 * MS) != ETIMEDOUT)
        continue;
    assert(now_ns() - begun >= 15 * MS);
    assert(hm_platform_cond_wait(&condition, &mutex, 1) == ETIMEDOUT); /* long ago */
    pthread_mutex_unlock(&mutex);
    pthread_cond_destroy(&condition);

    begun = now_ns();
    assert(hm_platform_poll(NULL, 0, 3 * MS + 1) == 0);
    assert(now_ns() - begun >= 3 * MS);
    int64_t boot = hm_platform_boot_ns();
    assert(boot > 0 && hm_platform_boot_ns() >= boot);
}

static void try_files(const char *path) {
    enum { SIZE = 300000, PAGE = 4096 };
    struct stat status;
    int fd = open(path, O_CREAT | O_RDWR, 0600);
    assert(fd >= 0 && write(fd, "kept", 4) == 4);
    assert(hm_platform_allocate(fd, 0, SIZE) == 0);
    assert(fstat(fd, &status) == 0 && status.st_size == SIZE);
    assert((uint64_t)status.st_blocks * 512 >= SIZE - PAGE); /* none is a hole */
    assert(hm_platform_allocate(fd, PAGE, PAGE) == 0);       /* what is there stays */
    uint8_t *map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert(map != MAP_FAILED && memcmp(map, "kept", 4) == 0);
    hm_platform_populate(map, SIZE);
    hm_platform_warm(map, SIZE / PAGE * PAGE);
    hm_platform_huge(map, SIZE);
    assert(memcmp(map, "kept", 4) == 0);
    for (int at = 4; at < SIZE; at++)
        assert(map[at] == 0);
    munmap(map, SIZE);
    close(fd);
    assert(hm_platform_allocate(fd, 0, 1) == EBADF);
}

static void try_random(void) {
    uint8_t one[32] = {0}, other[32] = {0};
    assert(hm_platform_random(one, sizeof one) && hm_platform_random(other, sizeof other));
    assert(memcmp(one, other, sizeof one) != 0);
}

/* Another descriptor that waits is always found; one's own may be, where the system does not say. */
static void try_others(void) {
    int mine[2], other[2], selector = epoll_create1(0);
    assert(selector >= 0 && pipe(mine) == 0 && pipe(other) == 0);
    struct epoll_event event = {.events = EPOLLIN, .data = {.fd = mine[0]}};
    assert(epoll_ctl(selector, EPOLL_CTL_ADD, mine[0], &event) == 0);
    event.data.fd = other[0];
    assert(epoll_ctl(selector, EPOLL_CTL_ADD, other[0], &event) == 0);

    assert(hm_platform_others(-1, mine[0]) == 1);
    assert(hm_platform_others(selector, mine[0]) == 0);
    assert(write(mine[1], "x", 1) == 1);
#ifndef HM_PORTABLE
    assert(hm_platform_others(selector, mine[0]) == 0);
#endif
    assert(write(other[1], "x", 1) == 1);
    assert(hm_platform_others(selector, mine[0]) == 1);
    for (int i = 0; i < 2; i++) {
        close(mine[i]);
        close(other[i]);
    }
    close(selector);
}

int main(int count, char **arguments) {
    assert(count == 2);
    hm_platform_thread("platform", 1000);
    try_events();
    try_waits();
    try_files(arguments[1]);
    try_random();
    try_others();
    printf("all promises kept\n");
    return 0;
}
