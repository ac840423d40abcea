/* SPDX-License-Identifier: Apache-2.0 */
/* tidegate audit: what is left on this host of instances that nobody holds any more, with or without a daemon. */
#include "cli/audit.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/stdio_null.h"
#include "cli/commands.h"
#include "cli/print.h"
#include "cli/session.h"
#include "cli/table.h"

#define STEP_SPAN      NSEC_PER_SEC         /* one process */
#define GROUP_SPAN     (5 * NSEC_PER_SEC)   /* one cgroup to look at or to remove: 2 s for the kill, 1 s for what the kernel still holds */
#define WHOLE_SPAN     (20 * NSEC_PER_SEC)  /* default of --timeout: all looks together */
#define STEPS_LOST_MAX 16                   /* then the rest is not looked at */
#define LINE_MAX_SIZE  (4u << 20)
#define PROCESSES_TOLD 8                    /* of one instance, in text */
#define SCOPE_YOUNG_S  60                   /* a holder without a daemon leaves by itself after that */

typedef struct AuditCommand {
        Session session;
        bool sweep, force;
        nsec_t until;
        Audit audit;
        json_t *swept; /* array */
} AuditCommand;

/* ---- children */

typedef struct Child {
        pid_t pid;
        int fd;
        char *line;
        size_t size, room;
        long at; /* the step that it is at */
        bool done;
} Child;

static int child_start(Child *child, const Audit *audit, AuditStage stage, long from)
{
        int fds[2];

        *child = (Child){.fd = -1, .at = from};
        (void)fflush(stdout); /* or the child has it, too */
        if (pipe2(fds, O_CLOEXEC) < 0)
                return error_origin(-errno);
        child->pid = fork();
        if (child->pid == 0) {
                (void)signal(SIGPIPE, SIG_DFL);
                (void)fd_close(fds[0]);
                (void)stdio_to_null();
                audit_child(audit, stage, fds[1], from);
                _exit(0);
        }
        (void)fd_close(fds[1]);
        if (child->pid < 0) {
                (void)fd_close(fds[0]);
                return error_origin(-EAGAIN);
        }
        child->fd = fds[0];
        return 0;
}

/* One that is stuck in the kernel is left behind: it ends when what holds it does. */
static void child_end(Child *child)
{
        child->fd = fd_close(child->fd);
        free(child->line);
        child->line = NULL;
        if (!child->done)
                (void)kill(child->pid, SIGKILL); /* our own child, not reaped: nobody else has the number */
        for (unsigned i = 0; i < 20 && waitpid(child->pid, NULL, WNOHANG) == 0; i++)
                (void)nanosleep(&(struct timespec){.tv_nsec = 5 * NSEC_PER_MSEC}, NULL);
}

static void take_line(Audit *audit, Child *child, const char *text, size_t size)
{
        json_t *line = json_loadb(text, size, 0, NULL), *at = json_object_get(line, "at");

        if (json_is_integer(at))
                child->at = (long)json_integer_value(at);
        else if (json_object_get(line, "done"))
                child->done = true;
        else if (json_is_object(line))
                (void)json_array_append(audit->facts, line);
        json_decref(line);
}

/* 1: something was read; 0: it ended; -errno. */
static int child_read(Audit *audit, Child *child)
{
        char *newline, *begin;
        ssize_t n;

        if (child->room - child->size < 65536) {
                char *grown = child->room < LINE_MAX_SIZE ? realloc(child->line, child->room + 262144) : NULL;

                if (!grown)
                        return error_origin(-ENOMEM);
                child->line = grown;
                child->room += 262144;
        }
        n = read(child->fd, child->line + child->size, child->room - child->size);
        if (n < 0)
                return errno == EINTR ? 1 : error_origin(-errno);
        child->size += (size_t)n;
        for (begin = child->line; (newline = memchr(begin, '\n', child->size - (size_t)(begin - child->line))); begin = newline + 1)
                take_line(audit, child, begin, (size_t)(newline - begin));
        child->size -= (size_t)(begin - child->line);
        memmove(child->line, begin, child->size);
        return n > 0;
}

/* Until it has ended, or says nothing for @span. */
static void child_follow(Audit *audit, Child *child, nsec_t span, nsec_t until)
{
        nsec_t quiet = MIN(nsec_add(clock_now(), span), until);

        for (;;) {
                struct pollfd p = {.fd = child->fd, .events = POLLIN};
                nsec_t now = clock_now();

                if (now >= quiet)
                        return;
                if (poll(&p, 1, nsec_poll_ms(quiet, now)) < 1)
                        continue;
                if (child_read(audit, child) < 1)
                        return;
                quiet = MIN(nsec_add(clock_now(), span), until);
        }
}

static void note_unlooked(Audit *audit, AuditStage stage, long at)
{
        static const char *const what[_AUDIT_STAGE_MAX] = {"the cgroups", "place", "pid", "runtime directory", "sweep"};
        char name[64];

        if (stage == AUDIT_CGROUPS)
                (void)snprintf(name, sizeof(name), "%s", what[stage]);
        else
                (void)snprintf(name, sizeof(name), "%s %ld", what[stage], at);
        (void)json_array_append_new(audit->unlooked, json_pack("{ss sI ss}", "what", name, "step", (json_int_t)at, "why", "it did not answer within its time"));
}

/* A step that hangs is skipped by another child. */
static int run_stage(AuditCommand *command, AuditStage stage)
{
        Audit *audit = &command->audit;
        nsec_t until = stage == AUDIT_SWEEP ? NSEC_NEVER : command->until;
        long from = 0;

        for (unsigned lost = 0; lost < STEPS_LOST_MAX && clock_now() < until; lost++) {
                Child child;
                int r = child_start(&child, audit, stage, from);

                if (r)
                        return r;
                child_follow(audit, &child, stage == AUDIT_PROCESSES ? STEP_SPAN : GROUP_SPAN, until);
                child_end(&child);
                if (child.done)
                        return 0;
                note_unlooked(audit, stage, child.at);
                if (stage == AUDIT_CGROUPS || child.at < from)
                        break;
                from = child.at == from ? from + 1 : child.at;
        }
        audit->incomplete = true;
        return 0;
}

/* ---- from facts to strays */

static bool is_kind(const json_t *fact, const char *kind)
{
        return strcmp(json_get_text(fact, "kind"), kind) == 0;
}

/* With --cgroup-root only what is below it is told and removed; the rest is needed to know who lives. */
static bool is_meant(const Audit *audit, const json_t *fact)
{
        size_t n = audit->cgroup_root ? strlen(audit->cgroup_root) : 0;
        const char *where = json_get_text(fact, "where");

        return n == 0 || is_kind(fact, "runtime") || (strncmp(where, audit->cgroup_root, n) == 0 && (where[n] == '/' || where[n] == '\0'));
}

static bool is_daemons(const json_t *instance)
{
        const char *slash = strrchr(json_get_text(instance, "where"), '/');

        return slash && strncmp(slash + 1, "daemon-", strlen("daemon-")) == 0;
}

/* A daemon's nodes wait for the next one on its runtime directory: where that is, if it was found. */
static const char *runtime_of(const Audit *audit, const json_t *instance)
{
        const char *where = json_get_text(instance, "where"), *slash = strrchr(where, '/');
        json_t *fact;
        size_t i;

        json_array_foreach(audit->facts, i, fact)
                if (slash && is_kind(fact, "runtime") && strcmp(json_get_text(fact, "instance"), slash + 1) == 0)
                        return json_get_text(fact, "where");
        return "";
}

static bool waits_for_daemon(const json_t *instance)
{
        return is_daemons(instance) && json_get_number(instance, "n_processes") > 0;
}

/* The instance that a runtime directory names, if somebody of it lives. */
static bool is_waited_at(const Audit *audit, const json_t *runtime)
{
        json_t *fact;
        size_t i;

        json_array_foreach(audit->facts, i, fact) {
                const char *slash = strrchr(json_get_text(fact, "where"), '/');

                if (is_kind(fact, "instance") && slash && strcmp(slash + 1, json_get_text(runtime, "instance")) == 0 &&
                        (json_is_true(json_object_get(fact, "alive")) || waits_for_daemon(fact)))
                        return true;
        }
        return false;
}

static bool has_living_below(const Audit *audit, const json_t *scope)
{
        const char *where = json_get_text(scope, "where");
        size_t i, n = strlen(where);
        json_t *fact;

        json_array_foreach(audit->facts, i, fact)
                if (is_kind(fact, "instance") && json_is_true(json_object_get(fact, "alive")) && strncmp(json_get_text(fact, "where"), where, n) == 0)
                        return true;
        return false;
}

/* Shared memory that somebody of a living instance has is that instance's, whoever else has it. New reference. */
static json_t *living_regions(const Audit *audit)
{
        json_t *all = json_object(), *fact;
        size_t i;

        json_array_foreach(audit->facts, i, fact)
                if (is_kind(fact, "process") && json_is_true(json_object_get(fact, "member")))
                        (void)json_object_update(all, json_object_get(fact, "regions"));
        return all;
}

static bool is_in_dead_instance(const Audit *audit, const char *where)
{
        json_t *fact;
        size_t i;

        json_array_foreach(audit->facts, i, fact) {
                const char *dead = json_get_text(fact, "where");
                size_t n = strlen(dead);

                if (is_kind(fact, "instance") && !json_is_true(json_object_get(fact, "alive")) && strncmp(where, dead, n) == 0 && (where[n] == '/' || where[n] == '\0'))
                        return true;
        }
        return false;
}

static const char *count_text(char *buffer, size_t size, long long n, const char *one, const char *many)
{
        (void)snprintf(buffer, size, "%lld %s", n, n == 1 ? one : many);
        return buffer;
}

/* A row of the table. @take_more: fields of --json beside it. */
static void add_stray(json_t *strays, const char *kind, const json_t *fact, const char *where, const char *what, const char *todo)
{
        json_t *stray = json_pack("{ss ss sI sI ss ss}", "kind", kind, "where", where, "uid", (json_int_t)json_get_number(fact, "uid"), "since",
                (json_int_t)json_get_number(fact, "since"), "what", what, "do", todo);

        if (stray && json_get_number(fact, "pid") > 0)
                (void)json_object_set_new(stray, "pid", json_integer((json_int_t)json_get_number(fact, "pid")));
        (void)json_array_append_new(strays, stray);
}

static void add_process(json_t *strays, const char *kind, const json_t *process, const char *where, const char *more, const char *todo)
{
        char what[320];

        (void)snprintf(what, sizeof(what), "pid %lld (%.64s), state %s%s", json_get_number(process, "pid"), json_get_text(process, "comm"),
                json_get_text(process, "state"), more);
        add_stray(strays, kind, process, where, what, todo);
}

static void add_instance(const Audit *audit, json_t *strays, const json_t *fact)
{
        char what[160], todo[PATH_MAX + 160] = "tidegate audit --sweep", n[64], m[64];
        const char *runtime = runtime_of(audit, fact);
        json_t *process;
        size_t i;

        if (waits_for_daemon(fact) && *runtime)
                (void)snprintf(todo, sizeof(todo), "tidegate up --runtime-dir %s adopts them; tidegate audit --sweep --force ends them", runtime);
        else if (waits_for_daemon(fact))
                (void)snprintf(todo, sizeof(todo), "tidegate up on its runtime directory adopts them; tidegate audit --sweep --force ends them");
        (void)snprintf(what, sizeof(what), "%s in %s; nobody holds its lock", count_text(n, sizeof(n), json_get_number(fact, "n_processes"), "process", "processes"),
                count_text(m, sizeof(m), json_get_number(fact, "n_cgroups"), "cgroup", "cgroups"));
        add_stray(strays, "cgroup", fact, json_get_text(fact, "where"), what, todo);
        json_array_foreach(json_object_get(fact, "processes"), i, process)
                add_process(strays, "process", process, json_get_text(fact, "where"), "", todo);
}

static void add_holder_of_memory(const Audit *audit, json_t *strays, const json_t *fact, const json_t *living)
{
        char more[96], todo[64], n[64];
        bool dead = is_in_dead_instance(audit, json_get_text(fact, "where"));
        long long n_regions = 0;
        const char *key;
        json_t *value;

        json_object_foreach(json_object_get((json_t *)fact, "regions"), key, value)
                n_regions += !json_object_get(living, key);
        (void)snprintf(todo, sizeof(todo), "kill %lld, if it is not to go on", json_get_number(fact, "pid"));
        if (n_regions > 0) {
                (void)snprintf(more, sizeof(more), ", has %s of no living instance",
                        count_text(n, sizeof(n), n_regions, "piece of shared memory", "pieces of shared memory"));
                add_process(strays, "memfd", fact, json_get_text(fact, "where"), more, dead ? "ends with its instance" : todo);
        }
        if (json_is_true(json_object_get(fact, "marked")) && !dead)
                add_process(strays, "process", fact, json_get_text(fact, "where"), ", was started as a node and is in no living instance", todo);
}

static json_t *find_strays(const Audit *audit)
{
        json_t *strays = json_array(), *living = living_regions(audit), *fact;
        size_t i;

        json_array_foreach(audit->facts, i, fact) {
                const char *where = json_get_text(fact, "where");
                char what[160], todo[PATH_MAX + 64] = "tidegate audit --sweep", n[64];

                if (!is_meant(audit, fact))
                        continue;
                if (is_kind(fact, "instance") && !json_is_true(json_object_get(fact, "alive"))) {
                        add_instance(audit, strays, fact);
                } else if (is_kind(fact, "base") || (is_kind(fact, "doctor") && !json_is_true(json_object_get(fact, "alive")))) {
                        add_stray(strays, "cgroup", fact, where, is_kind(fact, "base") ? "no instance is in it" : "of a doctor that did not end", todo);
                } else if (is_kind(fact, "scope") && !has_living_below(audit, fact) && time(NULL) - json_get_number(fact, "since") > SCOPE_YOUNG_S) {
                        const char *slash = strrchr(where, '/');

                        (void)snprintf(todo, sizeof(todo), "systemctl stop %s", slash ? slash + 1 : where);
                        add_stray(strays, "scope", fact, where, "no daemon lives in it", todo);
                } else if (is_kind(fact, "process") && !json_is_true(json_object_get(fact, "member"))) {
                        add_holder_of_memory(audit, strays, fact, living);
                } else if (is_kind(fact, "runtime")) {
                        (void)snprintf(what, sizeof(what), "%s of a daemon that has ended",
                                count_text(n, sizeof(n), json_get_number(fact, "n_files"), "file", "files"));
                        if (is_waited_at(audit, fact))
                                (void)snprintf(todo, sizeof(todo), "tidegate up --runtime-dir %s takes over", where);
                        add_stray(strays, "files", fact, where, what, todo);
                }
        }
        json_decref(living);
        return strays;
}

/* ---- sweeping */

static json_t *chosen_for_sweep(const AuditCommand *command)
{
        json_t *chosen = json_array(), *fact;
        size_t i;

        json_array_foreach(command->audit.facts, i, fact) {
                bool alive = json_is_true(json_object_get(fact, "alive"));

                if (!is_meant(&command->audit, fact))
                        continue;
                if ((is_kind(fact, "instance") && !alive && (command->force || !waits_for_daemon(fact))) || (is_kind(fact, "doctor") && !alive) || is_kind(fact, "base")) {
                        json_t *copy = json_copy(fact);

                        (void)json_object_set_new(copy, "runtime", json_string(is_kind(fact, "instance") ? runtime_of(&command->audit, fact) : ""));
                        (void)json_array_append_new(chosen, copy);
                }
        }
        json_array_foreach(command->audit.facts, i, fact) /* after their instances */
                if (is_kind(fact, "runtime") && (command->force || !is_waited_at(&command->audit, fact)))
                        (void)json_array_append(chosen, fact);
        return chosen;
}

static int look(AuditCommand *command)
{
        Audit *audit = &command->audit;
        int r;

        (void)json_array_clear(audit->facts);
        audit->incomplete = false;
        r = run_stage(command, AUDIT_CGROUPS);
        if (!r)
                r = run_stage(command, AUDIT_PLACES);
        if (!r)
                r = run_stage(command, AUDIT_PROCESSES);
        return r ? r : run_stage(command, AUDIT_FILES);
}

/* Then all is looked at anew: what was killed may have had more than its cgroup. */
static int sweep(AuditCommand *command)
{
        Audit *audit = &command->audit;
        json_t *fact;
        size_t i;
        int r;

        audit->sweep = chosen_for_sweep(command);
        if (json_array_size(audit->sweep) == 0)
                return 0;
        (void)json_array_clear(audit->facts);
        r = run_stage(command, AUDIT_SWEEP);
        json_array_foreach(audit->facts, i, fact)
                if (is_kind(fact, "swept") || is_kind(fact, "kept"))
                        (void)json_array_append(command->swept, fact);
        command->until = nsec_add(clock_now(), command->session.timeout);
        return r ? r : look(command);
}

/* ---- telling */

static unsigned count_living(const Audit *audit)
{
        unsigned n = 0;
        json_t *fact;
        size_t i;

        json_array_foreach(audit->facts, i, fact)
                n += is_kind(fact, "instance") && json_is_true(json_object_get(fact, "alive"));
        return n;
}

static void print_row(const json_t *stray)
{
        char where[PATH_MAX], what[512], todo[PATH_MAX + 192], since[64] = "-", whose[32];
        long long began = json_get_number(stray, "since");

        (void)snprintf(where, sizeof(where), "%s", json_get_text(stray, "where"));
        (void)snprintf(what, sizeof(what), "%s", json_get_text(stray, "what"));
        (void)snprintf(todo, sizeof(todo), "%s", json_get_text(stray, "do"));
        (void)snprintf(whose, sizeof(whose), "%lld", json_get_number(stray, "uid"));
        if (began > 0)
                format_span(since, sizeof(since), (time(NULL) - began) * 1000);
        printf("%-8s  %-6s  %-10s  %s\n", json_get_text(stray, "kind"), whose, since, text_tame(where, false));
        printf("%-8s  %-6s  %-10s    %s: %s\n", "", "", "", text_tame(what, false), text_tame(todo, false));
}

static void print_strays(const json_t *strays)
{
        size_t i, n_told = 0, n_more = 0;
        json_t *stray;

        printf("%-8s  %-6s  %-10s  %s\n", "KIND", "UID", "SINCE", "WHERE, WHAT: WHAT TO DO");
        json_array_foreach(strays, i, stray) {
                bool process = is_kind(stray, "process");

                n_told = process ? n_told + 1 : is_kind(stray, "cgroup") ? 0 : n_told;
                if (process && n_told > PROCESSES_TOLD)
                        n_more++;
                else
                        print_row(stray);
        }
        if (n_more > 0)
                printf("and %zu processes more: --json has them all\n", n_more);
}

static void print_text(AuditCommand *command, const json_t *strays)
{
        json_t *one;
        size_t i;

        json_array_foreach(command->swept, i, one) {
                char where[PATH_MAX];

                (void)snprintf(where, sizeof(where), "%s", json_get_text(one, "where"));
                if (is_kind(one, "swept"))
                        printf("removed %s (killed %lld)\n", text_tame(where, false), json_get_number(one, "killed"));
                else
                        session_say(&command->session, "%s stays: %s", text_tame(where, false), json_get_text(one, "why"));
        }
        if (json_array_size(strays) > 0)
                print_strays(strays);
        else
                printf("nothing is left over; living instances: %u\n", count_living(&command->audit));
        json_array_foreach(command->audit.unlooked, i, one)
                session_say(&command->session, "%s was not looked at: %s", json_get_text(one, "what"), json_get_text(one, "why"));
        if (command->audit.incomplete)
                session_say(&command->session, "not everything was looked at within %.1f s (--timeout)", (double)command->session.timeout / 1e9);
}

static int tell(AuditCommand *command)
{
        _cleanup_(json_decrefp) json_t *strays = find_strays(&command->audit);
        int status = json_array_size(strays) > 0 ? CLI_NOT_RUNNING : command->audit.incomplete ? CLI_FAILED : CLI_OK, r;

        if (!command->session.json) {
                print_text(command, strays);
                return status;
        }
        r = session_result(&command->session,
                json_pack("{sO sO sO sI sb}", "strays", strays, "unlooked", command->audit.unlooked, "swept", command->swept, "living",
                        (json_int_t)count_living(&command->audit), "complete", !command->audit.incomplete));
        return r ? r : status;
}

/* ---- the command */

static int read_arguments(AuditCommand *command, int argc, char **argv)
{
        static const struct option options[] = {{"sweep", no_argument, NULL, 's'}, {"force", no_argument, NULL, 'f'}, SESSION_LONG_OPTIONS, {NULL, 0, NULL, 0}};
        int o;

        session_begin();
        while ((o = session_getopt(&command->session, argc, argv, "", options)) != -1) {
                if (o == 's')
                        command->sweep = true;
                else if (o == 'f')
                        command->force = true;
                else
                        return CLI_USAGE;
        }
        if (optind < argc)
                return usage_error("audit", "unexpected argument `%s`", argv[optind]);
        if (command->force && !command->sweep)
                return usage_error("audit", "--force goes with --sweep");
        return 0;
}

int cmd_audit(int argc, char **argv)
{
        AuditCommand command = {.session = SESSION_INIT("audit"), .swept = json_array(), .audit = {.facts = json_array(), .unlooked = json_array()}};
        char buffer[PATH_MAX];
        int status, r = 0;

        command.session.timeout = WHOLE_SPAN;
        status = read_arguments(&command, argc, argv);
        if (!status) {
                command.audit.runtime_dir = session_find_dir(&command.session, buffer, sizeof(buffer));
                command.audit.runtime_only = command.session.runtime_dir_option != NULL;
                command.audit.cgroup_root = command.session.cgroup_root_option;
                command.until = nsec_add(clock_now(), command.session.timeout);
                r = look(&command);
                if (!r && command.sweep)
                        r = sweep(&command);
                status = r ? session_fail(&command.session, r) : tell(&command);
        }
        json_decref(command.swept);
        json_decref(command.audit.facts);
        json_decref(command.audit.unlooked);
        json_decref(command.audit.sweep);
        session_done(&command.session);
        return status;
}
