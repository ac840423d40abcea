/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/witness.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/log.h"
#include "base/utf8.h"
#include "protocol/witness_msg.h"
#include "supervisor/packet.h"

#define LOAD_SPAN      (20 * NSEC_PER_SEC)  /* some 50 ms, of a processor that is its own; the verifier of a machine under full load */
#define ANSWER_SPAN    (5 * NSEC_PER_SEC)   /* of a look, likewise */
#define LOOK_PAUSE     (20 * NSEC_PER_MSEC) /* from a departure to a look for those whom it forked meanwhile: what the keeper needs to end it */
#define PAUSE_MIN      (1 * NSEC_PER_SEC)   /* before another one */
#define PAUSE_MAX      (60 * NSEC_PER_SEC)
#define CALM_SPAN      (60 * NSEC_PER_SEC)  /* one that was there for so long starts the count anew */
#define FAILURES_MAX   5
#define RECORDS_A_TURN 64

typedef enum WitnessState {
        WITNESS_ASKED,   /* the guard was asked */
        WITNESS_LOADING,
        WITNESS_WATCHING,
        WITNESS_PAUSING,
        WITNESS_OFF,     /* not to be had, or given up */
} WitnessState;

struct Witness {
        Supervisor *supervisor;
        WitnessState state;
        int fd, pidfd;
        int32_t pid;
        Source source;
        Timer timer;      /* of LOADING and PAUSING */
        Timer look_timer; /* a look is due */
        Timer answer_timer; /* one is under way: until when */
        bool look_again;  /* ... and another is wanted */
        nsec_t since;     /* WATCHING */
        nsec_t pause;
        unsigned n_failures;
        uint64_t dropped;
};

static void hang_up(Witness *w)
{
        timer_disarm(&w->timer);
        timer_disarm(&w->look_timer);
        timer_disarm(&w->answer_timer);
        source_remove(&w->source);
        if (w->pidfd >= 0)
                (void)syscall(SYS_pidfd_send_signal, w->pidfd, SIGKILL, NULL, 0); /* ESRCH: gone already. Reaped by the guard */
        w->fd = fd_close(w->fd);
        w->pidfd = fd_close(w->pidfd);
        w->look_again = false;
}

Witness *witness_free(Witness *w)
{
        if (!w)
                return NULL;
        hang_up(w);
        free(w);
        return NULL;
}

static void give_up(Witness *w, const char *why)
{
        hang_up(w);
        w->state = WITNESS_OFF;
        if (!supervisor_is_private(w->supervisor))
                log_line("who leaves its node's cgroup is looked for, not seen: %s", why);
}

static int on_pause_over(Timer *timer, nsec_t now)
{
        Witness *w = container_of(timer, Witness, timer);

        (void)now;
        w->state = WITNESS_ASKED;
        guard_fork_helper_order(w->supervisor, GUARD_HELPER_WITNESS, 0);
        return 0;
}

/* It died, wedged, or speaks nonsense. */
static void fail(Witness *w, const char *why)
{
        Supervisor *supervisor = w->supervisor;
        char text[200];

        if (w->state == WITNESS_WATCHING && nsec_add(w->since, CALM_SPAN) <= supervisor->loop.now)
                w->n_failures = 0;
        if (++w->n_failures >= FAILURES_MAX || supervisor->ending) {
                (void)snprintf(text, sizeof(text), "the witness %s, %u times", why, w->n_failures);
                give_up(w, text);
                return;
        }
        w->pause = w->n_failures == 1 ? PAUSE_MIN : MIN(2 * w->pause, PAUSE_MAX);
        if (!supervisor_is_private(supervisor))
                log_line("the witness (pid %d) %s; another one in %u s, who leaves its node's cgroup is looked for meanwhile", (int)w->pid, why, (unsigned)(w->pause / NSEC_PER_SEC));
        hang_up(w);
        w->state = WITNESS_PAUSING;
        timer_arm(&supervisor->loop, &w->timer, nsec_add(supervisor->loop.now, w->pause), on_pause_over);
}

/* ---- looks */

static int on_no_answer(Timer *timer, nsec_t now)
{
        (void)now;
        fail(container_of(timer, Witness, answer_timer), "does not answer");
        return 0;
}

static int on_look_due(Timer *timer, nsec_t now)
{
        Witness *w = container_of(timer, Witness, look_timer);
        struct witness_record order = {.magic = WITNESS_MAGIC, .type = WITNESS_MSG_LOOK};

        if (w->answer_timer.loop) {
                w->look_again = true;
                return 0;
        }
        (void)packet_send(w->fd, &order, sizeof(order), NULL, 0); /* not sent: not answered */
        timer_arm(&w->supervisor->loop, &w->answer_timer, nsec_add(now, ANSWER_SPAN), on_no_answer);
        return 0;
}

static void look_after(Witness *w, nsec_t span)
{
        if (w->state == WITNESS_WATCHING && !w->look_timer.loop)
                timer_arm(&w->supervisor->loop, &w->look_timer, nsec_add(w->supervisor->loop.now, span), on_look_due);
}

static void on_looked(Witness *w, const struct witness_record *record)
{
        timer_disarm(&w->answer_timer);
        if (record->dropped > w->dropped && !supervisor_is_private(w->supervisor))
                log_line("the kernel had no room for %llu words of who left; who is elsewhere is known all the same", (unsigned long long)(record->dropped - w->dropped));
        w->dropped = MAX(w->dropped, record->dropped);
        if (w->look_again)
                look_after(w, LOOK_PAUSE);
        w->look_again = false;
}

/* ---- whose it is */

static Node *find_node(const Supervisor *supervisor, const struct witness_record *record, uint64_t *ret_generation)
{
        const char *dot = strrchr(record->node, '.');
        Dataflow *it, *next;
        char *end;

        if (!dot || dot[1] < '1' || dot[1] > '9')
                return NULL;
        *ret_generation = strtoull(dot + 1, &end, 10);
        if (*end)
                return NULL;
        list_for_each(it, next, &supervisor->dataflows, link) {
                if (strcmp(it->uuid_text, record->dataflow) != 0)
                        continue;
                for (size_t i = 0; i < it->plan->n_nodes; i++) {
                        const char *id = it->plan->nodes[i].id;

                        if (strlen(id) == (size_t)(dot - record->node) && memcmp(id, record->node, strlen(id)) == 0)
                                return &it->nodes[i];
                }
        }
        return NULL;
}

/*
 * A captured process is somebody's, who may move it. What a node that manages cgroups has placed elsewhere, a container engine's
 * containers, is not astray: whoever went there itself is.
 */
static bool is_left_alone(const Node *node, const struct witness_record *record)
{
        return node->captured || (node->plan->cgroup_writable && !record->self);
}

static void on_left(Witness *w, const struct witness_record *record)
{
        _cleanup_free_ char *comm = utf8_clean(record->comm, strlen(record->comm), NULL), *to = utf8_clean(record->to, strlen(record->to), NULL);
        uint64_t generation = 0;
        Node *node = find_node(w->supervisor, record, &generation);
        bool alone = node && is_left_alone(node, record);
        char from[2 * WITNESS_NAME_SIZE];

        if (record->type == WITNESS_MSG_MOVED || record->type == WITNESS_MSG_BORN || !alone)
                look_after(w, LOOK_PAUSE); /* until nobody is found */
        if (!comm || !to || (alone && record->type == WITNESS_MSG_FOUND))
                return;
        if (!node) { /* of a dataflow that is forgotten, or that another supervisor is to adopt */
                log_line("process %d (%s) of %s/%s, which is not known, is in %s", (int)record->pid, comm, record->dataflow, record->node, to[0] ? to : "another cgroup");
                return;
        }
        if (keeper_order_astray(node, generation, record->pid, record->start_ns, alone, comm, to) == 0)
                return;
        (void)snprintf(from, sizeof(from), "%s/%s", record->dataflow, record->node);
        dataflow_escape_event(node->dataflow, node, record->pid, comm, from, to, alone ? KEEPER_ESCAPED_ALONE : 0); /* its keeper is being replaced */
}

/* ---- what it says */

static void on_ready(Witness *w, const struct witness_record *record)
{
        timer_disarm(&w->timer);
        w->state = WITNESS_WATCHING;
        w->since = w->supervisor->loop.now;
        if (!supervisor_is_private(w->supervisor))
                log_line("who leaves its node's cgroup is seen by the kernel (probe loaded in %u ms)", record->ms);
}

static bool on_record(Witness *w, const struct witness_record *record)
{
        bool ready = w->state == WITNESS_WATCHING;
        char why[WITNESS_PATH_SIZE + 16];

        if (ready == (record->type == WITNESS_MSG_READY || record->type == WITNESS_MSG_UNAVAILABLE))
                return false;
        if (record->type == WITNESS_MSG_READY)
                on_ready(w, record);
        else if (record->type == WITNESS_MSG_LOOKED)
                on_looked(w, record);
        else if (record->type != WITNESS_MSG_UNAVAILABLE)
                on_left(w, record);
        else {
                (void)snprintf(why, sizeof(why), "%s", record->to);
                give_up(w, why);
        }
        return true;
}

static int on_socket(Source *source, uint32_t revents)
{
        Witness *w = container_of(source, Witness, source);

        (void)revents;
        for (unsigned i = 0; i < RECORDS_A_TURN && w->fd >= 0; i++) {
                struct witness_record record;
                size_t size = 0;
                int r = packet_recv(w->fd, &record, sizeof(record), &size, NULL, 0, NULL);

                if (r == PACKET_E_AGAIN)
                        return 0;
                if (r == PACKET_E_CLOSED)
                        fail(w, "is gone");
                else if (r || witness_msg_check(WITNESS_SENDER_WITNESS, &record, size) || !on_record(w, &record))
                        fail(w, "broke its protocol");
        }
        return 0;
}

/* ---- its beginning */

void witness_want(Supervisor *supervisor)
{
        const char *off = getenv("TIDEGATE_PROBES");
        Witness *w = supervisor->witness;

        if (w) {
                look_after(w, LOOK_PAUSE); /* one that is wedged shows when it matters */
                return;
        }
        if (geteuid() != 0 || supervisor->ending || (off && strcmp(off, "off") == 0))
                return;
        w = calloc(1, sizeof(*w));
        if (!w)
                return;
        *w = (Witness){.supervisor = supervisor, .fd = -1, .pidfd = -1};
        supervisor->witness = w;
        guard_fork_helper_order(supervisor, GUARD_HELPER_WITNESS, 0);
}

static int on_load_late(Timer *timer, nsec_t now)
{
        (void)now;
        fail(container_of(timer, Witness, timer), "does not get its probe loaded");
        return 0;
}

void witness_on_started(Supervisor *supervisor, int32_t pid, int take_sock, int take_pidfd)
{
        Witness *w = supervisor->witness;

        if (!w || w->state != WITNESS_ASKED) { /* not ours any more: it ends when we close this */
                (void)fd_close(take_sock);
                (void)fd_close(take_pidfd);
                return;
        }
        w->pid = pid;
        w->fd = take_sock;
        w->pidfd = take_pidfd;
        w->state = WITNESS_LOADING;
        if (source_add(&supervisor->loop, &w->source, w->fd, EPOLLIN, SOURCE_EXITS, on_socket)) {
                give_up(w, strerror(ENOMEM));
                return;
        }
        timer_arm(&supervisor->loop, &w->timer, nsec_add(supervisor->loop.now, LOAD_SPAN), on_load_late);
}

void witness_on_failed(Supervisor *supervisor, int error)
{
        Witness *w = supervisor->witness;
        char why[128];

        if (!w || w->state != WITNESS_ASKED)
                return;
        if (error == ENOTSUP)
                (void)snprintf(why, sizeof(why), "nodes have no cgroup here");
        else if (error == ENOENT)
                (void)snprintf(why, sizeof(why), "there is no tidegate-witness beside tidegated (built without kernel probes)");
        else
                (void)snprintf(why, sizeof(why), "tidegate-witness could not be started: %s", error_text(-error));
        give_up(w, why);
}
