/* SPDX-License-Identifier: Apache-2.0 */
/* vforker - waits in vfork() for a child that never goes on: state D, and yet it dies of SIGKILL. The child says "ready". */
#include <signal.h>
#include <unistd.h>

int main(void)
{
        static const char ready[] = "ready\n";

        signal(SIGTERM, SIG_IGN);
        if (vfork() == 0) {
                (void)!write(1, ready, sizeof(ready) - 1);
                for (;;)
                        pause();
        }
        return 0;
}
