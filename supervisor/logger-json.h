/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lines of a log file (supervisor/logger.h has the format). Pure: no files. Not for concurrent use (jansson).
 */
#ifndef TG_SUPERVISOR_LOGGER_JSON_H
#define TG_SUPERVISOR_LOGGER_JSON_H

#include <stddef.h>
#include <stdint.h>

/**
 * logger_json_line() - one line of output as one line of JSON
 * @stream:    1 stdout (may be a JSON record itself), 2 stderr
 * @wall_ns:   CLOCK_REALTIME
 * @data:      @size bytes, anything
 * @truncated: bytes that followed and were not kept
 * @ret_size:  bytes of the result, newline included
 *
 * Return: allocated, or NULL when memory is short.
 */
char *logger_json_line(const char *id, int stream, uint64_t wall_ns, const char *data, size_t size,
        uint64_t truncated, size_t *ret_size);

/* logger_json_lost() - the record of lost lines into @buf. Bytes, newline included, or -1. */
int logger_json_lost(char *buf, size_t size, const char *id, uint64_t wall_ns, uint64_t n_lines, int error);

#endif
