/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/send.h"
#include "supervisor/keeper-internal.h"

typedef struct Report {
        ListLink link;
        int fd;
        size_t size;
        uint8_t data[];
} Report;

static Report *report_free(Report *r)
{
        list_unlink(&r->link);
        r->fd = fd_close(r->fd);
        free(r);
        return NULL;
}

/* 0, or -errno: -EAGAIN when there is no room. */
static int report_send(int socket_fd, const Report *r)
{
        return send_message(socket_fd, r->data, r->size, &r->fd, r->fd >= 0, MSG_DONTWAIT) < 0 ? -errno : 0;
}

void keeper_report_flush(Keeper *k)
{
        Report *r;

        while ((r = list_first(&k->reports, Report, link))) {
                int error = k->supervisor_fd < 0 ? 0 : report_send(k->supervisor_fd, r);

                if (error == -EAGAIN || error == -ENOBUFS || error == -ENOMEM || error == -ETOOMANYREFS)
                        break;
                if (error == -EPIPE || error == -ECONNRESET) {
                        keeper_supervisor_gone(k);
                        return;
                }
                r = report_free(r);
                k->n_reports--;
        }
        /* Orders wait while reports do: whoever does not listen cannot make us pile up answers. */
        keeper_loop_watch(&k->loop, &k->supervisor,
                (k->n_reports < REPORTS_MAX ? EPOLLIN : 0u) | (list_empty(&k->reports) ? 0u : EPOLLOUT));
}

void keeper_report(Keeper *k, const KeeperMsg *msg, int take_fd)
{
        uint8_t data[KEEPER_MSG_MAX];
        int n = keeper_msg_encode(msg, data, sizeof(data));
        Report *r = NULL;

        if (k->supervisor_fd >= 0 && n > 0)
                r = malloc(sizeof(*r) + (size_t)n);
        if (!r && n > 0 && k->supervisor_fd >= 0 && k->persistent)
                _exit(1); /* it would wait for a word that never comes: better that another keeper looks at what is there */
        if (!r) { /* without memory the supervisor's deadlines tell it */
                take_fd = fd_close(take_fd);
                return;
        }
        r->fd = take_fd;
        r->size = (size_t)n;
        memcpy(r->data, data, (size_t)n);
        list_append(&k->reports, &r->link);
        k->n_reports++;
        keeper_report_flush(k);
}

void keeper_note(Keeper *k, const char *format, ...)
{
        char text[2048];
        va_list ap;

        if (k->n_reports >= REPORTS_MAX)
                return;
        va_start(ap, format);
        (void)vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        keeper_report(k, &(KeeperMsg){.type = KEEPER_MSG_NOTE, .note = {text}}, -1);
}

void keeper_reports_done(Keeper *k)
{
        Report *r;

        while ((r = list_first(&k->reports, Report, link)))
                r = report_free(r);
        k->n_reports = 0;
}

void keeper_supervisor_gone(Keeper *k)
{
        if (k->supervisor_fd < 0)
                return;
        keeper_loop_remove(&k->loop, &k->supervisor);
        k->supervisor_fd = fd_close(k->supervisor_fd);
        keeper_reports_done(k);
        keeper_await_supervisor(k);
}
