/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CycloneDDS: reliable, everything kept, so that the writer waits for the reader. Variants: "udp" over the loopback interface; "shm"
 * through iceoryx, in samples that are loaned by the writer where it offers that, and by the reader. CYCLONEDDS_URI says the rest.
 */
#include "peer.h"

#include "cyclone_types.h"

#include <dds/dds.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static dds_entity_t participant, writer, reader, waitset;
static void *own, *out, *in;
static bool loans;

static int failed(const char *what, dds_return_t r)
{
        return peer_fail(what, dds_strretcode(r));
}

static const dds_topic_descriptor_t *type_of(size_t size)
{
        switch (size) {
        case 64:
                return &Small_desc;
        case 4096:
                return &Page_desc;
        case 1048576:
                return &Large_desc;
        case 4194304:
                return &Huge_desc;
        default:
                return NULL;
        }
}

static int matched(void)
{
        struct timespec pause = {.tv_nsec = 1000000};
        dds_publication_matched_status_t p;
        dds_subscription_matched_status_t s;

        for (unsigned i = 0; i < 10000; i++) {
                if (dds_get_publication_matched_status(writer, &p) == 0 && p.current_count &&
                        dds_get_subscription_matched_status(reader, &s) == 0 && s.current_count)
                        return 0;
                nanosleep(&pause, NULL);
        }
        return peer_fail("CycloneDDS", "the other side does not come");
}

int peer_open(const struct peer_spec *spec)
{
        static const char *const names[] = {"from0", "from1"};
        const dds_topic_descriptor_t *type = type_of(spec->size);
        dds_entity_t topics[2];
        dds_qos_t *qos;

        if (!type)
                return peer_fail("CycloneDDS", "no type of this size");
        own = calloc(1, spec->size);
        participant = dds_create_participant(DDS_DOMAIN_DEFAULT, NULL, NULL);
        if (!own || participant < 0)
                return failed("dds_create_participant", participant);
        for (int i = 0; i < 2; i++) {
                topics[i] = dds_create_topic(participant, type, names[i], NULL, NULL);
                if (topics[i] < 0)
                        return failed("dds_create_topic", topics[i]);
        }
        qos = dds_create_qos();
        dds_qset_reliability(qos, DDS_RELIABILITY_RELIABLE, DDS_SECS(10));
        if (strcmp(spec->variant, "shm") == 0) /* all kept is not for shared memory */
                dds_qset_history(qos, DDS_HISTORY_KEEP_LAST, (int32_t)spec->queue);
        else
                dds_qset_history(qos, DDS_HISTORY_KEEP_ALL, DDS_LENGTH_UNLIMITED);
        writer = dds_create_writer(participant, topics[spec->side], qos, NULL);
        reader = dds_create_reader(participant, topics[!spec->side], qos, NULL);
        dds_delete_qos(qos);
        if (writer < 0 || reader < 0)
                return failed("dds_create_writer, dds_create_reader", writer < 0 ? writer : reader);
        waitset = dds_create_waitset(participant);
        if (dds_set_status_mask(reader, DDS_DATA_AVAILABLE_STATUS) < 0 || dds_waitset_attach(waitset, reader, 0) < 0)
                return peer_fail("dds_waitset_attach", "failed");
        loans = dds_is_loan_available(writer);
        if (loans != (strcmp(spec->variant, "shm") == 0))
                return peer_fail("CycloneDDS", loans ? "loans without shared memory" : "no shared memory");
        return matched();
}

int peer_loan(void **ret)
{
        dds_return_t r;

        out = own;
        if (loans && (r = dds_loan_sample(writer, &out)) < 0)
                return failed("dds_loan_sample", r);
        *ret = out;
        return 0;
}

int peer_send(void)
{
        dds_return_t r = dds_write(writer, out);

        return r < 0 ? failed("dds_write", r) : 0;
}

int peer_take(const void **ret, int timeout_ms)
{
        uint64_t deadline_ns = 0;
        dds_sample_info_t info;
        dds_attach_t which;

        for (;;) {
                dds_return_t n;
                int left_ms;

                in = NULL; /* the reader's own memory */
                n = dds_take(reader, &in, &info, 1, 1);
                if (n < 0)
                        return failed("dds_take", n);
                if (n > 0 && info.valid_data)
                        break;
                if (n > 0)
                        dds_return_loan(reader, &in, n);
                deadline_ns = deadline_ns ? deadline_ns : peer_deadline_ns(timeout_ms);
                left_ms = peer_left_ms(deadline_ns);
                if (left_ms == 0)
                        return PEER_TIMEOUT;
                (void)dds_waitset_wait(waitset, &which, 1, DDS_MSECS(left_ms));
        }
        *ret = in;
        return 0;
}

int peer_release(void)
{
        dds_return_t r = dds_return_loan(reader, &in, 1);

        return r < 0 ? failed("dds_return_loan", r) : 0;
}

void peer_close(void)
{
        dds_delete(participant);
        free(own);
}
