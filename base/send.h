/* SPDX-License-Identifier: Apache-2.0 */
/* sendmsg(2) to a unix socket, with descriptors. */
#ifndef TG_BASE_SEND_H
#define TG_BASE_SEND_H

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#define SEND_MAX_FDS 24

/* As sendmsg(2), with MSG_NOSIGNAL. @fds stay the caller's; more than SEND_MAX_FDS: EINVAL. */
static inline ssize_t send_message(int sock, const void *data, size_t size, const int *fds, size_t n_fds, int flags)
{
        char control[CMSG_SPACE(SEND_MAX_FDS * sizeof(int))] __attribute__((aligned(8))) = {};
        struct iovec iov = {(void *)(uintptr_t)data, size};
        struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};

        if (n_fds > SEND_MAX_FDS) {
                errno = EINVAL;
                return -1;
        }
        if (n_fds > 0) {
                struct cmsghdr *c;

                mh.msg_control = control;
                mh.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
                c = CMSG_FIRSTHDR(&mh);
                c->cmsg_level = SOL_SOCKET;
                c->cmsg_type = SCM_RIGHTS;
                c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
                memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
        }
        return sendmsg(sock, &mh, flags | MSG_NOSIGNAL);
}

#endif
