/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/priority.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

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

static volatile sig_atomic_t lost;
static struct rlimit found; /* RLIMIT_RTTIME as it was */
static bool watched;

static void on_no_sleep(int signo)
{
        struct sched_param param = {};
        int saved = errno;

        (void)signo;
        (void)sched_setscheduler(0, SCHED_OTHER, &param);
        lost = 1;
        (void)raise(PRIORITY_LOST);
        errno = saved;
}

/* RLIMIT_RTTIME counts what a real-time task uses between two sleeps (setrlimit(2)); the kernel adds a second to it each time that it tells. */
static void watch_for_sleep(void)
{
        struct sigaction sa = {.sa_handler = on_no_sleep, .sa_flags = SA_RESTART};
        struct rlimit limit;
        sigset_t set;

        if (getrlimit(RLIMIT_RTTIME, &limit) < 0)
                return;
        if (!watched)
                found = limit;
        watched = true;
        limit.rlim_cur = MIN(limit.rlim_max, (rlim_t)PRIORITY_SPAN_US);
        sigfillset(&sa.sa_mask);
        sigemptyset(&set);
        sigaddset(&set, SIGXCPU);
        if (sigaction(SIGXCPU, &sa, NULL) == 0 && sigprocmask(SIG_UNBLOCK, &set, NULL) == 0)
                (void)setrlimit(RLIMIT_RTTIME, &limit);
}

void priority_leave_signal(sigset_t *set)
{
        if (watched)
                sigdelset(set, SIGXCPU);
}

void priority_leave_supervisor(void)
{
        if (watched)
                (void)setrlimit(RLIMIT_RTTIME, &found); /* what it was: not refused */
}

/* What was used at a real-time priority counts until a sleep at one, also while it had none: the next tick of the clock would take it for a spin again. */
static void begin_anew(void)
{
        priority_leave_supervisor();
        be_prompt(PRIORITY_SUPERVISOR);
        (void)nanosleep(&(struct timespec){.tv_nsec = NSEC_PER_MSEC}, NULL);
}

void priority_supervisor(void)
{
        if (!priority_is_prompt() && !lost)
                return;
        if (lost)
                begin_anew();
        lost = 0;
        watch_for_sleep();
        be_prompt(PRIORITY_SUPERVISOR);
}

bool priority_was_lost(void)
{
        return lost;
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

void priority_lock_init(pthread_mutex_t *lock)
{
        pthread_mutexattr_t attr;

        (void)pthread_mutexattr_init(&attr); /* cannot fail on Linux */
        if (pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT) || pthread_mutex_init(lock, &attr))
                (void)pthread_mutex_init(lock, NULL); /* no such futex in this kernel */
        (void)pthread_mutexattr_destroy(&attr);
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
