/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/run-instance.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/place.h"
#include "base/receive.h"
#include "base/stdio_null.h"
#include "cli/beside.h"
#include "protocol/control_msg.h"

#define RUN_READ_SIZE  65536u
#define RUN_MESSAGE_MAX (16u << 20) /* a result lists every node with its ledger */

static int pidfd_open(pid_t pid)
{
        return (int)syscall(SYS_pidfd_open, pid, 0);
}

static int pair_new(int type, int *ret_ours, int *ret_theirs)
{
        int pair[2];

        if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair) < 0)
                return error_origin(-errno);
        *ret_ours = pair[0];
        *ret_theirs = pair[1];
        return 0;
}

typedef struct Inherited {
        int guard, control0, control1, self;
} Inherited;

static _Noreturn void exec_guard(const char *path, const RunInstanceOptions *o, const Inherited *fds)
{
        char client[32], pidfd[32], control0[32], control1[32], grace[48], budget[48], root[PATH_MAX + 32], enforcer[64];
        char name[] = "tidegated", private[] = "--private";
        char *argv[] = {name, private, client, pidfd, control0, control1, grace, budget, enforcer, o->cgroup_root ? root : NULL, NULL};
        const int keep[] = {fds->guard, fds->control0, fds->control1, fds->self};

        for (size_t i = 0; i < ELEMENTSOF(keep); i++)
                (void)fcntl(keep[i], F_SETFD, 0); /* a bad number shows at once in the guard */
        (void)snprintf(client, sizeof(client), "--client-fd=%d", fds->guard);
        (void)snprintf(pidfd, sizeof(pidfd), "--client-pidfd=%d", fds->self);
        (void)snprintf(control0, sizeof(control0), "--control-fd=%d", fds->control0);
        (void)snprintf(control1, sizeof(control1), "--control-fd=%d", fds->control1);
        (void)snprintf(grace, sizeof(grace), "--grace-ns=%llu", (unsigned long long)o->grace_ns);
        (void)snprintf(budget, sizeof(budget), "--budget-ns=%llu", (unsigned long long)o->budget_ns);
        (void)snprintf(enforcer, sizeof(enforcer), "--enforcer=%.40s", o->enforcer ? o->enforcer : "auto");
        (void)snprintf(root, sizeof(root), "--cgroup-root=%s", o->cgroup_root ? o->cgroup_root : "");
        execv(path, argv);
        _exit(127);
}

int run_instance_start(RunInstance *ret, const RunInstanceOptions *options, const char **ret_why)
{
        RunInstance instance = RUN_INSTANCE_NULL;
        _cleanup_fd_ int guard = -1, control0 = -1, control1 = -1, self = -1;
        char path[PATH_MAX];
        int r;

        *ret_why = "cannot find tidegated beside this program";
        r = find_tidegated(path, sizeof(path));
        if (r)
                return r;
        *ret_why = "cannot make the sockets to a private instance";
        r = pair_new(SOCK_SEQPACKET, &instance.guard_fd, &guard);
        if (!r)
                r = pair_new(SOCK_STREAM, &instance.control_fds[0], &control0);
        if (!r)
                r = pair_new(SOCK_STREAM, &instance.control_fds[1], &control1);
        if (!r) {
                self = pidfd_open(getpid());
                r = self < 0 ? -errno : 0;
        }
        if (r) {
                run_instance_done(&instance);
                return r;
        }
        *ret_why = "cannot start tidegated";
        instance.guard_pid = fork();
        if (instance.guard_pid == 0)
                exec_guard(path, options, &(Inherited){guard, control0, control1, self});
        instance.guard_pidfd = instance.guard_pid > 0 ? pidfd_open(instance.guard_pid) : -1;
        if (instance.guard_pidfd < 0) {
                r = -errno;
                run_instance_done(&instance);
                return r;
        }
        *ret = instance;
        return 0;
}

void run_instance_done(RunInstance *instance)
{
        instance->guard_pidfd = fd_close(instance->guard_pidfd);
        instance->guard_fd = fd_close(instance->guard_fd);
        instance->control_fds[0] = fd_close(instance->control_fds[0]);
        instance->control_fds[1] = fd_close(instance->control_fds[1]);
        instance->log_fd = fd_close(instance->log_fd);
        free(instance->in);
        instance->in = NULL;
}

/* ---- orders */

static int send_all(int fd, const char *data, size_t size, nsec_t deadline)
{
        while (size > 0) {
                ssize_t n = send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
                struct pollfd p = {.fd = fd, .events = POLLOUT};

                if (n > 0) {
                        data += n;
                        size -= (size_t)n;
                        continue;
                }
                if (errno != EAGAIN && errno != EINTR)
                        return -errno;
                if (poll(&p, 1, nsec_poll_ms(deadline, clock_now())) == 0)
                        return -ETIMEDOUT;
        }
        return 0;
}

/* One second for the plan to be read: a supervisor that has just started reads at once. */
static int call(int fd, const char *method, bool more, json_t *take_parameters)
{
        json_t *message = json_pack("{ss sb so}", "method", method, "more", more, "parameters", take_parameters);
        char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;
        int r = text ? 0 : -ENOMEM;

        if (text && strlen(text) >= CONTROL_FRAME_MAX)
                r = -EMSGSIZE;
        if (!r)
                r = send_all(fd, text, strlen(text) + 1, nsec_add(clock_now(), NSEC_PER_SEC));
        free(text);
        json_decref(message);
        return r;
}

int run_instance_run(RunInstance *instance, json_t *take_parameters)
{
        return call(instance->control_fds[0], CONTROL_RUN, true, take_parameters);
}

void run_instance_stop(RunInstance *instance, nsec_t grace_ns, bool force)
{
        json_t *parameters = json_pack("{sI sb}", "grace_ns", (json_int_t)grace_ns, "force", force);

        if (parameters)
                (void)call(instance->control_fds[1], CONTROL_STOP, false, parameters); /* unanswered: the escrow holds */
}

void run_instance_escrow(RunInstance *instance, nsec_t at, nsec_t until)
{
        struct guard_record record = {.magic = GUARD_MAGIC,
                .type = GUARD_MSG_ESCROW,
                .slot = GUARD_SLOT_INSTANCE,
                .at_ns = at,
                .until_ns = until};

        (void)send(instance->guard_fd, &record, sizeof(record), MSG_DONTWAIT | MSG_NOSIGNAL); /* a dead guard shows by its pidfd */
}

/* ---- what comes back */

int run_instance_record(RunInstance *instance, struct guard_record *ret)
{
        ssize_t n = receive_bytes(instance->guard_fd, ret, sizeof(*ret), MSG_DONTWAIT);

        if (n < 0)
                return errno == EAGAIN || errno == EINTR ? RUN_E_AGAIN : RUN_E_CLOSED;
        if (n == 0)
                return RUN_E_CLOSED;
        ret->text[sizeof(ret->text) - 1] = '\0';
        return n == sizeof(*ret) && ret->magic == GUARD_MAGIC ? 0 : error_origin(-EPROTO);
}

static int in_reserve(RunInstance *instance)
{
        size_t room = instance->in_room ? 2 * instance->in_room : 2 * RUN_READ_SIZE;
        char *grown;

        if (instance->in_room - instance->in_size >= RUN_READ_SIZE)
                return 0;
        if (room > RUN_MESSAGE_MAX)
                return error_origin(-EMSGSIZE);
        grown = realloc(instance->in, room);
        if (!grown)
                return error_origin(-ENOMEM);
        instance->in = grown;
        instance->in_room = room;
        return 0;
}

/* The first reply carries the log stream. */
static ssize_t receive_some(RunInstance *instance)
{
        char space[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
        struct iovec iov = {.iov_base = instance->in + instance->in_size, .iov_len = instance->in_room - instance->in_size};
        struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof(space)};
        ssize_t n = receive_message(instance->control_fds[0], &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

        for (struct cmsghdr *c = n >= 0 ? CMSG_FIRSTHDR(&mh) : NULL; c; c = CMSG_NXTHDR(&mh, c)) {
                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                instance->log_fd = fd_close(instance->log_fd);
                memcpy(&instance->log_fd, CMSG_DATA(c), sizeof(int));
        }
        return n;
}

static char *frame_end(const RunInstance *instance)
{
        return instance->in_size ? memchr(instance->in, '\0', instance->in_size) : NULL;
}

bool run_instance_holds_message(const RunInstance *instance)
{
        return frame_end(instance) != NULL;
}

static int take_frame(RunInstance *instance, json_t **ret)
{
        char *end = frame_end(instance);
        size_t size;

        if (!end)
                return RUN_E_AGAIN;
        size = (size_t)(end - instance->in) + 1;
        *ret = json_loadb(instance->in, size - 1, 0, NULL);
        memmove(instance->in, instance->in + size, instance->in_size - size);
        instance->in_size -= size;
        return json_is_object(*ret) ? 0 : error_origin(-EPROTO);
}

int run_instance_message(RunInstance *instance, json_t **ret)
{
        ssize_t n;
        int r = take_frame(instance, ret);

        if (r != RUN_E_AGAIN)
                return r;
        r = in_reserve(instance);
        if (r)
                return r;
        n = receive_some(instance);
        if (n < 0)
                return errno == EAGAIN || errno == EINTR ? RUN_E_AGAIN : RUN_E_CLOSED;
        if (n == 0)
                return RUN_E_CLOSED;
        instance->in_size += (size_t)n;
        return take_frame(instance, ret);
}

/* ---- last resort */

/* cgroupfs may hold us up for a quarter of a second, or for ever on a broken kernel: a child does it. */
static void in_child(void (*what)(const char *cgroup), const char *cgroup, nsec_t deadline)
{
        struct pollfd p = {.events = POLLIN};
        pid_t pid;

        if (!cgroup[0])
                return;
        pid = fork();
        if (pid == 0) {
                (void)stdio_to_null();
                what(cgroup);
                _exit(0);
        }
        p.fd = pid > 0 ? pidfd_open(pid) : -1;
        if (p.fd >= 0 && poll(&p, 1, nsec_poll_ms(deadline, clock_now())) == 1)
                (void)waitpid(pid, NULL, 0);
        (void)fd_close(p.fd);
}

static void kill_cgroup(const char *cgroup)
{
        char path[PATH_MAX + 16];
        int fd;

        (void)snprintf(path, sizeof(path), "%s/cgroup.kill", cgroup);
        fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd >= 0) {
                (void)!write(fd, "1", 1); /* the guard, if it lives, says what came of it */
                return;
        }
        fd = open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (fd >= 0)
                (void)place_end(fd, nsec_add(clock_now(), NSEC_PER_SEC), &(PlaceResult){}); /* none: likewise */
}

static void remove_cgroup(const char *cgroup)
{
        char base[PATH_MAX];
        char *slash;

        (void)snprintf(base, sizeof(base), "%s", cgroup);
        slash = strrchr(base, '/');
        if (!slash || rmdir(cgroup) < 0)
                return; /* not empty: the next command sweeps it */
        *slash = '\0';
        (void)rmdir(base); /* other instances may be there */
}

void run_instance_abort(RunInstance *instance, nsec_t deadline)
{
        in_child(kill_cgroup, instance->cgroup, deadline);
}

void run_instance_remove(RunInstance *instance, nsec_t deadline)
{
        in_child(remove_cgroup, instance->cgroup, deadline);
}
