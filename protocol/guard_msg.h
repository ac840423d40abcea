/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guard's records: fixed size, no strings to parse, over SOCK_SEQPACKET, never blocking on either side.
 *
 * Who writes what: the supervisor, the client of a private instance (`tidegate run`), each keeper, and each child before its
 * execve; each kind of peer has a socket of its own (children share their keeper's). The epoch is the supervisor's number:
 * records of an older epoch are ignored. Times are absolute CLOCK_MONOTONIC nanoseconds.
 *
 * A slot is the guard's number for one enforceable cgroup. GUARD_SLOT_INSTANCE is the instance's own directory, below which
 * everything else lives; slots of dataflows are given out by the supervisor, from 1.
 *
 * An escrow is "cgroup X, time T": from T on the guard kills and sweeps X until populated 0 or until the kill budget's end. It
 * cannot be taken back and only ever moves earlier. The guard drops it with the cgroup's directory, the slot, or the incarnation's REAP.
 */
#ifndef TG_PROTOCOL_GUARD_MSG_H
#define TG_PROTOCOL_GUARD_MSG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GUARD_MAGIC         UINT32_C(0x54475244)
#define GUARD_SLOT_INSTANCE 0u
#define GUARD_MAX_SLOTS     256u
#define GUARD_NAME_MAX      256u /* of a cgroup's directory, with its NUL */
#ifndef GUARD_MAX_NODE_ESCROWS /* smaller in a fuzz target */
#define GUARD_MAX_NODE_ESCROWS 512u /* escrows of single incarnations at a time */
#endif

typedef enum GuardMsgType {
        /* supervisor to guard */
        GUARD_MSG_HELLO = 1,       /* epoch: the supervisor is up and its loop turns */
        GUARD_MSG_FORK_KEEPER = 2, /* slot */
        GUARD_MSG_ESCROW = 3,      /* slot, at, until, term_ns; also from the client. Answered by ESCROW_OK. Of one incarnation: slot, node,
                                    * generation, at, until, text as in REAP, status: 1 if another is to follow; until its REAP */
        GUARD_MSG_KILL_KEEPER = 4, /* slot: it is stuck */
        GUARD_MSG_BYE = 5,         /* the supervisor is about to exit in good order; status: exit code for the client */
        GUARD_MSG_REAP = 6,        /* an incarnation's end is journalled: slot, node, generation; text: its cgroup, "<id>.<generation>" */
        GUARD_MSG_STORE = 8,       /* node, generation, count items; fds: one an item. Kept for the next supervisor */
        GUARD_MSG_UNSTORE = 9,     /* slot, node, generation: close what was stored of it */
        GUARD_MSG_FORGET = 10,     /* slot: its dataflow has ended: close all that was stored of it. Answered by FORGOTTEN */
        GUARD_MSG_FORK_HELPER = 11, /* count: which (GuardHelper); node: a word for it. Answered by HELPER or HELPER_FAILED. One that there was is killed */
        GUARD_MSG_ASK = 12,        /* slot, node, generation: what became of it? Answered by ORPHAN_EXITED, when it has ended */
        GUARD_MSG_FOUND = 14,      /* slot, pid, text: its cgroup; fds: keeper socket, keeper's pidfd: a keeper of a daemon that died. Answered by SLOT */
        GUARD_MSG_PONG = 13,       /* the answer to PING: its loop turns */
        GUARD_MSG_ASK_KILLED = 15, /* slot, node, generation, text as in REAP: did you kill anybody there? Answered by KILLED */
        GUARD_MSG_SLOT_FREE = 7,   /* slot: its dataflow has ended, another may have the number; refused while anybody lives there */
        /* keeper to guard */
        GUARD_MSG_CGROUP = 16, /* slot; fds: directory, cgroup.kill (write), cgroup.events (read) */
        /* child to guard, before execve */
        GUARD_MSG_CHILD = 17, /* slot, node, generation, pid; fds: its own pidfd */
        /* guard to supervisor */
        GUARD_MSG_KEEPER = 32,        /* slot, pid; fds: the supervisor's end of the keeper socket, pidfd */
        GUARD_MSG_KEEPER_FAILED = 33, /* slot, error */
        GUARD_MSG_KEEPER_GONE = 34,   /* slot, code, status */
        GUARD_MSG_ESCROW_OK = 35,     /* slot, node, generation, at; to whoever asked */
        GUARD_MSG_ESCROW_REFUSED = 47, /* the same, of an incarnation; error ENOSPC: GUARD_MAX_NODE_ESCROWS are held */
        GUARD_MSG_ESCROWED = 52,      /* slot, node, generation, at, until, status as in ESCROW: what is held of single incarnations, after SLOT */
        GUARD_MSG_CLIENT_GONE = 36,
        GUARD_MSG_ORPHAN_EXITED = 37, /* slot, node, generation, code, status: a child whose keeper is dead. Code 0: not known how;
                                       * then error ENOENT: it never ran; EAGAIN: if it ran, it registered with another guard */
        GUARD_MSG_STOP = 38,          /* the guard was asked to end (SIGTERM, SIGINT): stop everything */
        GUARD_MSG_STORED = 39,        /* as STORE: what the last supervisor left */
        GUARD_MSG_SLOT = 40,          /* slot in use, at: its escrow or UINT64_MAX; left: 0 when nobody lives there; fds: keeper socket and pidfd, or none when it is dead; and a third
                                       * when the keeper knows another guard: the socket that it is to use (KEEPER_MSG_GUARD) */
        GUARD_MSG_STORE_END = 41,     /* that was all; count: descriptors that had found no room in the store */
        GUARD_MSG_PING = 44,
        GUARD_MSG_ENFORCING = 45,     /* slot, at; of one incarnation: node, generation: an escrow's time has come. Before anybody is killed, and told
                                       * to each supervisor that follows */
        GUARD_MSG_KILLED = 46,        /* slot, node, generation, count: processes that were there when the guard killed, 0 for none; at: when */
        GUARD_MSG_FORGOTTEN = 53,     /* slot, count, left: regions, and sockets and pipes, that are stored of it all the same */
        GUARD_MSG_HELPER = 54,        /* count: which, pid; fds: its socket (protocol/witness_msg.h, protocol/prober_msg.h, protocol/queues_msg.h), pidfd */
        GUARD_MSG_HELPER_FAILED = 55, /* count, error; ENOTSUP: nodes have no cgroup */
        GUARD_MSG_RELOAD = 42,        /* SIGHUP: the configuration was read anew. at: grace, until: kill budget, term: watchdog, as spans */
        GUARD_MSG_DUMP = 43,          /* SIGUSR1 */
        /* guard to client */
        GUARD_MSG_READY = 48,    /* text: the instance's cgroup directory; fds: none */
        GUARD_MSG_FAILED = 49,   /* error, text: the instance could not be set up */
        GUARD_MSG_ENFORCED = 50, /* slot, count: the guard had to enforce; left: processes still there at the end; at: when it began to kill; n_named */
        GUARD_MSG_SUPERVISOR_GONE = 51, /* code, status: it died; the guard ends everything */
} GuardMsgType;

typedef enum GuardItemKind { /* what a stored descriptor is; index: of the output or input */
        GUARD_ITEM_SOCKET = 1, /* our end of the node socket */
        GUARD_ITEM_CONTROL,
        GUARD_ITEM_BELL,
        GUARD_ITEM_RING,
        GUARD_ITEM_POOL,
        GUARD_ITEM_CURSOR,
        GUARD_ITEM_STDOUT, /* read ends */
        GUARD_ITEM_STDERR,
        _GUARD_ITEM_MAX,
} GuardItemKind;

#define GUARD_MAX_ITEMS 8

typedef enum GuardHelper { /* programs beside tidegated that a supervisor has started; nobody's loss */
        GUARD_HELPER_WITNESS, /* who leaves its cgroup */
        GUARD_HELPER_PROBER,  /* loads a probe, hands it over, and ends; its word: how many places for nodes */
        GUARD_HELPER_QUEUES,  /* attaches to the files that nodes run of; its word: how many places for links */
        _GUARD_HELPER_MAX,
} GuardHelper;

struct guard_item {
        uint16_t kind; /* GuardItemKind */
        uint16_t index;
};

struct guard_record {
        uint32_t magic;
        uint16_t type;
        uint16_t reserved;
        uint64_t epoch;
        uint32_t slot;
        uint32_t node;
        uint64_t generation;
        uint64_t at_ns;    /* ESCROW: T */
        uint64_t until_ns; /* ESCROW: the kill budget's end */
        uint64_t term_ns;  /* ESCROW: span before T in which the guard sends SIGTERM first; 0 for none */
        int32_t pid;
        int32_t code;   /* CLD_* */
        int32_t status;
        int32_t error;
        uint32_t count;
        uint32_t left;
        union {
                uint32_t n_named; /* ENFORCED: of the count, those that KILLED tells of */
                char text[512];   /* NUL-terminated */
                struct guard_item items[GUARD_MAX_ITEMS];
        };
};
_Static_assert(sizeof(struct guard_record) == 592, "shared by guard, supervisor, keeper, child and client");

typedef enum GuardSender {
        GUARD_SENDER_SUPERVISOR,
        GUARD_SENDER_KEEPER, /* and its children */
        GUARD_SENDER_CLIENT,
        GUARD_SENDER_GUARD, /* to the supervisor */
} GuardSender;

/**
 * guard_msg_check() - is this packet one that its sender may send?
 * @from:   by the socket that it came from
 * @size:   received; @record is read only if it is a whole record
 * @n_fds:  that came with it
 *
 * After 0 its type is the sender's to use, slot is below GUARD_MAX_SLOTS, and not the instance's where a dataflow is meant, texts that the
 * type has end in NUL, a cgroup's name is one component and belongs to the generation, items are of known kinds with a descriptor
 * each. Node and times may be anything, and so may what the type does not use. Pure.
 *
 * Return: 0 or -EPROTO.
 */
int guard_msg_check(GuardSender from, const struct guard_record *record, size_t size, size_t n_fds);

/* guard_name_is_of() - the name of an incarnation's cgroup, "<id>.<generation>", ended by NUL within @room and GUARD_NAME_MAX */
bool guard_name_is_of(const char *name, size_t room, uint64_t generation);
bool guard_path_is_good(const char *path, size_t room); /* absolute, or "" */
bool guard_item_is_good(const struct guard_item *item);

#endif
