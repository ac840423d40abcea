/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The anchor: messages stay in memory that both sides have mapped and touched, and a token each goes through a pipe, blocking.
 * What the kernel's wake-up alone takes. The token is as long as it has to be for `queue` of them to fill the pipe.
 */
#include "peer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PIPE_BYTES 4096

static size_t size, token_size;
static unsigned n_slots, n_sent, n_taken;
static char *slots[2]; /* to write, to read */
static int fds[2] = {-1, -1};
static char token[PIPE_BYTES];

static int failed(const char *what)
{
        return peer_fail(what, strerror(errno));
}

/* The pipe to side @to, which makes it. */
static int fifo_open(const struct peer_spec *spec, int to)
{
        struct timespec pause = {.tv_nsec = 1000000};
        char path[4096];
        int fd = -1;

        (void)snprintf(path, sizeof(path), "%s/to%d", spec->dir, to);
        if (spec->side == 1 && mkfifo(path, 0600) < 0)
                return failed(path);
        for (unsigned i = 0; fd < 0 && i < 10000; i++) {
                fd = open(path, (spec->side == to ? O_RDONLY : O_WRONLY) | O_CLOEXEC);
                if (fd < 0 && errno != ENOENT)
                        break;
                if (fd < 0)
                        nanosleep(&pause, NULL);
        }
        if (fd < 0 || (spec->side != to && fcntl(fd, F_SETPIPE_SZ, PIPE_BYTES) < 0))
                return failed(path);
        return fd;
}

static char *memory_map(const struct peer_spec *spec, int to)
{
        size_t n = size * n_slots;
        char path[4096], *p = MAP_FAILED;
        int fd;

        (void)snprintf(path, sizeof(path), "%s/memory%d", spec->dir, to);
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (fd >= 0 && ftruncate(fd, (off_t)n) == 0)
                p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
        if (p == MAP_FAILED)
                return failed(path), NULL;
        close(fd);
        for (size_t i = 0; i < n; i += 4096)
                *(volatile char *)(p + i) += spec->side == to ? 0 : 1;
        return p;
}

int peer_open(const struct peer_spec *spec)
{
        size = (spec->size + 63) & ~(size_t)63;
        token_size = PIPE_BYTES / spec->queue;
        n_slots = spec->queue + 2; /* one in each side's hands */
        if (token_size == 0)
                return peer_fail("pipe", "the queue is too long");
        for (int i = 0; i < 2; i++) {
                slots[i] = memory_map(spec, i == 0 ? !spec->side : spec->side);
                if (!slots[i])
                        return -1;
        }
        /* in the same order on both sides: an open waits for the other one's */
        for (int to = 1; to >= 0; to--) {
                int fd = fifo_open(spec, to);

                if (fd < 0)
                        return -1;
                fds[spec->side == to] = fd;
        }
        return 0;
}

int peer_loan(void **ret)
{
        *ret = slots[0] + size * (n_sent % n_slots);
        return 0;
}

int peer_send(void)
{
        n_sent++;
        return write(fds[0], token, token_size) == (ssize_t)token_size ? 0 : failed("write");
}

int peer_take(const void **ret, int timeout_ms)
{
        (void)timeout_ms; /* nothing is lost */
        for (size_t done = 0; done < token_size;) {
                ssize_t n = read(fds[1], token, token_size - done);

                if (n <= 0)
                        return n < 0 ? failed("read") : peer_fail("read", "the other side has left");
                done += (size_t)n;
        }
        *ret = slots[1] + size * (n_taken % n_slots);
        return 0;
}

int peer_release(void)
{
        n_taken++;
        return 0;
}

void peer_close(void)
{
        close(fds[0]);
        close(fds[1]);
}
