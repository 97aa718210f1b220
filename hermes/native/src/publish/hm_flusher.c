/* hm_flusher.c -- writes control frames and the batches of outboxes to one connection. */
#include "hm_flusher.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "../base/hm_platform.h"
#include "outbox_internal.h"

#define NANOSECONDS    1000000000u /* of a second */
#define TIMER_SLACK_NS 1000        /* the default of 50 us is longer than a short linger */
#define YIELD_MASK     7u          /* a spinning reader lets others run after 8 looks: some 4 us */
#define CONTROL_GROW   4096        /* bytes: first size of the control buffer */

enum { NOTHING = 0, WRITTEN = 1, BLOCKED = 2 };

struct hm_flusher {
    pthread_mutex_t mutex;   /* around socket writes and everything of this group */
    int fd;                  /* -1: not attached to a socket */
    const hm_medium *medium; /* NULL: not attached to another medium */
    int waiting;             /* 1 while the thread waits for the medium's room */
    uint64_t batch_max;
    hm_outbox *outboxes[HM_FLUSHER_OUTBOXES];
    uint32_t count;
    uint32_t turn; /* whose batch is next */
    /* The batch under way; `left` 0: none.  `owner` NULL: its outbox was removed, `orphan` holds
     * the bytes. */
    hm_outbox *owner;
    uint8_t header[HM_BATCH_HEADER];
    uint64_t header_left;
    const uint8_t *frames;
    uint64_t left; /* header_left and what is left of the frames */
    uint8_t *orphan;
    /* Control frames that wait: control[control_start .. control_end). */
    uint8_t *control;
    uint64_t control_size;
    uint64_t control_start;
    uint64_t control_end;

    _Atomic int error;   /* errno of the socket, 0: sound */
    _Atomic int ready;   /* 1 while attached and sound */
    _Atomic int blocked; /* 1 while the socket has no room and the thread waits for it */

    pid_t pid;
    hm_event wakes;
    int threaded;
    pthread_t thread;
    _Atomic int stop;
    _Atomic uint64_t linger_ns; /* the shortest of all outboxes */
    /* 1 while the thread sleeps without a deadline.  It sets it, then looks at every `put` once
     * more; a publisher sets `put`, then looks at it: all sequentially consistent (F), so one of
     * them sees the other. */
    _Atomic int asleep;
    _Atomic uint64_t woken_ns; /* monotonic time of the put that woke it; release (G) */
};

static uint64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * (uint64_t)NANOSECONDS + (uint64_t)now.tv_nsec;
}

hm_flusher *hm_flusher_new(void) {
    hm_flusher *flusher = calloc(1, sizeof *flusher);
    if (flusher == NULL)
        return NULL;
    if (hm_event_open(&flusher->wakes) != 0) {
        free(flusher);
        return NULL;
    }
    pthread_mutex_init(&flusher->mutex, NULL);
    flusher->fd = -1;
    flusher->pid = getpid();
    atomic_init(&flusher->linger_ns, HM_LINGER_MAX);
    return flusher;
}

void hm_flusher_free(hm_flusher *flusher) {
    /* In a forked child the thread does not exist and the mutex may be held for ever. */
    if (flusher == NULL || flusher->pid != getpid())
        return;
    if (flusher->threaded) {
        /* release: pairs with the acquire at the top of the thread's loop. */
        atomic_store_explicit(&flusher->stop, 1, memory_order_release);
        hm_event_set(&flusher->wakes);
        pthread_join(flusher->thread, NULL);
    }
    while (flusher->count > 0)
        hm_flusher_remove(flusher, flusher->outboxes[flusher->count - 1]);
    hm_event_close(&flusher->wakes);
    pthread_mutex_destroy(&flusher->mutex);
    free(flusher->orphan);
    free(flusher->control);
    free(flusher);
}

/* ---- writing; the mutex is held ---- */

static int attached(const hm_flusher *flusher) {
    return flusher->fd >= 0 || flusher->medium != NULL;
}

static int fail(hm_flusher *flusher, int error) {
    atomic_store_explicit(&flusher->error, error, memory_order_relaxed);
    /* release: pairs with the acquire in hm_flusher_error. */
    atomic_store_explicit(&flusher->ready, 0, memory_order_release);
    return -HM_ESYS;
}

/* Writes what the socket takes of two pieces.  WRITTEN: `*taken` bytes; BLOCKED; -HM_ESYS. */
static int write_some(hm_flusher *flusher, struct iovec *pieces, size_t count, uint64_t *taken) {
    if (flusher->medium != NULL) {
        int64_t result = flusher->medium->write(flusher->medium->context, pieces, (int)count);
        *taken = result > 0 ? (uint64_t)result : 0;
        return result > 0 ? WRITTEN : result == 0 ? BLOCKED : fail(flusher, (int)-result);
    }
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = count};
    ssize_t n;
    do
        n = sendmsg(flusher->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? BLOCKED : fail(flusher, errno);
    *taken = (uint64_t)n;
    return WRITTEN;
}

static int write_control(hm_flusher *flusher) {
    struct iovec piece = {.iov_base = flusher->control + flusher->control_start,
                          .iov_len = flusher->control_end - flusher->control_start};
    uint64_t taken;
    int status = write_some(flusher, &piece, 1, &taken);
    if (status != WRITTEN)
        return status;
    flusher->control_start += taken;
    if (flusher->control_start == flusher->control_end)
        flusher->control_start = flusher->control_end = 0;
    return WRITTEN;
}

static void batch_done(hm_flusher *flusher) {
    hm_outbox *owner = flusher->owner;
    flusher->owner = NULL;
    free(flusher->orphan);
    flusher->orphan = NULL;
    if (owner != NULL)
        hm_outbox_sent(owner);
}

static int write_batch(hm_flusher *flusher) {
    struct iovec pieces[2] = {
        {.iov_base = flusher->header + HM_BATCH_HEADER - flusher->header_left,
         .iov_len = flusher->header_left},
        {.iov_base = (void *)flusher->frames, .iov_len = flusher->left - flusher->header_left},
    };
    uint64_t taken;
    int status = write_some(flusher, pieces, 2, &taken);
    if (status != WRITTEN)
        return status;
    uint64_t of_header = taken < flusher->header_left ? taken : flusher->header_left;
    flusher->header_left -= of_header;
    flusher->frames += taken - of_header;
    flusher->left -= taken;
    if (flusher->left == 0)
        batch_done(flusher);
    return WRITTEN;
}

/* Takes the next batch of whoever's turn it is.  0: all is sent. */
static int begin_batch(hm_flusher *flusher) {
    for (uint32_t i = 0; i < flusher->count; i++) {
        if (flusher->turn >= flusher->count)
            flusher->turn = 0;
        hm_outbox *outbox = flusher->outboxes[flusher->turn++];
        uint64_t size;
        if (outbox->paused || !hm_outbox_batch(outbox, flusher->batch_max, clock_ns(CLOCK_REALTIME),
                                               flusher->header, &flusher->frames, &size))
            continue;
        flusher->owner = outbox;
        flusher->header_left = HM_BATCH_HEADER;
        flusher->left = HM_BATCH_HEADER + size;
        return 1;
    }
    return 0;
}

static int write_one(hm_flusher *flusher) {
    if (flusher->left > 0)
        return write_batch(flusher);
    if (flusher->control_end > 0)
        return write_control(flusher);
    return begin_batch(flusher) ? write_batch(flusher) : NOTHING;
}

/* One share.  *done: nothing is left. */
static int drain_share(hm_flusher *flusher, int *done) {
    *done = 0;
    if (!attached(flusher))
        return -HM_ECLOSED;
    if (atomic_load_explicit(&flusher->error, memory_order_relaxed) != 0)
        return -HM_ESYS;
    for (uint64_t budget = HM_FLUSHER_SHARE; budget > 0;) {
        uint64_t before = flusher->left;
        int status = write_one(flusher);
        if (status == NOTHING)
            *done = 1;
        if (status != WRITTEN)
            return status;
        uint64_t cost = before > flusher->left ? before - flusher->left : HM_FLUSHER_EAGER;
        budget -= cost < budget ? cost : budget;
    }
    return WRITTEN;
}

int hm_flusher_drain(hm_flusher *flusher) {
    for (;;) {
        int done;
        pthread_mutex_lock(&flusher->mutex);
        int status = drain_share(flusher, &done);
        pthread_mutex_unlock(&flusher->mutex);
        if (status < 0 || status == BLOCKED)
            return status < 0 ? status : 0;
        if (done)
            return 1;
    }
}

/* ---- the thread ---- */

static int outbox_waits(const hm_outbox *outbox, memory_order order) {
    /* sequentially consistent (F) when `asleep` has just been set, else the next pass finds it. */
    return !outbox->paused && atomic_load_explicit(&outbox->put, order) !=
                                  atomic_load_explicit(&outbox->sent, memory_order_relaxed);
}

static int anything_waits(hm_flusher *flusher, memory_order order) {
    int found = 0;
    pthread_mutex_lock(&flusher->mutex);
    if (attached(flusher) && atomic_load_explicit(&flusher->error, memory_order_relaxed) == 0)
        for (uint32_t i = 0; i < flusher->count && !found; i++)
            found = outbox_waits(flusher->outboxes[i], order);
    pthread_mutex_unlock(&flusher->mutex);
    return found;
}

/* Sleeps until a put, or something that changes who waits.  Returns when the linger began. */
static uint64_t sleep_until_put(hm_flusher *flusher) {
    struct pollfd wakes = {.fd = flusher->wakes.fd, .events = POLLIN};
    atomic_store_explicit(&flusher->woken_ns, 0, memory_order_relaxed);
    atomic_store_explicit(&flusher->asleep, 1, memory_order_seq_cst); /* (F) */
    if (!anything_waits(flusher, memory_order_seq_cst))
        poll(&wakes, 1, -1);
    hm_event_clear(&flusher->wakes);
    atomic_store_explicit(&flusher->asleep, 0, memory_order_seq_cst);
    /* acquire: pairs with (G). */
    uint64_t woken = atomic_load_explicit(&flusher->woken_ns, memory_order_acquire);
    return woken ? woken : clock_ns(CLOCK_MONOTONIC);
}

/* Waits until the linger that began at `start_ns` has passed, or it is time to stop. */
static void wait_for_linger(hm_flusher *flusher, uint64_t start_ns) {
    struct pollfd wakes = {.fd = flusher->wakes.fd, .events = POLLIN};
    /* acquire: pairs with the release in hm_flusher_free. */
    while (!atomic_load_explicit(&flusher->stop, memory_order_acquire)) {
        /* Looked at again after each wake: a publisher with a shorter one may have come. */
        uint64_t deadline =
            start_ns + atomic_load_explicit(&flusher->linger_ns, memory_order_relaxed);
        uint64_t now = clock_ns(CLOCK_MONOTONIC);
        if (now >= deadline)
            return;
        if (hm_platform_poll(&wakes, 1, (int64_t)(deadline - now)) > 0)
            hm_event_clear(&flusher->wakes);
    }
}

static void wait_for_room(hm_flusher *flusher) {
    pthread_mutex_lock(&flusher->mutex);
    int fd = flusher->fd;
    const hm_medium *medium = flusher->medium;
    flusher->waiting = medium != NULL;
    pthread_mutex_unlock(&flusher->mutex);
    if (medium != NULL) {
        atomic_store_explicit(&flusher->blocked, 1, memory_order_relaxed);
        medium->wait_for_room(medium->context, flusher->wakes.fd);
        atomic_store_explicit(&flusher->blocked, 0, memory_order_relaxed);
        pthread_mutex_lock(&flusher->mutex);
        flusher->waiting = 0;
        pthread_mutex_unlock(&flusher->mutex);
        hm_event_clear(&flusher->wakes);
        return;
    }
    struct pollfd both[2] = {{.fd = flusher->wakes.fd, .events = POLLIN},
                             {.fd = fd, .events = POLLOUT}};
    atomic_store_explicit(&flusher->blocked, 1, memory_order_relaxed);
    poll(both, 2, -1);
    atomic_store_explicit(&flusher->blocked, 0, memory_order_relaxed);
    if (both[0].revents)
        hm_event_clear(&flusher->wakes);
}

static void *run(void *argument) {
    hm_flusher *flusher = argument;
    hm_platform_thread("hermes-flush", TIMER_SLACK_NS);
    uint64_t start = clock_ns(CLOCK_MONOTONIC);
    /* acquire: pairs with the release in hm_flusher_free. */
    while (!atomic_load_explicit(&flusher->stop, memory_order_acquire)) {
        if (!anything_waits(flusher, memory_order_relaxed))
            start = sleep_until_put(flusher);
        wait_for_linger(flusher, start);
        /* What the pass below misses was put after this instant. */
        start = clock_ns(CLOCK_MONOTONIC);
        while (hm_flusher_drain(flusher) == 0 &&
               !atomic_load_explicit(&flusher->stop, memory_order_acquire))
            wait_for_room(flusher);
    }
    return NULL;
}

static int start_thread(hm_flusher *flusher) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the program's */
    int status = pthread_create(&flusher->thread, NULL, run, flusher);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    flusher->threaded = status == 0;
    return status == 0 ? 0 : -HM_ESYS;
}

/* ---- attaching and adding ---- */

static int attach(hm_flusher *flusher, int fd, const hm_medium *medium, uint64_t batch_max) {
    if (batch_max == 0)
        return -HM_EINVAL;
    pthread_mutex_lock(&flusher->mutex);
    assert(flusher->left == 0 && flusher->control_end == 0);
    flusher->fd = fd;
    flusher->medium = medium;
    flusher->batch_max = batch_max;
    atomic_store_explicit(&flusher->error, 0, memory_order_relaxed);
    atomic_store_explicit(&flusher->ready, 1, memory_order_release);
    pthread_mutex_unlock(&flusher->mutex);
    return 0;
}

int hm_flusher_attach(hm_flusher *flusher, int fd, uint64_t batch_max) {
    return fd < 0 ? -HM_EINVAL : attach(flusher, fd, NULL, batch_max);
}

int hm_flusher_attach_medium(hm_flusher *flusher, const hm_medium *medium, uint64_t batch_max) {
    assert(medium != NULL);
    return attach(flusher, -1, medium, batch_max);
}

/* Gives up the batch under way as if it had never been begun. */
static void abandon_batch(hm_flusher *flusher) {
    if (flusher->owner != NULL)
        flusher->owner->batch_size = 0;
    flusher->owner = NULL;
    flusher->left = 0;
    free(flusher->orphan);
    flusher->orphan = NULL;
}

void hm_flusher_detach(hm_flusher *flusher) {
    pthread_mutex_lock(&flusher->mutex);
    abandon_batch(flusher);
    flusher->control_start = flusher->control_end = 0;
    flusher->fd = -1;
    flusher->medium = NULL;
    atomic_store_explicit(&flusher->ready, 0, memory_order_release);
    for (uint32_t i = 0; i < flusher->count; i++)
        flusher->outboxes[i]->paused = 1;
    int waiting = flusher->waiting;
    pthread_mutex_unlock(&flusher->mutex);
    hm_event_set(&flusher->wakes); /* out of poll: the descriptor may be closed from here on */
    while (waiting) {              /* a medium is memory: nobody may be in it any more */
        sched_yield();
        pthread_mutex_lock(&flusher->mutex);
        waiting = flusher->waiting;
        pthread_mutex_unlock(&flusher->mutex);
    }
}

/* The thread looks at it when it next begins to wait: a longer one need not wake it. */
static void find_shortest_linger(hm_flusher *flusher) {
    uint64_t shortest = HM_LINGER_MAX;
    for (uint32_t i = 0; i < flusher->count; i++) {
        uint64_t linger = flusher->outboxes[i]->linger_ns;
        if (linger > 0 && linger < shortest)
            shortest = linger;
    }
    atomic_store_explicit(&flusher->linger_ns, shortest, memory_order_relaxed);
}

int hm_flusher_add(hm_flusher *flusher, hm_outbox *outbox, uint64_t linger_ns) {
    if (linger_ns > HM_LINGER_MAX)
        return -HM_EINVAL;
    int status = 0;
    pthread_mutex_lock(&flusher->mutex);
    if (flusher->count == HM_FLUSHER_OUTBOXES)
        status = -HM_ELIMIT;
    else if (linger_ns > 0 && !flusher->threaded)
        status = start_thread(flusher);
    if (status == 0) {
        outbox->linger_ns = linger_ns;
        outbox->paused = !attached(flusher);
        flusher->outboxes[flusher->count++] = outbox;
        find_shortest_linger(flusher);
        /* release: pairs with the acquire in `after_put`. */
        atomic_store_explicit(&outbox->flusher, flusher, memory_order_release);
    }
    pthread_mutex_unlock(&flusher->mutex);
    if (status == 0)
        hm_event_set(&flusher->wakes); /* a shorter linger counts from now on */
    return status;
}

/* The batch of an outbox that leaves goes on from a copy, so that the peer never sees half of it.
 */
static void adopt_batch(hm_flusher *flusher) {
    uint64_t size = flusher->left - flusher->header_left;
    flusher->owner->batch_size = 0;
    flusher->owner = NULL;
    flusher->orphan = malloc(size);
    if (flusher->orphan == NULL) {
        flusher->left = 0;
        fail(flusher, ENOMEM); /* the peer has half a batch: this connection is beyond help */
        return;
    }
    memcpy(flusher->orphan, flusher->frames, size);
    flusher->frames = flusher->orphan;
}

int hm_flusher_remove(hm_flusher *flusher, hm_outbox *outbox) {
    if (flusher->pid != getpid())
        return -HM_EBUSY;
    while (!outbox_enter(outbox))
        sched_yield(); /* whoever is putting never waits inside */
    pthread_mutex_lock(&flusher->mutex);
    int status = -HM_EUNKNOWN;
    for (uint32_t i = 0; i < flusher->count; i++) {
        if (flusher->outboxes[i] != outbox)
            continue;
        if (flusher->owner == outbox)
            adopt_batch(flusher);
        flusher->outboxes[i] = flusher->outboxes[--flusher->count];
        find_shortest_linger(flusher);
        atomic_store_explicit(&outbox->flusher, NULL, memory_order_release);
        status = 0;
        break;
    }
    pthread_mutex_unlock(&flusher->mutex);
    outbox_leave(outbox);
    return status;
}

void hm_flusher_dispose(hm_outbox *outbox) {
    if (outbox == NULL)
        return;
    hm_flusher *flusher = atomic_load_explicit(&outbox->flusher, memory_order_relaxed);
    if (flusher != NULL && hm_flusher_remove(flusher, outbox) == -HM_EBUSY)
        return; /* a forked child: the flusher's mutex may be held for ever */
    hm_outbox_free(outbox);
}

int hm_flusher_pause(hm_flusher *flusher, hm_outbox *outbox) {
    if (atomic_load_explicit(&outbox->flusher, memory_order_relaxed) != flusher)
        return -HM_EUNKNOWN;
    pthread_mutex_lock(&flusher->mutex);
    outbox->paused = 1;
    pthread_mutex_unlock(&flusher->mutex);
    return 0;
}

int hm_flusher_resume(hm_flusher *flusher, hm_outbox *outbox) {
    if (atomic_load_explicit(&outbox->flusher, memory_order_relaxed) != flusher)
        return -HM_EUNKNOWN;
    pthread_mutex_lock(&flusher->mutex);
    int status = flusher->owner == outbox ? -HM_EBUSY : 0;
    if (status == 0) {
        hm_outbox_rewind(outbox);
        outbox->paused = 0;
    }
    pthread_mutex_unlock(&flusher->mutex);
    hm_event_set(&flusher->wakes);
    return status;
}

static int control_room(hm_flusher *flusher, uint64_t size) {
    uint64_t used = flusher->control_end - flusher->control_start;
    if (used + size > HM_FLUSHER_CONTROL)
        return -HM_EFULL;
    if (flusher->control_end + size <= flusher->control_size)
        return 0;
    if (flusher->control_start > 0) {
        memmove(flusher->control, flusher->control + flusher->control_start, used);
        flusher->control_start = 0;
        flusher->control_end = used;
    }
    uint64_t wanted = flusher->control_size ? flusher->control_size : CONTROL_GROW;
    while (wanted < used + size)
        wanted *= 2;
    uint8_t *grown = realloc(flusher->control, wanted);
    if (grown == NULL)
        return -HM_ENOMEM;
    flusher->control = grown;
    flusher->control_size = wanted;
    return 0;
}

int hm_flusher_write(hm_flusher *flusher, const uint8_t *data, uint64_t size) {
    pthread_mutex_lock(&flusher->mutex);
    int status = !attached(flusher) ? -HM_ECLOSED : control_room(flusher, size);
    if (status == 0) {
        memcpy(flusher->control + flusher->control_end, data, size);
        flusher->control_end += size;
    }
    pthread_mutex_unlock(&flusher->mutex);
    return status == 0 ? hm_flusher_drain(flusher) : status;
}

int hm_flusher_error(const hm_flusher *flusher) {
    /* acquire: pairs with the release in `fail`. */
    if (atomic_load_explicit(&flusher->ready, memory_order_acquire))
        return 0;
    return atomic_load_explicit(&flusher->error, memory_order_relaxed);
}

/* ---- what a publisher calls; it has the outbox's guard ---- */

/* Does what the linger asks for after a put.  1: the caller has to see to it that the rest goes
 * out. */
static int after_put(hm_outbox *outbox) {
    /* acquire: pairs with the release in hm_flusher_add. */
    hm_flusher *flusher = atomic_load_explicit(&outbox->flusher, memory_order_acquire);
    if (flusher == NULL)
        return 1;
    uint64_t unsent = atomic_load_explicit(&outbox->put_bytes, memory_order_relaxed) -
                      atomic_load_explicit(&outbox->sent_bytes, memory_order_relaxed);
    if (outbox->linger_ns == 0) {
        hm_flusher_drain(flusher);
        /* acquire: only to see our own messages gone, whoever wrote them. */
        return atomic_load_explicit(&outbox->sent, memory_order_acquire) !=
               atomic_load_explicit(&outbox->put, memory_order_relaxed);
    }
    /* sequentially consistent (F): after the store to `put`. */
    if (atomic_load_explicit(&flusher->asleep, memory_order_seq_cst) &&
        atomic_exchange_explicit(&flusher->asleep, 0, memory_order_seq_cst)) {
        /* release (G). */
        atomic_store_explicit(&flusher->woken_ns, clock_ns(CLOCK_MONOTONIC), memory_order_release);
        hm_event_set(&flusher->wakes);
    }
    if (unsent >= HM_FLUSHER_EAGER &&
        !atomic_load_explicit(&flusher->blocked, memory_order_relaxed))
        hm_flusher_drain(flusher);
    return !atomic_load_explicit(&flusher->ready, memory_order_relaxed);
}

int64_t hm_outbox_send(hm_outbox *outbox, const uint8_t *topic, uint32_t topic_len,
                       const uint8_t *payload, uint32_t payload_len, uint64_t timestamp_ns,
                       int *waiting) {
    *waiting = 0;
    int status = hm_outbox_one_check(outbox, topic_len, 0, payload_len);
    if (status < 0)
        return status;
    if (!outbox_enter(outbox))
        return -HM_EBUSY;
    int64_t result = hm_outbox_put_guarded(outbox, topic, topic_len, NULL, 0, payload, payload_len,
                                           timestamp_ns);
    if (result > 0)
        *waiting = after_put(outbox);
    outbox_leave(outbox);
    return result;
}

int64_t hm_outbox_send_many(hm_outbox *outbox, const uint8_t *topic, uint32_t topic_len,
                            const uint8_t *joined, uint64_t joined_size, const uint32_t *lengths,
                            uint32_t count, uint64_t timestamp_ns, int *waiting) {
    *waiting = 0;
    int status = hm_outbox_many_check(outbox, topic_len, joined_size, lengths, count);
    if (status < 0 || count == 0)
        return status;
    if (!outbox_enter(outbox))
        return -HM_EBUSY;
    int64_t taken = 0, last = 0;
    /* A chunk at a time, written while it is warm. */
    while (taken < count) {
        uint64_t consumed;
        last = hm_outbox_many_guarded(outbox, topic, topic_len, joined, lengths + taken,
                                      count - (uint32_t)taken, timestamp_ns, outbox->chunk_size / 2,
                                      &consumed);
        if (last <= 0)
            break;
        taken += last;
        joined += consumed;
        *waiting = after_put(outbox);
    }
    outbox_leave(outbox);
    return taken ? taken : last;
}

int64_t hm_outbox_send_rows(hm_outbox *outbox, const uint8_t *topic, uint32_t topic_len,
                            const uint8_t *rows, uint32_t row_size, int64_t stride, uint32_t count,
                            uint64_t timestamp_ns, int *waiting) {
    *waiting = 0;
    int status = hm_outbox_one_check(outbox, topic_len, 0, row_size);
    if (status < 0 || count == 0)
        return status;
    if (!outbox_enter(outbox))
        return -HM_EBUSY;
    int64_t taken = 0, last = 0;
    while (taken < count) {
        last = hm_outbox_rows_guarded(outbox, topic, topic_len, rows + stride * taken, row_size,
                                      stride, count - (uint32_t)taken, timestamp_ns,
                                      outbox->chunk_size / 2);
        if (last <= 0)
            break;
        taken += last;
        *waiting = after_put(outbox);
    }
    outbox_leave(outbox);
    return taken ? taken : last;
}

int64_t hm_outbox_send_frames(hm_outbox *outbox, const uint8_t *frames, uint64_t size,
                              int *waiting) {
    *waiting = 0;
    if (!outbox_enter(outbox))
        return -HM_EBUSY;
    int64_t taken = 0, last = 0;
    uint64_t at = 0;
    while (at < size) {
        hm_slice slice;
        uint64_t needed;
        int64_t step = hm_frame_check(frames + at, size - at, UINT32_MAX, &slice, &needed);
        last = step < 0 ? step : slice.type != HM_MESSAGE ? -HM_ETYPE : 0;
        if (last < 0)
            break;
        const uint8_t *topic = frames + at + HM_FRAME_HEADER, *block = topic + slice.topic_len;
        uint32_t block_len = 0;
        if (slice.properties) {
            block = topic + ((slice.topic_len + 7U) & ~7U) + sizeof block_len;
            memcpy(&block_len, block - sizeof block_len, sizeof block_len);
        }
        last = hm_outbox_one_check(outbox, slice.topic_len, block_len, slice.payload_len);
        if (last == 0)
            last = hm_outbox_put_guarded(outbox, topic, slice.topic_len, block, block_len,
                                         frames + at + slice.payload_offset, slice.payload_len,
                                         slice.timestamp_ns);
        if (last < 0)
            break;
        at += (uint64_t)step;
        taken++;
        *waiting = after_put(outbox);
    }
    outbox_leave(outbox);
    return taken ? taken : last;
}

/* ---- reading ---- */

static int64_t receive_now(int fd, uint8_t *buffer, uint64_t capacity, int *error) {
    ssize_t n = recv(fd, buffer, capacity, MSG_DONTWAIT);
    if (n >= 0)
        return n;
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
        return -HM_EEMPTY;
    *error = errno;
    return -HM_ESYS;
}

int64_t hm_socket_receive(int fd, uint8_t *buffer, uint64_t capacity, uint64_t spin_ns,
                          int64_t timeout_ns, int *error) {
    int saved = errno;
    *error = 0;
    int64_t result = receive_now(fd, buffer, capacity, error);
    if (timeout_ns >= 0) { /* the spinning is part of it */
        spin_ns = spin_ns < (uint64_t)timeout_ns ? spin_ns : (uint64_t)timeout_ns;
        timeout_ns -= (int64_t)spin_ns;
    }
    if (result == -HM_EEMPTY && spin_ns > 0) {
        uint64_t until = clock_ns(CLOCK_MONOTONIC) + spin_ns;
        for (uint32_t tries = 1; result == -HM_EEMPTY; tries++) {
            if ((tries & YIELD_MASK) == 0)
                sched_yield(); /* the peer may wait for this very core */
            result = receive_now(fd, buffer, capacity, error);
            if (clock_ns(CLOCK_MONOTONIC) >= until)
                break;
        }
    }
    if (result == -HM_EEMPTY && timeout_ns != 0) {
        struct pollfd readable = {.fd = fd, .events = POLLIN};
        if (hm_platform_poll(&readable, 1, timeout_ns) > 0)
            result = receive_now(fd, buffer, capacity, error);
    }
    errno = saved;
    return result;
}

int64_t hm_medium_receive(const hm_medium *medium, uint8_t *buffer, uint64_t capacity,
                          uint64_t spin_ns, int64_t timeout_ns, int *error) {
    int saved = errno;
    *error = 0;
    int64_t result = medium->receive(medium->context, buffer, capacity, spin_ns, timeout_ns, error);
    errno = saved;
    return result;
}
