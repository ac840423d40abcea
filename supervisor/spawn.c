/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "protocol/guard_msg.h"

#define CHILD_STACK_SIZE (64 * 1024)
#define CPU_MASK_BYTES   1024 /* 8192 CPUs */
#define N_SIGNALS 64
#define REGISTER_WAIT_MS 1000 /* for room in the guard's socket, when many start at once */
#define DEFAULT_PATH     "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/*
 * The child runs in our memory on a stack of its own, and leaves its frames by exec or exit: a sanitizer's view of
 * that stack would be wrong ever after, so its code is not instrumented.
 */
#define CHILD_CODE __attribute__((no_sanitize("address", "undefined"), noinline))

typedef struct Child {
        const SpawnPlan *plan;
        SpawnOutcome *outcome;
        struct guard_record record;
        unsigned long cpus[CPU_MASK_BYTES / sizeof(unsigned long)];
        bool drop;
        int pidfd; /* written by clone3, even by one that fails afterwards: only the child itself makes it known */
} Child;

/* The parent's side returns the child's pid or -errno. The child's side calls child_main(child) on the new stack. */
static long clone3_call(struct clone_args *args, void (*child_main)(Child *), Child *child)
{
#if defined(__x86_64__)
        register void *fn __asm__("r8") = (void *)child_main;
        register void *arg __asm__("r9") = child;
        long r;

        __asm__ volatile("syscall\n\t"
                         "test %%rax, %%rax\n\t"
                         "jnz 1f\n\t"
                         "xor %%ebp, %%ebp\n\t"
                         "mov %%r9, %%rdi\n\t"
                         "call *%%r8\n\t"
                         "ud2\n"
                         "1:"
                         : "=a"(r)
                         : "a"((long)SYS_clone3), "D"(args), "S"(sizeof(*args)), "r"(fn), "r"(arg)
                         : "rcx", "r11", "memory", "cc");
        return r;
#elif defined(__aarch64__)
        register long x8 __asm__("x8") = SYS_clone3;
        register long x0 __asm__("x0") = (long)args;
        register long x1 __asm__("x1") = sizeof(*args);
        register void *fn __asm__("x10") = (void *)child_main;
        register void *arg __asm__("x11") = child;

        __asm__ volatile("svc #0\n\t"
                         "cbnz x0, 1f\n\t"
                         "mov x29, xzr\n\t"
                         "mov x30, xzr\n\t"
                         "mov x0, x11\n\t"
                         "blr x10\n\t"
                         "brk #1\n"
                         "1:"
                         : "+r"(x0)
                         : "r"(x8), "r"(x1), "r"(fn), "r"(arg)
                         : "memory", "cc");
        return x0;
#else
#error "clone3 on a stack of its own needs a few lines of assembly for this architecture"
#endif
}

static CHILD_CODE void fail(Child *c, int error)
{
        c->outcome->error = error;
        (void)syscall(SYS_exit_group, 127);
        __builtin_unreachable();
}

static CHILD_CODE void child_main(Child *c);

static CHILD_CODE int child_of_clone(void *child)
{
        child_main(child);
        return 127; /* it does not come back */
}

/* Where a filter says that there is no clone3, as in many containers. It can do nothing about cgroups. */
static long clone_call(void *stack, Child *child)
{
        int r = clone(child_of_clone, (char *)stack + CHILD_STACK_SIZE, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, child, &child->pidfd);

        return r < 0 ? -errno : r;
}

/* Enters a step; a start that was called off ends here. */
static CHILD_CODE void step(Child *c, SpawnStep s)
{
        atomic_store(&c->outcome->step, (int)s);
        if (atomic_load(&c->outcome->cancel))
                fail(c, ECANCELED);
}

static CHILD_CODE void check(Child *c, long r)
{
        if (r < 0)
                fail(c, errno);
}

/*
 * One record with our own pidfd: from here on the guard knows us, so that no kill of the keeper can orphan us
 * unseen.
 */
static CHILD_CODE void register_with_guard(Child *c)
{
        char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))) = {};
        struct iovec iov = {&c->record, sizeof(c->record)};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
                .msg_controllen = sizeof(control)};
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        struct pollfd p = {.fd = c->plan->guard_fd, .events = POLLOUT};
        int pid = (int)syscall(SYS_getpid), pidfd;

        pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        check(c, pidfd);
        c->record.pid = pid;
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int));
        *(int *)(void *)CMSG_DATA(cmsg) = pidfd;
        if (syscall(SYS_sendmsg, c->plan->guard_fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
                return;
        if (errno != EAGAIN)
                fail(c, errno);
        if (poll(&p, 1, REGISTER_WAIT_MS) < 0)
                fail(c, errno);
        check(c, syscall(SYS_sendmsg, c->plan->guard_fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL));
}

/*
 * A session of its own, so that a terminal's Ctrl-C stays with the command; nothing inherited in signals, umask, OOM
 * score.
 */
static CHILD_CODE void reset_session(Child *c)
{
        /* struct sigaction of the kernel, of whatever size: SIG_DFL, no flags, no mask */
        uint64_t default_action[8] = {};
        int fd;

        check(c, syscall(SYS_setsid));
        for (int signo = 1; signo <= N_SIGNALS; signo++)
                if (!(c->plan->default_signals >> (signo - 1) & 1))
                        (void)syscall(SYS_rt_sigaction, signo, default_action, NULL, 8); /* KILL and STOP refuse, rightly */
        (void)umask((mode_t)c->plan->spec->umask);
        if (!c->plan->reset_oom)
                return;
        fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
        check(c, fd);
        /* Raising it is always allowed. A score that a user's service manager gave us and that we may not lower is the node's too. */
        if (write(fd, "0", 1) < 0 && errno != EACCES && errno != EPERM)
                fail(c, errno);
        (void)close(fd);
}

/*
 * Where the cgroups are read-only, and begin at its own. Goes on without: whoever asks is told. The file system's root and
 * working directory are this child's alone, for it was cloned without CLONE_FS.
 */
static CHILD_CODE void confine(Child *c)
{
        if (c->plan->mnt_fd < 0)
                return;
        if (syscall(SYS_setns, c->plan->mnt_fd, CLONE_NEWNS) < 0) {
                c->outcome->confine_error = errno;
                return;
        }
        c->outcome->confined = true;
        (void)syscall(SYS_unshare, CLONE_NEWCGROUP);
}

/* Raw calls: glibc's set*id() would signal the other threads of the memory we share, which are not ours. */
static CHILD_CODE void drop_credentials(Child *c)
{
        (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        if (prctl(PR_GET_SECUREBITS) > 0)
                check(c, prctl(PR_SET_SECUREBITS, 0));
        if (!c->drop)
                return;
        check(c, syscall(SYS_setgroups, (size_t)c->plan->n_groups, c->plan->groups));
        check(c, syscall(SYS_setresgid, c->plan->gid, c->plan->gid, c->plan->gid));
        check(c, syscall(SYS_setresuid, c->plan->uid, c->plan->uid, c->plan->uid));
}

/* After the credentials are dropped: who changes its user while over its limit cannot execute anything. */
static CHILD_CODE void set_limits(Child *c)
{
        struct rlimit64 nofile = {c->plan->spec->nofile_soft, c->plan->spec->nofile_hard}, nproc;
        uint64_t max = c->plan->processes_max;

        check(c, syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &nofile, NULL));
        if (max == 0)
                return;
        check(c, syscall(SYS_prlimit64, 0, RLIMIT_NPROC, NULL, &nproc));
        nproc.rlim_cur = nproc.rlim_cur < max ? nproc.rlim_cur : max;
        nproc.rlim_max = nproc.rlim_max < max ? nproc.rlim_max : max;
        check(c, syscall(SYS_prlimit64, 0, RLIMIT_NPROC, &nproc, NULL));
}

static CHILD_CODE void place_fds(Child *c)
{
        const SpawnPlan *p = c->plan;
        int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

        /* All sources are above 2: the keeper keeps 0 to 2 open for itself. */
        check(c, null_fd);
        check(c, dup2(null_fd, STDIN_FILENO));
        check(c, dup2(p->stdout_fd, STDOUT_FILENO));
        check(c, dup2(p->stderr_fd, STDERR_FILENO));
        if (p->socket_fd == SPAWN_NODE_FD)
                check(c, fcntl(SPAWN_NODE_FD, F_SETFD, 0));
        else if (p->socket_fd >= 0)
                check(c, dup2(p->socket_fd, SPAWN_NODE_FD));
        /*
         * Really closed, not left to exec: a child that hangs in execve must not hold other nodes' pipes or our
         * sockets.
         */
        check(c, syscall(SYS_close_range, p->socket_fd >= 0 ? SPAWN_NODE_FD + 1 : SPAWN_NODE_FD, ~0U, 0));
}

/* The first part of the way to the program that cannot be passed. */
static CHILD_CODE void find_bad_prefix(SpawnOutcome *o)
{
        struct stat st;

        for (size_t i = 1; o->program[i]; i++) {
                if (o->program[i] != '/')
                        continue;
                memcpy(o->prefix, o->program, i);
                o->prefix[i] = '\0';
                if (faccessat(AT_FDCWD, o->prefix, X_OK, 0) < 0)
                        o->prefix_error = errno;
                else if (stat(o->prefix, &st) == 0 && !S_ISDIR(st.st_mode))
                        o->prefix_error = ENOTDIR;
                if (o->prefix_error)
                        return;
        }
}

/*
 * With the caller's credentials and in the child, for the path is the user's: it may hang, and may be none of our
 * business.
 */
static CHILD_CODE void gather_facts(SpawnOutcome *o)
{
        struct stat st;
        struct statfs fs;
        int fd;

        if (stat(o->program, &st) < 0) {
                o->stat_error = errno;
                find_bad_prefix(o);
                return;
        }
        o->mode = st.st_mode;
        if (statfs(o->program, &fs) == 0)
                o->noexec = (fs.f_flags & ST_NOEXEC) != 0;
        if (!S_ISREG(st.st_mode))
                return;
        fd = open(o->program, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        if (fd < 0)
                return;
        o->n_head = (int)read(fd, o->head, sizeof(o->head) - 1);
        if (o->n_head < 0)
                o->n_head = 0;
        (void)close(fd);
}

static CHILD_CODE const char *path_of_env(char *const *env)
{
        for (; *env; env++)
                if (strncmp(*env, "PATH=", 5) == 0)
                        return *env + 5;
        return DEFAULT_PATH;
}

/* outcome->program becomes "<dir>/<name>"; an empty directory is the working directory. 0 or an errno. */
static CHILD_CODE int join_program(SpawnOutcome *o, const char *dir, size_t n_dir, const char *name)
{
        size_t n_name = strlen(name);

        if (n_dir + n_name + 2 > sizeof(o->program))
                return ENAMETOOLONG;
        memcpy(o->program, dir, n_dir);
        if (n_dir > 0)
                o->program[n_dir++] = '/';
        memcpy(o->program + n_dir, name, n_name + 1);
        return 0;
}

static CHILD_CODE int try_exec(Child *c)
{
        (void)syscall(SYS_execve, c->outcome->program, c->plan->spec->argv, c->plan->spec->env);
        return errno;
}

/* As execvp searches, but a file of unknown format is an error and never becomes a shell script by surprise. */
static CHILD_CODE int search_and_exec(Child *c)
{
        const char *name = c->plan->spec->argv[0], *at, *end;
        int error, denied = 0;

        if (strchr(name, '/')) {
                error = join_program(c->outcome, "", 0, name);
                return error ? error : try_exec(c);
        }
        for (at = path_of_env(c->plan->spec->env);; at = end + 1) {
                end = strchrnul(at, ':');
                error = join_program(c->outcome, at, (size_t)(end - at), name);
                if (!error)
                        error = try_exec(c);
                if (error == EACCES)
                        denied = error;
                else if (error != ENOENT && error != ENOTDIR && error != ENAMETOOLONG)
                        return error;
                if (error == ENOENT && access(c->outcome->program, F_OK) == 0)
                        return error; /* found: it is the interpreter that is missing */
                if (!*end)
                        return denied ? denied : error;
        }
}

static CHILD_CODE void child_main(Child *c)
{
        const KeeperSpec *spec = c->plan->spec;
        uint64_t no_signals = 0;
        int error;

        atomic_store(&c->outcome->pidfd, c->pidfd); /* being here proves that it is ours */
        step(c, SPAWN_STEP_REGISTER);
        register_with_guard(c);
        step(c, SPAWN_STEP_SESSION);
        reset_session(c);
        step(c, SPAWN_STEP_AFFINITY);
        if (spec->n_cpus > 0)
                check(c, syscall(SYS_sched_setaffinity, 0, sizeof(c->cpus), c->cpus));
        if (spec->batch) /* a matter of speed: refused, it is as it was */
                (void)syscall(SYS_sched_setscheduler, 0, SCHED_BATCH, &(struct sched_param){});
        step(c, SPAWN_STEP_CREDENTIALS);
        confine(c);
        drop_credentials(c);
        step(c, SPAWN_STEP_CWD);
        check(c, chdir(spec->cwd));
        step(c, SPAWN_STEP_FDS);
        place_fds(c);
        step(c, SPAWN_STEP_LIMITS);
        set_limits(c);
        (void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &no_signals, NULL, 8);
        step(c, SPAWN_STEP_EXEC);
        error = search_and_exec(c);
        c->outcome->error = error; /* said before the facts are gathered, which may hang as well */
        gather_facts(c->outcome);
        fail(c, error);
}

uint64_t spawn_default_signals(void)
{
        uint64_t set = 0, action[8];

        for (int signo = 1; signo <= N_SIGNALS; signo++) {
                memset(action, 0xff, sizeof(action));
                if (syscall(SYS_rt_sigaction, signo, NULL, action, 8) == 0 && action[0] == (uint64_t)(uintptr_t)SIG_DFL)
                        set |= UINT64_C(1) << (signo - 1);
        }
        return set;
}

void spawn_outcome_init(SpawnOutcome *outcome)
{
        *outcome = (SpawnOutcome){};
        atomic_init(&outcome->pidfd, -1);
}

void spawn_cancel(SpawnOutcome *outcome)
{
        int pidfd;

        /* In this order, the reverse of the child's: either the child sees the flag or we see its pidfd. */
        atomic_store(&outcome->cancel, 1);
        pidfd = atomic_load(&outcome->pidfd);
        if (pidfd >= 0 && !atomic_load(&outcome->foreign)) /* what is below a reaper is killed by whoever kills that life */
                (void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
}

static void prepare_child(Child *c, const SpawnPlan *plan, SpawnOutcome *outcome)
{
        const size_t bits = 8 * sizeof(c->cpus[0]);

        *c = (Child){.plan = plan, .outcome = outcome};
        c->record = (struct guard_record){.magic = GUARD_MAGIC,
                .type = GUARD_MSG_CHILD,
                .slot = plan->slot,
                .node = plan->node,
                .generation = plan->generation};
        for (uint32_t i = 0; i < plan->spec->n_cpus; i++)
                c->cpus[plan->spec->cpus[i] / bits] |= 1UL << (plan->spec->cpus[i] % bits);
        c->drop = plan->n_groups > 0 || geteuid() != plan->uid || getuid() != plan->uid || getegid() != plan->gid || getgid() != plan->gid;
}

/* The child has told why it failed: it is exiting. The pidfd stays open: another thread may be about to signal it. */
static void reap(SpawnOutcome *outcome)
{
        siginfo_t si;

        while (waitid(P_PIDFD, (id_t)atomic_load(&outcome->pidfd), &si, WEXITED) < 0 && errno == EINTR)
                continue;
}

int spawn_run(const SpawnPlan *plan, SpawnOutcome *outcome)
{
        Child child;
        struct clone_args args = {
                .flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | (plan->cgroup_fd >= 0 ? CLONE_INTO_CGROUP : 0),
                .pidfd = (uint64_t)(uintptr_t)&child.pidfd,
                .exit_signal = SIGCHLD,
                .stack_size = CHILD_STACK_SIZE,
                .cgroup = plan->cgroup_fd >= 0 ? (uint64_t)plan->cgroup_fd : 0,
        };
        void *stack;
        long r;

        prepare_child(&child, plan, outcome);
        atomic_store(&outcome->step, SPAWN_STEP_CLONE);
        if (atomic_load(&outcome->cancel)) {
                outcome->error = ECANCELED;
                return SPAWN_E_FAILED;
        }
        stack = mmap(NULL, CHILD_STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
        if (stack == MAP_FAILED) {
                outcome->error = errno;
                return SPAWN_E_FAILED;
        }
        args.stack = (uint64_t)(uintptr_t)stack;
        r = clone3_call(&args, child_main, &child);
        if (r == -ENOSYS && plan->cgroup_fd < 0)
                r = clone_call(stack, &child);
        (void)munmap(stack, CHILD_STACK_SIZE);
        if (r < 0) {
                outcome->error = (int)-r;
                return SPAWN_E_FAILED;
        }
        outcome->pid = (pid_t)r;
        atomic_store(&outcome->pidfd, child.pidfd); /* it may have been killed before it could say so */
        if (outcome->error) {
                reap(outcome);
                return SPAWN_E_FAILED;
        }
        return 0;
}
