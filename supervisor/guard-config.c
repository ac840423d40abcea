/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration: read by a child at SIGHUP, for a file system may hold whoever opens a file there, and used when it is whole. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fork.h"
#include "base/log.h"
#include "supervisor/guard-internal.h"

#define READ_SPAN (10 * NSEC_PER_SEC)

static const char *config_path(const Guard *guard)
{
        return guard->options->config ? guard->options->config : CONFIG_PATH;
}

static void apply(Guard *guard)
{
        const GuardOptions *o = guard->options;
        const Config *c = &guard->config->config;

        guard->grace_ns = c->has_grace && !o->has_grace ? c->grace_ns : o->grace_ns;
        guard->budget_ns = c->has_budget && !o->has_budget ? c->budget_ns : o->budget_ns;
        guard->watchdog_ns = c->has_watchdog && !o->has_watchdog ? c->watchdog_ns : o->watchdog_ns;
}

static bool may_set_enforcer(const Guard *guard)
{
        return guard->config->config.has_enforcer && !guard->options->has_enforcer;
}

/* An instance keeps what it began with: its nodes are in it. */
static void tell_enforcer(const Guard *guard)
{
        Enforcer wanted = may_set_enforcer(guard) ? guard->config->config.enforcer : guard->options->enforcer;

        if (wanted == ENFORCER_AUTO ? guard->enforcer != wanted : guard->instance.enforcer != wanted)
                log_line("enforcer %s needs a restart: this daemon goes on with %s", enforcer_name(wanted), enforcer_name(guard->instance.enforcer));
}

int guard_config_init(Guard *guard)
{
        int r;

        guard->reader.pidfd = -1;
        guard->enforcer = guard->options->enforcer;
        guard->grace_ns = guard->options->grace_ns;
        guard->budget_ns = guard->options->budget_ns;
        guard->watchdog_ns = guard->options->watchdog_ns;
        if (!guard->options->daemon)
                return 0;
        guard->config = mmap(NULL, sizeof(*guard->config), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (guard->config == MAP_FAILED)
                return error_origin(-errno);
        if (guard->options->state_fd >= 0)
                return 0; /* as it was: a file that is wrong or hangs by now must not be the end of everything */
        r = config_read(&guard->config->config, config_path(guard), guard->config->why, sizeof(guard->config->why));
        if (r) {
                log_line("%s", guard->config->why);
                return r;
        }
        apply(guard);
        if (may_set_enforcer(guard))
                guard->enforcer = guard->config->config.enforcer;
        return 0;
}

static int on_reader_late(Timer *timer, nsec_t now)
{
        Guard *guard = container_of(timer, Guard, reader_timer);

        (void)now;
        log_line("%s cannot be read: no answer for %u s; nothing is changed", config_path(guard), (unsigned)(READ_SPAN / NSEC_PER_SEC));
        guard_process_kill(&guard->reader);
        guard->reader.pid = 0; /* one that hangs in the kernel is reaped as a stranger */
        guard->reader.pidfd = fd_close(guard->reader.pidfd);
        if (guard->read_again)
                guard_config_reload(guard);
        return 0;
}

void guard_config_reload(Guard *guard)
{
        pid_t pid;

        guard->read_again = guard->reader.pid > 0;
        if (guard->read_again)
                return; /* being read, and it may have been written since */
        guard->config->error = EIO;
        (void)strcpy(guard->config->why, "its reader was ended");
        pid = fork_pidfd(0, &guard->reader.pidfd);
        if (pid == 0) {
                Config config;
                int r = config_read(&config, config_path(guard), guard->config->why, sizeof(guard->config->why));

                if (!r)
                        guard->config->config = config;
                guard->config->error = -r;
                _exit(0);
        }
        if (pid < 0) {
                log_line("%s cannot be read: %s", config_path(guard), strerror(errno));
                return;
        }
        guard->reader.pid = pid;
        timer_arm(&guard->loop, &guard->reader_timer, nsec_add(guard->loop.now, READ_SPAN), on_reader_late);
}

static void on_read(Guard *guard)
{
        struct guard_record record = {.type = GUARD_MSG_RELOAD, .epoch = guard->epoch};

        if (guard->config->error) {
                log_line("%s; nothing is changed", guard->config->why);
                return;
        }
        apply(guard);
        record.at_ns = guard->grace_ns;
        record.until_ns = guard->budget_ns;
        record.term_ns = guard->watchdog_ns;
        (void)guard_record_send(guard->supervisor_fd, &record, NULL, 0); /* lost: its successor is started with them */
        log_line("%s was read: grace %.1f s, kill budget %.1f s, watchdog %.1f s", config_path(guard), (double)guard->grace_ns / 1e9,
                (double)guard->budget_ns / 1e9, (double)guard->watchdog_ns / 1e9);
        tell_enforcer(guard);
}

void guard_config_on_reader_exit(Guard *guard)
{
        timer_disarm(&guard->reader_timer);
        guard->reader.pid = 0;
        guard->reader.pidfd = fd_close(guard->reader.pidfd);
        on_read(guard);
        if (guard->read_again)
                guard_config_reload(guard);
}
