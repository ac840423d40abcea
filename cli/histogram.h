/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Histograms of times as probes count them: bucket i has what took 2^i to 2^(i + 1) ns (bucket 0 also 0). Arithmetic, and one line of text.
 *
 * Pure. Buckets that somebody sent may be anything: what is no number counts 0, and there are HISTOGRAM_BUCKETS at most.
 */
#ifndef TG_CLI_HISTOGRAM_H
#define TG_CLI_HISTOGRAM_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HISTOGRAM_BUCKETS 63
#define HISTOGRAM_COLUMNS 14 /* of histogram_line() */

typedef struct Histogram {
        uint64_t n[HISTOGRAM_BUCKETS];
        uint64_t sum;
} Histogram;

void histogram_read(Histogram *ret, const json_t *buckets); /* an array; NULL: empty */

/* histogram_minus() - what came since @before; bucket by bucket, and never less than nothing. */
void histogram_minus(Histogram *histogram, const Histogram *before);

/* histogram_json() - as it is sent: up to the last bucket that is not 0. New reference; NULL without memory. */
json_t *histogram_json(const Histogram *histogram);

/* histogram_quantile() - that part (0..1) took at most so many ns: the upper end of its bucket. 0: there are none. */
uint64_t histogram_quantile(const Histogram *histogram, double part);

/*
 * histogram_line() - HISTOGRAM_COLUMNS characters of a scale that is the same for all, two buckets each: from below 256 ns to 4.3 s and more
 * @buffer: room for 3 bytes a character, and a NUL
 *
 * The highest is full; whatever is not nothing shows. histogram_scale() - the line above it: n, u, m, s where ns, us, ms and s begin.
 */
const char *histogram_line(const Histogram *histogram, bool utf8, char *buffer, size_t size);
const char *histogram_scale(void);

/* histogram_format_ns() - "512ns", "8.4ms", "2.3s", "1.5h": up to 7 characters. */
const char *histogram_format_ns(uint64_t ns, char *buffer, size_t size);

#endif
