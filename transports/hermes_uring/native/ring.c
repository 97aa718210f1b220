/* ring.c -- a ring of io_uring as a Python object.
 *
 * It prepares many operations, submits them with one system call, and turns completions into tuples.
 *
 * One thread uses a ring: the one that enters it first.  An operation keeps a reference to its
 * target and to what it sends until its last completion; `user_data` is the operation's address,
 * so that a completion finds its target without a search.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <structmember.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "queue.h"

#define REAP_MAX 1024  /* completions turned into tuples by one call; the rest stays in the queue */
#define REAP_STRIDE 64 /* completions looked at together */
#define GROUP       0  /* the ring's only group of buffers */
#define CQ_FACTOR   4  /* completions the queue holds per submission: accepts and input have many */
#define DRAIN_TURNS 64 /* waits for what is cancelled at the end, of DRAIN_NS each */
#define DRAIN_NS    20000000
#define NS_PER_S    1000000000LL
#define ENTRIES_MAX 32768 /* the kernel's bound */
#define BUFFERS_MAX 32768 /* likewise */

enum { ACCEPT, RECEIVE, READABLE, WRITABLE };

typedef struct links { /* to the neighbours in a list whose head is one of these, too */
    struct links *next, *previous;
} links;

typedef struct {
    links links; /* to others under way; first */
    PyObject *target;
    int kind;
} operation;

typedef struct {
    PyObject_HEAD links under_way; /* head of the list of operations prepared or submitted */
    uint8_t *memory;               /* the buffers for input, side by side */
    hu_buffers *buffers;
    uint32_t *used;  /* bytes of each buffer that input stands in */
    uint16_t *spent; /* buffers whose input was handed out by the last `enter` */
    unsigned spent_count;
    unsigned buffer_count;
    unsigned buffer_size;
    int open;
    pid_t process; /* that made it: a forked child shares its memory with the kernel */
    unsigned long long operations; /* under way */
    unsigned long long sends;      /* address of the queue's `hm_sends` */
    hu_queue queue;
} ring;

static hu_uring *uring_of(ring *self) {
    return hu_queue_uring(&self->queue);
}

static PyObject *fail(int code) {
    errno = code < 0 ? -code : code;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static int is_open(ring *self) {
    if (self->open)
        return 1;
    PyErr_SetString(PyExc_ValueError, "the ring is closed");
    return 0;
}

/* ---- operations ---- */

static operation *operation_new(ring *self, int kind, PyObject *target) {
    operation *made = malloc(sizeof *made);
    if (made == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    made->kind = kind;
    made->target = Py_NewRef(target);
    made->links = (links){&self->under_way, self->under_way.previous};
    made->links.previous->next = self->under_way.previous = &made->links;
    self->operations++;
    return made;
}

static void operation_free(ring *self, operation *done) {
    done->links.previous->next = done->links.next;
    done->links.next->previous = done->links.previous;
    self->operations--;
    PyObject *target = done->target;
    free(done);
    Py_DECREF(target);
}

/* Room for one more submission; a full queue is submitted first.  NULL: with an exception. */
static hu_sqe *next_sqe(ring *self) {
    hu_sqe *sqe = self->queue.library.get_sqe(uring_of(self));
    if (sqe != NULL)
        return sqe;
    int code = hu_queue_enable(&self->queue);
    if (code >= 0) {
        self->queue.overruns++;
        self->queue.enters++;
        Py_BEGIN_ALLOW_THREADS;
        code = self->queue.library.submit(uring_of(self));
        Py_END_ALLOW_THREADS;
    }
    sqe = code < 0 ? NULL : self->queue.library.get_sqe(uring_of(self));
    if (sqe == NULL)
        fail(code < 0 ? code : EAGAIN);
    return sqe;
}

/* A new operation and the place to describe it to the kernel; NULL: with an exception. */
static hu_sqe *begin(ring *self, int kind, PyObject *target, operation **made) {
    *made = operation_new(self, kind, target);
    hu_sqe *sqe = *made == NULL ? NULL : next_sqe(self);
    if (*made != NULL && sqe == NULL)
        operation_free(self, *made);
    return sqe;
}

/* The description is complete; the handle is a number to cancel it by. */
static PyObject *finish(ring *self, hu_sqe *sqe, const operation *made) {
    self->queue.library.sqe_set_data64(sqe, (uint64_t)(uintptr_t)made);
    return PyLong_FromVoidPtr((void *)(uintptr_t)made);
}

/* (fd, target): what the operations on one descriptor begin with.  -1: with an exception. */
static int parse_fd(ring *self, PyObject *const *arguments, Py_ssize_t count, Py_ssize_t expected) {
    if (count != expected) {
        PyErr_Format(PyExc_TypeError, "%zd arguments expected, not %zd", expected, count);
        return -1;
    }
    if (!is_open(self))
        return -1;
    long fd = PyLong_AsLong(arguments[0]);
    if (PyErr_Occurred())
        return -1;
    if (fd < 0 || fd > INT32_MAX) {
        PyErr_Format(PyExc_ValueError, "%ld is no descriptor", fd);
        return -1;
    }
    return (int)fd;
}

PyDoc_STRVAR(accept_doc,
             "accept(fd, target, /)\n--\n\nAccept peers of a listening socket until cancelled.");

static PyObject *ring_accept(PyObject *object, PyObject *const *arguments, Py_ssize_t count) {
    ring *self = (ring *)object;
    int fd = parse_fd(self, arguments, count, 2);
    operation *made;
    hu_sqe *sqe = fd < 0 ? NULL : begin(self, ACCEPT, arguments[1], &made);
    if (sqe == NULL)
        return NULL;
    self->queue.library.prep_multishot_accept(sqe, fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    return finish(self, sqe, made);
}

PyDoc_STRVAR(receive_doc, "receive(fd, target, /)\n--\n\nReceive from a socket until cancelled.");

static PyObject *ring_receive(PyObject *object, PyObject *const *arguments, Py_ssize_t count) {
    ring *self = (ring *)object;
    int fd = parse_fd(self, arguments, count, 2);
    operation *made;
    hu_sqe *sqe = fd < 0 ? NULL : begin(self, RECEIVE, arguments[1], &made);
    if (sqe == NULL)
        return NULL;
    self->queue.library.prep_recv_multishot(sqe, fd, NULL, 0, 0);
    self->queue.library.sqe_set_flags(sqe, HU_SQE_BUFFER_SELECT);
    self->queue.library.sqe_set_buf_group(sqe, GROUP);
    return finish(self, sqe, made);
}

PyDoc_STRVAR(poll_doc, "poll(fd, target, events, /)\n--\n\nTell once that a descriptor is ready.");

static PyObject *ring_poll(PyObject *object, PyObject *const *arguments, Py_ssize_t count) {
    ring *self = (ring *)object;
    int fd = parse_fd(self, arguments, count, 3);
    unsigned long events = fd < 0 ? 0 : PyLong_AsUnsignedLong(arguments[2]);
    if (fd < 0 || PyErr_Occurred())
        return NULL;
    operation *made;
    hu_sqe *sqe = begin(self, events & POLLOUT ? WRITABLE : READABLE, arguments[1], &made);
    if (sqe == NULL)
        return NULL;
    self->queue.library.prep_poll_add(sqe, fd, (unsigned)events);
    return finish(self, sqe, made);
}

PyDoc_STRVAR(cancel_doc, "cancel(handle, /)\n--\n\nCancel an operation that has not ended.");

static PyObject *ring_cancel(PyObject *object, PyObject *handle) {
    ring *self = (ring *)object;
    void *address = PyLong_AsVoidPtr(handle); /* a number to match: never followed */
    if (PyErr_Occurred() || !is_open(self))
        return NULL;
    hu_sqe *sqe = next_sqe(self);
    if (sqe == NULL)
        return NULL;
    self->queue.library.prep_cancel64(sqe, (uint64_t)(uintptr_t)address, 0);
    self->queue.library.sqe_set_flags(sqe, HU_SQE_CQE_SKIP_SUCCESS);
    self->queue.library.sqe_set_data64(sqe, 0);
    Py_RETURN_NONE;
}

/* ---- completions ---- */

static void offer_buffer(ring *self, unsigned number, int place) {
    self->used[number] = 0;
    self->queue.library.buf_ring_add(
        self->buffers, self->memory + (size_t)number * self->buffer_size, self->buffer_size,
        (unsigned short)number, (int)self->buffer_count - 1, place);
}

static void reuse_buffers(ring *self) {
    if (self->spent_count == 0)
        return;
    for (unsigned i = 0; i < self->spent_count; i++)
        offer_buffer(self, self->spent[i], (int)i);
    self->queue.library.buf_ring_advance(self->buffers, (int)self->spent_count);
    self->spent_count = 0;
}

/* The input of a completion; NULL: with an exception. */
static PyObject *input_of(ring *self, const hu_cqe *cqe) {
    if (cqe->res <= 0 || (cqe->flags & HU_CQE_BUFFER) == 0)
        return Py_NewRef(Py_None);
    unsigned number = cqe->flags >> HU_CQE_BUFFER_SHIFT;
    unsigned size = (unsigned)cqe->res;
    assert(number < self->buffer_count && size <= self->buffer_size - self->used[number]);
    char *start = (char *)self->memory + (size_t)number * self->buffer_size + self->used[number];
    self->used[number] += size;
    if (self->used[number] == self->buffer_size)
        self->spent[self->spent_count++] = (uint16_t)number;
    return PyMemoryView_FromMemory(start, (Py_ssize_t)size, PyBUF_READ);
}

/* (target, kind, result, data, more) */
static PyObject *tuple_of(ring *self, const operation *made, const hu_cqe *cqe) {
    PyObject *data = made->kind == RECEIVE ? input_of(self, cqe) : Py_NewRef(Py_None);
    PyObject *tuple = data == NULL ? NULL : PyTuple_New(5);
    if (tuple == NULL) {
        Py_XDECREF(data);
        return NULL;
    }
    PyTuple_SetItem(tuple, 0, Py_NewRef(made->target));
    PyTuple_SetItem(tuple, 1, PyLong_FromLong(made->kind));
    PyTuple_SetItem(tuple, 2, PyLong_FromLong(cqe->res));
    PyTuple_SetItem(tuple, 3, data);
    PyTuple_SetItem(tuple, 4, PyBool_FromLong((cqe->flags & HU_CQE_MORE) != 0));
    return tuple;
}

/* Adds the tuple of one completion to `list`; -1: with an exception. */
static int note(ring *self, const operation *made, const hu_cqe *cqe, PyObject *list) {
    PyObject *tuple = tuple_of(self, made, cqe);
    int code = tuple == NULL ? -1 : PyList_Append(list, tuple);
    Py_XDECREF(tuple);
    return code;
}

/* Takes what the queue holds, up to REAP_MAX; without a list nobody is told.  0, or -1 with an
 * exception. */
static int reap(ring *self, PyObject *list) {
    const hu_liburing *library = &self->queue.library;
    for (unsigned reaped = 0; reaped < REAP_MAX;) {
        hu_cqe *cqes[REAP_STRIDE];
        if (library->cq_ready(uring_of(self)) == 0)
            return 0;
        unsigned count = library->peek_batch_cqe(uring_of(self), cqes, REAP_STRIDE);
        int failed = 0;
        for (unsigned i = 0; i < count; i++) {
            operation *made = (operation *)(uintptr_t)cqes[i]->user_data;
            if (made == NULL || hu_is_send(cqes[i]))
                continue; /* a cancellation that came too late, or a send: nobody waits for it */
            if (list != NULL && note(self, made, cqes[i], list) < 0)
                failed = 1;
            if ((cqes[i]->flags & HU_CQE_MORE) == 0)
                operation_free(self, made);
        }
        library->cq_advance(uring_of(self), count);
        reaped += count;
        if (failed)
            return -1;
    }
    return 0;
}

static int submit_and_look(ring *self) {
    int code;
    self->queue.enters++;
    Py_BEGIN_ALLOW_THREADS;
    code = self->queue.library.submit_and_get_events(uring_of(self));
    Py_END_ALLOW_THREADS;
    return code;
}

static int submit_and_wait(ring *self, long long timeout_ns) {
    hu_timespec timeout = {timeout_ns / NS_PER_S, timeout_ns % NS_PER_S};
    hu_cqe *first;
    int code;
    self->queue.enters++;
    Py_BEGIN_ALLOW_THREADS;
    code = self->queue.library.submit_and_wait_timeout(uring_of(self), &first, 1,
                                                       timeout_ns < 0 ? NULL : &timeout, NULL);
    Py_END_ALLOW_THREADS;
    return code;
}

/* Whether something has completed; enters the kernel if it asks for that. */
static int has_completions(ring *self) {
    hu_cqe *first;
    return self->queue.library.peek_batch_cqe(uring_of(self), &first, 1) != 0;
}

/* The system call, if there is a reason for one: 0, or an error that is not passing. */
static int go(ring *self, long long timeout_ns) {
    int code = 0;
    if (self->queue.library.sq_ready(uring_of(self)) == 0) {
        if (!has_completions(self) && timeout_ns != 0)
            code = submit_and_wait(self, timeout_ns);
    } else if (timeout_ns == 0 || self->queue.library.cq_ready(uring_of(self)) != 0) {
        code = submit_and_look(self);
    } else {
        code = submit_and_wait(self, timeout_ns);
    }
    /* Passing: the time is over, a signal came, or the kernel has no room for more just now. */
    if (code == -ETIME || code == -EINTR || code == -EAGAIN || code == -EBUSY)
        code = 0;
    return code < 0 ? code : 0;
}

PyDoc_STRVAR(enter_doc, "enter(timeout_ns, /)\n--\n\nSubmit what was prepared; see _ring.pyi.");

static PyObject *ring_enter(PyObject *object, PyObject *argument) {
    ring *self = (ring *)object;
    long long timeout_ns = PyLong_AsLongLong(argument);
    if (PyErr_Occurred() || !is_open(self))
        return NULL;
    int code = hu_queue_enable(&self->queue);
    if (code < 0)
        return fail(code);
    reuse_buffers(self);
    code = go(self, timeout_ns);
    if (code < 0)
        return fail(code);
    if (timeout_ns != 0 && PyErr_CheckSignals() < 0)
        return NULL;
    PyObject *list = PyList_New(0);
    if (list != NULL && reap(self, list) < 0)
        Py_CLEAR(list);
    return list;
}

/* ---- making and ending ---- */

/* Ends everything under way, and waits until the kernel has let go of it. */
static void drain(ring *self) {
    hu_sqe *sqe = self->operations == 0 ? NULL : next_sqe(self);
    if (sqe == NULL) {
        PyErr_Clear();
        return;
    }
    self->queue.library.prep_cancel64(sqe, 0, HU_CANCEL_ALL | HU_CANCEL_ANY);
    self->queue.library.sqe_set_data64(sqe, 0);
    for (int turn = 0; turn < DRAIN_TURNS && self->operations != 0; turn++) {
        if (go(self, DRAIN_NS) < 0)
            break; /* another thread than the ring's: the kernel cancels when the ring closes */
        reap(self, NULL);
    }
}

static void end(ring *self) {
    if (!self->open)
        return;
    if (self->process != getpid()) {
        self->open = 0; /* the ring and what is under way are the parent's */
        return;
    }
    if (self->queue.enabled)
        drain(self);
    self->open = 0;
    self->queue.library.queue_exit(
        uring_of(self)); /* the kernel forgets the list of buffers, too */
    if (self->buffers != NULL)
        munmap(self->buffers, (size_t)self->buffer_count * HU_BUFFER_ENTRY);
    self->buffers = NULL;
    close(self->queue.event_fd);
    while (self->under_way.next != &self->under_way)
        operation_free(self, (operation *)(void *)self->under_way.next);
}

PyDoc_STRVAR(close_doc, "close()\n--\n\nEnd all operations and the ring.  Idempotent.");

static PyObject *ring_close(PyObject *object, PyObject *nothing) {
    (void)nothing;
    end((ring *)object);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(fileno_doc, "fileno()\n--\n\nReadable when something completes; see `signal`.");

static PyObject *ring_fileno(PyObject *object, PyObject *nothing) {
    (void)nothing;
    ring *self = (ring *)object;
    return is_open(self) ? PyLong_FromLong(self->queue.event_fd) : NULL;
}

PyDoc_STRVAR(signal_doc, "signal(on, /)\n--\n\nHave the descriptor tell of completions, or not.");

static PyObject *ring_signal(PyObject *object, PyObject *on) {
    ring *self = (ring *)object;
    int wanted = PyObject_IsTrue(on);
    if (wanted < 0 || !is_open(self))
        return NULL;
    uint64_t told;
    if (wanted && read(self->queue.event_fd, &told, sizeof told) < 0)
        assert(errno == EAGAIN || errno == EINTR);
    if (wanted != self->queue.signals)
        self->queue.library.cq_eventfd_toggle(uring_of(self), wanted);
    self->queue.signals = wanted;
    Py_RETURN_NONE;
}

static void *map(size_t size) {
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static int make_buffers(ring *self) {
    self->memory = map((size_t)self->buffer_count * self->buffer_size);
    self->buffers = map((size_t)self->buffer_count * HU_BUFFER_ENTRY);
    self->used = calloc(self->buffer_count, sizeof *self->used);
    self->spent = calloc(self->buffer_count, sizeof *self->spent);
    if (self->memory == NULL || self->buffers == NULL || self->used == NULL || self->spent == NULL)
        return -ENOMEM;
    /* The list is ours: taking one back that liburing has made is refused to every thread but the
     * ring's. */
    hu_buffers_place place = {.address = (uint64_t)(uintptr_t)self->buffers,
                              .entries = self->buffer_count,
                              .group = GROUP,
                              .flags = HU_BUFFERS_INCREMENTAL};
    int code = self->queue.library.register_buf_ring(uring_of(self), &place, 0);
    if (code < 0)
        return code;
    for (unsigned i = 0; i < self->buffer_count; i++)
        offer_buffer(self, i, (int)i);
    self->queue.library.buf_ring_advance(self->buffers, (int)self->buffer_count);
    return 0;
}

static int make(ring *self, unsigned entries) {
    hu_params params = {
        .cq_entries = CQ_FACTOR * entries,
        .flags = HU_SETUP_CQSIZE | HU_SETUP_R_DISABLED | HU_SETUP_SUBMIT_ALL |
                 HU_SETUP_TASKRUN_FLAG | HU_SETUP_SINGLE_ISSUER | HU_SETUP_DEFER_TASKRUN |
                 HU_SETUP_NO_SQARRAY,
    };
    int code = self->queue.library.queue_init_params(entries, uring_of(self), &params);
    if (code < 0)
        return code;
    self->queue.event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    self->open = 1;
    self->process = getpid();
    self->queue.room = params.cq_entries < HU_LOOK_MAX ? params.cq_entries : HU_LOOK_MAX;
    self->queue.sends = (hm_sends){&self->queue, hu_queue_send};
    self->sends = (uintptr_t)&self->queue.sends;
    if (self->queue.event_fd < 0)
        return -errno;
    code = self->queue.library.register_eventfd(uring_of(self), self->queue.event_fd);
    if (code >= 0)
        code = self->queue.library.cq_eventfd_toggle(uring_of(self), 0);
    return code < 0 ? code : make_buffers(self);
}

static int is_power_of_two(unsigned value) {
    return value != 0 && (value & (value - 1)) == 0;
}

static PyObject *ring_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"library", "entries", "buffers", "buffer_size", NULL};
    const char *path;
    unsigned entries, buffers, buffer_size;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sIII:Ring", names, &path, &entries, &buffers,
                                     &buffer_size))
        return NULL;
    if (!is_power_of_two(entries) || entries > ENTRIES_MAX || !is_power_of_two(buffers) ||
        buffers > BUFFERS_MAX || buffer_size == 0)
        return PyErr_Format(PyExc_ValueError, "entries and buffers are powers of two up to %d",
                            ENTRIES_MAX);
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    ring *self = (ring *)allocate(type, 0);
    if (self == NULL)
        return NULL;
    self->queue.event_fd = -1;
    self->under_way.next = self->under_way.previous = &self->under_way;
    self->buffer_count = buffers;
    self->buffer_size = buffer_size;
    const char *missing = hu_liburing_find(&self->queue.library, path);
    if (missing != NULL) {
        Py_DECREF(self);
        return PyErr_Format(PyExc_ImportError, "%s has no %s", path, missing);
    }
    int code = make(self, entries);
    if (code < 0) {
        Py_DECREF(self);
        return fail(code);
    }
    return (PyObject *)self;
}

static void ring_free(PyObject *object) {
    ring *self = (ring *)object;
    PyTypeObject *type = Py_TYPE(object);
    end(self);
    free(self->used);
    free(self->spent);
    if (self->memory != NULL)
        munmap(self->memory, (size_t)self->buffer_count * self->buffer_size);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"accept", (PyCFunction)(void (*)(void))ring_accept, METH_FASTCALL, accept_doc},
    {"receive", (PyCFunction)(void (*)(void))ring_receive, METH_FASTCALL, receive_doc},
    {"poll", (PyCFunction)(void (*)(void))ring_poll, METH_FASTCALL, poll_doc},
    {"cancel", ring_cancel, METH_O, cancel_doc},
    {"enter", ring_enter, METH_O, enter_doc},
    {"signal", ring_signal, METH_O, signal_doc},
    {"fileno", ring_fileno, METH_NOARGS, fileno_doc},
    {"close", ring_close, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"operations", T_ULONGLONG, offsetof(ring, operations), READONLY, "Operations under way."},
    {"enters", T_ULONGLONG, offsetof(ring, queue.enters), READONLY,
     "System calls that submitted or waited."},
    {"overruns", T_ULONGLONG, offsetof(ring, queue.overruns), READONLY,
     "Times the submission queue was full and was submitted early."},
    {"sends", T_ULONGLONG, offsetof(ring, sends), READONLY, "Address of a struct hm_sends."},
    {"together", T_ULONGLONG, offsetof(ring, queue.together), READONLY,
     "Sends that left with others."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, ring_new},
    {Py_tp_dealloc, ring_free},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_doc, "Ring(library, entries, buffers, buffer_size)\n--\n\nA ring of io_uring."},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "hermes_uring._ring.Ring",
    .basicsize = sizeof(ring),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_ring",
    .m_doc = "A ring of io_uring; see _ring.pyi.",
    .m_size = -1,
};

PyMODINIT_FUNC PyInit__ring(void) {
    PyObject *module = PyModule_Create(&definition);
    PyObject *type = module == NULL ? NULL : PyType_FromSpec(&spec);
    if (type == NULL || PyModule_AddType(module, (PyTypeObject *)type) < 0 ||
        PyModule_AddIntConstant(module, "ACCEPT", ACCEPT) < 0 ||
        PyModule_AddIntConstant(module, "RECEIVE", RECEIVE) < 0 ||
        PyModule_AddIntConstant(module, "READABLE", READABLE) < 0 ||
        PyModule_AddIntConstant(module, "WRITABLE", WRITABLE) < 0)
        Py_CLEAR(module);
    Py_XDECREF(type);
    return module;
}
