/* SPDX-License-Identifier: Apache-2.0 */
#include "protocol/status_page.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/utf8.h"

#define SLOT_TRIES 64 /* a writer moves on in a microsecond or so, and does not write one row all the time */
#define PAGE_TRIES 16

#define load_relaxed(p)     __atomic_load_n((p), __ATOMIC_RELAXED)
#define load_acquire(p)     __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)

static const char *name_of(const char *const *names, uint32_t n, uint32_t value)
{
        return value > 0 && value < n ? names[value] : "?";
}

const char *status_state_to_string(uint32_t state)
{
        static const char *const names[_STATUS_STATE_MAX] = {
                [STATUS_RUNNING] = "running",
                [STATUS_STOPPING] = "stopping",
                [STATUS_ENDED] = "ended",
        };

        return name_of(names, _STATUS_STATE_MAX, state);
}

const char *status_guard_to_string(uint32_t guard)
{
        static const char *const names[_STATUS_GUARD_MAX] = {
                [STATUS_GUARD_OK] = "ok",
                [STATUS_GUARD_UNRESPONSIVE] = "unresponsive",
                [STATUS_GUARD_GONE] = "gone",
        };

        return name_of(names, _STATUS_GUARD_MAX, guard);
}

const char *status_health_to_string(uint32_t health)
{
        static const char *const names[_STATUS_HEALTH_MAX] = {
                [STATUS_HEALTH_OK] = "ok",
                [STATUS_HEALTH_STUCK] = "stuck",
                [STATUS_HEALTH_IDLE] = "idle",
        };

        return name_of(names, _STATUS_HEALTH_MAX, health);
}

const char *status_wanted_to_string(uint32_t wanted)
{
        static const char *const names[_STATUS_WANTED_MAX] = {
                [STATUS_WANTED_RUNNING] = "running",
                [STATUS_WANTED_STOPPED] = "stopped",
        };

        return name_of(names, _STATUS_WANTED_MAX, wanted);
}

const char *status_result_to_string(uint32_t result)
{
        static const char *const names[_STATUS_RESULT_MAX] = {
                [STATUS_RESULT_NONE] = "none",
                [STATUS_RESULT_SUCCEEDED] = "succeeded",
                [STATUS_RESULT_FAILED] = "failed",
                [STATUS_RESULT_LEFT] = "left",
        };

        return name_of(names, _STATUS_RESULT_MAX, result);
}

const char *status_dataflow_state_to_string(uint32_t state)
{
        static const char *const names[_STATUS_DATAFLOW_MAX] = {
                [STATUS_DATAFLOW_BEGINNING] = "beginning",
                [STATUS_DATAFLOW_STARTING] = "starting",
                [STATUS_DATAFLOW_RUNNING] = "running",
                [STATUS_DATAFLOW_STOPPING] = "stopping",
                [STATUS_DATAFLOW_ENDING] = "ending",
                [STATUS_DATAFLOW_ENDED] = "ended",
        };

        return name_of(names, _STATUS_DATAFLOW_MAX, state);
}

const char *status_node_state_to_string(uint32_t state)
{
        static const char *const names[_STATUS_NODE_MAX] = {
                [STATUS_NODE_PENDING] = "pending",
                [STATUS_NODE_STARTING] = "starting",
                [STATUS_NODE_RUNNING] = "running",
                [STATUS_NODE_STOPPING] = "stopping",
                [STATUS_NODE_BACKOFF] = "backoff",
                [STATUS_NODE_STOPPED] = "stopped",
                [STATUS_NODE_FAILED] = "failed",
        };

        return name_of(names, _STATUS_NODE_MAX, state);
}

const char *status_kind_to_string(uint32_t kind)
{
        static const char *const names[_STATUS_KIND_MAX] = {
                [STATUS_KIND_NODE] = "node",
                [STATUS_KIND_PROGRAM] = "program",
                [STATUS_KIND_DYNAMIC] = "dynamic",
        };

        return name_of(names, _STATUS_KIND_MAX, kind);
}

uint64_t status_page_size(uint32_t n_dataflows, uint32_t n_nodes)
{
        if (n_dataflows > STATUS_MAX_DATAFLOWS || n_nodes > STATUS_MAX_NODES)
                return 0;
        return sizeof(struct status_page_header) + (uint64_t)n_dataflows * sizeof(struct status_dataflow_slot) +
               (uint64_t)n_nodes * sizeof(struct status_node_slot);
}

int status_page_open(StatusPage *ret, const void *map, uint64_t size_bytes)
{
        const struct status_page_header *header = map;
        uint32_t n_dataflows, n_nodes;

        if (size_bytes < sizeof(*header) || size_bytes > status_page_size(STATUS_MAX_DATAFLOWS, STATUS_MAX_NODES))
                return STATUS_E_SIZE;
        if (load_acquire(&header->magic) != STATUS_PAGE_MAGIC) /* acquire: its maker stores it last */
                return STATUS_E_MAGIC;
        n_dataflows = load_relaxed(&header->n_dataflows); /* once: checked and kept below */
        n_nodes = load_relaxed(&header->n_nodes);
        if (load_relaxed(&header->version) != STATUS_PAGE_VERSION || load_relaxed(&header->header_size) != sizeof(*header) ||
            load_relaxed(&header->dataflow_slot_size) != sizeof(struct status_dataflow_slot) ||
            load_relaxed(&header->node_slot_size) != sizeof(struct status_node_slot))
                return STATUS_E_VERSION;
        if (load_relaxed(&header->size) != size_bytes || status_page_size(n_dataflows, n_nodes) != size_bytes)
                return STATUS_E_VERSION;

        *ret = (StatusPage){.header = header,
                .dataflows = (const void *)(header + 1),
                .nodes = (const void *)((const struct status_dataflow_slot *)(header + 1) + n_dataflows),
                .n_dataflows = n_dataflows,
                .n_nodes = n_nodes};
        return 0;
}

void status_page_init(struct status_page_header *header, uint32_t n_dataflows, uint32_t n_nodes)
{
        header->version = STATUS_PAGE_VERSION;
        header->header_size = sizeof(*header);
        header->size = status_page_size(n_dataflows, n_nodes);
        header->n_dataflows = n_dataflows;
        header->n_nodes = n_nodes;
        header->dataflow_slot_size = sizeof(struct status_dataflow_slot);
        header->node_slot_size = sizeof(struct status_node_slot);
        store_release(&header->magic, STATUS_PAGE_MAGIC);
}

static void words_copy(void *to, const void *from, size_t size)
{
        for (size_t i = 0; i < size / 8; i++) {
                uint64_t word = load_relaxed((const uint64_t *)from + i); /* torn sets: the second look at seq */

                memcpy((char *)to + 8 * i, &word, 8);
        }
}

static int slot_read(const uint64_t *seq, const void *copies, void *ret, size_t copy_size)
{
        for (unsigned i = 0; i < SLOT_TRIES; i++) {
                uint64_t before = load_acquire(seq); /* acquire: the copy it names is at least as new */

                words_copy(ret, (const char *)copies + (before & 1) * copy_size, copy_size);
                __atomic_thread_fence(__ATOMIC_ACQUIRE); /* the words were read before seq is read again */
                if (load_relaxed(seq) == before)
                        return 0;
        }
        return STATUS_E_BUSY;
}

void status_slot_write(uint64_t *seq, void *copies, const void *value, size_t copy_size)
{
        uint64_t next = load_relaxed(seq) + 1; /* ours alone */
        uint64_t *to = (uint64_t *)(void *)((char *)copies + (next & 1) * copy_size);

        __atomic_thread_fence(__ATOMIC_RELEASE); /* who sees a word of this sees that seq has left this copy before */
        for (size_t i = 0; i < copy_size / 8; i++) {
                uint64_t word;

                memcpy(&word, (const char *)value + 8 * i, 8);
                store_relaxed(to + i, word);
        }
        store_release(seq, next); /* publishes them */
}

void status_changes_begin(struct status_page_header *header)
{
        /* It is odd already if our predecessor died here: still another number, and odd. */
        store_relaxed(&header->changes, (load_relaxed(&header->changes) + 1) | 1);
        __atomic_thread_fence(__ATOMIC_RELEASE); /* who sees a word of what follows sees this */
}

void status_changes_end(struct status_page_header *header)
{
        store_release(&header->changes, load_relaxed(&header->changes) + 1);
}

/* Ends the text and makes it harmless on a terminal: what is not UTF-8, and control characters, become '?'. */
static void text_clean(char *text, size_t size)
{
        size_t n;

        text[size - 1] = '\0';
        n = strlen(text);
        memset(text + n, 0, size - n);
        for (size_t i = 0; i < n;) {
                size_t k = utf8_sequence(text + i, n - i);
                unsigned char c = (unsigned char)text[i];

                if (k > 1 && !(c == 0xc2 && (unsigned char)text[i + 1] < 0xa0)) { /* C1 controls: 0xc2 0x80..0x9f */
                        i += k;
                        continue;
                }
                if (c < ' ' || c >= 0x7f)
                        text[i] = '?';
                i++;
        }
}

int status_page_info(const StatusPage *page, struct status_info *ret)
{
        int r = slot_read(&page->header->info.seq, page->header->info.copy, ret, sizeof(*ret));

        if (r)
                return r;
        text_clean(ret->boot_id, sizeof(ret->boot_id));
        text_clean(ret->version, sizeof(ret->version));
        text_clean(ret->instance, sizeof(ret->instance));
        text_clean(ret->cgroup, sizeof(ret->cgroup));
        return 0;
}

int status_page_dataflow(const StatusPage *page, uint32_t slot, struct status_dataflow *ret)
{
        int r;

        if (slot >= page->n_dataflows)
                return STATUS_E_FREE;
        r = slot_read(&page->dataflows[slot].seq, page->dataflows[slot].copy, ret, sizeof(*ret));
        if (r)
                return r;
        if (ret->serial == 0)
                return STATUS_E_FREE;
        text_clean(ret->uuid, sizeof(ret->uuid));
        text_clean(ret->name, sizeof(ret->name));
        text_clean(ret->cgroup, sizeof(ret->cgroup));
        return 0;
}

int status_page_node(const StatusPage *page, uint32_t slot, struct status_node *ret)
{
        int r;

        if (slot >= page->n_nodes)
                return STATUS_E_FREE;
        r = slot_read(&page->nodes[slot].seq, page->nodes[slot].copy, ret, sizeof(*ret));
        if (r)
                return r;
        if (ret->serial == 0 || ret->dataflow >= page->n_dataflows)
                return STATUS_E_FREE;
        text_clean(ret->id, sizeof(ret->id));
        return 0;
}

void status_page_pulse(const StatusPage *page, struct status_pulse *ret)
{
        const struct status_pulse *pulse = &page->header->pulse;

        words_copy(ret, pulse, sizeof(*ret)); /* each word is whole, the set is not */
        /* completed last: a turn that ended meanwhile must not look as if it were under way */
        ret->turn_started_ns = load_acquire(&pulse->turn_started_ns);
        ret->turn_completed_ns = load_acquire(&pulse->turn_completed_ns);
}

static int node_compare(const void *a, const void *b)
{
        const struct status_node *x = a, *y = b;

        if (x->dataflow != y->dataflow)
                return x->dataflow < y->dataflow ? -1 : 1;
        return x->index < y->index ? -1 : x->index > y->index;
}

static int read_rows(const StatusPage *page, StatusSnapshot *s, uint32_t dataflows_end, uint32_t nodes_end)
{
        _cleanup_free_ uint32_t *index_of = NULL; /* of a slot, in s->dataflows */
        int r;

        s->n_dataflows = s->n_nodes = 0;
        s->n_unreadable = 0;
        index_of = calloc(MAX(dataflows_end, 1u), sizeof(*index_of));
        if (!index_of)
                return error_origin(-ENOMEM);
        for (uint32_t i = 0; i < dataflows_end; i++) {
                index_of[i] = STATUS_NONE;
                r = status_page_dataflow(page, i, &s->dataflows[s->n_dataflows]);
                s->n_unreadable += r == STATUS_E_BUSY;
                if (r == 0)
                        index_of[i] = (uint32_t)s->n_dataflows++;
        }
        for (uint32_t i = 0; i < nodes_end; i++) {
                struct status_node *node = &s->nodes[s->n_nodes];

                r = status_page_node(page, i, node);
                s->n_unreadable += r == STATUS_E_BUSY;
                if (r || node->dataflow >= dataflows_end || index_of[node->dataflow] == STATUS_NONE ||
                    s->dataflows[index_of[node->dataflow]].serial != node->serial)
                        continue;
                node->dataflow = index_of[node->dataflow];
                s->n_nodes++;
        }
        qsort(s->nodes, s->n_nodes, sizeof(*s->nodes), node_compare);
        return 0;
}

int status_page_read(const StatusPage *page, StatusSnapshot *ret)
{
        _cleanup_(status_snapshot_done) StatusSnapshot s = STATUS_SNAPSHOT_NULL;
        int r;

        for (unsigned try = 0; try < PAGE_TRIES && !s.consistent; try++) {
                uint64_t before = load_acquire(&page->header->changes); /* acquire: all that follows is read after it */
                uint32_t dataflows_end = MIN(load_relaxed(&page->header->dataflows_end), page->n_dataflows);
                uint32_t nodes_end = MIN(load_relaxed(&page->header->nodes_end), page->n_nodes);

                status_snapshot_done(&s);
                s.dataflows = calloc(dataflows_end + 1, sizeof(*s.dataflows)); /* one to spare: read before it is counted */
                s.nodes = calloc(nodes_end + 1, sizeof(*s.nodes));
                if (!s.dataflows || !s.nodes)
                        return error_origin(-ENOMEM);
                s.n_dataflows_not_shown = load_relaxed(&page->header->n_dataflows_not_shown);
                s.n_nodes_not_shown = load_relaxed(&page->header->n_nodes_not_shown);
                status_page_pulse(page, &s.pulse);
                r = status_page_info(page, &s.info);
                if (r)
                        continue;
                r = read_rows(page, &s, dataflows_end, nodes_end);
                if (r)
                        return error_fold(r);
                __atomic_thread_fence(__ATOMIC_ACQUIRE); /* all of it was read before changes is read again */
                s.consistent = (before & 1) == 0 && load_relaxed(&page->header->changes) == before;
        }
        if (r == STATUS_E_BUSY)
                return r;
        status_snapshot_done(ret);
        *ret = s;
        s = STATUS_SNAPSHOT_NULL;
        return 0;
}

void status_snapshot_done(StatusSnapshot *snapshot)
{
        free(snapshot->dataflows);
        free(snapshot->nodes);
        *snapshot = STATUS_SNAPSHOT_NULL;
}

bool status_pulse_is_stale(const struct status_pulse *pulse, nsec_t stale_after_ns, nsec_t now)
{
        return pulse->turn_started_ns > pulse->turn_completed_ns && now > pulse->turn_started_ns &&
               now - pulse->turn_started_ns > stale_after_ns;
}

uint64_t status_lag_us(const struct status_pulse *pulse, uint32_t per_mille)
{
        unsigned __int128 total = 0, below = 0, want; /* a hostile page's counts may add up to anything */

        for (unsigned i = 0; i < STATUS_LAG_BUCKETS; i++)
                total += pulse->lag[i];
        want = (total * MIN(per_mille, 1000u) + 999) / 1000; /* so many turns, at least one unless there is none */
        for (unsigned i = 0; i < STATUS_LAG_BUCKETS && want > 0; i++) {
                uint64_t from = i ? UINT64_C(1) << (i - 1) : 0, to = UINT64_C(1) << i, us;

                if (below + pulse->lag[i] < want) {
                        below += pulse->lag[i];
                        continue;
                }
                us = from + (uint64_t)((to - from) * (want - below) / pulse->lag[i]);
                return i + 1 < STATUS_LAG_BUCKETS ? MIN(us, pulse->lag_max_us) : pulse->lag_max_us;
        }
        return 0;
}
