/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/queues.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/log.h"
#include "base/utf8.h"
#include "bpf/queue-view.h"
#include "protocol/queues_msg.h"
#include "shm/control.h"
#include "shm/probe.h"
#include "supervisor/packet.h"
#include "supervisor/server.h"
#include "supervisor/supervisor.h"
#include "supervisor/wiring.h"

#define LOAD_SPAN    (20 * NSEC_PER_SEC) /* some 50 ms, of a processor that is its own */
#define SHOW_SPAN    (12 * NSEC_PER_SEC) /* for a keeper to show the files of its dataflow: its own deadline is shorter */
#define LATE_SPAN    (8 * NSEC_PER_SEC)  /* ... and for the helper to be done with them after that */
#define AGAIN_SPAN   (10 * NSEC_PER_SEC) /* what was not to be had is asked for again by whoever wants it anew, not sooner */
#define COUNT_SPAN   (250 * NSEC_PER_MSEC)
#define FIRST_MASK   UINT64_C(1023) /* until it is known how many messages there are: 1 in 1024 */
#define LINKS_MIN    256u
#define LINGER_SPAN  (1 * NSEC_PER_SEC) /* the kernel takes some tenths of a second to detach */

typedef enum QueuesState {
        QUEUES_IDLE,    /* nobody wants anything */
        QUEUES_ASKED,   /* the guard was asked */
        QUEUES_LOADING,
        QUEUES_READY,   /* files can be shown to it */
        QUEUES_UNAVAILABLE, /* `why` says it */
} QueuesState;

struct Queues {
        Supervisor *supervisor;
        QueuesState state;
        int fd, pidfd;
        Source source;
        Timer timer;       /* of ASKED and LOADING, and of READY while somebody is asked */
        unsigned n_orders; /* to the guard, and not answered */
        Timer count_timer; /* of READY */
        Timer linger_timer; /* it may still be attached, though nobody wants it any more ... */
        int lingers_pidfd;  /* ... for as long as this one is there; -1: that is not known */
        nsec_t tried_at;
        char why[160]; /* UNAVAILABLE */

        /* READY */
        QueueView view;
        uint32_t load_ms, hit_ns;
        Dataflow *asked; /* whose files are being shown; NULL: nobody's */
        uint64_t n_asked, n_done; /* answers come in order: one to an earlier question is nobody's any more */
        nsec_t asked_at;
        int from_fd; /* the helper's end of what files come by, too: to end that for it. Not the keeper's, for then it had no end. -1: that was done */
};

/* ---- who wants it */

static bool is_asked_for(const Dataflow *dataflow)
{
        return dataflow->queues.n_streams > 0 || (dataflow->plan->probe_queues && !supervisor_is_private(dataflow->supervisor));
}

/* It may be had, now or when something else of it has started. */
static bool may_want(const Dataflow *dataflow)
{
        return is_asked_for(dataflow) && !dataflow->queues.gone && dataflow->n_links > 0 && dataflow->state < DATAFLOW_ENDING;
}

static bool wants(const Dataflow *dataflow)
{
        return may_want(dataflow) && !dataflow->queues.why[0];
}

/* The helper stays: or a node without sites that dies again and again would have the probe loaded each time. */
static bool may_be_wanted(const Supervisor *supervisor)
{
        Dataflow *it, *next;

        list_for_each(it, next, (List *)(uintptr_t)&supervisor->dataflows, link)
                if (may_want(it))
                        return true;
        return false;
}

static double budget_of(const Dataflow *dataflow)
{
        double budget = dataflow->queues.budget > 0 ? dataflow->queues.budget : dataflow->plan->probe_budget;

        return budget > 0 ? budget : PROBE_BUDGET;
}

/* So many places will do, with room for dataflows that follow. 0: nobody wants any. */
static uint32_t count_wanted(const Supervisor *supervisor)
{
        Dataflow *it, *next;
        uint64_t n = 0, places = LINKS_MIN;

        list_for_each(it, next, (List *)(uintptr_t)&supervisor->dataflows, link)
                n += wants(it) ? it->n_links : 0;
        while (places < 2 * n && places < QUEUE_LINKS_MAX)
                places *= 2;
        return n > 0 ? (uint32_t)places : 0;
}

/* Of whom messages cannot be seen one by one, while somebody streams. */
static void look_instead(Dataflow *dataflow)
{
        const Queues *q = dataflow->supervisor->queues;
        const QueueWish *wish = &dataflow->queues;
        bool lost = wish->why[0] || (q && q->state == QUEUES_UNAVAILABLE);

        queue_looks_set(dataflow, lost && wish->n_streams > 0 && !wish->watching && dataflow->n_links > 0 && dataflow->state < DATAFLOW_ENDED);
}

static void look_at_all_instead(Supervisor *supervisor)
{
        Dataflow *it, *next;

        list_for_each(it, next, &supervisor->dataflows, link)
                look_instead(it);
}

/* ---- which messages are told of */

static uint64_t mask_of(const Dataflow *dataflow)
{
        const Queues *q = dataflow->supervisor->queues;

        if (!q || (q->state != QUEUES_READY && !q->linger_timer.loop))
                return 0; /* whoever else attaches sees all */
        return dataflow->queues.watching ? dataflow->queues.mask : PROBE_MASK_NONE;
}

void queues_node_prepared(Node *node)
{
        if (node->control.map)
                control_set_probe_mask(&node->control, mask_of(node->dataflow));
}

static void tell_mask(Dataflow *dataflow)
{
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                queues_node_prepared(&dataflow->nodes[i]);
}

static void tell_all_masks(Supervisor *supervisor)
{
        Dataflow *it, *next;

        list_for_each(it, next, &supervisor->dataflows, link)
                tell_mask(it);
}

/* ---- watching */

/* No more files come, also from a keeper that hangs, or has not read yet that it is asked. */
static void cut(Queues *q)
{
        if (q->from_fd >= 0)
                (void)shutdown(q->from_fd, SHUT_RDWR);
        q->from_fd = fd_close(q->from_fd);
}

static void end_question(Queues *q)
{
        cut(q);
        q->asked = NULL; /* the answers are nobody's then */
        timer_disarm(&q->timer);
}

static void unwatch(Queues *q, Dataflow *dataflow)
{
        QueueWish *wish = &dataflow->queues;

        if (wish->watching)
                queue_view_unwatch(&q->view, wish->cgroup_id);
        if (q->asked == dataflow)
                end_question(q);
        wish->watching = wish->shown = wish->done = wish->waits = false;
        wish->share = 0;
}

static void refuse(Queues *q, Dataflow *dataflow, const char *why)
{
        unwatch(q, dataflow);
        (void)snprintf(dataflow->queues.why, sizeof(dataflow->queues.why), "%s", why);
        tell_mask(dataflow);
        look_instead(dataflow);
}

static void watch(Queues *q, Dataflow *dataflow)
{
        QueueWish *wish = &dataflow->queues;

        if (queue_view_watch(&q->view, wish->cgroup_id, dataflow->n_links)) {
                refuse(q, dataflow, "there is no place for so many links");
                return;
        }
        wish->watching = true;
        wish->mask = FIRST_MASK;
        wish->since = wish->counted_at = q->supervisor->loop.now;
        wish->n_told = 0;
        wish->share = 0;
        tell_mask(dataflow);
        look_instead(dataflow);
}

/* ---- its end */

/* It takes out what it has attached before it ends, and waits with that while some process is stuck. */
static int on_lingered(Timer *timer, nsec_t now)
{
        Queues *q = container_of(timer, Queues, linger_timer);
        struct pollfd p = {.fd = q->lingers_pidfd, .events = POLLIN};

        if (q->lingers_pidfd >= 0 && poll(&p, 1, 0) == 0) {
                timer_arm(&q->supervisor->loop, timer, nsec_add(now, LINGER_SPAN), on_lingered);
                return 0;
        }
        q->lingers_pidfd = fd_close(q->lingers_pidfd);
        tell_all_masks(q->supervisor);
        return 0;
}

static void linger(Queues *q)
{
        q->lingers_pidfd = fd_close(q->lingers_pidfd);
        q->lingers_pidfd = TAKE_FD(q->pidfd);
        if (q->lingers_pidfd >= 0)
                (void)syscall(SYS_pidfd_send_signal, q->lingers_pidfd, SIGCONT, NULL, 0); /* one that stands still would not hear that we hang up */
        timer_arm(&q->supervisor->loop, &q->linger_timer, nsec_add(q->supervisor->loop.now, LINGER_SPAN), on_lingered);
}

/* Whoever may have something attached is not killed: the kernel would take it out at once, and stop every fork of the host if some process is stuck with its memory. */
static void hang_up(Queues *q)
{
        Dataflow *it, *next;

        if (q->state == QUEUES_READY)
                linger(q);
        list_for_each(it, next, &q->supervisor->dataflows, link)
                unwatch(q, it);
        q->n_asked = q->n_done = 0;
        timer_disarm(&q->timer);
        timer_disarm(&q->count_timer);
        source_remove(&q->source);
        if (q->pidfd >= 0)
                (void)syscall(SYS_pidfd_send_signal, q->pidfd, SIGKILL, NULL, 0); /* ESRCH: gone already. Reaped by the guard */
        q->fd = fd_close(q->fd);
        q->pidfd = fd_close(q->pidfd);
        queue_view_close(&q->view);
}

Queues *queues_free(Queues *q)
{
        if (!q)
                return NULL;
        hang_up(q);
        timer_disarm(&q->linger_timer);
        q->lingers_pidfd = fd_close(q->lingers_pidfd);
        free(q);
        return NULL;
}

static void give_up(Queues *q, const char *why)
{
        Dataflow *it, *next;

        list_for_each(it, next, &q->supervisor->dataflows, link)
                if (it->queues.watching)
                        dataflow_probe_event(it, "queues", why);
        hang_up(q);
        q->state = QUEUES_UNAVAILABLE;
        (void)snprintf(q->why, sizeof(q->why), "%s", why);
        tell_all_masks(q->supervisor);
        look_at_all_instead(q->supervisor);
        if (!supervisor_is_private(q->supervisor))
                log_line("queues cannot be looked into: %s", q->why);
}

static void let_go(Queues *q)
{
        hang_up(q);
        q->state = QUEUES_IDLE;
        tell_all_masks(q->supervisor);
}

static int on_load_late(Timer *timer, nsec_t now)
{
        Queues *q = container_of(timer, Queues, timer);

        (void)now;
        q->n_orders = 0; /* an answer that is lost does not come any more */
        give_up(q, q->state == QUEUES_ASKED ? "tidegate-queues is not started: the guard does not answer" : "tidegate-queues does not get its probe loaded");
        return 0;
}

static void ask(Queues *q)
{
        const char *off = getenv("TIDEGATE_PROBES");

        q->tried_at = q->supervisor->loop.now;
        if (off && strcmp(off, "off") == 0) {
                give_up(q, "kernel probes are turned off (TIDEGATE_PROBES=off in the supervisor's environment)");
        } else if (geteuid() != 0) {
                give_up(q, "kernel probes need a supervisor of root's");
        } else {
                q->state = QUEUES_ASKED;
                q->n_orders++;
                timer_arm(&q->supervisor->loop, &q->timer, nsec_add(q->supervisor->loop.now, LOAD_SPAN), on_load_late);
                guard_fork_helper_order(q->supervisor, GUARD_HELPER_QUEUES, count_wanted(q->supervisor));
        }
}

/* ---- files */

/* Its keeper cannot be asked, or does not answer: another one may, when something of it starts next. */
static void forget_question(Queues *q, Dataflow *dataflow, const char *why)
{
        if (!dataflow->queues.watching) {
                refuse(q, dataflow, why);
                return;
        }
        end_question(q);
}

static void keeper_is_late(Queues *q)
{
        forget_question(q, q->asked, "its keeper does not tell which files its nodes run of");
        server_look_again(q->supervisor->server);
        queues_look(q->supervisor);
}

/* Nobody begins another helper by himself then: while the kernel attaches, no process of the host can fork, and the guard would wait for that. */
static int on_show_late(Timer *timer, nsec_t now)
{
        Queues *q = container_of(timer, Queues, timer);

        if (q->from_fd >= 0 && !q->asked->queues.done) { /* the helper may wait for the keeper */
                cut(q);
                timer_arm(&q->supervisor->loop, timer, nsec_add(now, LATE_SPAN), on_show_late);
        } else if (!q->asked->queues.done) {
                give_up(q, "tidegate-queues does not get the probe attached: some process that runs of the file holds it up");
        } else {
                keeper_is_late(q);
        }
        return 0;
}

/* One dataflow after the other: the keeper gets one end of a pair of sockets, the helper the other. */
static void ask_next(Queues *q)
{
        Supervisor *supervisor = q->supervisor;
        struct queues_record record = {.magic = QUEUES_MAGIC, .type = QUEUES_MSG_FILES};
        _cleanup_fd_ int to = -1, from = -1;
        Dataflow *it, *next, *dataflow = NULL;
        int pair[2];

        if (q->state != QUEUES_READY || q->asked)
                return;
        list_for_each(it, next, &supervisor->dataflows, link)
                if (!dataflow && it->queues.waits && wants(it))
                        dataflow = it;
        if (!dataflow)
                return;
        dataflow->queues.waits = dataflow->queues.shown = dataflow->queues.done = false;
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
                forget_question(q, dataflow, strerror(errno));
                ask_next(q);
                return;
        }
        to = pair[0];
        from = pair[1];
        if (packet_send(q->fd, &record, sizeof(record), &from, 1)) {
                give_up(q, "tidegate-queues does not read");
                return;
        }
        q->n_asked++;
        q->asked = dataflow;
        q->asked_at = clock_now();
        timer_arm(&supervisor->loop, &q->timer, nsec_add(supervisor->loop.now, SHOW_SPAN), on_show_late);
        q->from_fd = TAKE_FD(from);
        if (keeper_order_files(dataflow, q->asked_at, to)) {
                forget_question(q, dataflow, "its keeper cannot be asked");
                ask_next(q);
        }
}

static void look_at_answers(Queues *q, Dataflow *dataflow)
{
        QueueWish *wish = &dataflow->queues;

        if (!wish->shown || !wish->done)
                return;
        end_question(q);
        if (!wish->watching)
                watch(q, dataflow);
        server_look_again(q->supervisor->server);
        queues_look(q->supervisor);
}

void queues_files_shown(Dataflow *dataflow, const KeeperMsg *msg)
{
        Queues *q = dataflow->supervisor->queues;
        char why[128];

        if (!q || q->asked != dataflow || msg->files_shown.asked_ns != q->asked_at || q->from_fd < 0)
                return; /* of no interest any more, or too late */
        if (msg->files_shown.error && !dataflow->queues.watching) {
                (void)snprintf(why, sizeof(why), "its keeper cannot tell which files its nodes run of: %s", error_text(-msg->files_shown.error));
                refuse(q, dataflow, why);
                queues_look(q->supervisor);
                return;
        }
        if (msg->files_shown.cgroup_id)
                dataflow->queues.cgroup_id = msg->files_shown.cgroup_id;
        dataflow->queues.shown = true;
        look_at_answers(q, dataflow);
}

static void on_done(Queues *q, const struct queues_record *record)
{
        Dataflow *dataflow = q->asked;
        _cleanup_free_ char *text = utf8_clean(record->text, strlen(record->text), NULL);

        if (++q->n_done < q->n_asked || !dataflow)
                return;
        if (q->from_fd < 0 && !dataflow->queues.shown) { /* what there is, for nothing else came in time */
                keeper_is_late(q);
                return;
        }
        if (record->n_files == 0 && !dataflow->queues.watching) {
                refuse(q, dataflow, record->error && text ? text : "none of its nodes runs of a file with probe sites");
                queues_look(q->supervisor);
                return;
        }
        dataflow->queues.partly[0] = '\0';
        if (record->error)
                (void)snprintf(dataflow->queues.partly, sizeof(dataflow->queues.partly), "of some of its nodes: %.120s", text ? text : "memory is short");
        dataflow->queues.done = true;
        look_at_answers(q, dataflow);
}

/* Something is there now that was not when it was looked at last. */
static void show_again(Dataflow *dataflow)
{
        dataflow->queues.why[0] = '\0';
        dataflow->queues.waits = true;
        queues_look(dataflow->supervisor);
}

void queues_node_started(Node *node)
{
        Dataflow *dataflow = node->dataflow;

        if (is_asked_for(dataflow))
                show_again(dataflow);
}

/* ---- 1 in how many */

/*
 * So many that all of its nodes together stay within the budget: a power of two, larger at once, and smaller by steps, each when the next one would take
 * less than half of it, for the number is estimated from the sample.
 */
static uint64_t next_mask(uint64_t mask, double share, double budget)
{
        while (share > budget && mask < UINT64_C(1) << 40) {
                mask = 2 * mask + 1;
                share /= 2;
        }
        for (unsigned i = 0; i < 4 && mask > 0 && 2 * share < budget / 2; i++) {
                mask /= 2;
                share *= 2;
        }
        return mask;
}

static void look_at_cost(Queues *q, Dataflow *dataflow, nsec_t now)
{
        QueueWish *wish = &dataflow->queues;
        nsec_t span = now - wish->counted_at;
        uint64_t n, mask;

        if (span < COUNT_SPAN / 2)
                return;
        n = queue_view_told(&q->view, wish->cgroup_id);
        wish->share = (double)(n - wish->n_told) * q->hit_ns / (double)span;
        wish->n_told = n;
        wish->counted_at = now;
        mask = next_mask(wish->mask, wish->share, budget_of(dataflow));
        if (mask == wish->mask)
                return;
        wish->mask = mask;
        tell_mask(dataflow);
}

static int on_count(Timer *timer, nsec_t now)
{
        Queues *q = container_of(timer, Queues, count_timer);
        Dataflow *it, *next;

        timer_arm(&q->supervisor->loop, timer, nsec_add(now, COUNT_SPAN), on_count);
        list_for_each(it, next, &q->supervisor->dataflows, link)
                if (it->queues.watching)
                        look_at_cost(q, it, now);
        return 0;
}

/* ---- what it says */

static bool is_running(const Dataflow *dataflow)
{
        for (size_t i = 0; !dataflow->adopting && i < dataflow->plan->n_nodes; i++)
                if (dataflow->nodes[i].state == NODE_RUNNING)
                        return true;
        return false;
}

static void on_ready(Queues *q, const struct queues_record *record, const int fds[static _QUEUES_FD_MAX])
{
        Supervisor *supervisor = q->supervisor;
        Dataflow *it, *next;

        if (queue_view_open(&q->view, fds[QUEUES_FD_WATCHED], fds[QUEUES_FD_LINKS])) {
                give_up(q, "tidegate-queues handed over what cannot be mapped");
                return;
        }
        timer_disarm(&q->timer);
        q->state = QUEUES_READY;
        q->load_ms = record->load_ms;
        q->hit_ns = record->hit_ns;
        list_for_each(it, next, &supervisor->dataflows, link)
                it->queues.waits = wants(it) && (it->queues.n_streams > 0 || is_running(it)); /* also who was shown to a helper that is gone */
        tell_all_masks(supervisor); /* before anything is attached */
        timer_arm(&supervisor->loop, &q->count_timer, nsec_add(supervisor->loop.now, COUNT_SPAN), on_count);
        queues_look(supervisor);
}

static int on_socket(Source *source, uint32_t revents)
{
        Queues *q = container_of(source, Queues, source);
        _cleanup_free_ char *text = NULL;
        struct queues_record record;
        int fds[_QUEUES_FD_MAX];
        size_t size = 0, n_fds = 0;
        int r = packet_recv(q->fd, &record, sizeof(record), &size, fds, ELEMENTSOF(fds), &n_fds);

        (void)revents;
        if (r == PACKET_E_AGAIN)
                return 0;
        if (r == PACKET_E_CLOSED)
                give_up(q, "tidegate-queues is gone");
        else if (r || queues_msg_check(0, &record, size, n_fds) || (record.type == QUEUES_MSG_DONE) != (q->state == QUEUES_READY))
                give_up(q, "tidegate-queues broke its protocol");
        else if (record.type == QUEUES_MSG_READY)
                on_ready(q, &record, fds);
        else if (record.type == QUEUES_MSG_DONE)
                on_done(q, &record);
        else {
                text = utf8_clean(record.text, strlen(record.text), NULL);
                give_up(q, text ? text : "memory is short");
        }
        for (size_t i = 0; i < n_fds; i++)
                fds[i] = fd_close(fds[i]); /* of our own helper, and mapped: neither is the last one */
        return 0;
}

/* The last order's answer: who was started for an earlier one is killed for the next one. */
static bool is_answered(Queues *q)
{
        q->n_orders -= q->n_orders > 0;
        return q->n_orders == 0 && q->state == QUEUES_ASKED;
}

void queues_on_started(Supervisor *supervisor, int32_t pid, int take_sock, int take_pidfd)
{
        Queues *q = supervisor->queues;

        (void)pid;
        if (!q || !is_answered(q)) { /* not wanted any more: it ends with its socket */
                (void)fd_close(take_sock);
                (void)fd_close(take_pidfd);
                return;
        }
        q->fd = take_sock;
        q->pidfd = take_pidfd;
        q->state = QUEUES_LOADING;
        if (source_add(&supervisor->loop, &q->source, q->fd, EPOLLIN, SOURCE_EXITS, on_socket)) {
                give_up(q, strerror(ENOMEM));
                return;
        }
        timer_arm(&supervisor->loop, &q->timer, nsec_add(supervisor->loop.now, LOAD_SPAN), on_load_late);
}

void queues_on_failed(Supervisor *supervisor, int error)
{
        Queues *q = supervisor->queues;
        char why[128];

        if (!q || !is_answered(q))
                return;
        if (error == ENOTSUP)
                (void)snprintf(why, sizeof(why), "nodes have no cgroup here");
        else if (error == ENOENT)
                (void)snprintf(why, sizeof(why), "there is no tidegate-queues beside tidegated (built without kernel probes)");
        else
                (void)snprintf(why, sizeof(why), "tidegate-queues could not be started: %s", error_text(-error));
        give_up(q, why);
}

/* ---- wishes */

void queues_look(Supervisor *supervisor)
{
        bool wanted = count_wanted(supervisor) > 0 && !supervisor->ending;
        Queues *q = supervisor->queues;
        Dataflow *it, *next;

        if (!q && wanted) {
                q = calloc(1, sizeof(*q));
                if (!q)
                        return; /* asked for again with the next wish */
                *q = (Queues){.supervisor = supervisor, .fd = -1, .pidfd = -1, .lingers_pidfd = -1, .from_fd = -1, .view = QUEUE_VIEW_INIT};
                supervisor->queues = q;
        }
        if (!q)
                return;
        if (wanted && q->state == QUEUES_IDLE)
                ask(q);
        else if ((supervisor->ending || !may_be_wanted(supervisor)) && q->state != QUEUES_IDLE && q->state != QUEUES_UNAVAILABLE)
                let_go(q);
        look_at_all_instead(supervisor);
        if (q->state != QUEUES_READY)
                return;
        list_for_each(it, next, &supervisor->dataflows, link)
                if (it->queues.watching && !wants(it)) {
                        unwatch(q, it);
                        tell_mask(it);
                }
        ask_next(q);
}

static void ask_anew(Supervisor *supervisor)
{
        Queues *q = supervisor->queues;

        if (q && q->state == QUEUES_UNAVAILABLE && nsec_add(q->tried_at, AGAIN_SPAN) <= supervisor->loop.now)
                q->state = QUEUES_IDLE;
}

void queues_dataflow_begins(Dataflow *dataflow)
{
        if (!wants(dataflow))
                return;
        ask_anew(dataflow->supervisor);
        queues_look(dataflow->supervisor);
}

void queues_dataflow_resumed(Dataflow *dataflow)
{
        if (is_asked_for(dataflow) && is_running(dataflow))
                show_again(dataflow);
}

void queues_want(Dataflow *dataflow, double budget)
{
        Supervisor *supervisor = dataflow->supervisor;
        QueueWish *wish = &dataflow->queues;

        if (budget > 0)
                wish->budget = budget;
        ask_anew(supervisor);
        if (wish->n_streams++ == 0) {
                wish->why[0] = '\0';
                wish->waits = true;
        }
        queues_look(supervisor);
}

void queues_unwant(Dataflow *dataflow)
{
        if (--dataflow->queues.n_streams == 0)
                dataflow->queues.budget = 0;
        queues_look(dataflow->supervisor);
}

void queues_forget(Dataflow *dataflow)
{
        Supervisor *supervisor = dataflow->supervisor;

        queue_looks_set(dataflow, false);
        if (supervisor->queues)
                unwatch(supervisor->queues, dataflow);
        dataflow->queues = (QueueWish){.gone = true}; /* whatever its plan says */
        if (supervisor->queues)
                queues_look(supervisor);
}

/* ---- what is shown */

/* Why nothing of it is counted, or not all; NULL: it is, or nobody wants it. */
static const char *reason_of(const Dataflow *dataflow)
{
        const Queues *q = dataflow->supervisor->queues;
        const QueueWish *wish = &dataflow->queues;

        if (!is_asked_for(dataflow))
                return NULL;
        if (wish->watching)
                return wish->partly[0] ? wish->partly : NULL;
        if (dataflow->n_links == 0)
                return "it has no links";
        if (wish->why[0])
                return wish->why;
        return q && q->state == QUEUES_UNAVAILABLE ? q->why : "it is being attached";
}

json_t *queues_describe_buckets(const uint64_t *buckets, int n)
{
        json_t *array = json_array();

        while (n > 0 && buckets[n - 1] == 0)
                n--;
        for (int i = 0; i < n; i++)
                (void)json_array_append_new(array, json_integer((json_int_t)buckets[i]));
        return array;
}

static json_t *describe_link(const Queues *q, const Dataflow *dataflow, const Link *link)
{
        const char *output = link->source->plan->outputs[link->output], *input = link->target->plan->inputs[link->input].id;
        struct queue_count count;

        if (queue_view_read(&q->view, dataflow->queues.cgroup_id, link->number, &count))
                return NULL;
        return json_pack("{ss ss ss ss ss sI sI sI so so}", "from", link->source->plan->id, "output", output, "to", link->target->plan->id, "input", input, "source", "probe", "sampled",
                (json_int_t)count.enqueued, "taken", (json_int_t)count.dequeued, "one_in", (json_int_t)(dataflow->queues.mask + 1), "depth_log2",
                queues_describe_buckets(count.depth_log2, QUEUE_DEPTH_BUCKETS), "age_log2_ns", queues_describe_buckets(count.age_log2_ns, QUEUE_AGE_BUCKETS));
}

void queues_describe_links(const Node *node, bool outgoing, json_t *links)
{
        const Dataflow *dataflow = node->dataflow;

        for (uint32_t i = 0; i < node->n_links; i++) {
                const Link *link = node->links[i];
                json_t *said = NULL;

                if (outgoing || link->target == node)
                        said = dataflow->queues.watching ? describe_link(dataflow->supervisor->queues, dataflow, link) : queue_looks_describe(dataflow, link);
                if (said)
                        (void)json_array_append_new(links, said);
        }
}

void queues_describe_into(const Dataflow *dataflow, json_t *probes)
{
        const Queues *q = dataflow->supervisor->queues;
        const QueueWish *wish = &dataflow->queues;
        const char *reason = reason_of(dataflow);

        if (probes && reason)
                (void)json_object_set_new(probes, "queue_reason", json_string(reason));
        if (probes && wish->watching)
                (void)json_object_set_new(probes, "queue_cost", json_pack("{sI sI sf sf}", "load_ms", (json_int_t)q->load_ms, "message_ns", (json_int_t)q->hit_ns, "share",
                        wish->share, "budget", budget_of(dataflow)));
}
