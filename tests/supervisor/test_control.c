/* SPDX-License-Identifier: Apache-2.0 */
/* One control connection on a socket pair, with spans of milliseconds: what it takes, what it gives, and when it hangs up. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/send.h"
#include "protocol/control_msg.h"
#include "supervisor/control.h"
#include "supervisor/parameters.h"

#define SPAN       (5 * NSEC_PER_SEC) /* for what should happen at once */
#define SHORT_SPAN (50 * NSEC_PER_MSEC)

static const ControlLimits patient = {
        .events_max = 65536, .replies_max = 1u << 18, .frame_span = NSEC_NEVER, .reading_span = NSEC_NEVER};
static const ControlLimits hasty = {
        .events_max = 65536, .replies_max = 1u << 18, .frame_span = SHORT_SPAN, .reading_span = SHORT_SPAN};

typedef struct Fixture {
        Loop loop;
        Control *control;
        int peer;
        bool hold; /* do not answer calls */
        unsigned n_calls, n_gone, n_room;
        nsec_t called_at; /* the turn of the last one */
        char last[64];    /* method called */
        bool (*until)(struct Fixture *fx);
        Timer look, end;
        bool timed_out;
        nsec_t began;
} Fixture;

static void on_call(void *owner, const ControlCall *call)
{
        Fixture *fx = owner;

        fx->n_calls++;
        fx->called_at = fx->loop.now;
        (void)snprintf(fx->last, sizeof(fx->last), "%s", call->method);
        if (!fx->hold)
                control_reply(fx->control, json_pack("{ss}", "method", call->method));
}

static void on_gone(void *owner)
{
        Fixture *fx = owner;

        fx->n_gone++;
        fx->control = control_free(fx->control);
}

static void on_room(void *owner)
{
        Fixture *fx = owner;

        fx->n_room++;
}

static const ControlOps ops = {.call = on_call, .gone = on_gone, .room = on_room};

static Fixture *fx_new(const ControlLimits *limits, ControlQuota *quota)
{
        Fixture *fx = calloc(1, sizeof(*fx));
        int pair[2];

        cr_assert_eq(loop_init(&fx->loop), 0);
        cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
        fx->peer = pair[1];
        cr_assert_eq(control_new(&fx->control, &fx->loop, pair[0], &ops, fx, limits, quota), 0);
        return fx;
}

static void fx_close(Fixture *fx)
{
        fx->control = control_free(fx->control);
        fx->peer = fd_close(fx->peer);
        timer_disarm(&fx->look);
        timer_disarm(&fx->end);
        loop_done(&fx->loop);
        free(fx);
}

static int on_end(Timer *timer, nsec_t now)
{
        Fixture *fx = container_of(timer, Fixture, end);

        (void)now;
        fx->timed_out = true;
        loop_exit(&fx->loop, 1);
        return 0;
}

static int on_look(Timer *timer, nsec_t now)
{
        Fixture *fx = container_of(timer, Fixture, look);

        if (fx->until(fx))
                loop_exit(&fx->loop, 0);
        else
                timer_arm(&fx->loop, timer, nsec_add(now, NSEC_PER_MSEC), on_look);
        return 0;
}

/* Turns the loop until it is so. */
static void fx_turn(Fixture *fx, bool (*until)(Fixture *fx))
{
        fx->until = until;
        fx->loop.stop = fx->timed_out = false;
        fx->loop.now = fx->began = clock_now();
        timer_arm(&fx->loop, &fx->look, clock_now(), on_look);
        timer_arm(&fx->loop, &fx->end, nsec_add(clock_now(), SPAN), on_end);
        (void)loop_run(&fx->loop);
        timer_disarm(&fx->look);
        timer_disarm(&fx->end);
        cr_assert_not(fx->timed_out, "it did not happen");
}

static bool is_gone(Fixture *fx)
{
        return fx->n_gone > 0;
}

static bool has_one(Fixture *fx)
{
        return fx->n_calls >= 1;
}

static bool has_three(Fixture *fx)
{
        return fx->n_calls >= 3;
}

static void put(Fixture *fx, const char *data, size_t size)
{
        cr_assert_eq(send(fx->peer, data, size, MSG_NOSIGNAL), (ssize_t)size);
}

/* Whole frames of what has come to the peer. */
static json_t *take_all(Fixture *fx)
{
        static char buffer[4u << 20];
        json_t *frames = json_array();
        size_t size = 0, at = 0;
        ssize_t n;

        while ((n = recv(fx->peer, buffer + size, sizeof(buffer) - size, MSG_DONTWAIT)) > 0)
                size += (size_t)n;
        while (at < size) {
                char *end = memchr(buffer + at, '\0', size - at);

                cr_assert(end, "half a frame");
                (void)json_array_append_new(frames, json_loads(buffer + at, 0, NULL));
                at = (size_t)(end - buffer) + 1;
        }
        return frames;
}

static bool once(Fixture *fx)
{
        (void)fx;
        return true;
}

Test(control, a_call_that_comes_byte_by_byte_is_one_call, .timeout = 30)
{
        static const char call[] = "{\"method\":\"a.B\"}";
        Fixture *fx = fx_new(&patient, NULL);
        json_t *frames;

        for (size_t i = 0; i < sizeof(call); i++) {
                fx_turn(fx, once);
                cr_assert_eq(fx->n_calls, 0);
                put(fx, call + i, 1);
        }
        fx_turn(fx, has_one);
        frames = take_all(fx);
        cr_assert_eq(json_array_size(frames), 1);
        cr_assert_str_eq(
                json_string_value(json_object_get(json_object_get(json_array_get(frames, 0), "parameters"), "method")), "a.B");
        json_decref(frames);
        fx_close(fx);
}

Test(control, calls_that_come_together_are_served_one_at_a_time, .timeout = 30)
{
        static const char calls[] = "{\"method\":\"a.A\"}\0{\"method\":\"a.B\",\"oneway\":true}\0{\"method\":\"a.C\"}";
        Fixture *fx = fx_new(&patient, NULL);
        json_t *frames;

        fx->hold = true;
        put(fx, calls, sizeof(calls));
        fx_turn(fx, has_one);
        fx_turn(fx, once);
        cr_assert_eq(fx->n_calls, 1, "the second waits for the first to be answered");
        fx->hold = false;
        control_reply(fx->control, json_pack("{ss}", "method", "a.A"));
        fx_turn(fx, has_three);
        frames = take_all(fx);
        cr_assert_eq(json_array_size(frames), 2, "one wanted no answer");
        cr_assert_str_eq(
                json_string_value(json_object_get(json_object_get(json_array_get(frames, 1), "parameters"), "method")), "a.C");
        json_decref(frames);
        fx_close(fx);
}

/* Descriptors that came with the next bytes; they are closed. */
static size_t take_fds(Fixture *fx, char text[static 256])
{
        char space[CMSG_SPACE(2 * SEND_MAX_FDS * sizeof(int))] __attribute__((aligned(8)));
        struct iovec iov = {text, 255};
        struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof(space)};
        ssize_t n = recvmsg(fx->peer, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        struct cmsghdr *c = n >= 0 ? CMSG_FIRSTHDR(&mh) : NULL;
        size_t n_fds = c ? (c->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;

        text[MAX(n, (ssize_t)0)] = '\0';
        for (size_t i = 0; i < n_fds; i++) {
                int fd;

                memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
                cr_assert_eq(close(fd), 0);
        }
        return n_fds;
}

Test(control, descriptors_go_with_the_answer_that_they_were_for_and_with_no_other, .timeout = 30)
{
        static const char once_only[] = "{\"method\":\"a.A\",\"oneway\":true}", wanted[] = "{\"method\":\"a.B\"}";
        Fixture *fx = fx_new(&patient, NULL);
        char text[256];
        int fds[2], last;

        cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
        last = fds[1];
        fx->hold = true;
        put(fx, once_only, sizeof(once_only));
        fx_turn(fx, has_one);
        control_send_fd(fx->control, fds[0]);
        control_reply(fx->control, json_object());
        cr_assert_eq(take_fds(fx, text), 0, "nobody wants an answer");
        cr_assert_eq(fcntl(fds[0], F_GETFD), -1, "and it is closed");

        put(fx, wanted, sizeof(wanted));
        fx->n_calls = 0;
        fx_turn(fx, has_one);
        for (size_t i = 0; i < SEND_MAX_FDS + 3; i++)
                control_send_fd(fx->control, dup(fds[1]));
        cr_assert(control_is_read(fx->control));
        control_reply(fx->control, json_object());
        cr_assert(!control_is_read(fx->control), "it lies in the socket");
        cr_assert_eq(take_fds(fx, text), SEND_MAX_FDS, "what does not fit is closed");
        cr_assert_str_eq(text, "{\"parameters\":{}}");
        cr_assert(control_is_read(fx->control));

        put(fx, wanted, sizeof(wanted));
        fx->n_calls = 0;
        fx_turn(fx, has_one);
        control_reply(fx->control, json_object());
        cr_assert_eq(take_fds(fx, text), 0, "the next answer has none");
        cr_assert_eq(close(fds[1]), 0);
        cr_assert_eq(dup(STDERR_FILENO), fds[0], "of all of them none is left: the lowest number is free");
        cr_assert_eq(dup(STDERR_FILENO), last);
        (void)close(fds[0]);
        (void)close(last);
        fx_close(fx);
}

Test(control, nonsense_and_half_a_message_are_hung_up_on, .timeout = 30)
{
        static const struct {
                const char *data;
                size_t size;
        } cases[] = {{"", 1}, {"x", 2}, {"[]", 3}, {"{\"method\":1}", 13}, {"{\"method\":\"a.b\",\"parameters\":[]}", 33},
                {"{\"method\":", 10}};

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                Fixture *fx = fx_new(&hasty, NULL);

                put(fx, cases[i].data, cases[i].size);
                fx_turn(fx, is_gone);
                cr_assert_eq(fx->n_calls, 0);
                fx_close(fx);
        }
}

static bool has_taken_all(Fixture *fx)
{
        int waits = -1;

        return ioctl(fx->peer, SIOCOUTQ, &waits) == 0 && waits == 0;
}

/* In whatever pieces it comes: also if the last one is read when the turn's reads are over. */
Test(control, a_message_as_long_as_the_limit_that_does_not_end_is_hung_up_on, .timeout = 60)
{
        static char endless[CONTROL_FRAME_MAX];
        int room = 4 * CONTROL_FRAME_MAX;

        memset(endless, 'x', sizeof(endless));
        for (size_t first = 4096; first < sizeof(endless); first *= 2) {
                Fixture *fx = fx_new(&patient, NULL);

                if (setsockopt(fx->peer, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)))
                        cr_skip_test("needs CAP_NET_ADMIN for a socket that takes a MiB at once");
                put(fx, endless, first);
                fx_turn(fx, has_taken_all);
                cr_assert_eq(fx->n_gone, 0);
                put(fx, endless, sizeof(endless) - first);
                fx_turn(fx, is_gone);
                cr_assert_eq(fx->n_calls, 0);
                fx_close(fx);
        }
}

Test(control, a_peer_that_is_gone_is_told_once_also_in_the_middle_of_a_call, .timeout = 30)
{
        static const char call[] = "{\"method\":\"a.A\"}";
        Fixture *fx = fx_new(&patient, NULL);

        fx->hold = true;
        put(fx, call, sizeof(call));
        fx_turn(fx, has_one);
        fx->peer = fd_close(fx->peer);
        fx_turn(fx, is_gone);
        fx_turn(fx, once);
        cr_assert_eq(fx->n_gone, 1);
        fx_close(fx);
}

Test(control, who_sends_no_more_may_still_read_what_waits, .timeout = 30)
{
        static const char call[] = "{\"method\":\"a.A\"}";
        Fixture *fx = fx_new(&patient, NULL);
        json_t *frames;

        put(fx, call, sizeof(call));
        cr_assert_eq(shutdown(fx->peer, SHUT_WR), 0);
        fx_turn(fx, is_gone);
        frames = take_all(fx);
        cr_assert_eq(json_array_size(frames), 1);
        json_decref(frames);
        fx_close(fx);
}

static void flood(Fixture *fx, unsigned n)
{
        char text[1024];

        memset(text, 'x', sizeof(text) - 1);
        text[sizeof(text) - 1] = '\0';
        for (unsigned i = 0; i < n; i++) {
                json_t *event = json_pack("{ss si}", "text", text, "number", (int)i);

                control_event(fx->control, event);
                json_decref(event);
        }
}

Test(control, a_slow_reader_loses_events_that_are_counted_and_told_and_gets_its_reply, .timeout = 30)
{
        static const char call[] = "{\"method\":\"a.A\",\"more\":true}";
        Fixture *fx = fx_new(&patient, NULL);
        json_int_t n_events = 0, n_dropped = 0;
        bool replied = false;

        fx->hold = true;
        put(fx, call, sizeof(call));
        fx_turn(fx, has_one);
        flood(fx, 2000);
        cr_assert_not(control_has_room(fx->control));
        control_reply(fx->control, json_object());
        for (nsec_t until = nsec_add(clock_now(), SPAN); !replied && clock_now() < until;) {
                json_t *frames = take_all(fx), *frame;
                size_t i;

                json_array_foreach(frames, i, frame)
                {
                        json_t *event = json_object_get(json_object_get(frame, "parameters"), "event");
                        const char *type = json_string_value(json_object_get(event, "type"));

                        cr_assert_not(replied, "something came after the reply");
                        replied = !json_is_true(json_object_get(frame, "continues"));
                        n_dropped +=
                                type && strcmp(type, "dropped") == 0 ? json_integer_value(json_object_get(event, "count")) : 0;
                        n_events += event && !type;
                }
                json_decref(frames);
                fx_turn(fx, once);
        }
        cr_assert(replied);
        cr_assert_eq(n_events + n_dropped, 2000);
        cr_assert_gt(n_dropped, 1000);
        cr_assert_gt(fx->n_room, 0);
        fx_close(fx);
}

Test(control, who_takes_nothing_while_a_reply_waits_is_hung_up_on_and_a_stream_is_not, .timeout = 30)
{
        static const char call[] = "{\"method\":\"a.A\",\"more\":true}";
        Fixture *fx = fx_new(&hasty, NULL);
        nsec_t until;

        fx->hold = true;
        put(fx, call, sizeof(call));
        fx_turn(fx, has_one);
        flood(fx, 2000);
        for (until = nsec_add(clock_now(), 3 * SHORT_SPAN); clock_now() < until;)
                fx_turn(fx, once);
        cr_assert_eq(fx->n_gone, 0);
        control_reply(fx->control, json_object());
        fx_turn(fx, is_gone);
        fx_close(fx);
}

Test(control, a_reply_that_is_too_large_is_replaced_by_a_word_that_says_so, .timeout = 30)
{
        static const char call[] = "{\"method\":\"a.A\"}";
        Fixture *fx = fx_new(&patient, NULL);
        json_t *large = json_array(), *frames;

        for (unsigned i = 0; i < 100000; i++)
                (void)json_array_append_new(large, json_integer(1000000 + i));
        fx->hold = true;
        put(fx, call, sizeof(call));
        fx_turn(fx, has_one);
        control_reply(fx->control, json_pack("{so}", "numbers", large));
        frames = take_all(fx);
        cr_assert_eq(json_array_size(frames), 1);
        cr_assert_str_eq(json_string_value(json_object_get(json_array_get(frames, 0), "error")), CONTROL_E_QUOTA);
        json_decref(frames);
        fx_close(fx);
}

Test(control, connections_that_share_a_quota_are_held_to_it_together, .timeout = 30)
{
        static char half[200000];
        ControlQuota quota = {.max = 300000};
        Fixture *one = fx_new(&patient, &quota), *two = fx_new(&patient, &quota);

        memset(half, ' ', sizeof(half));
        half[0] = '{';
        put(one, half, 100000);
        fx_turn(one, has_taken_all); /* in some turns, with a pause where its time was over */
        cr_assert_gt(quota.used, 100000);
        cr_assert_eq(one->n_gone, 0);
        for (size_t at = 0; at < sizeof(half) && two->n_gone == 0;) {
                ssize_t n = send(two->peer, half + at, MIN(sizeof(half) - at, (size_t)20000), MSG_NOSIGNAL | MSG_DONTWAIT);

                at += n > 0 ? (size_t)n : 0;
                fx_turn(two, once);
        }
        fx_turn(two, is_gone);
        cr_assert_eq(one->n_gone, 0, "the other keeps its connection");
        fx_close(two);
        fx_close(one);
        cr_assert_eq(quota.used, 0);
}

Test(control, what_was_sent_whole_before_the_end_is_served, .timeout = 30)
{
        static const char calls[] = "{\"method\":\"a.A\",\"oneway\":true}\0{\"method\":\"a.B\",\"oneway\":true}\0{\"method\":\"a."
                                    "C\",\"oneway\":true}";
        Fixture *fx = fx_new(&patient, NULL);

        put(fx, calls, sizeof(calls));
        fx->peer = fd_close(fx->peer);
        fx_turn(fx, is_gone);
        cr_assert_eq(fx->n_calls, 3);
        fx_close(fx);
}

/* A call of so many bytes, with a value in every tenth of them. */
static char *large_call(size_t size, size_t *ret_size)
{
        char *text = malloc(size + 64), *at = text;

        at += sprintf(at, "{\"method\":\"a.A\",\"parameters\":{\"x\":[0");
        while ((size_t)(at - text) < size)
                at += sprintf(at, ",123456789");
        at += sprintf(at, "]}}");
        *ret_size = (size_t)(at - text) + 1;
        return text;
}

static void put_all(Fixture *fx, const char *data, size_t size)
{
        for (size_t at = 0; at < size;) {
                ssize_t n = send(fx->peer, data + at, size - at, MSG_NOSIGNAL | MSG_DONTWAIT);

                at += n > 0 ? (size_t)n : 0;
                fx_turn(fx, once);
        }
}

static bool has_two(Fixture *fx)
{
        return fx->n_calls >= 2;
}

Test(control, large_calls_of_one_user_are_paced_and_small_ones_are_not, .timeout = 30)
{
        static const char small[] = "{\"method\":\"a.B\"}";
        ControlQuota quota = {.max = 16u << 20};
        Fixture *one = fx_new(&patient, &quota), *two = fx_new(&patient, &quota);
        _cleanup_free_ char *large = NULL;
        nsec_t cpu, until;
        size_t size;

        large = large_call(500000, &size);
        cpu = clock_cpu();
        put_all(one, large, size);
        fx_turn(one, has_one);
        cr_assert_gt(quota.paced_until, one->called_at + (clock_cpu() - cpu), "it is longer than what the call took");
        quota.paced_until = until = nsec_add(clock_now(), 2 * NSEC_PER_SEC); /* as after a call that took longer: what follows may take its time */
        put_all(one, large, size);
        one->peer = fd_close(one->peer); /* what it asked for is done nevertheless */
        put(two, small, sizeof(small));
        fx_turn(two, has_one);
        cr_assert_lt(two->called_at, until);
        cr_assert_eq(one->n_calls, 1);
        fx_turn(one, has_two);
        cr_assert_geq(one->called_at, until);
        fx_turn(one, is_gone);
        fx_close(two);
        fx_close(one);
}

Test(control, a_message_with_more_values_than_any_plan_is_nonsense, .timeout = 30)
{
        Fixture *fx = fx_new(&patient, NULL);
        _cleanup_free_ char *text = malloc(400000);
        size_t n = (size_t)sprintf(text, "{\"method\":\"a.A\",\"parameters\":{\"x\":[0");

        for (unsigned i = 0; i < 150000; i++)
                n += (size_t)sprintf(text + n, ",0");
        n += (size_t)sprintf(text + n, "]}}") + 1;
        put_all(fx, text, n - 1);
        (void)send(fx->peer, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        fx_turn(fx, is_gone);
        cr_assert_eq(fx->n_calls, 0);
        fx_close(fx);
}

/* ---- parameters */

static int parse(const char *json, const uint8_t *takes, Parameters *ret, const char **ret_bad)
{
        json_t *object = json_loads(json, 0, NULL);
        int r;

        cr_assert(object, "%s", json);
        *ret_bad = NULL;
        r = parameters_parse(ret, object, takes, ret_bad);
        if (r)
                *ret_bad = strdup(*ret_bad); /* it may lie in the object */
        json_decref(object);
        return r;
}

Test(parameters, what_a_method_does_not_take_is_refused_by_name)
{
        static const uint8_t takes[] = {
                PARAM_DATAFLOW | PARAM_REQUIRED, PARAM_GRACE_MS, PARAM_FORCE, PARAM_NAMES, PARAM_PLAN, PARAM_NONE};
        static const struct {
                const char *json, *bad;
        } cases[] = {
                {"{\"dataflow\":\"x\"}", NULL},
                {"{\"dataflow\":\"x\",\"grace_ms\":0,\"force\":false,\"names\":[],\"plan\":{}}", NULL},
                {"{\"dataflow\":\"x\",\"grace_ms\":null,\"force\":null}", NULL},
                {"{}", "dataflow"},
                {"{\"dataflow\":null}", "dataflow"},
                {"{\"dataflow\":\"\"}", "dataflow"},
                {"{\"dataflow\":7}", "dataflow"},
                {"{\"dataflow\":\"x\",\"grace_ms\":-1}", "grace_ms"},
                {"{\"dataflow\":\"x\",\"grace_ms\":1.5}", "grace_ms"},
                {"{\"dataflow\":\"x\",\"grace_ms\":9000000000000000000}", "grace_ms"},
                {"{\"dataflow\":\"x\",\"force\":1}", "force"},
                {"{\"dataflow\":\"x\",\"names\":\"x\"}", "names"},
                {"{\"dataflow\":\"x\",\"names\":[\"x\",1]}", "names"},
                {"{\"dataflow\":\"x\",\"plan\":[]}", "plan"},
                {"{\"dataflow\":\"x\",\"wait\":\"running\"}", "wait"},
                {"{\"dataflow\":\"x\",\"\":null}", ""},
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                Parameters parameters;
                const char *bad;
                int r = parse(cases[i].json, takes, &parameters, &bad);

                cr_expect_eq(r, cases[i].bad ? -EINVAL : 0, "%s", cases[i].json);
                if (cases[i].bad && bad)
                        cr_expect_str_eq(bad, cases[i].bad, "%s", cases[i].json);
                free((void *)(uintptr_t)bad);
        }
}

Test(parameters, what_is_absent_is_told_from_what_is_nothing)
{
        static const uint8_t takes[] = {PARAM_GRACE_MS, PARAM_TIMEOUT_MS, PARAM_ALL, PARAM_NONE};
        Parameters parameters;
        const char *bad;

        cr_assert_eq(parse("{\"grace_ms\":0}", takes, &parameters, &bad), 0);
        cr_assert_eq(parameters.grace_ms, 0);
        cr_assert_eq(parameters.timeout_ms, PARAM_ABSENT);
        cr_assert_not(parameters.all);
        cr_assert_null(parameters.names);
}
