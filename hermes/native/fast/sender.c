/* sender.c -- Sender: puts one message into an outbox, with the GIL held. */
#include <string.h>

#include "fast.h"

/* A publisher's way into its outbox. */
typedef struct {
    PyObject_HEAD hm_outbox *outbox;
    PyObject *owner; /* what keeps the outbox alive */
    PyObject *topic; /* bytes, or None */
} sender;

static PyTypeObject *sender_type;

hm_outbox *fast_outbox_of(PyObject *object) {
    if (Py_TYPE(object) == sender_type)
        return ((const sender *)object)->outbox;
    PyErr_Format(PyExc_TypeError, "%R is not a Sender", object);
    return NULL;
}

static PyObject *sender_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *address, *owner, *topic;
    if (kwargs != NULL && PyDict_Size(kwargs) > 0)
        return PyErr_Format(PyExc_TypeError, "Sender takes no keyword arguments");
    if (!PyArg_ParseTuple(args, "OOO:Sender", &address, &owner, &topic))
        return NULL;
    if (topic != Py_None && !PyBytes_Check(topic))
        return PyErr_Format(PyExc_TypeError, "topic must be bytes or None");
    void *outbox = PyLong_AsVoidPtr(address);
    if (outbox == NULL)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "no outbox at address 0");
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    sender *self = (sender *)allocate(type, 0);
    if (self == NULL)
        return NULL;
    self->outbox = outbox;
    self->owner = Py_NewRef(owner);
    self->topic = Py_NewRef(topic);
    return (PyObject *)self;
}

static void sender_free(PyObject *object) {
    sender *self = (sender *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    Py_XDECREF(self->owner);
    Py_XDECREF(self->topic);
    PyObject_GC_Del(object);
    Py_DECREF(type);
}

static int sender_traverse(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((sender *)object)->owner);
    return 0;
}

/* Whether a buffer's format (PEP 3118, with the codes of ctypes) has elements that are addresses of
 * this process: objects, pointers, functions.  Names of fields stand between colons; a Z before a
 * floating type is a complex number. */
static int holds_addresses(const char *format) {
    int name = 0;
    for (const char *at = format; *at != '\0'; at++) {
        if (*at == ':')
            name = !name;
        else if (name)
            continue;
        else if (*at == 'O' || *at == 'P' || *at == 'X' || *at == 'z' || *at == '&')
            return 1;
        else if (*at == 'Z' && (at[1] == '\0' || strchr("fdgFDG", at[1]) == NULL))
            return 1;
    }
    return 0;
}

/* Bytes without a copy: `bytes` as it is, anything else through the buffer protocol. */
static const uint8_t *borrow(PyObject *object, Py_buffer *view, size_t *size) {
    view->obj = NULL;
    if (PyBytes_Check(object)) {
        char *data;
        Py_ssize_t length;
        PyBytes_AsStringAndSize(object, &data, &length);
        *size = (size_t)length;
        return (const uint8_t *)data;
    }
    if (PyUnicode_Check(object)) { /* NumPy's texts are buffers, but as unlikely to be meant */
        PyErr_SetString(PyExc_TypeError, "a payload is bytes, not text");
        return NULL;
    }
    if (PyObject_GetBuffer(object, view, PyBUF_CONTIG_RO | PyBUF_FORMAT) < 0)
        return NULL;
    if (view->format != NULL && holds_addresses(view->format)) {
        PyBuffer_Release(view);
        PyErr_SetString(PyExc_TypeError, "a payload of addresses means nothing elsewhere");
        return NULL;
    }
    *size = (size_t)view->len;
    return view->buf != NULL ? view->buf : (const uint8_t *)"";
}

/* ns since 1970, up to what 64 signed bits hold; -1 with an exception set. */
static int64_t timestamp_of(PyObject *object) {
    if (PyBool_Check(object)) {
        PyErr_SetString(PyExc_TypeError, "timestamp_ns takes an integer, not a bool");
        return -1;
    }
    PyObject *number = PyLong_CheckExact(object) ? Py_NewRef(object) : PyNumber_Index(object);
    if (number == NULL)
        return -1;
    int64_t timestamp_ns = PyLong_AsLongLong(number);
    Py_DECREF(number);
    if (timestamp_ns >= 0)
        return timestamp_ns;
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "timestamp_ns is before 1970");
    return -1;
}

/* Whether it is a plain number and not NaN.  Others may be times too: the caller, who waits, finds
 * that out. */
static int plain_seconds(PyObject *object) {
    if (PyLong_CheckExact(object))
        return 1;
    if (!PyFloat_CheckExact(object))
        return 0;
    double seconds = PyFloat_AsDouble(object);
    return seconds == seconds;
}

static PyObject *result_of(int64_t result, int waiting) {
    if (result < 0)
        return PyLong_FromLongLong(FAST_REFUSED + result);
    return PyLong_FromLongLong(waiting ? -result : result);
}

PyDoc_STRVAR(send_doc,
             "send($self, payload, topic=None, timestamp_ns=0, timeout=None, /)\n--\n\n"
             "Put one message into the outbox and do what its linger asks for, with the GIL held.");

static PyObject *sender_send(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    const sender *self = (const sender *)object;
    if (count < 1 || count > 4)
        return PyErr_Format(PyExc_TypeError, "send takes 1 to 4 arguments, not %zd", count);
    PyObject *topic = count > 1 && args[1] != Py_None ? args[1] : self->topic;
    if (topic == Py_None)
        return result_of(-HM_ETOPIC, 0);
    if (!PyBytes_Check(topic))
        return PyErr_Format(PyExc_TypeError, "a topic must be bytes");
    uint64_t timestamp_ns = 0;
    if (count > 2) {
        int64_t given = timestamp_of(args[2]);
        if (given < 0)
            return NULL;
        timestamp_ns = (uint64_t)given;
    }
    if (count > 3 && args[3] != Py_None && !plain_seconds(args[3]))
        return PyErr_Format(PyExc_TypeError, "timeout takes seconds");
    char *name;
    Py_ssize_t name_len;
    PyBytes_AsStringAndSize(topic, &name, &name_len);
    if (name_len > HM_TOPIC_MAX)
        return result_of(-HM_EINVAL, 0);
    Py_buffer view;
    size_t size;
    const uint8_t *payload = borrow(args[0], &view, &size);
    if (payload == NULL)
        return NULL;
    int waiting = 0;
    int64_t result =
        size > UINT32_MAX
            ? -HM_ELENGTH
            : fast_core->outbox_send(self->outbox, (const uint8_t *)name, (uint32_t)name_len,
                                     payload, (uint32_t)size, timestamp_ns, &waiting);
    if (view.obj != NULL)
        PyBuffer_Release(&view);
    return result_of(result, waiting);
}

static PyMethodDef methods[] = {
    {"send", (PyCFunction)(void (*)(void))sender_send, METH_FASTCALL, send_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, sender_new},
    {Py_tp_dealloc, sender_free},
    {Py_tp_traverse, sender_traverse},
    {Py_tp_methods, methods},
    {Py_tp_doc,
     "Sender(outbox_address, owner, topic, /)\n--\n\nA publisher's way into its outbox."},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "hermes.native._fast.Sender",
    .basicsize = sizeof(sender),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int fast_add_sender(PyObject *module) {
    PyObject *type = PyType_FromSpec(&spec);
    if (type == NULL)
        return -1;
    sender_type = (PyTypeObject *)type; /* as long as the process lives */
    int status = PyModule_AddType(module, sender_type);
    PyObject *refused = PyLong_FromLongLong(FAST_REFUSED);
    if (status == 0 && refused != NULL)
        status = PyModule_AddObjectRef(module, "REFUSED", refused);
    Py_XDECREF(refused);
    return refused == NULL ? -1 : status;
}
