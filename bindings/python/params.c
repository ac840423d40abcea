/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Metadata: dict to tg_params and back. bool, int, float, str and lists of int, float, str; anything with __index__ or
 * __float__ that is no sequence counts as int or float (numpy's scalars). Errors name the key.
 */
#include "internal.h"

#define ERROR_KEY "metadata %R: "

/* PyUnicode_AsUTF8AndSize() with an error that names the key; embedded NULs are refused, the C API has none. */
static const char *param_text(PyObject *key, PyObject *str)
{
        Py_ssize_t n;
        const char *s = PyUnicode_AsUTF8AndSize(str, &n);

        if (!s) {
                if (!PyErr_ExceptionMatches(PyExc_UnicodeError))
                        return NULL;
                PyErr_Clear();
                PyErr_Format(PyExc_ValueError, ERROR_KEY "the text is not valid Unicode", key);
                return NULL;
        }
        if (strlen(s) != (size_t)n) {
                PyErr_Format(PyExc_ValueError, ERROR_KEY "a text may not contain a NUL character", key);
                return NULL;
        }
        return s;
}

static PyObject *param_type_name(PyObject *value)
{
        return PyType_GetQualName(Py_TYPE(value));
}

static int param_refuse(PyObject *key, PyObject *value, const char *where)
{
        PyObject *name = param_type_name(value);

        if (name)
                PyErr_Format(PyExc_TypeError,
                        ERROR_KEY "%s%U is not supported (bool, int, float, str, or a list of int, float or str)", key, where, name);
        Py_XDECREF(name);
        return -1;
}

static int param_set_result(PyObject *key, int r)
{
        if (r == 0)
                return 0;
        if (r == -ENOMEM)
                PyErr_NoMemory();
        else if (r == -EINVAL)
                PyErr_Format(PyExc_ValueError, ERROR_KEY "not accepted (a key has 1 to 256 bytes)", key);
        else
                PyErr_Format(PyExc_ValueError, ERROR_KEY "%s (all metadata of a message: at most 64 KiB)", key, tg_strerror(r));
        return -1;
}

typedef enum Kind {
        KIND_OTHER,
        KIND_BOOL,
        KIND_INT,
        KIND_FLOAT,
        KIND_STR,
        KIND_LIST,
} Kind;

static bool has_attr(PyObject *type, const char *name)
{
        PyObject *a = PyObject_GetAttrString(type, name);

        if (!a)
                PyErr_Clear();
        Py_XDECREF(a);
        return a != NULL;
}

/* numpy's scalar, called bool_ up to numpy 1 and bool since: what a comparison of its numbers gives. */
static bool is_numpy_bool(PyObject *value)
{
        PyObject *name = PyType_GetQualName(Py_TYPE(value));
        bool r = name && (PyUnicode_CompareWithASCIIString(name, "bool_") == 0 ||
                                 PyUnicode_CompareWithASCIIString(name, "bool") == 0);

        Py_XDECREF(name);
        if (!name)
                PyErr_Clear();
        return r;
}

static Kind kind_of(PyObject *value)
{
        PyObject *type = (PyObject *)Py_TYPE(value);

        if (PyBool_Check(value))
                return KIND_BOOL;
        if (PyLong_Check(value))
                return KIND_INT;
        if (PyFloat_Check(value))
                return KIND_FLOAT;
        if (PyUnicode_Check(value))
                return KIND_STR;
        if (PyList_Check(value) || PyTuple_Check(value))
                return KIND_LIST;
        if (PySequence_Check(value)) /* numpy arrays look like numbers too */
                return KIND_OTHER;
        if (PyIndex_Check(value))
                return is_numpy_bool(value) ? KIND_BOOL : KIND_INT;
        return has_attr(type, "__float__") ? KIND_FLOAT : KIND_OTHER;
}

static int param_int(PyObject *key, PyObject *value, int64_t *ret)
{
        PyObject *number = PyNumber_Index(value);
        long long v;

        if (!number)
                return -1;
        v = PyLong_AsLongLong(number);
        Py_DECREF(number);
        if (v == -1 && PyErr_Occurred()) {
                if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
                        PyErr_Clear();
                        PyErr_Format(PyExc_OverflowError, ERROR_KEY "the integer does not fit 64 bits", key);
                }
                return -1;
        }
        *ret = v;
        return 0;
}

static int param_float(PyObject *key, PyObject *value, double *ret)
{
        *ret = PyFloat_AsDouble(value);
        if (*ret != -1.0 || !PyErr_Occurred())
                return 0;
        if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
                PyErr_Clear();
                PyErr_Format(PyExc_OverflowError, ERROR_KEY "the number does not fit a float", key);
        }
        return -1;
}

/* The one kind that a list is sent as: int and float together make floats, an empty list is one of ints. */
static int list_kind(PyObject *key, PyObject *list, Py_ssize_t n, Kind *ret)
{
        Kind kind = KIND_OTHER;

        for (Py_ssize_t i = 0; i < n; i++) {
                PyObject *item = PySequence_GetItem(list, i);
                Kind k;

                if (!item)
                        return -1;
                k = kind_of(item);
                if (k != KIND_INT && k != KIND_FLOAT && k != KIND_STR) {
                        (void)param_refuse(key, item, "list of ");
                        Py_DECREF(item);
                        return -1;
                }
                Py_DECREF(item);
                if (kind == KIND_OTHER || (kind == KIND_INT && k == KIND_FLOAT))
                        kind = k;
                else if (kind != k && !(kind == KIND_FLOAT && k == KIND_INT)) {
                        PyErr_Format(PyExc_TypeError, ERROR_KEY "a list may not mix texts and numbers", key);
                        return -1;
                }
        }
        *ret = kind == KIND_OTHER ? KIND_INT : kind;
        return 0;
}

/* @list is a tuple of our own: nobody can change it, and it keeps its items alive. */
static int param_set_list(tg_params *params, const char *name, PyObject *key, PyObject *list)
{
        Py_ssize_t n = PyTuple_Size(list);
        Kind kind;
        void *values;
        int r = 0;

        if (n < 0 || list_kind(key, list, n, &kind) < 0)
                return -1;
        values = PyMem_Calloc((size_t)n + 1, sizeof(int64_t));
        if (!values) {
                PyErr_NoMemory();
                return -1;
        }
        for (Py_ssize_t i = 0; i < n && r == 0; i++) {
                PyObject *item = PyTuple_GetItem(list, i);

                if (kind == KIND_INT)
                        r = param_int(key, item, (int64_t *)values + i);
                else if (kind == KIND_FLOAT)
                        r = param_float(key, item, (double *)values + i);
                else
                        r = (((const char **)values)[i] = param_text(key, item)) ? 0 : -1;
        }
        if (r == 0) {
                if (kind == KIND_INT)
                        r = tg_params_set_ints(params, name, values, (size_t)n);
                else if (kind == KIND_FLOAT)
                        r = tg_params_set_floats(params, name, values, (size_t)n);
                else
                        r = tg_params_set_strings(params, name, values, (size_t)n);
                r = param_set_result(key, r);
        }
        PyMem_Free(values);
        return r;
}

_Static_assert(sizeof(double) == sizeof(int64_t) && sizeof(char *) <= sizeof(int64_t), "one buffer for each kind of list");

static int param_set(tg_params *params, const char *name, PyObject *key, PyObject *value)
{
        const char *s;
        PyObject *list;
        int64_t i;
        double d;
        int r;

        switch (kind_of(value)) {
        case KIND_BOOL:
                r = PyObject_IsTrue(value);
                return r < 0 ? -1 : param_set_result(key, tg_params_set_bool(params, name, r));
        case KIND_INT:
                return param_int(key, value, &i) < 0 ? -1 : param_set_result(key, tg_params_set_int(params, name, i));
        case KIND_FLOAT:
                return param_float(key, value, &d) < 0 ? -1 : param_set_result(key, tg_params_set_float(params, name, d));
        case KIND_STR:
                s = param_text(key, value);
                return s ? param_set_result(key, tg_params_set_string(params, name, s)) : -1;
        case KIND_LIST:
                list = PySequence_Tuple(value);
                r = list ? param_set_list(params, name, key, list) : -1;
                Py_XDECREF(list);
                return r;
        default:
                return param_refuse(key, value, "");
        }
}

static int params_add_dict(tg_params *params, PyObject *dict, bool nested);

static int params_add(tg_params *params, PyObject *key, PyObject *value, bool nested)
{
        const char *name;

        if (!PyUnicode_Check(key)) {
                PyErr_Format(PyExc_TypeError, "metadata: a key must be a str, %R is not", key);
                return -1;
        }
        name = param_text(key, key);
        if (!name)
                return -1;
        /* What arrived with a message may be sent on as it is: its own timestamp is set anew by the sending. */
        if (strcmp(name, "timestamp") == 0 && kind_of(value) == KIND_OTHER)
                return 0;
        if (strcmp(name, "parameters") == 0 && PyDict_Check(value) && !nested)
                return params_add_dict(params, value, true);
        return param_set(params, name, key, value);
}

static int params_add_dict(tg_params *params, PyObject *dict, bool nested)
{
        /* A list of our own: converting a value can run Python code, which may change the dict. */
        PyObject *items = PyDict_Items(dict);
        Py_ssize_t n;
        int r = 0;

        if (!items)
                return -1;
        n = PyList_Size(items);
        for (Py_ssize_t i = 0; i < n && r == 0; i++) {
                PyObject *item = PyList_GetItem(items, i);

                r = params_add(params, PyTuple_GetItem(item, 0), PyTuple_GetItem(item, 1), nested);
        }
        Py_DECREF(items);
        return r;
}

int params_from_python(PyObject *metadata, tg_params **ret)
{
        tg_params *params;

        *ret = NULL;
        if (!metadata || metadata == Py_None)
                return 0;
        if (!PyDict_Check(metadata)) {
                PyObject *name = param_type_name(metadata);

                if (name)
                        PyErr_Format(PyExc_TypeError, "metadata must be a dict or None, not %U", name);
                Py_XDECREF(name);
                return -1;
        }
        if (PyDict_Size(metadata) == 0)
                return 0;
        params = tg_params_new();
        if (!params) {
                PyErr_NoMemory();
                return -1;
        }
        if (params_add_dict(params, metadata, false) < 0) {
                tg_params_free(params);
                return -1;
        }
        *ret = params;
        return 0;
}

/* A list of @n values; @item makes the i-th. */
static PyObject *list_new(size_t n, PyObject *(*item)(const void *values, size_t i), const void *values)
{
        PyObject *list = PyList_New((Py_ssize_t)n);

        for (size_t i = 0; list && i < n; i++) {
                PyObject *v = item(values, i);

                if (!v || PyList_SetItem(list, (Py_ssize_t)i, v) < 0)
                        Py_CLEAR(list);
        }
        return list;
}

static PyObject *item_int(const void *values, size_t i)
{
        return PyLong_FromLongLong(((const int64_t *)values)[i]);
}

static PyObject *item_float(const void *values, size_t i)
{
        return PyFloat_FromDouble(((const double *)values)[i]);
}

static PyObject *item_str(const void *values, size_t i)
{
        const char *s = ((const char *const *)values)[i];

        return text_new(s, strlen(s));
}

static PyObject *param_get(const tg_params *params, const char *key, tg_param_type type)
{
        const int64_t *ints;
        const double *floats;
        const char *const *strings;
        const char *s;
        int64_t i;
        double d;
        size_t n;
        bool b;

        switch (type) {
        case TG_PARAM_BOOL:
                return tg_params_get_bool(params, key, &b) ? NULL : PyBool_FromLong(b);
        case TG_PARAM_INT:
                return tg_params_get_int(params, key, &i) ? NULL : PyLong_FromLongLong(i);
        case TG_PARAM_FLOAT:
                return tg_params_get_float(params, key, &d) ? NULL : PyFloat_FromDouble(d);
        case TG_PARAM_STRING:
                return tg_params_get_string(params, key, &s) ? NULL : text_new(s, strlen(s));
        case TG_PARAM_INTS:
                return tg_params_get_ints(params, key, &ints, &n) ? NULL : list_new(n, item_int, ints);
        case TG_PARAM_FLOATS:
                return tg_params_get_floats(params, key, &floats, &n) ? NULL : list_new(n, item_float, floats);
        case TG_PARAM_STRINGS:
                return tg_params_get_strings(params, key, &strings, &n) ? NULL : list_new(n, item_str, strings);
        }
        return NULL;
}

PyObject *params_to_python(const tg_params *params)
{
        PyObject *dict = PyDict_New();
        size_t n = tg_params_count(params);

        for (size_t i = 0; dict && i < n; i++) {
                PyObject *key, *value;
                tg_param_type type;
                const char *name;
                int r;

                r = tg_params_at(params, i, &name, &type);
                if (r) {
                        Py_DECREF(dict);
                        return error_set(r, "metadata of the event");
                }
                key = text_new(name, strlen(name));
                value = key ? param_get(params, name, type) : NULL;
                if (key && !value && !PyErr_Occurred())
                        PyErr_Format(errors.error, ERROR_KEY "of an unknown type", key);
                if (!value || PyDict_SetItem(dict, key, value) < 0)
                        Py_CLEAR(dict);
                Py_XDECREF(key);
                Py_XDECREF(value);
        }
        return dict;
}
