/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the guard starts programs: with a copy of its descriptors, but none of its memory. A fork that copies memory waits in the kernel, uninterruptibly, while
 * somebody attaches a probe to programs and some process does not let go of its memory (bpf/mappers.h); the guard must never do that. Nor does it wait until the child has executed, as
 * vfork() does: the program may lie on a file system that does not answer.
 */
#ifndef TG_SUPERVISOR_GUARD_SPAWN_H
#define TG_SUPERVISOR_GUARD_SPAWN_H

#include <stddef.h>
#include <sys/types.h>

/**
 * guard_spawn() - start a program in a child
 * @program: an open descriptor, which it is handed, too; -1: this very program
 * @argv:    copied, some kilobytes at the most
 * @fds:     that it is to have, under the same numbers; -1 is skipped. Of those that are closed on exec that is turned off for the moment, for processes of one thread
 * @ret_pidfd: close-on-exec
 *
 * Never blocks. It ends with status 127 if it cannot execute. Where the machine is none that we know, it forks. Return: the pid; or a negative errno: -EAGAIN (several are about to
 * execute and do not get there), -E2BIG, or clone's.
 */
pid_t guard_spawn(int program, char *const argv[], const int *fds, size_t n_fds, int *ret_pidfd);

#endif
