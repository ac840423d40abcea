/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/priority.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"

#define PRIORITY_SUPERVISOR 1
#define LOCK_ROOM           ((size_t)1 << 30) /* more than any limit of locked memory but that of who has none */
#define PRIORITY_GUARD      2 /* it watches for a supervisor that never sleeps, too */

/* Refused in most containers: then late on a machine that is full, and never wrong. */
static void be_prompt(int priority)
{
        struct sched_param param = {.sched_priority = priority};

        (void)sched_setscheduler(0, SCHED_RR, &param);
}

void priority_guard(void)
{
        _cleanup_fd_ int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

        if (fd >= 0)
                (void)!write(fd, "-1000", 5); /* refused without CAP_SYS_RESOURCE */
        be_prompt(PRIORITY_GUARD);
}

bool priority_is_prompt(void)
{
        return (sched_getscheduler(0) & ~SCHED_RESET_ON_FORK) == SCHED_RR;
}

void priority_supervisor(void)
{
        if (priority_is_prompt())
                be_prompt(PRIORITY_SUPERVISOR);
}

void priority_keeper(void)
{
        struct sched_param param = {};

        if (priority_is_prompt())
                (void)sched_setscheduler(0, SCHED_OTHER, &param); /* less is always allowed; the nice value was kept */
}

bool priority_turn(bool hurried)
{
        if (!priority_is_prompt())
                return false;
        if (hurried)
                priority_keeper();
        return !hurried;
}

void priority_hurry(pid_t keeper)
{
        struct sched_param param = {.sched_priority = PRIORITY_SUPERVISOR};

        if (priority_is_prompt())
                (void)sched_setscheduler(keeper, SCHED_RR | SCHED_RESET_ON_FORK, &param);
}

void priority_lock_memory(bool whole)
{
        void *room;

        if (geteuid() != 0) /* a user's limit of locked memory would make later mappings fail: worse than being paged out */
                return;
        (void)mlockall(MCL_CURRENT | (whole ? 0 : MCL_ONFAULT));
        if (mlockall(MCL_FUTURE | MCL_ONFAULT) < 0) /* what is there already stays locked */
                return;
        room = mmap(NULL, LOCK_ROOM, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (room == MAP_FAILED)
                (void)munlockall(); /* root without CAP_IPC_LOCK: likewise */
        else
                (void)munmap(room, LOCK_ROOM);
}
