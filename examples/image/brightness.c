/* SPDX-License-Identifier: Apache-2.0 */
/*
 * brightness [--check]: histogram of the brightness of each picture, read where it lies.
 *
 * Input `image`: RGB, 8 bits each. Output `histogram`: 256 uint32, with the picture's metadata and `mean`. With --check it
 * proves for each picture that nothing was copied: the pixels lie in a mapping of shared memory that this process may only read,
 * and its own memory has not grown by more than a fraction of a picture. Exit status 1 when that is not so.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tidegate/tidegate.h"

#define MAX_GROWTH_KIB 1024

typedef struct Check {
        bool wanted;
        long anon_kib; /* own memory before the first picture */
        unsigned n_pictures;
        uint64_t n_bytes;
        long growth_kib;
} Check;

static int fail(const char *what, const char *why)
{
        fprintf(stderr, "brightness: %s: %s\n", what, why);
        return -1;
}

/* Memory of this process that is not shared with anybody, in KiB. */
static long anon_kib(void)
{
        FILE *f = fopen("/proc/self/status", "re");
        char line[256];
        long kib = -1;

        while (f && kib < 0 && fgets(line, sizeof(line), f))
                (void)sscanf(line, "RssAnon: %ld", &kib); /* -1 stays when this is another line */
        if (f)
                (void)fclose(f);
        return kib;
}

/* True if all of [@data, @data + @size) is one read-only, shared mapping of a memfd. */
static bool in_shared_memory(const void *data, size_t size)
{
        uintptr_t begin = (uintptr_t)data, from, to;
        FILE *f = fopen("/proc/self/maps", "re");
        char line[512], mode[5];
        bool found = false;

        while (f && !found && fgets(line, sizeof(line), f))
                found = sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s", &from, &to, mode) == 3 && from <= begin &&
                        size <= to - begin && begin < to && strcmp(mode, "r--s") == 0 && strstr(line, "/memfd:");
        if (f)
                (void)fclose(f);
        return found;
}

static int check_picture(Check *check, const void *data, size_t size)
{
        if (!in_shared_memory(data, size))
                return fail("check", "the picture does not lie in a read-only mapping of shared memory");
        check->growth_kib = anon_kib() - check->anon_kib;
        if (check->anon_kib < 0 || check->growth_kib > MAX_GROWTH_KIB)
                return fail("check", "the memory of this process has grown: something copies");
        check->n_pictures++;
        check->n_bytes += size;
        return 0;
}

static double histogram_make(uint32_t histogram[256], const uint8_t *rgb, size_t n_pixels)
{
        uint64_t sum = 0;

        memset(histogram, 0, 256 * sizeof(*histogram));
        for (size_t i = 0; i < n_pixels; i++, rgb += 3)
                histogram[(77 * rgb[0] + 150 * rgb[1] + 29 * rgb[2]) >> 8]++; /* the weights of BT.601 */
        for (unsigned v = 0; v < 256; v++)
                sum += (uint64_t)v * histogram[v];
        return n_pixels > 0 ? (double)sum / (double)n_pixels : 0;
}

static int copy_param_int(tg_params *to, const tg_params *from, const char *key)
{
        int64_t v;
        int r = tg_params_get_int(from, key, &v);

        return r ? r : tg_params_set_int(to, key, v);
}

static int send_histogram(tg_node *node, const tg_event *ev)
{
        const tg_params *from = tg_event_params(ev);
        uint32_t histogram[256];
        tg_params *params = tg_params_new();
        double mean = histogram_make(histogram, tg_event_data(ev), tg_event_size(ev) / 3);
        int r = params ? 0 : -ENOMEM;

        if (r == 0)
                r = copy_param_int(params, from, "number");
        if (r == 0)
                r = tg_params_set_float(params, "mean", mean);
        while (r == 0 && (r = tg_send(node, "histogram", histogram, sizeof(histogram), params)) == -EINTR)
                r = 0;
        tg_params_free(params);
        return r;
}

static int on_picture(tg_node *node, const tg_event *ev, Check *check)
{
        int r = send_histogram(node, ev);

        if (r)
                return r;
        return check->wanted && check_picture(check, tg_event_data(ev), tg_event_size(ev)) < 0 ? -ENOTRECOVERABLE : 0;
}

int main(int argc, char **argv)
{
        Check check = {.wanted = argc > 1 && strcmp(argv[1], "--check") == 0};
        tg_node *node;
        tg_event *ev;
        int r;

        if (argc > 1 + check.wanted) {
                fprintf(stderr, "usage: brightness [--check]\n");
                return 2;
        }
        r = tg_node_open(&node);
        if (r) {
                (void)fail("connecting", tg_strerror(r));
                return 1;
        }
        check.anon_kib = anon_kib();
        while ((r = tg_next(node, &ev, TG_FOREVER)) == 0 || r == -EINTR) {
                if (r == -EINTR)
                        continue;
                if (tg_event_type(ev) == TG_EVENT_INPUT)
                        r = on_picture(node, ev, &check);
                tg_event_free(ev);
                if (r)
                        break;
        }
        if (check.wanted)
                printf("read %u pictures, %" PRIu64 " bytes, all in shared memory; own memory grew by %ld KiB\n", check.n_pictures,
                        check.n_bytes, check.growth_kib);
        tg_node_close(node);
        if (r == TG_E_END || r == TG_E_STOPPING)
                return 0;
        (void)fail("stopped early", tg_strerror(r));
        return 1;
}
