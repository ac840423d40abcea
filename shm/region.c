/* SPDX-License-Identifier: Apache-2.0 */
#include "shm/region.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* Linux 6.3 */
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_READ  22 /* Linux 5.14 */
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010 /* Linux 5.1 */
#endif

#define HUGE       (UINT64_C(2) << 20)
#define SEALS_SIZE (F_SEAL_SHRINK | F_SEAL_GROW)

static const char *const region_names[_REGION_KIND_MAX] = {
        [REGION_RING] = "tidegate-ring",
        [REGION_POOL] = "tidegate-pool",
        [REGION_CURSOR] = "tidegate-cursor",
        [REGION_BELL] = "tidegate-bell",
        [REGION_CONTROL] = "tidegate-control",
};

static int seals_wanted(RegionKind kind)
{
        return SEALS_SIZE | F_SEAL_SEAL | (kind == REGION_CONTROL ? 0 : F_SEAL_FUTURE_WRITE);
}

static bool size_valid(uint64_t size_bytes)
{
        return size_bytes >= sizeof(struct region_header) && size_bytes <= REGION_MAX_SIZE;
}

static int memfd_new(const char *name, int *ret_fd)
{
        int fd;

        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
        if (fd < 0 && errno == EINVAL) /* a kernel that does not know the flag: +x stays set, that is all */
                fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0)
                return error_origin(-errno);
        *ret_fd = fd;
        return 0;
}

int region_create(RegionKind kind, uint64_t size_bytes, const uint64_t layout[REGION_N_LAYOUT], int *ret_fd)
{
        struct region_header header = {
                .magic = REGION_MAGIC,
                .version = REGION_VERSION,
                .kind = kind,
                .size = size_bytes,
        };
        _cleanup_fd_ int fd = -1;
        ssize_t n;
        int r;

        if (kind < REGION_RING || kind >= _REGION_KIND_MAX || !size_valid(size_bytes))
                return REGION_E_SIZE;
        if (layout)
                memcpy(header.layout, layout, sizeof(header.layout));

        r = memfd_new(region_names[kind], &fd);
        if (r)
                return error_fold(r);
        if (ftruncate(fd, (off_t)size_bytes) < 0)
                return error_origin(-errno);
        n = pwrite(fd, &header, sizeof(header), 0);
        if (n != (ssize_t)sizeof(header))
                return error_origin(n < 0 ? -errno : -EIO);
        if (fcntl(fd, F_ADD_SEALS, SEALS_SIZE) < 0)
                return error_origin(-errno);

        *ret_fd = TAKE_FD(fd);
        return 0;
}

int region_seal(int fd, RegionKind kind)
{
        int want = seals_wanted(kind), have;

        if (region_is_sealed(fd, kind))
                return 0;
        have = fcntl(fd, F_GET_SEALS); /* EINVAL: no memfd. EBADF is the same to the caller: it cannot be sealed */
        if (have < 0 || (have & SEALS_SIZE) != SEALS_SIZE || fcntl(fd, F_ADD_SEALS, want) < 0)
                return REGION_E_SEALS;
        return 0;
}

bool region_is_sealed(int fd, RegionKind kind)
{
        int want = seals_wanted(kind), have = fcntl(fd, F_GET_SEALS);

        return have >= 0 && (have & want) == want;
}

static uint64_t touched_of(RegionKind kind, uint64_t size_bytes)
{
        return kind == REGION_POOL ? MIN(size_bytes, REGION_POOL_TOUCHED) : size_bytes;
}

bool region_is_touched(int fd, RegionKind kind)
{
        struct stat st;

        return fstat(fd, &st) == 0 && (uint64_t)st.st_blocks * 512 >= touched_of(kind, (uint64_t)st.st_size);
}

static int check_sealed(int fd, int want, uint64_t size_bytes)
{
        struct stat st;
        int have;

        have = fcntl(fd, F_GET_SEALS);
        if (have < 0 || (have & want) != want)
                return REGION_E_SEALS;
        if (fstat(fd, &st) < 0) /* a memfd: SHRINK and GROW have proven it, so no foreign file system is asked */
                return error_origin(-errno);
        if (!size_valid(size_bytes) || (uint64_t)st.st_size != size_bytes)
                return REGION_E_SIZE;
        return 0;
}

int region_check(int fd, RegionKind kind, uint64_t size_bytes)
{
        return check_sealed(fd, seals_wanted(kind), size_bytes);
}

static int check_header(Region *region, RegionKind kind, uint64_t size_bytes)
{
        struct region_header h;

        /* One copy, word by word volatile, so that what is checked is what is kept, whatever the writer does
         * meanwhile. */
        for (size_t i = 0; i < sizeof(h) / 8; i++) {
                uint64_t word = ((const volatile uint64_t *)region->map)[i];

                memcpy((char *)&h + i * 8, &word, 8);
        }
        if (h.magic != REGION_MAGIC || h.version != REGION_VERSION)
                return REGION_E_HEADER;
        if (h.kind != (uint32_t)kind || h.size != size_bytes)
                return REGION_E_HEADER;
        memcpy(region->layout, h.layout, sizeof(region->layout));
        return 0;
}

/* Faults every page in, so that none is left for the steady state. madvise first: it is several times cheaper than
 * one fault a page, and says ENOMEM where a touch would raise SIGBUS; the touch then fills what a hypervisor still
 * misses. */
static int touch(const Region *region, size_t size)
{
        volatile uint8_t *p = region->map;
        bool huge = region->kind == REGION_POOL && region->writable && region->size >= REGION_POOL_HUGE;

        if (madvise(region->map, size, region->writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) < 0 &&
            errno != EINVAL) /* EINVAL: a kernel before 5.14, the loop below does it all */
                return error_origin(-errno);
        if (huge) /* only what is there already can be collapsed; where it cannot the small pages are as good, and dearer to map */
                (void)madvise(region->map, size / HUGE * HUGE, MADV_COLLAPSE);
        for (size_t i = 0; i < size; i += 4096) {
                uint8_t byte = p[i];

                if (region->writable)
                        p[i] = byte; /* we are its one writer and have not begun: nothing is lost */
        }
        return 0;
}

/* A mapping that begins at a huge page's boundary; the address space around it is given back. */
static void *map_aligned(uint64_t size_bytes, int prot, int fd)
{
        uint8_t *room = mmap(NULL, size_bytes + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), *at;
        size_t before, after;

        if (room == MAP_FAILED)
                return MAP_FAILED;
        before = (HUGE - (uintptr_t)room % HUGE) % HUGE;
        after = HUGE - before;
        at = room + before;
        if (mmap(at, size_bytes, prot, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
                int saved = errno;

                (void)munmap(room, size_bytes + HUGE);
                errno = saved;
                return MAP_FAILED;
        }
        if (before)
                (void)munmap(room, before);
        if (after)
                (void)munmap(room + size_bytes + HUGE - after, after);
        return at;
}

static void *map_pages(RegionKind kind, uint64_t size_bytes, int prot, int fd)
{
        if (kind == REGION_POOL && size_bytes >= REGION_POOL_HUGE && size_bytes % 4096 == 0)
                return map_aligned(size_bytes, prot, fd);
        return mmap(NULL, size_bytes, prot, MAP_SHARED, fd, 0);
}

/* @touched_bytes: of size_bytes, from its beginning */
static int map_region(Region *ret, int fd, RegionKind kind, uint64_t size_bytes, uint64_t touched_bytes, bool writable)
{
        _cleanup_(region_unmap) Region region = {.size = size_bytes, .kind = kind, .writable = writable};
        int r;

        region.map = map_pages(kind, size_bytes, PROT_READ | (writable ? PROT_WRITE : 0), fd);
        if (region.map == MAP_FAILED) {
                region.map = NULL;
                return error_origin(-errno);
        }
        r = check_header(&region, kind, size_bytes);
        if (r)
                return r;
        if (writable && madvise(region.map, size_bytes, MADV_DONTFORK) < 0)
                return error_origin(-errno); /* two writers after a fork: never */
        r = touch(&region, touched_bytes);
        if (r)
                return error_fold(r);

        *ret = region;
        region.map = NULL;
        return 0;
}

int region_map_write(Region *ret, int fd, RegionKind kind, uint64_t size_bytes)
{
        int r;

        r = check_sealed(fd, SEALS_SIZE, size_bytes);
        if (r)
                return r;
        return map_region(ret, fd, kind, size_bytes, touched_of(kind, size_bytes), true);
}

int region_map_read(Region *ret, int fd, RegionKind kind, uint64_t size_bytes)
{
        int r;

        r = region_check(fd, kind, size_bytes);
        if (r)
                return r;
        return map_region(ret, fd, kind, size_bytes, touched_of(kind, size_bytes), false);
}

int region_map_status(Region *ret, int fd, RegionKind kind, uint64_t size_bytes)
{
        int r;

        r = region_check(fd, kind, size_bytes);
        if (r)
                return r;
        return map_region(ret, fd, kind, size_bytes, MIN(size_bytes, (uint64_t)4096), false);
}

void region_unmap(Region *region)
{
        int saved = errno;

        if (region->map)
                (void)munmap(region->map, region->size); /* fails only for arguments that mmap did not give us */
        *region = REGION_INIT;
        errno = saved;
}
