/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sample: one message being written in place. A writable buffer over the output's shared memory until it is sent, once.
 *
 * It cannot be sent while somebody holds a view of it (a numpy array, a memoryview): after the sending the memory belongs to the
 * readers, and later to another message. An unsent sample counts as a use of its node, so that the memory stays mapped.
 */
#include "internal.h"

typedef struct SampleObject {
        PyObject_HEAD
        NodeObject *node;
        tg_sample *sample; /* NULL once it was sent or given back */
        Py_ssize_t n_views;
        Py_ssize_t size;
        bool sent;
        bool busy; /* a thread is in tg_send_sample() without the GIL */
        char output[]; /* name, for messages */
} SampleObject;

/* The end of the library's sample, one way or the other. */
static void sample_ended(SampleObject *self)
{
        self->sample = NULL;
        node_unuse(self->node);
        Py_CLEAR(self->node);
}

static int sample_alloc(NodeObject *node, const char *output, Py_ssize_t size, tg_sample **ret)
{
        int64_t deadline_ns = node_send_deadline(node);
        tg_node *n;
        int r, go;

        do {
                n = node_use(node);
                if (!n)
                        return -1;
                Py_BEGIN_ALLOW_THREADS
                r = tg_alloc(n, output, (size_t)size, ret);
                Py_END_ALLOW_THREADS
                if (r == 0)
                        return 0; /* the use goes on: it is the sample's now */
                node_unuse(node);
                if (r != -EINTR && r != TG_E_TIMEOUT) {
                        error_set(r, "output '%.128s', %zd bytes", output, size);
                        return -1;
                }
                go = node_wait_goes_on(node, deadline_ns);
                if (go == 0)
                        error_set(TG_E_TIMEOUT, "output '%.128s'", output);
        } while (go > 0);
        return -1;
}

PyObject *sample_new(NodeObject *node, const char *output, Py_ssize_t size)
{
        size_t n = strlen(output) + 1;
        SampleObject *self;
        tg_sample *sample;

        if (size < 0) {
                PyErr_SetString(PyExc_ValueError, "nbytes may not be negative");
                return NULL;
        }
        if (sample_alloc(node, output, size, &sample) < 0)
                return NULL;
        self = PyObject_Malloc(sizeof(*self) + n);
        if (!self) {
                tg_sample_free(sample);
                node_unuse(node);
                return PyErr_NoMemory();
        }
        memset(self, 0, sizeof(*self));
        memcpy(self->output, output, n);
        self->node = (NodeObject *)Py_NewRef((PyObject *)node);
        self->sample = sample;
        self->size = size;
        return PyObject_Init((PyObject *)self, types.sample);
}

static void sample_dealloc(PyObject *o)
{
        SampleObject *self = (SampleObject *)o;
        PyTypeObject *type = Py_TYPE(o);

        if (self->sample) {
                tg_sample_free(self->sample);
                sample_ended(self);
        }
        PyObject_Free(self);
        Py_DECREF(type);
}

/* Nothing but our own fields is touched: a view may be asked for in any state. */
static int sample_check(SampleObject *self)
{
        if (self->sample && !self->busy)
                return 0;
        PyErr_Format(PyExc_BufferError, "the sample for output '%s' was already %s", self->output,
                self->sent || self->busy ? "sent" : "given back");
        return -1;
}

static int sample_getbuffer(PyObject *o, Py_buffer *view, int flags)
{
        SampleObject *self = (SampleObject *)o;
        void *data;

        if (sample_check(self) < 0) {
                view->obj = NULL;
                return -1;
        }
        data = tg_sample_data(self->sample);
        if (PyBuffer_FillInfo(view, o, data ? data : self->output, self->size, 0, flags) < 0)
                return -1;
        self->n_views++;
        return 0;
}

static void sample_releasebuffer(PyObject *o, Py_buffer *view)
{
        ((SampleObject *)o)->n_views--;
}

static int sample_check_views(SampleObject *self, const char *verb)
{
        if (sample_check(self) < 0)
                return -1;
        if (self->n_views == 0)
                return 0;
        PyErr_Format(PyExc_BufferError,
                "the sample for output '%s' cannot be %s while %zd view%s of it exist%s: delete the arrays (del), release the memoryviews",
                self->output, verb, self->n_views, self->n_views == 1 ? "" : "s", self->n_views == 1 ? "s" : "");
        return -1;
}

/* As long as tg_send_sample() only ran out of time or was interrupted, the sample is still ours and is tried again. */
static int sample_send_params(SampleObject *self, const tg_params *params)
{
        NodeObject *node = self->node;
        int64_t deadline_ns = node_send_deadline(node);
        int r, go;

        self->busy = true; /* also between two tries, where handlers of signals run, and other threads beside them */
        do {
                go = -1;
                if (!node_use(node))
                        break;
                Py_BEGIN_ALLOW_THREADS
                r = tg_send_sample(self->sample, params);
                Py_END_ALLOW_THREADS
                node_unuse(node);
                if (r != -EINTR && r != TG_E_TIMEOUT) {
                        self->busy = false;
                        self->sent = true; /* consumed, whatever came of it */
                        if (r)
                                error_set(r, "output '%s', %zd bytes", self->output, self->size);
                        sample_ended(self);
                        return r ? -1 : 0;
                }
                go = node_wait_goes_on(node, deadline_ns);
                if (go == 0)
                        error_set(TG_E_TIMEOUT, "output '%s'", self->output);
        } while (go > 0);
        self->busy = false;
        return -1;
}

static PyObject *sample_send(PyObject *o, PyObject *args, PyObject *kwargs)
{
        static char *names[] = {"metadata", NULL};
        SampleObject *self = (SampleObject *)o;
        PyObject *metadata = NULL;
        tg_params *params;
        int r;

        if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:send", names, &metadata))
                return NULL;
        if (params_from_python(metadata, &params) < 0)
                return NULL;
        r = sample_check_views(self, "sent");
        if (r == 0)
                r = sample_send_params(self, params);
        tg_params_free(params);
        if (r < 0)
                return NULL;
        Py_RETURN_NONE;
}

static PyObject *sample_discard(PyObject *o, PyObject *unused)
{
        SampleObject *self = (SampleObject *)o;

        if (self->sample) {
                if (sample_check_views(self, "given back") < 0)
                        return NULL;
                tg_sample_free(self->sample);
                sample_ended(self);
        }
        Py_RETURN_NONE;
}

static PyObject *sample_enter(PyObject *o, PyObject *unused)
{
        return sample_check((SampleObject *)o) < 0 ? NULL : Py_NewRef(o);
}

/* Sent at the end of the block, unless that was done inside it; given back when the block failed. */
static PyObject *sample_exit(PyObject *o, PyObject *args)
{
        SampleObject *self = (SampleObject *)o;
        PyObject *type, *value, *traceback;

        if (!PyArg_ParseTuple(args, "OOO:__exit__", &type, &value, &traceback))
                return NULL;
        if (type == Py_None) {
                if (self->sample && (sample_check_views(self, "sent") < 0 || sample_send_params(self, NULL) < 0))
                        return NULL;
        } else if (self->sample && !self->busy && self->n_views == 0) {
                tg_sample_free(self->sample);
                sample_ended(self);
        } /* else views of it are alive in the traceback: given back when the last one dies */
        Py_RETURN_FALSE;
}

static Py_ssize_t sample_length(PyObject *o)
{
        return ((SampleObject *)o)->size;
}

static PyObject *sample_repr(PyObject *o)
{
        SampleObject *self = (SampleObject *)o;

        return PyUnicode_FromFormat("<tidegate.Sample for '%s', %zd bytes, %s>", self->output, self->size,
                self->sample ? "not sent" : self->sent ? "sent" : "given back");
}

static PyObject *sample_nbytes(PyObject *o, void *unused)
{
        return PyLong_FromSsize_t(((SampleObject *)o)->size);
}

static PyGetSetDef sample_getset[] = {
        {"nbytes", sample_nbytes, NULL, "Size of the message in bytes."},
        {0},
};

static PyMethodDef sample_methods[] = {
        {"send", (PyCFunction)(void (*)(void))sample_send, METH_VARARGS | METH_KEYWORDS,
                "send(metadata=None)\n\nSend what was written, without a copy. Every view of it must be gone."},
        {"discard", sample_discard, METH_NOARGS, "discard()\n\nGive the memory back unsent. Nothing happens when it is gone already."},
        {"__enter__", sample_enter, METH_NOARGS, NULL},
        {"__exit__", sample_exit, METH_VARARGS, NULL},
        {0},
};

static PyType_Slot sample_slots[] = {
        {Py_tp_dealloc, sample_dealloc},
        {Py_tp_repr, sample_repr},
        {Py_tp_getset, sample_getset},
        {Py_tp_methods, sample_methods},
        {Py_bf_getbuffer, sample_getbuffer},
        {Py_bf_releasebuffer, sample_releasebuffer},
        {Py_sq_length, sample_length},
        {Py_tp_doc, "One message being written in place: a writable buffer, sent once by send() or at the end of a with block. "
                "memoryview(sample) and numpy.frombuffer(sample, dtype) are views that have to be gone by then; numpy.ndarray(shape, dtype, sample) "
                "is one that nobody counts, and may not be used after it."},
        {0},
};

PyType_Spec sample_spec = {
        .name = "tidegate.Sample",
        .basicsize = sizeof(SampleObject),
        .itemsize = 0, /* the name behind the struct is allocated with it */
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
        .slots = sample_slots,
};
