/* SPDX-License-Identifier: Apache-2.0 */
#include "bpf/load.h"

#include <bpf/libbpf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

/* libbpf speaks through one process-wide function; the first complaint of a load is the one that explains it. */
static ProbeReason *listening;
static libbpf_print_fn_t previous;

__attribute__((format(printf, 2, 0))) static int on_message(enum libbpf_print_level level, const char *format, va_list ap)
{
        char *end;

        if (level != LIBBPF_WARN || !listening || listening->text[0])
                return 0;
        /* Not a reason: kernels of the last years charge maps to the memory cgroup and need no such limit. */
        if (strstr(format, "RLIMIT_MEMLOCK (err"))
                return 0;
        if (strncmp(format, "libbpf: ", 8) == 0)
                format += 8;
        (void)vsnprintf(listening->text, sizeof(listening->text), format, ap);
        end = strchr(listening->text, '\n');
        if (end)
                *end = '\0';
        return 0;
}

ProbeReason *load_begin(ProbeReason *reason)
{
        static ProbeReason ignored;

        listening = reason ? reason : &ignored;
        *listening = (ProbeReason){0};
        previous = libbpf_set_print(on_message);
        return listening;
}

void load_end(void)
{
        (void)libbpf_set_print(previous);
        listening = NULL;
}

int load_refused(int err, const char *step, ProbeReason *reason)
{
        if (err == -ENOMEM || err == -EMFILE || err == -ENFILE)
                return error_origin(err);
        reason->err = -err;
        if (err == -EPERM) /* libbpf's guesses at it are long and no help */
                (void)snprintf(reason->text, sizeof(reason->text), "%s: no privilege for BPF", step);
        else if (!reason->text[0])
                (void)snprintf(reason->text, sizeof(reason->text), "%s", step);
        return PROBE_E_UNAVAILABLE;
}
