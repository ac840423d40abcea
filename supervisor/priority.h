/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a daemon's guard and supervisor get CPU and memory when its nodes use all there is, as far as they may (root).
 *
 * They decide and enforce, at a real-time priority: what others can make them do for that is bounded (loop.h: the clients' share). A
 * keeper does not run so, for what a node prints is work for its keeper, and nobody gets more of the CPU by printing; when it
 * is late the guard's enforcers are not. Only for the turn in which it tells how a node ended, and one beside it, it is as prompt as its
 * supervisor, and reads nothing that nodes print. Nodes and loggers have nothing of all this.
 *
 * A private instance (`tidegate run`) keeps its caller's priority, for itself and for its nodes.
 */
#ifndef TG_SUPERVISOR_PRIORITY_H
#define TG_SUPERVISOR_PRIORITY_H

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>

/* priority_guard() - prompt, and the last to be killed for want of memory. What it forks is so too, until it says otherwise. */
void priority_guard(void);

/*
 * priority_supervisor() - the guard goes before it. Whoever runs so and does not sleep for PRIORITY_SPAN_US, which no work takes that
 * has been seen, has gone astray, and must not take the CPU from those who could help: it is an ordinary process from that moment on. Called
 * again, it sleeps for a millisecond, and is prompt again
 */
void priority_supervisor(void);

/* priority_leave_supervisor() - it becomes something else by execve(2): what it starts must not inherit a limit that ends who runs at a real-time priority. */
void priority_leave_supervisor(void);

/* priority_was_lost() - in that way, and priority_supervisor() was not called since. PRIORITY_LOST, which is blocked, was raised then. */
bool priority_was_lost(void);

#define PRIORITY_SPAN_US 300000
#define PRIORITY_LOST    SIGUSR2

/* priority_leave_signal() - takes the signal by which the kernel tells of that out of what is blocked, or read from a descriptor, by whoever is watched. */
void priority_leave_signal(sigset_t *set);

/* priority_keeper() - began prompt, and is an ordinary process from here on, of the nice value that the daemon was given. */
void priority_keeper(void);

/* priority_is_prompt() - at a real-time priority now. */
bool priority_is_prompt(void);

/*
 * priority_hurry() - a supervisor has seen that a node's first process ended: the keeper, which knows how, gets the CPU for it at once, and no
 * thread or process that it makes meanwhile.
 */
void priority_hurry(pid_t keeper);

/*
 * priority_turn() - a keeper has ended a turn of its loop: an ordinary process again, once it had a whole turn in a hurry. What nodes print waits
 * meanwhile
 * @hurried: what the last call returned; at first false
 */
bool priority_turn(bool hurried);

/* priority_lock_init() - a lock whose holder has the priority of whoever waits for it: a keeper in a hurry waits for no thread of its own that has
 * to wait for a CPU. */
void priority_lock_init(pthread_mutex_t *lock);

/*
 * priority_lock_memory() - what is in memory stays there, for a disk may hang
 * @whole: and the rest of the program is read in now, which takes milliseconds
 */
void priority_lock_memory(bool whole);

#endif
