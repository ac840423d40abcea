/* SPDX-License-Identifier: Apache-2.0 */
/* relay: send on what comes. Input `in`, output `out`. */
#include "node.h"

int main(void)
{
        tg_node *node = open_node();
        tg_event *ev;

        while ((ev = next_event(node))) {
                if (tg_event_type(ev) == TG_EVENT_INPUT)
                        send_or_die(node, "out", tg_event_data(ev), tg_event_size(ev), tg_event_params(ev));
                tg_event_free(ev);
        }
        tg_node_close(node);
        return 0;
}
