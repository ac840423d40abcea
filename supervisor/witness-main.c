/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tidegate-witness: loads the kernel probe that sees who leaves a node's cgroup, and passes on what it says (protocol/witness_msg.h).
 * The guard starts it for a supervisor, which alone listens to it. Nothing depends on it: without it the keepers look through /proc.
 *
 * It is nobody, with the two capabilities that loading takes, and with none once that is done; it can start no process and write no
 * file. It ends when its supervisor hangs up, and with the guard. What its probe had attached ends with it.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <malloc.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "bpf/probe.h"
#include "protocol/witness_msg.h"

#define NOBODY      65534
#ifndef __SANITIZE_ADDRESS__ /* whose shadow takes more than there is */
#define MEMORY_MAX  (512ul << 20) /* address space; the kernel's type information is some MB, and is held twice while it is read */
#else
#define MEMORY_MAX  RLIM_INFINITY
#endif
#define RING_HOLDS  128           /* records, at the most: 64 KiB */
#define BURST       64            /* records that are passed on in one window: a node that moves without a pause fills the ring, and is counted */
#define WINDOW_SPAN (100 * NSEC_PER_MSEC)

/* ---- what it may do */

static int set_capabilities(uint32_t low, uint32_t high)
{
        struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
        struct __user_cap_data_struct data[2] = {{.effective = low, .permitted = low}, {.effective = high, .permitted = high}};

        return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

/* CAP_BPF and CAP_PERFMON (Linux 5.8). Not ours in many containers: then the load says so. */
static int keep_what_loading_takes(void)
{
        return set_capabilities(0, CAP_TO_MASK(CAP_BPF) | CAP_TO_MASK(CAP_PERFMON)) ? set_capabilities(0, 0) : 0;
}

static int become_nobody(void)
{
        struct sched_param param = {};
        int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

        if (fd >= 0)
                (void)!write(fd, "0", 1); /* the guard's is not ours: rather we than anybody's node */
        (void)fd_close(fd);
        (void)sched_setscheduler(0, SCHED_OTHER, &param);
        if (prctl(PR_SET_KEEPCAPS, 1) < 0 || setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0)
                return -errno;
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0) < 0)
                return -errno;
        return keep_what_loading_takes();
}

static void set_bounds(void)
{
        static const struct {
                __rlimit_resource_t resource;
                rlim_t max;
        } bounds[] = {{RLIMIT_NPROC, 0}, {RLIMIT_FSIZE, 0}, {RLIMIT_CORE, 0}, {RLIMIT_NOFILE, 64}, {RLIMIT_AS, MEMORY_MAX}};

        for (size_t i = 0; i < ELEMENTSOF(bounds); i++)
                (void)setrlimit(bounds[i].resource, &(struct rlimit){bounds[i].max, bounds[i].max}); /* lower is always allowed */
}

/* ---- what it says. Blocks when the supervisor does not read; the ring holds what it holds meanwhile. */

static int say(int sock, struct witness_record record)
{
        record.magic = WITNESS_MAGIC;
        return send(sock, &record, sizeof(record), MSG_NOSIGNAL) == (ssize_t)sizeof(record) ? 0 : -errno;
}

static int pass_on(int sock, const struct leave_event *event)
{
        static const uint16_t types[] = {[LEAVE_MOVED] = WITNESS_MSG_MOVED, [LEAVE_BORN] = WITNESS_MSG_BORN, [LEAVE_FOUND] = WITNESS_MSG_FOUND};
        struct witness_record record = {.magic = WITNESS_MAGIC, .self = event->self == 1, .start_ns = event->start_ns, .pid = (int32_t)event->pid, .mover = (int32_t)event->mover};

        _Static_assert(sizeof(event->group) == sizeof(record.dataflow) && sizeof(event->to) == sizeof(record.to) && sizeof(event->comm) == sizeof(record.comm), "copied whole");
        record.type = event->kind < ELEMENTSOF(types) ? types[event->kind] : 0;
        memcpy(record.comm, event->comm, sizeof(record.comm));
        memcpy(record.mover_comm, event->mover_comm, sizeof(record.mover_comm));
        memcpy(record.dataflow, event->group, sizeof(record.dataflow));
        memcpy(record.node, event->name, sizeof(record.node));
        memcpy(record.to, event->to, sizeof(record.to));
        if (witness_msg_check(WITNESS_SENDER_WITNESS, &record, sizeof(record)))
                return 0; /* somebody whom our PID namespace does not see, or of a home that was forgotten */
        return say(sock, record);
}

/* ---- its life */

typedef struct Window {
        nsec_t until;
        unsigned n;
} Window;

/* Whether more may be passed on now; else when. */
static bool window_open(Window *window, nsec_t now, nsec_t *ret_at)
{
        if (now >= window->until)
                *window = (Window){.until = nsec_add(now, WINDOW_SPAN)};
        *ret_at = window->until;
        return window->n < BURST;
}

static int drain(LeaveProbe *probe, int sock, Window *window, unsigned max)
{
        struct leave_event events[16];
        size_t n = 0;
        int r;

        do {
                r = leave_probe_read(probe, events, MIN(ELEMENTSOF(events), (size_t)max), &n);
                for (size_t i = 0; !r && i < n; i++)
                        r = pass_on(sock, &events[i]);
                window->n += (unsigned)n;
                max -= (unsigned)n;
        } while (!r && n == ELEMENTSOF(events) && max > 0);
        return r;
}

/* What was found lies in the ring behind what happened before: all of it, whatever the window says, and not what comes meanwhile. */
static int look(LeaveProbe *probe, int sock, Window *window)
{
        int r = leave_probe_look(probe);

        if (!r)
                r = drain(probe, sock, window, RING_HOLDS);
        return r ? r : say(sock, (struct witness_record){.type = WITNESS_MSG_LOOKED, .dropped = leave_probe_dropped(probe)});
}

static int watch(LeaveProbe *probe, int sock)
{
        Window window = {};

        for (;;) {
                struct pollfd p[2] = {{.fd = sock, .events = POLLIN}, {.fd = leave_probe_fd(probe), .events = POLLIN}};
                nsec_t now = clock_now(), again;
                bool open = window_open(&window, now, &again);
                struct witness_record order;
                int r = 0;

                if (!open)
                        p[1].fd = -1;
                if (poll(p, ELEMENTSOF(p), open ? -1 : nsec_poll_ms(again, now)) < 0)
                        return -errno;
                if (p[0].revents) {
                        ssize_t n = recv(sock, &order, sizeof(order), MSG_DONTWAIT | MSG_TRUNC);

                        if (n < 0 && errno == EAGAIN)
                                continue;
                        if (n <= 0 || witness_msg_check(WITNESS_SENDER_SUPERVISOR, &order, (size_t)n))
                                return 0; /* the supervisor is gone, or is not ours */
                        r = look(probe, sock, &window);
                } else if (p[1].revents) {
                        r = drain(probe, sock, &window, BURST - window.n);
                }
                if (r)
                        return r;
        }
}

static int be_witness(int sock, uint64_t cgroup_id)
{
        struct witness_record record = {.type = WITNESS_MSG_UNAVAILABLE};
        nsec_t begin = clock_now();
        LeaveProbe *probe = NULL;
        ProbeReason reason = {};
        int r = become_nobody();

        if (r) {
                record.error = -r;
                (void)snprintf(record.to, sizeof(record.to), "cannot give up its privileges: %s", strerror(-r));
                return say(sock, record);
        }
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* after the change of user, which resets it */
        set_bounds();
        r = leave_probe_new(&probe, &(LeaveProbeSpec){.cgroup_id = cgroup_id}, &reason);
        if (!r)
                r = leave_probe_look(probe);
        if (r) {
                record.error = reason.err ? reason.err : r < 0 ? -r : 0;
                (void)snprintf(record.to, sizeof(record.to), "%s", reason.text[0] ? reason.text : strerror(record.error));
                return say(sock, record);
        }
        (void)malloc_trim(0);
        r = set_capabilities(0, 0);
        if (!r)
                r = say(sock, (struct witness_record){.type = WITNESS_MSG_READY, .ms = (uint32_t)((clock_now() - begin) / NSEC_PER_MSEC)});
        return r ? r : watch(probe, sock);
}

int main(int argc, char **argv)
{
        int sock = argc == 3 ? atoi(argv[1]) : -1, null;

        if (sock <= STDERR_FILENO) {
                fprintf(stderr, "tidegate-witness is started by tidegated\n");
                return 2;
        }
        (void)prctl(PR_SET_NAME, "tidegate-witness"); /* we were executed by a descriptor, which has no name */
        null = open("/dev/null", O_RDWR | O_CLOEXEC);
        for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) /* its starter's log is not held open */
                if (null < 0 || dup2(null, fd) < 0)
                        return 1;
        if (dup2(sock, STDIN_FILENO) < 0 || chdir("/") < 0)
                return 1;
        (void)close_range(STDERR_FILENO + 1, ~0U, 0);
        return be_witness(STDIN_FILENO, strtoull(argv[2], NULL, 10)) ? 1 : 0;
}
