/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tg_node_open() against supervisors that lie, leave, or say no.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/doorbell.h"
#include "tests/node/harness.h"

typedef struct Lone { /* a process that opens, and the supervisor's end of its socket */
        int fd;
        pid_t pid;
} Lone;

/* Exit status of the process: 200 + TG-outcome or errno of tg_node_open(), 0 when it was opened. */
static Lone lone_start_and(void (*then)(tg_node *node))
{
        Lone lone;
        int pair[2];

        cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        fflush(NULL);
        lone.pid = fork();
        if (lone.pid == 0) {
                tg_node *node;
                char number[16];
                int r;

                (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nobody behind */
                (void)close(pair[0]);
                (void)snprintf(number, sizeof(number), "%d", pair[1]);
                (void)setenv(NODE_MSG_FD_ENV, number, 1);
                if (!freopen("/dev/null", "w", stderr))
                        _exit(99);
                r = tg_node_open(&node);
                if (r == 0 && then)
                        then(node);
                _exit(r == 0 ? 0 : 256 + r);
        }
        (void)fd_close(pair[1]);
        lone.fd = pair[0];
        return lone;
}

static Lone lone_start(void)
{
        return lone_start_and(NULL);
}

static NodeMsg lone_hears(Lone *lone)
{
        static uint8_t packet[NODE_MSG_MAX];
        ssize_t n = recv(lone->fd, packet, sizeof(packet), 0);
        NodeMsg m;

        cr_assert_gt(n, 0);
        cr_assert_eq(node_msg_decode(&m, packet, (size_t)n), 0);
        return m;
}

static void lone_says(Lone *lone, const void *bytes, size_t size, const int *fds, int n_fds)
{
        union {
                struct cmsghdr align;
                char bytes[CMSG_SPACE(8 * sizeof(int))];
        } control = {};
        struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = size};
        struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};

        if (n_fds) {
                mh.msg_control = &control;
                mh.msg_controllen = CMSG_SPACE((size_t)n_fds * sizeof(int));
                CMSG_FIRSTHDR(&mh)->cmsg_level = SOL_SOCKET;
                CMSG_FIRSTHDR(&mh)->cmsg_type = SCM_RIGHTS;
                CMSG_FIRSTHDR(&mh)->cmsg_len = CMSG_LEN((size_t)n_fds * sizeof(int));
                memcpy(CMSG_DATA(CMSG_FIRSTHDR(&mh)), fds, (size_t)n_fds * sizeof(int));
        }
        (void)sendmsg(lone->fd, &mh, MSG_NOSIGNAL); /* it may have left already */
}

static void lone_says_msg(Lone *lone, const NodeMsg *m, const int *fds, int n_fds)
{
        uint8_t packet[NODE_MSG_MAX];
        int n = node_msg_encode(m, packet, sizeof(packet));

        cr_assert_gt(n, 0);
        lone_says(lone, packet, (size_t)n, fds, n_fds);
}

/* What tg_node_open() returned, at most 10 s later. */
static int lone_result(Lone *lone)
{
        nsec_t deadline = clock_now() + 10 * NSEC_PER_SEC;
        int status = 0;

        while (waitpid(lone->pid, &status, WNOHANG) == 0) {
                cr_assert_lt(clock_now(), deadline, "tg_node_open() did not return");
                (void)poll(NULL, 0, 1);
        }
        (void)fd_close(lone->fd);
        cr_assert(WIFEXITED(status), "it crashed: %#x", (unsigned)status);
        return WEXITSTATUS(status) == 0 ? 0 : WEXITSTATUS(status) - 256;
}

typedef struct Regions {
        int control, bell, ring, pool, cursor;
} Regions;

static Regions regions(void)
{
        PoolClass class = pool_class_for(1000, 4);
        Regions r;

        cr_assert(control_create(&r.control) == 0 && bell_create(&r.bell) == 0 && ring_create(16, &r.ring) == 0);
        cr_assert(pool_create(&class, 1, &r.pool) == 0 && cursor_create(&r.cursor) == 0);
        cr_assert_eq(region_seal(r.control, REGION_CONTROL), 0);
        return r;
}

static NodeMsg welcome_msg(uint32_t n_inputs, uint32_t n_outputs)
{
        return (NodeMsg){.type = NODE_MSG_WELCOME, .welcome = {.dataflow = "d", .node = "n", .generation = 1,
                .n_inputs = n_inputs, .n_outputs = n_outputs, .control_size = control_size(), .bell_size = bell_size()}};
}

static void lone_is_welcome(Lone *lone, const Regions *r, uint32_t n_inputs, uint32_t n_outputs)
{
        NodeMsg m = welcome_msg(n_inputs, n_outputs);

        cr_assert_eq(lone_hears(lone).type, NODE_MSG_HELLO);
        lone_says_msg(lone, &m, (int[]){r->control, r->bell}, 2);
}

Test(open, without_a_socket_it_says_so)
{
        static const char *const bad[] = {"", "x", "-1", "0x3", "3 ", "99999999999999999999", "1234", "0", "1"};
        tg_node *node;

        (void)unsetenv(NODE_MSG_FD_ENV);
        cr_assert_eq(tg_node_open(&node), -ENOTCONN);
        for (unsigned i = 0; i < ELEMENTSOF(bad); i++) {
                (void)setenv(NODE_MSG_FD_ENV, bad[i], 1);
                cr_assert_eq(tg_node_open(&node), -ENOTCONN, "\"%s\" was taken for a socket", bad[i]);
        }
}

Test(open, a_smooth_start_ends_with_start_and_the_descriptor_is_ours_alone, .timeout = 20)
{
        Lone lone = lone_start();
        Regions r = regions();

        lone_is_welcome(&lone, &r, 0, 0);
        lone_says_msg(&lone, &(NodeMsg){.type = NODE_MSG_SETUP_END}, NULL, 0);
        cr_assert_eq(lone_hears(&lone).type, NODE_MSG_MAPPED);
        lone_says_msg(&lone, &(NodeMsg){.type = NODE_MSG_START}, NULL, 0);
        cr_assert_eq(lone_result(&lone), 0);
}

Test(open, an_abort_and_a_stop_before_the_start_cancel_it, .timeout = 20)
{
        for (unsigned when = 0; when < 3; when++) {
                for (unsigned i = 0; i < 2; i++) {
                        Lone lone = lone_start();
                        Regions r = regions();

                        if (when > 0)
                                lone_is_welcome(&lone, &r, 0, 0);
                        if (when > 1)
                                lone_says_msg(&lone, &(NodeMsg){.type = NODE_MSG_SETUP_END}, NULL, 0);
                        if (i)
                                lone_says_msg(&lone, &(NodeMsg){.type = NODE_MSG_ABORT, .abort = {.text = "no"}}, NULL, 0);
                        else
                                lone_says_msg(&lone, &(NodeMsg){.type = NODE_MSG_STOP, .stop = {.cause = NODE_STOP_MANUAL}},
                                        NULL, 0);
                        cr_assert_eq(lone_result(&lone), -ECANCELED);
                }
        }
}

Test(open, a_supervisor_that_leaves_ends_it, .timeout = 20)
{
        Lone lone = lone_start();

        lone.fd = fd_close(lone.fd);
        cr_assert_eq(lone_result(&lone), -ECONNRESET);
}

Test(open, a_start_that_nobody_gives_ends_at_its_deadline, .timeout = 20)
{
        Lone lone = lone_start();
        Regions r = regions();
        NodeMsg m = welcome_msg(0, 0);

        m.welcome.start_deadline_ns = 1; /* long ago; the time to say why has passed too */
        cr_assert_eq(lone_hears(&lone).type, NODE_MSG_HELLO);
        lone_says_msg(&lone, &m, (int[]){r.control, r.bell}, 2);
        lone_says_msg(&lone, &(NodeMsg){.type = NODE_MSG_SETUP_END}, NULL, 0);
        cr_assert_eq(lone_result(&lone), -ETIMEDOUT);
}

static int say_that_we_run(tg_node *node, void *arg)
{
        Flow *flow = *(Flow **)arg;

        flow_shared(flow)[1]++;
        flow_note(flow);
        return 0;
}

Test(open, nobody_runs_before_all_are_ready, .timeout = 30)
{
        Flow *flow = flow_new();
        int a, b;

        a = flow_node(flow, "a", say_that_we_run, &flow);
        b = flow_node(flow, "b", say_that_we_run, &flow);
        flow_link(flow, a, flow_output(flow, a, "out", 10, 100, 4), b, "in", (FlowLinkSpec){.backpressure = true});
        flow_hold_start(flow, true);
        flow_spawn(flow);
        cr_assert(FLOW_UNTIL(flow, 10, flow_cursor_active(flow, 0))); /* everything is wired */
        cr_assert(!FLOW_UNTIL(flow, 0.1, flow_shared(flow)[1] > 0 || flow_exited(flow, a, NULL)));
        flow_hold_start(flow, false);
        cr_assert(FLOW_UNTIL(flow, 10, flow_shared(flow)[1] == 2));
        flow_close(flow);
}

/* -------- what must not be believed -------- */

typedef void (*Lie)(Lone *lone, Regions *r);

static void says_noise(Lone *lone, Regions *r)
{
        lone_says(lone, "\xff\xff\xff", 3, NULL, 0);
}

static void says_start_first(Lone *lone, Regions *r)
{
        lone_says_msg(lone, &(NodeMsg){.type = NODE_MSG_START}, NULL, 0);
}

static void says_what_nodes_say(Lone *lone, Regions *r)
{
        lone_says_msg(lone, &(NodeMsg){.type = NODE_MSG_MAPPED}, NULL, 0);
}

static void says_too_much(Lone *lone, Regions *r)
{
        static uint8_t packet[2 * NODE_MSG_MAX] = {NODE_MSG_WELCOME};

        lone_says(lone, packet, sizeof(packet), NULL, 0);
}

static void welcomes_without_descriptors(Lone *lone, Regions *r)
{
        NodeMsg m = welcome_msg(0, 0);

        lone_says_msg(lone, &m, NULL, 0);
}

static void welcomes_with_one_descriptor(Lone *lone, Regions *r)
{
        NodeMsg m = welcome_msg(0, 0);

        lone_says_msg(lone, &m, &r->control, 1);
}

static void sends_descriptors_with_start(Lone *lone, Regions *r)
{
        lone_is_welcome(lone, r, 0, 0);
        lone_says_msg(lone, &(NodeMsg){.type = NODE_MSG_SETUP_END}, (int[]){r->ring, r->pool}, 2);
}

static void swaps_the_descriptors(Lone *lone, Regions *r)
{
        NodeMsg m = welcome_msg(0, 0);

        lone_says_msg(lone, &m, (int[]){r->bell, r->control}, 2);
}

static void sends_a_file_for_a_region(Lone *lone, Regions *r)
{
        NodeMsg m = welcome_msg(0, 0);
        int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

        lone_says_msg(lone, &m, (int[]){fd, r->bell}, 2);
        (void)fd_close(fd);
}

static void sends_a_sealed_bell(Lone *lone, Regions *r)
{
        NodeMsg m = welcome_msg(0, 0);

        cr_assert_eq(region_seal(r->bell, REGION_BELL), 0);
        lone_says_msg(lone, &m, (int[]){r->control, r->bell}, 2);
}

static void lies_about_a_size(Lone *lone, Regions *r)
{
        NodeMsg m = welcome_msg(0, 0);

        m.welcome.bell_size = 4096;
        lone_says_msg(lone, &m, (int[]){r->control, r->bell}, 2);
}

static NodeMsg output_msg(uint32_t index)
{
        PoolClass class = pool_class_for(1000, 4);

        return (NodeMsg){.type = NODE_MSG_OUTPUT, .output = {.index = index, .id = "o", .n_slots = 16,
                .ring_size = ring_size(16), .pool_size = pool_size(&class, 1)}};
}

static void ends_the_setup_without_an_output(Lone *lone, Regions *r)
{
        lone_is_welcome(lone, r, 0, 1);
        lone_says_msg(lone, &(NodeMsg){.type = NODE_MSG_SETUP_END}, NULL, 0);
}

static void ends_the_setup_without_an_input(Lone *lone, Regions *r)
{
        lone_is_welcome(lone, r, 1, 0);
        lone_says_msg(lone, &(NodeMsg){.type = NODE_MSG_SETUP_END}, NULL, 0);
}

static void gives_an_output_that_was_not_announced(Lone *lone, Regions *r)
{
        NodeMsg m = output_msg(1);

        lone_is_welcome(lone, r, 0, 1);
        lone_says_msg(lone, &m, (int[]){r->ring, r->pool}, 2);
}

static void gives_an_output_twice(Lone *lone, Regions *r)
{
        NodeMsg m = output_msg(0);

        lone_is_welcome(lone, r, 0, 1);
        lone_says_msg(lone, &m, (int[]){r->ring, r->pool}, 2);
        lone_says_msg(lone, &m, (int[]){r->ring, r->pool}, 2);
}

static void lies_about_the_slots(Lone *lone, Regions *r)
{
        NodeMsg m = output_msg(0);

        m.output.n_slots = 32;
        lone_is_welcome(lone, r, 0, 1);
        lone_says_msg(lone, &m, (int[]){r->ring, r->pool}, 2);
}

static void gets_as_far_as_links(Lone *lone, Regions *r)
{
        NodeMsg m = output_msg(0);

        lone_is_welcome(lone, r, 1, 1);
        lone_says_msg(lone, &m, (int[]){r->ring, r->pool}, 2);
        m = (NodeMsg){.type = NODE_MSG_INPUT, .input = {.id = "i", .queue_size = 10, .policy = NODE_QUEUE_DROP_OLDEST,
                .link = 7, .cursor_size = cursor_size()}};
        lone_says_msg(lone, &m, &r->cursor, 1);
        lone_says_msg(lone, &(NodeMsg){.type = NODE_MSG_SETUP_END}, NULL, 0);
        cr_assert_eq(lone_hears(lone).type, NODE_MSG_MAPPED);
}

static void welcomes_somebody_else_then(Lone *lone, Regions *r, NodeMsg m, bool ready)
{
        lone_is_welcome(lone, r, 0, 0);
        if (ready) {
                lone_says_msg(lone, &(NodeMsg){.type = NODE_MSG_SETUP_END}, NULL, 0);
                cr_assert_eq(lone_hears(lone).type, NODE_MSG_MAPPED);
        }
        lone_says_msg(lone, &m, (int[]){r->control, r->bell}, 2);
}

static void welcomes_another_incarnation(Lone *lone, Regions *r)
{
        NodeMsg m = welcome_msg(0, 0);

        m.welcome.generation = 2;
        welcomes_somebody_else_then(lone, r, m, false);
}

static void welcomes_another_node(Lone *lone, Regions *r)
{
        NodeMsg m = welcome_msg(0, 0);

        m.welcome.node = "m";
        welcomes_somebody_else_then(lone, r, m, true);
}

static void welcomes_another_dataflow(Lone *lone, Regions *r)
{
        NodeMsg m = welcome_msg(0, 0);

        m.welcome.uuid[15] = 1;
        welcomes_somebody_else_then(lone, r, m, true);
}

static void welcomes_again_with_other_ports(Lone *lone, Regions *r)
{
        welcomes_somebody_else_then(lone, r, welcome_msg(1, 0), true);
}

static void gives_another_output_when_all_is_mapped(Lone *lone, Regions *r)
{
        NodeMsg m = output_msg(0);

        gets_as_far_as_links(lone, r);
        m.output.id = "p";
        lone_says_msg(lone, &m, (int[]){r->ring, r->pool}, 2);
}

static void gives_another_input_when_all_is_mapped(Lone *lone, Regions *r)
{
        NodeMsg m = {.type = NODE_MSG_INPUT, .input = {.id = "i", .queue_size = 10, .policy = NODE_QUEUE_DROP_OLDEST,
                .link = 8, .cursor_size = cursor_size()}};

        gets_as_far_as_links(lone, r);
        lone_says_msg(lone, &m, &r->cursor, 1);
}

static NodeMsg link_in_msg(void)
{
        NodeMsg out = output_msg(0);

        return (NodeMsg){.type = NODE_MSG_LINK_IN, .link_in = {.link = 7, .generation = 1, .n_slots = 16,
                .ring_size = ring_size(16), .pool_size = out.output.pool_size, .start_at = NODE_START_AT_HEAD}};
}

static void links_an_unknown_peer(Lone *lone, Regions *r)
{
        NodeMsg m = link_in_msg();

        gets_as_far_as_links(lone, r);
        m.link_in.peer = 3;
        lone_says_msg(lone, &m, (int[]){r->ring, r->pool}, 2);
}

static void links_an_unknown_link(Lone *lone, Regions *r)
{
        NodeMsg m = link_in_msg();

        gets_as_far_as_links(lone, r);
        m.link_in.link = 8;
        lone_says_msg(lone, &m, (int[]){r->ring, r->pool}, 2);
}

static void links_an_output_that_is_not_there(Lone *lone, Regions *r)
{
        NodeMsg m = {.type = NODE_MSG_LINK_OUT, .link_out = {.link = 1, .generation = 1, .output = 5, .queue_size = 3,
                .policy = NODE_QUEUE_DROP_OLDEST, .cursor_size = cursor_size()}};

        gets_as_far_as_links(lone, r);
        lone_says_msg(lone, &m, &r->cursor, 1);
}

static void gives_a_pipe_for_a_doorbell(Lone *lone, Regions *r)
{
        NodeMsg m = {.type = NODE_MSG_PEER, .peer = {.peer = 3, .generation = 1, .node = "p", .bell_size = bell_size()}};
        int fds[2];

        gets_as_far_as_links(lone, r);
        cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
        cr_assert_eq(region_seal(r->bell, REGION_BELL), 0);
        lone_says_msg(lone, &m, (int[]){r->bell, fds[1]}, 2);
}

Test(open, a_supervisor_that_breaks_the_protocol_is_refused, .timeout = 60)
{
        static const Lie lies[] = {says_noise, says_start_first, says_what_nodes_say, says_too_much,
                welcomes_without_descriptors, welcomes_with_one_descriptor, sends_descriptors_with_start,
                swaps_the_descriptors, sends_a_file_for_a_region, sends_a_sealed_bell, lies_about_a_size,
                ends_the_setup_without_an_output, ends_the_setup_without_an_input, gives_an_output_that_was_not_announced,
                gives_an_output_twice, lies_about_the_slots, links_an_unknown_peer, links_an_unknown_link,
                links_an_output_that_is_not_there, gives_a_pipe_for_a_doorbell, welcomes_another_incarnation, welcomes_another_node,
                welcomes_another_dataflow, welcomes_again_with_other_ports, gives_another_output_when_all_is_mapped,
                gives_another_input_when_all_is_mapped};

        for (unsigned i = 0; i < ELEMENTSOF(lies); i++) {
                Lone lone = lone_start();
                Regions r = regions();

                lies[i](&lone, &r);
                cr_expect_eq(lone_result(&lone), -EPROTO, "lie %u", i);
        }
}

/* Random packets, half of them beginning like a true one: an error, never a crash, never a hang. */
Test(open, random_packets_never_crash_it, .timeout = 60)
{
        unsigned seed = 12345;

        for (unsigned i = 0; i < 200; i++) {
                Lone lone = lone_start();
                Regions r = regions();
                uint8_t packet[300];
                size_t size;

                if (i % 2)
                        lone_is_welcome(&lone, &r, 1, 1);
                for (unsigned k = 0; k < 4; k++) {
                        size = 1 + (size_t)rand_r(&seed) % sizeof(packet);
                        for (size_t b = 0; b < size; b++)
                                packet[b] = (uint8_t)rand_r(&seed);
                        packet[0] = (uint8_t)(NODE_MSG_WELCOME + rand_r(&seed) % 15);
                        lone_says(&lone, packet, size, (int[]){r.ring, r.pool}, rand_r(&seed) % 3);
                }
                cr_assert_neq(lone_result(&lone), 0);
                (void)close(r.control), (void)close(r.bell), (void)close(r.ring), (void)close(r.pool), (void)close(r.cursor);
        }
}

/* -------- what must be believed -------- */

static void take_to_the_end(tg_node *node)
{
        tg_event *ev;

        while (tg_next(node, &ev, TG_FOREVER) == 0)
                tg_event_free(ev);
}

static void introduce_doorbell(Lone *lone, const Regions *r, uint32_t generation, int *ret_end)
{
        NodeMsg m = {.type = NODE_MSG_PEER, .peer = {.peer = 3, .generation = generation, .node = "p", .bell_size = bell_size()}};
        int pair[2];

        cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        lone_says_msg(lone, &m, (int[]){r->bell, pair[0]}, 2);
        (void)fd_close(pair[0]);
        *ret_end = pair[1];
}

static unsigned count_timerfds(pid_t pid)
{
        char path[64], target[64];
        struct dirent *e;
        unsigned n = 0;
        DIR *dir;

        (void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
        dir = opendir(path);
        cr_assert_not_null(dir);
        while ((e = readdir(dir))) {
                ssize_t length = readlinkat(dirfd(dir), e->d_name, target, sizeof(target) - 1);

                target[MAX(length, (ssize_t)0)] = '\0';
                n += strcmp(target, "anon_inode:[timerfd]") == 0;
        }
        (void)closedir(dir);
        return n;
}

/* A doorbell that rings without an end costs nothing but CPU time, and its owner's name: where nobody can be named it is not listened to. */
static void introduce_with_doorbells(bool sealed, unsigned n_kept)
{
        NodeMsg m = {.type = NODE_MSG_PEER, .peer = {.peer = 3, .generation = 1, .node = "p", .bell_size = bell_size(), .doorbells = 1}};
        Lone lone = lone_start_and(take_to_the_end);
        Regions r = regions(), other = regions();
        int pair[2], doorbells[2] = {doorbell_make(), doorbell_make()};

        if (doorbells[0] == -ENOTSUP)
                cr_skip_test("this kernel has no TFD_IOC_SET_TICKS");
        gets_as_far_as_links(&lone, &r);
        cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        if (sealed)
                cr_assert_eq(region_seal(other.bell, REGION_BELL), 0);
        lone_says_msg(&lone, &m, (int[]){other.bell, pair[0], doorbells[0], doorbells[1]}, 4);
        lone_says_msg(&lone, &(NodeMsg){.type = NODE_MSG_RESUME}, NULL, 0);
        cr_assert_eq(lone_hears(&lone).type, NODE_MSG_HELLO, "it has read what came before");
        cr_assert_eq(count_timerfds(lone.pid), 1 + n_kept);
        cr_assert(kill(lone.pid, SIGKILL) == 0 && waitpid(lone.pid, NULL, 0) == lone.pid);
        for (int i = 0; i < 2; i++) {
                (void)fd_close(pair[i]);
                (void)fd_close(doorbells[i]);
        }
        (void)fd_close(lone.fd);
}

Test(open, who_has_spoiled_its_bell_is_not_heard, .timeout = 20)
{
        introduce_with_doorbells(true, 2);
        introduce_with_doorbells(false, 0);
}

/* A repeated LINK_OUT is answered with what will last: not with a link whose doorbell was hung up, of which the node just
 * has not heard yet. */
Test(open, a_link_on_a_dead_doorbell_is_made_anew_on_the_living_one, .timeout = 20)
{
        NodeMsg m = {.type = NODE_MSG_LINK_OUT, .link_out = {.link = 1, .generation = 1, .output = 0, .peer = 3, .queue_size = 3,
                .policy = NODE_QUEUE_BACKPRESSURE, .cursor_size = cursor_size()}};
        Lone lone = lone_start_and(take_to_the_end);
        Regions r = regions(), other = regions();
        int old_end, new_end;

        gets_as_far_as_links(&lone, &r);
        cr_assert(region_seal(other.bell, REGION_BELL) == 0 && region_seal(other.cursor, REGION_CURSOR) == 0);
        introduce_doorbell(&lone, &other, 1, &old_end);
        lone_says_msg(&lone, &m, &other.cursor, 1);
        cr_assert_eq(lone_hears(&lone).type, NODE_MSG_LINK_OUT_ACK);
        old_end = fd_close(old_end); /* the node does not poll before the start, so it cannot know */
        introduce_doorbell(&lone, &other, 2, &new_end);
        lone_says_msg(&lone, &m, &other.cursor, 1);
        cr_assert_eq(lone_hears(&lone).type, NODE_MSG_LINK_OUT_ACK);
        lone_says_msg(&lone, &(NodeMsg){.type = NODE_MSG_START}, NULL, 0);
        for (unsigned i = 0; i < 3; i++) { /* it has slept, and so has polled, by the time of the last */
                lone_says_msg(&lone, &(NodeMsg){.type = NODE_MSG_RESUME, .resume = {.epoch = i}}, NULL, 0);
                cr_assert_eq(lone_hears(&lone).type, NODE_MSG_HELLO);
                cr_assert_eq(lone_hears(&lone).type, NODE_MSG_MAPPED);
                cr_assert_eq(lone_hears(&lone).type, NODE_MSG_LINK_OUT_ACK, "asked %u times", i);
                m = lone_hears(&lone);
                cr_assert(m.type == NODE_MSG_RESUMED && m.resume.epoch == i && (i == 0 || m.resume.running));
        }
        lone_says_msg(&lone, &(NodeMsg){.type = NODE_MSG_STOP, .stop = {.cause = NODE_STOP_MANUAL}}, NULL, 0);
        cr_assert_eq(lone_result(&lone), 0);
        (void)fd_close(new_end);
}

/* -------- by name -------- */

typedef struct Desk { /* where dynamic nodes ask to be let in */
        char dir[40], path[64];
        int fd;
} Desk;

static Desk desk_open(const char *name, bool listens)
{
        struct sockaddr_un addr = {.sun_family = AF_UNIX};
        Desk desk = {.fd = -1};

        (void)snprintf(desk.dir, sizeof(desk.dir), "/tmp/tidegate-open-XXXXXX");
        cr_assert(mkdtemp(desk.dir));
        (void)snprintf(desk.path, sizeof(desk.path), "%s/%s", desk.dir, name);
        memcpy(addr.sun_path, desk.path, sizeof(desk.path));
        desk.fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        cr_assert_eq(bind(desk.fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
        if (listens)
                cr_assert_eq(listen(desk.fd, 1), 0);
        return desk;
}

static void desk_close(Desk *desk)
{
        desk->fd = fd_close(desk->fd);
        (void)unlink(desk->path);
        (void)rmdir(desk->dir);
}

/* A process that asks @n times; the status is that of the last time. */
static Lone lone_asks(const char *variable, const char *value, const char *id, const char *dataflow, unsigned n)
{
        Lone lone = {.fd = -1};

        fflush(NULL);
        lone.pid = fork();
        if (lone.pid == 0) {
                tg_node *node;
                int r = 0;

                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                (void)unsetenv(NODE_MSG_SOCKET_ENV);
                (void)unsetenv("TIDEGATE_RUNTIME_DIR");
                (void)setenv(NODE_MSG_FD_ENV, "0", 1); /* not looked at */
                (void)setenv(variable, value, 1);
                if (!freopen("/dev/null", "w", stderr))
                        _exit(99);
                for (unsigned i = 0; i < n; i++)
                        r = tg_node_open_as(&node, id, dataflow);
                _exit(r == 0 ? 0 : 256 + r);
        }
        return lone;
}

static NodeMsg desk_hears(Desk *desk, Lone *lone)
{
        struct pollfd pfd = {.fd = desk->fd, .events = POLLIN};

        lone->fd = fd_close(lone->fd); /* without an answer, or with one that was the last word */
        cr_assert_eq(poll(&pfd, 1, 10000), 1, "nobody came");
        lone->fd = accept4(desk->fd, NULL, NULL, SOCK_CLOEXEC);
        cr_assert_geq(lone->fd, 0);
        return lone_hears(lone);
}

Test(open_as, who_asks_says_which_node_it_wants_to_be_and_starts_like_any_other, .timeout = 20)
{
        for (unsigned where = 0; where < 2; where++) {
                Desk desk = desk_open(where ? "node.sock" : "any.sock", true);
                Lone lone = lone_asks(where ? "TIDEGATE_RUNTIME_DIR" : NODE_MSG_SOCKET_ENV, where ? desk.dir : desk.path, "n",
                        where ? "" : "d", 1);
                NodeMsg hello = desk_hears(&desk, &lone), m = welcome_msg(0, 0);
                Regions r = regions();

                cr_assert_eq(hello.type, NODE_MSG_HELLO);
                cr_assert_eq(hello.hello.version, NODE_MSG_VERSION);
                cr_assert_str_eq(hello.hello.node, "n");
                cr_assert_str_eq(hello.hello.dataflow, where ? "" : "d");
                cr_assert_eq(hello.hello.generation, 0);
                lone_says_msg(&lone, &m, (int[]){r.control, r.bell}, 2);
                lone_says_msg(&lone, &(NodeMsg){.type = NODE_MSG_SETUP_END}, NULL, 0);
                cr_assert_eq(lone_hears(&lone).type, NODE_MSG_MAPPED);
                lone_says_msg(&lone, &(NodeMsg){.type = NODE_MSG_START}, NULL, 0);
                cr_assert_eq(lone_result(&lone), 0);
                desk_close(&desk);
        }
}

Test(open_as, who_is_refused_may_ask_again, .timeout = 20)
{
        Desk desk = desk_open("node.sock", true);
        Lone lone = lone_asks(NODE_MSG_SOCKET_ENV, desk.path, "n", NULL, 3);

        for (unsigned i = 0; i < 3; i++) {
                cr_assert_eq(desk_hears(&desk, &lone).type, NODE_MSG_HELLO);
                lone_says_msg(&lone, &(NodeMsg){.type = NODE_MSG_ABORT, .abort = {.text = "no node n here"}}, NULL, 0);
        }
        cr_assert_eq(lone_result(&lone), -ECANCELED);
        desk_close(&desk);
}

/* A supervisor that dies before it has answered: its successor is asked. */
Test(open_as, who_gets_no_answer_asks_the_next_one, .timeout = 20)
{
        Desk desk = desk_open("node.sock", true);
        Lone lone = lone_asks(NODE_MSG_SOCKET_ENV, desk.path, "n", "d", 1);

        for (unsigned i = 0; i < 3; i++) {
                NodeMsg hello = desk_hears(&desk, &lone);

                cr_assert_str_eq(hello.hello.node, "n");
                cr_assert_eq(hello.hello.generation, 0);
        }
        lone_says_msg(&lone, &(NodeMsg){.type = NODE_MSG_ABORT, .abort = {.text = "connected already"}}, NULL, 0);
        cr_assert_eq(lone_result(&lone), -ECANCELED);
        desk_close(&desk);
}

Test(open_as, without_a_daemon_it_says_so_at_once, .timeout = 20)
{
        Desk desk = desk_open("node.sock", false);
        Lone lone = lone_asks(NODE_MSG_SOCKET_ENV, desk.path, "n", NULL, 2);
        char text[400];

        cr_assert_eq(lone_result(&lone), -ENOTCONN); /* a socket where nobody listens */
        (void)unlink(desk.path);
        lone = lone_asks(NODE_MSG_SOCKET_ENV, desk.path, "n", NULL, 2);
        cr_assert_eq(lone_result(&lone), -ENOTCONN);
        lone = lone_asks("TIDEGATE_RUNTIME_DIR", "/proc/self/status", "n", NULL, 1);
        cr_assert_eq(lone_result(&lone), -ENOTCONN);
        memset(text, 'x', sizeof(text));
        text[200] = '\0';
        lone = lone_asks(NODE_MSG_SOCKET_ENV, text, "n", NULL, 1);
        cr_assert_eq(lone_result(&lone), -ENAMETOOLONG);
        desk_close(&desk);
}

Test(open_as, names_that_are_none_are_refused_here, .timeout = 20)
{
        Desk desk = desk_open("node.sock", true);
        char text[300];
        Lone lone;

        memset(text, 'x', sizeof(text));
        text[129] = '\0';
        lone = lone_asks(NODE_MSG_SOCKET_ENV, desk.path, text, NULL, 1);
        cr_assert_eq(lone_result(&lone), -EINVAL);
        lone = lone_asks(NODE_MSG_SOCKET_ENV, desk.path, "", NULL, 1);
        cr_assert_eq(lone_result(&lone), -EINVAL);
        lone = lone_asks(NODE_MSG_SOCKET_ENV, desk.path, NULL, NULL, 1);
        cr_assert_eq(lone_result(&lone), -EINVAL);
        text[129] = 'x';
        text[257] = '\0';
        lone = lone_asks(NODE_MSG_SOCKET_ENV, desk.path, "n", text, 1);
        cr_assert_eq(lone_result(&lone), -EINVAL);
        desk_close(&desk);
}

Test(open_as, an_answer_for_another_node_is_none, .timeout = 20)
{
        Desk desk = desk_open("node.sock", true);
        Lone lone = lone_asks(NODE_MSG_SOCKET_ENV, desk.path, "m", NULL, 1);
        NodeMsg m = welcome_msg(0, 0);
        Regions r = regions();

        cr_assert_eq(desk_hears(&desk, &lone).type, NODE_MSG_HELLO);
        lone_says_msg(&lone, &m, (int[]){r.control, r.bell}, 2);
        cr_assert_eq(lone_result(&lone), -EPROTO);
        desk_close(&desk);
}

/* -------- later in life -------- */

static int hear_of_trouble(tg_node *node, void *arg)
{
        tg_event *ev;

        NODE_CHECK(tg_next(node, &ev, 10 * (int64_t)NSEC_PER_SEC) == 0);
        NODE_CHECK(tg_event_type(ev) == TG_EVENT_ERROR && tg_event_size(ev) > 5);
        tg_event_free(ev);
        NODE_CHECK(tg_next(node, &ev, TG_FOREVER) == TG_E_END);
        NODE_CHECK(tg_send(node, "out", "x", 1, NULL) == 0);
        return 0;
}

Test(open, a_running_node_hears_of_a_broken_protocol_as_an_error_event, .timeout = 30)
{
        static const char *const noise[] = {"\xff", "\x26", "\x2d\x01", "\x02"};

        for (unsigned i = 0; i < ELEMENTSOF(noise); i++) {
                Flow *flow = flow_new();
                int a = flow_node(flow, "node", hear_of_trouble, NULL), status = -1;

                flow_output(flow, a, "out", 10, 100, 4);
                flow_start(flow);
                flow_send_raw(flow, a, noise[i], strlen(noise[i]));
                cr_assert(FLOW_UNTIL(flow, 10, flow_exited(flow, a, &status)));
                cr_assert_eq(status, 0);
                flow_close(flow);
        }
}

static int run_out_of_descriptors(tg_node *node, void *arg)
{
        Flow *flow = *(Flow **)arg;
        struct rlimit before, limit;
        tg_event *ev;

        NODE_CHECK(getrlimit(RLIMIT_NOFILE, &before) == 0);
        limit = before;
        limit.rlim_cur = 3;
        NODE_CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0); /* what is open stays open, nothing new fits */
        flow_shared(flow)[0] = 1;
        flow_note(flow);
        NODE_CHECK(tg_next(node, &ev, 10 * (int64_t)NSEC_PER_SEC) == 0);
        NODE_CHECK(tg_event_type(ev) == TG_EVENT_ERROR);
        NODE_CHECK(strcmp(tg_event_data(ev), strerrordesc_np(EMFILE)) == 0);
        tg_event_free(ev);
        NODE_CHECK(setrlimit(RLIMIT_NOFILE, &before) == 0);
        return 0;
}

static int idle(tg_node *node, void *arg)
{
        tg_event *ev;

        NODE_CHECK(tg_next(node, &ev, TG_FOREVER) == 0);
        tg_event_free(ev);
        return 0;
}

Test(open, a_node_without_free_descriptors_says_so_when_it_is_sent_one, .timeout = 30)
{
        Flow *flow = flow_new();
        int a, b, status = -1;

        a = flow_node(flow, "node", run_out_of_descriptors, &flow);
        b = flow_node(flow, "peer", idle, NULL);
        flow_link(flow, a, flow_output(flow, a, "out", 10, 100, 4), b, "in", (FlowLinkSpec){});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 10, flow_shared(flow)[0]));
        flow_kill(flow, b);
        cr_assert(FLOW_UNTIL(flow, 10, flow_exited(flow, b, NULL)));
        flow_restart(flow, b);
        cr_assert(FLOW_UNTIL(flow, 10, flow_exited(flow, a, &status)));
        cr_assert_eq(status, 0);
        flow_close(flow);
}
