/* SPDX-License-Identifier: Apache-2.0 */
/*
 * older VERSION LATER: a node that is linked with another libtidegate. It says HELLO of version VERSION, does what it is told, and says HELLO of version
 * LATER when a supervisor asks who it is. "ABORT TEXT" is printed when it is turned away.
 */
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node.h"
#include "protocol/node_msg.h"

static uint8_t uuid[16];
static char dataflow[NODE_MSG_NAME_MAX + 1], name[NODE_MSG_ID_MAX + 1];
static uint64_t generation;

static void say(int fd, const NodeMsg *msg)
{
        uint8_t bytes[NODE_MSG_MAX];
        int n = node_msg_encode(msg, bytes, sizeof(bytes));

        if (n < 0 || send(fd, bytes, (size_t)n, MSG_NOSIGNAL) != n)
                DIE("%s cannot be sent", node_msg_name(msg->type));
}

static void say_hello(int fd, unsigned version)
{
        NodeMsg msg = {.type = NODE_MSG_HELLO,
                .hello = {.version = (uint16_t)version, .library = "tidegate 0.0.2", .dataflow = dataflow, .node = name, .generation = generation}};

        memcpy(msg.hello.uuid, uuid, sizeof(uuid));
        say(fd, &msg);
}

static void on_message(int fd, const NodeMsg *msg, unsigned later)
{
        switch (msg->type) {
        case NODE_MSG_WELCOME:
                memcpy(uuid, msg->welcome.uuid, sizeof(uuid));
                snprintf(dataflow, sizeof(dataflow), "%s", msg->welcome.dataflow);
                snprintf(name, sizeof(name), "%s", msg->welcome.node);
                generation = msg->welcome.generation;
                break;
        case NODE_MSG_SETUP_END:
                say(fd, &(NodeMsg){.type = NODE_MSG_MAPPED});
                break;
        case NODE_MSG_RESUME:
                say_hello(fd, later);
                break;
        case NODE_MSG_ABORT:
                printf("ABORT %s\n", msg->abort.text);
                fflush(stdout);
                pause(); /* it is ended by others */
                break;
        case NODE_MSG_STOP:
                exit(0);
        default:
                break;
        }
}

/* Makes the pages of all memory that comes with it and seals it, for it is going to say that it has. */
static ssize_t hear(int fd, void *bytes, size_t size)
{
        union {
                struct cmsghdr c;
                char bytes[CMSG_SPACE(NODE_MSG_MAX_FDS * sizeof(int))];
        } control;
        struct iovec iov = {.iov_base = bytes, .iov_len = size};
        struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
        ssize_t n = recvmsg(fd, &mh, MSG_CMSG_CLOEXEC);
        const struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&mh) : NULL;

        for (size_t i = 0; c && CMSG_LEN((i + 1) * sizeof(int)) <= c->cmsg_len; i++) {
                struct stat st;
                int given;

                memcpy(&given, CMSG_DATA(c) + i * sizeof(int), sizeof(given));
                if (fstat(given, &st) == 0 && st.st_size > 0)
                        (void)(posix_fallocate(given, 0, st.st_size) || fcntl(given, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL));
                close(given);
        }
        return n;
}

int main(int argc, char **argv)
{
        const char *text = getenv(NODE_MSG_FD_ENV);
        uint8_t bytes[NODE_MSG_MAX];
        struct pollfd p = {.events = POLLIN};
        NodeMsg msg;
        ssize_t n;

        if (argc != 3 || !text)
                DIE("usage: older VERSION LATER, as a node");
        p.fd = (int)number(text);
        say_hello(p.fd, (unsigned)number(argv[1]));
        for (;;) {
                if (poll(&p, 1, 60000) != 1)
                        DIE("nobody says anything");
                n = hear(p.fd, bytes, sizeof(bytes));
                if (n <= 0 || node_msg_decode(&msg, bytes, (size_t)n))
                        DIE("the supervisor is gone, or says what is not known here");
                on_message(p.fd, &msg, (unsigned)number(argv[2]));
        }
}
