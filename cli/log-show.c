/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/log-show.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "cli/print.h"

int log_level_rank(const char *level)
{
        static const struct {
                const char *name;
                int rank;
        } levels[] = {{"stdout", 0}, {"trace", 1}, {"debug", 2}, {"info", 3}, {"warn", 4}, {"warning", 4}, {"stderr", 4},
                {"error", 5}};

        for (size_t i = 0; i < ELEMENTSOF(levels); i++)
                if (strcasecmp(level, levels[i].name) == 0)
                        return levels[i].rank;
        return -1;
}

bool log_show_filters(const LogShow *show)
{
        return show->since_ns || show->until_ns || show->level || show->grep;
}

static bool passes(const LogShow *show, const json_t *record, uint64_t wall_ns)
{
        if ((show->since_ns && wall_ns < show->since_ns) || (show->until_ns && wall_ns > show->until_ns))
                return false;
        if (show->level && log_level_rank(json_get_text(record, "level")) < show->level)
                return false;
        return !show->grep || strcasestr(json_get_text(record, "message"), show->grep) ||
               strcasestr(json_get_text(record, "node_id"), show->grep) ||
               strcasestr(json_get_text(record, "target"), show->grep);
}

static void format_time(char *buffer, size_t size, uint64_t wall_ns)
{
        time_t seconds = (time_t)(wall_ns / NSEC_PER_SEC);
        struct tm tm;
        size_t n = localtime_r(&seconds, &tm) ? strftime(buffer, size, "%b %d %H:%M:%S", &tm) : 0;

        (void)snprintf(buffer + n, size - n, ".%03u", (unsigned)(wall_ns / NSEC_PER_MSEC % 1000));
}

static const char *level_color(const char *level)
{
        switch (log_level_rank(level)) {
        case 5:
                return "31";
        case 4:
                return "33";
        default:
                return "2";
        }
}

static char *own_text(const LogShow *show, const char *text)
{
        char *copy = strdup(text);

        return copy && show->tty ? text_tame(copy, true) : copy;
}

static void print_fields(const LogShow *show, const json_t *record)
{
        json_t *fields = json_object_get(record, "fields");
        char *text =
                json_is_object(fields) && json_object_size(fields) ? json_dumps(fields, JSON_COMPACT | JSON_SORT_KEYS) : NULL;

        if (text)
                printf(" %s%s%s", show->color ? "\033[2m" : "", text, show->color ? "\033[0m" : "");
        free(text);
}

static void print_record(const LogShow *show, const json_t *record, uint64_t wall_ns)
{
        const char *level = json_get_text(record, "level"), *node = json_get_text(record, "node_id");
        _cleanup_free_ char *message = own_text(show, json_get_text(record, "message")), *id = own_text(show, node),
                            *tame_level = own_text(show, level);
        char time[64] = "";

        if (!message || !id || !tame_level)
                return;
        if (show->raw && show->name_nodes) {
                printf("[%s] %s", id, message);
        } else if (show->raw) {
                fputs(message, stdout);
        } else {
                if (wall_ns)
                        format_time(time, sizeof(time), wall_ns);
                if (show->color)
                        printf("%s \033[36m[%s]\033[0m \033[%sm%s\033[0m %s", time, id, level_color(level), tame_level,
                                message);
                else
                        printf("%s [%s] %s %s", time, id, tame_level, message);
                print_fields(show, record);
        }
        putchar('\n');
}

static void show_one(const LogShow *show, json_t *take_record, uint64_t wall_ns)
{
        if (show->json)
                (void)print_json_line(take_record);
        else
                print_record(show, take_record, wall_ns);
        json_decref(take_record);
}

void log_show(LogShow *show, json_t *take_record, uint64_t wall_ns)
{
        if (!take_record || !passes(show, take_record, wall_ns)) {
                json_decref(take_record);
                return;
        }
        if (show->n_last == 0) {
                show_one(show, take_record, wall_ns);
                return;
        }
        if (!show->last)
                show->last = calloc(show->n_last, sizeof(json_t *));
        if (!show->last) {
                json_decref(take_record);
                return;
        }
        if (wall_ns) /* kept with its time: it is shown later */
                (void)json_object_set_new(take_record, " ns", json_integer((json_int_t)wall_ns));
        json_decref(show->last[show->head]);
        show->last[show->head] = take_record;
        show->head = (show->head + 1) % show->n_last;
        show->n_kept = MIN(show->n_kept + 1, show->n_last);
}

void log_show_kept(LogShow *show)
{
        for (size_t i = 0; i < show->n_kept; i++) {
                size_t at = (show->head + show->n_last - show->n_kept + i) % show->n_last;
                json_t *record = TAKE_PTR(show->last[at]);
                uint64_t wall_ns = (uint64_t)json_get_number(record, " ns");

                (void)json_object_del(record, " ns");
                show_one(show, record, wall_ns);
        }
        show->n_kept = show->n_last = 0;
}

json_t *log_record(const json_t *line, uint64_t *ret_wall_ns)
{
        long long ms = MAX(json_get_number(line, "time_ms"), 0LL), dropped = json_get_number(line, "dropped");
        json_t *text = json_object_get(line, "line");
        char stamp[64] = "", lost[64];
        time_t seconds = (time_t)(ms / 1000);
        struct tm tm;
        size_t n;

        *ret_wall_ns = (uint64_t)ms * NSEC_PER_MSEC;
        n = gmtime_r(&seconds, &tm) ? strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm) : 0;
        (void)snprintf(stamp + n, sizeof(stamp) - n, ".%03lldZ", ms % 1000);
        (void)snprintf(lost, sizeof(lost), "(%lld lines not shown here: this reader is slow)", dropped);
        return json_pack("{ss ss ss ss}", "timestamp", stamp, "level",
                json_get_number(line, "stream") == 2 ? "stderr" : "stdout", "node_id", json_get_text(line, "node"), "message",
                json_is_string(text) ? json_string_value(text) : lost);
}

void log_show_done(LogShow *show)
{
        for (size_t i = 0; show->last && i < show->n_last; i++)
                json_decref(show->last[i]);
        free(show->last);
        *show = (LogShow){};
}
