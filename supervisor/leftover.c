/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/leftover.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/utf8.h"
#include "protocol/task_msg.h"

#define LINE_SIZE 2048

/* Bytes that came from elsewhere. */
static void set_text(json_t *object, const char *key, const char *text)
{
        _cleanup_free_ char *clean = text[0] ? utf8_clean(text, strlen(text), NULL) : NULL;

        if (clean)
                (void)json_object_set_new(object, key, json_string(clean));
}

static void set_signals(json_t *object, uint64_t mask)
{
        char all[512], *rest = NULL;
        json_t *array = mask ? json_array() : NULL;

        if (!array)
                return;
        (void)task_signals(mask, all, sizeof(all));
        for (const char *name = strtok_r(all, " ", &rest); name; name = strtok_r(NULL, " ", &rest))
                (void)json_array_append_new(array, json_string(name));
        (void)json_object_set_new(object, "pending", array);
}

static void set_stack(json_t *object, const Task *task)
{
        json_t *array = task->stack[0][0] ? json_array() : NULL;

        for (size_t i = 0; array && i < TASK_STACK_MAX && task->stack[i][0]; i++) {
                _cleanup_free_ char *clean = utf8_clean(task->stack[i], strlen(task->stack[i]), NULL);

                (void)json_array_append_new(array, json_string(clean ? clean : "?"));
        }
        if (array)
                (void)json_object_set_new(object, "stack", array);
}

static json_t *describe_task(const Task *task)
{
        char state[2] = {task->state};
        json_t *object = json_pack("{si si ss ss}", "pid", (int)task->pid, "tid", (int)task->tid, "verdict", task_kind_to_string(task->kind), "state", state);
        const char *call = task_call_name(task->call);

        if (!object)
                return NULL;
        set_text(object, "comm", task->comm);
        if (task->age_ns > 0)
                (void)json_object_set_new(object, "age_ms", json_integer((json_int_t)(task->age_ns / NSEC_PER_MSEC)));
        if (task->still_ns > 0)
                (void)json_object_set_new(object, "still_ms", json_integer((json_int_t)(task->still_ns / NSEC_PER_MSEC)));
        if (task->call >= 0)
                (void)json_object_set_new(object, "syscall", call ? json_string(call) : json_sprintf("%d", (int)task->call));
        if (task->fd >= 0)
                (void)json_object_set_new(object, "fd", json_integer(task->fd));
        set_text(object, "target", task->target);
        set_text(object, "wchan", task->wchan);
        set_stack(object, task);
        set_signals(object, task->pending | task->shared_pending);
        if (task->tracer)
                (void)json_object_set_new(object, "tracer", json_integer(task->tracer));
        set_text(object, "tracer_comm", task->tracer_comm);
        (void)json_object_set_new(object, "frozen", json_boolean(task->frozen));
        if (task->leader_exited)
                (void)json_object_set_new(object, "leader_exited", json_true());
        set_text(object, "cgroup", task->cgroup);
        return object;
}

void leftover_take(Leftover *leftover, const KeeperMsg *msg)
{
        Wire wire = wire_init((void *)(uintptr_t)msg->left.tasks, msg->left.tasks_size);
        _cleanup_free_ char *all = NULL;
        char line[LINE_SIZE];
        size_t size = 0;
        Task task;
        FILE *out = open_memstream(&all, &size);

        leftover->n = msg->left.n;
        leftover->kind = (TaskKind)msg->left.kind;
        json_decref(leftover->tasks);
        leftover->tasks = json_array();
        for (uint32_t i = 0; i < msg->left.n_tasks && task_msg_get(&wire, &task); i++) {
                if (leftover->tasks)
                        (void)json_array_append_new(leftover->tasks, describe_task(&task));
                if (out)
                        (void)fprintf(out, "%s%s", i ? "\n" : "", task_line(&task, line, sizeof(line)));
        }
        if (out && msg->left.n > msg->left.n_tasks)
                (void)fprintf(out, "%sand %u more", msg->left.n_tasks ? "\n" : "", msg->left.n - msg->left.n_tasks);
        free(leftover->text);
        leftover->text = out && fclose(out) == 0 && size > 0 ? utf8_clean(all, size, NULL) : NULL;
}

void leftover_done(Leftover *leftover)
{
        free(leftover->text);
        json_decref(leftover->tasks);
        *leftover = (Leftover){};
}

const char *leftover_verdict(const Leftover *leftover)
{
        return leftover->kind ? task_kind_to_string(leftover->kind) : "unknown";
}

const char *leftover_first(const Leftover *leftover, char *buffer, size_t size)
{
        const char *text = leftover->text ? leftover->text : "";

        (void)snprintf(buffer, size, "%.*s", (int)strcspn(text, "\n"), text);
        return buffer;
}

const char *leftover_brief(const Leftover *leftover, char *buffer, size_t size)
{
        char *end;

        (void)leftover_first(leftover, buffer, size);
        end = strstr(buffer, ", wchan ");
        if (end)
                *end = '\0';
        return buffer;
}

void leftover_show(const Leftover *leftover, json_t *object)
{
        (void)json_object_set_new(object, "left_since_at_ms", json_integer((json_int_t)(leftover->since / NSEC_PER_MSEC)));
        (void)json_object_set_new(object, "n_tasks", json_integer(leftover->n));
        if (leftover->tasks)
                (void)json_object_set(object, "tasks", leftover->tasks);
        if (leftover->text)
                (void)json_object_set_new(object, "left", json_string(leftover->text));
}
