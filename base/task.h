/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a task (a thread) is doing, and why a signal does not end it: from files of /proc that do not wait for a process that is wedged
 * (comm, stat, status, wchan, syscall, stack, cgroup, and the targets of links; never cmdline, environ or maps). Of one that is in the middle
 * of execve() only those are read that do not wait for that (base/procstat.h): then it is said that it is in execve, and where in there is not.
 * A link is read and never followed.
 *
 * Nothing allocates. Texts are cut to their room; control characters in them are '?', bytes beyond ASCII are as they came.
 *
 * Does not know: cgroups, nodes, who asks. Still to be called where blocking hurts nobody: a program may be executed between two reads.
 */
#ifndef TG_BASE_TASK_H
#define TG_BASE_TASK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/clock.h"

#define TASK_STACK_MAX 6 /* innermost frames */

/* Why it is still there. In the order in which the verdict on many is chosen: the highest. */
typedef enum TaskKind {
        TASK_EXITED = 1,      /* the first thread of a process of which others live: they are why */
        TASK_ESCAPED,         /* alive in another cgroup: a kill of this one does not reach it */
        TASK_KERNEL_THREAD,   /* no signal ends it; its cgroup never becomes empty */
        TASK_TRACED,          /* its tracer holds it, and may for ever (PTRACE_O_TRACEEXIT) */
        TASK_UNINTERRUPTIBLE, /* in a system call that nothing interrupts, or on its way out through one */
        _TASK_KIND_MAX,
} TaskKind;

typedef struct Task {
        int32_t pid, tid;
        TaskKind kind;
        char state;          /* R, S, D, T, t, Z, X, I */
        bool leader_exited;  /* of a process whose first thread has exited while others live: this is that one */
        bool frozen;         /* by the freezer of its cgroup, or of the system */
        uint64_t start_time; /* clock ticks after boot; 0: not known, it is in the middle of execve() */
        uint64_t switches;   /* how often it has left the processor */
        nsec_t age_ns;       /* since it was started; 0: not known */
        nsec_t still_ns;     /* at least so long it has not run: between two looks nothing of it changed. 0: it was looked at once */
        int32_t call;        /* number of the system call it is in; -1: in none, or not to be seen */
        int32_t fd;          /* that the call is about; -1: none */
        int32_t tracer;      /* pid; 0: nobody */
        uint64_t pending, shared_pending; /* signals: bit n - 1 for signal n; of the thread, of the process */
        char comm[64], tracer_comm[64];
        char target[256]; /* of fd: "pipe:[123]", "socket:[123]", "/a/file"; "" when it cannot be read */
        char wchan[64];
        char stack[TASK_STACK_MAX][64]; /* names of functions, innermost first; "" beyond the last, or when only root may see it */
        char cgroup[256];               /* where it lives, when that is not where it was looked for; else "" */
} Task;

/**
 * task_read() - look at one thread
 *
 * Return: 0; -ESRCH when it is gone; -errno when not even its state can be read, but for one in the middle of execve(). What else cannot be read is left out.
 */
int task_read(Task *ret, pid_t pid, pid_t tid);

/* task_is_executing() - as it was read: in the middle of execve(), so that not all of it is known. */
bool task_is_executing(const Task *task);

/* task_read_cgroup() - into task->cgroup, its path in the hierarchy of version 2; "" when it cannot be read. */
void task_read_cgroup(Task *task);

/* The parsers, each of the NUL-terminated text of its file. False: that is no such text; then nothing is set. */
bool task_parse_stat(Task *task, const char *text, uint32_t *ret_flags, int32_t *ret_parent, int32_t *ret_session);
bool task_parse_status(Task *task, const char *text);
bool task_parse_call(Task *task, const char *text);
void task_parse_stack(Task *task, const char *text);

/* task_call_name() - "openat", as the kernel's headers name it; NULL when they do not, and it is none of the few newer ones that are known. Of this machine's own system calls: a
 * process of another width (32 bits) is told of by the wrong name. */
const char *task_call_name(int32_t number);

/* task_call_has_fd() - its first argument is a descriptor that says what it waits for. */
bool task_call_has_fd(int32_t number);

/* task_signals() - "KILL TERM" of a mask, into @buffer; "" of 0. */
const char *task_signals(uint64_t mask, char *buffer, size_t size);

/* task_state_name() - "uninterruptible", of 'D'. */
const char *task_state_name(char state);

/**
 * task_line() - all of it in one line: "pid 123 (cp) state D for 1.9 s in read of 3 (/mnt/x), wchan …, stack a < b, …"
 *
 * Return: @buffer, NUL-terminated, cut to @size.
 */
const char *task_line(const Task *task, char *buffer, size_t size);

/* task_kind_to_string() - the verdict on it: "unkillable-uninterruptible", "unkillable-traced", "escaped", "kernel-thread". */
const char *task_kind_to_string(TaskKind kind);

/* task_kind_explain() - what it means and what ends it, for people; static. */
const char *task_kind_explain(TaskKind kind);

#endif
