/* SPDX-License-Identifier: Apache-2.0 */
#include "base/span.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

int span_parse(const char *text, nsec_t *ret)
{
        static const struct {
                const char *name;
                double ns;
        } units[] = {{"", 1e9}, {"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"m", 60e9}, {"h", 3600e9}, {"d", 86400e9}};
        char *end;
        double value;

        if (!isdigit((unsigned char)text[0]) && text[0] != '.') /* no sign, no space, no "inf" */
                return -EINVAL;
        value = strtod(text, &end);
        for (size_t i = 0; i < ELEMENTSOF(units); i++) {
                if (strcmp(end, units[i].name) != 0)
                        continue;
                value *= units[i].ns;
                if (!(value >= 0 && value < 9.2e18))
                        return -EINVAL;
                *ret = (nsec_t)(value + 0.5);
                return 0;
        }
        return -EINVAL;
}
