/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/prober.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/task.h"
#include "base/utf8.h"
#include "bpf/call-view.h"
#include "protocol/prober_msg.h"
#include "supervisor/helper.h"
#include "supervisor/packet.h"
#include "supervisor/server.h"
#include "supervisor/supervisor.h"

#define COUNT_SPAN   (1 * NSEC_PER_SEC)  /* between looks at what it costs */
#define PLACES_MIN   16u
#define PLACES_MAX   CALL_SLOTS_MAX

typedef struct Place { /* of the probe's, for one life of a node */
        Node *node; /* NULL: free */
        uint64_t generation;
} Place;

struct Prober {
        Supervisor *supervisor;
        Helper helper;
        Timer count_timer; /* READY */
        uint64_t n_changes;

        /* READY */
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

static void let_go(Prober *p)
{
        bool attached = p->helper.state == HELPER_READY;

        detach(p);
        helper_let_go(&p->helper);
        if (attached && !supervisor_is_private(p->supervisor))
                log_line("system calls of nodes are not counted any more: nobody asks");
        changed(p);
}

Prober *prober_free(Prober *p)
{
        if (!p)
                return NULL;
        detach(p);
        helper_done(&p->helper);
        free(p);
        return NULL;
}

static void tell_watched(Prober *p)
{
        Dataflow *it, *next;

        list_for_each(it, next, &p->supervisor->dataflows, link)
                if (it->probe.watching)
                        dataflow_probe_event(it, "system calls", p->helper.why);
}

static void on_ended(Helper *helper, const char *what)
{
        Prober *p = container_of(helper, Prober, helper);
        bool said = !supervisor_is_private(p->supervisor);

        (void)what;
        tell_watched(p);
        detach(p);
        if (said && helper->state == HELPER_PAUSING)
                log_line("%s (pid %d); another one in %u s", helper->why, (int)helper->pid, (unsigned)(helper->pause / NSEC_PER_SEC));
        else if (said)
                log_line("system calls of nodes cannot be counted: %s", helper->why);
        if (helper->state == HELPER_OFF)
                prober_look(p->supervisor); /* looks stand in */
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
                helper_fail(&p->helper, "handed over what cannot be mapped");
                return;
        }
        helper_is_ready(&p->helper);
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

        helper_give_up(&p->helper, text ? text : "memory is short");
}

static int on_socket(Source *source, uint32_t revents)
{
        Helper *helper = container_of(source, Helper, source);
        Prober *p = container_of(helper, Prober, helper);
        struct prober_record record;
        int fds[_PROBER_FD_MAX];
        size_t size = 0, n_fds = 0;
        int r = packet_recv(helper->fd, &record, sizeof(record), &size, fds, ELEMENTSOF(fds), &n_fds);

        (void)revents;
        if (r == PACKET_E_AGAIN)
                return 0;
        if (r == PACKET_E_CLOSED)
                helper_fail(helper, "is gone");
        else if (r || helper->state != HELPER_LOADING || prober_msg_check(&record, size, n_fds))
                helper_fail(helper, "broke its protocol");
        else if (record.type == PROBER_MSG_READY)
                on_ready(p, &record, fds);
        else
                on_unavailable(p, &record);
        for (size_t i = 0; i < n_fds; i++)
                fds[i] = fd_close(fds[i]); /* of our own helper, and mapped: neither is the last one */
        return 0;
}

static uint32_t n_places(const Helper *helper)
{
        return MAX(count_wanted(helper->supervisor), PLACES_MIN);
}

static const HelperKind kind = {.which = GUARD_HELPER_PROBER,
        .program = "tidegate-prober",
        .name = "tidegate-prober",
        .n_tries = 5,
        .growth = 4,
        .word = n_places,
        .on_socket = on_socket,
        .ended = on_ended};

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
                p->supervisor = supervisor;
                helper_init(&p->helper, &kind, supervisor);
                supervisor->prober = p;
        }
        if (!p)
                return;
        if (wanted && p->helper.state == HELPER_IDLE)
                helper_ask(&p->helper);
        else if (!wanted && p->helper.state != HELPER_IDLE && p->helper.state != HELPER_OFF)
                let_go(p);
        list_for_each(it, next, &supervisor->dataflows, link)
                sampler_set(it, p->helper.state == HELPER_OFF && it->probe.n_streams > 0 && it->state < DATAFLOW_ENDED);
        if (p->helper.state != HELPER_READY)
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
        if (p)
                helper_may_again(&p->helper, p->helper.given_up_at);
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

        if (p && p->helper.state == HELPER_READY && node->dataflow->probe.watching)
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
        } else if (p && (p->helper.state == HELPER_OFF || p->helper.state == HELPER_PAUSING)) {
                why = p->helper.why;
        } else if (p && p->helper.state != HELPER_IDLE) {
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

        if (p && p->helper.state != HELPER_READY && (samples = sampler_describe(node)))
                return json_pack("{ss sI s[] sI so}", "node", node->plan->id, "generation", (json_int_t)node->samples->generation, "calls", "lost", (json_int_t)0, "sampled", samples);
        if (!p || p->helper.state != HELPER_READY || node->probe_place == 0)
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

        if (!p || p->helper.state != HELPER_READY || node->probe_place == 0 ||
                p->places[place].generation != (uint64_t)json_integer_value(json_object_get(report, "generation")))
                return;
        n = MIN(call_view_threads(&p->view, place, threads, ELEMENTSOF(threads)), ELEMENTSOF(threads));
        now = clock_now();
        json_array_foreach(told, i, thread)
                for (size_t k = 0; k < n; k++)
                        if (is_in(&threads[k], thread, looked))
                                (void)json_object_set_new(thread, "since_ms", json_integer((json_int_t)(nsec_left(now, threads[k].begin_ns) / NSEC_PER_MSEC)));
}
