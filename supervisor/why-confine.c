/* SPDX-License-Identifier: Apache-2.0 */
/*
 * With which rights stacks are read. Files that others have mapped are opened and parsed for that, by a library that was not made for files that mean
 * harm: it is to find nothing in this process that its author does not have himself. So it has the rights of the dataflow's owner (not those of the process,
 * which may be a program with root's), little memory, and no system call but those that read, and write the report.
 */
#include "supervisor/why.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/seccomp.h"

#define DATA_MAX (512u * 1024 * 1024) /* more than there is */

/* ---- rights */

/* Of root's dataflow: those that a process of it has given itself, and root's where it has them all. */
static bool read_rights(pid_t pid, uid_t *ret_uid, gid_t *ret_gid)
{
        const char *uids, *gids;
        unsigned uid[3], gid[3];
        char text[4096];

        if (!why_slurp(pid, 0, "status", text, sizeof(text)))
                return false;
        uids = strstr(text, "\nUid:");
        gids = strstr(text, "\nGid:");
        if (!uids || !gids || sscanf(uids + 5, "%u %u %u", &uid[0], &uid[1], &uid[2]) != 3 || sscanf(gids + 5, "%u %u %u", &gid[0], &gid[1], &gid[2]) != 3)
                return false;
        *ret_uid = uid[1] ? uid[1] : uid[0] ? uid[0] : uid[2];
        *ret_gid = gid[1];
        return true;
}

/* By system calls: this process has one thread, and nothing of libc's need know. */
static bool become(const Why *why, pid_t pid)
{
        uid_t uid = why->uid;
        gid_t gid = why->gid;

        if (geteuid() != 0)
                return true;
        if (uid == 0 && !read_rights(pid, &uid, &gid))
                return false;
        if (uid == 0)
                return true;
        if (syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresgid, gid, gid, gid) < 0 || syscall(SYS_setresuid, uid, uid, uid) < 0)
                return false;
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* the change has cleared both */
        (void)prctl(PR_SET_DUMPABLE, 0);
        return true;
}

/* ---- memory, processors */

static uint64_t data_now(void)
{
        unsigned long long pages = 0;
        char text[256];

        if (!why_slurp(getpid(), 0, "statm", text, sizeof(text)) || sscanf(text, "%*u %*u %*u %*u %*u %llu", &pages) != 1)
                return 0;
        return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static bool limit(int resource, rlim_t most)
{
        struct rlimit now;

        if (getrlimit((__rlimit_resource_t)resource, &now) < 0)
                return false;
        most = MIN(most, now.rlim_max);
        return setrlimit((__rlimit_resource_t)resource, &(struct rlimit){most, most}) == 0;
}

/* ---- system calls */

#ifdef ARCH

/* The low halves of arguments alone: both are ints. */
#define ALLOW_TO(call, fd) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##call, 0, 4), LOAD(args[0]), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(fd), 0, 1), SAY(SECCOMP_RET_ALLOW), SAY(REFUSE)
#define ALLOW_READING(call, flags) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##call, 0, 4), LOAD(args[flags]), \
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_ACCMODE | O_CREAT | O_TRUNC, 1, 0), SAY(SECCOMP_RET_ALLOW), SAY(REFUSE)

/* What is not among them fails: a library of another version may do without. */
static bool only_read(int out_fd)
{
        struct sock_filter filter[] = {
                SECCOMP_BEGIN,
                ALLOW(read), ALLOW(pread64), ALLOW(process_vm_readv), ALLOW(close), ALLOW(fstat), ALLOW(newfstatat), ALLOW(lseek), ALLOW(getdents64), ALLOW(readlinkat), ALLOW(faccessat),
                ALLOW(mmap), ALLOW(munmap), ALLOW(mprotect), ALLOW(mremap), ALLOW(madvise), ALLOW(brk), ALLOW(futex), ALLOW(getrandom), ALLOW(clock_gettime), ALLOW(getpid),
                ALLOW(gettid), ALLOW(rt_sigprocmask), ALLOW(rt_sigreturn), ALLOW(exit), ALLOW(exit_group), ALLOW_TO(write, out_fd), ALLOW_READING(openat, 2),
#ifdef SYS_open
                ALLOW_READING(open, 1), ALLOW(stat), ALLOW(lstat), ALLOW(readlink), ALLOW(access),
#endif
                SAY(REFUSE),
        };

        return seccomp_install(filter, ELEMENTSOF(filter));
}

#else

static bool only_read(int out_fd)
{
        (void)out_fd;
        return false;
}

#endif

bool why_confine(const Why *why, pid_t pid)
{
        nsec_t left = nsec_left(why->until, clock_now());

        if (!become(why, pid) || !limit(RLIMIT_DATA, data_now() + DATA_MAX) || !limit(RLIMIT_CPU, left / NSEC_PER_SEC + 2) || !limit(RLIMIT_CORE, 0) || !limit(RLIMIT_FSIZE, 0))
                return false;
        return only_read(why->out_fd) || geteuid() != 0; /* a kernel without such filters: it has no more rights than its author then */
}
