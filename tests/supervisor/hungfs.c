/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hungfs DIR - a FUSE file system that takes every question and never answers: whoever asks is in uninterruptible
 * sleep until this process ends. To be mounted in a private mount namespace. Says "ready" when mounted and "asked" at
 * each question. Two files can be opened: "open", whose readers and closers wait for ever, and "mapped", of one page, whose readers do, and those who ask what file system it lies on. "dHEX" are folders: of
 * those who look for something in one folder the first asks, and the others wait for it. At each character of its standard
 * input all who ask are let go, with EIO; it says "let go" then.
 */
#define FUSE_USE_VERSION 35
#include <errno.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define OPEN_INO   2
#define MAPPED_INO 3
#define MAPPED_SIZE 4096
#define HELD_MAX 4096

static fuse_req_t held[HELD_MAX];
static size_t n_held;

static void say(const char *text)
{
        puts(text);
        fflush(stdout);
}

static void hold(fuse_req_t req)
{
        if (n_held == HELD_MAX)
                abort();
        held[n_held++] = req;
        say("asked");
}

static void let_go(void)
{
        while (n_held > 0)
                (void)fuse_reply_err(held[--n_held], EIO);
        say("let go");
}

static void on_init(void *userdata, struct fuse_conn_info *conn)
{
        say("ready");
}

static void on_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
        struct stat st = {.st_ino = ino, .st_mode = ino == OPEN_INO || ino == MAPPED_INO ? S_IFREG | 0666 : S_IFDIR | 0777, .st_nlink = 2};

        st.st_size = ino == MAPPED_INO ? MAPPED_SIZE : 0;

        (void)fuse_reply_attr(req, &st, 1000);
}

static void on_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
        (void)fuse_reply_open(req, fi);
}

static void on_close(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
        if (ino == MAPPED_INO)
                (void)fuse_reply_err(req, 0);
        else
                hold(req);
}

static void on_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
        struct fuse_entry_param entry = {.ino = OPEN_INO, .attr = {.st_ino = OPEN_INO, .st_mode = S_IFREG | 0666, .st_nlink = 1}};

        if (parent == FUSE_ROOT_ID && name[0] == 'd' && strlen(name) <= 16) {
                entry.ino = entry.attr.st_ino = strtoull(name + 1, NULL, 16) | UINT64_C(1) << 62;
                entry.attr.st_mode = S_IFDIR | 0777;
                entry.attr_timeout = entry.entry_timeout = 1000;
        }
        if (parent == FUSE_ROOT_ID && strcmp(name, "mapped") == 0) {
                entry.ino = entry.attr.st_ino = MAPPED_INO;
                entry.attr.st_size = MAPPED_SIZE;
                entry.attr_timeout = 1000;
        }
        if (entry.ino == MAPPED_INO || (parent == FUSE_ROOT_ID && (strcmp(name, "open") == 0 || S_ISDIR(entry.attr.st_mode)))) {
                (void)fuse_reply_entry(req, &entry);
                return;
        }
        hold(req);
}

static void on_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
        hold(req);
}

static void on_statfs(fuse_req_t req, fuse_ino_t ino)
{
        const struct statvfs fs = {.f_namemax = 255};

        if (ino == MAPPED_INO)
                hold(req);
        else
                (void)fuse_reply_statfs(req, &fs);
}

/* fuse_session_loop(), with an ear for who lets go. */
static int serve(struct fuse_session *session)
{
        struct pollfd p[2] = {{.fd = fuse_session_fd(session), .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
        struct fuse_buf buf = {};
        char c;
        int r;

        while (!fuse_session_exited(session)) {
                if (poll(p, 2, -1) < 0 && errno != EINTR)
                        return -errno;
                if (p[1].revents) {
                        if (read(STDIN_FILENO, &c, 1) == 1)
                                let_go();
                        else
                                p[1].fd = -1;
                }
                if (!p[0].revents)
                        continue;
                r = fuse_session_receive_buf(session, &buf);
                if (r > 0)
                        fuse_session_process_buf(session, &buf);
                else if (r != -EINTR && r != -EAGAIN)
                        return r;
        }
        return 0;
}

int main(int argc, char **argv)
{
        static const struct fuse_lowlevel_ops ops = {.init = on_init, .getattr = on_getattr, .lookup = on_lookup, .open = on_open, .flush = on_close, .release = on_close, .read = on_read, .statfs = on_statfs};
        struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
        struct fuse_session *session;

        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* not even a test that is killed leaves somebody hanging */
        if (argc != 2 || fuse_opt_add_arg(&args, argv[0]) || fuse_opt_add_arg(&args, "-oallow_other"))
                return 1;
        session = fuse_session_new(&args, &ops, sizeof(ops), NULL);
        if (!session || fuse_session_mount(session, argv[1]) != 0)
                return 2;
        return serve(session) ? 3 : 0;
}
