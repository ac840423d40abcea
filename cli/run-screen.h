/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a run shows: the nodes' lines, what happens to them, and a status line while something takes longer than a second.
 * As text (coloured on a terminal, NO_COLOR respected) or as JSON lines. Decides nothing.
 *
 * Lines of nodes and news go to stdout, failures to stderr.
 */
#ifndef TG_CLI_RUN_SCREEN_H
#define TG_CLI_RUN_SCREEN_H

#include <jansson.h>
#include <stdbool.h>

#include "base/clock.h"
#include "cli/out.h"
#include "protocol/log_msg.h"

typedef struct Screen {
        Out *out, *err;
        bool json, color, tty;
        bool one_terminal; /* stdout and stderr are the same */
        const json_t *plan; /* borrowed */
        size_t id_width;
        bool status_shown;   /* a transient line is on the terminal */
        nsec_t status_at;    /* when the status was last told */
        json_t *states;      /* node id to state */
        char phase[16];      /* of the dataflow */
        nsec_t phase_since, stop_until;
        uint64_t n_hidden;   /* lines that did not fit */
} Screen;

int screen_init(Screen *screen, const json_t *plan, bool json);
void screen_done(Screen *screen, nsec_t deadline);

typedef struct ScreenLine {
        const char *id; /* of the node */
        int stream;     /* 1 stdout, 2 stderr */
        uint64_t wall_ns, count; /* count: bytes of the line that are missing; without a text: lines */
        const char *text;        /* NULL: lines are missing here */
} ScreenLine;

void screen_line(Screen *screen, const ScreenLine *line);
void screen_log(Screen *screen, const LogMsg *msg);
void screen_event(Screen *screen, json_t *event, nsec_t now);
void screen_result(Screen *screen, json_t *result);

/* screen_say() - one line of our own; @failure: to stderr. In JSON a {"type": "message"} line. */
__attribute__((format(printf, 3, 4))) void screen_say(Screen *screen, bool failure, const char *format, ...);

/* screen_json() - a JSON line; consumes the value. */
void screen_json(Screen *screen, json_t *take_value);

/* screen_phase() - what the dataflow is doing from @now on: "starting" and "stopping" have a status line. */
void screen_phase(Screen *screen, const char *phase, nsec_t now);

/* screen_tick() - what is waited for, and until when. Return: when to call again. */
nsec_t screen_tick(Screen *screen, nsec_t now);

/* screen_is_full() - so much waits to be written that more lines should not be taken from the keeper now. */
bool screen_is_full(Screen *screen);

#endif
