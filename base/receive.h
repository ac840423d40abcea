/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recvmsg(2) from a unix socket, with what its peer said before it left.
 *
 * When a peer closes its end with something of ours unread, Linux reports ECONNRESET once, ahead of what the peer had sent and we
 * have not read yet. That error says nothing that the end of the stream will not say, so it is passed over: next comes
 * the data, and then 0.
 */
#ifndef TG_BASE_RECEIVE_H
#define TG_BASE_RECEIVE_H

#include <errno.h>
#include <sys/socket.h>

/* As recvmsg(2), but never -1 with ECONNRESET unless it comes twice. */
static inline ssize_t receive_message(int sock, struct msghdr *mh, int flags)
{
        size_t control = mh->msg_controllen;
        ssize_t n = recvmsg(sock, mh, flags);

        if (n < 0 && errno == ECONNRESET) {
                mh->msg_controllen = control;
                n = recvmsg(sock, mh, flags);
        }
        return n;
}

static inline ssize_t receive_bytes(int sock, void *data, size_t size, int flags)
{
        ssize_t n = recv(sock, data, size, flags);

        return n < 0 && errno == ECONNRESET ? recv(sock, data, size, flags) : n;
}

#endif
