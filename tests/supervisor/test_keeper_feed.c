/* SPDX-License-Identifier: Apache-2.0 */
/* What the keeper says of its logger: a real one, stopped and let go, and a clock that the test sets. */
#include <criterion/criterion.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "supervisor/keeper-feed.h"

#define SPAN (20 * NSEC_PER_SEC)

static struct {
        KeeperLoop loop;
        Feed feed;
        unsigned n_notes;
        char note[256]; /* the last one */
} fx;

static char *dir; /* of the log */

static void on_note(void *userdata, const char *text)
{
        fx.n_notes++;
        (void)snprintf(fx.note, sizeof(fx.note), "%s", text);
}

static const FeedOps ops = {.note = on_note};

static void begin(void)
{
        static char path[] = "/tmp/tidegate-feed-XXXXXX";
        LoggerConfig config = {.uid = getuid(), .gid = getgid()};

        dir = mkdtemp(path);
        cr_assert_not_null(dir);
        config.log_dir = dir;
        cr_assert_eq(keeper_loop_init(&fx.loop), 0);
        cr_assert_eq(feed_start(&fx.feed, &fx.loop, &config, &ops, NULL), 0);
        cr_assert(feed_node(&fx.feed, 0, "n"));
}

static void stop_logger(void)
{
        siginfo_t si;

        cr_assert_eq(kill(fx.feed.pid, SIGSTOP), 0); /* our unreaped child: the pid is its */
        cr_assert_eq(waitid(P_PID, (id_t)fx.feed.pid, &si, WSTOPPED), 0);
}

static void fill_pipe(void)
{
        char line[1000];

        memset(line, 'x', sizeof(line));
        for (unsigned i = 0; i < 10000 && !fx.feed.blocked; i++) {
                cr_assert(feed_line(&fx.feed, 0, 1, 1, line, sizeof(line), 0));
                feed_flush(&fx.feed);
        }
        cr_assert(feed_throttles(&fx.feed));
}

static void end(void)
{
        nsec_t until = nsec_add(clock_now(), SPAN);
        char log[128];

        feed_close(&fx.feed);
        while (!feed_ended(&fx.feed)) {
                cr_assert_lt(clock_now(), until, "the logger did not end");
                cr_assert_eq(keeper_loop_turn(&fx.loop, until), 0);
        }
        feed_done(&fx.feed);
        keeper_loop_done(&fx.loop);
        (void)snprintf(log, sizeof(log), "%s/log_n.jsonl", dir);
        cr_assert_eq(unlink(log), 0);
        cr_assert_eq(rmdir(dir), 0);
}

static void becomes_stuck(void)
{
        stop_logger();
        fill_pipe();
        feed_tick(&fx.feed, nsec_add(feed_deadline(&fx.feed), 1));
        cr_assert(fx.feed.stuck);
        cr_assert(!feed_throttles(&fx.feed));
        cr_assert_eq(fx.n_notes, 1);
        cr_assert(strstr(fx.note, "no progress"), "%s", fx.note);
        cr_assert(!feed_line(&fx.feed, 0, 1, 1, "lost", 4, 0));
        cr_assert_eq(kill(fx.feed.pid, SIGCONT), 0);
}

Test(keeper_feed, says_that_it_writes_again_when_the_pipe_tells_it, .timeout = 60)
{
        nsec_t until;

        begin();
        becomes_stuck();
        until = nsec_add(clock_now(), SPAN);
        while (fx.n_notes < 2) {
                cr_assert_lt(clock_now(), until, "nothing was said");
                cr_assert_eq(keeper_loop_turn(&fx.loop, until), 0);
        }
        cr_assert_str_eq(fx.note, "log files are written again; 1 lines were dropped");
        end();
        cr_assert_eq(fx.n_notes, 2);
}

/* A node's line flushes as well, and may be the first to find room. */
Test(keeper_feed, says_that_it_writes_again_when_a_line_finds_room_first, .timeout = 60)
{
        nsec_t until;

        begin();
        becomes_stuck();
        until = nsec_add(clock_now(), SPAN);
        while (fx.feed.blocked) {
                cr_assert_lt(clock_now(), until, "the logger took nothing");
                feed_flush(&fx.feed);
        }
        cr_assert_eq(fx.n_notes, 2);
        cr_assert_str_eq(fx.note, "log files are written again; 1 lines were dropped");
        end();
        cr_assert_eq(fx.n_notes, 2);
}

Test(keeper_feed, says_nothing_of_a_pipe_that_was_full_for_a_moment, .timeout = 60)
{
        nsec_t until;

        begin();
        stop_logger();
        fill_pipe();
        feed_tick(&fx.feed, feed_deadline(&fx.feed) - 1);
        cr_assert(!fx.feed.stuck);
        cr_assert_eq(kill(fx.feed.pid, SIGCONT), 0);
        until = nsec_add(clock_now(), SPAN);
        while (fx.feed.blocked) {
                cr_assert_lt(clock_now(), until, "the logger took nothing");
                cr_assert_eq(keeper_loop_turn(&fx.loop, until), 0);
        }
        cr_assert(!feed_throttles(&fx.feed));
        end();
        cr_assert_eq(fx.n_notes, 0, "%s", fx.note);
        cr_assert(feed_clean(&fx.feed));
}

/* The keeper does in a turn what may take its time, and looks at the clock before it looks at the pipe. */
Test(keeper_feed, does_not_take_for_hung_whom_it_did_not_look_at, .timeout = 60)
{
        struct pollfd p = {.events = POLLOUT};
        nsec_t until;

        begin();
        stop_logger();
        fill_pipe();
        cr_assert_eq(kill(fx.feed.pid, SIGCONT), 0);
        p.fd = fx.feed.pipe_fd;
        cr_assert_eq(poll(&p, 1, (int)(SPAN / NSEC_PER_MSEC)), 1, "the logger took nothing");
        feed_tick(&fx.feed, nsec_add(feed_deadline(&fx.feed), 1));
        cr_assert(!fx.feed.stuck);
        until = nsec_add(clock_now(), SPAN);
        while (fx.feed.blocked) {
                cr_assert_lt(clock_now(), until, "the logger took nothing");
                cr_assert_eq(keeper_loop_turn(&fx.loop, until), 0);
        }
        end();
        cr_assert_eq(fx.n_notes, 0, "%s", fx.note);
        cr_assert(feed_clean(&fx.feed));
}
