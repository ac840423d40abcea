/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/topic-stats.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"

void stats_init(TopicStats *stats, nsec_t window)
{
        *stats = (TopicStats){.window = MAX(window, (nsec_t)STATS_SLOTS)};
}

void stats_begin_life(TopicStats *stats)
{
        stats->n_life = 0;
}

static nsec_t slot_span(const TopicStats *stats)
{
        return stats->window / STATS_SLOTS;
}

void stats_add(TopicStats *stats, uint64_t index, nsec_t time, uint64_t passed)
{
        uint64_t number = time / slot_span(stats), i = number % STATS_SLOTS;

        stats->seen[stats->n_seen % STATS_SEEN].time = time;
        stats->seen[stats->n_seen % STATS_SEEN].index = index;
        stats->n_seen++;
        stats->n_life++;
        if (stats->slots[i].number != number && (stats->slots[i].count == 0 || stats->slots[i].number < number)) {
                stats->slots[i].number = number;
                stats->slots[i].count = 0;
        }
        if (stats->slots[i].number == number)
                stats->slots[i].count += 1 + passed; /* of those we know no better than that they came before it */
}

/* Of the messages of this life that are still known, the first that is in the window; n_seen: none is. */
static uint64_t first_in_window(const TopicStats *stats, nsec_t now)
{
        uint64_t known = MIN(MIN(stats->n_life, stats->n_seen), (uint64_t)STATS_SEEN), i = stats->n_seen - known;

        while (i < stats->n_seen && now > stats->window && stats->seen[i % STATS_SEEN].time < now - stats->window)
                i++;
        return i;
}

static uint64_t count_of(const TopicStats *stats, nsec_t now)
{
        uint64_t last = now / slot_span(stats), count = 0;

        for (size_t i = 0; i < STATS_SLOTS; i++)
                if (stats->slots[i].number <= last && last - stats->slots[i].number < STATS_SLOTS)
                        count += stats->slots[i].count;
        return count;
}

void stats_look(const TopicStats *stats, nsec_t now, TopicRate *ret)
{
        uint64_t first = first_in_window(stats, now), n = 0;
        double sum = 0, squares = 0;
        nsec_t begin, end;
        uint64_t steps;

        *ret = (TopicRate){.count = count_of(stats, now), .seen = stats->n_seen - first, .silent = NSEC_NEVER};
        if (ret->seen == 0)
                return;
        begin = stats->seen[first % STATS_SEEN].time;
        end = stats->seen[(stats->n_seen - 1) % STATS_SEEN].time;
        steps = stats->seen[(stats->n_seen - 1) % STATS_SEEN].index - stats->seen[first % STATS_SEEN].index;
        ret->silent = now > end ? now - end : 0;
        for (uint64_t i = first + 1; i < stats->n_seen; i++) {
                nsec_t a = stats->seen[(i - 1) % STATS_SEEN].time, b = stats->seen[i % STATS_SEEN].time;
                double interval = b > a ? (double)(b - a) / 1e9 : 0;

                if (stats->seen[i % STATS_SEEN].index != stats->seen[(i - 1) % STATS_SEEN].index + 1)
                        continue;
                ret->shortest = n == 0 ? interval : MIN(ret->shortest, interval);
                ret->longest = MAX(ret->longest, interval);
                sum += interval;
                squares += interval * interval;
                n++;
        }
        ret->has_intervals = n > 0;
        if (n > 0)
                ret->deviation = sqrt(MAX(squares / (double)n - (sum / (double)n) * (sum / (double)n), 0.0));
        if (steps == 0 || end <= begin)
                return;
        ret->average = (double)(end - begin) / 1e9 / (double)steps;
        ret->hz = 1 / ret->average;
        if ((double)ret->silent / 1e9 > 3 * MAX(ret->average, ret->longest)) /* it comes no more as it did */
                ret->hz = (double)steps / ((double)(now - begin) / 1e9);
}

void stats_plot(const TopicStats *stats, nsec_t now, size_t columns, bool ascii, char ret[3 * STATS_SLOTS + 1])
{
        static const char *const blocks[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"}, *const letters[] = {" ", ".", ":", "-", "=", "+", "*", "#", "@"};
        uint64_t last = now / slot_span(stats), most = 1, counts[STATS_SLOTS] = {};
        char *to = ret;

        for (size_t i = 0; i < STATS_SLOTS; i++)
                if (stats->slots[i].number <= last && last - stats->slots[i].number < STATS_SLOTS)
                        counts[STATS_SLOTS - 1 - (last - stats->slots[i].number)] = stats->slots[i].count;
        columns = MIN(columns, (size_t)STATS_SLOTS);
        for (size_t i = STATS_SLOTS - columns; i < STATS_SLOTS; i++)
                most = MAX(most, counts[i]);
        *to = '\0';
        for (size_t i = STATS_SLOTS - columns; i < STATS_SLOTS; i++) {
                size_t height = counts[i] == 0 ? 0 : MAX((size_t)(counts[i] * 8 / most), (size_t)1);

                to = stpcpy(to, ascii ? letters[height] : blocks[height]);
        }
}
