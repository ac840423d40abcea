/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flood COUNT SIZE [PAUSE-EVERY]: send COUNT numbered messages of SIZE bytes on output `out`, as fast as it can. Every byte tells
 * the number of its message, so that torn or mixed payloads show. Prints how many were sent and how many found no memory.
 */
#include <time.h>

#include "node.h"

int main(int argc, char **argv)
{
        uint64_t count, size, pause_every, n_dropped = 0;
        uint8_t *data;
        tg_node *node;

        if (argc < 3 || argc > 4)
                DIE("usage: flood COUNT SIZE [PAUSE-EVERY]");
        count = number(argv[1]);
        size = number(argv[2]);
        pause_every = argc > 3 ? number(argv[3]) : 0;
        data = malloc(size + 1);
        if (!data)
                DIE("out of memory");
        node = open_node();
        for (uint64_t i = 0; i < count; i++) {
                int r;

                memset(data, (int)(i * 31 % 251), size);
                if (size >= sizeof(i))
                        memcpy(data, &i, sizeof(i));
                r = tg_send(node, "out", data, size, NULL);
                if (r == TG_E_DROPPED)
                        n_dropped++;
                else if (r)
                        DIE("tg_send: %s", tg_strerror(r));
                if (pause_every > 0 && i % pause_every == pause_every - 1)
                        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL); /* bursts: the reader catches up now and then */
        }
        tg_node_close(node);
        printf("{\"sent\": %" PRIu64 ", \"refused\": %" PRIu64 "}\n", count - n_dropped, n_dropped);
        free(data);
        return 0;
}
