/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets with descriptors over SOCK_SEQPACKET sockets, never blocking: one sendmsg or recvmsg a call, and a bounded
 * queue for what does not fit now.
 */
#ifndef TG_SUPERVISOR_PACKET_H
#define TG_SUPERVISOR_PACKET_H

#include <stdbool.h>
#include <stddef.h>

#include "base/list.h"

#define PACKET_MAX_FDS 8

enum {
        PACKET_E_AGAIN = 1, /* nothing there, or no room now */
        PACKET_E_CLOSED = 2, /* the peer is gone */
        PACKET_E_FULL = 3,  /* packet_queue_send(): the queue's bound is reached */
};

/**
 * packet_send() - send one packet and copies of @fds
 *
 * Return: 0, PACKET_E_AGAIN, PACKET_E_CLOSED, or a negative errno.
 */
int packet_send(int sock, const void *data, size_t size, const int *fds, size_t n_fds);

/**
 * packet_recv() - receive one packet
 * @ret_size: bytes received; a packet larger than @size is -EMSGSIZE
 * @ret_fds:  room for @max_fds descriptors (close-on-exec), owned by the caller; NULL with 0: descriptors are refused
 * @ret_n_fds: how many came
 *
 * Return: 0, PACKET_E_AGAIN, PACKET_E_CLOSED, or a negative errno; nothing is left open on failure.
 */
int packet_recv(int sock, void *data, size_t size, size_t *ret_size, int *ret_fds, size_t max_fds, size_t *ret_n_fds);

/* A bounded queue of packets that wait for room; descriptors are duplicated while they wait. */
typedef struct PacketQueue {
        List packets;
        size_t n, max;
} PacketQueue;

void packet_queue_init(PacketQueue *queue, size_t max);
void packet_queue_done(PacketQueue *queue);

/**
 * packet_queue_send() - send now if nothing waits, else queue
 *
 * Return: 0 (sent or queued: see packet_queue_pending()), PACKET_E_CLOSED, PACKET_E_FULL, or a negative errno.
 */
int packet_queue_send(PacketQueue *queue, int sock, const void *data, size_t size, const int *fds, size_t n_fds);
int packet_queue_flush(PacketQueue *queue, int sock); /* 0, PACKET_E_CLOSED, or a negative errno */

static inline bool packet_queue_pending(const PacketQueue *queue)
{
        return queue->n > 0;
}

#endif
