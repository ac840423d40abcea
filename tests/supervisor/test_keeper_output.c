/* SPDX-License-Identifier: Apache-2.0 */
/* What nodes print: on the log stream, in the log files, and when either of them does not take it. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "hung.h"
#include "keeper_fixture.h"
#include "supervisor/cgroup.h"
#include "supervisor/keeper-stream.h"

__attribute__((visibility("default"))) int main(int argc, char **argv)
{
        return testgroup_main(argc, argv);
}

#define SH(script) ((char *[]){(char *)"/bin/sh", (char *)"-c", (char *)(script), NULL})

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#define SANITIZED __has_feature(address_sanitizer)
#else
#define SANITIZED 0
#endif
#define MEMORY_KIB (SANITIZED ? 128 << 10 : 4 << 10) /* a sanitizer keeps what was freed */
#define SLOWNESS   (SANITIZED ? 4 : 1)

static void run(Fixture *fx, uint32_t node, const char *script)
{
        (void)fx_start(fx, &(FxSpawn){.node = node, .argv = SH(script), .cwd = fx->dir});
}

static void touch(Fixture *fx, const char *name)
{
        char path[512];

        snprintf(path, sizeof(path), "%s/%s", fx->dir, name);
        close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
}

static void wait_over(Fixture *fx, uint32_t node)
{
        cr_assert_eq(fx_wait(fx, KEEPER_MSG_EMPTY)->msg.node, node);
}

typedef struct Log {
        json_t *lines; /* array */
        uint64_t lost; /* as the records about it say */
} Log;

/* Every line of the file must be whole, and JSON. */
static Log read_log(Fixture *fx, const char *id)
{
        char *text = fx_log(fx, id), *at = text, *end;
        Log log = {.lines = json_array()};

        for (; *at; at = end + 1) {
                json_t *line, *lost;

                end = strchr(at, '\n');
                cr_assert(end, "half a line: %s", at);
                line = json_loadb(at, (size_t)(end - at), JSON_ALLOW_NUL, NULL);
                cr_assert(line, "not JSON: %.*s", (int)(end - at), at);
                lost = json_object_get(json_object_get(line, "fields"), "lost_lines");
                log.lost += (uint64_t)json_integer_value(lost);
                if (lost)
                        json_decref(line);
                else
                        json_array_append_new(log.lines, line);
        }
        free(text);
        return log;
}

static const char *field(const Log *log, size_t i, const char *key)
{
        const char *s = json_string_value(json_object_get(json_array_get(log->lines, i), key));

        return s ? s : "(none)";
}

Test(keeper_output, lines_arrive_on_the_stream_and_in_the_file_with_their_stream_and_time, .timeout = 60)
{
        Fixture *fx = fx_new();
        char packet[LOG_MSG_MAX];
        uint64_t before = clock_wall();
        LogMsg line;
        Log log;

        run(fx, 4, "echo one; echo; echo two >&2; while ! [ -e go ]; do sleep 0.01; done; printf 'no newline'");
        for (int i = 0; i < 4; i++) {
                if (i == 3)
                        touch(fx, "go"); /* its two pipes are read in any order */
                fx_line(fx, &line, packet);
                cr_assert_eq(line.type, LOG_MSG_LINE);
                cr_assert_eq(line.node, 4);
                cr_assert_eq(line.count, 0);
                cr_assert(line.wall_ns >= before && line.wall_ns <= clock_wall());
                cr_assert_eq(line.stream, strcmp(line.text, "two") == 0 ? 2 : 1);
        }
        cr_assert_str_eq(line.text, "no newline");
        wait_over(fx, 4);
        cr_assert(fx_end(fx, FX_SPAN));
        log = read_log(fx, "n4");
        cr_assert_eq(json_array_size(log.lines), 4);
        cr_assert_str_eq(field(&log, 3, "message"), "no newline");
        cr_assert_str_eq(field(&log, 0, "node_id"), "n4");
        json_decref(log.lines);
        fx_close(fx);
}

Test(keeper_output, binary_output_is_shown_and_logged_as_valid_text, .timeout = 60)
{
        Fixture *fx = fx_new();
        char packet[LOG_MSG_MAX];
        LogMsg line;
        Log log;

        run(fx, 1, "printf 'a\\000b\\377\\n'; head -c 100000 /dev/urandom; echo; echo end");
        fx_line(fx, &line, packet);
        cr_assert_str_eq(line.text, "a\xef\xbf\xbd"
                                    "b\xff");
        wait_over(fx, 1);
        cr_assert(fx_end(fx, FX_SPAN));
        log = read_log(fx, "n1");
        cr_assert_str_eq(field(&log, json_array_size(log.lines) - 1, "message"), "end");
        json_decref(log.lines);
        fx_close(fx);
}

Test(keeper_output, an_existing_log_is_appended_to_and_half_a_line_in_it_ended, .timeout = 60)
{
        Fixture *fx = fx_new();
        char path[512], *text;
        FILE *f;

        snprintf(path, sizeof(path), "mkdir -p %s", fx->log_dir);
        cr_assert_eq(system(path), 0);
        snprintf(path, sizeof(path), "%s/log_n1.jsonl", fx->log_dir);
        f = fopen(path, "we");
        cr_assert(f && fputs("{\"old\":1}\n{\"ha", f) >= 0);
        fclose(f);
        run(fx, 1, "echo new");
        wait_over(fx, 1);
        cr_assert(fx_end(fx, FX_SPAN));
        text = fx_log(fx, "n1");
        cr_assert_eq(strncmp(text, "{\"old\":1}\n{\"ha\n{\"timestamp\"", 26), 0, "%s", text);
        free(text);
        fx_close(fx);
}

static long keeper_peak_kib(Fixture *fx)
{
        char path[64], line[128];
        long peak = -1;
        FILE *f;

        snprintf(path, sizeof(path), "/proc/%d/status", fx->keeper_pid);
        f = fopen(path, "re");
        cr_assert(f);
        while (fgets(line, sizeof(line), f))
                (void)sscanf(line, "VmHWM: %ld", &peak);
        fclose(f);
        return peak;
}

Test(keeper_output, a_line_without_end_costs_no_memory_and_is_one_line_and_one_note, .timeout = 120)
{
        const long long total = 256ll << 20;
        Fixture *fx = fx_new();
        long before = keeper_peak_kib(fx), after;
        char packet[LOG_MSG_MAX];
        LogMsg line;
        json_t *cut;
        Log log;

        run(fx, 1, "head -c 268435456 /dev/zero | tr '\\0' x; echo; echo after");
        fx_line(fx, &line, packet);
        cr_assert_eq(strlen(line.text), LOG_MSG_TEXT_MAX);
        cr_assert_eq(line.count, (uint64_t)(total - LOG_MSG_TEXT_MAX));
        fx_line(fx, &line, packet);
        cr_assert_str_eq(line.text, "after");
        wait_over(fx, 1);
        cr_assert_eq(fx->n_notes, 1, "%u notes", fx->n_notes);
        cr_assert(strstr(fx->note, "node n1 printed a line of more than 65536 bytes to stdout"), "%s", fx->note);
        after = keeper_peak_kib(fx);
        cr_assert(after - before < MEMORY_KIB, "%ld KiB more", after - before);
        cr_assert(fx_end(fx, FX_SPAN));
        log = read_log(fx, "n1");
        cr_assert_eq(json_array_size(log.lines), 2);
        cr_assert_eq(strlen(field(&log, 0, "message")), LOG_LINE_MAX);
        cut = json_object_get(json_object_get(json_array_get(log.lines, 0), "fields"), "truncated_bytes");
        cr_assert_eq(json_integer_value(cut), total - LOG_LINE_MAX);
        json_decref(log.lines);
        fx_close(fx);
}

Test(keeper_output, somebody_who_holds_stdout_open_delays_nothing, .timeout = 60)
{
        Fixture *fx = fx_new();
        char packet[LOG_MSG_MAX];
        int held = -1;
        LogMsg line;
        nsec_t start;

        (void)fx_start(fx, &(FxSpawn){.node = 1, .argv = SH("printf 'last words'"), .keep_out = &held});
        cr_assert(held >= 0);
        start = clock_now();
        wait_over(fx, 1);
        fx_line(fx, &line, packet);
        cr_assert_str_eq(line.text, "last words");
        fx_reap(fx, 1);
        fx_expect_fds(fx);
        cr_assert(fx_end(fx, FX_SPAN));
        cr_assert(clock_now() - start < 5 * NSEC_PER_SEC);
        close(held);
        fx_close(fx);
}

/*
 * A node has printed "first". The keeper stands still while "second" is written, and then somebody whom a page fault keeps inside write() has the
 * pipe's mutex: what the keeper reads next it reads for ever. Returns who that is; 0: this machine lets nobody.
 */
static pid_t hold_stdout(Fixture *fx)
{
        char number[16], packet[LOG_MSG_MAX], word[8] = "";
        int held = -1, said[2];
        siginfo_t si;
        LogMsg line;
        pid_t pid;

        (void)fx_start(fx, &(FxSpawn){.node = 1, .argv = SH("echo first; exec sleep 1000"), .keep_out = &held});
        fx_line(fx, &line, packet);
        cr_assert_str_eq(line.text, "first");
        cr_assert_eq(kill(fx->keeper_pid, SIGSTOP), 0);
        cr_assert_eq(waitid(P_PID, (id_t)fx->keeper_pid, &si, WSTOPPED), 0);
        cr_assert_eq(write(held, "second\n", 7), 7);
        cr_assert_eq(pipe2(said, O_CLOEXEC), 0);
        snprintf(number, sizeof(number), "%d", held);
        pid = fork();
        cr_assert(pid >= 0);
        if (pid == 0) {
                (void)dup2(said[1], STDOUT_FILENO);
                (void)fcntl(held, F_SETFD, 0);
                execl(helper_path("pipeholder"), "pipeholder", number, NULL);
                _exit(1);
        }
        close(said[1]);
        close(held);
        cr_assert(wait_readable(said[0], FX_SPAN));
        (void)!read(said[0], word, sizeof(word) - 1);
        close(said[0]);
        if (strcmp(word, "ready\n") != 0) {
                int status;

                cr_assert_eq(waitpid(pid, &status, 0), pid);
                cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 77, "%d", status);
                pid = 0;
        }
        cr_assert_eq(kill(fx->keeper_pid, SIGCONT), 0);
        return pid;
}

static void let_go_of_stdout(pid_t pid)
{
        cr_assert_eq(kill(pid, SIGKILL), 0);
        cr_assert_eq(waitpid(pid, NULL, 0), pid);
}

static void skip_if_not_held(Fixture *fx, pid_t pid)
{
        if (pid > 0)
                return;
        fx_kill(fx, 1, FX_SPAN);
        wait_over(fx, 1);
        cr_assert(fx_end(fx, FX_SPAN));
        fx_close(fx);
        cr_skip_test("userfaultfd is not for us");
}

Test(keeper_output, a_pipe_that_nobody_can_read_holds_up_nothing_else_and_is_read_afterwards, .timeout = 60)
{
        Fixture *fx = fx_new();
        pid_t holder = hold_stdout(fx);
        char packet[LOG_MSG_MAX];
        LogMsg line;
        Log log;

        skip_if_not_held(fx, holder);
        run(fx, 2, "echo other");
        wait_over(fx, 2);
        fx_line(fx, &line, packet);
        cr_assert(line.node == 2 && strcmp(line.text, "other") == 0, "%u: %s", line.node, line.text);
        do
                (void)fx_wait(fx, KEEPER_MSG_NOTE);
        while (!strstr(fx->note, "keeps that from being read"));
        let_go_of_stdout(holder);
        for (unsigned i = 0; i < 2; i++) {
                fx_line(fx, &line, packet);
                cr_assert(line.node == 1 && strcmp(line.text, i ? "third" : "second") == 0, "%u: %s", line.node, line.text);
        }
        fx_kill(fx, 1, FX_SPAN);
        wait_over(fx, 1);
        cr_assert(fx_end(fx, FX_SPAN), "lines were lost");
        log = read_log(fx, "n1");
        cr_assert_eq(json_array_size(log.lines), 3);
        json_decref(log.lines);
        fx_close(fx);
}

Test(keeper_output, a_pipe_that_nobody_can_read_is_not_waited_for_at_the_end, .timeout = 60)
{
        Fixture *fx = fx_new();
        pid_t holder = hold_stdout(fx);
        nsec_t began = clock_now();

        skip_if_not_held(fx, holder);
        fx_kill(fx, 1, FX_SPAN);
        wait_over(fx, 1);
        fx_order(fx, &(KeeperMsg){.type = KEEPER_MSG_END, .end = {nsec_add(clock_now(), FX_SPAN)}}, NULL, 0);
        (void)fx_wait(fx, KEEPER_MSG_ENDED);
        cr_assert_lt(clock_now() - began, 10 * NSEC_PER_SEC);
        cr_assert(strstr(fx->note, "keeps that from being read"), "%s", fx->note);
        let_go_of_stdout(holder); /* in whose pipe the keeper's thread still is */
        fx_wait_exit(fx, FX_SPAN, 0);
        fx_close(fx);
}

/* Lines @from .. @to of `seq` are next on the stream, every one of them. */
static void expect_seq(Fixture *fx, uint32_t node, int from, int to)
{
        char packet[LOG_MSG_MAX];
        LogMsg line;

        for (int i = from; i <= to; i++) {
                fx_line(fx, &line, packet);
                cr_assert_eq(line.type, LOG_MSG_LINE, "%llu lines dropped before %d", (unsigned long long)line.count, i);
                cr_assert(line.node == node && atoi(line.text) == i, "%s instead of %d", line.text, i);
        }
}

Test(keeper_output, a_reader_that_reads_gets_every_line_in_order, .timeout = 60)
{
        Fixture *fx = fx_new();

        run(fx, 1, "seq 1 100000"); /* twenty times what the socket holds */
        expect_seq(fx, 1, 1, 100000);
        wait_over(fx, 1);
        cr_assert_eq(fx->n_notes, 0, "%s", fx->note);
        fx_close(fx);
}

Test(keeper_output, a_reader_that_is_slow_but_takes_something_loses_nothing, .timeout = 60)
{
        Fixture *fx = fx_new();
        FxMsg none = {.fd = -1};

        run(fx, 1, "seq 1 20000");
        for (int i = 1; i <= 100; i += 10) { /* twice as long as a reader that takes nothing gets, in all */
                cr_assert(!fx_receive(fx, &none, STREAM_STUCK_SPAN / 5), "the node was not held up");
                expect_seq(fx, 1, i, i + 9);
        }
        expect_seq(fx, 1, 101, 20000);
        wait_over(fx, 1);
        fx_close(fx);
}

static bool is_full(int pipe_fd)
{
        struct pollfd p = {.fd = pipe_fd, .events = POLLOUT};

        return poll(&p, 1, 0) == 0;
}

/* By who writes there. */
static void wait_full(int pipe_fd)
{
        for (nsec_t until = clock_now() + FX_SPAN; !is_full(pipe_fd) && clock_now() < until;)
                (void)poll(NULL, 0, 1);
        cr_assert(is_full(pipe_fd), "the node does not print");
}

/* Bytes that the stream's reader has not taken yet. */
static int unread(Fixture *fx)
{
        int n = -1;

        cr_assert_eq(ioctl(fx->stream, FIONREAD, &n), 0);
        return n;
}

Test(keeper_output, a_reader_that_does_not_read_holds_up_the_nodes_once_and_no_order, .timeout = 60)
{
        Fixture *fx = fx_new();
        nsec_t start = clock_now(), took, cpu;
        uint64_t shown = 0, dropped = 0;
        char packet[LOG_MSG_MAX];
        FxMsg none = {.fd = -1};
        int held = -1, before;
        LogMsg line;
        Log log;

        (void)fx_start(fx, &(FxSpawn){.node = 1, .argv = SH("seq 1 40000"), .cwd = fx->dir, .keep_out = &held});
        wait_full(held);
        do { /* what is read until nothing fits in any more is work, whenever the node comes to print it */
                before = unread(fx);
                cpu = fx_cpu(fx);
                cr_assert(!fx_receive(fx, &none, 100 * NSEC_PER_MSEC), "the node was not held up");
                cpu = fx_cpu(fx) - cpu;
        } while (unread(fx) != before || !is_full(held));
        close(held);
        cr_assert(cpu < 20 * NSEC_PER_MSEC, "the loop spins: %d of 100 ms", (int)(cpu / NSEC_PER_MSEC));
        fx_signal(fx, 99999, SIGTERM);
        (void)fx_expect(fx, KEEPER_MSG_SIGNALLED); /* before the node's end */
        wait_over(fx, 1);
        took = clock_now() - start;
        cr_assert(took >= STREAM_STUCK_SPAN && took < STREAM_STUCK_SPAN + 5 * NSEC_PER_SEC, "%d ms", (int)(took / NSEC_PER_MSEC));
        for (int i = 2; i < 12; i++) /* each of which would be held up by its pipe */
                fx_spawn(fx, &(FxSpawn){.node = (uint32_t)i, .argv = SH("seq 1 40000"), .cwd = fx->dir});
        start = clock_now();
        for (int i = 2; i < 12; i++)
                (void)fx_wait(fx, KEEPER_MSG_EMPTY);
        cr_assert(clock_now() - start < SLOWNESS * 10 * STREAM_STUCK_SPAN, "held up again");
        while (shown + dropped < 11 * 40000) {
                fx_line(fx, &line, packet);
                shown += line.type == LOG_MSG_LINE;
                dropped += line.type == LOG_MSG_DROPPED ? line.count : 0;
        }
        cr_assert_eq(shown + dropped, 11 * 40000);
        cr_assert(dropped > 0);
        run(fx, 12, "seq 1 20000"); /* it reads again */
        expect_seq(fx, 12, 1, 20000);
        (void)fx_wait(fx, KEEPER_MSG_EMPTY);
        cr_assert(fx_end(fx, FX_SPAN));
        log = read_log(fx, "n1");
        cr_assert_eq(json_array_size(log.lines), 40000);
        cr_assert_str_eq(field(&log, 39999, "message"), "40000");
        json_decref(log.lines);
        fx_close(fx);
}

/*
 * Ends the dataflow while @n nodes have filled their pipes and nobody reads; returns how many lines the stream shows or, if this took
 * so long that it has begun to drop, counts.
 */
static unsigned long long end_with_full_pipes(Fixture *fx, uint32_t n, nsec_t *ret_took)
{
        unsigned long long shown = 0;
        char packet[LOG_MSG_MAX];
        siginfo_t si = {};
        int held[8];
        nsec_t start;
        LogMsg line;
        ssize_t size;

        cr_assert_leq(n, ELEMENTSOF(held));
        for (uint32_t i = 0; i < n; i++)
                fx_spawn(fx, &(FxSpawn){.node = i + 1, .argv = SH("while ! [ -e go ]; do sleep 0.01; done; exec seq 1 40000"), .cwd = fx->dir,
                        .keep_out = &held[i]});
        for (uint32_t i = 0; i < n; i++)
                (void)fx_wait(fx, KEEPER_MSG_SPAWNED);
        cr_assert_eq(kill(fx->keeper_pid, SIGSTOP), 0); /* nobody is held up, and lets go again, before all are */
        cr_assert_eq(waitid(P_PID, (id_t)fx->keeper_pid, &si, WSTOPPED), 0);
        touch(fx, "go");
        for (uint32_t i = 0; i < n; i++) {
                wait_full(held[i]);
                close(held[i]);
        }
        fx_kill(fx, KEEPER_NODE_ALL, FX_SPAN);
        cr_assert_eq(kill(fx->keeper_pid, SIGCONT), 0);
        for (uint32_t i = 0; i < n; i++)
                (void)fx_wait(fx, KEEPER_MSG_EMPTY);
        start = clock_now();
        cr_assert(fx_end(fx, FX_SPAN));
        *ret_took = clock_now() - start;
        while ((size = recv(fx->stream, packet, sizeof(packet), MSG_DONTWAIT)) > 0) {
                cr_assert_eq(log_msg_decode(&line, packet, (size_t)size), 0);
                shown += line.type == LOG_MSG_LINE ? 1 : line.count;
        }
        return shown;
}

static unsigned long long count_logged(Fixture *fx, uint32_t n)
{
        unsigned long long logged = 0;
        char id[16];

        for (uint32_t i = 1; i <= n; i++) {
                Log log;

                snprintf(id, sizeof(id), "n%u", i);
                log = read_log(fx, id);
                logged += json_array_size(log.lines);
                json_decref(log.lines);
        }
        return logged;
}

Test(keeper_output, at_the_end_what_is_in_the_pipes_is_left_on_the_stream, .timeout = 60)
{
        Fixture *fx = fx_new();
        unsigned long long shown;
        nsec_t took;

        if (geteuid() != 0)
                cr_skip_test("the larger socket needs a privilege");
        shown = end_with_full_pipes(fx, 1, &took);
        cr_assert_eq(fx->n_notes, 0, "%s", fx->note);
        cr_assert_eq(count_logged(fx, 1), shown);
        fx_close(fx);
}

Test(keeper_output, the_end_waits_a_moment_for_a_reader_that_does_not_read_and_says_what_it_missed, .timeout = 60)
{
        Fixture *fx = fx_new();
        unsigned long long shown, unshown = 0;
        nsec_t took;

        shown = end_with_full_pipes(fx, 8, &took);
        cr_assert(took < STREAM_STUCK_SPAN + 3 * NSEC_PER_SEC, "%d ms", (int)(took / NSEC_PER_MSEC));
        cr_assert_eq(sscanf(fx->note, "%llu lines were not shown", &unshown), 1, "%s", fx->note);
        cr_assert_eq(fx->n_notes, 1);
        cr_assert_eq(count_logged(fx, 8), shown + unshown, "%llu shown, %llu not", shown, unshown);
        fx_close(fx);
}

Test(keeper_output, a_reader_that_is_gone_is_forgotten, .timeout = 60)
{
        Fixture *fx = fx_new();
        Log log;

        fx->stream = fd_close(fx->stream);
        run(fx, 1, "seq 1 1000");
        wait_over(fx, 1);
        cr_assert(fx_end(fx, FX_SPAN));
        log = read_log(fx, "n1");
        cr_assert_eq(json_array_size(log.lines), 1000);
        json_decref(log.lines);
        fx_close(fx);
}

Test(keeper_output, who_looks_on_later_gets_what_is_printed_then_and_holds_up_no_node, .timeout = 60)
{
        Fixture *fx = fx_new();
        KeeperMsg order = {.type = KEEPER_MSG_STREAM};
        char packet[LOG_MSG_MAX];
        FxMsg said = {.fd = -1};
        LogMsg line;
        int pair[2];
        uint64_t n_shown = 0, n_unshown = 0;
        nsec_t began;

        run(fx, 1, "echo before");
        wait_over(fx, 1);
        fx_line(fx, &line, packet);
        cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        fx_order(fx, &order, &pair[1], 1);
        (void)fd_close(pair[1]);
        began = clock_now();
        run(fx, 2, "seq 1 100000");
        wait_over(fx, 2); /* although nobody reads */
        cr_assert_lt(clock_now() - began, 10 * NSEC_PER_SEC);
        fx_order(fx, &(KeeperMsg){.type = KEEPER_MSG_END, .end = {nsec_add(clock_now(), FX_SPAN)}}, NULL, 0);
        do { /* how many were not shown is told once: to the reader, if there is room at the end, or to the supervisor */
                cr_assert(fx_receive(fx, &said, FX_SPAN), "ENDED did not come");
                if (said.msg.type == KEEPER_MSG_UNSHOWN) {
                        cr_assert_eq(said.msg.unshown.node, 2);
                        n_unshown += said.msg.unshown.n_lines;
                }
        } while (said.msg.type != KEEPER_MSG_ENDED);
        for (ssize_t n; (n = recv(pair[0], packet, sizeof(packet), MSG_DONTWAIT)) > 0;) {
                cr_assert_eq(log_msg_decode(&line, packet, (size_t)n), 0);
                cr_assert_eq(line.node, 2, "nothing from before");
                if (line.type == LOG_MSG_DROPPED)
                        n_unshown += line.count;
                else
                        n_shown++;
        }
        cr_assert_gt(n_shown, 100);
        cr_assert_gt(n_unshown, 0);
        cr_assert_eq(n_shown + n_unshown, 100000);
        (void)fd_close(pair[0]);
        fx_wait_exit(fx, FX_SPAN, 0);
        fx_close(fx);
}

Test(keeper_output, a_busy_logger_throttles_the_nodes_and_loses_nothing, .timeout = 60)
{
        Fixture *fx = fx_new();
        pid_t logger = fx_logger(fx);
        FxMsg none = {.fd = -1};
        Log log;

        fx->stream = fd_close(fx->stream); /* which would hold them up too */
        cr_assert_eq(kill(logger, SIGSTOP), 0); /* it is the keeper's unreaped child: the pid is its */
        run(fx, 1, "seq 1 200000");             /* 1.3 MB: more than pipes and buffers hold */
        cr_assert(!fx_receive(fx, &none, 200 * NSEC_PER_MSEC), "the node was not held up");
        fx_expect_idle(fx);
        cr_assert_eq(kill(logger, SIGCONT), 0);
        wait_over(fx, 1);
        cr_assert_eq(fx->n_notes, 0, "%s", fx->note);
        cr_assert(fx_end(fx, FX_SPAN), "lines were lost");
        log = read_log(fx, "n1");
        cr_assert_eq(json_array_size(log.lines), 200000);
        cr_assert_str_eq(field(&log, 199999, "message"), "200000");
        json_decref(log.lines);
        fx_close(fx);
}

Test(keeper_output, a_logger_without_progress_holds_up_nobody_and_what_is_missing_is_counted, .timeout = 60)
{
        Fixture *fx = fx_new();
        pid_t logger = fx_logger(fx);
        nsec_t start = clock_now(), took;
        Log log;

        fx->stream = fd_close(fx->stream); /* which would hold them up too */
        cr_assert_eq(kill(logger, SIGSTOP), 0);
        run(fx, 1, "seq 1 400000");
        wait_over(fx, 1);
        took = clock_now() - start;
        cr_assert(took >= 900 * NSEC_PER_MSEC && took < 10 * NSEC_PER_SEC, "%d ms", (int)(took / NSEC_PER_MSEC));
        cr_assert(strstr(fx->note, "no progress"), "%s", fx->note);
        cr_assert_eq(kill(logger, SIGCONT), 0);
        while (!strstr(fx->note, "written again"))
                (void)fx_wait(fx, KEEPER_MSG_NOTE);
        run(fx, 1 + 1, "echo other");
        wait_over(fx, 2);
        cr_assert(!fx_end(fx, FX_SPAN), "clean although lines were lost");
        log = read_log(fx, "n1");
        cr_assert(log.lost > 0);
        cr_assert_eq(json_array_size(log.lines) + log.lost, 400000, "%zu there, %llu said to be lost",
                json_array_size(log.lines),
                (unsigned long long)log.lost);
        json_decref(log.lines);
        log = read_log(fx, "n2");
        cr_assert_str_eq(field(&log, 0, "message"), "other");
        json_decref(log.lines);
        fx_close(fx);
}

Test(keeper_output, a_logger_on_a_hung_disk_is_killed_at_the_end_and_not_waited_for, .timeout = 60)
{
        Fixture *fx;
        nsec_t start, took;
        Hung h;

        if (!private_mounts())
                cr_skip_test("no private mount namespace or no FUSE");
        fx = fx_open();
        h = hung_start(fx->dir);
        snprintf(fx->log_dir, sizeof(fx->log_dir), "%s/out", h.dir);
        fx_begin(fx);
        run(fx, 1, "echo hello");
        wait_over(fx, 1);
        hung_wait_asked(&h);
        start = clock_now();
        cr_assert(!fx_end(fx, 300 * NSEC_PER_MSEC), "clean although the log is not written");
        took = clock_now() - start;
        cr_assert(took < 4 * NSEC_PER_SEC, "%d ms", (int)(took / NSEC_PER_MSEC));
        hung_end(&h);
        while (waitid(P_ALL, 0, &(siginfo_t){}, WEXITED) == 0) /* node and logger come to us */
                continue;
        fx_close(fx);
}

Test(keeper_output, a_logger_that_dies_is_told_and_nodes_go_on, .timeout = 60)
{
        Fixture *fx = fx_new();

        cr_assert_eq(kill(fx_logger(fx), SIGKILL), 0);
        (void)fx_expect(fx, KEEPER_MSG_NOTE);
        cr_assert(strstr(fx->note, "logger died"), "%s", fx->note);
        run(fx, 1, "seq 1 200000");
        wait_over(fx, 1);
        cr_assert(!fx_end(fx, FX_SPAN));
        fx_close(fx);
}

Test(keeper_output, a_log_directory_that_cannot_be_made_is_one_note_with_the_reason, .timeout = 60)
{
        Fixture *fx = fx_open();

        snprintf(fx->log_dir, sizeof(fx->log_dir), "/proc/version/out");
        fx_begin(fx);
        run(fx, 1, "seq 1 1000; sleep 0.3; seq 1 1000");
        wait_over(fx, 1);
        cr_assert(!fx_end(fx, FX_SPAN));
        cr_assert(strstr(fx->note, "2000 lines are missing in the log files of /proc/version/out"), "%s", fx->note);
        cr_assert_eq(fx->n_notes, 2);
        fx_close(fx);
}

Test(keeper_output, a_full_disk_is_one_note_no_half_lines_and_logging_resumes, .timeout = 60)
{
        char path[80], filler[128];
        Fixture *fx;
        Log log;
        int fd;

        if (!private_mounts())
                cr_skip_test("no private mount namespace");
        fx = fx_open();
        snprintf(path, sizeof(path), "%s/small", fx->dir);
        cr_assert_eq(mkdir(path, 0755), 0);
        cr_assert_eq(mount("none", path, "tmpfs", 0, "size=256k"), 0);
        snprintf(fx->log_dir, sizeof(fx->log_dir), "%s/out", path);
        snprintf(filler, sizeof(filler), "%s/filler", path);
        fd = open(filler, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        cr_assert_eq(ftruncate(fd, 0), 0);
        for (int i = 0; i < 40; i++) {
                char page[4096] = {1};

                cr_assert_eq(write(fd, page, sizeof(page)), 4096);
        }
        close(fd);
        fx_begin(fx);
        run(fx, 1, "seq 1 2000; while ! [ -e go ]; do sleep 0.01; done; echo after");
        if (fx->n_notes == 0) /* else it came before SPAWNED: the node prints as soon as it executes */
                (void)fx_expect(fx, KEEPER_MSG_NOTE);
        cr_assert(strstr(fx->note, "log_n1.jsonl: No space left on device"), "%s", fx->note);
        while (!wait_readable(fx->stream, 0)) /* the first line was read long ago: all 2000 are on their way */
                continue;
        cr_assert_eq(unlink(filler), 0);
        touch(fx, "go");
        wait_over(fx, 1);
        cr_assert(!fx_end(fx, FX_SPAN), "clean although lines were lost");
        log = read_log(fx, "n1");
        cr_assert(log.lost > 0);
        cr_assert_eq(json_array_size(log.lines) + log.lost, 2001, "%zu there, %llu said to be lost",
                json_array_size(log.lines),
                (unsigned long long)log.lost);
        cr_assert_str_eq(field(&log, json_array_size(log.lines) - 1, "message"), "after");
        json_decref(log.lines);
        cr_assert_eq(umount(path), 0);
        fx_close(fx);
}

Test(keeper_output, without_a_log_directory_there_are_no_files_and_the_end_is_clean, .timeout = 60)
{
        Fixture *fx = fx_open();
        char packet[LOG_MSG_MAX];
        LogMsg line;

        fx->log_dir[0] = '\0';
        fx_begin(fx);
        run(fx, 1, "echo only shown");
        fx_line(fx, &line, packet);
        cr_assert_str_eq(line.text, "only shown");
        wait_over(fx, 1);
        fx_close(fx);
}
