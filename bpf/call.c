/* SPDX-License-Identifier: Apache-2.0 */
#include <bpf/libbpf.h>
#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/error.h"
#include "bpf/call.h"
#include "bpf/load.h"
#include "call.skel.h"

#define ROUND_CALLS 200
#define ROUNDS      9

struct CallProbe {
        struct call_bpf *skeleton;
        CallProbeCost cost;
};

/* ---- what it costs: in CPU time, of the fastest of some rounds, for whatever disturbs one makes it slower */

/* Nanoseconds for ROUND_CALLS. Not through libc, which may know the answer. */
static nsec_t round_of_calls(void)
{
        nsec_t begin = clock_cpu();

        for (unsigned i = 0; i < ROUND_CALLS; i++)
                (void)syscall(SYS_getppid);
        return clock_cpu() - begin;
}

static nsec_t measure(void)
{
        nsec_t best = NSEC_NEVER;

        for (unsigned i = 0; i < ROUNDS; i++)
                best = MIN(best, round_of_calls());
        return best;
}

static uint32_t longer(nsec_t with, nsec_t without)
{
        return with > without ? (uint32_t)((with - without) / ROUND_CALLS) : 0;
}

/* First as one of the others: who was ever watched is looked at more closely. */
static void measure_attached(CallProbe *probe, nsec_t alone)
{
        bool *measuring = &probe->skeleton->bss->measuring;
        nsec_t other = measure(), watched;

        probe->skeleton->bss->loader = (uint32_t)getpid();
        __atomic_store_n(measuring, true, __ATOMIC_SEQ_CST);
        watched = measure();
        __atomic_store_n(measuring, false, __ATOMIC_SEQ_CST);
        probe->cost = (CallProbeCost){.alone_ns = (uint32_t)(alone / ROUND_CALLS), .call_ns = longer(watched, alone), .other_ns = longer(other, alone)};
}

/* ---- loading */

/* Before anybody is counted: what the maps are, and one slot more than anybody is told of, in which the loader is measured. */
static int prepare_maps(CallProbe *probe, uint32_t n_slots)
{
        size_t size = (n_slots + 1) * sizeof(struct call_slot);
        struct call_watched *watched;
        struct call_slot *slots;

        watched = mmap(NULL, sizeof(*watched), PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(probe->skeleton->maps.watched), 0);
        if (watched == MAP_FAILED)
                return -errno;
        watched->slot_size = sizeof(struct call_slot);
        watched->n_slots = n_slots;
        watched->magic = CALL_MAGIC;
        (void)munmap(watched, sizeof(*watched));

        slots = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(probe->skeleton->maps.slots), 0);
        if (slots == MAP_FAILED)
                return -errno;
        slots[n_slots].life = 1;
        (void)munmap(slots, size);
        return 0;
}

static int configure(CallProbe *probe, const CallProbeSpec *spec, uint32_t n_slots)
{
        struct stat st;

        probe->skeleton->rodata->watched_cgroup_id = spec->cgroup_id;
        probe->skeleton->rodata->measured_slot = n_slots;
        probe->skeleton->rodata->sigreturn = SYS_rt_sigreturn;
        if (stat("/proc/self/ns/pid", &st) == 0) { /* or its cost is not known */
                probe->skeleton->rodata->pidns_dev = (uint64_t)major(st.st_dev) << 20 | minor(st.st_dev); /* as the kernel has it inside */
                probe->skeleton->rodata->pidns_ino = st.st_ino;
        }
        return bpf_map__set_max_entries(probe->skeleton->maps.slots, n_slots + 1);
}

static int attach(struct bpf_program *program, struct bpf_link **ret, ProbeReason *reason)
{
        *ret = bpf_program__attach(program);
        return *ret ? 0 : load_refused(-errno, "attach", reason);
}

static int load(CallProbe *probe, const CallProbeSpec *spec, ProbeReason *reason)
{
        uint32_t n_slots = spec->n_slots ? spec->n_slots : CALL_SLOTS_DEFAULT;
        nsec_t alone;
        int r;

        probe->skeleton = call_bpf__open();
        if (!probe->skeleton)
                return load_refused(-errno, "open", reason);
        r = configure(probe, spec, n_slots);
        if (r)
                return error_origin(r);
        r = call_bpf__load(probe->skeleton);
        if (r)
                return load_refused(r, "load", reason);
        r = prepare_maps(probe, n_slots);
        if (r)
                return load_refused(r, "map its memory", reason);

        alone = measure();

        /* Who ends and who returns first: or a call might be entered whose end nobody sees. */
        r = attach(probe->skeleton->progs.on_end, &probe->skeleton->links.on_end, reason);
        if (!r)
                r = attach(probe->skeleton->progs.on_exit, &probe->skeleton->links.on_exit, reason);
        if (!r)
                r = attach(probe->skeleton->progs.on_enter, &probe->skeleton->links.on_enter, reason);
        if (!r)
                measure_attached(probe, alone);
        return r;
}

int call_probe_new(CallProbe **ret, const CallProbeSpec *spec, ProbeReason *reason)
{
        _cleanup_(call_probe_freep) CallProbe *probe = NULL;
        int r;

        if (spec->cgroup_id == 0 || spec->n_slots > CALL_SLOTS_MAX) /* 0 is what the kernel side reads of nothing */
                return error_origin(-EINVAL);

        probe = calloc(1, sizeof(*probe));
        if (!probe)
                return error_origin(-ENOMEM);

        r = load(probe, spec, load_begin(reason));
        load_end();
        if (r)
                return r;

        *ret = TAKE_PTR(probe);
        return 0;
}

CallProbe *call_probe_free(CallProbe *probe)
{
        if (!probe)
                return NULL;
        call_bpf__destroy(probe->skeleton);
        free(probe);
        return NULL;
}

int call_probe_fd(const CallProbe *probe, CallProbeFd which)
{
        const struct call_bpf *skeleton = probe->skeleton;

        switch (which) {
        case CALL_PROBE_FD_WATCHED:
                return bpf_map__fd(skeleton->maps.watched);
        case CALL_PROBE_FD_SLOTS:
                return bpf_map__fd(skeleton->maps.slots);
        case CALL_PROBE_FD_ENTER:
                return bpf_link__fd(skeleton->links.on_enter);
        case CALL_PROBE_FD_EXIT:
                return bpf_link__fd(skeleton->links.on_exit);
        case CALL_PROBE_FD_END:
                return bpf_link__fd(skeleton->links.on_end);
        case _CALL_PROBE_FD_MAX:
                break;
        }
        return -1;
}

CallProbeCost call_probe_cost(const CallProbe *probe)
{
        return probe->cost;
}
