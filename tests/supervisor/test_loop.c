/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "supervisor/loop.h"
#include "supervisor/packet.h"

typedef struct Probe {
        Source source;
        Timer timer;
        Job job;
        struct Probe *victim;
        int n;
} Probe;

static Loop loop;

static int on_readable(Source *source, uint32_t revents)
{
        Probe *p = container_of(source, Probe, source);

        (void)revents;
        p->n++;
        source_remove(source);
        if (p->victim)
                source_remove(&p->victim->source);
        return 0;
}

static int on_timer(Timer *timer, nsec_t now)
{
        Probe *p = container_of(timer, Probe, timer);

        (void)now;
        p->n++;
        if (p->victim)
                timer_disarm(&p->victim->timer);
        return 0;
}

/* What a run waits for besides its time; NULL: nothing. */
static const int *counted;
static int wanted;

static int on_last(Timer *timer, nsec_t now)
{
        if (counted && *counted < wanted)
                timer_arm(&loop, timer, nsec_add(now, NSEC_PER_MSEC), on_last);
        else
                loop_exit(&loop, 42);
        return 0;
}

static int on_job(Job *job)
{
        Probe *p = container_of(job, Probe, job);

        p->n++;
        if (p->victim)
                job_cancel(&p->victim->job);
        if (p->n < 3)
                job_post(&loop, job, on_job);
        return 0;
}

static void run_for(nsec_t span)
{
        Timer last = {};

        loop.stop = false;
        timer_arm(&loop, &last, nsec_add(clock_now(), span), on_last);
        cr_assert_eq(loop_run(&loop), 42);
}

/* ... and until *@n is @at_least that, for others may have the CPU meanwhile. */
static void run_until(nsec_t span, const int *n, int at_least)
{
        counted = n;
        wanted = at_least;
        run_for(span);
        counted = NULL;
}

Test(loop, nothing_is_delivered_to_a_source_removed_in_the_same_turn, .timeout = 5)
{
        int a = eventfd(1, EFD_CLOEXEC), b = eventfd(1, EFD_CLOEXEC);
        Probe pa = {}, pb = {};

        cr_assert_eq(loop_init(&loop), 0);
        pa.victim = &pb;
        pb.victim = &pa;
        cr_assert_eq(source_add(&loop, &pa.source, a, EPOLLIN, SOURCE_NODES, on_readable), 0);
        cr_assert_eq(source_add(&loop, &pb.source, b, EPOLLIN, SOURCE_NODES, on_readable), 0);
        run_for(NSEC_PER_MSEC);
        cr_assert_eq(pa.n + pb.n, 1, "both were ready, the first removed the second");
        fd_close(a);
        fd_close(b);
        loop_done(&loop);
}

Test(loop, timers_fire_in_order_of_time_and_a_disarmed_one_never, .timeout = 5)
{
        Probe first = {}, second = {}, third = {};
        nsec_t now = clock_now();

        cr_assert_eq(loop_init(&loop), 0);
        first.victim = &third;
        timer_arm(&loop, &third.timer, now + 3, on_timer);
        timer_arm(&loop, &first.timer, now + 1, on_timer);
        timer_arm(&loop, &second.timer, now + 2, on_timer);
        timer_arm(&loop, &second.timer, NSEC_NEVER, on_timer);
        run_for(NSEC_PER_MSEC);
        cr_assert_eq(first.n, 1);
        cr_assert_eq(second.n, 0, "never means disarmed");
        cr_assert_eq(third.n, 0, "the first one, due earlier, disarmed it");
        loop_done(&loop);
}

Test(loop, a_job_that_posts_itself_waits_for_the_next_turn_and_starves_no_timer, .timeout = 5)
{
        Probe again = {}, cancelled = {};

        cr_assert_eq(loop_init(&loop), 0);
        again.victim = &cancelled;
        job_post(&loop, &again.job, on_job);
        job_post(&loop, &cancelled.job, on_job);
        run_until(NSEC_PER_MSEC, &again.n, 3);
        cr_assert_eq(again.n, 3);
        cr_assert_eq(cancelled.n, 0);
        cr_assert_geq(loop.pulse->turns, 3);
        loop_done(&loop);
}

/* Work that takes its time. */
static void toil(nsec_t span)
{
        for (nsec_t until = nsec_add(clock_now(), span); clock_now() < until;)
                ;
}

static int on_toil(Job *job)
{
        toil(10 * NSEC_PER_MSEC);
        container_of(job, Probe, job)->n++;
        return 0;
}

static uint64_t n_turns_later_than(uint64_t us)
{
        uint64_t n = 0;

        for (unsigned i = status_lag_bucket(us) + 1; i < STATUS_LAG_BUCKETS; i++)
                n += loop.pulse->lag[i];
        return n;
}

/* The deadline is set by the slow turn itself: however late the test comes to it, no earlier turn meets it. */
static int on_toil_past_a_deadline(Job *job)
{
        Probe *p = container_of(job, Probe, job);

        timer_arm(&loop, &p->victim->timer, nsec_add(clock_now(), NSEC_PER_MSEC), on_timer);
        return on_toil(job);
}

Test(loop, lag_is_the_length_of_a_turn_and_how_late_it_makes_the_next_deadline, .timeout = 5)
{
        Probe due = {}, slow = {.victim = &due};

        cr_assert_eq(loop_init(&loop), 0);
        job_post(&loop, &slow.job, on_toil_past_a_deadline);
        run_until(30 * NSEC_PER_MSEC, &due.n, 1);
        cr_assert_eq(due.n, 1);
        cr_assert_geq(loop.pulse->lag_max_us, 10000);
        cr_assert_geq(n_turns_later_than(4095), 2, "the slow turn, and the one whose deadline it made 9 ms late");
        cr_assert_geq(status_lag_us(loop.pulse, 1000), 10000);
        cr_assert_eq(status_lag_us(loop.pulse, 1000), loop.pulse->lag_max_us);
        loop_done(&loop);
}

/* Of clients, a millisecond each: in this turn, and in the turn that had most of it. */
static struct {
        uint64_t turn;
        int n, most;
} done_in_turn;

static void toil_for_client(void)
{
        if (done_in_turn.turn != loop.pulse->turns)
                done_in_turn.n = 0;
        done_in_turn.turn = loop.pulse->turns;
        done_in_turn.most = MAX(done_in_turn.most, ++done_in_turn.n);
        toil(NSEC_PER_MSEC);
}

static int on_busy_client(Source *source, uint32_t revents)
{
        (void)revents;
        toil_for_client();
        container_of(source, Probe, source)->n++;
        return 0;
}

static int on_client_job(Job *job)
{
        toil_for_client();
        container_of(job, Probe, job)->n++;
        job_post_client(&loop, job, on_client_job);
        return 0;
}

/* For how long this thread was ready to run and others ran. */
static nsec_t run_delay(void)
{
        unsigned long long ns = 0;
        FILE *f = fopen("/proc/thread-self/schedstat", "re");

        if (f) {
                (void)!fscanf(f, "%*u %llu", &ns);
                fclose(f);
        }
        return ns;
}

/* Milliseconds of work. */
static int done_by(const Probe *clients, size_t n, const Probe *jobs)
{
        int sum = jobs->n;

        for (size_t i = 0; i < n; i++)
                sum += clients[i].n;
        return sum;
}

static int least(const Probe *clients, size_t n)
{
        int ret = clients[0].n;

        for (size_t i = 1; i < n; i++)
                ret = MIN(ret, clients[i].n);
        return ret;
}

Test(loop, clients_that_ask_without_a_pause_get_half_of_the_time_and_each_its_turn, .timeout = 30)
{
        int fds[10];
        Probe clients[10] = {}, jobs = {}, node = {};
        int node_fd = eventfd(1, EFD_CLOEXEC);
        double share, best = 0;
        nsec_t begin;

        cr_assert_eq(loop_init(&loop), 0);
        for (unsigned i = 0; i < ELEMENTSOF(fds); i++) {
                fds[i] = eventfd(1, EFD_CLOEXEC);
                cr_assert_eq(source_add(&loop, &clients[i].source, fds[i], EPOLLIN, SOURCE_CLIENTS, on_busy_client), 0);
        }
        cr_assert_eq(source_add(&loop, &node.source, node_fd, EPOLLIN, SOURCE_NODES, on_readable), 0);
        job_post_client(&loop, &jobs.job, on_client_job);
        begin = clock_now();
        for (int i = 0; i < 20 && (best <= 0.1 || least(clients, ELEMENTSOF(clients)) == 0); i++) { /* again, where others had the CPU: to the loop that is time which clients took */
                nsec_t since = clock_now(), waited = run_delay();
                int before = done_by(clients, ELEMENTSOF(clients), &jobs);

                run_for(200 * NSEC_PER_MSEC);
                waited = MIN(run_delay() - waited, (clock_now() - since) * 9 / 10);
                best = MAX(best, (double)(done_by(clients, ELEMENTSOF(clients), &jobs) - before) * (double)NSEC_PER_MSEC / (double)(clock_now() - since - waited));
        }
        share = (double)done_by(clients, ELEMENTSOF(clients), &jobs) * (double)NSEC_PER_MSEC / (double)(clock_now() - begin);
        for (unsigned i = 0; i < ELEMENTSOF(fds); i++) {
                cr_expect_geq(clients[i].n, 1, "client %u got no turn", i);
                source_remove(&clients[i].source);
                fd_close(fds[i]);
        }
        cr_expect_geq(jobs.n, 1);
        cr_expect_lt(share, 0.6, "they had %.2f of it", share);
        cr_expect_gt(best, 0.1, "they had %.2f of what others left us", best);
        cr_expect_eq(node.n, 1);
        cr_expect_leq(done_in_turn.most, 20, "%d ms of it in one turn", done_in_turn.most); /* 8 ms are LOOP_CLIENTS_BURST and what is earned meanwhile */
        job_cancel(&jobs.job);
        fd_close(node_fd);
        loop_done(&loop);
}

Test(loop, a_deadline_armed_for_the_past_is_no_lag, .timeout = 5)
{
        Probe old = {};

        cr_assert_eq(loop_init(&loop), 0);
        timer_arm(&loop, &old.timer, 1, on_timer); /* a successor's, from the journal: due since long */
        run_for(NSEC_PER_MSEC);
        cr_assert_eq(old.n, 1);
        cr_assert_lt(loop.pulse->lag_max_us, 4000000);
        loop_done(&loop);
}

static nsec_t first_started, due;
static struct status_pulse at_wake_up;

/* The end is a turn of its own, however late this one is. */
static int on_wake_up(Timer *timer, nsec_t now)
{
        at_wake_up = *loop.pulse;
        timer_arm(&loop, timer, nsec_add(now, NSEC_PER_MSEC), on_last);
        return 0;
}

/* Sets the deadline itself: whatever held us up before, this turn ends long before it. */
static int on_first_turn(Job *job)
{
        first_started = loop.pulse->turn_started_ns;
        cr_assert(status_pulse_is_stale(loop.pulse, 5, first_started + 6), "in the middle of a turn");
        due = nsec_add(clock_now(), 500 * NSEC_PER_MSEC);
        timer_arm(&loop, &container_of(job, Probe, job)->victim->timer, due, on_wake_up);
        return 0;
}

Test(loop, a_loop_that_sleeps_has_completed_its_turn_and_works_on_in_a_page, .timeout = 5)
{
        struct status_pulse page = {.turn_started_ns = NSEC_NEVER}; /* left by a predecessor */
        Probe wake = {}, first = {.victim = &wake};

        cr_assert_eq(loop_init(&loop), 0);
        loop_set_pulse(&loop, &page);
        cr_assert_eq(page.turn_started_ns, 0);
        job_post(&loop, &first.job, on_first_turn);
        loop.stop = false;
        cr_assert_eq(loop_run(&loop), 42);
        cr_assert_geq(at_wake_up.turn_completed_ns, first_started, "before it slept");
        cr_assert_lt(at_wake_up.turn_completed_ns, due, "before, not after");
        cr_assert_geq(at_wake_up.turn_started_ns, due);
        cr_assert_eq(page.turns, loop.pulse->turns);
        cr_assert_geq(page.turns, 3);
        loop_set_pulse(&loop, NULL);
        cr_assert_eq(loop.pulse->turns, page.turns, "what was counted goes along");
        loop_done(&loop);
}

static int n_fds(void)
{
        int n = 0;

        for (int fd = 0; fd < 256; fd++)
                n += fcntl(fd, F_GETFD) >= 0;
        return n;
}

Test(packet, what_does_not_fit_waits_with_its_descriptors_and_arrives_in_order, .timeout = 10)
{
        char data[4000] = {}, got[4000];
        int pair[2], event = eventfd(0, EFD_CLOEXEC), before, small = 8192;
        PacketQueue queue;
        unsigned n_sent = 0, n_got = 0;

        cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        cr_assert_eq(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
        before = n_fds();
        packet_queue_init(&queue, 50);
        for (;; n_sent++) {
                int r;

                memcpy(data, &n_sent, sizeof(n_sent));
                r = packet_queue_send(&queue, pair[0], data, sizeof(data), &event, 1);
                if (r == PACKET_E_FULL)
                        break;
                cr_assert_eq(r, 0);
        }
        cr_assert_eq(queue.n, 50, "the bound holds");
        while (n_got < n_sent) {
                size_t size = 0, n = 0;
                int fd = -1, r = packet_recv(pair[1], got, sizeof(got), &size, &fd, 1, &n);
                unsigned number;

                if (r == PACKET_E_AGAIN) {
                        cr_assert_eq(packet_queue_flush(&queue, pair[0]), 0);
                        continue;
                }
                cr_assert_eq(r, 0);
                cr_assert_eq(n, 1);
                fd_close(fd);
                memcpy(&number, got, sizeof(number));
                cr_assert_eq(number, n_got);
                n_got++;
        }
        packet_queue_done(&queue);
        cr_assert_eq(n_fds(), before, "no duplicate of a waiting descriptor is left");
}

Test(packet, descriptors_nobody_asked_for_are_refused_and_not_kept, .timeout = 5)
{
        int pair[2], event = eventfd(0, EFD_CLOEXEC), before;
        char got[8];
        size_t size = 0, n = 0;

        cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        before = n_fds();
        cr_assert_eq(packet_send(pair[0], "x", 1, &event, 1), 0);
        cr_assert_eq(packet_recv(pair[1], got, sizeof(got), &size, NULL, 0, &n), -EPROTO);
        cr_assert_eq(n_fds(), before);
}

Test(packet, a_closed_peer_is_an_outcome_and_not_an_error, .timeout = 5)
{
        int pair[2];
        char got[8];
        size_t size;

        cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        fd_close(pair[1]);
        cr_assert_eq(packet_send(pair[0], "x", 1, NULL, 0), PACKET_E_CLOSED);
        cr_assert_eq(packet_recv(pair[0], got, sizeof(got), &size, NULL, 0, NULL), PACKET_E_CLOSED);
}

Test(packet, the_last_words_of_a_peer_that_left_something_unread_are_heard, .timeout = 5)
{
        int pair[2];
        char got[8];
        size_t size = 0;

        cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        cr_assert_eq(packet_send(pair[0], "unread", 6, NULL, 0), 0);
        cr_assert_eq(packet_send(pair[1], "bye", 3, NULL, 0), 0);
        fd_close(pair[1]); /* the kernel now reports ECONNRESET ahead of "bye" */
        cr_assert_eq(packet_recv(pair[0], got, sizeof(got), &size, NULL, 0, NULL), 0);
        cr_assert_eq(size, 3);
        cr_assert_eq(packet_recv(pair[0], got, sizeof(got), &size, NULL, 0, NULL), PACKET_E_CLOSED);
        fd_close(pair[0]);
}
