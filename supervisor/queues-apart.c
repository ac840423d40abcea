/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/queues-apart.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fork.h"
#include "base/seccomp.h"
#include "bpf/apart.h"
#include "supervisor/nobody.h"

#define READ_SPAN (5 * NSEC_PER_SEC) /* for one file: some kilobytes */
#define SLACK     (2 * NSEC_PER_SEC) /* of who has answered by then, or does not at all */

typedef struct SitesAnswer {
        int32_t error;
        uint32_t n;
        Site sites[SITES_MAX];
} SitesAnswer;

typedef struct CheckAnswer {
        int32_t result; /* of mappers_check() */
        MappersHeld held;
} CheckAnswer;

static int packet_out(int sock, const void *data, size_t size, int fd)
{
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(sizeof(int))];
        } control = {};
        struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

        if (fd >= 0) {
                msg.msg_control = control.space;
                msg.msg_controllen = sizeof(control.space);
                *CMSG_FIRSTHDR(&msg) = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
                memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), &fd, sizeof(int));
        }
        return sendmsg(sock, &msg, MSG_NOSIGNAL) == (ssize_t)size ? 0 : -errno;
}

/* Waits. The bytes that came; 0: the end, or a failure. */
static size_t packet_in(int sock, void *data, size_t size, int *ret_fd)
{
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(sizeof(int))];
        } control;
        struct iovec iov = {.iov_base = data, .iov_len = size};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof(control.space)};
        struct cmsghdr *c;
        ssize_t n;

        *ret_fd = -1;
        do
                n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
        while (n < 0 && errno == EINTR);
        c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
        if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
                memcpy(ret_fd, CMSG_DATA(c), sizeof(int));
        return n > 0 ? (size_t)n : 0;
}

/* ---- the reader of files, each in a child */

static bool only_read_it(void)
{
#ifdef ARCH
        struct sock_filter filter[] = {
                SECCOMP_BEGIN,
                ALLOW(pread64), ALLOW(fstat), ALLOW(newfstatat), ALLOW(fstatfs), ALLOW(mmap), ALLOW(munmap), ALLOW(mremap), ALLOW(madvise), ALLOW(brk), ALLOW(getrandom), ALLOW(exit_group),
                SAY(REFUSE),
        };

        return seccomp_install(filter, ELEMENTSOF(filter));
#else
        return false;
#endif
}

static void read_file(Apart *apart, void *userdata)
{
        SitesAnswer *answer = (SitesAnswer *)(void *)apart->answer;
        const int fd = *(const int *)userdata;
        struct statfs fs;
        size_t n = 0;

        _Static_assert(sizeof(*answer) <= sizeof(apart->answer), "it has room");
        (void)setrlimit(RLIMIT_NPROC, &(struct rlimit){});
        (void)setrlimit(RLIMIT_CPU, &(struct rlimit){4, 4});
        if (!only_read_it())
                answer->error = -EOPNOTSUPP;
        else if (fstatfs(fd, &fs) < 0)
                answer->error = -errno;
        else if (fs.f_type == FUSE_SUPER_MAGIC)
                answer->error = -EREMOTEIO;
        else
                answer->error = sites_find(fd, answer->sites, &n);
        answer->n = (uint32_t)n;
}

/* Until its starter hangs up. */
static void be_reader(int sock)
{
        Apart *apart = apart_new();
        uint8_t byte;
        int fd;

        while (apart && packet_in(sock, &byte, 1, &fd) > 0) {
                SitesAnswer failed = {.error = -EBADF}, *answer = (SitesAnswer *)(void *)apart->answer;
                int r = fd >= 0 ? apart_run(apart, read_file, &fd, READ_SPAN, nsec_add(clock_now(), READ_SPAN)) : -EBADF;

                if (r) {
                        failed.error = r;
                        answer = &failed;
                }
                (void)fd_close(fd);
                if (packet_out(sock, answer, sizeof(*answer), -1))
                        break;
                while (waitpid(-1, NULL, WNOHANG) > 0) {} /* whom nobody could kill has ended at last */
        }
}

/* ---- the asker of processes */

static void be_asker(int sock)
{
        static MappedFile files[MAPPERS_FILES_MAX];
        size_t size;
        int fd;

        while ((size = packet_in(sock, files, sizeof(files), &fd)) > 0) {
                CheckAnswer answer = {};

                (void)fd_close(fd);
                answer.result = mappers_check(files, size / sizeof(files[0]), MAPPERS_ONE_SPAN, nsec_add(clock_now(), MAPPERS_SPAN), &answer.held);
                if (packet_out(sock, &answer, sizeof(answer), -1))
                        break;
                while (waitpid(-1, NULL, WNOHANG) > 0) {}
        }
}

/* ---- for who holds what is attached */

static int start(const char *name, uint32_t capabilities, void (*be)(int sock), int *ret)
{
        const pid_t parent = getpid();
        _cleanup_fd_ int ours = -1, theirs = -1;
        int pair[2];
        pid_t pid;

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return error_origin(-errno);
        ours = pair[0];
        theirs = pair[1];
        pid = fork_pidfd(0, NULL);
        if (pid < 0)
                return error_origin(-errno);
        if (pid == 0) {
                (void)prctl(PR_SET_NAME, name);
                if (dup2(theirs, STDIN_FILENO) < 0 || close_range(STDERR_FILENO + 1, ~0U, 0) < 0 || nobody_become_starter(capabilities) || getppid() != parent)
                        _exit(1);
                be(STDIN_FILENO);
                _exit(0);
        }
        *ret = TAKE_FD(ours);
        return 0;
}

int queues_apart_begin(QueuesApart *ret)
{
        int r;

        *ret = (QueuesApart){.reader = -1, .asker = -1};
        r = start("queues/reader", 0, be_reader, &ret->reader);
        return r ? r : start("queues/asker", CAP_TO_MASK(CAP_SYS_PTRACE) | CAP_TO_MASK(CAP_DAC_OVERRIDE), be_asker, &ret->asker);
}

/* Who does not answer in time is not asked again. 0 or -EPIPE. */
static int ask(int *sock, const void *question, size_t size, int fd, void *answer, size_t answer_size, nsec_t span)
{
        struct pollfd p = {.fd = *sock, .events = POLLIN};
        int nothing;

        if (*sock >= 0 && packet_out(*sock, question, size, fd) == 0 && poll(&p, 1, nsec_poll_ms(nsec_add(clock_now(), span), clock_now())) > 0 &&
                packet_in(*sock, answer, answer_size, &nothing) == answer_size)
                return 0;
        *sock = fd_close(*sock);
        return -EPIPE;
}

/* Whatever the reader says: of the first ones that there are, and within the file. */
static int check_sites(int fd, const SitesAnswer *answer)
{
        struct stat st;

        if (fstat(fd, &st) < 0)
                return error_origin(-errno);
        if (answer->error)
                return answer->error < 0 ? answer->error : -EPROTO;
        if (answer->n > SITES_MAX)
                return -EPROTO;
        for (uint32_t i = 0; i < answer->n; i++)
                if (!site_is_sound(&answer->sites[i], (uint64_t)st.st_size))
                        return -EPROTO;
        return 0;
}

int queues_apart_sites(QueuesApart *apart, int fd, Site ret[static SITES_MAX], size_t *ret_n)
{
        SitesAnswer answer;
        int r = ask(&apart->reader, &(uint8_t){0}, 1, fd, &answer, sizeof(answer), READ_SPAN + SLACK);

        *ret_n = 0;
        if (r == 0)
                r = check_sites(fd, &answer);
        if (r)
                return r;
        memcpy(ret, answer.sites, answer.n * sizeof(*ret));
        *ret_n = answer.n;
        return 0;
}

int queues_apart_check(QueuesApart *apart, const MappedFile *files, size_t n, MappersHeld *ret_held)
{
        CheckAnswer answer;
        int r = ask(&apart->asker, files, n * sizeof(*files), -1, &answer, sizeof(answer), MAPPERS_SPAN + SLACK);

        *ret_held = (MappersHeld){0};
        if (r)
                return r;
        answer.held.name[sizeof(answer.held.name) - 1] = '\0';
        *ret_held = answer.held;
        return answer.result;
}
