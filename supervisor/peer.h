/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is at the other end of a control connection, as the kernel says: never as the peer does. Asks procfs about one process;
 * and its pidfd, which answer from memory and do not block.
 */
#ifndef TG_SUPERVISOR_PEER_H
#define TG_SUPERVISOR_PEER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

typedef struct Peer { /* of the process that connected, at that moment */
        uid_t uid;
        gid_t gid;
        pid_t pid;
        int pidfd; /* only where the socket cannot give one later; -1 */
} Peer;

int peer_init(Peer *ret, int sock); /* 0 or a negative errno */
void peer_done(Peer *peer);

/* peer_process() - a new pidfd of the process that connected; -EOPNOTSUPP: the kernel cannot tell (before 6.5), -ESRCH: it has ended, or another -errno. */
int peer_process(int sock);

/* What a dataflow inherits from whoever starts it. */
typedef struct PeerFacts {
        struct rlimit nofile;
        uint32_t n_groups;
        gid_t groups[64];
} PeerFacts;

enum {
        PEER_E_REFUSED = 1, /* nothing may be started for it; the text says why */
};

/**
 * peer_examine() - may it have processes started, and with what
 * @sock:    its connection
 * @nofile:  the highest that we can give
 * @ret_why: room for @why_size bytes
 *
 * We must not be anybody's way out of a sandbox: a caller other than root that lives in namespaces other than ours, or under
 * NoNewPrivs or seccomp filters that we are not under, is refused; so is one that is gone.
 *
 * Return: 0, PEER_E_REFUSED.
 */
int peer_examine(const Peer *peer, int sock, const struct rlimit *nofile, PeerFacts *ret, char *ret_why, size_t why_size);

#endif
