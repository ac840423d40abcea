/* SPDX-License-Identifier: Apache-2.0 */
/* A Unix stream socket, the message copied into the kernel and out of it. */
#include "peer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static size_t size;
static char *out, *in;
static int fd = -1;

static int failed(const char *what)
{
        return peer_fail(what, strerror(errno));
}

static int listening(const struct sockaddr_un *address)
{
        int l = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), r = -1;

        if (l < 0)
                return -1;
        if (bind(l, (const struct sockaddr *)address, sizeof(*address)) == 0 && listen(l, 1) == 0)
                r = accept4(l, NULL, NULL, SOCK_CLOEXEC);
        close(l);
        return r;
}

/* Side 1 may not listen yet. */
static int connecting(const struct sockaddr_un *address)
{
        struct timespec pause = {.tv_nsec = 1000000};
        int c = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        for (unsigned i = 0; c >= 0 && i < 10000; i++) {
                if (connect(c, (const struct sockaddr *)address, sizeof(*address)) == 0)
                        return c;
                nanosleep(&pause, NULL);
        }
        return -1;
}

int peer_open(const struct peer_spec *spec)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};

        size = spec->size;
        out = calloc(2, size);
        if (!out)
                return failed("memory");
        in = out + size;
        memset(out, 1, 2 * size);
        if (snprintf(address.sun_path, sizeof(address.sun_path), "%s/socket", spec->dir) >= (int)sizeof(address.sun_path))
                return peer_fail(spec->dir, "too long for a socket's path");
        fd = spec->side ? listening(&address) : connecting(&address);
        return fd < 0 ? failed("socket") : 0;
}

int peer_loan(void **ret)
{
        *ret = out;
        return 0;
}

int peer_send(void)
{
        for (size_t done = 0; done < size;) {
                ssize_t n = send(fd, out + done, size - done, MSG_NOSIGNAL);

                if (n < 0 && errno != EINTR)
                        return failed("send");
                done += n > 0 ? (size_t)n : 0;
        }
        return 0;
}

int peer_take(const void **ret, int timeout_ms)
{
        ssize_t n;

        (void)timeout_ms; /* nothing is lost */
        n = recv(fd, in, size, MSG_WAITALL);
        if (n != (ssize_t)size)
                return n < 0 ? failed("recv") : peer_fail("recv", "the other side has left");
        *ret = in;
        return 0;
}

int peer_release(void)
{
        return 0;
}

void peer_close(void)
{
        close(fd);
        free(out);
}
