/* SPDX-License-Identifier: Apache-2.0 */
#include "bpf/apart.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fork.h"

#define LOOK_SPAN (20 * NSEC_PER_MSEC)  /* how often it is seen whether it gets on */
#define LOOK_MOST (2 * LOOK_SPAN)       /* that counts of the time between two looks: where we had no processor nobody saw what it did */
#define DIE_SPAN  (200 * NSEC_PER_MSEC) /* whoever can be killed is gone by then */

Apart *apart_new(void)
{
        Apart *apart = mmap(NULL, sizeof(*apart), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

        return apart == MAP_FAILED ? NULL : apart;
}

Apart *apart_free(Apart *apart)
{
        if (apart)
                (void)munmap(apart, sizeof(*apart));
        return NULL;
}

static bool has_ended(int pidfd, nsec_t at)
{
        struct pollfd p = {.fd = pidfd, .events = POLLIN};

        return poll(&p, 1, nsec_poll_ms(at, clock_now())) > 0;
}

/* False: it was killed, for it did not get on. */
static bool wait_for(const Apart *apart, int pidfd, nsec_t span, nsec_t until)
{
        uint32_t n_steps = 0;
        nsec_t now = clock_now(), before = now, stood = 0, own;

        while (!has_ended(pidfd, MIN(nsec_add(now, LOOK_SPAN), until))) {
                uint32_t n;

                now = clock_now();
                if (atomic_load_explicit(&apart->done, memory_order_relaxed))
                        break;
                own = atomic_load_explicit(&apart->span_ms, memory_order_acquire) * (nsec_t)NSEC_PER_MSEC;
                n = atomic_load_explicit(&apart->n_steps, memory_order_relaxed); /* the step that this span is of, or a later one */
                stood = n == n_steps ? stood + MIN(now - before, LOOK_MOST) : 0;
                before = now;
                n_steps = n;
                if (now >= until || stood >= (own ? own : span))
                        break;
        }
        if (atomic_load_explicit(&apart->done, memory_order_relaxed))
                return true;
        if (has_ended(pidfd, 0))
                return true;
        (void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
        (void)has_ended(pidfd, nsec_add(clock_now(), DIE_SPAN));
        return false;
}

int apart_run(Apart *apart, void (*fn)(Apart *apart, void *userdata), void *userdata, nsec_t span, nsec_t until)
{
        _cleanup_fd_ int pidfd = -1;
        const pid_t parent = getpid();
        siginfo_t si = {};
        bool in_time;
        pid_t pid;

        memset(apart, 0, sizeof(*apart));
        pid = fork_pidfd(0, &pidfd);
        if (pid < 0)
                return error_origin(-errno);
        if (pid == 0) {
                if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
                        _exit(1);
                fn(apart, userdata);
                atomic_store_explicit(&apart->done, 1, memory_order_release); /* after its answer */
                _exit(0);
        }
        in_time = wait_for(apart, pidfd, span, until);
        if (in_time)
                (void)has_ended(pidfd, nsec_add(clock_now(), DIE_SPAN)); /* who has answered, but has something to close that holds it up */
        (void)waitid(P_PIDFD, (id_t)pidfd, &si, WEXITED | WNOHANG);
        if (atomic_load_explicit(&apart->done, memory_order_acquire))
                return 0;
        return in_time ? -EIO : -ETIMEDOUT;
}
