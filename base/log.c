/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

#define LOG_LINE_MAX 4000

static const char *log_who;
static unsigned long log_n_dropped;

void log_open(const char *who)
{
        log_who = who;
}

/* A pipe that polls writable takes PIPE_BUF bytes at once; a file always does; a terminal held by Ctrl-S does not poll so. */
static bool put(const char *text, size_t size)
{
        struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};

        return poll(&p, 1, 0) == 1 && (p.revents & POLLOUT) && write(STDERR_FILENO, text, size) == (ssize_t)size;
}

static size_t begin_line(char *line, size_t room)
{
        uint64_t wall = clock_wall();
        time_t seconds = (time_t)(wall / NSEC_PER_SEC);
        struct tm tm = {};
        size_t n;

        (void)gmtime_r(&seconds, &tm);
        n = strftime(line, room, "%Y-%m-%dT%H:%M:%S", &tm);
        return n + (size_t)snprintf(line + n, room - n, ".%03uZ %s[%d]: ", (unsigned)(wall / NSEC_PER_MSEC % 1000), log_who, (int)getpid());
}

void log_line(const char *format, ...)
{
        char line[LOG_LINE_MAX + 1];
        size_t n, head;
        va_list ap;
        int r;

        if (!log_who)
                return;
        n = head = begin_line(line, LOG_LINE_MAX);
        if (log_n_dropped > 0)
                n += (size_t)snprintf(line + n, LOG_LINE_MAX - n, "(%lu lines were dropped) ", log_n_dropped);
        va_start(ap, format);
        r = vsnprintf(line + n, LOG_LINE_MAX - n, format, ap);
        va_end(ap);
        n = r < 0 ? n : MIN(n + (size_t)r, (size_t)LOG_LINE_MAX - 1);
        for (size_t i = head; i < n; i++)
                if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
                        line[i] = '?';
        line[n++] = '\n';
        log_n_dropped = put(line, n) ? 0 : log_n_dropped + 1;
}
