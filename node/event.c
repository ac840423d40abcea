/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Events: made, queued, read and given back. An event holds its node, and its source while it points into shared
 * memory, so what it shows stays until it is freed, also after tg_node_close().
 */
#include <errno.h>
#include <string.h>

#include "base/hot.h"
#include "node/node-internal.h"

#define MIN_SPARE_EVENTS 16u
#define MAX_SPARE_EVENTS 256u /* 112 KiB */

void event_expect(tg_node *node, size_t n)
{
        node->max_spare_events = MAX(node->max_spare_events, (unsigned)MIN(n, (size_t)MAX_SPARE_EVENTS));
}

tg_event *event_alloc(tg_node *node)
{
        tg_event *event = aligned_alloc(64, (sizeof(*event) + 63) / 64 * 64); /* for inline payloads, which lie in the event itself */

        if (event)
                event->node = node;
        return event;
}

tg_event *event_new(tg_node *node)
{
        tg_event *event = event_get(node);

        if (!event)
                return NULL;
        event->message.must_copy = false;
        event->message.d.meta_len = 0;
        event->message.index = 0;
        event->kind = 0;
        event->claim = -1;
        event->id = NULL;
        event->data = NULL;
        event->size = 0;
        event->params = NULL;
        event->source = NULL;
        event->owned = NULL;
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
        event->message.d.time_ns = clock_now();
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
        node->usual = NULL;
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
        if (event->params)
                event->params = params_free(event->params);
        if (event->owned)
                free(event->owned);
        if (node->closed || node->n_spare_events >= MAX(node->max_spare_events, MIN_SPARE_EVENTS))
                free(event);
        else
                event_put(node, event);
}

/* In a forked child: only what is this process's own, for the cursor is not mapped here. */
static void event_forget(tg_event *event)
{
        event->params = params_free(event->params);
        free(event->owned);
        free(event);
}

/* Frees those of one node, from events[0] on, with one lock. Return: how many were done. */
static size_t events_free(tg_event *const *events, size_t n)
{
        tg_node *node = events[0]->node;
        size_t done = 0;
        bool last;

        if (node_forked(node)) {
                event_forget(events[0]);
                return 1;
        }
        lock_take(&node->lock);
        while (done < n && events[done] && events[done]->node == node)
                event_drop(events[done++]);
        node->n_events_out -= (uint32_t)done;
        last = node->n_events_out == 0 && node->closed;
        lock_give(&node->lock);
        if (last)
                (void)node_unref(node);
        return done;
}

HOT void tg_events_free(tg_event *const *events, size_t n)
{
        for (size_t i = 0; i < n;)
                i += events[i] ? events_free(events + i, n - i) : 1;
}

HOT tg_event *tg_event_free(tg_event *ev)
{
        if (ev)
                (void)events_free(&ev, 1);
        return NULL;
}

HOT tg_event_kind tg_event_type(const tg_event *ev)
{
        return ev->kind;
}

const char *tg_event_id(const tg_event *ev)
{
        return ev->id;
}

HOT const void *tg_event_data(const tg_event *ev)
{
        return ev->data;
}

HOT size_t tg_event_size(const tg_event *ev)
{
        return ev->size;
}

uint64_t tg_event_seq(const tg_event *ev)
{
        return ev->message.index;
}

uint64_t tg_event_time_ns(const tg_event *ev)
{
        return ev->message.d.time_ns;
}

const tg_params *tg_event_params(const tg_event *ev)
{
        return ev->params;
}
