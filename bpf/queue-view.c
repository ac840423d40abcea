/* SPDX-License-Identifier: Apache-2.0 */
#include "bpf/queue-view.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.h"

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

static bool is_in_use(const struct queue_group *group)
{
        return group->cgroup_id && group->cgroup_id != QUEUE_GROUP_GONE;
}

/* Where its links are; false: nowhere, for whoever else has the memory has written there. */
static bool row_of(const QueueView *view, const struct queue_group *group, uint32_t *ret_first, uint32_t *ret_n)
{
        *ret_first = __atomic_load_n(&group->first, __ATOMIC_RELAXED);
        *ret_n = __atomic_load_n(&group->n_links, __ATOMIC_RELAXED);
        return *ret_n <= view->n_links && *ret_first <= view->n_links - *ret_n;
}

static struct queue_group *place_of(const QueueView *view, uint64_t cgroup_id)
{
        uint32_t at = queue_group_hash(cgroup_id);

        for (uint32_t i = 0; i < QUEUE_GROUP_TRIES; i++) {
                struct queue_group *group = &view->watched->groups[(at + i) & (QUEUE_GROUPS - 1)];

                if (group->cgroup_id == cgroup_id)
                        return group;
        }
        return NULL;
}

static struct queue_group *free_place_for(const QueueView *view, uint64_t cgroup_id)
{
        uint32_t at = queue_group_hash(cgroup_id);

        for (uint32_t i = 0; i < QUEUE_GROUP_TRIES; i++) {
                struct queue_group *group = &view->watched->groups[(at + i) & (QUEUE_GROUPS - 1)];

                if (!is_in_use(group))
                        return group;
        }
        return NULL;
}

/* So many entries in a row that are nobody's: the first row there is. */
static bool find_row(const QueueView *view, uint32_t n, uint32_t *ret)
{
        uint32_t first = 0;

        for (uint32_t i = 0; i < QUEUE_GROUPS; i++) {
                const struct queue_group *group = &view->watched->groups[i];
                uint32_t its_first, its_n;

                if (!is_in_use(group) || !row_of(view, group, &its_first, &its_n) || its_first >= first + n || its_first + its_n <= first)
                        continue;
                first = its_first + its_n; /* behind it, and from the beginning again */
                i = UINT32_MAX;
        }
        *ret = first;
        return n <= view->n_links && first <= view->n_links - n;
}

int queue_view_watch(QueueView *view, uint64_t cgroup_id, uint32_t n_links)
{
        struct queue_group *group;
        uint32_t first;

        if (cgroup_id == 0 || cgroup_id == QUEUE_GROUP_GONE || n_links == 0)
                return -EINVAL;
        if (place_of(view, cgroup_id))
                return -EEXIST;
        group = free_place_for(view, cgroup_id);
        if (!group || n_links > view->n_links || !find_row(view, n_links, &first))
                return -ENOSPC;
        memset(&view->links[first], 0, n_links * sizeof(*view->links));
        group->first = first;
        group->n_links = n_links;
        group->told = 0;
        __atomic_store_n(&group->cgroup_id, cgroup_id, __ATOMIC_RELEASE); /* whoever finds it finds the rest */
        return 0;
}

void queue_view_unwatch(QueueView *view, uint64_t cgroup_id)
{
        struct queue_group *group = cgroup_id && cgroup_id != QUEUE_GROUP_GONE ? place_of(view, cgroup_id) : NULL;
        uint32_t at;

        if (!group)
                return;
        __atomic_store_n(&group->cgroup_id, QUEUE_GROUP_GONE, __ATOMIC_RELEASE);

        /* What is gone in front of a free place is free, too: a look for somebody else ends there. */
        for (at = (uint32_t)(group - view->watched->groups);; at = (at - 1) & (QUEUE_GROUPS - 1)) {
                if (view->watched->groups[at].cgroup_id != QUEUE_GROUP_GONE || view->watched->groups[(at + 1) & (QUEUE_GROUPS - 1)].cgroup_id)
                        break;
                __atomic_store_n(&view->watched->groups[at].cgroup_id, 0, __ATOMIC_RELEASE);
        }
}

/* ---- what was counted */

int queue_view_read(const QueueView *view, uint64_t cgroup_id, uint32_t link, struct queue_count *ret)
{
        const struct queue_group *group = cgroup_id && cgroup_id != QUEUE_GROUP_GONE ? place_of(view, cgroup_id) : NULL;
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
        const struct queue_group *group = cgroup_id && cgroup_id != QUEUE_GROUP_GONE ? place_of(view, cgroup_id) : NULL;

        return group ? load64(&group->told) : 0;
}
