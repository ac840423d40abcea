/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/spawn.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/error.h"

static const struct {
        KeeperStage stage;
        const char *what; /* "cannot <what>: <reason>" */
} steps[_SPAWN_STEP_MAX] = {
        [SPAWN_STEP_QUEUED] = {KEEPER_STAGE_CLONE, "start the process"},
        [SPAWN_STEP_CGROUP] = {KEEPER_STAGE_CGROUP, "make the node's cgroup"},
        [SPAWN_STEP_CLONE] = {KEEPER_STAGE_CLONE, "start a process"},
        [SPAWN_STEP_REGISTER] = {KEEPER_STAGE_REGISTER, "register the process with the guard"},
        [SPAWN_STEP_SESSION] = {KEEPER_STAGE_CREDENTIALS, "make a new session"},
        [SPAWN_STEP_AFFINITY] = {KEEPER_STAGE_CREDENTIALS, "run on the processors of cpu_affinity"},
        [SPAWN_STEP_CREDENTIALS] = {KEEPER_STAGE_CREDENTIALS, "take the caller's credentials"},
        [SPAWN_STEP_CWD] = {KEEPER_STAGE_CWD, "enter the working directory"},
        [SPAWN_STEP_FDS] = {KEEPER_STAGE_FDS, "set up standard input and output"},
        [SPAWN_STEP_LIMITS] = {KEEPER_STAGE_FDS, "set the limits of open files and processes"},
        [SPAWN_STEP_EXEC] = {KEEPER_STAGE_EXEC, "execute"},
};

typedef struct Text {
        char *at;
        size_t left;
} Text;

__attribute__((format(printf, 2, 3))) static void say(Text *t, const char *format, ...)
{
        va_list ap;
        int n;

        va_start(ap, format);
        n = vsnprintf(t->at, t->left, format, ap);
        va_end(ap);
        if (n < 0)
                return;
        n = (int)MIN((size_t)n, t->left ? t->left - 1 : 0);
        t->at += n;
        t->left -= (size_t)n;
}

static SpawnStep step_of(const SpawnOutcome *o)
{
        int s = atomic_load(&o->step);

        return s >= 0 && s < _SPAWN_STEP_MAX ? (SpawnStep)s : SPAWN_STEP_QUEUED;
}

static uint64_t strv_bytes(char *const *v)
{
        uint64_t n = 0;

        for (; *v; v++)
                n += strlen(*v) + 1 + sizeof(*v);
        return n;
}

static const char *path_of_env(char *const *env)
{
        for (; *env; env++)
                if (strncmp(*env, "PATH=", 5) == 0)
                        return *env + 5;
        return "not set";
}

/* The interpreter of a #! line into @buf; false: there is no such line. */
static bool interpreter(const SpawnOutcome *o, char *buf, size_t size, bool *ret_carriage_return)
{
        const char *from = o->head + 2, *end;

        if (o->n_head < 2 || memcmp(o->head, "#!", 2) != 0)
                return false;
        from += strspn(from, " \t");
        end = from + strcspn(from, " \t\n");
        *ret_carriage_return = end > from && end[-1] == '\r';
        if (*ret_carriage_return)
                end--;
        snprintf(buf, size, "%.*s", (int)(end - from), from);
        return true;
}

static void explain_missing(const SpawnOutcome *o, Text *t)
{
        char program[256];
        bool carriage_return;

        if (o->stat_error == 0 && interpreter(o, program, sizeof(program), &carriage_return))
                say(t, " (its interpreter %s does not exist%s)", program,
                        carriage_return ? ": the #! line ends in a carriage return, as Windows editors write it" : "");
        else if (o->stat_error == 0)
                say(t, " (the file is there, but the loader it asks for is not: was it built for another system?)");
        else if (o->prefix_error == ENOENT)
                say(t, " (there is no %s)", o->prefix);
}

static void explain_denied(const SpawnOutcome *o, uid_t uid, Text *t)
{
        char program[256];
        bool carriage_return;

        if (o->stat_error && o->prefix_error)
                say(t, " (%s may not be searched by uid %u)", o->prefix, uid);
        else if (o->stat_error == 0 && S_ISDIR(o->mode))
                say(t, " (it is a directory)");
        else if (o->stat_error == 0 && !S_ISREG(o->mode))
                say(t, " (it is not a regular file)");
        else if (o->stat_error == 0 && (o->mode & 0111) == 0)
                say(t, " (no execute bit)");
        else if (o->noexec)
                say(t, " (it lies on a file system mounted noexec)");
        else if (interpreter(o, program, sizeof(program), &carriage_return))
                say(t, " (its interpreter %s may not be executed, or the script itself not by uid %u)", program, uid);
        else if (o->stat_error == 0)
                say(t, " (mode %04o, not executable by uid %u)", (unsigned)(o->mode & 07777), uid);
}

static void explain_format(const SpawnOutcome *o, Text *t)
{
        if (o->n_head == 0)
                say(t, " (the file is empty)");
        else if (o->n_head >= 2 && memcmp(o->head, "#!", 2) == 0)
                say(t, " (its #! line names no interpreter)");
        else if (o->n_head >= 4 && memcmp(o->head, "\177ELF", 4) == 0)
                say(t, " (a program for another kind of machine, or a damaged one)");
        else
                say(t, " (neither a program of this machine nor a script: a script begins with a line like #!/bin/sh)");
}

static void explain_exec(const SpawnOutcome *o, const KeeperSpec *spec, uid_t uid, Text *t)
{
        int error = atomic_load(&o->error);

        if (error == ENOENT && !strchr(spec->argv[0], '/') && o->stat_error) {
                say(t, "cannot find %s in PATH (%s)", spec->argv[0], path_of_env(spec->env));
                return;
        }
        say(t, "cannot execute %s: %s", o->program[0] ? o->program : spec->argv[0], error_text(error));
        if (error == ENOENT)
                explain_missing(o, t);
        else if (error == EACCES)
                explain_denied(o, uid, t);
        else if (error == ENOEXEC)
                explain_format(o, t);
        else if (error == ENOTDIR && o->prefix_error == ENOTDIR)
                say(t, " (%s is not a directory)", o->prefix);
        else if (error == E2BIG)
                say(t, " (%llu bytes of arguments and environment)",
                        (unsigned long long)(strv_bytes(spec->argv) + strv_bytes(spec->env)));
        else if (error == ETXTBSY)
                say(t, " (somebody has it open for writing)");
}

static void explain_other(SpawnStep step, int error, Text *t)
{
        if (step == SPAWN_STEP_CLONE && error == EAGAIN)
                say(t, " (a limit on the number of processes is reached: ulimit -u, pids.max or kernel.pid_max)");
        else if (step == SPAWN_STEP_CLONE && error == ENOSYS)
                say(t, " (clone3 is not allowed here)");
        else if (step == SPAWN_STEP_CLONE && error == EACCES)
                say(t, " (an ordinary user must run tidegate within the cgroup that is delegated to that user)");
        else if (step == SPAWN_STEP_CLONE && (error == ENOENT || error == ENODEV))
                say(t, " (its cgroup was removed meanwhile)");
        else if (step == SPAWN_STEP_AFFINITY && error == EINVAL)
                say(t, " (none of them is there for us)");
        else if (step == SPAWN_STEP_CGROUP && error == EAGAIN)
                say(t, " (a limit on the number of cgroups is reached: cgroup.max.descendants)");
}

KeeperStage spawn_explain(const SpawnOutcome *o, const KeeperSpec *spec, uid_t uid, gid_t gid, char *text,
        size_t size)
{
        SpawnStep step = step_of(o);
        int error = atomic_load(&o->error);
        Text t = {text, size};

        if (error == ECANCELED)
                say(&t, "called off before the program ran: a kill was ordered");
        else if (step == SPAWN_STEP_EXEC && spec)
                explain_exec(o, spec, uid, &t);
        else {
                say(&t, "cannot %s", steps[step].what);
                if (step == SPAWN_STEP_CWD && spec)
                        say(&t, " %s", spec->cwd);
                if (step == SPAWN_STEP_CREDENTIALS)
                        say(&t, " (uid %u, gid %u)", uid, gid);
                say(&t, ": %s", error_text(error));
                explain_other(step, error, &t);
        }
        return steps[step].stage;
}

KeeperStage spawn_explain_deadline(const SpawnOutcome *o, const KeeperSpec *spec, nsec_t waited_ns, char *text,
        size_t size)
{
        SpawnStep step = step_of(o);
        double seconds = (double)waited_ns / 1e9;
        Text t = {text, size};

        if (step == SPAWN_STEP_QUEUED)
                say(&t, "not started within %.1f s: too many other nodes hang in their start", seconds);
        else if (step == SPAWN_STEP_EXEC && spec)
                say(&t, "execute %s did not come back within %.1f s (does its file system still answer?); given up and killed",
                        o->program[0] ? o->program : spec->argv[0], seconds);
        else if (step == SPAWN_STEP_CWD && spec)
                say(&t, "%s %s did not come back within %.1f s (does its file system still answer?); given up and killed",
                        steps[step].what, spec->cwd, seconds);
        else
                say(&t, "%s did not come back within %.1f s; given up and killed", steps[step].what, seconds);
        return KEEPER_STAGE_DEADLINE;
}
