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
        BPF_MAP_TYPE_LRU_HASH = 9,
        BPF_MAP_TYPE_RINGBUF = 27,
};

enum {
        BPF_NOEXIST = 1,
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

struct task_struct {
        pid_t tgid;
        int exit_code;
        struct task_struct *group_leader;
        struct signal_struct *signal;
        __u64 start_time;
};

#pragma clang attribute pop

#endif
