/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection to a supervisor's control socket (protocol/dev.tidegate.Supervisor.varlink): frames out, replies in. The
 * other side may be slow, silent, lying or gone: every wait has a deadline of the caller's, and what comes is checked before
 * it is used.
 *
 * Never raises SIGPIPE. Does not: show anything, decide what a failure means, retry.
 */
#ifndef TG_CLI_CLIENT_H
#define TG_CLI_CLIENT_H

#include <jansson.h>
#include <stdbool.h>

#include "base/clock.h"

#define CLIENT_MAX_FDS   24
#define CLIENT_REPLY_MAX (16u << 20) /* bytes of one reply: a status lists every node */

enum {
        CLIENT_E_AGAIN = 1,   /* client_read: nothing complete is there */
        CLIENT_E_ABSENT,      /* nobody listens there */
        CLIENT_E_FORBIDDEN,   /* the socket is there, and we may not */
        CLIENT_E_SILENT,      /* the deadline passed */
        CLIENT_E_CLOSED,      /* it hung up before its last word */
        CLIENT_E_GARBAGE,     /* what came is no reply, or too large to be one */
        CLIENT_E_TOO_LARGE,   /* our call does not fit into a frame */
        CLIENT_E_INTERRUPTED, /* a signal that was asked for came (session.h) */
        CLIENT_E_LATE,        /* it lives, but what was waited for did not happen in time (session.h) */
};

typedef struct Client {
        int fd; /* -1: not connected */
        char *in;
        size_t in_size, in_room, in_seen; /* no frame ends in the first in_seen bytes */

        /* Descriptors that came with a reply, for who sets wants_fds; without, the kernel drops them. Owned; one reply's at a time. */
        bool wants_fds;
        int fds[CLIENT_MAX_FDS];
        size_t n_fds;
} Client;

#define CLIENT_NULL ((Client){.fd = -1})

typedef struct Reply {
        json_t *message;    /* owned */
        json_t *parameters; /* borrowed from it; an object */
        const char *error;  /* "Busy" of our interface, else the full name; NULL: none */
        const char *text;   /* of an error; never NULL */
        bool continues;
} Reply;

void reply_done(Reply *reply);

/**
 * client_connect() - connect to @runtime_dir/control.sock
 * @deadline: absolute; a supervisor that accepts nobody may keep a backlog that is full
 *
 * Return: 0, CLIENT_E_ABSENT, CLIENT_E_FORBIDDEN, CLIENT_E_SILENT, or a negative errno.
 */
int client_connect(Client *ret, const char *runtime_dir, nsec_t deadline);
void client_done(Client *client);

/**
 * client_send() - send one call
 * @method:   "List"
 * @more:     ask for a stream
 *
 * Consumes @take_parameters, which may be NULL: out of memory.
 *
 * Return: 0, CLIENT_E_TOO_LARGE, CLIENT_E_SILENT, CLIENT_E_CLOSED, or a negative errno.
 */
int client_send(Client *client, const char *method, bool more, json_t *take_parameters, nsec_t deadline);

/* client_read() - the next reply if it is there. Never blocks. 0, CLIENT_E_AGAIN, _CLOSED, _GARBAGE or a negative errno. */
int client_read(Client *client, Reply *ret);

/* client_holds_reply() - one is here that client_read() has not returned yet: the socket, when it is waited for, says nothing of it. */
bool client_holds_reply(const Client *client);

/* client_take_fd() - descriptor number @i of the last reply, the caller's from now on; -1: there is none. client_drop_fds(): close the others. */
int client_take_fd(Client *client, size_t i);
void client_drop_fds(Client *client);

/* client_explain() - what one of these codes says about the supervisor, for a person. Static. */
const char *client_explain(int r);

#endif
