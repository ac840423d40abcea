/* SPDX-License-Identifier: Apache-2.0 */
#include "protocol/wire.h"

#include <errno.h>
#include <string.h>

static uint8_t *take(Wire *w, size_t n)
{
        uint8_t *p;

        if (w->bad || n > w->size - w->at) {
                w->bad = true;
                return NULL;
        }
        p = w->data + w->at;
        w->at += n;
        return p;
}

static void put_int(Wire *w, uint64_t v, size_t n)
{
        uint8_t *p = take(w, n);

        for (size_t i = 0; p && i < n; i++)
                p[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t get_int(Wire *w, size_t n)
{
        const uint8_t *p = take(w, n);
        uint64_t v = 0;

        for (size_t i = 0; p && i < n; i++)
                v |= (uint64_t)p[i] << (8 * i);
        return v;
}

void wire_put_u8(Wire *w, uint8_t v)
{
        put_int(w, v, 1);
}

void wire_put_u16(Wire *w, uint16_t v)
{
        put_int(w, v, 2);
}

void wire_put_u32(Wire *w, uint32_t v)
{
        put_int(w, v, 4);
}

void wire_put_u64(Wire *w, uint64_t v)
{
        put_int(w, v, 8);
}

void wire_put_bytes(Wire *w, const void *p, size_t n)
{
        uint8_t *to = take(w, n);

        if (to && n)
                memcpy(to, p, n);
}

void wire_put_str(Wire *w, const char *s)
{
        size_t n = s ? strlen(s) : 0;

        if (n > UINT32_MAX - 1) {
                w->bad = true;
                return;
        }
        wire_put_u32(w, (uint32_t)n);
        wire_put_bytes(w, s ? s : "", n + 1);
}

uint8_t wire_get_u8(Wire *w)
{
        return (uint8_t)get_int(w, 1);
}

uint16_t wire_get_u16(Wire *w)
{
        return (uint16_t)get_int(w, 2);
}

uint32_t wire_get_u32(Wire *w)
{
        return (uint32_t)get_int(w, 4);
}

uint64_t wire_get_u64(Wire *w)
{
        return get_int(w, 8);
}

void wire_get_bytes(Wire *w, void *ret, size_t n)
{
        const uint8_t *p = take(w, n);

        if (p)
                memcpy(ret, p, n);
        else
                memset(ret, 0, n);
}

const char *wire_get_str(Wire *w, size_t max_len)
{
        uint32_t n = wire_get_u32(w);
        const char *s;

        if (n > max_len)
                w->bad = true;
        s = (const char *)take(w, (size_t)n + 1);
        if (!s || s[n] != '\0' || memchr(s, '\0', n)) {
                w->bad = true;
                return "";
        }
        return s;
}

int wire_done(const Wire *w)
{
        return !w->bad && w->at == w->size ? 0 : -EPROTO;
}
