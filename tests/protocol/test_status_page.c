/* SPDX-License-Identifier: Apache-2.0 */
/* The status page as its readers see it: whole rows, whatever the writer does or did, and no byte of it believed. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "protocol/status_page.h"

typedef struct Page {
        uint64_t size;
        struct status_page_header *header;
        struct status_dataflow_slot *dataflows;
        struct status_node_slot *nodes;
        StatusPage page;
} Page;

static void page_make(Page *p, uint32_t n_dataflows, uint32_t n_nodes)
{
        p->size = status_page_size(n_dataflows, n_nodes);
        p->header = aligned_alloc(64, (p->size + 63) & ~UINT64_C(63));
        cr_assert_not_null(p->header);
        memset(p->header, 0, p->size);
        status_page_init(p->header, n_dataflows, n_nodes);
        p->header->dataflows_end = n_dataflows;
        p->header->nodes_end = n_nodes;
        p->dataflows = (void *)(p->header + 1);
        p->nodes = (void *)(p->dataflows + n_dataflows);
        cr_assert_eq(status_page_open(&p->page, p->header, p->size), 0);
}

static void put_dataflow(Page *p, uint32_t slot, uint64_t serial, const char *name)
{
        struct status_dataflow row = {.serial = serial, .state = STATUS_DATAFLOW_RUNNING};

        strcpy(row.name, name);
        status_slot_write(&p->dataflows[slot].seq, p->dataflows[slot].copy, &row, sizeof(row));
}

static void put_node(Page *p, uint32_t slot, uint32_t dataflow, uint64_t serial, uint32_t index, const char *id)
{
        struct status_node row = {.serial = serial, .dataflow = dataflow, .index = index};

        strcpy(row.id, id);
        status_slot_write(&p->nodes[slot].seq, p->nodes[slot].copy, &row, sizeof(row));
}

Test(status_page, a_snapshot_has_the_nodes_of_each_dataflow_in_the_order_of_the_plan)
{
        _cleanup_(status_snapshot_done) StatusSnapshot s = STATUS_SNAPSHOT_NULL;
        Page p;

        page_make(&p, 4, 8);
        put_dataflow(&p, 1, 7, "camera");
        put_dataflow(&p, 3, 9, "audio");
        put_node(&p, 0, 3, 9, 0, "mic");
        put_node(&p, 1, 1, 7, 1, "show");
        put_node(&p, 2, 1, 7, 0, "grab");
        put_node(&p, 3, 1, 6, 0, "of the slot's former dataflow");
        put_node(&p, 4, 2, 1, 0, "of none");
        cr_assert_eq(status_page_read(&p.page, &s), 0);
        cr_assert(s.consistent);
        cr_assert_eq(s.n_dataflows, 2);
        cr_assert_str_eq(s.dataflows[0].name, "camera");
        cr_assert_eq(s.n_nodes, 3);
        cr_assert_str_eq(s.nodes[0].id, "grab");
        cr_assert_str_eq(s.nodes[1].id, "show");
        cr_assert_str_eq(s.nodes[2].id, "mic");
        cr_assert_eq(s.nodes[2].dataflow, 1);
        free(p.header);
}

Test(status_page, a_writer_killed_in_the_middle_of_a_row_leaves_the_last_whole_one)
{
        _cleanup_(status_snapshot_done) StatusSnapshot s = STATUS_SNAPSHOT_NULL;
        Page p;

        page_make(&p, 1, 0);
        put_dataflow(&p, 0, 1, "whole");
        status_changes_begin(p.header);
        memset(&p.dataflows[0].copy[(p.dataflows[0].seq + 1) & 1], 'x', 500); /* and here it dies */
        cr_assert_eq(status_page_read(&p.page, &s), 0);
        cr_assert_not(s.consistent, "a change never ended");
        cr_assert_eq(s.n_dataflows, 1);
        cr_assert_str_eq(s.dataflows[0].name, "whole");
        cr_assert_eq(s.dataflows[0].serial, 1);

        status_changes_begin(p.header); /* its successor */
        put_dataflow(&p, 0, 1, "next");
        status_changes_end(p.header);
        cr_assert_eq(status_page_read(&p.page, &s), 0);
        cr_assert(s.consistent);
        cr_assert_str_eq(s.dataflows[0].name, "next");
        free(p.header);
}

Test(status_page, what_is_no_page_of_this_version_and_size_is_refused)
{
        StatusPage page;
        Page p;

        page_make(&p, 2, 2);
        cr_assert_eq(status_page_open(&page, p.header, sizeof(*p.header) - 1), STATUS_E_SIZE);
        cr_assert_eq(status_page_open(&page, p.header, UINT64_MAX), STATUS_E_SIZE);
        cr_assert_eq(status_page_open(&page, p.header, p.size - 8), STATUS_E_VERSION, "cut short");
        p.header->n_nodes = UINT32_MAX; /* more than there is */
        cr_assert_eq(status_page_open(&page, p.header, p.size), STATUS_E_VERSION);
        p.header->n_nodes = 2;
        p.header->node_slot_size = 8;
        cr_assert_eq(status_page_open(&page, p.header, p.size), STATUS_E_VERSION);
        p.header->node_slot_size = sizeof(struct status_node_slot);
        p.header->version++;
        cr_assert_eq(status_page_open(&page, p.header, p.size), STATUS_E_VERSION);
        p.header->magic = 0;
        cr_assert_eq(status_page_open(&page, p.header, p.size), STATUS_E_MAGIC);
        free(p.header);
}

Test(status_page, indices_counts_and_text_of_a_liar_do_no_harm)
{
        _cleanup_(status_snapshot_done) StatusSnapshot s = STATUS_SNAPSHOT_NULL;
        struct status_dataflow row = {.serial = 1, .state = 99};
        Page p;

        page_make(&p, 1, 2);
        memset(row.uuid, 'A', sizeof(row.uuid)); /* no end */
        memcpy(row.name, "a\033[31m\xff\xc2\x9b\xc3\xa9\n", 12);
        status_slot_write(&p.dataflows[0].seq, p.dataflows[0].copy, &row, sizeof(row));
        put_node(&p, 0, UINT32_MAX, 1, 0, "far away");
        put_node(&p, 1, 0, 1, UINT32_MAX, "here");
        p.header->dataflows_end = p.header->nodes_end = UINT32_MAX;
        cr_assert_eq(status_page_read(&p.page, &s), 0);
        cr_assert_eq(s.n_dataflows, 1);
        cr_assert_eq(strlen(s.dataflows[0].uuid), sizeof(row.uuid) - 1);
        cr_assert_str_eq(s.dataflows[0].name, "a?[31m???\xc3\xa9?");
        cr_assert_str_eq(status_dataflow_state_to_string(s.dataflows[0].state), "?");
        cr_assert_eq(s.n_nodes, 1);
        cr_assert_str_eq(s.nodes[0].id, "here");
        free(p.header);
}

/* A row is one letter all over; a reader must never see two. */
typedef struct Race {
        Page page;
        bool stop;
        nsec_t rest_ns; /* between two writes */
} Race;

static void *race_write(void *userdata)
{
        Race *race = userdata;
        struct status_dataflow row;
        struct status_node node = {.dataflow = 0};

        for (unsigned n = 0; !__atomic_load_n(&race->stop, __ATOMIC_RELAXED); n++) {
                memset(&row, 'a' + (int)(n % 26), sizeof(row));
                node.serial = row.serial;
                memset(node.id, 'a' + (int)(n % 26), sizeof(node.id));
                status_changes_begin(race->page.header);
                status_slot_write(&race->page.dataflows[0].seq, race->page.dataflows[0].copy, &row, sizeof(row));
                status_slot_write(&race->page.nodes[0].seq, race->page.nodes[0].copy, &node, sizeof(node));
                status_changes_end(race->page.header);
                for (nsec_t until = clock_now() + race->rest_ns; race->rest_ns && clock_now() < until;)
                        ;
        }
        return NULL;
}

static bool is_whole(const struct status_dataflow *d)
{
        const char *p = (const char *)d;

        for (size_t i = 0; i < sizeof(*d); i++) {
                size_t end = i + 1;
                bool is_end = end == offsetof(struct status_dataflow, name) || end == offsetof(struct status_dataflow, cgroup) ||
                              end == sizeof(*d);

                if (p[i] != (is_end ? '\0' : p[0]))
                        return false;
        }
        return true;
}

Test(status_page, a_reader_beside_the_writer_never_sees_half_a_row, .timeout = 30)
{
        unsigned n_read = 0, n_different = 0;
        uint64_t last = 0;
        pthread_t writer;
        Race race = {};

        page_make(&race.page, 1, 1);
        cr_assert_eq(pthread_create(&writer, NULL, race_write, &race), 0);
        while (n_different < 2000 || n_read < 100000) {
                struct status_dataflow d;

                if (status_page_dataflow(&race.page.page, 0, &d))
                        continue; /* nothing yet, or too fast for us: said, and not made up */
                n_read++;
                n_different += d.serial != last;
                last = d.serial;
                cr_assert(is_whole(&d), "two letters in one row, after %u", n_read);
        }
        __atomic_store_n(&race.stop, true, __ATOMIC_RELAXED);
        cr_assert_eq(pthread_join(writer, NULL), 0);
        free(race.page.header);
}

Test(status_page, a_consistent_snapshot_has_all_rows_of_one_moment, .timeout = 30)
{
        _cleanup_(status_snapshot_done) StatusSnapshot s = STATUS_SNAPSHOT_NULL;
        unsigned n_consistent = 0;
        pthread_t writer;
        Race race = {.rest_ns = 4 * NSEC_PER_USEC};

        page_make(&race.page, 1, 1);
        cr_assert_eq(pthread_create(&writer, NULL, race_write, &race), 0);
        while (n_consistent < 20000) {
                if (status_page_read(&race.page.page, &s) || !s.consistent || s.n_dataflows == 0)
                        continue;
                n_consistent++;
                cr_assert(is_whole(&s.dataflows[0]));
                cr_assert_eq(s.n_nodes, 1, "its dataflow has the same serial at every moment");
                cr_assert_eq(s.nodes[0].id[0], s.dataflows[0].name[0]);
        }
        __atomic_store_n(&race.stop, true, __ATOMIC_RELAXED);
        cr_assert_eq(pthread_join(writer, NULL), 0);
        free(race.page.header);
}

Test(status_pulse, a_loop_that_sleeps_is_not_stale_and_one_that_works_too_long_is)
{
        struct status_pulse p = {};

        cr_assert_not(status_pulse_is_stale(&p, 5, 1000), "never turned");
        status_pulse_begin(&p, 100);
        cr_assert_not(status_pulse_is_stale(&p, 5, 105));
        cr_assert(status_pulse_is_stale(&p, 5, 106));
        cr_assert_not(status_pulse_is_stale(&p, 5, 90), "a clock that is behind the page says nothing");
        status_pulse_end(&p, 106, 6);
        cr_assert_not(status_pulse_is_stale(&p, 5, NSEC_NEVER), "asleep");
        p.turn_started_ns = NSEC_NEVER;
        cr_assert_not(status_pulse_is_stale(&p, 0, 1000));
}

Test(status_pulse, lag_is_counted_by_powers_of_two_and_told_by_rank)
{
        struct status_pulse p = {};

        cr_assert_eq(status_lag_bucket(0), 0);
        cr_assert_eq(status_lag_bucket(1), 1);
        cr_assert_eq(status_lag_bucket(3), 2);
        cr_assert_eq(status_lag_bucket(4), 3);
        cr_assert_eq(status_lag_bucket(UINT64_MAX), STATUS_LAG_BUCKETS - 1);
        cr_assert_eq(status_lag_us(&p, 500), 0, "no turn yet");
        for (unsigned i = 0; i < 998; i++)
                status_pulse_end(&p, 1, 100 * NSEC_PER_USEC);
        status_pulse_end(&p, 1, 5000 * NSEC_PER_USEC);
        status_pulse_end(&p, 1, 70000 * NSEC_PER_USEC);
        cr_assert_eq(p.turns, 1000);
        cr_assert_eq(p.lag_max_us, 70000);
        cr_assert(status_lag_us(&p, 500) >= 64 && status_lag_us(&p, 500) <= 128);
        cr_assert(status_lag_us(&p, 998) >= 64 && status_lag_us(&p, 998) <= 128);
        cr_assert(status_lag_us(&p, 999) >= 4096 && status_lag_us(&p, 999) <= 8192, "%lu", status_lag_us(&p, 999));
        cr_assert_eq(status_lag_us(&p, 1000), 70000, "never above the largest seen");
        memset(p.lag, 0xff, sizeof(p.lag)); /* a liar's */
        cr_assert_leq(status_lag_us(&p, 999), p.lag_max_us);
}
