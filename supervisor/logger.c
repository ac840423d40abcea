/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/logger.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/stdio_null.h"
#include "protocol/log_msg.h"
#include "supervisor/logger-json.h"

#define FEED_SIZE       (sizeof(struct logger_frame) + LOG_LINE_MAX + 64 * 1024)
#define OUT_FLUSH       (64 * 1024)                  /* bytes of lines gathered before they are written */
#define RETRY_OPEN_SPAN (100 * NSEC_PER_MSEC)        /* a directory that cannot be made is not tried for every line */
#define CALM_SPAN       (1 * NSEC_PER_SEC)           /* writing is said to work again when nothing failed for this long */
#define LAST_SECONDS    5                            /* after the feed's end: nobody may be there to kill us */

typedef struct LogFile {
        char *id;
        char *path;
        int fd;
        off_t size;
        uint64_t lost;     /* lines since the last record about it */
        int error;         /* why */
        nsec_t open_again; /* not before */
} LogFile;

typedef struct Logger {
        const LoggerConfig *config;
        LogFile *files; /* by node */
        uint32_t n_files;
        uint8_t *feed;
        size_t n_feed;
        char *out; /* lines of `current` not yet written */
        size_t n_out, out_cap;
        unsigned n_lines;
        uint32_t current;
        uint64_t lost; /* in all */
        bool outage;
        nsec_t failed_at;
} Logger;

__attribute__((format(printf, 2, 3))) static void report(Logger *l, const char *format, ...)
{
        struct logger_report r = {.lost = l->lost};
        va_list ap;

        va_start(ap, format);
        (void)vsnprintf(r.text, sizeof(r.text), format, ap);
        va_end(ap);
        (void)send(l->config->report_fd, &r, sizeof(r), MSG_DONTWAIT | MSG_NOSIGNAL); /* the files say it too */
}

static void lose(Logger *l, LogFile *f, uint64_t n_lines, int error)
{
        f->lost += n_lines;
        f->error = error;
        l->lost += n_lines;
        l->failed_at = clock_now();
        if (l->outage)
                return;
        l->outage = true;
        report(l, "cannot write log file %s: %s; lines are lost and counted until it works again", f->path,
                strerror(error));
}

/* Makes @path's missing directories, from the root on. 0 or -errno. */
static int make_parents(const char *path)
{
        char part[PATH_MAX];
        int error;

        for (size_t i = 1; path[i]; i++) {
                if (path[i] != '/')
                        continue;
                if (i >= sizeof(part))
                        return -ENAMETOOLONG;
                memcpy(part, path, i);
                part[i] = '\0';
                error = mkdir(part, 0777) < 0 ? errno : 0;
                /* A read-only file system says so of a directory that is there, too. */
                if (error && error != EEXIST && access(part, F_OK) < 0)
                        return -error;
        }
        return 0;
}

static int log_file_open(LogFile *f)
{
        struct stat st;
        char last = '\n';
        int fd, r;

        r = make_parents(f->path);
        if (r < 0)
                return r;
        /* O_NONBLOCK: what lies there under that name may be a FIFO. */
        fd = open(f->path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0666);
        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
                fd = fd_close(fd);
                return -EINVAL;
        }
        /* Half a line, left by a crash: end it, so that ours are whole. */
        if (st.st_size > 0 && pread(fd, &last, 1, st.st_size - 1) == 1 && last != '\n' && write(fd, "\n", 1) == 1)
                st.st_size++;
        f->fd = fd;
        f->size = st.st_size;
        return 0;
}

static void close_others(Logger *l, const LogFile *keep)
{
        for (uint32_t i = 0; i < l->n_files; i++)
                if (&l->files[i] != keep && l->files[i].id)
                        l->files[i].fd = fd_close(l->files[i].fd);
}

static int log_file_ensure(Logger *l, LogFile *f)
{
        nsec_t now;
        int r;

        if (f->fd >= 0)
                return 0;
        now = clock_now();
        if (now < f->open_again)
                return -f->error;
        r = log_file_open(f);
        if (r == -EMFILE || r == -ENFILE) {
                close_others(l, f);
                r = log_file_open(f);
        }
        if (r < 0)
                f->open_again = nsec_add(now, RETRY_OPEN_SPAN);
        return r;
}

/*
 * Appends whole lines or nothing of them: what a full disk took of a line is cut off again. Returns how many bytes
 * stayed; *ret_error says why not all.
 */
static size_t log_file_append(LogFile *f, const char *data, size_t size, int *ret_error)
{
        size_t n_done = 0, n_keep;
        const char *end;

        *ret_error = 0;
        while (n_done < size) {
                ssize_t n = write(f->fd, data + n_done, size - n_done);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0) {
                        *ret_error = n < 0 ? errno : EIO;
                        break;
                }
                n_done += (size_t)n;
        }
        end = n_done == size ? data + size : memrchr(data, '\n', n_done);
        n_keep = n_done == size ? size : end ? (size_t)(end + 1 - data) : 0;
        if (n_keep < n_done && ftruncate(f->fd, f->size + (off_t)n_keep) < 0)
                f->fd = fd_close(f->fd); /* opened anew, the half line will be ended */
        f->size += (off_t)n_keep;
        return n_keep;
}

static unsigned count_lines(const char *data, size_t size)
{
        unsigned n = 0;

        for (const char *at = data; (at = memchr(at, '\n', size - (size_t)(at - data))); at++)
                n++;
        return n;
}

/* The first line after an outage: how many are missing before it. */
static int log_file_confess(LogFile *f)
{
        char line[512];
        int error, n;

        if (f->lost == 0)
                return 0;
        n = logger_json_lost(line, sizeof(line), f->id, clock_wall(), f->lost, f->error);
        if (n > 0 && log_file_append(f, line, (size_t)n, &error) == (size_t)n)
                f->lost = 0;
        return f->lost ? -error : 0;
}

static void flush(Logger *l)
{
        LogFile *f = &l->files[l->current];
        size_t n_kept = 0;
        int error = 0, r;

        if (l->n_lines == 0)
                return;
        r = log_file_ensure(l, f);
        if (r == 0)
                r = log_file_confess(f);
        if (r == 0)
                n_kept = log_file_append(f, l->out, l->n_out, &error);
        else
                error = -r;
        if (n_kept < l->n_out)
                lose(l, f, l->n_lines - count_lines(l->out, n_kept), error);
        else if (l->outage && clock_now() - l->failed_at >= CALM_SPAN) {
                l->outage = false;
                report(l, "log files are written again; %llu lines are missing in them", (unsigned long long)l->lost);
        }
        l->n_out = 0;
        l->n_lines = 0;
}

static void add_line(Logger *l, const struct logger_frame *frame, const char *data)
{
        LogFile *f = &l->files[frame->node];
        char *line;
        size_t n;

        if (l->current != frame->node || l->n_out >= OUT_FLUSH)
                flush(l);
        l->current = frame->node;
        line = logger_json_line(f->id, frame->stream, frame->wall_ns, data, frame->size, frame->count, &n);
        if (line && l->n_out + n > l->out_cap) {
                size_t cap = l->n_out + n + OUT_FLUSH;
                char *out = realloc(l->out, cap);

                if (out) {
                        l->out = out;
                        l->out_cap = cap;
                }
        }
        if (!line || l->n_out + n > l->out_cap)
                lose(l, f, 1, ENOMEM);
        else {
                memcpy(l->out + l->n_out, line, n);
                l->n_out += n;
                l->n_lines++;
        }
        free(line);
}

static int add_node(Logger *l, uint32_t node, const char *id, size_t n_id)
{
        LogFile *files;

        if (node >= l->n_files) {
                uint32_t n = node + 1;

                files = realloc(l->files, n * sizeof(*files));
                if (!files)
                        return -ENOMEM;
                for (uint32_t i = l->n_files; i < n; i++)
                        files[i] = (LogFile){.fd = -1};
                l->files = files;
                l->n_files = n;
        }
        if (l->files[node].id)
                return 0;
        l->files[node].id = strndup(id, n_id);
        if (!l->files[node].id ||
                asprintf(&l->files[node].path, "%s/log_%s.jsonl", l->config->log_dir, l->files[node].id) < 0)
                return -ENOMEM;
        return 0;
}

static int handle(Logger *l, const struct logger_frame *frame, const char *data)
{
        LogFile *f;

        if (frame->type == LOGGER_FRAME_NODE)
                return add_node(l, frame->node, data, frame->size);
        if (frame->node >= l->n_files || !l->files[frame->node].id)
                return -EPROTO;
        f = &l->files[frame->node];
        if (frame->type == LOGGER_FRAME_LINE)
                add_line(l, frame, data);
        else if (frame->type == LOGGER_FRAME_LOST) { /* counted by the keeper already: not again in `lost` */
                flush(l);
                f->lost += frame->count;
                f->error = ETIMEDOUT;
        } else
                return -EPROTO;
        return 0;
}

/* Takes every whole frame from the buffer. */
static int digest(Logger *l)
{
        size_t at = 0;
        int r = 0;

        while (!r && l->n_feed - at >= sizeof(struct logger_frame)) {
                struct logger_frame frame;

                memcpy(&frame, l->feed + at, sizeof(frame));
                if (frame.size > LOG_LINE_MAX)
                        return -EPROTO;
                if (l->n_feed - at - sizeof(frame) < frame.size)
                        break;
                r = handle(l, &frame, (const char *)l->feed + at + sizeof(frame));
                at += sizeof(frame) + frame.size;
        }
        memmove(l->feed, l->feed + at, l->n_feed - at);
        l->n_feed -= at;
        return r;
}

/* For nodes that print nothing more after an outage: what is still to confess. */
static void finish(Logger *l)
{
        if (l->n_files > 0)
                flush(l);
        for (uint32_t i = 0; i < l->n_files; i++)
                if (l->files[i].id && l->files[i].lost && log_file_ensure(l, &l->files[i]) == 0)
                        (void)log_file_confess(&l->files[i]);
        if (l->lost > 0)
                report(l, "%llu lines are missing in the log files of %s", (unsigned long long)l->lost,
                        l->config->log_dir);
}

static int loop(Logger *l)
{
        for (;;) {
                ssize_t n = read(l->config->feed_fd, l->feed + l->n_feed, FEED_SIZE - l->n_feed);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : 0;
                l->n_feed += (size_t)n;
                if (digest(l) < 0)
                        return -EPROTO;
                if (l->n_files > 0)
                        flush(l); /* a line that was read is on disk before we wait for the next */
        }
}

/* The keeper may be exempt from the OOM killer; what runs as the caller is not. */
static void reset_oom_score(void)
{
        _cleanup_fd_ int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

        (void)!write(fd, "0", 1); /* cannot fail for a score below 0; 0 stays 0 */
}

static int drop_privileges(const LoggerConfig *c)
{
        if (geteuid() == c->uid && getegid() == c->gid && c->n_groups == 0)
                return 0;
        if (setgroups(c->n_groups, c->groups) < 0 || setresgid(c->gid, c->gid, c->gid) < 0 || setresuid(c->uid, c->uid, c->uid) < 0)
                return -errno;
        return 0;
}

/* Descriptors: 0 to 2 on /dev/null, the feed at 3, the reports at 4, nothing else. */
static int isolate(LoggerConfig *c)
{
        int feed, report_fd, r;

        feed = fcntl(c->feed_fd, F_DUPFD_CLOEXEC, 5);
        report_fd = fcntl(c->report_fd, F_DUPFD_CLOEXEC, 5);
        if (feed < 0 || report_fd < 0)
                return -errno;
        r = stdio_to_null();
        if (r)
                return r;
        if (dup2(feed, 3) < 0 || dup2(report_fd, 4) < 0)
                return -errno;
        c->feed_fd = 3;
        c->report_fd = 4;
        if (close_range(5, ~0U, 0) < 0)
                return -errno;
        (void)setsid(); /* -EPERM when we lead one already */
        (void)prctl(PR_SET_NAME, "tidegate-logger");
        (void)umask(022);
        return 0;
}

static void limit_the_end(void)
{
        sigset_t set;

        (void)signal(SIGALRM, SIG_DFL);
        sigemptyset(&set);
        sigaddset(&set, SIGALRM);
        (void)sigprocmask(SIG_UNBLOCK, &set, NULL);
        (void)alarm(LAST_SECONDS);
}

int logger_main(const LoggerConfig *config)
{
        LoggerConfig c = *config;
        Logger l = {.config = &c, .feed = malloc(FEED_SIZE)};

        if (!l.feed || isolate(&c) < 0)
                return 2;
        reset_oom_score();
        if (drop_privileges(&c) < 0)
                return 2;
        (void)signal(SIGPIPE, SIG_IGN);
        (void)signal(SIGXFSZ, SIG_IGN); /* a file size limit is one more reason not to be able to write */
        (void)loop(&l);
        limit_the_end();
        finish(&l);
        return l.lost > 0;
}
