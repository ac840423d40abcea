/* SPDX-License-Identifier: Apache-2.0 */
/* tidegate topic hz: how often messages come. On a terminal it is painted anew in its place, elsewhere it is a line a second. */
#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "cli/commands.h"
#include "cli/out.h"
#include "cli/print.h"
#include "cli/topic-stats.h"
#include "cli/topic.h"

#define HZ_WINDOW  (10 * NSEC_PER_SEC)
#define HZ_PAINT   (250 * NSEC_PER_MSEC)
#define HZ_REPEAT  NSEC_PER_SEC
#define LAST_SPAN  (2 * NSEC_PER_SEC)

typedef struct Hz {
        TopicCommand *command;
        Topic *topics;
        TopicStats *stats; /* per topic */
        Out *out;
        nsec_t began;
        bool paints, ascii;
        size_t n_painted; /* lines that stand there */
} Hz;

static void add_line(Hz *hz, FILE *f, const Topic *topic, const TopicStats *stats, nsec_t now)
{
        char plot[3 * STATS_SLOTS + 1], spread[120] = "", silent[64] = "", rate[40] = "-", span[32];
        size_t columns = hz->paints ? topic_columns() : 0;
        TopicRate r;

        stats_look(stats, now, &r);
        format_span(span, sizeof(span), (long long)(MIN(stats->window, now - hz->began) / NSEC_PER_MSEC));
        if (r.hz > 0)
                (void)snprintf(rate, sizeof(rate), "%.*f Hz", r.hz < 10 ? 2 : 1, r.hz);
        if (r.has_intervals)
                (void)snprintf(spread, sizeof(spread), ", avg %.3f ms (min %.3f, max %.3f, std %.3f)", 1e3 * (r.average > 0 ? r.average : r.longest), 1e3 * r.shortest,
                        1e3 * r.longest, 1e3 * r.deviation);
        if (topic->ended)
                (void)snprintf(silent, sizeof(silent), ", ended");
        else if (r.silent != NSEC_NEVER && r.silent > NSEC_PER_SEC)
                (void)snprintf(silent, sizeof(silent), ", silent for %.1f s", (double)r.silent / 1e9);
        fprintf(f, "%s: %s%s, %llu in %s%s", topic->name, rate, spread, (unsigned long long)r.count, span, silent);
        if (r.count > r.seen && r.seen > 0)
                fprintf(f, " (intervals of %llu)", (unsigned long long)r.seen);
        if (hz->paints) {
                stats_plot(stats, now, columns > 4 ? columns - 4 : 1, hz->ascii, plot);
                fprintf(f, "\033[K\n  |%s|\033[K", plot);
        }
        fputc('\n', f);
}

static json_t *rate_json(const Topic *topic, const TopicStats *stats, nsec_t now)
{
        json_t *object;
        TopicRate r;

        stats_look(stats, now, &r);
        object = json_pack("{ss ss sI sI sf sb}", "topic", topic->name, "dataflow", topic->dataflow, "count", (json_int_t)r.count, "seen", (json_int_t)r.seen, "rate_hz",
                r.hz, "ended", topic->ended);
        if (object && r.has_intervals) {
                json_t *more = json_pack("{sf sf sf sf}", "avg_ms", 1e3 * r.average, "min_ms", 1e3 * r.shortest, "max_ms", 1e3 * r.longest, "std_ms", 1e3 * r.deviation);

                (void)json_object_update(object, more);
                json_decref(more);
        }
        if (object && r.silent != NSEC_NEVER)
                (void)json_object_set_new(object, "silent_ms", json_integer((json_int_t)(r.silent / NSEC_PER_MSEC)));
        return object;
}

/* A terminal narrower than a line would break it, and be painted wrongly from then on. */
static size_t cut_lines(char *text, size_t columns)
{
        size_t n = 0, width = 0;
        char *to = text;

        for (const char *p = text; *p; p++) {
                bool begins = ((unsigned char)*p & 0xc0) != 0x80;

                if (*p == '\033') {
                        to = mempcpy(to, p, 3);
                        p += 2;
                        continue;
                }
                if (*p == '\n') {
                        n++;
                        width = 0;
                } else if (begins && ++width > columns) {
                        while (p[1] && p[1] != '\n' && p[1] != '\033')
                                p++;
                        continue;
                }
                *to++ = *p;
        }
        *to = '\0';
        return n;
}

/* What a terminal that is stopped does not take is left out: the next one says the same. */
static bool show(Hz *hz, nsec_t now)
{
        _cleanup_free_ char *text = NULL;
        size_t size, n = 0;
        FILE *f = open_memstream(&text, &size);
        bool taken;

        if (!f)
                return false;
        for (size_t i = 0; i < hz->command->n; i++) {
                if (!hz->command->session.json) {
                        add_line(hz, f, &hz->topics[i], &hz->stats[i], now);
                } else {
                        json_t *object = rate_json(&hz->topics[i], &hz->stats[i], now);

                        if (object && json_dumpf(object, f, JSON_COMPACT | JSON_SORT_KEYS) == 0)
                                fputc('\n', f);
                        json_decref(object);
                }
        }
        if (fclose(f) != 0 || !text)
                return false;
        if (hz->paints) {
                char back[32] = "";

                n = cut_lines(text, topic_columns());
                if (hz->n_painted > 0)
                        (void)snprintf(back, sizeof(back), "\033[%zuA\r", hz->n_painted);
                if (out_backlog(hz->out) > 0)
                        return out_error(hz->out) == 0;
                (void)out_write(hz->out, back, strlen(back));
        }
        taken = out_write(hz->out, text, strlen(text));
        hz->n_painted = taken ? n : hz->n_painted;
        return out_error(hz->out) == 0;
}

static bool on_tick(void *userdata, nsec_t now, nsec_t *ret_next)
{
        Hz *hz = userdata;

        *ret_next = now + (hz->paints ? HZ_PAINT : HZ_REPEAT);
        if (!hz->paints && now - hz->began < HZ_REPEAT / 2) /* there is nothing to say yet */
                return true;
        return show(hz, now);
}

static TopicStats *stats_of(Hz *hz, const Topic *topic)
{
        return &hz->stats[topic - hz->topics];
}

static bool on_message(void *userdata, Topic *topic, const TopicMessage *message)
{
        TopicStats *stats = stats_of(userdata, topic);

        if (stats->n_life > 0 && message->index <= stats->seen[(stats->n_seen - 1) % STATS_SEEN].index)
                stats_begin_life(stats);
        stats_add(stats, message->index, message->time_ns, message->passed);
        return true;
}

int topic_hz(TopicCommand *t)
{
        Hz hz = {.command = t, .paints = !t->session.json && topic_columns() > 0 && strcmp(getenv("TERM") ?: "dumb", "dumb") != 0};
        TopicWatch watch = {.session = &t->session, .n = t->n, .until = NSEC_NEVER, .look_least = 2 * NSEC_PER_MSEC, .message = on_message, .tick = on_tick, .userdata = &hz};
        int status, r;

        (void)setlocale(LC_CTYPE, ""); /* for the plot alone; numbers stay as they are */
        hz.ascii = strcmp(nl_langinfo(CODESET), "UTF-8") != 0;
        status = topic_find_all(t, &watch.topics);
        if (status)
                return status;
        hz.topics = watch.topics;
        hz.stats = calloc(t->n, sizeof(*hz.stats));
        r = hz.stats ? session_catch(&t->session) : -ENOMEM;
        if (!r)
                r = out_new(&hz.out, STDOUT_FILENO);
        if (r) {
                status = session_fail(&t->session, r);
        } else {
                hz.began = clock_now();
                for (size_t i = 0; i < t->n; i++)
                        stats_init(&hz.stats[i], t->window ? t->window : HZ_WINDOW);
                watch.until = t->span ? nsec_add(hz.began, t->span) : NSEC_NEVER;
                status = topic_watch(&watch);
                if (!status)
                        (void)show(&hz, clock_now());
                out_finish(hz.out, nsec_add(clock_now(), LAST_SPAN));
        }
        for (size_t i = 0; i < watch.n; i++)
                topic_done(&watch.topics[i]);
        free(watch.topics);
        free(hz.stats);
        return status;
}
