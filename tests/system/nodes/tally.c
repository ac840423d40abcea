/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tally [PAUSE-US]: take what flood sends on input `in`, slowly. Checks every payload, counts the gaps in the sequence and holds
 * them against the library's own counters. Prints a JSON object.
 */
#include <time.h>

#include "node.h"

/* The number that a message of flood carries: every byte must belong to the same one. */
static uint64_t check_payload(const tg_event *ev)
{
        const uint8_t *data = tg_event_data(ev);
        size_t size = tg_event_size(ev);
        uint64_t i = 0;

        if (size < sizeof(i))
                DIE("message %" PRIu64 " has %zu bytes", tg_event_seq(ev), size);
        memcpy(&i, data, sizeof(i));
        for (size_t k = sizeof(i); k < size; k++)
                if (data[k] != i * 31 % 251)
                        DIE("message %" PRIu64 " (number %" PRIu64 "): byte %zu is torn", tg_event_seq(ev), i, k);
        return i;
}

int main(int argc, char **argv)
{
        struct timespec pause = {.tv_nsec = argc > 1 ? (long)number(argv[1]) * 1000 : 0};
        uint64_t n_messages = 0, n_gaps = 0, expected = 0, last = 0;
        struct tg_input_stats st = {0};
        tg_node *node = open_node();
        tg_event *ev;

        while ((ev = next_event(node))) {
                if (tg_event_type(ev) == TG_EVENT_INPUT) {
                        uint64_t i = check_payload(ev);

                        if (tg_event_seq(ev) < expected || (n_messages > 0 && i <= last))
                                DIE("message %" PRIu64 " (number %" PRIu64 ") came after %" PRIu64, tg_event_seq(ev), i, last);
                        n_gaps += tg_event_seq(ev) - expected;
                        expected = tg_event_seq(ev) + 1;
                        last = i;
                        n_messages++;
                        if (pause.tv_nsec > 0)
                                nanosleep(&pause, NULL);
                }
                tg_event_free(ev);
        }
        if (tg_input_stats(node, "in", &st) != 0)
                DIE("no statistics of input `in`");
        tg_node_close(node);
        printf("{\"messages\": %" PRIu64 ", \"gaps\": %" PRIu64 ", \"last\": %" PRIu64 ", \"delivered\": %" PRIu64
               ", \"dropped_queue\": %" PRIu64 ", \"dropped_pool\": %" PRIu64 ", \"dropped_source\": %" PRIu64
               ", \"dropped_invalid\": %" PRIu64 "}\n",
                n_messages, n_gaps, last, st.delivered, st.dropped_queue, st.dropped_pool, st.dropped_source, st.dropped_invalid);
        return 0;
}
