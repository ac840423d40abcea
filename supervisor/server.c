/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/server.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "supervisor/control.h"

#define SERVER_ACCEPTS_PER_TURN 16

typedef struct Client {
        ListLink link;
        Control *control;
} Client;

struct Server {
        Supervisor *supervisor;
        int listen_fd;
        Source source;
        List clients;
        unsigned n_clients;
};

static int on_connection(Source *source, uint32_t revents)
{
        Server *server = container_of(source, Server, source);

        (void)revents;
        for (unsigned i = 0; i < SERVER_ACCEPTS_PER_TURN; i++) {
                int fd = accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
                Client *client;

                if (fd < 0)
                        return 0;
                client = calloc(1, sizeof(*client));
                if (!client || control_new(&client->control, server->supervisor, fd)) {
                        free(client);
                        (void)fd_close(fd);
                        continue;
                }
                list_append(&server->clients, &client->link);
                server->n_clients++;
        }
        return 0;
}

int server_new(Server **ret, Supervisor *supervisor, int listen_fd)
{
        Server *server = calloc(1, sizeof(*server));
        int r;

        if (!server)
                return error_origin(-ENOMEM);
        server->supervisor = supervisor;
        server->listen_fd = listen_fd;
        list_init(&server->clients);
        r = source_add(&supervisor->loop, &server->source, listen_fd, EPOLLIN, SOURCE_CLIENTS, on_connection);
        if (r) {
                free(server);
                return error_fold(r);
        }
        *ret = server;
        return 0;
}

Server *server_free(Server *server)
{
        Client *it, *next;

        if (!server)
                return NULL;
        source_remove(&server->source);
        list_for_each(it, next, &server->clients, link) {
                (void)control_free(it->control);
                free(it);
        }
        free(server);
        return NULL;
}

void server_dataflow_ended(Server *server, Dataflow *dataflow)
{
        (void)server;
        (void)dataflow;
}

void server_adopted(Server *server)
{
        (void)server;
}

DataflowEventFn server_event_fn(Server *server)
{
        (void)server;
        return NULL;
}

bool server_flushed(const Server *server)
{
        Client *it, *next;

        list_for_each(it, next, (List *)&server->clients, link)
                if (!control_flushed(it->control))
                        return false;
        return true;
}

unsigned server_n_clients(const Server *server)
{
        return server->n_clients;
}
