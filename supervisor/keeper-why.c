/* SPDX-License-Identifier: Apache-2.0 */
/*
 * WHY: a report on a node (supervisor/why.h). The first look is taken in a thread. The rest is done by a child that it forks, which may hang
 * with whom it looks at: it is killed at the deadline, and what it had written until then is the report. One that does not even die then is
 * left behind, and at most CHILDREN_MAX of those: beyond, there is only the first look.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "supervisor/cgroup.h"
#include "supervisor/keeper-internal.h"
#include "supervisor/why.h"

#define JOBS_MAX     8  /* under way */
#define CHILDREN_MAX 4  /* that would not die */
#define WHY_REPORTS_MAX (3 * (size_t)(WHY_REPORT_MAX + 1))
#define DEATH_SPAN   (50 * NSEC_PER_MSEC)
#define LAST_PROCESSES_MAX 32u /* of a dataflow: with more of them nobody is looked at who is to end soon */

typedef struct WhyJob {
        Job job;
        Keeper *keeper;
        KeeperMsg order;
        Why why;
        int error;
        char *report; /* JSON; NULL: there is none */
        size_t size;
} WhyJob;

/* Shared by the threads that look. */
static pthread_mutex_t left_lock = PTHREAD_MUTEX_INITIALIZER;
static pid_t left_behind[CHILDREN_MAX];

static void why_job_free(WhyJob *j)
{
        for (size_t i = 0; i < j->why.n_nodes; i++)
                j->why.nodes[i].dir_fd = fd_close(j->why.nodes[i].dir_fd);
        free(j->why.nodes);
        j->why.flow_fd = fd_close(j->why.flow_fd);
        j->why.context_fd = fd_close(j->why.context_fd);
        why_done(&j->why);
        free(j->report);
        free(j);
}

/* ---- the child */

/* A place for one that may not die: its index, or -1. Those that have died meanwhile are waited for first. */
static int find_place(Keeper *k)
{
        int place = -1;

        (void)pthread_mutex_lock(&left_lock);
        for (int i = 0; i < CHILDREN_MAX; i++) {
                if (left_behind[i] > 0 && waitpid(left_behind[i], NULL, WNOHANG) != 0) {
                        keeper_forked_ended(k, left_behind[i]); /* its number may be anybody's from now on */
                        left_behind[i] = 0;
                }
                if (left_behind[i] == 0 && place < 0)
                        place = i;
        }
        if (place >= 0)
                left_behind[place] = -1; /* taken */
        (void)pthread_mutex_unlock(&left_lock);
        return place;
}

static void leave_place(int place, pid_t pid)
{
        (void)pthread_mutex_lock(&left_lock);
        left_behind[place] = pid;
        (void)pthread_mutex_unlock(&left_lock);
}

/* Nothing of the keeper's may be held open by one that hangs: its end is told by the end of its descriptors. */
static int close_others(Why *why, int out_fd)
{
        unsigned keep[4 + 1] = {(unsigned)out_fd, (unsigned)why->flow_fd, (unsigned)why->context_fd, (unsigned)why->nodes[why->target].dir_fd};
        unsigned n = 4, from = 3;

        for (unsigned i = 0; i < n; i++)
                for (unsigned k = i + 1; k < n; k++)
                        if (keep[k] < keep[i]) {
                                unsigned other = keep[i];

                                keep[i] = keep[k];
                                keep[k] = other;
                        }
        for (unsigned i = 0; i < n; i++) {
                if (keep[i] > from && syscall(SYS_close_range, from, keep[i] - 1, 0) < 0)
                        return -errno;
                from = MAX(from, keep[i] + 1);
        }
        return syscall(SYS_close_range, from, ~0U, 0) < 0 ? -errno : 0;
}

/* Who parses what others made is not one whom the kernel spares when memory is short. */
static void forgo_oom_score(void)
{
        _cleanup_fd_ int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

        if (fd >= 0)
                (void)!write(fd, "0", 1);
}

static _Noreturn void be_child(Why *why, KeeperHaste haste, pid_t parent, int out_fd, bool reset_oom)
{
        sigset_t none;

        (void)sigemptyset(&none);
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)prctl(PR_SET_DUMPABLE, 0);
        (void)signal(SIGPIPE, SIG_IGN);
        if (reset_oom)
                forgo_oom_score();
        if (haste != KEEPER_HASTE_NONE)
                (void)setpriority(PRIO_PROCESS, 0, haste == KEEPER_HASTE_LAST ? 19 : 15);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        if (getppid() == parent && close_others(why, out_fd) == 0)
                why_child(why, out_fd);
        _exit(0);
}

/* The last whole line of what comes until the end, or the deadline. */
static void collect(WhyJob *j, int fd)
{
        _cleanup_free_ char *buffer = malloc(WHY_REPORTS_MAX);
        size_t n = 0, begin = 0, last = 0, last_size = 0;

        while (buffer && n < WHY_REPORTS_MAX) {
                struct pollfd p = {.fd = fd, .events = POLLIN};
                nsec_t now = clock_now();
                ssize_t more;

                if (now >= j->why.until || poll(&p, 1, nsec_poll_ms(j->why.until, now)) <= 0)
                        break;
                more = read(fd, buffer + n, WHY_REPORTS_MAX - n);
                if (more <= 0)
                        break;
                for (size_t i = n; i < n + (size_t)more; i++)
                        if (buffer[i] == '\n') {
                                last = begin;
                                last_size = i - begin;
                                begin = i + 1;
                        }
                n += (size_t)more;
        }
        if (last_size && last_size <= WHY_REPORT_MAX && (j->report = malloc(last_size))) {
                memcpy(j->report, buffer + last, last_size);
                j->size = last_size;
        }
}

/* True: it is waited for. */
static bool end_child(pid_t pid)
{
        nsec_t until = nsec_add(clock_now(), DEATH_SPAN);
        _cleanup_fd_ int pidfd = (int)syscall(SYS_pidfd_open, pid, 0); /* a child that is not waited for: nobody else has its number */

        if (pidfd >= 0)
                (void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0); /* else it dies with this thread */
        for (;;) {
                if (waitpid(pid, NULL, WNOHANG) != 0)
                        return true;
                if (clock_now() >= until)
                        return false;
                (void)poll(NULL, 0, 1);
        }
}

/* ---- standing still */

typedef struct Freezer { /* of who may be frozen for the look: the last one who can thaw it does */
        int fd;         /* its file; -1: nobody freezes it */
        uint8_t *froze; /* shared with the child: whether it is ours */
} Freezer;

static Freezer freezer_open(Why *why)
{
        Freezer f = {.fd = why->freeze ? cgroup_open_file(why->nodes[why->target].dir_fd, "cgroup.freeze", O_WRONLY) : -1};

        if (f.fd < 0)
                return f;
        f.froze = mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (f.froze == MAP_FAILED) { /* then it is looked at while it runs */
                f.froze = NULL;
                f.fd = fd_close(f.fd);
                why->freeze = false;
        }
        why->froze = f.froze;
        return f;
}

/* Also when whoever was to do it has been killed, with whom it did it for. What somebody else has frozen meanwhile stays so. */
static void freezer_done(Freezer *f)
{
        if (f->froze && __atomic_load_n(f->froze, __ATOMIC_SEQ_CST))
                (void)!write(f->fd, "0", 1);
        if (f->froze)
                (void)munmap(f->froze, 1);
        f->fd = fd_close(f->fd);
}

/* What there is when nobody can be forked for the rest. */
static void report_first(WhyJob *j)
{
        j->report = why_first_report(&j->why, &j->size);
        if (j->report)
                j->error = 0;
}

static int count_process(pid_t pid, void *userdata)
{
        unsigned *n = userdata;

        (void)pid;
        return ++*n > LAST_PROCESSES_MAX ? -E2BIG : 0;
}

static int count_cgroup(int dir_fd, void *userdata)
{
        return cgroup_each_process(dir_fd, count_process, userdata);
}

/* The dataflow has no more processes than those who end it can spare the time for; with those of ours that are in its nodes' cgroups. */
static bool has_few(const Why *why)
{
        unsigned n = 0;
        int r = 0;

        for (size_t i = 0; i < why->n_nodes && r != -E2BIG; i++)
                r = cgroup_walk(why->nodes[i].dir_fd, count_cgroup, &n);
        return r != -E2BIG;
}

static void run_why(Job *job)
{
        WhyJob *j = container_of(job, WhyJob, job);
        pid_t pid, own = getpid();
        Freezer freezer;
        int ends[2], place;

        j->error = j->order.why.haste == KEEPER_HASTE_LAST && !has_few(&j->why) ? E2BIG : -why_first(&j->why);
        if (j->error)
                return;
        for (size_t i = 0; i < j->why.n_threads; i++)
                look_compare(&j->why.threads[i].task);
        place = find_place(j->keeper);
        if (place < 0 || pipe2(ends, O_CLOEXEC) < 0) {
                j->error = place < 0 ? EBUSY : errno;
                if (place >= 0)
                        leave_place(place, 0);
                report_first(j);
                return;
        }
        freezer = freezer_open(&j->why);
        pid = keeper_fork(j->keeper);
        if (pid == 0)
                be_child(&j->why, j->order.why.haste, own, ends[1], j->keeper->reset_oom);
        (void)close(ends[1]);
        if (pid < 0)
                j->error = errno;
        else
                collect(j, ends[0]);
        (void)close(ends[0]);
        if (pid > 0 && end_child(pid)) {
                keeper_forked_ended(j->keeper, pid);
                pid = 0;
        }
        leave_place(place, MAX(pid, 0));
        freezer_done(&freezer);
        if (pid < 0)
                report_first(j);
        else if (!j->report)
                j->error = ETIMEDOUT;
}

/* ---- order and answer */

static void answer(Keeper *k, const KeeperMsg *order, int error, size_t size, int take_fd)
{
        keeper_report(k, &(KeeperMsg){.type = KEEPER_MSG_WHY_SAID, .node = order->node, .generation = order->generation,
                .why_said = {.asked = order->why.asked, .error = error, .size = (uint32_t)size}}, take_fd);
}

static int in_memory(const char *text, size_t size)
{
        int fd = memfd_create("why", MFD_CLOEXEC);

        if (fd >= 0 && pwrite(fd, text, size, 0) != (ssize_t)size)
                fd = fd_close(fd);
        return fd;
}

static void on_why(Job *job)
{
        WhyJob *j = container_of(job, WhyJob, job);
        int fd = j->report ? in_memory(j->report, j->size) : -1;

        j->keeper->n_whys--;
        j->keeper->n_freezing -= j->order.why.freeze;
        answer(j->keeper, &j->order, fd >= 0 ? 0 : j->error ? j->error : ENOMEM, fd >= 0 ? j->size : 0, fd);
        if (j->order.why.freeze)
                watches_frozen(j->keeper);
        why_job_free(j);
}

/* Every life that runs, with the one that is asked about. False: memory or descriptors are short. */
static bool take_nodes(WhyJob *j, const Incarnation *about)
{
        Keeper *k = j->keeper;
        Incarnation *inc, *next;
        size_t n = 0;

        list_for_each(inc, next, &k->incarnations, link)
                n++;
        j->why.nodes = calloc(n, sizeof(*j->why.nodes));
        if (!j->why.nodes)
                return false;
        list_for_each(inc, next, &k->incarnations, link) {
                WhyNode *node = &j->why.nodes[j->why.n_nodes];

                if (inc->over || inc->job || inc->cgroup_fd < 0)
                        continue;
                *node = (WhyNode){.node = inc->entry->node, .generation = inc->generation, .leader = inc->exited ? 0 : inc->pid, .reaper = inc->reaper_ended ? 0 : inc->reaper.pid};
                (void)snprintf(node->id, sizeof(node->id), "%s", inc->entry->id);
                node->dir_fd = fcntl(inc->cgroup_fd, F_DUPFD_CLOEXEC, 3);
                if (node->dir_fd < 0)
                        return false;
                if (inc == about)
                        j->why.target = j->why.n_nodes;
                j->why.n_nodes++;
        }
        return true;
}

void keeper_why(Keeper *k, const KeeperMsg *msg, int *fds)
{
        Incarnation *inc = incarnation_find(k, msg->node, msg->generation);
        WhyJob *j;

        if (!inc || inc->over || inc->job || inc->cgroup_fd < 0) {
                answer(k, msg, ESRCH, 0, -1);
                return;
        }
        if (msg->why.freeze && k->n_freezes > 0) { /* what is not frozen yet would be taken for ours, and run again afterwards */
                answer(k, msg, EAGAIN, 0, -1);
                return;
        }
        j = k->n_whys < JOBS_MAX ? calloc(1, sizeof(*j)) : NULL;
        if (!j) {
                answer(k, msg, EAGAIN, 0, -1);
                return;
        }
        j->keeper = k;
        j->order = *msg;
        j->why.until = MIN(msg->why.deadline_ns, nsec_add(clock_now(), WHY_SPAN_MAX));
        j->why.freeze = msg->why.freeze;
        j->why.brief = msg->why.haste != KEEPER_HASTE_NONE;
        j->why.uid = k->uid;
        j->why.gid = k->gid;
        j->why.context_fd = TAKE_FD(fds[0]);
        j->why.flow_fd = fcntl(k->dataflow_fd, F_DUPFD_CLOEXEC, 3);
        j->job.run = run_why;
        j->job.on_done = on_why;
        k->n_whys++;
        k->n_freezing += msg->why.freeze;
        if (j->why.flow_fd < 0 || !take_nodes(j, inc) || jobs_submit(&k->jobs, &j->job, JOB_WORK)) {
                k->n_whys--;
                k->n_freezing -= msg->why.freeze;
                answer(k, msg, EAGAIN, 0, -1);
                why_job_free(j);
        }
}
