/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tg_next(): whose turn it is, and the sleep when nobody has anything.
 */
#include <errno.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/hot.h"
#include "node/node-internal.h"

#define SPIN_TURN_NS (20 * NSEC_PER_USEC) /* of one who never sleeps, between two looks at everything */
#define TIMED_SPAN (500 * NSEC_PER_USEC) /* of one who always sleeps, between two sleeps of which it is measured how long the wake took */
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
static int look_at_inputs(tg_node *node, nsec_t now, tg_event **ret)
{
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

/* What is asked for, and what was found of it: the array is the caller's. */
typedef struct Take {
        tg_event **events;
        size_t n, n_taken;
        bool looked; /* the first looks were in vain */
} Take;

static void take_add(tg_node *node, Take *take)
{
        node->n_events_out++;
        node->n_taken += take->events[take->n_taken++]->source != NULL;
}

/* Return: 0, NODE_E_NOTHING, NODE_E_AGAIN, TG_E_END, or a negative errno. */
static HOT int look_for_one(tg_node *node, nsec_t now, tg_event **ret)
{
        int r;

        socket_glance(node);
        if (node->ended)
                return TG_E_END;
        if (!list_empty(&node->events))
                return deliver_queued(node, ret);
        r = look_at_inputs(node, now, ret);
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

/* What more is there, in the order in which so many single calls would have found it. Trouble is left to the next call, which meets it again. */
static void look_for_more(tg_node *node, nsec_t now, Take *take)
{
        if (node->n_inputs == 1 && take->events[0]->source && list_empty(&node->events)) { /* nobody else has a turn */
                size_t n = input_more(&node->inputs[0], take->events + 1, take->n - 1);

                node->n_events_out += (uint32_t)n;
                node->n_taken += n;
                take->n_taken += n;
                return;
        }
        while (take->n_taken < take->n && !node->ended) {
                tg_event **at = &take->events[take->n_taken];

                if ((list_empty(&node->events) ? look_at_inputs(node, now, at) : deliver_queued(node, at)) != 0)
                        return;
                take_add(node, take);
        }
}

/* Several at once, which the producers see to be taken when all of them are: before the caller has them, and before we wait for anything. */
static int look_for_many(tg_node *node, nsec_t now, Take *take)
{
        int r;

        event_expect(node, take->n);
        node->gathers = true;
        r = look_for_one(node, now, &take->events[0]);
        if (r == 0) {
                take_add(node, take);
                look_for_more(node, now, take);
        }
        node->gathers = false;
        for (unsigned i = 0; i < node->n_inputs; i++)
                input_show(&node->inputs[i]);
        return r;
}

/* Whether what came last is all that can come: see next_usual(). */
static void find_usual(tg_node *node, Source *source)
{
        const Input *input = &node->inputs[0];
        bool only = node->n_inputs == 1 && source && source == input->now && !input->old && !input->pending && !input->said_closed;

        if (only && !node->timed && list_empty(&node->events) && !node->stop_queued && !node->stopping && !node->ended &&
                node->fd >= 0 && node->verdict_by == NSEC_NEVER && !node->unsaid && node->outer_fd < 0 && node->hears_doorbells)
                node->usual = source;
}

/* Return: as look_for_one(), but that the events are in @take. */
static HOT int look(tg_node *node, Take *take)
{
        nsec_t now = node->timed ? clock_now() : 0;
        int r;

        node->usual = NULL;
        if (take->n > 1)
                return look_for_many(node, now, take);
        r = look_for_one(node, now, &take->events[0]);
        if (r == 0) {
                take_add(node, take);
                find_usual(node, take->events[0]->source);
        }
        return r;
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

/* -------- waiting awake -------- */

/* Whether anybody whose messages we wait for was last seen where we run: while we look it cannot send. */
static bool shares_cpu(const tg_node *node)
{
        int cpu = sched_getcpu();

        for (unsigned i = 0; i < node->n_inputs; i++) {
                const Input *input = &node->inputs[i];
                const Source *source = input->old ? input->old : input->now;

                if (source && !source->ended && ring_reader_shares_cpu(&source->reader, cpu))
                        return true;
        }
        return false;
}

/* Looks until something is there (true) or @until. Whoever wants the lock meanwhile gets it. */
static bool look_until(tg_node *node, nsec_t until)
{
        nsec_t last = clock_now(), now;

        for (;;) {
                for (unsigned i = 0; i < SPIN_LOOKS; i++) {
                        if (worth_staying_awake(node))
                                return true;
                        spin_relax();
                }
                if (last >= until)
                        return false;
                if (lock_is_wanted(&node->lock)) {
                        lock_give(&node->lock);
                        for (unsigned i = 0; i < LOCK_LOOKS && lock_is_free(&node->lock); i++)
                                spin_relax(); /* whoever is woken for it needs some microseconds to take it */
                        lock_take(&node->lock);
                }
                now = clock_now();
                if (spin_stolen(&node->spin, last, now) && node->wait_mode == NODE_WAIT_ADAPTIVE)
                        return false;
                last = now;
        }
}

/* Where messages come one after the other the next one is there before a clock has been read. */
static bool may_look_quickly(const tg_node *node)
{
        return node->wait_mode == NODE_WAIT_SPIN || (node->wait_mode == NODE_WAIT_ADAPTIVE && spin_is_hot(&node->spin) && !shares_cpu(node));
}

/* True: look again. */
static bool look_quickly(tg_node *node)
{
        if (!may_look_quickly(node))
                return false;
        for (unsigned i = 0; i < SPIN_LOOKS_FIRST; i++) {
                if (worth_staying_awake(node)) {
                        node->bell.counters.n_looks++;
                        node->bell.counters.n_found++;
                        return true;
                }
                spin_relax();
        }
        return false;
}

/* Nothing was there. True: look again, awake. */
static bool stay_awake(tg_node *node, nsec_t deadline)
{
        nsec_t now = node->idle_since;

        if (node->wait_mode == NODE_WAIT_SPIN) {
                (void)look_until(node, MIN(deadline, nsec_add(clock_now(), SPIN_TURN_NS)));
                return true; /* in between the clocks, the supervisor and the peers are looked at */
        }
        if (node->wait_mode == NODE_WAIT_BLOCK || node->spun || node->slept)
                return false;
        if (!spin_worth_it(&node->spin, &node->cost, now) || shares_cpu(node))
                return false;
        node->spun = true;
        node->bell.counters.n_looks++;
        if (look_until(node, MIN(deadline, now + spin_window(&node->cost)))) {
                node->bell.counters.n_found++;
                return true;
        }
        spin_missed(&node->spin);
        return false;
}

static void learn_wake(tg_node *node, nsec_t sent_at)
{
        nsec_t now = clock_now(), ns = now > sent_at ? now - sent_at : 0;

        spin_cost_learn(&node->cost, ns);
        node->bell.counters.n_woken++;
        node->bell.counters.woken_ns += MIN(ns, BELL_WOKEN_MAX);
}

/* An event came after there was nothing: what does that say of the next ones? */
static void learn(tg_node *node, const tg_event *event)
{
        nsec_t sent_at = event->message.d.time_ns, gap = sent_at > node->idle_since ? sent_at - node->idle_since : 0;

        if (event->source && node->idle_since != NSEC_NEVER) {
                spin_arrived(&node->spin, &node->cost, gap, node->spun && !node->slept);
                if (node->slept && gap)
                        learn_wake(node, sent_at);
        }
        node->idle_since = 0;
        node->sent_at = sent_at;
}

/* Whether to look at the clock before this sleep, and behind it: for who always sleeps that is much of what a message takes. The time is its
 * producer's word; a hostile one has clocks read, or wakes not measured. */
static bool is_timed(const tg_node *node)
{
        return node->wait_mode != NODE_WAIT_BLOCK || node->sent_at > nsec_add(node->timed_at, TIMED_SPAN);
}

/* Nothing was there when it was looked for first. */
static void begin_to_wait(tg_node *node)
{
        node->idle_since = NSEC_NEVER;
        if (is_timed(node))
                node->idle_since = node->timed_at = clock_now();
        node->slept = node->spun = false;
}

/* For a caller that polls the descriptor itself: takes the edges that are there, so that it is quiet until the next. */
static void quiet_outer(tg_node *node)
{
        uint64_t n;

        (void)!read(node->outer_nudge_fd, &n, sizeof(n)); /* EAGAIN: nobody nudged */
        node_look_around(node);
}

/* Announces the sleep. 0: asleep, nothing was there. NODE_E_AGAIN: look again, awake. @pulse: as it was before the look that found nothing;
 * what we do to it ourselves is none of what it is kept for. */
static int fall_asleep(tg_node *node, uint32_t *pulse)
{
        bool is_last = *pulse == node->pulse;

        node_empty_doorbells(node);
        if (is_last)
                *pulse = node->pulse;
        node_count_announced(node);
        bell_sleep(&node->bell);
        if (worth_staying_awake(node)) {
                bell_wake(&node->bell);
                return NODE_E_AGAIN;
        }
        timers_arm(node);
        node->bell.counters.n_sleeps++;
        bell_tell(&node->bell);
        return 0;
}

/* Nothing is there and the caller does not want to wait. A producer that keeps us busy with messages to refuse does not
 * keep us from returning. */
static int leave_empty_handed(tg_node *node, int why, unsigned *n_rounds)
{
        uint32_t pulse = node->pulse;

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
        if (fall_asleep(node, &pulse)) {
                ++*n_rounds;
                return NODE_E_AGAIN;
        }
        node->outer_armed = true; /* and the bell stays odd: the next ring makes the descriptor readable */
        return TG_E_TIMEOUT;
}

/* @r: what look() said. @pulse: as it was before that. With the turn and node->lock. */
static HOT int next(tg_node *node, Take *take, int64_t timeout_ns, nsec_t deadline, uint32_t pulse, int r)
{
        unsigned n_rounds = 0;

        for (;; pulse = node->pulse, r = look(node, take)) {
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
                if (!node->idle_since && !take->looked && look_quickly(node))
                        continue;
                if (!node->idle_since)
                        begin_to_wait(node);
                if (stay_awake(node, deadline) || fall_asleep(node, &pulse))
                        continue;
                node->slept = true;
                r = node_wait(node, pulse, deadline);
                bell_wake(&node->bell);
                node->woke = true;
                if (r)
                        return r;
        }
}

/* Begins a call; with node->lock. */
static void wake(tg_node *node)
{
        bell_wake(&node->bell);
        node->woke |= node->outer_armed;
        node->outer_armed = false;
        node->idle_since = 0;
}

static HOT void delivered(tg_node *node, const Take *take)
{
        if (node->idle_since)
                learn(node, take->events[0]);
}

/* Ends a call that has node->lock. */
static inline int answer(tg_node *node, const Take *take, int r)
{
        if (r == 0)
                delivered(node, take);
        lock_give(&node->lock);
        return r;
}

/* Somebody has the turn; he is waited for. With node->lock, which is given up. */
static int next_in_turn(tg_node *node, Take *take, int64_t timeout_ns)
{
        nsec_t deadline = deadline_after(timeout_ns);
        uint32_t pulse;
        int r;

        lock_give(&node->lock);
        r = lock_take_until(&node->next_turn, deadline);
        if (r)
                return r == -ETIMEDOUT ? TG_E_TIMEOUT : r;
        lock_take(&node->lock);
        wake(node);
        pulse = node->pulse;
        r = answer(node, take, next(node, take, timeout_ns, deadline, pulse, look(node, take)));
        lock_give(&node->next_turn);
        return r;
}

/* -------- one input, and nothing else that has anything to say -------- */

static bool usual_waits(const tg_node *node)
{
        return (node->wait_mode == NODE_WAIT_BLOCK || (node->wait_mode == NODE_WAIT_ADAPTIVE && !spin_may_be_hot(&node->spin))) && node_usual_waits(node);
}

/* Whoever wants the lock meanwhile gets it: the long way sees to that. */
static bool look_as_usual(tg_node *node, Source *source)
{
        if (!may_look_quickly(node))
                return false;
        input_tell_place(node->inputs, source); /* not between the message and our caller */
        for (unsigned i = 0; i < SPIN_LOOKS_FIRST && !lock_is_wanted(&node->lock); i++) {
                if (ring_reader_ready(&source->reader)) {
                        node->bell.counters.n_looks++;
                        node->bell.counters.n_found++;
                        return true;
                }
                spin_relax();
        }
        return false;
}

/* With the turn and node->lock. Whatever this does before it sleeps, and in the same order, fall_asleep() and its caller do. */
static int sleep_as_usual(tg_node *node, Source *source)
{
        int r;

        begin_to_wait(node);
        node_count_announced(node);
        bell_sleep(&node->bell);
        if (ring_reader_ready(&source->reader) || control_epoch(&node->control) != node->control_seen) {
                bell_wake(&node->bell);
                return NODE_E_AGAIN;
        }
        node->bell.counters.n_sleeps++;
        bell_tell(&node->bell);
        r = node_wait_usual(node);
        bell_wake(&node->bell);
        node->slept = node->woke = true;
        return r ? r : node->usual == source ? 0 : NODE_E_AGAIN;
}

/*
 * Most nodes have one input, and nearly always what comes is its next message. Then all that the others could have to say was looked for
 * when `usual` was set, and is said by a packet, a hang-up or a call that takes it back. So nothing but the ring and the control page is
 * looked at: what runs here the kernel's way from the sender to us has to share the caches with. Now and then the long way is taken all
 * the same. With node->lock, and nobody has the turn.
 *
 * Return: 0, NODE_E_AGAIN: the long way is to be taken, -EINTR.
 */
static HOT __attribute__((noinline)) int next_usual(tg_node *node, Take *take, bool waits)
{
        Source *source = node->usual;
        tg_event *event;
        int r;

        if (socket_glance_is_due(node))
                return NODE_E_AGAIN;
        event = input_take_usual(node->inputs, source, false);
        if (!event && waits && node->usual) {
                take->looked = !look_as_usual(node, source);
                if (!take->looked)
                        event = input_take_usual(node->inputs, source, true);
        }
        if (!event) {
                if (!waits || !node->usual || !usual_waits(node) || !lock_try(&node->next_turn))
                        return NODE_E_AGAIN;
                r = sleep_as_usual(node, source);
                lock_give(&node->next_turn);
                if (r)
                        return r;
                event = input_take_usual(node->inputs, source, false); /* where we run may have changed */
                if (!event)
                        return NODE_E_AGAIN;
                if (node->idle_since != NSEC_NEVER)
                        learn(node, event);
                node->sent_at = event->message.d.time_ns;
                node->idle_since = 0;
        }
        node->n_events_out++;
        node->n_taken++;
        take->events[0] = event;
        return 0;
}

/*
 * The usual case: nobody has the turn. Then what is there is had with one lock, and only who has to wait takes the turn, too: in the other order than elsewhere, so
 * without waiting for it. Who waits has the turn; it gives up the lock only after it took the turn, so it is seen here. With node->lock, which is given up.
 */
static HOT __attribute__((noinline)) int next_some(tg_node *node, Take *take, int64_t timeout_ns)
{
        uint32_t pulse;
        int r;

        if (!lock_is_free(&node->next_turn))
                return next_in_turn(node, take, timeout_ns);
        wake(node);
        pulse = node->pulse;
        r = look(node, take);
        if (r == NODE_E_NOTHING && timeout_ns == 0 && node->outer_fd < 0)
                r = TG_E_TIMEOUT;
        if (r < NODE_E_NOTHING)
                return answer(node, take, r);
        if (!lock_try(&node->next_turn))
                return next_in_turn(node, take, timeout_ns);
        r = answer(node, take, next(node, take, timeout_ns, deadline_after(timeout_ns), pulse, r));
        lock_give(&node->next_turn);
        return r;
}

HOT int tg_next(tg_node *node, tg_event **ret, int64_t timeout_ns)
{
        Take take = {.events = ret, .n = 1};

        if (node_forked(node))
                return -EOWNERDEAD;
        lock_take(&node->lock);
        if (node->usual && lock_is_free(&node->next_turn)) {
                int r = next_usual(node, &take, timeout_ns < 0);

                if (r <= 0) {
                        lock_give(&node->lock);
                        return r;
                }
        }
        return next_some(node, &take, timeout_ns);
}

HOT int tg_next_batch(tg_node *node, tg_event **events, size_t n, size_t *ret_n, int64_t timeout_ns)
{
        Take take = {.events = events, .n = n};
        int r;

        *ret_n = 0;
        if (n == 0)
                return -EINVAL;
        if (node_forked(node))
                return -EOWNERDEAD;
        lock_take(&node->lock);
        r = next_some(node, &take, timeout_ns);
        *ret_n = take.n_taken;
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
        node->usual = NULL;
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
