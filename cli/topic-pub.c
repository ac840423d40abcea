/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tidegate topic pub: send messages on an output, in the place of a dynamic node that nobody has taken. What an output sends is written by
 * its node alone, into memory that nobody else can map for writing, so there is no way to send on that of a node that lives; this
 * command becomes the node, as any program that is started by hand does.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "cli/commands.h"
#include "cli/print.h"
#include "cli/table.h"
#include "cli/targets.h"
#include "cli/topic.h"
#include "tidegate/tidegate.h"

#define PUB_RATE      1.0 /* a second */
#define PUB_ROOM_SPAN (5 * NSEC_PER_SEC) /* for readers under backpressure to take what was sent before */
#define PUB_LEAVE_SPAN (2 * NSEC_PER_SEC)
#define PUB_MOST      ((size_t)1 << 30)

/* All of a file, "-" for stdin. Return: 0 or a negative errno. */
static int read_all(const char *path, char **ret, size_t *ret_size)
{
        _cleanup_fd_ int own = -1;
        _cleanup_free_ char *data = NULL;
        size_t size = 0, room = 0;
        int fd = STDIN_FILENO;

        if (strcmp(path, "-") != 0) {
                fd = own = open(path, O_RDONLY | O_CLOEXEC);
                if (own < 0)
                        return -errno;
        }
        for (;;) {
                ssize_t n;

                if (size == room) {
                        char *grown;

                        room = room ? 2 * room : 65536;
                        grown = room <= 2 * PUB_MOST ? realloc(data, room) : NULL;
                        if (!grown)
                                return room > 2 * PUB_MOST ? -EFBIG : -ENOMEM;
                        data = grown;
                }
                n = read(fd, data + size, room - size);
                if (n == 0)
                        break;
                if (n < 0 && errno != EINTR)
                        return -errno;
                size += n > 0 ? (size_t)n : 0;
        }
        *ret = TAKE_PTR(data);
        *ret_size = size;
        return 0;
}

/* Whether the node is a place to be taken. Return: 0 or the exit status, said; *ret_leaving: somebody is about to leave it. */
static int look_at_place(TopicCommand *t, const Topic *topic, bool *ret_leaving)
{
        _cleanup_(json_decrefp) json_t *dataflows = NULL;
        const char *name = topic->dataflow;
        json_t *node, *output;
        bool known = false;
        int transport, status;
        size_t i;

        t->session.links = true;
        status = targets_status(&t->session, &name, 1, &dataflows, &transport);
        if (transport)
                return session_fail(&t->session, transport);
        if (status)
                return status;
        node = dataflow_find_node(json_array_get(dataflows, 0), topic->node);
        json_array_foreach(json_object_get(node, "outputs"), i, output)
                known = known || strcmp(json_get_text(output, "output"), topic->output) == 0;
        if (!known) {
                session_say(&t->session, "node %s has no output %s", topic->node, topic->output);
                return CLI_NO_SUCH;
        }
        if (strcmp(json_get_text(node, "kind"), "dynamic") != 0) {
                session_say(&t->session,
                        "node %s (line %lld) is not dynamic: what its outputs send only its own process can write. Give the reader an input from a node with "
                        "`path: dynamic`, and publish as that one",
                        topic->node, json_get_number(node, "line"));
                return CLI_FAILED;
        }
        if (strcmp(json_get_text(node, "state"), "running") == 0) {
                session_say(&t->session, "node %s has a process (pid %lld): what its outputs send only that can write. Its place is free when it has left", topic->node,
                        json_get_number(node, "pid"));
                return CLI_FAILED;
        }
        *ret_leaving = strcmp(json_get_text(node, "state"), "stopping") == 0 || strcmp(json_get_text(node, "state"), "backoff") == 0;
        return 0;
}

static int check_place(TopicCommand *t, const Topic *topic)
{
        nsec_t until = nsec_add(clock_now(), PUB_LEAVE_SPAN);
        bool leaving = true;
        int status = 0;

        while (!status && leaving && clock_now() < until) {
                status = look_at_place(t, topic, &leaving);
                if (!status && leaving)
                        (void)poll(NULL, 0, 20);
        }
        return status; /* who is still there then the daemon says */
}

/* Return: 0 or the exit status, said. */
static int explain(TopicCommand *t, const Topic *topic, int r, size_t size)
{
        switch (r) {
        case 0:
                return 0;
        case TG_E_TIMEOUT:
                session_say(&t->session, "%s: a reader under backpressure has had no room for %.0f s", topic->name, (double)PUB_ROOM_SPAN / 1e9);
                return CLI_NOT_RUNNING;
        case TG_E_STOPPING:
        case TG_E_END:
                session_say(&t->session, "%s: the dataflow is being stopped", topic->name);
                return CLI_NOT_RUNNING;
        case TG_E_DROPPED:
                session_say(&t->session, "%s: there is no memory for one more message of %zu bytes (shared_memory_pool_size)", topic->name, size);
                return CLI_FAILED;
        case -EMSGSIZE:
                session_say(&t->session, "%s: a message of %zu bytes does not fit into any segment of its pool (shared_memory_pool_size)", topic->name, size);
                return CLI_FAILED;
        default:
                session_say(&t->session, "%s: %s", topic->name, tg_strerror(r));
                return CLI_FAILED;
        }
}

/* Until it is time for the next message. TG_E_END or TG_E_STOPPING: none is wanted any more. */
static int wait_turn(tg_node *node, nsec_t until)
{
        for (;;) {
                nsec_t now = clock_now();
                tg_event *ev;
                int r;

                if (tg_should_stop(node))
                        return TG_E_STOPPING;
                if (now >= until)
                        return 0;
                r = tg_next(node, &ev, (int64_t)(until - now));
                if (r == 0)
                        (void)tg_event_free(ev); /* what comes to the node's inputs is for nobody */
                else if (r != TG_E_TIMEOUT && r != -EINTR)
                        return r;
        }
}

static int publish(TopicCommand *t, const Topic *topic, tg_node *node, const void *data, size_t size, long long *ret_n)
{
        double rate = t->rate > 0 ? t->rate : PUB_RATE;
        nsec_t begun = clock_now();
        long long count = t->count ? t->count : 1;
        int r = 0;

        tg_set_send_timeout(node, PUB_ROOM_SPAN);
        for (*ret_n = 0; *ret_n < count && !r;) {
                r = wait_turn(node, begun + (nsec_t)((double)*ret_n / rate * 1e9));
                if (!r)
                        r = tg_send(node, topic->output, data, size, NULL);
                *ret_n += r == 0;
                if (r == -EINTR)
                        r = 0;
        }
        return explain(t, topic, r, size);
}

static int become(TopicCommand *t, const Topic *topic, const void *data, size_t size)
{
        tg_node *node = NULL;
        long long n = 0;
        int r, status;

        if (unsetenv("TIDEGATE_NODE_SOCKET") < 0 || setenv("TIDEGATE_RUNTIME_DIR", t->session.runtime_dir, 1) < 0)
                return session_fail(&t->session, -errno);
        session_hang_up(&t->session); /* it may take long, and needs no connection */
        do
                r = tg_node_open_as(&node, topic->node, topic->dataflow);
        while (r == -EINTR);
        if (r == -ECANCELED)
                return CLI_FAILED; /* the library has said why */
        if (r) {
                session_say(&t->session, "%s: cannot become node %s: %s", topic->name, topic->node, tg_strerror(r));
                return CLI_FAILED;
        }
        status = publish(t, topic, node, data, size, &n);
        (void)tg_node_close(node);
        if (t->session.json)
                return MAX(status, session_result(&t->session, json_pack("{ss ss sI sI}", "topic", topic->name, "dataflow", topic->dataflow, "published", (json_int_t)n,
                                                                         "size", (json_int_t)size)));
        if (n > 0)
                printf("%s: published %lld message%s of %zu bytes\n", topic->name, n, n == 1 ? "" : "s", size);
        return status;
}

int topic_pub(TopicCommand *t)
{
        _cleanup_free_ char *file = NULL;
        const char *data = t->n > 1 ? t->topics[1] : NULL;
        size_t size = data ? strlen(data) : 0;
        Topic topic;
        int status, r;

        if (!data == !t->file)
                return usage_error("topic", "`topic pub` needs one of both: the text to publish, or --file FILE (`-`: standard input)");
        status = topic_find(&t->session, t->dataflow, t->topics[0], &topic);
        if (!status)
                status = check_place(t, &topic);
        if (status)
                return status;
        if (t->file) {
                r = read_all(t->file, &file, &size);
                if (r) {
                        session_say(&t->session, "%s: %s", t->file, strerror(-r));
                        return CLI_FAILED;
                }
                data = file;
        }
        return become(t, &topic, data, size);
}
