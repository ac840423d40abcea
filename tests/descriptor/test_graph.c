/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "descriptor/descriptor.h"
#include "descriptor/graph.h"

static const char flow[] = "nodes:\n"
                           "- {id: source, path: /s, outputs: [frames], inputs: {tick: dora/timer/millis/10}}\n"
                           "- id: sink\n"
                           "  path: /k\n"
                           "  inputs:\n"
                           "    frames: source/frames\n"
                           "    again: {source: source/frames, queue_size: 100, queue_policy: backpressure}\n"
                           "    small: {source: source/frames, queue_size: 1}\n"
                           "    tick: tidegate/timer/hz/100\n"
                           "    slow: tidegate/timer/secs/90\n"
                           "- {id: alone, path: /a}\n";

static json_t *plan_of(const char *text)
{
        _cleanup_(diagnostics_done) Diagnostics diags = DIAGNOSTICS_INIT;
        json_t *plan = NULL;

        cr_assert_eq(descriptor_parse(text, strlen(text), "/x/a\"b\\.yml", NULL, &plan, &diags), 0);
        return plan;
}

Test(graph, mermaid_shows_nodes_timers_outputs_and_queues)
{
        _cleanup_(json_decrefp) json_t *plan = plan_of(flow);
        _cleanup_free_ char *text = NULL;

        cr_assert_eq(graph_mermaid(plan, &text), 0);
        cr_expect_str_eq(text, "flowchart LR\n"
                               "  n0[\"source\"]\n"
                               "  n1[\"sink\"]\n"
                               "  n2(\"alone\")\n"
                               "  t0{{\"every 10 ms\"}}\n"
                               "  t1{{\"every 90 s\"}}\n"
                               "  t0 -->|\"tick\"| n0\n"
                               "  n0 -->|\"frames\"| n1\n"
                               "  n0 -->|\"frames as again, queue 100 backpressure\"| n1\n"
                               "  n0 -->|\"frames as small, queue 1\"| n1\n"
                               "  t0 -->|\"tick\"| n1\n"
                               "  t1 -->|\"slow\"| n1\n",
                "%s", text);
}

Test(graph, dot_shows_the_same)
{
        _cleanup_(json_decrefp) json_t *plan = plan_of(flow);
        _cleanup_free_ char *text = NULL;

        cr_assert_eq(graph_dot(plan, &text), 0);
        cr_expect_str_eq(text, "digraph \"a_b_\" {\n"
                               "  rankdir=LR;\n"
                               "  node [shape=box];\n"
                               "  n0 [label=\"source\"];\n"
                               "  n1 [label=\"sink\"];\n"
                               "  n2 [label=\"alone\", style=rounded];\n"
                               "  t0 [shape=hexagon, label=\"every 10 ms\"];\n"
                               "  t1 [shape=hexagon, label=\"every 90 s\"];\n"
                               "  t0 -> n0 [label=\"tick\"];\n"
                               "  n0 -> n1 [label=\"frames\"];\n"
                               "  n0 -> n1 [label=\"frames as again, queue 100 backpressure\"];\n"
                               "  n0 -> n1 [label=\"frames as small, queue 1\"];\n"
                               "  t0 -> n1 [label=\"tick\"];\n"
                               "  t1 -> n1 [label=\"slow\"];\n"
                               "}\n",
                "%s", text);
}

static const char ordered[] = "nodes:\n"
                              "- {id: by-hand, path: dynamic, outputs: [o]}\n"
                              "- {id: first, path: /a}\n"
                              "- {id: then, path: /b, inputs: {i: by-hand/o}, after: {first: completed, by-hand: started}}\n"
                              "- {id: last, path: /c, after: [then]}\n";

Test(graph, mermaid_shows_dynamic_nodes_and_the_order_of_starts)
{
        _cleanup_(json_decrefp) json_t *plan = plan_of(ordered);
        _cleanup_free_ char *text = NULL;

        cr_assert_eq(graph_mermaid(plan, &text), 0);
        cr_expect_str_eq(text, "flowchart LR\n"
                               "  n0[/\"by-hand\"/]\n"
                               "  n1(\"first\")\n"
                               "  n2[\"then\"]\n"
                               "  n3(\"last\")\n"
                               "  n0 -->|\"o as i\"| n2\n"
                               "  n0 -.->|\"started\"| n2\n"
                               "  n1 -.->|\"completed\"| n2\n"
                               "  n2 -.->|\"ready\"| n3\n",
                "%s", text);
}

Test(graph, dot_shows_dynamic_nodes_and_the_order_of_starts)
{
        _cleanup_(json_decrefp) json_t *plan = plan_of(ordered);
        _cleanup_free_ char *text = NULL;

        cr_assert_eq(graph_dot(plan, &text), 0);
        cr_expect_str_eq(text, "digraph \"a_b_\" {\n"
                               "  rankdir=LR;\n"
                               "  node [shape=box];\n"
                               "  n0 [label=\"by-hand\", shape=parallelogram];\n"
                               "  n1 [label=\"first\", style=rounded];\n"
                               "  n2 [label=\"then\"];\n"
                               "  n3 [label=\"last\", style=rounded];\n"
                               "  n0 -> n2 [label=\"o as i\"];\n"
                               "  n0 -> n2 [style=dashed, label=\"started\"];\n"
                               "  n1 -> n2 [style=dashed, label=\"completed\"];\n"
                               "  n2 -> n3 [style=dashed, label=\"ready\"];\n"
                               "}\n",
                "%s", text);
}

Test(graph, text_that_means_something_to_the_renderer_is_escaped)
{
        _cleanup_(json_decrefp) json_t *plan = json_pack("{s:s, s:[{s:s, s:s}]}", "name", "q\"\\\n", "nodes", "id",
                "a\"]; b <i>#1;\\\n", "kind", "node");
        _cleanup_free_ char *mermaid = NULL, *dot = NULL;

        cr_assert_eq(graph_mermaid(plan, &mermaid), 0);
        cr_assert_eq(graph_dot(plan, &dot), 0);
        cr_expect_str_eq(mermaid, "flowchart LR\n  n0[\"a#34;#93;#59; b #60;i#62;#35;1#59;#92; \"]\n");
        cr_expect_str_eq(dot,
                "digraph \"q\\\"\\\\ \" {\n  rankdir=LR;\n  node [shape=box];\n  n0 [label=\"a\\\"]; b "
                "<i>#1;\\\\ \"];\n}\n");
}

Test(graph, of_something_that_is_no_plan_is_empty_and_no_crash)
{
        static const char *const texts[] = {"{}", "[]", "{\"nodes\": 5}",
                "{\"nodes\": [5, {}, {\"inputs\": [1, {}, {\"source\": 3}]}]}",
                "{\"nodes\": [{\"id\": \"a\", \"inputs\": [{\"source\": {\"node\": \"none\", \"output\": \"x\"}}]}]}",
                "{\"nodes\": [{\"id\": \"a\", \"kind\": 3, \"after\": [1, {}, {\"node\": \"none\"}, {\"until\": 5}]}]}"};

        for (size_t i = 0; i < ELEMENTSOF(texts); i++) {
                _cleanup_(json_decrefp) json_t *plan = json_loads(texts[i], 0, NULL);
                _cleanup_free_ char *text = NULL;

                cr_assert_not_null(plan);
                cr_assert_eq(graph_mermaid(plan, &text), 0);
                cr_expect_null(strstr(text, "->"), "%s", text);
        }
}
