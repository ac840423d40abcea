/* SPDX-License-Identifier: Apache-2.0 */
/* tidegate topic echo: messages as they come. What a terminal or a reader is too slow for passes, and is counted; nobody waits for us. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "cli/commands.h"
#include "cli/out.h"
#include "cli/print.h"
#include "cli/topic-show.h"
#include "cli/topic.h"

#define BYTES_TERMINAL 256u
#define BYTES_PIPE     4096u
#define BYTES_HEX      64u
#define RAW_STEP       (64u << 10)
#define RAW_MOST       ((size_t)REGION_MAX_SIZE)
#define LAST_SPAN      (5 * NSEC_PER_SEC) /* to write what was taken, at the end */

typedef struct Echo {
        TopicCommand *command;
        Out *out;
        long long n;
        size_t columns, hex;
        int error; /* errno of the writer, or ENOMEM */
        bool interrupted;
} Echo;

/* Waits for room, as long as nobody interrupts. False: it was not written. */
static bool put(Echo *e, const void *data, size_t size)
{
        struct pollfd p = {.fd = e->command->session.signal_fd, .events = POLLIN};

        while (!out_write(e->out, data, size)) {
                if (poll(&p, 1, 5) > 0) {
                        e->interrupted = true;
                        return false;
                }
        }
        e->error = out_error(e->out); /* then all is dropped, and nobody reads it any more */
        return e->error == 0;
}

static bool put_all(Echo *e, const uint8_t *data, size_t size)
{
        for (size_t at = 0; at < size; at += RAW_STEP)
                if (!put(e, data + at, MIN((size_t)RAW_STEP, size - at)))
                        return false;
        return true;
}

static bool put_text(Echo *e, char *take_text)
{
        bool done = take_text && put_all(e, (const uint8_t *)take_text, strlen(take_text));

        if (!take_text)
                e->error = ENOMEM;
        free(take_text);
        return done;
}

static bool put_json(Echo *e, json_t *take_object)
{
        char *text = take_object ? json_dumps(take_object, JSON_COMPACT | JSON_SORT_KEYS) : NULL;

        json_decref(take_object);
        return put_text(e, text) && put(e, "\n", 1);
}

static char *note(const Topic *topic, const char *text)
{
        char *line = NULL;

        return asprintf(&line, "# %s: %s\n", topic->name, text) < 0 ? NULL : line;
}

static bool put_passed(Echo *e, const Topic *topic, uint64_t passed)
{
        char text[80];

        (void)snprintf(text, sizeof(text), "%llu passed before they could be read", (unsigned long long)passed);
        return put_text(e, note(topic, text));
}

static bool on_message(void *userdata, Topic *topic, const TopicMessage *message)
{
        Echo *e = userdata;
        bool done;

        if (e->command->raw)
                done = put_all(e, message->payload, message->n_payload);
        else if (e->command->session.json)
                done = put_json(e, show_message_json(topic, message));
        else
                done = (message->passed == 0 || put_passed(e, topic, message->passed)) && put_text(e, show_message(topic, message, e->columns, e->hex));
        e->n++;
        return done && (e->command->count == 0 || e->n < e->command->count);
}

static void on_said(void *userdata, Topic *topic, const char *text)
{
        Echo *e = userdata;

        if (e->command->raw)
                return;
        if (e->command->session.json)
                (void)put_json(e, json_pack("{ss ss sI ss}", "topic", topic->name, "dataflow", topic->dataflow, "generation", (json_int_t)topic->generation,
                                          "note", text));
        else
                (void)put_text(e, note(topic, text));
}

int topic_echo(TopicCommand *t)
{
        Echo e = {.command = t, .columns = t->session.json ? 0 : topic_columns(), .hex = t->bytes != SIZE_MAX ? t->bytes : BYTES_HEX};
        TopicWatch watch = {.session = &t->session,
                .n = t->n,
                .payload_max = t->raw ? RAW_MOST : t->bytes != SIZE_MAX ? t->bytes : e.columns ? BYTES_TERMINAL : BYTES_PIPE,
                .last = t->last,
                .until = NSEC_NEVER,
                .message = on_message,
                .said = on_said,
                .userdata = &e};
        int status, r;

        status = topic_find_all(t, &watch.topics);
        if (status)
                return status;
        r = session_catch(&t->session);
        if (!r)
                r = out_new(&e.out, STDOUT_FILENO);
        if (r) {
                status = session_fail(&t->session, r);
        } else {
                watch.until = t->span ? nsec_add(clock_now(), t->span) : NSEC_NEVER;
                status = topic_watch(&watch);
                e.error = e.error ? e.error : out_error(e.out);
                out_finish(e.out, e.interrupted ? clock_now() : nsec_add(clock_now(), LAST_SPAN));
        }
        for (size_t i = 0; i < watch.n; i++)
                topic_done(&watch.topics[i]);
        free(watch.topics);
        if (!status && e.error && e.error != EPIPE) {
                session_say(&t->session, "writing the output: %s", strerror(e.error));
                status = CLI_FAILED;
        }
        return status;
}
