/* SPDX-License-Identifier: Apache-2.0 */
/* The report as JSON, and the process that writes it. */
#include "supervisor/why.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/utf8.h"
#include "supervisor/cgroup.h"

#define FREEZE_SPAN (300 * NSEC_PER_MSEC) /* until it stands still, */
#define FROZEN_SPAN (700 * NSEC_PER_MSEC) /* and from then on: whoever stops it meanwhile counts its grace */

/* Of text that others wrote. */
static void put_text(json_t *object, const char *key, const char *text)
{
        _cleanup_free_ char *clean = text[0] ? utf8_clean(text, strlen(text), NULL) : NULL;

        if (clean)
                (void)json_object_set_new(object, key, json_string(clean));
}

static void put_number(json_t *object, const char *key, uint64_t value)
{
        (void)json_object_set_new(object, key, json_integer((json_int_t)value));
}

static json_t *describe_target(const Why *why, const WhyThread *t)
{
        json_t *target = json_object();

        if (t->target_node >= 0)
                put_text(target, "node", why->nodes[t->target_node].id);
        if (t->target_pid > 0)
                put_number(target, "pid", (uint64_t)t->target_pid);
        if (t->target_tid > 0)
                put_number(target, "tid", (uint64_t)t->target_tid);
        put_text(target, "comm", t->target_comm);
        put_text(target, "object", t->object);
        if (json_object_size(target) == 0) {
                json_decref(target);
                return NULL;
        }
        return target;
}

static const char *policy_of(uint32_t policy)
{
        static const char *const names[] = {[SCHED_FIFO] = "fifo", [SCHED_RR] = "rr", [SCHED_BATCH] = "batch", [SCHED_IDLE] = "idle", [6] = "deadline"};

        return policy < ELEMENTSOF(names) && names[policy] ? names[policy] : "other";
}

static json_t *describe_frames(const Stack *stack)
{
        json_t *frames = json_array();

        for (size_t i = 0; i < stack->n; i++) {
                _cleanup_free_ char *clean = utf8_clean(stack->frames[i], strlen(stack->frames[i]), NULL);

                (void)json_array_append_new(frames, json_string(clean ? clean : "?"));
        }
        return frames;
}

static json_t *describe_thread(const Why *why, const WhyThread *t)
{
        json_t *thread = json_object(), *target = describe_target(why, t), *stack = json_array();
        const char *call = task_call_name(t->call.number);
        char state[2] = {t->task.state, '\0'};
        uint64_t held = t->sched.run + t->sched.wait;

        put_number(thread, "pid", (uint64_t)t->task.pid);
        put_number(thread, "tid", (uint64_t)t->task.tid);
        put_text(thread, "comm", t->task.comm);
        put_text(thread, "state", state);
        put_text(thread, "cause", blame_cause_to_string(t->cause));
        put_text(thread, "text", t->text);
        put_text(thread, "syscall", call ? call : "");
        put_text(thread, "wchan", t->task.wchan);
        if (t->task.fd >= 0)
                put_number(thread, "fd", (uint64_t)t->task.fd);
        put_text(thread, "fd_target", t->task.target);
        if (t->task.still_ns)
                put_number(thread, "still_ms", t->task.still_ns / NSEC_PER_MSEC);
        if (t->seen_twice) {
                put_number(thread, "run_us", t->sched.run / NSEC_PER_USEC);
                put_number(thread, "wait_us", t->sched.wait / NSEC_PER_USEC);
                put_number(thread, "blocked_us", (why->window - MIN(why->window, held)) / NSEC_PER_USEC);
                put_number(thread, "switches", t->switches);
        }
        put_text(thread, "policy", policy_of(t->stat.policy));
        if (target)
                (void)json_object_set_new(thread, "target", target);
        for (size_t i = 0; i < TASK_STACK_MAX && t->task.stack[i][0]; i++)
                (void)json_array_append_new(stack, json_string(t->task.stack[i]));
        if (json_array_size(stack))
                (void)json_object_set(thread, "stack", stack);
        for (size_t i = 0; i < why->n_stacks; i++)
                if (why->stacks[i].tid == t->task.tid && why->stacks[i].n)
                        (void)json_object_set_new(thread, "user_stack", describe_frames(&why->stacks[i]));
        json_decref(stack);
        return thread;
}

/* Those of the node, worst first; the one that is blamed is the first of them. */
static json_t *describe_threads(const Why *why, size_t told)
{
        json_t *threads = json_array();
        size_t n = 0;

        if (why->blamed >= 0 && why->threads[why->blamed].node == (int)why->target)
                n += json_array_append_new(threads, describe_thread(why, &why->threads[why->blamed])) == 0;
        for (int cause = _BLAME_CAUSE_MAX - 1; cause >= 0; cause--)
                for (size_t i = 0; i < why->n_own && n < told; i++)
                        if (why->threads[i].cause == (BlameCause)cause && (int)i != why->blamed)
                                n += json_array_append_new(threads, describe_thread(why, &why->threads[i])) == 0;
        return threads;
}

static json_t *describe_chain(const Why *why)
{
        json_t *chain = json_array(), *hop;
        int at = why->blamed;

        for (unsigned n = 0; at >= 0 && n < 8; n++) {
                const WhyThread *t = &why->threads[at];

                hop = json_object();
                put_text(hop, "node", why->nodes[t->node].id);
                put_number(hop, "pid", (uint64_t)t->task.pid);
                put_number(hop, "tid", (uint64_t)t->task.tid);
                put_text(hop, "comm", t->task.comm);
                put_text(hop, "cause", blame_cause_to_string(t->cause));
                put_text(hop, "text", t->text);
                put_text(hop, "object", t->object);
                (void)json_array_append_new(chain, hop);
                at = t->next;
                if (at == why->blamed)
                        break;
        }
        return chain;
}

static json_t *describe_group(const WhyGroup *before, const WhyGroup *now)
{
        json_t *group = json_object();

        if (now->has_cpu) {
                put_number(group, "throttled_us", now->throttled_us - MIN(now->throttled_us, before->throttled_us));
                put_number(group, "throttled_periods", now->n_throttled);
        }
        if (now->has_memory) {
                put_number(group, "memory", now->memory);
                put_number(group, "memory_high_events", now->high);
                put_number(group, "oom_kills", now->oom_kill);
        }
        (void)json_object_set_new(group, "frozen", json_boolean(now->frozen));
        return group;
}

json_t *why_report(const Why *why, size_t told)
{
        json_t *report = json_object(), *target = why->blamed >= 0 ? describe_target(why, &why->threads[why->blamed]) : NULL;

        put_text(report, "node", why->nodes[why->target].id);
        put_number(report, "generation", why->nodes[why->target].generation);
        put_text(report, "cause", blame_cause_to_string(why->cause));
        put_text(report, "text", why->text);
        if (target)
                (void)json_object_set_new(report, "target", target);
        (void)json_object_set_new(report, "chain", describe_chain(why));
        (void)json_object_set_new(report, "threads", describe_threads(why, told));
        put_number(report, "n_threads", why->n_own + why->n_uncounted);
        put_number(report, "at_ms", why->first_at / NSEC_PER_MSEC);
        put_number(report, "window_us", why->window / NSEC_PER_USEC);
        (void)json_object_set_new(report, "group", describe_group(&why->group_before, &why->group));
        (void)json_object_set_new(report, "deep", json_boolean(why->deep));
        (void)json_object_set_new(report, "was_frozen", json_boolean(why->was_frozen));
        put_text(report, "lost", why->lost);
        return report;
}

/* ---- the process */

/* With as many threads as there is room for: a node may give them long names that grow in JSON. NULL: memory is short. */
static char *report_text(const Why *why, size_t *ret_size)
{
        for (size_t told = WHY_TOLD_MAX;; told /= 2) {
                json_t *report = why_report(why, told);
                char *text = json_dumps(report, JSON_COMPACT);

                json_decref(report);
                *ret_size = text ? strlen(text) : 0;
                if (text && *ret_size + 1 <= WHY_REPORT_MAX)
                        return text;
                free(text);
                if (!text || told == 0)
                        return NULL;
        }
}

static bool write_report(const Why *why, int out_fd)
{
        size_t n, at = 0;
        _cleanup_free_ char *text = report_text(why, &n);
        ssize_t more;

        if (!text)
                return false;
        text[n] = '\n';
        while (at <= n && (more = write(out_fd, text + at, n + 1 - at)) > 0)
                at += (size_t)more;
        return at > n;
}

char *why_first_report(Why *why, size_t *ret_size)
{
        char *text;

        why->first_only = true;
        (void)snprintf(why->lost, sizeof(why->lost), "what takes more than one look: too many looks at nodes of this dataflow are under way, or hang");
        why_read_context(why);
        why_judge(why);
        text = report_text(why, ret_size);
        free(why->links);
        why->links = NULL;
        why->n_links = 0;
        json_decref(why->context);
        why->context = NULL;
        return text;
}

static bool can_see(const WhyThread *t)
{
        char text[256];

        return task_is_executing(&t->task) || why_slurp(t->task.pid, t->task.tid, "syscall", text, sizeof(text));
}

/* ---- standing still */

/*
 * What is frozen for a look must run again whatever becomes of those who look: a process of its own waits for the other end of a pipe to be
 * closed, or the deadline, and thaws. It holds @out_fd as well, so that no report is at its end before.
 */
static _Noreturn void be_thawer(nsec_t until, int freeze_fd, int pipe_fd)
{
        struct pollfd p = {.fd = pipe_fd, .events = POLLIN};
        nsec_t now;
        sigset_t all;

        (void)sigfillset(&all);
        (void)sigprocmask(SIG_BLOCK, &all, NULL); /* whoever ends us all asks politely first */
        while ((now = clock_now()) < until && poll(&p, 1, nsec_poll_ms(until, now)) == 0)
                ;
        (void)!write(freeze_fd, "0", 1);
        _exit(0);
}

/* The end of a pipe: closed, it runs again. -1: it does not stand still for us, and @why->lost says why. */
static int freeze(Why *why, pid_t *ret_thawer, nsec_t *ret_until)
{
        int dir_fd = why->nodes[why->target].dir_fd, ends[2];
        _cleanup_fd_ int fd = cgroup_open_file(dir_fd, "cgroup.freeze", O_RDWR);
        nsec_t until = MIN(why->until, nsec_add(clock_now(), FREEZE_SPAN));
        char text[8] = "";

        if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0 || text[0] == '1' || pipe2(ends, O_CLOEXEC) < 0) {
                if (text[0] != '1')
                        (void)snprintf(why->lost, sizeof(why->lost), "it cannot be frozen here: what was read may be of different moments");
                return -1;
        }
        *ret_until = MIN(why->until, nsec_add(clock_now(), FREEZE_SPAN + FROZEN_SPAN));
        *ret_thawer = fork();
        if (*ret_thawer == 0) {
                (void)close(ends[1]);
                be_thawer(*ret_until, fd, ends[0]);
        }
        (void)close(ends[0]);
        if (why->froze)
                __atomic_store_n(why->froze, 1, __ATOMIC_SEQ_CST);
        if (*ret_thawer < 0 || write(fd, "1", 1) != 1) {
                (void)close(ends[1]);
                return -1;
        }
        if (clock_now() >= *ret_until) { /* we came too late: it may have been thawed before that */
                (void)!write(fd, "0", 1);
                (void)close(ends[1]);
                return -1;
        }
        do {
                WhyGroup group;

                why_read_group(dir_fd, true, &group);
                why->was_frozen = group.frozen;
                (void)poll(NULL, 0, 1);
        } while (!why->was_frozen && clock_now() < until);
        if (!why->was_frozen)
                (void)snprintf(why->lost, sizeof(why->lost), "it did not stand still in time: somebody is in a call that nothing interrupts");
        return ends[1];
}

void why_child(Why *why, int out_fd)
{
        pid_t thawer = -1;
        nsec_t frozen_until = 0;
        int pipe_fd = -1;

        why->out_fd = out_fd;
        why_read_context(why);
        why_second(why);
        if (why->n_own && !can_see(&why->threads[0]))
                (void)snprintf(why->lost, sizeof(why->lost), "system calls: whoever looks may not trace that process (another user's, not dumpable, or on its way out)");
        for (size_t i = 0; i < why->n_own && !why->lost[0]; i++)
                if (why->threads[i].other_rights)
                        (void)snprintf(why->lost, sizeof(why->lost), "memory and descriptors of process %d, which has other rights than the dataflow's owner", why->threads[i].task.pid);
        why_judge(why);
        if (!write_report(why, out_fd))
                return;
        if (why->freeze)
                pipe_fd = freeze(why, &thawer, &frozen_until);
        why->deep = true;
        why_judge(why);
        if (pipe_fd >= 0)
                (void)close(pipe_fd);
        if (why->was_frozen && clock_now() >= frozen_until)
                (void)snprintf(why->lost, sizeof(why->lost), "it ran again before all of it was read, which may be of different moments");
        if (thawer > 0)
                (void)waitpid(thawer, NULL, 0);
        if (write_report(why, out_fd) && !why->brief) {
                why->daring = true;
                if (!why->was_frozen && why->blamed >= 0 && why->threads[why->blamed].task.state == 'D')
                        why_judge(why); /* now with the path that its call is about */
                why_read_stacks(why);
                (void)write_report(why, out_fd);
        }
        why_fds_done(why);
        free(why->links);
        json_decref(why->context);
}
