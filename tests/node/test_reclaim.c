/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A reader is killed while it holds every chunk that its producer waits for. The producer hears of it from the doorbell, by itself: each
 * chunk is back as soon as the kernel has ended the reader, and nothing is lost over any number of kills, whether the two ring by doorbells or
 * by their socket. The supervisor says nothing of the death, and the producer never looks again by time: there is nothing else by which it
 * can hear. TIDEGATE_LONG=1: 10 000 kills. Prints how long it took from the kill, beside what the kernel alone takes to end the process.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "node/node-internal.h"
#include "tests/node/harness.h"

#define N_CHUNKS (RING_N_HOLDS + 1u) /* all but one are held, and one waits to be read */
#define SIZE     4000u
#define N_KILLS  100u
#define N_LONG   10000u

static Flow *flow;
static _Atomic uint64_t *shared;
static int source, sink;

enum { ROUND, HELD, BACK_AT, BACK, FDS_BEFORE, FDS_AFTER };

static uint64_t count_fds(void)
{
        DIR *dir = opendir("/proc/self/fd");
        uint64_t n = 0;

        while (readdir(dir))
                n++;
        closedir(dir);
        return n;
}

/* Every chunk of the pool is free: each can be had. */
static void all_are_back(tg_node *node)
{
        tg_sample *sample[N_CHUNKS];

        for (unsigned i = 0; i < N_CHUNKS; i++)
                NODE_CHECK(tg_alloc(node, "out", SIZE, &sample[i]) == 0);
        for (unsigned i = 0; i < N_CHUNKS; i++)
                tg_sample_free(sample[i]);
}

static int send_until_blocked(tg_node *node, void *arg)
{
        static uint8_t bytes[SIZE];

        node->relook_span = NSEC_NEVER;
        for (uint64_t round = 1;; round++) {
                while (shared[ROUND] < round) { /* attaches the next reader meanwhile */
                        tg_event *ev;

                        if (tg_next(node, &ev, (int64_t)NSEC_PER_MSEC) == 0) {
                                bool stop = tg_event_type(ev) == TG_EVENT_STOP;

                                tg_event_free(ev);
                                if (stop) {
                                        shared[FDS_AFTER] = count_fds();
                                        return 0;
                                }
                        }
                }
                if (round == 2)
                        shared[FDS_BEFORE] = count_fds();
                for (unsigned i = 0; i < N_CHUNKS; i++)
                        NODE_CHECK(tg_send(node, "out", bytes, SIZE, NULL) == 0);
                NODE_CHECK(tg_send(node, "out", bytes, SIZE, NULL) == 0); /* there is no chunk until the reader dies */
                shared[BACK_AT] = clock_now();
                all_are_back(node);
                shared[BACK] = round;
                flow_note(flow);
        }
}

static int hold_all(tg_node *node, void *arg)
{
        tg_event *ev;

        for (unsigned i = 0; i < RING_N_HOLDS; i++)
                NODE_CHECK(tg_next(node, &ev, TG_FOREVER) == 0 && tg_event_type(ev) == TG_EVENT_INPUT);
        shared[HELD] = shared[ROUND];
        flow_note(flow);
        for (;;)
                pause();
}

static bool has_blocked(void)
{
        nsec_t until = clock_now() + 20 * NSEC_PER_SEC;

        while (!flow_ring(flow, source, 0).blocked) {
                if (clock_now() > until)
                        return false;
                (void)sched_yield();
        }
        return true;
}

static int by_size(const void *a, const void *b)
{
        nsec_t x = *(const nsec_t *)a, y = *(const nsec_t *)b;

        return (x > y) - (x < y);
}

static double ms_at(nsec_t *spans, unsigned n, unsigned permille)
{
        qsort(spans, n, sizeof(*spans), by_size);
        return (double)spans[MIN(n * permille / 1000, n - 1)] / NSEC_PER_MSEC;
}

static void what_they_held_is_back(bool doorbells)
{
        const char *text = getenv("TIDEGATE_LONG");
        unsigned n = text && strcmp(text, "1") == 0 ? N_LONG : N_KILLS;
        nsec_t *raw = calloc(n, sizeof(*raw)), *back = calloc(n, sizeof(*back)), *more = calloc(n, sizeof(*more));

        flow = flow_new();
        if (!doorbells)
                flow_without_doorbells(flow);
        shared = flow_shared(flow);
        source = flow_node(flow, "source", send_until_blocked, NULL);
        sink = flow_node(flow, "sink", hold_all, NULL);
        flow_link(flow, source, flow_output(flow, source, "out", 16, SIZE, N_CHUNKS), sink, "in",
                (FlowLinkSpec){.queue_size = 16, .backpressure = true});
        flow_hold_verdicts(flow, true);
        flow_spawn(flow);
        for (uint64_t round = 1; round <= n; round++) {
                struct pollfd p = {.events = POLLIN};
                nsec_t killed;

                cr_assert(FLOW_UNTIL(flow, 20, flow_running(flow)), "round %lu", (unsigned long)round);
                shared[ROUND] = round;
                cr_assert(FLOW_UNTIL(flow, 20, shared[HELD] == round), "round %lu", (unsigned long)round);
                cr_assert(has_blocked(), "round %lu", (unsigned long)round);
                p.fd = (int)syscall(SYS_pidfd_open, flow_pid(flow, sink), 0);
                killed = clock_now();
                flow_kill(flow, sink);
                cr_assert_eq(poll(&p, 1, 20000), 1);
                raw[round - 1] = clock_now() - killed;
                (void)fd_close(p.fd);
                cr_assert(FLOW_UNTIL(flow, 20, shared[BACK] == round), "round %lu: the chunks did not come back", (unsigned long)round);
                back[round - 1] = shared[BACK_AT] - killed;
                more[round - 1] = back[round - 1] > raw[round - 1] ? back[round - 1] - raw[round - 1] : 0;
                cr_assert(FLOW_UNTIL(flow, 20, flow_exited(flow, sink, NULL)));
                if (round < n)
                        flow_restart(flow, sink);
        }
        flow_stop(flow, source, NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(flow, 20, flow_exited(flow, source, NULL)));
        cr_assert_eq(shared[FDS_AFTER], shared[FDS_BEFORE], "%lu descriptors, %lu before", (unsigned long)shared[FDS_AFTER],
                (unsigned long)shared[FDS_BEFORE]);
        printf("# %u kills: process gone after p50 %.3f p99 %.3f ms; its chunks back after p50 %.3f p99 %.3f ms, later by p50 %.3f p99 %.3f ms\n", n,
                ms_at(raw, n, 500), ms_at(raw, n, 990), ms_at(back, n, 500), ms_at(back, n, 990), ms_at(more, n, 500), ms_at(more, n, 990));
        flow_close(flow);
        free(raw);
        free(back);
        free(more);
}

Test(reclaim, what_a_killed_reader_held_is_back_at_once_however_often, .timeout = 900)
{
        what_they_held_is_back(true);
}

Test(reclaim, what_a_killed_reader_held_is_back_at_once_where_they_ring_by_the_socket, .timeout = 900)
{
        what_they_held_is_back(false);
}
