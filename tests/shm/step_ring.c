/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A producer, a lossless reader and one that wants the latest only, one of whom pauses, is stopped by SIGSTOP or dies of SIGKILL
 * at a step: just before one of its accesses to shared memory, before it rings, or before it waits (SHM_STEPS in shm/shm-internal.h).
 * Every access of writer, reader and bell is one, named by its function and its word. Each that is met in a short flow is tried with each
 * of the three, at one of its first occurrences, and then again at others for as long as there is time. Slots are short, or chunks, and they
 * ring by either kind of doorbell.
 *
 * Steps that only the successor of a dead reader takes are tried too: then a reader dies first, anywhere.
 *
 * What must hold: whoever is left gets to the end; every byte is the one published; nothing is lost under backpressure, also
 * not for the one that takes a dead reader's place; what is missing is counted. A stopped reader that wants the latest only
 * holds up nobody. Of a producer that died everything below its head is there. The counters of a reader that died miss nothing that it
 * passed. All three were done at every step of every part, but for the exceptions below: where S is less than the default that is only
 * counted, and where the machine is busy it has a minute more for it.
 *
 * Usage: step_ring [--seconds S] [--seed N] [--list]. TIDEGATE_STEP_SECONDS sets S as well (default 20), TIDEGATE_LONG makes it
 * 600. A failure names part, step, occurrence, action and seed.
 */
int stress_main(int argc, char **argv); /* not used here */
#define main stress_main
#include "stress_ring.c"
#undef main
#include "shm/counters.h"

#define MAX_STEPS  256u
#define N_MESSAGES 40u
#define N_UNDISTURBED 8u /* rounds, at the beginning */
#define N_PARTS    4u
#define WHOLE_SECONDS 20.0 /* of a run that must have done all three at every step */
#define MORE_TIME  (60 * NSEC_PER_SEC) /* ... which it has on a machine that is busy with others */

typedef enum Action { PAUSED = 0, STOPPED, KILLED, N_ACTIONS } Action;

static const char *const action_names[N_ACTIONS] = {"paused", "stopped", "killed"};
static const char *const part_names[N_PARTS] = {"the lossless reader", "the reader of the latest", "the producer", "the successor"};

enum { LOSSLESS = 0, LATEST = 1, PRODUCER = 2, SUCCESSOR = 3, HEIR = MAX_CONSUMERS - 1 };

static const Case flows[] = {
        {"slots are short", 2, {{2, RING_BACKPRESSURE, 1, 0}, {3, RING_DROP_OLDEST, 2, 0}}, 9, {{512, 4}, {8192, 6}}, 2, false},
        {"chunks are short", 2, {{6, RING_BACKPRESSURE, 2, 0}, {3, RING_DROP_OLDEST, 2, 0}}, 16, {{512, 1}, {8192, 4}}, 2, false},
};

typedef struct Step {
        uint32_t hits, round_hits;
        uint32_t n_tried[N_ACTIONS], n_done[N_ACTIONS];
} Step;

typedef struct Board { /* in shared memory; the steps of a part are written by its process alone */
        Step step[N_PARTS][MAX_STEPS];
        uint32_t n_dead, n_amid; /* readers that died once they had begun; of these, in the middle of telling */
        struct {
                unsigned part, step, nth;
                Action action;
                bool armed, fired;
                unsigned victim; /* the first one that something happens to: part, or who dies so that there is a successor */
                unsigned dies_at; /* ... at this many steps of any kind; 0: it does not */
        } script;
} Board;

static Board *board;
static char last_failure[N_ACTIONS][500];
static int own_part = -1;
static unsigned own_steps;

static void act(void)
{
        board->script.fired = true;
        if (board->script.action == PAUSED)
                (void)poll(NULL, 0, 1);
        else
                (void)raise(board->script.action == STOPPED ? SIGSTOP : SIGKILL);
}

extern ShmStep *const __start_shm_steps[], *const __stop_shm_steps[]; /* the linker's: shm/shm-internal.h */

static const ShmStep *known[MAX_STEPS]; /* by index, the same in all processes, which are forks */
static unsigned n_known;

static bool step_is(const ShmStep *step, const char *function, const char *word)
{
        return strcmp(step->function, function) == 0 && strcmp(step->word, word) == 0;
}

/* Several accesses of one function to one word are one step: which of them is a matter of its occurrence. */
static void learn_steps(void)
{
        for (ShmStep *const *at = __start_shm_steps; at < __stop_shm_steps; at++) {
                unsigned i = 0;

                while (i < n_known && !step_is(known[i], (*at)->function, (*at)->word))
                        i++;
                must(i == MAX_STEPS);
                if (i == n_known)
                        known[n_known++] = *at;
                (*at)->index = i;
        }
}

void shm_step(const ShmStep *taken)
{
        Step *step;

        if (own_part < 0)
                return;
        step = &board->step[own_part][taken->index];
        step->hits++;
        step->round_hits++;
        if (board->script.dies_at && (unsigned)own_part == board->script.victim && ++own_steps == board->script.dies_at)
                (void)raise(SIGKILL);
        if (board->script.armed && !board->script.fired && board->script.part == (unsigned)own_part && board->script.step == taken->index &&
            step->round_hits == board->script.nth)
                act();
}

static void become(unsigned part)
{
        own_part = part == MAX_CONSUMERS ? PRODUCER : part == HEIR ? SUCCESSOR : (int)part;
}

/* ---- which there are */

#define READERS (1u << LOSSLESS | 1u << LATEST | 1u << SUCCESSOR)

static bool in_file(const ShmStep *step, const char *name)
{
        const char *slash = strrchr(step->file, '/');

        return strcmp(slash ? slash + 1 : step->file, name) == 0;
}

/* Whose steps these are: the rest are of those who look on, and of the supervisor. */
static unsigned side_of(const ShmStep *step)
{
        if (strcmp(step->function, "ring_once") == 0)
                return READERS | 1u << PRODUCER;
        if (in_file(step, "writer.c") || in_file(step, "reclaim.c") || strcmp(step->function, "bell_peer_must_ring") == 0 ||
            strcmp(step->function, "bell_peer_by_socket") == 0 || strcmp(step->function, "producer_poll") == 0)
                return 1u << PRODUCER;
        if (in_file(step, "reader.c") || in_file(step, "ring-internal.h") || in_file(step, "bell.c") || strcmp(step->function, "consumer_poll") == 0)
                return READERS;
        return 0;
}

/* What they do not come to here, or too seldom for a run to fail for it. */
static const struct {
        const char *function, *word; /* NULL: each of its words */
        unsigned parts;
} exceptions[] = {
        /* Counters and what is said of the CPU are a node's: it makes nothing of them in between, and nor do the others. */
        {"bell_tell", NULL, READERS},
        {"ring_reader_count_wake", NULL, READERS},
        {"ring_reader_set_cpu", NULL, READERS},
        {"ring_reader_shares_cpu", NULL, READERS},
        {"ring_writer_set_cpu", NULL, 1u << PRODUCER},
        {"ring_writer_shares_cpu", NULL, 1u << PRODUCER},
        /* So is what a ring costs. */
        {"bell_peer_sleeps_again", NULL, READERS},
        /* Who looks on, for a status or for a probe. */
        {"bell_read", NULL, READERS},
        {"ring_reader_n_published", NULL, READERS},
        {"ring_reader_backlog", NULL, READERS},
        {"tell_taken", NULL, READERS},
        {"tell_published", NULL, 1u << PRODUCER},
        {"link_taken", NULL, 1u << PRODUCER},
        /* All are honest, and send what there is room for. */
        {"ring_reader_reject", NULL, READERS},
        {"link_violate", NULL, 1u << PRODUCER},
        {"ring_writer_count_refused", NULL, 1u << PRODUCER},
        /* Nobody leaves a link before its end. */
        {"ring_reader_stop", NULL, READERS},
        {"ring_writer_has_stopped", NULL, 1u << PRODUCER},
        /* What a dead reader did not take is the loss of its successor alone; under backpressure nothing is lost. */
        {"drop_count", NULL, 1u << LOSSLESS | 1u << LATEST},
        {"show", "&c->copied", 1u << LOSSLESS},
        {"show", "&c->dropped[i]", 1u << LOSSLESS},
        /* Nobody waits for the tail of one that wants the latest only; for a chunk that it holds, in one round of a hundred. */
        {"must_ring", "&r->ring->room_target", 1u << LATEST},
        {"ring_once", NULL, 1u << LATEST},
};

static bool is_exception(unsigned i, const ShmStep *step)
{
        return strcmp(step->function, exceptions[i].function) == 0 && (!exceptions[i].word || strcmp(step->word, exceptions[i].word) == 0);
}

static bool must_take(unsigned part, const ShmStep *step)
{
        for (unsigned i = 0; i < ELEMENTSOF(exceptions); i++)
                if (is_exception(i, step) && (exceptions[i].parts & 1u << part))
                        return false;
        return side_of(step) & 1u << part;
}

/* The lists above are of the steps that there are: none that was renamed, and none that is met but nobody's. */
static bool lists_are_right(void)
{
        bool right = true;

        for (unsigned i = 0; i < ELEMENTSOF(exceptions); i++) {
                unsigned k = 0;

                while (k < n_known && !is_exception(i, known[k]))
                        k++;
                if (k == n_known) {
                        printf("# an exception is no step: %s()\n", exceptions[i].function);
                        right = false;
                }
        }
        for (unsigned part = 0; part < N_PARTS; part++)
                for (unsigned k = 0; k < n_known; k++)
                        if (board->step[part][k].hits && !(side_of(known[k]) & 1u << part)) {
                                printf("# %s came to %s of %s(), which is no step of its side\n", part_names[part], known[k]->word,
                                        known[k]->function);
                                right = false;
                        }
        return right;
}

/* A successor that dies would need one of its own. */
static bool can_be(unsigned part, Action action)
{
        return part != SUCCESSOR || action != KILLED;
}

/* ---- the supervisor's part */

typedef struct Round {
        World world;
        pid_t pid[N_PARTS];
        bool gone[N_PARTS], started[N_PARTS]; /* a successor is gone as long as it is not there */
        bool dead; /* the victim was killed */
        char failure[200];
} Round;

static void close_end(World *world, unsigned i, unsigned side)
{
        world->sock[i][side] = fd_close(world->sock[i][side]);
}

/* What has become of @part since the last time. A stopped one goes on once it has been seen and @release. */
static void look_after(Round *r, unsigned part, bool release)
{
        int status;

        if (r->gone[part] || waitpid(r->pid[part], &status, WNOHANG | WUNTRACED) != r->pid[part])
                return;
        if (WIFSTOPPED(status)) {
                (void)poll(NULL, 0, 1); /* for the others to come to where they cannot go on without it */
                if (release)
                        must(kill(r->pid[part], SIGCONT));
                return;
        }
        r->gone[part] = true;
        if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && board->script.armed && board->script.victim == part)
                r->dead = true;
        else if (status)
                FAIL(r, "%s ended with status %x", part_names[part], (unsigned)status);
}

/* One byte from @part on @fd; false if it has died instead. */
static bool hear(Round *r, unsigned part, int fd)
{
        nsec_t until = clock_now() + 20 * NSEC_PER_SEC;

        while (clock_now() < until) {
                struct pollfd p = {.fd = fd, .events = POLLIN};
                char byte;

                if (poll(&p, 1, 2) == 1 && recv(fd, &byte, 1, MSG_DONTWAIT) == 1)
                        return true;
                look_after(r, part, true);
                if (r->gone[part])
                        return recv(fd, &byte, 1, MSG_DONTWAIT) == 1;
        }
        FAIL(r, "%s does not answer", part_names[part]);
        return false;
}

static bool tell(Round *r, int fd, const char *bytes, size_t n)
{
        if (send(fd, bytes, n, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)n)
                return true;
        if (errno != EPIPE && errno != ECONNRESET)
                FAIL(r, "a part cannot be told: %s", strerrordesc_np(errno));
        return false;
}

/* False: the producer has ended, and with it whoever would have to know. */
static bool order_producer(Round *r, char what, unsigned link)
{
        const char bytes[2] = {what, (char)link};

        return !r->gone[PRODUCER] && tell(r, r->world.command[1], bytes, 2) && hear(r, PRODUCER, r->world.command[1]);
}

static bool begin(Round *r)
{
        World *world = &r->world;

        r->gone[SUCCESSOR] = true;
        r->pid[PRODUCER] = fork_producer(world);
        expect(world->command[1], "producer maps");
        for (unsigned i = 0; i < MAX_CONSUMERS; i++)
                close_end(world, i, 0); /* the producer's alone: its death is told by them */
        world->command[0] = fd_close(world->command[0]);
        must(region_seal(world->ring.fd, REGION_RING));
        must(region_seal(world->pool.fd, REGION_POOL));
        for (unsigned i = 0; i < world->cs->n_consumers; i++) {
                r->pid[i] = fork_consumer(world, i);
                expect(world->go[i][0], "consumer maps");
                close_end(world, i, 1);
                seal_consumer(world, i);
        }
        if (!tell(r, world->command[1], "s", 1) || !hear(r, PRODUCER, world->command[1]))
                return false; /* it died before it knew anybody */
        for (unsigned i = 0; i < world->cs->n_consumers; i++)
                r->started[i] = tell(r, world->go[i][0], "g", 1) && hear(r, i, world->go[i][0]);
        if (world->told_to_begin)
                (void)order_producer(r, 'B', 0);
        return true;
}

/* What a reader has counted, whose death nobody chose a good moment for: too much is possible, if it was just telling, and too little is not. */
static void check_dead(Round *r, unsigned i, const Region *cursor)
{
        const Case *cs = r->world.cs;
        LinkCounters counters;
        Region ring;

        must(region_map_read(&ring, r->world.ring.fd, REGION_RING, r->world.ring.size));
        link_counters_read(&ring, cursor, cs->c[i].queue_size, cs->c[i].policy, clock_now(), &counters);
        region_unmap(&ring);
        board->n_dead++;
        board->n_amid += !counters.adds_up;
        if (!counters.still || !counters.plausible)
                FAIL(r, "%s has left counters that nobody can leave: published %lu, delivered %lu, waiting %lu", part_names[i], counters.published,
                        counters.delivered, counters.depth);
}

/* Another reader in the place of the one that died, as a supervisor would do it. */
static void replace(Round *r, unsigned i)
{
        World *world = &r->world;
        bool lossless = world->cs->c[i].policy == RING_BACKPRESSURE;
        CursorStatus s;
        Region cursor;

        must(region_map_read(&cursor, world->cursor[i].fd, REGION_CURSOR, cursor_size()));
        cursor_read(&cursor, &s);
        if (r->started[i])
                check_dead(r, i, &cursor);
        region_unmap(&cursor);
        if (s.attachment) /* else it had not begun: what was published meanwhile was for nobody */
                world->start_at[HEIR] = s.tail;
        if (!lossless)
                (void)order_producer(r, 'D', i);
        r->pid[SUCCESSOR] = fork_consumer(world, HEIR);
        r->gone[SUCCESSOR] = false;
        expect(world->go[HEIR][0], "successor maps");
        close_end(world, HEIR, 1);
        seal_consumer(world, HEIR);
        (void)order_producer(r, 'A', HEIR);
        r->started[SUCCESSOR] = tell(r, world->go[HEIR][0], "g", 1) && hear(r, SUCCESSOR, world->go[HEIR][0]);
        if (lossless)
                (void)order_producer(r, 'D', i); /* until its heir is active the dead one goes on gating: nothing is lost */
}

static bool all_gone(const Round *r)
{
        return r->gone[LOSSLESS] && r->gone[LATEST] && r->gone[PRODUCER] && r->gone[SUCCESSOR];
}

/* Until every part has ended. The reader of the latest is let go on only once the producer has come to its end without it. */
static void finish(Round *r)
{
        const struct timespec brief = {.tv_nsec = 5 * NSEC_PER_MSEC};
        nsec_t until = clock_now() + 10 * NSEC_PER_SEC;
        bool replaced = false;
        sigset_t set;

        sigemptyset(&set);
        sigaddset(&set, SIGCHLD);
        for (;;) {
                for (unsigned part = 0; part < N_PARTS; part++)
                        look_after(r, part, part != LATEST);
                if (r->gone[PRODUCER] && !r->gone[LATEST])
                        must(kill(r->pid[LATEST], SIGCONT)); /* no harm to one that runs */
                if (r->dead && board->script.victim != PRODUCER && !replaced) {
                        replaced = true;
                        replace(r, board->script.victim);
                } else if (all_gone(r)) {
                        return;
                }
                if (clock_now() > until) {
                        for (unsigned part = 0; part < N_PARTS; part++)
                                if (!r->gone[part])
                                        FAIL(r, "%s is not at its end", part_names[part]);
                        return;
                }
                (void)sigtimedwait(&set, NULL, &brief); /* somebody stopped or ended; or it was seen already */
        }
}

static void end_all(Round *r)
{
        for (unsigned part = 0; part < N_PARTS; part++)
                if (r->pid[part] > 0 && !r->gone[part]) {
                        (void)kill(r->pid[part], SIGKILL);
                        (void)waitpid(r->pid[part], NULL, 0);
                }
}

static uint64_t published(Round *r)
{
        RingStatus status;
        Region ring;

        must(region_map_read(&ring, r->world.ring.fd, REGION_RING, r->world.ring.size));
        ring_read_status(&ring, &status);
        region_unmap(&ring);
        return status.head;
}

static void check_reader(Round *r, unsigned i, uint64_t head)
{
        const Result *res = &r->world.result[i];
        bool lossless = r->world.cs->c[i].policy == RING_BACKPRESSURE;

        if (!res->done || res->tail != head || res->tail - res->start != res->delivered + res->dropped)
                FAIL(r, "reader %u: from %lu to %lu of %lu, delivered %lu, dropped %lu", i, res->start, res->tail, head, res->delivered, res->dropped);
        if (lossless && res->dropped)
                FAIL(r, "reader %u: backpressure dropped %lu", i, res->dropped);
        if (res->reasons[DROP_TORN] || res->reasons[DROP_INVALID])
                FAIL(r, "reader %u: torn or invalid messages", i);
}

static void check(Round *r)
{
        bool producer_died = r->dead && board->script.victim == PRODUCER;
        uint64_t head = published(r);

        for (unsigned i = 0; i < MAX_CONSUMERS + 1; i++)
                if (r->world.result[i].failure[0])
                        FAIL(r, "part %u: %s", i, r->world.result[i].failure);
        if (!producer_died && head < N_MESSAGES)
                FAIL(r, "only %lu messages were published", head);
        for (unsigned i = 0; i < r->world.cs->n_consumers; i++)
                if (!(r->dead && board->script.victim == i) && r->started[i])
                        check_reader(r, i, head);
        if (r->dead && !producer_died)
                check_reader(r, HEIR, head);
}

static bool run_round(uint64_t seed, const Case *flow, bool doorbells)
{
        const char *kind = doorbells ? "timerfd" : "socket";
        Case cs = *flow;
        Round r = {.world = {.cs = &cs, .doorbells = doorbells, .seed = seed, .ring.fd = -1, .pool.fd = -1, .n_messages = N_MESSAGES}};

        /* Where they have to wait for a processor it would be through with it before any reader has begun. */
        r.world.told_to_begin = mix(seed) % 4 != 0;
        for (unsigned part = 0; part < N_PARTS; part++)
                for (unsigned i = 0; i < n_known; i++)
                        board->step[part][i].round_hits = 0;
        board->script.fired = false;
        world_open(&r.world);
        r.world.end = clock_now() + 60 * NSEC_PER_SEC;
        cs.c[HEIR] = cs.c[board->script.victim == LATEST ? LATEST : LOSSLESS];
        if (begin(&r)) {
                finish(&r);
                if (!r.failure[0])
                        check(&r);
        } else if (!r.dead) {
                FAIL(&r, "the flow did not begin");
        }
        end_all(&r);
        world_close(&r.world);
        if (r.failure[0] && board->script.armed) {
                const ShmStep *step = known[board->script.step];

                (void)snprintf(last_failure[board->script.action], sizeof(last_failure[0]), "%s %s at %s of %s(), time %u, %s, rung by %s: %s (seed %lu)",
                        part_names[board->script.part], action_names[board->script.action], step->word, step->function, board->script.nth, cs.name,
                        kind, r.failure, seed);
                printf("# %s\n", last_failure[board->script.action]);
        } else if (r.failure[0]) {
                printf("# undisturbed, %s, rung by %s: %s (seed %lu)\n", cs.name, kind, r.failure, seed);
        } else if (board->script.armed && board->script.fired) {
                board->step[board->script.part][board->script.step].n_done[board->script.action]++;
        }
        return !r.failure[0];
}

/* At the step, of those that were met, that was aimed at least with this action; the new ones that a disturbance has brought along come first.
 * What was done counts for more than what was tried: where a part seldom comes it is tried more often. */
static void aim(Action action, uint64_t round, uint64_t *rng)
{
        uint32_t least = UINT32_MAX, often;

        for (unsigned part = 0; part < N_PARTS; part++)
                for (unsigned i = 0; i < n_known && can_be(part, action); i++) {
                        const Step *step = &board->step[part][i];
                        uint32_t n = step->n_tried[action] + 16 * step->n_done[action];

                        if (step->hits && n < least) {
                                least = n;
                                board->script.part = part;
                                board->script.step = i;
                        }
                }
        board->step[board->script.part][board->script.step].n_tried[action]++;
        board->script.action = action;
        often = board->step[board->script.part][board->script.step].hits / (uint32_t)(round + N_UNDISTURBED) + 1;
        board->script.nth = 1 + (uint32_t)(next_random(rng) % MIN(often, next_random(rng) % 2 ? 2u : 200u));
        board->script.victim = board->script.part == SUCCESSOR ? (unsigned)(next_random(rng) % 2) : board->script.part;
        board->script.dies_at = board->script.part == SUCCESSOR ? 1 + (unsigned)(next_random(rng) % (next_random(rng) % 4 ? 800 : 20)) : 0;
        board->script.armed = true;
}

static unsigned n_missing(Action action, bool tell)
{
        unsigned n = 0;

        for (unsigned part = 0; part < N_PARTS; part++)
                for (unsigned i = 0; i < n_known && can_be(part, action); i++)
                        if (must_take(part, known[i]) && !board->step[part][i].n_done[action]) {
                                n++;
                                if (tell)
                                        printf("# %s was never %s at %s of %s(); it came there %u times\n", part_names[part], action_names[action],
                                                known[i]->word, known[i]->function, board->step[part][i].hits);
                        }
        return n;
}

static bool all_done(void)
{
        for (unsigned a = 0; a < N_ACTIONS; a++)
                if (n_missing((Action)a, false))
                        return false;
        return true;
}

static bool report(Action action, unsigned n_rounds, unsigned n_failed, bool whole)
{
        unsigned n_steps = 0, n_reached = 0, n_times = 0;
        bool good;

        for (unsigned part = 0; part < N_PARTS; part++)
                for (unsigned i = 0; i < n_known && can_be(part, action); i++) {
                        const Step *step = &board->step[part][i];

                        n_steps += step->hits > 0;
                        n_reached += step->n_done[action] > 0;
                        n_times += step->n_done[action];
                }
        printf("# %s %u times in %u rounds, at %u of %u steps\n", action_names[action], n_times, n_rounds, n_reached, n_steps);
        if (n_failed)
                printf("# %u rounds failed, the last one: %s\n", n_failed, last_failure[action]);
        good = !n_failed && n_times && (!whole || !n_missing(action, true));
        printf("%s %u - %s at every step\n", good ? "ok" : "not ok", action + 2, action_names[action]);
        return good;
}

static void list_steps(void)
{
        for (unsigned part = 0; part < N_PARTS; part++)
                for (unsigned i = 0; i < n_known; i++) {
                        const Step *step = &board->step[part][i];

                        if (!step->hits)
                                continue;
                        printf("# %s: %s of %s(), %u times", part_names[part], known[i]->word, known[i]->function, step->hits);
                        for (unsigned a = 0; a < N_ACTIONS; a++)
                                printf("%s %s %u of %u", a ? "," : ";", action_names[a], step->n_done[a], step->n_tried[a]);
                        printf("%s\n", must_take(part, known[i]) ? "" : "; an exception");
                }
}

int main(int argc, char **argv)
{
        const char *env = getenv("TIDEGATE_STEP_SECONDS");
        double seconds = env ? atof(env) : getenv("TIDEGATE_LONG") ? 600 : WHOLE_SECONDS;
        unsigned n_rounds[N_ACTIONS] = {}, n_failed[N_ACTIONS] = {};
        uint64_t seed = clock_now() | 1, rng;
        bool failed = false, list = false, good = true, ok, whole, exist;
        sigset_t set;
        nsec_t end;

        for (int i = 1; i < argc; i++) {
                if (!strcmp(argv[i], "--seconds") && i + 1 < argc)
                        seconds = atof(argv[++i]);
                else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
                        seed = strtoull(argv[++i], NULL, 0) | 1;
                else if (!strcmp(argv[i], "--list"))
                        list = true;
        }
        (void)alarm((unsigned)(seconds * 2) + 90); /* hangs where no round sees it: end then, and with us our children */
        setvbuf(stdout, NULL, _IOLBF, 0);
        board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        must(board == MAP_FAILED);
        sigemptyset(&set);
        sigaddset(&set, SIGCHLD);
        must(sigprocmask(SIG_BLOCK, &set, NULL));
        on_fork = become;
        rng = seed;
        learn_steps();
        whole = seconds >= WHOLE_SECONDS;
        exist = doorbells_exist();
        printf("1..%u\n# seed %lu\n", N_ACTIONS + 2, seed);
        fflush(stdout);

        end = clock_now() + (nsec_t)(seconds * 1e9);
        for (unsigned i = 0; i < N_UNDISTURBED; i++) /* nobody is disturbed: these are the steps there are */
                failed |= !run_round(next_random(&rng), &flows[i % 2], exist && i / 2 % 2);
        printf("%s 1 - undisturbed\n", failed ? "not ok" : "ok");
        fflush(stdout);
        for (uint64_t round = 0; clock_now() < end || (whole && good && clock_now() < end + MORE_TIME && !all_done()); round++) {
                aim((Action)(round % N_ACTIONS), round, &rng);
                n_rounds[round % N_ACTIONS]++;
                ok = run_round(next_random(&rng), &flows[next_random(&rng) % 2], exist && next_random(&rng) % 2);
                n_failed[round % N_ACTIONS] += !ok;
                good &= ok;
        }
        printf("# of %u readers that died, %u in the middle of telling\n", board->n_dead, board->n_amid);
        for (unsigned a = 0; a < N_ACTIONS; a++)
                failed |= !report((Action)a, n_rounds[a], n_failed[a], whole);
        good = lists_are_right();
        failed |= !good;
        printf("%s %u - each is a step of its side\n", good ? "ok" : "not ok", N_ACTIONS + 2);
        if (list)
                list_steps();
        return failed;
}
