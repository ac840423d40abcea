/* SPDX-License-Identifier: Apache-2.0 */
/* drain FILE: write the bytes that come on input `in` to FILE; print a JSON object with the counts. */
#include "node.h"

int main(int argc, char **argv)
{
        struct tg_input_stats st = {0};
        uint64_t n_messages = 0, n_gaps = 0, expected = 0;
        tg_node *node;
        tg_event *ev;
        FILE *f;

        if (argc != 2)
                DIE("usage: drain FILE");
        f = fopen(argv[1], "we");
        if (!f)
                DIE("%s: %s", argv[1], strerror(errno));
        node = open_node();
        while ((ev = next_event(node))) {
                if (tg_event_type(ev) == TG_EVENT_INPUT) {
                        n_gaps += tg_event_seq(ev) - expected;
                        expected = tg_event_seq(ev) + 1;
                        n_messages++;
                        if (fwrite(tg_event_data(ev), 1, tg_event_size(ev), f) != tg_event_size(ev))
                                DIE("%s: %s", argv[1], strerror(errno));
                }
                tg_event_free(ev);
        }
        if (tg_input_stats(node, "in", &st) != 0)
                DIE("no statistics of input `in`");
        tg_node_close(node);
        if (fclose(f) != 0)
                DIE("%s: %s", argv[1], strerror(errno));
        printf("{\"messages\": %" PRIu64 ", \"gaps\": %" PRIu64 ", \"delivered\": %" PRIu64 ", \"dropped\": %" PRIu64 "}\n",
                n_messages, n_gaps, st.delivered, st.dropped_queue + st.dropped_pool + st.dropped_source + st.dropped_invalid);
        return 0;
}
