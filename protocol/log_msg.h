/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log stream: lines of the nodes' stdout and stderr on their way from a keeper to whoever shows them.
 *
 * Transport: SOCK_SEQPACKET unix socket pair made by the supervisor, written by the keeper without ever blocking. While it is full the
 * nodes are not read; what a reader does not take for too long (supervisor/keeper-stream.h) is dropped, and counted in a DROPPED record
 * once there is room again. No I/O here.
 */
#ifndef TG_PROTOCOL_LOG_MSG_H
#define TG_PROTOCOL_LOG_MSG_H

#include <stddef.h>
#include <stdint.h>

#define LOG_MSG_MAX      16384
#define LOG_MSG_TEXT_MAX 16000 /* longer lines are cut here for the screen; the log file has them up to LOG_LINE_MAX */
#define LOG_LINE_MAX     65536 /* bytes of one line that are kept at all; the rest of it is counted */

typedef enum LogMsgType {
        LOG_MSG_LINE = 1,
        LOG_MSG_DROPPED = 2, /* count lines of this node were not shown because the reader was slow */
} LogMsgType;

typedef struct LogMsg {
        LogMsgType type;
        uint32_t node;     /* index in the plan */
        uint8_t stream;    /* 1 stdout, 2 stderr */
        uint64_t wall_ns;  /* CLOCK_REALTIME */
        uint64_t count;    /* DROPPED: lines; LINE: bytes of the line that were cut off, usually 0 */
        const char *text;  /* LINE: without the newline, NUL bytes shown as U+FFFD; not necessarily UTF-8 otherwise */
} LogMsg;

int log_msg_encode(const LogMsg *msg, void *buffer, size_t size); /* bytes, or -EMSGSIZE */
int log_msg_decode(LogMsg *msg, void *packet, size_t size);       /* 0 or -EPROTO; text points into packet */

#endif
