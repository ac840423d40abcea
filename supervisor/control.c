/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/control.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "protocol/control_msg.h"

#define CONTROL_OUT_MAX   (4u << 20) /* bytes a peer may leave unread before events are dropped */
#define CONTROL_READ_SIZE 65536u

struct Control {
        Supervisor *supervisor;
        int fd;
        Source source;
        char *in;
        size_t in_size, in_room;
        char *out;
        size_t out_size, out_room, out_sent;
        int send_fd; /* goes with the next bytes */
        bool busy;   /* a call is under way: one at a time */
        uint64_t n_dropped;
};

static void control_hang_up(Control *control)
{
        source_remove(&control->source);
        control->fd = fd_close(control->fd);
        control->out_size = control->out_sent = 0;
}

/* ---- out */

static ssize_t send_some(Control *control)
{
        struct iovec iov = {.iov_base = control->out + control->out_sent, .iov_len = control->out_size - control->out_sent};
        char space[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))) = {};
        struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
        ssize_t n;

        if (control->send_fd >= 0) {
                struct cmsghdr *c;

                mh.msg_control = space;
                mh.msg_controllen = sizeof(space);
                c = CMSG_FIRSTHDR(&mh);
                c->cmsg_level = SOL_SOCKET;
                c->cmsg_type = SCM_RIGHTS;
                c->cmsg_len = CMSG_LEN(sizeof(int));
                memcpy(CMSG_DATA(c), &control->send_fd, sizeof(int));
        }
        n = sendmsg(control->fd, &mh, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0)
                control->send_fd = fd_close(control->send_fd); /* ours: a socket that we made */
        return n;
}

static void control_flush(Control *control)
{
        while (control->fd >= 0 && control->out_sent < control->out_size) {
                ssize_t n = send_some(control);

                if (n > 0) {
                        control->out_sent += (size_t)n;
                        continue;
                }
                if (errno == EINTR)
                        continue;
                if (errno == EAGAIN)
                        break;
                control_hang_up(control);
                return;
        }
        if (control->out_sent == control->out_size)
                control->out_sent = control->out_size = 0;
        (void)source_set_events(&control->source, EPOLLIN | (control->out_size > 0 ? EPOLLOUT : 0u));
}

static int out_reserve(Control *control, size_t size)
{
        size_t room = MAX(control->out_room, (size_t)4096);
        char *grown;

        if (control->out_sent > 0) {
                memmove(control->out, control->out + control->out_sent, control->out_size - control->out_sent);
                control->out_size -= control->out_sent;
                control->out_sent = 0;
        }
        while (room < control->out_size + size)
                room *= 2;
        if (room == control->out_room)
                return 0;
        grown = realloc(control->out, room);
        if (!grown)
                return error_origin(-ENOMEM);
        control->out = grown;
        control->out_room = room;
        return 0;
}

/* Consumes @message. Whether the peer reads or not, we never wait for it. */
static int control_send(Control *control, json_t *message, size_t max)
{
        char *text = message && control->fd >= 0 ? json_dumps(message, JSON_COMPACT) : NULL;
        size_t size = text ? strlen(text) + 1 : 0;
        int r = -ENOBUFS;

        json_decref(message);
        if (text && control->out_size - control->out_sent + size <= max && out_reserve(control, size) == 0) {
                memcpy(control->out + control->out_size, text, size);
                control->out_size += size;
                control_flush(control);
                r = 0;
        }
        free(text);
        return r;
}

void control_event(Control *control, json_t *event)
{
        if (control->n_dropped > 0) {
                json_t *gap = json_pack("{sb s{s{ss sI}}}", "continues", 1, "parameters", "event", "type", "dropped", "count",
                        (json_int_t)control->n_dropped);

                if (control_send(control, gap, CONTROL_OUT_MAX) == 0)
                        control->n_dropped = 0;
        }
        if (control_send(control, json_pack("{sb s{sO}}", "continues", 1, "parameters", "event", event), CONTROL_OUT_MAX))
                control->n_dropped++;
}

void control_reply(Control *control, json_t *take_parameters)
{
        control->busy = false;
        (void)control_send(control, json_pack("{so}", "parameters", take_parameters), SIZE_MAX / 2);
}

void control_error(Control *control, const char *error, const char *text)
{
        control->busy = false;
        (void)control_send(control, json_pack("{ss s{ss}}", "error", error, "parameters", "text", text), SIZE_MAX / 2);
}

bool control_flushed(const Control *control)
{
        return control->fd < 0 || control->out_size == 0;
}

/* ---- methods */

static nsec_t get_span(json_t *parameters, const char *key, nsec_t otherwise)
{
        json_t *value = json_object_get(parameters, key);

        return json_is_integer(value) && json_integer_value(value) >= 0 ? (nsec_t)json_integer_value(value) : otherwise;
}

static void on_dataflow_event(Dataflow *dataflow, json_t *event, void *owner)
{
        (void)dataflow;
        control_event(owner, event);
}

/* The log stream: the keeper writes one end, the client reads the other. Both are ours by birth. */
static int log_stream_new(int *ret_keeper, int *ret_client)
{
        int pair[2];

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return error_origin(-errno);
        *ret_keeper = pair[0];
        *ret_client = pair[1];
        return 0;
}

static void method_run(Control *control, json_t *parameters)
{
        Supervisor *supervisor = control->supervisor;
        const char *log_dir = json_string_value(json_object_get(parameters, "log_dir"));
        DataflowOptions options = {.grace_ns = get_span(parameters, "grace_ns", 10 * NSEC_PER_SEC),
                .budget_ns = get_span(parameters, "budget_ns", 2 * NSEC_PER_SEC),
                .log_dir = log_dir && log_dir[0] == '/' && strlen(log_dir) < PATH_MAX - 64 ? log_dir : NULL,
                .environ = environ,
                .umask = (mode_t)(get_span(parameters, "umask", 022) & 0777),
                .uid = getuid(),
                .gid = getgid(),
                .owner = control,
                .log_fd = -1};
        Dataflow *dataflow = NULL;
        json_t *accepted;
        char why[512] = "";
        Plan *plan = NULL;
        int r;

        if (supervisor->n_dataflows > 0) {
                control_error(control, CONTROL_E_BUSY, "this instance runs its dataflow already");
                return;
        }
        r = plan_new(&plan, json_object_get(parameters, "plan"), why, sizeof(why));
        if (r) {
                control_error(control, CONTROL_E_PLAN, why[0] ? why : strerror(-r));
                return;
        }
        r = log_stream_new(&options.log_fd, &control->send_fd);
        if (r)
                plan = plan_free(plan);
        else
                r = supervisor_start(supervisor, plan, &options, on_dataflow_event, &dataflow);
        if (r) {
                control_error(control, CONTROL_E_PLAN, strerror(-r));
                return;
        }
        accepted = json_pack("{ss ss}", "type", "accepted", "uuid", dataflow->uuid_text);
        control_event(control, accepted);
        json_decref(accepted);
}

static void method_stop(Control *control, json_t *parameters)
{
        Supervisor *supervisor = control->supervisor;

        Dataflow *dataflow = list_first(&supervisor->dataflows, Dataflow, link);

        if (dataflow)
                dataflow_stop(dataflow, get_span(parameters, "grace_ns", NSEC_NEVER),
                        json_is_true(json_object_get(parameters, "force")), "the command");
        control_reply(control, json_object());
}

static void control_call(Control *control, json_t *call)
{
        const char *method = json_string_value(json_object_get(call, "method"));
        json_t *parameters = json_object_get(call, "parameters");

        control->busy = true;
        if (!method)
                control_error(control, CONTROL_E_PARAMETER, "no method");
        else if (strcmp(method, CONTROL_RUN) == 0)
                method_run(control, parameters);
        else if (strcmp(method, CONTROL_STOP) == 0)
                method_stop(control, parameters);
        else
                control_error(control, CONTROL_E_METHOD, method);
}

/* ---- in */

/* Takes one frame off the buffer. Depth and size of what jansson sees are bounded: 1 MiB, 2048 levels. */
static bool control_take_frame(Control *control)
{
        char *end = control->in_size ? memchr(control->in, '\0', control->in_size) : NULL;
        size_t size;
        json_t *call;

        if (!end || control->busy)
                return false;
        size = (size_t)(end - control->in) + 1;
        call = json_loadb(control->in, size - 1, JSON_REJECT_DUPLICATES, NULL);
        memmove(control->in, control->in + size, control->in_size - size);
        control->in_size -= size;
        if (!json_is_object(call))
                control_hang_up(control);
        else
                control_call(control, call);
        json_decref(call);
        return control->fd >= 0;
}

static int in_reserve(Control *control)
{
        char *grown;

        if (control->in_room - control->in_size >= CONTROL_READ_SIZE)
                return 0;
        if (control->in_size >= CONTROL_FRAME_MAX)
                return -EMSGSIZE;
        grown = realloc(control->in, control->in_size + CONTROL_READ_SIZE);
        if (!grown)
                return error_origin(-ENOMEM);
        control->in = grown;
        control->in_room = control->in_size + CONTROL_READ_SIZE;
        return 0;
}

static int on_control_socket(Source *source, uint32_t revents)
{
        Control *control = container_of(source, Control, source);
        ssize_t n;

        if (revents & EPOLLOUT)
                control_flush(control);
        if (control->fd < 0 || !(revents & (EPOLLIN | EPOLLHUP | EPOLLERR)))
                return 0;
        if (in_reserve(control)) {
                control_hang_up(control);
                return 0;
        }
        n = recv(control->fd, control->in + control->in_size, control->in_room - control->in_size, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return 0;
        if (n <= 0) { /* a private instance's client: the guard sees its death and orders the stop */
                control_hang_up(control);
                return 0;
        }
        control->in_size += (size_t)n;
        while (control_take_frame(control))
                ;
        return 0;
}

int control_new(Control **ret, Supervisor *supervisor, int take_fd)
{
        Control *control = calloc(1, sizeof(*control));
        int r;

        if (!control)
                return error_origin(-ENOMEM);
        *control = (Control){.supervisor = supervisor, .fd = take_fd, .send_fd = -1};
        r = source_add(&supervisor->loop, &control->source, take_fd, EPOLLIN, SOURCE_CLIENTS, on_control_socket);
        if (r) {
                free(control);
                return error_fold(r);
        }
        *ret = control;
        return 0;
}

Control *control_free(Control *control)
{
        if (!control)
                return NULL;
        control_hang_up(control);
        control->send_fd = fd_close(control->send_fd);
        free(control->in);
        free(control->out);
        free(control);
        return NULL;
}
