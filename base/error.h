/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Error classes. A function returns 0, a negative errno that its caller cannot interpret and forwards, or a positive
 * X_E_* outcome that its comment lists. error_origin() starts a trace at the place that failed, error_fold() adds a
 * line and turns an unhandled positive outcome into -ENOTRECOVERABLE, so a failure shows the path it took.
 *
 * The trace goes to stderr only when TIDEGATE_TRACE_ERRORS is set in the environment; it never allocates or blocks
 * for long. Thread-safe.
 */
#ifndef TG_BASE_ERROR_H
#define TG_BASE_ERROR_H

int error_trace(int r, const char *file, int line, const char *func, int origin);

/* error_origin(-errno): a failure begins here. */
#define error_origin(r) error_trace((r), __FILE__, __LINE__, __func__, 1)

/* error_fold(r): a failure of a callee that this function does not interpret passes here. */
#define error_fold(r) error_trace((r), __FILE__, __LINE__, __func__, 0)

/* error_name() - "ENOENT" for 2 or -2; "E?" when unknown. Static storage. */
const char *error_name(int err);

/*
 * error_text() - "No such file or directory" for 2 or -2, for people; where a limit was met, with its name and height, as
 * the caller has it. Storage of the calling thread's, valid until its next call.
 */
const char *error_text(int err);

#endif
