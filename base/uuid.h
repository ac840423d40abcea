/* SPDX-License-Identifier: Apache-2.0 */
/*
 * UUIDs as text: 36 characters, lower case, which is what the kernel writes and what our files are named after. Other
 * spellings are refused on reading, so that one uuid has one name.
 */
#ifndef TG_BASE_UUID_H
#define TG_BASE_UUID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UUID_SIZE        16u
#define UUID_TEXT_LENGTH 36u

/* Before these bytes stands a dash. */
static inline bool uuid_dash_before(size_t i)
{
        return i == 4 || i == 6 || i == 8 || i == 10;
}

/* uuid_format() - into @ret_text, UUID_TEXT_LENGTH characters and a NUL. */
static inline void uuid_format(char ret_text[UUID_TEXT_LENGTH + 1], const uint8_t uuid[UUID_SIZE])
{
        static const char digits[] = "0123456789abcdef";
        char *to = ret_text;

        for (size_t i = 0; i < UUID_SIZE; i++) {
                if (uuid_dash_before(i))
                        *to++ = '-';
                *to++ = digits[uuid[i] >> 4];
                *to++ = digits[uuid[i] & 15];
        }
        *to = '\0';
}

static inline int uuid_digit(char c)
{
        if (c >= '0' && c <= '9')
                return c - '0';
        return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* uuid_parse() - the first UUID_TEXT_LENGTH characters of NUL-terminated @text; false when they are no uuid, or fewer. */
static inline bool uuid_parse(uint8_t ret_uuid[UUID_SIZE], const char *text)
{
        uint8_t uuid[UUID_SIZE];

        for (size_t i = 0; i < UUID_SIZE; i++) {
                int high, low;

                if (uuid_dash_before(i) && *text++ != '-')
                        return false;
                high = uuid_digit(*text);
                if (high < 0)
                        return false;
                low = uuid_digit(text[1]);
                if (low < 0)
                        return false;
                uuid[i] = (uint8_t)(high << 4 | low);
                text += 2;
        }
        __builtin_memcpy(ret_uuid, uuid, UUID_SIZE);
        return true;
}

#endif
