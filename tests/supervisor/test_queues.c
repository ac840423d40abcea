/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose files are shown to the helper that sees queues, and what follows when it or a keeper answers late, wrongly or never. No kernel probe: the helper is
 * the test, its memory two files; deadlines are delivered when the test says so.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "bpf/queue.h"
#include "protocol/queues_msg.h"
#include "supervisor/packet.h"
#include "supervisor/supervisor.h"

#define N_LINKS 64

typedef struct Fixture {
        Supervisor supervisor;
        Dataflow *dataflows[2];
        int guard_fd;  /* the guard's end */
        int helper_fd; /* the helper's end */
        int keeper_fds[2]; /* the keepers' ends */
        int maps[_QUEUES_FD_MAX];
} Fixture;

/* b reads what a writes. */
static Plan *plan_of(const char *name)
{
        char text[] = "{'version':1,'name':'n','file':'/d/n.yml','dir':'/d','nodes':["
                      "{'id':'a','line':0,'kind':'node','argv':['/b'],'env':{},'cpu_affinity':[],'inputs':[],'outputs':['o'],'pool_size':65536,'restart':{'policy':'never',"
                      "'max_restarts':0,'delay_ns':0,'max_delay_ns':0,'window_ns':0},'startup_timeout_ns':1,'finish_grace_ns':0,'after':[]},"
                      "{'id':'b','line':0,'kind':'node','argv':['/b'],'env':{},'cpu_affinity':[],'inputs':[{'id':'i','line':0,'source':{'node':'a','output':'o'},'queue_size':1,"
                      "'queue_policy':'drop_oldest','input_timeout_ns':0}],'outputs':[],'pool_size':65536,'restart':{'policy':'never','max_restarts':0,'delay_ns':0,"
                      "'max_delay_ns':0,'window_ns':0},'startup_timeout_ns':1,'finish_grace_ns':0,'after':[]}]}";
        Plan *plan = NULL;
        char why[256] = "";
        json_t *json;

        for (char *c = text; *c; c++)
                *c = *c == '\'' ? '"' : *c;
        json = json_loads(text, 0, NULL);
        cr_assert_not_null(json);
        (void)json_object_set_new(json, "name", json_string(name));
        cr_assert_eq(plan_new(&plan, json, why, sizeof(why)), 0, "%s", why);
        json_decref(json);
        return plan;
}

static void on_event(Dataflow *dataflow, json_t *event, void *owner)
{
        (void)dataflow;
        (void)event; /* borrowed */
        (void)owner;
}

static void make_maps(Fixture *fx)
{
        struct queue_watched watched = {.magic = QUEUE_MAGIC, .link_size = sizeof(struct queue_link), .n_links = N_LINKS};

        for (unsigned i = 0; i < _QUEUES_FD_MAX; i++) {
                fx->maps[i] = memfd_create("map", MFD_CLOEXEC);
                cr_assert_eq(ftruncate(fx->maps[i], i == QUEUES_FD_WATCHED ? (off_t)sizeof(watched) : (off_t)(N_LINKS * sizeof(struct queue_link))), 0);
        }
        cr_assert_eq(pwrite(fx->maps[QUEUES_FD_WATCHED], &watched, sizeof(watched), 0), (ssize_t)sizeof(watched));
}

/* A daemon with two dataflows of two nodes and a link each. */
static Fixture *fixture_new(void)
{
        static Fixture fx;
        DataflowOptions options = {.grace_ns = 2 * NSEC_PER_SEC, .budget_ns = NSEC_PER_SEC, .log_fd = -1};
        int pair[2];

        if (geteuid() != 0)
                cr_skip_test("not root: nobody else's supervisor asks for a helper");
        (void)unsetenv("TIDEGATE_PROBES");
        fx = (Fixture){.supervisor = {.signal_fd = -1, .guard_pidfd = -1, .journal = JOURNAL_NULL, .epoch = 5}, .helper_fd = -1};
        fx.supervisor.options = (SupervisorOptions){.node_listen_fd = -1, .lock_fd = -1, .runtime_fd = -1};
        fx.supervisor.options.listen_fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* any: it is what makes a daemon's */
        cr_assert_eq(loop_init(&fx.supervisor.loop), 0);
        fx.supervisor.loop.now = clock_now();
        cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        fx.supervisor.guard_fd = pair[0];
        fx.guard_fd = pair[1];
        packet_queue_init(&fx.supervisor.guard_out, 100);
        list_init(&fx.supervisor.dataflows);
        for (unsigned i = 0; i < 2; i++) {
                const uint8_t uuid[16] = {(uint8_t)(i + 1)};

                cr_assert_eq(dataflow_make(&fx.dataflows[i], &fx.supervisor, plan_of(i ? "two" : "one"), &options, uuid, on_event), 0);
                list_append(&fx.supervisor.dataflows, &fx.dataflows[i]->link);
                fx.dataflows[i]->state = DATAFLOW_RUNNING;
                cr_assert_eq(fx.dataflows[i]->n_links, 1);
                cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
                fx.dataflows[i]->keeper_fd = pair[0];
                fx.keeper_fds[i] = pair[1];
        }
        make_maps(&fx);
        return &fx;
}

static void fixture_done(Fixture *fx)
{
        for (unsigned i = 0; i < 2; i++) {
                (void)dataflow_free(fx->dataflows[i]);
                (void)fd_close(fx->keeper_fds[i]);
        }
        fx->supervisor.queues = queues_free(fx->supervisor.queues);
        for (unsigned i = 0; i < _QUEUES_FD_MAX; i++)
                (void)fd_close(fx->maps[i]);
        packet_queue_done(&fx->supervisor.guard_out);
        (void)fd_close(fx->supervisor.guard_fd);
        (void)fd_close(fx->guard_fd);
        (void)fd_close(fx->helper_fd);
        (void)fd_close(fx->supervisor.options.listen_fd);
        loop_done(&fx->supervisor.loop);
}

/* Was the guard told to start the helper? */
static bool asked(Fixture *fx)
{
        struct guard_record record = {};
        size_t size = 0;

        if (packet_recv(fx->guard_fd, &record, sizeof(record), &size, NULL, 0, NULL) == PACKET_E_AGAIN)
                return false;
        cr_assert_eq(guard_msg_check(GUARD_SENDER_SUPERVISOR, &record, size, 0), 0);
        cr_assert(record.type == GUARD_MSG_FORK_HELPER && record.count == GUARD_HELPER_QUEUES, "type %u", record.type);
        return true;
}

static void start_helper(Fixture *fx)
{
        int pair[2];

        cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        fx->helper_fd = fd_close(fx->helper_fd);
        fx->helper_fd = pair[1];
        queues_on_started(&fx->supervisor, 4711, pair[0], -1);
}

static int on_turn_over(Job *job)
{
        (void)job;
        return 1; /* ends loop_run() */
}

/* What lies in the sockets is read. */
static void turn(Fixture *fx)
{
        Job over = {};

        job_post(&fx->supervisor.loop, &over, on_turn_over);
        (void)loop_run(&fx->supervisor.loop);
}

/* The helper says it, and is heard. */
static void say(Fixture *fx, QueuesMsgType type, uint32_t n_files, const char *error)
{
        struct queues_record record = {.magic = QUEUES_MAGIC, .type = (uint16_t)type, .load_ms = 40, .hit_ns = 1000, .n_files = n_files, .error = error ? 1 : 0};

        (void)snprintf(record.text, sizeof(record.text), "%s", error ? error : "");
        cr_assert_eq(packet_send(fx->helper_fd, &record, sizeof(record), fx->maps, type == QUEUES_MSG_READY ? _QUEUES_FD_MAX : 0), 0);
        turn(fx);
}

/* Are files to be shown to the helper, by that dataflow's keeper? @ret_at: the question */
static bool is_shown(Fixture *fx, unsigned i, uint64_t *ret_at)
{
        struct queues_record record = {};
        char buffer[KEEPER_MSG_MAX];
        int fds[KEEPER_MSG_MAX_FDS];
        size_t size = 0, n_fds = 0;
        KeeperMsg msg;

        if (packet_recv(fx->keeper_fds[i], buffer, sizeof(buffer), &size, fds, ELEMENTSOF(fds), &n_fds) == PACKET_E_AGAIN)
                return false;
        for (size_t k = 0; k < n_fds; k++)
                (void)fd_close(fds[k]);
        cr_assert_eq(keeper_msg_decode(&msg, buffer, size), 0);
        cr_assert_eq(msg.type, KEEPER_MSG_FILES);
        *ret_at = msg.files.asked_ns;
        cr_assert_eq(packet_recv(fx->helper_fd, &record, sizeof(record), &size, fds, ELEMENTSOF(fds), &n_fds), 0);
        for (size_t k = 0; k < n_fds; k++)
                (void)fd_close(fds[k]);
        cr_assert_eq(queues_msg_check(1, &record, size, n_fds), 0);
        return true;
}

static void answer(Fixture *fx, unsigned i, uint64_t at, int error)
{
        queues_files_shown(fx->dataflows[i], &(KeeperMsg){.type = KEEPER_MSG_FILES_SHOWN, .files_shown = {.asked_ns = at, .error = error, .cgroup_id = error ? 0 : 1000 + i}});
}

/* That span goes by, and all deadlines with it that lie in it. */
static void pass(Fixture *fx, nsec_t span)
{
        nsec_t until = nsec_add(fx->supervisor.loop.now, span);
        Timer *timer;

        while (!list_empty(&fx->supervisor.loop.timers) && (timer = list_first(&fx->supervisor.loop.timers, Timer, link))->at <= until) {
                fx->supervisor.loop.now = MAX(timer->at, fx->supervisor.loop.now);
                timer_disarm(timer);
                (void)timer->fn(timer, fx->supervisor.loop.now);
        }
        fx->supervisor.loop.now = until;
}

/* What its clients are told of why nothing is seen; "": nothing. */
static const char *reason(Fixture *fx, unsigned i)
{
        static char text[256];
        json_t *probes = json_object();

        queues_describe_into(fx->dataflows[i], probes);
        (void)snprintf(text, sizeof(text), "%s", json_is_string(json_object_get(probes, "queue_reason")) ? json_string_value(json_object_get(probes, "queue_reason")) : "");
        json_decref(probes);
        return text;
}

/* The helper is there, and was shown the files of the first dataflow. */
static void attach(Fixture *fx)
{
        uint64_t at;

        queues_want(fx->dataflows[0], 0.03);
        cr_assert(asked(fx));
        start_helper(fx);
        say(fx, QUEUES_MSG_READY, 0, NULL);
        cr_assert(is_shown(fx, 0, &at));
        answer(fx, 0, at, 0);
        say(fx, QUEUES_MSG_DONE, 1, NULL);
        cr_assert(fx->dataflows[0]->queues.watching);
        cr_assert_str_eq(reason(fx, 0), "");
}

Test(queues, the_answer_to_a_question_that_was_given_up_is_not_taken_for_that_to_the_next_one, .timeout = 20)
{
        Fixture *fx = fixture_new();
        uint64_t at;

        queues_want(fx->dataflows[0], 0.03);
        queues_want(fx->dataflows[1], 0.03);
        cr_assert(asked(fx));
        start_helper(fx);
        say(fx, QUEUES_MSG_READY, 0, NULL);
        cr_assert(is_shown(fx, 0, &at));
        answer(fx, 0, at, ENOMEM); /* nothing was shown, which the helper says in its time */
        cr_expect(strstr(reason(fx, 0), "its keeper cannot tell which files its nodes run of"), "%s", reason(fx, 0));
        cr_assert(is_shown(fx, 1, &at), "it is the turn of the next one");
        say(fx, QUEUES_MSG_DONE, 0, NULL);
        cr_expect_str_eq(reason(fx, 1), "it is being attached", "that was about the first one's");
        answer(fx, 1, at, 0);
        say(fx, QUEUES_MSG_DONE, 1, NULL);
        cr_expect(fx->dataflows[1]->queues.watching);
        fixture_done(fx);
}

Test(queues, who_still_wants_it_is_shown_to_the_next_helper_as_well, .timeout = 20)
{
        Fixture *fx = fixture_new();
        uint64_t at;

        attach(fx);
        fx->helper_fd = fd_close(fx->helper_fd);
        turn(fx);
        cr_expect_str_eq(reason(fx, 0), "tidegate-queues is gone");
        fx->supervisor.loop.now += 10 * NSEC_PER_SEC;
        queues_want(fx->dataflows[0], 0.03); /* a second client; the first one has never left */
        cr_assert(asked(fx));
        start_helper(fx);
        say(fx, QUEUES_MSG_READY, 0, NULL);
        cr_assert(is_shown(fx, 0, &at));
        answer(fx, 0, at, 0);
        say(fx, QUEUES_MSG_DONE, 1, NULL);
        cr_expect(fx->dataflows[0]->queues.watching);
        fixture_done(fx);
}

Test(queues, what_could_not_be_attached_to_beside_others_is_told_of, .timeout = 20)
{
        Fixture *fx = fixture_new();
        uint64_t at;

        attach(fx);
        queues_node_started(&fx->dataflows[0]->nodes[1]);
        cr_assert(is_shown(fx, 0, &at));
        answer(fx, 0, at, 0);
        say(fx, QUEUES_MSG_DONE, 1, "attach to a site: Too many open files");
        cr_expect(fx->dataflows[0]->queues.watching);
        cr_expect_str_eq(reason(fx, 0), "of some of its nodes: attach to a site: Too many open files");
        fixture_done(fx);
}

Test(queues, a_guard_that_does_not_answer_is_not_waited_for_without_end, .timeout = 20)
{
        Fixture *fx = fixture_new();

        queues_want(fx->dataflows[0], 0.03);
        cr_assert(asked(fx));
        cr_expect_str_eq(reason(fx, 0), "it is being attached");
        pass(fx, 20 * NSEC_PER_SEC);
        cr_expect_str_eq(reason(fx, 0), "tidegate-queues is not started: the guard does not answer");
        fixture_done(fx);
}

Test(queues, who_was_started_for_an_order_before_the_last_is_not_the_one_that_is_meant, .timeout = 20)
{
        Fixture *fx = fixture_new();

        queues_want(fx->dataflows[0], 0.03);
        queues_unwant(fx->dataflows[0]);
        queues_want(fx->dataflows[0], 0.03);
        cr_assert(asked(fx) && asked(fx));
        start_helper(fx); /* whom the guard kills when it comes to the second order */
        cr_expect_eq(recv(fx->helper_fd, (char[1]){0}, 1, MSG_DONTWAIT), 0, "it is let go of");
        cr_expect_str_eq(reason(fx, 0), "it is being attached");
        start_helper(fx);
        say(fx, QUEUES_MSG_READY, 0, NULL);
        cr_expect_eq(fx->dataflows[0]->queues.done, false);
        cr_expect_str_eq(reason(fx, 0), "it is being attached");
        fixture_done(fx);
}

Test(queues, one_that_has_no_sites_keeps_the_helper_for_what_starts_next, .timeout = 20)
{
        Fixture *fx = fixture_new();
        uint64_t at;

        queues_want(fx->dataflows[0], 0.03);
        cr_assert(asked(fx));
        start_helper(fx);
        say(fx, QUEUES_MSG_READY, 0, NULL);
        for (unsigned i = 0; i < 3; i++) {
                cr_assert(is_shown(fx, 0, &at), "life %u", i);
                answer(fx, 0, at, 0);
                say(fx, QUEUES_MSG_DONE, 0, NULL);
                cr_expect_str_eq(reason(fx, 0), "none of its nodes runs of a file with probe sites");
                queues_node_started(&fx->dataflows[0]->nodes[1]);
                cr_expect_not(asked(fx), "nothing is loaded anew");
        }
        cr_assert(is_shown(fx, 0, &at));
        queues_unwant(fx->dataflows[0]);
        cr_expect_eq(recv(fx->helper_fd, (char[1]){0}, 1, MSG_DONTWAIT), 0, "nobody asks any more");
        fixture_done(fx);
}

/* Who parses files of nodes may be taken over by one. */
Test(queues, numbers_of_the_helper_that_lead_out_of_its_memory_are_not_followed, .timeout = 20)
{
        Fixture *fx = fixture_new();
        struct queue_watched *watched;
        json_t *links = json_array();
        unsigned n_found = 0;
        uint64_t at;

        attach(fx);
        watched = mmap(NULL, sizeof(*watched), PROT_READ | PROT_WRITE, MAP_SHARED, fx->maps[QUEUES_FD_WATCHED], 0);
        cr_assert_neq(watched, MAP_FAILED);
        for (unsigned i = 0; i < QUEUE_GROUPS; i++) {
                if (watched->groups[i].cgroup_id != 1000)
                        continue;
                watched->groups[i].first = UINT32_MAX;
                watched->groups[i].n_links = 2;
                n_found++;
        }
        cr_assert_eq(n_found, 1);
        queues_describe_links(&fx->dataflows[0]->nodes[1], false, links);
        cr_expect_eq(json_array_size(links), 0);

        queues_want(fx->dataflows[1], 0.03); /* looks for a row that is free */
        cr_assert(is_shown(fx, 1, &at));
        answer(fx, 1, at, 0);
        say(fx, QUEUES_MSG_DONE, 1, NULL);
        cr_expect(fx->dataflows[1]->queues.watching);
        json_decref(links);
        (void)munmap(watched, sizeof(*watched));
        fixture_done(fx);
}

Test(queues, a_helper_that_is_held_up_is_let_go_and_no_other_one_begins_by_itself, .timeout = 20)
{
        Fixture *fx = fixture_new();
        uint64_t at;

        attach(fx);
        queues_want(fx->dataflows[1], 0.03);
        cr_assert(is_shown(fx, 1, &at));
        answer(fx, 1, at, 0);
        pass(fx, 20 * NSEC_PER_SEC); /* no DONE comes */
        cr_expect(strstr(reason(fx, 0), "some process that runs of the file holds it up"), "%s", reason(fx, 0));
        cr_expect_eq(recv(fx->helper_fd, (char[1]){0}, 1, MSG_DONTWAIT), 0, "it is let go of");
        queues_node_started(&fx->dataflows[0]->nodes[0]);
        pass(fx, 60 * NSEC_PER_SEC);
        cr_expect_not(asked(fx));
        fixture_done(fx);
}

Test(queues, a_keeper_that_does_not_answer_is_not_the_helpers_fault, .timeout = 20)
{
        Fixture *fx = fixture_new();
        uint64_t at;

        attach(fx);
        queues_node_started(&fx->dataflows[0]->nodes[1]);
        cr_assert(is_shown(fx, 0, &at));
        say(fx, QUEUES_MSG_DONE, 1, NULL);
        pass(fx, 20 * NSEC_PER_SEC);
        cr_expect(fx->dataflows[0]->queues.watching, "as before");
        cr_expect_str_eq(reason(fx, 0), "");
        cr_expect_not(asked(fx));
        fixture_done(fx);
}

Test(queues, a_keeper_that_hangs_with_the_question_costs_its_own_dataflow_alone, .timeout = 20)
{
        Fixture *fx = fixture_new();
        struct queues_record record;
        size_t size = 0, n_fds = 0;
        int from = -1;

        attach(fx);
        queues_want(fx->dataflows[1], 0.03); /* its keeper does not read that */
        cr_assert_eq(packet_recv(fx->helper_fd, &record, sizeof(record), &size, &from, 1, &n_fds), 0);
        cr_assert_eq(n_fds, 1);
        cr_expect_eq(recv(from, (char[1]){0}, 1, MSG_DONTWAIT), -1, "files may come");
        pass(fx, 12 * NSEC_PER_SEC);
        cr_expect_eq(recv(from, (char[1]){0}, 1, MSG_DONTWAIT), 0, "nobody waits for more");
        say(fx, QUEUES_MSG_DONE, 0, NULL);
        cr_expect(strstr(reason(fx, 1), "its keeper does not tell"), "%s", reason(fx, 1));
        pass(fx, 20 * NSEC_PER_SEC);
        cr_expect(fx->dataflows[0]->queues.watching);
        cr_expect_str_eq(reason(fx, 0), "");
        cr_expect_eq(recv(fx->helper_fd, (char[1]){0}, 1, MSG_DONTWAIT), -1, "the helper stays");
        (void)fd_close(from);
        fixture_done(fx);
}

Test(queues, a_dataflow_whose_keeper_cannot_be_asked_does_not_hold_up_the_next_one, .timeout = 20)
{
        Fixture *fx = fixture_new();
        uint64_t at;

        queues_want(fx->dataflows[0], 0.03);
        queues_want(fx->dataflows[1], 0.03);
        cr_assert(asked(fx));
        start_helper(fx);
        fx->dataflows[0]->keeper_fd = fd_close(fx->dataflows[0]->keeper_fd);
        say(fx, QUEUES_MSG_READY, 0, NULL);
        cr_expect_str_eq(reason(fx, 0), "its keeper cannot be asked");
        cr_assert_eq(recv(fx->helper_fd, (char[256]){0}, 256, MSG_DONTWAIT), (ssize_t)sizeof(struct queues_record), "a question of which nothing comes");
        cr_assert(is_shown(fx, 1, &at));
        say(fx, QUEUES_MSG_DONE, 0, NULL);
        answer(fx, 1, at, 0);
        say(fx, QUEUES_MSG_DONE, 1, NULL);
        cr_expect(fx->dataflows[1]->queues.watching);
        fixture_done(fx);
}

/* Killed, it would take out at once what it has attached, and stop every fork of the host while some process is stuck with its memory. */
Test(queues, whoever_has_something_attached_is_not_killed_and_waited_for_until_it_is_gone, .timeout = 20)
{
        Fixture *fx = fixture_new();
        pid_t pid = fork();
        int pair[2], status;
        uint64_t at;

        if (pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                for (;;)
                        (void)pause();
        }
        queues_want(fx->dataflows[0], 0.03);
        cr_assert(asked(fx));
        cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        fx->helper_fd = pair[1];
        queues_on_started(&fx->supervisor, pid, pair[0], (int)syscall(SYS_pidfd_open, pid, 0));
        say(fx, QUEUES_MSG_READY, 0, NULL);
        cr_assert(is_shown(fx, 0, &at));
        answer(fx, 0, at, 0);
        say(fx, QUEUES_MSG_DONE, 1, NULL);
        queues_unwant(fx->dataflows[0]);
        cr_expect_eq(recv(fx->helper_fd, (char[1]){0}, 1, MSG_DONTWAIT), 0, "it hears that nobody wants it any more");
        pass(fx, 10 * NSEC_PER_SEC);
        cr_expect_not(list_empty(&fx->supervisor.loop.timers), "nodes go on to tell of no message");
        cr_assert_eq(kill(pid, SIGTERM), 0);
        cr_assert_eq(waitpid(pid, &status, 0), pid);
        cr_expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM, "until then it is left alone");
        pass(fx, 2 * NSEC_PER_SEC);
        cr_expect(list_empty(&fx->supervisor.loop.timers), "it is gone");
        fixture_done(fx);
}
