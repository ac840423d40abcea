/* SPDX-License-Identifier: Apache-2.0 */
#include "protocol/log_msg.h"

#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "protocol/wire.h"

/* LINE: of stdout or stderr. DROPPED: of one of them, or of both (0). */
static int is_valid(const LogMsg *m)
{
        switch (m->type) {
        case LOG_MSG_LINE:
                return m->stream == 1 || m->stream == 2;
        case LOG_MSG_DROPPED:
                return m->stream <= 2 && m->count > 0;
        default:
                return 0;
        }
}

int log_msg_encode(const LogMsg *msg, void *buffer, size_t size)
{
        Wire w = wire_init(buffer, MIN(size, (size_t)LOG_MSG_MAX));

        if (!is_valid(msg) || (msg->type == LOG_MSG_LINE && strlen(msg->text) > LOG_MSG_TEXT_MAX))
                return -EMSGSIZE;
        wire_put_u8(&w, (uint8_t)msg->type);
        wire_put_u32(&w, msg->node);
        wire_put_u8(&w, msg->stream);
        wire_put_u64(&w, msg->wall_ns);
        wire_put_u64(&w, msg->count);
        if (msg->type == LOG_MSG_LINE)
                wire_put_str(&w, msg->text);
        return w.bad ? -EMSGSIZE : (int)w.at;
}

int log_msg_decode(LogMsg *msg, void *packet, size_t size)
{
        Wire w = wire_init(packet, size);
        LogMsg m = {};

        if (size > LOG_MSG_MAX)
                return -EPROTO;
        m.type = (LogMsgType)wire_get_u8(&w);
        m.node = wire_get_u32(&w);
        m.stream = wire_get_u8(&w);
        m.wall_ns = wire_get_u64(&w);
        m.count = wire_get_u64(&w);
        m.text = m.type == LOG_MSG_LINE ? wire_get_str(&w, LOG_MSG_TEXT_MAX) : "";
        if (wire_done(&w) || !is_valid(&m))
                return -EPROTO;
        *msg = m;
        return 0;
}
