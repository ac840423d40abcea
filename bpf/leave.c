/* SPDX-License-Identifier: Apache-2.0 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "bpf/load.h"
#include "bpf/records.h"
#include "leave.skel.h"

struct LeaveProbe {
        struct leave_bpf *skeleton;
        Records records;
        int stats_fd; /* the kernel measures while it is open; -1 */
};

static int load(LeaveProbe *probe, const LeaveProbeSpec *spec, ProbeReason *reason)
{
        probe->skeleton = leave_bpf__open();
        if (!probe->skeleton)
                return load_refused(-errno, "open", reason);
        probe->skeleton->rodata->watched_cgroup_id = spec->cgroup_id;
        return records_load(&probe->records, probe->skeleton->skeleton, probe->skeleton->maps.events, spec->ring_bytes, reason);
}

int leave_probe_new(LeaveProbe **ret, const LeaveProbeSpec *spec, ProbeReason *reason)
{
        _cleanup_(leave_probe_freep) LeaveProbe *probe = NULL;
        int r;

        if (spec->cgroup_id == 0) /* what the kernel side reads of nothing */
                return error_origin(-EINVAL);

        probe = calloc(1, sizeof(*probe));
        if (!probe)
                return error_origin(-ENOMEM);
        probe->stats_fd = -1;
        probe->records.size = sizeof(struct leave_event);

        r = load(probe, spec, load_begin(reason));
        load_end();
        if (r)
                return r;

        *ret = TAKE_PTR(probe);
        return 0;
}

LeaveProbe *leave_probe_free(LeaveProbe *probe)
{
        if (!probe)
                return NULL;
        probe->stats_fd = fd_close(probe->stats_fd);
        records_done(&probe->records);
        leave_bpf__destroy(probe->skeleton);
        free(probe);
        return NULL;
}

int leave_probe_fd(const LeaveProbe *probe)
{
        return records_fd(&probe->records);
}

int leave_probe_read(LeaveProbe *probe, struct leave_event *events, size_t n_events, size_t *ret_n)
{
        return records_read(&probe->records, events, n_events, ret_n);
}

uint64_t leave_probe_dropped(const LeaveProbe *probe)
{
        return __atomic_load_n(&probe->skeleton->bss->dropped, __ATOMIC_RELAXED); /* a counter, orders nothing */
}

int leave_probe_cost(LeaveProbe *probe, uint64_t *ret_n, uint64_t *ret_ns)
{
        struct bpf_prog_info info = {};
        uint32_t size = sizeof(info);

        if (probe->stats_fd < 0)
                probe->stats_fd = bpf_enable_stats(BPF_STATS_RUN_TIME);
        if (probe->stats_fd < 0 || bpf_obj_get_info_by_fd(bpf_program__fd(probe->skeleton->progs.on_fork), &info, &size) < 0)
                return error_origin(-errno);
        *ret_n = info.run_cnt;
        *ret_ns = info.run_time_ns;
        return 0;
}

int leave_probe_look(LeaveProbe *probe)
{
        _cleanup_fd_ int fd = bpf_iter_create(bpf_link__fd(probe->skeleton->links.on_look));
        char nothing[64];
        ssize_t n;

        if (fd < 0)
                return error_origin(-errno);
        while ((n = read(fd, nothing, sizeof(nothing))) > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
                ; /* EAGAIN: the kernel wants a pause among many tasks */
        return n < 0 ? error_origin(-errno) : 0;
}
