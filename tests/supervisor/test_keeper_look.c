/* SPDX-License-Identifier: Apache-2.0 */
/* Who is left, as a keeper tells it: what is no proof of anything, what is counted, and what is said of whom. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/task.h"
#include "hung.h"
#include "keeper_fixture.h"

#define ARGV(...)  ((char *[]){__VA_ARGS__, NULL})
#define SH(script) ARGV((char *)"/bin/sh", (char *)"-c", (char *)(script))

static const KeeperMsg look = {.type = KEEPER_MSG_LOOK, .node = 1, .generation = 1};

static FxMsg *look_now(Fixture *fx)
{
        fx_order(fx, &look, NULL, 0);
        return fx_wait(fx, KEEPER_MSG_LEFT); /* FROZEN may come before it */
}

/* Until it says so. */
static FxMsg *look_until(Fixture *fx, const char *text)
{
        nsec_t until = clock_now() + FX_SPAN;
        FxMsg *m = look_now(fx);

        while (!strstr(fx_left(m), text) && clock_now() < until)
                m = look_now(fx);
        cr_assert(strstr(fx_left(m), text), "%s", fx_left(m));
        return m;
}

/* A file of the cgroup of node 1. */
static void write_file(const Fixture *fx, const char *name, const char *text)
{
        char path[1200];
        int fd;

        (void)snprintf(path, sizeof(path), "%s/n1.1/%s", fx->dataflow, name);
        fd = open(path, O_WRONLY | O_CLOEXEC);
        cr_assert_geq(fd, 0, "%s", path);
        cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text), "%s", path);
        close(fd);
}

static void is_over(Fixture *fx)
{
        FxMsg *m;

        fx_kill(fx, 1, FX_SPAN);
        do {
                m = fx_wait(fx, KEEPER_MSG_EMPTY);
        } while (m->msg.node != 1);
        cr_assert(m->msg.empty.removed);
        cr_assert_eq(look_now(fx)->msg.left.n, 0);
}

Test(keeper_look, the_parent_of_a_vfork_shows_d_and_dies, .timeout = 60)
{
        char packet[LOG_MSG_MAX];
        Fixture *fx = fx_new();
        LogMsg line;
        FxMsg *m;

        (void)fx_start(fx, &(FxSpawn){.node = 1, .argv = ARGV(helper_path("vforker"))});
        fx_line(fx, &line, packet);
        m = look_until(fx, "(vforker) state D"); /* its child may be faster than it falls asleep */
        cr_assert_eq(m->msg.left.n, 2, "%s", fx_left(m));
        cr_assert(strstr(fx_left(m), "in vfork"), "%s", fx_left(m));
        is_over(fx);
        fx_close(fx);
}

Test(keeper_look, a_frozen_process_is_said_to_be_frozen_and_dies, .timeout = 60)
{
        char packet[LOG_MSG_MAX];
        Fixture *fx = fx_new();
        LogMsg line;
        FxMsg *m;

        (void)fx_start(fx, &(FxSpawn){.node = 1, .argv = SH("trap '' TERM; echo ready; while :; do sleep 1000; done")});
        fx_line(fx, &line, packet);
        m = look_now(fx);
        cr_assert(!strstr(fx_left(m), "frozen"), "%s", fx_left(m));
        write_file(fx, "cgroup.freeze", "1");
        (void)look_until(fx, ", frozen");
        is_over(fx);
        fx_close(fx);
}

/* Why somebody waits, asked with --freeze. */
static void ask_why(Fixture *fx)
{
        const KeeperMsg why = {.type = KEEPER_MSG_WHY, .node = 1, .generation = 1, .why = {.asked = 7, .deadline_ns = nsec_add(clock_now(), 5 * NSEC_PER_SEC), .freeze = 1}};
        int context = memfd_create("context", MFD_CLOEXEC);

        cr_assert_eq(write(context, "{}", 2), 2);
        fx_order(fx, &why, &context, 1);
        close(context);
}

static bool is_frozen(const Fixture *fx)
{
        char path[1200], text = '?';
        int fd;

        (void)snprintf(path, sizeof(path), "%s/n1.1/cgroup.freeze", fx->dataflow);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        cr_assert_eq(read(fd, &text, 1), 1, "%s", path);
        close(fd);
        return text == '1';
}

/* For whoever is told of it, it may be the look itself that froze it. */
Test(keeper_look, who_is_frozen_while_it_is_looked_at_is_said_to_be_so_afterwards_if_it_stays, .timeout = 60)
{
        bool said = false, looked = false, frozen = false;
        char packet[LOG_MSG_MAX];
        Fixture *fx = fx_new();
        FxMsg m = {.fd = -1};
        LogMsg line;
        nsec_t until;

        (void)fx_start(fx, &(FxSpawn){.node = 1, .argv = SH("echo ready; sleep 1000; exit 1")});
        fx_line(fx, &line, packet);
        until = clock_now() + FX_SPAN;
        ask_why(fx);
        fx_order(fx, &look, NULL, 0); /* it knows of the question once this is answered */
        while (!said || !frozen) {
                cr_assert_lt(clock_now(), until, "%s", said ? "it is not said to be frozen" : "nothing is said");
                if (looked && !is_frozen(fx)) /* also when the look had frozen it by then, and thawed it */
                        write_file(fx, "cgroup.freeze", "1");
                if (!fx_receive(fx, &m, 10 * NSEC_PER_MSEC))
                        continue;
                looked = looked || m.msg.type == KEEPER_MSG_LEFT;
                frozen = frozen || m.msg.type == KEEPER_MSG_FROZEN;
                said = said || m.msg.type == KEEPER_MSG_WHY_SAID;
                cr_assert(said || !frozen, "while it is looked at");
        }
        (void)fd_close(m.fd);
        cr_expect(is_frozen(fx));
        is_over(fx);
        fx_close(fx);
}

Test(keeper_look, who_is_about_to_be_frozen_does_not_stand_still_for_a_look, .timeout = 60)
{
        const KeeperMsg freeze = {.type = KEEPER_MSG_FREEZE, .node = 1, .generation = 1, .freeze = {.frozen = 1, .deadline_ns = nsec_add(clock_now(), FX_SPAN)}};
        char path[400];
        Fixture *fx;
        Hung hung;
        FxMsg *m;

        if (!private_mounts())
                cr_skip_test("no FUSE in a mount namespace of our own");
        fx = fx_new();
        hung = hung_start(fx->dir);
        (void)snprintf(path, sizeof(path), "%s/file", hung.dir);
        (void)fx_start(fx, &(FxSpawn){.node = 1, .argv = ARGV((char *)"/bin/cat", path)}); /* it cannot be frozen there */
        hung_wait_asked(&hung);
        fx_order(fx, &freeze, NULL, 0);
        ask_why(fx);
        m = fx_wait(fx, KEEPER_MSG_WHY_SAID);
        cr_expect_eq(m->msg.why_said.error, EAGAIN);
        for (nsec_t until = clock_now() + FX_SPAN; !is_frozen(fx) && clock_now() < until;) /* before it is let go, and ends */
                (void)poll(NULL, 0, 1);
        hung_end(&hung);
        (void)fx_wait(fx, KEEPER_MSG_FREEZE_DONE);
        cr_expect(is_frozen(fx));
        is_over(fx);
        fx_close(fx);
}

Test(keeper_look, of_many_the_first_are_told_of_and_all_are_counted, .timeout = 60)
{
        char packet[LOG_MSG_MAX];
        Fixture *fx = fx_new();
        LogMsg line;
        FxMsg *m;

        (void)fx_start(fx, &(FxSpawn){.node = 1, .argv = ARGV(helper_path("tree"), (char *)"100")});
        fx_line(fx, &line, packet);
        m = look_now(fx);
        cr_assert_eq(m->msg.left.n, 100);
        cr_assert_leq(m->msg.left.n_tasks, 24); /* fewer where the host is so busy that there was no time */
        cr_assert_geq(m->msg.left.n_tasks, 1);
        is_over(fx);
        fx_close(fx);
}

Test(keeper_look, what_has_not_run_between_two_looks_is_told_since_when, .timeout = 60)
{
        char packet[LOG_MSG_MAX];
        Fixture *fx = fx_new();
        LogMsg line;

        (void)fx_start(fx, &(FxSpawn){.node = 1, .argv = SH("echo ready; sleep 1000; exit 1")});
        fx_line(fx, &line, packet);
        (void)look_until(fx, " s or more");
        is_over(fx);
        fx_close(fx);
}
