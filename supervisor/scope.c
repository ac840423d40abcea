/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/scope.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cgroup_root.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/fork.h"
#include "supervisor/cgroup.h"
#include "supervisor/holder.h"
#include "supervisor/packet.h"
#include "supervisor/priority.h"
#include "supervisor/sweep.h"

#define SCOPE_PREFIX      "tidegate-"
#define SCOPE_SUFFIX      ".scope"
#define ANSWER_SPAN       (1 * NSEC_PER_SEC)        /* of a holder that was there before us */
#define LEAVE_SPAN        (500 * NSEC_PER_MSEC)     /* of a holder that was sent away */
#define RETRY_MS          50                        /* systemd forgets a unit of the same name a moment after it has ended */
#define RETRIES           3

/* ---- words */

static int send_word(int fd, HolderWord type, int dir_fd)
{
        struct holder_word word = {.magic = HOLDER_MAGIC, .type = type};

        return packet_send(fd, &word, sizeof(word), &dir_fd, dir_fd >= 0 ? 1 : 0);
}

int scope_receive(Scope *scope)
{
        struct holder_word word = {};
        size_t size = 0;
        int r = packet_recv(scope->holder_fd, &word, sizeof(word), &size, NULL, 0, NULL);

        if (r == PACKET_E_AGAIN)
                return 0;
        return r || size != sizeof(word) || word.magic != HOLDER_MAGIC ? -ECONNRESET : (int)word.type;
}

/* Until it says READY. 0, -ECONNRESET when it is gone, or -ETIMEDOUT. */
static int wait_ready(Scope *scope, nsec_t until)
{
        for (;;) {
                nsec_t now = clock_now();
                struct pollfd p = {.fd = scope->holder_fd, .events = POLLIN};
                int r = scope_receive(scope);

                if (r == HOLDER_READY)
                        return 0;
                if (r < 0)
                        return r;
                if (now >= until)
                        return -ETIMEDOUT;
                if (r == 0)
                        (void)poll(&p, 1, nsec_poll_ms(until, now));
        }
}

/* ---- the name */

static const char *last_of(const char *path)
{
        const char *slash = strrchr(path, '/');

        return slash ? slash + 1 : path;
}

static bool ends_with(const char *text, const char *end)
{
        size_t n = strlen(text), m = strlen(end);

        return n > m && strcmp(text + n - m, end) == 0;
}

/* FNV-1a: it need not be secret, only the same next time. */
void scope_name_for(const Runtime *runtime, const char *prefix, char *ret, size_t size)
{
        uint64_t hash = UINT64_C(0xcbf29ce484222325);

        for (const char *c = runtime->path; *c; c++)
                hash = (hash ^ (unsigned char)*c) * UINT64_C(0x100000001b3);
        (void)snprintf(ret, size, "%.16s%016llx" SCOPE_SUFFIX, prefix, (unsigned long long)hash);
}

static void make_name(Scope *scope, const Runtime *runtime)
{
        scope_name_for(runtime, SCOPE_PREFIX, scope->name, sizeof(scope->name));
}

/* systemd says so to the process that it starts, and that one's children inherit it. It did not always. */
static bool is_main_process(void)
{
        const char *pid = getenv("SYSTEMD_EXEC_PID");

        return !pid || strtol(pid, NULL, 10) == (long)getpid();
}

int scope_find(Scope *ret, const Runtime *runtime)
{
        Scope scope = SCOPE_NULL;
        char mount[PATH_MAX], own[PATH_MAX], manager[32];
        char *slash;

        if (access("/run/systemd/system", F_OK) < 0 || !is_main_process() || cgroup_mount_find(mount) || cgroup_path_of(0, own) ||
                !ends_with(own, ".service"))
                return SCOPE_E_NONE;
        (void)snprintf(scope.service, sizeof(scope.service), "%.255s", last_of(own));
        slash = strrchr(own, '/');
        *slash = '\0'; /* it begins with one */
        (void)snprintf(scope.slice, sizeof(scope.slice), "%.255s", ends_with(own, ".slice") ? last_of(own) : "-.slice");
        (void)snprintf(manager, sizeof(manager), "/user@%u.service", (unsigned)geteuid());
        slash = strstr(own, manager);
        scope.user = slash && (slash[strlen(manager)] == '/' || slash[strlen(manager)] == '\0');
        make_name(&scope, runtime);
        if (strlen(mount) + strlen(own) + sizeof(scope.name) + 2 > sizeof(scope.path))
                return SCOPE_E_NONE;
        (void)snprintf(scope.path, sizeof(scope.path), "%.2000s%.2000s/%s", mount, own, scope.name);
        *ret = scope;
        return 0;
}

/* ---- the holder's cgroup */

/* The scope that a process is in, if it has our name: the service may have moved to another slice meanwhile. */
static int scope_of(Scope *scope, pid_t pid)
{
        char mount[PATH_MAX], path[PATH_MAX];
        int r = cgroup_mount_find(mount);

        if (!r)
                r = cgroup_path_of(pid, path);
        if (r)
                return r;
        if (ends_with(path, "/" HOLDER_CGROUP))
                *strrchr(path, '/') = '\0';
        if (strcmp(last_of(path), scope->name) != 0 || strlen(mount) + strlen(path) >= sizeof(scope->path))
                return -ENOENT;
        (void)snprintf(scope->path, sizeof(scope->path), "%.2000s%.2000s", mount, path);
        return 0;
}

static int open_dir(Scope *scope)
{
        scope->dir_fd = open(scope->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        return scope->dir_fd < 0 ? -errno : 0;
}

/* "0" is the process that writes. */
static int move_to_leaf(const Scope *scope, pid_t pid)
{
        _cleanup_fd_ int leaf = -1;
        char text[16];

        if (mkdirat(scope->dir_fd, HOLDER_CGROUP, 0700) < 0 && errno != EEXIST)
                return -errno;
        leaf = openat(scope->dir_fd, HOLDER_CGROUP, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (leaf < 0)
                return -errno;
        (void)snprintf(text, sizeof(text), "%d", (int)pid);
        return cgroup_write(leaf, "cgroup.procs", text);
}

static bool is_populated(int dir_fd, const char *name)
{
        _cleanup_fd_ int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);

        return fd >= 0 && cgroup_populated(fd) == 1;
}

static bool is_gone(const Scope *scope)
{
        return faccessat(scope->dir_fd, "cgroup.procs", F_OK, 0) < 0 && (errno == ENOENT || errno == ENODEV);
}

/* ---- starting one */

/* In the child, which must only make system calls: what the manager gave to the guard is not for others, nor are its signals and priority. */
static void become_ordinary(void)
{
        static const char *const manager[] = {"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"};
        sigset_t none;

        for (size_t i = 0; i < ELEMENTSOF(manager); i++)
                (void)unsetenv(manager[i]);
        sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        priority_keeper();
}

/*
 * @into: it moves itself into the scope's leaf, before anything else. @fds: its listening socket, its connection to us, its stderr (-1: ours).
 * Standard descriptors, for these every program in between hands on.
 */
static pid_t start(const Scope *scope, bool into, char *const argv[], const int fds[3], int *ret_pidfd)
{
        pid_t pid = fork_pidfd(0, ret_pidfd);
        const char *why;

        if (pid != 0)
                return pid < 0 ? -errno : pid;
        become_ordinary();
        if (into && move_to_leaf(scope, 0))
                _exit(1);
        for (int i = 0; i < 3; i++)
                if (fds[i] >= 0 && dup2(fds[i], i) < 0)
                        _exit(1);
        execvp(argv[0], argv);
        why = strerrordesc_np(errno);
        (void)!write(STDERR_FILENO, argv[0], strlen(argv[0]));
        (void)!write(STDERR_FILENO, ": ", 2);
        (void)!write(STDERR_FILENO, why, strlen(why));
        _exit(127);
}

/* It is ours and failed: nothing of it may go on beside the next one. */
static void put_down(int pidfd)
{
        struct pollfd p = {.fd = pidfd, .events = POLLIN};
        siginfo_t si;

        (void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
        (void)poll(&p, 1, 200); /* longer in the kernel: the guard's loop reaps it */
        (void)waitid(P_PIDFD, (id_t)pidfd, &si, WEXITED | WNOHANG);
}

static int make_pair(int *ret_ours, int *ret_theirs)
{
        int pair[2];

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
                return error_origin(-errno);
        *ret_ours = pair[0];
        *ret_theirs = pair[1];
        return 0;
}

int scope_hold(Scope *scope, const Runtime *runtime)
{
        _cleanup_fd_ int listen = -1, ours = -1, theirs = -1, pidfd = -1;
        char name[] = "/proc/self/exe", role[] = "--role=holder";
        char *argv[] = {name, role, NULL};
        pid_t pid;
        int r;

        if (is_gone(scope))
                return -ENOENT;
        r = make_pair(&ours, &theirs);
        if (!r)
                r = runtime_listen_holder(runtime, &listen);
        if (!r && send_word(ours, HOLDER_HELLO, scope->dir_fd))
                r = -EAGAIN;
        if (r)
                return error_fold(r);
        pid = start(scope, true, argv, (const int[]){listen, theirs, -1}, &pidfd);
        if (pid < 0)
                return error_origin(pid);
        scope->holder_fd = TAKE_FD(ours);
        return 0;
}

/* ---- what is there */

static int connect_holder(const Runtime *runtime, int *ret_fd, pid_t *ret_pid)
{
        _cleanup_fd_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        struct ucred peer;
        socklen_t size = sizeof(peer);

        (void)snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/" RUNTIME_HOLDER, runtime->dir_fd);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                return -errno;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.uid != geteuid())
                return -EPERM;
        *ret_pid = peer.pid;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* Its pid means itself if it answers after that was used: it held the other end all the while. */
static int join_holder(Scope *scope, const Runtime *runtime, nsec_t until)
{
        pid_t pid = 0;
        int r = connect_holder(runtime, &scope->holder_fd, &pid);

        if (!r)
                r = scope_of(scope, pid);
        if (!r)
                r = open_dir(scope);
        if (!r && send_word(scope->holder_fd, HOLDER_HELLO, scope->dir_fd))
                r = -ECONNRESET;
        if (!r)
                r = wait_ready(scope, MIN(until, nsec_add(clock_now(), ANSWER_SPAN)));
        return r;
}

int scope_join(Scope *scope, const Runtime *runtime, nsec_t until)
{
        Scope joined = *scope;
        int r = join_holder(&joined, runtime, until);

        if (r == -ETIMEDOUT) { /* it is there, and so is the scope */
                joined.holder_fd = fd_close(joined.holder_fd);
        } else if (r) {
                scope_done(&joined);
                joined = *scope;
                if (open_dir(&joined) || !is_populated(joined.dir_fd, HOLDER_NODES "/cgroup.events")) {
                        scope_done(&joined);
                        return SCOPE_E_NONE;
                }
        }
        if (r && scope_hold(&joined, runtime) == 0 && wait_ready(&joined, until))
                joined.holder_fd = fd_close(joined.holder_fd); /* the guard tries again; until then somebody else keeps the scope */
        *scope = joined;
        return 0;
}

void scope_restore(Scope *ret, const Runtime *runtime, const char *root)
{
        Scope scope = SCOPE_NULL;
        pid_t pid;

        make_name(&scope, runtime);
        if (strcmp(last_of(root), scope.name) != 0 || faccessat(runtime->dir_fd, RUNTIME_HOLDER, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
                return;
        (void)snprintf(scope.path, sizeof(scope.path), "%.4095s", root);
        if (open_dir(&scope))
                return;
        if (connect_holder(runtime, &scope.holder_fd, &pid) == 0 && send_word(scope.holder_fd, HOLDER_HELLO, scope.dir_fd))
                scope.holder_fd = fd_close(scope.holder_fd);
        *ret = scope;
}

/* ---- a new one */

/* What went wrong, in systemd-run's words: the last line of them. */
static void read_why(int fd, int r, char *ret_why, size_t why_size)
{
        char text[512];
        ssize_t n = read(fd, text, sizeof(text) - 1);
        const char *line = text;

        while (n > 0 && text[n - 1] == '\n')
                n--;
        text[MAX(n, (ssize_t)0)] = '\0';
        for (char *c = text; *c; c++)
                if (*c == '\n')
                        line = c + 1;
        if (r == -ETIMEDOUT)
                (void)snprintf(ret_why, why_size, "systemd-run did not do it in time");
        else
                (void)snprintf(ret_why, why_size, "%.200s", *line ? line : "systemd-run failed");
}

static int make_with(Scope *scope, const Runtime *runtime, char *const argv[], nsec_t until, char *ret_why, size_t why_size)
{
        _cleanup_fd_ int listen = -1, theirs = -1, pidfd = -1, err0 = -1, err1 = -1;
        int pipefd[2], r;
        pid_t pid;

        if (pipe2(pipefd, O_CLOEXEC | O_NONBLOCK) < 0)
                return error_origin(-errno);
        err0 = pipefd[0];
        err1 = pipefd[1];
        r = make_pair(&scope->holder_fd, &theirs);
        if (!r)
                r = runtime_listen_holder(runtime, &listen);
        if (!r && send_word(scope->holder_fd, HOLDER_HELLO, -1))
                r = -EAGAIN;
        if (r)
                return error_fold(r);
        pid = start(scope, false, argv, (const int[]){listen, theirs, err1}, &pidfd);
        if (pid < 0)
                return error_origin(pid);
        theirs = fd_close(theirs); /* so that its end shows */
        r = wait_ready(scope, until);
        if (r)
                read_why(err0, r, ret_why, why_size);
        if (!r) {
                r = scope_of(scope, pid);
                if (!r)
                        r = open_dir(scope);
                if (!r)
                        r = move_to_leaf(scope, pid);
                if (!r)
                        r = send_word(scope->holder_fd, HOLDER_HELLO, scope->dir_fd) ? -ECONNRESET : wait_ready(scope, until);
                if (r)
                        (void)snprintf(ret_why, why_size, "systemd-run made none that could be used (%s)", strerror(-r));
        }
        if (r)
                put_down(pidfd);
        return r;
}

int scope_make(Scope *scope, const Runtime *runtime, const char *program, nsec_t until, char *ret_why, size_t why_size)
{
        char run[] = "systemd-run", user[] = "--user", kind[] = "--scope", quiet[] = "--quiet", collect[] = "--collect", ask[] = "--no-ask-password", p[] = "-p",
             delegate[] = "Delegate=yes", role[] = "--role=holder", end[] = "--";
        char unit[64], slice[NAME_MAX + 16], before[NAME_MAX + 16], description[PATH_MAX + 64], path[PATH_MAX];
        /* Before=: a host that shuts down ends the service first, which ends the nodes in order. */
        char *argv[] = {run, kind, quiet, collect, ask, p, delegate, p, before, unit, slice, description, scope->user ? user : quiet, end, path, role, NULL};
        int r = -ENOENT;

        (void)snprintf(unit, sizeof(unit), "--unit=%s", scope->name);
        (void)snprintf(slice, sizeof(slice), "--slice=%s", scope->slice);
        (void)snprintf(before, sizeof(before), "Before=%s", scope->service);
        (void)snprintf(description, sizeof(description), "--description=Nodes of the Tidegate daemon in %s", runtime->path);
        (void)snprintf(path, sizeof(path), "%.4095s", program ? program : "");
        (void)snprintf(ret_why, why_size, "out of descriptors or processes");
        for (unsigned i = 0;; i++) {
                Scope made = *scope;
                bool old = access(scope->path, F_OK) == 0; /* the last one's, on its way out */

                r = make_with(&made, runtime, argv, until, ret_why, why_size);
                if (!r) {
                        *scope = made;
                        return 0;
                }
                scope_done(&made);
                if (r != -ECONNRESET || (!old && i + 1 >= RETRIES) || nsec_add(clock_now(), RETRY_MS * NSEC_PER_MSEC) >= until)
                        break;
                (void)poll(NULL, 0, RETRY_MS);
        }
        runtime_forget_holder(runtime);
        return r;
}

/* ---- the end */

void scope_end(Scope *scope, const Runtime *runtime, nsec_t until)
{
        _cleanup_fd_ int leaf = -1;
        SweepResult result;

        if (scope->dir_fd < 0)
                return;
        if (scope->holder_fd >= 0 && send_word(scope->holder_fd, HOLDER_END, -1) == 0) {
                nsec_t patience = MIN(until, nsec_add(clock_now(), LEAVE_SPAN));
                int r;

                do { /* an answer to HELLO may lie there yet */
                        r = wait_ready(scope, patience);
                } while (r == 0);
        }
        leaf = openat(scope->dir_fd, HOLDER_CGROUP, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (leaf >= 0) { /* stopped, or another one's company */
                (void)sweep_kill(leaf, until, &result);
                (void)cgroup_remove_tree(scope->dir_fd, HOLDER_CGROUP, until);
        }
        runtime_forget_holder(runtime);
        while (!is_gone(scope) && !is_populated(scope->dir_fd, "cgroup.events") && clock_now() < until)
                (void)poll(NULL, 0, 5);
        scope_done(scope);
}

void scope_done(Scope *scope)
{
        scope->dir_fd = fd_close(scope->dir_fd);
        scope->holder_fd = fd_close(scope->holder_fd);
}
