/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tg_next(): whose turn it is, and the sleep when nobody has anything.
 */
#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "node/node-internal.h"

#define MAX_ROUNDS 256u /* of refused messages before a caller who does not want to wait gets an answer */

/* STOP closes the door behind what is there; ERROR ends everything. */
static int deliver_queued(tg_node *node, tg_event **ret)
{
        tg_event *event = list_first(&node->events, tg_event, link);

        list_unlink(&event->link);
        if (event->kind == TG_EVENT_STOP) {
                node->stopping = true;
                for (unsigned i = 0; i < node->n_inputs; i++)
                        input_drain(&node->inputs[i]);
        }
        if (event->kind == TG_EVENT_ERROR)
                node->ended = true;
        *ret = event;
        return 0;
}

/* One round over the inputs, beginning where the last one ended. */
static int look_at_inputs(tg_node *node, tg_event **ret)
{
        nsec_t now = node->timed ? clock_now() : 0;
        bool again = false;

        for (unsigned i = 0; i < node->n_inputs; i++) {
                unsigned at = node->first_input + i;
                int r;

                at = at >= node->n_inputs ? at - node->n_inputs : at;
                r = input_next(&node->inputs[at], now, ret);
                if (r == 0)
                        node->first_input = at + 1 >= node->n_inputs ? 0 : at + 1;
                if (r == 0 || r < 0)
                        return r;
                again |= r == NODE_E_AGAIN;
        }
        return again ? NODE_E_AGAIN : NODE_E_NOTHING;
}

/* Return: 0, NODE_E_NOTHING, NODE_E_AGAIN, TG_E_END, or a negative errno. */
static int look(tg_node *node, tg_event **ret)
{
        int r;

        socket_glance(node);
        if (node->ended)
                return TG_E_END;
        if (!list_empty(&node->events))
                return deliver_queued(node, ret);
        r = look_at_inputs(node, ret);
        if (r != NODE_E_NOTHING)
                return r;
        if (node->stopping) {
                node->ended = true;
                return TG_E_END;
        }
        if (node->n_links_in && !node->n_open_in) {
                event_queue_stop(node, "ALL_INPUTS_CLOSED");
                return node->stop_queued ? NODE_E_AGAIN : error_origin(-ENOMEM);
        }
        return NODE_E_NOTHING;
}

/* The look between announcing a sleep and sleeping. */
static bool worth_staying_awake(tg_node *node)
{
        if (!list_empty(&node->events) || control_epoch(&node->control) != node->control_seen)
                return true;
        for (unsigned i = 0; i < node->n_inputs; i++)
                if (input_ready(&node->inputs[i]))
                        return true;
        return false;
}

/* For a caller that polls the descriptor itself: takes the edges that are there, so that it is quiet until the next. */
static void quiet_outer(tg_node *node)
{
        uint64_t n;

        (void)!read(node->outer_nudge_fd, &n, sizeof(n)); /* EAGAIN: nobody nudged */
        node_look_around(node);
}

/* Announces the sleep. 0: asleep, nothing was there. NODE_E_AGAIN: look again, awake. */
static int fall_asleep(tg_node *node)
{
        (void)__atomic_fetch_add(&node->n_announced, 1, __ATOMIC_RELAXED); /* senders count with us */
        bell_sleep(&node->bell);
        if (worth_staying_awake(node)) {
                bell_wake(&node->bell);
                return NODE_E_AGAIN;
        }
        timers_arm(node);
        return 0;
}

/* Nothing is there and the caller does not want to wait. A producer that keeps us busy with messages to refuse does not
 * keep us from returning. */
static int leave_empty_handed(tg_node *node, int why, unsigned *n_rounds)
{
        if (why == NODE_E_AGAIN && ++*n_rounds < MAX_ROUNDS)
                return why;
        if (node->outer_fd < 0)
                return TG_E_TIMEOUT;
        if (*n_rounds >= MAX_ROUNDS) {
                uint64_t one = 1;

                (void)!write(node->outer_nudge_fd, &one, sizeof(one));
                return TG_E_TIMEOUT;
        }
        quiet_outer(node);
        if (fall_asleep(node)) {
                ++*n_rounds;
                return NODE_E_AGAIN;
        }
        node->outer_armed = true; /* and the bell stays odd: the next ring makes the descriptor readable */
        return TG_E_TIMEOUT;
}

static int next(tg_node *node, tg_event **ret, int64_t timeout_ns, nsec_t deadline)
{
        unsigned n_rounds = 0;
        int r;

        bell_wake(&node->bell);
        node->woke |= node->outer_armed;
        node->outer_armed = false;
        for (;;) {
                uint32_t pulse = node->pulse;

                r = look(node, ret);
                if (r == 0 || r == TG_E_END || r < 0)
                        return r;
                if (timeout_ns == 0) {
                        r = leave_empty_handed(node, r, &n_rounds);
                        if (r == NODE_E_AGAIN)
                                continue;
                        return r;
                }
                if (deadline != NSEC_NEVER && clock_now() >= deadline)
                        return TG_E_TIMEOUT;
                if (r == NODE_E_AGAIN)
                        continue; /* bounded work each time: the clock and the supervisor are looked at in between */
                if (fall_asleep(node))
                        continue;
                r = node_wait(node, pulse, deadline);
                bell_wake(&node->bell);
                node->woke = true;
                if (r)
                        return r;
        }
}

int tg_next(tg_node *node, tg_event **ret, int64_t timeout_ns)
{
        nsec_t deadline;
        int r;

        if (node_forked(node))
                return -EOWNERDEAD;
        deadline = deadline_after(timeout_ns);
        r = lock_take_until(&node->next_turn, deadline);
        if (r)
                return r == -ETIMEDOUT ? TG_E_TIMEOUT : r;
        lock_take(&node->lock);
        r = next(node, ret, timeout_ns, deadline);
        if (r == 0)
                node_ref(node);
        lock_give(&node->lock);
        lock_give(&node->next_turn);
        return r;
}

static int watch(int epoll_fd, int fd)
{
        struct epoll_event ev = {.events = EPOLLIN};

        return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0 ? error_origin(-errno) : 0;
}

/*
 * The descriptor is a second epoll around the one the library polls: a thread of ours that waits for room to send takes
 * edges from that one, and then says so through an eventfd that only stands in the outer one.
 */
static int make_outer(tg_node *node)
{
        _cleanup_fd_ int outer = -1, nudge = -1;
        int r;

        outer = epoll_create1(EPOLL_CLOEXEC);
        nudge = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK); /* 1: readable until tg_next() was called once */
        if (outer < 0 || nudge < 0)
                return error_origin(-errno);
        r = watch(outer, node->epoll_fd);
        if (r == 0)
                r = watch(outer, nudge);
        if (r)
                return r;
        node->outer_nudge_fd = TAKE_FD(nudge);
        node->outer_fd = TAKE_FD(outer);
        return 0;
}

int tg_node_fd(tg_node *node)
{
        int r = 0;

        if (node_forked(node))
                return -EOWNERDEAD;
        lock_take(&node->lock);
        if (node->outer_fd < 0)
                r = make_outer(node);
        r = r ? r : node->outer_fd;
        lock_give(&node->lock);
        return r;
}
