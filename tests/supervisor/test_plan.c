/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "supervisor/plan.h"

#define COMMON                                                                                                         \
        "'pool_size':65536,'restart':{'policy':'never','max_restarts':0,'delay_ns':0,'max_delay_ns':0,'window_ns':0},"   \
        "'startup_timeout_ns':1,'finish_grace_ns':0"

static const char good[] =
        "{'version':1,'name':'n','file':'/d/n.yml','dir':'/d','finish_grace_ns':1,'resources':{'pids_max':{'value':'500','line':2}},'nodes':["
        "{'id':'a','line':3,'kind':'node','argv':['/bin/a'],'env':{},'cpu_affinity':[],'inputs':[],'outputs':['o'],"
        " 'pool_size':8388608,'restart':{'policy':'never','max_restarts':0,'delay_ns':0,'max_delay_ns':0,'window_ns':0},"
        " 'startup_timeout_ns':60000000000,'finish_grace_ns':1},"
        "{'id':'b','line':7,'kind':'node','argv':['/bin/b','-x'],'env':{'K':'V'},'cpu_affinity':[1],'inputs':["
        "  {'id':'i','line':9,'source':{'node':'a','output':'o'},'queue_size':10,'queue_policy':'backpressure','input_timeout_ns':5},"
        "  {'id':'t','line':10,'source':{'timer_ns':1000},'queue_size':1,'queue_policy':'drop_oldest','input_timeout_ns':0}],"
        " 'outputs':[],'pool_size':65536,"
        " 'restart':{'policy':'on-failure','max_restarts':3,'delay_ns':1,'max_delay_ns':2,'window_ns':3},"
        " 'startup_timeout_ns':1,'finish_grace_ns':0,"
        " 'after':[{'node':'a','until':'ready','line':11}],'on_failure':'stop','stuck_timeout_ns':7,'health_check_timeout_ns':9,"
        " 'resources':{'memory_max':{'value':'536870912','line':8},'cpu_max':{'value':'150000 100000','line':9}}},"
        "{'id':'c','line':12,'kind':'dynamic','capture':true,'argv':[],'env':{},'cpu_affinity':[],'inputs':[],'outputs':['p']," COMMON ","
        " 'after':[],'on_failure':'restart-downstream','stuck_timeout_ns':0},"
        "{'id':'e','line':14,'kind':'program','argv':['/bin/e'],'env':{},'cpu_affinity':[],'inputs':[],'outputs':[]," COMMON ","
        " 'after':[{'node':'d','until':'started','line':15}]},"
        "{'id':'d','line':16,'kind':'program','argv':['/bin/d'],'env':{},'cpu_affinity':[],'inputs':[],'outputs':[]," COMMON ","
        " 'after':[{'node':'b','until':'completed','line':17},{'node':'a','until':'started','line':18}]},"
        "{'id':'f','line':19,'kind':'program','argv':['/bin/f'],'env':{},'cpu_affinity':[],'inputs':[],'outputs':[]," COMMON ","
        " 'after':[{'node':'c','until':'started','line':20}]}]}";

static json_t *parse(const char *text)
{
        char copy[8192];
        json_t *json;

        cr_assert_lt(strlen(text), sizeof(copy));
        strcpy(copy, text);
        for (char *c = copy; *c; c++)
                if (*c == '\'')
                        *c = '"';
        json = json_loads(copy, 0, NULL);
        cr_assert_not_null(json, "the test's own JSON: %s", copy);
        return json;
}

Test(plan, names_of_sources_become_indices)
{
        json_t *json = parse(good);
        char why[256] = "";
        Plan *plan = NULL;

        cr_assert_eq(plan_new(&plan, json, why, sizeof(why)), 0, "%s", why);
        json_decref(json);
        cr_assert_eq(plan->n_nodes, 6);
        cr_assert_eq(plan->nodes[1].inputs[0].source_node, 0);
        cr_assert_eq(plan->nodes[1].inputs[0].source_output, 0);
        cr_assert(plan->nodes[1].inputs[0].backpressure);
        cr_assert_eq(plan->nodes[1].inputs[1].timer_ns, 1000);
        cr_assert_eq(plan->nodes[1].restart, PLAN_RESTART_ON_FAILURE);
        cr_assert_str_eq(plan->nodes[1].argv[1], "-x");
        cr_assert_null(plan->nodes[1].argv[2]);
        cr_assert_str_eq(plan->limits.values[LIMIT_PIDS_MAX], "500");
        cr_assert_str_eq(plan->nodes[1].limits.values[LIMIT_CPU_MAX], "150000 100000");
        cr_assert_eq(plan->nodes[1].limits.lines[LIMIT_MEMORY_MAX], 8);
        cr_assert_null(plan->nodes[1].limits.values[LIMIT_MEMORY_HIGH]);
        cr_assert_not(plan->nodes[0].limits.any);
        cr_assert_str_eq(plan->nodes[1].env[1], "V");
        cr_assert_null(plan_free(plan));
}

static Plan *plan_of(const char *text)
{
        json_t *json = parse(text);
        char why[256] = "";
        Plan *plan = NULL;

        cr_assert_eq(plan_new(&plan, json, why, sizeof(why)), 0, "%s", why);
        json_decref(json);
        return plan;
}

Test(plan, nodes_of_after_become_indices_and_say_who_is_late)
{
        static const bool late[] = {false, false, true, true, true, true};
        Plan *plan = plan_of(good);
        size_t place[6];

        cr_assert_eq(plan->nodes[4].n_after, 2);
        cr_expect_eq(plan->nodes[4].after[0].node, 1);
        cr_expect_eq(plan->nodes[4].after[0].until, PLAN_UNTIL_COMPLETED);
        cr_expect_eq(plan->nodes[4].after[0].line, 17);
        cr_expect_eq(plan->nodes[4].after[1].node, 0);
        cr_expect_eq(plan->nodes[4].after[1].until, PLAN_UNTIL_STARTED);
        for (size_t i = 0; i < plan->n_nodes; i++) {
                cr_expect_eq(plan->nodes[i].late, late[i], "%s", plan->nodes[i].id);
                place[plan->sorted[i]] = i;
        }
        for (size_t i = 0; i < plan->n_nodes; i++)
                for (size_t k = 0; k < plan->nodes[i].n_after; k++)
                        cr_expect_lt(place[plan->nodes[i].after[k].node], place[i]);
        (void)plan_free(plan);
}

Test(plan, a_dynamic_node_has_no_program)
{
        Plan *plan = plan_of(good);

        cr_expect_eq(plan->nodes[2].kind, PLAN_KIND_DYNAMIC);
        cr_expect(plan->nodes[2].capture);
        cr_expect_null(plan->nodes[2].argv[0]);
        cr_expect_null(plan->nodes[2].env[0]);
        (void)plan_free(plan);
}

Test(plan, what_follows_a_failure_is_read_and_has_defaults_for_older_plans)
{
        Plan *plan = plan_of(good);

        cr_expect_eq(plan->nodes[0].on_failure, PLAN_ON_FAILURE_IGNORE);
        cr_expect_eq(plan->nodes[0].stuck_timeout_ns, 30 * NSEC_PER_SEC);
        cr_expect_eq(plan->nodes[0].n_after, 0);
        cr_expect_eq(plan->nodes[1].on_failure, PLAN_ON_FAILURE_STOP);
        cr_expect_eq(plan->nodes[1].stuck_timeout_ns, 7);
        cr_expect_eq(plan->nodes[1].health_check_timeout_ns, 9);
        cr_expect_eq(plan->nodes[0].health_check_timeout_ns, 0);
        cr_expect_eq(plan->nodes[2].on_failure, PLAN_ON_FAILURE_RESTART_DOWNSTREAM);
        cr_expect_eq(plan->nodes[2].stuck_timeout_ns, 0);
        (void)plan_free(plan);
}

Test(plan, a_producer_that_starts_after_its_consumer_has_ended_is_refused)
{
        json_t *json = parse(good), *nodes = json_object_get(json, "nodes");
        char why[256] = "";
        Plan *plan = NULL;

        (void)json_object_del(json_array_get(nodes, 1), "after");
        (void)json_object_set_new(json_array_get(nodes, 0), "after",
                json_pack("[{ss ss si}]", "node", "b", "until", "completed", "line", 0));
        (void)json_array_remove(nodes, 4); /* d, which is after a as well */
        (void)json_array_remove(nodes, 3);
        cr_expect_eq(plan_new(&plan, json, why, sizeof(why)), -EINVAL);
        cr_expect_not_null(strstr(why, "has ended"), "%s", why);
        json_decref(json);
}

/* Expected plans of the descriptor room; their first line is the licence. */
Test(plan, what_the_descriptor_room_makes_is_taken)
{
        static const char *const names[] = {"full", "module", "legacy", "cycle", "order", "dynamic", "resources", "on_pressure"};

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                char path[512], line[256], why[256] = "";
                Plan *plan = NULL;
                json_t *json;
                FILE *f;

                (void)snprintf(path, sizeof(path), "%s/%s.plan", FIXTURES, names[i]);
                f = fopen(path, "r");
                cr_assert(f && fgets(line, sizeof(line), f), "%s", path);
                json = json_loadf(f, 0, NULL);
                (void)fclose(f);
                cr_expect_eq(plan_new(&plan, json, why, sizeof(why)), 0, "%s: %s", names[i], why);
                (void)plan_free(plan);
                json_decref(json);
        }
}

static json_t *condition(const char *resource, const char *action, json_int_t threshold, json_int_t window)
{
        return json_pack("{ss ss sI sI si}", "resource", resource, "action", action, "threshold_ns", threshold, "window_ns", window, "line", 21);
}

/* @node -1: of the dataflow. The reason, or "" when it is taken. */
static const char *with_pressure(int node, json_t *take_list, Plan **ret)
{
        static char why[256];
        json_t *json = parse(good);
        Plan *plan = NULL;

        why[0] = '\0';
        (void)json_object_set_new(node < 0 ? json : json_array_get(json_object_get(json, "nodes"), (size_t)node), "on_pressure", take_list);
        cr_expect_eq(plan_new(&plan, json, why, sizeof(why)), why[0] ? -EINVAL : 0);
        json_decref(json);
        if (ret)
                *ret = plan;
        else
                (void)plan_free(plan);
        return why;
}

Test(plan, conditions_of_pressure_are_read)
{
        Plan *plan = NULL;

        cr_assert_str_eq(with_pressure(1, json_pack("[o o]", condition("memory_some", "restart", 150000000, 1000000000), condition("cpu_throttled", "event", 1000, 10000000000)), &plan), "");
        cr_assert_eq(plan->nodes[1].n_pressure, 2);
        cr_expect(plan->nodes[1].pressure[0].kind == PRESSURE_MEMORY_SOME && plan->nodes[1].pressure[0].action == PRESSURE_RESTART);
        cr_expect(plan->nodes[1].pressure[0].threshold == 150 * NSEC_PER_MSEC && plan->nodes[1].pressure[0].window_ns == NSEC_PER_SEC && plan->nodes[1].pressure[0].line == 21);
        cr_expect_eq(plan->nodes[0].n_pressure, 0);
        (void)plan_free(plan);
        cr_assert_str_eq(with_pressure(-1, json_pack("[o]", condition("io_full", "stop", 1000, 500000000)), &plan), "");
        cr_expect(plan->n_pressure == 1 && plan->pressure[0].action == PRESSURE_STOP);
        (void)plan_free(plan);
        cr_expect_str_eq(with_pressure(2, json_pack("[o]", condition("io_full", "stop", 1000, 500000000)), NULL), "", "it is captured");
        cr_assert_str_eq(with_pressure(0, json_pack("[{ss ss si sI si}]", "resource", "memory_high", "action", "event", "times", 100, "window_ns", (json_int_t)NSEC_PER_SEC, "line", 1), &plan), "");
        cr_expect_eq(plan->nodes[0].pressure[0].threshold, 100);
        (void)plan_free(plan);
}

Test(plan, conditions_that_cannot_be_watched_for_or_acted_on_are_refused)
{
        json_t *many = json_array();

        for (int i = 0; i <= PRESSURE_CONDITIONS_MAX; i++)
                (void)json_array_append_new(many, condition("cpu_some", "event", 1000, 500000000));
        cr_expect_not_null(strstr(with_pressure(0, many, NULL), "at most 16"));
        cr_expect_not_null(strstr(with_pressure(0, json_pack("[i]", 1), NULL), "must hold maps"));
        cr_expect_not_null(strstr(with_pressure(0, json_object(), NULL), "must be a list"));
        cr_expect_not_null(strstr(with_pressure(0, json_pack("[o]", condition("memory", "event", 1000, 500000000)), NULL), "\"resource\" must be"));
        cr_expect_not_null(strstr(with_pressure(0, json_pack("[o]", condition("cpu_some", "kill", 1000, 500000000)), NULL), "\"action\" must be"));
        cr_expect_not_null(strstr(with_pressure(0, json_pack("[o]", condition("cpu_some", "event", 1000, 499999000)), NULL), "500ms to 10s"));
        cr_expect_not_null(strstr(with_pressure(0, json_pack("[o]", condition("forks_refused", "event", 1000, 1000000000)), NULL), "\"times\" must be"));
        cr_expect_not_null(strstr(with_pressure(0, json_pack("[o]", condition("cpu_throttled", "event", 1000, 999999000)), NULL), "1s to 10s"));
        cr_expect_not_null(strstr(with_pressure(0, json_pack("[o]", condition("cpu_some", "event", 2000000000, 1000000000)), NULL), "a time in a window"));
        cr_expect_not_null(strstr(with_pressure(0, json_pack("[o]", condition("cpu_some", "restart", 1000, 500000000)), NULL), "needs a restart policy"));
        cr_expect_not_null(strstr(with_pressure(-1, json_pack("[o]", condition("cpu_some", "restart", 1000, 500000000)), NULL), "a dataflow is not restarted"));
}

/* n<i> is after n<i - 1>, and n0 after n<from_first> when there is such a node. */
static json_t *chain(unsigned n, unsigned from_first)
{
        json_t *json = json_pack("{si ss ss ss s[]}", "version", 1, "name", "n", "file", "/d/n.yml", "dir", "/d", "nodes");
        json_t *nodes = json_object_get(json, "nodes");

        for (unsigned i = 0; i < n; i++) {
                unsigned before = i ? i - 1 : from_first;
                char id[16], other[16];
                json_t *after = json_array();

                (void)snprintf(id, sizeof(id), "n%u", i);
                (void)snprintf(other, sizeof(other), "n%u", before);
                if (before < n)
                        (void)json_array_append_new(after, json_pack("{ss ss si}", "node", other, "until", "ready", "line", 0));
                (void)json_array_append_new(nodes,
                        json_pack("{ss si ss s[s] s{} s[] s[] s[] si s{ss si si si si} si si so}", "id", id, "line", 0, "kind",
                                "program", "argv", "/b", "env", "cpu_affinity", "inputs", "outputs", "pool_size", 65536,
                                "restart", "policy", "never", "max_restarts", 0, "delay_ns", 0, "max_delay_ns", 0,
                                "window_ns", 0, "startup_timeout_ns", 1, "finish_grace_ns", 0, "after", after));
        }
        return json;
}

Test(plan, the_longest_chain_is_sorted_and_a_ring_of_it_refused, .timeout = 60)
{
        json_t *json = chain(PLAN_MAX_NODES, UINT32_MAX);
        char why[256] = "";
        Plan *plan = NULL;

        cr_assert_eq(plan_new(&plan, json, why, sizeof(why)), 0, "%s", why);
        for (uint32_t i = 0; i < plan->n_nodes; i++)
                cr_assert_eq(plan->sorted[i], i);
        (void)plan_free(plan);
        json_decref(json);
        json = chain(PLAN_MAX_NODES, PLAN_MAX_NODES - 1);
        cr_assert_eq(plan_new(&plan, json, why, sizeof(why)), -EINVAL);
        cr_expect_not_null(strstr(why, "cycle"), "%s", why);
        json_decref(json);
}

typedef struct Lie {
        char from[64], to[64], says[64];
} Lie;

ParameterizedTestParameters(plan, every_lie_is_refused_with_its_name)
{
        static Lie lies[] = {
                {"'version':1", "'version':2", "\"version\""},
                {"'value':'500'", "'value':'0'", "pids_max"},
                {"'value':'500'", "'value':500", "\"value\""},
                {"'pids_max'", "'pids_mx'", "pids_mx"},
                {"'value':'536870912'", "'value':'512M'", "memory_max"},
                {"'value':'536870912'", "'value':'1\\n2'", "memory_max"},
                {"'cpu_max':{'value':'150000 100000'", "'io_max':{'value':'/dev/../x rbps=1'", "io_max"},
                {"'name':'n'", "'name':'../n'", "\"name\""},
                {"'dir':'/d'", "'dir':'d'", "\"dir\""},
                {"'id':'a'", "'id':'..'", "\"id\""},
                {"'id':'a'", "'id':'a/b'", "\"id\""},
                {"'id':'a'", "'id':''", "\"id\""},
                {"'id':'b'", "'id':'a'", "twice"},
                {"'kind':'node','argv':['/bin/a']", "'kind':'x','argv':['/bin/a']", "\"kind\""},
                {"'argv':['/bin/a']", "'argv':[]", "\"argv\""},
                {"'argv':['/bin/a']", "'argv':[1]", "\"argv\""},
                {"'K':'V'", "'K=':'V'", "\"env\""},
                {"'K':'V'", "'K':7", "\"env\""},
                {"'cpu_affinity':[1]", "'cpu_affinity':[-1]", "\"cpu_affinity\""},
                {"'outputs':['o']", "'outputs':['o'],'wait':'sleep'", "\"wait\""},
                {"'outputs':['o']", "'outputs':['o'],'wait':1", "\"wait\""},
                {"'outputs':['o']", "'outputs':['o'],'placement':'here'", "\"placement\""},
                {"'outputs':['o']", "'outputs':['o','o']", "twice"},
                {"'outputs':['o']", "'outputs':['/o']", "\"outputs\""},
                {"'output':'o'", "'output':'p'", "does not exist"},
                {"'node':'a'", "'node':'c'", "does not exist"},
                {"'queue_size':10", "'queue_size':0", "\"queue_size\""},
                {"'queue_size':10", "'queue_size':65536", "\"queue_size\""},
                {"'queue_size':10", "'queue_size':1.5", "\"queue_size\""},
                {"'backpressure'", "'block'", "\"queue_policy\""},
                {"'timer_ns':1000", "'timer_ns':0", "\"timer_ns\""},
                {"'pool_size':65536", "'pool_size':1", "\"pool_size\""},
                {"'pool_size':65536", "'pool_size':65536,'expected_message':32769", "\"expected_message\""},
                {"'pool_size':65536", "'pool_size':65536,'expected_message':0", "\"expected_message\""},
                {"'pool_size':65536", "'pool_size':1073741825", "\"pool_size\""},
                {"'policy':'on-failure'", "'policy':'maybe'", "\"policy\""},
                {"'max_restarts':3", "'max_restarts':-3", "\"max_restarts\""},
                {"'startup_timeout_ns':1", "'startup_timeout_ns':0", "\"startup_timeout_ns\""},
                {"'source':{'timer_ns':1000}", "'source':[]", "\"source\""},
                {"'env':{}", "'env':[]", "\"env\""},
                {"'id':'t'", "'id':'i'", "twice"},
                {"'argv':['/bin/d']", "'argv':['/bin/d'],'capture':true", "\"capture\""},
                {"'capture':true", "'capture':1", "\"capture\""},
                {"'capture':true,'argv':[]", "'argv':['/bin/c']", "dynamic node"},
                {"'capture':true,'argv':[],'env':{}", "'argv':[],'env':{'K':'V'}", "dynamic node"},
                {"'argv':[],'env':{},'cpu_affinity':[]", "'argv':[],'env':{},'cpu_affinity':[1]", "dynamic node"},
                {"'after':[],", "'after':[{'node':'a','until':'ready','line':1}],", "dynamic node"},
                {"'kind':'dynamic','capture':true", "'kind':'node'", "\"argv\""},
                {"'after':[],", "'after':{},", "\"after\""},
                {"[{'node':'d','until':'started','line':15}]", "[7]", "\"after\""},
                {"'node':'d',", "", "\"node\""},
                {"'node':'d',", "'node':'x',", "does not exist"},
                {"'node':'d',", "'node':'e',", "cycle"},
                {"'node':'b','until':'completed'", "'node':'e','until':'ready'", "cycle"},
                {"'node':'b','until':'completed'", "'node':'a','until':'ready'", "twice"},
                {"'node':'c','until':'started'", "'node':'c','until':'completed'", "dynamic"},
                {"'until':'ready','line':11", "'until':'completed','line':11", "has ended"},
                {"'until':'ready','line':11", "'until':'soon','line':11", "\"until\""},
                {"'until':'ready','line':11", "'until':'ready','line':-1", "\"line\""},
                {"'on_failure':'stop'", "'on_failure':'panic'", "\"on_failure\""},
                {"'on_failure':'stop'", "'on_failure':1", "\"on_failure\""},
                {"'stuck_timeout_ns':7", "'stuck_timeout_ns':-7", "\"stuck_timeout_ns\""},
                {"'stuck_timeout_ns':7", "'stuck_timeout_ns':0", "at most"},
                {"'stuck_timeout_ns':7,'health", "'health", "at most"},
                {"'health_check_timeout_ns':9", "'health_check_timeout_ns':6", "at most"},
                {"'health_check_timeout_ns':9", "'health_check_timeout_ns':'9'", "\"health_check_timeout_ns\""},
                {"'stuck_timeout_ns':0", "'stuck_timeout_ns':1,'health_check_timeout_ns':1", "dynamic node"},
        };

        return cr_make_param_array(Lie, lies, sizeof(lies) / sizeof(lies[0]));
}

ParameterizedTest(Lie *lie, plan, every_lie_is_refused_with_its_name)
{
        char text[4096], why[256] = "";
        const char *at = strstr(good, lie->from);
        Plan *plan = NULL;
        json_t *json;

        cr_assert_not_null(at, "the case `%s` does not occur in the good plan", lie->from);
        snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - good), good, lie->to, at + strlen(lie->from));
        json = parse(text);
        cr_assert_eq(plan_new(&plan, json, why, sizeof(why)), -EINVAL, "`%s` was accepted", lie->to);
        cr_assert_not_null(strstr(why, lie->says), "`%s` says: %s", lie->to, why);
        json_decref(json);
}

Test(plan, what_is_not_a_map_is_refused)
{
        char why[256] = "";
        Plan *plan = NULL;
        json_t *json = json_array();

        cr_assert_eq(plan_new(&plan, json, why, sizeof(why)), -EINVAL);
        cr_assert_eq(plan_new(&plan, NULL, why, sizeof(why)), -EINVAL);
        json_decref(json);
}
