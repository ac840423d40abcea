/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/nobody.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdint.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/stdio_null.h"

#define NOBODY      65534
#define FILES_MAX   ((rlim_t)64)
#define FILES_MAX_ATTACHER 4096 /* two for each site that it is attached to */
#ifndef __SANITIZE_ADDRESS__ /* whose shadow takes more than there is */
#define MEMORY_MAX  (512ul << 20) /* address space; the kernel's type information is some MB, and is held twice while it is read */
#else
#define MEMORY_MAX  RLIM_INFINITY
#endif

static int set_capabilities(uint32_t low, uint32_t high)
{
        struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
        struct __user_cap_data_struct data[2] = {{.effective = low, .permitted = low}, {.effective = high, .permitted = high}};

        return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

/* CAP_BPF and CAP_PERFMON (Linux 5.8). Not ours in many containers: then the load says so. */
static int keep_what_loading_takes(uint32_t more)
{
        return set_capabilities(more, CAP_TO_MASK(CAP_BPF) | CAP_TO_MASK(CAP_PERFMON)) ? set_capabilities(0, 0) : 0;
}

static int change_user(void)
{
        struct sched_param param = {};
        int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

        if (fd >= 0)
                (void)!write(fd, "0", 1); /* the guard's is not ours: rather we than anybody's node */
        (void)fd_close(fd);
        (void)sched_setscheduler(0, SCHED_OTHER, &param);
        if (prctl(PR_SET_KEEPCAPS, 1) < 0 || setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0)
                return -errno;
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0) < 0)
                return -errno;
        return 0;
}

static void set_bounds(rlim_t n_files)
{
        const struct {
                __rlimit_resource_t resource;
                rlim_t max;
        } bounds[] = {{RLIMIT_NPROC, 0}, {RLIMIT_FSIZE, 0}, {RLIMIT_CORE, 0}, {RLIMIT_AS, MEMORY_MAX}};
        struct rlimit files;

        for (size_t i = 0; i < ELEMENTSOF(bounds); i++)
                (void)setrlimit(bounds[i].resource, &(struct rlimit){bounds[i].max, bounds[i].max}); /* lower is always allowed */
        if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
                files.rlim_cur = MIN(files.rlim_max, n_files);
                (void)setrlimit(RLIMIT_NOFILE, &files);
        }
}

void nobody_hand_over(bool begin)
{
        struct rlimit files;

        if (getrlimit(RLIMIT_NOFILE, &files) < 0)
                return;
        if (begin)
                files.rlim_cur = files.rlim_max;
        else
                files.rlim_cur = files.rlim_max = MIN(files.rlim_max, FILES_MAX);
        (void)setrlimit(RLIMIT_NOFILE, &files);
}

int nobody_begin(const char *name, int sock)
{
        int r = stdio_to_null(); /* its starter's log is not held open */

        (void)prctl(PR_SET_NAME, name);
        if (r)
                return r;
        if (dup2(sock, STDIN_FILENO) < 0 || chdir("/") < 0)
                return -errno;
        (void)close_range(STDERR_FILENO + 1, ~0U, 0);
        return 0;
}

static int become(uint32_t more, rlim_t n_files)
{
        int r = change_user();

        if (r == 0)
                r = keep_what_loading_takes(more);
        if (r)
                return r;
        set_bounds(n_files);
        return 0;
}

int nobody_become(void)
{
        int r = become(0, FILES_MAX);

        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* after the change of user, which resets it */
        return r;
}

int nobody_become_attacher(void)
{
        return become(CAP_TO_MASK(CAP_SYS_ADMIN), FILES_MAX_ATTACHER);
}

int nobody_become_starter(uint32_t capabilities)
{
        int r = change_user();

        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        return r ? r : set_capabilities(capabilities, 0);
}

int nobody_drop(void)
{
        return set_capabilities(0, 0);
}
