/* SPDX-License-Identifier: Apache-2.0 */
/* The probe of system calls, against the running kernel: real cgroups, processes of known behaviour. Skipped, with the reason, without privilege. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "bpf/call-view.h"
#include "bpf/probe.h"
#include "places.h"

#define DEADLINE (10 * NSEC_PER_SEC)
#define STORM    5000
#define N_SLOTS  4

/* Deeper than what the kernel side goes up step by step. */
#define DEEP "in/flow/a.1/below/2/3/4/5/6"

static const char *const places[] = {"in", "in/flow", "in/flow/a.1", "in/flow/a.1/below", "in/flow/a.1/below/2", "in/flow/a.1/below/2/3", "in/flow/a.1/below/2/3/4",
        "in/flow/a.1/below/2/3/4/5", DEEP, "in/flow/b.1", "in/flow/b.2", "out"};

/* Of whom the test has started, and the test: what the former measured itself. */
typedef struct Shared {
        uint64_t log2_ns[64];
        int status;       /* of a child of the puppet's */
        int n_reads;      /* that it is in, or about to make */
        bool spins, stop; /* it makes no call */
} Shared;

typedef struct Fixture {
        CallProbe *probe;
        CallView view;
        Shared *shared;
} Fixture;

static Fixture fx;

static void close_fixture(void)
{
        call_view_close(&fx.view);
        fx.probe = call_probe_free(fx.probe);
        places_close();
}

static void open_fixture(void)
{
        ProbeReason reason;
        int r;

        places_open("call", places, ELEMENTSOF(places));
        fx.shared = mmap(NULL, sizeof(*fx.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        cr_assert_neq(fx.shared, MAP_FAILED);

        r = call_probe_new(&fx.probe, &(CallProbeSpec){.cgroup_id = place_id("in"), .n_slots = N_SLOTS}, &reason);
        if (r == PROBE_E_UNAVAILABLE) {
                close_fixture(); /* a test that is skipped has no end */
                cr_skip_test("probe unavailable: %s (errno %d)", reason.text, reason.err);
        }
        cr_assert_eq(r, 0);
        cr_assert_eq(call_view_open(&fx.view, call_probe_fd(fx.probe, CALL_PROBE_FD_WATCHED), call_probe_fd(fx.probe, CALL_PROBE_FD_SLOTS)), 0);
        cr_assert_eq(fx.view.n_slots, N_SLOTS);
}

TestSuite(bpf_call, .init = open_fixture, .fini = close_fixture, .timeout = 60);

/* ---- puppets: a process that does one thing after the other, as it is told. It hears and answers by calls that it makes for nothing else */

typedef struct Puppet {
        pid_t pid;
        int socket;
} Puppet;

static int puppet_socket; /* in the puppet */

static void hear(void)
{
        char byte;

        if (recv(puppet_socket, &byte, 1, 0) != 1) /* the test has gone */
                _exit(0);
}

static void answer(void)
{
        (void)send(puppet_socket, "", 1, MSG_NOSIGNAL);
}

/* Born in the cgroup @name, as nodes are. */
static Puppet puppet_start(const char *name, void (*act)(void))
{
        int fds[2];
        struct timeval patience = {.tv_sec = DEADLINE / NSEC_PER_SEC};
        Puppet ret;

        cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
        ret.pid = place_fork(name);
        cr_assert_geq(ret.pid, 0);
        if (ret.pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                (void)close(fds[0]);
                puppet_socket = fds[1];
                answer();
                for (;;) {
                        hear();
                        act();
                        answer();
                }
        }
        (void)close(fds[1]);
        ret.socket = fds[0];
        cr_assert_eq(setsockopt(ret.socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
        return ret;
}

static void puppet_tell(const Puppet *puppet)
{
        cr_assert_eq(send(puppet->socket, "", 1, 0), 1);
}

static void puppet_await(const Puppet *puppet)
{
        char byte;

        cr_assert_eq(recv(puppet->socket, &byte, 1, 0), 1, "the puppet did not answer");
}

static void puppet_end(Puppet *puppet)
{
        (void)close(puppet->socket);
        (void)kill(puppet->pid, SIGKILL);
        (void)waitpid(puppet->pid, NULL, 0);
}

/* ---- what was counted */

static struct call_count count_of(uint32_t slot, long number)
{
        struct call_count ret;

        cr_assert_eq(call_view_read(&fx.view, slot, (uint32_t)number, &ret), 0);
        return ret;
}

/* The bucket that the q-th of a hundred lies in. */
static int quantile(const uint64_t *log2_ns, int n, unsigned q)
{
        uint64_t all = 0, seen = 0;

        for (int i = 0; i < n; i++)
                all += log2_ns[i];
        for (int i = 0; i < n; i++) {
                seen += log2_ns[i];
                if (seen * 100 >= all * q && seen)
                        return i;
        }
        return -1;
}

/* Until the kernel has it, for what a task does as it goes to sleep or ends. */
static bool becomes_now(uint32_t slot, long number, uint32_t now)
{
        nsec_t deadline = clock_now() + DEADLINE;

        while (count_of(slot, number).now != now && clock_now() < deadline)
                (void)usleep(1000);
        return count_of(slot, number).now == now;
}

/* The puppet waits for its next word, in a call. */
static bool falls_asleep(const Puppet *puppet)
{
        nsec_t deadline = clock_now() + DEADLINE;
        char path[64], text[512], state = '?';

        (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)puppet->pid);
        while (state != 'S' && clock_now() < deadline) {
                _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
                ssize_t n = read(fd, text, sizeof(text) - 1);

                text[n > 0 ? n : 0] = '\0';
                if (strrchr(text, ')'))
                        (void)sscanf(strrchr(text, ')'), ") %c", &state);
        }
        return state == 'S';
}

static void watch(uint32_t slot, const char *name)
{
        cr_assert_eq(call_view_watch(&fx.view, slot, place_id(name)), 0);
}

/* ---- the behaviours */

static void storm(void)
{
        for (int i = 0; i < STORM; i++)
                (void)syscall(SYS_getppid);
}

static void fail(void)
{
        for (int i = 0; i < STORM; i++)
                (void)syscall(SYS_dup, -1);
}

/* One call, and how long it took as seen by whoever made it. */
#define MEASURED(call)                                                                              \
        do {                                                                                        \
                nsec_t _begin = clock_now();                                                        \
                (void)(call);                                                                       \
                fx.shared->log2_ns[63 - __builtin_clzll((clock_now() - _begin) | 1)]++;             \
        } while (0)

#define N_READS 30
#define READ_NS (5 * NSEC_PER_MSEC)

static int feed[2]; /* a pipe, of which the test's feeder has the other end */

static void read_what_comes(void)
{
        char byte;

        for (int i = 0; i < N_READS; i++) {
                __atomic_add_fetch(&fx.shared->n_reads, 1, __ATOMIC_SEQ_CST);
                MEASURED(read(feed[0], &byte, 1));
        }
}

static void wait_for_nothing(void)
{
        struct timespec span = {.tv_nsec = 3000000};
        uint32_t word = 1;

        for (int i = 0; i < N_READS; i++)
                MEASURED(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 1, &span, NULL, 0));
}

#define N_WRITES 20

static void write_to_disk(void)
{
        char path[] = "/tmp/tidegate-test-call-XXXXXX";
        static char data[512 * 1024];
        int fd = mkstemp(path);

        (void)unlink(path);
        for (int i = 0; i < N_WRITES; i++) {
                MEASURED(pwrite(fd, data, sizeof(data), 0));
                (void)fdatasync(fd);
        }
        (void)close(fd);
}

#define N_THREADS    4
#define THREAD_STORM (4 * STORM)

static pthread_barrier_t all_are_there;

/* All at once, on all CPUs. */
static void *storm_in_thread(void *arg)
{
        (void)pthread_barrier_wait(&all_are_there);
        for (int i = 0; i < THREAD_STORM; i++)
                (void)syscall(SYS_getppid);
        return NULL;
}

static void storm_in_threads(void)
{
        pthread_t threads[N_THREADS];

        (void)pthread_barrier_init(&all_are_there, NULL, N_THREADS);
        for (size_t i = 0; i < ELEMENTSOF(threads); i++)
                if (pthread_create(&threads[i], NULL, storm_in_thread, NULL) != 0)
                        _exit(1);
        for (size_t i = 0; i < ELEMENTSOF(threads); i++)
                (void)pthread_join(threads[i], NULL);
}

/* A child, and its child; the last one is another program. */
static void storm_in_children(void)
{
        pid_t pid = fork();

        if (pid == 0) {
                storm();
                pid = fork();
                if (pid == 0) {
                        storm();
                        (void)execl("/bin/true", "true", NULL);
                }
                (void)waitpid(pid, NULL, 0);
                _exit(0);
        }
        (void)waitpid(pid, NULL, 0);
}

static int many_at_once; /* a pipe's read end that nobody writes to until all are there */

static void *block_in_thread(void *arg)
{
        char byte;

        (void)!read(many_at_once, &byte, 1);
        return NULL;
}

#define N_MANY (CALL_THREADS + 20)

static void block_in_many_threads(void)
{
        static pthread_t threads[N_MANY];
        pthread_attr_t attr;
        int fds[2];

        if (pipe2(fds, O_CLOEXEC) < 0 || pthread_attr_init(&attr) != 0 || pthread_attr_setstacksize(&attr, 64 * 1024) != 0)
                _exit(1);
        many_at_once = fds[0];
        for (size_t i = 0; i < N_MANY; i++)
                if (pthread_create(&threads[i], &attr, block_in_thread, NULL) != 0)
                        _exit(1);
        answer();
        hear();
        (void)close(fds[1]);
        for (size_t i = 0; i < N_MANY; i++)
                (void)pthread_join(threads[i], NULL);
}

static void on_signal(int sig)
{
}

#define N_SIGNALS 100

/* Each signal interrupts a call; what that one returns is what the handler's end seems to return. */
static void interrupt_itself(void)
{
        struct sigaction action = {.sa_handler = on_signal};
        sigset_t usr1, none;

        (void)sigaction(SIGUSR1, &action, NULL);
        (void)sigemptyset(&none);
        (void)sigemptyset(&usr1);
        (void)sigaddset(&usr1, SIGUSR1);
        (void)sigprocmask(SIG_BLOCK, &usr1, NULL);
        for (int i = 0; i < N_SIGNALS; i++) {
                (void)raise(SIGUSR1);
                (void)sigsuspend(&none);
        }
}

#define N_STRANGE 80

/* No machine has calls of these numbers: more of them than a slot tells apart, and one that none can tell apart. */
static void call_what_does_not_exist(void)
{
        for (int i = 0; i < N_STRANGE; i++)
                (void)syscall(CALL_NUMBERS - 1 - i);
        (void)syscall(CALL_NUMBERS + 100);
}

#ifdef __x86_64__
/* As a 32-bit program does: 64 is getppid there, and semget here. */
static void call_as_32_bits_do(void)
{
        pid_t pid = fork();

        if (pid == 0) {
                long ret;

                for (int i = 0; i < STORM; i++)
                        __asm__ volatile("int $0x80" : "=a"(ret) : "a"(64) : "memory", "r8", "r9", "r10", "r11");
                _exit(0);
        }
        (void)waitpid(pid, &fx.shared->status, 0);
}
#endif

static void nothing(void)
{
}

static void make_no_call(void)
{
        volatile Shared *shared = fx.shared;

        shared->spins = true;
        while (!shared->stop)
                ;
}

/* ---- */

Test(bpf_call, each_call_and_each_error_is_counted_wherever_the_node_makes_it)
{
        static const struct {
                const char *what, *place;
                void (*act)(void);
                uint64_t n;
        } cases[] = {
                {"a process", "in/flow/a.1", storm, STORM},
                {"threads", "in/flow/a.1", storm_in_threads, N_THREADS * THREAD_STORM},
                {"children", "in/flow/a.1", storm_in_children, 2 * STORM},
                {"a cgroup below", "in/flow/a.1/below", storm, STORM},
                {"one far below", DEEP, storm, STORM},
                {"failures", "in/flow/a.1", fail, 0},
        };
        struct call_count before, after;
        struct call_thread thread;

        watch(0, "in/flow/a.1");
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                Puppet puppet = puppet_start(cases[i].place, cases[i].act);

                before = count_of(0, SYS_getppid);
                puppet_await(&puppet);
                puppet_tell(&puppet);
                puppet_await(&puppet);
                after = count_of(0, SYS_getppid);
                cr_expect_eq(after.count - before.count, cases[i].n, "%s: %lu", cases[i].what, after.count - before.count);
                cr_expect_eq(after.errors, 0);
                cr_expect(cases[i].n == 0 || after.total_ns > before.total_ns);
                puppet_end(&puppet);
        }
        after = count_of(0, SYS_dup);
        cr_expect_eq(after.count, STORM, "%lu", after.count);
        cr_expect_eq(after.errors, STORM, "%lu", after.errors);
        cr_expect_eq(call_view_lost(&fx.view, 0), 0);
        cr_expect_eq(call_view_threads(&fx.view, 0, &thread, 1), 0, "exit(2) is a call that nobody returns from");
}

Test(bpf_call, whoever_is_not_watched_is_not_counted)
{
        Puppet neighbour, stranger, watched;
        struct call_count counts[CALL_VIEW_CALLS_MAX];

        watch(0, "in/flow/a.1");
        neighbour = puppet_start("in/flow/b.1", storm);
        stranger = puppet_start("out", storm);
        puppet_await(&neighbour);
        puppet_await(&stranger);
        puppet_tell(&neighbour);
        puppet_tell(&stranger);
        storm();
        puppet_await(&neighbour);
        puppet_await(&stranger);
        for (uint32_t slot = 0; slot < N_SLOTS; slot++)
                cr_expect_eq(call_view_read_all(&fx.view, slot, counts, ELEMENTSOF(counts)), 0);

        /* Each has its own. */
        watch(1, "in/flow/b.1");
        watched = puppet_start("in/flow/a.1", storm);
        puppet_await(&watched);
        puppet_tell(&neighbour);
        puppet_tell(&neighbour);
        puppet_tell(&watched);
        puppet_await(&neighbour);
        puppet_await(&neighbour);
        puppet_await(&watched);
        cr_expect_eq(count_of(0, SYS_getppid).count, STORM);
        cr_expect_eq(count_of(1, SYS_getppid).count, 2 * STORM);
        cr_expect_eq(count_of(2, SYS_getppid).count, 0);
        puppet_end(&neighbour);
        puppet_end(&stranger);
        puppet_end(&watched);
}

static void sleep_for(nsec_t span)
{
        struct timespec ts = {.tv_nsec = (long)span};

        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
}

/* Outside of what is watched: writes a byte for each read, some time after it was begun. */
static pid_t start_feeder(void)
{
        pid_t pid = fork();

        if (pid != 0)
                return pid;
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (int i = 0; i < N_READS; i++) {
                while (__atomic_load_n(&fx.shared->n_reads, __ATOMIC_SEQ_CST) <= i)
                        sleep_for(NSEC_PER_MSEC / 10);
                sleep_for(READ_NS);
                (void)!write(feed[1], "", 1);
        }
        _exit(0);
}

/* What a puppet measured itself beside what the kernel counted meanwhile. */
static void expect_agreement(const char *what, const struct call_count *found, uint64_t n)
{
        static const unsigned quantiles[] = {10, 50, 90};

        cr_expect_eq(found->count, n, "%s: %lu", what, found->count);
        for (size_t i = 0; i < ELEMENTSOF(quantiles); i++) {
                int ours = quantile(found->log2_ns, CALL_BUCKETS, quantiles[i]), its = quantile(fx.shared->log2_ns, 64, quantiles[i]);

                cr_expect(ours <= its && its <= ours + 1, "%s: quantile %u: bucket %d, and %d as measured by itself", what, quantiles[i], ours, its);
        }
}

static void act_once(void (*act)(void))
{
        Puppet puppet = puppet_start("in/flow/a.1", act);

        memset(fx.shared, 0, sizeof(*fx.shared));
        puppet_await(&puppet);
        puppet_tell(&puppet);
        puppet_await(&puppet);
        puppet_end(&puppet);
}

Test(bpf_call, durations_are_those_that_the_process_measures_itself)
{
        struct call_count found;
        pid_t feeder;

        watch(0, "in/flow/a.1");
        cr_assert_eq(pipe2(feed, O_CLOEXEC), 0);
        feeder = start_feeder();
        act_once(read_what_comes);
        (void)waitpid(feeder, NULL, 0);
        found = count_of(0, SYS_read);
        expect_agreement("read", &found, N_READS);
        cr_expect_geq(found.total_ns, READ_NS * (N_READS / 2));

        act_once(wait_for_nothing);
        found = count_of(0, SYS_futex);
        expect_agreement("futex", &found, N_READS);
        cr_expect_eq(found.errors, N_READS, "each of them timed out");
        cr_expect_geq(quantile(found.log2_ns, CALL_BUCKETS, 1), 21, "2 ms and more");

        act_once(write_to_disk);
        found = count_of(0, SYS_pwrite64);
        expect_agreement("pwrite", &found, N_WRITES);
        cr_expect_eq(found.errors, 0);
        cr_expect_eq(count_of(0, SYS_fdatasync).count, N_WRITES);
}

Test(bpf_call, what_somebody_is_in_now_is_told_with_its_begin_until_it_returns_or_dies)
{
        Puppet puppet;
        struct call_thread threads[CALL_THREADS];
        struct call_count counts[CALL_VIEW_CALLS_MAX];
        nsec_t before = clock_now();
        size_t n;

        watch(0, "in/flow/a.1");
        puppet = puppet_start("in/flow/a.1", nothing);
        puppet_await(&puppet);
        cr_assert(becomes_now(0, SYS_recvfrom, 1));
        cr_expect_eq(count_of(0, SYS_recvfrom).count, 0);
        cr_expect(count_of(0, SYS_recvfrom).now_since_ns >= before && count_of(0, SYS_recvfrom).now_since_ns <= clock_now());
        n = call_view_threads(&fx.view, 0, threads, ELEMENTSOF(threads));
        cr_assert_eq(n, 1);
        cr_expect_eq(threads[0].tid, (uint32_t)puppet.pid, "as the loader's namespace counts");
        cr_expect_eq(threads[0].number, SYS_recvfrom);
        n = call_view_read_all(&fx.view, 0, counts, ELEMENTSOF(counts));
        cr_assert_gt(n, 1);
        cr_expect_eq(counts[n - 1].number, SYS_recvfrom, "nobody has come back from it");
        cr_expect_eq(counts[n - 1].now, 1);
        cr_expect_eq(counts[n - 1].count, 0);

        puppet_tell(&puppet);
        puppet_await(&puppet);
        cr_expect_eq(count_of(0, SYS_recvfrom).count, 1);
        cr_assert(becomes_now(0, SYS_recvfrom, 1));
        puppet_end(&puppet);
        cr_expect_eq(count_of(0, SYS_recvfrom).now, 0);
        cr_expect_eq(call_view_threads(&fx.view, 0, threads, ELEMENTSOF(threads)), 0);
}

Test(bpf_call, a_slot_begins_at_0_and_what_began_before_it_was_watched_is_not_counted)
{
        Puppet old, new;

        old = puppet_start("in/flow/b.1", storm);
        puppet_await(&old);
        cr_assert(falls_asleep(&old)); /* in a call that nobody has seen begin */
        watch(0, "in/flow/b.1");
        puppet_tell(&old);
        puppet_await(&old);
        cr_expect_eq(count_of(0, SYS_recvfrom).count, 0);
        cr_expect_eq(count_of(0, SYS_getppid).count, STORM);
        cr_assert(becomes_now(0, SYS_recvfrom, 1));
        cr_assert(falls_asleep(&old));

        call_view_unwatch(&fx.view, 0);
        puppet_tell(&old);
        puppet_await(&old);
        cr_expect_eq(count_of(0, SYS_recvfrom).count, 1, "the call that it was in");
        cr_expect_eq(count_of(0, SYS_getppid).count, STORM, "it can be read for long, and is counted no more");
        watch(1, "in/flow/b.1");
        puppet_tell(&old);
        puppet_await(&old);
        cr_assert(falls_asleep(&old));
        call_view_unwatch(&fx.view, 1);
        watch(1, "in/flow/b.2");
        cr_expect_eq(count_of(1, SYS_getppid).count, 0);
        cr_expect_eq(count_of(1, SYS_recvfrom).now, 0);
        puppet_tell(&old);
        puppet_await(&old);
        cr_expect_eq(count_of(1, SYS_recvfrom).count, 0, "that one was in another life");
        cr_expect_eq(count_of(1, SYS_getppid).count, 0);
        new = puppet_start("in/flow/b.2", storm);
        puppet_await(&new);
        puppet_tell(&new);
        puppet_await(&new);
        cr_expect_eq(count_of(1, SYS_recvfrom).count, 1);
        cr_expect_eq(count_of(1, SYS_getppid).count, STORM);
        puppet_end(&old);
        puppet_end(&new);
}

Test(bpf_call, whatever_is_not_told_apart_is_counted_together)
{
        struct call_count counts[CALL_VIEW_CALLS_MAX];
        uint64_t strange = 0;
        size_t n;

        watch(0, "in/flow/a.1");
        act_once(call_what_does_not_exist);
        n = call_view_read_all(&fx.view, 0, counts, ELEMENTSOF(counts));
        cr_expect_geq(n, CALL_ENTRIES + 1);
        for (size_t i = 0; i < n; i++)
                if (counts[i].number > CALL_NUMBERS - 1 - N_STRANGE)
                        strange += counts[i].errors;
        cr_expect_eq(strange, N_STRANGE + 1, "%lu", strange);
        cr_expect_gt(count_of(0, CALL_OTHER).count, N_STRANGE - CALL_ENTRIES);
        cr_expect_eq(count_of(0, CALL_NUMBERS - 1).count, 1);
}

#ifdef __x86_64__
Test(bpf_call, calls_of_32_bit_programs_are_not_taken_for_others_of_the_same_number)
{
        watch(0, "in/flow/a.1");
        act_once(call_as_32_bits_do);
        if (WIFSIGNALED(fx.shared->status))
                cr_skip_test("this kernel runs no 32-bit programs");
        cr_expect_eq(count_of(0, CALL_OTHER).count, STORM);
        cr_expect_eq(count_of(0, 64).count, 0);
}
#endif

Test(bpf_call, more_threads_than_there_are_places_are_counted_all_the_same)
{
        Puppet puppet;

        watch(0, "in/flow/a.1");
        puppet = puppet_start("in/flow/a.1", block_in_many_threads);
        puppet_await(&puppet);
        puppet_tell(&puppet);
        puppet_await(&puppet);
        /* One place is the first thread's, which is in another call. */
        cr_expect(becomes_now(0, SYS_read, CALL_THREADS - 1), "%u", count_of(0, SYS_read).now);
        puppet_tell(&puppet);
        puppet_await(&puppet);
        cr_expect_eq(count_of(0, SYS_read).count, N_MANY);
        cr_expect(becomes_now(0, SYS_read, 0));
        cr_expect_eq(call_view_lost(&fx.view, 0), 0);
        puppet_end(&puppet);
}

Test(bpf_call, the_return_from_a_signal_s_handler_is_no_failed_call)
{
        struct call_count found;

        watch(0, "in/flow/a.1");
        act_once(interrupt_itself);
        found = count_of(0, SYS_rt_sigreturn);
        cr_expect_eq(found.count, N_SIGNALS, "%lu", found.count);
        cr_expect_eq(found.errors, 0);
        cr_expect_eq(count_of(0, SYS_rt_sigsuspend).errors, N_SIGNALS);
}

Test(bpf_call, whoever_computes_is_in_no_call)
{
        nsec_t deadline = clock_now() + DEADLINE;
        struct call_thread thread;
        Puppet puppet;

        watch(0, "in/flow/a.1");
        puppet = puppet_start("in/flow/a.1", make_no_call);
        puppet_await(&puppet);
        puppet_tell(&puppet);
        while (!*(volatile bool *)&fx.shared->spins && clock_now() < deadline)
                (void)usleep(1000);
        cr_expect_eq(call_view_threads(&fx.view, 0, &thread, 1), 0);
        cr_expect_eq(count_of(0, SYS_recvfrom).now, 0);
        fx.shared->stop = true;
        puppet_await(&puppet);
        puppet_end(&puppet);
}

/* By calls that were counted as others are: in a slot that nobody else sees. */
static void expect_its_cost_was_measured(void)
{
        struct call_slot *slots = mmap(NULL, (N_SLOTS + 1) * sizeof(*slots), PROT_READ, MAP_SHARED, call_probe_fd(fx.probe, CALL_PROBE_FD_SLOTS), 0);
        CallProbeCost cost = call_probe_cost(fx.probe);
        CallView view = fx.view;
        struct call_count found;

        cr_assert_neq(slots, MAP_FAILED);
        view.slots = slots;
        view.n_slots = N_SLOTS + 1;
        cr_assert_eq(call_view_read(&view, N_SLOTS, SYS_getppid, &found), 0);
        cr_expect_gt(found.count, 0);
        cr_expect_gt(cost.alone_ns, 0);
        cr_expect_gt(cost.call_ns, cost.other_ns);
        (void)munmap(slots, (N_SLOTS + 1) * sizeof(*slots));
}

/* As the process that loads it does with the one that uses it. */
Test(bpf_call, it_counts_while_somebody_has_its_descriptors_and_not_longer)
{
        int fds[_CALL_PROBE_FD_MAX];
        Puppet puppet;

        for (int i = 0; i < _CALL_PROBE_FD_MAX; i++) {
                fds[i] = fcntl(call_probe_fd(fx.probe, (CallProbeFd)i), F_DUPFD_CLOEXEC, 0);
                cr_assert_geq(fds[i], 0);
        }
        expect_its_cost_was_measured();
        call_view_close(&fx.view);
        fx.probe = call_probe_free(fx.probe);
        cr_assert_eq(call_view_open(&fx.view, fds[CALL_PROBE_FD_WATCHED], fds[CALL_PROBE_FD_SLOTS]), 0);
        watch(3, "in/flow/a.1");
        puppet = puppet_start("in/flow/a.1", storm);
        puppet_await(&puppet);
        puppet_tell(&puppet);
        puppet_await(&puppet);
        cr_expect_eq(count_of(3, SYS_getppid).count, STORM);
        puppet_end(&puppet); /* which has them, too */
        for (int i = 0; i < _CALL_PROBE_FD_MAX; i++)
                (void)close(fds[i]);
        puppet = puppet_start("in/flow/a.1", storm);
        puppet_await(&puppet);
        puppet_tell(&puppet);
        puppet_await(&puppet);
        cr_expect_eq(count_of(3, SYS_getppid).count, STORM, "nothing is attached any more, and what is mapped is still there");
        puppet_end(&puppet);
}

/* ---- without privilege */

Test(bpf_call_refused, without_privilege_the_probe_is_unavailable_and_says_why)
{
        CallProbe *probe = (void *)1;
        ProbeReason reason;

        if (geteuid() == 0 && (setgroups(0, NULL) < 0 || setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0))
                cr_skip_test("cannot drop privileges");
        cr_assert_eq(call_probe_new(&probe, &(CallProbeSpec){.cgroup_id = 1}, &reason), PROBE_E_UNAVAILABLE);
        cr_assert_eq(probe, (void *)1, "the output is written only on success");
        cr_assert_neq(reason.err, 0);
        cr_assert_neq(reason.text[0], '\0');
}

Test(bpf_call_refused, cgroup_id_0_and_too_many_slots_are_refused)
{
        CallProbe *probe = NULL;
        int r = call_probe_new(&probe, &(CallProbeSpec){.cgroup_id = 0}, NULL);

        cr_assert(r == -EINVAL || r == PROBE_E_UNAVAILABLE, "%d", r);
        r = call_probe_new(&probe, &(CallProbeSpec){.cgroup_id = 1, .n_slots = CALL_SLOTS_MAX + 1}, NULL);
        cr_assert(r == -EINVAL || r == PROBE_E_UNAVAILABLE, "%d", r);
        cr_assert_null(probe);
}
