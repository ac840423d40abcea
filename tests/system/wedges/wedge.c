/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wedge STATE FOLDER: a program that gets into exactly one state in which it makes no progress, and stays there. What two of them need to find
 * each other lies in FOLDER. "wedged" is printed by the last one that can: right before the call that does not return, or once another is held.
 *
 * Those that would burn a processor do so for a moment each time that a byte comes through the FIFO "go-STATE".
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <net/if.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BURN_NS    UINT64_C(1000000000)
#define HOG_NS     UINT64_C(900000000)
#define HANDLER_NS UINT64_C(200000)

static const char *folder;

/* ---- what they share */

static _Noreturn void die(const char *what)
{
        (void)fprintf(stderr, "%s: %s\n", what, strerror(errno));
        exit(1);
}

static long checked(long r, const char *what)
{
        if (r < 0)
                die(what);
        return r;
}

static void wedged(void)
{
        (void)puts("wedged");
        (void)fflush(stdout);
}

static _Noreturn void not_wedged(const char *what)
{
        (void)fprintf(stderr, "%s came back\n", what);
        exit(1);
}

static _Noreturn void stay(void)
{
        for (;;)
                (void)pause();
}

static const char *in_folder(const char *name)
{
        static char path[512];

        (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
        return path;
}

static uint64_t now_ns(void)
{
        struct timespec t;

        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void spin(uint64_t ns)
{
        uint64_t end = now_ns() + ns;

        while (now_ns() < end)
                ;
}

/* A FIFO that either side may come to first. */
static int open_fifo(const char *name, int flags)
{
        if (mkfifo(in_folder(name), 0600) < 0 && errno != EEXIST)
                die(name);
        return (int)checked(open(in_folder(name), flags | O_CLOEXEC), name);
}

/* Whoever reads sees a number whole. */
static void tell(const char *name, int number)
{
        char path[512];
        FILE *f;

        (void)snprintf(path, sizeof(path), "%s/.%s", folder, name);
        f = fopen(path, "we");
        if (!f || fprintf(f, "%d\n", number) < 0 || fclose(f) || rename(path, in_folder(name)) < 0)
                die(name);
}

static int hear(const char *name)
{
        int number;

        for (int i = 0; i < 4000; i++) {
                FILE *f = fopen(in_folder(name), "re");

                if (f && fscanf(f, "%d", &number) == 1) {
                        (void)fclose(f);
                        return number;
                }
                (void)usleep(5000);
        }
        die(name);
}

/* ---- locks in memory */

static pthread_mutex_t locks[2] = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER};
static pthread_barrier_t both_have_one;

static void lock_both(unsigned first)
{
        (void)pthread_mutex_lock(&locks[first]);
        (void)pthread_barrier_wait(&both_have_one);
        if (first == 0)
                wedged();
        (void)pthread_mutex_lock(&locks[!first]);
        not_wedged("pthread_mutex_lock");
}

static void *other_thread(void *unused)
{
        lock_both(1);
        return unused;
}

static void deadlock(void)
{
        pthread_t thread;

        if (pthread_barrier_init(&both_have_one, NULL, 2) || pthread_create(&thread, NULL, other_thread, NULL))
                die("pthread_create");
        lock_both(0);
}

/* Two processes, each with a lock in memory that they share: no thread of one owns what it waits for. */
static void deadlock_of_two(void)
{
        struct {
                pthread_mutex_t locks[2];
                pthread_barrier_t barrier;
        } *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        pthread_mutexattr_t lock;
        pthread_barrierattr_t barrier;
        unsigned first;

        if (shared == MAP_FAILED || pthread_mutexattr_init(&lock) || pthread_mutexattr_setpshared(&lock, PTHREAD_PROCESS_SHARED) ||
                pthread_barrierattr_init(&barrier) || pthread_barrierattr_setpshared(&barrier, PTHREAD_PROCESS_SHARED) ||
                pthread_mutex_init(&shared->locks[0], &lock) || pthread_mutex_init(&shared->locks[1], &lock) ||
                pthread_barrier_init(&shared->barrier, &barrier, 2))
                die("shared locks");
        first = checked(fork(), "fork") == 0;
        (void)pthread_mutex_lock(&shared->locks[first]);
        (void)pthread_barrier_wait(&shared->barrier);
        if (first == 0)
                wedged();
        (void)pthread_mutex_lock(&shared->locks[!first]);
        not_wedged("pthread_mutex_lock");
}

/* ---- pipes, sockets, locks of files: what one node keeps, and the others wait for */

static struct sockaddr_un name_of(const char *name)
{
        struct sockaddr_un a = {.sun_family = AF_UNIX};

        (void)snprintf(a.sun_path, sizeof(a.sun_path), "%s/%s", folder, name);
        return a;
}

static int listen_at(const char *name, int backlog)
{
        struct sockaddr_un a = name_of(name);
        int fd = (int)checked(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");

        (void)checked(bind(fd, (struct sockaddr *)&a, sizeof(a)), name);
        (void)checked(listen(fd, backlog), "listen");
        return fd;
}

static int connect_to(const char *name)
{
        struct sockaddr_un a = name_of(name);
        int fd = (int)checked(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");

        (void)checked(connect(fd, (struct sockaddr *)&a, sizeof(a)), name);
        return fd;
}

static int listen_on_loopback(int backlog, int *ret_port)
{
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int fd = (int)checked(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
        socklen_t size = sizeof(a);

        (void)checked(bind(fd, (struct sockaddr *)&a, sizeof(a)), "bind");
        (void)checked(listen(fd, backlog), "listen");
        (void)checked(getsockname(fd, (struct sockaddr *)&a, &size), "getsockname");
        *ret_port = ntohs(a.sin_port);
        return fd;
}

static void connect_inet(in_addr_t address, int port)
{
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = address, .sin_port = htons((uint16_t)port)};
        int fd = (int)checked(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");

        (void)checked(connect(fd, (struct sockaddr *)&a, sizeof(a)), "connect");
}

static void lock_record(const char *name)
{
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 10};
        int fd = (int)checked(open(in_folder(name), O_RDWR | O_CREAT | O_CLOEXEC, 0600), name);

        (void)checked(fcntl(fd, F_SETLKW, &lock), "F_SETLKW");
}

static void lock_file(const char *name)
{
        (void)checked(flock((int)checked(open(in_folder(name), O_RDWR | O_CREAT | O_CLOEXEC, 0600), name), LOCK_EX), "flock");
}

/* Has what eight others wait for, and does nothing about it. */
static void keeper(void)
{
        int silent = listen_at("silent", 4), port;

        (void)listen_at("full", 0);
        (void)listen_at("queue", 4);
        (void)listen_on_loopback(0, &port);
        lock_file("lock");
        lock_record("record");
        tell("port", port); /* the locks are taken, and all listen */
        (void)open_fifo("full-pipe", O_RDONLY);
        (void)open_fifo("empty-pipe", O_WRONLY);
        (void)checked(accept4(silent, NULL, NULL, SOCK_CLOEXEC), "accept");
        (void)checked(accept4(silent, NULL, NULL, SOCK_CLOEXEC), "accept");
        wedged();
        stay();
}

static void pipe_full(void)
{
        static const char page[4096];
        int fd = open_fifo("full-pipe", O_WRONLY);

        wedged();
        while (write(fd, page, sizeof(page)) > 0)
                ;
        not_wedged("write");
}

static void pipe_empty(void)
{
        int fd = open_fifo("empty-pipe", O_RDONLY);
        char c;

        wedged();
        (void)read(fd, &c, 1);
        not_wedged("read");
}

static void ask(const char *name)
{
        int fd = connect_to(name);
        char c;

        (void)checked(write(fd, "?", 1), "write");
        wedged();
        (void)read(fd, &c, 1);
        not_wedged("read");
}

static void peer_silent(void)
{
        (void)hear("port");
        ask("silent");
}

/* Its connection is made, and in the queue of one that does not take it. */
static void peer_busy(void)
{
        (void)hear("port");
        ask("queue");
}

/* Somebody who is no node, and another user perhaps. */
static void peer_stranger(void)
{
        ask("stranger");
}

/* As programs with a loop wait: behind an epoll, beside a signal that nobody sends. */
static void peer_silent_epoll(void)
{
        struct epoll_event e = {.events = EPOLLIN};
        int epoll = (int)checked(epoll_create1(EPOLL_CLOEXEC), "epoll_create1"), fd;

        (void)hear("port");
        fd = connect_to("silent");
        (void)checked(write(fd, "?", 1), "write");
        (void)checked(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e), "epoll_ctl");
        wedged();
        (void)epoll_wait(epoll, &e, 1, -1);
        not_wedged("epoll_wait");
}

/* A socket of datagrams hears nothing of its peer's end. */
static void peer_dead(void)
{
        int pair[2];
        char c;

        (void)checked(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair), "socketpair");
        (void)close(pair[1]);
        wedged();
        (void)recv(pair[0], &c, 1, 0);
        not_wedged("recv");
}

/* Its peer is gone without a word, as a machine is that lost its power. */
static void peer_dead_tcp(void)
{
        int port, on = 1, listening = listen_on_loopback(4, &port), peer, fd = (int)checked(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)port)};
        char c;

        (void)checked(connect(fd, (struct sockaddr *)&a, sizeof(a)), "connect");
        peer = (int)checked(accept4(listening, NULL, NULL, SOCK_CLOEXEC), "accept");
        (void)checked(setsockopt(peer, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)), "TCP_REPAIR");
        (void)close(peer);
        (void)close(listening);
        wedged();
        (void)recv(fd, &c, 1, 0);
        not_wedged("recv");
}

static void file_lock(void)
{
        (void)hear("port");
        wedged();
        lock_file("lock");
        not_wedged("flock");
}

static void file_lock_record(void)
{
        (void)hear("port");
        wedged();
        lock_record("record");
        not_wedged("F_SETLKW");
}

static void fifo_open(void)
{
        wedged();
        (void)open_fifo("lonely", O_RDONLY);
        not_wedged("open");
}

/* Nobody accepts: the first one is taken into the queue, the next one waits for room there. */
static void connect_full(void)
{
        (void)hear("port");
        (void)connect_to("full");
        wedged();
        (void)connect_to("full");
        not_wedged("connect");
}

static void connect_tcp(void)
{
        int port = hear("port");

        connect_inet(htonl(INADDR_LOOPBACK), port);
        wedged();
        connect_inet(htonl(INADDR_LOOPBACK), port);
        not_wedged("connect");
}

/* A network of its own, behind whose only interface nobody reads. */
static void connect_nowhere(void)
{
        struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI, .ifr_name = "nowhere"};
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a010101)};
        int tun, fd;

        (void)checked(unshare(CLONE_NEWNET), "unshare");
        tun = (int)checked(open("/dev/net/tun", O_RDWR | O_CLOEXEC), "/dev/net/tun");
        fd = (int)checked(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
        (void)checked(ioctl(tun, TUNSETIFF, &request), "TUNSETIFF");
        memcpy(&request.ifr_addr, &address, sizeof(address));
        (void)checked(ioctl(fd, SIOCSIFADDR, &request), "SIOCSIFADDR");
        address.sin_addr.s_addr = htonl(0xffffff00);
        memcpy(&request.ifr_netmask, &address, sizeof(address));
        (void)checked(ioctl(fd, SIOCSIFNETMASK, &request), "SIOCSIFNETMASK");
        request.ifr_flags = IFF_UP | IFF_RUNNING;
        (void)checked(ioctl(fd, SIOCSIFFLAGS, &request), "SIOCSIFFLAGS");
        wedged();
        connect_inet(htonl(0x0a010102), 7);
        not_wedged("connect");
}

/* A file system whose server does not answer: FOLDER is where it is mounted. */
static void file_system(void)
{
        wedged();
        (void)open(in_folder("file"), O_RDONLY | O_CLOEXEC);
        not_wedged("open");
}

/* The end of a process closes what it has open there. */
static void leave(void)
{
        (void)checked(open(in_folder("open"), O_RDONLY | O_CLOEXEC), "open");
        wedged();
        _exit(0);
}

/* Its child hangs there before it has become another program, and until then this process is uninterruptible, too. */
static void spawn(void)
{
        char path[512], *arguments[] = {path, NULL};
        pid_t pid;

        (void)snprintf(path, sizeof(path), "%s", in_folder("program"));
        wedged();
        (void)posix_spawn(&pid, path, NULL, NULL, arguments, NULL);
        not_wedged("posix_spawn");
}

/* ---- held by others */

static void stopped(void)
{
        wedged();
        (void)raise(SIGSTOP);
        stay();
}

static void traced(void)
{
        tell("traced", (int)getpid());
        stay();
}

static void tracer(void)
{
        pid_t pid = hear("traced");
        int status;

        (void)checked(ptrace(PTRACE_SEIZE, pid, NULL, NULL), "PTRACE_SEIZE");
        (void)checked(ptrace(PTRACE_INTERRUPT, pid, NULL, NULL), "PTRACE_INTERRUPT");
        (void)checked(waitpid(pid, &status, __WALL), "waitpid");
        wedged();
        stay();
}

static void sleeping(void)
{
        wedged();
        (void)nanosleep(&(struct timespec){.tv_sec = 86400}, NULL);
        not_wedged("nanosleep");
}

static void child(void)
{
        pid_t pid = (pid_t)checked(fork(), "fork");

        if (pid == 0)
                stay();
        wedged();
        (void)waitpid(pid, NULL, 0);
        not_wedged("waitpid");
}

static void *new_page(void)
{
        void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (page == MAP_FAILED)
                die("mmap");
        return page;
}

/* What is not in that page a descriptor promises to bring, and nobody reads that. */
static void promise(void *page, int flags)
{
        struct uffdio_api api = {.api = UFFD_API};
        struct uffdio_register part = {.range = {(uintptr_t)page, 4096}, .mode = UFFDIO_REGISTER_MODE_MISSING};
        int fd = (int)checked(syscall(SYS_userfaultfd, O_CLOEXEC | flags), "userfaultfd");

        (void)checked(ioctl(fd, UFFDIO_API, &api), "UFFDIO_API");
        (void)checked(ioctl(fd, UFFDIO_REGISTER, &part), "UFFDIO_REGISTER");
}

static void page_fault(void)
{
        volatile char *memory = new_page();

        promise((void *)(uintptr_t)memory, UFFD_USER_MODE_ONLY);
        wedged();
        memory[0] = 1;
        not_wedged("the write");
}

static void *take_away(void *page)
{
        char text[64] = "";

        for (int i = 0; i < 4000 && !strstr(text, "nanosleep"); i++) {
                FILE *f = fopen("/proc/self/wchan", "re"); /* of the first thread */

                if (!f || !fgets(text, sizeof(text), f))
                        (void)usleep(5000);
                if (f)
                        (void)fclose(f);
        }
        promise(page, 0);
        (void)checked(madvise(page, 4096, MADV_DONTNEED), "MADV_DONTNEED");
        wedged();
        stay();
}

/* It sleeps, for a time that is in memory which nobody can read without hanging, too. */
static void unreadable(void)
{
        struct timespec *span = new_page();
        pthread_t thread;

        span->tv_sec = 86400;
        if (pthread_create(&thread, NULL, take_away, span))
                die("pthread_create");
        (void)nanosleep(span, NULL);
        not_wedged("nanosleep");
}

/* ---- busy with nothing */

static void until_told(int fd)
{
        char c;

        if (read(fd, &c, 1) != 1)
                die("read");
}

static void busy(void)
{
        int fd = open_fifo("go-busy", O_RDWR);

        for (wedged();; spin(BURN_NS))
                until_told(fd);
}

static void on_signal(int signo)
{
        (void)signo;
        spin(HANDLER_NS);
}

/* The next one has come before the last one was dealt with. */
static void signals(void)
{
        struct sigaction action = {.sa_handler = on_signal};

        (void)checked(sigaction(SIGUSR1, &action, NULL), "sigaction");
        tell("signals", (int)getpid());
        stay();
}

static void storm(void)
{
        int fd = (int)checked(syscall(SYS_pidfd_open, hear("signals"), 0), "pidfd_open"), go = open_fifo("go-signals", O_RDWR);

        for (wedged();;) {
                uint64_t end;

                until_told(go);
                for (end = now_ns() + BURN_NS; now_ns() < end; (void)nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL))
                        (void)checked(syscall(SYS_pidfd_send_signal, fd, SIGUSR1, NULL, 0), "pidfd_send_signal");
        }
}

/* Onto the last processor that we may use: both are there. */
static void pin(void)
{
        cpu_set_t set;
        int last = CPU_SETSIZE - 1;

        (void)checked(sched_getaffinity(0, sizeof(set), &set), "sched_getaffinity");
        while (last > 0 && !CPU_ISSET(last, &set))
                last--;
        CPU_ZERO(&set);
        CPU_SET(last, &set);
        (void)checked(sched_setaffinity(0, sizeof(set), &set), "sched_setaffinity");
}

/* Wants a processor, and another one has it. */
static void starved(int policy)
{
        int fd = open_fifo("go-starved", O_RDWR);

        pin();
        (void)checked(sched_setscheduler(0, policy, &(struct sched_param){}), "sched_setscheduler");
        for (wedged();; spin(BURN_NS))
                until_told(fd);
}

/* The other one: for less than a second each time, whatever happens to it. */
static void hog(int policy)
{
        struct rlimit limit = {.rlim_cur = 1000000, .rlim_max = 1050000};
        struct sched_param param = {.sched_priority = policy == SCHED_FIFO ? 1 : 0};
        int fd = open_fifo("go-hog", O_RDWR);

        pin();
        (void)checked(setrlimit(RLIMIT_RTTIME, &limit), "RLIMIT_RTTIME");
        for (wedged();;) {
                until_told(fd);
                (void)checked(sched_setscheduler(0, policy, &param), "sched_setscheduler");
                (void)nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL); /* the limit counts from a sleep on */
                spin(HOG_NS);
                (void)checked(sched_setscheduler(0, SCHED_OTHER, &(struct sched_param){}), "sched_setscheduler");
        }
}

static void starved_by_real_time(void)
{
        starved(SCHED_OTHER);
}

static void hog_real_time(void)
{
        hog(SCHED_FIFO);
}

/* What an ordinary user may do to himself. Both are of one session: processors may be shared out by those first. */
static void starved_idle(void)
{
        if (checked(fork(), "fork") == 0)
                hog(SCHED_OTHER);
        starved(SCHED_IDLE);
}

int main(int argc, char **argv)
{
        static const struct {
                const char *name;
                void (*enter)(void);
        } states[] = {
                {"deadlock", deadlock},
                {"deadlock-of-two", deadlock_of_two},
                {"keeper", keeper},
                {"pipe-full", pipe_full},
                {"pipe-empty", pipe_empty},
                {"peer-silent", peer_silent},
                {"peer-silent-epoll", peer_silent_epoll},
                {"peer-busy", peer_busy},
                {"peer-stranger", peer_stranger},
                {"peer-dead", peer_dead},
                {"peer-dead-tcp", peer_dead_tcp},
                {"file-lock", file_lock},
                {"file-lock-record", file_lock_record},
                {"file-system", file_system},
                {"leave", leave},
                {"spawn", spawn},
                {"fifo-open", fifo_open},
                {"connect-full", connect_full},
                {"connect-tcp", connect_tcp},
                {"connect-nowhere", connect_nowhere},
                {"stopped", stopped},
                {"traced", traced},
                {"tracer", tracer},
                {"sleeping", sleeping},
                {"child", child},
                {"page-fault", page_fault},
                {"unreadable", unreadable},
                {"busy", busy},
                {"signals", signals},
                {"storm", storm},
                {"starved", starved_by_real_time},
                {"hog", hog_real_time},
                {"starved-idle", starved_idle},
        };

        if (argc != 3) {
                (void)fprintf(stderr, "usage: wedge STATE FOLDER\n");
                return 2;
        }
        folder = argv[2];
        for (size_t i = 0; i < sizeof(states) / sizeof(*states); i++)
                if (strcmp(argv[1], states[i].name) == 0)
                        states[i].enter();
        (void)fprintf(stderr, "no state %s, or it was left\n", argv[1]);
        return 1;
}
