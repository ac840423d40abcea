/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/top-feed.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/procstat.h"
#include "cli/print.h"
#include "cli/session.h"

#define PROBE_SPAN (30 * NSEC_PER_SEC) /* until the first word: a verifier may take its time */
#define PROC_MAX   65536 /* of /proc/stat: the lines of CPUs come first */

/* ---- the host */

static void look_at_host(TopHost *host, nsec_t now)
{
        static const char *const paths[_TOP_PRESSURE_MAX] = {
                [TOP_CPU] = "/proc/pressure/cpu", [TOP_MEMORY] = "/proc/pressure/memory", [TOP_IO] = "/proc/pressure/io"};
        static char stat[PROC_MAX];
        char texts[_TOP_PRESSURE_MAX][512];
        const char *pressure[_TOP_PRESSURE_MAX];
        bool has_stat = procfs_read("/proc/stat", stat, sizeof(stat)) == 0;

        for (int p = 0; p < _TOP_PRESSURE_MAX; p++)
                pressure[p] = procfs_read(paths[p], texts[p], sizeof(texts[p])) == 0 ? texts[p] : NULL;
        top_host_put(host, has_stat ? stat : NULL, pressure, now);
}

/* ---- children */

void top_feed_leave(TopFeed *feed, pid_t pid)
{
        for (size_t i = 0; pid > 0 && i < ELEMENTSOF(feed->left); i++) {
                if (feed->left[i] > 0)
                        continue;
                feed->left[i] = pid;
                return;
        }
}

static void reap(TopFeed *feed)
{
        for (size_t i = 0; i < ELEMENTSOF(feed->left); i++)
                if (feed->left[i] > 0 && waitpid(feed->left[i], NULL, WNOHANG) != 0)
                        feed->left[i] = 0;
}

/* As long as one hangs, another would hang beside it. */
static bool some_are_left(const TopFeed *feed)
{
        for (size_t i = 0; i < ELEMENTSOF(feed->left); i++)
                if (feed->left[i] > 0)
                        return true;
        return false;
}

/* ---- looking into cgroups */

static void end_look(TopFeed *feed)
{
        top_feed_leave(feed, usage_look_done(&feed->look));
        json_decref(feed->look_uuids);
        feed->look_uuids = NULL;
}

static void begin_look(TopFeed *feed, const StatusView *view, nsec_t now)
{
        _cleanup_free_ const char **paths = calloc(view->n_dataflows + json_array_size(feed->model->dataflows) + 1, sizeof(*paths));
        bool told = feed->usage_at && now < nsec_add(feed->usage_at, feed->model->fresh_span);
        json_t *dataflow;
        size_t n = 0, i;

        if (!paths || feed->look.fd >= 0 || some_are_left(feed) || (told && !feed->always_look))
                return;
        feed->look_uuids = json_array();
        for (i = 0; i < view->n_dataflows; i++) {
                const struct status_dataflow *d = &view->dataflows[i];

                if (d->state == STATUS_DATAFLOW_ENDED || !top_model_wants(feed->model, d->name, d->uuid, false))
                        continue;
                paths[n++] = d->cgroup;
                (void)json_array_append_new(feed->look_uuids, json_string(d->uuid));
        }
        if (view->verdict == STATUS_VERDICT_NONE) { /* then it is known from the supervisor, or not at all */
                json_array_foreach(feed->model->dataflows, i, dataflow) {
                        paths[n++] = json_get_text(dataflow, "cgroup");
                        (void)json_array_append(feed->look_uuids, json_object_get(dataflow, "uuid"));
                }
        }
        feed->look_until = nsec_add(now, feed->patience);
        if (n == 0 || json_array_size(feed->look_uuids) != n || usage_look_begin(&feed->look, paths, n))
                end_look(feed);
}

static void take_look(TopFeed *feed, nsec_t now)
{
        _cleanup_(json_decrefp) json_t *all = NULL;
        int r;
        json_t *entry;
        size_t i;

        if (feed->look.fd < 0)
                return;
        r = usage_look_read(&feed->look, &all);
        if (r == USAGE_E_AGAIN && now < feed->look_until)
                return;
        if (r == 0) {
                json_decref(feed->seen_before);
                feed->seen_before = feed->seen;
                feed->seen_before_at = feed->seen_at;
                feed->seen = json_object();
                feed->seen_at = now;
                json_array_foreach(all, i, entry) {
                        const char *uuid = json_string_value(json_array_get(feed->look_uuids, i));

                        if (!uuid)
                                continue;
                        (void)json_object_set(feed->seen, uuid, entry);
                        top_model_put_look(feed->model, uuid, entry, now);
                }
        }
        end_look(feed);
}

/* ---- asking the supervisor */

static void fall_silent(TopFeed *feed, int r, nsec_t now)
{
        client_done(&feed->control);
        feed->asked = NULL;
        feed->no_usage = feed->no_probe = false; /* the next one may be another */
        top_model_put_silence(feed->model, r < 0 ? strerrordesc_np(-r) : client_explain(r), now);
}

static void ask(TopFeed *feed, const char *method, json_t *take_parameters, nsec_t now)
{
        int r = 0;

        if (feed->control.fd < 0)
                r = client_connect(&feed->control, feed->runtime_dir, now); /* not waiting for room in its backlog */
        if (r)
                json_decref(take_parameters);
        else
                r = client_send(&feed->control, method, false, take_parameters, now);
        if (r) {
                fall_silent(feed, r, now);
                return;
        }
        feed->asked = method;
        feed->asked_until = nsec_add(now, feed->patience);
}

static int patience_ms(const TopFeed *feed)
{
        return (int)(feed->patience / NSEC_PER_MSEC);
}

/* One dataflow after the other; that of the stream tells by itself. */
static void ask_more(TopFeed *feed, nsec_t now)
{
        json_t *uuid = feed->no_usage ? NULL : json_array_get(feed->uuids, feed->next_usage);

        if (uuid) {
                feed->next_usage++;
                ask(feed, "Usage", json_pack("{sO si}", "dataflow", uuid, "timeout_ms", patience_ms(feed)), now);
                return;
        }
        do
                uuid = feed->no_probe ? NULL : json_array_get(feed->uuids, feed->next_probe++);
        while (uuid && strcmp(json_string_value(uuid), feed->probed) == 0);
        if (uuid)
                ask(feed, "Probe", json_pack("{sO si}", "dataflow", uuid, "timeout_ms", patience_ms(feed)), now);
}

/* Where there is a page it says whom to ask for; else all are, and those that are not wanted left out. */
static void ask_status(TopFeed *feed, bool by_page, nsec_t now)
{
        json_t *parameters = json_pack("{sb si}", "links", 1, "timeout_ms", patience_ms(feed));

        if (by_page)
                (void)json_object_set(parameters, "names", feed->uuids);
        ask(feed, "Status", parameters, now);
}

static void take_uuids(TopFeed *feed, json_t *take)
{
        json_decref(feed->uuids);
        feed->uuids = take;
        feed->next_usage = feed->next_probe = 0;
}

static void take_status(TopFeed *feed, const Reply *reply, nsec_t now)
{
        json_t *dataflows = json_object_get(reply->parameters, "dataflows"), *uuids = json_array(), *dataflow;
        size_t i;

        if (top_model_put_status(feed->model, dataflows, now)) {
                json_decref(uuids);
                fall_silent(feed, CLIENT_E_GARBAGE, now);
                return;
        }
        json_array_foreach(dataflows, i, dataflow)
                if (top_model_wants(feed->model, json_get_text(dataflow, "name"), json_get_text(dataflow, "uuid"),
                            strcmp(json_get_text(dataflow, "state"), "ended") == 0) &&
                        strcmp(json_get_text(dataflow, "state"), "ended") != 0)
                        (void)json_array_append(uuids, json_object_get(dataflow, "uuid"));
        take_uuids(feed, uuids);
}

static void take_reply(TopFeed *feed, const Reply *reply, nsec_t now)
{
        const char *asked = feed->asked ?: "";

        feed->asked = NULL;
        if (reply->continues || !asked[0]) {
                fall_silent(feed, CLIENT_E_GARBAGE, now); /* nobody asked for that */
                return;
        }
        if (reply->error && strcmp(asked, "Usage") == 0) {
                feed->no_usage = strcmp(reply->error, "org.varlink.service.MethodNotFound") == 0;
        } else if (reply->error && strcmp(asked, "Probe") == 0) {
                feed->no_probe = strcmp(reply->error, "org.varlink.service.MethodNotFound") == 0 || strcmp(reply->error, "Refused") == 0;
        } else if (reply->error && strcmp(reply->error, "NoSuchDataflow") == 0) {
                feed->model->daemon.silent_since = 0; /* one was forgotten since the page was read: the next look knows */
        } else if (reply->error) {
                (void)snprintf(feed->refused, sizeof(feed->refused), "%s", reply->text[0] ? reply->text : reply->error);
                top_model_put_silence(feed->model, feed->refused, now);
        } else if (strcmp(asked, "Probe") == 0) {
                json_t *uuid = json_array_get(feed->uuids, feed->next_probe - 1);

                top_model_put_probes(feed->model, json_string_value(uuid) ?: "", json_object_get(reply->parameters, "probes"), now);
        } else if (strcmp(asked, "Usage") == 0) {
                json_t *uuid = json_array_get(feed->uuids, feed->next_usage - 1);

                top_model_put_usage(feed->model, json_string_value(uuid) ?: "", json_object_get(reply->parameters, "usage"), now);
                feed->usage_at = now;
        } else {
                take_status(feed, reply, now);
        }
        if (!feed->asked && feed->control.fd >= 0)
                ask_more(feed, now);
}

static void take_replies(TopFeed *feed, nsec_t now)
{
        for (unsigned i = 0; i < 16 && feed->control.fd >= 0; i++) {
                Reply reply = {};
                int r = client_read(&feed->control, &reply);

                if (r == CLIENT_E_AGAIN)
                        break;
                if (r)
                        fall_silent(feed, r, now);
                else
                        take_reply(feed, &reply, now);
                reply_done(&reply);
        }
        if (feed->asked && now >= feed->asked_until)
                fall_silent(feed, CLIENT_E_SILENT, now); /* an answer that is late must not be taken for another's */
}

/* ---- the stream that keeps probes attached */

static void end_probe(TopFeed *feed, nsec_t now)
{
        client_done(&feed->probe);
        if (feed->probed[0])
                top_model_put_probes(feed->model, feed->probed, NULL, now);
        feed->probed[0] = '\0';
}

__attribute__((format(printf, 3, 4))) static void end_probe_because(TopFeed *feed, nsec_t now, const char *format, ...)
{
        va_list ap;

        va_start(ap, format);
        (void)vsnprintf(feed->told, sizeof(feed->told), format, ap);
        va_end(ap);
        end_probe(feed, now);
}

void top_feed_probe(TopFeed *feed, const char *uuid, nsec_t now)
{
        json_t *parameters;
        int r;

        end_probe(feed, now);
        if (!uuid) {
                (void)snprintf(feed->told, sizeof(feed->told), "probes: detached");
                return;
        }
        parameters = json_pack("{ss sb sb si}", "dataflow", uuid, "calls", 1, "queues", 1, "interval_ms", (int)(feed->interval / NSEC_PER_MSEC));
        r = client_connect(&feed->probe, feed->runtime_dir, now);
        if (r)
                json_decref(parameters);
        else
                r = client_send(&feed->probe, "Probe", true, parameters, now);
        if (r) {
                end_probe_because(feed, now, "probes: %s", r < 0 ? strerrordesc_np(-r) : client_explain(r));
                return;
        }
        (void)snprintf(feed->probed, sizeof(feed->probed), "%s", uuid);
        (void)snprintf(feed->told, sizeof(feed->told), "probes: being attached");
        feed->probe_until = nsec_add(now, PROBE_SPAN);
        feed->probe_said[0] = '\0';
}

static void tell(TopFeed *feed, const char *what)
{
        if (strcmp(what, feed->probe_said) == 0)
                return;
        (void)snprintf(feed->probe_said, sizeof(feed->probe_said), "%s", what);
        (void)snprintf(feed->told, sizeof(feed->told), "probes: %.280s", what);
}

static void take_probes(TopFeed *feed, const Reply *reply, nsec_t now)
{
        json_t *probes = json_object_get(reply->parameters, "probes");

        if (reply->error && strcmp(reply->error, "org.varlink.service.MethodNotFound") == 0) {
                end_probe_because(feed, now, "probes: this supervisor has none; it is of another version");
                return;
        }
        if (reply->error) {
                end_probe_because(feed, now, "probes: %s", reply->text[0] ? reply->text : reply->error);
                return;
        }
        feed->probe_until = nsec_add(now, nsec_add(feed->interval, PROBE_SPAN));
        top_model_put_probes(feed->model, feed->probed, probes, now);
        tell(feed, json_get_text(probes, "reason")[0] ? json_get_text(probes, "reason")
                   : json_is_true(json_object_get(probes, "attached")) ? "attached; p again detaches them" : "being attached");
        if (!reply->continues)
                end_probe(feed, now);
}

static void take_stream(TopFeed *feed, nsec_t now)
{
        for (unsigned i = 0; i < 16 && feed->probe.fd >= 0; i++) {
                Reply reply = {};
                int r = client_read(&feed->probe, &reply);

                if (r == CLIENT_E_AGAIN)
                        break;
                if (r)
                        end_probe_because(feed, now, "probes: %s", r < 0 ? strerrordesc_np(-r) : client_explain(r));
                else
                        take_probes(feed, &reply, now);
                reply_done(&reply);
        }
        if (feed->probe.fd >= 0 && now >= feed->probe_until)
                end_probe_because(feed, now, "probes: %s", client_explain(CLIENT_E_SILENT));
}

/* ---- all of it */

static json_t *wanted_uuids(const TopModel *model, const StatusView *view)
{
        json_t *uuids = json_array();

        for (size_t i = 0; i < view->n_dataflows; i++) {
                const struct status_dataflow *d = &view->dataflows[i];

                if (top_model_wants(model, d->name, d->uuid, d->state == STATUS_DATAFLOW_ENDED))
                        (void)json_array_append_new(uuids, json_string(d->uuid));
        }
        return uuids;
}

int top_feed_look(TopFeed *feed, nsec_t now)
{
        StatusView view = STATUS_VIEW_NULL;
        bool by_page;
        int r = status_view_load(&view, feed->runtime_dir, now);

        if (!r)
                r = top_model_put_page(feed->model, &view, now);
        if (r) {
                status_view_done(&view);
                return error_fold(r);
        }
        reap(feed);
        look_at_host(&feed->model->host, now);
        begin_look(feed, &view, now);
        by_page = view.verdict != STATUS_VERDICT_NONE;
        if (!feed->asked) {
                if (by_page)
                        take_uuids(feed, wanted_uuids(feed->model, &view));
                ask_status(feed, by_page, now);
        }
        status_view_done(&view);
        return 0;
}

nsec_t top_feed_poll(const TopFeed *feed, struct pollfd p[static _TOP_FEED_POLL_MAX])
{
        nsec_t until = NSEC_NEVER;

        p[TOP_FEED_CONTROL] = (struct pollfd){.fd = feed->control.fd, .events = POLLIN};
        p[TOP_FEED_PROBE] = (struct pollfd){.fd = feed->probe.fd, .events = POLLIN};
        p[TOP_FEED_LOOK] = (struct pollfd){.fd = feed->look.fd, .events = POLLIN};
        if (feed->asked)
                until = feed->asked_until;
        if (feed->probe.fd >= 0)
                until = MIN(until, feed->probe_until);
        if (feed->look.fd >= 0)
                until = MIN(until, feed->look_until);
        return until;
}

void top_feed_take(TopFeed *feed, nsec_t now)
{
        take_replies(feed, now);
        take_stream(feed, now);
        take_look(feed, now);
}

bool top_feed_is_done(const TopFeed *feed)
{
        return !feed->asked && feed->look.fd < 0;
}

void top_feed_done(TopFeed *feed)
{
        end_look(feed);
        client_done(&feed->control);
        client_done(&feed->probe);
        json_decref(feed->uuids);
        json_decref(feed->seen);
        json_decref(feed->seen_before);
        reap(feed); /* who still hangs is left to init */
        *feed = TOP_FEED_NULL;
}
