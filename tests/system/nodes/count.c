/* SPDX-License-Identifier: Apache-2.0 */
/* count [N]: send 0, 1, 2, ... on output `out`, 8 bytes each, until the stop or until N were sent; then print how many. */
#include <stdbool.h>

#include "node.h"

static bool stopped(tg_node *node)
{
        bool stop = false;
        tg_event *ev;
        int r;

        while ((r = tg_next(node, &ev, 0)) == 0) {
                stop = stop || tg_event_type(ev) == TG_EVENT_STOP;
                tg_event_free(ev);
        }
        return stop || r == TG_E_END;
}

int main(int argc, char **argv)
{
        uint64_t most = argc == 2 ? number(argv[1]) : UINT64_MAX;
        tg_node *node = open_node();
        uint64_t n = 0;
        int r = 0;

        while (!r && n < most && !stopped(node)) {
                r = tg_send(node, "out", &n, sizeof(n), NULL);
                n += !r;
        }
        if (r && r != TG_E_STOPPING)
                DIE("tg_send of %" PRIu64 ": %s", n, tg_strerror(r));
        printf("%" PRIu64 " sent\n", n);
        tg_node_close(node);
        return 0;
}
