/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an instance ends its nodes with, chosen once when it begins, by trying:
 *
 *     cgroup         a cgroup v2 directory that we may write: one for each life of a node
 *     cgroup+pidns   that, and a PID namespace for each life: for users whose nodes could leave the cgroup
 *     pidns          a PID namespace for each life, whose init is a reaper of ours (supervisor/reaper.h), and no cgroup
 *     pid1           as subreaper; the guard is PID 1 of a container, and nothing is left outside of what it can end
 *     subreaper      a reaper for each life, and its descendants are found through /proc: the weakest
 *
 * The instance's directory says which it is, by its file system and the end of its name; so every part of the instance, whenever it was started
 * and by whom, knows.
 */
#ifndef TG_BASE_ENFORCER_H
#define TG_BASE_ENFORCER_H

#include <stdbool.h>
#include <stddef.h>

#define ENFORCER_NAMES "auto, cgroup, cgroup+pidns, pidns, pid1, subreaper"

typedef enum Enforcer {
        ENFORCER_AUTO, /* none was asked for: the first of those below that this host allows; cgroup+pidns only on request */
        ENFORCER_CGROUP,
        ENFORCER_CGROUP_PIDNS,
        ENFORCER_PIDNS,
        ENFORCER_PID1,
        ENFORCER_SUBREAPER,
        _ENFORCER_MAX,
} Enforcer;

const char *enforcer_name(Enforcer enforcer);
int enforcer_parse(const char *text, Enforcer *ret); /* one of the names, or "auto"; 0 or -EINVAL */
bool enforcer_has_cgroup(Enforcer enforcer); /* also: can it enforce limits, as far as the cgroup's controllers go */
bool enforcer_has_pidns(Enforcer enforcer);
bool enforcer_has_reaper(Enforcer enforcer);

/* enforcer_suffix() - how the name of such an instance ends: "" or ".<name>" */
const char *enforcer_suffix(Enforcer enforcer);

Enforcer enforcer_of_name(const char *name); /* of an instance; without such an end: ENFORCER_CGROUP */

/* enforcer_of_instance() - by its open directory. Blocks for a link of /proc/self/fd. */
Enforcer enforcer_of_instance(int dir_fd);

#endif
