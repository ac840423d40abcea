/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sites that tools outside of the process can attach to, with notes as SystemTap defines them: bpftrace, perf, libbpf and `readelf -n` know them.
 *
 * A site is one nop of five bytes, which recent kernels turn into a call, in an aligned unit of eight, for they do not do so across a page (AArch64:
 * a nop). It is to be reached only while its semaphore, a counter that the kernel raises for as long as somebody is attached, is not 0; until then
 * it costs the load of that word and a branch that is not taken. The arguments, of 64 bits, stand where a C call has them, so a program in the kernel
 * finds them without an interpreter of argument specs; the note says the same.
 *
 *   SDT_SEMAPHORE(tidegate, name);          defines it; SDT_SEMAPHORE_DECLARE() in a header
 *   SDT_WANTED(tidegate, name)              whether somebody is attached
 *   SDT_3(tidegate, name, a, b, c)          the site; SDT_4() with four
 *
 * Forks: Linux 6.18 copies the call into a child and not what is called, so a child dies that reaches a site which its parent has reached. Who may
 * fork in between must know of it, and not reach the site in the child: probe_may_tell() in shm/probe.h.
 *
 * x86-64 and AArch64. Elsewhere, and with TG_NO_PROBES, SDT_HAVE is 0 and there is nothing of it.
 */
#ifndef TG_BASE_SDT_H
#define TG_BASE_SDT_H

#include <stdint.h>

#if (defined(__x86_64__) || defined(__aarch64__)) && !defined(TG_NO_PROBES)
#define SDT_HAVE 1
#else
#define SDT_HAVE 0
#endif

/* What the notes say of arguments, which others than compilers want to know: a loader takes no site that says something else. */
#if defined(__aarch64__)
#define SDT_SPEC_3 "8@x0 8@x1 8@x2"
#define SDT_SPEC_4 "8@x0 8@x1 8@x2 8@x3"
#else
#define SDT_SPEC_3 "8@%rdi 8@%rsi 8@%rdx"
#define SDT_SPEC_4 "8@%rdi 8@%rsi 8@%rdx 8@%rcx"
#endif

#if SDT_HAVE

#if defined(__x86_64__)
#define SDT_TEMPLATE_3 "8@%%rdi 8@%%rsi 8@%%rdx" /* an assembler's template has % twice */
#define SDT_TEMPLATE_4 "8@%%rdi 8@%%rsi 8@%%rdx 8@%%rcx"
#define SDT_ARG_0 "rdi"
#define SDT_ARG_1 "rsi"
#define SDT_ARG_2 "rdx"
#define SDT_ARG_3 "rcx"
/* The call that it becomes pushes an address, where a function that calls nobody may have its variables: below the stack pointer. */
#define SDT_NOP "lea -128(%%rsp), %%rsp\n.balign 8\n990: .byte 0x0f, 0x1f, 0x44, 0x00, 0x00\nlea 128(%%rsp), %%rsp\n"
#else
#define SDT_TEMPLATE_3 SDT_SPEC_3
#define SDT_TEMPLATE_4 SDT_SPEC_4
#define SDT_ARG_0 "x0"
#define SDT_ARG_1 "x1"
#define SDT_ARG_2 "x2"
#define SDT_ARG_3 "x3"
#define SDT_NOP "990: nop\n"
#endif

/* Owner "stapsdt", type 3; the addresses of site, base and semaphore, provider, name, arguments. Should somebody move the sections, a tool corrects
 * the addresses by how far .stapsdt.base is from the base that was written here. */
#define SDT_NOTE(provider, name, spec)                                                                                 \
        ".pushsection .note.stapsdt, \"?\", \"note\"\n"                                                                \
        ".balign 4\n"                                                                                                  \
        ".4byte 992f - 991f, 994f - 993f, 3\n"                                                                         \
        "991: .asciz \"stapsdt\"\n"                                                                                    \
        "992: .balign 4\n"                                                                                             \
        "993: .8byte 990b, _.stapsdt.base, " #provider "_" #name "_semaphore\n"                                        \
        ".asciz \"" #provider "\"\n"                                                                                   \
        ".asciz \"" #name "\"\n"                                                                                       \
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

/* Only assembly names it where there are sites: a compiler that sees the whole program must neither leave it out nor rename it. */
#if defined(__has_attribute)
#if __has_attribute(externally_visible)
#define SDT_KEPT used, externally_visible
#endif
#endif
#ifndef SDT_KEPT
#define SDT_KEPT used
#endif

/* Hidden: each program and library has its own, and tools find it by the notes. Bytes in the file, writable and private: what the kernel wants
 * of a word that it counts in. */
#define SDT_SEMAPHORE_DECLARE(provider, name) extern uint16_t provider##_##name##_semaphore __attribute__((visibility("hidden")))
#define SDT_SEMAPHORE(provider, name)                                                                                  \
        SDT_SEMAPHORE_DECLARE(provider, name);                                                                         \
        uint16_t provider##_##name##_semaphore __attribute__((section(".probes"), SDT_KEPT))

#define SDT_WANTED(provider, name) __builtin_expect(__atomic_load_n(&provider##_##name##_semaphore, __ATOMIC_RELAXED) != 0, 0)

/* The values first: what computes one of them must not disturb the registers of the others. */
#define SDT_3(provider, name, a, b, c)                                                                                 \
        do {                                                                                                           \
                uint64_t sdt_0 = (a), sdt_1 = (b), sdt_2 = (c);                                                        \
                register uint64_t sdt_r0 __asm__(SDT_ARG_0) = sdt_0;                                                   \
                register uint64_t sdt_r1 __asm__(SDT_ARG_1) = sdt_1;                                                   \
                register uint64_t sdt_r2 __asm__(SDT_ARG_2) = sdt_2;                                                   \
                                                                                                                       \
                __asm__ volatile(SDT_NOP SDT_NOTE(provider, name, SDT_TEMPLATE_3) : : "r"(sdt_r0), "r"(sdt_r1), "r"(sdt_r2));                \
        } while (0)

#define SDT_4(provider, name, a, b, c, d)                                                                              \
        do {                                                                                                           \
                uint64_t sdt_0 = (a), sdt_1 = (b), sdt_2 = (c), sdt_3 = (d);                                           \
                register uint64_t sdt_r0 __asm__(SDT_ARG_0) = sdt_0;                                                   \
                register uint64_t sdt_r1 __asm__(SDT_ARG_1) = sdt_1;                                                   \
                register uint64_t sdt_r2 __asm__(SDT_ARG_2) = sdt_2;                                                   \
                register uint64_t sdt_r3 __asm__(SDT_ARG_3) = sdt_3;                                                   \
                                                                                                                       \
                __asm__ volatile(SDT_NOP SDT_NOTE(provider, name, SDT_TEMPLATE_4) : : "r"(sdt_r0), "r"(sdt_r1), "r"(sdt_r2), "r"(sdt_r3));   \
        } while (0)

#endif
#endif
