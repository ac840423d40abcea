/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Report: the result of benchmarks as one HTML file with everything in it: drawings as SVG, no script, nothing
 * fetched.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "cli/bench/bench.h"

#define MAX_NAMES   16u
#define PANEL_W     270.0
#define PANEL_H     210.0
#define PANEL_LEFT  52.0
#define PANEL_TOP   26.0
#define PANEL_FOOT  34.0
#define PANEL_GAP   14.0
#define SERIES_STEP 4.0 /* beside each other: whiskers would hide each other */

/* Values of one key in their order: places, sizes, ways. */
typedef struct Names {
        const json_t *value[MAX_NAMES]; /* borrowed */
        unsigned n;
} Names;

static void collect(Names *names, const json_t *rows, const char *key)
{
        json_t *row;
        size_t i;

        *names = (Names){};
        json_array_foreach(rows, i, row)
        {
                const json_t *value = json_object_get(row, key);
                bool known = !value;

                for (unsigned k = 0; k < names->n; k++)
                        known = known || json_equal(names->value[k], value);
                if (!known && names->n < MAX_NAMES)
                        names->value[names->n++] = value;
        }
}

/* The first row in which all of the keys have these values; a NULL value means any. */
static const json_t *find_row(const json_t *rows, const char *const *keys, const json_t *const *values, unsigned n)
{
        json_t *row;
        size_t i;

        json_array_foreach(rows, i, row)
        {
                bool same = true;

                for (unsigned k = 0; k < n; k++)
                        same = same && (!values[k] || json_equal(json_object_get(row, keys[k]), values[k]));
                if (same)
                        return row;
        }
        return NULL;
}

static void put_text(FILE *f, const char *text)
{
        for (; text && *text; text++) {
                if (*text == '<')
                        (void)fputs("&lt;", f);
                else if (*text == '>')
                        (void)fputs("&gt;", f);
                else if (*text == '&')
                        (void)fputs("&amp;", f);
                else if (*text == '"')
                        (void)fputs("&quot;", f);
                else
                        (void)fputc(*text, f);
        }
}

static const char *name_of(const json_t *value, char *buffer, size_t size)
{
        if (json_is_string(value))
                return json_string_value(value);
        (void)snprintf(buffer, size, "%lld", (long long)json_integer_value(value));
        return buffer;
}

static const char *size_of(const json_t *value, char *buffer, size_t size)
{
        bench_size_name((uint64_t)json_integer_value(value), buffer, size);
        return buffer;
}

/* One colour a way, everywhere; ours is the one that stands out. */
static const char *class_of(const json_t *way)
{
        static const char *const ways[] = {", spin", "spin", "futex", "pipe", "doorbell", ", block", "tidegate", "ring",
                "descriptors", "BATCH", "broadcast"};
        static const char *const classes[] = {"u3", "c0", "c1", "c2", "c3", "u2", "us", "c0", "c1", "c1", "c0"};

        for (size_t i = 0; i < ELEMENTSOF(ways); i++)
                if (strstr(json_string_value(way), ways[i]))
                        return classes[i];
        return "c2";
}

/* ---- panels with a logarithmic scale */

typedef struct Panel {
        FILE *f;
        double x, y, w, h; /* of what is inside of the axes */
        int low, high;     /* powers of ten */
        unsigned n;        /* categories */
} Panel;

static double panel_y(const Panel *p, double value)
{
        double part = value > 0 ? (log10(value) - p->low) / (p->high - p->low) : 0;

        return p->y + p->h * (1 - fmin(fmax(part, 0), 1));
}

static double panel_x(const Panel *p, unsigned i)
{
        return p->x + p->w * (i + 0.5) / p->n;
}

static void power_text(int power, char *ret, size_t n)
{
        if (power >= 6)
                (void)snprintf(ret, n, "%.0f M", pow(10, power - 6));
        else if (power >= 3)
                (void)snprintf(ret, n, "%.0f k", pow(10, power - 3));
        else
                (void)snprintf(ret, n, power < 0 ? "%.*f" : "%.*f", power < 0 ? -power : 0, pow(10, power));
}

static void panel_frame(const Panel *p, const char *title, bool labelled)
{
        (void)fprintf(p->f, "<text class=\"t\" x=\"%.1f\" y=\"%.1f\">", p->x, p->y - 9);
        put_text(p->f, title);
        (void)fputs("</text>\n", p->f);
        for (int power = p->low; power <= p->high; power++) {
                double y = panel_y(p, pow(10, power));
                char text[32];

                (void)fprintf(p->f, "<line class=\"g\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n", p->x,
                        p->x + p->w, y, y);
                power_text(power, text, sizeof(text));
                if (labelled)
                        (void)fprintf(p->f, "<text class=\"l\" text-anchor=\"end\" x=\"%.1f\" y=\"%.1f\">%s</text>\n",
                                p->x - 6, y + 4, text);
        }
}

static void panel_category(const Panel *p, unsigned i, const char *name)
{
        (void)fprintf(p->f, "<text class=\"l\" text-anchor=\"middle\" x=\"%.1f\" y=\"%.1f\">", panel_x(p, i),
                p->y + p->h + 15);
        put_text(p->f, name);
        (void)fputs("</text>\n", p->f);
}

/* The powers of ten around all values of a key. */
static void range_of(const json_t *rows, const char *const *keys, unsigned n_keys, int *ret_low, int *ret_high)
{
        double least = INFINITY, most = 0;
        json_t *row;
        size_t i;

        json_array_foreach(rows, i, row) for (unsigned k = 0; k < n_keys; k++)
        {
                double v = json_number_value(json_object_get(row, keys[k]));

                if (v > 0) {
                        least = fmin(least, v);
                        most = fmax(most, v);
                }
        }
        *ret_low = most > 0 ? (int)floor(log10(least)) : 0;
        *ret_high = most > 0 ? (int)ceil(log10(most)) : 1;
        if (*ret_low == *ret_high)
                (*ret_high)++;
}

static void legend(FILE *f, const Names *ways)
{
        (void)fputs("<p class=\"legend\">", f);
        for (unsigned w = 0; w < ways->n; w++) {
                (void)fprintf(f, "<span class=\"key k-%s\"></span>", class_of(ways->value[w]));
                put_text(f, json_string_value(ways->value[w]));
                (void)fputs(" ", f);
        }
        (void)fputs("</p>\n", f);
}

static Panel panel_at(FILE *f, unsigned column, int low, int high, unsigned n)
{
        return (Panel){.f = f,
                .x = PANEL_LEFT + column * (PANEL_W + PANEL_GAP),
                .y = PANEL_TOP,
                .w = PANEL_W,
                .h = PANEL_H,
                .low = low,
                .high = high,
                .n = n};
}

static void svg_begin(FILE *f, unsigned n_panels, const char *what)
{
        double w = PANEL_LEFT + n_panels * (PANEL_W + PANEL_GAP), h = PANEL_TOP + PANEL_H + PANEL_FOOT;

        (void)fprintf(f, "<svg viewBox=\"0 0 %.0f %.0f\" style=\"max-width:%.0fpx\" role=\"img\"><title>", w, h, w);
        put_text(f, what);
        (void)fputs("</title>\n", f);
}

/* ---- latency: lines of p50, and up to p99 a whisker */

static const char *const latency_keys[] = {"pace", "place", "way", "size"};

static void latency_series(
        const Panel *p, const json_t *rows, const json_t *const *values, const Names *sizes, double dx)
{
        const json_t *all[] = {values[0], values[1], values[2], NULL};
        const char *class = class_of(values[2]);
        bool begun = false;

        (void)fprintf(p->f, "<path class=\"s %s\" d=\"", class);
        for (unsigned s = 0; s < sizes->n; s++) {
                const json_t *row;

                all[3] = sizes->value[s];
                row = find_row(rows, latency_keys, all, 4);
                if (!row)
                        continue;
                (void)fprintf(p->f, "%c%.1f %.1f", begun ? 'L' : 'M', panel_x(p, s) + dx,
                        panel_y(p, json_number_value(json_object_get(row, "p50_us"))));
                begun = true;
        }
        (void)fputs("\"/>\n", p->f);
        for (unsigned s = 0; s < sizes->n; s++) {
                const json_t *row;
                double x = panel_x(p, s) + dx;

                all[3] = sizes->value[s];
                row = find_row(rows, latency_keys, all, 4);
                if (!row)
                        continue;
                (void)fprintf(p->f,
                        "<line class=\"w %s\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/><circle class=\"d "
                        "%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"><title>",
                        class, x, x, panel_y(p, json_number_value(json_object_get(row, "p50_us"))),
                        panel_y(p, json_number_value(json_object_get(row, "p99_us"))), class, x,
                        panel_y(p, json_number_value(json_object_get(row, "p50_us"))));
                put_text(p->f, json_string_value(values[2]));
                (void)fprintf(p->f, ": p50 %.2f us, p99 %.2f us</title></circle>\n",
                        json_number_value(json_object_get(row, "p50_us")),
                        json_number_value(json_object_get(row, "p99_us")));
        }
}

static void latency_pace(FILE *f, const json_t *rows, const json_t *pace)
{
        static const char *const ends[] = {"p50_us", "p99_us"};
        Names places, sizes, ways;
        char buffer[32];
        int low, high;

        collect(&places, rows, "place");
        collect(&sizes, rows, "size");
        collect(&ways, rows, "way");
        range_of(rows, ends, 2, &low, &high);
        (void)fputs("<h3>", f);
        put_text(f, json_string_value(pace));
        (void)fputs(", microseconds</h3>\n", f);
        legend(f, &ways);
        svg_begin(f, places.n, "latency by payload");
        for (unsigned k = 0; k < places.n; k++) {
                Panel p = panel_at(f, k, low, high, sizes.n);

                panel_frame(&p, json_string_value(places.value[k]), k == 0);
                for (unsigned s = 0; s < sizes.n; s++)
                        panel_category(&p, s, size_of(sizes.value[s], buffer, sizeof(buffer)));
                for (unsigned w = 0; w < ways.n; w++)
                        latency_series(&p, rows, (const json_t *[]){pace, places.value[k], ways.value[w]}, &sizes,
                                SERIES_STEP * (w - (ways.n - 1) / 2.0));
        }
        (void)fputs("</svg>\n", f);
}

/* ---- rates: bars */

static void bar(const Panel *p, unsigned category, unsigned k, unsigned n, const json_t *row, const json_t *way)
{
        double room = p->w / p->n * 0.8, w = room / n, x = panel_x(p, category) - room / 2 + k * w,
               v = json_number_value(json_object_get(row, "per_second")), y = panel_y(p, v);

        (void)fprintf(p->f, "<rect class=\"b %s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"><title>",
                class_of(way), x, y, fmax(w - 1, 1), p->y + p->h - y);
        put_text(p->f, json_string_value(way));
        (void)fprintf(p->f, ": %.0f a second</title></rect>\n", v);
}

/* Ways that a category does not have leave no gap. */
static void bars(
        const Panel *p, const json_t *rows, const char *const *keys, const json_t *const *values, unsigned category)
{
        const json_t *found[MAX_NAMES], *way[MAX_NAMES];
        unsigned n = 0;
        json_t *row;
        size_t i;

        json_array_foreach(rows, i, row) if (n < MAX_NAMES && json_equal(json_object_get(row, keys[0]), values[0]) &&
                                             (!values[1] || json_equal(json_object_get(row, keys[1]), values[1])))
        {
                found[n] = row;
                way[n++] = json_object_get(row, "way");
        }
        for (unsigned k = 0; k < n; k++)
                bar(p, category, k, n, found[k], way[k]);
}

static void rate_plot(FILE *f, const json_t *rows, const char *panel_key, const char *category_key, bool is_size)
{
        static const char *const value_key[] = {"per_second"};
        const char *const keys[] = {category_key, panel_key};
        Names panels, categories, ways;
        char buffer[32];
        int low, high;

        collect(&panels, rows, panel_key ? panel_key : "none");
        collect(&categories, rows, category_key);
        collect(&ways, rows, "way");
        range_of(rows, value_key, 1, &low, &high);
        legend(f, &ways);
        svg_begin(f, MAX(panels.n, 1u), "messages a second");
        for (unsigned k = 0; k < MAX(panels.n, 1u); k++) {
                Panel p = panel_at(f, k, low, high, categories.n);

                panel_frame(
                        &p, panels.n ? json_string_value(panels.value[k]) : "deliveries, by number of nodes", k == 0);
                for (unsigned c = 0; c < categories.n; c++) {
                        panel_category(&p, c,
                                is_size ? size_of(categories.value[c], buffer, sizeof(buffer))
                                        : name_of(categories.value[c], buffer, sizeof(buffer)));
                        bars(&p, rows, keys,
                                (const json_t *[]){categories.value[c], panels.n ? panels.value[k] : NULL}, c);
                }
        }
        (void)fputs("</svg>\n", f);
}

/* ---- tables */

static void put_value(FILE *f, const char *key, const json_t *value)
{
        char buffer[32];

        if (!value || json_is_null(value))
                (void)fputs("<td>-</td>", f);
        else if (json_is_string(value)) {
                (void)fputs("<td class=\"x\">", f);
                put_text(f, json_string_value(value));
                (void)fputs("</td>", f);
        } else if (json_is_boolean(value))
                (void)fprintf(f, "<td>%s</td>", json_is_true(value) ? "yes" : "no");
        else if (strcmp(key, "size") == 0)
                (void)fprintf(f, "<td>%s</td>", size_of(value, buffer, sizeof(buffer)));
        else if (json_is_integer(value))
                (void)fprintf(f, "<td>%lld</td>", (long long)json_integer_value(value));
        else
                (void)fprintf(f,
                        json_real_value(value) >= 1000                                  ? "<td>%.0f</td>"
                        : json_real_value(value) >= 0.01 || json_real_value(value) <= 0 ? "<td>%.2f</td>"
                                                                                        : "<td>%.5f</td>",
                        json_real_value(value));
}

/* Columns as the first row has them, so all of them. */
static void put_table(FILE *f, const json_t *rows)
{
        json_t *row, *value;
        const char *key;
        size_t i;

        (void)fputs("<div class=\"wide\"><table><tr>", f);
        json_object_foreach(json_array_get(rows, 0), key, value)
        {
                (void)fputs(json_is_string(value) ? "<th class=\"x\">" : "<th>", f);
                for (const char *c = key; *c; c++)
                        (void)fputc(*c == '_' ? ' ' : *c, f);
                (void)fputs("</th>", f);
        }
        (void)fputs("</tr>\n", f);
        json_array_foreach(rows, i, row)
        {
                const char *way = json_string_value(json_object_get(row, "way"));

                (void)fputs(way && strncmp(way, "tidegate", 8) == 0 ? "<tr class=\"ours\">" : "<tr>", f);
                json_object_foreach(json_array_get(rows, 0), key, value) put_value(f, key, json_object_get(row, key));
                (void)fputs("</tr>\n", f);
        }
        (void)fputs("</table></div>\n", f);
}

static void put_details(FILE *f, const char *title, const json_t *rows)
{
        if (json_array_size(rows) == 0)
                return;
        (void)fprintf(f, "<details><summary>%s</summary>\n", title);
        put_table(f, rows);
        (void)fputs("</details>\n", f);
}

static void put_goals(FILE *f, const json_t *goals)
{
        json_t *row;
        size_t i;

        if (json_array_size(goals) == 0)
                return;
        (void)fputs("<h2>Goals</h2>\n<div class=\"wide\"><table><tr><th class=\"x\">id</th><th "
                    "class=\"x\">what</th><th>measured</th><th>goal</th><th class=\"x\"></th></tr>\n",
                f);
        json_array_foreach(goals, i, row)
        {
                const json_t *reached = json_object_get(row, "reached");

                (void)fprintf(f, "<tr><td class=\"x\">%s</td><td class=\"x\">",
                        json_string_value(json_object_get(row, "id")));
                put_text(f, json_string_value(json_object_get(row, "what")));
                (void)fputs("</td>", f);
                put_value(f, "value", json_object_get(row, "value"));
                (void)fprintf(f, "<td>%s %g</td><td class=\"x\"><span class=\"%s\">%s</span></td></tr>\n",
                        strcmp(json_string_value(json_object_get(row, "direction")), "at most") == 0 ? "&le;"
                                                                                                     : "&ge;",
                        json_number_value(json_object_get(row, "goal")),
                        json_is_null(reached)   ? "none"
                        : json_is_true(reached) ? "yes"
                                                : "no",
                        json_is_null(reached)   ? "not measured"
                        : json_is_true(reached) ? "reached"
                                                : "not reached");
        }
        (void)fputs("</table></div>\n", f);
}

/* ---- the page */

static const char head[] =
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
        "content=\"width=device-width\"><title>tidegate bench</title>\n<style>\n"
        ":root{--ink:#1c2733;--soft:#5b6b7b;--line:#dde4ea;--paper:#fff;--us:#d9480f;--u2:#a8740a;--u3:#c2408c;--c0:#"
        "8795a1;--c1:#3b82b8;--c2:#5f9e6e;--c3:#8b6fb8;--good:#1f7a3d;--bad:#b3261e}\n"
        "@media(prefers-color-scheme:dark){:root{--ink:#e4eaf0;--soft:#9aa9b8;--line:#2c3742;--paper:#12181f;--us:#"
        "ff8a4c;--u2:#e0b050;--u3:#f08ac4;--c0:#8795a1;--c1:#69aee0;--c2:#86c796;--c3:#b39ae0;--good:#5fc37f;--bad:#ff8a80}}\n"
        "body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:920px;margin:2em "
        "auto;padding:0 1em}\n"
        "h1{font-size:1.6em;margin:0}h2{margin:2em 0 .4em;border-bottom:1px solid var(--line)}h3{margin:1.2em 0 "
        "0;font-size:1em}\n"
        "p.sub,p.legend{color:var(--soft);margin:.2em 0}svg{width:100%;height:auto;display:block}\n"
        "table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}td,th{padding:2px "
        "9px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}\n"
        ".x{text-align:left}tr.ours td{color:var(--us)}.wide{overflow-x:auto}details{margin:.5em "
        "0}summary{cursor:pointer;color:var(--soft)}\n"
        ".t{fill:var(--ink);font-size:13px;font-weight:600}.l{fill:var(--soft);font-size:11px}.g{stroke:var(--line)}"
        "\n"
        ".s{fill:none;stroke-width:1.5}.w{stroke-width:1;opacity:.45}.us{stroke:var(--us);fill:var(--us)}.u2{stroke:"
        "var(--u2);fill:var(--u2)}.u3{stroke:var(--u3);fill:var(--u3)}.c0{stroke:var(--c0);fill:var(--c0)}.c1{stroke:"
        "var(--c1);fill:var(--c1)}.c2{stroke:var(--c2);fill:var(--c2)}.c3{stroke:var(--c3);fill:var(--c3)}\n"
        "path.s{fill:none}path.us{stroke-width:2.5}.b{stroke:none}\n"
        ".key{display:inline-block;width:.8em;height:.8em;margin:0 .35em 0 "
        "1em;border-radius:2px}.k-us{background:var(--us)}.k-u2{background:var(--u2)}.k-u3{background:var(--u3)}.k-"
        "c0{background:var(--c0)}.k-c1{background:var(--c1)}.k-c2{background:var(--c2)}.k-c3{background:var(--c3)}\n"
        ".yes{color:var(--good)}.no{color:var(--bad);font-weight:600}.none{color:var(--soft)}\n</style></"
        "head><body>\n";

static void put_head(FILE *f, const json_t *result)
{
        const json_t *host = json_object_get(result, "host");
        time_t now = time(NULL);
        struct tm tm;
        char when[32] = "";

        (void)fputs(head, f);
        if (gmtime_r(&now, &tm))
                (void)strftime(when, sizeof(when), "%Y-%m-%d %H:%M UTC", &tm);
        (void)fprintf(f, "<h1>tidegate bench</h1>\n<p class=\"sub\">Tidegate %s, %s; Linux ",
                json_string_value(json_object_get(result, "version")), when);
        put_text(f, json_string_value(json_object_get(host, "kernel")));
        (void)fprintf(f, ", %lld CPUs, ", (long long)json_integer_value(json_object_get(host, "cpus")));
        put_text(f, json_string_value(json_object_get(host, "machine")));
        (void)fprintf(f,
                "; load %.1f; %lld rounds%s%s. Raw mechanisms and Tidegate were measured in turn, in the same "
                "processes: judge the ratios, which are medians over rounds.</p>\n",
                json_number_value(json_object_get(host, "load")),
                (long long)json_integer_value(json_object_get(result, "rounds")),
                json_is_true(json_object_get(result, "urgent")) ? ", nodes at the highest niceness" : "",
                json_is_true(json_object_get(result, "quick")) ? ", of a quick run, whose figures mean little" : "");
}

static void put_latency(FILE *f, const json_t *section)
{
        const json_t *rows = json_object_get(section, "rows");
        Names paces;

        if (json_array_size(rows) == 0)
                return;
        (void)fputs("<h2>Latency</h2>\n<p class=\"sub\">One way, from before the first call to after the first and "
                    "last line of the payload were read. Points: p50; whiskers: to p99.</p>\n",
                f);
        collect(&paces, rows, "pace");
        for (unsigned i = 0; i < paces.n; i++)
                latency_pace(f, rows, paces.value[i]);
        put_details(f, "every row", rows);
        put_details(f, "system calls, counted", json_object_get(section, "calls"));
        put_details(f, "page faults a message in the first hundred", json_object_get(section, "first"));
}

static void put_section(FILE *f, const json_t *result, const char *name, const char *title)
{
        const json_t *section = json_object_get(result, name), *rows = json_object_get(section, "rows"),
                     *skipped = json_object_get(section, "skipped");

        if (!section)
                return;
        (void)fprintf(f, "<h2>%s</h2>\n", title);
        if (skipped) {
                (void)fputs("<p class=\"sub\">not measured: ", f);
                put_text(f, json_string_value(skipped));
                (void)fputs("</p>\n", f);
        }
        if (strcmp(name, "throughput") == 0)
                rate_plot(f, rows, "place", "size", true);
        else if (strcmp(name, "fanout") == 0)
                rate_plot(f, rows, NULL, "sinks", false);
        else if (json_array_size(rows) > 0)
                put_table(f, rows);
        if (strcmp(name, "throughput") == 0 || strcmp(name, "fanout") == 0)
                put_details(f, "every row", rows);
}

int bench_report(const json_t *result, const char *path)
{
        FILE *f = fopen(path, "we");
        bool bad;

        if (!f)
                return -errno;
        put_head(f, result);
        put_goals(f, json_object_get(result, "goals"));
        put_latency(f, json_object_get(result, "latency"));
        put_section(f, result, "throughput", "Throughput, messages a second");
        put_section(f, result, "fanout", "Fan-out, 64 B");
        put_section(f, result, "reclaim", "Reclaim, microseconds from SIGKILL to a reader");
        put_section(f, result, "spawn", "Spawn");
        put_section(f, result, "stop", "Stop");
        (void)fputs("</body></html>\n", f);
        bad = ferror(f) != 0;
        return fclose(f) == 0 && !bad ? 0 : errno ? -errno : -EIO;
}
