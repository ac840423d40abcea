/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Features of the kernel and the host, each probed by trying it: never by a version number, which vendors' back-ports,
 * seccomp filters and containers make a liar. A probe runs in a child process of its own with a deadline; whatever it
 * starts or makes is gone when it is over.
 *
 * Does not: decide what a missing feature means for a run (doctor.c), print.
 */
#ifndef TG_CLI_PROBES_H
#define TG_CLI_PROBES_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"

typedef enum ProbeVerdict {
        PROBE_VERDICT_NO,      /* tried, does not work; the zero value, so that a silent probe never says yes */
        PROBE_VERDICT_YES,     /* tried, works */
        PROBE_VERDICT_TIMEOUT, /* the deadline passed: counts as no */
        PROBE_VERDICT_SKIPPED, /* could not be tried, because something it needs is missing: counts as no */
        _PROBE_VERDICT_MAX,
} ProbeVerdict;

typedef enum ProbeWeight {
        PROBE_REQUIRED, /* `run` cannot keep the named promises without it */
        PROBE_BETTER,   /* without it `run` does something else, named in `without`, and keeps them */
        PROBE_LATER,    /* nothing of today's depends on it */
        _PROBE_WEIGHT_MAX,
} ProbeWeight;

/* What a probe's child sends through its pipe in one write: smaller than PIPE_BUF, so never torn. */
typedef struct ProbeReport {
        int32_t verdict;
        int32_t err;         /* errno of the step that failed, else 0 */
        char evidence[240];  /* what was seen, for people */
        char value[2048];    /* what a later probe or the decision needs: a path */
} ProbeReport;
_Static_assert(sizeof(ProbeReport) <= PIPE_BUF, "one write(2) to a pipe is atomic only up to here");

typedef struct ProbeContext {
        char root[PATH_MAX]; /* cgroup v2 directory below which a run makes its cgroups; "" if there is none */
        char home[PATH_MAX]; /* our own cgroup below it; "" if it could not be made */
        nsec_t deadline;     /* of the running probe; absolute */
} ProbeContext;

#define P(n) (1u << (n)) /* promise n of the design: P(1) | P(3) */
#define PROMISE_MAX 7

typedef struct Probe {
        const char *id;         /* stable: key of the JSON output */
        const char *title;
        const char *needed_for;
        const char *without;    /* what happens where it is missing */
        unsigned promises;      /* which ones it carries: P(1) | ... */
        ProbeWeight weight;
        bool in_cgroup;         /* needs ProbeContext.home */
        nsec_t span;            /* how long it may take; 0: PROBE_SPAN */
        void (*attempt)(const ProbeContext *context, ProbeReport *report); /* in the child; just returns, never exits */
} Probe;

#define PROBE_SPAN (2 * NSEC_PER_SEC)

typedef struct ProbeGroup {
        const char *title;
        const Probe *probes;
        size_t n_probes;
} ProbeGroup;

extern const ProbeGroup *const probe_groups[];
extern const size_t n_probe_groups;
extern const ProbeGroup process_probes, cgroup_probes, memory_probes, socket_probes, host_probes, witness_probes;

/* The two probes that others build on, known to the engine by name. */
#define PROBE_ID_CGROUP_ROOT "cgroup_root"
#define PROBE_ID_CGROUP_MAKE "cgroup_make"

/* For probes: fill the report. The errno is kept; "%m" in the format is it. */
void probe_yes(ProbeReport *report, const char *format, ...) __attribute__((format(printf, 2, 3)));
void probe_no(ProbeReport *report, int err, const char *format, ...) __attribute__((format(printf, 3, 4)));
void probe_skip(ProbeReport *report, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * The engine: a process of its own that runs the probes one after the other, each in a child with a deadline. It is
 * their subreaper and holds the cgroup they work in, and it removes everything as soon as the other end of its socket is
 * gone, be it by SIGKILL of the doctor. Whoever talks to it never waits for a probe, only for the engine, with a deadline.
 */
typedef struct ProbeEngine {
        int pid;  /* not reaped before probe_engine_stop(), so it stays ours */
        int fd;   /* our end of its socket; readable when a probe is done */
} ProbeEngine;

#define PROBE_ENGINE_NULL ((ProbeEngine){.fd = -1})

enum {
        PROBE_ENGINE_E_DONE = 1, /* every probe was told */
};

/* One probe's outcome, as it travels through the engine's socket. */
typedef struct ProbeOutcome {
        uint32_t group, index; /* probe_groups[group].probes[index] */
        uint64_t took_ns;
        ProbeReport report;
} ProbeOutcome;

/* probe_engine_start() - 0, or a negative errno when no process can be started. */
int probe_engine_start(ProbeEngine *engine);

/**
 * probe_engine_next() - wait for the next outcome, in the order of the tables
 * @signal_fd: signalfd of the signals that end the program, or -1
 * @span:      how long to wait at most
 *
 * Return: 0, PROBE_ENGINE_E_DONE, -EINTR when @signal_fd is readable, -ETIMEDOUT, or -EPIPE when the engine died.
 */
int probe_engine_next(ProbeEngine *engine, int signal_fd, nsec_t span, ProbeOutcome *ret);

/**
 * probe_engine_stop() - let it clean up and end, at once even when probes are left; harmless when never started
 *
 * Blocks for some seconds at most. Return: 0, or a negative errno when it had to be killed and may have left its cgroup.
 */
int probe_engine_stop(ProbeEngine *engine);

/* The cgroup of the engine (probe-home.c). */
typedef struct ProbeHome {
        int dir_fd; /* flock()ed: free exactly when the engine and all its children are gone */
        char path[PATH_MAX];
} ProbeHome;

#define PROBE_HOME_NULL ((ProbeHome){.dir_fd = -1})

/* probe_home_find() - where a run would make its cgroups; 0, or a negative errno with *ret_why set. */
int probe_home_find(char *ret_path, size_t path_size, char *ret_why, size_t why_size);

/* probe_home_make() - sweep what dead doctors left below @root, then make and lock our own. 0 or a negative errno. */
int probe_home_make(ProbeHome *home, const char *root, nsec_t deadline);

/* probe_home_sweep() - kill and remove everything in it. 0 or a negative errno (-ETIMEDOUT: something is left). */
int probe_home_sweep(const ProbeHome *home, nsec_t deadline);

/* probe_home_remove() - that, and itself. */
int probe_home_remove(ProbeHome *home, nsec_t deadline);

#endif
