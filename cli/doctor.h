/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the probes' outcomes mean for a run: which backend it would choose, which promise is kept how far, by what; and how the
 * daemon is, if there is one. Pure: from outcomes to a judgement, no system calls. Shown by doctor-show.c.
 */
#ifndef TG_CLI_DOCTOR_H
#define TG_CLI_DOCTOR_H

#include <stdbool.h>
#include <stdio.h>

#include "cli/probes.h"
#include "cli/status-page.h"

#define DOCTOR_GROUPS_MAX 8
#define DOCTOR_PROBES_MAX 16

typedef struct DoctorHost {
        char kernel[200]; /* name, release, machine */
        unsigned uid;
        int pid;
} DoctorHost;

typedef struct DoctorResult {
        ProbeReport report;
        uint64_t took_ns;
        bool told; /* false: the engine did not come that far */
} DoctorResult;

typedef enum Backend {
        BACKEND_CGROUP,
        BACKEND_PIDNS,
        BACKEND_PID1,
        BACKEND_SUBREAPER,
        _BACKEND_MAX,
} Backend;

typedef struct BackendState {
        const char *name;
        bool possible;        /* this host would allow it */
        bool implemented;     /* this version's run has it */
        char because[200];    /* the cgroup directory, or what is in the way */
} BackendState;

typedef enum PromiseKept {
        PROMISE_WEAKER, /* something that it needs is not there */
        PROMISE_PARTLY, /* what it needs is there, but this version does not keep it whole */
        PROMISE_KEPT,
} PromiseKept;

typedef struct PromiseState {
        const char *name;
        PromiseKept kept;
        const Probe *missing[DOCTOR_GROUPS_MAX * DOCTOR_PROBES_MAX];   /* required and not there; NULL at the end */
        const Probe *fallbacks[DOCTOR_GROUPS_MAX * DOCTOR_PROBES_MAX]; /* not there, and done without */
        const char *limit; /* what is not kept of it by this version, or NULL */
} PromiseState;

typedef struct Doctor {
        DoctorHost host;
        DoctorResult results[DOCTOR_GROUPS_MAX][DOCTOR_PROBES_MAX];
        char cgroup_root[PATH_MAX];
        char runtime_dir[PATH_MAX]; /* of the daemon that was looked for; "": none is known */
        StatusView daemon;          /* what its status page says */

        /* filled by doctor_judge() */
        BackendState backends[_BACKEND_MAX];
        int chosen;                              /* a Backend, or -1: `run` refuses to start here */
        PromiseState promises[PROMISE_MAX + 1];  /* [1] to [7] */
        bool ok;
} Doctor;

/* doctor_judge() - from results to backends, promises and the answer. */
void doctor_judge(Doctor *doctor);

/* doctor_find() - the result of the probe of that id, which must be one of the tables'. */
const DoctorResult *doctor_find(const Doctor *doctor, const char *id);

/* doctor_kept() - "kept", "partly", "weaker": stable names. */
const char *doctor_kept(const PromiseState *promise);

/* doctor_verdict() - "yes", "no", "timeout", "skipped": stable names. */
const char *doctor_verdict(const DoctorResult *result);

/* doctor_show_*() - the table for people, piece by piece as it becomes known. */
void doctor_show_head(const Doctor *doctor, FILE *f);
void doctor_show_result(const Doctor *doctor, size_t group, size_t index, FILE *f);
void doctor_show_judgement(const Doctor *doctor, FILE *f);

/* doctor_show_daemon() - its verdict, stuck dataflows and what to do, as its status page has them; one line when there is none. */
void doctor_show_daemon(const Doctor *doctor, FILE *f);

/* doctor_show_json() - all of it as one object. 0 or -ENOMEM. */
int doctor_show_json(const Doctor *doctor, FILE *f);

#endif
