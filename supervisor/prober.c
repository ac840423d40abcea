/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/prober.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/log.h"
#include "base/task.h"
#include "base/utf8.h"
#include "bpf/call-view.h"
#include "protocol/prober_msg.h"
#include "supervisor/packet.h"
#include "supervisor/server.h"
#include "supervisor/supervisor.h"

#define LOAD_SPAN    (20 * NSEC_PER_SEC) /* some 100 ms, of a processor that is its own; the verifier of a machine under full load */
#define PAUSE_MIN    (1 * NSEC_PER_SEC)  /* before another one */
#define PAUSE_MAX    (60 * NSEC_PER_SEC)
#define CALM_SPAN    (60 * NSEC_PER_SEC) /* one that was attached for so long starts the count anew */
#define FAILURES_MAX 5
#define AGAIN_SPAN   (10 * NSEC_PER_SEC) /* what was not to be had is asked for again by whoever wants it anew, not sooner */
#define COUNT_SPAN   (1 * NSEC_PER_SEC)  /* between looks at what it costs */
#define PLACES_MIN   16u
#define PLACES_MAX   CALL_SLOTS_MAX

typedef enum ProberState {
        PROBER_IDLE,    /* nobody wants anything */
        PROBER_ASKED,   /* the guard was asked */
        PROBER_LOADING,
        PROBER_ATTACHED,
        PROBER_PAUSING,
        PROBER_UNAVAILABLE, /* `why` says it */
} ProberState;

typedef struct Place { /* of the probe's, for one life of a node */
        Node *node; /* NULL: free */
        uint64_t generation;
} Place;

struct Prober {
        Supervisor *supervisor;
        ProberState state;
        int fd, pidfd;
        int32_t pid;
        Source source;
        Timer timer;       /* of ASKED, LOADING and PAUSING */
        unsigned n_orders; /* to the guard, and not answered */
        Timer count_timer; /* of ATTACHED */
        nsec_t pause, given_up_at, attached_at;
        unsigned n_failures;
        uint64_t n_changes;
        char why[224]; /* PAUSING, UNAVAILABLE */

        /* ATTACHED */
        CallView view;
        struct prober_record cost;
        Place places[PLACES_MAX]; /* as many as view.n_slots */
        struct call_count counts[CALL_VIEW_CALLS_MAX]; /* of one place, while it is looked at */
};

/* ---- who wants it */

static bool wants(const Dataflow *dataflow)
{
        const ProbeWish *wish = &dataflow->probe;
        bool planned = dataflow->plan->probe_calls && dataflow->state < DATAFLOW_ENDED && !supervisor_is_private(dataflow->supervisor);

        return !wish->over[0] && (planned || wish->n_streams > 0); /* these also of one that has ended, until its last counts were read */
}

/* So many places will do, with room for the lives that follow. 0: nobody wants any. */
static uint32_t count_wanted(const Supervisor *supervisor)
{
        Dataflow *it, *next;
        uint32_t n = 0, places = PLACES_MIN;
        bool any = false;

        list_for_each(it, next, (List *)(uintptr_t)&supervisor->dataflows, link) {
                if (!wants(it))
                        continue;
                any = true;
                n += (uint32_t)MIN(it->plan->n_nodes, (size_t)PLACES_MAX);
        }
        while (places < 2 * n && places < PLACES_MAX)
                places *= 2;
        return any ? places : 0;
}

static double budget_of(const Dataflow *dataflow)
{
        double budget = dataflow->probe.budget > 0 ? dataflow->probe.budget : dataflow->plan->probe_budget;

        return budget > 0 ? budget : PROBE_BUDGET;
}

static void changed(Prober *p)
{
        p->n_changes++;
        server_look_again(p->supervisor->server);
}

/* ---- places */

static void leave(Prober *p, uint32_t i)
{
        if (!p->places[i].node)
                return;
        call_view_unwatch(&p->view, i);
        p->places[i].node->probe_place = 0;
        p->places[i] = (Place){};
}

static void leave_all(Prober *p, Dataflow *dataflow)
{
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                if (dataflow->nodes[i].probe_place)
                        leave(p, dataflow->nodes[i].probe_place - 1);
        dataflow->probe.watching = false;
        dataflow->probe.share = 0;
        dataflow->probe.n_over = 0;
}

/* A free one, or that of a life that is over, which is shown only until somebody needs the place. */
static int find_place(const Prober *p)
{
        for (uint32_t i = 0; i < p->view.n_slots; i++)
                if (!p->places[i].node)
                        return (int)i;
        for (uint32_t i = 0; i < p->view.n_slots; i++)
                if (p->places[i].node->empty || p->places[i].node->generation != p->places[i].generation)
                        return (int)i;
        return -1;
}

static void watch_node(Prober *p, Node *node)
{
        int i = (int)node->probe_place - 1;

        if (node->cgroup_id == 0 || node->empty || (i >= 0 && p->places[i].generation == node->generation))
                return;
        if (i < 0)
                i = find_place(p);
        if (i >= 0)
                leave(p, (uint32_t)i);
        if (i < 0 || call_view_watch(&p->view, (uint32_t)i, node->cgroup_id)) {
                node->dataflow->probe.n_unplaced++;
                return;
        }
        p->places[i] = (Place){.node = node, .generation = node->generation};
        node->probe_place = (uint32_t)i + 1;
}

static uint64_t count_calls(Prober *p, const Dataflow *dataflow)
{
        uint64_t sum = 0;

        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                size_t n = 0;

                if (dataflow->nodes[i].probe_place)
                        n = call_view_read_all(&p->view, dataflow->nodes[i].probe_place - 1, p->counts, ELEMENTSOF(p->counts));
                for (size_t k = 0; k < n; k++)
                        sum += p->counts[k].count;
        }
        return sum;
}

static void watch(Prober *p, Dataflow *dataflow)
{
        ProbeWish *wish = &dataflow->probe;

        wish->watching = true;
        wish->since = wish->counted_at = p->supervisor->loop.now;
        wish->n_calls = wish->n_unplaced = 0;
        wish->n_over = 0;
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                watch_node(p, &dataflow->nodes[i]);
        changed(p);
}

/* ---- its end */

static void detach(Prober *p)
{
        Supervisor *supervisor = p->supervisor;
        Dataflow *it, *next;

        timer_disarm(&p->count_timer);
        list_for_each(it, next, &supervisor->dataflows, link)
                leave_all(p, it);
        call_view_close(&p->view); /* it is detached by the end of who holds it */
}

static void hang_up(Prober *p)
{
        if (p->state == PROBER_ATTACHED)
                detach(p);
        timer_disarm(&p->timer);
        source_remove(&p->source);
        if (p->pidfd >= 0)
                (void)syscall(SYS_pidfd_send_signal, p->pidfd, SIGKILL, NULL, 0); /* ESRCH: gone already. Reaped by the guard */
        p->fd = fd_close(p->fd);
        p->pidfd = fd_close(p->pidfd);
}

static void let_go(Prober *p)
{
        bool attached = p->state == PROBER_ATTACHED;

        hang_up(p);
        p->state = PROBER_IDLE;
        p->n_failures = 0;
        if (attached && !supervisor_is_private(p->supervisor))
                log_line("system calls of nodes are not counted any more: nobody asks");
        changed(p);
}

Prober *prober_free(Prober *p)
{
        if (!p)
                return NULL;
        hang_up(p);
        free(p);
        return NULL;
}

static void give_up(Prober *p, const char *why)
{
        hang_up(p);
        p->state = PROBER_UNAVAILABLE;
        p->given_up_at = p->supervisor->loop.now;
        if (why != p->why)
                (void)snprintf(p->why, sizeof(p->why), "%s", why);
        if (!supervisor_is_private(p->supervisor))
                log_line("system calls of nodes cannot be counted: %s", p->why);
        prober_look(p->supervisor); /* looks stand in */
        changed(p);
}

static void fail(Prober *p, const char *what);

static int on_load_late(Timer *timer, nsec_t now)
{
        Prober *p = container_of(timer, Prober, timer);

        (void)now;
        p->n_orders = 0; /* an answer that is lost does not come any more */
        fail(p, p->state == PROBER_ASKED ? "is not started: the guard does not answer" : "does not get its probe loaded");
        return 0;
}

static void ask(Prober *p)
{
        const char *off = getenv("TIDEGATE_PROBES");

        if (off && strcmp(off, "off") == 0) {
                give_up(p, "kernel probes are turned off (TIDEGATE_PROBES=off in the supervisor's environment)");
        } else if (geteuid() != 0) {
                give_up(p, "kernel probes need a supervisor of root's");
        } else {
                p->state = PROBER_ASKED;
                p->n_orders++;
                timer_arm(&p->supervisor->loop, &p->timer, nsec_add(p->supervisor->loop.now, LOAD_SPAN), on_load_late);
                guard_fork_helper_order(p->supervisor, GUARD_HELPER_PROBER, MAX(count_wanted(p->supervisor), PLACES_MIN));
        }
}

static int on_pause_over(Timer *timer, nsec_t now)
{
        (void)now;
        ask(container_of(timer, Prober, timer));
        return 0;
}

static void tell_watched(Prober *p)
{
        Dataflow *it, *next;

        list_for_each(it, next, &p->supervisor->dataflows, link)
                if (it->probe.watching)
                        dataflow_probe_event(it, "system calls", p->why);
}

/* It died, wedged, or speaks nonsense. */
static void fail(Prober *p, const char *what)
{
        nsec_t now = p->supervisor->loop.now;

        (void)snprintf(p->why, sizeof(p->why), "tidegate-prober %s", what);
        if (p->state == PROBER_ATTACHED)
                tell_watched(p);
        if (p->state == PROBER_ATTACHED && nsec_add(p->attached_at, CALM_SPAN) <= now)
                p->n_failures = 0;
        if (++p->n_failures >= FAILURES_MAX || p->supervisor->ending) {
                char text[200];

                (void)snprintf(text, sizeof(text), "%.150s, %u times", p->why, p->n_failures);
                give_up(p, text);
                return;
        }
        p->pause = p->n_failures == 1 ? PAUSE_MIN : MIN(4 * p->pause, PAUSE_MAX);
        if (!supervisor_is_private(p->supervisor))
                log_line("%s (pid %d); another one in %u s", p->why, (int)p->pid, (unsigned)(p->pause / NSEC_PER_SEC));
        hang_up(p);
        p->state = PROBER_PAUSING;
        timer_arm(&p->supervisor->loop, &p->timer, nsec_add(now, p->pause), on_pause_over);
        changed(p);
}

/* ---- what it costs */

static void look_at_cost(Prober *p, Dataflow *dataflow, nsec_t now)
{
        ProbeWish *wish = &dataflow->probe;
        uint64_t n = count_calls(p, dataflow);
        double budget = budget_of(dataflow);
        nsec_t span = now - wish->counted_at;

        if (span < COUNT_SPAN / 2)
                return;
        /* Fewer than before: lives have ended and their places went to others. */
        wish->share = n > wish->n_calls ? (double)(n - wish->n_calls) * p->cost.call_ns / (double)span : 0;
        wish->n_calls = n;
        wish->counted_at = now;
        wish->n_over = wish->share > budget ? wish->n_over + 1 : 0;
        if (wish->n_over < PROBE_OVER_MAX)
                return;
        (void)snprintf(wish->over, sizeof(wish->over), "counting its system calls took %.1f %% of a CPU for %u s; the budget is %.4g %%", 100 * wish->share, PROBE_OVER_MAX,
                100 * budget);
        leave_all(p, dataflow);
        dataflow_probe_event(dataflow, "system calls", wish->over);
        changed(p);
}

static int on_count(Timer *timer, nsec_t now)
{
        Prober *p = container_of(timer, Prober, count_timer);
        Supervisor *supervisor = p->supervisor;
        Dataflow *it, *next;

        timer_arm(&supervisor->loop, timer, nsec_add(now, COUNT_SPAN), on_count);
        list_for_each(it, next, &supervisor->dataflows, link)
                if (it->probe.watching)
                        look_at_cost(p, it, now);
        prober_look(supervisor);
        return 0;
}

/* ---- what it says */

static void on_ready(Prober *p, const struct prober_record *record, const int fds[static _PROBER_FD_MAX])
{
        Supervisor *supervisor = p->supervisor;
        int r = call_view_open(&p->view, fds[PROBER_FD_WATCHED], fds[PROBER_FD_SLOTS]);

        if (r || p->view.n_slots > PLACES_MAX) {
                call_view_close(&p->view);
                fail(p, "handed over what cannot be mapped");
                return;
        }
        timer_disarm(&p->timer);
        p->state = PROBER_ATTACHED;
        p->attached_at = supervisor->loop.now;
        p->cost = *record;
        timer_arm(&supervisor->loop, &p->count_timer, nsec_add(supervisor->loop.now, COUNT_SPAN), on_count);
        if (!supervisor_is_private(supervisor))
                log_line("system calls of nodes are counted by the kernel where somebody asks (probe loaded in %u ms; it takes %u ns a call, and %u ns of one of anybody else's)",
                        record->load_ms, record->call_ns, record->other_call_ns);
        prober_look(supervisor);
}

static void on_unavailable(Prober *p, const struct prober_record *record)
{
        _cleanup_free_ char *text = utf8_clean(record->text, strlen(record->text), NULL);

        give_up(p, text ? text : "memory is short");
}

static int on_socket(Source *source, uint32_t revents)
{
        Prober *p = container_of(source, Prober, source);
        struct prober_record record;
        int fds[_PROBER_FD_MAX];
        size_t size = 0, n_fds = 0;
        int r = packet_recv(p->fd, &record, sizeof(record), &size, fds, ELEMENTSOF(fds), &n_fds);

        (void)revents;
        if (r == PACKET_E_AGAIN)
                return 0;
        if (r == PACKET_E_CLOSED)
                fail(p, "is gone");
        else if (r || p->state != PROBER_LOADING || prober_msg_check(&record, size, n_fds))
                fail(p, "broke its protocol");
        else if (record.type == PROBER_MSG_READY)
                on_ready(p, &record, fds);
        else
                on_unavailable(p, &record);
        for (size_t i = 0; i < n_fds; i++)
                fds[i] = fd_close(fds[i]); /* of our own helper, and mapped: neither is the last one */
        return 0;
}

/* The last order's answer: who was started for an earlier one is killed for the next one. */
static bool is_answered(Prober *p)
{
        p->n_orders -= p->n_orders > 0;
        return p->n_orders == 0 && p->state == PROBER_ASKED;
}

void prober_on_started(Supervisor *supervisor, int32_t pid, int take_sock, int take_pidfd)
{
        Prober *p = supervisor->prober;

        if (!p || !is_answered(p)) { /* not wanted any more: what it sends goes nowhere, and is detached with that */
                (void)fd_close(take_sock);
                (void)fd_close(take_pidfd);
                return;
        }
        p->pid = pid;
        p->fd = take_sock;
        p->pidfd = take_pidfd;
        p->state = PROBER_LOADING;
        if (source_add(&supervisor->loop, &p->source, p->fd, EPOLLIN, SOURCE_EXITS, on_socket)) {
                give_up(p, strerror(ENOMEM));
                return;
        }
        timer_arm(&supervisor->loop, &p->timer, nsec_add(supervisor->loop.now, LOAD_SPAN), on_load_late);
}

void prober_on_failed(Supervisor *supervisor, int error)
{
        Prober *p = supervisor->prober;
        char why[128];

        if (!p || !is_answered(p))
                return;
        if (error == ENOTSUP)
                (void)snprintf(why, sizeof(why), "nodes have no cgroup here");
        else if (error == ENOENT)
                (void)snprintf(why, sizeof(why), "there is no tidegate-prober beside tidegated (built without kernel probes)");
        else
                (void)snprintf(why, sizeof(why), "tidegate-prober could not be started: %s", error_text(-error));
        give_up(p, why);
}

/* ---- wishes */

void prober_look(Supervisor *supervisor)
{
        bool wanted = count_wanted(supervisor) > 0 && !supervisor->ending;
        Prober *p = supervisor->prober;
        Dataflow *it, *next;

        if (!p && wanted) {
                p = calloc(1, sizeof(*p));
                if (!p)
                        return; /* asked for again with the next change */
                *p = (Prober){.supervisor = supervisor, .fd = -1, .pidfd = -1, .view = CALL_VIEW_INIT};
                supervisor->prober = p;
        }
        if (!p)
                return;
        if (wanted && p->state == PROBER_IDLE)
                ask(p);
        else if (!wanted && p->state != PROBER_IDLE && p->state != PROBER_UNAVAILABLE)
                let_go(p);
        list_for_each(it, next, &supervisor->dataflows, link)
                sampler_set(it, p->state == PROBER_UNAVAILABLE && it->probe.n_streams > 0 && it->state < DATAFLOW_ENDED);
        if (p->state != PROBER_ATTACHED)
                return;
        list_for_each(it, next, &supervisor->dataflows, link) {
                if (!it->probe.watching && wants(it))
                        watch(p, it);
                else if (it->probe.watching && !wants(it))
                        leave_all(p, it);
        }
}

void prober_want(Dataflow *dataflow, double budget)
{
        Supervisor *supervisor = dataflow->supervisor;
        Prober *p = supervisor->prober;

        dataflow->probe.n_streams++;
        dataflow->probe.over[0] = '\0';
        dataflow->probe.n_over = 0;
        if (budget > 0)
                dataflow->probe.budget = budget;
        if (p && p->state == PROBER_UNAVAILABLE && nsec_add(p->given_up_at, AGAIN_SPAN) <= supervisor->loop.now) {
                p->state = PROBER_IDLE;
                p->n_failures = 0;
        }
        prober_look(supervisor);
}

void prober_unwant(Dataflow *dataflow)
{
        if (--dataflow->probe.n_streams == 0)
                dataflow->probe.budget = 0;
        prober_look(dataflow->supervisor);
}

void prober_forget(Dataflow *dataflow)
{
        server_forget_probes(dataflow->supervisor->server, dataflow);
        sampler_set(dataflow, false);
        if (dataflow->supervisor->prober && dataflow->nodes && dataflow->plan)
                leave_all(dataflow->supervisor->prober, dataflow);
        dataflow->probe = (ProbeWish){};
}

void prober_node_home(Node *node)
{
        Prober *p = node->dataflow->supervisor->prober;

        if (p && p->state == PROBER_ATTACHED && node->dataflow->probe.watching)
                watch_node(p, node);
}

/* ---- what is shown */

uint64_t prober_n_changes(const Supervisor *supervisor)
{
        return supervisor->prober ? supervisor->prober->n_changes : 0;
}

const char *prober_reason(const Dataflow *dataflow, char *buffer, size_t size, bool *ret_settled)
{
        const Prober *p = dataflow->supervisor->prober;
        const char *why = "nobody has asked for it";

        *ret_settled = true;
        if (dataflow->probe.over[0]) {
                why = dataflow->probe.over;
        } else if (dataflow->probe.watching) {
                if (dataflow->probe.n_unplaced == 0)
                        return NULL;
                (void)snprintf(buffer, size, "no place was left for %llu of its lives: %u at a time can be watched", (unsigned long long)dataflow->probe.n_unplaced,
                        p->view.n_slots);
                return buffer;
        } else if (p && p->state == PROBER_UNAVAILABLE) {
                why = p->why;
        } else if (p && p->state == PROBER_PAUSING) {
                why = p->why;
        } else if (p && (p->state == PROBER_ASKED || p->state == PROBER_LOADING)) {
                why = "it is being attached";
                *ret_settled = false;
        }
        (void)snprintf(buffer, size, "%s", why);
        return buffer;
}

json_t *prober_describe(const Dataflow *dataflow)
{
        const Prober *p = dataflow->supervisor->prober;
        const ProbeWish *wish = &dataflow->probe;
        char buffer[256];
        bool settled;
        json_t *probes = json_pack("{sb ss* sI so so}", "attached", wish->watching, "reason", prober_reason(dataflow, buffer, sizeof(buffer), &settled), "at_ms",
                (json_int_t)(dataflow->loop->now / NSEC_PER_MSEC), "nodes", json_array(), "links", json_array());

        if (!probes || !wish->watching)
                return probes;
        (void)json_object_set_new(probes, "attached_at_ms", json_integer((json_int_t)(wish->since / NSEC_PER_MSEC)));
        (void)json_object_set_new(probes, "cost",
                json_pack("{sI sI sI sf sf}", "load_ms", (json_int_t)p->cost.load_ms, "call_ns", (json_int_t)p->cost.call_ns, "other_call_ns",
                        (json_int_t)p->cost.other_call_ns, "share", wish->share, "budget", budget_of(dataflow)));
        return probes;
}

static json_t *describe_call(const struct call_count *count, nsec_t now)
{
        const char *name = count->number == CALL_OTHER ? "other" : task_call_name((int32_t)count->number);
        json_t *log2 = json_array(), *call;
        char unnamed[24];
        int last = -1;

        (void)snprintf(unnamed, sizeof(unnamed), "call-%u", count->number);
        for (int i = 0; i < CALL_BUCKETS; i++)
                if (count->log2_ns[i])
                        last = i;
        for (int i = 0; i <= last; i++)
                (void)json_array_append_new(log2, json_integer((json_int_t)count->log2_ns[i]));
        call = json_pack("{ss sI sI sI sI so}", "call", name ? name : unnamed, "number", (json_int_t)count->number, "count", (json_int_t)count->count, "errors",
                (json_int_t)count->errors, "total_ns", (json_int_t)count->total_ns, "log2_ns", log2);
        if (call && count->now > 0) {
                (void)json_object_set_new(call, "now", json_integer(count->now));
                (void)json_object_set_new(call, "now_longest_ns", json_integer((json_int_t)nsec_left(now, count->now_since_ns)));
        }
        return call;
}

json_t *prober_describe_node(const Node *node)
{
        Prober *p = node->dataflow->supervisor->prober;
        uint32_t place = node->probe_place - 1;
        nsec_t now = clock_now();
        json_t *calls, *samples;
        size_t n;

        if (p && p->state != PROBER_ATTACHED && (samples = sampler_describe(node)))
                return json_pack("{ss sI s[] sI so}", "node", node->plan->id, "generation", (json_int_t)node->samples->generation, "calls", "lost", (json_int_t)0, "sampled", samples);
        if (!p || p->state != PROBER_ATTACHED || node->probe_place == 0)
                return NULL;
        calls = json_array();
        n = call_view_read_all(&p->view, place, p->counts, ELEMENTSOF(p->counts));
        for (size_t i = 0; i < n; i++)
                (void)json_array_append_new(calls, describe_call(&p->counts[i], now));
        return json_pack("{ss sI so sI}", "node", node->plan->id, "generation", (json_int_t)p->places[place].generation, "calls", calls, "lost",
                (json_int_t)call_view_lost(&p->view, place));
}

/* It is in the call that the report tells of, and was so at the first look. */
static bool is_in(const struct call_thread *found, const json_t *thread, nsec_t looked)
{
        const char *told = json_string_value(json_object_get(thread, "syscall")), *name = found->number == CALL_OTHER ? NULL : task_call_name((int32_t)found->number);

        return found->tid == json_integer_value(json_object_get(thread, "tid")) && told && name && strcmp(told, name) == 0 && found->begin_ns <= looked;
}

void prober_date(const Node *node, json_t *report)
{
        const Prober *p = node->dataflow->supervisor->prober;
        json_t *told = json_object_get(report, "threads"), *thread;
        nsec_t looked = (nsec_t)json_integer_value(json_object_get(report, "at_ms")) * NSEC_PER_MSEC, now;
        struct call_thread threads[CALL_THREADS];
        uint32_t place = node->probe_place - 1;
        size_t n, i;

        if (!p || p->state != PROBER_ATTACHED || node->probe_place == 0 ||
                p->places[place].generation != (uint64_t)json_integer_value(json_object_get(report, "generation")))
                return;
        n = MIN(call_view_threads(&p->view, place, threads, ELEMENTSOF(threads)), ELEMENTSOF(threads));
        now = clock_now();
        json_array_foreach(told, i, thread)
                for (size_t k = 0; k < n; k++)
                        if (is_in(&threads[k], thread, looked))
                                (void)json_object_set_new(thread, "since_ms", json_integer((json_int_t)(nsec_left(now, threads[k].begin_ns) / NSEC_PER_MSEC)));
}
