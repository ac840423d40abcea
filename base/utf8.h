/* SPDX-License-Identifier: Apache-2.0 */
/*
 * UTF-8 as RFC 3629 has it: shortest forms, no surrogates, nothing past U+10FFFF. For text that came from elsewhere and goes into
 * JSON. No locale, thread-safe.
 */
#ifndef TG_BASE_UTF8_H
#define TG_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* utf8_sequence() - bytes of the well-formed character at @p, which has @left bytes; 0 when there is none. */
size_t utf8_sequence(const void *p, size_t left);

bool utf8_valid(const char *data, size_t size);

/**
 * utf8_clean() - a copy in which every byte that is not UTF-8, and every NUL, is U+FFFD
 * @ret_size: bytes of the copy without its terminator; may be NULL
 *
 * Return: NUL-terminated, the caller frees it; NULL when memory is short.
 */
char *utf8_clean(const char *data, size_t size, size_t *ret_size);

#endif
