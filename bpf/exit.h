/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Shared by exit.bpf.c and exit.c: fixed widths, no implicit padding. */
#ifndef TG_BPF_EXIT_H
#define TG_BPF_EXIT_H

#ifndef __bpf__
#include <linux/types.h>
#endif

struct exit_event {
        __u64 ts_ns;     /* CLOCK_MONOTONIC */
        __u64 cgroup_id; /* of the process itself, at or below the watched cgroup */
        __u32 tgid;      /* as the initial PID namespace counts; a hint for people, never an identity */
        __s32 status;    /* wait(2) encoding */
};
_Static_assert(sizeof(struct exit_event) == 24, "shared with the BPF side");

/* Deepest cgroup nesting that is looked at; the kernel's own default limit lies far above what anybody uses. */
#define EXIT_MAX_LEVEL 32

#endif
