#include <stddef.h>

#include "fast.h"
#include "structmember.h"

#define REPR_PAYLOAD 48 /* bytes of a payload that a repr shows */

typedef struct {
    PyObject_HEAD PyObject *topic;
    PyObject *stream;
    PyObject *payload;
    unsigned long long sequence;
    unsigned long long timestamp_ns;
} message;

static PyTypeObject *message_type;

PyObject *fast_message_new(PyObject *topic, PyObject *stream, uint64_t sequence,
                           uint64_t timestamp_ns, const uint8_t *payload, uint32_t payload_len) {
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)payload, (Py_ssize_t)payload_len);
    if (bytes == NULL)
        return NULL;
    message *self = PyObject_New(message, message_type);
    if (self == NULL) {
        Py_DECREF(bytes);
        return NULL;
    }
    self->topic = Py_NewRef(topic);
    self->stream = Py_NewRef(stream);
    self->payload = bytes;
    self->sequence = sequence;
    self->timestamp_ns = timestamp_ns;
    return (PyObject *)self;
}

static void message_free(PyObject *object) {
    message *self = (message *)object;
    Py_DECREF(self->topic);
    Py_DECREF(self->stream);
    Py_DECREF(self->payload);
    PyObject_Free(self);
    Py_DECREF(message_type);
}

static PyObject *message_repr(PyObject *object) {
    const message *self = (const message *)object;
    Py_ssize_t size = PyBytes_Size(self->payload);
    PyObject *shown =
        size <= REPR_PAYLOAD
            ? Py_NewRef(self->payload)
            : PyBytes_FromStringAndSize(PyBytes_AsString(self->payload), REPR_PAYLOAD);
    if (shown == NULL)
        return NULL;
    PyObject *text = PyUnicode_FromFormat(
        "Message(topic=%R, stream=%R, sequence=%llu, timestamp_ns=%llu, payload=%R", self->topic,
        self->stream, self->sequence, self->timestamp_ns, shown);
    Py_DECREF(shown);
    if (text == NULL)
        return NULL;
    PyObject *whole = size <= REPR_PAYLOAD ? PyUnicode_FromFormat("%U)", text)
                                           : PyUnicode_FromFormat("%U... %zd bytes)", text, size);
    Py_DECREF(text);
    return whole;
}

static PyMemberDef members[] = {
    {"topic", T_OBJECT_EX, offsetof(message, topic), READONLY, "The message's topic."},
    {"stream", T_OBJECT_EX, offsetof(message, stream), READONLY, "Name of the stream it is in."},
    {"sequence", T_ULONGLONG, offsetof(message, sequence), READONLY, "Its place in the stream."},
    {"timestamp_ns", T_ULONGLONG, offsetof(message, timestamp_ns), READONLY,
     "The publisher's clock when it was published, ns since 1970: a claim."},
    {"payload", T_OBJECT_EX, offsetof(message, payload), READONLY, "The payload, bytes."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_dealloc, message_free},
    {Py_tp_repr, message_repr},
    {Py_tp_members, members},
    {Py_tp_doc, "One message, as a subscription hands it out; read-only."},
    {0, NULL},
};

/* Holds only strings, bytes and numbers: no cycle can go through it, so the collector need not
 * know. */
static PyType_Spec spec = {
    .name = "hermes.Message",
    .basicsize = sizeof(message),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int fast_add_message(PyObject *module) {
    message_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return message_type == NULL ? -1 : PyModule_AddType(module, message_type);
}
