/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a message costs: no system call while both sides are awake, no page fault in the steady state, little memory.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "tests/node/harness.h"

static Flow *flow;
static _Atomic uint64_t *shared;

enum { READY, TAKEN, FAULTS, RESULT };

#define N_COUNTED UINT64_C(20000)

static int send_for_ever(tg_node *node, void *arg)
{
        for (uint64_t i = 0; !tg_should_stop(node); i++) {
                uint64_t bytes[100] = {i};

                NODE_CHECK(tg_send(node, "out", bytes, i % 2 ? sizeof(bytes) : 8, NULL) == 0);
        }
        return 0;
}

/* Takes without ever waiting, so that it is always awake. */
static int take_awake(tg_node *node, void *arg)
{
        bool stop = false;
        tg_event *ev;

        while (!stop) {
                int r = tg_next(node, &ev, 0);

                if (r == TG_E_TIMEOUT)
                        continue;
                NODE_CHECK(r == 0);
                stop = tg_event_type(ev) == TG_EVENT_STOP;
                tg_event_free(ev);
                shared[TAKEN]++;
        }
        return 0;
}

typedef struct Count {
        uint64_t all, waits, ioctls, sends;
} Count;

static void count_stop(Count *count, pid_t pid)
{
        struct __ptrace_syscall_info info; /* glibc's name for it */

        cr_assert_gt(ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info), 0);
        if (info.op != PTRACE_SYSCALL_INFO_ENTRY || info.entry.nr == SYS_rt_sigaction)
                return; /* to attach interrupts a wait, and the library then asks whether a handler did */
        count->all++;
        count->ioctls += info.entry.nr == SYS_ioctl;
        count->sends += info.entry.nr == SYS_sendto;
        count->waits += info.entry.nr == SYS_epoll_pwait;
#ifdef SYS_epoll_wait
        count->waits += info.entry.nr == SYS_epoll_wait;
#endif
}

static void seize(pid_t pid)
{
        int status;

        cr_assert_eq(ptrace(PTRACE_SEIZE, pid, NULL, PTRACE_O_TRACESYSGOOD), 0);
        cr_assert_eq(ptrace(PTRACE_INTERRUPT, pid, NULL, NULL), 0);
        cr_assert_eq(waitpid(pid, &status, __WALL), pid);
        cr_assert_eq(ptrace(PTRACE_SYSCALL, pid, NULL, NULL), 0);
}

static void let_go(pid_t pid)
{
        int status;

        cr_assert_eq(ptrace(PTRACE_INTERRUPT, pid, NULL, NULL), 0);
        cr_assert_eq(waitpid(pid, &status, __WALL), pid);
        cr_assert_eq(ptrace(PTRACE_DETACH, pid, NULL, NULL), 0);
}

/* System calls of one process, counted by stopping it at each one's entry, while it goes through n messages. */
static Count count_syscalls(pid_t pid, uint64_t n)
{
        uint64_t until = shared[TAKEN] + n;
        Count count = {};
        nsec_t deadline = clock_now() + 20 * NSEC_PER_SEC;
        int status;

        seize(pid);
        while (shared[TAKEN] < until) {
                cr_assert_lt(clock_now(), deadline);
                if (waitpid(pid, &status, __WALL | WNOHANG) != pid) {
                        (void)sched_yield();
                        continue;
                }
                cr_assert(WIFSTOPPED(status));
                if (WSTOPSIG(status) == (SIGTRAP | 0x80))
                        count_stop(&count, pid);
                cr_assert_eq(ptrace(PTRACE_SYSCALL, pid, NULL, NULL), 0);
        }
        let_go(pid);
        return count;
}

static void two_awake(FlowLinkSpec spec, int *ret_source, int *ret_sink)
{
        flow = flow_new();
        shared = flow_shared(flow);
        *ret_source = flow_node(flow, "source", send_for_ever, NULL);
        *ret_sink = flow_node(flow, "sink", take_awake, NULL);
        flow_link(flow, *ret_source, flow_output(flow, *ret_source, "out", 64, 1000, 100), *ret_sink, "in", spec);
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 10, shared[TAKEN] > 1000));
}

/* drop_oldest never waits, so with a consumer that polls neither side has a reason to call the kernel. A look at the
 * supervisor's socket every 50 ms is all that is left. */
Test(cost, no_system_call_per_message_while_both_are_awake, .timeout = 60)
{
        nsec_t began;
        uint64_t n[2], allowed;
        int nodes[2];

        two_awake((FlowLinkSpec){.queue_size = 64}, &nodes[0], &nodes[1]);
        for (unsigned i = 0; i < 2; i++) {
                began = clock_now();
                n[i] = count_syscalls(flow_pid(flow, nodes[i]), N_COUNTED).all;
                allowed = 4 + 2 * ((clock_now() - began) / (50 * NSEC_PER_MSEC));
                cr_expect_leq(n[i], allowed, "%s made %lu system calls in %lu messages", i ? "sink" : "source",
                        (unsigned long)n[i], (unsigned long)N_COUNTED);
        }
        flow_stop(flow, nodes[0], NSEC_PER_SEC);
        flow_stop(flow, nodes[1], NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(flow, 10, flow_exited(flow, nodes[0], NULL) && flow_exited(flow, nodes[1], NULL)));
        flow_close(flow);
}

/* The counter is honest: a consumer that sleeps between messages does make system calls. Two a sleep: its own, and one of who wakes it. */
static int take_asleep(tg_node *node, void *arg)
{
        tg_event *ev;

        while (tg_next(node, &ev, TG_FOREVER) == 0) {
                bool stop = tg_event_type(ev) == TG_EVENT_STOP;

                tg_event_free(ev);
                if (stop)
                        return 0;
                shared[TAKEN]++;
        }
        return 1;
}

static int send_when_asleep(tg_node *node, void *arg)
{
        for (uint64_t i = 0; !tg_should_stop(node); i++) {
                NODE_CHECK(tg_send(node, "out", &i, 8, NULL) == 0);
                for (nsec_t until = clock_now() + 200 * NSEC_PER_USEC; clock_now() < until;)
                        ;
        }
        return 0;
}

static void who_sleeps_polls_and_does_little_else(bool doorbells)
{
        uint64_t sleeps, allowed;
        nsec_t began;
        Count n;
        int a, b;

        flow = flow_new();
        if (!doorbells)
                flow_without_doorbells(flow);
        shared = flow_shared(flow);
        a = flow_node(flow, "source", send_when_asleep, NULL);
        b = flow_node(flow, "sink", take_asleep, NULL);
        flow_wait_mode(flow, b, NODE_WAIT_BLOCK);
        /* A queue of one: who is late, for others have the processors, finds one message and sleeps again, as it does between any two. */
        flow_link(flow, a, flow_output(flow, a, "out", 64, 1000, 100), b, "in", (FlowLinkSpec){.queue_size = 1});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 10, shared[TAKEN] > 100));
        began = clock_now();
        n = count_syscalls(flow_pid(flow, b), 250);
        cr_assert_gt(n.waits, 100);
        allowed = n.waits / 8 + 5 + (clock_now() - began) / (50 * NSEC_PER_MSEC); /* doorbells are emptied rarely; a look at the supervisor's socket is due by time */
        cr_assert_lt(n.all - n.waits, allowed, "%lu system calls beside %lu waits", (unsigned long)(n.all - n.waits), (unsigned long)n.waits);

        began = clock_now();
        sleeps = flow_bell(flow, b).n_sleeps;
        n = count_syscalls(flow_pid(flow, a), 200);
        sleeps = flow_bell(flow, b).n_sleeps - sleeps;
        allowed = 8 + 2 * ((clock_now() - began) / (50 * NSEC_PER_MSEC)); /* looks at the supervisor's socket */
        cr_assert_gt(sleeps, 20);
        cr_assert_leq(n.all, sleeps + allowed, "%lu system calls for %lu sleeps", (unsigned long)n.all, (unsigned long)sleeps);
        cr_assert_gt(flow_has_doorbells(flow) ? n.ioctls : n.sends, 0);
        cr_assert_eq(flow_has_doorbells(flow) ? n.sends : n.ioctls, 0, "it rings both ways");
        flow_close(flow);
}

Test(cost, one_that_sleeps_between_messages_polls_and_does_little_else, .timeout = 60)
{
        who_sleeps_polls_and_does_little_else(true);
}

Test(cost, one_that_sleeps_between_messages_does_so_where_it_is_rung_for_by_the_socket, .timeout = 60)
{
        who_sleeps_polls_and_does_little_else(false);
}

/* -------- a batch -------- */

#define N_BATCH 200u

static int send_a_batch(tg_node *node, void *arg)
{
        static const uint8_t bytes[500];
        tg_message m[N_BATCH];
        size_t n;

        for (unsigned i = 0; i < N_BATCH; i++)
                m[i] = (tg_message){bytes, i % 2 ? sizeof(bytes) : 8, NULL};
        while (!shared[READY])
                (void)usleep(1000);
        NODE_CHECK(tg_send_batch(node, "out", m, N_BATCH, &n) == 0 && n == N_BATCH);
        shared[RESULT] = 1;
        while (!tg_should_stop(node))
                (void)usleep(1000);
        return 0;
}

/* Whether it has just rung. */
static bool has_rung(pid_t pid, bool *calls)
{
        struct __ptrace_syscall_info info;
        bool was_called = *calls;

        cr_assert_gt(ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info), 0);
        *calls = info.op == PTRACE_SYSCALL_INFO_ENTRY && (info.entry.nr == SYS_ioctl || info.entry.nr == SYS_sendto);
        return info.op == PTRACE_SYSCALL_INFO_EXIT && was_called;
}

/* How often it rings until it has sent: after each time it is held until @sink has taken what there is, and sleeps again. */
static unsigned count_rings(pid_t pid, int sink)
{
        nsec_t deadline = clock_now() + 20 * NSEC_PER_SEC;
        uint64_t sleeps = flow_bell(flow, sink).n_sleeps;
        bool calls = false;
        unsigned n = 0;
        int status;

        seize(pid);
        shared[READY] = 1;
        while (!shared[RESULT]) {
                cr_assert_lt(clock_now(), deadline);
                if (waitpid(pid, &status, __WALL | WNOHANG) != pid) {
                        (void)sched_yield();
                        continue;
                }
                cr_assert(WIFSTOPPED(status));
                if (WSTOPSIG(status) == (SIGTRAP | 0x80) && has_rung(pid, &calls)) {
                        n++;
                        cr_assert(FLOW_UNTIL(flow, 10, flow_bell(flow, sink).n_sleeps > sleeps), "who was rung for does not wake");
                        sleeps = flow_bell(flow, sink).n_sleeps;
                }
                cr_assert_eq(ptrace(PTRACE_SYSCALL, pid, NULL, NULL), 0);
        }
        let_go(pid);
        return n;
}

static void a_batch_rings_once(bool doorbells)
{
        unsigned n;
        int a, b;

        flow = flow_new();
        if (!doorbells)
                flow_without_doorbells(flow);
        shared = flow_shared(flow);
        a = flow_node(flow, "source", send_a_batch, NULL);
        b = flow_node(flow, "sink", take_asleep, NULL);
        flow_wait_mode(flow, b, NODE_WAIT_BLOCK);
        flow_link(flow, a, flow_output(flow, a, "out", N_BATCH, 500, N_BATCH + 14), b, "in", (FlowLinkSpec){.queue_size = N_BATCH});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 10, flow_bell(flow, b).n_sleeps > 0));
        n = count_rings(flow_pid(flow, a), b);
        cr_assert(FLOW_UNTIL(flow, 10, shared[TAKEN] == N_BATCH));
        cr_assert_eq(n, 1, "it rang %u times for %u messages", n, N_BATCH);
        flow_close(flow);
}

Test(cost, a_batch_wakes_a_sleeping_reader_once, .timeout = 60)
{
        a_batch_rings_once(true);
        a_batch_rings_once(false);
}

/* -------- page faults and memory -------- */

static uint64_t faults(void)
{
        struct rusage usage;

        NODE_CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
        return (uint64_t)(usage.ru_minflt + usage.ru_majflt);
}

static int count_faults(tg_node *node, void *arg)
{
        uint64_t before = 0;
        tg_event *ev;

        for (unsigned i = 0; i < 30000; i++) {
                if (i == 10000)
                        before = faults();
                NODE_CHECK(tg_next(node, &ev, TG_FOREVER) == 0);
                NODE_CHECK(tg_event_type(ev) == TG_EVENT_INPUT);
                tg_event_free(ev);
        }
        shared[FAULTS] = faults() - before;
        shared[RESULT] = 1;
        flow_note(flow);
        return 0;
}

static int send_and_count_faults(tg_node *node, void *arg)
{
        uint8_t bytes[5000] = {};
        uint64_t before = 0;

        for (unsigned i = 0; i < 30000; i++) {
                if (i == 10000)
                        before = faults();
                NODE_CHECK(tg_send(node, "out", bytes, i % 3 ? sizeof(bytes) : 100, NULL) == 0);
        }
        shared[READY] = faults() - before;
        return 0;
}

Test(cost, steady_messages_take_no_page_fault, .timeout = 60)
{
        int a, b;

#if defined(__SANITIZE_ADDRESS__)
        cr_skip("the sanitizer's own memory grows");
#endif
        flow = flow_new();
        shared = flow_shared(flow);
        a = flow_node(flow, "source", send_and_count_faults, NULL);
        b = flow_node(flow, "sink", count_faults, NULL);
        flow_link(flow, a, flow_output(flow, a, "out", 10, 5000, 24), b, "in", (FlowLinkSpec){.backpressure = true});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 30, flow_exited(flow, a, NULL) && flow_exited(flow, b, NULL)));
        cr_assert_eq(shared[RESULT], 1);
        cr_assert_leq(shared[READY], 2, "the sender took %lu faults", (unsigned long)shared[READY]);
        cr_assert_leq(shared[FAULTS], 2, "the receiver took %lu faults", (unsigned long)shared[FAULTS]);
        flow_close(flow);
}

/* Private memory of a C node that has received: heap, stacks and data of libc included, shared memory not. */
Test(cost, a_small_node_has_at_most_300_kib_of_its_own, .timeout = 60)
{
        const char *const argv[] = {TIDEGATE_PIPE, "--receive", NULL};
        char path[64], line[200];
        unsigned long kib = 0;
        int a, b, null = open("/dev/null", O_WRONLY | O_CLOEXEC);
        FILE *f;

#if defined(__SANITIZE_ADDRESS__)
        cr_skip("the sanitizer's own memory is counted");
#endif
        (void)unsetenv("MALLOC_PERTURB_"); /* meson sets it: calloc() then writes to pages that nobody uses otherwise */
        flow = flow_new();
        shared = flow_shared(flow);
        a = flow_node(flow, "source", send_when_asleep, NULL);
        b = flow_command(flow, "sink", argv, -1, null);
        flow_link(flow, a, flow_output(flow, a, "out", 64, 1000, 100), b, "in", (FlowLinkSpec){});
        flow_output(flow, b, "unused", 64, 1 << 20, 100);
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 10, flow_ring(flow, a, 0).head > 500));
        (void)snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)flow_pid(flow, b));
        f = fopen(path, "re");
        cr_assert_not_null(f);
        while (fgets(line, sizeof(line), f))
                (void)sscanf(line, "Anonymous: %lu kB", &kib);
        (void)fclose(f);
        cr_assert_gt(kib, 0);
        cr_assert_leq(kib, 300, "%lu KiB", kib);
        flow_close(flow);
        (void)fd_close(null);
}

/* Address space of the regions of ours in a process, pools apart. */
static unsigned long mapped_kib(pid_t pid)
{
        unsigned long sum = 0, begin, end;
        char path[64], line[500];
        FILE *f;

        (void)snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
        f = fopen(path, "re");
        cr_assert_not_null(f);
        while (fgets(line, sizeof(line), f))
                if (strstr(line, "memfd:tidegate-") && !strstr(line, "memfd:tidegate-pool") && sscanf(line, "%lx-%lx", &begin, &end) == 2)
                        sum += (end - begin) / 1024;
        (void)fclose(f);
        return sum;
}

static unsigned n_threads(pid_t pid)
{
        char path[64];
        unsigned n = 0;
        DIR *dir;

        (void)snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
        dir = opendir(path);
        cr_assert_not_null(dir);
        for (struct dirent *entry; (entry = readdir(dir));)
                n += entry->d_name[0] != '.';
        (void)closedir(dir);
        return n;
}

static int be_idle(tg_node *node, void *arg)
{
        tg_event *ev;

        shared[READY]++;
        flow_note(flow);
        if (tg_next(node, &ev, TG_FOREVER) == 0)
                tg_event_free(ev);
        return 0;
}

/* One source that feeds several sinks: what a link more adds to both its ends is what it takes, and counted twice where both map the same. */
Test(cost, an_idle_link_takes_at_most_64_kib_and_no_thread, .timeout = 60)
{
        enum { N = 8 };
        unsigned long sum = 0;
        int from, to[N], output;

        flow = flow_new();
        shared = flow_shared(flow);
        from = flow_node(flow, "source", be_idle, NULL);
        output = flow_output(flow, from, "out", 10, 1000, 10);
        for (int i = 0; i < N; i++) {
                char id[16];

                (void)snprintf(id, sizeof(id), "sink-%d", i);
                to[i] = flow_node(flow, id, be_idle, NULL);
                flow_link(flow, from, output, to[i], "in", (FlowLinkSpec){});
        }
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 10, shared[READY] == N + 1));
        sum = mapped_kib(flow_pid(flow, from));
        cr_assert_gt(sum, 0);
        for (int i = 0; i < N; i++) {
                sum += mapped_kib(flow_pid(flow, to[i]));
                cr_assert_eq(n_threads(flow_pid(flow, to[i])), 1);
        }
        cr_assert_eq(n_threads(flow_pid(flow, from)), 1);
        cr_assert_leq(sum / N, 64, "%lu KiB a link, what several share counted with each", sum / N);
        flow_close(flow);
}
