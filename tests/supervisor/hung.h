/* SPDX-License-Identifier: Apache-2.0 */
/* For kernel tests: a FUSE file system that never answers (hungfs.c), in a mount namespace of the test's own. */
#ifndef TG_TESTS_SUPERVISOR_HUNG_H
#define TG_TESTS_SUPERVISOR_HUNG_H

#include <stdbool.h>
#include <sys/types.h>

typedef struct Hung {
        int pidfd;
        int in, out;
        char dir[256];
} Hung;

bool private_mounts(void); /* from here on our mounts are nobody else's; false: not allowed, or no FUSE */
Hung hung_start(const char *parent_dir);
void hung_wait_asked(Hung *h); /* until somebody hangs on it */
pid_t hung_execute(Hung *h);   /* a child, and leader of a session, that hangs in the middle of execve(); it ends with this process */
void hung_let_go(Hung *h);     /* who hangs is told that it failed; whoever asks next hangs */
void hung_end(Hung *h);        /* whoever hangs is released with an error */

#endif
