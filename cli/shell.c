/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tidegate shell: commands one after the other, with completion and history. Each runs in a process of its own, so that
 * Ctrl-C ends the command and not the shell, and none inherits what another has left.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/limit.h"
#include "cli/commands.h"
#include "cli/dispatch.h"
#include "cli/line-edit.h"
#include "cli/print.h"
#include "cli/session.h"
#include "cli/table.h"

#define WORDS_MAX     256
#define COMPLETE_SPAN (500 * NSEC_PER_MSEC) /* what a supervisor gets to tell names before Tab says nothing */

static Session *shell_session; /* completion has no userdata */
static json_t *known_names;    /* of this line; NULL: not asked yet */

/* ---- words */

/* Cuts @line in place at spaces; '...' and "..." hold together, a backslash keeps the next character. Return: words, or -1.
 */
static int split(char *line, char **words)
{
        char *from = line, *to;
        int n = 0;

        for (;;) {
                char quote = 0;

                from += strspn(from, " \t");
                if (!*from)
                        break;
                if (n == WORDS_MAX)
                        return -1;
                words[n++] = to = from;
                for (; *from && (quote || (*from != ' ' && *from != '\t')); from++) {
                        if (quote ? *from == quote : *from == '\'' || *from == '"')
                                quote = quote ? 0 : *from;
                        else if (*from == '\\' && from[1] && quote != '\'')
                                *to++ = *++from;
                        else
                                *to++ = *from;
                }
                if (quote)
                        return -1;
                if (*from)
                        from++;
                *to = '\0';
        }
        words[n] = NULL;
        return n;
}

/* ---- completion */

static void add_if(json_t *to, const char *candidate, const char *word)
{
        if (strncmp(candidate, word, strlen(word)) == 0)
                (void)json_array_append_new(to, json_string(candidate));
}

/* Names of dataflows and of their nodes, or of their topics; asked once a line. */
static json_t *names(bool topics)
{
        json_t *dataflow, *node, *output;
        Reply reply = {};
        size_t i, k, l;

        if (known_names)
                return known_names;
        known_names = json_array();
        shell_session->timeout = COMPLETE_SPAN;
        shell_session->streaming = false;
        shell_session->json = true; /* no line about waiting in the middle of a line being edited */
        if (session_try(shell_session, "Status", topics ? json_pack("{sb}", "links", 1) : json_object(), &reply) == 0) {
                json_array_foreach(json_object_get(reply.parameters, "dataflows"), i, dataflow) {
                        const char *name = json_get_text(dataflow, "name");

                        if (!topics)
                                (void)json_array_append_new(known_names, json_string(name));
                        json_array_foreach(json_object_get(dataflow, "nodes"), k, node) {
                                if (!topics)
                                        (void)json_array_append_new(known_names, json_sprintf("%s:%s", name, json_get_text(node, "id")));
                                json_array_foreach(topics ? json_object_get(node, "outputs") : NULL, l, output)
                                        (void)json_array_append_new(known_names,
                                                json_sprintf("%s:%s/%s", name, json_get_text(node, "id"), json_get_text(output, "output")));
                        }
                }
        }
        reply_done(&reply);
        session_hang_up(shell_session);
        return known_names;
}

/* Options as the command's help lists them. */
static void add_options(json_t *to, const char *command, const char *word)
{
        const Command *known = command_find(command);

        for (const char *p = known ? strstr(known->details, "--") : NULL; p; p = strstr(p + 2, "--")) {
                char option[64];
                size_t n = strspn(p + 2, "abcdefghijklmnopqrstuvwxyz-") + 2;

                if (n < 4 || n >= sizeof(option))
                        continue;
                memcpy(option, p, n);
                option[n] = '\0';
                add_if(to, option, word);
        }
}

static void add_limits(json_t *to, const char *word)
{
        char text[64];

        for (unsigned i = 0; i < _LIMIT_KEY_MAX; i++) {
                (void)snprintf(text, sizeof(text), "%s=", limit_name(i));
                add_if(to, text, word);
        }
}

static json_t *complete(const char *before, const char *word)
{
        static const char *const verbs[] = {"list", "info", "stop", "restart", "signal"}, *const topic_verbs[] = {"list", "echo", "hz", "info", "pub"};
        char first[32] = "", second[32] = "";
        json_t *matches, *name;
        size_t i;

        (void)sscanf(before, " %31s %31s", first, second);
        if (first[0] && word[0] != '-' &&
                (strcmp(first, "start") == 0 || strcmp(first, "run") == 0 || strcmp(first, "validate") == 0 ||
                        strcmp(first, "graph") == 0))
                return NULL;
        matches = json_array();
        if (!first[0] || strcmp(first, "help") == 0) {
                for (i = 0; i < n_cli_commands; i++)
                        add_if(matches, cli_commands[i].name, word);
                if (!first[0]) {
                        add_if(matches, "exit", word);
                        add_if(matches, "quit", word);
                }
        } else if (word[0] == '-') {
                add_options(matches, first, word);
        } else if (strcmp(first, "node") == 0 && !second[0]) {
                for (i = 0; i < ELEMENTSOF(verbs); i++)
                        add_if(matches, verbs[i], word);
        } else if (strcmp(first, "topic") == 0 && !second[0]) {
                for (i = 0; i < ELEMENTSOF(topic_verbs); i++)
                        add_if(matches, topic_verbs[i], word);
        } else if (strcmp(first, "set-limit") == 0 && second[0]) {
                add_limits(matches, word);
        } else {
                json_array_foreach(names(strcmp(first, "topic") == 0 && strcmp(second, "list") != 0), i, name)
                        add_if(matches, json_string_value(name), word);
        }
        return matches;
}

/* ---- running */

/* The command is in the foreground of this terminal: Ctrl-C is for it, and its own deadlines bound it. */
static int run_in_child(int argc, char **argv)
{
        void (*before)(int) = signal(SIGINT, SIG_IGN);
        int wait_status = 0;
        pid_t pid;

        (void)fflush(stdout);
        pid = fork();
        if (pid == 0) {
                (void)signal(SIGINT, SIG_DFL);
                exit(command_finish(command_dispatch(argc, argv)));
        }
        while (pid > 0 && waitpid(pid, &wait_status, 0) < 0 && errno == EINTR)
                ;
        (void)signal(SIGINT, before);
        if (pid < 0) {
                fprintf(stderr, "tidegate shell: %s\n", strerror(errno));
                return CLI_FAILED;
        }
        if (WIFSIGNALED(wait_status) && isatty(STDOUT_FILENO))
                putchar('\n'); /* after ^C */
        return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : CLI_FAILED;
}

/* Return: false to leave. */
static bool run_line(const char *line, int *status)
{
        char *words[WORDS_MAX + 1], help[] = "help";
        _cleanup_free_ char *copy = strdup(line), *shown = strdup(line);
        int n = copy ? split(copy, words) : -1;

        if (n == 0)
                return true;
        if (n > 0 && (strcmp(words[0], "exit") == 0 || strcmp(words[0], "quit") == 0))
                return false;
        if (n > 0 && strcmp(words[0], "?") == 0)
                words[0] = help;
        if (n < 0 || !command_find(words[0]) || strcmp(words[0], "shell") == 0) {
                printf("*** Unknown syntax: %s\n", shown ? text_tame(shown, false) : "");
                *status = CLI_FAILED;
                return true;
        }
        *status = run_in_child(n, words);
        return true;
}

/* ---- the command */

static void on_interrupt(int signo)
{
        (void)signo;
        (void)!write(STDOUT_FILENO, "\n", 1);
        _exit(CLI_OK); /* as supervisorctl does; the editor has put the terminal right before it passed the signal on */
}

static char *history_path(void)
{
        const char *given = getenv("TIDEGATE_HISTORY"), *home = getenv("HOME");
        char *path = NULL;

        if (given)
                return *given ? strdup(given) : NULL;
        if (!home || !*home || asprintf(&path, "%s/.tidegate_history", home) < 0)
                return NULL;
        return path;
}

static int shell(void)
{
        const bool interactive = isatty(STDIN_FILENO);
        _cleanup_free_ char *history = interactive ? history_path() : NULL;
        char first[] = "status", *words[] = {first, NULL};
        int status = CLI_OK;
        bool goes_on = true;

        if (interactive)
                (void)signal(SIGINT, on_interrupt);
        line_edit_begin(history, complete);
        status = run_in_child(1, words);
        while (goes_on) {
                char *line = line_edit_read(interactive ? "tidegate> " : "");

                if (!line)
                        break;
                goes_on = run_line(line, &status);
                free(line);
                json_decref(known_names);
                known_names = NULL;
        }
        if (interactive && goes_on)
                putchar('\n'); /* after ^D */
        line_edit_end();
        return interactive ? CLI_OK : status;
}

int cmd_shell(int argc, char **argv)
{
        static const struct option options[] = {SESSION_LONG_OPTIONS, {NULL, 0, NULL, 0}};
        Session session = SESSION_INIT("shell");
        int status;

        session_begin();
        if (session_getopt(&session, argc, argv, "", options) != -1)
                return CLI_USAGE;
        if (optind < argc)
                return usage_error("shell", "unexpected argument `%s`", argv[optind]);
        status = session_locate(&session);
        if (!status && setenv("TIDEGATE_RUNTIME_DIR", session.runtime_dir, 1) < 0) /* for the commands */
                status = CLI_FAILED;
        shell_session = &session;
        if (!status)
                status = shell();
        session_done(&session);
        return status;
}
