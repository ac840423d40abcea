/* SPDX-License-Identifier: Apache-2.0 */
/* tidegate topic: what the outputs of living dataflows send. */
#include "cli/topic.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/span.h"
#include "cli/commands.h"
#include "cli/table.h"

static const struct {
        const char *verb;
        int (*run)(TopicCommand *t);
        const char *options; /* that it takes, by letter */
        size_t least, most;  /* topics */
} verbs[] = {
        {"list", topic_list, "q", 0, 1},
        {"echo", topic_echo, "cfblr", 1, TOPICS_MAX},
        {"hz", topic_hz, "fw", 1, TOPICS_MAX},
        {"info", topic_info, "f", 1, 1},
        {"pub", topic_pub, "cFR", 1, 2},
};

size_t topic_columns(void)
{
        struct winsize size = {};

        return isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 0;
}

int topic_find_all(TopicCommand *t, Topic **ret)
{
        Topic *topics = calloc(t->n + 1, sizeof(*topics));
        int status = topics ? 0 : CLI_FAILED;

        for (size_t i = 0; i < t->n && !status; i++)
                status = topic_find(&t->session, t->dataflow, t->topics[i], &topics[i]);
        if (status)
                free(topics);
        else
                *ret = topics;
        return status;
}

/* ---- arguments */

static bool number_of(const char *text, long long least, long long most, long long *ret)
{
        char *end;

        errno = 0;
        *ret = strtoll(text, &end, 10);
        return !errno && *text && !*end && *ret >= least && *ret <= most;
}

static int take_option(TopicCommand *t, int o)
{
        long long n = 0;
        char *end = NULL;

        switch (o) {
        case 'd':
                t->dataflow = optarg;
                return 0;
        case 'c':
                return number_of(optarg, 1, INT64_MAX, &t->count) ? 0 : usage_error("topic", "--count: `%s` is no number from 1", optarg);
        case 'f':
                return span_parse(optarg, &t->span) || t->span == 0 ? usage_error("topic", "--for: `%s` is no time (500ms, 10s, 1m)", optarg) : 0;
        case 'b':
                if (!number_of(optarg, 0, 1 << 20, &n))
                        return usage_error("topic", "--bytes: `%s` is no number up to 1048576", optarg);
                t->bytes = (size_t)n;
                return 0;
        case 'w':
                return span_parse(optarg, &t->window) || t->window < 100 * NSEC_PER_MSEC || t->window > 3600 * NSEC_PER_SEC
                               ? usage_error("topic", "--window: `%s` is no time from 100ms to 1h", optarg)
                               : 0;
        case 'l':
                t->last = true;
                return 0;
        case 'F':
                t->file = optarg;
                return 0;
        case 'R':
                t->rate = strtod(optarg, &end);
                return end > optarg && !*end && t->rate >= 1e-6 && t->rate <= 1e6 ? 0 : usage_error("topic", "--rate: `%s` is no number of messages a second", optarg);
        case 'q':
                t->quiet = true;
                return 0;
        case 'r':
                t->raw = true;
                return 0;
        default:
                return CLI_USAGE;
        }
}

static int read_arguments(TopicCommand *t, size_t verb, int argc, char **argv)
{
        static const struct option options[] = {
                {"dataflow", required_argument, NULL, 'd'},
                {"count", required_argument, NULL, 'c'},
                {"for", required_argument, NULL, 'f'},
                {"window", required_argument, NULL, 'w'},
                {"bytes", required_argument, NULL, 'b'},
                {"last", no_argument, NULL, 'l'},
                {"file", required_argument, NULL, 'F'},
                {"rate", required_argument, NULL, 'R'},
                {"quiet", no_argument, NULL, 'q'},
                {"raw", no_argument, NULL, 'r'},
                SESSION_LONG_OPTIONS,
                {NULL, 0, NULL, 0},
        };
        int o, status;

        while ((o = session_getopt(&t->session, argc, argv, "d:q", options)) != -1) {
                if (o < 256 && o != '?' && o != 'd' && !strchr(verbs[verb].options, o))
                        return usage_error("topic", "`topic %s` has no such option: `%s`", t->verb, argv[optind - 1]);
                status = take_option(t, o);
                if (status)
                        return status;
        }
        for (; optind < argc; optind++) {
                if (t->n == verbs[verb].most)
                        return usage_error("topic", "unexpected argument `%s`", argv[optind]);
                t->topics[t->n++] = argv[optind];
        }
        return t->n < verbs[verb].least ? usage_error("topic", "`topic %s` needs a topic: NODE/OUTPUT", t->verb) : 0;
}

int cmd_topic(int argc, char **argv)
{
        TopicCommand t = {.session = SESSION_INIT("topic"), .bytes = SIZE_MAX};
        char name[32];
        size_t i = 0;
        int status;

        t.verb = argc > 1 ? argv[1] : "";
        while (i < ELEMENTSOF(verbs) && strcmp(t.verb, verbs[i].verb) != 0)
                i++;
        if (i == ELEMENTSOF(verbs))
                return usage_error("topic", argc > 1 ? "`%s` is none of list, echo, hz, info, pub" : "say what to do: list, echo, hz, info, pub", t.verb);
        (void)snprintf(name, sizeof(name), "topic %s", t.verb);
        t.session.command = name;
        session_begin();
        status = read_arguments(&t, i, argc - 1, argv + 1);
        if (!status)
                status = session_locate(&t.session);
        if (!status)
                status = verbs[i].run(&t);
        session_done(&t.session);
        return status;
}
