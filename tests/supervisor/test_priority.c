/* SPDX-License-Identifier: Apache-2.0 */
/* A supervisor that does not sleep any more loses its real-time priority, says so, and gets it back when it is told to. */
#include <criterion/criterion.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "supervisor/priority.h"

#define SPAN (PRIORITY_SPAN_US * NSEC_PER_USEC)

static nsec_t cpu_time(void)
{
        struct timespec ts;

        (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
        return (nsec_t)ts.tv_sec * NSEC_PER_SEC + (nsec_t)ts.tv_nsec;
}

/* Uses the CPU for so long, at most until the priority is gone. */
static bool work(nsec_t span)
{
        nsec_t end = cpu_time() + span;

        while (priority_is_prompt())
                if (cpu_time() >= end)
                        return true;
        return false;
}

static bool was_told(void)
{
        sigset_t pending;

        return sigpending(&pending) == 0 && sigismember(&pending, PRIORITY_LOST) == 1;
}

/* In a process of its own; its status is the line that was not as it should be. */
static int child(void)
{
        struct rlimit before, after;
        sigset_t all;

        sigfillset(&all);
        (void)sigprocmask(SIG_SETMASK, &all, NULL);
        (void)getrlimit(RLIMIT_RTTIME, &before);
        priority_guard();
        if (!priority_is_prompt())
                return 255;
        priority_supervisor();
        for (int i = 0; i < 4; i++) { /* who sleeps in between may work as long as it likes */
                if (!work(SPAN / 2))
                        return __LINE__;
                (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        }
        if (priority_was_lost() || was_told())
                return __LINE__;
        for (int i = 0; i < 2; i++) {
                if (work(4 * SPAN))
                        return __LINE__;
                if (!priority_was_lost() || !was_told())
                        return __LINE__;
                (void)sigwaitinfo(&(sigset_t){{1UL << (PRIORITY_LOST - 1)}}, NULL);
                priority_supervisor();
                if (!work(SPAN / 2) || priority_was_lost() || was_told()) /* what it used before does not count any more */
                        return __LINE__;
        }
        priority_leave_supervisor();
        (void)getrlimit(RLIMIT_RTTIME, &after);
        if (after.rlim_cur != before.rlim_cur || after.rlim_max != before.rlim_max) /* nodes inherit it from the guard that it may become */
                return __LINE__;
        return 0;
}

Test(priority, who_does_not_sleep_loses_it, .timeout = 60)
{
        pid_t pid = fork();
        int status = 0;

        if (pid == 0)
                _exit(child());
        cr_assert_eq(waitpid(pid, &status, 0), pid);
        cr_assert(WIFEXITED(status), "status %d", status);
        if (WEXITSTATUS(status) == 255)
                cr_skip_test("needs the right to a real-time priority");
        cr_expect_eq(WEXITSTATUS(status), 0, "line %d", WEXITSTATUS(status));
}

/* The priority that the kernel gives a thread of ours, as ps(1) shows it: below 0 where it is a real-time one. 100: not known. */
static long priority_of(pid_t tid)
{
        char path[64], text[512] = "";
        FILE *f;
        char *at;
        long prio = 100;

        (void)snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)tid);
        f = fopen(path, "re");
        if (f && fgets(text, sizeof(text), f) && (at = strrchr(text, ')')))
                (void)sscanf(at, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %ld", &prio);
        if (f)
                (void)fclose(f);
        return prio;
}

static void *in_a_hurry(void *arg)
{
        pthread_mutex_t *lock = arg;
        struct sched_param param = {.sched_priority = 1};

        if (pthread_setschedparam(pthread_self(), SCHED_RR, &param))
                return arg;
        (void)pthread_mutex_lock(lock);
        (void)pthread_mutex_unlock(lock);
        return NULL;
}

Test(priority, whoever_has_a_lock_is_as_prompt_as_whoever_waits_for_it, .timeout = 60)
{
        nsec_t until = clock_now() + 20 * NSEC_PER_SEC;
        pid_t self = (pid_t)syscall(SYS_gettid);
        pthread_mutex_t lock;
        pthread_t thread;
        void *refused = NULL;
        long prio;

        priority_lock_init(&lock);
        (void)pthread_mutex_lock(&lock);
        cr_expect_geq(priority_of(self), 0);
        cr_assert_eq(pthread_create(&thread, NULL, in_a_hurry, &lock), 0);
        while ((prio = priority_of(self)) >= 0 && clock_now() < until && pthread_tryjoin_np(thread, &refused) != 0)
                (void)poll(NULL, 0, 1);
        (void)pthread_mutex_unlock(&lock);
        if (refused)
                cr_skip_test("needs the right to a real-time priority");
        cr_expect_lt(prio, 0, "%ld", prio);
        cr_assert_eq(pthread_join(thread, NULL), 0);
        cr_expect_geq(priority_of(self), 0, "it was lent");
}
