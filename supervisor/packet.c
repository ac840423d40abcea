/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/packet.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/error.h"
#include "base/receive.h"
#include "base/send.h"

_Static_assert(PACKET_MAX_FDS <= SEND_MAX_FDS, "more are refused there");

typedef struct Packet {
        ListLink link;
        int fds[PACKET_MAX_FDS];
        size_t n_fds, size;
        char data[];
} Packet;

int packet_send(int sock, const void *data, size_t size, const int *fds, size_t n_fds)
{
        if (send_message(sock, data, size, fds, n_fds, MSG_DONTWAIT) >= 0)
                return 0;
        if (errno == EAGAIN || errno == EINTR || errno == ENOBUFS)
                return PACKET_E_AGAIN;
        if (errno == EPIPE || errno == ECONNRESET)
                return PACKET_E_CLOSED;
        return error_origin(-errno);
}

static void fds_close(int *fds, size_t n)
{
        for (size_t i = 0; i < n; i++)
                fds[i] = fd_close(fds[i]);
}

static size_t take_fds(struct msghdr *mh, int *ret_fds)
{
        size_t n = 0;

        for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                memcpy(ret_fds, CMSG_DATA(c), n * sizeof(int)); /* msg_controllen was sized for max_fds */
        }
        return n;
}

int packet_recv(int sock, void *data, size_t size, size_t *ret_size, int *ret_fds, size_t max_fds, size_t *ret_n_fds)
{
        char control[CMSG_SPACE(sizeof(int) * PACKET_MAX_FDS)] __attribute__((aligned(8)));
        struct iovec iov = {.iov_base = data, .iov_len = size};
        struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
        int got[PACKET_MAX_FDS];
        size_t n_fds = 0;
        ssize_t n;

        if (max_fds > PACKET_MAX_FDS)
                return error_origin(-EINVAL);
        if (max_fds > 0) {
                mh.msg_control = control;
                mh.msg_controllen = CMSG_SPACE(sizeof(int) * max_fds);
        }
        n = receive_message(sock, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return PACKET_E_AGAIN;
        if (n < 0)
                return errno == ECONNRESET ? PACKET_E_CLOSED : error_origin(-errno);
        if (max_fds > 0)
                n_fds = take_fds(&mh, got);
        if (n_fds > max_fds || (mh.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
                fds_close(got, n_fds);
                return error_origin(mh.msg_flags & MSG_TRUNC ? -EMSGSIZE : -EPROTO);
        }
        if (n == 0) { /* our packets are never empty: end of stream */
                fds_close(got, n_fds);
                return PACKET_E_CLOSED;
        }
        memcpy(ret_fds ? ret_fds : got, got, n_fds * sizeof(int));
        if (ret_n_fds)
                *ret_n_fds = n_fds;
        *ret_size = (size_t)n;
        return 0;
}

void packet_queue_init(PacketQueue *queue, size_t max)
{
        list_init(&queue->packets);
        queue->n = 0;
        queue->max = max;
}

static Packet *packet_free(Packet *packet)
{
        if (packet) {
                fds_close(packet->fds, packet->n_fds);
                free(packet);
        }
        return NULL;
}

void packet_queue_done(PacketQueue *queue)
{
        Packet *packet, *next;

        if (!queue->packets.next)
                return;
        list_for_each(packet, next, &queue->packets, link) {
                list_unlink(&packet->link);
                (void)packet_free(packet);
        }
        queue->n = 0;
}

static int packet_queue_put(PacketQueue *queue, const void *data, size_t size, const int *fds, size_t n_fds)
{
        Packet *packet;

        if (queue->n >= queue->max)
                return PACKET_E_FULL;
        packet = malloc(sizeof(*packet) + size);
        if (!packet)
                return error_origin(-ENOMEM);
        packet->n_fds = 0;
        packet->size = size;
        memcpy(packet->data, data, size);
        for (; packet->n_fds < n_fds; packet->n_fds++) {
                int r = fcntl(fds[packet->n_fds], F_DUPFD_CLOEXEC, 3);

                if (r < 0) {
                        r = -errno;
                        (void)packet_free(packet);
                        return error_origin(r);
                }
                packet->fds[packet->n_fds] = r;
        }
        list_init(&packet->link);
        list_append(&queue->packets, &packet->link);
        queue->n++;
        return 0;
}

int packet_queue_send(PacketQueue *queue, int sock, const void *data, size_t size, const int *fds, size_t n_fds)
{
        if (n_fds > PACKET_MAX_FDS)
                return error_origin(-EINVAL);
        if (queue->n == 0) {
                int r = packet_send(sock, data, size, fds, n_fds);

                if (r != PACKET_E_AGAIN)
                        return r;
        }
        return packet_queue_put(queue, data, size, fds, n_fds);
}

int packet_queue_flush(PacketQueue *queue, int sock)
{
        while (queue->n > 0) {
                Packet *packet = list_first(&queue->packets, Packet, link);
                int r = packet_send(sock, packet->data, packet->size, packet->fds, packet->n_fds);

                if (r == PACKET_E_AGAIN)
                        return 0;
                if (r)
                        return r;
                list_unlink(&packet->link);
                queue->n--;
                (void)packet_free(packet);
        }
        return 0;
}
