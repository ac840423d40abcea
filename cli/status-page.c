/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/status-page.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/procstat.h"

#define PAGE_NAME       "status"
#define LOCK_NAME       "lock"
#define COPY_TRIES      64
#define UUID_BEGIN_MIN  4
#define PAGES_MAX       1024u /* that are looked at in one directory */

const char *status_verdict_to_string(StatusVerdict verdict)
{
        static const char *const names[_STATUS_VERDICT_MAX] = {
                [STATUS_VERDICT_OK] = "ok",
                [STATUS_VERDICT_STUCK] = "stuck",
                [STATUS_VERDICT_WEDGED] = "wedged",
                [STATUS_VERDICT_NONE] = "none",
        };

        return (unsigned)verdict < _STATUS_VERDICT_MAX ? names[verdict] : "?";
}

const char *status_reason_to_string(StatusReason reason)
{
        static const char *const names[_STATUS_REASON_MAX] = {
                [STATUS_REASON_NONE] = "none",
                [STATUS_REASON_MISSING] = "missing",
                [STATUS_REASON_UNREADABLE] = "unreadable",
                [STATUS_REASON_BOOT] = "boot",
                [STATUS_REASON_ENDED] = "ended",
                [STATUS_REASON_GONE] = "gone",
                [STATUS_REASON_DEAD] = "dead",
                [STATUS_REASON_LOCK] = "lock",
                [STATUS_REASON_STOPPED] = "stopped",
                [STATUS_REASON_TURN] = "turn",
        };

        return (unsigned)reason < _STATUS_REASON_MAX ? names[reason] : "?";
}

/* --- copying --- */

static int pread_all(int fd, void *buffer, size_t size)
{
        size_t at = 0;

        while (at < size) {
                ssize_t n = pread(fd, (char *)buffer + at, size - at, (off_t)at);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n == 0)
                        return -ENODATA; /* it was cut short meanwhile */
                at += (size_t)n;
        }
        return 0;
}

static int pread_changes(int fd, uint64_t *ret)
{
        return pread(fd, ret, sizeof(*ret), offsetof(struct status_page_header, changes)) == sizeof(*ret) ? 0 : -ENODATA;
}

/* A copy during which nothing moved; after a bounded number of tries one during which something did: each row is then looked
 * at by its own number all the same. */
static int copy_page(int fd, void *buffer, size_t size, bool *ret_consistent)
{
        uint64_t before, after;
        int r;

        *ret_consistent = false;
        for (unsigned i = 0; i < COPY_TRIES && !*ret_consistent; i++) {
                if ((r = pread_changes(fd, &before)) || (r = pread_all(fd, buffer, size)) || (r = pread_changes(fd, &after)))
                        return r;
                *ret_consistent = before == after && (before & 1) == 0;
        }
        return 0;
}

typedef struct Copy {
        StatusSnapshot snapshot;
        bool trusted, consistent;
        uint32_t n_dataflows, n_nodes; /* as counted by the header */
} Copy;

/* 0, a positive STATUS_E_*, or a negative errno. */
static int load_page(int dir_fd, const char *name, Copy *ret)
{
        /* NONBLOCK: what lies there may be a FIFO */
        _cleanup_fd_ int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        _cleanup_free_ void *buffer = NULL;
        StatusPage page;
        struct stat st;
        uint64_t size;
        int r;

        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        size = (uint64_t)st.st_size;
        if (!S_ISREG(st.st_mode) || size < sizeof(struct status_page_header) ||
            size > status_page_size(STATUS_MAX_DATAFLOWS, STATUS_MAX_NODES))
                return STATUS_E_SIZE;
        buffer = malloc(size);
        if (!buffer)
                return error_origin(-ENOMEM);
        r = copy_page(fd, buffer, size, &ret->consistent);
        if (r)
                return r;
        r = status_page_open(&page, buffer, size);
        if (r)
                return r;
        r = status_page_read(&page, &ret->snapshot);
        if (r)
                return r;
        ret->trusted = (st.st_uid == 0 || st.st_uid == geteuid()) && (st.st_mode & 022) == 0;
        ret->n_dataflows = page.header->n_dataflows_shown;
        ret->n_nodes = page.header->n_nodes_shown;
        return 0;
}

static int append_rows(StatusView *view, const StatusSnapshot *s)
{
        struct status_dataflow *dataflows;
        struct status_node *nodes;

        dataflows = reallocarray(view->dataflows, view->n_dataflows + s->n_dataflows + 1, sizeof(*dataflows));
        if (!dataflows)
                return error_origin(-ENOMEM);
        view->dataflows = dataflows;
        nodes = reallocarray(view->nodes, view->n_nodes + s->n_nodes + 1, sizeof(*nodes));
        if (!nodes)
                return error_origin(-ENOMEM);
        view->nodes = nodes;
        for (size_t i = 0; i < s->n_nodes; i++) {
                nodes[view->n_nodes + i] = s->nodes[i];
                nodes[view->n_nodes + i].dataflow += (uint32_t)view->n_dataflows;
        }
        if (s->n_dataflows)
                memcpy(dataflows + view->n_dataflows, s->dataflows, s->n_dataflows * sizeof(*dataflows));
        view->n_dataflows += s->n_dataflows;
        view->n_nodes += s->n_nodes;
        return 0;
}

/* A page of users adds its rows. One that cannot be read costs those. */
static int load_users_page(StatusView *view, int dir_fd, const char *name)
{
        Copy copy = {.snapshot = STATUS_SNAPSHOT_NULL};
        int r = load_page(dir_fd, name, &copy);

        if (r == -EACCES)
                view->n_hidden++;
        if (r == 0) {
                view->trusted = view->trusted && copy.trusted;
                view->consistent = view->consistent && copy.consistent;
                r = append_rows(view, &copy.snapshot);
        }
        status_snapshot_done(&copy.snapshot);
        return r == -ENOMEM ? r : 0;
}

static int load_users_pages(StatusView *view, int dir_fd)
{
        int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
        DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
        unsigned n = 0;
        struct dirent *e;

        if (!dir) { /* may be passed and not listed */
                char name[32];

                (void)fd_close(fd);
                (void)snprintf(name, sizeof(name), PAGE_NAME ".%u", geteuid());
                return load_users_page(view, dir_fd, name);
        }
        while (!r && n < PAGES_MAX && (e = readdir(dir))) {
                const char *uid = e->d_name + strlen(PAGE_NAME ".");

                if (strncmp(e->d_name, PAGE_NAME ".", strlen(PAGE_NAME ".")) != 0 || !*uid || uid[strspn(uid, "0123456789")])
                        continue;
                n++;
                r = load_users_page(view, dir_fd, e->d_name);
        }
        (void)closedir(dir);
        return r;
}

/* --- facts --- */

/* Does anybody hold the flock? By looking only: trying to take it would be in the way of a guard that starts just now. */
static bool lock_is_held(const struct stat *st, bool *ret_known)
{
        _cleanup_free_ char *line = NULL;
        FILE *f = fopen("/proc/locks", "re");
        bool held = false;
        size_t size = 0;

        *ret_known = f != NULL;
        while (f && !held && getline(&line, &size, f) > 0) {
                unsigned major_number, minor_number;
                unsigned long inode;

                held = sscanf(line, "%*u: FLOCK %*s %*s %*d %x:%x:%lu", &major_number, &minor_number, &inode) == 3 &&
                       inode == st->st_ino && major_number == major(st->st_dev) && minor_number == minor(st->st_dev);
        }
        if (f)
                (void)fclose(f);
        return held;
}

/* Nobody but its owner may open it, for whoever may could hold it: others learn whether it is held, and not by whom. */
static void look_at_lock(StatusFacts *facts, int dir_fd)
{
        _cleanup_fd_ int fd = -1;
        char text[16] = "";
        struct stat st;

        if (fstatat(dir_fd, LOCK_NAME, &st, AT_SYMLINK_NOFOLLOW) < 0) {
                facts->lock_known = errno == ENOENT; /* then nobody holds it */
                return;
        }
        if (!S_ISREG(st.st_mode))
                return;
        facts->locked = lock_is_held(&st, &facts->lock_known);
        fd = openat(dir_fd, LOCK_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd >= 0 && pread(fd, text, sizeof(text) - 1, 0) > 0)
                facts->lock_pid = (pid_t)strtol(text, NULL, 10);
}

static void look_at_process(StatusFacts *facts, const struct status_info *info)
{
        ProcStat stat;
        int r = info->pid > 0 ? procstat_read(&stat, info->pid) : -ESRCH;

        if (r == 0) {
                facts->state = stat.state;
                facts->alive = stat.state != 'Z' && stat.state != 'X' &&
                        (info->pid_start == 0 || info->pid_start == stat.start_time);
        } else { /* /proc may hide it (hidepid) */
                facts->alive = info->pid > 0 && (kill(info->pid, 0) == 0 || errno == EPERM);
        }
}

static void look(StatusFacts *facts, int dir_fd, const struct status_info *info)
{
        char boot_id[37];

        *facts = (StatusFacts){.alive = false};
        boot_id_read(boot_id);
        facts->same_boot = !boot_id[0] || !info->boot_id[0] || strcmp(boot_id, info->boot_id) == 0;
        look_at_process(facts, info);
        look_at_lock(facts, dir_fd);
}

/* --- judgement --- */

__attribute__((format(printf, 2, 3))) static void say(char text[static 256], const char *format, ...)
{
        va_list ap;

        va_start(ap, format);
        (void)vsnprintf(text, 256, format, ap);
        va_end(ap);
}

static void judge(StatusView *view, StatusVerdict verdict, StatusReason reason, nsec_t since)
{
        view->verdict = verdict;
        view->reason = reason;
        view->since = since;
        view->why[0] = view->action[0] = '\0';
}

static bool is_stuck(const struct status_dataflow *d)
{
        return d->health == STATUS_HEALTH_STUCK;
}

static void judge_dataflows(StatusView *view, nsec_t now)
{
        const struct status_dataflow *first = NULL;
        size_t n = 0;

        for (size_t i = 0; i < view->n_dataflows; i++) {
                if (!is_stuck(&view->dataflows[i]))
                        continue;
                n++;
                if (!first || view->dataflows[i].stuck_since_ns < first->stuck_since_ns)
                        first = &view->dataflows[i];
        }
        judge(view, first ? STATUS_VERDICT_STUCK : STATUS_VERDICT_OK, STATUS_REASON_NONE, first ? first->stuck_since_ns : 0);
        if (!first)
                return;
        status_view_dataflow_text(view, first, now, view->why, view->action);
        if (n > 1)
                say(view->why, "%zu dataflows are stuck, first of them %.130s", n, first->name);
        else
                say(view->why, "dataflow %.130s is stuck", first->name);
}

void status_view_judge(StatusView *view, const StatusFacts *facts, nsec_t now)
{
        const struct status_info *info = &view->info;

        if (!facts->same_boot) {
                judge(view, STATUS_VERDICT_NONE, STATUS_REASON_BOOT, 0);
                say(view->why, "the page was left by an earlier boot");
        } else if (info->state == STATUS_ENDED && !facts->alive) {
                judge(view, STATUS_VERDICT_NONE, STATUS_REASON_ENDED, 0);
                say(view->why, "the daemon has ended in good order");
        } else if (facts->lock_known && facts->locked && facts->lock_pid > 0 && info->guard_pid > 0 &&
                facts->lock_pid != info->guard_pid &&
                   !facts->alive) {
                judge(view, STATUS_VERDICT_WEDGED, STATUS_REASON_LOCK, 0);
                say(view->why, "its guard (pid %d) has changed and no supervisor has written a page since", facts->lock_pid);
                say(view->action, "wait a moment, then ask again; the log is in tidegated.log");
        } else if (!facts->alive && facts->lock_known && !facts->locked) {
                judge(view, STATUS_VERDICT_WEDGED, STATUS_REASON_DEAD, 0);
                say(view->why, "supervisor (pid %d) and guard are gone; nodes may still run", info->pid);
                say(view->action, "start tidegated again in the same runtime directory: it adopts them; `tidegate down --force` "
                                  "ends them");
        } else if (!facts->alive) {
                judge(view, STATUS_VERDICT_WEDGED, STATUS_REASON_GONE, 0);
                say(view->why, "the supervisor (pid %d) is gone; its guard (pid %d) starts the next one", info->pid,
                        info->guard_pid);
                say(view->action, "wait a moment, then ask again; `tidegate down --force` does not need it");
        } else if (facts->state == 'T' || facts->state == 't') {
                judge(view, STATUS_VERDICT_WEDGED, STATUS_REASON_STOPPED,
                        status_pulse_is_stale(&view->pulse, info->stale_after_ns, now) ? view->pulse.turn_started_ns : 0);
                say(view->why, "the supervisor (pid %d) is %s", info->pid,
                        facts->state == 'T' ? "stopped by a signal" : "held by a debugger");
                if (facts->state == 'T')
                        say(view->action, "kill -CONT %d lets it go on; `tidegate down --force` does not need it", info->pid);
                else
                        say(view->action, "let it go on, or end it: its guard starts the next one");
        } else if (status_pulse_is_stale(&view->pulse, info->stale_after_ns, now)) {
                judge(view, STATUS_VERDICT_WEDGED, STATUS_REASON_TURN, view->pulse.turn_started_ns);
                say(view->why, "the supervisor (pid %d%s) has not completed a turn of its loop%s", info->pid,
                        facts->state == 'D' ? ", in uninterruptible sleep" : "",
                        info->guard == STATUS_GUARD_OK ? "" : ", and its guard does not answer");
                say(view->action, "kill -KILL %d: its guard starts the next one, which adopts everything; `tidegate down --force` "
                                  "does not need it", info->pid);
        } else {
                judge_dataflows(view, now);
        }
}

static void none(StatusView *view, int r)
{
        bool missing = r == -ENOENT || r == -ENOTDIR;

        judge(view, STATUS_VERDICT_NONE, missing ? STATUS_REASON_MISSING : STATUS_REASON_UNREADABLE, 0);
        if (missing)
                say(view->why, "there is no status page: no daemon runs in this runtime directory");
        else if (r == STATUS_E_VERSION)
                say(view->why, "the status page is of another version of tidegated");
        else if (r > 0)
                say(view->why, "what lies there is no status page");
        else
                say(view->why, "the status page cannot be read: %s", strerrordesc_np(-r));
}

int status_view_load(StatusView *ret, const char *runtime_dir, nsec_t now)
{
        _cleanup_(status_view_done) StatusView view = STATUS_VIEW_NULL;
        _cleanup_fd_ int dir_fd = open(runtime_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
        Copy copy = {.snapshot = STATUS_SNAPSHOT_NULL};
        StatusFacts facts;
        int r;

        (void)snprintf(view.path, sizeof(view.path), "%s/" PAGE_NAME, runtime_dir);
        r = dir_fd < 0 ? -errno : load_page(dir_fd, PAGE_NAME, &copy);
        if (r == -ENOMEM)
                return error_fold(r);
        if (r) {
                none(&view, r);
        } else {
                view.trusted = copy.trusted;
                view.consistent = copy.consistent;
                view.info = copy.snapshot.info;
                view.pulse = copy.snapshot.pulse;
                view.n_dataflows_all = copy.n_dataflows;
                view.n_nodes_all = copy.n_nodes;
                view.n_dataflows_not_shown = copy.snapshot.n_dataflows_not_shown;
                view.n_nodes_not_shown = copy.snapshot.n_nodes_not_shown;
                r = append_rows(&view, &copy.snapshot);
                status_snapshot_done(&copy.snapshot);
                r = r ? r : load_users_pages(&view, dir_fd);
                if (r)
                        return error_fold(r);
                look(&facts, dir_fd, &view.info);
                status_view_judge(&view, &facts, now);
        }
        *ret = view;
        view = STATUS_VIEW_NULL;
        return 0;
}

void status_view_done(StatusView *view)
{
        free(view->dataflows);
        free(view->nodes);
        *view = STATUS_VIEW_NULL;
}

const struct status_dataflow *status_view_find(const StatusView *view, const char *name, bool *ret_ambiguous)
{
        const struct status_dataflow *found = NULL;
        size_t n = strlen(name);

        *ret_ambiguous = false;
        for (size_t i = 0; i < view->n_dataflows; i++)
                if (strcmp(view->dataflows[i].uuid, name) == 0)
                        return &view->dataflows[i];
        for (size_t i = 0; i < view->n_dataflows; i++) {
                const struct status_dataflow *d = &view->dataflows[i];

                if (strcmp(d->name, name) != 0 && (n < UUID_BEGIN_MIN || strncmp(d->uuid, name, n) != 0))
                        continue;
                *ret_ambiguous = found != NULL;
                if (found)
                        return NULL;
                found = d;
        }
        return found;
}

static bool is_plain_path(const char *path)
{
        if (path[0] != '/' || strchr(path, '?')) /* '?' may stand for what was cleaned away */
                return false;
        for (const char *p = path; *p; p += strcspn(p, "/")) {
                size_t n = strcspn(++p, "/");

                if (n == 0 || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
                        return false;
        }
        return true;
}

const char *status_view_cgroup(const StatusView *view, const struct status_dataflow *dataflow)
{
        size_t n = strlen(view->info.cgroup);

        if (!view->trusted || !is_plain_path(view->info.cgroup))
                return NULL;
        if (!dataflow)
                return view->info.cgroup;
        if (strncmp(dataflow->cgroup, view->info.cgroup, n) != 0 || dataflow->cgroup[n] != '/' || !dataflow->uuid[0] ||
            strcmp(dataflow->cgroup + n + 1, dataflow->uuid) != 0 || !is_plain_path(dataflow->cgroup))
                return NULL;
        return dataflow->cgroup;
}

/* --- words --- */

const char *status_view_since(nsec_t since, nsec_t now, char *buffer, size_t size)
{
        uint64_t ms = since && now > since ? (now - since) / NSEC_PER_MSEC : 0, s = ms / 1000;

        if (since == 0)
                (void)snprintf(buffer, size, "?");
        else if (s < 60)
                (void)snprintf(buffer, size, "%" PRIu64 ".%" PRIu64 " s", s, ms % 1000 / 100);
        else if (s < 3600)
                (void)snprintf(buffer, size, "%" PRIu64 " min %" PRIu64 " s", s / 60, s % 60);
        else
                (void)snprintf(buffer, size, "%" PRIu64 " h %" PRIu64 " min", s / 3600, s % 3600 / 60);
        return buffer;
}

const char *status_view_wedged_for(const StatusView *view, nsec_t now, char *buffer, size_t size)
{
        nsec_t since = view->since ? view->since : view->pulse.turn_completed_ns;
        char text[32];

        buffer[0] = '\0';
        if (since)
                (void)snprintf(buffer, size, " for %s%s", view->since ? "" : "at most ", status_view_since(since, now, text, sizeof(text)));
        return buffer;
}

/* Whom to name: one that waits for nobody itself. A producer that waits for room in a stuck node's queue is its victim. */
static const struct status_node *who_is_stuck(const StatusView *view, const struct status_dataflow *dataflow)
{
        const struct status_node *found = NULL;
        uint32_t index = (uint32_t)(dataflow - view->dataflows);

        for (size_t i = 0; i < view->n_nodes; i++) {
                const struct status_node *n = &view->nodes[i];

                if (n->dataflow != index || n->health != STATUS_HEALTH_STUCK)
                        continue;
                if (!found || (found->waits_for != STATUS_NONE && n->waits_for == STATUS_NONE))
                        found = n;
        }
        return found;
}

void status_view_dataflow_text(const StatusView *view, const struct status_dataflow *dataflow, nsec_t now, char why[static 256],
        char action[static 256])
{
        const struct status_node *node = who_is_stuck(view, dataflow);
        char since[32];

        why[0] = action[0] = '\0';
        if (!is_stuck(dataflow))
                return;
        if (!node) {
                say(why, "one of its nodes takes no messages");
                say(action, "`tidegate status %.60s` lists its nodes", dataflow->name);
                return;
        }
        say(why, "node %.128s has taken nothing for %s, %" PRIu32 " message%s in its queue", node->id,
                status_view_since(node->stuck_since_ns, now, since, sizeof(since)), node->waiting, node->waiting == 1 ? "" : "s");
        say(action, "`tidegate logs %.60s %.60s` for what it said last, then `tidegate node restart %.60s %.40s`",
                dataflow->name, node->id,
                dataflow->name, node->id);
}

static void paint(FILE *f, bool colour, const char *code, const char *text)
{
        if (colour && code[0])
                fprintf(f, "\033[%sm%s\033[0m", code, text);
        else
                fputs(text, f);
}

static const char *span_us(uint64_t us, char *buffer, size_t size)
{
        if (us < 1000)
                (void)snprintf(buffer, size, "%" PRIu64 " us", us);
        else if (us < 1000000)
                (void)snprintf(buffer, size, "%" PRIu64 ".%" PRIu64 " ms", us / 1000, us % 1000 / 100);
        else
                (void)snprintf(buffer, size, "%" PRIu64 ".%" PRIu64 " s", us / 1000000, us % 1000000 / 100000);
        return buffer;
}

static void print_verdict(const StatusView *view, nsec_t now, bool colour, FILE *f)
{
        static const char *const words[_STATUS_VERDICT_MAX] = {
                [STATUS_VERDICT_OK] = "ok",
                [STATUS_VERDICT_STUCK] = "ok",
                [STATUS_VERDICT_WEDGED] = "WEDGED",
                [STATUS_VERDICT_NONE] = "not there",
        };
        static const char *const codes[_STATUS_VERDICT_MAX] = {
                [STATUS_VERDICT_OK] = "32",
                [STATUS_VERDICT_STUCK] = "32",
                [STATUS_VERDICT_WEDGED] = "1;31",
                [STATUS_VERDICT_NONE] = "31",
        };
        char since[64];

        fputs("supervisor  ", f);
        paint(f, colour, codes[view->verdict], words[view->verdict]);
        if (view->verdict == STATUS_VERDICT_WEDGED)
                fputs(status_view_wedged_for(view, now, since, sizeof(since)), f);
        if (view->verdict == STATUS_VERDICT_WEDGED || view->verdict == STATUS_VERDICT_NONE) {
                fprintf(f, ": %s\n", view->why);
                if (view->action[0])
                        fprintf(f, "            to do: %s\n", view->action);
        } else {
                fprintf(f, ", pid %d, %s, up %s\n", view->info.pid, status_state_to_string(view->info.state),
                        status_view_since(view->info.started_at_ns, now, since, sizeof(since)));
        }
        fprintf(f, "            (by the status page %s%s)\n", view->path,
                view->trusted || view->reason == STATUS_REASON_MISSING ? "" : ", which others may have written");
}

void status_view_print_stuck(const StatusView *view, const struct status_dataflow *d, nsec_t now, bool colour, FILE *f)
{
        char since[32], why[256], action[256];

        if (!is_stuck(d))
                return;
        status_view_dataflow_text(view, d, now, why, action);
        paint(f, colour, "33", "STUCK");
        fprintf(f, " for %s: %s\n            to do: %s\n", status_view_since(d->stuck_since_ns, now, since,
                sizeof(since)), why, action);
}

/* At least one where the whole dataflow is. */
static size_t count_frozen(const StatusView *view, const struct status_dataflow *d)
{
        size_t n = 0;

        for (size_t i = 0; i < view->n_nodes; i++)
                n += view->nodes[i].dataflow == (uint32_t)(d - view->dataflows) && view->nodes[i].frozen;
        return n == 0 && d->frozen ? 1 : n;
}

static void print_dataflow(const StatusView *view, const struct status_dataflow *d, nsec_t now, bool colour, FILE *f)
{
        char since[32];
        size_t n_frozen;

        fprintf(f, "  %-24s %s for %s, %" PRIu32 " of %" PRIu32 " nodes running", d->name[0] ? d->name : d->uuid,
                status_dataflow_state_to_string(d->state), status_view_since(d->since_ns, now, since, sizeof(since)),
                d->n_running, d->n_nodes);
        if (d->n_failed)
                fprintf(f, ", %" PRIu32 " failed", d->n_failed);
        n_frozen = count_frozen(view, d);
        if (n_frozen > 0) {
                fputs(", ", f);
                paint(f, colour, "33", "FROZEN");
        }
        if (n_frozen > 0 && !d->frozen)
                fprintf(f, ": %zu of them", n_frozen);
        fputc('\n', f);
        if (is_stuck(d))
                fputs("            ", f);
        status_view_print_stuck(view, d, now, colour, f);
}

void status_view_print(const StatusView *view, nsec_t now, bool colour, FILE *f)
{
        char p50[32], p999[32], max[32];

        print_verdict(view, now, colour, f);
        if (view->verdict == STATUS_VERDICT_NONE)
                return;
        fputs("guard       ", f);
        paint(f, colour, view->info.guard == STATUS_GUARD_OK ? "32" : "31", status_guard_to_string(view->info.guard));
        fprintf(f, ", pid %d\n", view->info.guard_pid);
        fprintf(f, "loop        %" PRIu64 " turns; lag p50 %s, p99.9 %s, at most %s\n", view->pulse.turns,
                span_us(status_lag_us(&view->pulse, 500), p50, sizeof(p50)),
                span_us(status_lag_us(&view->pulse, 999), p999, sizeof(p999)),
                span_us(view->pulse.lag_max_us, max, sizeof(max)));
        fprintf(f, "dataflows   %" PRIu32 " with %" PRIu32 " nodes", view->n_dataflows_all, view->n_nodes_all);
        if (view->n_dataflows < view->n_dataflows_all)
                fprintf(f, "; %zu of them may be seen by you", view->n_dataflows);
        if (view->n_dataflows_not_shown || view->n_nodes_not_shown)
                fprintf(f, "; %" PRIu32 " more, and %" PRIu32 " nodes, have no room in the page", view->n_dataflows_not_shown,
                        view->n_nodes_not_shown);
        fputc('\n', f);
        for (size_t i = 0; i < view->n_dataflows; i++)
                print_dataflow(view, &view->dataflows[i], now, colour, f);
}
