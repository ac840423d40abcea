/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree SEED [TRAIT...] - a tree of processes that do everything to survive; the same seed grows the same tree.
 * tree --trace exit|plain PID... - traces them from outside and never lets them go on; says "ready".
 *
 * Without a TRAIT each process has one at random. With them the tree has one process of each: see `traits` below.
 * Of root's, and where they are permitted, some take the way of a real-time priority or of cgroups of their own.
 *
 * Environment: HOSTILE_SOCKET, an abstract Unix datagram socket that hears "stands SEED PROCESSES TRAIT:N..." once
 * every process of the tree is what it shall be, and before that "traced SEED exit|plain" of each that wants a tracer
 * from outside. HOSTILE_TOKEN (6 characters): every process is named hTOKEN.SEED, which is how a test finds it.
 * HOSTILE_STUCK: paths, with : between them, whose opening does not return, for nobody answers or they are on what is frozen (TRAIT stuck). Each has
 * one %, for a number of the process, which says "traced SEED stuck NUMBER" (of the path) when it is about to try. HOSTILE_MEMORY: MiB that TRAIT
 * memory touches (4) once the tree stands. HOSTILE_DEEP: processes in the chain of TRAIT deep (2000). HOSTILE_CGROUPS: where cgroup v2 is
 * mounted. HOSTILE_HOG: random trees may have hogs.
 *
 * Bounded by itself: a bomb has at most BOMB_LIVE living processes, a real-time one spins for HOSTILE_SPIN (1) of each 20 ms, and a hog,
 * which never sleeps, is ended by the kernel after HOG_SECONDS. What a limit refuses (fork, thread) is left out of the tree.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BOMB_LIVE 32
#define MAX_TREE  14
#define HOG_SECONDS 4

enum Trait {
        WAIT,       /* waits for a signal */
        STOPPED,    /* SIGSTOP to itself */
        PIPE,       /* blocked in a write to a full pipe */
        LEADERLESS, /* its first thread has exited, another lives */
        VFORK,      /* waits for a vforked child: state D, and dies all the same */
        BOMB,       /* forks for ever */
        REALTIME,   /* SCHED_FIFO, spinning */
        MEMORY,     /* touches memory, again and again */
        TRACER,     /* traces its child, which stops at its exit */
        TRACED,     /* asks for a tracer from outside */
        THREADED,   /* a threaded cgroup of its own, with one of its threads */
        SUBGROUP,   /* moved itself into a cgroup that it made below its own */
        DEEP,       /* the end of a long chain of children */
        STUCK,      /* opens a file where nobody answers: state D once it is killed, and does not die */
        STORM,      /* makes orphans that end at once, without a pause */
        HOG,        /* SCHED_FIFO, spinning without a pause, on the last of its processors; needs a second one */
        N_STATES,
        /* of any process, besides */
        DEAF = N_STATES, /* ignores SIGTERM, SIGINT, SIGHUP */
        SESSION,
        ORPHAN, /* double fork */
        CLOSED, /* has closed everything */
        LEAVES, /* the first process: exits at once on SIGTERM and leaves the others behind */
        N_TRAITS,
};

static const char *const traits[N_TRAITS] = {"wait", "stopped", "pipe", "leaderless", "vfork", "bomb", "realtime", "memory", "tracer",
        "traced", "threaded", "subgroup", "deep", "stuck", "storm", "hog", "deaf", "session", "orphan", "closed", "leaves"};

/* How often each is met in a random tree; those of 0 only when asked for, but for rare(). A tracer from outside is wanted in few trees, and in few
 * is somebody stuck, for they are waited for until the end of the kill budget: see weight(). */
static const unsigned weights[N_STATES] = {[WAIT] = 24, [STOPPED] = 14, [PIPE] = 10, [LEADERLESS] = 14, [VFORK] = 10, [BOMB] = 2,
        [REALTIME] = 1, [MEMORY] = 4, [TRACER] = 8, [THREADED] = 4, [SUBGROUP] = 6};

static struct Shared {
        _Atomic int planned, standing, live_bombs;
        _Atomic int lost; /* forks and threads that were refused */
        _Atomic int told; /* the report is out */
        _Atomic int n[N_TRAITS];
} *shared;
static int shared_fd;

static unsigned seed;

static uint64_t mix(uint64_t x)
{
        x += 0x9e3779b97f4a7c15;
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
        x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
        return x ^ (x >> 31);
}

static unsigned draw(uint64_t *key, unsigned n)
{
        *key = mix(*key);
        return (unsigned)((*key >> 16) % n);
}

static void have(enum Trait t)
{
        shared->n[t]++;
}

/* This process is what it shall be. What follows may take it a moment more. */
static void stand(void)
{
        shared->standing++;
}

static void rest(void)
{
        for (;;)
                pause();
}

static void nap(long us)
{
        struct timespec t = {.tv_nsec = us * 1000};

        (void)nanosleep(&t, NULL);
}

static void tell(const char *text)
{
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        const char *name = getenv("HOSTILE_SOCKET");
        int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        if (!name || fd < 0)
                return;
        (void)snprintf(to.sun_path + 1, sizeof(to.sun_path) - 1, "%s", name);
        (void)sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&to,
                (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name)));
        (void)close(fd);
}

static void name_yourself(void)
{
        const char *token = getenv("HOSTILE_TOKEN");
        char name[16];

        (void)snprintf(name, sizeof(name), "h%.6s.%u", token ? token : "000000", seed % 10000000);
        (void)prctl(PR_SET_NAME, name);
}

static void deafen(int how)
{
        (void)signal(SIGTERM, how ? SIG_IGN : SIG_DFL);
        (void)signal(SIGHUP, how ? SIG_IGN : SIG_DFL);
        (void)signal(SIGINT, how ? SIG_IGN : SIG_DFL);
}

/* fork(), where a child that is not born is none that is waited for. */
static pid_t grow(void)
{
        pid_t pid;

        shared->planned++;
        pid = fork();
        if (pid < 0) {
                shared->planned--;
                shared->lost++;
        }
        return pid;
}

static int write_file(const char *path, const char *text)
{
        int fd = open(path, O_WRONLY | O_CLOEXEC), r;

        if (fd < 0)
                return -1;
        r = write(fd, text, strlen(text)) < 0 ? -1 : 0;
        (void)close(fd);
        return r;
}

/* A new cgroup below this process's own. Where that is no dataflow's, whoever planted us removes it, by our token. */
static int own_cgroup(char *path, size_t size)
{
        const char *top = getenv("HOSTILE_CGROUPS"), *token = getenv("HOSTILE_TOKEN");
        char line[2048] = "", *here = NULL, *save = NULL;
        int fd = open("/proc/self/cgroup", O_RDONLY | O_CLOEXEC), n;

        if (!top || fd < 0)
                return -1;
        n = (int)read(fd, line, sizeof(line) - 1);
        (void)close(fd);
        for (char *l = n > 0 ? strtok_r(line, "\n", &save) : NULL; l; l = strtok_r(NULL, "\n", &save))
                if (strncmp(l, "0::", 3) == 0)
                        here = l + 3;
        if (!here || snprintf(path, size, "%s%s/own-%s-%d", top, here, token ? token : "", (int)getpid()) >= (int)size)
                return -1;
        return mkdir(path, 0755);
}

static void *other_thread(void *arg)
{
        if (arg)
                stand();
        for (;;)
                pause();
        return NULL;
}

static int start_thread(void *arg)
{
        pthread_t thread;

        if (pthread_create(&thread, NULL, other_thread, arg) == 0)
                return 0;
        shared->lost++;
        return -1;
}

static void bomb(uint64_t key)
{
        for (;;) {
                if (shared->live_bombs < BOMB_LIVE && fork() == 0) {
                        shared->live_bombs++;
                        key = mix(key ^ (uint64_t)getpid());
                        if (draw(&key, 3) == 0)
                                (void)setsid();
                        if (draw(&key, 2) == 0) {
                                nap(500 + draw(&key, 20000));
                                shared->live_bombs--;
                                _exit(0);
                        }
                }
                while (waitpid(-1, NULL, WNOHANG) > 0)
                        ;
                nap(4000);
        }
}

static void storm(void)
{
        for (;;) {
                pid_t pid = fork();

                if (pid == 0) {
                        for (int i = 0; i < 20; i++)
                                if (fork() == 0)
                                        _exit(0);
                        _exit(0);
                }
                if (pid > 0)
                        (void)waitpid(pid, NULL, 0);
        }
}

static int become_realtime(rlim_t us)
{
        struct rlimit most = {.rlim_cur = us, .rlim_max = us}; /* without a sleep: SIGKILL */
        struct sched_param p = {.sched_priority = 1};

        if (setrlimit(RLIMIT_RTTIME, &most) < 0)
                return -1;
        return syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &p) < 0 ? -1 : 0;
}

static void spin(void)
{
        const char *spin = getenv("HOSTILE_SPIN");
        long ns = (spin ? atol(spin) : 1) * 1000000L;
        struct timespec begin, now;

        for (;;) {
                (void)clock_gettime(CLOCK_MONOTONIC, &begin);
                do
                        (void)clock_gettime(CLOCK_MONOTONIC, &now);
                while ((now.tv_sec - begin.tv_sec) * 1000000000L + now.tv_nsec - begin.tv_nsec < ns);
                nap(20000 - ns / 1000);
        }
}

static void hog(void)
{
        cpu_set_t mine;
        int last = CPU_SETSIZE - 1;

        if (sched_getaffinity(0, sizeof(mine), &mine) < 0 || CPU_COUNT(&mine) < 2 || become_realtime(HOG_SECONDS * 1000000) < 0)
                return;
        while (!CPU_ISSET(last, &mine))
                last--;
        CPU_ZERO(&mine);
        CPU_SET(last, &mine);
        have(HOG);
        stand(); /* before: it may have to wait for another one there */
        if (sched_setaffinity(0, sizeof(mine), &mine) < 0)
                rest();
        for (;;)
                continue;
}

static void hold_memory(void)
{
        const char *most = getenv("HOSTILE_MEMORY");
        size_t size = (most ? strtoul(most, NULL, 10) : 4) << 20;
        volatile char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        stand(); /* before: at its limit it may never have touched all, and may end the whole tree */
        while (!shared->told)
                nap(500);
        if (p == MAP_FAILED)
                rest();
        for (unsigned char turn = 1;; turn++) {
                for (size_t i = 0; i < size; i += 4096)
                        p[i] = (char)turn;
                nap(50000);
        }
}

/* Its child, stopped by its own exit until this process lets it go, or dies. */
static void trace_a_child(void)
{
        pid_t pid = grow();

        if (pid == 0) {
                stand();
                rest();
        }
        if (pid > 0 && ptrace(PTRACE_SEIZE, pid, NULL, (void *)PTRACE_O_TRACEEXIT) == 0)
                have(TRACER);
        stand();
        rest();
}

static void thread_a_cgroup(void)
{
        char path[2400], file[2500], tid[16];

        if (own_cgroup(path, sizeof(path)) == 0) {
                (void)snprintf(file, sizeof(file), "%s/cgroup.type", path);
                (void)snprintf(tid, sizeof(tid), "%d", (int)syscall(SYS_gettid));
                if (start_thread(NULL) == 0 && write_file(file, "threaded") == 0) {
                        (void)snprintf(file, sizeof(file), "%s/cgroup.threads", path);
                        if (write_file(file, tid) == 0)
                                have(THREADED);
                }
        }
        stand();
        rest();
}

static void move_below(void)
{
        char path[2400], file[2500];

        if (own_cgroup(path, sizeof(path)) == 0) {
                (void)snprintf(file, sizeof(file), "%s/cgroup.procs", path);
                if (write_file(file, "0") == 0)
                        have(SUBGROUP);
        }
        stand();
        rest();
}

/* One of a chain, and @below more. Each executes this program again: what forked 2 000 times in a row has so many anon_vmas that the kernel
 * needs seconds to take it apart. */
static void chain(int below)
{
        char n[16], fd[16], number[16];

        (void)snprintf(number, sizeof(number), "%u", seed);
        (void)snprintf(fd, sizeof(fd), "%d", shared_fd);
        while (below-- > 0 && grow() == 0) {
                (void)snprintf(n, sizeof(n), "%d", below);
                if (fcntl(shared_fd, F_GETFD) >= 0) /* else it has closed everything */
                        (void)execl("/proc/self/exe", "tree", "--chain", number, n, fd, (char *)NULL);
        }
        stand();
        rest();
}

static int go_on_with_chain(char **argv)
{
        seed = (unsigned)strtoul(argv[2], NULL, 10);
        shared_fd = atoi(argv[4]);
        shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, shared_fd, 0);
        if (shared == MAP_FAILED)
                return 1;
        name_yourself();
        chain(atoi(argv[3]));
        return 0;
}

static void begin_chain(void)
{
        const char *most = getenv("HOSTILE_DEEP");

        have(DEEP);
        chain((most ? atoi(most) : 2000) - 1);
}

static void block_in_pipe(void)
{
        static const char page[4096];
        int fds[2];

        if (pipe(fds) < 0)
                _exit(1);
        have(PIPE);
        stand();
        for (;;)
                (void)write(fds[1], page, sizeof(page));
}

static void exit_first_thread(void)
{
        have(LEADERLESS);
        if (start_thread(shared) == 0)
                (void)syscall(SYS_exit, 0);
        shared->n[LEADERLESS]--;
        stand();
        rest();
}

static void wait_for_vforked(void)
{
        pid_t pid = vfork();

        if (pid == 0) { /* never execs: the parent waits in the kernel for as long as it lives */
                have(VFORK);
                stand();
                rest();
        }
        if (pid < 0) {
                shared->lost++;
                stand();
        }
        rest();
}

static void want_a_tracer(uint64_t key)
{
        char text[64];

        (void)snprintf(text, sizeof(text), "traced %u %s", seed, draw(&key, 3) ? "exit" : "plain");
        (void)prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
        have(TRACED);
        tell(text);
        stand();
        rest();
}

/* A name of its own, that is to be made: it waits for nobody else's answer. */
static void be_stuck(uint64_t key)
{
        const char *name = getenv("HOSTILE_STUCK");
        char text[64], path[512];
        unsigned n = 1, which;
        int before;

        if (!name)
                return;
        for (const char *c = name; *c; c++)
                n += *c == ':';
        which = draw(&key, n);
        for (unsigned i = 0; i < which; i++)
                name = strchr(name, ':') + 1;
        before = (int)strcspn(name, "%");
        (void)snprintf(path, sizeof(path), "%.*s%llx%.*s", before, name, (unsigned long long)key >> 8, (int)strcspn(name, ":") - before - 1, name + before + 1);
        (void)snprintf(text, sizeof(text), "traced %u stuck %u", seed, which);
        have(STUCK);
        tell(text);
        stand();
        (void)open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        rest();
}

__attribute__((noreturn)) static void become(enum Trait t, uint64_t key)
{
        switch (t) {
        case STOPPED:
                have(t);
                stand();
                for (;;)
                        (void)raise(SIGSTOP);
        case PIPE:
                block_in_pipe();
                break;
        case LEADERLESS:
                exit_first_thread();
                break;
        case VFORK:
                wait_for_vforked();
                break;
        case BOMB:
                have(t);
                stand();
                bomb(key);
                break;
        case REALTIME:
                if (become_realtime(400000) == 0) {
                        have(t);
                        stand();
                        spin();
                }
                break;
        case MEMORY:
                have(t);
                hold_memory();
                break;
        case TRACER:
                trace_a_child();
                break;
        case TRACED:
                want_a_tracer(key);
                break;
        case THREADED:
                thread_a_cgroup();
                break;
        case SUBGROUP:
                move_below();
                break;
        case DEEP:
                begin_chain();
                break;
        case STUCK:
                be_stuck(key);
                break;
        case STORM:
                have(t);
                stand();
                storm();
                break;
        case HOG:
                hog();
                break;
        default:
                have(WAIT);
        }
        stand();
        for (;;)
                pause();
}

static unsigned weight(unsigned state)
{
        if (state == TRACED)
                return seed % 120 >= 110 ? 8 : 0;
        if (state == STUCK)
                return seed % 120 >= 100 && seed % 120 < 110 && getenv("HOSTILE_STUCK") ? 6 : 0;
        return weights[state];
}

/* What takes so much of a machine that few trees have one, and that one besides all others: N_STATES for none. */
static enum Trait rare(void)
{
        return seed % 300 == 50 ? DEEP : seed % 300 == 150 && getenv("HOSTILE_HOG") ? HOG : N_STATES;
}

static enum Trait any_state(uint64_t *key)
{
        unsigned sum = 0, at;

        for (unsigned i = 0; i < N_STATES; i++)
                sum += weight(i);
        at = draw(key, sum);
        for (unsigned i = 0; i < N_STATES; i++) {
                if (at < weight(i))
                        return (enum Trait)i;
                at -= weight(i);
        }
        return WAIT;
}

/* One process and @below further ones below it. */
static void plant(uint64_t key, unsigned below, int state)
{
        int orphan = draw(&key, 3) == 0;
        pid_t pid = grow();

        if (pid != 0) {
                if (pid > 0 && orphan)
                        (void)waitpid(pid, NULL, 0);
                return;
        }
        if (draw(&key, 3) == 0 && setsid() >= 0)
                have(SESSION);
        if (orphan) {
                pid = fork();
                if (pid < 0) {
                        shared->planned--;
                        shared->lost++;
                }
                if (pid != 0)
                        _exit(0);
                have(ORPHAN);
        }
        if (draw(&key, 5) == 0) {
                deafen(0);
        } else {
                deafen(1);
                have(DEAF);
        }
        if (draw(&key, 4) == 0 && state != DEEP && syscall(SYS_close_range, 0, ~0U, 0) == 0) /* a chain needs one to grow by exec */
                have(CLOSED);
        while (below > 0) {
                unsigned part = 1 + draw(&key, below);

                plant(mix(key ^ part), part - 1, -1);
                below -= part;
        }
        become(state >= 0 ? (enum Trait)state : any_state(&key), mix(key));
}

static void leave(int signo)
{
        _exit(0);
}

static void report(void)
{
        char text[512];
        int n = snprintf(text, sizeof(text), "stands %u %d", seed, shared->standing);

        for (unsigned i = 0; i < N_TRAITS; i++)
                if (shared->n[i])
                        n += snprintf(text + n, sizeof(text) - (size_t)n, " %s:%d", traits[i], shared->n[i]);
        tell(text);
}

static int trace(int argc, char **argv)
{
        long options = argc > 2 && strcmp(argv[2], "exit") == 0 ? PTRACE_O_TRACEEXIT : 0;

        for (int i = 3; i < argc; i++)
                if (ptrace(PTRACE_SEIZE, atoi(argv[i]), NULL, (void *)options) < 0) {
                        (void)fprintf(stderr, "cannot trace %s: %s\n", argv[i], strerror(errno));
                        return 2;
                }
        (void)puts("ready");
        (void)fflush(stdout);
        for (;;)
                pause();
}

static int state_of(const char *name)
{
        for (int i = 0; i < N_TRAITS; i++)
                if (strcmp(name, traits[i]) == 0)
                        return i;
        (void)fprintf(stderr, "no such trait: %s\n", name);
        exit(2);
}

int main(int argc, char **argv)
{
        static const enum Trait roots[] = {WAIT, WAIT, WAIT, STOPPED, LEADERLESS, VFORK, PIPE};
        enum Trait root = WAIT;
        int leaves = 0;
        uint64_t key;

        if (argc > 2 && strcmp(argv[1], "--trace") == 0)
                return trace(argc, argv);
        if (argc < 2)
                return 2;
        if (argc == 5 && strcmp(argv[1], "--chain") == 0)
                return go_on_with_chain(argv);
        seed = (unsigned)strtoul(argv[1], NULL, 10);
        key = mix(seed);
        shared_fd = memfd_create("tree", 0);
        if (shared_fd < 0 || ftruncate(shared_fd, sizeof(*shared)) < 0)
                return 1;
        shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, shared_fd, 0);
        if (shared == MAP_FAILED)
                return 1;
        name_yourself();
        deafen(1);
        if (argc == 2) {
                root = roots[draw(&key, sizeof(roots) / sizeof(*roots))];
                leaves = root == WAIT && draw(&key, 2) == 0;
                for (unsigned left = 2 + draw(&key, MAX_TREE - 2); left > 0;) {
                        unsigned part = 1 + draw(&key, left);

                        plant(mix(key ^ part), part - 1, -1);
                        left -= part;
                }
                if (rare() != N_STATES)
                        plant(mix(key ^ N_TRAITS), 0, (int)rare());
        }
        for (int i = 2; i < argc; i++) {
                int state = state_of(argv[i]);

                if (state < N_STATES)
                        plant(mix(key ^ (uint64_t)i), 0, state);
                else if (state == LEAVES)
                        leaves = 1;
        }
        for (int i = 0; shared->standing < shared->planned; i++) {
                if (i == 60000)
                        return 3;
                nap(500);
        }
        if (leaves) {
                have(LEAVES);
                (void)signal(SIGTERM, leave);
        } else {
                have(DEAF);
        }
        shared->standing++; /* the first process itself */
        report();
        shared->told = 1;
        become(root, mix(key));
}
