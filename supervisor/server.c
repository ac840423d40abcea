/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/server.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "protocol/control_msg.h"
#include "supervisor/server-internal.h"

#define SERVER_ACCEPTS_PER_TURN 16
#define SERVER_PAUSE_SPAN       (100 * NSEC_PER_MSEC) /* of accepting, when there are no descriptors at all */
#define SERVER_RESERVED         64                    /* connections that only root gets */

static const ControlLimits limits = {
        .events_max = 1u << 20, .replies_max = 4u << 20, .frame_span = 10 * NSEC_PER_SEC, .reading_span = 30 * NSEC_PER_SEC};

static const struct {
        unsigned clients, streams;
        size_t bytes;
} user_limits[] = {{64, 32, 16u << 20}, {1024, 256, 64u << 20}}; /* everybody; root */

static const struct {
        const char *interface;
        const Method *methods;
} interfaces[] = {
        {CONTROL_SERVICE, methods_service},
        {CONTROL_INTERFACE, methods_query},
        {CONTROL_INTERFACE, methods_start},
        {CONTROL_INTERFACE, methods_stop},
        {CONTROL_INTERFACE, methods_node},
        {CONTROL_INTERFACE, methods_observe},
        {CONTROL_INTERFACE, methods_resources},
        {CONTROL_INTERFACE, methods_stream},
        {CONTROL_INTERFACE, methods_why},
        {CONTROL_INTERFACE, methods_probe},
};

/* ---- users */

static ServerUser *user_of(Server *server, uid_t uid)
{
        ServerUser *it, *next;

        list_for_each(it, next, &server->users, link)
                if (it->uid == uid)
                        return it;
        it = calloc(1, sizeof(*it));
        if (!it)
                return NULL;
        it->uid = uid;
        it->quota.max = user_limits[uid == 0].bytes;
        list_append(&server->users, &it->link);
        return it;
}

static void user_unref(ServerUser *user)
{
        if (user->n_clients > 0)
                return;
        list_unlink(&user->link);
        free(user);
}

bool client_may_all(const Client *client)
{
        return client->peer.uid == 0 || client->peer.uid == geteuid();
}

/* ---- calls */

static void call_end(Client *client)
{
        Call *call = &client->call;

        if (!call->method)
                return;
        logs_detach(client);
        probe_end(client);
        timer_disarm(&call->deadline);
        job_cancel(&call->step);
        if (call->link.next)
                list_unlink(&call->link);
        if (call->stream)
                client->user->n_streams--;
        free(call->flows);
        free(call->shown);
        free(call->unsent);
        free(call->text);
        json_decref(call->results);
        json_decref(call->probed_links);
        *call = (Call){};
}

void client_reply(Client *client, json_t *take_parameters)
{
        call_end(client);
        control_reply(client->control, take_parameters);
}

void client_reply_text(Client *client, char *take_text)
{
        call_end(client);
        control_reply_text(client->control, take_text);
}

void client_error(Client *client, const char *error, json_t *take_parameters)
{
        call_end(client);
        control_error(client->control, error, take_parameters);
}

void client_fail(Client *client, const char *error, const char *format, ...)
{
        char text[600];
        va_list ap;

        va_start(ap, format);
        (void)vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        call_end(client);
        control_error_text(client->control, error, text);
}

void client_bad_parameter(Client *client, const char *name)
{
        client_error(client, CONTROL_E_PARAMETER, json_pack("{ss}", "parameter", name));
}

static int on_call_late(Timer *timer, nsec_t now)
{
        Client *client = container_of(timer, Client, call.deadline);

        (void)now;
        client_fail(client, CONTROL_E_TIMED_OUT, "%s was not done in the time that was given; what it began goes on",
                client->call.method->name);
        return 0;
}

void client_wait(Client *client, void (*look)(Client *client), json_int_t timeout_ms, nsec_t otherwise_ns)
{
        Call *call = &client->call;
        nsec_t span = timeout_ms == PARAM_ABSENT ? otherwise_ns : (nsec_t)timeout_ms * NSEC_PER_MSEC;

        call->look = look;
        list_append(&client->server->calls, &call->link);
        timer_arm(client->server->loop, &call->deadline, nsec_add(client->server->loop->now, span), on_call_late);
        server_kick(client->server);
}

bool client_stream(Client *client)
{
        if (client->user->n_streams >= user_limits[client->user->uid == 0].streams) {
                client_fail(client, CONTROL_E_QUOTA, "you have %u streams already", client->user->n_streams);
                return false;
        }
        client->user->n_streams++;
        client->call.stream = true;
        return true;
}

static const Method *find_method(const ControlCall *call, bool *ret_interface)
{
        for (size_t i = 0; i < ELEMENTSOF(interfaces); i++) {
                if (strlen(interfaces[i].interface) != call->interface_size ||
                        strncmp(interfaces[i].interface, call->interface, call->interface_size) != 0)
                        continue;
                *ret_interface = true;
                for (const Method *m = interfaces[i].methods; m->name; m++)
                        if (strcmp(m->name, call->name) == 0)
                                return m;
        }
        return NULL;
}

static void on_call(void *owner, const ControlCall *call)
{
        Client *client = owner;
        Parameters parameters;
        const char *bad = NULL;
        bool known = false;
        const Method *method = find_method(call, &known);

        if (!known)
                client_error(
                        client, CONTROL_E_NO_INTERFACE, json_pack("{ss%}", "interface", call->interface, call->interface_size));
        else if (!method)
                client_error(client, CONTROL_E_METHOD, json_pack("{ss}", "method", call->method));
        else if (parameters_parse(&parameters, call->parameters, method->takes, &bad))
                client_bad_parameter(client, bad);
        else if (method->needs_more && !call->more)
                client_error(client, CONTROL_E_MORE, json_object());
        else {
                client->call = (Call){.method = method, .more = call->more};
                method->run(client, &parameters);
        }
}

/* ---- what follows when something has changed */

void server_look(Server *server)
{
        List batch;

        /* A look may end its call, and nothing else's; one that stays is put back. */
        list_init(&batch);
        while (!list_empty(&server->calls)) {
                Client *client = list_first(&server->calls, Client, call.link);

                list_unlink(&client->call.link);
                list_append(&batch, &client->call.link);
        }
        while (!list_empty(&batch)) {
                Client *client = list_first(&batch, Client, call.link);

                list_unlink(&client->call.link);
                list_append(&server->calls, &client->call.link);
                client->call.look(client);
        }
}

static int on_server_job(Job *job)
{
        Server *server = container_of(job, Server, job);

        server_look(server);
        flows_follow(server);
        flows_forget(server);
        return 0;
}

void server_kick(Server *server)
{
        job_post(server->loop, &server->job, on_server_job);
}

void server_dataflow_ended(Server *server, Dataflow *dataflow)
{
        (void)dataflow;
        server_kick(server);
}

/* ---- clients */

static void client_free(Client *client)
{
        Server *server = client->server;

        call_end(client);
        (void)control_free(client->control);
        peer_done(&client->peer);
        list_unlink(&client->link);
        server->n_clients--;
        client->user->n_clients--;
        user_unref(client->user);
        free(client);
}

static void on_gone(void *owner)
{
        client_free(owner);
}

static void on_room(void *owner)
{
        Client *client = owner;

        if (client->call.shown)
                logs_room(client);
}

static const ControlOps ops = {.call = on_call, .gone = on_gone, .room = on_room};

/* What cannot be served is told so, if it can be without waiting. */
static void refuse_fd(int fd, const char *text)
{
        char message[256];
        int n = snprintf(message, sizeof(message), "{\"error\":\"%s\",\"parameters\":{\"text\":\"%s\"}}", CONTROL_E_QUOTA, text);

        (void)send(fd, message, (size_t)n + 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        (void)fd_close(fd);
}

static const char *client_refusal(const Server *server, const ServerUser *user)
{
        if (user->n_clients >= user_limits[user->uid == 0].clients)
                return "you have too many connections";
        if (server->n_clients + (user->uid == 0 ? 0 : SERVER_RESERVED) >= server->max_clients)
                return "there are too many connections";
        if (user->quota.used >= user->quota.max)
                return "your connections hold too much memory";
        return NULL;
}

static int client_new(Server *server, int fd, const Peer *peer, ServerUser *user)
{
        Client *client = calloc(1, sizeof(*client));
        int r;

        if (!client)
                return error_origin(-ENOMEM);
        *client = (Client){.server = server, .user = user, .peer = *peer};
        r = control_new(&client->control, server->loop, fd, &ops, client, &limits, &user->quota);
        if (r) {
                free(client);
                return error_fold(r);
        }
        list_append(&server->clients, &client->link);
        server->n_clients++;
        user->n_clients++;
        return 0;
}

static void welcome(Server *server, int fd)
{
        const char *refusal = "the daemon is short of memory";
        ServerUser *user = NULL;
        Peer peer = {.pidfd = -1};

        if (peer_init(&peer, fd)) {
                (void)fd_close(fd);
                return;
        }
        user = user_of(server, peer.uid);
        if (user)
                refusal = client_refusal(server, user);
        if (user && !refusal && client_new(server, fd, &peer, user) == 0)
                return;
        server->n_refused++;
        refuse_fd(fd, refusal ? refusal : "the daemon is short of memory");
        peer_done(&peer);
        if (user)
                user_unref(user);
}

static int on_pause_over(Timer *timer, nsec_t now)
{
        Server *server = container_of(timer, Server, pause);

        (void)now;
        if (server->spare_fd < 0)
                server->spare_fd = eventfd(0, EFD_CLOEXEC);
        (void)source_set_events(&server->source, EPOLLIN);
        return 0;
}

/* No descriptors: whoever waits is refused on the spare one, and then nobody is asked for a moment. Never a busy loop. */
static void on_no_descriptors(Server *server)
{
        int fd;

        server->spare_fd = fd_close(server->spare_fd);
        fd = accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0)
                refuse_fd(fd, "the daemon has no descriptors left");
        server->n_refused += fd >= 0;
        server->spare_fd = eventfd(0, EFD_CLOEXEC);
        (void)source_set_events(&server->source, 0);
        timer_arm(server->loop, &server->pause, nsec_add(server->loop->now, SERVER_PAUSE_SPAN), on_pause_over);
}

static int on_connection(Source *source, uint32_t revents)
{
        Server *server = container_of(source, Server, source);

        (void)revents;
        for (unsigned i = 0; i < SERVER_ACCEPTS_PER_TURN; i++) {
                int fd = accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

                if (fd >= 0) {
                        welcome(server, fd);
                } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                        on_no_descriptors(server);
                        return 0;
                } else if (errno != ECONNABORTED && errno != EINTR) {
                        return 0;
                }
        }
        return 0;
}

/* ---- the server */

/* The name of the runtime directory, from procfs: for people. */
static void learn_name(Server *server)
{
        char path[40];
        ssize_t n;

        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", server->supervisor->options.runtime_fd);
        n = readlink(path, server->runtime_dir, sizeof(server->runtime_dir) - 1);
        server->runtime_dir[MAX(n, (ssize_t)0)] = '\0';
}

int server_new(Server **ret, Supervisor *supervisor, int listen_fd)
{
        Server *server = calloc(1, sizeof(*server));
        struct rlimit nofile = {.rlim_cur = 1024};
        int r;

        if (!server)
                return error_origin(-ENOMEM);
        server->supervisor = supervisor;
        server->loop = &supervisor->loop;
        server->listen_fd = listen_fd;
        server->started_at = supervisor->loop.now;
        list_init(&server->clients);
        list_init(&server->users);
        list_init(&server->flows);
        list_init(&server->calls);
        (void)getrlimit(RLIMIT_NOFILE, &nofile);
        server->max_clients = (unsigned)MIN(nofile.rlim_cur / 5 * 3, (rlim_t)65536); /* the rest is for nodes */
        server->spare_fd = eventfd(0, EFD_CLOEXEC);
        learn_name(server);
        r = source_add(&supervisor->loop, &server->source, listen_fd, EPOLLIN, SOURCE_CLIENTS, on_connection);
        if (r) {
                (void)fd_close(server->spare_fd);
                free(server);
                return error_fold(r);
        }
        *ret = server;
        return 0;
}

Server *server_free(Server *server)
{
        Client *it, *next;
        Flow *flow, *next_flow;

        if (!server)
                return NULL;
        source_remove(&server->source);
        timer_disarm(&server->pause);
        list_for_each(it, next, &server->clients, link)
                client_free(it);
        list_for_each(flow, next_flow, &server->flows, link) {
                logs_close(flow);
                list_unlink(&flow->link);
                free(flow);
        }
        job_cancel(&server->job);
        server->spare_fd = fd_close(server->spare_fd);
        free(server);
        return NULL;
}

bool server_flushed(const Server *server)
{
        Client *it, *next;

        if (server->job.link.next && !list_empty(&server->job.link))
                return false; /* somebody may still be answered */
        list_for_each(it, next, (List *)(uintptr_t)&server->clients, link)
                if (!control_flushed(it->control))
                        return false;
        return true;
}

unsigned server_n_clients(const Server *server)
{
        return server->n_clients;
}
