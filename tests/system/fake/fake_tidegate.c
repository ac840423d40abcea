/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stand-in for the node half of libtidegate, loaded before it with LD_PRELOAD. The tests of the Python module script it from
 * the same process through ctypes: queue events, fail a call, hold sends up, count what is alive. Parameters and texts are
 * still the real library's.
 *
 * Payloads are mappings of their own, read-only, and go with their event: whoever still reads one then crashes for all to see.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tidegate/tidegate.h"

struct tg_event {
        tg_event *next;
        tg_event_kind kind;
        char *id;
        void *data;
        size_t size;
        uint64_t seq, time_ns;
        tg_params *params; /* owned */
};

struct tg_sample {
        char *output;
        void *data;
        size_t size;
};

typedef struct Sent {
        char *output;
        char *data;
        size_t size;
        char *params; /* as text */
} Sent;

struct tg_node {
        int fd; /* readable while an event is queued or the stream has ended */
        pid_t pid;
};

TG_API void fake_push(int kind, const char *id, const void *data, size_t size, uint64_t seq, tg_params *take_params);
TG_API void fake_end(void);
TG_API void fake_fail(const char *function, int r, int times);
TG_API void fake_hold_sends(bool hold);
TG_API void fake_room(int n); /* for so many messages; then sends are held */
TG_API void fake_stop(uint64_t deadline_ns);
TG_API int fake_live(const char *what);
TG_API size_t fake_n_sent(void);
TG_API const Sent *fake_sent(size_t i);
TG_API const char *fake_asked(void); /* "id dataflow" of the last tg_node_open_as(); "" when it was not called */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static tg_node *the_node;
static int queue_fd = -1;
static tg_event *first, **last = &first;
static bool ended, held;
static int n_room = -1; /* messages for which there is room before sends are held; -1: no end of it */
static uint64_t stop_deadline_ns = UINT64_MAX;
static int64_t send_timeout_ns = TG_FOREVER;
static int n_events, n_samples, n_nodes, n_calls_next, n_calls_batch, n_waits;
static struct {
        char function[32];
        int r, times;
} failure;
static Sent sent[1024];
static size_t n_sent;
static char asked[128];

static int64_t now_ns(void)
{
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void queue_init(void)
{
        if (queue_fd < 0)
                queue_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
}

static void queue_add(tg_event *ev)
{
        pthread_mutex_lock(&lock);
        queue_init();
        if (ev) {
                *last = ev;
                last = &ev->next;
                n_events++;
        } else
                ended = true;
        pthread_mutex_unlock(&lock);
        (void)!write(queue_fd, &(uint64_t){1}, 8);
}

void fake_push(int kind, const char *id, const void *data, size_t size, uint64_t seq, tg_params *take_params)
{
        tg_event *ev = calloc(1, sizeof(*ev));

        ev->kind = (tg_event_kind)kind;
        ev->id = id ? strdup(id) : NULL;
        ev->size = size;
        ev->seq = seq;
        ev->time_ns = (uint64_t)now_ns();
        ev->params = take_params;
        if (size > 0) {
                ev->data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                memcpy(ev->data, data, size);
                mprotect(ev->data, size, PROT_READ);
        }
        queue_add(ev);
}

void fake_end(void)
{
        queue_add(NULL);
}

void fake_fail(const char *function, int r, int times)
{
        snprintf(failure.function, sizeof(failure.function), "%s", function);
        failure.r = r;
        failure.times = times;
}

void fake_hold_sends(bool hold)
{
        n_room = -1;
        held = hold;
}

void fake_room(int n)
{
        n_room = n;
}

void fake_stop(uint64_t deadline_ns)
{
        stop_deadline_ns = deadline_ns;
}

int fake_live(const char *what)
{
        return strcmp(what, "events") == 0    ? n_events
                : strcmp(what, "samples") == 0 ? n_samples
                : strcmp(what, "nodes") == 0   ? n_nodes
                : strcmp(what, "calls") == 0   ? n_calls_next
                : strcmp(what, "batches") == 0 ? n_calls_batch
                : strcmp(what, "waits") == 0   ? n_waits
                                               : -1;
}

size_t fake_n_sent(void)
{
        return n_sent;
}

const Sent *fake_sent(size_t i)
{
        return i < n_sent ? &sent[i] : NULL;
}

static int failing(const tg_node *node, const char *function)
{
        if (node && node->pid != getpid())
                return -EOWNERDEAD;
        if (strcmp(function, "tg_send_batch") == 0)
                n_calls_batch++;
        if (failure.times > 0 && strcmp(function, failure.function) == 0) {
                failure.times--;
                return failure.r;
        }
        return 0;
}

int tg_node_open(tg_node **ret)
{
        int r = failing(NULL, __func__);

        if (r)
                return r;
        if (the_node)
                return -EALREADY;
        queue_init();
        the_node = *ret = calloc(1, sizeof(**ret));
        the_node->fd = dup(queue_fd);
        the_node->pid = getpid();
        n_nodes++;
        return 0;
}

int tg_node_open_as(tg_node **ret, const char *node_id, const char *dataflow)
{
        int r = failing(NULL, __func__);

        (void)snprintf(asked, sizeof(asked), "%s %s", node_id, dataflow ? dataflow : "-");
        return r ? r : tg_node_open(ret);
}

const char *fake_asked(void)
{
        return asked;
}

tg_node *tg_node_close(tg_node *node)
{
        if (node && node->pid == getpid()) {
                close(node->fd);
                memset(node, 0xff, sizeof(*node));
                free(node);
                the_node = NULL;
                n_nodes--;
        }
        return NULL;
}

const char *tg_node_id(const tg_node *node)
{
        return "fake";
}

const char *tg_dataflow_id(const tg_node *node)
{
        return "00000000-0000-4000-8000-000000000000";
}

const char *tg_dataflow_name(const tg_node *node)
{
        return "play";
}

uint32_t tg_restart_count(const tg_node *node)
{
        return 3;
}

const char *tg_input_name(const tg_node *node, unsigned index)
{
        static const char *const names[] = {"in", "tick"};

        return index < 2 ? names[index] : NULL;
}

const char *tg_output_name(const tg_node *node, unsigned index)
{
        static const char *const names[] = {"out", "other"};

        return index < 2 ? names[index] : NULL;
}

static bool take(tg_event **ret)
{
        bool got = false;

        pthread_mutex_lock(&lock);
        if (first) {
                *ret = first;
                first = first->next;
                if (!first)
                        last = &first;
                got = true;
        }
        pthread_mutex_unlock(&lock);
        return got;
}

int tg_next(tg_node *node, tg_event **ret, int64_t timeout_ns)
{
        struct pollfd p = {.fd = node->fd, .events = POLLIN};
        struct timespec ts = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
        int r = failing(node, __func__);
        uint64_t one;

        __atomic_add_fetch(&n_calls_next, 1, __ATOMIC_RELAXED);
        if (r)
                return r;
        r = ppoll(&p, 1, timeout_ns < 0 ? NULL : &ts, NULL);
        if (r < 0)
                return -errno;
        if (r == 0)
                return TG_E_TIMEOUT;
        if (take(ret)) {
                (void)!read(node->fd, &one, 8);
                return 0;
        }
        return ended ? TG_E_END : TG_E_TIMEOUT;
}

int tg_next_batch(tg_node *node, tg_event **events, size_t n, size_t *ret_n, int64_t timeout_ns)
{
        int r = failing(node, __func__);

        *ret_n = 0;
        if (r == 0)
                r = tg_next(node, events, timeout_ns);
        if (r == 0)
                for (*ret_n = 1; *ret_n < n && tg_next(node, &events[*ret_n], 0) == 0;)
                        ++*ret_n;
        return r;
}

int tg_node_fd(tg_node *node)
{
        int r = failing(node, __func__);

        return r ? r : node->fd;
}

tg_event_kind tg_event_type(const tg_event *ev)
{
        return ev->kind;
}

const char *tg_event_id(const tg_event *ev)
{
        return ev->id;
}

const void *tg_event_data(const tg_event *ev)
{
        return ev->data;
}

size_t tg_event_size(const tg_event *ev)
{
        return ev->size;
}

uint64_t tg_event_seq(const tg_event *ev)
{
        return ev->seq;
}

uint64_t tg_event_time_ns(const tg_event *ev)
{
        return ev->time_ns;
}

const tg_params *tg_event_params(const tg_event *ev)
{
        return ev->params;
}

tg_event *tg_event_free(tg_event *ev)
{
        if (!ev)
                return NULL;
        if (ev->data)
                munmap(ev->data, ev->size);
        tg_params_free(ev->params);
        free(ev->id);
        free(ev);
        __atomic_sub_fetch(&n_events, 1, __ATOMIC_RELAXED);
        return NULL;
}

void tg_events_free(tg_event *const *events, size_t n)
{
        for (size_t i = 0; i < n; i++)
                (void)tg_event_free(events[i]);
}

/* Waits while sends are held, as a send on a full link does. */
static int wait_room(void)
{
        int64_t begin = now_ns();

        __atomic_add_fetch(&n_waits, __atomic_load_n(&held, __ATOMIC_RELAXED), __ATOMIC_RELAXED);
        while (__atomic_load_n(&held, __ATOMIC_RELAXED)) {
                int64_t left = send_timeout_ns < 0 ? 1000000 : send_timeout_ns - (now_ns() - begin);

                if (left <= 0)
                        return TG_E_TIMEOUT;
                if (poll(NULL, 0, left > 5000000 ? 5 : 1) < 0)
                        return -errno;
        }
        return 0;
}

static char *params_text(const tg_params *params)
{
        char *text = NULL;
        size_t n;
        FILE *f = open_memstream(&text, &n);
        const char *key;
        tg_param_type type;

        for (size_t i = 0; tg_params_at(params, i, &key, &type) == 0; i++)
                fprintf(f, "%s:%d ", key, (int)type);
        fclose(f);
        return text;
}

static int send_now(const char *output, const void *data, size_t size, const tg_params *params)
{
        Sent *s;
        int r;

        if (n_room == 0)
                held = true;
        r = wait_room();

        if (r)
                return r;
        pthread_mutex_lock(&lock);
        n_room -= n_room > 0;
        if (n_sent < sizeof(sent) / sizeof(*sent)) {
                s = &sent[n_sent++];
                s->output = strdup(output);
                s->data = malloc(size + 1);
                memcpy(s->data, data, size);
                s->size = size;
                s->params = params_text(params);
        }
        pthread_mutex_unlock(&lock);
        return 0;
}

static bool declared(const char *output)
{
        return strcmp(output, "out") == 0 || strcmp(output, "other") == 0;
}

int tg_send(tg_node *node, const char *output, const void *data, size_t size, const tg_params *params)
{
        int r = failing(node, __func__);

        if (r)
                return r;
        return declared(output) ? send_now(output, data, size, params) : TG_E_NO_OUTPUT;
}

int tg_send_batch(tg_node *node, const char *output, const tg_message *messages, size_t n, size_t *ret_n_sent)
{
        int r = failing(node, __func__);

        *ret_n_sent = 0;
        if (r == 0 && !declared(output))
                r = TG_E_NO_OUTPUT;
        for (size_t i = 0; i < n && r == 0; i++) {
                if (messages[i].size == 3 && memcmp(messages[i].data, "bad", 3) == 0)
                        r = failing(node, "bad");
                if (r == 0)
                        r = send_now(output, messages[i].data, messages[i].size, messages[i].params);
                *ret_n_sent += r == 0;
        }
        return r;
}

int tg_alloc(tg_node *node, const char *output, size_t size, tg_sample **ret)
{
        int r = failing(node, __func__);

        if (r)
                return r;
        if (!declared(output))
                return TG_E_NO_OUTPUT;
        if (size > 1U << 30)
                return -EMSGSIZE;
        *ret = calloc(1, sizeof(**ret));
        (*ret)->output = strdup(output);
        (*ret)->size = size;
        (*ret)->data = mmap(NULL, size + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        n_samples++;
        return 0;
}

void *tg_sample_data(tg_sample *sample)
{
        return sample->data;
}

size_t tg_sample_size(const tg_sample *sample)
{
        return sample->size;
}

tg_sample *tg_sample_free(tg_sample *sample)
{
        if (!sample)
                return NULL;
        munmap(sample->data, sample->size + 1);
        free(sample->output);
        free(sample);
        n_samples--;
        return NULL;
}

int tg_send_sample(tg_sample *sample, const tg_params *params)
{
        int r = failing(the_node, __func__);

        if (r == 0)
                r = send_now(sample->output, sample->data, sample->size, params);
        if (r != TG_E_TIMEOUT && r != -EINTR)
                tg_sample_free(sample);
        return r;
}

void tg_set_send_timeout(tg_node *node, int64_t timeout_ns)
{
        send_timeout_ns = timeout_ns;
}

int tg_close_outputs(tg_node *node, const char *const *outputs, size_t n_outputs)
{
        int r = failing(node, __func__);

        for (size_t i = 0; r == 0 && i < n_outputs; i++)
                r = declared(outputs[i]) ? send_now("close", outputs[i], strlen(outputs[i]), NULL) : TG_E_NO_OUTPUT;
        return r;
}

bool tg_should_stop(const tg_node *node)
{
        return stop_deadline_ns != UINT64_MAX;
}

uint64_t tg_stop_deadline(const tg_node *node)
{
        return stop_deadline_ns;
}

int tg_log(tg_node *node, tg_log_level level, const char *message)
{
        int r = failing(node, __func__);

        if (r == 0)
                printf("log %d %s\n", (int)level, message);
        return r;
}

int tg_input_stats(tg_node *node, const char *input, struct tg_input_stats *ret)
{
        int r = failing(node, __func__);

        if (r)
                return r;
        if (strcmp(input, "in") != 0)
                return -ENOENT;
        *ret = (struct tg_input_stats){.delivered = 1, .dropped_queue = 2, .dropped_pool = 3, .dropped_source = 4, .dropped_invalid = 5};
        return 0;
}
