/* uring_sends.c -- sends that leave together, over a ring that is short of everything.
 *
 *     uring_sends STEPS SEED
 *
 * The kernel's side of the ring is played here: it takes a part of a submission or none, does sends
 * late or never, and cuts them short.  Each send has to reach its socket once, as far as its result
 * says, and the completions of others are found as they were.
 */
#include "../../transports/hermes_uring/native/sends.c"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define SOCKETS        80u /* more than are submitted at once */
#define ENTRIES        96u /* most places in the submission queue */
#define HELD           128u
#define STRAYS         256u
#define SIZE_MAX_BYTES 3000u

struct hu_sqe {
    uint64_t user_data;
    const void *data;
    size_t size;
    int fd;
    enum { SEND, OTHER, CANCEL } kind;
};

static struct hu_sqe sq[ENTRIES];
static hu_cqe cq[HELD], late[HELD];
static uint64_t strays[STRAYS];
static uint32_t stray_count, sq_size, sq_head, sq_tail, cq_head, cq_tail, late_count;
static uint64_t told, found, refused, cut, lost, delayed, by_ring;
static uint64_t state;
static int toggles;
static int ours[SOCKETS], theirs[SOCKETS];

static void must(int holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "%s\n", what);
        abort();
    }
}

static uint32_t below(uint32_t bound) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % bound;
}

/* ---- the kernel's side ---- */

static void complete(uint64_t user_data, int64_t result) {
    must(cq_tail - cq_head < HELD, "room for a completion");
    cq[cq_tail++ % HELD] = (hu_cqe){user_data, (int32_t)result, 0};
}

static int64_t do_send(const struct hu_sqe *sqe) {
    if (below(8) == 0)
        return below(2) == 0 ? -EAGAIN : -EPIPE;
    size_t part = below(8) == 0 ? 1 + below((uint32_t)sqe->size) : sqe->size;
    cut += part < sqe->size;
    must(send(sqe->fd, sqe->data, part, FLAGS) == (ssize_t)part, "room in the socket");
    return (int64_t)part;
}

static void perform(const struct hu_sqe *sqe) {
    if (sqe->kind == OTHER) {
        complete(sqe->user_data, 1);
    } else if (sqe->kind == CANCEL) {
        must(sqe->user_data == 0, "nobody waits for a cancellation");
        complete(0, -ENOENT);
    } else if (below(2000) == 0) { /* told when it has been given up */
        strays[stray_count++] = sqe->user_data;
        lost++;
    } else if (below(16) == 0) {
        late[late_count++] = (hu_cqe){sqe->user_data, (int32_t)do_send(sqe), 0};
        delayed++;
    } else {
        complete(sqe->user_data, do_send(sqe));
        by_ring++;
    }
}

static int enable_rings(hu_uring *ring) {
    (void)ring;
    return below(8) == 0 ? -EAGAIN : 0;
}

static int toggle_signals(hu_uring *ring, _Bool on) {
    (void)ring;
    toggles += on ? 1 : -1;
    must(toggles == 0 || toggles == -1, "off, then on");
    return 0;
}

static int register_ring_fd(hu_uring *ring) {
    (void)ring;
    return 1;
}

static hu_sqe *get_sqe(hu_uring *ring) {
    (void)ring;
    return sq_tail - sq_head == sq_size ? NULL : &sq[sq_tail++ % sq_size];
}

static unsigned sq_ready(const hu_uring *ring) {
    (void)ring;
    return sq_tail - sq_head;
}

static unsigned cq_ready(const hu_uring *ring) {
    (void)ring;
    return cq_tail - cq_head;
}

static int submit_some(hu_uring *ring) {
    uint32_t ready = sq_ready(ring), taken = below(8) == 0 ? below(ready + 1) : ready;
    for (uint32_t i = 0; i < taken; i++)
        perform(&sq[sq_head++ % sq_size]);
    refused += ready - taken;
    return taken == 0 ? -EAGAIN : (int)taken;
}

static int submit_and_wait(hu_uring *ring, hu_cqe **cqe, unsigned count, hu_timespec *timeout,
                           void *signals) {
    must(count > cq_ready(ring) && timeout->nanoseconds > 0, "a wait that ends");
    (void)signals;
    *cqe = NULL;
    submit_some(ring);
    while (late_count > 0 && below(4) != 0) {
        late_count--;
        complete(late[late_count].user_data, late[late_count].res);
    }
    return 0;
}

static unsigned peek(hu_uring *ring, hu_cqe **cqes, unsigned count) {
    unsigned ready = cq_ready(ring);
    ready = ready < count ? ready : count;
    for (unsigned i = 0; i < ready; i++)
        cqes[i] = &cq[(cq_head + i) % HELD];
    return ready;
}

static void advance(hu_uring *ring, unsigned count) {
    must(count <= cq_ready(ring), "taken is what is there");
    for (; count > 0; count--)
        cq[cq_head++ % HELD] = (hu_cqe){0, 0, 0};
}

static void prep_send(hu_sqe *sqe, int fd, const void *data, size_t size, int flags) {
    must((flags & MSG_DONTWAIT) != 0 && (flags & MSG_NOSIGNAL) != 0, "a send that does not wait");
    *sqe = (struct hu_sqe){0, data, size, fd, SEND};
}

static void prep_cancel(hu_sqe *sqe, uint64_t user_data, int flags) {
    must(user_data == NOTHING && flags == 0, "a cancellation of nothing");
    *sqe = (struct hu_sqe){.kind = CANCEL};
}

static void set_data(hu_sqe *sqe, uint64_t user_data) {
    sqe->user_data = user_data;
}

/* ---- the others, and whoever takes the completions ---- */

static void prepare_others(hu_queue *queue) {
    for (uint32_t count = below(4); count > 0; count--) {
        hu_sqe *sqe = get_sqe(hu_queue_uring(queue));
        if (sqe == NULL)
            return;
        *sqe = (struct hu_sqe){.user_data = 2 * ++told, .kind = OTHER};
    }
}

static void take_all(hu_queue *queue) {
    hu_cqe *cqes[HELD];
    unsigned ready = peek(hu_queue_uring(queue), cqes, HELD);
    for (unsigned i = 0; i < ready; i++)
        if (cqes[i]->user_data != 0 && !hu_is_send(cqes[i]))
            must(cqes[i]->user_data == 2 * ++found, "others' completions, in order");
    advance(hu_queue_uring(queue), ready);
}

/* As the ring's owner does now and then. */
static void enter(hu_queue *queue) {
    take_all(queue);
    submit_some(hu_queue_uring(queue));
    take_all(queue);
    if (stray_count > 0 && below(2) == 0)
        complete(strays[--stray_count], 1);
}

/* ---- sends ---- */

static void send_and_check(hu_queue *queue) {
    static uint8_t data[SOCKETS][SIZE_MAX_BYTES];
    static uint8_t got[SIZE_MAX_BYTES + 1];
    hm_send sends[SOCKETS];
    uint32_t count = below(4) == 0 ? 1 + below(3) : 1 + below(SOCKETS);
    uint64_t never = lost;
    uint32_t ready_before = cq_ready(hu_queue_uring(queue));
    for (uint32_t i = 0; i < count; i++) {
        uint64_t size = 1 + below(SIZE_MAX_BYTES);
        for (uint64_t at = 0; at < size; at += 97)
            data[i][at] = (uint8_t)below(256);
        sends[i] = (hm_send){.data = data[i], .size = size, .result = 77777, .fd = ours[i]};
    }
    queue->sends.send(queue->sends.context, sends, count);
    uint64_t unknown = 0;
    for (uint32_t i = 0; i < count; i++) {
        ssize_t size = recv(theirs[i], got, sizeof got, MSG_DONTWAIT);
        if (sends[i].result < 0) {
            must(size < 0 && errno == EAGAIN, "nothing of a send that failed");
            unknown += sends[i].result == -EIO;
        } else {
            must(sends[i].result == size && size <= (ssize_t)sends[i].size, "as much as is said");
            must(memcmp(got, data[i], (size_t)size) == 0, "the bytes that were given");
        }
        memset(data[i], 0xa5, SIZE_MAX_BYTES); /* nothing refers to them any more */
    }
    must(unknown == lost - never, "only sends that are never done have no result");
    must(late_count == 0 && toggles == 0, "nothing is under way between two calls");
    if (cq_ready(hu_queue_uring(queue)) > ready_before) {
        uint64_t told_of;
        must(read(queue->event_fd, &told_of, sizeof told_of) == sizeof told_of,
             "others are told of");
    }
}

int main(int argc, char **argv) {
    must(argc == 3, "usage: uring_sends STEPS SEED");
    uint32_t steps = (uint32_t)strtoul(argv[1], NULL, 10);
    state = strtoul(argv[2], NULL, 10);
    hu_queue *queue = aligned_alloc(_Alignof(hu_queue), sizeof *queue);
    must(queue != NULL, "memory");
    memset(queue, 0, sizeof *queue);
    queue->library = (hu_liburing){.enable_rings = enable_rings,
                                   .register_ring_fd = register_ring_fd,
                                   .get_sqe = get_sqe,
                                   .sq_ready = sq_ready,
                                   .cq_ready = cq_ready,
                                   .submit = submit_some,
                                   .submit_and_wait_timeout = submit_and_wait,
                                   .peek_batch_cqe = peek,
                                   .cq_advance = advance,
                                   .cq_eventfd_toggle = toggle_signals,
                                   .prep_send = prep_send,
                                   .prep_cancel64 = prep_cancel,
                                   .sqe_set_data64 = set_data};
    queue->sends = (hm_sends){queue, hu_queue_send};
    queue->room = HELD;
    queue->signals = 1;
    queue->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    must(queue->event_fd >= 0, "an event");
    sq_size = 1u << (state % 7);
    for (uint32_t i = 0; i < SOCKETS; i++) {
        int pair[2];
        must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "sockets");
        ours[i] = pair[0];
        theirs[i] = pair[1];
    }
    for (uint32_t step = 0; step < steps; step++) {
        if (below(4) == 0)
            prepare_others(queue);
        send_and_check(queue);
        if (below(2) == 0)
            enter(queue);
    }
    do
        enter(queue);
    while (sq_ready(hu_queue_uring(queue)) > 0);
    must(found == told, "every completion of others is found");
    for (uint32_t i = 0; i < SOCKETS; i++) {
        close(ours[i]);
        close(theirs[i]);
    }
    close(queue->event_fd);
    free(queue);
    printf("%llu by the ring, %llu late, %llu cut short, %llu never done, %llu not taken\n",
           (unsigned long long)by_ring, (unsigned long long)delayed, (unsigned long long)cut,
           (unsigned long long)lost, (unsigned long long)refused);
    must(by_ring > 0 && told > 0 && cut > 0 && (sq_size == 1 || refused > 0),
         "the scenario reaches what it is about");
    return 0;
}
