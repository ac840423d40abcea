/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the node library share.
 *
 * Locks, in this order: next_turn or an output's turn (held while a caller waits) -> node->lock -> output->lock. The
 * last two are never held across a wait. node->lock guards everything but an output's writer, its links and peers,
 * which change under both and may be read under either.
 *
 * Waiting (wait.c): the thread that polls is the leader; the others wait for node->pulse to change. Who waits reads
 * the pulse, announces what it waits for (bell or room word), looks, and only then waits; the leader's every return
 * from poll changes the pulse, so everybody announces anew and looks again.
 */
#ifndef TG_NODE_INTERNAL_H
#define TG_NODE_INTERNAL_H

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/list.h"
#include "node/lock.h"
#include "node/spin.h"
#include "protocol/node_msg.h"
#include "protocol/params.h"
#include "shm/bell.h"
#include "shm/control.h"
#include "shm/reader.h"
#include "shm/writer.h"
#include "tidegate/tidegate.h"

/* Sockets that somebody rings by are emptied, and who rings is judged, once in so many announcements: of 32 that takes 10 us at once, and
 * their buffers hold hundreds. */
#define NODE_DRAIN_EPOCHS 8u
#define NODE_GLANCE_NS    (50 * NSEC_PER_MSEC) /* a node that never sleeps looks around at least this often */
#define NODE_CPU_SPAN     (200 * NSEC_PER_MSEC) /* and asks at most this often what CPU time it has used */
#define NODE_RELOOK_NS    (10 * NSEC_PER_MSEC) /* a blocked sender looks again at least this often */
#define NODE_GROW_SPAN    (100 * NSEC_PER_MSEC) /* a sender that may drop waits so long for each step to a larger pool, once until it is answered */
#define NODE_MAX_LINKS    1024u /* per output */
#define JOIN_SPAN_MIN     (100 * NSEC_PER_MSEC) /* between two attempts to find a supervisor by name */
#define JOIN_SPAN_MAX     NSEC_PER_SEC

enum { /* what epoll says is ready; peers by their serial number */
        NODE_TAG_SOCKET = 1,
        NODE_TAG_TIMER = 2,
        NODE_TAG_SELF = 3,
        NODE_TAG_PEERS = 16,
};

#define NODE_TAG_DOORBELL (UINT64_C(1) << 63) /* ... and this: its doorbell, and not the socket */

/* Outcomes inside the library, beside TG_E_*. */
enum {
        NODE_E_NOTHING = 100, /* no event now */
        NODE_E_AGAIN,         /* no event yet, but there is more to look at: do not sleep */
};

typedef enum NodeState {
        NODE_GREETING = 0, /* HELLO sent */
        NODE_SETTING_UP,   /* WELCOME came */
        NODE_READY,        /* MAPPED sent; links come */
        NODE_RUNNING,      /* START came */
        _NODE_STATE_MAX,
} NodeState;

/* The other node of one or more links, in one incarnation. */
typedef struct Peer {
        ListLink link;
        uint64_t serial; /* names it in epoll, where a pointer could outlive it */
        uint32_t id, generation;
        int fd;          /* our end of the pair's socket; -1: this node itself */
        int heard_fd, rung_fd; /* doorbells: we hear, and ring; -1: a byte through the socket does */
        BellPeer bell;
        uint32_t n_rings; /* atomic: of ours to it */
        uint32_t n_slow;  /* atomic: that took long by the clock, in a row */
        bool crowds;     /* atomic: it is not rung any more */
        uint64_t n_heard; /* how often it woke us by its doorbell, and bytes that came by the socket */
        Region bell_map;
        unsigned n_refs; /* links and sources */
        bool current;    /* newest incarnation of its id */
        bool gone;       /* its last process is gone, or its bell is not one */
        bool by_socket;   /* it has rung by that, and nobody has emptied it since */
        uint64_t n_reasons; /* of links that are over: how often it may have had a reason to send one */
        bool muted;      /* it has no link with us any more, and so no reason to ring: it is not heard until it has */
        bool convicted;  /* of what rings.c tells: nobody listens to it any more */
        uint32_t n_heavy, n_others; /* atomic: that took too long, less those that did not; others in a row. See rings.c */
} Peer;

typedef enum Watch {
        WATCH_NONE = 0,
        WATCH_ALL,     /* all doorbells are heard */
        WATCH_WITHOUT, /* none is */
        WATCH_WITH,    /* that of the peer that is tried */
} Watch;

/* Of one peer after the other, once all are heard by sockets: whether it is by its doorbell that we are woken for nothing. See rings.c. */
typedef struct Trial {
        uint64_t serial; /* whose turn it is */
        unsigned n_polls, n_with, n_without; /* that were watched; of these, for nothing */
        unsigned every;  /* polls from one that is watched to the next */
        bool in_vain;    /* all had theirs */
        bool over;       /* doorbells are heard again before the next poll */
} Trial;

/* Where an input's messages come from: one incarnation of the producer. */
typedef struct Source {
        ListLink link; /* in node->sources */
        struct Input *input;
        Peer *peer;
        unsigned n_refs; /* the input's, and one per event that points into it */
        RingReader reader;
        Region ring, pool;
        Region grown[NODE_MSG_MAX_SEGMENTS]; /* by number; 0 is the pool */
        unsigned n_grown;
        bool lacks_segment; /* its next message lies in a segment that it was not told of yet */
        bool ended; /* drained to the final head */
        bool accused; /* its end is due to what was reported already */
        uint64_t n_invalid; /* messages that do not hold together */
        /* Stands in for the input's cursor once a new producer has that: the old one is dead and reads no cursor, and a
         * claim of its messages must not be taken for one of the new ring. */
        struct cursor_shared scratch;
} Source;

typedef struct Input {
        tg_node *node;
        char *id;
        bool known;
        uint32_t queue_size;
        RingPolicy policy;

        uint64_t timer_ns; /* 0: not a timer */
        nsec_t tick_at;    /* the next one */
        uint64_t n_ticks;  /* due so far */

        uint32_t link, generation; /* of the newest attachment, if it was ever attached */
        bool attached;
        Region cursor;
        Source *now, *old;         /* old: of a replaced producer, read to its end first */
        Region coming[NODE_MSG_MAX_SEGMENTS]; /* grown segments of an attachment whose LINK_IN is to follow, and its generation */
        uint32_t coming_generation;
        uint32_t short_of_memory; /* the attachment of which a grown segment found no room here; 0: none */
        bool closing;              /* no new source will come: closed once drained */
        bool closed;
        bool said_closed;          /* the node was told INPUT_CLOSED and not yet INPUT_RECOVERED */
        uint64_t timeout_ns;
        nsec_t timeout_at;         /* NSEC_NEVER while not armed */
        tg_event *pending;         /* taken from the ring, not delivered yet */
        struct tg_input_stats past; /* of sources that are gone, and what the reader cannot know */
} Input;

typedef struct OutLink {
        ListLink link;
        uint32_t id, generation;
        RingPolicy policy;
        bool restartable; /* its consumer's end alone does not end it */
        bool stopped;     /* its consumer was seen to have stopped, see outputs.c */
        bool let_go;      /* and has no place any more */
        uint64_t first;   /* index of the first message that it can have had to do with */
        Region cursor;
        Peer *peer; /* NULL: dead. Its place is kept until the supervisor says what follows */
        nsec_t unsaid_since; /* its peer hung up, and the supervisor has not said that it is dead; 0: it has, or nothing hung up */
} OutLink;

typedef struct Output {
        tg_node *node;
        char *id;
        Lock turn; /* one sender at a time, waiting included */
        Lock lock; /* the fields below */
        RingWriter *writer; /* NULL: not announced yet */
        Peer **peers; /* each that is fed by this output, once */
        unsigned n_peers;
        bool closed;
        Spin spin; /* for room; with the turn, and not the lock */
        nsec_t copied_at; /* the last large message, 0: none was; likewise */
        Region ring, pool;
        Region grown[NODE_MSG_MAX_SEGMENTS]; /* by number; 0 is the pool */
        unsigned n_segments;    /* that the writer has, the pool included */
        uint64_t grow_asked;    /* chunk size of a GROW that was not answered yet; 0: none */
        bool grow_late;         /* ... within the time that a sender waits for it */
        uint64_t grow_refused;  /* chunks of that size and larger were; 0: none was */
        uint64_t grow_largest;  /* that was asked for; with the turn */
        bool grow_told;         /* of one that was refused without being asked for; with the turn */
        List links;
        unsigned n_backpressure;
} Output;

/* What was told of another node, by which a repeat is known. */
typedef struct Heard {
        ListLink link;
        uint64_t failed, restarted; /* newest generation, 0: none */
        char id[];
} Heard;

typedef struct Packet { /* waits for room in the socket to the supervisor */
        ListLink link;
        size_t size;
        uint8_t bytes[];
} Packet;

struct tg_event {
        RingMessage message; /* first: wants 64-byte alignment. Of every event, number and time are here: index, d.time_ns */
        tg_event_kind kind;
        int claim; /* in source->reader; -1: none */
        const char *id;
        const void *data;
        size_t size;
        Params *params;
        Source *source; /* NULL: no shared memory is held */
        void *owned;    /* private bytes that id or data point into */
        tg_node *node;
        union {
                ListLink link;       /* in node->events */
                tg_event *next_spare;
        };
};

struct tg_sample {
        _Alignas(64) uint8_t bytes[RING_INLINE_MAX];
        Output *output;
        PoolChunk chunk; /* empty: the payload is in bytes */
        size_t size;
};

struct tg_node {
        /* What each message needs stands together, so that it is few lines of memory: see base/hot.h. */
        uint8_t *alive; /* a page that fork wipes */
        Lock lock, next_turn;
        uint32_t n_refs; /* atomic: the user's one, one per sample, and one for all events that outlive the user's */
        uint32_t n_events_out; /* held by the user */
        NodeState state;
        NodeWaitMode wait_mode;
        int fd; /* to the supervisor; -1: it is gone */
        int epoll_fd, outer_fd, outer_nudge_fd; /* outer_fd: tg_node_fd(), and outer_nudge_fd what keeps it readable */
        uint32_t pulse; /* futex word */
        unsigned n_followers;
        unsigned n_announced; /* atomic: since the doorbells were emptied */
        bool closed;
        bool leading;
        bool timed;       /* some input is a timer or has a timeout */
        bool gathers;     /* several messages are being taken, and shown as taken once for all of them: input_show() */
        bool slept, spun; /* since idle_since */
        bool woke;        /* tg_next() slept, and no message was taken since */
        bool outer_armed; /* tg_next() said "nothing" to somebody who polls outer_fd */
        bool unsaid;      /* some link has unsaid_since */
        bool stop_queued, stopping, ended;
        uint32_t told_to_stop; /* atomic, as stop_by: what a packet said, for a supervisor that has lost the control page */
        unsigned n_inputs, n_outputs;
        unsigned n_links_in, n_open_in; /* inputs that are links; those not finally closed */
        unsigned first_input; /* whose turn it is */
        Input *inputs;
        Output *outputs;
        struct Source *usual;   /* whose messages alone there can be, see next.c; NULL: not so, or not looked at. Whoever changes anything of that takes it back */
        unsigned n_polls, n_silent; /* until one is watched; of those that were, for nothing, less the others */
        bool crowded; /* atomic: some peer `crowds`, and was not named yet */
        bool hears_doorbells; /* of some peer */
        List events;            /* made by the supervisor or by us; delivered before inputs */
        tg_event *spare_events; /* the last that was given back first: its bytes are in the caches */
        unsigned n_spare_events, max_spare_events;
        tg_sample *spare_sample; /* atomic */
        char *socket_path; /* where to find the supervisor, or its successor; NULL: nowhere */
        nsec_t verdict_by; /* NSEC_NEVER: somebody decides what follows on a death. Else nobody does from then on */
        uint64_t control_seen;
        nsec_t glanced_at;
        nsec_t idle_since; /* there was nothing then; 0: nobody waits; NSEC_NEVER: somebody does, and did not look since when */
        nsec_t timed_at, sent_at; /* idle_since as it was looked at last; when the message was sent that was waited for last, by its own word */
        uint64_t n_taken;  /* messages */
        Region control;
        Bell bell;
        Spin spin; /* for messages */

        char *id, *dataflow; /* a dynamic node's as it was asked for, until WELCOME */
        uint8_t uuid[16];
        char uuid_text[37];
        uint32_t restart_count;
        uint64_t generation;
        nsec_t start_deadline;
        char *refusal; /* why the start was given up */

        nsec_t join_at, join_span; /* the next attempt while there is no fd, and how long after that the one after it */
        nsec_t asked_at;   /* when a supervisor that had taken over asked us last */
        int timer_fd, self_fd;
        bool self_rung; /* atomic: since self_fd was emptied */
        List packets;
        unsigned n_packets;

        Region bell_map;
        struct Unsealed {
                int fd;
                RegionKind kind;
        } *unsealed; /* of what we have mapped to write */
        unsigned n_unsealed;
        Peer self;
        List peers, sources;
        uint64_t last_serial;

        nsec_t timer_armed;
        int64_t send_timeout_ns; /* atomic */
        nsec_t grow_span; /* NODE_GROW_SPAN; longer where a test wants the answer, whoever has the processors meanwhile */
        nsec_t relook_span; /* NODE_RELOOK_NS; longer where a test wants a ring to end a wait for room, and nothing else */

        SpinCost cost;

        nsec_t stop_by; /* NSEC_NEVER: no packet named a deadline */
        List heard;
        unsigned n_heard;

        bool turned; /* it hears no doorbells any more: all by their sockets */
        bool turned_for_good;
        Trial trial; /* while it has turned */

        Lock log_lock;
        uint8_t packet[NODE_MSG_MAX + 1];
};

/* A forked child must not touch what it inherited. No system call. */
static inline bool node_forked(const tg_node *node)
{
        return __atomic_load_n(node->alive, __ATOMIC_RELAXED) == 0;
}

static inline bool node_told_to_stop(const tg_node *node)
{
        return control_stopping(&node->control) || __atomic_load_n(&node->told_to_stop, __ATOMIC_RELAXED);
}

/* The supervisor is gone and will be looked for. Until it is found no end of a source is taken for the last. */
static inline bool socket_is_awaited(const tg_node *node)
{
        return node->fd < 0 && node->socket_path && !node->closed;
}

static inline nsec_t deadline_after(int64_t timeout_ns)
{
        return timeout_ns < 0 ? NSEC_NEVER : timeout_ns == 0 ? 0 : nsec_add(clock_now(), (uint64_t)timeout_ns);
}

/* Whether somebody will say what follows on a death: the supervisor, or one that takes its place before long. */
static inline bool verdict_may_come(const tg_node *node)
{
        return (node->fd >= 0 || socket_is_awaited(node)) &&
                (node->verdict_by == NSEC_NEVER || clock_now() < node->verdict_by);
}

/* Somebody is about to sleep. Who receives counts with who sends. */
static inline void node_count_announced(tg_node *node)
{
        if (LOCK_ALONE)
                __atomic_store_n(&node->n_announced, node->n_announced + 1, __ATOMIC_RELAXED);
        else
                (void)__atomic_fetch_add(&node->n_announced, 1, __ATOMIC_RELAXED);
}

/* node.c */
void node_ref(tg_node *node);
tg_node *node_unref(tg_node *node);

/* setup.c: the handshake. */
int setup_welcome(tg_node *node, const NodeMsg *msg, int *fds);
int setup_output(tg_node *node, const NodeMsg *msg, int *fds);
int setup_input(tg_node *node, const NodeMsg *msg, int *fds);
int setup_end(tg_node *node);
void setup_start(tg_node *node);
void setup_undo(tg_node *node); /* forgets what was set up; only while nobody else knows the node */

/* join.c: HELLO, and sockets that are found by their path. All under node->lock, but the last. */
int join_watch(tg_node *node, int fd, uint32_t events, uint64_t tag);
int join_hello(tg_node *node);
int join_socket(tg_node *node, int take_fd); /* 0, or a negative errno: the node has the descriptor all the same */
int join_by_name(tg_node *node); /* one attempt */
void join_if_due(tg_node *node);
void join_later(tg_node *node);
int join_find_path(char **ret); /* of a dynamic node; 0, -ENOTCONN, -ENOMEM */

/* socket.c: the socket to the supervisor. All under node->lock. */
int socket_read(tg_node *node);  /* everything that is there; 0, -EPROTO, -ECANCELED before START, another errno */
int socket_send(tg_node *node, const NodeMsg *msg);
int socket_answer(tg_node *node, const NodeMsg *msg); /* the same for one of many answers, which we have to be able to keep */
void socket_flush(tg_node *node);
void socket_lost(tg_node *node); /* the data plane goes on without it */
void socket_fail(tg_node *node, const char *text); /* lost for good, and the node is told by TG_EVENT_ERROR */
void socket_glance(tg_node *node); /* looks when the control page says so, or when the last look was long ago */
bool socket_worth_a_glance(tg_node *node, nsec_t now); /* without the lock, too */
bool socket_glance_is_due(tg_node *node); /* whether that would look */

/* links.c: peers and attachments. All under node->lock. */
int links_peer(tg_node *node, const NodeMsg *msg, int *fds);
int links_out(tg_node *node, const NodeMsg *msg, int *fds);
int links_in(tg_node *node, const NodeMsg *msg, int *fds);
int links_detach(tg_node *node, const NodeMsg *msg);
int links_await(tg_node *node, const NodeMsg *msg);
void links_closed(tg_node *node, uint32_t link, uint32_t generation, bool restarting);
int links_violation(tg_node *node, uint32_t link, uint32_t generation, const char *text);
int links_map_other(tg_node *node, Region *ret, int fd, RegionKind kind, uint64_t size, uint32_t link, uint32_t generation);
Input *input_by_link(tg_node *node, uint32_t link);
int links_report(tg_node *node); /* an ack for each that is up, and whether they are rung by sockets */
void links_look_for_verdicts(tg_node *node); /* forgets places of the dead once nobody decides any more */
void peer_gone(tg_node *node, Peer *peer);
Peer *peer_by_serial(tg_node *node, uint64_t serial);
void peer_unref(tg_node *node, Peer *peer);
void peer_close_fds(Peer *peer);
Source *source_unref(tg_node *node, Source *source);
void input_retire(tg_node *node, Input *input, Source **source);
void node_drop_links(tg_node *node);

/* rings.c: all but peer_send() under node->lock */
void peer_send(tg_node *node, Peer *peer);  /* rings. By any thread that has a reference to it; no lock */
void peer_empty(tg_node *node, Peer *peer); /* takes what is in the socket, and judges how often it rang */
int rings_watch_peer(tg_node *node, Peer *peer); /* from here on it is heard */
void rings_peer_gone(tg_node *node);             /* one of them */
void rings_mute(tg_node *node, Peer *peer);      /* its last link is over */
int rings_unmute(tg_node *node, Peer *peer);     /* it gets another one: before that is looked at. 0, or a negative errno */
uint64_t rings_reasons(const Output *output, const OutLink *link); /* messages of ours that it was given room or chunks for: it may ring once for each that it takes, and once for what it releases. Under output->lock too */
/* rings_watch() - before a poll that waits: whether to count how often the thread goes to sleep in it. By the leader; so is what follows */
Watch rings_watch(tg_node *node);
bool rings_watch_passes(const tg_node *node); /* it would say WATCH_NONE of the next poll, and change nothing but to count it in n_polls */
/* rings_watched() - behind it. @for_nothing: it slept more often than it was woken by what was heard. True: everybody has to announce anew, a pulse */
bool rings_watched(tg_node *node, Watch watch, bool for_nothing);
void rings_judge_crowds(tg_node *node); /* if node->crowded */
bool rings_turn_for_good(tg_node *node); /* to sockets. By the leader. True: as rings_watched() */

/* grow.c: segments of pools beyond the first. All under node->lock. */
int grow_segment(tg_node *node, const NodeMsg *msg, int *fds);
int grow_ready(tg_node *node, const NodeMsg *msg, int *fds);
int grow_refused(tg_node *node, const NodeMsg *msg, int *fds);
int grow_link(tg_node *node, const NodeMsg *msg, int *fds);
int grow_report(tg_node *node);    /* what is mapped, as part of the answer to RESUME */
int grow_ask_again(tg_node *node); /* what has not been answered, behind it */
int grow_attach(Input *input, Source *source, uint32_t generation); /* gives a new source the segments that came ahead of it */
void grow_forget(Input *input);    /* those that came for an attachment that did not follow */
/* grow_may() - whether there may be another segment for chunks of that size. Under output->lock, alone. */
bool grow_may(const Output *output, uint64_t chunk_size);
/* grow_wait() - ask for it, and wait until it is there, or will not come, or @deadline, and for @span for each of the two answers at most
 * (NSEC_NEVER: as long as it takes). Without output->lock. 1: it is there, 0, -EINTR. */
int grow_wait(Output *output, uint64_t chunk_size, nsec_t span, nsec_t deadline);
/* grow_tell() - of a message that no segment can hold, if the supervisor has not heard of one: it says why, once. Nobody waits for it. With
 * the turn, without output->lock. */
void grow_tell(Output *output, uint64_t chunk_size);

/* inputs.c */
int input_next(Input *input, nsec_t now, tg_event **ret); /* 0, NODE_E_NOTHING, NODE_E_AGAIN, negative errno */
void input_tell_place(Input *input, Source *source); /* where we run: after a message, or before the next one is waited for */
/* input_take_usual() - the next message of node->usual. @told: where we run was told before. NULL: there is none, or more than that is to be done, and
 * node->usual is NULL, too: ask input_next() */
tg_event *input_take_usual(Input *input, Source *source, bool told);
size_t input_more(Input *input, tg_event **events, size_t n); /* after input_next() gave a message, in node->gathers: those behind it */
void input_show(Input *input);                            /* after node->gathers, before anything is waited for */
bool input_ready(const Input *input);                     /* SC look before a sleep */
void input_drain(Input *input);                           /* what is there now is the last */

void input_count(Input *input, const RingReader *r);      /* adds what the reader counted to what stays */
void input_stats(const Input *input, struct tg_input_stats *ret);

/* timers.c */
int timer_next(Input *input, nsec_t now, tg_event **ret);
void timers_arm(tg_node *node);

/* event.c */
tg_event *event_alloc(tg_node *node); /* one more, as by event_get() */

/* An event of which only the node is set; NULL: out of memory. Kept for reuse, so that steady work allocates nothing. */
static inline tg_event *event_get(tg_node *node)
{
        tg_event *event = node->spare_events;

        if (!event)
                return event_alloc(node);
        node->spare_events = event->next_spare;
        node->n_spare_events--;
        return event;
}

/* Gives back one that holds nothing. */
static inline void event_put(tg_node *node, tg_event *event)
{
        event->next_spare = node->spare_events;
        node->spare_events = event;
        node->n_spare_events++;
}

tg_event *event_new(tg_node *node); /* an empty one. NULL: out of memory. Who delivers it counts it in n_events_out */
int event_new_text(tg_node *node, tg_event_kind kind, const char *id, const char *text, tg_event **ret);
int event_queue(tg_node *node, tg_event_kind kind, const char *id, const char *text);
void event_drop(tg_event *event); /* gives back all but the reference to the node */
void event_expect(tg_node *node, size_t n); /* so many will be in use at once: as many are kept for that */
void event_queue_stop(tg_node *node, const char *cause);

/* wait.c */
int node_wait(tg_node *node, uint32_t pulse, nsec_t deadline); /* under node->lock, which it gives up meanwhile */
int node_wait_usual(tg_node *node); /* the same for node->usual while node_usual_waits(), without an end */
bool node_usual_waits(const tg_node *node);
void node_empty_doorbells(tg_node *node); /* if that is due and nobody polls; changes the pulse. By who has found nothing and has not announced it */
void node_look_around(tg_node *node); /* the same without waiting: takes what poll has to say */
void node_pulse(tg_node *node);

/* outputs.c */
void output_close(Output *output);
void output_count_peers(Output *output);
void output_tell(Output *output); /* under output->lock: rings whoever sleeps */

#endif
