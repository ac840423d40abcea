/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One node of a dataflow: its states, and what the supervisor holds for its present incarnation.
 *
 * The life of a node is the table in node.c and nothing else. Events are posted, wait in a queue of the node's own, and are
 * applied one at a time; actions run after the new state was entered, never write it, and post events when they must.
 * Every waiting state owns exactly one deadline (Node.deadline), disarmed on leaving.
 *
 * Trouble of a node is that node's (NODE_FAILED), never the supervisor's.
 */
#ifndef TG_SUPERVISOR_NODE_H
#define TG_SUPERVISOR_NODE_H

#include <stdbool.h>
#include <stdint.h>

#include "protocol/keeper_msg.h"
#include "shm/region.h"
#include "supervisor/leftover.h"
#include "supervisor/loop.h"
#include "supervisor/misbehaviour.h"
#include "supervisor/node-why.h"
#include "supervisor/packet.h"
#include "supervisor/plan.h"
#include "supervisor/pressure.h"
#include "supervisor/resources.h"

typedef struct Dataflow Dataflow;
typedef struct Node Node;

typedef enum NodeState {
        NODE_PENDING,  /* not started yet */
        NODE_STARTING, /* ordered from the keeper; handshake under way */
        NODE_RUNNING,
        NODE_STOPPING, /* being asked, or ended by itself: until its cgroup is empty */
        NODE_BACKOFF,  /* waits for its next incarnation */
        NODE_STOPPED,  /* ended well */
        NODE_FAILED,   /* ended badly, or would not end */
        _NODE_STATE_MAX,
} NodeState;

typedef enum NodeEvent {
        NODE_EV_START,        /* the dataflow begins */
        NODE_EV_SPAWN_FAILED, /* the program never ran */
        NODE_EV_READY,        /* exec succeeded, and the keeper has said so; node: handshake done and every link attached */
        NODE_EV_EXITED,       /* its first process has ended */
        NODE_EV_EMPTY,        /* its cgroup holds nobody any more */
        NODE_EV_DEADLINE,     /* the state's deadline passed */
        NODE_EV_STOP,         /* the operator (or a failed start) wants it stopped */
        NODE_EV_RESTART,      /* resolved: there will be another incarnation */
        NODE_EV_DONE,         /* resolved: it ended well */
        NODE_EV_FAIL,         /* resolved: it ended badly */
        _NODE_EVENT_MAX,
} NodeEvent;

/* Rungs of the stop ladder; each names what is done when its time has come. */
typedef enum NodeRung {
        NODE_RUNG_NONE,
        NODE_RUNG_ASK,     /* stop event; SIGTERM for those who cannot hear one */
        NODE_RUNG_TERM,    /* SIGTERM, SIGCONT to every process */
        NODE_RUNG_KILL,    /* cgroup.kill, then SIGKILL by pidfd until empty */
        NODE_RUNG_VERDICT, /* look who is left */
        NODE_RUNG_LOOKED,  /* give up waiting for the list */
        _NODE_RUNG_MAX,
} NodeRung;

#define NODE_OLDER_MAX 4

typedef enum NodeEnd { /* why the last incarnation ended */
        NODE_END_NONE,
        NODE_END_EXIT,            /* by itself */
        NODE_END_SPAWN,           /* could not be executed */
        NODE_END_EARLY,           /* ended before it was ready */
        NODE_END_STARTUP_TIMEOUT, /* was not ready in time */
        NODE_END_STOP,            /* was asked to */
        NODE_END_FINISH_TIMEOUT,  /* all its inputs had closed, and it did not end; or it was stuck for too long */
        NODE_END_PROTOCOL,        /* broke the handshake's rules */
} NodeEnd;

typedef struct NodeLadder { /* absolute times of the rungs */
        nsec_t term, kill, verdict;
} NodeLadder;

typedef struct NodeOutput { /* regions of the present incarnation; kept after its end while consumers still read */
        int ring_fd, pool_fd; /* -1: none */
        uint32_t n_slots;
        uint64_t ring_size, pool_size;
        uint64_t pool_largest; /* message that pool_fd can hold */
        struct Growth *growth; /* segments beyond pool_fd; NULL: nobody has asked for one */
        bool pool_lost; /* such a segment is in use, and was lost with a supervisor and its guard */
        bool closed; /* the node said that nothing more will come */
} NodeOutput;

/* What a keeper said of an incarnation to a supervisor that did not see it begin. */
typedef struct NodeFound {
        bool there, starting, spawned, failed, exited, over;
        int32_t code, status;
} NodeFound;

struct Node {
        Dataflow *dataflow;
        uint32_t index; /* in the plan */
        const PlanNode *plan;

        NodeState state;
        Timer deadline;
        Job job;
        uint8_t events[16]; /* posted, not applied yet */
        uint8_t n_events;

        /* the present incarnation */
        uint64_t generation;
        bool spawned;   /* exec succeeded */
        bool captured;  /* dynamic: the keeper was ordered to move its process into a cgroup of ours; spawned: it has */
        bool connected; /* said HELLO */
        bool mapped;    /* said MAPPED: its regions exist for others */
        bool started;   /* got START */
        bool turned;    /* said TURNED */
        bool exited;    /* the first process has ended */
        nsec_t exit_seen_at, exit_known_at; /* that it has, and how; 0: not by us */
        bool empty;     /* nobody is left */
        bool killed;    /* needed SIGKILL */
        bool killed_by_guard; /* ... which was not its keeper's */
        nsec_t keeper_killed_at; /* its keeper has found somebody to kill; NSEC_NEVER: nobody */
        bool guard_asked, guard_heard; /* whether it was the guard; answered, or not in time */
        Timer guard_timer;    /* ... by then */
        uint32_t n_killed;    /* processes of it that needed SIGKILL */
        nsec_t kill_at, killed_until; /* from the first of these until nobody was left; 0: there was none */
        bool not_removed;     /* its cgroup, when it was empty */
        bool escrow_placed;   /* with the guard, for it alone */
        nsec_t enforced_at;   /* from when on the guard has killed in its cgroup alone; 0: it has not */
        bool resolved;  /* it was decided what follows */
        bool foreseen;      /* who might be left was asked for in good time, before the look for the verdict */
        bool exec_stuck;    /* execve has not come back: the process may be unkillable */
        bool resuming;      /* asked what it knows (NODE_MSG_RESUME), and has not said all yet */
        bool away;          /* adopted, and its socket was lost with a guard: it comes back by name, at its next call of the library */
        bool stays;         /* it lives, and nobody has heard of its node for long: no place is kept for it */
        NodeFound found;    /* while the dataflow is being adopted */
        bool inputs_closed; /* every link that feeds it has ended */
        int32_t pid, exit_code, exit_status; /* exit_*: as siginfo's si_code and si_status */
        KeeperCgroupWrite cgroup_write;
        uint64_t cgroup_id;   /* inode number of its directory; 0: not known, or none */
        int pidfd;
        Source pid_source;
        nsec_t started_at;
        nsec_t since; /* when the present state began */
        uint32_t n_signals_sent, n_signals_done; /* orders to its keeper, and answers to them, which come in order */
        int sock; /* our end of the node socket */
        Source sock_source;
        PacketQueue out;
        Timer hung_up; /* it hung up: its outputs are closed if it lives on without its socket */
        int control_fd, bell_fd;
        uint64_t placed_generation; /* the last one that was told where to run, as far as we know */
        int out_fds[2];     /* a daemon's: its output pipes, for the keeper that takes the place of this one; else -1 */
        Region control;
        NodeOutput *outputs; /* per output */
        int *cursor_fds;     /* per input; -1 for timers */
        struct Link **links; /* those that begin or end here; owned array of borrowed pointers */
        uint32_t n_links;
        uint64_t *resume_at; /* per input: where the next incarnation begins to read */

        /* across incarnations */
        struct Samples *samples; /* prober-sample.c; NULL: none */
        uint32_t probe_place; /* prober.c: number + 1, of this or the last life; 0: none */
        NodeEnd end;
        NodeRung rung;
        NodeLadder ladder;
        NodeLadder ordered;  /* of the stop that was asked for; a later order only ever moves it earlier */
        uint32_t n_restarts; /* in all */
        uint32_t n_window;   /* in the present window */
        nsec_t window_start;
        bool order_pending, order_restart; /* node-escrow.c: ordered, and the guard has not confirmed yet */
        bool order_ours; /* ... and it is carried out also if the guard refuses */
        NodeLadder order_ladder;
        uint64_t order_generation; /* whom the guard was asked about */
        uint32_t n_escrows_asked;  /* and not answered */
        Timer order_timer;
        bool stop_wanted;  /* the operator's wish; kept apart from state */
        bool restart_wanted; /* the operator wants another incarnation, whatever the policy says */
        bool quarantined;  /* its cgroup would not become empty */
        bool strayed;      /* its keeper has found somebody of this incarnation elsewhere, and kills them too before it says EMPTY */
        bool despite_leftover; /* the order that is being given begins another life all the same */
        bool finished;     /* no further incarnation will come */
        bool was_ready;    /* some incarnation got that far */
        char *error;       /* what went wrong, for people; NULL: nothing */
        Leftover left;     /* quarantined: who is left */
        Leftover older[NODE_OLDER_MAX]; /* of earlier lives, beside which others were begun all the same */
        Resources resources; /* limits, and whether it is frozen */
        Pressure pressure;
        Misbehaviour misbehaviour; /* by the word of those that it has links with */
        nsec_t said_since; /* when the present second of its socket began, and how many packets came in it */
        uint32_t n_said;
        uint32_t n_heavy; /* packets of its socket that took us long, less the others */
        NodeWhy why;       /* why it made no progress */
        bool held;         /* starting, and not ordered from the keeper yet: its dataflow is frozen */
};

int node_init(Node *node, Dataflow *dataflow, uint32_t index);

/* node_repeat_spawn() - adopted: its start was intended, and never reached the keeper. */
void node_repeat_spawn(Node *node);

/* node_arm() - adopted: the deadline that its state had. */
void node_arm(Node *node, nsec_t at);
void node_done(Node *node);

/* node_post() - queue an event; it is applied from the loop, never from inside the caller. */
void node_post(Node *node, NodeEvent event);

#define NODE_LADDER_NEVER ((NodeLadder){NSEC_NEVER, NSEC_NEVER, NSEC_NEVER})

/* node_ladder() - the rungs' times of a stop ordered now; force begins with the kill. */
NodeLadder node_ladder(nsec_t now, nsec_t grace_ns, nsec_t budget_ns, bool force);

/* node_ladder_tighten() - each rung at the earlier of both times. True when the kill moved. */
bool node_ladder_tighten(NodeLadder *ladder, const NodeLadder *wanted);

/**
 * node_order_stop() - stop it for good: no restart follows
 * @ladder: when
 */
void node_order_stop(Node *node, const NodeLadder *ladder);

bool node_can_restart(const Node *node);

/* node_allow_leftover() - its next life may begin beside what would not end of the last. False: there are NODE_OLDER_MAX of those already. */
bool node_allow_leftover(Node *node);

/* node_order_restart() - end its incarnation and begin another, whatever its policy says; also of one that has ended. False: its
 * dataflow is being stopped, or somebody of the last one would not end. */
bool node_order_restart(Node *node, const NodeLadder *ladder);

/**
 * node_order_in_escrow() - node_order_stop() or node_order_restart(), once the guard holds its deadline
 *
 * Without anybody to end, at once. When the guard says nothing for 200 ms, without it. When it refuses, for it holds as many as it can,
 * nothing is ordered, and server_node_refused() tells the clients.
 *
 * Return: true while it waits for the guard.
 */
bool node_order_in_escrow(Node *node, bool restart, const NodeLadder *ladder);

/* node_stop_in_escrow() - the same for a stop of our own, which no client waits for and can order again: refused, it is done without. */
void node_stop_in_escrow(Node *node, const NodeLadder *ladder);
void node_on_escrow_answer(Node *node, int error); /* 0, or why the guard would not */
void node_escrow_again(Node *node); /* adopted: whatever the guard holds, it holds this */

/* node_reset() - it has its full number of restarts again; one that failed for good is started. False: nothing to reset. */
bool node_reset(Node *node);

/* node_step() - the table, for tests and for the docs: true if @event means something in @state. */
bool node_step(NodeState state, NodeEvent event, NodeState *ret_next);

/* node_set_error() - what went wrong, first complaint of an incarnation wins. */
__attribute__((format(printf, 2, 3))) void node_set_error(Node *node, const char *format, ...);

static inline bool node_is_final(const Node *node)
{
        return node->state == NODE_STOPPED || node->state == NODE_FAILED;
}

/* An incarnation is there whose socket may be written. */
static inline bool node_is_connected(const Node *node)
{
        return node->sock >= 0 && node->connected;
}

/* node_holds_barrier() - the others are not released before it is ready. */
static inline bool node_holds_barrier(const Node *node)
{
        return node->plan->kind != PLAN_KIND_DYNAMIC && !node->plan->late;
}

static inline bool node_is_dynamic(const Node *node)
{
        return node->plan->kind == PLAN_KIND_DYNAMIC;
}

/* It has no process that we could end: it is asked, and let go of. */
static inline bool node_is_loose(const Node *node)
{
        return node_is_dynamic(node) && !node->captured;
}

/* node_verdict() - how its last incarnation ended: "empty", "killed" (by SIGKILL), or what would not end; NULL: it has not. */
const char *node_verdict(const Node *node);

/* node_on_older() - a report about a generation that is not the present one. */
void node_on_older(Node *node, const KeeperMsg *msg);

/* node_older() - what is left of an earlier generation; NULL: nothing that is known. */
Leftover *node_older(Node *node, uint64_t generation);
uint32_t node_n_left(const Node *node); /* of how many of its lives somebody is left */

/* node_on_looked() - its keeper has said who is left of a generation. */
void node_on_looked(Node *node, const KeeperMsg *msg);

/* node_killed_by() - "keeper", "guard", or NULL: nobody had to kill it. */
const char *node_killed_by(const Node *node);

/* node_on_keeper_killed() - its keeper found somebody to kill, and began at that time; 0: nobody. */
void node_on_keeper_killed(Node *node, nsec_t at);

/* node_on_guard_word() - the guard says how many lived in its cgroup when it killed there, and when that was. */
void node_on_guard_word(Node *node, uint32_t n_killed, nsec_t at);

/* node_on_connected() - dynamic: a process has taken its place. node_on_left() - it is gone, or was let go of (a loose one only). */
void node_on_connected(Node *node);
void node_on_left(Node *node);

/*
 * A dynamic node that captures. node_on_joining(): a process has connected and is to be moved (@pidfd: borrowed). node_on_captured(): it was.
 * node_on_refused(): it was not, and the place is free again; @text: why.
 */
void node_on_joining(Node *node, int pidfd);
void node_on_captured(Node *node);
void node_on_refused(Node *node, const char *text);

/* node_on_thawed() - it, or everybody, runs again: what did not run meanwhile begins anew. */
void node_on_thawed(Node *node);

/* node_on_ended() - its first process; @code 0: nobody knows how, which is nobody's fault if it was captured. */
void node_on_ended(Node *node, int32_t code, int32_t status);

/* node_on_pressure() - a condition of its on_pressure is met, which is a failure of its: it is ended, and its restart policy says what follows. */
void node_on_pressure(Node *node, const char *text);

/* node_on_inputs_closed() - every link that feeds it has ended: it has finish_grace to end by itself. */
void node_on_inputs_closed(Node *node);

/* node_on_overdue() - it has been stuck for its health_check_timeout, and is to blame: it has failed, and is ended. */
void node_on_overdue(Node *node);

/* node_give_up() - it broke the rules of its socket, or cannot be served: it fails, and is ended at once. */
__attribute__((format(printf, 2, 3))) void node_give_up(Node *node, const char *format, ...);

/* node_may_restart() - does the policy give it another incarnation after the end it had? Does not count it. */
bool node_may_restart(const Node *node, nsec_t now);

/* node_backoff_ns() - delay before the next incarnation: delay x 2^n, exponent at most 16, at most the plan's maximum. */
nsec_t node_backoff_ns(const PlanNode *plan, uint32_t n_restarts);

/* node_describe_end() - "exited with status 3", "was killed by SIGSEGV", into @buffer. */
const char *node_describe_end(const Node *node, char *buffer, size_t size);

const char *node_state_to_string(NodeState state);
const char *node_event_to_string(NodeEvent event);
const char *node_rung_to_string(NodeRung rung);

#endif
