/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tg_next_batch(): the events that so many calls of tg_next() would give, in one call, and nothing taken that was not given.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "tests/node/harness.h"

#define N_MESSAGES 3000u
#define MAX_BATCH  70u
#define MAX_HELD   40u
#define LARGE      5000u

static Flow *flow;
static _Atomic uint64_t *shared;

enum { GO, SENT, LAST, DONE };

static void tell(unsigned what, uint64_t value)
{
        shared[what] = value;
        flow_note(flow);
}

static void await(unsigned what, uint64_t value)
{
        while (shared[what] < value)
                (void)usleep(100);
}

static bool ended(int node)
{
        int status;

        if (!flow_exited(flow, node, &status))
                return false;
        cr_assert_eq(status, 0, "status %#x", (unsigned)status);
        return true;
}

static uint64_t next_random(uint64_t *state)
{
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        return *state;
}

/* -------- the same sequence -------- */

static size_t size_of(uint64_t i)
{
        static const size_t sizes[] = {8, 64, 192, 193, LARGE, 0, 9};

        return sizes[(i * i + i / 7) % ELEMENTSOF(sizes)];
}

static int send_all_sizes(tg_node *node, void *arg)
{
        uint8_t bytes[LARGE];

        for (uint64_t i = 0; i < N_MESSAGES; i++) {
                memset(bytes, (int)(i % 251), sizeof(bytes));
                NODE_CHECK(tg_send(node, "out", bytes, size_of(i), NULL) == 0);
        }
        return 0;
}

static void check_bytes(const tg_event *ev)
{
        const uint8_t *bytes = tg_event_data(ev);

        NODE_CHECK(tg_event_size(ev) == size_of(tg_event_seq(ev)));
        for (size_t i = 0; i < tg_event_size(ev); i += 97)
                NODE_CHECK(bytes[i] == tg_event_seq(ev) % 251);
}

typedef struct Seen {
        uint64_t n[2], next[2]; /* of the inputs "all" and "new" */
        bool closed[2], stop;
} Seen;

static void see(Seen *seen, const tg_event *ev)
{
        unsigned which = strcmp(tg_event_id(ev), "new") == 0;

        NODE_CHECK(!seen->stop); /* it is the last */
        switch (tg_event_type(ev)) {
        case TG_EVENT_INPUT:
                NODE_CHECK(!seen->closed[which]);
                NODE_CHECK(which ? tg_event_seq(ev) >= seen->next[1] : tg_event_seq(ev) == seen->next[0]);
                seen->next[which] = tg_event_seq(ev) + 1;
                seen->n[which]++;
                check_bytes(ev);
                break;
        case TG_EVENT_INPUT_CLOSED:
                NODE_CHECK(!seen->closed[which]);
                seen->closed[which] = true;
                break;
        default:
                NODE_CHECK(tg_event_type(ev) == TG_EVENT_STOP && strcmp(tg_event_id(ev), "ALL_INPUTS_CLOSED") == 0);
                NODE_CHECK(seen->closed[0] && seen->closed[1]);
                seen->stop = true;
        }
}

/* What is held stays as it was, whatever is taken meanwhile. @held: a ring of them, NULL where none is. */
static void hold_some(tg_event **held, tg_event **events, size_t n, uint64_t *rng)
{
        for (size_t i = 0; i < n; i++) {
                tg_event **place = &held[next_random(rng) % MAX_HELD];

                if (tg_event_type(events[i]) != TG_EVENT_INPUT || next_random(rng) % 4)
                        continue;
                if (*place)
                        check_bytes(*place);
                (void)tg_event_free(*place);
                *place = events[i];
                events[i] = NULL;
        }
}

static void check_counts(tg_node *node, const Seen *seen)
{
        struct tg_input_stats stats;

        NODE_CHECK(seen->n[0] == N_MESSAGES);
        NODE_CHECK(tg_input_stats(node, "all", &stats) == 0 && stats.delivered == N_MESSAGES);
        NODE_CHECK(tg_input_stats(node, "new", &stats) == 0 && stats.delivered == seen->n[1]);
        NODE_CHECK(stats.dropped_invalid == 0);
        NODE_CHECK(stats.delivered + stats.dropped_queue + stats.dropped_pool == N_MESSAGES);
}

static int take_any_numbers(tg_node *node, void *arg)
{
        tg_event *events[MAX_BATCH + 1], *held[MAX_HELD] = {};
        uint64_t rng = 88172645463325252u + (uint64_t)getpid();
        Seen seen = {};
        int r = 0;

        while (r == 0) {
                size_t most = 1 + next_random(&rng) % MAX_BATCH, n = 77;

                events[most] = (tg_event *)1;
                if (next_random(&rng) % 3)
                        r = tg_next_batch(node, events, most, &n, TG_FOREVER);
                else
                        n = (r = tg_next(node, events, TG_FOREVER)) == 0;
                NODE_CHECK(n <= most && (n > 0) == (r == 0) && events[most] == (tg_event *)1);
                for (size_t i = 0; i < n; i++)
                        see(&seen, events[i]);
                hold_some(held, events, n, &rng);
                tg_events_free(events, n);
        }
        NODE_CHECK(r == TG_E_END && seen.stop);
        check_counts(node, &seen);
        for (size_t i = 0; i < MAX_HELD; i++)
                if (held[i])
                        check_bytes(held[i]);
        tg_events_free(held, MAX_HELD);
        return 0;
}

static void count_up(int link, uint64_t delivered_least)
{
        CursorStatus c = flow_cursor(flow, link);
        uint64_t sum = c.delivered;

        for (unsigned i = 0; i < _DROP_REASON_MAX; i++)
                sum += c.dropped[i];
        cr_assert_eq(c.tail, N_MESSAGES);
        cr_assert_eq(c.tail - c.start, sum);
        cr_assert_geq(c.delivered, delivered_least);
}

Test(next_batch, gives_the_sequence_of_single_calls_whatever_the_numbers, .timeout = 60)
{
        int source, sink, out, all, newest;

        flow = flow_new();
        shared = flow_shared(flow);
        source = flow_node(flow, "source", send_all_sizes, NULL);
        sink = flow_node(flow, "sink", take_any_numbers, NULL);
        out = flow_output(flow, source, "out", 60, LARGE, 90);
        all = flow_link(flow, source, out, sink, "all", (FlowLinkSpec){.queue_size = 60, .backpressure = true});
        newest = flow_link(flow, source, out, sink, "new", (FlowLinkSpec){.queue_size = 7});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 20, ended(source) && ended(sink)));
        count_up(all, N_MESSAGES);
        count_up(newest, 1);
        cr_assert_eq(flow_n_violations(flow), 0);
        flow_close(flow);
}

/* -------- what there is, and in turn -------- */

static int send_some_when_told(tg_node *node, void *arg)
{
        tg_message messages[20];

        for (unsigned i = 0; i < 20; i++)
                messages[i] = (tg_message){"x", 1, NULL};
        await(GO, 1);
        NODE_CHECK(tg_send_batch(node, "out", messages, (size_t)(uintptr_t)arg, NULL) == 0);
        shared[SENT]++;
        await(DONE, 1);
        return 0;
}

static int take_what_is_there(tg_node *node, void *arg)
{
        tg_event *events[100];
        uint64_t seen[3] = {};
        size_t n = 77;

        NODE_CHECK(tg_next_batch(node, events, 100, &n, 0) == TG_E_TIMEOUT && n == 0);
        NODE_CHECK(tg_next_batch(node, events, 100, &n, 1000000) == TG_E_TIMEOUT && n == 0);
        NODE_CHECK(tg_next_batch(node, events, 0, &n, TG_FOREVER) == -EINVAL && n == 0);
        shared[GO] = 1;
        await(SENT, 3);
        NODE_CHECK(tg_next_batch(node, events, 30, &n, TG_FOREVER) == 0 && n == 30);
        for (size_t i = 0; i < n; i++) /* 20 of the first two, of the last 5 */
                NODE_CHECK(tg_event_seq(events[i]) == seen[tg_event_id(events[i])[0] - 'a']++);
        NODE_CHECK(seen[2] == 5 && seen[0] + seen[1] == 25 && seen[0] >= 12 && seen[1] >= 12);
        tg_events_free(events, n);
        NODE_CHECK(tg_next_batch(node, events, 100, &n, TG_FOREVER) == 0 && n == 15);
        NODE_CHECK(tg_next(node, &events[99], 0) == TG_E_TIMEOUT);
        tg_events_free(events, n);
        tell(DONE, 1);
        return 0;
}

Test(next_batch, takes_what_is_there_from_the_inputs_in_turn_and_waits_for_no_more, .timeout = 60)
{
        static const char *const inputs[] = {"a", "b", "c"};
        static const uintptr_t counts[] = {20, 20, 5};
        int sources[3], sink;

        flow = flow_new();
        shared = flow_shared(flow);
        for (unsigned i = 0; i < 3; i++)
                sources[i] = flow_node(flow, inputs[i], send_some_when_told, (void *)counts[i]);
        sink = flow_node(flow, "sink", take_what_is_there, NULL);
        for (unsigned i = 0; i < 3; i++)
                flow_link(flow, sources[i], flow_output(flow, sources[i], "out", 30, 100, 40), sink, inputs[i],
                        (FlowLinkSpec){.queue_size = 30, .backpressure = i % 2});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 20, ended(sink)));
        flow_close(flow);
}

/* -------- death inside the call -------- */

#define QUEUE 10u

static int send_numbers(tg_node *node, void *arg)
{
        for (uint64_t i = 0;; i++) {
                if (tg_send(node, "out", &i, sizeof(i), NULL) == TG_E_STOPPING)
                        return 0;
                shared[SENT] = i + 1;
        }
}

static void die(int sig)
{
        _exit(77);
}

/* Room for @n events, and behind it nothing: whoever writes one more is ended there. */
static tg_event **room_with_an_abyss(size_t n)
{
        size_t page = (size_t)sysconf(_SC_PAGESIZE);
        uint8_t *map = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        NODE_CHECK(map != MAP_FAILED && mprotect(map + page, page, PROT_NONE) == 0);
        NODE_CHECK(signal(SIGSEGV, die) != SIG_ERR);
        return (tg_event **)(void *)(map + page) - n;
}

static void take_next_one(tg_node *node)
{
        tg_event *ev;

        NODE_CHECK(tg_next(node, &ev, TG_FOREVER) == 0 && tg_event_type(ev) == TG_EVENT_INPUT);
        NODE_CHECK(tg_event_seq(ev) == shared[LAST] && *(const uint64_t *)tg_event_data(ev) == shared[LAST]);
        shared[LAST]++;
        tg_event_free(ev);
}

static int die_among_the_first(tg_node *node, void *arg)
{
        tg_event *events[QUEUE];
        size_t n;

        if (tg_restart_count(node) > 0) {
                for (unsigned taken = 0; taken < 50; taken += (unsigned)n) {
                        NODE_CHECK(tg_next_batch(node, events, QUEUE, &n, TG_FOREVER) == 0);
                        for (size_t i = 0; i < n; i++)
                                NODE_CHECK(tg_event_seq(events[i]) == shared[LAST]++);
                        tg_events_free(events, n);
                }
                tell(DONE, 1);
                return 0;
        }
        for (unsigned i = 0; i < 5; i++)
                take_next_one(node);
        await(SENT, 5 + QUEUE); /* so many are there */
        (void)tg_next_batch(node, room_with_an_abyss(4), QUEUE, &n, TG_FOREVER);
        return 1;
}

Test(next_batch, that_ends_with_its_process_has_taken_nothing_from_the_heir, .timeout = 60)
{
        int source, sink, link, status;

        flow = flow_new();
        shared = flow_shared(flow);
        source = flow_node(flow, "source", send_numbers, NULL);
        sink = flow_node(flow, "sink", die_among_the_first, NULL);
        link = flow_link(flow, source, flow_output(flow, source, "out", QUEUE, 64, 20), sink, "in",
                (FlowLinkSpec){.queue_size = QUEUE, .backpressure = true, .restartable = true});
        flow_start(flow);
        flow_will_restart(flow, sink, true);
        cr_assert(FLOW_UNTIL(flow, 10, flow_exited(flow, sink, &status)));
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 77, "status %#x", (unsigned)status);
        cr_assert_eq(shared[LAST], 5);
        cr_assert_eq(flow_cursor(flow, link).tail, 5);
        flow_restart(flow, sink);
        cr_assert(FLOW_UNTIL(flow, 10, shared[DONE]));
        cr_assert_eq(flow_n_violations(flow), 0);
        flow_close(flow);
}

/* -------- freed together -------- */

static int send_30(tg_node *node, void *arg)
{
        uint8_t bytes[1000];

        for (unsigned i = 0; i < 30; i++) {
                memset(bytes, (int)i, sizeof(bytes));
                NODE_CHECK(tg_send(node, "out", bytes, sizeof(bytes), NULL) == 0);
        }
        shared[SENT] = 1;
        await(DONE, 1);
        return 0;
}

static void in_a_child(tg_node *node, tg_event **events, size_t n)
{
        int status;
        pid_t pid = fork();

        if (pid == 0) {
                size_t none;

                NODE_CHECK(tg_next_batch(node, events, n, &none, 0) == -EOWNERDEAD && none == 0);
                tg_events_free(events, n);
                _exit(0);
        }
        NODE_CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
}

static int close_first(tg_node *node, void *arg)
{
        tg_event *events[32] = {};
        size_t n, m;

        await(SENT, 1);
        NODE_CHECK(tg_next_batch(node, events + 1, 20, &n, TG_FOREVER) == 0 && n == 20);
        in_a_child(node, events, 31);
        events[5] = tg_event_free(events[5]);
        NODE_CHECK(tg_next_batch(node, events + 21, 10, &m, TG_FOREVER) == 0 && m == 10);
        tell(DONE, 1);
        (void)tg_node_close(node);
        for (unsigned i = 0; i < 30; i++)
                if (i != 4)
                        NODE_CHECK(*(const uint8_t *)tg_event_data(events[i + 1]) == i);
        tg_events_free(events, 7);
        tg_events_free(NULL, 0);
        tg_events_free(events + 7, 25);
        _exit(0); /* the harness would close the node again */
}

Test(next_batch, is_freed_at_once_with_gaps_after_the_close_and_in_a_child, .timeout = 60)
{
        int source, sink;

        flow = flow_new();
        shared = flow_shared(flow);
        source = flow_node(flow, "source", send_30, NULL);
        sink = flow_node(flow, "sink", close_first, NULL);
        flow_link(flow, source, flow_output(flow, source, "out", 30, 1000, 60), sink, "in",
                (FlowLinkSpec){.queue_size = 30, .backpressure = true});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 10, ended(sink)));
        flow_close(flow);
}
