/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/supervisor.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "supervisor/control.h"

#define SUPERVISOR_LAST_WORDS_SPAN NSEC_PER_SEC /* what the client gets to read the result */

void supervisor_stop_all(Supervisor *supervisor, const char *who)
{
        if (supervisor->dataflow)
                dataflow_stop(supervisor->dataflow, NSEC_NEVER, false, who);
        else /* nothing runs, and nobody is left to ask for anything */
                loop_exit(&supervisor->loop, 0);
}

/* The result is on its way; leave once the client has it, or has had its time. */
static int on_last_words(Timer *timer, nsec_t now)
{
        Supervisor *supervisor = container_of(timer, Supervisor, last_words);
        bool flushed = true;

        for (unsigned i = 0; i < SUPERVISOR_MAX_CONTROLS; i++)
                flushed = flushed && (!supervisor->controls[i] || control_flushed(supervisor->controls[i]));
        if (flushed || now >= supervisor->last_words_until)
                loop_exit(&supervisor->loop, supervisor->exit_code);
        else
                timer_arm(&supervisor->loop, timer, nsec_add(now, 10 * NSEC_PER_MSEC), on_last_words);
        return 0;
}

void supervisor_dataflow_ended(Supervisor *supervisor, Dataflow *dataflow)
{
        json_t *result = json_object();

        supervisor->exit_code = dataflow->n_left > 0 ? 3 : dataflow_succeeded(dataflow) ? 0 : 1;
        if (result)
                (void)json_object_set_new(result, "result", dataflow_result(dataflow));
        control_reply(supervisor->controls[0], result);
        guard_bye(supervisor, supervisor->exit_code);
        supervisor->last_words_until = nsec_add(supervisor->loop.now, SUPERVISOR_LAST_WORDS_SPAN);
        timer_arm(&supervisor->loop, &supervisor->last_words, supervisor->loop.now, on_last_words);
}

static int on_signal(Source *source, uint32_t revents)
{
        Supervisor *supervisor = container_of(source, Supervisor, signal_source);
        struct signalfd_siginfo info;

        (void)revents;
        while (read(supervisor->signal_fd, &info, sizeof(info)) == sizeof(info))
                if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT)
                        supervisor_stop_all(supervisor, "a signal to the supervisor");
        return 0;
}

static int supervisor_setup(Supervisor *supervisor)
{
        sigset_t all;
        int r;

        sigfillset(&all);
        if (sigprocmask(SIG_SETMASK, &all, NULL) < 0)
                return error_origin(-errno);
        r = loop_init(&supervisor->loop);
        if (r)
                return error_fold(r);
        supervisor->signal_fd = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
        if (supervisor->signal_fd < 0)
                return error_origin(-errno);
        r = source_add(&supervisor->loop, &supervisor->signal_source, supervisor->signal_fd, EPOLLIN, SOURCE_EXITS, on_signal);
        if (r)
                return error_fold(r);
        for (unsigned i = 0; i < SUPERVISOR_MAX_CONTROLS; i++) {
                r = control_new(&supervisor->controls[i], supervisor, supervisor->options.control_fds[i]);
                if (r)
                        return error_fold(r);
        }
        r = guard_link_open(supervisor, supervisor->options.guard_fd);
        return r ? error_fold(r) : 0;
}

int supervisor_main(const SupervisorOptions *options)
{
        static Supervisor supervisor;
        int r;

        supervisor = (Supervisor){.options = *options, .signal_fd = -1, .guard_fd = -1};
        r = supervisor_setup(&supervisor);
        if (r)
                return 1;
        r = loop_run(&supervisor.loop);
        (void)dataflow_free(supervisor.dataflow);
        for (unsigned i = 0; i < SUPERVISOR_MAX_CONTROLS; i++)
                (void)control_free(supervisor.controls[i]);
        source_remove(&supervisor.guard_source);
        (void)fd_close(supervisor.guard_fd);
        (void)fd_close(supervisor.signal_fd);
        loop_done(&supervisor.loop);
        return r < 0 ? 1 : r;
}
