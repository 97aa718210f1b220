/* incoming.c -- Incoming: an asynchronous iterator over messages that are there already, or waited for.
 *
 * A coroutine for each message would cost more than the message.  So the iterator is its own awaitable:
 * awaited while a message is there, it returns that message at once, without suspending anybody.  The
 * message is taken in that step and in no other, so that no interrupt can lose it.
 */
#include "fast.h"

typedef struct {
    PyObject_HEAD PyObject *ready; /* a deque of messages */
    PyObject *take;                /* its popleft */
    PyObject *owner;               /* `_closed` of it ends the iteration */
    PyObject *wait; /* where nothing is ready: returns a coroutine for the next one */
} incoming;

static PyObject *closed_name, *take_name, *await_name;

static PyObject *incoming_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *ready, *owner, *wait;
    if (kwargs != NULL && PyDict_Size(kwargs) > 0)
        return PyErr_Format(PyExc_TypeError, "Incoming takes no keyword arguments");
    if (!PyArg_ParseTuple(args, "OOO:Incoming", &ready, &owner, &wait))
        return NULL;
    PyObject *take = PyObject_GetAttr(ready, take_name);
    if (take == NULL)
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    incoming *self = (incoming *)allocate(type, 0);
    if (self == NULL) {
        Py_DECREF(take);
        return NULL;
    }
    Py_INCREF(ready);
    Py_INCREF(owner);
    Py_INCREF(wait);
    self->ready = ready;
    self->take = take;
    self->owner = owner;
    self->wait = wait;
    return (PyObject *)self;
}

static void incoming_free(PyObject *object) {
    incoming *self = (incoming *)object;
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    Py_XDECREF(self->ready);
    Py_XDECREF(self->take);
    Py_XDECREF(self->owner);
    Py_XDECREF(self->wait);
    release(object);
    Py_DECREF(type);
}

/* Whether a message can be had at once; -1 with an exception set. */
static int is_there(const incoming *self) {
    Py_ssize_t count = PyObject_Size(self->ready);
    if (count <= 0)
        return (int)count;
    PyObject *closed = PyObject_GetAttr(self->owner, closed_name);
    if (closed == NULL)
        return -1;
    int found = PyObject_IsTrue(closed);
    Py_DECREF(closed);
    return found < 0 ? -1 : !found;
}

static PyObject *myself(PyObject *object) {
    Py_INCREF(object);
    return object;
}

static PyObject *incoming_next(PyObject *object) {
    const incoming *self = (const incoming *)object;
    int there = is_there(self);
    if (there < 0)
        return NULL;
    return there ? myself(object) : PyObject_CallNoArgs(self->wait);
}

/* Awaited: usually while the message is still there, but another task may have been faster. */
static PyObject *incoming_await(PyObject *object) {
    const incoming *self = (const incoming *)object;
    int there = is_there(self);
    if (there < 0)
        return NULL;
    if (there)
        return myself(object);
    PyObject *coroutine = PyObject_CallNoArgs(self->wait);
    if (coroutine == NULL)
        return NULL;
    PyObject *begin = PyObject_GetAttr(coroutine, await_name);
    Py_DECREF(coroutine);
    if (begin == NULL)
        return NULL;
    PyObject *iterator = PyObject_CallNoArgs(begin);
    Py_DECREF(begin);
    return iterator;
}

static PySendResult incoming_send(PyObject *object, PyObject *value, PyObject **result) {
    (void)value;
    *result = PyObject_CallNoArgs(((const incoming *)object)->take);
    return *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
}

/* As incoming_send, for those who do not know it. */
static PyObject *incoming_step(PyObject *object) {
    PyObject *found = PyObject_CallNoArgs(((const incoming *)object)->take);
    if (found != NULL) {
        PyErr_SetObject(PyExc_StopIteration, found);
        Py_DECREF(found);
    }
    return NULL;
}

static PyType_Slot slots[] = {
    {Py_tp_new, incoming_new},
    {Py_tp_dealloc, incoming_free},
    {Py_tp_iter, myself},
    {Py_tp_iternext, incoming_step},
    {Py_am_aiter, myself},
    {Py_am_anext, incoming_next},
    {Py_am_await, incoming_await},
    {Py_am_send, incoming_send},
    {Py_tp_doc, "Incoming(ready, owner, wait, /)\n--\n\nMessages for ``async for``."},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "hermes.native._fast.Incoming",
    .basicsize = sizeof(incoming),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int fast_add_incoming(PyObject *module) {
    closed_name = PyUnicode_InternFromString("_closed");
    take_name = PyUnicode_InternFromString("popleft");
    await_name = PyUnicode_InternFromString("__await__");
    if (closed_name == NULL || take_name == NULL || await_name == NULL)
        return -1;
    PyObject *type = PyType_FromSpec(&spec);
    if (type == NULL)
        return -1;
    int status = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return status;
}
