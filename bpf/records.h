/* SPDX-License-Identifier: Apache-2.0 */
/* What the loaders share: a probe's program in the kernel, and the ring of records of one size that it fills. Not for anybody outside of this room. */
#ifndef TG_BPF_RECORDS_H
#define TG_BPF_RECORDS_H

#include <bpf/libbpf.h>
#include <stddef.h>

#include "bpf/probe.h"

typedef struct Records {
        size_t size; /* of one: set before anything else */
        struct ring_buffer *ring;

        /* where on_record() puts what it is given, while records_read() runs */
        char *into;
        size_t n_into, n_taken;
} Records;

/**
 * records_load() - load and attach what was opened, and open its ring
 * @records: lives where it is as long as the ring does
 * @map:     the ring's; @ring_bytes 0: as large as it says itself
 *
 * Between load_begin() and load_end(). Return: 0, PROBE_E_UNAVAILABLE with the reason, or a negative errno; records_done() is due in any case.
 */
int records_load(Records *records, struct bpf_object_skeleton *skeleton, struct bpf_map *map, uint32_t ring_bytes, ProbeReason *reason);
void records_done(Records *records);

/* As exit_probe_fd() and exit_probe_read(). */
int records_fd(const Records *records);
int records_read(Records *records, void *ret, size_t n, size_t *ret_n);

#endif
