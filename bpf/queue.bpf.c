// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * How deep queues are, and how long messages wait in them: what nodes say at the sites of shm/probe.h, counted for the links of those
 * dataflows that are watched. A dataflow is a cgroup right below the watched one, and its links are numbered from 1.
 *
 * The numbers are a node's word, as all that it says of itself: a node that lies spoils the figures of its own dataflow, and of no other.
 */
#include "kernel.h"

#include <bpf/bpf_helpers.h>

#include "queue.h"
#include "log2.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define LEVELS_MAX 32 /* deepest watched cgroup */

const volatile __u64 watched_cgroup_id;
const volatile __u32 measured_link;

int watched_level = -1; /* where the watched cgroup lies; -1: nobody was seen below it yet */

struct {
        __uint(type, BPF_MAP_TYPE_ARRAY);
        __uint(map_flags, BPF_F_MMAPABLE);
        __uint(max_entries, 1);
        __type(key, __u32);
        __type(value, struct queue_watched);
} watched SEC(".maps");

struct {
        __uint(type, BPF_MAP_TYPE_ARRAY);
        __uint(map_flags, BPF_F_MMAPABLE);
        __uint(max_entries, 1); /* the loader knows how many */
        __type(key, __u32);
        __type(value, struct queue_link);
} links SEC(".maps");

/* The registers in which the sites have their arguments. This is an interface of the kernel and not one of its insides. */
#if defined(__TARGET_ARCH_x86)
struct pt_regs {
        __u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
#define ARG_0(regs) ((regs)->di)
#define ARG_2(regs) ((regs)->dx)
#define ARG_3(regs) ((regs)->cx)
#elif defined(__TARGET_ARCH_arm64)
struct pt_regs {
        __u64 regs[31], sp, pc, pstate;
};
#define ARG_0(at) ((at)->regs[0])
#define ARG_2(at) ((at)->regs[2])
#define ARG_3(at) ((at)->regs[3])
#else /* no sites, and queue.c loads nothing */
#define ARG_0(regs) 0
#define ARG_2(regs) 0
#define ARG_3(regs) 0
#endif

static __noinline int find_level(void)
{
        for (int level = 0; level < LEVELS_MAX; level++) {
                __u64 id = bpf_get_current_ancestor_cgroup_id(level);

                if (id == watched_cgroup_id)
                        return level;
                if (!id)
                        break;
        }
        return -1;
}

/* The id of the group that the current task is in, or 0. Inside a cgroup namespace a path says nothing about how deep it lies: looked for once. */
static __always_inline __u64 current_group(void)
{
        int level = watched_level;

        if (level < 0) {
                level = find_level();
                if (level < 0)
                        return 0;
                watched_level = level;
        }
        return bpf_get_current_ancestor_cgroup_id(level + 1);
}

/* Where a link's figures are; ids are never given twice, so that whoever has one that is in the table is below the watched cgroup. */
static __always_inline struct queue_link *find_link(__u64 group, __u64 number)
{
        __u32 zero = 0, at = queue_group_hash(group), index;
        volatile struct queue_watched *table = bpf_map_lookup_elem(&watched, &zero);

        if (!table || !group)
                return 0;
        for (int i = 0; i < QUEUE_GROUP_TRIES; i++) {
                volatile struct queue_group *found = &table->groups[(at + i) & (QUEUE_GROUPS - 1)];
                __u64 id = found->cgroup_id;

                if (id == group) {
                        if (number - 1 >= found->n_links)
                                return 0;
                        index = found->first + number - 1;
                        if (index >= measured_link || found->cgroup_id != group) /* given to another meanwhile */
                                return 0;
                        __sync_fetch_and_add((__u64 *)&found->told, 1);
                        return bpf_map_lookup_elem(&links, &index);
                }
                if (!id)
                        break;
        }
        return 0;
}

/* Adds of their own, for a link may have two producers while one follows the other. */
static __always_inline void count_depth(struct queue_link *link, __u64 depth)
{
        __u32 bucket = log2_of(depth);

        __sync_fetch_and_add(&link->depth_log2[bucket < QUEUE_DEPTH_BUCKETS ? bucket : QUEUE_DEPTH_BUCKETS - 1], 1);
}

static __always_inline void count_age(struct queue_link *link, __u64 age_ns)
{
        __u32 bucket = log2_of(age_ns);

        __sync_fetch_and_add(&link->age_log2_ns[bucket < QUEUE_AGE_BUCKETS ? bucket : QUEUE_AGE_BUCKETS - 1], 1);
}

SEC("uprobe")
int on_enqueue(struct pt_regs *regs)
{
        struct queue_link *link = find_link(current_group(), ARG_0(regs));

        if (link)
                count_depth(link, ARG_2(regs));
        return 0;
}

SEC("uprobe")
int on_dequeue(struct pt_regs *regs)
{
        struct queue_link *link = find_link(current_group(), ARG_0(regs));

        if (link)
                count_age(link, ARG_3(regs));
        return 0;
}

/* What the loader does to itself, to know what it costs: all of the above, but that the loader is in no group. */
SEC("uprobe")
int on_measure(struct pt_regs *regs)
{
        struct queue_link *link = find_link(current_group(), ARG_0(regs));
        __u32 index = measured_link;

        if (!link)
                link = bpf_map_lookup_elem(&links, &index);
        if (link)
                count_depth(link, ARG_2(regs));
        return 0;
}
