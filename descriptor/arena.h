/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arena: memory that is released all at once. Everything read from one descriptor (tree, model, texts) lives in one
 * arena and dies with it, so no half-built object needs a destructor of its own.
 *
 * An arena has a budget; an allocation beyond it fails like one beyond the machine's memory. Failure is sticky in
 * arena->failed, so that a caller may build several things and look once.
 *
 * Not thread-safe per Arena.
 */
#ifndef TG_DESCRIPTOR_ARENA_H
#define TG_DESCRIPTOR_ARENA_H

#include <stdbool.h>
#include <stddef.h>

typedef struct ArenaChunk ArenaChunk;

typedef struct Arena {
        ArenaChunk *chunks;
        size_t used_bytes;   /* of all chunks, as asked from malloc */
        size_t budget_bytes; /* 0: no limit */
        bool failed;
} Arena;

#define ARENA_INIT(budget) {.budget_bytes = (budget)}

/* arena_alloc() - zeroed memory, aligned for any type; NULL (and arena->failed) when there is none. */
void *arena_alloc(Arena *arena, size_t size_bytes);

/* arena_strndup() - a NUL-terminated copy of size_bytes bytes; NULL when there is no memory. */
char *arena_strndup(Arena *arena, const char *s, size_t size_bytes);

/* arena_printf() - formatted text; NULL when there is no memory. */
char *arena_printf(Arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));

/**
 * arena_grow() - room for one more element at the end of an array
 * @arena:      where the array lives
 * @array:      the array (address of a pointer to elements); NULL when empty; may move
 * @n:          elements in use
 * @size_bytes: of one element
 *
 * The room doubles at each power of two, so the array needs no capacity beside it. The new element is zeroed.
 *
 * Return: the new element's address, NULL when there is no memory.
 */
void *arena_grow(Arena *arena, void *array, size_t n, size_t size_bytes);

/* arena_done() - release all. Harmless on an empty arena. */
void arena_done(Arena *arena);

#endif
