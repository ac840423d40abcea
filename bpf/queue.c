/* SPDX-License-Identifier: Apache-2.0 */
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/sdt.h"
#include "bpf/load.h"
#include "bpf/queue.h"
#include "bpf/sites.h"
#include "queue.skel.h"

#define ROUND_HITS   64
#define ROUNDS       9
#define MEASURE_SPAN (20 * NSEC_PER_MSEC)

struct QueueProbe {
        struct queue_bpf *skeleton;
        struct bpf_link **links; /* one a site */
        size_t n_links;
        uint32_t hit_ns;
};

/* ---- attaching */

static struct bpf_program *program_of(const QueueProbe *probe, SiteKind kind)
{
        switch (kind) {
        case SITE_ENQUEUE:
                return probe->skeleton->progs.on_enqueue;
        case SITE_DEQUEUE:
                return probe->skeleton->progs.on_dequeue;
        case SITE_MEASURE:
                return probe->skeleton->progs.on_measure;
        case _SITE_KIND_MAX:
                break;
        }
        return NULL;
}

/* In every process that has the file mapped, now or later. Between load_begin() and load_end(). */
static int attach_site(QueueProbe *probe, int fd, const Site *site, struct bpf_link **ret, ProbeReason *reason)
{
        LIBBPF_OPTS(bpf_uprobe_opts, opts, .ref_ctr_offset = site->semaphore);
        char path[32];

        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd); /* the very file, whatever its name is by now */
        *ret = bpf_program__attach_uprobe_opts(program_of(probe, site->kind), -1, path, site->offset, &opts);
        return *ret ? 0 : load_refused(-errno, "attach to a site", reason);
}

static int attach_sites(QueueProbe *probe, int fd, const Site *sites, size_t n, ProbeReason *reason)
{
        struct bpf_link **links = realloc(probe->links, (probe->n_links + n) * sizeof(*links));
        size_t n_before = probe->n_links;
        int r = 0;

        if (!links)
                return error_origin(-ENOMEM);
        probe->links = links;
        for (size_t i = 0; i < n && r == 0; i++) {
                if (sites[i].kind == SITE_MEASURE)
                        continue;
                r = attach_site(probe, fd, &sites[i], &links[probe->n_links], reason);
                if (r == 0)
                        probe->n_links++;
        }
        while (r && probe->n_links > n_before) /* a file with half of its sites would count what does not add up */
                (void)bpf_link__destroy(links[--probe->n_links]);
        return r;
}

int queue_probe_attach(QueueProbe *probe, int fd, size_t *ret_n, ProbeReason *reason)
{
        Site sites[SITES_MAX];
        ProbeReason ignored;
        int r;

        if (!reason)
                reason = &ignored;
        *ret_n = 0;
        r = sites_find(fd, sites, ret_n);
        if (r == -EBADMSG || r == -E2BIG) {
                *ret_n = 0;
                *reason = (ProbeReason){.err = -r, .text = "the file's notes of probe sites do not hold together"};
                return PROBE_E_UNAVAILABLE;
        }
        return r ? r : queue_probe_attach_sites(probe, fd, sites, *ret_n, reason);
}

int queue_probe_attach_sites(QueueProbe *probe, int fd, const Site *sites, size_t n, ProbeReason *reason)
{
        ProbeReason ignored;
        int r;

        if (n == 0)
                return 0;
        if (!reason)
                reason = &ignored;
        load_begin(reason);
        r = attach_sites(probe, fd, sites, n, reason);
        load_end();
        return r;
}

/* ---- what it costs: the fastest of some rounds, for all that may disturb one makes it slower */

#if SDT_HAVE

SDT_SEMAPHORE(tidegate, measure);

static uint32_t round_of_hits(void)
{
        nsec_t begin = clock_now();

        for (unsigned i = 0; i < ROUND_HITS; i++)
                SDT_3(tidegate, measure, 0, i, 1);
        return (uint32_t)((clock_now() - begin) / ROUND_HITS);
}

/* On a site of this program's own. */
static int measure(QueueProbe *probe, ProbeReason *reason)
{
        _cleanup_fd_ int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        nsec_t until = clock_now() + MEASURE_SPAN;
        struct bpf_link *links[SITES_MAX];
        Site sites[SITES_MAX];
        uint32_t best = UINT32_MAX;
        size_t n, n_links = 0;
        int r;

        if (fd < 0)
                return load_refused(-errno, "open this program", reason);
        r = sites_find(fd, sites, &n);
        for (size_t i = 0; i < n && r == 0; i++) {
                if (sites[i].kind != SITE_MEASURE)
                        continue;
                r = attach_site(probe, fd, &sites[i], &links[n_links], reason);
                n_links += r == 0;
        }
        for (unsigned i = 0; i < ROUNDS && r == 0 && n_links && (i == 0 || clock_now() < until); i++)
                best = MIN(best, round_of_hits());
        while (n_links)
                (void)bpf_link__destroy(links[--n_links]);
        if (best != UINT32_MAX)
                probe->hit_ns = MAX(best, 1u);
        return r;
}

#else

static int measure(QueueProbe *probe, ProbeReason *reason)
{
        return 0;
}

#endif

/* ---- loading */

static int prepare_maps(QueueProbe *probe, uint32_t n_links)
{
        struct queue_watched *watched;

        watched = mmap(NULL, sizeof(*watched), PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(probe->skeleton->maps.watched), 0);
        if (watched == MAP_FAILED)
                return -errno;
        watched->link_size = sizeof(struct queue_link);
        watched->n_links = n_links;
        watched->magic = QUEUE_MAGIC;
        (void)munmap(watched, sizeof(*watched));
        return 0;
}

static int load(QueueProbe *probe, const QueueProbeSpec *spec, ProbeReason *reason)
{
        uint32_t n_links = spec->n_links ? spec->n_links : QUEUE_LINKS_DEFAULT;
        int r;

        probe->skeleton = queue_bpf__open();
        if (!probe->skeleton)
                return load_refused(-errno, "open", reason);
        probe->skeleton->rodata->watched_cgroup_id = spec->cgroup_id;
        probe->skeleton->rodata->measured_link = n_links;
        r = bpf_map__set_max_entries(probe->skeleton->maps.links, n_links + 1);
        if (r)
                return error_origin(r);
        r = queue_bpf__load(probe->skeleton);
        if (r)
                return load_refused(r, "load", reason);
        r = prepare_maps(probe, n_links);
        if (r)
                return load_refused(r, "map its memory", reason);
        return measure(probe, reason);
}

int queue_probe_new(QueueProbe **ret, const QueueProbeSpec *spec, ProbeReason *reason)
{
        _cleanup_(queue_probe_freep) QueueProbe *probe = NULL;
        ProbeReason ignored;
        int r;

        if (spec->cgroup_id == 0 || spec->n_links > QUEUE_LINKS_MAX) /* 0 is what the kernel side reads of nothing */
                return error_origin(-EINVAL);

        probe = calloc(1, sizeof(*probe));
        if (!probe)
                return error_origin(-ENOMEM);

        if (!reason)
                reason = &ignored;
        if (!SDT_HAVE) {
                *reason = (ProbeReason){.err = ENOSYS, .text = "this machine has no probe sites"};
                return PROBE_E_UNAVAILABLE;
        }
        load_begin(reason);
        r = load(probe, spec, reason);
        load_end();
        if (r)
                return r;

        *ret = TAKE_PTR(probe);
        return 0;
}

QueueProbe *queue_probe_free(QueueProbe *probe)
{
        if (!probe)
                return NULL;
        while (probe->n_links)
                (void)bpf_link__destroy(probe->links[--probe->n_links]);
        free(probe->links);
        queue_bpf__destroy(probe->skeleton);
        free(probe);
        return NULL;
}

int queue_probe_fd(const QueueProbe *probe, QueueProbeFd which)
{
        const struct queue_bpf *skeleton = probe->skeleton;

        return bpf_map__fd(which == QUEUE_PROBE_FD_WATCHED ? skeleton->maps.watched : skeleton->maps.links);
}

uint32_t queue_probe_cost(const QueueProbe *probe)
{
        return probe->hit_ns;
}
