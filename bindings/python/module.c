/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Module _tidegate: set-up, exceptions, and what the types' files share. See internal.h.
 */
#include "internal.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

PyTypeSpecs types;
PyErrors errors;

static PyObject *error_raise_text(PyObject *type, int err, const char *text)
{
        PyObject *args, *str;

        str = text_new(text, strlen(text));
        if (!str)
                return NULL;
        args = Py_BuildValue("(iN)", err, str);
        if (!args)
                return NULL;
        PyErr_SetObject(type, args);
        Py_DECREF(args);
        return NULL;
}

PyObject *error_raise(PyObject *type, int err, const char *format, ...)
{
        char text[1024];
        va_list ap;

        va_start(ap, format);
        (void)vsnprintf(text, sizeof(text), format, ap); /* a text cut at 1 KiB still says what happened */
        va_end(ap);
        return error_raise_text(type, err, text);
}

/* Which exception and errno an outcome becomes; a negative errno keeps its number. */
static PyObject *error_class(int r, int *ret_errno)
{
        static const int outcome_errno[] = {
                [TG_E_TIMEOUT] = ETIMEDOUT,  [TG_E_END] = EPIPE,       [TG_E_NO_OUTPUT] = ENOENT, [TG_E_CLOSED] = EPIPE,
                [TG_E_STOPPING] = ECANCELED, [TG_E_NO_PARAM] = ENOENT, [TG_E_DROPPED] = ENOBUFS,
        };

        if (r > 0)
                *ret_errno = r < (int)(sizeof(outcome_errno) / sizeof(*outcome_errno)) ? outcome_errno[r] : EPROTO;
        else
                *ret_errno = -r;
        switch (r) {
        case TG_E_TIMEOUT:
                return errors.timeout;
        case TG_E_NO_OUTPUT:
                return errors.no_output;
        case TG_E_CLOSED:
                return errors.closed;
        case TG_E_STOPPING:
                return errors.stopping;
        case TG_E_DROPPED:
                return errors.dropped;
        case -EMSGSIZE:
                return errors.too_large;
        case -ENOTCONN:
                return errors.not_connected;
        default:
                return errors.error;
        }
}

PyObject *error_set(int r, const char *what, ...)
{
        char text[1024];
        PyObject *type;
        const char *why;
        va_list ap;
        int n, err;

        va_start(ap, what);
        n = vsnprintf(text, sizeof(text), what, ap);
        va_end(ap);
        if (n < 0)
                n = 0;
        if (n >= (int)sizeof(text))
                n = (int)sizeof(text) - 1;
        why = r == -EOWNERDEAD ? "the node belongs to the parent process; a forked child may not use it" : tg_strerror(r);
        (void)snprintf(text + n, sizeof(text) - (size_t)n, "%s%s", n > 0 ? ": " : "", why);
        if (r == -ENOMEM)
                return PyErr_NoMemory();
        type = error_class(r, &err);
        return error_raise_text(type, err, text);
}

PyObject *text_new(const char *s, size_t n)
{
        return PyUnicode_DecodeUTF8(s, (Py_ssize_t)n, "backslashreplace");
}

int timeout_parse(PyObject *seconds, int64_t *ret_ns)
{
        double s;

        if (!seconds || seconds == Py_None) {
                *ret_ns = TG_FOREVER;
                return 0;
        }
        s = PyFloat_AsDouble(seconds);
        if (s == -1.0 && PyErr_Occurred())
                return -1;
        if (isnan(s) || s < 0) {
                PyErr_SetString(PyExc_ValueError, "timeout must be None or a number of seconds that is not negative");
                return -1;
        }
        s = ceil(s * (double)NSEC_PER_SEC);
        /* 292 years and more are for ever; 2^63 itself does not fit */
        *ret_ns = s >= 9223372036854775808.0 ? TG_FOREVER : (int64_t)s;
        return 0;
}

int64_t monotonic_ns(void)
{
        struct timespec ts;

        (void)clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail: the clock id is fixed */
        return (int64_t)ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

/* One exception class, also a module attribute. @bases: borrowed. */
static PyObject *exception_add(PyObject *module, const char *name, const char *doc, PyObject *bases)
{
        char qualified[64];
        PyObject *type;

        (void)snprintf(qualified, sizeof(qualified), "tidegate.%s", name);
        type = PyErr_NewExceptionWithDoc(qualified, doc, bases, NULL);
        if (type && PyModule_AddObjectRef(module, name, type) < 0)
                Py_CLEAR(type);
        return type;
}

static int exceptions_add(PyObject *module)
{
        const struct {
                PyObject **ret;
                const char *name, *doc;
        } plain[] = {
                {&errors.stopping, "Stopping", "The node was told to stop while a send waited for room; nobody got the message."},
                {&errors.dropped, "Dropped",
                        "The output's shared memory had no free room: the message was dropped for every consumer, and counted."},
                {&errors.closed, "Closed", "The node, or this output of it, was closed."},
                {&errors.no_output, "NoSuchOutput", "The descriptor declares no output of that name."},
                {&errors.too_large, "TooLarge", "The message can never fit the output's shared memory (shared_memory_pool_size, expected_message_size)."},
                {&errors.not_connected, "NotConnected", "This process was not started by Tidegate."},
        };
        PyObject *bases;

        errors.error = exception_add(module, "Error", "Base of everything that goes wrong in a node.", PyExc_OSError);
        if (!errors.error)
                return -1;
        for (size_t i = 0; i < sizeof(plain) / sizeof(*plain); i++) {
                *plain[i].ret = exception_add(module, plain[i].name, plain[i].doc, errors.error);
                if (!*plain[i].ret)
                        return -1;
        }
        bases = PyTuple_Pack(2, errors.error, PyExc_TimeoutError);
        if (!bases)
                return -1;
        errors.timeout = exception_add(module, "Timeout", "The time was up; nothing was received or sent.", bases);
        Py_DECREF(bases);
        return errors.timeout ? 0 : -1;
}

static int types_add(PyObject *module)
{
        const struct {
                PyTypeObject **ret;
                PyType_Spec *spec;
        } all[] = {
                {&types.node, &node_spec},
                {&types.event, &event_spec},
                {&types.payload, &payload_spec},
                {&types.sample, &sample_spec},
        };

        for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
                *all[i].ret = (PyTypeObject *)PyType_FromSpec(all[i].spec);
                if (!*all[i].ret || PyModule_AddType(module, *all[i].ret) < 0)
                        return -1;
        }
        return 0;
}

static PyObject *module_version(PyObject *module, PyObject *unused)
{
        const char *v = tg_version();

        return text_new(v, strlen(v));
}

static PyMethodDef module_methods[] = {
        {"version", module_version, METH_NOARGS, "version() -> str\n\nThe version of libtidegate in use."},
        {0},
};

static PyModuleDef module_def = {
        PyModuleDef_HEAD_INIT,
        .m_name = "tidegate._tidegate",
        .m_doc = "The C half of the module tidegate; import that one.",
        .m_size = -1, /* one node per process, hence one module */
        .m_methods = module_methods,
};

PyMODINIT_FUNC PyInit__tidegate(void); /* found by name, hence in no header */

PyMODINIT_FUNC PyInit__tidegate(void)
{
        PyObject *module = PyModule_Create(&module_def);

        if (module && exceptions_add(module) == 0 && types_add(module) == 0 && event_setup() == 0)
                return module;
        Py_XDECREF(module);
        return NULL;
}
