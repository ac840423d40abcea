/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The witness's records: what its kernel probe saw (bpf/leave.h), to the supervisor; and the supervisor's one wish. Fixed size, over a
 * SOCK_SEQPACKET pair that the guard makes. Not trusted: the witness ends at the first record of it that is not one of these.
 *
 *   LOOK (supervisor)    a record FOUND for each process that is elsewhere now, then LOOKED
 *   READY | UNAVAILABLE  (witness) once, first. After UNAVAILABLE it ends
 *   MOVED, BORN, FOUND   (witness) somebody left, or is elsewhere
 */
#ifndef TG_PROTOCOL_WITNESS_MSG_H
#define TG_PROTOCOL_WITNESS_MSG_H

#include <stddef.h>
#include <stdint.h>

#define WITNESS_MAGIC     UINT32_C(0x54475731) /* "TGW1": another layout has another number */
#define WITNESS_COMM_SIZE 16u
#define WITNESS_NAME_SIZE 160u /* an id of 128 bytes, a dot and any generation */
#define WITNESS_PATH_SIZE 256u

typedef enum WitnessMsgType {
        WITNESS_MSG_LOOK = 1,
        WITNESS_MSG_READY = 16,       /* ms: what loading took */
        WITNESS_MSG_UNAVAILABLE = 17, /* error, to: why */
        WITNESS_MSG_MOVED = 18,       /* somebody was moved elsewhere; to: where */
        WITNESS_MSG_BORN = 19,        /* somebody was born elsewhere; mover: by whom */
        WITNESS_MSG_FOUND = 20,       /* somebody is elsewhere */
        WITNESS_MSG_LOOKED = 21,      /* that was all; dropped */
} WitnessMsgType;

struct witness_record {
        uint32_t magic;
        uint16_t type;
        uint16_t self;     /* 1: it moved itself, or one did that it descends from */
        uint64_t start_ns; /* CLOCK_BOOTTIME: when the process began; with the pid its identity */
        uint64_t dropped;  /* records that were lost so far */
        int32_t pid;       /* as the witness's PID namespace counts, which is the guard's */
        int32_t mover;     /* likewise; 0: not known */
        int32_t error;
        uint32_t ms;
        char comm[WITNESS_COMM_SIZE], mover_comm[WITNESS_COMM_SIZE];
        char dataflow[WITNESS_NAME_SIZE]; /* the directory of the dataflow that it belongs to ... */
        char node[WITNESS_NAME_SIZE];     /* ... and of the incarnation, "<id>.<generation>" */
        char to[WITNESS_PATH_SIZE];       /* path in the hierarchy, cut if it is longer; "": not known */
};
_Static_assert(sizeof(struct witness_record) == 648, "shared by witness and supervisor");

typedef enum WitnessSender {
        WITNESS_SENDER_SUPERVISOR,
        WITNESS_SENDER_WITNESS,
} WitnessSender;

/**
 * witness_msg_check() - is this packet one that its sender may send?
 * @size: received; @record is read only if it is a whole record
 *
 * After 0 its texts end in NUL; of a process pid is above 0, self 0 or 1, and dataflow and node are names of one component. What they
 * name need not exist, and comms may be any bytes. Pure. Return: 0 or -EPROTO.
 */
int witness_msg_check(WitnessSender from, const struct witness_record *record, size_t size);

#endif
