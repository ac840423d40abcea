/* SPDX-License-Identifier: Apache-2.0 */
/*
 * level: how loud each frame is.
 *
 * Input `frames`: int16 samples. Output `level`: two float64, root mean square and peak in dB below full scale (-inf for
 * silence), with the frame's metadata.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tidegate/tidegate.h"

#define FULL_SCALE 32768.0

struct level {
        double rms_dbfs, peak_dbfs;
};

static struct level measure(const int16_t *samples, size_t n)
{
        uint64_t squares = 0; /* exact: 2^30 a sample, 2^34 samples */
        int peak = 0;

        for (size_t i = 0; i < n; i++) {
                int v = abs(samples[i]);

                squares += (uint64_t)v * (uint64_t)v;
                peak = v > peak ? v : peak;
        }
        return (struct level){
                .rms_dbfs = 20 * log10(n > 0 ? sqrt((double)squares / (double)n) / FULL_SCALE : 0),
                .peak_dbfs = 20 * log10(peak / FULL_SCALE),
        };
}

static int on_frame(tg_node *node, const tg_event *ev)
{
        struct level level = measure(tg_event_data(ev), tg_event_size(ev) / sizeof(int16_t));
        int r;

        do
                r = tg_send(node, "level", &level, sizeof(level), tg_event_params(ev));
        while (r == -EINTR);
        return r;
}

int main(void)
{
        tg_node *node;
        tg_event *ev;
        int r;

        r = tg_node_open(&node);
        if (r) {
                fprintf(stderr, "level: connecting: %s\n", tg_strerror(r));
                return 1;
        }
        while ((r = tg_next(node, &ev, TG_FOREVER)) == 0 || r == -EINTR) {
                if (r == -EINTR)
                        continue;
                if (tg_event_type(ev) == TG_EVENT_INPUT)
                        r = on_frame(node, ev);
                tg_event_free(ev);
                if (r)
                        break;
        }
        tg_node_close(node);
        if (r == TG_E_END || r == TG_E_STOPPING)
                return 0;
        fprintf(stderr, "level: %s\n", tg_strerror(r));
        return 1;
}
