/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hold ID SECONDS: started by hand, takes the place of the dynamic node ID and keeps it, deaf to SIGTERM and to the stop event. Not let in it tries
 * again for so long.
 */
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "node.h"

int main(int argc, char **argv)
{
        tg_node *node = NULL;
        int r = -1;

        if (argc != 3)
                DIE("usage: hold ID SECONDS");
        signal(SIGTERM, SIG_IGN);
        for (unsigned long long n = 20 * number(argv[2]); n-- > 0;) {
                r = tg_node_open_as(&node, argv[1], NULL);
                if (r == 0)
                        break;
                nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
        }
        if (r)
                DIE("tg_node_open_as: %s", tg_strerror(r));
        for (;;)
                pause();
}
