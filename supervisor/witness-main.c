/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tidegate-witness: loads the kernel probe that sees who leaves a node's cgroup, and passes on what it says (protocol/witness_msg.h).
 * The guard starts it for a supervisor, which alone listens to it. Nothing depends on it: without it the keepers look through /proc.
 *
 * It is nobody, with the two capabilities that loading takes, and with none once that is done; it can start no process and write no
 * file. It ends when its supervisor hangs up, and with the guard. What its probe had attached ends with it.
 */
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "bpf/probe.h"
#include "protocol/witness_msg.h"
#include "supervisor/nobody.h"

#define RING_HOLDS  128           /* records, at the most: 64 KiB */
#define BURST       64            /* records that are passed on in one window: a node that moves without a pause fills the ring, and is counted */
#define WINDOW_SPAN (100 * NSEC_PER_MSEC)

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
        int r = nobody_become();

        if (r) {
                record.error = -r;
                (void)snprintf(record.to, sizeof(record.to), "cannot give up its privileges: %s", strerror(-r));
                return say(sock, record);
        }
        nobody_hand_over(false); /* it hands over nothing */
        r = leave_probe_new(&probe, &(LeaveProbeSpec){.cgroup_id = cgroup_id}, &reason);
        if (!r)
                r = leave_probe_look(probe);
        if (r) {
                record.error = reason.err ? reason.err : r < 0 ? -r : 0;
                (void)snprintf(record.to, sizeof(record.to), "%s", reason.text[0] ? reason.text : strerror(record.error));
                return say(sock, record);
        }
        (void)malloc_trim(0);
        r = nobody_drop();
        if (!r)
                r = say(sock, (struct witness_record){.type = WITNESS_MSG_READY, .ms = (uint32_t)((clock_now() - begin) / NSEC_PER_MSEC)});
        return r ? r : watch(probe, sock);
}

int main(int argc, char **argv)
{
        int sock = argc >= 3 ? atoi(argv[1]) : -1;

        if (sock <= STDERR_FILENO) {
                fprintf(stderr, "tidegate-witness is started by tidegated\n");
                return 2;
        }
        if (nobody_begin("tidegate-witness", sock))
                return 1;
        return be_witness(STDIN_FILENO, strtoull(argv[2], NULL, 10)) ? 1 : 0;
}
