/* SPDX-License-Identifier: Apache-2.0 */
#include "protocol/queues_msg.h"

#include <errno.h>
#include <string.h>

int queues_msg_check(int to_helper, const struct queues_record *record, size_t size, size_t n_fds)
{
        if (size != sizeof(*record) || record->magic != QUEUES_MAGIC || record->reserved || !memchr(record->text, '\0', sizeof(record->text)))
                return -EPROTO;
        switch (record->type) {
        case QUEUES_MSG_READY:
                return !to_helper && n_fds == _QUEUES_FD_MAX ? 0 : -EPROTO;
        case QUEUES_MSG_UNAVAILABLE:
                return !to_helper && n_fds == 0 ? 0 : -EPROTO;
        case QUEUES_MSG_DONE:
                return !to_helper && n_fds == 0 && record->n_files <= QUEUES_FILES_MAX ? 0 : -EPROTO;
        case QUEUES_MSG_FILES:
                return to_helper && n_fds == 1 ? 0 : -EPROTO;
        default:
                return -EPROTO;
        }
}
