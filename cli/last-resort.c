/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/last-resort.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/utf8.h"
#include "cli/commands.h"
#include "cli/print.h"
#include "cli/status-page.h"
#include "cli/status.h"
#include "cli/targets.h"

#define GUARD_ORDERLY_MS 1000
#define GUARD_SPAN (10 * NSEC_PER_SEC)

bool last_resort_applies(int r)
{
        return r == CLIENT_E_SILENT || r == CLIENT_E_CLOSED || r == CLIENT_E_GARBAGE || r == CLIENT_E_ABSENT;
}

/* The page, or what to say and return without one. Return: 0 or the exit status. */
static int load(Session *session, int why, StatusView *ret)
{
        int r = status_view_load(ret, session->runtime_dir, clock_now());

        if (r)
                return session_fail(session, r);
        if (ret->verdict != STATUS_VERDICT_NONE)
                return 0;
        if (ret->reason == STATUS_REASON_MISSING && why == CLIENT_E_ABSENT) /* there is no daemon at all */
                return session_fail(session, why);
        session_say(
                session, "%s: %s, and its status page says nothing: %s", session->runtime_dir, client_explain(why), ret->why);
        return CLI_UNREACHABLE;
}

static void say_verdict(Session *session, int why, const StatusView *view, const char *what)
{
        const bool red = view->verdict == STATUS_VERDICT_WEDGED && color_wanted(stderr);
        char span[64], wedged[96] = "";

        if (view->verdict == STATUS_VERDICT_WEDGED)
                (void)snprintf(wedged, sizeof(wedged), "WEDGED%s: ", status_view_wedged_for(view, clock_now(), span, sizeof(span)));
        if (red)
                fputs("\033[1;31m", stderr);
        session_say(session, "%s%s; %s: %s%s%s", wedged, client_explain(why), view->why, what, view->action[0] ? ". " : "",
                view->action);
        if (red)
                fputs("\033[0m", stderr);
}

/* ---- status, list */

static json_int_t ms(uint64_t ns)
{
        return (json_int_t)(ns / NSEC_PER_MSEC);
}

static json_t *node_json(const struct status_node *node)
{
        json_t *n = json_pack("{ss ss ss ss sI si si sI ss}", "id", node->id, "kind", status_kind_to_string(node->kind),
                "state", status_node_state_to_string(node->state), "wanted", status_wanted_to_string(node->wanted),
                "generation", (json_int_t)node->generation, "pid", node->pid, "restarts", (int)node->restarts, "since_at_ms",
                ms(node->since_ns), "health", status_health_to_string(node->health));

        if (n && node->frozen)
                (void)json_object_set_new(n, "frozen", json_true());
        if (n && node->stuck_since_ns)
                (void)json_object_set_new(n, "stuck_since_at_ms", json_integer(ms(node->stuck_since_ns)));
        if (n && node->exit_code)
                (void)json_object_set_new(n, "exit",
                        json_pack("{ss si}", "code", node->exit_code == CLD_EXITED ? "exited" : "signalled", "status",
                                node->exit_status));
        return n;
}

/* In the words of the control interface, as far as the page has them. */
static json_t *dataflow_json(const StatusView *view, size_t index, const char *only)
{
        const struct status_dataflow *d = &view->dataflows[index];
        json_t *nodes = json_array(), *out;

        for (size_t i = 0; i < view->n_nodes; i++)
                if (view->nodes[i].dataflow == index &&
                        (!only[0] || strcmp(only, "*") == 0 || strcmp(only, view->nodes[i].id) == 0))
                        (void)json_array_append_new(nodes, node_json(&view->nodes[i]));
        out = json_pack("{ss ss ss ss si si si si sI sI so}", "uuid", d->uuid, "name", d->name, "state",
                status_dataflow_state_to_string(d->state), "wanted", status_wanted_to_string(d->wanted), "uid", (int)d->uid,
                "n_nodes", (int)d->n_nodes, "n_running", (int)d->n_running, "n_failed", (int)d->n_failed, "started_at_ms",
                ms(d->started_at_ns), "since_at_ms", ms(d->since_ns), "nodes", nodes);
        if (out && d->frozen)
                (void)json_object_set_new(out, "frozen", json_true());
        if (out && d->result != STATUS_RESULT_NONE)
                (void)json_object_set_new(out, "result", json_string(status_result_to_string(d->result)));
        if (out && status_view_cgroup(view, d))
                (void)json_object_set_new(out, "cgroup", json_string(status_view_cgroup(view, d)));
        return out;
}

/* Those that were asked for. Who is not found is said. New reference. */
static json_t *chosen(Session *session, const StatusView *view, const char *const *names, size_t n)
{
        json_t *all = json_array();

        for (size_t i = 0; n == 0 && i < view->n_dataflows; i++)
                (void)json_array_append_new(all, dataflow_json(view, i, ""));
        for (size_t i = 0; i < n; i++) {
                const struct status_dataflow *d = NULL;
                bool ambiguous = false;
                Target target;

                if (target_parse(&target, names[i]))
                        d = status_view_find(view, target.dataflow, &ambiguous);
                if (d)
                        (void)json_array_append_new(all, dataflow_json(view, (size_t)(d - view->dataflows), target.node));
                else
                        session_say(session, "%s: the status page knows %s", names[i],
                                ambiguous ? "several" : "no such dataflow");
        }
        return all;
}

int last_resort_show(Session *session, int why, const char *const *names, size_t n, bool with_nodes)
{
        _cleanup_(json_decrefp) json_t *dataflows = NULL;
        StatusView view = STATUS_VIEW_NULL;
        int status = load(session, why, &view);

        if (!status) {
                if (!session->json)
                        say_verdict(session, why, &view, "this is from its status page");
                dataflows = chosen(session, &view, names, n);
                if (session->json)
                        (void)session_result(session,
                                json_pack("{ss ss ss sI ss sO}", "source", "status page", "verdict",
                                        status_verdict_to_string(view.verdict), "reason",
                                        status_reason_to_string(view.reason), "since_at_ms", ms(view.since), "why", view.why,
                                        "dataflows", dataflows));
                else if (with_nodes)
                        status_print_lines(dataflows);
                else
                        list_print_table(dataflows, NULL);
                status = CLI_UNREACHABLE;
        }
        status_view_done(&view);
        return status;
}

/* ---- stop, down */

/* Each as its line. */
static json_t *tasks_json(const LastResortVerdict *v)
{
        json_t *array = json_array();

        for (unsigned i = 0; i < v->n_tasks; i++) {
                char line[1024];
                _cleanup_free_ char *clean = NULL;

                (void)task_line(&v->tasks[i], line, sizeof(line));
                clean = utf8_clean(line, strlen(line), NULL);
                (void)json_array_append_new(array, json_pack("{si si ss ss*}", "pid", (int)v->tasks[i].pid, "tid", (int)v->tasks[i].tid, "verdict",
                        task_kind_to_string(v->tasks[i].kind), "text", clean));
        }
        return array;
}

int last_resort_stop_at(Session *session, const char *name, const char *cgroup, const LastResortKill *kill)
{
        const double grace = kill->force ? 0 : (double)kill->grace_ns / 2e9;
        LastResortVerdict v;
        const char *result;
        int r;

        if (cgroup[0] != '/') {
                session_say(session, "%s: where its cgroup is, is not known; nothing was done", name);
                return CLI_UNREACHABLE;
        }
        if (!session->json) {
                printf("%s: ending the processes of %s: SIGTERM now, SIGKILL in %.1f s, at most %.1f s in all\n", name,
                        cgroup, grace, grace + 3);
                (void)fflush(stdout);
        }
        r = last_resort_kill(cgroup, kill, &v);
        if (r)
                return session_fail(session, r);
        result = v.timed_out ? "the kernel held it up" : v.n_left ? "left" : "empty";
        if (session->json)
                (void)print_json_line_new(json_pack("{ss ss ss ss sI si si ss so}", "type", "last-resort", "who", "command",
                        "name", name, "cgroup", cgroup, "ms", (json_int_t)v.ms, "count", (int)v.n_found, "left",
                        (int)v.n_left, "result", result, "tasks", tasks_json(&v)));
        else
                printf("%s: +%.3f s  command  %u process%s: %s\n", name, (double)v.ms / 1000, v.n_found,
                        v.n_found == 1 ? "" : "es", result);
        (void)fflush(stdout);
        for (unsigned i = 0; i < v.n_tasks && !session->json; i++) {
                char line[1024];

                (void)task_line(&v.tasks[i], line, sizeof(line));
                session_say(session, "%s: left (%s): %s", name, task_kind_to_string(v.tasks[i].kind), text_tame(line, false));
        }
        if (v.error)
                session_say(session, "%s: %s", cgroup,
                        v.error == EDEADLK   ? "this command runs in that cgroup itself: refused"
                        : v.error == ENOTSUP ? "no cgroup of version 2: refused"
                                             : strerror(v.error));
        return v.n_left || v.timed_out ? CLI_NOT_RUNNING : CLI_OK;
}

/* The page may be of another instance than the one that was meant. */
static bool is_below(const char *path, const char *root)
{
        char real[PATH_MAX];
        size_t n;

        if (!realpath(root, real))
                return false;
        n = strlen(real);
        return strncmp(path, real, n) == 0 && (path[n] == '/' || n == 1);
}

static int stop_one(Session *session, const StatusView *view, const struct status_dataflow *d, const LastResortKill *kill)
{
        const char *cgroup = status_view_cgroup(view, d), *root = session->cgroup_root_option;

        if (cgroup && root && !is_below(cgroup, root)) {
                session_say(session, "%s: its cgroup %s is not below %s; nothing was done", d->name, cgroup, root);
                return CLI_UNREACHABLE;
        }
        if (!cgroup && !view->trusted) {
                session_say(session,
                        "%s: somebody else than you or root could have written the status page; nothing was done", d->name);
                return CLI_UNREACHABLE;
        }
        return last_resort_stop_at(session, d->name, cgroup ? cgroup : "", kill);
}

static int stop_named(Session *session, const StatusView *view, const char *name, const LastResortKill *kill)
{
        bool ambiguous = false;
        const struct status_dataflow *d = status_view_find(view, name, &ambiguous);

        if (ambiguous) {
                session_say(session, "%s: several are called so; give the uuid", name);
                return CLI_USAGE;
        }
        if (!d) {
                session_say(session, "%s: the status page knows no such dataflow", name);
                return CLI_NO_SUCH;
        }
        if (d->state == STATUS_DATAFLOW_ENDED) {
                session_say(session, "%s has ended already", name);
                return CLI_NOT_RUNNING;
        }
        return stop_one(session, view, d, kill);
}

static int stop_all(Session *session, const StatusView *view, bool all, const LastResortKill *kill)
{
        size_t n = 0;
        int status = 0;

        for (size_t i = 0; i < view->n_dataflows; i++)
                n += view->dataflows[i].state != STATUS_DATAFLOW_ENDED;
        if (n > 1 && !all) {
                session_say(session, "which one? %zu dataflows are running:", n);
                for (size_t i = 0; i < view->n_dataflows; i++)
                        if (view->dataflows[i].state != STATUS_DATAFLOW_ENDED)
                                session_say(session, "  %s  %s", view->dataflows[i].uuid, view->dataflows[i].name);
                return CLI_USAGE;
        }
        if (n == 0 && !all) {
                session_say(session, "no dataflow is running");
                return CLI_NOT_RUNNING;
        }
        for (size_t i = 0; i < view->n_dataflows; i++)
                if (view->dataflows[i].state != STATUS_DATAFLOW_ENDED)
                        status = MAX(status, stop_one(session, view, &view->dataflows[i], kill));
        return status;
}

int last_resort_stop(Session *session, int why, const char *const *names, size_t n, bool all, const LastResortKill *kill)
{
        StatusView view = STATUS_VIEW_NULL;
        int status = load(session, why, &view);

        if (!status) {
                say_verdict(session, why, &view, "stopping from here what its status page names");
                if (n == 0)
                        status = stop_all(session, &view, all, kill);
                for (size_t i = 0; i < n; i++)
                        status = MAX(status, stop_named(session, &view, names[i], kill));
        }
        status_view_done(&view);
        return status;
}

/* A pid in a page may be anybody's by now: it is held first, and then looked at. -1: it is not the guard. */
static int open_guard(pid_t pid)
{
        _cleanup_fd_ int fd = pid > 1 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
        char path[64], comm[32] = "";
        FILE *f;

        (void)snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
        f = fd >= 0 ? fopen(path, "re") : NULL;
        if (f) {
                (void)!fgets(comm, sizeof(comm), f);
                (void)fclose(f); /* read only */
        }
        return strcmp(comm, "tidegate-guard\n") == 0 ? TAKE_FD(fd) : -1;
}

/* Said when it is not. */
static bool is_meant(Session *session, const StatusView *view)
{
        const char *cgroup = status_view_cgroup(view, NULL), *root = session->cgroup_root_option;

        if (!root || (cgroup && is_below(cgroup, root)))
                return true;
        session_say(session, "the daemon's cgroup %s is not below %s; its guard was left alone", cgroup ? cgroup : "", root);
        return false;
}

int last_resort_end_daemon(Session *session)
{
        StatusView view = STATUS_VIEW_NULL;
        _cleanup_fd_ int fd = -1;
        struct pollfd p = {.events = POLLIN};
        nsec_t until = nsec_add(clock_now(), GUARD_SPAN);
        int status = CLI_OK, n = 0;

        if (status_view_load(&view, session->runtime_dir, clock_now()) == 0 && view.verdict != STATUS_VERDICT_NONE &&
                view.trusted) {
                if (is_meant(session, &view))
                        fd = open_guard(view.info.guard_pid);
                else
                        status = CLI_UNREACHABLE;
        }
        p.fd = fd;
        if (fd >= 0 && syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0) < 0) {
                session_say(session, "the guard (pid %d): %s", view.info.guard_pid, strerror(errno));
                status = CLI_FAILED;
        } else if (fd >= 0) {
                if (!session->json)
                        printf("SIGTERM to the guard (pid %d), which has 10 s to leave\n", view.info.guard_pid);
                (void)fflush(stdout);
                /* Once is for a stop in order, twice for one without a wait; nobody is left to wait for. */
                n = poll(&p, 1, GUARD_ORDERLY_MS);
                if (n == 0)
                        (void)syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0);
                while (n < 1 && clock_now() < until)
                        n = poll(&p, 1, nsec_poll_ms(until, clock_now()));
                if (n < 1)
                        session_say(session, "the guard (pid %d) is still there", view.info.guard_pid);
                status = n < 1 ? CLI_NOT_RUNNING : CLI_OK;
        }
        status_view_done(&view);
        return status;
}
