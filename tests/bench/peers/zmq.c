/* SPDX-License-Identifier: Apache-2.0 */
/* ZeroMQ: a pair of sockets over ipc://. */
#include "peer.h"

#include <errno.h>
#include <stdio.h>
#include <zmq.h>

static void *context, *sock;
static zmq_msg_t out, in;
static size_t size;
static int timeout = -1;

static int failed(const char *what)
{
        return peer_fail(what, zmq_strerror(zmq_errno()));
}

int peer_open(const struct peer_spec *spec)
{
        int queue = (int)spec->queue;
        char address[4096];

        size = spec->size;
        (void)snprintf(address, sizeof(address), "ipc://%s/zmq", spec->dir);
        context = zmq_ctx_new();
        sock = zmq_socket(context, ZMQ_PAIR);
        if (!sock || zmq_setsockopt(sock, ZMQ_SNDHWM, &queue, sizeof(queue)) || zmq_setsockopt(sock, ZMQ_RCVHWM, &queue, sizeof(queue)))
                return failed("zmq_socket");
        if (spec->side ? zmq_bind(sock, address) : zmq_connect(sock, address))
                return failed(address);
        return 0;
}

int peer_loan(void **ret)
{
        if (zmq_msg_init_size(&out, size))
                return failed("zmq_msg_init_size");
        *ret = zmq_msg_data(&out);
        return 0;
}

int peer_send(void)
{
        return zmq_msg_send(&out, sock, 0) < 0 ? failed("zmq_msg_send") : 0;
}

int peer_take(const void **ret, int timeout_ms)
{
        if (timeout_ms != timeout && zmq_setsockopt(sock, ZMQ_RCVTIMEO, &timeout_ms, sizeof(timeout_ms)))
                return failed("ZMQ_RCVTIMEO");
        timeout = timeout_ms;
        zmq_msg_init(&in);
        if (zmq_msg_recv(&in, sock, 0) < 0)
                return zmq_errno() == EAGAIN ? PEER_TIMEOUT : failed("zmq_msg_recv");
        *ret = zmq_msg_data(&in);
        return zmq_msg_size(&in) == size ? 0 : peer_fail("zmq_msg_recv", "a message of another size");
}

int peer_release(void)
{
        zmq_msg_close(&in);
        return 0;
}

void peer_close(void)
{
        zmq_close(sock);
        zmq_ctx_term(context);
}
