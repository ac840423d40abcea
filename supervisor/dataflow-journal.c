/* SPDX-License-Identifier: Apache-2.0 */
/* A dataflow to journal records and back. The values of the records are checked here; that they are whole, in journal.c. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/log.h"
#include "supervisor/supervisor.h"
#include "supervisor/wiring.h"
#include "supervisor/json-text.h"

/* ---- writing */

static json_int_t limit_to_json(rlim_t limit)
{
        return limit > INT64_MAX ? INT64_MAX : (json_int_t)limit; /* more files than there can be, either way */
}

static json_t *options_to_json(const Dataflow *dataflow)
{
        const DataflowOptions *o = &dataflow->options;
        json_t *environment = json_array(), *groups = json_array();

        for (size_t i = 0; environment && dataflow->environ[i]; i++)
                (void)json_array_append_new(environment, json_stringn_nocheck(dataflow->environ[i], strlen(dataflow->environ[i])));
        for (size_t i = 0; groups && i < o->n_groups; i++)
                (void)json_array_append_new(groups, json_integer(o->groups[i]));
        return json_pack("{sb sb sI sI so ss* sI sI sI sI sI ss* so}", "despite_leftover", o->despite_leftover, "allow_unenforced_limits", o->allow_unenforced, "nofile_soft", limit_to_json(o->nofile.rlim_cur), "nofile_hard",
                limit_to_json(o->nofile.rlim_max), "groups", groups, "waits_for", dataflow->waits_for[0] ? dataflow->waits_for : NULL, "grace_ns", (json_int_t)o->grace_ns, "budget_ns", (json_int_t)o->budget_ns, "umask",
                (json_int_t)o->umask, "uid", (json_int_t)o->uid, "gid", (json_int_t)o->gid, "log_dir", dataflow->log_dir, "environment",
                environment);
}

/* The supervisor goes on without what could not be written; a successor would know less. */
static void look(Dataflow *dataflow, int r)
{
        if (r < 0 && !dataflow->journal_failed)
                log_line("dataflow %s: its journal cannot be written: %s", dataflow->uuid_text, strerror(-r));
        dataflow->journal_failed = r < 0;
}

static struct journal_ladder ladder_to_record(const NodeLadder *ladder)
{
        return (struct journal_ladder){.term_ns = ladder->term, .kill_ns = ladder->kill, .verdict_ns = ladder->verdict};
}

static void dataflow_to_record(const Dataflow *dataflow, struct journal_dataflow *ret)
{
        *ret = (struct journal_dataflow){.wanted = dataflow->stop_ordered,
                .state = (uint8_t)dataflow->state,
                .flags = (dataflow->released ? JOURNAL_DATAFLOW_RELEASED : 0u) | (dataflow->stop_ordered ? JOURNAL_DATAFLOW_STOP_ORDERED : 0u) |
                         (dataflow->failed_start ? JOURNAL_DATAFLOW_FAILED_START : 0u) |
                         (dataflow->keeper_gone ? JOURNAL_DATAFLOW_KEEPER_GONE : 0u) | (dataflow->waits_for[0] ? JOURNAL_DATAFLOW_WAITS : 0u),
                .slot = dataflow->slot,
                .uid = dataflow->options.uid,
                .gid = dataflow->options.gid,
                .keeper_deaths = dataflow->n_keeper_deaths,
                .n_killed = dataflow->n_killed,
                .n_left = dataflow->n_left,
                .begun_at_ns = dataflow->begun_at,
                .stop_at_ns = dataflow->stop_at,
                .ended_at_ns = dataflow->ended_at,
                .ladder = ladder_to_record(&dataflow->ladder)};
        journal_set_text(ret->error, dataflow->error);
}

void dataflow_journal(Dataflow *dataflow)
{
        struct journal_dataflow record;

        if (!dataflow->journal)
                return;
        dataflow_to_record(dataflow, &record);
        look(dataflow, journal_put_dataflow(dataflow->journal, &record));
}

int dataflow_journal_create(Dataflow *dataflow)
{
        struct journal_dataflow record;
        json_t *options = options_to_json(dataflow);
        json_t *all = options ? json_pack("{so sO}", "options", options, "plan", dataflow->plan->json) : NULL;
        _cleanup_free_ char *text = all ? json_text(all) : NULL;
        int r;

        json_decref(all);
        if (!text)
                return error_origin(-ENOMEM);
        dataflow_to_record(dataflow, &record);
        r = journal_create(&dataflow->supervisor->journal, &dataflow->journal,
                &(JournalSpec){.uuid = dataflow->uuid,
                        .plan = text,
                        .plan_size = strlen(text),
                        .n_nodes = (uint32_t)dataflow->plan->n_nodes,
                        .n_links = dataflow->n_links,
                        .dataflow = &record});
        return r > 0 ? error_origin(-EIO) : r ? error_fold(r) : 0;
}

static uint32_t node_flags(const Node *node)
{
        return (node->spawned ? JOURNAL_NODE_SPAWNED : 0u) | (node->connected ? JOURNAL_NODE_CONNECTED : 0u) |
               (node->mapped ? JOURNAL_NODE_MAPPED : 0u) | (node->started ? JOURNAL_NODE_STARTED : 0u) | (node->exited ? JOURNAL_NODE_EXITED : 0u) |
               (node->empty ? JOURNAL_NODE_EMPTY : 0u) | (node->killed ? JOURNAL_NODE_KILLED : 0u) | (node->resolved ? JOURNAL_NODE_RESOLVED : 0u) |
               (node->exec_stuck ? JOURNAL_NODE_EXEC_STUCK : 0u) | (node->inputs_closed ? JOURNAL_NODE_INPUTS_CLOSED : 0u) |
               (node->stop_wanted ? JOURNAL_NODE_STOP_WANTED : 0u) | (node->quarantined ? JOURNAL_NODE_QUARANTINED : 0u) |
               (node->finished ? JOURNAL_NODE_FINISHED : 0u) | (node->was_ready ? JOURNAL_NODE_WAS_READY : 0u) |
               (node->restart_wanted ? JOURNAL_NODE_RESTART_WANTED : 0u) | (node->captured ? JOURNAL_NODE_CAPTURED : 0u) |
                (node->killed_by_guard ? JOURNAL_NODE_KILLED_BY_GUARD : 0u);
}

void node_journal(Node *node)
{
        Dataflow *dataflow = node->dataflow;
        struct journal_node record = {.generation = node->generation,
                .state = (uint8_t)node->state,
                .rung = (uint8_t)node->rung,
                .end = (uint8_t)node->end,
                .flags = node_flags(node),
                .pid = node->pid,
                .exit_code = node->exit_code,
                .exit_status = node->exit_status,
                .n_restarts = node->n_restarts,
                .n_window = node->n_window,
                .started_at_ns = node->started_at,
                .since_ns = node->since,
                .deadline_ns = node->deadline.loop ? node->deadline.at : NSEC_NEVER,
                .window_start_ns = node->window_start,
                .ladder = ladder_to_record(&node->ladder),
                .ordered = ladder_to_record(&node->ordered)};

        if (!dataflow->journal || dataflow->fresh)
                return;
        for (size_t i = 0; i < node->plan->n_outputs; i++)
                if (node->outputs[i].closed)
                        record.outputs_closed[i / 8] |= (uint8_t)(1u << i % 8);
        for (size_t i = 0; i < NODE_OLDER_MAX; i++)
                record.older[i] = (struct journal_older){.generation = node->older[i].generation, .since_ns = node->older[i].since};
        journal_set_text(record.error, node->error);
        journal_set_text(record.left, node->left.text);
        record.left_kind = (uint8_t)node->left.kind;
        record.left_since_ns = node->left.since;
        record.n_left = node->left.n;
        record.n_violations = node->misbehaviour.count;
        journal_set_text(record.violation, node->misbehaviour.text);
        look(dataflow, journal_put_node(dataflow->journal, node->index, &record));
}

void link_journal(Link *link)
{
        Dataflow *dataflow = link->source->dataflow;
        struct journal_link record = {.generation = link->generation,
                .state = (uint8_t)link->state,
                .source_generation = link->source_generation,
                .pair_generation = link->pair->generation,
                .pair_a_generation = link->pair->a_generation,
                .pair_b_generation = link->pair->b_generation,
                .resume_at = link->target->resume_at[link->input]};

        if (dataflow->journal && !dataflow->fresh)
                look(dataflow, journal_put_link(dataflow->journal, link->number - 1, &record));
}

void dataflow_journal_limits(Dataflow *dataflow)
{
        _cleanup_free_ char *text = resources_to_text(dataflow);

        if (dataflow->journal)
                look(dataflow, journal_put_limits(&dataflow->supervisor->journal, dataflow->uuid, text));
}

void dataflow_unjournal(Dataflow *dataflow)
{
        if (!dataflow->journal)
                return;
        dataflow->journal = journal_entry_free(dataflow->journal);
        (void)journal_remove(&dataflow->supervisor->journal, dataflow->uuid); /* what stays is an ended dataflow to the next supervisor */
}

/* ---- reading */

typedef struct Options {
        DataflowOptions options;
        const char **environ; /* strings of the JSON */
} Options;

static bool get_number(json_t *object, const char *key, json_int_t max, json_int_t *ret)
{
        json_t *value = json_object_get(object, key);

        if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > max)
                return false;
        *ret = json_integer_value(value);
        return true;
}

static bool groups_from_json(json_t *array, DataflowOptions *options)
{
        size_t n = json_array_size(array);

        if (n > ELEMENTSOF(options->groups))
                return false;
        for (size_t i = 0; i < n; i++) {
                json_int_t group = json_integer_value(json_array_get(array, i));

                if (!json_is_integer(json_array_get(array, i)) || group < 0 || group >= UINT32_MAX)
                        return false;
                options->groups[i] = (uint32_t)group;
        }
        options->n_groups = (uint32_t)n;
        return true;
}

/* @ret->environ is the caller's to free, also on failure. */
static bool options_from_json(json_t *object, Options *ret)
{
        json_t *environment = json_object_get(object, "environment");
        size_t n = json_array_size(environment);
        json_int_t grace, budget, mask, uid, gid, nofile_soft, nofile_hard;

        if (!get_number(object, "grace_ns", INT64_MAX, &grace) || !get_number(object, "budget_ns", INT64_MAX, &budget) ||
                !get_number(object, "umask", 0777, &mask) || !get_number(object, "uid", UINT32_MAX - 1, &uid) ||
                !get_number(object, "gid", UINT32_MAX - 1, &gid) || !get_number(object, "nofile_hard", INT64_MAX, &nofile_hard) ||
                !get_number(object, "nofile_soft", nofile_hard, &nofile_soft))
                return false;
        ret->environ = calloc(n + 1, sizeof(*ret->environ));
        if (!ret->environ)
                return false;
        for (size_t i = 0; i < n; i++) {
                ret->environ[i] = json_string_value(json_array_get(environment, i));
                if (!ret->environ[i])
                        return false;
        }
        ret->options = (DataflowOptions){.grace_ns = (nsec_t)grace,
                .budget_ns = (nsec_t)budget,
                .umask = (mode_t)mask,
                .allow_unenforced = json_is_true(json_object_get(object, "allow_unenforced_limits")),
                .uid = (uid_t)uid,
                .gid = (gid_t)gid,
                .nofile = {.rlim_cur = (rlim_t)nofile_soft, .rlim_max = (rlim_t)nofile_hard},
                .despite_leftover = json_is_true(json_object_get(object, "despite_leftover")),
                .waits_for = json_string_value(json_object_get(object, "waits_for")),
                .environ = (char *const *)ret->environ,
                .log_fd = -1};
        return groups_from_json(json_object_get(object, "groups"), &ret->options);
}

static NodeLadder ladder_from_record(const struct journal_ladder *record)
{
        return (NodeLadder){.term = record->term_ns, .kill = record->kill_ns, .verdict = record->verdict_ns};
}

static char *text_from_record(const char *text)
{
        return text[0] ? strdup(text) : NULL;
}

static bool dataflow_from_record(Dataflow *dataflow, const struct journal_dataflow *record)
{
        if (record->sequence == 0 || record->state >= _DATAFLOW_STATE_MAX || record->slot >= GUARD_MAX_SLOTS || record->slot == GUARD_SLOT_INSTANCE)
                return false;
        dataflow->state = (DataflowState)record->state;
        dataflow->released = record->flags & JOURNAL_DATAFLOW_RELEASED;
        dataflow->stop_ordered = record->flags & JOURNAL_DATAFLOW_STOP_ORDERED;
        dataflow->failed_start = record->flags & JOURNAL_DATAFLOW_FAILED_START;
        dataflow->slot = record->slot;
        dataflow->n_keeper_deaths = record->keeper_deaths;
        dataflow->n_killed = record->n_killed;
        dataflow->n_left = record->n_left;
        dataflow->begun_at = record->begun_at_ns;
        dataflow->stop_at = record->stop_at_ns;
        dataflow->ended_at = record->ended_at_ns;
        dataflow->ladder = ladder_from_record(&record->ladder);
        dataflow->error = text_from_record(record->error);
        if ((record->flags & JOURNAL_DATAFLOW_WAITS) && dataflow->state == DATAFLOW_BEGINNING)
                (void)snprintf(dataflow->waits_for, sizeof(dataflow->waits_for), "%s", dataflow->options.waits_for ? dataflow->options.waits_for : "?");
        return true;
}

/* A record that was never written, or is damaged: a node that had not begun. What lives of it the keeper will say. */
static bool node_from_record(Node *node, const struct journal_node *record)
{
        if (record->sequence == 0)
                return true;
        if (record->state >= _NODE_STATE_MAX || record->rung >= _NODE_RUNG_MAX || record->end > NODE_END_PROTOCOL)
                return false;
        node->state = (NodeState)record->state;
        node->rung = (NodeRung)record->rung;
        node->end = (NodeEnd)record->end;
        node->generation = record->generation;
        node->spawned = record->flags & JOURNAL_NODE_SPAWNED;
        node->connected = record->flags & JOURNAL_NODE_CONNECTED;
        node->mapped = record->flags & JOURNAL_NODE_MAPPED;
        node->started = record->flags & JOURNAL_NODE_STARTED;
        node->exited = record->flags & JOURNAL_NODE_EXITED;
        node->empty = record->flags & JOURNAL_NODE_EMPTY;
        node->killed = record->flags & JOURNAL_NODE_KILLED;
        node->resolved = (record->flags & JOURNAL_NODE_RESOLVED) && node->state != NODE_STOPPING; /* what followed was not written down */
        node->exec_stuck = record->flags & JOURNAL_NODE_EXEC_STUCK;
        node->inputs_closed = record->flags & JOURNAL_NODE_INPUTS_CLOSED;
        node->stop_wanted = record->flags & JOURNAL_NODE_STOP_WANTED;
        node->quarantined = record->flags & JOURNAL_NODE_QUARANTINED;
        node->finished = record->flags & JOURNAL_NODE_FINISHED;
        node->was_ready = record->flags & JOURNAL_NODE_WAS_READY;
        node->restart_wanted = record->flags & JOURNAL_NODE_RESTART_WANTED;
        node->captured = record->flags & JOURNAL_NODE_CAPTURED;
        node->killed_by_guard = record->flags & JOURNAL_NODE_KILLED_BY_GUARD;
        node->pid = record->pid;
        node->exit_code = record->exit_code;
        node->exit_status = record->exit_status;
        node->n_restarts = record->n_restarts;
        node->n_window = record->n_window;
        node->started_at = record->started_at_ns;
        node->since = record->since_ns;
        node->window_start = record->window_start_ns;
        node->ladder = ladder_from_record(&record->ladder);
        node->ordered = ladder_from_record(&record->ordered);
        node->error = text_from_record(record->error);
        for (size_t i = 0; i < NODE_OLDER_MAX; i++)
                node->older[i] = (Leftover){.generation = record->older[i].generation, .since = record->older[i].since_ns};
        if (node->quarantined)
                node->left = (Leftover){.generation = record->generation,
                        .since = record->left_since_ns,
                        .kind = (TaskKind)MIN(record->left_kind, (uint8_t)(_TASK_KIND_MAX - 1)),
                        .n = record->n_left,
                        .text = text_from_record(record->left)};
        node->misbehaviour.count = record->n_violations;
        (void)snprintf(node->misbehaviour.text, sizeof(node->misbehaviour.text), "%s", record->violation);
        for (size_t i = 0; i < node->plan->n_outputs; i++)
                node->outputs[i].closed = record->outputs_closed[i / 8] >> i % 8 & 1;
        return true;
}

static bool link_from_record(Link *link, const struct journal_link *record)
{
        if (record->sequence == 0)
                return true;
        if (record->state > LINK_CLOSED)
                return false;
        link->generation = record->generation;
        link->state = (LinkState)record->state;
        link->source_generation = record->source_generation;
        link->target->resume_at[link->input] = record->resume_at;
        /* Several links share a pair; the newest record is the pair's. */
        if (record->pair_generation >= link->pair->generation) {
                link->pair->generation = record->pair_generation;
                link->pair->a_generation = record->pair_a_generation;
                link->pair->b_generation = record->pair_b_generation;
        }
        return true;
}

static bool restore_records(Dataflow *dataflow, const JournalEntry *entry)
{
        if (entry->n_nodes != dataflow->plan->n_nodes || entry->n_links != dataflow->n_links || !dataflow_from_record(dataflow, entry->dataflow))
                return false;
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                if (!node_from_record(&dataflow->nodes[i], &entry->nodes[i]))
                        return false;
                wiring_restore(&dataflow->nodes[i]);
        }
        for (uint32_t i = 0; i < dataflow->n_links; i++)
                if (!link_from_record(&dataflow->links[i], &entry->links[i]))
                        return false;
        return true;
}

int dataflow_restore(Dataflow **ret, Supervisor *supervisor, JournalEntry *take_entry, const char *text, DataflowEventFn fn, char *ret_why,
        size_t why_size)
{
        _cleanup_free_ char *limits = NULL;
        json_t *all = NULL;
        int r = json_parse(&all, text, strlen(text), JSON_REJECT_DUPLICATES) == -ENOMEM ? error_origin(-ENOMEM) : -EBADMSG;
        const char *log_dir = json_string_value(json_object_get(json_object_get(all, "options"), "log_dir"));
        Options options = {};
        Dataflow *dataflow = NULL;
        Plan *plan = NULL;

        if (r == -ENOMEM)
                (void)snprintf(ret_why, why_size, "out of memory");
        else if (!options_from_json(json_object_get(all, "options"), &options))
                (void)snprintf(ret_why, why_size, "its options cannot be read");
        else if ((r = plan_new(&plan, json_object_get(all, "plan"), ret_why, why_size)) == -EINVAL)
                r = error_origin(-EBADMSG); /* damaged, for it was checked before it was written */
        else if (r == 0)
                r = dataflow_make(&dataflow, supervisor, plan, &options.options, take_entry->uuid, fn);
        free(options.environ);
        if (!r && log_dir && !(dataflow->log_dir = strdup(log_dir)))
                r = error_origin(-ENOMEM);
        if (!r && !restore_records(dataflow, take_entry)) {
                (void)snprintf(ret_why, why_size, "its records do not fit its plan");
                r = error_origin(-EBADMSG);
        }
        json_decref(all);
        if (dataflow)
                dataflow->options.waits_for = NULL; /* borrowed */
        if (r) {
                (void)journal_entry_free(take_entry);
                (void)dataflow_free(dataflow);
                return r;
        }
        limits = journal_get_limits(&supervisor->journal, dataflow->uuid);
        resources_from_text(dataflow, limits);
        dataflow->journal = take_entry;
        dataflow->n_quarantined = dataflow_count_left(dataflow);
        dataflow->watched = dataflow->state == DATAFLOW_ENDED && dataflow->n_quarantined > 0;
        dataflow->adopting = dataflow->fresh = dataflow->state != DATAFLOW_ENDED || dataflow->watched;
        *ret = dataflow;
        return 0;
}
