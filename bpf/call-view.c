/* SPDX-License-Identifier: Apache-2.0 */
#include "bpf/call-view.h"

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

static uint32_t load32(const __u32 *at)
{
        return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}

int call_view_open(CallView *view, int watched_fd, int slots_fd)
{
        CallView found = CALL_VIEW_INIT;

        found.watched = mmap(NULL, sizeof(*found.watched), PROT_READ | PROT_WRITE, MAP_SHARED, watched_fd, 0);
        if (found.watched == MAP_FAILED)
                return errno == EINVAL ? error_origin(-EPROTO) : error_origin(-errno); /* EINVAL: smaller than that */
        found.n_slots = found.watched->n_slots;
        if (found.watched->magic != CALL_MAGIC || found.watched->slot_size != sizeof(struct call_slot) || found.n_slots == 0 ||
                found.n_slots > CALL_SLOTS_MAX) {
                found.n_slots = 0;
                call_view_close(&found);
                return error_origin(-EPROTO);
        }
        found.slots = mmap(NULL, found.n_slots * sizeof(*found.slots), PROT_READ | PROT_WRITE, MAP_SHARED, slots_fd, 0);
        if (found.slots == MAP_FAILED) {
                int r = errno == EINVAL ? -EPROTO : -errno;

                found.slots = NULL;
                call_view_close(&found);
                return error_origin(r);
        }
        *view = found;
        return 0;
}

void call_view_close(CallView *view)
{
        if (view->slots)
                (void)munmap(view->slots, view->n_slots * sizeof(*view->slots));
        if (view->watched)
                (void)munmap(view->watched, sizeof(*view->watched));
        *view = CALL_VIEW_INIT;
}

/* ---- who is watched */

static Table table_of(const CallView *view)
{
        return (Table){view->watched->watches, sizeof(struct call_watch), CALL_WATCHES, CALL_WATCH_TRIES};
}

int call_view_watch(CallView *view, uint32_t slot, uint64_t cgroup_id)
{
        const Table table = table_of(view);
        struct call_slot *at;
        struct call_watch *watch;
        uint32_t life;

        if (slot >= view->n_slots || !table_id_is_valid(cgroup_id))
                return -EINVAL;
        at = &view->slots[slot];
        if (load64(&at->cgroup_id) || table_find(&table, call_watch_hash(cgroup_id), cgroup_id))
                return -EEXIST;
        watch = table_find_free(&table, call_watch_hash(cgroup_id));
        if (!watch)
                return -ENOSPC;

        /* The life first: whoever returns from a call of the last one counts nothing from here on. */
        life = load32(&at->life) + 1;
        __atomic_store_n(&at->life, life ? life : 1, __ATOMIC_SEQ_CST);
        memset((char *)at + sizeof(at->life), 0, sizeof(*at) - sizeof(at->life));
        at->cgroup_id = cgroup_id;
        watch->slot = slot;
        watch->life = load32(&at->life);
        table_set(watch, cgroup_id);
        view->watched->n_watched++;
        return 0;
}

void call_view_unwatch(CallView *view, uint32_t slot)
{
        const Table table = table_of(view);
        uint64_t cgroup_id = call_view_cgroup(view, slot);
        struct call_watch *watch = table_find(&table, call_watch_hash(cgroup_id), cgroup_id);

        if (!cgroup_id)
                return;
        if (watch)
                table_remove(&table, watch);
        view->slots[slot].cgroup_id = 0;
        view->watched->n_watched--;
}

uint64_t call_view_cgroup(const CallView *view, uint32_t slot)
{
        return slot < view->n_slots ? load64(&view->slots[slot].cgroup_id) : 0;
}

/* ---- what was counted */

static void copy(const struct call_entry *from, struct call_count *ret)
{
        ret->errors = load64(&from->errors);
        ret->total_ns = load64(&from->total_ns);
        for (size_t i = 0; i < CALL_BUCKETS; i++) {
                ret->log2_ns[i] = load64(&from->log2_ns[i]);
                ret->count += ret->log2_ns[i];
        }
}

/* The call that this thread is in; false: none. It may go on to the next one while we look. */
static bool read_thread(const struct call_thread *from, struct call_thread *ret)
{
        for (int i = 0; i < 3; i++) {
                *ret = (struct call_thread){.begin_ns = load64(&from->begin_ns), .tid = load32(&from->tid), .number = load32(&from->number)};
                if (!ret->begin_ns)
                        return false;
                if (load64(&from->begin_ns) == ret->begin_ns)
                        return true;
        }
        return false; /* in none for long, then */
}

static void add_now(const struct call_thread *thread, struct call_count *ret)
{
        ret->now++;
        if (!ret->now_since_ns || thread->begin_ns < ret->now_since_ns)
                ret->now_since_ns = thread->begin_ns;
}

int call_view_read(const CallView *view, uint32_t slot, uint32_t number, struct call_count *ret)
{
        struct call_thread thread;

        if (slot >= view->n_slots || number > CALL_OTHER)
                return -EINVAL;
        *ret = (struct call_count){.number = number};
        for (size_t i = 0; i < CALL_ENTRIES + 1; i++)
                if (load32(&view->slots[slot].entries[i].key) == number + 1)
                        copy(&view->slots[slot].entries[i], ret);
        for (size_t i = 0; i < CALL_THREADS; i++)
                if (read_thread(&view->slots[slot].threads[i], &thread) && thread.number == number)
                        add_now(&thread, ret);
        return 0;
}

static struct call_count *find_count(struct call_count *counts, size_t n, uint32_t number)
{
        for (size_t i = 0; i < n; i++)
                if (counts[i].number == number)
                        return &counts[i];
        return NULL;
}

size_t call_view_read_all(const CallView *view, uint32_t slot, struct call_count *ret, size_t n)
{
        struct call_thread threads[CALL_THREADS];
        size_t n_threads, n_calls = 0;

        if (slot >= view->n_slots)
                return 0;
        for (size_t i = 0; i < CALL_ENTRIES + 1; i++) {
                const struct call_entry *entry = &view->slots[slot].entries[i];
                uint32_t key = load32(&entry->key);

                if (key == 0 || key > CALL_OTHER + 1)
                        continue;
                if (n_calls < n) {
                        ret[n_calls] = (struct call_count){.number = key - 1};
                        copy(entry, &ret[n_calls]);
                }
                n_calls++;
        }
        n_threads = call_view_threads(view, slot, threads, CALL_THREADS);
        for (size_t i = 0; i < n_threads; i++) {
                struct call_count *count = find_count(ret, n_calls < n ? n_calls : n, threads[i].number);

                if (!count) {
                        n_calls++; /* or the entry did not fit, and then this does not either */
                        if (n_calls > n)
                                continue;
                        count = &ret[n_calls - 1];
                        *count = (struct call_count){.number = threads[i].number};
                }
                add_now(&threads[i], count);
        }
        return n_calls;
}

size_t call_view_threads(const CallView *view, uint32_t slot, struct call_thread *ret, size_t n)
{
        struct call_thread thread;
        size_t n_threads = 0;

        if (slot >= view->n_slots)
                return 0;
        for (size_t i = 0; i < CALL_THREADS; i++)
                if (read_thread(&view->slots[slot].threads[i], &thread)) {
                        if (n_threads < n)
                                ret[n_threads] = thread;
                        n_threads++;
                }
        return n_threads;
}

uint64_t call_view_lost(const CallView *view, uint32_t slot)
{
        return slot < view->n_slots ? load64(&view->slots[slot].lost) : 0;
}
