/* reader.c -- Reader: from a batch to Message objects or an index. */
#include <string.h>

#include "fast.h"

#define TOPICS                                                                                     \
    16384            /* names a reader remembers; a power of two, for a few thousand live topics   \
                      */
#define STRIDE   128 /* frames checked at a time: their slices fit L1 */
#define ACKS_MAX 16  /* in front of a batch that is taken directly: more publishers are rare */

/* Turns the frames of batches into objects; remembers the topics it has seen. */
typedef struct {
    PyObject_HEAD uint32_t message_max;
    PyObject *topics[TOPICS]; /* by hash of the name; a newcomer takes the place of who was there */
} reader;

static PyObject *reader_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    unsigned int message_max;
    if (kwargs != NULL && PyDict_Size(kwargs) > 0)
        return PyErr_Format(PyExc_TypeError, "Reader takes no keyword arguments");
    if (!PyArg_ParseTuple(args, "I:Reader", &message_max))
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    reader *self = (reader *)allocate(type, 0);
    if (self != NULL)
        self->message_max = message_max;
    return (PyObject *)self;
}

static void reader_free(PyObject *object) {
    reader *self = (reader *)object;
    PyTypeObject *type = Py_TYPE(object);
    for (size_t i = 0; i < TOPICS; i++)
        Py_XDECREF(self->topics[i]);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

/* FNV-1a by words: names differ in few bytes, and only the place in a cache hangs on it. */
static size_t hash(const uint8_t *name, size_t size) {
    uint64_t sum = 0xcbf29ce484222325u ^ size;
    /* The frame pads the topic with zeros to a multiple of 8. */
    for (size_t i = 0; i < size; i += 8) {
        uint64_t word;
        memcpy(&word, name + i, sizeof word);
        sum = (sum ^ word) * 0x9e3779b97f4a7c15u;
        sum ^= sum >> 29;
    }
    return (size_t)(sum >> 32) & (TOPICS - 1);
}

/* The name as a str: a borrowed reference. */
static PyObject *topic_of(reader *self, const uint8_t *name, size_t size) {
    PyObject **place = &self->topics[hash(name, size)];
    if (*place != NULL) {
        Py_ssize_t known_size;
        const char *known = PyUnicode_AsUTF8AndSize(*place, &known_size);
        if (known != NULL && (size_t)known_size == size && memcmp(known, name, size) == 0)
            return *place;
        PyErr_Clear();
    }
    PyObject *fresh = PyUnicode_DecodeUTF8((const char *)name, (Py_ssize_t)size, "strict");
    if (fresh == NULL)
        return NULL;
    PyObject *old = *place;
    *place = fresh;
    Py_XDECREF(old);
    return fresh;
}

typedef struct {
    Py_buffer view;
    const uint8_t *data;
    uint64_t size;
} region;

/* The bytes [start, stop) of a buffer; release with PyBuffer_Release(&region.view). */
static int region_of(PyObject *buffer, PyObject *start, PyObject *stop, region *self) {
    Py_ssize_t from = PyLong_AsSsize_t(start), to = PyLong_AsSsize_t(stop);
    if ((from == -1 || to == -1) && PyErr_Occurred())
        return -1;
    if (PyObject_GetBuffer(buffer, &self->view, PyBUF_SIMPLE) < 0)
        return -1;
    if (from < 0 || to < from || to > self->view.len || (uint64_t)(to - from) > UINT32_MAX) {
        PyBuffer_Release(&self->view);
        PyErr_Format(PyExc_ValueError, "[%zd, %zd) is not in a buffer of %zd bytes", from, to,
                     self->view.len);
        return -1;
    }
    self->data = (const uint8_t *)self->view.buf + from;
    self->size = (uint64_t)(to - from);
    return 0;
}

/* Who checks frames in a row: sequences rise within (after, through]. */
typedef struct {
    uint64_t after;
    uint64_t through;
} coverage_range;

/* Checks up to `capacity` frames.  Returns their count, or -HM_E*. */
static int64_t check(const reader *self, const region *bytes, uint64_t *at, coverage_range *covered,
                     hm_slice *slices, uint64_t capacity) {
    uint64_t consumed;
    int32_t error;
    int64_t count = fast_core->frame_index(bytes->data + *at, bytes->size - *at, self->message_max,
                                           slices, capacity, &consumed, &error);
    if (error != 0)
        return error;
    for (int64_t i = 0; i < count; i++) {
        if (slices[i].sequence <= covered->after || slices[i].sequence > covered->through)
            return -HM_ESEQUENCE;
        if (slices[i].type != HM_MESSAGE)
            return -HM_ETYPE;
        covered->after = slices[i].sequence;
    }
    *at += consumed;
    return count;
}

static int append_messages(reader *self, const uint8_t *base, const hm_slice *slices, int64_t count,
                           PyObject *stream, PyObject *list) {
    for (int64_t i = 0; i < count; i++) {
        const hm_slice *slice = &slices[i];
        PyObject *topic = topic_of(self, base + slice->offset + HM_FRAME_HEADER, slice->topic_len);
        if (topic == NULL)
            return -1;
        PyObject *made = fast_message_new(topic, stream, slice->sequence, slice->timestamp_ns,
                                          base + slice->payload_offset, slice->payload_len);
        if (made == NULL)
            return -1;
        int status = PyList_Append(list, made);
        Py_DECREF(made);
        if (status < 0)
            return -1;
    }
    return 0;
}

/* Every frame of `bytes` as a Message.  NULL: `*error` is -HM_E*, or 0 with an exception set. */
static PyObject *list_messages(reader *self, const region *bytes, coverage_range *covered,
                               PyObject *stream, int64_t *error) {
    PyObject *list = PyList_New(0);
    hm_slice slices[STRIDE];
    *error = 0;
    for (uint64_t at = 0; list != NULL && at < bytes->size;) {
        const uint8_t *base = bytes->data + at;
        int64_t found = check(self, bytes, &at, covered, slices, STRIDE);
        if (found < 0) {
            *error = found;
            Py_CLEAR(list);
        } else if (append_messages(self, base, slices, found, stream, list) < 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

static int coverage_of(PyObject *after, PyObject *through, coverage_range *self) {
    self->after = PyLong_AsUnsignedLongLong(after);
    self->through = PyLong_AsUnsignedLongLong(through);
    return PyErr_Occurred() ? -1 : 0;
}

PyDoc_STRVAR(messages_doc,
             "messages($self, buffer, start, stop, stream, after, through, /)\n--\n\n"
             "The frames in buffer[start:stop] as a list of Message; or -HM_E* if one is unsound.");

static PyObject *reader_messages(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    reader *self = (reader *)object;
    region bytes;
    coverage_range covered;
    if (count != 6)
        return PyErr_Format(PyExc_TypeError, "messages takes 6 arguments, not %zd", count);
    if (coverage_of(args[4], args[5], &covered) < 0 ||
        region_of(args[0], args[1], args[2], &bytes) < 0)
        return NULL;
    int64_t error = 0;
    PyObject *list = list_messages(self, &bytes, &covered, args[3], &error);
    PyBuffer_Release(&bytes.view);
    return error < 0 ? PyLong_FromLongLong(error) : list;
}

PyDoc_STRVAR(index_doc,
             "index($self, buffer, start, stop, after, through, /)\n--\n\n"
             "The frames in buffer[start:stop] as an array of hm_slice, 32 bytes each, offsets "
             "relative to start; or -HM_E* if one is unsound.");

static PyObject *reader_index(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    const reader *self = (const reader *)object;
    region bytes;
    coverage_range covered;
    if (count != 5)
        return PyErr_Format(PyExc_TypeError, "index takes 5 arguments, not %zd", count);
    if (coverage_of(args[3], args[4], &covered) < 0 ||
        region_of(args[0], args[1], args[2], &bytes) < 0)
        return NULL;
    /* As many as there can be, cut to what there is: a frame has 32 bytes at least. */
    uint64_t capacity = bytes.size / HM_FRAME_HEADER;
    hm_slice *slices = PyMem_Malloc(capacity > 0 ? capacity * sizeof *slices : 1);
    if (slices == NULL) {
        PyBuffer_Release(&bytes.view);
        return PyErr_NoMemory();
    }
    uint64_t at = 0;
    int64_t found = capacity > 0 ? check(self, &bytes, &at, &covered, slices, capacity) : 0;
    if (found >= 0 && at < bytes.size)
        found = -HM_ETRUNC;
    PyBuffer_Release(&bytes.view);
    PyObject *result =
        found < 0 ? PyLong_FromLongLong(found)
                  : PyBytes_FromStringAndSize((const char *)slices,
                                              (Py_ssize_t)((size_t)found * sizeof *slices));
    PyMem_Free(slices);
    return result;
}

PyDoc_STRVAR(envelope_doc, "envelope(buffer, start, end, control_max, batch_max, /)\n--\n\n"
                           "What stands at buffer[start], as the fields of hm_envelope.");

static PyObject *envelope(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    region bytes;
    if (count != 5)
        return PyErr_Format(PyExc_TypeError, "envelope takes 5 arguments, not %zd", count);
    unsigned long control_max = PyLong_AsUnsignedLong(args[3]);
    unsigned long batch_max = PyLong_AsUnsignedLong(args[4]);
    if (PyErr_Occurred() || region_of(args[0], args[1], args[2], &bytes) < 0)
        return NULL;
    if (control_max > UINT32_MAX || batch_max > UINT32_MAX) {
        PyBuffer_Release(&bytes.view);
        return PyErr_Format(PyExc_ValueError, "limits are less than 4 GiB");
    }
    hm_envelope found;
    fast_core->envelope_next(bytes.data, 0, bytes.size, (uint32_t)control_max, (uint32_t)batch_max,
                             &found);
    PyBuffer_Release(&bytes.view);
    return Py_BuildValue("KKKKIIIi", (unsigned long long)found.size,
                         (unsigned long long)found.after, (unsigned long long)found.through,
                         (unsigned long long)found.needed, found.id, found.stream,
                         found.payload_len, found.kind);
}

/* Whether the batch begins where the last one of its subscription and stream ended; the number of
 * both. */
static PyObject *continues(const hm_batch *batch, PyObject *coverage) {
    PyObject *key =
        PyLong_FromUnsignedLongLong((unsigned long long)batch->id << 32 | batch->stream);
    if (key == NULL)
        return NULL;
    PyObject *ended = PyDict_GetItemWithError(coverage, key);
    if (ended != NULL && PyLong_AsUnsignedLongLong(ended) == batch->after)
        return key;
    Py_DECREF(key);
    return NULL;
}

/* The frames of a whole batch as a list, and the coverage moved on; NULL without an exception if
 * one is unsound. */
static PyObject *take_batch(reader *self, const hm_batch *batch, const uint8_t *frames,
                            PyObject *key, PyObject *coverage, PyObject *stream) {
    region bytes = {.data = frames, .size = batch->frames_size};
    coverage_range covered = {batch->after, batch->through};
    int64_t error;
    PyObject *list = list_messages(self, &bytes, &covered, stream, &error);
    PyObject *through = list != NULL ? PyLong_FromUnsignedLongLong(batch->through) : NULL;
    if (list == NULL || through == NULL || PyDict_SetItem(coverage, key, through) < 0)
        Py_CLEAR(list);
    Py_XDECREF(through);
    return list;
}

/* Acknowledgements in front of a batch: there is one of each publisher that was heard. */
typedef struct {
    uint32_t count;
    struct {
        hm_outbox *outbox;
        uint64_t sequence;
    } items[ACKS_MAX];
} acks;

/* What the acknowledgement at `frame` says to one of `senders`: 1; 0: it is something else.  -1 with
 * an exception set. */
static int read_ack(const uint8_t *frame, uint32_t payload_len, PyObject *senders,
                    hm_outbox **outbox, uint64_t *sequence) {
    uint32_t publisher;
    if (!fast_core->ack_parse(frame + HM_FRAME_HEADER, payload_len, &publisher, sequence))
        return 0;
    PyObject *key = PyLong_FromUnsignedLong(publisher);
    PyObject *sender = key != NULL ? PyDict_GetItemWithError(senders, key) : NULL;
    Py_XDECREF(key);
    *outbox = sender != NULL ? fast_outbox_of(sender) : NULL;
    return *outbox != NULL ? 1 : PyErr_Occurred() ? -1 : 0;
}

/* As read_ack, kept in `noted`; 0 also if there is no room. */
static int note_ack(acks *noted, const uint8_t *frame, uint32_t payload_len, PyObject *senders) {
    hm_outbox *outbox;
    uint64_t sequence;
    if (noted->count == ACKS_MAX)
        return 0;
    int status = read_ack(frame, payload_len, senders, &outbox, &sequence);
    if (status <= 0)
        return status;
    noted->items[noted->count].outbox = outbox;
    noted->items[noted->count++].sequence = sequence;
    return 1;
}

/* 0: one acknowledges what was never sent. */
static int settle(const acks *noted) {
    for (uint32_t i = 0; i < noted->count; i++)
        if (fast_core->outbox_ack(noted->items[i].outbox, noted->items[i].sequence) != 0)
            return 0;
    return 1;
}

/* The whole batch that stands behind nothing but acknowledgements, and where: its size, or 0. */
static uint64_t find_batch(const reader *self, const region *bytes, PyObject *senders, uint64_t *at,
                           acks *noted) {
    for (*at = 0;;) {
        hm_slice slice;
        uint64_t needed;
        const uint8_t *frame = bytes->data + *at;
        int64_t size =
            fast_core->frame_check(frame, bytes->size - *at, self->message_max, &slice, &needed);
        if (size <= 0 || (uint64_t)size > bytes->size - *at)
            return 0;
        if (slice.type == HM_BATCH)
            return (uint64_t)size;
        if (slice.type != HM_ACK || note_ack(noted, frame, slice.payload_len, senders) <= 0)
            return 0;
        *at += (uint64_t)size;
    }
}

/* Hands the messages of a batch to the subscription that waits for them, with what they were made
 * of, and moves the inbox on: no step of Python's, hence no interrupt, comes between. */
static int hand_over(PyObject *const *to, PyObject *buffer, PyObject *result) {
    PyObject *feed = to[0], *inbox = to[1], *make = to[2];
    PyObject *rest = PyTuple_GetSlice(result, 1, PyTuple_Size(result));
    PyObject *stop = PyTuple_GetItem(result, 2);
    PyObject *segment = NULL, *ready = PyObject_GetAttrString(feed, "ready"), *done = NULL;
    if (rest != NULL && ready != NULL)
        segment = PyObject_CallFunctionObjArgs(
            make, buffer, PyTuple_GetItem(rest, 0), PyTuple_GetItem(rest, 1),
            PyTuple_GetItem(rest, 2), PyTuple_GetItem(rest, 3), PyTuple_GetItem(rest, 4), NULL);
    if (segment != NULL)
        done = PyObject_CallMethod(ready, "extend", "O", PyTuple_GetItem(result, 0));
    int status = done == NULL || PyObject_SetAttrString(feed, "segment", segment) < 0 ||
                         PyObject_SetAttrString(inbox, "start", stop) < 0
                     ? -1
                     : 0;
    Py_XDECREF(rest);
    Py_XDECREF(segment);
    Py_XDECREF(ready);
    Py_XDECREF(done);
    return status;
}

PyDoc_STRVAR(
    acknowledge_doc,
    "acknowledge(buffer, start, end, senders, /)\n--\n\n"
    "Settle the acknowledgements to ``senders`` that stand at buffer[start], of those to one "
    "in a row the last alone; returns where something else begins.");

/* One that acknowledges what was never sent is left where it stands. */
static PyObject *acknowledge(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    region bytes;
    if (count != 4 || !PyDict_Check(args[3]))
        return PyErr_Format(PyExc_TypeError, "acknowledge takes 4 arguments, the last a dict");
    if (region_of(args[0], args[1], args[2], &bytes) < 0)
        return NULL;
    hm_outbox *last = NULL;
    uint64_t at = 0, place = 0, through = 0;
    int status = 1;
    while (status > 0) {
        hm_slice slice;
        uint64_t needed, sequence = 0;
        hm_outbox *outbox = NULL;
        const uint8_t *frame = bytes.data + at;
        int64_t size = fast_core->frame_check(frame, bytes.size - at, HM_ACK_MAX, &slice, &needed);
        status = size > 0 && (uint64_t)size <= bytes.size - at && slice.type == HM_ACK
                     ? read_ack(frame, slice.payload_len, args[3], &outbox, &sequence)
                     : 0;
        if (last != NULL && (status <= 0 || outbox != last)) {
            if (fast_core->outbox_ack(last, through) != 0) {
                at = place;
                break;
            }
            last = NULL;
        }
        if (status > 0) {
            last = outbox;
            place = at;
            through = sequence;
            at += (uint64_t)size;
        }
    }
    PyBuffer_Release(&bytes.view);
    return status < 0 ? NULL : PyLong_FromSsize_t(PyLong_AsSsize_t(args[1]) + (Py_ssize_t)at);
}

static PyMethodDef functions[] = {
    {"envelope", (PyCFunction)(void (*)(void))envelope, METH_FASTCALL, envelope_doc},
    {"acknowledge", (PyCFunction)(void (*)(void))acknowledge, METH_FASTCALL, acknowledge_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(direct_doc,
             "direct($self, buffer, start, end, id, coverage, names, senders, feed=..., inbox=..., "
             "segment=..., /)\n--\n\n"
             "If a whole, sound batch of subscription ``id`` stands at buffer[start], behind "
             "acknowledgements to ``senders`` at most, and goes on where ``coverage`` says: "
             "``(messages, start of its frames, stop, stream name, after, through)``, and all that "
             "is done with.  Else None.  With the last three, the messages are in ``feed.ready``, "
             "their segment is ``feed.segment``, and ``inbox.start`` is moved on.");

static PyObject *reader_direct(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    reader *self = (reader *)object;
    region bytes;
    if ((count != 7 && count != 10) || !PyDict_Check(args[4]) || !PyDict_Check(args[5]) ||
        !PyDict_Check(args[6]))
        return PyErr_Format(PyExc_TypeError,
                            "direct takes 7 or 10 arguments, the fifth to seventh dicts");
    unsigned long long id = PyLong_AsUnsignedLongLong(args[3]);
    if (PyErr_Occurred() || region_of(args[0], args[1], args[2], &bytes) < 0)
        return NULL;
    hm_batch batch;
    acks noted = {.count = 0};
    uint64_t at;
    PyObject *result = NULL, *key = NULL, *list = NULL, *name = NULL, *number = NULL;
    uint64_t size = find_batch(self, &bytes, args[6], &at, &noted);
    if (size == 0)
        goto done;
    fast_core->batch_parse(bytes.data + at, &batch);
    if (batch.id != id || (key = continues(&batch, args[4])) == NULL)
        goto done;
    number = PyLong_FromUnsignedLong(batch.stream);
    if (number == NULL || (name = PyDict_GetItemWithError(args[5], number)) == NULL)
        goto done;
    if (!settle(&noted))
        goto done;
    list = take_batch(self, &batch, bytes.data + at + HM_BATCH_HEADER, key, args[4], name);
    if (list != NULL) {
        Py_ssize_t begin = PyLong_AsSsize_t(args[1]) + (Py_ssize_t)at;
        result =
            Py_BuildValue("OnnOKK", list, begin + HM_BATCH_HEADER, begin + (Py_ssize_t)size, name,
                          (unsigned long long)batch.after, (unsigned long long)batch.through);
        if (result != NULL && count == 10 && hand_over(args + 7, args[0], result) < 0)
            Py_CLEAR(result);
    }
done:
    PyBuffer_Release(&bytes.view);
    Py_XDECREF(key);
    Py_XDECREF(number);
    Py_XDECREF(list);
    if (result == NULL && !PyErr_Occurred())
        Py_RETURN_NONE;
    return result;
}

static PyMethodDef methods[] = {
    {"messages", (PyCFunction)(void (*)(void))reader_messages, METH_FASTCALL, messages_doc},
    {"direct", (PyCFunction)(void (*)(void))reader_direct, METH_FASTCALL, direct_doc},
    {"index", (PyCFunction)(void (*)(void))reader_index, METH_FASTCALL, index_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, reader_new},
    {Py_tp_dealloc, reader_free},
    {Py_tp_methods, methods},
    {Py_tp_doc, "Reader(message_max, /)\n--\n\nTurns the frames of batches into objects."},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "hermes.native._fast.Reader",
    .basicsize = sizeof(reader),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int fast_add_reader(PyObject *module) {
    PyObject *type = PyType_FromSpec(&spec);
    if (type == NULL)
        return -1;
    int status = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return status < 0 ? -1 : PyModule_AddFunctions(module, functions);
}
