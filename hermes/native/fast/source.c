/* source.c -- Source: where a connection is read from. */
#include <errno.h>

#include "fast.h"

/* Where a connection is read from.  Waiting for it is the one thing here that gives up the GIL. */
typedef struct {
    PyObject_HEAD int fd;    /* a stream socket; -1: it is the medium */
    const hm_medium *medium; /* stays there as long as anybody may be in a call */
} source;

static PyObject *source_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    int fd;
    PyObject *address;
    if (kwargs != NULL && PyDict_Size(kwargs) > 0)
        return PyErr_Format(PyExc_TypeError, "Source takes no keyword arguments");
    if (!PyArg_ParseTuple(args, "iO:Source", &fd, &address))
        return NULL;
    const hm_medium *medium = address == Py_None ? NULL : PyLong_AsVoidPtr(address);
    if (PyErr_Occurred())
        return NULL;
    if ((fd < 0) == (medium == NULL))
        return PyErr_Format(PyExc_ValueError, "a source is a descriptor or a medium");
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    source *self = (source *)allocate(type, 0);
    if (self == NULL)
        return NULL;
    self->fd = fd;
    self->medium = medium;
    return (PyObject *)self;
}

static void source_free(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

PyDoc_STRVAR(
    receive_doc,
    "receive($self, inbox, spin_ns, timeout_ns, /)\n--\n\n"
    "Fill ``inbox.buffer`` from ``inbox.end`` on, waiting for it without the GIL, and move "
    "``inbox.end``: how many bytes.");

static PyObject *buffer_name, *end_name;

/* The buffer of `inbox`, and where it is to be filled from: -1 with an exception set. */
static Py_ssize_t place_of(PyObject *inbox, Py_buffer *view) {
    PyObject *buffer = PyObject_GetAttr(inbox, buffer_name);
    if (buffer == NULL)
        return -1;
    int status = PyObject_GetBuffer(buffer, view, PyBUF_WRITABLE);
    Py_DECREF(buffer);
    if (status < 0)
        return -1;
    PyObject *end = PyObject_GetAttr(inbox, end_name);
    Py_ssize_t start = end != NULL ? PyLong_AsSsize_t(end) : -1;
    Py_XDECREF(end);
    if (start >= 0 && start <= view->len)
        return start;
    if (!PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "%zd is not within a buffer of %zd bytes", start, view->len);
    PyBuffer_Release(view);
    return -1;
}

/* Accounts for what was read, before any step of Python's: an interrupt must not come between. */
static PyObject *read_to(PyObject *inbox, Py_ssize_t start, int64_t size) {
    if (size > 0) {
        PyObject *end = PyLong_FromLongLong(start + size);
        int status = end != NULL ? PyObject_SetAttr(inbox, end_name, end) : -1;
        Py_XDECREF(end);
        if (status < 0)
            return NULL;
    }
    return PyLong_FromLongLong(size);
}

static PyObject *source_receive(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    const source *self = (const source *)object;
    Py_buffer view;
    if (count != 3)
        return PyErr_Format(PyExc_TypeError, "receive takes 3 arguments, not %zd", count);
    uint64_t spin_ns = PyLong_AsUnsignedLongLong(args[1]);
    int64_t timeout_ns = PyLong_AsLongLong(args[2]);
    if (PyErr_Occurred())
        return NULL;
    Py_ssize_t start = place_of(args[0], &view);
    if (start < 0)
        return NULL;
    if (start == view.len) { /* filled meanwhile: what is there is to be looked at first */
        PyBuffer_Release(&view);
        return PyLong_FromLongLong(-HM_EEMPTY);
    }
    uint8_t *place = (uint8_t *)view.buf + start;
    uint64_t room = (uint64_t)(view.len - start);
    int error;
    PyThreadState *state = PyEval_SaveThread();
    int64_t size =
        self->medium != NULL
            ? fast_core->medium_receive(self->medium, place, room, spin_ns, timeout_ns, &error)
            : fast_core->socket_receive(self->fd, place, room, spin_ns, timeout_ns, &error);
    PyEval_RestoreThread(state);
    PyBuffer_Release(&view);
    if (size == -HM_ESYS) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return read_to(args[0], start, size);
}

static PyMethodDef methods[] = {
    {"receive", (PyCFunction)(void (*)(void))source_receive, METH_FASTCALL, receive_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, source_new},
    {Py_tp_dealloc, source_free},
    {Py_tp_methods, methods},
    {Py_tp_doc, "Source(fd, medium_address, /)\n--\n\nWhere a connection is read from."},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "hermes.native._fast.Source",
    .basicsize = sizeof(source),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int fast_add_source(PyObject *module) {
    buffer_name = PyUnicode_InternFromString("buffer");
    end_name = PyUnicode_InternFromString("end");
    if (buffer_name == NULL || end_name == NULL)
        return -1;
    PyObject *type = PyType_FromSpec(&spec);
    if (type == NULL)
        return -1;
    int status = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return status;
}
