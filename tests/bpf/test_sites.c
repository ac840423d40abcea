/* SPDX-License-Identifier: Apache-2.0 */
/* The reader of notes, on a copy of this program, whole and spoiled: whatever the file says, a site is one, or there is none. */
#include <criterion/criterion.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/sdt.h"
#include "bpf/sites.h"
#include "shm/probe.h"

#if SDT_HAVE

#if defined(__x86_64__)
static const uint8_t nop[] = {0x0f, 0x1f, 0x44, 0x00, 0x00};
#else
static const uint8_t nop[] = {0x1f, 0x20, 0x03, 0xd5};
#endif

static struct {
        int fd;
        uint8_t *bytes; /* of the file, writable */
        size_t size;
        Site sites[SITES_MAX]; /* of the whole one */
        size_t n;
} f;

static void open_copy(void)
{
        _cleanup_fd_ int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        struct stat st;

        /* or there were none */
        if (probe_enqueue_wanted())
                probe_enqueue(0, 0, 0);
        if (probe_dequeue_wanted())
                probe_dequeue(0, 0, 0, 0);
        cr_assert_eq(fstat(from, &st), 0);
        f.size = (size_t)st.st_size;
        f.fd = memfd_create("program", MFD_CLOEXEC);
        cr_assert_geq(f.fd, 0);
        cr_assert_eq(ftruncate(f.fd, st.st_size), 0);
        f.bytes = mmap(NULL, f.size, PROT_READ | PROT_WRITE, MAP_SHARED, f.fd, 0);
        cr_assert_neq(f.bytes, MAP_FAILED);
        cr_assert_eq(pread(from, f.bytes, f.size, 0), st.st_size);
        cr_assert_eq(sites_find(f.fd, f.sites, &f.n), 0);
}

TestSuite(bpf_sites, .init = open_copy);

/* An outcome that is allowed whatever stands in the file. */
static void expect_sound(const char *what, size_t at)
{
        Site sites[SITES_MAX];
        size_t n = SITES_MAX + 1;
        int r = sites_find(f.fd, sites, &n);

        cr_assert(r == 0 || r == -EBADMSG || r == -E2BIG || r == -ENOMEM, "%s %zu: %d", what, at, r);
        if (r)
                return;
        cr_assert_leq(n, SITES_MAX);
        for (size_t i = 0; i < n; i++) {
                cr_assert_leq(sites[i].offset, f.size - sizeof(nop), "%s %zu", what, at);
                cr_assert_leq(sites[i].semaphore, f.size - 2, "%s %zu", what, at);
                cr_assert_eq(memcmp(f.bytes + sites[i].offset, nop, sizeof(nop)), 0, "%s %zu", what, at);
        }
}

static Elf64_Shdr *section_at(unsigned i)
{
        return (Elf64_Shdr *)(void *)(f.bytes + ((Elf64_Ehdr *)(void *)f.bytes)->e_shoff) + i;
}

static Elf64_Shdr *notes_section(void)
{
        const Elf64_Ehdr *header = (const void *)f.bytes;
        const char *names = (const char *)f.bytes + section_at(header->e_shstrndx)->sh_offset;

        for (unsigned i = 0; i < header->e_shnum; i++)
                if (strcmp(names + section_at(i)->sh_name, ".note.stapsdt") == 0)
                        return section_at(i);
        return NULL;
}

Test(bpf_sites, both_kinds_are_found_with_words_of_their_own)
{
        bool found[_SITE_KIND_MAX] = {0};

        for (size_t i = 0; i < f.n; i++) {
                found[f.sites[i].kind] = true;
                for (size_t j = 0; j < i; j++) {
                        cr_expect_neq(f.sites[i].offset, f.sites[j].offset);
                        cr_expect_eq(f.sites[i].semaphore == f.sites[j].semaphore, f.sites[i].kind == f.sites[j].kind);
                }
        }
        cr_assert(found[SITE_ENQUEUE] && found[SITE_DEQUEUE]);
        expect_sound("as it is", 0);
}

Test(bpf_sites, a_place_that_holds_something_else_is_no_site)
{
        Site sites[SITES_MAX];
        size_t n;

        f.bytes[f.sites[0].offset] = 0x90;
        cr_assert_eq(sites_find(f.fd, sites, &n), 0);
        cr_assert_eq(n, f.n - 1);
}

Test(bpf_sites, a_note_of_other_arguments_is_of_another_version)
{
        char *spec = memmem(f.bytes + notes_section()->sh_offset, notes_section()->sh_size, SDT_SPEC_3, strlen(SDT_SPEC_3));
        Site sites[SITES_MAX];
        size_t n;

        cr_assert_not_null(spec);
        spec[0] = '4';
        cr_assert_eq(sites_find(f.fd, sites, &n), 0);
        cr_assert_eq(n, f.n - 1);
}

Test(bpf_sites, sections_that_were_moved_are_corrected_for)
{
        const Elf64_Ehdr *header = (const void *)f.bytes;
        Elf64_Phdr *segments = (void *)(f.bytes + header->e_phoff);
        Site sites[SITES_MAX];
        uint64_t moved = 0x1000000;
        size_t n;

        for (unsigned i = 0; i < header->e_phnum; i++)
                segments[i].p_vaddr += moved;
        for (unsigned i = 0; i < header->e_shnum; i++)
                if (section_at(i)->sh_addr)
                        section_at(i)->sh_addr += moved;
        cr_assert_eq(sites_find(f.fd, sites, &n), 0);
        cr_assert_eq(n, f.n);
        for (size_t i = 0; i < n; i++)
                cr_assert(sites[i].offset == f.sites[i].offset && sites[i].semaphore == f.sites[i].semaphore);
}

Test(bpf_sites, any_word_of_the_tables_may_be_anything)
{
        static const uint32_t values[] = {0, 1, 0x7fffffff, 0x80000000, UINT32_MAX, 0xfffffff8};
        const Elf64_Ehdr *header = (const void *)f.bytes;
        struct {
                size_t from, size;
        } tables[] = {
                {0, sizeof(*header)},
                {header->e_phoff, header->e_phnum * sizeof(Elf64_Phdr)},
                {header->e_shoff, header->e_shnum * sizeof(Elf64_Shdr)},
                {notes_section()->sh_offset, notes_section()->sh_size},
        };

        for (size_t i = 0; i < ELEMENTSOF(tables); i++)
                for (size_t at = tables[i].from; at + 4 <= tables[i].from + tables[i].size; at += 4) {
                        uint32_t was;

                        memcpy(&was, f.bytes + at, 4);
                        for (size_t v = 0; v < ELEMENTSOF(values); v++) {
                                memcpy(f.bytes + at, &values[v], 4);
                                expect_sound("word", at);
                        }
                        memcpy(f.bytes + at, &was, 4);
                }
}

Test(bpf_sites, a_file_may_end_anywhere)
{
        _cleanup_fd_ int cut = memfd_create("cut", MFD_CLOEXEC);
        Site sites[SITES_MAX];
        size_t n;

        cr_assert_eq(pwrite(cut, f.bytes, f.size, 0), (ssize_t)f.size);
        for (size_t size = f.size; size > 0; size -= MIN(size, size > 4096 ? 509u : 7u)) { /* shorter each time */
                int r;

                cr_assert_eq(ftruncate(cut, (off_t)size - 1), 0);
                r = sites_find(cut, sites, &n);

                cr_assert((r == 0 && n == 0) || r == -EBADMSG, "%zu bytes of it: %d, %zu", size - 1, r, n);
        }
}

Test(bpf_sites, what_is_no_program_has_none)
{
        int ends[2];
        Site sites[SITES_MAX];
        size_t n = 7;

        cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
        cr_assert_eq(sites_find(ends[0], sites, &n), 0);
        cr_assert_eq(n, 0);
        memset(f.bytes, 0, 64);
        cr_assert_eq(sites_find(f.fd, sites, &n), 0);
        cr_assert_eq(n, 0);
        cr_assert_eq(sites_find(-1, sites, &n), -EBADF);
}

#endif
