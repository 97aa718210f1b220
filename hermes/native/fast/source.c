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

PyDoc_STRVAR(receive_doc,
             "receive($self, buffer, start, spin_ns, timeout_ns, /)\n--\n\n"
             "Fill ``buffer`` from ``start`` on, waiting for it without the GIL: how many bytes.");

static PyObject *source_receive(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    const source *self = (const source *)object;
    Py_buffer view;
    if (count != 4)
        return PyErr_Format(PyExc_TypeError, "receive takes 4 arguments, not %zd", count);
    Py_ssize_t start = PyLong_AsSsize_t(args[1]);
    uint64_t spin_ns = PyLong_AsUnsignedLongLong(args[2]);
    int64_t timeout_ns = PyLong_AsLongLong(args[3]);
    if (PyErr_Occurred() || PyObject_GetBuffer(args[0], &view, PyBUF_WRITABLE) < 0)
        return NULL;
    if (start < 0 || start >= view.len) {
        PyErr_Format(PyExc_ValueError, "no room from %zd on in a buffer of %zd bytes", start,
                     view.len);
        PyBuffer_Release(&view);
        return NULL;
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
    return PyLong_FromLongLong(size);
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
    PyObject *type = PyType_FromSpec(&spec);
    if (type == NULL)
        return -1;
    int status = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return status;
}
