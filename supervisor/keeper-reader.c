/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/keeper-reader.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "supervisor/priority.h"

#define STACK_SIZE (256 * 1024) /* untouched pages cost nothing */

struct Reader {
        ListLink link; /* in behind */
        void *what;   /* NULL: nobody wants to know */
        nsec_t since; /* it is behind */
        bool told;    /* that it hangs */

        /* both threads', under lock */
        pthread_mutex_t lock;
        pthread_cond_t wake;
        int event_fd; /* the readers' */
        pid_t tid;    /* the thread's, once it runs */
        int fd;      /* of the pipe */
        bool asked;  /* the thread is to read it */
        bool back;   /* the thread has, and the loop has not heard of it */
        bool close;  /* the descriptor is ours */
        bool leaves; /* the thread is to end, and frees this */
        ssize_t n;
        char data[READER_SIZE]; /* the thread's while it reads */
};

static void reader_free(Reader *r)
{
        (void)pthread_cond_destroy(&r->wake);
        (void)pthread_mutex_destroy(&r->lock);
        free(r);
}

static void *thread_main(void *arg)
{
        Reader *r = arg;
        uint64_t one = 1;

        (void)pthread_mutex_lock(&r->lock);
        r->tid = (pid_t)syscall(SYS_gettid);
        for (;;) {
                ssize_t n;
                int fd;

                while (!r->asked && !r->leaves)
                        (void)pthread_cond_wait(&r->wake, &r->lock);
                if (!r->asked)
                        break;
                r->asked = false;
                fd = r->fd;
                (void)pthread_mutex_unlock(&r->lock);
                n = read(fd, r->data, sizeof(r->data)); /* may be for ever */
                if (n < 0)
                        n = -errno;
                (void)pthread_mutex_lock(&r->lock);
                r->n = n;
                r->back = true;
                if (r->close)
                        (void)fd_close(r->fd);
                if (!r->leaves) /* else the event is nobody's any more */
                        (void)!write(r->event_fd, &one, sizeof(one));
        }
        (void)pthread_mutex_unlock(&r->lock);
        reader_free(r);
        return NULL;
}

static void dismiss(Reader *r)
{
        (void)pthread_mutex_lock(&r->lock);
        r->leaves = true; /* as soon as it is back */
        (void)pthread_cond_signal(&r->wake);
        (void)pthread_mutex_unlock(&r->lock);
}

/* It sleeps in the kernel. One that is only late, for others have the processors, is not: another thread beside it would help nobody. */
static bool is_held(Reader *r)
{
        char path[64], text[256];
        _cleanup_fd_ int fd = -1;
        const char *name;
        pid_t tid;
        ssize_t n;

        (void)pthread_mutex_lock(&r->lock);
        tid = r->tid;
        (void)pthread_mutex_unlock(&r->lock);
        (void)snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)tid);
        fd = tid ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
        text[MAX(n, (ssize_t)0)] = '\0';
        name = strrchr(text, ')');
        return name && strncmp(name, ") D", 3) == 0;
}

static bool is_back(Reader *r)
{
        bool back;

        (void)pthread_mutex_lock(&r->lock);
        back = r->back;
        r->back = false;
        (void)pthread_mutex_unlock(&r->lock);
        return back;
}

/* The thread waits to be asked again: what it brought is ours until then. */
static void deliver(Readers *readers, Reader *r)
{
        void *what = TAKE_PTR(r->what);

        if (what)
                readers->ops->done(what, r->data, r->n);
}

static void on_back(KeeperSource *source, uint32_t events)
{
        Readers *readers = container_of(source, Readers, source);
        Reader *r, *next;
        uint64_t count;

        (void)!read(readers->event_fd, &count, sizeof(count)); /* only resets it */
        list_for_each(r, next, &readers->behind, link) {
                if (!is_back(r))
                        continue;
                list_unlink(&r->link);
                deliver(readers, r);
                dismiss(r);
        }
        if (readers->busy && is_back(readers->busy)) {
                deliver(readers, readers->busy);
                readers->free = TAKE_PTR(readers->busy);
        }
}

static int make(Readers *readers)
{
        Reader *r = calloc(1, sizeof(*r));
        pthread_attr_t attr;
        pthread_t thread;
        int e;

        if (!r)
                return error_origin(-ENOMEM);
        *r = (Reader){.event_fd = readers->event_fd, .fd = -1};
        priority_lock_init(&r->lock);
        (void)pthread_cond_init(&r->wake, NULL); /* cannot fail on Linux */
        list_init(&r->link);
        e = -pthread_attr_init(&attr);
        if (!e) {
                (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
                (void)pthread_attr_setstacksize(&attr, STACK_SIZE);
                e = -pthread_create(&thread, &attr, thread_main, r);
                (void)pthread_attr_destroy(&attr);
        }
        if (e) {
                reader_free(r);
                return error_origin(e);
        }
        readers->free = r;
        return 0;
}

int readers_init(Readers *readers, KeeperLoop *loop, const ReadersOps *ops)
{
        *readers = READERS_NULL;
        readers->ops = ops;
        readers->loop = loop;
        list_init(&readers->behind);
        readers->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (readers->event_fd < 0)
                return error_origin(-errno);
        return keeper_loop_add(loop, &readers->source, readers->event_fd, EPOLLIN, on_back);
}

bool readers_are_busy(const Readers *readers)
{
        return readers->busy != NULL;
}

int readers_read(Readers *readers, int fd, void *what, Reader **ret)
{
        Reader *r;
        int e = readers->free ? 0 : make(readers);

        if (e)
                return e;
        r = TAKE_PTR(readers->free);
        r->what = what;
        (void)pthread_mutex_lock(&r->lock);
        r->fd = fd;
        r->close = false;
        r->asked = true;
        (void)pthread_cond_signal(&r->wake);
        (void)pthread_mutex_unlock(&r->lock);
        readers->busy = *ret = r;
        readers->until = nsec_add(clock_now(), READER_SPAN);
        return 0;
}

void reader_forget(Reader *r)
{
        (void)pthread_mutex_lock(&r->lock);
        r->what = NULL;
        if (r->back)
                (void)fd_close(r->fd);
        else
                r->close = true;
        (void)pthread_mutex_unlock(&r->lock);
}

nsec_t readers_deadline(const Readers *readers)
{
        nsec_t deadline = readers->busy ? readers->until : NSEC_NEVER;
        Reader *r, *next;

        list_for_each(r, next, &readers->behind, link)
                if (!r->told)
                        deadline = MIN(deadline, nsec_add(r->since, READER_HUNG_SPAN));
        return deadline;
}

void readers_tick(Readers *readers, nsec_t now)
{
        Reader *r, *next;

        if (readers->busy && now >= readers->until && !is_held(readers->busy))
                readers->until = nsec_add(now, READER_SPAN);
        else if (readers->busy && now >= readers->until) {
                r = TAKE_PTR(readers->busy);
                r->since = now;
                r->told = r->what == NULL;
                list_append(&readers->behind, &r->link);
                if (r->what)
                        readers->ops->late(r->what);
        }
        list_for_each(r, next, &readers->behind, link) {
                if (r->told || now < nsec_add(r->since, READER_HUNG_SPAN))
                        continue;
                r->told = true;
                if (r->what)
                        readers->ops->hung(r->what);
        }
}

void readers_done(Readers *readers)
{
        Reader *r, *next;

        if (!readers->loop)
                return;
        keeper_loop_remove(readers->loop, &readers->source);
        if (readers->busy)
                list_append(&readers->behind, &readers->busy->link);
        list_for_each(r, next, &readers->behind, link) {
                list_unlink(&r->link);
                dismiss(r);
        }
        if (readers->free)
                dismiss(readers->free);
        readers->free = readers->busy = NULL;
        readers->event_fd = fd_close(readers->event_fd); /* whoever was dismissed does not use it */
        readers->loop = NULL;
}
