/* SPDX-License-Identifier: Apache-2.0 */
/* tidegate events: what happens from now on, a line an event, until Ctrl-C. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "cli/commands.h"
#include "cli/print.h"
#include "cli/session.h"
#include "cli/table.h"

typedef struct EventsCommand {
        Session session;
        const char *name;
} EventsCommand;

/* "10:47:12.123"; an event without a time of the clock happened now. */
static void format_clock(char *buffer, size_t size, long long at_ms)
{
        long long ms = at_ms > 0 && at_ms <= now_ms() && now_ms() - at_ms < 3600 * 1000
                               ? wall_ms(at_ms)
                               : (long long)(clock_wall() / NSEC_PER_MSEC);
        time_t seconds = (time_t)(ms / 1000);
        struct tm tm;
        size_t n = localtime_r(&seconds, &tm) ? strftime(buffer, size, "%H:%M:%S", &tm) : 0;

        (void)snprintf(buffer + n, size - n, ".%03lld", ms % 1000);
}

static void add(char *buffer, size_t size, const char *before, const char *text)
{
        size_t n = strlen(buffer);

        if (text[0] && n < size)
                (void)snprintf(buffer + n, size - n, "%s%s", before, text);
}

static void print_event(const json_t *event)
{
        static const char *const texts[] = {"rung", "text", "error", "result", "uuid"};
        const char *type = json_get_text(event, "type"), *name = json_get_text(event, "name");
        char time[32], line[2048];

        format_clock(time, sizeof(time), strcmp(type, "ledger") == 0 ? 0 : json_get_number(event, "at_ms"));
        (void)snprintf(line, sizeof(line), "%s %-8s", time, type);
        add(line, sizeof(line), " ", name[0] ? name : json_get_text(event, "dataflow"));
        add(line, sizeof(line), name[0] || json_get_text(event, "dataflow")[0] ? ":" : " ", json_get_text(event, "node"));
        add(line, sizeof(line), " ", json_get_text(event, "from"));
        add(line, sizeof(line), " -> ", json_get_text(event, "to"));
        add(line, sizeof(line), " is ", json_get_text(event, "state"));
        for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                add(line, sizeof(line), " ", json_get_text(event, texts[i]));
        if (json_is_integer(json_object_get(event, "count"))) {
                char count[32];

                (void)snprintf(count, sizeof(count), "%lld", json_get_number(event, "count"));
                add(line, sizeof(line), " ", count);
        }
        puts(text_tame(line, false));
}

static int events(EventsCommand *e)
{
        Reply reply = {};
        int status = 0, r;

        e->session.streaming = true;
        r = session_send(&e->session, "Events", true, e->name ? json_pack("{ss}", "dataflow", e->name) : json_object());
        while (!r && !status && !ferror(stdout)) {
                bool last;

                r = session_next(&e->session, &reply);
                if (r)
                        break;
                last = !reply.continues;
                if (reply.error)
                        status = session_refused(&e->session, &reply);
                else if (json_is_object(json_object_get(reply.parameters, "event")) && e->session.json)
                        (void)print_json_line(json_object_get(reply.parameters, "event"));
                else if (json_is_object(json_object_get(reply.parameters, "event")))
                        print_event(json_object_get(reply.parameters, "event"));
                (void)fflush(stdout);
                reply_done(&reply);
                if (last)
                        break;
        }
        return r ? session_fail(&e->session, r) : status;
}

int cmd_events(int argc, char **argv)
{
        static const struct option options[] = {SESSION_LONG_OPTIONS, {NULL, 0, NULL, 0}};
        EventsCommand e = {.session = SESSION_INIT("events")};
        int status;

        session_begin();
        if (session_getopt(&e.session, argc, argv, "", options) != -1)
                return CLI_USAGE;
        if (argc - optind > 1)
                return usage_error("events", "unexpected argument `%s`", argv[optind + 1]);
        e.name = argv[optind];
        status = session_locate(&e.session);
        if (!status)
                status = events(&e);
        session_done(&e.session);
        return status;
}
