/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/audit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "protocol/guard_msg.h"
#include "supervisor/dataflow.h"
#include "supervisor/growth.h"
#include "supervisor/supervisor.h"
#include "supervisor/wiring.h"

#define AUDIT_GUARD_SPAN (200 * NSEC_PER_MSEC) /* the guard answers in microseconds */
#define AUDIT_FDS_MAX    1024u                 /* of ours: more are not looked through, for the loop's sake */

bool audit_is_clean(const Audit *audit)
{
        return audit->n_processes + audit->n_cgroups + audit->n_memfds + audit->n_sockets + audit->n_files == 0;
}

static size_t put_count(char *buffer, size_t size, size_t at, uint32_t n, const char *one, const char *many)
{
        int k = n > 0 && at < size ? snprintf(buffer + at, size - at, "%s%u %s", at > 0 ? ", " : "", n, n == 1 ? one : many) : 0;

        return at + (size_t)MAX(k, 0);
}

const char *audit_text(const Audit *audit, char *buffer, size_t size)
{
        char left[160] = "0", span[40] = "";
        size_t at = 0;

        at = put_count(left, sizeof(left), at, audit->n_processes, "process", "processes");
        at = put_count(left, sizeof(left), at, audit->n_cgroups, "cgroup", "cgroups");
        at = put_count(left, sizeof(left), at, audit->n_memfds, "memfd", "memfds");
        at = put_count(left, sizeof(left), at, audit->n_sockets, "socket or pipe", "sockets or pipes");
        (void)put_count(left, sizeof(left), at, audit->n_files, "file", "files");
        if (audit->n_killed > 0 && audit->killed_ns > 0)
                (void)snprintf(span, sizeof(span), ", %llu ms", (unsigned long long)(audit->killed_ns / NSEC_PER_MSEC));
        (void)snprintf(buffer, size, "killed %u, left %s%s", audit->n_killed, left, span);
        return buffer;
}

json_t *audit_json(const Audit *audit)
{
        json_t *json = json_pack("{sI sI sI sI sI sI}", "killed", (json_int_t)audit->n_killed, "left_processes", (json_int_t)audit->n_processes, "left_cgroups",
                (json_int_t)audit->n_cgroups, "left_memfds", (json_int_t)audit->n_memfds, "left_sockets", (json_int_t)audit->n_sockets, "left_files",
                (json_int_t)audit->n_files);

        if (json && audit->n_killed > 0 && audit->killed_ns > 0)
                (void)json_object_set_new(json, "ms", json_integer((json_int_t)(audit->killed_ns / NSEC_PER_MSEC)));
        return json;
}

/* ---- counting */

static uint32_t node_memfds(const Node *node)
{
        uint32_t n = (node->control_fd >= 0) + (node->bell_fd >= 0);

        for (uint32_t i = 0; node->outputs && i < node->plan->n_outputs; i++) {
                n += (node->outputs[i].ring_fd >= 0) + (uint32_t)(node->outputs[i].pool_fd >= 0);
                for (uint32_t k = 1; k < NODE_MSG_MAX_SEGMENTS; k++)
                        n += growth_fd(&node->outputs[i], k) >= 0;
        }
        for (uint32_t i = 0; node->cursor_fds && i < node->plan->n_inputs; i++)
                n += node->cursor_fds[i] >= 0;
        return n;
}

static uint32_t node_sockets(const Node *node)
{
        uint32_t n = node->sock >= 0;

        for (unsigned i = 0; i < ELEMENTSOF(node->out_fds); i++)
                n += node->out_fds[i] >= 0;
        return n;
}

static int by_number(const void *a, const void *b)
{
        ino_t x = *(const ino_t *)a, y = *(const ino_t *)b;

        return (x > y) - (x < y);
}

static void add_inode(ino_t *set, size_t *n, int fd)
{
        struct stat st;

        if (fd >= 0 && *n < AUDIT_FDS_MAX && fstat(fd, &st) == 0) /* memory of ours: no file system is asked */
                set[(*n)++] = st.st_ino;
}

/* Regions that this process has open, whoever knows of them, once each. -1: too many descriptors to look through here, or they cannot be read. */
static ssize_t open_regions(ino_t set[static AUDIT_FDS_MAX])
{
        static const char ours[] = "/memfd:tidegate-", spec[] = "/memfd:tidegate-sp"; /* that one is on its way to a keeper */
        _cleanup_fd_ int fd = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        char listing[4096] __attribute__((aligned(8)));
        size_t n_fds = 0, n_regions = 0;
        ssize_t n;

        if (fd < 0)
                return -1;
        while ((n = getdents64(fd, listing, sizeof(listing))) > 0)
                for (ssize_t at = 0; at < n;) {
                        const struct dirent64 *e = (const struct dirent64 *)(const void *)(listing + at);
                        char link[sizeof(spec) - 1];

                        at += e->d_reclen;
                        if (++n_fds > AUDIT_FDS_MAX)
                                return -1;
                        if (readlinkat(fd, e->d_name, link, sizeof(link)) == sizeof(link) && memcmp(link, ours, sizeof(ours) - 1) == 0 &&
                                memcmp(link, spec, sizeof(link)) != 0)
                                add_inode(set, &n_regions, atoi(e->d_name));
                }
        return n < 0 ? -1 : (ssize_t)n_regions;
}

static size_t known_regions(Supervisor *supervisor, ino_t set[static AUDIT_FDS_MAX])
{
        Dataflow *it, *next;
        size_t n = 0;

        list_for_each(it, next, &supervisor->dataflows, link)
                for (size_t i = 0; i < it->plan->n_nodes; i++) {
                        const Node *node = &it->nodes[i];

                        add_inode(set, &n, node->control_fd);
                        add_inode(set, &n, node->bell_fd);
                        for (uint32_t k = 0; node->outputs && k < node->plan->n_outputs; k++) {
                                add_inode(set, &n, node->outputs[k].ring_fd);
                                add_inode(set, &n, node->outputs[k].pool_fd);
                                for (uint32_t s = 1; s < NODE_MSG_MAX_SEGMENTS; s++)
                                        add_inode(set, &n, growth_fd(&node->outputs[k], s));
                        }
                        for (uint32_t k = 0; node->cursor_fds && k < node->plan->n_inputs; k++)
                                add_inode(set, &n, node->cursor_fds[k]);
                }
        return n;
}

/* Those that no table knows: a leak, whosever it is. It is put down to the dataflow at whose end it is first seen. A copy that waits in a queue
 * for somebody who does not read is the same region. */
static uint32_t new_strays(Supervisor *supervisor)
{
        ino_t open_[AUDIT_FDS_MAX], known[AUDIT_FDS_MAX];
        ssize_t n_open = open_regions(open_);
        size_t n_known;
        int was = supervisor->n_astray, n = 0;

        if (n_open < 0)
                return 0;
        n_known = known_regions(supervisor, known);
        qsort(open_, (size_t)n_open, sizeof(open_[0]), by_number);
        qsort(known, n_known, sizeof(known[0]), by_number);
        for (ssize_t i = 0; i < n_open; i++)
                n += (i == 0 || open_[i] != open_[i - 1]) && !bsearch(&open_[i], known, n_known, sizeof(known[0]), by_number);
        supervisor->n_astray = n;
        return (uint32_t)MAX(n - was, 0);
}

/* Its keeper's name in the runtime directory. Nobody else has the slot's number before the keeper is reaped, and that comes later. */
uint32_t audit_remove_files(const Dataflow *dataflow)
{
        char name[32];

        if (dataflow->supervisor->options.runtime_fd < 0 || dataflow->keeper_stays)
                return 0;
        (void)snprintf(name, sizeof(name), "keeper/%u.sock", dataflow->slot);
        return unlinkat(dataflow->supervisor->options.runtime_fd, name, 0) < 0 && errno != ENOENT;
}

static void let_go(Dataflow *dataflow)
{
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                Node *node = &dataflow->nodes[i];

                wiring_release(node);
                wiring_release_outputs(node); /* nobody is left who could read them */
                if (node->exited)
                        keeper_take_pidfd(node, node->pid, -1);
        }
}

/* Its keeper counts in its cgroups: who would not die elsewhere is known by the verdict alone. */
static uint32_t count_left(const Dataflow *dataflow)
{
        return dataflow->left_known ? MAX(dataflow->left_processes, dataflow_count_left(dataflow)) : dataflow->n_left;
}

static void count(Dataflow *dataflow)
{
        Audit *audit = &dataflow->audit;

        audit->n_killed = dataflow->n_killed;
        audit->n_processes = count_left(dataflow);
        audit->n_cgroups = dataflow->left_known ? dataflow->left_cgroups : dataflow->not_removed;
        audit->n_memfds += new_strays(dataflow->supervisor); /* to what the guard has said */
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                audit->n_memfds += node_memfds(&dataflow->nodes[i]);
                audit->n_sockets += node_sockets(&dataflow->nodes[i]);
        }
        audit->n_sockets += dataflow->keeper_fd >= 0 && !dataflow->keeper_stays;
        audit->n_files = audit_remove_files(dataflow);
        audit->killed_ns = dataflow->kill_at ? nsec_left(dataflow->killed_until, dataflow->kill_at) : 0;
}

static void say_what_is_left(Dataflow *dataflow)
{
        char text[512], what[256];

        if (audit_is_clean(&dataflow->audit))
                return;
        (void)snprintf(text, sizeof(text), "not everything of it is gone: %s%s%.200s; `tidegate audit` shows what and where", audit_text(&dataflow->audit, what, sizeof(what)),
                dataflow->cgroup ? ", below " : "", dataflow->cgroup ? dataflow->cgroup : "");
        dataflow_note(dataflow, NULL, text);
}

static int on_guard_silent(Timer *timer, nsec_t now)
{
        Dataflow *dataflow = container_of(timer, Dataflow, timer);

        (void)now;
        dataflow->audit_heard = true;
        dataflow_note(dataflow, NULL, "the guard did not say that it has let go of this dataflow's memory; what it holds is not counted");
        dataflow_kick(dataflow);
        return 0;
}

void audit_on_forgotten(Dataflow *dataflow, const struct guard_record *record)
{
        if (!dataflow->audit_asked || dataflow->audit_heard)
                return;
        timer_disarm(&dataflow->timer);
        dataflow->audit_heard = true;
        dataflow->audit.n_memfds = record->count;
        dataflow->audit.n_sockets = record->left;
        dataflow_kick(dataflow);
}

bool audit_dataflow(Dataflow *dataflow)
{
        if (dataflow->audited)
                return true;
        if (!dataflow->audit_asked) {
                dataflow->audit_asked = true;
                let_go(dataflow);
                dataflow->audit_heard = supervisor_is_private(dataflow->supervisor) || dataflow->supervisor->guard_fd < 0; /* nothing is stored there */
                timer_disarm(&dataflow->timer);
                if (!dataflow->audit_heard) {
                        timer_arm(dataflow->loop, &dataflow->timer, nsec_add(dataflow->loop->now, AUDIT_GUARD_SPAN), on_guard_silent);
                        guard_forget_dataflow_order(dataflow);
                }
        }
        if (!dataflow->audit_heard)
                return false;
        dataflow->audited = true;
        count(dataflow);
        dataflow->n_left = count_left(dataflow);
        dataflow_ledger_audit(dataflow, NULL, &dataflow->audit);
        say_what_is_left(dataflow);
        return true;
}

void audit_note_kill(Node *node, nsec_t at)
{
        Dataflow *dataflow = node->dataflow;

        if (!node->kill_at)
                node->kill_at = at;
        if (!dataflow->kill_at || dataflow->kill_at < dataflow->stop_at || !dataflow->stop_ordered)
                dataflow->kill_at = at;
}

void audit_note_killed(Node *node, uint32_t n_killed)
{
        node->n_killed += n_killed;
        node->dataflow->n_killed += n_killed;
        if (n_killed > 0)
                node->killed_until = node->dataflow->killed_until = clock_now();
}

/* Its outputs stay while others may read them, and are the dataflow's to count. */
void audit_node(Node *node)
{
        Audit audit = {.n_killed = node->n_killed,
                .n_processes = node->empty ? 0 : MAX(node->left.n, 1u),
                .n_cgroups = node->empty ? node->not_removed : 1,
                .n_memfds = (node->control_fd >= 0),
                .n_sockets = node_sockets(node),
                .killed_ns = node->kill_at && node->empty ? nsec_left(node->killed_until, node->kill_at) : 0};

        for (uint32_t i = 0; node->cursor_fds && i < node->plan->n_inputs; i++)
                audit.n_memfds += node->cursor_fds[i] >= 0;
        dataflow_ledger_audit(node->dataflow, node, &audit);
}
