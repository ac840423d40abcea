// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * What system calls cost those who are watched: entry and return of each call, by the two tracepoints that all calls of the host come by
 * while this is loaded. So whoever is not watched is sent away at once: one helper that names the cgroup two levels below the watched
 * one, and one look at a table. Whoever is watched carries in its task's storage when it has entered what; a call that was entered before
 * all this was loaded has no entry, and its return counts nothing.
 */
#include "kernel.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "call.h"
#include "log2.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define LEVELS_MAX     32     /* deepest watched cgroup */
#define STEPS_MAX      4      /* cgroups within a home that are gone up one by one */
#define PID_LEVELS_MAX 32     /* kernel: MAX_PID_NS_LEVEL */
#define TS_COMPAT      0x0002 /* kernel: x86 asm/thread_info.h: the call is one of 32-bit programs */
#define ERRNO_MAX      4095

const volatile __u64 watched_cgroup_id;
const volatile __s32 sigreturn = -1;      /* number of rt_sigreturn(2): it returns what some other call had returned, which is no error of its own */
const volatile __u64 pidns_dev, pidns_ino; /* the loader's PID namespace */
const volatile __u32 measured_slot; /* of life 1 */

int watched_level = -1; /* where the watched cgroup lies; -1: nobody was seen below it yet */
bool measuring;         /* the loader, itself */
__u32 loader;           /* its process, as its PID namespace counts */
__u64 loader_task;      /* when it has been seen */
__u32 pid_level;        /* of that PID namespace; set when the loader is seen */

struct {
        __uint(type, BPF_MAP_TYPE_ARRAY);
        __uint(map_flags, BPF_F_MMAPABLE);
        __uint(max_entries, 1);
        __type(key, __u32);
        __type(value, struct call_watched);
} watched SEC(".maps");

struct {
        __uint(type, BPF_MAP_TYPE_ARRAY);
        __uint(map_flags, BPF_F_MMAPABLE);
        __uint(max_entries, 1); /* the loader knows how many */
        __type(key, __u32);
        __type(value, struct call_slot);
} slots SEC(".maps");

/* What a thread is in. */
struct within {
        __u64 begin_ns; /* 0: in no call that is counted */
        __u32 slot, life;
        __u32 number;
        __u32 place; /* in the slot's threads; CALL_THREADS: none */
};

struct {
        __uint(type, BPF_MAP_TYPE_TASK_STORAGE);
        __uint(map_flags, BPF_F_NO_PREALLOC);
        __type(key, int);
        __type(value, struct within);
} tasks SEC(".maps");

/*
 * ---- who is watched
 *
 * Everybody's calls come by here. What counts is how many functions of the kernel's are called: each is some 20 ns, where plain reads are one.
 * So there is one for those who are not watched, the task itself; the verifier lets the rest be read where it lies.
 */

/* Not before somebody is watched; and then only until one of them has made a call. */
static __always_inline int find_level(struct cgroup *cgroup)
{
        __u32 zero = 0;
        struct call_watched *table = bpf_map_lookup_elem(&watched, &zero);

        if (!table || !table->n_watched)
                return -1;
        for (int i = 0; i < LEVELS_MAX; i++) {
                struct cgroup_subsys_state *above = cgroup->self.parent;

                if (cgroup->kn->id == watched_cgroup_id)
                        return cgroup->level;
                if (!above)
                        break;
                cgroup = above->cgroup;
        }
        return -1;
}

/* The id of the home that the current task is in, two levels below the watched cgroup or below that; 0: in none. */
static __always_inline __u64 home_of(struct task_struct *task)
{
        struct cgroup *cgroup = task->cgroups->dfl_cgrp;
        int level = watched_level, below;

        if (level < 0) {
                level = find_level(cgroup);
                if (level < 0)
                        return 0;
                watched_level = level;
        }
        below = cgroup->level - (level + 2);
        if (below < 0)
                return 0;
        if (below > STEPS_MAX)
                return bpf_get_current_ancestor_cgroup_id(level + 2);
        for (int i = 0; i < STEPS_MAX && i < below; i++)
                cgroup = cgroup->self.parent->cgroup;
        return cgroup->kn->id;
}

/* Ids are never given twice, so that whoever has one that is in the table is below the watched cgroup. */
static __always_inline bool find_watch(__u64 home, __u32 *ret_slot, __u32 *ret_life)
{
        __u32 zero = 0, at = call_watch_hash(home);
        volatile struct call_watched *table = bpf_map_lookup_elem(&watched, &zero);

        if (!table)
                return 0;
        for (int i = 0; i < CALL_WATCH_TRIES; i++) {
                volatile struct call_watch *watch = &table->watches[(at + i) & (CALL_WATCHES - 1)];
                __u64 id = watch->cgroup_id;

                if (id == home) {
                        *ret_slot = watch->slot;
                        *ret_life = watch->life;
                        return watch->cgroup_id == home; /* not given to another meanwhile */
                }
                if (!id)
                        break;
        }
        return 0;
}

/* For a few milliseconds the loader is watched, too, which is in no home. */
static __noinline int is_loader(void)
{
        struct bpf_pidns_info info = {};

        if (bpf_get_ns_current_pid_tgid(pidns_dev, pidns_ino, &info, sizeof(info)) || info.tgid != loader)
                return 0;
        pid_level = BPF_CORE_READ(bpf_get_current_task_btf(), thread_pid, level);
        return 1;
}

static __always_inline bool is_measured(struct task_struct *task)
{
        if (!loader_task && is_loader())
                loader_task = (__u64)task;
        return loader_task == (__u64)task;
}

/* ---- the place of a thread */

static __always_inline __u32 tid_of(struct task_struct *task)
{
        struct pid *pid = BPF_CORE_READ(task, thread_pid);
        __u32 level = pid_level;
        int nr = 0;

        if (level >= PID_LEVELS_MAX || BPF_CORE_READ(pid, level) < level)
                return 0;
        (void)bpf_probe_read_kernel(&nr, sizeof(nr),
                (void *)((__u64)pid + bpf_core_field_offset(struct pid, numbers) + (__u64)level * bpf_core_type_size(struct upid)));
        return nr > 0 ? nr : 0;
}

static __noinline void give_up_place(struct within *within)
{
        __u32 index, place;
        struct call_slot *slot;

        if (!within)
                return;
        index = within->slot;
        place = within->place;
        slot = bpf_map_lookup_elem(&slots, &index);
        if (!slot || slot->life != within->life || place >= CALL_THREADS)
                return;
        slot->threads[place].begin_ns = 0;
        slot->threads[place].tid = 0;
}

/* This thread's first call in that slot. */
static __noinline int join(struct within *within, __u32 index, __u32 life)
{
        struct call_slot *slot = bpf_map_lookup_elem(&slots, &index);
        struct task_struct *task = bpf_get_current_task_btf();
        __u32 tid;

        if (!within || !slot)
                return 0;
        if (within->life)
                give_up_place(within);
        within->slot = index;
        within->life = life;
        within->place = CALL_THREADS;
        tid = tid_of(task);
        if (!tid)
                tid = ~0u; /* it is not seen from there */
        for (__u32 i = 0; i < CALL_THREADS; i++) {
                __u32 place = (tid * 37 + i) & (CALL_THREADS - 1); /* not side by side: each thread writes its own cache line while there are few */

                if (slot->threads[place].tid == 0 && __sync_val_compare_and_swap(&slot->threads[place].tid, 0, tid) == 0) {
                        within->place = place;
                        return 0;
                }
        }
        __sync_fetch_and_add(&slot->unplaced, 1);
        return 0;
}

/* ---- the entry of a call */

/* Made when it is first wanted; two threads that want it at the same time get the same one. */
static __always_inline struct call_entry *entry_of(struct call_slot *slot, __u32 number)
{
        __u32 key = number + 1, at = number * 5;

        if (number < CALL_NUMBERS) {
                for (__u32 i = 0; i < CALL_ENTRIES; i++) {
                        struct call_entry *entry = &slot->entries[(at + i) & (CALL_ENTRIES - 1)];
                        __u32 found = *(volatile __u32 *)&entry->key;

                        if (!found)
                                found = __sync_val_compare_and_swap(&entry->key, 0, key);
                        if (found == key || !found)
                                return entry;
                }
        }
        slot->entries[CALL_ENTRIES].key = CALL_OTHER + 1;
        return &slot->entries[CALL_ENTRIES];
}

/* ---- what happens */

static __always_inline bool is_compat(struct task_struct *task)
{
        return bpf_core_field_exists(task->thread_info.status) && task->thread_info.status & TS_COMPAT;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(on_enter, struct pt_regs *regs, long id)
{
        struct task_struct *task = bpf_get_current_task_btf();
        struct within *within;
        struct call_slot *slot;
        __u32 index, life, place;
        __u64 home = home_of(task);

        if (!home || !find_watch(home, &index, &life)) {
                if (!measuring || !is_measured(task))
                        return 0;
                index = measured_slot;
                life = 1;
        }
        slot = bpf_map_lookup_elem(&slots, &index);
        if (!slot)
                return 0;
        within = bpf_task_storage_get(&tasks, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
        if (!within) {
                __sync_fetch_and_add(&slot->lost, 1);
                return 0;
        }
        if (within->slot != index || within->life != life)
                (void)join(within, index, life);
        within->number = (unsigned long)id < CALL_NUMBERS && !is_compat(task) ? id : CALL_OTHER;
        within->begin_ns = bpf_ktime_get_ns();
        place = within->place;
        if (place < CALL_THREADS) {
                slot->threads[place].number = within->number;
                slot->threads[place].begin_ns = within->begin_ns;
        }
        return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(on_exit, struct pt_regs *regs, long value)
{
        struct task_struct *task = bpf_get_current_task_btf();
        struct within *within;
        struct call_slot *slot;
        struct call_entry *entry;
        __u64 begin, ns;
        __u32 index, place, bucket;

        if (bpf_core_field_exists(task->bpf_storage) && !task->bpf_storage) /* it has never been watched by anybody */
                return 0;
        within = bpf_task_storage_get(&tasks, task, 0, 0);
        if (!within || !within->begin_ns)
                return 0;
        begin = within->begin_ns;
        within->begin_ns = 0;
        index = within->slot;
        slot = bpf_map_lookup_elem(&slots, &index);
        if (!slot || slot->life != within->life)
                return 0;
        place = within->place;
        if (place < CALL_THREADS)
                slot->threads[place].begin_ns = 0;
        entry = entry_of(slot, within->number);
        ns = bpf_ktime_get_ns() - begin;
        bucket = log2_of(ns);
        if (bucket >= CALL_BUCKETS)
                bucket = CALL_BUCKETS - 1;
        if (value < 0 && value >= -ERRNO_MAX && within->number != (__u32)sigreturn)
                __sync_fetch_and_add(&entry->errors, 1);
        __sync_fetch_and_add(&entry->total_ns, ns);
        __sync_fetch_and_add(&entry->log2_ns[bucket], 1);
        return 0;
}

/* exit(2) does not return. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_end, struct task_struct *task)
{
        struct within *within = bpf_task_storage_get(&tasks, task, 0, 0);

        if (!within)
                return 0;
        within->begin_ns = 0;
        give_up_place(within);
        within->place = CALL_THREADS;
        return 0;
}
