/* SPDX-License-Identifier: Apache-2.0 */
/* The writer of the status pages, on real files: what readers find, who may, and what a successor takes over. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "supervisor/status.h"

#define UID 12345

typedef struct Room { /* a runtime directory */
        char path[64];
        int fd;
        Status *status;
} Room;

static StatusOptions options(const Room *room, uint64_t epoch)
{
        return (StatusOptions){.dir_fd = room->fd, .epoch = epoch, .guard_pid = 77, .instance = "test", .cgroup = "/sys/fs/cgroup/tidegate/test",
                .started_at = 5, .n_dataflows = 4, .n_nodes = 8};
}

static void room_open(Room *room)
{
        StatusOptions o;

        *room = (Room){.fd = -1};
        /* not /tmp: that may be any file system, and a runtime directory is a tmpfs */
        strcpy(room->path, access("/dev/shm", W_OK) == 0 ? "/dev/shm/tg-status-XXXXXX" : "/tmp/tg-status-XXXXXX");
        cr_assert_not_null(mkdtemp(room->path));
        cr_assert_eq(chmod(room->path, 0755), 0);
        room->fd = open(room->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        o = options(room, 1);
        cr_assert_eq(status_open(&room->status, &o), 0);
        cr_assert_null(status_trouble(room->status));
}

static void room_close(Room *room)
{
        char command[128];

        room->status = status_free(room->status);
        (void)fd_close(room->fd);
        (void)snprintf(command, sizeof(command), "rm -rf %s", room->path);
        cr_assert_eq(system(command), 0);
}

static void succeed(Room *room, uint64_t epoch)
{
        StatusOptions o = options(room, epoch);

        room->status = status_free(room->status); /* as its death does */
        cr_assert_eq(status_open(&room->status, &o), 0);
}

typedef struct View {
        StatusPage page;
        StatusSnapshot s;
        void *map;
        uint64_t size;
        ino_t inode;
} View;

static void view_open(View *v, const Room *room, const char *name)
{
        _cleanup_fd_ int fd = openat(room->fd, name, O_RDONLY | O_CLOEXEC);
        struct stat st;

        *v = (View){.s = STATUS_SNAPSHOT_NULL};
        cr_assert_geq(fd, 0, "%s: %s", name, strerror(errno));
        cr_assert_eq(fstat(fd, &st), 0);
        v->size = (uint64_t)st.st_size;
        v->inode = st.st_ino;
        v->map = mmap(NULL, v->size, PROT_READ, MAP_SHARED, fd, 0);
        cr_assert_neq(v->map, MAP_FAILED);
        cr_assert_eq(status_page_open(&v->page, v->map, v->size), 0);
}

static StatusSnapshot *look(View *v)
{
        cr_assert_eq(status_page_read(&v->page, &v->s), 0);
        cr_assert(v->s.consistent);
        return &v->s;
}

static void view_close(View *v)
{
        status_snapshot_done(&v->s);
        (void)munmap(v->map, v->size);
}

static void put(Room *room, const char *uuid, const char *name, uint32_t n_nodes)
{
        char cgroup[128];

        (void)snprintf(cgroup, sizeof(cgroup), "/sys/fs/cgroup/tidegate/test/%s", uuid);
        status_put_dataflow(room->status, &(StatusDataflow){.uuid = uuid, .name = name, .uid = UID, .cgroup = cgroup,
                                                  .state = STATUS_DATAFLOW_RUNNING, .wanted = STATUS_WANTED_RUNNING, .n_nodes = n_nodes});
        for (uint32_t i = 0; i < n_nodes; i++)
                status_put_node(room->status, &(StatusNode){.uuid = uuid, .index = i, .id = "n", .state = STATUS_NODE_RUNNING, .waits_for = STATUS_NONE});
}

Test(status, what_is_put_is_read_and_what_is_removed_is_gone, .timeout = 10)
{
        StatusSnapshot *s;
        Room room;
        View v, own;

        room_open(&room);
        put(&room, "uuid-a", "camera", 2);
        put(&room, "uuid-b", "audio", 1);
        status_put_node(room.status, &(StatusNode){.uuid = "uuid-a", .index = 1, .id = "show", .kind = STATUS_KIND_PROGRAM,
                                             .state = STATUS_NODE_BACKOFF, .generation = 3, .restarts = 2, .pid = 4711, .waits_for = 0});
        view_open(&v, &room, "status.12345");
        s = look(&v);
        cr_assert_eq(s->info.pid, getpid());
        cr_assert_eq(s->info.guard_pid, 77);
        cr_assert_eq(s->info.epoch, 1);
        cr_assert_eq(s->info.stale_after_ns, STATUS_STALE_NS);
        cr_assert_eq(s->info.uid, UID);
        cr_assert_gt(s->info.pid_start, 0);
        cr_assert_str_eq(s->info.instance, "test");
        cr_assert_eq(s->n_dataflows, 2);
        cr_assert_str_eq(s->dataflows[0].cgroup, "/sys/fs/cgroup/tidegate/test/uuid-a");
        cr_assert_eq(s->n_nodes, 3);
        cr_assert_str_eq(s->nodes[1].id, "show");
        cr_assert_eq(s->nodes[1].state, STATUS_NODE_BACKOFF);
        cr_assert_eq(s->nodes[1].pid, 4711);
        cr_assert_eq(s->nodes[1].restarts, 2);

        status_remove_dataflow(room.status, "uuid-a");
        status_set_state(room.status, STATUS_STOPPING);
        status_set_guard(room.status, 78, STATUS_GUARD_UNRESPONSIVE);
        status_set_adopted(room.status, 3, 2, 1);
        s = look(&v);
        cr_assert_eq(s->n_dataflows, 1);
        cr_assert_str_eq(s->dataflows[0].name, "audio");
        cr_assert_eq(s->n_nodes, 1);
        cr_assert_eq(s->info.state, STATUS_STOPPING);
        cr_assert_eq(s->info.guard, STATUS_GUARD_UNRESPONSIVE);
        cr_assert_eq(s->info.adopted, 3);

        put(&room, "uuid-c", "fills the hole", 1);
        s = look(&v);
        cr_assert_eq(v.page.header->dataflows_end, 2);
        cr_assert_eq(v.page.header->nodes_end, 3);
        cr_assert_eq(s->n_nodes, 2);

        view_open(&own, &room, "status");
        s = look(&own);
        cr_assert_eq(s->n_dataflows, 0, "the page that everybody reads has no rows");
        cr_assert_eq(own.page.header->n_dataflows_shown, 2);
        cr_assert_eq(own.page.header->n_nodes_shown, 2);
        view_close(&own);
        view_close(&v);
        room_close(&room);
}

Test(status, what_does_not_fit_is_counted_and_shown_once_there_is_room, .timeout = 10)
{
        StatusSnapshot *s;
        char uuid[16];
        Room room;
        View v, own;

        room_open(&room);
        for (unsigned i = 0; i < 6; i++) { /* of 4, with 12 nodes of 8 */
                (void)snprintf(uuid, sizeof(uuid), "uuid-%u", i);
                put(&room, uuid, uuid, 2);
        }
        view_open(&v, &room, "status.12345");
        view_open(&own, &room, "status");
        s = look(&v);
        cr_assert_eq(s->n_dataflows, 4);
        cr_assert_eq(s->n_nodes, 8);
        cr_assert_eq(s->n_dataflows_not_shown, 2);
        cr_assert_eq(s->n_nodes_not_shown, 4);
        cr_assert_eq(look(&own)->n_nodes_not_shown, 4);
        status_remove_dataflow(room.status, "uuid-1");
        put(&room, "uuid-5", "uuid-5", 2);
        s = look(&v);
        cr_assert_eq(s->n_dataflows, 4);
        cr_assert_eq(s->n_nodes, 8);
        cr_assert_eq(s->n_dataflows_not_shown, 1);
        cr_assert_eq(s->n_nodes_not_shown, 2);
        status_remove_dataflow(room.status, "uuid-4");
        cr_assert_eq(look(&v)->n_nodes_not_shown, 0);
        view_close(&own);
        view_close(&v);
        room_close(&room);
}

Test(status, a_path_that_does_not_fit_is_not_shown_rather_than_cut, .timeout = 10)
{
        char path[2000];
        Room room;
        View v;

        memset(path, 'p', sizeof(path));
        path[0] = '/';
        path[sizeof(path) - 1] = '\0';
        room_open(&room);
        status_put_dataflow(room.status, &(StatusDataflow){.uuid = "u", .name = path, .uid = UID, .cgroup = path});
        view_open(&v, &room, "status.12345");
        cr_assert_str_eq(look(&v)->dataflows[0].cgroup, "");
        cr_assert_eq(strlen(v.s.dataflows[0].name), sizeof(v.s.dataflows[0].name) - 1);
        view_close(&v);
        room_close(&room);
}

Test(status, a_successor_goes_on_in_the_same_file_and_its_readers_see_it, .timeout = 10)
{
        struct stat st;
        StatusSnapshot *s;
        Room room;
        View v, own;

        room_open(&room);
        put(&room, "uuid-a", "goes on", 3);
        put(&room, "uuid-b", "is gone", 1);
        view_open(&v, &room, "status.12345");
        view_open(&own, &room, "status");
        status_pulse_begin(status_pulse(room.status), 1); /* dies in the middle of a turn */

        succeed(&room, 2);
        cr_assert_null(status_trouble(room.status));
        cr_assert_eq(fstatat(room.fd, "status.12345", &st, 0), 0);
        cr_assert_eq(st.st_ino, v.inode);
        cr_assert_eq(fstatat(room.fd, "status", &st, 0), 0);
        cr_assert_eq(st.st_ino, own.inode);
        cr_assert_eq(look(&own)->info.epoch, 2);
        cr_assert_not(status_pulse_is_stale(&own.s.pulse, 5, clock_now()), "that turn was not its");
        cr_assert_eq(look(&v)->n_dataflows, 2, "until it knows better");

        put(&room, "uuid-a", "goes on", 2);
        status_settle(room.status);
        put(&room, "uuid-c", "is new", 1);
        s = look(&v);
        cr_assert_eq(s->info.epoch, 2);
        cr_assert_eq(s->n_dataflows, 2);
        cr_assert_str_eq(s->dataflows[0].name, "goes on");
        cr_assert_str_eq(s->dataflows[1].name, "is new");
        cr_assert_eq(s->n_nodes, 3, "its third node was not put again");
        cr_assert_eq(look(&own)->n_dataflows, 0);
        cr_assert_eq(own.page.header->n_dataflows_shown, 2);
        cr_assert_eq(own.page.header->n_nodes_shown, 3);
        view_close(&own);
        view_close(&v);
        room_close(&room);
}

Test(status, a_predecessor_that_died_in_the_middle_of_a_change_is_succeeded_all_the_same, .timeout = 10)
{
        struct status_page_header *header;
        _cleanup_fd_ int fd = -1;
        Room room;
        View v;

        room_open(&room);
        put(&room, "uuid-a", "whole", 1);
        view_open(&v, &room, "status.12345");
        fd = openat(room.fd, "status.12345", O_RDWR | O_CLOEXEC);
        if (fd < 0) { /* 0400 is for us too, unless we are root */
                cr_assert_eq(errno, EACCES);
                cr_skip_test("needs root");
        }
        header = mmap(NULL, v.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        cr_assert_neq(header, MAP_FAILED);
        status_changes_begin(header);
        memset(&((struct status_dataflow_slot *)(header + 1))->copy[0], 'x', 200); /* seq is 1: the other copy is whole */
        succeed(&room, 2);
        cr_assert_str_eq(look(&v)->dataflows[0].name, "whole");
        (void)munmap(header, v.size);
        view_close(&v);
        room_close(&room);
}

Test(status, whatever_else_has_the_name_is_replaced_and_not_written_to, .timeout = 10)
{
        struct stat st;
        Room room;
        View v;

        room_open(&room);
        room.status = status_free(room.status);
        cr_assert_eq(unlinkat(room.fd, "status", 0), 0);
        cr_assert_eq(mkfifoat(room.fd, "status", 0666), 0);
        cr_assert_eq(symlinkat("/etc/passwd", room.fd, "status.12345"), 0);
        succeed(&room, 2);
        cr_assert_null(status_trouble(room.status));
        cr_assert_lt(fstatat(room.fd, "status.12345", &st, AT_SYMLINK_NOFOLLOW), 0, "nobody has dataflows yet");
        put(&room, "uuid-a", "a", 1);
        view_open(&v, &room, "status");
        view_close(&v);
        view_open(&v, &room, "status.12345");
        cr_assert_eq(look(&v)->n_dataflows, 1);
        view_close(&v);

        /* writable by others: it could be cut short under us */
        room.status = status_free(room.status);
        cr_assert_eq(fchmodat(room.fd, "status", 0666, 0), 0);
        cr_assert_eq(fstatat(room.fd, "status", &st, 0), 0);
        succeed(&room, 3);
        cr_assert_eq(fstatat(room.fd, "status", &st, 0), 0);
        cr_assert_eq(st.st_mode & 07777, 0644);

        /* of other capacity: users' rows do not fit */
        room.status = status_free(room.status);
        cr_assert_eq(truncate(strcat(strcpy((char[128]){}, room.path), "/status"), 8192), 0);
        succeed(&room, 4);
        view_open(&v, &room, "status");
        cr_assert_eq(v.size, 4096);
        cr_assert_eq(look(&v)->info.epoch, 4);
        view_close(&v);
        room_close(&room);
}

/* In a child that is that user and no other: can it open that file so? 0 or an errno. */
static int try_as(const Room *room, uid_t uid, const char *name, int flags)
{
        char path[128];
        int status;
        pid_t pid;

        (void)snprintf(path, sizeof(path), "%s/%s", room->path, name);
        pid = fork();
        cr_assert_geq(pid, 0);
        if (pid == 0) {
                if (setgroups(0, NULL) < 0 || setgid(uid) < 0 || setuid(uid) < 0)
                        _exit(255);
                _exit(open(path, flags) < 0 ? errno : 0);
        }
        cr_assert_eq(waitpid(pid, &status, 0), pid);
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) != 255);
        return WEXITSTATUS(status);
}

Test(status, a_users_page_is_read_by_that_user_alone_and_written_by_nobody, .timeout = 10)
{
        struct stat st;
        const char *trouble;
        Room room;

        if (geteuid() != 0)
                cr_skip_test("needs root to be two users");
        room_open(&room);
        put(&room, "uuid-a", "a", 1);
        trouble = status_trouble(room.status);
        if (trouble)
                cr_skip_test("%s", trouble);
        cr_assert_eq(fstatat(room.fd, "status.12345", &st, 0), 0);
        cr_assert_eq(st.st_uid, 0, "an owner could cut it short under our mapping");
        cr_assert_eq(st.st_mode & 0337, 0, "nobody writes, others do not read");
        cr_assert_eq(try_as(&room, UID, "status.12345", O_RDONLY), 0);
        cr_assert_eq(try_as(&room, UID, "status.12345", O_RDWR), EACCES);
        cr_assert_eq(try_as(&room, UID + 1, "status.12345", O_RDONLY), EACCES);
        cr_assert_eq(try_as(&room, UID + 1, "status", O_RDONLY), 0);
        cr_assert_eq(try_as(&room, UID, "status", O_RDWR), EACCES);
        room_close(&room);
}

Test(status, a_row_that_says_nothing_new_is_not_written, .timeout = 10)
{
        uint64_t changes;
        Room room;
        View v;

        room_open(&room);
        put(&room, "uuid-a", "a", 2);
        view_open(&v, &room, "status.12345");
        changes = v.page.header->changes;
        put(&room, "uuid-a", "a", 2);
        cr_assert_eq(v.page.header->changes, changes);
        put(&room, "uuid-a", "b", 2);
        cr_assert_eq(v.page.header->changes, changes + 2);
        view_close(&v);
        room_close(&room);
}

Test(status, only_what_is_used_costs_memory, .timeout = 10)
{
        StatusOptions o;
        struct stat st;
        Room room;

        room_open(&room);
        o = options(&room, 2);
        room.status = status_free(room.status);
        o.n_dataflows = o.n_nodes = 0; /* the defaults */
        cr_assert_eq(status_open(&room.status, &o), 0);
        put(&room, "uuid-a", "a", 4);
        cr_assert_eq(fstatat(room.fd, "status.12345", &st, 0), 0);
        cr_assert_eq((uint64_t)st.st_size, status_page_size(STATUS_DEFAULT_DATAFLOWS, STATUS_DEFAULT_NODES));
        cr_assert_leq(st.st_blocks * 512, 8 * 4096);
        room_close(&room);
}

Test(status, without_a_directory_to_write_to_nothing_is_shown_and_nothing_breaks, .timeout = 10)
{
        _cleanup_fd_ int pipe_end = -1, other = -1;
        StatusOptions o;
        Room room;
        int fds[2];

        cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
        pipe_end = fds[0];
        other = fds[1];
        room = (Room){.fd = pipe_end};
        o = options(&room, 1);
        cr_assert_eq(status_open(&room.status, &o), 0);
        cr_assert_not_null(status_trouble(room.status));
        cr_assert_null(status_trouble(room.status), "said once");
        cr_assert_null(status_pulse(room.status));
        put(&room, "uuid-a", "a", 2);
        put(&room, "uuid-a", "b", 2);
        status_set_state(room.status, STATUS_STOPPING);
        status_remove_dataflow(room.status, "uuid-a");
        status_settle(room.status);
        room.status = status_free(room.status);
}

Test(status, a_full_disk_costs_the_rows_that_do_not_fit_and_no_signal, .timeout = 10)
{
        const struct rlimit small = {4096 + 2056 + 100, 4096 + 2056 + 100};
        struct rlimit before;
        Room room;
        View v;

        room_open(&room);
        put(&room, "uuid-a", "a", 0);
        cr_assert_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
        signal(SIGXFSZ, SIG_IGN);
        cr_assert_eq(setrlimit(RLIMIT_FSIZE, &(struct rlimit){small.rlim_cur, before.rlim_max}), 0); /* stands in for ENOSPC: EFBIG */
        put(&room, "uuid-b", "b", 1);
        cr_assert_eq(setrlimit(RLIMIT_FSIZE, &before), 0);
        cr_assert_not_null(status_trouble(room.status));
        view_open(&v, &room, "status.12345");
        cr_assert_eq(look(&v)->n_dataflows, 1);
        cr_assert_eq(v.s.n_dataflows_not_shown, 1);
        cr_assert_eq(v.s.n_nodes_not_shown, 1);
        put(&room, "uuid-b", "b", 1);
        cr_assert_eq(look(&v)->n_dataflows, 2, "there is room again");
        cr_assert_eq(v.s.n_nodes_not_shown, 0);
        view_close(&v);
        room_close(&room);
}

typedef struct Race {
        Room *room;
        bool stop;
} Race;

static void *race_write(void *userdata)
{
        Race *race = userdata;

        for (uint64_t n = 1; !__atomic_load_n(&race->stop, __ATOMIC_RELAXED); n++) {
                char text[32];

                (void)snprintf(text, sizeof(text), "%016lx", n);
                status_put_dataflow(race->room->status, &(StatusDataflow){.uuid = "uuid-a", .name = text, .cgroup = text, .uid = UID,
                                                                .since = n, .n_nodes = (uint32_t)n});
                status_put_node(race->room->status, &(StatusNode){.uuid = "uuid-a", .id = text, .generation = n, .since = n, .waits_for = STATUS_NONE});
                if (n % 100 == 0) { /* the slots change hands */
                        status_remove_dataflow(race->room->status, "uuid-a");
                        put(race->room, "uuid-z", "z", n / 100 % 3);
                }
                if (n % 100 == 50)
                        status_remove_dataflow(race->room->status, "uuid-z");
        }
        return NULL;
}

Test(status, a_reader_beside_the_writer_never_sees_a_row_of_two_moments, .timeout = 30)
{
        unsigned n_rows = 0;
        pthread_t writer;
        Race race;
        Room room;
        View v;

        room_open(&room);
        put(&room, "uuid-z", "z", 1);
        race = (Race){.room = &room};
        view_open(&v, &room, "status.12345");
        cr_assert_eq(pthread_create(&writer, NULL, race_write, &race), 0);
        while (n_rows < 20000) {
                if (status_page_read(&v.page, &v.s))
                        continue;
                for (size_t i = 0; i < v.s.n_dataflows; i++) {
                        const struct status_dataflow *d = &v.s.dataflows[i];

                        if (strcmp(d->uuid, "uuid-a") != 0)
                                continue;
                        n_rows++;
                        cr_assert_eq(strtoull(d->name, NULL, 16), d->since_ns);
                        cr_assert_str_eq(d->cgroup, d->name);
                        cr_assert_eq(d->n_nodes, (uint32_t)d->since_ns);
                }
                for (size_t i = 0; i < v.s.n_nodes; i++) {
                        const struct status_node *n = &v.s.nodes[i];

                        if (strcmp(v.s.dataflows[n->dataflow].uuid, "uuid-a") != 0)
                                continue;
                        cr_assert_str_neq(n->id, "n", "a node of the other dataflow");
                        cr_assert_eq(strtoull(n->id, NULL, 16), n->since_ns);
                        cr_assert_eq(n->generation, n->since_ns);
                }
        }
        __atomic_store_n(&race.stop, true, __ATOMIC_RELAXED);
        cr_assert_eq(pthread_join(writer, NULL), 0);
        view_close(&v);
        room_close(&room);
}
