/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/helper.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"

#define LOAD_SPAN (20 * NSEC_PER_SEC) /* some 100 ms, of a processor that is its own; the verifier of a machine under full load */
#define PAUSE_MIN (1 * NSEC_PER_SEC)  /* before another one */
#define PAUSE_MAX (60 * NSEC_PER_SEC)
#define CALM_SPAN (60 * NSEC_PER_SEC) /* one that was ready for so long starts the count anew */

void helper_init(Helper *helper, const HelperKind *kind, Supervisor *supervisor)
{
        *helper = (Helper){.kind = kind, .supervisor = supervisor, .fd = -1, .pidfd = -1};
        supervisor->helpers[kind->which] = helper;
}

static void hang_up(Helper *helper)
{
        timer_disarm(&helper->timer);
        source_remove(&helper->source);
        if (helper->pidfd >= 0)
                (void)syscall(SYS_pidfd_send_signal, helper->pidfd, SIGKILL, NULL, 0); /* ESRCH: gone already. Reaped by the guard */
        helper->fd = fd_close(helper->fd);
        helper->pidfd = fd_close(helper->pidfd);
}

void helper_done(Helper *helper)
{
        hang_up(helper);
        helper->supervisor->helpers[helper->kind->which] = NULL;
}

void helper_let_go(Helper *helper)
{
        hang_up(helper);
        helper->state = HELPER_IDLE;
        helper->n_failures = 0;
}

void helper_is_ready(Helper *helper)
{
        timer_disarm(&helper->timer);
        helper->state = HELPER_READY;
        helper->ready_at = helper->supervisor->loop.now;
}

void helper_may_again(Helper *helper, nsec_t since)
{
        if (helper->state != HELPER_OFF || nsec_add(since, HELPER_AGAIN_SPAN) > helper->supervisor->loop.now)
                return;
        helper->state = HELPER_IDLE;
        helper->n_failures = 0;
}

/* ---- its end */

static void end(Helper *helper, HelperState next, const char *what)
{
        helper->state = next;
        helper->kind->ended(helper, what);
        hang_up(helper);
}

static void turn_off(Helper *helper, const char *what)
{
        helper->given_up_at = helper->supervisor->loop.now;
        end(helper, HELPER_OFF, what);
}

void helper_give_up(Helper *helper, const char *why)
{
        (void)snprintf(helper->why, sizeof(helper->why), "%s", why);
        turn_off(helper, helper->why);
}

static int on_pause_over(Timer *timer, nsec_t now)
{
        (void)now;
        helper_ask(container_of(timer, Helper, timer));
        return 0;
}

void helper_fail(Helper *helper, const char *what)
{
        const HelperKind *kind = helper->kind;
        Supervisor *supervisor = helper->supervisor;
        nsec_t now = supervisor->loop.now;
        bool last;

        if (helper->state == HELPER_READY && nsec_add(helper->ready_at, CALM_SPAN) <= now)
                helper->n_failures = 0;
        last = ++helper->n_failures >= kind->n_tries || supervisor->ending;
        if (last && kind->n_tries > 1)
                (void)snprintf(helper->why, sizeof(helper->why), "%s %s, %u times", kind->name, what, helper->n_failures);
        else
                (void)snprintf(helper->why, sizeof(helper->why), "%s %s", kind->name, what);
        if (last) {
                turn_off(helper, what);
                return;
        }
        helper->pause = helper->n_failures == 1 ? PAUSE_MIN : MIN(kind->growth * helper->pause, PAUSE_MAX);
        end(helper, HELPER_PAUSING, what);
        timer_arm(&supervisor->loop, &helper->timer, nsec_add(now, helper->pause), on_pause_over);
}

/* ---- its beginning */

static int on_late(Timer *timer, nsec_t now)
{
        Helper *helper = container_of(timer, Helper, timer);

        (void)now;
        helper->n_orders = 0; /* an answer that is lost does not come any more */
        helper_fail(helper, helper->state == HELPER_ASKED ? "is not started: the guard does not answer" : "does not get its probe loaded");
        return 0;
}

static void await(Helper *helper, HelperState state)
{
        helper->state = state;
        timer_arm(&helper->supervisor->loop, &helper->timer, nsec_add(helper->supervisor->loop.now, LOAD_SPAN), on_late);
}

const char *helper_refusal(void)
{
        const char *off = getenv("TIDEGATE_PROBES");

        if (off && strcmp(off, "off") == 0)
                return "kernel probes are turned off (TIDEGATE_PROBES=off in the supervisor's environment)";
        return geteuid() != 0 ? "kernel probes need a supervisor of root's" : NULL;
}

void helper_ask(Helper *helper)
{
        const HelperKind *kind = helper->kind;
        const char *refusal = helper_refusal();

        helper->asked_at = helper->supervisor->loop.now;
        if (refusal) {
                helper_give_up(helper, refusal);
                return;
        }
        await(helper, HELPER_ASKED);
        helper->n_orders++;
        guard_fork_helper_order(helper->supervisor, kind->which, kind->word ? kind->word(helper) : 0);
}

/* The last order's answer: who was started for an earlier one is killed for the next one. */
static Helper *answered(Supervisor *supervisor, GuardHelper which)
{
        Helper *helper = supervisor->helpers[which];

        if (!helper)
                return NULL;
        helper->n_orders -= helper->n_orders > 0;
        return helper->n_orders == 0 && helper->state == HELPER_ASKED ? helper : NULL;
}

void helper_on_started(Supervisor *supervisor, GuardHelper which, int32_t pid, int take_sock, int take_pidfd)
{
        Helper *helper = answered(supervisor, which);

        if (!helper) { /* not wanted any more: it ends with its socket, and what it sends goes nowhere */
                (void)fd_close(take_sock);
                (void)fd_close(take_pidfd);
                return;
        }
        helper->pid = pid;
        helper->fd = take_sock;
        helper->pidfd = take_pidfd;
        if (source_add(&supervisor->loop, &helper->source, helper->fd, EPOLLIN, SOURCE_EXITS, helper->kind->on_socket))
                helper_give_up(helper, strerror(ENOMEM));
        else
                await(helper, HELPER_LOADING);
}

void helper_on_failed(Supervisor *supervisor, GuardHelper which, int error)
{
        Helper *helper = answered(supervisor, which);
        char why[160];

        if (!helper)
                return;
        if (error == ENOTSUP)
                (void)snprintf(why, sizeof(why), "nodes have no cgroup here");
        else if (error == ENOENT)
                (void)snprintf(why, sizeof(why), "there is no %s beside tidegated (built without kernel probes)", helper->kind->program);
        else
                (void)snprintf(why, sizeof(why), "%s could not be started: %s", helper->kind->program, error_text(-error));
        helper_give_up(helper, why);
}
