/* hm_platform.c -- calls that not every system has: Linux's, and what POSIX offers in their place.
 *
 * HM_PORTABLE has the latter compiled on Linux, so that tests run it.
 */
#include "hm_platform.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NANOSECONDS 1000000000 /* of a second */

static struct timespec timespec_of(uint64_t ns) {
    return (struct timespec){(time_t)(ns / NANOSECONDS), (long)(ns % NANOSECONDS)};
}

static uint64_t now_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * NANOSECONDS + (uint64_t)now.tv_nsec;
}

/* Touches each page with an atomic addition of nothing, which cannot lose a store that another
 * thread makes beside it. */
static void touch(uint8_t *from, size_t size) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t at = 0; at < size; at += page)
        atomic_fetch_add_explicit((_Atomic uint32_t *)(void *)(from + at), 0, memory_order_relaxed);
}

void hm_event_set(const hm_event *event) {
    const uint64_t one = 1;
    /* A full one is readable already; nothing else can go wrong. */
    ssize_t ignored = write(event->write_fd, &one, sizeof one);
    (void)ignored;
}

void hm_event_clear(const hm_event *event) {
    uint64_t counts[64];
    while (read(event->fd, counts, sizeof counts) == (ssize_t)sizeof counts)
        continue; /* an eventfd gives one count, a pipe one for each `set` */
}

void hm_event_close(hm_event *event) {
    if (event->fd >= 0)
        close(event->fd);
    if (event->write_fd >= 0 && event->write_fd != event->fd)
        close(event->write_fd);
    *event = HM_EVENT_CLOSED;
}

#if defined(__linux__) && !defined(HM_PORTABLE)

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/vfs.h>

#define PAGE 4096
#define TMPFS_MAGIC                                                                                \
    0x01021994 /* linux/magic.h: its files are memory, there is nothing to go around */
#define RAMFS_MAGIC 0x858458f6

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

int hm_event_open(hm_event *event) {
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    *event = (hm_event){fd, fd};
    return fd < 0 ? errno : 0;
}

int64_t hm_platform_boot_ns(void) {
    return (int64_t)now_ns(CLOCK_BOOTTIME);
}

void hm_platform_cond_init(pthread_cond_t *condition) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

int hm_platform_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex, uint64_t until_ns) {
    struct timespec until = timespec_of(until_ns);
    return pthread_cond_timedwait(condition, mutex, &until);
}

int hm_platform_poll(struct pollfd *polled, nfds_t count, int64_t timeout_ns) {
    struct timespec left = timespec_of(timeout_ns < 0 ? 0 : (uint64_t)timeout_ns);
    return ppoll(polled, count, timeout_ns < 0 ? NULL : &left, NULL);
}

void hm_platform_thread(const char *name, unsigned long slack_ns) {
    prctl(PR_SET_TIMERSLACK, slack_ns);
    prctl(PR_SET_NAME, name);
}

int hm_platform_allocate(int fd, uint64_t offset, uint64_t size) {
    int error;
    do {
        error = posix_fallocate(fd, (off_t)offset, (off_t)size);
    } while (error == EINTR);
    return error;
}

int hm_platform_open_direct(int dirfd, const char *name) {
    return openat(dirfd, name, O_RDWR | O_DIRECT | O_CLOEXEC);
}

bool hm_platform_takes_direct(int fd) {
    struct statfs system;
    int flags = fcntl(fd, F_GETFL);
    if (fstatfs(fd, &system) != 0 || system.f_type == TMPFS_MAGIC ||
        (unsigned long)system.f_type == RAMFS_MAGIC || flags < 0 ||
        fcntl(fd, F_SETFL, flags | O_DIRECT) != 0)
        return false;
    fcntl(fd, F_SETFL, flags);
#ifdef STATX_DIOALIGN
    struct statx found;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &found) == 0 &&
        (found.stx_mask & STATX_DIOALIGN))
        return found.stx_dio_offset_align > 0 && PAGE % found.stx_dio_offset_align == 0 &&
               PAGE % found.stx_dio_mem_align == 0;
#endif
    return true;
}

int hm_platform_sync_all(int dirfd) {
    return syncfs(dirfd) == 0 ? 0 : errno;
}

void hm_platform_populate(void *map, size_t size) {
    madvise(map, size, MADV_POPULATE_READ); /* errors mean nothing */
}

bool hm_platform_resident(void *map, size_t size) {
    unsigned char pages[256];
    size_t count = (size + PAGE - 1) / PAGE;
    if (count > sizeof pages || mincore(map, size, pages) != 0)
        return true;
    for (size_t i = 0; i < count; i++)
        if (!(pages[i] & 1))
            return false;
    return true;
}

void hm_platform_drop(void *map, int fd, uint64_t offset, size_t size) {
    madvise(map, size, MADV_DONTNEED); /* what is mapped stays in memory */
    posix_fadvise(fd, (off_t)offset, (off_t)size, POSIX_FADV_DONTNEED);
}

void hm_platform_warm(void *map, size_t size) {
    if (madvise(map, size, MADV_POPULATE_WRITE) != 0 && errno == EINVAL)
        touch(map, size); /* a kernel before 5.14 */
}

void hm_platform_huge(void *map, size_t size) {
    madvise(map, size, MADV_HUGEPAGE);
}

bool hm_platform_random(void *out, size_t size) {
    return getrandom(out, size, GRND_NONBLOCK) == (ssize_t)size;
}

int hm_platform_others(int selector_fd, int fd) {
    struct epoll_event events[2];
    if (selector_fd < 0)
        return 1;
    int count = epoll_wait(selector_fd, events, 2, 0);
    for (int i = 0; i < count; i++)
        if (events[i].data.fd != fd)
            return 1;
    return 0;
}

#else /* what POSIX has, and every BSD */

#if defined(__APPLE__)
#include <sys/random.h> /* getentropy; elsewhere in unistd.h */
#endif

int hm_event_open(hm_event *event) {
    int ends[2];
    *event = HM_EVENT_CLOSED;
    if (pipe(ends) != 0)
        return errno;
    for (int i = 0; i < 2; i++) {
        fcntl(ends[i], F_SETFD, FD_CLOEXEC);
        fcntl(ends[i], F_SETFL, O_NONBLOCK);
    }
    *event = (hm_event){ends[0], ends[1]};
    return 0;
}

int64_t hm_platform_boot_ns(void) {
    return (int64_t)now_ns(CLOCK_MONOTONIC); /* goes on in sleep where there is no CLOCK_BOOTTIME */
}

void hm_platform_cond_init(pthread_cond_t *condition) {
    pthread_cond_init(condition, NULL);
}

/* By the wall clock: one that is set meanwhile ends the wait sooner or later. */
int hm_platform_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex, uint64_t until_ns) {
    uint64_t now = now_ns(CLOCK_MONOTONIC), left = until_ns > now ? until_ns - now : 0;
    left = left < INT64_MAX ? left : INT64_MAX;
    struct timespec until = timespec_of(now_ns(CLOCK_REALTIME) + left);
    return pthread_cond_timedwait(condition, mutex, &until);
}

int hm_platform_poll(struct pollfd *polled, nfds_t count, int64_t timeout_ns) {
    int64_t ms = timeout_ns / 1000000 + (timeout_ns % 1000000 > 0);
    return poll(polled, count, timeout_ns < 0 ? -1 : ms > INT32_MAX ? INT32_MAX : (int)ms);
}

void hm_platform_thread(const char *name, unsigned long slack_ns) {
    (void)name;
    (void)slack_ns;
}

/* Zeros behind the end of the file; holes before it stay. */
int hm_platform_allocate(int fd, uint64_t offset, uint64_t size) {
    static const uint8_t zeros[65536];
    struct stat status;
    if (fstat(fd, &status) != 0)
        return errno;
    uint64_t at = (uint64_t)status.st_size, end = offset + size;
    while (at < end) {
        size_t part = end - at < sizeof zeros ? (size_t)(end - at) : sizeof zeros;
        ssize_t written = pwrite(fd, zeros, part, (off_t)at);
        if (written < 0 && errno != EINTR)
            return errno;
        at += written > 0 ? (uint64_t)written : 0;
    }
    return 0;
}

int hm_platform_open_direct(int dirfd, const char *name) {
    (void)dirfd;
    (void)name;
    return -1;
}

bool hm_platform_takes_direct(int fd) {
    (void)fd;
    return false;
}

int hm_platform_sync_all(int dirfd) {
    (void)dirfd;
    return -1;
}

void hm_platform_populate(void *map, size_t size) {
    posix_madvise(map, size, POSIX_MADV_WILLNEED);
}

bool hm_platform_resident(void *map, size_t size) {
    (void)map;
    (void)size;
    return true;
}

void hm_platform_drop(void *map, int fd, uint64_t offset, size_t size) {
    (void)map;
    (void)fd;
    (void)offset;
    (void)size;
}

void hm_platform_warm(void *map, size_t size) {
    touch(map, size);
}

void hm_platform_huge(void *map, size_t size) {
    (void)map;
    (void)size;
}

bool hm_platform_random(void *out, size_t size) {
    return getentropy(out, size) == 0;
}

int hm_platform_others(int selector_fd, int fd) {
    struct pollfd selector = {.fd = selector_fd, .events = POLLIN};
    (void)fd; /* which one waits is not asked */
    return selector_fd < 0 || poll(&selector, 1, 0) > 0;
}

#endif
