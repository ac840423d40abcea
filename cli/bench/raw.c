/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/bench/raw.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/doorbell.h"
#include "shm/shm-internal.h"

/* A word of 64 bits of which the low half is what the kernel looks at. */
static void word_sleep(uint64_t *word)
{
        (void)syscall(SYS_futex, word, FUTEX_WAIT, 1, NULL, NULL, 0); /* EAGAIN, EINTR: the caller looks again */
}

static void word_wake(uint64_t *word, int n)
{
        if (load_sc(word) && __atomic_exchange_n(word, 0, __ATOMIC_SEQ_CST))
                (void)syscall(SYS_futex, word, FUTEX_WAKE, n, NULL, NULL, 0);
}

static inline void pause_cpu(void)
{
#if defined(__x86_64__)
        __builtin_ia32_pause();
#else
        __asm__ volatile("");
#endif
}

void raw_begin(Raw *raw, BenchWay way, uint64_t size, unsigned n_sinks)
{
        raw->way = way;
        raw->size = size;
        raw->chunk_size = board_chunk_size(size);
        raw->n_chunks = board_n_chunks(size, raw->room);
        raw->n_sinks = n_sinks;
        raw->cached = raw->chunk = 0;
}

/* ---- one message at a time: SPIN, FUTEX, PIPE, BELL */

/* A message of up to a line is the line itself: its first word, and the number of the message in its last. */
static bool in_line(const Raw *raw)
{
        return raw->size <= 64;
}

static uint8_t *chunk_at(const Raw *raw, uint64_t number)
{
        return raw->payload + number * raw->chunk_size;
}

static void line_tell(Raw *raw, unsigned direction, uint64_t i)
{
        struct bench_board *b = raw->board;

        if (raw->way == BENCH_WAY_SPIN) {
                store_release(&b->line[direction].word[7], i + 1);
                return;
        }
        store_sc(&b->line[direction].word[7], i + 1);
        word_wake(&b->asleep[direction].word, 1);
}

static void line_wait(Raw *raw, unsigned direction, uint64_t i)
{
        struct bench_board *b = raw->board;

        while (load_acquire(&b->line[direction].word[7]) < i + 1) {
                if (raw->way == BENCH_WAY_SPIN) {
                        pause_cpu();
                        continue;
                }
                store_sc(&b->asleep[direction].word, 1);
                if (load_sc(&b->line[direction].word[7]) >= i + 1)
                        store_sc(&b->asleep[direction].word, 0);
                else
                        word_sleep(&b->asleep[direction].word);
        }
}

static int token_send(int fd, uint64_t i)
{
        ssize_t n;

        do
                n = write(fd, &i, sizeof(i));
        while (n < 0 && errno == EINTR);
        return n == sizeof(i) ? 0 : -EIO;
}

static int token_receive(int fd, uint64_t i)
{
        uint64_t got = 0;
        ssize_t n;

        do
                n = read(fd, &got, sizeof(got));
        while (n < 0 && errno == EINTR);
        return n == sizeof(got) && got == i ? 0 : -EIO;
}

#define BELL_STRIDE 64u /* rings between two times that a socket is emptied */

int raw_watch_bell(Raw *raw, unsigned end)
{
        struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.u32 = end};

        raw->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (raw->epoll_fd < 0 || epoll_ctl(raw->epoll_fd, EPOLL_CTL_ADD, raw->bell_fds[end], &ev) < 0)
                return -errno;
        return 0;
}

static int bell_send(Raw *raw, unsigned end)
{
        if (!raw->by_socket && doorbell_ring(raw->bell_fds[!end]))
                return 0;
        raw->by_socket = true;
        return send(raw->bell_fds[end], "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1 ? 0 : -EIO;
}

static int bell_receive(Raw *raw)
{
        struct epoll_event ev;
        char bytes[2 * BELL_STRIDE];
        int n;

        do
                n = epoll_wait(raw->epoll_fd, &ev, 1, -1);
        while (n < 0 && errno == EINTR);
        if (n != 1 || ev.events != EPOLLIN)
                return -EIO;
        if (raw->by_socket && ++raw->n_rung % BELL_STRIDE == 0 && recv(raw->bell_fds[ev.data.u32], bytes, sizeof(bytes), MSG_DONTWAIT) < 1)
                return -EIO;
        return 0;
}

static int single_send(Raw *raw, uint64_t i, nsec_t stamp)
{
        if (!in_line(raw))
                payload_write(chunk_at(raw, 0), raw->size, stamp);
        raw->board->line[0].word[0] = stamp;
        if (raw->way == BENCH_WAY_PIPE)
                return token_send(raw->pipe_fds[1], i);
        if (raw->way == BENCH_WAY_BELL)
                return bell_send(raw, 0);
        line_tell(raw, 0, i);
        return 0;
}

static int single_receive(Raw *raw, uint64_t i, nsec_t *ret_stamp)
{
        int r = 0;

        if (raw->way == BENCH_WAY_PIPE)
                r = token_receive(raw->pipe_fds[0], i);
        else if (raw->way == BENCH_WAY_BELL)
                r = bell_receive(raw);
        else
                line_wait(raw, 0, i);
        *ret_stamp = in_line(raw) ? raw->board->line[0].word[0] : payload_read(chunk_at(raw, 0), raw->size);
        return r;
}

int raw_answer(Raw *raw, uint64_t i)
{
        if (raw->way == BENCH_WAY_PIPE)
                return token_send(raw->pipe_fds[3], i);
        if (raw->way == BENCH_WAY_BELL)
                return bell_send(raw, 1);
        line_tell(raw, 1, i);
        return 0;
}

int raw_wait_answer(Raw *raw, uint64_t i)
{
        if (raw->way == BENCH_WAY_PIPE)
                return token_receive(raw->pipe_fds[2], i);
        if (raw->way == BENCH_WAY_BELL)
                return bell_receive(raw);
        line_wait(raw, 1, i);
        return 0;
}

/* ---- rings */

static uint64_t slowest(const Raw *raw)
{
        uint64_t least = UINT64_MAX;

        for (unsigned k = 0; k < raw->n_sinks; k++) {
                uint64_t tail = load_sc(&raw->board->tail[k].word);

                least = tail < least ? tail : least;
        }
        return least;
}

/* Sleeps until half of the ring is free: woken for each slot the producer would sleep for each message. */
static void wait_for_room(Raw *raw, uint64_t i)
{
        struct bench_board *b = raw->board;

        while (i - raw->cached >= BOARD_RING) {
                raw->cached = slowest(raw);
                if (i - raw->cached < BOARD_RING)
                        return;
                store_sc(&b->wanted.word, i - BOARD_RING / 2);
                store_sc(&b->producer_asleep.word, 1);
                raw->cached = slowest(raw);
                if (i - raw->cached < BOARD_RING)
                        store_sc(&b->producer_asleep.word, 0);
                else
                        word_sleep(&b->producer_asleep.word);
        }
}

/* A chunk is free once every reader has given it up. Taken in turn, so the oldest is the next. */
static void wait_for_chunk(Raw *raw, uint64_t i)
{
        struct bench_board *b = raw->board;

        raw->chunk = i % raw->n_chunks;
        while (load_acquire(&b->refs[raw->chunk]) != 0) {
                store_sc(&b->wanted.word, i - raw->n_chunks + (raw->n_chunks + 1) / 2);
                store_sc(&b->producer_asleep.word, 1);
                if (__atomic_load_n(&b->refs[raw->chunk], __ATOMIC_SEQ_CST) == 0)
                        store_sc(&b->producer_asleep.word, 0);
                else
                        word_sleep(&b->producer_asleep.word);
        }
}

static int ring_send(Raw *raw, uint64_t i, nsec_t stamp)
{
        struct bench_board *b = raw->board;
        uint64_t *slot = b->slot[i % BOARD_RING].word;

        wait_for_room(raw, i);
        if (raw->way == BENCH_WAY_DESC) {
                wait_for_chunk(raw, i);
                payload_write(chunk_at(raw, raw->chunk), raw->size, stamp);
                store_release(&b->refs[raw->chunk], raw->n_sinks);
                slot[0] = raw->chunk;
                slot[1] = raw->size;
        } else {
                const uint64_t words[8] = {stamp, i, i, i, i, i, i, i};

                memcpy(slot, words, sizeof(words));
        }
        store_sc(&b->head.word, i + 1);
        word_wake(&b->consumer_asleep.word, INT_MAX);
        return 0;
}

static void wait_for_message(Raw *raw, uint64_t i)
{
        struct bench_board *b = raw->board;

        while (raw->cached <= i) {
                raw->cached = load_acquire(&b->head.word);
                if (raw->cached > i)
                        return;
                store_sc(&b->consumer_asleep.word, 1);
                raw->cached = load_sc(&b->head.word);
                if (raw->cached > i)
                        return; /* the next wake goes to nobody, or to another reader */
                word_sleep(&b->consumer_asleep.word);
        }
}

static int ring_receive(Raw *raw, uint64_t i, nsec_t *ret_stamp)
{
        struct bench_board *b = raw->board;
        uint64_t words[8];

        wait_for_message(raw, i);
        memcpy(words, b->slot[i % BOARD_RING].word, sizeof(words));
        if (raw->way == BENCH_WAY_DESC) {
                *ret_stamp = payload_read(chunk_at(raw, words[0]), words[1]);
                (void)__atomic_sub_fetch(&b->refs[words[0]], 1, __ATOMIC_SEQ_CST);
        } else {
                *ret_stamp = words[0];
                __asm__ volatile("" ::"m"(words)); /* all of it is read */
        }
        store_sc(&b->tail[raw->index].word, i + 1);
        if (load_sc(&b->producer_asleep.word) && i + 1 >= load_relaxed(&b->wanted.word))
                word_wake(&b->producer_asleep.word, 1);
        return 0;
}

/* ---- */

int raw_send(Raw *raw, uint64_t i, nsec_t stamp)
{
        return raw->way <= BENCH_WAY_BELL ? single_send(raw, i, stamp) : ring_send(raw, i, stamp);
}

int raw_receive(Raw *raw, uint64_t i, nsec_t *ret_stamp)
{
        return raw->way <= BENCH_WAY_BELL ? single_receive(raw, i, ret_stamp) : ring_receive(raw, i, ret_stamp);
}
