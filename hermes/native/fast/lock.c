/* lock.c -- Lock, Hold and together: locks of Python threads. */
#include <time.h>

#include "fast.h"

/* A lock that no exception leaves taken.  Holding it and being away from it are objects: when the
 * interpreter unwinds a call, between any two of its steps, they are freed and the lock with them.
 * All fields are guarded by the GIL; `mutex` alone is waited for without it. */
typedef struct {
    PyObject_HEAD PyThread_type_lock mutex;
    PyObject *tidy;    /* called with the lock held when there is something to do; or NULL */
    PyObject *pending; /* what there is to do, a sequence; or NULL */
    PyObject *clean;   /* exceptions that leave what is guarded sound; or NULL */
    PyObject *spared;  /* the exception that ended a wait: nothing was touched meanwhile */
    unsigned long owner;
    unsigned depth; /* holds of the owner */
    int torn;       /* a holder was interrupted: what is guarded may be half changed */
} lock;

typedef struct {
    PyObject_HEAD lock *of; /* NULL: let go */
    PyObject *guard;        /* of a pass: kept alive meanwhile */
    int entered;
    int spare;
} hold;

static PyTypeObject *lock_type, *hold_type, *pass_type;

static int64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int is_mine(const lock *self) {
    return self->depth > 0 && self->owner == PyThread_get_thread_ident();
}

/* Waits for the mutex: 1 taken, 0 not in time, -1 an exception is set.  `timeout_ns` < 0: for ever.
 */
static int take(lock *self, int64_t timeout_ns, int interruptible) {
    if (PyThread_acquire_lock(self->mutex, NOWAIT_LOCK))
        return 1;
    if (timeout_ns == 0)
        return 0;
    int64_t deadline = timeout_ns < 0 ? 0 : monotonic_ns() + timeout_ns;
    for (;;) {
        int64_t left = timeout_ns < 0 ? -1 : deadline - monotonic_ns();
        if (timeout_ns >= 0 && left <= 0)
            return 0;
        PyLockStatus status;
        PyThreadState *state = PyEval_SaveThread();
        status = PyThread_acquire_lock_timed(self->mutex, left < 0 ? -1 : left / 1000 + 1,
                                             interruptible);
        PyEval_RestoreThread(state);
        if (status == PY_LOCK_ACQUIRED)
            return 1;
        if (status == PY_LOCK_INTR && PyErr_CheckSignals() < 0)
            return -1;
    }
}

static void let_go(lock *self) {
    if (--self->depth == 0) {
        self->owner = 0;
        Py_CLEAR(self->spared);
        PyThread_release_lock(self->mutex);
    }
}

static hold *hold_new(PyTypeObject *type, lock *of) {
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    hold *self = (hold *)allocate(type, 0);
    if (self == NULL)
        return NULL;
    Py_INCREF((PyObject *)of);
    self->of = of;
    self->guard = NULL;
    self->entered = self->spare = 0;
    return self;
}

/* ---- the lock ---- */

static PyObject *lock_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *tidy = NULL, *pending = NULL, *clean = NULL;
    if (kwargs != NULL && PyDict_Size(kwargs) > 0)
        return PyErr_Format(PyExc_TypeError, "Lock takes no keyword arguments");
    if (!PyArg_ParseTuple(args, "|OOO:Lock", &tidy, &pending, &clean))
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    lock *self = (lock *)allocate(type, 0);
    if (self == NULL)
        return NULL;
    self->mutex = PyThread_allocate_lock();
    if (self->mutex == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    Py_XINCREF(tidy);
    Py_XINCREF(pending);
    Py_XINCREF(clean);
    self->tidy = tidy;
    self->pending = pending;
    self->clean = clean;
    return (PyObject *)self;
}

static int lock_traverse(PyObject *object, visitproc visit, void *arg) {
    lock *self = (lock *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->tidy);
    Py_VISIT(self->pending);
    Py_VISIT(self->clean);
    Py_VISIT(self->spared);
    return 0;
}

static int lock_clear(PyObject *object) {
    lock *self = (lock *)object;
    Py_CLEAR(self->tidy);
    Py_CLEAR(self->pending);
    Py_CLEAR(self->clean);
    Py_CLEAR(self->spared);
    return 0;
}

static void lock_free(PyObject *object) {
    lock *self = (lock *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    lock_clear(object);
    if (self->mutex != NULL)
        PyThread_free_lock(self->mutex);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

/* Whether tidying up succeeded: at once, if there is nothing to do. */
static int tidied(lock *self) {
    if (self->tidy == NULL)
        return 1;
    Py_ssize_t waiting = self->pending != NULL ? PyObject_Size(self->pending) : 0;
    if (waiting < 0)
        return 0;
    if (!self->torn && waiting == 0)
        return 1;
    PyObject *result = PyObject_CallNoArgs(self->tidy);
    Py_XDECREF(result);
    return result != NULL;
}

PyDoc_STRVAR(hold_doc, "hold($self, timeout_ns, again=False, /)\n--\n\n"
                       "Take the lock: a Hold; None: not in time, or this thread has it.");

static PyObject *lock_hold(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    lock *self = (lock *)object;
    if (count < 1 || count > 2)
        return PyErr_Format(PyExc_TypeError, "hold takes 1 or 2 arguments, not %zd", count);
    int64_t timeout_ns = PyLong_AsLongLong(args[0]);
    if (PyErr_Occurred())
        return NULL;
    if (is_mine(self)) {
        if (count < 2 || !PyObject_IsTrue(args[1]))
            Py_RETURN_NONE;
        hold *nested = hold_new(hold_type, self);
        if (nested != NULL)
            self->depth++;
        return (PyObject *)nested;
    }
    hold *held = hold_new(hold_type, self);
    if (held == NULL)
        return NULL;
    int taken = take(self, timeout_ns, 1);
    if (taken <= 0) {
        Py_CLEAR(held->of);
        Py_DECREF(held);
        if (taken < 0)
            return NULL;
        Py_RETURN_NONE;
    }
    self->owner = PyThread_get_thread_ident();
    self->depth = 1;
    if (!tidied(self)) {
        Py_DECREF(held);
        return NULL;
    }
    return (PyObject *)held;
}

PyDoc_STRVAR(away_doc, "away($self, guard, spare, /)\n--\n\n"
                       "Let the lock go until the end of the block.");

static PyObject *lock_away(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    lock *self = (lock *)object;
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "away takes 2 arguments, not %zd", count);
    int spare = PyObject_IsTrue(args[1]);
    if (spare < 0)
        return NULL;
    if (!is_mine(self) || self->depth != 1)
        return PyErr_Format(PyExc_RuntimeError, "this thread does not hold the lock");
    hold *pass = hold_new(pass_type, self);
    if (pass == NULL)
        return NULL;
    Py_INCREF(args[0]);
    pass->guard = args[0];
    pass->spare = spare;
    let_go(self);
    return (PyObject *)pass;
}

static PyObject *lock_mine(PyObject *object, void *closure) {
    (void)closure;
    return PyBool_FromLong(is_mine((lock *)object));
}

static PyObject *lock_free_for_me(PyObject *object, void *closure) {
    (void)closure;
    const lock *self = (const lock *)object;
    return PyBool_FromLong(self->depth == 0 || is_mine(self));
}

static PyObject *lock_torn(PyObject *object, void *closure) {
    (void)closure;
    return PyBool_FromLong(((lock *)object)->torn);
}

static int lock_set_torn(PyObject *object, PyObject *value, void *closure) {
    (void)closure;
    int torn = value != NULL ? PyObject_IsTrue(value) : 0;
    if (torn < 0)
        return -1;
    ((lock *)object)->torn = torn;
    return 0;
}

/* ---- holds and passes ---- */

static void hold_forget(hold *self) {
    lock *of = self->of;
    self->of = NULL;
    Py_CLEAR(self->guard);
    Py_XDECREF((PyObject *)of);
}

/* Without __exit__: the call was interrupted. */
static void hold_free(PyObject *object) {
    hold *self = (hold *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (self->of != NULL && type == hold_type && is_mine(self->of)) {
        self->of->torn |= self->entered;
        let_go(self->of);
    } else if (self->of != NULL && type == pass_type) {
        self->of->torn = 1; /* what is above goes on without the lock */
    }
    hold_forget(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

static PyObject *hold_enter(PyObject *object, PyObject *unused) {
    (void)unused;
    ((hold *)object)->entered = 1;
    Py_INCREF(object);
    return object;
}

static int is_clean(const lock *self, PyObject *exception) {
    if (exception == Py_None || exception == self->spared)
        return 1;
    return self->clean != NULL && PyErr_GivenExceptionMatches(exception, self->clean);
}

static PyObject *hold_exit(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    hold *self = (hold *)object;
    if (count != 3)
        return PyErr_Format(PyExc_TypeError, "__exit__ takes 3 arguments, not %zd", count);
    lock *of = self->of;
    if (of != NULL && is_mine(of)) {
        of->torn |= !is_clean(of, args[1]);
        let_go(of);
    }
    hold_forget(self);
    Py_RETURN_NONE;
}

static PyObject *pass_exit(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    hold *self = (hold *)object;
    if (count != 3)
        return PyErr_Format(PyExc_TypeError, "__exit__ takes 3 arguments, not %zd", count);
    lock *of = self->of;
    if (of == NULL)
        Py_RETURN_NONE;
    take(of, -1, 0);
    of->owner = PyThread_get_thread_ident();
    of->depth = 1;
    if (args[1] != Py_None && self->spare) {
        PyObject *before = of->spared;
        Py_INCREF(args[1]);
        of->spared = args[1];
        Py_XDECREF(before);
    }
    hold_forget(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(together_doc,
             "together(function, arguments, /, *more)\n--\n\n"
             "Call functions of C one after the other, with no step of Python's between them.");

static PyObject *together(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count % 2 != 0)
        return PyErr_Format(PyExc_TypeError, "together takes functions, each with its arguments");
    for (Py_ssize_t i = 0; i < count; i += 2) {
        PyObject *result = PyObject_Call(args[i], args[i + 1], NULL);
        if (result == NULL)
            return NULL;
        Py_DECREF(result);
    }
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"together", (PyCFunction)(void (*)(void))together, METH_FASTCALL, together_doc},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef lock_methods[] = {
    {"hold", (PyCFunction)(void (*)(void))lock_hold, METH_FASTCALL, hold_doc},
    {"away", (PyCFunction)(void (*)(void))lock_away, METH_FASTCALL, away_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef lock_fields[] = {
    {"mine", lock_mine, NULL, "Whether this thread has it.", NULL},
    {"free", lock_free_for_me, NULL, "Whether no other thread has it.", NULL},
    {"torn", lock_torn, lock_set_torn, "Whether a holder was interrupted.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot lock_slots[] = {
    {Py_tp_new, lock_new},
    {Py_tp_dealloc, lock_free},
    {Py_tp_traverse, lock_traverse},
    {Py_tp_clear, lock_clear},
    {Py_tp_methods, lock_methods},
    {Py_tp_getset, lock_fields},
    {Py_tp_doc, "Lock(tidy, pending, clean, /)\n--\n\nA lock that no exception leaves taken."},
    {0, NULL},
};

static PyMethodDef hold_methods[] = {
    {"__enter__", hold_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))hold_exit, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot hold_slots[] = {
    {Py_tp_dealloc, hold_free},
    {Py_tp_methods, hold_methods},
    {Py_tp_doc, "A lock while it is held."},
    {0, NULL},
};

static PyMethodDef pass_methods[] = {
    {"__enter__", hold_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))pass_exit, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot pass_slots[] = {
    {Py_tp_dealloc, hold_free},
    {Py_tp_methods, pass_methods},
    {Py_tp_doc, "A lock that its holder has let go of for a while."},
    {0, NULL},
};

#define FLAGS   (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE)
#define GUARDED (FLAGS | Py_TPFLAGS_HAVE_GC)
#define HIDDEN  (FLAGS | Py_TPFLAGS_DISALLOW_INSTANTIATION)

static PyType_Spec lock_spec = {"hermes.native._fast.Lock", sizeof(lock), 0, GUARDED, lock_slots};
static PyType_Spec hold_spec = {"hermes.native._fast.Hold", sizeof(hold), 0, HIDDEN, hold_slots};
static PyType_Spec pass_spec = {"hermes.native._fast.Pass", sizeof(hold), 0, HIDDEN, pass_slots};

int fast_add_lock(PyObject *module) {
    lock_type = (PyTypeObject *)PyType_FromSpec(&lock_spec); /* as long as the process lives */
    hold_type = (PyTypeObject *)PyType_FromSpec(&hold_spec);
    pass_type = (PyTypeObject *)PyType_FromSpec(&pass_spec);
    if (lock_type == NULL || hold_type == NULL || pass_type == NULL ||
        PyModule_AddType(module, lock_type) < 0 || PyModule_AddType(module, hold_type) < 0 ||
        PyModule_AddType(module, pass_type) < 0)
        return -1;
    return PyModule_AddFunctions(module, functions);
}
