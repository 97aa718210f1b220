/* hm_fault.c -- handles SIGBUS in mapped files. */
#include "hm_fault.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE       4096
#define CHUNK      1024 /* entries added at a time: two for each segment */
#define CHUNKS_MAX 1024 /* a process cannot have more mappings than that by far */

/* Entries are never freed, so that the handler can walk them beside everybody else. */
static hm_fault *_Atomic chunks[CHUNKS_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* not the handler's */
static hm_fault *freed;                                  /* dropped entries, linked by `end` */
static uint32_t next_fresh;                              /* entries from here on were never used */
static struct sigaction before;

static hm_fault *find(uintptr_t address) {
    for (int i = 0; i < CHUNKS_MAX; i++) {
        /* acquire: pairs with (A) -- the entries are zero when the chunk is seen. */
        hm_fault *chunk = atomic_load_explicit(&chunks[i], memory_order_acquire);
        for (int at = 0; chunk && at < CHUNK; at++) {
            /* acquire: pairs with (B) -- `end` belongs to this `begin`. */
            uintptr_t begin = atomic_load_explicit(&chunk[at].begin, memory_order_acquire);
            if (begin && begin <= address &&
                address < atomic_load_explicit(&chunk[at].end, memory_order_relaxed)) {
                return &chunk[at];
            }
        }
    }
    return NULL;
}

/* Only what a signal handler may do: atomics, and system calls. */
static void handle(int number, siginfo_t *info, void *context) {
    int saved = errno;
    uintptr_t address = (uintptr_t)info->si_addr;
    hm_fault *fault = info->si_code > 0 ? find(address) : NULL; /* 0 and less: sent by a program */
    if (fault) {
        void *page = (void *)(address / PAGE * PAGE);
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
        if (mmap(page, PAGE, PROT_READ | PROT_WRITE, flags, -1, 0) == page) {
            atomic_fetch_add_explicit(&fault->faults, 1, memory_order_relaxed);
            errno = saved;
            return;
        }
    }
    errno = saved;
    if (before.sa_flags & SA_SIGINFO) {
        before.sa_sigaction(number, info, context);
    } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
        before.sa_handler(number);
    } else {
        signal(number, SIG_DFL); /* the access is made again, and ends the process */
        if (info->si_code <= 0) {
            raise(number);
        }
    }
}

void hm_fault_install(void) {
    struct sigaction current,
        ours = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    pthread_mutex_lock(&lock);
    if (sigaction(SIGBUS, NULL, &current) == 0 &&
        !((current.sa_flags & SA_SIGINFO) && current.sa_sigaction == handle)) {
        before = current;
        sigemptyset(&ours.sa_mask);
        sigaction(SIGBUS, &ours, NULL);
    }
    pthread_mutex_unlock(&lock);
}

static hm_fault *take(uint32_t index) {
    hm_fault *chunk = atomic_load_explicit(&chunks[index / CHUNK], memory_order_relaxed);
    if (chunk == NULL) {
        chunk = calloc(CHUNK, sizeof *chunk);
        /* release (A): see `find`. */
        atomic_store_explicit(&chunks[index / CHUNK], chunk, memory_order_release);
    }
    return chunk ? &chunk[index % CHUNK] : NULL;
}

hm_fault *hm_fault_watch(const void *map, uint64_t size) {
    hm_fault *entry = NULL;
    pthread_mutex_lock(&lock);
    if (freed) {
        entry = freed;
        freed = (hm_fault *)atomic_load_explicit(&entry->end, memory_order_relaxed);
    } else if (next_fresh < CHUNK * CHUNKS_MAX && (entry = take(next_fresh)) != NULL) {
        next_fresh++;
    }
    if (entry) {
        atomic_store_explicit(&entry->faults, 0, memory_order_relaxed);
        atomic_store_explicit(&entry->end, (uintptr_t)map + size, memory_order_relaxed);
        /* release (B): see `find`. */
        atomic_store_explicit(&entry->begin, (uintptr_t)map, memory_order_release);
    }
    pthread_mutex_unlock(&lock);
    return entry;
}

void hm_fault_drop(hm_fault *fault) {
    if (fault == NULL) {
        return;
    }
    pthread_mutex_lock(&lock);
    atomic_store_explicit(&fault->begin, 0, memory_order_relaxed);
    atomic_store_explicit(&fault->end, (uintptr_t)freed, memory_order_relaxed);
    freed = fault;
    pthread_mutex_unlock(&lock);
}
