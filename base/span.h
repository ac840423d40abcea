/* SPDX-License-Identifier: Apache-2.0 */
/* Spans of time on the command line: a number with ns, us, ms, s, m, h or d; a bare number is seconds (as Dora's). */
#ifndef TG_BASE_SPAN_H
#define TG_BASE_SPAN_H

#include "base/clock.h"

/* span_parse() - "1.5s" to nanoseconds. Return: 0 or -EINVAL (nothing, negative, not finite, unknown unit, over 292 years). */
int span_parse(const char *text, nsec_t *ret);

#endif
