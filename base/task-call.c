/* SPDX-License-Identifier: Apache-2.0 */
/* System calls by name. The names are those of the system's headers, written into syscall-names.inc by the build. */
#include "base/task.h"

#include <asm/unistd.h>
#include <string.h>

#include "base/cleanup.h"

static const char *const names[] = {
#include "syscall-names.inc"
};

/* Of kernels newer than the headers may be (Linux 6.17). From 424 on a call has the same number on every machine. */
static const struct {
        int32_t number;
        const char *name;
} newer[] = {
#ifdef __x86_64__
        {335, "uretprobe"}, {336, "uprobe"}, /* made by nobody: what the kernel has put in the place of a probe's instruction */
#endif
        {451, "cachestat"}, {452, "fchmodat2"}, {453, "map_shadow_stack"}, {454, "futex_wake"}, {455, "futex_wait"}, {456, "futex_requeue"},
        {457, "statmount"}, {458, "listmount"}, {459, "lsm_get_self_attr"}, {460, "lsm_set_self_attr"}, {461, "lsm_list_modules"}, {462, "mseal"},
        {463, "setxattrat"}, {464, "getxattrat"}, {465, "listxattrat"}, {466, "removexattrat"}, {467, "open_tree_attr"}, {468, "file_getattr"},
        {469, "file_setattr"},
};

/* Those that can sleep for the sake of what their first argument stands for. */
static const char *const on_fd[] = {"read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "preadv2",
        "pwritev2", "close", "fstat", "lseek", "ioctl", "fcntl", "flock", "fsync", "fdatasync", "sync_file_range", "syncfs",
        "ftruncate", "fallocate", "fadvise64", "readahead", "getdents", "getdents64", "fchdir", "fchmod", "fchown", "fgetxattr",
        "fsetxattr", "flistxattr", "fremovexattr", "fstatfs", "sendfile", "splice", "tee", "vmsplice", "copy_file_range", "connect",
        "accept", "accept4", "bind", "listen", "shutdown", "sendto", "recvfrom", "sendmsg", "recvmsg", "sendmmsg", "recvmmsg",
        "getsockopt", "setsockopt", "epoll_wait", "epoll_pwait", "epoll_pwait2", "epoll_ctl", "io_uring_enter", "finit_module",
        "timerfd_settime", "fsmount", "fsconfig"};

const char *task_call_name(int32_t number)
{
        if (number >= 0 && (size_t)number < ELEMENTSOF(names) && names[number])
                return names[number];
        for (size_t i = 0; i < ELEMENTSOF(newer); i++)
                if (newer[i].number == number)
                        return newer[i].name;
        return NULL;
}

bool task_call_has_fd(int32_t number)
{
        const char *name = task_call_name(number);

        for (size_t i = 0; name && i < ELEMENTSOF(on_fd); i++)
                if (strcmp(on_fd[i], name) == 0)
                        return true;
        return false;
}
