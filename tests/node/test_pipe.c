/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tidegate-pipe: the built program between pipes of the test and nodes of a flow.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "tests/node/harness.h"

static Flow *flow;
static _Atomic uint64_t *shared;

enum { GOT, HASH, GO, CLOSED };

#define ARGV(...) ((const char *const[]){TIDEGATE_PIPE, __VA_ARGS__, NULL})

typedef struct Ends {
        int theirs, ours;
} Ends;

static Ends pipe_to_it(void)
{
        int fds[2];

        cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
        return (Ends){.theirs = fds[0], .ours = fds[1]};
}

static Ends pipe_from_it(void)
{
        int fds[2];

        cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
        (void)fcntl(fds[0], F_SETFL, O_NONBLOCK);
        return (Ends){.theirs = fds[1], .ours = fds[0]};
}

static void begin(void)
{
        flow = flow_new();
        shared = flow_shared(flow);
}

static bool ended_with(int node, int status)
{
        int s;

        if (!flow_exited(flow, node, &s))
                return false;
        cr_assert_eq(s, status << 8, "node %d ended with %#x", node, (unsigned)s);
        return true;
}

/* What was read so far from a pipe that the flow's turns fill. */
static char *collect(int fd, char *text, size_t size)
{
        size_t n = strlen(text);
        ssize_t r;

        while (n + 1 < size && (r = read(fd, text + n, size - n - 1)) > 0) {
                n += (size_t)r;
                text[n] = '\0';
        }
        return text;
}

/* Takes all; the messages are joined with '|' into the shared page behind the words. */
static int join(tg_node *node, void *arg)
{
        char *text = (char *)(uintptr_t)(shared + 64);
        tg_event *ev;

        while (tg_next(node, &ev, TG_FOREVER) == 0) {
                if (tg_event_type(ev) == TG_EVENT_INPUT) {
                        size_t n = strlen(text);

                        NODE_CHECK(n + tg_event_size(ev) + 2 < (FLOW_SHARED_WORDS - 64) * 8);
                        if (tg_event_size(ev))
                                memcpy(text + n, tg_event_data(ev), tg_event_size(ev));
                        text[n + tg_event_size(ev)] = '|';
                        shared[GOT]++;
                }
                shared[CLOSED] += tg_event_type(ev) == TG_EVENT_INPUT_CLOSED;
                tg_event_free(ev);
                flow_note(flow);
        }
        return 0;
}

static const char *joined(void)
{
        return (const char *)(uintptr_t)(shared + 64);
}

static int send_words(tg_node *node, void *arg)
{
        static const char *const words[] = {"one", "", "three\nlines", "four"};

        for (unsigned i = 0; i < ELEMENTSOF(words); i++)
                NODE_CHECK(tg_send(node, "out", words[i], strlen(words[i]), NULL) == 0);
        return 0;
}

static void sends(const char *const *argv, const char *text, const char *expect)
{
        Ends in = pipe_to_it();
        int a, b;

        begin();
        a = flow_command(flow, "pipe", argv, in.theirs, -1);
        b = flow_node(flow, "sink", join, NULL);
        flow_link(flow, a, flow_output(flow, a, "out", 10, 1000, 20), b, "in", (FlowLinkSpec){.backpressure = true});
        flow_start(flow);
        in.theirs = fd_close(in.theirs);
        cr_assert_eq(write(in.ours, text, strlen(text)), (ssize_t)strlen(text));
        in.ours = fd_close(in.ours);
        cr_assert(FLOW_UNTIL(flow, 10, ended_with(a, 0) && ended_with(b, 0)), "got: %s", joined());
        cr_assert_str_eq(joined(), expect);
        cr_assert_eq(shared[CLOSED], 1);
}

Test(pipe, lines_of_stdin_become_messages, .timeout = 30)
{
        sends(ARGV("--send", "out"), "hello\n\nworld", "hello||world|");
}

Test(pipe, a_newline_at_the_end_makes_no_empty_message, .timeout = 30)
{
        sends(ARGV("--send", "out"), "a\nb\n", "a|b|");
}

Test(pipe, raw_chunks_of_stdin_become_messages, .timeout = 30)
{
        sends(ARGV("--raw", "4", "--send", "out"), "abcdefgh\nx", "abcd|efgh|\nx|");
}

static void receives(const char *const *argv, const char *expect)
{
        Ends out = pipe_from_it();
        char text[200] = "";
        int a, b;

        begin();
        a = flow_node(flow, "source", send_words, NULL);
        b = flow_command(flow, "pipe", argv, -1, out.theirs);
        flow_link(flow, a, flow_output(flow, a, "out", 10, 1000, 20), b, "in", (FlowLinkSpec){.backpressure = true});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 10, ended_with(a, 0) && ended_with(b, 0)));
        cr_assert_str_eq(collect(out.ours, text, sizeof(text)), expect);
}

Test(pipe, messages_become_lines_of_stdout, .timeout = 30)
{
        receives(ARGV("--receive"), "one\n\nthree\nlines\nfour\n");
}

Test(pipe, messages_of_a_named_input_become_raw_bytes, .timeout = 30)
{
        receives(ARGV("--receive", "in", "--raw"), "onethree\nlinesfour");
}

Test(pipe, lines_can_name_their_input, .timeout = 30)
{
        receives(ARGV("--with-id", "--receive"), "in\tone\nin\t\nin\tthree\nlines\nin\tfour\n");
}

Test(pipe, stop_ends_it_in_both_directions, .timeout = 30)
{
        Ends in = pipe_to_it(), out = pipe_from_it();
        int a, b;

        begin();
        a = flow_command(flow, "sends", ARGV("--send", "out"), in.theirs, -1);
        b = flow_command(flow, "receives", ARGV("--receive"), -1, out.theirs);
        flow_link(flow, a, flow_output(flow, a, "out", 10, 1000, 20), b, "in", (FlowLinkSpec){.backpressure = true});
        flow_start(flow);
        flow_stop(flow, a, NSEC_PER_SEC); /* its stdin stays open and silent */
        flow_stop(flow, b, NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(flow, 10, ended_with(a, 0) && ended_with(b, 0)));
}

Test(pipe, nobody_reading_stdout_ends_it_quietly, .timeout = 30)
{
        Ends out = pipe_from_it();
        int a, b;

        begin();
        a = flow_node(flow, "source", send_words, NULL);
        b = flow_command(flow, "pipe", ARGV("--receive"), -1, out.theirs);
        flow_link(flow, a, flow_output(flow, a, "out", 10, 1000, 20), b, "in", (FlowLinkSpec){.backpressure = true});
        flow_spawn(flow);
        (void)fd_close(out.ours);
        (void)fd_close(out.theirs);
        cr_assert(FLOW_UNTIL(flow, 10, ended_with(b, 0)));
}

/* -------- around a command -------- */

static int send_a_lot(tg_node *node, void *arg)
{
        static char bytes[5000];

        memset(bytes, 'x', sizeof(bytes));
        for (unsigned i = 0; i < 2000; i++)
                NODE_CHECK(tg_send(node, "out", bytes, sizeof(bytes), NULL) == 0);
        return 0;
}

static int count_a_lot(tg_node *node, void *arg)
{
        tg_event *ev;

        while (tg_next(node, &ev, TG_FOREVER) == 0) {
                if (tg_event_type(ev) == TG_EVENT_INPUT) {
                        NODE_CHECK(tg_event_size(ev) == 5000 && *(const char *)tg_event_data(ev) == 'y');
                        shared[GOT]++;
                }
                tg_event_free(ev);
        }
        return 0;
}

static int middle(FlowBody source, const char *const *argv, FlowBody sink, int nodes[3])
{
        begin();
        nodes[0] = flow_node(flow, "source", source, NULL);
        nodes[1] = flow_command(flow, "middle", argv, -1, -1);
        nodes[2] = flow_node(flow, "sink", sink, NULL);
        flow_link(flow, nodes[0], flow_output(flow, nodes[0], "out", 10, 5000, 20), nodes[1], "in",
                (FlowLinkSpec){.backpressure = true});
        return flow_link(flow, nodes[1], flow_output(flow, nodes[1], "result", 10, 5000, 20), nodes[2], "in",
                (FlowLinkSpec){.backpressure = true});
}

/* 10 MB through a filter in both directions: far more than both pipes hold, so one that does not poll both locks up. */
Test(pipe, a_command_in_the_middle_gets_and_gives_everything, .timeout = 60)
{
        int nodes[3];

        middle(send_a_lot, ARGV("--receive", "in", "--send", "result", "--", "tr", "x", "y"), count_a_lot, nodes);
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 40, ended_with(nodes[0], 0) && ended_with(nodes[1], 0) && ended_with(nodes[2], 0)),
                "%lu came", (unsigned long)shared[GOT]);
        cr_assert_eq(shared[GOT], 2000);
        flow_close(flow);
}

Test(pipe, a_command_that_reads_only_some_ends_the_node_with_its_status, .timeout = 60)
{
        int nodes[3];

        middle(send_a_lot, ARGV("--receive", "--send", "result", "--", "sh", "-c", "head -c 3; exit 5"), join, nodes);
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 20, ended_with(nodes[1], 5) && ended_with(nodes[2], 0)));
        cr_assert_str_eq(joined(), "xxx|");
        flow_close(flow);
}

/* A grandchild keeps the command's stdout open for ever; the node ends all the same. */
Test(pipe, what_a_command_leaves_running_keeps_nobody_waiting, .timeout = 60)
{
        int nodes[3];

        middle(send_words, ARGV("--receive", "--send", "result", "--", "sh", "-c", "cat; sleep 20 & exit 0"), join, nodes);
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 10, ended_with(nodes[1], 0) && ended_with(nodes[2], 0)));
        cr_assert_str_eq(joined(), "one||three|lines|four|");
        flow_close(flow);
}

Test(pipe, a_command_that_is_not_there_is_told_like_a_shell_does, .timeout = 60)
{
        int nodes[3];

        middle(send_words, ARGV("--receive", "--send", "result", "--", "/no/such/program"), join, nodes);
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 10, ended_with(nodes[1], 127)));
        flow_close(flow);
}

/* -------- started by hand -------- */

Test(pipe, started_by_hand_it_becomes_the_node_it_asks_to_be, .timeout = 30)
{
        Ends in;
        int a, b;

        begin();
        in = pipe_to_it();
        a = flow_dynamic_command(flow, "pipe", ARGV("--send", "out", "--as", "pipe", "--dataflow", "test"), in.theirs, -1);
        b = flow_node(flow, "sink", join, NULL);
        flow_link(flow, a, flow_output(flow, a, "out", 10, 1000, 20), b, "in", (FlowLinkSpec){.backpressure = true});
        flow_by_name(flow);
        flow_listen(flow, true);
        flow_start(flow);
        cr_assert_eq(flow_n_joined(flow), 1);
        in.theirs = fd_close(in.theirs);
        cr_assert_eq(write(in.ours, "by\nhand", 7), 7);
        in.ours = fd_close(in.ours);
        cr_assert(FLOW_UNTIL(flow, 10, ended_with(a, 0) && ended_with(b, 0)), "got: %s", joined());
        cr_assert_str_eq(joined(), "by|hand|");
        flow_close(flow);
}

/* -------- command line -------- */

static int run_it(const char *const *argv)
{
        pid_t pid = fork();
        int status;

        if (pid == 0) {
                (void)!freopen("/dev/null", "w", stderr);
                (void)!freopen("/dev/null", "w", stdout);
                (void)execv(argv[0], (char *const *)(uintptr_t)argv);
                _exit(126);
        }
        cr_assert_eq(waitpid(pid, &status, 0), pid);
        cr_assert(WIFEXITED(status));
        return WEXITSTATUS(status);
}

Test(pipe, usage_errors_exit_with_2_and_help_with_0, .timeout = 30)
{
        cr_assert_eq(run_it(ARGV("--help")), 0);
        cr_assert_eq(run_it((const char *const[]){TIDEGATE_PIPE, NULL}), 2);
        cr_assert_eq(run_it(ARGV("--send")), 2);
        cr_assert_eq(run_it(ARGV("--send", "--raw")), 2);
        cr_assert_eq(run_it(ARGV("--send", "a", "--send", "b")), 2);
        cr_assert_eq(run_it(ARGV("--send", "a", "--receive", "b")), 2);
        cr_assert_eq(run_it(ARGV("--send", "a", "--", "cat")), 2);
        cr_assert_eq(run_it(ARGV("--send", "a", "--raw")), 2);
        cr_assert_eq(run_it(ARGV("--send", "a", "--raw", "0")), 2);
        cr_assert_eq(run_it(ARGV("--send", "a", "--with-id")), 2);
        cr_assert_eq(run_it(ARGV("--receive", "--send", "a", "--")), 2);
        cr_assert_eq(run_it(ARGV("--nonsense")), 2);
        cr_assert_eq(run_it(ARGV("--send", "a", "--as")), 2);
        cr_assert_eq(run_it(ARGV("--send", "a", "--as", "--raw")), 2);
        cr_assert_eq(run_it(ARGV("--send", "a", "--as", "n", "--as", "m")), 2);
        cr_assert_eq(run_it(ARGV("--send", "a", "--dataflow", "d")), 2);
        (void)setenv("TIDEGATE_NODE_SOCKET", "/nonexistent/node.sock", 1);
        cr_assert_eq(run_it(ARGV("--send", "a", "--as", "n")), 1); /* no daemon */
        cr_assert_eq(run_it(ARGV("--send", "a")), 1); /* not started by Tidegate */
}

Test(pipe, unknown_ports_are_named_and_fail, .timeout = 30)
{
        int a;

        begin();
        a = flow_command(flow, "pipe", ARGV("--send", "nonsense"), -1, -1);
        flow_output(flow, a, "out", 10, 100, 4);
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 10, ended_with(a, 1)));
        flow_close(flow);
}
