/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tidegate-pipe: lets shell scripts be nodes. Lines in, messages out; messages in, lines out; or both, around a command.
 *
 * One loop for all: what came from the node waits in one buffer until it was written, and no event is taken before, so a
 * reader that does not read throttles its senders (or makes them drop) and costs no memory here. What is read becomes
 * messages at once; a send that waits for room ends with stop.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "tidegate/tidegate.h"

#define LINE_MAX_BYTES (64u << 20)
#define READ_BYTES     65536u

typedef struct Buffer {
        char *bytes;
        size_t begin, end, allocated;
} Buffer;

typedef struct Pipe {
        /* from the command line */
        const char *as, *dataflow;   /* a dynamic node; NULL: whatever this process was started as */
        const char *output;          /* NULL: nothing is sent */
        const char *const *inputs;   /* of --receive; none named: all */
        size_t n_inputs, raw_bytes;  /* raw_bytes: size of the chunks that are sent; 0: lines */
        bool receive, raw, with_id;
        char *const *command;        /* NULL: stdin and stdout are ours */

        tg_node *node;
        int in_fd, out_fd;           /* bytes become messages; messages become bytes. -1: no more */
        pid_t child;
        int child_fd, status;        /* its pidfd, -1 once it is reaped; then its exit status */
        bool ended;                  /* no event comes any more */
        bool warned;
        Buffer in, out;
} Pipe;

static const char help[] =
        "usage: tidegate-pipe --send OUTPUT [--raw BYTES]\n"
        "       tidegate-pipe --receive [INPUT...] [--raw] [--with-id]\n"
        "       tidegate-pipe --receive [INPUT...] --send OUTPUT [options] -- COMMAND [ARGUMENT...]\n"
        "\n"
        "Makes a node of a shell script: run it from a program that Tidegate started, or by hand with --as. A node has one\n"
        "connection, so one tidegate-pipe per node; the third form does both directions.\n"
        "\n"
        "  --send OUTPUT       each line of stdin, without its newline, becomes a message; the end of stdin closes OUTPUT\n"
        "  --receive [INPUT]   each message of these inputs (default: all) is printed, with a newline after it\n"
        "  --raw [BYTES]       no newlines: --send reads chunks of BYTES, --receive prints the bytes alone\n"
        "  --with-id           prints the input's id and a tab before each message\n"
        "  --as ID             started by hand: connects as the dynamic node ID of a dataflow that runs\n"
        "  --dataflow NAME     with --as, when more than one has such a node: the dataflow's name or uuid\n"
        "  -- COMMAND          messages go to its stdin, its lines are sent; exits with its status\n"
        "\n"
        "Exit status: 0 at the end of the stream, after a stop, or when nobody reads any more; 1 failed; 2 usage.\n";

static int usage(const char *what, const char *which)
{
        fprintf(stderr, "tidegate-pipe: %s%s\nTry tidegate-pipe --help.\n", what, which ? which : "");
        return 2;
}

static int fail(const char *what, int r)
{
        fprintf(stderr, "tidegate-pipe: %s: %s\n", what, tg_strerror(r));
        return 1;
}

/* -------- buffers -------- */

static int buffer_reserve(Buffer *b, size_t n)
{
        size_t want = b->end - b->begin + n;
        char *bytes;

        if (b->begin > 0 && (b->begin == b->end || b->begin > b->allocated / 2)) {
                memmove(b->bytes, b->bytes + b->begin, b->end - b->begin);
                b->end -= b->begin;
                b->begin = 0;
        }
        if (b->allocated - b->end >= n)
                return 0;
        want = MAX(want + b->begin, 2 * b->allocated);
        bytes = realloc(b->bytes, want);
        if (!bytes)
                return -ENOMEM;
        b->bytes = bytes;
        b->allocated = want;
        return 0;
}

static void buffer_put(Buffer *b, const void *bytes, size_t n)
{
        if (n > 0)
                memcpy(b->bytes + b->end, bytes, n);
        b->end += n;
}

static bool buffer_empty(const Buffer *b)
{
        return b->begin == b->end;
}

/* -------- bytes become messages -------- */

/* 0, TG_E_STOPPING, or a failure that was printed (1, as an exit status; negative here). */
static int send_message(Pipe *p, const char *bytes, size_t size)
{
        int r = tg_send(p->node, p->output, bytes, size, NULL);

        if (r == TG_E_DROPPED) {
                if (!p->warned)
                        fprintf(stderr, "tidegate-pipe: %s: %s; the message is dropped (said once)\n", p->output, tg_strerror(r));
                p->warned = true;
                return 0;
        }
        if (r != 0 && r != TG_E_STOPPING) {
                (void)fail(p->output, r);
                return -1;
        }
        return r;
}

static int send_complete(Pipe *p, bool at_end)
{
        Buffer *b = &p->in;
        int r = 0;

        while (r == 0 && !buffer_empty(b)) {
                size_t left = b->end - b->begin, size = p->raw_bytes, skip = 0;
                const char *newline = p->raw_bytes ? NULL : memchr(b->bytes + b->begin, '\n', left);

                if (newline) {
                        size = (size_t)(newline - (b->bytes + b->begin));
                        skip = 1;
                } else if (!p->raw_bytes || left < size) {
                        if (!at_end)
                                break;
                        size = left;
                }
                r = send_message(p, b->bytes + b->begin, size);
                b->begin += size + skip;
        }
        if (r == 0 && b->end - b->begin > LINE_MAX_BYTES && !p->raw_bytes) {
                fprintf(stderr, "tidegate-pipe: a line of more than %u MiB\n", LINE_MAX_BYTES >> 20);
                return -1;
        }
        return r;
}

static int end_input(Pipe *p)
{
        int r = send_complete(p, true);

        if (p->in_fd != STDIN_FILENO)
                (void)fd_close(p->in_fd);
        p->in_fd = -1;
        (void)tg_close_outputs(p->node, &p->output, 1);
        return r;
}

/* Return: 0, TG_E_STOPPING, or -1 for a failure that was printed. */
static int read_some(Pipe *p)
{
        ssize_t n;

        if (buffer_reserve(&p->in, MAX(READ_BYTES, p->raw_bytes))) {
                (void)fail("reading", -ENOMEM);
                return -1;
        }
        n = read(p->in_fd, p->in.bytes + p->in.end, p->in.allocated - p->in.end);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return 0;
        if (n < 0) {
                (void)fail("reading", -errno);
                return -1;
        }
        if (n == 0)
                return end_input(p);
        p->in.end += (size_t)n;
        return send_complete(p, false);
}

/* -------- messages become bytes -------- */

static bool wanted(const Pipe *p, const char *id)
{
        for (size_t i = 0; i < p->n_inputs; i++)
                if (strcmp(p->inputs[i], id) == 0)
                        return true;
        return p->receive && p->n_inputs == 0;
}

static int put_event(Pipe *p, const tg_event *ev)
{
        const char *id = tg_event_id(ev);
        size_t id_len = strlen(id), size = tg_event_size(ev);

        if (tg_event_type(ev) == TG_EVENT_ERROR)
                fprintf(stderr, "tidegate-pipe: %.*s\n", (int)size, (const char *)tg_event_data(ev));
        if (tg_event_type(ev) != TG_EVENT_INPUT || !wanted(p, id) || p->out_fd < 0)
                return 0;
        if (buffer_reserve(&p->out, id_len + 1 + size + 1))
                return -ENOMEM;
        if (p->with_id) {
                buffer_put(&p->out, id, id_len);
                buffer_put(&p->out, "\t", 1);
        }
        buffer_put(&p->out, tg_event_data(ev), size);
        if (!p->raw)
                buffer_put(&p->out, "\n", 1);
        return 0;
}

static void end_output(Pipe *p)
{
        if (p->out_fd >= 0 && p->out_fd != STDOUT_FILENO)
                (void)fd_close(p->out_fd);
        p->out_fd = -1;
        p->out.begin = p->out.end = 0;
}

/* Takes events while there is nothing to be written. Return: 0, or -1 for a failure that was printed. */
static int take_events(Pipe *p)
{
        tg_event *ev;
        int r = 0;

        while (!p->ended && r == 0 && buffer_empty(&p->out)) {
                r = tg_next(p->node, &ev, 0);
                if (r == TG_E_TIMEOUT || r == -EINTR)
                        return 0;
                if (r == TG_E_END)
                        p->ended = true;
                if (r > 0)
                        return 0;
                if (r < 0)
                        break;
                r = put_event(p, ev);
                tg_event_free(ev);
        }
        if (r < 0) {
                (void)fail("taking an event", r);
                return -1;
        }
        return 0;
}

static int write_some(Pipe *p)
{
        ssize_t n = write(p->out_fd, p->out.bytes + p->out.begin, p->out.end - p->out.begin);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return 0;
        if (n < 0 && errno != EPIPE) {
                (void)fail("writing", -errno);
                return -1;
        }
        if (n < 0)
                end_output(p); /* nobody reads any more */
        else
                p->out.begin += (size_t)n;
        return 0;
}

/* -------- the command -------- */

static void become_command(const Pipe *p, int in, int out)
{
        (void)signal(SIGPIPE, SIG_DFL); /* ours is ignored, and that would be inherited */
        if (dup2(in, STDIN_FILENO) >= 0 && dup2(out, STDOUT_FILENO) >= 0)
                (void)execvp(p->command[0], p->command);
        fprintf(stderr, "tidegate-pipe: %s: %s\n", p->command[0], strerror(errno));
        _exit(errno == ENOENT ? 127 : 126);
}

static int start_command(Pipe *p)
{
        int to[2], from[2];

        if (pipe2(to, O_CLOEXEC) < 0 || pipe2(from, O_CLOEXEC) < 0)
                return fail("pipe", -errno);
        p->child = fork();
        if (p->child < 0)
                return fail("fork", -errno);
        if (p->child == 0)
                become_command(p, to[0], from[1]);
        (void)fd_close(to[0]);
        (void)fd_close(from[1]);
        p->out_fd = to[1];
        p->in_fd = from[0];
        (void)fcntl(p->out_fd, F_SETFL, O_NONBLOCK); /* our end of our pipe: nobody shares this description */
        (void)fcntl(p->in_fd, F_SETFL, O_NONBLOCK);
        p->child_fd = (int)syscall(SYS_pidfd_open, p->child, 0);
        return p->child_fd < 0 ? fail("pidfd_open", -errno) : 0;
}

/* It is gone; something it started may keep its stdout open for ever, so what is there now is the last. */
static int end_command(Pipe *p)
{
        int status = 0, r = 0;

        while (waitpid(p->child, &status, 0) < 0 && errno == EINTR)
                ;
        p->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        p->child_fd = fd_close(p->child_fd);
        end_output(p);
        while (p->in_fd >= 0 && r == 0) {
                int available = p->in_fd;
                struct pollfd pfd = {.fd = available, .events = POLLIN};

                if (poll(&pfd, 1, 0) <= 0)
                        r = end_input(p);
                else
                        r = read_some(p);
        }
        return r < 0 ? r : 0;
}

/* -------- the loop -------- */

static bool finished(const Pipe *p)
{
        if (p->command)
                return p->child_fd < 0;
        if (p->receive)
                return p->out_fd < 0 || (p->ended && buffer_empty(&p->out));
        return p->in_fd < 0 || p->ended;
}

static int turn(Pipe *p)
{
        struct pollfd pfds[4] = {
                {.fd = buffer_empty(&p->out) && !p->ended ? tg_node_fd(p->node) : -1, .events = POLLIN},
                {.fd = p->in_fd, .events = POLLIN},
                {.fd = buffer_empty(&p->out) ? -1 : p->out_fd, .events = POLLOUT},
                {.fd = p->child_fd, .events = POLLIN},
        };
        int r = 0;

        if (poll(pfds, 4, -1) < 0) {
                if (errno == EINTR)
                        return 0;
                (void)fail("poll", -errno);
                return -1;
        }
        if (pfds[2].revents)
                r = write_some(p);
        if (r == 0 && pfds[1].revents)
                r = read_some(p);
        if (r == TG_E_STOPPING) { /* nothing can be sent any more; what the command still says is for nobody */
                p->in.begin = p->in.end = 0;
                r = p->command ? 0 : end_input(p);
        }
        if (r == 0 && pfds[3].revents)
                r = end_command(p);
        return r;
}

static int run(Pipe *p)
{
        while (!finished(p)) {
                int r = take_events(p);

                if (r == 0 && p->ended && buffer_empty(&p->out) && p->command)
                        end_output(p); /* the command sees the end of its stdin */
                if (r == 0 && !finished(p))
                        r = turn(p);
                if (r < 0)
                        return 1;
        }
        return p->command ? p->status : 0;
}

/* -------- the command line -------- */

static bool is_number(const char *text)
{
        return text && *text && strspn(text, "0123456789") == strlen(text);
}

static bool has_send(int argc, char **argv)
{
        for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
                if (strcmp(argv[i], "--send") == 0)
                        return true;
        return false;
}

static int parse_raw(Pipe *p, const char *next, bool sending, int *i)
{
        p->raw = true;
        if (!sending || !is_number(next))
                return 0;
        p->raw_bytes = strtoul(next, NULL, 10);
        if (strlen(next) > 9 || p->raw_bytes == 0)
                return usage("--raw wants 1 to 999999999 bytes, not ", next);
        (*i)++;
        return 0;
}

static int parse_word(const char **ret, const char *option, const char *word)
{
        if (!word || !*word || strncmp(word, "--", 2) == 0)
                return usage(option, " wants a word after it");
        if (*ret)
                return usage(option, " can be given once");
        *ret = word;
        return 0;
}

static int parse(Pipe *p, int argc, char **argv)
{
        bool sending = has_send(argc, argv);
        int r = 0;

        for (int i = 1; i < argc && r == 0; i++) {
                if (strcmp(argv[i], "--") == 0) {
                        p->command = argv + i + 1;
                        break;
                }
                if (strcmp(argv[i], "--send") == 0) {
                        if (++i == argc || strncmp(argv[i], "--", 2) == 0)
                                return usage("--send wants the name of an output", NULL);
                        if (p->output)
                                return usage("--send can be given once, not also for ", argv[i]);
                        p->output = argv[i];
                } else if (strcmp(argv[i], "--receive") == 0) {
                        p->receive = true;
                        p->inputs = (const char *const *)(argv + i + 1);
                        for (p->n_inputs = 0; i + 1 < argc && strncmp(argv[i + 1], "--", 2) != 0; i++)
                                p->n_inputs++;
                } else if (strcmp(argv[i], "--as") == 0)
                        r = parse_word(&p->as, argv[i], argv[i + 1]), i++;
                else if (strcmp(argv[i], "--dataflow") == 0)
                        r = parse_word(&p->dataflow, argv[i], argv[i + 1]), i++;
                else if (strcmp(argv[i], "--raw") == 0)
                        r = parse_raw(p, argv[i + 1], sending, &i);
                else if (strcmp(argv[i], "--with-id") == 0)
                        p->with_id = true;
                else
                        return usage("what is ", argv[i]);
        }
        return r;
}

static int check(const Pipe *p)
{
        if (!p->output && !p->receive)
                return usage("--send or --receive is needed", NULL);
        if (p->output && p->receive && (!p->command || !p->command[0]))
                return usage("both directions want -- COMMAND", NULL);
        if (p->command && !(p->output && p->receive))
                return usage("a COMMAND wants both --receive and --send", NULL);
        if (p->output && p->raw && !p->raw_bytes)
                return usage("--raw wants the number of bytes of a chunk when sending", NULL);
        if (p->with_id && !p->receive)
                return usage("--with-id is for --receive", NULL);
        if (p->dataflow && !p->as)
                return usage("--dataflow is for --as", NULL);
        return 0;
}

static bool names_are_known(const Pipe *p)
{
        const char *name = NULL;

        for (unsigned i = 0; p->output && (name = tg_output_name(p->node, i)); i++)
                if (strcmp(name, p->output) == 0)
                        break;
        if (p->output && !name) {
                fprintf(stderr, "tidegate-pipe: this node declares no output %s\n", p->output);
                return false;
        }
        for (size_t k = 0; k < p->n_inputs; k++) {
                for (unsigned i = 0; (name = tg_input_name(p->node, i)); i++)
                        if (strcmp(name, p->inputs[k]) == 0)
                                break;
                if (!name) {
                        fprintf(stderr, "tidegate-pipe: this node declares no input %s\n", p->inputs[k]);
                        return false;
                }
        }
        return true;
}

int main(int argc, char **argv)
{
        Pipe p = {.in_fd = -1, .out_fd = -1, .child_fd = -1};
        int r;

        for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
                if (strcmp(argv[i], "--help") == 0)
                        return fputs(help, stdout) < 0 || fflush(stdout) ? 1 : 0;
        r = parse(&p, argc, argv);
        if (r == 0)
                r = check(&p);
        if (r)
                return r;
        (void)signal(SIGPIPE, SIG_IGN); /* write() says it */
        r = p.as ? tg_node_open_as(&p.node, p.as, p.dataflow) : tg_node_open(&p.node);
        if (r == -ENOTCONN && p.as) {
                fprintf(stderr, "tidegate-pipe: connecting as %s: no tidegated is running here\n", p.as);
                return 1;
        }
        if (r)
                return fail("connecting", r);
        if (!names_are_known(&p))
                r = 1;
        else if (p.command)
                r = start_command(&p);
        else {
                p.in_fd = p.output ? STDIN_FILENO : -1;
                p.out_fd = p.receive ? STDOUT_FILENO : -1;
        }
        if (r == 0)
                r = run(&p);
        (void)tg_node_close(p.node);
        free(p.in.bytes);
        free(p.out.bytes);
        return r;
}
