/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sending. A sender has the output's turn from beginning to end, so one at a time writes a message, waits for room or
 * holds the room word; output->lock is taken only around the ring itself, because the thread that leads must be able to
 * attach and detach consumers while a sender waits: that is how the death of a slow consumer ends the wait.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "base/hot.h"
#include "node/copy.h"
#include "node/node-internal.h"

#define BATCH_LOCKED     64  /* messages of a batch before the output's lock is offered to others */
#define VIOLATION_STRIDE 256 /* messages; cursors are judged by the ring, and asked for here now and then */

typedef struct Send {
        Output *output;
        nsec_t deadline;
        nsec_t now; /* 0: has to be read again */
        const void *payload;
        size_t size;
        const tg_params *params;
        size_t meta_size;
        PoolChunk chunk; /* filled already, when it is one */
        bool suspicious; /* a good time to ask for broken cursors */
} Send;

/* As strcmp() == 0: names are short, and that function's lines would be for this alone. */
static inline bool same_name(const char *a, const char *b)
{
        while (*a && *a == *b)
                a++, b++;
        return *a == *b;
}

static Output *output_find(tg_node *node, const char *name)
{
        for (unsigned i = 0; i < node->n_outputs; i++)
                if (same_name(node->outputs[i].id, name))
                        return &node->outputs[i];
        return NULL;
}

static size_t round8(size_t n)
{
        return (n + 7) & ~(size_t)7;
}

void output_tell(Output *output)
{
        for (unsigned i = 0; i < output->n_peers; i++)
                if (bell_peer_must_ring(&output->peers[i]->bell, LOCK_ALONE))
                        peer_send(output->node, output->peers[i]);
}

/* What was published becomes visible, and whoever sleeps is woken once for all of it. With output->lock. */
static HOT void flush(Output *output)
{
        if (ring_writer_flush(output->writer)) {
                output_tell(output);
                ring_writer_tidy(output->writer);
        }
        ring_writer_set_cpu(output->writer, sched_getcpu()); /* not before: somebody waits for the message */
}

static bool has_room_now(int r)
{
        return r != RING_E_FULL && r != POOL_E_HELD;
}

/* Tells the supervisor of consumers whose cursors hold what no honest one stores. No lock held. */
static void report_violations(Output *output)
{
        tg_node *node = output->node;
        uint32_t id;
        OutLink *link, *next;

        lock_take(&node->lock);
        lock_take(&output->lock);
        while (ring_writer_take_violation(output->writer, &id))
                list_for_each(link, next, &output->links, link)
                        if (link->id == id)
                                (void)links_violation(node, id, link->generation, "the consumer's cursor broke the protocol");
        lock_give(&output->lock);
        lock_give(&node->lock);
}

/* Announces what we wait for, under output->lock. 0: look again. Else why there is no room. */
static int announce(Output *output, size_t chunk_size)
{
        int r;

        node_count_announced(output->node);
        r = ring_writer_arm(output->writer, 1, chunk_size, NULL);
        flush(output);
        return r;
}

static bool has_stopped(Output *output)
{
        OutLink *link, *next;
        bool any = false;

        list_for_each(link, next, &output->links, link) {
                link->stopped = link->policy == RING_BACKPRESSURE && !link->restartable && !link->let_go &&
                        ring_writer_has_stopped(output->writer, link->id);
                any |= link->stopped;
        }
        return any;
}

/*
 * A consumer that has closed its node gates on until we have looked whether another one is to take its place: a restart
 * is told to us before the consumer is asked to end, but its cursor is quicker than our socket. With output->lock, which
 * is given up meanwhile. True: somebody gates no more.
 */
static bool let_go_of_stopped(Output *output)
{
        tg_node *node = output->node;
        OutLink *link, *next;
        bool any = false;

        if (!has_stopped(output))
                return false;
        lock_give(&output->lock);
        lock_take(&node->lock);
        (void)socket_read(node); /* running: trouble became an event */
        lock_take(&output->lock);
        lock_give(&node->lock);
        list_for_each(link, next, &output->links, link) {
                if (!link->stopped || link->restartable)
                        continue;
                link->let_go = true;
                ring_writer_set_lasting(output->writer, link->id, false);
                any = true;
        }
        return any;
}

/* Looks for room for as long as that may be worth it. With the turn and output->lock. True: there is some. */
static bool look_for_room(Output *output, size_t chunk_size, nsec_t began, nsec_t deadline)
{
        tg_node *node = output->node;
        nsec_t until = MIN(deadline, began + spin_window(&node->cost)), last = began, now;

        for (;;) {
                for (unsigned i = 0; i < SPIN_LOOKS; i++) {
                        if (has_room_now(ring_writer_look(output->writer, 1, chunk_size, NULL)))
                                return true;
                        spin_relax();
                }
                now = clock_now();
                if (now >= until || spin_stolen(&output->spin, last, now) || node_told_to_stop(node))
                        return false;
                if (lock_is_wanted(&output->lock)) {
                        lock_give(&output->lock);
                        lock_take(&output->lock);
                        if (output->closed)
                                return true;
                }
                last = now;
        }
}

/* True: there may be room. */
static bool stay_awake(Output *output, size_t chunk_size, nsec_t now, nsec_t deadline)
{
        tg_node *node = output->node;

        if (node->wait_mode == NODE_WAIT_BLOCK || ring_writer_shares_cpu(output->writer, sched_getcpu()))
                return false;
        if (!spin_worth_it(&output->spin, &node->cost, now))
                return false;
        if (look_for_room(output, chunk_size, now, deadline)) {
                spin_arrived(&output->spin, &node->cost, 0, true);
                return true;
        }
        spin_missed(&output->spin);
        return false;
}

/*
 * Waits until there may be room for one message with a chunk of @chunk_size bytes (0: none). Called with the turn and
 * output->lock, which is given up meanwhile. Whoever waits also does what a leader does, so consumers that come and go
 * and a stop are seen here too; the short timer is for what nobody rings for. A consumer that is dead and may be
 * followed by another is waited for as long as the supervisor has not decided, see protocol/node_msg.h.
 *
 * Return: 0 (try again), TG_E_TIMEOUT, TG_E_STOPPING, -EINTR.
 */
static int wait_room(Send *send, size_t chunk_size)
{
        Output *output = send->output;
        tg_node *node = output->node;
        uint32_t pulse = __atomic_load_n(&node->pulse, __ATOMIC_ACQUIRE);
        nsec_t now = clock_now();
        int r;

        send->now = 0;
        send->suspicious = true;
        flush(output);
        if (let_go_of_stopped(output) || stay_awake(output, chunk_size, now, send->deadline))
                return 0;
        if (has_room_now(announce(output, chunk_size)))
                return 0;
        if (node_told_to_stop(node))
                r = TG_E_STOPPING;
        else if (now >= send->deadline)
                r = TG_E_TIMEOUT; /* the look that announcing ends with was the last one */
        else {
                lock_give(&output->lock);
                lock_take(&node->lock);
                r = node_wait(node, pulse, MIN(send->deadline, nsec_add(now, node->relook_span)));
                spin_arrived(&output->spin, &node->cost, clock_now() - now > 2 * spin_window(&node->cost) ? NSEC_NEVER : 0, false);
                links_look_for_verdicts(node); /* whoever leads may sleep for long */
                lock_give(&node->lock);
                lock_take(&output->lock);
        }
        ring_writer_disarm(output->writer);
        return r;
}

/* No chunk, and only links that may lose messages hold them. Some of those may be dead without our knowing. */
static void look_for_the_dead(Output *output)
{
        tg_node *node = output->node;

        lock_give(&output->lock);
        lock_take(&node->lock);
        node_look_around(node);
        lock_give(&node->lock);
        lock_take(&output->lock);
}

/* A message that wants a larger pool, and nobody has said yet whether there will be one. */
static int too_late(Send *send)
{
        if (node_told_to_stop(send->output->node))
                return TG_E_STOPPING;
        if (send->output->n_backpressure)
                return TG_E_TIMEOUT; /* backpressure never drops */
        ring_writer_count_refused(send->output->writer);
        return TG_E_DROPPED;
}

/* One that can never fit. With output->lock, which is given up meanwhile. */
static int refuse(Send *send, size_t size)
{
        Output *output = send->output;

        lock_give(&output->lock);
        grow_tell(output, size);
        lock_take(&output->lock);
        return error_origin(-EMSGSIZE);
}

/*
 * A chunk without giving up what a consumer may still read: from a larger pool if need be, which is waited for once. With output->lock,
 * which is given up meanwhile. 0, what the last attempt said, -EINTR.
 */
static int take_chunk_gently(Send *send, size_t size, PoolChunk *ret)
{
        Output *output = send->output;

        for (;;) {
                int r = ring_writer_alloc_gently(output->writer, size, ret);
                bool needed = r == POOL_E_TOO_LARGE;
                int grew;
                nsec_t span = needed && output->n_backpressure ? NSEC_NEVER : output->node->grow_span;

                if (r == 0 || output->closed || !grow_may(output, size) || (output->grow_late && !(needed && output->n_backpressure)))
                        return r;
                flush(output); /* of a batch, what was written so far */
                lock_give(&output->lock);
                grew = grow_wait(output, size, span, send->deadline);
                lock_take(&output->lock);
                send->now = 0; /* a message's time is when it was published */
                if (grew <= 0)
                        return grew < 0 ? grew : r;
        }
}

/* A chunk for @size bytes, with output->lock. */
static HOT int take_chunk(Send *send, size_t size, PoolChunk *ret)
{
        Output *output = send->output;
        bool looked = false;

        if (!output->closed && grow_may(output, size)) {
                int r = take_chunk_gently(send, size, ret);

                if (r <= 0)
                        return r;
        }
        for (;;) {
                int r = output->closed ? RING_E_CLOSED : ring_writer_alloc(output->writer, size, ret, NULL);

                switch (r) {
                case 0:
                        return 0;
                case RING_E_CLOSED:
                        return TG_E_CLOSED;
                case POOL_E_TOO_LARGE:
                        return output->grow_late ? too_late(send) : refuse(send, size);
                case POOL_E_HELD:
                        if (output->n_backpressure) {
                                r = wait_room(send, size);
                                if (r)
                                        return r;
                                continue;
                        }
                        if (!looked) {
                                look_for_the_dead(output);
                                looked = true;
                                continue;
                        }
                        ring_writer_count_refused(output->writer);
                        return TG_E_DROPPED;
                default: /* POOL_E_FULL: all of them are samples that this node has not sent */
                        ring_writer_count_refused(output->writer);
                        return TG_E_DROPPED;
                }
        }
}

/* Publishes, with output->lock; waits for room. Nobody sees it before flush(), which a wait begins with. */
static HOT int publish(Send *send, PoolChunk *chunk, const void *meta)
{
        Output *output = send->output;
        RingPost post = {
                .payload = send->payload,
                .payload_len = (uint32_t)send->size,
                .meta = meta,
                .meta_len = (uint32_t)send->meta_size,
        };

        for (;;) {
                int r;

                if (!send->now)
                        send->now = clock_now();
                post.time_ns = send->now;
                r = ring_writer_publish(output->writer, &post, chunk, NULL);
                if (r == RING_E_FULL)
                        r = wait_room(send, 0);
                else if (r == RING_E_CLOSED)
                        return TG_E_CLOSED;
                else if (r)
                        return error_fold(r);
                else {
                        send->suspicious |= ring_writer_head(output->writer) % VIOLATION_STRIDE == 0;
                        return 0;
                }
                if (r)
                        return r;
        }
}

/* These two with the turn and output->lock. */
static int send_inline(Send *send)
{
        uint64_t meta[RING_INLINE_MAX / 8];

        if (send->meta_size)
                (void)params_encode(send->params, meta, sizeof(meta)); /* its size was asked for */
        return publish(send, NULL, meta);
}

/* With the turn. */
static void copy_in(Send *send, const PoolChunk *chunk)
{
        Output *output = send->output;
        bool cold = false;

        if (send->size >= COPY_COLD_MIN) {
                nsec_t now = send->now ? send->now : clock_now(), before = output->copied_at;

                cold = copy_is_cold(send->size, now > before ? now - before : 0); /* who had the turn before us may have looked later */
                output->copied_at = now;
        }
        copy_payload(chunk->data, send->payload, send->size, cold);
}

/* The payload is copied without output->lock: nobody sees the chunk yet, and the turn keeps other senders away. */
static int send_pooled(Send *send)
{
        Output *output = send->output;
        PoolChunk chunk = send->chunk;
        size_t need = send->meta_size ? round8(send->size) + send->meta_size : send->size;
        bool copies = !chunk.data || chunk.capacity < need;
        int r;

        if (copies) {
                r = take_chunk(send, need, &chunk);
                if (r)
                        return r;
                lock_give(&output->lock);
                copy_in(send, &chunk);
        } else
                lock_give(&output->lock);
        if (send->meta_size)
                (void)params_encode(send->params, (uint8_t *)chunk.data + round8(send->size), send->meta_size);
        lock_take(&output->lock);
        r = publish(send, &chunk, NULL);
        if (copies)
                ring_writer_give_back(output->writer, &chunk); /* nothing when it was published */
        else
                send->chunk = chunk; /* nothing, likewise: it is not the caller's any more, and may be another's by now */
        return r;
}

static bool fits_inline(size_t size, size_t meta_size)
{
        return size <= RING_INLINE_MAX && (meta_size ? round8(size) + meta_size : size) <= RING_INLINE_MAX;
}

/* A node that only sends hears of new and gone consumers here. */
static void glance(tg_node *node, nsec_t now)
{
        if (!socket_worth_a_glance(node, now) || !lock_try(&node->lock))
                return; /* taken: whoever has it looks */
        socket_glance(node);
        lock_give(&node->lock);
}

static HOT int take_turn(Send *send)
{
        tg_node *node = send->output->node;
        int64_t timeout_ns = __atomic_load_n(&node->send_timeout_ns, __ATOMIC_RELAXED);
        int r;

        send->now = clock_now();
        send->deadline = timeout_ns < 0 ? NSEC_NEVER : nsec_add(send->now, (uint64_t)timeout_ns);
        glance(node, send->now);
        r = lock_take_until(&send->output->turn, send->deadline);
        return r == -ETIMEDOUT ? TG_E_TIMEOUT : r;
}

/* For who needs no time: the clock is read only if there is something to wait for by it, or may be. */
static int take_turn_at_once(Send *send)
{
        if (__atomic_load_n(&send->output->node->send_timeout_ns, __ATOMIC_RELAXED) >= 0 || !lock_try(&send->output->turn))
                return take_turn(send);
        send->deadline = NSEC_NEVER;
        return 0;
}

static HOT int send_any(Send *send)
{
        return !send->chunk.data && fits_inline(send->size, send->meta_size) ? send_inline(send) : send_pooled(send);
}

/*
 * The usual case, with one lock instead of two: a small message without metadata, nobody has the turn, and there is room. Who has the turn took
 * it before output->lock, so whoever waits for room, or copies into a chunk, is seen here. False: the long way.
 */
static INLINE bool send_at_once(Output *output, const void *payload, size_t size)
{
        tg_node *node = output->node;
        nsec_t now = clock_now();
        bool done, suspicious;

        glance(node, now);
        lock_take(&output->lock);
        done = lock_is_free(&output->turn) && ring_writer_publish_small(output->writer, payload, (uint32_t)size, now);
        if (done) {
                output_tell(output);
                ring_writer_tidy(output->writer);
                ring_writer_set_cpu(output->writer, sched_getcpu()); /* not before: somebody waits for the message */
        }
        suspicious = ring_writer_head(output->writer) % VIOLATION_STRIDE == 0;
        lock_give(&output->lock);
        if (done && suspicious)
                report_violations(output);
        return done;
}

static HOT int send_one(Send *send)
{
        int r;

        if (send->size > UINT32_MAX)
                return error_origin(-EMSGSIZE);
        send->meta_size = params_encoded_size(send->params);
        r = take_turn(send);
        if (r)
                return r;
        lock_take(&send->output->lock);
        r = send_any(send);
        flush(send->output);
        lock_give(&send->output->lock);
        if (send->suspicious)
                report_violations(send->output);
        lock_give(&send->output->turn);
        return r;
}

HOT int tg_send(tg_node *node, const char *output, const void *data, size_t size, const tg_params *params)
{
        Output *to;

        if (node_forked(node))
                return -EOWNERDEAD;
        if (!data && size)
                return error_origin(-EINVAL);
        to = output_find(node, output);
        if (!to)
                return TG_E_NO_OUTPUT;
        if (!params && size <= RING_INLINE_MAX && send_at_once(to, data, size))
                return 0;
        return send_one(&(Send){.output = to, .payload = data, .size = size, .params = params});
}

/* -------- several messages at once -------- */

static int check_messages(const tg_message *messages, size_t n)
{
        for (size_t i = 0; i < n; i++) {
                if (!messages[i].data && messages[i].size)
                        return error_origin(-EINVAL);
                if (messages[i].size > UINT32_MAX)
                        return error_origin(-EMSGSIZE);
        }
        return 0;
}

/* With the turn. The lock is given up now and then, for the thread that attaches and detaches consumers. */
static int send_all(Send *send, const tg_message *messages, size_t n, size_t *n_sent)
{
        Output *output = send->output;
        int r = 0;

        lock_take(&output->lock);
        while (*n_sent < n && r == 0) {
                const tg_message *m = &messages[*n_sent];

                send->payload = m->data;
                send->size = m->size;
                send->params = m->params;
                send->meta_size = params_encoded_size(m->params);
                r = send_any(send);
                if (r)
                        break;
                if (++*n_sent % BATCH_LOCKED == 0) {
                        lock_give(&output->lock);
                        lock_take(&output->lock);
                }
        }
        flush(output);
        lock_give(&output->lock);
        return r;
}

HOT int tg_send_batch(tg_node *node, const char *output, const tg_message *messages, size_t n, size_t *ret_n_sent)
{
        Send send = {};
        size_t n_sent = 0;
        int r;

        if (ret_n_sent)
                *ret_n_sent = 0;
        if (node_forked(node))
                return -EOWNERDEAD;
        send.output = output_find(node, output);
        if (!send.output)
                return TG_E_NO_OUTPUT;
        r = check_messages(messages, n);
        if (r || n == 0)
                return r;
        r = take_turn(&send);
        if (r)
                return r;
        r = send_all(&send, messages, n, &n_sent);
        if (send.suspicious)
                report_violations(send.output);
        lock_give(&send.output->turn);
        if (ret_n_sent)
                *ret_n_sent = n_sent;
        return r;
}

/* -------- messages written in place -------- */

/* One sample is kept for reuse, as events are, so that steady work allocates nothing: aligned memory is dear to get. */
static tg_sample *sample_new(tg_node *node)
{
        tg_sample *sample = __atomic_exchange_n(&node->spare_sample, NULL, __ATOMIC_ACQUIRE); /* acquire, release: its last owner has done with it */

        return sample ? sample : aligned_alloc(64, sizeof(*sample));
}

static void sample_drop(tg_node *node, tg_sample *sample)
{
        free(__atomic_exchange_n(&node->spare_sample, sample, __ATOMIC_ACQ_REL));
}

HOT int tg_alloc(tg_node *node, const char *output, size_t size, tg_sample **ret)
{
        _cleanup_free_ tg_sample *sample = NULL;
        Send send = {};
        int r;

        if (node_forked(node))
                return -EOWNERDEAD;
        send.output = output_find(node, output);
        if (!send.output)
                return TG_E_NO_OUTPUT;
        sample = sample_new(node);
        if (!sample)
                return error_origin(-ENOMEM);
        sample->output = send.output;
        sample->size = size;
        sample->chunk = POOL_CHUNK_INIT;
        if (__atomic_load_n(&send.output->closed, __ATOMIC_RELAXED))
                return TG_E_CLOSED;
        if (size > RING_INLINE_MAX) {
                r = take_turn_at_once(&send);
                if (r)
                        return r;
                lock_take(&send.output->lock);
                r = take_chunk(&send, size, &sample->chunk);
                lock_give(&send.output->lock);
                lock_give(&send.output->turn);
                if (r)
                        return r;
        }
        node_ref(node);
        *ret = TAKE_PTR(sample);
        return 0;
}

HOT void *tg_sample_data(tg_sample *sample)
{
        return sample->chunk.data ? sample->chunk.data : sample->bytes;
}

size_t tg_sample_size(const tg_sample *sample)
{
        return sample->size;
}

HOT tg_sample *tg_sample_free(tg_sample *sample)
{
        tg_node *node;

        if (!sample)
                return NULL;
        node = sample->output->node;
        if (node_forked(node)) {
                free(sample);
                return NULL;
        }
        if (sample->chunk.data) {
                lock_take(&sample->output->lock);
                ring_writer_give_back(sample->output->writer, &sample->chunk);
                lock_give(&sample->output->lock);
        }
        sample_drop(node, sample);
        (void)node_unref(node);
        return NULL;
}

HOT int tg_send_sample(tg_sample *sample, const tg_params *params)
{
        Send send = {.output = sample->output, .size = sample->size, .params = params};
        int r;

        if (node_forked(sample->output->node)) {
                (void)tg_sample_free(sample);
                return -EOWNERDEAD;
        }
        send.payload = tg_sample_data(sample);
        send.chunk = sample->chunk;
        r = !send.chunk.data && !params && send_at_once(send.output, send.payload, send.size) ? 0 : send_one(&send);
        sample->chunk = send.chunk; /* empty when it was published */
        if (r != TG_E_TIMEOUT && r != -EINTR) /* else the caller may try again */
                (void)tg_sample_free(sample);
        return r;
}

void tg_set_send_timeout(tg_node *node, int64_t timeout_ns)
{
        __atomic_store_n(&node->send_timeout_ns, timeout_ns, __ATOMIC_RELAXED);
}

/* -------- the end of an output -------- */

void output_close(Output *output)
{
        lock_take(&output->lock);
        if (!output->closed) {
                __atomic_store_n(&output->closed, true, __ATOMIC_RELAXED);
                ring_writer_close(output->writer);
                output_tell(output);
        }
        lock_give(&output->lock);
}

int tg_close_outputs(tg_node *node, const char *const *outputs, size_t n_outputs)
{
        int r = 0;

        if (node_forked(node))
                return -EOWNERDEAD;
        for (size_t i = 0; i < n_outputs; i++)
                if (!output_find(node, outputs[i]))
                        return TG_E_NO_OUTPUT;
        lock_take(&node->lock);
        for (size_t i = 0; i < n_outputs && r == 0; i++) {
                Output *output = output_find(node, outputs[i]);

                if (output->closed)
                        continue;
                output_close(output);
                r = socket_send(node, &(NodeMsg){
                        .type = NODE_MSG_CLOSE_OUTPUT,
                        .close_output = {.output = (uint32_t)(output - node->outputs)},
                });
        }
        node_pulse(node); /* a sender that waits there learns of it */
        lock_give(&node->lock);
        return r;
}
