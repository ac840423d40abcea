/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/priority.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"

#define PRIORITY_SUPERVISOR 1
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

void priority_supervisor(void)
{
        if (sched_getscheduler(0) == SCHED_RR)
                be_prompt(PRIORITY_SUPERVISOR);
}

void priority_keeper(void)
{
        struct sched_param param = {};

        if (sched_getscheduler(0) == SCHED_RR)
                (void)sched_setscheduler(0, SCHED_OTHER, &param); /* less is always allowed; the nice value was kept */
}

void priority_lock_memory(void)
{
        if (geteuid() != 0) /* a user's limit of locked memory would make later mappings fail: worse than being paged out */
                return;
        (void)mlockall(MCL_CURRENT);
        (void)mlockall(MCL_FUTURE | MCL_ONFAULT); /* what is there already stays locked */
}
