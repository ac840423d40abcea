/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For kernel tests: a cgroup of the test's own in the cgroup v2 hierarchy, programs run in it, and the count of what
 * is left. Every wait has a deadline. Failures abort the test (Criterion).
 */
#ifndef TG_TESTS_SUPERVISOR_TESTGROUP_H
#define TG_TESTS_SUPERVISOR_TESTGROUP_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/clock.h"

typedef struct TestGroup {
        int parent_fd; /* the hierarchy's root, or our own delegated directory */
        int fd;
        char name[256];
        char path[512];
        int n_fds; /* open descriptors of this process before */
} TestGroup;

/* testgroup_main() - run the tests of this program, or say why they are skipped (TAP on --tap, else exit 77). */
int testgroup_main(int argc, char **argv);

TestGroup testgroup_make(void);

/*
 * testgroup_done() - asserts that nobody is in it, that no cgroup below it is left and that no descriptor was
 * leaked; removes it.
 */
void testgroup_done(TestGroup *g);

/* testgroup_wipe() - kill and remove whatever is there, for a test that expects leftovers. */
void testgroup_wipe(TestGroup *g);

/* Runs argv in @cgroup_fd and waits until its stdout says "ready". The pidfd; *ret_pid may be NULL. */
int testgroup_spawn(int cgroup_fd, char *const argv[], pid_t *ret_pid);

void testgroup_temp_dir(char *ret, size_t size); /* made; removed at the end of the run at the latest */
void testgroup_remove_dir(const char *path);     /* with all that is in it */

bool wait_readable(int fd, nsec_t span); /* poll POLLIN (or hang-up) */
int count_fds(void);                     /* of this process */
char *helper_path(const char *name);     /* of a test helper program; static storage, 8 in turn */

#endif
