/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/resources.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "supervisor/server.h"
#include "supervisor/show.h"
#include "supervisor/supervisor.h"

/* ---- what holds */

static const PlanLimits *plan_of(const Dataflow *dataflow, const Node *node)
{
        return node ? &node->plan->limits : &dataflow->plan->limits;
}

static Resources *held(Dataflow *dataflow, Node *node)
{
        return node ? &node->resources : &dataflow->resources;
}

static const Resources *held_const(const Dataflow *dataflow, const Node *node)
{
        return node ? &node->resources : &dataflow->resources;
}

static const char *value_of(const Dataflow *dataflow, const Node *node, LimitKey key)
{
        const char *set = held_const(dataflow, node)->values[key];

        return set ? set : plan_of(dataflow, node)->values[key];
}

/* The reason in a text of lines "NAME=reason"; NULL: none. Not terminated: up to the line's end. */
static const char *line_of(const char *text, const char *name, size_t *ret_n)
{
        size_t n = strlen(name);

        for (const char *at = text; at && *at; at = (at = strchr(at, '\n')) ? at + 1 : NULL)
                if (strncmp(at, name, n) == 0 && at[n] == '=') {
                        *ret_n = strcspn(at + n + 1, "\n");
                        return at + n + 1;
                }
        return NULL;
}

void resources_done(Resources *resources)
{
        for (unsigned i = 0; i < _LIMIT_KEY_MAX; i++)
                free(resources->values[i]);
        free(resources->refused);
        free(resources->pending);
        *resources = (Resources){};
}

void resources_begin(Resources *resources)
{
        free(resources->refused);
        free(resources->pending);
        resources->refused = resources->pending = NULL;
        resources->usage = (KeeperUsage){};
        resources->frozen = resources->freezing = false;
}

const char *resources_text(const Dataflow *dataflow, const Node *node, char ret[static KEEPER_MSG_LIMITS_MAX + 1])
{
        size_t n = 0;

        ret[0] = '\0';
        for (unsigned i = 0; i < _LIMIT_KEY_MAX; i++) {
                const char *value = value_of(dataflow, node, i);
                size_t more = value ? strlen(limit_name(i)) + strlen(value) + 2 : 0;

                if (!value || n + more > KEEPER_MSG_LIMITS_MAX)
                        continue;
                (void)snprintf(ret + n, KEEPER_MSG_LIMITS_MAX + 1 - n, "%s=%s\n", limit_name(i), value);
                n += more;
        }
        return ret;
}
_Static_assert(LIMIT_TEXT_MAX <= KEEPER_MSG_LIMITS_MAX, "all limits of a node find room");

static uint32_t controllers_of(const Dataflow *dataflow, const Node *node)
{
        uint32_t all = 0;

        for (unsigned i = 0; i < _LIMIT_KEY_MAX; i++)
                if (value_of(dataflow, node, i))
                        all |= limit_controller(i);
        return all;
}

uint32_t resources_controllers(const Dataflow *dataflow)
{
        uint32_t all = controllers_of(dataflow, NULL);

        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                all |= controllers_of(dataflow, &dataflow->nodes[i]);
        return all;
}

/* ---- what this host can enforce */

static void refuse_plan(Dataflow *dataflow, const Node *node, LimitKey key, const char *reason, int n)
{
        uint32_t line = plan_of(dataflow, node)->lines[key];

        dataflow->failed_start = true;
        dataflow_fail(dataflow, NULL, "%s%s (line %u): %s cannot be enforced here: %.*s (--allow-unenforced-limits goes on without)",
                node ? "node " : "the dataflow", node ? node->plan->id : "", line, limit_name(key), n, reason);
}

/* Said of a limit that does not hold, where that is allowed. */
static void note_unenforced(Dataflow *dataflow, const Node *node, const char *name, const char *reason, int n)
{
        char text[700];

        (void)snprintf(text, sizeof(text), "%.32s%s is not enforced: %.*s", name, node ? "" : " of the dataflow", n, reason);
        dataflow_note(dataflow, node ? node->plan->id : NULL, text);
}

static void add_refused(Resources *resources, const char *name, const char *reason, size_t n)
{
        char *more = NULL;

        if (asprintf(&more, "%s%s%s=%.*s", resources->refused ? resources->refused : "", resources->refused ? "\n" : "", name, (int)n, reason) < 0)
                return; /* status says less */
        free(resources->refused);
        resources->refused = more;
}

/* Of one: each limit whose controller is missing. False: that is not allowed. */
static bool check_one(Dataflow *dataflow, Node *node, uint32_t controllers, const char *missing)
{
        for (unsigned i = 0; i < _LIMIT_KEY_MAX; i++) {
                const char *reason;
                size_t n;

                if (!value_of(dataflow, node, i) || (controllers & limit_controller(i)))
                        continue;
                reason = line_of(missing, limit_controller_name(i), &n);
                if (!reason) {
                        reason = "its controller is not there";
                        n = strlen(reason);
                }
                if (!dataflow->options.allow_unenforced) {
                        refuse_plan(dataflow, node, i, reason, (int)n);
                        return false;
                }
                if (!node)
                        add_refused(&dataflow->resources, limit_name(i), reason, n);
                note_unenforced(dataflow, node, limit_name(i), reason, (int)n);
        }
        return true;
}

/* The dataflow's own that its controllers have, and the kernel refused all the same. */
static bool check_refused(Dataflow *dataflow, uint32_t controllers, const char *refused)
{
        for (unsigned i = 0; i < _LIMIT_KEY_MAX; i++) {
                size_t n;
                const char *reason = controllers & limit_controller(i) ? line_of(refused, limit_name(i), &n) : NULL;

                if (!reason)
                        continue;
                if (!dataflow->options.allow_unenforced) {
                        refuse_plan(dataflow, NULL, i, reason, (int)n);
                        return false;
                }
                add_refused(&dataflow->resources, limit_name(i), reason, n);
                note_unenforced(dataflow, NULL, limit_name(i), reason, (int)n);
        }
        return true;
}

bool resources_check(Dataflow *dataflow, uint32_t controllers, const char *missing, const char *refused)
{
        if (!check_one(dataflow, NULL, controllers, missing) || !check_refused(dataflow, controllers, refused))
                return false;
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                if (!check_one(dataflow, &dataflow->nodes[i], controllers, missing))
                        return false;
        return true;
}

/* What was missing from the start was noted then; here it is kept for status, and noted if it is news. */
void resources_told_refused(Node *node, const char *text, bool again)
{
        Resources *r = &node->resources;

        if (!*text)
                return;
        free(r->refused);
        r->refused = strdup(text);
        if (again || node->generation > 1)
                return;
        for (unsigned i = 0; i < _LIMIT_KEY_MAX; i++) {
                size_t n;
                const char *reason = line_of(text, limit_name(i), &n);

                if (reason && strncmp(reason, "controller ", 11) != 0 && strncmp(reason, "limits need cgroups", 19) != 0)
                        note_unenforced(node->dataflow, node, limit_name(i), reason, (int)n);
        }
}

void resources_explain_failure(const Node *node, const char *text, char *buffer, size_t size)
{
        const char *equals = strchr(text, '=');
        int key = equals ? limit_find(text, (size_t)(equals - text)) : -1;

        if (key < 0)
                (void)snprintf(buffer, size, "its limits cannot be set: %s", text);
        else
                (void)snprintf(buffer, size, "%s (line %u) cannot be enforced here: %s (--allow-unenforced-limits goes on without)", limit_name(key),
                        node->plan->limits.lines[key], equals + 1);
}

/* ---- what is felt */

static const char *size_text(char buffer[static 32], uint64_t bytes)
{
        static const char units[] = "KMGT";
        double v = (double)bytes;
        int unit = -1;

        while (v >= 1024 && units[unit + 1]) {
                v /= 1024;
                unit++;
        }
        if (unit < 0)
                (void)snprintf(buffer, 32, "%llu bytes", (unsigned long long)bytes);
        else
                (void)snprintf(buffer, 32, v < 100 && v != (double)(uint64_t)v ? "%.1f%c" : "%.0f%c", v, units[unit]);
        return buffer;
}

/* "64M", of a limit that is a size; "max" when there is none. */
static const char *limit_text(char buffer[static 32], const char *value)
{
        if (!value || strcmp(value, "max") == 0)
                return NULL;
        return size_text(buffer, strtoull(value, NULL, 10));
}

/* Whose limit it was that memory ran out at. */
static void oom_text(const Dataflow *dataflow, const Node *node, char *buffer, size_t size)
{
        const KeeperUsage *own = &held_const(dataflow, node)->usage;
        char peak[32], limit[32];
        const char *at = limit_text(limit, value_of(dataflow, node, LIMIT_MEMORY_MAX));

        if (own->memory_peak)
                (void)size_text(peak, own->memory_peak);
        else
                (void)snprintf(peak, sizeof(peak), "unknown");
        if (at && (own->oom || !node))
                (void)snprintf(buffer, size, "peak %s of %s", peak, at);
        else if (node && (at = limit_text(limit, value_of(dataflow, NULL, LIMIT_MEMORY_MAX))) && dataflow->resources.usage.oom)
                (void)snprintf(buffer, size, "peak %s; all nodes together reached the dataflow's %s", peak, at);
        else
                (void)snprintf(buffer, size, "peak %s; memory ran out above it", peak);
}

bool resources_explain_oom(const Node *node, char *buffer, size_t size)
{
        char text[128];

        if (node->resources.usage.oom_kills == 0 || node->exit_status != SIGKILL)
                return false;
        oom_text(node->dataflow, node, text, sizeof(text));
        (void)snprintf(buffer, size, "was oom-killed, %s", text);
        return true;
}

static void cores_text(char buffer[static 32], const char *value)
{
        unsigned long long quota, period;

        if (value && sscanf(value, "%llu %llu", &quota, &period) == 2 && period > 0)
                (void)snprintf(buffer, 32, "%g cores", (double)quota / (double)period);
        else
                (void)snprintf(buffer, 32, "its quota");
}

void resources_told_usage(Dataflow *dataflow, Node *node, const KeeperUsage *usage, bool again)
{
        Resources *r = held(dataflow, node);
        KeeperUsage before = r->usage;
        const char *id = node ? node->plan->id : NULL, *who = node ? "" : "the dataflow ", *value;
        char text[256], about[128], number[32];

        r->usage = *usage;
        if (again)
                return;
        if (usage->oom_kills && !before.oom_kills) {
                oom_text(dataflow, node, about, sizeof(about));
                (void)snprintf(text, sizeof(text), "%sran out of memory and was oom-killed: %s", who, about);
                if (node) /* of the dataflow each node tells it */
                        dataflow_note(dataflow, id, text);
        }
        if (usage->oom && !before.oom && !node) {
                oom_text(dataflow, NULL, about, sizeof(about));
                (void)snprintf(text, sizeof(text), "the dataflow reached its memory_max: %s", about);
                dataflow_note(dataflow, NULL, text);
        }
        if (usage->n_high && !before.n_high && (value = limit_text(number, value_of(dataflow, node, LIMIT_MEMORY_HIGH)))) {
                (void)snprintf(text, sizeof(text), "%sis slowed down by its memory_high of %s", who, value);
                dataflow_note(dataflow, id, text);
        }
        if (usage->forks_refused && !before.forks_refused) {
                value = value_of(dataflow, node, LIMIT_PIDS_MAX);
                if (!value)
                        value = value_of(dataflow, NULL, LIMIT_PIDS_MAX);
                (void)snprintf(text, sizeof(text), "%swas refused a fork by pids_max (%s)", who, value ? value : "of somebody above");
                dataflow_note(dataflow, id, text);
        }
        if (usage->n_throttled && !before.n_throttled) {
                cores_text(number, value_of(dataflow, node, LIMIT_CPU_MAX));
                (void)snprintf(text, sizeof(text), "%sis throttled: it wants more than %s", who, number);
                dataflow_note(dataflow, id, text);
        }
}

/* ---- set at run time */

static void adopt_values(Dataflow *dataflow, Node *node, const char *limits)
{
        Resources *r = held(dataflow, node);
        char value[LIMIT_VALUE_MAX];
        LimitKey key;

        while (limit_next(&limits, &key, value) > 0) {
                char *copy = strdup(value);

                if (!copy)
                        continue; /* the kernel has it, the next life does not */
                free(r->values[key]);
                r->values[key] = copy;
        }
        dataflow_journal_limits(dataflow);
        server_look_again(dataflow->supervisor->server);
}

/* A text of lines without those that hold now. */
static void forget_refused(Resources *resources, const char *limits)
{
        char value[LIMIT_VALUE_MAX];
        LimitKey key;

        while (resources->refused && limit_next(&limits, &key, value) > 0) {
                size_t n;
                const char *reason = line_of(resources->refused, limit_name(key), &n);
                char *line;

                if (!reason)
                        continue;
                line = resources->refused + (reason - resources->refused) - strlen(limit_name(key)) - 1;
                memmove(line, reason + n + (reason[n] == '\n'), strlen(reason + n + (reason[n] == '\n')) + 1);
        }
        if (resources->refused && !*resources->refused) {
                free(resources->refused);
                resources->refused = NULL;
        }
}

static bool lives(const Node *node)
{
        return node->spawned && !node->empty && !(node_is_loose(node));
}

int resources_order_limits(Dataflow *dataflow, Node *node, const char *limits, char *ret_why, size_t why_size)
{
        Resources *r = held(dataflow, node);
        int e;

        if (node && node_is_dynamic(node) && !node->plan->capture) {
                (void)snprintf(ret_why, why_size, "its process is in no cgroup of ours");
                return error_origin(-EPERM);
        }
        if (r->pending) {
                (void)snprintf(ret_why, why_size, "its limits are being set");
                return error_origin(-EBUSY);
        }
        if (node && node->state == NODE_STARTING && !node->spawned) {
                (void)snprintf(ret_why, why_size, "it is being started; try again");
                return error_origin(-EBUSY);
        }
        if (node && !lives(node)) {
                adopt_values(dataflow, node, limits);
                return 0;
        }
        r->pending = strdup(limits);
        e = r->pending ? keeper_order_limit(dataflow, node, limits) : -ENOMEM;
        if (!e)
                return 1;
        free(r->pending);
        r->pending = NULL;
        (void)snprintf(ret_why, why_size, "its keeper cannot be told: %s", error_text(e));
        return e;
}

void resources_told_limited(Dataflow *dataflow, Node *node, int error, const char *text)
{
        Resources *r = held(dataflow, node);
        _cleanup_free_ char *limits = TAKE_PTR(r->pending);

        if (!limits)
                return;
        if (!error) {
                forget_refused(r, limits);
                adopt_values(dataflow, node, limits);
        }
        server_limited(dataflow->supervisor->server, dataflow, node, error, text);
}

void resources_ended(Node *node)
{
        resources_told_limited(node->dataflow, node, 0, "");
}

/* ---- the freezer */

bool resources_is_frozen(const Node *node)
{
        return node->resources.frozen || node->dataflow->frozen_all;
}

int resources_order_freeze(Dataflow *dataflow, Node *node, bool frozen, nsec_t until, char *ret_why, size_t why_size)
{
        Resources *r = held(dataflow, node);
        bool is = node ? node->resources.frozen : dataflow->frozen_all;
        int e;

        if (node && dataflow->frozen_all) {
                (void)snprintf(ret_why, why_size, "the whole dataflow is frozen: thaw that");
                return frozen ? 0 : error_origin(-EPERM);
        }
        if (node && !lives(node)) {
                (void)snprintf(ret_why, why_size, node_is_loose(node) && node->spawned ? "its process is in no cgroup of ours" : "it does not run");
                return error_origin(-ESRCH);
        }
        if (r->freezing) {
                (void)snprintf(ret_why, why_size, "it is being frozen or thawed");
                return error_origin(-EBUSY);
        }
        if (is == frozen)
                return 0;
        if (frozen && (dataflow->stop_ordered || (node && node->state == NODE_STOPPING))) {
                (void)snprintf(ret_why, why_size, "it is being stopped");
                return error_origin(-EPERM);
        }
        e = keeper_order_freeze(dataflow, node, frozen, until);
        if (e) {
                (void)snprintf(ret_why, why_size, "its keeper cannot be told: %s", error_text(e));
                return e;
        }
        r->freezing = true;
        if (!node && frozen) {
                dataflow->frozen_all = true; /* nobody is started from here on */
                show_all(dataflow);
        }
        return 1;
}

static void thawed(Dataflow *dataflow)
{
        dataflow->frozen_all = false;
        show_all(dataflow);
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                node_on_thawed(&dataflow->nodes[i]);
        server_look_again(dataflow->supervisor->server);
}

void resources_told_freeze(Dataflow *dataflow, Node *node, bool frozen, int error)
{
        held(dataflow, node)->freezing = false;
        if (!node && !frozen && dataflow->frozen_all && error != ETIMEDOUT)
                thawed(dataflow);
        server_frozen(dataflow->supervisor->server, dataflow, node, frozen, error);
}

void resources_told_frozen(Dataflow *dataflow, Node *node, bool frozen)
{
        Resources *r = held(dataflow, node);

        if (r->frozen == frozen)
                return;
        r->frozen = frozen;
        dataflow_freezer_event(dataflow, node, frozen);
        if (node && frozen)
                show_node_ends(node);
        else if (node)
                node_on_thawed(node);
        else if (frozen)
                dataflow->frozen_all = true;
        else if (!r->freezing && dataflow->frozen_all)
                thawed(dataflow); /* by somebody else's hand */
        show_all(dataflow);
        server_look_again(dataflow->supervisor->server);
}

void resources_thaw(Dataflow *dataflow, Node *node)
{
        Resources *r = held(dataflow, node);

        if (node ? !(r->frozen || r->freezing) || dataflow->frozen_all : !dataflow->frozen_all)
                return;
        (void)keeper_order_freeze(dataflow, node, false, nsec_add(clock_now(), NSEC_PER_SEC)); /* the kill does not depend on it */
        if (!node) {
                dataflow->frozen_all = false;
                show_all(dataflow);
        }
}

void resources_forget_orders(Dataflow *dataflow)
{
        free(dataflow->resources.pending);
        dataflow->resources.pending = NULL;
        dataflow->resources.freezing = false;
        usage_forget(dataflow);
        server_look_again(dataflow->supervisor->server); /* who waits for it asks again */
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                Resources *r = &dataflow->nodes[i].resources;

                free(r->pending);
                r->pending = NULL;
                r->freezing = false;
        }
}

/* ---- telling */

static json_t *describe_limits(const Dataflow *dataflow, const Node *node)
{
        const Resources *r = held_const(dataflow, node);
        json_t *list = json_array();

        for (unsigned i = 0; i < _LIMIT_KEY_MAX; i++) {
                const char *value = value_of(dataflow, node, i), *reason;
                json_t *one;
                size_t n = 0;

                if (!value)
                        continue;
                reason = line_of(r->refused, limit_name(i), &n);
                one = json_pack("{ss ss sI sb sb}", "key", limit_name(i), "value", value, "line", (json_int_t)plan_of(dataflow, node)->lines[i], "set",
                        r->values[i] != NULL, "enforced", !reason);
                if (one && reason)
                        (void)json_object_set_new(one, "reason", json_stringn(reason, n));
                (void)json_array_append_new(list, one);
        }
        return list;
}

void resources_describe(json_t *object, const Dataflow *dataflow, const Node *node)
{
        static const KeeperUsage nothing;
        const KeeperUsage *u = &held_const(dataflow, node)->usage;
        const Pressure *pressure = node ? &node->pressure : &dataflow->pressure;
        json_t *limits;

        if (!object)
                return;
        /* It is there already, so that this needs no memory: a reply has it or fails whole. */
        (void)json_object_set_new(object, "frozen", json_boolean(node ? resources_is_frozen(node) && !node_is_final(node) : dataflow->frozen_all));
        limits = describe_limits(dataflow, node);
        if (json_array_size(limits) > 0)
                (void)json_object_set(object, "limits", limits);
        json_decref(limits);
        if (pressure->n_met > 0)
                (void)json_object_set_new(object, "pressed",
                        json_pack("{sI ss}", "count", (json_int_t)pressure->n_met, "text", pressure->text ? pressure->text : ""));
        if (memcmp(u, &nothing, sizeof(*u)) != 0)
                (void)json_object_set_new(object, "felt",
                        json_pack("{sI sI sI sI sI sI}", "memory_peak", (json_int_t)u->memory_peak, "oom_kills", (json_int_t)u->oom_kills,
                                "memory_high_events", (json_int_t)u->n_high, "forks_refused", (json_int_t)u->forks_refused, "throttled_periods",
                                (json_int_t)u->n_throttled, "throttled_ms", (json_int_t)(u->throttled_us / 1000)));
}

/* ---- the journal */

static bool print_values(FILE *f, const Resources *resources, const char *who)
{
        bool any = false;

        for (unsigned i = 0; i < _LIMIT_KEY_MAX; i++)
                if (resources->values[i]) {
                        (void)fprintf(f, "%s %s=%s\n", who, limit_name(i), resources->values[i]);
                        any = true;
                }
        return any;
}

char *resources_to_text(const Dataflow *dataflow)
{
        char *text = NULL, who[24];
        size_t size = 0;
        FILE *f = open_memstream(&text, &size);
        bool any;

        if (!f)
                return NULL;
        any = print_values(f, &dataflow->resources, "-");
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                (void)snprintf(who, sizeof(who), "%zu", i);
                any = print_values(f, &dataflow->nodes[i].resources, who) || any;
        }
        if (fclose(f) || !any) {
                free(text);
                return NULL;
        }
        return text;
}

void resources_from_text(Dataflow *dataflow, const char *text)
{
        while (text && *text) {
                char *end, value[LIMIT_VALUE_MAX];
                unsigned long index = text[0] == '-' ? 0 : strtoul(text, &end, 10);
                const char *at = text[0] == '-' ? text + 1 : end;
                Resources *r = text[0] == '-' ? &dataflow->resources : index < dataflow->plan->n_nodes && at > text ? &dataflow->nodes[index].resources : NULL;
                LimitKey key;

                if (*at == ' ') {
                        at++;
                        if (r && limit_next(&at, &key, value) > 0) {
                                free(r->values[key]);
                                r->values[key] = strdup(value);
                        }
                }
                text = strchr(text, '\n');
                text = text ? text + 1 : NULL;
        }
}
