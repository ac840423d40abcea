/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hostile ARENA: a node that does to all it was ever given whatever it may, in each of its lives the attack that the arena says. For as many
 * milliseconds as it says this node is as the others are; for so long it attacks, by turns if it can; then it notes that, and ends itself by SIGKILL
 * when the test has looked. `hostile --list` names the attacks, and how each of them has to end:
 *
 *   nothing    nobody else may feel it, and nothing can be proven
 *   told       a peer proves it: `violations` of this node in status
 *   named      the same, when there has been enough of it: the attack goes on until the test knows
 *   failed     the supervisor ends this node, and its error says why
 *   refused    the kernel refuses every step of it
 *
 * "takes" behind that: it takes what is sent to it as the others do meanwhile.
 *
 * It is linked with the inside of the node library, and with a recvmsg() of its own that keeps every descriptor the library gets.
 */
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>

#include "arena.h"
#include "base/doorbell.h"
#include "node/node-internal.h"

#define MAX_KEPT 256

static volatile uint64_t *arena;
static tg_node *self;
static uint64_t rng = 88172645463325252u;
static int kept[MAX_KEPT];
static unsigned n_kept;

static uint64_t any(void)
{
        rng ^= rng << 13;
        rng ^= rng >> 7;
        return rng ^= rng << 17;
}

/* Now and then a value that makes sense somewhere. */
static uint64_t value(void)
{
        uint64_t head = __atomic_load_n(&((struct ring_shared *)self->outputs[0].ring.map)->head, __ATOMIC_RELAXED);
        const uint64_t likely[] = {0, 1, 2, head, head + 1, head - 1, 2 * head + 2, head + 16, UINT64_C(1) << 62, UINT64_MAX, UINT32_MAX, 4096};
        uint64_t v = any();

        return v % 3 ? likely[v / 3 % ELEMENTSOF(likely)] : any();
}

ssize_t __real_recvmsg(int fd, struct msghdr *mh, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *mh, int flags);

ssize_t __wrap_recvmsg(int fd, struct msghdr *mh, int flags)
{
        ssize_t n = __real_recvmsg(fd, mh, flags);

        for (struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(mh) : NULL; c; c = CMSG_NXTHDR(mh, c)) {
                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int) && n_kept < MAX_KEPT; i++) {
                        int got;

                        memcpy(&got, CMSG_DATA(c) + i * sizeof(int), sizeof(got));
                        kept[n_kept] = fcntl(got, F_DUPFD_CLOEXEC, 100);
                        n_kept += kept[n_kept] >= 0;
                }
        }
        return n;
}

/* ---- what it has */

static struct ring_shared *ring(void)
{
        return self->outputs[0].ring.map;
}

static struct cursor_shared *cursor(void)
{
        return self->inputs[0].cursor.map;
}

#define put(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#define get(p)    __atomic_load_n((p), __ATOMIC_SEQ_CST)

static void scribble(const Region *region, size_t from, unsigned n)
{
        uint64_t *words = region->map;

        while (n--)
                put(&words[from / 8 + any() % ((region->size - from) / 8)], value());
}

static void ring_all(void)
{
        Peer *peer, *next;

        list_for_each(peer, next, &self->peers, link)
                peer_send(self, peer);
}

/* As an honest one: takes what is there, sends one message that it numbers. Where the source keeps a pace, and this node is not @loud, it sends one
 * for each that it has taken, and not at once, so that it is always another waking of the sink. */
static void be_honest_and(bool loud)
{
        static uint64_t n, due;
        uint8_t bytes[1000];
        tg_event *ev;

        while (tg_next(self, &ev, 0) == 0) {
                if (tg_event_type(ev) == TG_EVENT_INPUT && !due)
                        due = clock_ns(CLOCK_MONOTONIC) + arena[ARENA_PACE] / 2;
                tg_event_free(ev);
        }
        if (arena[ARENA_PACE] && !loud && (!due || clock_ns(CLOCK_MONOTONIC) < due))
                return;
        due = 0;
        memset(bytes, (int)n, sizeof(bytes));
        (void)tg_send(self, "out", bytes, n % 4 ? 64 : sizeof(bytes), NULL);
        n++;
}

static void be_honest(void)
{
        be_honest_and(false);
}

static void be_loud(void)
{
        be_honest_and(true);
}

/* ---- as a producer */

static void publish_raw(const struct ring_descriptor *d, const void *bytes, size_t size)
{
        struct ring_shared *r = ring();
        uint32_t n_slots = (uint32_t)r->header.layout[0];
        uint64_t i = get(&r->head);
        struct ring_slot *slot = &r->slot[i % n_slots];

        put(&slot->seq, 2 * i + 1);
        memcpy(slot->descriptor, d, sizeof(*d));
        if (size)
                memcpy(slot->bytes, bytes, size);
        put(&slot->seq, 2 * i + 2);
        put(&r->head, i + 1);
        output_tell(&self->outputs[0]);
}

/* To go back to where a reader has not been yet is to go back unseen. */
static bool readers_are_beyond(uint64_t index)
{
        OutLink *link, *next;

        list_for_each(link, next, &self->outputs[0].links, link) {
                const struct cursor_shared *c = link->cursor.map;

                if (c && get(&c->tail) <= index)
                        return false;
        }
        return true;
}

static void head_back(void)
{
        const uint64_t until = clock_ns(CLOCK_MONOTONIC) + UINT64_C(5000000000);

        while (!readers_are_beyond(get(&ring()->head) / 2) && clock_ns(CLOCK_MONOTONIC) < until)
                (void)poll(NULL, 0, 1); /* they were rung for what was sent */
        put(&ring()->head, get(&ring()->head) / 2);
        ring_all();
}

static void head_leap(void)
{
        put(&ring()->head, UINT64_C(1) << 63);
        ring_all();
}

static void head_far(void)
{
        put(&ring()->head, get(&ring()->head) + 100000);
        ring_all();
}

static void slots_noise(void)
{
        scribble(&self->outputs[0].ring, offsetof(struct ring_shared, floor), 50);
        scribble(&self->outputs[0].pool, 0, 50);
        for (unsigned i = 0; i < 8; i++) /* some are whole, or they would all be torn */
                publish_raw(&(struct ring_descriptor){.flags = (uint32_t)any(), .offset = value(), .payload_len = (uint32_t)value(),
                        .meta_len = any() % 4 ? 0 : (uint32_t)value()}, NULL, 0);
}

static void wild_descriptors(void)
{
        uint64_t size = self->outputs[0].pool.size;
        const struct ring_descriptor bad[] = {
                {.offset = size, .payload_len = 1},
                {.offset = size - 64, .payload_len = 65},
                {.offset = UINT64_MAX - 63, .payload_len = 128},
                {.offset = 4096, .payload_len = UINT32_MAX},
                {.offset = 4096, .payload_len = 8, .meta_len = UINT32_MAX},
                {.offset = 4096, .segment = 65535, .payload_len = 1},
                {.flags = RING_FLAG_INLINE, .payload_len = RING_INLINE_MAX + 1},
                {.flags = RING_FLAG_INLINE, .payload_len = UINT32_MAX, .meta_len = UINT32_MAX},
        };

        publish_raw(&bad[any() % ELEMENTSOF(bad)], NULL, 0);
}

static void unknown_segment(void)
{
        publish_raw(&(struct ring_descriptor){.offset = 4096, .segment = 7, .payload_len = 1}, NULL, 0);
}

static void wild_metadata(void)
{
        uint8_t bytes[192];

        for (size_t i = 0; i < sizeof(bytes); i++)
                bytes[i] = (uint8_t)any();
        publish_raw(&(struct ring_descriptor){.flags = RING_FLAG_INLINE, .payload_len = 8, .meta_len = 1 + (uint32_t)any() % 180}, bytes, sizeof(bytes));
}

static void replay(void)
{
        struct ring_shared *r = ring();
        struct ring_slot *slot = &r->slot[any() % r->header.layout[0]];

        put(&slot->seq, get(&slot->seq) - 2 * (any() % 3) * r->header.layout[0]);
        put(&r->head, get(&r->head) + 1);
        output_tell(&self->outputs[0]);
}

static void room_lies(void)
{
        struct ring_shared *r = ring();

        put(&r->room_target, value());
        put(&r->room_link, any() % 2 ? 1 + (uint32_t)(any() % 4) : ROOM_LINK_ANY);
        put(&r->room_reason, (uint32_t)(any() % 4));
        put(&r->room_epoch, any() | 1);
        be_honest();
}

static void floor_lies(void)
{
        be_honest();
        put(&ring()->floor, any() % 2 ? value() : 0);
}

static void shifting_payload(void)
{
        be_honest();
        scribble(&self->outputs[0].pool, POOL_DATA_OFFSET, 200);
}

static void open_and_shut(void)
{
        put(&ring()->closed, any() % 2);
        ring_all();
        be_honest();
}

static void headers_noise(void)
{
        const Region *regions[] = {&self->outputs[0].ring, &self->outputs[0].pool, &self->inputs[0].cursor, &self->bell_map};
        uint64_t *words = regions[any() % ELEMENTSOF(regions)]->map;

        put(&words[any() % (sizeof(struct region_header) / 8)], value());
        if (self->outputs[0].ring.map == words)
                put(&((struct region_header *)self->outputs[0].ring.map)->layout[0], self->outputs[0].ring.layout[0]); /* we read that one ourselves */
        be_honest();
}

/* ---- as a consumer */

static void tail_back(void)
{
        put(&cursor()->tail, get(&cursor()->tail) / 2);
}

static void tail_leap(void)
{
        put(&cursor()->tail, get(&cursor()->tail) + 1000000);
}

static void claims_noise(void)
{
        for (unsigned k = 0; k < CURSOR_N_CLAIMS; k++)
                put(&cursor()->claim[k], any() % 4 ? get(&cursor()->tail) - any() % 16 : value());
        be_honest();
}

static void claims_held(void)
{
        static tg_event *held[64];
        static unsigned n;
        tg_event *ev;

        if (n < ELEMENTSOF(held) && tg_next(self, &ev, 0) == 0)
                held[n++] = ev; /* and never given back */
        else
                be_honest();
}

static void state_flips(void)
{
        put(&cursor()->state, (uint32_t)(any() % 3));
        be_honest();
        put(&cursor()->state, 1u);
}

static void cursor_noise(void)
{
        struct cursor_shared *c = cursor();
        size_t from = any() % 2 ? offsetof(struct cursor_shared, claim) : offsetof(struct cursor_shared, start);

        scribble(&self->inputs[0].cursor, from, 4);
        put(&c->attachment, (uint32_t)any());
        be_honest();
}

/* ---- bells and doorbells */

static void bell_toggles(void)
{
        put(&self->bell.shared->epoch, any() | 1);
        be_honest();
}

static uint64_t n_flooded; /* bytes, with which the sink was rung */

static void flood(size_t size)
{
        static const char bytes[4096];
        const OutLink *link = list_first(&self->outputs[0].links, OutLink, link);
        Peer *peer, *next;

        list_for_each(peer, next, &self->peers, link)
                for (unsigned i = 0; i < 50; i++) {
                        ssize_t n = send(peer->fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);

                        n_flooded += n > 0 && link && link->peer == peer ? (uint64_t)n : 0;
                }
        (void)sched_yield();
}

/* Who has just sent as fast as it can may ring for long: each of its messages may have been a ring, and one in eight of these two. */
static bool flooded_enough(void)
{
        uint64_t n = get(&ring()->head);

        return n_flooded > n + n / 8 + 4096; /* no more than that: who is convicted may be read from no more */
}

static void flood_bytes(void)
{
        flood(1);
        be_honest();
}

static void flood_pages(void)
{
        flood(4096);
}

static void doorbell_fds(void)
{
        int fds[64];
        union {
                struct cmsghdr c;
                char bytes[CMSG_SPACE(sizeof(fds))];
        } control = {};
        struct iovec iov = {.iov_base = (char[]){'x'}, .iov_len = 1};
        struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
        Peer *peer, *next;

        for (size_t i = 0; i < ELEMENTSOF(fds); i++)
                fds[i] = kept[any() % n_kept];
        control.c = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(fds))};
        memcpy(CMSG_DATA(&control.c), fds, sizeof(fds));
        list_for_each(peer, next, &self->peers, link)
                (void)sendmsg(peer->fd, &mh, MSG_DONTWAIT | MSG_NOSIGNAL);
        be_honest();
}

static void doorbells_rung(void)
{
        Peer *peer, *next;

        list_for_each(peer, next, &self->peers, link)
                for (unsigned i = 0; i < 50 && peer->rung_fd >= 0; i++)
                        (void)doorbell_ring(peer->rung_fd);
        (void)sched_yield();
        be_honest();
}

/* All that can be done to a timerfd by who has it: emptied, armed, made to block, and polled by a crowd. */
static void doorbells_spoiled(void)
{
        static const struct itimerspec often = {{.tv_nsec = 1}, {.tv_nsec = 1}};
        static int crowd[64];
        Peer *peer, *next;
        uint64_t n;

        list_for_each(peer, next, &self->peers, link) {
                const int fds[] = {peer->rung_fd, peer->heard_fd};

                for (size_t i = 0; i < ELEMENTSOF(fds); i++) {
                        int *epoll = &crowd[any() % ELEMENTSOF(crowd)];

                        if (fds[i] < 0)
                                continue;
                        *epoll = *epoll ? *epoll : epoll_create1(EPOLL_CLOEXEC);
                        (void)epoll_ctl(*epoll, EPOLL_CTL_ADD, fds[i], &(struct epoll_event){.events = EPOLLIN});
                        (void)timerfd_settime(fds[i], 0, &often, NULL);
                        (void)!read(fds[i], &n, sizeof(n));
                        (void)fcntl(fds[i], F_SETFL, 0);
                }
        }
        be_honest();
}

/* Each of the two of each pair, and what it is for them to be set, read or rung as often as that is possible. */
static void each_doorbell(void (*f)(int fd))
{
        Peer *peer, *next;

        list_for_each(peer, next, &self->peers, link) {
                const int fds[] = {peer->rung_fd, peer->heard_fd};

                for (size_t i = 0; i < ELEMENTSOF(fds); i++)
                        for (unsigned k = 0; k < 20 && fds[i] >= 0; k++)
                                f(fds[i]);
        }
}

static void disarm(int fd)
{
        static const struct itimerspec never;

        (void)timerfd_settime(fd, 0, &never, NULL); /* takes a ring away that nobody has heard yet */
}

static void doorbells_disarmed(void)
{
        each_doorbell(disarm);
        be_honest();
}

static void read_once(int fd)
{
        uint64_t n;

        (void)fcntl(fd, F_SETFL, O_NONBLOCK);
        (void)!read(fd, &n, sizeof(n));
}

static void doorbells_read(void)
{
        each_doorbell(read_once);
        be_honest();
}

static void arm(int fd)
{
        static const struct itimerspec often = {{.tv_nsec = 1}, {.tv_nsec = 1}};
        struct itimerspec now;

        /* Each look lets it run out once more, and leaves its ticks where they are. */
        if (timerfd_gettime(fd, &now) == 0 && now.it_interval.tv_nsec != 1)
                (void)timerfd_settime(fd, 0, &often, NULL);
}

static void doorbells_armed(void)
{
        each_doorbell(arm);
}

static void ring_and_take(int fd)
{
        uint64_t n;

        (void)doorbell_ring(fd);
        (void)!read(fd, &n, sizeof(n));
}

/* Whoever hears there is woken, finds nothing, and may sleep again before the next time. */
static void doorbells_taken(void)
{
        for (unsigned i = 0; i < 20; i++) {
                each_doorbell(ring_and_take);
                for (nsec_t until = clock_now() + 4 * NSEC_PER_USEC; clock_now() < until;)
                        ;
        }
        be_honest();
}

/* Whoever rings there has to call on all of them; and in between it asks to be rung for. */
static void doorbells_crowded(void)
{
        enum { N_DIRECT = 400, N_NESTED = 100 };
        static int direct[N_DIRECT];
        static bool there;
        Peer *peer, *next;

        for (unsigned i = 0; i < N_DIRECT && !there; i++) {
                direct[i] = epoll_create1(EPOLL_CLOEXEC);
                list_for_each(peer, next, &self->peers, link) {
                        (void)epoll_ctl(direct[i], EPOLL_CTL_ADD, peer->heard_fd, &(struct epoll_event){.events = EPOLLIN});
                        (void)epoll_ctl(direct[i], EPOLL_CTL_ADD, peer->rung_fd, &(struct epoll_event){.events = EPOLLIN});
                }
        }
        for (unsigned i = 0; i < N_NESTED && !there; i++)
                (void)epoll_ctl(epoll_create1(EPOLL_CLOEXEC), EPOLL_CTL_ADD, direct[i], &(struct epoll_event){.events = EPOLLIN});
        there = true;
        bell_toggles();
}

static void tick(int fd)
{
        (void)doorbell_ring(fd);
}

static void doorbells_ticked(void)
{
        each_doorbell(tick);
}

/* At the sink alone, after a lie that no flood may be explained by. */
static void lie_and_flood(void)
{
        const OutLink *link = list_first(&self->outputs[0].links, OutLink, link);

        put(&ring()->head, UINT64_C(1) << 63);
        for (unsigned i = 0; i < 20 && link && link->peer && link->peer->rung_fd >= 0; i++)
                (void)doorbell_ring(link->peer->rung_fd);
        be_honest();
}

static void doorbells_shut(void)
{
        Peer *peer, *next;

        list_for_each(peer, next, &self->peers, link)
                (void)shutdown(peer->fd, SHUT_RDWR);
        be_honest();
}

/* ---- the files themselves */

static bool is_memory(int fd)
{
        return fcntl(fd, F_GET_SEALS) >= 0;
}

/* What is refused may not be let through once: of memory that others read, and of its own, which they trust in. */
static void spoil_memory(int fd)
{
        char path[64], bytes[16] = "spoilt";
        struct flock lock = {.l_type = F_WRLCK};
        void *map;
        int again;

        arena[ARENA_NOTE] += ftruncate(fd, 0) == 0 || ftruncate(fd, 1 << 24) == 0;
        arena[ARENA_NOTE] += fallocate(fd, 0x02 | 0x01, 0, 4096) == 0; /* PUNCH_HOLE, KEEP_SIZE */
        arena[ARENA_NOTE] += fallocate(fd, 0x10, 0, 4096) == 0;        /* ZERO_RANGE */
        arena[ARENA_NOTE] += fcntl(fd, F_ADD_SEALS, 0x08) == 0;        /* WRITE: its writer has it mapped */
        arena[ARENA_NOTE] += pwrite(fd, bytes, sizeof(bytes), 128) > 0;
        map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        arena[ARENA_NOTE] += map != MAP_FAILED;
        (void)fcntl(fd, F_SETFL, O_APPEND | O_NONBLOCK);
        (void)fcntl(fd, F_OFD_SETLK, &lock);
        (void)flock(fd, LOCK_EX | LOCK_NB);
        (void)fcntl(fd, F_SETLEASE, F_WRLCK);
        (void)fallocate(fd, 0, 0, 4096);
        (void)lseek(fd, 0, SEEK_END);
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        again = open(path, O_RDWR | O_TRUNC | O_CLOEXEC | O_NONBLOCK);
        if (again >= 0) {
                arena[ARENA_NOTE] += pwrite(again, bytes, sizeof(bytes), 128) > 0;
                map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0);
                arena[ARENA_NOTE] += map != MAP_FAILED;
                close(again);
        }
        (void)fchmod(fd, 0);
}

static void spoil_maps(void)
{
        Peer *peer, *next;
        Source *source = self->inputs[0].now;

        list_for_each(peer, next, &self->peers, link)
                arena[ARENA_NOTE] += peer->bell_map.map && mprotect(peer->bell_map.map, 4096, PROT_READ | PROT_WRITE) == 0;
        if (source) {
                arena[ARENA_NOTE] += mprotect(source->ring.map, 4096, PROT_READ | PROT_WRITE) == 0;
                arena[ARENA_NOTE] += madvise(source->ring.map, 4096, MADV_REMOVE) == 0;
        }
        arena[ARENA_NOTE] += madvise(self->outputs[0].ring.map, 4096, MADV_REMOVE) == 0; /* its own pages, under its readers */
        arena[ARENA_NOTE] += madvise(self->outputs[0].pool.map, 4096, MADV_REMOVE) == 0;
}

/* Its own control page alone stays open to the supervisor, whose successor writes there: control_page(). */
static void every_file(void)
{
        for (unsigned i = 0; i < n_kept; i++)
                if (is_memory(kept[i]) && fcntl(kept[i], F_GET_SEALS) & 0x10) /* FUTURE_WRITE */
                        spoil_memory(kept[i]);
        spoil_maps();
        be_honest();
}

static void every_map(void)
{
        scribble(&self->outputs[0].ring, sizeof(struct region_header), 30);
        scribble(&self->outputs[0].pool, 0, 30);
        scribble(&self->inputs[0].cursor, 0, 10);
        scribble(&self->bell_map, sizeof(struct region_header), 2);
        ring_all();
}

/* All of it, its header too, and its pages. What others would meet there is refused: another size, and a seal that keeps out who writes next. */
static void control_page(void)
{
        static uint64_t *page;
        static int fd = -1;

        for (unsigned i = 0; i < n_kept && !page; i++) {
                if (!is_memory(kept[i]) || fcntl(kept[i], F_GET_SEALS) & 0x10) /* FUTURE_WRITE */
                        continue;
                page = mmap(NULL, control_size(), PROT_READ | PROT_WRITE, MAP_SHARED, fd = kept[i], 0);
                if (page == MAP_FAILED || ((struct region_header *)page)->kind != REGION_CONTROL)
                        DIE("what is not sealed is its control page");
        }
        if (!page)
                DIE("it has no control page");
        arena[ARENA_NOTE] += ftruncate(fd, 0) == 0 || ftruncate(fd, 1 << 24) == 0;
        arena[ARENA_NOTE] += fcntl(fd, F_ADD_SEALS, 0x08) == 0 || fcntl(fd, F_ADD_SEALS, 0x10) == 0; /* WRITE, FUTURE_WRITE */
        if (any() % 16 == 0)
                (void)fallocate(fd, 0x02 | 0x01, 0, 4096); /* PUNCH_HOLE, KEEP_SIZE */
        for (unsigned n = 0; n < 8; n++)
                put(&page[any() % (control_size() / 8)], value());
        be_honest();
}

/* ---- the socket to the supervisor */

static void say(const NodeMsg *msg)
{
        uint8_t bytes[NODE_MSG_MAX];
        int n = node_msg_encode(msg, bytes, sizeof(bytes));

        if (n > 0)
                (void)send(self->fd, bytes, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void socket_garbage(void)
{
        uint8_t bytes[300];

        for (size_t i = 0; i < sizeof(bytes); i++)
                bytes[i] = (uint8_t)any();
        (void)send(self->fd, bytes, 1 + any() % sizeof(bytes), MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void socket_flood(void)
{
        for (unsigned i = 0; i < 100; i++)
                say(&(NodeMsg){.type = NODE_MSG_LINK_OUT_ACK, .ack = {.link = 1, .generation = 1}});
}

/* What comes there, and what is taken from there, calls on all of them: each of the epolls has it as often as there are descriptors of it. */
static void socket_crowded(void)
{
        enum { N_FDS = 100, N_EPOLLS = 200 };
        static int fds[N_FDS];
        static unsigned n;

        for (unsigned i = 0; i < N_FDS && !fds[N_FDS - 1]; i++)
                fds[i] = fcntl(self->fd, F_DUPFD_CLOEXEC, 3);
        for (; n < N_EPOLLS; n++) {
                int fd = epoll_create1(EPOLL_CLOEXEC);

                for (unsigned k = 0; k < N_FDS; k++)
                        (void)epoll_ctl(fd, EPOLL_CTL_ADD, fds[k], &(struct epoll_event){.events = EPOLLIN | EPOLLOUT | EPOLLET});
        }
        say(&(NodeMsg){.type = NODE_MSG_LINK_OUT_ACK, .ack = {.link = 1, .generation = 1}});
        (void)poll(NULL, 0, 2); /* no flood */
}

static void socket_fds(void)
{
        union {
                struct cmsghdr c;
                char bytes[CMSG_SPACE(4 * sizeof(int))];
        } control = {};
        struct iovec iov = {.iov_base = (char[]){'x'}, .iov_len = 1};
        struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
        int fds[4];

        for (size_t i = 0; i < ELEMENTSOF(fds); i++)
                fds[i] = kept[any() % n_kept];
        control.c = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(fds))};
        memcpy(CMSG_DATA(&control.c), fds, sizeof(fds));
        if (sendmsg(self->fd, &mh, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
                socket_garbage(); /* refused by this kernel (6.16 and later): it has to fail all the same */
}

static void socket_lies(void)
{
        const NodeMsg lies[] = {
                {.type = NODE_MSG_CLOSE_OUTPUT, .close_output = {.output = 200}},
                {.type = NODE_MSG_MAPPED},
                {.type = NODE_MSG_VIOLATION, .violation = {.link = 1, .generation = 1, .text = "not mine to accuse"}},
                {.type = NODE_MSG_VIOLATION, .violation = {.link = 99, .generation = 1, .text = "who?"}},
                {.type = NODE_MSG_LINK_LEFT, .link_left = {.link = 99, .generation = 1, .text = "which?"}},
                {.type = NODE_MSG_HELLO, .hello = {.version = NODE_MSG_VERSION, .library = "x", .dataflow = "flow", .node = "sink", .generation = 1}},
        };

        say(&(NodeMsg){.type = NODE_MSG_RESUMED, .resume = {.epoch = any(), .running = 1}});
        say(&(NodeMsg){.type = NODE_MSG_LINK_IN_ACK, .ack = {.link = 1, .generation = 1}});
        say(&(NodeMsg){.type = NODE_MSG_DETACH_ACK, .ack = {.link = 1, .generation = 7}});
        say(&(NodeMsg){.type = NODE_MSG_TURNED});
        say(&lies[any() % ELEMENTSOF(lies)]);
}

/* ---- growth of its pool */

#define ASKED (64 << 10) /* small: what it gets is charged to this machine */

static void grow(uint32_t output, uint64_t chunk_size)
{
        say(&(NodeMsg){.type = NODE_MSG_GROW, .grow = {.output = output, .chunk_size = chunk_size}});
}

static void grow_ack(uint32_t number, uint8_t used)
{
        say(&(NodeMsg){.type = NODE_MSG_SEGMENT_ACK, .segment = {.output = 0, .number = number, .size = 1 + any() % NODE_MSG_REGION_MAX, .used = used}});
}

/* Takes all that it gets, and then more. */
static void asks_without_end(void)
{
        grow(0, 1 + any() % ASKED);
        be_honest();
}

static void grow_of_none(void)
{
        grow(1 + (uint32_t)any() % 255, ASKED);
        (void)poll(NULL, 0, 10);
}

static void ack_of_none(void)
{
        grow_ack(1 + (uint32_t)any() % (NODE_MSG_MAX_SEGMENTS - 1), any() % 2);
        (void)poll(NULL, 0, 10);
}

/* Its reader reads: what it publishes now is looked at. */
static void until_linked(void)
{
        Output *output = &self->outputs[0];
        tg_event *ev;

        for (unsigned i = 0;; i++) {
                OutLink *link = list_first(&output->links, OutLink, link);
                const struct cursor_shared *c = link ? link->cursor.map : NULL;

                if (c && get(&c->state) == CURSOR_ACTIVE)
                        return;
                if (i == 5000)
                        DIE("nobody reads it");
                if (tg_next(self, &ev, (int64_t)NSEC_PER_MSEC) == 0)
                        tg_event_free(ev);
        }
}

/* Asks for a segment and takes it by itself, before the library sees it. */
static int take_segment(uint64_t *ret_size)
{
        uint8_t bytes[NODE_MSG_MAX];
        union {
                struct cmsghdr c;
                char bytes[CMSG_SPACE(NODE_MSG_MAX_FDS * sizeof(int))];
        } control = {};
        struct iovec iov = {.iov_base = bytes, .iov_len = sizeof(bytes)};
        struct pollfd p = {.fd = self->fd, .events = POLLIN};
        NodeMsg msg;

        grow(0, ASKED);
        while (poll(&p, 1, 20000) == 1) {
                struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
                ssize_t n = recvmsg(self->fd, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

                if (n <= 0)
                        break;
                if (node_msg_decode(&msg, bytes, (size_t)n) || msg.type != NODE_MSG_SEGMENT)
                        continue;
                *ret_size = msg.segment.size;
                return kept[n_kept - 1];
        }
        DIE("it gets no segment");
}

/* So that nobody can seal it any more. */
static void segment_sealed_early(void)
{
        uint64_t size;
        int fd = take_segment(&size);

        if (fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL) < 0)
                DIE("its own segment cannot be sealed");
        grow_ack(1, 0);
        (void)poll(NULL, 0, 20000);
}

/* Who reads there would pay for its pages. */
static void untouched_segment(void)
{
        uint64_t size;
        int fd = take_segment(&size);

        if (fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) < 0)
                DIE("its own segment cannot be sealed");
        grow_ack(1, 0);
        (void)poll(NULL, 0, 20000);
}

/* Touched, and its pages given back again; shorter it cannot be made. */
static void segment_hollow(void)
{
        uint64_t size;
        int fd = take_segment(&size);
        uint8_t *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

        if (map == MAP_FAILED)
                DIE("its own segment cannot be mapped");
        memset(map + sizeof(struct region_header), 1, size - sizeof(struct region_header));
        arena[ARENA_NOTE] += ftruncate(fd, 4096) == 0 || ftruncate(fd, (off_t)size * 2) == 0;
        if (fallocate(fd, 0x02 | 0x01, 4096, (off_t)size - 4096) < 0) /* PUNCH_HOLE, KEEP_SIZE */
                DIE("its own pages cannot be given back");
        if (fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) < 0)
                DIE("its own segment cannot be sealed");
        grow_ack(1, 0);
        (void)poll(NULL, 0, 20000);
}

/* Mapped, and written to, but nobody has been told: only after its ACK the others are, and READY comes. */
static void segment_not_granted(void)
{
        uint64_t size;

        until_linked();
        (void)take_segment(&size);
        publish_raw(&(struct ring_descriptor){.offset = 4096, .segment = 1, .payload_len = 1}, NULL, 0);
}

/* As an honest one, once: until it may use it. */
static void grow_first(void)
{
        static bool asked;
        tg_event *ev;

        if (!asked)
                grow(0, ASKED);
        asked = true;
        for (unsigned i = 0; self->outputs[0].n_segments == 1; i++) {
                if (i == 5000)
                        DIE("its pool does not grow");
                if (tg_next(self, &ev, (int64_t)NSEC_PER_MSEC) == 0)
                        tg_event_free(ev);
        }
}

/* In one that the others have: beyond its end. */
static void segment_wild(void)
{
        grow_first();
        publish_raw(&(struct ring_descriptor){.offset = self->outputs[0].grown[1].size - 64, .segment = 1, .payload_len = 65 + (uint32_t)any() % 4096}, NULL, 0);
}

/* Says again what it has said, and that it is used what it is not told to use. */
static void segment_replays(void)
{
        grow_first();
        grow_ack(1, any() % 2);
        grow(0, ASKED);
        be_honest();
        (void)poll(NULL, 0, 2);
}

static void asks_and_dies(void)
{
        uint64_t size;

        (void)take_segment(&size);
}

/* Of its own links, by turns: its word stands against the honest, who go on. */
static void accusations(void)
{
        for (uint32_t link = 1; link <= 3; link++)
                if (link != 1) /* source -> sink */
                        say(&(NodeMsg){.type = NODE_MSG_VIOLATION, .violation = {.link = link, .generation = 1, .text = "\033[2Jthe others are to blame\n\xff"}});
        (void)poll(NULL, 0, 2);
        be_honest();
}

/* By name, as another node, and as itself once more; and by many who say nothing. */
static void forged_handshakes(void)
{
        static int fds[32];
        static unsigned n;
        const char *path = getenv(NODE_MSG_SOCKET_ENV);
        struct sockaddr_un addr = {.sun_family = AF_UNIX};
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), own = self->fd;

        (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path ? path : "");
        if (fd < 0 || !path || connect(fd, (void *)&addr, sizeof(addr)) < 0) {
                close(fd);
                be_honest();
                return;
        }
        self->fd = fd; /* for say() */
        switch (any() % 4) {
        case 0:
                say(&(NodeMsg){.type = NODE_MSG_HELLO, .hello = {.version = NODE_MSG_VERSION, .library = "x", .dataflow = "flow", .node = "sink"}});
                break;
        case 1: {
                NodeMsg hello = {.type = NODE_MSG_HELLO, .hello = {.version = NODE_MSG_VERSION, .library = "x", .dataflow = self->dataflow, .node = "source", .generation = 1}};

                memcpy(hello.hello.uuid, self->uuid, sizeof(hello.hello.uuid));
                say(&hello);
                break;
        }
        case 2:
                socket_garbage();
                break;
        default:
                break;
        }
        self->fd = own;
        close(fds[n % ELEMENTSOF(fds)]);
        fds[n++ % ELEMENTSOF(fds)] = fd;
        be_honest();
}

typedef enum How {
        ONCE,      /* and then it is silent */
        REPEATED,  /* without being honest in between */
        FLOODS,    /* as REPEATED, and until it has rung more often than it had a reason to */
        BESIDE,    /* while it takes and sends as the others do */
        UNTIL,     /* repeated until it is told of, and on */
        FATAL,     /* repeated until it is ended for it */
} How;

static const struct {
        const char *name, *end;
        void (*step)(void);
        How how;
} attacks[] = {
        {"head_back", "told", head_back, ONCE},
        {"head_leap", "told", head_leap, ONCE},
        {"head_far", "nothing", head_far, REPEATED},
        {"slots_noise", "told", slots_noise, REPEATED},
        {"wild_descriptors", "told", wild_descriptors, REPEATED},
        {"unknown_segment", "told", unknown_segment, ONCE},
        {"wild_metadata", "told", wild_metadata, REPEATED},
        {"replay", "nothing", replay, REPEATED},
        {"room_lies", "nothing", room_lies, BESIDE},
        {"floor_lies", "nothing", floor_lies, BESIDE},
        {"shifting_payload", "nothing", shifting_payload, BESIDE},
        {"open_and_shut", "nothing", open_and_shut, BESIDE},
        {"headers_noise", "nothing", headers_noise, BESIDE},
        {"tail_back", "told", tail_back, ONCE},
        {"tail_leap", "told", tail_leap, ONCE},
        {"claims_noise", "nothing", claims_noise, BESIDE},
        {"claims_held", "nothing", claims_held, BESIDE},
        {"state_flips", "nothing", state_flips, BESIDE},
        {"cursor_noise", "nothing", cursor_noise, BESIDE},
        {"bell_toggles", "nothing", bell_toggles, BESIDE},
        {"flood_bytes", "nothing", flood_bytes, BESIDE},
        {"flood_pages", "told", flood_pages, FLOODS},
        {"doorbell_fds", "nothing", doorbell_fds, BESIDE},
        {"doorbells_rung", "nothing", doorbells_rung, BESIDE},
        {"doorbells_spoiled", "nothing", doorbells_spoiled, BESIDE},
        {"doorbells_disarmed", "nothing", doorbells_disarmed, BESIDE},
        {"doorbells_read", "nothing", doorbells_read, BESIDE},
        {"doorbells_crowded", "named", doorbells_crowded, UNTIL},
        {"doorbells_armed", "named", doorbells_armed, UNTIL},
        {"doorbells_ticked", "named", doorbells_ticked, UNTIL},
        {"lie_and_flood", "told", lie_and_flood, BESIDE},
        {"doorbells_shut", "nothing", doorbells_shut, BESIDE},
        {"every_file", "refused", every_file, BESIDE},
        {"every_map", "nothing", every_map, REPEATED},
        {"control_page", "nothing", control_page, BESIDE},
        {"socket_garbage", "failed", socket_garbage, FATAL},
        {"socket_fds", "failed", socket_fds, FATAL},
        {"socket_flood", "failed", socket_flood, FATAL},
        {"socket_crowded", "failed", socket_crowded, FATAL},
        {"socket_lies", "failed", socket_lies, FATAL},
        {"untouched_segment", "failed", untouched_segment, FATAL},
        {"asks_without_end", "failed", asks_without_end, FATAL},
        {"grow_of_none", "failed", grow_of_none, FATAL},
        {"ack_of_none", "failed", ack_of_none, FATAL},
        {"segment_sealed_early", "failed", segment_sealed_early, FATAL},
        {"segment_hollow", "failed", segment_hollow, FATAL},
        {"segment_replays", "nothing", segment_replays, BESIDE}, /* not "told" behind "failed": who is ended cannot wait until the test has counted */
        {"segment_not_granted", "told", segment_not_granted, ONCE},
        {"segment_wild", "told", segment_wild, REPEATED},
        {"asks_and_dies", "nothing", asks_and_dies, ONCE},
        {"accusations", "nothing", accusations, BESIDE},
        {"forged_handshakes", "nothing", forged_handshakes, BESIDE},
        {"doorbells_taken", "named", doorbells_taken, UNTIL}, /* the last: whom it wakes may hear no doorbells any more */
};

static void during(uint64_t ms, void (*step)(void))
{
        uint64_t until = clock_ns(CLOCK_MONOTONIC) + ms * 1000000;

        while (clock_ns(CLOCK_MONOTONIC) < until)
                step();
}

/* Once a look would do; they may all look as often as they like. At a pace as often as an honest one has them look: a flood is another attack. */
static void have_them_look(void)
{
        const struct timespec ts = {.tv_nsec = (long)arena[ARENA_PACE]};

        ring_all();
        if (ts.tv_nsec)
                (void)nanosleep(&ts, NULL);
}

static void attack(size_t k, uint64_t life, uint64_t ms)
{
        const uint64_t deadline = clock_ns(CLOCK_MONOTONIC) + UINT64_C(20000000000);

        if (attacks[k].how == ONCE) {
                attacks[k].step();
                during(ms, have_them_look);
                return;
        }
        while (attacks[k].how == UNTIL && arena[ARENA_TOLD] <= life && clock_ns(CLOCK_MONOTONIC) < deadline)
                attacks[k].step();
        while (attacks[k].how == FLOODS && !flooded_enough() && clock_ns(CLOCK_MONOTONIC) < deadline)
                attacks[k].step();
        during(attacks[k].how == FATAL ? 20000 : ms, attacks[k].step);
}

/* What can be taken up again is done by turns with being honest, so that what else this machine does is the same for both. */
static void by_turns(size_t k, uint64_t life, uint64_t ms)
{
        bool is_loud = attacks[k].how == REPEATED || attacks[k].how == FLOODS; /* who keeps no pace is compared with one who keeps none */
        unsigned n = (attacks[k].how == BESIDE || attacks[k].how == REPEATED) && strcmp(attacks[k].end, "told") != 0 ? 3 : 1;

        for (unsigned i = 0; i < n; i++) {
                arena[ARENA_PHASE] = 4 * life + 1;
                during(ms / n, is_loud ? be_loud : be_honest);
                arena[ARENA_PHASE] = 4 * life + 2;
                attack(k, life, ms / n);
        }
        arena[ARENA_PHASE] = 4 * life + 3;
}

static int list(void)
{
        for (size_t i = 0; i < ELEMENTSOF(attacks); i++)
                printf("%s %s%s\n", attacks[i].name, attacks[i].end, attacks[i].how == BESIDE ? " takes" : "");
        return 0;
}

int main(int argc, char **argv)
{
        uint64_t life, got;

        if (argc == 2 && strcmp(argv[1], "--list") == 0)
                return list();
        if (argc != 2)
                DIE("usage: hostile ARENA | --list");
        arena = arena_open(argv[1]);
        self = open_node();
        life = tg_restart_count(self);
        rng += life * UINT64_C(0x9e3779b97f4a7c15);
        __atomic_store_n(&self->send_timeout_ns, 0, __ATOMIC_RELAXED); /* who does not take from it is no reason not to take from others */
        arena[ARENA_PHASE] = 4 * life;
        got = arena[ARENA_GOT];
        for (uint64_t until = clock_ns(CLOCK_MONOTONIC) + UINT64_C(20000000000);
             (arena[ARENA_GOT] < got + 20 || get(&ring()->head) < 20) && clock_ns(CLOCK_MONOTONIC) < until;)
                be_honest();
        arena[ARENA_STILL] += arena[ARENA_GOT] < got + 20;
        while (__atomic_load_n(&arena[ARENA_GO], __ATOMIC_ACQUIRE) <= life) {
                if (tg_should_stop(self))
                        return 0;
                be_honest();
        }
        by_turns(arena[ARENA_ATTACK], life, arena[ARENA_MS]);
        while (arena[ARENA_SEEN] <= life) /* it is killed if nobody looks */
                (void)poll(NULL, 0, 1);
        (void)raise(SIGKILL); /* leaves as it is: with claims, odd epochs, a torn slot */
        return 1;
}
