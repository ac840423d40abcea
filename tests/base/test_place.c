/* SPDX-License-Identifier: Apache-2.0 */
/* Lives that are written down in plain directories: who belongs to them, and their ends. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/place.h"

typedef struct Life {
        char path[64];
        int fd;
        pid_t reaper;
} Life;

/* A reaper that starts @n children which ignore SIGTERM, and ends when nobody is left. */
static void live(Life *life, int n)
{
        int ready[2];
        char byte;

        (void)strcpy(life->path, "/tmp/tidegate-test-place-XXXXXX");
        cr_assert(mkdtemp(life->path) && pipe(ready) == 0);
        life->fd = open(life->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        life->reaper = fork();
        if (life->reaper == 0) {
                (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                for (int i = 0; i < n; i++)
                        if (fork() == 0) {
                                (void)signal(SIGTERM, SIG_IGN);
                                (void)!write(ready[1], "", 1);
                                for (;;)
                                        (void)pause();
                        }
                while (wait(NULL) > 0)
                        continue;
                _exit(0);
        }
        for (int i = 0; i < n; i++)
                cr_assert(read(ready[0], &byte, 1) == 1);
        (void)close(ready[0]);
        (void)close(ready[1]);
        cr_assert(place_set_reaper(life->fd, life->reaper, false) == 0);
}

static void over(Life *life)
{
        cr_assert(waitpid(life->reaper, NULL, 0) == life->reaper);
        cr_assert(place_forget(life->fd) == 0);
        cr_assert(rmdir(life->path) == 0, "nothing is left in it");
        life->fd = fd_close(life->fd);
}

Test(place, knows_who_descends_from_the_reaper_and_ends_all_of_them, .timeout = 20)
{
        PlaceResult result;
        Life life;

        live(&life, 20);
        cr_assert(place_populated(life.fd) == 1);
        cr_assert(place_count(life.fd) == 20, "the reaper itself does not count");
        cr_assert(place_has(life.fd, life.reaper) == 1 && place_has(life.fd, getpid()) == 0);
        cr_assert(place_forget(life.fd) == -EBUSY);
        cr_assert(place_signal(life.fd, SIGTERM, &result) == 0 && result.n_sent == 20);
        cr_assert(place_count(life.fd) == 20, "they do not hear it");
        cr_assert(place_end(life.fd, nsec_add(clock_now(), 10 * NSEC_PER_SEC), &result) == 0);
        cr_assert(result.n_found == 20 && result.n_left == 0);
        cr_assert(place_populated(life.fd) == 0);
        over(&life);
}

Test(place, a_number_that_is_another_s_by_now_names_nobody, .timeout = 20)
{
        char path[] = "/tmp/tidegate-test-place-XXXXXX", text[32];
        PlaceResult result;
        int fd;

        cr_assert(mkdtemp(path));
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        (void)snprintf(text, sizeof(text), "%d.1s", (int)getpid()); /* our number, and the start of somebody long gone */
        cr_assert(symlinkat(text, fd, "reaper") == 0);
        cr_assert(place_reaper(fd, NULL, NULL) == -ESRCH);
        cr_assert(place_populated(fd) == 0 && place_count(fd) == 0);
        cr_assert(place_end(fd, 0, &result) == 0 && result.n_sent == 0, "we live");
        cr_assert(place_forget(fd) == 0 && rmdir(path) == 0);
        (void)fd_close(fd);
}

/* ---- a first thread that has ended */

static void *say_and_stay(void *arg)
{
        char path[32], text[512];
        const int *ready = arg;
        bool gone = false;

        (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)getpid());
        while (!gone) { /* of the leader: a zombie once it has ended */
                _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
                ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

                text[n > 0 ? n : 0] = '\0';
                gone = strstr(text, "State:\tZ") != NULL;
                (void)sched_yield();
        }
        (void)!write(ready[1], "", 1);
        for (;;)
                (void)pause();
        return NULL;
}

Test(place, who_lives_on_without_its_first_thread_counts_and_who_is_only_not_waited_for_does_not, .timeout = 20)
{
        PlaceResult result;
        static int ready[2]; /* not on the stack of a thread that ends */
        pid_t living, dead;
        char byte;

        cr_assert(pipe(ready) == 0);
        living = fork();
        if (living == 0) {
                pthread_t thread;

                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (pthread_create(&thread, NULL, say_and_stay, ready))
                        _exit(1);
                pthread_exit(NULL);
        }
        dead = fork();
        if (dead == 0)
                _exit(0);
        cr_assert(read(ready[0], &byte, 1) == 1);
        cr_assert(waitid(P_PID, (id_t)dead, &(siginfo_t){}, WEXITED | WNOWAIT) == 0, "it is a zombie");
        cr_assert(place_signal_descendants(getpid(), NULL, 0, SIGKILL, &result) == 0);
        cr_assert_eq(result.n_found, 1);
        cr_assert_eq(result.n_sent, 1);
        cr_assert(waitpid(living, NULL, 0) == living && waitpid(dead, NULL, 0) == dead);
        (void)close(ready[0]);
        (void)close(ready[1]);
}

Test(place, nobody_is_born_in_a_directory_that_was_removed)
{
        char path[] = "/tmp/tidegate-test-place-XXXXXX";
        int fd;

        cr_assert(mkdtemp(path));
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        cr_assert(rmdir(path) == 0);
        cr_assert(place_set_reaper(fd, getpid(), false) == -ENOENT);
        (void)fd_close(fd);
}

Test(place, descendants_are_signalled_but_not_the_spared_and_those_below_them, .timeout = 20)
{
        PlaceResult result;
        Life life, spared;

        cr_assert(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0); /* orphans come to us */
        live(&life, 5);
        live(&spared, 3);
        cr_assert(place_signal_descendants(getpid(), &spared.reaper, 1, SIGTERM, &result) == 0);
        cr_assert_eq(result.n_found, 6, "five, and the reaper that was not spared");
        cr_assert(waitpid(life.reaper, NULL, 0) == life.reaper); /* it did not ignore SIGTERM */
        cr_assert(place_signal_descendants(spared.reaper, NULL, 0, SIGKILL, &result) == 0 && result.n_found == 3 && result.n_sent == 3);
        over(&spared);
        cr_assert(place_forget(life.fd) == 0 && rmdir(life.path) == 0);
        cr_assert(place_signal_descendants(getpid(), NULL, 0, SIGKILL, &result) == 0 && result.n_found == 5);
        while (wait(NULL) > 0)
                continue;
        life.fd = fd_close(life.fd);
        cr_assert(place_signal_descendants(0x7fffffff, NULL, 0, SIGKILL, &result) == 0 && result.n_found == 0, "nobody of that number");
}

/* Reads that this process has made. */
static uint64_t n_reads(void)
{
        char text[256] = "";
        const char *at;
        int fd = open("/proc/self/io", O_RDONLY | O_CLOEXEC);

        cr_assert(read(fd, text, sizeof(text) - 1) > 0);
        (void)close(fd);
        at = strstr(text, "syscr: ");
        cr_assert(at);
        return strtoull(at + 7, NULL, 10);
}

#define N_LOOKERS 24
#define N_LIVING  200 /* to look at all of them takes longer than a thread has a processor to itself: the others come meanwhile */

typedef struct Lookers {
        pthread_barrier_t all;
        const Life *life;
        _Atomic int n_right;
} Lookers;

static void *look_once(void *userdata)
{
        Lookers *l = userdata;

        (void)pthread_barrier_wait(&l->all);
        for (int i = 0; i < 3; i++)
                l->n_right += place_count(l->life->fd) == N_LIVING;
        return NULL;
}

Test(place, who_looks_at_the_same_time_shares_what_is_read, .timeout = 60)
{
        pthread_t threads[N_LOOKERS];
        PlaceResult result;
        Lookers l = {};
        uint64_t before, alone, together;
        Life life;

        live(&life, N_LIVING);
        before = n_reads();
        cr_assert_eq(place_count(life.fd), N_LIVING);
        alone = n_reads() - before;
        cr_assert_geq(alone, 8, "one of each process at least");
        l.life = &life;
        cr_assert_eq(pthread_barrier_init(&l.all, NULL, N_LOOKERS), 0);
        before = n_reads();
        for (int i = 0; i < N_LOOKERS; i++)
                cr_assert_eq(pthread_create(&threads[i], NULL, look_once, &l), 0);
        for (int i = 0; i < N_LOOKERS; i++)
                cr_assert_eq(pthread_join(threads[i], NULL), 0);
        together = n_reads() - before;
        cr_expect_eq(l.n_right, 3 * N_LOOKERS, "and all of them see everybody");
        cr_expect_lt(together, 3 * N_LOOKERS / 2 * alone, "%d looks made %d reads, one makes %d", 3 * N_LOOKERS, (int)together, (int)alone);
        cr_assert_eq(place_end(life.fd, nsec_add(clock_now(), 20 * NSEC_PER_SEC), &result), 0);
        over(&life);
}
