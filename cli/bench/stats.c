/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/bench/stats.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"

static int by_double(const void *a, const void *b)
{
        const double x = *(const double *)a, y = *(const double *)b;

        return (x > y) - (x < y);
}

static int by_u32(const void *a, const void *b)
{
        const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

        return (x > y) - (x < y);
}

double stats_median(double *values, size_t n)
{
        if (n == 0)
                return 0;
        qsort(values, n, sizeof(*values), by_double);
        return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

void stats_sort(uint32_t *values, size_t n)
{
        if (n)
                qsort(values, n, sizeof(*values), by_u32);
}

double stats_percentile(const uint32_t *sorted, size_t n, double percent)
{
        return n ? sorted[MIN((size_t)((double)n * percent / 100), n - 1)] : 0;
}

int samples_add(Samples *samples, const uint32_t *value, size_t n)
{
        if (samples->room - samples->n < n) {
                size_t room = MAX(2 * samples->room, samples->n + n);
                uint32_t *grown = reallocarray(samples->value, room, sizeof(*grown));

                if (!grown)
                        return error_origin(-ENOMEM);
                samples->value = grown;
                samples->room = room;
        }
        memcpy(samples->value + samples->n, value, n * sizeof(*value));
        samples->n += n;
        return 0;
}

void samples_done(Samples *samples)
{
        free(samples->value);
        *samples = (Samples){};
}
