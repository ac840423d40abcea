/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/supervisor.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/log.h"
#include "supervisor/priority.h"
#include "supervisor/private.h"
#include "supervisor/prober.h"
#include "supervisor/queues.h"
#include "supervisor/named.h"
#include "supervisor/server.h"
#include "supervisor/status.h"
#include "supervisor/witness.h"

#define SUPERVISOR_END_SLACK       (3 * NSEC_PER_SEC) /* from the last dataflow's kill: verdicts, logs, directories */
#define PROMPT_AGAIN_SPAN          (10 * NSEC_PER_SEC) /* after it was found not to sleep */
#define SUPERVISOR_LAST_WORDS_SPAN NSEC_PER_SEC /* what the client gets to read the result */

int supervisor_start(Supervisor *supervisor, Plan *plan, const DataflowOptions *options, DataflowEventFn fn, Dataflow **ret)
{
        uint32_t slot = GUARD_SLOT_INSTANCE + 1;
        Dataflow *dataflow = NULL;
        int r;

        while (slot < GUARD_MAX_SLOTS && (supervisor->slots[slot] || supervisor->slot_state[slot]))
                slot++;
        if (supervisor->ending || slot == GUARD_MAX_SLOTS) {
                (void)plan_free(plan);
                return error_origin(supervisor->ending ? -ESHUTDOWN : -EAGAIN);
        }
        r = dataflow_new(&dataflow, supervisor, plan, slot, options, fn);
        if (r)
                return error_fold(r);
        supervisor->slots[slot] = dataflow;
        list_append(&supervisor->dataflows, &dataflow->link);
        supervisor->n_dataflows++;
        witness_want(supervisor);
        prober_look(supervisor);
        queues_dataflow_begins(dataflow);
        *ret = dataflow;
        return 0;
}

void supervisor_forget(Supervisor *supervisor, Dataflow *dataflow)
{
        supervisor->n_dataflows--;
        dataflow_unjournal(dataflow);
        if (supervisor->status)
                status_remove_dataflow(supervisor->status, dataflow->uuid_text);
        (void)dataflow_free(dataflow);
}

static bool supervisor_is_idle(const Supervisor *supervisor)
{
        for (unsigned i = 0; i < GUARD_MAX_SLOTS; i++)
                if (supervisor->slots[i] && !supervisor->slots[i]->watched)
                        return false;
        return true;
}

/* What the guard was told last may stand in a queue behind much else, and to leave without BYE is to have crashed. */
static int on_leave_guard(Timer *timer, nsec_t now)
{
        Supervisor *supervisor = container_of(timer, Supervisor, last_words);

        if (guard_flushed(supervisor) || now >= supervisor->last_words_until)
                loop_exit(&supervisor->loop, supervisor->exit_code);
        else
                timer_arm(&supervisor->loop, timer, nsec_add(now, NSEC_PER_MSEC), on_leave_guard);
        return 0;
}

/* Clients get a moment to read their last reply; then the guard hears that this was an end in good order. */
static int on_leave(Timer *timer, nsec_t now)
{
        Supervisor *supervisor = container_of(timer, Supervisor, last_words);

        if (!server_flushed(supervisor->server) && now < supervisor->last_words_until) {
                timer_arm(&supervisor->loop, timer, nsec_add(now, 10 * NSEC_PER_MSEC), on_leave);
                return 0;
        }
        log_line("step 5/5: leaving, status %d", supervisor->exit_code);
        guard_bye(supervisor, supervisor->exit_code);
        supervisor->last_words_until = nsec_add(now, SUPERVISOR_LAST_WORDS_SPAN);
        return on_leave_guard(timer, now);
}

static void supervisor_leave_if_done(Supervisor *supervisor)
{
        if (!supervisor_is_idle(supervisor) || supervisor->last_words_until)
                return;
        log_line("step 4/5: every dataflow has ended; last words to %u clients", server_n_clients(supervisor->server));
        supervisor->last_words_until = nsec_add(supervisor->loop.now, SUPERVISOR_LAST_WORDS_SPAN);
        timer_arm(&supervisor->loop, &supervisor->last_words, supervisor->loop.now, on_leave);
}

void supervisor_stop_all(Supervisor *supervisor, nsec_t grace_ns, bool force, const char *who)
{
        Dataflow *it, *next;
        nsec_t kill = supervisor->loop.now;
        unsigned n = 0;

        if (!supervisor_is_private(supervisor) && !supervisor->ending) {
                log_line("step 1/5: ending, because of %s; no new dataflow begins", who);
                log_line("step 2/5: deadlines in escrow, stop ordered from %u dataflows", supervisor->n_dataflows);
        }
        supervisor->ending = true;
        if (supervisor->status)
                status_set_state(supervisor->status, STATUS_STOPPING);
        list_for_each(it, next, &supervisor->dataflows, link) {
                n += it->state != DATAFLOW_ENDED;
                dataflow_stop(it, grace_ns, force, who);
                if (it->watched) /* the end of the daemon is that of the watch; the next one sweeps */
                        keeper_order_end(it, nsec_add(supervisor->loop.now, supervisor->options.budget_ns), false);
                if (it->state != DATAFLOW_ENDED)
                        kill = MAX(kill, it->ladder.kill);
        }
        if (!supervisor_is_private(supervisor)) {
                /* The end of the daemon has a deadline of its own, which does not depend on us. */
                kill = nsec_add(kill, SUPERVISOR_END_SLACK);
                guard_escrow_order(supervisor, GUARD_SLOT_INSTANCE, kill, nsec_add(kill, supervisor->options.budget_ns), 0);
                log_line("step 3/5: %u dataflows are ending", n);
                supervisor_leave_if_done(supervisor);
        } else if (n == 0 && !supervisor->last_words_until) /* nothing runs, nobody is left to ask for anything, and nothing is on its way */
                loop_exit(&supervisor->loop, supervisor->exit_code);
}

/* The result is on its way, and BYE; leave once the client and the guard have them, or have had their time. */
static int on_last_words(Timer *timer, nsec_t now)
{
        Supervisor *supervisor = container_of(timer, Supervisor, last_words);
        bool flushed = guard_flushed(supervisor);

        for (unsigned i = 0; i < SUPERVISOR_MAX_CONTROLS; i++)
                flushed = flushed && (!supervisor->privates[i] || private_flushed(supervisor->privates[i]));
        if (flushed || now >= supervisor->last_words_until)
                loop_exit(&supervisor->loop, supervisor->exit_code);
        else
                timer_arm(&supervisor->loop, timer, nsec_add(now, 10 * NSEC_PER_MSEC), on_last_words);
        return 0;
}

/* A private instance ends with its dataflow. */
static void end_private(Supervisor *supervisor, Dataflow *dataflow)
{
        json_t *result = json_object();

        supervisor->exit_code = dataflow->n_left > 0 ? 3 : dataflow_succeeded(dataflow) ? 0 : 1;
        if (result)
                (void)json_object_set_new(result, "result", dataflow_result(dataflow));
        private_ended(supervisor->privates[0], result);
        guard_bye(supervisor, supervisor->exit_code);
        supervisor->last_words_until = nsec_add(supervisor->loop.now, SUPERVISOR_LAST_WORDS_SPAN);
        timer_arm(&supervisor->loop, &supervisor->last_words, supervisor->loop.now, on_last_words);
}

/* Free again once the dataflow has ended, its keeper was reaped, and nobody was left there. */
void supervisor_look_at_slot(Supervisor *supervisor, uint32_t slot)
{
        if (supervisor->slots[slot] || supervisor->slot_state[slot])
                return;
        guard_slot_free_order(supervisor, slot);
}

void supervisor_dataflow_ended(Supervisor *supervisor, Dataflow *dataflow)
{
        if (!dataflow->watched)
                supervisor->slots[dataflow->slot] = NULL;
        if (dataflow->n_left > 0 || dataflow->not_removed)
                supervisor->slot_state[dataflow->slot] |= SLOT_LEFT;
        supervisor_look_at_slot(supervisor, dataflow->slot);
        if (supervisor_is_private(supervisor))
                end_private(supervisor, dataflow);
        else
                server_dataflow_ended(supervisor->server, dataflow);
        prober_look(supervisor);
        queues_look(supervisor);
        if (supervisor->ending && !supervisor_is_private(supervisor))
                supervisor_leave_if_done(supervisor);
}

void supervisor_watch_ended(Supervisor *supervisor, Dataflow *dataflow)
{
        supervisor->slots[dataflow->slot] = NULL;
        (void)audit_remove_files(dataflow);
        if (dataflow->n_left == 0 && !dataflow->not_removed)
                supervisor->slot_state[dataflow->slot] &= (uint8_t)~SLOT_LEFT;
        supervisor_look_at_slot(supervisor, dataflow->slot);
}

static void dump_node(const Node *node, nsec_t now)
{
        log_line("  node %s: %s since %.1f s, wanted %s, generation %llu, pid %d, restarts %u, %s%s%s%s%s%s", node->plan->id, node_state_to_string(node->state),
                (double)(now - node->since) / 1e9, node->stop_wanted ? "stopped" : "running", (unsigned long long)node->generation,
                node->exited ? 0 : (int)node->pid, node->n_restarts, node->captured ? "captured, " : "", node->connected ? "connected, " : "", node->mapped ? "mapped, " : "",
                node->resuming ? "has not answered, " : "", node->quarantined ? "QUARANTINED, " : "",
                node->deadline.loop ? "a deadline is armed" : "no deadline");
        if (node->error)
                log_line("  node %s: %s", node->plan->id, node->error);
}

void supervisor_dump(Supervisor *supervisor)
{
        nsec_t now = supervisor->loop.now;
        Dataflow *it, *next;

        log_line("state: epoch %llu, %u dataflows, %u clients, guard %s, %s; lag p50 %llu us, p99.9 %llu us, max %llu us", (unsigned long long)supervisor->epoch,
                supervisor->n_dataflows, supervisor->server ? server_n_clients(supervisor->server) : 0, supervisor->guard_gone ? "gone" : "there",
                supervisor->ending ? "ending" : "running", (unsigned long long)status_lag_us(supervisor->loop.pulse, 500),
                (unsigned long long)status_lag_us(supervisor->loop.pulse, 999), (unsigned long long)supervisor->loop.pulse->lag_max_us);
        list_for_each(it, next, &supervisor->dataflows, link) {
                log_line(" dataflow %s %s of uid %u: %s since %.1f s, wanted %s, slot %u, keeper %d%s%s%s", it->plan->name, it->uuid_text,
                        (unsigned)it->options.uid, dataflow_state_to_string(it->state), (double)(now - it->since) / 1e9,
                        it->stop_ordered ? "stopped" : "running", it->slot, (int)it->keeper_pid, it->adopting ? ", being adopted" : "", it->error ? ": " : "",
                        it->error ? it->error : "");
                for (size_t i = 0; i < it->plan->n_nodes; i++)
                        dump_node(&it->nodes[i], now);
        }
        log_line("end of state");
}

static int on_prompt_again(Timer *timer, nsec_t now)
{
        (void)timer;
        (void)now;
        priority_supervisor();
        return 0;
}

static void on_priority_lost(Supervisor *supervisor)
{
        log_line("used the CPU for %d ms without a pause: an ordinary process for the next %d s", PRIORITY_SPAN_US / 1000, (int)(PROMPT_AGAIN_SPAN / NSEC_PER_SEC));
        timer_arm(&supervisor->loop, &supervisor->prompt_timer, nsec_add(supervisor->loop.now, PROMPT_AGAIN_SPAN), on_prompt_again);
}

static int on_signal(Source *source, uint32_t revents)
{
        Supervisor *supervisor = container_of(source, Supervisor, signal_source);
        struct signalfd_siginfo info;

        (void)revents;
        while (read(supervisor->signal_fd, &info, sizeof(info)) == sizeof(info))
                if (info.ssi_signo == SIGUSR1 && !supervisor_is_private(supervisor))
                        supervisor_dump(supervisor);
                else if (info.ssi_signo == PRIORITY_LOST && priority_was_lost())
                        on_priority_lost(supervisor);
                else if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT)
                        supervisor_stop_all(supervisor, NSEC_NEVER, false, "a signal to the supervisor");
        return 0;
}

/* Where the instance's cgroup is, from the descriptor that holds its lock: for people, and for the last resort. */
static void supervisor_find_cgroup(Supervisor *supervisor)
{
        char link[64];
        const char *slash;
        ssize_t n;

        (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", supervisor->options.runtime_fd);
        n = readlink(link, supervisor->node_path, sizeof(supervisor->node_path) - sizeof("/node.sock"));
        (void)snprintf(supervisor->node_path + MAX(n, (ssize_t)0), sizeof("/node.sock"), "/node.sock");
        (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", supervisor->options.lock_fd);
        n = readlink(link, supervisor->cgroup, sizeof(supervisor->cgroup) - 1);
        supervisor->cgroup[MAX(n, (ssize_t)0)] = '\0';
        slash = strrchr(supervisor->cgroup, '/');
        (void)snprintf(supervisor->instance, sizeof(supervisor->instance), "%.63s", slash ? slash + 1 : "");
}

static int supervisor_open_status(Supervisor *supervisor)
{
        const SupervisorOptions *o = &supervisor->options;
        StatusOptions options = {.dir_fd = o->runtime_fd,
                .epoch = o->epoch,
                .guard_pid = o->guard_pid,
                .instance = supervisor->instance,
                .cgroup = supervisor->cgroup,
                .started_at = clock_now(),
                .stale_after_ns = o->watchdog_ns};
        const char *trouble;
        int r;

        supervisor_find_cgroup(supervisor);
        supervisor->guard_pidfd = (int)syscall(SYS_pidfd_open, o->guard_pid, 0);
        r = status_open(&supervisor->status, &options);
        if (r)
                return error_fold(r);
        loop_set_pulse(&supervisor->loop, status_pulse(supervisor->status));
        trouble = status_trouble(supervisor->status);
        if (trouble)
                log_line("status pages: %s", trouble);
        return 0;
}

static int supervisor_setup(Supervisor *supervisor)
{
        sigset_t all;
        int r;

        sigfillset(&all);
        priority_leave_signal(&all);
        if (sigprocmask(SIG_SETMASK, &all, NULL) < 0)
                return error_origin(-errno);
        r = loop_init(&supervisor->loop);
        if (r)
                return error_fold(r);
        supervisor->signal_fd = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
        if (supervisor->signal_fd < 0)
                return error_origin(-errno);
        r = source_add(&supervisor->loop, &supervisor->signal_source, supervisor->signal_fd, EPOLLIN, SOURCE_EXITS, on_signal);
        if (r)
                return error_fold(r);
        for (unsigned i = 0; i < SUPERVISOR_MAX_CONTROLS && supervisor_is_private(supervisor); i++) {
                r = private_new(&supervisor->privates[i], supervisor, supervisor->options.control_fds[i]);
                if (r)
                        return error_fold(r);
        }
        if (!supervisor_is_private(supervisor)) {
                r = supervisor_open_status(supervisor);
                if (r)
                        return error_fold(r);
                r = server_new(&supervisor->server, supervisor, supervisor->options.listen_fd);
                if (!r)
                        r = named_new(&supervisor->named, supervisor, supervisor->options.node_listen_fd);
                if (!r)
                        r = adopt_begin(supervisor);
                if (r)
                        return error_fold(r);
        }
        r = guard_link_open(supervisor, supervisor->options.guard_fd);
        return r ? error_fold(r) : 0;
}

int supervisor_main(const SupervisorOptions *options)
{
        static Supervisor supervisor;
        Dataflow *it, *next;
        int r;

        supervisor = (Supervisor){.options = *options, .signal_fd = -1, .guard_fd = -1, .guard_pidfd = -1, .journal = JOURNAL_NULL};
        list_init(&supervisor.dataflows);
        if (!supervisor_is_private(&supervisor)) {
                priority_lock_memory(true);
                priority_supervisor();
                log_open("supervisor");
        }
        r = supervisor_setup(&supervisor);
        if (r)
                return 1;
        r = loop_run(&supervisor.loop);
        list_for_each(it, next, &supervisor.dataflows, link)
                (void)dataflow_free(it);
        for (unsigned i = 0; i < SUPERVISOR_MAX_CONTROLS; i++)
                (void)private_free(supervisor.privates[i]);
        supervisor.named = named_free(supervisor.named);
        supervisor.witness = witness_free(supervisor.witness);
        supervisor.prober = prober_free(supervisor.prober);
        supervisor.queues = queues_free(supervisor.queues);
        loop_set_pulse(&supervisor.loop, NULL);
        if (supervisor.status && supervisor.ending)
                status_set_state(supervisor.status, STATUS_ENDED);
        supervisor.status = status_free(supervisor.status);
        supervisor.server = server_free(supervisor.server);
        journal_close(&supervisor.journal);
        packet_queue_done(&supervisor.guard_out);
        source_remove(&supervisor.guard_source);
        (void)fd_close(supervisor.guard_fd);
        (void)fd_close(supervisor.guard_pidfd);
        (void)fd_close(supervisor.signal_fd);
        loop_done(&supervisor.loop);
        return r < 0 ? 1 : r;
}
