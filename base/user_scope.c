/* SPDX-License-Identifier: Apache-2.0 */
#include "base/user_scope.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cgroup_root.h"
#include "base/cleanup.h"

#define RETRY_MS    20
#define MESSAGE_MAX 2048u  /* of ours */
#define ANSWER_MAX  65536u /* of the manager's: it may also tell what we did not ask for */
#define BUS         "org.freedesktop.systemd1"

/* ---- messages of D-Bus, little endian: every value is aligned to its size */

enum { TYPE_CALL = 1, TYPE_RETURN = 2, TYPE_ERROR = 3 };
enum { FIELD_PATH = 1, FIELD_INTERFACE = 2, FIELD_MEMBER = 3, FIELD_ERROR_NAME = 4, FIELD_DESTINATION = 6, FIELD_SIGNATURE = 8 };

typedef struct Writer {
        uint8_t data[MESSAGE_MAX];
        size_t n;
        bool full;
} Writer;

static void put(Writer *w, const void *data, size_t size)
{
        if (w->full || size > sizeof(w->data) - w->n) {
                w->full = true;
                return;
        }
        memcpy(w->data + w->n, data, size);
        w->n += size;
}

static void put_align(Writer *w, size_t to)
{
        static const uint8_t zeros[8];

        put(w, zeros, (to - w->n % to) % to);
}

static void put_u32(Writer *w, uint32_t value)
{
        put_align(w, 4);
        put(w, &value, sizeof(value));
}

static void put_string(Writer *w, const char *text)
{
        put_u32(w, (uint32_t)strlen(text));
        put(w, text, strlen(text) + 1);
}

static void put_signature(Writer *w, const char *text)
{
        uint8_t size = (uint8_t)strlen(text);

        put(w, &size, 1);
        put(w, text, size + 1u);
}

/* An array begins with its size in bytes, which does not count the padding before the first element. Returns where that begins. */
static size_t begin_array(Writer *w, size_t align, size_t *ret_size_at)
{
        put_u32(w, 0);
        *ret_size_at = w->n - 4;
        put_align(w, align);
        return w->n;
}

static void end_array(Writer *w, size_t begin, size_t size_at)
{
        uint32_t size = (uint32_t)(w->n - begin);

        if (!w->full)
                memcpy(w->data + size_at, &size, sizeof(size));
}

static void put_pids(Writer *w, const pid_t *pids, size_t n_pids)
{
        size_t size_at, begin = begin_array(w, 4, &size_at);

        for (size_t i = 0; i < n_pids; i++)
                put_u32(w, (uint32_t)pids[i]);
        end_array(w, begin, size_at);
}

static void put_text_property(Writer *w, const char *name, const char *value)
{
        put_align(w, 8);
        put_string(w, name);
        put_signature(w, "s");
        put_string(w, value);
}

static void put_field(Writer *w, uint8_t code, const char *type, const char *value)
{
        put_align(w, 8);
        put(w, &code, 1);
        put_signature(w, type);
        if (type[0] == 'g')
                put_signature(w, value);
        else
                put_string(w, value);
}

static void put_call(Writer *w, const char *member, const char *signature, const Writer *body, uint32_t serial)
{
        size_t size_at, begin;

        put(w, (const uint8_t[]){'l', TYPE_CALL, 0, 1}, 4);
        put_u32(w, (uint32_t)body->n);
        put_u32(w, serial);
        begin = begin_array(w, 8, &size_at);
        put_field(w, FIELD_PATH, "o", "/org/freedesktop/systemd1");
        put_field(w, FIELD_INTERFACE, "s", BUS ".Manager");
        put_field(w, FIELD_MEMBER, "s", member);
        put_field(w, FIELD_DESTINATION, "s", BUS);
        put_field(w, FIELD_SIGNATURE, "g", signature);
        end_array(w, begin, size_at);
        put_align(w, 8);
        put(w, body->data, body->n);
        w->full |= body->full;
}

typedef struct Reader {
        const uint8_t *data;
        size_t at, size;
} Reader;

/* The text at the reader's place, or NULL when the message does not hold what it says. @wide: its length has four bytes, not one. */
static const char *get_text(Reader *r, bool wide)
{
        uint32_t size = 0;
        size_t width = wide ? 4 : 1;
        const char *text;

        if (wide)
                r->at = (r->at + 3) & ~(size_t)3;
        if (r->at > r->size || r->size - r->at < width)
                return NULL;
        if (wide)
                memcpy(&size, r->data + r->at, sizeof(size));
        else
                size = r->data[r->at];
        r->at += width;
        if (size >= r->size - r->at || r->data[r->at + size] != '\0')
                return NULL;
        text = (const char *)r->data + r->at;
        r->at += (size_t)size + 1;
        return text;
}

/* The name of an error, from the fields of its header; "" if there is none. */
static const char *error_name(const uint8_t *fields, size_t size)
{
        Reader r = {.data = fields, .size = size};

        while (r.at < r.size) {
                const char *type, *value;
                uint8_t code;

                r.at = (r.at + 7) & ~(size_t)7;
                if (r.at >= r.size)
                        break;
                code = r.data[r.at++];
                type = get_text(&r, false);
                if (!type)
                        break;
                if (strcmp(type, "u") == 0) {
                        r.at = ((r.at + 3) & ~(size_t)3) + 4;
                        continue;
                }
                value = get_text(&r, strcmp(type, "g") != 0);
                if (!value)
                        break;
                if (code == FIELD_ERROR_NAME)
                        return value;
        }
        return "";
}

/* ---- the connection */

typedef struct Connection {
        int fd;
        nsec_t until;
        uint32_t serial;
        uint8_t in[ANSWER_MAX];
        size_t n_in;
        char error[128], text[256]; /* of the last answer, if it was one */
} Connection;

static int await(Connection *c, short events)
{
        for (;;) {
                struct pollfd p = {.fd = c->fd, .events = events};
                nsec_t now = clock_now();
                int r;

                if (now >= c->until)
                        return -ETIMEDOUT;
                r = poll(&p, 1, nsec_poll_ms(c->until, now));
                if (r > 0)
                        return 0;
                if (r < 0 && errno != EINTR)
                        return -errno;
        }
}

static int send_all(Connection *c, const void *data, size_t size)
{
        const uint8_t *at = data;

        while (size > 0) {
                ssize_t n = send(c->fd, at, size, MSG_NOSIGNAL);
                int r;

                if (n > 0) {
                        at += n;
                        size -= (size_t)n;
                        continue;
                }
                if (n < 0 && errno != EAGAIN && errno != EINTR)
                        return -errno;
                r = await(c, POLLOUT);
                if (r)
                        return r;
        }
        return 0;
}

/* At least @want bytes are there. Without a control buffer: no descriptor comes in. */
static int receive(Connection *c, size_t want)
{
        if (want > sizeof(c->in))
                return -EMSGSIZE;
        while (c->n_in < want) {
                ssize_t n = recv(c->fd, c->in + c->n_in, sizeof(c->in) - c->n_in, 0);
                int r;

                if (n > 0) {
                        c->n_in += (size_t)n;
                        continue;
                }
                if (n == 0)
                        return -ECONNRESET;
                if (errno != EAGAIN && errno != EINTR)
                        return -errno;
                r = await(c, POLLIN);
                if (r)
                        return r;
        }
        return 0;
}

static void take(Connection *c, size_t size)
{
        memmove(c->in, c->in + size, c->n_in - size);
        c->n_in -= size;
}

/* One line in answer to our credentials, which the kernel tells. */
static int authenticate(Connection *c)
{
        char uid[16], line[96];
        const uint8_t *end;
        size_t n = 1;
        int r;

        (void)snprintf(uid, sizeof(uid), "%u", (unsigned)geteuid());
        line[0] = '\0';
        n += (size_t)snprintf(line + n, sizeof(line) - n, "AUTH EXTERNAL ");
        for (const char *digit = uid; *digit; digit++)
                n += (size_t)snprintf(line + n, sizeof(line) - n, "%02x", (unsigned)*digit);
        n += (size_t)snprintf(line + n, sizeof(line) - n, "\r\nBEGIN\r\n");
        r = send_all(c, line, n);
        while (!r && !(end = memmem(c->in, c->n_in, "\r\n", 2)))
                r = c->n_in > 512 ? -EPROTO : receive(c, c->n_in + 1);
        if (r)
                return r;
        if (c->n_in < 3 || memcmp(c->in, "OK ", 3) != 0)
                return -EACCES;
        take(c, (size_t)(end - c->in) + 2);
        return 0;
}

/* The answer to the only call under way. What else the manager tells is dropped. 0, 1: an error, of which error and text tell; or a negative errno. */
static int read_answer(Connection *c)
{
        for (;;) {
                uint32_t body, fields;
                uint8_t type;
                size_t size;
                int r = receive(c, 16);

                if (r)
                        return r;
                if (c->in[0] != 'l')
                        return -EPROTO;
                type = c->in[1];
                memcpy(&body, c->in + 4, sizeof(body));
                memcpy(&fields, c->in + 12, sizeof(fields));
                if (body > ANSWER_MAX || fields > ANSWER_MAX)
                        return -EMSGSIZE;
                size = 16 + (((size_t)fields + 7) & ~(size_t)7);
                r = receive(c, size + body);
                if (r)
                        return r;
                if (type == TYPE_ERROR) {
                        Reader reader = {.data = c->in + size, .size = body};
                        const char *text = body > 0 ? get_text(&reader, true) : NULL;

                        (void)snprintf(c->error, sizeof(c->error), "%.127s", error_name(c->in + 16, fields));
                        (void)snprintf(c->text, sizeof(c->text), "%.255s", text ? text : c->error);
                }
                take(c, size + body);
                if (type == TYPE_RETURN || type == TYPE_ERROR)
                        return type == TYPE_ERROR;
        }
}

static int call(Connection *c, const char *member, const char *signature, const Writer *body)
{
        Writer message = {};
        int r;

        put_call(&message, member, signature, body, ++c->serial);
        if (message.full)
                return -EMSGSIZE;
        r = send_all(c, message.data, message.n);
        return r ? r : read_answer(c);
}

/* ---- what is asked */

static int start_scope(Connection *c, const char *name, const char *description, const pid_t *pids, size_t n_pids)
{
        size_t size_at, begin;
        Writer body = {};

        put_string(&body, name);
        put_string(&body, "fail");
        begin = begin_array(&body, 8, &size_at);
        put_text_property(&body, "Description", description);
        put_text_property(&body, "CollectMode", "inactive-or-failed");
        put_align(&body, 8);
        put_string(&body, "Delegate");
        put_signature(&body, "b");
        put_u32(&body, 1);
        put_align(&body, 8);
        put_string(&body, "PIDs");
        put_signature(&body, "au");
        put_pids(&body, pids, n_pids);
        end_array(&body, begin, size_at);
        begin = begin_array(&body, 8, &size_at); /* no further units */
        end_array(&body, begin, size_at);
        return call(c, "StartTransientUnit", "ssa(sv)a(sa(sv))", &body);
}

static int attach(Connection *c, const char *name, const char *below, const pid_t *pids, size_t n_pids)
{
        Writer body = {};

        put_string(&body, name);
        put_string(&body, below);
        put_pids(&body, pids, n_pids);
        return call(c, "AttachProcessesToUnit", "ssau", &body);
}

/* Whoever was there before us has left its leaf, beside nodes that may have limits: then nobody may be in the scope itself. */
static int attach_somewhere(Connection *c, const char *name, const pid_t *pids, size_t n_pids)
{
        int r = attach(c, name, "/" CGROUP_SELF, pids, n_pids);

        return r == 1 ? attach(c, name, "", pids, n_pids) : r;
}

static bool is_in(const char *name)
{
        char path[PATH_MAX], *last;

        if (cgroup_path_of(0, path))
                return false;
        last = strrchr(path, '/');
        if (last && strcmp(last + 1, CGROUP_SELF) == 0) {
                *last = '\0';
                last = strrchr(path, '/');
        }
        return last && strcmp(last + 1, name) == 0;
}

/* The unit's job is done some time after the call. */
static int wait_until_in(const char *name, nsec_t until)
{
        while (!is_in(name)) {
                if (clock_now() >= until)
                        return -ETIMEDOUT;
                (void)poll(NULL, 0, 2);
        }
        return 0;
}

static int connect_manager(Connection *c)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        const char *runtime = getenv("XDG_RUNTIME_DIR");
        char usual[64];
        int r;

        (void)snprintf(usual, sizeof(usual), "/run/user/%u", (unsigned)geteuid());
        if (!runtime || runtime[0] != '/')
                runtime = usual;
        if ((size_t)snprintf(address.sun_path, sizeof(address.sun_path), "%s/systemd/private", runtime) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (c->fd < 0)
                return -errno;
        while (connect(c->fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
                if (errno != EAGAIN && errno != EINTR)
                        return errno == ECONNREFUSED ? -ENOENT : -errno;
                if (clock_now() >= c->until) /* its queue is full */
                        return -ETIMEDOUT;
                (void)poll(NULL, 0, RETRY_MS);
        }
        r = authenticate(c);
        return r;
}

static int enter(Connection *c, const char *name, const char *description, const pid_t *pids, size_t n_pids)
{
        int r = connect_manager(c);

        while (!r) {
                r = start_scope(c, name, description, pids, n_pids);
                if (r != 1 || strcmp(c->error, BUS ".UnitExists") != 0)
                        break;
                r = attach_somewhere(c, name, pids, n_pids);
                if (r != 1)
                        break;
                /* It was on its way out. */
                r = clock_now() >= c->until ? -ETIMEDOUT : 0;
                (void)poll(NULL, 0, RETRY_MS);
        }
        return r ? r : wait_until_in(name, c->until);
}

int user_scope_enter(const char *name, const char *description, const pid_t *pids, size_t n_pids, nsec_t until, char *ret_why, size_t why_size)
{
        Connection *c = calloc(1, sizeof(*c));
        int r;

        if (!c)
                return -ENOMEM;
        c->fd = -1;
        c->until = until;
        r = enter(c, name, description, pids, n_pids);
        if (r == 1)
                (void)snprintf(ret_why, why_size, "the user's service manager refuses a scope: %.150s", c->text);
        else if (r == -ENOENT)
                (void)snprintf(ret_why, why_size, "no service manager of this user's runs that could make a scope");
        else if (r == -ETIMEDOUT)
                (void)snprintf(ret_why, why_size, "the user's service manager made no scope in time");
        else if (r)
                (void)snprintf(ret_why, why_size, "asking the user's service manager for a scope: %s", strerrordesc_np(-r));
        (void)fd_close(c->fd);
        free(c);
        return r == 1 ? -EPERM : r;
}
