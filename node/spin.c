/* SPDX-License-Identifier: Apache-2.0 */
#include "node/spin.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/hot.h"

#define CALLS_PER_WAKE 8u /* a wake in system calls, as a first guess: 6 to 10 on all that was measured */
#define N_TIMED        4u

void spin_cost_init(SpinCost *cost, int epoll_fd)
{
        struct epoll_event ev;
        nsec_t best = SPIN_COST_MAX;

        for (unsigned i = 0; i < N_TIMED && epoll_fd >= 0; i++) {
                nsec_t began = clock_now();

                (void)epoll_wait(epoll_fd, &ev, 1, 0);
                best = MIN(best, clock_now() - began);
        }
        *cost = (SpinCost){.call_ns = MIN(best, SPIN_COST_MAX / CALLS_PER_WAKE), .n_cpus = (unsigned)get_nprocs(),
                .load_path = "/proc/loadavg"};
        cost->wake_ns = MAX(cost->call_ns * CALLS_PER_WAKE, SPIN_COST_MIN);
}

/* Down quickly, up slowly: what a wake costs is what the quick ones cost; the slow ones waited for somebody's CPU. */
HOT void spin_cost_learn(SpinCost *cost, nsec_t ns)
{
        nsec_t old = __atomic_load_n(&cost->wake_ns, __ATOMIC_RELAXED);

        ns = MIN(MAX(ns, SPIN_COST_MIN), SPIN_COST_MAX);
        ns = ns < old ? old - (old - ns) / 4 : old + (ns - old) / 32;
        __atomic_store_n(&cost->wake_ns, ns, __ATOMIC_RELAXED);
}

/* /proc/loadavg: "0.20 0.18 0.12 RUNNABLE/ALL LAST". The number is of this moment, ourselves included. */
static bool is_loaded(const SpinCost *cost)
{
        _cleanup_fd_ int fd = open(cost->load_path, O_RDONLY | O_CLOEXEC);
        char text[128];
        unsigned runnable;
        ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

        if (n <= 0)
                return false; /* no /proc: the other signs have to do */
        text[n] = '\0';
        return sscanf(text, "%*s %*s %*s %u/", &runnable) == 1 && runnable > cost->n_cpus;
}

static void look_at_load(Spin *spin, const SpinCost *cost, nsec_t now)
{
        nsec_t span = spin->loaded ? MIN(2 * spin->load_span, SPIN_LOAD_SPAN) : SPIN_LOAD_AGAIN;

        spin->loaded = is_loaded(cost);
        spin->load_span = spin->loaded ? span : 0;
        spin->load_at = now + (spin->loaded ? span : SPIN_LOAD_SPAN);
}

bool spin_worth_it(Spin *spin, const SpinCost *cost, nsec_t now)
{
        if (spin->run < MAX(spin->need, SPIN_NEED_MIN) || now < spin->crowded_until)
                return false;
        spin->crowded_until = 0;
        if (now >= spin->load_at)
                look_at_load(spin, cost, now);
        return !spin->loaded;
}

HOT void spin_arrived(Spin *spin, const SpinCost *cost, nsec_t gap_ns, bool hit)
{
        if (gap_ns > spin_window(cost))
                spin->run = 0;
        else if (spin->run < SPIN_NEED_MAX)
                spin->run++;
        if (hit)
                spin->need /= 2;
}

void spin_missed(Spin *spin)
{
        spin->run = 0;
        spin->need = MIN(MAX(spin->need, SPIN_NEED_MIN) * 2, SPIN_NEED_MAX);
}
