/* SPDX-License-Identifier: Apache-2.0 */
/* The scope that the guard of a service has for its nodes: found or made before the instance, its holder looked after, ended with the instance. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "supervisor/cgroup.h"
#include "supervisor/guard-internal.h"
#include "supervisor/holder.h"

#define SCOPE_SPAN      (5 * NSEC_PER_SEC) /* what the service manager gets to make it */
#define SCOPE_END_SPAN  (1 * NSEC_PER_SEC)
#define SCOPE_SWEEP_SPAN (3 * NSEC_PER_SEC)
#define HOLDER_CALM     (1 * NSEC_PER_SEC) /* between two of them */

static void watch_holder(Guard *guard);

/* An earlier daemon here had no scope, and its nodes live on where it had them: there the instance is taken over. */
static bool nodes_are_elsewhere(const Guard *guard)
{
        _cleanup_fd_ int events_fd = -1;
        Instance instance = INSTANCE_NULL;
        bool populated;

        if (!guard->runtime.instance[0] || instance_reopen(&instance, NULL, guard->runtime.instance))
                return false;
        events_fd = openat(instance.dir_fd, "cgroup.events", O_RDONLY | O_CLOEXEC);
        populated = events_fd >= 0 && cgroup_populated(events_fd) == 1;
        instance_done(&instance);
        return populated;
}

/* The scope is this runtime directory's: what lives there and is in no journal of it can never be adopted. */
static void sweep_strangers(const Guard *guard)
{
        _cleanup_fd_ int base_fd = openat(guard->scope.dir_fd, HOLDER_NODES, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        unsigned n = base_fd < 0 ? 0 : instance_sweep(base_fd, guard->runtime.instance, nsec_add(clock_now(), SCOPE_SWEEP_SPAN));

        if (n > 0)
                log_line("the scope had %u instance%s that nobody knows any more: ended", n, n == 1 ? "" : "s");
}

void guard_scope_open(Guard *guard)
{
        nsec_t until = nsec_add(clock_now(), SCOPE_SPAN);
        Scope scope = SCOPE_NULL;
        char why[256] = "";

        if (!guard->options->daemon || guard->options->cgroup_root || scope_find(&scope, &guard->runtime))
                return;
        if (scope_join(&scope, &guard->runtime, until) == 0) {
                guard->scope = scope;
                log_line("nodes live in the scope %s, which was there", scope.path);
                sweep_strangers(guard);
        } else if (nodes_are_elsewhere(guard)) {
                log_line("no scope: the nodes of a daemon that had none live on in its cgroup");
        } else if (scope_make(&scope, &guard->runtime, guard->options->program, until, why, sizeof(why)) == 0) {
                guard->scope = scope;
                log_line("nodes live in the scope %s", scope.path);
        } else {
                log_line("no scope: %s; nodes live in the service's own cgroup, and end with the guard", why);
        }
}

const char *guard_cgroup_root(const Guard *guard)
{
        return guard->scope.dir_fd >= 0 ? guard->scope.path : guard->options->cgroup_root;
}

void guard_scope_restore(Guard *guard)
{
        char root[PATH_MAX];

        memcpy(root, guard->instance.path, sizeof(root)); /* <root>/tidegate/<instance> */
        for (unsigned i = 0; i < 2; i++) {
                char *slash = strrchr(root, '/');

                if (slash)
                        *slash = '\0';
        }
        scope_restore(&guard->scope, &guard->runtime, root);
}

/* ---- its end before ours */

/* systemd removes a scope that was empty for a moment, with all that is below it: there is no place for a node any more. */
static void scope_is_lost(Guard *guard)
{
        if (guard->scope_lost || guard->stop_ordered)
                return;
        log_line("the scope %s is gone, and the nodes with it: the daemon ends", guard->scope.path);
        guard->scope_lost = true;
        guard_order_stop(guard, GUARD_MSG_STOP);
}

/* Somebody is in the instance's cgroup, or nobody any more; or it was removed, and then poll tells so for ever. */
static int on_instance(Source *source, uint32_t revents)
{
        Guard *guard = container_of(source, Guard, scope_events_source);

        (void)revents;
        (void)cgroup_populated(guard->slots[GUARD_SLOT_INSTANCE].events_fd); /* arms it for what changes from here on */
        if (faccessat(guard->instance.dir_fd, "cgroup.procs", F_OK, 0) == 0)
                return 0;
        source_remove(source);
        scope_is_lost(guard);
        return 0;
}

/* ---- its holder */

static void say_no_holder(Guard *guard, const char *why)
{
        if (!guard->scope_owes && !guard->stop_ordered)
                log_line("no holder of the scope can be started (%s): it is tried every second, and the scope is there while a node runs", why);
        guard->scope_owes = true;
}

static int on_holder_wanted(Timer *timer, nsec_t now)
{
        Guard *guard = container_of(timer, Guard, scope_timer);
        int r;

        if (guard->stop_ordered)
                return 0;
        guard->scope_held_at = now;
        r = scope_hold(&guard->scope, &guard->runtime);
        if (r == -ENOENT) {
                scope_is_lost(guard);
                return 0;
        }
        if (r)
                say_no_holder(guard, strerror(-r));
        watch_holder(guard);
        return 0;
}

static int on_holder(Source *source, uint32_t revents)
{
        Guard *guard = container_of(source, Guard, scope_source);
        int word = scope_receive(&guard->scope);

        (void)revents;
        if (word == HOLDER_READY) {
                guard->scope_held = true;
                guard->scope_owes = false;
        } else if (word == HOLDER_STOP && !guard->stop_ordered) {
                log_line("the service manager ends the scope: everything ends");
                guard_order_stop(guard, GUARD_MSG_STOP);
        } else if (word < 0) {
                source_remove(source);
                guard->scope.holder_fd = fd_close(guard->scope.holder_fd);
                if (!guard->scope_held)
                        say_no_holder(guard, "it ended at once");
                else if (!guard->stop_ordered)
                        log_line("the holder of the scope is gone: another one takes its place");
                guard->scope_held = false;
                watch_holder(guard);
        }
        return 0;
}

/* The one that is there, or the one that will be. */
static void watch_holder(Guard *guard)
{
        if (guard->scope.holder_fd >= 0 && source_add(&guard->loop, &guard->scope_source, guard->scope.holder_fd, EPOLLIN, SOURCE_EXITS, on_holder))
                guard->scope.holder_fd = fd_close(guard->scope.holder_fd);
        if (guard->scope.holder_fd < 0)
                timer_arm(&guard->loop, &guard->scope_timer, MAX(guard->loop.now, nsec_add(guard->scope_held_at, HOLDER_CALM)), on_holder_wanted);
}

void guard_scope_watch(Guard *guard)
{
        int events_fd = guard->slots[GUARD_SLOT_INSTANCE].events_fd;

        if (guard->scope.dir_fd < 0)
                return;
        guard->scope_held = guard->scope.holder_fd >= 0;
        (void)source_add(&guard->loop, &guard->scope_events_source, events_fd, EPOLLPRI, SOURCE_EXITS, on_instance); /* without: it shows at the next start */
        watch_holder(guard);
}

void guard_scope_end(Guard *guard)
{
        timer_disarm(&guard->scope_timer);
        source_remove(&guard->scope_source);
        source_remove(&guard->scope_events_source);
        scope_end(&guard->scope, &guard->runtime, nsec_add(clock_now(), SCOPE_END_SPAN));
}
