/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/sweep.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/place.h"
#include "supervisor/cgroup.h"

#define N_BATCH     64
#define N_WITNESSES 16
#define STEP_FIRST  (10 * NSEC_PER_MSEC) /* the dying of a killed tree: no use in signalling it again before */
#define STEP_MAX    (100 * NSEC_PER_MSEC)

/* A sweep that starts at or near the deadline is still done, unless the tree forks faster than it can be listed. */
#define LAST_SWEEP_SPAN (200 * NSEC_PER_MSEC)

typedef struct Candidate {
        pid_t pid;
        int fd;
        bool listed; /* seen in the cgroup again while we held the pidfd */
} Candidate;

typedef struct Sweep {
        SweepResult *result;
        int signo;
        nsec_t until;
        int dir_fd;   /* of the cgroup being visited */
        Candidate batch[N_BATCH];
        unsigned n_batch;
        /* some of those that were signalled, to hear of exits; [0]: cgroup.events */
        struct pollfd witnesses[N_WITNESSES + 1];
        unsigned n_witnesses;
} Sweep;

static int pidfd_open_(pid_t pid)
{
        int fd = (int)syscall(SYS_pidfd_open, pid, 0);

        return fd < 0 ? -errno : fd;
}

static int pidfd_signal(int fd, int signo)
{
        return syscall(SYS_pidfd_send_signal, fd, signo, NULL, 0) < 0 ? -errno : 0;
}

static void note_error(Sweep *s, int r)
{
        if (s->result->error == 0 && r < 0 && r != -ESRCH && r != -ETIMEDOUT)
                s->result->error = -r;
}

static int mark_listed(pid_t pid, void *userdata)
{
        Sweep *s = userdata;

        for (unsigned i = 0; i < s->n_batch; i++)
                if (s->batch[i].pid == pid)
                        s->batch[i].listed = true;
        return 0;
}

static void witness(Sweep *s, int consume_fd)
{
        if (s->signo == SIGKILL && s->n_witnesses < N_WITNESSES)
                s->witnesses[++s->n_witnesses] = (struct pollfd){.fd = consume_fd, .events = POLLIN};
        else
                consume_fd = fd_close(consume_fd);
}

static void drop_witnesses(Sweep *s)
{
        for (; s->n_witnesses > 0; s->n_witnesses--)
                s->witnesses[s->n_witnesses].fd = fd_close(s->witnesses[s->n_witnesses].fd);
}

static void signal_batch(Sweep *s)
{
        note_error(s, s->n_batch ? cgroup_each_process(s->dir_fd, mark_listed, s) : 0);
        for (unsigned i = 0; i < s->n_batch; i++) {
                Candidate *c = &s->batch[i];
                int r = c->listed ? pidfd_signal(c->fd, s->signo) : -ESRCH;

                if (r == 0) {
                        s->result->n_sent++;
                        if (s->signo == SIGTERM)
                                (void)pidfd_signal(c->fd, SIGCONT); /* it may be gone already */
                }
                note_error(s, r);
                if (r == 0)
                        witness(s, TAKE_FD(c->fd));
                c->fd = fd_close(c->fd);
        }
        s->n_batch = 0;
}

static int collect(pid_t pid, void *userdata)
{
        Sweep *s = userdata;
        int fd;

        if (clock_now() >= s->until)
                return -ETIMEDOUT;
        fd = pidfd_open_(pid);
        if ((fd == -EMFILE || fd == -ENFILE) && s->n_batch > 0) {
                signal_batch(s); /* short of descriptors: smaller steps */
                fd = pidfd_open_(pid);
        }
        if (fd < 0) {
                note_error(s, fd);
                return 0;
        }
        s->batch[s->n_batch++] = (Candidate){.pid = pid, .fd = fd};
        if (s->n_batch == N_BATCH)
                signal_batch(s);
        return 0;
}

static int sweep_cgroup(int dir_fd, void *userdata)
{
        Sweep *s = userdata;
        int r;

        s->dir_fd = dir_fd;
        r = cgroup_each_process(dir_fd, collect, s);
        signal_batch(s);
        return r;
}

/* One pass over the tree. */
static int sweep_once(Sweep *s, int dir_fd)
{
        int r = cgroup_walk(dir_fd, sweep_cgroup, s);

        if (r == CGROUP_E_DEEP) {
                note_error(s, -ELOOP);
                return 0;
        }
        return r;
}

/* Lives without a cgroup (base/place.h). */
static int signal_places(int dir_fd, int signo, SweepResult *ret)
{
        PlaceResult result;
        int r = place_signal(dir_fd, signo, &result);

        *ret = (SweepResult){.n_found = result.n_found, .n_sent = result.n_sent, .error = result.error};
        return r;
}

static int kill_places(int dir_fd, nsec_t until, SweepResult *ret)
{
        PlaceResult result;
        int r = place_end(dir_fd, until, &result);

        *ret = (SweepResult){.n_found = result.n_found, .n_sent = result.n_sent, .n_rounds = result.n_rounds, .n_left = result.n_left, .error = result.error};
        return r == -ETIMEDOUT ? SWEEP_E_LEFT : r;
}

int sweep_signal(int cgroup_dirfd, int signo, nsec_t until, SweepResult *ret)
{
        Sweep s = {.result = ret, .signo = signo, .until = until};
        int n, r;

        if (!place_is_cgroup(cgroup_dirfd))
                return signal_places(cgroup_dirfd, signo, ret);
        *ret = (SweepResult){};
        n = cgroup_count(cgroup_dirfd);
        ret->n_found = n > 0 ? (uint32_t)n : 0;
        r = sweep_once(&s, cgroup_dirfd);
        drop_witnesses(&s);
        return r < 0 && r != -ETIMEDOUT ? error_origin(r) : r;
}

/*
 * Waits until @step_end for `populated 0`, reading cgroup.events at every exit that is seen. 0: empty; 1: not yet;
 * else -errno. Always takes until @step_end unless empty, so that a caller in a loop never spins.
 */
static int wait_empty(Sweep *s, int events_fd, nsec_t step_end)
{
        int r;

        for (;;) {
                nsec_t now;

                r = events_fd < 0 ? events_fd : cgroup_populated(events_fd);
                now = clock_now();
                if (r == 0 || now >= step_end)
                        return r;
                s->witnesses[0] = (struct pollfd){.fd = r < 0 ? -1 : events_fd, .events = POLLPRI};
                if (poll(s->witnesses, s->n_witnesses + 1, nsec_poll_ms(step_end, now)) <= 0)
                        continue; /* the step's end, or EINTR */
                for (unsigned i = 1; i <= s->n_witnesses; i++)
                        if (s->witnesses[i].revents)
                                s->witnesses[i].fd = fd_close(s->witnesses[i].fd);
        }
}

static void look(SweepResult *result, int dir_fd)
{
        int n = cgroup_count(dir_fd);

        result->n_left = n > 0 ? (uint32_t)n : 0;
        result->n_found = MAX(result->n_found, result->n_left);
}

/*
 * Not there at all (a kernel before 5.14, or the cgroup is gone) is no error: the sweep does it, or there is nothing
 * to do.
 */
static int kill_write(int dir_fd)
{
        int r = cgroup_write(dir_fd, "cgroup.kill", "1");

        return r == -ENOENT || r == -ENODEV ? 0 : r;
}

static int lift_throttle(int dir_fd, void *userdata)
{
        const nsec_t *until = userdata;

        (void)cgroup_write(dir_fd, "cpu.max", "max"); /* not there without the controller */
        return clock_now() >= *until ? -ETIMEDOUT : 0;
}

int sweep_kill(int cgroup_dirfd, nsec_t until, SweepResult *ret)
{
        Sweep s = {.result = ret, .signo = SIGKILL};
        _cleanup_fd_ int events_fd = -1;
        nsec_t step = STEP_FIRST;
        int r;

        if (!place_is_cgroup(cgroup_dirfd))
                return kill_places(cgroup_dirfd, until, ret);
        *ret = (SweepResult){};
        for (;;) {
                nsec_t now;

                if (events_fd < 0)
                        events_fd = cgroup_open_file(cgroup_dirfd, "cgroup.events", O_RDONLY);
                if (events_fd == -ENOENT || events_fd == -ENODEV)
                        return 0;
                look(ret, cgroup_dirfd);
                if (!ret->killed_at)
                        ret->killed_at = clock_now();
                note_error(&s, kill_write(cgroup_dirfd));
                now = clock_now();
                r = wait_empty(&s, events_fd, MIN(nsec_add(now, step), until));
                drop_witnesses(&s);
                if (r == 0)
                        break;
                if (ret->n_rounds == 0)
                        (void)cgroup_walk(cgroup_dirfd, lift_throttle, &until); /* to die takes a processor, too */
                now = clock_now();
                s.until = MAX(until, nsec_add(now, LAST_SWEEP_SPAN));
                note_error(&s, sweep_once(&s, cgroup_dirfd));
                ret->n_rounds++;
                step = MIN(step * 2, STEP_MAX);
                if (now >= until)
                        break;
        }
        if (r != 0 && events_fd >= 0)
                r = cgroup_populated(events_fd);
        drop_witnesses(&s);
        if (r == 0)
                ret->n_left = 0;
        else
                look(ret, cgroup_dirfd);
        return r < 0 ? error_origin(r) : r == 0 ? 0 : SWEEP_E_LEFT;
}

void sweep_add(SweepResult *result, const SweepResult *earlier)
{
        result->n_found = MAX(result->n_found, earlier->n_found);
        result->n_sent += earlier->n_sent;
        result->n_rounds += earlier->n_rounds;
        result->error = result->error ? result->error : earlier->error;
}
