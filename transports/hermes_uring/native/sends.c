/* sends.c -- many sends by one system call.
 *
 * MSG_DONTWAIT has the kernel do each send while it takes the submission: when the call returns, the
 * completions are there.  So no send is under way between two calls, and what is sent need live no
 * longer.  Completions of other operations stay in the queue; those of sends are left among them only
 * if others stand before them, and mean nothing to whoever finds them there.  Nor is the descriptor of
 * the ring readable because of sends.
 */
#include "queue.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <unistd.h>

#define FLAGS   (MSG_DONTWAIT | MSG_NOSIGNAL)
#define AT_ONCE 64u       /* sends in one submission: as many as native code gives at a time */
#define PENDING INT64_MIN /* no result yet */
#define NOTHING 1         /* `user_data` that no operation which can be cancelled has */

int hu_queue_enable(hu_queue *queue) {
    if (queue->enabled)
        return 0;
    int code = queue->library.enable_rings(hu_queue_uring(queue));
    if (code < 0)
        return code;
    queue->enabled = 1;
    queue->enters += 2;
    queue->library.register_ring_fd(hu_queue_uring(queue)); /* only saves time: may fail */
    return 0;
}

static void send_alone(hm_send *one) {
    ssize_t sent = send(one->fd, one->data, one->size, FLAGS);
    one->result = sent < 0 ? -errno : sent;
}

/* How many sends' completions find room behind all others, whatever those submitted before bring. */
static uint32_t room_for(hu_queue *queue) {
    uint32_t others = queue->library.cq_ready(hu_queue_uring(queue)) +
                      HU_INLINE_MAX * queue->library.sq_ready(hu_queue_uring(queue));
    return others < queue->room ? queue->room - others : 0;
}

/* `user_data` of the sends of one submission: odd, and of no other submission's. */
static uint64_t user_data_of(const hu_queue *queue, uint64_t number) {
    return 2 * (queue->submissions * AT_ONCE + number) + 1;
}

/* Describes as many to the kernel as the submission queue has room for. */
static uint32_t prepare(hu_queue *queue, hm_send *sends, uint32_t count, hu_sqe **sqes) {
    const hu_liburing *library = &queue->library;
    uint32_t prepared = 0;
    for (; prepared < count; prepared++) {
        hm_send *one = &sends[prepared];
        hu_sqe *sqe = sqes[prepared] = library->get_sqe(hu_queue_uring(queue));
        if (sqe == NULL)
            break;
        library->prep_send(sqe, one->fd, one->data, one->size, FLAGS);
        library->sqe_set_data64(sqe, user_data_of(queue, prepared));
        one->result = PENDING;
    }
    return prepared;
}

/* Takes the results behind the first `seen` completions; returns how many there were. */
static uint32_t take(hu_queue *queue, hm_send *sends, uint32_t count, unsigned *seen) {
    uint32_t taken = 0;
    unsigned ready =
        queue->library.peek_batch_cqe(hu_queue_uring(queue), queue->found, HU_LOOK_MAX);
    for (; *seen < ready; (*seen)++) {
        const hu_cqe *cqe = queue->found[*seen];
        uint64_t number = (cqe->user_data - user_data_of(queue, 0)) / 2;
        if (!hu_is_send(cqe) || number >= count)
            continue; /* another's, or of a send that was given up */
        assert(sends[number].result == PENDING);
        sends[number].result = cqe->res;
        taken++;
    }
    return taken;
}

/* Sends that the kernel has not taken, for want of memory, leave without it: they are the last ones. */
static uint32_t withdraw(hu_queue *queue, hm_send *sends, uint32_t count, hu_sqe **sqes) {
    uint32_t left = queue->library.sq_ready(hu_queue_uring(queue));
    left = left < count ? left : count;
    for (uint32_t i = count - left; i < count; i++) {
        queue->library.prep_cancel64(sqes[i], NOTHING, 0);
        queue->library.sqe_set_data64(sqes[i], 0);
        send_alone(&sends[i]);
    }
    return left;
}

/* Signals come again.  None came for what has completed meanwhile, or can: the kernel notes that
 * before it looks whether signals are on. */
static void signal_again(hu_queue *queue) {
    const uint64_t one = 1;
    hu_cqe *first;
    queue->library.cq_eventfd_toggle(hu_queue_uring(queue), 1);
    atomic_thread_fence(memory_order_seq_cst);
    if (queue->library.peek_batch_cqe(hu_queue_uring(queue), &first, 1) != 0 &&
        write(queue->event_fd, &one, sizeof one) < 0)
        assert(errno == EAGAIN || errno == EINTR);
}

/* Has the kernel do `count` prepared sends, and waits for what it owes us.  It owes nothing, or the
 * ring is broken: then nobody can tell what was sent. */
static void submit(hu_queue *queue, hm_send *sends, uint32_t count, hu_sqe **sqes) {
    const hu_liburing *library = &queue->library;
    hu_uring *uring = hu_queue_uring(queue);
    unsigned seen = library->cq_ready(uring), first = 0;
    if (queue->signals)
        library->cq_eventfd_toggle(uring, 0);
    library->submit(uring);
    queue->enters++;
    uint32_t left = count - withdraw(queue, sends, count, sqes);
    queue->together += left;
    left -= take(queue, sends, count, &seen);
    for (int waits = 0; left > 0 && waits < HU_WAITS_MAX; waits++) {
        hu_timespec timeout = {0, HU_WAIT_NS};
        hu_cqe *one;
        queue->enters++;
        library->submit_and_wait_timeout(uring, &one, seen + 1, &timeout, NULL);
        left -= take(queue, sends, count, &seen);
    }
    for (uint32_t i = 0; left > 0 && i < count; i++)
        if (sends[i].result == PENDING)
            sends[i].result = -EIO;
    while (first < seen && hu_is_send(queue->found[first]))
        first++;
    library->cq_advance(uring, first);
    queue->submissions++;
    if (queue->signals)
        signal_again(queue);
}

void hu_queue_send(void *context, hm_send *sends, uint32_t count) {
    hu_queue *queue = context;
    hu_sqe *sqes[AT_ONCE];
    uint32_t done = 0;
    while (count - done > HU_ALONE_MAX && hu_queue_enable(queue) == 0) {
        uint32_t room = room_for(queue), most = count - done;
        most = most < room ? most : room;
        uint32_t prepared = prepare(queue, sends + done, most < AT_ONCE ? most : AT_ONCE, sqes);
        if (prepared == 0)
            break;
        submit(queue, sends + done, prepared, sqes);
        done += prepared;
    }
    for (; done < count; done++)
        send_alone(&sends[done]);
}
