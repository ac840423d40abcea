/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The probe of queues, against the running kernel: this program has the sites, its children are the nodes, in cgroups of their own. Skipped, with
 * the reason, without privilege.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../shm/fixture.h"
#include "bpf/probe.h"
#include "bpf/queue-view.h"
#include "places.h"
#include "shm/probe.h"

#define DEADLINE (5 * NSEC_PER_SEC)

static const char *const places[] = {"in", "in/flow", "in/flow/a.1", "in/flow/a.1/below", "in/other", "in/other/a.1", "out"};

static struct {
        QueueProbe *probe;
        QueueView view;
        ProbeReason reason;
} t;

static void close_fixture(void)
{
        queue_view_close(&t.view);
        t.probe = queue_probe_free(t.probe);
        places_close();
}

static void load(uint32_t n_links)
{
        int r = queue_probe_new(&t.probe, &(QueueProbeSpec){.cgroup_id = place_id("in"), .n_links = n_links}, &t.reason);

        if (r == PROBE_E_UNAVAILABLE) {
                close_fixture(); /* a test that is skipped has no end */
                cr_skip_test("probe unavailable: %s (errno %d)", t.reason.text, t.reason.err);
        }
        cr_assert_eq(r, 0);
        cr_assert_eq(queue_view_open(&t.view, queue_probe_fd(t.probe, QUEUE_PROBE_FD_WATCHED), queue_probe_fd(t.probe, QUEUE_PROBE_FD_LINKS)), 0);
}

static void attach(void)
{
        _cleanup_fd_ int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        size_t n;
        int r = queue_probe_attach(t.probe, fd, &n, &t.reason);

        cr_assert_eq(r, 0, "%d: %s", r, t.reason.text);
        cr_assert_geq(n, 2);
}

static void open_fixture(void)
{
        places_open("queue", places, ELEMENTSOF(places));
        load(0);
}

TestSuite(bpf_queue, .init = open_fixture, .fini = close_fixture, .timeout = 20);

/* Runs in a process that is born in that cgroup; its status, which is 0 where nothing in it failed. */
static int run_in(const char *name, void (*body)(void *), void *arg)
{
        pid_t pid = place_fork(name);
        int status;

        cr_assert_geq(pid, 0);
        if (pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                body(arg);
                _exit(0);
        }
        cr_assert_eq(waitpid(pid, &status, 0), pid);
        return status;
}

typedef struct Traffic {
        unsigned n_links;
        uint64_t mask;
        unsigned rounds, deep; /* so many times: send so many, then take them all */
        uint64_t age_ns;       /* as old as they are said to be when they are sent */
        uint64_t published, delivered; /* what came of it, by the rings' own count */
} Traffic;

/* Links get the numbers from 1 on, as in a dataflow. */
static void traffic(void *arg)
{
        Traffic *traffic = arg;
        uint64_t value = 1;
        RingMessage msg;
        Fixture fx;
        bool ring;

        fixture_ring(&fx, 64);
        fixture_attach_quota(&fx, 1, RING_BACKPRESSURE, 0); /* number 0 is nobody's */
        for (unsigned i = 0; i < traffic->n_links; i++)
                fixture_link(&fx, 40, RING_BACKPRESSURE);
        ring_writer_set_probe_mask(fx.w, &traffic->mask);
        for (unsigned l = 1; l <= traffic->n_links; l++)
                ring_reader_set_probe_mask(&fx.r[l], &traffic->mask);
        for (unsigned round = 0; round < traffic->rounds; round++) {
                for (unsigned i = 0; i < traffic->deep; i++) {
                        RingPost post = {.payload = &value, .payload_len = 8, .time_ns = clock_now() - traffic->age_ns};

                        must(ring_writer_publish(fx.w, &post, NULL, NULL));
                        ring_writer_flush(fx.w);
                }
                for (unsigned l = 1; l <= traffic->n_links; l++)
                        while (ring_reader_take(&fx.r[l], &msg, &ring) == 0)
                                traffic->delivered++;
        }
        traffic->published = ring_writer_head(fx.w);
        fixture_close(&fx);
}

static Traffic *traffic_new(Traffic traffic)
{
        Traffic *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

        cr_assert_neq(shared, MAP_FAILED);
        *shared = traffic;
        return shared;
}

static struct queue_count count_of(const char *name, uint32_t link)
{
        struct queue_count count;

        cr_assert_eq(queue_view_read(&t.view, place_id(name), link, &count), 0);
        return count;
}

/* Counts from 0. */
static void watch_anew(const char *name, uint32_t n_links)
{
        queue_view_unwatch(&t.view, place_id(name));
        cr_assert_eq(queue_view_watch(&t.view, place_id(name), n_links), 0);
}

static void expect_all_of_them(void)
{
        Traffic *flow = traffic_new((Traffic){.n_links = 2, .rounds = 100, .deep = 10});

        watch_anew("in/flow", 2);
        cr_assert_eq(run_in("in/flow/a.1", traffic, flow), 0);
        cr_assert_eq(flow->published, 1000);
        cr_assert_eq(flow->delivered, 2000);
        cr_assert_eq(queue_view_told(&t.view, place_id("in/flow")), 2 * flow->published + flow->delivered);
        for (uint32_t l = 1; l <= 2; l++) {
                struct queue_count count = count_of("in/flow", l);

                cr_expect_eq(count.enqueued, flow->published, "link %u: %lu", l, count.enqueued);
                cr_expect_eq(count.dequeued, flow->delivered / 2, "link %u: %lu", l, count.dequeued);
                /* 1 to 10 wait, each time: 1; 2 and 3; 4 to 7; 8 to 10 */
                cr_expect_eq(count.depth_log2[0], 100);
                cr_expect_eq(count.depth_log2[1], 200);
                cr_expect_eq(count.depth_log2[2], 400);
                cr_expect_eq(count.depth_log2[3], 300);
        }
}

static void expect_ages(uint64_t age_ns, unsigned bucket)
{
        Traffic *flow = traffic_new((Traffic){.n_links = 1, .rounds = 50, .deep = 1, .age_ns = age_ns});
        struct queue_count count;

        watch_anew("in/flow", 1);
        cr_assert_eq(run_in("in/flow/a.1", traffic, flow), 0);
        count = count_of("in/flow", 1);
        cr_assert_eq(count.age_log2_ns[bucket], 50);
        cr_assert_eq(count.dequeued, 50);
}

static void lie(void *arg)
{
        probe_enqueue(1, 0, UINT64_MAX);
        probe_dequeue(1, 0, 0, UINT64_MAX);
        for (uint64_t link = 2; link; link *= 2) {
                probe_enqueue(link, 0, 0);
                probe_dequeue(0 - link, 0, 0, 0);
        }
}

static void expect_any_number(void)
{
        watch_anew("in/flow", 1);
        watch_anew("in/other", 1);
        cr_assert_eq(run_in("in/flow/a.1", lie, NULL), 0);
        cr_assert_eq(count_of("in/flow", 1).depth_log2[QUEUE_DEPTH_BUCKETS - 1], 1);
        cr_assert_eq(count_of("in/flow", 1).age_log2_ns[QUEUE_AGE_BUCKETS - 1], 1);
        cr_assert_eq(count_of("in/flow", 1).enqueued, 1);
        cr_assert_eq(count_of("in/flow", 1).dequeued, 1);
        cr_assert_eq(count_of("in/other", 1).enqueued, 0, "what a node says is of its own dataflow");
        cr_assert_eq(count_of("in/other", 1).dequeued, 0);
}

static void expect_samples(uint64_t mask, uint64_t n)
{
        Traffic *flow = traffic_new((Traffic){.n_links = 1, .mask = mask, .rounds = 100, .deep = 10});

        watch_anew("in/flow", 1);
        cr_assert_eq(run_in("in/flow/a.1", traffic, flow), 0);
        cr_assert_eq(flow->published, 1000);
        cr_assert_eq(count_of("in/flow", 1).enqueued, n);
        cr_assert_eq(count_of("in/flow", 1).dequeued, n, "the same ones at both ends");
}

/* Each attachment costs some tenths of a second, when it ends. */
Test(bpf_queue, each_message_or_sample_is_counted_where_it_is_sent_and_where_it_is_taken)
{
        attach();
        expect_all_of_them();
        expect_ages(UINT64_C(3) << 31, 32); /* 6.4 s, in the middle of a bucket */
        expect_any_number();
        expect_samples(1, 500);
        expect_samples(15, 63); /* 0, 16, ... 992 */
        expect_samples(PROBE_MASK_NONE, 0);
}

Test(bpf_queue, whoever_is_not_watched_is_not_counted)
{
        Traffic *flow = traffic_new((Traffic){.n_links = 2, .rounds = 10, .deep = 1});

        cr_assert_eq(queue_view_watch(&t.view, place_id("in/flow"), 1), 0); /* its second link is not one */
        attach();
        cr_assert_eq(run_in("in/other/a.1", traffic, flow), 0);
        cr_assert_eq(run_in("in", traffic, flow), 0);
        cr_assert_eq(run_in("out", traffic, flow), 0);
        cr_assert_eq(count_of("in/flow", 1).enqueued, 0);
        cr_assert_eq(count_of("in/flow", 1).dequeued, 0);
        cr_assert_eq(run_in("in/flow/a.1/below", traffic, flow), 0);
        cr_assert_eq(count_of("in/flow", 1).enqueued, 10);
        cr_assert_eq(count_of("in/flow", 1).dequeued, 10);

        queue_view_unwatch(&t.view, place_id("in/flow"));
        cr_assert_eq(run_in("in/flow/a.1", traffic, flow), 0);
        cr_assert_eq(queue_view_watch(&t.view, place_id("in/flow"), 2), 0);
        cr_assert_eq(count_of("in/flow", 1).enqueued, 0, "watched anew, and from 0");
        cr_assert_eq(run_in("in/flow/a.1", traffic, flow), 0);
        cr_assert_eq(count_of("in/flow", 2).enqueued, 10);
        traffic(flow); /* we ourselves, who are elsewhere */
        cr_assert_eq(count_of("in/flow", 2).enqueued, 10);
}

Test(bpf_queue, dataflows_do_not_share_links)
{
        struct queue_count count;

        cr_assert_eq(queue_view_watch(&t.view, 1001, 3), 0);
        cr_assert_eq(queue_view_watch(&t.view, place_id("in/flow"), 2), 0);
        cr_assert_eq(queue_view_watch(&t.view, 1002, 3), 0);
        queue_view_unwatch(&t.view, 1001);
        cr_assert_eq(queue_view_watch(&t.view, place_id("in/other"), 2), 0); /* where the first one was */
        cr_assert_eq(queue_view_watch(&t.view, place_id("in/other"), 2), -EEXIST);
        cr_assert_eq(queue_view_watch(&t.view, 1003, QUEUE_LINKS_DEFAULT - 7), -ENOSPC);
        cr_assert_eq(queue_view_watch(&t.view, 1003, QUEUE_LINKS_DEFAULT - 8), 0, "all that is left behind them");
        cr_assert_eq(queue_view_watch(&t.view, 1004, 1), 0, "the one in front of them");
        cr_assert_eq(queue_view_watch(&t.view, 1005, 1), -ENOSPC);
        attach();
        cr_assert_eq(run_in("in/flow/a.1", traffic, traffic_new((Traffic){.n_links = 2, .rounds = 10, .deep = 1})), 0);
        cr_assert_eq(run_in("in/other/a.1", traffic, traffic_new((Traffic){.n_links = 2, .rounds = 20, .deep = 1})), 0);
        for (uint32_t l = 1; l <= 2; l++) {
                cr_assert_eq(count_of("in/flow", l).enqueued, 10);
                cr_assert_eq(count_of("in/other", l).enqueued, 20);
        }
        cr_assert_eq(queue_view_read(&t.view, 1002, 1, &count), 0);
        cr_assert_eq(count.enqueued, 0);
        cr_assert_eq(queue_view_read(&t.view, place_id("in/flow"), 3, &count), -ENOENT);
        cr_assert_eq(queue_view_read(&t.view, place_id("in/flow"), 0, &count), -ENOENT);
        cr_assert_eq(queue_view_read(&t.view, 1001, 1, &count), -ENOENT);
}

/* What a function keeps below its stack pointer, as those may that call nobody. */
static __attribute__((noinline)) uint64_t leaf(uint64_t seed)
{
        volatile uint64_t kept[14];
        uint64_t sum = 0;

        for (unsigned i = 0; i < ELEMENTSOF(kept); i++)
                kept[i] = seed + i;
        probe_enqueue(seed, seed, seed);
        for (unsigned i = 0; i < ELEMENTSOF(kept); i++)
                sum += kept[i] == seed + i;
        return sum;
}

/* As nodes do that were there before the probe was, and stay when it is gone. */
Test(bpf_queue, a_process_reaches_sites_for_as_long_as_the_probe_is_there_and_takes_no_harm)
{
        Traffic *flow = traffic_new((Traffic){.n_links = 1, .rounds = 10, .deep = 1});

        cr_assert_eq(queue_view_watch(&t.view, place_id("in/flow"), 1), 0);
        cr_assert_not(probe_enqueue_wanted());
        attach();
        cr_assert(probe_enqueue_wanted() && probe_dequeue_wanted());
        traffic(flow);
        for (uint64_t i = 0; i < 100; i++) /* some kernels make a call of a site when it was reached once */
                cr_assert_eq(leaf(i), 14);

        /* Some let a child die that reaches it then: it does not, and is not told of. */
        cr_assert_eq(run_in("in/flow/a.1", traffic, flow), 0);
        cr_assert_eq(flow->published, 10);
        cr_assert_eq(count_of("in/flow", 1).enqueued, 0);

        queue_view_close(&t.view);
        t.probe = queue_probe_free(t.probe);
        cr_assert_not(probe_enqueue_wanted() || probe_dequeue_wanted());
        traffic(flow);
}

Test(bpf_queue, its_cost_is_measured_and_a_file_without_sites_is_no_failure)
{
        _cleanup_fd_ int fd = open("/bin/true", O_RDONLY | O_CLOEXEC), dir = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        size_t n;

        cr_assert_gt(queue_probe_cost(t.probe), 0);
        cr_log_info("%u ns for each message that is told of", queue_probe_cost(t.probe));
        cr_assert_eq(queue_probe_attach(t.probe, fd, &n, &t.reason), 0);
        cr_assert_eq(n, 0);
        cr_assert_eq(queue_probe_attach(t.probe, dir, &n, &t.reason), 0);
        cr_assert_eq(n, 0);
}
