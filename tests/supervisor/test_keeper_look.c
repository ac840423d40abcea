/* SPDX-License-Identifier: Apache-2.0 */
/* Who is left, as a keeper tells it: what is no proof of anything, what is counted, and what is said of whom. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/task.h"
#include "keeper_fixture.h"

#define ARGV(...)  ((char *[]){__VA_ARGS__, NULL})
#define SH(script) ARGV((char *)"/bin/sh", (char *)"-c", (char *)(script))

static const KeeperMsg look = {.type = KEEPER_MSG_LOOK, .node = 1, .generation = 1};

static FxMsg *look_now(Fixture *fx)
{
        fx_order(fx, &look, NULL, 0);
        return fx_wait(fx, KEEPER_MSG_LEFT); /* FROZEN may come before it */
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
        m = look_now(fx);
        cr_assert_eq(m->msg.left.n, 2, "%s", fx_left(m));
        cr_assert(strstr(fx_left(m), "(vforker) state D") && strstr(fx_left(m), "in vfork"), "%s", fx_left(m));
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
        for (int i = 0; i < 500 && !strstr(fx_left(m), ", frozen"); i++)
                m = look_now(fx);
        cr_assert(strstr(fx_left(m), ", frozen"), "%s", fx_left(m));
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
        FxMsg *m;

        (void)fx_start(fx, &(FxSpawn){.node = 1, .argv = SH("echo ready; sleep 1000; exit 1")});
        fx_line(fx, &line, packet);
        m = look_now(fx);
        for (int i = 0; i < 5000 && !strstr(fx_left(m), " s or more"); i++)
                m = look_now(fx);
        cr_assert(strstr(fx_left(m), " s or more"), "%s", fx_left(m));
        is_over(fx);
        fx_close(fx);
}
