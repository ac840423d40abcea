/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tree of cgroups for one test of a probe: "tidegate-test-KIND-PID" below the root of the unified hierarchy. One at a time; whatever is made there
 * dies with it.
 */
#ifndef TG_TESTS_BPF_PLACES_H
#define TG_TESTS_BPF_PLACES_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* places_open() - make those of the list @names, parents first, which is borrowed. Skips the test where no cgroup can be made. */
void places_open(const char *kind, const char *const *names, size_t n);

/* places_close() - kill who is in there, and remove them: expects that nothing is left over. */
void places_close(void);

/* place() - the path of one of them, or of a file in it ("": of itself), until the next call. place_id(): what the kernel calls it. */
const char *place(const char *name, const char *file);
uint64_t place_id(const char *name);

/* place_fork() - as fork(); the child is born in there, as nodes are. */
pid_t place_fork(const char *name);

#endif
