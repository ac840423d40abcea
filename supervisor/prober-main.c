/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tidegate-prober: loads the kernel probe that counts system calls and hands the memory in which it counts to the supervisor that had it started
 * (protocol/prober_msg.h). The guard starts it; nothing depends on it.
 *
 * It is nobody, with the two capabilities that loading takes, and with none once that is done; it can start no process and write no file. Then it
 * only holds what it has attached, for to let go of that takes the kernel tens of milliseconds, which nobody's loop has: it ends when its
 * supervisor hangs up, and with the guard, and all of it with it.
 */
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/send.h"
#include "bpf/call.h"
#include "bpf/probe.h"
#include "protocol/prober_msg.h"
#include "supervisor/nobody.h"

static int say(int sock, struct prober_record *record, const int *fds, size_t n_fds)
{
        record->magic = PROBER_MAGIC;
        return send_message(sock, record, sizeof(*record), fds, n_fds, 0) == (ssize_t)sizeof(*record) ? 0 : -errno;
}

static int refuse(int sock, int error, const char *text)
{
        struct prober_record record = {.type = PROBER_MSG_UNAVAILABLE, .error = error};

        (void)snprintf(record.text, sizeof(record.text), "%s", text);
        return say(sock, &record, NULL, 0);
}

/* Nothing is said to us: whatever comes is the end. */
static int hold(int sock)
{
        struct pollfd p = {.fd = sock, .events = POLLIN};

        while (poll(&p, 1, -1) < 0 && errno == EINTR)
                ;
        return 0;
}

static int be_prober(int sock, uint64_t cgroup_id, uint32_t n_places)
{
        struct prober_record record = {.type = PROBER_MSG_READY};
        nsec_t begin = clock_now();
        CallProbe *probe = NULL;
        CallProbeCost cost;
        ProbeReason reason = {};
        char why[128];
        int r = nobody_become();

        if (r) {
                (void)snprintf(why, sizeof(why), "the prober cannot give up its privileges: %s", strerror(-r));
                return refuse(sock, -r, why);
        }
        r = call_probe_new(&probe, &(CallProbeSpec){.cgroup_id = cgroup_id, .n_slots = n_places}, &reason);
        if (r) {
                (void)snprintf(why, sizeof(why), "%s", strerror(r < 0 ? -r : reason.err));
                return refuse(sock, reason.err ? reason.err : r < 0 ? -r : 0, reason.text[0] ? reason.text : why);
        }
        r = nobody_drop();
        if (r)
                return r;
        (void)malloc_trim(0);
        cost = call_probe_cost(probe);
        record.call_ns = cost.call_ns;
        record.other_call_ns = cost.other_ns;
        record.load_ms = (uint32_t)((clock_now() - begin) / NSEC_PER_MSEC);
        nobody_hand_over(true);
        r = say(sock, &record, (int[]){call_probe_fd(probe, CALL_PROBE_FD_WATCHED), call_probe_fd(probe, CALL_PROBE_FD_SLOTS)}, _PROBER_FD_MAX);
        nobody_hand_over(false);
        return r ? r : hold(sock);
}

int main(int argc, char **argv)
{
        int sock = argc == 4 ? atoi(argv[1]) : -1;
        unsigned long n_places = argc == 4 ? strtoul(argv[3], NULL, 10) : 0;

        if (sock <= STDERR_FILENO || n_places < 1 || n_places > CALL_SLOTS_MAX) {
                fprintf(stderr, "tidegate-prober is started by tidegated\n");
                return 2;
        }
        if (nobody_begin("tidegate-prober", sock))
                return 1;
        return be_prober(STDIN_FILENO, strtoull(argv[2], NULL, 10), (uint32_t)n_places) ? 1 : 0;
}
