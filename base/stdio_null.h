/* SPDX-License-Identifier: Apache-2.0 */
/* For a child that may be left behind: it must not keep open what somebody reads to its end. */
#ifndef TG_BASE_STDIO_NULL_H
#define TG_BASE_STDIO_NULL_H

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* Standard input, output and error become /dev/null. 0, or -errno: some may be what they were. One descriptor more is open until exec. */
static inline int stdio_to_null(void)
{
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);

        for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
                if (null < 0 || dup2(null, fd) < 0)
                        return -errno;
        return 0;
}

#endif
