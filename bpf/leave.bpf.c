// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Who leaves. Below the watched cgroup lie groups (dataflows), below each group homes (incarnations of nodes). Whoever is born in a
 * home, or moved there, carries a mark that names it; so do all whom it forks, wherever they are. A process with a mark that comes to
 * be outside of its group is a record; so is one that moves itself or its like into another home of its group.
 *
 * The tracepoint of the move fires when the move is over, and tells the destination alone: hence the marks. They live in the tasks'
 * own storage and end with them. What costs something on paths that others use is the look at each fork.
 */
#include "kernel.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "leave.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define SIGNAL_GROUP_EXIT 0x00000004 /* kernel: linux/sched/signal.h, unchanged since 2.6 */
#define LEVELS_MAX        32         /* deepest watched cgroup */
#define PID_LEVELS_MAX    32         /* kernel: MAX_PID_NS_LEVEL */

const volatile __u64 watched_cgroup_id;

__u64 dropped;           /* records lost because the ring was full, marks for which there was no memory */
int watched_level = -1;  /* where the watched cgroup lies; -1: nobody was seen below it yet */
__u32 pid_level;         /* of the loader's PID namespace; set by the first look */

struct {
        __uint(type, BPF_MAP_TYPE_RINGBUF);
        __uint(max_entries, 1 << 16);
} events SEC(".maps");

struct mark {
        __u64 group, home; /* ids of the cgroups */
        __u32 self;        /* it moved itself out, or one that it descends from did */
        __u32 zero;
};

struct {
        __uint(type, BPF_MAP_TYPE_TASK_STORAGE);
        __uint(map_flags, BPF_F_NO_PREALLOC);
        __type(key, int);
        __type(value, struct mark);
} marks SEC(".maps");

struct names {
        char group[LEAVE_NAME_SIZE], name[LEAVE_NAME_SIZE];
};

/* By the home's id, for its cgroup may be gone when they are wanted. */
struct {
        __uint(type, BPF_MAP_TYPE_LRU_HASH);
        __uint(max_entries, 4096);
        __type(key, __u64);
        __type(value, struct names);
} homes SEC(".maps");

static const struct names no_names; /* too large for the stack beside the rest */

/* ---- where a cgroup lies */

/* Read, and not followed: the verifier allows no arithmetic on a pointer that it knows. */
static __always_inline struct cgroup *cgroup_of(struct task_struct *task)
{
        return BPF_CORE_READ(task, cgroups, dfl_cgrp);
}

static __always_inline struct cgroup *ancestor(struct cgroup *cgroup, int level)
{
        struct cgroup *ret = NULL;

        (void)bpf_probe_read_kernel(&ret, sizeof(ret), (void *)((__u64)cgroup + bpf_core_field_offset(struct cgroup, ancestors) + (__u64)level * sizeof(ret)));
        return ret;
}

static __always_inline __u64 id_of(struct cgroup *cgroup)
{
        return BPF_CORE_READ(cgroup, kn, id);
}

/* Inside a cgroup namespace a path says nothing about how deep its cgroup really lies: looked for once, by the id. */
static __noinline int find_watched(struct cgroup *cgroup)
{
        int top = BPF_CORE_READ(cgroup, level);

        for (int level = 0; level < LEVELS_MAX && level <= top; level++) {
                struct cgroup *at = NULL;

                (void)bpf_probe_read_kernel(&at, sizeof(at), (void *)((__u64)cgroup + bpf_core_field_offset(struct cgroup, ancestors) + (__u64)level * sizeof(at)));
                if (at && BPF_CORE_READ(at, kn, id) == watched_cgroup_id)
                        return level;
        }
        return -1;
}

/* The home in which @cgroup lies, at or below it. False: in none. */
static __always_inline bool home_of(struct cgroup *cgroup, struct mark *ret)
{
        int level = watched_level, at = BPF_CORE_READ(cgroup, level);

        if (level < 0) {
                level = find_watched(cgroup);
                if (level < 0)
                        return 0;
                watched_level = level;
        }
        if (at < level + 2 || id_of(ancestor(cgroup, level)) != watched_cgroup_id)
                return 0;
        ret->group = id_of(ancestor(cgroup, level + 1));
        ret->home = id_of(ancestor(cgroup, level + 2));
        return 1;
}

/* Is it in that group, wherever? */
static __always_inline bool is_in_group(struct cgroup *cgroup, __u64 group)
{
        int level = watched_level;

        return level >= 0 && BPF_CORE_READ(cgroup, level) > level && id_of(ancestor(cgroup, level + 1)) == group;
}

static __always_inline void learn_names(struct cgroup *cgroup, __u64 home)
{
        struct names *names = bpf_map_lookup_elem(&homes, &home);
        const char *text;

        if (names)
                return;
        (void)bpf_map_update_elem(&homes, &home, &no_names, BPF_NOEXIST);
        names = bpf_map_lookup_elem(&homes, &home);
        if (!names)
                return;
        text = BPF_CORE_READ(ancestor(cgroup, watched_level + 1), kn, name);
        (void)bpf_probe_read_kernel_str(names->group, sizeof(names->group), text);
        text = BPF_CORE_READ(ancestor(cgroup, watched_level + 2), kn, name);
        (void)bpf_probe_read_kernel_str(names->name, sizeof(names->name), text);
}

/* ---- records */

static __always_inline __u32 pid_of(struct task_struct *task)
{
        struct pid *pid = BPF_CORE_READ(task, group_leader, thread_pid);
        __u32 level = pid_level;
        int nr = 0;

        if (level >= PID_LEVELS_MAX || BPF_CORE_READ(pid, level) < level)
                return 0;
        (void)bpf_probe_read_kernel(&nr, sizeof(nr),
                (void *)((__u64)pid + bpf_core_field_offset(struct pid, numbers) + (__u64)level * bpf_core_type_size(struct upid)));
        return nr > 0 ? nr : 0;
}

static __always_inline void record(__u32 kind, struct task_struct *task, const struct mark *mark, struct task_struct *mover, const char *path)
{
        struct leave_event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
        struct task_struct *leader = BPF_CORE_READ(task, group_leader);
        struct names *names;
        __u64 home = mark->home;

        if (!event) {
                __sync_fetch_and_add(&dropped, 1);
                return;
        }
        __builtin_memset(event, 0, sizeof(*event));
        event->ts_ns = bpf_ktime_get_ns();
        event->start_ns = BPF_CORE_READ(leader, start_boottime);
        event->kind = kind;
        event->pid = pid_of(task);
        event->self = mark->self;
        if (mover) {
                event->mover = pid_of(mover);
                (void)bpf_probe_read_kernel_str(event->mover_comm, sizeof(event->mover_comm), (void *)((__u64)mover + bpf_core_field_offset(struct task_struct, comm)));
        }
        (void)bpf_probe_read_kernel_str(event->comm, sizeof(event->comm), (void *)((__u64)leader + bpf_core_field_offset(struct task_struct, comm)));
        names = bpf_map_lookup_elem(&homes, &home);
        if (names) {
                __builtin_memcpy(event->group, names->group, sizeof(event->group));
                __builtin_memcpy(event->name, names->name, sizeof(event->name));
        }
        if (path)
                (void)bpf_probe_read_kernel_str(event->to, sizeof(event->to), path);
        bpf_ringbuf_submit(event, 0);
}

static __always_inline void set_mark(struct task_struct *task, const struct mark *mark)
{
        struct mark *at = bpf_task_storage_get(&marks, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

        if (at)
                *at = *mark;
        else
                __sync_fetch_and_add(&dropped, 1);
}

/* ---- what happens */

/*
 * Threads too: whichever of them executes a program becomes the process. The child has not run yet. Whoever is born where its parent is, is
 * what its parent is: everybody on the host comes by here, and all but those whom a keeper starts are done at once.
 */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
        struct mark *from = bpf_task_storage_get(&marks, parent, 0, 0);
        struct mark mark = {};
        struct cgroup *at;

        if (parent->cgroups == child->cgroups) {
                if (from) {
                        mark = *from;
                        set_mark(child, &mark);
                }
                return 0;
        }
        at = cgroup_of(child);
        if (home_of(at, &mark)) {
                if (!from || from->home != mark.home)
                        learn_names(at, mark.home);
                set_mark(child, &mark);
                return 0;
        }
        if (!from)
                return 0;
        mark = *from;
        set_mark(child, &mark);
        if (!is_in_group(at, mark.group) && is_in_group(cgroup_of(parent), mark.group))
                record(LEAVE_BORN, child, &mark, parent, NULL);
        return 0;
}

SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(on_move, struct cgroup *to, const char *path, struct task_struct *task)
{
        struct cgroup *at = cgroup_of(task);
        struct task_struct *mover = bpf_get_current_task_btf();
        struct mark *mark, here = {};
        bool inside;

        if (BPF_CORE_READ(to, root, hierarchy_id) != 0) /* one of cgroup v1, which holds nobody */
                return 0;
        mark = bpf_task_storage_get(&marks, task, 0, 0);
        inside = home_of(at, &here);
        if (!mark) {
                if (inside) {
                        learn_names(at, here.home);
                        set_mark(task, &here);
                }
                return 0;
        }
        if (inside && here.home == mark->home)
                return 0;
        /* Within the group it is the business of whoever made the group, unless it is a node that does it. */
        if (is_in_group(at, mark->group) && !bpf_task_storage_get(&marks, mover, 0, 0))
                return 0;
        mark->self |= BPF_CORE_READ(mover, tgid) == BPF_CORE_READ(task, tgid);
        here = *mark;
        record(LEAVE_MOVED, task, &here, mover, path);
        return 0;
}

/* Marks those who were there before us; tells of those who are elsewhere and not about to end. */
SEC("iter/task")
int on_look(struct bpf_iter__task *ctx)
{
        struct task_struct *task = ctx->task;
        struct mark *mark, here = {};
        struct cgroup *at;

        if (!task)
                return 0;
        if (ctx->meta->seq_num == 0)
                pid_level = BPF_CORE_READ(bpf_get_current_task_btf(), thread_pid, level);
        at = cgroup_of(task);
        mark = bpf_task_storage_get(&marks, task, 0, 0);
        if (home_of(at, &here)) {
                if (!mark) {
                        learn_names(at, here.home);
                        set_mark(task, &here);
                }
                return 0;
        }
        if (!mark || task->pid != task->tgid || is_in_group(at, mark->group) || task->signal->flags & SIGNAL_GROUP_EXIT ||
                task->signal->live.counter <= 0)
                return 0;
        here = *mark;
        record(LEAVE_FOUND, task, &here, NULL, NULL);
        return 0;
}
