/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The supervisor: the process that decides. One thread, one loop; it makes no call that can block: it never clones, execs,
 * makes or kills a cgroup, nor opens, stats or closes a path or descriptor that somebody else chose.
 */
#ifndef TG_SUPERVISOR_SUPERVISOR_H
#define TG_SUPERVISOR_SUPERVISOR_H

#include <sys/resource.h>

#include "protocol/guard_msg.h"
#include "supervisor/dataflow.h"
#include "supervisor/journal.h"
#include "supervisor/loop.h"
#include "supervisor/runtime.h"

typedef struct Helper Helper;
typedef struct Private Private;
typedef struct Server Server;
typedef struct Status Status;
typedef struct Prober Prober;
typedef struct Witness Witness;

#define SUPERVISOR_MAX_CONTROLS 2 /* connections of a private instance: one for the run, one for orders */

typedef struct SupervisorOptions {
        int guard_fd;                              /* consumed */
        int control_fds[SUPERVISOR_MAX_CONTROLS]; /* consumed; -1: none. A private instance has both, a daemon none */
        int listen_fd;                             /* a daemon's control socket, listening; consumed; -1: none */
        int node_listen_fd;                        /* a daemon's socket for nodes that connect by name; the same */
        int runtime_fd;                            /* a daemon's runtime directory; consumed; -1: none */
        int lock_fd;                               /* the instance's cgroup directory; consumed; -1: not told */
        nsec_t grace_ns, budget_ns;                /* of the guard's own stops */
        nsec_t watchdog_ns;                        /* what a turn of the loop may take; 0: anything */
        const char *config, *said;                 /* the guard's options, for the guard that it may become; NULL: the usual file, nothing */
        pid_t guard_pid;
        uint64_t epoch;                            /* 1 for the first supervisor of an instance */
        struct rlimit nofile;                      /* RLIMIT_NOFILE for nodes */
} SupervisorOptions;

enum {
        SLOT_KEEPER = 1, /* its keeper was ordered and has not been reaped */
        SLOT_LEFT = 2,   /* somebody would not die there */
};

struct Supervisor {
        Loop loop;
        SupervisorOptions options;
        int signal_fd;
        Source signal_source;
        Timer prompt_timer; /* an ordinary process until then */
        int guard_fd;
        Source guard_source;
        uint64_t epoch;
        bool guard_gone;
        nsec_t enforced_at; /* from when on the guard has killed in the whole instance; 0: it has not */
        int n_astray;       /* regions that were open and in no table, when a dataflow was audited last */
        int guard_pidfd; /* -1: a private instance, or none to be had */
        Private *privates[SUPERVISOR_MAX_CONTROLS];
        struct { /* by one connection of a private instance, before the other one's Run was read */
                bool ordered, force;
                nsec_t grace;
        } stop_first;
        Status *status;    /* a daemon's pages; NULL: a private instance */
        char instance[RUNTIME_NAME_MAX], cgroup[PATH_MAX]; /* of the instance, for people */
        Witness *witness;  /* of who leaves its cgroup; NULL: none was asked for */
        Queues *queues;    /* of how messages wait; NULL: nobody has asked */
        Prober *prober;    /* of what nodes do in the kernel; NULL: nobody has asked */
        Helper *helpers[_GUARD_HELPER_MAX]; /* theirs (helper.h) */
        struct Named *named; /* a daemon's: nodes that connect by name */
        char node_path[PATH_MAX]; /* where */
        Server *server;    /* a daemon's; NULL: a private instance */
        List dataflows;    /* in the order of their start; those that have ended stay until they are forgotten */
        unsigned n_dataflows;
        Dataflow *slots[GUARD_MAX_SLOTS]; /* those that have not ended */
        uint8_t slot_state[GUARD_MAX_SLOTS]; /* SLOT_*: why the number cannot be used again yet */
        Journal journal;   /* a daemon's */
        PacketQueue guard_out;

        /* adopt.c: what the last supervisor left */
        bool adopting;
        nsec_t adopt_began;
        unsigned n_adopted, n_lost, n_duplicated;

        bool ending;       /* everything was ordered to stop: nothing begins any more */
        int exit_code;
        Timer last_words;
        nsec_t last_words_until;
};

int supervisor_main(const SupervisorOptions *options);

/* guard-link.c. Orders to the guard never block; one that cannot be sent is as good as a guard that is gone. */
int guard_link_open(Supervisor *supervisor, int take_fd);
void guard_fork_keeper_order(Supervisor *supervisor, uint32_t slot);
void guard_fork_helper_order(Supervisor *supervisor, GuardHelper which, uint32_t word);
void guard_kill_keeper_order(Supervisor *supervisor, uint32_t slot);
void guard_escrow_order(Supervisor *supervisor, uint32_t slot, nsec_t at, nsec_t until, nsec_t term_ns);
void guard_escrow_node_order(Node *node, const NodeLadder *ladder, bool restart); /* of its present incarnation */
void guard_bye(Supervisor *supervisor, int status);
bool guard_flushed(const Supervisor *supervisor); /* it was sent all that it was told, or there is none */

void guard_slot_free_order(Supervisor *supervisor, uint32_t slot);

/* The guard keeps copies of what an incarnation's successor at the helm would need; a private instance has none. */
void guard_store_order(const Node *node, const struct guard_item *items, const int *fds, size_t n);
void guard_unstore_order(const Node *node);
void guard_forget_dataflow_order(const Dataflow *dataflow); /* audit_on_forgotten() hears the answer */
void guard_reap_order(const Node *node);
void guard_forget_order(const Dataflow *dataflow, uint32_t node, uint64_t generation); /* the same of an earlier incarnation */
void guard_ask_order(const Node *node);
void guard_ask_killed_order(const Node *node); /* answered by node_on_guard_word() */
bool guard_has_unread(const Supervisor *supervisor); /* it has said something that no turn has read */
void guard_replace_order(Supervisor *supervisor); /* it does not answer: it is killed, and its hang-up makes us the guard */
void guard_found_order(Supervisor *supervisor, uint32_t slot, int32_t pid, const int fds[2], const char *cgroup);

/* heir_state() - what the guard needs to know of all this (guard-state.h): a sealed memfd, or a negative errno. What it names stays open over
 * execve. */
int heir_state(Supervisor *supervisor);

/**
 * heir_become_guard() - the guard is gone: this process, which has everything, becomes the guard and forks a supervisor
 *
 * Does not return unless that cannot be done; everything is as before then.
 */
void heir_become_guard(Supervisor *supervisor);

/* heir_find_keeper() - the keeper of a dataflow whose guard died with its supervisor, by its socket's name. True: the guard was told. */
bool heir_find_keeper(Dataflow *dataflow);

static inline bool supervisor_is_private(const Supervisor *supervisor)
{
        return supervisor->options.listen_fd < 0;
}

/**
 * supervisor_start() - begin a dataflow
 * @plan: consumed, whatever is returned
 *
 * Return: 0, -EAGAIN when all slots are in use, -ESHUTDOWN when everything is ending, another negative errno.
 */
int supervisor_start(Supervisor *supervisor, Plan *plan, const DataflowOptions *options, DataflowEventFn fn, Dataflow **ret);

/* supervisor_forget() - free one that has ended. */
void supervisor_forget(Supervisor *supervisor, Dataflow *dataflow);

/* supervisor.c: what its parts tell it. */
void supervisor_dataflow_ended(Supervisor *supervisor, Dataflow *dataflow);
void supervisor_watch_ended(Supervisor *supervisor, Dataflow *dataflow); /* nobody is watched there any more */
void supervisor_dump(Supervisor *supervisor); /* all there is to know, to the log; changes nothing */
void supervisor_look_at_slot(Supervisor *supervisor, uint32_t slot);
void supervisor_stop_all(Supervisor *supervisor, nsec_t grace_ns, bool force, const char *who);

/**
 * adopt_begin() - read the journal: every dataflow in it exists again, and waits for its keeper
 *
 * Reads files of the runtime directory; called before the loop turns.
 *
 * Return: 0, or a negative errno when the journal as a whole cannot be used.
 */
int adopt_begin(Supervisor *supervisor);

/* What the guard and the keepers say of what is there. */
void adopt_stored(Supervisor *supervisor, const struct guard_record *record, int *fds, size_t n_fds); /* takes what is wanted */
void adopt_slot(Supervisor *supervisor, const struct guard_record *record, int *fds, size_t n_fds);   /* likewise */
void adopt_store_end(Supervisor *supervisor);
void adopt_without_keeper(Dataflow *dataflow);
void adopt_look(Supervisor *supervisor);
void adopt_incarnation(Dataflow *dataflow, const KeeperMsg *msg, int *fds); /* likewise */
void adopt_resumed(Dataflow *dataflow, const KeeperMsg *msg);
void adopt_escrow(Dataflow *dataflow, const struct guard_record *record);
void adopt_orphan_exit(Dataflow *dataflow, const struct guard_record *record);

/* What the guard's answers mean for a dataflow (dataflow-keeper.c, dataflow-stop.c). */
void dataflow_on_keeper(Dataflow *dataflow, int32_t pid, int take_sock, int take_pidfd);
void dataflow_on_keeper_failed(Dataflow *dataflow, int error);
void dataflow_on_keeper_gone(Dataflow *dataflow, int code, int status);
void dataflow_on_escrow_ok(Dataflow *dataflow);
void dataflow_on_enforced(Dataflow *dataflow, const struct guard_record *record);

#endif
