/* SPDX-License-Identifier: Apache-2.0 */
/* The room without clang, bpftool or libbpf: every probe is unavailable, and says that the build is why. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "bpf/probe.h"

static int refuse(ProbeReason *reason)
{
        if (reason) {
                *reason = (ProbeReason){.err = ENOSYS};
                (void)snprintf(reason->text, sizeof(reason->text), "built without kernel probes (clang, bpftool, libbpf)");
        }
        return PROBE_E_UNAVAILABLE;
}

int exit_probe_new(ExitProbe **ret, const ExitProbeSpec *spec, ProbeReason *reason)
{
        return refuse(reason);
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

int leave_probe_new(LeaveProbe **ret, const LeaveProbeSpec *spec, ProbeReason *reason)
{
        return refuse(reason);
}

LeaveProbe *leave_probe_free(LeaveProbe *probe)
{
        return NULL;
}

int leave_probe_fd(const LeaveProbe *probe)
{
        abort();
}

int leave_probe_read(LeaveProbe *probe, struct leave_event *events, size_t n_events, size_t *ret_n)
{
        abort();
}

uint64_t leave_probe_dropped(const LeaveProbe *probe)
{
        abort();
}

int leave_probe_cost(LeaveProbe *probe, uint64_t *ret_n, uint64_t *ret_ns)
{
        abort();
}

int leave_probe_look(LeaveProbe *probe)
{
        abort();
}

int call_probe_new(CallProbe **ret, const CallProbeSpec *spec, ProbeReason *reason)
{
        return refuse(reason);
}

CallProbe *call_probe_free(CallProbe *probe)
{
        return NULL;
}

int call_probe_fd(const CallProbe *probe, CallProbeFd which)
{
        abort();
}

CallProbeCost call_probe_cost(const CallProbe *probe)
{
        abort();
}

int queue_probe_new(QueueProbe **ret, const QueueProbeSpec *spec, ProbeReason *reason)
{
        return refuse(reason);
}

QueueProbe *queue_probe_free(QueueProbe *probe)
{
        return NULL;
}

int queue_probe_attach(QueueProbe *probe, int fd, size_t *ret_n, ProbeReason *reason)
{
        abort();
}

int queue_probe_attach_sites(QueueProbe *probe, int fd, const Site *sites, size_t n, ProbeReason *reason)
{
        abort();
}

int queue_probe_fd(const QueueProbe *probe, QueueProbeFd which)
{
        abort();
}

uint32_t queue_probe_cost(const QueueProbe *probe)
{
        abort();
}
