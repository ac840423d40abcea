/* SPDX-License-Identifier: Apache-2.0 */
/*
 * As much of Criterion's interface as the tests of shm/ and node/ use, for builds with ThreadSanitizer, under which Criterion itself
 * does not run. Each test is a forked process with its timeout. TAP; arguments choose tests whose name contains one of them.
 */
#ifndef TG_TESTS_TSAN_CRITERION_H
#define TG_TESTS_TSAN_CRITERION_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct tsan_test {
        const char *suite, *name;
        void (*run)(void);
        struct tsan_options {
                double timeout;
        } options;
        struct tsan_test *next;
};

static struct tsan_test *tsan_tests;

#define Test(suite_, name_, ...)                                                                                       \
        static void suite_##_##name_(void);                                                                            \
        static struct tsan_test suite_##_##name_##_test = {.suite = #suite_, .name = #name_, .run = suite_##_##name_,  \
                .options = {__VA_ARGS__}};                                                                             \
        __attribute__((constructor)) static void suite_##_##name_##_add(void)                                          \
        {                                                                                                              \
                suite_##_##name_##_test.next = tsan_tests;                                                             \
                tsan_tests = &suite_##_##name_##_test;                                                                 \
        }                                                                                                              \
        static void suite_##_##name_(void)

__attribute__((format(printf, 4, 5), noreturn, unused)) static void tsan_fail(const char *file, int line, const char *what, const char *format, ...)
{
        va_list ap;

        va_start(ap, format);
        fprintf(stderr, "# %s:%d: %s does not hold; ", file, line, what);
        vfprintf(stderr, format, ap);
        fputc('\n', stderr);
        va_end(ap);
        _exit(1);
}

#define cr_assert(condition, ...)                                                                                      \
        do {                                                                                                           \
                if (!(condition))                                                                                      \
                        tsan_fail(__FILE__, __LINE__, #condition, " " __VA_ARGS__);                                    \
        } while (0)
#define cr_assert_not(condition, ...)   cr_assert(!(condition), __VA_ARGS__)
#define cr_assert_eq(a, b, ...)         cr_assert((a) == (b), __VA_ARGS__)
#define cr_assert_neq(a, b, ...)        cr_assert((a) != (b), __VA_ARGS__)
#define cr_assert_lt(a, b, ...)         cr_assert((a) < (b), __VA_ARGS__)
#define cr_assert_leq(a, b, ...)        cr_assert((a) <= (b), __VA_ARGS__)
#define cr_assert_gt(a, b, ...)         cr_assert((a) > (b), __VA_ARGS__)
#define cr_assert_geq(a, b, ...)        cr_assert((a) >= (b), __VA_ARGS__)
#define cr_assert_null(a, ...)          cr_assert((a) == NULL, __VA_ARGS__)
#define cr_assert_not_null(a, ...)      cr_assert((a) != NULL, __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...)     cr_assert(strcmp((a), (b)) == 0, __VA_ARGS__)
#define cr_assert_fail(...)             tsan_fail(__FILE__, __LINE__, "reaching this", " " __VA_ARGS__)
#define cr_expect_eq                    cr_assert_eq
#define cr_expect_leq                   cr_assert_leq
#define cr_skip(...)                    _exit(77)

#ifndef TSAN_NO_MAIN
static int tsan_chosen(const struct tsan_test *test, int argc, char **argv)
{
        for (int i = 1; i < argc; i++)
                if (strstr(test->name, argv[i]))
                        return 1;
        return argc == 1;
}

static int tsan_run(const struct tsan_test *test)
{
        int status;
        pid_t pid = fork();

        if (pid == 0) {
                (void)alarm(test->options.timeout > 0 ? (unsigned)test->options.timeout : 60);
                test->run();
                exit(0); /* not _exit(): what was found is said there */
        }
        return pid > 0 && waitpid(pid, &status, 0) == pid ? status : -1;
}

int main(int argc, char **argv)
{
        unsigned n = 0, failed = 0;

        setvbuf(stdout, NULL, _IOLBF, 0);
        for (struct tsan_test *test = tsan_tests; test; test = test->next)
                n += tsan_chosen(test, argc, argv) != 0;
        printf("1..%u\n", n);
        fflush(stdout);
        n = 0;
        for (struct tsan_test *test = tsan_tests; test; test = test->next) {
                int status;

                if (!tsan_chosen(test, argc, argv))
                        continue;
                status = tsan_run(test);
                failed += status != 0 && !(WIFEXITED(status) && WEXITSTATUS(status) == 77);
                printf("%s %u - %s::%s%s\n", status == 0 || (WIFEXITED(status) && WEXITSTATUS(status) == 77) ? "ok" : "not ok", ++n, test->suite, test->name,
                        WIFEXITED(status) && WEXITSTATUS(status) == 77 ? " # SKIP" : "");
        }
        return failed > 0;
}
#endif

#endif
