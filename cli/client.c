/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/receive.h"
#include "protocol/control_msg.h"

#define READ_SIZE    65536u
#define BACKLOG_STEP (20 * NSEC_PER_MSEC) /* a full backlog tells nobody when it has room */

/* ---- connecting */

/* A path may be longer than a socket address: then it goes through the directory's descriptor. */
static int control_address(const char *runtime_dir, struct sockaddr_un *ret, int *ret_dir_fd)
{
        *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
        if ((size_t)snprintf(ret->sun_path, sizeof(ret->sun_path), "%s/control.sock", runtime_dir) < sizeof(ret->sun_path))
                return 0;
        *ret_dir_fd = open(runtime_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (*ret_dir_fd < 0)
                return -errno;
        (void)snprintf(ret->sun_path, sizeof(ret->sun_path), "/proc/self/fd/%d/control.sock", *ret_dir_fd);
        return 0;
}

static int connect_outcome(int error)
{
        switch (error) {
        case ENOENT:
        case ENOTDIR:
        case ECONNREFUSED:
        case ENOTSOCK:
                return CLIENT_E_ABSENT;
        case EACCES:
        case EPERM:
                return CLIENT_E_FORBIDDEN;
        default:
                return error_origin(-error);
        }
}

int client_connect(Client *ret, const char *runtime_dir, nsec_t deadline)
{
        _cleanup_fd_ int fd = -1, dir_fd = -1;
        struct sockaddr_un address;
        int r = control_address(runtime_dir, &address, &dir_fd);

        if (r < 0)
                return connect_outcome(-r);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return error_origin(-errno);
        while (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
                nsec_t now = clock_now();

                if (errno != EAGAIN && errno != EINTR)
                        return connect_outcome(errno);
                if (now >= deadline)
                        return CLIENT_E_SILENT;
                (void)poll(NULL, 0, nsec_poll_ms(MIN(deadline, nsec_add(now, BACKLOG_STEP)), now));
        }
        *ret = (Client){.fd = TAKE_FD(fd)};
        return 0;
}

int client_take_fd(Client *client, size_t i)
{
        return i < client->n_fds ? TAKE_FD(client->fds[i]) : -1;
}

void client_drop_fds(Client *client)
{
        for (size_t i = 0; i < client->n_fds; i++)
                (void)fd_close(client->fds[i]);
        client->n_fds = 0;
}

void client_done(Client *client)
{
        client_drop_fds(client);
        client->fd = fd_close(client->fd);
        free(client->in);
        *client = (Client){.fd = -1, .wants_fds = client->wants_fds};
}

/* ---- calls */

static int send_all(int fd, const char *data, size_t size, nsec_t deadline)
{
        while (size > 0) {
                ssize_t n = send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
                struct pollfd p = {.fd = fd, .events = POLLOUT};

                if (n > 0) {
                        data += n;
                        size -= (size_t)n;
                        continue;
                }
                if (n < 0 && errno != EAGAIN && errno != EINTR)
                        return errno == EPIPE || errno == ECONNRESET ? CLIENT_E_CLOSED : error_origin(-errno);
                if (clock_now() >= deadline)
                        return CLIENT_E_SILENT;
                (void)poll(&p, 1, nsec_poll_ms(deadline, clock_now()));
        }
        return 0;
}

int client_send(Client *client, const char *method, bool more, json_t *take_parameters, nsec_t deadline)
{
        char name[128];
        _cleanup_free_ char *text = NULL;
        json_t *message;

        (void)snprintf(name, sizeof(name), CONTROL_INTERFACE ".%s", method);
        message = take_parameters ? json_pack("{ss so}", "method", name, "parameters", take_parameters) : NULL;
        if (message && more)
                (void)json_object_set_new(message, "more", json_true());
        text = message ? json_dumps(message, JSON_COMPACT) : NULL;
        json_decref(message);
        if (!text)
                return error_origin(-ENOMEM);
        if (strlen(text) >= CONTROL_FRAME_MAX)
                return CLIENT_E_TOO_LARGE;
        return send_all(client->fd, text, strlen(text) + 1, deadline);
}

/* ---- replies */

void reply_done(Reply *reply)
{
        json_decref(reply->message);
        *reply = (Reply){};
}

static int reply_parse(Reply *ret, const char *data, size_t size)
{
        const size_t prefix = strlen(CONTROL_INTERFACE ".");
        json_t *message = json_loadb(data, size, JSON_REJECT_DUPLICATES, NULL), *error, *parameters;

        error = json_object_get(message, "error");
        parameters = json_object_get(message, "parameters");
        if (!json_is_object(message) || (error && !json_is_string(error) && !json_is_null(error)) ||
                (parameters && !json_is_object(parameters) && !json_is_null(parameters))) {
                json_decref(message);
                return CLIENT_E_GARBAGE;
        }
        if (!json_is_object(parameters)) {
                parameters = json_object();
                (void)json_object_set_new(message, "parameters", parameters);
        }
        *ret = (Reply){.message = message,
                .parameters = parameters,
                .error = json_string_value(error),
                .text = "",
                .continues = json_is_true(json_object_get(message, "continues"))};
        if (!ret->error)
                return 0;
        ret->text = json_string_value(json_object_get(parameters, "text")) ?:
                json_string_value(json_object_get(parameters, "parameter")) ?: "";
        if (strncmp(ret->error, CONTROL_INTERFACE ".", prefix) == 0)
                ret->error += prefix;
        return 0;
}

static int take_frame(Client *client, Reply *ret)
{
        char *end = memchr(client->in + client->in_seen, '\0', client->in_size - client->in_seen);
        size_t size;
        int r;

        if (!end) {
                client->in_seen = client->in_size;
                return CLIENT_E_AGAIN;
        }
        size = (size_t)(end - client->in);
        r = reply_parse(ret, client->in, size);
        client->in_size -= size + 1;
        memmove(client->in, client->in + size + 1, client->in_size);
        client->in_seen = 0;
        return r;
}

static int in_reserve(Client *client)
{
        size_t room = client->in_room ? 2 * client->in_room : 2 * READ_SIZE;
        char *grown;

        if (client->in_size > CLIENT_REPLY_MAX)
                return CLIENT_E_GARBAGE;
        if (client->in_room - client->in_size >= READ_SIZE)
                return 0;
        grown = realloc(client->in, room);
        if (!grown)
                return error_origin(-ENOMEM);
        client->in = grown;
        client->in_room = room;
        return 0;
}

static void keep_fds(Client *client, struct msghdr *mh)
{
        for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
                size_t n = c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS ? (c->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;

                for (size_t i = 0; i < n; i++) {
                        int fd;

                        memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
                        if (client->n_fds < CLIENT_MAX_FDS)
                                client->fds[client->n_fds++] = fd;
                        else
                                (void)fd_close(fd);
                }
        }
}

static ssize_t receive_some(Client *client, char *data, size_t size)
{
        char control[CMSG_SPACE(CLIENT_MAX_FDS * sizeof(int))] __attribute__((aligned(8)));
        struct iovec iov = {data, size};
        struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
        ssize_t n;

        if (!client->wants_fds)
                return receive_bytes(client->fd, data, size, MSG_DONTWAIT);
        n = receive_message(client->fd, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n >= 0)
                keep_fds(client, &mh);
        return n;
}

int client_read(Client *client, Reply *ret)
{
        ssize_t n;
        int r;

        *ret = (Reply){};
        if (client->fd < 0)
                return CLIENT_E_CLOSED;
        for (;;) {
                r = client->in_size > client->in_seen ? take_frame(client, ret) : CLIENT_E_AGAIN;
                if (r != CLIENT_E_AGAIN)
                        return r;
                r = in_reserve(client);
                if (r)
                        return r;
                n = receive_some(client, client->in + client->in_size, client->in_room - client->in_size);
                if (n < 0)
                        return errno == EAGAIN || errno == EINTR ? CLIENT_E_AGAIN : CLIENT_E_CLOSED;
                if (n == 0)
                        return CLIENT_E_CLOSED;
                client->in_size += (size_t)n;
        }
}

bool client_holds_reply(const Client *client)
{
        const size_t n = client->in_size - client->in_seen;

        return n > 0 && memchr(client->in + client->in_seen, '\0', n);
}

const char *client_explain(int r)
{
        switch (r) {
        case CLIENT_E_ABSENT:
                return "no supervisor is running there; `tidegate up` starts one";
        case CLIENT_E_FORBIDDEN:
                return "its control socket may not be used by you";
        case CLIENT_E_SILENT:
                return "the supervisor does not answer";
        case CLIENT_E_CLOSED:
                return "the supervisor hung up";
        case CLIENT_E_GARBAGE:
                return "what the supervisor answers cannot be understood";
        case CLIENT_E_TOO_LARGE:
                return "this is more than the 1 MiB that one call may have";
        case CLIENT_E_INTERRUPTED:
                return "interrupted";
        case CLIENT_E_LATE:
                return "the time is over";
        default:
                return strerror(-r);
        }
}
