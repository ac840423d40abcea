/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The work: the same messages, written, waited for and checked in the same way whatever carries them (peer.h).
 *
 *         PEER VARIANT SIDE DIR SIZE QUEUE [RESULT STEP...]
 *
 * Side 0 does each step, twice: the first, of a fifth of the time, warms up. A line of JSON each goes to the file RESULT.
 *
 *   ping:MS       a message and its echo, again and again for so long; half of the time between, and the CPU time that side 0 used for both
 *   paced:MS:US   a message every US; from before the call that makes room for it to its receipt, by the one clock of the host
 *   flood:MS      messages back to back; a second at the receiver
 *
 * The first and last bytes of each message are written and checked, no others are touched.
 */
#include "peer.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NSEC_PER_SEC UINT64_C(1000000000)
#define NSEC_PER_MSEC UINT64_C(1000000)
#define MAX_SAMPLES 500000
#define HELLO_MS 20         /* until the greeting is said again */
#define PATIENCE_MS 10000   /* for the next message */
#define REPORT_MS 2000      /* until the report is asked for again */
#define LOOK_AT_CLOCK 32    /* messages of a flood between two looks */

enum kind { HELLO = 1, ECHO, STAMP, SINK, REPORT, QUIT };

struct head {
        uint32_t kind, step;
        uint64_t seq;
        uint64_t sent_ns;
};

/* What the receiver has seen since the last report. */
struct report {
        uint32_t p50_ns, p99_ns, p999_ns, max_ns;
        uint32_t n, missing;
        uint64_t span_ns; /* from the first arrival to the last */
};

_Static_assert(sizeof(struct head) + sizeof(struct report) + 8 <= 64, "they fit the smallest message");

static struct peer_spec spec;
static uint32_t samples[MAX_SAMPLES];
static unsigned n_samples;
static uint32_t step;
static enum kind awaited = HELLO; /* by side 0 */
static uint64_t cpu_ns; /* that side 0 has used in a step: for as many messages sent as received, in a ping */

int peer_fail(const char *what, const char *text)
{
        fprintf(stderr, "side %d: %s: %s\n", spec.side, what, text);
        return -1;
}

static uint64_t now_ns(void)
{
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

static uint64_t used_ns(void)
{
        struct timespec ts;

        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
        return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

uint64_t peer_deadline_ns(int timeout_ms)
{
        return now_ns() + (uint64_t)timeout_ms * NSEC_PER_MSEC;
}

int peer_left_ms(uint64_t deadline_ns)
{
        uint64_t now = now_ns();

        return now < deadline_ns ? (int)((deadline_ns - now + NSEC_PER_MSEC - 1) / NSEC_PER_MSEC) : 0;
}

static void die(int r)
{
        static const char *const names[] = {[HELLO] = "a greeting", [ECHO] = "an echo", [STAMP] = "", [SINK] = "", [REPORT] = "a report"};

        if (r >= 0) /* else it was said */
                peer_fail(spec.side ? "nothing came" : names[awaited], "the other side is silent");
        exit(1);
}

static void put(enum kind kind, uint64_t seq, uint64_t sent_ns, const struct report *report)
{
        struct head head = {.kind = kind, .step = step, .seq = seq, .sent_ns = sent_ns};
        void *p;
        int r;

        r = peer_loan(&p);
        if (r)
                die(r);
        memcpy(p, &head, sizeof(head));
        if (report)
                memcpy((char *)p + sizeof(head), report, sizeof(*report));
        seq = ~seq;
        memcpy((char *)p + spec.size - sizeof(seq), &seq, sizeof(seq));
        r = peer_send();
        if (r)
                die(r);
}

/* Return: whether one came in time. */
static bool get(struct head *ret, struct report *ret_report, int timeout_ms)
{
        const void *p;
        uint64_t end;
        int r;

        r = peer_take(&p, timeout_ms);
        if (r == PEER_TIMEOUT)
                return false;
        if (r)
                die(r);
        memcpy(ret, p, sizeof(*ret));
        if (ret_report)
                memcpy(ret_report, (const char *)p + sizeof(*ret), sizeof(*ret_report));
        memcpy(&end, (const char *)p + spec.size - sizeof(end), sizeof(end));
        if (end != ~ret->seq)
                die(peer_fail("work", "a message is damaged"));
        r = peer_release();
        if (r)
                die(r);
        return true;
}

/* The next message of this kind and step: greetings and echoes of before may still be under way. */
static void expect(enum kind kind, struct head *ret, struct report *ret_report)
{
        awaited = kind;
        do {
                if (!get(ret, ret_report, PATIENCE_MS))
                        die(0);
        } while (ret->kind != kind || ret->step != step);
}

static void sample(uint64_t ns)
{
        if (n_samples < MAX_SAMPLES)
                samples[n_samples++] = ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
}

static int by_value(const void *a, const void *b)
{
        uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

        return (x > y) - (x < y);
}

static uint32_t rank(double share)
{
        return n_samples ? samples[(unsigned)((n_samples - 1) * share + 0.5)] : 0;
}

/* Of the samples since the last call. */
static void percentiles(struct report *ret)
{
        qsort(samples, n_samples, sizeof(*samples), by_value);
        ret->p50_ns = rank(0.5);
        ret->p99_ns = rank(0.99);
        ret->p999_ns = rank(0.999);
        ret->max_ns = rank(1);
        n_samples = 0;
}

static void greet(void)
{
        struct head head;

        do
                put(HELLO, 0, 0, NULL);
        while (!get(&head, NULL, HELLO_MS));
}

static void ping(uint64_t end_ns, struct report *ret)
{
        uint64_t before, after;
        struct head head;

        memset(ret, 0, sizeof(*ret));
        do {
                before = now_ns();
                put(ECHO, ret->n, before, NULL);
                expect(ECHO, &head, NULL);
                after = now_ns();
                if (head.seq != ret->n)
                        die(peer_fail("ping", "not the echo of what was sent"));
                sample((after - before) / 2);
                ret->n++;
        } while (after < end_ns);
        percentiles(ret);
}

/* Asked for again after a while: some lose messages that they are too slow for. */
static void reported(struct report *ret)
{
        struct head head;

        awaited = REPORT;
        for (unsigned i = 0; i < PATIENCE_MS / REPORT_MS; i++) {
                put(REPORT, 0, 0, NULL);
                while (get(&head, ret, REPORT_MS))
                        if (head.kind == REPORT && head.step == step)
                                return;
        }
        die(0);
}

static void paced(uint64_t end_ns, uint64_t gap_ns, struct report *ret)
{
        uint64_t next = now_ns() + gap_ns;

        for (uint64_t seq = 0; next < end_ns; seq++, next += gap_ns) {
                struct timespec ts = {.tv_sec = (time_t)(next / NSEC_PER_SEC), .tv_nsec = (long)(next % NSEC_PER_SEC)};

                while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
                        ;
                put(STAMP, seq, now_ns(), NULL);
        }
        reported(ret);
}

static void flood(uint64_t end_ns, struct report *ret)
{
        uint64_t seq = 0;

        do
                for (unsigned i = 0; i < LOOK_AT_CLOCK; i++)
                        put(SINK, seq++, 0, NULL);
        while (now_ns() < end_ns);
        reported(ret);
}

static void answer(void)
{
        uint64_t first_ns = 0, next = 0;
        struct report report = {0}, said = {0};
        uint32_t said_step = 0;
        struct head head;

        for (;;) {
                if (!get(&head, NULL, PATIENCE_MS))
                        die(0);
                step = head.step;
                switch (head.kind) {
                case HELLO:
                case ECHO:
                        put(head.kind, head.seq, 0, NULL);
                        break;
                case STAMP:
                        sample(now_ns() - head.sent_ns);
                        __attribute__((fallthrough));
                case SINK:
                        /* the clock for the first of them, and then not for every one */
                        if (report.n == 0)
                                first_ns = now_ns();
                        if (head.seq != next)
                                report.missing += (uint32_t)(head.seq - next);
                        next = head.seq + 1;
                        report.n++;
                        break;
                case REPORT:
                        if (said_step != step) {
                                report.span_ns = now_ns() - first_ns;
                                percentiles(&report);
                                said = report;
                                said_step = step;
                                memset(&report, 0, sizeof(report));
                                next = 0;
                        }
                        put(REPORT, 0, 0, &said);
                        break;
                case QUIT:
                        return;
                default:
                        die(peer_fail("work", "a message of an unknown kind"));
                }
        }
}

static void print(FILE *f, const char *name, const struct report *report)
{
        fprintf(f, "{\"step\": \"%.*s\", \"n\": %" PRIu32 ", \"missing\": %" PRIu32, (int)strcspn(name, ":"), name, report->n,
                report->missing);
        if (name[0] == 'f')
                fprintf(f, ", \"per_s\": %.1f", (double)report->n * 1e9 / (double)(report->span_ns ? report->span_ns : 1));
        else
                fprintf(f, ", \"p50_us\": %.3f, \"p99_us\": %.3f, \"p999_us\": %.3f, \"max_us\": %.3f", report->p50_ns / 1e3,
                        report->p99_ns / 1e3, report->p999_ns / 1e3, report->max_ns / 1e3);
        if (name[0] == 'p' && name[1] == 'i' && report->n)
                fprintf(f, ", \"cpu_us\": %.3f", (double)cpu_ns / 1e3 / report->n);
        fprintf(f, "}\n");
}

static void perform(const char *text, uint64_t span_ns, struct report *ret)
{
        uint64_t end_ns = now_ns() + span_ns, before_ns = used_ns();
        unsigned gap_us = 0;

        step++;
        if (sscanf(text, "paced:%*u:%u", &gap_us) == 1 && gap_us)
                paced(end_ns, gap_us * UINT64_C(1000), ret);
        else if (strncmp(text, "ping:", 5) == 0)
                ping(end_ns, ret);
        else if (strncmp(text, "flood:", 6) == 0)
                flood(end_ns, ret);
        else
                die(peer_fail(text, "no such step"));
        cpu_ns = used_ns() - before_ns;
}

static void ask(FILE *f, char **steps)
{
        greet();
        for (; *steps; steps++) {
                const char *colon = strchr(*steps, ':');
                uint64_t span_ns = colon ? strtoull(colon + 1, NULL, 10) * NSEC_PER_MSEC : 0;
                struct report report;

                perform(*steps, span_ns / 5, &report);
                perform(*steps, span_ns, &report);
                print(f, *steps, &report);
        }
        put(QUIT, 0, 0, NULL);
}

int main(int argc, char **argv)
{
        FILE *f = NULL;

        if (argc < 6 || (argv[2][0] == '0' && argc < 8)) {
                fprintf(stderr, "usage: %s VARIANT SIDE DIR SIZE QUEUE [RESULT STEP...]\n", argv[0]);
                return 2;
        }
        spec = (struct peer_spec){
                .variant = argv[1], .side = argv[2][0] - '0', .dir = argv[3], .size = strtoul(argv[4], NULL, 10),
                .queue = (unsigned)strtoul(argv[5], NULL, 10),
        };
        if (spec.size < 64 || spec.queue < 1)
                return peer_fail("arguments", "a message has at least 64 bytes, a queue one"), 2;
        memset(samples, 0, sizeof(samples)); /* their pages are there before anything is measured */
        if (spec.side == 0) {
                f = fopen(argv[6], "we");
                if (!f)
                        return peer_fail(argv[6], strerror(errno)), 1;
        }
        if (peer_open(&spec))
                return 1;
        if (f)
                ask(f, argv + 7);
        else
                answer();
        peer_close();
        return f && fclose(f) ? 1 : 0;
}
