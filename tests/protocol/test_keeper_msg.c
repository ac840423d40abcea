/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "protocol/keeper_msg.h"
#include "protocol/log_msg.h"
#include "protocol/task_msg.h"

static const KeeperMsg samples[] = {
        {.type = KEEPER_MSG_BEGIN,
                .begin = {"0191-aa", "audio", "/home/u/out/x", 3, 1000, 1001, 1}},
        {.type = KEEPER_MSG_SPAWN, .node = 7, .generation = 2, .spawn = {"sink.v2", 4096, 123456789, 1}},
        {.type = KEEPER_MSG_SIGNAL, .node = KEEPER_NODE_ALL, .generation = 0, .signal = {15}},
        {.type = KEEPER_MSG_SIGNAL, .node = 1, .generation = 1, .signal = {1}},
        {.type = KEEPER_MSG_KILL, .node = 1, .generation = 9, .kill = {UINT64_MAX}},
        {.type = KEEPER_MSG_LOOK, .node = KEEPER_NODE_ALL},
        {.type = KEEPER_MSG_REAP, .node = 0, .generation = UINT64_MAX},
        {.type = KEEPER_MSG_END, .end = {77}},
        {.type = KEEPER_MSG_BEGUN, .begun = {"/sys/fs/cgroup/tidegate/x"}},
        {.type = KEEPER_MSG_FAILED, .failed = {13, "no"}},
        {.type = KEEPER_MSG_SPAWNED, .node = 3, .generation = 1, .spawned = {4711, KEEPER_CGROUP_WRITE_READ_ONLY}},
        {.type = KEEPER_MSG_SPAWN_FAILED, .node = 3, .generation = 1, .spawn_failed = {KEEPER_STAGE_EXEC, 2, "cannot"}},
        {.type = KEEPER_MSG_EXITED, .node = 3, .generation = 1, .exited = {CLD_KILLED, 9}},
        {.type = KEEPER_MSG_EMPTY, .node = 3, .generation = 1, .empty = {1, 200}},
        {.type = KEEPER_MSG_SIGNALLED, .node = KEEPER_NODE_ALL, .signalled = {12, 1}},
        {.type = KEEPER_MSG_KILLING, .node = 3, .generation = 1, .signalled = {12, 95}},
        {.type = KEEPER_MSG_LEFT, .node = 3, .generation = 1, .left = {.n = 0}},
        {.type = KEEPER_MSG_NOTE, .note = {"disk full"}},
        {.type = KEEPER_MSG_ENDED, .ended = {1, 0}},
        {.type = KEEPER_MSG_BEGIN, .begin = {"0191-ab", "a", "", 3, 1000, 1001, 0, .n_groups = 2, .groups = {4, UINT32_MAX}}},
        {.type = KEEPER_MSG_STREAM},
        {.type = KEEPER_MSG_UNSHOWN, .unshown = {4095, UINT64_MAX}},
        {.type = KEEPER_MSG_CAPTURE, .node = 3, .generation = 2, .capture = {"viewer", UINT64_MAX}},
        {.type = KEEPER_MSG_SPAWN_FAILED, .node = 3, .generation = 1, .spawn_failed = {KEEPER_STAGE_CAPTURE, 1, "it has limits"}},
        {.type = KEEPER_MSG_EXITED, .node = 3, .generation = 1, .exited = {0, 0}},
        {.type = KEEPER_MSG_ESCAPED, .node = 3, .generation = 1, .escaped = {4711, 9, "sh", "u/a.1", "/x"}},
        {.type = KEEPER_MSG_ESCAPED, .node = 3, .generation = 1, .escaped = {4711, KEEPER_ESCAPED_GONE, "sh", "u/a.1", ""}},
        {.type = KEEPER_MSG_ASTRAY, .node = 3, .generation = 1, .astray = {4711, UINT64_MAX, 1, "sh", "/x"}},
        {.type = KEEPER_MSG_COUNTED, .counted = {3, UINT32_MAX}},
        {.type = KEEPER_MSG_BEGIN, .begin = {"0191-ac", "a", "", 3, 1, 1, 0, .limits = "pids_max=9\n", .controllers = 31}},
        {.type = KEEPER_MSG_SPAWN, .node = 7, .generation = 2, .spawn = {"a", 4096, 1, 0, .limits = "memory_max=4096\ncpu_weight=5\n", .lenient = 1}},
        {.type = KEEPER_MSG_CAPTURE, .node = 3, .generation = 2, .capture = {"viewer", 1, "pids_max=2\n", 1}},
        {.type = KEEPER_MSG_LIMIT, .node = KEEPER_NODE_ALL, .limit = {"memory_max=max\n"}},
        {.type = KEEPER_MSG_FREEZE, .node = 1, .generation = 2, .freeze = {1, 77}},
        {.type = KEEPER_MSG_PLACE, .node = 1, .generation = 2, .place = {KEEPER_MSG_MAX_CPU + 1}},
        {.type = KEEPER_MSG_PLACED, .node = 1, .generation = 2, .placed = {22, 3}},
        {.type = KEEPER_MSG_WHY, .node = 1, .generation = 2, .why = {5, 77, 1, 0}},
        {.type = KEEPER_MSG_WHY, .node = 1, .generation = 2, .why = {6, 78, 0, KEEPER_HASTE_LAST}},
        {.type = KEEPER_MSG_WHY_SAID, .node = 1, .generation = 2, .why_said = {5, 0, 4096}},
        {.type = KEEPER_MSG_WHY_SAID, .node = 1, .generation = 2, .why_said = {5, 3, 0}},
        {.type = KEEPER_MSG_BEGUN, .begun = {"/x", 5, "cpu=no\n", "memory_max=no"}},
        {.type = KEEPER_MSG_RESUMED, .resumed = {1, 0, "/x", 31, "", "", 1, 77}},
        {.type = KEEPER_MSG_RESUME, .resume = {.asked_ns = 77}},
        {.type = KEEPER_MSG_LIMITED, .node = 1, .generation = 2, .limited = {22, "io_max=no"}},
        {.type = KEEPER_MSG_FREEZE_DONE, .node = KEEPER_NODE_ALL, .freeze_done = {1, 110}},
        {.type = KEEPER_MSG_FROZEN, .node = 1, .generation = 2, .frozen = {1}},
        {.type = KEEPER_MSG_USAGE, .node = 1, .generation = 2, .usage = {{UINT64_MAX, 1, 2, 3, 4, 5, 6}, 1}},
        {.type = KEEPER_MSG_REFUSED, .node = 1, .generation = 2, .refused = {"memory_max=no"}},
        {.type = KEEPER_MSG_MEASURE, .measure = {77}},
        {.type = KEEPER_MSG_FILES, .files = {77}},
        {.type = KEEPER_MSG_FILES_SHOWN, .files_shown = {77, 4711, 0}},
        {.type = KEEPER_MSG_FILES_SHOWN, .files_shown = {77, 0, 11}},
        {.type = KEEPER_MSG_MEASURED, .node = 1, .generation = 2,
                .measured = {77, {1, UINT64_MAX, 3, 4, UINT64_MAX, 6, 7, 1, {0, 1, 2, 10000, 4, KEEPER_PRESSURE_UNKNOWN}}}},
        {.type = KEEPER_MSG_MEASURED, .node = KEEPER_NODE_ALL, .measured = {.asked_ns = 77}},
        {.type = KEEPER_MSG_SAMPLE, .sample = {77}},
        {.type = KEEPER_MSG_SAMPLED, .node = 1, .generation = 2, .sampled = {77, {9, 3, 1, 2, 2, {{0, 4}, {UINT32_MAX, 1}}}}},
        {.type = KEEPER_MSG_SAMPLED, .node = KEEPER_NODE_ALL, .sampled = {.asked_ns = 77}},
        {.type = KEEPER_MSG_HOME, .node = 1, .generation = 2, .home = {UINT64_MAX}},
        {.type = KEEPER_MSG_BEGIN, .begin = {"0191-ad", "a", "", 3, 1, 1, 0, .pressure = 1}},
        {.type = KEEPER_MSG_PRESSURE, .node = KEEPER_NODE_ALL, .pressure = {"0 cpu_some 1000 500000000\n"}},
        {.type = KEEPER_MSG_PRESSED, .node = 1, .generation = 2, .pressed = {UINT32_MAX, 212, UINT64_MAX, KEEPER_PRESSURE_UNKNOWN}},
        {.type = KEEPER_MSG_UNWATCHED, .node = 1, .generation = 2, .unwatched = {"0=no\n"}},
};

Test(keeper_msg, every_message_survives_the_round_trip)
{
        for (size_t i = 0; i < ELEMENTSOF(samples); i++) {
                uint8_t first[KEEPER_MSG_MAX], again[KEEPER_MSG_MAX];
                KeeperMsg m;
                int n = keeper_msg_encode(&samples[i], first, sizeof(first));

                cr_assert(n > 0, "%s", keeper_msg_name(samples[i].type));
                cr_assert_eq(keeper_msg_decode(&m, first, (size_t)n), 0, "%s", keeper_msg_name(samples[i].type));
                cr_assert_eq(m.type, samples[i].type);
                cr_assert_eq(m.node, samples[i].node);
                cr_assert_eq(m.generation, samples[i].generation);
                cr_assert_eq(keeper_msg_encode(&m, again, sizeof(again)), n);
                cr_assert_eq(memcmp(first, again, (size_t)n), 0);
        }
}

Test(keeper_msg, fields_arrive_in_their_places)
{
        uint8_t buf[KEEPER_MSG_MAX];
        KeeperMsg m;
        int n = keeper_msg_encode(&samples[0], buf, sizeof(buf));

        cr_assert_eq(keeper_msg_decode(&m, buf, (size_t)n), 0);
        cr_assert_str_eq(m.begin.uuid, "0191-aa");
        cr_assert_str_eq(m.begin.name, "audio");
        cr_assert_str_eq(m.begin.log_dir, "/home/u/out/x");
        cr_assert_eq(m.begin.slot, 3);
        cr_assert_eq(m.begin.uid, 1000);
        cr_assert_eq(m.begin.gid, 1001);
        cr_assert_eq(m.begin.has_log_stream, 1);
        n = keeper_msg_encode(&samples[1], buf, sizeof(buf));
        cr_assert_eq(keeper_msg_decode(&m, buf, (size_t)n), 0);
        cr_assert_str_eq(m.spawn.id, "sink.v2");
        cr_assert_eq(m.spawn.spec_size, 4096);
        cr_assert_eq(m.spawn.deadline_ns, 123456789);
        cr_assert_eq(keeper_msg_n_fds(&m), 6);
        n = keeper_msg_encode(&samples[12], buf, sizeof(buf));
        cr_assert_eq(keeper_msg_decode(&m, buf, (size_t)n), 0);
        cr_assert_eq(m.exited.code, CLD_KILLED);
        cr_assert_eq(m.exited.status, 9);
}

static const Task held = {.pid = 10, .tid = 11, .kind = TASK_TRACED, .state = 't', .frozen = true, .start_time = 5, .switches = UINT64_MAX,
        .age_ns = 7, .still_ns = 8, .call = -1, .fd = -1, .tracer = 77, .pending = 1, .shared_pending = UINT64_MAX, .comm = "a b) (\xff",
        .tracer_comm = "gdb", .target = "/x", .wchan = "w", .stack = {"one", "two"}, .cgroup = "/else"};

static int encode_left(uint32_t n, uint32_t n_tasks, void *tasks, size_t size, void *buffer)
{
        KeeperMsg m = {.type = KEEPER_MSG_LEFT, .node = 1, .generation = 1,
                .left = {.n = n, .kind = TASK_TRACED, .n_tasks = n_tasks, .tasks = tasks, .tasks_size = (uint32_t)size}};

        return keeper_msg_encode(&m, buffer, KEEPER_MSG_MAX);
}

Test(keeper_msg, who_is_left_arrives_as_it_was_sent_and_as_many_as_fit)
{
        uint8_t tasks[KEEPER_MSG_TASKS_MAX], buf[KEEPER_MSG_MAX];
        Wire w = wire_init(tasks, sizeof(tasks));
        uint32_t n = 0;
        KeeperMsg m;
        Task task;
        int size;

        while (task_msg_put(&w, &held))
                n++;
        cr_assert(n >= KEEPER_MSG_TASKS_MAX / TASK_MSG_MAX);
        size = encode_left(5000, n, tasks, w.at, buf);
        cr_assert(size > 0);
        cr_assert_eq(keeper_msg_decode(&m, buf, (size_t)size), 0);
        cr_assert_eq(m.left.n, 5000);
        cr_assert_eq(m.left.n_tasks, n);
        w = wire_init((void *)(uintptr_t)m.left.tasks, m.left.tasks_size);
        for (uint32_t i = 0; i < n; i++) {
                cr_assert(task_msg_get(&w, &task));
                cr_assert_eq(memcmp(&task, &held, sizeof(task)), 0);
        }
        cr_assert_eq(wire_done(&w), 0);
}

Test(keeper_msg, a_task_that_is_none_is_refused)
{
        uint8_t tasks[TASK_MSG_MAX], buf[KEEPER_MSG_MAX];
        Task bad[] = {held, held, held, held, held, held};
        KeeperMsg m;

        bad[0].pid = 0;
        bad[1].tid = -1;
        bad[2].kind = 0;
        bad[3].kind = _TASK_KIND_MAX;
        bad[4].state = '\n';
        bad[5].call = -2;
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                Wire w = wire_init(tasks, sizeof(tasks));
                int size;

                cr_assert(task_msg_put(&w, &bad[i]));
                size = encode_left(1, 1, tasks, w.at, buf);
                cr_assert(size > 0);
                cr_assert_eq(keeper_msg_decode(&m, buf, (size_t)size), -EPROTO, "%zu", i);
                size = encode_left(1, 0, tasks, w.at, buf); /* bytes that are no task */
                cr_assert_eq(keeper_msg_decode(&m, buf, (size_t)size), -EPROTO);
        }
        cr_assert_eq(encode_left(1, 2, tasks, 0, buf), -EMSGSIZE); /* more than there are */
}

Test(keeper_msg, every_truncation_and_every_extra_byte_is_refused)
{
        for (size_t i = 0; i < ELEMENTSOF(samples); i++) {
                uint8_t buf[KEEPER_MSG_MAX + 1] = {};
                KeeperMsg m = {.type = (KeeperMsgType)99};
                int n = keeper_msg_encode(&samples[i], buf, KEEPER_MSG_MAX);

                for (int cut = 0; cut < n; cut++) {
                        uint8_t *exact = malloc(cut ? (size_t)cut : 1); /* so that a sanitizer sees a read too far */

                        memcpy(exact, buf, (size_t)cut);
                        cr_assert_eq(keeper_msg_decode(&m, exact, (size_t)cut), -EPROTO);
                        free(exact);
                }
                cr_assert_eq(keeper_msg_decode(&m, buf, (size_t)n + 1), -EPROTO);
                cr_assert_eq(m.type, 99, "written although it failed");
        }
}

Test(keeper_msg, a_buffer_that_is_too_small_is_told)
{
        for (size_t i = 0; i < ELEMENTSOF(samples); i++) {
                uint8_t buf[KEEPER_MSG_MAX];
                int n = keeper_msg_encode(&samples[i], buf, sizeof(buf));

                cr_assert_eq(keeper_msg_encode(&samples[i], buf, (size_t)n - 1), -EMSGSIZE);
        }
}

Test(keeper_msg, values_outside_their_range_are_refused_when_written)
{
        static char long_text[KEEPER_MSG_TEXT_MAX + 2], long_path[KEEPER_MSG_PATH_MAX + 2], long_id[130];
        KeeperMsg bad[] = {
                {.type = (KeeperMsgType)0},
                {.type = (KeeperMsgType)9},
                {.type = (KeeperMsgType)60},
                {.type = KEEPER_MSG_BEGIN, .begin = {"", "n", "", 1, 0, 0, 0}},
                {.type = KEEPER_MSG_BEGIN, .begin = {"../x", "n", "", 1, 0, 0, 0}},
                {.type = KEEPER_MSG_BEGIN, .begin = {"..", "n", "", 1, 0, 0, 0}},
                {.type = KEEPER_MSG_BEGIN, .begin = {"u", "n", "relative", 1, 0, 0, 0}},
                {.type = KEEPER_MSG_BEGIN, .begin = {"u", "n", long_path, 1, 0, 0, 0}},
                {.type = KEEPER_MSG_BEGIN, .begin = {"u", "n", "", 0, 0, 0, 0}},
                {.type = KEEPER_MSG_BEGIN, .begin = {"u", "n", "", 256, 0, 0, 0}},
                {.type = KEEPER_MSG_BEGIN, .begin = {"u", "n", "", 1, UINT32_MAX, 0, 0}},
                {.type = KEEPER_MSG_BEGIN, .begin = {"u", "n", "", 1, 0, UINT32_MAX, 0}},
                {.type = KEEPER_MSG_BEGIN, .begin = {"u", "n", "", 1, 0, 0, 2}},
                {.type = KEEPER_MSG_BEGIN, .begin = {"u", "n", "", 1, 0, 0, 0, .n_groups = KEEPER_MSG_MAX_GROUPS + 1}},
                {.type = KEEPER_MSG_SPAWN, .node = 1, .generation = 1, .spawn = {"a/b", 1, 0, 0}},
                {.type = KEEPER_MSG_SPAWN, .node = 1, .generation = 1, .spawn = {"", 1, 0, 0}},
                {.type = KEEPER_MSG_SPAWN, .node = 1, .generation = 1, .spawn = {long_id, 1, 0, 0}},
                {.type = KEEPER_MSG_SPAWN, .node = 1, .generation = 1, .spawn = {"a", 0, 0, 0}},
                {.type = KEEPER_MSG_SPAWN, .node = 1, .generation = 1, .spawn = {"a", KEEPER_SPEC_MAX + 1, 0, 0}},
                {.type = KEEPER_MSG_SPAWN, .node = 1, .generation = 0, .spawn = {"a", 1, 0, 0}},
                {.type = KEEPER_MSG_SPAWN, .node = KEEPER_NODE_ALL, .generation = 0, .spawn = {"a", 1, 0, 0}},
                {.type = KEEPER_MSG_CAPTURE, .node = 1, .generation = 1, .capture = {"a/b", 1}},
                {.type = KEEPER_MSG_CAPTURE, .node = 1, .generation = 0, .capture = {"a", 1}},
                {.type = KEEPER_MSG_CAPTURE, .node = KEEPER_NODE_ALL, .generation = 0, .capture = {"a", 1}},
                {.type = KEEPER_MSG_SIGNAL, .node = 1, .generation = 1, .signal = {0}},
                {.type = KEEPER_MSG_SIGNAL, .node = 1, .generation = 1, .signal = {65}},
                {.type = KEEPER_MSG_SIGNAL, .node = KEEPER_NODE_ALL, .generation = 1, .signal = {15}},
                {.type = KEEPER_MSG_REAP, .node = KEEPER_NODE_ALL, .generation = 0},
                {.type = KEEPER_MSG_BEGUN, .begun = {"relative"}},
                {.type = KEEPER_MSG_SPAWNED, .node = 1, .generation = 1, .spawned = {0}},
                {.type = KEEPER_MSG_SPAWN_FAILED, .node = 1, .generation = 1, .spawn_failed = {(KeeperStage)(KEEPER_STAGE_LAST + 1), 0, ""}},
                {.type = KEEPER_MSG_SPAWN_FAILED, .node = 1, .generation = 1, .spawn_failed = {(KeeperStage)0, 0, ""}},
                {.type = KEEPER_MSG_SPAWN_FAILED, .node = 1, .generation = 1, .spawn_failed = {1, -2, ""}},
                {.type = KEEPER_MSG_EXITED, .node = 1, .generation = 1, .exited = {CLD_STOPPED, 1}},
                {.type = KEEPER_MSG_EXITED, .node = 1, .generation = 1, .exited = {CLD_EXITED, 256}},
                {.type = KEEPER_MSG_NOTE, .note = {long_text}},
                {.type = KEEPER_MSG_ENDED, .ended = {1, 2}},
                {.type = KEEPER_MSG_BEGIN, .begin = {"u", "n", "", 1, 0, 0, 0, .controllers = 32}},
                {.type = KEEPER_MSG_LIMIT, .node = 1, .generation = 1, .limit = {long_text}},
                {.type = KEEPER_MSG_FREEZE, .node = 1, .generation = 1, .freeze = {2, 1}},
                {.type = KEEPER_MSG_WHY, .node = 1, .generation = 1, .why = {1, 1, 2, 0}},
                {.type = KEEPER_MSG_WHY, .node = 1, .generation = 1, .why = {1, 1, 0, _KEEPER_HASTE_MAX}},
                {.type = KEEPER_MSG_WHY_SAID, .node = 1, .generation = 1, .why_said = {1, 0, 0}},
                {.type = KEEPER_MSG_WHY_SAID, .node = 1, .generation = 1, .why_said = {1, 3, 7}},
                {.type = KEEPER_MSG_REFUSED, .node = KEEPER_NODE_ALL, .refused = {""}},
                {.type = KEEPER_MSG_MEASURED, .node = 1, .generation = 1, .measured = {.measure = {.summed = 2}}},
                {.type = KEEPER_MSG_BEGIN, .begin = {"u", "n", "", 1, 0, 0, 0, .pressure = 2}},
                {.type = KEEPER_MSG_FILES_SHOWN, .files_shown = {77, 0, 0}},
        };

        memset(long_text, 'x', sizeof(long_text) - 1);
        memset(long_path, '/', sizeof(long_path) - 1);
        memset(long_id, 'i', sizeof(long_id) - 1);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                uint8_t buf[KEEPER_MSG_MAX];

                cr_expect_eq(keeper_msg_encode(&bad[i], buf, sizeof(buf)), -EMSGSIZE, "case %zu", i);
        }
}

/* What a peer could send although our encoder never would: a good message with one field overwritten. */
static int decode_with(const KeeperMsg *good, size_t at, const void *bytes, size_t n_bytes)
{
        uint8_t buf[KEEPER_MSG_MAX];
        KeeperMsg m;
        int n = keeper_msg_encode(good, buf, sizeof(buf));

        cr_assert(n >= (int)(at + n_bytes));
        memcpy(buf + at, bytes, n_bytes);
        return keeper_msg_decode(&m, buf, (size_t)n);
}

Test(keeper_msg, values_outside_their_range_are_refused_when_read)
{
        static const uint8_t all[12] = {0xff, 0xff, 0xff, 0xff, 1}, zero[8] = {}, many[8] = {0xff, 0xff, 0xff, 0xff, 0xff};

        cr_expect_eq(decode_with(&samples[0], 0, "\x63", 1), -EPROTO, "unknown type");
        cr_expect_eq(decode_with(&samples[0], 5, "a/b", 3), -EPROTO, "uuid with a slash");
        cr_expect_eq(decode_with(&samples[0], 5, "a\0b", 3), -EPROTO, "inner NUL");
        cr_expect_eq(decode_with(&samples[0], 1, many, 4), -EPROTO, "huge string length");
        cr_expect_eq(decode_with(&samples[2], 1, all, 12), -EPROTO, "all nodes of one generation");
        cr_expect_eq(decode_with(&samples[3], 5, zero, 8), -EPROTO, "generation 0 of one node");
        cr_expect_eq(decode_with(&samples[3], 13, zero, 4), -EPROTO, "signal 0");
        cr_expect_eq(decode_with(&samples[12], 17, many, 4), -EPROTO, "exit status -1");
        cr_expect_eq(decode_with(&samples[3], 13, "\x02", 1), 0, "the offsets above are right");
}

Test(keeper_msg, only_orders_are_orders_and_fds_are_counted)
{
        for (size_t i = 0; i < ELEMENTSOF(samples); i++)
                cr_assert_eq(!!keeper_msg_is_order(samples[i].type), samples[i].type < KEEPER_MSG_BEGUN);
        cr_assert_eq(keeper_msg_n_fds(&samples[0]), 1);
        cr_assert_eq(keeper_msg_n_fds(&(KeeperMsg){.type = KEEPER_MSG_SPAWN}), 5);
        cr_assert_eq(keeper_msg_n_fds(&(KeeperMsg){.type = KEEPER_MSG_SPAWNED}), 1);
        cr_assert_eq(keeper_msg_n_fds(&(KeeperMsg){.type = KEEPER_MSG_END}), 0);
        cr_assert_eq(keeper_msg_n_fds(&(KeeperMsg){.type = (KeeperMsgType)30}), -1);
        cr_assert_str_eq(keeper_msg_name((KeeperMsgType)30), "?");
}

static char *sample_argv[] = {(char *)"sh", (char *)"", (char *)"-c", NULL};
static char *sample_env[] = {(char *)"A=1", (char *)"PATH=/bin", NULL};
static uint32_t sample_cpus[] = {0, 3};

static KeeperSpec sample_spec(void)
{
        return (KeeperSpec){.argv = sample_argv, .env = sample_env, .cwd = "/tmp", .cpus = sample_cpus, .n_cpus = 2,
                .umask = 022, .batch = 1, .nofile_soft = 1024, .nofile_hard = 4096};
}

Test(keeper_spec, survives_the_round_trip)
{
        KeeperSpec in = sample_spec(), out;
        uint8_t buf[512];
        int64_t n = keeper_spec_encode(&in, NULL, 0);

        cr_assert(n > 0);
        cr_assert_eq(keeper_spec_encode(&in, buf, sizeof(buf)), n);
        cr_assert_eq(keeper_spec_encode(&in, buf, (size_t)n - 1), -EMSGSIZE);
        cr_assert_eq(keeper_spec_encode(&in, buf, (size_t)n), n);
        cr_assert_eq(keeper_spec_decode(&out, buf, (size_t)n), 0);
        for (int i = 0; i < 4; i++)
                cr_assert(in.argv[i] ? strcmp(in.argv[i], out.argv[i]) == 0 : !out.argv[i]);
        cr_assert_str_eq(out.env[1], "PATH=/bin");
        cr_assert_null(out.env[2]);
        cr_assert_str_eq(out.cwd, "/tmp");
        cr_assert_eq(out.n_cpus, 2);
        cr_assert_eq(out.cpus[1], 3);
        cr_assert_eq(out.umask, 022);
        cr_assert_eq(out.batch, 1);
        cr_assert_eq(out.nofile_soft, 1024);
        cr_assert_eq(out.nofile_hard, 4096);
        keeper_spec_done(&out);
        cr_assert_null(out.argv);
}

Test(keeper_spec, every_truncation_is_refused)
{
        KeeperSpec in = sample_spec(), out;
        uint8_t buf[512] = {};
        int64_t n = keeper_spec_encode(&in, buf, sizeof(buf));

        for (int64_t cut = 0; cut <= n + 1; cut++) {
                uint8_t *exact = malloc((size_t)cut + 1);
                int r;

                memcpy(exact, buf, (size_t)cut);
                r = keeper_spec_decode(&out, exact, (size_t)cut);
                cr_assert_eq(r, cut == n ? 0 : -EPROTO);
                if (!r)
                        keeper_spec_done(&out);
                free(exact);
        }
}

Test(keeper_spec, nonsense_is_refused_without_a_large_allocation)
{
        char *none[] = {NULL}, *nameless[] = {(char *)"", NULL};
        uint32_t cpu = 8192;
        uint8_t huge[] = {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0};
        KeeperSpec bad, out;
        uint8_t buf[512];
        int64_t n;

        cr_assert_eq(keeper_spec_decode(&out, huge, sizeof(huge)), -EPROTO);
        for (int i = 0; i < 7; i++) {
                bad = sample_spec();
                if (i == 0)
                        bad.argv = none;
                if (i == 1)
                        bad.argv = nameless;
                if (i == 2)
                        bad.cwd = "relative";
                if (i == 3)
                        bad.umask = 01000;
                if (i == 4)
                        bad.nofile_soft = 4097;
                if (i == 6)
                        bad.batch = 2;
                if (i == 5)
                        bad = (KeeperSpec){.argv = sample_argv, .cwd = "/", .cpus = &cpu, .n_cpus = 1};
                n = keeper_spec_encode(&bad, buf, sizeof(buf));
                cr_assert(n > 0);
                cr_assert_eq(keeper_spec_decode(&out, buf, (size_t)n), -EPROTO, "case %d", i);
        }
}

Test(log_msg, lines_and_drops_survive_the_round_trip_and_truncations_are_refused)
{
        LogMsg in[] = {{LOG_MSG_LINE, 4, 2, 99, 17, "hello \xff"}, {LOG_MSG_DROPPED, 4, 0, 99, 12, ""}};

        for (size_t i = 0; i < ELEMENTSOF(in); i++) {
                uint8_t buf[256] = {};
                LogMsg out;
                int n = log_msg_encode(&in[i], buf, sizeof(buf));

                cr_assert(n > 0);
                cr_assert_eq(log_msg_encode(&in[i], buf, (size_t)n - 1), -EMSGSIZE);
                cr_assert_eq(log_msg_encode(&in[i], buf, sizeof(buf)), n);
                cr_assert_eq(log_msg_decode(&out, buf, (size_t)n), 0);
                cr_assert_eq(out.type, in[i].type);
                cr_assert_eq(out.node, 4);
                cr_assert_eq(out.stream, in[i].stream);
                cr_assert_eq(out.wall_ns, 99);
                cr_assert_eq(out.count, in[i].count);
                cr_assert_str_eq(out.text, in[i].text);
                for (int cut = 0; cut < n; cut++)
                        cr_assert_eq(log_msg_decode(&out, buf, (size_t)cut), -EPROTO);
                cr_assert_eq(log_msg_decode(&out, buf, (size_t)n + 1), -EPROTO);
        }
}

Test(log_msg, values_outside_their_range_are_refused)
{
        static char text[LOG_MSG_TEXT_MAX + 2];
        uint8_t buf[LOG_MSG_MAX];
        LogMsg m = {LOG_MSG_LINE, 0, 1, 0, 0, text};
        int n;

        memset(text, 'x', LOG_MSG_TEXT_MAX);
        n = log_msg_encode(&m, buf, sizeof(buf));
        cr_assert(n > 0);
        buf[0] = 3;
        cr_assert_eq(log_msg_decode(&m, buf, (size_t)n), -EPROTO);
        buf[0] = 1;
        buf[5] = 3;
        cr_assert_eq(log_msg_decode(&m, buf, (size_t)n), -EPROTO);
        buf[5] = 0;
        cr_assert_eq(log_msg_decode(&m, buf, (size_t)n), -EPROTO);
        text[LOG_MSG_TEXT_MAX] = 'x';
        m = (LogMsg){LOG_MSG_LINE, 0, 1, 0, 0, text};
        cr_assert_eq(log_msg_encode(&m, buf, sizeof(buf)), -EMSGSIZE);
        m = (LogMsg){LOG_MSG_DROPPED, 0, 0, 0, 0, ""};
        cr_assert_eq(log_msg_encode(&m, buf, sizeof(buf)), -EMSGSIZE);
}
