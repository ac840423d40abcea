/* SPDX-License-Identifier: Apache-2.0 */
/* Stats: medians and percentiles of what was measured. They sort what they are given. */
#ifndef TG_CLI_BENCH_STATS_H
#define TG_CLI_BENCH_STATS_H

#include <stddef.h>
#include <stdint.h>

double stats_median(double *values, size_t n); /* 0 of none */

/* stats_sort() - ascending, before: */
void stats_sort(uint32_t *values, size_t n);
double stats_percentile(const uint32_t *sorted, size_t n, double percent); /* 0 of none */

/* Grows as it is filled. */
typedef struct Samples {
        uint32_t *value; /* owned */
        size_t n, room;
} Samples;

int samples_add(Samples *samples, const uint32_t *value, size_t n); /* 0, -ENOMEM */
void samples_done(Samples *samples);

#endif
