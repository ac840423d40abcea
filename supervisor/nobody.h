/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the programs that load kernel probes have in common: they are nobody, with the two capabilities that loading takes and with none once
 * that is done; they can start no process, write no file, and hold nothing of their starter's but their socket. For programs of one thread,
 * started by the guard as root.
 */
#ifndef TG_SUPERVISOR_NOBODY_H
#define TG_SUPERVISOR_NOBODY_H

#include <stdbool.h>
#include <stdint.h>

/**
 * nobody_begin() - only @sock is left, as standard input; the other two standard descriptors are /dev/null, the working directory is /
 * @name: of the process, which has none when it was executed by a descriptor
 *
 * Return: 0 or a negative errno.
 */
int nobody_begin(const char *name, int sock);

/**
 * nobody_become() - user and group nobody, with CAP_BPF and CAP_PERFMON if we had them, bounds on all it can use, and an end with its parent
 *
 * Return: 0, or a negative errno: privileges are left that it was to give up.
 */
int nobody_become(void);

/*
 * nobody_become_attacher() - the same, with CAP_SYS_ADMIN besides: what the kernel wants of who puts probes into programs (uprobes, as of 6.18). It does not end with its
 * parent: what it has attached it is to take out with care.
 */
int nobody_become_attacher(void);

/*
 * nobody_become_starter() - user and group nobody with these capabilities alone (of the first 32, as a mask), and an end with its parent. It may start processes. 0 or a
 * negative errno.
 */
int nobody_become_starter(uint32_t capabilities);

/* nobody_drop() - the last capabilities, once the probe is loaded. 0 or a negative errno. */
int nobody_drop(void);

/*
 * nobody_hand_over() - before descriptors are sent, and (false) after it
 *
 * What all processes of this user have sent, and nobody has taken yet, is held against the sender's limit of open files (unix(7), ETOOMANYREFS). The
 * user is not ours alone: whoever else is nobody must not keep us from it. Afterwards the limit is final.
 */
void nobody_hand_over(bool begin);

#endif
