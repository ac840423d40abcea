/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer: a status page whose every byte is somebody else's. The first byte chooses whether the header is repaired, so
 * that rows are reached too: even: the bytes as they are; odd: a right header for small tables, its other words and the
 * rows from the input. What is read must be something that a command may print and count without further checks.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/utf8.h"
#include "protocol/status_page.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int good)
{
        if (!good)
                abort();
}

static void require_text(const char *text, size_t size)
{
        size_t n = strnlen(text, size);

        require(n < size && utf8_valid(text, n));
        for (size_t i = 0; i < n; i++)
                require((unsigned char)text[i] >= ' ' && text[i] != 0x7f);
}

static void look(const void *map, uint64_t size)
{
        _cleanup_(status_snapshot_done) StatusSnapshot s = STATUS_SNAPSHOT_NULL;
        StatusPage page;
        uint64_t median;

        if (status_page_open(&page, map, size) || status_page_read(&page, &s))
                return;
        require(s.n_dataflows <= page.n_dataflows && s.n_nodes <= page.n_nodes);
        require_text(s.info.boot_id, sizeof(s.info.boot_id));
        require_text(s.info.version, sizeof(s.info.version));
        require_text(s.info.instance, sizeof(s.info.instance));
        require_text(s.info.cgroup, sizeof(s.info.cgroup));
        require(status_state_to_string(s.info.state) && status_guard_to_string(s.info.guard));
        median = status_lag_us(&s.pulse, 500);
        require(median <= status_lag_us(&s.pulse, 999) && status_lag_us(&s.pulse, UINT32_MAX) <= s.pulse.lag_max_us);
        (void)status_pulse_is_stale(&s.pulse, s.info.stale_after_ns, NSEC_NEVER);
        for (size_t i = 0; i < s.n_dataflows; i++) {
                const struct status_dataflow *d = &s.dataflows[i];

                require_text(d->uuid, sizeof(d->uuid));
                require_text(d->name, sizeof(d->name));
                require_text(d->cgroup, sizeof(d->cgroup));
                require(status_dataflow_state_to_string(d->state) && status_wanted_to_string(d->wanted) &&
                        status_result_to_string(d->result) && status_health_to_string(d->health));
        }
        for (size_t i = 0; i < s.n_nodes; i++) {
                const struct status_node *n = &s.nodes[i];

                require_text(n->id, sizeof(n->id));
                require(n->dataflow < s.n_dataflows && s.dataflows[n->dataflow].serial == n->serial);
                require(i == 0 || s.nodes[i - 1].dataflow <= n->dataflow);
                require(status_node_state_to_string(n->state) && status_kind_to_string(n->kind));
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        uint32_t n_dataflows, n_nodes;
        uint64_t map_size;
        uint8_t *map;

        if (size < 1)
                return 0;
        if (data[0] & 1) {
                n_dataflows = data[0] >> 1 & 3;
                n_nodes = data[0] >> 3 & 15;
                map_size = status_page_size(n_dataflows, n_nodes);
        } else {
                map_size = size - 1;
        }
        map = aligned_alloc(8, (map_size + 8) & ~UINT64_C(7)); /* near enough, that reading past the end is seen */
        if (!map)
                return 0;
        memset(map, 0, map_size);
        memcpy(map, data + 1, MIN(size - 1, (size_t)map_size));
        if (data[0] & 1)
                status_page_init((struct status_page_header *)(void *)map, n_dataflows, n_nodes);
        look(map, map_size);
        free(map);
        return 0;
}
