/* SPDX-License-Identifier: Apache-2.0 */
/*
 * source [--fast] FILE...: send WAV files, one after the other, as frames of 10 ms.
 *
 * Output `frames`: int16 samples; metadata `frame` (from 0) and `rate`. In real time, frame n is sent when its last sample
 * would have been recorded: at the start + (n + 1) * 10 ms, by an absolute timer, so that nothing adds up. With --fast, as
 * fast as the consumers take them.
 */
#include "wav.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "tidegate/tidegate.h"

#define FRAME_MS  10
#define FRAME_MAX (768000 / 1000 * FRAME_MS) /* samples, at the highest rate that wav.c lets through */

typedef struct Source {
        tg_node *node;
        tg_params *params;
        int timer;   /* -1 with --fast */
        bool stop;   /* the dataflow ends */
        int64_t frame;
        uint32_t rate;
} Source;

static int fail(const char *what, const char *why)
{
        fprintf(stderr, "source: %s: %s\n", what, why);
        return -1;
}

/* A source has no inputs: what comes is the stop. */
static int take_events(Source *s)
{
        tg_event *ev;
        int r;

        while ((r = tg_next(s->node, &ev, 0)) == 0) {
                s->stop |= tg_event_type(ev) == TG_EVENT_STOP;
                tg_event_free(ev);
        }
        s->stop |= r == TG_E_END;
        return r < 0 && r != -EINTR ? fail("event", tg_strerror(r)) : 0;
}

static int start_timer(Source *s)
{
        const struct timespec period = {.tv_nsec = FRAME_MS * 1000000};
        struct itimerspec when = {.it_interval = period, .it_value = period};

        s->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        if (s->timer < 0 || timerfd_settime(s->timer, 0, &when, NULL) < 0)
                return fail("timer", strerror(errno));
        return 0;
}

/* Until the next frame is due, or the dataflow stops. @due: frames due; more than one when somebody held us up. */
static int wait_due(Source *s, uint64_t *due)
{
        struct pollfd fds[2] = {{.fd = s->timer, .events = POLLIN}, {.fd = tg_node_fd(s->node), .events = POLLIN}};

        while (*due == 0 && !s->stop) {
                if (take_events(s) < 0) /* also arms the node's descriptor */
                        return -1;
                if (s->stop)
                        break;
                if (poll(fds, 2, -1) < 0 && errno != EINTR)
                        return fail("poll", strerror(errno));
                if (read(s->timer, due, sizeof(*due)) < 0 && errno != EAGAIN && errno != EINTR)
                        return fail("timer", strerror(errno));
        }
        return 0;
}

static int send_frame(Source *s, const int16_t *samples, size_t n)
{
        int r;

        r = tg_params_set_int(s->params, "frame", s->frame);
        if (r == 0)
                r = tg_params_set_int(s->params, "rate", s->rate);
        if (r == 0) {
                do
                        r = tg_send(s->node, "frames", samples, n * sizeof(*samples), s->params);
                while (r == -EINTR);
        }
        if (r == TG_E_STOPPING) {
                s->stop = true;
                return 0;
        }
        if (r)
                return fail("frames", tg_strerror(r));
        s->frame++;
        return 0;
}

/* The samples of all files as one row: a frame may begin in one file and end in the next. */
static int play(Source *s, Wav *wavs, size_t n_wavs)
{
        static int16_t samples[FRAME_MAX];
        const size_t frame_size = s->rate * FRAME_MS / 1000;
        size_t filled = 0;
        uint64_t due = 0;

        for (size_t i = 0; i < n_wavs && !s->stop;) {
                long n = wav_read(&wavs[i], samples + filled, frame_size - filled);

                if (n < 0)
                        return fail("reading", wavs[i].error);
                filled += (size_t)n;
                if (filled < frame_size && (n > 0 || ++i < n_wavs))
                        continue; /* this file is at its end, or not asked for enough */
                if (filled == 0)
                        break;
                if (s->timer >= 0 && wait_due(s, &due) < 0)
                        return -1;
                if (s->stop)
                        break;
                if (send_frame(s, samples, filled) < 0)
                        return -1;
                s->stop |= tg_should_stop(s->node);
                due -= due > 0;
                filled = 0;
        }
        return 0;
}

static int open_all(Source *s, Wav *wavs, char **paths, size_t n)
{
        for (size_t i = 0; i < n; i++) {
                if (wav_open(&wavs[i], paths[i]) < 0)
                        return fail(paths[i], wavs[i].error);
                if (i > 0 && wavs[i].rate != wavs[0].rate)
                        return fail(paths[i], "its sample rate is not that of the first file");
        }
        s->rate = wavs[0].rate;
        if (s->rate % (1000 / FRAME_MS) != 0)
                return fail(paths[0], "its sample rate makes no whole number of samples in 10 ms");
        return 0;
}

static int run(Source *s, bool fast, char **paths, size_t n)
{
        Wav *wavs = calloc(n, sizeof(*wavs));
        int r;

        if (!wavs)
                return fail("memory", strerror(ENOMEM));
        /* Bad files are found before the dataflow starts. */
        r = open_all(s, wavs, paths, n);
        if (r == 0) {
                r = tg_node_open(&s->node);
                if (r)
                        (void)fail("connecting", tg_strerror(r));
        }
        if (r == 0 && !fast)
                r = start_timer(s);
        if (r == 0)
                r = play(s, wavs, n);
        for (size_t i = 0; i < n; i++)
                wav_close(&wavs[i]);
        free(wavs);
        return r;
}

int main(int argc, char **argv)
{
        Source s = {.timer = -1, .params = tg_params_new()};
        bool fast = argc > 1 && strcmp(argv[1], "--fast") == 0;
        int first = fast ? 2 : 1, r;

        if (first >= argc || argv[first][0] == '-') {
                fprintf(stderr, "usage: source [--fast] FILE...\n");
                return 2;
        }
        r = s.params ? run(&s, fast, argv + first, (size_t)(argc - first)) : fail("memory", strerror(ENOMEM));
        if (r == 0)
                printf("sent %lld frames of %d ms, %u Hz\n", (long long)s.frame, FRAME_MS, s.rate);
        tg_node_close(s.node);
        tg_params_free(s.params);
        if (s.timer >= 0)
                close(s.timer);
        return r == 0 ? 0 : 1;
}
