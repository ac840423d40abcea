/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/placement.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/error.h"

#define LOAD_SANE 1000000u /* per mille: a thousand CPUs */

typedef struct Placed {
        PlacementSpec spec;
        Region bell;
        bool runs, refused;
        bool known; /* last was said */
        BellCounters last;

        /* since the last look */
        uint32_t load; /* per mille of a CPU */
        nsec_t service_ns, wake_ns;
        uint64_t n_woken, n_taken;

        bool joined; /* beside its producer */
        bool proven; /* and that has helped */
        unsigned votes;
        nsec_t wake_before; /* it joined */
        nsec_t not_before, again;
        int cpu;
        const char *why;
} Placed;

struct Placement {
        uint32_t n_nodes, seed;
        size_t n_cpus;
        int *cpus;
        Placed *nodes;
        uint32_t *load, *size; /* of the group whose root it is; per CPU number the load there */
        uint64_t *cpu_load;
        BellCounters *said;
        unsigned n_calm;
};

Placement *placement_free(Placement *placement)
{
        if (!placement)
                return NULL;
        for (uint32_t i = 0; placement->nodes && i < placement->n_nodes; i++)
                region_unmap(&placement->nodes[i].bell);
        free(placement->nodes);
        free(placement->cpus);
        free(placement->load);
        free(placement->size);
        free(placement->cpu_load);
        free(placement->said);
        free(placement);
        return NULL;
}

static void placement_freep(Placement **placement)
{
        *placement = placement_free(*placement);
}

int placement_new(Placement **ret, const PlacementSpec *specs, uint32_t n_nodes, const int *cpus, size_t n_cpus, uint32_t seed)
{
        _cleanup_(placement_freep) Placement *p = calloc(1, sizeof(*p));
        size_t n = MAX(n_nodes, 1u);

        if (!p)
                return error_origin(-ENOMEM);
        p->n_nodes = n_nodes;
        p->n_cpus = n_cpus;
        p->seed = seed;
        p->nodes = calloc(n, sizeof(*p->nodes));
        p->cpus = calloc(MAX(n_cpus, (size_t)1), sizeof(*p->cpus));
        p->load = calloc(n, sizeof(*p->load));
        p->size = calloc(n, sizeof(*p->size));
        p->cpu_load = calloc(MAX(n_cpus, (size_t)1), sizeof(*p->cpu_load));
        p->said = calloc(n, sizeof(*p->said));
        if (!p->nodes || !p->cpus || !p->load || !p->size || !p->cpu_load || !p->said)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < n_cpus; i++)
                p->cpus[i] = cpus[i];
        for (uint32_t i = 0; i < n_nodes; i++)
                p->nodes[i] = (Placed){.spec = specs[i], .cpu = -1, .again = PLACEMENT_AGAIN};
        *ret = TAKE_PTR(p);
        return 0;
}

void placement_begin(Placement *p, uint32_t node, int bell_fd)
{
        Placed *n = &p->nodes[node];

        assert(node < p->n_nodes);
        placement_end(p, node);
        n->runs = true;
        p->n_calm = 0;
        if (bell_fd >= 0)
                (void)region_map_status(&n->bell, bell_fd, REGION_BELL, bell_size());
}

void placement_end(Placement *p, uint32_t node)
{
        Placed *n = &p->nodes[node];

        assert(node < p->n_nodes);
        region_unmap(&n->bell);
        *n = (Placed){.spec = n->spec, .cpu = -1, .again = n->again, .not_before = n->not_before};
}

void placement_refused(Placement *p, uint32_t node, const char *why)
{
        Placed *n = &p->nodes[node];

        assert(node < p->n_nodes);
        n->refused = true;
        n->joined = false;
        n->cpu = -1;
        n->why = why;
        p->n_calm = 0;
}

/* -------- what was said -------- */

static bool went_on(const BellCounters *a, const BellCounters *b)
{
        return b->n_taken >= a->n_taken && b->n_woken >= a->n_woken && b->woken_ns >= a->woken_ns && b->cpu_ns >= a->cpu_ns &&
                b->cpu_at >= a->cpu_at;
}

static void measure(Placed *n, const BellCounters *said)
{
        const BellCounters *last = &n->last;
        uint64_t cpu = said->cpu_ns - last->cpu_ns, span = said->cpu_at - last->cpu_at;

        n->n_taken = n->n_woken = 0;
        n->wake_ns = 0;
        if (!n->known || !went_on(last, said)) {
                n->known = true;
                n->last = *said;
                n->load = 0;
                n->service_ns = 0;
                return;
        }
        n->n_woken = said->n_woken - last->n_woken;
        if (n->n_woken)
                n->wake_ns = MIN((said->woken_ns - last->woken_ns) / n->n_woken, BELL_WOKEN_MAX);
        n->n_taken = said->n_taken - last->n_taken;
        if (span > 0) { /* else it has not said it anew, and what it said last stands */
                n->load = (uint32_t)MIN((double)cpu * 1000 / (double)span, (double)LOAD_SANE);
                n->service_ns = n->n_taken ? cpu / n->n_taken : 0;
        }
        n->last = *said;
}

/* -------- groups -------- */

static bool may_move(const Placed *n)
{
        return n->runs && !n->spec.fixed && !n->refused && n->spec.wish != PLACEMENT_NONE;
}

/* Somebody may be placed beside it. */
static bool may_lead(const Placed *n)
{
        return may_move(n) || (n->runs && n->spec.fixed_cpu >= 0);
}

static uint32_t root_of(const Placement *p, uint32_t node)
{
        for (uint32_t i = 0; i < p->n_nodes && p->nodes[node].joined; i++)
                node = p->nodes[node].spec.producer;
        return node;
}

static void count_groups(Placement *p)
{
        for (uint32_t i = 0; i < p->n_nodes; i++)
                p->load[i] = p->size[i] = 0;
        for (uint32_t i = 0; i < p->n_nodes; i++) {
                uint32_t root = root_of(p, i);

                if (!p->nodes[i].runs)
                        continue;
                p->load[root] = MIN(p->load[root] + p->nodes[i].load, LOAD_SANE);
                p->size[root]++;
        }
}

static void join(Placement *p, uint32_t node)
{
        Placed *n = &p->nodes[node];
        uint32_t root;

        n->joined = true;
        n->proven = false;
        n->votes = 0;
        n->wake_before = n->wake_ns;
        n->why = n->spec.wish == PLACEMENT_COLOCATE ? "as it was told to" : "its messages are short work, and wake it from another CPU";
        p->n_calm = 0;
        root = root_of(p, node); /* it led a group of its own until now, which becomes part of its producer's */
        if (root != node) {
                p->load[root] = MIN(p->load[root] + p->load[node], LOAD_SANE);
                p->size[root] += p->size[node];
                p->load[node] = p->size[node] = 0;
        }
}

static void leave(Placement *p, uint32_t node, nsec_t now, const char *why)
{
        Placed *n = &p->nodes[node];

        n->joined = false;
        n->votes = 0;
        n->why = why;
        n->not_before = nsec_add(now, n->again);
        n->again = MIN(2 * n->again, PLACEMENT_AGAIN_MAX);
        p->n_calm = 0; /* groups are counted anew when CPUs are given out */
}

static bool wants_to_join(const Placement *p, uint32_t node, nsec_t now)
{
        const Placed *n = &p->nodes[node];
        uint32_t root = root_of(p, n->spec.producer);

        if (n->spec.wish == PLACEMENT_COLOCATE)
                return true;
        return now >= n->not_before && n->n_woken >= PLACEMENT_WAKES && n->wake_ns >= PLACEMENT_WAKE_LEAST && n->service_ns > 0 &&
                n->service_ns <= PLACEMENT_SERVICE_JOIN && p->load[root] + p->load[node] <= PLACEMENT_LOAD_JOIN;
}

/* Why it should not stay; NULL: it should. */
static const char *wants_to_leave(Placement *p, uint32_t node)
{
        Placed *n = &p->nodes[node];

        if (n->service_ns > PLACEMENT_SERVICE_MAX)
                return "a message takes it too long";
        if (p->load[root_of(p, node)] > PLACEMENT_LOAD_MAX)
                return "together they would be too much for one CPU";
        if (n->n_woken < PLACEMENT_WAKES)
                return NULL;
        if (n->wake_ns > (n->proven ? 2 * n->wake_before : n->wake_before - n->wake_before / 5))
                return "its messages do not wake it sooner there";
        n->proven = true;
        return NULL;
}

static void judge(Placement *p, uint32_t node, nsec_t now)
{
        Placed *n = &p->nodes[node];
        const Placed *producer = n->spec.producer == PLACEMENT_NOBODY ? NULL : &p->nodes[n->spec.producer];
        const char *why;

        if (!producer || (n->spec.wish != PLACEMENT_AUTO && n->spec.wish != PLACEMENT_COLOCATE))
                return;
        if (!may_move(n) || !may_lead(producer)) {
                if (n->joined)
                        leave(p, node, now, producer->runs ? "one of the two is placed by somebody else" : "its producer has ended");
                return;
        }
        if (!n->joined) {
                if (root_of(p, n->spec.producer) == node)
                        return; /* around a circle: somebody has to be first */
                n->votes = wants_to_join(p, node, now) ? n->votes + 1 : 0;
                if (n->votes >= (n->spec.wish == PLACEMENT_COLOCATE ? 1 : PLACEMENT_VOTES))
                        join(p, node);
                return;
        }
        if (n->spec.wish == PLACEMENT_COLOCATE)
                return;
        why = wants_to_leave(p, node);
        n->votes = why ? n->votes + 1 : 0;
        if (n->votes >= PLACEMENT_VOTES)
                leave(p, node, now, why);
}

/* -------- CPUs -------- */

static int least_loaded(const Placement *p)
{
        size_t best = p->seed % p->n_cpus;

        for (size_t k = 0; k < p->n_cpus; k++) {
                size_t i = (p->seed + k) % p->n_cpus;

                if (p->cpu_load[i] < p->cpu_load[best])
                        best = i;
        }
        return p->cpus[best];
}

static void count_on_cpu(Placement *p, int cpu, uint32_t load)
{
        for (size_t i = 0; i < p->n_cpus; i++)
                if (p->cpus[i] == cpu)
                        p->cpu_load[i] += load + 1; /* one that does nothing takes room, too */
}

/* The CPU of the group that @root leads: as it is, if it has one. */
static int cpu_of_group(const Placement *p, uint32_t root)
{
        const Placed *n = &p->nodes[root];

        if (n->spec.fixed_cpu >= 0)
                return n->spec.fixed_cpu;
        return n->cpu >= 0 ? n->cpu : least_loaded(p);
}

static void move(Placement *p, uint32_t node, int cpu, PlacementFn fn, void *userdata)
{
        Placed *n = &p->nodes[node];

        if (n->cpu == cpu || !may_move(n))
                return;
        n->cpu = cpu;
        if (!n->joined && cpu >= 0)
                n->why = "others are placed beside it";
        fn(node, cpu, n->why ? n->why : "nobody is placed beside it any more", userdata);
}

static void assign(Placement *p, PlacementFn fn, void *userdata)
{
        for (size_t i = 0; i < p->n_cpus; i++)
                p->cpu_load[i] = 0;
        count_groups(p);
        for (uint32_t i = 0; i < p->n_nodes; i++)
                if (p->size[i] > 1 && cpu_of_group(p, i) == p->nodes[i].cpu)
                        count_on_cpu(p, p->nodes[i].cpu, p->load[i]);
        for (uint32_t i = 0; i < p->n_nodes; i++) { /* roots first: a group without a CPU gets one */
                if (p->nodes[i].joined || !p->nodes[i].runs)
                        continue;
                if (p->size[i] > 1 && p->nodes[i].cpu < 0)
                        count_on_cpu(p, cpu_of_group(p, i), p->load[i]);
                if (p->size[i] <= 1)
                        p->nodes[i].why = p->nodes[i].cpu >= 0 && p->nodes[i].spec.producer == PLACEMENT_NOBODY ? NULL : p->nodes[i].why;
                move(p, i, p->size[i] > 1 ? cpu_of_group(p, i) : -1, fn, userdata);
        }
        for (uint32_t i = 0; i < p->n_nodes; i++)
                if (p->nodes[i].joined)
                        move(p, i, cpu_of_group(p, root_of(p, i)), fn, userdata);
}

void placement_judge(Placement *p, const BellCounters *said, nsec_t now, PlacementFn fn, void *userdata)
{
        if (p->n_cpus < 2)
                return;
        p->n_calm++;
        for (uint32_t i = 0; i < p->n_nodes; i++)
                if (p->nodes[i].runs)
                        measure(&p->nodes[i], &said[i]);
        count_groups(p);
        for (uint32_t i = 0; i < p->n_nodes; i++)
                judge(p, i, now);
        assign(p, fn, userdata);
}

void placement_look(Placement *p, nsec_t now, PlacementFn fn, void *userdata)
{
        for (uint32_t i = 0; i < p->n_nodes; i++) {
                p->said[i] = (BellCounters){};
                if (p->nodes[i].bell.map)
                        bell_read(&p->nodes[i].bell, &p->said[i]);
        }
        placement_judge(p, p->said, now, fn, userdata);
}

nsec_t placement_next(const Placement *p, nsec_t now)
{
        nsec_t period = p->n_calm > PLACEMENT_CALM ? PLACEMENT_PERIOD_CALM : PLACEMENT_PERIOD;

        for (uint32_t i = 0; i < p->n_nodes && p->n_cpus > 1; i++) {
                const Placed *n = &p->nodes[i];
                bool wants = n->spec.wish == PLACEMENT_AUTO || n->spec.wish == PLACEMENT_COLOCATE;

                if (n->cpu >= 0 || (wants && may_move(n) && n->spec.producer != PLACEMENT_NOBODY && may_lead(&p->nodes[n->spec.producer])))
                        return nsec_add(now - now % period, period); /* the same moments for everybody: one wake-up for all dataflows */
        }
        return NSEC_NEVER;
}

PlacementState placement_state(const Placement *p, uint32_t node)
{
        const Placed *n = &p->nodes[node];

        assert(node < p->n_nodes);
        return (PlacementState){.wish = n->spec.wish, .cpu = n->cpu, .beside = n->joined ? n->spec.producer : PLACEMENT_NOBODY, .why = n->why};
}
