/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Event, and Payload behind it. The Payload owns the library's event and lends its bytes by the buffer protocol, read-only: it
 * lives as long as the Event or any view of the bytes does, and so long stays the message pinned in shared memory, the node's
 * own close included.
 *
 * An Event also reads like the dict that Dora's nodes get: event["type"], event["id"], event["value"], event["metadata"].
 */
#include "internal.h"

#include <time.h>

typedef struct PayloadObject {
        PyObject_HEAD
        tg_event *ev;
} PayloadObject;

typedef struct EventObject {
        PyObject_HEAD
        PayloadObject *payload;
        PyObject *metadata; /* made when first asked for */
} EventObject;

static PyObject *epoch, *timedelta; /* datetime(1970, 1, 1, tzinfo=utc) and the class */

static const char *const type_names[] = {
        [TG_EVENT_INPUT] = "INPUT",
        [TG_EVENT_INPUT_CLOSED] = "INPUT_CLOSED",
        [TG_EVENT_INPUT_RECOVERED] = "INPUT_RECOVERED",
        [TG_EVENT_STOP] = "STOP",
        [TG_EVENT_NODE_FAILED] = "NODE_FAILED",
        [TG_EVENT_NODE_RESTARTED] = "NODE_RESTARTED",
        [TG_EVENT_ERROR] = "ERROR",
};

/* Strings that every event is asked for, made once. Never freed: the types and exceptions are not, either. */
static PyObject *type_texts[sizeof(type_names) / sizeof(*type_names)];

static int texts_setup(void);

int event_setup(void)
{
        PyObject *module, *class = NULL, *zone = NULL, *utc = NULL;

        if (texts_setup() < 0)
                return -1;
        module = PyImport_ImportModule("datetime");
        if (!module)
                return -1;
        class = PyObject_GetAttrString(module, "datetime");
        zone = PyObject_GetAttrString(module, "timezone");
        utc = zone ? PyObject_GetAttrString(zone, "utc") : NULL;
        timedelta = PyObject_GetAttrString(module, "timedelta");
        if (class && utc && timedelta)
                epoch = PyObject_CallFunction(class, "iiiiiiiO", 1970, 1, 1, 0, 0, 0, 0, utc);
        Py_XDECREF(utc);
        Py_XDECREF(zone);
        Py_XDECREF(class);
        Py_DECREF(module);
        return epoch ? 0 : -1;
}

PyObject *event_new(tg_event *consume_ev)
{
        PayloadObject *payload = PyObject_New(PayloadObject, types.payload);
        EventObject *self;

        if (!payload) {
                tg_event_free(consume_ev);
                return NULL;
        }
        payload->ev = consume_ev;
        self = PyObject_GC_New(EventObject, types.event);
        if (!self) {
                Py_DECREF(payload);
                return NULL;
        }
        self->payload = payload;
        self->metadata = NULL;
        PyObject_GC_Track(self);
        return (PyObject *)self;
}

static void payload_dealloc(PyObject *o)
{
        PayloadObject *self = (PayloadObject *)o;
        PyTypeObject *type = Py_TYPE(o);

        tg_event_free(self->ev);
        PyObject_Free(self);
        Py_DECREF(type);
}

static int payload_getbuffer(PyObject *o, Py_buffer *view, int flags)
{
        const tg_event *ev = ((PayloadObject *)o)->ev;
        const void *data = tg_event_data(ev);

        return PyBuffer_FillInfo(view, o, (void *)(data ? data : ""), (Py_ssize_t)tg_event_size(ev), 1, flags);
}

static PyType_Slot payload_slots[] = {
        {Py_tp_dealloc, payload_dealloc},
        {Py_bf_getbuffer, payload_getbuffer},
        {Py_tp_doc, "The bytes of one message, read-only in shared memory."},
        {0},
};

PyType_Spec payload_spec = {
        .name = "tidegate.Payload",
        .basicsize = sizeof(PayloadObject),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
        .slots = payload_slots,
};

static const tg_event *event_ev(PyObject *self)
{
        return ((EventObject *)self)->payload->ev;
}

static const char *event_type_name(PyObject *self)
{
        unsigned kind = (unsigned)tg_event_type(event_ev(self));

        return kind < sizeof(type_names) / sizeof(*type_names) && type_names[kind] ? type_names[kind] : "UNKNOWN";
}

static PyObject *event_type(PyObject *self, void *unused)
{
        unsigned kind = (unsigned)tg_event_type(event_ev(self));

        if (kind < sizeof(type_texts) / sizeof(*type_texts) && type_texts[kind])
                return Py_NewRef(type_texts[kind]);
        return PyUnicode_InternFromString(event_type_name(self));
}

static PyObject *event_id(PyObject *self, void *unused)
{
        const char *id = tg_event_id(event_ev(self));

        if (!id)
                Py_RETURN_NONE;
        return text_new(id, strlen(id));
}

static PyObject *event_data(PyObject *self, void *unused)
{
        return PyMemoryView_FromObject((PyObject *)((EventObject *)self)->payload);
}

static PyObject *event_seq(PyObject *self, void *unused)
{
        return PyLong_FromUnsignedLongLong(tg_event_seq(event_ev(self)));
}

static PyObject *event_time_ns(PyObject *self, void *unused)
{
        return PyLong_FromUnsignedLongLong(tg_event_time_ns(event_ev(self)));
}

static PyObject *event_error(PyObject *self, void *unused)
{
        const tg_event *ev = event_ev(self);
        tg_event_kind kind = tg_event_type(ev);

        if (kind != TG_EVENT_ERROR && kind != TG_EVENT_NODE_FAILED)
                Py_RETURN_NONE;
        return text_new(tg_event_data(ev), tg_event_size(ev));
}

/* The time of sending as Dora gives it: a datetime in UTC. Sent by the monotonic clock, read against the wall clock of now. */
static PyObject *event_timestamp(const tg_event *ev)
{
        struct timespec wall;
        PyObject *span, *when;
        uint64_t now_ns, sent_ns;
        int64_t us;

        (void)clock_gettime(CLOCK_REALTIME, &wall);
        now_ns = (uint64_t)monotonic_ns();
        sent_ns = tg_event_time_ns(ev);
        if (sent_ns > now_ns) /* the sender's word: take no time of the future from it */
                sent_ns = now_ns;
        us = (int64_t)wall.tv_sec * 1000000 + (wall.tv_nsec - (int64_t)(now_ns - sent_ns)) / 1000;
        span = PyObject_CallFunction(timedelta, "iiL", 0, 0, (long long)us);
        if (!span)
                return NULL;
        when = PyNumber_Add(epoch, span);
        Py_DECREF(span);
        return when;
}

static PyObject *event_metadata(PyObject *o, void *unused)
{
        EventObject *self = (EventObject *)o;
        PyObject *dict, *when;

        if (!self->metadata) {
                dict = params_to_python(tg_event_params(event_ev(o)));
                if (!dict)
                        return NULL;
                when = event_timestamp(event_ev(o));
                if (!when || PyDict_SetItemString(dict, "timestamp", when) < 0) {
                        Py_XDECREF(when);
                        Py_DECREF(dict);
                        return NULL;
                }
                Py_DECREF(when);
                self->metadata = dict;
        }
        return Py_NewRef(self->metadata);
}

/* What Dora puts under "value": the payload, or what is known of a failed node. */
static PyObject *event_value(PyObject *self, void *unused)
{
        switch (tg_event_type(event_ev(self))) {
        case TG_EVENT_INPUT:
                return event_data(self, NULL);
        case TG_EVENT_NODE_FAILED:
                return Py_BuildValue("{sNsN}", "source_node_id", event_id(self, NULL), "error", event_error(self, NULL));
        default:
                Py_RETURN_NONE;
        }
}

static PyObject *event_kind(PyObject *self, void *unused)
{
        return PyUnicode_InternFromString("dora");
}

static const struct event_key {
        const char *name;
        PyObject *(*get)(PyObject *self, void *unused);
        unsigned kinds; /* bit per tg_event_kind that has this key */
} event_keys[] = {
        {"kind", event_kind, ~0U},
        {"type", event_type, ~0U},
        {"id", event_id, ~(1U << TG_EVENT_ERROR)},
        {"value", event_value, 1U << TG_EVENT_INPUT | 1U << TG_EVENT_NODE_FAILED},
        {"metadata", event_metadata, 1U << TG_EVENT_INPUT},
        {"error", event_error, 1U << TG_EVENT_NODE_FAILED | 1U << TG_EVENT_ERROR},
};

#define N_EVENT_KEYS (sizeof(event_keys) / sizeof(*event_keys))

static PyObject *key_texts[N_EVENT_KEYS]; /* interned, as literals of a program are */

static int texts_setup(void)
{
        for (size_t i = 0; i < sizeof(type_names) / sizeof(*type_names); i++)
                if (type_names[i] && !type_texts[i] && !(type_texts[i] = PyUnicode_InternFromString(type_names[i])))
                        return -1;
        for (size_t i = 0; i < N_EVENT_KEYS; i++)
                if (!key_texts[i] && !(key_texts[i] = PyUnicode_InternFromString(event_keys[i].name)))
                        return -1;
        return 0;
}

static bool event_key_given(PyObject *self, const struct event_key *key)
{
        return key->kinds & 1U << (tg_event_type(event_ev(self)) & 31);
}

static const struct event_key *event_key_find(PyObject *self, PyObject *name)
{
        size_t i = 0;

        while (i < N_EVENT_KEYS && name != key_texts[i])
                i++;
        if (i == N_EVENT_KEYS && PyUnicode_Check(name))
                for (i = 0; i < N_EVENT_KEYS && PyUnicode_CompareWithASCIIString(name, event_keys[i].name) != 0;)
                        i++;
        return i < N_EVENT_KEYS && event_key_given(self, &event_keys[i]) ? &event_keys[i] : NULL;
}

static PyObject *event_subscript(PyObject *self, PyObject *name)
{
        const struct event_key *key = event_key_find(self, name);

        if (key)
                return key->get(self, NULL);
        PyErr_SetObject(PyExc_KeyError, name);
        return NULL;
}

static int event_contains(PyObject *self, PyObject *name)
{
        return event_key_find(self, name) != NULL;
}

static Py_ssize_t event_length(PyObject *self)
{
        Py_ssize_t n = 0;

        for (size_t i = 0; i < N_EVENT_KEYS; i++)
                n += event_key_given(self, &event_keys[i]);
        return n;
}

static PyObject *event_keys_list(PyObject *self, PyObject *unused)
{
        PyObject *list = PyList_New(0);

        for (size_t i = 0; list && i < N_EVENT_KEYS; i++) {
                PyObject *name;

                if (!event_key_given(self, &event_keys[i]))
                        continue;
                name = key_texts[i];
                if (PyList_Append(list, name) < 0)
                        Py_CLEAR(list);
        }
        return list;
}

static PyObject *event_iter(PyObject *self)
{
        PyObject *list = event_keys_list(self, NULL), *it;

        if (!list)
                return NULL;
        it = PyObject_GetIter(list);
        Py_DECREF(list);
        return it;
}

static PyObject *event_get(PyObject *self, PyObject *args)
{
        const struct event_key *key;
        PyObject *name, *otherwise = Py_None;

        if (!PyArg_ParseTuple(args, "O|O:get", &name, &otherwise))
                return NULL;
        key = event_key_find(self, name);
        return key ? key->get(self, NULL) : Py_NewRef(otherwise);
}

/* A dict of the moment: whoever wants items() or values() gets those of a plain dict. */
static PyObject *event_dict(PyObject *self)
{
        PyObject *dict = PyDict_New();

        for (size_t i = 0; dict && i < N_EVENT_KEYS; i++) {
                PyObject *value;

                if (!event_key_given(self, &event_keys[i]))
                        continue;
                value = event_keys[i].get(self, NULL);
                if (!value || PyDict_SetItemString(dict, event_keys[i].name, value) < 0)
                        Py_CLEAR(dict);
                Py_XDECREF(value);
        }
        return dict;
}

static PyObject *event_items(PyObject *self, PyObject *unused)
{
        PyObject *dict = event_dict(self), *list;

        list = dict ? PyDict_Items(dict) : NULL;
        Py_XDECREF(dict);
        return list;
}

static PyObject *event_values(PyObject *self, PyObject *unused)
{
        PyObject *dict = event_dict(self), *list;

        list = dict ? PyDict_Values(dict) : NULL;
        Py_XDECREF(dict);
        return list;
}

static PyObject *event_repr(PyObject *self)
{
        const tg_event *ev = event_ev(self);
        PyObject *id, *text;

        id = event_id(self, NULL);
        if (!id)
                return NULL;
        if (tg_event_type(ev) == TG_EVENT_INPUT)
                text = PyUnicode_FromFormat("<tidegate.Event INPUT %R, message %llu, %zu bytes>", id,
                        (unsigned long long)tg_event_seq(ev), tg_event_size(ev));
        else
                text = PyUnicode_FromFormat("<tidegate.Event %s %R>", event_type_name(self), id);
        Py_DECREF(id);
        return text;
}

static int event_traverse(PyObject *o, visitproc visit, void *arg)
{
        EventObject *self = (EventObject *)o;

        Py_VISIT(Py_TYPE(o));
        Py_VISIT(self->metadata);
        return 0;
}

static int event_clear(PyObject *o)
{
        Py_CLEAR(((EventObject *)o)->metadata);
        return 0;
}

static void event_dealloc(PyObject *o)
{
        EventObject *self = (EventObject *)o;
        PyTypeObject *type = Py_TYPE(o);

        PyObject_GC_UnTrack(o);
        Py_CLEAR(self->metadata);
        Py_CLEAR(self->payload);
        PyObject_GC_Del(o);
        Py_DECREF(type);
}

static PyGetSetDef event_getset[] = {
        {"kind", event_kind, NULL, "Always \"dora\": not an event of another source."},
        {"type", event_type, NULL, "INPUT, INPUT_CLOSED, INPUT_RECOVERED, STOP, NODE_FAILED, NODE_RESTARTED or ERROR."},
        {"id", event_id, NULL, "The input, the node, or the cause of a stop."},
        {"data", event_data, NULL, "memoryview of the message, read-only, in shared memory: no copy."},
        {"value", event_value, NULL, "data of an INPUT; what is known of a failed node; else None."},
        {"metadata", event_metadata, NULL, "dict: timestamp and the sender's parameters."},
        {"seq", event_seq, NULL, "Number of the message in its output, from 0; gaps are drops."},
        {"time_ns", event_time_ns, NULL, "When it was sent: time.monotonic_ns() of the sender."},
        {"error", event_error, NULL, "The text of ERROR and NODE_FAILED; else None."},
        {0},
};

static PyMethodDef event_methods[] = {
        {"get", event_get, METH_VARARGS, "get(key, default=None)"},
        {"keys", event_keys_list, METH_NOARGS, "keys() -> list"},
        {"items", event_items, METH_NOARGS, "items() -> list"},
        {"values", event_values, METH_NOARGS, "values() -> list"},
        {0},
};

static PyType_Slot event_slots[] = {
        {Py_tp_dealloc, event_dealloc},
        {Py_tp_traverse, event_traverse},
        {Py_tp_clear, event_clear},
        {Py_tp_repr, event_repr},
        {Py_tp_iter, event_iter},
        {Py_tp_getset, event_getset},
        {Py_tp_methods, event_methods},
        {Py_mp_subscript, event_subscript},
        {Py_mp_length, event_length},
        {Py_sq_contains, event_contains},
        {Py_tp_doc, "One event of a node; also reads like a dict."},
        {0},
};

PyType_Spec event_spec = {
        .name = "tidegate.Event",
        .basicsize = sizeof(EventObject),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
        .slots = event_slots,
};
