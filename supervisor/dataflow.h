/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One running plan: its nodes, its keeper, its stop.
 *
 *     beginning ──► starting ──► running ──► stopping ──► ending ──► ended
 *     (keeper)      (barrier)                (ladder)     (keeper leaves)
 *
 * The dataflow has started once every node is ready (the barrier), and then releases all of them together. A node that cannot
 * become ready fails the start: the others are told, and stopped. After that nodes end one by one; the dataflow ends when
 * the last one has.
 */
#ifndef TG_SUPERVISOR_DATAFLOW_H
#define TG_SUPERVISOR_DATAFLOW_H

#include <sys/resource.h>

#include <jansson.h>

#include "protocol/keeper_msg.h"
#include "supervisor/audit.h"
#include "supervisor/node.h"
#include "supervisor/usage.h"
#include "supervisor/prober.h"
#include "supervisor/prober-sample.h"
#include "supervisor/queues-look.h"
#include "supervisor/queues.h"

typedef struct JournalEntry JournalEntry;
typedef struct Placement Placement;
typedef struct Progress Progress;
typedef struct Supervisor Supervisor;
typedef struct Link Link;
typedef struct Pair Pair;

#define DATAFLOW_STOP_SLACK (100 * NSEC_PER_MSEC) /* design section 5: escrow T = start + 1.5 x grace + 0.1 s */

typedef enum DataflowState {
        DATAFLOW_BEGINNING,
        DATAFLOW_STARTING,
        DATAFLOW_RUNNING,
        DATAFLOW_STOPPING,
        DATAFLOW_ENDING,
        DATAFLOW_ENDED,
        _DATAFLOW_STATE_MAX,
} DataflowState;

typedef struct DataflowOptions {
        nsec_t grace_ns, budget_ns;
        const char *log_dir;  /* absolute, without the uuid; NULL: no log files */
        char *const *environ; /* of the nodes; borrowed for the life of the dataflow */
        mode_t umask;
        bool allow_unenforced; /* limits that this host cannot enforce do not hinder the start */
        uid_t uid; /* credentials of nodes and logger: the caller's */
        gid_t gid;
        uint32_t n_groups; /* supplementary; 0: ours if uid and gid are ours, else none */
        uint32_t groups[KEEPER_MSG_MAX_GROUPS];
        struct rlimit nofile;      /* of the nodes */
        bool despite_leftover;     /* begins also beside those of a dataflow of its name who would not die */
        const char *waits_for;     /* uuid of another that has to be gone first: it does not begin before dataflow_begin(); NULL */
        int log_fd;           /* keeper's end of the log stream, or -1; consumed */
        void *owner;          /* whoever reads events: handed to event_fn */
} DataflowOptions;

/* Called with every event that a client may want to see; @event is borrowed, @owner as in the options. */
typedef void (*DataflowEventFn)(Dataflow *dataflow, json_t *event, void *owner);

struct Dataflow {
        ListLink link; /* in supervisor->dataflows */
        Supervisor *supervisor;
        Loop *loop;
        Plan *plan;
        DataflowOptions options;
        char *log_dir; /* with the uuid; NULL: none */
        char **environ; /* owned copy of the options' */
        JournalEntry *journal; /* NULL: a private instance, or it could not be written */
        bool journal_failed;   /* said once */
        bool adopting;         /* its keeper has not said yet what is there: it is made from the journal, or the keeper is a new one */
        bool fresh;            /* made from the journal: nothing of its nodes is written back before it was held against what is there */
        bool slot_known;       /* fresh: the guard has named its slot */
        Resources resources;   /* of its own cgroup */
        Usage usage;
        Pressure pressure;
        bool frozen_all;       /* its own cgroup is frozen, or being frozen: nobody is started */
        bool found_by_name;    /* fresh: its keeper was found by its socket, and the guard is being told */
        uint8_t uuid[16];
        char uuid_text[37];
        char waits_for[37]; /* "": it has begun; else the uuid of the one that has to be gone first */
        DataflowState state;
        bool released; /* the barrier opened */
        bool stop_ordered, failed_start;
        bool stopping; /* nodes are being asked: the guard has confirmed, or had its time */
        NodeLadder ladder; /* of the stop, once ordered */
        nsec_t stop_at;    /* when it was ordered */
        bool confirm_again; /* the guard has confirmed, and is asked once more */
        nsec_t begun_at;
        nsec_t ended_at;   /* 0: not yet */
        nsec_t since;      /* when the present state began */
        Timer timer;       /* beginning: keeper's answer; stopping: guard's confirmation; ending: keeper's end */
        nsec_t enforced_at; /* from when on the guard has killed here; 0: it has not */
        Timer node_deaf_timer; /* likewise of one node */
        Timer deaf_timer;  /* the guard says that nobody is left, and the keeper has not said so yet */
        Job advance;

        /* keeper-link.c */
        uint32_t slot;
        int keeper_fd, keeper_pidfd;
        int32_t keeper_pid; /* for a guard that has to be told; 0: not known */
        Source keeper_source;
        PacketQueue keeper_out;
        bool keeper_gone;
        bool keeper_stays; /* with those who would not die; everything else has ended */
        bool watched;      /* ended, and its keeper stays, or is to */
        char *cgroup; /* path, for people */

        Node *nodes;
        Link *links; /* wiring.c */
        uint32_t n_links;
        Pair *pairs; /* room for one a link */

        json_t *ledger; /* array: one object per rung taken, and the outcome */
        json_t *notes;  /* array of strings for people */
        char *error;    /* first thing that went wrong; NULL: nothing */
        uint32_t n_killed, n_left;
        uint32_t n_quarantined; /* lives of its nodes of which somebody is left, and watched */
        bool not_removed; /* its cgroup, when its keeper ended */
        bool left_known;  /* its keeper has counted */
        uint32_t left_processes, left_cgroups;
        nsec_t kill_at, killed_until; /* when its nodes were killed, and when the last of those was empty; 0: none was */
        Audit audit;      /* audit.c */
        bool audit_asked, audit_heard, audited;
        uint32_t n_keeper_deaths;
        nsec_t keeper_died_at;
        bool keeper_replaced; /* the next keeper takes over what the last one left */
        struct Order *order;     /* dataflow-order.c */
        struct OrderFact *facts; /* one a node, of the last look */
        uint32_t *held;          /* likewise */
        bool ordered;            /* some node is after another */
        Timer order_timer;       /* a stop: when everybody is asked */
        Placement *placement; /* placer.c */
        Timer placement_timer;
        ProbeWish probe; /* prober.c */
        Sampler sampler; /* prober-sample.c */
        QueueLooks queue_looks; /* queues-look.c */
        QueueWish queues; /* queues.c */
        unsigned n_whys; /* node-why.c: questions under way */
        Progress *progress;
        Timer progress_timer;
        Timer keeper_timer;   /* it has so long to do it */
        nsec_t resume_asked;  /* the last RESUME: what answers another one is a predecessor's */
        DataflowEventFn event_fn;
};

/**
 * dataflow_new() - take a plan over and begin it
 * @plan: consumed, whatever is returned
 * @slot: the guard's number for it, not in use
 *
 * Return: 0 or a negative errno.
 */
int dataflow_new(Dataflow **ret, Supervisor *supervisor, Plan *plan, uint32_t slot, const DataflowOptions *options, DataflowEventFn fn);
Dataflow *dataflow_free(Dataflow *dataflow);

/* dataflow_begin() - one that waited: it need not any more. Harmless for others. */
void dataflow_begin(Dataflow *dataflow);

/* dataflow_make() - everything but a beginning: no keeper, no log directory, no slot. @plan is consumed; the rest is copied. */
int dataflow_make(Dataflow **ret, Supervisor *supervisor, Plan *plan, const DataflowOptions *options, const uint8_t uuid[16], DataflowEventFn fn);

/**
 * dataflow_stop() - begin the stop ladder, or tighten one that is under way
 * @grace_ns: span; NSEC_NEVER: the dataflow's own
 * @force:    begin with SIGKILL
 * @who:      for the ledger
 */
void dataflow_stop(Dataflow *dataflow, nsec_t grace_ns, bool force, const char *who);

/* dataflow-journal.c: what is intended, written down before it is ordered. Without a journal they do nothing. */
int dataflow_journal_create(Dataflow *dataflow); /* 0 or a negative errno: then nothing is left behind */
void dataflow_journal(Dataflow *dataflow);
void node_journal(Node *node);
void link_journal(Link *link);
void dataflow_journal_limits(Dataflow *dataflow); /* those that were set at run time */
void dataflow_unjournal(Dataflow *dataflow); /* forgotten for good */

/**
 * dataflow_restore() - a dataflow as the journal has it; its sockets, memory and keeper come later (adopt.c)
 * @take_entry: consumed, whatever is returned
 * @text:       what dataflow_journal_create() wrote
 * @ret_why:    room for @why_size bytes, set on failure
 *
 * Return: 0, or a negative errno: the journal holds what no supervisor of this version writes.
 */
int dataflow_restore(Dataflow **ret, Supervisor *supervisor, JournalEntry *take_entry, const char *text, DataflowEventFn fn, char *ret_why,
        size_t why_size);

/* dataflow-order.c: docs/ordering.md, carried out. */
int dataflow_order_init(Dataflow *dataflow);
void dataflow_order_done(Dataflow *dataflow);
void dataflow_start_some(Dataflow *dataflow); /* those that are after nobody who has not come far enough */
void dataflow_stop_some(Dataflow *dataflow);  /* those whom nobody is after any more */
void dataflow_look_at_order(Dataflow *dataflow); /* again, after a change */
void dataflow_on_node_failed(Node *node, bool restart);

/* dataflow_resume_keeper() - ask what it has; one that does not answer in time is replaced. */
void dataflow_resume_keeper(Dataflow *dataflow);

/* dataflow_instruct_keeper() - one that a predecessor asked for, and did not come to tell what to take over. */
void dataflow_instruct_keeper(Dataflow *dataflow, bool begun);

/* dataflow_replace_keeper() - the last one is dead or being killed; another is asked for, once the guard has reaped it. */
void dataflow_replace_keeper(Dataflow *dataflow, const char *why);

/* dataflow_escrow_at() - when the guard begins to enforce the stop that was ordered. */
nsec_t dataflow_escrow_at(const Dataflow *dataflow);

/* dataflow_adopt_escrow() - the guard holds this for it: it was ordered, even if nobody lived to write it down. At NSEC_NEVER: it does not. */
void dataflow_adopt_escrow(Dataflow *dataflow, nsec_t at, nsec_t until);

/* dataflow_ladder_of_escrow() - the ladder that an escrow was placed for, had it been ordered @now: SIGTERM after two thirds of what is left. */
NodeLadder dataflow_ladder_of_escrow(nsec_t now, nsec_t at, nsec_t until);

/* dataflow_escrow_until() - when it gives up. */
nsec_t dataflow_escrow_until(const Dataflow *dataflow);

/* dataflow_go_on() - adopted: what its state waited for is asked for again. @resumed: what its keeper said that has made its cgroup. */
void dataflow_go_on(Dataflow *dataflow, const KeeperMsg *resumed); /* NULL: its keeper has not made its cgroup, or is gone */

/* dataflow_left_look() - somebody who would not die has, or another is left: count again. Of one that has ended, when nobody is left, its keeper leaves. */
void dataflow_left_look(Dataflow *dataflow);
/* dataflow_what_is_left() - "node a would not end (unkillable-traced: pid 12 (x) ...)", into @buffer. */
const char *dataflow_what_is_left(const Dataflow *dataflow, char *buffer, size_t size);
uint32_t dataflow_count_left(const Dataflow *dataflow); /* lives of its nodes of which somebody is left */

/* dataflow_cleared() - what would not end of a generation of a node has ended. */
void dataflow_cleared(Dataflow *dataflow, const Node *node, const Leftover *leftover);

/* dataflow_fail() - remember the first thing that went wrong; @node: whose fault it is, or NULL. */
__attribute__((format(printf, 3, 4))) void dataflow_fail(Dataflow *dataflow, const Node *node, const char *format, ...);

/* What nodes tell their dataflow. */
void dataflow_node_changed(Node *node, NodeState from, NodeEvent event);
void dataflow_note(Dataflow *dataflow, const char *node, const char *text);
void dataflow_ledger(Dataflow *dataflow, const char *rung, const Node *node, const char *result, int64_t count);
/* ... of what is left. @node: NULL: the dataflow */
void dataflow_ledger_audit(Dataflow *dataflow, const Node *node, const Audit *audit);
/* dataflow_verdict() - ... that a node would not end, with all that is known of who is left. */
void dataflow_verdict(Dataflow *dataflow, const Node *node);
/* ... of a moment that has passed. */
void dataflow_ledger_at(Dataflow *dataflow, nsec_t at, const char *rung, const Node *node, const char *result, int64_t count);
void dataflow_health_event(Dataflow *dataflow, const Node *node, const char *type, const char *text); /* "resumed" */
void dataflow_stuck_event(Dataflow *dataflow, const Node *node, const char *text, json_t *take_why); /* NULL: it is not known why */
void dataflow_why_event(Dataflow *dataflow, const Node *node, const char *what, json_t *take_why); /* it is killed, and @what ("was stuck") */
void dataflow_freezer_event(Dataflow *dataflow, const Node *node, bool frozen); /* "frozen", "thawed"; @node NULL: all of it */
void dataflow_probe_event(Dataflow *dataflow, const char *what, const char *why); /* nothing of it is counted any more, which nobody has asked for */
bool dataflow_has_frozen(const Dataflow *dataflow); /* some node stands still */
/* A condition of on_pressure was met. All but @text as the interface has it; @node NULL: of the dataflow. */
void dataflow_pressure_event(Dataflow *dataflow, const Node *node, const char *resource, const char *measured, const char *threshold, const char *action,
        const char *text);
/* A process has left the cgroup of its node for another; @signo: what it was sent for that, 0: it is killed with the node; or KEEPER_ESCAPED_*. */
void dataflow_escape_event(Dataflow *dataflow, const Node *node, int32_t pid, const char *comm, const char *from, const char *to, int signo);
void dataflow_on_begun(Dataflow *dataflow, uint32_t controllers, const char *missing, const char *refused); /* as in BEGUN */
void dataflow_kick(Dataflow *dataflow); /* look again, from the loop, whether something follows */

const char *dataflow_state_to_string(DataflowState state);

/* dataflow_holds() - it has ended and cannot be forgotten: somebody is left there, or its keeper has not gone yet. */
static inline bool dataflow_holds(const Dataflow *dataflow)
{
        return dataflow->n_left > 0 || dataflow->watched;
}

/* dataflow_result() - what to tell the client at the end: new reference. */
json_t *dataflow_result(const Dataflow *dataflow);
bool dataflow_succeeded(const Dataflow *dataflow);

/* keeper-link.c: orders out, reports in. Orders are silent no-ops once the keeper is gone. */
int keeper_link_open(Dataflow *dataflow, int32_t pid, int take_sock, int take_pidfd);
void keeper_link_close(Dataflow *dataflow);
void keeper_order_begin(Dataflow *dataflow);
int keeper_order_spawn(Node *node, int node_sock, nsec_t deadline);
int keeper_order_capture(Node *node, int pidfd, nsec_t deadline);
uint32_t keeper_order_signal(Node *node, int signo); /* which of the node's n_signals_sent it is; 0: not sent */
void keeper_order_kill(Node *node, nsec_t until);
int keeper_order_limit(Dataflow *dataflow, const Node *node, const char *limits); /* @node NULL: the dataflow's own; 0 or a negative errno */
int keeper_order_place(Node *node, int cpu); /* -1: wherever it was born to run; 0 or a negative errno */
int keeper_order_freeze(Dataflow *dataflow, const Node *node, bool frozen, nsec_t until); /* likewise */
int keeper_order_pressure(Dataflow *dataflow, const Node *node, const char *conditions); /* likewise */
int keeper_order_sample(Dataflow *dataflow, nsec_t asked); /* likewise */
int keeper_order_measure(Dataflow *dataflow, nsec_t asked); /* likewise */
int keeper_order_files(Dataflow *dataflow, nsec_t asked, int fd); /* likewise; @fd stays the caller's */
void keeper_order_look(Node *node);
/*
 * methods-why.c: why_ask() - have the keeper look at a node that runs; why_said() - what it has found, fd: the report, borrowed. 0 or a
 * negative errno: nothing follows.
 */
int why_ask(Node *node, bool freeze, KeeperHaste haste, nsec_t deadline, uint64_t *ret_asked);
void why_said(Dataflow *dataflow, const KeeperMsg *msg, int fd);
int keeper_order_why(Node *node, uint64_t asked, int context_fd, bool freeze, KeeperHaste haste, nsec_t deadline); /* 0 or a negative errno; context_fd stays the caller's */
/* keeper_order_astray() - that process of it is elsewhere: tell of it, and end it unless it is to be left @alone. 0 or a negative errno: it cannot be told. */
int keeper_order_astray(Node *node, uint64_t generation, int32_t pid, uint64_t start_ns, bool alone, const char *comm, const char *to);
void keeper_order_reap(Node *node);
void keeper_order_end(Dataflow *dataflow, nsec_t deadline, bool stay); /* stay: with those who would not die */
int keeper_order_stream(Dataflow *dataflow, int fd); /* lines of nodes go to @fd from now on; 0 or a negative errno */
void keeper_order_resume(Dataflow *dataflow);
void keeper_order_forget(Dataflow *dataflow, uint32_t node, uint64_t generation);
void keeper_order_adopt(Node *node);
void keeper_order_adopt_left(Node *node, uint64_t generation);
void keeper_order_guard(Dataflow *dataflow, int guard_fd);
void adopt_with_new_keeper(Dataflow *dataflow);
void keeper_take_spawn_failure(Node *node, KeeperStage stage, const char *text);
void keeper_take_pidfd(Node *node, int32_t pid, int take_pidfd);
void keeper_lost(Dataflow *dataflow, const char *why); /* it died, or is being killed: the guard enforces */

#endif
