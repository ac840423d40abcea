/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Holds the kernel's lock of epolls that stand in epolls (epnested_mutex), which is one for the whole host: says "held", and lets go when its
 * stdin ends. Everybody else who adds anything to such an epoll sleeps in the kernel for as long, and cannot be killed.
 *
 * How: an epoll_wait() whose result goes to a page that userfaultfd does not let come keeps that epoll's own mutex; to add this epoll to another
 * one takes the host's lock, and then waits for the mutex. Any user can have such a page, of a file of his FUSE server, for example.
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static int inner, outer;
static void *page;
static _Atomic pid_t adder;

static void fail(const char *what)
{
        perror(what);
        _exit(1);
}

static void *wait_into_page(void *arg)
{
        (void)epoll_wait(inner, page, 1, -1);
        return NULL;
}

static void *add_nested(void *arg)
{
        struct epoll_event ev = {.events = EPOLLIN};

        adder = (pid_t)syscall(SYS_gettid);
        if (epoll_ctl(outer, EPOLL_CTL_ADD, inner, &ev) < 0)
                fail("epoll_ctl");
        return NULL;
}

/* It sleeps for the mutex, so it has the lock. */
static int is_asleep(void)
{
        char path[64], text[512] = "";
        int fd;

        if (!adder)
                return 0;
        snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)adder);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
                fail("the lock was not kept");
        close(fd);
        return strncmp(strrchr(text, ')'), ") D", 3) == 0;
}

int main(void)
{
        struct uffdio_api api = {.api = UFFD_API};
        struct uffdio_register area = {.mode = UFFDIO_REGISTER_MODE_MISSING};
        struct uffdio_zeropage zero = {};
        struct epoll_event ev = {.events = EPOLLIN};
        int fault = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK), event = eventfd(1, EFD_CLOEXEC);
        struct pollfd p = {.fd = fault, .events = POLLIN};
        pthread_t threads[2];
        char c;

        page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        area.range.start = zero.range.start = (__u64)(unsigned long)page;
        area.range.len = zero.range.len = 4096;
        if (fault < 0 || event < 0 || page == MAP_FAILED || ioctl(fault, UFFDIO_API, &api) < 0 || ioctl(fault, UFFDIO_REGISTER, &area) < 0)
                fail("userfaultfd");
        inner = epoll_create1(EPOLL_CLOEXEC);
        outer = epoll_create1(EPOLL_CLOEXEC);
        if (inner < 0 || outer < 0 || epoll_ctl(inner, EPOLL_CTL_ADD, event, &ev) < 0)
                fail("epoll");
        if (pthread_create(&threads[0], NULL, wait_into_page, NULL) != 0 || poll(&p, 1, 20000) != 1 || p.revents != POLLIN)
                fail("no page fault");
        if (pthread_create(&threads[1], NULL, add_nested, NULL) != 0)
                fail("pthread_create");
        for (unsigned i = 0; i < 20000 && !is_asleep(); i++)
                usleep(1000);
        if (!is_asleep())
                fail("nobody sleeps");
        printf("held\n");
        fflush(stdout);
        while (read(STDIN_FILENO, &c, 1) > 0)
                continue;
        if (ioctl(fault, UFFDIO_ZEROPAGE, &zero) < 0)
                fail("UFFDIO_ZEROPAGE");
        for (int i = 0; i < 2; i++)
                (void)pthread_join(threads[i], NULL);
        return 0;
}
