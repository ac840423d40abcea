/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/progress.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "shm/cursor.h"
#include "shm/ring.h"

/* --- arithmetic --- */

void progress_link_begin(ProgressLink *link, uint32_t queue_size)
{
        *link = (ProgressLink){.head = UINT64_MAX, .tail = UINT64_MAX, .queue_size = queue_size, .waiting_since = NSEC_NEVER};
}

bool progress_link_sample(ProgressLink *link, uint64_t head, uint64_t tail, nsec_t now)
{
        bool first = link->head == UINT64_MAX, taken;
        uint64_t behind;

        if (head > RING_INDEX_LIMIT || tail > RING_INDEX_LIMIT || (!first && (head < link->head || tail < link->tail)))
                return false; /* nobody honest stored that: it says nothing, and what was seen before stands */
        taken = !first && tail > link->tail;
        link->head = head;
        link->tail = tail;
        behind = head > tail ? head - tail : 0;
        link->waiting = (uint32_t)MIN(behind, (uint64_t)link->queue_size);
        if (link->waiting == 0)
                link->waiting_since = NSEC_NEVER;
        else if (link->waiting_since == NSEC_NEVER)
                link->waiting_since = now; /* it came at some time since the last sample: the benefit of the doubt */
        return taken;
}

void progress_node_begin(ProgressNode *node, nsec_t timeout, nsec_t now)
{
        *node = (ProgressNode){.timeout = timeout, .taken_at = now, .waiting_since = NSEC_NEVER, .health = PROGRESS_IDLE};
}

void progress_node_round(ProgressNode *node)
{
        node->waiting_since = NSEC_NEVER;
        node->waiting = 0;
}

void progress_node_add(ProgressNode *node, const ProgressLink *link, bool taken, nsec_t now)
{
        if (taken)
                node->taken_at = now;
        node->waiting_since = MIN(node->waiting_since, link->waiting_since);
        node->waiting = MAX(node->waiting, link->waiting);
}

ProgressChange progress_node_judge(ProgressNode *node, nsec_t now)
{
        bool was_stuck = node->health == PROGRESS_STUCK;
        nsec_t since = MAX(node->waiting_since, node->taken_at);

        if (node->waiting_since == NSEC_NEVER)
                node->health = PROGRESS_IDLE;
        else if (node->timeout > 0 && now > since && now - since >= node->timeout)
                node->health = PROGRESS_STUCK;
        else
                node->health = PROGRESS_OK;
        node->stuck_since = node->health == PROGRESS_STUCK ? since : 0;
        if (was_stuck == (node->health == PROGRESS_STUCK))
                return PROGRESS_CHANGE_NONE;
        return was_stuck ? PROGRESS_CHANGE_RESUMED : PROGRESS_CHANGE_STUCK;
}

/* --- one dataflow --- */

typedef struct Sight { /* a link, mapped */
        bool open; /* judged */
        bool mapped;
        ProgressLinkSpec spec;
        ProgressLink link;
        Region ring, cursor;
} Sight;

typedef struct Watched {
        bool runs;
        ProgressNode node;
        uint32_t waits_for;
        uint32_t walk;     /* of find_circles(): 0 none, else 1 + the node at which the walk began that came here first */
        bool in_circle;    /* waits, by way of others or not, for itself */
        nsec_t excused_at; /* 0: never */
} Watched;

struct Progress {
        uint32_t n_nodes, n_links;
        Watched *nodes;
        Sight *links;
};

Progress *progress_free(Progress *progress)
{
        if (!progress)
                return NULL;
        for (uint32_t i = 0; progress->links && i < progress->n_links; i++)
                progress_forget(progress, i);
        free(progress->nodes);
        free(progress->links);
        free(progress);
        return NULL;
}

static void progress_freep(Progress **progress)
{
        *progress = progress_free(*progress);
}

int progress_new(Progress **ret, uint32_t n_nodes, uint32_t n_links)
{
        _cleanup_(progress_freep) Progress *progress = calloc(1, sizeof(*progress));

        if (!progress)
                return error_origin(-ENOMEM);
        *progress = (Progress){.n_nodes = n_nodes, .n_links = n_links};
        progress->nodes = calloc(MAX(n_nodes, 1u), sizeof(*progress->nodes));
        progress->links = calloc(MAX(n_links, 1u), sizeof(*progress->links));
        if (!progress->nodes || !progress->links)
                return error_origin(-ENOMEM);
        for (uint32_t i = 0; i < n_nodes; i++)
                progress_end(progress, i);
        *ret = TAKE_PTR(progress);
        return 0;
}

void progress_begin(Progress *progress, uint32_t node, nsec_t timeout, nsec_t now)
{
        assert(node < progress->n_nodes);
        progress->nodes[node] = (Watched){.runs = true, .waits_for = PROGRESS_NOBODY};
        progress_node_begin(&progress->nodes[node].node, timeout, now);
}

void progress_end(Progress *progress, uint32_t node)
{
        assert(node < progress->n_nodes);
        progress->nodes[node] = (Watched){.runs = false, .waits_for = PROGRESS_NOBODY};
        progress_node_begin(&progress->nodes[node].node, 0, 0);
}

int progress_open(Progress *progress, uint32_t link, const ProgressLinkSpec *spec)
{
        Sight sight = {.open = true, .mapped = true, .spec = *spec};
        int r;

        assert(link < progress->n_links && spec->source < progress->n_nodes && spec->target < progress->n_nodes);
        progress_forget(progress, link);
        r = region_map_status(&sight.ring, spec->ring_fd, REGION_RING, spec->ring_size);
        if (r)
                return r;
        r = region_map_status(&sight.cursor, spec->cursor_fd, REGION_CURSOR, cursor_size());
        if (r) {
                region_unmap(&sight.ring);
                return r;
        }
        progress_link_begin(&sight.link, spec->queue_size);
        progress->links[link] = sight;
        return 0;
}

void progress_close(Progress *progress, uint32_t link)
{
        Sight *sight = &progress->links[link];

        assert(link < progress->n_links);
        sight->open = false;
}

void progress_forget(Progress *progress, uint32_t link)
{
        Sight *sight = &progress->links[link];

        assert(link < progress->n_links);
        if (!sight->mapped)
                return;
        region_unmap(&sight->ring);
        region_unmap(&sight->cursor);
        *sight = (Sight){.open = false};
}

bool progress_counters(const Progress *progress, uint32_t link, nsec_t now, LinkCounters *ret)
{
        const Sight *sight = &progress->links[link];

        assert(link < progress->n_links);
        if (sight->mapped)
                link_counters_read(&sight->ring, &sight->cursor, sight->spec.queue_size, sight->spec.policy, now, ret);
        return sight->mapped;
}

bool progress_wants_room(const Progress *progress, uint32_t link)
{
        const Sight *sight = &progress->links[link];
        RingStatus ring;

        assert(link < progress->n_links);
        if (!sight->mapped || !sight->open)
                return false;
        ring_read_status(&sight->ring, &ring);
        return ring.blocked && ring.blocked_link == sight->spec.number;
}

static void look_at_link(Progress *progress, Sight *sight, nsec_t now)
{
        Watched *target = &progress->nodes[sight->spec.target], *source = &progress->nodes[sight->spec.source];
        CursorStatus cursor;
        RingStatus ring;
        bool taken;

        cursor_read(&sight->cursor, &cursor);
        ring_read_status(&sight->ring, &ring); /* after the cursor: a head read before it may lie below its tail */
        if (source->waits_for == PROGRESS_NOBODY && ring.blocked && ring.blocked_link == sight->spec.number)
                source->waits_for = sight->spec.target; /* by its own word: good for a hint only */
        if (!cursor.active) {
                sight->link.waiting_since = NSEC_NEVER;
                sight->link.waiting = 0;
                return;
        }
        taken = progress_link_sample(&sight->link, ring.head, cursor.tail, now);
        progress_node_add(&target->node, &sight->link, taken, now);
}

uint32_t progress_n_stuck(const Progress *progress, nsec_t *ret_since)
{
        nsec_t since = NSEC_NEVER;
        uint32_t n = 0;

        for (uint32_t i = 0; i < progress->n_nodes; i++) {
                if (progress->nodes[i].node.health != PROGRESS_STUCK)
                        continue;
                n++;
                since = MIN(since, progress->nodes[i].node.stuck_since);
        }
        if (ret_since)
                *ret_since = n ? since : 0;
        return n;
}

/* Whoever is waited for around a circle. Each node is passed once: where a walk comes back to its own way it has found one. */
static void find_circles(Progress *progress)
{
        Watched *nodes = progress->nodes;

        for (uint32_t i = 0; i < progress->n_nodes; i++)
                nodes[i].walk = nodes[i].in_circle = 0;
        for (uint32_t i = 0; i < progress->n_nodes; i++) {
                uint32_t at = i;

                for (; at != PROGRESS_NOBODY && nodes[at].walk == 0; at = nodes[at].waits_for)
                        nodes[at].walk = i + 1;
                if (at == PROGRESS_NOBODY || nodes[at].walk != i + 1)
                        continue;
                for (; !nodes[at].in_circle; at = nodes[at].waits_for)
                        nodes[at].in_circle = true;
        }
}

void progress_look(Progress *progress, nsec_t now, ProgressFn fn, void *userdata)
{
        uint32_t n_stuck;

        for (uint32_t i = 0; i < progress->n_nodes; i++) {
                progress_node_round(&progress->nodes[i].node);
                progress->nodes[i].waits_for = PROGRESS_NOBODY;
        }
        for (uint32_t i = 0; i < progress->n_links; i++)
                if (progress->links[i].open)
                        look_at_link(progress, &progress->links[i], now);
        find_circles(progress);
        for (uint32_t i = 0; i < progress->n_nodes; i++)
                if (progress->nodes[i].waits_for != PROGRESS_NOBODY && !progress->nodes[i].in_circle)
                        progress_excuse(progress, i, now);
        n_stuck = progress_n_stuck(progress, NULL);
        for (uint32_t i = 0; i < progress->n_nodes; i++) {
                Watched *watched = &progress->nodes[i];
                nsec_t since = watched->node.stuck_since;
                ProgressChange change;

                if (!watched->runs)
                        continue;
                change = progress_node_judge(&watched->node, now);
                if (change == PROGRESS_CHANGE_NONE)
                        continue;
                n_stuck = change == PROGRESS_CHANGE_STUCK ? n_stuck + 1 : n_stuck - 1;
                fn(&(const ProgressEvent){.node = i,
                           .change = change,
                           .since = change == PROGRESS_CHANGE_STUCK ? watched->node.stuck_since : since,
                           .waiting = watched->node.waiting,
                           .waits_for = watched->waits_for,
                           .n_stuck = n_stuck},
                        userdata);
        }
}

nsec_t progress_next(const Progress *progress, nsec_t now)
{
        nsec_t timeout = NSEC_NEVER, period;
        bool waits = false;

        for (uint32_t i = 0; i < progress->n_links; i++) {
                const Sight *sight = &progress->links[i];
                const Watched *target = &progress->nodes[sight->spec.target];

                if (!sight->open || !target->runs || target->node.timeout == 0)
                        continue;
                timeout = MIN(timeout, target->node.timeout);
                waits = waits || sight->link.waiting > 0;
        }
        if (timeout == NSEC_NEVER)
                return NSEC_NEVER;
        period = MAX(MIN(waits ? PROGRESS_PERIOD : PROGRESS_PERIOD_IDLE, timeout / 8), PROGRESS_PERIOD_MIN);
        return nsec_add(now - now % period, period); /* the same moments for everybody: one wake-up for all dataflows */
}

ProgressState progress_state(const Progress *progress, uint32_t node)
{
        const Watched *watched = &progress->nodes[node];

        assert(node < progress->n_nodes);
        return (ProgressState){.health = watched->node.health,
                .stuck_since = watched->node.stuck_since,
                .waiting = watched->node.waiting,
                .waits_for = watched->waits_for};
}

void progress_excuse(Progress *progress, uint32_t node, nsec_t now)
{
        assert(node < progress->n_nodes);
        progress->nodes[node].excused_at = now;
}

void progress_forgive(Progress *progress, nsec_t late)
{
        for (uint32_t i = 0; i < progress->n_nodes; i++) {
                Watched *watched = &progress->nodes[i];

                if (watched->node.health == PROGRESS_STUCK)
                        watched->excused_at = nsec_add(MAX(watched->node.stuck_since, watched->excused_at), late);
        }
}

bool progress_overdue(const Progress *progress, uint32_t node, nsec_t span, nsec_t now)
{
        const Watched *watched = &progress->nodes[node];

        assert(node < progress->n_nodes);
        return watched->node.health == PROGRESS_STUCK && now >= nsec_add(MAX(watched->node.stuck_since, watched->excused_at), span);
}

const char *progress_health_to_string(ProgressHealth health)
{
        static const char *const names[_PROGRESS_HEALTH_MAX] = {
                [PROGRESS_IDLE] = "idle",
                [PROGRESS_OK] = "ok",
                [PROGRESS_STUCK] = "stuck",
        };

        return (unsigned)health < _PROGRESS_HEALTH_MAX ? names[health] : "?";
}
