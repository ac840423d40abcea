/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How often messages come: out of the number and the time that each carries. Messages that nobody has seen count by their numbers; the
 * shortest and the longest interval and their spread are of those that were seen one right after the other. Pure: no clock.
 */
#ifndef TG_CLI_TOPIC_STATS_H
#define TG_CLI_TOPIC_STATS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/clock.h"

#define STATS_SLOTS 60
#define STATS_SEEN  4096

typedef struct TopicStats {
        nsec_t window;
        struct {
                nsec_t time;
                uint64_t index;
        } seen[STATS_SEEN]; /* the last ones, seen[n_seen % STATS_SEEN] is the next */
        uint64_t n_seen, n_life; /* n_life: of the present life of the node */
        struct {
                uint64_t number; /* time / span of a slot */
                uint64_t count;
        } slots[STATS_SLOTS]; /* by number */
} TopicStats;

typedef struct TopicRate {
        uint64_t count;   /* messages in the window */
        uint64_t seen;    /* of these, seen */
        double hz;        /* 0: not known, or nothing comes any more */
        bool has_intervals;
        double average, shortest, longest, deviation; /* seconds */
        nsec_t silent;    /* since the last message; NSEC_NEVER: there was none in the window */
} TopicRate;

void stats_init(TopicStats *stats, nsec_t window);
void stats_begin_life(TopicStats *stats); /* numbers begin anew */

/* stats_add() - a message was seen. @passed: that many before it were not. One older than the last one counts for its number only. */
void stats_add(TopicStats *stats, uint64_t index, nsec_t time, uint64_t passed);

void stats_look(const TopicStats *stats, nsec_t now, TopicRate *ret);

/**
 * stats_plot() - messages in each part of the window, the latest at the right, as one line of bars
 * @columns: at most STATS_SLOTS
 * @ascii:   else in block elements of UTF-8
 */
void stats_plot(const TopicStats *stats, nsec_t now, size_t columns, bool ascii, char ret[3 * STATS_SLOTS + 1]);

#endif
