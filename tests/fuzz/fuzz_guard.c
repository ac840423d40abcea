/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer: everything that the guard takes from others. The first byte chooses: records of one sender, the state
 * that a guard is handed when it begins, or a sequence of orders about escrows as an accepted supervisor gives them.
 * Of what is accepted everything is used that the guard uses without a further check.
 *
 * The table of escrows is a small one here (GUARD_MAX_NODE_ESCROWS), so that it is full now and then.
 *
 * Magic, version and sizes are put right where a bit of the first byte says so, for no fuzzer guesses them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "supervisor/guard-internal.h"

_Static_assert(GUARD_MAX_NODE_ESCROWS < 32, "an input has that many steps");

enum {
        FIX = 1u << 7,
        MODE = 3u, /* 0: records, 1: the state, 2: escrows */
};

static Guard guard;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool good)
{
        if (!good)
                abort();
}

/* What guard-escrow.c needs of the guard's other parts: no process is made here. */
int guard_enforce(GuardEscrow *escrow, bool remove)
{
        require(escrow->at <= guard.loop.now &&
                (!escrow->name || guard_name_is_of(escrow->name, GUARD_NAME_MAX, escrow->generation)));
        (void)remove;
        return 0;
}

bool guard_enforcing_escrow(const GuardEscrow *escrow)
{
        (void)escrow;
        return false;
}

void guard_tell_kept(Guard *g, uint32_t slot)
{
        (void)g;
        (void)slot;
}

int guard_record_send(int sock, struct guard_record *record, const int *fds, size_t n_fds)
{
        (void)sock;
        (void)fds;
        require(n_fds == 0);
        /* It is told to a supervisor, which checks it too. */
        record->magic = GUARD_MAGIC;
        require(guard_msg_check(GUARD_SENDER_GUARD, record, sizeof(*record), 0) == 0);
        return 0;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
        (void)argc;
        (void)argv;
        list_init(&guard.loop.timers);
        require(guard_escrow_open(&guard) == 0);
        for (uint32_t i = 0; i < GUARD_MAX_SLOTS; i++)
                guard.slots[i] = (GuardSlot){.guard = &guard,
                        .number = i,
                        .dir_fd = -1,
                        .escrow = {.guard = &guard, .slot = i, .at = NSEC_NEVER}};
        return 0;
}

/* ---- records */

static void use_record(GuardSender from, const struct guard_record *record, size_t n_fds)
{
        require(record->slot < GUARD_MAX_SLOTS);
        switch (record->type) {
        case GUARD_MSG_STORE:
        case GUARD_MSG_STORED:
                require(record->count == n_fds && n_fds >= 1 && n_fds <= GUARD_MAX_ITEMS && record->slot > 0);
                for (size_t i = 0; i < n_fds; i++)
                        require(record->items[i].kind > 0 && record->items[i].kind < _GUARD_ITEM_MAX);
                break;
        case GUARD_MSG_FOUND:
                require(memchr(record->text, '\0', sizeof(record->text)) && record->pid > 0 && n_fds == 2);
                break;
        case GUARD_MSG_CGROUP:
                require(n_fds == 3 && from == GUARD_SENDER_KEEPER);
                break;
        case GUARD_MSG_CHILD:
                require(n_fds == 1 && from == GUARD_SENDER_KEEPER && record->pid > 0);
                break;
        case GUARD_MSG_ESCROW:
                require(from == GUARD_SENDER_SUPERVISOR || (record->slot == 0 && record->generation == 0));
                break;
        case GUARD_MSG_REAP:
        case GUARD_MSG_ASK_KILLED:
                require(strlen(record->text) < GUARD_NAME_MAX && !strchr(record->text, '/') &&
                        record->text[0] != '.');
                break;
        default:
                break;
        }
}

static void records(const uint8_t *data, size_t size, bool fix)
{
        struct guard_record record = {};
        GuardSender from;
        size_t n_fds;

        if (size < 2)
                return;
        from = data[0] & 3;
        n_fds = data[1] & 15;
        memcpy(&record, data + 2, MIN(size - 2, sizeof(record)));
        if (fix)
                record.magic = GUARD_MAGIC;
        if (guard_msg_check(from, &record, fix ? sizeof(record) : size - 2, n_fds) == 0)
                use_record(from, &record, n_fds);
}

/* ---- the state */

static void use_state(const GuardStateView *v, const uint8_t *end)
{
        const struct guard_state_header *h = v->header;
        uint64_t sum = strlen(h->runtime_path);

        for (uint32_t i = 0; i < h->n_slots; i++)
                sum += guard.slots[v->slots[i].slot].number + strlen(v->slots[i].cgroup);
        for (uint32_t i = 0; i < h->n_items; i++)
                sum += guard.slots[v->items[i].slot].number + v->items[i].item.kind;
        for (uint32_t i = 0; i < h->n_children; i++)
                sum += guard.slots[v->children[i].slot].number + (uint32_t)v->children[i].status;
        for (uint32_t i = 0; i < h->n_escrows; i++)
                sum += guard.slots[v->escrows[i].slot].number + strlen(v->escrows[i].name);
        for (uint32_t i = 0; i < h->n_kills; i++)
                sum += guard.slots[v->kills[i].slot].number + strlen(v->kills[i].name);
        require((const uint8_t *)(v->kills + h->n_kills) == end && sum < UINT64_MAX);
}

typedef struct Input {
        const uint8_t *data;
        size_t size;
} Input;

/* The next bytes of the input; zeros when there are none left. */
static void next(Input *in, void *ret, size_t size)
{
        size_t n = MIN(size, in->size);

        memset(ret, 0, size);
        memcpy(ret, in->data, n);
        in->data += n;
        in->size -= n;
}

/* A struct that ends in a long text, of which the input has the beginning, and what fills the rest. */
static void next_with_text(Input *in, uint8_t *ret, size_t size, size_t text)
{
        uint8_t fill = 0;

        next(in, ret, text + 12);
        next(in, &fill, 1);
        memset(ret + text + 12, fill & 1 ? 'x' : 0, size - text - 12);
}

/* One of each, packed, so that a small input makes a whole state. */
static size_t make_state(Input in, uint8_t *ret)
{
        struct guard_state_header h = {};
        uint8_t *at = ret + sizeof(h);

        next_with_text(&in, (uint8_t *)&h, sizeof(h), offsetof(struct guard_state_header, runtime_path));
        h.magic = GUARD_STATE_MAGIC;
        h.version = GUARD_STATE_VERSION;
        h.n_slots = h.n_slots % 3;
        h.n_items = h.n_items % 3;
        h.n_children = h.n_children % 3;
        h.n_escrows = h.n_escrows % 3;
        h.n_kills = h.n_kills % 3;
        for (uint32_t i = 0; i < h.n_slots; i++, at += sizeof(struct guard_state_slot))
                next_with_text(&in, at, sizeof(struct guard_state_slot), offsetof(struct guard_state_slot, cgroup));
        for (uint32_t i = 0; i < h.n_items; i++, at += sizeof(struct guard_state_item))
                next(&in, at, sizeof(struct guard_state_item));
        for (uint32_t i = 0; i < h.n_children; i++, at += sizeof(struct guard_state_child))
                next(&in, at, sizeof(struct guard_state_child));
        for (uint32_t i = 0; i < h.n_escrows; i++, at += sizeof(struct guard_state_escrow))
                next_with_text(&in, at, sizeof(struct guard_state_escrow), offsetof(struct guard_state_escrow, name));
        for (uint32_t i = 0; i < h.n_kills; i++, at += sizeof(struct guard_state_kill))
                next_with_text(&in, at, sizeof(struct guard_state_kill), offsetof(struct guard_state_kill, name));
        h.size = (uint64_t)(at - ret) + h.reserved % 2; /* now and then a wrong one */
        memcpy(ret, &h, sizeof(h));
        return (size_t)(at - ret) - h.reserved / 2 % 2;
}

static void state(const uint8_t *data, size_t size, bool fix)
{
        static uint8_t made[5 * 2 * sizeof(struct guard_state_slot)] __attribute__((aligned(8)));
        _cleanup_free_ uint8_t *copy = NULL; /* its end is watched */
        GuardStateView view = {};

        if (fix) {
                size = make_state((Input){data, size}, made);
                data = made;
        }
        copy = malloc(size ? size : 1);
        require(copy != NULL);
        memcpy(copy, data, size);
        if (guard_state_view(&view, copy, size) == 0)
                use_state(&view, copy + size);
        else
                require(!view.header);
}

/* ---- escrows */

typedef struct Step {
        uint8_t what, slot, node, generation;
        uint16_t at, until;
} Step;

static struct guard_record about(const Step *step)
{
        struct guard_record record = {.magic = GUARD_MAGIC,
                .type = GUARD_MSG_ESCROW,
                .slot = step->slot,
                .node = step->node,
                .generation = step->generation,
                .at_ns = step->at,
                .until_ns = step->until,
                .status = step->what >> 7};

        (void)snprintf(record.text, sizeof(record.text), "n%u.%u", step->node, step->generation);
        return record;
}

static unsigned n_held(void)
{
        unsigned n = 0;

        for (unsigned i = 0; i < guard.escrows_top; i++)
                n += guard.escrows[i].escrow.generation > 0;
        return n;
}

static void place(const struct guard_record *record)
{
        GuardEscrow *escrow = guard_escrow_find(&guard, record->slot, record->node, record->generation);
        nsec_t before = escrow ? escrow->at : NSEC_NEVER;
        unsigned n = n_held();

        if (guard_msg_check(GUARD_SENDER_SUPERVISOR, record, sizeof(*record), 0))
                return;
        guard_on_escrow(&guard, record, -1);
        escrow = guard_escrow_find(&guard, record->slot, record->node, record->generation);
        require(escrow || n == GUARD_MAX_NODE_ESCROWS);
        require(!escrow || escrow->at == MIN(before, record->at_ns)); /* only ever earlier */
        require(!escrow || !escrow->name || strcmp(escrow->name, record->text) == 0);
}

static void let_time_pass(nsec_t now)
{
        guard.loop.now = MAX(guard.loop.now, now);
        for (unsigned i = 0; i < 2 * GUARD_MAX_NODE_ESCROWS && !list_empty(&guard.loop.timers); i++) {
                Timer *timer = list_first(&guard.loop.timers, Timer, link);

                if (timer->at > guard.loop.now)
                        return;
                timer_disarm(timer);
                (void)timer->fn(timer, guard.loop.now);
        }
}

static void take(const Step *step)
{
        struct guard_record record = about(step);

        switch (step->what & 7) {
        case 0:
        case 1:
        case 2:
                place(&record);
                break;
        case 3:
                guard_escrow_drop(&guard, record.slot, record.node, record.generation);
                require(record.generation == 0 ||
                        !guard_escrow_find(&guard, record.slot, record.node, record.generation));
                break;
        case 4:
                guard_escrow_on_child(&guard, &record);
                break;
        case 5:
                guard_escrow_drop_slot(&guard.slots[step->slot]);
                require(guard.slots[step->slot].escrow.at == NSEC_NEVER);
                break;
        default:
                let_time_pass(step->at);
                break;
        }
        require(n_held() <= GUARD_MAX_NODE_ESCROWS);
}

static void escrows(const uint8_t *data, size_t size)
{
        guard.loop.now = 0;
        for (unsigned i = 0; i < 64 && size >= sizeof(Step); i++, data += sizeof(Step), size -= sizeof(Step)) {
                Step step;

                memcpy(&step, data, sizeof(step));
                take(&step);
        }
        for (uint32_t i = 0; i < GUARD_MAX_SLOTS; i++)
                guard_escrow_drop_slot(&guard.slots[i]);
        require(n_held() == 0 && guard.escrows_top == 0 && list_empty(&guard.loop.timers));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        if (size < 1)
                return 0;
        if ((data[0] & MODE) == 0)
                records(data + 1, size - 1, data[0] & FIX);
        else if ((data[0] & MODE) == 1)
                state(data + 1, size - 1, data[0] & FIX);
        else
                escrows(data + 1, size - 1);
        return 0;
}
