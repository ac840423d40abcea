/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/probes.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/cleanup.h"

/* In the order they run and are shown. */
const ProbeGroup *const probe_groups[] = {
        &process_probes, &cgroup_probes, &memory_probes, &socket_probes, &host_probes, &witness_probes,
};
const size_t n_probe_groups = ELEMENTSOF(probe_groups);

__attribute__((format(printf, 4, 0))) static void report_fill(ProbeReport *report, ProbeVerdict verdict, int err, const char *format, va_list ap)
{
        report->verdict = (int32_t)verdict;
        report->err = err;
        errno = err; /* for %m */
        (void)vsnprintf(report->evidence, sizeof(report->evidence), format, ap);
}

void probe_yes(ProbeReport *report, const char *format, ...)
{
        va_list ap;

        va_start(ap, format);
        report_fill(report, PROBE_VERDICT_YES, 0, format, ap);
        va_end(ap);
}

void probe_no(ProbeReport *report, int err, const char *format, ...)
{
        va_list ap;

        va_start(ap, format);
        report_fill(report, PROBE_VERDICT_NO, err, format, ap);
        va_end(ap);
}

void probe_skip(ProbeReport *report, const char *format, ...)
{
        va_list ap;

        va_start(ap, format);
        report_fill(report, PROBE_VERDICT_SKIPPED, 0, format, ap);
        va_end(ap);
}
