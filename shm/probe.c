/* SPDX-License-Identifier: Apache-2.0 */
#include "shm/probe.h"

#if SDT_HAVE

#include <stddef.h>
#include <sys/mman.h>

SDT_SEMAPHORE(tidegate, enqueue);
SDT_SEMAPHORE(tidegate, dequeue);

#define PAGE_SIZE 4096u /* at least; the kernel rounds up */

static uint8_t *home; /* a page that fork wipes: 1 in a process that may have reached a site, and 0 in those that it has forked since */

static uint8_t *home_new(void)
{
        uint8_t *page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (page == MAP_FAILED)
                return NULL;
        if (madvise(page, PAGE_SIZE, MADV_WIPEONFORK) < 0) {
                (void)munmap(page, PAGE_SIZE);
                return NULL;
        }
        *page = 1;
        return page;
}

bool probe_may_tell(void)
{
        uint8_t *at = __atomic_load_n(&home, __ATOMIC_ACQUIRE), *made;

        if (at)
                return __atomic_load_n(at, __ATOMIC_RELAXED);
        made = home_new();
        if (!made)
                return false;
        if (__atomic_compare_exchange_n(&home, &at, made, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
                return true;
        (void)munmap(made, PAGE_SIZE); /* another thread was quicker */
        return true;
}

#endif
