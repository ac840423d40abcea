/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hungfs DIR - a FUSE file system that takes every question and never answers: whoever asks is in uninterruptible
 * sleep until this process ends. To be mounted in a private mount namespace. Says "ready" when mounted and "asked" at
 * each question. One file, "open", can be opened: whoever reads it, or closes it, is asked to wait for ever.
 */
#define FUSE_USE_VERSION 35
#include <fuse_lowlevel.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define OPEN_INO 2

static void on_init(void *userdata, struct fuse_conn_info *conn)
{
        puts("ready");
        fflush(stdout);
}

static void on_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
        struct stat st = {.st_ino = ino, .st_mode = ino == OPEN_INO ? S_IFREG | 0666 : S_IFDIR | 0777, .st_nlink = 2};

        (void)fuse_reply_attr(req, &st, 1000);
}

static void on_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
        (void)fuse_reply_open(req, fi);
}

static void on_close(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
        puts("asked");
        fflush(stdout);
}

static void on_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
        struct fuse_entry_param entry = {.ino = OPEN_INO, .attr = {.st_ino = OPEN_INO, .st_mode = S_IFREG | 0666, .st_nlink = 1}};

        if (strcmp(name, "open") == 0) {
                (void)fuse_reply_entry(req, &entry);
                return;
        }
        puts("asked");
        fflush(stdout);
}

static void on_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
        puts("asked");
        fflush(stdout);
}

int main(int argc, char **argv)
{
        static const struct fuse_lowlevel_ops ops = {.init = on_init, .getattr = on_getattr, .lookup = on_lookup, .open = on_open, .flush = on_close, .release = on_close, .read = on_read};
        struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
        struct fuse_session *session;

        if (argc != 2 || fuse_opt_add_arg(&args, argv[0]) || fuse_opt_add_arg(&args, "-oallow_other"))
                return 1;
        session = fuse_session_new(&args, &ops, sizeof(ops), NULL);
        if (!session || fuse_session_mount(session, argv[1]) != 0)
                return 2;
        return fuse_session_loop(session);
}
