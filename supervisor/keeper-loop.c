/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/keeper-loop.h"

#include <errno.h>
#include <poll.h>

#include "base/cleanup.h"
#include "base/error.h"

int keeper_loop_init(KeeperLoop *loop)
{
        *loop = (KeeperLoop){.epoll_fd = epoll_create1(EPOLL_CLOEXEC)};
        return loop->epoll_fd < 0 ? error_origin(-errno) : 0;
}

void keeper_loop_done(KeeperLoop *loop)
{
        loop->epoll_fd = fd_close(loop->epoll_fd);
}

int keeper_loop_add(KeeperLoop *loop, KeeperSource *source, int fd, uint32_t events, KeeperSourceEvent on_event)
{
        struct epoll_event ev = {.events = events, .data.ptr = source};

        if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
                return error_origin(-errno);
        *source = (KeeperSource){.on_event = on_event, .fd = fd};
        return 0;
}

void keeper_loop_watch(KeeperLoop *loop, KeeperSource *source, uint32_t events)
{
        struct epoll_event ev = {.events = events, .data.ptr = source};

        if (source->fd >= 0)
                /* It is in: there is nothing to fail. */
                (void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &ev);
}

void keeper_loop_remove(KeeperLoop *loop, KeeperSource *source)
{
        if (source->fd < 0)
                return;
        (void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
        source->fd = -1;
        for (int i = loop->at; i < loop->n_batch; i++)
                if (loop->batch[i].data.ptr == source)
                        loop->batch[i].data.ptr = NULL;
}

static int timeout_ms(nsec_t deadline)
{
        return deadline ? nsec_poll_ms(deadline, clock_now()) : 0;
}

int keeper_loop_wait(const KeeperLoop *loop, const KeeperLoop *other, nsec_t deadline, bool *ret_other)
{
        struct pollfd ready[] = {{.fd = loop->epoll_fd, .events = POLLIN}, {.fd = other ? other->epoll_fd : -1, .events = POLLIN}};
        int n = poll(ready, ELEMENTSOF(ready), timeout_ms(deadline));

        *ret_other = n > 0 && ready[1].revents;
        return n < 0 && errno != EINTR ? error_origin(-errno) : 0;
}

static int take(KeeperLoop *loop, int max, int timeout)
{
        int n = epoll_wait(loop->epoll_fd, loop->batch, max, timeout);

        if (n < 0)
                return errno == EINTR ? 0 : error_origin(-errno);
        loop->n_batch = n;
        for (loop->at = 0; loop->at < loop->n_batch;) {
                struct epoll_event *ev = &loop->batch[loop->at++];
                KeeperSource *source = ev->data.ptr;

                if (source)
                        source->on_event(source, ev->events);
        }
        loop->n_batch = loop->at = 0;
        return 0;
}

int keeper_loop_next(KeeperLoop *loop)
{
        return take(loop, 1, 0);
}

int keeper_loop_turn(KeeperLoop *loop, nsec_t deadline)
{
        return take(loop, KEEPER_LOOP_BATCH, timeout_ms(deadline));
}
