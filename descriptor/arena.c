/* SPDX-License-Identifier: Apache-2.0 */
#include "descriptor/arena.h"

#include <stdalign.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES ((size_t)16384)

struct ArenaChunk {
        ArenaChunk *next;
        size_t size;
        size_t at;
        alignas(max_align_t) unsigned char data[];
};

static ArenaChunk *arena_add_chunk(Arena *arena, size_t size_bytes)
{
        size_t size = size_bytes > CHUNK_BYTES / 4 ? size_bytes : CHUNK_BYTES;
        size_t total = sizeof(ArenaChunk) + size;
        ArenaChunk *chunk;

        if (arena->budget_bytes && arena->used_bytes + total > arena->budget_bytes)
                return NULL;
        chunk = calloc(1, total);
        if (!chunk)
                return NULL;
        chunk->size = size;
        arena->used_bytes += total;
        /* A large block goes behind the head, so that what is left of the head is not lost. */
        if (arena->chunks && size != CHUNK_BYTES) {
                chunk->next = arena->chunks->next;
                arena->chunks->next = chunk;
        } else {
                chunk->next = arena->chunks;
                arena->chunks = chunk;
        }
        return chunk;
}

void *arena_alloc(Arena *arena, size_t size_bytes)
{
        const size_t align = alignof(max_align_t);
        ArenaChunk *chunk = arena->chunks;
        void *p;

        if (size_bytes > SIZE_MAX / 4) {
                arena->failed = true;
                return NULL;
        }
        size_bytes = (size_bytes + align - 1) / align * align;
        if (!chunk || chunk->size - chunk->at < size_bytes)
                chunk = arena_add_chunk(arena, size_bytes);
        if (!chunk) {
                arena->failed = true;
                return NULL;
        }
        p = chunk->data + chunk->at;
        chunk->at += size_bytes;
        return p;
}

char *arena_strndup(Arena *arena, const char *s, size_t size_bytes)
{
        char *p = arena_alloc(arena, size_bytes + 1);

        if (p && size_bytes > 0)
                memcpy(p, s, size_bytes);
        return p;
}

char *arena_printf(Arena *arena, const char *format, ...)
{
        va_list ap;
        char *p;
        int n;

        va_start(ap, format);
        n = vsnprintf(NULL, 0, format, ap);
        va_end(ap);
        p = n < 0 ? NULL : arena_alloc(arena, (size_t)n + 1);
        if (!p) {
                arena->failed = true;
                return NULL;
        }
        va_start(ap, format);
        (void)vsnprintf(p, (size_t)n + 1, format, ap);
        va_end(ap);
        return p;
}

void *arena_grow(Arena *arena, void *array, size_t n, size_t size_bytes)
{
        void **slot = array;
        void *p;

        if (n == 0 || (n >= 4 && (n & (n - 1)) == 0)) {
                p = arena_alloc(arena, (n ? 2 * n : 4) * size_bytes);
                if (!p)
                        return NULL;
                if (n)
                        memcpy(p, *slot, n * size_bytes);
                *slot = p;
        }
        return (char *)*slot + n * size_bytes;
}

void arena_done(Arena *arena)
{
        while (arena->chunks) {
                ArenaChunk *next = arena->chunks->next;

                free(arena->chunks);
                arena->chunks = next;
        }
        arena->used_bytes = 0;
}
