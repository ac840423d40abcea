/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

int error_trace(int r, const char *file, int line, const char *func, int origin)
{
        static _Atomic int enabled = -1;
        int saved = errno;
        int on = atomic_load_explicit(&enabled, memory_order_relaxed); /* a flag, nothing is published through it */
        char buf[256];
        int n;

        if (on < 0) {
                on = getenv("TIDEGATE_TRACE_ERRORS") != NULL;
                atomic_store_explicit(&enabled, on, memory_order_relaxed);
        }
        if (on && r != 0) {
                n = snprintf(buf, sizeof(buf), "%s %d (%s) at %s:%d %s()\n", origin ? "error" : "  via", r,
                        r < 0 ? error_name(r) : "outcome", file, line, func);
                if (n > 0)
                        (void)!write(STDERR_FILENO, buf, (size_t)n < sizeof(buf) ? (size_t)n : sizeof(buf) - 1);
        }
        errno = saved;
        return r > 0 && !origin ? -ENOTRECOVERABLE : r;
}

const char *error_name(int err)
{
        const char *name = strerrorname_np(err < 0 ? -err : err);

        return name ? name : "E?";
}

const char *error_text(int err)
{
        static _Thread_local char text[160];
        struct rlimit limit;

        err = err < 0 ? -err : err;
        if (err == EMFILE && getrlimit(RLIMIT_NOFILE, &limit) == 0)
                (void)snprintf(text, sizeof(text), "%s (RLIMIT_NOFILE is %llu, see `ulimit -n`)", strerrordesc_np(err),
                        (unsigned long long)limit.rlim_cur);
        else if (err == ENFILE)
                (void)snprintf(text, sizeof(text), "%s (see fs.file-max)", strerrordesc_np(err));
        else
                (void)snprintf(text, sizeof(text), "%s", strerrordesc_np(err) ?: "unknown error");
        return text;
}
