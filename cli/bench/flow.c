/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/bench/flow.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/doorbell.h"
#include "base/error.h"
#include "base/receive.h"
#include "base/send.h"
#include "protocol/log_msg.h"

#define FLOW_GRACE      (2 * NSEC_PER_SEC)
#define FLOW_BUDGET     (2 * NSEC_PER_SEC)
#define FLOW_START_SPAN (60 * NSEC_PER_SEC) /* pools of half a gigabyte may be touched before the barrier opens */
#define FLOW_END_SPAN   (10 * NSEC_PER_SEC)

const char *const bench_place_names[_BENCH_PLACE_MAX] = {"same CPU", "other CPU", "default"};

int bench_flow_fail(BenchFlow *flow, int r, const char *format, ...)
{
        va_list ap;

        if (flow->error[0])
                return r;
        va_start(ap, format);
        (void)vsnprintf(flow->error, sizeof(flow->error), format, ap);
        va_end(ap);
        return r;
}

int bench_program(const char *name, char *ret, size_t size)
{
        char self[PATH_MAX];
        ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
        char *slash;

        if (n < 0)
                return error_origin(-errno);
        self[n] = '\0';
        slash = strrchr(self, '/');
        if (slash)
                *slash = '\0';
        if ((size_t)snprintf(ret, size, "%s/../libexec/tidegate/%s", self, name) >= size)
                return error_origin(-ENAMETOOLONG);
        return access(ret, X_OK) < 0 ? -errno : 0;
}

void bench_cpus(int ret[2])
{
        cpu_set_t set;
        int first = -1, last = -1;

        CPU_ZERO(&set);
        (void)sched_getaffinity(0, sizeof(set), &set); /* none: 0 twice */
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
                if (CPU_ISSET(cpu, &set)) {
                        first = first < 0 ? cpu : first;
                        last = cpu;
                }
        ret[0] = MAX(first, 0);
        ret[1] = MAX(last, 0);
}

/* ---- the plan, docs/plan.md */

static json_t *input(const char *id, const char *node, const char *output, uint32_t queue_size)
{
        return json_pack("{ss si s{ss ss} si ss si}", "id", id, "line", 0, "source", "node", node, "output", output,
                "queue_size", (int)queue_size, "queue_policy", "backpressure", "input_timeout_ns", 0);
}

static json_t *outputs_of(const BenchFlow *flow, unsigned node)
{
        json_t *outputs = json_array();
        char id[16];

        if (flow->spec.one_output_each) {
                for (unsigned k = 1; node == 0 && k < flow->n_nodes; k++) {
                        (void)snprintf(id, sizeof(id), "o%u", k);
                        (void)json_array_append_new(outputs, json_string(id));
                }
        } else if (node <= 1) {
                (void)json_array_append_new(outputs, json_string(node == 0 ? "out" : "back"));
        }
        return outputs;
}

static json_t *inputs_of(const BenchFlow *flow, unsigned node)
{
        json_t *inputs = json_array();
        char output[16] = "out";

        if (node > 0 && flow->spec.one_output_each)
                (void)snprintf(output, sizeof(output), "o%u", node);
        if (node > 0)
                (void)json_array_append_new(inputs, input("in", "source", output, flow->spec.queue_size));
        else if (!flow->spec.one_output_each)
                (void)json_array_append_new(inputs, input("back", "sink1", "back", 10));
        return inputs;
}

static json_t *node_plan(const BenchFlow *flow, unsigned index, const char *program)
{
        char id[16] = "source", number[16];
        json_t *cpus = json_array(), *node;
        int cpu[2];

        bench_cpus(cpu);
        if (index > 0)
                (void)snprintf(id, sizeof(id), "sink%u", index);
        (void)snprintf(number, sizeof(number), "%u", index);
        if (flow->spec.place != BENCH_PLACE_DEFAULT)
                (void)json_array_append_new(
                        cpus, json_integer(cpu[index > 0 && flow->spec.place == BENCH_PLACE_OTHER]));
        node = json_pack("{ss si ss s[ss] s{ss} so so so sI s{ss si si si si} sI sI si ss s[]}", "id", id, "line", 0,
                "kind", "node", "argv", program, number, "env", BENCH_SOCKET_ENV, flow->socket_name, "cpu_affinity",
                cpus, "inputs", inputs_of(flow, index), "outputs", outputs_of(flow, index), "pool_size",
                (json_int_t)(index == 0 ? flow->spec.pool_size : 0), "restart", "policy", "never", "max_restarts", 0,
                "delay_ns", 0, "max_delay_ns", 0, "window_ns", 0, "startup_timeout_ns", (json_int_t)FLOW_START_SPAN,
                "finish_grace_ns", (json_int_t)0, "stuck_timeout_ns", 0, "on_failure", "ignore", "after");
        if (node && index == 0 && flow->spec.expected)
                (void)json_object_set_new(node, "expected_message", json_integer((json_int_t)flow->spec.expected));
        if (node && flow->spec.wait)
                (void)json_object_set_new(node, "wait", json_string(flow->spec.wait));
        return node;
}

static json_t *make_plan(const BenchFlow *flow, const char *program)
{
        json_t *nodes = json_array();

        for (unsigned i = 0; i < flow->n_nodes; i++)
                (void)json_array_append_new(nodes, node_plan(flow, i, program));
        return json_pack(
                "{si ss ss ss so}", "version", 1, "name", "bench", "file", "/bench.yml", "dir", "/", "nodes", nodes);
}

/* ---- what the nodes share with us */

static int make_socket(BenchFlow *flow)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        uint64_t random = 0;
        size_t n;

        if (getrandom(&random, sizeof(random), 0) != sizeof(random))
                return error_origin(-errno);
        (void)snprintf(flow->socket_name, sizeof(flow->socket_name), "tidegate-bench-%d-%016llx", (int)getpid(),
                (unsigned long long)random);
        n = strlen(flow->socket_name);
        memcpy(address.sun_path + 1, flow->socket_name, n);
        flow->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (flow->listen_fd < 0 ||
                bind(flow->listen_fd, (struct sockaddr *)&address,
                        (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n)) < 0 ||
                listen(flow->listen_fd, FLOW_MAX_NODES) < 0)
                return error_origin(-errno);
        return 0;
}

static int make_board(BenchFlow *flow)
{
        void *map;

        flow->board_size = BOARD_PAYLOAD + flow->spec.room;
        flow->board_fd = memfd_create("tidegate-bench", MFD_CLOEXEC);
        if (flow->board_fd < 0 || ftruncate(flow->board_fd, (off_t)flow->board_size) < 0)
                return error_origin(-errno);
        map = mmap(NULL, flow->board_size, PROT_READ | PROT_WRITE, MAP_SHARED, flow->board_fd, 0);
        if (map == MAP_FAILED)
                return error_origin(-errno);
        flow->board = map;
        if (pipe2(flow->pipe_fds, O_CLOEXEC) < 0 || pipe2(flow->pipe_fds + 2, O_CLOEXEC) < 0)
                return error_origin(-errno);
        for (unsigned i = 0; i < 2; i++)
                flow->bell_fds[i] = doorbell_make();
        if (flow->bell_fds[0] >= 0 && flow->bell_fds[1] >= 0)
                return 0;
        for (unsigned i = 0; i < 2; i++)
                flow->bell_fds[i] = fd_close(flow->bell_fds[i]);
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, flow->bell_fds) < 0)
                return error_origin(-errno);
        return 0;
}

static int give_board(BenchFlow *flow, int fd)
{
        const int fds[] = {
                flow->board_fd, flow->pipe_fds[0], flow->pipe_fds[1], flow->pipe_fds[2], flow->pipe_fds[3], flow->bell_fds[0],
                flow->bell_fds[1]};

        return send_message(fd, "", 1, fds, ELEMENTSOF(fds), 0) == 1 ? 0 : -errno;
}

/* A node says who it is with its first packet, which is there when its connection is. */
static void accept_node(BenchFlow *flow)
{
        int fd = accept4(flow->listen_fd, NULL, NULL, SOCK_CLOEXEC);
        struct timeval patience = {.tv_sec = 1};
        struct bench_hello hello;
        struct ucred peer;
        socklen_t size = sizeof(peer);

        if (fd < 0)
                return;
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.uid != getuid() ||
                recv(fd, &hello, sizeof(hello), 0) != sizeof(hello) || hello.index >= flow->n_nodes ||
                flow->fds[hello.index] >= 0 || give_board(flow, fd) != 0) {
                (void)fd_close(fd);
                return;
        }
        flow->fds[hello.index] = fd;
        flow->pids[hello.index] = peer.pid;
}

/* ---- what the instance says */

static int hand_over(BenchFlow *flow)
{
        char program[PATH_MAX];
        json_t *plan, *parameters;
        int r = bench_program("tidegate-bench-node", program, sizeof(program));

        if (r)
                return bench_flow_fail(flow, r, "%s: %s", program, strerror(-r));
        plan = make_plan(flow, program);
        parameters = json_pack("{so sI sI si}", "plan", plan, "grace_ns", (json_int_t)FLOW_GRACE, "budget_ns",
                (json_int_t)FLOW_BUDGET, "umask", 022);
        r = parameters ? run_instance_run(&flow->instance, parameters) : -ENOMEM;
        return r ? bench_flow_fail(flow, r, "cannot hand the dataflow to the supervisor: %s", error_text(r)) : 0;
}

static void on_record(BenchFlow *flow, const struct guard_record *record)
{
        if (record->type == GUARD_MSG_READY) {
                (void)snprintf(flow->instance.cgroup, sizeof(flow->instance.cgroup), "%s", record->text);
                (void)hand_over(flow);
        } else if (record->type == GUARD_MSG_FAILED) {
                (void)bench_flow_fail(flow, -ECANCELED, "%s: %s", record->text, error_text(record->error));
        } else if (record->type == GUARD_MSG_SUPERVISOR_GONE) {
                (void)bench_flow_fail(flow, -ECANCELED, "the supervisor has died");
        }
}

static void on_reply(BenchFlow *flow, json_t *reply)
{
        json_t *parameters = json_object_get(reply, "parameters"), *event = json_object_get(parameters, "event"),
               *result;
        const char *error = json_string_value(json_object_get(reply, "error")), *text;
        const char *type = json_string_value(json_object_get(event, "type")) ?: "", *node = json_string_value(json_object_get(event, "node"));

        if (error) {
                text = json_string_value(json_object_get(parameters, "text"));
                (void)bench_flow_fail(
                        flow, -ECANCELED, "the supervisor refuses the dataflow: %s", text ? text : error);
        } else if (strcmp(type, "error") == 0 && !flow->spec.one_output_each) {
                text = json_string_value(json_object_get(event, "text"));
                (void)bench_flow_fail(flow, -ECANCELED, "%s", text ? text : "the dataflow failed");
        } else if (strcmp(type, "note") == 0 && node && strncmp(node, "sink", 4) == 0) { /* of a source: that its pool is full, as it is to be */
                text = json_string_value(json_object_get(event, "text"));
                fprintf(stderr, "note: %s: %s\n", node, text ? text : "");
        } else if ((result = json_object_get(parameters, "result"))) {
                flow->ended = true;
                flow->success = json_is_true(json_object_get(result, "success"));
        }
}

static void read_control(BenchFlow *flow)
{
        for (unsigned i = 0; i < 64; i++) {
                json_t *reply = NULL;
                int r = run_instance_message(&flow->instance, &reply);

                if (r == 0)
                        on_reply(flow, reply);
                json_decref(reply);
                if (r == RUN_E_AGAIN)
                        return;
                if (r != 0) {
                        flow->instance.control_fds[0] = fd_close(flow->instance.control_fds[0]);
                        return;
                }
        }
}

static void read_records(BenchFlow *flow)
{
        struct guard_record record;
        int r;

        while ((r = run_instance_record(&flow->instance, &record)) == 0)
                on_record(flow, &record);
        if (r != RUN_E_AGAIN)
                flow->instance.guard_fd = fd_close(flow->instance.guard_fd);
}

/* A node has something to say only when something is wrong. */
static void read_logs(BenchFlow *flow)
{
        char packet[LOG_MSG_MAX];

        for (;;) {
                ssize_t n = receive_bytes(flow->instance.log_fd, packet, sizeof(packet), MSG_DONTWAIT);
                LogMsg msg;

                if (n < 0 && (errno == EAGAIN || errno == EINTR))
                        return;
                if (n <= 0) {
                        flow->instance.log_fd = fd_close(flow->instance.log_fd);
                        return;
                }
                if (log_msg_decode(&msg, packet, (size_t)n) == 0 && msg.type == LOG_MSG_LINE)
                        (void)bench_flow_fail(flow, -ECANCELED, "%s", msg.text);
        }
}

int bench_flow_turn(BenchFlow *flow, nsec_t deadline)
{
        enum { LISTEN, GUARD, RECORD, CONTROL, LOG, NODES };
        struct pollfd p[NODES + FLOW_MAX_NODES] = {
                [LISTEN] = {.fd = flow->ready ? -1 : flow->listen_fd, .events = POLLIN},
                [GUARD] = {.fd = flow->guard_exited ? -1 : flow->instance.guard_pidfd, .events = POLLIN},
                [RECORD] = {.fd = flow->instance.guard_fd, .events = POLLIN},
                [CONTROL] = {.fd = flow->instance.control_fds[0], .events = POLLIN},
                [LOG] = {.fd = flow->instance.log_fd, .events = POLLIN},
        };
        nsec_t now = clock_now();

        if (now >= deadline)
                return 1;
        for (unsigned i = 0; i < FLOW_MAX_NODES; i++)
                p[NODES + i] = (struct pollfd){.fd = i < flow->n_nodes ? flow->fds[i] : -1, .events = POLLIN};
        if (poll(p, NODES + flow->n_nodes, nsec_poll_ms(deadline, now)) < 0)
                return 0;
        if (p[LISTEN].revents)
                accept_node(flow);
        if (p[RECORD].revents)
                read_records(flow);
        if (p[CONTROL].revents)
                read_control(flow);
        if (p[LOG].revents)
                read_logs(flow);
        if (p[GUARD].revents)
                flow->guard_exited = true;
        return 0;
}

/* ---- orders */

int bench_flow_tell(BenchFlow *flow, unsigned node, const struct bench_order *order)
{
        if (flow->fds[node] >= 0 &&
                send(flow->fds[node], order, sizeof(*order), MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof(*order))
                return 0;
        return bench_flow_fail(flow, -ECONNRESET, "node %u takes no orders", node);
}

int bench_flow_take(BenchFlow *flow, unsigned node, struct bench_answer *answer)
{
        ssize_t n = recv(flow->fds[node], answer, sizeof(*answer), MSG_DONTWAIT);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return 1;
        if (n != sizeof(*answer)) {
                read_logs(flow); /* perhaps it said why */
                return bench_flow_fail(flow, -ECONNRESET, "node %u has ended", node);
        }
        answer->text[sizeof(answer->text) - 1] = '\0';
        if (answer->error)
                return bench_flow_fail(flow, -EIO, "node %u: %s", node, answer->text);
        return 0;
}

int bench_flow_wait(BenchFlow *flow, const bool *nodes, struct bench_answer *answers, nsec_t deadline)
{
        bool waited[FLOW_MAX_NODES];

        memcpy(waited, nodes, flow->n_nodes * sizeof(*nodes));
        for (;;) {
                bool any = false;

                for (unsigned i = 0; i < flow->n_nodes; i++) {
                        int r = waited[i] && flow->fds[i] >= 0 ? bench_flow_take(flow, i, &answers[i]) : 1;

                        if (r < 0)
                                return r;
                        waited[i] = waited[i] && r != 0;
                        any = any || waited[i];
                }
                if (!any)
                        return 0;
                if (flow->error[0] || flow->ended || flow->guard_exited)
                        return bench_flow_fail(flow, -ECANCELED, "the dataflow has ended");
                if (bench_flow_turn(flow, deadline))
                        return bench_flow_fail(flow, -ETIMEDOUT, "the nodes did not answer in time");
        }
}

/* Nobody uses the board between two orders. */
void bench_flow_reset(BenchFlow *flow)
{
        struct bench_board *b = flow->board;

        memset(b->line, 0, sizeof(b->line));
        memset(b->asleep, 0, sizeof(b->asleep));
        memset(b->tail, 0, sizeof(b->tail));
        memset(b->refs, 0, sizeof(b->refs));
        memset(b->held, 0, sizeof(b->held));
        b->head.word = b->consumer_asleep.word = b->producer_asleep.word = b->wanted.word = b->stamp.word = 0;
        b->reclaimed.word = b->reclaimed_all.word = 0;
        b->warm.word = b->final.word = UINT64_MAX;
}

int bench_flow_order(BenchFlow *flow, const struct bench_order *order, struct bench_answer *answers, nsec_t span)
{
        bool all[FLOW_MAX_NODES];

        bench_flow_reset(flow);
        for (unsigned i = flow->n_nodes; i-- > 0;) { /* the source last */
                int r = bench_flow_tell(flow, i, order);

                if (r)
                        return r;
                all[i] = true;
        }
        return bench_flow_wait(flow, all, answers, nsec_add(clock_now(), span));
}

/* ---- beginning and end */

int bench_flow_open(BenchFlow *flow, const BenchFlowSpec *spec)
{
        RunInstanceOptions options = {.grace_ns = FLOW_GRACE, .budget_ns = FLOW_BUDGET};
        const char *why = "cannot set up the channels that are measured against";
        struct bench_answer answers[FLOW_MAX_NODES];
        bool all[FLOW_MAX_NODES];
        nsec_t deadline = nsec_add(clock_now(), FLOW_START_SPAN);
        int r;

        *flow = (BenchFlow){.instance = RUN_INSTANCE_NULL,
                .spec = *spec,
                .n_nodes = spec->n_sinks + 1,
                .listen_fd = -1,
                .board_fd = -1,
                .pipe_fds = {-1, -1, -1, -1},
                .bell_fds = {-1, -1}};
        for (unsigned i = 0; i < FLOW_MAX_NODES; i++) {
                flow->fds[i] = -1;
                all[i] = true;
        }
        r = make_board(flow);
        if (!r)
                r = make_socket(flow);
        if (!r)
                r = run_instance_start(&flow->instance, &options, &why);
        if (r)
                return bench_flow_fail(flow, r, "%s: %s", why, error_text(r));
        r = bench_flow_wait(flow, all, answers, deadline);
        flow->ready = r == 0;
        return r;
}

static void order_stop(BenchFlow *flow)
{
        nsec_t now = clock_now();

        run_instance_escrow(&flow->instance, nsec_add(now, NSEC_PER_SEC), nsec_add(now, NSEC_PER_SEC + FLOW_BUDGET));
        run_instance_stop(&flow->instance, 0, true);
}

static void release(BenchFlow *flow)
{
        for (unsigned i = 0; i < FLOW_MAX_NODES; i++)
                flow->fds[i] = fd_close(flow->fds[i]);
        for (unsigned i = 0; i < ELEMENTSOF(flow->pipe_fds); i++)
                flow->pipe_fds[i] = fd_close(flow->pipe_fds[i]);
        for (unsigned i = 0; i < ELEMENTSOF(flow->bell_fds); i++)
                flow->bell_fds[i] = fd_close(flow->bell_fds[i]);
        flow->listen_fd = fd_close(flow->listen_fd);
        flow->board_fd = fd_close(flow->board_fd);
        if (flow->board)
                (void)munmap(flow->board, flow->board_size);
        flow->board = NULL;
        run_instance_done(&flow->instance);
}

int bench_flow_close(BenchFlow *flow)
{
        const struct bench_order quit = {.what = BENCH_QUIT};
        bool failed = flow->error[0] != '\0' || !flow->ready;
        nsec_t deadline = nsec_add(clock_now(), FLOW_END_SPAN);
        siginfo_t si = {};
        int r = 0;

        if (flow->instance.guard_pidfd < 0) {
                release(flow);
                return 0;
        }
        for (unsigned i = 0; i < flow->n_nodes; i++)
                if (flow->fds[i] >= 0)
                        (void)send(flow->fds[i], &quit, sizeof(quit),
                                MSG_NOSIGNAL | MSG_DONTWAIT); /* gone: it has left already */
        for (unsigned i = 0; i < FLOW_MAX_NODES; i++)
                flow->fds[i] = fd_close(flow->fds[i]);
        if (failed)
                order_stop(flow);
        while (!flow->guard_exited && bench_flow_turn(flow, deadline) == 0)
                ;
        if (!flow->guard_exited) {
                run_instance_abort(&flow->instance, nsec_add(clock_now(), NSEC_PER_SEC));
                run_instance_remove(&flow->instance, nsec_add(clock_now(), NSEC_PER_SEC));
                r = bench_flow_fail(flow, -ETIMEDOUT, "the dataflow did not end; its processes below %s were killed",
                        flow->instance.cgroup);
        } else if (waitid(P_PIDFD, (id_t)flow->instance.guard_pidfd, &si, WEXITED | WNOHANG) == 0 &&
                   si.si_code == CLD_EXITED && si.si_status == 3) {
                r = bench_flow_fail(flow, -EBUSY, "somebody of the dataflow is left below %s", flow->instance.cgroup);
        }
        release(flow);
        return r;
}
