/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The part of the kernel's types that our BPF programs touch, written by hand. Every access to these structs is
 * relocated by field name when a program is loaded (CO-RE), so order and size mean nothing here, and the machine that
 * builds needs neither a kernel with BTF nor a generated vmlinux.h.
 */
#ifndef TG_BPF_KERNEL_H
#define TG_BPF_KERNEL_H

#define __VMLINUX_H__ 1 /* libbpf's headers: take the kernel's names from here */

typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef _Bool bool;
typedef int pid_t;

/* Numbers of the kernel's stable interface (linux/bpf.h). */
enum bpf_map_type {
        BPF_MAP_TYPE_ARRAY = 2,
        BPF_MAP_TYPE_LRU_HASH = 9,
        BPF_MAP_TYPE_RINGBUF = 27,
        BPF_MAP_TYPE_TASK_STORAGE = 29,
};

enum {
        BPF_NOEXIST = 1,
        BPF_F_NO_PREALLOC = 1,
        BPF_F_MMAPABLE = 1 << 10,
        BPF_LOCAL_STORAGE_GET_F_CREATE = 1,
};

struct bpf_pidns_info {
        __u32 pid, tgid;
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
        int counter;
} atomic_t;

struct signal_struct {
        atomic_t live;
        unsigned int flags;
        int group_exit_code;
};

struct kernfs_node {
        const char *name;
        __u64 id;
};

struct cgroup_root {
        int hierarchy_id; /* 0: cgroup v2, as in /proc/PID/cgroup */
};

struct cgroup;

struct cgroup_subsys_state {
        struct cgroup *cgroup;
        struct cgroup_subsys_state *parent;
};

struct cgroup {
        struct cgroup_subsys_state self;
        int level;
        struct cgroup_root *root;
        struct kernfs_node *kn;
        struct cgroup *ancestors[1]; /* level + 1 of them; Linux 6.1 */
};

struct css_set {
        struct cgroup *dfl_cgrp;
};

struct upid {
        int nr;
};

struct pid {
        unsigned int level;
        struct upid numbers[1]; /* level + 1 of them */
};

struct thread_info {
        __u32 status; /* x86 */
};

struct task_struct {
        struct thread_info thread_info;
        pid_t pid, tgid;
        int exit_code;
        char comm[16];
        struct task_struct *group_leader;
        struct signal_struct *signal;
        struct css_set *cgroups;
        struct pid *thread_pid;
        __u64 start_time, start_boottime;
        struct bpf_local_storage *bpf_storage;
};

struct bpf_iter_meta {
        __u64 seq_num;
};

struct bpf_iter__task {
        struct bpf_iter_meta *meta;
        struct task_struct *task; /* NULL: that was the last one */
};

#pragma clang attribute pop

#endif
