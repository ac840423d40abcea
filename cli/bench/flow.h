/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A dataflow of tidegate-bench-node processes under a private instance, as `tidegate run` makes one, and the orders to them. Node 0 is
 * "source"; its output "out" feeds "in" of "sink1", "sink2" ...; "back" of sink1 feeds "back" of the source.
 *
 * When this process dies the guard ends all of them. Everything here has a deadline.
 */
#ifndef TG_CLI_BENCH_FLOW_H
#define TG_CLI_BENCH_FLOW_H

#include <jansson.h>
#include <stdbool.h>

#include "base/clock.h"
#include "cli/bench/board.h"
#include "cli/run-instance.h"

#define FLOW_MAX_NODES (BOARD_MAX_SINKS + 1)

typedef enum BenchPlace {
        BENCH_PLACE_SAME = 0, /* all on one CPU */
        BENCH_PLACE_OTHER,    /* source on one, sinks on another */
        BENCH_PLACE_DEFAULT,  /* nobody says */
        _BENCH_PLACE_MAX,
} BenchPlace;

extern const char *const bench_place_names[_BENCH_PLACE_MAX];

typedef struct BenchFlowSpec {
        unsigned n_sinks;
        BenchPlace place;
        uint32_t queue_size;
        uint64_t pool_size; /* of the source's outputs, bytes; 0: as it comes */
        uint64_t expected;  /* key `expected_message_size` of the source, bytes; 0: not said */
        uint64_t room;      /* for payloads of the raw channels, bytes; memory is used as it is written */
        bool one_output_each; /* reclaim: "o1" feeds sink1, "o2" sink2 ... */
        const char *wait;   /* key `wait` of the nodes; NULL: none */
} BenchFlowSpec;

typedef struct BenchFlow {
        RunInstance instance;
        BenchFlowSpec spec;
        unsigned n_nodes;
        int listen_fd, board_fd, pipe_fds[4], bell_fds[2];
        char socket_name[64];
        struct bench_board *board;
        size_t board_size;
        int fds[FLOW_MAX_NODES];
        pid_t pids[FLOW_MAX_NODES];
        bool accepted, ready, ended, guard_exited;
        bool success;
        char error[512]; /* what went wrong first; "" nothing */
} BenchFlow;

/**
 * bench_flow_open() - start the instance and wait until every node is in the dataflow and waits for orders
 *
 * Return: 0, or a negative errno with flow->error set. bench_flow_close() in any case.
 */
int bench_flow_open(BenchFlow *flow, const BenchFlowSpec *spec);

/**
 * bench_flow_order() - give all nodes one order and wait for all answers
 * @answers: one a node
 * @span:    how long that may take; a node that does not answer is an error
 *
 * The words of the board are set back before. Return: 0, or a negative errno with flow->error set.
 */
int bench_flow_order(BenchFlow *flow, const struct bench_order *order, struct bench_answer *answers, nsec_t span);

/* Parts of it, for those who do something in between. */
void bench_flow_reset(BenchFlow *flow);
int bench_flow_tell(BenchFlow *flow, unsigned node, const struct bench_order *order);
int bench_flow_wait(BenchFlow *flow, const bool *nodes, struct bench_answer *answers, nsec_t deadline); /* of those that are true */
int bench_flow_turn(BenchFlow *flow, nsec_t deadline); /* waits for anything; 1 when the deadline has passed */
int bench_flow_take(BenchFlow *flow, unsigned node, struct bench_answer *answer); /* 0, 1: nothing there, negative */
int bench_flow_fail(BenchFlow *flow, int r, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* bench_flow_close() - the nodes leave, the instance ends; by force when they do not. Return: 0, or a negative errno when something
 * is left or the dataflow failed by itself (not after an error that was told before). */
int bench_flow_close(BenchFlow *flow);

/* bench_cpus() - two CPUs that this process may use, the same one twice if there is only one. */
void bench_cpus(int ret[2]);

/* bench_program() - path of a program that is installed for this command. 0 or a negative errno. */
int bench_program(const char *name, char *ret, size_t size);

#endif
