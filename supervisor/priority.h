/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a daemon's guard and supervisor get CPU and memory when its nodes use all there is, as far as they may (root).
 *
 * They decide and enforce, at a real-time priority: what others can make them do for that is bounded (loop.h: the clients' share). A
 * keeper does not run so, for what a node prints is work for its keeper, and nobody gets more of the CPU by printing; when it
 * is late the guard's enforcers are not. Nodes and loggers have nothing of all this.
 *
 * A private instance (`tidegate run`) keeps its caller's priority, for itself and for its nodes.
 */
#ifndef TG_SUPERVISOR_PRIORITY_H
#define TG_SUPERVISOR_PRIORITY_H

/* priority_guard() - prompt, and the last to be killed for want of memory. What it forks is so too, until it says otherwise. */
void priority_guard(void);

/* priority_supervisor() - the guard goes before it. */
void priority_supervisor(void);

/* priority_keeper() - began prompt, and is an ordinary process from here on, of the nice value that the daemon was given. */
void priority_keeper(void);

/* priority_lock_memory() - neither data nor program has to be read from a disk any more. The disk may hang. */
void priority_lock_memory(void);

#endif
