/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Node: the connection to the dataflow. What needs asyncio is in tidegate/__init__.py, in a class derived from this one.
 */
#include "internal.h"

tg_node *node_use(NodeObject *self)
{
        if (!self->node || self->closing) {
                error_raise(errors.closed, EBADF, self->node || self->closing ? "the node was closed" : "the node was never opened");
                return NULL;
        }
        self->n_uses++;
        return self->node;
}

void node_unuse(NodeObject *self)
{
        if (--self->n_uses == 0 && self->closing)
                self->node = tg_node_close(self->node);
}

int64_t node_send_deadline(const NodeObject *self)
{
        int64_t deadline_ns;

        if (self->send_timeout_ns == TG_FOREVER ||
                __builtin_add_overflow(monotonic_ns(), self->send_timeout_ns, &deadline_ns))
                return INT64_MAX;
        return deadline_ns;
}

int node_wait_goes_on(NodeObject *self, int64_t deadline_ns)
{
        if (PyErr_CheckSignals() < 0)
                return -1;
        if (self->closing) {
                error_raise(errors.closed, EBADF, "the node was closed");
                return -1;
        }
        return monotonic_ns() < deadline_ns;
}

/* At most @n events, and how many; none with the result 0 at the end of the stream. Return: 0, TG_E_TIMEOUT, or -1 with an exception. */
static int node_next_events(NodeObject *self, int64_t timeout_ns, tg_event **events, size_t n, size_t *ret_n)
{
        int64_t deadline_ns = INT64_MAX, left_ns;
        tg_node *node;
        int r, go;

        *ret_n = 0;
        if (timeout_ns != TG_FOREVER && __builtin_add_overflow(monotonic_ns(), timeout_ns, &deadline_ns))
                deadline_ns = INT64_MAX;
        for (;;) {
                left_ns = deadline_ns == INT64_MAX ? WAIT_SLICE_NS : deadline_ns - monotonic_ns();
                left_ns = left_ns < 0 || timeout_ns == 0 ? 0 : left_ns > WAIT_SLICE_NS ? WAIT_SLICE_NS : left_ns;
                node = node_use(self);
                if (!node)
                        return -1;
                Py_BEGIN_ALLOW_THREADS
                if (n == 1)
                        *ret_n = (r = tg_next(node, events, left_ns)) == 0;
                else
                        r = tg_next_batch(node, events, n, ret_n, left_ns);
                Py_END_ALLOW_THREADS
                node_unuse(self);
                if (r != TG_E_TIMEOUT && r != -EINTR)
                        break;
                go = node_wait_goes_on(self, deadline_ns);
                if (go <= 0)
                        return go < 0 ? -1 : TG_E_TIMEOUT;
        }
        if (r == TG_E_END) {
                self->ended = true;
                return 0;
        }
        if (r) {
                error_set(r, "waiting for an event");
                return -1;
        }
        return 0;
}

/* @ret: an event; NULL with the result 0 at the end of the stream. Return: as above. */
static int node_next_event(NodeObject *self, int64_t timeout_ns, PyObject **ret)
{
        tg_event *ev;
        size_t n;
        int r = node_next_events(self, timeout_ns, &ev, 1, &n);

        *ret = r == 0 && n == 1 ? event_new(ev) : NULL;
        return r == 0 && n == 1 && !*ret ? -1 : r;
}

static PyObject *node_next(PyObject *o, PyObject *args, PyObject *kwargs)
{
        static char *names[] = {"timeout", NULL};
        PyObject *timeout = NULL, *event;
        int64_t timeout_ns;
        int r;

        if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:next", names, &timeout) || timeout_parse(timeout, &timeout_ns) < 0)
                return NULL;
        r = node_next_event((NodeObject *)o, timeout_ns, &event);
        if (r == TG_E_TIMEOUT)
                return error_set(r, "waiting for an event");
        if (r < 0)
                return NULL;
        return event ? event : Py_NewRef(Py_None);
}

static PyObject *node_try_recv(PyObject *o, PyObject *unused)
{
        PyObject *event;

        if (node_next_event((NodeObject *)o, 0, &event) < 0)
                return NULL;
        return event ? event : Py_NewRef(Py_None);
}

/* @consume_events: owned by the list, or freed on failure. Return: NULL with an exception. */
static PyObject *events_list(tg_event **consume_events, size_t n)
{
        PyObject *list = PyList_New((Py_ssize_t)n);
        size_t i = 0;

        while (list && i < n) {
                PyObject *event = event_new(consume_events[i++]);

                if (!event || PyList_SetItem(list, (Py_ssize_t)i - 1, event) < 0)
                        Py_CLEAR(list);
        }
        tg_events_free(consume_events + i, n - i);
        return list;
}

#define MAX_BATCH 1024 /* a larger limit is kept all the same: it is how many there are at most */

static PyObject *node_next_batch(PyObject *o, PyObject *args, PyObject *kwargs)
{
        static char *names[] = {"limit", "timeout", NULL};
        tg_event *events[MAX_BATCH];
        PyObject *timeout = NULL;
        Py_ssize_t limit = 64;
        int64_t timeout_ns;
        size_t n;
        int r;

        if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|nO:next_batch", names, &limit, &timeout) || timeout_parse(timeout, &timeout_ns) < 0)
                return NULL;
        if (limit < 1)
                return PyErr_Format(PyExc_ValueError, "limit must be 1 or more, not %zd", limit);
        r = node_next_events((NodeObject *)o, timeout_ns, events, limit > MAX_BATCH ? MAX_BATCH : (size_t)limit, &n);
        if (r == TG_E_TIMEOUT)
                return error_set(r, "waiting for an event");
        return r < 0 ? NULL : events_list(events, n);
}

static PyObject *node_iternext(PyObject *o)
{
        PyObject *event;

        if (node_next_event((NodeObject *)o, TG_FOREVER, &event) < 0)
                return NULL;
        return event; /* NULL without an exception ends the iteration */
}

static int node_send_params(NodeObject *self, const char *output, const Py_buffer *view, const tg_params *params)
{
        int64_t deadline_ns = node_send_deadline(self);
        tg_node *node;
        int r, go;

        do {
                node = node_use(self);
                if (!node)
                        return -1;
                Py_BEGIN_ALLOW_THREADS
                r = tg_send(node, output, view->buf, (size_t)view->len, params);
                Py_END_ALLOW_THREADS
                node_unuse(self);
                if (r == 0)
                        return 0;
                if (r != -EINTR && r != TG_E_TIMEOUT) {
                        error_set(r, "output '%.128s', %zd bytes", output, view->len);
                        return -1;
                }
                go = node_wait_goes_on(self, deadline_ns);
                if (go == 0)
                        error_set(TG_E_TIMEOUT, "output '%.128s'", output);
        } while (go > 0);
        return -1;
}

/* @data lends its bytes as they lie in memory; the errors say what to do instead. */
static int data_view(PyObject *data, Py_buffer *ret)
{
        if (!data || data == Py_None)
                return PyBuffer_FillInfo(ret, NULL, (void *)"", 0, 1, PyBUF_SIMPLE);
        if (PyUnicode_Check(data)) {
                PyErr_SetString(PyExc_TypeError, "data must be bytes or lend a buffer, not str; use text.encode()");
                return -1;
        }
        if (!PyObject_CheckBuffer(data)) {
                PyObject *name = PyType_GetQualName(Py_TYPE(data));

                if (name)
                        PyErr_Format(PyExc_TypeError, "data must be bytes or lend a buffer (memoryview, numpy.ndarray, ...), not %U",
                                name);
                Py_XDECREF(name);
                return -1;
        }
        if (PyObject_GetBuffer(data, ret, PyBUF_C_CONTIGUOUS) == 0)
                return 0;
        if (PyErr_ExceptionMatches(PyExc_BufferError) || PyErr_ExceptionMatches(PyExc_ValueError)) {
                PyErr_Clear();
                PyErr_SetString(PyExc_BufferError, "data must be C-contiguous; use numpy.ascontiguousarray(data)");
        }
        return -1;
}

static PyObject *node_send_output(PyObject *o, PyObject *args, PyObject *kwargs)
{
        static char *names[] = {"output_id", "data", "metadata", NULL};
        PyObject *data = NULL, *metadata = NULL;
        tg_params *params;
        const char *output;
        Py_buffer view;
        int r;

        if (!PyArg_ParseTupleAndKeywords(args, kwargs, "s|OO:send_output", names, &output, &data, &metadata))
                return NULL;
        if (data_view(data, &view) < 0)
                return NULL;
        r = params_from_python(metadata, &params);
        if (r == 0) {
                r = node_send_params((NodeObject *)o, output, &view, params);
                tg_params_free(params);
        }
        PyBuffer_Release(&view);
        if (r < 0)
                return NULL;
        Py_RETURN_NONE;
}

/* -------- several messages at once -------- */

typedef struct Batch {
        PyObject *tuple;       /* of what was given; keeps it alive */
        Py_ssize_t n;          /* messages that are whole: the rest of the arrays is not set */
        Py_buffer *views;
        tg_params **params;    /* NULL for a message without */
        tg_message *messages;
} Batch;

static void batch_release(Batch *batch)
{
        for (Py_ssize_t i = 0; i < batch->n; i++) {
                PyBuffer_Release(&batch->views[i]);
                tg_params_free(batch->params[i]);
        }
        PyMem_Free(batch->views);
        PyMem_Free(batch->params);
        PyMem_Free(batch->messages);
        Py_XDECREF(batch->tuple);
}

/* The exception in flight says more than its type: @name = @n on it, and below its text a line. Best effort. */
static void error_annotate(const char *name, Py_ssize_t n, PyObject *take_note)
{
        PyObject *type, *value, *traceback, *r = NULL, *number;

        PyErr_Fetch(&type, &value, &traceback);
        PyErr_NormalizeException(&type, &value, &traceback);
        number = name ? PyLong_FromSsize_t(n) : NULL;
        if (number && PyObject_SetAttrString(value, name, number) < 0)
                PyErr_Clear();
        if (take_note)
                r = PyObject_CallMethod(value, "add_note", "O", take_note);
        PyErr_Clear();
        Py_XDECREF(r);
        Py_XDECREF(number);
        Py_XDECREF(take_note);
        PyErr_Restore(type, value, traceback);
}

/* @item: data, or (data, metadata). Return: 0, or -1 with an exception. */
static int batch_add(Batch *batch, PyObject *item)
{
        PyObject *data = item, *metadata = NULL;
        Py_buffer *view = &batch->views[batch->n];

        if (PyTuple_Check(item) && !PyArg_ParseTuple(item, "OO;a message is data, or a tuple (data, metadata)", &data, &metadata))
                return -1;
        if (data_view(data, view) < 0)
                return -1;
        if (params_from_python(metadata, &batch->params[batch->n]) < 0) {
                PyBuffer_Release(view);
                return -1;
        }
        batch->messages[batch->n] = (tg_message){view->buf, (size_t)view->len, batch->params[batch->n]};
        batch->n++;
        return 0;
}

/* All of them are looked at before the first is sent. On failure, too, it is to be released. */
static int batch_parse(Batch *batch, PyObject *iterable)
{
        Py_ssize_t n;

        batch->tuple = PySequence_Tuple(iterable);
        if (!batch->tuple)
                return -1;
        n = PyTuple_Size(batch->tuple);
        batch->views = PyMem_Calloc((size_t)n + 1, sizeof(*batch->views));
        batch->params = PyMem_Calloc((size_t)n + 1, sizeof(tg_params *));
        batch->messages = PyMem_Calloc((size_t)n + 1, sizeof(*batch->messages));
        if (!batch->views || !batch->params || !batch->messages) {
                PyErr_NoMemory();
                return -1;
        }
        while (batch->n < n) {
                if (batch_add(batch, PyTuple_GetItem(batch->tuple, batch->n)) < 0) {
                        error_annotate(NULL, 0, PyUnicode_FromFormat("This is message %zd of the batch; none was sent.", batch->n));
                        return -1;
                }
        }
        return 0;
}

/* @done: messages that were sent; set in every case. Return: 0, or -1 with an exception. */
static int batch_send(NodeObject *self, const char *output, const Batch *batch, Py_ssize_t *done)
{
        int64_t deadline_ns = node_send_deadline(self);
        tg_node *node;
        size_t n_sent;
        int r, go;

        do {
                node = node_use(self);
                if (!node)
                        return -1;
                Py_BEGIN_ALLOW_THREADS
                r = tg_send_batch(node, output, batch->messages + *done, (size_t)(batch->n - *done), &n_sent);
                Py_END_ALLOW_THREADS
                node_unuse(self);
                *done += (Py_ssize_t)n_sent;
                if (r == 0)
                        return 0;
                if (r != -EINTR && r != TG_E_TIMEOUT) {
                        error_set(r, "output '%.128s', message %zd of %zd", output, *done, batch->n);
                        return -1;
                }
                go = node_wait_goes_on(self, deadline_ns);
                if (go == 0)
                        error_set(TG_E_TIMEOUT, "output '%.128s', message %zd of %zd", output, *done, batch->n);
        } while (go > 0);
        return -1;
}

static PyObject *node_send_batch(PyObject *o, PyObject *args, PyObject *kwargs)
{
        static char *names[] = {"output_id", "messages", NULL};
        PyObject *iterable;
        Py_ssize_t done = 0;
        Batch batch = {0};
        const char *output;
        int r;

        if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sO:send_batch", names, &output, &iterable))
                return NULL;
        r = batch_parse(&batch, iterable);
        if (r == 0) {
                r = batch_send((NodeObject *)o, output, &batch, &done);
                if (r < 0)
                        error_annotate("n_sent", done, NULL);
        }
        batch_release(&batch);
        if (r < 0)
                return NULL;
        Py_RETURN_NONE;
}

static PyObject *node_alloc_output(PyObject *o, PyObject *args, PyObject *kwargs)
{
        static char *names[] = {"output_id", "nbytes", NULL};
        const char *output;
        Py_ssize_t size;

        if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sn:alloc_output", names, &output, &size))
                return NULL;
        return sample_new((NodeObject *)o, output, size);
}

/* Names of outputs from any iterable of str. @ret: a list that owns them. Return: the array, or NULL with an exception. */
static const char **names_parse(PyObject *iterable, PyObject **ret_list)
{
        PyObject *list;
        const char **names;
        Py_ssize_t n;

        if (PyUnicode_Check(iterable)) {
                PyErr_SetString(PyExc_TypeError, "outputs must be a list of names, not one str");
                return NULL;
        }
        list = PySequence_Tuple(iterable);
        if (!list)
                return NULL;
        n = PyTuple_Size(list);
        names = PyMem_Calloc((size_t)n + 1, sizeof(*names));
        if (!names)
                PyErr_NoMemory();
        for (Py_ssize_t i = 0; names && i < n; i++) {
                names[i] = PyUnicode_AsUTF8AndSize(PyTuple_GetItem(list, i), NULL);
                if (!names[i]) {
                        PyMem_Free(names);
                        names = NULL;
                }
        }
        if (!names)
                Py_CLEAR(list);
        *ret_list = list;
        return names;
}

static PyObject *node_close_outputs(PyObject *o, PyObject *iterable)
{
        NodeObject *self = (NodeObject *)o;
        const char **names;
        PyObject *list;
        tg_node *node;
        int r;

        names = names_parse(iterable, &list);
        if (!names)
                return NULL;
        node = node_use(self);
        if (node) {
                Py_BEGIN_ALLOW_THREADS
                r = tg_close_outputs(node, names, (size_t)PyTuple_Size(list));
                Py_END_ALLOW_THREADS
                node_unuse(self);
                if (r)
                        error_set(r, "closing outputs");
        }
        PyMem_Free(names);
        Py_DECREF(list);
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

static PyObject *node_log(PyObject *o, PyObject *args, PyObject *kwargs)
{
        static const struct {
                const char *name;
                tg_log_level level;
        } levels[] = {
                {"error", TG_LOG_ERROR}, {"warn", TG_LOG_WARN},   {"warning", TG_LOG_WARN},
                {"info", TG_LOG_INFO},   {"debug", TG_LOG_DEBUG}, {"trace", TG_LOG_TRACE},
        };
        static char *names[] = {"level", "message", NULL};
        NodeObject *self = (NodeObject *)o;
        const char *name, *message;
        tg_log_level level = 0;
        tg_node *node;
        int r;

        if (!PyArg_ParseTupleAndKeywords(args, kwargs, "ss:log", names, &name, &message))
                return NULL;
        for (size_t i = 0; i < sizeof(levels) / sizeof(*levels); i++)
                if (PyOS_stricmp(name, levels[i].name) == 0)
                        level = levels[i].level;
        if (!level)
                return PyErr_Format(PyExc_ValueError, "level must be error, warn, info, debug or trace, not '%.32s'", name);
        node = node_use(self);
        if (!node)
                return NULL;
        Py_BEGIN_ALLOW_THREADS
        r = tg_log(node, level, message);
        Py_END_ALLOW_THREADS
        node_unuse(self);
        if (r)
                return error_set(r, "log");
        Py_RETURN_NONE;
}

static PyObject *node_input_stats(PyObject *o, PyObject *id)
{
        const char *input = PyUnicode_AsUTF8AndSize(id, NULL);
        struct tg_input_stats st;
        NodeObject *self = (NodeObject *)o;
        tg_node *node;
        int r;

        if (!input)
                return NULL;
        node = node_use(self);
        if (!node)
                return NULL;
        r = tg_input_stats(node, input, &st);
        node_unuse(self);
        if (r == -ENOENT)
                return error_raise(errors.error, ENOENT, "the descriptor declares no input '%.128s'", input);
        if (r)
                return error_set(r, "input '%.128s'", input);
        return Py_BuildValue("{sKsKsKsKsK}", "delivered", (unsigned long long)st.delivered, "dropped_queue",
                (unsigned long long)st.dropped_queue, "dropped_pool", (unsigned long long)st.dropped_pool, "dropped_source",
                (unsigned long long)st.dropped_source, "dropped_invalid", (unsigned long long)st.dropped_invalid);
}

static PyObject *node_fileno(PyObject *o, PyObject *unused)
{
        tg_node *node = node_use((NodeObject *)o);
        int fd;

        if (!node)
                return NULL;
        fd = tg_node_fd(node);
        node_unuse((NodeObject *)o);
        return fd < 0 ? error_set(fd, "fileno") : PyLong_FromLong(fd);
}

/* Short looks at the node: no wait, hence with the GIL. */
static PyObject *node_text(PyObject *o, const char *(*get)(const tg_node *node))
{
        tg_node *node = node_use((NodeObject *)o);
        PyObject *text;
        const char *s;

        if (!node)
                return NULL;
        s = get(node);
        text = text_new(s, strlen(s));
        node_unuse((NodeObject *)o);
        return text;
}

static PyObject *node_id(PyObject *o, void *unused)
{
        return node_text(o, tg_node_id);
}

static PyObject *node_dataflow_id(PyObject *o, void *unused)
{
        return node_text(o, tg_dataflow_id);
}

static PyObject *node_dataflow_name(PyObject *o, void *unused)
{
        return node_text(o, tg_dataflow_name);
}

static PyObject *node_ports(PyObject *o, const char *(*get)(const tg_node *node, unsigned index))
{
        tg_node *node = node_use((NodeObject *)o);
        PyObject *list, *tuple = NULL;
        const char *s;

        if (!node)
                return NULL;
        list = PyList_New(0);
        for (unsigned i = 0; list && (s = get(node, i)); i++) {
                PyObject *name = text_new(s, strlen(s));

                if (!name || PyList_Append(list, name) < 0)
                        Py_CLEAR(list);
                Py_XDECREF(name);
        }
        node_unuse((NodeObject *)o);
        if (list)
                tuple = PyList_AsTuple(list);
        Py_XDECREF(list);
        return tuple;
}

static PyObject *node_inputs(PyObject *o, void *unused)
{
        return node_ports(o, tg_input_name);
}

static PyObject *node_outputs(PyObject *o, void *unused)
{
        return node_ports(o, tg_output_name);
}

static PyObject *node_restart_count(PyObject *o, PyObject *unused)
{
        tg_node *node = node_use((NodeObject *)o);
        uint32_t n;

        if (!node)
                return NULL;
        n = tg_restart_count(node);
        node_unuse((NodeObject *)o);
        return PyLong_FromUnsignedLong(n);
}

static PyObject *node_should_stop(PyObject *o, void *unused)
{
        tg_node *node = node_use((NodeObject *)o);
        bool stop;

        if (!node)
                return NULL;
        stop = tg_should_stop(node);
        node_unuse((NodeObject *)o);
        return PyBool_FromLong(stop);
}

static PyObject *node_stop_deadline(PyObject *o, void *unused)
{
        tg_node *node = node_use((NodeObject *)o);
        uint64_t deadline_ns;

        if (!node)
                return NULL;
        deadline_ns = tg_stop_deadline(node);
        node_unuse((NodeObject *)o);
        if (deadline_ns == UINT64_MAX)
                Py_RETURN_NONE;
        return PyFloat_FromDouble((double)deadline_ns / (double)NSEC_PER_SEC);
}

static PyObject *node_get_send_timeout(PyObject *o, void *unused)
{
        int64_t ns = ((NodeObject *)o)->send_timeout_ns;

        if (ns == TG_FOREVER)
                Py_RETURN_NONE;
        return PyFloat_FromDouble((double)ns / (double)NSEC_PER_SEC);
}

static int node_set_send_timeout(PyObject *o, PyObject *seconds, void *unused)
{
        NodeObject *self = (NodeObject *)o;
        int64_t ns;

        if (timeout_parse(seconds, &ns) < 0)
                return -1;
        self->send_timeout_ns = ns;
        if (self->node && !self->closing) /* a shorter wait than a slice is the library's to keep */
                tg_set_send_timeout(self->node, ns == TG_FOREVER || ns > WAIT_SLICE_NS ? WAIT_SLICE_NS : ns);
        return 0;
}

static PyObject *node_get_closed(PyObject *o, void *unused)
{
        NodeObject *self = (NodeObject *)o;

        return PyBool_FromLong(!self->node || self->closing);
}

static PyObject *node_get_ended(PyObject *o, void *unused)
{
        return PyBool_FromLong(((NodeObject *)o)->ended);
}

/*
 * The consumers learn of the end at once. The library's node itself goes with its last use: other threads' calls notice
 * within a slice, and samples that somebody still writes keep their memory mapped.
 */
static void node_close_now(NodeObject *self)
{
        const char *name;

        if (!self->node || self->closing)
                return;
        self->closing = true;
        for (unsigned i = 0; self->n_uses > 0 && (name = tg_output_name(self->node, i)); i++)
                (void)tg_close_outputs(self->node, &name, 1); /* the close itself will do it if this failed */
        if (self->n_uses == 0)
                self->node = tg_node_close(self->node);
}

static PyObject *node_close(PyObject *o, PyObject *unused)
{
        node_close_now((NodeObject *)o);
        Py_RETURN_NONE;
}

static PyObject *node_enter(PyObject *o, PyObject *unused)
{
        if (!node_use((NodeObject *)o))
                return NULL;
        node_unuse((NodeObject *)o);
        return Py_NewRef(o);
}

static PyObject *node_exit(PyObject *o, PyObject *args)
{
        PyObject *r = PyObject_CallMethod(o, "close", NULL); /* a derived class may have more to close */

        if (!r)
                return NULL;
        Py_DECREF(r);
        Py_RETURN_FALSE;
}

static PyObject *node_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
        allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
        NodeObject *self = (NodeObject *)alloc(type, 0);

        if (self)
                self->send_timeout_ns = TG_FOREVER;
        return (PyObject *)self;
}

static int node_init(PyObject *o, PyObject *args, PyObject *kwargs)
{
        static char *names[] = {"node_id", "dataflow", NULL};
        const char *node_id = NULL, *dataflow = NULL, *inherited = getenv("TIDEGATE_NODE_FD");
        NodeObject *self = (NodeObject *)o;
        tg_node *node = NULL;
        int r;

        if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|z$z:Node", names, &node_id, &dataflow))
                return -1;
        if (dataflow && !node_id) {
                PyErr_SetString(PyExc_TypeError, "dataflow= says where to look for a node; give the node's id too");
                return -1;
        }
        if (inherited && *inherited)
                node_id = NULL; /* started by Tidegate: it knows better which node this is */
        if (self->node || self->closing) {
                error_raise(errors.error, EALREADY, "the node is open already");
                return -1;
        }
        do {
                Py_BEGIN_ALLOW_THREADS
                r = node_id ? tg_node_open_as(&node, node_id, dataflow) : tg_node_open(&node);
                Py_END_ALLOW_THREADS
        } while (r == -EINTR && PyErr_CheckSignals() == 0); /* the next call goes on where this one was */
        if (r == -EINTR)
                return -1;
        if (r == -ENOTCONN && node_id)
                error_raise(errors.not_connected, ENOTCONN,
                        "no tidegated is running here, so this process cannot become the node '%.128s'", node_id);
        else if (r == -ENOTCONN)
                error_raise(errors.not_connected, ENOTCONN,
                        "this process was not started by Tidegate; start the dataflow with: tidegate run dataflow.yml");
        else if (r)
                error_set(r, "connecting to the dataflow");
        if (r)
                return -1;
        self->node = node;
        tg_set_send_timeout(node, WAIT_SLICE_NS);
        return 0;
}

static int node_traverse(PyObject *o, visitproc visit, void *arg)
{
        Py_VISIT(Py_TYPE(o));
        return 0;
}

/* Nobody uses the node any more: each use holds a reference. */
static void node_dealloc(PyObject *o)
{
        PyTypeObject *type = Py_TYPE(o);
        freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

        PyObject_GC_UnTrack(o);
        node_close_now((NodeObject *)o);
        release(o);
        Py_DECREF(type);
}

static PyGetSetDef node_getset[] = {
        {"node_id", node_id, NULL, "This node's id in the descriptor."},
        {"dataflow_id", node_dataflow_id, NULL, "uuid of the running dataflow."},
        {"dataflow_name", node_dataflow_name, NULL, "Name of the running dataflow."},
        {"inputs", node_inputs, NULL, "Names of the inputs, in the order of the descriptor."},
        {"outputs", node_outputs, NULL, "Names of the outputs, in the order of the descriptor."},
        {"should_stop", node_should_stop, NULL, "True once the dataflow stops. One load from memory: cheap enough for any loop."},
        {"stop_deadline", node_stop_deadline, NULL, "time.monotonic() at which this process will be killed; None while no stop was asked for."},
        {"send_timeout", node_get_send_timeout, node_set_send_timeout,
                "Seconds that a send waits for room on a link with backpressure; None (the default) for no bound."},
        {"closed", node_get_closed, NULL, "True after close()."},
        {"ended", node_get_ended, NULL, "True once the event stream has ended: no event will come any more."},
        {0},
};

#define WITH_KEYWORDS(f) (PyCFunction)(void (*)(void)) f, METH_VARARGS | METH_KEYWORDS

static PyMethodDef node_methods[] = {
        {"next", WITH_KEYWORDS(node_next),
                "next(timeout=None) -> Event | None\n\nWait for the next event; None at the end of the stream. Raises Timeout."},
        {"next_batch", WITH_KEYWORDS(node_next_batch),
                "next_batch(limit=64, timeout=None) -> list[Event]\n\nWait for the next event, and take those behind it that are there already, at "
                "most limit in all. An empty list at the end of the stream. Raises Timeout."},
        {"try_recv", node_try_recv, METH_NOARGS, "try_recv() -> Event | None\n\nThe next event if one is there; never waits."},
        {"send_output", WITH_KEYWORDS(node_send_output),
                "send_output(output_id, data=None, metadata=None)\n\nSend bytes, or what lends a C-contiguous buffer."},
        {"send_batch", WITH_KEYWORDS(node_send_batch),
                "send_batch(output_id, messages)\n\nSend several in this order, and wake the consumers once. Each is data, or (data, metadata). "
                "An exception has n_sent: how many everybody gets; of the others nobody gets any."},
        {"alloc_output", WITH_KEYWORDS(node_alloc_output),
                "alloc_output(output_id, nbytes) -> Sample\n\nRoom for one message in shared memory, to be written in place."},
        {"close_outputs", node_close_outputs, METH_O,
                "close_outputs(output_ids)\n\nSay that nothing more will be sent there; the consumers get INPUT_CLOSED."},
        {"log", WITH_KEYWORDS(node_log), "log(level, message)\n\nOne structured log line; level: error, warn, info, debug or trace."},
        {"input_stats", node_input_stats, METH_O, "input_stats(input_id) -> dict\n\nMessages delivered and dropped so far, by reason."},
        {"restart_count", node_restart_count, METH_NOARGS, "restart_count() -> int\n\n0 in the node's first life."},
        {"fileno", node_fileno, METH_NOARGS,
                "fileno() -> int\n\nA descriptor that polls readable when there may be an event. Call try_recv() until it gives None after "
                "every wake-up."},
        {"close", node_close, METH_NOARGS, "close()\n\nLeave the dataflow. Never waits. Events still held stay readable."},
        {"__enter__", node_enter, METH_NOARGS, NULL},
        {"__exit__", node_exit, METH_VARARGS, NULL},
        {0},
};

static PyType_Slot node_slots[] = {
        {Py_tp_new, node_new},
        {Py_tp_init, node_init},
        {Py_tp_dealloc, node_dealloc},
        {Py_tp_traverse, node_traverse},
        {Py_tp_iter, PyObject_SelfIter},
        {Py_tp_iternext, node_iternext},
        {Py_tp_methods, node_methods},
        {Py_tp_getset, node_getset},
        {Py_tp_doc, "The connection of this process to its dataflow."},
        {0},
};

PyType_Spec node_spec = {
        .name = "tidegate._tidegate.Node",
        .basicsize = sizeof(NodeObject),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
        .slots = node_slots,
};
