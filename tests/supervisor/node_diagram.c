/* SPDX-License-Identifier: Apache-2.0 */
/* Prints the table of a node's life as a Mermaid state diagram; docs/architecture.md shows it, tests/system/test_docs.py compares. */
#include <stdio.h>

#include "supervisor/node.h"

int main(void)
{
        printf("stateDiagram-v2\n    [*] --> pending\n");
        for (unsigned s = 0; s < _NODE_STATE_MAX; s++) {
                for (unsigned e = 0; e < _NODE_EVENT_MAX; e++) {
                        NodeState next;

                        if (node_step(s, e, &next))
                                printf("    %s --> %s: %s\n", node_state_to_string(s), node_state_to_string(next), node_event_to_string(e));
                }
        }
        return 0;
}
