/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PID 1 of the guest that scripts/vm starts: a static program in the first file system, beside the modules that it loads.
 *
 * It mounts the host's / (9p, read-only) below a layer in memory, the shares that the kernel's command line names, and then
 *     vm.mode=run      runs /run/vm/command with its output on the virtio port, leaves its exit status in /run/vm/status, and powers off
 *     vm.mode=systemd  becomes systemd, which does the same as a service (units/)
 * vm.shareN=PATH and vm.layerN=PATH are mounted there: for writing, or below a layer in memory. vm.timeout=SECONDS bounds the command.
 *
 * On a host it does one thing: `init --tsc-khz` prints how fast the time stamp counter runs.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define P9       "trans=virtio,version=9p2000.L,msize=524288,access=client,cache="
#define OPTION   256
#define N_SHARES 8

static char cmdline[4096];
static int kmsg = 2;

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
        char text[512] = "<5>vm: ";
        size_t n = strlen(text);
        va_list args;

        va_start(args, format);
        (void)vsnprintf(text + n, sizeof(text) - n - 1, format, args);
        va_end(args);
        n = strlen(text);
        text[n] = '\n';
        (void)!write(kmsg, text, n + 1);
}

_Noreturn static void power_off(void)
{
        sync();
        (void)reboot(RB_POWER_OFF);
        for (;;)
                (void)pause();
}

_Noreturn static void die(const char *what)
{
        say("%s: %s", what, strerror(errno));
        power_off();
}

/* Without what is mounted here nothing would mean anything. */
static void must_mount(const char *source, const char *at, const char *type, unsigned long flags, const char *data)
{
        (void)mkdir(at, 0755);
        if (mount(source, at, type, flags, data) < 0)
                die(at);
}

static void may_mount(const char *source, const char *at, const char *type, unsigned long flags, const char *data)
{
        (void)mkdir(at, 0755);
        if (mount(source, at, type, flags, data) < 0)
                say("%s: %s", at, strerror(errno));
}

/* The value of NAME=VALUE on the kernel's command line. */
static bool option(const char *name, char ret[static OPTION])
{
        size_t n = strlen(name);

        for (const char *p = cmdline; (p = strstr(p, name)); p += n) {
                if ((p != cmdline && p[-1] != ' ') || p[n] != '=')
                        continue;
                (void)snprintf(ret, OPTION, "%.*s", (int)strcspn(p + n + 1, " \n"), p + n + 1);
                return true;
        }
        return false;
}

static void write_file(const char *path, const char *text)
{
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

        if (fd < 0 || write(fd, text, strlen(text)) < 0)
                say("%s: %s", path, strerror(errno));
        if (fd >= 0)
                (void)close(fd);
}

/* ---- the file systems */

static void load_modules(void)
{
        FILE *order = fopen("/modules/order", "re");
        char name[128], path[160];

        while (order && fscanf(order, "%127s", name) == 1) {
                int fd;

                (void)snprintf(path, sizeof(path), "/modules/%s", name);
                fd = open(path, O_RDONLY | O_CLOEXEC);
                if ((fd < 0 || syscall(SYS_finit_module, fd, "", 0) < 0) && errno != EEXIST)
                        say("module %s: %s", name, strerror(errno));
                (void)close(fd);
        }
        if (order)
                (void)fclose(order);
}

/* A folder of the host that nobody changes, below a layer of our own. @name: of its two folders in /upper. */
static void mount_layer(const char *tag, const char *name, const char *at)
{
        char lower[OPTION], upper[OPTION], work[OPTION], data[4 * OPTION];

        (void)snprintf(lower, sizeof(lower), "/lower/%s", name);
        (void)snprintf(upper, sizeof(upper), "/upper/%s", name);
        (void)snprintf(work, sizeof(work), "/upper/%s.work", name);
        (void)mkdir(upper, 0755);
        (void)mkdir(work, 0755);
        must_mount(tag, lower, "9p", MS_RDONLY, P9 "loose");
        (void)snprintf(data, sizeof(data), "lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work);
        must_mount("overlay", at, "overlay", 0, data);
}

static void make_parents(char *path)
{
        for (char *p = path + 1; *p; p++) {
                if (*p != '/')
                        continue;
                *p = '\0';
                (void)mkdir(path, 0755);
                *p = '/';
        }
}

static void mount_shares(const char *kind)
{
        for (unsigned i = 0; i < N_SHARES; i++) {
                char name[32], tag[32], path[OPTION], at[OPTION + 8];

                (void)snprintf(name, sizeof(name), "vm.%s%u", kind, i);
                (void)snprintf(tag, sizeof(tag), "%s%u", kind, i);
                if (!option(name, path))
                        return;
                (void)snprintf(at, sizeof(at), "/root%s", path);
                make_parents(at);
                if (strcmp(kind, "layer") == 0)
                        mount_layer(tag, tag, at);
                else
                        must_mount(tag, at, "9p", 0, P9 "mmap");
        }
}

static void mount_all(void)
{
        static const char *const moved[] = {"/dev", "/proc", "/sys"};
        struct utsname host;
        char at[OPTION];

        must_mount("upper", "/upper", "tmpfs", 0, "mode=755");
        must_mount("lower", "/lower", "tmpfs", 0, "mode=755");
        mount_layer("root", "root", "/root");
        for (unsigned i = 0; i < sizeof(moved) / sizeof(*moved); i++) {
                (void)snprintf(at, sizeof(at), "/root%s", moved[i]);
                if (mount(moved[i], at, NULL, MS_MOVE, NULL) < 0)
                        die(at);
        }
        must_mount("run", "/root/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755");
        must_mount("tmp", "/root/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
        must_mount("own", "/root/run/vm", "9p", 0, P9 "mmap");
        /* modprobe finds what it looks for. */
        (void)uname(&host);
        (void)snprintf(at, sizeof(at), "/root/lib/modules/%.65s", host.release);
        make_parents(at);
        may_mount("modules", "/lower/modules", "9p", MS_RDONLY, P9 "loose");
        (void)mkdir(at, 0755);
        {
                char from[OPTION];

                (void)snprintf(from, sizeof(from), "/lower/modules/%.65s", host.release);
                if (mount(from, at, NULL, MS_BIND, NULL) < 0)
                        say("%s: %s", at, strerror(errno));
        }
        mount_shares("share");
        mount_shares("layer");
        if (chdir("/root") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
                die("/root");
}

/* ---- the rest of the machine */

static void loopback_up(void)
{
        struct ifreq lo = {.ifr_name = "lo"};
        int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        if (s < 0 || ioctl(s, SIOCGIFFLAGS, &lo) < 0)
                return;
        lo.ifr_flags |= IFF_UP | IFF_RUNNING;
        (void)ioctl(s, SIOCSIFFLAGS, &lo);
        (void)close(s);
}

/* The path of our virtio port, which appears some time after its module; the console's when it does not. */
static void find_port(char ret[static OPTION])
{
        for (unsigned tries = 0; tries < 400; tries++) {
                DIR *dir = opendir("/sys/class/virtio-ports");
                struct dirent *e;
                bool found = false;

                while (dir && !found && (e = readdir(dir))) {
                        char path[OPTION + 64], name[64] = "";
                        FILE *f;

                        (void)snprintf(path, sizeof(path), "/sys/class/virtio-ports/%.200s/name", e->d_name);
                        f = fopen(path, "re");
                        if (!f)
                                continue;
                        found = fscanf(f, "%63s", name) == 1 && strcmp(name, "vm.out") == 0;
                        (void)fclose(f);
                        (void)snprintf(ret, OPTION, "/dev/%.200s", e->d_name);
                }
                if (dir)
                        (void)closedir(dir);
                if (found)
                        return;
                (void)usleep(5000);
        }
        say("no virtio port: output goes to the console");
        (void)snprintf(ret, OPTION, "/dev/console");
}

static void set_environment(void)
{
        (void)setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
        (void)setenv("HOME", "/root", 1);
        (void)setenv("TERM", "dumb", 1);
}

/* ---- systemd */

static void mask(const char *folder, const char *name)
{
        char path[2 * OPTION];

        (void)snprintf(path, sizeof(path), "%s/%.200s", folder, name);
        (void)symlink("/dev/null", path);
}

static void copy_unit(const char *name)
{
        char from[OPTION], to[OPTION], text[4096];
        int fd;
        ssize_t n;

        (void)snprintf(from, sizeof(from), "/run/vm/units/%s", name);
        (void)snprintf(to, sizeof(to), "/run/systemd/system/%s", name);
        fd = open(from, O_RDONLY | O_CLOEXEC);
        n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
        if (n < 0)
                die(from);
        (void)close(fd);
        text[n] = '\0';
        write_file(to, text);
}

_Noreturn static void become_systemd(void)
{
        static char *const argv[] = {"/lib/systemd/systemd", "--unit=tidegate-vm.target", NULL};
        const char *generators = "/run/systemd/system-generators";
        char name[OPTION];
        struct dirent *e;
        FILE *masked;
        DIR *dir;

        (void)mkdir("/run/systemd", 0755);
        (void)mkdir("/run/systemd/system", 0755);
        (void)mkdir(generators, 0755);
        copy_unit("tidegate-vm.target");
        copy_unit("tidegate-vm-command.service");
        /* Units and generators that only cost time here. */
        masked = fopen("/run/vm/units/masked", "re");
        while (masked && fscanf(masked, "%255s", name) == 1)
                mask("/run/systemd/system", name);
        dir = opendir("/usr/lib/systemd/system-generators");
        while (dir && (e = readdir(dir)))
                if (e->d_name[0] != '.')
                        mask(generators, e->d_name);
        find_port(name);
        (void)symlink(name, "/dev/vm.out");
        (void)execv(argv[0], argv);
        die(argv[0]);
}

/* ---- the command */

static volatile sig_atomic_t time_is_over;

static void on_alarm(int signo)
{
        (void)signo;
        time_is_over = 1;
}

static void mount_kernel(void)
{
        must_mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, "nsdelegate,memory_recursiveprot");
        must_mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "ptmxmode=666,mode=620,gid=5");
        must_mount("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
        may_mount("bpf", "/sys/fs/bpf", "bpf", 0, "mode=700");
        may_mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
        may_mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, NULL);
        write_file("/sys/fs/cgroup/cgroup.subtree_control", "+cpu +memory +pids +io +cpuset");
}

static pid_t start_command(void)
{
        char port[OPTION];
        int in, out;
        pid_t pid;

        find_port(port);
        in = open("/dev/null", O_RDONLY | O_CLOEXEC);
        out = open(port, O_WRONLY | O_CLOEXEC);
        if (in < 0 || out < 0)
                die(port);
        pid = fork();
        if (pid != 0)
                return pid;
        (void)setsid();
        (void)signal(SIGALRM, SIG_DFL);
        if (dup2(in, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 || dup2(out, STDERR_FILENO) < 0)
                _exit(127);
        (void)execl("/bin/sh", "sh", "/run/vm/command", (char *)NULL);
        _exit(127);
}

/* As PID 1 we reap whoever ends; the command's end is the guest's. */
static int wait_for(pid_t command, unsigned seconds)
{
        struct sigaction action = {.sa_handler = on_alarm};
        int status;

        (void)sigaction(SIGALRM, &action, NULL);
        (void)alarm(seconds);
        for (;;) {
                pid_t pid = waitpid(-1, &status, 0);

                if (pid == command)
                        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
                if (pid < 0 && errno == EINTR && time_is_over) {
                        say("the time is over; who is blocked:");
                        write_file("/proc/sysrq-trigger", "w");
                        return 124;
                }
                if (pid < 0 && errno != EINTR)
                        return 125;
        }
}

static double uptime(void)
{
        struct timespec t;

        (void)clock_gettime(CLOCK_BOOTTIME, &t);
        return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

_Noreturn static void run_command(void)
{
        char seconds[OPTION] = "0", text[16];
        int status;

        mount_kernel();
        (void)option("vm.timeout", seconds);
        say("the command starts at %.3f s", uptime());
        status = wait_for(start_command(), (unsigned)strtoul(seconds, NULL, 10));
        say("status %d at %.3f s", status, uptime());
        (void)snprintf(text, sizeof(text), "%d\n", status);
        write_file("/run/vm/status", text);
        power_off();
}

/* ---- on the host */

static int64_t now_ns(void)
{
        struct timespec t;

        (void)clock_gettime(CLOCK_MONOTONIC_RAW, &t);
        return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* The counter at a moment that is known to within the quickest of some tries. */
static void read_both(int64_t *ret_ns, uint64_t *ret_tsc)
{
        int64_t best = INT64_MAX;

        for (unsigned i = 0; i < 20; i++) {
                int64_t before = now_ns();
                uint64_t tsc = __rdtsc();
                int64_t after = now_ns();

                if (after - before >= best)
                        continue;
                best = after - before;
                *ret_ns = before + best / 2;
                *ret_tsc = tsc;
        }
}

static int print_tsc_khz(void)
{
        uint64_t tsc[2];
        int64_t ns[2];

        read_both(&ns[0], &tsc[0]);
        (void)usleep(50000);
        read_both(&ns[1], &tsc[1]);
        return printf("%.0f\n", (double)(tsc[1] - tsc[0]) * 1e6 / (double)(ns[1] - ns[0])) < 0;
}

int main(int argc, char **argv)
{
        char mode[OPTION] = "run";
        int fd;

        if (argc == 2 && strcmp(argv[1], "--tsc-khz") == 0)
                return print_tsc_khz();
        if (getpid() != 1) { /* it mounts over / */
                fprintf(stderr, "init: only as PID 1 of a guest\n");
                return 1;
        }
        must_mount("dev", "/dev", "devtmpfs", 0, NULL);
        must_mount("proc", "/proc", "proc", 0, NULL);
        must_mount("sys", "/sys", "sysfs", 0, NULL);
        kmsg = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
        fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
        if (fd < 0 || read(fd, cmdline, sizeof(cmdline) - 1) <= 0)
                die("/proc/cmdline");
        (void)close(fd);
        load_modules();
        mount_all();
        loopback_up();
        (void)sethostname("vm", 2);
        set_environment();
        (void)option("vm.mode", mode);
        if (strcmp(mode, "systemd") == 0)
                become_systemd();
        run_command();
}
