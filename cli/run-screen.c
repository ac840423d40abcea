/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/run-screen.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/utf8.h"
#include "cli/left.h"

#define SCREEN_BACKLOG_MAX  (OUT_ROOM / 2)
#define SCREEN_FIRST_STATUS NSEC_PER_SEC       /* anything longer says what it waits for */
#define SCREEN_STATUS_EVERY (10 * NSEC_PER_SEC) /* where the line cannot be repainted */
#define SCREEN_NAMES_MAX    5
#define SCREEN_COLUMNS      80 /* of a terminal that does not know */

static const char *const colors[] = {"36", "33", "35", "32", "34", "96", "93", "95", "92", "94"};

/* ---- text */

/* A JSON string of any bytes. */
static json_t *json_text(const char *text)
{
        size_t size = 0;
        _cleanup_free_ char *clean = utf8_clean(text, strlen(text), &size);

        return clean ? json_stringn(clean, size) : NULL;
}

static void put(Screen *screen, const char *text, size_t size)
{
        if (!out_write(screen->out, text, size))
                screen->n_hidden++;
}

static void put_json(Screen *screen, json_t *value)
{
        char *text = value ? json_dumps(value, JSON_COMPACT | JSON_SORT_KEYS) : NULL;

        if (text) {
                size_t n = strlen(text);

                text[n] = '\n';
                put(screen, text, n + 1);
        }
        free(text);
}

void screen_json(Screen *screen, json_t *take_value)
{
        put_json(screen, take_value);
        json_decref(take_value);
}

static void clear_status(Screen *screen)
{
        if (screen->status_shown)
                put(screen, "\r\033[K", 4);
        screen->status_shown = false;
}

static unsigned node_index(const Screen *screen, const char *id)
{
        json_t *nodes = json_object_get(screen->plan, "nodes");

        for (size_t i = 0; i < json_array_size(nodes); i++)
                if (strcmp(json_string_value(json_object_get(json_array_get(nodes, i), "id")), id) == 0)
                        return (unsigned)i;
        return 0;
}

static const char *node_id(const Screen *screen, uint32_t index)
{
        return json_string_value(json_object_get(json_array_get(json_object_get(screen->plan, "nodes"), index), "id")) ?: "?";
}

/* "[id] " in the node's colour. */
static int prefix(const Screen *screen, char *buffer, size_t size, const char *id)
{
        const char *color = colors[node_index(screen, id) % ELEMENTSOF(colors)];

        if (screen->color)
                return snprintf(buffer, size, "\033[%sm[%s]\033[0m ", color, id);
        return snprintf(buffer, size, "[%s] ", id);
}

static void say(Screen *screen, bool failure, const char *text)
{
        _cleanup_free_ char *line = NULL;
        const char *color = failure ? "31" : "2";
        /* On one terminal one way out keeps the order; else its own: an error must not wait behind a megabyte of lines. */
        Out *out = failure && !screen->one_terminal ? screen->err : screen->out;
        int n;

        if (screen->json && !failure) {
                json_t *message = json_pack("{ss so}", "type", "message", "text", json_text(text));

                put_json(screen, message);
                json_decref(message);
                return;
        }
        clear_status(screen);
        if (screen->color && (!failure || screen->one_terminal))
                n = asprintf(&line, "\033[%smtidegate: %s\033[0m\n", color, text);
        else
                n = asprintf(&line, "tidegate: %s\n", text);
        if (n < 0) {
                line = NULL;
                return;
        }
        if (!out_write(out, line, (size_t)n))
                screen->n_hidden++;
}

void screen_say(Screen *screen, bool failure, const char *format, ...)
{
        _cleanup_free_ char *text = NULL;
        va_list ap;
        int n;

        va_start(ap, format);
        n = vasprintf(&text, format, ap);
        va_end(ap);
        if (n < 0) {
                text = NULL;
                return;
        }
        say(screen, failure, text);
}

/* ---- lines of nodes */

static void log_json(Screen *screen, const ScreenLine *line)
{
        json_t *out;

        if (!line->text)
                out = json_pack("{ss ss sI}", "type", "dropped", "node", line->id, "count", (json_int_t)line->count);
        else
                out = json_pack("{ss ss ss sI so}", "type", "log", "node", line->id, "stream", line->stream == 2 ? "stderr" : "stdout",
                        "time_ns", (json_int_t)line->wall_ns, "text", json_text(line->text));
        if (out && line->text && line->count)
                (void)json_object_set_new(out, "truncated_bytes", json_integer((json_int_t)line->count));
        put_json(screen, out);
        json_decref(out);
}

void screen_line(Screen *screen, const ScreenLine *l)
{
        char line[LOG_MSG_TEXT_MAX + 512];
        int n;

        if (screen->json) {
                log_json(screen, l);
                return;
        }
        clear_status(screen);
        n = prefix(screen, line, sizeof(line), l->id);
        if (!l->text)
                n += snprintf(line + n, sizeof(line) - (size_t)n, "(%llu lines not shown: they came faster than they could be written here; see the log file)\n",
                        (unsigned long long)l->count);
        else if (l->count)
                n += snprintf(line + n, sizeof(line) - (size_t)n, "%.*s (line cut: %llu bytes more)\n", LOG_MSG_TEXT_MAX, l->text,
                        (unsigned long long)l->count);
        else
                n += snprintf(line + n, sizeof(line) - (size_t)n, "%.*s\n", LOG_MSG_TEXT_MAX, l->text);
        put(screen, line, MIN((size_t)n, sizeof(line) - 1));
}

void screen_log(Screen *screen, const LogMsg *msg)
{
        screen_line(screen, &(ScreenLine){.id = node_id(screen, msg->node),
                                    .stream = msg->stream,
                                    .wall_ns = msg->wall_ns,
                                    .count = msg->count,
                                    .text = msg->type == LOG_MSG_DROPPED ? NULL : msg->text});
}

/* ---- events */

static const char *text_of(const json_t *object, const char *key)
{
        return json_string_value(json_object_get(object, key)) ?: "";
}

static void node_event(Screen *screen, const json_t *event)
{
        const char *id = text_of(event, "node"), *to = text_of(event, "to"), *error = text_of(event, "error");
        long long line = (long long)json_integer_value(json_object_get(event, "line"));

        (void)json_object_set_new(screen->states, id, json_string(to));
        if (screen->json)
                return;
        if (strcmp(to, "failed") == 0)
                screen_say(screen, true, "node %s (line %lld) failed: %s", id, line, error[0] ? error : "no reason is known");
        else if (strcmp(to, "backoff") == 0)
                screen_say(screen, false, "node %s %s; it will be started again", id, error[0] ? error : "ended");
}

static void ledger_event(Screen *screen, const json_t *event)
{
        const char *rung = text_of(event, "rung"), *node = text_of(event, "node"), *result = text_of(event, "result");
        double at = (double)json_integer_value(json_object_get(event, "at_ms")) / 1000;
        long long count = (long long)json_integer_value(json_object_get(event, "count"));

        if (strcmp(rung, "term") == 0 && count > 0)
                screen_say(screen, false, "+%.1f s: SIGTERM to %lld process%s of %s: %s", at, count, count == 1 ? "" : "es", node, result);
        else if (strcmp(rung, "kill") == 0 && count > 0 && strcmp(result, "sent") == 0)
                screen_say(screen, false, "+%.1f s: SIGKILL to %lld process%s of %s", at, count, count == 1 ? "" : "es", node);
        else if (strcmp(rung, "guard") == 0 && count > 0)
                screen_say(screen, false, "+%.1f s: the guard ended %lld process%s", at, count, count == 1 ? "" : "es");
        else if (strcmp(result, "guard unresponsive") == 0)
                screen_say(screen, true, "+%.1f s: the guard does not answer; the stop goes on without it", at);
}

void screen_phase(Screen *screen, const char *phase, nsec_t now)
{
        if (strcmp(screen->phase, phase) == 0)
                return; /* it goes on */
        (void)snprintf(screen->phase, sizeof(screen->phase), "%s", phase);
        screen->phase_since = now;
        screen->status_at = 0;
}

static void dataflow_event(Screen *screen, const json_t *event, nsec_t now)
{
        screen_phase(screen, text_of(event, "state"), now);
        if (!screen->json && screen->tty && strcmp(screen->phase, "running") == 0)
                screen_say(screen, false, "%s is running", text_of(screen->plan, "name"));
}

void screen_event(Screen *screen, json_t *event, nsec_t now)
{
        const char *type = text_of(event, "type");

        if (screen->json)
                put_json(screen, event);
        if (strcmp(type, "node") == 0)
                node_event(screen, event);
        else if (strcmp(type, "dataflow") == 0)
                dataflow_event(screen, event, now);
        else if (screen->json)
                return;
        else if (strcmp(type, "ledger") == 0)
                ledger_event(screen, event);
        else if (strcmp(type, "note") == 0)
                screen_say(screen, false, "%s%s%s", text_of(event, "node"), text_of(event, "node")[0] ? ": " : "", text_of(event, "text"));
        else if (strcmp(type, "escape-attempt") == 0 || strcmp(type, "why") == 0)
                screen_say(screen, true, "node %s: %s", text_of(event, "node"), text_of(event, "text"));
        else if (strcmp(type, "probe-detached") == 0)
                screen_say(screen, false, "system calls are not counted any more: %s", text_of(event, "text"));
        else if (strcmp(type, "error") == 0 && !json_object_get(event, "node")) /* a node's was told with its state */
                screen_say(screen, true, "%s", text_of(event, "text"));
}

static void left_line(void *userdata, const char *line)
{
        screen_say(userdata, true, "%s", line);
}

void screen_result(Screen *screen, json_t *result)
{
        double seconds = (double)json_integer_value(json_object_get(result, "duration_ms")) / 1000;
        double stop = (double)json_integer_value(json_object_get(result, "stop_ms")) / 1000;
        long long left = (long long)json_integer_value(json_object_get(result, "left"));
        bool success = json_is_true(json_object_get(result, "success"));
        char stopped[64] = "";
        json_t *node;
        size_t i;

        if (screen->json) {
                put_json(screen, result);
                return;
        }
        json_array_foreach(json_object_get(result, "nodes"), i, node)
                left_show(node, text_of(node, "id"), left_line, screen);
        if (stop > 0)
                (void)snprintf(stopped, sizeof(stopped), ", stop took %.2f s", stop);
        screen_say(screen, !success, "%s %s after %.2f s (%zu node%s%s, %lld left)", text_of(result, "name"),
                success ? "succeeded" : "failed", seconds, json_array_size(json_object_get(result, "nodes")),
                json_array_size(json_object_get(result, "nodes")) == 1 ? "" : "s", stopped, left);
}

/* ---- status */

/* Columns of the terminal, less one: a line that fills the last one wraps on some, and a wrapped line cannot be repainted. */
static size_t status_width(const Screen *screen)
{
        struct winsize size = {};

        if (!screen->tty)
                return SIZE_MAX;
        return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1u : SCREEN_COLUMNS - 1;
}

static bool is_waited_for(const Screen *screen, const char *state)
{
        if (strcmp(screen->phase, "starting") == 0)
                return strcmp(state, "running") != 0;
        return strcmp(state, "stopped") != 0 && strcmp(state, "failed") != 0;
}

/* "a, b and 3 more": as many names (ASCII, by the plan's rules) as fit into @width columns, but for one at the least. */
static void waiting_for(const Screen *screen, char *buffer, size_t size, size_t width)
{
        unsigned n = 0, n_shown = 0;
        size_t at = 0;
        const char *id;
        json_t *state;

        json_object_foreach(screen->states, id, state)
                n += is_waited_for(screen, json_string_value(state));
        json_object_foreach(screen->states, id, state) {
                size_t more = strlen(id) + (n_shown ? 2 : 0);

                if (!is_waited_for(screen, json_string_value(state)))
                        continue;
                if (n_shown == SCREEN_NAMES_MAX || (n_shown && at + more + (n > n_shown + 1 ? strlen(" and 9999 more") : 0) > width) ||
                        at + more >= size)
                        break;
                at += (size_t)snprintf(buffer + at, size - at, "%s%s", n_shown ? ", " : "", id);
                n_shown++;
        }
        if (n > n_shown && at < size)
                (void)snprintf(buffer + at, size - at, " and %u more", n - n_shown);
}

static bool phase_waits(const Screen *screen)
{
        return strcmp(screen->phase, "starting") == 0 || strcmp(screen->phase, "stopping") == 0;
}

/* The time comes first: it is what must not be cut. */
static void put_status(Screen *screen, nsec_t now)
{
        char names[1024] = "", line[1200], until[64] = "";
        size_t width = status_width(screen);
        int n;

        if (strcmp(screen->phase, "stopping") == 0 && screen->stop_until != NSEC_NEVER)
                (void)snprintf(until, sizeof(until), ", at most %.0f s more", (double)nsec_left(screen->stop_until, now) / 1e9);
        n = snprintf(line, sizeof(line), "%s%s: waiting for ", screen->phase, until);
        waiting_for(screen, names, sizeof(names), width - MIN(width, (size_t)n + strlen("tidegate: ")));
        (void)snprintf(line + n, sizeof(line) - (size_t)n, "%s", names[0] ? names : "the keeper");
        if (screen->tty) {
                char status[1400];
                int cut = (int)MIN(width - MIN(width, strlen("tidegate: ")), sizeof(line) - 1);

                n = snprintf(status, sizeof(status), "\r\033[K%stidegate: %.*s%s", screen->color ? "\033[2m" : "", cut, line,
                        screen->color ? "\033[0m" : "");
                put(screen, status, MIN((size_t)n, sizeof(status) - 1));
                screen->status_shown = true;
        } else {
                say(screen, false, line);
        }
}

nsec_t screen_tick(Screen *screen, nsec_t now)
{
        nsec_t every = screen->tty ? NSEC_PER_SEC : SCREEN_STATUS_EVERY, due;

        if (screen->json || !phase_waits(screen)) {
                clear_status(screen);
                return NSEC_NEVER;
        }
        due = screen->status_at ? nsec_add(screen->status_at, every) : nsec_add(screen->phase_since, SCREEN_FIRST_STATUS);
        if (now < due)
                return due;
        screen->status_at = now;
        put_status(screen, now);
        return nsec_add(now, every);
}

bool screen_is_full(Screen *screen)
{
        return out_backlog(screen->out) > SCREEN_BACKLOG_MAX;
}

static bool is_one_terminal(void)
{
        struct stat out, err;

        return isatty(STDOUT_FILENO) && isatty(STDERR_FILENO) && fstat(STDOUT_FILENO, &out) == 0 &&
               fstat(STDERR_FILENO, &err) == 0 && out.st_rdev == err.st_rdev;
}

int screen_init(Screen *screen, const json_t *plan, bool json)
{
        const char *term = getenv("TERM");
        json_t *nodes = json_object_get(plan, "nodes");
        int r;

        *screen = (Screen){.json = json, .plan = plan, .tty = isatty(STDOUT_FILENO) && !json, .stop_until = NSEC_NEVER, .states = json_object()};
        screen->color = screen->tty && !getenv("NO_COLOR") && !(term && strcmp(term, "dumb") == 0);
        screen->one_terminal = screen->tty && is_one_terminal();
        if (!screen->states)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < json_array_size(nodes); i++)
                (void)json_object_set_new(screen->states, node_id(screen, (uint32_t)i), json_string("pending"));
        r = out_new(&screen->out, STDOUT_FILENO);
        if (!r)
                r = out_new(&screen->err, STDERR_FILENO);
        return r ? error_fold(r) : 0;
}

void screen_done(Screen *screen, nsec_t deadline)
{
        if (screen->out) {
                clear_status(screen);
                out_finish(screen->out, deadline);
        }
        if (screen->err)
                out_finish(screen->err, deadline);
        json_decref(screen->states);
        *screen = (Screen){};
}
