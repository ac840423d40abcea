/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rounds ask N: send a number on output `out`, and wait until it comes back. N times.
 * rounds answer N INPUTS: send a number back on output `out` once it has come on each of `in0`, `in1`, ...
 * What either waits for comes only after the other one was woken. At the end it prints how often it gave up its CPU, and how many timers it has.
 */
#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include "node.h"

static unsigned count_timers(void)
{
        DIR *dir = opendir("/proc/self/fd");
        char path[300], target[64];
        struct dirent *entry;
        unsigned n = 0;

        while (dir && (entry = readdir(dir))) {
                snprintf(path, sizeof(path), "/proc/self/fd/%s", entry->d_name);
                memset(target, 0, sizeof(target));
                if (readlink(path, target, sizeof(target) - 1) > 0)
                        n += strstr(target, "timerfd") != NULL;
        }
        closedir(dir);
        return n;
}

static void say(void)
{
        struct rusage usage;

        getrusage(RUSAGE_SELF, &usage);
        printf("slept %ld timers %u\n", usage.ru_nvcsw, count_timers());
        fflush(stdout);
}

static void ask(tg_node *node, uint64_t n)
{
        for (uint64_t i = 0; i < n; i++) {
                tg_event *ev;

                send_or_die(node, "out", &i, sizeof(i), NULL);
                ev = next_event(node);
                if (!ev || tg_event_type(ev) != TG_EVENT_INPUT || *(const uint64_t *)tg_event_data(ev) != i)
                        DIE("%" PRIu64 " did not come back", i);
                tg_event_free(ev);
        }
        say();
}

static void answer(tg_node *node, uint64_t n, uint64_t n_inputs)
{
        uint64_t *came = calloc(n_inputs, sizeof(*came)), in_all = 0;
        tg_event *ev;

        while ((ev = next_event(node))) {
                if (tg_event_type(ev) == TG_EVENT_INPUT) {
                        uint64_t i = *(const uint64_t *)tg_event_data(ev), at = number(tg_event_id(ev) + 2);

                        if (at >= n_inputs || i != came[at]++)
                                DIE("%" PRIu64 " came on %s", i, tg_event_id(ev));
                        if (++in_all == n * n_inputs)
                                say(); /* while the other one is still there */
                        if (in_all % n_inputs == 0)
                                send_or_die(node, "out", &i, sizeof(i), NULL); /* the next round comes only after that */
                }
                tg_event_free(ev);
        }
        printf("%" PRIu64 " came\n", in_all);
        free(came);
}

int main(int argc, char **argv)
{
        tg_node *node = open_node();

        if (argc == 3 && strcmp(argv[1], "ask") == 0)
                ask(node, number(argv[2]));
        else if (argc == 4 && strcmp(argv[1], "answer") == 0)
                answer(node, number(argv[2]), number(argv[3]));
        else
                DIE("usage: rounds ask N | rounds answer N INPUTS");
        tg_node_close(node);
        return 0;
}
