/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/out.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"

struct Out {
        int fd;
        pthread_t thread;
        pthread_mutex_t lock;
        pthread_cond_t more, less;
        char data[OUT_ROOM]; /* a ring: [head, tail) waits, modulo OUT_ROOM */
        size_t head, tail;
        int error;
        bool closing;
};

static size_t take_some(Out *out, char *to, size_t max)
{
        size_t at = out->head % OUT_ROOM, n = MIN(out->tail - out->head, MIN(max, (size_t)OUT_ROOM - at));

        memcpy(to, out->data + at, n);
        return n;
}

static int write_all(int fd, const char *data, size_t size)
{
        while (size > 0) {
                ssize_t n = write(fd, data, size);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return errno;
                data += n;
                size -= (size_t)n;
        }
        return 0;
}

static void *out_thread(void *userdata)
{
        Out *out = userdata;
        char chunk[65536];

        (void)pthread_mutex_lock(&out->lock);
        for (;;) {
                size_t n;
                int error;

                while (out->head == out->tail && !out->closing)
                        (void)pthread_cond_wait(&out->more, &out->lock);
                if (out->head == out->tail)
                        break;
                n = take_some(out, chunk, sizeof(chunk));
                (void)pthread_mutex_unlock(&out->lock);
                error = out->error ? out->error : write_all(out->fd, chunk, n);
                (void)pthread_mutex_lock(&out->lock);
                out->error = error;
                out->head += n; /* counted as waiting until it was written */
                (void)pthread_cond_signal(&out->less);
        }
        (void)pthread_mutex_unlock(&out->lock);
        return NULL;
}

int out_new(Out **ret, int fd)
{
        pthread_condattr_t attr;
        Out *out = calloc(1, sizeof(*out));
        int r;

        if (!out)
                return error_origin(-ENOMEM);
        out->fd = fd;
        (void)pthread_mutex_init(&out->lock, NULL);
        (void)pthread_condattr_init(&attr);
        (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        (void)pthread_cond_init(&out->more, NULL);
        (void)pthread_cond_init(&out->less, &attr);
        (void)pthread_condattr_destroy(&attr);
        r = pthread_create(&out->thread, NULL, out_thread, out);
        if (r) {
                free(out);
                return error_origin(-r);
        }
        *ret = out;
        return 0;
}

bool out_write(Out *out, const void *data, size_t size)
{
        const char *from = data;
        bool fits;

        (void)pthread_mutex_lock(&out->lock);
        fits = size <= OUT_ROOM - (out->tail - out->head);
        for (size_t done = 0; fits && done < size;) {
                size_t at = out->tail % OUT_ROOM, n = MIN(size - done, (size_t)OUT_ROOM - at);

                memcpy(out->data + at, from + done, n);
                out->tail += n;
                done += n;
        }
        (void)pthread_cond_signal(&out->more);
        (void)pthread_mutex_unlock(&out->lock);
        return fits;
}

size_t out_backlog(Out *out)
{
        size_t n;

        (void)pthread_mutex_lock(&out->lock);
        n = out->tail - out->head;
        (void)pthread_mutex_unlock(&out->lock);
        return n;
}

size_t out_written(Out *out)
{
        size_t n;

        (void)pthread_mutex_lock(&out->lock);
        n = out->head;
        (void)pthread_mutex_unlock(&out->lock);
        return n;
}

int out_error(Out *out)
{
        int error;

        (void)pthread_mutex_lock(&out->lock);
        error = out->error;
        (void)pthread_mutex_unlock(&out->lock);
        return error;
}

void out_finish(Out *out, nsec_t deadline)
{
        struct timespec until = nsec_to_timespec(deadline);
        bool done;

        (void)pthread_mutex_lock(&out->lock);
        out->closing = true;
        (void)pthread_cond_signal(&out->more);
        while (out->head != out->tail && pthread_cond_timedwait(&out->less, &out->lock, &until) == 0)
                ;
        done = out->head == out->tail;
        (void)pthread_mutex_unlock(&out->lock);
        if (!done)
                return; /* it still blocks in write(); the process is about to exit without it */
        (void)pthread_join(out->thread, NULL);
        free(out);
}
