/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log reader: the files log_<node>.jsonl of a dataflow, merged by time, with the caller's own rights. A line that is no JSON
 * object is shown as it is; a last line without its newline waits for it. Symbolic links and what is no regular file are not
 * opened.
 *
 * Blocks as the file system of the logs does. Does not: filter by anything but the node, wait for more.
 */
#ifndef TG_CLI_LOG_READER_H
#define TG_CLI_LOG_READER_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct LogFile {
        char node[136];
        int fd;
        char *data; /* read and not yet taken: [begin, end) */
        size_t begin, end, room;
        uint64_t offset;  /* of what comes next in the file */
        json_t *next;     /* the record at the head; NULL: none complete is there */
        uint64_t next_ns; /* its time, or that of the one before */
        bool cutting;     /* within a line that is too long to be kept */
} LogFile;

typedef struct LogReader {
        int dir_fd;
        LogFile *files;
        size_t n_files;
        const char *const *nodes; /* borrowed: of those only; n 0: of all */
        size_t n_nodes;
        int error; /* errno of a file that could not be opened; 0: none */
        char error_file[256];
} LogReader;

#define LOG_READER_NULL ((LogReader){.dir_fd = -1})

/* log_reader_open() - 0 or a negative errno: there is no such directory, or it may not be read. */
int log_reader_open(LogReader *ret, const char *dir, const char *const *nodes, size_t n_nodes);
void log_reader_done(LogReader *reader);

/* log_reader_look() - open files that are new in the directory. */
void log_reader_look(LogReader *reader);

/* log_reader_skip() - go on @n_lines before the end of each file. */
void log_reader_skip(LogReader *reader, size_t n_lines);

/**
 * log_reader_next() - the oldest record that is there
 * @ret:    {"timestamp", "level", "node_id", "message", ...}; new reference
 * @ret_ns: its time; 0: none is known
 *
 * Return: false when there is none now.
 */
bool log_reader_next(LogReader *reader, json_t **ret, uint64_t *ret_ns);

/* log_time_parse() - "2026-01-31T12:00:00.123456789Z", also without fraction or Z (then local). 0 when it is none. */
uint64_t log_time_parse(const char *text);

#endif
