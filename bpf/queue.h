/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Shared by queue.bpf.c, its loader queue.c and who reads its maps, queue-view.c: fixed widths, no implicit padding. The maps are mapped
 * memory, not copies.
 */
#ifndef TG_BPF_QUEUE_H
#define TG_BPF_QUEUE_H

#ifndef __bpf__
#include <linux/types.h>
#endif

#define QUEUE_DEPTH_BUCKETS 17    /* depth: bucket i counts 2^i up to 2^(i+1), and 0 is in the first; no ring holds more than 2^16 */
#define QUEUE_AGE_BUCKETS   44    /* nanoseconds, likewise; the last one, from 2.4 hours on, has all that are longer */
#define QUEUE_GROUPS        256   /* size of the table of who is watched: a power of two */
#define QUEUE_GROUP_TRIES   8     /* places that one group may be at, from its hash on */
#define QUEUE_LINKS_MAX     65536
#define QUEUE_LINKS_DEFAULT 1024

/* One link, since it is watched: what was told at the two sites of shm/probe.h. Each sum of buckets is the number of messages told of. */
struct queue_link {
        __u64 depth_log2[QUEUE_DEPTH_BUCKETS]; /* of enqueue */
        __u64 age_log2_ns[QUEUE_AGE_BUCKETS];  /* of dequeue */
        __u64 reserved[3];
};
_Static_assert(sizeof(struct queue_link) == 512, "shared with the BPF side");

/* The links 1 to n_links of a dataflow stand from `first` on. */
struct queue_group {
        __u64 cgroup_id; /* bpf/table.h. Written last by who watches, who is one */
        __u32 first, n_links;
        __u64 told; /* messages that were counted, at both ends of all its links */
        __u64 reserved;
};

#define QUEUE_MAGIC 0x54475102u

struct queue_watched {
        __u32 magic, link_size;
        __u32 n_links; /* in the map of links; one more is the loader's */
        __u32 zero;
        struct queue_group groups[QUEUE_GROUPS];
};
_Static_assert(sizeof(struct queue_watched) == 16 + QUEUE_GROUPS * 32, "shared with the BPF side");

static inline __u32 queue_group_hash(__u64 cgroup_id)
{
        return (__u32)(cgroup_id * 0x9e3779b97f4a7c15ull >> 56) & (QUEUE_GROUPS - 1);
}

#endif
