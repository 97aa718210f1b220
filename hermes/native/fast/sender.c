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
    if (PyObject_GetBuffer(object, view, PyBUF_SIMPLE) < 0)
        return NULL;
    *size = (size_t)view->len;
    return view->buf != NULL ? view->buf : (const uint8_t *)"";
}

static PyObject *result_of(int64_t result, int waiting) {
    if (result < 0)
        return PyLong_FromLongLong(FAST_REFUSED + result);
    return PyLong_FromLongLong(waiting ? -result : result);
}

PyDoc_STRVAR(send_doc,
             "send($self, payload, topic=None, timestamp_ns=0, /)\n--\n\n"
             "Put one message into the outbox and do what its linger asks for, with the GIL held.");

static PyObject *sender_send(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    const sender *self = (const sender *)object;
    if (count < 1 || count > 3)
        return PyErr_Format(PyExc_TypeError, "send takes 1 to 3 arguments, not %zd", count);
    PyObject *topic = count > 1 && args[1] != Py_None ? args[1] : self->topic;
    if (topic == Py_None)
        return result_of(-HM_ETOPIC, 0);
    if (!PyBytes_Check(topic))
        return PyErr_Format(PyExc_TypeError, "a topic must be bytes");
    uint64_t timestamp_ns = 0;
    if (count > 2) {
        timestamp_ns = PyLong_AsUnsignedLongLong(args[2]);
        if (timestamp_ns == (uint64_t)-1 && PyErr_Occurred())
            return NULL;
    }
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
