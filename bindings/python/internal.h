/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The C half of the Python module: what its files share. It wraps tidegate.h and nothing else; everything that can be
 * written in Python without a cost per message is in tidegate/__init__.py.
 *
 * Stable ABI only (CPython 3.11 and later, one binary for all). One node per process is what tg_node_open() allows, so types
 * and exceptions are process-wide.
 *
 * Threads: every function here runs with the GIL held unless it says otherwise. The GIL is given up around each call of
 * the library that may wait.
 */
#ifndef TG_PYTHON_INTERNAL_H
#define TG_PYTHON_INTERNAL_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tidegate/tidegate.h"

#define NSEC_PER_SEC INT64_C(1000000000)

/*
 * Every wait in the library is cut into slices of this length, between which Python's signal flag and close() are looked
 * at. -EINTR alone is not enough: a signal that comes just before the wait begins, or that the kernel hands to another thread,
 * interrupts nothing.
 */
#define WAIT_SLICE_NS (NSEC_PER_SEC / 5)

typedef struct PyTypeSpecs {
        PyTypeObject *node, *event, *payload, *sample;
} PyTypeSpecs;

typedef struct PyErrors {
        PyObject *error;         /* OSError */
        PyObject *timeout;       /* Error, TimeoutError */
        PyObject *stopping;      /* Error */
        PyObject *dropped;       /* Error */
        PyObject *closed;        /* Error */
        PyObject *no_output;     /* Error */
        PyObject *too_large;     /* Error */
        PyObject *not_connected; /* Error */
} PyErrors;

extern PyTypeSpecs types;
extern PyErrors errors;

/*
 * Node: the connection. n_uses counts the calls that run without the GIL and the unsent samples; the library's node is
 * closed when close() was asked for and the last use has ended.
 */
typedef struct NodeObject {
        PyObject_HEAD
        tg_node *node;           /* NULL before __init__ and after the close */
        int64_t send_timeout_ns; /* TG_FOREVER, or a span */
        Py_ssize_t n_uses;
        bool closing;
        bool ended; /* the event stream */
} NodeObject;

/* module.c */

/* error_set() - raise what the return value @r of a call of the library means; @what begins the text. Return: NULL. */
PyObject *error_set(int r, const char *what, ...) __attribute__((format(printf, 2, 3)));

/* error_raise() - raise @type(errno, text); the text is a printf format. Return: NULL. */
PyObject *error_raise(PyObject *type, int err, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* text_new() - a str from bytes that a peer may have chosen; what is not UTF-8 shows as \xNN. Return: NULL with an exception. */
PyObject *text_new(const char *s, size_t n);

/* timeout_parse() - None, or seconds as any real number, to nanoseconds. Return: 0, or -1 with an exception. */
int timeout_parse(PyObject *seconds, int64_t *ret_ns);

/* params.c */

/* params_from_python() - metadata for sending. @ret: NULL when there is none. Return: 0, or -1 with an exception that names the key. */
int params_from_python(PyObject *metadata, tg_params **ret);

/* params_to_python() - a new dict of the received parameters. Return: NULL with an exception. */
PyObject *params_to_python(const tg_params *params);

/* event.c */
extern PyType_Spec event_spec, payload_spec;

/* event_new() - wrap an event. @consume_ev: owned by the new object, or freed on failure. Return: NULL with an exception. */
PyObject *event_new(tg_event *consume_ev);

/* event_setup() - find what events need of Python, once. Return: 0, or -1 with an exception. */
int event_setup(void);

/* node.c */
extern PyType_Spec node_spec;

/* node_use() - the library's node for one call without the GIL, or NULL with an exception. Ended by node_unuse(). */
tg_node *node_use(NodeObject *self);
void node_unuse(NodeObject *self);

/* node_send_slice() - how long the next try of a send may wait. @deadline_ns: CLOCK_MONOTONIC, INT64_MAX for never. */
int64_t node_send_deadline(const NodeObject *self);

/* node_wait_goes_on() - after a slice without success: look at signals, close() and the deadline. Return: 1 to try again, 0 when
 * the time is up, -1 with an exception. */
int node_wait_goes_on(NodeObject *self, int64_t deadline_ns);

int64_t monotonic_ns(void);

/* sample.c */
extern PyType_Spec sample_spec;

PyObject *sample_new(NodeObject *node, const char *output, Py_ssize_t size);

#endif
