/* SPDX-License-Identifier: Apache-2.0 */
/* cgroup v2: where, born into one, killed with one, told when it is empty. Each probe works in a cgroup of its own. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/limit.h"
#include "base/user_scope.h"
#include "cli/probe-raw.h"
#include "cli/probes.h"

static int read_file(int dir_fd, const char *name, char *ret, size_t size)
{
        _cleanup_fd_ int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
        ssize_t n;

        if (fd < 0)
                return -errno;
        n = read(fd, ret, size - 1);
        if (n < 0)
                return -errno;
        ret[n] = '\0';
        return 0;
}

static int write_file(int dir_fd, const char *name, const char *text)
{
        _cleanup_fd_ int fd = openat(dir_fd, name, O_WRONLY | O_CLOEXEC);

        if (fd < 0 || write(fd, text, strlen(text)) < 0)
                return -errno;
        return 0;
}

/* A new cgroup below the doctor's; whatever happens, the engine removes it when the attempt is over. */
static int make_group(const ProbeContext *context, const char *name)
{
        char path[PATH_MAX + 32];
        int fd;

        (void)snprintf(path, sizeof(path), "%s/%s", context->home, name);
        if (mkdir(path, 0755) < 0)
                return -errno;
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

/* Waits for `<key> <value>` in cgroup.events. 1: there; 0: not by the deadline; or a negative errno. */
static int wait_event(int dir_fd, const char *line, nsec_t deadline)
{
        _cleanup_fd_ int fd = openat(dir_fd, "cgroup.events", O_RDONLY | O_CLOEXEC);
        char text[128];

        if (fd < 0)
                return -errno;
        for (;;) {
                ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

                if (n < 0)
                        return -errno;
                text[n] = '\0';
                if (strstr(text, line))
                        return 1;
                if (!wait_fd(fd, POLLPRI, deadline))
                        return 0;
        }
}

/* @n processes in the cgroup that neither end by themselves nor listen to SIGTERM. 0 or a negative errno. */
static int fill_group(int dir_fd, int n)
{
        for (int i = 0; i < n; i++) {
                pid_t pid = raw_fork(CLONE_INTO_CGROUP, dir_fd, NULL);

                if (pid < 0)
                        return -errno;
                if (pid == 0)
                        child_stay();
        }
        return 0;
}

/* As an instance does it: a scope of the user's service manager, for us and for the engine, whose child every later attempt is. */
static int ask_for_scope(nsec_t deadline, char *ret_why, size_t why_size)
{
        const pid_t pids[] = {getpid(), getppid()};
        char name[64];

        (void)snprintf(name, sizeof(name), "tidegate-doctor-%d.scope", (int)getppid());
        return user_scope_enter(name, "tidegate doctor", pids, ELEMENTSOF(pids), deadline, ret_why, why_size);
}

static void try_root(const ProbeContext *context, ProbeReport *report)
{
        char why[sizeof(report->evidence)], scope_why[160] = "";
        int r = probe_home_find(report->value, sizeof(report->value), why, sizeof(why)), s;

        if (r == 0)
                return probe_yes(report, "%s", why);
        s = geteuid() == 0 ? -ENOENT : ask_for_scope(nsec_add(clock_now(), 5 * NSEC_PER_SEC), scope_why, sizeof(scope_why));
        if (s == 0)
                s = probe_home_find(report->value, sizeof(report->value), why, sizeof(why));
        if (s)
                return probe_no(report, -r, scope_why[0] ? "%s; %s" : "%s%s", why, scope_why);
        probe_yes(report, "a scope that the user's service manager makes for each instance, for the login session's cgroup is root's");
}

static void try_make(const ProbeContext *context, ProbeReport *report)
{
        ProbeHome home = PROBE_HOME_NULL;
        char kill_file[8];
        int r;

        if (!context->root[0])
                return probe_skip(report, "not tried: no directory to make one in");
        r = probe_home_make(&home, context->root, context->deadline);
        if (r < 0)
                return probe_no(report, -r, "mkdir below %.150s: %m", context->root);
        r = read_file(home.dir_fd, "cgroup.kill", kill_file, sizeof(kill_file));
        if (r == -ENOENT) {
                (void)probe_home_remove(&home, context->deadline);
                return probe_no(report, ENOENT, "a new cgroup has no cgroup.kill");
        }
        r = probe_home_remove(&home, context->deadline);
        if (r < 0)
                return probe_no(report, -r, "rmdir: %m");
        probe_yes(report, "made, locked and removed below %.180s", context->root);
}

static void try_clone_into(const ProbeContext *context, ProbeReport *report)
{
        int dir_fd = make_group(context, "into"), pidfd = -1, fds[2];
        char procs[64];
        siginfo_t si;
        pid_t pid;

        if (dir_fd < 0 || pipe2(fds, O_CLOEXEC) < 0)
                return probe_no(report, errno, "mkdir or pipe: %m");
        pid = raw_fork(CLONE_PIDFD | CLONE_INTO_CGROUP, dir_fd, &pidfd);
        if (pid < 0)
                return probe_no(report, errno, "clone3(CLONE_INTO_CGROUP): %m");
        if (pid == 0)
                child_wait(fds);
        (void)close(fds[0]);

        if (read_file(dir_fd, "cgroup.procs", procs, sizeof(procs)) < 0 || strtol(procs, NULL, 10) != pid)
                return probe_no(report, errno, "the child is not in the cgroup it was born into");
        (void)close(fds[1]);
        if (wait_pidfd(pidfd, context->deadline, &si) < 0)
                return probe_no(report, errno, "its exit does not show: %m");
        probe_yes(report, "born inside, listed in cgroup.procs at once");
}

static void try_spawn(const ProbeContext *context, ProbeReport *report)
{
        int dir_fd = make_group(context, "spawn"), pidfd = -1;
        siginfo_t si;

        if (dir_fd < 0)
                return probe_no(report, -dir_fd, "mkdir: %m");
        if (raw_vfork_exit_7(CLONE_PIDFD | CLONE_INTO_CGROUP, dir_fd, &pidfd) < 0)
                return probe_no(report, errno, "clone3 with all four flags: %m");
        if (wait_pidfd(pidfd, context->deadline, &si) < 0 || si.si_status != 7)
                return probe_no(report, errno, "the child's status did not arrive");
        probe_yes(report, "CLONE_VM, VFORK, PIDFD and INTO_CGROUP in one call");
}

static void try_events(const ProbeContext *context, ProbeReport *report)
{
        int dir_fd = make_group(context, "events"), pidfd = -1, fds[2];
        nsec_t closed;
        pid_t pid;

        if (dir_fd < 0 || pipe2(fds, O_CLOEXEC) < 0)
                return probe_no(report, errno, "mkdir or pipe: %m");
        pid = raw_fork(CLONE_PIDFD | CLONE_INTO_CGROUP, dir_fd, &pidfd);
        if (pid < 0)
                return probe_no(report, errno, "clone3(CLONE_INTO_CGROUP): %m");
        if (pid == 0)
                child_wait(fds);
        (void)close(fds[0]);
        if (wait_event(dir_fd, "populated 1", 0) != 1)
                return probe_no(report, 0, "a cgroup with a process does not say `populated 1`");
        closed = clock_now();
        (void)close(fds[1]);
        if (wait_event(dir_fd, "populated 0", context->deadline) != 1)
                return probe_no(report, ETIMEDOUT, "no `populated 0` after the last process ended");
        probe_yes(report, "`populated 0` told after %s", TOOK(closed));
}

static void try_kill(const ProbeContext *context, ProbeReport *report)
{
        int dir_fd = make_group(context, "kill"), below_fd = make_group(context, "kill/below"), r;
        nsec_t begin;

        if (dir_fd < 0 || below_fd < 0)
                return probe_no(report, -MIN(dir_fd, below_fd), "mkdir: %m");
        if ((r = fill_group(dir_fd, 2)) < 0 || (r = fill_group(below_fd, 2)) < 0)
                return probe_no(report, -r, "clone3(CLONE_INTO_CGROUP): %m");

        begin = clock_now();
        r = write_file(dir_fd, "cgroup.kill", "1");
        if (r < 0)
                return probe_no(report, -r, "writing cgroup.kill: %m");
        if (wait_event(dir_fd, "populated 0", context->deadline) != 1)
                return probe_no(report, ETIMEDOUT, "somebody survives cgroup.kill");
        probe_yes(report, "4 processes in 2 levels, deaf to SIGTERM, gone after %s",
                TOOK(begin));
}

static void *stay(void *arg)
{
        for (;;)
                (void)pause();
        return arg;
}

static char process_state(pid_t pid)
{
        char path[32], stat[512], *paren;

        (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        if (read_file(AT_FDCWD, path, stat, sizeof(stat)) < 0)
                return '?';
        paren = strrchr(stat, ')');
        return paren && paren[1] == ' ' ? paren[2] : '?';
}

/* A process in the cgroup whose first thread has exited and whose second lives. 0 or a negative errno. */
static int make_headless(int dir_fd, nsec_t deadline, pid_t *ret_pid, int *ret_pidfd)
{
        pthread_t thread;
        pid_t pid = fork();

        if (pid < 0)
                return -errno;
        if (pid == 0) {
                if (write_file(dir_fd, "cgroup.procs", "0") < 0 || pthread_create(&thread, NULL, stay, NULL) != 0)
                        _exit(1);
                (void)syscall(SYS_exit, 0); /* this thread only */
        }
        *ret_pid = pid;
        *ret_pidfd = raw_pidfd_open(pid);
        if (*ret_pidfd < 0)
                return -errno;
        while (process_state(pid) != 'Z') { /* the kernel has no event for the end of a thread that others outlive */
                if (clock_now() >= deadline)
                        return -ETIMEDOUT;
                (void)poll(NULL, 0, 1);
        }
        return wait_fd(*ret_pidfd, POLLIN, 0) ? -ECHILD : 0;
}

static void try_headless_kill(const ProbeContext *context, ProbeReport *report)
{
        int dir_fd = make_group(context, "headless"), pidfd = -1, r;
        pid_t pid;

        if (dir_fd < 0)
                return probe_no(report, -dir_fd, "mkdir: %m");
        r = make_headless(dir_fd, context->deadline, &pid, &pidfd);
        if (r < 0)
                return probe_no(report, -r, "such a process could not be made: %m");
        r = write_file(dir_fd, "cgroup.kill", "1");
        if (r < 0)
                return probe_no(report, -r, "writing cgroup.kill: %m");
        r = wait_event(dir_fd, "populated 0", in_ms(150));
        if (r == 1)
                return probe_yes(report, "cgroup.kill ended it");
        probe_no(report, 0, "still alive 150 ms after cgroup.kill");
}

static void try_headless_pidfd(const ProbeContext *context, ProbeReport *report)
{
        int dir_fd = make_group(context, "headless2"), pidfd = -1, r;
        nsec_t begin;
        pid_t pid;

        if (dir_fd < 0)
                return probe_no(report, -dir_fd, "mkdir: %m");
        r = make_headless(dir_fd, context->deadline, &pid, &pidfd);
        if (r < 0)
                return probe_no(report, -r, "such a process could not be made: %m");
        begin = clock_now();
        if (raw_pidfd_signal(pidfd, SIGKILL) < 0)
                return probe_no(report, errno, "pidfd_send_signal: %m");
        if (wait_event(dir_fd, "populated 0", context->deadline) != 1)
                return probe_no(report, ETIMEDOUT, "it survives SIGKILL by pidfd");
        probe_yes(report, "gone %s after SIGKILL by pidfd", TOOK(begin));
}

/* The child says a byte and stays: a byte means that it lives, a closed pipe that it was killed before it could. */
static void try_reuse(const ProbeContext *context, ProbeReport *report)
{
        int dir_fd = make_group(context, "reuse"), pidfd = -1, fds[2], r;
        siginfo_t si;
        pid_t pid;
        char byte;

        if (dir_fd < 0 || pipe2(fds, O_CLOEXEC) < 0)
                return probe_no(report, errno, "mkdir or pipe: %m");
        r = write_file(dir_fd, "cgroup.kill", "1");
        if (r < 0)
                return probe_no(report, -r, "writing cgroup.kill: %m");
        pid = raw_fork(CLONE_PIDFD | CLONE_INTO_CGROUP, dir_fd, &pidfd);
        if (pid < 0)
                return probe_no(report, errno, "clone3(CLONE_INTO_CGROUP): %m");
        if (pid == 0) {
                if (write(fds[1], "l", 1) == 1)
                        child_stay();
                _exit(1);
        }
        (void)close(fds[1]);
        if (!wait_fd(fds[0], POLLIN, context->deadline))
                return probe_no(report, ETIMEDOUT, "a child born into it later neither lives nor dies");
        if (read(fds[0], &byte, 1) == 1)
                return probe_yes(report, "a child born into it later lives");
        if (wait_pidfd(pidfd, context->deadline, &si) < 0)
                return probe_no(report, errno, "a child born into it later ended: %m");
        probe_no(report, 0, "a child born into it later was killed at once, by signal %d", si.si_status);
}

static void try_freezer(const ProbeContext *context, ProbeReport *report)
{
        int dir_fd = make_group(context, "frozen"), r;
        nsec_t begin = clock_now(), frozen;

        if (dir_fd < 0)
                return probe_no(report, -dir_fd, "mkdir: %m");
        r = fill_group(dir_fd, 2);
        if (r < 0)
                return probe_no(report, -r, "clone3(CLONE_INTO_CGROUP): %m");
        r = write_file(dir_fd, "cgroup.freeze", "1");
        if (r < 0)
                return probe_no(report, -r, "writing cgroup.freeze: %m");
        if (wait_event(dir_fd, "frozen 1", context->deadline) != 1)
                return probe_no(report, ETIMEDOUT, "it never says `frozen 1`");
        frozen = clock_now();
        r = write_file(dir_fd, "cgroup.kill", "1");
        if (r < 0)
                return probe_no(report, -r, "writing cgroup.kill: %m");
        if (wait_event(dir_fd, "populated 0", context->deadline) != 1)
                return probe_no(report, ETIMEDOUT, "frozen processes survive cgroup.kill");
        probe_yes(report, "frozen after %s, killed while frozen", span_text((char[24]){0}, frozen - begin));
}

static bool has_word(const char *text, const char *word)
{
        size_t n = strlen(word);

        for (const char *at = strstr(text, word); at; at = strstr(at + 1, word))
                if ((at == text || at[-1] == ' ') && (at[n] == '\0' || at[n] == ' ' || at[n] == '\n'))
                        return true;
        return false;
}

/* Why a controller is not offered, by /proc/cgroups. */
static const char *why_not_offered(const char *name)
{
        FILE *f = fopen("/proc/cgroups", "re");
        const char *why = "not in this kernel, or not delegated";
        char line[256];

        while (f && fgets(line, sizeof(line), f)) {
                char subsystem[64];
                unsigned hierarchy, n, enabled;

                if (sscanf(line, "%63s %u %u %u", subsystem, &hierarchy, &n, &enabled) == 4 &&
                        strcmp(subsystem, limit_controller_v1(name)) == 0)
                        why = !enabled ? "switched off at boot" : hierarchy ? "in a cgroup v1 hierarchy" : "not delegated";
        }
        if (f)
                (void)fclose(f);
        return why;
}

/* Enabled where it is not yet, and taken back again. NULL: it works. */
static const char *try_enabling(int root_fd, const char *name, char *buffer, size_t size)
{
        char enabled[256] = "", word[32];
        int r;

        if (read_file(root_fd, "cgroup.subtree_control", enabled, sizeof(enabled)) == 0 && has_word(enabled, name))
                return NULL;
        (void)snprintf(word, sizeof(word), "+%s", name);
        r = write_file(root_fd, "cgroup.subtree_control", word);
        if (r == -EBUSY)
                return "processes live in the cgroup that is ours";
        if (r) {
                (void)snprintf(buffer, size, "cannot be enabled: %s", strerror(-r));
                return buffer;
        }
        word[0] = '-';
        (void)write_file(root_fd, "cgroup.subtree_control", word); /* stays enabled when a run has begun to use it meanwhile */
        return NULL;
}

static void try_controllers(const ProbeContext *context, ProbeReport *report)
{
        _cleanup_fd_ int root_fd = open(context->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        char have[256] = "", works[64] = "", not[512] = "", buffer[128];

        if (root_fd < 0)
                return probe_no(report, errno, "open: %m");
        if (read_file(root_fd, "cgroup.controllers", have, sizeof(have)) < 0)
                return probe_no(report, errno, "cgroup.controllers: %m");
        for (size_t i = 0; limit_controller_names[i]; i++) {
                const char *name = limit_controller_names[i];
                const char *why = has_word(have, name) ? try_enabling(root_fd, name, buffer, sizeof(buffer)) : why_not_offered(name);

                if (why)
                        (void)snprintf(not + strlen(not), sizeof(not) - strlen(not), "%s%s (%s)", not[0] ? ", " : "", name, why);
                else
                        (void)snprintf(works + strlen(works), sizeof(works) - strlen(works), "%s%s", works[0] ? ", " : "", name);
        }
        if (not[0])
                return probe_no(report, 0, "%s%snot: %.400s", works, works[0] ? "; " : "", not);
        probe_yes(report, "%.60s can be enforced", works);
}

/* Who has no CAP_SYS_RESOURCE may ask for windows of whole two seconds. */
static bool takes_any_window(int dir_fd)
{
        static const char trigger[] = "some 500000 1000000";
        int fd = openat(dir_fd, "cpu.pressure", O_RDWR | O_CLOEXEC);
        bool taken = fd >= 0 && write(fd, trigger, sizeof(trigger)) > 0;

        if (fd >= 0)
                (void)close(fd);
        return taken;
}

static void try_pressure(const ProbeContext *context, ProbeReport *report)
{
        static const char trigger[] = "some 500000 2000000";
        int dir_fd = make_group(context, "pressure"), fd;

        if (dir_fd < 0)
                return probe_no(report, -dir_fd, "mkdir: %m");
        fd = openat(dir_fd, "cpu.pressure", O_RDWR | O_CLOEXEC);
        if (fd < 0)
                return probe_no(report, errno, "cpu.pressure: %m");
        if (write(fd, trigger, sizeof(trigger)) < 0)
                return probe_no(report, errno, "setting a trigger: %m");
        if (wait_fd(fd, POLLPRI, 0))
                return probe_no(report, 0, "the trigger fires in an empty cgroup");
        probe_yes(report, "cpu.pressure per cgroup, with a trigger to wait on, %s",
                takes_any_window(dir_fd) ? "in any window" : "in windows of 2s, 4s, ... 10s (any other needs CAP_SYS_RESOURCE)");
}

static const Probe probes[] = {
        {
                .id = PROBE_ID_CGROUP_ROOT,
                .title = "a cgroup v2 directory to write",
                .needed_for = "every node lives in a cgroup: nothing it starts can get lost",
                .without = "no cgroups to end nodes with: a PID namespace, or the process table, does it",
                .promises = P(1) | P(2) | P(6),
                .weight = PROBE_REQUIRED,
                .span = 6 * NSEC_PER_SEC,
                .attempt = try_root,
        },
        {
                .id = PROBE_ID_CGROUP_MAKE,
                .title = "making and removing cgroups there",
                .needed_for = "one fresh cgroup for each life of a node, and none left afterwards",
                .without = "no cgroups to end nodes with: a PID namespace, or the process table, does it",
                .promises = P(1) | P(2),
                .weight = PROBE_REQUIRED,
                .attempt = try_make,
        },
        {
                .id = "clone_into_cgroup",
                .title = "clone3 with CLONE_INTO_CGROUP",
                .needed_for = "no moment in which a node lives outside its cgroup",
                .without = "no cgroups to end nodes with: a PID namespace, or the process table, does it",
                .promises = P(1) | P(2) | P(4),
                .weight = PROBE_REQUIRED,
                .in_cgroup = true,
                .attempt = try_clone_into,
        },
        {
                .id = "spawn",
                .title = "a node's start, all flags at once",
                .needed_for = "the call a keeper starts nodes with",
                .without = "no cgroups to end nodes with: a PID namespace, or the process table, does it",
                .promises = P(1) | P(2),
                .weight = PROBE_REQUIRED,
                .in_cgroup = true,
                .attempt = try_spawn,
        },
        {
                .id = "cgroup_events",
                .title = "cgroup.events by poll",
                .needed_for = "knowing that a cgroup is empty without asking again and again",
                .without = "polling with a deadline: slower to notice",
                .promises = P(3),
                .weight = PROBE_BETTER,
                .in_cgroup = true,
                .attempt = try_events,
        },
        {
                .id = "cgroup_kill",
                .title = "cgroup.kill",
                .needed_for = "ending a tree of processes, fork bombs included, in one step of the kernel's",
                .without = "SIGKILL by pidfd in rounds, which a fork bomb can outrun",
                .promises = P(1) | P(2),
                .weight = PROBE_REQUIRED,
                .in_cgroup = true,
                .attempt = try_kill,
        },
        {
                .id = "cgroup_kill_headless",
                .title = "cgroup.kill: first thread gone",
                .needed_for = "ending a process whose first thread has exited, by cgroup.kill alone",
                .without = "SIGKILL by pidfd for everyone still listed, until the cgroup is empty",
                .promises = P(1),
                .weight = PROBE_BETTER,
                .in_cgroup = true,
                .attempt = try_headless_kill,
        },
        {
                .id = "pidfd_kill_headless",
                .title = "SIGKILL by pidfd: first thread gone",
                .needed_for = "ending a process whose first thread has exited",
                .without = "such a process outlives every stop",
                .promises = P(1) | P(2),
                .weight = PROBE_REQUIRED,
                .in_cgroup = true,
                .attempt = try_headless_pidfd,
        },
        {
                .id = "cgroup_reuse",
                .title = "using a cgroup again after cgroup.kill",
                .needed_for = "nothing: a run never does it, because kernels 6.14 to 7.2 kill what is born into it",
                .without = "a fresh cgroup for each life of a node, as everywhere",
                .weight = PROBE_BETTER,
                .in_cgroup = true,
                .attempt = try_reuse,
        },
        {
                .id = "cgroup_freezer",
                .title = "cgroup.freeze, and killing the frozen",
                .needed_for = "`freeze` and `thaw`",
                .without = "`freeze` fails, with the reason",
                .weight = PROBE_BETTER,
                .in_cgroup = true,
                .attempt = try_freezer,
        },
        {
                .id = "cgroup_controllers",
                .title = "controllers for limits",
                .needed_for = "`resources` of nodes and dataflows: memory, cpu, pids, io, cpuset",
                .without = "who asks for a limit without its controller is refused, or told that it does not hold",
                .weight = PROBE_BETTER,
                .in_cgroup = true,
                .attempt = try_controllers,
        },
        {
                .id = "psi",
                .title = "pressure (PSI) per cgroup",
                .needed_for = "`on_pressure` of nodes and dataflows, and what `status` says of pressure",
                .without = "who asks for it is refused, or told that nothing is watched",
                .weight = PROBE_BETTER,
                .in_cgroup = true,
                .attempt = try_pressure,
        },
};

const ProbeGroup cgroup_probes = {"cgroups", probes, ELEMENTSOF(probes)};
