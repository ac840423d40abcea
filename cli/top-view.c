/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/top-view.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/histogram.h"

#define TINY_ROWS   12 /* on fewer, nodes and links are not both shown */
#define NAME_MIN    10
#define NAME_MAX    400
#define COLUMNS_MAX 12

/* ---- the rows of a screen */

typedef struct Layout {
        int head;                       /* lines */
        int nodes, n_nodes;             /* first row (its title) and rows of nodes; n 0: not shown */
        int links, n_links;
        int foot;                       /* row; -1: none */
} Layout;

static Layout lay_out(int rows, size_t n_nodes, size_t n_links, bool with_foot, bool on_links)
{
        Layout l = {.head = rows >= 8 ? 2 : 1, .foot = with_foot ? rows - 1 : -1};
        int room = rows - l.head - with_foot, nodes = (int)MIN(n_nodes, (size_t)100000), links = (int)MIN(n_links, (size_t)100000);

        if (links > 0 && rows < TINY_ROWS) {
                if (on_links)
                        nodes = -1;
                else
                        links = 0;
        }
        if (links > 0 && nodes >= 0 && nodes + links + 2 > room) { /* each gets what it needs, or half */
                int half = MAX((room - 2) / 2, 1);

                if (nodes <= half)
                        links = room - 2 - nodes;
                else if (links <= half)
                        nodes = room - 2 - links;
                else
                        nodes = room - 2 - (links = half);
        }
        l.nodes = l.head;
        l.n_nodes = nodes < 0 ? 0 : MAX(MIN(nodes, room - 1 - (links > 0 ? links + 1 : 0)), 0);
        l.links = nodes < 0 ? l.head : l.head + 1 + l.n_nodes;
        l.n_links = links > 0 ? MAX(MIN(links, l.head + room - l.links - 1), 0) : 0;
        return l;
}

size_t top_view_page_rows(const TopUi *ui, const TopOrder *order, int rows)
{
        Layout l = lay_out(rows, order->n_nodes, order->n_links, true, ui->on_links);
        int n = ui->page != TOP_PAGE_MAIN ? rows - 2 : ui->on_links ? l.n_links : l.n_nodes;

        return (size_t)MAX(n, 1);
}

/* The first row that is shown, so that row @selected is one of @n. */
static size_t first_shown(size_t selected, size_t n, size_t all)
{
        if (all <= n || selected < n)
                return 0;
        return MIN(selected - n + 1, all - n);
}

/* ---- columns */

typedef struct Column {
        const char *title;
        int width, rank; /* the lower the rank, the longer it is kept */
        bool left;
        void (*put)(Picture *picture, int row, int col, int width, const TopModel *model, const void *what, nsec_t now);
} Column;

typedef struct Columns { /* those that have room, and where */
        const Column *column[COLUMNS_MAX];
        int n, name_width;
} Columns;

/* The name takes what it needs if all columns still fit, else a quarter of the screen, and then what is left. */
static Columns choose(const Column *all, size_t n, int cols, int name_needed)
{
        int name_min = MIN(MAX(name_needed, NAME_MIN), MAX(NAME_MIN, cols / 4)), used = name_min;
        bool taken[COLUMNS_MAX] = {};
        Columns c = {.n = 0};

        for (int rank = 0; rank < COLUMNS_MAX; rank++) {
                for (size_t i = 0; i < n; i++) {
                        if (all[i].rank != rank || used + 1 + all[i].width > cols)
                                continue;
                        used += 1 + all[i].width;
                        taken[i] = true;
                }
        }
        for (size_t i = 0; i < n; i++)
                if (taken[i])
                        c.column[c.n++] = &all[i];
        c.name_width = MIN(name_min + MAX(cols - used, 0), MAX(name_needed, name_min));
        return c;
}

static void put_titles(Picture *picture, int row, const Columns *c, const char *name)
{
        int col = c->name_width;

        (void)picture_put(picture, row, 0, c->name_width, PICTURE_TITLE, name);
        for (int i = 0; i < c->n; i++) {
                const Column *column = c->column[i];

                if (column->left)
                        (void)picture_put(picture, row, col + 1, column->width, PICTURE_TITLE, column->title);
                else
                        (void)picture_put_right(picture, row, col + 1, column->width, PICTURE_TITLE, column->title);
                col += 1 + column->width;
        }
        picture_style_row(picture, row, PICTURE_TITLE);
}

static void put_cells(Picture *picture, int row, const Columns *c, const TopModel *model, const void *what, nsec_t now)
{
        int col = c->name_width;

        for (int i = 0; i < c->n; i++) {
                c->column[i]->put(picture, row, col + 1, c->column[i]->width, model, what, now);
                col += 1 + c->column[i]->width;
        }
}

/* ---- nodes */

static void put_state(Picture *p, int row, int col, int width, const TopModel *model, const void *what, nsec_t now)
{
        const TopNode *node = what;
        const char *word = status_node_state_to_string(node->state);
        PictureStyle style = PICTURE_PLAIN;

        if (node->state == STATUS_NODE_FAILED) {
                style = PICTURE_BAD;
        } else if (node->health == STATUS_HEALTH_STUCK) {
                style = PICTURE_WARN;
                word = "STUCK";
        } else if (node->frozen && node->state == STATUS_NODE_RUNNING) {
                style = PICTURE_WARN;
                word = "frozen";
        } else if (node->state == STATUS_NODE_BACKOFF) {
                style = PICTURE_WARN;
        } else if (node->state == STATUS_NODE_RUNNING) {
                style = PICTURE_GOOD;
        }
        (void)picture_put(p, row, col, width, model->daemon.lost_since ? PICTURE_DIM : style, word);
}

static void put_figure(Picture *p, int row, int col, int width, double value)
{
        char text[32] = "-";

        if (value >= 0)
                (void)snprintf(text, sizeof(text), "%.1f", value);
        (void)picture_put_right(p, row, col, width, PICTURE_PLAIN, text);
}

static void put_cpu(Picture *p, int row, int col, int width, const TopModel *model, const void *what, nsec_t now)
{
        const TopUsage *u = &((const TopNode *)what)->usage;

        put_figure(p, row, col, width, top_usage_fresh(model, u, now) ? u->cpu_percent : TOP_UNKNOWN);
}

static void put_memory(Picture *p, int row, int col, int width, const TopModel *model, const void *what, nsec_t now)
{
        const TopUsage *u = &((const TopNode *)what)->usage;
        char text[32];

        (void)picture_put_right(p, row, col, width, PICTURE_PLAIN,
                top_format_bytes(text, sizeof(text), top_usage_fresh(model, u, now) ? (double)u->memory_bytes : TOP_UNKNOWN));
}

static void put_memory_share(Picture *p, int row, int col, int width, const TopModel *model, const void *what, nsec_t now)
{
        const TopNode *node = what;
        double share = node->memory_max && top_usage_fresh(model, &node->usage, now)
                               ? (double)node->usage.memory_bytes / (double)node->memory_max
                               : TOP_UNKNOWN;
        char text[32] = "-";

        if (share >= 0)
                (void)snprintf(text, sizeof(text), "%.0f", 100 * share);
        (void)picture_put_right(p, row, col, width, share < 0 ? PICTURE_PLAIN : picture_level(share), text);
}

static void put_pressure(Picture *p, int row, int col, int width, const TopModel *model, const void *what, nsec_t now)
{
        const TopUsage *u = &((const TopNode *)what)->usage;
        double most = MAX(u->some[TOP_CPU], MAX(u->some[TOP_MEMORY], u->some[TOP_IO]));

        put_figure(p, row, col, width, top_usage_fresh(model, u, now) ? most : TOP_UNKNOWN);
}

static void put_restarts(Picture *p, int row, int col, int width, const TopModel *model, const void *what, nsec_t now)
{
        const TopNode *node = what;
        char text[32];

        (void)snprintf(text, sizeof(text), "%u", node->restarts);
        (void)picture_put_right(p, row, col, width, node->restarts ? PICTURE_WARN : PICTURE_PLAIN, text);
}

static void put_uptime(Picture *p, int row, int col, int width, const TopModel *model, const void *what, nsec_t now)
{
        const TopNode *node = what;
        char text[32] = "-";

        if (node->state == STATUS_NODE_RUNNING)
                (void)top_format_uptime(text, sizeof(text), node->since, now);
        (void)picture_put_right(p, row, col, width, PICTURE_PLAIN, text);
}

static void put_calls(Picture *p, int row, int col, int width, const TopModel *model, const void *what, nsec_t now)
{
        const TopCalls *c = &((const TopNode *)what)->calls;
        char text[32];

        (void)picture_put_right(p, row, col, width, PICTURE_PLAIN,
                top_format_rate(text, sizeof(text), top_calls_fresh(model, c, now) ? c->per_second : TOP_UNKNOWN));
}

static void put_worst(Picture *p, int row, int col, int width, const TopModel *model, const void *what, nsec_t now)
{
        const TopCalls *c = &((const TopNode *)what)->calls;
        char p99[16] = "-";
        int took;

        if (!top_calls_fresh(model, c, now) || !c->worst[0]) {
                (void)picture_put_right(p, row, col, width, PICTURE_PLAIN, p99);
                return;
        }
        (void)histogram_format_ns(c->worst_p99_ns, p99, sizeof(p99));
        took = picture_width(p99, true);
        (void)picture_put_right(p, row, col, width - took - 1, PICTURE_PLAIN, c->worst); /* the name is cut, and not the time */
        (void)picture_put_right(p, row, col + width - took, took, PICTURE_PLAIN, p99);
}

enum { N_NODE_COLUMNS = 9 };

static const Column node_columns[N_NODE_COLUMNS] = {
        {"STATE", 8, 0, true, put_state},
        {"CPU%", 6, 1, false, put_cpu},
        {"MEM", 6, 2, false, put_memory},
        {"%MAX", 4, 8, false, put_memory_share},
        {"PSI", 5, 7, false, put_pressure},
        {"CALL/S", 6, 9, false, put_calls},
        {"WORST P99", 16, 10, false, put_worst},
        {"RST", 3, 6, false, put_restarts},
        {"UP", 8, 5, false, put_uptime},
};

/* Where calls are counted, that is what somebody wants to see. */
static void rank_node_columns(Column to[static N_NODE_COLUMNS], const TopModel *model)
{
        memcpy(to, node_columns, sizeof(node_columns));
        for (int i = 0; top_model_probe_share(model) >= 0 && i < N_NODE_COLUMNS; i++)
                if (to[i].put == put_calls || to[i].put == put_worst)
                        to[i].rank = to[i].put == put_calls ? 3 : 4;
}

static void node_name(char *buffer, size_t size, const TopNode *node)
{
        (void)snprintf(buffer, size, "%s:%s", node->dataflow, node->id);
}

static int widest_node(const TopModel *model, const TopOrder *order, bool ascii)
{
        char name[300];
        int width = 0;

        for (size_t i = 0; i < order->n_nodes; i++) {
                node_name(name, sizeof(name), &model->nodes[order->nodes[i]]);
                width = MAX(width, picture_width(name, ascii));
        }
        return MIN(width, NAME_MAX);
}

static void put_nodes(Picture *p, const Layout *l, const TopModel *model, const TopOrder *order, const TopUi *ui, nsec_t now)
{
        Column columns[N_NODE_COLUMNS];
        Columns c;
        size_t first = ui ? first_shown(ui->node_row, (size_t)l->n_nodes, order->n_nodes) : 0;

        rank_node_columns(columns, model);
        c = choose(columns, N_NODE_COLUMNS, p->cols, widest_node(model, order, p->ascii));
        put_titles(p, l->nodes, &c, "NODE");
        if (order->n_nodes == 0 && order->n_links == 0 && l->nodes + 1 < (l->foot > 0 ? l->foot : p->rows))
                (void)picture_put(p, l->nodes + 1, 0, p->cols, PICTURE_DIM,
                        model->n_nodes ? "(none has that in its name)" : "(nothing runs)");
        for (int i = 0; i < l->n_nodes && first + (size_t)i < order->n_nodes; i++) {
                const TopNode *node = &model->nodes[order->nodes[first + (size_t)i]];
                char name[300];

                node_name(name, sizeof(name), node);
                (void)picture_put(p, l->nodes + 1 + i, 0, c.name_width, PICTURE_PLAIN, name);
                put_cells(p, l->nodes + 1 + i, &c, model, node, now);
                if (ui && !ui->on_links && first + (size_t)i == ui->node_row)
                        picture_select_row(p, l->nodes + 1 + i);
        }
}

/* ---- links */

static void put_rate(Picture *p, int row, int col, int width, const TopModel *model, const void *what, nsec_t now)
{
        const TopLink *l = what;
        char text[32];

        (void)picture_put_right(p, row, col, width, PICTURE_PLAIN,
                top_format_rate(text, sizeof(text), top_link_fresh(model, l, now) ? l->rate : TOP_UNKNOWN));
}

static void put_depth(Picture *p, int row, int col, int width, const TopModel *model, const void *what, nsec_t now)
{
        const TopLink *l = what;
        double fill = top_link_fresh(model, l, now) ? top_link_fill(l) : TOP_UNKNOWN;
        char text[32] = "-";

        if (fill >= 0)
                (void)snprintf(text, sizeof(text), "%" PRIu64 "/%u", l->depth, l->queue_size);
        (void)picture_put_right(p, row, col, width, fill >= 0 ? picture_level(fill) : PICTURE_PLAIN, text);
}

static void put_bar(Picture *p, int row, int col, int width, const TopModel *model, const void *what, nsec_t now)
{
        const TopLink *l = what;

        if (top_link_fresh(model, l, now) && top_link_fill(l) >= 0)
                picture_bar(p, row, col, width, top_link_fill(l));
        else
                (void)picture_put(p, row, col, width, PICTURE_DIM, l->state);
}

static void put_drops(Picture *p, int row, int col, int width, const TopModel *model, const void *what, nsec_t now)
{
        const TopLink *l = what;
        char text[32] = "-";
        bool known = top_link_fresh(model, l, now);

        if (known)
                (void)snprintf(text, sizeof(text), "%" PRIu64, l->dropped);
        if (picture_width(text, true) > width)
                (void)top_format_rate(text, sizeof(text), (double)l->dropped);
        (void)picture_put_right(p, row, col, width, known && l->drop_rate > 0 ? PICTURE_WARN : PICTURE_PLAIN, text);
}

static void put_age(Picture *p, int row, int col, int width, const TopModel *model, const void *what, nsec_t now)
{
        const TopLink *l = what;
        char text[32] = "-";

        if (top_link_fresh(model, l, now) && l->depth > 0)
                (void)top_format_ns(text, sizeof(text), 1000.0 * (double)l->age_us);
        (void)picture_put_right(p, row, col, width, PICTURE_PLAIN, text);
}

static const Column link_columns[] = {
        {"RATE/S", 7, 1, false, put_rate},
        {"DEPTH", 7, 0, false, put_depth},
        {"", 12, 4, true, put_bar},
        {"DROPS", 7, 2, false, put_drops},
        {"AGE", 7, 3, false, put_age},
};

static void link_name(char *buffer, size_t size, const TopLink *l, bool ascii)
{
        (void)snprintf(buffer, size, "%s:%s/%s %s %s/%s", l->dataflow, l->from, l->output, ascii ? "->" : "\u2192", l->to, l->input);
}

static int widest_link(const TopModel *model, const TopOrder *order, bool ascii)
{
        char name[900];
        int width = 0;

        for (size_t i = 0; i < order->n_links; i++) {
                link_name(name, sizeof(name), &model->links[order->links[i]], ascii);
                width = MAX(width, picture_width(name, ascii));
        }
        return MIN(width, NAME_MAX);
}

static void put_links(Picture *p, const Layout *l, const TopModel *model, const TopOrder *order, const TopUi *ui, nsec_t now)
{
        Columns c = choose(link_columns, ELEMENTSOF(link_columns), p->cols, widest_link(model, order, p->ascii));
        size_t first = ui ? first_shown(ui->link_row, (size_t)l->n_links, order->n_links) : 0;

        put_titles(p, l->links, &c, "LINK");
        for (int i = 0; i < l->n_links && first + (size_t)i < order->n_links; i++) {
                const TopLink *link = &model->links[order->links[first + (size_t)i]];
                char name[900];

                link_name(name, sizeof(name), link, p->ascii);
                (void)picture_put(p, l->links + 1 + i, 0, c.name_width, PICTURE_PLAIN, name);
                put_cells(p, l->links + 1 + i, &c, model, link, now);
                if (ui && ui->on_links && first + (size_t)i == ui->link_row)
                        picture_select_row(p, l->links + 1 + i);
        }
}

/* ---- head and foot */

/* Return: columns used. */
static int put_daemon(Picture *p, const TopModel *model, nsec_t now)
{
        const TopDaemon *d = &model->daemon;
        char text[600], since[32];
        PictureStyle style = PICTURE_BOLD;

        if (d->lost_since) {
                style = PICTURE_BAD;
                (void)snprintf(text, sizeof(text), "daemon is gone, since %s: %s", status_view_since(d->lost_since, now, since, sizeof(since)), d->why);
        } else if (d->verdict == STATUS_VERDICT_WEDGED) {
                style = PICTURE_BAD;
                (void)snprintf(text, sizeof(text), "supervisor WEDGED: %s", d->why);
        } else if (d->silent_since) {
                style = PICTURE_BAD;
                (void)snprintf(text, sizeof(text), "supervisor %d: %s, since %s", d->pid, d->silent_why,
                        status_view_since(d->silent_since, now, since, sizeof(since)));
        } else if (d->guard && d->guard != STATUS_GUARD_OK) {
                style = PICTURE_WARN;
                (void)snprintf(text, sizeof(text), "supervisor %d, guard %s", d->pid, status_guard_to_string(d->guard));
        } else if (d->pid == 0) { /* it has no page */
                (void)snprintf(text, sizeof(text), "supervisor");
        } else {
                (void)snprintf(text, sizeof(text), "supervisor %d, up %s", d->pid, top_format_uptime(since, sizeof(since), d->started_at, now));
        }
        return picture_put(p, 0, 0, p->cols, style, text);
}

static void count_nodes(const TopModel *model, unsigned *ret_up, unsigned *ret_stuck, unsigned *ret_failed)
{
        *ret_up = *ret_stuck = *ret_failed = 0;
        for (size_t i = 0; i < model->n_nodes; i++) {
                const TopNode *node = &model->nodes[i];

                *ret_up += node->state == STATUS_NODE_RUNNING;
                *ret_stuck += node->state == STATUS_NODE_RUNNING && node->health == STATUS_HEALTH_STUCK;
                *ret_failed += node->state == STATUS_NODE_FAILED;
        }
}

static int put_counts(Picture *p, int row, const TopModel *model)
{
        double share = top_model_probe_share(model);
        unsigned up, stuck, failed;
        char text[400];
        int col;

        count_nodes(model, &up, &stuck, &failed);
        (void)snprintf(text, sizeof(text), "%s%zu dataflow%s, %zu node%s: %u up", model->daemon.lost_since ? "last known: " : "", model->n_dataflows, model->n_dataflows == 1 ? "" : "s", model->n_nodes,
                model->n_nodes == 1 ? "" : "s", up);
        col = picture_put(p, row, 0, p->cols, PICTURE_PLAIN, text);
        (void)snprintf(text, sizeof(text), ", %u stuck", stuck);
        col += picture_put(p, row, col, p->cols, stuck ? PICTURE_WARN : PICTURE_PLAIN, text);
        (void)snprintf(text, sizeof(text), ", %u failed", failed);
        col += picture_put(p, row, col, p->cols, failed ? PICTURE_BAD : PICTURE_PLAIN, text);
        if (share < 0)
                return col;
        (void)snprintf(text, sizeof(text), "   probes: %.2f %% of one CPU", 100 * share);
        return col + picture_put(p, row, col, p->cols, PICTURE_PLAIN, text);
}

static void host_text(char *text, size_t size, const TopHost *h)
{
        static const char *const names[_TOP_PRESSURE_MAX] = {"cpu", "mem", "io"};
        size_t at = 0;

        text[0] = '\0';
        if (h->cpu_percent >= 0)
                at = (size_t)snprintf(text, size, "host CPU %.0f %% of %u", h->cpu_percent, h->n_cpus);
        for (int i = 0; i < _TOP_PRESSURE_MAX && at < size; i++)
                if (h->some[i] >= 0)
                        at += (size_t)snprintf(text + at, size - at, "%s%s %.1f", i > 0 ? " " : at ? ", PSI " : "PSI ", names[i], h->some[i]);
}

static void put_head(Picture *p, const Layout *l, const TopModel *model, nsec_t now)
{
        int used[2] = {put_daemon(p, model, now)}, width;
        char host[200];

        if (l->head > 1)
                used[1] = put_counts(p, 1, model);
        host_text(host, sizeof(host), &model->host);
        width = picture_width(host, true);
        for (int row = 0; row < l->head; row++) { /* where there is room beside it */
                if (used[row] + 2 + width > p->cols)
                        continue;
                (void)picture_put_right(p, row, used[row] + 2, p->cols, PICTURE_PLAIN, host);
                break;
        }
}

static void put_foot(Picture *p, int row, const TopUi *ui)
{
        char text[400];

        if (ui->typing)
                (void)snprintf(text, sizeof(text), "filter: %s_", ui->filter);
        else if (ui->message[0])
                (void)snprintf(text, sizeof(text), "%s", ui->message);
        else if (ui->page != TOP_PAGE_MAIN)
                (void)snprintf(text, sizeof(text), "Esc back  q quit");
        else
                (void)snprintf(text, sizeof(text), "%s%s%s%sh help  q quit  < > order: %s%s  / filter  Tab  Enter details  t tree  l log%s%s",
                        ui->paused ? "PAUSED  " : "", ui->filter[0] ? "[" : "", ui->filter, ui->filter[0] ? "]  " : "", top_ui_sort_name(ui),
                        ui->reverse ? " reversed" : "", ui->can_why ? "  w why" : "", ui->can_probe ? "  p probe" : "");
        (void)picture_put(p, row, 0, p->cols, ui->typing || ui->message[0] || ui->paused ? PICTURE_BOLD : PICTURE_DIM, text);
}

/* ---- pages of text */

static void put_text(Picture *p, const TopModel *model, TopUi *ui, const TopText *text)
{
        static const char *const titles[_TOP_PAGE_MAX] = {
                [TOP_PAGE_DETAILS] = "details of", [TOP_PAGE_TREE] = "processes of", [TOP_PAGE_LOG] = "log of", [TOP_PAGE_WHY] = "why", [TOP_PAGE_HELP] = "keys"};
        const TopNode *node = top_model_node(model, ui->uuid, ui->node);
        size_t room = (size_t)MAX(p->rows - 2, 0), n = text ? text->n : 0;
        char title[400];

        if (ui->page == TOP_PAGE_HELP)
                (void)snprintf(title, sizeof(title), "%s", titles[ui->page]);
        else if (ui->page == TOP_PAGE_DETAILS && ui->on_links)
                (void)snprintf(title, sizeof(title), "%s the link to %s/%s", titles[ui->page], ui->link_to, ui->link_input);
        else if (ui->page == TOP_PAGE_TREE)
                (void)snprintf(title, sizeof(title), "%s %s", titles[ui->page], node ? node->dataflow : "?");
        else
                (void)snprintf(title, sizeof(title), "%s %s%s%s", titles[ui->page], node ? node->dataflow : "", node ? ":" : "", ui->node);
        (void)picture_put(p, 0, 0, p->cols, PICTURE_TITLE, title);
        picture_style_row(p, 0, PICTURE_TITLE);
        if (ui->follow || ui->scroll > n - MIN(n, room))
                ui->scroll = n - MIN(n, room);
        for (size_t i = 0; i < room && ui->scroll + i < n; i++)
                (void)picture_put(p, 1 + (int)i, 0, p->cols, PICTURE_PLAIN, text->lines[ui->scroll + i]);
}

/* ---- all of it */

void top_view(Picture *p, const TopModel *model, const TopOrder *order, TopUi *ui, const TopText *text, nsec_t now)
{
        Layout l = lay_out(p->rows, order->n_nodes, order->n_links, ui != NULL, ui && ui->on_links);

        if (ui && ui->page != TOP_PAGE_MAIN) {
                put_text(p, model, ui, text);
        } else {
                put_head(p, &l, model, now);
                if (l.n_nodes > 0 || l.links > l.nodes)
                        put_nodes(p, &l, model, order, ui, now);
                if (l.n_links > 0)
                        put_links(p, &l, model, order, ui, now);
        }
        if (ui && l.foot > 0)
                put_foot(p, l.foot, ui);
}

static int all_widths(const Column *columns, size_t n)
{
        int sum = 0;

        for (size_t i = 0; i < n; i++)
                sum += 1 + columns[i].width;
        return sum;
}

void top_view_size(const TopModel *model, const TopOrder *order, bool ascii, int *ret_rows, int *ret_cols)
{
        int nodes = widest_node(model, order, ascii) + all_widths(node_columns, ELEMENTSOF(node_columns));
        int links = widest_link(model, order, ascii) + all_widths(link_columns, ELEMENTSOF(link_columns));

        *ret_cols = MAX(80, MAX(nodes, links));
        *ret_rows = (int)MIN(order->n_nodes + order->n_links, (size_t)100000) + 4;
        *ret_rows = MAX(*ret_rows, TINY_ROWS);
}
