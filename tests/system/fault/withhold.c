/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into tidegated: while the file TIDEGATE_WITHHOLD is there, sockets have no room for a DETACH, which so waits in the supervisor's memory.
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "protocol/node_msg.h"

#define DETACH_SIZE 10 /* nothing else of that size begins with that byte */

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
        static ssize_t (*real)(int, const struct msghdr *, int);
        const char *file = getenv("TIDEGATE_WITHHOLD");

        if (!real)
                real = (ssize_t (*)(int, const struct msghdr *, int))dlsym(RTLD_NEXT, "sendmsg");
        if (file && message->msg_iovlen == 1 && message->msg_iov[0].iov_len == DETACH_SIZE &&
                *(const uint8_t *)message->msg_iov[0].iov_base == NODE_MSG_DETACH && access(file, F_OK) == 0) {
                errno = EAGAIN;
                return -1;
        }
        return real(fd, message, flags);
}
