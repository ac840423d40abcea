/* SPDX-License-Identifier: Apache-2.0 */
/* Who is stuck, who is idle: by a clock of the test's own; then the same of real rings and cursors. */
#include <criterion/criterion.h>

#include "base/cleanup.h"
#include "supervisor/progress.h"
#include "tests/shm/fixture.h"

#define SEC NSEC_PER_SEC

typedef struct Step {
        nsec_t at; /* seconds */
        uint64_t head, tail;
        ProgressHealth health;
        ProgressChange change;
} Step;

static void walk(nsec_t timeout, const Step *steps, size_t n, nsec_t *ret_since)
{
        ProgressLink link;
        ProgressNode node;

        progress_link_begin(&link, 10);
        progress_node_begin(&node, timeout * SEC, 0);
        for (size_t i = 0; i < n; i++) {
                nsec_t now = steps[i].at * SEC;
                ProgressChange change;

                progress_node_round(&node);
                progress_node_add(&node, &link, progress_link_sample(&link, steps[i].head, steps[i].tail, now), now);
                progress_node_add(&node, &link, false, now);
                change = progress_node_judge(&node, now);
                cr_assert_eq(node.health, steps[i].health, "step %zu: %s", i, progress_health_to_string(node.health));
                cr_assert_eq(change, steps[i].change, "step %zu", i);
        }
        *ret_since = node.stuck_since;
}

#define WALK(timeout, ...)                                                                                             \
        ({                                                                                                             \
                static const Step _steps[] = {__VA_ARGS__};                                                            \
                nsec_t _since;                                                                                         \
                walk(timeout, _steps, ELEMENTSOF(_steps), &_since);                                                    \
                _since / SEC;                                                                                          \
        })

Test(progress, a_node_for_which_nothing_waits_is_idle_however_long)
{
        WALK(30, {1, 5, 5, PROGRESS_IDLE, 0}, {1000000, 5, 5, PROGRESS_IDLE, 0});
}

Test(progress, one_that_takes_nothing_for_its_timeout_is_stuck_and_that_is_said_once)
{
        nsec_t since = WALK(30,
                {1, 5, 5, PROGRESS_IDLE, 0},
                {2, 6, 5, PROGRESS_OK, 0},
                {31, 9, 5, PROGRESS_OK, 0},
                {32, 9, 5, PROGRESS_STUCK, PROGRESS_CHANGE_STUCK},
                {33, 12, 5, PROGRESS_STUCK, PROGRESS_CHANGE_NONE},
                {900, 12, 5, PROGRESS_STUCK, PROGRESS_CHANGE_NONE});

        cr_assert_eq(since, 2, "when the first message came");
}

Test(progress, one_that_takes_a_message_resumes_and_that_is_said_once)
{
        nsec_t since = WALK(30,
                {1, 6, 5, PROGRESS_OK, 0},
                {31, 6, 5, PROGRESS_STUCK, PROGRESS_CHANGE_STUCK},
                {40, 8, 6, PROGRESS_OK, PROGRESS_CHANGE_RESUMED},
                {69, 8, 6, PROGRESS_OK, 0},
                {70, 8, 6, PROGRESS_STUCK, PROGRESS_CHANGE_STUCK},
                {71, 8, 8, PROGRESS_IDLE, PROGRESS_CHANGE_RESUMED},
                {72, 8, 8, PROGRESS_IDLE, 0});

        cr_assert_eq(since, 0);
}

Test(progress, a_slow_node_is_not_stuck_while_it_takes_something_now_and_then)
{
        WALK(30, {1, 100, 5, PROGRESS_OK, 0}, {29, 200, 6, PROGRESS_OK, 0}, {58, 300, 7, PROGRESS_OK, 0},
                {87, 400, 8, PROGRESS_OK, 0});
}

Test(progress, without_a_timeout_nobody_is_stuck)
{
        WALK(0, {1, 6, 5, PROGRESS_OK, 0}, {1000000, 6, 5, PROGRESS_OK, 0});
}

Test(progress, what_no_honest_ring_or_cursor_holds_says_nothing)
{
        WALK(30,
                {1, 5, 5, PROGRESS_IDLE, 0},
                {2, UINT64_MAX, 5, PROGRESS_IDLE, 0},  /* a head nobody could have reached */
                {3, 4, 5, PROGRESS_IDLE, 0},           /* that goes back */
                {4, 8, 5, PROGRESS_OK, 0},
                {20, 8, UINT64_MAX, PROGRESS_OK, 0},   /* a tail that pretends: not taken */
                {30, 8, 4, PROGRESS_OK, 0},            /* that goes back: not taken either */
                {34, 8, 5, PROGRESS_STUCK, PROGRESS_CHANGE_STUCK},
                {35, 8, 9, PROGRESS_IDLE, PROGRESS_CHANGE_RESUMED}); /* beyond the head: whatever it is, nothing waits */
}

Test(progress, a_node_with_two_inputs_is_not_stuck_while_it_takes_from_one)
{
        ProgressLink busy, ignored;
        ProgressNode node;

        progress_link_begin(&busy, 10);
        progress_link_begin(&ignored, 10);
        progress_node_begin(&node, 30 * SEC, 0);
        for (nsec_t at = 1; at < 200; at++) {
                nsec_t now = at * SEC;
                uint64_t taken_until = at < 100 ? at : 100;

                progress_node_round(&node);
                progress_node_add(&node, &busy, progress_link_sample(&busy, at + 3, taken_until, now), now);
                progress_node_add(&node, &ignored, progress_link_sample(&ignored, 7000, 1, now), now);
                (void)progress_node_judge(&node, now);
                cr_assert_eq(node.health, at < 130 ? PROGRESS_OK : PROGRESS_STUCK, "at %lu", at);
        }
        cr_assert_eq(node.waiting, 10, "what does not fit the queue does not wait: it was dropped");
        cr_assert_eq(node.stuck_since, 100 * SEC);
}

/* --- of regions --- */

typedef struct Told {
        unsigned n;
        ProgressEvent last;
} Told;

static void tell(const ProgressEvent *event, void *userdata)
{
        Told *told = userdata;

        told->n++;
        told->last = *event;
}

typedef struct Scene { /* node 0 sends to nodes 1 and 2 */
        Fixture fx;
        int ring_fd, cursor_fd[2];
        Progress *progress;
        Told told;
} Scene;

/* The fixture closes its fds once it has mapped them: made here, so that there is one to hand over. */
static void scene_open(Scene *s)
{
        *s = (Scene){.fx.ring.fd = -1};
        must(ring_create(16, &s->fx.ring.fd));
        s->ring_fd = dup(s->fx.ring.fd);
        mapped_open(&s->fx.ring, REGION_RING, ring_size(16));
        must(ring_writer_new(&s->fx.w, &s->fx.ring.rw, FX_MAX_LINKS));
        must(progress_new(&s->progress, 3, 2));
        for (unsigned l = 0; l < 2; l++) {
                Mapped *c = &s->fx.cursor[s->fx.n_links++];

                must(cursor_create(&c->fd));
                s->cursor_fd[l] = dup(c->fd);
                mapped_open(c, REGION_CURSOR, cursor_size());
                must(ring_reader_init(&s->fx.r[l], &s->fx.ring.ro, &c->rw, l + 1, 4, RING_BACKPRESSURE));
                must(ring_writer_attach(s->fx.w, &(RingLinkSpec){.id = l + 1, .queue_size = 4,
                        .policy = RING_BACKPRESSURE, .cursor = &c->ro}));
                must(ring_reader_start(&s->fx.r[l]));
        }
}

static void scene_watch(Scene *s, nsec_t timeout)
{
        for (uint32_t l = 0; l < 2; l++) {
                cr_assert_eq(progress_open(s->progress, l, &(ProgressLinkSpec){.source = 0, .target = l + 1,
                        .number = l + 1, .queue_size = 4,
                        .ring_fd = s->ring_fd, .cursor_fd = s->cursor_fd[l],
                        .ring_size = ring_size(16)}),
                        0);
                progress_begin(s->progress, l + 1, timeout, 0);
        }
        progress_begin(s->progress, 0, timeout, 0);
}

static void scene_close(Scene *s)
{
        s->progress = progress_free(s->progress);
        (void)fd_close(s->ring_fd);
        (void)fd_close(s->cursor_fd[0]);
        (void)fd_close(s->cursor_fd[1]);
        s->fx.has_pool = false;
        fixture_close(&s->fx);
}

Test(progress, a_stuck_consumer_is_told_once_and_its_producer_names_whom_it_waits_for, .timeout = 10)
{
        nsec_t since = 0;
        RingBlock block;
        Scene s;

        scene_open(&s);
        scene_watch(&s, 30 * SEC);
        progress_look(s.progress, 1 * SEC, tell, &s.told);
        cr_assert_eq(progress_state(s.progress, 1).health, PROGRESS_IDLE);
        for (unsigned i = 0; i < 4; i++) {
                cr_assert_eq(fx_send(&s.fx, i), 0);
                cr_assert_eq(fx_take(&s.fx, 1, NULL), i, "node 2 keeps up");
        }
        cr_assert_eq(ring_writer_arm(s.fx.w, 1, 0, &block), RING_E_FULL, "no room in the queue of node 1");
        progress_look(s.progress, 2 * SEC, tell, &s.told);
        cr_assert_eq(progress_state(s.progress, 1).health, PROGRESS_OK);
        cr_assert_eq(progress_state(s.progress, 1).waiting, 4);
        cr_assert_eq(s.told.n, 0);
        progress_look(s.progress, 32 * SEC, tell, &s.told);
        progress_look(s.progress, 33 * SEC, tell, &s.told);
        cr_assert_eq(s.told.n, 1);
        cr_assert_eq(s.told.last.node, 1);
        cr_assert_eq(s.told.last.change, PROGRESS_CHANGE_STUCK);
        cr_assert_eq(s.told.last.since, 2 * SEC);
        cr_assert_eq(s.told.last.n_stuck, 1);
        cr_assert_eq(progress_state(s.progress, 0).waits_for, 1);
        cr_assert_eq(progress_state(s.progress, 2).health, PROGRESS_IDLE);
        cr_assert(progress_overdue(s.progress, 1, 31 * SEC, 33 * SEC));
        cr_assert(!progress_overdue(s.progress, 1, 31 * SEC, 33 * SEC - 1));
        progress_forgive(s.progress, 3 * SEC);
        cr_assert(!progress_overdue(s.progress, 1, 31 * SEC, 36 * SEC - 1), "nobody ran for three of these seconds");
        cr_assert(progress_overdue(s.progress, 1, 31 * SEC, 36 * SEC));
        progress_forgive(s.progress, SEC);
        cr_assert(!progress_overdue(s.progress, 1, 31 * SEC, 37 * SEC - 1), "nor for another one");
        progress_forgive(s.progress, 0);
        cr_assert(progress_overdue(s.progress, 1, 31 * SEC, 37 * SEC));
        cr_assert(!progress_overdue(s.progress, 2, 1, 33 * SEC), "it keeps up");
        cr_assert_eq(progress_n_stuck(s.progress, &since), 1);
        cr_assert_eq(since, 2 * SEC);

        cr_assert_eq(fx_take(&s.fx, 0, NULL), 0);
        ring_writer_disarm(s.fx.w);
        progress_look(s.progress, 34 * SEC, tell, &s.told);
        cr_assert_eq(s.told.n, 2);
        cr_assert_eq(s.told.last.change, PROGRESS_CHANGE_RESUMED);
        cr_assert_eq(s.told.last.since, 2 * SEC, "of the time that is over");
        cr_assert_eq(s.told.last.n_stuck, 0);
        cr_assert(!progress_overdue(s.progress, 1, 1, 60 * SEC));
        cr_assert_eq(progress_state(s.progress, 0).waits_for, PROGRESS_NOBODY);
        scene_close(&s);
}

Test(progress, a_stuck_node_that_ends_says_nothing_and_its_successor_begins_afresh, .timeout = 10)
{
        Scene s;

        scene_open(&s);
        scene_watch(&s, 30 * SEC);
        cr_assert_eq(fx_send(&s.fx, 1), 0);
        progress_look(s.progress, 1 * SEC, tell, &s.told);
        progress_look(s.progress, 31 * SEC, tell, &s.told);
        cr_assert_eq(s.told.last.n_stuck, 2, "neither took it");
        progress_end(s.progress, 1);
        progress_close(s.progress, 0);
        progress_look(s.progress, 32 * SEC, tell, &s.told);
        cr_assert_eq(s.told.n, 2);
        cr_assert_eq(progress_n_stuck(s.progress, NULL), 1);
        progress_begin(s.progress, 1, 30 * SEC, 32 * SEC);
        progress_look(s.progress, 33 * SEC, tell, &s.told);
        cr_assert_eq(progress_state(s.progress, 1).health, PROGRESS_IDLE);
        scene_close(&s);
}

/* Two rings, from node 0 to node 1 and, if @back, the other way round; each queue is full and its producer waits for room. */
static void blame(bool back, bool *ret_first, bool *ret_second)
{
        Scene s[2];
        Progress *progress;
        RingBlock block;

        cr_assert_eq(progress_new(&progress, 3, 2), 0);
        for (uint32_t i = 0; i < 2; i++) {
                uint32_t source = i == 0 ? 0 : back ? 1 : 2;

                scene_open(&s[i]);
                cr_assert_eq(progress_open(progress, i, &(ProgressLinkSpec){.source = source, .target = i == 0 ? 1 : 0, .number = 1, .queue_size = 4,
                                                                .ring_fd = s[i].ring_fd, .cursor_fd = s[i].cursor_fd[0], .ring_size = ring_size(16)}),
                        0);
                for (unsigned k = 0; k < 4; k++) {
                        cr_assert_eq(fx_send(&s[i].fx, k), 0);
                        cr_assert_eq(fx_take(&s[i].fx, 1, NULL), k);
                }
                cr_assert_eq(ring_writer_arm(s[i].fx.w, 1, 0, &block), RING_E_FULL);
        }
        for (uint32_t i = 0; i < 2; i++)
                progress_begin(progress, i, 30 * SEC, 0);
        progress_look(progress, 1 * SEC, tell, &s[0].told);
        progress_look(progress, 31 * SEC, tell, &s[0].told);
        cr_assert_eq(progress_n_stuck(progress, NULL), 2);
        *ret_first = progress_overdue(progress, 0, 30 * SEC, 31 * SEC);
        *ret_second = progress_overdue(progress, 1, 30 * SEC, 31 * SEC);
        (void)progress_free(progress);
        for (uint32_t i = 0; i < 2; i++)
                scene_close(&s[i]);
}

Test(progress, a_stuck_node_that_waits_for_another_is_not_to_blame, .timeout = 10)
{
        bool first, second;

        blame(false, &first, &second);
        cr_assert(!first, "node 0 waits for room in the queue of node 1");
        cr_assert(second, "which waits for nobody");
}

/* A send that waits clears its word for a moment each time it tries again, and before its node takes the next message. */
Test(progress, who_has_waited_for_another_is_to_blame_for_what_it_does_after_that_alone, .timeout = 10)
{
        RingBlock block;
        Scene s;

        scene_open(&s);
        scene_watch(&s, 1 * SEC);
        /* Node 1 reads from node 0, whom we let wait for node 2 as if it read from node 1. */
        must(progress_open(s.progress, 1, &(ProgressLinkSpec){.source = 1, .target = 2, .number = 2, .queue_size = 4, .ring_fd = s.ring_fd, .cursor_fd = s.cursor_fd[1], .ring_size = ring_size(16)}));
        for (unsigned i = 0; i < 4; i++) {
                cr_assert_eq(fx_send(&s.fx, i), 0);
                if (i < 3)
                        cr_assert_eq(fx_take(&s.fx, 0, NULL), i, "one is left to node 1");
        }
        cr_assert_eq(ring_writer_arm(s.fx.w, 1, 0, &block), RING_E_FULL, "no room in the queue of node 2");
        for (unsigned t = 1; t <= 30; t++)
                progress_look(s.progress, t * SEC, tell, &s.told);
        cr_assert_eq(progress_state(s.progress, 1).health, PROGRESS_STUCK);
        cr_assert_eq(progress_state(s.progress, 1).waits_for, 2);
        cr_assert(!progress_overdue(s.progress, 1, 5 * SEC, 30 * SEC));

        ring_writer_disarm(s.fx.w);
        progress_look(s.progress, 31 * SEC, tell, &s.told);
        cr_assert_eq(progress_state(s.progress, 1).health, PROGRESS_STUCK);
        cr_assert_eq(progress_state(s.progress, 1).waits_for, PROGRESS_NOBODY);
        cr_assert(!progress_overdue(s.progress, 1, 5 * SEC, 31 * SEC), "it waited a second ago");
        progress_excuse(s.progress, 1, 31 * SEC);
        progress_look(s.progress, 35 * SEC, tell, &s.told);
        cr_assert(!progress_overdue(s.progress, 1, 5 * SEC, 35 * SEC), "for somebody who is not seen here");
        progress_look(s.progress, 36 * SEC, tell, &s.told);
        cr_assert(progress_overdue(s.progress, 1, 5 * SEC, 36 * SEC), "since then it has had the whole span");
        scene_close(&s);
}

Test(progress, nodes_that_wait_for_each_other_are_both_to_blame, .timeout = 10)
{
        bool first, second;

        blame(true, &first, &second);
        cr_assert(first && second);
}

/* CPU time of a look at a line of so many nodes, each of which waits for room in the queue of the next one. */
static uint64_t time_of_look(uint32_t n)
{
        Progress *progress;
        uint64_t best = UINT64_MAX;
        RingBlock block;
        Told told = {};
        Scene s;

        scene_open(&s);
        for (unsigned i = 0; i < 4; i++) {
                cr_assert_eq(fx_send(&s.fx, i), 0);
                cr_assert_eq(fx_take(&s.fx, 1, NULL), i);
        }
        cr_assert_eq(ring_writer_arm(s.fx.w, 1, 0, &block), RING_E_FULL);
        must(progress_new(&progress, n, n - 1));
        for (uint32_t i = 0; i < n - 1; i++) { /* the ring is the same: it says that its link 1 is full */
                must(progress_open(progress, i, &(ProgressLinkSpec){.source = i, .target = i + 1, .number = 1, .queue_size = 4,
                                                        .ring_fd = s.ring_fd, .cursor_fd = s.cursor_fd[0], .ring_size = ring_size(16)}));
                progress_begin(progress, i + 1, 30 * SEC, 0);
        }
        for (unsigned i = 0; i < 5; i++) {
                struct timespec begin, end;

                (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
                progress_look(progress, i * 31 * SEC, tell, &told);
                (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
                best = MIN(best, (uint64_t)(end.tv_sec - begin.tv_sec) * NSEC_PER_SEC + (uint64_t)end.tv_nsec - (uint64_t)begin.tv_nsec);
        }
        cr_assert_eq(told.n, n - 1, "all are stuck");
        cr_assert_eq(told.last.n_stuck, n - 1);
        cr_assert_eq(progress_state(progress, 1).waits_for, 2);
        cr_assert(!progress_overdue(progress, 1, SEC, 4 * 31 * SEC));
        cr_assert(progress_overdue(progress, n - 1, SEC, 4 * 31 * SEC), "it alone waits for nobody");
        (void)progress_free(progress);
        scene_close(&s);
        return best;
}

Test(progress, a_line_of_many_that_wait_takes_so_many_times_as_long_as_a_short_one, .timeout = 60)
{
        uint64_t few = time_of_look(500), many = time_of_look(4000);

        cr_assert_lt(many, 32 * few, "8 times as many: %llu ns, and %llu ns", (unsigned long long)few, (unsigned long long)many);
}

/* As they would be asked of one after the other. */
Test(progress, who_waits_for_a_circle_is_excused_and_who_is_in_it_is_not, .timeout = 10)
{
        static const uint32_t waits_for[] = {1, 2, 0, 1, 3, 5, 5}; /* a circle of three, a line to it, one that waits for itself, one that does for that */
        static const bool blamed[] = {true, true, true, false, false, true, false};
        Progress *progress;
        RingBlock block;
        Told told = {};
        Scene s;

        scene_open(&s);
        for (unsigned i = 0; i < 4; i++) {
                cr_assert_eq(fx_send(&s.fx, i), 0);
                cr_assert_eq(fx_take(&s.fx, 1, NULL), i);
        }
        cr_assert_eq(ring_writer_arm(s.fx.w, 1, 0, &block), RING_E_FULL);
        must(progress_new(&progress, ELEMENTSOF(waits_for), 2 * ELEMENTSOF(waits_for)));
        for (uint32_t i = 0; i < ELEMENTSOF(waits_for); i++) {
                ProgressLinkSpec spec = {.source = i, .target = waits_for[i], .number = 1, .queue_size = 4, .ring_fd = s.ring_fd, .cursor_fd = s.cursor_fd[0], .ring_size = ring_size(16)};

                must(progress_open(progress, i, &spec));
                spec.source = waits_for[i];
                spec.target = i;
                spec.number = 2; /* so that something waits for everybody */
                must(progress_open(progress, (uint32_t)ELEMENTSOF(waits_for) + i, &spec));
                progress_begin(progress, i, 30 * SEC, 0);
        }
        progress_look(progress, SEC, tell, &told);
        progress_look(progress, 31 * SEC, tell, &told);
        for (uint32_t i = 0; i < ELEMENTSOF(waits_for); i++) {
                cr_expect_eq(progress_state(progress, i).health, PROGRESS_STUCK);
                cr_expect_eq(progress_overdue(progress, i, 30 * SEC, 31 * SEC), blamed[i], "node %u", i);
        }
        (void)progress_free(progress);
        scene_close(&s);
}

Test(progress, nobody_wakes_up_while_there_is_nothing_to_see, .timeout = 10)
{
        Scene s;

        scene_open(&s);
        cr_assert_eq(progress_next(s.progress, 5 * SEC), NSEC_NEVER, "no link is open");
        scene_watch(&s, 0);
        cr_assert_eq(progress_next(s.progress, 5 * SEC), NSEC_NEVER, "nobody has a timeout");
        progress_begin(s.progress, 1, 60 * SEC, 0);
        cr_assert_eq(progress_next(s.progress, 5 * SEC + 1), 8 * SEC, "nothing waits: seldom, and all at the same moment");
        cr_assert_eq(fx_send(&s.fx, 1), 0);
        progress_look(s.progress, 8 * SEC, tell, &s.told);
        cr_assert_eq(progress_next(s.progress, 8 * SEC + 1), 9 * SEC);
        progress_begin(s.progress, 1, 2 * SEC, 0);
        cr_assert_eq(progress_next(s.progress, 9 * SEC), 9 * SEC + SEC / 4, "a short timeout is watched more closely");
        progress_end(s.progress, 1);
        cr_assert_eq(progress_next(s.progress, 9 * SEC), NSEC_NEVER);
        scene_close(&s);
}

Test(progress, a_region_that_is_not_what_it_should_be_costs_the_sight_of_its_link_only, .timeout = 10)
{
        ProgressLinkSpec spec = {.source = 0, .target = 1, .number = 1, .queue_size = 4, .ring_size = ring_size(16)};
        Scene s;

        scene_open(&s);
        spec.ring_fd = s.cursor_fd[0];
        spec.cursor_fd = s.cursor_fd[0];
        cr_assert_neq(progress_open(s.progress, 0, &spec), 0, "a cursor is no ring");
        spec.ring_fd = s.ring_fd;
        spec.cursor_fd = s.ring_fd;
        cr_assert_neq(progress_open(s.progress, 0, &spec), 0);
        cr_assert_eq(progress_next(s.progress, SEC), NSEC_NEVER);
        progress_look(s.progress, SEC, tell, &s.told);
        scene_close(&s);
}

Test(progress, a_ring_and_a_cursor_full_of_nonsense_do_no_harm, .timeout = 10)
{
        Scene s;

        scene_open(&s);
        scene_watch(&s, 30 * SEC);
        memset((char *)s.fx.ring.rw.map + sizeof(struct region_header), 0xff, s.fx.ring.rw.size - sizeof(struct region_header));
        memset((char *)s.fx.cursor[0].rw.map + sizeof(struct region_header), 0xff,
                sizeof(struct cursor_shared) - sizeof(struct region_header));
        for (nsec_t at = 1; at < 100; at++)
                progress_look(s.progress, at * SEC, tell, &s.told);
        cr_assert_eq(s.told.n, 0, "nobody is blamed for it");
        cr_assert_eq(progress_state(s.progress, 0).waits_for, PROGRESS_NOBODY);
        scene_close(&s);
}
