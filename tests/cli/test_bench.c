/* SPDX-License-Identifier: Apache-2.0 */
/* What Tidegate is measured against moves every message, in order, with its payload; and the medians are medians. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/doorbell.h"
#include "cli/bench/raw.h"
#include "cli/bench/stats.h"

Test(bench_stats, the_median_is_the_middle_or_between_the_two_in_the_middle)
{
        cr_expect_eq(stats_median((double[]){3, 1, 2}, 3), 2);
        cr_expect_eq(stats_median((double[]){4, 1, 3, 2}, 4), 2.5);
        cr_expect_eq(stats_median((double[]){7}, 1), 7);
        cr_expect_eq(stats_median(NULL, 0), 0);
}

Test(bench_stats, a_percentile_is_a_sample_that_was_there)
{
        Samples all = {};

        for (uint32_t i = 1000; i > 0; i--)
                cr_assert_eq(samples_add(&all, &i, 1), 0);
        stats_sort(all.value, all.n);
        cr_expect_eq(all.n, 1000);
        cr_expect_eq(stats_percentile(all.value, all.n, 0), 1);
        cr_expect_eq(stats_percentile(all.value, all.n, 50), 501);
        cr_expect_eq(stats_percentile(all.value, all.n, 99), 991);
        cr_expect_eq(stats_percentile(all.value, all.n, 99.9), 1000);
        cr_expect_eq(stats_percentile(all.value, all.n, 100), 1000);
        cr_expect_eq(stats_percentile(NULL, 0, 50), 0);
        samples_done(&all);
        cr_expect_null(all.value);
}

typedef struct Case {
        BenchWay way;
        uint64_t size, n;
        unsigned n_sinks;
        bool answered; /* room for one message only */
        bool by_socket; /* the doorbell, as where the kernel has none */
} Case;

typedef struct End {
        Raw raw;
        const Case *c;
        uint64_t n_wrong;
} End;

static void *receive_all(void *arg)
{
        End *end = arg;

        for (uint64_t i = 0; i < end->c->n; i++) {
                nsec_t stamp = 0;

                end->n_wrong += raw_receive(&end->raw, i, &stamp) != 0 || stamp != i + 7;
                if (end->c->answered)
                        end->n_wrong += raw_answer(&end->raw, i) != 0;
        }
        return NULL;
}

static End make_end(const Case *c, struct bench_board *board, size_t room, const int *pipe_fds, const int *bell_fds, unsigned index, unsigned end_index)
{
        End end = {.c = c, .raw = {.board = board, .payload = (uint8_t *)board + BOARD_PAYLOAD, .room = room, .index = index}};

        for (unsigned k = 0; k < 4; k++)
                end.raw.pipe_fds[k] = pipe_fds[k];
        for (unsigned k = 0; k < 2; k++)
                end.raw.bell_fds[k] = bell_fds[k];
        cr_assert_eq(raw_watch_bell(&end.raw, end_index), 0);
        raw_begin(&end.raw, c->way, c->size, c->n_sinks);
        return end;
}

ParameterizedTestParameters(bench_raw, every_message_arrives_in_order)
{
        static Case cases[] = {
                {BENCH_WAY_SPIN, 64, 500, 1, true},
                {BENCH_WAY_FUTEX, 64, 5000, 1, true},
                {BENCH_WAY_FUTEX, 9000, 5000, 1, true},
                {BENCH_WAY_PIPE, 64, 5000, 1, true},
                {BENCH_WAY_PIPE, 9000, 5000, 1, true},
                {BENCH_WAY_BELL, 64, 5000, 1, true},
                {BENCH_WAY_BELL, 9000, 5000, 1, true},
                {BENCH_WAY_BELL, 64, 5000, 1, true, true},
                {BENCH_WAY_RING, 64, 100000, 1, false},
                {BENCH_WAY_DESC, 4096, 100000, 1, false},
                {BENCH_WAY_DESC, 65536, 20000, 1, false}, /* few chunks: the producer waits for them */
                {BENCH_WAY_DESC, 262144, 5000, 1, false}, /* one of them */
                {BENCH_WAY_BCAST, 64, 50000, 1, false},
                {BENCH_WAY_BCAST, 64, 50000, 5, false},
        };

        return cr_make_param_array(Case, cases, sizeof(cases) / sizeof(cases[0]));
}

ParameterizedTest(Case *c, bench_raw, every_message_arrives_in_order, .timeout = 60)
{
        const size_t room = 262144;
        struct bench_board *board = aligned_alloc(BOARD_PAGE, BOARD_PAYLOAD + room);
        pthread_t threads[BOARD_MAX_SINKS];
        End source, sinks[BOARD_MAX_SINKS];
        int pipe_fds[4], bell_fds[2];

        cr_assert_not_null(board);
        memset(board, 0, BOARD_PAYLOAD + room);
        cr_assert(pipe(pipe_fds) == 0 && pipe(pipe_fds + 2) == 0);
        for (unsigned k = 0; k < 2 && !c->by_socket; k++)
                bell_fds[k] = doorbell_make();
        if (c->by_socket || bell_fds[0] < 0 || bell_fds[1] < 0)
                cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, bell_fds), 0);
        source = make_end(c, board, room, pipe_fds, bell_fds, 0, 0);
        for (unsigned k = 0; k < c->n_sinks; k++) {
                sinks[k] = make_end(c, board, room, pipe_fds, bell_fds, k, 1);
                cr_assert_eq(pthread_create(&threads[k], NULL, receive_all, &sinks[k]), 0);
        }
        for (uint64_t i = 0; i < c->n; i++) {
                cr_assert_eq(raw_send(&source.raw, i, i + 7), 0);
                if (c->answered)
                        cr_assert_eq(raw_wait_answer(&source.raw, i), 0);
        }
        for (unsigned k = 0; k < c->n_sinks; k++) {
                cr_assert_eq(pthread_join(threads[k], NULL), 0);
                cr_expect_eq(sinks[k].n_wrong, 0, "%lu of %lu", (unsigned long)sinks[k].n_wrong, (unsigned long)c->n);
        }
        for (unsigned k = 0; k < 4; k++)
                cr_assert_eq(close(pipe_fds[k]), 0);
        for (unsigned k = 0; k < 2; k++)
                cr_assert_eq(close(bell_fds[k]), 0);
        cr_assert_eq(close(source.raw.epoll_fd), 0);
        for (unsigned k = 0; k < c->n_sinks; k++)
                cr_assert_eq(close(sinks[k].raw.epoll_fd), 0);
        free(board);
}
