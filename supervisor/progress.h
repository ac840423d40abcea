/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Progress instead of heartbeats. A node is *stuck* when messages wait for it and it has taken none for its timeout, *idle*
 * when nothing waits. Nobody has to send anything, so nobody is blamed for being late with it; and nothing is done to a
 * node for it but to say so.
 *
 * Two layers. ProgressNode and ProgressLink are arithmetic on samples and times. Progress has those of one dataflow and the
 * mapped regions that samples come from: head of the producer's ring, tail of the consumer's cursor, one page of each.
 * Both are their writers' word: an index that no honest ring has, that goes back, or a tail beyond the head says nothing. A
 * producer that lies can make its consumer look stuck, and a consumer can look well; that is all they can do.
 *
 * What it costs. A sample reads two words a link and makes no system call. Nobody is sampled while there is nothing to see:
 * progress_next() is NSEC_NEVER without an open link into a node with a timeout, so a daemon without dataflows wakes up for
 * nothing. With them, all dataflows are looked at in the same moment, once a second while something waits somewhere and
 * every PROGRESS_PERIOD_IDLE while nothing does (or an eighth of the timeout, if that is less).
 *
 * Nothing here blocks.
 */
#ifndef TG_SUPERVISOR_PROGRESS_H
#define TG_SUPERVISOR_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "shm/counters.h"

#define PROGRESS_TIMEOUT      (30 * NSEC_PER_SEC) /* default; 0: off */
#define PROGRESS_PERIOD       NSEC_PER_SEC
#define PROGRESS_PERIOD_IDLE  (4 * NSEC_PER_SEC)
#define PROGRESS_PERIOD_MIN   (100 * NSEC_PER_MSEC)
#define PROGRESS_NOBODY       UINT32_MAX

typedef enum ProgressHealth {
        PROGRESS_IDLE,
        PROGRESS_OK,
        PROGRESS_STUCK,
        _PROGRESS_HEALTH_MAX,
} ProgressHealth;

/* --- arithmetic --- */

typedef struct ProgressLink {
        uint64_t head, tail;  /* last ones believed */
        uint32_t queue_size;
        nsec_t waiting_since; /* NSEC_NEVER: nothing waits */
        uint32_t waiting;     /* messages, at most queue_size: older ones fell out of the queue */
} ProgressLink;

typedef struct ProgressNode {
        nsec_t timeout;    /* 0: off */
        nsec_t taken_at;   /* when it was last seen to have taken a message, of any link; or when it began */
        nsec_t waiting_since; /* of this round: the earliest of its links */
        uint32_t waiting;
        ProgressHealth health;
        nsec_t stuck_since; /* when the last message was taken or the first one came, the later of them; 0: not stuck */
} ProgressNode;

typedef enum ProgressChange {
        PROGRESS_CHANGE_NONE,
        PROGRESS_CHANGE_STUCK,
        PROGRESS_CHANGE_RESUMED,
} ProgressChange;

void progress_link_begin(ProgressLink *link, uint32_t queue_size);

/* progress_link_sample() - what was seen at @now. Return: whether messages were taken since the last sample. The first one tells
 * where it began. */
bool progress_link_sample(ProgressLink *link, uint64_t head, uint64_t tail, nsec_t now);

void progress_node_begin(ProgressNode *node, nsec_t timeout, nsec_t now);

/* A round: progress_node_round(), progress_node_add() for each open link of it, progress_node_judge(). Each change is
 * returned once. */
void progress_node_round(ProgressNode *node);
void progress_node_add(ProgressNode *node, const ProgressLink *link, bool taken, nsec_t now);
ProgressChange progress_node_judge(ProgressNode *node, nsec_t now);

/* --- one dataflow --- */

typedef struct Progress Progress;

/* Links and nodes are known by their indices in the dataflow, from 0. Indices out of range are our own mistake: asserted. */
int progress_new(Progress **ret, uint32_t n_nodes, uint32_t n_links); /* 0 or -ENOMEM */
Progress *progress_free(Progress *progress);                          /* NULL: harmless */

/* progress_begin() - a new incarnation runs, behind the barrier. progress_end() - it does not any more, for whatever reason; that
 * ends being stuck without another word, for the change of state tells it. */
void progress_begin(Progress *progress, uint32_t node, nsec_t timeout, nsec_t now);
void progress_end(Progress *progress, uint32_t node);

typedef struct ProgressLinkSpec {
        uint32_t source, target; /* nodes */
        uint32_t number;         /* as the producer knows it: in its room word */
        uint32_t queue_size;
        RingPolicy policy;
        int ring_fd, cursor_fd;  /* sealed regions of our own making; borrowed for the call */
        uint64_t ring_size;
} ProgressLinkSpec;

/**
 * progress_open() - an attachment is active: look at it from now on
 *
 * Maps both regions, and touches two pages. Closes what was open under that index before. A failure costs the sight of this link.
 *
 * Return: 0, REGION_E_* for a region that is not as it should be, or a negative errno.
 */
int progress_open(Progress *progress, uint32_t link, const ProgressLinkSpec *spec);

/* progress_close() - detached or closed: it is judged no more. Its counters can still be read. Not open: harmless. */
void progress_close(Progress *progress, uint32_t link);

/* progress_forget() - its consumer has ended: the mappings go, too. */
void progress_forget(Progress *progress, uint32_t link);

/* progress_wants_room() - does its producer, by its own word, wait for room in that link now? False also where that is not known. */
bool progress_wants_room(const Progress *progress, uint32_t link);

/* progress_counters() - of a link that is or was open, from its mappings, until it is forgotten. False: it is not there. */
bool progress_counters(const Progress *progress, uint32_t link, nsec_t now, LinkCounters *ret);

typedef struct ProgressEvent {
        uint32_t node;
        ProgressChange change; /* STUCK or RESUMED */
        nsec_t since;          /* STUCK: when it began; RESUMED: when the stuck time that is over began */
        uint32_t waiting;      /* messages in its fullest queue */
        uint32_t waits_for;    /* node in whose queue it waits for room, which may be to blame; PROGRESS_NOBODY */
        uint32_t n_stuck;      /* nodes of the dataflow, this change included */
} ProgressEvent;

typedef void (*ProgressFn)(const ProgressEvent *event, void *userdata);

/* progress_look() - sample every open link and judge every node; @fn is called once per change, may call anything but
 * progress_free(). */
void progress_look(Progress *progress, nsec_t now, ProgressFn fn, void *userdata);

/* progress_next() - when to look again: arm a timer for it after progress_look(), progress_open(), _close(), _begin() and
 * _end(). */
nsec_t progress_next(const Progress *progress, nsec_t now);

typedef struct ProgressState { /* for status */
        ProgressHealth health;
        nsec_t stuck_since; /* 0: not stuck */
        uint32_t waiting, waits_for;
} ProgressState;

/* progress_state() - as of the last look. A node without a timeout is never stuck. */
ProgressState progress_state(const Progress *progress, uint32_t node);

/*
 * progress_excuse() - it waits for somebody whom a look does not see, at @now. progress_look() does the same for whoever waits for room
 * in the queue of a node that goes on, or is stuck for a reason of its own; of nodes that all wait for each other nobody is excused.
 */
void progress_excuse(Progress *progress, uint32_t node, nsec_t now);

/*
 * progress_forgive() - a look was late by @late: where nobody looked although it was time to, nobody may have run either (a machine that was
 * halted, or the supervisor together with its nodes), so that time counts for no node.
 */
void progress_forgive(Progress *progress, nsec_t late);

/*
 * progress_overdue() - it has been stuck for @span and is itself to blame: it was excused at no look within that. A single look is
 * not enough: a send that waits clears its word whenever it tries again, and again before the next message is taken.
 */
bool progress_overdue(const Progress *progress, uint32_t node, nsec_t span, nsec_t now);

/* progress_n_stuck() - of the dataflow; *ret_since: since when the first of them is, 0 for none. */
uint32_t progress_n_stuck(const Progress *progress, nsec_t *ret_since);

const char *progress_health_to_string(ProgressHealth health); /* "ok", "stuck", "idle" */

#endif
