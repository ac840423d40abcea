/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hear [EXIT-AFTER]: print every event but most inputs as a line "KIND ID DATA"; of inputs those whose number is new to the
 * sender's incarnation, that is "0:..." to "1:...", and every 100th. The first incarnation exits with status 9 after
 * EXIT-AFTER inputs.
 */
#include "node.h"

static const char *const kinds[] = {
        [TG_EVENT_INPUT] = "INPUT",
        [TG_EVENT_INPUT_CLOSED] = "INPUT_CLOSED",
        [TG_EVENT_INPUT_RECOVERED] = "INPUT_RECOVERED",
        [TG_EVENT_STOP] = "STOP",
        [TG_EVENT_NODE_FAILED] = "NODE_FAILED",
        [TG_EVENT_NODE_RESTARTED] = "NODE_RESTARTED",
        [TG_EVENT_ERROR] = "ERROR",
};

int main(int argc, char **argv)
{
        unsigned long long exit_after = argc > 1 ? number(argv[1]) : 0, n = 0;
        unsigned last = 0;
        tg_node *node;
        tg_event *ev;

        setvbuf(stdout, NULL, _IOLBF, 0);
        node = open_node();
        printf("OPEN %u\n", tg_restart_count(node));
        while ((ev = next_event(node))) {
                bool input = tg_event_type(ev) == TG_EVENT_INPUT;
                char text[256] = "";
                unsigned sender;

                if (tg_event_data(ev))
                        snprintf(text, sizeof(text), "%.*s", (int)tg_event_size(ev), (const char *)tg_event_data(ev));
                sender = input ? (unsigned)atoi(text) : 0;
                if (!input || n % 100 == 0 || sender != last)
                        printf("%s %s %s\n", kinds[tg_event_type(ev)], tg_event_id(ev), text);
                if (input) {
                        last = sender;
                        n++;
                }
                tg_event_free(ev);
                if (exit_after > 0 && n == exit_after && tg_restart_count(node) == 0)
                        _Exit(9);
        }
        tg_node_close(node);
        printf("END %llu\n", n);
        return 0;
}
