/* SPDX-License-Identifier: Apache-2.0 */
#include "base/task.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/procstat.h"

#define FLAG_KERNEL_THREAD 0x00200000u /* PF_KTHREAD of the kernel's; in stat since 2.6 */

/* ---- text */

static void copy_text(char *to, size_t size, const char *from, size_t n)
{
        n = MIN(n, size - 1);
        for (size_t i = 0; i < n; i++)
                to[i] = (unsigned char)from[i] < ' ' || from[i] == 0x7f ? '?' : from[i];
        to[n] = '\0';
}

/* A file of the task into @buf, as a string without its last newline. False: not to be had. */
static bool slurp(const Task *task, const char *name, char *buf, size_t size)
{
        _cleanup_fd_ int fd = -1;
        char path[96];
        ssize_t n;

        (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/%s", task->pid, task->tid, name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        n = fd < 0 ? -1 : read(fd, buf, size - 1);
        if (n <= 0)
                return false;
        if (buf[n - 1] == '\n') /* one: the name of a task may end in newlines of its own */
                n--;
        buf[n] = '\0';
        return true;
}

/* ---- the parsers */

bool task_parse_stat(Task *task, const char *text, uint32_t *ret_flags, int32_t *ret_parent, int32_t *ret_session)
{
        const char *p = strrchr(text, ')'); /* the name before it may hold anything, brackets and newlines too */
        int32_t parent, session;
        uint64_t start;
        uint32_t flags;
        char state;

        if (!p || p[1] != ' ' || sscanf(p, ") %c %" SCNd32 " %*d %" SCNd32 " %*d %*d %" SCNu32
                            " %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %" SCNu64,
                          &state, &parent, &session, &flags, &start) != 5)
                return false;
        task->state = state;
        task->start_time = start;
        *ret_flags = flags;
        *ret_parent = parent;
        *ret_session = session;
        return true;
}

/* The value behind "\nKey:\t", or NULL. Newlines in the first line, which is the name, are escaped by the kernel. */
static const char *status_value(const char *text, const char *key)
{
        size_t n = strlen(key);

        for (const char *line = strchr(text, '\n'); line; line = strchr(line + 1, '\n'))
                if (strncmp(line + 1, key, n) == 0 && line[1 + n] == ':')
                        return line + n + 2;
        return NULL;
}

bool task_parse_status(Task *task, const char *text)
{
        const char *tracer = status_value(text, "TracerPid"), *own = status_value(text, "SigPnd"),
                   *shared = status_value(text, "ShdPnd"), *wanted = status_value(text, "voluntary_ctxt_switches"),
                   *forced = status_value(text, "nonvoluntary_ctxt_switches");

        if (!tracer || !own || !shared)
                return false;
        task->tracer = (int32_t)strtol(tracer, NULL, 10);
        task->pending = strtoull(own, NULL, 16);
        task->shared_pending = strtoull(shared, NULL, 16);
        task->switches = (wanted ? strtoull(wanted, NULL, 10) : 0) + (forced ? strtoull(forced, NULL, 10) : 0);
        return true;
}

bool task_parse_call(Task *task, const char *text)
{
        long long fd;
        char *end;
        long n;

        if (text[0] < '0' || text[0] > '9') /* "running"; "-1 ...": stopped outside of one */
                return false;
        n = strtol(text, &end, 10);
        if (n > INT32_MAX || *end != ' ')
                return false;
        task->call = (int32_t)n;
        fd = strtoll(end, NULL, 16);
        if (task_call_has_fd(task->call) && fd >= 0 && fd <= INT32_MAX)
                task->fd = (int32_t)fd;
        return true;
}

void task_parse_stack(Task *task, const char *text)
{
        size_t n = 0;

        for (const char *line = text; line && *line && n < TASK_STACK_MAX; line = strchr(line, '\n')) {
                const char *name, *end;

                line += *line == '\n';
                name = strstr(line, "] ");
                end = strchr(line, '\n');
                if (!name || (end && name > end)) /* "[<0>] name+0x1/0x2 [module]" */
                        continue;
                name += 2;
                if (strspn(name, "0123456789abcdefx") >= 18 || *name == '\n' || !*name)
                        continue; /* an address that has no name */
                copy_text(task->stack[n++], sizeof(task->stack[0]), name, strcspn(name, "+/ \n"));
        }
}

/* ---- reading */

static TaskKind kind_of(const Task *task, uint32_t flags)
{
        if (flags & FLAG_KERNEL_THREAD)
                return TASK_KERNEL_THREAD;
        if (task->state == 'Z' || task->state == 'X')
                return TASK_EXITED;
        /* D is not enough to be told of as traced, and 't' needs a tracer that is there. */
        return task->state == 't' ? TASK_TRACED : TASK_UNINTERRUPTIBLE;
}

static void read_target(Task *task)
{
        char path[96], target[512];
        ssize_t n;

        if (task->fd < 0)
                return;
        (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/fd/%d", task->pid, task->tid, task->fd);
        n = readlink(path, target, sizeof(target));
        if (n > 0)
                copy_text(task->target, sizeof(task->target), target, (size_t)n);
}

static void read_tracer(Task *task)
{
        Task tracer = {.pid = task->tracer, .tid = task->tracer};
        char buf[128];

        if (task->tracer > 0 && slurp(&tracer, "comm", buf, sizeof(buf)))
                copy_text(task->tracer_comm, sizeof(task->tracer_comm), buf, strlen(buf));
}

static nsec_t age_of(const Task *task)
{
        nsec_t started = nsec_mul(task->start_time, NSEC_PER_SEC / (uint64_t)sysconf(_SC_CLK_TCK));
        struct timespec now; /* that clock goes on in a suspend, as that of start_time does */

        (void)clock_gettime(CLOCK_BOOTTIME, &now);
        return nsec_left((nsec_t)now.tv_sec * NSEC_PER_SEC + (nsec_t)now.tv_nsec, started);
}

/* In the middle of execve(): what waits for that is left out. It has one thread, or those beside it are about to end. */
static int read_executing(Task *ret, pid_t pid, pid_t tid)
{
        Task task = {.pid = pid, .tid = tid, .call = SYS_execve, .fd = -1};
        const char *state;
        char buf[4096];

        if (!slurp(&task, "status", buf, sizeof(buf)))
                return errno == ENOENT || errno == ESRCH ? -ESRCH : -EIO;
        state = status_value(buf, "State");
        if (!state || state[0] != '\t' || !task_parse_status(&task, buf))
                return -EBADMSG;
        task.state = state[1];
        if (slurp(&task, "comm", buf, sizeof(buf)))
                copy_text(task.comm, sizeof(task.comm), buf, strlen(buf));
        read_tracer(&task);
        task.kind = kind_of(&task, 0);
        *ret = task;
        return 0;
}

int task_read(Task *ret, pid_t pid, pid_t tid)
{
        Task task = {.pid = pid, .tid = tid, .call = -1, .fd = -1};
        char buf[4096];
        int32_t parent, session;
        uint32_t flags;

        if (procstat_is_executing(pid))
                return read_executing(ret, pid, tid);
        if (!slurp(&task, "stat", buf, sizeof(buf)))
                return errno == ENOENT || errno == ESRCH ? -ESRCH : -EIO;
        if (!task_parse_stat(&task, buf, &flags, &parent, &session))
                return -EBADMSG;
        if (slurp(&task, "comm", buf, sizeof(buf)))
                copy_text(task.comm, sizeof(task.comm), buf, strlen(buf));
        if (slurp(&task, "status", buf, sizeof(buf)))
                (void)task_parse_status(&task, buf);
        if (slurp(&task, "syscall", buf, sizeof(buf)))
                (void)task_parse_call(&task, buf);
        if (slurp(&task, "wchan", buf, sizeof(buf)) && strcmp(buf, "0") != 0)
                copy_text(task.wchan, sizeof(task.wchan), buf, strlen(buf));
        if (slurp(&task, "stack", buf, sizeof(buf)))
                task_parse_stack(&task, buf);
        read_target(&task);
        read_tracer(&task);
        task.age_ns = age_of(&task);
        task.leader_exited = task.state == 'Z' && tid == pid;
        task.frozen = strcmp(task.wchan, "__refrigerator") == 0;
        task.kind = kind_of(&task, flags);
        *ret = task;
        return 0;
}

bool task_is_executing(const Task *task)
{
        return task->start_time == 0 && task->call == SYS_execve;
}

void task_read_cgroup(Task *task)
{
        char buf[4096], *line;

        task->cgroup[0] = '\0';
        if (!slurp(task, "cgroup", buf, sizeof(buf)))
                return;
        line = strncmp(buf, "0::", 3) == 0 ? buf : strstr(buf, "\n0::");
        line = line ? line + (*line == '\n') + 3 : NULL;
        if (line)
                copy_text(task->cgroup, sizeof(task->cgroup), line, strcspn(line, "\n"));
}

/* ---- words */

const char *task_signals(uint64_t mask, char *buffer, size_t size)
{
        size_t at = 0;

        buffer[0] = '\0';
        for (int signo = 1; signo <= 64 && at < size; signo++) {
                const char *name = signo < SIGRTMIN ? sigabbrev_np(signo) : NULL;
                int n;

                if (!(mask >> (signo - 1) & 1))
                        continue;
                if (name)
                        n = snprintf(buffer + at, size - at, "%s%s", at ? " " : "", name);
                else
                        n = snprintf(buffer + at, size - at, "%s%d", at ? " " : "", signo);
                at += (size_t)MAX(n, 0);
        }
        return buffer;
}

const char *task_state_name(char state)
{
        switch (state) {
        case 'R':
                return "running";
        case 'S':
                return "sleeping";
        case 'D':
                return "uninterruptible";
        case 'T':
                return "stopped";
        case 't':
                return "held by its tracer";
        case 'Z':
                return "exited";
        case 'X':
                return "dead";
        case 'I':
                return "idle";
        default:
                return "?";
        }
}

static const char *const kinds[_TASK_KIND_MAX] = {
        [TASK_EXITED] = "exited",
        [TASK_ESCAPED] = "escaped",
        [TASK_KERNEL_THREAD] = "kernel-thread",
        [TASK_TRACED] = "unkillable-traced",
        [TASK_UNINTERRUPTIBLE] = "unkillable-uninterruptible",
};

static const char *const explained[_TASK_KIND_MAX] = {
        [TASK_EXITED] = "it has exited, and other threads of its process live",
        [TASK_ESCAPED] = "it left its cgroup, and lives where a kill of that does not reach it",
        [TASK_KERNEL_THREAD] = "a thread of the kernel: no signal ends it",
        [TASK_TRACED] = "killed, and held on its way out by its tracer: it ends when that lets it go, or ends",
        [TASK_UNINTERRUPTIBLE] = "killed, and in a call that no signal interrupts: it ends when that returns",
};

const char *task_kind_to_string(TaskKind kind)
{
        return kind > 0 && kind < _TASK_KIND_MAX ? kinds[kind] : "?";
}

const char *task_kind_explain(TaskKind kind)
{
        return kind > 0 && kind < _TASK_KIND_MAX ? explained[kind] : "?";
}

typedef struct Line {
        char *text;
        size_t size, at;
} Line;

__attribute__((format(printf, 2, 3))) static void say(Line *l, const char *format, ...)
{
        va_list ap;
        int n;

        va_start(ap, format);
        n = vsnprintf(l->text + l->at, l->size - l->at, format, ap);
        va_end(ap);
        if (n > 0)
                l->at = MIN(l->at + (size_t)n, l->size - 1);
}

static void say_call(Line *l, const Task *task)
{
        const char *name = task_call_name(task->call);

        if (task->call < 0)
                return;
        if (name)
                say(l, " in %s", name);
        else
                say(l, " in system call %d", task->call);
        if (task->fd >= 0)
                say(l, " of %d%s%s%s", task->fd, task->target[0] ? " (" : "", task->target, task->target[0] ? ")" : "");
}

const char *task_line(const Task *task, char *buffer, size_t size)
{
        Line l = {.text = buffer, .size = size};
        char signals[256];

        buffer[0] = '\0';
        say(&l, "pid %d", task->pid);
        if (task->tid != task->pid)
                say(&l, " tid %d", task->tid);
        say(&l, " (%s) state %c", task->comm, task->state);
        if (task->still_ns > 0)
                say(&l, " for %.1f s or more", (double)task->still_ns / 1e9);
        if (task->leader_exited)
                say(&l, ", its first thread has exited");
        say_call(&l, task);
        if (task->wchan[0])
                say(&l, ", wchan %s", task->wchan);
        for (size_t i = 0; i < TASK_STACK_MAX && task->stack[i][0]; i++)
                say(&l, "%s%s", i ? " < " : ", stack ", task->stack[i]);
        if (task->pending | task->shared_pending)
                say(&l, ", pending %s", task_signals(task->pending | task->shared_pending, signals, sizeof(signals)));
        if (task->tracer)
                say(&l, ", traced by pid %d (%s)", task->tracer, task->tracer_comm);
        else if (task->kind == TASK_TRACED)
                say(&l, ", traced from another PID namespace");
        if (task->frozen)
                say(&l, ", frozen");
        if (task->cgroup[0])
                say(&l, ", in cgroup %s", task->cgroup);
        return buffer;
}
