/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is the supervisor's loop turning? It is asked, and answers from the loop: a turn that does not end, a SIGSTOP and a sleep that nothing
 * ends look the same from here, and are treated the same. And what the service manager is told of it (sd_notify(3)).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "supervisor/guard-internal.h"

#define LATE_FACTOR 2 /* a tick that comes later than this many periods says more about us than about the supervisor */

/* ---- the service manager */

void guard_notify(Guard *guard, const char *text)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        const char *path = getenv("NOTIFY_SOCKET");
        size_t length = path ? strlen(path) : 0;

        if (length < 2 || length >= sizeof(address.sun_path) || (path[0] != '/' && path[0] != '@'))
                return;
        memcpy(address.sun_path, path, length);
        if (path[0] == '@')
                address.sun_path[0] = '\0';
        if (guard->notify_fd < 0)
                guard->notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (guard->notify_fd >= 0) /* full or gone: the next one may get through, and nobody waits for it */
                (void)sendto(guard->notify_fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&address,
                        (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length));
}

void guard_notify_status(Guard *guard, const char *state)
{
        char text[256];

        (void)snprintf(text, sizeof(text), "%sSTATUS=supervisor %d, epoch %llu%s", state, (int)guard->supervisor.pid, (unsigned long long)guard->epoch,
                guard->stop_ordered ? ", ending" : "");
        guard_notify(guard, text);
}

/* A third of the manager's interval, or none if it watches nobody, or somebody else. */
static nsec_t manager_period(void)
{
        const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");

        if (!usec || (pid && strtol(pid, NULL, 10) != (long)getpid()))
                return NSEC_NEVER;
        return MAX(strtoull(usec, NULL, 10) * NSEC_PER_USEC / 3, NSEC_PER_MSEC);
}

/* ---- the watch */

static nsec_t watch_period(const Guard *guard)
{
        nsec_t own = guard->watchdog_ns ? guard->watchdog_ns / 3 : NSEC_NEVER;

        return MIN(MAX(own, 10 * NSEC_PER_MSEC), manager_period());
}

static int on_tick(Timer *timer, nsec_t now)
{
        Guard *guard = container_of(timer, Guard, watch_timer);
        nsec_t period = watch_period(guard), watchdog = guard->watchdog_ns;
        struct guard_record ping = {.type = GUARD_MSG_PING, .epoch = guard->epoch};

        if (now > nsec_add(guard->tick_due, LATE_FACTOR * period)) /* we were held up ourselves: so may have been its answer */
                guard->pinged_at = now;
        if (guard->supervisor.pid > 0 && guard->pinged_at && watchdog && now - guard->pinged_at > watchdog)
                guard_give_up_supervisor(guard);
        if (!guard->pinged_at && guard->supervisor_fd >= 0) {
                guard->pinged_at = now;
                (void)guard_record_send(guard->supervisor_fd, &ping, NULL, 0); /* no room: it reads nothing, and the time runs */
        }
        guard->tick_due = nsec_add(now, period);
        timer_arm(&guard->loop, timer, guard->tick_due, on_tick);
        return 0;
}

void guard_watch_begin(Guard *guard)
{
        nsec_t period = watch_period(guard);

        guard->pinged_at = guard->loop.now; /* HELLO is the first answer */
        if (period == NSEC_NEVER)
                return;
        guard->tick_due = nsec_add(guard->loop.now, period);
        timer_arm(&guard->loop, &guard->watch_timer, guard->tick_due, on_tick);
}

/* HELLO or PONG: its loop turns. */
void guard_watch_answer(Guard *guard)
{
        guard->pinged_at = 0;
        if (manager_period() != NSEC_NEVER)
                guard_notify(guard, "WATCHDOG=1");
}
