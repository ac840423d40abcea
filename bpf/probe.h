/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernel probes as seen from user space: load one, poll one descriptor, read its records. Probes are witnesses and
 * never the authority: where privilege, BTF or libbpf is missing the answer is PROBE_E_UNAVAILABLE, and supervision is
 * merely less informed.
 *
 * Loading takes tens of milliseconds, and the verifier may take longer: it belongs into a helper with a deadline.
 * libbpf's messages are process-wide: load from one thread at a time.
 *
 * Does not: know what an exit or a move means to anybody, restart or end anything.
 */
#ifndef TG_BPF_PROBE_H
#define TG_BPF_PROBE_H

#include <stddef.h>
#include <stdint.h>

#include "bpf/exit.h"
#include "bpf/leave.h"
#include "bpf/sites.h"

enum {
        _PROBE_E_SUCCESS,
        PROBE_E_UNAVAILABLE, /* this kernel, this privilege or this build has no such probe */
};

typedef struct ExitProbe ExitProbe;

typedef struct ExitProbeSpec {
        uint64_t cgroup_id;   /* inode number of the cgroup's directory: it and all below it are watched */
        uint32_t ring_bytes;  /* 0: the default; else a power of two and a multiple of the page size */
} ExitProbeSpec;

/* Why a probe is unavailable, for people. */
typedef struct ProbeReason {
        int err;        /* positive errno of the step that failed, 0 if there was none */
        char text[160]; /* the step, or the first complaint of libbpf or the verifier */
} ProbeReason;

/**
 * exit_probe_new() - load and attach: from here on every process that ends in the cgroup leaves a record
 * @ret:    set on success; free with exit_probe_free()
 * @spec:   what to watch
 * @reason: may be NULL; filled on PROBE_E_UNAVAILABLE
 *
 * Return: 0, PROBE_E_UNAVAILABLE, or a negative errno (memory or descriptors ran out, or a bad @spec).
 */
int exit_probe_new(ExitProbe **ret, const ExitProbeSpec *spec, ProbeReason *reason);

/* exit_probe_free() - detach, unload; NULL is fine. Returns NULL. */
ExitProbe *exit_probe_free(ExitProbe *probe);

/* exit_probe_fd() - borrowed; readable (POLLIN) while records wait. Close-on-exec. */
int exit_probe_fd(const ExitProbe *probe);

/**
 * exit_probe_read() - take waiting records, oldest first; never blocks
 * @events: room for @n_events records
 * @ret_n:  set to how many were taken, 0 if none waits. Fewer than @n_events means the ring is empty now.
 *
 * One thread at a time. Return: 0, or a negative errno.
 */
int exit_probe_read(ExitProbe *probe, struct exit_event *events, size_t n_events, size_t *ret_n);

/* exit_probe_dropped() - records lost so far because the ring was full. Only grows. */
uint64_t exit_probe_dropped(const ExitProbe *probe);

static inline void exit_probe_freep(ExitProbe **probe)
{
        *probe = exit_probe_free(*probe);
}

/* ---- who leaves the cgroup that it was born in: bpf/leave.bpf.c */

typedef struct LeaveProbe LeaveProbe;

typedef struct LeaveProbeSpec {
        uint64_t cgroup_id;  /* inode number of the watched cgroup's directory: below it groups, below each group homes */
        uint32_t ring_bytes; /* as above */
} LeaveProbeSpec;

/**
 * leave_probe_new() - load and attach: from here on whoever is born in a home is known, and leaves a record when it leaves
 *
 * Who was there before is known after the first leave_probe_look(); until then records have pid 0. While the probe is loaded, each fork
 * anywhere on the host costs some 0.1 us more, and 1 us in a home. Arguments and return as exit_probe_new().
 */
int leave_probe_new(LeaveProbe **ret, const LeaveProbeSpec *spec, ProbeReason *reason);
LeaveProbe *leave_probe_free(LeaveProbe *probe);
int leave_probe_fd(const LeaveProbe *probe);
int leave_probe_read(LeaveProbe *probe, struct leave_event *events, size_t n_events, size_t *ret_n);
uint64_t leave_probe_dropped(const LeaveProbe *probe);

/**
 * leave_probe_cost() - what it has cost so far at forks, of anybody on the host
 * @ret_n, @ret_ns: forks and nanoseconds since the kernel was first asked to measure, which this does; 0 at first
 *
 * While the probe lives from then on, each BPF program on the host is measured, some 30 ns a run. Needs CAP_SYS_ADMIN. Return: 0 or a negative errno.
 */
int leave_probe_cost(LeaveProbe *probe, uint64_t *ret_n, uint64_t *ret_ns);

/**
 * leave_probe_look() - have a record (LEAVE_FOUND) for each process that is elsewhere now, and know whoever is in a home now
 *
 * Looks at every task of the PID namespace once: 1 000 of them are some 0.3 ms. Needs no privilege any more. Return: 0 or a negative errno.
 */
int leave_probe_look(LeaveProbe *probe);

static inline void leave_probe_freep(LeaveProbe **probe)
{
        *probe = leave_probe_free(*probe);
}

/* ---- what system calls cost whom: bpf/call.bpf.c */

typedef struct CallProbe CallProbe;

typedef struct CallProbeSpec {
        uint64_t cgroup_id; /* inode number of the watched cgroup's directory: below it groups, below each group homes, which can be watched */
        uint32_t n_slots;   /* so many homes at once, up to CALL_SLOTS_MAX; 0: CALL_SLOTS_DEFAULT. Each is 29 KiB of the kernel's memory */
} CallProbeSpec;

/* All of them are needed while it shall count; close all of them, and nothing of it is left in the kernel. Close-on-exec. */
typedef enum CallProbeFd {
        CALL_PROBE_FD_WATCHED, /* maps: call_view_open() */
        CALL_PROBE_FD_SLOTS,
        CALL_PROBE_FD_ENTER, /* what attaches it. To close the last copies detaches it, which takes less than 1 ms */
        CALL_PROBE_FD_EXIT,
        CALL_PROBE_FD_END,
        _CALL_PROBE_FD_MAX,
} CallProbeFd;

/* Nanoseconds that each system call takes longer while it is attached. */
typedef struct CallProbeCost {
        uint32_t alone_ns; /* a getppid(2) before that */
        uint32_t call_ns;  /* longer, of somebody who is watched */
        uint32_t other_ns; /* and of anybody else on the host */
} CallProbeCost;

/**
 * call_probe_new() - load and attach: from here on the calls of those are counted whom call_view_watch() names
 *
 * Everybody's calls take longer from here on. Arguments and return as exit_probe_new(); -EINVAL for too many slots, too.
 */
int call_probe_new(CallProbe **ret, const CallProbeSpec *spec, ProbeReason *reason);
CallProbe *call_probe_free(CallProbe *probe);

/* call_probe_fd() - borrowed: to be handed to another process, which needs no privilege for it. What is attached stays so while somebody has it open. */
int call_probe_fd(const CallProbe *probe, CallProbeFd which);

/**
 * call_probe_cost() - as measured by call_probe_new(), on its own calls, in some 2 ms
 *
 * The best of several rounds: what it is at the least. 0 where the clock saw no difference.
 */
CallProbeCost call_probe_cost(const CallProbe *probe);

static inline void call_probe_freep(CallProbe **probe)
{
        *probe = call_probe_free(*probe);
}

/* ---- how deep queues are, and how long messages wait in them: bpf/queue.bpf.c */

typedef struct QueueProbe QueueProbe;

typedef struct QueueProbeSpec {
        uint64_t cgroup_id; /* inode number of the watched cgroup's directory: below it dataflows, which can be watched */
        uint32_t n_links;   /* so many links at once, up to QUEUE_LINKS_MAX; 0: QUEUE_LINKS_DEFAULT. Each is 512 bytes of the kernel's memory */
} QueueProbeSpec;

typedef enum QueueProbeFd { /* maps: queue_view_open() */
        QUEUE_PROBE_FD_WATCHED,
        QUEUE_PROBE_FD_LINKS,
} QueueProbeFd;

/**
 * queue_probe_new() - load, and measure what a message costs that is told of; nothing is attached yet
 *
 * Arguments and return as exit_probe_new(); -EINVAL for too many links, too.
 */
int queue_probe_new(QueueProbe **ret, const QueueProbeSpec *spec, ProbeReason *reason);

/* queue_probe_free() - detach, unload; NULL is fine. Blocks as queue_probe_attach() does. Returns NULL. */
QueueProbe *queue_probe_free(QueueProbe *probe);

/**
 * queue_probe_attach() - to a file's sites (shm/probe.h): from here on whoever has it mapped, now or later, tells of its messages
 * @fd:    open for reading; the file is held against all it says (bpf/sites.h)
 * @ret_n: sites that it has; 0: none, and nothing is attached. Once a file: a second time counts everything twice
 *
 * The kernel takes the lock of the memory of each process that has the file mapped, and lets nobody fork meanwhile: where one of them cannot let go of
 * that lock, this does not return. Return: 0, PROBE_E_UNAVAILABLE (none of its sites is attached), or a negative errno, likewise.
 */
int queue_probe_attach(QueueProbe *probe, int fd, size_t *ret_n, ProbeReason *reason);

/* queue_probe_attach_sites() - the same, of sites that somebody else has found in it (bpf/sites.h): SITES_MAX of them at the most. */
int queue_probe_attach_sites(QueueProbe *probe, int fd, const Site *sites, size_t n, ProbeReason *reason);

/* queue_probe_fd() - borrowed: to be handed to another process, which needs no privilege for it. It is attached for as long as the probe is there. */
int queue_probe_fd(const QueueProbe *probe, QueueProbeFd which);

/* queue_probe_cost() - nanoseconds that a node takes for a message that is told of, on each side; at the least. 0: not measured. */
uint32_t queue_probe_cost(const QueueProbe *probe);

static inline void queue_probe_freep(QueueProbe **probe)
{
        *probe = queue_probe_free(*probe);
}

#endif
