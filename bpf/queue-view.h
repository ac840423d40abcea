/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What bpf/queue.bpf.c counts, for whoever was handed its maps: mapped memory, no system call after the open, no libbpf and no privilege.
 * One process at a time says who is watched.
 *
 * Does not: load or attach anything (bpf/probe.h), know names of links or dataflows, choose which messages are told of (shm/probe.h).
 */
#ifndef TG_BPF_QUEUE_VIEW_H
#define TG_BPF_QUEUE_VIEW_H

#include <stddef.h>
#include <stdint.h>

#include "bpf/queue.h"

typedef struct QueueView {
        struct queue_watched *watched; /* mapped; NULL: not open */
        struct queue_link *links;      /* mapped */
        uint32_t n_links;
} QueueView;

#define QUEUE_VIEW_INIT ((QueueView){0})

/* What one link was, since it is watched. */
struct queue_count {
        uint64_t enqueued, dequeued; /* messages told of */
        uint64_t depth_log2[QUEUE_DEPTH_BUCKETS];
        uint64_t age_log2_ns[QUEUE_AGE_BUCKETS];
};

/**
 * queue_view_open() - map what the two descriptors of maps stand for (queue_probe_fd())
 * @view: set on success; queue_view_close() is due. The descriptors are not kept, and not consumed
 *
 * Who is watched stays so: also whoever was by an earlier view of the same maps. Return: 0, -EPROTO (these are no such maps), or a negative
 * errno. Does not block.
 */
int queue_view_open(QueueView *view, int watched_fd, int links_fd);

/* queue_view_close() - unmap; also what was never opened. Nobody is watched the less for it. */
void queue_view_close(QueueView *view);

/**
 * queue_view_watch() - from now on the messages of all in that cgroup, and below it, are counted, from 0 on
 * @cgroup_id: inode number of a directory right below the watched one
 * @n_links:   its links have the numbers 1 to this; from 1
 *
 * Clears half a kilobyte for each link; no system call. Return: 0, -EINVAL, -EEXIST, -ENOSPC (so many links are not free in a row, or the table
 * has no place for that very cgroup).
 */
int queue_view_watch(QueueView *view, uint64_t cgroup_id, uint32_t n_links);

/* queue_view_unwatch() - nothing more is counted of it, and what was counted is gone. Nothing happens to one that is not watched. */
void queue_view_unwatch(QueueView *view, uint64_t cgroup_id);

/**
 * queue_view_read() - one link of a dataflow
 * @link: its number, from 1
 *
 * Taken while it is being written. Return: 0 or -ENOENT (not watched, or no such link).
 */
int queue_view_read(const QueueView *view, uint64_t cgroup_id, uint32_t link, struct queue_count *ret);

/* queue_view_told() - messages counted of all its links, when they were sent and when they were taken; 0: not watched. */
uint64_t queue_view_told(const QueueView *view, uint64_t cgroup_id);

#endif
