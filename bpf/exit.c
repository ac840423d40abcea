/* SPDX-License-Identifier: Apache-2.0 */
#include <bpf/libbpf.h>
#include <errno.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "bpf/load.h"
#include "bpf/records.h"
#include "exit.skel.h"

struct ExitProbe {
        struct exit_bpf *skeleton;
        Records records;
};

static int load(ExitProbe *probe, const ExitProbeSpec *spec, ProbeReason *reason)
{
        probe->skeleton = exit_bpf__open();
        if (!probe->skeleton)
                return load_refused(-errno, "open", reason);
        probe->skeleton->rodata->watched_cgroup_id = spec->cgroup_id;
        return records_load(&probe->records, probe->skeleton->skeleton, probe->skeleton->maps.events, spec->ring_bytes, reason);
}

int exit_probe_new(ExitProbe **ret, const ExitProbeSpec *spec, ProbeReason *reason)
{
        _cleanup_(exit_probe_freep) ExitProbe *probe = NULL;
        int r;

        if (spec->cgroup_id == 0) /* is_watched() would take "no such level" for a match */
                return error_origin(-EINVAL);

        probe = calloc(1, sizeof(*probe));
        if (!probe)
                return error_origin(-ENOMEM);
        probe->records.size = sizeof(struct exit_event);

        r = load(probe, spec, load_begin(reason));
        load_end();
        if (r)
                return r;

        *ret = TAKE_PTR(probe);
        return 0;
}

ExitProbe *exit_probe_free(ExitProbe *probe)
{
        if (!probe)
                return NULL;
        records_done(&probe->records);
        exit_bpf__destroy(probe->skeleton);
        free(probe);
        return NULL;
}

int exit_probe_fd(const ExitProbe *probe)
{
        return records_fd(&probe->records);
}

int exit_probe_read(ExitProbe *probe, struct exit_event *events, size_t n_events, size_t *ret_n)
{
        return records_read(&probe->records, events, n_events, ret_n);
}

uint64_t exit_probe_dropped(const ExitProbe *probe)
{
        return __atomic_load_n(&probe->skeleton->bss->dropped, __ATOMIC_RELAXED); /* a counter, orders nothing */
}
