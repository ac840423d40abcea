/* SPDX-License-Identifier: Apache-2.0 */
/* The exit probe against the running kernel: real cgroups, real processes. Skipped, with the reason, without privilege. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "bpf/probe.h"
#include "places.h"

#define DEADLINE (5 * NSEC_PER_SEC)

static const char *const places[] = {"in", "in/below"};

typedef struct Fixture {
        uint64_t cgroup_id;
        ExitProbe *probe;
        int n_fds;
} Fixture;

static int count_fds(void)
{
        int n = 0;

        for (int fd = 0; fd < 1024; fd++)
                n += fcntl(fd, F_GETFD) >= 0;
        return n;
}

/* Makes a cgroup of its own and loads the probe on it; skips the test where that cannot be. */
static Fixture fixture_open(uint32_t ring_bytes)
{
        ProbeReason reason;
        Fixture fx = {.n_fds = count_fds()};
        int r;

        places_open("exit", places, ELEMENTSOF(places));
        fx.cgroup_id = place_id("in");
        r = exit_probe_new(&fx.probe, &(ExitProbeSpec){.cgroup_id = fx.cgroup_id, .ring_bytes = ring_bytes}, &reason);
        if (r == PROBE_E_UNAVAILABLE) {
                places_close();
                cr_skip_test("probe unavailable: %s (errno %d)", reason.text, reason.err);
        }
        cr_assert_eq(r, 0);
        return fx;
}

static void fixture_close(Fixture *fx)
{
        fx->probe = exit_probe_free(fx->probe);
        places_close();
        cr_expect_eq(count_fds(), fx->n_fds);
}

/* Runs body in a child, inside the cgroup if one is given. */
static pid_t start_child(const char *name, void (*body)(void))
{
        pid_t pid = name ? place_fork(name) : fork();

        if (pid == 0) {
                body();
                _exit(112);
        }
        cr_assert_gt(pid, 0);
        return pid;
}

static int wait_child(pid_t pid)
{
        int status = -1;

        cr_assert_eq(waitpid(pid, &status, 0), pid);
        return status;
}

static int run_child(const char *name, void (*body)(void))
{
        return wait_child(start_child(name, body));
}

static void exit_7(void)
{
        _exit(7);
}

static void exit_9(void)
{
        _exit(9);
}

static void die_by_sigkill(void)
{
        (void)raise(SIGKILL);
}

static void *leave_at_once(void *go)
{
        while (!atomic_load((_Atomic bool *)go))
                ;
        (void)syscall(SYS_exit, 7); /* this thread only */
        return NULL;
}

/* Threads that each leave by themselves in the same moment: the one in which each may take itself for the last. */
static void threads_leave_together(void)
{
        static _Atomic bool go;
        pthread_t thread;

        for (int i = 0; i < 3; i++)
                if (pthread_create(&thread, NULL, leave_at_once, &go) != 0)
                        _exit(113);
        atomic_store(&go, true);
        (void)leave_at_once(&go);
}

static void *exit_7_as_thread(void *arg)
{
        exit_7();
        return arg;
}

static void exit_7_from_a_thread(void)
{
        pthread_t thread;

        if (pthread_create(&thread, NULL, exit_7_as_thread, NULL) != 0)
                _exit(113);
        for (;;)
                (void)pause();
}

static int gate[2]; /* the thread that outlives its leader waits for the write end's last holder */

static void *outlive_the_leader(void *arg)
{
        char byte;

        (void)!read(gate[0], &byte, 1);
        return NULL;
}

/* The leader ends by itself while a thread lives on. */
static void leader_first(void)
{
        pthread_t thread;

        (void)close(gate[1]);
        if (pthread_create(&thread, NULL, outlive_the_leader, NULL) != 0)
                _exit(113);
        (void)syscall(SYS_exit, 5); /* this thread only */
}

static char process_state(pid_t pid)
{
        char path[64], line[256] = "", *end;
        FILE *f;

        (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        f = fopen(path, "re");
        if (!f)
                return '?';
        (void)!fread(line, 1, sizeof(line) - 1, f);
        (void)fclose(f);
        end = strrchr(line, ')');
        return end && end[1] ? end[2] : '?';
}

static size_t read_events(Fixture *fx, struct exit_event *events, size_t n_wanted, nsec_t deadline)
{
        struct pollfd pfd = {.fd = exit_probe_fd(fx->probe), .events = POLLIN};
        size_t n = 0, taken;

        while (n < n_wanted && poll(&pfd, 1, nsec_poll_ms(deadline, clock_now())) > 0) {
                cr_assert_eq(exit_probe_read(fx->probe, events + n, n_wanted - n, &taken), 0);
                n += taken;
        }
        return n;
}

Test(bpf_exit, a_process_in_the_cgroup_leaves_one_record_and_one_outside_none, .timeout = 20)
{
        Fixture fx = fixture_open(0);
        nsec_t before = clock_now();
        struct exit_event events[2];
        struct stat pidns;
        pid_t pid;

        cr_assert_eq(WEXITSTATUS(run_child(NULL, exit_9)), 9);
        pid = start_child("in", exit_7);
        cr_assert_eq(WEXITSTATUS(wait_child(pid)), 7);
        cr_assert_eq(WEXITSTATUS(run_child(NULL, exit_9)), 9);

        cr_assert_eq(read_events(&fx, events, 1, clock_now() + DEADLINE), 1);
        cr_assert(WIFEXITED(events[0].status));
        cr_assert_eq(WEXITSTATUS(events[0].status), 7);
        cr_assert_eq(events[0].cgroup_id, fx.cgroup_id);
        cr_assert(events[0].ts_ns >= before && events[0].ts_ns <= clock_now());
        if (stat("/proc/self/ns/pid", &pidns) == 0 && pidns.st_ino == 0xeffffffc) /* the initial PID namespace */
                cr_assert_eq(events[0].tgid, (uint32_t)pid);

        /* The outsiders were reaped before this point: a record of theirs would be here now. */
        cr_assert_eq(read_events(&fx, events, 1, 0), 0);
        cr_assert_eq(exit_probe_dropped(fx.probe), 0);
        fixture_close(&fx);
}

Test(bpf_exit, the_status_is_the_one_that_wait_reports, .timeout = 20)
{
        void (*const bodies[])(void) = {exit_7, die_by_sigkill, exit_7_from_a_thread, threads_leave_together};
        Fixture fx = fixture_open(0);
        struct exit_event events[2];

        for (size_t i = 0; i < ELEMENTSOF(bodies); i++) {
                int status = run_child("in", bodies[i]);

                cr_assert_eq(read_events(&fx, events, 1, clock_now() + DEADLINE), 1, "body %zu", i);
                cr_expect_eq(events[0].status, status, "body %zu: %#x, wait says %#x", i, events[0].status, status);
                cr_expect_eq(read_events(&fx, events, 1, 0), 0, "body %zu: a second record", i);
        }
        fixture_close(&fx);
}

Test(bpf_exit, a_process_whose_leader_has_left_is_reported_when_its_last_thread_ends, .timeout = 20)
{
        Fixture fx = fixture_open(0);
        struct exit_event event;
        nsec_t deadline = clock_now() + DEADLINE;
        int status;
        pid_t pid;

        cr_assert_eq(pipe2(gate, O_CLOEXEC), 0);
        pid = start_child("in", leader_first);
        while (process_state(pid) != 'Z' && clock_now() < deadline)
                (void)sched_yield();
        cr_assert_eq(process_state(pid), 'Z');
        cr_assert_eq(read_events(&fx, &event, 1, 0), 0, "reported while a thread lives");

        (void)close(gate[1]);
        (void)close(gate[0]);
        status = wait_child(pid);
        cr_assert(WIFEXITED(status), "%#x", status);
        cr_assert_eq(read_events(&fx, &event, 1, clock_now() + DEADLINE), 1);
        cr_assert_eq(event.status, status, "%#x, wait says %#x", event.status, status);
        cr_assert_eq(read_events(&fx, &event, 1, 0), 0);
        fixture_close(&fx);
}

Test(bpf_exit, threads_that_leave_together_are_one_process, .timeout = 60)
{
        Fixture fx = fixture_open(0);
#ifdef __SANITIZE_ADDRESS__
        const int rounds = 100; /* forking with a sanitizer's shadow is slow, and the race is the kernel's anyway */
#else
        const int rounds = 1000;
#endif
        struct exit_event events[2];

        for (int i = 0; i < rounds; i++) {
                (void)run_child("in", threads_leave_together);
                cr_assert_eq(read_events(&fx, events, 1, clock_now() + DEADLINE), 1);
                cr_assert_eq(read_events(&fx, events, 1, 0), 0, "a second record in round %d", i);
        }
        fixture_close(&fx);
}

Test(bpf_exit, a_process_in_a_cgroup_below_is_reported_with_its_own_cgroup, .timeout = 20)
{
        Fixture fx = fixture_open(0);
        struct exit_event event;

        (void)run_child("in/below", exit_7);
        cr_assert_eq(read_events(&fx, &event, 1, clock_now() + DEADLINE), 1);
        cr_assert_eq(event.cgroup_id, place_id("in/below"));
        fixture_close(&fx);
}

Test(bpf_exit, a_full_ring_counts_what_it_drops, .timeout = 60)
{
        enum { N = 200 }; /* a ring of one page holds 4096 / (24 + 8) = 128 */
        Fixture fx = fixture_open((uint32_t)sysconf(_SC_PAGESIZE));
        struct exit_event events[N];
        size_t n;

        for (int i = 0; i < N; i++)
                (void)run_child("in", exit_7);
        n = read_events(&fx, events, N, clock_now() + NSEC_PER_MSEC);
        cr_expect_lt(n, N);
        cr_expect_gt(n, 0);
        cr_expect_eq(n + exit_probe_dropped(fx.probe), N);

        /* and the ring is usable again */
        (void)run_child("in", exit_9);
        cr_expect_eq(read_events(&fx, events, 1, clock_now() + DEADLINE), 1);
        cr_expect_eq(WEXITSTATUS(events[0].status), 9);
        fixture_close(&fx);
}

Test(bpf_exit, without_privilege_the_probe_is_unavailable_and_says_why, .timeout = 20)
{
        ExitProbe *probe = (void *)1;
        ProbeReason reason;
        int fds = count_fds(), r;

        if (geteuid() == 0 && (setgroups(0, NULL) < 0 || setresgid(65534, 65534, 65534) < 0 ||
                setresuid(65534, 65534, 65534) < 0))
                cr_skip_test("cannot drop privileges");
        r = exit_probe_new(&probe, &(ExitProbeSpec){.cgroup_id = 1}, &reason);
        cr_assert_eq(r, PROBE_E_UNAVAILABLE);
        cr_assert_eq(probe, (void *)1, "the output is written only on success");
        cr_assert_neq(reason.err, 0);
        cr_assert_neq(reason.text[0], '\0');
        cr_assert_eq(count_fds(), fds);
}

Test(bpf_exit, cgroup_id_0_is_refused)
{
        ExitProbe *probe = NULL;
        int r = exit_probe_new(&probe, &(ExitProbeSpec){.cgroup_id = 0}, NULL);

        cr_assert(r == -EINVAL || r == PROBE_E_UNAVAILABLE, "%d", r);
        cr_assert_null(probe);
}
