/* SPDX-License-Identifier: Apache-2.0 */
#include "shm/probe.h"

#if TG_HAVE_PROBES
/* Data with bytes in the file, writable and private: what the kernel wants of a word that it counts in. */
uint16_t tidegate_enqueue_semaphore __attribute__((section(".probes")));
uint16_t tidegate_dequeue_semaphore __attribute__((section(".probes")));
#endif
