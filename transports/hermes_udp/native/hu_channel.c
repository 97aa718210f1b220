/* hu_channel.c -- a client's end of a session, for any thread. */
#include "hu_channel.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "hm_medium.h"

#define NEVER          UINT64_MAX
#define NS_PER_S       1000000000u
#define TIMER_SLACK_NS 1000      /* the default of 50 us is longer than most of our timers */
#define SHARE_NS       5000000   /* ns a follower sleeps before it looks at its wake-up again */
#define ROOM_NS        20000000  /* ns a flusher waits for room before it looks again */
#define SLICE_NS       100000000 /* ns a caller sleeps before it looks whether all is over */
#define LOOK_NS        20000     /* ns between two looks at the socket by who only writes */
#define MUCH           16384     /* bytes of a group's that are not the last, most likely */

enum { IDLE = 0, CALLER = 1, GUARD = 2 };
enum { READABLE = 1, WRITABLE = 2 };

struct hu_channel {
    pthread_mutex_t mutex; /* around everything below */
    pthread_cond_t moved;  /* whoever slept on the socket has looked at it */
    hu_endpoint *endpoint;
    hu_session *session;
    int fd;
    int sleeper;        /* who sleeps on the socket: IDLE, CALLER or GUARD */
    int inside;         /* callers at work or waiting */
    uint64_t left_ns;   /* when the last of them went */
    uint64_t looked_ns; /* when the socket was last read */
    int wake_fd;        /* wakes the guard */
    int closing;
    int over; /* the guard is done */
    int closed_fd;
    uint64_t linger_ns; /* until when, while closing */
    pthread_t guard;
    pid_t pid;
    hm_medium medium;
    hu_group *group;     /* NULL: none has been joined */
    hu_outward *outward; /* NULL: what is sent goes to the session as it is */
    int group_fd;
    int group_held;        /* nobody selects from it now */
    uint64_t group_walked; /* what of it had been received when it was last walked through */
    int watch_fd; /* for event loops: the socket and the next two; -1: none was asked for */
    int news_fd;  /* an event: what was `asked` for holds */
    int timer_fd; /* the endpoint's next timer */
    int asked;    /* READABLE, WRITABLE */
    int told;     /* news_fd is readable */
    hu_event events[HU_EVENTS_MAX];
};

static uint64_t most(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

static void wake(const hu_channel *channel) {
    uint64_t one = 1;
    ssize_t ignored = write(channel->wake_fd, &one, sizeof one);
    (void)ignored; /* a full counter is readable already */
}

static struct timespec span_of(uint64_t ns) {
    return (struct timespec){(time_t)(ns / NS_PER_S), (long)(ns % NS_PER_S)};
}

/* ---- under the mutex ---- */

static void enter(hu_channel *channel) {
    pthread_mutex_lock(&channel->mutex);
    channel->inside++;
    if (channel->sleeper == GUARD)
        wake(channel); /* from now on the datagrams are ours */
}

static int has(hu_channel *channel, int readable, int writable);

/* Wakes the event loop that watches, if what it asked for holds. */
static void tell(hu_channel *channel) {
    if (channel->asked == 0 || !has(channel, channel->asked & READABLE, channel->asked & WRITABLE))
        return;
    uint64_t one = 1;
    ssize_t ignored = write(channel->news_fd, &one, sizeof one);
    (void)ignored; /* a full counter is readable already */
    channel->asked = 0;
    channel->told = 1;
}

static void leave(hu_channel *channel) {
    tell(channel);
    channel->inside--;
    channel->left_ns = hu_now();
    pthread_mutex_unlock(&channel->mutex);
}

/* 1: nothing is left before what comes next. */
static int push_queued(hu_channel *channel) {
    const uint8_t *data;
    uint64_t size;
    while ((size = hu_outward_queued(channel->outward, &data)) > 0) {
        uint64_t taken = hu_endpoint_push(channel->endpoint, 0, data, size);
        if (taken == 0)
            return 0;
        hu_outward_sent(channel->outward, taken);
    }
    return 1;
}

/* Reads, serves the timers and writes. */
static void work(hu_channel *channel) {
    channel->looked_ns = hu_now();
    hu_endpoint_poll(channel->endpoint, channel->events);
    if (channel->outward != NULL && hu_session_reason(channel->session) == 0)
        push_queued(channel);
    hu_endpoint_flush(channel->endpoint);
}

static void let_others_in(hu_channel *channel) {
    pthread_mutex_unlock(&channel->mutex);
    sched_yield(); /* the peer may wait for this very core */
    pthread_mutex_lock(&channel->mutex);
}

/* Sleeps until something arrives, a timer is due, `until_ns` is reached or `wake_fd` (-1: none) is
 * readable, then works.  The mutex is let go meanwhile. */
static void sleep_and_work(hu_channel *channel, int who, uint64_t until_ns, int wake_fd) {
    uint64_t now = hu_now();
    if (channel->sleeper == GUARD && who == CALLER) {
        /* It has been woken and is about to leave: share the socket with it. */
    } else if (channel->sleeper != IDLE) {
        uint64_t wait = until_ns > now ? until_ns - now : 0;
        uint64_t slice = wake_fd < 0 ? SLICE_NS : SHARE_NS;
        wait = wait < slice ? wait : slice;
        struct timespec until = span_of(now + wait);
        pthread_cond_timedwait(&channel->moved, &channel->mutex, &until);
        return;
    }
    uint64_t due = hu_endpoint_deadline(channel->endpoint);
    due = due < until_ns ? due : until_ns;
    if (due > now) {
        int before = channel->sleeper;
        struct timespec left = span_of(due - now < SLICE_NS ? due - now : SLICE_NS);
        struct pollfd all[3] = {{.fd = channel->fd, .events = POLLIN},
                                {.fd = wake_fd, .events = POLLIN},
                                {.fd = channel->group_fd, .events = POLLIN}};
        channel->sleeper = before == IDLE ? who : before;
        pthread_mutex_unlock(&channel->mutex);
        ppoll(all, 3, &left, NULL);
        pthread_mutex_lock(&channel->mutex);
        if (before == IDLE)
            channel->sleeper = IDLE;
    }
    work(channel);
    if (who == GUARD)
        tell(channel);
    pthread_cond_broadcast(&channel->moved);
}

static int error_of(const hu_channel *channel) {
    if (channel->closing)
        return ECONNRESET;
    switch (hu_session_reason(channel->session)) {
    case 0:
        return 0;
    case HU_SILENT:
        return ETIMEDOUT;
    case HU_GONE:
    case HU_REFUSED:
        return ECONNREFUSED;
    default:
        return ECONNRESET;
    }
}

static uint64_t take(hu_channel *channel, uint8_t *buffer, uint64_t capacity) {
    hu_receiver *receiver = hu_session_receiver(channel->session);
    uint64_t taken = 0;
    while (taken < capacity) {
        const uint8_t *data;
        uint64_t size = hu_receiver_readable(receiver, &data);
        size = size < capacity - taken ? size : capacity - taken;
        if (size == 0)
            break;
        memcpy(buffer + taken, data, size);
        hu_endpoint_consume(channel->endpoint, 0, size);
        taken += size;
    }
    return taken;
}

/* Bytes; 0: the end; -HM_EEMPTY; -HM_ESYS. */
static int64_t take_now(hu_channel *channel, uint8_t *buffer, uint64_t capacity, int *error) {
    uint64_t taken = take(channel, buffer, capacity);
    if (taken > 0)
        return (int64_t)taken;
    if (hu_session_state(channel->session) & HU_ENDED)
        return 0;
    *error = error_of(channel);
    return *error != 0 ? -HM_ESYS : -HM_EEMPTY;
}

int64_t hu_channel_receive(hu_channel *channel, uint8_t *buffer, uint64_t capacity,
                           uint64_t spin_ns, int64_t timeout_ns, int *error) {
    assert(capacity > 0);
    *error = 0;
    enter(channel);
    /* What stands there already is handed out before the socket is looked at again. */
    int64_t result = take_now(channel, buffer, capacity, error);
    if (result == -HM_EEMPTY) {
        work(channel);
        result = take_now(channel, buffer, capacity, error);
    }
    uint64_t begun = result == -HM_EEMPTY ? hu_now() : 0;
    if (timeout_ns >= 0 && spin_ns > (uint64_t)timeout_ns)
        spin_ns = (uint64_t)timeout_ns; /* it is part of it */
    while (result == -HM_EEMPTY && spin_ns > 0 && hu_now() - begun < spin_ns) {
        work(channel);
        result = take_now(channel, buffer, capacity, error);
        if (result == -HM_EEMPTY)
            let_others_in(channel);
    }
    uint64_t until = timeout_ns < 0 ? NEVER : begun + (uint64_t)timeout_ns;
    while (result == -HM_EEMPTY && timeout_ns != 0 && hu_now() < until) {
        sleep_and_work(channel, CALLER, until, -1);
        result = take_now(channel, buffer, capacity, error);
    }
    if (result > 0 && !channel->closing && hu_session_deadline(channel->session, begun) == 0)
        hu_endpoint_flush(channel->endpoint); /* the peer waits for room */
    leave(channel);
    return result;
}

static uint64_t push_filtered(hu_channel *channel, const uint8_t *data, uint64_t size) {
    uint64_t taken = 0;
    while (taken < size && push_queued(channel)) {
        uint64_t passing = hu_outward_passing(channel->outward), left = size - taken, part;
        if (passing > 0) {
            part = hu_endpoint_push(channel->endpoint, 0, data + taken,
                                    passing < left ? passing : left);
            hu_outward_passed(channel->outward, part);
        } else {
            part = hu_outward_collect(channel->outward, data + taken, left);
        }
        taken += part;
        if (part == 0)
            break;
    }
    push_queued(channel);
    return taken;
}

static uint64_t push(hu_channel *channel, const uint8_t *data, uint64_t size) {
    return channel->outward != NULL ? push_filtered(channel, data, size)
                                    : hu_endpoint_push(channel->endpoint, 0, data, size);
}

static int64_t push_some(hu_channel *channel, const struct iovec *pieces, int count) {
    int64_t taken = 0;
    for (int i = 0; i < count; i++) {
        if (pieces[i].iov_len == 0)
            continue;
        uint64_t size = push(channel, pieces[i].iov_base, pieces[i].iov_len);
        taken += (int64_t)size;
        if (size < pieces[i].iov_len)
            break;
    }
    return taken;
}

static int64_t write_pieces(void *context, const struct iovec *pieces, int count) {
    hu_channel *channel = context;
    enter(channel);
    int64_t taken = -error_of(channel);
    if (taken == 0) {
        taken = push_some(channel, pieces, count);
        if (taken == 0) { /* full: what has been acknowledged meanwhile? */
            work(channel);
            taken = push_some(channel, pieces, count);
        }
        if (hu_now() - channel->looked_ns >= LOOK_NS)
            work(channel); /* who only writes must hear what is called for */
        else
            hu_endpoint_flush(channel->endpoint);
    }
    leave(channel);
    return taken;
}

int64_t hu_channel_send(hu_channel *channel, const uint8_t *data, uint64_t size) {
    struct iovec piece = {(void *)(uintptr_t)data, size};
    return write_pieces(channel, &piece, 1);
}

static int has_room(hu_channel *channel) {
    hu_sender *sender = hu_session_sender(channel->session);
    return error_of(channel) != 0 || hu_sender_ring_room(sender) > 0;
}

/* Whether walking through the group's stream may bring something. */
static int has_cast(const hu_channel *channel) {
    const hu_group *group = channel->group;
    return group != NULL && hu_group_beacon(group) != NULL && !channel->group_held &&
           (hu_group_received(group) != channel->group_walked || hu_group_can_skip(group));
}

/* Whether there is something to read beside what the group casts. */
static int has_word(hu_channel *channel) {
    const uint8_t *data;
    return (channel->outward != NULL && hu_outward_noted(channel->outward)) ||
           hu_receiver_readable(hu_session_receiver(channel->session), &data) > 0 ||
           (hu_session_state(channel->session) & HU_ENDED) != 0 || error_of(channel) != 0;
}

static int has_input(hu_channel *channel) {
    return has_cast(channel) || has_word(channel);
}

static int has(hu_channel *channel, int readable, int writable) {
    return (readable && has_input(channel)) || (writable && has_room(channel));
}

static void close_all(int watch_fd, int news_fd, int timer_fd) {
    if (watch_fd >= 0)
        close(watch_fd);
    if (news_fd >= 0)
        close(news_fd);
    if (timer_fd >= 0)
        close(timer_fd);
}

/* Sets the timer to the endpoint's next one. */
static void set_timer(const hu_channel *channel) {
    uint64_t due = hu_endpoint_deadline(channel->endpoint);
    struct itimerspec at = {.it_value = {0, 0}}; /* never */
    if (due != NEVER)
        at.it_value = span_of(due > 0 ? due : 1);
    timerfd_settime(channel->timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

/* An event loop is about to sleep, or is not, because what it asks for holds already. */
static void ask(hu_channel *channel, int readable, int writable, int found) {
    if (channel->told) {
        uint64_t count;
        ssize_t ignored = read(channel->news_fd, &count, sizeof count);
        (void)ignored;
        channel->told = 0;
    }
    channel->asked = found ? 0 : (readable ? READABLE : 0) | (writable ? WRITABLE : 0);
    set_timer(channel);
}

int hu_channel_watch(hu_channel *channel) {
    enter(channel);
    if (channel->watch_fd < 0 && !channel->closing) {
        int watch = epoll_create1(EPOLL_CLOEXEC);
        int news = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        struct epoll_event event = {.events = EPOLLIN};
        if (watch >= 0 && news >= 0 && timer >= 0 &&
            epoll_ctl(watch, EPOLL_CTL_ADD, channel->fd, &event) == 0 &&
            epoll_ctl(watch, EPOLL_CTL_ADD, news, &event) == 0 &&
            epoll_ctl(watch, EPOLL_CTL_ADD, timer, &event) == 0) {
            channel->watch_fd = watch;
            channel->news_fd = news;
            channel->timer_fd = timer;
        } else {
            close_all(watch, news, timer);
        }
    }
    int found = channel->watch_fd < 0 ? -HM_ESYS : channel->watch_fd;
    leave(channel);
    return found;
}

int hu_channel_wait(hu_channel *channel, int readable, int writable, uint64_t spin_ns,
                    int64_t timeout_ns) {
    uint64_t begun = hu_now();
    uint64_t until = timeout_ns < 0 ? NEVER : begun + (uint64_t)timeout_ns;
    uint64_t awake = spin_ns < until - begun ? begun + spin_ns : until;
    enter(channel);
    if (!channel->closing) /* the descriptor may be somebody else's by now */
        work(channel);
    int found = has(channel, readable, writable);
    while (!found && spin_ns > 0 && hu_now() < awake) {
        let_others_in(channel);
        work(channel);
        found = has(channel, readable, writable);
    }
    while (!found && hu_now() < until) {
        sleep_and_work(channel, CALLER, until, -1);
        found = has(channel, readable, writable);
    }
    if (timeout_ns == 0 && channel->watch_fd >= 0)
        ask(channel, readable, writable, found);
    leave(channel);
    return found;
}

static void wait_for_room(void *context, int wake_fd) {
    hu_channel *channel = context;
    enter(channel);
    if (!has_room(channel))
        sleep_and_work(channel, CALLER, hu_now() + ROOM_NS, wake_fd);
    leave(channel);
}

static int64_t receive(void *context, uint8_t *buffer, uint64_t capacity, uint64_t spin_ns,
                       int64_t timeout_ns, int *error) {
    return hu_channel_receive(context, buffer, capacity, spin_ns, timeout_ns, error);
}

/* ---- the guard ---- */

static void forget_wakes(const hu_channel *channel) {
    uint64_t count;
    ssize_t ignored = read(channel->wake_fd, &count, sizeof count);
    (void)ignored;
}

static int lingers(const hu_channel *channel, uint64_t now) {
    uint32_t state = hu_session_state(channel->session);
    return (state & (HU_FLUSHED | HU_LOST)) == 0 && now < channel->linger_ns;
}

/* Sleeps until callers may have been gone long enough.  Who holds the mutex is at work: to wait for
 * it would make them wake us with each of their calls. */
static void doze(hu_channel *channel, uint64_t now) {
    uint64_t left = channel->inside > 0 ? HU_GUARD_AFTER : channel->left_ns + HU_GUARD_AFTER - now;
    struct pollfd woken = {.fd = channel->wake_fd, .events = POLLIN};
    int called, held = 0;
    pthread_mutex_unlock(&channel->mutex);
    while (!held) {
        struct timespec wait = span_of(left);
        called = ppoll(&woken, 1, &wait, NULL) != 0;
        forget_wakes(channel);
        held = called ? pthread_mutex_lock(&channel->mutex) == 0
                      : pthread_mutex_trylock(&channel->mutex) == 0;
        left = HU_GUARD_AFTER;
    }
}

static void *guard(void *argument) {
    hu_channel *channel = argument;
    prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS);
    prctl(PR_SET_NAME, "hermes-udp");
    pthread_mutex_lock(&channel->mutex);
    for (;;) {
        uint64_t now = hu_now();
        if (channel->closing && channel->inside == 0 && !lingers(channel, now))
            break;
        int alone = channel->inside == 0 && now - channel->left_ns >= HU_GUARD_AFTER;
        if (!alone && !channel->closing) {
            doze(channel, now);
        } else {
            uint64_t until = channel->closing ? most(channel->linger_ns, now + LOOK_NS) : NEVER;
            sleep_and_work(channel, GUARD, until, channel->wake_fd);
            forget_wakes(channel);
            if (channel->closing) { /* what still comes is not wanted, but must not be in the way */
                uint8_t sink[4096];
                while (take(channel, sink, sizeof sink) > 0)
                    ;
            }
        }
    }
    if (hu_session_reason(channel->session) == 0)
        hu_endpoint_part(channel->endpoint, 0, HU_BYE); /* who still looks finds its counters */
    int closed_fd = channel->closed_fd;
    channel->over = 1;
    pthread_mutex_unlock(&channel->mutex);
    uint64_t one = 1;
    ssize_t ignored = write(closed_fd, &one, sizeof one);
    (void)ignored;
    return NULL;
}

/* ---- opening ---- */

static int start_guard(hu_channel *channel) {
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGBUS); /* a fault in a mapped file is handled where it happens */
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the program's */
    int status = pthread_create(&channel->guard, NULL, guard, channel);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status == 0 ? 0 : HU_DIAL_THREAD;
}

static void init_locks(hu_channel *channel) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&channel->moved, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&channel->mutex, NULL);
}

static void destroy(hu_channel *channel) {
    hu_group_free(channel->group);
    hu_endpoint_free(channel->endpoint);
    pthread_mutex_destroy(&channel->mutex);
    pthread_cond_destroy(&channel->moved);
    if (channel->wake_fd >= 0)
        close(channel->wake_fd);
    close_all(channel->watch_fd, channel->news_fd, channel->timer_fd);
    free(channel);
}

int hu_channel_open(hu_dial *dial, hu_channel **result) {
    int saved = errno;
    hu_channel *channel = calloc(1, sizeof *channel);
    if (channel == NULL)
        return HU_DIAL_MEMORY;
    init_locks(channel);
    channel->group_fd = -1;
    channel->watch_fd = channel->news_fd = channel->timer_fd = -1;
    channel->pid = getpid();
    channel->medium = (hm_medium){channel, write_pieces, receive, wait_for_room};
    channel->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int status = channel->wake_fd < 0 ? HU_DIAL_MEMORY : 0;
    if (status == 0) {
        channel->endpoint = hu_dial_take(dial, &channel->fd);
        channel->session = hu_endpoint_session(channel->endpoint, 0);
        channel->left_ns = hu_now();
        hu_endpoint_flush(channel->endpoint);
        status = start_guard(channel);
    }
    if (status == 0)
        *result = channel;
    else
        destroy(channel);
    errno = saved;
    return status;
}

void hu_channel_close(hu_channel *channel, int closed_fd) {
    pthread_mutex_lock(&channel->mutex);
    assert(!channel->closing);
    channel->closing = 1;
    channel->closed_fd = closed_fd;
    channel->linger_ns = hu_now() + HU_LINGER;
    if (hu_session_reason(channel->session) == 0) {
        if (channel->outward != NULL)
            push_queued(channel);
        hu_endpoint_finish(channel->endpoint, 0);
        hu_endpoint_flush(channel->endpoint);
    }
    channel->outward = NULL;
    channel->asked = 0;
    pthread_mutex_unlock(&channel->mutex);
    wake(channel);
}

void hu_channel_free(hu_channel *channel) {
    /* In a forked child the thread does not exist and the mutex may be held for ever. */
    if (channel == NULL || channel->pid != getpid())
        return;
    pthread_mutex_lock(&channel->mutex);
    int over = channel->over;
    pthread_mutex_unlock(&channel->mutex);
    if (!over) /* a thread of the program's never came back: its memory must stay */
        return;
    pthread_join(channel->guard, NULL);
    destroy(channel);
}

/* ---- the group ---- */

void hu_channel_filter(hu_channel *channel, hu_outward *outward) {
    enter(channel);
    channel->outward = outward;
    leave(channel);
}

int hu_channel_join(hu_channel *channel, int fd, uint64_t seed) {
    enter(channel);
    assert(channel->group == NULL && fd >= 0);
    uint32_t liveness_ms = hu_endpoint_liveness(channel->endpoint);
    channel->group = hu_group_new(liveness_ms, seed, hu_now());
    if (channel->group != NULL) {
        channel->group_fd = fd;
        channel->group_held = 0;
        channel->group_walked = NEVER; /* the first beacon is news */
        hu_endpoint_join(channel->endpoint, channel->group, fd);
    }
    leave(channel);
    return channel->group_fd < 0 ? -HM_ENOMEM : 0;
}

void hu_channel_leave(hu_channel *channel) {
    enter(channel);
    if (channel->group != NULL) {
        hu_endpoint_leave(channel->endpoint);
        hu_group_free(channel->group);
        channel->group = NULL;
        channel->group_fd = -1;
    }
    leave(channel);
}

uint32_t hu_channel_group(hu_channel *channel, hu_beacon *beacon, hu_beacon_entry *entries) {
    enter(channel);
    assert(channel->group != NULL);
    const hu_beacon *found = hu_group_beacon(channel->group);
    if (found != NULL) {
        *beacon = *found;
        memcpy(entries, hu_group_entries(channel->group), found->streams * sizeof *entries);
    }
    uint32_t state = hu_group_state(channel->group);
    leave(channel);
    return state;
}

/* One walk; 1: another may bring more although this one came to the end. */
static int select_once(hu_channel *channel, hu_select *select, uint8_t *out, uint64_t capacity,
                       uint64_t *written, hu_select_event *event) {
    hu_bytes bytes;
    uint64_t consumed;
    hu_group_bytes(channel->group, &bytes);
    *written +=
        hu_select_walk(select, &bytes, out + *written, capacity - *written, &consumed, event);
    hu_group_consume(channel->group, consumed);
    if (event->what != HU_SELECT_MORE)
        return 0;
    channel->group_walked = hu_group_received(channel->group);
    if (consumed == 0 && bytes.size[0] + bytes.size[1] > 0 &&
        bytes.size[0] + bytes.size[1] == hu_group_window(channel->group))
        event->what = HU_SELECT_MALFORMED;
    if (event->what != HU_SELECT_MORE || !hu_group_skip(channel->group))
        return 0;
    hu_select_resync(select);
    const hu_beacon *beacon = hu_group_beacon(channel->group);
    const hu_beacon_entry *entries = hu_group_entries(channel->group);
    for (uint32_t i = 0; i < beacon->streams; i++) { /* told now: nothing may follow for long */
        hu_select_stream(select, entries[i].index, UINT64_MAX);
        hu_select_gap(select, entries[i].index, entries[i].through);
    }
    return 1;
}

static uint64_t select_all(hu_channel *channel, hu_select *select, uint8_t *out, uint64_t capacity,
                           hu_select_event *event) {
    uint64_t written = 0;
    *event = (hu_select_event){0};
    if (channel->group != NULL)
        while (select_once(channel, select, out, capacity, &written, event))
            ;
    return written;
}

uint64_t hu_channel_select(hu_channel *channel, hu_select *select, uint8_t *out, uint64_t capacity,
                           hu_select_event *event) {
    enter(channel);
    uint64_t written = select_all(channel, select, out, capacity, event);
    leave(channel);
    return written;
}

/* Looks for more while there is much: who has fallen behind is handed larger pieces. */
static uint64_t select_more(hu_channel *channel, hu_select *select, uint8_t *out, uint64_t capacity,
                            uint64_t written, hu_select_event *event) {
    uint64_t before = 0;
    while (event->what == HU_SELECT_MORE && written - before >= MUCH &&
           capacity - written >= MUCH) {
        work(channel);
        if (has_word(channel) || !has_cast(channel))
            break;
        before = written;
        written += select_all(channel, select, out + written, capacity - written, event);
    }
    return written;
}

uint64_t hu_channel_pull(hu_channel *channel, hu_select *select, uint8_t *out, uint64_t capacity,
                         uint64_t spin_ns, int64_t timeout_ns, hu_select_event *event) {
    uint64_t begun = hu_now(), now = begun, written = 0;
    uint64_t until = timeout_ns < 0 ? NEVER : begun + (uint64_t)timeout_ns;
    uint64_t awake = spin_ns < until - begun ? begun + spin_ns : until;
    *event = (hu_select_event){0};
    enter(channel);
    if (!channel->closing)
        work(channel);
    while (!has_word(channel)) {
        if (has_cast(channel))
            written = select_all(channel, select, out, capacity, event);
        if (written > 0 || event->what != HU_SELECT_MORE || now >= until)
            break;
        if (now < awake) {
            let_others_in(channel);
            work(channel);
        } else {
            sleep_and_work(channel, CALLER, until, -1);
        }
        now = hu_now();
    }
    written = select_more(channel, select, out, capacity, written, event);
    leave(channel);
    return written;
}

void hu_channel_hold(hu_channel *channel, int held) {
    enter(channel);
    channel->group_held = held;
    leave(channel);
}

uint64_t hu_channel_held(hu_channel *channel) {
    hu_bytes bytes = {0};
    enter(channel);
    if (channel->group != NULL)
        hu_group_bytes(channel->group, &bytes);
    leave(channel);
    return bytes.size[0] + bytes.size[1];
}

/* ---- looking ---- */

uintptr_t hu_channel_medium(hu_channel *channel) {
    return (uintptr_t)&channel->medium;
}

uint32_t hu_channel_reason(hu_channel *channel) {
    pthread_mutex_lock(&channel->mutex);
    uint32_t reason = hu_session_reason(channel->session);
    pthread_mutex_unlock(&channel->mutex);
    return reason;
}

void hu_channel_count(hu_channel *channel, hu_endpoint_counters *endpoint,
                      hu_session_counters *session, hu_sender_counters *sender,
                      hu_receiver_counters *receiver) {
    pthread_mutex_lock(&channel->mutex);
    hu_endpoint_count(channel->endpoint, endpoint);
    hu_session_count(channel->session, session);
    hu_sender_count(hu_session_sender(channel->session), sender);
    hu_receiver_count(hu_session_receiver(channel->session), receiver);
    pthread_mutex_unlock(&channel->mutex);
}

uint64_t hu_channel_srtt(hu_channel *channel) {
    pthread_mutex_lock(&channel->mutex);
    uint64_t srtt = hu_sender_srtt(hu_session_sender(channel->session));
    pthread_mutex_unlock(&channel->mutex);
    return srtt;
}

uint32_t hu_channel_datagram(hu_channel *channel) {
    pthread_mutex_lock(&channel->mutex);
    uint32_t datagram = hu_session_datagram(channel->session);
    pthread_mutex_unlock(&channel->mutex);
    return datagram;
}

void hu_channel_count_group(hu_channel *channel, hu_group_counters *group,
                            hu_receiver_counters *receiver) {
    *group = (hu_group_counters){0};
    *receiver = (hu_receiver_counters){0};
    pthread_mutex_lock(&channel->mutex);
    if (channel->group != NULL)
        hu_group_count(channel->group, group, receiver);
    pthread_mutex_unlock(&channel->mutex);
}
