// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * One record for each process that ends in one cgroup or below it: when, which cgroup, with which status. Says nothing
 * about threads: the record is written when the last one leaves, with the status the parent's wait would report.
 */
#include "kernel.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "exit.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define SIGNAL_GROUP_EXIT 0x00000004 /* kernel: linux/sched/signal.h, unchanged since 2.6 */

const volatile __u64 watched_cgroup_id;

__u64 dropped; /* records lost because the ring was full; read by exit.c through the mapped .bss */

struct {
        __uint(type, BPF_MAP_TYPE_RINGBUF);
        __uint(max_entries, 1 << 16); /* bytes; exit.c may change it before the load */
} events SEC(".maps");

struct life {
        __u64 start_time;
        __u32 tgid;
        __u32 zero;
};

struct {
        __uint(type, BPF_MAP_TYPE_LRU_HASH);
        __uint(max_entries, 1024);
        __type(key, struct life);
        __type(value, __u8);
} ended SEC(".maps");

/*
 * Compares ids at every level instead of taking one level from user space: inside a cgroup namespace a path says
 * nothing about how deep its cgroup really lies.
 */
static __always_inline bool is_watched(void)
{
        for (int level = 0; level < EXIT_MAX_LEVEL; level++) {
                __u64 id = bpf_get_current_ancestor_cgroup_id(level);

                if (id == watched_cgroup_id)
                        return 1;
                if (id == 0)
                        return 0;
        }
        return 0;
}

/*
 * Threads leaving together all find no live thread left (each has counted itself out before the tracepoint). The first
 * one to claim the life reports it. The map forgets the oldest lives; what it has to remember lasts microseconds.
 */
static __always_inline bool claim(struct task_struct *leader)
{
        struct life life = {};
        __u8 one = 1;

        life.start_time = leader->start_time;
        life.tgid = leader->tgid;
        return bpf_map_update_elem(&ended, &life, &one, BPF_NOEXIST) == 0;
}

/* What wait(2) will say: the group's code if the group was told to end, else the leader's own. */
static __always_inline int wait_status(struct task_struct *leader, struct signal_struct *signal)
{
        return signal->flags & SIGNAL_GROUP_EXIT ? signal->group_exit_code : leader->exit_code;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *task)
{
        struct task_struct *leader = task->group_leader;
        struct signal_struct *signal = task->signal;
        struct exit_event *event;

        if (signal->live.counter > 0 || !is_watched() || !claim(leader))
                return 0;

        event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
        if (!event) {
                __sync_fetch_and_add(&dropped, 1);
                return 0;
        }
        event->ts_ns = bpf_ktime_get_ns();
        event->cgroup_id = bpf_get_current_cgroup_id();
        event->tgid = task->tgid;
        event->status = wait_status(leader, signal);
        bpf_ringbuf_submit(event, 0);
        return 0;
}
