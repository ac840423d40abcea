/* SPDX-License-Identifier: Apache-2.0 */
/* What `tidegate top` makes of what it is told: figures, order, keys, and pictures of every size. */
#include <criterion/criterion.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/print.h"
#include "cli/top-view.h"

#define UUID "0192f0c4-1111-7222-8333-444455556666"
#define S    NSEC_PER_SEC
#define T0   (100000 * S)

static void utf8(void)
{
        cr_assert_not_null(setlocale(LC_CTYPE, "C.UTF-8"));
}

TestSuite(picture, .init = utf8, .timeout = 20);
TestSuite(top_model, .init = utf8, .timeout = 20);
TestSuite(top_ui, .init = utf8, .timeout = 20);
TestSuite(top_view, .init = utf8, .timeout = 60);

/* ---- picture */

static void line_is(const Picture *p, int row, const char *expected)
{
        _cleanup_free_ char *line = picture_line(p, row);

        cr_assert_str_eq(line, expected);
}

/* @text in @width of 20 cells, between two bars. */
static void shown(const char *text, int width, bool ascii, const char *expected)
{
        Picture p;

        cr_assert_eq(picture_init(&p, 1, 20, ascii), 0);
        (void)picture_put(&p, 0, 1, width, PICTURE_PLAIN, text);
        (void)picture_put(&p, 0, 0, 1, PICTURE_PLAIN, "|");
        (void)picture_put(&p, 0, 1 + width, 1, PICTURE_PLAIN, "|");
        line_is(&p, 0, expected);
        picture_done(&p);
}

Test(picture, cuts_text_and_says_so)
{
        shown("camera", 6, false, "|camera|");
        shown("cameras", 6, false, "|camer\u2026|");
        shown("cameras", 6, true, "|camer~|");
        shown("cameras", 1, true, "|~|");
}

Test(picture, keeps_wide_characters_within_their_cells)
{
        shown("\u6f6e\u6c34", 4, false, "|\u6f6e\u6c34|");
        shown("\u6f6e\u6c34\u9580", 4, false, "|\u6f6e\u2026 |"); /* no half character */
        shown("\u6f6e\u6c34\u9580", 5, false, "|\u6f6e\u6c34\u2026|");
        shown("\u6f6e", 1, false, "|\u2026|");
        shown("e\u0301tude", 5, false, "|etude|"); /* a mark has no cell of its own */
        cr_assert_eq(picture_width("\u6f6e\u6c34x", false), 5);
}

Test(picture, lets_no_text_control_the_terminal)
{
        shown("a\033[31mb", 10, false, "|a?[31mb   |");
        shown("a\nb\tc\177", 6, false, "|a?b?c?|");
        shown("a\xc2\x9b" "1m", 4, false, "|a?1m|"); /* CSI as one character */
        shown("a\xff\xfe", 3, false, "|a\ufffd\ufffd|");
        shown("a\u202eb", 3, false, "|ab |"); /* turns the direction round */
        shown("\u6f6ea", 3, true, "|?a |");
}

Test(picture, has_nothing_outside)
{
        Picture p;

        cr_assert_eq(picture_init(&p, 2, 3, true), 0);
        cr_assert_eq(picture_put(&p, 2, 0, 3, PICTURE_PLAIN, "x"), 0);
        cr_assert_eq(picture_put(&p, -1, 0, 3, PICTURE_PLAIN, "x"), 0);
        cr_assert_eq(picture_put(&p, 0, 3, 3, PICTURE_PLAIN, "x"), 0);
        cr_assert_eq(picture_put(&p, 1, 2, 300, PICTURE_PLAIN, "xyz"), 1);
        picture_bar(&p, 0, 2, 10, 1);
        line_is(&p, 0, "  [");
        line_is(&p, 1, "  ~");
        picture_done(&p);
}

Test(picture, levels_change_above_60_and_85_percent)
{
        cr_assert_eq(picture_level(0), PICTURE_GOOD);
        cr_assert_eq(picture_level(0.60), PICTURE_GOOD);
        cr_assert_eq(picture_level(0.601), PICTURE_WARN);
        cr_assert_eq(picture_level(0.85), PICTURE_WARN);
        cr_assert_eq(picture_level(0.851), PICTURE_BAD);
        cr_assert_eq(picture_level(7), PICTURE_BAD);
}

static void bar_is(double share, bool ascii, const char *expected, PictureStyle style)
{
        Picture p;

        cr_assert_eq(picture_init(&p, 1, 12, ascii), 0);
        picture_bar(&p, 0, 0, 12, share);
        line_is(&p, 0, expected);
        if (p.cells[1].character != ' ')
                cr_assert_eq(p.cells[1].style, style, "%f: style %d", share, p.cells[1].style);
        picture_done(&p);
}

Test(picture, bars_have_the_length_and_colour_of_their_share)
{
        bar_is(0, true, "[          ]", PICTURE_PLAIN);
        bar_is(0.001, true, "[#         ]", PICTURE_GOOD);
        bar_is(0.5, true, "[#####     ]", PICTURE_GOOD);
        bar_is(0.8, true, "[########  ]", PICTURE_WARN);
        bar_is(1, true, "[##########]", PICTURE_BAD);
        bar_is(3, true, "[##########]", PICTURE_BAD);
        bar_is(0.45, false, "[\u2588\u2588\u2588\u2588\u258c     ]", PICTURE_GOOD);
        bar_is(0.001, false, "[\u258f         ]", PICTURE_GOOD);
        bar_is(-1, false, "[          ]", PICTURE_PLAIN);
}

/* ---- a model with two nodes and a link */

static void put_page(TopModel *model, StatusVerdict verdict, StatusReason reason, uint64_t generation, nsec_t now)
{
        struct status_dataflow d[2] = {
                {.serial = 1, .uuid = UUID, .name = "audio", .state = STATUS_DATAFLOW_RUNNING, .n_nodes = 3},
                {.serial = 2, .uuid = "dead", .name = "old", .state = STATUS_DATAFLOW_ENDED},
        };
        struct status_node n[4] = {
                {.serial = 1, .id = "source", .state = STATUS_NODE_RUNNING, .health = STATUS_HEALTH_OK, .generation = generation, .pid = 7,
                        .since_ns = T0 - 61 * S, .waits_for = STATUS_NONE},
                {.serial = 1, .id = "dft", .index = 1, .state = STATUS_NODE_RUNNING, .health = STATUS_HEALTH_STUCK, .generation = 1, .restarts = 2,
                        .since_ns = T0 - 5 * S, .waits_for = STATUS_NONE},
                {.serial = 1, .id = "sink", .index = 2, .state = STATUS_NODE_FAILED, .health = STATUS_HEALTH_IDLE, .generation = 1, .since_ns = T0},
                {.serial = 2, .dataflow = 1, .id = "gone", .state = STATUS_NODE_STOPPED},
        };
        StatusView view = {.verdict = verdict, .reason = reason, .why = "it is said why", .dataflows = d, .n_dataflows = 2, .nodes = n, .n_nodes = 4,
                .info = {.pid = 42, .guard_pid = 41, .guard = STATUS_GUARD_OK, .started_at_ns = T0 - 3600 * S}};

        cr_assert_eq(top_model_put_page(model, &view, now), 0);
}

static json_t *status(long long published, long long dropped, long long depth)
{
        return json_pack("[{ss ss ss s[{ss ss sI ss ss} {ss ss sI s[{ss ss sb}] s[{ss ss ss ss ss si s{sI sI sI sI s{sI}}}]}]}]", "uuid", UUID, "name",
                "audio", "state", "running", "nodes", "id", "source", "state", "running", "generation", (json_int_t)1, "health", "ok", "kind", "node",
                "id", "dft", "state", "running", "generation", (json_int_t)1, "limits", "key", "memory_max", "value", "1048576", "enforced", 1, "links",
                "input", "in", "source", "source", "output", "frames", "state", "active", "queue_policy", "drop_oldest", "queue_size", 10, "counters",
                "published", (json_int_t)published, "delivered", (json_int_t)(published - dropped - depth), "depth", (json_int_t)depth, "age_us",
                (json_int_t)1500, "dropped", "window", (json_int_t)dropped);
}

static void put_status(TopModel *model, long long published, long long dropped, long long depth, nsec_t now)
{
        json_t *dataflows = status(published, dropped, depth);

        cr_assert_not_null(dataflows);
        cr_assert_eq(top_model_put_status(model, dataflows, now), 0);
        json_decref(dataflows);
}

static void put_usage(TopModel *model, const char *node, long long generation, nsec_t cpu_ns, long long memory, nsec_t now)
{
        json_t *usage = json_pack("[{ss sI sI sI si si s{s{sf sf}}}]", "node", node, "generation", (json_int_t)generation, "cpu_ns", (json_int_t)cpu_ns,
                "memory_bytes", (json_int_t)memory, "processes", 2, "threads", 5, "pressure", "memory", "some", 1.5, "full", 0.5);

        top_model_put_usage(model, UUID, usage, now);
        json_decref(usage);
}

static TopModel model_make(void)
{
        TopModel model = TOP_MODEL_NULL;

        model.fresh_span = 4 * S;
        put_page(&model, STATUS_VERDICT_OK, STATUS_REASON_NONE, 1, T0);
        put_status(&model, 1000, 0, 9, T0);
        put_usage(&model, "source", 1, 5 * S, 4096, T0);
        put_usage(&model, "dft", 1, 1 * S, 900000, T0);
        return model;
}

static const TopNode *the_node(const TopModel *model, const char *id)
{
        const TopNode *node = top_model_node(model, UUID, id);

        cr_assert_not_null(node, "%s is not there", id);
        return node;
}

Test(top_model, has_the_nodes_of_the_page_and_not_what_has_ended)
{
        TopModel m = model_make();

        cr_assert_eq(m.n_nodes, 3);
        cr_assert_eq(m.n_dataflows, 1);
        cr_assert_str_eq(m.nodes[1].id, "dft");
        cr_assert_eq(m.nodes[1].restarts, 2);
        cr_assert_eq(m.nodes[1].memory_max, 1048576);
        cr_assert_eq(m.nodes[0].memory_max, 0);
        top_model_done(&m);
}

Test(top_model, wants_dataflows_by_name_or_the_beginning_of_a_uuid)
{
        static const char *const names[] = {"audio", "0192"};
        TopModel m = TOP_MODEL_NULL;

        m.names = names;
        m.n_names = 2;
        cr_assert(top_model_wants(&m, "audio", "x", false));
        cr_assert(top_model_wants(&m, "video", UUID, true));
        cr_assert_not(top_model_wants(&m, "video", "x", false));
        cr_assert_not(top_model_wants(&m, "audio", "x", true), "one that has ended is another than the one that runs");
        m.ended = true;
        cr_assert(top_model_wants(&m, "audio", "x", true));
}

Test(top_model, rates_are_of_the_time_between_two_answers)
{
        TopModel m = model_make();

        cr_assert_lt(m.links[0].rate, 0, "one look has no rate");
        put_status(&m, 1300, 30, 4, T0 + 2 * S);
        cr_assert_float_eq(m.links[0].rate, 150, 1e-9);
        cr_assert_float_eq(m.links[0].drop_rate, 15, 1e-9);
        cr_assert_eq(m.links[0].dropped, 30);
        cr_assert_float_eq(top_link_fill(&m.links[0]), 0.4, 1e-9);
        put_status(&m, 20, 0, 0, T0 + 3 * S); /* another life of the producer */
        cr_assert_lt(m.links[0].rate, 0, "a counter that went back has no rate");
        top_model_done(&m);
}

Test(top_model, cpu_is_of_one_life_of_a_node)
{
        TopModel m = model_make();
        json_t *late;

        cr_assert_lt(the_node(&m, "source")->usage.cpu_percent, 0);
        put_usage(&m, "source", 1, 5 * S + S / 2, 4096, T0 + S);
        cr_assert_float_eq(the_node(&m, "source")->usage.cpu_percent, 50, 1e-9);
        cr_assert_float_eq(the_node(&m, "source")->usage.some[TOP_MEMORY], 1.5, 1e-9);
        cr_assert_lt(the_node(&m, "source")->usage.some[TOP_IO], 0);
        put_page(&m, STATUS_VERDICT_OK, STATUS_REASON_NONE, 1, T0 + S);
        cr_assert_float_eq(the_node(&m, "source")->usage.cpu_percent, 50, 1e-9, "it stays when the page is read again");
        late = json_pack("[{ss si sI sI}]", "node", "source", "generation", 1, "cpu_ns", (json_int_t)(5 * S + S / 2 + S / 4), "at_ms",
                (json_int_t)((T0 + 2 * S) / NSEC_PER_MSEC));
        top_model_put_usage(&m, UUID, late, T0 + 3 * S);
        cr_assert_float_eq(the_node(&m, "source")->usage.cpu_percent, 25, 1e-9, "by the time at which it was read");
        json_decref(late);
        put_usage(&m, "source", 2, 9 * S, 4096, T0 + 2 * S);
        cr_assert_eq(the_node(&m, "source")->usage.cpu_ns, 5 * S + S / 4 + S / 2, "of a life that the page does not know yet");
        put_page(&m, STATUS_VERDICT_OK, STATUS_REASON_NONE, 2, T0 + 2 * S);
        cr_assert_eq(the_node(&m, "source")->usage.at, 0, "what was measured of the last life is not of this one");
        top_model_done(&m);
}

Test(top_model, forgets_what_is_old)
{
        TopModel m = model_make();

        cr_assert(top_usage_fresh(&m, &m.nodes[0].usage, T0 + 4 * S - 1));
        cr_assert_not(top_usage_fresh(&m, &m.nodes[0].usage, T0 + 4 * S));
        cr_assert(top_link_fresh(&m, &m.links[0], T0 + 4 * S - 1));
        cr_assert_not(top_link_fresh(&m, &m.links[0], T0 + 4 * S));
        top_model_done(&m);
}

Test(top_model, looks_at_processes_where_nobody_says_what_is_used)
{
        TopModel m = TOP_MODEL_NULL;
        json_t *entry = json_pack("{s[{ss s[{si si}]} {ss s[{si si} {si si}]} {ss s[{si si}]}]}", "groups", "path", "source.1", "processes", "memory", 100,
                "cpu_ms", 1000, "path", "dft.1/deeper", "processes", "memory", 10, "cpu_ms", 300, "memory", 20, "cpu_ms", 50, "path", "dft.12",
                "processes", "memory", 5000, "cpu_ms", 5000);

        m.fresh_span = 4 * S;
        put_page(&m, STATUS_VERDICT_OK, STATUS_REASON_NONE, 1, T0);
        top_model_put_look(&m, UUID, entry, T0);
        cr_assert_eq(the_node(&m, "dft")->usage.memory_bytes, 30);
        cr_assert_eq(the_node(&m, "dft")->usage.processes, 2);
        cr_assert_eq(the_node(&m, "sink")->usage.at, 0);
        put_usage(&m, "dft", 1, 7 * S, 999, T0 + S);
        cr_assert_lt(the_node(&m, "dft")->usage.cpu_percent, 0, "two sources are not compared");
        top_model_put_look(&m, UUID, entry, T0 + 2 * S);
        cr_assert_eq(the_node(&m, "dft")->usage.memory_bytes, 999, "the supervisor's word is the better one");
        top_model_put_look(&m, UUID, entry, T0 + 9 * S);
        cr_assert_eq(the_node(&m, "dft")->usage.memory_bytes, 30, "until it is old");
        json_decref(entry);
        top_model_done(&m);
}

Test(top_model, says_since_when_the_daemon_is_gone)
{
        TopModel m = model_make();

        put_page(&m, STATUS_VERDICT_NONE, STATUS_REASON_MISSING, 1, T0 + S);
        cr_assert_eq(m.daemon.lost_since, 0, "it has answered: the page alone is missing");
        top_model_put_silence(&m, "it hung up", T0 + 2 * S);
        put_page(&m, STATUS_VERDICT_NONE, STATUS_REASON_MISSING, 1, T0 + 3 * S);
        put_page(&m, STATUS_VERDICT_NONE, STATUS_REASON_MISSING, 1, T0 + 4 * S);
        cr_assert_eq(m.daemon.lost_since, T0 + 2 * S);
        cr_assert_eq(m.n_nodes, 3, "what was known last stays to be seen");
        put_page(&m, STATUS_VERDICT_OK, STATUS_REASON_NONE, 1, T0 + 5 * S);
        cr_assert_eq(m.daemon.lost_since, 0);
        put_status(&m, 1, 0, 0, T0 + 5 * S);
        cr_assert_eq(m.daemon.silent_since, 0);
        top_model_done(&m);
}

Test(top_model, takes_nodes_from_the_supervisor_where_there_is_no_page)
{
        TopModel m = TOP_MODEL_NULL;

        put_page(&m, STATUS_VERDICT_NONE, STATUS_REASON_UNREADABLE, 1, T0);
        put_status(&m, 5, 0, 0, T0);
        cr_assert_eq(m.n_nodes, 2);
        cr_assert_eq(m.nodes[0].state, STATUS_NODE_RUNNING);
        cr_assert_eq(m.daemon.lost_since, 0);
        top_model_done(&m);
}

Test(top_model, refuses_what_is_no_answer)
{
        TopModel m = model_make();
        json_t *odd = json_pack("[n, {ss}, i, {s[n {s[n]}]}]", "uuid", UUID, 3, "nodes", "links"), *none = json_object();

        cr_assert_not_null(odd);
        cr_assert_lt(top_model_put_status(&m, NULL, T0), 0);
        cr_assert_lt(top_model_put_status(&m, none, T0), 0);
        cr_assert_eq(top_model_put_status(&m, odd, T0), 0);
        top_model_put_usage(&m, UUID, odd, T0);
        top_model_put_usage(&m, UUID, none, T0);
        top_model_put_look(&m, UUID, odd, T0);
        cr_assert_eq(m.n_nodes, 3);
        json_decref(odd);
        json_decref(none);
        top_model_done(&m);
}

Test(top_model, reads_the_host)
{
        static const char first[] = "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3\ncpu1 1 2 3\nintr 5\n";
        static const char second[] = "cpu  150 0 150 750 150 0 0 0 0 0\ncpu0 1 2 3\ncpu1 1 2 3\nintr 5\n";
        static const char psi[] = "some avg10=1.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.25 avg60=9.00 avg300=0.00 total=1\n";
        const char *const pressure[] = {psi, NULL, "some nonsense"};
        TopModel m = TOP_MODEL_NULL;

        top_host_put(&m.host, first, pressure, T0);
        cr_assert_lt(m.host.cpu_percent, 0);
        cr_assert_eq(m.host.n_cpus, 2);
        top_host_put(&m.host, second, pressure, T0 + S);
        cr_assert_float_eq(m.host.cpu_percent, 50, 1e-9);
        cr_assert_float_eq(m.host.some[TOP_CPU], 1.5, 1e-9);
        cr_assert_float_eq(m.host.full[TOP_CPU], 0.25, 1e-9);
        cr_assert_lt(m.host.some[TOP_MEMORY], 0);
        cr_assert_lt(m.host.some[TOP_IO], 0);
        top_host_put(&m.host, NULL, pressure, T0 + 2 * S);
        cr_assert_lt(m.host.cpu_percent, 0);
}

static json_t *probes(long long at_ms, long long attached_at_ms, int reads, int opens)
{
        return json_pack("{sb sI sI s{sf} s[{ss si s[{ss sI sI sI s[iii]} {ss sI sI sI s[iiiiii]}]}]}", "attached", 1, "at_ms", (json_int_t)at_ms,
                "attached_at_ms", (json_int_t)attached_at_ms, "cost", "share", 0.012, "nodes", "node", "source", "generation", 1, "calls", "call", "read",
                "count", (json_int_t)reads, "errors", (json_int_t)0, "total_ns", (json_int_t)5, "log2_ns", 0, reads, 0, "call", "openat", "count",
                (json_int_t)opens, "errors", (json_int_t)2, "total_ns", (json_int_t)500, "log2_ns", 0, 0, 0, 0, 0, opens);
}

static void put_probes(TopModel *model, json_t *take, nsec_t now)
{
        cr_assert_not_null(take);
        top_model_put_probes(model, UUID, take, now);
        json_decref(take);
}

Test(top_model, calls_are_of_the_time_between_two_answers)
{
        TopModel m = model_make();

        put_probes(&m, probes(5000, 1000, 100, 7), T0);
        cr_assert_lt(the_node(&m, "source")->calls.per_second, 0);
        cr_assert_float_eq(top_model_probe_share(&m), 0.012, 1e-9);
        put_probes(&m, probes(7000, 1000, 300, 7), T0 + 2 * S);
        cr_assert_float_eq(the_node(&m, "source")->calls.per_second, 100, 1e-9);
        cr_assert_str_eq(the_node(&m, "source")->calls.worst, "read", "openat was not called since");
        cr_assert_eq(the_node(&m, "source")->calls.worst_p99_ns, 4);
        put_probes(&m, probes(8000, 1000, 301, 9), T0 + 3 * S);
        cr_assert_str_eq(the_node(&m, "source")->calls.worst, "openat");
        cr_assert_eq(the_node(&m, "source")->calls.worst_p99_ns, 64);
        put_probes(&m, probes(9000, 8500, 3, 1), T0 + 4 * S);
        cr_assert_lt(the_node(&m, "source")->calls.per_second, 0, "they were attached anew");
        put_page(&m, STATUS_VERDICT_OK, STATUS_REASON_NONE, 2, T0 + 4 * S);
        cr_assert_eq(the_node(&m, "source")->calls.at, 0, "another life");
        put_probes(&m, json_pack("{sb ss}", "attached", 0, "reason", "over budget"), T0 + 5 * S);
        cr_assert_eq(json_object_size(m.probed), 0);
        cr_assert_lt(top_model_probe_share(&m), 0);
        top_model_done(&m);
}

Test(top_model, json_says_null_for_what_is_not_known)
{
        TopModel m = model_make();
        json_t *json, *node, *link;

        put_status(&m, 1300, 30, 4, T0 + 2 * S);
        put_usage(&m, "source", 1, 6 * S, 4096, T0 + 2 * S);
        json = top_model_json(&m, T0 + 2 * S);
        node = json_array_get(json_object_get(json, "nodes"), 0);
        link = json_array_get(json_object_get(json, "links"), 0);
        cr_assert_float_eq(json_number_value(json_object_get(node, "cpu_percent")), 50, 1e-9);
        cr_assert(json_is_null(json_object_get(json_array_get(json_object_get(json, "nodes"), 2), "cpu_percent")));
        cr_assert_float_eq(json_number_value(json_object_get(link, "rate")), 150, 1e-9);
        cr_assert_eq(json_get_number(json_object_get(link, "dropped"), "window"), 30);
        json_decref(json);
        json = top_model_json(&m, T0 + 60 * S);
        cr_assert(json_is_null(json_object_get(json_array_get(json_object_get(json, "links"), 0), "rate")));
        json_decref(json);
        top_model_done(&m);
}

/* ---- order, selection, keys */

typedef struct Seat {
        TopModel model;
        TopUi ui;
        TopOrder order;
} Seat;

static void look(Seat *s)
{
        top_order_done(&s->order);
        cr_assert_eq(top_order(&s->order, &s->model, &s->ui, T0), 0);
        top_ui_select(&s->ui, &s->model, &s->order);
}

static TopAction press(Seat *s, unsigned key)
{
        TopAction action = top_ui_key(&s->ui, &s->model, &s->order, key, 10);

        look(s);
        return action;
}

static void type(Seat *s, const char *text)
{
        for (; *text; text++)
                (void)press(s, (unsigned char)*text);
}

static Seat sit(void)
{
        Seat s = {.model = model_make()};

        look(&s);
        return s;
}

static void stand(Seat *s)
{
        top_order_done(&s->order);
        top_model_done(&s->model);
}

static const char *nth(const Seat *s, size_t i)
{
        return i < s->order.n_nodes ? s->model.nodes[s->order.nodes[i]].id : "";
}

Test(top_ui, orders_by_letter_and_the_unknown_is_last)
{
        Seat s = sit();

        cr_assert_str_eq(nth(&s, 0), "source");
        (void)press(&s, 'M');
        cr_assert_str_eq(nth(&s, 0), "dft");
        cr_assert_str_eq(nth(&s, 2), "sink");
        (void)press(&s, 'N');
        cr_assert_str_eq(nth(&s, 0), "dft");
        cr_assert_str_eq(nth(&s, 1), "sink");
        (void)press(&s, 'I');
        cr_assert_str_eq(nth(&s, 0), "source");
        (void)press(&s, 'I');
        (void)press(&s, 'S');
        cr_assert_str_eq(nth(&s, 0), "sink", "what has failed is first");
        cr_assert_str_eq(nth(&s, 1), "dft", "then who is stuck");
        (void)press(&s, 'R');
        cr_assert_str_eq(nth(&s, 0), "dft");
        s.model.nodes[2].calls = (TopCalls){.at = T0, .per_second = 5, .worst_p99_ns = 9};
        s.model.nodes[0].calls = (TopCalls){.at = T0, .per_second = 7, .worst_p99_ns = 3};
        (void)press(&s, 'Y');
        cr_assert_str_eq(nth(&s, 0), "source");
        cr_assert_str_eq(nth(&s, 2), "dft");
        (void)press(&s, 'W');
        cr_assert_str_eq(nth(&s, 0), "sink");
        stand(&s);
}

Test(top_ui, goes_through_all_orders_both_ways)
{
        Seat s = sit();

        for (int i = 0; i < _TOP_NODES_BY_MAX; i++)
                (void)press(&s, '>');
        cr_assert_eq(s.ui.node_sort, TOP_NODES_BY_PLAN);
        (void)press(&s, '<');
        cr_assert_eq(s.ui.node_sort, _TOP_NODES_BY_MAX - 1);
        (void)press(&s, '\t');
        (void)press(&s, '<');
        cr_assert_eq(s.ui.link_sort, _TOP_LINKS_BY_MAX - 1);
        cr_assert_str_eq(top_ui_sort_name(&s.ui), "age");
        stand(&s);
}

Test(top_ui, selection_stays_with_its_node)
{
        Seat s = sit();

        (void)press(&s, TOP_KEY_DOWN);
        cr_assert_str_eq(s.ui.node, "dft");
        (void)press(&s, 'N'); /* dft, sink, source */
        cr_assert_str_eq(s.ui.node, "dft");
        cr_assert_eq(s.ui.node_row, 0);
        (void)press(&s, TOP_KEY_END);
        cr_assert_str_eq(s.ui.node, "source");
        (void)press(&s, TOP_KEY_DOWN);
        cr_assert_str_eq(s.ui.node, "source");
        (void)press(&s, TOP_KEY_PAGE_UP);
        cr_assert_str_eq(s.ui.node, "dft");
        stand(&s);
}

Test(top_ui, filter_is_typed_and_taken_back)
{
        Seat s = sit();

        type(&s, "/DFTq");
        cr_assert(s.ui.typing, "q belongs to the filter");
        cr_assert_eq(s.order.n_nodes, 0);
        (void)press(&s, TOP_KEY_BACKSPACE);
        cr_assert_eq(s.order.n_nodes, 1);
        cr_assert_eq(s.order.n_links, 1, "a link of it");
        (void)press(&s, TOP_KEY_ENTER);
        cr_assert_not(s.ui.typing);
        cr_assert_str_eq(s.ui.node, "dft");
        (void)press(&s, TOP_KEY_ESCAPE);
        cr_assert_eq(s.order.n_nodes, 3);
        type(&s, "/a");
        for (int i = 0; i < 100; i++)
                (void)press(&s, 0x6f6e);
        cr_assert_lt(strlen(s.ui.filter), sizeof(s.ui.filter));
        cr_assert_eq(strlen(s.ui.filter) % 3, 1, "no half character");
        (void)press(&s, TOP_KEY_BACKSPACE);
        cr_assert_eq(strlen(s.ui.filter) % 3, 1);
        stand(&s);
}

Test(top_ui, opens_pages_and_comes_back)
{
        Seat s = sit();

        cr_assert_eq(press(&s, 'w'), TOP_ACTION_LOOK);
        cr_assert_eq(s.ui.page, TOP_PAGE_MAIN, "there is no `why` here");
        cr_assert_eq(press(&s, 'p'), TOP_ACTION_NONE);
        (void)press(&s, TOP_KEY_ENTER);
        cr_assert_eq(s.ui.page, TOP_PAGE_DETAILS);
        (void)press(&s, TOP_KEY_ESCAPE);
        cr_assert_eq(s.ui.page, TOP_PAGE_MAIN);
        (void)press(&s, 't');
        cr_assert_eq(s.ui.page, TOP_PAGE_TREE);
        (void)press(&s, 'l');
        cr_assert_eq(s.ui.page, TOP_PAGE_LOG);
        (void)press(&s, 'l');
        cr_assert_eq(s.ui.page, TOP_PAGE_MAIN);
        (void)press(&s, '?');
        cr_assert_eq(s.ui.page, TOP_PAGE_HELP);
        cr_assert_eq(press(&s, 'q'), TOP_ACTION_QUIT);
        stand(&s);
}

Test(top_ui, a_log_is_that_of_who_reads_the_selected_link)
{
        Seat s = sit();

        (void)press(&s, '\t');
        cr_assert(s.ui.on_links);
        (void)press(&s, 'l');
        cr_assert_str_eq(s.ui.node, "dft");
        stand(&s);
}

/* ---- pictures */

static char *drawn(Seat *s, int rows, int cols, bool ascii, TopText *text)
{
        Picture p;
        char *all = NULL;
        size_t size = 0;
        FILE *f = open_memstream(&all, &size);

        look(s);
        cr_assert_eq(picture_init(&p, rows, cols, ascii), 0);
        top_view(&p, &s->model, &s->order, &s->ui, text, T0);
        picture_print(&p, false, f);
        picture_done(&p);
        cr_assert_eq(fclose(f), 0);
        return all;
}

static void has(const char *text, const char *part)
{
        cr_assert_not_null(strstr(text, part), "no \"%s\" in\n%s", part, text);
}

Test(top_view, shows_what_is_known)
{
        Seat s = sit();
        _cleanup_free_ char *text = NULL;

        put_status(&s.model, 1300, 30, 9, T0 + 2 * S);
        text = drawn(&s, 24, 100, false, NULL);
        has(text, "supervisor 42, up 1:00:00\n1 dataflow, 3 nodes: 2 up, 1 stuck, 1 failed\n");
        has(text, "NODE");
        has(text, "audio:source running       -  4.00K    -   1.5      -                -   0  0:01:01\n");
        has(text, "audio:dft    STUCK         -   879K   86   1.5      -                -   2  0:00:05\n");
        has(text, "audio:sink   failed        -      -    -     -      -                -   0        -\n");
        has(text, "audio:source/frames \u2192 dft/in   150.0    9/10 [\u2588\u2588\u2588\u2588\u2588\u2588\u2588\u2588\u2588 ]      30  1.50ms");
        has(text, "q quit");
        stand(&s);
}

Test(top_view, says_that_the_daemon_is_gone)
{
        Seat s = sit();
        _cleanup_free_ char *text = NULL;

        top_model_put_silence(&s.model, "it hung up", T0 - 3 * S);
        put_page(&s.model, STATUS_VERDICT_NONE, STATUS_REASON_MISSING, 1, T0);
        text = drawn(&s, 24, 100, true, NULL);
        has(text, "daemon is gone, since 3.0 s: it is said why\nlast known: 1 dataflow, 3 nodes");
        has(text, "audio:source");
        stand(&s);
}

Test(top_view, fits_any_screen)
{
        Seat s = sit();
        TopText help = TOP_TEXT_NULL;

        top_text_help(&help, &s.ui);
        for (int rows = 1; rows < 30; rows++) {
                for (int cols = 1; cols < 140; cols += 3) {
                        for (int page = 0; page < _TOP_PAGE_MAX; page++) {
                                _cleanup_free_ char *text = NULL;

                                s.ui.page = (TopPage)page;
                                s.ui.scroll = (size_t)rows * 7;
                                s.ui.on_links = cols % 2;
                                text = drawn(&s, rows, cols, false, &help);
                                for (char *p = text, *end; (end = strchr(p, '\n')); p = end + 1) {
                                        *end = '\0';
                                        cr_assert_leq(picture_width(p, false), cols, "%d x %d: \"%s\"", cols, rows, p);
                                }
                        }
                }
        }
        top_text_done(&help);
        stand(&s);
}

Test(top_view, a_tiny_screen_has_names_and_states)
{
        Seat s = sit();
        _cleanup_free_ char *nodes = drawn(&s, 5, 20, true, NULL), *links = NULL;

        has(nodes, "NODE");
        has(nodes, "audio:sour~ running");
        cr_assert_null(strstr(nodes, "LINK"));
        (void)press(&s, '\t');
        links = drawn(&s, 5, 20, true, NULL);
        has(links, "LINK");
        has(links, "9/10");
        cr_assert_null(strstr(links, "NODE"));
        stand(&s);
}

Test(top_view, an_empty_table_says_why)
{
        Seat s = sit(), nobody = {.model = TOP_MODEL_NULL};
        _cleanup_free_ char *filtered = NULL, *empty = NULL;

        type(&s, "/xyz");
        filtered = drawn(&s, 24, 80, true, NULL);
        has(filtered, "(none has that in its name)");
        empty = drawn(&nobody, 24, 80, true, NULL);
        has(empty, "(nothing runs)");
        stand(&s);
        stand(&nobody);
}

Test(top_view, the_selected_row_is_always_shown)
{
        Seat s = sit();

        for (int i = 0; i < 3; i++) {
                _cleanup_free_ char *text = drawn(&s, 4, 40, true, NULL); /* room for one node */

                has(text, i == 0 ? "audio:source" : i == 1 ? "audio:dft" : "audio:sink");
                (void)press(&s, TOP_KEY_DOWN);
        }
        stand(&s);
}

Test(top_view, calls_are_shown_where_they_are_counted)
{
        Seat s = sit();
        TopText text = TOP_TEXT_NULL;
        _cleanup_free_ char *without = drawn(&s, 24, 70, true, NULL), *with = NULL, *node = NULL;

        cr_assert_null(strstr(without, "WORST"), "there is no room for what nobody counts");
        put_probes(&s.model, probes(5000, 1000, 100, 7), T0 - S);
        put_probes(&s.model, probes(6000, 1000, 300, 9), T0);
        with = drawn(&s, 24, 75, true, NULL);
        has(with, "CALL/S        WORST P99");
        has(with, "202.0      openat 64ns");
        has(with, "probes: 1.20 % of one CPU");
        (void)press(&s, TOP_KEY_ENTER);
        top_text_details(&text, &s.model, &s.ui, T0);
        node = drawn(&s, 40, 100, true, &text);
        has(node, "  openat                      9        2     64ns     64ns    500ns\n  read                      300        0      4ns      4ns      5ns\n");
        top_text_done(&text);
        stand(&s);
}

Test(top_view, details_have_what_was_sampled)
{
        Seat s = sit();
        TopText text = TOP_TEXT_NULL;
        _cleanup_free_ char *node = NULL, *link = NULL;

        put_probes(&s.model, json_pack("{sb ss s{sf} s[{ss si s[] s{si si si si s[{ss si}]}}] s[{ss ss ss ss si si s[iiii] s[iii]}]}", "attached", 0, "queue_reason",
                "over budget", "queue_cost", "share", 0.02, "nodes", "node", "source", "generation", 1, "calls", "sampled", "looks",
                20, "threads", 40, "outside", 10, "other", 0, "calls", "call", "futex", "samples", 30, "links", "from", "source", "output", "frames", "to", "dft", "input", "in", "sampled", 100, "one_in", 8, "depth_log2", 60,
                0, 39, 1, "age_log2_ns", 0, 0, 10), T0);
        (void)press(&s, TOP_KEY_ENTER);
        top_text_details(&text, &s.model, &s.ui, T0);
        node = drawn(&s, 40, 100, true, &text);
        has(node, "40 threads found in 20 looks: 25 % of them in no call");
        has(node, "futex                     75 %");
        top_text_done(&text);
        (void)press(&s, TOP_KEY_ESCAPE);
        (void)press(&s, '\t');
        (void)press(&s, TOP_KEY_ENTER);
        top_text_details(&text, &s.model, &s.ui, T0);
        link = drawn(&s, 40, 100, true, &text);
        has(link, "probed         not of messages: over budget\n");
        cr_assert_float_eq(top_model_probe_share(&s.model), 0.02, 1e-9);
        has(link, "probed         100 messages, one in 8\n  waited       1 p50, 7 p99, 15 at most\n  age          8ns p50, 8ns p99, 8ns at most\n");
        top_text_done(&text);
        stand(&s);
}

Test(top_view, details_of_a_link_have_looks_where_messages_are_not_seen)
{
        Seat s = sit();
        TopText text = TOP_TEXT_NULL;
        _cleanup_free_ char *link = NULL;

        put_probes(&s.model, json_pack("{sb ss s[{ss si s[] s{si si s[]}}] s[{ss ss ss ss ss si si s[iiii] s[iii] si}]}", "attached", 0, "queue_reason", "no BTF", "nodes", "node", "source",
                "generation", 1, "calls", "sampled", "looks", 1, "threads", 0, "calls", "links", "from", "source", "output", "frames",
                "to", "dft", "input", "in", "source", "counters", "sampled", 100, "one_in", 0, "depth_log2", 60, 0, 39, 1, "age_log2_ns", 0, 0, 10, "empty", 20), T0);
        (void)press(&s, '\t');
        (void)press(&s, TOP_KEY_ENTER);
        top_text_details(&text, &s.model, &s.ui, T0);
        link = drawn(&s, 40, 100, true, &text);
        has(link, "looked at      100 times, nothing waited in 20\n  waited       1 p50, 7 p99, 15 at most\n");
        has(link, "probed         not of messages: no BTF\n");
        top_text_done(&text);
        stand(&s);
}

Test(top_view, details_name_reasons_and_limits)
{
        Seat s = sit();
        TopText text = TOP_TEXT_NULL;
        _cleanup_free_ char *node = NULL, *link = NULL;

        put_status(&s.model, 1300, 30, 4, T0);
        (void)press(&s, TOP_KEY_DOWN);
        (void)press(&s, TOP_KEY_ENTER);
        top_text_details(&text, &s.model, &s.ui, T0);
        node = drawn(&s, 30, 100, true, &text);
        has(node, "details of audio:dft");
        has(node, "memory_max = 1048576");
        has(node, "<- in from source/frames");
        top_text_done(&text);
        (void)press(&s, TOP_KEY_ESCAPE);
        (void)press(&s, '\t');
        (void)press(&s, TOP_KEY_ENTER);
        top_text_details(&text, &s.model, &s.ui, T0);
        link = drawn(&s, 30, 100, true, &text);
        has(link, "window       30");
        has(link, "4, the first for 1.50ms");
        top_text_done(&text);
        stand(&s);
}

Test(top_view, processes_are_below_their_parents)
{
        TopText text = TOP_TEXT_NULL;
        json_t *entry = json_pack("{s[{ss s[{si si ss ss si si} {si si ss ss si si} {si si ss ss si si}]}]}", "groups", "path", "source.1", "processes",
                "pid", 10, "ppid", 1, "comm", "sh", "state", "S", "memory", 1024, "cpu_ms", 500, "pid", 12, "ppid", 11, "comm", "deep", "state", "R",
                "memory", 2048, "cpu_ms", 0, "pid", 11, "ppid", 10, "comm", "mid", "state", "S", "memory", 1024, "cpu_ms", 0);

        top_text_tree(&text, entry, entry, S, true);
        cr_assert_eq(text.n, 4);
        cr_assert_str_eq(text.lines[0], "source.1");
        cr_assert_str_eq(text.lines[1], "  `-10 sh  S  0.0%  1.00K");
        cr_assert_str_eq(text.lines[2], "    `-11 mid  S  0.0%  1.00K");
        cr_assert_str_eq(text.lines[3], "      `-12 deep  R  0.0%  2.00K");
        top_text_done(&text);
        json_decref(entry);
}

Test(top_view, a_loop_of_parents_ends)
{
        TopText text = TOP_TEXT_NULL;
        json_t *entry = json_pack("{s[{ss s[{si si ss ss} {si si ss ss} {si si ss ss}]}]}", "groups", "path", "x.1", "processes", "pid", 10, "ppid", 11,
                "comm", "a", "state", "S", "pid", 11, "ppid", 10, "comm", "b", "state", "S", "pid", 9, "ppid", 9, "comm", "c", "state", "S");

        top_text_tree(&text, entry, NULL, 0, true);
        cr_assert_geq(text.n, 1);
        top_text_done(&text);
        json_decref(entry);
}

Test(top_view, text_keeps_its_last_lines)
{
        TopText text = TOP_TEXT_NULL;

        for (int i = 0; i < TOP_TEXT_MAX + 10; i++)
                top_text_add(&text, "%d", i);
        cr_assert_eq(text.n, TOP_TEXT_MAX);
        cr_assert_str_eq(text.lines[0], "10");
        top_text_done(&text);
}

Test(top_view, figures_are_short)
{
        char b[32];

        cr_assert_str_eq(top_format_bytes(b, sizeof(b), -1), "-");
        cr_assert_str_eq(top_format_bytes(b, sizeof(b), 512), "512B");
        cr_assert_str_eq(top_format_bytes(b, sizeof(b), 34.2 * 1048576), "34.2M");
        cr_assert_str_eq(top_format_bytes(b, sizeof(b), 1048575), "1.00M");
        cr_assert_str_eq(top_format_rate(b, sizeof(b), 99.96), "100.0");
        cr_assert_str_eq(top_format_rate(b, sizeof(b), 12345), "12.3k");
        cr_assert_str_eq(top_format_ns(b, sizeof(b), 1500000), "1.50ms");
        cr_assert_str_eq(top_format_uptime(b, sizeof(b), T0 - 3661 * S, T0), "1:01:01");
        cr_assert_str_eq(top_format_uptime(b, sizeof(b), S, 200 * 3600 * S), "8d07h");
}
