/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "cli/doctor.h"

#define WIDTH_MAX 100
#define WIDTH_MIN 60
#define TITLE     40 /* longest title and a gap */
#define INDENT    7  /* of what stands behind the mark */

typedef enum Colour {
        COLOUR_NONE,
        COLOUR_GREEN,
        COLOUR_RED,
        COLOUR_YELLOW,
        COLOUR_DIM,
        COLOUR_BOLD,
        _COLOUR_MAX,
} Colour;

static bool is_coloured(FILE *f)
{
        const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

        return isatty(fileno(f)) && !(no && no[0]) && !(term && strcmp(term, "dumb") == 0);
}

static void paint(FILE *f, Colour colour, const char *text)
{
        static const char *const codes[_COLOUR_MAX] = {
                [COLOUR_NONE] = "",
                [COLOUR_GREEN] = "\033[32m",
                [COLOUR_RED] = "\033[1;31m",
                [COLOUR_YELLOW] = "\033[33m",
                [COLOUR_DIM] = "\033[2m",
                [COLOUR_BOLD] = "\033[1m",
        };

        if (colour == COLOUR_NONE || !is_coloured(f))
                fputs(text, f);
        else
                fprintf(f, "%s%s\033[0m", codes[colour], text);
}

static int width(FILE *f)
{
        struct winsize size = {0};

        if (!isatty(fileno(f)) || ioctl(fileno(f), TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
                return WIDTH_MAX;
        return MAX(MIN((int)size.ws_col, WIDTH_MAX), WIDTH_MIN);
}

/* Prints words from column @at, later lines from column @indent. Control characters of the kernel's become dots. */
static void wrap(FILE *f, int at, int indent, const char *text)
{
        int right = width(f), column = at;

        while (*text) {
                int n = (int)strcspn(text, " ");

                if (column > at && column + 1 + n > right) {
                        fprintf(f, "\n%*s", indent, "");
                        column = at = indent;
                } else if (column > at) {
                        fputc(' ', f);
                        column++;
                }
                for (int i = 0; i < n; i++)
                        fputc(iscntrl((unsigned char)text[i]) ? '.' : text[i], f);
                column += n;
                text += n;
                text += strspn(text, " ");
        }
        fputc('\n', f);
}

static Colour colour_of(const Probe *probe, const DoctorResult *result)
{
        if (result->report.verdict == PROBE_VERDICT_YES)
                return COLOUR_GREEN;
        return probe->weight == PROBE_REQUIRED ? COLOUR_RED : probe->weight == PROBE_BETTER ? COLOUR_YELLOW : COLOUR_DIM;
}

static void labelled(FILE *f, const char *label, const char *text)
{
        fprintf(f, "%*s", INDENT, "");
        paint(f, COLOUR_DIM, label);
        wrap(f, INDENT + (int)strlen(label), INDENT + (int)strlen(label), text);
}

void doctor_show_head(const Doctor *doctor, FILE *f)
{
        char text[sizeof(doctor->host.kernel) + 100];

        (void)snprintf(text, sizeof(text), "tidegate %s on %s, uid %u: each line was tried just now", TIDEGATE_VERSION,
                doctor->host.kernel, doctor->host.uid);
        wrap(f, 0, 4, text);
}

void doctor_show_daemon(const Doctor *doctor, FILE *f)
{
        const StatusView *daemon = &doctor->daemon;
        char text[sizeof(doctor->runtime_dir) + 80] = "";

        if (!doctor->runtime_dir[0])
                return;
        fputc('\n', f);
        paint(f, COLOUR_BOLD, "daemon");
        fputc('\n', f);
        if (daemon->verdict == STATUS_VERDICT_NONE && (daemon->reason == STATUS_REASON_MISSING || daemon->reason == STATUS_REASON_ENDED))
                (void)snprintf(text, sizeof(text), "none runs in %s: `tidegate up` starts one, `tidegate run` needs none", doctor->runtime_dir);
        if (text[0]) {
                fputs("  ", f);
                wrap(f, 2, 2, text);
        } else {
                status_view_print(daemon, clock_now(), is_coloured(f), f);
        }
}

void doctor_show_result(const Doctor *doctor, size_t group, size_t index, FILE *f)
{
        const Probe *probe = &probe_groups[group]->probes[index];
        const DoctorResult *result = &doctor->results[group][index];
        char mark[8], evidence[sizeof(result->report.evidence) + 32];
        bool yes = result->report.verdict == PROBE_VERDICT_YES;

        if (index == 0) {
                fputc('\n', f);
                paint(f, COLOUR_BOLD, probe_groups[group]->title);
                fputc('\n', f);
        }
        (void)snprintf(mark, sizeof(mark), "%-4.4s",
                result->report.verdict == PROBE_VERDICT_TIMEOUT ? "late" :
                result->report.verdict == PROBE_VERDICT_SKIPPED ? "-" : yes ? "yes" : "no");
        fputs("  ", f);
        paint(f, colour_of(probe, result), mark);
        fprintf(f, " %-*s", TITLE, probe->title);
        (void)snprintf(evidence, sizeof(evidence), "%s%s%s%s", result->report.evidence, result->report.err ? " (" : "",
                result->report.err ? error_name(result->report.err) : "", result->report.err ? ")" : "");
        wrap(f, INDENT + TITLE, INDENT + TITLE, evidence);
        if (!yes && result->report.verdict != PROBE_VERDICT_SKIPPED) { /* what is to blame for a skip was told before */
                labelled(f, "  needed for  ", probe->needed_for);
                labelled(f, "  without it  ", probe->without);
        }
}

static void show_backends(const Doctor *doctor, FILE *f)
{
        fputc('\n', f);
        paint(f, COLOUR_BOLD, "how a run ends its processes");
        fputc('\n', f);
        for (int i = 0; i < _BACKEND_MAX; i++) {
                const BackendState *b = &doctor->backends[i];
                char text[256];
                bool chosen = doctor->chosen == i;

                if (chosen)
                        (void)snprintf(text, sizeof(text), "chosen: %s", b->because);
                else if (!b->possible)
                        (void)snprintf(text, sizeof(text), "not here: %s", b->because);
                else
                        (void)snprintf(text, sizeof(text), "possible here%s", b->implemented ? "" : ", not in this version");
                fputs("  ", f);
                paint(f, chosen ? COLOUR_GREEN : COLOUR_DIM, chosen ? "yes  " : "-    ");
                fprintf(f, "%-10s", b->name);
                wrap(f, INDENT + 10, INDENT + 10, text);
        }
        if (doctor->chosen < 0)
                wrap(f, 2, 2, "  none of those this version has: `tidegate run` refuses to start here");
}

/* Those that were tried; what could not be tried for want of them says nothing new, unless it is all there is. */
static void list_titles(const Doctor *doctor, const Probe *const *probes, char *ret, size_t size)
{
        size_t used = strlen(ret), begin = used;

        for (int skipped = 0; skipped < 2 && used == begin; skipped++) {
                for (size_t i = 0; probes[i] && used < size; i++) {
                        bool is_skipped = doctor_find(doctor, probes[i]->id)->report.verdict == PROBE_VERDICT_SKIPPED;

                        if (is_skipped == (bool)skipped)
                                used += (size_t)snprintf(ret + used, size - used, "%s%s%s", used > begin ? "; " : "",
                                        probes[i]->title, skipped ? " (not tried)" : "");
                }
        }
}

static void show_promises(const Doctor *doctor, FILE *f)
{
        static const Colour colours[] = {
                [PROMISE_WEAKER] = COLOUR_RED,
                [PROMISE_PARTLY] = COLOUR_YELLOW,
                [PROMISE_KEPT] = COLOUR_GREEN,
        };

        fputc('\n', f);
        paint(f, COLOUR_BOLD, "promises");
        fputc('\n', f);
        for (int i = 1; i <= PROMISE_MAX; i++) {
                const PromiseState *promise = &doctor->promises[i];
                char text[1024] = "", kept[16];

                if (promise->kept == PROMISE_WEAKER) {
                        (void)snprintf(text, sizeof(text), "missing: ");
                        list_titles(doctor, promise->missing, text, sizeof(text));
                } else if (promise->fallbacks[0]) {
                        (void)snprintf(text, sizeof(text), "done without: ");
                        list_titles(doctor, promise->fallbacks, text, sizeof(text));
                }
                (void)snprintf(kept, sizeof(kept), "%-7s", doctor_kept(promise));
                fputs("  ", f);
                paint(f, colours[promise->kept], kept);
                if (promise->limit)
                        (void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s", text[0] ? "; " : "",
                                promise->limit);
                fprintf(f, text[0] ? "P%d %-28s" : "P%d %s", i, promise->name);
                wrap(f, 40, 40, text);
        }
}

/* "P1, P2" */
static void list_promises(const Doctor *doctor, PromiseKept kept, char *ret, size_t size)
{
        size_t used = 0;

        ret[0] = '\0';
        for (int i = 1; i <= PROMISE_MAX && used < size; i++)
                if (doctor->promises[i].kept == kept)
                        used += (size_t)snprintf(ret + used, size - used, "%sP%d", used ? ", " : "", i);
}

void doctor_show_judgement(const Doctor *doctor, FILE *f)
{
        char weaker[64], partly[64];

        show_backends(doctor, f);
        show_promises(doctor, f);
        fputc('\n', f);
        if (doctor->ok)
                paint(f, COLOUR_GREEN, "`tidegate run` can keep its promises here");
        else {
                paint(f, COLOUR_RED, "`tidegate run` cannot keep its promises here");
                list_promises(doctor, PROMISE_WEAKER, weaker, sizeof(weaker));
                if (weaker[0])
                        fprintf(f, "; weaker: %s", weaker);
        }
        list_promises(doctor, PROMISE_PARTLY, partly, sizeof(partly));
        if (partly[0])
                fprintf(f, "; only partly: %s", partly);
        fputs(".\n", f);
}

static json_t *json_text(const char *text)
{
        /* evidence may hold a path, and a path any bytes */
        return json_string(text) ?: json_string_nocheck("(not UTF-8)");
}

static json_t *json_ids(const Probe *const *probes)
{
        json_t *list = json_array();

        for (size_t i = 0; probes[i]; i++)
                (void)json_array_append_new(list, json_string(probes[i]->id));
        return list;
}

static json_t *json_probe(const char *group, const Probe *probe, const DoctorResult *result)
{
        static const char *const weights[_PROBE_WEIGHT_MAX] = {
                [PROBE_REQUIRED] = "required",
                [PROBE_BETTER] = "better",
                [PROBE_LATER] = "later",
        };
        json_t *promises = json_array();

        for (unsigned i = 1; i <= PROMISE_MAX; i++)
                if (probe->promises & P(i))
                        (void)json_array_append_new(promises, json_sprintf("P%u", i));
        return json_pack("{s:s, s:s, s:s, s:s, s:o, s:o, s:s, s:s, s:s, s:o, s:I}", "id", probe->id, "group", group, "title",
                probe->title, "result", doctor_verdict(result), "errno",
                result->report.err ? json_string(error_name(result->report.err)) : json_null(), "evidence",
                json_text(result->report.evidence), "needed_for", probe->needed_for, "without", probe->without, "weight",
                weights[probe->weight], "promises", promises, "took_us",
                (json_int_t)(result->took_ns / NSEC_PER_USEC));
}

/* New reference; null when there is no daemon to speak of. */
static json_t *json_daemon(const Doctor *doctor)
{
        const StatusView *view = &doctor->daemon;
        json_t *stuck = json_array();
        char why[256], action[256];

        if (!doctor->runtime_dir[0]) {
                json_decref(stuck);
                return json_null();
        }
        for (size_t i = 0; i < view->n_dataflows; i++) {
                const struct status_dataflow *d = &view->dataflows[i];

                if (d->health != STATUS_HEALTH_STUCK)
                        continue;
                status_view_dataflow_text(view, d, clock_now(), why, action);
                (void)json_array_append_new(stuck, json_pack("{s:s, s:s, s:I, s:s, s:s}", "uuid", d->uuid, "name", d->name,
                        "since_at_ms", (json_int_t)(d->stuck_since_ns / NSEC_PER_MSEC), "why", why, "action", action));
        }
        return json_pack("{s:o, s:s, s:s, s:I, s:s, s:s, s:i, s:i, s:s, s:o}", "runtime_dir", json_text(doctor->runtime_dir),
                "verdict", status_verdict_to_string(view->verdict), "reason", status_reason_to_string(view->reason), "since_at_ms",
                (json_int_t)(view->since / NSEC_PER_MSEC), "why", view->why, "action", view->action, "pid", view->info.pid, "guard_pid",
                view->info.guard_pid, "guard", status_guard_to_string(view->info.guard), "stuck", stuck);
}

int doctor_show_json(const Doctor *doctor, FILE *f)
{
        json_t *probes = json_array(), *backends = json_array(), *promises = json_object(), *root;
        _cleanup_free_ char *text = NULL;

        for (size_t g = 0; g < n_probe_groups; g++)
                for (size_t i = 0; i < probe_groups[g]->n_probes; i++)
                        (void)json_array_append_new(probes,
                                json_probe(probe_groups[g]->title, &probe_groups[g]->probes[i], &doctor->results[g][i]));
        for (int i = 0; i < _BACKEND_MAX; i++) {
                const BackendState *b = &doctor->backends[i];

                (void)json_array_append_new(backends, json_pack("{s:s, s:b, s:b, s:b, s:o}", "name", b->name, "possible",
                        b->possible, "implemented", b->implemented, "chosen", doctor->chosen == i, "because",
                        json_text(b->because)));
        }
        for (int i = 1; i <= PROMISE_MAX; i++) {
                const PromiseState *promise = &doctor->promises[i];
                const char key[] = {'P', (char)('0' + i), '\0'};

                (void)json_object_set_new(promises, key, json_pack("{s:s, s:s, s:o, s:o, s:s?}", "name", promise->name, "kept",
                        doctor_kept(promise), "missing", json_ids(promise->missing), "done_without",
                        json_ids(promise->fallbacks), "limit", promise->limit));
        }
        root = json_pack("{s:s, s:s, s:i, s:b, s:o, s:s?, s:o, s:o, s:o, s:o}", "tidegate", TIDEGATE_VERSION, "kernel",
                doctor->host.kernel, "uid", (int)doctor->host.uid, "ok", doctor->ok, "daemon", json_daemon(doctor), "backend",
                doctor->chosen >= 0 ? doctor->backends[doctor->chosen].name : NULL, "cgroup_root",
                doctor->cgroup_root[0] ? json_text(doctor->cgroup_root) : json_null(), "backends", backends, "promises",
                promises, "probes", probes);
        if (root)
                text = json_dumps(root, JSON_INDENT(2));
        json_decref(root);
        if (!text)
                return error_origin(-ENOMEM);
        fprintf(f, "%s\n", text);
        return 0;
}
