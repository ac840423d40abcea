/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/stop.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "cli/commands.h"
#include "cli/last-resort.h"
#include "cli/print.h"

#define STOP_SLACK      (5 * NSEC_PER_SEC) /* past a deadline that the supervisor named, before nobody believes it any more */
#define STOP_GRACE      (10 * NSEC_PER_SEC) /* where nobody knows better */
#define STOP_BUDGET     (2 * NSEC_PER_SEC)
#define STOP_PROBE_SPAN (2 * NSEC_PER_SEC)

static nsec_t ladder_span(nsec_t grace)
{
        return nsec_add(nsec_add(grace, grace / 2), STOP_BUDGET + 100 * NSEC_PER_MSEC);
}

static bool all_done(const Stop *stop)
{
        for (size_t i = 0; i < stop->n_orders; i++)
                if (!stop->orders[i].done)
                        return false;
        return true;
}

/* The end of the ladder as the supervisor told it, else as far as we know it. */
static nsec_t stop_until(const Stop *stop)
{
        nsec_t told = follow_until(&stop->follow);

        if (told != NSEC_NEVER)
                return told;
        return nsec_add(stop->begun_at, ladder_span(stop->force ? 0 : stop->grace == NSEC_NEVER ? STOP_GRACE : stop->grace));
}

/* ---- what comes back */

/* States and deadlines of what is being stopped, over a connection of its own. Silence shows elsewhere. */
static void refresh(Stop *stop)
{
        for (size_t i = 0; i < stop->n_orders; i++) {
                json_t *dataflow;
                size_t k;

                json_array_foreach(stop->orders[i].done ? NULL : stop->orders[i].dataflows, k, dataflow) {
                        Reply reply = {};

                        if (session_try(stop->session, "Status",
                                    json_pack("{s[s]}", "names", json_get_text(dataflow, "uuid")), &reply) == 0)
                                follow_refresh(&stop->follow, json_object_get(reply.parameters, "dataflows"));
                        reply_done(&reply);
                }
        }
}

static void on_last_word(Stop *stop, StopOrder *order, const Reply *reply)
{
        json_t *results = json_object_get(reply->parameters, "results"), *result;
        const char *uuid = json_get_text(reply->parameters, "uuid");
        size_t i;

        order->done = true;
        order->last = json_incref(reply->parameters);
        client_done(&order->client);
        json_array_foreach(results, i, result)
                follow_result(&stop->follow, result, stop->ledger);
        if (stop->restart && uuid[0])
                screen_say(&stop->follow.screen, false, "%s is started again as %s",
                        json_get_text(json_array_get(order->dataflows, 0), "name"), uuid);
}

static void on_error(Stop *stop, StopOrder *order, const Reply *reply)
{
        order->done = true;
        client_done(&order->client);
        screen_say(&stop->follow.screen, true, "%s%s%s", reply->error, reply->text[0] ? ": " : "", reply->text);
        stop->status = MAX(stop->status, session_error_status(reply->error));
}

static void on_reply(Stop *stop, StopOrder *order, const Reply *reply)
{
        bool first = !stop->accepted;

        stop->silent_at = nsec_add(clock_now(), stop->session->timeout);
        if (reply->error) {
                on_error(stop, order, reply);
                return;
        }
        stop->accepted = true;
        follow_event(&stop->follow, json_object_get(reply->parameters, "event"));
        if (!reply->continues)
                on_last_word(stop, order, reply);
        else if (first)
                refresh(stop); /* now it knows until when */
}

/* ---- when it does not go well */

static void resort_to_force(Stop *stop, StopOrder *order, const char *why)
{
        LastResortKill kill = {.grace_ns = stop->grace == NSEC_NEVER ? STOP_GRACE : stop->grace, .force = stop->force};
        json_t *dataflow;
        size_t i;

        order->done = true;
        client_done(&order->client);
        screen_say(&stop->follow.screen, true, "%s; ending the processes from here", why);
        json_array_foreach(order->dataflows, i, dataflow) {
                int status = last_resort_stop_at(
                        stop->session, json_get_text(dataflow, "name"), json_get_text(dataflow, "cgroup"), &kill);

                stop->status = MAX(stop->status, status);
        }
}

/* The result of a dataflow that ended while nobody told us. */
static void show_ended(Stop *stop, const char *uuid)
{
        Reply reply = {};
        json_t *dataflow = NULL;

        if (session_try(stop->session, "Status", json_pack("{s[s]}", "names", uuid), &reply) == 0)
                dataflow = json_array_get(json_object_get(reply.parameters, "dataflows"), 0);
        if (dataflow) {
                const char *result = json_get_text(dataflow, "result"), *error = json_get_text(dataflow, "error");
                bool good = strcmp(result, "succeeded") == 0;

                screen_say(&stop->follow.screen, !good, "%s has ended: %s%s%s", json_get_text(dataflow, "name"),
                        result[0] ? result : "?", error[0] ? ": " : "", error);
                stop->status = MAX(stop->status, good ? CLI_OK : strcmp(result, "left") == 0 ? CLI_NOT_RUNNING : CLI_FAILED);
        }
        reply_done(&reply);
}

/* Ask the successor to say when the dataflow has ended. Return: as session_next(). */
static int wait_for_successor(Stop *stop, const char *uuid)
{
        Session *session = stop->session;
        nsec_t until = nsec_add(MAX(stop_until(stop), clock_now()), STOP_SLACK);
        Reply reply = {};
        int r;

        session->until = until;
        session->patient = true;
        r = session_try(session, "Wait",
                json_pack("{ss ss sI}", "dataflow", uuid, "state", "ended", "timeout_ms",
                        (json_int_t)(nsec_left(until, clock_now()) / NSEC_PER_MSEC)),
                &reply);
        if (!r && reply.error)
                r = strcmp(reply.error, "NoSuchDataflow") == 0 ? 0 : CLIENT_E_LATE;
        reply_done(&reply);
        session->until = NSEC_NEVER;
        session->patient = false;
        return r;
}

static void on_vanished(Stop *stop, StopOrder *order, int r)
{
        json_t *dataflow;
        size_t i;

        client_done(&order->client);
        if (stop->shutdown && stop->accepted && r == CLIENT_E_CLOSED) { /* it has ended: the guard tells the rest */
                order->done = true;
                return;
        }
        session_hang_up(stop->session); /* that connection went to the same one */
        screen_say(&stop->follow.screen, true, "%s; asking its successor", client_explain(r));
        json_array_foreach(order->dataflows, i, dataflow) {
                const char *uuid = json_get_text(dataflow, "uuid");

                r = wait_for_successor(stop, uuid);
                if (r == CLIENT_E_INTERRUPTED)
                        return; /* the signal is still to be read */
                if (r) {
                        resort_to_force(stop, order, r == CLIENT_E_LATE ? "the stop is overdue" : client_explain(r));
                        return;
                }
                show_ended(stop, uuid);
        }
        order->done = true;
        if (stop->restart) {
                screen_say(&stop->follow.screen, true, "whether it was started again is not known: see `tidegate list`");
                stop->status = MAX(stop->status, CLI_FAILED);
        }
}

static void all_vanished(Stop *stop, const char *why)
{
        for (size_t i = 0; i < stop->n_orders; i++)
                if (!stop->orders[i].done)
                        resort_to_force(stop, &stop->orders[i], why);
}

static void on_silence(Stop *stop)
{
        if (session_lives(stop->session, MIN(stop->session->timeout, STOP_PROBE_SPAN)))
                stop->silent_at = nsec_add(clock_now(), stop->session->timeout);
        else
                all_vanished(stop, client_explain(CLIENT_E_SILENT));
}

/* ---- sending */

static void order_send(Stop *stop, StopOrder *order)
{
        nsec_t until = nsec_add(clock_now(), stop->session->timeout);
        json_t *parameters = TAKE_PTR(order->parameters);
        int r = client_connect(&order->client, stop->session->runtime_dir, until);

        if (r)
                json_decref(parameters);
        else
                r = client_send(&order->client, order->method, true, parameters, until);
        if (last_resort_applies(r)) {
                resort_to_force(stop, order, client_explain(r));
        } else if (r) {
                order->done = true;
                stop->status = MAX(stop->status, session_fail(stop->session, r));
        }
}

/* ---- the loop */

static nsec_t stop_tick(void *userdata, nsec_t now)
{
        Stop *stop = userdata;

        return screen_tick(&stop->follow.screen, now);
}

static bool on_signal(Stop *stop)
{
        double left = (double)nsec_left(stop_until(stop), clock_now()) / 1e9;

        if (!session_signal(stop->session))
                return false;
        if (stop->accepted)
                screen_say(&stop->follow.screen, true, "left; the stop goes on without this command and ends within %.0f s",
                        left);
        else
                screen_say(&stop->follow.screen, true, "left before the supervisor answered; it may stop %s all the same",
                        stop->orders[0].method[0] == 'S' ? "them" : "it");
        stop->left = true;
        stop->status = CLI_FAILED;
        return true;
}

static void read_order(Stop *stop, StopOrder *order)
{
        for (unsigned i = 0; i < 64 && !order->done; i++) {
                Reply reply = {};
                int r = client_read(&order->client, &reply);

                if (r == CLIENT_E_AGAIN)
                        return;
                if (r)
                        on_vanished(stop, order, r);
                else
                        on_reply(stop, order, &reply);
                reply_done(&reply);
                if (r)
                        return;
        }
}

static bool stop_turn(Stop *stop, struct pollfd *p)
{
        nsec_t now = clock_now(), overdue_at = nsec_add(stop_until(stop), STOP_SLACK);
        nsec_t wake = MIN(stop_tick(stop, now), MIN(stop->silent_at, overdue_at));

        for (size_t i = 0; i < stop->n_orders; i++) {
                p[i] = (struct pollfd){.fd = stop->orders[i].client.fd, .events = POLLIN};
                if (client_holds_reply(&stop->orders[i].client)) /* more than one turn takes: its socket does not tell of it again */
                        wake = now;
        }
        p[stop->n_orders] = (struct pollfd){.fd = stop->session->signal_fd, .events = POLLIN};
        if (poll(p, stop->n_orders + 1, nsec_poll_ms(wake, now)) < 0)
                return true; /* EINTR: signals we care for come by signalfd */
        if (p[stop->n_orders].revents && on_signal(stop))
                return false;
        for (size_t i = 0; i < stop->n_orders; i++)
                if ((p[i].revents || client_holds_reply(&stop->orders[i].client)) && !stop->orders[i].done)
                        read_order(stop, &stop->orders[i]);
        now = clock_now();
        if (now >= overdue_at && !all_done(stop) && stop->restart) {
                screen_say(&stop->follow.screen, true, "no end of it is seen; `tidegate status` shows how far it is");
                stop->status = CLI_NOT_RUNNING;
                return false;
        }
        if (now >= overdue_at && !all_done(stop))
                all_vanished(stop, "the stop is overdue");
        else if (now >= stop->silent_at && !all_done(stop))
                on_silence(stop);
        return true;
}

static void order_done(StopOrder *order)
{
        client_done(&order->client);
        json_decref(order->parameters);
        json_decref(order->dataflows);
        json_decref(order->last);
        *order = (StopOrder){.client = CLIENT_NULL};
}

int stop_run(Stop *stop)
{
        _cleanup_(json_decrefp) json_t *all = json_array();
        struct pollfd *p = calloc(stop->n_orders + 1, sizeof(*p));
        int r = all && p ? 0 : error_origin(-ENOMEM);

        for (size_t i = 0; i < stop->n_orders; i++)
                (void)json_array_extend(all, stop->orders[i].dataflows);
        if (!r)
                r = follow_init(&stop->follow, all, "stopping", stop->session->json);
        if (r) {
                stop->status = session_fail(stop->session, r);
        } else {
                stop->begun_at = clock_now();
                stop->silent_at = nsec_add(stop->begun_at, stop->session->timeout);
                stop->session->tick = stop_tick;
                stop->session->userdata = stop;
                for (size_t i = 0; i < stop->n_orders; i++)
                        order_send(stop, &stop->orders[i]);
                while (!all_done(stop) && stop_turn(stop, p))
                        ;
                stop->status = MAX(stop->status, stop->follow.status);
                stop->session->tick = NULL;
        }
        follow_done(&stop->follow);
        for (size_t i = 0; i < stop->n_orders; i++)
                order_done(&stop->orders[i]);
        free(p);
        return stop->status;
}
