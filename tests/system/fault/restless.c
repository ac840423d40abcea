/* SPDX-License-Identifier: Apache-2.0 */
/* Preloaded into tidegated: while the file TIDEGATE_RESTLESS is there a supervisor's loop never sleeps, as one that has work turn after turn. */
#include <dlfcn.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

int poll(struct pollfd *fds, nfds_t n, int timeout)
{
        static int (*real)(struct pollfd *, nfds_t, int);
        const char *file = getenv("TIDEGATE_RESTLESS");
        char name[16] = "";

        if (!real)
                real = (int (*)(struct pollfd *, nfds_t, int))dlsym(RTLD_NEXT, "poll");
        if (file && prctl(PR_GET_NAME, name) == 0 && strcmp(name, "tidegate-super") == 0 && access(file, F_OK) == 0)
                timeout = 0;
        return real(fds, n, timeout);
}
