/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Topics: what outputs of living dataflows send, read out of shared memory without a word to anybody (shm/observer.h). A topic is
 * NODE/OUTPUT, where several dataflows have such a node DATAFLOW:NODE/OUTPUT.
 *
 * The supervisor is asked for descriptors when a topic is opened, when a message lies in memory that is not known yet, and when nothing
 * comes: then its node may have begun another life, with other memory. A supervisor that is being replaced is asked again.
 */
#ifndef TG_CLI_TOPIC_SOURCE_H
#define TG_CLI_TOPIC_SOURCE_H

#include "cli/session.h"
#include "protocol/params.h"
#include "shm/observer.h"

#define TOPICS_MAX 64

typedef struct Topic {
        char name[420]; /* as it was said */
        char dataflow[64]; /* uuid */
        char node[160], output[160];
        Region ring, segments[POOL_MAX_SEGMENTS];
        RingObserver observer;
        bool attached;      /* the fields above are those of ring_id */
        long long ring_id, n_segments, generation;
        bool over;          /* nothing more will come, in the supervisor's word */
        bool ended;         /* and all of it was taken */
        bool broken;        /* its producer broke the protocol: only another life of it can be read */
        char state[32];     /* of the node */
        uint64_t n_unknown; /* lie in memory that we were not told of; passed */
        uint64_t n_invalid; /* were no messages; passed */
        uint64_t n_told;    /* of what was passed, told already */
        nsec_t asked_at, failed_at; /* failed_at: since when nobody answers; 0 */
} Topic;

typedef struct TopicMessage { /* borrowed, until the next one */
        uint64_t index;     /* in its node's life, from 0 */
        uint64_t time_ns;   /* CLOCK_MONOTONIC when it was sent */
        uint64_t size;
        uint16_t encoding;  /* 0: bytes */
        const uint8_t *payload;
        size_t n_payload;   /* as much of it as was wanted */
        const uint8_t *meta;
        size_t n_meta;      /* encoded, protocol/params.h */
        uint64_t passed;    /* messages before it that nobody here has seen */
} TopicMessage;

/**
 * topic_find() - which dataflow and node a topic means
 * @dataflow: of -d, or NULL
 *
 * Asks the supervisor. Of dataflows one that lives is meant.
 *
 * Return: 0 or the exit status, said.
 */
int topic_find(Session *session, const char *dataflow, const char *text, Topic *ret);

/* topic_split() - "DATAFLOW:NODE/OUTPUT" or "NODE/OUTPUT" into its parts; @dataflow: "" if it is not said. False: it is neither. */
bool topic_split(const char *text, char dataflow[160], char node[160], char output[160]);

void topic_done(Topic *topic);

typedef struct TopicWatch {
        Session *session; /* with session_catch() */
        Topic *topics;
        size_t n;
        size_t payload_max; /* bytes of a payload that are looked at */
        bool last;          /* begin with the message that was there already */
        nsec_t until;       /* absolute */
        nsec_t look_least;  /* between two looks, however much goes by; 0: the least there is */

        bool (*message)(void *userdata, Topic *topic, const TopicMessage *message); /* false: enough */
        void (*said)(void *userdata, Topic *topic, const char *text); /* something about the topic; NULL: nobody wants to know */
        bool (*tick)(void *userdata, nsec_t now, nsec_t *ret_next);   /* false: enough. NULL: none. Messages wait while it does */
        void *userdata;

        uint8_t *payload, *meta; /* ours */
        size_t payload_room;
} TopicWatch;

/**
 * topic_watch() - give what comes on these topics to @message, until it has enough, the time is over, a signal comes, or nothing more
 * will come on any of them
 *
 * Return: 0 or the exit status, said.
 */
int topic_watch(TopicWatch *watch);

#endif
