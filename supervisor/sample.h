/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In which system calls the threads of one life of a node are at a moment: what stands in for counting where the kernel is not asked to. Reads
 * /proc/PID/task/TID/syscall, but of one in the middle of execve() (base/procstat.h): for a thread, which may hang.
 */
#ifndef TG_SUPERVISOR_SAMPLE_H
#define TG_SUPERVISOR_SAMPLE_H

#include <sys/types.h>

#include "protocol/keeper_msg.h"

/**
 * sample_read() - look at everybody in the cgroup (or plain directory of a life) @dir_fd, and below it
 * @reaper: its reaper, which is no process of the node's; 0: there is none
 *
 * At most SAMPLE_THREADS_MAX threads are looked at. Return: 0, or a negative errno: nobody could be listed.
 */
#define SAMPLE_THREADS_MAX 1024
int sample_read(KeeperSample *ret, int dir_fd, pid_t reaper);

/* sample_add() - one thread more, by the text of its file: "0 0x3 ...", "running", "-1 0x... 0x..." (it sleeps, in no call). */
void sample_add(KeeperSample *sample, const char *text);

#endif
