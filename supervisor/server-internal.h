/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control server's own state, shared by its files: server.c (connections, quotas, calls), server-events.c (who hears of
 * what), server-flow.c (dataflows by name, and what follows their end), describe.c (JSON), methods-*.c (one group of methods
 * each).
 */
#ifndef TG_SUPERVISOR_SERVER_INTERNAL_H
#define TG_SUPERVISOR_SERVER_INTERNAL_H

#include <limits.h>

#include "supervisor/control.h"
#include "supervisor/parameters.h"
#include "supervisor/peer.h"
#include "supervisor/server.h"

#define SERVER_ENDED_MAX   100 /* dataflows of one uid that have ended and are still listed */
#define SERVER_LIVE_MAX    64  /* of one uid that is not root: 255 are all there can be */
#define SERVER_CALL_SPAN   (30 * NSEC_PER_SEC)
#define SERVER_BEYOND_SPAN (4 * NSEC_PER_SEC) /* from the kill budget's end to a dataflow's own: the look, logs, cgroup */

typedef struct Method Method;
typedef struct Client Client;
typedef struct Flow Flow;

/* Clients of one user share these. */
typedef struct ServerUser {
        ListLink link;
        uid_t uid;
        unsigned n_clients, n_streams;
        ControlQuota quota;
} ServerUser;

/* The server's side of a dataflow; its options.owner. */
struct Flow {
        ListLink link; /* in server->flows, in the order of their start */
        Server *server;
        Dataflow *dataflow;
        Flow *after; /* begins when that one is gone; NULL: has begun, or need not wait */

        /* methods-logs.c: open while somebody reads */
        int tap_fd;
        Source tap_source;
        unsigned n_readers;
        bool tap_ended; /* nothing more will come from its keeper */
};

typedef enum CallOrder {
        CALL_ORDER_NONE,
        CALL_ORDER_LIMITS,
        CALL_ORDER_FREEZE,
        CALL_ORDER_USAGE,
} CallOrder;

/* What a client has asked for and not been answered yet. */
typedef struct Call {
        const Method *method; /* NULL: none */
        bool more;
        bool events;     /* gets those of its flows */
        bool everything; /* Events without a dataflow: gets all that the client may see */
        bool stream;     /* counts as one */
        Timer deadline;
        ListLink link; /* in server->calls, once it waits */

        /*
         * look: can it be answered now? Called from the server's job after anything has changed. Before a flow is forgotten
         * every call has looked once more, so that none points to it afterwards.
         */
        void (*look)(Client *client);
        Flow *flow, *other;
        Flow **flows; /* owned array; NULL: was forgotten */
        size_t n_flows;
        json_t *results; /* owned */
        json_t *probed_links; /* likewise: Probe, the links so far */

        /* Status: how far it is, in flows and in the nodes of that one, and the reply so far */
        Job step;
        size_t flow_at, node_at;
        bool links;
        char *text; /* owned */
        size_t text_size, text_room, text_before; /* before: without the flow that it is at */

        /* one node */
        Node *node; /* lives as long as flow's dataflow */
        uint64_t generation;
        bool ordered;    /* StopNode, RestartNode: by this call, once the guard holds it */
        uint32_t ticket; /* which of the signals it is */
        uint64_t asked;  /* Why: which question it is; 0: none */
        CallOrder order; /* what the keeper is to answer; of the node, or without one of the flow */
        int awaited;     /* NodeState or DataflowState; -1: ended */
        bool seen;       /* it was there, if only for a moment */

        /* Probe */
        bool probes; /* counts as a wish */
        bool queues; /* likewise, to see these */
        bool last;   /* its dataflow has ended: the answer that is being put together is the last */
        nsec_t interval_ns;
        Timer interval;
        uint64_t changes_seen;

        /* Logs: per node of the plan */
        bool *shown;
        uint64_t *unsent; /* lines dropped because this client is slow */
} Call;

struct Client {
        ListLink link;
        Server *server;
        ServerUser *user;
        Control *control;
        Peer peer;
        Call call;
};

struct Server {
        Supervisor *supervisor;
        Loop *loop;
        int listen_fd, spare_fd; /* spare: given up to be able to refuse when no other is left */
        Source source;
        Timer pause;
        List clients, users, flows;
        List calls; /* those that wait */
        unsigned n_clients, max_clients;
        uint64_t n_refused;
        Job job; /* calls look, flows follow each other, the oldest are forgotten */
        nsec_t started_at;
        char runtime_dir[PATH_MAX]; /* for people */
};

struct Method {
        const char *name;
        uint8_t takes[PARAMS_MAX];
        void (*run)(Client *client, const Parameters *parameters);
        bool needs_more;
};

/* The methods, by file; ended by one without a name. */
extern const Method methods_service[], methods_query[], methods_start[], methods_stop[], methods_node[], methods_observe[], methods_resources[], methods_stream[],
        methods_why[], methods_probe[];

/* server.c: answers. Each ends the call under way. */
void client_reply(Client *client, json_t *take_parameters);
void client_reply_text(Client *client, char *take_text); /* a whole message; NULL: memory is short */
void client_error(Client *client, const char *error, json_t *take_parameters);
__attribute__((format(printf, 3, 4))) void client_fail(Client *client, const char *error, const char *format, ...);
void client_bad_parameter(Client *client, const char *name);

/*
 * client_wait() - the call is not answered yet: @look is asked again whenever something has changed, first in the next job
 * @timeout_ms: of the call, or PARAM_ABSENT; @otherwise_ns: then
 */
void client_wait(Client *client, void (*look)(Client *client), json_int_t timeout_ms, nsec_t otherwise_ns);

/* client_stream() - count the call as a stream. False: too many, and it was answered so. */
bool client_stream(Client *client);

bool client_may_all(const Client *client); /* root, and whoever the daemon belongs to */
static inline bool client_may(const Client *client, const Flow *flow)
{
        return client_may_all(client) || client->peer.uid == flow->dataflow->options.uid;
}

void server_kick(Server *server); /* something has changed */
void server_look(Server *server); /* every call that waits looks now */
bool call_has(const Call *call, const Flow *flow); /* it is about that one */

/* server-flow.c */
int flow_new(Flow **ret, Server *server);
void flow_forget(Flow *flow); /* of a dataflow that has ended; nobody may look at either afterwards */
bool flow_is_live(const Flow *flow);
void flows_follow(Server *server); /* those whose predecessor is gone begin */
void flows_forget(Server *server); /* the oldest of too many that have ended; after server_look() */

/*
 * flow_resolve() - the dataflow that @name means to this client: a uuid, the name of one that lives (else of the one that
 * ended last), or the beginning of a uuid. NULL: there is none, or several, and the call was answered so.
 */
Flow *flow_resolve(Client *client, const char *name);
/* flow_detached() - the dataflow that this node of @flow has become (supervisor/detach.h); @flow: it has not. */
Flow *flow_detached(Flow *flow, const char *id);
Node *flow_node(Client *client, Flow *flow, const char *id); /* NULL: none, and the call was answered so */

/* flow_of() - the one of that user and name that lives and waits for nobody; NULL: none. */
Flow *flow_of(Server *server, uid_t uid, const char *name);

/* server-events.c */
void events_accepted(Flow *flow);
void events_adopted(Server *server);

/* methods-query.c: a Status under way goes on without it. False: the call is another one. */
bool status_forget(Call *call, const Flow *flow);

/* describe.c: new references, as the interface has them; NULL without memory. */
json_t *describe_dataflow(const Flow *flow, bool with_nodes);
json_t *describe_node(const Node *node, bool with_links);
json_t *describe_result(const Dataflow *dataflow);
json_t *describe_outputs(const Node *node); /* methods-observe.c */
const char *describe_result_word(const Dataflow *dataflow); /* NULL: has not ended */

/* methods-probe.c: the call is over, or its client is gone. */
void probe_end(Client *client);

/* methods-stream.c: the tap of a flow's lines. */
void logs_begin(Flow *flow);    /* its keeper takes orders now */
void logs_room(Client *client); /* a client that reads lines has room again */
void logs_detach(Client *client);
void logs_close(Flow *flow);
void logs_last(Flow *flow); /* it has ended */

#endif
