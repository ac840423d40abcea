/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HOT: what runs for each message. The linker puts such functions next to each other. Between two messages of a paced sender the caches
 * are somebody else's, and then it counts how many pages of code a message needs.
 */
#ifndef TG_BASE_HOT_H
#define TG_BASE_HOT_H

#define HOT __attribute__((hot))

#endif
