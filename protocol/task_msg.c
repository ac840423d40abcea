/* SPDX-License-Identifier: Apache-2.0 */
#include "protocol/task_msg.h"

#include <ctype.h>
#include <string.h>

#include "base/cleanup.h"

_Static_assert(TASK_MSG_MAX >= sizeof(Task) + 64, "the texts with their lengths, and the numbers");

static void put(Wire *w, const Task *t)
{
        wire_put_u32(w, (uint32_t)t->pid);
        wire_put_u32(w, (uint32_t)t->tid);
        wire_put_u8(w, (uint8_t)t->kind);
        wire_put_u8(w, (uint8_t)t->state);
        wire_put_u8(w, t->leader_exited);
        wire_put_u8(w, t->frozen);
        wire_put_u64(w, t->start_time);
        wire_put_u64(w, t->switches);
        wire_put_u64(w, t->age_ns);
        wire_put_u64(w, t->still_ns);
        wire_put_u32(w, (uint32_t)t->call);
        wire_put_u32(w, (uint32_t)t->fd);
        wire_put_u32(w, (uint32_t)t->tracer);
        wire_put_u64(w, t->pending);
        wire_put_u64(w, t->shared_pending);
        wire_put_str(w, t->comm);
        wire_put_str(w, t->tracer_comm);
        wire_put_str(w, t->target);
        wire_put_str(w, t->wchan);
        wire_put_str(w, t->cgroup);
        for (size_t i = 0; i < TASK_STACK_MAX; i++)
                wire_put_str(w, t->stack[i]);
}

bool task_msg_put(Wire *w, const Task *task)
{
        Wire copy = *w;

        put(&copy, task);
        if (copy.bad)
                return false;
        *w = copy;
        return true;
}

static void get_text(Wire *w, char *to, size_t size)
{
        const char *text = wire_get_str(w, size - 1);

        memcpy(to, text, strlen(text) + 1);
}

static bool get_bool(Wire *w)
{
        uint8_t v = wire_get_u8(w);

        w->bad = w->bad || v > 1;
        return v;
}

bool task_msg_get(Wire *w, Task *ret)
{
        Task t = {};
        uint8_t kind;

        if (w->bad || w->at == w->size)
                return false;
        t.pid = (int32_t)wire_get_u32(w);
        t.tid = (int32_t)wire_get_u32(w);
        kind = wire_get_u8(w);
        t.state = (char)wire_get_u8(w);
        t.leader_exited = get_bool(w);
        t.frozen = get_bool(w);
        t.start_time = wire_get_u64(w);
        t.switches = wire_get_u64(w);
        t.age_ns = wire_get_u64(w);
        t.still_ns = wire_get_u64(w);
        t.call = (int32_t)wire_get_u32(w);
        t.fd = (int32_t)wire_get_u32(w);
        t.tracer = (int32_t)wire_get_u32(w);
        t.pending = wire_get_u64(w);
        t.shared_pending = wire_get_u64(w);
        get_text(w, t.comm, sizeof(t.comm));
        get_text(w, t.tracer_comm, sizeof(t.tracer_comm));
        get_text(w, t.target, sizeof(t.target));
        get_text(w, t.wchan, sizeof(t.wchan));
        get_text(w, t.cgroup, sizeof(t.cgroup));
        for (size_t i = 0; i < TASK_STACK_MAX; i++)
                get_text(w, t.stack[i], sizeof(t.stack[i]));
        t.kind = (TaskKind)kind;
        if (w->bad || t.pid <= 0 || t.tid <= 0 || t.tracer < 0 || t.call < -1 || t.fd < -1 || kind == 0 || kind >= _TASK_KIND_MAX ||
                !isalpha((unsigned char)t.state)) {
                w->bad = true;
                return false;
        }
        *ret = t;
        return true;
}
