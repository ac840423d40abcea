/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's log: one line an entry, to stderr, which whoever starts the daemon points to a file or a journal.
 *
 * Never blocks: a line that stderr does not take at once is dropped and counted, and the count stands before the next one
 * that goes through. Lines are cut at 4000 bytes, and control characters in them are shown as `?`. One thread a process.
 */
#ifndef TG_BASE_LOG_H
#define TG_BASE_LOG_H

/* log_open() - @who stands in every line of this process ("guard"); borrowed for its life. Silent until called. */
void log_open(const char *who);

__attribute__((format(printf, 1, 2))) void log_line(const char *format, ...);

#endif
