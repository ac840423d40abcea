/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The logger: a process with the caller's credentials that writes the nodes' lines to <log_dir>/log_<id>.jsonl, one
 * JSON object a line:
 *
 *   {"timestamp":"2026-01-31T12:00:00.123456789Z","level":"stdout","node_id":"x","message":"...","target":null,"fields":null}
 *
 * A stdout line that is itself a JSON object with a known "level" and a "message" gives these, its "target" and its
 * "fields"; what else it has joins the fields. Bytes that are not UTF-8 become U+FFFD. A cut line has
 * fields.truncated_bytes.
 *
 * It may hang on its files for ever: nobody waits for it but with a deadline (supervisor/keeper-feed.h). A full disk
 * or any other failure to write is told once, lines are counted as lost (whole lines, never half of one), and every
 * later line tries again; the first one that gets through is preceded by a record of how many are missing.
 *
 * The feed, a pipe: frames of struct logger_frame and `size` bytes. The end of the feed ends the logger.
 */
#ifndef TG_SUPERVISOR_LOGGER_H
#define TG_SUPERVISOR_LOGGER_H

#include <stdint.h>
#include <sys/types.h>

typedef enum LoggerFrameType {
        LOGGER_FRAME_NODE = 1, /* bytes: the id that `node` stands for from here on */
        LOGGER_FRAME_LINE = 2, /* bytes: the line without its newline */
        LOGGER_FRAME_LOST = 3, /* count lines of `node` never got here */
} LoggerFrameType;

struct logger_frame {
        uint8_t type;
        uint8_t stream; /* LINE: 1 stdout, 2 stderr */
        uint16_t reserved;
        uint32_t node;
        uint32_t size;
        uint32_t reserved2;
        uint64_t wall_ns;
        uint64_t count; /* LINE: bytes cut off; LOST: lines */
};
_Static_assert(sizeof(struct logger_frame) == 32, "shared by keeper and logger");

/* What the logger says, on a SOCK_SEQPACKET socket; it never waits for room there. */
struct logger_report {
        uint64_t lost;   /* lines that could not be written, since its start */
        char text[1016]; /* for a person; "": nothing new */
};

typedef struct LoggerConfig {
        const char *log_dir; /* absolute; made, with its parents, if missing */
        int feed_fd;         /* read */
        int report_fd;       /* write */
        uid_t uid;
        gid_t gid;
        const gid_t *groups; /* supplementary; none: ours if uid and gid are ours, else none */
        uint32_t n_groups;
} LoggerConfig;

/**
 * logger_main() - be the logger; in a fresh single-threaded process
 *
 * Closes every other descriptor, leaves the session, drops to the credentials, then loops.
 *
 * Return: the exit status: 0 when every line was written, 1 when some were lost, 2 when it could not even begin.
 */
int logger_main(const LoggerConfig *config);

#endif
