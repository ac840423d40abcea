/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pipeholder FD - writes "third" and a page that does not come (userfaultfd) to the pipe FD, so that it keeps the pipe's mutex: says "ready" then.
 * Until it is killed nobody reads that pipe. 77: it may not.
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static void *page;

static void *body(void *arg)
{
        struct iovec v[] = {{(char *)"third\n", 6}, {page, 4096}};

        (void)!writev(atoi(arg), v, 2);
        _exit(2); /* it came */
}

int main(int argc, char **argv)
{
        struct uffdio_api api = {.api = UFFD_API};
        struct uffdio_register area = {.mode = UFFDIO_REGISTER_MODE_MISSING};
        int fault = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
        struct pollfd p = {.fd = fault, .events = POLLIN};
        pthread_t thread;

        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nobody behind who cannot be ended */
        page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        area.range.start = (__u64)(unsigned long)page;
        area.range.len = 4096;
        if (argc != 2 || fault < 0 || page == MAP_FAILED || ioctl(fault, UFFDIO_API, &api) < 0 || ioctl(fault, UFFDIO_REGISTER, &area) < 0)
                return 77;
        if (pthread_create(&thread, NULL, body, argv[1]) != 0 || poll(&p, 1, 20000) != 1 || p.revents != POLLIN)
                return 1;
        puts("ready");
        fflush(stdout);
        for (;;)
                pause();
}
