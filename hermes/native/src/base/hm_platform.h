/* hm_platform.h -- calls that not every system has, behind functions that every system has.
 *
 * Hermes runs on Linux.  A port of the core to another system is hm_platform.c: no other file of the
 * core includes a header of Linux's own or makes a call that POSIX does not have.  Functions that
 * can fail return an errno, and leave `errno` to the system.
 */
#ifndef HM_PLATFORM_H
#define HM_PLATFORM_H

#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* CPython ignores SIGPIPE */
#endif
#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

/* ---- events ---- */

/* A descriptor that is readable from `set` to `clear`, by any threads. */
typedef struct {
    int fd;       /* the readable end; -1: closed */
    int write_fd; /* the same one, where a descriptor can be both */
} hm_event;

#define HM_EVENT_CLOSED ((hm_event){-1, -1})

/* 0 or an errno, with `event` closed. */
int hm_event_open(hm_event *event);

void hm_event_set(const hm_event *event);

void hm_event_clear(const hm_event *event);

/* Idempotent. */
void hm_event_close(hm_event *event);

/* ---- time ---- */

/* A clock that goes on while the machine sleeps, ns. */
int64_t hm_platform_boot_ns(void);

/* A condition whose waits end by CLOCK_MONOTONIC. */
void hm_platform_cond_init(pthread_cond_t *condition);

/* Waits until `until_ns` (CLOCK_MONOTONIC) at most: 0, or ETIMEDOUT. */
int hm_platform_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex, uint64_t until_ns);

/* poll(2) with ns, where the system counts so finely.  Negative: no end. */
int hm_platform_poll(struct pollfd *polled, nfds_t count, int64_t timeout_ns);

/* ---- threads ---- */

/* Names the calling thread, at most 15 characters, and has its waits end within `slack_ns`. */
void hm_platform_thread(const char *name, unsigned long slack_ns);

/* ---- memory and files ---- */

/* Room for the bytes of a file from `offset` on, so that none of them is refused later; what is there
 * stays.  0 or an errno. */
int hm_platform_allocate(int fd, uint64_t offset, uint64_t size);

/* A descriptor to write a file around the page cache with, or -1. */
int hm_platform_open_direct(int dirfd, const char *name);

/* Whether the file system of `fd` writes whole pages around its cache, and gains by it. */
bool hm_platform_takes_direct(int fd);

/* Everything of the file system of `dirfd` is written to the disk.  0 or an errno; -1: the system
 * syncs single files only. */
int hm_platform_sync_all(int dirfd);

/* A hint: `size` bytes of a mapped file will be read soon. */
void hm_platform_populate(void *map, size_t size);

/* Whether `size` bytes of a mapped file, at most 1 MiB from a page's begin on, are all in memory; true when
 * in doubt. */
bool hm_platform_resident(void *map, size_t size);

/* Gives up the memory behind `size` bytes from `offset` of the file `fd`, a page's begin, which are mapped
 * at `map`: they come from the disk when they are read again.  A hint. */
void hm_platform_drop(void *map, int fd, uint64_t offset, size_t size);

/* Makes `size` bytes of a mapped file, whole pages, writable without a fault.  No store that is made
 * beside it is lost. */
void hm_platform_warm(void *map, size_t size);

/* A hint: large pages serve this memory best. */
void hm_platform_huge(void *map, size_t size);

/* ---- the rest ---- */

/* `size` random bytes, at most 256, without waiting; false: the system has none yet. */
bool hm_platform_random(void *out, size_t size);

/* Whether another descriptor than `fd` waits in the selector behind `selector_fd`: 1 when in doubt,
 * so also for -1, a selector without a descriptor. */
int hm_platform_others(int selector_fd, int fd);

#endif
