/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/histogram.h"

#include <stdio.h>

#include "base/cleanup.h"

#define FIRST_BUCKET 8 /* of the second column */

void histogram_read(Histogram *ret, const json_t *buckets)
{
        *ret = (Histogram){};
        for (size_t i = 0; i < json_array_size(buckets) && i < HISTOGRAM_BUCKETS; i++) {
                json_int_t n = json_integer_value(json_array_get(buckets, i));

                ret->n[i] = n > 0 ? (uint64_t)n : 0;
                ret->sum += ret->n[i];
        }
}

void histogram_minus(Histogram *histogram, const Histogram *before)
{
        histogram->sum = 0;
        for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
                histogram->n[i] -= MIN(before->n[i], histogram->n[i]);
                histogram->sum += histogram->n[i];
        }
}

json_t *histogram_json(const Histogram *histogram)
{
        json_t *array = json_array();
        size_t size = HISTOGRAM_BUCKETS;

        while (size > 0 && histogram->n[size - 1] == 0)
                size--;
        for (size_t i = 0; array && i < size; i++)
                (void)json_array_append_new(array, json_integer((json_int_t)histogram->n[i]));
        return array;
}

uint64_t histogram_quantile(const Histogram *histogram, double part)
{
        uint64_t seen = 0;

        for (size_t i = 0; histogram->sum > 0 && i < HISTOGRAM_BUCKETS; i++) {
                seen += histogram->n[i];
                if (seen > 0 && (double)seen >= part * (double)histogram->sum)
                        return UINT64_C(1) << (i + 1);
        }
        return 0;
}

static size_t column_of(size_t bucket)
{
        return bucket < FIRST_BUCKET ? 0 : MIN((bucket - FIRST_BUCKET) / 2 + 1, (size_t)HISTOGRAM_COLUMNS - 1);
}

const char *histogram_line(const Histogram *histogram, bool utf8, char *buffer, size_t size)
{
        static const char *const blocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"}, *const plain[] = {".", ":", "-", "=", "+", "*", "%", "#"};
        uint64_t columns[HISTOGRAM_COLUMNS] = {}, most = 0;
        size_t at = 0;

        for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++)
                columns[column_of(i)] += histogram->n[i];
        for (size_t i = 0; i < HISTOGRAM_COLUMNS; i++)
                most = MAX(most, columns[i]);
        buffer[0] = '\0';
        for (size_t i = 0; i < HISTOGRAM_COLUMNS && at < size; i++) {
                size_t level = most ? (size_t)((double)columns[i] / (double)most * 7) : 0;

                at += (size_t)snprintf(buffer + at, size - at, "%s", columns[i] == 0 ? " " : (utf8 ? blocks : plain)[MIN(level, (size_t)7)]);
        }
        return buffer;
}

const char *histogram_scale(void)
{
        return "n u    m    s ";
}

const char *histogram_format_ns(uint64_t ns, char *buffer, size_t size)
{
        static const struct {
                double ns;
                const char *unit;
        } units[] = {{1, "ns"}, {1e3, "us"}, {1e6, "ms"}, {1e9, "s"}, {3600e9, "h"}};
        size_t i = ELEMENTSOF(units) - 1;
        double value;

        while (i > 0 && (double)ns < units[i].ns)
                i--;
        value = (double)ns / units[i].ns;
        (void)snprintf(buffer, size, "%.*f%s", i == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2, value, units[i].unit);
        return buffer;
}
