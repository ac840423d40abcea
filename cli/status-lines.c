/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/status.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "cli/left.h"
#include "cli/print.h"

#define NAME_WIDTH 30 /* of supervisorctl; scripts look at columns */

const char *node_word(const json_t *node)
{
        static const char *const words[][2] = {{"pending", "PENDING"}, {"starting", "STARTING"}, {"running", "RUNNING"},
                {"stopping", "STOPPING"}, {"backoff", "BACKOFF"}, {"stopped", "STOPPED"}, {"failed", "FAILED"}};

        if (json_is_true(json_object_get(node, "frozen")) &&
                (strcmp(json_get_text(node, "state"), "running") == 0 || strcmp(json_get_text(node, "state"), "starting") == 0))
                return "FROZEN";
        for (size_t i = 0; i < ELEMENTSOF(words); i++)
                if (strcmp(json_get_text(node, "state"), words[i][0]) == 0)
                        return words[i][1];
        return "UNKNOWN";
}

/* "Aug 29 10:47 AM". */
static void format_day(char *buffer, size_t size, long long since_ms)
{
        time_t seconds = (time_t)(wall_ms(since_ms) / 1000);
        struct tm tm;

        if (!localtime_r(&seconds, &tm) || strftime(buffer, size, "%b %d %I:%M %p", &tm) == 0)
                (void)snprintf(buffer, size, "?");
}

static void describe_running(char *buffer, size_t size, const json_t *node)
{
        long long now = now_ms(), since = json_get_number(node, "since_at_ms"),
                  stuck = json_get_number(node, "stuck_since_at_ms");
        const char *cause = json_get_text(json_object_get(node, "why"), "cause"); /* docs/why.md */
        char uptime[64], stuck_for[64];
        int n;

        format_uptime(uptime, sizeof(uptime), since ? now - since : 0);
        n = snprintf(buffer, size, "pid %lld, uptime %s%s", json_get_number(node, "pid"), uptime,
                json_is_true(json_object_get(node, "captured")) ? ", captured" : "");
        if (strcmp(json_get_text(node, "health"), "stuck") != 0 || n < 0 || (size_t)n >= size)
                return;
        format_uptime(stuck_for, sizeof(stuck_for), stuck ? now - stuck : 0);
        (void)snprintf(buffer + n, size - (size_t)n, ", stuck for %s: messages wait, it takes none%s%s%s", stuck_for, cause[0] ? " (" : "", cause, cause[0] ? ")" : "");
}

static void describe_end(char *buffer, size_t size, const json_t *dataflow, const json_t *node)
{
        const json_t *exit_ = json_object_get(node, "exit");
        const char *code = json_get_text(exit_, "code"), *error = json_get_text(node, "error"),
                   *verdict = json_get_text(node, "verdict");
        char summary[128];

        if (verdict[0] && json_is_true(json_object_get(node, "quarantined")))
                (void)snprintf(buffer, size, "quarantined: %s", left_summary(node, summary, sizeof(summary)));
        else if (error[0])
                (void)snprintf(buffer, size, "%s", error);
        else if (strcmp(node_word(node), "STOPPED") == 0 && json_get_number(node, "generation") > 0)
                format_day(buffer, size, json_get_number(node, "since_at_ms"));
        else if (strcmp(code, "exited") == 0)
                (void)snprintf(buffer, size, "Bad exit code %lld", json_get_number(exit_, "status"));
        else if (strcmp(code, "signalled") == 0)
                (void)snprintf(
                        buffer, size, "terminated by SIG%s", sigabbrev_np((int)json_get_number(exit_, "status")) ?: "?");
        else
                (void)snprintf(buffer, size, "Not started%s%s", json_get_text(dataflow, "error")[0] ? ": " : "", json_get_text(dataflow, "error"));
}

/* "memory_max, pids_max": limits that do not hold here. */
static bool unenforced(const json_t *node, char *buffer, size_t size)
{
        json_t *limit;
        size_t i, n = 0;

        buffer[0] = '\0';
        json_array_foreach(json_object_get(node, "limits"), i, limit)
                if (json_is_false(json_object_get(limit, "enforced")) && n < size)
                        n += (size_t)snprintf(buffer + n, size - n, "%s%s", n ? ", " : "", json_get_text(limit, "key"));
        return n > 0;
}

static void describe(char *buffer, size_t size, const json_t *dataflow, const json_t *node)
{
        const char *word = node_word(node);
        char keys[256];

        buffer[0] = '\0';
        if (strcmp(word, "RUNNING") == 0 || (strcmp(word, "FROZEN") == 0 && json_get_number(node, "pid") > 0))
                describe_running(buffer, size, node);
        else if (strcmp(word, "STARTING") != 0 && strcmp(word, "STOPPING") != 0)
                describe_end(buffer, size, dataflow, node);
        if (json_is_true(json_object_get(node, "quarantined")) && !strstr(buffer, "quarantined")) {
                size_t n = strlen(buffer);

                (void)snprintf(buffer + n, size - n, "%squarantined: its cgroup does not empty", n ? "; " : "");
        }
        if (json_object_get(node, "violations")) {
                const json_t *violations = json_object_get(node, "violations");
                size_t n = strlen(buffer);

                (void)snprintf(buffer + n, size - n, "%sbroke the protocol %lld time%s: %s", n ? ", " : "", json_get_number(violations, "count"),
                        json_get_number(violations, "count") == 1 ? "" : "s", json_get_text(violations, "text"));
        }
        if (unenforced(node, keys, sizeof(keys))) {
                size_t n = strlen(buffer);

                (void)snprintf(buffer + n, size - n, "%snot enforced: %s", n ? ", " : "", keys);
        }
        (void)text_tame(buffer, false);
}

static const char *word_color(const char *word, const json_t *node)
{
        if (strcmp(word, "FAILED") == 0)
                return "31";
        if (strcmp(json_get_text(node, "health"), "stuck") == 0 || strcmp(word, "BACKOFF") == 0 || strcmp(word, "FROZEN") == 0)
                return "33";
        return strcmp(word, "RUNNING") == 0 ? "32" : NULL;
}

static int full_name(char *buffer, size_t size, const json_t *dataflow, const json_t *node)
{
        int n = snprintf(buffer, size, "%s:%s", json_get_text(dataflow, "name"), json_get_text(node, "id"));

        (void)text_tame(buffer, false);
        return n < (int)size ? n : (int)size - 1;
}

void status_print_lines(const json_t *dataflows)
{
        const bool color = color_wanted(stdout);
        int width = NAME_WIDTH;
        json_t *dataflow, *node;
        char name[512], text[1024];
        size_t i, k;

        json_array_foreach(dataflows, i, dataflow)
                json_array_foreach(json_object_get(dataflow, "nodes"), k, node)
                        width = MAX(width, full_name(name, sizeof(name), dataflow, node));
        json_array_foreach(dataflows, i, dataflow) {
                json_array_foreach(json_object_get(dataflow, "nodes"), k, node) {
                        const char *word = node_word(node), *tint = color ? word_color(word, node) : NULL;

                        (void)full_name(name, sizeof(name), dataflow, node);
                        describe(text, sizeof(text), dataflow, node);
                        printf("%-*s%s%s%s%-10s%s%s\n", width + 3, name, tint ? "\033[" : "", tint ? tint : "",
                                tint ? "m" : "", word, tint ? "\033[0m" : "", text);
                }
        }
}
