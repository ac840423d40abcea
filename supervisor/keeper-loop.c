/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/keeper-loop.h"

#include <errno.h>

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

int keeper_loop_turn(KeeperLoop *loop, nsec_t deadline)
{
        int timeout = deadline ? nsec_poll_ms(deadline, clock_now()) : 0;
        int n = epoll_wait(loop->epoll_fd, loop->batch, KEEPER_LOOP_BATCH, timeout);

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
