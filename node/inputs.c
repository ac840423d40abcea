/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One input's turn: the next message of its ring, or the news that there will be none. All under node->lock.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "base/hot.h"
#include "node/node-internal.h"

/* A source is read to its final head first; only then does an input close or a restarted producer take over. */
static bool input_finished(const Input *input)
{
        if (input->closed || input->old)
                return false;
        if (input->now && !input->now->ended)
                return false;
        /* The supervisor says which end is final. Without one, every end is, unless one may come back and say more. */
        return input->closing || (input->now && input->node->fd < 0 && !socket_is_awaited(input->node));
}

static int input_close(Input *input, tg_event **ret)
{
        int r;

        if (!input->said_closed) { /* a timeout may have said it already */
                r = event_new_text(input->node, TG_EVENT_INPUT_CLOSED, input->id, NULL, ret);
                if (r)
                        return r;
        }
        input_retire(input->node, input, &input->now);
        input->closed = true;
        input->timeout_at = NSEC_NEVER;
        input->node->n_open_in--;
        if (input->said_closed)
                return NODE_E_NOTHING;
        input->said_closed = true;
        return 0;
}

/* The link's producer broke the protocol: nothing of it is believed any more, and the supervisor is told. */
static int input_break(Input *input, Source *source)
{
        bool ring;

        (void)ring_reader_discard(&source->reader, DROP_INVALID, &ring);
        if (!source->accused)
                (void)links_violation(input->node, input->link, input->generation, "the producer's ring broke the protocol");
        source->ended = true;
        if (source == input->now)
                input->closing = true; /* a new producer opens it again */
        return NODE_E_AGAIN;
}

/*
 * We cannot go on with the link, and nobody else is to blame: as above, but that the supervisor is told so. The producer's next incarnation, which
 * begins with a pool that has not grown, opens it again.
 */
static int input_leave(Input *input, Source *source, const char *text)
{
        bool ring;

        (void)ring_reader_discard(&source->reader, DROP_POOL, &ring);
        (void)socket_send(input->node, &(NodeMsg){
                .type = NODE_MSG_LINK_LEFT,
                .link_left = {.link = input->link, .generation = input->generation, .text = text},
        });
        source->ended = true;
        input->closing = true;
        return NODE_E_AGAIN;
}

/* One message is refused, and the next may be good: told the first time, then whenever their number has doubled. */
static void input_accuse(Input *input, Source *source, const char *text)
{
        source->n_invalid++;
        if ((source->n_invalid & (source->n_invalid - 1)) == 0)
                (void)links_violation(input->node, input->link, input->generation, text);
}

/* Payload and metadata in private memory: the claim it came with is needed for the next message. */
static int event_copy_out(tg_event *event)
{
        RingMessage *m = &event->message;
        size_t size = m->d.payload_len;
        void *copy;

        copy = aligned_alloc(64, (size + 63) / 64 * 64 + 64);
        if (!copy)
                return error_origin(-ENOMEM);
        memcpy(copy, m->payload, size);
        event->owned = copy;
        event->data = copy;
        return 0;
}

/* Metadata is copied first, then read: it is the producer's memory. */
static int event_take_params(tg_event *event)
{
        const RingMessage *m = &event->message;
        _cleanup_free_ void *copy = NULL;
        uint32_t size = m->d.meta_len;

        if (size == 0 || event->params)
                return 0;
        if (size > PARAMS_MAX)
                return -EPROTO;
        copy = malloc(size);
        if (!copy)
                return error_origin(-ENOMEM);
        memcpy(copy, m->meta, size);
        return params_decode(&event->params, copy, size);
}

static void release_claim(tg_event *event)
{
        Source *source = event->source;

        if (event->claim >= 0 && ring_reader_release(&source->reader, event->claim))
                peer_send(event->node, source->peer);
        event->claim = -1;
}

/* The part of taking that can want for memory; repeated at the next call if it does. */
static int event_complete_more(Input *input, tg_event *event)
{
        int r;

        r = event_take_params(event);
        if (r == -EPROTO) {
                input->past.delivered--; /* the reader counted it: what is wrong was none of its business */
                input->past.dropped_invalid++;
                input_accuse(input, event->source, "the metadata of a message does not decode");
                event_drop(event);
                return NODE_E_AGAIN;
        }
        if (r == 0 && event->message.must_copy && !event->owned && event->size > 0)
                r = event_copy_out(event);
        if (r)
                return r;
        if (event->message.must_copy)
                release_claim(event);
        return 0;
}

static inline int event_complete(Input *input, tg_event *event)
{
        return event->message.d.meta_len || event->message.must_copy ? event_complete_more(input, event) : 0;
}

static inline int event_fill(Input *input, Source *source, tg_event *event)
{
        const RingMessage *m = &event->message;

        event->kind = TG_EVENT_INPUT;
        event->id = input->id;
        event->size = m->d.payload_len;
        event->data = event->size ? m->payload : NULL;
        event->source = source;
        event->claim = m->claim;
        event->params = NULL;
        event->owned = NULL;
        source->n_refs++;
        return event_complete(input, event);
}

/* Nothing more is in the socket, and somebody is there who would have put it in. */
static bool socket_is_read(const tg_node *node)
{
        return node->fd >= 0 && list_empty(&node->packets);
}

/*
 * The next message lies in a segment that we have not been told of. The supervisor tells each consumer before the producer may use it,
 * so it is in our socket; unless that was lost, then it comes with the next supervisor.
 */
static int source_lacks_segment(Input *input, Source *source)
{
        tg_node *node = input->node;
        unsigned n = source->n_grown;
        bool ring;

        source->lacks_segment = true; /* until it is told */
        (void)socket_read(node);
        if (source != input->now && source != input->old)
                return NODE_E_AGAIN; /* and it is not there any more */
        if (source->n_grown != n)
                return NODE_E_AGAIN;
        if (source == input->now && input->short_of_memory == input->generation) {
                if (input->policy == RING_BACKPRESSURE)
                        return input_leave(input, source, "it has no memory for a segment that the producer's pool has grown by"); /* nothing of it may be dropped */
        } else if (socket_is_read(node))
                return input_break(input, source);
        else if (node->fd >= 0 || socket_is_awaited(node))
                return NODE_E_NOTHING;
        ring_reader_skip(&source->reader, DROP_POOL, &ring); /* nobody will ever tell us */
        source->lacks_segment = false;
        if (ring)
                peer_send(node, source->peer);
        return NODE_E_AGAIN;
}

HOT void input_tell_place(Input *input, Source *source)
{
        if (input->policy == RING_BACKPRESSURE)
                ring_reader_set_cpu(&source->reader, sched_getcpu()); /* its producer may wait for room */
}

/* What others may want to know of us, once a message was taken. */
static inline void source_tell(Input *input, Source *source)
{
        tg_node *node = input->node;

        if (!node->gathers)
                input_tell_place(input, source);
        if (node->woke) {
                ring_reader_count_wake(&source->reader);
                node->woke = false;
        }
}

/* Takes one message. What was taken but could not be completed waits in `pending`. */
static inline int source_take(Input *input, Source *source, tg_event **ret)
{
        tg_node *node = input->node;
        tg_event *event;
        bool ring;
        int r;

        event = event_get(node);
        if (!event)
                return error_origin(-ENOMEM);
        r = node->gathers ? ring_reader_take_more(&source->reader, &event->message, &ring)
                          : ring_reader_take(&source->reader, &event->message, &ring);
        if (ring)
                peer_send(node, source->peer);
        if (r) {
                event_put(node, event);
                switch (r) {
                case RING_E_EMPTY:
                        return NODE_E_NOTHING;
                case RING_E_END:
                        source->ended = true;
                        return NODE_E_AGAIN;
                case RING_E_SEGMENT:
                        return source_lacks_segment(input, source);
                case RING_E_VIOLATION:
                        return input_break(input, source);
                case RING_E_INVALID:
                        input_accuse(input, source, "a message names bytes that do not exist");
                        return NODE_E_AGAIN;
                default:
                        return NODE_E_AGAIN;
                }
        }
        source_tell(input, source);
        r = event_fill(input, source, event);
        if (r == NODE_E_AGAIN)
                return r;
        if (r < 0) {
                input->pending = event;
                return r;
        }
        *ret = event;
        return 0;
}

/* One that is large, or has metadata, or comes behind some that are lost: as input_next() would now. It stands apart, or small ones paid for it. */
static HOT __attribute__((noinline)) tg_event *take_other(Input *input, Source *source)
{
        tg_event *event = NULL;

        if (source_take(input, source, &event) == 0)
                return event;
        input->node->usual = NULL;
        return NULL;
}

HOT tg_event *input_take_usual(Input *input, Source *source, bool told)
{
        tg_node *node = input->node;
        tg_event *event = node->spare_events;
        bool ring;

        if (!event || !ring_reader_take_small(&source->reader, &event->message, &ring))
                return ring_reader_ready(&source->reader) ? take_other(input, source) : NULL;
        (void)event_get(node); /* that one */
        if (ring)
                peer_send(node, source->peer);
        if (!told)
                source_tell(input, source);
        (void)event_fill(input, source, event); /* whole as it is */
        return event;
}

static int input_pending(Input *input, tg_event **ret)
{
        int r;

        r = event_complete(input, input->pending);
        if (r == NODE_E_AGAIN)
                input->pending = NULL; /* dropped */
        if (r)
                return r;
        *ret = TAKE_PTR(input->pending);
        return 0;
}

/* Nothing is there: has it been so for too long? The first message arms. */
static int input_timed_out(Input *input, nsec_t now, tg_event **ret)
{
        int r;

        if (input->timeout_at == NSEC_NEVER || now < input->timeout_at)
                return NODE_E_NOTHING;
        r = event_new_text(input->node, TG_EVENT_INPUT_CLOSED, input->id, NULL, ret);
        if (r)
                return r;
        input->timeout_at = NSEC_NEVER;
        input->said_closed = true;
        return 0;
}

/* A message is there again, after "closed". It is taken with the next call: what a reader has not been given must not be missing if it dies. */
static int input_recovered(Input *input, tg_event **ret)
{
        int r = event_new_text(input->node, TG_EVENT_INPUT_RECOVERED, input->id, NULL, ret);

        if (r == 0)
                input->said_closed = false;
        return r;
}

HOT int input_next(Input *input, nsec_t now, tg_event **ret)
{
        tg_node *node = input->node;
        Source *source;
        int r;

        if (input->timer_ns)
                return timer_next(input, now, ret);
        if (input->pending)
                r = input_pending(input, ret);
        else if (input->old && input->old->ended) {
                input_retire(node, input, &input->old);
                return NODE_E_AGAIN;
        } else if (input_finished(input) && !node->stopping)
                return input_close(input, ret);
        else {
                source = input->old ? input->old : input->now;
                if (!source || source->ended)
                        r = NODE_E_NOTHING;
                else if (input->said_closed && ring_reader_backlog(&source->reader) > 0)
                        r = input_recovered(input, ret);
                else
                        r = source_take(input, source, ret);
        }
        if (r == 0 && input->timeout_ns)
                input->timeout_at = nsec_add(now, input->timeout_ns);
        if (r == NODE_E_NOTHING && !node->stopping)
                return input_timed_out(input, now, ret);
        return r;
}

HOT size_t input_more(Input *input, tg_event **events, size_t n)
{
        Source *source = input->old ? input->old : input->now;
        size_t done = 0;

        if (input->timer_ns || input->pending || !source || source->ended || input->said_closed)
                return 0;
        while (done < n && source_take(input, source, &events[done]) == 0)
                done++;
        return done;
}

static void source_show(Input *input, Source *source)
{
        if (ring_reader_show(&source->reader))
                peer_send(input->node, source->peer);
        input_tell_place(input, source);
}

HOT void input_show(Input *input)
{
        if (input->old)
                source_show(input, input->old);
        if (input->now)
                source_show(input, input->now);
}

bool input_ready(const Input *input)
{
        const Source *source = input->old ? input->old : input->now;

        if (input->timer_ns)
                return false; /* the timer descriptor says so */
        if (input->pending || (input->old && input->old->ended))
                return true;
        if (input_finished(input))
                return !input->node->stopping;
        if (source && source->lacks_segment && !socket_is_read(input->node))
                return false; /* its socket says so */
        return source && !source->ended && ring_reader_ready(&source->reader);
}

void input_drain(Input *input)
{
        if (input->now)
                ring_reader_drain(&input->now->reader);
        input->timeout_at = NSEC_NEVER;
}

void input_count(Input *input, const RingReader *r)
{
        input->past.delivered += r->delivered;
        input->past.dropped_queue += r->dropped[DROP_WINDOW] + r->dropped[DROP_OVERRUN] + r->dropped[DROP_DISCARDED];
        input->past.dropped_pool += r->dropped[DROP_POOL];
        input->past.dropped_source += r->dropped[DROP_RESTARTED] + r->dropped[DROP_DEAD];
        input->past.dropped_invalid += r->dropped[DROP_TORN] + r->dropped[DROP_INVALID];
}

void input_stats(const Input *input, struct tg_input_stats *ret)
{
        Input sum = {.past = input->past};

        if (input->old)
                input_count(&sum, &input->old->reader);
        if (input->now)
                input_count(&sum, &input->now->reader);
        *ret = sum.past;
}
