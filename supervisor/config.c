/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/config.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/span.h"

#define CONFIG_MAX      65536
#define CONFIG_SPAN_MAX (3600 * NSEC_PER_SEC)

static char *trim(char *s)
{
        size_t n;

        while (isspace((unsigned char)*s))
                s++;
        n = strlen(s);
        while (n > 0 && isspace((unsigned char)s[n - 1]))
                s[--n] = '\0';
        return s;
}

/* NULL, or what is wrong. */
static const char *set(Config *config, const char *name, const char *value)
{
        const struct {
                const char *name;
                bool *has;
                nsec_t *span;
        } settings[] = {
                {"grace_duration", &config->has_grace, &config->grace_ns},
                {"kill_budget", &config->has_budget, &config->budget_ns},
                {"watchdog", &config->has_watchdog, &config->watchdog_ns},
        };

        if (strcmp(name, "enforcer") == 0) {
                if (config->has_enforcer)
                        return "is there twice";
                config->has_enforcer = true;
                return enforcer_parse(value, &config->enforcer) ? "wants one of " ENFORCER_NAMES : NULL;
        }
        for (size_t i = 0; i < ELEMENTSOF(settings); i++) {
                if (strcmp(name, settings[i].name) != 0)
                        continue;
                if (*settings[i].has)
                        return "is there twice";
                if (span_parse(value, settings[i].span) || *settings[i].span > CONFIG_SPAN_MAX)
                        return "wants a time up to 1h (500ms, 10s, 2m)";
                if (settings[i].has == &config->has_budget && *settings[i].span < 100 * NSEC_PER_MSEC)
                        return "wants at least 100ms";
                *settings[i].has = true;
                return NULL;
        }
        return "is no setting (there are grace_duration, kill_budget, watchdog, enforcer)";
}

static int parse_line(Config *config, char *line, const char *path, unsigned number, char *ret_why, size_t why_size)
{
        char *comment = strchr(line, '#'), *equals, *name;
        const char *wrong;

        if (comment)
                *comment = '\0';
        name = trim(line);
        if (!*name)
                return 0;
        equals = strchr(name, '=');
        if (equals)
                *equals = '\0';
        wrong = equals ? set(config, trim(name), trim(equals + 1)) : "has no value: `name = value`";
        if (!wrong)
                return 0;
        (void)snprintf(ret_why, why_size, "%.200s:%u: `%.64s` %s", path, number, trim(name), wrong);
        return -EINVAL;
}

int config_read(Config *ret, const char *path, char *ret_why, size_t why_size)
{
        static char text[CONFIG_MAX + 1];
        _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        Config config = {};
        unsigned number = 0;
        char *rest = text, *line;
        ssize_t n = 0, size = 0;
        int r = 0;

        if (fd < 0 && errno == ENOENT && strcmp(path, CONFIG_PATH) == 0) {
                *ret = config;
                return 0;
        }
        while (fd >= 0 && size < CONFIG_MAX && (n = read(fd, text + size, (size_t)(CONFIG_MAX - size))) > 0)
                size += n;
        if (fd < 0 || n < 0) {
                r = -errno;
                (void)snprintf(ret_why, why_size, "%.200s: %s", path, strerror(errno));
                return r;
        }
        if (size == CONFIG_MAX || memchr(text, '\0', (size_t)size)) {
                (void)snprintf(ret_why, why_size, "%.200s: %s", path, size == CONFIG_MAX ? "larger than 64 KiB" : "it is no text");
                return error_origin(-EINVAL);
        }
        text[size] = '\0';
        while (!r && (line = strsep(&rest, "\n")))
                r = parse_line(&config, line, path, ++number, ret_why, why_size);
        if (!r)
                *ret = config;
        return r;
}
