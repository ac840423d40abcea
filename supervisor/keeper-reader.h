/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads pipes that somebody else may hold up.
 *
 * Whoever writes to a pipe from a page that does not come (of a file system that hangs, or of a userfaultfd) keeps the pipe's mutex meanwhile,
 * and a read() of it then sleeps in the kernel, O_NONBLOCK or not, and cannot be killed. So a thread reads for the loop, one pipe at a time.
 * One that sleeps uninterruptibly after READER_SPAN is left behind with its pipe, and another thread reads the others. What it brings when it
 * comes back after all is delivered as ever.
 *
 * Every function is called by the loop's thread.
 */
#ifndef TG_SUPERVISOR_KEEPER_READER_H
#define TG_SUPERVISOR_KEEPER_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/list.h"
#include "supervisor/keeper-loop.h"

#define READER_SIZE (16 * 1024)           /* of one read(); may be as many empty lines */
#define READER_SPAN (200 * NSEC_PER_MSEC)
#define READER_HUNG_SPAN (2 * NSEC_PER_SEC)

typedef struct Reader Reader; /* a thread, and what it reads */

/* From the loop. @what: whose pipe it is. */
typedef struct ReadersOps {
        void (*done)(void *what, const char *data, ssize_t n); /* n as of read(); a negative errno */
        void (*late)(void *what);                              /* its thread is left behind: done() may still follow */
        void (*hung)(void *what);                              /* and has not come back for READER_HUNG_SPAN, which somebody should hear of */
} ReadersOps;

typedef struct Readers {
        const ReadersOps *ops;
        KeeperLoop *loop;
        int event_fd; /* a thread is back */
        KeeperSource source;
        Reader *free;   /* without anything to read; NULL: none was made, or it is at work */
        Reader *busy;   /* the one that is waited for; NULL: none */
        nsec_t until; /* and how long */
        List behind;  /* Reader */
} Readers;

#define READERS_NULL ((Readers){.event_fd = -1, .source = KEEPER_SOURCE_INIT, .until = NSEC_NEVER})

int readers_init(Readers *readers, KeeperLoop *loop, const ReadersOps *ops); /* no thread yet. 0 or -errno */

/* readers_are_busy() - one is at work: nothing can be asked for now. */
bool readers_are_busy(const Readers *readers);

/**
 * readers_read() - have READER_SIZE bytes of @fd read
 * @fd: stays the caller's, and open, until done() was called or reader_forget() took it
 * @ret: what stands for it, until done() was called for @what or reader_forget() here
 *
 * Not while one is at work. Return: 0, or a negative errno when there is no thread for it.
 */
int readers_read(Readers *readers, int fd, void *what, Reader **ret);

/* reader_forget() - nobody wants to know any more. Takes the descriptor, which is closed when the thread is back. */
void reader_forget(Reader *reader);

nsec_t readers_deadline(const Readers *readers); /* when readers_tick() wants to be called; NSEC_NEVER */
void readers_tick(Readers *readers, nsec_t now);
void readers_done(Readers *readers); /* whoever is left behind stays there */

#endif
