/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tidegate top: nodes and links of the daemon's dataflows as they are now, again and again; or once, as text or JSON. One loop
 * waits for keys, signals and answers, each with a deadline; it asks nobody for anything that it would have to wait for.
 */
#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/span.h"
#include "cli/commands.h"
#include "cli/print.h"
#include "cli/screen.h"
#include "cli/session.h"
#include "cli/table.h"
#include "cli/top-child.h"
#include "cli/top-feed.h"
#include "cli/top-view.h"

#define INTERVAL     NSEC_PER_SEC
#define INTERVAL_MIN (100 * NSEC_PER_MSEC)
#define INTERVAL_MAX (3600 * NSEC_PER_SEC)
#define PATIENCE     (2 * NSEC_PER_SEC) /* unless --timeout says otherwise */
#define FRESH        3                  /* intervals, and a second: what is older is not shown */
#define LOG_LINES    "200"

typedef struct Top {
        Session session;
        bool once, ascii;
        nsec_t interval;
        TopModel model;
        TopFeed feed;

        /* on a screen */
        TopUi ui;
        TopOrder order;
        TopChild child; /* of the page that is open, log or why */
        TopText said;   /* by it */
        TopPage child_page;
        char child_of[200];
        nsec_t next_at;
        int signal_fd;
} Top;

static int read_arguments(Top *t, int argc, char **argv)
{
        static const struct option options[] = {
                {"once", no_argument, NULL, 'o'},
                {"interval", required_argument, NULL, 'i'},
                SESSION_LONG_OPTIONS,
                {NULL, 0, NULL, 0},
        };
        int o;

        session_begin();
        while ((o = session_getopt(&t->session, argc, argv, "", options)) != -1) {
                if (o == 'o')
                        t->once = true;
                else if (o != 'i')
                        return CLI_USAGE;
                else if (span_parse(optarg, &t->interval) || t->interval < INTERVAL_MIN || t->interval > INTERVAL_MAX)
                        return usage_error(argv[0], "--interval: `%s` is no time from 100ms to 1h", optarg);
        }
        if (t->session.json && !t->once)
                return usage_error(argv[0], "--json is for --once");
        t->model.names = (const char *const *)(argv + optind);
        t->model.n_names = (size_t)(argc - optind);
        return 0;
}

static bool lacks_utf8(void)
{
        return strcmp(nl_langinfo(CODESET), "UTF-8") != 0;
}

static void begin(Top *t)
{
        const Command *why = command_find("why");

        t->ascii = lacks_utf8();
        t->ui.can_why = why && why->main;
        t->ui.can_probe = true;
        t->feed.runtime_dir = t->session.runtime_dir;
        t->feed.model = &t->model;
        t->feed.interval = t->interval;
        t->feed.patience = t->session.timeout_given ? t->session.timeout : PATIENCE;
        t->model.fresh_span = nsec_add(nsec_mul(t->interval, FRESH), NSEC_PER_SEC);
}

/* ---- once */

/* Look, and wait until everything is known or late. */
static int sample(Top *t)
{
        int r = top_feed_look(&t->feed, clock_now());

        while (!r && !top_feed_is_done(&t->feed)) {
                struct pollfd p[_TOP_FEED_POLL_MAX];
                nsec_t until = top_feed_poll(&t->feed, p);

                (void)poll(p, ELEMENTSOF(p), nsec_poll_ms(until, clock_now()));
                top_feed_take(&t->feed, clock_now());
        }
        return r;
}

static int print_picture(Top *t)
{
        Picture picture = PICTURE_NULL;
        struct winsize size;
        int rows, cols, r;

        r = top_order(&t->order, &t->model, &t->ui, clock_now());
        if (r)
                return r;
        top_view_size(&t->model, &t->order, t->ascii, &rows, &cols);
        if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
                cols = MIN(cols, size.ws_col); /* lines that a terminal breaks are none */
        r = picture_init(&picture, rows, cols, t->ascii);
        if (!r)
                top_view(&picture, &t->model, &t->order, NULL, NULL, clock_now());
        if (!r)
                picture_print(&picture, color_wanted(stdout), stdout);
        picture_done(&picture);
        return r;
}

static bool is_known(const TopModel *model, const char *name)
{
        for (size_t i = 0; i < model->n_nodes; i++)
                if (strcmp(model->nodes[i].dataflow, name) == 0 || strncmp(model->nodes[i].uuid, name, strlen(name)) == 0)
                        return true;
        return false;
}

static int once(Top *t)
{
        const TopDaemon *d = &t->model.daemon;
        int status = CLI_OK, r = sample(t);
        nsec_t again = nsec_add(clock_now(), t->interval);

        if (!r && d->lost_since && t->model.n_nodes == 0) {
                session_say(&t->session, "%s: %s", t->session.runtime_dir, d->why[0] ? d->why : d->silent_why);
                return CLI_UNREACHABLE;
        }
        while (!r && clock_now() < again)
                (void)poll(NULL, 0, nsec_poll_ms(again, clock_now()));
        r = r ? r : sample(t);
        for (size_t i = 0; !r && i < t->model.n_names; i++) {
                if (is_known(&t->model, t->model.names[i]))
                        continue;
                session_say(&t->session, "no dataflow %s runs", t->model.names[i]);
                return CLI_NO_SUCH;
        }
        if (!r && d->silent_since) {
                session_say(&t->session, "%s: %s; what is known without it:", t->session.runtime_dir, d->silent_why);
                status = CLI_UNREACHABLE;
        }
        if (!r && t->session.json)
                return MAX(status, session_result(&t->session, top_model_json(&t->model, clock_now())));
        r = r ? r : print_picture(t);
        if (r)
                session_say(&t->session, "%s", strerror(-r));
        return r ? CLI_FAILED : status;
}

/* ---- on a screen: pages that another command writes */

static void end_child(Top *t)
{
        top_feed_leave(&t->feed, top_child_done(&t->child));
        top_text_done(&t->said);
        t->child_of[0] = '\0';
}

/* `tail` for the log, `why` for why: of the node that is selected. */
static void begin_child(Top *t, const char *target)
{
        const char *log[] = {"tidegate", "tail", "--runtime-dir", t->session.runtime_dir, "-n", LOG_LINES, "-f", target, NULL};
        const char *why[] = {"tidegate", "why", "--runtime-dir", t->session.runtime_dir, target, NULL};
        int r;

        end_child(t);
        t->child_page = t->ui.page;
        (void)snprintf(t->child_of, sizeof(t->child_of), "%s", target);
        r = top_child_begin(&t->child, t->ui.page == TOP_PAGE_LOG ? log : why);
        if (r)
                top_text_add(&t->said, "it cannot be had: %s", strerror(-r));
}

static void mind_child(Top *t)
{
        char target[200] = "";

        if (t->ui.page == TOP_PAGE_LOG || t->ui.page == TOP_PAGE_WHY)
                (void)snprintf(target, sizeof(target), "%s:%s", t->ui.uuid, t->ui.node);
        if (!target[0] && t->child_of[0])
                end_child(t);
        else if (target[0] && (strcmp(target, t->child_of) != 0 || t->child_page != t->ui.page))
                begin_child(t, target);
}

/* ---- on a screen: drawing */

/* Lines of the page that is open; those of a child are kept in t->said. */
static const TopText *write_text(Top *t, TopText *text, nsec_t now)
{
        switch (t->ui.page) {
        case TOP_PAGE_DETAILS:
                top_text_details(text, &t->model, &t->ui, now);
                return text;
        case TOP_PAGE_TREE:
                if (json_object_get(t->feed.seen, t->ui.uuid))
                        top_text_tree(text, json_object_get(t->feed.seen, t->ui.uuid), json_object_get(t->feed.seen_before, t->ui.uuid),
                                t->feed.seen_at - t->feed.seen_before_at, t->ascii);
                else
                        top_text_add(text, "looking ...");
                return text;
        case TOP_PAGE_HELP:
                top_text_help(text, &t->ui);
                return text;
        case TOP_PAGE_LOG:
        case TOP_PAGE_WHY:
                if (t->said.n > 0)
                        return &t->said;
                top_text_add(text, "%s", t->child.fd >= 0 ? "..." : "(nothing)");
                return text;
        default:
                return NULL;
        }
}

static int draw(Top *t)
{
        nsec_t now = clock_now();
        Picture picture = PICTURE_NULL;
        TopText text = TOP_TEXT_NULL;
        int rows, cols, r;

        top_order_done(&t->order);
        r = top_order(&t->order, &t->model, &t->ui, now);
        screen_size(&rows, &cols);
        r = r ? r : picture_init(&picture, rows, cols, t->ascii);
        if (!r) {
                top_ui_select(&t->ui, &t->model, &t->order);
                top_view(&picture, &t->model, &t->order, &t->ui, write_text(t, &text, now), now);
                screen_draw(&picture);
        }
        top_text_done(&text);
        picture_done(&picture);
        return r;
}

/* ---- on a screen: what happens */

static int catch_signals(Top *t)
{
        static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGTSTP};
        sigset_t set;

        sigemptyset(&set);
        for (size_t i = 0; i < ELEMENTSOF(signals); i++)
                sigaddset(&set, signals[i]);
        if (sigprocmask(SIG_BLOCK, &set, NULL) < 0 || signal(SIGPIPE, SIG_IGN) == SIG_ERR)
                return error_origin(-errno);
        t->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        return t->signal_fd < 0 ? error_origin(-errno) : 0;
}

/* Return: whether it ends. */
static bool take_signals(Top *t)
{
        struct signalfd_siginfo info;

        while (read(t->signal_fd, &info, sizeof(info)) == sizeof(info)) {
                if (info.ssi_signo == SIGWINCH) {
                        screen_resize();
                } else if (info.ssi_signo == SIGTSTP) {
                        screen_suspend();
                        (void)raise(SIGSTOP);
                        screen_resume();
                } else {
                        return true;
                }
        }
        return false;
}

/* What became of the probes is said until the next key. */
static void hear(Top *t)
{
        if (t->feed.told[0])
                (void)snprintf(t->ui.message, sizeof(t->ui.message), "%.*s", (int)sizeof(t->ui.message) - 1, t->feed.told);
        t->feed.told[0] = '\0';
}

/* Return: whether it ends. */
static bool take_keys(Top *t)
{
        const char *uuid;
        unsigned key;
        int rows, cols;

        screen_size(&rows, &cols);
        while ((key = screen_key())) {
                switch (top_ui_key(&t->ui, &t->model, &t->order, key, top_view_page_rows(&t->ui, &t->order, rows))) {
                case TOP_ACTION_QUIT:
                        return true;
                case TOP_ACTION_LOOK:
                        t->next_at = 0;
                        break;
                case TOP_ACTION_ENDED:
                        t->model.ended = !t->model.ended;
                        t->next_at = 0;
                        break;
                case TOP_ACTION_PROBE:
                        uuid = top_ui_dataflow(&t->ui);
                        top_feed_probe(&t->feed, strcmp(t->feed.probed, uuid) == 0 ? NULL : uuid, clock_now());
                        break;
                default:
                        break;
                }
                hear(t);
                if (draw(t)) /* the next key is about what is seen then */
                        return true;
        }
        return false;
}

static int turn(Top *t, bool *ret_over)
{
        enum { KEYS, SIGNALS, CHILD, FEED, N = FEED + _TOP_FEED_POLL_MAX };
        struct pollfd p[N] = {[KEYS] = {.fd = STDIN_FILENO, .events = POLLIN}, [SIGNALS] = {.fd = t->signal_fd, .events = POLLIN}};
        nsec_t now = clock_now(), until;
        int r;

        mind_child(t);
        t->feed.always_look = t->ui.page == TOP_PAGE_TREE;
        if (!t->ui.paused && now >= t->next_at) {
                r = top_feed_look(&t->feed, now);
                if (r)
                        return r;
                t->next_at = nsec_add(now, t->interval);
        }
        r = draw(t);
        if (r)
                return r;
        p[CHILD] = (struct pollfd){.fd = t->child.fd, .events = POLLIN};
        until = MIN(top_feed_poll(&t->feed, p + FEED), t->ui.paused ? NSEC_NEVER : t->next_at);
        if (poll(p, N, nsec_poll_ms(until, now)) < 0 && errno != EINTR)
                return error_origin(-errno);
        top_feed_take(&t->feed, clock_now());
        hear(t);
        top_child_read(&t->child, &t->said);
        *ret_over = take_signals(t) || take_keys(t) || (p[KEYS].revents & (POLLHUP | POLLERR | POLLNVAL)) != 0;
        return 0;
}

/* ---- a terminal that takes nothing */

typedef struct Way { /* out of a write that waits for a terminal from which nobody reads */
        struct termios modes;
        bool leaving; /* atomic */
} Way;

static bool is_to_end(const Way *way)
{
        static const int ending[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
        sigset_t pending;

        if (__atomic_load_n(&way->leaving, __ATOMIC_RELAXED))
                return true;
        for (size_t i = 0; sigpending(&pending) == 0 && i < ELEMENTSOF(ending); i++)
                if (sigismember(&pending, ending[i]) == 1)
                        return true;
        return false;
}

/* A thread: who has been told to end, and still has not a moment later, ends all the same, without the last words of the screen. */
static void *end_anyway(void *userdata)
{
        const Way *way = userdata;

        for (bool was = false;;) {
                bool is = is_to_end(way);

                if (was && is)
                        break;
                was = is;
                (void)poll(NULL, 0, 500);
        }
        (void)tcsetattr(STDIN_FILENO, TCSANOW, &way->modes);
        _exit(CLI_OK);
}

static int refuse(Top *t, int reason)
{
        const char *term = getenv("TERM");

        if (reason == SCREEN_E_ABSENT)
                session_say(&t->session, "this build has no screen: it was made without ncurses (Debian: libncurses-dev); --once prints one picture");
        else if (reason == SCREEN_E_NOT_ONE)
                session_say(&t->session, "input and output have to be a terminal; --once prints one picture");
        else
                session_say(&t->session, "a terminal of type `%s` cannot show it (TERM); --once prints one picture", term && *term ? term : "");
        return CLI_FAILED;
}

static int watch(Top *t)
{
        static Way way; /* the thread outlives this */
        bool over = false, known = tcgetattr(STDIN_FILENO, &way.modes) == 0;
        int r = screen_open(color_wanted(stdout));
        pthread_t thread;

        if (r)
                return refuse(t, r);
        r = catch_signals(t);
        if (!r && known && pthread_create(&thread, NULL, end_anyway, &way) == 0)
                (void)pthread_detach(thread);
        if (!r)
                screen_resize(); /* it may have changed before we listened */
        while (!r && !over)
                r = turn(t, &over);
        __atomic_store_n(&way.leaving, true, __ATOMIC_RELAXED);
        screen_close();
        __atomic_store_n(&way.leaving, false, __ATOMIC_RELAXED);
        if (r)
                session_say(&t->session, "%s", strerror(-r));
        return r ? CLI_FAILED : CLI_OK;
}

int cmd_top(int argc, char **argv)
{
        Top t = {.session = SESSION_INIT(argv[0]), .interval = INTERVAL, .model = TOP_MODEL_NULL, .feed = TOP_FEED_NULL,
                .child = TOP_CHILD_NULL, .signal_fd = -1};
        int status = read_arguments(&t, argc, argv);

        if (!status)
                status = session_locate(&t.session);
        if (!status) {
                begin(&t);
                status = t.once ? once(&t) : watch(&t);
        }
        end_child(&t);
        top_feed_done(&t.feed);
        top_order_done(&t.order);
        top_model_done(&t.model);
        (void)fd_close(t.signal_fd);
        session_done(&t.session);
        return status;
}
