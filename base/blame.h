/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a task waits for, and who could end that: the names of causes, and the parsers of those files of /proc and of those answers of the kernel
 * that say so (base/task.h has what a task does). No I/O but blame_unix_peer(), which asks the kernel about one socket. Nothing allocates.
 *
 * Does not know: nodes, links, who asks.
 */
#ifndef TG_BASE_BLAME_H
#define TG_BASE_BLAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Why a node makes no progress. Of several tasks with different ones the highest is told as the node's: what holds all of it, then what will
 * not end by itself, then what may, then plain waits.
 */
typedef enum BlameCause {
        BLAME_UNKNOWN,
        BLAME_EXITING,     /* on its way out */
        BLAME_WAITING,     /* to be woken, by whom the kernel does not say: a condition, an eventfd, a connection to come */
        BLAME_SLEEPING,    /* for a time, or until a signal */
        BLAME_INPUT,       /* libtidegate: no message */
        BLAME_PIPE_EMPTY,
        BLAME_PEER_SILENT, /* of a socket */
        BLAME_CHILD,
        BLAME_MUTEX,       /* held by another task, which does something else */
        BLAME_PEER_DEAD,   /* nobody else has the other end */
        BLAME_CONNECT,
        BLAME_FIFO_OPEN,
        BLAME_BACKPRESSURE, /* libtidegate: no room */
        BLAME_PIPE_FULL,
        BLAME_BUSY,
        BLAME_FILE_LOCK,
        BLAME_SIGNALS,
        BLAME_STARVED,     /* it could run, and others do */
        BLAME_FILE_SYSTEM,
        BLAME_PAGE_FAULT,
        BLAME_DEADLOCK,
        BLAME_MEMORY_HIGH,
        BLAME_THROTTLED,
        BLAME_OOM,
        BLAME_STOPPED,
        BLAME_TRACED,
        BLAME_FROZEN,
        _BLAME_CAUSE_MAX,
} BlameCause;

const char *blame_cause_to_string(BlameCause cause); /* "pipe-full" */

/* The registers of /proc/PID/task/TID/syscall. */
typedef struct BlameCall {
        int32_t number; /* -1: in none */
        bool known;     /* sp and pc are set: it does not run */
        uint64_t args[6];
        uint64_t sp, pc;
} BlameCall;

/* Of /proc/PID/task/TID/schedstat, nanoseconds since it began: on a CPU, and waiting for one. */
typedef struct BlameSched {
        uint64_t run, wait;
} BlameSched;

/* Of stat, what base/task.h leaves out. */
typedef struct BlameStat {
        int32_t parent, processor;
        uint32_t priority, policy; /* of real-time classes, else 0; SCHED_* */
        bool exiting;
} BlameStat;

typedef struct BlameSignals {
        uint64_t pending, blocked, caught; /* bit n - 1 for signal n; pending: of thread or process */
} BlameSignals;

/* A waiter of /proc/locks and who is in its way. */
typedef struct BlameLock {
        int32_t holder;   /* pid; 0 or -1: not to be seen from here */
        char kind[12];    /* "FLOCK", "POSIX", "OFDLCK", "LEASE" */
        uint64_t inode;
} BlameLock;

/* Of /proc/net/tcp and tcp6. */
typedef struct BlameTcp {
        char local[64], remote[64]; /* "127.0.0.1:80", "[::1]:80" */
        unsigned state;             /* TCP_SYN_SENT and so on */
        uint64_t inode;
} BlameTcp;

/* The parsers, each of the NUL-terminated text of its file. False: that is no such text. */
bool blame_parse_call(const char *text, BlameCall *ret);
bool blame_parse_sched(const char *text, BlameSched *ret);
bool blame_parse_stat(const char *text, BlameStat *ret);
bool blame_parse_signals(const char *text, BlameSignals *ret);
bool blame_parse_lock(const char *text, int32_t pid, BlameLock *ret); /* the first that @pid waits for */
bool blame_parse_tcp(const char *line, bool v6, BlameTcp *ret);       /* one line that is not the first */
bool blame_parse_target(const char *target, const char *kind, uint64_t *ret_inode); /* "pipe:[12]" of kind "pipe" */
bool blame_field(const char *text, const char *key, uint64_t *ret); /* "key value" or "key:\tvalue", a line each, decimal */

/* blame_parse_inner() - of status: its number in the innermost PID namespace that it is in; 0: it is in none but the reader's. */
int32_t blame_parse_inner(const char *text);

/* blame_parse_epoll() - descriptors that an epoll waits for, of its fdinfo. Return: how many were written to @ret. */
size_t blame_parse_epoll(const char *text, int *ret, size_t max);

/* blame_address() - of a socket address as it was given to the kernel: "/run/x.sock", "@name", "127.0.0.1:80". */
const char *blame_address(const void *address, size_t size, char *buffer, size_t room);

const char *blame_tcp_state(unsigned state); /* "SYN_SENT" */

/* A unix socket. */
typedef struct BlameUnix {
        uint64_t peer;  /* inode; 0: it has none (any more) */
        unsigned type, state;
        uint32_t n_in;  /* bytes, or of a listening one connections, that wait to be taken */
        bool dead;      /* the other end was closed or shut for good */
        bool gone;      /* it is connected, and the other end is nobody's: closed, or not accepted yet */
        char name[112]; /* "" */
} BlameUnix;

/* blame_unix_peer() - ask @diag_fd (NETLINK_SOCK_DIAG, of that network namespace) about socket @inode. False: there is none, or it cannot be told. */
bool blame_unix_peer(int diag_fd, uint64_t inode, BlameUnix *ret);

/* blame_unix_listener() - the listening socket that has not accepted socket @inode yet. Return: its inode; 0: none is known. */
uint64_t blame_unix_listener(int diag_fd, uint64_t inode);

#endif
