/* SPDX-License-Identifier: Apache-2.0 */
#include "bpf/sites.h"

#include <elf.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/sdt.h"

#define SECTIONS_MAX 4096u
#define SEGMENTS_MAX 256u
#define NAMES_MAX    (1u << 20)
#define NOTES_MAX    (1u << 20)

#if defined(__x86_64__)
#define MACHINE EM_X86_64
static const uint8_t nop[] = {0x0f, 0x1f, 0x44, 0x00, 0x00};
#elif defined(__aarch64__)
#define MACHINE EM_AARCH64
static const uint8_t nop[] = {0x1f, 0x20, 0x03, 0xd5};
#else
#define MACHINE EM_NONE
static const uint8_t nop[] = {0};
#endif

typedef struct File {
        int fd;
        uint64_t size;
        Elf64_Phdr *segments;
        unsigned n_segments;
        Elf64_Shdr *sections;
        unsigned n_sections;
        char *names; /* ends in NUL */
        size_t names_size;
} File;

static void file_done(File *file)
{
        free(file->segments);
        free(file->sections);
        free(file->names);
}

/* All of it. 0, -EBADMSG: it is not there, -errno. */
static int read_at(const File *file, void *to, uint64_t size, uint64_t offset)
{
        if (offset > file->size || size > file->size - offset)
                return -EBADMSG;
        for (uint64_t at = 0; at < size;) {
                ssize_t n = pread(file->fd, (char *)to + at, size - at, (off_t)(offset + at));

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? error_origin(-errno) : -EBADMSG; /* somebody has made it shorter */
                at += (uint64_t)n;
        }
        return 0;
}

/* With a NUL behind it. */
static int read_new(const File *file, void *ret, uint64_t size, uint64_t offset)
{
        _cleanup_free_ char *bytes = NULL;
        int r;

        if (offset > file->size || size > file->size - offset)
                return -EBADMSG;
        bytes = malloc(size + 1);
        if (!bytes)
                return error_origin(-ENOMEM);
        r = read_at(file, bytes, size, offset);
        if (r)
                return r;
        bytes[size] = '\0';
        *(void **)ret = TAKE_PTR(bytes);
        return 0;
}

/* 1: read. 0: it is none of ours. */
static int read_tables(File *file)
{
        Elf64_Ehdr header;
        const Elf64_Shdr *names;
        int r;

        if (file->size < sizeof(header))
                return 0;
        r = read_at(file, &header, sizeof(header), 0);
        if (r)
                return r;
        if (memcmp(header.e_ident, ELFMAG, SELFMAG) || header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
                header.e_machine != MACHINE)
                return 0;
        if (header.e_shnum == 0 || header.e_phnum == 0) /* of more than 65 279 sections, too */
                return 0;
        if (header.e_shentsize != sizeof(Elf64_Shdr) || header.e_phentsize != sizeof(Elf64_Phdr) || header.e_shnum > SECTIONS_MAX ||
                header.e_phnum > SEGMENTS_MAX || header.e_shstrndx >= header.e_shnum)
                return -EBADMSG;
        file->n_sections = header.e_shnum;
        file->n_segments = header.e_phnum;
        r = read_new(file, &file->sections, file->n_sections * sizeof(Elf64_Shdr), header.e_shoff);
        if (r == 0)
                r = read_new(file, &file->segments, file->n_segments * sizeof(Elf64_Phdr), header.e_phoff);
        if (r)
                return r;
        names = &file->sections[header.e_shstrndx];
        if (names->sh_size > NAMES_MAX)
                return -EBADMSG;
        file->names_size = names->sh_size;
        r = read_new(file, &file->names, names->sh_size, names->sh_offset);
        return r ? r : 1;
}

static const Elf64_Shdr *section(const File *file, const char *name, uint32_t type)
{
        for (unsigned i = 0; i < file->n_sections; i++) {
                const Elf64_Shdr *s = &file->sections[i];

                if (s->sh_type == type && s->sh_name < file->names_size && strcmp(file->names + s->sh_name, name) == 0)
                        return s;
        }
        return NULL;
}

/* Where in the file the bytes of an address are that is loaded with these rights. */
static bool find_offset(const File *file, uint64_t address, uint64_t size, uint32_t flags, uint64_t *ret)
{
        for (unsigned i = 0; i < file->n_segments; i++) {
                const Elf64_Phdr *p = &file->segments[i];

                if (p->p_type != PT_LOAD || (p->p_flags & flags) != flags || address < p->p_vaddr || p->p_filesz < size ||
                        address - p->p_vaddr > p->p_filesz - size)
                        continue;
                *ret = p->p_offset + (address - p->p_vaddr);
                return *ret <= file->size && size <= file->size - *ret;
        }
        return false;
}

static const char *const kind_names[_SITE_KIND_MAX] = {[SITE_ENQUEUE] = "enqueue", [SITE_DEQUEUE] = "dequeue", [SITE_MEASURE] = "measure"};
static const char *const kind_specs[_SITE_KIND_MAX] = {[SITE_ENQUEUE] = SDT_SPEC_3, [SITE_DEQUEUE] = SDT_SPEC_4, [SITE_MEASURE] = SDT_SPEC_3};

/* The text at *@at of the @end - *@at bytes there, and goes behind it; NULL: it does not end. */
static const char *take_text(const char **at, const char *end)
{
        const char *text = *at, *nul = memchr(text, '\0', (size_t)(end - text));

        if (!nul)
                return NULL;
        *at = nul + 1;
        return text;
}

/* One note's description: three addresses, three texts. 1: a site of ours, 0: another one, or one that is not what it says. */
static int read_site(const File *file, const char *at, const char *end, uint64_t base, Site *ret)
{
        const char *provider, *name, *spec;
        uint64_t address[3];
        uint8_t bytes[sizeof(nop)];
        int r;

        if ((size_t)(end - at) < sizeof(address))
                return -EBADMSG;
        memcpy(address, at, sizeof(address));
        at += sizeof(address);
        provider = take_text(&at, end);
        name = provider ? take_text(&at, end) : NULL;
        spec = name ? take_text(&at, end) : NULL;
        if (!spec)
                return -EBADMSG;
        if (strcmp(provider, "tidegate") != 0)
                return 0;
        for (ret->kind = 0; ret->kind < _SITE_KIND_MAX; ret->kind++)
                if (strcmp(name, kind_names[ret->kind]) == 0 && strcmp(spec, kind_specs[ret->kind]) == 0)
                        break;
        if (ret->kind == _SITE_KIND_MAX)
                return 0;
        base -= address[1];
        if (!find_offset(file, address[0] + base, sizeof(nop), PF_R | PF_X, &ret->offset) ||
                !find_offset(file, address[2] + base, sizeof(uint16_t), PF_R | PF_W, &ret->semaphore) || ret->semaphore % sizeof(uint16_t))
                return -EBADMSG;
        r = read_at(file, bytes, sizeof(bytes), ret->offset);
        if (r)
                return r;
        return memcmp(bytes, nop, sizeof(nop)) == 0;
}

static uint64_t round4(uint64_t n)
{
        return (n + 3) & ~UINT64_C(3);
}

static int read_notes(const File *file, const char *notes, uint64_t size, uint64_t base, Site *ret, size_t *ret_n)
{
        for (uint64_t at = 0; size - at >= sizeof(Elf64_Nhdr);) {
                Elf64_Nhdr note;
                uint64_t desc, next;
                Site site;
                int r;

                memcpy(&note, notes + at, sizeof(note));
                desc = at + sizeof(note) + round4(note.n_namesz);
                next = desc + round4(note.n_descsz);
                if (next > round4(size) || desc + note.n_descsz > size)
                        return -EBADMSG;
                if (note.n_type == 3 && note.n_namesz == sizeof("stapsdt") && memcmp(notes + at + sizeof(note), "stapsdt", sizeof("stapsdt")) == 0) {
                        r = read_site(file, notes + desc, notes + desc + note.n_descsz, base, &site);
                        if (r < 0)
                                return r;
                        if (r && *ret_n == SITES_MAX)
                                return -E2BIG;
                        if (r)
                                ret[(*ret_n)++] = site;
                }
                if (next >= size)
                        break;
                at = next;
        }
        return 0;
}

int sites_find(int fd, Site *ret, size_t *ret_n)
{
        _cleanup_(file_done) File file = {.fd = fd};
        _cleanup_free_ char *bytes = NULL;
        const Elf64_Shdr *notes, *base;
        struct stat st;
        int r;

        *ret_n = 0;
        if (fstat(fd, &st) < 0)
                return error_origin(-errno);
        if (!S_ISREG(st.st_mode) || st.st_size < 0)
                return 0;
        file.size = (uint64_t)st.st_size;
        r = read_tables(&file);
        if (r <= 0)
                return r;
        notes = section(&file, ".note.stapsdt", SHT_NOTE);
        base = section(&file, ".stapsdt.base", SHT_PROGBITS);
        if (!notes || !base)
                return 0;
        if (notes->sh_size > NOTES_MAX)
                return -EBADMSG;
        r = read_new(&file, &bytes, notes->sh_size, notes->sh_offset);
        return r ? r : read_notes(&file, bytes, notes->sh_size, base->sh_addr, ret, ret_n);
}

static bool lies_within(uint64_t at, uint64_t size, uint64_t file_size)
{
        return at <= file_size && size <= file_size - at;
}

bool site_is_sound(const Site *site, uint64_t file_size)
{
        return (unsigned)site->kind < _SITE_KIND_MAX && lies_within(site->offset, sizeof(nop), file_size) && site->semaphore % sizeof(uint16_t) == 0 &&
                lies_within(site->semaphore, sizeof(uint16_t), file_size);
}
