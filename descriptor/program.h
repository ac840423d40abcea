/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Program: where the program of a node lies. Looks names up in directories without following what it finds: a program
 * may lie on a file system that does not answer, and that must hurt nobody but its node. Inside the room only.
 */
#ifndef TG_DESCRIPTOR_PROGRAM_H
#define TG_DESCRIPTOR_PROGRAM_H

#include <stdbool.h>

#include "descriptor/arena.h"

/**
 * program_find() - the absolute path of a program, or its bare name when it is nowhere
 * @dir: what a relative path is relative to, absolute
 *
 * A path with a slash is only made absolute. A bare name is looked up in @dir, then in $PATH.
 *
 * Return: a path or name (in @arena or borrowed); NULL without memory.
 */
const char *program_find(Arena *arena, const char *path, const char *dir);

/* program_find_python() - $TIDEGATE_PYTHON or the python3 of $PATH; "python3" when there is none; NULL without
 * memory. */
const char *program_find_python(Arena *arena);

/* program_is_python() - whether a path is that of a Python script. */
bool program_is_python(const char *path);

/* path_stays_below() - whether a relative path, taken literally, does not climb out of top when it starts in dir
 * (below top). */
bool path_stays_below(const char *path, const char *dir, const char *top);

#endif
