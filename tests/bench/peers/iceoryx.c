/* SPDX-License-Identifier: Apache-2.0 */
/*
 * iceoryx 2 (the C++ one), by its C binding. Variants: "waitset" sleeps until there is a message, "poll" asks again and again. The
 * publisher waits for a slow subscriber. Needs RouDi.
 */
#include "peer.h"

#include <iceoryx_binding_c/publisher.h>
#include <iceoryx_binding_c/runtime.h>
#include <iceoryx_binding_c/subscriber.h>
#include <iceoryx_binding_c/wait_set.h>
#include <string.h>
#include <time.h>

static size_t size;
static bool polls;
static iox_pub_storage_t pub_storage;
static iox_sub_storage_t sub_storage;
static iox_ws_storage_t ws_storage;
static iox_pub_t pub;
static iox_sub_t sub;
static iox_ws_t ws;
static void *out;
static const void *in;

/* Until both directions are connected. */
static int connected(void)
{
        struct timespec pause = {.tv_nsec = 1000000};

        for (unsigned i = 0; i < 10000; i++) {
                if (iox_pub_has_subscribers(pub) && iox_sub_get_subscription_state(sub) == SubscribeState_SUBSCRIBED)
                        return 0;
                nanosleep(&pause, NULL);
        }
        return peer_fail("iceoryx", "the other side does not come");
}

int peer_open(const struct peer_spec *spec)
{
        static const char *const names[] = {"side0", "side1"};
        iox_pub_options_t pub_options;
        iox_sub_options_t sub_options;

        size = spec->size;
        polls = strcmp(spec->variant, "poll") == 0;
        iox_runtime_init(names[spec->side]);
        iox_pub_options_init(&pub_options);
        pub_options.subscriberTooSlowPolicy = ConsumerTooSlowPolicy_WAIT_FOR_CONSUMER;
        iox_sub_options_init(&sub_options);
        sub_options.queueCapacity = spec->queue;
        sub_options.queueFullPolicy = QueueFullPolicy_BLOCK_PRODUCER;
        pub = iox_pub_init(&pub_storage, "bench", "from", names[spec->side], &pub_options);
        sub = iox_sub_init(&sub_storage, "bench", "from", names[!spec->side], &sub_options);
        if (!polls) {
                ws = iox_ws_init(&ws_storage);
                if (iox_ws_attach_subscriber_state(ws, sub, SubscriberState_HAS_DATA, 1, NULL) != WaitSetResult_SUCCESS)
                        return peer_fail("iox_ws_attach_subscriber_state", "failed");
        }
        return connected();
}

int peer_loan(void **ret)
{
        enum iox_AllocationResult r = iox_pub_loan_chunk(pub, &out, (uint32_t)size);

        *ret = out;
        return r == AllocationResult_SUCCESS ? 0 : peer_fail("iox_pub_loan_chunk", "no room");
}

int peer_send(void)
{
        iox_pub_publish_chunk(pub, out);
        return 0;
}

int peer_take(const void **ret, int timeout_ms)
{
        uint64_t missed, deadline_ns = 0;
        iox_notification_info_t found[1];

        for (;;) {
                enum iox_ChunkReceiveResult r = iox_sub_take_chunk(sub, &in);
                int left_ms;

                if (r == ChunkReceiveResult_SUCCESS)
                        break;
                if (r != ChunkReceiveResult_NO_CHUNK_AVAILABLE)
                        return peer_fail("iox_sub_take_chunk", "failed");
                if (polls)
                        continue;
                /* a wait also ends when it hears of a chunk that was taken already */
                deadline_ns = deadline_ns ? deadline_ns : peer_deadline_ns(timeout_ms);
                left_ms = peer_left_ms(deadline_ns);
                if (left_ms == 0)
                        return PEER_TIMEOUT;
                (void)iox_ws_timed_wait(ws, (struct timespec){.tv_sec = left_ms / 1000, .tv_nsec = left_ms % 1000 * 1000000L}, found, 1, &missed);
        }
        *ret = in;
        return 0;
}

int peer_release(void)
{
        iox_sub_release_chunk(sub, in);
        return 0;
}

void peer_close(void)
{
        if (!polls) {
                iox_ws_detach_subscriber_state(ws, sub, SubscriberState_HAS_DATA);
                iox_ws_deinit(ws);
        }
        iox_sub_deinit(sub);
        iox_pub_deinit(pub);
        iox_runtime_shutdown();
}
