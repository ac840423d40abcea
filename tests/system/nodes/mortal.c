/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mortal TAKES LIVES HOW: each of the first LIVES incarnations ends after TAKES inputs, a later one lives until it is stopped.
 * All inputs are numbered "INCARNATION:NUMBER"; "TOOK FIRST LAST" is printed for each run of numbers without a gap, at its end,
 * at the TAKES-th and at the end of the stream. HOW: die (exit at once, with status 9), leave (close the node first), hang (wait
 * to be killed), stay (close the node, take the name "left" and wait to be killed).
 */
#include <sys/prctl.h>
#include <unistd.h>

#include "node.h"

static char first[64], last[64];

static void say(void)
{
        if (first[0])
                printf("TOOK %s %s\n", first, last);
        first[0] = last[0] = '\0';
}

/* Whether one number follows the other one. */
static int follows(const char *a, const char *b)
{
        unsigned long long life_a, number_a, life_b, number_b;

        return sscanf(a, "%llu:%llu", &life_a, &number_a) == 2 && sscanf(b, "%llu:%llu", &life_b, &number_b) == 2 &&
               life_a == life_b && number_a + 1 == number_b;
}

static void take(tg_event *ev)
{
        char text[64];

        snprintf(text, sizeof(text), "%.*s", (int)tg_event_size(ev), (const char *)tg_event_data(ev));
        if (!follows(last, text)) {
                say();
                memcpy(first, text, sizeof(first));
        }
        memcpy(last, text, sizeof(last));
}

int main(int argc, char **argv)
{
        unsigned long long takes, lives, n = 0;
        tg_node *node;
        tg_event *ev;

        if (argc != 4)
                DIE("usage: mortal TAKES LIVES die|leave|hang|stay");
        takes = number(argv[1]);
        lives = number(argv[2]);
        setvbuf(stdout, NULL, _IOLBF, 0);
        node = open_node();
        printf("OPEN %u\n", tg_restart_count(node));
        while ((ev = next_event(node))) {
                if (tg_event_type(ev) == TG_EVENT_INPUT) {
                        take(ev);
                        n++;
                }
                tg_event_free(ev);
                if (n != takes)
                        continue;
                say();
                if (tg_restart_count(node) >= lives)
                        continue;
                while (strcmp(argv[3], "hang") == 0)
                        pause();
                if (strcmp(argv[3], "leave") == 0 || strcmp(argv[3], "stay") == 0)
                        tg_node_close(node);
                if (strcmp(argv[3], "stay") == 0)
                        (void)prctl(PR_SET_NAME, "left");
                while (strcmp(argv[3], "stay") == 0)
                        pause();
                _Exit(9);
        }
        say();
        tg_node_close(node);
        return 0;
}
