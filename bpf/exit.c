/* SPDX-License-Identifier: Apache-2.0 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "bpf/load.h"
#include "bpf/probe.h"
#include "exit.skel.h"

struct ExitProbe {
        struct exit_bpf *skeleton;
        struct ring_buffer *ring;

        /* where on_record() puts what it is given, while exit_probe_read() runs */
        struct exit_event *into;
        size_t n_into, n_taken;
};

/* A negative return ends ring_buffer__consume() with this record taken: that is how a read stays within its room. */
static int on_record(void *userdata, void *data, size_t size)
{
        ExitProbe *probe = userdata;

        if (size < sizeof(struct exit_event))
                return 0;
        memcpy(&probe->into[probe->n_taken++], data, sizeof(struct exit_event));
        return probe->n_taken == probe->n_into ? -ENOBUFS : 0;
}

static int load(ExitProbe *probe, const ExitProbeSpec *spec, ProbeReason *reason)
{
        int r;

        probe->skeleton = exit_bpf__open();
        if (!probe->skeleton)
                return load_refused(-errno, "open", reason);

        probe->skeleton->rodata->watched_cgroup_id = spec->cgroup_id;
        if (spec->ring_bytes) {
                r = bpf_map__set_max_entries(probe->skeleton->maps.events, spec->ring_bytes);
                if (r < 0)
                        return error_origin(r);
        }
        r = exit_bpf__load(probe->skeleton);
        if (r < 0)
                return load_refused(r, "load", reason);

        r = exit_bpf__attach(probe->skeleton);
        if (r < 0)
                return load_refused(r, "attach", reason);

        probe->ring = ring_buffer__new(bpf_map__fd(probe->skeleton->maps.events), on_record, probe, NULL);
        if (!probe->ring)
                return load_refused(-errno, "ring buffer", reason);
        return 0;
}

int exit_probe_new(ExitProbe **ret, const ExitProbeSpec *spec, ProbeReason *reason)
{
        _cleanup_(exit_probe_freep) ExitProbe *probe = NULL;
        ProbeReason ignored;
        int r;

        if (spec->cgroup_id == 0) /* is_watched() would take "no such level" for a match */
                return error_origin(-EINVAL);

        probe = calloc(1, sizeof(*probe));
        if (!probe)
                return error_origin(-ENOMEM);

        if (!reason)
                reason = &ignored;
        load_begin(reason);
        r = load(probe, spec, reason);
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
        ring_buffer__free(probe->ring);
        exit_bpf__destroy(probe->skeleton);
        free(probe);
        return NULL;
}

int exit_probe_fd(const ExitProbe *probe)
{
        return ring_buffer__epoll_fd(probe->ring);
}

int exit_probe_read(ExitProbe *probe, struct exit_event *events, size_t n_events, size_t *ret_n)
{
        int r;

        *ret_n = 0;
        if (n_events == 0)
                return 0;
        probe->into = events;
        probe->n_into = n_events;
        probe->n_taken = 0;
        r = ring_buffer__consume(probe->ring);
        probe->into = NULL;
        *ret_n = probe->n_taken;
        if (r < 0 && r != -ENOBUFS)
                return error_origin(r);
        return 0;
}

uint64_t exit_probe_dropped(const ExitProbe *probe)
{
        return __atomic_load_n(&probe->skeleton->bss->dropped, __ATOMIC_RELAXED); /* a counter, orders nothing */
}
