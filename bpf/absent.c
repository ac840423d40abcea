/* SPDX-License-Identifier: Apache-2.0 */
/* The room without clang, bpftool or libbpf: every probe is unavailable, and says that the build is why. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "bpf/probe.h"

int exit_probe_new(ExitProbe **ret, const ExitProbeSpec *spec, ProbeReason *reason)
{
        if (reason) {
                *reason = (ProbeReason){.err = ENOSYS};
                (void)snprintf(reason->text, sizeof(reason->text), "built without kernel probes (clang, bpftool, libbpf)");
        }
        return PROBE_E_UNAVAILABLE;
}

ExitProbe *exit_probe_free(ExitProbe *probe)
{
        return NULL;
}

/* No probe was ever made here, so nobody can hold one. */
int exit_probe_fd(const ExitProbe *probe)
{
        abort();
}

int exit_probe_read(ExitProbe *probe, struct exit_event *events, size_t n_events, size_t *ret_n)
{
        abort();
}

uint64_t exit_probe_dropped(const ExitProbe *probe)
{
        abort();
}
