/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of `tidegate topic`, one file each. The arguments follow argv[0], "topic", and the verb is taken. Each returns the exit status. */
#ifndef TG_CLI_TOPIC_H
#define TG_CLI_TOPIC_H

#include "cli/session.h"
#include "cli/topic-source.h"

typedef struct TopicCommand {
        Session session;
        const char *verb;
        const char *dataflow; /* of -d, or NULL */
        const char *topics[TOPICS_MAX];
        size_t n;
        long long count; /* 0: not given */
        nsec_t span, window; /* 0: not given */
        size_t bytes;        /* SIZE_MAX: not given */
        double rate;         /* 0: not given */
        bool last, raw, quiet;
        const char *file; /* of `pub`; its text is topics[1] */
} TopicCommand;

int topic_list(TopicCommand *t);
int topic_echo(TopicCommand *t);
int topic_hz(TopicCommand *t);
int topic_info(TopicCommand *t);
int topic_pub(TopicCommand *t);

/* topic_find_all() - those that were named. Return: 0 or the exit status, said; *ret: owned array, topic_done() each. */
int topic_find_all(TopicCommand *t, Topic **ret);

/* topic_columns() - width of the terminal on stdout; 0: it is none. */
size_t topic_columns(void);

#endif
