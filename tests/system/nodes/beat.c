/* SPDX-License-Identifier: Apache-2.0 */
/*
 * beat INTERVAL-US [FIRST-LIFE]: send numbers as text, "INCARNATION:NUMBER", on output `out`, until stopped; the first
 * incarnation exits with status 9 after FIRST-LIFE of them.
 */
#include "node.h"

int main(int argc, char **argv)
{
        unsigned long long interval_us, first_life;
        char text[64];
        tg_node *node;
        tg_event *ev;

        if (argc < 2 || argc > 3)
                DIE("usage: beat INTERVAL-US [FIRST-LIFE]");
        interval_us = number(argv[1]);
        first_life = argc > 2 ? number(argv[2]) : 0;
        node = open_node();
        for (unsigned long long i = 0;; i++) {
                int r;

                if (first_life > 0 && i == first_life && tg_restart_count(node) == 0)
                        _Exit(9);
                r = snprintf(text, sizeof(text), "%u:%llu", tg_restart_count(node), i);
                r = tg_send(node, "out", text, (size_t)r, NULL);
                if (r == TG_E_STOPPING)
                        break;
                if (r)
                        DIE("tg_send: %s", tg_strerror(r));
                r = tg_next(node, &ev, (int64_t)interval_us * 1000);
                if (r == TG_E_END)
                        break;
                if (r && r != TG_E_TIMEOUT && r != -EINTR)
                        DIE("tg_next: %s", tg_strerror(r));
                if (!r)
                        tg_event_free(ev);
        }
        tg_node_close(node);
        return 0;
}
