/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper's own state, shared by its files: keeper.c (life and orders), keeper-report.c (the way back),
 * keeper-node.c (incarnations), keeper-spawn.c, keeper-capture.c and keeper-adopt.c (how they begin), keeper-output.c
 * (what nodes print), keeper-limits.c (limits and the freezer).
 */
#ifndef TG_SUPERVISOR_KEEPER_INTERNAL_H
#define TG_SUPERVISOR_KEEPER_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/list.h"
#include "base/pressure.h"
#include "base/task.h"
#include "protocol/keeper_msg.h"
#include "protocol/log_msg.h"
#include "supervisor/confine.h"
#include "supervisor/keeper-feed.h"
#include "supervisor/keeper-jobs.h"
#include "supervisor/keeper-loop.h"
#include "supervisor/keeper-reader.h"
#include "supervisor/keeper-stream.h"
#include "base/enforcer.h"
#include "supervisor/reaper.h"
#include "supervisor/spawn.h"
#include "supervisor/stray.h"

#define REPORTS_MAX      1024                 /* beyond: no orders are read, and notes are dropped */
#define OUTPUT_LAST_MAX  (1024 * 1024)        /* read from a pipe after the node's end: all that a pipe can hold */
#define REMOVE_SPAN      (2 * NSEC_PER_SEC)   /* for EBUSY after the last exit */
#define ALONE_WAIT_SPAN  (60 * NSEC_PER_SEC)  /* nobody is left, and neither guard nor supervisor: how long exits are kept for the next ones */
#define ALONE_KILL_SPAN  (2 * NSEC_PER_SEC)   /* guard and supervisor are gone: kill everything within this */

typedef struct Keeper Keeper;
typedef struct Incarnation Incarnation;
typedef struct SpawnJob SpawnJob;
typedef struct PressureSet PressureSet;

/* What is watched of the limits of one cgroup: an incarnation's, or the dataflow's own. */
typedef struct LimitsWatch {
        Keeper *keeper;
        Incarnation *inc; /* NULL: the dataflow's */
        KeeperSource memory, pids;
        int memory_fd, pids_fd; /* memory.events.local, pids.events; -1: not watched */
        bool sampled;           /* cpu.stat has no notification: looked at now and then */
        nsec_t due;             /* when to look next; NSEC_NEVER */
        nsec_t next;            /* not before, for what its files tell */
        KeeperUsage usage;      /* as last reported */
        bool frozen;            /* likewise */
        PressureSet *pressure;  /* keeper-pressure.c; NULL: no condition is watched for */
} LimitsWatch;

/* One node of the plan that was ever spawned here; lives as long as the dataflow. */
typedef struct NodeEntry {
        ListLink link;
        uint32_t node;
        char *id;
        bool announced;      /* the logger knows it */
        bool noted_long;     /* a NOTE about a line that was cut has been sent */
        uint64_t unshown;    /* lines the log stream's reader had no room for, not yet told */
        uint64_t unlogged;   /* lines the logger had no room for, not yet told */
} NodeEntry;

#define STRAYS_KNOWN_MAX 16 /* of an incarnation */

typedef struct KnownStray {
        pid_t pid;
        uint64_t start_time;
        int pidfd;
} KnownStray;

/* One of the two pipes of an incarnation. */
typedef struct Output {
        Incarnation *inc;
        KeeperSource source; /* one shot: told once, and again after a read */
        ListLink ready;      /* in readable */
        int fd;     /* -1: closed */
        int stream; /* 1 stdout, 2 stderr */
        char *part; /* beginning of a line whose end has not come */
        size_t n_part, part_capacity;
        uint64_t n_cut;  /* bytes of that line that were not kept */
        Reader *reader;  /* at work on it; NULL: none */
        bool late;       /* and does not come back */
        bool last;       /* the incarnation is over: what the pipe still holds, then the end */
        bool asked_last; /* the read that is under way was begun since */
        nsec_t last_until; /* late, it is not waited for any longer */
        size_t n_last;   /* read since */
} Output;

/*
 * One life of a node's process tree. Ends with exactly one EMPTY; freed once that is sent and the leader is reaped.
 */
struct Incarnation {
        ListLink link;
        Keeper *keeper;
        NodeEntry *entry;
        uint64_t generation;
        char *cgroup; /* name in the dataflow's directory */

        SpawnJob *job; /* while the start is under way, also after it was given up */
        nsec_t spawn_deadline;
        nsec_t spawn_began;
        bool given_up; /* SPAWN_FAILED was reported while the job hangs on */

        int cgroup_fd, events_fd, pidfd; /* -1: not yet, or not any more */
        KeeperSource events, exit;
        Reaper reaper;     /* where there is one: exit is its socket's, and tells; events is its pidfd's if there is no cgroup */
        bool reaper_ended; /* waited for */
        bool reaper_killed;
        bool straying;     /* it was killed, and whom it left to us is being killed */
        bool started;      /* SPAWNED was reported */
        bool exited;       /* the leader: EXITED was reported, or there never was one */
        bool reaped;
        bool removing;     /* the remove job is under way */
        bool over;         /* EMPTY was reported */
        bool removed;      /* and its cgroup with it */
        bool released;     /* nobody will ask for it any more */
        bool adopted;      /* a keeper before us started it: how it ended the guard knows */
        int32_t pid, exit_code, exit_status; /* what was reported, for whoever asks again */
        KeeperCgroupWrite cgroup_write;
        bool cgroup_writable; /* the plan wants it so */
        int placed_cpu;       /* its threads were told to run there alone: number + 1; 0: they were not */
        bool foreign;         /* captured: its session is somebody's */

        /* keeper-stray.c: those who left its cgroup */
        KnownStray strays[STRAYS_KNOWN_MAX]; /* told of */
        unsigned n_strays;
        int stray_signo; /* what they get; 0: nothing */
        bool stray_wanted, stray_busy; /* a pass is to be made; is under way */
        bool unasked;                  /* its first process ended before it was signalled or killed */
        bool stray_last, strays_gone;  /* ... before it is over: everybody is killed; nobody is left */
        bool stray_reap;               /* REAP came meanwhile */
        bool signal_waits;             /* a SIGTERM, for the pass before it: who is nobody's child then is not found any more */
        KeeperMsg signal_order;
        nsec_t stray_at;               /* somebody would not die: looked at again; 0: no */
        KeeperStage fail_stage;
        int32_t fail_error; /* 0: SPAWN_FAILED was not reported */
        char *fail_text;
        int pending_signo; /* ordered while the start was under way: sent again when it is done */
        nsec_t kill_until; /* likewise, a kill; 0: none */
        uint32_t n_killed;
        nsec_t killed_at; /* the first of them; 0: none */
        uint32_t n_told_killed; /* and elsewhere, at the moment at which they left */
        LimitsWatch limits;
        char *refused; /* limits that it runs without; NULL: none */
        Output out[2];
};

/* Our children that are to live: all others were left to us by a reaper that was killed. Also used by threads. */
typedef struct Reapers {
        pthread_mutex_t lock; /* held from before a reaper is forked until it is in the list */
        pid_t *pids;
        size_t n, room;
} Reapers;

typedef enum KeeperPhase {
        KEEPER_WORKING,
        KEEPER_ALONE,  /* neither supervisor nor guard: killing everything */
        KEEPER_ENDING, /* removing cgroups, flushing logs */
        KEEPER_STAYING, /* all that is done, but somebody would not die: until they have */
        KEEPER_LAST,   /* sending the last reports */
        KEEPER_GONE,
} KeeperPhase;

struct Keeper {
        KeeperLoop loop;
        KeeperSource supervisor, guard, signals, events, listener;
        int supervisor_fd, guard_fd, signal_fd, instance_fd; /* -1 after a hang-up */
        Jobs jobs;
        Feed feed;

        int listen_fd;      /* where a supervisor finds us whose guard died with its predecessor; -1: none */
        nsec_t alone_since; /* without anybody, and nobody is left to look after; 0: not so */
        bool begun;
        bool takeover; /* in the place of another keeper */
        bool persistent;
        char *uuid, *name;
        char *place; /* of the dataflow's cgroup, as /proc/PID/cgroup has it (supervisor/stray.h); NULL: there is none, or it cannot be told */
        uint32_t slot;
        uid_t uid;
        gid_t gid;
        uint32_t n_groups;
        gid_t groups[KEEPER_MSG_MAX_GROUPS];
        bool reset_oom;
        uint64_t default_signals; /* spawn_default_signals() */
        int dataflow_fd, events_fd;
        Confine confine;
        Enforcer enforcer;
        Reapers reapers;
        LimitsWatch limits;   /* of dataflow_fd */
        uint32_t needed, controllers; /* LIMIT_CONTROLLER_*: some limit wants them; they can be used */
        char missing[KEEPER_MSG_LIMITS_MAX + 1], refused[KEEPER_MSG_LIMITS_MAX + 1]; /* as in BEGUN */
        bool strays_busy; /* a pass is under way */
        unsigned n_told;  /* ASTRAY that are under way */
        unsigned n_files_jobs; /* FILES, likewise */
        unsigned n_measures, n_samples; /* MEASURE, SAMPLE, likewise */
        unsigned n_whys;  /* WHY, likewise */
        unsigned n_freezing; /* and freeze meanwhile */
        unsigned n_freezes; /* FREEZE, likewise */

        List nodes;        /* NodeEntry */
        List incarnations; /* Incarnation */
        List reports;      /* Report */
        unsigned n_reports;

        Stream stream;        /* to the client */
        Readers readers;
        List readable;        /* Output, in the order in which they became so */
        nsec_t readers_again; /* there was no thread: not before then */
        unsigned n_last;      /* outputs of incarnations that are over, still open */

        KeeperPhase phase;
        nsec_t phase_deadline;
        bool remove_done, removed; /* of the dataflow's cgroup */
        uint32_t n_left, n_left_cgroups; /* once remove_done: what is there of it */
        bool stay; /* END said so */
        bool ends_beside_left; /* somebody was left when the present end began */
        bool kill_done;
        bool outputs_finished;
        bool logger_killed;
};

/* keeper.c */
const char *keeper_cgroup_path(const Keeper *k, char *buffer, size_t size);

/* keeper-report.c: queue a report; never blocks. fd: taken (-1: none). */
void keeper_report(Keeper *k, const KeeperMsg *msg, int take_fd);
void keeper_report_flush(Keeper *k);
__attribute__((format(printf, 2, 3))) void keeper_note(Keeper *k, const char *format, ...);
void keeper_supervisor_gone(Keeper *k);
void keeper_await_supervisor(Keeper *k);
void keeper_reports_done(Keeper *k);

/*
 * keeper-cgroup.c: signal, kill, look and remove. Quiet: the keeper's own doing, which nobody ordered and nobody is
 * told of.
 */
void keeper_signal(Keeper *k, const KeeperMsg *msg);
void keeper_kill(Keeper *k, const KeeperMsg *msg);
void keeper_look(Keeper *k, const KeeperMsg *msg);
void keeper_start_signal(Keeper *k, const KeeperMsg *order, int fd, bool quiet);
void keeper_start_kill(Keeper *k, const KeeperMsg *order, int fd, nsec_t until, bool quiet);
typedef void (*KeeperRemoved)(Keeper *k, const KeeperMsg *about, int r); /* r: as cgroup_remove_tree() */
bool keeper_start_remove(Keeper *k, const KeeperMsg *about, int dir_fd, const char *name, nsec_t until,
        KeeperRemoved removed);
void keeper_remove_dataflow(Keeper *k, nsec_t until); /* sets remove_done, removed */

/* keeper-spawn.c, keeper-capture.c: how incarnations begin. Both take the descriptors they use. */
void keeper_spawn(Keeper *k, const KeeperMsg *msg, int *fds);
void keeper_capture(Keeper *k, const KeeperMsg *msg, int *fds);
void keeper_refuse_spawn(Keeper *k, const KeeperMsg *msg, KeeperStage stage, int error, const char *text);
KeeperCgroupWrite keeper_cgroup_write(const Keeper *k, bool confined); /* of a node that is @confined */
void incarnation_cancel(Incarnation *inc, nsec_t kill_until); /* a kill was ordered: no start any more */
void incarnation_give_up(Incarnation *inc, nsec_t now); /* its start is overdue */

/* keeper-adopt.c: for a supervisor, and as a keeper, that follows another. */
void keeper_resume(Keeper *k, nsec_t asked);
void keeper_adopt(Keeper *k, const KeeperMsg *msg, int *fds);

/* keeper-node.c: incarnations, from where they run to EMPTY and REAP. */
void keeper_reap(Keeper *k, const KeeperMsg *msg);
Incarnation *incarnation_find(Keeper *k, uint32_t node, uint64_t generation);
KeeperMsg incarnation_about(const Incarnation *inc, KeeperMsgType type);
void incarnation_kill_leader(Incarnation *inc);
nsec_t incarnations_deadline(const Keeper *k);
void incarnations_tick(Keeper *k, nsec_t now);
bool incarnations_over(const Keeper *k);     /* all of them */
void incarnation_reap(Incarnation *inc);
bool incarnations_starting(const Keeper *k); /* any start under way that was not given up */
/*
 * incarnation_look_again() - has it become empty? To be asked whenever its cgroup.events was read for something else, too: what has been read is
 * not notified any more.
 * incarnation_read_events() - all that is to be seen there.
 */
void incarnation_look_again(Incarnation *inc);
void incarnation_read_events(Incarnation *inc);
void incarnation_report_home(Incarnation *inc); /* where it lives, if it has a cgroup */
void incarnation_report_empty(Incarnation *inc, bool removed);
void incarnation_killed(Incarnation *inc, uint32_t n, nsec_t at); /* n in all were found and killed, from then on; 0: nobody */
void incarnation_watch(Incarnation *inc, KeeperSource *source, int fd, uint32_t events, KeeperSourceEvent on_event); /* or _exit(): nobody would hear of it */
void incarnation_watch_events(Incarnation *inc); /* its cgroup, or its reaper where it has none */
void incarnation_on_exit(KeeperSource *source, uint32_t events); /* its exit source, where it is a child of ours */
void incarnations_done(Keeper *k);

/* keeper-reaper.c: lives that have a reaper. */
void keeper_reapers_init(Keeper *k);
void keeper_reapers_done(Keeper *k);
int keeper_reaper_fork(Keeper *k, Reaper *ret, const SpawnPlan *plan, SpawnOutcome *outcome, int place_fd); /* in a thread; place_fd: where it is written down, or -1 */
pid_t keeper_fork(Keeper *k); /* in a thread: as fork(), of a child that is nobody's life and to be left alone until keeper_forked_ended() */
void keeper_forked_ended(Keeper *k, pid_t pid);
void keeper_on_reaper(KeeperSource *source, uint32_t events); /* an incarnation's exit source */
/* Nobody is to be seen there any more: is its reaper waited for, and nobody left of those whom it left to us? Else look again follows. */
bool incarnation_settle(Incarnation *inc);
void incarnation_exited(Incarnation *inc, int code, int status); /* keeper-node.c */

/*
 * keeper-limits.c. watch_init() makes a watch that watches nothing; watch_begin() has it told what happens at the limits of @dir_fd;
 * watch_felt(): one of its files says that something is new, which is looked at and told at @now, or a second after the last such look;
 * watch_tell() looks at once, and reports what is new: an OOM of the dataflow's before that of a node; watch_end() before the cgroup goes.
 */
void keeper_limit(Keeper *k, const KeeperMsg *msg);
void keeper_freeze(Keeper *k, const KeeperMsg *msg);
void keeper_place(Keeper *k, const KeeperMsg *msg); /* keeper-place.c */
void keeper_files(Keeper *k, uint64_t asked_ns, int take_fd); /* keeper-files.c: FILES_SHOWN follows in any case */
/* keeper-measure.c: MEASURED, or SAMPLED, of everybody follows in any case. */
void keeper_measure(Keeper *k, uint64_t asked_ns);
void keeper_sample(Keeper *k, uint64_t asked_ns);
void watch_init(LimitsWatch *watch, Keeper *k, Incarnation *inc);
void watch_begin(LimitsWatch *watch, int dir_fd, const char *limits);
void watch_felt(LimitsWatch *watch, nsec_t now);
void watch_tell(LimitsWatch *watch);
void watch_again(LimitsWatch *watch); /* RESUME: what was felt so far is said once more */
void watch_end(LimitsWatch *watch);
void watch_frozen(LimitsWatch *watch, int events_fd); /* cgroup.events has changed */
void watches_frozen(Keeper *k); /* all of them, perhaps */
/*
 * keeper-pressure.c. pressure_try(): can the kernel's triggers be had in that cgroup? Else a line into the text of what is missing. pressure_end(): nothing is
 * watched for any more.
 */
void keeper_pressure(Keeper *k, const KeeperMsg *msg);
void pressure_try(int dir_fd, char *missing, size_t size);
void pressure_tick(LimitsWatch *watch, nsec_t now);
void pressure_counted(LimitsWatch *watch, const KeeperUsage *usage, nsec_t now); /* its counters were read */
nsec_t pressure_deadline(const LimitsWatch *watch);
void pressure_end(LimitsWatch *watch);
nsec_t watches_deadline(const Keeper *k);
void watches_tick(Keeper *k, nsec_t now);

/*
 * keeper-stray.c: strays_look() - see whether somebody of it left, and let them have @signo (0: only tell). strays_are_gone() - before it is
 * over: kill them; false: incarnation_look_again() is called when it is known. Both do nothing where its uid keeps it in.
 */
void strays_look(Incarnation *inc, int signo);
bool strays_first(Incarnation *inc, const KeeperMsg *order); /* true: the SIGTERM is sent when they have been looked for */
bool strays_are_gone(Incarnation *inc);
void strays_tick(Incarnation *inc, nsec_t now);
void strays_go_on(Keeper *k);
void strays_forget(Incarnation *inc);
bool strays_remember(Incarnation *inc, Stray *stray); /* true: it is new. Its pidfd is taken as far as there is room */
char *strays_place(const Incarnation *inc); /* of its cgroup, as /proc/PID/cgroup has it; the caller frees it. NULL: it cannot be told */
const char *strays_from(const Keeper *k, const char *place); /* the end of that: "<uuid>/<node>.<generation>" */
void strays_report(Keeper *k, const KeeperMsg *about, const char *from, const Stray *stray, int signo);

/* keeper-told.c: ASTRAY: somebody of it was seen to leave. Told of and, unless it is to be left alone, killed, as soon as a thread is free. */
void strays_told(Keeper *k, const KeeperMsg *msg);

/* keeper-output.c */
void output_init(Output *out, Incarnation *inc, int stream);
int output_open(Output *out, int take_fd); /* begins to read it */

/*
 * output_last() - the incarnation is over: no more than what is in the pipe now. Its end is not waited for, as a
 * grandchild elsewhere may hold it open for ever.
 */
void output_last(Output *out);
nsec_t outputs_read(Keeper *k); /* once a turn: has a chunk of one of them read. When it wants to be called again: 0 at once */
bool output_is_open(const Output *out);
void output_close(Output *out);
NodeEntry *keeper_node(Keeper *k, uint32_t node, const char *id); /* found or made; NULL without memory */
void keeper_tell_unlogged(Keeper *k);
void keeper_tell_unshown(Keeper *k);
extern const FeedOps keeper_feed_ops;
extern const ReadersOps keeper_readers_ops;
extern const StreamOps keeper_stream_ops;
void keeper_look_on(Keeper *k, int take_fd); /* a lossy log stream, in place of the one there was */

/* keeper-look.c: who is in a cgroup and below. Runs in a thread, and may take LOOK_SPAN. */
#define LOOK_SPAN  (250 * NSEC_PER_MSEC)
#define LOOK_TASKS 24 /* told of one by one; the rest is counted */

typedef struct Look {
        int dir_fd;
        pid_t leader;     /* of the incarnation, for as long as leader_fd says so; 0: none is known */
        int leader_fd;    /* pidfd; -1 */
        pid_t reaper;     /* a child of ours that is not waited for meanwhile; 0: none */
        KnownStray strays[STRAYS_KNOWN_MAX]; /* likewise: others of it that were found elsewhere */
        unsigned n_strays;
        nsec_t until;     /* in; 0: not run in a thread, and so brief. The first LOOK_TASKS are told of even when it is over */
        uint32_t n;       /* out: tasks */
        uint32_t n_tasks; /* told of */
        TaskKind kind;    /* 0: nobody */
        size_t size;      /* bytes of tasks */
        uint8_t tasks[KEEPER_MSG_TASKS_MAX];
} Look;

/*
 * look_first() - remember what they do now, so that a later look can say for how long they have done nothing else; look_first_at(): of
 * one who is elsewhere.
 * look_now() - tell of them. Who is only on its way out is looked at again until it is gone or the time is over.
 */
void look_first(int dir_fd);
void look_first_at(pid_t pid);
void look_now(Look *look);

/* look_compare() - remember it, and set its still_ns by what was remembered of it. Any thread. */
void look_compare(Task *task);

void keeper_why(Keeper *k, const KeeperMsg *msg, int *fds); /* keeper-why.c */

#endif
