/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/print.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"

bool color_wanted(FILE *f)
{
        const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

        return !(no && *no) && term && strcmp(term, "dumb") != 0 && isatty(fileno(f));
}

int print_json(const json_t *json)
{
        if (json_dumpf(json, stdout, JSON_INDENT(2) | JSON_SORT_KEYS) < 0 || fputc('\n', stdout) == EOF ||
                fflush(stdout) == EOF)
                return error_origin(-EIO);
        return 0;
}

int print_json_line(const json_t *json)
{
        if (json_dumpf(json, stdout, JSON_COMPACT | JSON_SORT_KEYS) < 0 || fputc('\n', stdout) == EOF ||
                fflush(stdout) == EOF)
                return error_origin(-EIO);
        return 0;
}

int print_json_line_new(json_t *take_json)
{
        int r = take_json ? print_json_line(take_json) : error_origin(-ENOMEM);

        json_decref(take_json);
        return r;
}

/* Bytes of a colour sequence (ESC [ digits and semicolons m) at @p, or 0. */
static size_t color_sequence(const char *p)
{
        size_t n;

        if (p[0] != '\033' || p[1] != '[')
                return 0;
        n = 2 + strspn(p + 2, "0123456789;");
        return p[n] == 'm' ? n + 1 : 0;
}

char *text_tame(char *text, bool colors)
{
        for (unsigned char *p = (unsigned char *)text; *p; p++) {
                size_t n = colors ? color_sequence((const char *)p) : 0;

                if (n > 0)
                        p += n - 1;
                else if ((*p < ' ' && *p != '\t') || *p == 0x7f)
                        *p = '?';
                else if (p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0) /* U+0080 to U+009F are control characters too */
                        p[0] = p[1] = '?';
        }
        return text;
}

const char *json_get_text(const json_t *object, const char *key)
{
        return json_string_value(json_object_get(object, key)) ?: "";
}

long long json_get_number(const json_t *object, const char *key)
{
        return (long long)json_integer_value(json_object_get(object, key));
}

void format_uptime(char *buffer, size_t size, long long ms)
{
        long long s = MAX(ms, 0LL) / 1000, days = s / 86400;
        int n = 0;

        if (days)
                n = snprintf(buffer, size, "%lld day%s, ", days, days == 1 ? "" : "s");
        (void)snprintf(buffer + n, size - (size_t)n, "%lld:%02lld:%02lld", s / 3600 % 24, s / 60 % 60, s % 60);
}

void format_span(char *buffer, size_t size, long long ms)
{
        long long s = MAX(ms, 0LL) / 1000;

        if (s >= 86400)
                (void)snprintf(buffer, size, "%lldd %lldh", s / 86400, s / 3600 % 24);
        else if (s >= 3600)
                (void)snprintf(buffer, size, "%lldh %lldmin", s / 3600, s / 60 % 60);
        else if (s >= 60)
                (void)snprintf(buffer, size, "%lldmin %llds", s / 60, s % 60);
        else
                (void)snprintf(buffer, size, "%lld.%llds", s, MAX(ms, 0LL) / 100 % 10);
}

void format_bytes(char *buffer, size_t size, unsigned long long bytes)
{
        static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
        double value = (double)bytes;
        size_t unit = 0;

        for (; value >= 1024 && unit + 1 < ELEMENTSOF(units); unit++)
                value /= 1024;
        (void)snprintf(buffer, size, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
}

long long now_ms(void)
{
        return (long long)(clock_now() / NSEC_PER_MSEC);
}

long long wall_ms(long long monotonic_ms)
{
        return (long long)(clock_wall() / NSEC_PER_MSEC) - (now_ms() - monotonic_ms);
}
