/* SPDX-License-Identifier: Apache-2.0 */
/**
 * tidegate.h - the C API of a Tidegate node
 *
 * A node is an ordinary process started by Tidegate. It connects once, then takes events and sends messages:
 *
 *         tg_node *node;
 *         tg_event *ev;
 *
 *         if (tg_node_open(&node))
 *                 return 1;
 *         while (tg_next(node, &ev, TG_FOREVER) == 0) {
 *                 if (tg_event_type(ev) == TG_EVENT_INPUT)
 *                         tg_send(node, "result", tg_event_data(ev), tg_event_size(ev), NULL);
 *                 tg_event_free(ev);
 *         }
 *         tg_node_close(node);
 *
 * Return values: 0 on success, a negative errno for a failure, a positive TG_E_* for an outcome that the function's
 * comment lists.
 *
 * Threads: every function may be called from any thread. tg_next() on one node is served to one thread at a time,
 * tg_send() and friends take turns per output. Events, samples and maps of parameters have no lock: while one thread
 * changes, sends or frees one, no other may use it. The library starts no thread and installs no signal handler.
 *
 * Blocking: tg_node_open(), tg_next(), tg_next_batch(), tg_send(), tg_send_batch(), tg_alloc(), tg_send_sample() and tg_log() may wait, as their comments
 * say. No other function waits for anybody.
 *
 * Ownership: what is passed in is borrowed for the call and copied where it must last, unless a comment says consumed.
 * Pointers that are returned are borrowed from the object asked, unless a comment says owned. @ret is written on success only.
 *
 * fork: a forked child may not use the node it inherited; every call on it that can fail returns -EOWNERDEAD there.
 *
 * Units: sizes are bytes; times are nanoseconds, absolute ones CLOCK_MONOTONIC. Texts are UTF-8 that ends with NUL.
 */
#ifndef TIDEGATE_H
#define TIDEGATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TG_API __attribute__((visibility("default")))

typedef struct tg_node tg_node;     /* one connection to the dataflow */
typedef struct tg_event tg_event;   /* one received event; pins its payload until freed */
typedef struct tg_sample tg_sample; /* one message being written in place */
typedef struct tg_params tg_params; /* a small map of metadata parameters */

/* Outcomes */
enum {
        TG_E_TIMEOUT = 1,  /* the timeout passed; nothing was taken or sent */
        TG_E_END = 2,      /* the event stream has ended; no event will come any more */
        TG_E_NO_OUTPUT = 3, /* the descriptor declares no output of that name */
        TG_E_CLOSED = 4,   /* that output was closed by tg_close_outputs() */
        TG_E_STOPPING = 5, /* the wait for room was ended by stop; the message was not sent to anyone */
        TG_E_NO_PARAM = 6, /* no parameter of that name and type */
        TG_E_DROPPED = 7,  /* no free chunk in the output's pool: dropped for every link, and counted there */
};

#define TG_FOREVER (-1)

typedef enum tg_event_kind {
        TG_EVENT_INPUT = 1,          /* id: the input; data, size, params: the message (a timer tick has size 0) */
        TG_EVENT_INPUT_CLOSED = 2,   /* id: the input; every message sent before was delivered or counted as dropped */
        TG_EVENT_INPUT_RECOVERED = 3, /* id: the input that had timed out (input_timeout) and has data again */
        TG_EVENT_STOP = 4,           /* id: "MANUAL" or "ALL_INPUTS_CLOSED"; finish and exit before tg_stop_deadline() */
        TG_EVENT_NODE_FAILED = 5,    /* id: the failed node; data: the reason as text. Once per incarnation of that node, also
                                      * when the supervisor dies in between and its successor says it again */
        TG_EVENT_NODE_RESTARTED = 6, /* id: the restarted node; once, as above */
        TG_EVENT_ERROR = 7,          /* data: what went wrong, as text; the stream ends after it */
} tg_event_kind;

/**
 * tg_node_open() - connect this process to its dataflow
 * @ret: set on success; owned by the caller, released with tg_node_close()
 *
 * Uses the socket named by the environment variable TIDEGATE_NODE_FD. Blocks until every node of the dataflow is ready
 * (the startup barrier), bounded by the dataflow's startup_timeout. One call per process; one connection per node, so of
 * the processes that inherit the variable (a script and its children) one may call it. The descriptor is the library's from
 * then on: close-on-exec, so programs started later do not inherit it. The variable stays, for changing the environment
 * is not safe beside other threads.
 *
 * When the supervisor dies, the connection goes on with its successor. Messages flow meanwhile, nothing waits for it and no event
 * tells of it. A node of a daemon (TIDEGATE_NODE_SOCKET is set) whose socket hung up looks for the next daemon at that path,
 * in calls that the program makes anyway and at most every 100 ms; until one is there, the end of a source closes no input. Any
 * other node takes each end for the last then. A daemon that does not want the node any more ends its stream: TG_EVENT_ERROR.
 *
 * Return: 0; -ENOTCONN when the process was not started by Tidegate; -ECANCELED when the start was given up (the reason is
 * printed by the supervisor); -EPROTO for a violation of the protocol; -EALREADY for a second call; -EINTR when a signal
 * handler ran: call again to go on waiting; another negative errno (-ECONNRESET: the supervisor is gone; -ETIMEDOUT).
 */
TG_API int tg_node_open(tg_node **ret);

/**
 * tg_node_open_as() - connect a process that was started by hand, as a dynamic node (`path: dynamic`) of a dataflow
 * @ret:      set on success; owned by the caller, released with tg_node_close()
 * @node_id:  id of the node in the descriptor, 1..128 bytes; borrowed
 * @dataflow: its name, or its uuid as text, at most 256 bytes; NULL or "" for the only one that runs here and has such a
 *            node; borrowed
 *
 * Connects to the daemon whose socket is named by the environment variable TIDEGATE_NODE_SOCKET; without it, to node.sock in
 * TIDEGATE_RUNTIME_DIR, else in /run/tidegate if that is there or this is root, else in $XDG_RUNTIME_DIR/tidegate. The
 * variable TIDEGATE_NODE_FD is not looked at. The daemon decides by the process's uid. Blocks, is bounded and goes on
 * after a signal (with the same arguments) as tg_node_open() does; until it returned 0 the process is part of nothing, unless
 * the node captures (`capture: true`): then the daemon has moved this process, with all its threads and what it starts from then on, into
 * a cgroup of the dataflow's, which a stop ends. Then the node is like any other. One connection per process, be it by this or by tg_node_open(); after a failure it may be
 * called again.
 *
 * Return: 0; -ENOTCONN when no daemon is there; -ECANCELED when the daemon refused (no such node, connected already, not
 * authorised, may not be captured: the reason is printed to stderr) or the start was given up; -EINVAL for an id or name that is none;
 * -EACCES when the socket is not for this user; -ENAMETOOLONG when its path is longer than a socket's may be; -EPROTO, -EALREADY,
 * -EINTR and others as above.
 */
TG_API int tg_node_open_as(tg_node **ret, const char *node_id, const char *dataflow);

/**
 * tg_node_close() - leave the dataflow
 * @node: may be NULL
 *
 * Closes every output. Events still held keep their payload until they are freed, samples may still be freed. No other
 * thread may be inside a call on @node. Never blocks. Return: NULL.
 */
TG_API tg_node *tg_node_close(tg_node *node);

/* Identity: borrowed, unchanged for the life of @node; never NULL. tg_restart_count() is 0 in the first incarnation. */
TG_API const char *tg_node_id(const tg_node *node);
TG_API const char *tg_dataflow_id(const tg_node *node); /* uuid as text */
TG_API const char *tg_dataflow_name(const tg_node *node);
TG_API uint32_t tg_restart_count(const tg_node *node);

/* Names of the ports, in the order of the descriptor: borrowed, unchanged for the life of @node; NULL past the last one. */
TG_API const char *tg_input_name(const tg_node *node, unsigned index);
TG_API const char *tg_output_name(const tg_node *node, unsigned index);

/**
 * tg_next() - take the next event
 * @ret:        set on success; owned by the caller, released with tg_event_free()
 * @timeout_ns: TG_FOREVER, 0 to look without waiting, or a span
 *
 * Events of the supervisor come first, then inputs in turn, each input in the order of sending. After TG_EVENT_STOP what was
 * already queued is still delivered, then the stream ends. A node whose inputs are all closed gets TG_EVENT_STOP with id
 * "ALL_INPUTS_CLOSED" (timers do not count as inputs that keep it alive once every other input has closed; a node
 * with timers only runs until it is stopped).
 *
 * At most 8 messages of one input are pinned in shared memory at a time; past that the library copies.
 *
 * A timer that was missed several times ticks once, with the number and time of the latest tick that was due.
 *
 * Return: 0, TG_E_TIMEOUT, TG_E_END, -EINTR when a signal handler ran, or another negative errno (-ENOMEM: nothing was
 * lost, call again). To a program without any signal handler -EINTR is never returned: stopping, continuing or tracing it
 * does not end the wait. A node with `wait: spin` never sleeps here and gets no -EINTR either: a handler that wants it to come
 * back sets a flag, and the program passes a timeout.
 */
TG_API int tg_next(tg_node *node, tg_event **ret, int64_t timeout_ns);

/**
 * tg_next_batch() - take the next event, and those behind it that are there already
 * @events: room for @n of them, 1 or more. The first *@ret_n are set: owned by the caller, released with tg_event_free(), or
 *          together with tg_events_free(); of the others nothing is to be expected
 * @ret_n:  set in every case; not 0 exactly when 0 is returned
 *
 * Waits for the first one as tg_next() does, and for no other: the same events in the same order as so many calls of tg_next(), but
 * cheaper, with one lock, and one store for all of them that tells a producer what was taken. A producer that waits for room gets it when the
 * call returns; who is killed inside the call has been given nothing. Of many large messages most are copied, as above.
 *
 * Return: as tg_next().
 */
TG_API int tg_next_batch(tg_node *node, tg_event **events, size_t n, size_t *ret_n, int64_t timeout_ns);

/**
 * tg_node_fd() - a descriptor that polls readable when tg_next(node, &ev, 0) may have an event
 *
 * For any event loop (poll, epoll, asyncio). Call tg_next() with timeout 0 until TG_E_TIMEOUT after every wake-up: the
 * library then arms the descriptor. Borrowed; do not read, write or close it. Readable until the first such call.
 *
 * It is an epoll that holds another one. To make it, and to add it to an epoll of yours, takes a lock that the kernel has once for the whole host,
 * and that any process there can keep if it means harm; a program that must not be held up calls tg_next() with a timeout instead.
 *
 * Return: the descriptor (close-on-exec), or a negative errno (-EMFILE and what else making it may meet; it is made once).
 */
TG_API int tg_node_fd(tg_node *node);

/* What an event is. Pointers are borrowed and valid until tg_event_free(). Data is read-only shared memory, 64-byte aligned. */
TG_API tg_event_kind tg_event_type(const tg_event *ev);
TG_API const char *tg_event_id(const tg_event *ev);
TG_API const void *tg_event_data(const tg_event *ev); /* NULL when the size is 0 */
TG_API size_t tg_event_size(const tg_event *ev);      /* bytes */
TG_API uint64_t tg_event_seq(const tg_event *ev);     /* number of the message in its output, from 0; gaps are drops */
TG_API uint64_t tg_event_time_ns(const tg_event *ev); /* CLOCK_MONOTONIC when it was sent */
TG_API const tg_params *tg_event_params(const tg_event *ev); /* borrowed; NULL when there are none */

/* tg_event_free() - release an event and its payload, also after tg_node_close(). NULL is fine. Return: NULL. */
TG_API tg_event *tg_event_free(tg_event *ev);

/* tg_events_free() - the same for @n of them, cheaper than one by one. They may be of any calls, also of several nodes' in turn, and NULL. */
TG_API void tg_events_free(tg_event *const *events, size_t n);

/**
 * tg_send() - send one message, copied from @data
 * @output: name of a declared output
 * @data:   @size bytes; may be NULL when @size is 0
 * @params: metadata, borrowed; NULL for none
 *
 * Never blocks on links with drop_oldest. On links with backpressure it waits until every one of them has room, for at most
 * the time set by tg_set_send_timeout(), and ends when this node is told to stop. A slow consumer that dies ends the wait too,
 * unless it will be restarted: then its next incarnation goes on where it was. All or nothing: when it does not return 0
 * nobody gets the message.
 *
 * Return: 0, TG_E_NO_OUTPUT, TG_E_CLOSED, TG_E_TIMEOUT, TG_E_STOPPING, TG_E_DROPPED, -EMSGSIZE when the message can never
 * fit the output's pool: it is larger than any segment of it, and the pool may not grow (shared_memory_pool_size;
 * expected_message_size, when smaller messages came first), -EINTR, or another negative errno.
 */
TG_API int tg_send(tg_node *node, const char *output, const void *data, size_t size, const tg_params *params);

typedef struct tg_message { /* one message of a batch, as the arguments of tg_send() */
        const void *data;
        size_t size;
        const tg_params *params;
} tg_message;

/**
 * tg_send_batch() - send several messages on one output, in this order, and wake their consumers once for all of them
 * @messages:   @n of them; borrowed, as what they point to is
 * @ret_n_sent: NULL, or set in every case: how many were sent. Each of those was sent to everybody, of the others nobody gets any
 *
 * As many calls of tg_send() in a row, but cheaper: one lock, one look at the clock (the messages carry the same time) and one
 * wake-up. Consumers may see the first messages only when the last one was written; a wait for room shows them, and wakes, before
 * it begins. The send timeout is that of the whole batch. On a drop_oldest link a batch longer than the queue leaves its end there.
 *
 * Return: as tg_send(), of the first message that was not sent; 0 for an empty batch.
 */
TG_API int tg_send_batch(tg_node *node, const char *output, const tg_message *messages, size_t n, size_t *ret_n_sent);

/**
 * tg_alloc() - reserve room for one message, to be written in place
 * @size: bytes of payload, fixed now
 * @ret:  set on success; owned by the caller, ended by tg_send_sample() or tg_sample_free()
 *
 * Waits and fails like tg_send(). The memory is 64-byte aligned shared memory (private for very small messages, which travel
 * inside the ring); nobody sees it before it is sent. Each sample holds one chunk of the output's pool; when all are in
 * this node's own hands the result is TG_E_DROPPED.
 *
 * Return: as tg_send().
 */
TG_API int tg_alloc(tg_node *node, const char *output, size_t size, tg_sample **ret);

/* Where to write, and how many bytes: borrowed, valid until the sample is sent or freed; never NULL. Not initialised. */
TG_API void *tg_sample_data(tg_sample *sample);
TG_API size_t tg_sample_size(const tg_sample *sample);

/**
 * tg_send_sample() - send what was written in place, without a copy
 * @sample: consumed, unless the result is TG_E_TIMEOUT or -EINTR: then it is still the caller's, to send again or to free
 *
 * Waits and fails like tg_send(). Metadata goes behind the payload if the chunk has room for it (sizes are rounded up to 64
 * bytes, from 4 KiB on to 4 KiB); if not, the message is copied into a larger chunk.
 *
 * Return: as tg_send().
 */
TG_API int tg_send_sample(tg_sample *sample, const tg_params *params);

/* tg_sample_free() - give a sample back unsent, also after tg_node_close(). NULL is fine. Return: NULL. */
TG_API tg_sample *tg_sample_free(tg_sample *sample);

/**
 * tg_set_send_timeout() - bound of the wait for room, of every later send of this node
 * @timeout_ns: TG_FOREVER (the default: stop and the consumer's death still end it), 0 not to wait, or a span
 */
TG_API void tg_set_send_timeout(tg_node *node, int64_t timeout_ns);

/**
 * tg_close_outputs() - say that nothing more will be sent on these outputs; their consumers get INPUT_CLOSED
 * @outputs: names of declared outputs, @n_outputs of them
 *
 * Idempotent. A send that waits for room on one of them ends with TG_E_CLOSED.
 *
 * Return: 0, TG_E_NO_OUTPUT (then none was closed), or a negative errno (-ECONNRESET and the like: the supervisor is gone).
 */
TG_API int tg_close_outputs(tg_node *node, const char *const *outputs, size_t n_outputs);

/* The stop flag: a load from a shared page, no system call, cheap enough for an inner loop. tg_stop_deadline() is when this
 * process will be killed, absolute CLOCK_MONOTONIC ns; UINT64_MAX while no stop was asked for. */
TG_API bool tg_should_stop(const tg_node *node);
TG_API uint64_t tg_stop_deadline(const tg_node *node);

typedef enum tg_log_level {
        TG_LOG_ERROR = 1,
        TG_LOG_WARN = 2,
        TG_LOG_INFO = 3,
        TG_LOG_DEBUG = 4,
        TG_LOG_TRACE = 5,
} tg_log_level;

/**
 * tg_log() - one structured log line: a JSON object on stdout, as Dora's nodes do
 * @message: what is not UTF-8 in it becomes U+FFFD
 *
 * Lines of several threads do not mix. Blocks as write(2) to stdout may, also when stdout is non-blocking.
 *
 * Return: 0, -EINVAL for a level that does not exist, -ENOMEM, or what write(2) failed with.
 */
TG_API int tg_log(tg_node *node, tg_log_level level, const char *message);

/* Metadata parameters: a map, at most 64 KiB encoded. tg_params_new() is owned by the caller, NULL when out of memory;
 * tg_params_free() takes NULL too. Return: NULL. */
TG_API tg_params *tg_params_new(void);
TG_API tg_params *tg_params_free(tg_params *params);

/**
 * tg_params_set_bool() and friends - set one entry, replacing an older one of that key, whatever its type
 * @key:    1..256 bytes
 * @values: @n of them; copied, as strings are
 *
 * On failure @params is as before.
 *
 * Return: 0, -EINVAL for a bad key or a text that is not UTF-8, -EMSGSIZE when the map would grow too large, -ENOMEM.
 */
TG_API int tg_params_set_bool(tg_params *params, const char *key, bool value);
TG_API int tg_params_set_int(tg_params *params, const char *key, int64_t value);
TG_API int tg_params_set_float(tg_params *params, const char *key, double value);
TG_API int tg_params_set_string(tg_params *params, const char *key, const char *value);
TG_API int tg_params_set_ints(tg_params *params, const char *key, const int64_t *values, size_t n);
TG_API int tg_params_set_floats(tg_params *params, const char *key, const double *values, size_t n);
TG_API int tg_params_set_strings(tg_params *params, const char *key, const char *const *values, size_t n);

typedef enum tg_param_type {
        TG_PARAM_BOOL = 1,
        TG_PARAM_INT = 2,
        TG_PARAM_FLOAT = 3,
        TG_PARAM_STRING = 4,
        TG_PARAM_INTS = 5,
        TG_PARAM_FLOATS = 6,
        TG_PARAM_STRINGS = 7,
} tg_param_type;

/**
 * tg_params_get_bool() and friends - read one entry
 * @params: NULL counts as empty, for all of them
 * @ret:    strings and arrays are borrowed, valid until @params is changed or freed, or its event is
 *
 * tg_params_count() is the number of entries; tg_params_at() gives key and type of entry 0 .. count - 1, by key.
 *
 * Return: 0, or TG_E_NO_PARAM: no such entry, or one of another type.
 */
TG_API size_t tg_params_count(const tg_params *params);
TG_API int tg_params_at(const tg_params *params, size_t index, const char **ret_key, tg_param_type *ret_type);
TG_API int tg_params_get_bool(const tg_params *params, const char *key, bool *ret);
TG_API int tg_params_get_int(const tg_params *params, const char *key, int64_t *ret);
TG_API int tg_params_get_float(const tg_params *params, const char *key, double *ret);
TG_API int tg_params_get_string(const tg_params *params, const char *key, const char **ret);
TG_API int tg_params_get_ints(const tg_params *params, const char *key, const int64_t **ret, size_t *ret_n);
TG_API int tg_params_get_floats(const tg_params *params, const char *key, const double **ret, size_t *ret_n);
TG_API int tg_params_get_strings(const tg_params *params, const char *key, const char *const **ret, size_t *ret_n);

/* Counters of one input: messages so far, over all incarnations of its source. */
struct tg_input_stats {
        uint64_t delivered;
        uint64_t dropped_queue;   /* fell out of the queue_size window */
        uint64_t dropped_pool;    /* overtaken by the producer under pool pressure */
        uint64_t dropped_source;  /* lost with an older incarnation of the source, or of this node */
        uint64_t dropped_invalid; /* refused: the descriptor was torn or violated the protocol */
};

/* tg_input_stats() - read them; a moment's copy. Return: 0, or -ENOENT when there is no such input. */
TG_API int tg_input_stats(tg_node *node, const char *input, struct tg_input_stats *ret);

/* tg_version() is the library's; tg_strerror() the text for any return value of this API. Static storage, never NULL. */
TG_API const char *tg_version(void);
TG_API const char *tg_strerror(int r);

#ifdef __cplusplus
}
#endif

#endif
