/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text: the little languages inside the strings of a descriptor: shell-like splitting, $VAR expansion, module
 * parameters, numbers as environment values. Pure, except that env_expand() reads the caller's environment.
 *
 * Results live in the arena given. No result is longer than STRING_MAX bytes: what would be is TEXT_E_TOO_LONG.
 */
#ifndef TG_DESCRIPTOR_TEXT_H
#define TG_DESCRIPTOR_TEXT_H

#include "descriptor/arena.h"
#include "descriptor/model.h"

enum {
        TEXT_E_TOO_LONG = 1,
        TEXT_E_UNBALANCED = 2, /* a quote, brace or escape is not finished */
        TEXT_E_UNKNOWN = 3,    /* a variable or parameter without a value: *ret_unknown names it */
};

/**
 * args_split() - words as a POSIX shell would see them, without any expansion
 *
 * Blanks and line ends separate; '…' keeps everything, "…" everything but \\ \" \$ \` and \newline, a backslash
 * outside quotes the next character. A # has no meaning.
 *
 * Return: 0, TEXT_E_TOO_LONG (one word), TEXT_E_UNBALANCED, or -ENOMEM.
 */
int args_split(Arena *arena, const char *s, const char ***ret_words, size_t *ret_n);

/**
 * env_expand() - replace $NAME, ${NAME} and ${NAME:-default} by the caller's environment, $$ by $
 *
 * A $ that begins none of these stays. Return: 0, TEXT_E_TOO_LONG, TEXT_E_UNBALANCED, TEXT_E_UNKNOWN, or -ENOMEM.
 */
int env_expand(Arena *arena, const char *s, const char **ret, const char **ret_unknown);

/**
 * path_expand() - the same for a path: of the names in path_variables[] only, everything else stays as it is
 *
 * Return: 0, TEXT_E_TOO_LONG, TEXT_E_UNKNOWN, or -ENOMEM.
 */
int path_expand(Arena *arena, const char *s, const char **ret, const char **ret_unknown);

/**
 * params_substitute() - put a module's parameters into args
 * @ret_unknown: set to the first $PARAM_NAME or ${_param.name} without a value (it stays as it is), else NULL
 *
 * Replaces ${_param.key}, $PARAM_KEY and ${PARAM_KEY} (KEY in capitals). Return: 0, TEXT_E_TOO_LONG, or -ENOMEM.
 */
int params_substitute(Arena *arena, const char *s, const EnvList *params, const char **ret, const char **ret_unknown);

/* double_to_text() - the shortest decimal that reads back as the same number, without an exponent: 0.5, 100, inf,
 * NaN. */
const char *double_to_text(Arena *arena, double v);

#endif
