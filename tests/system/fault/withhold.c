/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into tidegated: while the file TIDEGATE_WITHHOLD is there, sockets have no room for messages of the type whose number it holds, to nodes, of a
 * keeper or to it. That one waits in the sender's memory then, and so does what comes after it.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "protocol/keeper_msg.h"
#include "protocol/node_msg.h"

static bool is_withheld(const char *file, unsigned type)
{
        char text[16] = "";
        int fd = open(file, O_RDONLY | O_CLOEXEC);

        if (fd < 0)
                return false;
        (void)!read(fd, text, sizeof(text) - 1);
        close(fd);
        return strtoul(text, NULL, 10) == type;
}

static bool is_called(const char *role)
{
        char name[16] = "";

        return prctl(PR_GET_NAME, name) == 0 && strcmp(name, role) == 0;
}

/* The only one with more than two descriptors (protocol/node_msg.h). */
static bool is_spawn(const struct msghdr *message, const uint8_t *bytes)
{
        return bytes[0] == KEEPER_MSG_SPAWN && message->msg_controllen > CMSG_SPACE(NODE_MSG_MAX_FDS * sizeof(int)) && is_called("tidegate-super");
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
        static ssize_t (*real)(int, const struct msghdr *, int);
        static const size_t sizes[256] = {[NODE_MSG_DETACH] = 10, [NODE_MSG_AWAIT] = 17, [KEEPER_MSG_SPAWNED] = 18}; /* no other record begins and ends so */
        const char *file = getenv("TIDEGATE_WITHHOLD");
        const uint8_t *bytes = message->msg_iov[0].iov_base;

        if (!real)
                real = (ssize_t (*)(int, const struct msghdr *, int))dlsym(RTLD_NEXT, "sendmsg");
        if (file && message->msg_iovlen == 1 && message->msg_iov[0].iov_len > 0 &&
                (message->msg_iov[0].iov_len == sizes[bytes[0]] || (bytes[0] == KEEPER_MSG_RESUMED && is_called("tidegate-keeper")) || is_spawn(message, bytes)) &&
                is_withheld(file, bytes[0])) {
                errno = EAGAIN;
                return -1;
        }
        return real(fd, message, flags);
}
