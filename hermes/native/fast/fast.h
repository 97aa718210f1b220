/* fast.h -- what the files of hermes.native._fast share.
 *
 * The module holds what exists per message as a Python object.  Everything here runs with the GIL
 * held from beginning to end, but for waiting: giving it up costs 80 ns alone and up to 5 ms beside
 * a busy thread.
 * It is built on the limited API (one binary for all versions from 3.11 on), and reaches the core
 * only through its table of functions.
 */
#ifndef HERMES_FAST_H
#define HERMES_FAST_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "hm_api.h"

/* What `Sender.send` returns for a message that was not taken: FAST_REFUSED - HM_E*. */
#define FAST_REFUSED (-(1LL << 62))

/* The core's table; set once by `bind`, before anything else is called. */
extern const hm_api *fast_core;

/* Adds types and constants to the module: 0, or -1 with an exception set. */
int fast_add_sender(PyObject *module);
int fast_add_reader(PyObject *module);
int fast_add_source(PyObject *module);
int fast_add_lock(PyObject *module);
int fast_add_incoming(PyObject *module);

/* Where a Sender puts its messages; NULL with an exception set: it is no Sender. */
hm_outbox *fast_outbox_of(PyObject *sender);

/* A new Message; steals no reference, `payload` is copied. */
PyObject *fast_message_new(PyObject *topic, PyObject *stream, uint64_t sequence,
                           uint64_t timestamp_ns, const uint8_t *payload, uint32_t payload_len);
int fast_add_message(PyObject *module);

#endif
