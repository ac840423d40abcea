/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tidegate: arguments in, text or JSON out. Finds the command in the table and hands over; whatever a command prints
 * is checked once here, so that a full disk or a closed pipe is an error and not a silent success.
 */
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <unistd.h>

#include "cli/dispatch.h"

/* A program started with 0, 1 or 2 closed would get a socket or a memfd there, and then print into it. */
static int occupy_standard_fds(void)
{
        for (int fd = 0; fd <= STDERR_FILENO; fd++)
                if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) != fd)
                        return -1;
        return 0;
}

int main(int argc, char **argv)
{
        int status;

        if (occupy_standard_fds() < 0)
                return 1;
        setlocale(LC_CTYPE, ""); /* widths of what is printed; numbers stay in the C locale */

        status = command_dispatch(argc - 1, argv + 1);
        return command_finish(status);
}
