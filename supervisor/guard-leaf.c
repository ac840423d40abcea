/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the guard itself is while it lives: not in the cgroup below which cgroups are made, for one with processes of its own can have no
 * controllers below. It goes into a leaf of that (CGROUP_SELF), and with it all that it starts.
 *
 *     <own>/tidegate-self   guard, supervisor, keepers; of `tidegate run` the command too
 *     <own>/tidegate/…      instance, dataflows, nodes (supervisor/instance.h)
 *
 * An ordinary user's login session lies in a cgroup of root's: there a scope is asked of the user's service manager first, which becomes <own>.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cgroup_root.h"
#include "base/cleanup.h"
#include "base/enforcer.h"
#include "base/log.h"
#include "base/user_scope.h"
#include "supervisor/cgroup.h"
#include "supervisor/guard-internal.h"
#include "supervisor/holder.h"

#define LEAF_SPAN (5 * NSEC_PER_SEC) /* what the user's service manager gets */

/* The command that a private instance serves is our parent, for it started us; 0 when it is gone, and of a daemon. */
static pid_t client_pid(const Guard *guard)
{
        struct pollfd p = {.fd = guard->client_pidfd, .events = POLLIN};
        const pid_t pid = getppid();

        /* Alive after we asked: so it was the parent then, and nobody who adopted us. */
        return guard->options->daemon || guard->client_gone || p.fd < 0 || poll(&p, 1, 0) != 0 ? 0 : pid;
}

/* ---- a scope of the user's */

static void scope_name(const Guard *guard, char *ret, size_t size)
{
        uint32_t number = 0;

        if (guard->options->daemon) {
                scope_name_for(&guard->runtime, "tidegate-up-", ret, size);
                return;
        }
        (void)!getrandom(&number, sizeof(number), 0);
        (void)snprintf(ret, size, "tidegate-run-%d-%08x.scope", (int)getpid(), number);
}

/* Only where there is nowhere else: who has a cgroup of his own keeps it. */
static void ask_for_scope(Guard *guard)
{
        const pid_t pids[] = {getpid()};
        char root[PATH_MAX], name[64], description[PATH_MAX + 64], why[256] = "";

        if (guard->options->cgroup_root || geteuid() == 0 || cgroup_root_find(root, why, sizeof(why)) == 0)
                return;
        scope_name(guard, name, sizeof(name));
        if (guard->options->daemon)
                (void)snprintf(description, sizeof(description), "Tidegate daemon in %s", guard->runtime.path);
        else
                (void)snprintf(description, sizeof(description), "tidegate run");
        if (user_scope_enter(name, description, pids, ELEMENTSOF(pids), nsec_add(clock_now(), LEAF_SPAN), guard->leaf_why, sizeof(guard->leaf_why)) == 0 &&
                guard->options->daemon)
                log_line("in the scope %s of the user's service manager", name);
}

/* ---- the leaf */

static int open_leaf(int root_fd)
{
        return openat(root_fd, CGROUP_SELF, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

static int move_to(int dir_fd, pid_t pid)
{
        char text[16];

        (void)snprintf(text, sizeof(text), "%d", (int)pid);
        return cgroup_write(dir_fd, "cgroup.procs", text);
}

static bool lists(int dir_fd, pid_t pid)
{
        int fd = openat(dir_fd, "cgroup.procs", O_RDONLY | O_CLOEXEC), one;
        FILE *f = fd >= 0 ? fdopen(fd, "re") : NULL;
        bool found = false;

        if (!f) {
                (void)fd_close(fd);
                return false;
        }
        while (!found && fscanf(f, "%d", &one) == 1)
                found = one == (int)pid;
        (void)fclose(f); /* read only */
        return found;
}

static bool has_controllers(int dir_fd)
{
        _cleanup_fd_ int fd = openat(dir_fd, "cgroup.controllers", O_RDONLY | O_CLOEXEC);
        char c;

        return fd >= 0 && read(fd, &c, 1) == 1 && c != '\n';
}

static bool same_directory(const char *a, const char *b)
{
        struct stat x, y;

        return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static void enter_leaf(Guard *guard, const char *root)
{
        _cleanup_fd_ int root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC), leaf_fd = -1;
        pid_t client = client_pid(guard);
        int others, r;

        /* The root of the hierarchy, which has no type, may have processes and controllers. Or nothing could be enabled anyway. */
        if (root_fd < 0 || faccessat(root_fd, "cgroup.type", F_OK, 0) < 0 || !has_controllers(root_fd))
                return;
        others = cgroup_count_others(root, client);
        if (others > 0) {
                (void)snprintf(guard->leaf_why, sizeof(guard->leaf_why), "%d other process%s %s in %.150s: no limits below it", others, others == 1 ? "" : "es",
                        others == 1 ? "is" : "are", root);
                return;
        }
        r = mkdirat(root_fd, CGROUP_SELF, 0755) < 0 && errno != EEXIST ? -errno : 0;
        leaf_fd = r ? -1 : open_leaf(root_fd);
        if (!r)
                r = leaf_fd < 0 ? -errno : move_to(leaf_fd, getpid());
        if (!r && client > 0 && lists(root_fd, client))
                r = move_to(leaf_fd, client); /* -ESRCH: it is gone, and that is as good */
        if (r && r != -ESRCH)
                (void)snprintf(guard->leaf_why, sizeof(guard->leaf_why), "cannot move into a cgroup of our own below %.120s (%s): no limits below it", root, strerrordesc_np(-r));
}

/* <slice>/<unit>/tidegate-self: the service manager removes what is left of its unit. */
static bool is_units(const char *root)
{
        const char *dot = strrchr(root, '.');

        return dot && (strcmp(dot, ".scope") == 0 || strcmp(dot, ".service") == 0);
}

void guard_leaf_open(Guard *guard)
{
        char own[PATH_MAX], root[PATH_MAX], why[256];
        Scope scope;

        guard->leaf_why[0] = '\0';
        if (guard->scope.dir_fd >= 0) /* we are in the service, they are beside it */
                return;
        if (guard->enforcer != ENFORCER_AUTO && !enforcer_has_cgroup(guard->enforcer))
                return;
        ask_for_scope(guard);
        if (guard->options->cgroup_root)
                (void)snprintf(root, sizeof(root), "%.4095s", guard->options->cgroup_root);
        else if (cgroup_root_find(root, why, sizeof(why)))
                return;
        /* A service that has processes in leaves and controllers enabled could not be started again. */
        if (cgroup_own_find(own) || !same_directory(own, root) || (guard->options->daemon && scope_find(&scope, &guard->runtime) == 0))
                return;
        enter_leaf(guard, root);
        if (guard->leaf_why[0] && guard->options->daemon)
                log_line("%s", guard->leaf_why);
}

/* ---- the end */

/* "+cpu +memory" was written by whoever set a limit. */
static void disable_controllers(int root_fd)
{
        _cleanup_fd_ int fd = openat(root_fd, "cgroup.subtree_control", O_RDONLY | O_CLOEXEC);
        char text[256], order[512] = "", *rest = NULL;
        ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
        size_t at = 0;

        if (n <= 0)
                return;
        text[n] = '\0';
        for (char *word = strtok_r(text, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest))
                at += (size_t)snprintf(order + at, sizeof(order) - at, "%s-%s", at ? " " : "", word);
        if (at > 0)
                (void)cgroup_write(root_fd, "cgroup.subtree_control", order); /* else we stay where we are, and the leaf with us */
}

void guard_leaf_end(Guard *guard)
{
        _cleanup_fd_ int root_fd = -1, leaf_fd = -1;
        pid_t client = client_pid(guard);
        char own[PATH_MAX], *last;

        if (cgroup_own_find(own))
                return;
        last = strrchr(own, '/');
        if (!last || strcmp(last + 1, CGROUP_SELF) != 0)
                return;
        *last = '\0';
        root_fd = open(own, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        /* Others may live beside us: the last one does it. */
        if (root_fd < 0 || is_units(own) || faccessat(root_fd, HOLDER_NODES, F_OK, 0) == 0)
                return;
        leaf_fd = open_leaf(root_fd);
        if (leaf_fd < 0)
                return;
        disable_controllers(root_fd);
        if (client > 0 && lists(leaf_fd, client))
                (void)move_to(root_fd, client);
        (void)move_to(root_fd, getpid());
        (void)unlinkat(root_fd, CGROUP_SELF, AT_REMOVEDIR); /* EBUSY: another instance is in it */
}
