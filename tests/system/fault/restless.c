/* SPDX-License-Identifier: Apache-2.0 */
/* Preloaded into tidegated: while the file TIDEGATE_RESTLESS is there a supervisor's loop never sleeps, as one that has work turn after turn. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

int epoll_wait(int fd, struct epoll_event *events, int n, int timeout)
{
        static int (*real)(int, struct epoll_event *, int, int);
        const char *file = getenv("TIDEGATE_RESTLESS");
        char name[16] = "";

        if (!real)
                real = (int (*)(int, struct epoll_event *, int, int))dlsym(RTLD_NEXT, "epoll_wait");
        if (file && prctl(PR_GET_NAME, name) == 0 && strcmp(name, "tidegate-super") == 0 && access(file, F_OK) == 0)
                timeout = 0;
        return real(fd, events, n, timeout);
}
