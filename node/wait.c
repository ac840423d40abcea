/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting. One thread polls for all (the leader), the others wait for the pulse; see node-internal.h. Doorbells are
 * edge-triggered, and not read at all. Where the kernel has none a byte through the pair's socket rings, which is edge-triggered, too, and
 * emptied lazily: the bytes carry nothing, so reading them with every wake-up would be one
 * system call for nothing. They are taken before a pulse that makes everybody announce anew: a byte that is taken between somebody's look
 * and poll would be a lost wake-up. By whoever is about to sleep, for then there is time, and nobody waits for the message that
 * was rung for; by the leader after its poll only where nobody else does, as in a node that only sends. Not while somebody polls: it may have
 * been woken, and would find nothing. See tests/models/threads.pml.
 */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/hot.h"
#include "node/node-internal.h"

#define MAX_READY 16

#define WATCH_WAKES 2 /* in one poll that nothing came of; in those of an honest flow none does */
#define TRIAL_MS    20u /* a poll of a trial takes at most, so that who has nothing to do finds out, too */

void node_pulse(tg_node *node)
{
        __atomic_store_n(&node->pulse, node->pulse + 1, __ATOMIC_RELEASE); /* under node->lock; the kernel reads it */
        if (node->n_followers)
                futex_wake(&node->pulse, INT_MAX);
}

static bool doorbells_are_due(const tg_node *node, unsigned n)
{
        return __atomic_load_n(&node->n_announced, __ATOMIC_RELAXED) >= n;
}

static void empty_doorbells(tg_node *node)
{
        Peer *peer, *next;
        uint64_t n;

        __atomic_store_n(&node->n_announced, 0, __ATOMIC_RELAXED);
        list_for_each(peer, next, &node->peers, link)
                peer_empty(node, peer);
        if (__atomic_exchange_n(&node->self_rung, false, __ATOMIC_RELAXED))
                (void)!read(node->self_fd, &n, sizeof(n));
}

static void on_peer(tg_node *node, uint64_t serial, uint32_t events)
{
        Peer *peer = peer_by_serial(node, serial);

        if (!peer || peer->gone)
                return;
        peer->by_socket |= (events & EPOLLIN) != 0;
        if (!(events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR)))
                return;
        /* What the supervisor said before the death, it said of the living: whether another one may follow, for example. */
        if (node->state == NODE_RUNNING)
                (void)socket_read(node);
        peer = peer_by_serial(node, serial);
        if (peer && !peer->gone)
                peer_gone(node, peer);
}

static void on_doorbell(tg_node *node, uint64_t serial)
{
        Peer *peer = peer_by_serial(node, serial);

        if (peer)
                peer->n_heard++;
}

static long n_switches(void)
{
        struct rusage usage = {};

        (void)getrusage(RUSAGE_THREAD, &usage);
        return usage.ru_nvcsw;
}

/* As epoll_wait(). @ret_for_nothing: the thread slept more often than whatever is heard can have woken it. By the leader, without the lock. */
static __attribute__((noinline)) int poll_watched(tg_node *node, struct epoll_event *ready, int ms, bool *ret_for_nothing)
{
        long first = n_switches(), before = n_switches(), n_sleeps;
        int n = epoll_wait(node->epoll_fd, ready, MAX_READY, ms), saved = errno;

        n_sleeps = n_switches() - before - 2 * (before - first); /* to a traced thread each stop before and behind a call is a sleep, too */
        *ret_for_nothing = n_sleeps > WATCH_WAKES;
        errno = saved;
        return n;
}

void node_empty_doorbells(tg_node *node)
{
        if (node->leading || !doorbells_are_due(node, NODE_DRAIN_EPOCHS))
                return;
        empty_doorbells(node);
        node_pulse(node);
}

/* Under node->lock, by the leader. */
static void leader_take(tg_node *node, const struct epoll_event *ready, int n, bool turned)
{
        bool empties = doorbells_are_due(node, 2 * NODE_DRAIN_EPOCHS);

        if (node->outer_fd >= 0)
                turned |= rings_turn_for_good(node);
        for (int i = 0; i < n; i++) {
                if (ready[i].data.u64 == NODE_TAG_SOCKET)
                        (void)socket_read(node); /* running: trouble became an event */
                else if (ready[i].data.u64 & NODE_TAG_DOORBELL)
                        on_doorbell(node, ready[i].data.u64 & ~NODE_TAG_DOORBELL);
                else if (ready[i].data.u64 >= NODE_TAG_PEERS)
                        on_peer(node, ready[i].data.u64, ready[i].events);
        }
        if (empties)
                empty_doorbells(node);
        if (__atomic_load_n(&node->crowded, __ATOMIC_RELAXED))
                rings_judge_crowds(node);
        if (socket_is_awaited(node))
                join_if_due(node);
        if (node->unsaid || !verdict_may_come(node))
                links_look_for_verdicts(node);
        if ((n > 0 || empties || turned) && node->outer_armed) { /* somebody polls outer_fd, and we may have just taken what would have woken it */
                uint64_t one = 1;

                (void)!write(node->outer_nudge_fd, &one, sizeof(one));
        }
}

/* A program's own faults are not what wakes it: sanitizers and crash reporters handle those in any program. */
static bool signal_is_handled(int sig)
{
        struct sigaction sa;

        if (sig == SIGSEGV || sig == SIGBUS || sig == SIGFPE || sig == SIGILL || sig == SIGABRT)
                return false;
        return sigaction(sig, NULL, &sa) == 0 && sa.sa_handler != SIG_DFL && sa.sa_handler != SIG_IGN;
}

/* epoll_wait() ends with EINTR also when a tracer looks in, or after SIGSTOP and SIGCONT. To a program without any
 * handler that would be a failure out of nowhere, so it is kept from those. */
static bool program_has_handlers(void)
{
        for (int sig = 1; sig <= SIGRTMAX; sig++)
                if (signal_is_handled(sig))
                        return true;
        return false;
}

static HOT int leader_poll(tg_node *node, nsec_t deadline, bool wait)
{
        struct epoll_event ready[MAX_READY];
        Watch watch = wait ? rings_watch(node) : WATCH_NONE;
        bool for_nothing = false;
        int n, r = 0, ms = 0;

        node->leading = true;
        lock_give(&node->lock);
        if (wait)
                ms = nsec_poll_ms(deadline, deadline == NSEC_NEVER ? 0 : clock_now());
        if (watch == WATCH_WITH || watch == WATCH_WITHOUT)
                ms = (int)MIN((unsigned)ms, TRIAL_MS); /* -1: without an end */
        if (watch != WATCH_NONE)
                n = poll_watched(node, ready, ms, &for_nothing);
        else
                n = epoll_wait(node->epoll_fd, ready, MAX_READY, ms);
        if (n < 0 && errno == EINTR && program_has_handlers())
                r = -EINTR;
        lock_take(&node->lock);
        leader_take(node, ready, n, rings_watched(node, watch, for_nothing));
        node->leading = false;
        node_pulse(node); /* also when nothing came: the next leader is one of those who wait for it */
        return r;
}

bool node_usual_waits(const tg_node *node)
{
        return !node->leading && !doorbells_are_due(node, NODE_DRAIN_EPOCHS) && !__atomic_load_n(&node->crowded, __ATOMIC_RELAXED) && rings_watch_passes(node);
}

HOT int node_wait_usual(tg_node *node)
{
        struct epoll_event ready[MAX_READY];
        Source *source = node->usual;
        int n, r = 0;

        node->n_polls++;
        node->leading = true;
        lock_give(&node->lock);
        n = epoll_wait(node->epoll_fd, ready, MAX_READY, -1);
        if (n < 0 && errno == EINTR && program_has_handlers())
                r = -EINTR;
        lock_take(&node->lock);
        if (n == 1 && node->usual == source && ready[0].data.u64 == (source->peer->serial | NODE_TAG_DOORBELL))
                source->peer->n_heard++;
        else
                leader_take(node, ready, n, false);
        node->leading = false;
        node_pulse(node);
        return r;
}

static int follower_wait(tg_node *node, uint32_t pulse, nsec_t deadline)
{
        int r;

        node->n_followers++;
        lock_give(&node->lock);
        r = futex_wait(&node->pulse, pulse, deadline);
        lock_take(&node->lock);
        node->n_followers--;
        return r == -EINTR ? r : 0; /* who waits looks at the clock itself */
}

int node_wait(tg_node *node, uint32_t pulse, nsec_t deadline)
{
        if (node->pulse != pulse)
                return 0;
        if (node->leading)
                return follower_wait(node, pulse, deadline);
        return leader_poll(node, deadline, true);
}

HOT void node_look_around(tg_node *node)
{
        if (!node->leading)
                (void)leader_poll(node, 0, false);
}
