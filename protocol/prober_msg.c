/* SPDX-License-Identifier: Apache-2.0 */
#include "protocol/prober_msg.h"

#include <errno.h>
#include <string.h>

int prober_msg_check(const struct prober_record *record, size_t size, size_t n_fds)
{
        if (size != sizeof(*record) || record->magic != PROBER_MAGIC)
                return -EPROTO;
        if (record->type == PROBER_MSG_READY)
                return n_fds == _PROBER_FD_MAX ? 0 : -EPROTO;
        if (record->type == PROBER_MSG_UNAVAILABLE)
                return n_fds == 0 && memchr(record->text, '\0', sizeof(record->text)) ? 0 : -EPROTO;
        return -EPROTO;
}
