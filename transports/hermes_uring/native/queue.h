/* queue.h -- the two queues of a ring as native code uses them, and sends that leave together.
 *
 * Nothing here needs Python's lock; one thread uses a ring.
 */
#ifndef HERMES_URING_QUEUE_H
#define HERMES_URING_QUEUE_H

#include "hm_sends.h"
#include "liburing.h"

#define HU_LOOK_MAX   1024 /* completions that may stand in the queue while sends are looked for */
#define HU_INLINE_MAX 33   /* completions of one submission at once: a receive is tried 32 times */
#define HU_ALONE_MAX  1    /* sends that need no ring: a call of their own costs less */
#define HU_WAITS_MAX  50   /* waits for a send that should be done, of HU_WAIT_NS each */
#define HU_WAIT_NS    20000000

typedef struct {
    hu_liburing library;
    hm_sends sends; /* its context is this queue */
    int enabled;    /* by the first call that needs the kernel: its thread is the ring's */
    unsigned room;  /* completions that the queue holds, HU_LOOK_MAX at most */
    int event_fd;   /* written to by the kernel when something completes, while signals are on */
    int signals;    /* are on */
    unsigned long long enters;   /* system calls that submitted or waited */
    unsigned long long overruns; /* times the submission queue was full */
    unsigned long long together; /* sends that left with others */
    uint64_t submissions;        /* of sends */
    hu_cqe *found[HU_LOOK_MAX];
    _Alignas(16) unsigned char uring[HU_URING_SIZE];
} hu_queue;

static inline hu_uring *hu_queue_uring(hu_queue *queue) {
    return (hu_uring *)(void *)queue->uring;
}

/* Sends have odd `user_data`; that of every other operation is its address, or 0. */
static inline int hu_is_send(const hu_cqe *cqe) {
    return (cqe->user_data & 1) != 0;
}

/* Makes the ring the calling thread's, once.  0 or a negative errno. */
int hu_queue_enable(hu_queue *queue);

/* `hm_sends.send`: by the ring, as far as its queues have room and the kernel takes them; the others
 * by calls of their own. */
void hu_queue_send(void *queue, hm_send *sends, uint32_t count);

#endif
