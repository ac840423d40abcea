/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What tidegate-queues and its supervisor say to each other: fixed size, over a SOCK_SEQPACKET pair that the guard makes. READY or UNAVAILABLE comes
 * first; then each FILES is answered by a DONE, in their order. The files come from a keeper, over another such pair, each as a record of one byte and
 * one descriptor; the end of that pair is the end of the files. Neither side trusts the other: a record that is not whole is none.
 */
#ifndef TG_PROTOCOL_QUEUES_MSG_H
#define TG_PROTOCOL_QUEUES_MSG_H

#include <stddef.h>
#include <stdint.h>

#define QUEUES_MAGIC     UINT32_C(0x54475131) /* "TGQ1": another layout has another number */
#define QUEUES_TEXT_SIZE 192u
#define QUEUES_FILES_MAX 512u /* that one keeper shows at once */

typedef enum QueuesMsgType {
        QUEUES_MSG_READY = 1,       /* fds: in the order of QueuesFd. load_ms, hit_ns */
        QUEUES_MSG_UNAVAILABLE = 2, /* error, text: why; it ends */
        QUEUES_MSG_FILES = 3,       /* to it; fd: where they come from */
        QUEUES_MSG_DONE = 4,        /* n_files: with sites, and attached to, of those that came; error, text: of the first one that could not be; 0, "" */
} QueuesMsgType;

typedef enum QueuesFd { /* for queue_view_open() */
        QUEUES_FD_WATCHED,
        QUEUES_FD_LINKS,
        _QUEUES_FD_MAX,
} QueuesFd;

struct queues_record {
        uint32_t magic;
        uint16_t type;
        uint16_t reserved;
        uint32_t load_ms; /* from the start of the program to now */
        uint32_t hit_ns;  /* measured: what a message takes longer that is told of, at each end */
        uint32_t n_files;
        int32_t error;
        char text[QUEUES_TEXT_SIZE];
};
_Static_assert(sizeof(struct queues_record) == 216, "shared by two programs");

/**
 * queues_msg_check() - is this a record that may come to the supervisor, or with @to_helper to tidegate-queues?
 * @size:  received; @record is read only if it is a whole record
 * @n_fds: that came with it
 *
 * After 0 its text ends in NUL, and all descriptors of its type are there. Pure. Return: 0 or -EPROTO.
 */
int queues_msg_check(int to_helper, const struct queues_record *record, size_t size, size_t n_fds);

#endif
