/* SPDX-License-Identifier: Apache-2.0 */
#include "hung.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "testgroup.h"

bool private_mounts(void)
{
        return unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
                access("/dev/fuse", R_OK | W_OK) == 0;
}

static void wait_for(int fd, const char *word)
{
        char buf[16] = {};
        size_t n = 0;

        while (n < sizeof(buf) - 1 && !memchr(buf, '\n', n)) {
                cr_assert(wait_readable(fd, 20 * NSEC_PER_SEC), "hungfs does not say %s", word);
                cr_assert_eq(read(fd, buf + n, 1), 1);
                n++;
        }
        cr_assert_eq(strncmp(buf, word, strlen(word)), 0, "%s", buf);
}

Hung hung_start(const char *parent_dir)
{
        Hung h = {};
        int in[2], out[2];
        pid_t pid;

        snprintf(h.dir, sizeof(h.dir), "%s/hung", parent_dir);
        cr_assert_eq(mkdir(h.dir, 0755), 0);
        cr_assert(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0);
        pid = fork();
        if (pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* not even a test that crashes leaves somebody hanging */
                (void)dup2(in[0], STDIN_FILENO);
                (void)dup2(out[1], STDOUT_FILENO);
                execl(helper_path("hungfs"), "hungfs", h.dir, NULL);
                _exit(127);
        }
        h.pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        close(in[0]);
        close(out[1]);
        h.in = in[1];
        h.out = out[0];
        wait_for(h.out, "ready");
        return h;
}

void hung_wait_asked(Hung *h)
{
        wait_for(h->out, "asked");
}

pid_t hung_execute(Hung *h)
{
        char path[300];
        pid_t pid = fork();

        cr_assert(pid >= 0);
        if (pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                snprintf(path, sizeof(path), "%s/open", h->dir);
                execl(helper_path("hangexec"), "hangexec", path, NULL);
                _exit(127);
        }
        hung_wait_asked(h);
        return pid;
}

void hung_let_go(Hung *h)
{
        cr_assert_eq(write(h->in, "!", 1), 1);
        wait_for(h->out, "let go");
}

void hung_end(Hung *h)
{
        cr_assert_eq(pidfd_send_signal(h->pidfd, SIGKILL, NULL, 0), 0);
        cr_assert_eq(waitid(P_PIDFD, (id_t)h->pidfd, &(siginfo_t){}, WEXITED), 0);
        close(h->pidfd);
        close(h->in);
        close(h->out);
        cr_assert_eq(umount2(h->dir, MNT_DETACH), 0);
}
