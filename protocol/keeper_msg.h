/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper socket: the supervisor's orders to the keeper of one dataflow, and its reports.
 *
 * Transport: SOCK_SEQPACKET unix socket pair made by the guard, which forks the keeper and hands the supervisor its end. One packet
 * is one message of at most KEEPER_MSG_MAX bytes with at most KEEPER_MSG_MAX_FDS descriptors. Neither side ever blocks on
 * it: a supervisor whose packet does not fit treats the keeper as stuck, a keeper stops reading orders until its reports
 * went out. Orders are carried out in order of arrival; SPAWN runs in a thread of its own, so that a program on a path that
 * hangs delays neither other nodes nor the ladder.
 *
 * An incarnation is (node, generation): node is the index in the plan, generation grows from 1.
 *
 *   order (supervisor)            answer (keeper)
 *   BEGIN                         BEGUN | FAILED
 *   SPAWN                         SPAWNED | SPAWN_FAILED; later EXITED (leader), EMPTY (cgroup empty and removed)
 *   CAPTURE                       the same: a process that somebody else started is moved into the cgroup instead (supervisor/capture.h)
 *   SIGNAL                        SIGNALLED
 *   KILL                          KILLING, then EMPTY per incarnation that got empty
 *   LOOK                          LEFT: who is still there
 *   ASTRAY                        (none; ESCAPED) somebody of it was seen to leave: it is told of, and killed
 *   REAP                          (none) the exit is journalled: reap the leader now
 *   END                           COUNTED, ENDED, and the keeper exits; or stays, and says both again when nobody is left. Until then KILL, LOOK and
 *                                 REAP are carried out, of those whose end comes late; other orders are refused
 *   STREAM                        (none) lines go to another log stream from here on
 *   RESUME                        INCARNATION for each that was not REAPed, then RESUMED: a successor of the supervisor asks. Each has the asked_ns of its
 *                                 question: one who died may have left an answer, or half of one, in the socket, which is the same for all of them
 *   GUARD                         (none) the guard was replaced: children register there, and so does the cgroup, at once
 *   LIMIT                         LIMITED: limits were written, or why not
 *   FREEZE                        FREEZE_DONE; the cgroup is frozen, or runs again
 *   PLACE                         PLACED: its threads may run on that CPU alone, or wherever they were born to
 *   WHY                           WHY_SAID: what it and those it waits for do, as a report
 *   SAMPLE                        SAMPLED for each incarnation that lives, then one of KEEPER_NODE_ALL without numbers; all with its asked_ns
 *   MEASURE                       MEASURED for each incarnation that lives, then one of KEEPER_NODE_ALL, whose numbers are the dataflow's own cgroup's; all with
 *                                 the asked_ns of the question
 *   PRESSURE                      (none; UNWATCHED for those that cannot be) conditions are watched for from now on, in place of those before; PRESSED whenever
 *                                 one is met, at most once in its window, until the end of the incarnation
 *   FILES                         FILES_SHOWN, with the asked_ns of the question: what its processes run of was shown to somebody (protocol/queues_msg.h)
 *   ADOPT                         (none) a keeper that took the place of a dead one is told of an incarnation: INCARNATION later
 *
 * Every SPAWN and CAPTURE is answered by SPAWNED or SPAWN_FAILED and ends with exactly one EMPTY, also after SPAWN_FAILED: EMPTY comes when
 * nobody is left in the incarnation's cgroup and its leader has exited, wherever the leader went (after EXITED, if the program
 * ran). An order about an incarnation that is not there (any more) is answered with n = 0. A KILL that overtakes a start calls
 * it off: SPAWN_FAILED with ECANCELED, or SPAWNED and EXITED by SIGKILL. SIGNAL and KILL that arrive during a start are repeated
 * by the keeper once the program runs; that is not answered again. A KILL that overtakes a capture calls it off: the process is not moved, or
 * moved and killed. How a captured process ends nobody sees: code 0. A keeper in the place of another may be given a CAPTURE that was carried out.
 *
 * COUNTED comes before ENDED unless nobody could count in time: what is left below the dataflow's cgroup, nothing if it was removed.
 * ESCAPED may come between SPAWNED and EMPTY of an incarnation.
 * FROZEN comes when the kernel says that an incarnation (or everybody) is frozen, or is not any more, whoever did it. USAGE comes when a limit
 * is first felt, now and then while that goes on, and before the EXITED and the EMPTY of an incarnation that has felt one. REFUSED comes
 * after SPAWNED: limits that could not be set, and that it runs without (lenient).
 *
 * HOME comes when an incarnation's cgroup was made, while its first process is being started there, or moved; and again after its INCARNATION.
 *
 * UNSHOWN may come before ENDED: so many lines of a node never reached the log stream of the last STREAM, which was full. NOTE may come at any time: something a person should read, once (logs cannot be written, a line was cut).
 *
 * Decoding is strict as for the node socket (protocol/node_msg.h). No I/O here.
 */
#ifndef TG_PROTOCOL_KEEPER_MSG_H
#define TG_PROTOCOL_KEEPER_MSG_H

#include <stddef.h>
#include <stdint.h>

#define KEEPER_MSG_MAX      16384
#define KEEPER_MSG_MAX_FDS  6
#define KEEPER_MSG_TEXT_MAX 8192
#define KEEPER_MSG_PATH_MAX 4095
#define KEEPER_MSG_TASKS_MAX 15360 /* bytes of the tasks of LEFT */
#define KEEPER_MSG_MAX_GROUPS 64
#define KEEPER_MSG_MAX_CPU  1023
#define KEEPER_MSG_LIMITS_MAX 2047 /* bytes of limits as text (base/limit.h), and of what is said about them */
#define KEEPER_NODE_ALL     UINT32_MAX /* SIGNAL, KILL, LOOK, LIMIT, FREEZE, FROZEN, USAGE, MEASURED, PRESSURE, PRESSED, UNWATCHED, SAMPLED: every incarnation of the dataflow */

typedef enum KeeperMsgType {
        KEEPER_MSG_BEGIN = 1,
        KEEPER_MSG_SPAWN = 2,
        KEEPER_MSG_SIGNAL = 3,
        KEEPER_MSG_KILL = 4,
        KEEPER_MSG_LOOK = 5,
        KEEPER_MSG_REAP = 6,
        KEEPER_MSG_END = 7,
        KEEPER_MSG_STREAM = 8,
        KEEPER_MSG_RESUME = 10,
        KEEPER_MSG_ADOPT = 11,
        KEEPER_MSG_GUARD = 12,
        KEEPER_MSG_CAPTURE = 13,
        KEEPER_MSG_ASTRAY = 14,
        KEEPER_MSG_LIMIT = 20,
        KEEPER_MSG_FREEZE = 21,
        KEEPER_MSG_PLACE = 22,
        KEEPER_MSG_WHY = 24,
        KEEPER_MSG_MEASURE = 23,
        KEEPER_MSG_PRESSURE = 25,
        KEEPER_MSG_SAMPLE = 27,
        KEEPER_MSG_FILES = 28,

        KEEPER_MSG_BEGUN = 32,
        KEEPER_MSG_FAILED = 33,
        KEEPER_MSG_SPAWNED = 34,
        KEEPER_MSG_SPAWN_FAILED = 35,
        KEEPER_MSG_EXITED = 36,
        KEEPER_MSG_EMPTY = 37,
        KEEPER_MSG_SIGNALLED = 38,
        KEEPER_MSG_KILLING = 39,
        KEEPER_MSG_LEFT = 40,
        KEEPER_MSG_NOTE = 41,
        KEEPER_MSG_ENDED = 42,
        KEEPER_MSG_UNSHOWN = 45,
        KEEPER_MSG_INCARNATION = 43,
        KEEPER_MSG_RESUMED = 44,
        KEEPER_MSG_ESCAPED = 50,
        KEEPER_MSG_COUNTED = 46,
        KEEPER_MSG_LIMITED = 60,
        KEEPER_MSG_FREEZE_DONE = 61,
        KEEPER_MSG_FROZEN = 62,
        KEEPER_MSG_USAGE = 63,
        KEEPER_MSG_REFUSED = 64,
        KEEPER_MSG_PLACED = 65,
        KEEPER_MSG_WHY_SAID = 68,
        KEEPER_MSG_MEASURED = 66,
        KEEPER_MSG_PRESSED = 67,
        KEEPER_MSG_UNWATCHED = 69,
        KEEPER_MSG_HOME = 70,
        KEEPER_MSG_SAMPLED = 71,
        KEEPER_MSG_FILES_SHOWN = 75,
} KeeperMsgType;

#define KEEPER_ESCAPED_ALONE (-1) /* it is not astray: nobody ends it */
#define KEEPER_ESCAPED_GONE  (-2) /* it ended, or came back, before it could be sent anything */

/* Where a spawn failed; the text of SPAWN_FAILED says it in words, with the path. */
typedef enum KeeperStage {
        KEEPER_STAGE_CGROUP = 1,     /* making the incarnation's cgroup */
        KEEPER_STAGE_CLONE = 2,      /* clone3 */
        KEEPER_STAGE_REGISTER = 3,   /* telling the guard */
        KEEPER_STAGE_CREDENTIALS = 4,
        KEEPER_STAGE_CWD = 5,
        KEEPER_STAGE_FDS = 6,
        KEEPER_STAGE_EXEC = 7,
        KEEPER_STAGE_DEADLINE = 8,   /* exec did not come back in time: the child is killed, and quarantined if it will not die */
        KEEPER_STAGE_CAPTURE = 9,    /* the process may not be captured, or could not be moved */
        KEEPER_STAGE_LIMITS = 10,    /* a limit could not be set; the text begins with "KEY=" of it */
} KeeperStage;
#define KEEPER_STAGE_LAST KEEPER_STAGE_LIMITS

/* What was felt of limits, of one incarnation or of the dataflow's own cgroup; counted since it began. */
typedef struct KeeperUsage {
        uint64_t memory_peak;   /* bytes; 0: this kernel does not say */
        uint64_t oom_kills;     /* of the out-of-memory killer here; no number of processes */
        uint64_t oom;           /* how often the limit of this very cgroup was it */
        uint64_t forks_refused; /* pids_max */
        uint64_t n_throttled;   /* periods of cpu_max */
        uint64_t throttled_us;
        uint64_t n_high;        /* how often memory_high slowed it down */
} KeeperUsage;

/* Share of the last 10 s in which some of its tasks, or all that were not idle, waited for a resource. */
typedef enum KeeperPressure {
        KEEPER_PRESSURE_CPU_SOME,
        KEEPER_PRESSURE_CPU_FULL,
        KEEPER_PRESSURE_MEMORY_SOME,
        KEEPER_PRESSURE_MEMORY_FULL,
        KEEPER_PRESSURE_IO_SOME,
        KEEPER_PRESSURE_IO_FULL,
        _KEEPER_PRESSURE_MAX,
} KeeperPressure;
#define KEEPER_PRESSURE_UNKNOWN UINT16_MAX

/* What one incarnation uses at a moment. Unknown: 0, but for what says otherwise. */
typedef struct KeeperMeasure {
        uint64_t at_ns;        /* CLOCK_MONOTONIC */
        uint64_t cpu_ns;       /* since it began; of those that have ended too */
        uint64_t memory;       /* bytes */
        uint64_t memory_peak;  /* bytes */
        uint64_t throttled_ns; /* UINT64_MAX: cpu_max is nobody's business here */
        uint32_t n_processes, n_threads;
        uint8_t summed;        /* no counter of the kernel's: some of it is a sum over /proc */
        uint16_t pressure[_KEEPER_PRESSURE_MAX]; /* hundredths of a percent; KEEPER_PRESSURE_UNKNOWN */
} KeeperMeasure;

/* Can a node write the files of cgroups, and so leave its own? */
typedef enum KeeperCgroupWrite {
        KEEPER_CGROUP_WRITE_UNKNOWN = 0,   /* it does not run */
        KEEPER_CGROUP_WRITE_NO = 1,        /* they are another user's */
        KEEPER_CGROUP_WRITE_READ_ONLY = 2, /* they are mounted read-only where it looks */
        KEEPER_CGROUP_WRITE_POSSIBLE = 3,
} KeeperCgroupWrite;

/* In which system calls the threads of one incarnation were at a moment. */
#define KEEPER_SAMPLE_CALLS 64u
typedef struct KeeperSampleCall {
        uint32_t number;
        uint32_t n; /* threads in it */
} KeeperSampleCall;

typedef struct KeeperSample {
        uint32_t n_threads; /* that were looked at */
        uint32_t n_outside; /* of these: in no call, for they run, or wait for something else */
        uint32_t n_other;   /* of these: in a call for which there was no room below */
        uint32_t n_unseen;  /* besides: that may not be looked at */
        uint32_t n_calls;
        KeeperSampleCall calls[KEEPER_SAMPLE_CALLS];
} KeeperSample;

typedef enum KeeperHaste { /* of a look */
        KEEPER_HASTE_NONE,  /* somebody waits for it, and for all of it */
        KEEPER_HASTE_BRIEF, /* nobody does: a few threads, no stacks, and everything else comes first */
        KEEPER_HASTE_LAST,  /* likewise, at the lowest priority; and not at all where there are more than a few processes: they are to end soon */
        _KEEPER_HASTE_MAX,
} KeeperHaste;

typedef struct KeeperMsg {
        KeeperMsgType type;
        uint32_t node;       /* all but BEGIN, BEGUN, FAILED, NOTE, UNSHOWN, STREAM, MEASURE, SAMPLE, FILES, FILES_SHOWN, END, COUNTED, ENDED */
        uint64_t generation; /* same; 0 together with KEEPER_NODE_ALL */
        union {
                struct { /* BEGIN; fds: the log stream to the client (protocol/log_msg.h), if has_log_stream */
                        const char *uuid;     /* text form; also the name of the dataflow's cgroup */
                        const char *name;
                        const char *log_dir;  /* absolute; "" for no log files. Made by the logger with the caller's credentials */
                        uint32_t slot;        /* the guard's number for this dataflow */
                        uint32_t uid, gid;    /* credentials of the nodes and the logger */
                        uint8_t has_log_stream;
                        uint8_t persistent; /* supervisors come and go: incarnations are remembered until REAP, and outlive everybody */
                        uint8_t takeover;   /* the dataflow's cgroup is there already: a keeper before this one made it and died */
                        uint32_t n_groups; /* supplementary; 0: the keeper's own if uid and gid are, else none */
                        uint32_t groups[KEEPER_MSG_MAX_GROUPS];
                        const char *limits;   /* of the dataflow's own cgroup; "" */
                        uint32_t controllers; /* LIMIT_CONTROLLER_*: needed by a limit of anybody */
                        uint8_t pressure;     /* somebody's conditions are the kernel's to watch for: BEGUN says whether it does */
                } begin;
                struct { /* SPAWN; fds: spec memfd (see KeeperSpec), stdout write, stderr write, stdout read, stderr read, and
                          * the node socket if has_socket */
                        const char *id;       /* node id; the cgroup is "<id>.<generation>" */
                        uint64_t spec_size;   /* bytes of the spec */
                        uint64_t deadline_ns; /* absolute: by then execve has succeeded or the spawn is given up */
                        uint8_t has_socket;
                        uint8_t cgroup_writable; /* no mount namespace in which cgroups are read-only */
                        const char *limits; /* written before anybody is born there; "" */
                        uint8_t lenient;    /* one that cannot be set is told, and does not hinder it */
                } spawn;
                struct { /* CAPTURE; fds: pidfd of the process */
                        const char *id;       /* as in SPAWN */
                        uint64_t deadline_ns; /* absolute: it is not moved later than that */
                        const char *limits;   /* as in SPAWN */
                        uint8_t lenient;
                } capture;
                struct { /* SIGNAL: to every process of the cgroup, by pidfd; SIGTERM is followed by SIGCONT */
                        int32_t signo;
                } signal;
                struct { /* KILL: cgroup.kill, then SIGKILL by pidfd for whoever is left, again until populated 0 */
                        uint64_t until_ns; /* absolute: sweep until then */
                } kill;
                struct { /* LIMIT: set them now, one after the other; the first that fails ends it */
                        const char *limits;
                } limit;
                struct { /* FREEZE */
                        uint8_t frozen; /* else: thaw */
                        uint64_t deadline_ns; /* absolute: until then the kernel's word is waited for */
                } freeze;
                struct { /* PLACE */
                        uint32_t cpu; /* number + 1; 0: no place any more */
                } place;
                struct { /* MEASURE */
                        uint64_t asked_ns;
                } measure;
                struct { /* PRESSURE */
                        const char *conditions; /* pressure_put() */
                } pressure;
                struct { /* PRESSED */
                        uint32_t index; /* of the condition */
                        uint64_t measured; /* so much was waited (ns), or so often it was felt, ... */
                        uint64_t over_ns;  /* ... in so long; 0: as much as the condition says, at least */
                        uint16_t average; /* of the last 10 s, in hundredths of a percent; KEEPER_PRESSURE_UNKNOWN */
                } pressed;
                struct { /* UNWATCHED */
                        const char *text; /* a line "INDEX=reason" each */
                } unwatched;
                struct { /* MEASURED */
                        uint64_t asked_ns;
                        KeeperMeasure measure;
                } measured;
                struct { /* SAMPLE */
                        uint64_t asked_ns;
                } sample;
                struct { /* SAMPLED */
                        uint64_t asked_ns;
                        KeeperSample sample;
                } sampled;
                struct { /* FILES; fds: where to */
                        uint64_t asked_ns;
                } files;
                struct { /* FILES_SHOWN */
                        uint64_t asked_ns;
                        uint64_t cgroup_id; /* of the dataflow's directory; 0 with an error */
                        int32_t error;      /* errno: EAGAIN too many ask, ETIMEDOUT; 0: all were shown */
                } files_shown;
                struct { /* WHY; fds: what the supervisor knows of the dataflow's links (JSON) */
                        uint64_t asked;       /* which of the questions it is: comes back */
                        uint64_t deadline_ns; /* absolute: what was seen until then is the answer */
                        uint8_t freeze;       /* its cgroup stands still while memory is read */
                        uint8_t haste;        /* KeeperHaste */
                } why;
                struct { /* WHY_SAID; fds: the report (one line of JSON), if size is not 0 */
                        uint64_t asked;
                        int32_t error; /* errno: ESRCH nobody is there, EAGAIN too many ask, ETIMEDOUT; 0: there is a report */
                        uint32_t size; /* bytes */
                } why_said;
                struct { /* PLACED */
                        int32_t error;  /* errno of the first thread that could not be moved; 0 */
                        uint32_t n_own; /* threads that run where somebody else has put them: left alone */
                } placed;
                struct { /* REAP: nothing more */
                        uint8_t unused;
                } reap;
                struct { /* STREAM; fds: the log stream (protocol/log_msg.h), in place of the one there was. A reader that hangs up ends it */
                        uint8_t unused;
                } stream;
                struct { /* END: remove the dataflow's cgroup, flush and end the logger, exit */
                        uint64_t deadline_ns;
                        uint8_t stay; /* somebody would not die: do all that but exit, and stay with them until they are gone */
                } end;
                struct { /* BEGUN */
                        const char *cgroup; /* absolute path of the dataflow's cgroup, for people and for the last resort */
                        uint32_t controllers; /* LIMIT_CONTROLLER_*: whose limits can be set here */
                        const char *missing;  /* why not: a line "CONTROLLER=reason" for each other one. "pressure=": no pressure is counted; "pressure_window=":
                                               * it is, and watched in windows of whole PRESSURE_UNPRIVILEGED alone */
                        const char *refused;  /* of the dataflow's own limits: a line "KEY=reason" each */
                } begun;
                struct { /* FAILED: BEGIN failed */
                        int32_t error; /* errno */
                        const char *text;
                } failed;
                struct { /* SPAWNED; fds: pidfd */
                        int32_t pid; /* for display only */
                        KeeperCgroupWrite cgroup_write;
                } spawned;
                struct { /* SPAWN_FAILED */
                        KeeperStage stage;
                        int32_t error;
                        const char *text; /* "cannot execute /x/y: Permission denied (no execute bit)" */
                } spawn_failed;
                struct { /* EXITED: the leader; from waitid(WNOWAIT). Others of the tree may live on */
                        int32_t code;   /* CLD_EXITED, CLD_KILLED, CLD_DUMPED; 0: it was captured */
                        int32_t status; /* exit code or signal */
                } exited;
                struct { /* EMPTY: populated 0, cgroup removed (or not: removed 0, it stays and is listed by LEFT) */
                        uint8_t removed;
                        uint32_t n_killed; /* processes that got SIGKILL from our sweep or were there at cgroup.kill */
                        uint64_t killed_at_ns; /* CLOCK_MONOTONIC: when that began; 0: never */
                } empty;
                struct { /* SIGNALLED, KILLING: how many processes were there */
                        uint32_t n;
                        int32_t error; /* first errno worth telling, or 0 */
                        uint64_t at_ns; /* CLOCK_MONOTONIC: when they were counted, which is before it */
                } signalled;
                struct { /* LEFT: n tasks, of which the first n_tasks are told of (protocol/task_msg.h, back to back) */
                        uint32_t n;
                        uint8_t kind; /* TaskKind: the verdict on all n; 0: nobody is there */
                        uint32_t n_tasks;
                        const void *tasks;
                        uint32_t tasks_size; /* bytes */
                } left;
                struct { /* ASTRAY */
                        int32_t pid;
                        uint64_t start_ns; /* CLOCK_BOOTTIME: when it began */
                        uint8_t alone;     /* told of only */
                        const char *comm, *to; /* for display; to: path in the hierarchy, or "" */
                } astray;
                struct { /* ESCAPED: once for each process that is found outside of its incarnation's cgroup */
                        int32_t pid;   /* for display only */
                        int32_t signo; /* what it was sent at once; 0: nothing yet, it is killed before EMPTY; or KEEPER_ESCAPED_* */
                        const char *comm;
                        const char *from, *to; /* "<uuid>/<cgroup>"; path in the hierarchy */
                } escaped;
                struct { /* UNSHOWN: of a node of the plan, whatever its incarnation */
                        uint32_t node;
                        uint64_t n_lines;
                } unshown;
                struct { /* NOTE */
                        const char *text;
                } note;
                /* GUARD; fds: the socket. No fields */
                struct { /* ADOPT; fds: stdout read, stderr read */
                        const char *id;
                        const char *limits; /* that it was begun with, for those who look what is felt of them */
                } adopt;
                struct { /* RESUME */
                        uint64_t asked_ns; /* no two supervisors ask at the same time */
                } resume;
                struct { /* INCARNATION; fds: pidfd, if has_pidfd */
                        uint64_t asked_ns;
                        uint8_t has_pidfd;
                        uint8_t starting; /* its start is under way */
                        uint8_t spawned;  /* SPAWNED was the answer */
                        uint8_t failed;   /* SPAWN_FAILED was; stage, error and text are its */
                        uint8_t exited;   /* EXITED was reported; code 0: how is not known here */
                        uint8_t over;     /* EMPTY was reported */
                        uint8_t removed;
                        int32_t pid, code, status, error;
                        uint32_t n_killed;
                        uint64_t killed_at_ns; /* as in EMPTY */
                        KeeperStage stage;
                        KeeperCgroupWrite cgroup_write;
                        const char *text;
                        uint8_t frozen;
                        const char *refused; /* limits that it runs without, as in REFUSED */
                } incarnation;
                struct { /* RESUMED */
                        uint8_t begun;
                        uint8_t takeover; /* it was begun in the place of another: what that one spawned it knows only if it was told (ADOPT) */
                        const char *cgroup; /* as in BEGUN; "" before it */
                        uint32_t controllers; /* likewise */
                        const char *missing, *refused;
                        uint8_t frozen; /* the dataflow's own cgroup was, by order */
                        uint64_t asked_ns;
                } resumed;
                struct { /* COUNTED */
                        uint32_t n_processes, n_cgroups;
                } counted;
                struct { /* LIMITED */
                        int32_t error; /* errno of the first that could not be set; 0: all were */
                        const char *text; /* "KEY=reason" */
                } limited;
                struct { /* FREEZE_DONE */
                        uint8_t frozen; /* what it is now */
                        int32_t error;  /* ETIMEDOUT: the kernel has not said so in time; EAGAIN: somebody is being started */
                } freeze_done;
                struct { /* FROZEN */
                        uint8_t frozen;
                } frozen;
                struct { /* USAGE */
                        KeeperUsage usage;
                        uint8_t again; /* said before: the answer to RESUME */
                } usage;
                struct { /* HOME */
                        uint64_t cgroup_id; /* inode number of its directory, by which the kernel knows it */
                } home;
                struct { /* REFUSED */
                        const char *text; /* a line "KEY=reason" each */
                } refused;
                struct { /* ENDED */
                        uint8_t removed; /* the dataflow's cgroup is gone */
                        uint8_t logged;  /* every log line was written; what is missing a NOTE has told */
                        uint8_t stays;   /* with incarnations that are not over: EMPTY for each, and another ENDED follow */
                } ended;
        };
} KeeperMsg;

/* What to execute, in a memfd written by the supervisor (wire encoding, see protocol/wire.h). */
#define KEEPER_SPEC_MAX (4u << 20)
typedef struct KeeperSpec {
        char **argv; /* NULL-terminated; argv[0] is the program, looked up in PATH of env if it has no slash */
        char **env;  /* NULL-terminated, "K=V", complete */
        const char *cwd;
        uint32_t *cpus; /* n_cpus numbers; none: inherit */
        uint32_t n_cpus;
        uint32_t umask;
        uint32_t batch; /* 1: in the scheduling class SCHED_BATCH, in which a wake-up preempts nobody */
        uint64_t nofile_soft, nofile_hard; /* RLIMIT_NOFILE of the node (the caller's); ours are raised */
} KeeperSpec;

int keeper_msg_encode(const KeeperMsg *msg, void *buffer, size_t size); /* bytes, or -EMSGSIZE */
int keeper_msg_decode(KeeperMsg *msg, void *packet, size_t size);       /* 0 or -EPROTO; strings point into packet */
int keeper_msg_n_fds(const KeeperMsg *msg);                            /* -1: unknown type */
int keeper_msg_is_order(KeeperMsgType type);
const char *keeper_msg_name(KeeperMsgType type);

/* keeper_spec_encode() - bytes written, or -EMSGSIZE. @buffer NULL: only count. */
int64_t keeper_spec_encode(const KeeperSpec *spec, void *buffer, size_t size);
/* keeper_spec_decode() - @ret's arrays are allocated (keeper_spec_done), its strings point into @buffer. 0, -EPROTO, -ENOMEM. */
int keeper_spec_decode(KeeperSpec *ret, void *buffer, size_t size);
void keeper_spec_done(KeeperSpec *spec);

#endif
