/* SPDX-License-Identifier: Apache-2.0 */
#include "bpf/records.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "bpf/load.h"

/* A negative return ends ring_buffer__consume() with this record taken: that is how a read stays within its room. */
static int on_record(void *userdata, void *data, size_t size)
{
        Records *records = userdata;

        if (size < records->size)
                return 0;
        memcpy(records->into + records->n_taken++ * records->size, data, records->size);
        return records->n_taken == records->n_into ? -ENOBUFS : 0;
}

int records_load(Records *records, struct bpf_object_skeleton *skeleton, struct bpf_map *map, uint32_t ring_bytes, ProbeReason *reason)
{
        int r;

        if (ring_bytes) {
                r = bpf_map__set_max_entries(map, ring_bytes);
                if (r < 0)
                        return error_origin(r);
        }
        r = bpf_object__load_skeleton(skeleton);
        if (r < 0)
                return load_refused(r, "load", reason);

        r = bpf_object__attach_skeleton(skeleton);
        if (r < 0)
                return load_refused(r, "attach", reason);

        records->ring = ring_buffer__new(bpf_map__fd(map), on_record, records, NULL);
        if (!records->ring)
                return load_refused(-errno, "ring buffer", reason);
        return 0;
}

void records_done(Records *records)
{
        ring_buffer__free(records->ring);
        records->ring = NULL;
}

int records_fd(const Records *records)
{
        return ring_buffer__epoll_fd(records->ring);
}

int records_read(Records *records, void *ret, size_t n, size_t *ret_n)
{
        int r;

        *ret_n = 0;
        if (n == 0)
                return 0;
        records->into = ret;
        records->n_into = n;
        records->n_taken = 0;
        r = ring_buffer__consume(records->ring);
        records->into = NULL;
        *ret_n = records->n_taken;
        if (r < 0 && r != -ENOBUFS)
                return error_origin(r);
        return 0;
}
