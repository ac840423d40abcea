/* SPDX-License-Identifier: Apache-2.0 */
#include "bpf/queue-view.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.h"
#include "bpf/table.h"

static uint64_t load64(const __u64 *at)
{
        return __atomic_load_n(at, __ATOMIC_ACQUIRE); /* what was written before it is seen after it */
}

int queue_view_open(QueueView *view, int watched_fd, int links_fd)
{
        QueueView found = QUEUE_VIEW_INIT;

        found.watched = mmap(NULL, sizeof(*found.watched), PROT_READ | PROT_WRITE, MAP_SHARED, watched_fd, 0);
        if (found.watched == MAP_FAILED)
                return errno == EINVAL ? error_origin(-EPROTO) : error_origin(-errno); /* EINVAL: smaller than that */
        if (found.watched->magic != QUEUE_MAGIC || found.watched->link_size != sizeof(struct queue_link) || found.watched->n_links == 0 ||
                found.watched->n_links > QUEUE_LINKS_MAX) {
                queue_view_close(&found);
                return error_origin(-EPROTO);
        }
        found.n_links = found.watched->n_links;
        found.links = mmap(NULL, found.n_links * sizeof(*found.links), PROT_READ | PROT_WRITE, MAP_SHARED, links_fd, 0);
        if (found.links == MAP_FAILED) {
                int r = errno == EINVAL ? -EPROTO : -errno;

                found.links = NULL;
                queue_view_close(&found);
                return error_origin(r);
        }
        *view = found;
        return 0;
}

void queue_view_close(QueueView *view)
{
        if (view->links)
                (void)munmap(view->links, view->n_links * sizeof(*view->links));
        if (view->watched)
                (void)munmap(view->watched, sizeof(*view->watched));
        *view = QUEUE_VIEW_INIT;
}

/* ---- who is watched */

static Table table_of(const QueueView *view)
{
        return (Table){view->watched->groups, sizeof(struct queue_group), QUEUE_GROUPS, QUEUE_GROUP_TRIES};
}

static struct queue_group *group_of(const QueueView *view, uint64_t cgroup_id)
{
        const Table table = table_of(view);

        return table_find(&table, queue_group_hash(cgroup_id), cgroup_id);
}

/* Where its links are; false: nowhere, for whoever else has the memory has written there. */
static bool row_of(const QueueView *view, const struct queue_group *group, uint32_t *ret_first, uint32_t *ret_n)
{
        *ret_first = __atomic_load_n(&group->first, __ATOMIC_RELAXED);
        *ret_n = __atomic_load_n(&group->n_links, __ATOMIC_RELAXED);
        return *ret_n <= view->n_links && *ret_first <= view->n_links - *ret_n;
}

/* So many entries in a row that are nobody's: the first row there is. */
static bool find_row(const QueueView *view, uint32_t n, uint32_t *ret)
{
        uint32_t first = 0;

        for (uint32_t i = 0; i < QUEUE_GROUPS; i++) {
                const struct queue_group *group = &view->watched->groups[i];
                uint32_t its_first, its_n;

                if (!table_id_is_valid(group->cgroup_id) || !row_of(view, group, &its_first, &its_n) || its_first >= first + n || its_first + its_n <= first)
                        continue;
                first = its_first + its_n; /* behind it, and from the beginning again */
                i = UINT32_MAX;
        }
        *ret = first;
        return n <= view->n_links && first <= view->n_links - n;
}

int queue_view_watch(QueueView *view, uint64_t cgroup_id, uint32_t n_links)
{
        const Table table = table_of(view);
        struct queue_group *group;
        uint32_t first;

        if (!table_id_is_valid(cgroup_id) || n_links == 0)
                return -EINVAL;
        if (group_of(view, cgroup_id))
                return -EEXIST;
        group = table_find_free(&table, queue_group_hash(cgroup_id));
        if (!group || n_links > view->n_links || !find_row(view, n_links, &first))
                return -ENOSPC;
        memset(&view->links[first], 0, n_links * sizeof(*view->links));
        group->first = first;
        group->n_links = n_links;
        group->told = 0;
        table_set(group, cgroup_id);
        return 0;
}

void queue_view_unwatch(QueueView *view, uint64_t cgroup_id)
{
        const Table table = table_of(view);
        struct queue_group *group = group_of(view, cgroup_id);

        if (group)
                table_remove(&table, group);
}

/* ---- what was counted */

int queue_view_read(const QueueView *view, uint64_t cgroup_id, uint32_t link, struct queue_count *ret)
{
        const struct queue_group *group = group_of(view, cgroup_id);
        const struct queue_link *from;
        uint32_t first, n_links;

        *ret = (struct queue_count){0};
        if (!group || !row_of(view, group, &first, &n_links) || link == 0 || link > n_links)
                return -ENOENT;
        from = &view->links[first + link - 1];
        for (size_t i = 0; i < QUEUE_DEPTH_BUCKETS; i++) {
                ret->depth_log2[i] = load64(&from->depth_log2[i]);
                ret->enqueued += ret->depth_log2[i];
        }
        for (size_t i = 0; i < QUEUE_AGE_BUCKETS; i++) {
                ret->age_log2_ns[i] = load64(&from->age_log2_ns[i]);
                ret->dequeued += ret->age_log2_ns[i];
        }
        return 0;
}

uint64_t queue_view_told(const QueueView *view, uint64_t cgroup_id)
{
        const struct queue_group *group = group_of(view, cgroup_id);

        return group ? load64(&group->told) : 0;
}
