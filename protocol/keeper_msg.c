/* SPDX-License-Identifier: Apache-2.0 */
#include "protocol/keeper_msg.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/limit.h"
#include "protocol/guard_msg.h"
#include "protocol/task_msg.h"
#include "protocol/wire.h"

#define UUID_MAX    64
#define NAME_MAX_   256
#define ID_MAX      128
#define ERRNO_MAX   4095
#define CPU_NUM_MAX 8191
#define CPUS_MAX    8192

/* One description of each message serves both directions, so that they cannot drift apart. */
typedef struct Codec {
        Wire w;
        bool writing;
        bool over; /* writing: a value is outside its range, a string over its limit */
} Codec;

static void refuse(Codec *c)
{
        if (c->writing)
                c->over = true;
        else
                c->w.bad = true;
}

static void check(Codec *c, bool ok)
{
        if (!ok)
                refuse(c);
}

static void field_u8(Codec *c, uint8_t *v, uint8_t min, uint8_t max)
{
        if (c->writing)
                wire_put_u8(&c->w, *v);
        else
                *v = wire_get_u8(&c->w);
        check(c, *v >= min && *v <= max);
}

static void field_u32(Codec *c, uint32_t *v)
{
        if (c->writing)
                wire_put_u32(&c->w, *v);
        else
                *v = wire_get_u32(&c->w);
}

static void field_i32(Codec *c, int32_t *v, int32_t min, int32_t max)
{
        uint32_t u = (uint32_t)*v;

        field_u32(c, &u);
        *v = (int32_t)u;
        check(c, *v >= min && *v <= max);
}

static void field_u64(Codec *c, uint64_t *v)
{
        if (c->writing)
                wire_put_u64(&c->w, *v);
        else
                *v = wire_get_u64(&c->w);
}

static void field_str(Codec *c, const char **s, size_t max)
{
        if (!c->writing) {
                *s = wire_get_str(&c->w, max);
                return;
        }
        check(c, !*s || strlen(*s) <= max);
        if (!c->over)
                wire_put_str(&c->w, *s);
}

/* What becomes part of a file name: one component made of letters, digits, '_', '.' and '-'. */
static void field_id(Codec *c, const char **s, size_t max)
{
        static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";

        field_str(c, s, max);
        check(c, *s && **s && (*s)[strspn(*s, allowed)] == '\0');
}

static void field_path(Codec *c, const char **s, bool may_be_empty)
{
        field_str(c, s, KEEPER_MSG_PATH_MAX);
        check(c, *s && ((may_be_empty && !**s) || **s == '/'));
}

static void field_limits(Codec *c, const char **s)
{
        if (c->writing && !*s)
                *s = "";
        field_str(c, s, KEEPER_MSG_LIMITS_MAX);
}

static void field_controllers(Codec *c, uint32_t *v)
{
        field_u32(c, v);
        check(c, (*v & ~(uint32_t)LIMIT_CONTROLLER_ALL) == 0);
}

static void fields_usage(Codec *c, KeeperUsage *u)
{
        uint64_t *const all[] = {&u->memory_peak, &u->oom_kills, &u->oom, &u->forks_refused, &u->n_throttled, &u->throttled_us, &u->n_high};

        for (size_t i = 0; i < ELEMENTSOF(all); i++)
                field_u64(c, all[i]);
}

/* Two bytes, as one number of the wire's. */
static void field_u16(Codec *c, uint16_t *v)
{
        uint32_t u = *v;

        field_u32(c, &u);
        check(c, u <= UINT16_MAX);
        *v = (uint16_t)u;
}

static void fields_measure(Codec *c, KeeperMeasure *m)
{
        field_u64(c, &m->at_ns);
        field_u64(c, &m->cpu_ns);
        field_u64(c, &m->memory);
        field_u64(c, &m->memory_peak);
        field_u64(c, &m->throttled_ns);
        field_u32(c, &m->n_processes);
        field_u32(c, &m->n_threads);
        field_u8(c, &m->summed, 0, 1);
        for (unsigned i = 0; i < _KEEPER_PRESSURE_MAX; i++)
                field_u16(c, &m->pressure[i]);
}

static void fields_sample(Codec *c, KeeperSample *s)
{
        field_u32(c, &s->n_threads);
        field_u32(c, &s->n_outside);
        field_u32(c, &s->n_other);
        field_u32(c, &s->n_unseen);
        field_u32(c, &s->n_calls);
        check(c, s->n_calls <= KEEPER_SAMPLE_CALLS);
        for (uint32_t i = 0; i < s->n_calls && i < KEEPER_SAMPLE_CALLS; i++) {
                field_u32(c, &s->calls[i].number);
                field_u32(c, &s->calls[i].n);
        }
}

static void fields_begin(Codec *c, KeeperMsg *m)
{
        field_id(c, &m->begin.uuid, UUID_MAX);
        check(c, m->begin.uuid && m->begin.uuid[0] != '.');
        field_str(c, &m->begin.name, NAME_MAX_);
        field_path(c, &m->begin.log_dir, true);
        field_u32(c, &m->begin.slot);
        check(c, m->begin.slot != GUARD_SLOT_INSTANCE && m->begin.slot < GUARD_MAX_SLOTS);
        field_u32(c, &m->begin.uid);
        field_u32(c, &m->begin.gid);
        check(c, m->begin.uid != UINT32_MAX && m->begin.gid != UINT32_MAX); /* "leave as it is" to the system calls */
        field_u8(c, &m->begin.has_log_stream, 0, 1);
        field_u8(c, &m->begin.persistent, 0, 1);
        field_u8(c, &m->begin.takeover, 0, 1);
        field_u32(c, &m->begin.n_groups);
        check(c, m->begin.n_groups <= KEEPER_MSG_MAX_GROUPS);
        for (uint32_t i = 0; i < m->begin.n_groups && i < KEEPER_MSG_MAX_GROUPS; i++)
                field_u32(c, &m->begin.groups[i]);
        field_limits(c, &m->begin.limits);
        field_controllers(c, &m->begin.controllers);
        field_u8(c, &m->begin.pressure, 0, 1);
}

static void fields_spawn(Codec *c, KeeperMsg *m)
{
        field_id(c, &m->spawn.id, ID_MAX);
        field_u64(c, &m->spawn.spec_size);
        check(c, m->spawn.spec_size > 0 && m->spawn.spec_size <= KEEPER_SPEC_MAX);
        field_u64(c, &m->spawn.deadline_ns);
        field_u8(c, &m->spawn.has_socket, 0, 1);
        field_u8(c, &m->spawn.cgroup_writable, 0, 1);
        field_limits(c, &m->spawn.limits);
        field_u8(c, &m->spawn.lenient, 0, 1);
}

static void field_cgroup_write(Codec *c, KeeperCgroupWrite *v)
{
        uint8_t value = (uint8_t)*v;

        field_u8(c, &value, KEEPER_CGROUP_WRITE_UNKNOWN, KEEPER_CGROUP_WRITE_POSSIBLE);
        *v = (KeeperCgroupWrite)value;
}

static void fields_spawn_failed(Codec *c, KeeperMsg *m)
{
        uint8_t stage = (uint8_t)m->spawn_failed.stage;

        field_u8(c, &stage, KEEPER_STAGE_CGROUP, KEEPER_STAGE_LAST);
        m->spawn_failed.stage = (KeeperStage)stage;
        field_i32(c, &m->spawn_failed.error, 0, ERRNO_MAX);
        field_str(c, &m->spawn_failed.text, KEEPER_MSG_TEXT_MAX);
}

static void fields_exited(Codec *c, KeeperMsg *m)
{
        field_i32(c, &m->exited.code, 0, CLD_DUMPED);
        field_i32(c, &m->exited.status, 0, 255);
}

static void fields_incarnation(Codec *c, KeeperMsg *m)
{
        uint8_t stage = (uint8_t)m->incarnation.stage;

        field_u64(c, &m->incarnation.asked_ns);
        field_u8(c, &m->incarnation.has_pidfd, 0, 1);
        field_u8(c, &m->incarnation.starting, 0, 1);
        field_u8(c, &m->incarnation.spawned, 0, 1);
        field_u8(c, &m->incarnation.failed, 0, 1);
        field_u8(c, &m->incarnation.exited, 0, 1);
        field_u8(c, &m->incarnation.over, 0, 1);
        field_u8(c, &m->incarnation.removed, 0, 1);
        field_i32(c, &m->incarnation.pid, 0, INT32_MAX);
        field_i32(c, &m->incarnation.code, 0, CLD_DUMPED);
        field_i32(c, &m->incarnation.status, 0, 255);
        field_i32(c, &m->incarnation.error, 0, ERRNO_MAX);
        field_u32(c, &m->incarnation.n_killed);
        field_u64(c, &m->incarnation.killed_at_ns);
        field_u8(c, &stage, 0, KEEPER_STAGE_LAST);
        m->incarnation.stage = (KeeperStage)stage;
        field_cgroup_write(c, &m->incarnation.cgroup_write);
        field_str(c, &m->incarnation.text, KEEPER_MSG_TEXT_MAX);
        field_u8(c, &m->incarnation.frozen, 0, 1);
        field_limits(c, &m->incarnation.refused);
}

/* The tasks are kept as they travel; here it is seen to that they are whole. */
static void fields_left(Codec *c, KeeperMsg *m)
{
        Task task;

        field_u32(c, &m->left.n);
        field_u8(c, &m->left.kind, 0, _TASK_KIND_MAX - 1);
        field_u32(c, &m->left.n_tasks);
        field_u32(c, &m->left.tasks_size);
        check(c, m->left.n_tasks <= m->left.n && m->left.tasks_size <= KEEPER_MSG_TASKS_MAX);
        if (c->writing) {
                wire_put_bytes(&c->w, m->left.tasks, c->over ? 0 : m->left.tasks_size);
        } else if (!c->w.bad && m->left.tasks_size <= c->w.size - c->w.at) {
                Wire tasks = wire_init(c->w.data + c->w.at, m->left.tasks_size);

                for (uint32_t i = 0; i < m->left.n_tasks && !tasks.bad; i++)
                        tasks.bad = !task_msg_get(&tasks, &task);
                m->left.tasks = tasks.data;
                c->w.at += tasks.size;
                check(c, wire_done(&tasks) == 0);
        } else {
                refuse(c);
        }
}

static void fields_order(Codec *c, KeeperMsg *m)
{
        switch (m->type) {
        case KEEPER_MSG_BEGIN:
                fields_begin(c, m);
                break;
        case KEEPER_MSG_SPAWN:
                fields_spawn(c, m);
                break;
        case KEEPER_MSG_CAPTURE:
                field_id(c, &m->capture.id, ID_MAX);
                field_u64(c, &m->capture.deadline_ns);
                field_limits(c, &m->capture.limits);
                field_u8(c, &m->capture.lenient, 0, 1);
                break;
        case KEEPER_MSG_SIGNAL:
                field_i32(c, &m->signal.signo, 1, SIGRTMAX);
                break;
        case KEEPER_MSG_KILL:
                field_u64(c, &m->kill.until_ns);
                break;
        case KEEPER_MSG_LIMIT:
                field_limits(c, &m->limit.limits);
                break;
        case KEEPER_MSG_WHY:
                field_u64(c, &m->why.asked);
                field_u64(c, &m->why.deadline_ns);
                field_u8(c, &m->why.freeze, 0, 1);
                field_u8(c, &m->why.haste, 0, _KEEPER_HASTE_MAX - 1);
                break;
        case KEEPER_MSG_FREEZE:
                field_u8(c, &m->freeze.frozen, 0, 1);
                field_u64(c, &m->freeze.deadline_ns);
                break;
        case KEEPER_MSG_PLACE:
                field_u32(c, &m->place.cpu);
                if (m->place.cpu > KEEPER_MSG_MAX_CPU + 1)
                        refuse(c);
                break;
        case KEEPER_MSG_PRESSURE:
                field_limits(c, &m->pressure.conditions);
                break;
        case KEEPER_MSG_FILES:
                field_u64(c, &m->files.asked_ns);
                break;
        case KEEPER_MSG_MEASURE:
                field_u64(c, &m->measure.asked_ns);
                break;
        case KEEPER_MSG_SAMPLE:
                field_u64(c, &m->sample.asked_ns);
                break;
        case KEEPER_MSG_LOOK:
        case KEEPER_MSG_REAP:
        case KEEPER_MSG_STREAM:
        case KEEPER_MSG_GUARD:
                break;
        case KEEPER_MSG_ASTRAY:
                field_i32(c, &m->astray.pid, 1, INT32_MAX);
                field_u64(c, &m->astray.start_ns);
                field_u8(c, &m->astray.alone, 0, 1);
                field_str(c, &m->astray.comm, NAME_MAX_);
                field_str(c, &m->astray.to, KEEPER_MSG_PATH_MAX);
                break;
        case KEEPER_MSG_RESUME:
                field_u64(c, &m->resume.asked_ns);
                break;
        case KEEPER_MSG_ADOPT:
                field_id(c, &m->adopt.id, ID_MAX);
                field_limits(c, &m->adopt.limits);
                break;
        case KEEPER_MSG_END:
                field_u64(c, &m->end.deadline_ns);
                field_u8(c, &m->end.stay, 0, 1);
                break;
        default:
                refuse(c);
        }
}

static void fields_report(Codec *c, KeeperMsg *m)
{
        switch (m->type) {
        case KEEPER_MSG_BEGUN:
                field_path(c, &m->begun.cgroup, false);
                field_controllers(c, &m->begun.controllers);
                field_limits(c, &m->begun.missing);
                field_limits(c, &m->begun.refused);
                break;
        case KEEPER_MSG_FAILED:
                field_i32(c, &m->failed.error, 0, ERRNO_MAX);
                field_str(c, &m->failed.text, KEEPER_MSG_TEXT_MAX);
                break;
        case KEEPER_MSG_HOME:
                field_u64(c, &m->home.cgroup_id);
                check(c, m->home.cgroup_id > 0);
                break;
        case KEEPER_MSG_SPAWNED:
                field_i32(c, &m->spawned.pid, 1, INT32_MAX);
                field_cgroup_write(c, &m->spawned.cgroup_write);
                break;
        case KEEPER_MSG_SPAWN_FAILED:
                fields_spawn_failed(c, m);
                break;
        case KEEPER_MSG_EXITED:
                fields_exited(c, m);
                break;
        case KEEPER_MSG_EMPTY:
                field_u8(c, &m->empty.removed, 0, 1);
                field_u32(c, &m->empty.n_killed);
                field_u64(c, &m->empty.killed_at_ns);
                break;
        case KEEPER_MSG_SIGNALLED:
        case KEEPER_MSG_KILLING:
                field_u32(c, &m->signalled.n);
                field_i32(c, &m->signalled.error, 0, ERRNO_MAX);
                field_u64(c, &m->signalled.at_ns);
                break;
        case KEEPER_MSG_WHY_SAID:
                field_u64(c, &m->why_said.asked);
                field_i32(c, &m->why_said.error, 0, ERRNO_MAX);
                field_u32(c, &m->why_said.size);
                check(c, (m->why_said.error == 0) == (m->why_said.size > 0));
                break;
        case KEEPER_MSG_LEFT:
                fields_left(c, m);
                break;
        case KEEPER_MSG_ESCAPED:
                field_i32(c, &m->escaped.pid, 1, INT32_MAX);
                field_i32(c, &m->escaped.signo, KEEPER_ESCAPED_GONE, SIGRTMAX);
                field_str(c, &m->escaped.comm, NAME_MAX_);
                field_str(c, &m->escaped.from, KEEPER_MSG_PATH_MAX);
                field_str(c, &m->escaped.to, KEEPER_MSG_PATH_MAX);
                break;
        case KEEPER_MSG_UNSHOWN:
                field_u32(c, &m->unshown.node);
                field_u64(c, &m->unshown.n_lines);
                break;
        case KEEPER_MSG_NOTE:
                field_str(c, &m->note.text, KEEPER_MSG_TEXT_MAX);
                break;
        case KEEPER_MSG_COUNTED:
                field_u32(c, &m->counted.n_processes);
                field_u32(c, &m->counted.n_cgroups);
                break;
        case KEEPER_MSG_ENDED:
                field_u8(c, &m->ended.removed, 0, 1);
                field_u8(c, &m->ended.logged, 0, 1);
                field_u8(c, &m->ended.stays, 0, 1);
                break;
        case KEEPER_MSG_INCARNATION:
                fields_incarnation(c, m);
                break;
        case KEEPER_MSG_RESUMED:
                field_u8(c, &m->resumed.begun, 0, 1);
                field_u8(c, &m->resumed.takeover, 0, 1);
                field_path(c, &m->resumed.cgroup, true);
                field_controllers(c, &m->resumed.controllers);
                field_limits(c, &m->resumed.missing);
                field_limits(c, &m->resumed.refused);
                field_u8(c, &m->resumed.frozen, 0, 1);
                field_u64(c, &m->resumed.asked_ns);
                break;
        case KEEPER_MSG_LIMITED:
                field_i32(c, &m->limited.error, 0, ERRNO_MAX);
                field_limits(c, &m->limited.text);
                break;
        case KEEPER_MSG_FREEZE_DONE:
                field_u8(c, &m->freeze_done.frozen, 0, 1);
                field_i32(c, &m->freeze_done.error, 0, ERRNO_MAX);
                break;
        case KEEPER_MSG_PLACED:
                field_i32(c, &m->placed.error, 0, ERRNO_MAX);
                field_u32(c, &m->placed.n_own);
                break;
        case KEEPER_MSG_PRESSED:
                field_u32(c, &m->pressed.index);
                field_u64(c, &m->pressed.measured);
                field_u64(c, &m->pressed.over_ns);
                field_u16(c, &m->pressed.average);
                break;
        case KEEPER_MSG_UNWATCHED:
                field_limits(c, &m->unwatched.text);
                break;
        case KEEPER_MSG_FILES_SHOWN:
                field_u64(c, &m->files_shown.asked_ns);
                field_u64(c, &m->files_shown.cgroup_id);
                field_i32(c, &m->files_shown.error, 0, ERRNO_MAX);
                check(c, m->files_shown.error || m->files_shown.cgroup_id);
                break;
        case KEEPER_MSG_MEASURED:
                field_u64(c, &m->measured.asked_ns);
                fields_measure(c, &m->measured.measure);
                break;
        case KEEPER_MSG_SAMPLED:
                field_u64(c, &m->sampled.asked_ns);
                fields_sample(c, &m->sampled.sample);
                break;
        case KEEPER_MSG_FROZEN:
                field_u8(c, &m->frozen.frozen, 0, 1);
                break;
        case KEEPER_MSG_USAGE:
                fields_usage(c, &m->usage.usage);
                field_u8(c, &m->usage.again, 0, 1);
                break;
        case KEEPER_MSG_REFUSED:
                field_limits(c, &m->refused.text);
                break;
        default:
                refuse(c);
        }
}

typedef struct TypeInfo {
        const char *name;
        bool known;
        bool has_incarnation; /* node and generation travel */
        bool may_be_all;      /* and may be KEEPER_NODE_ALL, 0 */
} TypeInfo;

static TypeInfo type_info(KeeperMsgType type)
{
        static const TypeInfo infos[] = {
                [KEEPER_MSG_BEGIN] = {"BEGIN", true, false, false},
                [KEEPER_MSG_SPAWN] = {"SPAWN", true, true, false},
                [KEEPER_MSG_SIGNAL] = {"SIGNAL", true, true, true},
                [KEEPER_MSG_KILL] = {"KILL", true, true, true},
                [KEEPER_MSG_LOOK] = {"LOOK", true, true, true},
                [KEEPER_MSG_REAP] = {"REAP", true, true, false},
                [KEEPER_MSG_END] = {"END", true, false, false},
                [KEEPER_MSG_STREAM] = {"STREAM", true, false, false},
                [KEEPER_MSG_RESUME] = {"RESUME", true, false, false},
                [KEEPER_MSG_ASTRAY] = {"ASTRAY", true, true, false},
                [KEEPER_MSG_GUARD] = {"GUARD", true, false, false},
                [KEEPER_MSG_ADOPT] = {"ADOPT", true, true, false},
                [KEEPER_MSG_CAPTURE] = {"CAPTURE", true, true, false},
                [KEEPER_MSG_LIMIT] = {"LIMIT", true, true, true},
                [KEEPER_MSG_FREEZE] = {"FREEZE", true, true, true},
                [KEEPER_MSG_PLACE] = {"PLACE", true, true, false},
                [KEEPER_MSG_PLACED] = {"PLACED", true, true, false},
                [KEEPER_MSG_WHY] = {"WHY", true, true, false},
                [KEEPER_MSG_WHY_SAID] = {"WHY_SAID", true, true, false},
                [KEEPER_MSG_MEASURE] = {"MEASURE", true, false, false},
                [KEEPER_MSG_SAMPLE] = {"SAMPLE", true, false, false},
                [KEEPER_MSG_SAMPLED] = {"SAMPLED", true, true, true},
                [KEEPER_MSG_FILES] = {"FILES", true, false, false},
                [KEEPER_MSG_FILES_SHOWN] = {"FILES_SHOWN", true, false, false},
                [KEEPER_MSG_MEASURED] = {"MEASURED", true, true, true},
                [KEEPER_MSG_PRESSURE] = {"PRESSURE", true, true, true},
                [KEEPER_MSG_PRESSED] = {"PRESSED", true, true, true},
                [KEEPER_MSG_UNWATCHED] = {"UNWATCHED", true, true, true},
                [KEEPER_MSG_LIMITED] = {"LIMITED", true, true, true},
                [KEEPER_MSG_FREEZE_DONE] = {"FREEZE_DONE", true, true, true},
                [KEEPER_MSG_FROZEN] = {"FROZEN", true, true, true},
                [KEEPER_MSG_USAGE] = {"USAGE", true, true, true},
                [KEEPER_MSG_REFUSED] = {"REFUSED", true, true, false},
                [KEEPER_MSG_HOME] = {"HOME", true, true, false},
                [KEEPER_MSG_INCARNATION] = {"INCARNATION", true, true, false},
                [KEEPER_MSG_RESUMED] = {"RESUMED", true, false, false},
                [KEEPER_MSG_BEGUN] = {"BEGUN", true, false, false},
                [KEEPER_MSG_FAILED] = {"FAILED", true, false, false},
                [KEEPER_MSG_SPAWNED] = {"SPAWNED", true, true, false},
                [KEEPER_MSG_SPAWN_FAILED] = {"SPAWN_FAILED", true, true, false},
                [KEEPER_MSG_EXITED] = {"EXITED", true, true, false},
                [KEEPER_MSG_EMPTY] = {"EMPTY", true, true, false},
                [KEEPER_MSG_SIGNALLED] = {"SIGNALLED", true, true, true},
                [KEEPER_MSG_KILLING] = {"KILLING", true, true, true},
                [KEEPER_MSG_LEFT] = {"LEFT", true, true, true},
                [KEEPER_MSG_NOTE] = {"NOTE", true, false, false},
                [KEEPER_MSG_ESCAPED] = {"ESCAPED", true, true, false},
                [KEEPER_MSG_UNSHOWN] = {"UNSHOWN", true, false, false},
                [KEEPER_MSG_COUNTED] = {"COUNTED", true, false, false},
                [KEEPER_MSG_ENDED] = {"ENDED", true, false, false},
        };

        return (unsigned)type < ELEMENTSOF(infos) ? infos[type] : (TypeInfo){};
}

static void fields(Codec *c, KeeperMsg *m)
{
        TypeInfo info = type_info(m->type);

        if (!info.known) {
                refuse(c);
                return;
        }
        if (info.has_incarnation) {
                field_u32(c, &m->node);
                field_u64(c, &m->generation);
                if (m->node == KEEPER_NODE_ALL)
                        check(c, info.may_be_all && m->generation == 0);
                else
                        check(c, m->generation > 0);
        }
        if (keeper_msg_is_order(m->type))
                fields_order(c, m);
        else
                fields_report(c, m);
}

int keeper_msg_encode(const KeeperMsg *msg, void *buffer, size_t size)
{
        Codec c = {.w = wire_init(buffer, MIN(size, (size_t)KEEPER_MSG_MAX)), .writing = true};
        KeeperMsg m = *msg;

        wire_put_u8(&c.w, (uint8_t)m.type);
        fields(&c, &m);
        return c.w.bad || c.over ? -EMSGSIZE : (int)c.w.at;
}

int keeper_msg_decode(KeeperMsg *msg, void *packet, size_t size)
{
        Codec c = {.w = wire_init(packet, size)};
        KeeperMsg m = {};
        int r;

        if (size > KEEPER_MSG_MAX)
                return -EPROTO;
        m.type = (KeeperMsgType)wire_get_u8(&c.w);
        fields(&c, &m);
        r = wire_done(&c.w);
        if (!r)
                *msg = m;
        return r;
}

int keeper_msg_n_fds(const KeeperMsg *msg)
{
        if (!type_info(msg->type).known)
                return -1;
        switch (msg->type) {
        case KEEPER_MSG_BEGIN:
                return msg->begin.has_log_stream ? 1 : 0;
        case KEEPER_MSG_SPAWN:
                return msg->spawn.has_socket ? 6 : 5;
        case KEEPER_MSG_SPAWNED:
        case KEEPER_MSG_GUARD:
        case KEEPER_MSG_STREAM:
        case KEEPER_MSG_CAPTURE:
        case KEEPER_MSG_WHY:
        case KEEPER_MSG_FILES:
                return 1;
        case KEEPER_MSG_WHY_SAID:
                return msg->why_said.size > 0 ? 1 : 0;
        case KEEPER_MSG_ADOPT:
                return 2;
        case KEEPER_MSG_INCARNATION:
                return msg->incarnation.has_pidfd ? 1 : 0;
        default:
                return 0;
        }
}

int keeper_msg_is_order(KeeperMsgType type)
{
        return type >= KEEPER_MSG_BEGIN && type < KEEPER_MSG_BEGUN;
}

const char *keeper_msg_name(KeeperMsgType type)
{
        const char *name = type_info(type).name;

        return name ? name : "?";
}

/* Counting is writing into nothing: sizes add up, bytes go nowhere. */
typedef struct Count {
        Wire w;
        bool counting;
        uint64_t n;
} Count;

static void count_u32(Count *c, uint32_t v)
{
        c->n += 4;
        if (!c->counting)
                wire_put_u32(&c->w, v);
}

static void count_str(Count *c, const char *s)
{
        c->n += 4 + strlen(s) + 1;
        if (!c->counting)
                wire_put_str(&c->w, s);
}

static void count_strv(Count *c, char **v)
{
        uint32_t n = 0;

        while (v && v[n])
                n++;
        count_u32(c, n);
        for (uint32_t i = 0; i < n; i++)
                count_str(c, v[i]);
}

static void count_u64(Count *c, uint64_t v)
{
        c->n += 8;
        if (!c->counting)
                wire_put_u64(&c->w, v);
}

int64_t keeper_spec_encode(const KeeperSpec *spec, void *buffer, size_t size)
{
        Count c = {.w = wire_init(buffer, MIN(size, (size_t)KEEPER_SPEC_MAX)), .counting = !buffer};

        count_strv(&c, spec->argv);
        count_strv(&c, spec->env);
        count_str(&c, spec->cwd);
        count_u32(&c, spec->n_cpus);
        for (uint32_t i = 0; i < spec->n_cpus; i++)
                count_u32(&c, spec->cpus[i]);
        count_u32(&c, spec->umask);
        count_u32(&c, spec->batch);
        count_u64(&c, spec->nofile_soft);
        count_u64(&c, spec->nofile_hard);
        return c.w.bad || c.n > KEEPER_SPEC_MAX ? -EMSGSIZE : (int64_t)c.n;
}

/* Never allocates more than the message's own length justifies: a string takes five bytes at least. */
static int get_strv(Wire *w, char ***ret)
{
        uint32_t n = wire_get_u32(w);

        if (w->bad || n > (w->size - w->at) / 5)
                return -EPROTO;
        *ret = calloc((size_t)n + 1, sizeof(**ret));
        if (!*ret)
                return -ENOMEM;
        for (uint32_t i = 0; i < n; i++)
                (*ret)[i] = (char *)(uintptr_t)wire_get_str(w, KEEPER_SPEC_MAX);
        return w->bad ? -EPROTO : 0;
}

static int get_cpus(Wire *w, KeeperSpec *spec)
{
        spec->n_cpus = wire_get_u32(w);
        if (w->bad || spec->n_cpus > CPUS_MAX || spec->n_cpus > (w->size - w->at) / 4)
                return -EPROTO;
        if (spec->n_cpus == 0)
                return 0;
        spec->cpus = calloc(spec->n_cpus, sizeof(*spec->cpus));
        if (!spec->cpus)
                return -ENOMEM;
        for (uint32_t i = 0; i < spec->n_cpus; i++) {
                spec->cpus[i] = wire_get_u32(w);
                if (spec->cpus[i] > CPU_NUM_MAX)
                        return -EPROTO;
        }
        return 0;
}

static int get_spec(Wire *w, KeeperSpec *spec)
{
        int r;

        r = get_strv(w, &spec->argv);
        if (r)
                return r;
        r = get_strv(w, &spec->env);
        if (r)
                return r;
        spec->cwd = wire_get_str(w, KEEPER_MSG_PATH_MAX);
        r = get_cpus(w, spec);
        if (r)
                return r;
        spec->umask = wire_get_u32(w);
        spec->batch = wire_get_u32(w);
        spec->nofile_soft = wire_get_u64(w);
        spec->nofile_hard = wire_get_u64(w);
        r = wire_done(w);
        if (r)
                return r;
        if (!spec->argv[0] || !*spec->argv[0] || spec->cwd[0] != '/' || spec->umask > 0777 || spec->batch > 1 ||
                spec->nofile_soft > spec->nofile_hard)
                return -EPROTO;
        return 0;
}

int keeper_spec_decode(KeeperSpec *ret, void *buffer, size_t size)
{
        Wire w = wire_init(buffer, size);
        KeeperSpec spec = {};
        int r;

        if (size > KEEPER_SPEC_MAX)
                return -EPROTO;
        r = get_spec(&w, &spec);
        if (r) {
                keeper_spec_done(&spec);
                return r;
        }
        *ret = spec;
        return 0;
}

void keeper_spec_done(KeeperSpec *spec)
{
        free(spec->argv);
        free(spec->env);
        free(spec->cpus);
        *spec = (KeeperSpec){};
}
