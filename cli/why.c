/* SPDX-License-Identifier: Apache-2.0 */
/* tidegate why: what a node waits for, and who could end that, on one screen. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/commands.h"
#include "cli/print.h"
#include "cli/session.h"
#include "cli/table.h"
#include "cli/targets.h"

#define CALL_SPAN   (3 * NSEC_PER_SEC)
#define WIDTH       80
#define FRAMES_MAX  8 /* of a stack; --json has more */
#define THREADS_MAX 4 /* shown with their numbers; the rest is counted */

/* ---- text */

/* Words, folded at WIDTH, each line after @indent blanks. */
static void print_folded(const char *text, int indent)
{
        _cleanup_free_ char *copy = strdup(text);
        int column = 0;
        char *state = NULL;

        for (char *word = copy ? strtok_r(text_tame(copy, false), " ", &state) : NULL; word; word = strtok_r(NULL, " ", &state)) {
                int n = (int)strlen(word);

                if (column && column + 1 + n > WIDTH) {
                        printf("\n");
                        column = 0;
                }
                column += printf("%*s%s", column ? 1 : indent, "", word);
        }
        printf("\n");
}

static double share(const json_t *thread, const char *key, const json_t *why)
{
        long long window = json_get_number(why, "window_us");

        return window > 0 ? 100.0 * (double)json_get_number(thread, key) / (double)window : 0.0;
}

static void print_stack(const char *whose, const json_t *stack)
{
        const json_t *frame;
        char line[1000];
        size_t i, n = (size_t)snprintf(line, sizeof(line), "%s", whose);

        json_array_foreach(stack, i, frame)
                if (n < sizeof(line) && i < FRAMES_MAX)
                        n += (size_t)snprintf(line + n, sizeof(line) - n, "%s %.120s", i ? " <" : "", json_string_value(frame) ? json_string_value(frame) : "?");
        if (json_array_size(stack))
                print_folded(line, 10);
}

/* For how long it is in its call, where that is known exactly; else "". */
static const char *duration_of(const json_t *thread, char *buffer, size_t size)
{
        long long ms = json_get_number(thread, "since_ms");

        buffer[0] = '\0';
        if (json_object_get(thread, "since_ms"))
                (void)snprintf(buffer, size, "for %.3f s", (double)ms / 1e3);
        return buffer;
}

static void print_thread(const json_t *why, const json_t *thread, bool first)
{
        const char *call = json_get_text(thread, "syscall"), *wchan = json_get_text(thread, "wchan");
        char line[700], comm[64], duration[40];

        (void)snprintf(comm, sizeof(comm), "%.15s", json_get_text(thread, "comm"));
        printf("%8lld  %-15s  %-5s  %-18.18s %5.0f%% %5.0f%% %6.0f%%\n", json_get_number(thread, "tid"), text_tame(comm, false), json_get_text(thread, "state"),
                call[0] ? call : wchan[0] ? wchan : "-", share(thread, "run_us", why), share(thread, "wait_us", why), share(thread, "blocked_us", why));
        (void)duration_of(thread, duration, sizeof(duration));
        if (first && duration[0])
                printf("%10sin this call %s\n", "", duration);
        if (!first && json_get_text(thread, "text")[0]) { /* the first one's is the sentence above */
                int n = snprintf(line, sizeof(line), "%s%s%s", duration, duration[0] ? ": " : "", json_get_text(thread, "text")), cut = WIDTH - 13;

                while (n > cut && cut > 0 && ((unsigned char)line[cut] & 0xc0) == 0x80) /* not within a character */
                        cut--;
                printf("%10s%.*s%s\n", "", cut, text_tame(line, false), n > cut ? "..." : "");
        }
        if (first) {
                print_stack("kernel:", json_object_get(thread, "stack"));
                print_stack("own:", json_object_get(thread, "user_stack"));
        }
}

static void print_threads(const json_t *why)
{
        const json_t *threads = json_object_get(why, "threads");
        long long n = json_get_number(why, "n_threads");
        json_t *thread;
        size_t i;

        if (!json_array_size(threads))
                return;
        printf("\n%8s  %-15s  %-5s  %-18s %6s %6s %7s\n", "THREAD", "NAME", "STATE", "CALL", "RUNS", "QUEUED", "BLOCKED");
        json_array_foreach(threads, i, thread) {
                if (i >= THREADS_MAX)
                        break;
                print_thread(why, thread, i == 0);
        }
        if (n > (long long)i)
                printf("%8s  and %lld more (--json has up to 48)\n", "", n - (long long)i);
}

static void print_why(const char *name, const json_t *why)
{
        char head[400];

        (void)snprintf(head, sizeof(head), "%s: %s", name, json_get_text(why, "cause"));
        printf("%s\n", text_tame(head, false));
        print_folded(json_get_text(why, "text"), 2);
        print_threads(why);
        if (json_get_text(why, "lost")[0]) {
                (void)snprintf(head, sizeof(head), "not seen: %s", json_get_text(why, "lost"));
                print_folded(head, 2);
        }
        if (json_is_false(json_object_get(why, "deep")))
                print_folded("memory and descriptors could not be read in time: this is of what takes no lock of the process", 2);
}

/* ---- the command */

static int ask(Session *session, const char *dataflow, const char *node, bool freeze, Reply *ret)
{
        session->patient = true;
        session->until = nsec_add(clock_now(), nsec_add(CALL_SPAN, 3 * NSEC_PER_SEC));
        (void)snprintf(session->waits_for, sizeof(session->waits_for), "%.70s:%.70s", dataflow, node);
        return session_try(session, "Why",
                json_pack("{ss ss sb sI}", "dataflow", dataflow, "node", node, "freeze", freeze, "timeout_ms", (json_int_t)(CALL_SPAN / NSEC_PER_MSEC)), ret);
}

int cmd_why(int argc, char **argv)
{
        static const struct option options[] = {{"freeze", no_argument, NULL, 'Z'}, SESSION_LONG_OPTIONS, {NULL, 0, NULL, 0}};
        _cleanup_(json_decrefp) json_t *dataflow = NULL, *node = NULL;
        Session session = SESSION_INIT("why");
        bool freeze = false;
        char name[320];
        Reply reply = {};
        int status, o;

        session_begin();
        while ((o = session_getopt(&session, argc, argv, "", options)) != -1) {
                if (o != 'Z')
                        return CLI_USAGE;
                freeze = true;
        }
        if (argc - optind != 1)
                return usage_error("why", "%s", argc == optind ? "which node? (DATAFLOW:NODE)" : "one node only");
        status = session_locate(&session);
        if (!status)
                status = targets_node(&session, NULL, argv[optind], &dataflow, &node);
        if (!status) {
                int r = ask(&session, json_get_text(dataflow, "uuid"), json_get_text(node, "id"), freeze, &reply);

                status = r ? session_fail(&session, r) : reply.error ? session_refused(&session, &reply) : 0;
        }
        if (!status && session.json) {
                status = session_result(&session, json_incref(json_object_get(reply.parameters, "why")));
        } else if (!status) {
                (void)snprintf(name, sizeof(name), "%.128s:%.128s", json_get_text(dataflow, "name"), json_get_text(node, "id"));
                print_why(name, json_object_get(reply.parameters, "why"));
        }
        reply_done(&reply);
        session_done(&session);
        return status;
}
