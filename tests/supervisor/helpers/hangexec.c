/* SPDX-License-Identifier: Apache-2.0 */
/* hangexec FILE - executes `sleep`, and closes FILE as it does so: in the middle of execve() for as long as closing it takes. In a session of its own. */
#include <fcntl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
        (void)setsid(); /* it leads one already */
        if (argc != 2 || open(argv[1], O_RDONLY | O_CLOEXEC) < 0)
                return 1;
        (void)execlp("sleep", "sleep", "1000", (char *)NULL);
        return 1;
}
