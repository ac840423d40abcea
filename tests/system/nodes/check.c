/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check FILE US [N]: what comes on input `in` has to be 0, 1, 2, ... as `count` sends it. FILE is shared memory for whoever looks: number of messages,
 * number of those that were not the one expected, the one expected next, whether one may be in its hands that is not noted yet, and how many incarnations
 * before were killed in such a moment; a new one goes on with what is there. Each is looked at for US microseconds,
 * and with N the program ends by itself after so many.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "node.h"

int main(int argc, char **argv)
{
        volatile uint64_t *seen;
        tg_node *node;
        tg_event *ev;
        unsigned long long left;
        int fd;

        if (argc != 3 && argc != 4)
                DIE("usage: check FILE US [N]");
        left = argc == 4 ? number(argv[3]) : UINT64_MAX;
        fd = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        if (fd < 0 || ftruncate(fd, 5 * sizeof(*seen)) < 0)
                DIE("%s: %s", argv[1], strerror(errno));
        seen = mmap(NULL, 5 * sizeof(*seen), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (seen == MAP_FAILED)
                DIE("%s: %s", argv[1], strerror(errno));
        seen[4] += seen[3]; /* here, and by nobody who looks after a death: we may have begun by then */
        seen[3] = 0;
        node = open_node();
        while (left > 0) {
                seen[3] = 1;
                ev = next_event(node);
                if (!ev)
                        break;
                if (tg_event_type(ev) == TG_EVENT_INPUT) {
                        uint64_t n = UINT64_MAX;

                        if (tg_event_size(ev) == sizeof(n))
                                memcpy(&n, tg_event_data(ev), sizeof(n));
                        seen[1] += n != seen[2];
                        seen[2] = n + 1;
                        seen[0]++;
                        seen[3] = 0;
                        left--;
                        nanosleep(&(struct timespec){.tv_nsec = (long)number(argv[2]) * 1000}, NULL);
                }
                tg_event_free(ev);
        }
        seen[3] = 0;
        tg_node_close(node);
        return 0;
}
