/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why a node makes no progress: two looks at every thread of a dataflow, and what they mean together (base/task.h, base/blame.h).
 *
 * why_first() is the first look, at files of /proc that wait for nobody (base/task.h); it runs in a thread of the keeper, which is an ancestor of
 * those it looks at. All else can hang with the process that is looked at, or be led astray by it, and runs in a process of its own that is
 * abandoned at its deadline: why_child() takes the second look, writes a report of what both have shown, and then a better one for which memory,
 * descriptors and file names were read. Each is one line of JSON; the last whole one counts.
 *
 * Does not know: who asks, orders, how people are shown it.
 */
#ifndef TG_SUPERVISOR_WHY_H
#define TG_SUPERVISOR_WHY_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/blame.h"
#include "base/clock.h"
#include "base/task.h"
#include "supervisor/why-stack.h"

#define WHY_SPAN_MAX    (10 * NSEC_PER_SEC)
#define WHY_REPORT_MAX  (128u * 1024) /* bytes of a report */
#define WHY_CONTEXT_MAX (1024u * 1024)
#define WHY_NAME_MAX    256
#define WHY_TEXT_MAX    1000 /* bytes of the sentence */

#define WHY_PROCESSES_MAX 4096 /* of a dataflow, that are known */
#define WHY_THREADS_MAX   768  /* that are looked at, */
#define WHY_OWN_MAX       512  /* of the node, */
#define WHY_OTHER_MAX     16   /* and of each other node */
#define WHY_BRIEF_OWN   32 /* when it is to be brief, likewise */
#define WHY_BRIEF_OTHER 4
#define WHY_BRIEF_SPAN  (100 * NSEC_PER_MSEC) /* and so long, for the first look */
#define WHY_STACKS_MAX    4
#define WHY_TOLD_MAX      48   /* threads that are told of one by one */

/* One life of a node. */
typedef struct WhyNode {
        char id[132];
        uint32_t node; /* index in the plan */
        uint64_t generation;
        int dir_fd;    /* its cgroup, or what stands for it */
        int32_t leader; /* its first process; 0: not known */
        int32_t reaper; /* a process of ours that may be in its cgroup; 0: none */
        int best;      /* thread that says most; -1: none */
        bool judged;   /* the way from whom is asked about leads to it */
} WhyNode;

typedef struct WhyProcess {
        int32_t pid;
        int node; /* index in nodes */
} WhyProcess;

typedef struct WhyThread {
        Task task;
        int node; /* index in nodes */
        BlameCall call;
        BlameStat stat;
        BlameSignals signals;
        int32_t inner_tid; /* as it and its process know it, in a PID namespace of their own; 0: as we do */
        BlameSched sched; /* of the first look; after the second: what was added */
        uint64_t switches; /* likewise */
        unsigned n_pending; /* samples in which a signal that it catches was waiting, */
        uint64_t storm;     /* and which, of all of them */
        bool seen_twice;
        bool other_rights; /* not its owner's alone: nothing of it is read that its owner could not read */

        /* what it means */
        BlameCause cause;
        char text[320];    /* "sleeps for 5 s": what is said of it behind its name */
        bool definite;     /* nobody else can end that wait than target_pid (target_tid) */
        int target_node;   /* index in nodes; -1 */
        int32_t target_pid, target_tid; /* 0: nobody that is known */
        char target_comm[64];
        char object[320];  /* the file, address or socket; "" */
        int next;          /* thread that it waits for; -1 */
        bool link;         /* by a link: target_node, whoever of it */
} WhyThread;

typedef struct WhyLink {
        uint32_t from, to; /* indices in the plan */
        const char *output, *input; /* of the context */
        uint64_t depth;
        bool active, wants_room;
} WhyLink;

typedef struct WhyGroup { /* of one cgroup; what is not there is 0 */
        uint64_t n_throttled, throttled_us, usage_us, high, oom, oom_kill, memory, memory_high, memory_max;
        bool has_cpu, has_memory, frozen;
} WhyGroup;

typedef struct WhyFds WhyFds;

typedef struct Why {
        /* in */
        WhyNode *nodes;
        size_t n_nodes, target; /* target: which one is asked about */
        int flow_fd, context_fd; /* the dataflow's cgroup; what the supervisor knows, as JSON */
        bool brief;  /* a few threads of each node, no stacks */
        bool freeze; /* the node stands still while memory is read */
        uint8_t *froze; /* shared with who waits for the report: set before it is frozen for that. NULL: nobody wants to know */
        uid_t uid;   /* whose dataflow it is */
        gid_t gid;
        nsec_t until;

        /* found */
        WhyProcess *processes;
        size_t n_processes, n_threads, n_own, n_uncounted;
        WhyThread *threads;
        nsec_t first_at, window;
        WhyGroup group, group_before, flow, flow_before;
        json_t *context;
        WhyLink *links;
        size_t n_links;
        WhyFds *fds;
        int out_fd;            /* where reports go */
        int diag_fd, diag_pid; /* NETLINK_SOCK_DIAG, in the network namespace of that process */
        bool deep;             /* memory and descriptors were read */
        bool first_only;       /* there is no other look, and nothing is read that could hang */
        bool daring;           /* also memory of one that is uninterruptible, and may hold what it is read under */
        bool was_frozen;       /* for this look */
        Stack stacks[WHY_STACKS_MAX]; /* of who is blamed, and of others of its process whom it waits for */
        size_t n_stacks;
        char lost[200];        /* what could not be seen; "" */

        BlameCause cause;
        char text[WHY_TEXT_MAX];
        int blamed; /* thread; -1 */
} Why;

/* why_first() - the first look. 0, -ESRCH: nobody is there, or -ENOMEM. @why's in-fields are set, all else is zero. */
int why_first(Why *why);
void why_done(Why *why); /* what why_first() has made; not the in-fields */

/* why_first_report() - what the first look alone has shown, for who cannot have the rest. Does not hang. JSON, the caller frees it; or NULL. */
char *why_first_report(Why *why, size_t *ret_size);

/* why_child() - the rest, in a process of its own; writes reports to @out_fd. Blocks, and may hang. */
void why_child(Why *why, int out_fd);

/* --- between its files --- */

#define WHY_WINDOW_SPAN (100 * NSEC_PER_MSEC)

/* why-look.c */
void why_second(Why *why);
bool why_is_whom_we_saw(const Why *why, const WhyThread *thread); /* and has the rights of the dataflow's owner alone */
bool why_slurp(pid_t pid, pid_t tid, const char *name, char *buffer, size_t size);
void why_read_group(int dir_fd, bool with_below, WhyGroup *ret); /* with_below: events of cgroups below count, too */
size_t why_peek(pid_t pid, uint64_t address, void *buffer, size_t size); /* bytes of its memory that could be had */
void why_peek_text(pid_t pid, uint64_t address, char *buffer, size_t size);

/* why-cause.c: of each thread, then of all of them together. */
void why_judge(Why *why);
void why_say(WhyThread *thread, BlameCause cause, const char *format, ...) __attribute__((format(printf, 3, 4)));
const char *why_name(const Why *why, int node, pid_t pid, const char *comm, char *buffer, size_t size);
int why_node_of(const Why *why, pid_t pid); /* index in nodes; -1 */
int why_thread_of(const Why *why, pid_t pid, pid_t tid); /* tid 0: the one of it that says most; -1 */

/* why-fd.c: what a descriptor leads to. */
void why_blame_fd(Why *why, WhyThread *thread, int fd, bool writes);
void why_blame_many(Why *why, WhyThread *thread); /* poll, select, epoll */
bool why_watches_links(Why *why, const WhyThread *thread); /* of such a wait: it is libtidegate's, or that is not to be seen */
void why_blame_connect(Why *why, WhyThread *thread);
void why_fds_done(Why *why);

/* why-link.c: what libtidegate waits for. */
void why_read_context(Why *why);
const char *why_id(const Why *why, uint32_t node); /* of the plan's; "?" */
bool why_blame_links(Why *why, WhyThread *thread); /* it is in a wait of many descriptors */

/* why-frames.c: stacks, of who is blamed. The process has the rights of the dataflow's owner afterwards, and can do no more than read and report. */
void why_read_stacks(Why *why);

/* why-confine.c: false: it is not so, and nothing of others' making may be parsed. */
bool why_confine(const Why *why, pid_t pid);

/* why-report.c */
json_t *why_report(const Why *why, size_t told); /* @told: threads that are told of one by one, at most */

#endif
