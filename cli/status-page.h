/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the status pages of a runtime directory say, for when the supervisor does not answer (or was not asked): copied,
 * judged, and shown. Nobody is waited for: these functions read files of the runtime directory and /proc.
 *
 *   OK      its loop turns, or sleeps because nothing is to be done
 *   STUCK   the same, and a dataflow is stuck (amber): an action of the operator is named
 *   WEDGED  the supervisor itself does not work (red; takes priority): gone, stopped, or in one turn for too long
 *   NONE    there is no page to go by
 *
 * Pages are copied with pread() and never mapped: whoever owns one could truncate it under a mapping. Their text is clean for a
 * terminal. A page that somebody else than root or the caller could have written is shown, and not acted upon: see
 * status_view_cgroup().
 */
#ifndef TG_CLI_STATUS_PAGE_H
#define TG_CLI_STATUS_PAGE_H

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "protocol/status_page.h"

typedef enum StatusVerdict {
        STATUS_VERDICT_OK,
        STATUS_VERDICT_STUCK,
        STATUS_VERDICT_WEDGED,
        STATUS_VERDICT_NONE,
        _STATUS_VERDICT_MAX,
} StatusVerdict;

typedef enum StatusReason {
        STATUS_REASON_NONE,
        /* NONE */
        STATUS_REASON_MISSING,    /* no such file or directory */
        STATUS_REASON_UNREADABLE, /* not allowed, or no page of this version */
        STATUS_REASON_BOOT,       /* left by an earlier boot */
        STATUS_REASON_ENDED,      /* its daemon ended in good order */
        /* WEDGED */
        STATUS_REASON_GONE,    /* there is no such process any more; the guard lives, and starts the next one */
        STATUS_REASON_DEAD,    /* nor does the guard: nobody holds the lock */
        STATUS_REASON_LOCK,    /* another daemon holds the lock, and has written no page */
        STATUS_REASON_STOPPED, /* by a signal or a debugger */
        STATUS_REASON_TURN,    /* in one turn for longer than the page allows */
        _STATUS_REASON_MAX,
} StatusReason;

/* What the page cannot say about itself. */
typedef struct StatusFacts {
        bool same_boot;
        bool alive;     /* there is a process of the page's pid, and as far as can be seen the same one */
        char state;     /* its state as in /proc/PID/stat; 0: unknown */
        bool lock_known, locked; /* somebody holds RUNTIME_DIR/lock */
        pid_t lock_pid; /* what stands in it; 0: unknown */
} StatusFacts;

typedef struct StatusView {
        StatusVerdict verdict;
        StatusReason reason;
        nsec_t since;      /* of the verdict; 0: unknown */
        char why[256];     /* one sentence, without a full stop */
        char action[256];  /* what the operator can do; empty: nothing */
        char path[256];    /* of the page, cut if need be */
        bool trusted;      /* nobody but root and the caller can have written any page that was read */
        bool consistent;   /* each page is of one moment */
        uint32_t n_hidden; /* pages of other users, which the caller may not read */
        struct status_info info;   /* all zeros without a page */
        struct status_pulse pulse;
        uint32_t n_dataflows_all, n_nodes_all; /* of the whole daemon, those the caller may not see included */
        uint32_t n_dataflows_not_shown, n_nodes_not_shown; /* for want of room */
        struct status_dataflow *dataflows; /* owned; of all pages that could be read */
        size_t n_dataflows;
        struct status_node *nodes; /* owned; by dataflow, then index; .dataflow: index in dataflows[] */
        size_t n_nodes;
} StatusView;

#define STATUS_VIEW_NULL ((StatusView){.verdict = STATUS_VERDICT_NONE})

/**
 * status_view_load() - read and judge the pages of @runtime_dir
 * @ret: set whenever 0 is returned, also without a page (STATUS_VERDICT_NONE); release with status_view_done()
 *
 * Return: 0 or -ENOMEM.
 */
int status_view_load(StatusView *ret, const char *runtime_dir, nsec_t now);
void status_view_done(StatusView *view);

/* status_view_judge() - fill verdict, reason, since, why and action from the rest. Pure. */
void status_view_judge(StatusView *view, const StatusFacts *facts, nsec_t now);

/* status_view_find() - by uuid, by an unambiguous beginning of it (4 characters or more) or by name. NULL: none, or
 * (*ret_ambiguous) several. */
const struct status_dataflow *status_view_find(const StatusView *view, const char *name, bool *ret_ambiguous);

/**
 * status_view_cgroup() - the directory to kill in as a last resort
 * @dataflow: of this view; NULL: the whole instance
 *
 * Return: an absolute path without "." and "..", that of a dataflow below the instance's and named by its uuid; borrowed.
 * NULL when the page does not say, or when somebody else could have written it (!view->trusted).
 */
const char *status_view_cgroup(const StatusView *view, const struct status_dataflow *dataflow);

/* status_view_since() - "12.3 s", "4 min 10 s" between @since and @now, into @buffer; "?" for 0. */
const char *status_view_since(nsec_t since, nsec_t now, char *buffer, size_t size);

/* status_view_wedged_for() - " for 12.3 s", " for at most 12.3 s" (its loop turned that long ago, and since then something has
 * happened to it), or "". */
const char *status_view_wedged_for(const StatusView *view, nsec_t now, char *buffer, size_t size);

/* status_view_dataflow_text() - a stuck dataflow: who takes nothing, and what the operator can do. Both empty for one that
 * is not. */
void status_view_dataflow_text(const StatusView *view, const struct status_dataflow *dataflow, nsec_t now, char why[static 256],
        char action[static 256]);

/* status_view_print_stuck() - its lines of status_view_print() about who is stuck and what to do; none for one that is not. */
void status_view_print_stuck(const StatusView *view, const struct status_dataflow *dataflow, nsec_t now, bool colour, FILE *f);

/* status_view_print() - the block of text that `doctor` and `status` show. @colour: with colours. */
void status_view_print(const StatusView *view, nsec_t now, bool colour, FILE *f);

const char *status_verdict_to_string(StatusVerdict verdict); /* "ok", "stuck", "wedged", "none" */
const char *status_reason_to_string(StatusReason reason);    /* "turn", "gone", ...: stable, for --json */

#endif
