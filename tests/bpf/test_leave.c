/* SPDX-License-Identifier: Apache-2.0 */
/* The probe of who leaves, against the running kernel: real cgroups, real processes. Skipped, with the reason, without privilege. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "bpf/probe.h"
#include "places.h"

#define DEADLINE (5 * NSEC_PER_SEC)

static const char *const places[] = {"in", "in/flow", "in/flow/a.1", "in/flow/a.1/below", "in/flow/b.1", "in/other", "in/other/a.1", "out"};

typedef struct Fixture {
        uint64_t cgroup_id;
        LeaveProbe *probe;
        bool is_initial_pidns;
} Fixture;

static Fixture fx;

static void close_fixture(void)
{
        fx.probe = leave_probe_free(fx.probe);
        places_close();
}

static void fixture_load(uint32_t ring_bytes)
{
        ProbeReason reason;
        int r = leave_probe_new(&fx.probe, &(LeaveProbeSpec){.cgroup_id = fx.cgroup_id, .ring_bytes = ring_bytes}, &reason);

        if (r == PROBE_E_UNAVAILABLE) {
                close_fixture(); /* a test that is skipped has no end */
                cr_skip_test("probe unavailable: %s (errno %d)", reason.text, reason.err);
        }
        cr_assert_eq(r, 0);
        cr_assert_eq(leave_probe_look(fx.probe), 0);
}

static void open_fixture(void)
{
        struct stat st;

        places_open("leave", places, ELEMENTSOF(places));
        fx.cgroup_id = place_id("in");
        fx.is_initial_pidns = stat("/proc/self/ns/pid", &st) == 0 && st.st_ino == 0xeffffffc;
        cr_assert_eq(prctl(PR_SET_CHILD_SUBREAPER, 1), 0); /* orphans come to us */
}

TestSuite(bpf_leave, .init = open_fixture, .fini = close_fixture, .timeout = 20);

/* ---- puppets: a process that does one thing after the other, as it is told */

typedef struct Puppet {
        pid_t pid;
        int go;
} Puppet;

static int puppet_go; /* in the puppet: the read end */

static void pause_here(void)
{
        char byte;

        if (read(puppet_go, &byte, 1) != 1) /* the test has gone */
                _exit(0);
}

static void move_to(const char *name, pid_t pid)
{
        int fd = open(place(name, "cgroup.procs"), O_WRONLY | O_CLOEXEC);
        char text[16];
        int n = snprintf(text, sizeof(text), "%d", (int)pid);

        if (fd < 0 || write(fd, text, (size_t)n) != n)
                _exit(111);
        (void)close(fd);
}

/* Born in the cgroup @name, as nodes are. */
static Puppet puppet_start(const char *name, void (*body)(void))
{
        int fds[2];
        Puppet ret;

        cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
        ret.pid = place_fork(name);
        cr_assert_geq(ret.pid, 0);
        if (ret.pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                (void)close(fds[1]);
                puppet_go = fds[0];
                body();
                _exit(0);
        }
        (void)close(fds[0]);
        ret.go = fds[1];
        return ret;
}

static void puppet_step(const Puppet *puppet)
{
        cr_assert_eq(write(puppet->go, "", 1), 1);
}

static void puppet_end(Puppet *puppet)
{
        (void)close(puppet->go); /* also of whoever it left */
        (void)kill(puppet->pid, SIGKILL);
        (void)waitpid(puppet->pid, NULL, 0);
}

/* ---- what is told */

static size_t read_events(struct leave_event *events, size_t n_wanted, nsec_t deadline)
{
        struct pollfd pfd = {.fd = leave_probe_fd(fx.probe), .events = POLLIN};
        size_t n = 0, taken;

        while (n < n_wanted && poll(&pfd, 1, nsec_poll_ms(deadline, clock_now())) > 0) {
                cr_assert_eq(leave_probe_read(fx.probe, events + n, n_wanted - n, &taken), 0);
                n += taken;
        }
        return n;
}

static struct leave_event next_event(void)
{
        struct leave_event event;

        cr_assert_eq(read_events(&event, 1, clock_now() + DEADLINE), 1);
        return event;
}

static void expect_no_event(void)
{
        struct leave_event event;

        cr_expect_eq(read_events(&event, 1, 0), 0, "kind %u, process %u (%s) of %s/%s", event.kind, event.pid, event.comm, event.group, event.name);
}

static void expect_event(const struct leave_event *event, enum leave_kind kind, pid_t pid, const char *home)
{
        char said[sizeof(event->group) + sizeof(event->name)];

        (void)snprintf(said, sizeof(said), "%s/%s", event->group, event->name);
        cr_expect_eq(event->kind, kind);
        cr_expect_str_eq(said, home);
        if (fx.is_initial_pidns && pid)
                cr_expect_eq(event->pid, (uint32_t)pid);
}

/* ---- */

static void leave_by_itself(void)
{
        pause_here();
        move_to("out", getpid());
        pause_here();
}

Test(bpf_leave, whoever_moves_itself_out_is_told_once_with_all_there_is_to_know)
{
        struct leave_event event;
        nsec_t before = clock_now();
        Puppet puppet;

        fixture_load(0);
        puppet = puppet_start("in/flow/a.1", leave_by_itself);
        puppet_step(&puppet);
        event = next_event();
        expect_event(&event, LEAVE_MOVED, puppet.pid, "flow/a.1");
        cr_expect_eq(event.self, 1);
        cr_expect_eq(event.mover, event.pid);
        cr_expect(event.ts_ns >= before && event.ts_ns <= clock_now());
        cr_expect_neq(event.start_ns, 0);
        cr_expect_str_eq(event.comm, event.mover_comm);
        cr_expect(strstr(event.to, "/out"), "%s", event.to);
        expect_no_event();
        puppet_end(&puppet);
}

static void fork_and_leave(void)
{
        pause_here();
        if (fork() > 0)
                pause_here();
        move_to("out", getpid());
        pause_here();
}

Test(bpf_leave, whoever_is_forked_by_a_node_is_of_that_node)
{
        struct leave_event event;
        Puppet puppet;

        fixture_load(0);
        puppet = puppet_start("in/flow/b.1", fork_and_leave);
        puppet_step(&puppet);
        event = next_event();
        expect_event(&event, LEAVE_MOVED, 0, "flow/b.1");
        if (fx.is_initial_pidns)
                cr_expect_neq(event.pid, (uint32_t)puppet.pid);
        expect_no_event();
        puppet_end(&puppet);
}

static void wait_to_be_moved(void)
{
        pause_here();
}

Test(bpf_leave, whoever_is_moved_by_another_is_told_with_that_one)
{
        struct leave_event event;
        Puppet puppet;

        fixture_load(0);
        puppet = puppet_start("in/flow/a.1/below", wait_to_be_moved);
        move_to("out", puppet.pid);
        event = next_event();
        expect_event(&event, LEAVE_MOVED, puppet.pid, "flow/a.1");
        cr_expect_eq(event.self, 0);
        if (fx.is_initial_pidns)
                cr_expect_eq(event.mover, (uint32_t)getpid());
        puppet_end(&puppet);
}

Test(bpf_leave, a_move_that_stays_within_is_nobody_s_business)
{
        Puppet puppet;

        fixture_load(0);
        puppet = puppet_start("in/flow/a.1", wait_to_be_moved);
        move_to("in/flow/a.1/below", puppet.pid);
        move_to("in/flow/a.1", puppet.pid);
        move_to("in/flow", puppet.pid);     /* by somebody who is no node */
        move_to("in/flow/b.1", puppet.pid); /* likewise */
        expect_no_event();
        move_to("in/other", puppet.pid);
        (void)next_event();
        puppet_end(&puppet);
}

static void go_to_the_neighbour(void)
{
        pause_here();
        move_to("in/flow/b.1", getpid());
        pause_here();
}

Test(bpf_leave, a_node_that_moves_itself_to_another_of_its_group_is_told)
{
        struct leave_event event;
        Puppet puppet;

        fixture_load(0);
        puppet = puppet_start("in/flow/a.1", go_to_the_neighbour);
        puppet_step(&puppet);
        event = next_event();
        expect_event(&event, LEAVE_MOVED, puppet.pid, "flow/a.1");
        puppet_end(&puppet);
}

static void be_born_elsewhere(void)
{
        pause_here();
        if (place_fork("out") > 0)
                pause_here();
        pause_here();
}

Test(bpf_leave, whoever_is_born_elsewhere_is_told_with_its_parent)
{
        struct leave_event event;
        Puppet puppet;

        fixture_load(0);
        puppet = puppet_start("in/flow/a.1", be_born_elsewhere);
        puppet_step(&puppet);
        event = next_event();
        expect_event(&event, LEAVE_BORN, 0, "flow/a.1");
        cr_expect_eq(event.self, 0);
        cr_expect_neq(event.pid, event.mover);
        if (fx.is_initial_pidns)
                cr_expect_eq(event.mover, (uint32_t)puppet.pid);
        expect_no_event();
        puppet_end(&puppet);
}

/* Out; then a grandchild with a session of its own, whose parents have ended. */
static void leave_and_hide(void)
{
        pause_here();
        move_to("out", getpid());
        if (fork() > 0)
                _exit(0);
        (void)setsid();
        if (fork() > 0)
                _exit(0);
        pause_here();
}

Test(bpf_leave, a_look_finds_whom_somebody_left_who_has_left)
{
        struct leave_event event;
        Puppet puppet;

        fixture_load(0);
        puppet = puppet_start("in/flow/a.1", leave_and_hide);
        puppet_step(&puppet);
        event = next_event();
        expect_event(&event, LEAVE_MOVED, puppet.pid, "flow/a.1");
        (void)waitpid(puppet.pid, NULL, 0);
        cr_assert_gt(waitpid(-1, NULL, 0), 0); /* its child, which has become ours */
        cr_assert_eq(leave_probe_look(fx.probe), 0);
        event = next_event();
        expect_event(&event, LEAVE_FOUND, 0, "flow/a.1");
        cr_expect_eq(event.self, 1, "what it comes from moved itself");
        expect_no_event();
        if (fx.is_initial_pidns)
                cr_expect_eq(kill((pid_t)event.pid, SIGKILL), 0);
        puppet_end(&puppet);
        cr_assert_eq(leave_probe_look(fx.probe), 0);
        expect_no_event();
}

Test(bpf_leave, whoever_was_there_before_is_known_after_a_look)
{
        struct leave_event event;
        Puppet puppet = puppet_start("in/flow/a.1", leave_by_itself);

        fixture_load(0);
        puppet_step(&puppet);
        event = next_event();
        expect_event(&event, LEAVE_MOVED, puppet.pid, "flow/a.1");
        puppet_end(&puppet);
}

Test(bpf_leave, whoever_is_moved_in_is_known)
{
        struct leave_event event;
        Puppet puppet;

        fixture_load(0);
        puppet = puppet_start("out", leave_by_itself);
        move_to("in/other/a.1", puppet.pid);
        expect_no_event();
        puppet_step(&puppet);
        event = next_event();
        expect_event(&event, LEAVE_MOVED, puppet.pid, "other/a.1");
        puppet_end(&puppet);
}

Test(bpf_leave, strangers_move_as_they_like)
{
        Puppet puppet;

        fixture_load(0);
        puppet = puppet_start("out", wait_to_be_moved);
        move_to("", puppet.pid);
        move_to("in", puppet.pid); /* no home */
        move_to("out", puppet.pid);
        expect_no_event();
        cr_assert_eq(leave_probe_look(fx.probe), 0);
        expect_no_event();
        puppet_end(&puppet);
}

static void *become_another(void *arg)
{
        (void)arg;
        (void)execl("/bin/sh", "sh", "-c", "read _; echo $$ >\"$0\"; read _", place("out", "cgroup.procs"), NULL);
        _exit(112);
}

/* The thread that executes takes the place of its process. */
static void execute_from_a_thread(void)
{
        pthread_t thread;

        if (dup2(puppet_go, STDIN_FILENO) < 0 || pthread_create(&thread, NULL, become_another, NULL) != 0)
                _exit(113);
        for (;;)
                (void)pause();
}

Test(bpf_leave, a_thread_that_executes_a_program_is_known)
{
        struct leave_event event;
        Puppet puppet;

        fixture_load(0);
        puppet = puppet_start("in/flow/a.1", execute_from_a_thread);
        cr_assert_eq(write(puppet.go, "\n", 1), 1);
        event = next_event();
        expect_event(&event, LEAVE_MOVED, puppet.pid, "flow/a.1");
        cr_expect_str_eq(event.comm, "sh");
        puppet_end(&puppet);
}

static void come_and_go(void)
{
        pause_here();
        for (int i = 0; i < 20; i++) {
                move_to("out", getpid());
                move_to("in/flow/a.1", getpid());
        }
        pause_here();
}

Test(bpf_leave, a_full_ring_counts_what_it_drops_and_a_look_tells_of_nobody_who_is_back)
{
        struct leave_event events[20];
        Puppet puppet;
        size_t n;

        fixture_load((uint32_t)sysconf(_SC_PAGESIZE)); /* holds 4096 / (640 + 8) = 6 */
        puppet = puppet_start("in/flow/a.1", come_and_go);
        puppet_step(&puppet);
        while (leave_probe_dropped(fx.probe) == 0)
                (void)sched_yield();
        puppet_step(&puppet);
        (void)waitpid(puppet.pid, NULL, 0);
        n = read_events(events, 20, 0);
        cr_expect_gt(n, 0);
        cr_expect_eq(n + leave_probe_dropped(fx.probe), 20);
        cr_assert_eq(leave_probe_look(fx.probe), 0);
        expect_no_event();
        puppet_end(&puppet);
}

Test(bpf_leave_refused, without_privilege_the_probe_is_unavailable_and_says_why)
{
        LeaveProbe *probe = (void *)1;
        ProbeReason reason;

        if (geteuid() == 0 && (setgroups(0, NULL) < 0 || setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0))
                cr_skip_test("cannot drop privileges");
        cr_assert_eq(leave_probe_new(&probe, &(LeaveProbeSpec){.cgroup_id = 1}, &reason), PROBE_E_UNAVAILABLE);
        cr_assert_eq(probe, (void *)1, "the output is written only on success");
        cr_assert_neq(reason.err, 0);
        cr_assert_neq(reason.text[0], '\0');
}

Test(bpf_leave_refused, cgroup_id_0_is_refused)
{
        LeaveProbe *probe = NULL;
        int r = leave_probe_new(&probe, &(LeaveProbeSpec){.cgroup_id = 0}, NULL);

        cr_assert(r == -EINVAL || r == PROBE_E_UNAVAILABLE, "%d", r);
        cr_assert_null(probe);
}
