/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/log.h"
#include "supervisor/cgroup.h"
#include "supervisor/guard-internal.h"
#include "supervisor/packet.h"
#include "supervisor/priority.h"

#define CLIENT_WORDS_MAX 2048 /* more than a socket holds */
#define SUPERVISOR_LAST_READS 64 /* of 32 records each: more than a socket holds */

static void guard_replace_supervisor(Guard *guard, const siginfo_t *si);

/* ---- records out: never blocking; a peer that does not read loses them, and its deadlines hold all the same */

int guard_record_send(int sock, struct guard_record *record, const int *fds, size_t n_fds)
{
        record->magic = GUARD_MAGIC;
        return sock >= 0 ? packet_send(sock, record, sizeof(*record), fds, n_fds) : PACKET_E_CLOSED;
}

static void record_send(int sock, struct guard_record *record, const int *fds, size_t n_fds)
{
        (void)guard_record_send(sock, record, fds, n_fds);
}

static void tell_client(Guard *guard, GuardMsgType type, int error, const char *text)
{
        struct guard_record record = {.type = type, .error = error};

        (void)snprintf(record.text, sizeof(record.text), "%.511s", text);
        record_send(guard->client_fd, &record, NULL, 0);
        if (guard->options->daemon)
                log_line("%s%s%s", text, error ? ": " : "", error ? strerror(error) : "");
}

void guard_tell_supervisor(Guard *guard, struct guard_record record)
{
        record.epoch = guard->epoch;
        record_send(guard->supervisor_fd, &record, NULL, 0);
}

void guard_tell_kept(Guard *guard, uint32_t slot)
{
        guard_tell_supervisor(guard, (struct guard_record){.type = GUARD_MSG_ENFORCED, .slot = slot});
}

/* ---- ending everything */

static void guard_end_all(Guard *guard, nsec_t at, nsec_t term_ns)
{
        (void)guard_escrow(guard, GUARD_SLOT_INSTANCE, at, nsec_add(at, guard->budget_ns), term_ns);
}

/* Asked to end: the supervisor stops in order, and what it does not manage by T is done for it. */
void guard_order_stop(Guard *guard, GuardMsgType why)
{
        nsec_t grace = guard->stop_ordered && why == GUARD_MSG_STOP ? 0 : guard->grace_ns; /* asked twice: now */

        if (guard->options->daemon && !guard->stop_ordered)
                guard_notify(guard, "STOPPING=1\nSTATUS=ending");
        guard->stop_ordered = true;
        guard_end_all(guard, nsec_add(guard->loop.now, nsec_add(grace + grace / 2, 100 * NSEC_PER_MSEC)), grace / 2);
        guard_tell_supervisor(guard, (struct guard_record){.type = why});
}

static void on_client_gone(Guard *guard)
{
        if (guard->client_gone)
                return;
        guard->client_gone = true;
        source_remove(&guard->client_source);
        source_remove(&guard->client_pid_source);
        guard_order_stop(guard, GUARD_MSG_CLIENT_GONE);
}

/* ---- records in: keepers */

static void on_keeper_record(GuardSlot *slot, const struct guard_record *record, int *fds)
{
        Guard *guard = slot->guard;

        if (record->type == GUARD_MSG_CHILD) {
                guard_add_child(guard, record, &fds[0]);
                guard_escrow_on_child(guard, record);
        } else if (slot->dir_fd >= 0) {
                slot->keeper_guard_fd = fd_close(slot->keeper_guard_fd); /* known already: it only says that it has its own end */
        } else {
                slot->dir_fd = TAKE_FD(fds[0]);
                slot->kill_fd = TAKE_FD(fds[1]);
                slot->events_fd = TAKE_FD(fds[2]);
                slot->keeper_guard_fd = fd_close(slot->keeper_guard_fd); /* it has its own end */
                if (slot->escrow.at <= guard->loop.now && guard_enforce(&slot->escrow, false)) /* its time came while it was being made */
                        guard_escrow_again(&slot->escrow);
        }
}

static int on_keeper_socket(Source *source, uint32_t revents)
{
        GuardSlot *slot = container_of(source, GuardSlot, keeper_source);

        (void)revents;
        for (unsigned i = 0; i < 32; i++) {
                struct guard_record record;
                int fds[3] = {-1, -1, -1};
                size_t size = 0, n_fds = 0;
                int r = packet_recv(slot->keeper_fd, &record, sizeof(record), &size, fds, 3, &n_fds);

                if (r == PACKET_E_AGAIN)
                        return 0;
                if (r) { /* gone, or talking nonsense: either way nothing more comes from it; SIGCHLD tells the rest */
                        source_remove(source);
                        return 0;
                }
                if (guard_msg_check(GUARD_SENDER_KEEPER, &record, size, n_fds) == 0 && record.slot == slot->number)
                        on_keeper_record(slot, &record, fds);
                for (size_t k = 0; k < n_fds; k++)
                        fds[k] = fd_close(fds[k]);
        }
        return 0;
}

/* ---- records in: supervisor and client */

int guard_keeper_watch(GuardSlot *slot, int take_fd)
{
        int r = source_add(&slot->guard->loop, &slot->keeper_source, take_fd, EPOLLIN, SOURCE_EXITS, on_keeper_socket);

        if (r)
                (void)fd_close(take_fd);
        else
                slot->keeper_fd = take_fd;
        return r;
}

static int guard_start_keeper(Guard *guard, GuardSlot *slot)
{
        _cleanup_fd_ int sup0 = -1, sup1 = -1, guard0 = -1, guard1 = -1, listen = -1;
        struct guard_record record = {.magic = GUARD_MAGIC, .type = GUARD_MSG_KEEPER, .slot = slot->number};
        int pair[2], fds[2], r;

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return error_origin(-errno);
        sup0 = pair[0];
        sup1 = pair[1];
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return error_origin(-errno);
        guard0 = pair[0];
        guard1 = pair[1];
        r = source_add(&guard->loop, &slot->keeper_source, guard0, EPOLLIN, SOURCE_EXITS, on_keeper_socket);
        if (r)
                return error_fold(r);
        if (guard->options->daemon)
                (void)runtime_listen_keeper(&guard->runtime, slot->number, &listen); /* without it: lost when supervisor and guard die together */
        r = guard_fork_keeper(guard, sup1, guard1, listen, &slot->keeper);
        if (r) {
                source_remove(&slot->keeper_source);
                return error_fold(r);
        }
        slot->keeper_fd = TAKE_FD(guard0);
        slot->owes_gone = false;
        record.pid = slot->keeper.pid;
        fds[0] = sup0;
        fds[1] = slot->keeper.pidfd;
        record_send(guard->supervisor_fd, &record, fds, 2);
        if (guard->options->daemon)
                slot->keeper_peer_fd = TAKE_FD(sup0);
        return 0;
}

/* The number's next dataflow begins with nothing of this one's, its escrow included. */
static void guard_slot_free(GuardSlot *slot)
{
        if (slot->number == GUARD_SLOT_INSTANCE || slot->keeper.pid > 0 || (slot->events_fd >= 0 && cgroup_populated(slot->events_fd) == 1))
                return;
        guard_escrow_drop_slot(slot);
        guard_remove_dataflow(slot->guard, slot);
        guard_forget_enforcers(slot);
        slot->dir_fd = fd_close(slot->dir_fd);
        slot->kill_fd = fd_close(slot->kill_fd);
        slot->events_fd = fd_close(slot->events_fd);
        guard_unstore_slot(slot->guard, slot->number);
        for (unsigned i = 0; i < GUARD_MAX_CHILDREN; i++)
                if (slot->guard->children[i].pidfd >= 0 && slot->guard->children[i].slot == slot->number)
                        guard_child_free(&slot->guard->children[i]);
        slot->inherited = false;
        slot->life++;
}

static void on_hello(Guard *guard)
{
        if (!guard->options->daemon)
                return;
        guard_watch_answer(guard);
        guard_notify_status(guard, guard->ready_told ? "" : "READY=1\n");
        guard->ready_told = true;
        guard_replay(guard);
        if (guard->stop_ordered)
                guard_tell_supervisor(guard, (struct guard_record){.type = GUARD_MSG_STOP});
}

static void on_supervisor_record(Guard *guard, const struct guard_record *record, int *fds, size_t n_fds)
{
        GuardSlot *slot;

        if (record->epoch != guard->epoch)
                return;
        slot = &guard->slots[record->slot];
        switch (record->type) {
        case GUARD_MSG_HELLO:
                on_hello(guard);
                break;
        case GUARD_MSG_PONG:
                guard_watch_answer(guard);
                break;
        case GUARD_MSG_STORE:
                guard_store(guard, record, fds, n_fds);
                break;
        case GUARD_MSG_UNSTORE:
                guard_unstore(guard, record->slot, record->node, record->generation);
                break;
        case GUARD_MSG_FORGET:
                guard_forget(guard, record->slot);
                break;
        case GUARD_MSG_FOUND:
                if (guard_adopt_keeper(guard, slot, record->pid, TAKE_FD(fds[0]), TAKE_FD(fds[1]), record->text) == 0)
                        (void)guard_tell_slot(guard, slot);
                break;
        case GUARD_MSG_ASK:
                guard_answer(guard, slot, record);
                break;
        case GUARD_MSG_REAP:
                guard_reap(guard, record->slot, record->node, record->generation);
                guard_kills_drop(guard, record->slot, record->text);
                guard_escrow_drop(guard, record->slot, record->node, record->generation);
                break;
        case GUARD_MSG_ASK_KILLED:
                guard_kills_answer(guard, record);
                break;
        case GUARD_MSG_FORK_KEEPER:
                if (slot->keeper.pid > 0 || slot->number == GUARD_SLOT_INSTANCE || guard_start_keeper(guard, slot))
                        guard_tell_supervisor(guard,
                                (struct guard_record){.type = GUARD_MSG_KEEPER_FAILED, .slot = record->slot, .error = errno});
                break;
        case GUARD_MSG_FORK_HELPER:
                guard_helper_start(guard, (GuardHelper)record->count, record->node);
                break;
        case GUARD_MSG_ESCROW:
                guard_on_escrow(guard, record, guard->supervisor_fd);
                break;
        case GUARD_MSG_KILL_KEEPER:
                guard_process_kill(&slot->keeper);
                break;
        case GUARD_MSG_SLOT_FREE:
                guard_slot_free(slot);
                break;
        case GUARD_MSG_BYE:
                guard->bye = true;
                guard->bye_status = record->status;
                break;
        }
}

static int on_supervisor_socket(Source *source, uint32_t revents)
{
        Guard *guard = container_of(source, Guard, supervisor_source);

        (void)revents;
        if (revents & EPOLLOUT)
                guard_pump(guard);
        for (unsigned i = 0; i < 32; i++) {
                struct guard_record record;
                int fds[GUARD_MAX_ITEMS];
                size_t size = 0, n_fds = 0;
                int r = packet_recv(guard->supervisor_fd, &record, sizeof(record), &size, fds, GUARD_MAX_ITEMS, &n_fds);

                if (r == PACKET_E_AGAIN)
                        return 0;
                if (r) {
                        source_remove(source); /* SIGCHLD tells what became of it */
                        return 0;
                }
                if (guard_msg_check(GUARD_SENDER_SUPERVISOR, &record, size, n_fds) == 0)
                        on_supervisor_record(guard, &record, fds, n_fds);
                for (size_t k = 0; k < n_fds; k++)
                        fds[k] = fd_close(fds[k]); /* made by our own supervisor */
        }
        return 0;
}

/* False: nothing is there, or will be. */
static bool hear_client(Guard *guard)
{
        struct guard_record record;
        size_t size = 0;
        int r = packet_recv(guard->client_fd, &record, sizeof(record), &size, NULL, 0, NULL);

        if (r && r != PACKET_E_AGAIN)
                on_client_gone(guard);
        else if (!r && guard_msg_check(GUARD_SENDER_CLIENT, &record, size, 0) == 0)
                guard_on_escrow(guard, &record, guard->client_fd);
        return !r;
}

static int on_client_socket(Source *source, uint32_t revents)
{
        (void)revents;
        (void)hear_client(container_of(source, Guard, client_source));
        return 0;
}

/* Its last words count: that all is to end now, perhaps, and not after the grace that it gave at first. */
static int on_client_exit(Source *source, uint32_t revents)
{
        Guard *guard = container_of(source, Guard, client_pid_source);

        (void)revents;
        for (unsigned i = 0; i < CLIENT_WORDS_MAX && hear_client(guard); i++)
                ;
        on_client_gone(guard);
        return 0;
}

/* ---- reaping */

/* What lies unread when its time is over is still its word: BYE, an escrow. All of it, and before another one begins. */
static void read_supervisor(Guard *guard)
{
        for (unsigned i = 0; i < SUPERVISOR_LAST_READS && guard->supervisor_source.loop; i++) {
                struct pollfd p = {.fd = guard->supervisor_fd, .events = POLLIN};

                if (poll(&p, 1, 0) != 1 || !(p.revents & POLLIN))
                        return;
                (void)on_supervisor_socket(&guard->supervisor_source, EPOLLIN);
        }
}

static void on_supervisor_exit(Guard *guard, const siginfo_t *si)
{
        struct guard_record record = {.type = GUARD_MSG_SUPERVISOR_GONE, .code = si->si_code, .status = si->si_status};

        read_supervisor(guard);
        guard->supervisor.pid = 0;
        guard->supervisor.pidfd = fd_close(guard->supervisor.pidfd);
        source_remove(&guard->supervisor_source);
        guard->supervisor_fd = fd_close(guard->supervisor_fd);
        guard_helpers_kill(guard); /* also one that stands still, and would not hear of it */
        if (guard->bye)
                return;
        if (guard->options->daemon) {
                guard_replace_supervisor(guard, si);
                return;
        }
        record_send(guard->client_fd, &record, NULL, 0);
        guard_end_all(guard, nsec_add(guard->loop.now, guard->grace_ns / 2), guard->grace_ns / 2);
}

/* Registrations that lie unread are of children that live: they come before the end of the keeper, and before that of its orphans. */
static void read_keeper(GuardSlot *slot)
{
        for (unsigned i = 0; i < GUARD_MAX_CHILDREN / 32 && slot->keeper_source.loop; i++) {
                struct pollfd p = {.fd = slot->keeper_fd, .events = POLLIN};

                if (poll(&p, 1, 0) != 1 || !(p.revents & POLLIN))
                        return;
                (void)on_keeper_socket(&slot->keeper_source, EPOLLIN);
        }
}

void guard_on_keeper_exit(Guard *guard, GuardSlot *slot, const siginfo_t *si)
{
        read_keeper(slot);
        source_remove(&slot->keeper_exit_source);
        slot->keeper_guard_fd = fd_close(slot->keeper_guard_fd);
        slot->keeper.pid = 0;
        slot->keeper.pidfd = fd_close(slot->keeper.pidfd);
        source_remove(&slot->keeper_source);
        slot->keeper_fd = fd_close(slot->keeper_fd);
        slot->keeper_peer_fd = fd_close(slot->keeper_peer_fd);
        slot->owes_gone = true;
        slot->gone_code = si->si_code;
        slot->gone_status = si->si_status;
        guard_pump(guard);
        for (unsigned i = 0; i < GUARD_MAX_CHILDREN; i++) /* those that ended in its hands without a word are ours now */
                if (guard->children[i].pidfd >= 0 && guard->children[i].slot == slot->number && guard->children[i].ended)
                        guard_child_look(&guard->children[i]);
}

static void on_child_reaped(Guard *guard, const siginfo_t *si)
{
        GuardChild *child;

        if (si->si_pid == guard->reader.pid) {
                guard_config_on_reader_exit(guard);
                return;
        }
        if (guard_reexec_on_exit(guard, si) || guard_helper_on_exit(guard, si))
                return;
        if (si->si_pid == guard->supervisor.pid) {
                on_supervisor_exit(guard, si);
                return;
        }
        for (unsigned i = 0; i < GUARD_MAX_SLOTS; i++) {
                if (guard->slots[i].keeper.pid == si->si_pid) {
                        guard_on_keeper_exit(guard, &guard->slots[i], si);
                        return;
                }
        }
        if (guard_on_enforcer_exit(guard, si))
                return;
        child = guard_find_child(guard, si->si_pid); /* an orphan of a dead keeper; anybody else's is just reaped */
        for (unsigned i = 0; i < GUARD_MAX_SLOTS && !child && guard->options->daemon; i++) {
                if (guard->slots[i].keeper.pid <= 0)
                        continue;
                read_keeper(&guard->slots[i]);
                child = guard_find_child(guard, si->si_pid);
        }
        if (child)
                guard_child_look(child);
}

/* Looked at first, handled, and only then reaped: its pid means this process until the very end. */
static bool reap_one(Guard *guard, idtype_t type, pid_t pid)
{
        siginfo_t si = {};

        if (waitid(type, (id_t)pid, &si, WEXITED | WNOHANG | WNOWAIT) < 0 || si.si_pid == 0)
                return false;
        on_child_reaped(guard, &si);
        (void)waitid(P_PID, (id_t)si.si_pid, &si, WEXITED | WNOHANG);
        return true;
}

/* Supervisor, keepers and enforcers do not wait behind the orphans that a node makes without a pause. */
static void reap_own(Guard *guard)
{
        if (guard->supervisor.pid > 0)
                (void)reap_one(guard, P_PID, guard->supervisor.pid);
        for (unsigned i = 0; i < _GUARD_HELPER_MAX; i++)
                if (guard->helpers[i].process.pid > 0)
                        (void)reap_one(guard, P_PID, guard->helpers[i].process.pid);
        for (unsigned i = 0; i < GUARD_MAX_ENFORCERS; i++)
                if (guard->enforcers[i].process.pid > 0)
                        (void)reap_one(guard, P_PID, guard->enforcers[i].process.pid);
        for (unsigned i = 0; i < GUARD_MAX_SLOTS; i++)
                if (guard->slots[i].keeper.pid > 0)
                        (void)reap_one(guard, P_PID, guard->slots[i].keeper.pid);
}

/*
 * Everybody else: orphans, of which a tree of thousands makes thousands when it is killed, and a fork bomb as many as
 * we reap. At our priority that would be all that the processor does: each look is followed by a rest that is longer.
 * Until none is left, for SIGCHLD tells of many only once.
 */
static int on_reap(Timer *timer, nsec_t now)
{
        Guard *guard = container_of(timer, Guard, reap_timer);
        nsec_t begin = clock_now(), end;
        unsigned n = 0;

        while (n < GUARD_REAPS_PER_TURN && reap_one(guard, P_ALL, 0))
                n++;
        end = clock_now();
        guard->reap_after = nsec_add(end, (end - begin) * GUARD_REAP_REST);
        if (n == GUARD_REAPS_PER_TURN)
                timer_arm(&guard->loop, timer, guard->reap_after, on_reap);
        guard_advance(guard);
        return 0;
}

static int on_signal(Source *source, uint32_t revents)
{
        Guard *guard = container_of(source, Guard, signal_source);
        struct signalfd_siginfo info;

        (void)revents;
        while (read(guard->signal_fd, &info, sizeof(info)) == sizeof(info))
                if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT)
                        guard_order_stop(guard, GUARD_MSG_STOP);
                else if (info.ssi_signo == SIGUSR2)
                        guard_reexec_order(guard);
                else if (info.ssi_signo == SIGHUP && guard->options->daemon)
                        guard_config_reload(guard);
                else if (info.ssi_signo == SIGUSR1)
                        guard_tell_supervisor(guard, (struct guard_record){.type = GUARD_MSG_DUMP});
        reap_own(guard);
        timer_arm(&guard->loop, &guard->reap_timer, MAX(guard->loop.now, guard->reap_after), on_reap);
        guard_advance(guard);
        return 0;
}

/* ---- the end */

static bool guard_has_keepers(const Guard *guard)
{
        for (unsigned i = 0; i < GUARD_MAX_SLOTS; i++)
                if (guard->slots[i].keeper.pid > 0)
                        return true;
        return false;
}

static int on_keepers_late(Timer *timer, nsec_t now)
{
        Guard *guard = container_of(timer, Guard, phase_timer);

        if (guard->keepers_killed) { /* one in an unkillable sleep must not hold us: the next command's sweep finds the rest */
                loop_exit(&guard->loop, 3);
                return 0;
        }
        guard->keepers_killed = true;
        for (unsigned i = 0; i < GUARD_MAX_SLOTS; i++)
                guard_process_kill(&guard->slots[i].keeper);
        timer_arm(&guard->loop, timer, nsec_add(now, NSEC_PER_SEC), on_keepers_late);
        return 0;
}

/* The instance's cgroup has been emptied, or its time is over and the enforcers have given up. */
static bool guard_has_ended(const Guard *guard)
{
        const GuardSlot *slot = &guard->slots[GUARD_SLOT_INSTANCE];

        return !guard_enforcing(guard) && (slot->escrow.at <= guard->loop.now || cgroup_populated(slot->events_fd) == 0);
}

/* The last look, when nobody is left who could start anything: kill what is there, remove every directory. */
static int guard_clean(Guard *guard)
{
        GuardSlot *slot = &guard->slots[GUARD_SLOT_INSTANCE];

        timer_disarm(&slot->escrow.timer);
        slot->escrow.term_ns = 0;
        slot->escrow.until = nsec_add(guard->loop.now, NSEC_PER_SEC);
        return guard_enforce(&slot->escrow, true);
}

/* They were killed when the keepers were to leave; in an unkillable sleep they must not hold us. */
static int on_helpers_late(Timer *timer, nsec_t now)
{
        Guard *guard = container_of(timer, Guard, phase_timer);

        guard->helpers_late = now >= guard->helpers_until;
        guard_advance(guard);
        return 0;
}

static int on_forks_late(Timer *timer, nsec_t now)
{
        (void)now;
        guard_advance(container_of(timer, Guard, phase_timer));
        return 0;
}

/* A helper is taking out what it had attached, or there is no process to be had: for as long as that usually takes it is put off. */
static bool put_off_cleaning(Guard *guard)
{
        nsec_t now = guard->loop.now;

        if (!guard->forks_until)
                guard->forks_until = nsec_add(now, GUARD_FORKS_SPAN);
        if (now >= guard->forks_until)
                return false;
        guard->state = GUARD_REAPING;
        timer_arm(&guard->loop, &guard->phase_timer, nsec_add(now, 10 * NSEC_PER_MSEC), on_forks_late);
        return true;
}

/* One state at a time, each left once what it waits for has happened. Called after every exit. */
void guard_advance(Guard *guard)
{
        int r;

        if (guard->state == GUARD_RUNNING && guard->supervisor.pid == 0 && !guard->restart_timer.loop)
                guard->state = GUARD_ENDING;
        if (guard->state == GUARD_ENDING && (guard->bye || guard_has_ended(guard))) {
                guard->state = GUARD_REAPING;
                guard_helpers_kill(guard);
                timer_arm(&guard->loop, &guard->phase_timer, nsec_add(guard->loop.now, GUARD_REAP_SPAN), on_keepers_late);
        }
        if (guard->state == GUARD_REAPING && !guard_has_keepers(guard)) {
                timer_disarm(&guard->phase_timer);
                guard->state = GUARD_CLEANING;
                r = guard_clean(guard);
                if (r && (r != -EAGAIN || !put_off_cleaning(guard)))
                        loop_exit(&guard->loop, 3);
                return;
        }
        if (guard->state == GUARD_CLEANING && !guard_enforcing(guard)) {
                if (guard_helpers_are_gone(guard) || guard->helpers_late)
                        loop_exit(&guard->loop, guard->n_left > 0 ? 3 : 0);
                else if (!guard->phase_timer.loop) {
                        if (!guard->helpers_until)
                                guard->helpers_until = nsec_add(guard->loop.now, guard->helpers[GUARD_HELPER_QUEUES].process.pid > 0 ? GUARD_DETACH_SPAN : GUARD_HELPER_SPAN);
                        timer_arm(&guard->loop, &guard->phase_timer, MIN(nsec_add(guard->loop.now, 20 * NSEC_PER_MSEC), guard->helpers_until), on_helpers_late);
                }
        }
}

/* ---- set-up */

static void guard_init(Guard *guard, const GuardOptions *options)
{
        /* Zeroed as it is, and not to be touched as a whole: what is not used costs no memory. */
        guard->options = options;
        guard->instance.base_fd = guard->instance.dir_fd = -1;
        guard->scope.dir_fd = guard->scope.holder_fd = -1;
        guard->signal_fd = guard->supervisor_fd = guard->notify_fd = -1;
        for (unsigned i = 0; i < _GUARD_HELPER_MAX; i++)
                guard->helpers[i].process.pidfd = -1;
        guard->client_fd = options->client_fd;
        guard->client_pidfd = options->client_pidfd;
        for (unsigned i = 0; i < GUARD_MAX_SLOTS; i++)
                guard->slots[i] = (GuardSlot){.guard = guard,
                        .number = i,
                        .dir_fd = -1,
                        .kill_fd = -1,
                        .events_fd = -1,
                        .keeper_fd = -1,
                        .keeper_peer_fd = -1,
                        .keeper_guard_fd = -1,
                        .keeper = {.pidfd = -1},
                        .escrow = {.guard = guard, .slot = i, .at = NSEC_NEVER}};
        for (unsigned i = 0; i < GUARD_MAX_CHILDREN; i++)
                guard->children[i].pidfd = -1;
        guard->runtime.dir_fd = guard->runtime.lock_fd = guard->runtime.control_fd = guard->runtime.node_fd = -1;
}

static int guard_watch_client(Guard *guard)
{
        int r;

        if (guard->client_fd < 0)
                return 0;
        r = source_add(&guard->loop, &guard->client_source, guard->client_fd, EPOLLIN, SOURCE_CLIENTS, on_client_socket);
        if (!r)
                r = source_add(&guard->loop, &guard->client_pid_source, guard->client_pidfd, EPOLLIN, SOURCE_CLIENTS, on_client_exit);
        return r;
}

int guard_open_instance_files(Guard *guard)
{
        GuardSlot *slot = &guard->slots[GUARD_SLOT_INSTANCE];
        int r;

        slot->dir_fd = openat(guard->instance.dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        r = slot->dir_fd < 0 ? -errno : (slot->events_fd = cgroup_open_events(guard->instance.dir_fd));
        if (r >= 0)
                r = slot->kill_fd = cgroup_open_kill(guard->instance.dir_fd);
        if (r < 0) {
                slot->events_fd = MAX(slot->events_fd, -1);
                slot->kill_fd = MAX(slot->kill_fd, -1);
                tell_client(guard, GUARD_MSG_FAILED, -r,
                        slot->events_fd >= 0 && r == -ENOENT ? "this kernel has no cgroup.kill (Linux 5.14)"
                                                             : "cannot open the instance's cgroup files");
                return error_origin(r);
        }
        return 0;
}

static int guard_open_instance(Guard *guard)
{
        char why[512] = "";
        int r;

        guard_scope_open(guard);
        guard_leaf_open(guard);
        r = guard->runtime.instance[0] ? instance_reopen(&guard->instance, guard_cgroup_root(guard), guard->runtime.instance) : -ENOENT;
        if (r == 0) {
                log_line("taking over the instance %s, which a daemon left here", guard->instance.name);
                guard->epoch = guard->loop.now / NSEC_PER_MSEC; /* beyond any that it may have used */
                if (guard->enforcer != ENFORCER_AUTO && guard->enforcer != guard->instance.enforcer)
                        log_line("it was begun with the enforcer %s and goes on with it: %s would need an instance of its own", enforcer_name(guard->instance.enforcer), enforcer_name(guard->enforcer));
        } else {
                r = instance_make(&guard->instance, guard_cgroup_root(guard), guard->options->daemon ? "daemon" : "run", guard->enforcer, why, sizeof(why));
        }
        if (r) {
                size_t n = strlen(why);

                if (guard->leaf_why[0])
                        (void)snprintf(why + n, sizeof(why) - n, "; %s", guard->leaf_why);
                tell_client(guard, GUARD_MSG_FAILED, -r, why);
                return r;
        }
        r = guard->options->daemon ? runtime_note_instance(&guard->runtime, guard->instance.name) : 0;
        if (r) {
                tell_client(guard, GUARD_MSG_FAILED, -r, "cannot write to the runtime directory");
                return r;
        }
        return guard_open_instance_files(guard);
}

static int guard_start_supervisor(Guard *guard)
{
        _cleanup_fd_ int theirs = -1;
        int pair[2], r;

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return error_origin(-errno);
        guard->epoch++; /* whatever an older one still says is ignored from here on */
        guard->supervisor_began = clock_now();
        guard->supervisor_fd = pair[0];
        theirs = pair[1];
        r = source_add(&guard->loop, &guard->supervisor_source, guard->supervisor_fd, EPOLLIN, SOURCE_EXITS, on_supervisor_socket);
        if (!r)
                r = guard_fork_supervisor(guard, theirs, &guard->supervisor);
        if (!r && guard->options->daemon)
                guard_watch_begin(guard);
        return r ? error_fold(r) : 0;
}

static int on_restart(Timer *timer, nsec_t now)
{
        Guard *guard = container_of(timer, Guard, restart_timer);

        (void)now;
        if (guard_start_supervisor(guard) == 0)
                return 0;
        source_remove(&guard->supervisor_source);
        guard->supervisor_fd = fd_close(guard->supervisor_fd);
        guard->backoff = MIN(MAX(2 * guard->backoff, GUARD_BACKOFF_MIN), GUARD_BACKOFF_MAX);
        log_line("cannot start a supervisor: %s; again in %u ms", strerror(errno), (unsigned)(guard->backoff / NSEC_PER_MSEC));
        timer_arm(&guard->loop, timer, nsec_add(guard->loop.now, guard->backoff), on_restart);
        return 0;
}

/* Nodes run on, data flows on: the next one adopts them. Unless all is being ended, and the time for that is over. */
static void guard_replace_supervisor(Guard *guard, const siginfo_t *si)
{
        nsec_t now = guard->loop.now;

        if (guard->slots[GUARD_SLOT_INSTANCE].escrow.at <= now)
                return;
        guard->backoff = now - guard->supervisor_began > GUARD_BACKOFF_CALM ? 0 : MIN(MAX(2 * guard->backoff, GUARD_BACKOFF_MIN), GUARD_BACKOFF_MAX);
        if (guard->epoch == 1)
                guard->backoff = 0; /* the first death costs nobody a wait */
        if (si->si_code == CLD_EXITED)
                log_line("the supervisor exited with status %d; the next one starts in %u ms", si->si_status, (unsigned)(guard->backoff / NSEC_PER_MSEC));
        else
                log_line("the supervisor was ended by SIG%s; the next one starts in %u ms", sigabbrev_np(si->si_status) ?: "?",
                        (unsigned)(guard->backoff / NSEC_PER_MSEC));
        timer_arm(&guard->loop, &guard->restart_timer, nsec_add(now, guard->backoff), on_restart);
}

/* It may hang in the kernel and not die of it: the next one does not wait for that. Its epoch is over, nobody reads it any more. */
void guard_give_up_supervisor(Guard *guard)
{
        nsec_t silent = guard->loop.now - guard->pinged_at;

        if (guard->slots[GUARD_SLOT_INSTANCE].escrow.at <= guard->loop.now)
                return; /* everything is being ended anyway */
        log_line("the supervisor (pid %d) has not answered for %.1f s; it is killed and replaced", (int)guard->supervisor.pid, (double)silent / 1e9);
        guard_process_kill(&guard->supervisor);
        read_supervisor(guard);
        guard->supervisor.pid = 0; /* reaped as a stranger, if ever */
        guard->supervisor.pidfd = fd_close(guard->supervisor.pidfd);
        source_remove(&guard->supervisor_source);
        guard->supervisor_fd = fd_close(guard->supervisor_fd);
        guard_helpers_kill(guard);
        guard->backoff = guard->loop.now - guard->supervisor_began > GUARD_BACKOFF_CALM ? 0 : MIN(MAX(2 * guard->backoff, GUARD_BACKOFF_MIN), GUARD_BACKOFF_MAX);
        timer_arm(&guard->loop, &guard->restart_timer, nsec_add(guard->loop.now, guard->backoff), on_restart);
}

static int guard_setup(Guard *guard)
{
        size_t size = sizeof(struct guard_result) * GUARD_MAX_ENFORCERS;
        sigset_t all;
        int r;

        sigfillset(&all);
        if (sigprocmask(SIG_SETMASK, &all, NULL) < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
                return error_origin(-errno);
        priority_lock_memory(guard->options->daemon);
        if (guard->options->daemon)
                priority_guard();
        (void)setsid(); /* EPERM: we lead one already. Ctrl-C in the client's terminal never reaches us */
        if (getrlimit(RLIMIT_NOFILE, &guard->nofile) == 0) {
                struct rlimit raised = {.rlim_cur = guard->nofile.rlim_max, .rlim_max = guard->nofile.rlim_max};

                (void)setrlimit(RLIMIT_NOFILE, &raised); /* refused: we live with what we have */
        }
        guard->results = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (guard->results == MAP_FAILED)
                return error_origin(-errno);
        r = guard_kills_open(guard);
        if (!r)
                r = guard_escrow_open(guard);
        if (!r)
                r = loop_init(&guard->loop);
        if (r)
                return error_fold(r);
        guard->signal_fd = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
        if (guard->signal_fd < 0)
                return error_origin(-errno);
        r = source_add(&guard->loop, &guard->signal_source, guard->signal_fd, EPOLLIN, SOURCE_EXITS, on_signal);
        return r ? error_fold(r) : 0;
}

static void close_control_fds(Guard *guard)
{
        /* The supervisor's from now on: its death must look like one to the client. A daemon has none. */
        (void)fd_close(guard->options->control_fds[0]);
        (void)fd_close(guard->options->control_fds[1]);
}

/* Somebody may live in what it was handed, or found. */
static bool guard_is_heir(const Guard *guard)
{
        return guard->options->state_fd >= 0 || guard->runtime.instance[0];
}

/* It cannot begin: what it made goes, what others left stays for the next try. */
static int guard_abandon(Guard *guard)
{
        if (guard_is_heir(guard))
                return 1;
        if (guard->instance.dir_fd >= 0)
                (void)instance_remove(&guard->instance, nsec_add(clock_now(), NSEC_PER_SEC));
        guard_leaf_end(guard);
        guard_scope_end(guard);
        runtime_remove(&guard->runtime);
        return 1;
}

/* A private instance or a daemon that begins says so and ends; one with dataflows tries again. */
static int guard_start_first_supervisor(Guard *guard)
{
        int r = guard_start_supervisor(guard);

        if (!r || !guard_is_heir(guard))
                return r;
        source_remove(&guard->supervisor_source);
        guard->supervisor_fd = fd_close(guard->supervisor_fd);
        timer_arm(&guard->loop, &guard->restart_timer, nsec_add(clock_now(), GUARD_BACKOFF_MIN), on_restart);
        return 0;
}

int guard_main(const GuardOptions *options)
{
        static Guard guard; /* 2 MiB; there is one */
        char why[512] = "";
        int r;

        guard_init(&guard, options);
        if (options->daemon)
                log_open("guard");
        if (options->daemon && options->state_fd < 0) {
                r = runtime_open(&guard.runtime, options->runtime_dir, why, sizeof(why));
                if (r) {
                        fprintf(stderr, "tidegated: %s\n", why[0] ? why : strerror(-r));
                        return 1;
                }
        }
        guard_helpers_find(&guard);
        r = guard_config_init(&guard);
        if (!r)
                r = guard_setup(&guard);
        if (!r && options->state_fd >= 0)
                r = guard_restore(&guard, options->state_fd);
        if (r) {
                tell_client(&guard, GUARD_MSG_FAILED, -r, "cannot set up the guard");
                return guard_abandon(&guard);
        }
        if (options->state_fd < 0 && guard_open_instance(&guard))
                return guard_abandon(&guard);
        r = guard_watch_client(&guard);
        if (!r)
                r = guard_start_first_supervisor(&guard);
        close_control_fds(&guard);
        if (r) {
                tell_client(&guard, GUARD_MSG_FAILED, -r, "cannot start the supervisor");
                return guard_abandon(&guard);
        }
        tell_client(&guard, GUARD_MSG_READY, 0, guard.instance.path);
        guard_scope_watch(&guard);
        r = loop_run(&guard.loop);
        if (instance_remove(&guard.instance, nsec_add(clock_now(), 200 * NSEC_PER_MSEC)) && r == 0)
                r = 3;
        guard_leaf_end(&guard);
        guard_scope_end(&guard);
        runtime_remove(&guard.runtime);
        return r < 0 || (r == 0 && guard.scope_lost) ? 1 : r;
}
