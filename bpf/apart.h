/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What may hang in the kernel, or be taken over by what it reads, is done in a child: it is killed when it does not get on, and all that it can say stands in
 * a page that both have mapped. For programs of one thread.
 */
#ifndef TG_BPF_APART_H
#define TG_BPF_APART_H

#include <stdatomic.h>
#include <stdint.h>

#include "base/clock.h"

typedef struct Apart {
        _Atomic uint32_t n_steps; /* raised by the child whenever it gets on */
        _Atomic uint32_t done;    /* set by apart_run()'s child when its answer is whole */
        _Atomic uint32_t span_ms; /* set by apart_step(): what this step may take; 0: as apart_run() was told */
        _Alignas(16) unsigned char answer[4096 - 16]; /* written by the child; zero before */
} Apart;
_Static_assert(sizeof(Apart) == 4096, "a page");

/* apart_new() - for any number of runs, one after the other. NULL: there is no memory, errno says it. */
Apart *apart_new(void);
Apart *apart_free(Apart *apart); /* NULL is fine. Returns NULL */

/**
 * apart_run() - have @fn called in a child, and wait for that
 * @fn:   may do what it likes: the child ends with its parent. It calls apart_step(), or counts n_steps, when something may take long
 * @span: that it may take for a step
 * @until: and for all of it
 *
 * Afterwards @apart->answer is the child's, to be believed as far as the child is. One that cannot even be killed is left behind, and a zombie then.
 *
 * Return: 0, -ETIMEDOUT (it was killed: the answer is what it wrote until then), -EIO (it died), or a negative errno: there was no child.
 */
int apart_run(Apart *apart, void (*fn)(Apart *apart, void *userdata), void *userdata, nsec_t span, nsec_t until);

/* apart_step() - in the child: it gets on, with what may take @span_ms; 0: as apart_run() was told. What the step before took is not held against that. */
static inline void apart_step(Apart *apart, uint32_t span_ms)
{
        if (!span_ms)
                atomic_store_explicit(&apart->span_ms, 0, memory_order_release);
        atomic_fetch_add_explicit(&apart->n_steps, 1, memory_order_release);
        if (span_ms)
                atomic_store_explicit(&apart->span_ms, span_ms, memory_order_release);
}

static inline void apart_freep(Apart **apart)
{
        *apart = apart_free(*apart);
}

#endif
