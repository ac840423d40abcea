/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HOT: what runs for each message. The linker puts such functions next to each other. Between two messages of a paced sender the caches
 * are somebody else's, and then it counts how many pages of code a message needs.
 * INLINE: a part of such a function that the compiler takes for too long to stand in it. To call it, it has to save registers that nobody needs.
 */
#ifndef TG_BASE_HOT_H
#define TG_BASE_HOT_H

#define HOT    __attribute__((hot))
#define INLINE inline __attribute__((always_inline))

#endif
