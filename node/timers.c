/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Timers, input timeouts and the next attempt to find a supervisor share one timerfd, set to the earliest of them before a
 * sleep and only if that changed. A node that never sleeps reads the clock instead, so a tick costs a busy node no system call.
 */
#include <errno.h>
#include <sys/timerfd.h>

#include "node/node-internal.h"

/* One event for all ticks that are due: a node that was late gets the latest, with its number; the gap says how late. */
int timer_next(Input *input, nsec_t now, tg_event **ret)
{
        uint64_t missed;
        tg_event *event;

        if (input->node->stopping || now < input->tick_at)
                return NODE_E_NOTHING;
        event = event_new(input->node);
        if (!event)
                return error_origin(-ENOMEM);
        missed = (now - input->tick_at) / input->timer_ns;
        event->kind = TG_EVENT_INPUT;
        event->id = input->id;
        event->message.index = input->n_ticks + missed;
        event->message.d.time_ns = input->tick_at + missed * input->timer_ns;
        input->n_ticks = event->message.index + 1;
        input->tick_at = nsec_add(event->message.d.time_ns, input->timer_ns); /* from the due time: no drift */
        input->past.delivered++;
        input->past.dropped_queue += missed;
        *ret = event;
        return 0;
}

void timers_arm(tg_node *node)
{
        struct itimerspec its = {};
        nsec_t earliest = socket_is_awaited(node) ? node->join_at : NSEC_NEVER;

        if (!node->timed && earliest == NSEC_NEVER && node->timer_armed == NSEC_NEVER)
                return;
        for (unsigned i = 0; i < node->n_inputs; i++) {
                const Input *input = &node->inputs[i];

                if (input->timer_ns && !node->stopping)
                        earliest = MIN(earliest, input->tick_at);
                earliest = MIN(earliest, input->timeout_at);
        }
        if (earliest == node->timer_armed && clock_now() < earliest)
                return;
        node->timer_armed = earliest;
        if (earliest != NSEC_NEVER)
                its.it_value = nsec_to_timespec(MAX(earliest, (nsec_t)1)); /* 0 would disarm */
        (void)timerfd_settime(node->timer_fd, TFD_TIMER_ABSTIME, &its, NULL); /* our own fd, a normal time: never fails */
}
