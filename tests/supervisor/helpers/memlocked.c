/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memlocked HUNG FILE [leave] - reads a page of HUNG, a file of a file system that does not answer (hungfs.c: "mapped"), by mapping it, with FILE mapped besides; by another
 * thread, with "leave", and without its first one then. Twice it waits without any lock: for the page to be read ahead, and for the page. When both were refused it asks again, and waits
 * with the lock of its memory: whoever wants to change something there waits for it, the kernel's own probes among them.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static void *read_page(void *page)
{
        return *(const volatile char *)page ? page : NULL;
}

int main(int argc, char **argv)
{
        int hung = argc > 2 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1, file = argc > 2 ? open(argv[2], O_RDONLY | O_CLOEXEC) : -1;
        void *page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, hung, 0);
        off_t size = file < 0 ? 0 : lseek(file, 0, SEEK_END);
        pthread_t thread;

        if (hung < 0 || page == MAP_FAILED || size <= 0 || mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, file, 0) == MAP_FAILED)
                return 1;
        if (argc > 3 && pthread_create(&thread, NULL, read_page, page) == 0)
                (void)syscall(SYS_exit, 0); /* of this thread alone */
        (void)read_page(page);
        return 1;
}
