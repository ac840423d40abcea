/* SPDX-License-Identifier: Apache-2.0 */
#include "descriptor/keys.h"

#include <string.h>

#define SEVERAL_MACHINES "one machine only"
#define NO_TYPES         "message types are not checked yet"
#define NO_LOG_KEYS      "every line of output is logged as it is"
#define NO_BUILD         "build before the run"

/* clang-format off */
const KeyTable keys_dataflow = {"dataflow", "the dataflow", (const Key[]){
        {"nodes",                 KEY_ACCEPTED, NULL},
        {"env",                   KEY_ACCEPTED, NULL},
        {"debug",                 KEY_ACCEPTED, NULL},
        {"exit_when_nodes_finish", KEY_ACCEPTED, NULL}, /* false only */
        {"strict_types",          KEY_ACCEPTED, NULL},  /* false only */
        {"on_failure",            KEY_ACCEPTED, NULL},
        {"stuck_timeout",         KEY_ACCEPTED, NULL},
        {"resources",             KEY_ACCEPTED, NULL},
        {"on_pressure",           KEY_ACCEPTED, NULL},
        {"placement",             KEY_ACCEPTED, NULL},
        {"probes",                KEY_ACCEPTED, NULL},
        {"health_check_interval", KEY_IGNORED,  "nodes send no signs of life; those for which messages wait are looked at once a second"},
        {"communication",         KEY_IGNORED,  "messages always travel through shared memory"},
        {"daemon_config",         KEY_IGNORED,  "there is no such daemon"},
        {"_unstable_debug",       KEY_IGNORED,  "every output can be watched without it"},
        {"deploy",                KEY_LATER,    SEVERAL_MACHINES},
        {"_unstable_deploy",      KEY_LATER,    SEVERAL_MACHINES},
        {"type_rules",            KEY_LATER,    NO_TYPES},
        {NULL}}};

const KeyTable keys_debug = {"debug", "debug", (const Key[]){
        {"enable_debug_inspection", KEY_ACCEPTED, NULL}, /* no effect: every output can be watched */
        {NULL}}};

const KeyTable keys_node = {"node", "a node", (const Key[]){
        {"id",                      KEY_ACCEPTED, NULL},
        {"name",                    KEY_ACCEPTED, NULL},
        {"description",             KEY_ACCEPTED, NULL},
        {"path",                    KEY_ACCEPTED, NULL},
        {"args",                    KEY_ACCEPTED, NULL},
        {"env",                     KEY_ACCEPTED, NULL},
        {"inputs",                  KEY_ACCEPTED, NULL},
        {"outputs",                 KEY_ACCEPTED, NULL},
        {"restart_policy",          KEY_ACCEPTED, NULL},
        {"max_restarts",            KEY_ACCEPTED, NULL},
        {"restart_delay",           KEY_ACCEPTED, NULL},
        {"max_restart_delay",       KEY_ACCEPTED, NULL},
        {"restart_window",          KEY_ACCEPTED, NULL},
        {"startup_timeout",         KEY_ACCEPTED, NULL},
        {"finish_grace_secs",       KEY_ACCEPTED, NULL},
        {"cpu_affinity",            KEY_ACCEPTED, NULL},
        {"wait",                    KEY_ACCEPTED, NULL},
        {"placement",               KEY_ACCEPTED, NULL},
        {"capture",                 KEY_ACCEPTED, NULL}, /* of a dynamic node */
        {"cgroup_writable",         KEY_ACCEPTED, NULL},
        {"detach",                  KEY_ACCEPTED, NULL},
        {"after",                   KEY_ACCEPTED, NULL},
        {"on_failure",              KEY_ACCEPTED, NULL},
        {"stuck_timeout",           KEY_ACCEPTED, NULL},
        {"health_check_timeout",    KEY_ACCEPTED, NULL},
        {"resources",               KEY_ACCEPTED, NULL},
        {"on_pressure",             KEY_ACCEPTED, NULL},
        {"module",                  KEY_ACCEPTED, NULL},
        {"params",                  KEY_ACCEPTED, NULL},
        {"custom",                  KEY_ACCEPTED, NULL}, /* of an older Dora, with a warning */
        {"build",                   KEY_LATER,    NO_BUILD},
        {"git",                     KEY_LATER,    NULL},
        {"branch",                  KEY_LATER,    NULL},
        {"tag",                     KEY_LATER,    NULL},
        {"rev",                     KEY_LATER,    NULL},
        {"hub",                     KEY_LATER,    NULL},
        {"path_sha256",             KEY_LATER,    NULL},
        {"operator",                KEY_LATER,    "make it a node of its own"},
        {"operators",               KEY_LATER,    "make each a node of its own"},
        {"ros2",                    KEY_LATER,    NULL},
        {"deploy",                  KEY_LATER,    SEVERAL_MACHINES},
        {"_unstable_deploy",        KEY_LATER,    SEVERAL_MACHINES},
        {"input_types",             KEY_LATER,    NO_TYPES},
        {"output_types",            KEY_LATER,    NO_TYPES},
        {"output_framing",          KEY_LATER,    NULL},
        {"output_metadata",         KEY_LATER,    NO_TYPES},
        {"pattern",                 KEY_LATER,    NO_TYPES},
        {"send_stdout_as",          KEY_LATER,    NULL},
        {"send_logs_as",            KEY_LATER,    NULL},
        {"min_log_level",           KEY_LATER,    NO_LOG_KEYS},
        {"max_log_size",            KEY_LATER,    NO_LOG_KEYS},
        {"max_rotated_files",       KEY_LATER,    NO_LOG_KEYS},
        {"shared_memory_pool_size", KEY_ACCEPTED, NULL},
        {"expected_message_size",   KEY_ACCEPTED, NULL},
        {NULL}}};

const KeyTable keys_custom = {"custom", "custom", (const Key[]){
        {"source",         KEY_ACCEPTED, NULL},
        {"path",           KEY_ACCEPTED, NULL},
        {"args",           KEY_ACCEPTED, NULL},
        {"envs",           KEY_ACCEPTED, NULL},
        {"inputs",         KEY_ACCEPTED, NULL},
        {"outputs",        KEY_ACCEPTED, NULL},
        {"restart_policy", KEY_ACCEPTED, NULL},
        {"build",          KEY_LATER,    NO_BUILD},
        {"send_stdout_as", KEY_LATER,    NULL},
        {NULL}}};

const KeyTable keys_input = {"input", "an input", (const Key[]){
        {"source",        KEY_ACCEPTED, NULL},
        {"queue_size",    KEY_ACCEPTED, NULL},
        {"queue_policy",  KEY_ACCEPTED, NULL},
        {"input_timeout", KEY_ACCEPTED, NULL},
        {NULL}}};

const KeyTable keys_resources = {"resources", "resources", (const Key[]){
        {"memory_max",      KEY_ACCEPTED, NULL},
        {"memory_high",     KEY_ACCEPTED, NULL},
        {"memory_swap_max", KEY_ACCEPTED, NULL},
        {"cpu_max",         KEY_ACCEPTED, NULL},
        {"cpu_weight",      KEY_ACCEPTED, NULL},
        {"pids_max",        KEY_ACCEPTED, NULL},
        {"io_weight",       KEY_ACCEPTED, NULL},
        {"io_max",          KEY_ACCEPTED, NULL},
        {"cpuset_cpus",     KEY_ACCEPTED, NULL},
        {NULL}}};

const KeyTable keys_on_pressure = {"onPressure", "on_pressure", (const Key[]){
        {"cpu_some",      KEY_ACCEPTED, NULL},
        {"cpu_full",      KEY_ACCEPTED, NULL},
        {"memory_some",   KEY_ACCEPTED, NULL},
        {"memory_full",   KEY_ACCEPTED, NULL},
        {"io_some",       KEY_ACCEPTED, NULL},
        {"io_full",       KEY_ACCEPTED, NULL},
        {"cpu_throttled", KEY_ACCEPTED, NULL},
        {"memory_high",   KEY_ACCEPTED, NULL},
        {"forks_refused", KEY_ACCEPTED, NULL},
        {"action",        KEY_ACCEPTED, NULL},
        {NULL}}};

const KeyTable keys_io_max = {"ioMax", "an entry of io_max", (const Key[]){
        {"device", KEY_ACCEPTED, NULL},
        {"rbps",   KEY_ACCEPTED, NULL},
        {"wbps",   KEY_ACCEPTED, NULL},
        {"riops",  KEY_ACCEPTED, NULL},
        {"wiops",  KEY_ACCEPTED, NULL},
        {NULL}}};

const KeyTable keys_probes = {"probesOptions", "probes", (const Key[]){
        {"calls",  KEY_ACCEPTED, NULL},
        {"budget", KEY_ACCEPTED, NULL},
        {"queues", KEY_ACCEPTED, NULL},
        {NULL}}};

const KeyTable keys_module_file = {"moduleFile", "a module file", (const Key[]){
        {"module", KEY_ACCEPTED, NULL},
        {"nodes",  KEY_ACCEPTED, NULL},
        {"build",  KEY_LATER,    NO_BUILD},
        {NULL}}};

const KeyTable keys_module_header = {"moduleHeader", "module", (const Key[]){
        {"name",            KEY_ACCEPTED, NULL},
        {"inputs",          KEY_ACCEPTED, NULL},
        {"inputs_optional", KEY_ACCEPTED, NULL},
        {"outputs",         KEY_ACCEPTED, NULL},
        {NULL}}};
/* clang-format on */

const KeyTable *const keys_all[] = {&keys_dataflow, &keys_debug, &keys_node, &keys_custom, &keys_input,
        &keys_resources, &keys_on_pressure, &keys_io_max, &keys_probes, &keys_module_file, &keys_module_header, NULL};

const Key *keys_find(const KeyTable *table, const char *name)
{
        for (const Key *key = table->keys; key->name; key++)
                if (strcmp(key->name, name) == 0)
                        return key;
        return NULL;
}

const char *key_status_name(KeyStatus status)
{
        static const char *const names[_KEY_STATUS_MAX] = {
                [KEY_ACCEPTED] = "accepted",
                [KEY_IGNORED] = "ignored",
                [KEY_LATER] = "later",
        };

        return names[status];
}
