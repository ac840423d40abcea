/* SPDX-License-Identifier: Apache-2.0 */
#include "descriptor/graph.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/error.h"

#define DEFAULT_QUEUE_SIZE   10
#define DEFAULT_QUEUE_POLICY "drop_oldest"

typedef struct Edge {
        const char *from_kind; /* "n" or "t" */
        size_t from;
        size_t to;
        const char *output, *input; /* output NULL: from a timer */
        int64_t queue_size;
        const char *queue_policy;
} Edge;

typedef struct Graph {
        json_t *plan;
        json_t *index; /* id to position, of nodes */
        int64_t *timers;
        size_t n_timers;
        FILE *out;
        void (*put_text)(FILE *out, const char *s);
} Graph;

static const char *get_string(const json_t *object, const char *key)
{
        const char *s = json_string_value(json_object_get(object, key));

        return s ? s : "";
}

/* In a quoted Mermaid label these begin entities, tags, Markdown or the end. */
static void put_mermaid(FILE *out, const char *s)
{
        for (; *s; s++) {
                if (strchr("\"#<>&`\\[]{}()|;%*~", *s))
                        fprintf(out, "#%d;", *s);
                else if ((unsigned char)*s < 0x20)
                        fputc(' ', out);
                else
                        fputc(*s, out);
        }
}

static void put_dot(FILE *out, const char *s)
{
        for (; *s; s++) {
                if (*s == '"' || *s == '\\')
                        fputc('\\', out);
                fputc((unsigned char)*s < 0x20 ? ' ' : *s, out);
        }
}

static void put_interval(FILE *out, int64_t ns)
{
        static const struct {
                int64_t ns;
                const char *name;
        } units[] = {{NSEC_PER_SEC, "s"}, {NSEC_PER_MSEC, "ms"}, {NSEC_PER_USEC, "us"}, {1, "ns"}};
        size_t i = 0;

        while (ns % units[i].ns != 0)
                i++;
        fprintf(out, "%" PRId64 " %s", ns / units[i].ns, units[i].name);
}

/* output, "as input" when it is called otherwise, and the queue when it is not the default. */
static bool edge_has_label(const Edge *e)
{
        return e->output || e->input || e->queue_size != DEFAULT_QUEUE_SIZE ||
                strcmp(e->queue_policy, DEFAULT_QUEUE_POLICY) != 0;
}

static void put_edge_label(const Graph *g, const Edge *e)
{
        bool policy = strcmp(e->queue_policy, DEFAULT_QUEUE_POLICY) != 0;
        char queue[96] = "";

        if (e->output)
                g->put_text(g->out, e->output);
        if (e->input && (!e->output || strcmp(e->input, e->output) != 0)) {
                if (e->output)
                        fputs(" as ", g->out);
                g->put_text(g->out, e->input);
        }
        if (policy || e->queue_size != DEFAULT_QUEUE_SIZE)
                (void)snprintf(queue, sizeof(queue), ", queue %" PRId64 "%s%.40s", e->queue_size, policy ? " " : "",
                        policy ? e->queue_policy : "");
        g->put_text(g->out, queue);
}

static size_t timer_position(const Graph *g, int64_t ns)
{
        size_t i = 0;

        while (i < g->n_timers && g->timers[i] != ns)
                i++;
        return i;
}

static int compare_int64(const void *a, const void *b)
{
        int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

        return x < y ? -1 : x > y;
}

/* Distinct timers in ascending order. */
static int graph_find_timers(Graph *g)
{
        size_t i, k, n = 0, kept = 0;
        json_t *node, *input;

        json_array_foreach(json_object_get(g->plan, "nodes"), i, node)
                n += json_array_size(json_object_get(node, "inputs"));
        g->timers = calloc(n + 1, sizeof(*g->timers));
        if (!g->timers)
                return error_origin(-ENOMEM);
        n = 0;
        json_array_foreach(json_object_get(g->plan, "nodes"), i, node) {
                json_array_foreach(json_object_get(node, "inputs"), k, input) {
                        const json_t *source = json_object_get(input, "source");
                        int64_t ns = json_integer_value(json_object_get(source, "timer_ns"));

                        if (ns > 0)
                                g->timers[n++] = ns;
                }
        }
        qsort(g->timers, n, sizeof(*g->timers), compare_int64);
        for (i = 0; i < n; i++)
                if (i == 0 || g->timers[i] != g->timers[i - 1])
                        g->timers[kept++] = g->timers[i];
        g->n_timers = kept;
        return 0;
}

static int graph_index_nodes(Graph *g)
{
        json_t *node;
        size_t i;

        g->index = json_object();
        if (!g->index)
                return error_origin(-ENOMEM);
        json_array_foreach(json_object_get(g->plan, "nodes"), i, node)
                if (json_object_set_new(g->index, get_string(node, "id"), json_integer((json_int_t)i)))
                        return error_origin(-ENOMEM);
        return 0;
}

static bool edge_read(const Graph *g, size_t to, const json_t *input, Edge *ret)
{
        const json_t *source = json_object_get(input, "source"), *from;
        int64_t ns = json_integer_value(json_object_get(source, "timer_ns"));

        *ret = (Edge){.to = to, .input = get_string(input, "id"), .queue_policy = get_string(input, "queue_policy"),
                .queue_size = json_integer_value(json_object_get(input, "queue_size"))};
        if (ns > 0) {
                ret->from_kind = "t";
                ret->from = timer_position(g, ns);
                return true;
        }
        from = json_object_get(g->index, get_string(source, "node"));
        ret->from_kind = "n";
        ret->from = (size_t)json_integer_value(from);
        ret->output = get_string(source, "output");
        return from != NULL && *ret->output;
}

static void graph_each_edge(const Graph *g, void (*put)(const Graph *g, const Edge *e))
{
        json_t *node, *input;
        size_t i, k;
        Edge e;

        json_array_foreach(json_object_get(g->plan, "nodes"), i, node)
                json_array_foreach(json_object_get(node, "inputs"), k, input)
                        if (edge_read(g, i, input, &e))
                                put(g, &e);
}

/* Calls put for each entry of each `after` whose node exists. */
static void graph_each_after(const Graph *g, void (*put)(const Graph *g, size_t from, size_t to, const char *until))
{
        json_t *node, *after;
        size_t i, k;

        json_array_foreach(json_object_get(g->plan, "nodes"), i, node)
                json_array_foreach(json_object_get(node, "after"), k, after) {
                        const json_t *from = json_object_get(g->index, get_string(after, "node"));

                        if (from)
                                put(g, (size_t)json_integer_value(from), i, get_string(after, "until"));
                }
}

typedef struct Shape {
        const char *kind; /* NULL: any other */
        const char *open, *close; /* Mermaid */
        const char *dot;
} Shape;

static const Shape *node_shape(const json_t *node)
{
        static const Shape shapes[] = {{"program", "(", ")", ", style=rounded"},
                {"dynamic", "[/", "/]", ", shape=parallelogram"}, {NULL, "[", "]", ""}};
        const char *kind = get_string(node, "kind");
        const Shape *shape = shapes;

        while (shape->kind && strcmp(shape->kind, kind) != 0)
                shape++;
        return shape;
}

static void mermaid_after(const Graph *g, size_t from, size_t to, const char *until)
{
        fprintf(g->out, "  n%zu -.->|\"", from);
        g->put_text(g->out, until);
        fprintf(g->out, "\"| n%zu\n", to);
}

static void mermaid_edge(const Graph *g, const Edge *e)
{
        fprintf(g->out, "  %s%zu -->", e->from_kind, e->from);
        if (edge_has_label(e)) {
                fputs("|\"", g->out);
                put_edge_label(g, e);
                fputs("\"|", g->out);
        }
        fprintf(g->out, " n%zu\n", e->to);
}

static void mermaid(const Graph *g)
{
        json_t *node;
        size_t i;

        fputs("flowchart LR\n", g->out);
        json_array_foreach(json_object_get(g->plan, "nodes"), i, node) {
                const Shape *shape = node_shape(node);

                fprintf(g->out, "  n%zu%s\"", i, shape->open);
                g->put_text(g->out, get_string(node, "id"));
                fprintf(g->out, "\"%s\n", shape->close);
        }
        for (i = 0; i < g->n_timers; i++) {
                fprintf(g->out, "  t%zu{{\"every ", i);
                put_interval(g->out, g->timers[i]);
                fputs("\"}}\n", g->out);
        }
        graph_each_edge(g, mermaid_edge);
        graph_each_after(g, mermaid_after);
}

static void dot_edge(const Graph *g, const Edge *e)
{
        fprintf(g->out, "  %s%zu -> n%zu", e->from_kind, e->from, e->to);
        if (edge_has_label(e)) {
                fputs(" [label=\"", g->out);
                put_edge_label(g, e);
                fputs("\"]", g->out);
        }
        fputs(";\n", g->out);
}

static void dot_after(const Graph *g, size_t from, size_t to, const char *until)
{
        fprintf(g->out, "  n%zu -> n%zu [style=dashed, label=\"", from, to);
        g->put_text(g->out, until);
        fputs("\"];\n", g->out);
}

static void dot(const Graph *g)
{
        json_t *node;
        size_t i;

        fputs("digraph \"", g->out);
        g->put_text(g->out, get_string(g->plan, "name"));
        fputs("\" {\n  rankdir=LR;\n  node [shape=box];\n", g->out);
        json_array_foreach(json_object_get(g->plan, "nodes"), i, node) {
                fprintf(g->out, "  n%zu [label=\"", i);
                g->put_text(g->out, get_string(node, "id"));
                fprintf(g->out, "\"%s];\n", node_shape(node)->dot);
        }
        for (i = 0; i < g->n_timers; i++) {
                fprintf(g->out, "  t%zu [shape=hexagon, label=\"every ", i);
                put_interval(g->out, g->timers[i]);
                fputs("\"];\n", g->out);
        }
        graph_each_edge(g, dot_edge);
        graph_each_after(g, dot_after);
        fputs("}\n", g->out);
}

static int render(const json_t *plan, void (*put_text)(FILE *, const char *), void (*draw)(const Graph *), char **ret)
{
        _cleanup_(json_decrefp) json_t *index = NULL;
        _cleanup_free_ int64_t *timers = NULL;
        _cleanup_free_ char *text = NULL;
        /* jansson's getters want it writable; nothing writes */
        Graph g = {.plan = (json_t *)plan, .put_text = put_text};
        size_t size;
        int r;

        r = graph_index_nodes(&g);
        index = g.index;
        if (!r)
                r = graph_find_timers(&g);
        timers = g.timers;
        if (r)
                return error_fold(r);
        g.out = open_memstream(&text, &size);
        if (!g.out)
                return error_origin(-ENOMEM);
        draw(&g);
        if (fclose(g.out) != 0 || !text)
                return error_origin(-ENOMEM);
        *ret = TAKE_PTR(text);
        return 0;
}

int graph_mermaid(const json_t *plan, char **ret)
{
        return render(plan, put_mermaid, mermaid, ret);
}

int graph_dot(const json_t *plan, char **ret)
{
        return render(plan, put_dot, dot, ret);
}
