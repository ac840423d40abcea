/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A keeper in a process of its own, and a test that plays its supervisor and its guard. Every wait has a deadline; a
 * message that does not come, or a wrong one, fails the test.
 */
#ifndef TG_TESTS_SUPERVISOR_KEEPER_FIXTURE_H
#define TG_TESTS_SUPERVISOR_KEEPER_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "protocol/guard_msg.h"
#include "protocol/keeper_msg.h"
#include "protocol/log_msg.h"
#include "testgroup.h"

#define FX_SPAN (20 * NSEC_PER_SEC) /* for what must come; generous, for sanitizers on a busy machine */

typedef struct Fixture {
        TestGroup group; /* the instance's */
        int supervisor, guard; /* our ends; -1 once hung up */
        int stream;            /* the log stream, to be read */
        int keeper;            /* pidfd */
        pid_t keeper_pid;
        char dir[64];      /* a temporary directory */
        char log_dir[384]; /* below it; "" for none */
        char dataflow[1024];
        unsigned n_notes;
        char note[KEEPER_MSG_TEXT_MAX + 1]; /* the last one */
        uint32_t uid, gid;
        int n_fds; /* of the keeper, after BEGIN */
} Fixture;

typedef struct FxMsg {
        KeeperMsg msg; /* strings point into packet */
        int fd;        /* SPAWNED: closed by the next fx_receive */
        char packet[KEEPER_MSG_MAX];
} FxMsg;

typedef struct FxSpawn {
        uint32_t node;
        uint64_t generation; /* 0: 1 */
        const char *id;      /* NULL: "n<node>" */
        char *const *argv;
        char *const *env; /* NULL: PATH only */
        const char *cwd;  /* NULL: "/" */
        uint32_t *cpus;
        uint32_t n_cpus;
        uint64_t nofile; /* 0: 1024 */
        nsec_t span;     /* until the deadline; 0: FX_SPAN */
        int socket;      /* the node socket to give, consumed; 0: none */
        bool bad_spec;   /* send garbage */
        bool cgroup_writable;
        int *keep_out;   /* set to a copy of stdout's write end that the test keeps */
} FxSpawn;

Fixture *fx_open(void); /* keeper running, nothing ordered yet */
void fx_begin(Fixture *fx);
Fixture *fx_new(void); /* both */

void fx_order(Fixture *fx, const KeeperMsg *msg, const int *fds, int n_fds);
void fx_spawn(Fixture *fx, const FxSpawn *spawn);
void fx_signal(Fixture *fx, uint32_t node, int signo);
void fx_kill(Fixture *fx, uint32_t node, nsec_t span); /* generation 1, or everybody's */

bool fx_receive(Fixture *fx, FxMsg *ret, nsec_t span); /* false: nothing came */
FxMsg *fx_expect(Fixture *fx, KeeperMsgType type);     /* the next one that is no NOTE or HOME must be this; static storage. Ends (EXITED,
                                                        * EMPTY) may come before a SIGNALLED or KILLING: they come again after it */
FxMsg *fx_wait(Fixture *fx, KeeperMsgType type);       /* reads on until this one comes */
pid_t fx_start(Fixture *fx, const FxSpawn *spawn);     /* spawn and expect SPAWNED; the pid */
void fx_reap(Fixture *fx, uint32_t node);

void fx_line(Fixture *fx, LogMsg *ret, char packet[static LOG_MSG_MAX]); /* next of the log stream */
/* the node's log file; allocated, "" when there is none */
char *fx_log(Fixture *fx, const char *id);
/* next record to the guard; first fd, others closed */
struct guard_record fx_guard(Fixture *fx, int *ret_fd);

pid_t fx_logger(Fixture *fx);    /* the logger's pid */
int fx_fds(Fixture *fx);          /* open descriptors of the keeper */
void fx_expect_fds(Fixture *fx); /* as many as after BEGIN again, within a few orders and their answers */
bool fx_end(Fixture *fx, nsec_t span); /* END, ENDED, exit 0; returns clean */
const char *fx_left(const FxMsg *left); /* the tasks of LEFT, a line each; until the next call */
void fx_close(Fixture *fx); /* fx_end when that was not done; asserts that nothing is left anywhere */
nsec_t fx_cpu(Fixture *fx);           /* time the keeper's loop has spent on a processor */
void fx_expect_idle(Fixture *fx);     /* it spends next to none of it now */
void fx_wait_exit(Fixture *fx, nsec_t span, int status);

#endif
