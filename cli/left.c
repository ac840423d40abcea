/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/left.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/task.h"
#include "cli/print.h"

#define COLUMNS      68 /* with the indent, and with "tidegate: " before it: 80 */
#define LABEL_WIDTH  9

typedef struct Block {
        LeftLine line;
        void *userdata;
} Block;

__attribute__((format(printf, 2, 3))) static void put(Block *b, const char *format, ...)
{
        char text[1024];
        va_list ap;

        va_start(ap, format);
        (void)vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        b->line(b->userdata, text_tame(text, false));
}

/* On as many lines as it takes, @first before the first and as many spaces before the others: broken at spaces, and where there are none
 * not at all. */
static void put_wrapped(Block *b, const char *first, const char *value)
{
        int indent = (int)strlen(first);

        while (*value) {
                size_t room = COLUMNS - (size_t)indent, n = strlen(value), at;

                if (n > room) {
                        for (at = room; at > 0 && value[at] != ' '; at--)
                                ;
                        n = at > 0 ? at : strcspn(value, " ");
                }
                put(b, "%-*s%.*s", indent, first, (int)n, value);
                value += n + strspn(value + n, " ");
                first = "";
        }
}

/* "    label    value" */
static void put_field(Block *b, const char *label, const char *value)
{
        char first[32];

        (void)snprintf(first, sizeof(first), "    %-*s", LABEL_WIDTH, label);
        put_wrapped(b, first, value);
}

/* The strings of an array with @between; into @buffer. */
static const char *join(const json_t *array, const char *between, char *buffer, size_t size)
{
        size_t at = 0, i;
        json_t *item;

        buffer[0] = '\0';
        json_array_foreach(array, i, item) {
                int n = snprintf(buffer + at, size - at, "%s%s", i ? between : "", json_string_value(item) ?: "?");

                at = MIN(at + (size_t)MAX(n, 0), size - 1);
        }
        return buffer;
}

static void show_state(Block *b, const json_t *task)
{
        const char *state = json_get_text(task, "state");
        json_t *still = json_object_get(task, "still_ms");
        char text[256], age[64], span[64] = "";

        if (still)
                (void)snprintf(span, sizeof(span), " for %.1f s or more", (double)json_integer_value(still) / 1000);
        format_span(age, sizeof(age), json_get_number(task, "age_ms"));
        if (json_object_get(task, "age_ms"))
                (void)snprintf(text, sizeof(text), "%s (%s)%s, started %s before", task_state_name(state[0]), state, span, age);
        else
                (void)snprintf(text, sizeof(text), "%s (%s)%s", task_state_name(state[0]), state, span);
        put_field(b, "state", text);
}

static void show_call(Block *b, const json_t *task)
{
        const char *target = json_get_text(task, "target");
        json_t *fd = json_object_get(task, "fd");
        char text[512], number[32] = "";

        if (!json_get_text(task, "syscall")[0])
                return;
        if (fd)
                (void)snprintf(number, sizeof(number), " of fd %lld", json_get_number(task, "fd"));
        (void)snprintf(text, sizeof(text), "%s%s%s%s", json_get_text(task, "syscall"), number, target[0] ? ", which is " : "", target);
        put_field(b, "call", text);
}

static void show_task(Block *b, const json_t *task)
{
        long long pid = json_get_number(task, "pid"), tid = json_get_number(task, "tid");
        char text[1024], thread[32] = "";

        if (tid != pid)
                (void)snprintf(thread, sizeof(thread), ", thread %lld", tid);
        put(b, "  pid %lld%s (%s): %s", pid, thread, json_get_text(task, "comm"), json_get_text(task, "verdict"));
        show_state(b, task);
        if (json_is_true(json_object_get(task, "leader_exited")))
                put_field(b, "", "its first thread has exited, others live");
        show_call(b, task);
        put_field(b, "waits in", json_get_text(task, "wchan"));
        put_field(b, "stack", join(json_object_get(task, "stack"), " < ", text, sizeof(text)));
        put_field(b, "pending", join(json_object_get(task, "pending"), " ", text, sizeof(text)));
        if (json_object_get(task, "tracer")) {
                (void)snprintf(text, sizeof(text), "pid %lld (%s)", json_get_number(task, "tracer"), json_get_text(task, "tracer_comm"));
                put_field(b, "tracer", text);
        }
        if (json_is_true(json_object_get(task, "frozen")))
                put_field(b, "freezer", "frozen");
        put_field(b, "cgroup", json_get_text(task, "cgroup"));
}

const char *left_summary(const json_t *node, char *buffer, size_t size)
{
        const char *verdict = json_get_text(node, "verdict");
        long long n = json_get_number(node, "n_tasks");

        (void)snprintf(buffer, size, "%s, %lld task%s left", verdict[0] ? verdict : "unknown", n, n == 1 ? "" : "s");
        return buffer;
}

static void explain(Block *b, const json_t *node)
{
        for (TaskKind kind = 1; kind < _TASK_KIND_MAX; kind++)
                if (strcmp(json_get_text(node, "verdict"), task_kind_to_string(kind)) == 0)
                        put_wrapped(b, "  ", task_kind_explain(kind));
}

void left_show(const json_t *node, const char *name, LeftLine line, void *userdata)
{
        const json_t *tasks = json_object_get(node, "tasks");
        long long n = json_get_number(node, "n_tasks");
        Block b = {line, userdata};
        char text[128];
        json_t *task;
        size_t i;

        if (!json_object_get(node, "n_tasks"))
                return;
        put(&b, "node %s: %s", name, left_summary(node, text, sizeof(text)));
        explain(&b, node);
        if (!tasks && json_get_text(node, "left")[0])
                put_field(&b, "", json_get_text(node, "left"));
        json_array_foreach(tasks, i, task)
                show_task(&b, task);
        if (tasks && n > (long long)json_array_size(tasks))
                put(&b, "  and %lld more", n - (long long)json_array_size(tasks));
}

static void print_line(void *userdata, const char *line)
{
        (void)userdata;
        puts(line);
}

void left_print(const json_t *node, const char *name)
{
        left_show(node, name, print_line, NULL);
}

void left_print_older(const json_t *node, const char *name)
{
        json_t *left;
        size_t i;

        json_array_foreach(json_object_get(node, "leftovers"), i, left) {
                char label[320];

                (void)snprintf(label, sizeof(label), "%s, generation %lld", name, json_get_number(left, "generation"));
                left_print(left, label);
        }
}
