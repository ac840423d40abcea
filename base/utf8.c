/* SPDX-License-Identifier: Apache-2.0 */
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

static const char replacement[] = "\xef\xbf\xbd"; /* U+FFFD */

size_t utf8_sequence(const void *p, size_t left)
{
        const unsigned char *s = p;
        size_t n;

        if (left == 0)
                return 0;
        n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0;
        if (n > left)
                return 0;
        for (size_t i = 1; i < n; i++)
                if ((s[i] & 0xc0) != 0x80)
                        return 0;
        if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || /* overlong; a surrogate */
            (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))   /* overlong; past U+10FFFF */
                return 0;
        return n;
}

bool utf8_valid(const char *data, size_t size)
{
        for (size_t i = 0, n; i < size; i += n) {
                n = utf8_sequence(data + i, size - i);
                if (n == 0)
                        return false;
        }
        return true;
}

char *utf8_clean(const char *data, size_t size, size_t *ret_size)
{
        size_t n_out = 0;
        char *out, *to;

        for (size_t i = 0; i < size;) {
                size_t n = data[i] ? utf8_sequence(data + i, size - i) : 0;

                n_out += n ? n : sizeof(replacement) - 1;
                i += n ? n : 1;
        }
        to = out = malloc(n_out + 1);
        if (!out)
                return NULL;
        for (size_t i = 0; i < size;) {
                size_t n = data[i] ? utf8_sequence(data + i, size - i) : 0;

                to = n ? mempcpy(to, data + i, n) : mempcpy(to, replacement, sizeof(replacement) - 1);
                i += n ? n : 1;
        }
        *to = '\0';
        if (ret_size)
                *ret_size = n_out;
        return out;
}
