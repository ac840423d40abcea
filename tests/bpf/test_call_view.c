/* SPDX-License-Identifier: Apache-2.0 */
/* The memory that the probe of system calls counts in, as the side that reads it sees it: over plain memory, without a probe. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "bpf/call-view.h"

typedef struct Plain {
        int watched_fd, slots_fd;
        CallView view;
} Plain;

static int plain_memory(size_t size)
{
        int fd = memfd_create("call", MFD_CLOEXEC);

        cr_assert_geq(fd, 0);
        cr_assert_eq(ftruncate(fd, (off_t)size), 0);
        return fd;
}

static Plain plain_open(uint32_t n_slots)
{
        struct call_watched header = {.magic = CALL_MAGIC, .slot_size = sizeof(struct call_slot), .n_slots = n_slots};
        Plain ret = {.watched_fd = plain_memory(sizeof(header)), .slots_fd = plain_memory(n_slots * sizeof(struct call_slot))};

        cr_assert_eq(pwrite(ret.watched_fd, &header, sizeof(header), 0), (ssize_t)sizeof(header));
        cr_assert_eq(call_view_open(&ret.view, ret.watched_fd, ret.slots_fd), 0);
        return ret;
}

/* As the kernel side looks. */
static const struct call_watch *find_as_the_kernel_does(const CallView *view, uint64_t cgroup_id)
{
        for (uint32_t i = 0; i < CALL_WATCH_TRIES; i++) {
                const struct call_watch *watch = &view->watched->watches[(call_watch_hash(cgroup_id) + i) & (CALL_WATCHES - 1)];

                if (watch->cgroup_id == cgroup_id)
                        return watch;
                if (watch->cgroup_id == 0)
                        return NULL;
        }
        return NULL;
}

Test(call_view, every_watched_cgroup_is_found_however_many_came_and_went)
{
        Plain plain = plain_open(CALL_SLOTS_MAX);
        uint64_t ids[CALL_SLOTS_MAX] = {0}, next = 1000;
        uint32_t random = 1;

        for (unsigned round = 0; round < 20000; round++) {
                uint32_t slot;

                random = random * 1664525 + 1013904223;
                slot = (random >> 16) % CALL_SLOTS_MAX;
                if (ids[slot]) {
                        call_view_unwatch(&plain.view, slot);
                        cr_assert_null(find_as_the_kernel_does(&plain.view, ids[slot]));
                        ids[slot] = 0;
                } else {
                        next += 1 + (random >> 8) % 5;
                        cr_assert_eq(call_view_watch(&plain.view, slot, next), 0, "round %u", round);
                        ids[slot] = next;
                }
                if (round % 500 == 0)
                        for (uint32_t i = 0; i < CALL_SLOTS_MAX; i++) {
                                const struct call_watch *watch = ids[i] ? find_as_the_kernel_does(&plain.view, ids[i]) : NULL;

                                cr_assert(!ids[i] || (watch && watch->slot == i && watch->life == plain.view.slots[i].life), "slot %u", i);
                        }
        }
        for (uint32_t i = 0; i < CALL_SLOTS_MAX; i++)
                call_view_unwatch(&plain.view, i);
        cr_expect_eq(plain.view.watched->n_watched, 0);
        for (size_t i = 0; i < CALL_WATCHES; i++)
                cr_assert_eq(plain.view.watched->watches[i].cgroup_id, 0, "a look for others ends there at once");
        call_view_close(&plain.view);
}

Test(call_view, a_slot_and_a_cgroup_are_used_once_at_a_time)
{
        Plain plain = plain_open(2);

        cr_expect_eq(call_view_watch(&plain.view, 2, 10), -EINVAL);
        cr_expect_eq(call_view_watch(&plain.view, 0, 0), -EINVAL);
        cr_expect_eq(call_view_watch(&plain.view, 0, 10), 0);
        cr_expect_eq(call_view_watch(&plain.view, 0, 11), -EEXIST);
        cr_expect_eq(call_view_watch(&plain.view, 1, 10), -EEXIST);
        cr_expect_eq(call_view_cgroup(&plain.view, 0), 10);
        call_view_unwatch(&plain.view, 0);
        call_view_unwatch(&plain.view, 0);
        cr_expect_eq(call_view_cgroup(&plain.view, 0), 0);
        cr_expect_eq(call_view_watch(&plain.view, 1, 10), 0);
        call_view_close(&plain.view);
}

/* Where it is needed, a second one of the same maps goes on with what the first one had. */
Test(call_view, who_is_watched_is_so_for_the_next_view_too)
{
        Plain plain = plain_open(2);

        cr_expect_eq(call_view_watch(&plain.view, 1, 10), 0);
        call_view_close(&plain.view);
        cr_assert_eq(call_view_open(&plain.view, plain.watched_fd, plain.slots_fd), 0);
        cr_expect_eq(call_view_cgroup(&plain.view, 1), 10);
        cr_expect_eq(call_view_watch(&plain.view, 0, 10), -EEXIST);
        call_view_close(&plain.view);
}

Test(call_view, what_is_no_such_memory_is_refused)
{
        Plain plain = plain_open(1);
        struct call_watched header = {.magic = CALL_MAGIC, .slot_size = sizeof(struct call_slot), .n_slots = CALL_SLOTS_MAX + 1};
        int fds[2];
        CallView view = CALL_VIEW_INIT;

        cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
        cr_expect_lt(call_view_open(&view, fds[0], plain.slots_fd), 0);
        cr_expect_lt(call_view_open(&view, plain.watched_fd, fds[0]), 0);
        cr_assert_eq(pwrite(plain.watched_fd, &header, sizeof(header), 0), (ssize_t)sizeof(header));
        cr_expect_eq(call_view_open(&view, plain.watched_fd, plain.slots_fd), -EPROTO);
        header.n_slots = 1;
        header.slot_size = 100;
        cr_assert_eq(pwrite(plain.watched_fd, &header, sizeof(header), 0), (ssize_t)sizeof(header));
        cr_expect_eq(call_view_open(&view, plain.watched_fd, plain.slots_fd), -EPROTO);
        cr_expect_null(view.watched);
        call_view_close(&plain.view);
}
