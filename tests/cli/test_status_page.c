/* SPDX-License-Identifier: Apache-2.0 */
/* What the command makes of the status pages: of a supervisor that works, one that does not, and of files that are none. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/status-page.h"
#include "supervisor/status.h"

#define INSTANCE "/sys/fs/cgroup/tidegate/d-1"
#define UUID     "0192f0c4-1111-7222-8333-444455556666"
#define OTHER    "0192f0c4-9999-7222-8333-444455556666"

typedef struct Room {
        char path[64];
        int fd;
        Status *status;
} Room;

static void put_all(Room *room, bool stuck)
{
        nsec_t since = clock_now() - 42 * NSEC_PER_SEC;

        status_put_dataflow(room->status, &(StatusDataflow){.uuid = UUID, .name = "camera", .cgroup = INSTANCE "/" UUID,
                .uid = geteuid(),
                .state = STATUS_DATAFLOW_RUNNING, .n_nodes = 2, .n_running = 2, .since = since,
                .health = stuck ? STATUS_HEALTH_STUCK : STATUS_HEALTH_OK,
                .stuck_since = stuck ? since : 0});
        status_put_node(room->status, &(StatusNode){.uuid = UUID, .index = 0, .id = "grab",
                .state = STATUS_NODE_RUNNING, .stuck_since = since,
                .health = stuck ? STATUS_HEALTH_STUCK : STATUS_HEALTH_OK, .waits_for = 1});
        status_put_node(room->status, &(StatusNode){.uuid = UUID, .index = 1, .id = "show",
                .state = STATUS_NODE_RUNNING, .stuck_since = since,
                .health = stuck ? STATUS_HEALTH_STUCK : STATUS_HEALTH_OK, .waiting = 10,
                .waits_for = STATUS_NONE});
}

static void room_make(Room *room)
{
        *room = (Room){.fd = -1};
        /* not in /dev/shm, where system tests beside this one count what is there */
        strcpy(room->path, "/tmp/tg-page-XXXXXX");
        cr_assert_not_null(mkdtemp(room->path));
        cr_assert_eq(chmod(room->path, 0755), 0);
        room->fd = open(room->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void room_write(Room *room)
{
        cr_assert_eq(status_open(&room->status, &(StatusOptions){.dir_fd = room->fd, .epoch = 1, .guard_pid = getppid(),
                .instance = "d-1",
                .cgroup = INSTANCE, .started_at = clock_now(), .n_dataflows = 4,
                .n_nodes = 8}),
                0);
        put_all(room, false);
}

static void room_close(Room *room)
{
        char command[128];

        room->status = status_free(room->status);
        (void)fd_close(room->fd);
        (void)snprintf(command, sizeof(command), "rm -rf %s", room->path);
        cr_assert_eq(system(command), 0);
}

static StatusView *load(StatusView *v, const Room *room)
{
        status_view_done(v);
        cr_assert_eq(status_view_load(v, room->path, clock_now()), 0);
        return v;
}

static const char *printed(const StatusView *v)
{
        static char text[8192];
        FILE *f = fmemopen(text, sizeof(text), "w");

        status_view_print(v, clock_now(), false, f);
        (void)fclose(f);
        return text;
}

Test(status_view, a_working_supervisor_is_ok_and_its_rows_are_there, .timeout = 10)
{
        StatusView v = STATUS_VIEW_NULL;
        bool ambiguous;
        Room room;

        room_make(&room);
        room_write(&room);
        load(&v, &room);
        cr_assert_eq(v.verdict, STATUS_VERDICT_OK, "%s", v.why);
        cr_assert(v.trusted && v.consistent);
        cr_assert_eq(v.n_dataflows, 1);
        cr_assert_eq(v.n_nodes, 2);
        cr_assert_eq(v.n_dataflows_all, 1);
        cr_assert_str_eq(v.nodes[1].id, "show");
        cr_assert_eq(status_view_find(&v, "camera", &ambiguous), v.dataflows);
        cr_assert_eq(status_view_find(&v, "0192", &ambiguous), v.dataflows);
        cr_assert_null(status_view_find(&v, "019", &ambiguous), "too short");
        cr_assert_str_eq(status_view_cgroup(&v, v.dataflows), INSTANCE "/" UUID);
        cr_assert_str_eq(status_view_cgroup(&v, NULL), INSTANCE);

        status_put_dataflow(room.status, &(StatusDataflow){.uuid = OTHER, .name = "audio", .uid = 4242});
        load(&v, &room);
        cr_assert_null(status_view_find(&v, "0192f0c4", &ambiguous));
        cr_assert(geteuid() != 0 || ambiguous, "root sees both");
        status_view_done(&v);
        room_close(&room);
}

Test(status_view, a_stuck_dataflow_is_amber_and_its_cause_is_named_with_what_to_do, .timeout = 10)
{
        StatusView v = STATUS_VIEW_NULL;
        Room room;

        room_make(&room);
        room_write(&room);
        put_all(&room, true);
        load(&v, &room);
        cr_assert_eq(v.verdict, STATUS_VERDICT_STUCK);
        cr_assert_neq(v.since, 0);
        cr_assert_not_null(strstr(v.action, "tidegate node restart camera show"), "not grab, which waits for show: %s", v.action);
        cr_assert_not_null(strstr(printed(&v), "STUCK for 42."), "%s", printed(&v));
        cr_assert_not_null(strstr(printed(&v), "node show has taken nothing for 42."));
        cr_assert_not_null(strstr(printed(&v), "10 messages in its queue"));

        status_pulse_begin(status_pulse(room.status), clock_now() - 7 * NSEC_PER_SEC);
        load(&v, &room);
        cr_assert_eq(v.verdict, STATUS_VERDICT_WEDGED, "red takes priority");
        cr_assert_eq(v.reason, STATUS_REASON_TURN);
        cr_assert_eq(v.since, v.pulse.turn_started_ns);
        cr_assert_not_null(strstr(printed(&v), "WEDGED for 7."), "%s", printed(&v));
        cr_assert_not_null(strstr(printed(&v), "STUCK"), "what is known of dataflows is shown all the same");

        status_pulse_end(status_pulse(room.status), clock_now(), 7 * NSEC_PER_SEC);
        cr_assert_eq(load(&v, &room)->verdict, STATUS_VERDICT_STUCK);
        status_view_done(&v);
        room_close(&room);
}

Test(status_view, what_is_frozen_is_shown, .timeout = 10)
{
        StatusDataflow dataflow = {.uuid = UUID, .name = "camera", .uid = geteuid(), .state = STATUS_DATAFLOW_RUNNING, .n_nodes = 2, .n_running = 2};
        StatusNode node = {.uuid = UUID, .index = 1, .id = "show", .state = STATUS_NODE_RUNNING, .waits_for = STATUS_NONE, .frozen = true};
        StatusView v = STATUS_VIEW_NULL;
        Room room;

        room_make(&room);
        room_write(&room);
        load(&v, &room);
        cr_assert_null(strstr(printed(&v), "FROZEN"));
        status_put_node(room.status, &node);
        load(&v, &room);
        cr_assert_not_null(strstr(printed(&v), "2 of 2 nodes running, FROZEN: 1 of them\n"), "%s", printed(&v));
        cr_assert_eq(v.nodes[1].frozen, 1);
        dataflow.frozen = true;
        status_put_dataflow(room.status, &dataflow);
        load(&v, &room);
        cr_assert_not_null(strstr(printed(&v), "2 of 2 nodes running, FROZEN\n"), "%s", printed(&v));
        status_view_done(&v);
        room_close(&room);
}

/* A supervisor in a process of its own, which has written its page and then does nothing. */
static pid_t start_supervisor(Room *room)
{
        int fds[2];
        char byte;
        pid_t pid;

        cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
        pid = fork();
        cr_assert_geq(pid, 0);
        if (pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* not left behind by a test that failed */
                room_write(room);
                (void)!write(fds[1], "x", 1);
                for (;;)
                        pause();
        }
        (void)fd_close(fds[1]);
        cr_assert_eq(read(fds[0], &byte, 1), 1);
        (void)fd_close(fds[0]);
        return pid;
}

Test(status_view, a_supervisor_that_was_stopped_or_killed_is_red, .timeout = 20)
{
        _cleanup_fd_ int lock = -1;
        StatusView v = STATUS_VIEW_NULL;
        siginfo_t info;
        Room room;
        pid_t pid;

        room_make(&room);
        pid = start_supervisor(&room);
        lock = openat(room.fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0644); /* we are its guard */
        cr_assert_eq(flock(lock, LOCK_EX), 0);
        cr_assert_gt(dprintf(lock, "%d\n", getpid()), 0);
        cr_assert_eq(load(&v, &room)->verdict, STATUS_VERDICT_OK, "%s", v.why);

        cr_assert_eq(kill(pid, SIGSTOP), 0);
        cr_assert_eq(waitid(P_PID, (id_t)pid, &info, WSTOPPED | WNOWAIT), 0);
        load(&v, &room);
        cr_assert_eq(v.verdict, STATUS_VERDICT_WEDGED);
        cr_assert_eq(v.reason, STATUS_REASON_STOPPED, "though it sleeps between two turns: its words alone would not show it");
        cr_assert_not_null(strstr(v.action, "kill -CONT"));

        cr_assert_eq(kill(pid, SIGKILL), 0);
        cr_assert_eq(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
        load(&v, &room);
        cr_assert_eq(v.reason, STATUS_REASON_GONE, "a zombie does nothing: %s", v.why);
        cr_assert_eq(waitpid(pid, NULL, 0), pid);
        load(&v, &room);
        cr_assert_eq(v.verdict, STATUS_VERDICT_WEDGED);
        cr_assert_eq(v.reason, STATUS_REASON_GONE, "somebody holds the lock");
        cr_assert_eq(v.n_dataflows, 1, "its last words are readable");

        lock = fd_close(lock);
        load(&v, &room);
        cr_assert_eq(v.reason, STATUS_REASON_DEAD, "nobody does");
        cr_assert_str_eq(status_view_cgroup(&v, v.dataflows), INSTANCE "/" UUID);
        cr_assert_not_null(strstr(printed(&v), "supervisor  WEDGED"), "%s", printed(&v));
        status_view_done(&v);
        room_close(&room);
}

Test(status_view, the_judgement_goes_by_the_first_fact_that_is_against_it)
{
        static const struct {
                StatusFacts facts;
                uint32_t state;
                StatusReason reason;
        } cases[] = {
                {{.same_boot = true, .alive = true, .state = 'S', .lock_known = true, .locked = true, .lock_pid = 10},
                        STATUS_RUNNING, STATUS_REASON_NONE},
                {{.same_boot = true, .alive = true}, STATUS_RUNNING, STATUS_REASON_NONE}, /* /proc hides it */
                {{.same_boot = false, .alive = true, .state = 'T'}, STATUS_RUNNING, STATUS_REASON_BOOT},
                {{.same_boot = true}, STATUS_ENDED, STATUS_REASON_ENDED},
                {{.same_boot = true, .lock_known = true, .locked = true, .lock_pid = 11}, STATUS_RUNNING, STATUS_REASON_LOCK},
                {{.same_boot = true, .lock_known = true, .locked = true, .lock_pid = 10}, STATUS_RUNNING, STATUS_REASON_GONE},
                {{.same_boot = true, .lock_known = true}, STATUS_RUNNING, STATUS_REASON_DEAD},
                {{.same_boot = true}, STATUS_RUNNING, STATUS_REASON_GONE},
                {{.same_boot = true, .alive = true, .state = 't'}, STATUS_RUNNING, STATUS_REASON_STOPPED},
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                StatusView v = STATUS_VIEW_NULL;

                v.info = (struct status_info){.pid = 20, .guard_pid = 10, .state = cases[i].state,
                        .guard = STATUS_GUARD_OK, .stale_after_ns = 5};
                status_view_judge(&v, &cases[i].facts, 1000);
                cr_assert_eq(v.reason, cases[i].reason, "case %zu: %s (%s)", i, status_reason_to_string(v.reason), v.why);
                cr_assert_eq(v.verdict == STATUS_VERDICT_OK, v.why[0] == '\0');
        }
}

Test(status_view, what_is_no_page_is_none_and_says_why, .timeout = 10)
{
        StatusView v = STATUS_VIEW_NULL;
        Room room;
        int fd;

        room_make(&room);
        cr_assert_eq(status_view_load(&v, "/nonexistent/tidegate", clock_now()), 0);
        cr_assert_eq(v.reason, STATUS_REASON_MISSING);
        cr_assert_eq(load(&v, &room)->reason, STATUS_REASON_MISSING);
        cr_assert_not_null(strstr(printed(&v), "no daemon runs"), "%s", printed(&v));

        cr_assert_eq(mkfifoat(room.fd, "status", 0644), 0);
        cr_assert_eq(load(&v, &room)->reason, STATUS_REASON_UNREADABLE, "and nobody waited for a writer");
        cr_assert_eq(unlinkat(room.fd, "status", 0), 0);
        cr_assert_eq(symlinkat("/etc/passwd", room.fd, "status"), 0);
        cr_assert_eq(load(&v, &room)->reason, STATUS_REASON_UNREADABLE);
        cr_assert_eq(unlinkat(room.fd, "status", 0), 0);
        fd = openat(room.fd, "status", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        cr_assert_eq(load(&v, &room)->reason, STATUS_REASON_UNREADABLE, "empty");
        cr_assert_eq(ftruncate(fd, 100000), 0);
        cr_assert_eq(load(&v, &room)->reason, STATUS_REASON_UNREADABLE, "zeros");
        cr_assert_eq(ftruncate(fd, INT64_C(1) << 40), 0);
        cr_assert_eq(load(&v, &room)->reason, STATUS_REASON_UNREADABLE, "a terabyte is not read");
        (void)fd_close(fd);
        status_view_done(&v);
        room_close(&room);
}

Test(status_view, a_path_to_kill_in_is_believed_of_nobody_else_and_only_below_the_instance, .timeout = 10)
{
        static const char *const bad[] = {"", "relative/" UUID, "/sys/fs/cgroup/" UUID, INSTANCE, INSTANCE "/" OTHER,
                INSTANCE "/../" UUID, INSTANCE "/x/" UUID, INSTANCE "//" UUID, INSTANCE "/" UUID "/", INSTANCE "x/" UUID};
        StatusView v = STATUS_VIEW_NULL;
        Room room;

        room_make(&room);
        room_write(&room);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                status_put_dataflow(room.status, &(StatusDataflow){.uuid = UUID, .name = "camera", .cgroup = bad[i],
                        .uid = geteuid()});
                load(&v, &room);
                cr_assert_null(status_view_cgroup(&v, v.dataflows), "%s", bad[i]);
        }
        put_all(&room, false);
        load(&v, &room);
        cr_assert_not_null(status_view_cgroup(&v, v.dataflows));
        cr_assert_eq(fchmodat(room.fd, "status", 0666, 0), 0);
        load(&v, &room);
        cr_assert_not(v.trusted);
        cr_assert_null(status_view_cgroup(&v, v.dataflows));
        cr_assert_null(status_view_cgroup(&v, NULL));
        cr_assert_eq(v.verdict, STATUS_VERDICT_OK, "it is shown");

        strcpy(v.info.cgroup, "/sys/../etc");
        v.trusted = true;
        cr_assert_null(status_view_cgroup(&v, NULL));
        status_view_done(&v);
        room_close(&room);
}

Test(status_view, a_user_sees_the_own_dataflows_and_how_many_there_are, .timeout = 10)
{
        Room room;
        int status;
        pid_t pid;

        if (geteuid() != 0)
                cr_skip_test("needs root to be two users");
        room_make(&room);
        room_write(&room); /* root's */
        status_put_dataflow(room.status, &(StatusDataflow){.uuid = OTHER, .name = "audio", .uid = 4242});
        if (status_trouble(room.status))
                cr_skip_test("this file system has no access lists");
        pid = fork();
        cr_assert_geq(pid, 0);
        if (pid == 0) {
                StatusView v = STATUS_VIEW_NULL;

                if (setgroups(0, NULL) < 0 || setgid(4242) < 0 || setuid(4242) < 0 ||
                        status_view_load(&v, room.path, clock_now()))
                        _exit(1);
                _exit(v.verdict != STATUS_VERDICT_OK || v.n_dataflows != 1 || strcmp(v.dataflows[0].name, "audio") != 0 ? 2 :
                      v.n_dataflows_all != 2 || v.n_hidden != 1 || !v.trusted ? 3 : 0);
        }
        cr_assert_eq(waitpid(pid, &status, 0), pid);
        cr_assert_eq(status, 0);
        room_close(&room);
}
