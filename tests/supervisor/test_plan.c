/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <string.h>

#include "supervisor/plan.h"

static const char good[] =
        "{'version':1,'name':'n','file':'/d/n.yml','dir':'/d','finish_grace_ns':1,'nodes':["
        "{'id':'a','line':3,'kind':'node','argv':['/bin/a'],'env':{},'cpu_affinity':[],'inputs':[],'outputs':['o'],"
        " 'pool_size':8388608,'restart':{'policy':'never','max_restarts':0,'delay_ns':0,'max_delay_ns':0,'window_ns':0},"
        " 'startup_timeout_ns':60000000000,'finish_grace_ns':1},"
        "{'id':'b','line':7,'kind':'node','argv':['/bin/b','-x'],'env':{'K':'V'},'cpu_affinity':[1],'inputs':["
        "  {'id':'i','line':9,'source':{'node':'a','output':'o'},'queue_size':10,'queue_policy':'backpressure','input_timeout_ns':5},"
        "  {'id':'t','line':10,'source':{'timer_ns':1000},'queue_size':1,'queue_policy':'drop_oldest','input_timeout_ns':0}],"
        " 'outputs':[],'pool_size':65536,"
        " 'restart':{'policy':'on-failure','max_restarts':3,'delay_ns':1,'max_delay_ns':2,'window_ns':3},"
        " 'startup_timeout_ns':1,'finish_grace_ns':0}]}";

static json_t *parse(const char *text)
{
        char copy[4096];
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
        cr_assert_eq(plan->n_nodes, 2);
        cr_assert_eq(plan->nodes[1].inputs[0].source_node, 0);
        cr_assert_eq(plan->nodes[1].inputs[0].source_output, 0);
        cr_assert(plan->nodes[1].inputs[0].backpressure);
        cr_assert_eq(plan->nodes[1].inputs[1].timer_ns, 1000);
        cr_assert_eq(plan->nodes[1].restart, PLAN_RESTART_ON_FAILURE);
        cr_assert_str_eq(plan->nodes[1].argv[1], "-x");
        cr_assert_null(plan->nodes[1].argv[2]);
        cr_assert_str_eq(plan->nodes[1].env[1], "V");
        cr_assert_null(plan_free(plan));
}

typedef struct Lie {
        char from[64], to[64], says[64];
} Lie;

ParameterizedTestParameters(plan, every_lie_is_refused_with_its_name)
{
        static Lie lies[] = {
                {"'version':1", "'version':2", "\"version\""},
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
                {"'policy':'on-failure'", "'policy':'maybe'", "\"policy\""},
                {"'max_restarts':3", "'max_restarts':-3", "\"max_restarts\""},
                {"'startup_timeout_ns':1", "'startup_timeout_ns':0", "\"startup_timeout_ns\""},
                {"'source':{'timer_ns':1000}", "'source':[]", "\"source\""},
                {"'env':{}", "'env':[]", "\"env\""},
                {"'id':'t'", "'id':'i'", "twice"},
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
