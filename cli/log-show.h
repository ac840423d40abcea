/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records of nodes' logs on the screen: Dora's pipeline (read, time, grep, tail, display) but for the reading. Records are
 * the objects of log-reader.h. No waiting.
 */
#ifndef TG_CLI_LOG_SHOW_H
#define TG_CLI_LOG_SHOW_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct LogShow {
        uint64_t since_ns, until_ns; /* CLOCK_REALTIME; 0: no bound */
        int level;                   /* log_level_rank() of the least severe that is shown; 0: all */
        const char *grep;            /* anywhere in message, node or target, in any case; NULL: all */
        bool json, raw;              /* raw: messages alone */
        bool color, tty;
        bool name_nodes; /* raw: with the node before it */

        json_t **last; /* a ring of the last n_last that passed; n_last 0: shown at once */
        size_t n_last, head, n_kept;
} LogShow;

/* log_level_rank() - "stdout" 0, ..., "error" 5; stderr counts as "warn". -1: none that is known. */
int log_level_rank(const char *level);

/* log_show() - @wall_ns: of the record, 0 unknown. Consumes the record. */
void log_show(LogShow *show, json_t *take_record, uint64_t wall_ns);

/* log_show_kept() - what was held back for `tail`; from here on records are shown at once. */
void log_show_kept(LogShow *show);

/* log_show_filters() - whether anything but the number of lines decides what is shown. */
bool log_show_filters(const LogShow *show);

/* log_record() - a LogLine of the Logs stream as a record. New reference or NULL. */
json_t *log_record(const json_t *line, uint64_t *ret_wall_ns);

void log_show_done(LogShow *show);

#endif
