/* SPDX-License-Identifier: Apache-2.0 */
/* stamp - writes CLOCK_MONOTONIC in nanoseconds (8 bytes) to stdout and ends. stamp FILE: a line of it into FILE, at its end. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
        struct timespec t;
        uint64_t now;
        char text[32];
        int fd, n;

        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        now = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
        if (argc < 2)
                return write(STDOUT_FILENO, &now, sizeof(now)) == sizeof(now) ? 0 : 1;
        fd = open(argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        (void)usleep(20000); /* it runs, and that has been told, before it ends */
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        n = snprintf(text, sizeof(text), "%" PRIu64 "\n", (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec);
        return fd >= 0 && write(fd, text, (size_t)n) == n ? 0 : 1;
}
