/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stacks of threads of one process in its own code, without stopping or tracing it: from where they wait in the kernel (stack pointer and
 * program counter), by the tables that their programs and libraries carry, with elfutils' libdw where it is installed. Where a frame cannot be
 * told by the tables (registers of its own are needed that are not to be had without tracing) addresses on the stack that follow a call
 * are taken for frames, and marked with `?`. Without libdw there is the innermost one, as file and offset.
 *
 * Opens files that the process has mapped, by name, and parses them: blocks, may hang, may crash on a file that means harm. For a process of its
 * own that can be given up.
 */
#ifndef TG_SUPERVISOR_WHY_STACK_H
#define TG_SUPERVISOR_WHY_STACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define STACK_FRAMES_MAX 16
#define STACK_FRAME_MAX  120 /* bytes of one */

typedef struct Stack {
        pid_t tid;
        uint64_t sp, pc;
        size_t n;                                    /* out */
        char frames[STACK_FRAMES_MAX][STACK_FRAME_MAX]; /* out: "pthread_mutex_lock (libc.so.6)", innermost first */
} Stack;

/* stacks_read() - of threads of @pid that wait. What cannot be told is left out. */
void stacks_read(pid_t pid, Stack *stacks, size_t n);

bool stacks_unwind(void); /* libdw is there: more than the innermost frame */

#endif
