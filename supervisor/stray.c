/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/stray.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/procstat.h"
#include "supervisor/cgroup.h"

#define NO_HOME     SIZE_MAX
#define PARENTS_MAX 128 /* generations that are followed upwards */
#define ENDS_MS     100 /* from its leaving its cgroup to its end: microseconds, but for its CPU */
#define EXECUTES_SPAN (200 * NSEC_PER_MSEC)

typedef struct Proc {
        pid_t pid, parent, session;
        uint64_t start_time; /* 0: not read yet, or it is in the middle of execve() */
        size_t home;
        bool member; /* it is where it belongs */
        char state;
} Proc;

typedef struct Table {
        Proc *procs; /* by pid */
        size_t n, capacity;
} Table;

/* Not stat, which waits for one that hangs in execve() (base/procstat.h): anybody on the host may have such a one. */
static int read_proc(pid_t pid, Proc *ret)
{
        char path[64], text[1024];
        const char *state, *parent;
        int r;

        (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
        r = procfs_read(path, text, sizeof(text));
        if (r)
                return r;
        state = strstr(text, "\nState:\t"); /* a name holds no line feed here */
        parent = strstr(text, "\nPPid:\t");
        *ret = (Proc){.pid = pid, .home = NO_HOME, .session = getsid(pid)};
        if (!state || !parent || sscanf(state, " State: %c", &ret->state) != 1 || sscanf(parent, " PPid: %d", &ret->parent) != 1)
                return -EBADMSG;
        return ret->session < 0 ? -errno : 0;
}

/* When it began, which is asked of those alone who are ours. */
static int read_start(Proc *proc)
{
        ProcStat stat;
        int r = proc->start_time ? 0 : procstat_read(&stat, proc->pid);

        if (!r && !proc->start_time)
                proc->start_time = stat.start_time;
        return r == -EBUSY ? 0 : r;
}

/* After its pidfd was opened: is that who it was? Of one in the middle of execve() that is told by who else it belongs to. */
static bool is_who_it_was(const Proc *proc)
{
        ProcStat stat;
        Proc again;
        int r = procstat_read(&stat, proc->pid);

        if (r && r != -EBUSY)
                return false;
        if (r == 0 && proc->start_time)
                return stat.start_time == proc->start_time;
        return read_proc(proc->pid, &again) == 0 && again.session == proc->session && again.parent == proc->parent;
}

static int compare_pids(const void *a, const void *b)
{
        const Proc *x = a, *y = b;

        return (x->pid > y->pid) - (x->pid < y->pid);
}

static Proc *find(const Table *table, pid_t pid)
{
        Proc key = {.pid = pid};

        return bsearch(&key, table->procs, table->n, sizeof(key), compare_pids);
}

static int read_all(Table *table)
{
        DIR *dir = opendir("/proc");
        const struct dirent *e;

        if (!dir)
                return -errno;
        while ((e = readdir(dir))) {
                long pid = strtol(e->d_name, NULL, 10);

                if (pid <= 0)
                        continue;
                if (table->n == table->capacity) {
                        size_t more = MAX(2 * table->capacity, (size_t)256);
                        Proc *procs = reallocarray(table->procs, more, sizeof(*procs));

                        if (!procs) {
                                (void)closedir(dir);
                                return -ENOMEM;
                        }
                        table->procs = procs;
                        table->capacity = more;
                }
                table->n += read_proc((pid_t)pid, &table->procs[table->n]) == 0; /* else it is gone */
        }
        (void)closedir(dir);
        qsort(table->procs, table->n, sizeof(*table->procs), compare_pids);
        return 0;
}

/* ---- who belongs to whom */

typedef struct Members {
        const Table *table;
        size_t home;
} Members;

static int mark_member(pid_t pid, void *userdata)
{
        const Members *members = userdata;
        Proc *proc = find(members->table, pid);

        if (proc) {
                proc->member = true;
                proc->home = members->home;
        }
        return 0;
}

static int mark_members(int dir_fd, void *userdata)
{
        (void)cgroup_each_process(dir_fd, mark_member, userdata); /* who is not marked is looked at itself */
        return 0;
}

static int compare_leaders(const void *a, const void *b)
{
        const StrayHome *const *x = a, *const *y = b;

        return ((*x)->leader > (*y)->leader) - ((*x)->leader < (*y)->leader);
}

/* A number that was given again is another's. */
static bool is_recycled(const Table *table, const StrayHome *home)
{
        return !home->leader_held && find(table, home->leader);
}

static int mark_sessions(const Table *table, const StrayHome *homes, size_t n_homes)
{
        const StrayHome **sorted = calloc(n_homes, sizeof(*sorted));

        if (!sorted)
                return -ENOMEM;
        for (size_t i = 0; i < n_homes; i++)
                sorted[i] = &homes[i];
        qsort(sorted, n_homes, sizeof(*sorted), compare_leaders);
        for (size_t i = 0; i < table->n; i++) {
                Proc *proc = &table->procs[i];
                const StrayHome key = {.leader = proc->session}, *key_at = &key, **at;

                if (proc->home != NO_HOME || proc->session <= 0)
                        continue;
                at = bsearch(&key_at, sorted, n_homes, sizeof(*sorted), compare_leaders);
                if (at && !is_recycled(table, *at))
                        proc->home = (size_t)(*at - homes);
        }
        free(sorted);
        return 0;
}

/* Did each begin before who has it as its parent? Else its number was given again while we read. */
static bool is_line(const Table *table, Proc *proc, const Proc *first)
{
        while (proc != first) {
                Proc *parent = find(table, proc->parent);

                if (read_start(proc) || read_start(parent) || (proc->start_time && parent->start_time > proc->start_time))
                        return false;
                proc = parent;
        }
        return true;
}

static size_t home_of_parents(const Table *table, const StrayHome *homes, Proc *proc)
{
        const Proc *at = proc;

        for (unsigned i = 0; i < PARENTS_MAX && at->parent > 1; i++) {
                const Proc *parent = find(table, at->parent);

                if (!parent)
                        return NO_HOME;
                if (parent->home != NO_HOME)
                        return homes[parent->home].by_parent && is_line(table, proc, parent) ? parent->home : NO_HOME;
                at = parent;
        }
        return NO_HOME;
}

/* ---- where it is */

/* Of the directory that @path names up to @length. */
static int device_of(char *path, size_t length, dev_t *ret)
{
        char kept = path[length];
        struct stat st;
        int r;

        path[length] = '\0';
        r = stat(path, &st) < 0 ? -errno : 0;
        path[length] = kept;
        if (!r)
                *ret = st.st_dev;
        return r;
}

/* On the way up, the mount point is the first whose parent is of another file system. */
int stray_place(int dir_fd, char **ret)
{
        char link[64], path[PATH_MAX];
        dev_t device, above;
        size_t at;
        ssize_t n;
        int r;

        (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", dir_fd);
        n = readlink(link, path, sizeof(path) - 1);
        if (n < 0)
                return error_origin(-errno);
        path[n] = '\0';
        r = device_of(path, (size_t)n, &device);
        for (at = (size_t)n; !r && at > 0;) {
                size_t slash = at - 1;

                while (slash > 0 && path[slash] != '/')
                        slash--;
                r = device_of(path, MAX(slash, (size_t)1), &above);
                if (!r && above != device)
                        break;
                at = slash;
        }
        if (r)
                return error_origin(r);
        *ret = strdup(path[at] ? path + at : "/");
        return *ret ? 0 : error_origin(-ENOMEM);
}

/* A cgroup is removed only when everybody in it is about to end; but one that lives may have made one whose name ends like that. */
static bool ends_now(int pidfd)
{
        struct pollfd pfd = {.fd = pidfd, .events = POLLIN};

        return poll(&pfd, 1, ENDS_MS) == 1;
}

/* All of the path counts, for whoever may make cgroups somewhere can name them as ours are named. */
static bool is_at(const char *path, const char *place, int pidfd)
{
        size_t n = strlen(place);

        if (strncmp(path, place, n) != 0)
                return false;
        return path[n] == '\0' || path[n] == '/' || (strcmp(path + n, " (deleted)") == 0 && ends_now(pidfd));
}

/* Sets where it is. False: where it belongs, or gone, or it cannot be told. */
static bool is_elsewhere(const Proc *proc, const char *place, int pidfd, char *ret_to, size_t size)
{
        char path[64], text[2 * PATH_MAX];
        char *line;

        (void)snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)proc->pid);
        if (procfs_read(path, text, sizeof(text)))
                return false;
        line = strncmp(text, "0::", 3) == 0 ? text : strstr(text, "\n0::");
        if (!line)
                return false;
        line += *line == '\n' ? 4 : 3;
        line[strcspn(line, "\n")] = '\0';
        if (is_at(line, place, pidfd))
                return false;
        (void)snprintf(ret_to, size, "%s", line);
        return true;
}

static void read_name(pid_t pid, char *ret, size_t size)
{
        char path[64];

        (void)snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
        if (procfs_read(path, ret, size))
                ret[0] = '\0';
        if (ret[0] && ret[strlen(ret) - 1] == '\n')
                ret[strlen(ret) - 1] = '\0';
}

static bool take(Proc *proc, const char *place, Stray *ret)
{
        *ret = (Stray){.home = proc->home, .pid = proc->pid, .pidfd = -1};
        if (read_start(proc))
                return false;
        ret->start_time = proc->start_time;
        ret->pidfd = (int)syscall(SYS_pidfd_open, proc->pid, 0);
        if (ret->pidfd < 0)
                return false;
        read_name(proc->pid, ret->comm, sizeof(ret->comm));
        /* What is read from here on is of the process that the pidfd holds, if it began when that one did. */
        if (is_elsewhere(proc, place, ret->pidfd, ret->to, sizeof(ret->to)) && is_who_it_was(proc))
                return true;
        ret->pidfd = fd_close(ret->pidfd);
        return false;
}

/* Who leaves often executes a program right then, which is over soon; only one that hangs in there stays unknown. */
static int read_start_soon(Proc *proc)
{
        nsec_t until = nsec_add(clock_now(), EXECUTES_SPAN);
        int r;

        while ((r = read_start(proc)) == 0 && proc->start_time == 0 && clock_now() < until)
                (void)poll(NULL, 0, 1);
        return r;
}

bool stray_take(pid_t pid, uint64_t start_ns, const char *place, Stray *ret)
{
        Proc proc;

        if (read_proc(pid, &proc) || proc.state == 'Z' || proc.state == 'X' || read_start_soon(&proc) ||
                proc.start_time != start_ns / (NSEC_PER_SEC / (uint64_t)sysconf(_SC_CLK_TCK)))
                return false;
        proc.home = 0;
        return take(&proc, place, ret);
}

int strays_find(const StrayHome *homes, size_t n_homes, Stray *ret, size_t max)
{
        Table table = {};
        size_t n = 0;
        int r = read_all(&table);

        for (size_t i = 0; !r && i < n_homes; i++) {
                Members members = {&table, i};

                if (homes[i].cgroup_fd >= 0)
                        (void)cgroup_walk(homes[i].cgroup_fd, mark_members, &members); /* likewise */
        }
        if (!r)
                r = mark_sessions(&table, homes, n_homes);
        for (size_t i = 0; !r && i < table.n; i++)
                if (table.procs[i].home == NO_HOME)
                        table.procs[i].home = home_of_parents(&table, homes, &table.procs[i]);
        for (size_t i = 0; !r && i < table.n && n < max; i++) {
                Proc *proc = &table.procs[i];

                if (proc->home != NO_HOME && !proc->member && proc->state != 'Z' && proc->state != 'X')
                        n += take(proc, homes[proc->home].place, &ret[n]);
        }
        free(table.procs);
        return r ? error_origin(r) : (int)n;
}
