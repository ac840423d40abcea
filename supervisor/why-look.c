/* SPDX-License-Identifier: Apache-2.0 */
/* The two looks: what every thread does, what it has had of the processors in between, and what its cgroup has felt. */
#include "supervisor/why.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/procstat.h"
#include "supervisor/cgroup.h"

#define SAMPLES     10
#define SAMPLED_MAX 32 /* threads that are looked at in between */

bool why_slurp(pid_t pid, pid_t tid, const char *name, char *buffer, size_t size)
{
        _cleanup_fd_ int fd = -1;
        size_t n = 0;
        ssize_t more;
        char path[96];

        if (pid && (strcmp(name, "stat") == 0 || strcmp(name, "syscall") == 0) && procstat_is_executing(pid))
                return false; /* we would wait for that */
        if (tid)
                (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/%s", pid, tid, name);
        else if (pid)
                (void)snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
        else
                (void)snprintf(path, sizeof(path), "/proc/%s", name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return false;
        while (n < size - 1 && (more = read(fd, buffer + n, size - 1 - n)) > 0)
                n += (size_t)more;
        buffer[n] = '\0';
        return n > 0;
}

size_t why_peek(pid_t pid, uint64_t address, void *buffer, size_t size)
{
        size_t whole = 4096 - (size_t)(address % 4096); /* up to the end of its page at least */
        ssize_t n;

        for (;;) {
                struct iovec here = {buffer, size}, there = {(void *)(uintptr_t)address, size};

                n = address ? process_vm_readv(pid, &here, 1, &there, 1, 0) : -1;
                if (n >= 0 || size <= whole)
                        return n < 0 ? 0 : (size_t)n;
                size = whole;
        }
}

void why_peek_text(pid_t pid, uint64_t address, char *buffer, size_t size)
{
        size_t n = why_peek(pid, address, buffer, size - 1);

        buffer[n] = '\0';
        for (char *p = buffer; *p; p++)
                if ((unsigned char)*p < ' ' || *p == 0x7f)
                        *p = '?';
}

/* ---- cgroups */

static bool read_file(int dir_fd, const char *name, char *buffer, size_t size)
{
        _cleanup_fd_ int fd = dir_fd < 0 ? -1 : cgroup_open_file(dir_fd, name, O_RDONLY);
        ssize_t n = fd < 0 ? -1 : read(fd, buffer, size - 1);

        buffer[MAX(n, 0)] = '\0';
        return n > 0;
}

static void read_number(int dir_fd, const char *name, uint64_t *ret)
{
        char text[64];

        if (read_file(dir_fd, name, text, sizeof(text)) && strncmp(text, "max", 3) != 0)
                *ret = strtoull(text, NULL, 10);
}

void why_read_group(int dir_fd, bool with_below, WhyGroup *ret)
{
        char text[2048];

        *ret = (WhyGroup){};
        if (read_file(dir_fd, "cpu.stat", text, sizeof(text))) {
                ret->has_cpu = blame_field(text, "nr_throttled", &ret->n_throttled);
                (void)blame_field(text, "throttled_usec", &ret->throttled_us);
                (void)blame_field(text, "usage_usec", &ret->usage_us);
        }
        if (read_file(dir_fd, with_below ? "memory.events" : "memory.events.local", text, sizeof(text))) {
                ret->has_memory = blame_field(text, "high", &ret->high);
                (void)blame_field(text, "oom", &ret->oom);
                (void)blame_field(text, "oom_kill", &ret->oom_kill);
                read_number(dir_fd, "memory.current", &ret->memory);
                read_number(dir_fd, "memory.high", &ret->memory_high);
                read_number(dir_fd, "memory.max", &ret->memory_max);
        }
        ret->frozen = read_file(dir_fd, "cgroup.events", text, sizeof(text)) && strstr(text, "frozen 1");
}

/* ---- the first look */

typedef struct Walk {
        Why *why;
        int node;
        size_t n; /* threads of this node */
} Walk;

static void read_more(WhyThread *t)
{
        char text[4096];
        pid_t pid = t->task.pid, tid = t->task.tid;

        t->call = (BlameCall){.number = -1};
        if (why_slurp(pid, tid, "syscall", text, sizeof(text)))
                (void)blame_parse_call(text, &t->call);
        else if (task_is_executing(&t->task))
                t->call.number = t->task.call;
        if (why_slurp(pid, tid, "stat", text, sizeof(text)))
                (void)blame_parse_stat(text, &t->stat);
        if (why_slurp(pid, tid, "status", text, sizeof(text))) {
                (void)blame_parse_signals(text, &t->signals);
                t->inner_tid = blame_parse_inner(text);
        }
}

static size_t threads_max(const Walk *w)
{
        bool own = w->node == (int)w->why->target;

        if (w->why->brief)
                return own ? WHY_BRIEF_OWN : WHY_BRIEF_OTHER;
        return own ? WHY_OWN_MAX : WHY_OTHER_MAX;
}

/* All four of a line of `status`. */
static bool are_all(const char *status, const char *key, unsigned id)
{
        const char *line = strstr(status, key);
        unsigned ids[4];

        return line && sscanf(line + strlen(key), "%u %u %u %u", &ids[0], &ids[1], &ids[2], &ids[3]) == 4 && ids[0] == id && ids[1] == id && ids[2] == id && ids[3] == id;
}

/*
 * As root we could read anybody. The owner of the dataflow is told no more than he could read himself: nothing of a program that gave itself other
 * rights (setuid), nor of whoever has got that number meanwhile. Without root the kernel looks after it.
 */
static bool has_other_rights(const Why *why, const WhyThread *t)
{
        char text[4096];

        if (why->uid == 0 || geteuid() != 0 || !why_slurp(t->task.pid, t->task.tid, "status", text, sizeof(text)))
                return false; /* or gone */
        return !are_all(text, "\nUid:", why->uid) || !are_all(text, "\nGid:", why->gid);
}

bool why_is_whom_we_saw(const Why *why, const WhyThread *t)
{
        int32_t parent, session;
        char text[4096];
        uint32_t flags;
        Task task;

        /* In this order: that number is its own for as long as it is there. */
        return !has_other_rights(why, t) && why_slurp(t->task.pid, t->task.tid, "stat", text, sizeof(text)) && task_parse_stat(&task, text, &flags, &parent, &session) &&
                task.start_time == t->task.start_time;
}

static void conceal(const Why *why, WhyThread *t)
{
        t->other_rights = has_other_rights(why, t);
        if (!t->other_rights)
                return;
        t->task.target[0] = '\0';
        t->task.fd = -1;
}

static int look_at_thread(Walk *w, pid_t pid, pid_t tid)
{
        Why *why = w->why;
        WhyThread *t = &why->threads[why->n_threads];
        char text[256];

        if (why->n_threads >= WHY_THREADS_MAX || w->n >= threads_max(w)) {
                why->n_uncounted += w->node == (int)why->target;
                return 0;
        }
        *t = (WhyThread){.node = w->node, .target_node = -1, .next = -1};
        if (task_read(&t->task, pid, tid))
                return 0; /* gone meanwhile */
        read_more(t);
        if (why_slurp(pid, tid, "schedstat", text, sizeof(text)))
                (void)blame_parse_sched(text, &t->sched);
        t->switches = t->task.switches;
        conceal(why, t);
        why->n_threads++;
        w->n++;
        return 0;
}

static int look_at_process(pid_t pid, void *userdata)
{
        Walk *w = userdata;
        Why *why = w->why;
        struct dirent *entry;
        char path[64];
        int r = 0;
        DIR *d;

        if (pid == why->nodes[w->node].reaper)
                return 0;
        for (size_t i = 0; i < why->n_processes; i++)
                if (why->processes[i].pid == pid)
                        return 0; /* told once per thread where cgroups are threaded */
        if (why->n_processes >= WHY_PROCESSES_MAX || clock_now() >= why->until ||
                (why->brief && why->n_threads && (w->n >= threads_max(w) || clock_now() >= nsec_add(why->first_at, WHY_BRIEF_SPAN))))
                return -ETIMEDOUT;
        why->processes[why->n_processes++] = (WhyProcess){pid, w->node};
        (void)snprintf(path, sizeof(path), "/proc/%d/task", pid);
        d = opendir(path);
        while (d && r == 0 && (entry = readdir(d)))
                if (entry->d_name[0] != '.')
                        r = look_at_thread(w, pid, (pid_t)atoi(entry->d_name));
        if (d)
                (void)closedir(d);
        return r;
}

static int look_at_cgroup(int dir_fd, void *userdata)
{
        return cgroup_each_process(dir_fd, look_at_process, userdata);
}

static void look_at_node(Why *why, size_t i)
{
        Walk w = {.why = why, .node = (int)i};

        why->nodes[i].best = -1;
        (void)cgroup_walk(why->nodes[i].dir_fd, look_at_cgroup, &w); /* what could be seen is told */
        if (i == why->target)
                why->n_own = why->n_threads;
}

int why_first(Why *why)
{
        why->processes = calloc(WHY_PROCESSES_MAX, sizeof(*why->processes));
        why->threads = calloc(WHY_THREADS_MAX, sizeof(*why->threads));
        if (!why->processes || !why->threads)
                return -ENOMEM;
        why->blamed = why->diag_fd = -1;
        why_read_group(why->nodes[why->target].dir_fd, true, &why->group_before);
        why_read_group(why->flow_fd, false, &why->flow_before); /* those of other nodes are theirs */
        why->first_at = clock_now();
        look_at_node(why, why->target);
        for (size_t i = 0; i < why->n_nodes; i++)
                if (i != why->target)
                        look_at_node(why, i);
        return why->n_own ? 0 : -ESRCH;
}

void why_done(Why *why)
{
        free(why->processes);
        free(why->threads);
        why->processes = NULL;
        why->threads = NULL;
}

/* ---- the second */

static void sample(WhyThread *t)
{
        BlameSignals signals;
        char text[4096];

        if (!why_slurp(t->task.pid, t->task.tid, "status", text, sizeof(text)) || !blame_parse_signals(text, &signals))
                return;
        t->storm |= signals.pending & signals.caught;
        t->n_pending += (signals.pending & signals.caught) != 0; /* also one that is blocked: it is while it is handled */
}

static void look_again(Why *why, WhyThread *t)
{
        nsec_t still = t->task.still_ns, rest;
        BlameSched sched;
        Task task;
        char text[256];

        if (task_read(&task, t->task.pid, t->task.tid) || task.start_time != t->task.start_time || (strchr("ZX", task.state) && !strchr("ZX", t->task.state)))
                return; /* it has ended meanwhile: what it was doing before says more */
        if (why_slurp(t->task.pid, t->task.tid, "schedstat", text, sizeof(text)) && blame_parse_sched(text, &sched))
                t->sched = (BlameSched){sched.run - MIN(sched.run, t->sched.run), sched.wait - MIN(sched.wait, t->sched.wait)};
        else
                t->sched = (BlameSched){};
        t->switches = task.switches - MIN(task.switches, t->switches);
        /* A wait for a processor is counted when it ends: it may have begun before the first look, or go on. */
        rest = why->window - MIN(why->window, t->sched.run);
        if (t->sched.wait > rest || (t->task.state == 'R' && task.state == 'R' && t->switches == 0))
                t->sched.wait = rest;
        task.still_ns = t->switches == 0 && task.state == t->task.state ? still + why->window : 0;
        t->task = task;
        t->seen_twice = true;
        read_more(t);
        conceal(why, t);
}

void why_second(Why *why)
{
        for (unsigned i = 1; i <= SAMPLES; i++) {
                nsec_t now = clock_now(), at = nsec_add(why->first_at, WHY_WINDOW_SPAN * i / SAMPLES);

                if (at > now)
                        (void)poll(NULL, 0, nsec_poll_ms(at, now));
                for (size_t k = 0; k < MIN(why->n_own, (size_t)SAMPLED_MAX); k++)
                        if (why->threads[k].signals.caught)
                                sample(&why->threads[k]);
        }
        why->window = clock_now() - why->first_at;
        for (size_t i = 0; i < why->n_threads; i++)
                look_again(why, &why->threads[i]);
        why_read_group(why->nodes[why->target].dir_fd, true, &why->group);
        why_read_group(why->flow_fd, false, &why->flow);
}
