/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Atomic access to words of shared regions. Fields are plain integers so that layouts stay plain structs; every
 * access to a word that another process reads or writes goes through one of these. SC is a sequentially consistent
 * operation on the word itself, never a fence: both sides of each store-then-look pair use it on their own word and
 * the other's, which is what makes them see at least one of the two stores (x86-64: xchg; AArch64: stlr / ldar).
 */
#ifndef TG_SHM_INTERNAL_H
#define TG_SHM_INTERNAL_H

#include <stdint.h>

/* In a test's own build of this room every access is a step, named by its function and its word, at which a process can be made
 * to pause, stop or die: tests/shm/step_ring.c. All there are stand in a section, so that it knows which were never taken. */
#ifdef SHM_STEPS
typedef struct ShmStep {
        const char *file, *function, *word;
        unsigned index; /* the test's */
} ShmStep;

void shm_step(const ShmStep *step);
#define SHM_STEP(p)                                                                                                    \
        ({                                                                                                             \
                static ShmStep shm_this_step = {__FILE__, __func__, #p, 0};                                            \
                static ShmStep *const shm_listed __attribute__((used, section("shm_steps"))) = &shm_this_step;         \
                                                                                                                       \
                shm_step(&shm_this_step);                                                                              \
        })
#else
#define SHM_STEP(p) ((void)0)
#endif

#define load_relaxed(p)     (SHM_STEP(p), __atomic_load_n((p), __ATOMIC_RELAXED))
#define load_acquire(p)     (SHM_STEP(p), __atomic_load_n((p), __ATOMIC_ACQUIRE))
#define load_sc(p)          (SHM_STEP(p), __atomic_load_n((p), __ATOMIC_SEQ_CST))
#define store_relaxed(p, v) (SHM_STEP(p), __atomic_store_n((p), (v), __ATOMIC_RELAXED))
#define store_release(p, v) (SHM_STEP(p), __atomic_store_n((p), (v), __ATOMIC_RELEASE))
#define store_sc(p, v)      (SHM_STEP(p), __atomic_store_n((p), (v), __ATOMIC_SEQ_CST))

#define fence_acquire() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define fence_release() __atomic_thread_fence(__ATOMIC_RELEASE)

/* Payload may have been written with non-temporal stores, which a release store does not order on x86. */
static inline void fence_payload(void)
{
#if defined(__x86_64__)
        __builtin_ia32_sfence();
#endif
}

#endif
