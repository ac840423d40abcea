/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The holder of a scope (supervisor/scope.h): a process that does nothing but be there, so that the service manager does not remove the
 * scope while no node runs, and that a daemon which died finds it again.
 *
 * It leaves when its daemon says so; and by itself when no daemon is connected and no node has been below the scope for the linger time.
 * While a node lives it stays: the next daemon adopts. Whoever is connected is a daemon that lives, so a daemon's death needs no word.
 *
 * Everything is set up before its loop; nothing allocates; it blocks in poll() only. SIGTERM is the manager's word that the scope is to end:
 * passed on to the daemon, which ends everything in order, or obeyed if there is none. All other signals are ignored.
 */
#ifndef TG_SUPERVISOR_HOLDER_H
#define TG_SUPERVISOR_HOLDER_H

#include <stdint.h>

#include "base/clock.h"

#define HOLDER_MAGIC  UINT32_C(0x44484754) /* "TGHD" */
#define HOLDER_CGROUP "holder" /* its leaf in the scope: a cgroup with processes of its own could have no controllers below */
#define HOLDER_NODES  "tidegate" /* what lies beside it (supervisor/instance.h) */
#define HOLDER_LINGER (60 * NSEC_PER_SEC)

typedef enum HolderWord {
        HOLDER_HELLO = 1, /* daemon: here I am; may carry the scope's directory */
        HOLDER_READY,     /* holder: the answer */
        HOLDER_END,       /* daemon: leave */
        HOLDER_STOP,      /* holder: the service manager ends the scope */
} HolderWord;

struct holder_word {
        uint32_t magic, type;
};

/**
 * holder_main() - be the holder
 * @linger_ns: how long it stays when there is neither a daemon nor a node
 *
 * Descriptor 0 is the listening socket (SEQPACKET), 1 the first daemon's connection. Return: the exit status of the process.
 */
int holder_main(nsec_t linger_ns);

#endif
