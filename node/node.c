/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a connection: open, identity, stop flag, close.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include "base/hot.h"
#include "node/node-internal.h"

#define SETUP_SPAN (60 * NSEC_PER_SEC) /* for the supervisor to send what it has ready; the barrier has its own bound */
#define ABORT_SPAN (5 * NSEC_PER_SEC)  /* after the start's deadline, for the supervisor to say why it gave up */

HOT void node_ref(tg_node *node)
{
        (void)__atomic_fetch_add(&node->n_refs, 1, __ATOMIC_RELAXED); /* the caller has one */
}

static tg_node *node_free(tg_node *node)
{
        Heard *heard, *next;
        tg_event *event;

        while ((event = node->spare_events)) {
                node->spare_events = event->next_spare;
                free(event);
        }
        free(node->spare_sample);
        list_for_each(heard, next, &node->heard, link)
                free(heard);
        setup_undo(node);
        if (node->alive)
                (void)munmap(node->alive, 4096);
        (void)fd_close(node->self_fd);
        free(node->socket_path);
        free(node->refusal);
        free(node->dataflow);
        free(node->id);
        free(node);
        return NULL;
}

HOT tg_node *node_unref(tg_node *node)
{
        /* acq_rel: whoever frees has seen what the others did before they let go */
        if (__atomic_fetch_sub(&node->n_refs, 1, __ATOMIC_ACQ_REL) == 1)
                return node_free(node);
        return NULL;
}

static void close_fds(tg_node *node)
{
        node->fd = fd_close(node->fd);
        node->epoll_fd = fd_close(node->epoll_fd);
        node->timer_fd = fd_close(node->timer_fd);
        node->outer_fd = fd_close(node->outer_fd);
        node->outer_nudge_fd = fd_close(node->outer_nudge_fd);
}

/* Drops what was not taken and lets go of everything that no event or sample needs. */
static void leave(tg_node *node)
{
        tg_event *event;

        for (unsigned i = 0; i < node->n_outputs; i++)
                if (node->outputs[i].writer)
                        output_close(&node->outputs[i]);
        lock_take(&node->lock);
        node->closed = true;
        if (node->n_events_out)
                node_ref(node); /* the last one that is freed gives it back */
        if (node->bell.shared)
                bell_wake(&node->bell);
        while ((event = list_first(&node->events, tg_event, link))) {
                list_unlink(&event->link);
                event_drop(event);
        }
        for (unsigned i = 0; i < node->n_inputs; i++)
                if (node->inputs[i].pending)
                        event_drop(TAKE_PTR(node->inputs[i].pending));
        node_drop_links(node);
        socket_flush(node); /* the last chance of what waits for room */
        socket_lost(node);
        close_fds(node);
        lock_give(&node->lock);
}

tg_node *tg_node_close(tg_node *node)
{
        Peer *peer, *next;

        if (!node)
                return NULL;
        if (node_forked(node)) { /* this process's copies only: a peer's socket it keeps would hide the parent's death */
                list_for_each(peer, next, &node->peers, link)
                        peer_close_fds(peer);
                close_fds(node);
                return NULL;
        }
        leave(node);
        return node_unref(node);
}

static void node_closep(tg_node **node)
{
        *node = tg_node_close(*node);
}

/* -------- opening -------- */

static int make_descriptors(tg_node *node)
{
        int r;

        node->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        node->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        node->self_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (node->epoll_fd < 0 || node->timer_fd < 0 || node->self_fd < 0)
                return error_origin(-errno);
        r = join_watch(node, node->timer_fd, EPOLLIN, NODE_TAG_TIMER);
        if (r == 0)
                r = join_watch(node, node->self_fd, EPOLLIN, NODE_TAG_SELF);
        return r;
}

static int make_alive(tg_node *node)
{
        void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (page == MAP_FAILED)
                return error_origin(-errno);
        node->alive = page;
        *node->alive = 1;
        return madvise(page, 4096, MADV_WIPEONFORK) < 0 ? error_origin(-errno) : 0;
}

static int node_new(tg_node **ret)
{
        _cleanup_(node_closep) tg_node *node = NULL;
        tg_node *n;
        int r;

        n = calloc(1, sizeof(*n));
        if (!n)
                return error_origin(-ENOMEM);
        n->n_refs = 1;
        n->fd = n->epoll_fd = n->timer_fd = n->self_fd = n->outer_fd = n->outer_nudge_fd = n->self.fd = n->self.heard_fd = n->self.rung_fd = -1;
        n->timer_armed = n->stop_by = NSEC_NEVER;
        n->join_span = JOIN_SPAN_MIN;
        n->verdict_by = NSEC_NEVER;
        n->send_timeout_ns = TG_FOREVER;
        n->grow_span = NODE_GROW_SPAN;
        n->relook_span = NODE_RELOOK_NS;
        n->wait_mode = NODE_WAIT_ADAPTIVE;
        n->last_serial = NODE_TAG_PEERS;
        n->self.current = true;
        list_init(&n->packets);
        list_init(&n->peers);
        list_init(&n->sources);
        list_init(&n->events);
        list_init(&n->heard);
        r = make_alive(n);
        if (r) {
                (void)node_free(n);
                return r;
        }
        node = n;
        r = make_descriptors(node);
        if (r)
                return r;
        spin_cost_init(&node->cost, node->epoll_fd);
        *ret = TAKE_PTR(node);
        return 0;
}

/* The inherited socket, if it is one: another program may have been left with the variable and any descriptor. */
static int find_socket(int *ret)
{
        const char *text = getenv(NODE_MSG_FD_ENV);
        int domain = 0, type = 0;
        socklen_t len = sizeof(int);
        char *end;
        long fd;

        if (!text || !*text)
                return -ENOTCONN;
        errno = 0;
        fd = strtol(text, &end, 10);
        if (errno || *end || text[0] < '0' || text[0] > '9' || fd > 1 << 30)
                return -ENOTCONN;
        if (getsockopt((int)fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 || domain != AF_UNIX ||
            getsockopt((int)fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_SEQPACKET)
                return -ENOTCONN;
        *ret = (int)fd;
        return 0;
}

static nsec_t open_deadline(const tg_node *node, nsec_t began)
{
        if (node->state < NODE_READY)
                return nsec_add(began, SETUP_SPAN);
        return nsec_add(node->start_deadline, ABORT_SPAN);
}

/* Until START. The doorbells of peers may ring or hang up meanwhile; their edges stay in the epoll until tg_next(). */
static int await_start(tg_node *node)
{
        nsec_t began = clock_now(), now, until;
        int r;

        for (;;) {
                struct pollfd pfd = {.events = POLLIN};

                lock_take(&node->lock);
                join_if_due(node);
                r = socket_read(node);
                lock_give(&node->lock);
                if (r || node->state == NODE_RUNNING)
                        return r;
                if (node->fd < 0 && !socket_is_awaited(node))
                        return error_origin(-ECONNRESET);
                now = clock_now();
                until = open_deadline(node, began);
                if (now >= until)
                        return error_origin(node->fd < 0 ? -ECONNRESET : -ETIMEDOUT);
                pfd.fd = node->fd; /* -1: poll() only waits */
                if (!list_empty(&node->packets))
                        pfd.events |= POLLOUT;
                if (node->fd < 0)
                        until = MIN(until, node->join_at);
                if (poll(&pfd, 1, nsec_poll_ms(until, now)) < 0)
                        return -errno;
        }
}

/* The socket that the supervisor left us, and the path where we find another if that one hangs up. */
static int begin_inherited(tg_node **ret, int take_fd)
{
        const char *path = getenv(NODE_MSG_SOCKET_ENV);
        _cleanup_(node_closep) tg_node *node = NULL;
        int r;

        /* From here on it is ours: programs that we start do not inherit it, whatever the variable says. The variable
         * stays, for unsetenv() is not safe beside other threads. */
        (void)fcntl(take_fd, F_SETFD, FD_CLOEXEC);
        r = node_new(&node);
        if (r)
                return r;
        if (path && *path) {
                node->socket_path = strdup(path);
                if (!node->socket_path)
                        return error_origin(-ENOMEM);
        }
        r = join_socket(node, take_fd);
        if (r)
                return r;
        *ret = TAKE_PTR(node);
        return 0;
}

static bool is_name(const char *text, size_t max_len)
{
        return text && *text && strnlen(text, max_len + 1) <= max_len;
}

/* A dynamic node: nobody left us anything, we ask to be let in. */
static int begin_as(tg_node **ret, const char *id, const char *dataflow)
{
        _cleanup_(node_closep) tg_node *node = NULL;
        int r;

        if (!is_name(id, NODE_MSG_ID_MAX) || (*dataflow && !is_name(dataflow, NODE_MSG_NAME_MAX)))
                return error_origin(-EINVAL);
        r = node_new(&node);
        if (r)
                return r;
        node->id = strdup(id);
        node->dataflow = strdup(dataflow);
        if (!node->id || !node->dataflow)
                return error_origin(-ENOMEM);
        r = join_find_path(&node->socket_path);
        if (r)
                return r;
        r = join_by_name(node);
        if (r == -ENOENT || r == -ENOTDIR || r == -ECONNREFUSED)
                return -ENOTCONN; /* no daemon there. Many others that connect just now (-EAGAIN) are a reason to wait */
        if (r && r != -EAGAIN)
                return error_fold(r);
        *ret = TAKE_PTR(node);
        return 0;
}

/* @id: NULL for the inherited socket. */
static int open_node(tg_node **ret, const char *id, const char *dataflow)
{
        static tg_node *opening; /* of a call that a signal ended */
        static Lock lock;
        static bool opened;
        _cleanup_(node_closep) tg_node *node = NULL;
        int fd = -1, r = 0;

        if (!lock_try(&lock))
                return -EALREADY;
        node = TAKE_PTR(opening);
        if (opened && (!node || node_forked(node)))
                r = node ? -EOWNERDEAD : -EALREADY;
        else if (!node && id) {
                r = begin_as(&node, id, dataflow);
                opened = r == 0;
        } else if (!node) {
                r = find_socket(&fd);
                if (r == 0) {
                        opened = true;
                        r = begin_inherited(&node, fd);
                }
        }
        if (r == 0)
                r = await_start(node);
        if (r == -EINTR)
                opening = TAKE_PTR(node);
        else if (r == 0)
                *ret = TAKE_PTR(node);
        else if (node && node->refusal)
                fprintf(stderr, "tidegate: the start was given up: %s\n", node->refusal);
        if (node && id && r != -EOWNERDEAD)
                opened = false; /* failed, and nothing was used up: the program may ask again, or as another node */
        lock_give(&lock);
        return r;
}

int tg_node_open(tg_node **ret)
{
        return open_node(ret, NULL, NULL);
}

int tg_node_open_as(tg_node **ret, const char *node_id, const char *dataflow)
{
        return open_node(ret, node_id ? node_id : "", dataflow ? dataflow : "");
}

/* -------- identity and stop -------- */

const char *tg_node_id(const tg_node *node)
{
        return node->id;
}

const char *tg_dataflow_id(const tg_node *node)
{
        return node->uuid_text;
}

const char *tg_dataflow_name(const tg_node *node)
{
        return node->dataflow;
}

uint32_t tg_restart_count(const tg_node *node)
{
        return node->restart_count;
}

const char *tg_input_name(const tg_node *node, unsigned index)
{
        return index < node->n_inputs ? node->inputs[index].id : NULL;
}

const char *tg_output_name(const tg_node *node, unsigned index)
{
        return index < node->n_outputs ? node->outputs[index].id : NULL;
}

bool tg_should_stop(const tg_node *node)
{
        return node_told_to_stop(node);
}

uint64_t tg_stop_deadline(const tg_node *node)
{
        nsec_t deadline = NSEC_NEVER;
        uint32_t cause;

        (void)control_stop_read(&node->control, &cause, &deadline);
        if (__atomic_load_n(&node->told_to_stop, __ATOMIC_ACQUIRE)) /* with the deadline that it came with */
                deadline = MIN(deadline, __atomic_load_n(&node->stop_by, __ATOMIC_RELAXED));
        return deadline;
}

int tg_input_stats(tg_node *node, const char *name, struct tg_input_stats *ret)
{
        int r = -ENOENT;

        if (node_forked(node))
                return -EOWNERDEAD;
        lock_take(&node->lock);
        for (unsigned i = 0; i < node->n_inputs; i++)
                if (strcmp(node->inputs[i].id, name) == 0) {
                        input_stats(&node->inputs[i], ret);
                        r = 0;
                        break;
                }
        lock_give(&node->lock);
        return r;
}
