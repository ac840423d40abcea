/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ringing peers and being rung by them, and what shows that somebody does it to harm. A doorbell is for two, and so is the pair's socket, so whatever
 * is wrong with one of them is the doing of the other end. Three things can be:
 *
 * It rings more often than it had a reason to. Each of its rings is counted when we hear it.
 *
 * It rings, and reads the doorbell before we have heard: we are woken, find nothing, and nothing counts that. It shows in how often our thread goes to
 * sleep in one epoll_wait(), but not whose doorbell it was. So we ask to be rung by sockets, which nobody can read but us, and hear no doorbells
 * any more. From then on nobody honest rings one. Then we listen to a single peer's again, in every second of the polls that are watched: woken for nothing in
 * those, and not in the others, it can only have been that one. It is convicted, and all others are heard by their doorbells as before. Without a
 * culprit (it has stopped; or our thread is traced, which is a sleep for each stop, whoever is heard) we go back when somebody has left, or after a while.
 * A program that polls tg_node_fd() itself sleeps where we cannot look: there it is sockets from the start.
 *
 * It has so many epolls look at what we ring that each ring takes us long. So does a ring that wakes somebody on another processor, and more so on a
 * virtual one. But who was just woken need not be woken again: so now and then we ring a second time at once, and look at the CPU time of that alone. While the
 * first ring held us up it may have done all there was, and sleep again: its bell says so, and only far longer rings count then. The time is
 * compared with a call that is the same to whoever traces us, and does nothing.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/doorbell.h"
#include "base/hot.h"
#include "node/node-internal.h"

#define PEER_UNEXPLAINED 64u /* rings more than there was a reason for; honest libraries send none */
#define RINGS_WEIGHED    256u /* each of so many */
#define RINGS_SUSPECTED  8u   /* ... while one was heavy lately */
#define RINGS_TIMED      8u   /* one in so many is measured by the clock; once it was slow, each */
#define RINGS_SLOW       8u      /* so many in a row that took as long as CROWD_MS, by the clock: each from there */
#define CROWD_NS         10000u  /* CPU time of a second ring that wakes nobody: below 2 us; with 1 000 epolls there: 50 us */
#define CROWD_TIMES      16u     /* ... and of the call that does nothing: 2, and 75 */
#define CROWD_ASLEEP_NS  200000u /* the same where it may have slept again: up to 30 us here, so that is all that can be said */
#define CROWD_ASLEEP_TIMES 200u
#define CROWD_MS         (NSEC_PER_MSEC) /* so heavy it counts for four, be it asleep or not */
#define CROWDED          16u     /* heavy ones more than light ones, until we are sure */
#define CROWD_LATELY     64u     /* weighed */

#define WATCH_EVERY 128 /* polls, for one that takes three system calls more: fewer than one in a hundred */
#define WATCH_AGAIN 8   /* ... while there were some for nothing */
#define WATCH_TIMES 4   /* so often, and of every second poll that was watched at least */
#define TRIAL_EVERY 4   /* polls, for one that is watched with one peer's doorbell, or without; longer after each round in vain */
#define TRIAL_RARELY 256u /* the last round: some 22 000 polls a peer, for 150 that are woken for nothing if it goes on behind that */
#define TRIAL_POLLS 64  /* of one peer at most, half of them with its doorbell */
#define TRIAL_TIMES 8   /* so often woken for nothing while it was heard, and not an eighth as often while it was not */

/* -------- ringing -------- */

static bool is_rung_by_socket(const Peer *peer)
{
        return peer->rung_fd < 0 || bell_peer_by_socket(&peer->bell);
}

static void ring(const Peer *peer, bool by_socket)
{
        /* A full buffer is bytes that were not read yet: the peer has its edge. A dead one's hang-up is told by epoll. */
        if (by_socket || !doorbell_ring(peer->rung_fd))
                (void)send(peer->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* The same call, to no effect. */
static void ring_nobody(const Peer *peer, bool by_socket)
{
        const uint64_t none = 0;

        if (by_socket)
                (void)send(peer->fd, "", 0, MSG_DONTWAIT | MSG_NOSIGNAL);
        else
                (void)ioctl(peer->rung_fd, TFD_IOC_SET_TICKS, &none);
}

/* After a ring. By any thread that may ring; what two of them count at once may be one. */
static __attribute__((noinline)) void weigh(tg_node *node, Peer *peer)
{
        bool by_socket = is_rung_by_socket(peer);
        uint32_t n_heavy = __atomic_load_n(&peer->n_heavy, __ATOMIC_RELAXED), n_others = __atomic_load_n(&peer->n_others, __ATOMIC_RELAXED) + 1;
        nsec_t begin, rung, end;
        bool is_up, is_light;

        begin = clock_cpu();
        is_up = !bell_peer_sleeps_again(&peer->bell);
        ring(peer, by_socket);
        rung = clock_cpu();
        ring_nobody(peer, by_socket);
        end = clock_cpu();
        is_light = rung - begin <= MAX(CROWD_NS, CROWD_TIMES * (end - rung));
        if (rung - begin > CROWD_MS && rung - begin > CROWD_ASLEEP_TIMES * (end - rung)) {
                n_heavy += 4;
                n_others = 0;
        } else if (is_up ? !is_light : rung - begin > MAX(CROWD_ASLEEP_NS, CROWD_ASLEEP_TIMES * (end - rung))) {
                n_heavy++;
                n_others = 0;
        } else if (is_light && n_heavy > 0) {
                n_heavy--;
        }
        __atomic_store_n(&peer->n_heavy, n_heavy, __ATOMIC_RELAXED);
        __atomic_store_n(&peer->n_others, n_others, __ATOMIC_RELAXED);
        if (n_heavy >= CROWDED) {
                __atomic_store_n(&peer->crowds, true, __ATOMIC_RELAXED);
                __atomic_store_n(&node->crowded, true, __ATOMIC_RELAXED); /* it is named by who leads */
        }
}

/* Rings that take milliseconds are too many long before the next one is due to be weighed. One may have been held up by anything, several in a row are not. */
static bool is_slow_again(Peer *peer, nsec_t took)
{
        uint32_t n = took > CROWD_MS ? __atomic_load_n(&peer->n_slow, __ATOMIC_RELAXED) + 1 : 0;

        if (n || __atomic_load_n(&peer->n_slow, __ATOMIC_RELAXED))
                __atomic_store_n(&peer->n_slow, n, __ATOMIC_RELAXED);
        return n >= RINGS_SLOW;
}

static bool is_suspected(const Peer *peer)
{
        return __atomic_load_n(&peer->n_heavy, __ATOMIC_RELAXED) && __atomic_load_n(&peer->n_others, __ATOMIC_RELAXED) < CROWD_LATELY;
}

_Static_assert(RINGS_WEIGHED % RINGS_TIMED == 0 && RINGS_SUSPECTED % RINGS_TIMED == 0, "what is weighed is looked at");

/* A ring that is timed, weighed, or not of the usual kind. @n: so many there were, with this one. */
static void ring_and_look(tg_node *node, Peer *peer, uint32_t n)
{
        uint64_t one = 1;
        int saved = errno;

        if (peer == &node->self) {
                __atomic_store_n(&node->self_rung, true, __ATOMIC_RELAXED); /* a hint: what is not emptied now disturbs nobody */
                (void)!write(node->self_fd, &one, sizeof(one));
        } else if (!__atomic_load_n(&peer->crowds, __ATOMIC_RELAXED)) {
                bool timed = n % RINGS_TIMED == 0 || __atomic_load_n(&peer->n_slow, __ATOMIC_RELAXED);
                nsec_t begin = timed ? clock_now() : 0;

                ring(peer, is_rung_by_socket(peer));
                if (timed && is_slow_again(peer, clock_now() - begin))
                        weigh(node, peer);
                else if (n % (is_suspected(peer) ? RINGS_SUSPECTED : RINGS_WEIGHED) == 0)
                        weigh(node, peer);
        }
        errno = saved;
}

HOT void peer_send(tg_node *node, Peer *peer)
{
        uint32_t n = __atomic_load_n(&peer->n_rings, __ATOMIC_RELAXED) + 1; /* rings of two threads may count as one */

        __atomic_store_n(&peer->n_rings, n, __ATOMIC_RELAXED);
        if (n % RINGS_TIMED == 0 || peer->rung_fd < 0 || __atomic_load_n(&peer->n_slow, __ATOMIC_RELAXED) || __atomic_load_n(&peer->crowds, __ATOMIC_RELAXED) ||
                bell_peer_by_socket(&peer->bell) || !doorbell_ring(peer->rung_fd))
                ring_and_look(node, peer, n);
}

/* -------- being rung -------- */

uint64_t rings_reasons(const Output *output, const OutLink *link)
{
        return 2 * (ring_writer_head(output->writer) - link->first) + 2; /* 2: when it starts and when it stops */
}

/* How often it may have rung until now, at the most: after each message that it has published, and for room; and some of these twice. */
static uint64_t peer_reasons(tg_node *node, const Peer *peer)
{
        uint64_t n = peer->n_reasons;
        OutLink *link, *next_link;
        Source *source, *next;

        list_for_each(source, next, &node->sources, link)
                if (source->peer == peer)
                        n += ring_reader_n_published(&source->reader) + 2; /* 2: what it had published before, and its end */
        for (unsigned i = 0; i < node->n_outputs; i++) {
                Output *output = &node->outputs[i];

                lock_take(&output->lock);
                list_for_each(link, next_link, &output->links, link)
                        if (link->peer == peer)
                                n += rings_reasons(output, link);
                lock_give(&output->lock);
        }
        return n + n / RINGS_SUSPECTED;
}

/* But for its hang-up. If that fails: as before, it keeps us awake. */
static void stop_hearing(tg_node *node, const Peer *peer)
{
        struct epoll_event ev = {.events = EPOLLRDHUP | EPOLLET, .data.u64 = peer->serial};

        (void)epoll_ctl(node->epoll_fd, EPOLL_CTL_MOD, peer->fd, &ev);
        if (peer->heard_fd >= 0)
                (void)epoll_ctl(node->epoll_fd, EPOLL_CTL_DEL, peer->heard_fd, NULL);
}

/* Its rings are not listened to any more, and what it says on our links neither. */
static void peer_convict(tg_node *node, Peer *peer, const char *text)
{
        OutLink *link, *next_link;
        Source *source, *next;

        peer->convicted = true;
        stop_hearing(node, peer);
        list_for_each(source, next, &node->sources, link) {
                if (source->peer != peer)
                        continue;
                ring_reader_break(&source->reader);
                source->accused = true;
                (void)links_violation(node, source->input->link, source->input->generation, text);
        }
        for (unsigned i = 0; i < node->n_outputs; i++) {
                Output *output = &node->outputs[i];

                lock_take(&output->lock);
                list_for_each(link, next_link, &output->links, link) {
                        if (link->peer != peer)
                                continue;
                        ring_writer_convict(output->writer, link->id);
                        (void)links_violation(node, link->id, link->generation, text);
                }
                lock_give(&output->lock);
        }
}

void peer_empty(tg_node *node, Peer *peer)
{
        char bytes[1024];
        ssize_t n = sizeof(bytes);

        /* Bounded: a peer that floods us fills its own socket, and what stays in there disturbs nobody. */
        for (unsigned i = 0; i < 4 && peer->by_socket && !peer->gone && n == (ssize_t)sizeof(bytes); i++) {
                n = recv(peer->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
                if (n > 0)
                        peer->n_heard += (uint64_t)n;
        }
        peer->by_socket &= n == (ssize_t)sizeof(bytes);
        if (!peer->gone && !peer->convicted && peer->n_heard > PEER_UNEXPLAINED && peer->n_heard - PEER_UNEXPLAINED > peer_reasons(node, peer))
                peer_convict(node, peer, "it floods the doorbell");
}

static int hear_doorbell(tg_node *node, const Peer *peer)
{
        struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.u64 = peer->serial | NODE_TAG_DOORBELL};

        return epoll_ctl(node->epoll_fd, EPOLL_CTL_ADD, peer->heard_fd, &ev) < 0 && errno != EEXIST ? -errno : 0;
}

int rings_watch_peer(tg_node *node, Peer *peer)
{
        struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.u64 = peer->serial};
        int r;

        if (epoll_ctl(node->epoll_fd, EPOLL_CTL_ADD, peer->fd, &ev) < 0)
                return error_origin(-errno);
        if (peer->heard_fd < 0 || node->turned)
                return 0;
        r = hear_doorbell(node, peer);
        if (r)
                return error_origin(r);
        node->hears_doorbells = true;
        return 0;
}

void rings_mute(tg_node *node, Peer *peer)
{
        if (peer->fd < 0 || peer->gone || peer->convicted || peer->muted)
                return;
        peer->muted = true;
        stop_hearing(node, peer);
}

int rings_unmute(tg_node *node, Peer *peer)
{
        struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.u64 = peer->serial};
        int r;

        if (!peer->muted || peer->gone || peer->convicted)
                return 0;
        r = peer->heard_fd < 0 || node->turned ? 0 : hear_doorbell(node, peer);
        if (r == 0 && epoll_ctl(node->epoll_fd, EPOLL_CTL_MOD, peer->fd, &ev) < 0)
                r = -errno;
        if (r)
                return error_origin(r);
        peer->muted = false;
        return 0;
}

/* -------- being woken for nothing -------- */

/* To sockets: everybody has to announce anew, or a ring that a peer gave the doorbell just before is lost. */
static void turn(tg_node *node)
{
        Peer *peer, *next;

        node->usual = NULL;
        bell_turn(&node->bell, true);
        list_for_each(peer, next, &node->peers, link)
                if (peer->heard_fd >= 0)
                        (void)epoll_ctl(node->epoll_fd, EPOLL_CTL_DEL, peer->heard_fd, NULL); /* not there: it was convicted */
        node->turned = true;
        node->hears_doorbells = false;
        node->n_silent = 0;
        node->trial = (Trial){.every = TRIAL_EVERY};
}

static bool may_be_tried(const Peer *peer)
{
        return peer->heard_fd >= 0 && !peer->convicted && !peer->muted && !peer->gone;
}

/* What was rung there while nobody heard it. Not by read(), which may block: who else has it says whether it does. While all are asked for bytes. */
static void silence(const Peer *peer)
{
        (void)timerfd_settime(peer->heard_fd, 0, &(struct itimerspec){}, NULL);
}

/* All are heard before the first may ring there again; bytes are heard in any case. */
static void turn_back(tg_node *node)
{
        Peer *peer, *next;

        list_for_each(peer, next, &node->peers, link)
                if (may_be_tried(peer)) {
                        silence(peer);
                        if (hear_doorbell(node, peer) < 0)
                                return; /* no room in the epoll: it is tried again, and those that are heard already are heard twice meanwhile */
                        node->hears_doorbells = true;
                }
        bell_turn(&node->bell, false);
        node->turned = false;
}

/* Whose turn it is. NULL: there is nobody. */
static Peer *tried(tg_node *node)
{
        Trial *trial = &node->trial;
        Peer *peer = peer_by_serial(node, trial->serial), *next, *first = NULL, *later = NULL;

        if (peer && may_be_tried(peer) && trial->n_polls < TRIAL_POLLS)
                return peer;
        list_for_each(peer, next, &node->peers, link) { /* in the order of their serials */
                if (!may_be_tried(peer))
                        continue;
                if (!first)
                        first = peer;
                if (!later && peer->serial > trial->serial)
                        later = peer;
        }
        if (!first) { /* whoever it was has left or been convicted */
                trial->over = true;
                return NULL;
        }
        if (!later && trial->serial) { /* all had theirs */
                trial->every *= 4;
                trial->over = trial->every > TRIAL_RARELY;
                if (!trial->in_vain)
                        (void)socket_send(node, &(NodeMsg){.type = NODE_MSG_TURNED}); /* lost while nobody supervises: said again to who does next */
                trial->in_vain = true;
        }
        peer = later ? later : first;
        trial->serial = peer->serial;
        trial->n_polls = trial->n_with = trial->n_without = 0;
        return peer;
}

bool rings_turn_for_good(tg_node *node)
{
        if (node->turned_for_good)
                return false;
        turn(node);
        node->turned_for_good = true;
        return true;
}

HOT bool rings_watch_passes(const tg_node *node)
{
        return node->hears_doorbells && !node->n_silent && (node->n_polls + 1) % WATCH_EVERY != 0;
}

Watch rings_watch(tg_node *node)
{
        Peer *peer;

        if (node->turned_for_good)
                return WATCH_NONE;
        if (node->turned && node->trial.over)
                turn_back(node); /* if there is anything left to find it begins anew */
        if (node->hears_doorbells)
                return ++node->n_polls % (node->n_silent ? WATCH_AGAIN : WATCH_EVERY) == 0 ? WATCH_ALL : WATCH_NONE;
        if (!node->turned || ++node->n_polls % node->trial.every != 0)
                return WATCH_NONE;
        peer = tried(node);
        if (!peer || node->trial.over)
                return WATCH_NONE;
        if (node->trial.n_polls++ % 2 == 0)
                return WATCH_WITHOUT;
        silence(peer);
        return hear_doorbell(node, peer) == 0 ? WATCH_WITH : WATCH_NONE;
}

bool rings_watched(tg_node *node, Watch watch, bool for_nothing)
{
        Trial *trial = &node->trial;
        Peer *peer;

        switch (watch) {
        case WATCH_ALL:
                if (for_nothing)
                        node->n_silent++;
                else if (node->n_silent > 0)
                        node->n_silent--;
                if (node->n_silent < WATCH_TIMES || !node->hears_doorbells)
                        return false;
                turn(node);
                return true;
        case WATCH_WITHOUT:
                trial->n_without += for_nothing;
                return false;
        case WATCH_WITH:
                peer = peer_by_serial(node, trial->serial);
                if (!peer)
                        return false; /* it is gone, and its doorbell was taken out with it */
                (void)epoll_ctl(node->epoll_fd, EPOLL_CTL_DEL, peer->heard_fd, NULL);
                trial->n_with += for_nothing;
                if (trial->n_with < TRIAL_TIMES || trial->n_with <= TRIAL_TIMES * trial->n_without || !may_be_tried(peer))
                        return false;
                peer_convict(node, peer, "it rings, and takes that away before it is heard");
                turn_back(node);
                return false;
        case WATCH_NONE:
        default:
                return false;
        }
}

void rings_peer_gone(tg_node *node)
{
        node->trial.over = true; /* means nothing unless there is one */
}

void rings_judge_crowds(tg_node *node)
{
        Peer *peer, *next;

        __atomic_store_n(&node->crowded, false, __ATOMIC_RELAXED);
        list_for_each(peer, next, &node->peers, link)
                if (__atomic_load_n(&peer->crowds, __ATOMIC_RELAXED) && !peer->convicted && !peer->gone)
                        peer_convict(node, peer, "it crowds what it is rung by");
}
