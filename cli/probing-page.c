/* SPDX-License-Identifier: Apache-2.0 */
/* What was counted, as one HTML file. */
#include "cli/probing.h"

#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/histogram.h"
#include "cli/print.h"

#define BAR_W   7.0
#define PLOT_H  40.0
#define SHARE_W 160.0

static const char style[] =
        "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1c2330;background:#fff}"
        "h1{font-size:1.5rem;margin-bottom:0}h2{font-size:1.15rem;margin:2rem 0 .4rem}p{margin:.3rem 0;color:#556}"
        "table{border-collapse:collapse;width:100%}th{text-align:right;font-weight:500;color:#667;border-bottom:1px solid #cbd2dc;padding:.2rem .6rem}"
        "td{text-align:right;padding:.25rem .6rem;border-bottom:1px solid #eceff3;font-variant-numeric:tabular-nums;vertical-align:middle}"
        "th:first-child,td:first-child{text-align:left;padding-left:0}td.w,th.w{text-align:left}.e{color:#b42318}.n{color:#8a5a00;font-size:.85em}"
        "svg{display:block}.b{fill:#2f6fb3}.s{fill:#8fb7de}.g{stroke:#dde2e9}.l{font-size:9px;fill:#667}"
        "@media(prefers-color-scheme:dark){body{background:#14181f;color:#dde3ec}p,th{color:#9aa6b5}td{border-color:#262d38}th{border-color:#3a4453}.g{stroke:#303846}.b{fill:#6aa5e0}"
        ".s{fill:#3d6c9c}.l{fill:#9aa6b5}.e{color:#ff8a7d}.n{color:#e2b55b}}";

static void put_text(FILE *f, const char *text)
{
        for (; *text; text++) {
                static const char special[] = "<>&\"";
                static const char *const names[] = {"&lt;", "&gt;", "&amp;", "&quot;"};
                const char *at = strchr(special, *text);

                if (at)
                        (void)fputs(names[at - special], f);
                else
                        (void)fputc(*text, f);
        }
}

/* Buckets beside each other, from the first to the last of the node's, so that those of its calls stand below each other. */
static void put_histogram(FILE *f, const Histogram *histogram, size_t first, size_t last)
{
        uint64_t most = 1;

        for (size_t i = first; i <= last; i++)
                most = MAX(most, histogram->n[i]);
        (void)fprintf(f, "<svg width=\"%.0f\" height=\"%.0f\" role=\"img\">", BAR_W * (double)(last - first + 1), PLOT_H + 12);
        for (size_t i = first; i <= last; i++) {
                double x = BAR_W * (double)(i - first), h = PLOT_H * (double)histogram->n[i] / (double)most;
                char low[16], high[16];

                if (i % 10 == 0) /* a thousand times the one before */
                        (void)fprintf(f, "<line class=\"g\" x1=\"%.1f\" x2=\"%.1f\" y1=\"0\" y2=\"%.0f\"/><text class=\"l\" x=\"%.1f\" y=\"%.0f\">%s</text>", x, x, PLOT_H, x + 1,
                                PLOT_H + 10, histogram_format_ns(UINT64_C(1) << i, low, sizeof(low)));
                if (histogram->n[i] > 0)
                        (void)fprintf(f, "<rect class=\"b\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"><title>%llu took %s to %s</title></rect>", x, PLOT_H - MAX(h, 1.5),
                                BAR_W - 1, MAX(h, 1.5), (unsigned long long)histogram->n[i], histogram_format_ns(UINT64_C(1) << i, low, sizeof(low)),
                                histogram_format_ns(UINT64_C(1) << (i + 1), high, sizeof(high)));
        }
        (void)fputs("</svg>", f);
}

static void put_call(FILE *f, const json_t *call, double most_ns, size_t first, size_t last)
{
        static const double parts[] = {0.5, 0.99, 1};
        long long now = json_get_number(call, "now"), errors = json_get_number(call, "errors");
        double total = (double)json_get_number(call, "total_ns");
        Histogram histogram;
        char text[16];

        histogram_read(&histogram, json_object_get(call, "log2_ns"));
        (void)fputs("<tr><td>", f);
        put_text(f, json_get_text(call, "call"));
        if (now > 0)
                (void)fprintf(f, "<br><span class=\"n\">%lld in it, the longest for %s</span>", now,
                        histogram_format_ns((uint64_t)json_get_number(call, "now_longest_ns"), text, sizeof(text)));
        (void)fprintf(f, "</td><td>%lld</td><td%s>%lld</td>", json_get_number(call, "count"), errors ? " class=\"e\"" : "", errors);
        for (size_t i = 0; i < ELEMENTSOF(parts); i++)
                (void)fprintf(f, "<td>%s</td>", histogram.sum ? histogram_format_ns(histogram_quantile(&histogram, parts[i]), text, sizeof(text)) : "");
        (void)fprintf(f, "<td>%s</td><td class=\"w\"><svg width=\"%.0f\" height=\"12\"><rect class=\"s\" width=\"%.1f\" height=\"12\"/></svg></td><td class=\"w\">",
                histogram_format_ns((uint64_t)total, text, sizeof(text)), SHARE_W, most_ns > 0 ? SHARE_W * total / most_ns : 0);
        put_histogram(f, &histogram, first, last);
        (void)fputs("</td></tr>\n", f);
}

static void put_share(FILE *f, const char *name, long long n, long long all)
{
        if (n <= 0 || all <= 0)
                return;
        (void)fputs("<tr><td>", f);
        put_text(f, name);
        (void)fprintf(f, "</td><td>%lld</td><td>%.1f %%</td><td class=\"w\"><svg width=\"%.0f\" height=\"12\"><rect class=\"b\" width=\"%.1f\" height=\"12\"/></svg></td></tr>\n", n,
                100 * (double)n / (double)all, 2 * SHARE_W, 2 * SHARE_W * (double)n / (double)all);
}

static void put_sampled(FILE *f, const json_t *node)
{
        const json_t *sampled = json_object_get(node, "sampled");
        long long threads = json_get_number(sampled, "threads");
        json_t *call;
        size_t i;

        (void)fputs("<h2>", f);
        put_text(f, json_get_text(node, "node"));
        (void)fprintf(f, "</h2>\n<p>generation %lld: where its threads were in %lld looks; of %lld it may not be known</p>\n<table><tr><th>call</th><th>found</th><th>share</th><th class=\"w\"></th></tr>\n",
                json_get_number(node, "generation"), json_get_number(sampled, "looks"), json_get_number(sampled, "unseen"));
        json_array_foreach(json_object_get(sampled, "calls"), i, call)
                put_share(f, json_get_text(call, "call"), json_get_number(call, "samples"), threads);
        put_share(f, "in another call", json_get_number(sampled, "other"), threads);
        put_share(f, "in none", json_get_number(sampled, "outside"), threads);
        (void)fputs("</table>\n", f);
}

static void put_node(FILE *f, const json_t *node)
{
        const json_t *calls = json_object_get(node, "calls");
        size_t first = HISTOGRAM_BUCKETS - 1, last = 0, i;
        double most_ns = 0;
        Histogram histogram;
        json_t *call;

        json_array_foreach(calls, i, call) {
                histogram_read(&histogram, json_object_get(call, "log2_ns"));
                for (size_t k = 0; k < HISTOGRAM_BUCKETS; k++) {
                        if (histogram.n[k] == 0)
                                continue;
                        first = MIN(first, k);
                        last = MAX(last, k);
                }
                most_ns = MAX(most_ns, (double)json_get_number(call, "total_ns"));
        }
        first = MIN(first, last);
        (void)fputs("<h2>", f);
        put_text(f, json_get_text(node, "node"));
        (void)fprintf(f, "</h2>\n<p>generation %lld", json_get_number(node, "generation"));
        if (json_get_number(node, "lost") > 0)
                (void)fprintf(f, "; %lld calls could not be counted, for want of memory", json_get_number(node, "lost"));
        if (json_array_size(calls) == 0) {
                (void)fputs("; it has returned from no call and entered none since it was watched</p>\n", f);
                return;
        }
        (void)fputs("</p>\n<table><tr><th>call</th><th>count</th><th>errors</th><th>p50</th><th>p99</th><th>max</th><th>total</th><th class=\"w\">time in it</th>"
                    "<th class=\"w\">how many took how long</th></tr>\n", f);
        json_array_foreach(calls, i, call)
                put_call(f, call, most_ns, first, last);
        (void)fputs("</table>\n", f);
}

static void put_ends(FILE *f, const Histogram *histogram, bool of_times)
{
        static const double parts[] = {0.5, 0.99, 1};
        char text[16];

        (void)fprintf(f, "<td>%llu</td>", (unsigned long long)histogram->sum);
        for (size_t i = 0; i < ELEMENTSOF(parts); i++) {
                uint64_t end = histogram_quantile(histogram, parts[i]);

                if (histogram->sum == 0)
                        (void)fputs("<td></td>", f);
                else if (of_times)
                        (void)fprintf(f, "<td>%s</td>", histogram_format_ns(end, text, sizeof(text)));
                else
                        (void)fprintf(f, "<td>%llu</td>", (unsigned long long)end - 1); /* which is no part of its bucket */
        }
}

static void put_links(FILE *f, const json_t *links)
{
        json_t *link;
        size_t i;

        if (json_array_size(links) > 0)
                (void)fputs("<h2>Links</h2>\n<table><tr><th>link</th><th>sampled</th><th colspan=\"3\">were waiting: p50, p99, max</th><th>taken</th><th colspan=\"3\">age: p50, p99, max</th>"
                            "<th class=\"w\">how many had which age</th></tr>\n", f);
        json_array_foreach(links, i, link) {
                Histogram waiting, age;

                histogram_read(&waiting, json_object_get(link, "depth_log2"));
                histogram_read(&age, json_object_get(link, "age_log2_ns"));
                (void)fputs("<tr><td>", f);
                put_text(f, json_get_text(link, "from"));
                (void)fputs("/", f);
                put_text(f, json_get_text(link, "output"));
                (void)fputs(" &rarr; ", f);
                put_text(f, json_get_text(link, "to"));
                (void)fputs("/", f);
                put_text(f, json_get_text(link, "input"));
                if (json_get_number(link, "one_in") > 1)
                        (void)fprintf(f, "<br><span class=\"n\">of one message in %lld</span>", json_get_number(link, "one_in"));
                if (probing_is_of_counters(link))
                        (void)fprintf(f, "<br><span class=\"n\">%lld looks instead of messages, nothing waited in %lld; ages are of the first that waited</span>",
                                json_get_number(link, "sampled"), json_get_number(link, "empty"));
                (void)fputs("</td>", f);
                put_ends(f, &waiting, false);
                put_ends(f, &age, true);
                (void)fputs("<td class=\"w\">", f);
                put_histogram(f, &age, 0, 34); /* to 34 s */
                (void)fputs("</td></tr>\n", f);
        }
        if (json_array_size(links) > 0)
                (void)fputs("</table>\n", f);
}

int probing_page(const json_t *probing, FILE *f)
{
        const json_t *cost = json_object_get(probing, "cost");
        json_t *node;
        size_t i;

        (void)fputs("<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>", f);
        put_text(f, json_get_text(probing, "dataflow"));
        (void)fprintf(f, ": system calls</title><style>%s</style>\n<h1>", style);
        put_text(f, json_get_text(probing, "dataflow"));
        (void)fprintf(f, "</h1>\n<p>System calls in %.1f s. %s</p>\n", (double)json_get_number(probing, "for_ms") / 1000,
                cost ? "p50, p99 and max: at most so long, for times are counted in steps of two."
                     : "Looked at ten times a second instead of counted. What is lost: how many calls were made, how many failed, how long each took; a call that is short is seldom seen.");
        if (cost)
                (void)fprintf(f, "<p>Counting took %.2f %% of a CPU (budget %.4g %%): %lld ns a call, and %lld ns of one of anybody else's.</p>\n",
                        100 * json_number_value(json_object_get(cost, "share")), 100 * json_number_value(json_object_get(cost, "budget")), json_get_number(cost, "call_ns"),
                        json_get_number(cost, "other_call_ns"));
        json_array_foreach(json_object_get(probing, "nodes"), i, node)
                if (json_object_get(node, "sampled"))
                        put_sampled(f, node);
                else
                        put_node(f, node);
        put_links(f, json_object_get(probing, "links"));
        (void)fputs("</html>\n", f);
        return fflush(f) || ferror(f) ? -(errno ? errno : EIO) : 0;
}
