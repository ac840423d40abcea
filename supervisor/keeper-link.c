/* SPDX-License-Identifier: Apache-2.0 */
/* The supervisor's side of the keeper socket: orders out, reports in (protocol/keeper_msg.h). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/utf8.h"
#include "protocol/node_msg.h"
#include "supervisor/dataflow.h"
#include "supervisor/placer.h"
#include "supervisor/priority.h"
#include "supervisor/server.h"
#include "supervisor/supervisor.h"
#include "supervisor/wiring.h"

#define KEEPER_REPORTS_PER_TURN 64
#define NODE_FD_IN_CHILD        "3"

/* ---- orders */

static int keeper_send(Dataflow *dataflow, const KeeperMsg *msg, const int *fds, size_t n_fds)
{
        char buffer[KEEPER_MSG_MAX];
        int n, r;

        if (dataflow->keeper_fd < 0)
                return -ENOTCONN;
        n = keeper_msg_encode(msg, buffer, sizeof(buffer));
        if (n < 0)
                return error_origin(n);
        r = packet_queue_send(&dataflow->keeper_out, dataflow->keeper_fd, buffer, (size_t)n, fds, n_fds);
        if (r == PACKET_E_CLOSED)
                return -ENOTCONN; /* the guard tells what became of it */
        if (r) {
                keeper_lost(dataflow, "does not take orders any more");
                return r < 0 ? r : -ENOBUFS;
        }
        if (packet_queue_pending(&dataflow->keeper_out))
                (void)source_set_events(&dataflow->keeper_source, EPOLLIN | EPOLLOUT);
        return 0;
}

void keeper_order_begin(Dataflow *dataflow)
{
        char limits[KEEPER_MSG_LIMITS_MAX + 1];
        KeeperMsg msg = {.type = KEEPER_MSG_BEGIN,
                .begin = {.uuid = dataflow->uuid_text,
                        .name = dataflow->plan->name,
                        .log_dir = dataflow->log_dir ? dataflow->log_dir : "",
                        .slot = dataflow->slot,
                        .uid = dataflow->options.uid,
                        .gid = dataflow->options.gid,
                        .has_log_stream = dataflow->options.log_fd >= 0,
                        .persistent = !supervisor_is_private(dataflow->supervisor),
                        .takeover = dataflow->state > DATAFLOW_BEGINNING,
                        .limits = resources_text(dataflow, NULL, limits),
                        .controllers = resources_controllers(dataflow),
                        .pressure = pressure_is_asked(dataflow),
                        .n_groups = dataflow->options.n_groups}};

        memcpy(msg.begin.groups, dataflow->options.groups, dataflow->options.n_groups * sizeof(msg.begin.groups[0]));
        (void)keeper_send(dataflow, &msg, &dataflow->options.log_fd, dataflow->options.log_fd >= 0);
        dataflow->options.log_fd = fd_close(dataflow->options.log_fd); /* ours: a socket that we made */
}

/* The node's environment: the caller's, overlaid by the plan's, and what tells it who it is. */
static char **env_new(const Node *node, bool has_socket)
{
        static char node_fd[] = NODE_MSG_FD_ENV "=" NODE_FD_IN_CHILD, unbuffered[] = "PYTHONUNBUFFERED=1";
        size_t n = 0, n_plan = 0, k = 0;
        char **env;

        while (node->dataflow->options.environ[n])
                n++;
        while (node->plan->env[n_plan])
                n_plan += 2;
        env = calloc(n + n_plan / 2 + 4, sizeof(*env));
        if (!env)
                return NULL;
        for (size_t i = 0; i < n_plan; i += 2)
                if (asprintf(&env[k], "%s=%s", node->plan->env[i], node->plan->env[i + 1]) >= 0)
                        k++;
        for (size_t i = 0; i < n; i++) {
                const char *entry = node->dataflow->options.environ[i];
                size_t name = strcspn(entry, "=");
                bool replaced = strncmp(entry, NODE_MSG_FD_ENV "=", strlen(NODE_MSG_FD_ENV) + 1) == 0 ||
                                strncmp(entry, NODE_MSG_SOCKET_ENV "=", strlen(NODE_MSG_SOCKET_ENV) + 1) == 0;

                for (size_t p = 0; p < n_plan && !replaced; p += 2)
                        replaced = strlen(node->plan->env[p]) == name && strncmp(entry, node->plan->env[p], name) == 0;
                if (!replaced && (env[k] = strdup(entry)))
                        k++;
        }
        if (has_socket && (env[k] = strdup(node_fd)))
                k++;
        if (has_socket && node->dataflow->supervisor->node_path[0] && asprintf(&env[k], NODE_MSG_SOCKET_ENV "=%s", node->dataflow->supervisor->node_path) >= 0)
                k++;
        if ((env[k] = strdup(unbuffered)))
                k++;
        return env;
}

static void env_free(char **env)
{
        for (size_t i = 0; env && env[i]; i++)
                free(env[i]);
        free(env);
}

/* A spec in a memfd of ours: any size, and the keeper can read it without trusting a length. */
static int spec_new(const Node *node, bool has_socket, int *ret_fd, uint64_t *ret_size)
{
        char **env = env_new(node, has_socket);
        KeeperSpec spec = {.argv = (char **)node->plan->argv,
                .env = env,
                .cwd = node->dataflow->plan->dir,
                .cpus = node->plan->cpus,
                .n_cpus = (uint32_t)node->plan->n_cpus,
                .umask = node->dataflow->options.umask,
                .batch = placer_is_one_of_many(node),
                .nofile_soft = node->dataflow->options.nofile.rlim_cur,
                .nofile_hard = node->dataflow->options.nofile.rlim_max};
        int64_t size = env ? keeper_spec_encode(&spec, NULL, 0) : -ENOMEM;
        _cleanup_free_ char *buffer = NULL;
        _cleanup_fd_ int fd = -1;

        if (size >= 0) {
                buffer = malloc((size_t)size);
                size = buffer ? keeper_spec_encode(&spec, buffer, (size_t)size) : -ENOMEM;
        }
        env_free(env);
        if (size < 0)
                return error_origin((int)size);
        fd = memfd_create("tidegate-spec", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0)
                return error_origin(-errno);
        if (write(fd, buffer, (size_t)size) != (ssize_t)size) /* memory: all or ENOSPC */
                return error_origin(-ENOSPC);
        *ret_fd = TAKE_FD(fd);
        *ret_size = (uint64_t)size;
        return 0;
}

static int pipe_new(int *ret_read, int *ret_write)
{
        int fds[2];

        if (pipe2(fds, O_CLOEXEC) < 0)
                return error_origin(-errno);
        *ret_read = fds[0];
        *ret_write = fds[1];
        return 0;
}

static void keep_pipes(Node *node, int out, int err)
{
        const int fds[] = {out, err};

        for (unsigned i = 0; i < ELEMENTSOF(node->out_fds); i++) {
                node->out_fds[i] = fd_close(node->out_fds[i]);
                if (!supervisor_is_private(node->dataflow->supervisor))
                        node->out_fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3); /* none: what it prints is lost with this keeper */
        }
}

int keeper_order_spawn(Node *node, int node_sock, nsec_t deadline)
{
        char limits[KEEPER_MSG_LIMITS_MAX + 1];
        _cleanup_fd_ int spec = -1, out_r = -1, out_w = -1, err_r = -1, err_w = -1;
        KeeperMsg msg = {.type = KEEPER_MSG_SPAWN,
                .node = node->index,
                .generation = node->generation,
                .spawn = {.id = node->plan->id, .deadline_ns = deadline, .has_socket = node_sock >= 0, .cgroup_writable = node->plan->cgroup_writable,
                        .limits = resources_text(node->dataflow, node, limits), .lenient = node->dataflow->options.allow_unenforced}};
        int fds[KEEPER_MSG_MAX_FDS], r;

        r = spec_new(node, node_sock >= 0, &spec, &msg.spawn.spec_size);
        if (!r)
                r = pipe_new(&out_r, &out_w);
        if (!r)
                r = pipe_new(&err_r, &err_w);
        if (r)
                return error_fold(r);
        guard_store_order(node, (const struct guard_item[]){{GUARD_ITEM_STDOUT, 0}, {GUARD_ITEM_STDERR, 0}}, (const int[]){out_r, err_r}, 2);
        keep_pipes(node, out_r, err_r);
        fds[0] = spec;
        fds[1] = out_w;
        fds[2] = err_w;
        fds[3] = out_r;
        fds[4] = err_r;
        fds[5] = node_sock;
        return keeper_send(node->dataflow, &msg, fds, node_sock >= 0 ? 6 : 5);
}

int keeper_order_capture(Node *node, int pidfd, nsec_t deadline)
{
        char limits[KEEPER_MSG_LIMITS_MAX + 1];
        KeeperMsg msg = {.type = KEEPER_MSG_CAPTURE,
                .node = node->index,
                .generation = node->generation,
                .capture = {.id = node->plan->id, .deadline_ns = deadline, .limits = resources_text(node->dataflow, node, limits),
                        .lenient = node->dataflow->options.allow_unenforced}};

        return keeper_send(node->dataflow, &msg, &pidfd, 1);
}

uint32_t keeper_order_signal(Node *node, int signo)
{
        KeeperMsg msg = {.type = KEEPER_MSG_SIGNAL, .node = node->index, .generation = node->generation, .signal = {.signo = signo}};

        return keeper_send(node->dataflow, &msg, NULL, 0) ? 0 : ++node->n_signals_sent;
}

void keeper_order_kill(Node *node, nsec_t until)
{
        KeeperMsg msg = {.type = KEEPER_MSG_KILL, .node = node->index, .generation = node->generation, .kill = {.until_ns = until}};

        audit_note_kill(node, clock_now());
        (void)keeper_send(node->dataflow, &msg, NULL, 0); /* the guard's escrow stands behind it */
}

int keeper_order_limit(Dataflow *dataflow, const Node *node, const char *limits)
{
        KeeperMsg msg = {.type = KEEPER_MSG_LIMIT,
                .node = node ? node->index : KEEPER_NODE_ALL,
                .generation = node ? node->generation : 0,
                .limit = {.limits = limits}};

        return keeper_send(dataflow, &msg, NULL, 0);
}

int keeper_order_freeze(Dataflow *dataflow, const Node *node, bool frozen, nsec_t until)
{
        KeeperMsg msg = {.type = KEEPER_MSG_FREEZE,
                .node = node ? node->index : KEEPER_NODE_ALL,
                .generation = node ? node->generation : 0,
                .freeze = {.frozen = frozen, .deadline_ns = until}};

        return keeper_send(dataflow, &msg, NULL, 0);
}

int keeper_order_pressure(Dataflow *dataflow, const Node *node, const char *conditions)
{
        KeeperMsg msg = {.type = KEEPER_MSG_PRESSURE,
                .node = node ? node->index : KEEPER_NODE_ALL,
                .generation = node ? node->generation : 0,
                .pressure = {.conditions = conditions}};

        return keeper_send(dataflow, &msg, NULL, 0);
}

int keeper_order_sample(Dataflow *dataflow, nsec_t asked)
{
        KeeperMsg msg = {.type = KEEPER_MSG_SAMPLE, .sample = {.asked_ns = asked}};

        return keeper_send(dataflow, &msg, NULL, 0);
}

int keeper_order_measure(Dataflow *dataflow, nsec_t asked)
{
        KeeperMsg msg = {.type = KEEPER_MSG_MEASURE, .measure = {.asked_ns = asked}};

        return keeper_send(dataflow, &msg, NULL, 0);
}

int keeper_order_files(Dataflow *dataflow, nsec_t asked, int fd)
{
        KeeperMsg msg = {.type = KEEPER_MSG_FILES, .files = {.asked_ns = asked}};

        return keeper_send(dataflow, &msg, &fd, 1);
}

int keeper_order_place(Node *node, int cpu)
{
        KeeperMsg msg = {.type = KEEPER_MSG_PLACE, .node = node->index, .generation = node->generation, .place = {.cpu = (uint32_t)(cpu + 1)}};

        return keeper_send(node->dataflow, &msg, NULL, 0);
}

int keeper_order_why(Node *node, uint64_t asked, int context_fd, bool freeze, KeeperHaste haste, nsec_t deadline)
{
        KeeperMsg msg = {.type = KEEPER_MSG_WHY,
                .node = node->index,
                .generation = node->generation,
                .why = {.asked = asked, .deadline_ns = deadline, .freeze = freeze, .haste = haste}};

        return keeper_send(node->dataflow, &msg, &context_fd, 1);
}

void keeper_order_look(Node *node)
{
        KeeperMsg msg = {.type = KEEPER_MSG_LOOK, .node = node->index, .generation = node->generation};

        (void)keeper_send(node->dataflow, &msg, NULL, 0); /* the verdict falls without it, with less to tell */
}

int keeper_order_astray(Node *node, uint64_t generation, int32_t pid, uint64_t start_ns, bool alone, const char *comm, const char *to)
{
        KeeperMsg msg = {.type = KEEPER_MSG_ASTRAY,
                .node = node->index,
                .generation = generation,
                .astray = {.pid = pid, .start_ns = start_ns, .alone = alone, .comm = comm, .to = to}};

        return keeper_send(node->dataflow, &msg, NULL, 0);
}

void keeper_order_reap(Node *node)
{
        KeeperMsg msg = {.type = KEEPER_MSG_REAP, .node = node->index, .generation = node->generation};

        (void)keeper_send(node->dataflow, &msg, NULL, 0); /* a zombie ends with its keeper at the latest */
}

void keeper_order_forget(Dataflow *dataflow, uint32_t node, uint64_t generation)
{
        KeeperMsg msg = {.type = KEEPER_MSG_REAP, .node = node, .generation = generation};

        (void)keeper_send(dataflow, &msg, NULL, 0); /* asked again by the next successor */
}

int keeper_order_stream(Dataflow *dataflow, int fd)
{
        KeeperMsg msg = {.type = KEEPER_MSG_STREAM};

        return keeper_send(dataflow, &msg, &fd, 1);
}

void keeper_order_end(Dataflow *dataflow, nsec_t deadline, bool stay)
{
        KeeperMsg msg = {.type = KEEPER_MSG_END, .end = {.deadline_ns = deadline, .stay = stay}};

        (void)keeper_send(dataflow, &msg, NULL, 0); /* it is killed when it has not left a little later */
}

/* ---- reports */

static int on_leader_exit(Source *source, uint32_t revents)
{
        Node *node = container_of(source, Node, pid_source);
        Dataflow *dataflow = node->dataflow;

        (void)revents;
        source_remove(source); /* how it ended comes from its parent, the keeper */
        if (!node->exit_seen_at)
                node->exit_seen_at = clock_now();
        if (!node->exited && dataflow->keeper_fd >= 0 && dataflow->keeper_pid > 0)
                priority_hurry(dataflow->keeper_pid);
        return 0;
}

static void on_home(Node *node, const KeeperMsg *msg)
{
        node->cgroup_id = msg->home.cgroup_id;
        prober_node_home(node);
}

static void on_spawned(Node *node, const KeeperMsg *msg, int *fds)
{
        node->spawned = true;
        node->cgroup_write = msg->spawned.cgroup_write;
        keeper_take_pidfd(node, msg->spawned.pid, TAKE_FD(fds[0]));
        node_journal(node);
        if (node->captured)
                node_on_captured(node);
        if (node->plan->kind == PLAN_KIND_PROGRAM)
                node_post(node, NODE_EV_READY); /* before EXITED, which may lie right behind in the socket */
        dataflow_kick(node->dataflow);
}

void keeper_take_spawn_failure(Node *node, KeeperStage stage, const char *text)
{
        const Dataflow *dataflow = node->dataflow;

        if (stage == KEEPER_STAGE_REGISTER && !supervisor_is_private(dataflow->supervisor) && !dataflow->stop_ordered && !node->stop_wanted) {
                dataflow_note(node->dataflow, node->plan->id, text);
                node->restart_wanted = true; /* the guard died, and nothing ran: begun again with the next one, and not counted against it */
        } else if (stage == KEEPER_STAGE_LIMITS) {
                char why[1024];

                resources_explain_failure(node, text, why, sizeof(why));
                node_set_error(node, "%s", why);
        } else {
                node_set_error(node, "%s", text);
        }
        node->exec_stuck = stage == KEEPER_STAGE_DEADLINE;
}

static void on_empty(Node *node, const KeeperMsg *msg)
{
        Dataflow *dataflow = node->dataflow;

        node->empty = true;
        resources_ended(node);
        if (!node->exited && node->captured) /* nobody sees how, and nobody is to blame */
                node_on_ended(node, 0, 0);
        else if (!node->exited && !supervisor_is_private(dataflow->supervisor))
                guard_ask_order(node); /* a keeper that took it over does not see how its first process ends */
        audit_note_killed(node, msg->empty.n_killed);
        node->not_removed = !msg->empty.removed;
        node_on_keeper_killed(node, msg->empty.killed_at_ns);
        if (!msg->empty.removed)
                dataflow_note(dataflow, node->plan->id, "its cgroup is empty, but could not be removed yet");
        if (dataflow->stop_ordered)
                dataflow_ledger(dataflow, node_rung_to_string(node->rung), node, "empty", msg->empty.n_killed);
        node_post(node, NODE_EV_EMPTY);
}

/* About an incarnation, or about the dataflow's own cgroup. */
static void on_resources_report(Dataflow *dataflow, const KeeperMsg *msg)
{
        Node *node = msg->node < dataflow->plan->n_nodes ? &dataflow->nodes[msg->node] : NULL;

        if (msg->node != KEEPER_NODE_ALL && (!node || msg->generation != node->generation))
                return; /* about an incarnation that is over */
        if (msg->type == KEEPER_MSG_USAGE)
                resources_told_usage(dataflow, node, &msg->usage.usage, msg->usage.again);
        else if (msg->type == KEEPER_MSG_FROZEN)
                resources_told_frozen(dataflow, node, msg->frozen.frozen);
        else if (msg->type == KEEPER_MSG_MEASURED)
                usage_told(dataflow, node, msg);
        else if (msg->type == KEEPER_MSG_PRESSED)
                pressure_told(dataflow, node, msg);
        else if (msg->type == KEEPER_MSG_UNWATCHED)
                pressure_told_unwatched(dataflow, node, msg->unwatched.text);
        else if (msg->type == KEEPER_MSG_SAMPLED)
                sampler_told(dataflow, node, msg);
        else if (msg->type == KEEPER_MSG_LIMITED)
                resources_told_limited(dataflow, node, msg->limited.error, msg->limited.text);
        else
                resources_told_freeze(dataflow, node, msg->freeze_done.frozen, msg->freeze_done.error);
}

/* It is of the node still: told, and killed with it. */
static void on_escaped(Node *node, const KeeperMsg *msg)
{
        _cleanup_free_ char *comm = utf8_clean(msg->escaped.comm, strlen(msg->escaped.comm), NULL);
        _cleanup_free_ char *to = utf8_clean(msg->escaped.to, strlen(msg->escaped.to), NULL);

        if (comm && to)
                dataflow_escape_event(node->dataflow, node, msg->escaped.pid, comm, msg->escaped.from, to, msg->escaped.signo);
}

static void on_node_report(Dataflow *dataflow, const KeeperMsg *msg, int *fds)
{
        Node *node = msg->node < dataflow->plan->n_nodes ? &dataflow->nodes[msg->node] : NULL;

        if (node && msg->generation != node->generation)
                node_on_older(node, msg);
        if (!node || msg->generation != node->generation)
                return; /* about an incarnation that is over */
        switch (msg->type) {
        case KEEPER_MSG_HOME:
                on_home(node, msg);
                break;
        case KEEPER_MSG_SPAWNED:
                on_spawned(node, msg, fds);
                break;
        case KEEPER_MSG_SPAWN_FAILED:
                if (node_is_dynamic(node)) {
                        node_on_refused(node, msg->spawn_failed.text);
                        break;
                }
                keeper_take_spawn_failure(node, msg->spawn_failed.stage, msg->spawn_failed.text);
                node_post(node, NODE_EV_SPAWN_FAILED);
                break;
        case KEEPER_MSG_EXITED:
                node_on_ended(node, msg->exited.code, msg->exited.status);
                break;
        case KEEPER_MSG_EMPTY:
                on_empty(node, msg);
                break;
        case KEEPER_MSG_SIGNALLED:
                node->n_signals_done++;
                if (server_signalled(dataflow->supervisor->server, node, msg->signalled.n, msg->signalled.error))
                        break;
                __attribute__((fallthrough));
        case KEEPER_MSG_KILLING:
                node_on_keeper_killed(node, msg->type == KEEPER_MSG_KILLING && msg->signalled.n > 0 ? msg->signalled.at_ns : 0);
                dataflow_ledger(dataflow, msg->type == KEEPER_MSG_KILLING ? "kill" : "term", node,
                        msg->signalled.error ? strerror(msg->signalled.error) : "sent", msg->signalled.n);
                break;
        case KEEPER_MSG_LEFT:
                node_on_looked(node, msg);
                break;
        case KEEPER_MSG_PLACED:
                placer_on_placed(node, msg);
                break;
        case KEEPER_MSG_REFUSED:
                resources_told_refused(node, msg->refused.text, false);
                break;
        case KEEPER_MSG_ESCAPED:
                node->strayed = node->strayed || msg->escaped.signo >= 0;
                on_escaped(node, msg);
                break;
        default:
                break;
        }
}

void keeper_order_resume(Dataflow *dataflow)
{
        KeeperMsg msg = {.type = KEEPER_MSG_RESUME, .resume = {.asked_ns = clock_now()}};

        dataflow->resume_asked = msg.resume.asked_ns;
        (void)keeper_send(dataflow, &msg, NULL, 0); /* a keeper that is gone is told by the guard */
}

void keeper_order_guard(Dataflow *dataflow, int guard_fd)
{
        KeeperMsg msg = {.type = KEEPER_MSG_GUARD};

        (void)keeper_send(dataflow, &msg, &guard_fd, 1); /* starts fail there until the next guard, with a reason */
}

/* Of an earlier life, which would not end. Whatever it prints nobody reads any more. */
void keeper_order_adopt_left(Node *node, uint64_t generation)
{
        KeeperMsg msg = {.type = KEEPER_MSG_ADOPT, .node = node->index, .generation = generation, .adopt = {.id = node->plan->id}};
        int fds[2] = {-1, -1}, write_end = -1;

        for (unsigned i = 0; i < 2; i++)
                if (pipe_new(&fds[i], &write_end) == 0)
                        write_end = fd_close(write_end);
        (void)keeper_send(node->dataflow, &msg, fds, 2);
        for (unsigned i = 0; i < 2; i++)
                fds[i] = fd_close(fds[i]);
}

void keeper_order_adopt(Node *node)
{
        char limits[KEEPER_MSG_LIMITS_MAX + 1];
        KeeperMsg msg = {.type = KEEPER_MSG_ADOPT, .node = node->index, .generation = node->generation,
                .adopt = {.id = node->plan->id, .limits = resources_text(node->dataflow, node, limits)}};

        for (unsigned i = 0; i < 2; i++) {
                int write_end = -1;

                if (node->out_fds[i] < 0 && pipe_new(&node->out_fds[i], &write_end) == 0)
                        write_end = fd_close(write_end); /* lost with a guard: one that is at its end is as good */
        }
        (void)keeper_send(node->dataflow, &msg, node->out_fds, 2); /* without descriptors refused, and taken for lost */
}

void keeper_take_pidfd(Node *node, int32_t pid, int take_pidfd)
{
        node->pid = pid;
        source_remove(&node->pid_source);
        node->pidfd = fd_close(node->pidfd);
        node->pidfd = take_pidfd;
        if (take_pidfd >= 0)
                (void)source_add(node->dataflow->loop, &node->pid_source, node->pidfd, EPOLLIN, SOURCE_EXITS, on_leader_exit);
}

static void on_report(Dataflow *dataflow, const KeeperMsg *msg, int *fds)
{
        if (msg->type == KEEPER_MSG_INCARNATION || msg->type == KEEPER_MSG_RESUMED) {
                if ((msg->type == KEEPER_MSG_RESUMED ? msg->resumed.asked_ns : msg->incarnation.asked_ns) != dataflow->resume_asked)
                        return;
                if (msg->type == KEEPER_MSG_RESUMED)
                        adopt_resumed(dataflow, msg);
                else
                        adopt_incarnation(dataflow, msg, fds);
                return;
        }
        if (dataflow->adopting && msg->type == KEEPER_MSG_USAGE && msg->usage.again) {
                on_resources_report(dataflow, msg); /* a part of what RESUME is answered with */
                return;
        }
        if (dataflow->adopting && msg->type == KEEPER_MSG_HOME) { /* likewise */
                on_node_report(dataflow, msg, fds);
                return;
        }
        if (dataflow->adopting && msg->type != KEEPER_MSG_BEGUN && msg->type != KEEPER_MSG_FAILED)
                return; /* older than what RESUME is answered with */
        switch (msg->type) {
        case KEEPER_MSG_BEGUN:
                free(dataflow->cgroup);
                dataflow->cgroup = strdup(msg->begun.cgroup);
                if (dataflow->keeper_replaced)
                        adopt_with_new_keeper(dataflow);
                else if (!dataflow->adopting) /* else it answers our predecessor, and RESUMED says so too: its nodes would be started twice */
                        dataflow_on_begun(dataflow, msg->begun.controllers, msg->begun.missing, msg->begun.refused);
                break;
        case KEEPER_MSG_USAGE:
        case KEEPER_MSG_FROZEN:
        case KEEPER_MSG_LIMITED:
        case KEEPER_MSG_FREEZE_DONE:
        case KEEPER_MSG_MEASURED:
        case KEEPER_MSG_PRESSED:
        case KEEPER_MSG_UNWATCHED:
        case KEEPER_MSG_SAMPLED:
                on_resources_report(dataflow, msg);
                break;
        case KEEPER_MSG_FAILED:
                keeper_lost(dataflow, msg->failed.text);
                break;
        case KEEPER_MSG_FILES_SHOWN:
                queues_files_shown(dataflow, msg);
                break;
        case KEEPER_MSG_WHY_SAID:
                why_said(dataflow, msg, fds[0]);
                break;
        case KEEPER_MSG_UNSHOWN:
                server_unshown(dataflow, msg->unshown.node, msg->unshown.n_lines);
                break;
        case KEEPER_MSG_NOTE:
                dataflow_note(dataflow, NULL, msg->note.text);
                break;
        case KEEPER_MSG_COUNTED:
                dataflow->left_known = true;
                dataflow->left_processes = msg->counted.n_processes;
                dataflow->left_cgroups = msg->counted.n_cgroups;
                break;
        case KEEPER_MSG_ENDED:
                if (msg->ended.stays) {
                        dataflow->keeper_stays = true;
                        dataflow_kick(dataflow);
                        break;
                }
                dataflow->not_removed = !msg->ended.removed;
                if (!msg->ended.removed)
                        dataflow_note(dataflow, NULL, "the dataflow's cgroup could not be removed yet");
                keeper_link_close(dataflow); /* that was its last word: it leaves at once, and the guard reaps it */
                dataflow->keeper_gone = true;
                dataflow_kick(dataflow);
                break;
        default:
                on_node_report(dataflow, msg, fds);
                break;
        }
}

static int on_keeper_socket(Source *source, uint32_t revents)
{
        Dataflow *dataflow = container_of(source, Dataflow, keeper_source);

        if (revents & EPOLLOUT) {
                (void)packet_queue_flush(&dataflow->keeper_out, dataflow->keeper_fd);
                if (!packet_queue_pending(&dataflow->keeper_out))
                        (void)source_set_events(source, EPOLLIN);
        }
        for (unsigned i = 0; i < KEEPER_REPORTS_PER_TURN && dataflow->keeper_fd >= 0; i++) {
                char buffer[KEEPER_MSG_MAX];
                int fds[PACKET_MAX_FDS];
                size_t size = 0, n_fds = 0;
                KeeperMsg msg;
                int r = packet_recv(dataflow->keeper_fd, buffer, sizeof(buffer), &size, fds, KEEPER_MSG_MAX_FDS, &n_fds);

                if (r == PACKET_E_AGAIN)
                        return 0;
                if (r) {
                        source_remove(source); /* the guard tells what became of it */
                        return 0;
                }
                if (keeper_msg_decode(&msg, buffer, size) || keeper_msg_is_order(msg.type) || keeper_msg_n_fds(&msg) != (int)n_fds)
                        keeper_lost(dataflow, "broke its protocol");
                else
                        on_report(dataflow, &msg, fds);
                for (size_t k = 0; k < n_fds; k++)
                        fds[k] = fd_close(fds[k]); /* from our own keeper: pidfds */
        }
        return 0;
}

int keeper_link_open(Dataflow *dataflow, int32_t pid, int take_sock, int take_pidfd)
{
        int r;

        dataflow->keeper_pid = pid;
        dataflow->keeper_fd = take_sock;
        dataflow->keeper_pidfd = take_pidfd;
        r = source_add(dataflow->loop, &dataflow->keeper_source, take_sock, EPOLLIN, SOURCE_EXITS, on_keeper_socket);
        return r ? error_fold(r) : 0;
}

void keeper_link_close(Dataflow *dataflow)
{
        source_remove(&dataflow->keeper_source);
        dataflow->keeper_fd = fd_close(dataflow->keeper_fd);
        dataflow->keeper_pidfd = fd_close(dataflow->keeper_pidfd);
        packet_queue_done(&dataflow->keeper_out);
}
