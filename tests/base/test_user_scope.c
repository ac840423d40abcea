/* SPDX-License-Identifier: Apache-2.0 */
/*
 * user_scope_enter() against a service manager that refuses, talks nonsense, says nothing or dies. One that does what it is asked is in tests/vm: to
 * move a process needs a real one.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/user_scope.h"

#define SPAN (200 * NSEC_PER_MSEC)

#define PAD(n) (((n) + 7u) & ~7u)

typedef struct Manager {
        char folder[64];
        int listen_fd;
        pthread_t thread;
        const char *hello; /* in answer to the credentials; NULL: nothing */
        uint8_t answer[1024]; /* to the call */
        size_t n_answer;
        char asked[4096]; /* what came */
        size_t n_asked;
} Manager;

static void *serve(void *arg)
{
        Manager *m = arg;
        int fd = accept4(m->listen_fd, NULL, NULL, SOCK_CLOEXEC);

        if (fd < 0)
                return NULL;
        for (unsigned i = 0; i < 2; i++) { /* credentials, then the call */
                ssize_t n = recv(fd, m->asked + m->n_asked, sizeof(m->asked) - m->n_asked, 0);

                if (n <= 0)
                        break;
                m->n_asked += (size_t)n;
                if (i == 0 && m->hello)
                        (void)!write(fd, m->hello, strlen(m->hello));
                if (i == 0 && !m->hello)
                        break;
                if (i == 1 && m->n_answer > 0)
                        (void)!write(fd, m->answer, m->n_answer);
        }
        if (!m->hello || m->n_answer == 0) { /* silent, until the other one leaves */
                char c;

                (void)!recv(fd, &c, 1, 0);
        }
        (void)close(fd);
        return NULL;
}

static void manager_start(Manager *m)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};

        (void)snprintf(m->folder, sizeof(m->folder), "/tmp/user-scope-XXXXXX");
        cr_assert_not_null(mkdtemp(m->folder));
        (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s/systemd", m->folder);
        cr_assert_eq(mkdir(address.sun_path, 0700), 0);
        (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s/systemd/private", m->folder);
        m->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        cr_assert_eq(bind(m->listen_fd, (struct sockaddr *)&address, sizeof(address)), 0);
        cr_assert_eq(listen(m->listen_fd, 4), 0);
        cr_assert_eq(setenv("XDG_RUNTIME_DIR", m->folder, 1), 0);
        cr_assert_eq(pthread_create(&m->thread, NULL, serve, m), 0);
}

static void manager_end(Manager *m)
{
        char path[128];

        (void)shutdown(m->listen_fd, SHUT_RDWR); /* wakes one that nobody came to */
        (void)pthread_join(m->thread, NULL);
        (void)close(m->listen_fd);
        (void)snprintf(path, sizeof(path), "%s/systemd/private", m->folder);
        (void)unlink(path);
        (void)snprintf(path, sizeof(path), "%s/systemd", m->folder);
        (void)rmdir(path);
        (void)rmdir(m->folder);
}

static int enter_within(nsec_t span, char why[static 256])
{
        const pid_t pids[] = {getpid()};

        why[0] = '\0';
        return user_scope_enter("tidegate-test.scope", "a test", pids, 1, nsec_add(clock_now(), span), why, 256);
}

static int enter(char why[static 256])
{
        return enter_within(SPAN, why);
}

/* An answer of type error, as D-Bus has it: name and text. */
static size_t error_answer(uint8_t *to, const char *name, const char *text)
{
        uint32_t n_name = (uint32_t)strlen(name), n_text = (uint32_t)strlen(text), fields, body = 4 + n_text + 1;
        size_t at = 16;

        memset(to, 0, 512);
        memcpy(to, (const uint8_t[]){'l', 3, 1, 1}, 4);
        memcpy(to + 4, &body, 4);
        memcpy(to + at, (const uint8_t[]){5, 1, 'u', 0, 1, 0, 0, 0}, 8); /* to call 1 */
        at += 8;
        memcpy(to + at, (const uint8_t[]){4, 1, 's', 0}, 4);
        memcpy(to + at + 4, &n_name, 4);
        memcpy(to + at + 8, name, n_name + 1);
        at += 8 + n_name + 1;
        fields = (uint32_t)(at - 16);
        memcpy(to + 12, &fields, 4);
        at = PAD(at);
        memcpy(to + at, &n_text, 4);
        memcpy(to + at + 4, text, n_text + 1);
        return at + body;
}

Test(user_scope, says_that_there_is_no_manager, .timeout = 10)
{
        char why[256];

        cr_assert_eq(setenv("XDG_RUNTIME_DIR", "/nonexistent", 1), 0);
        cr_assert_eq(enter(why), -ENOENT);
        cr_assert_not_null(strstr(why, "no service manager of this user's runs"));
}

Test(user_scope, tells_the_managers_reason, .timeout = 10)
{
        Manager m = {.hello = "OK 0123456789abcdef\r\n"};
        char why[256];

        m.n_answer = error_answer(m.answer, "org.freedesktop.DBus.Error.AccessDenied", "Not today");
        manager_start(&m);
        cr_assert_eq(enter_within(5 * NSEC_PER_SEC, why), -EPERM); /* it answers, when it gets a processor */
        cr_assert_str_eq(why, "the user's service manager refuses a scope: Not today");
        manager_end(&m);
        cr_assert_eq(m.asked[0], '\0');
        cr_assert_eq(memcmp(m.asked + 1, "AUTH EXTERNAL ", 14), 0);
        cr_assert_not_null(memmem(m.asked, m.n_asked, "StartTransientUnit", 18));
        cr_assert_not_null(memmem(m.asked, m.n_asked, "tidegate-test.scope", 19));
        cr_assert_not_null(memmem(m.asked, m.n_asked, "Delegate", 8));
}

Test(user_scope, does_not_believe_that_it_was_moved, .timeout = 10)
{
        Manager m = {.hello = "OK 0123456789abcdef\r\n", .answer = {'l', 2, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 5, 1, 'u', 0, 1}, .n_answer = 24};
        char why[256];

        manager_start(&m);
        cr_assert_eq(enter(why), -ETIMEDOUT);
        cr_assert_not_null(strstr(why, "made no scope in time"));
        manager_end(&m);
}

Test(user_scope, waits_for_one_that_says_nothing_until_its_deadline, .timeout = 10)
{
        for (unsigned i = 0; i < 2; i++) {
                Manager m = {.hello = i == 0 ? NULL : "OK 0123456789abcdef\r\n"};
                nsec_t begin = clock_now();
                char why[256];

                manager_start(&m);
                cr_assert_eq(enter(why), -ETIMEDOUT);
                cr_assert_geq(clock_now() - begin, SPAN);
                manager_end(&m);
        }
}

Test(user_scope, survives_one_that_talks_nonsense, .timeout = 20)
{
        static const char *const hellos[] = {"REJECTED EXTERNAL\r\n", "OK\r\n", "\r\n", "OK 0123456789abcdef\r\n"};
        Manager good = {};
        size_t size = error_answer(good.answer, "org.freedesktop.systemd1.UnitExists", "there");
        char why[256];

        for (size_t i = 0; i < ELEMENTSOF(hellos); i++) {
                Manager m = {.hello = hellos[i], .answer = {'B', 3, 1, 1}, .n_answer = 64};

                manager_start(&m);
                cr_assert_lt(enter(why), 0);
                cr_assert_gt((int)strlen(why), 0);
                manager_end(&m);
        }
        for (size_t byte = 4; byte < size; byte++) { /* sizes that are none, texts without an end */
                Manager m = {.hello = "OK 0123456789abcdef\r\n", .n_answer = size};

                memcpy(m.answer, good.answer, size);
                m.answer[byte] = 0xff;
                manager_start(&m);
                cr_assert_lt(enter(why), 0, "byte %zu", byte);
                manager_end(&m);
        }
}
