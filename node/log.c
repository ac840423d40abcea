/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tg_log() and the texts of return values. A log line is one JSON object, built whole and written at once, so that
 * lines of several threads do not mix.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/utf8.h"
#include "node/node-internal.h"

static const char *const level_names[] = {
        [TG_LOG_ERROR] = "error",
        [TG_LOG_WARN] = "warn",
        [TG_LOG_INFO] = "info",
        [TG_LOG_DEBUG] = "debug",
        [TG_LOG_TRACE] = "trace",
};

/* Appends @text as the inside of a JSON string; at most 6 bytes for one. */
static char *put_escaped(char *to, const char *text)
{
        size_t left = strlen(text);

        for (const uint8_t *p = (const uint8_t *)text; left > 0;) {
                size_t n = utf8_sequence(p, left);

                if (n == 0) {
                        to = stpcpy(to, "\\ufffd");
                        n = 1;
                } else if (*p == '"' || *p == '\\') {
                        *to++ = '\\';
                        *to++ = (char)*p;
                } else if (*p == '\n') {
                        to = stpcpy(to, "\\n");
                } else if (*p < 0x20 || *p == 0x7f) {
                        to += sprintf(to, "\\u%04x", *p);
                } else {
                        memcpy(to, p, n);
                        to += n;
                }
                p += n;
                left -= n;
        }
        return to;
}

static char *put_time(char *to)
{
        uint64_t now = clock_wall();
        time_t seconds = (time_t)(now / NSEC_PER_SEC);
        struct tm tm;

        (void)gmtime_r(&seconds, &tm);
        to += strftime(to, 32, "%Y-%m-%dT%H:%M:%S", &tm);
        return to + sprintf(to, ".%06uZ", (unsigned)(now % NSEC_PER_SEC / 1000));
}

static int write_all(const char *p, size_t n)
{
        while (n > 0) {
                ssize_t w = write(STDOUT_FILENO, p, n);

                if (w < 0 && errno == EAGAIN) { /* somebody set O_NONBLOCK: block as the contract says */
                        (void)poll(&(struct pollfd){.fd = STDOUT_FILENO, .events = POLLOUT}, 1, -1);
                        continue;
                }
                if (w < 0 && errno != EINTR)
                        return -errno;
                if (w > 0) {
                        p += w;
                        n -= (size_t)w;
                }
        }
        return 0;
}

int tg_log(tg_node *node, tg_log_level level, const char *message)
{
        _cleanup_free_ char *line = NULL;
        char *at;
        int r;

        if (node_forked(node))
                return -EOWNERDEAD;
        if (level < TG_LOG_ERROR || level > TG_LOG_TRACE || !message)
                return error_origin(-EINVAL);
        line = malloc(6 * (strlen(message) + strlen(node->id)) + 160);
        if (!line)
                return error_origin(-ENOMEM);
        at = put_time(stpcpy(line, "{\"timestamp\":\""));
        at = stpcpy(stpcpy(stpcpy(at, "\",\"level\":\""), level_names[level]), "\",\"node_id\":\"");
        at = put_escaped(at, node->id);
        at = put_escaped(stpcpy(at, "\",\"message\":\""), message);
        at = stpcpy(at, "\"}\n");
        lock_take(&node->log_lock);
        r = write_all(line, (size_t)(at - line));
        lock_give(&node->log_lock);
        return r;
}

const char *tg_version(void)
{
        return TIDEGATE_VERSION;
}

const char *tg_strerror(int r)
{
        const char *text;

        switch (r) {
        case 0:
                return "success";
        case TG_E_TIMEOUT:
                return "the timeout passed";
        case TG_E_END:
                return "the event stream has ended";
        case TG_E_NO_OUTPUT:
                return "the descriptor declares no output of that name";
        case TG_E_CLOSED:
                return "the output is closed";
        case TG_E_STOPPING:
                return "the node is stopping";
        case TG_E_NO_PARAM:
                return "no parameter of that name and type";
        case TG_E_DROPPED:
                return "no free chunk in the output's pool";
        case -EMSGSIZE:
                return "larger than what a segment of the output's pool can hold (shared_memory_pool_size), or than metadata may be";
        case -EOWNERDEAD:
                return "the node belongs to the process that this one was forked from";
        case -ENOTCONN:
                return "not started by Tidegate";
        }
        text = r < 0 ? strerrordesc_np(-r) : NULL;
        return text ? text : "unknown error";
}
