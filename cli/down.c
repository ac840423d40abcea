/* SPDX-License-Identifier: Apache-2.0 */
/* tidegate down: stop every dataflow and end the daemon, by a deadline known beforehand. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/commands.h"
#include "cli/last-resort.h"
#include "cli/print.h"
#include "base/span.h"
#include "cli/stop.h"
#include "cli/table.h"
#include "cli/targets.h"

#define DOWN_SLACK (10 * NSEC_PER_SEC) /* the daemon's own steps after the last dataflow */

typedef struct Down {
        Session session;
        bool force;
        nsec_t grace; /* NSEC_NEVER: each dataflow's own */
        int guard_fd;
        long long guard, supervisor;
} Down;

static int read_arguments(Down *d, int argc, char **argv)
{
        static const struct option options[] = {
                {"force", no_argument, NULL, 'f'},
                {"grace-duration", required_argument, NULL, 'g'},
                SESSION_LONG_OPTIONS,
                {NULL, 0, NULL, 0},
        };
        int o;

        session_begin();
        while ((o = session_getopt(&d->session, argc, argv, "", options)) != -1) {
                if (o == 'f')
                        d->force = true;
                else if (o != 'g')
                        return CLI_USAGE;
                else if (span_parse(optarg, &d->grace) || d->grace > 3600 * NSEC_PER_SEC)
                        return usage_error("down", "--grace-duration: `%s` is no time up to 1h (500ms, 2s, 1m)", optarg);
        }
        return optind < argc ? usage_error("down", "unexpected argument `%s`", argv[optind]) : 0;
}

/* The guard is the last to go; its pidfd says when. */
static int look(Down *d, json_t **ret_dataflows, int *ret_transport)
{
        Reply reply = {};
        int r = session_try(&d->session, "GetHealth", json_object(), &reply);

        *ret_transport = r;
        if (!r) {
                const json_t *health = json_object_get(reply.parameters, "health");

                d->guard = json_get_number(health, "guard_pid");
                d->supervisor = json_get_number(health, "pid");
                if (d->guard > 0)
                        d->guard_fd = (int)syscall(SYS_pidfd_open, (pid_t)d->guard, 0);
        }
        reply_done(&reply);
        return r ? CLI_UNREACHABLE : targets_status(&d->session, NULL, 0, ret_dataflows, ret_transport);
}

static int send_order(Down *d, json_t *take_dataflows, bool *ret_left)
{
        json_t *p = json_pack("{sb}", "force", d->force);
        StopOrder order = {.method = "Shutdown", .parameters = p, .dataflows = take_dataflows, .client = CLIENT_NULL};
        Stop stop = {.session = &d->session,
                .grace = d->grace,
                .force = d->force,
                .shutdown = true,
                .ledger = true,
                .orders = &order,
                .n_orders = 1};
        int status;

        if (p && d->grace != NSEC_NEVER)
                (void)json_object_set_new(p, "grace_ms", json_integer((json_int_t)(d->grace / NSEC_PER_MSEC)));
        status = stop_run(&stop);
        *ret_left = stop.left;
        return status;
}

/* Return: 0 once the guard is gone, CLIENT_E_LATE, CLIENT_E_INTERRUPTED. */
static int wait_for_guard(Down *d, nsec_t until)
{
        nsec_t begin = clock_now(), next = nsec_add(begin, NSEC_PER_SEC);
        bool tty = isatty(STDOUT_FILENO) && !d->session.json, shown = false;
        int r = CLIENT_E_LATE;

        while (d->guard_fd >= 0) {
                struct pollfd p[] = {{.fd = d->guard_fd, .events = POLLIN}, {.fd = d->session.signal_fd, .events = POLLIN}};
                nsec_t now = clock_now();

                if (tty && now >= next) {
                        printf("\r\033[Ktidegate: waiting for the guard (pid %lld) to leave, at most %.0f s more", d->guard,
                                (double)nsec_left(until, now) / 1e9);
                        (void)fflush(stdout);
                        next = nsec_add(now, NSEC_PER_SEC);
                        shown = true;
                }
                if (poll(p, ELEMENTSOF(p), nsec_poll_ms(tty ? MIN(until, next) : until, now)) > 0) {
                        r = p[0].revents ? 0 : CLIENT_E_INTERRUPTED;
                        break;
                }
                if (clock_now() >= until)
                        break;
        }
        if (shown)
                fputs("\r\033[K", stdout);
        return d->guard_fd < 0 ? 0 : r;
}

static int down(Down *d)
{
        const nsec_t grace = d->force ? 0 : d->grace == NSEC_NEVER ? 10 * NSEC_PER_SEC : d->grace;
        const LastResortKill kill = {.grace_ns = grace, .force = d->force};
        json_t *dataflows = NULL, *live;
        bool left = false;
        nsec_t until;
        int transport, status, r;

        status = look(d, &dataflows, &transport);
        if (last_resort_applies(transport)) {
                json_decref(dataflows);
                status = last_resort_stop(&d->session, transport, NULL, 0, true, &kill);
                return status == CLI_UNREACHABLE ? status : MAX(status, last_resort_end_daemon(&d->session));
        }
        live = targets_live(dataflows);
        json_decref(dataflows);
        if (transport || status) {
                json_decref(live);
                return transport ? session_fail(&d->session, transport) : status;
        }
        status = send_order(d, live, &left);
        if (status == CLI_UNREACHABLE || left)
                return status;
        until = nsec_add(clock_now(), nsec_add(grace + grace / 2, DOWN_SLACK));
        r = wait_for_guard(d, until);
        if (r) {
                session_say(&d->session,
                        r == CLIENT_E_LATE ? "the guard (pid %lld) is still there"
                                           : "left; the guard (pid %lld) goes on ending the daemon",
                        d->guard);
                return r == CLIENT_E_LATE ? CLI_NOT_RUNNING : CLI_FAILED;
        }
        if (d->session.json)
                (void)print_json_line_new(json_pack("{ss sI}", "type", "down", "guard_pid", (json_int_t)d->guard));
        else
                printf("tidegated has ended (supervisor %lld, guard %lld)\n", d->supervisor, d->guard);
        return status;
}

int cmd_down(int argc, char **argv)
{
        Down d = {.session = SESSION_INIT("down"), .grace = NSEC_NEVER, .guard_fd = -1};
        int status = read_arguments(&d, argc, argv);

        if (!status)
                status = session_locate(&d.session);
        if (!status && session_catch(&d.session))
                status = CLI_FAILED;
        if (!status)
                status = down(&d);
        (void)fd_close(d.guard_fd);
        session_done(&d.session);
        return status;
}
