/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "supervisor/order.h"

/* A node called by one letter: "c a:completed b:ready <d" is after a and b, and reads from d;
 * "c!" is dynamic, "c *" has a timer. */
static json_t *node_of(const char *spec)
{
        _cleanup_free_ char *copy = strdup(spec);
        json_t *after = json_array(), *inputs = json_array(), *node;
        bool dynamic = spec[1] == '!', program = !dynamic && !strpbrk(spec, "<>*");
        char *save = NULL;

        for (char *word = strtok_r(copy + 1, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
                char id[] = {word[0], '\0'}, from[] = {word[1], '\0'};

                if (word[0] == '<')
                        (void)json_array_append_new(inputs,
                                json_pack("{ss si s{ss ss} si ss si}", "id", from, "line", 0, "source", "node", from,
                                        "output", "o", "queue_size", 1, "queue_policy", "drop_oldest", "input_timeout_ns", 0));
                else if (word[0] == '*')
                        (void)json_array_append_new(inputs,
                                json_pack("{ss si s{si} si ss si}", "id", "timer", "line", 0, "source", "timer_ns", 1,
                                        "queue_size", 1, "queue_policy", "drop_oldest", "input_timeout_ns", 0));
                else if (word[1] == ':')
                        (void)json_array_append_new(after, json_pack("{ss ss si}", "node", id, "until", word + 2, "line", 0));
        }
        node = json_pack("{ss# si ss s[] s{} s[] so s[] si s{ss si si si si} si si so}", "id", spec, (size_t)1, "line", 0, "kind",
                dynamic ? "dynamic" : program ? "program" : "node", "argv", "env", "cpu_affinity", "inputs", inputs, "outputs",
                "pool_size", 65536, "restart", "policy", "never", "max_restarts", 0, "delay_ns", 0, "max_delay_ns", 0,
                "window_ns", 0, "startup_timeout_ns", 1, "finish_grace_ns", 0, "after", after);
        cr_assert_not_null(node);
        if (!dynamic)
                (void)json_array_append_new(json_object_get(node, "argv"), json_string("/b"));
        if (!program)
                (void)json_array_append_new(json_object_get(node, "outputs"), json_string("o"));
        return node;
}

typedef struct Fixture {
        Plan *plan;
        Order *order;
        OrderFact facts[16];
} Fixture;

static Fixture fixture_of(const char *const *specs)
{
        json_t *json = json_pack("{si ss ss ss s[]}", "version", 1, "name", "n", "file", "/d/n.yml", "dir", "/d", "nodes");
        Fixture fx = {.plan = NULL};
        char why[256] = "";

        for (size_t i = 0; specs[i]; i++) {
                cr_assert_lt(i, ELEMENTSOF(fx.facts));
                (void)json_array_append_new(json_object_get(json, "nodes"), node_of(specs[i]));
                fx.facts[i].pending = true;
        }
        cr_assert_eq(plan_new(&fx.plan, json, why, sizeof(why)), 0, "%s", why);
        cr_assert_eq(order_new(&fx.order, fx.plan), 0);
        json_decref(json);
        return fx;
}
#define FIXTURE(...) fixture_of((const char *const[]){__VA_ARGS__, NULL})

static void fixture_done(Fixture *fx)
{
        cr_expect_null(order_free(fx->order));
        (void)plan_free(fx->plan);
}
#define _cleanup_fixture_ _cleanup_(fixture_done)

static uint32_t index_of(const Fixture *fx, char id)
{
        uint32_t i = 0;

        while (i < fx->plan->n_nodes && fx->plan->nodes[i].id[0] != id)
                i++;
        cr_assert_lt(i, fx->plan->n_nodes, "no node %c", id);
        return i;
}

static OrderFact *fact(Fixture *fx, char id)
{
        return &fx->facts[index_of(fx, id)];
}

static const OrderFact running = {.started = true, .ready = true}, failed = {.started = true, .ready = true, .final = true},
                       never_ran = {.final = true}, completed = {.started = true, .ready = true, .completed = true, .final = true};

/* "a+ b~ c-" for start, wait and never of those that are pending, in the plan's order. */
static const char *answers(const Fixture *fx, char *buffer)
{
        static const char signs[_ORDER_ANSWER_MAX] = {[ORDER_START] = '+', [ORDER_WAIT] = '~', [ORDER_NEVER] = '-'};
        OrderAnswer all[16];
        char *p = buffer;

        order_answers(fx->plan, fx->facts, all);
        *p = '\0';
        for (size_t i = 0; i < fx->plan->n_nodes; i++)
                if (fx->facts[i].pending)
                        p += sprintf(p, "%s%s%c", p == buffer ? "" : " ", fx->plan->nodes[i].id, signs[all[i]]);
        return buffer;
}

#define EXPECT_ANSWERS(fx, wanted)                                                                                     \
        do {                                                                                                           \
                char _buffer[128];                                                                                     \
                cr_expect_str_eq(answers((fx), _buffer), (wanted), "%s", _buffer);                                     \
        } while (0)

Test(order_start, each_condition_waits_for_what_it_says)
{
        _cleanup_fixture_ Fixture fx = FIXTURE("x >", "s x:started", "r x:ready", "c x:completed", "z");

        EXPECT_ANSWERS(&fx, "x+ s~ r~ c~ z+");
        *fact(&fx, 'x') = (OrderFact){.pending = false};
        EXPECT_ANSWERS(&fx, "s~ r~ c~ z+");
        *fact(&fx, 'x') = (OrderFact){.started = true};
        EXPECT_ANSWERS(&fx, "s+ r~ c~ z+");
        *fact(&fx, 'x') = running;
        EXPECT_ANSWERS(&fx, "s+ r+ c~ z+");
        *fact(&fx, 'x') = completed;
        EXPECT_ANSWERS(&fx, "s+ r+ c+ z+");
}

Test(order_start, all_conditions_must_hold_and_the_answer_names_one_that_does_not)
{
        _cleanup_fixture_ Fixture fx = FIXTURE("a", "b", "c", "n a:ready b:completed c:started");
        uint32_t n = index_of(&fx, 'n');
        const PlanAfter *blame = NULL;

        *fact(&fx, 'a') = running;
        cr_expect_eq(order_may_start(fx.plan, fx.facts, n, &blame), ORDER_WAIT);
        cr_assert_not_null(blame);
        cr_expect_eq(blame->node, index_of(&fx, 'b'));
        *fact(&fx, 'b') = completed;
        cr_expect_eq(order_may_start(fx.plan, fx.facts, n, &blame), ORDER_WAIT);
        cr_expect_eq(blame->node, index_of(&fx, 'c'));
        *fact(&fx, 'c') = running;
        cr_expect_eq(order_may_start(fx.plan, fx.facts, n, NULL), ORDER_START);
}

Test(order_start, what_was_once_reached_stays_reached)
{
        _cleanup_fixture_ Fixture fx = FIXTURE("x", "s x:started", "r x:ready", "c x:completed");

        *fact(&fx, 'x') = failed;
        EXPECT_ANSWERS(&fx, "s+ r+ c-");
}

Test(order_start, who_waits_for_one_that_ended_too_early_never_starts_and_nor_do_those_behind)
{
        _cleanup_fixture_ Fixture fx = FIXTURE("e d:ready", "d c:started a:ready", "c a:completed", "a", "b", "f a:started b:ready");
        const PlanAfter *blame = NULL;

        *fact(&fx, 'a') = never_ran;
        EXPECT_ANSWERS(&fx, "e- d- c- b+ f-");
        cr_expect_eq(order_may_start(fx.plan, fx.facts, index_of(&fx, 'f'), &blame), ORDER_NEVER);
        cr_assert_not_null(blame);
        cr_expect_eq(blame->node, index_of(&fx, 'a'));
}

Test(order_start, never_outweighs_wait_whichever_comes_first)
{
        _cleanup_fixture_ Fixture fx = FIXTURE("a", "b", "n b:ready a:ready", "m a:ready b:ready");
        const PlanAfter *blame = NULL;

        *fact(&fx, 'a') = never_ran;
        EXPECT_ANSWERS(&fx, "b+ n- m-");
        (void)order_may_start(fx.plan, fx.facts, index_of(&fx, 'n'), &blame);
        cr_assert_not_null(blame);
        cr_expect_eq(blame->node, index_of(&fx, 'a'));
}

Test(order_start, a_node_in_backoff_is_waited_for)
{
        _cleanup_fixture_ Fixture fx = FIXTURE("x", "c x:completed");

        *fact(&fx, 'x') = (OrderFact){.started = true, .ready = true}; /* ended, and another life follows */
        EXPECT_ANSWERS(&fx, "c~");
}

Test(order_dependents, are_those_directly_after_a_node)
{
        _cleanup_fixture_ Fixture fx = FIXTURE("a >", "b a:ready", "c b:ready", "d a:started b:ready <a", "e <a");
        const uint32_t *nodes;
        size_t n;

        nodes = order_dependents(fx.order, index_of(&fx, 'a'), &n);
        cr_assert_eq(n, 2);
        cr_expect_eq(nodes[0], index_of(&fx, 'b'));
        cr_expect_eq(nodes[1], index_of(&fx, 'd'));
        (void)order_dependents(fx.order, index_of(&fx, 'e'), &n);
        cr_expect_eq(n, 0);
}

/* "a<c b c<e": a is held by c, b is free, c is held by e. Of final and pending nodes nothing is said. */
static void expect_held(Fixture *fx, nsec_t now, const char *wanted)
{
        uint32_t held[16];
        char buffer[128], *p = buffer;

        order_held(fx->order, fx->facts, now, 100, held);
        *p = '\0';
        for (size_t i = 0; i < fx->plan->n_nodes; i++) {
                if (fx->facts[i].final || fx->facts[i].pending)
                        continue;
                p += sprintf(p, "%s%s", p == buffer ? "" : " ", fx->plan->nodes[i].id);
                if (held[i] != ORDER_FREE)
                        p += sprintf(p, "<%s", fx->plan->nodes[held[i]].id);
        }
        cr_expect_str_eq(buffer, wanted, "%s", buffer);
}

static void all_running(Fixture *fx)
{
        for (size_t i = 0; i < fx->plan->n_nodes; i++)
                fx->facts[i] = running;
}

Test(order_stop, runs_in_reverse_level_by_level)
{
        _cleanup_fixture_ Fixture fx = FIXTURE("a", "b a:ready", "c b:started", "d a:ready", "z");

        all_running(&fx);
        expect_held(&fx, 0, "a<b b<c c d z");
        *fact(&fx, 'c') = failed;
        expect_held(&fx, 0, "a<b b d z");
        *fact(&fx, 'b') = completed;
        expect_held(&fx, 0, "a<d d z");
        *fact(&fx, 'd') = failed;
        expect_held(&fx, 0, "a z");
}

Test(order_stop, looks_through_nodes_that_ended_by_themselves_or_never_ran)
{
        _cleanup_fixture_ Fixture fx = FIXTURE("a", "b a:ready", "c b:completed", "d a:ready", "e d:started");

        all_running(&fx);
        *fact(&fx, 'b') = completed;
        *fact(&fx, 'd') = (OrderFact){.pending = true};
        *fact(&fx, 'e') = (OrderFact){.pending = true};
        expect_held(&fx, 0, "a<c c");
        *fact(&fx, 'c') = failed;
        expect_held(&fx, 0, "a");
}

Test(order_stop, holds_nobody_from_the_time_of_sigterm_on)
{
        _cleanup_fixture_ Fixture fx = FIXTURE("a", "b a:ready", "c b:ready");

        all_running(&fx);
        expect_held(&fx, 99, "a<b b<c c");
        expect_held(&fx, 100, "a b c");
        expect_held(&fx, NSEC_NEVER, "a b c");
}

static void expect_downstream(Fixture *fx, char id, const char *wanted)
{
        uint32_t nodes[16];
        char got[17] = "";
        size_t n = order_downstream(fx->order, index_of(fx, id), nodes);

        for (size_t i = 0; i < n; i++)
                got[i] = fx->plan->nodes[nodes[i]].id[0];
        got[n] = '\0';
        cr_expect_str_eq(got, wanted, "%s", got);
}

Test(order_downstream, follows_links_and_after_and_leaves_the_rest)
{
        _cleanup_fixture_ Fixture fx = FIXTURE("a >", "b <a >", "c <b", "d b:ready", "e d:ready", "u *", "v > *", "w <v");

        expect_downstream(&fx, 'a', "bcde");
        expect_downstream(&fx, 'd', "e");
        expect_downstream(&fx, 'u', "");
        expect_downstream(&fx, 'v', "w");
}

Test(order_downstream, is_in_the_order_of_starts_whatever_the_order_in_the_file)
{
        _cleanup_fixture_ Fixture fx = FIXTURE("e d:ready", "d c:ready a:started", "c a:ready", "a");

        expect_downstream(&fx, 'a', "cde");
}

Test(order_downstream, of_a_loop_of_links_is_everybody_but_the_node_itself)
{
        _cleanup_fixture_ Fixture fx = FIXTURE("a <c >", "b <a >", "c <b <c >");

        expect_downstream(&fx, 'a', "bc");
        expect_downstream(&fx, 'b', "ac");
}

Test(order_downstream, passes_through_dynamic_nodes_and_leaves_them_out)
{
        _cleanup_fixture_ Fixture fx = FIXTURE("a >", "h! <a", "c <h", "d h:started");

        expect_downstream(&fx, 'a', "cd");
}
