/* SPDX-License-Identifier: Apache-2.0 */
#include "node/copy.h"

#include <stdint.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>

#define LINE 64u /* bytes, written whole */

void copy_past_cache(void *to, const void *from, size_t size)
{
        size_t head = -(uintptr_t)to % LINE, lines, rest;
        const __m128i *src;
        __m128i *dst;

        head = head < size ? head : size;
        memcpy(to, from, head);
        dst = (__m128i *)(void *)((uint8_t *)to + head);
        src = (const __m128i *)(const void *)((const uint8_t *)from + head);
        lines = (size - head) / LINE;
        rest = (size - head) % LINE;
        for (size_t i = 0; i < lines; i++, dst += 4, src += 4) {
                __m128i a = _mm_loadu_si128(src), b = _mm_loadu_si128(src + 1);
                __m128i c = _mm_loadu_si128(src + 2), d = _mm_loadu_si128(src + 3);

                _mm_stream_si128(dst, a);
                _mm_stream_si128(dst + 1, b);
                _mm_stream_si128(dst + 2, c);
                _mm_stream_si128(dst + 3, d);
        }
        _mm_sfence(); /* a store with release alone does not wait for these */
        memcpy(dst, src, rest);
}
#else
void copy_past_cache(void *to, const void *from, size_t size)
{
        memcpy(to, from, size);
}
#endif

bool copy_is_cold(size_t size, nsec_t idle_ns)
{
        return size >= COPY_STREAM_MIN || (size >= COPY_COLD_MIN && idle_ns >= COPY_COLD_NS);
}

void copy_payload(void *to, const void *from, size_t size, bool cold)
{
        if (cold)
                copy_past_cache(to, from, size);
        else
                memcpy(to, from, size);
}
