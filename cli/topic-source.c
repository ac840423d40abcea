/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/topic-source.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "cli/commands.h"
#include "cli/print.h"
#include "cli/targets.h"
#include "protocol/control_msg.h"

#define ASK_EVERY   (250 * NSEC_PER_MSEC) /* while nothing comes */
#define ASK_SEGMENT (20 * NSEC_PER_MSEC)  /* while messages lie in memory that is not known */
#define LOOK_LEAST  (500 * NSEC_PER_USEC) /* more often would take a processor from who may need it */
#define LOOK_FIRST  NSEC_PER_MSEC
#define LOOK_MOST   (10 * NSEC_PER_MSEC)

/* ---- names */

static bool take_part(char to[160], const char *from, size_t n)
{
        if (n == 0 || n >= 160)
                return false;
        memcpy(to, from, n);
        to[n] = '\0';
        return true;
}

bool topic_split(const char *text, char dataflow[160], char node[160], char output[160])
{
        const char *slash = strchr(text, '/'), *colon = slash ? memchr(text, ':', (size_t)(slash - text)) : NULL;
        const char *from = colon ? colon + 1 : text;

        dataflow[0] = '\0';
        return slash && (!colon || take_part(dataflow, text, (size_t)(colon - text))) && take_part(node, from, (size_t)(slash - from)) &&
                take_part(output, slash + 1, strlen(slash + 1));
}

int topic_find(Session *session, const char *dataflow, const char *text, Topic *ret)
{
        _cleanup_(json_decrefp) json_t *flow = NULL, *node = NULL;
        char name[160];
        int status;

        *ret = (Topic){.ring = REGION_INIT};
        if (!topic_split(text, name, ret->node, ret->output) || strlen(text) >= sizeof(ret->name)) {
                session_say(session, "`%s` is no topic; say NODE/OUTPUT, or DATAFLOW:NODE/OUTPUT", text);
                return CLI_USAGE;
        }
        if (name[0] && dataflow && strcmp(name, dataflow) != 0) {
                session_say(session, "`%s` is no topic of %s", text, dataflow);
                return CLI_USAGE;
        }
        status = targets_node(session, name[0] ? name : dataflow, ret->node, &flow, &node);
        if (status)
                return status;
        if (dataflow_has_ended(flow)) {
                session_say(session, "%s: dataflow %s has ended", text, json_get_text(flow, "name"));
                return CLI_NOT_RUNNING;
        }
        (void)snprintf(ret->name, sizeof(ret->name), "%s", text);
        (void)snprintf(ret->dataflow, sizeof(ret->dataflow), "%s", json_get_text(flow, "uuid"));
        return 0;
}

/* ---- memory */

static void detach(Topic *topic)
{
        region_unmap(&topic->ring);
        for (size_t i = 0; i < POOL_MAX_SEGMENTS; i++)
                region_unmap(&topic->segments[i]);
        topic->observer = (RingObserver){};
        topic->attached = topic->broken = topic->ended = false;
        topic->n_segments = 0;
        topic->n_unknown = topic->n_invalid = topic->n_told = 0;
}

void topic_done(Topic *topic)
{
        detach(topic);
}

/* Nothing of a pool is touched before a message is read there. */
static int map_region(Topic *topic, Client *client, const json_t *region)
{
        const char *kind = json_get_text(region, "kind");
        long long number = json_get_number(region, "number"), size = json_get_number(region, "size"), i = json_get_number(region, "fd");
        _cleanup_fd_ int fd = i >= 0 ? client_take_fd(client, (size_t)i) : -1;
        int r;

        if (fd < 0 || number < 0 || number >= (long long)POOL_MAX_SEGMENTS || size <= 0)
                return -EPROTO;
        if (strcmp(kind, "ring") == 0) {
                if (topic->attached)
                        return -EPROTO;
                r = region_map_read(&topic->ring, fd, REGION_RING, (uint64_t)size);
                if (!r)
                        r = ring_observer_init(&topic->observer, &topic->ring);
                topic->attached = r == 0;
        } else if (topic->segments[number].map) {
                return 0;
        } else {
                r = region_map_status(&topic->segments[number], fd, REGION_POOL, (uint64_t)size);
                if (!r)
                        r = ring_observer_add_segment(&topic->observer, (uint32_t)number, &topic->segments[number]);
        }
        return r > 0 ? -EPROTO : r;
}

static int map_regions(Topic *topic, Client *client, const json_t *observed)
{
        const json_t *regions = json_object_get(observed, "regions");
        json_t *region;
        size_t i;
        int r = 0;

        json_array_foreach(regions, i, region) {
                if (r)
                        break;
                if (i == 0 && strcmp(json_get_text(region, "kind"), "ring") != 0 && !topic->attached)
                        r = -EPROTO;
                else
                        r = map_region(topic, client, region);
        }
        return r;
}

static void say(TopicWatch *watch, Topic *topic, const char *text)
{
        if (watch->said)
                watch->said(watch->userdata, topic, text);
}

/* What the supervisor answered. @first: the topic is being opened. */
static int take_answer(TopicWatch *watch, Topic *topic, const json_t *observed, bool first)
{
        long long ring = json_get_number(observed, "ring");
        bool anew = ring != topic->ring_id, was_attached = topic->attached;
        int r = 0;

        topic->over = json_is_true(json_object_get(observed, "over"));
        (void)snprintf(topic->state, sizeof(topic->state), "%s", json_get_text(observed, "state"));
        if (ring == 0 && first)
                say(watch, topic,
                        topic->over                              ? "nothing more will come"
                        : strcmp(topic->state, "running") == 0 ? "what its node sends is not to be seen: its shared memory was lost with a daemon; restart the node"
                                                                 : "nobody is there yet to send anything");
        if (ring == 0) {
                topic->ended = topic->over && !topic->attached;
                return 0; /* what was attached may still be read */
        }
        if (anew)
                detach(topic);
        topic->generation = json_get_number(observed, "generation");
        topic->ring_id = ring;
        r = map_regions(topic, &watch->session->client, observed);
        if (r) {
                session_say(watch->session, "%s: its shared memory cannot be read: %s", topic->name, error_text(r));
                detach(topic);
                return CLI_FAILED;
        }
        topic->n_segments = json_get_number(observed, "segments");
        if (anew && topic->attached && first && watch->last)
                ring_observer_rewind(&topic->observer, 1);
        if (anew && topic->attached && !first) { /* what was sent before we heard of it, too */
                ring_observer_rewind(&topic->observer, UINT64_MAX);
                topic->observer.missed = topic->observer.next;
        }
        if (anew && was_attached) {
                char text[100];

                (void)snprintf(text, sizeof(text), "a new life of its node begins (generation %lld)", topic->generation);
                say(watch, topic, text);
        }
        return 0;
}

/* Return: 0 or the exit status, said. */
static int ask(TopicWatch *watch, Topic *topic, bool first)
{
        Session *session = watch->session;
        nsec_t now = clock_now();
        Reply reply = {};
        int r, status = 0;

        topic->asked_at = now;
        r = session_connect(session);
        session->client.wants_fds = true;
        if (!r)
                r = session_try(session, "Observe", json_pack("{ss ss ss sI sI}", "dataflow", topic->dataflow, "node", topic->node, "output", topic->output, "ring",
                                                            (json_int_t)(topic->attached ? topic->ring_id : 0), "segments", (json_int_t)topic->n_segments),
                        &reply);
        if (r == CLIENT_E_INTERRUPTED) { /* the signal is seen by who waits for it */
                session_hang_up(session);
                return 0;
        }
        if (r) { /* it may be replaced at this moment; what we have mapped goes on meanwhile */
                session_hang_up(session);
                topic->failed_at = topic->failed_at ? topic->failed_at : now;
                return first || now - topic->failed_at > session->timeout ? session_fail(session, r) : 0;
        }
        topic->failed_at = 0;
        if (reply.error && !first && (strcmp(reply.error, "NotRunning") == 0 || strcmp(reply.error, "NoSuchDataflow") == 0)) {
                topic->over = true; /* its dataflow has ended */
                topic->ended = topic->ended || !topic->attached;
        } else if (reply.error) {
                status = session_refused(session, &reply);
        } else {
                status = take_answer(watch, topic, json_object_get(reply.parameters, "observed"), first);
        }
        client_drop_fds(&session->client);
        reply_done(&reply);
        return status;
}

/* ---- messages */

enum {
        TAKE_E_NONE = 1, /* nothing is there */
        TAKE_E_ASK,      /* the next one lies where we have not been told of */
};

static int take(TopicWatch *watch, Topic *topic, TopicMessage *ret)
{
        RingGlance glance = {.payload = watch->payload, .payload_size = watch->payload_max, .meta = watch->meta, .meta_size = PARAMS_MAX};
        uint32_t left = topic->observer.n_slots;
        struct ring_descriptor d;
        uint64_t index, passed;
        int r;

        if (!topic->attached || topic->broken || topic->ended)
                return TAKE_E_NONE;
        do { /* a producer out of order makes such messages faster than they are passed: then the rest is for the next look */
                r = ring_observer_glance(&topic->observer, &d, &index, &glance);
                topic->n_invalid += r == RING_E_INVALID;
        } while (r == RING_E_INVALID && --left > 0);
        if (r == RING_E_SEGMENT) {
                ring_observer_again(&topic->observer);
                return TAKE_E_ASK;
        }
        topic->ended = topic->over && (r == RING_E_END || r == RING_E_EMPTY);
        topic->broken = r == RING_E_VIOLATION;
        if (r)
                return TAKE_E_NONE;
        passed = topic->observer.missed + topic->n_unknown + topic->n_invalid;
        *ret = (TopicMessage){.index = index,
                .time_ns = d.time_ns,
                .size = d.payload_len,
                .encoding = d.encoding,
                .payload = watch->payload,
                .n_payload = MIN((size_t)d.payload_len, watch->payload_max),
                .meta = watch->meta,
                .n_meta = MIN((size_t)d.meta_len, (size_t)PARAMS_MAX),
                .passed = passed - topic->n_told};
        topic->n_told = passed;
        return 0;
}

/* The segment may never be told of: it was lost with a daemon. Then what lies in there is passed. */
static void pass_unknown(Topic *topic)
{
        topic->observer.next++;
        topic->n_unknown++;
}

static int drain(TopicWatch *watch, Topic *topic, bool *ret_enough, uint64_t *ret_share)
{
        TopicMessage message;
        uint64_t n = 0, begun = topic->observer.next;
        int r = TAKE_E_NONE, status = 0;

        for (; n < MAX(topic->observer.n_slots, UINT32_C(1)); n++) {
                nsec_t now;

                r = take(watch, topic, &message);
                if (r == TAKE_E_ASK) {
                        now = clock_now();
                        if (now - topic->asked_at >= ASK_SEGMENT) {
                                long long known = topic->n_segments, ring = topic->ring_id;
                                bool over = topic->over;

                                status = ask(watch, topic, false);
                                if (!status && !topic->broken && !topic->failed_at && known == topic->n_segments && ring == topic->ring_id &&
                                        over == topic->over && topic->observer.head > topic->observer.next)
                                        pass_unknown(topic);
                        }
                        break;
                }
                if (r)
                        break;
                if (!watch->message(watch->userdata, topic, &message)) {
                        *ret_enough = true;
                        return 0;
                }
        }
        /* How much of the ring went by since the last look: what it holds is all there is to read. */
        *ret_share = MAX(*ret_share, topic->observer.n_slots && topic->observer.next > begun ? 100 * (topic->observer.next - begun) / topic->observer.n_slots : 0);
        if (!status && r == TAKE_E_NONE && n == 0 && !topic->ended && clock_now() - topic->asked_at >= ASK_EVERY)
                status = ask(watch, topic, false);
        return status;
}

static void wait_until(const Session *session, nsec_t wake, nsec_t now)
{
        struct pollfd p = {.fd = session->signal_fd, .events = POLLIN};
        nsec_t left = nsec_left(wake, now);
        struct timespec ts = {.tv_sec = (time_t)(left / NSEC_PER_SEC), .tv_nsec = (long)(left % NSEC_PER_SEC)};

        (void)ppoll(&p, 1, &ts, NULL);
}

static int watch_loop(TopicWatch *watch)
{
        nsec_t least = MAX(watch->look_least, LOOK_LEAST), look = MAX(LOOK_FIRST, least), tick_at = 0;

        for (;;) {
                nsec_t now = clock_now(), wake;
                bool enough = false, all_ended = true;
                uint64_t share = 0;
                int status = 0;

                if (now >= watch->until || session_signal(watch->session))
                        return 0;
                for (size_t i = 0; i < watch->n && !status && !enough; i++) {
                        bool ended = watch->topics[i].ended;

                        status = drain(watch, &watch->topics[i], &enough, &share);
                        if (watch->topics[i].ended && !ended)
                                say(watch, &watch->topics[i], "nothing more will come");
                        all_ended = all_ended && watch->topics[i].ended;
                }
                if (status || enough || all_ended)
                        return status;
                now = clock_now();
                if (watch->tick && now >= tick_at) {
                        tick_at = now + NSEC_PER_SEC;
                        if (!watch->tick(watch->userdata, now, &tick_at))
                                return 0;
                }
                look = share > 25 ? MAX(look / 2, least) : share == 0 ? MIN(look * 2, LOOK_MOST) : look;
                wake = MIN(nsec_add(now, look), watch->until);
                wait_until(watch->session, watch->tick ? MIN(wake, tick_at) : wake, now);
        }
}

int topic_watch(TopicWatch *watch)
{
        int status = 0;

        watch->payload = malloc(watch->payload_max + 8); /* of a large one only what is read is ever there */
        watch->meta = malloc(PARAMS_MAX);
        if (!watch->payload || !watch->meta) {
                session_say(watch->session, "out of memory");
                status = CLI_FAILED;
        }
        for (size_t i = 0; i < watch->n && !status; i++)
                status = ask(watch, &watch->topics[i], true);
        if (!status)
                status = watch_loop(watch);
        free(watch->payload);
        free(watch->meta);
        watch->payload = watch->meta = NULL;
        return status;
}
