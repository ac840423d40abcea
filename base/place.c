/* SPDX-License-Identifier: Apache-2.0 */
#include "base/place.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"

#define CGROUP2_MAGIC 0x63677270
#define REAPER        "reaper"
#define LISTING_SIZE  4096
#define TABLE_FIRST   4096 /* processes of the host that find room at first */
#define LOOKS_MAX     8       /* for more that run, before those that were found are killed */
#define END_STEP_FIRST (10 * NSEC_PER_MSEC) /* what the killed get to die */
#define END_STEP_MAX   (100 * NSEC_PER_MSEC)
#define DEPTH_MAX     (1u << 20) /* of a chain of parents; more is a loop, which a list of more than a moment can have */

bool place_is_cgroup(int dir_fd)
{
        struct statfs fs;

        return fstatfs(dir_fd, &fs) == 0 && fs.f_type == CGROUP2_MAGIC;
}

/* ---- the root */

static int is_ours(const char *path)
{
        struct stat st;

        if (lstat(path, &st) < 0)
                return -errno;
        return S_ISDIR(st.st_mode) && st.st_uid == geteuid() ? 0 : -EPERM;
}

static int root_at(const char *path, bool make)
{
        if (make && mkdir(path, 0700) < 0 && errno != EEXIST)
                return -errno;
        return is_ours(path);
}

static int root_find(char ret_path[static PATH_MAX], bool make)
{
        const char *runtime = getenv("XDG_RUNTIME_DIR");
        int r;

        if (geteuid() == 0)
                (void)snprintf(ret_path, PATH_MAX, "/run/" PLACE_ROOT_NAME);
        else
                (void)snprintf(ret_path, PATH_MAX, "%.3000s/" PLACE_ROOT_NAME, runtime ? runtime : "");
        r = ret_path[0] == '/' && ret_path[1] != '\0' ? root_at(ret_path, make) : -ENOENT;
        if (r == 0 || r == -EPERM)
                return r;
        (void)snprintf(ret_path, PATH_MAX, "/tmp/" PLACE_ROOT_NAME "-%u", (unsigned)geteuid());
        return root_at(ret_path, make);
}

int place_root_make(char ret_path[static PATH_MAX])
{
        return root_find(ret_path, true);
}

int place_root_find(char ret_path[static PATH_MAX])
{
        return root_find(ret_path, false);
}

bool place_is_below(const char *path)
{
        static const char *const ends[] = {".pidns", ".pid1", ".subreaper"};

        for (size_t i = 0; i < ELEMENTSOF(ends); i++) {
                const char *at = strstr(path, ends[i]);

                if (at && (at[strlen(ends[i])] == '/' || !at[strlen(ends[i])]) && strstr(path, "/tidegate/"))
                        return true;
        }
        return false;
}

/* ---- files of /proc/PID, without stdio */

typedef struct Facts {
        pid_t pid, ppid;
        char state;
        bool dead;         /* all of it: the first thread may be dead and others live */
        uint64_t identity; /* of this process for as long as it lives and nobody wants the memory back in which procfs knows it; of no other, ever */
} Facts;

static uint64_t number(const char **at)
{
        uint64_t n = 0;

        while (**at == ' ' || **at == '-')
                (*at)++;
        while (**at >= '0' && **at <= '9')
                n = n * 10 + (uint64_t)(*(*at)++ - '0');
        return n;
}

static const char *decimal(char *end, uint64_t n)
{
        *--end = '\0';
        do
                *--end = (char)('0' + n % 10);
        while (n /= 10);
        return end;
}

/* A file of @pid's into @buf, as a string. @proc_fd: of /proc. @ret_identity may be NULL. */
static int read_file(int proc_fd, pid_t pid, const char *name, char *buf, size_t size, uint64_t *ret_identity)
{
        char path[48], digits[24];
        const char *text = decimal(digits + sizeof(digits), (uint64_t)pid);
        size_t n_text = strlen(text);
        _cleanup_fd_ int fd = -1;
        struct stat st;
        ssize_t n;

        memcpy(path, text, n_text);
        memcpy(path + n_text, name, strlen(name) + 1);
        fd = openat(proc_fd, path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        n = read(fd, buf, size - 1);
        if (n <= 0)
                return n < 0 ? -errno : -ESRCH;
        buf[n] = '\0';
        if (ret_identity && fstat(fd, &st) < 0)
                return -errno;
        if (ret_identity)
                *ret_identity = st.st_ino;
        return 0;
}

/* Behind "\nKey:\t"; the name in the first line cannot forge it, its newlines are escaped. */
static const char *value_of(const char *status, const char *key)
{
        const char *at = strstr(status, key);

        return at ? at + strlen(key) : "";
}

/* Fields 4 and on of stat: one of them. 0: there is none. */
static uint64_t stat_field(const char *stat, int field)
{
        const char *at = strrchr(stat, ')'); /* the name before it may hold anything */

        if (!at || at[1] != ' ' || !at[2])
                return 0;
        at += 3;
        for (int i = 4; i < field; i++)
                (void)number(&at);
        return number(&at);
}

/*
 * Not from stat, which waits for one that hangs in execve() (base/procstat.h): anybody on the host may have such a one, and then no look would ever end.
 * Who has exited is not in there any more.
 */
static int read_facts(int proc_fd, pid_t pid, Facts *ret)
{
        char buf[1024]; /* what is wanted stands at the beginning, before what may be long */
        const char *parent;
        int r;

        *ret = (Facts){.pid = pid};
        r = read_file(proc_fd, pid, "/status", buf, sizeof(buf), &ret->identity);
        if (r)
                return r;
        parent = value_of(buf, "\nPPid:\t");
        ret->state = *value_of(buf, "\nState:\t");
        if (!ret->state || !*parent)
                return -EBADMSG;
        ret->ppid = (pid_t)number(&parent);
        ret->dead = ret->state == 'X';
        if (ret->state == 'Z') {
                const char *threads = value_of(buf, "\nThreads:\t"); /* no memory is told of before it, but it may be of many groups */

                if (*threads)
                        ret->dead = number(&threads) <= 1;
                else {
                        r = read_file(proc_fd, pid, "/stat", buf, sizeof(buf), NULL);
                        ret->dead = !r && stat_field(buf, 20) <= 1;
                }
        }
        return r;
}

/* In clock ticks after boot. Of a reaper, which never executes anything: who is at that has its number and is somebody else. */
static int read_start_time(int proc_fd, pid_t pid, uint64_t *ret)
{
        char buf[1024];
        const char *at = buf;
        uint64_t all;
        int r = read_file(proc_fd, pid, "/statm", buf, sizeof(buf), NULL);

        if (r)
                return r;
        all = number(&at);
        (void)number(&at);
        (void)number(&at);
        if (all > 0 && number(&at) == 0)
                return -ESRCH;
        r = read_file(proc_fd, pid, "/stat", buf, sizeof(buf), NULL);
        if (!r)
                *ret = stat_field(buf, 22);
        return r;
}

static int open_proc(void)
{
        int fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        return fd < 0 ? -errno : fd;
}

/* ---- the reaper's name */

int place_set_reaper(int dir_fd, pid_t pid, bool is_init)
{
        _cleanup_fd_ int proc_fd = open_proc();
        char text[64], digits[24];
        uint64_t start_time;
        size_t n = 0;
        int r = proc_fd < 0 ? proc_fd : read_start_time(proc_fd, pid, &start_time);

        if (r)
                return r;
        for (int i = 0; i < 2; i++) {
                const char *part = decimal(digits + sizeof(digits), i ? start_time : (uint64_t)pid);

                memcpy(text + n, part, strlen(part));
                n += strlen(part);
                text[n++] = i ? (is_init ? 'i' : 's') : '.';
        }
        text[n] = '\0';
        return symlinkat(text, dir_fd, REAPER) < 0 ? -errno : 0; /* there at once and whole, or not at all */
}

int place_reaper(int dir_fd, bool *ret_is_init, pid_t *ret_pid)
{
        _cleanup_fd_ int proc_fd = -1, pidfd = -1;
        char text[64];
        const char *at = text;
        ssize_t n = readlinkat(dir_fd, REAPER, text, sizeof(text) - 1);
        uint64_t pid, start_time, found;

        if (n < 0)
                return errno == EINVAL ? -ENOENT : -errno;
        text[n] = '\0';
        pid = number(&at);
        if (*at == '.')
                at++;
        start_time = number(&at);
        if (pid == 0 || pid > INT32_MAX || (*at != 'i' && *at != 's'))
                return -ENOENT;
        if (ret_is_init)
                *ret_is_init = *at == 'i';
        if (ret_pid)
                *ret_pid = (pid_t)pid;
        pidfd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
        if (pidfd < 0)
                return errno == EINVAL ? -ESRCH : -errno; /* EINVAL: that number is a thread's now */
        proc_fd = open_proc();
        if (proc_fd < 0)
                return proc_fd;
        if (read_start_time(proc_fd, (pid_t)pid, &found) || found != start_time)
                return -ESRCH; /* the number is another's by now */
        return TAKE_FD(pidfd);
}

static bool has_ended(int pidfd)
{
        struct pollfd p = {.fd = pidfd, .events = POLLIN};

        return poll(&p, 1, 0) == 1;
}

int place_forget(int dir_fd)
{
        _cleanup_fd_ int pidfd = place_reaper(dir_fd, NULL, NULL);

        if (pidfd == -ENOENT)
                return 0;
        if (pidfd >= 0 ? !has_ended(pidfd) : pidfd != -ESRCH)
                return -EBUSY;
        return unlinkat(dir_fd, REAPER, 0) < 0 && errno != ENOENT ? -errno : 0;
}

/* ---- who descends from it */

/* Memory that grows without malloc. */
static int grow(void **items, size_t *room, size_t size)
{
        size_t wanted = *room ? 2 * *room : TABLE_FIRST;
        void *p = *room ? mremap(*items, *room * size, wanted * size, MREMAP_MAYMOVE)
                        : mmap(NULL, wanted * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (p == MAP_FAILED)
                return -errno;
        *items = p;
        *room = wanted;
        return 0;
}

typedef enum Kin { KIN_UNKNOWN, KIN_NO, KIN_YES, KIN_IN_NAMESPACE } Kin;

typedef struct Row {
        pid_t pid, ppid;
        uint64_t identity;
        uint8_t kin; /* Kin */
        bool root, dead, stopped;
} Row;

typedef struct Table {
        int proc_fd;
        Row *rows;
        size_t n, room;
        bool sorted;
} Table;

static int table_add(Table *t, pid_t pid)
{
        Facts facts;
        int r = t->n == t->room ? grow((void **)&t->rows, &t->room, sizeof(Row)) : 0;

        if (r)
                return r;
        if (read_facts(t->proc_fd, pid, &facts))
                return 0; /* gone meanwhile */
        t->sorted &= t->n == 0 || t->rows[t->n - 1].pid < pid;
        t->rows[t->n++] = (Row){.pid = pid,
                .ppid = facts.ppid,
                .identity = facts.identity,
                .stopped = facts.state == 'T' || facts.state == 't',
                .dead = facts.dead};
        return 0;
}

/* Everybody there is. */
static int table_read(Table *t)
{
        char listing[LISTING_SIZE] __attribute__((aligned(8)));
        ssize_t n;
        int r = t->proc_fd < 0 ? t->proc_fd : 0;

        t->n = 0;
        t->sorted = true;
        if (!r && lseek(t->proc_fd, 0, SEEK_SET) < 0)
                r = -errno;
        while (!r && (n = getdents64(t->proc_fd, listing, sizeof(listing))) != 0) {
                if (n < 0)
                        return -errno;
                for (ssize_t at = 0; at < n && !r;) {
                        struct dirent64 *entry = (struct dirent64 *)(void *)(listing + at);
                        const char *name = entry->d_name;

                        at += entry->d_reclen;
                        if (*name >= '1' && *name <= '9')
                                r = table_add(t, (pid_t)number(&name));
                }
        }
        return r;
}

/*
 * Many threads look at the same time when many lives are to end, and each look takes as long as there are processes on the host. A look that began
 * after a thread wanted one is as good as its own, so one looks and the others wait for it. A fork of this process cannot know who was at it, and
 * looks itself.
 */
#define SHARE_SPAN (500 * NSEC_PER_MSEC) /* nobody waits longer for another's look */

static struct Shared {
        pthread_mutex_t lock; /* never held while somebody looks */
        pthread_cond_t looked;
        _Atomic pid_t owner;
        bool busy;
        Row *rows;
        size_t n, room;
        bool sorted;
        nsec_t begun; /* of the last one; 0: there is none */
} shared = {.lock = PTHREAD_MUTEX_INITIALIZER, .looked = PTHREAD_COND_INITIALIZER};

static bool may_share(void)
{
        const pid_t self = (pid_t)syscall(SYS_getpid);
        pid_t owner = 0;

        return atomic_compare_exchange_strong(&shared.owner, &owner, self) || owner == self;
}

static int copy_rows(Row **to, size_t *room, const Row *from, size_t n)
{
        while (*room < n) {
                int r = grow((void **)to, room, sizeof(Row));

                if (r)
                        return r;
        }
        memcpy(*to, from, n * sizeof(Row));
        return 0;
}

/* With the lock held, which is let go of meanwhile. */
static int look_for_all(Table *t)
{
        const nsec_t begun = clock_now();
        int r;

        shared.busy = true;
        (void)pthread_mutex_unlock(&shared.lock);
        r = table_read(t);
        (void)pthread_mutex_lock(&shared.lock);
        shared.busy = false;
        if (!r && copy_rows(&shared.rows, &shared.room, t->rows, t->n) == 0) {
                shared.begun = begun;
                shared.n = t->n;
                shared.sorted = t->sorted;
        }
        (void)pthread_cond_broadcast(&shared.looked); /* if it failed the next one tries */
        return r;
}

/* As table_read(). @proc_fd: of /proc, the table's from here on. */
static int table_fill(Table *t)
{
        const nsec_t asked = clock_now(), until = nsec_add(asked, SHARE_SPAN);
        const struct timespec at = {.tv_sec = (time_t)(until / NSEC_PER_SEC), .tv_nsec = (long)(until % NSEC_PER_SEC)};
        bool waits = true, done = true;
        int r = 0;

        if (t->proc_fd < 0 || !may_share())
                return table_read(t);
        (void)pthread_mutex_lock(&shared.lock);
        while (waits && shared.busy && shared.begun <= asked)
                waits = pthread_cond_clockwait(&shared.looked, &shared.lock, CLOCK_MONOTONIC, &at) == 0;
        if (shared.begun > asked && copy_rows(&t->rows, &t->room, shared.rows, shared.n) == 0) {
                t->n = shared.n;
                t->sorted = shared.sorted;
        } else if (!shared.busy) {
                r = look_for_all(t);
        } else {
                done = false;
        }
        (void)pthread_mutex_unlock(&shared.lock);
        return done ? r : table_read(t);
}

static void table_done(Table *t)
{
        if (t->room)
                (void)munmap(t->rows, t->room * sizeof(Row));
        (void)fd_close(t->proc_fd);
}

static Row *table_find(const Table *t, pid_t pid)
{
        size_t low = 0, high = t->n;

        if (!t->sorted) { /* procfs lists by number; should it ever not, this is slower and no less right */
                for (size_t i = 0; i < t->n; i++)
                        if (t->rows[i].pid == pid)
                                return &t->rows[i];
                return NULL;
        }
        while (low < high) {
                size_t middle = low + (high - low) / 2;

                if (t->rows[middle].pid < pid)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low < t->n && t->rows[low].pid == pid ? &t->rows[low] : NULL;
}

/* Up to somebody of whom it is known, then down again with what was found. */
static void table_place(const Table *t, Row *row)
{
        unsigned depth = 0;
        Kin kin = KIN_NO;

        for (Row *at = row; at && depth < DEPTH_MAX; depth++) {
                Row *parent;

                if (at->kin != KIN_UNKNOWN) {
                        kin = (Kin)at->kin;
                        break;
                }
                parent = table_find(t, at->ppid);
                if (!parent) { /* it ended after its child was read, which is another's by now */
                        Facts facts;

                        if (read_facts(t->proc_fd, at->pid, &facts) == 0 && facts.ppid != at->ppid) {
                                at->ppid = facts.ppid;
                                continue;
                        }
                }
                at = parent;
        }
        for (Row *at = row; at && at->kin == KIN_UNKNOWN; at = table_find(t, at->ppid))
                at->kin = (uint8_t)kin;
}

static bool is_kin(const Row *row)
{
        return row->kin >= KIN_YES && !row->root && !row->dead;
}

/* Everybody who descends from @root is marked, but not the spared ones. */
static int table_descend(Table *t, pid_t root, const pid_t *spared, size_t n_spared)
{
        int r = table_fill(t);
        Row *top = r ? NULL : table_find(t, root);

        if (!top)
                return r;
        top->kin = KIN_YES;
        top->root = true;
        for (size_t i = 0; i < n_spared; i++) {
                Row *row = table_find(t, spared[i]);

                if (row)
                        row->kin = KIN_NO;
        }
        for (size_t i = 0; i < t->n; i++)
                table_place(t, &t->rows[i]);
        return 0;
}

int place_each_descendant(pid_t root, const pid_t *spared, size_t n_spared, PlacePid each, void *userdata)
{
        Table t = {.proc_fd = open_proc()};
        int r = table_descend(&t, root, spared, n_spared);

        for (size_t i = 0; i < t.n && !r; i++)
                if (is_kin(&t.rows[i]))
                        r = each(t.rows[i].pid, userdata);
        table_done(&t);
        return r;
}

/* To the process of that row, and to no other that may have its number by now. */
static bool row_signal(const Table *t, const Row *row, int signo, PlaceResult *result)
{
        _cleanup_fd_ int pidfd = (int)syscall(SYS_pidfd_open, row->pid, 0);
        Facts facts;

        if (pidfd < 0 || read_facts(t->proc_fd, row->pid, &facts) || facts.identity != row->identity)
                return false;
        if (syscall(SYS_pidfd_send_signal, pidfd, signo, NULL, 0) < 0) {
                if (errno != ESRCH && !result->error)
                        result->error = errno;
                return false;
        }
        if (signo == SIGTERM)
                (void)syscall(SYS_pidfd_send_signal, pidfd, SIGCONT, NULL, 0); /* it may be gone already */
        return true;
}

int place_signal_descendants(pid_t root, const pid_t *spared, size_t n_spared, int signo, PlaceResult *ret)
{
        Table t = {.proc_fd = open_proc()};
        int r = table_descend(&t, root, spared, n_spared);

        *ret = (PlaceResult){};
        for (size_t i = 0; i < t.n && !r; i++)
                if (is_kin(&t.rows[i])) {
                        ret->n_found++;
                        ret->n_sent += row_signal(&t, &t.rows[i], signo, ret);
                }
        table_done(&t);
        return r;
}

int place_each_child(pid_t parent, PlacePid each, void *userdata)
{
        Table t = {.proc_fd = open_proc()};
        int r = table_fill(&t);

        for (size_t i = 0; i < t.n && !r; i++)
                if (t.rows[i].ppid == parent)
                        r = each(t.rows[i].pid, userdata);
        table_done(&t);
        return r;
}

int place_each_process(int dir_fd, PlacePid each, void *userdata)
{
        pid_t pid;
        _cleanup_fd_ int pidfd = place_reaper(dir_fd, NULL, &pid);

        if (pidfd < 0)
                return pidfd == -ENOENT || pidfd == -ESRCH ? 0 : pidfd;
        return place_each_descendant(pid, NULL, 0, each, userdata);
}

int place_each_unreaped(pid_t reaper, PlacePid each, void *userdata)
{
        Table t = {.proc_fd = open_proc()};
        int r = table_descend(&t, reaper, NULL, 0);

        for (size_t i = 0; i < t.n && !r; i++)
                if (t.rows[i].kin >= KIN_YES && !t.rows[i].root && t.rows[i].dead)
                        r = each(t.rows[i].pid, userdata);
        table_done(&t);
        return r;
}

int place_has(int dir_fd, pid_t pid)
{
        _cleanup_fd_ int proc_fd = open_proc(), pidfd = -1;
        pid_t root;

        pidfd = place_reaper(dir_fd, NULL, &root);
        if (proc_fd < 0 || pidfd < 0)
                return proc_fd < 0 ? proc_fd : pidfd == -ESRCH || pidfd == -ENOENT ? 0 : pidfd;
        for (unsigned depth = 0; pid != root && depth < DEPTH_MAX; depth++) {
                Facts facts;

                if (pid <= 1 || read_facts(proc_fd, pid, &facts))
                        return 0;
                pid = facts.ppid;
        }
        return pid == root;
}

/* ---- lives below a directory */

#define LEVELS_MAX 4 /* <tidegate>/<instance>/<uuid>/<life> */

static int each_life(int dir_fd, unsigned depth, PlaceLife visit, void *userdata)
{
        char listing[LISTING_SIZE / 2] __attribute__((aligned(8)));
        _cleanup_fd_ int fd = -1;
        char link[8];
        ssize_t n;
        int r = 0;

        if (readlinkat(dir_fd, REAPER, link, sizeof(link)) > 0)
                return visit(dir_fd, userdata);
        fd = depth < LEVELS_MAX ? openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1; /* a position of our own in the listing */
        if (fd < 0)
                return depth < LEVELS_MAX && errno != ENOENT ? -errno : 0;
        while (!r && (n = getdents64(fd, listing, sizeof(listing))) > 0)
                for (ssize_t at = 0; at < n && !r;) {
                        struct dirent64 *entry = (struct dirent64 *)(void *)(listing + at);
                        _cleanup_fd_ int child = -1;

                        at += entry->d_reclen;
                        if (entry->d_type != DT_DIR || strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
                                continue;
                        child = openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                        if (child >= 0)
                                r = each_life(child, depth + 1, visit, userdata);
                }
        return r;
}

int place_each_life(int dir_fd, PlaceLife visit, void *userdata)
{
        return each_life(dir_fd, 0, visit, userdata);
}

static int find_living(int dir_fd, void *userdata)
{
        _cleanup_fd_ int pidfd = place_reaper(dir_fd, NULL, NULL);

        (void)userdata;
        if (pidfd < 0)
                return pidfd == -ESRCH || pidfd == -ENOENT ? 0 : pidfd;
        return !has_ended(pidfd);
}

int place_populated(int dir_fd)
{
        return place_each_life(dir_fd, find_living, NULL);
}

/* ---- all lives at and below a directory at once: one look at /proc for all of them */

#define WITNESSES_MAX 16

typedef struct Root {
        pid_t pid;
        bool is_init;
        int pidfd; /* of the first WITNESSES_MAX, to hear of their ends */
} Root;

typedef struct Lives {
        Table table;
        Root *roots;
        size_t n, room;
} Lives;

static int add_root(int dir_fd, void *userdata)
{
        Lives *lives = userdata;
        Root root = {.pidfd = -1};
        _cleanup_fd_ int pidfd = place_reaper(dir_fd, &root.is_init, &root.pid);
        int r = lives->n == lives->room ? grow((void **)&lives->roots, &lives->room, sizeof(Root)) : 0;

        if (r || pidfd == -ESRCH || pidfd == -ENOENT)
                return r;
        if (pidfd < 0)
                return pidfd;
        if (has_ended(pidfd))
                return 0;
        if (lives->n < WITNESSES_MAX)
                root.pidfd = TAKE_FD(pidfd);
        lives->roots[lives->n++] = root;
        return 0;
}

static void drop_witnesses(Lives *lives)
{
        for (size_t i = 0; i < MIN(lives->n, (size_t)WITNESSES_MAX); i++)
                lives->roots[i].pidfd = fd_close(lives->roots[i].pidfd);
        lives->n = 0;
}

/* Who is in them now. Returns how many, or a negative errno. */
static int lives_look(Lives *lives, int dir_fd)
{
        Table *t = &lives->table;
        int n = 0, r;

        drop_witnesses(lives);
        t->n = 0;
        r = place_each_life(dir_fd, add_root, lives);
        if (!r && lives->n > 0)
                r = table_fill(t);
        if (r || lives->n == 0)
                return r;
        for (size_t i = 0; i < lives->n; i++) {
                Row *row = table_find(t, lives->roots[i].pid);

                if (!row)
                        continue;
                row->root = true;
                row->kin = lives->roots[i].is_init ? KIN_IN_NAMESPACE : KIN_YES;
        }
        for (size_t i = 0; i < t->n; i++) {
                table_place(t, &t->rows[i]);
                n += is_kin(&t->rows[i]);
        }
        return n;
}

static void lives_done(Lives *lives)
{
        drop_witnesses(lives);
        if (lives->room)
                (void)munmap(lives->roots, lives->room * sizeof(Root));
        table_done(&lives->table);
}

int place_count(int dir_fd)
{
        Lives lives = {.table = {.proc_fd = open_proc()}};
        int n = lives_look(&lives, dir_fd);

        lives_done(&lives);
        return n;
}

int place_signal(int dir_fd, int signo, PlaceResult *ret)
{
        Lives lives = {.table = {.proc_fd = open_proc()}};
        int n = lives_look(&lives, dir_fd);

        *ret = (PlaceResult){.n_found = (unsigned)MAX(n, 0)};
        for (size_t i = 0; n > 0 && i < lives.table.n; i++)
                if (is_kin(&lives.table.rows[i]))
                        ret->n_sent += row_signal(&lives.table, &lives.table.rows[i], signo, ret);
        lives_done(&lives);
        return MIN(n, 0);
}

/* The death of an init is that of everybody in its namespace, and the kernel waits for them. */
static void kill_inits(const Lives *lives)
{
        for (size_t i = 0; i < lives->n; i++) {
                int pidfd = lives->roots[i].pidfd >= 0 ? lives->roots[i].pidfd : (int)syscall(SYS_pidfd_open, lives->roots[i].pid, 0);

                if (pidfd >= 0 && lives->roots[i].is_init)
                        (void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
                if (pidfd != lives->roots[i].pidfd)
                        pidfd = fd_close(pidfd);
        }
}

/*
 * Whoever is stopped forks no more. So all are stopped first, and looked for again, until nobody runs any more; then everybody who could be born
 * has been, and all of them are killed. One that cannot be stopped (it sleeps uninterruptibly) forks nobody either: the third look that finds
 * nobody new is the last.
 */
static int kill_once(Lives *lives, int dir_fd, PlaceResult *result)
{
        int n = 0, before = -1;

        for (unsigned look = 0;; look++) {
                unsigned running = 0;

                n = lives_look(lives, dir_fd);
                if (n < 0)
                        return n;
                result->n_found = MAX(result->n_found, (unsigned)n);
                kill_inits(lives);
                for (size_t i = 0; i < lives->table.n; i++)
                        running += is_kin(&lives->table.rows[i]) && lives->table.rows[i].kin == KIN_YES && !lives->table.rows[i].stopped;
                if (running == 0 || look >= LOOKS_MAX || (look >= 2 && n <= before))
                        break;
                for (size_t i = 0; i < lives->table.n; i++) {
                        const Row *row = &lives->table.rows[i];

                        if (is_kin(row) && row->kin == KIN_YES && !row->stopped)
                                (void)row_signal(&lives->table, row, SIGSTOP, result);
                }
                before = n;
        }
        for (size_t i = 0; i < lives->table.n; i++)
                if (is_kin(&lives->table.rows[i]) && lives->table.rows[i].kin == KIN_YES)
                        result->n_sent += row_signal(&lives->table, &lives->table.rows[i], SIGKILL, result);
        return 0;
}

/* Until the lives that we hear of have ended, or @until. */
static void wait_for_ends(const Lives *lives, nsec_t until)
{
        struct pollfd p[WITNESSES_MAX];
        size_t n = MIN(lives->n, (size_t)WITNESSES_MAX), left = n;

        for (size_t i = 0; i < n; i++)
                p[i] = (struct pollfd){.fd = lives->roots[i].pidfd, .events = POLLIN};
        while (left > 0 && clock_now() < until) {
                if (poll(p, n, nsec_poll_ms(until, clock_now())) <= 0)
                        continue;
                for (size_t i = 0; i < n; i++)
                        if (p[i].fd >= 0 && p[i].revents) {
                                p[i].fd = -1;
                                left--;
                        }
        }
}

int place_end(int dir_fd, nsec_t until, PlaceResult *ret)
{
        Lives lives = {.table = {.proc_fd = open_proc()}};
        nsec_t step = END_STEP_FIRST;
        int r;

        *ret = (PlaceResult){};
        for (;;) {
                nsec_t now;

                r = kill_once(&lives, dir_fd, ret);
                if (r < 0)
                        break;
                ret->n_rounds++;
                wait_for_ends(&lives, MIN(nsec_add(clock_now(), step), MAX(until, nsec_add(clock_now(), END_STEP_FIRST))));
                r = place_populated(dir_fd);
                now = clock_now();
                if (r <= 0 || now >= until)
                        break;
                step = MIN(2 * step, END_STEP_MAX);
        }
        ret->n_left = r == 0 ? 0 : (unsigned)MAX(lives_look(&lives, dir_fd), r < 0 ? 0 : 1);
        ret->n_found = MAX(ret->n_found, ret->n_left);
        lives_done(&lives);
        return r > 0 ? -ETIMEDOUT : r;
}
