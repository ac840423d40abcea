/* SPDX-License-Identifier: Apache-2.0 */
/* What each thread waits for, who could end that, circles of them, and which of it all is the node's. */
#include "supervisor/why.h"

#include <dirent.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/cleanup.h"

#define HOPS_MAX   8
#define BUSY_SHARE 60 /* % of the window, on a CPU or waiting for one */
#define RUN_SHARE  10 /* less than that of it on a CPU: others had them */
#define PENDING_MIN 3 /* samples, of ten */

void why_say(WhyThread *t, BlameCause cause, const char *format, ...)
{
        va_list ap;

        t->cause = cause;
        va_start(ap, format);
        (void)vsnprintf(t->text, sizeof(t->text), format, ap);
        va_end(ap);
}

int why_node_of(const Why *why, pid_t pid)
{
        for (size_t i = 0; i < why->n_processes; i++)
                if (why->processes[i].pid == pid)
                        return why->processes[i].node;
        return -1;
}

static bool worse(const WhyThread *a, const WhyThread *b)
{
        if (a->cause != b->cause)
                return a->cause > b->cause;
        return a->task.tid == a->task.pid && b->task.tid != b->task.pid; /* of equals the first one of the process */
}

int why_thread_of(const Why *why, pid_t pid, pid_t tid)
{
        int best = -1;

        for (size_t i = 0; i < why->n_threads; i++) {
                const WhyThread *t = &why->threads[i];

                if (tid ? t->task.tid == tid : t->task.pid == pid && (best < 0 || worse(t, &why->threads[best])))
                        best = (int)i;
        }
        return best;
}

const char *why_name(const Why *why, int node, pid_t pid, const char *comm, char *buffer, size_t size)
{
        if (node >= 0 && pid > 0)
                (void)snprintf(buffer, size, "%.128s (pid %d, %.60s)", why->nodes[node].id, pid, comm[0] ? comm : "?");
        else if (node >= 0)
                (void)snprintf(buffer, size, "%.128s", why->nodes[node].id);
        else
                (void)snprintf(buffer, size, "pid %d (%.60s), which is no node's", pid, comm[0] ? comm : "?");
        return buffer;
}

static void point_at(Why *why, WhyThread *t, pid_t pid, pid_t tid)
{
        char comm[64] = "";

        t->target_pid = pid;
        t->target_tid = tid;
        t->target_node = why_node_of(why, pid);
        if (why_slurp(pid, tid, "comm", comm, sizeof(comm)))
                comm[strcspn(comm, "\n")] = '\0';
        (void)snprintf(t->target_comm, sizeof(t->target_comm), "%s", comm);
}

/* ---- what the state and the place in the kernel say */

static bool is_in(const WhyThread *t, const char *part)
{
        if (strstr(t->task.wchan, part))
                return true;
        for (size_t i = 0; i < TASK_STACK_MAX && t->task.stack[i][0]; i++)
                if (strstr(t->task.stack[i], part))
                        return true;
        return false;
}

static bool is_any(const WhyThread *t, const char *const *parts, size_t n)
{
        for (size_t i = 0; i < n; i++)
                if (is_in(t, parts[i]))
                        return true;
        return false;
}

static const char *call_of(const WhyThread *t, char buffer[static 32])
{
        const char *name = task_call_name(t->call.number);

        (void)snprintf(buffer, 32, name ? "%s" : "a system call", name);
        return buffer;
}

/* The path that a call is about: of its descriptor, or its argument. */
static void read_object(Why *why, WhyThread *t)
{
        uint64_t address = 0;

        if (t->task.target[0] == '/') {
                (void)snprintf(t->object, sizeof(t->object), "%.190s", t->task.target);
                return;
        }
        switch (t->call.number) {
        case SYS_openat:
        case SYS_newfstatat:
        case SYS_statx:
        case SYS_mkdirat:
        case SYS_unlinkat:
        case SYS_readlinkat:
        case SYS_faccessat:
        case SYS_execveat:
                address = t->call.args[1];
                break;
        case SYS_execve:
        case SYS_chdir:
        case SYS_truncate:
        case SYS_statfs:
#ifdef SYS_open
        case SYS_open:
        case SYS_stat:
        case SYS_lstat:
        case SYS_mkdir:
        case SYS_unlink:
        case SYS_rmdir:
        case SYS_access:
        case SYS_readlink:
#endif
                address = t->call.args[0];
                break;
        default:
                break;
        }
        if (address && why->deep && (why->daring || t->task.state != 'D'))
                why_peek_text(t->task.pid, address, t->object, sizeof(t->object));
}

static const char *behind(const WhyThread *t, char buffer[static 256])
{
        (void)snprintf(buffer, 256, t->object[0] ? " of %.200s" : "%s", t->object);
        return buffer;
}

/* In a file system whose data somebody else has to bring. */
static bool is_remote(const WhyThread *t)
{
        static const char *const places[] = {"fuse_", "request_wait_answer", "nfs_", "nfs4_", "rpc_wait_bit_killable", "rpc_execute", "cifs_", "smb2_", "wait_for_response", "v9fs_", "p9_client", "ceph_"};

        return is_any(t, places, ELEMENTSOF(places));
}

static bool blame_file_system(Why *why, WhyThread *t)
{
        static const char *const frozen[] = {"sb_start_write", "mnt_want_write", "percpu_rwsem_wait", "percpu_down_read"};
        char call[32], path[256];
        bool remote = is_remote(t);

        if (task_is_executing(&t->task) && t->task.state != 'R') {
                why_say(t, BLAME_FILE_SYSTEM, "waits in execve for a file that it reads or closes there (the kernel tells of no place)");
                return true;
        }
        if (!remote && t->task.state != 'D')
                return false;
        read_object(why, t);
        if (remote)
                why_say(t, BLAME_FILE_SYSTEM, "waits in %s%s for a file system that does not answer (%s)", call_of(t, call), behind(t, path), t->task.wchan[0] ? t->task.wchan : "no place is told");
        else if (is_any(t, frozen, ELEMENTSOF(frozen)))
                why_say(t, BLAME_FILE_SYSTEM, "waits in %s%s for a file system that is frozen, or being changed", call_of(t, call), behind(t, path));
        else if (is_in(t, "handle_over_high") || is_in(t, "try_charge") || is_in(t, "mem_cgroup"))
                why_say(t, BLAME_MEMORY_HIGH, "is held because its cgroup is above memory.high");
        else
                why_say(t, BLAME_FILE_SYSTEM, "waits in %s%s, and nothing interrupts that (%s)", t->call.number >= 0 ? call_of(t, call) : "the kernel", behind(t, path),
                        t->task.wchan[0] ? t->task.wchan : "no place is told");
        return true;
}

/* Uninterruptible is also who has lent its memory to a child that has not executed its program yet: what that waits for is the reason. */
static bool blame_vfork(Why *why, WhyThread *t)
{
        const WhyThread *child = NULL;
        bool forks = t->call.number == SYS_clone || t->call.number == SYS_clone3;

#ifdef SYS_vfork
        forks = forks || t->call.number == SYS_vfork;
#endif
        for (size_t i = 0; i < why->n_threads && forks && t->task.state == 'D'; i++) {
                const WhyThread *other = &why->threads[i];

                if (other->task.tid == other->task.pid && other->stat.parent == t->task.pid && other->task.state != 'Z' &&
                        (!child || other->task.start_time >= child->task.start_time))
                        child = other;
        }
        if (!child)
                return false;
        point_at(why, t, child->task.pid, 0);
        t->definite = true;
        why_say(t, BLAME_CHILD, "waits until its new child, pid %d, executes a program", child->task.pid);
        return true;
}

static bool blame_state(Why *why, WhyThread *t)
{
        char tracer[WHY_NAME_MAX];

        if (t->task.state == 'Z' || t->task.state == 'X' || (t->stat.exiting && !is_remote(t))) {
                why_say(t, BLAME_EXITING, t->task.leader_exited ? "has exited, and others of its process may live" : "is on its way out");
        } else if (t->task.state == 't') {
                if (t->task.tracer) {
                        point_at(why, t, t->task.tracer, 0);
                        t->target_pid = t->task.tracer;
                        why_say(t, BLAME_TRACED, "is held by its tracer, %s", why_name(why, t->target_node, t->task.tracer, t->task.tracer_comm, tracer, sizeof(tracer)));
                } else {
                        why_say(t, BLAME_TRACED, "is held by its tracer, which is not to be seen from here");
                }
        } else if (t->task.state == 'T') {
                why_say(t, BLAME_STOPPED, "was stopped by a signal (SIGSTOP, SIGTSTP, SIGTTIN or SIGTTOU); SIGCONT lets it go on");
        } else if (t->task.frozen || is_in(t, "freezer_trap") || is_in(t, "refrigerator")) {
                why_say(t, BLAME_FROZEN, "is frozen");
        } else if (is_in(t, "handle_userfault")) {
                why_say(t, BLAME_PAGE_FAULT, "waits in a page fault for whoever serves it (userfaultfd)");
        } else {
                return blame_vfork(why, t) || blame_file_system(why, t);
        }
        return true;
}

/* ---- what runs, or would */

/* A real-time task, or anybody else, on the processor where it waits to run. */
static void say_who_runs(Why *why, WhyThread *t)
{
        struct dirent *entry;
        DIR *d = opendir("/proc");

        while (d && (entry = readdir(d)) && clock_now() < why->until) {
                pid_t pid = (pid_t)atoi(entry->d_name);
                BlameStat stat;
                char text[1024];
                const char *state;

                if (pid <= 0 || pid == t->task.pid || !why_slurp(pid, 0, "stat", text, sizeof(text)) || !blame_parse_stat(text, &stat))
                        continue;
                state = strrchr(text, ')');
                if (!state || state[2] != 'R' || stat.processor != t->stat.processor)
                        continue;
                if (stat.policy != SCHED_FIFO && stat.policy != SCHED_RR && (t->target_pid || t->stat.policy != SCHED_IDLE || stat.policy == SCHED_IDLE))
                        continue;
                point_at(why, t, pid, 0);
                if (stat.policy == SCHED_FIFO || stat.policy == SCHED_RR)
                        break; /* that is why */
        }
        if (d)
                (void)closedir(d);
}

static void blame_running(Why *why, WhyThread *t)
{
        unsigned run = why->window ? (unsigned)(t->sched.run * 100 / why->window) : 0, wait = why->window ? (unsigned)(t->sched.wait * 100 / why->window) : 0;
        char signals[128], who[WHY_NAME_MAX];

        if (why->first_only) {
                why_say(t, BLAME_WAITING, "ran, or was about to, when it was looked at");
        } else if (t->n_pending >= PENDING_MIN && run >= RUN_SHARE / 2) {
                why_say(t, BLAME_SIGNALS, "handles signals without end (%s)", task_signals(t->storm, signals, sizeof(signals)));
        } else if (run < RUN_SHARE && wait >= BUSY_SHARE) {
                if (why->deep)
                        say_who_runs(why, t);
                if (t->target_pid)
                        why_say(t, BLAME_STARVED, "could run, and waited for CPU %d for %u %% of the time, where %s runs", t->stat.processor, wait,
                                why_name(why, t->target_node, t->target_pid, t->target_comm, who, sizeof(who)));
                else
                        why_say(t, BLAME_STARVED, "could run, and waited for CPU %d for %u %% of the time", t->stat.processor, wait);
        } else if (run + wait >= BUSY_SHARE) {
                why_say(t, BLAME_BUSY, wait >= RUN_SHARE ? "is busy: it ran for %u %% of the time, and waited for a CPU for %u %%" : "is busy: it ran for %u %% of the time", run, wait);
        } else {
                why_say(t, BLAME_WAITING, "runs now and then (%u %% of the time)", run);
        }
}

static bool is_busy(const Why *why, const WhyThread *t)
{
        return t->seen_twice && why->window && (t->sched.run + t->sched.wait) * 100 / why->window >= BUSY_SHARE;
}

/* ---- futexes */

typedef struct Mutex { /* glibc's, from its lock word on */
        int32_t lock;
        uint32_t count;
        int32_t owner;
        uint32_t users;
        int32_t kind;
} Mutex;

static bool is_thread_of(const Why *why, pid_t pid, pid_t tid)
{
        for (size_t i = 0; i < why->n_threads; i++)
                if (why->threads[i].task.tid == tid)
                        return pid == 0 || why->threads[i].task.pid == pid;
        return false;
}

/* A number that @t uses, as we know it; 0: nobody of its node has it. */
static int32_t outer_tid(const Why *why, const WhyThread *t, int32_t tid)
{
        if (!t->inner_tid)
                return tid;
        for (size_t i = 0; i < why->n_threads; i++)
                if (why->threads[i].node == t->node && why->threads[i].inner_tid == tid)
                        return why->threads[i].task.tid;
        return 0;
}

static void blame_futex(Why *why, WhyThread *t)
{
        unsigned op = (unsigned)t->call.args[1] & FUTEX_CMD_MASK;
        bool shared = !(t->call.args[1] & FUTEX_PRIVATE_FLAG), pi = op == FUTEX_LOCK_PI || op == FUTEX_LOCK_PI2;
        pid_t own = t->task.pid, tid = 0, joined;
        Mutex mutex = {};
        char name[WHY_NAME_MAX];
        size_t n = why->deep ? why_peek(own, t->call.args[0], &mutex, sizeof(mutex)) : 0;

        (void)snprintf(t->object, sizeof(t->object), "futex 0x%" PRIx64, t->call.args[0]);
        joined = n >= 4 && !pi && mutex.lock > 2 && (uint32_t)mutex.lock == (uint32_t)t->call.args[2] ? outer_tid(why, t, mutex.lock) : 0;
        if (n >= 4 && pi) {
                tid = outer_tid(why, t, mutex.lock & FUTEX_TID_MASK);
        } else if (joined && joined != t->task.tid && is_thread_of(why, own, joined)) {
                t->target_pid = own; /* the kernel clears that word, the thread's own, when it ends */
                t->target_tid = joined;
                t->target_node = t->node;
                t->definite = true;
                why_say(t, BLAME_WAITING, "waits for the end of its thread %d", joined);
                return;
        } else if (n == sizeof(mutex) && mutex.lock > 0 && mutex.lock <= 2 && mutex.users < 100000) {
                tid = outer_tid(why, t, mutex.owner);
        }
        if (tid > 0 && is_thread_of(why, shared ? 0 : own, tid)) {
                int i = why_thread_of(why, 0, tid);

                t->target_tid = tid;
                t->target_pid = i >= 0 ? why->threads[i].task.pid : own;
                t->target_node = i >= 0 ? why->threads[i].node : t->node;
                t->definite = true;
                (void)snprintf(t->target_comm, sizeof(t->target_comm), "%s", i >= 0 ? why->threads[i].task.comm : "");
                if (tid == t->task.tid)
                        why_say(t, BLAME_DEADLOCK, "waits for a mutex that it holds itself");
                else if (t->target_pid == own)
                        why_say(t, BLAME_MUTEX, "waits for a mutex that its thread %d (%s) holds", tid, t->target_comm);
                else
                        why_say(t, BLAME_MUTEX, "waits for a mutex that %s holds", why_name(why, t->target_node, t->target_pid, t->target_comm, name, sizeof(name)));
        } else if (tid > 0) {
                why_say(t, BLAME_MUTEX, "waits for a mutex that thread %d holds, which is not there", tid);
                t->target_tid = tid;
        } else {
                why_say(t, BLAME_WAITING, "waits to be woken by another thread (a futex: a condition, a semaphore, or a lock whose owner is not written down)");
        }
}

/* ---- time */

static void say_time(WhyThread *t, const struct timespec *left, bool absolute, clockid_t clock)
{
        struct timespec now = {};
        double seconds;

        if (absolute)
                (void)clock_gettime(clock, &now);
        seconds = (double)(left->tv_sec - now.tv_sec) + (double)(left->tv_nsec - now.tv_nsec) / 1e9;
        if (absolute)
                why_say(t, BLAME_SLEEPING, "sleeps, for %.1f s more", MAX(seconds, 0.0));
        else if (t->task.still_ns)
                why_say(t, BLAME_SLEEPING, "sleeps for %g s, and has done so for %.1f s or more", seconds, (double)t->task.still_ns / 1e9);
        else
                why_say(t, BLAME_SLEEPING, "sleeps for %g s", seconds);
}

static void blame_sleep(Why *why, WhyThread *t)
{
        struct timespec span = {};
        bool with_clock = t->call.number == SYS_clock_nanosleep, absolute = with_clock && (t->call.args[1] & TIMER_ABSTIME);
        uint64_t address = t->call.args[with_clock ? 2 : 0];

        if (!why->deep || why_peek(t->task.pid, address, &span, sizeof(span)) != sizeof(span) || span.tv_nsec < 0 || span.tv_nsec >= 1000000000)
                why_say(t, BLAME_SLEEPING, "sleeps for a time");
        else
                say_time(t, &span, absolute, with_clock && absolute ? (clockid_t)t->call.args[0] : CLOCK_MONOTONIC);
}

/* ---- children, locks, opens */

static void blame_child(Why *why, WhyThread *t)
{
        bool waitid_call = t->call.number == SYS_waitid;
        int64_t which = waitid_call ? (t->call.args[0] == 1 ? (int64_t)(pid_t)t->call.args[1] : -1) : (int64_t)(pid_t)t->call.args[0];
        pid_t child = which > 0 ? outer_tid(why, t, (int32_t)which) : 0;
        unsigned n = child ? 1 : 0;
        char name[WHY_NAME_MAX];

        for (size_t i = 0; i < why->n_threads && which <= 0; i++) {
                const WhyThread *other = &why->threads[i];

                if (other->task.tid != other->task.pid || other->stat.parent != t->task.pid || other->task.state == 'Z')
                        continue;
                child = n++ == 0 ? other->task.pid : child;
        }
        t->definite = n == 1;
        if (!child) {
                why_say(t, BLAME_CHILD, "waits for a child, and none is to be seen in its node");
                return;
        }
        point_at(why, t, child, 0);
        if (t->target_node == t->node)
                (void)snprintf(name, sizeof(name), "%d (%s)", child, t->target_comm);
        else
                (void)why_name(why, t->target_node, child, t->target_comm, name, sizeof(name));
        if (n > 1)
                why_say(t, BLAME_CHILD, "waits for one of its %u children, the first of them pid %s", n, name);
        else
                why_say(t, BLAME_CHILD, "waits for its child, pid %s", name);
}

static void blame_lock(Why *why, WhyThread *t)
{
        _cleanup_free_ char *text = why->deep ? malloc(256 * 1024) : NULL;
        BlameLock lock = {};
        char name[WHY_NAME_MAX], path[256];

        read_object(why, t);
        if (text && why_slurp(0, 0, "locks", text, 256 * 1024) && blame_parse_lock(text, t->task.pid, &lock) && lock.holder > 0) {
                point_at(why, t, lock.holder, 0);
                t->definite = lock.holder != t->task.pid;
                if (lock.holder == t->task.pid)
                        why_say(t, BLAME_FILE_LOCK, "waits for a lock%s (%s) that it holds itself, by another descriptor", behind(t, path), lock.kind);
                else if (t->target_comm[0])
                        why_say(t, BLAME_FILE_LOCK, "waits for a lock%s (%s) that %s holds", behind(t, path), lock.kind,
                                why_name(why, t->target_node, lock.holder, t->target_comm, name, sizeof(name)));
                else
                        why_say(t, BLAME_FILE_LOCK, "waits for a lock%s (%s) that pid %d has taken, which has ended: somebody has its descriptor", behind(t, path), lock.kind, lock.holder);
        } else {
                why_say(t, BLAME_FILE_LOCK, "waits for a lock%s; who holds it is not to be seen", behind(t, path));
        }
}

static void blame_open(Why *why, WhyThread *t)
{
        char path[256];

        read_object(why, t);
        if (is_in(t, "wait_for_partner") || is_in(t, "fifo_open"))
                why_say(t, BLAME_FIFO_OPEN, "waits in open%s, a fifo whose other end nobody opens", behind(t, path));
        else
                why_say(t, BLAME_WAITING, "waits in open%s", behind(t, path));
}

/* ---- by call */

static bool is_fifo_open(int32_t number)
{
        return number == SYS_openat
#ifdef SYS_open
                || number == SYS_open
#endif
#ifdef SYS_openat2
                || number == SYS_openat2
#endif
                ;
}

static bool is_of_many(int32_t number)
{
        return number == SYS_ppoll || number == SYS_pselect6 || number == SYS_epoll_pwait
#ifdef SYS_poll
                || number == SYS_poll || number == SYS_select || number == SYS_epoll_wait
#endif
#ifdef SYS_epoll_pwait2
                || number == SYS_epoll_pwait2
#endif
                ;
}

static bool is_wait_for_signal(int32_t number)
{
        return number == SYS_rt_sigsuspend || number == SYS_rt_sigtimedwait
#ifdef SYS_pause
                || number == SYS_pause
#endif
                ;
}

static bool writes(int32_t number)
{
        return number == SYS_write || number == SYS_writev || number == SYS_pwrite64 || number == SYS_pwritev || number == SYS_sendto || number == SYS_sendmsg ||
                number == SYS_sendmmsg || number == SYS_splice || number == SYS_vmsplice || number == SYS_tee || number == SYS_sendfile;
}

static void blame_call(Why *why, WhyThread *t)
{
        bool of_lock = t->call.number == SYS_flock || (t->call.number == SYS_fcntl && (t->call.args[1] == 7 || t->call.args[1] == 38)); /* F_SETLKW, F_OFD_SETLKW */
        char call[32];

        if (t->call.number == SYS_futex)
                blame_futex(why, t);
        else if (t->call.number == SYS_nanosleep || t->call.number == SYS_clock_nanosleep)
                blame_sleep(why, t);
        else if (t->call.number == SYS_restart_syscall)
                why_say(t, is_in(t, "futex") ? BLAME_WAITING : BLAME_SLEEPING, is_in(t, "futex") ? "waits for a futex, until a time" : "sleeps for a time, and was interrupted in it");
        else if (t->call.number == SYS_wait4 || t->call.number == SYS_waitid)
                blame_child(why, t);
        else if (of_lock)
                blame_lock(why, t);
        else if (is_fifo_open(t->call.number))
                blame_open(why, t);
        else if (is_wait_for_signal(t->call.number))
                why_say(t, BLAME_SLEEPING, "waits for a signal (%s)", call_of(t, call));
        else if (t->call.number == SYS_connect)
                why_blame_connect(why, t);
        else if (is_of_many(t->call.number) && !why_blame_links(why, t))
                why_blame_many(why, t);
        else if (!t->text[0] && t->task.fd >= 0)
                why_blame_fd(why, t, t->task.fd, writes(t->call.number));
        else if (!t->text[0] && t->call.number >= 0)
                why_say(t, BLAME_WAITING, "waits in %s", call_of(t, call));
        else if (!t->text[0])
                why_say(t, BLAME_UNKNOWN, t->task.wchan[0] ? "waits in the kernel (%s); its system call is not to be seen" : "waits; its system call is not to be seen", t->task.wchan);
}

static void forget(WhyThread *t)
{
        t->cause = BLAME_UNKNOWN;
        t->text[0] = t->object[0] = t->target_comm[0] = '\0';
        t->definite = t->link = false;
        t->target_node = t->next = -1;
        t->target_pid = t->target_tid = 0;
}

static void judge_as_seen(Why *why, WhyThread *t)
{
        if (blame_state(why, t))
                return;
        if (t->task.state == 'R' || is_busy(why, t))
                blame_running(why, t);
        else
                blame_call(why, t);
}

/* What was read of its memory and descriptors counts if it was still the same one, with the same rights, afterwards. */
static void judge_thread(Why *why, WhyThread *t)
{
        bool deep = why->deep;

        why->deep = deep && !t->other_rights && why_is_whom_we_saw(why, t);
        judge_as_seen(why, t);
        if (why->deep && !why_is_whom_we_saw(why, t)) {
                forget(t);
                why->deep = false;
                judge_as_seen(why, t);
        }
        why->deep = deep;
}

/* ---- circles */

static void link_up(Why *why)
{
        for (size_t i = 0; i < why->n_threads; i++) {
                WhyThread *t = &why->threads[i];

                if (t->link && t->target_node >= 0)
                        t->next = why->nodes[t->target_node].best;
                else if (t->target_tid > 0 && t->target_tid != t->task.tid)
                        t->next = why_thread_of(why, t->target_pid, t->target_tid);
                else if (t->target_pid > 0 && t->target_pid != t->task.pid)
                        t->next = why_thread_of(why, t->target_pid, 0);
        }
}

/* Who comes back to itself by waits that nobody else can end never goes on. */
static void find_circles(Why *why)
{
        for (size_t i = 0; i < why->n_threads; i++) {
                int at = (int)i;
                unsigned n = 0;

                do
                        at = why->threads[at].definite ? why->threads[at].next : -1;
                while (at >= 0 && at != (int)i && n++ < why->n_threads);
                if (at == (int)i && why->threads[at].cause != BLAME_DEADLOCK)
                        why->threads[i].cause = BLAME_DEADLOCK;
        }
}

/* ---- of the node */

static void choose_best(Why *why)
{
        for (size_t i = 0; i < why->n_nodes; i++)
                why->nodes[i].best = -1;
        for (size_t i = 0; i < why->n_threads; i++) {
                int *best = &why->nodes[why->threads[i].node].best;

                if (*best < 0 || worse(&why->threads[i], &why->threads[*best]))
                        *best = (int)i;
        }
}

/* "a waits for b; b sleeps", as far as it leads. */
static void compose(Why *why, int first)
{
        size_t n = 0, hops = 0;
        int at = first, path[HOPS_MAX];
        const char *joint = "";

        while (at >= 0 && hops < HOPS_MAX && n < sizeof(why->text)) {
                const WhyThread *t = &why->threads[at];
                char name[WHY_NAME_MAX];

                for (size_t i = 0; i < hops; i++)
                        if (path[i] == at) {
                                (void)snprintf(why->text + n, sizeof(why->text) - n, i == 0 && hops > 1 ? ", and so on in a circle" : ", and so on");
                                return;
                        }
                if (hops && !t->link && t->node == why->threads[path[hops - 1]].node)
                        (void)snprintf(name, sizeof(name), t->task.tid == t->task.pid ? "pid %d (%s)" : "thread %d (%s)", t->task.tid, t->task.comm);
                else
                        (void)snprintf(name, sizeof(name), "%s", why->nodes[t->node].id);
                n += (size_t)snprintf(why->text + n, sizeof(why->text) - n, "%s%s %s", joint, name, t->text);
                joint = t->link && t->cause == BLAME_BACKPRESSURE ? ": consumer " : "; ";
                path[hops++] = at;
                at = t->next;
        }
}

static void say_group(Why *why, BlameCause cause, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void say_group(Why *why, BlameCause cause, const char *format, ...)
{
        char text[256];
        va_list ap;

        if (cause <= why->cause)
                return;
        va_start(ap, format);
        (void)vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        why->cause = cause;
        (void)snprintf(why->text, sizeof(why->text), "%s %s", why->nodes[why->target].id, text);
}

static void judge_group(Why *why, const WhyGroup *before, const WhyGroup *now, const char *whose)
{
        double window = (double)why->window / 1e6, throttled = (double)(now->throttled_us - MIN(now->throttled_us, before->throttled_us)) / 1e3;
        double used = (double)(now->usage_us - MIN(now->usage_us, before->usage_us)) / 1e3;

        if (now->has_cpu && (throttled >= window / 5 || (now->n_throttled > before->n_throttled && why->cause != BLAME_BUSY)))
                say_group(why, BLAME_THROTTLED, "is throttled by the cpu.max of %s: in the last %.0f ms that had a processor for %.0f ms", whose, window, used);
        if (now->has_memory && now->high > before->high)
                say_group(why, BLAME_MEMORY_HIGH, "is slowed down: %s is above its memory.high (%llu of %llu MiB)", whose, (unsigned long long)now->memory >> 20,
                        (unsigned long long)now->memory_high >> 20);
        if (now->has_memory && (now->oom > before->oom || now->oom_kill > before->oom_kill))
                say_group(why, BLAME_OOM, now->oom_kill > before->oom_kill ? "is out of memory: %s is at its memory.max (%llu MiB), and some of it have just been killed"
                                                                           : "is out of memory: %s is at its memory.max (%llu MiB), and nobody of it may be killed for that",
                        whose, (unsigned long long)now->memory_max >> 20);
        if (before->frozen && now->frozen)
                say_group(why, BLAME_FROZEN, "is frozen, by the freezer of %s", whose);
}

/* Of the node that is asked about, and of those that one of these waits for. What others do takes as long to find out, and nobody wants to know. */
static void judge_reachable(Why *why)
{
        bool more = true;

        for (size_t i = 0; i < why->n_threads; i++)
                forget(&why->threads[i]);
        for (size_t i = 0; i < why->n_nodes; i++)
                why->nodes[i].judged = false;
        for (int node = (int)why->target; more;) {
                why->nodes[node].judged = true;
                for (size_t i = 0; i < why->n_threads; i++)
                        if (why->threads[i].node == node)
                                judge_thread(why, &why->threads[i]);
                more = false;
                for (size_t i = 0; i < why->n_threads && !more; i++)
                        if (why->threads[i].target_node >= 0 && !why->nodes[why->threads[i].target_node].judged) {
                                node = why->threads[i].target_node;
                                more = true;
                        }
        }
}

void why_judge(Why *why)
{
        judge_reachable(why);
        choose_best(why);
        link_up(why);
        find_circles(why);
        choose_best(why);
        link_up(why);
        why->blamed = why->nodes[why->target].best;
        why->cause = BLAME_UNKNOWN;
        (void)snprintf(why->text, sizeof(why->text), "%s has ended meanwhile", why->nodes[why->target].id);
        if (why->blamed >= 0) {
                why->cause = why->threads[why->blamed].cause;
                compose(why, why->blamed);
        }
        judge_group(why, &why->group_before, &why->group, "its cgroup");
        judge_group(why, &why->flow_before, &why->flow, "the dataflow's cgroup");
}
