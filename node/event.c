/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Events: made, queued, read and given back. An event holds its node, and its source while it points into shared
 * memory, so what it shows stays until it is freed, also after tg_node_close().
 */
#include <errno.h>
#include <string.h>

#include "node/node-internal.h"

#define MAX_SPARE_EVENTS 16u

/* Aligned for inline payloads, which lie in the event itself. Kept for reuse, so that steady work allocates nothing. */
tg_event *event_new(tg_node *node)
{
        tg_event *event = list_first(&node->spare_events, tg_event, link);

        if (event) {
                list_unlink(&event->link);
                node->n_spare_events--;
        } else {
                event = aligned_alloc(64, (sizeof(*event) + 63) / 64 * 64);
                if (!event)
                        return NULL;
        }
        /* Not the message: it is filled by the taker, and large. */
        memset((char *)event + sizeof(event->message), 0, sizeof(*event) - sizeof(event->message));
        list_init(&event->link);
        event->node = node;
        event->claim = -1;
        event->message.must_copy = false;
        event->message.d.meta_len = 0;
        return event;
}

int event_new_text(tg_node *node, tg_event_kind kind, const char *id, const char *text, tg_event **ret)
{
        size_t id_len = id ? strlen(id) : 0, text_len = text ? strlen(text) : 0;
        _cleanup_free_ char *bytes = NULL;
        tg_event *event;

        bytes = malloc(id_len + 1 + text_len + 1);
        event = bytes ? event_new(node) : NULL;
        if (!event)
                return error_origin(-ENOMEM);
        memcpy(bytes, id ? id : "", id_len + 1);
        memcpy(bytes + id_len + 1, text ? text : "", text_len + 1);
        event->kind = kind;
        event->id = bytes;
        event->data = text_len ? bytes + id_len + 1 : NULL;
        event->size = text_len;
        event->time_ns = clock_now();
        event->owned = TAKE_PTR(bytes);
        *ret = event;
        return 0;
}

int event_queue(tg_node *node, tg_event_kind kind, const char *id, const char *text)
{
        tg_event *event;
        int r;

        r = event_new_text(node, kind, id, text, &event);
        if (r)
                return r;
        list_append(&node->events, &event->link);
        return 0;
}

void event_queue_stop(tg_node *node, const char *cause)
{
        if (!node->stop_queued && event_queue(node, TG_EVENT_STOP, cause, NULL) == 0)
                node->stop_queued = true; /* no memory now: the flag on the control page asks again */
}

void event_drop(tg_event *event)
{
        tg_node *node = event->node;

        if (event->source) {
                if (event->claim >= 0 && ring_reader_release(&event->source->reader, event->claim))
                        peer_send(node, event->source->peer);
                event->source = source_unref(node, event->source);
        }
        event->params = params_free(event->params);
        free(event->owned);
        if (node->closed || node->n_spare_events >= MAX_SPARE_EVENTS) {
                free(event);
                return;
        }
        list_append(&node->spare_events, &event->link);
        node->n_spare_events++;
}

tg_event *tg_event_free(tg_event *ev)
{
        tg_node *node;
        bool last;

        if (!ev)
                return NULL;
        node = ev->node;
        if (node_forked(node)) { /* only what is this process's own: the cursor is not mapped here */
                ev->params = params_free(ev->params);
                free(ev->owned);
                free(ev);
                return NULL;
        }
        lock_take(&node->lock);
        event_drop(ev);
        last = --node->n_events_out == 0 && node->closed;
        lock_give(&node->lock);
        if (last)
                (void)node_unref(node);
        return NULL;
}

tg_event_kind tg_event_type(const tg_event *ev)
{
        return ev->kind;
}

const char *tg_event_id(const tg_event *ev)
{
        return ev->id;
}

const void *tg_event_data(const tg_event *ev)
{
        return ev->data;
}

size_t tg_event_size(const tg_event *ev)
{
        return ev->size;
}

uint64_t tg_event_seq(const tg_event *ev)
{
        return ev->seq;
}

uint64_t tg_event_time_ns(const tg_event *ev)
{
        return ev->time_ns;
}

const tg_params *tg_event_params(const tg_event *ev)
{
        return ev->params;
}
