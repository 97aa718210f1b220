/* message.c -- Message: one received message as a Python object. */
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

/* Steals `payload`. */
static PyObject *make(PyObject *topic, PyObject *stream, uint64_t sequence, uint64_t timestamp_ns,
                      PyObject *payload) {
    message *self = PyObject_New(message, message_type);
    if (self == NULL) {
        Py_DECREF(payload);
        return NULL;
    }
    self->topic = Py_NewRef(topic);
    self->stream = Py_NewRef(stream);
    self->payload = payload;
    self->sequence = sequence;
    self->timestamp_ns = timestamp_ns;
    return (PyObject *)self;
}

PyObject *fast_message_new(PyObject *topic, PyObject *stream, uint64_t sequence,
                           uint64_t timestamp_ns, const uint8_t *payload, uint32_t payload_len) {
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)payload, (Py_ssize_t)payload_len);
    return bytes == NULL ? NULL : make(topic, stream, sequence, timestamp_ns, bytes);
}

/* What hermes.base.checks makes of `value` for the argument `name`; a new reference. */
static PyObject *checked(const char *check, PyObject *value, const char *name) {
    PyObject *checks = PyImport_ImportModule("hermes.base.checks");
    if (checks == NULL)
        return NULL;
    PyObject *found = PyObject_CallMethod(checks, check, "Os", value, name);
    Py_DECREF(checks);
    return found;
}

/* A legal topic; a new reference. */
static PyObject *topic_of(PyObject *value) {
    PyObject *name = checked("text", value, "topic");
    PyObject *patterns = name == NULL ? NULL : PyImport_ImportModule("hermes.native.patterns");
    PyObject *done =
        patterns == NULL ? NULL : PyObject_CallMethod(patterns, "check_topic", "O", name);
    Py_XDECREF(patterns);
    if (done == NULL) {
        Py_XDECREF(name);
        return NULL;
    }
    Py_DECREF(done);
    return name;
}

/* A number of 64 bits, by default 0; -1: there is an exception. */
static int number_of(PyObject *value, const char *name, uint64_t *number) {
    *number = 0;
    if (value == NULL)
        return 0;
    PyObject *found = checked("unsigned", value, name);
    if (found == NULL)
        return -1;
    *number = PyLong_AsUnsignedLongLong(found);
    Py_DECREF(found);
    return 0;
}

/* For tests of programs, and for what unpickles: a subscription makes its messages otherwise. */
static PyObject *message_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"topic", "payload", "stream", "sequence", "timestamp_ns", NULL};
    PyObject *topic, *payload = NULL, *stream = NULL, *sequence = NULL, *timestamp_ns = NULL;
    (void)type;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|OOOO:Message", names, &topic, &payload,
                                     &stream, &sequence, &timestamp_ns))
        return NULL;
    uint64_t number, time;
    if (number_of(sequence, "sequence", &number) < 0 ||
        number_of(timestamp_ns, "timestamp_ns", &time) < 0)
        return NULL;
    PyObject *name = topic_of(topic);
    PyObject *place = name == NULL     ? NULL
                      : stream == NULL ? PyUnicode_FromString("default")
                                       : checked("text", stream, "stream");
    PyObject *bytes = place == NULL     ? NULL
                      : payload == NULL ? PyBytes_FromStringAndSize("", 0)
                                        : checked("copied", payload, "payload");
    PyObject *found = bytes == NULL ? NULL : make(name, place, number, time, bytes);
    Py_XDECREF(name);
    Py_XDECREF(place);
    return found;
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

/* All that a message is, in the order of its arguments. */
static PyObject *fields_of(const message *self) {
    return Py_BuildValue("(OOOKK)", self->topic, self->payload, self->stream, self->sequence,
                         self->timestamp_ns);
}

static PyObject *message_compare(PyObject *object, PyObject *other, int operation) {
    if (Py_TYPE(other) != message_type || (operation != Py_EQ && operation != Py_NE))
        Py_RETURN_NOTIMPLEMENTED;
    PyObject *mine = fields_of((const message *)object);
    PyObject *theirs = mine == NULL ? NULL : fields_of((const message *)other);
    PyObject *answer = theirs == NULL ? NULL : PyObject_RichCompare(mine, theirs, operation);
    Py_XDECREF(mine);
    Py_XDECREF(theirs);
    return answer;
}

static Py_hash_t message_hash(PyObject *object) {
    PyObject *fields = fields_of((const message *)object);
    Py_hash_t found = fields == NULL ? -1 : PyObject_Hash(fields);
    Py_XDECREF(fields);
    return found;
}

static PyObject *message_reduce(PyObject *object, PyObject *ignored) {
    (void)ignored;
    PyObject *fields = fields_of((const message *)object);
    return fields == NULL ? NULL : Py_BuildValue("(ON)", Py_TYPE(object), fields);
}

/* Nothing in it changes: a copy is the message itself. */
static PyObject *message_copy(PyObject *object, PyObject *ignored) {
    (void)ignored;
    return Py_NewRef(object);
}

static PyMethodDef methods[] = {
    {"__reduce__", message_reduce, METH_NOARGS, NULL},
    {"__copy__", message_copy, METH_NOARGS, NULL},
    {"__deepcopy__", message_copy, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

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
    {Py_tp_new, message_new},
    {Py_tp_dealloc, message_free},
    {Py_tp_repr, message_repr},
    {Py_tp_richcompare, message_compare},
    {Py_tp_hash, message_hash},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_doc,
     "Message(topic, payload=b\"\", stream=\"default\", sequence=0, timestamp_ns=0)\n--\n\n"
     "One message: read-only, a value.  A subscription returns them; a test may make its own."},
    {0, NULL},
};

/* Holds only strings, bytes and numbers: no cycle can go through it, so the collector need not
 * know. */
static PyType_Spec spec = {
    .name = "hermes.Message",
    .basicsize = sizeof(message),
    .flags = Py_TPFLAGS_DEFAULT, /* not IMMUTABLETYPE: __match_args__ is set below */
    .slots = slots,
};

int fast_add_message(PyObject *module) {
    PyObject *type = PyType_FromSpec(&spec);
    PyObject *order = type == NULL ? NULL
                                   : Py_BuildValue("(sssss)", "topic", "payload", "stream",
                                                   "sequence", "timestamp_ns");
    int status = order == NULL ? -1 : PyObject_SetAttrString(type, "__match_args__", order);
    Py_XDECREF(order);
    message_type = (PyTypeObject *)type; /* as long as the process lives */
    return status < 0 ? -1 : PyModule_AddType(module, message_type);
}
