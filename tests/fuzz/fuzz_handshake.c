/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer: the node socket's decoder, for what the supervisor reads and for what a node reads (one decoder serves
 * both), and the metadata parameters that a consumer reads from a producer's shared memory. Whatever is accepted must
 * encode back to the same bytes and, for messages, be something the receiver may act upon without further checks.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/node_msg.h"
#include "protocol/params.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int good)
{
        if (!good)
                abort();
}

/* Who says HELLO is nobody yet, somebody who asks, or an incarnation: nothing in between. */
static void one_greeting(const NodeMsg *m)
{
        static const uint8_t nobody[16];

        require(m->hello.library && m->hello.dataflow && m->hello.node);
        require(strlen(m->hello.node) <= NODE_MSG_ID_MAX && strlen(m->hello.dataflow) <= NODE_MSG_NAME_MAX);
        require(*m->hello.node || (!*m->hello.dataflow && m->hello.generation == 0));
        require(m->hello.generation > 0 || memcmp(m->hello.uuid, nobody, sizeof(nobody)) == 0);
}

static void one_message(const uint8_t *data, size_t size)
{
        uint8_t *packet = malloc(size ? size : 1); /* exact, so that one byte past the end is seen */
        static uint8_t again[NODE_MSG_MAX];
        NodeMsg m;

        if (size)
                memcpy(packet, data, size);
        if (node_msg_decode(&m, packet, size) == 0) {
                require(node_msg_n_fds(&m) >= 0 && node_msg_n_fds(&m) <= NODE_MSG_MAX_FDS);
                require(!node_msg_from_node(m.type) || node_msg_n_fds(&m) == 0);
                require(strcmp(node_msg_name(m.type), "?") != 0);
                if (m.type == NODE_MSG_HELLO)
                        one_greeting(&m);
                require(node_msg_encode(&m, again, sizeof(again)) == (int)size);
                require(memcmp(again, packet, size) == 0);
        }
        free(packet);
}

static void one_map(const uint8_t *data, size_t size)
{
        uint8_t *bytes = malloc(size ? size : 1), *again;
        _cleanup_(params_freep) Params *params = NULL;
        const char *key;

        if (size)
                memcpy(bytes, data, size);
        if (params_decode(&params, bytes, size) == 0) {
                again = malloc(size);
                require(params_encoded_size(params) == size);
                require(params_encode(params, again, size) == (int)size);
                require(memcmp(again, bytes, size) == 0);
                for (size_t i = 0; i < params_count(params); i++) {
                        const ParamValue *v = params_at(params, i, &key);

                        require(params_get(params, key) == v);
                        require(v->type != PARAM_STRING || strlen(v->s) < size);
                        require(params_set(params, key, v) == 0 ); /* its own value: copied before it is freed */
                }
                free(again);
        }
        free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        if (size == 0)
                return 0;
        if (data[0] & 1)
                one_message(data + 1, size - 1);
        else
                one_map(data + 1, size - 1);
        return 0;
}
