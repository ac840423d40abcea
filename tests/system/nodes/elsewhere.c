/* SPDX-License-Identifier: Apache-2.0 */
/* elsewhere PATH: takes one message, connects to the socket PATH, and waits for an answer there: it does not come back to its inputs. */
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "node.h"

int main(int argc, char **argv)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        struct pollfd p = {.events = POLLIN};
        tg_node *node;
        tg_event *ev;

        if (argc != 2)
                DIE("usage: elsewhere PATH");
        (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", argv[1]);
        node = open_node();
        ev = next_event(node);
        if (!ev || tg_event_type(ev) != TG_EVENT_INPUT)
                DIE("no message");
        p.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        for (int i = 0; connect(p.fd, (struct sockaddr *)&address, sizeof(address)) < 0; i++) {
                if (i == 4000)
                        DIE("%s: %s", argv[1], strerror(errno));
                (void)usleep(5000); /* who listens there has begun when we have */
        }
        (void)poll(&p, 1, -1);
        DIE("poll came back");
}
