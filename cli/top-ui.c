/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/top-ui.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"

/* ---- order */

typedef struct Sorting {
        const TopModel *model;
        const TopUi *ui;
        nsec_t now;
} Sorting;

static int by_number(double a, double b)
{
        return a < b ? -1 : a > b;
}

static double node_pressure(const TopUsage *usage)
{
        return MAX(usage->some[TOP_CPU], MAX(usage->some[TOP_MEMORY], usage->some[TOP_IO]));
}

/* What needs a look comes first: failed, stuck, on the move, running, over. */
static int urgency(const TopNode *node)
{
        if (node->state == STATUS_NODE_FAILED)
                return 0;
        if (node->health == STATUS_HEALTH_STUCK)
                return 1;
        if (node->state == STATUS_NODE_BACKOFF)
                return 2;
        return node->state == STATUS_NODE_STOPPED ? 5 : node->state == STATUS_NODE_RUNNING ? 4 : 3;
}

static int compare_names(const char *a_flow, const char *a, const char *b_flow, const char *b)
{
        int r = strcmp(a_flow, b_flow);

        return r ? r : strcmp(a, b);
}

/* Most first, but for names; what is unknown is least. */
static int compare_nodes(const void *a, const void *b, void *userdata)
{
        const Sorting *s = userdata;
        size_t ia = *(const size_t *)a, ib = *(const size_t *)b;
        const TopNode *x = &s->model->nodes[ia], *y = &s->model->nodes[ib];
        bool fresh_x = top_usage_fresh(s->model, &x->usage, s->now), fresh_y = top_usage_fresh(s->model, &y->usage, s->now);
        bool counted_x = top_calls_fresh(s->model, &x->calls, s->now), counted_y = top_calls_fresh(s->model, &y->calls, s->now);
        int r = 0;

        switch (s->ui->node_sort) {
        case TOP_NODES_BY_NAME:
                r = compare_names(x->dataflow, x->id, y->dataflow, y->id);
                break;
        case TOP_NODES_BY_STATE:
                r = urgency(x) - urgency(y);
                break;
        case TOP_NODES_BY_CPU:
                r = by_number(fresh_y ? y->usage.cpu_percent : -1, fresh_x ? x->usage.cpu_percent : -1);
                break;
        case TOP_NODES_BY_MEMORY:
                r = by_number(fresh_y ? (double)y->usage.memory_bytes : -1, fresh_x ? (double)x->usage.memory_bytes : -1);
                break;
        case TOP_NODES_BY_PRESSURE:
                r = by_number(fresh_y ? node_pressure(&y->usage) : -1, fresh_x ? node_pressure(&x->usage) : -1);
                break;
        case TOP_NODES_BY_CALLS:
                r = by_number(counted_y ? y->calls.per_second : -1, counted_x ? x->calls.per_second : -1);
                break;
        case TOP_NODES_BY_WORST:
                r = by_number(counted_y ? (double)y->calls.worst_p99_ns : -1, counted_x ? (double)x->calls.worst_p99_ns : -1);
                break;
        case TOP_NODES_BY_RESTARTS:
                r = by_number(y->restarts, x->restarts);
                break;
        case TOP_NODES_BY_UPTIME:
                r = by_number((double)x->since, (double)y->since);
                break;
        default:
                break;
        }
        if (s->ui->reverse)
                r = -r;
        return r ? r : ia < ib ? -1 : ia > ib;
}

static int compare_links(const void *a, const void *b, void *userdata)
{
        const Sorting *s = userdata;
        size_t ia = *(const size_t *)a, ib = *(const size_t *)b;
        const TopLink *x = &s->model->links[ia], *y = &s->model->links[ib];
        bool fresh_x = top_link_fresh(s->model, x, s->now), fresh_y = top_link_fresh(s->model, y, s->now);
        int r = 0;

        switch (s->ui->link_sort) {
        case TOP_LINKS_BY_NAME:
                r = compare_names(x->dataflow, x->from, y->dataflow, y->from);
                r = r ? r : compare_names(x->output, x->to, y->output, y->to);
                break;
        case TOP_LINKS_BY_RATE:
                r = by_number(fresh_y ? y->rate : -1, fresh_x ? x->rate : -1);
                break;
        case TOP_LINKS_BY_DEPTH:
                r = by_number(fresh_y ? top_link_fill(y) : -1, fresh_x ? top_link_fill(x) : -1);
                break;
        case TOP_LINKS_BY_DROPS:
                r = by_number(fresh_y ? (double)y->dropped : -1, fresh_x ? (double)x->dropped : -1);
                break;
        case TOP_LINKS_BY_AGE:
                r = by_number(fresh_y && y->depth ? (double)y->age_us : -1, fresh_x && x->depth ? (double)x->age_us : -1);
                break;
        default:
                break;
        }
        if (s->ui->reverse)
                r = -r;
        return r ? r : ia < ib ? -1 : ia > ib;
}

static bool passes(const TopUi *ui, const char *name)
{
        return !ui->filter[0] || strcasestr(name, ui->filter);
}

int top_order(TopOrder *ret, const TopModel *model, const TopUi *ui, nsec_t now)
{
        Sorting sorting = {.model = model, .ui = ui, .now = now};
        TopOrder order = {.nodes = calloc(model->n_nodes + 1, sizeof(size_t)), .links = calloc(model->n_links + 1, sizeof(size_t))};
        char name[900];

        if (!order.nodes || !order.links) {
                top_order_done(&order);
                return error_origin(-ENOMEM);
        }
        for (size_t i = 0; i < model->n_nodes; i++) {
                (void)snprintf(name, sizeof(name), "%s:%s", model->nodes[i].dataflow, model->nodes[i].id);
                if (passes(ui, name))
                        order.nodes[order.n_nodes++] = i;
        }
        for (size_t i = 0; i < model->n_links; i++) {
                const TopLink *l = &model->links[i];

                (void)snprintf(name, sizeof(name), "%s:%s/%s %s:%s/%s", l->dataflow, l->from, l->output, l->dataflow, l->to, l->input);
                if (passes(ui, name))
                        order.links[order.n_links++] = i;
        }
        qsort_r(order.nodes, order.n_nodes, sizeof(size_t), compare_nodes, &sorting);
        qsort_r(order.links, order.n_links, sizeof(size_t), compare_links, &sorting);
        *ret = order;
        return 0;
}

void top_order_done(TopOrder *order)
{
        free(order->nodes);
        free(order->links);
        *order = TOP_ORDER_NULL;
}

/* ---- selection */

static void set_node(TopUi *ui, const TopModel *model, const TopOrder *order, size_t row)
{
        const TopNode *node = &model->nodes[order->nodes[row]];

        ui->node_row = row;
        (void)snprintf(ui->uuid, sizeof(ui->uuid), "%s", node->uuid);
        (void)snprintf(ui->node, sizeof(ui->node), "%s", node->id);
}

static void set_link(TopUi *ui, const TopModel *model, const TopOrder *order, size_t row)
{
        const TopLink *link = &model->links[order->links[row]];

        ui->link_row = row;
        (void)snprintf(ui->link_uuid, sizeof(ui->link_uuid), "%s", link->uuid);
        (void)snprintf(ui->link_to, sizeof(ui->link_to), "%s", link->to);
        (void)snprintf(ui->link_input, sizeof(ui->link_input), "%s", link->input);
}

static void select_node(TopUi *ui, const TopModel *model, const TopOrder *order)
{
        for (size_t i = 0; i < order->n_nodes; i++) {
                const TopNode *node = &model->nodes[order->nodes[i]];

                if (strcmp(node->id, ui->node) == 0 && strcmp(node->uuid, ui->uuid) == 0) {
                        ui->node_row = i;
                        return;
                }
        }
        if (order->n_nodes > 0)
                set_node(ui, model, order, MIN(ui->node_row, order->n_nodes - 1));
        else
                ui->node[0] = '\0';
}

static void select_link(TopUi *ui, const TopModel *model, const TopOrder *order)
{
        for (size_t i = 0; i < order->n_links; i++) {
                const TopLink *link = &model->links[order->links[i]];

                if (strcmp(link->input, ui->link_input) == 0 && strcmp(link->to, ui->link_to) == 0 && strcmp(link->uuid, ui->link_uuid) == 0) {
                        ui->link_row = i;
                        return;
                }
        }
        if (order->n_links > 0)
                set_link(ui, model, order, MIN(ui->link_row, order->n_links - 1));
        else
                ui->link_to[0] = '\0';
}

void top_ui_select(TopUi *ui, const TopModel *model, const TopOrder *order)
{
        if (ui->page != TOP_PAGE_MAIN && ui->node[0])
                return; /* a page is about whom it was opened for, also when that is gone */
        select_node(ui, model, order);
        select_link(ui, model, order);
        if (order->n_links == 0)
                ui->on_links = false;
}

static size_t moved(size_t at, size_t n, unsigned key, size_t page_rows)
{
        size_t step = MAX(page_rows, (size_t)1);

        switch (key) {
        case TOP_KEY_UP:
        case 'k':
                return at > 0 ? at - 1 : 0;
        case TOP_KEY_DOWN:
        case 'j':
                return at + 1 < n ? at + 1 : at;
        case TOP_KEY_PAGE_UP:
                return at > step ? at - step : 0;
        case TOP_KEY_PAGE_DOWN:
                return MIN(at + step, n - 1);
        case TOP_KEY_HOME:
                return 0;
        case TOP_KEY_END:
                return n - 1;
        default:
                return at;
        }
}

static void move(TopUi *ui, const TopModel *model, const TopOrder *order, unsigned key, size_t page_rows)
{
        if (ui->on_links && order->n_links > 0)
                set_link(ui, model, order, moved(ui->link_row, order->n_links, key, page_rows));
        else if (!ui->on_links && order->n_nodes > 0)
                set_node(ui, model, order, moved(ui->node_row, order->n_nodes, key, page_rows));
}

const char *top_ui_dataflow(const TopUi *ui)
{
        return ui->on_links ? ui->link_uuid : ui->uuid;
}

/* ---- keys */

const char *top_ui_sort_name(const TopUi *ui)
{
        static const char *const nodes[_TOP_NODES_BY_MAX] = {
                [TOP_NODES_BY_PLAN] = "plan", [TOP_NODES_BY_NAME] = "name", [TOP_NODES_BY_STATE] = "state",
                [TOP_NODES_BY_CPU] = "CPU", [TOP_NODES_BY_MEMORY] = "memory", [TOP_NODES_BY_PRESSURE] = "pressure",
                [TOP_NODES_BY_CALLS] = "calls", [TOP_NODES_BY_WORST] = "worst call", [TOP_NODES_BY_RESTARTS] = "restarts", [TOP_NODES_BY_UPTIME] = "uptime"};
        static const char *const links[_TOP_LINKS_BY_MAX] = {
                [TOP_LINKS_BY_PLAN] = "plan", [TOP_LINKS_BY_NAME] = "name", [TOP_LINKS_BY_RATE] = "rate",
                [TOP_LINKS_BY_DEPTH] = "depth", [TOP_LINKS_BY_DROPS] = "drops", [TOP_LINKS_BY_AGE] = "age"};

        return ui->on_links ? links[ui->link_sort] : nodes[ui->node_sort];
}

static void sort_next(TopUi *ui, int step)
{
        if (ui->on_links)
                ui->link_sort = (TopLinkSort)(((int)ui->link_sort + step + _TOP_LINKS_BY_MAX) % _TOP_LINKS_BY_MAX);
        else
                ui->node_sort = (TopNodeSort)(((int)ui->node_sort + step + _TOP_NODES_BY_MAX) % _TOP_NODES_BY_MAX);
}

static bool sort_by_letter(TopUi *ui, unsigned key)
{
        static const struct {
                char letter;
                TopNodeSort nodes;
                TopLinkSort links;
        } letters[] = {
                {'N', TOP_NODES_BY_NAME, TOP_LINKS_BY_NAME},
                {'S', TOP_NODES_BY_STATE, _TOP_LINKS_BY_MAX},
                {'C', TOP_NODES_BY_CPU, _TOP_LINKS_BY_MAX},
                {'M', TOP_NODES_BY_MEMORY, _TOP_LINKS_BY_MAX},
                {'P', TOP_NODES_BY_PRESSURE, _TOP_LINKS_BY_MAX},
                {'Y', TOP_NODES_BY_CALLS, _TOP_LINKS_BY_MAX},
                {'W', TOP_NODES_BY_WORST, _TOP_LINKS_BY_MAX},
                {'R', TOP_NODES_BY_RESTARTS, TOP_LINKS_BY_RATE},
                {'U', TOP_NODES_BY_UPTIME, _TOP_LINKS_BY_MAX},
                {'Q', _TOP_NODES_BY_MAX, TOP_LINKS_BY_DEPTH},
                {'D', _TOP_NODES_BY_MAX, TOP_LINKS_BY_DROPS},
                {'A', _TOP_NODES_BY_MAX, TOP_LINKS_BY_AGE},
        };

        for (size_t i = 0; i < ELEMENTSOF(letters); i++) {
                if ((unsigned)letters[i].letter != key)
                        continue;
                if (ui->on_links ? letters[i].links == _TOP_LINKS_BY_MAX : letters[i].nodes == _TOP_NODES_BY_MAX)
                        return false;
                if (ui->on_links)
                        ui->link_sort = letters[i].links;
                else
                        ui->node_sort = letters[i].nodes;
                return true;
        }
        return false;
}

/* A code point as UTF-8 at the end of the filter, if it has room. */
static void type_character(TopUi *ui, unsigned key)
{
        size_t n = strlen(ui->filter);
        char c[4];
        size_t size = 0;

        if (key < 0x80) {
                c[size++] = (char)key;
        } else if (key < 0x800) {
                c[size++] = (char)(0xc0 | key >> 6);
                c[size++] = (char)(0x80 | (key & 0x3f));
        } else if (key < 0x10000) {
                c[size++] = (char)(0xe0 | key >> 12);
                c[size++] = (char)(0x80 | (key >> 6 & 0x3f));
                c[size++] = (char)(0x80 | (key & 0x3f));
        } else {
                c[size++] = (char)(0xf0 | key >> 18);
                c[size++] = (char)(0x80 | (key >> 12 & 0x3f));
                c[size++] = (char)(0x80 | (key >> 6 & 0x3f));
                c[size++] = (char)(0x80 | (key & 0x3f));
        }
        if (n + size >= sizeof(ui->filter))
                return;
        memcpy(ui->filter + n, c, size);
        ui->filter[n + size] = '\0';
}

static void delete_character(TopUi *ui)
{
        size_t n = strlen(ui->filter);

        while (n > 0 && ((unsigned char)ui->filter[n - 1] & 0xc0) == 0x80)
                n--;
        ui->filter[n > 0 ? n - 1 : 0] = '\0';
}

static void type(TopUi *ui, unsigned key)
{
        if (key == TOP_KEY_ENTER) {
                ui->typing = false;
        } else if (key == TOP_KEY_ESCAPE) {
                ui->typing = false;
                ui->filter[0] = '\0';
        } else if (key == TOP_KEY_BACKSPACE) {
                delete_character(ui);
        } else if (key >= ' ' && key < TOP_KEY_UP && key != 0x7f) {
                type_character(ui, key);
        }
}

static void open_page(TopUi *ui, TopPage page)
{
        if (ui->on_links && (page == TOP_PAGE_TREE || page == TOP_PAGE_LOG || page == TOP_PAGE_WHY)) { /* of who reads that link */
                memcpy(ui->uuid, ui->link_uuid, sizeof(ui->uuid));
                memcpy(ui->node, ui->link_to, sizeof(ui->node));
        }
        ui->page = ui->page == page ? TOP_PAGE_MAIN : page;
        ui->scroll = 0;
        ui->follow = ui->page == TOP_PAGE_LOG;
}

/* Lines of a page move; how far there are any the view knows, and keeps to. */
static bool scroll(TopUi *ui, unsigned key, size_t page_rows)
{
        switch (key) {
        case TOP_KEY_UP:
        case 'k':
                ui->scroll -= ui->scroll > 0;
                break;
        case TOP_KEY_DOWN:
        case 'j':
                ui->scroll++;
                break;
        case TOP_KEY_PAGE_UP:
                ui->scroll -= MIN(ui->scroll, page_rows);
                break;
        case TOP_KEY_PAGE_DOWN:
                ui->scroll += page_rows;
                break;
        case TOP_KEY_HOME:
                ui->scroll = 0;
                break;
        case TOP_KEY_END:
                ui->follow = true;
                return true;
        default:
                return false;
        }
        ui->follow = false;
        return true;
}

static TopAction on_page(TopUi *ui, unsigned key, size_t page_rows)
{
        if (scroll(ui, key, page_rows))
                return TOP_ACTION_NONE;
        if (key == TOP_KEY_ESCAPE || key == TOP_KEY_BACKSPACE || key == TOP_KEY_LEFT || (key == TOP_KEY_ENTER && ui->page == TOP_PAGE_DETAILS))
                open_page(ui, TOP_PAGE_MAIN);
        return TOP_ACTION_NONE;
}

static void on_main(TopUi *ui, const TopModel *model, const TopOrder *order, unsigned key, size_t page_rows)
{
        if (sort_by_letter(ui, key))
                return;
        switch (key) {
        case '\t':
                ui->on_links = !ui->on_links && order->n_links > 0;
                break;
        case '<':
        case TOP_KEY_LEFT:
                sort_next(ui, -1);
                break;
        case '>':
        case TOP_KEY_RIGHT:
                sort_next(ui, 1);
                break;
        case 'I':
                ui->reverse = !ui->reverse;
                break;
        case '/':
                ui->typing = true;
                break;
        case TOP_KEY_ESCAPE:
                ui->filter[0] = '\0';
                break;
        default:
                move(ui, model, order, key, page_rows);
        }
}

TopAction top_ui_key(TopUi *ui, const TopModel *model, const TopOrder *order, unsigned key, size_t page_rows)
{
        ui->message[0] = '\0';
        if (ui->typing) {
                type(ui, key);
                return TOP_ACTION_NONE;
        }
        switch (key) {
        case 'q':
        case 'Q' - '@': /* Ctrl-Q, where it arrives */
                return TOP_ACTION_QUIT;
        case 'h':
        case '?':
                open_page(ui, TOP_PAGE_HELP);
                return TOP_ACTION_NONE;
        case ' ':
                ui->paused = !ui->paused;
                return ui->paused ? TOP_ACTION_NONE : TOP_ACTION_LOOK;
        default:
                break;
        }
        if (ui->node[0] || ui->link_to[0]) {
                if (key == 't' || key == 'l' || (key == 'w' && ui->can_why))
                        open_page(ui, key == 't' ? TOP_PAGE_TREE : key == 'l' ? TOP_PAGE_LOG : TOP_PAGE_WHY);
                if (key == TOP_KEY_ENTER && ui->page == TOP_PAGE_MAIN) {
                        open_page(ui, TOP_PAGE_DETAILS);
                        return TOP_ACTION_LOOK;
                }
                if (key == 'p' && ui->can_probe)
                        return TOP_ACTION_PROBE;
                if (key == 't' || key == 'l' || key == 'w')
                        return TOP_ACTION_LOOK;
        }
        if (ui->page != TOP_PAGE_MAIN)
                return on_page(ui, key, page_rows);
        if (key == 'e')
                return TOP_ACTION_ENDED;
        on_main(ui, model, order, key, page_rows);
        return TOP_ACTION_NONE;
}
