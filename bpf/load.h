/* SPDX-License-Identifier: Apache-2.0 */
/* What the loaders share: why libbpf would not, in words. Not for anybody outside of this room. */
#ifndef TG_BPF_LOAD_H
#define TG_BPF_LOAD_H

#include "bpf/probe.h"

/*
 * load_begin() - from here on libbpf's first complaint goes into @reason (NULL: nobody's), which is emptied and returned; until load_end(). One at a time.
 * load_refused() - a step failed: PROBE_E_UNAVAILABLE with the reason, or the negative @err where it is scarcity, which is the caller's trouble.
 */
ProbeReason *load_begin(ProbeReason *reason);
void load_end(void);
int load_refused(int err, const char *step, ProbeReason *reason);

#endif
