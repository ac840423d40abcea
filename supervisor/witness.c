/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/witness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/utf8.h"
#include "protocol/witness_msg.h"
#include "supervisor/helper.h"
#include "supervisor/packet.h"

#define ANSWER_SPAN    (5 * NSEC_PER_SEC)   /* of a look, on a machine under full load */
#define LOOK_PAUSE     (20 * NSEC_PER_MSEC) /* from a departure to a look for those whom it forked meanwhile: what the keeper needs to end it */
#define RECORDS_A_TURN 64

struct Witness {
        Supervisor *supervisor;
        Helper helper;
        Timer look_timer;   /* a look is due */
        Timer answer_timer; /* one is under way: until when */
        bool look_again;    /* ... and another is wanted */
        uint64_t dropped;
};

static void stop_looking(Witness *w)
{
        timer_disarm(&w->look_timer);
        timer_disarm(&w->answer_timer);
        w->look_again = false;
}

Witness *witness_free(Witness *w)
{
        if (!w)
                return NULL;
        stop_looking(w);
        helper_done(&w->helper);
        free(w);
        return NULL;
}

static void on_ended(Helper *helper, const char *what)
{
        stop_looking(container_of(helper, Witness, helper));
        if (supervisor_is_private(helper->supervisor))
                return;
        if (helper->state == HELPER_OFF)
                log_line("who leaves its node's cgroup is looked for, not seen: %s", helper->why);
        else
                log_line("the witness (pid %d) %s; another one in %u s, who leaves its node's cgroup is looked for meanwhile", (int)helper->pid, what,
                        (unsigned)(helper->pause / NSEC_PER_SEC));
}

/* ---- looks */

static int on_no_answer(Timer *timer, nsec_t now)
{
        (void)now;
        helper_fail(&container_of(timer, Witness, answer_timer)->helper, "does not answer");
        return 0;
}

static int on_look_due(Timer *timer, nsec_t now)
{
        Witness *w = container_of(timer, Witness, look_timer);
        struct witness_record order = {.magic = WITNESS_MAGIC, .type = WITNESS_MSG_LOOK};

        if (w->answer_timer.loop) {
                w->look_again = true;
                return 0;
        }
        (void)packet_send(w->helper.fd, &order, sizeof(order), NULL, 0); /* not sent: not answered */
        timer_arm(&w->supervisor->loop, &w->answer_timer, nsec_add(now, ANSWER_SPAN), on_no_answer);
        return 0;
}

static void look_after(Witness *w, nsec_t span)
{
        if (w->helper.state == HELPER_READY && !w->look_timer.loop)
                timer_arm(&w->supervisor->loop, &w->look_timer, nsec_add(w->supervisor->loop.now, span), on_look_due);
}

static void on_looked(Witness *w, const struct witness_record *record)
{
        timer_disarm(&w->answer_timer);
        if (record->dropped > w->dropped && !supervisor_is_private(w->supervisor))
                log_line("the kernel had no room for %llu words of who left; who is elsewhere is known all the same", (unsigned long long)(record->dropped - w->dropped));
        w->dropped = MAX(w->dropped, record->dropped);
        if (w->look_again)
                look_after(w, LOOK_PAUSE);
        w->look_again = false;
}

/* ---- whose it is */

static Node *find_node(const Supervisor *supervisor, const struct witness_record *record, uint64_t *ret_generation)
{
        const char *dot = strrchr(record->node, '.');
        Dataflow *it, *next;
        char *end;

        if (!dot || dot[1] < '1' || dot[1] > '9')
                return NULL;
        *ret_generation = strtoull(dot + 1, &end, 10);
        if (*end)
                return NULL;
        list_for_each(it, next, &supervisor->dataflows, link) {
                if (strcmp(it->uuid_text, record->dataflow) != 0)
                        continue;
                for (size_t i = 0; i < it->plan->n_nodes; i++) {
                        const char *id = it->plan->nodes[i].id;

                        if (strlen(id) == (size_t)(dot - record->node) && memcmp(id, record->node, strlen(id)) == 0)
                                return &it->nodes[i];
                }
        }
        return NULL;
}

/*
 * A captured process is somebody's, who may move it. What a node that manages cgroups has placed elsewhere, a container engine's
 * containers, is not astray: whoever went there itself is.
 */
static bool is_left_alone(const Node *node, const struct witness_record *record)
{
        return node->captured || (node->plan->cgroup_writable && !record->self);
}

static void on_left(Witness *w, const struct witness_record *record)
{
        _cleanup_free_ char *comm = utf8_clean(record->comm, strlen(record->comm), NULL), *to = utf8_clean(record->to, strlen(record->to), NULL);
        uint64_t generation = 0;
        Node *node = find_node(w->supervisor, record, &generation);
        bool alone = node && is_left_alone(node, record);
        char from[2 * WITNESS_NAME_SIZE];

        if (record->type == WITNESS_MSG_MOVED || record->type == WITNESS_MSG_BORN || !alone)
                look_after(w, LOOK_PAUSE); /* until nobody is found */
        if (!comm || !to || (alone && record->type == WITNESS_MSG_FOUND))
                return;
        if (!node) { /* of a dataflow that is forgotten, or that another supervisor is to adopt */
                log_line("process %d (%s) of %s/%s, which is not known, is in %s", (int)record->pid, comm, record->dataflow, record->node, to[0] ? to : "another cgroup");
                return;
        }
        if (keeper_order_astray(node, generation, record->pid, record->start_ns, alone, comm, to) == 0)
                return;
        (void)snprintf(from, sizeof(from), "%s/%s", record->dataflow, record->node);
        dataflow_escape_event(node->dataflow, node, record->pid, comm, from, to, alone ? KEEPER_ESCAPED_ALONE : 0); /* its keeper is being replaced */
}

/* ---- what it says */

static void on_ready(Witness *w, const struct witness_record *record)
{
        helper_is_ready(&w->helper);
        if (!supervisor_is_private(w->supervisor))
                log_line("who leaves its node's cgroup is seen by the kernel (probe loaded in %u ms)", record->ms);
}

static bool on_record(Witness *w, const struct witness_record *record)
{
        bool ready = w->helper.state == HELPER_READY;
        char why[WITNESS_PATH_SIZE + 16];

        if (ready == (record->type == WITNESS_MSG_READY || record->type == WITNESS_MSG_UNAVAILABLE))
                return false;
        if (record->type == WITNESS_MSG_READY)
                on_ready(w, record);
        else if (record->type == WITNESS_MSG_LOOKED)
                on_looked(w, record);
        else if (record->type != WITNESS_MSG_UNAVAILABLE)
                on_left(w, record);
        else {
                (void)snprintf(why, sizeof(why), "%s", record->to);
                helper_give_up(&w->helper, why);
        }
        return true;
}

static int on_socket(Source *source, uint32_t revents)
{
        Helper *helper = container_of(source, Helper, source);

        (void)revents;
        for (unsigned i = 0; i < RECORDS_A_TURN && helper->fd >= 0; i++) {
                struct witness_record record;
                size_t size = 0;
                int r = packet_recv(helper->fd, &record, sizeof(record), &size, NULL, 0, NULL);

                if (r == PACKET_E_AGAIN)
                        return 0;
                if (r == PACKET_E_CLOSED)
                        helper_fail(helper, "is gone");
                else if (r || witness_msg_check(WITNESS_SENDER_WITNESS, &record, size) || !on_record(container_of(helper, Witness, helper), &record))
                        helper_fail(helper, "broke its protocol");
        }
        return 0;
}

/* ---- its beginning */

static const HelperKind kind = {.which = GUARD_HELPER_WITNESS,
        .program = "tidegate-witness",
        .name = "the witness",
        .n_tries = 5,
        .growth = 2,
        .on_socket = on_socket,
        .ended = on_ended};

void witness_want(Supervisor *supervisor)
{
        Witness *w = supervisor->witness;

        if (w) {
                look_after(w, LOOK_PAUSE); /* one that is wedged shows when it matters */
                return;
        }
        if (supervisor->ending || helper_refusal())
                return;
        w = calloc(1, sizeof(*w));
        if (!w)
                return;
        w->supervisor = supervisor;
        helper_init(&w->helper, &kind, supervisor);
        supervisor->witness = w;
        helper_ask(&w->helper);
}
