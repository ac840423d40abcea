/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Shared by leave.bpf.c and leave.c: fixed widths, no implicit padding. */
#ifndef TG_BPF_LEAVE_H
#define TG_BPF_LEAVE_H

#ifndef __bpf__
#include <linux/types.h>
#endif

#define LEAVE_COMM_SIZE 16
#define LEAVE_NAME_SIZE 160 /* of a cgroup's directory, with its NUL: an id of 128 bytes, a dot and any generation */
#define LEAVE_PATH_SIZE 256

enum leave_kind {
        LEAVE_MOVED = 1, /* by a write to some cgroup.procs */
        LEAVE_BORN = 2,  /* cloned into another cgroup (CLONE_INTO_CGROUP) */
        LEAVE_FOUND = 3, /* it is elsewhere, as leave_probe_look() was told */
};

/* Texts end in NUL. Those that do not fit are cut, and then match nothing. */
struct leave_event {
        __u64 ts_ns;    /* CLOCK_MONOTONIC */
        __u64 start_ns; /* CLOCK_BOOTTIME: when the process began */
        __u32 kind;
        __u32 pid;   /* process, as the loader's PID namespace counts; 0: it is not seen there */
        __u32 mover; /* likewise: who moved it; of BORN its parent; of FOUND 0 */
        __u32 self;  /* 1: it moved itself, or one did that it descends from */
        char comm[LEAVE_COMM_SIZE];
        char mover_comm[LEAVE_COMM_SIZE];
        char group[LEAVE_NAME_SIZE]; /* directory below the watched cgroup that it was born in ... */
        char name[LEAVE_NAME_SIZE];  /* ... and the one below that */
        char to[LEAVE_PATH_SIZE];    /* of MOVED: where it is now, from the hierarchy's root; else "" */
};
_Static_assert(sizeof(struct leave_event) == 640, "shared with the BPF side");

#endif
