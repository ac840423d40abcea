/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/receive.h"
#include "base/send.h"
#include "protocol/guard_msg.h"
#include "supervisor/cgroup.h"
#include "supervisor/keeper-internal.h"
#include "supervisor/limit-files.h"
#include "supervisor/priority.h"

#define ORDERS_PER_TURN   16
#define LEFT_REMOVE_SPAN (40 * NSEC_PER_MSEC)
#define LAST_REPORTS_SPAN (200 * NSEC_PER_MSEC) /* for the supervisor to take what is queued, after the end */
#define LOGGER_DIES_SPAN  (200 * NSEC_PER_MSEC) /* from its SIGKILL to its exit; one in D never gets there */

static void on_guard(KeeperSource *source, uint32_t events);
static void on_supervisor(KeeperSource *source, uint32_t events);

/* ---- BEGIN ---- */

static int tell_guard(Keeper *k, int kill_fd, int events_fd)
{
        struct guard_record record = {.magic = GUARD_MAGIC, .type = GUARD_MSG_CGROUP, .slot = k->slot};
        const int fds[] = {k->dataflow_fd, kill_fd, events_fd};

        /* The first record on this socket: there is room, or something is wrong. */
        return send_message(k->guard_fd, &record, sizeof(record), fds, ELEMENTSOF(fds), MSG_DONTWAIT) < 0 ? error_origin(-errno) : 0;
}

/* Whether anybody is left is of interest only while we are alone, and is read then. */
static void on_dataflow_events(KeeperSource *source, uint32_t events)
{
        Keeper *k = container_of(source, Keeper, events);

        watch_frozen(&k->limits, k->events_fd); /* reading arms the next notification */
}

/* Made fresh, and known to the guard before anything can live in it. */
static int make_dataflow(Keeper *k, bool takeover, const char **ret_what)
{
        _cleanup_fd_ int kill_fd = -1;
        int r;

        *ret_what = takeover ? "take over the dataflow's cgroup" : "make the dataflow's cgroup";
        r = takeover ? cgroup_open(k->instance_fd, k->uuid, &k->dataflow_fd) : cgroup_make(k->instance_fd, k->uuid, &k->dataflow_fd);
        if (takeover && r == -ENOENT) /* somebody removed it, so nobody lives there: each of its nodes is found to be over */
                r = cgroup_make(k->instance_fd, k->uuid, &k->dataflow_fd);
        if (r)
                return r == CGROUP_E_EXISTS ? -EEXIST : r;
        *ret_what = "open the dataflow's cgroup";
        kill_fd = cgroup_open_kill(k->dataflow_fd);
        if (kill_fd < 0)
                return error_origin(kill_fd);
        k->events_fd = cgroup_open_events(k->dataflow_fd);
        if (k->events_fd < 0)
                return error_origin(k->events_fd);
        *ret_what = "register the dataflow's cgroup with the guard";
        r = tell_guard(k, kill_fd, k->events_fd);
        if (r && !(k->persistent && (r == -EPIPE || r == -ECONNRESET))) /* a dead one: its successor is told, and nobody starts before (order_guard) */
                return r;
        *ret_what = "watch the dataflow's cgroup";
        if (!enforcer_has_cgroup(k->enforcer))
                return 0; /* a plain directory tells of nothing; its lives' ends wake us all the same */
        confine_init(&k->confine, k->dataflow_fd, k->uid, k->gid, k->groups, k->n_groups);
        r = stray_place(k->dataflow_fd, &k->place);
        if (r)
                keeper_note(k, "who leaves its cgroup cannot be found: where that is cannot be told: %s", strerror(-r));
        return keeper_loop_add(&k->loop, &k->events, k->events_fd, EPOLLPRI, on_dataflow_events);
}

/* Ours is the socket's number that children of ours may be about to use: the new one takes its place. */
static void order_guard(Keeper *k, const int *fds)
{
        _cleanup_fd_ int kill_fd = -1;

        keeper_loop_remove(&k->loop, &k->guard);
        if (dup3(fds[0], k->guard_fd, O_CLOEXEC) < 0 || keeper_loop_add(&k->loop, &k->guard, k->guard_fd, EPOLLIN, on_guard))
                keeper_note(k, "the new guard cannot be reached: %s", strerror(errno));
        if (!k->begun)
                return;
        kill_fd = cgroup_open_kill(k->dataflow_fd);
        if (kill_fd < 0 || tell_guard(k, kill_fd, k->events_fd))
                keeper_note(k, "the dataflow's cgroup could not be registered with the new guard");
}

static void unmake_dataflow(Keeper *k)
{
        keeper_loop_remove(&k->loop, &k->events);
        watch_end(&k->limits);
        k->events_fd = fd_close(k->events_fd);
        if (k->dataflow_fd >= 0)
                (void)cgroup_remove_tree(k->instance_fd, k->uuid, 0);
        k->dataflow_fd = fd_close(k->dataflow_fd);
        free(TAKE_PTR(k->place));
}

static void fail_begin(Keeper *k, const char *what, int error)
{
        char text[512];

        snprintf(text, sizeof(text), "cannot %s: %s%s", what, error_text(error),
                error == EEXIST ? " (one of that name is there; a cgroup is never used twice)" : "");
        keeper_report(k, &(KeeperMsg){.type = KEEPER_MSG_FAILED, .failed = {error, text}}, -1);
}

const char *keeper_cgroup_path(const Keeper *k, char *buffer, size_t size)
{
        char link[64];
        ssize_t n;

        snprintf(link, sizeof(link), "/proc/self/fd/%d", k->dataflow_fd);
        n = readlink(link, buffer, size - 1);
        buffer[n > 0 ? n : 0] = '\0';
        return buffer[0] == '/' ? buffer : "/";
}

static void report_begun(Keeper *k)
{
        char path[KEEPER_MSG_PATH_MAX + 1];

        keeper_report(k, &(KeeperMsg){.type = KEEPER_MSG_BEGUN, .begun = {keeper_cgroup_path(k, path, sizeof(path)), k->controllers, k->missing, k->refused}}, -1);
}

/*
 * Memory and pids are had wherever they can be: who was ended for want of memory, and all of a node with it, is told without a
 * limit too. The other controllers change how the CPU and the disk are shared, and are enabled only when a limit asks.
 */
static void set_limits(Keeper *k, const KeeperMsg *msg)
{
        char reason[128];

        k->needed = msg->begin.controllers;
        if (!enforcer_has_cgroup(k->enforcer)) {
                (void)snprintf(reason, sizeof(reason), "limits need cgroups, and nodes are ended without them here (%s)", enforcer_name(k->enforcer));
                limits_missing(reason, k->missing, sizeof(k->missing));
                if (msg->begin.pressure)
                        (void)snprintf(k->missing + strlen(k->missing), sizeof(k->missing) - strlen(k->missing),
                                "pressure=it is counted for cgroups, and nodes are ended without them here (%s)\n", enforcer_name(k->enforcer));
                (void)limits_set_all(k->dataflow_fd, msg->begin.limits, true, k->missing, k->refused, sizeof(k->refused));
                return;
        }
        k->controllers = limits_enable(k->dataflow_fd, k->needed | LIMIT_CONTROLLER_MEMORY | LIMIT_CONTROLLER_PIDS, k->missing, sizeof(k->missing));
        (void)limits_set_all(k->dataflow_fd, msg->begin.limits, true, k->missing, k->refused, sizeof(k->refused)); /* BEGUN says it */
        if (msg->begin.pressure)
                pressure_try(k->dataflow_fd, k->missing, sizeof(k->missing));
        watch_begin(&k->limits, k->dataflow_fd, msg->begin.limits);
        k->limits.frozen = limits_frozen(k->events_fd) == 1;
}

static void order_begin(Keeper *k, const KeeperMsg *msg, int *fds)
{
        const char *what = "begin";
        int r;

        if (k->begun) {
                fail_begin(k, "begin twice", EALREADY);
                return;
        }
        k->slot = msg->begin.slot;
        k->uid = msg->begin.uid;
        k->gid = msg->begin.gid;
        k->persistent = msg->begin.persistent;
        k->takeover = msg->begin.takeover;
        k->n_groups = msg->begin.n_groups;
        memcpy(k->groups, msg->begin.groups, k->n_groups * sizeof(k->groups[0]));
        k->uuid = strdup(msg->begin.uuid);
        k->name = strdup(msg->begin.name);
        r = k->uuid && k->name ? make_dataflow(k, msg->begin.takeover, &what) : -ENOMEM;
        if (k->persistent) /* a private guard has given us nothing */
                priority_keeper();
        if (!r) {
                what = "start the logger";
                LoggerConfig logger = {.log_dir = msg->begin.log_dir, .uid = k->uid, .gid = k->gid, .groups = k->groups, .n_groups = k->n_groups};

                r = feed_start(&k->feed, &k->loop, &logger, &keeper_feed_ops, k);
        }
        if (!r && msg->begin.has_log_stream) {
                what = "use the log stream";
                r = stream_open(&k->stream, &k->loop, TAKE_FD(fds[0]), &keeper_stream_ops, k);
        }
        if (r) {
                feed_done(&k->feed);
                unmake_dataflow(k);
                free(k->uuid);
                free(k->name);
                k->uuid = k->name = NULL;
                fail_begin(k, what, -r);
                return;
        }
        set_limits(k, msg);
        k->begun = true;
        report_begun(k);
}

/* ---- orders ---- */

static void report_ended(Keeper *k, bool stays)
{
        bool logged = feed_ended(&k->feed) && feed_clean(&k->feed);

        keeper_report(k, &(KeeperMsg){.type = KEEPER_MSG_ENDED, .ended = {.removed = k->removed, .logged = logged, .stays = stays}}, -1);
}

static void set_phase(Keeper *k, KeeperPhase phase, nsec_t deadline)
{
        k->phase = phase;
        k->phase_deadline = deadline;
}

static void end_outputs(Keeper *k)
{
        Incarnation *inc, *next;

        list_for_each(inc, next, &k->incarnations, link)
                for (int i = 0; i < 2; i++)
                        output_last(&inc->out[i]);
}

static void begin_ending(Keeper *k, nsec_t deadline)
{
        set_phase(k, KEEPER_ENDING, deadline);
        k->remove_done = k->removed = false;
        k->ends_beside_left = !incarnations_over(k);
        keeper_loop_remove(&k->loop, &k->events); /* the file of a removed cgroup is ready for ever */
        watch_tell(&k->limits);
        watch_end(&k->limits);
        end_outputs(k);
        stream_last(&k->stream, deadline);
        /* What would not die was killed for all of its time; this is for those who moved up. */
        keeper_remove_dataflow(k, !k->ends_beside_left ? deadline : MIN(deadline, nsec_add(clock_now(), LEFT_REMOVE_SPAN)));
}

/* Orders of the end; and of those whom we stay with. */
static void order_end(Keeper *k, const KeeperMsg *msg)
{
        if (k->phase == KEEPER_STAYING && msg->end.stay) {
                report_ended(k, true); /* a successor of the supervisor asks again */
        } else if (k->phase == KEEPER_WORKING || k->phase == KEEPER_STAYING) {
                k->stay = msg->end.stay;
                begin_ending(k, msg->end.deadline_ns);
        }
}

/* After END nobody is begun, but who is left may be looked at and killed; and whose end came late is written down and let go late. */
static bool may_be_ordered(const Keeper *k, KeeperMsgType type)
{
        if (!k->begun)
                return false;
        if (k->phase == KEEPER_WORKING || type == KEEPER_MSG_REAP)
                return true;
        return (k->phase == KEEPER_ENDING || k->phase == KEEPER_STAYING) && (type == KEEPER_MSG_KILL || type == KEEPER_MSG_LOOK);
}

static void carry_out(Keeper *k, const KeeperMsg *msg, int *fds)
{
        if (msg->type == KEEPER_MSG_BEGIN) {
                order_begin(k, msg, fds);
                return;
        }
        if (msg->type == KEEPER_MSG_END) {
                order_end(k, msg);
                return;
        }
        if (msg->type == KEEPER_MSG_RESUME) {
                keeper_resume(k, msg->resume.asked_ns);
                return;
        }
        if (msg->type == KEEPER_MSG_GUARD) {
                order_guard(k, fds);
                return;
        }
        if (msg->type == KEEPER_MSG_ASTRAY) {
                if (k->begun && (k->phase == KEEPER_WORKING || k->phase == KEEPER_STAYING))
                        strays_told(k, msg); /* else everybody is being killed, or nobody was begun */
                return;
        }
        if (!may_be_ordered(k, msg->type)) {
                keeper_note(k, "an order %s came %s and was refused", keeper_msg_name(msg->type),
                        k->begun ? "after END" : "before BEGIN");
                return;
        }
        switch (msg->type) {
        case KEEPER_MSG_SPAWN:
                keeper_spawn(k, msg, fds);
                break;
        case KEEPER_MSG_CAPTURE:
                keeper_capture(k, msg, fds);
                break;
        case KEEPER_MSG_SIGNAL:
                keeper_signal(k, msg);
                break;
        case KEEPER_MSG_KILL:
                keeper_kill(k, msg);
                break;
        case KEEPER_MSG_LOOK:
                keeper_look(k, msg);
                break;
        case KEEPER_MSG_LIMIT:
                keeper_limit(k, msg);
                break;
        case KEEPER_MSG_PLACE:
                keeper_place(k, msg);
                break;
        case KEEPER_MSG_PRESSURE:
                keeper_pressure(k, msg);
                break;
        case KEEPER_MSG_FILES:
                keeper_files(k, msg->files.asked_ns, TAKE_FD(fds[0]));
                break;
        case KEEPER_MSG_MEASURE:
                keeper_measure(k, msg->measure.asked_ns);
                break;
        case KEEPER_MSG_SAMPLE:
                keeper_sample(k, msg->sample.asked_ns);
                break;
        case KEEPER_MSG_FREEZE:
                keeper_freeze(k, msg);
                break;
        case KEEPER_MSG_WHY:
                keeper_why(k, msg, fds);
                break;
        case KEEPER_MSG_REAP:
                keeper_reap(k, msg);
                break;
        case KEEPER_MSG_ADOPT:
                keeper_adopt(k, msg, fds);
                break;
        case KEEPER_MSG_STREAM:
                keeper_look_on(k, TAKE_FD(fds[0]));
                break;
        default:
                break;
        }
}

/* Descriptors that found no room in our table are dropped by the kernel, and the order with them. */
static void refuse_without_fds(Keeper *k, const KeeperMsg *order, int n_fds, bool dropped)
{
        char text[KEEPER_MSG_TEXT_MAX];

        snprintf(text, sizeof(text), "cannot start the node: %s",
                dropped ? error_text(EMFILE) : "the order came without its descriptors");
        if (order->type == KEEPER_MSG_SPAWN && k->begun && k->phase == KEEPER_WORKING)
                keeper_refuse_spawn(k, order, KEEPER_STAGE_FDS, dropped ? EMFILE : EPROTO, text);
        else if (order->type == KEEPER_MSG_CAPTURE && k->begun && k->phase == KEEPER_WORKING)
                keeper_refuse_spawn(k, order, KEEPER_STAGE_CAPTURE, dropped ? EMFILE : EPROTO, "its keeper has no descriptor free for it");
        else
                keeper_note(k, "an order %s was refused: %d descriptors came with it%s",
                        keeper_msg_name(order->type), n_fds, dropped ? ", others found no room (RLIMIT_NOFILE)" : "");
}

/* One packet. 1: one was read; 0: there is none now; -errno: the socket is over. */
static int receive_order(Keeper *k)
{
        char packet[KEEPER_MSG_MAX];
        char control[CMSG_SPACE(KEEPER_MSG_MAX_FDS * sizeof(int))] __attribute__((aligned(8)));
        struct iovec iov = {packet, sizeof(packet)};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
                .msg_controllen = sizeof(control)};
        int fds[KEEPER_MSG_MAX_FDS], n_fds = 0;
        KeeperMsg order;
        ssize_t n;

        n = receive_message(k->supervisor_fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n < 0)
                return errno == EAGAIN || errno == EINTR ? 0 : -errno;
        if (n == 0)
                return -ECONNRESET;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
                if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && n_fds == 0) {
                        n_fds = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
                        memcpy(fds, CMSG_DATA(c), (size_t)n_fds * sizeof(int));
                }
        if ((msg.msg_flags & MSG_TRUNC) || keeper_msg_decode(&order, packet, (size_t)n) < 0 ||
                !keeper_msg_is_order(order.type))
                keeper_note(k, "a packet of %zd bytes that does not follow the protocol was refused", n);
        else if (keeper_msg_n_fds(&order) != n_fds)
                refuse_without_fds(k, &order, n_fds, msg.msg_flags & MSG_CTRUNC);
        else
                carry_out(k, &order, fds);
        for (int i = 0; i < n_fds; i++)
                fds[i] = fd_close(fds[i]);
        return 1;
}

static void on_supervisor(KeeperSource *source, uint32_t events)
{
        Keeper *k = container_of(source, Keeper, supervisor);
        int r = 1;

        if (events & EPOLLOUT)
                keeper_report_flush(k);
        for (int i = 0; i < ORDERS_PER_TURN && r > 0 && k->supervisor_fd >= 0 && k->n_reports < REPORTS_MAX; i++)
                r = receive_order(k);
        if (k->supervisor_fd >= 0 && (r < 0 || (r == 0 && (events & (EPOLLHUP | EPOLLERR)))))
                keeper_supervisor_gone(k);
        else if (k->supervisor_fd >= 0)
                keeper_report_flush(k); /* watches for what is right now */
}

/* The guard says nothing to a keeper: only its hang-up counts. The fd stays open, children may be about to use it. */
static void on_guard(KeeperSource *source, uint32_t events)
{
        Keeper *k = container_of(source, Keeper, guard);
        struct guard_record record;
        ssize_t n = recv(k->guard_fd, &record, sizeof(record), MSG_DONTWAIT);

        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
                keeper_loop_remove(&k->loop, &k->guard);
}

/* Its guard is dead too, or we would not have heard of its end. One of ours, by its credentials: the socket is 0600 besides. */
static void on_connection(KeeperSource *source, uint32_t events)
{
        Keeper *k = container_of(source, Keeper, listener);
        _cleanup_fd_ int fd = accept4(k->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        struct ucred peer = {.uid = (uid_t)-1};
        socklen_t size = sizeof(peer);

        if (fd < 0 || k->supervisor_fd >= 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.uid != geteuid())
                return;
        if (keeper_loop_add(&k->loop, &k->supervisor, fd, EPOLLIN, on_supervisor))
                return;
        keeper_loop_remove(&k->loop, &k->listener);
        k->supervisor_fd = TAKE_FD(fd);
        k->alone_since = 0;
}

void keeper_await_supervisor(Keeper *k)
{
        if (k->persistent && k->listen_fd >= 0 && (k->phase == KEEPER_WORKING || k->phase == KEEPER_STAYING) && k->listener.fd < 0)
                (void)keeper_loop_add(&k->loop, &k->listener, k->listen_fd, EPOLLIN, on_connection);
}

/* Exits come by pidfd and orders by socket: signals are only kept from doing anything. */
static void on_signal(KeeperSource *source, uint32_t events)
{
        Keeper *k = container_of(source, Keeper, signals);
        struct signalfd_siginfo si[8];

        (void)!read(k->signal_fd, si, sizeof(si));
}

/* ---- the end ---- */

static bool outputs_are_closed(const Keeper *k)
{
        Incarnation *inc, *next;

        list_for_each(inc, next, &k->incarnations, link)
                if (output_is_open(&inc->out[0]) || output_is_open(&inc->out[1]))
                        return false;
        return true;
}

static void close_outputs(Keeper *k)
{
        Incarnation *inc, *next;

        list_for_each(inc, next, &k->incarnations, link)
                for (int i = 0; i < 2; i++)
                        output_close(&inc->out[i]);
}

static void end_or_stay(Keeper *k, nsec_t now)
{
        bool over = incarnations_over(k), stays = k->stay && !over;

        if (over && k->ends_beside_left && k->remove_done && !k->removed) { /* the last has gone since: now it can be removed */
                begin_ending(k, MAX(k->phase_deadline, nsec_add(now, LEFT_REMOVE_SPAN)));
                return;
        }
        keeper_tell_unshown(k);
        if (k->remove_done)
                keeper_report(k, &(KeeperMsg){.type = KEEPER_MSG_COUNTED, .counted = {k->n_left, k->n_left_cgroups}}, -1);
        report_ended(k, stays);
        if (stays)
                set_phase(k, KEEPER_STAYING, NSEC_NEVER);
        else
                set_phase(k, KEEPER_LAST, nsec_add(now, LAST_REPORTS_SPAN));
}

/* Three things at a time: the cgroup is removed, the pipes are emptied, and then the logger ends and lines go out. */
static void go_on_ending(Keeper *k, nsec_t now)
{
        bool late = now >= k->phase_deadline;

        if (!k->outputs_finished && (late || outputs_are_closed(k))) {
                k->outputs_finished = true;
                close_outputs(k);
                keeper_tell_unlogged(k);
                feed_close(&k->feed);
        }
        if (late && !feed_ended(&k->feed) && !k->logger_killed) {
                k->logger_killed = true;
                keeper_note(k, "the logger did not end in time (a hung disk?): lines are missing in the log files");
                feed_kill(&k->feed);
                k->phase_deadline = nsec_add(now, LOGGER_DIES_SPAN);
                return;
        }
        if (late || (k->outputs_finished && k->remove_done && feed_ended(&k->feed) && !stream_throttles(&k->stream)))
                end_or_stay(k, now);
}

static bool supervisor_gone(const Keeper *k)
{
        return k->supervisor_fd < 0;
}

/* Neither supervisor nor guard: nobody will ever stop this dataflow, so we do. */
static void go_alone(Keeper *k, nsec_t now)
{
        KeeperMsg all = {.type = KEEPER_MSG_KILL, .node = KEEPER_NODE_ALL, .kill = {nsec_add(now, ALONE_KILL_SPAN)}};

        set_phase(k, KEEPER_ALONE, nsec_add(now, ALONE_KILL_SPAN + NSEC_PER_SEC / 2));
        keeper_kill(k, &all);
}

/* Nodes run on without supervisor and guard. With nobody left to look after, a successor that comes soon learns how they ended. */
static void wait_alone(Keeper *k, nsec_t now)
{
        if (incarnations_starting(k) || cgroup_populated(k->events_fd) != 0)
                k->alone_since = 0;
        else if (!k->alone_since)
                k->alone_since = now;
        else if (now - k->alone_since >= ALONE_WAIT_SPAN)
                begin_ending(k, nsec_add(now, ALONE_KILL_SPAN));
}

static void go_on_working(Keeper *k, nsec_t now)
{
        if (!supervisor_gone(k))
                return;
        if (!k->begun)
                set_phase(k, KEEPER_GONE, NSEC_NEVER);
        else if (k->persistent)
                wait_alone(k, now);
        else if (k->guard.fd < 0)
                go_alone(k, now);
        else if (!incarnations_starting(k) && cgroup_populated(k->events_fd) == 0)
                begin_ending(k, nsec_add(now, ALONE_KILL_SPAN));
}

static void step_once(Keeper *k, nsec_t now)
{
        switch (k->phase) {
        case KEEPER_WORKING:
                go_on_working(k, now);
                break;
        case KEEPER_ALONE:
                if (k->kill_done || now >= k->phase_deadline)
                        begin_ending(k, nsec_add(now, NSEC_PER_SEC));
                break;
        case KEEPER_ENDING:
                go_on_ending(k, now);
                break;
        case KEEPER_STAYING:
                if (incarnations_over(k))
                        begin_ending(k, nsec_add(now, REMOVE_SPAN));
                break;
        case KEEPER_LAST:
                if (list_empty(&k->reports) || now >= k->phase_deadline)
                        set_phase(k, KEEPER_GONE, NSEC_NEVER);
                break;
        case KEEPER_GONE:
                break;
        }
}

/* A step may leave nothing to wait for: on to the next one at once. */
static void step_phase(Keeper *k, nsec_t now)
{
        KeeperPhase before;

        do {
                before = k->phase;
                step_once(k, now);
        } while (k->phase != before);
}

/* ---- life ---- */

static int open_standard_fds(void)
{
        int fd;

        do
                fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        while (fd >= 0 && fd <= STDERR_FILENO); /* the lowest free one: fills whatever was closed */
        if (fd < 0)
                return error_origin(-errno);
        fd = fd_close(fd);
        return 0;
}

/* Our own score is not the nodes'. Unreadable: then nothing to reset either. */
static bool oom_score_is_ours(void)
{
        _cleanup_fd_ int fd = open("/proc/self/oom_score_adj", O_RDONLY | O_CLOEXEC);
        char buf[16] = {};

        return fd >= 0 && read(fd, buf, sizeof(buf) - 1) > 0 && atoi(buf) != 0;
}

/* A dataflow of thousands of nodes needs them; the nodes get the limits of their specification. */
static void raise_fd_limit(void)
{
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                return;
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit); /* raising the soft limit cannot be refused */
}

static int watch_signals(Keeper *k)
{
        sigset_t all;

        /* Blocked, not handled: a child in our memory must never run a handler of ours. */
        sigfillset(&all);
        if (sigprocmask(SIG_BLOCK, &all, NULL) < 0)
                return error_origin(-errno);
        k->signal_fd = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
        if (k->signal_fd < 0)
                return error_origin(-errno);
        return keeper_loop_add(&k->loop, &k->signals, k->signal_fd, EPOLLIN, on_signal);
}

static int keeper_init(Keeper *k)
{
        int r;

        list_init(&k->nodes);
        list_init(&k->incarnations);
        list_init(&k->reports);
        list_init(&k->readable);
        k->supervisor = k->guard = k->signals = k->events = k->listener = KEEPER_SOURCE_INIT;
        watch_init(&k->limits, k, NULL);
        k->signal_fd = k->dataflow_fd = k->events_fd = k->loop.epoll_fd = -1;
        k->readers = READERS_NULL;
        k->stream = STREAM_NULL;
        k->feed = FEED_NULL;
        k->confine = CONFINE_NULL;
        k->reset_oom = oom_score_is_ours();
        k->default_signals = spawn_default_signals();
        k->enforcer = enforcer_of_instance(k->instance_fd);
        keeper_reapers_init(k);
        (void)prctl(PR_SET_NAME, "tidegate-keeper");
        (void)setsid();                /* -EPERM when the guard made us a leader already */
        (void)mallopt(M_ARENA_MAX, 1); /* many threads, little to allocate */
        raise_fd_limit();
        if (k->listen_fd >= 0)
                (void)listen(k->listen_fd, 1); /* again, by us: whoever connects sees the credentials and the pidfd of who called this */
        r = open_standard_fds();
        if (!r)
                r = keeper_loop_init(&k->loop);
        if (!r)
                r = jobs_init(&k->jobs, &k->loop);
        if (!r)
                r = readers_init(&k->readers, &k->loop, &keeper_readers_ops);
        if (!r)
                r = watch_signals(k);
        if (!r)
                r = keeper_loop_add(&k->loop, &k->supervisor, k->supervisor_fd, EPOLLIN, on_supervisor);
        if (!r)
                r = keeper_loop_add(&k->loop, &k->guard, k->guard_fd, EPOLLIN, on_guard);
        return r;
}

static nsec_t next_deadline(const Keeper *k, nsec_t reads)
{
        nsec_t deadline = k->phase == KEEPER_WORKING ? NSEC_NEVER : k->phase_deadline;

        if (reads == 0)
                return 0;
        deadline = MIN(deadline, reads);
        if (k->alone_since)
                deadline = MIN(deadline, nsec_add(k->alone_since, ALONE_WAIT_SPAN));
        deadline = MIN(deadline, incarnations_deadline(k));
        deadline = MIN(deadline, watches_deadline(k));
        deadline = MIN(deadline, stream_deadline(&k->stream));
        deadline = MIN(deadline, readers_deadline(&k->readers));
        return MAX(MIN(deadline, feed_deadline(&k->feed)), UINT64_C(1)); /* 0 means: do not wait */
}

static int keeper_run(Keeper *k)
{
        bool hurried = false;

        while (k->phase != KEEPER_GONE) {
                nsec_t now = clock_now(), reads;
                int r;

                feed_tick(&k->feed, now);
                readers_tick(&k->readers, now);
                stream_tick(&k->stream, now);
                watches_tick(k, now);
                incarnations_tick(k, now);
                step_phase(k, now);
                if (k->phase == KEEPER_GONE)
                        break;
                reads = outputs_read(k); /* behind whatever may have ended a throttle */
                r = keeper_loop_turn(&k->loop, next_deadline(k, reads));
                if (r)
                        return r;
                if (k->persistent)
                        hurried = priority_turn(hurried);
        }
        return 0;
}

/* False: threads are still at work on something of it, so it has to stay. */
static bool keeper_done(Keeper *k)
{
        NodeEntry *e, *next;

        if (!jobs_idle(&k->jobs))
                return false;
        incarnations_done(k);
        keeper_reapers_done(k);
        stream_close(&k->stream);
        feed_done(&k->feed);
        keeper_supervisor_gone(k);
        keeper_reports_done(k);
        list_for_each(e, next, &k->nodes, link) {
                list_unlink(&e->link);
                free(e->id);
                free(e);
        }
        confine_done(&k->confine);
        k->guard_fd = fd_close(k->guard_fd);
        k->listen_fd = fd_close(k->listen_fd);
        k->instance_fd = fd_close(k->instance_fd);
        k->events_fd = fd_close(k->events_fd);
        k->dataflow_fd = fd_close(k->dataflow_fd);
        k->signal_fd = fd_close(k->signal_fd);
        readers_done(&k->readers);
        keeper_loop_done(&k->loop);
        free(k->uuid);
        free(k->name);
        free(k->place);
        return true;
}

int keeper_main(int supervisor_fd, int guard_fd, int instance_cgroup_fd, int listen_fd)
{
        static Keeper keeper; /* one per process; idle threads may look at it until the very end */
        Keeper *k = &keeper;
        int r;

        k->supervisor_fd = supervisor_fd;
        k->guard_fd = guard_fd;
        k->instance_fd = instance_cgroup_fd;
        k->listen_fd = listen_fd;
        r = keeper_init(k);
        if (!r)
                r = keeper_run(k);
        if (!keeper_done(k))
                _exit(r ? 1 : 0); /* a thread hangs in the kernel: nothing that runs at exit may wait for it */
        return r ? 1 : 0;
}
