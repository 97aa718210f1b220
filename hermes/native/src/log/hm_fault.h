/* hm_fault.h -- mapped files that fault: cut short by somebody, or on a disk that cannot be read.
 *
 * A fault in a mapping that is registered here does not end the process: the page becomes one of
 * zeros that no file stands behind, the access goes on, and the mapping is marked.  Zeros are no
 * sound frame and no record, so whoever looks at the mark after reading never takes them for
 * contents.  Faults elsewhere go where they went before.
 *
 * A system call that is given such memory does not fault: it returns EFAULT.
 */
#ifndef HM_FAULT_H
#define HM_FAULT_H

#include <stdatomic.h>
#include <stdint.h>

typedef struct {
    _Atomic uintptr_t begin; /* 0: free */
    _Atomic uintptr_t end;
    _Atomic uint32_t faults; /* pages replaced */
} hm_fault;

/* Has SIGBUS looked at, in this process from now on.  Called for each log that is opened: a handler
 * that another library has installed meanwhile comes behind ours. */
void hm_fault_install(void);
/* Registers [map, map + size).  NULL: no memory.  The entry is valid until it is dropped. */
hm_fault *hm_fault_watch(const void *map, uint64_t size);
/* Before the memory is unmapped.  NULL is allowed. */
void hm_fault_drop(hm_fault *fault);

/* Pages of the mapping that were replaced so far.  The thread that has read a page sees it. */
static inline uint32_t hm_fault_count(const hm_fault *fault) {
    /* relaxed: our own thread's handler has written it, or the page is read later. */
    return fault ? atomic_load_explicit(&fault->faults, memory_order_relaxed) : 0;
}

#endif
