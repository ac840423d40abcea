/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The prober's one record: that its probe is attached, with the memory in which it counts, or why it is not. Fixed size, over a SOCK_SEQPACKET pair
 * that the guard makes. After READY the prober is there, silent, and with it what it has attached; it ends when the socket hangs up, and after
 * UNAVAILABLE. Not trusted: a record that is not whole is none, and neither is a second one.
 */
#ifndef TG_PROTOCOL_PROBER_MSG_H
#define TG_PROTOCOL_PROBER_MSG_H

#include <stddef.h>
#include <stdint.h>

#define PROBER_MAGIC     UINT32_C(0x54475031) /* "TGP1": another layout has another number */
#define PROBER_TEXT_SIZE 192u

typedef enum ProberMsgType {
        PROBER_MSG_READY = 1,       /* fds: in the order of ProberFd. load_ms, call_ns, other_call_ns */
        PROBER_MSG_UNAVAILABLE = 2, /* error, text: why */
} ProberMsgType;

typedef enum ProberFd { /* for call_view_open() */
        PROBER_FD_WATCHED, /* who is watched: written by the supervisor */
        PROBER_FD_SLOTS,   /* what was counted */
        _PROBER_FD_MAX,
} ProberFd;

struct prober_record {
        uint32_t magic;
        uint16_t type;
        uint16_t reserved;
        uint32_t load_ms;       /* from the start of the program to now */
        uint32_t call_ns;       /* measured here: what a system call of somebody watched takes longer, in ns */
        uint32_t other_call_ns; /* likewise of anybody else on the host, while the probe is attached */
        int32_t error;
        char text[PROBER_TEXT_SIZE];
};
_Static_assert(sizeof(struct prober_record) == 216, "shared by prober and supervisor");

/**
 * prober_msg_check() - is this a record of a prober?
 * @size:  received; @record is read only if it is a whole record
 * @n_fds: that came with it
 *
 * After 0 of UNAVAILABLE its text ends in NUL; of READY all descriptors are there. Pure. Return: 0 or -EPROTO.
 */
int prober_msg_check(const struct prober_record *record, size_t size, size_t n_fds);

#endif
