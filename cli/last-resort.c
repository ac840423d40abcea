/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/last-resort.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "cli/commands.h"
#include "cli/print.h"
#include "cli/status.h"

bool last_resort_applies(int r)
{
        return r == CLIENT_E_SILENT || r == CLIENT_E_CLOSED || r == CLIENT_E_GARBAGE || r == CLIENT_E_ABSENT;
}

void last_resort_page_done(LastResortPage *page)
{
        for (size_t i = 0; i < page->n_dataflows; i++)
                free(page->dataflows[i].nodes);
        free(page->dataflows);
        *page = (LastResortPage){};
}

/* The page, or what to say and return without one. Return: 0 or the exit status. */
static int read_page(Session *session, int why, LastResortPage *ret)
{
        const char *what = NULL;
        int r = last_resort_page(session->runtime_dir, ret, &what);

        if (r == 0)
                return 0;
        if (r == -ENOENT && why == CLIENT_E_ABSENT) /* there is no daemon at all */
                return session_fail(session, why);
        session_say(session, "%s: %s, and its status page cannot be read: %s", session->runtime_dir, client_explain(why), what ? what : strerror(-r));
        return CLI_UNREACHABLE;
}

/* ---- status, list */

static json_t *node_json(const LastResortNode *node)
{
        return json_pack("{ss ss si sI}", "id", node->id, "state", node->state, "pid", node->pid, "since_at_ms", (json_int_t)node->since_ms);
}

/* In the words of the control interface, as far as the page has them. */
static json_t *page_json(const LastResortPage *page)
{
        json_t *all = json_array();

        for (size_t i = 0; i < page->n_dataflows; i++) {
                const LastResortDataflow *d = &page->dataflows[i];
                json_t *nodes = json_array();

                for (size_t k = 0; k < d->n_told; k++)
                        (void)json_array_append_new(nodes, node_json(&d->nodes[k]));
                (void)json_array_append_new(all, json_pack("{ss ss ss ss si si si sI so}", "uuid", d->uuid, "name", d->name, "state", d->state, "cgroup", d->cgroup,
                                                         "uid", (int)d->uid, "n_nodes", (int)d->n_nodes, "n_running", (int)d->n_running, "since_at_ms",
                                                         (json_int_t)d->since_ms, "nodes", nodes));
        }
        return all;
}

int last_resort_show(Session *session, int why, bool with_nodes)
{
        _cleanup_(json_decrefp) json_t *dataflows = NULL;
        LastResortPage page = {};
        int status = read_page(session, why, &page);

        if (status)
                return status;
        dataflows = page_json(&page);
        if (session->json) {
                (void)session_result(session, json_pack("{ss ss ss sO}", "source", "status page", "why", client_explain(why), "verdict", page.verdict, "dataflows", dataflows));
        } else {
                session_say(session, "%s (%s); this is from its status page:", client_explain(why), page.verdict);
                if (with_nodes)
                        status_print_lines(dataflows);
                else
                        list_print_table(dataflows, NULL);
        }
        last_resort_page_done(&page);
        return CLI_UNREACHABLE;
}

/* ---- stop, down */

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
                printf("%s: ending the processes of %s: SIGTERM now, SIGKILL in %.1f s, at most %.1f s in all\n", name, cgroup, grace, grace + 3);
                (void)fflush(stdout);
        }
        r = last_resort_kill(cgroup, kill, &v);
        if (r)
                return session_fail(session, r);
        result = v.timed_out ? "the kernel held it up" : v.n_left ? "left" : "empty";
        if (session->json)
                (void)print_json_line_new(json_pack("{ss ss ss ss sI si si ss}", "type", "last-resort", "who", "command", "name", name, "cgroup", cgroup, "ms", (json_int_t)v.ms,
                        "count", (int)v.n_found, "left", (int)v.n_left, "result", result));
        else
                printf("%s: +%.3f s  command  %u process%s: %s\n", name, (double)v.ms / 1000, v.n_found, v.n_found == 1 ? "" : "es", result);
        (void)fflush(stdout);
        if (v.error)
                session_say(session, "%s: %s", cgroup, v.error == EDEADLK ? "this command runs in that cgroup itself: refused" :
                        v.error == ENOTSUP ? "no cgroup of version 2: refused" : strerror(v.error));
        return v.n_left || v.timed_out ? CLI_NOT_RUNNING : CLI_OK;
}

static bool is_meant(const LastResortDataflow *d, const char *name)
{
        return strcmp(d->name, name) == 0 || (strlen(name) >= 4 && strncmp(d->uuid, name, strlen(name)) == 0);
}

/* One name. Several that match are not guessed between. */
static int stop_named(Session *session, const LastResortPage *page, const char *name, const LastResortKill *kill)
{
        const LastResortDataflow *found = NULL;

        for (size_t i = 0; i < page->n_dataflows; i++) {
                const LastResortDataflow *d = &page->dataflows[i];

                if (!is_meant(d, name) || strcmp(d->state, "ended") == 0)
                        continue;
                if (found) {
                        session_say(session, "%s: %s and %s are both called so; give the uuid", name, found->uuid, d->uuid);
                        return CLI_USAGE;
                }
                found = d;
        }
        if (!found) {
                session_say(session, "%s: the status page knows no such dataflow that runs", name);
                return CLI_NO_SUCH;
        }
        return last_resort_stop_at(session, found->name, found->cgroup, kill);
}

static int stop_all(Session *session, const LastResortPage *page, bool all, const LastResortKill *kill)
{
        size_t n = 0;
        int status = 0;

        for (size_t i = 0; i < page->n_dataflows; i++)
                n += strcmp(page->dataflows[i].state, "ended") != 0;
        if (n > 1 && !all) {
                session_say(session, "which one? %zu dataflows are running:", n);
                for (size_t i = 0; i < page->n_dataflows; i++)
                        if (strcmp(page->dataflows[i].state, "ended") != 0)
                                session_say(session, "  %s  %s", page->dataflows[i].uuid, page->dataflows[i].name);
                return CLI_USAGE;
        }
        if (n == 0 && !all) {
                session_say(session, "no dataflow is running");
                return CLI_NOT_RUNNING;
        }
        for (size_t i = 0; i < page->n_dataflows; i++)
                if (strcmp(page->dataflows[i].state, "ended") != 0)
                        status = MAX(status, last_resort_stop_at(session, page->dataflows[i].name, page->dataflows[i].cgroup, kill));
        return status;
}

int last_resort_stop(Session *session, int why, const char *const *names, size_t n, bool all, const LastResortKill *kill)
{
        LastResortPage page = {};
        int status = read_page(session, why, &page);

        if (status)
                return status;
        session_say(session, "%s (%s); stopping from here what its status page names", client_explain(why), page.verdict);
        if (n == 0)
                status = stop_all(session, &page, all, kill);
        for (size_t i = 0; i < n; i++)
                status = MAX(status, stop_named(session, &page, names[i], kill));
        last_resort_page_done(&page);
        return status;
}
