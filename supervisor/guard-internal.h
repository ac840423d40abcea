/* SPDX-License-Identifier: Apache-2.0 */
/* The guard's own structures; see supervisor/guard.h. */
#ifndef TG_SUPERVISOR_GUARD_INTERNAL_H
#define TG_SUPERVISOR_GUARD_INTERNAL_H

#include <signal.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "protocol/guard_msg.h"
#include "supervisor/guard.h"
#include "supervisor/guard-state.h"
#include "supervisor/config.h"
#include "supervisor/instance.h"
#include "supervisor/loop.h"
#include "supervisor/runtime.h"
#include "supervisor/scope.h"

#define GUARD_MAX_ENFORCERS 64
#define GUARD_REAPS_PER_TURN 32 /* some 20 us each, more with many in /proc */
#define GUARD_REAP_REST      3  /* times as long as they took */
#define GUARD_BACKOFF_MIN  (50 * NSEC_PER_MSEC) /* before another supervisor, when they die within GUARD_BACKOFF_CALM */
#define GUARD_BACKOFF_MAX  (5 * NSEC_PER_SEC)
#define GUARD_BACKOFF_CALM (10 * NSEC_PER_SEC)
#define GUARD_LINGER_SPAN (4 * NSEC_PER_SEC) /* what a supervisor gets to leave once its instance was enforced; it may be stopped or wedged */
#define GUARD_HELPER_SPAN (200 * NSEC_PER_MSEC) /* what the helpers get to be gone, last of all */
#define GUARD_DETACH_SPAN (3 * NSEC_PER_SEC) /* one that is to take out what it has attached, until it does; one that has to wait for a process that is stuck goes on without us */
#define GUARD_FORKS_SPAN (8 * NSEC_PER_SEC) /* how long the last enforcer is put off while a helper detaches */
#define GUARD_REAP_SPAN (2 * NSEC_PER_SEC) /* what keepers get to flush and leave in order before they are killed */

typedef struct Guard Guard;

typedef struct GuardProcess {
        pid_t pid; /* of our own child, stable until we reap it; 0: none */
        int pidfd;
} GuardProcess;

/* A promise: from a time on whoever is left in a cgroup is killed. Of the whole cgroup of a slot, or of that of one incarnation in it. */
typedef struct GuardEscrow {
        Guard *guard;
        uint32_t slot, node;
        uint64_t generation; /* 0: of the slot; an incarnation's otherwise */
        const char *name;    /* of that one's cgroup in the slot's; NULL: the slot's own */
        nsec_t at, until, term_ns; /* at NSEC_NEVER: none */
        bool restart;       /* another incarnation is wanted; not ours to begin */
        Timer timer;
        nsec_t enforced_at; /* from when on there was killing in its name; 0: not yet */
        bool owes_notice;   /* and the supervisor has not been told */
} GuardEscrow;

typedef struct GuardNodeEscrow {
        GuardEscrow escrow; /* generation 0: free */
        char name[GUARD_NAME_MAX];
} GuardNodeEscrow;

typedef struct GuardSlot {
        Guard *guard;
        uint32_t number;
        int dir_fd; /* -1: no cgroup registered */
        int kill_fd, events_fd;
        GuardEscrow escrow;
        uint32_t life;      /* which dataflow of this number it is */
        GuardProcess keeper;
        Source keeper_source; /* its socket */
        int keeper_fd;
        Source keeper_exit_source; /* of a keeper that is not our child */
        int keeper_guard_fd;       /* its end of a socket to us, until it uses it; -1: it does, or always did */
        int keeper_peer_fd; /* the supervisor's end of its socket to the keeper, for a successor; daemon only */
        bool inherited;     /* some keeper of this slot registered its children with another guard */
        bool owes_gone;     /* the supervisor has not been told that the keeper is gone */
        int32_t gone_code, gone_status;
} GuardSlot;

typedef struct GuardChild { /* a registered incarnation */
        Guard *guard;
        int pidfd; /* -1: free */
        Source source;
        uint32_t slot, node;
        uint64_t generation;
        int32_t pid;
        bool ended;     /* its exit was seen; with a dead keeper code and status say how */
        bool ours;      /* it became our child, and its exit status is held here */
        bool owes_exit; /* the supervisor has not been told */
        int32_t code, status;
} GuardChild;

/* A descriptor that the next supervisor will want. */
typedef struct GuardStored {
        int fd; /* -1: free */
        uint32_t slot, node;
        uint64_t generation;
        struct guard_item item;
} GuardStored;

typedef struct GuardEnforcer {
        GuardProcess process;
        uint32_t slot, node; /* whose escrow it carries out; slot GUARD_MAX_SLOTS: that of none any more */
        uint64_t generation;
} GuardEnforcer;

typedef enum GuardState {
        GUARD_RUNNING,
        GUARD_ENDING,   /* the supervisor is gone: the instance is being ended by enforcers */
        GUARD_REAPING,  /* keepers flush and leave, or are killed */
        GUARD_CLEANING, /* last enforcer: makes sure that the instance's directory is empty, and removes what is below */
} GuardState;

/* What an enforcer found, in memory that it shares with the guard. */
struct guard_result {
        uint32_t n_found;
        uint32_t n_left;
        uint32_t n_named; /* of those found, in cgroups that are among the kills */
        nsec_t at;        /* when it began to kill */
};

typedef enum GuardKillState {
        GUARD_KILL_FREE,
        GUARD_KILL_TAKEN, /* its enforcer is writing it */
        GUARD_KILL_READY,
} GuardKillState;

/* The cgroup of an incarnation in which somebody lived when we killed; in memory shared with the enforcers, which add to it. */
struct guard_kill {
        _Atomic uint32_t state; /* GuardKillState */
        uint32_t enforcer;      /* whose it is while it is taken */
        uint32_t slot, life;
        uint32_t count;
        nsec_t at;
        char name[GUARD_NAME_MAX];
};

struct guard_kills {
        _Atomic uint32_t top; /* beyond it none was ever taken */
        struct guard_kill kills[GUARD_MAX_KILLS];
};

/* What the reader of the configuration found, in memory that it shares with the guard. */
typedef struct GuardConfig {
        int32_t error;
        Config config;
        char why[512];
} GuardConfig;

typedef struct GuardProbe { /* the newer program, asked which state it reads */
        GuardProcess process;
        int fd; /* what it prints */
        Source source;
        Timer timer;
        char said[64];
        size_t n_said;
} GuardProbe;

struct Guard {
        const GuardOptions *options;
        nsec_t grace_ns, budget_ns, watchdog_ns; /* the options', or the configuration's */
        Enforcer enforcer;    /* that is asked for, likewise; what it became is the instance's. After a guard that was another: unknown, ENFORCER_AUTO */
        GuardConfig *config;  /* shared with the reader */
        GuardProcess reader;  /* of the configuration */
        bool read_again;      /* another SIGHUP has come meanwhile: what it reads may be older than that */
        Timer reader_timer;
        GuardProbe probe;
        unsigned n_refusals; /* to become another program */
        Loop loop;
        Instance instance;
        Scope scope; /* where a service's nodes live; dir_fd -1: below the service itself, or wherever cgroups may be made */
        Source scope_source, scope_events_source;
        Timer scope_timer;
        nsec_t scope_held_at; /* the last holder was started */
        bool scope_held; /* its holder has answered */
        bool scope_owes; /* it was said that there is none */
        bool scope_lost;
        char leaf_why[256]; /* why there is no scope of the user's, or why there can be no limits; "": no reason */
        GuardState state;
        struct rlimit nofile; /* the caller's, for the nodes */

        int signal_fd;
        Source signal_source;
        int client_fd, client_pidfd;
        Source client_source, client_pid_source;
        bool client_gone;
        bool keepers_killed;

        struct {
                int program;          /* found at the start, for no path is looked up in the loop; or a negative errno */
                GuardProcess process; /* what the supervisor had started last */
        } helpers[_GUARD_HELPER_MAX]; /* guard-helper.c */
        nsec_t helpers_until; /* so long they are waited for; 0: they are not yet */
        nsec_t forks_until; /* so long the last enforcer waits for its fork; 0: it does not yet */
        bool helpers_late; /* they were killed, and waited for long enough */
        GuardProcess retired[4]; /* of GUARD_HELPER_QUEUES, before the last: each may still take out what it has attached. Without pidfd */

        GuardProcess supervisor;
        int supervisor_fd;
        Source supervisor_source;
        nsec_t supervisor_began, backoff;
        Timer restart_timer;
        Timer watch_timer;
        nsec_t tick_due, pinged_at; /* pinged_at 0: no answer is owed */
        int notify_fd;
        bool ready_told;
        bool stop_ordered; /* each supervisor is told, until one says BYE */
        bool bye;
        int32_t bye_status;
        uint64_t epoch;

        GuardSlot slots[GUARD_MAX_SLOTS];
        GuardChild children[GUARD_MAX_CHILDREN];
        unsigned n_children, n_children_refused;
        GuardEnforcer enforcers[GUARD_MAX_ENFORCERS];
        struct guard_result *results; /* per enforcer */
        struct guard_kills *kills;
        GuardNodeEscrow *escrows; /* of incarnations: GUARD_MAX_NODE_ESCROWS */
        unsigned escrows_top;     /* beyond it none was ever placed */
        Timer phase_timer;
        Timer reap_timer; /* children have ended that are none of our own parts */
        nsec_t reap_after;
        uint32_t n_left;

        /* daemon: guard-store.c */
        Runtime runtime;
        GuardStored stored[GUARD_MAX_STORED];
        unsigned stored_top; /* beyond it nothing was ever stored */
        unsigned n_stored, n_refused;
        bool replaying;     /* the present supervisor is being told what there is */
        unsigned replay_at; /* next thing to tell: slots, escrows of incarnations, stored ones */
};

/* guard-store.c: what is kept for the next supervisor, and how it gets it. */
void guard_store(Guard *guard, const struct guard_record *record, int *fds, size_t n_fds); /* takes what it keeps */
void guard_unstore(Guard *guard, uint32_t slot, uint32_t node, uint64_t generation);
void guard_unstore_slot(Guard *guard, uint32_t slot);
void guard_forget(Guard *guard, uint32_t slot); /* the same, and the supervisor hears of it */
void guard_replay(Guard *guard); /* begin to tell a new supervisor */
void guard_pump(Guard *guard);   /* go on telling, as far as its socket takes it */

/* guard-heir.c: keepers and children of a guard that died. */
int guard_adopt_keeper(Guard *guard, GuardSlot *slot, pid_t pid, int take_socket, int take_pidfd, const char *cgroup);
int guard_restore(Guard *guard, int state_fd); /* closes it; 0 or a negative errno */
void guard_on_keeper_exit(Guard *guard, GuardSlot *slot, const siginfo_t *si);
void guard_advance(Guard *guard); /* after every exit: it may have been the last one that the guard's own end waits for */
int guard_keeper_watch(GuardSlot *slot, int take_fd); /* our end of its socket */
int guard_tell_slot(Guard *guard, const GuardSlot *slot);
int guard_open_instance_files(Guard *guard);

/* guard-reexec.c */
void guard_reexec_order(Guard *guard); /* SIGUSR2 */
bool guard_reexec_on_exit(Guard *guard, const siginfo_t *si); /* false: it was not the one that was asked */

/* guard-helper.c: programs that load kernel probes; the supervisor's, and nobody's loss. */
void guard_helpers_find(Guard *guard); /* the programs: looks at their paths, before the loop */
void guard_helper_start(Guard *guard, GuardHelper which, uint32_t word); /* answers HELPER or HELPER_FAILED */
bool guard_helper_on_exit(Guard *guard, const siginfo_t *si); /* false: it was none of them */
void guard_helpers_kill(Guard *guard);
bool guard_helpers_are_gone(const Guard *guard);

/*
 * guard_forks_may_hang() - one of our helpers is attaching to programs, or detaching, and as long as it does a fork waits in the kernel: milliseconds, but for as long as some process does
 * not let go of its memory
 */
bool guard_forks_may_hang(const Guard *guard);

/* guard-children.c */
void guard_add_child(Guard *guard, const struct guard_record *record, int *take_pidfd);
void guard_set_child_end(Guard *guard, const struct guard_record *record, int32_t code, int32_t status);
void guard_child_free(GuardChild *child);
void guard_child_look(GuardChild *child); /* an orphan of a dead keeper: has it ended? */
GuardChild *guard_find_child(Guard *guard, pid_t pid); /* the one that has just ended */
void guard_answer(Guard *guard, const GuardSlot *slot, const struct guard_record *record); /* ASK */
void guard_reap(Guard *guard, uint32_t slot, uint32_t node, uint64_t generation);

/* guard-config.c */
int guard_config_init(Guard *guard);  /* and read it, blocking: before the loop. 0 or a negative errno; what is wrong was logged */
void guard_config_reload(Guard *guard);
void guard_config_on_reader_exit(Guard *guard);

/* guard-scope.c */
void guard_scope_open(Guard *guard);    /* waits, up to 5 s: before the loop. Without one nodes live where they would live otherwise */
void guard_scope_restore(Guard *guard); /* of the guard whose place we took */
void guard_scope_watch(Guard *guard);
void guard_scope_end(Guard *guard);     /* waits, up to 1 s: after the loop */
const char *guard_cgroup_root(const Guard *guard); /* for instance_make() and instance_reopen() */

/* guard-leaf.c */
void guard_leaf_open(Guard *guard); /* waits, up to 5 s: before the loop, and before anything is forked. What does not succeed costs limits only */
void guard_leaf_end(Guard *guard);  /* back to where we came from */

/* guard-watch.c */
void guard_watch_begin(Guard *guard); /* a supervisor was started */
void guard_watch_answer(Guard *guard);
void guard_notify(Guard *guard, const char *text);
void guard_notify_status(Guard *guard, const char *state); /* @state: "READY=1\n" or so, or "" */

/* guard.c */
void guard_order_stop(Guard *guard, GuardMsgType why); /* everything ends */
void guard_give_up_supervisor(Guard *guard); /* it does not answer */
int guard_record_send(int sock, struct guard_record *record, const int *fds, size_t n_fds);
void guard_tell_supervisor(Guard *guard, struct guard_record record);

/* guard_said() - the letters for --said. @ret: room for 8 bytes */
void guard_said(const GuardOptions *options, char ret[8]);

/* guard-fork.c: our processes. They return the pid's pidfd in @ret; 0 or a negative errno. */
int guard_fork_supervisor(Guard *guard, int socket_fd, GuardProcess *ret);
int guard_fork_keeper(Guard *guard, int supervisor_fd, int guard_fd, int listen_fd, GuardProcess *ret);

/* guard.c: an escrow's time has come, and there was nobody to end. The supervisor knows, unless its keeper does not tell it. */
void guard_tell_kept(Guard *guard, uint32_t slot);

/* guard-escrow.c: what was promised, and when it is due. */
int guard_escrow_open(Guard *guard);
int guard_escrow(Guard *guard, uint32_t slot, nsec_t at, nsec_t until, nsec_t term_ns);
int guard_escrow_node(Guard *guard, const struct guard_record *record); /* 0, or -ENOSPC: as many are held as can be */
GuardEscrow *guard_escrow_find(Guard *guard, uint32_t slot, uint32_t node, uint64_t generation); /* generation 0: the slot's. NULL: none */
void guard_escrow_drop(Guard *guard, uint32_t slot, uint32_t node, uint64_t generation); /* that incarnation has ended */
void guard_escrow_drop_slot(GuardSlot *slot);
void guard_escrow_on_child(Guard *guard, const struct guard_record *record); /* somebody was born: too late? */
void guard_escrow_again(GuardEscrow *escrow); /* whoever was sent was killed at its work */
void guard_on_escrow(Guard *guard, const struct guard_record *record, int answer_fd);
bool guard_slot_is_gone(const GuardSlot *slot); /* its directory was removed */

/* guard-enforce.c: processes that carry it out. */
int guard_enforce(GuardEscrow *escrow, bool remove); /* remove, of the instance's: what lies below, too */
void guard_remove_dataflow(Guard *guard, GuardSlot *slot); /* the directory of a slot whose keeper could not do it any more */
bool guard_enforcing(const Guard *guard);
bool guard_enforcing_escrow(const GuardEscrow *escrow);
void guard_forget_enforcers(const GuardSlot *slot); /* another dataflow may have its number: what they say is of none */
bool guard_on_enforcer_exit(Guard *guard, const siginfo_t *si); /* false: it was none */

/* guard-kills.c: in whose cgroups there was killing, until their ends are journalled. */
int guard_kills_open(Guard *guard);
/* By the enforcer, before it kills; the instance: of all slots. */
void guard_kills_note(const GuardEscrow *escrow, unsigned enforcer, struct guard_result *result);
void guard_kills_settle(Guard *guard, unsigned enforcer); /* that one has ended */
const struct guard_kill *guard_kills_find(const Guard *guard, uint32_t slot, const char *name);
void guard_kills_drop(Guard *guard, uint32_t slot, const char *name); /* NULL: all of the slot */
const struct guard_kill *guard_kills_at(const Guard *guard, uint32_t i); /* the i-th of GUARD_MAX_KILLS; NULL: there is none */
void guard_kills_restore(Guard *guard, const struct guard_state_kill *state);
void guard_kills_answer(Guard *guard, const struct guard_record *record);

void guard_process_kill(GuardProcess *process);

#endif
