/* SPDX-License-Identifier: Apache-2.0 */
/* What this host and this user may do: descriptors, priority, /proc, a place for the journal; and kernel probes. */
#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "bpf/call-view.h"
#include "bpf/probe.h"
#include "bpf/queue-view.h"
#include "cli/probe-raw.h"
#include "cli/probes.h"
#include "shm/probe.h"

static void try_nofile(const ProbeContext *context, ProbeReport *report)
{
        enum { WANTED = 4096 }; /* four hundred nodes at ten descriptors each */
        struct rlimit limit;
        rlim_t soft;
        int fd;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                return probe_no(report, errno, "getrlimit: %m");
        soft = limit.rlim_cur;
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
                return probe_no(report, errno, "raising the soft limit %llu to %llu: %m", (unsigned long long)soft,
                        (unsigned long long)limit.rlim_max);
        fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, WANTED - 1);
        if (fd < 0)
                return probe_no(report, errno, "descriptor %d: %m; hard limit %llu", WANTED - 1,
                        (unsigned long long)limit.rlim_max);
        probe_yes(report, "soft limit %llu raised to %llu", (unsigned long long)soft, (unsigned long long)limit.rlim_max);
}

static void try_fifo(const ProbeContext *context, ProbeReport *report)
{
        if (sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &(struct sched_param){.sched_priority = 1}) < 0)
                return probe_no(report, errno, "sched_setscheduler: %m");
        probe_yes(report, "priority 1: taken");
}

static void try_oom_score(const ProbeContext *context, ProbeReport *report)
{
        int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

        if (fd < 0 || write(fd, "-1000", 5) < 0)
                return probe_no(report, errno, "writing /proc/self/oom_score_adj: %m");
        probe_yes(report, "taken");
}

static void try_runtime_dir(const ProbeContext *context, ProbeReport *report)
{
        const char *dir = geteuid() == 0 ? "/run" : secure_getenv("XDG_RUNTIME_DIR");
        struct statfs fs;
        int fd;

        if (!dir || !dir[0])
                return probe_no(report, 0, "XDG_RUNTIME_DIR is not set");
        fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (fd < 0)
                return probe_no(report, errno, "%.150s: %m", dir);
        if (fstatfs(fd, &fs) < 0)
                return probe_no(report, errno, "%.150s: %m", dir);
        if (fs.f_type != TMPFS_MAGIC)
                return probe_no(report, 0, "%.150s can be written but is no tmpfs: writing may block on a disk", dir);
        probe_yes(report, "%.180s, tmpfs", dir);
}

/* Everything a verdict tells of a process that would not die, read from one that waits in the kernel. */
static void try_blame(const ProbeContext *context, ProbeReport *report)
{
        static const char *const names[] = {"syscall", "wchan", "stack"};
        char path[64], text[1024], got[64] = "";
        int fds[2], pidfd = -1, err = 0;
        const char *missing = NULL;
        pid_t pid;

        if (pipe2(fds, O_CLOEXEC) < 0)
                return probe_no(report, errno, "pipe: %m");
        pid = raw_fork(CLONE_PIDFD, -1, &pidfd);
        if (pid < 0)
                return probe_no(report, errno, "clone3: %m");
        if (pid == 0) {
                (void)prctl(PR_SET_DUMPABLE, 1); /* probes are not, and then nobody but root may look */
                child_wait(fds);
        }
        (void)wait_fd(pidfd, POLLIN, in_ms(1)); /* let it come to its read() */
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                _cleanup_fd_ int fd = -1;
                ssize_t n = -1;

                (void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, names[i]);
                fd = open(path, O_RDONLY | O_CLOEXEC);
                if (fd >= 0)
                        n = read(fd, text, sizeof(text));
                if (n > 0)
                        (void)snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s%s", got[0] ? ", " : "", names[i]);
                else if (!missing) {
                        missing = names[i];
                        err = n < 0 ? errno : 0;
                }
        }
        if (missing)
                return probe_no(report, err, "/proc/PID/%s cannot be read; there: %s", missing, got[0] ? got : "nothing");
        probe_yes(report, "%s of another process", got);
}

static const Probe host[] = {
        {
                .id = "nofile",
                .title = "4096 descriptors",
                .needed_for = "large dataflows: some ten descriptors for each node",
                .without = "a plan that needs more than there are is refused",
                .weight = PROBE_BETTER,
                .attempt = try_nofile,
        },
        {
                .id = "runtime_dir",
                .title = "a runtime directory on tmpfs",
                .needed_for = "the journal, which lets a new supervisor adopt what runs",
                .without = "not used by this version's `run`: its dataflow ends with it",
                .weight = PROBE_LATER,
                .attempt = try_runtime_dir,
        },
        {
                .id = "proc_blame",
                .title = "kernel stack of a stuck process",
                .needed_for = "a verdict that says where in the kernel it hangs",
                .without = "the verdict names state and system call, not the stack",
                .promises = P(7),
                .weight = PROBE_BETTER,
                .attempt = try_blame,
        },
        {
                .id = "oom_score_adj",
                .title = "oom_score_adj -1000",
                .needed_for = "guard and supervisor are not what the kernel kills when memory runs out",
                .without = "they may be; the other one then ends the run in bounded time",
                .promises = P(1),
                .weight = PROBE_BETTER,
                .attempt = try_oom_score,
        },
        {
                .id = "sched_fifo",
                .title = "real-time priority (SCHED_FIFO)",
                .needed_for = "a guard that is on time under any load",
                .without = "the normal class: late by some milliseconds under load",
                .weight = PROBE_LATER,
                .attempt = try_fifo,
        },
};

const ProbeGroup host_probes = {"host and user", host, ELEMENTSOF(host)};

static void try_btf(const ProbeContext *context, ProbeReport *report)
{
        int fd = open("/sys/kernel/btf/vmlinux", O_RDONLY | O_CLOEXEC);
        uint16_t magic = 0;
        struct stat st;

        if (fd < 0 || read(fd, &magic, sizeof(magic)) != sizeof(magic) || fstat(fd, &st) < 0)
                return probe_no(report, errno, "/sys/kernel/btf/vmlinux: %m");
        if (magic != 0xeb9f)
                return probe_no(report, 0, "/sys/kernel/btf/vmlinux begins with %#x", magic);
        probe_yes(report, "/sys/kernel/btf/vmlinux, %ld KiB", (long)st.st_size / 1024);
}

static void try_exit_probe(const ProbeContext *context, ProbeReport *report)
{
        struct exit_event event = {0};
        char path[PATH_MAX + 16];
        ExitProbe *probe = NULL;
        int dir_fd, pidfd = -1, r;
        ProbeReason reason = {0};
        nsec_t begin = clock_now(), loaded;
        struct stat st;
        size_t n = 0;
        pid_t pid;

        if (!context->home[0]) { /* at least: is it allowed? 1 is the hierarchy's root */
                r = exit_probe_new(&probe, &(ExitProbeSpec){.cgroup_id = 1}, &reason);
                if (r == 0)
                        return probe_yes(report, "loaded; not tried further, for want of a cgroup of our own");
                return probe_no(report, r == PROBE_E_UNAVAILABLE ? reason.err : -r, "%s", reason.text);
        }

        (void)snprintf(path, sizeof(path), "%s/exits", context->home);
        if (mkdir(path, 0755) < 0 || (dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0 || fstat(dir_fd, &st) < 0)
                return probe_no(report, errno, "mkdir: %m");
        r = exit_probe_new(&probe, &(ExitProbeSpec){.cgroup_id = st.st_ino}, &reason);
        if (r == PROBE_E_UNAVAILABLE)
                return probe_no(report, reason.err, "%s", reason.text);
        if (r < 0)
                return probe_no(report, -r, "loading: %m");
        loaded = clock_now();
        pid = raw_fork(CLONE_PIDFD | CLONE_INTO_CGROUP, dir_fd, &pidfd);
        if (pid < 0)
                return probe_no(report, errno, "clone3(CLONE_INTO_CGROUP): %m");
        if (pid == 0)
                _exit(7);
        if (!wait_fd(exit_probe_fd(probe), POLLIN, context->deadline) || exit_probe_read(probe, &event, 1, &n) < 0 || n != 1)
                return probe_no(report, 0, "loaded, but the exit of a process in the cgroup was not told");
        if (event.status != 7 << 8 || event.cgroup_id != st.st_ino)
                return probe_no(report, 0, "loaded, but it tells status %#x", (unsigned)event.status);
        probe_yes(report, "loaded in %u ms, told exit status 7 of a process in its cgroup",
                (unsigned)((loaded - begin) / NSEC_PER_MSEC));
        (void)exit_probe_free(probe);
}

/* Below the doctor's cgroup: @name, made; -1 with errno. */
static int make_place(const ProbeContext *context, const char *name)
{
        char path[PATH_MAX + 32];

        (void)snprintf(path, sizeof(path), "%s/%s", context->home, name);
        return mkdir(path, 0755) < 0 ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* Of a process that is in no node; 0 where it cannot be measured. */
static unsigned fork_cost(LeaveProbe *probe)
{
        uint64_t n = 0, ns = 0, n_before, ns_before;

        if (leave_probe_cost(probe, &n_before, &ns_before) < 0)
                return 0;
        for (int i = 0; i < 200; i++) {
                pid_t pid = raw_fork(0, -1, NULL);

                if (pid == 0)
                        _exit(0);
                if (pid < 0 || waitpid(pid, NULL, 0) != pid)
                        return 0;
        }
        return leave_probe_cost(probe, &n, &ns) < 0 || n == n_before ? 0 : (unsigned)((ns - ns_before) / (n - n_before));
}

static void try_leave_probe(const ProbeContext *context, ProbeReport *report)
{
        static const char *const names[] = {"leave", "leave/flow", "leave/flow/node.1", "leave/elsewhere"};
        struct leave_event event = {0};
        ProbeReason reason = {0};
        LeaveProbe *probe = NULL;
        nsec_t begin = clock_now(), loaded;
        int fds[ELEMENTSOF(names)], to, pidfd = -1, r;
        unsigned cost;
        struct stat st;
        const char *off = getenv("TIDEGATE_PROBES");
        size_t n = 0;
        pid_t pid;

        if (off && strcmp(off, "off") == 0)
                return probe_no(report, 0, "turned off (TIDEGATE_PROBES=off)");
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                fds[i] = make_place(context, names[i]);
                if (fds[i] < 0)
                        return probe_no(report, errno, "mkdir: %m");
        }
        to = openat(fds[3], "cgroup.procs", O_WRONLY | O_CLOEXEC);
        if (to < 0 || fstat(fds[0], &st) < 0)
                return probe_no(report, errno, "cgroup.procs: %m");
        r = leave_probe_new(&probe, &(LeaveProbeSpec){.cgroup_id = st.st_ino}, &reason);
        if (r == PROBE_E_UNAVAILABLE)
                return probe_no(report, reason.err, "%s", reason.text);
        if (r < 0 || (r = leave_probe_look(probe)) < 0)
                return probe_no(report, -r, "loading: %m");
        loaded = clock_now();
        cost = fork_cost(probe);
        pid = raw_fork(CLONE_PIDFD | CLONE_INTO_CGROUP, fds[2], &pidfd);
        if (pid < 0)
                return probe_no(report, errno, "clone3(CLONE_INTO_CGROUP): %m");
        if (pid == 0)
                _exit(write(to, "0", 1) == 1 ? 0 : 1);
        if (!wait_fd(leave_probe_fd(probe), POLLIN, context->deadline) || leave_probe_read(probe, &event, 1, &n) < 0 || n != 1)
                return probe_no(report, 0, "loaded, but nothing was told of a process that left its cgroup");
        if (event.kind != LEAVE_MOVED || !event.self || strcmp(event.name, "node.1") != 0)
                return probe_no(report, 0, "loaded, but it tells of kind %u, %.64s", event.kind, event.name);
        probe_yes(report, "loaded in %u ms, told of a process that left its cgroup; %u ns a fork", (unsigned)((loaded - begin) / NSEC_PER_MSEC), cost);
        (void)leave_probe_free(probe);
}

#define CALLS 100u

/* Of a process in a cgroup that is watched: exactly as many calls as it has made. */
static void try_call_probe(const ProbeContext *context, ProbeReport *report)
{
        static const char *const names[] = {"calls", "calls/flow", "calls/flow/node.1"};
        const char *off = getenv("TIDEGATE_PROBES");
        CallView view = CALL_VIEW_INIT;
        struct call_count count = {0};
        ProbeReason reason = {0};
        CallProbe *probe = NULL;
        nsec_t begin = clock_now(), loaded;
        int fds[ELEMENTSOF(names)], pidfd = -1, r;
        struct stat watched, node;
        pid_t pid;

        if (off && strcmp(off, "off") == 0)
                return probe_no(report, 0, "turned off (TIDEGATE_PROBES=off)");
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                fds[i] = make_place(context, names[i]);
                if (fds[i] < 0)
                        return probe_no(report, errno, "mkdir: %m");
        }
        if (fstat(fds[0], &watched) < 0 || fstat(fds[2], &node) < 0)
                return probe_no(report, errno, "fstat: %m");
        r = call_probe_new(&probe, &(CallProbeSpec){.cgroup_id = watched.st_ino, .n_slots = 1}, &reason);
        if (r == PROBE_E_UNAVAILABLE)
                return probe_no(report, reason.err, "%s", reason.text);
        if (r < 0)
                return probe_no(report, -r, "loading: %s", strerror(-r));
        loaded = clock_now();
        r = call_view_open(&view, call_probe_fd(probe, CALL_PROBE_FD_WATCHED), call_probe_fd(probe, CALL_PROBE_FD_SLOTS));
        if (!r)
                r = call_view_watch(&view, 0, node.st_ino);
        if (r)
                return probe_no(report, -r, "loaded, but its memory cannot be used: %s", strerror(-r));
        pid = raw_fork(CLONE_PIDFD | CLONE_INTO_CGROUP, fds[2], &pidfd);
        if (pid < 0)
                return probe_no(report, errno, "clone3(CLONE_INTO_CGROUP): %m");
        if (pid == 0) {
                for (unsigned i = 0; i < CALLS; i++)
                        (void)syscall(SYS_getppid);
                _exit(0);
        }
        if (!wait_fd(pidfd, POLLIN, context->deadline))
                return probe_no(report, 0, "loaded, but a child does not end");
        (void)call_view_read(&view, 0, SYS_getppid, &count);
        if (count.count != CALLS)
                return probe_no(report, 0, "loaded, but of %u calls it has counted %llu", CALLS, (unsigned long long)count.count);
        probe_yes(report, "loaded in %u ms, counted %u of %u calls; %u ns a call, and %u ns of one of anybody else's", (unsigned)((loaded - begin) / NSEC_PER_MSEC),
                (unsigned)count.count, CALLS, call_probe_cost(probe).call_ns, call_probe_cost(probe).other_ns);
        call_view_close(&view);
        (void)call_probe_free(probe);
}

/* Of a process in a cgroup that is watched: exactly as many messages as it has told of, by a site of this very program. */
static void try_queue_probe(const ProbeContext *context, ProbeReport *report)
{
        static const char *const names[] = {"queues", "queues/flow", "queues/flow/node.1"};
        const char *off = getenv("TIDEGATE_PROBES");
        QueueView view = QUEUE_VIEW_INIT;
        struct queue_count count = {0};
        ProbeReason reason = {0};
        QueueProbe *probe = NULL;
        nsec_t begin = clock_now(), loaded;
        int fds[ELEMENTSOF(names)], pidfd = -1, exe, r;
        struct stat watched, flow;
        size_t n_sites;
        pid_t pid;

        if (off && strcmp(off, "off") == 0)
                return probe_no(report, 0, "turned off (TIDEGATE_PROBES=off)");
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                fds[i] = make_place(context, names[i]);
                if (fds[i] < 0)
                        return probe_no(report, errno, "mkdir: %m");
        }
        exe = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        if (exe < 0 || fstat(fds[0], &watched) < 0 || fstat(fds[1], &flow) < 0)
                return probe_no(report, errno, "fstat: %m");
        r = queue_probe_new(&probe, &(QueueProbeSpec){.cgroup_id = watched.st_ino, .n_links = 1}, &reason);
        if (!r)
                r = queue_probe_attach(probe, exe, &n_sites, &reason);
        if (r == PROBE_E_UNAVAILABLE)
                return probe_no(report, reason.err, "%s", reason.text);
        if (r < 0)
                return probe_no(report, -r, "loading: %s", strerror(-r));
        loaded = clock_now();
        r = queue_view_open(&view, queue_probe_fd(probe, QUEUE_PROBE_FD_WATCHED), queue_probe_fd(probe, QUEUE_PROBE_FD_LINKS));
        if (!r)
                r = queue_view_watch(&view, flow.st_ino, 1);
        if (r)
                return probe_no(report, -r, "loaded, but its memory cannot be used: %s", strerror(-r));
        pid = raw_fork(CLONE_PIDFD | CLONE_INTO_CGROUP, fds[2], &pidfd);
        if (pid < 0)
                return probe_no(report, errno, "clone3(CLONE_INTO_CGROUP): %m");
        if (pid == 0) {
                for (unsigned i = 0; i < CALLS && probe_enqueue_wanted(); i++)
                        probe_enqueue(1, i, 1);
                _exit(0);
        }
        if (!wait_fd(pidfd, POLLIN, context->deadline))
                return probe_no(report, 0, "loaded, but a child does not end");
        (void)queue_view_read(&view, flow.st_ino, 1, &count);
        if (count.enqueued != CALLS)
                return probe_no(report, 0, "attached, but of %u messages it has counted %llu", CALLS, (unsigned long long)count.enqueued);
        probe_yes(report, "loaded and attached in %u ms, counted %u of %u messages; %u ns a message that is told of", (unsigned)((loaded - begin) / NSEC_PER_MSEC),
                (unsigned)count.enqueued, CALLS, queue_probe_cost(probe));
        queue_view_close(&view);
        (void)queue_probe_free(probe);
}

static const Probe witnesses[] = {
        {
                .id = "btf",
                .title = "the kernel's type information (BTF)",
                .needed_for = "kernel probes that fit any kernel without being built for it",
                .without = "no kernel probes: /proc is sampled instead",
                .weight = PROBE_LATER,
                .attempt = try_btf,
        },
        {
                .id = "bpf_exit",
                .title = "loading a kernel probe (BPF)",
                .needed_for = "exits, waits and queueing seen as they happen",
                .without = "/proc is sampled instead: less is known, nothing is lost",
                .weight = PROBE_LATER,
                .span = 5 * NSEC_PER_SEC,
                .attempt = try_exit_probe,
        },
        {
                .id = "bpf_leave",
                .title = "seeing who leaves its cgroup (BPF)",
                .needed_for = "whoever leaves its node's cgroup is told and ended at that moment (root's daemon and `run`)",
                .without = "it is looked for through /proc, at exits and stops",
                .weight = PROBE_BETTER,
                .in_cgroup = true,
                .span = 5 * NSEC_PER_SEC,
                .attempt = try_leave_probe,
        },
        {
                .id = "bpf_calls",
                .title = "counting system calls (BPF)",
                .needed_for = "`tidegate probe` and `probes:`: how often each call is made, fails, and how long it takes (root's daemon)",
                .without = "threads are looked at through /proc ten times a second: no counts, no errors, no times, and short calls are seldom seen",
                .weight = PROBE_BETTER,
                .in_cgroup = true,
                .span = 10 * NSEC_PER_SEC,
                .attempt = try_call_probe,
        },
        {
                .id = "bpf_queues",
                .title = "looking into queues (BPF)",
                .needed_for = "`tidegate probe`: how deep queues are and how long messages wait, as distributions (root's daemon)",
                .without = "the links' counters are looked at ten times a second, how many messages wait and for how long the first of them has: no distributions of what each message met",
                .weight = PROBE_BETTER,
                .in_cgroup = true,
                .span = 15 * NSEC_PER_SEC, /* to attach waits for every process that runs of such a file */
                .attempt = try_queue_probe,
        },
};

const ProbeGroup witness_probes = {"kernel probes", witnesses, ELEMENTSOF(witnesses)};
