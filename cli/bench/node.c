/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tidegate-bench-node INDEX - a node of the dataflows that `tidegate bench` runs: 0 is the source, the others are
 * sinks. It connects to the command, is given the board and the pipes, and carries out orders, each in the same way
 * for Tidegate and for what it is measured against: the same process, the same processor, the same loop.
 *
 * A source has the output "out", or for `reclaim` an output "o1", "o2", ... for each sink; and of its first sink the
 * input "back".
 */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/receive.h"
#include "cli/bench/raw.h"
#include "shm/shm-internal.h"
#include "tidegate/tidegate.h"

#define INLINE_MAX   192u         /* longer ones are written in place, as a program would that cares for time */
#define CLOCK_STRIDE 64u          /* messages between two looks at the clock */
#define OWN_MAX      (64ul << 20) /* a larger mapping is a sanitizer's */
#define MAX_HELD     4096u        /* samples of an exhausted pool */
#define MAX_BULK     32u          /* messages of one tg_send_batch(), and of one tg_next_batch() */

typedef struct Me {
        int fd;
        unsigned index;
        tg_node *node;
        Raw raw;
        tg_event *bulk[MAX_BULK];
        size_t n_bulk, i_bulk; /* that are there, and of those looked at */
        tg_message out[MAX_BULK]; /* those of one tg_send_batch() */
        size_t n_out;
        char out_bytes[MAX_BULK][INLINE_MAX] __attribute__((aligned(64)));
        char small[INLINE_MAX] __attribute__((aligned(64)));
} Me;

/* ---- the measured part */

typedef struct Usage {
        struct rusage usage;
        int policy; /* to be restored; -1: none */
} Usage;

static int mark(const struct bench_order *order, unsigned long which)
{
        return order->flags & BENCH_COUNTED ? prctl((int)which, 0, 0, 0, 0) : 0; /* EINVAL; a tracer sees it */
}

static uint64_t faults_of(const struct rusage *u)
{
        return (uint64_t)(u->ru_minflt + u->ru_majflt);
}

static uint64_t cpu_of(const struct rusage *u)
{
        return (uint64_t)(u->ru_utime.tv_sec + u->ru_stime.tv_sec) * NSEC_PER_SEC +
               (uint64_t)(u->ru_utime.tv_usec + u->ru_stime.tv_usec) * NSEC_PER_USEC;
}

static void part_begin(Usage *usage, const struct bench_order *order, struct bench_answer *answer)
{
        uint64_t warm = faults_of(&usage->usage);

        (void)getrusage(RUSAGE_SELF, &usage->usage);
        answer->warm_faults = faults_of(&usage->usage) - warm;
        (void)mark(order, BENCH_MARK_BEGIN);
        answer->begin = clock_now();
}

static void part_end(const Usage *usage, const struct bench_order *order, struct bench_answer *answer)
{
        struct rusage now;

        answer->end = clock_now();
        (void)mark(order, BENCH_MARK_END);
        (void)getrusage(RUSAGE_SELF, &now);
        answer->faults = faults_of(&now) - faults_of(&usage->usage);
        answer->sleeps = (uint64_t)(now.ru_nvcsw - usage->usage.ru_nvcsw);
        answer->preemptions = (uint64_t)(now.ru_nivcsw - usage->usage.ru_nivcsw);
        answer->cpu_ns = cpu_of(&now) - cpu_of(&usage->usage);
}

/* ---- a message by Tidegate */

static int ours_send(Me *me, uint64_t size, nsec_t stamp)
{
        tg_sample *sample;
        int r;

        if (size <= INLINE_MAX) {
                if (size < 8)
                        store_release(&me->raw.board->stamp.word, stamp);
                payload_write(me->small, size, stamp);
                return tg_send(me->node, "out", me->small, size, NULL);
        }
        r = tg_alloc(me->node, "out", size, &sample);
        if (r)
                return r;
        payload_write(tg_sample_data(sample), size, stamp);
        return tg_send_sample(sample, NULL);
}

static int ours_send_rest(Me *me)
{
        size_t n = me->n_out;

        me->n_out = 0;
        return n ? tg_send_batch(me->node, "out", me->out, n, NULL) : 0;
}

/* One message, which goes with those behind it. */
static int ours_send_bulk(Me *me, uint64_t size, nsec_t stamp)
{
        char *bytes = me->out_bytes[me->n_out];

        payload_write(bytes, size, stamp);
        me->out[me->n_out++] = (tg_message){.data = bytes, .size = size};
        return me->n_out == MAX_BULK ? ours_send_rest(me) : 0;
}

/* What the message says. */
static int ours_read(Me *me, const struct bench_order *order, const tg_event *event, nsec_t *ret_stamp)
{
        if (tg_event_type(event) != TG_EVENT_INPUT || tg_event_size(event) != order->size)
                return -ECANCELED;
        *ret_stamp = order->size < 8 ? load_acquire(&me->raw.board->stamp.word)
                                     : payload_read(tg_event_data(event), order->size);
        return 0;
}

static int ours_receive(Me *me, const struct bench_order *order, nsec_t *ret_stamp)
{
        tg_event *event;
        int r;

        do
                r = tg_next(me->node, &event, order->flags & BENCH_AWAKE ? 0 : TG_FOREVER);
        while (r == TG_E_TIMEOUT || r == -EINTR);
        if (r)
                return r;
        r = ours_read(me, order, event, ret_stamp);
        (void)tg_event_free(event);
        return r;
}

static void ours_free_bulk(Me *me)
{
        tg_events_free(me->bulk, me->n_bulk);
        me->n_bulk = me->i_bulk = 0;
}

/* One message, of as many as are there. */
static int ours_receive_bulk(Me *me, const struct bench_order *order, nsec_t *ret_stamp)
{
        int r = 0;

        if (me->i_bulk == me->n_bulk) {
                ours_free_bulk(me);
                do
                        r = tg_next_batch(me->node, me->bulk, MAX_BULK, &me->n_bulk, TG_FOREVER);
                while (r == -EINTR);
        }
        return r ? r : ours_read(me, order, me->bulk[me->i_bulk++], ret_stamp);
}

static int ours_wait_answer(Me *me)
{
        const struct bench_order empty = {.size = 0};
        nsec_t stamp;

        return ours_receive(me, &empty, &stamp);
}

static int message_send(Me *me, const struct bench_order *order, uint64_t i, nsec_t stamp)
{
        if (order->way != BENCH_WAY_TIDEGATE)
                return raw_send(&me->raw, i, stamp);
        return order->flags & BENCH_BULK ? ours_send_bulk(me, order->size, stamp) : ours_send(me, order->size, stamp);
}

static int message_receive(Me *me, const struct bench_order *order, uint64_t i, nsec_t *ret_stamp)
{
        if (order->way != BENCH_WAY_TIDEGATE)
                return raw_receive(&me->raw, i, ret_stamp);
        return order->flags & BENCH_BULK ? ours_receive_bulk(me, order, ret_stamp) : ours_receive(me, order, ret_stamp);
}

/* ---- latency */

static void sleep_until(nsec_t at)
{
        struct timespec ts = nsec_to_timespec(at);

        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
                ;
}

static void busy_until(nsec_t at)
{
        while (clock_now() < at)
                ;
}

/* The next message is due, and the last one was taken: of a way that has room for one only the next would overwrite
 * it. */
static void pace(Me *me, const struct bench_order *order, uint64_t i, nsec_t *at)
{
        *at = nsec_add(*at, order->interval_ns);
        if (order->flags & BENCH_AWAKE)
                busy_until(*at);
        else
                sleep_until(*at);
        while (load_acquire(&me->raw.board->tail[0].word) < i)
                if (!(order->flags & BENCH_AWAKE))
                        (void)sched_yield();
}

static int latency_source(Me *me, const struct bench_order *order, Usage *usage, struct bench_answer *answer)
{
        nsec_t at = clock_now();
        int r = 0;

        for (uint64_t i = 0; i < order->n_warm + order->n && r == 0; i++) {
                if (i == order->n_warm)
                        part_begin(usage, order, answer);
                if (order->interval_ns)
                        pace(me, order, i, &at);
                r = message_send(me, order, i, clock_now());
                if (r || order->interval_ns)
                        continue;
                r = order->way == BENCH_WAY_TIDEGATE ? ours_wait_answer(me) : raw_wait_answer(&me->raw, i);
        }
        part_end(usage, order, answer);
        return r;
}

static int latency_sink(Me *me, const struct bench_order *order, Usage *usage, struct bench_answer *answer)
{
        struct bench_board *board = me->raw.board;
        int r = 0;

        for (uint64_t i = 0; i < order->n_warm + order->n && r == 0; i++) {
                nsec_t stamp = 0, now;

                if (i == order->n_warm)
                        part_begin(usage, order, answer);
                r = message_receive(me, order, i, &stamp);
                now = clock_now();
                if (r)
                        break;
                if (i >= order->n_warm)
                        board->sample[i - order->n_warm] =
                                now - stamp < UINT32_MAX ? (uint32_t)(now - stamp) : UINT32_MAX;
                if (order->interval_ns)
                        store_release(&board->tail[0].word, i + 1);
                else
                        r = order->way == BENCH_WAY_TIDEGATE ? tg_send(me->node, "back", NULL, 0, NULL)
                                                             : raw_answer(&me->raw, i);
        }
        part_end(usage, order, answer);
        return r;
}

/* ---- rate */

static int rate_source(Me *me, const struct bench_order *order, Usage *usage, struct bench_answer *answer)
{
        struct bench_board *board = me->raw.board;
        nsec_t warm_until = clock_now() + order->warm_ns, until = NSEC_NEVER;
        uint64_t i;
        int r = 0;

        for (i = 0; r == 0; i++) {
                if (i % CLOCK_STRIDE == 0) {
                        nsec_t now = clock_now();

                        if (now >= until)
                                break;
                        if (until == NSEC_NEVER && now >= warm_until) {
                                store_sc(&board->warm.word, i);
                                part_begin(usage, order, answer);
                                until = answer->begin + order->span_ns;
                        }
                }
                r = message_send(me, order, i, i + 1);
        }
        if (r)
                return r;
        part_end(usage, order, answer);
        answer->n = i + 1 - load_relaxed(&board->warm.word);
        store_sc(&board->final.word, i + 1);
        r = message_send(me, order, i, i + 1); /* sinks wait for it, and then know that it was the last */
        return r ? r : ours_send_rest(me);
}

static int rate_sink(Me *me, const struct bench_order *order, Usage *usage, struct bench_answer *answer)
{
        const struct bench_board *board = me->raw.board;
        bool warm = true;
        nsec_t stamp;

        for (uint64_t i = 0;; i++) {
                int r = message_receive(me, order, i, &stamp);

                if (r)
                        return r;
                if (warm && i >= load_relaxed(&board->warm.word)) {
                        warm = false;
                        part_begin(usage, order, answer);
                }
                if (i + 1 == load_relaxed(&board->final.word))
                        break;
                answer->n += !warm;
        }
        part_end(usage, order, answer);
        return 0;
}

/* ---- reclaim */

static int hold(Me *me)
{
        for (;;) {
                tg_event *event; /* never freed: that is the point */
                int r = tg_next(me->node, &event, TG_FOREVER);

                if (r)
                        return r;
                if (tg_event_type(event) != TG_EVENT_INPUT)
                        return -ECANCELED;
                (void)__atomic_add_fetch(&me->raw.board->held[me->index - 1].word, 1, __ATOMIC_SEQ_CST);
        }
}

static int exhaust(Me *me, const char *output, uint64_t size, tg_sample **samples, size_t *n)
{
        int r;

        tg_set_send_timeout(me->node, 0);
        for (*n = 0; *n < MAX_HELD; (*n)++) {
                r = tg_alloc(me->node, output, size, &samples[*n]);
                if (r)
                        return r == TG_E_TIMEOUT ? 0 : r;
        }
        return -EOVERFLOW;
}

/* The reader is dead once the first of these returns. Each of the messages that it held is one chunk. */
static int wait_for_chunks(
        Me *me, const char *output, const struct bench_order *order, tg_sample **samples, size_t *n)
{
        struct bench_board *board = me->raw.board;

        tg_set_send_timeout(me->node, (int64_t)(10 * NSEC_PER_SEC));
        for (uint64_t k = 0; k < order->n_warm; k++) {
                int r = tg_alloc(me->node, output, order->size, &samples[*n]);

                if (r)
                        return r;
                (*n)++;
                if (k == 0)
                        store_release(&board->reclaimed.word, clock_now());
        }
        store_release(&board->reclaimed_all.word, clock_now());
        return 0;
}

static int fill(Me *me, const struct bench_order *order, struct bench_answer *answer)
{
        struct bench_board *board = me->raw.board;
        tg_sample *samples[MAX_HELD];
        char output[16];
        size_t n = 0;
        nsec_t until = clock_now() + 10 * NSEC_PER_SEC;
        int r = 0;

        (void)snprintf(output, sizeof(output), "o%u", (unsigned)order->n);
        for (uint64_t k = 0; k < order->n_warm && r == 0; k++) {
                tg_sample *sample;

                r = tg_alloc(me->node, output, order->size, &sample);
                if (!r)
                        r = tg_send_sample(sample, NULL);
        }
        while (r == 0 && load_acquire(&board->held[order->n - 1].word) < order->n_warm) {
                if (clock_now() > until)
                        return -ETIMEDOUT;
                sleep_until(clock_now() + 100 * NSEC_PER_USEC);
        }
        if (!r)
                r = exhaust(me, output, order->size, samples, &n);
        if (!r && send(me->fd, answer, sizeof(*answer), MSG_NOSIGNAL) < 0) /* now it may be killed */
                r = -errno;
        if (!r)
                r = wait_for_chunks(me, output, order, samples, &n);
        while (n > 0)
                (void)tg_sample_free(samples[--n]);
        tg_set_send_timeout(me->node, TG_FOREVER);
        return r;
}

/* ---- orders */

static int carry_out(Me *me, const struct bench_order *order, Usage *usage, struct bench_answer *answer)
{
        switch (order->what) {
        case BENCH_LATENCY:
                return me->index == 0 ? latency_source(me, order, usage, answer)
                                      : latency_sink(me, order, usage, answer);
        case BENCH_RATE:
                return me->index == 0 ? rate_source(me, order, usage, answer) : rate_sink(me, order, usage, answer);
        case BENCH_HOLD:
                return hold(me);
        case BENCH_FILL:
                return fill(me, order, answer);
        }
        return -EPROTO;
}

static const char *explain(int r)
{
        switch (r) {
        case TG_E_TIMEOUT:
                return "no room in time";
        case TG_E_END:
                return "the stream of events ended";
        case TG_E_STOPPING:
                return "it was told to stop";
        case TG_E_DROPPED:
                return "no chunk was free in its pool";
        default:
                return r < 0 ? strerror(-r) : "unexpected outcome";
        }
}

static void obey(Me *me, const struct bench_order *order, struct bench_answer *answer)
{
        const struct sched_param none = {};
        Usage usage = {.policy = -1};
        int r;

        *answer = (struct bench_answer){.what = order->what, .n = order->n};
        if (order->what == BENCH_RATE)
                answer->n = 0;
        if (order->flags & BENCH_BATCH) {
                usage.policy = sched_getscheduler(0);
                (void)sched_setscheduler(0, SCHED_BATCH, &none); /* allowed to everybody, as is the way back */
        }
        if (order->way != BENCH_WAY_TIDEGATE)
                raw_begin(&me->raw, order->way, order->size, order->n_sinks);
        (void)getrusage(RUSAGE_SELF, &usage.usage);
        r = carry_out(me, order, &usage, answer);
        ours_free_bulk(me);
        if (usage.policy >= 0)
                (void)sched_setscheduler(0, usage.policy, &none);
        answer->error = r;
        if (r)
                (void)snprintf(answer->text, sizeof(answer->text), "%s", explain(r));
}

static int serve(Me *me)
{
        struct bench_answer answer = {};

        if (send(me->fd, &answer, sizeof(answer), MSG_NOSIGNAL) < 0)
                return 1;
        for (;;) {
                struct bench_order order;
                ssize_t n = recv(me->fd, &order, sizeof(order), 0);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n != sizeof(order) || order.what == BENCH_QUIT)
                        return n < 0;
                obey(me, &order, &answer);
                if (send(me->fd, &answer, sizeof(answer), MSG_NOSIGNAL) < 0)
                        return 1;
        }
}

/* ---- the beginning */

static int reach(Me *me)
{
        const char *name = getenv(BENCH_SOCKET_ENV);
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        struct bench_hello hello = {.index = me->index};

        if (!name || strlen(name) > sizeof(address.sun_path) - 2)
                return -ENOTCONN;
        memcpy(address.sun_path + 1, name, strlen(name));
        me->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (me->fd < 0 ||
                connect(me->fd, (struct sockaddr *)&address,
                        (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name))) < 0 ||
                send(me->fd, &hello, sizeof(hello), MSG_NOSIGNAL) < 0)
                return -errno;
        return 0;
}

static int take_board(Me *me)
{
        char space[CMSG_SPACE(7 * sizeof(int))] __attribute__((aligned(8))), byte;
        struct iovec iov = {.iov_base = &byte, .iov_len = 1};
        struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof(space)};
        struct cmsghdr *c;
        struct stat st;
        int fds[7];
        void *map;

        if (receive_message(me->fd, &mh, MSG_CMSG_CLOEXEC) != 1)
                return -ECONNRESET;
        c = CMSG_FIRSTHDR(&mh);
        if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(fds)))
                return -EPROTO;
        memcpy(fds, CMSG_DATA(c), sizeof(fds));
        memcpy(me->raw.pipe_fds, fds + 1, sizeof(me->raw.pipe_fds));
        memcpy(me->raw.bell_fds, fds + 5, sizeof(me->raw.bell_fds));
        if (fstat(fds[0], &st) < 0)
                return -errno;
        map = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
        if (map == MAP_FAILED)
                return -errno;
        (void)fd_close(fds[0]);
        for (size_t at = 0; at < sizeof(struct bench_board); at += BOARD_PAGE) /* its faults are not to be counted */
                (void)__atomic_fetch_or((uint8_t *)map + at, 0, __ATOMIC_RELAXED);
        me->raw.board = map;
        me->raw.payload = (uint8_t *)map + BOARD_PAYLOAD;
        me->raw.room = (uint64_t)st.st_size - BOARD_PAYLOAD;
        me->raw.index = me->index ? me->index - 1 : 0;
        return me->index > 1 ? 0 : raw_watch_bell(&me->raw, me->index);
}

/* The faults of our own program and its libraries are taken now: what is counted later is what messages cost. As far
 * as the kernel does that (Linux 5.14). */
static void take_own_faults(void)
{
        FILE *f = fopen("/proc/self/maps", "re");
        unsigned long from, to;
        char mode[5], line[512];

        while (f && fgets(line, sizeof(line), f))
                if (sscanf(line, "%lx-%lx %4s", &from, &to, mode) == 3 && mode[0] == 'r' && mode[3] == 'p' &&
                        to - from <= OWN_MAX)
                        (void)madvise(
                                (void *)from, to - from, mode[1] == 'w' ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
        if (f)
                (void)fclose(f);
}

int main(int argc, char **argv)
{
        static Me me = {.fd = -1};
        int r, status;

        if (argc != 2) {
                (void)fputs("usage: tidegate-bench-node INDEX (by `tidegate bench`)\n", stderr);
                return 2;
        }
        me.index = (unsigned)atoi(argv[1]);
        (void)prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0); /* the command counts our system calls */
        take_own_faults();
        r = reach(&me);
        if (!r)
                r = take_board(&me);
        if (!r)
                r = tg_node_open(&me.node);
        if (r) {
                (void)fprintf(stderr, "tidegate-bench-node %u: %s\n", me.index, explain(r));
                return 1;
        }
        status = serve(&me);
        (void)tg_node_close(me.node);
        return status;
}
