/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper_fixture.h"

#include "protocol/task_msg.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/blame.h"
#include "base/cleanup.h"
#include "base/place.h"
#include "base/procstat.h"

static void be_the_keeper(int supervisor, int guard, int cgroup)
{
        int fds[3] = {supervisor, guard, cgroup};

        for (int i = 0; i < 3; i++)
                fds[i] = fcntl(fds[i], F_DUPFD, 20);
        for (int i = 0; i < 3; i++)
                (void)dup2(fds[i], 3 + i);
        (void)close_range(6, ~0U, 0);
        execl(helper_path("testkeeper"), "testkeeper", NULL);
        _exit(127);
}

Fixture *fx_open(void)
{
        Fixture *fx = calloc(1, sizeof(*fx));
        int supervisor[2], guard[2];

        cr_assert(fx);
        fx->group = testgroup_make();
        cr_assert_eq(prctl(PR_SET_CHILD_SUBREAPER, 1), 0); /* as the guard is */
        testgroup_temp_dir(fx->dir, sizeof(fx->dir));
        snprintf(fx->log_dir, sizeof(fx->log_dir), "%s/out/u-1", fx->dir);
        cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, supervisor), 0);
        cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, guard), 0);
        fx->stream = -1;
        fx->keeper_pid = fork();
        cr_assert(fx->keeper_pid >= 0);
        if (fx->keeper_pid == 0)
                be_the_keeper(supervisor[1], guard[1], fx->group.fd);
        fx->keeper = (int)syscall(SYS_pidfd_open, fx->keeper_pid, 0);
        cr_assert(fx->keeper >= 0);
        close(supervisor[1]);
        close(guard[1]);
        fx->supervisor = supervisor[0];
        fx->guard = guard[0];
        return fx;
}

void fx_order(Fixture *fx, const KeeperMsg *order, const int *fds, int n_fds)
{
        char packet[KEEPER_MSG_MAX], control[CMSG_SPACE(8 * sizeof(int))] __attribute__((aligned(8))) = {};
        int n = keeper_msg_encode(order, packet, sizeof(packet));
        struct iovec iov = {packet, (size_t)n};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

        cr_assert(n > 0, "cannot encode %s", keeper_msg_name(order->type));
        if (n_fds > 0) {
                struct cmsghdr *cmsg;

                msg.msg_control = control;
                msg.msg_controllen = CMSG_SPACE((size_t)n_fds * sizeof(int));
                cmsg = CMSG_FIRSTHDR(&msg);
                cmsg->cmsg_level = SOL_SOCKET;
                cmsg->cmsg_type = SCM_RIGHTS;
                cmsg->cmsg_len = CMSG_LEN((size_t)n_fds * sizeof(int));
                memcpy(CMSG_DATA(cmsg), fds, (size_t)n_fds * sizeof(int));
        }
        cr_assert_eq(sendmsg(fx->supervisor, &msg, MSG_NOSIGNAL), n, "%s", strerror(errno));
}

void fx_begin(Fixture *fx)
{
        KeeperMsg begin = {.type = KEEPER_MSG_BEGIN,
                .begin = {"u-1", "test", fx->log_dir, 5, fx->uid, fx->gid, 1}};
        int stream[2];
        FxMsg *m;

        cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, stream), 0);
        fx_order(fx, &begin, &stream[1], 1);
        close(stream[1]);
        fx->stream = stream[0];
        m = fx_expect(fx, KEEPER_MSG_BEGUN);
        snprintf(fx->dataflow, sizeof(fx->dataflow), "%s", m->msg.begun.cgroup);
        fx_signal(fx, 99999, SIGTERM); /* answered a turn later: what BEGIN needed for a moment is closed */
        (void)fx_expect(fx, KEEPER_MSG_SIGNALLED);
        fx->n_fds = fx_fds(fx);
}

Fixture *fx_new(void)
{
        Fixture *fx = fx_open();

        fx_begin(fx);
        return fx;
}

static int spec_memfd(const FxSpawn *s, uint64_t *ret_size)
{
        static char *default_env[] = {(char *)"PATH=/usr/bin:/bin", NULL};
        KeeperSpec spec = {.argv = (char **)(uintptr_t)s->argv,
                .env = (char **)(uintptr_t)(s->env ? s->env : default_env),
                .cwd = s->cwd ? s->cwd : "/",
                .cpus = s->cpus,
                .n_cpus = s->n_cpus,
                .umask = 022,
                .nofile_soft = s->nofile ? s->nofile : 1024,
                .nofile_hard = s->nofile ? s->nofile : 4096};
        int64_t n = keeper_spec_encode(&spec, NULL, 0);
        int fd = memfd_create("spec", MFD_CLOEXEC);
        char *buf = malloc((size_t)n);

        cr_assert(n > 0 && fd >= 0 && buf);
        cr_assert_eq(keeper_spec_encode(&spec, buf, (size_t)n), n);
        if (s->bad_spec)
                memset(buf, 0xff, (size_t)n);
        cr_assert_eq(write(fd, buf, (size_t)n), n);
        free(buf);
        *ret_size = (uint64_t)n;
        return fd;
}

void fx_spawn(Fixture *fx, const FxSpawn *s)
{
        KeeperMsg order = {.type = KEEPER_MSG_SPAWN, .node = s->node,
                .generation = s->generation ? s->generation : 1};
        int out[2], err[2], fds[6];
        char id[32];

        snprintf(id, sizeof(id), "n%u", s->node);
        order.spawn.id = s->id ? s->id : id;
        order.spawn.deadline_ns = clock_now() + (s->span ? s->span : FX_SPAN);
        order.spawn.has_socket = s->socket > 0;
        order.spawn.cgroup_writable = s->cgroup_writable;
        cr_assert_eq(pipe2(out, O_CLOEXEC), 0);
        cr_assert_eq(pipe2(err, O_CLOEXEC), 0);
        if (s->keep_out)
                *s->keep_out = fcntl(out[1], F_DUPFD_CLOEXEC, 3);
        fds[0] = spec_memfd(s, &order.spawn.spec_size);
        fds[1] = out[1];
        fds[2] = err[1];
        fds[3] = out[0];
        fds[4] = err[0];
        fds[5] = s->socket;
        fx_order(fx, &order, fds, keeper_msg_n_fds(&order));
        for (int i = 0; i < keeper_msg_n_fds(&order); i++)
                close(fds[i]);
}

static KeeperMsg about(KeeperMsgType type, uint32_t node)
{
        return (KeeperMsg){.type = type, .node = node, .generation = node == KEEPER_NODE_ALL ? 0 : 1};
}

void fx_signal(Fixture *fx, uint32_t node, int signo)
{
        KeeperMsg order = about(KEEPER_MSG_SIGNAL, node);

        order.signal.signo = signo;
        fx_order(fx, &order, NULL, 0);
}

void fx_kill(Fixture *fx, uint32_t node, nsec_t span)
{
        KeeperMsg order = about(KEEPER_MSG_KILL, node);

        order.kill.until_ns = clock_now() + span;
        fx_order(fx, &order, NULL, 0);
}

void fx_reap(Fixture *fx, uint32_t node)
{
        KeeperMsg order = about(KEEPER_MSG_REAP, node);

        fx_order(fx, &order, NULL, 0);
}

/* Ends that came before the report of the job that brought them about: either may be seen first. Numbers only. */
static KeeperMsg early[8];
static unsigned n_early;

static ssize_t receive(int socket, void *buf, size_t size, int *fds, int max_fds, nsec_t span)
{
        char control[CMSG_SPACE(8 * sizeof(int))] __attribute__((aligned(8)));
        struct iovec iov = {buf, size};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
                .msg_controllen = sizeof(control)};
        struct cmsghdr *cmsg;
        ssize_t n;

        for (int i = 0; i < max_fds; i++)
                fds[i] = -1;
        if (!wait_readable(socket, span))
                return -1;
        n = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        if (n <= 0)
                return n;
        cmsg = CMSG_FIRSTHDR(&msg);
        if (cmsg && max_fds > 0)
                memcpy(fds, CMSG_DATA(cmsg), cmsg->cmsg_len - CMSG_LEN(0));
        return n;
}

bool fx_receive(Fixture *fx, FxMsg *ret, nsec_t span)
{
        int fds[8];
        ssize_t n;

        ret->fd = fd_close(ret->fd > 0 ? ret->fd : -1);
        if (n_early > 0) {
                ret->msg = early[0];
                memmove(early, early + 1, --n_early * sizeof(early[0]));
                return true;
        }
        n = receive(fx->supervisor, ret->packet, sizeof(ret->packet), fds, 8, span);
        if (n <= 0)
                return false;
        ret->fd = fds[0];
        cr_assert_eq(keeper_msg_decode(&ret->msg, ret->packet, (size_t)n), 0);
        cr_assert_eq(keeper_msg_n_fds(&ret->msg), fds[0] >= 0 ? 1 : 0);
        if (getenv("FX_VERBOSE"))
                fprintf(stderr, "%s %d.%llu %s\n", keeper_msg_name(ret->msg.type), (int)ret->msg.node,
                        (unsigned long long)ret->msg.generation,
                        ret->msg.type == KEEPER_MSG_NOTE ? ret->msg.note.text :
                        ret->msg.type == KEEPER_MSG_SPAWN_FAILED ? ret->msg.spawn_failed.text : "");
        if (ret->msg.type == KEEPER_MSG_NOTE) {
                fx->n_notes++;
                snprintf(fx->note, sizeof(fx->note), "%s", ret->msg.note.text);
        }
        return true;
}

static FxMsg last = {.fd = -1};

static bool is_end(const KeeperMsg *msg)
{
        return msg->type == KEEPER_MSG_EXITED || msg->type == KEEPER_MSG_EMPTY;
}

static FxMsg *expect_answer(Fixture *fx, KeeperMsgType type)
{
        KeeperMsg ends[ELEMENTSOF(early)];
        unsigned n = 0;

        for (;;) {
                cr_assert(fx_receive(fx, &last, FX_SPAN), "%s did not come", keeper_msg_name(type));
                if (is_end(&last.msg) && n < ELEMENTSOF(ends))
                        ends[n++] = last.msg;
                else if (last.msg.type != KEEPER_MSG_NOTE && last.msg.type != KEEPER_MSG_HOME)
                        break;
        }
        cr_assert_eq(last.msg.type, type, "%s came, not %s", keeper_msg_name(last.msg.type), keeper_msg_name(type));
        memcpy(early, ends, n * sizeof(ends[0])); /* all of them were taken: nothing is overwritten */
        n_early = n;
        return &last;
}

FxMsg *fx_expect(Fixture *fx, KeeperMsgType type)
{
        if (type == KEEPER_MSG_SIGNALLED || type == KEEPER_MSG_KILLING)
                return expect_answer(fx, type);
        do
                cr_assert(fx_receive(fx, &last, FX_SPAN), "%s did not come", keeper_msg_name(type));
        while ((last.msg.type == KEEPER_MSG_NOTE || last.msg.type == KEEPER_MSG_HOME) && type != last.msg.type);
        cr_assert_eq(last.msg.type, type, "%s came, not %s: %s", keeper_msg_name(last.msg.type),
                keeper_msg_name(type),
                last.msg.type == KEEPER_MSG_SPAWN_FAILED ? last.msg.spawn_failed.text :
                last.msg.type == KEEPER_MSG_FAILED ? last.msg.failed.text : "");
        return &last;
}

FxMsg *fx_wait(Fixture *fx, KeeperMsgType type)
{
        do
                cr_assert(fx_receive(fx, &last, FX_SPAN), "%s did not come", keeper_msg_name(type));
        while (last.msg.type != type);
        return &last;
}

pid_t fx_start(Fixture *fx, const FxSpawn *s)
{
        FxMsg *m;

        fx_spawn(fx, s);
        m = fx_expect(fx, KEEPER_MSG_SPAWNED);
        cr_assert_eq(m->msg.node, s->node);
        return m->msg.spawned.pid;
}

void fx_line(Fixture *fx, LogMsg *ret, char packet[static LOG_MSG_MAX])
{
        ssize_t n = receive(fx->stream, packet, LOG_MSG_MAX, NULL, 0, FX_SPAN);

        cr_assert(n > 0, "no line came");
        cr_assert_eq(log_msg_decode(ret, packet, (size_t)n), 0);
}

char *fx_log(Fixture *fx, const char *id)
{
        char path[512], *text = NULL;
        size_t size = 0;
        FILE *f;

        snprintf(path, sizeof(path), "%s/log_%s.jsonl", fx->log_dir, id);
        f = fopen(path, "re");
        if (!f)
                return strdup("");
        if (getdelim(&text, &size, '\0', f) < 0) {
                free(text);
                text = strdup("");
        }
        fclose(f);
        return text;
}

struct guard_record fx_guard(Fixture *fx, int *ret_fd)
{
        struct guard_record record;
        int fds[8];
        ssize_t n = receive(fx->guard, &record, sizeof(record), fds, 8, FX_SPAN);

        cr_assert_eq(n, (ssize_t)sizeof(record), "no record came");
        cr_assert_eq(record.magic, GUARD_MAGIC);
        for (int i = ret_fd ? 1 : 0; i < 8; i++)
                fds[i] = fd_close(fds[i]);
        if (ret_fd)
                *ret_fd = fds[0];
        return record;
}

/* The keeper's child of that name, or 0. */
static pid_t find_logger(Fixture *fx)
{
        char path[64], comm[32] = "";
        pid_t pid, found = 0;
        FILE *f, *c;

        snprintf(path, sizeof(path), "/proc/%d/task/%d/children", fx->keeper_pid, fx->keeper_pid);
        f = fopen(path, "re");
        cr_assert(f);
        while (!found && fscanf(f, "%d", &pid) == 1) {
                snprintf(path, sizeof(path), "/proc/%d/comm", pid);
                c = fopen(path, "re");
                if (c && fgets(comm, sizeof(comm), c) && strncmp(comm, "tidegate-logger", 15) == 0)
                        found = pid;
                if (c)
                        fclose(c);
        }
        fclose(f);
        return found;
}

pid_t fx_logger(Fixture *fx)
{
        nsec_t until = clock_now() + FX_SPAN;
        pid_t pid = 0;

        while (!pid && clock_now() < until) /* it takes its name a moment after BEGUN */
                pid = find_logger(fx);
        cr_assert(pid > 0, "there is no logger");
        return pid;
}

int fx_fds(Fixture *fx)
{
        char path[64];
        const struct dirent *e;
        int n = 0;
        DIR *d;

        snprintf(path, sizeof(path), "/proc/%d/fd", fx->keeper_pid);
        d = opendir(path);
        cr_assert(d);
        while ((e = readdir(d))) {
                char to[256];
                ssize_t k = readlinkat(dirfd(d), e->d_name, to, sizeof(to));

                n += k < 4 || memcmp(to, "mnt:", 4) != 0; /* the namespace of nodes is made at the first start, and kept */
        }
        closedir(d);
        return n - 2;
}

void fx_expect_fds(Fixture *fx)
{
        nsec_t until = clock_now() + FX_SPAN;
        int now = -1;

        while (now != fx->n_fds && clock_now() < until) {
                fx_signal(fx, 99999, SIGTERM); /* nobody's: answered at once, one turn of the loop */
                (void)fx_expect(fx, KEEPER_MSG_SIGNALLED);
                now = fx_fds(fx);
        }
        cr_assert_eq(now, fx->n_fds, "%d descriptors in the keeper, %d before", now, fx->n_fds);
}

nsec_t fx_cpu(Fixture *fx)
{
        unsigned long long ns;
        char path[64];
        FILE *f;

        snprintf(path, sizeof(path), "/proc/%d/task/%d/schedstat", fx->keeper_pid, fx->keeper_pid);
        f = fopen(path, "re");
        cr_assert(f && fscanf(f, "%llu", &ns) == 1);
        fclose(f);
        return ns;
}

void fx_expect_idle(Fixture *fx)
{
        nsec_t before = fx_cpu(fx), spent;

        (void)poll(NULL, 0, 300);
        spent = fx_cpu(fx) - before;
        cr_assert(spent < 30 * NSEC_PER_MSEC, "the loop spins: %d of 300 ms", (int)(spent / NSEC_PER_MSEC));
}

void fx_wait_exit(Fixture *fx, nsec_t span, int status)
{
        siginfo_t si = {};

        cr_assert(wait_readable(fx->keeper, span), "the keeper does not end");
        cr_assert_eq(waitid(P_PIDFD, (id_t)fx->keeper, &si, WEXITED), 0);
        cr_assert_eq(si.si_status, status, "the keeper ended with code %d status %d", si.si_code, si.si_status);
        close(fx->keeper);
        fx->keeper = -1;
}

bool fx_end(Fixture *fx, nsec_t span)
{
        KeeperMsg end = {.type = KEEPER_MSG_END, .end = {clock_now() + span}};
        KeeperMsg ended;

        fx_order(fx, &end, NULL, 0);
        ended = fx_wait(fx, KEEPER_MSG_ENDED)->msg;
        fx_wait_exit(fx, FX_SPAN, 0);
        return ended.ended.removed && ended.ended.logged;
}

const char *fx_left(const FxMsg *left)
{
        static char text[16384];
        Wire wire = wire_init((void *)(uintptr_t)left->msg.left.tasks, left->msg.left.tasks_size);
        size_t n = 0;
        Task task;

        text[0] = '\0';
        while (task_msg_get(&wire, &task) && n + 2048 < sizeof(text)) {
                (void)task_line(&task, text + n, 2046);
                n += strlen(text + n);
                text[n++] = '\n';
                text[n] = '\0';
        }
        return text;
}

/* Its cgroup is without it a moment before it is its parent's zombie. */
static bool is_exiting(pid_t pid)
{
        char path[64], text[1024];
        BlameStat stat = {};

        snprintf(path, sizeof(path), "/proc/%d/stat", pid);
        return procfs_read(path, text, sizeof(text)) == 0 && blame_parse_stat(text, &stat) && stat.exiting;
}

static int note_living(pid_t pid, void *userdata)
{
        if (!is_exiting(pid))
                *(pid_t *)userdata = pid;
        return 0;
}

/* Whoever is not on its way out yet lives on. */
static void reap_the_dead(void)
{
        nsec_t until = clock_now() + FX_SPAN;
        pid_t living = 0;
        siginfo_t si;

        for (;;) {
                si.si_pid = 0;
                if (waitid(P_ALL, 0, &si, WEXITED | WNOHANG) < 0)
                        break;
                if (si.si_pid)
                        continue;
                cr_assert_eq(place_each_child(getpid(), note_living, &living), 0);
                cr_assert(living == 0 && clock_now() < until, "somebody lives on: %d", living);
                (void)poll(NULL, 0, 1);
        }
        cr_assert_eq(errno, ECHILD);
}

void fx_close(Fixture *fx)
{

        if (fx->keeper >= 0)
                cr_assert(fx_end(fx, FX_SPAN), "END was not clean");
        last.fd = fd_close(last.fd);
        fx->supervisor = fd_close(fx->supervisor);
        fx->guard = fd_close(fx->guard);
        fx->stream = fd_close(fx->stream);
        /* Whom the keeper did not reap is ours now, dead. */
        reap_the_dead();
        testgroup_remove_dir(fx->dir);
        testgroup_done(&fx->group);
        free(fx);
}
