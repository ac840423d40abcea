/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sites of shm/probe.h, without a kernel's help: they are found by the notes of this program, as a tool finds them, and turned into
 * breakpoints; what a tool would read of the registers is what the tests look at.
 */
#include <criterion/criterion.h>
#include <elf.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "fixture.h"
#include "shm/probe.h"

#if SDT_HAVE && defined(__x86_64__)

#define MAX_SITES 16
#define MAX_HITS  4096
#define NOP_SIZE  5

typedef struct Hit {
        char kind; /* 'e', 'd' */
        uint64_t link, seq, depth, age_ns;
} Hit;

typedef struct Site {
        uint8_t *at;
        char kind;
} Site;

static Site sites[MAX_SITES];
static unsigned n_sites;
static Hit hits[MAX_HITS];
static unsigned n_hits;

static void on_trap(int signal, siginfo_t *info, void *context)
{
        greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;

        for (unsigned i = 0; i < n_sites; i++) {
                if ((uint8_t *)regs[REG_RIP] != sites[i].at + 1)
                        continue;
                if (n_hits < MAX_HITS)
                        hits[n_hits] = (Hit){sites[i].kind, (uint64_t)regs[REG_RDI], (uint64_t)regs[REG_RSI], (uint64_t)regs[REG_RDX], (uint64_t)regs[REG_RCX]};
                n_hits++;
                regs[REG_RIP] += NOP_SIZE - 1;
                return;
        }
        abort();
}

static const Elf64_Shdr *section(const uint8_t *file, const char *name)
{
        const Elf64_Ehdr *header = (const void *)file;
        const Elf64_Shdr *sh = (const void *)(file + header->e_shoff);
        const char *names = (const char *)file + sh[header->e_shstrndx].sh_offset;

        for (unsigned i = 0; i < header->e_shnum; i++)
                if (strcmp(names + sh[i].sh_name, name) == 0)
                        return &sh[i];
        cr_assert(false, "no section %s in this program", name);
        return NULL;
}

/* One note's description: three addresses, three texts. */
static void site_add(const uint8_t *desc, const uint8_t *end, uint64_t base)
{
        uint64_t address[3], at;
        const char *text = (const char *)desc + sizeof(address);
        const char *name, *args;
        const void *semaphore;

        memcpy(address, desc, sizeof(address));
        cr_assert_str_eq(text, "tidegate");
        name = text + strlen(text) + 1;
        args = name + strlen(name) + 1;
        cr_assert_leq((const void *)(args + strlen(args) + 1), (const void *)end);
        if (strcmp(name, "enqueue") == 0) {
                semaphore = &tidegate_enqueue_semaphore;
                cr_assert_str_eq(args, SDT_SPEC_3);
        } else {
                cr_assert_str_eq(name, "dequeue");
                semaphore = &tidegate_dequeue_semaphore;
                cr_assert_str_eq(args, SDT_SPEC_4);
        }
        at = address[0] + (base - address[1]);
        cr_assert_lt(n_sites, MAX_SITES);
        /* loaded where? the semaphore tells: its address is in the note, and here */
        sites[n_sites++] = (Site){(uint8_t *)((uintptr_t)semaphore - address[2] + at), name[0]};
}

static void find_sites(void)
{
        int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        const Elf64_Shdr *notes;
        const uint8_t *file;
        struct stat st;

        cr_assert_geq(fd, 0);
        cr_assert_eq(fstat(fd, &st), 0);
        file = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        cr_assert_neq(file, MAP_FAILED);
        notes = section(file, ".note.stapsdt");
        for (uint64_t at = 0; at < notes->sh_size;) {
                const Elf64_Nhdr *note = (const void *)(file + notes->sh_offset + at);
                const uint8_t *name = (const uint8_t *)(note + 1), *desc = name + (note->n_namesz + 3) / 4 * 4;

                cr_assert_eq(note->n_type, 3);
                cr_assert_str_eq((const char *)name, "stapsdt");
                site_add(desc, desc + note->n_descsz, section(file, ".stapsdt.base")->sh_addr);
                at += (uint64_t)(desc - (const uint8_t *)note) + (note->n_descsz + 3) / 4 * 4;
        }
        (void)munmap((void *)(uintptr_t)file, (size_t)st.st_size);
        (void)close(fd);
}

static void arm_sites(void)
{
        static const uint8_t nop[NOP_SIZE] = {0x0f, 0x1f, 0x44, 0x00, 0x00};
        struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};

        find_sites();
        cr_assert_eq(sigaction(SIGTRAP, &action, NULL), 0);
        for (unsigned i = 0; i < n_sites; i++) {
                uintptr_t page = (uintptr_t)sites[i].at & ~(uintptr_t)4095;

                cr_assert_eq(memcmp(sites[i].at, nop, NOP_SIZE), 0, "the site is another instruction");
                cr_assert_leq((uintptr_t)sites[i].at % 4096 + NOP_SIZE, 4096);
                cr_assert_eq(mprotect((void *)page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC), 0);
                sites[i].at[0] = 0xcc;
        }
}

static void attach(void) /* what a kernel does for whoever attaches */
{
        tidegate_enqueue_semaphore++;
        tidegate_dequeue_semaphore++;
}

static void expect_hit(unsigned i, char kind, uint64_t link, uint64_t seq, uint64_t depth)
{
        cr_assert_lt(i, n_hits);
        cr_expect_eq(hits[i].kind, kind, "hit %u", i);
        cr_expect_eq(hits[i].link, link, "hit %u: link %lu", i, hits[i].link);
        cr_expect_eq(hits[i].seq, seq, "hit %u: seq %lu", i, hits[i].seq);
        cr_expect_eq(hits[i].depth, depth, "hit %u: depth %lu", i, hits[i].depth);
}

static unsigned count(char kind)
{
        unsigned n = 0;

        for (unsigned i = 0; i < n_hits; i++)
                n += hits[i].kind == kind;
        return n;
}

TestSuite(probe_sites, .init = arm_sites);

Test(probe_sites, each_probe_has_notes_of_its_own)
{
        bool enqueue = false, dequeue = false;

        for (unsigned i = 0; i < n_sites; i++) {
                enqueue |= sites[i].kind == 'e';
                dequeue |= sites[i].kind == 'd';
        }
        cr_assert(enqueue && dequeue);
}

Test(probe_sites, nothing_is_told_while_nobody_is_attached)
{
        Fixture fx;

        fixture_ring(&fx, 8);
        fixture_link(&fx, 7, RING_BACKPRESSURE);
        must(fx_send(&fx, 1));
        cr_assert_eq(fx_take(&fx, 0, NULL), 1);
        cr_assert_eq(n_hits, 0);
        attach();
        must(fx_send(&fx, 2));
        cr_assert_eq(fx_take(&fx, 0, NULL), 2);
        cr_assert_eq(n_hits, 2);
        tidegate_enqueue_semaphore = tidegate_dequeue_semaphore = 0;
        must(fx_send(&fx, 3));
        cr_assert_eq(fx_take(&fx, 0, NULL), 3);
        cr_assert_eq(n_hits, 2);
        fixture_close(&fx);
}

Test(probe_sites, the_depth_is_what_the_link_has_not_taken)
{
        Fixture fx;

        attach();
        fixture_ring(&fx, 8);
        fixture_link(&fx, 7, RING_BACKPRESSURE);
        for (uint64_t i = 0; i < 5; i++) {
                must(fx_send(&fx, i));
                expect_hit((unsigned)i, 'e', 0, i, i + 1);
        }
        for (uint64_t i = 0; i < 5; i++) {
                cr_assert_eq(fx_take(&fx, 0, NULL), i);
                expect_hit(5 + (unsigned)i, 'd', 0, i, 4 - i);
        }
        cr_assert_eq(fx_take(&fx, 0, NULL), FX_SAYS(RING_E_EMPTY));
        cr_assert_eq(n_hits, 10, "an attempt in vain is no message");
        fixture_close(&fx);
}

Test(probe_sites, the_age_is_the_time_since_publication)
{
        const uint64_t age = 5 * NSEC_PER_SEC;
        uint64_t began = clock_now(), value = 7;
        RingPost post = {.payload = &value, .payload_len = 8, .time_ns = began - age};
        Fixture fx;

        attach();
        fixture_ring(&fx, 8);
        fixture_link(&fx, 7, RING_DROP_OLDEST);
        must(ring_writer_publish(fx.w, &post, NULL, NULL));
        post.time_ns = began + 1000 * NSEC_PER_SEC; /* of a clock that is not ours */
        must(ring_writer_publish(fx.w, &post, NULL, NULL));
        ring_writer_flush(fx.w);
        cr_assert_eq(fx_take(&fx, 0, NULL), 7);
        cr_assert_eq(fx_take(&fx, 0, NULL), 7);
        expect_hit(2, 'd', 0, 0, 1);
        cr_assert_geq(hits[2].age_ns, age);
        cr_assert_leq(hits[2].age_ns, age + (clock_now() - began));
        expect_hit(3, 'd', 0, 1, 0);
        cr_assert_eq(hits[3].age_ns, 0);
        fixture_close(&fx);
}

Test(probe_sites, a_batch_is_told_of_message_by_message_once_it_is_visible)
{
        uint64_t value = 1;
        Fixture fx;

        attach();
        fixture_ring(&fx, 16);
        fixture_link(&fx, 4, RING_BACKPRESSURE);
        for (unsigned i = 0; i < 4; i++)
                must(ring_writer_publish(fx.w, &(RingPost){.payload = &value, .payload_len = 8}, NULL, NULL));
        cr_assert_eq(n_hits, 0);
        ring_writer_flush(fx.w);
        ring_writer_flush(fx.w);
        cr_assert_eq(n_hits, 4);
        for (unsigned i = 0; i < 4; i++)
                expect_hit(i, 'e', 0, i, i + 1);
        fixture_close(&fx);
}

Test(probe_sites, each_active_link_is_told_of_and_no_other)
{
        Fixture fx;
        bool ring;

        attach();
        fixture_ring(&fx, 8);
        fixture_link(&fx, 7, RING_BACKPRESSURE);
        fixture_link(&fx, 2, RING_DROP_OLDEST);
        fixture_attach_quota(&fx, 7, RING_BACKPRESSURE, 0); /* not active yet */
        for (uint64_t i = 0; i < 3; i++)
                must(fx_send(&fx, i));
        cr_assert_eq(n_hits, 6);
        expect_hit(4, 'e', 0, 2, 3);
        expect_hit(5, 'e', 1, 2, 2); /* the first one fell out of its window */
        ring_reader_stop(&fx.r[0], &ring);
        must(fx_send(&fx, 3));
        cr_assert_eq(n_hits, 7);
        expect_hit(6, 'e', 1, 3, 2);
        fixture_close(&fx);
}

Test(probe_sites, a_position_that_no_honest_consumer_stores_is_no_depth)
{
        Fixture fx;

        attach();
        fixture_ring(&fx, 8);
        fixture_link(&fx, 7, RING_DROP_OLDEST);
        must(fx_send(&fx, 0));
        fx_cursor(&fx, 0)->tail = UINT64_MAX;
        must(fx_send(&fx, 1));
        expect_hit(1, 'e', 0, 1, 0);
        fixture_close(&fx);
}

Test(probe_sites, both_ends_tell_of_the_same_messages)
{
        uint64_t mask = 3, value = 1;
        unsigned n;
        Fixture fx;

        attach();
        fixture_ring(&fx, 64);
        fixture_link(&fx, 30, RING_BACKPRESSURE);
        ring_writer_set_probe_mask(fx.w, &mask);
        ring_reader_set_probe_mask(&fx.r[0], &mask);
        for (unsigned batch = 1; batch < 8; batch++) { /* 28 messages, none of the batches is of four, or begins where the last one did */
                for (unsigned i = 0; i < batch; i++)
                        must(ring_writer_publish(fx.w, &(RingPost){.payload = &value, .payload_len = 8}, NULL, NULL));
                ring_writer_flush(fx.w);
        }
        while (fx_take(&fx, 0, NULL) == 1)
                ;
        cr_assert_eq(count('e'), 7);
        cr_assert_eq(count('d'), 7);
        for (unsigned i = 0; i < n_hits; i++)
                expect_hit(i, i < 7 ? 'e' : 'd', 0, 4 * (i % 7), i < 7 ? 4 * i + 1 : 27 - 4 * (i % 7));

        mask = PROBE_MASK_NONE;
        n = n_hits;
        must(fx_send(&fx, 1));
        cr_assert_eq(fx_take(&fx, 0, NULL), 1);
        cr_assert_eq(n_hits, n);
        fixture_close(&fx);

        fixture_ring(&fx, 4); /* its first message has the number 0 */
        fixture_link(&fx, 3, RING_BACKPRESSURE);
        ring_writer_set_probe_mask(fx.w, &mask);
        ring_reader_set_probe_mask(&fx.r[0], &mask);
        must(fx_send(&fx, 1));
        cr_assert_eq(fx_take(&fx, 0, NULL), 1);
        cr_assert_eq(n_hits, n);
        fixture_close(&fx);
}

static unsigned hits_of_a_child(void)
{
        int status;
        pid_t pid = fork();

        if (pid == 0) {
                Fixture fx;

                n_hits = 0;
                fixture_ring(&fx, 8);
                fixture_link(&fx, 7, RING_BACKPRESSURE);
                must(fx_send(&fx, 1));
                must(fx_take(&fx, 0, NULL) != 1);
                _exit((int)n_hits);
        }
        cr_assert_eq(waitpid(pid, &status, 0), pid);
        cr_assert(WIFEXITED(status));
        return (unsigned)WEXITSTATUS(status);
}

/* Some kernels let a child die of it. */
Test(probe_sites, a_child_of_a_process_that_was_told_of_is_not)
{
        Fixture fx;

        attach();
        cr_assert_eq(hits_of_a_child(), 2, "whose parent has reached no site");
        fixture_ring(&fx, 8);
        fixture_link(&fx, 7, RING_BACKPRESSURE);
        must(fx_send(&fx, 1));
        cr_assert_eq(n_hits, 1);
        cr_assert_eq(hits_of_a_child(), 0);
        must(fx_send(&fx, 2));
        cr_assert_eq(n_hits, 2);
        fixture_close(&fx);
}

Test(probe_sites, the_mask_of_a_node_stands_in_its_control_page)
{
        Mapped page = {.fd = -1};

        must(control_create(&page.fd));
        mapped_open(&page, REGION_CONTROL, control_size());
        control_init(&page.rw);
        cr_assert_eq(*control_probe_mask(&page.ro), 0, "whoever attaches sees all messages");
        control_set_probe_mask(&page.rw, 1023);
        cr_assert_eq(*control_probe_mask(&page.ro), 1023);
        cr_assert_not(control_stopping(&page.ro));
        mapped_close(&page);
}

#else

Test(probe_sites, there_are_none_on_this_machine)
{
        cr_assert_not(probe_enqueue_wanted());
        cr_assert_not(probe_dequeue_wanted());
}

#endif
