/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two sites that tools outside of the process can attach to (SystemTap's note format: bpftrace, perf, libbpf, `readelf -n`):
 *
 *   tidegate:enqueue(link, seq, depth)          in the producer, once for each active link of a message that became visible
 *   tidegate:dequeue(link, seq, depth, age_ns)  in the consumer, when it has taken a message
 *
 * link: the supervisor's number, unique in a dataflow. seq: the message's index in its ring. depth: messages of the link that are not taken then, in
 * enqueue up to and including this one: 0 if the consumer was quicker than the look. age_ns: since the time in its slot.
 *
 * A site is one nop of five bytes, which recent kernels turn into a call, in an aligned unit of eight, for they do not do so across a page (AArch64: a nop). It is
 * reached only while its semaphore, a counter in .probes that the kernel raises for as long as somebody is attached, is not 0; until then a site costs
 * the load of that word and a branch that is not taken. The arguments stand where a C call has them, so a program in the kernel finds them without
 * an interpreter of argument specs; the note says the same.
 *
 * x86-64 and AArch64. Elsewhere, and with TG_NO_PROBES, there are no sites.
 */
#ifndef TG_SHM_PROBE_H
#define TG_SHM_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#define PROBE_MASK_NONE UINT64_MAX /* no message is told of */

#if (defined(__x86_64__) || defined(__aarch64__)) && !defined(TG_NO_PROBES)
#define TG_HAVE_PROBES 1

/* Hidden: each program and library has its own, and the kernel finds them by the notes. */
extern uint16_t tidegate_enqueue_semaphore __attribute__((visibility("hidden")));
extern uint16_t tidegate_dequeue_semaphore __attribute__((visibility("hidden")));

#if defined(__x86_64__)
#define PROBE_ARG(n)    __asm__(PROBE_ARG_##n)
#define PROBE_ARG_0     "rdi"
#define PROBE_ARG_1     "rsi"
#define PROBE_ARG_2     "rdx"
#define PROBE_ARG_3     "rcx"
/* The call that it becomes pushes an address, where a function that calls nobody may have its variables: below the stack pointer. */
#define PROBE_SITE      "lea -128(%%rsp), %%rsp\n.balign 8\n990: .byte 0x0f, 0x1f, 0x44, 0x00, 0x00\nlea 128(%%rsp), %%rsp\n"
#define PROBE_SPEC_3    "8@%%rdi 8@%%rsi 8@%%rdx"
#define PROBE_SPEC_4    "8@%%rdi 8@%%rsi 8@%%rdx 8@%%rcx"
#else
#define PROBE_ARG(n)    __asm__(PROBE_ARG_##n)
#define PROBE_ARG_0     "x0"
#define PROBE_ARG_1     "x1"
#define PROBE_ARG_2     "x2"
#define PROBE_ARG_3     "x3"
#define PROBE_SITE      "990: nop\n"
#define PROBE_SPEC_3    "8@x0 8@x1 8@x2"
#define PROBE_SPEC_4    "8@x0 8@x1 8@x2 8@x3"
#endif

/* A note: owner "stapsdt", type 3; the addresses of site, base and semaphore, provider, name, arguments. A tool corrects the addresses by the
 * difference between the base here and the section's, should somebody have moved the latter. */
#define PROBE_NOTE(name, spec)                                                                                         \
        ".pushsection .note.stapsdt, \"?\", \"note\"\n"                                                                \
        ".balign 4\n"                                                                                                  \
        ".4byte 992f - 991f, 994f - 993f, 3\n"                                                                         \
        "991: .asciz \"stapsdt\"\n"                                                                                    \
        "992: .balign 4\n"                                                                                             \
        "993: .8byte 990b, _.stapsdt.base, tidegate_" name "_semaphore\n"                                              \
        ".asciz \"tidegate\"\n"                                                                                        \
        ".asciz \"" name "\"\n"                                                                                        \
        ".asciz \"" spec "\"\n"                                                                                        \
        "994: .balign 4\n"                                                                                             \
        ".popsection\n"                                                                                                \
        ".ifndef _.stapsdt.base\n"                                                                                     \
        ".pushsection .stapsdt.base, \"aG\", \"progbits\", .stapsdt.base, comdat\n"                                    \
        ".weak _.stapsdt.base\n"                                                                                       \
        ".hidden _.stapsdt.base\n"                                                                                     \
        "_.stapsdt.base: .space 1\n"                                                                                   \
        ".size _.stapsdt.base, 1\n"                                                                                    \
        ".popsection\n"                                                                                                \
        ".endif\n"

/* Whether somebody is attached: the one question that the hot path asks. */
static inline bool probe_enqueue_wanted(void)
{
        return __builtin_expect(__atomic_load_n(&tidegate_enqueue_semaphore, __ATOMIC_RELAXED) != 0, 0);
}

static inline bool probe_dequeue_wanted(void)
{
        return __builtin_expect(__atomic_load_n(&tidegate_dequeue_semaphore, __ATOMIC_RELAXED) != 0, 0);
}

static inline void probe_enqueue(uint64_t link, uint64_t seq, uint64_t depth)
{
        register uint64_t a0 PROBE_ARG(0) = link;
        register uint64_t a1 PROBE_ARG(1) = seq;
        register uint64_t a2 PROBE_ARG(2) = depth;

        __asm__ volatile(PROBE_SITE PROBE_NOTE("enqueue", PROBE_SPEC_3) : : "r"(a0), "r"(a1), "r"(a2));
}

static inline void probe_dequeue(uint64_t link, uint64_t seq, uint64_t depth, uint64_t age_ns)
{
        register uint64_t a0 PROBE_ARG(0) = link;
        register uint64_t a1 PROBE_ARG(1) = seq;
        register uint64_t a2 PROBE_ARG(2) = depth;
        register uint64_t a3 PROBE_ARG(3) = age_ns;

        __asm__ volatile(PROBE_SITE PROBE_NOTE("dequeue", PROBE_SPEC_4) : : "r"(a0), "r"(a1), "r"(a2), "r"(a3));
}

#else
#define TG_HAVE_PROBES 0

static inline bool probe_enqueue_wanted(void)
{
        return false;
}

static inline bool probe_dequeue_wanted(void)
{
        return false;
}

static inline void probe_enqueue(uint64_t link, uint64_t seq, uint64_t depth)
{
}

static inline void probe_dequeue(uint64_t link, uint64_t seq, uint64_t depth, uint64_t age_ns)
{
}
#endif

/*
 * Which messages are told of, said by one word that both ends of a link are given, so that they choose the same ones: those with
 * (seq & mask) == 0. 0: all. A power of two less one. PROBE_MASK_NONE: not even the first.
 */
static inline bool probe_is_sampled(uint64_t mask, uint64_t seq)
{
        return (seq & mask) == 0 && mask != PROBE_MASK_NONE;
}

#endif
