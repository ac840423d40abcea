/* SPDX-License-Identifier: Apache-2.0 */
#include "protocol/witness_msg.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

static bool is_text(const char *text, size_t room)
{
        return memchr(text, '\0', room);
}

static bool is_name(const char *name, size_t room)
{
        return is_text(name, room) && name[0] != '\0' && name[0] != '.' && !strchr(name, '/');
}

int witness_msg_check(WitnessSender from, const struct witness_record *record, size_t size)
{
        if (size != sizeof(*record) || record->magic != WITNESS_MAGIC)
                return -EPROTO;
        if (from == WITNESS_SENDER_SUPERVISOR)
                return record->type == WITNESS_MSG_LOOK ? 0 : -EPROTO;
        switch (record->type) {
        case WITNESS_MSG_READY:
        case WITNESS_MSG_LOOKED:
                return 0;
        case WITNESS_MSG_UNAVAILABLE:
                return is_text(record->to, sizeof(record->to)) ? 0 : -EPROTO;
        case WITNESS_MSG_MOVED:
        case WITNESS_MSG_BORN:
        case WITNESS_MSG_FOUND:
                return record->pid > 0 && record->mover >= 0 && record->self <= 1 && is_text(record->comm, sizeof(record->comm)) &&
                                       is_text(record->mover_comm, sizeof(record->mover_comm)) && is_text(record->to, sizeof(record->to)) &&
                                       is_name(record->dataflow, sizeof(record->dataflow)) && is_name(record->node, sizeof(record->node))
                               ? 0
                               : -EPROTO;
        default:
                return -EPROTO;
        }
}
