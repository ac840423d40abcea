/* SPDX-License-Identifier: Apache-2.0 */
/* Seals as the running kernel enforces them, and what is refused before it is mapped. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "fixture.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

static int bell_mapped(Region *rw)
{
        int fd = -1;

        must(bell_create(&fd));
        must(region_map_write(rw, fd, REGION_BELL, bell_size()));
        return fd;
}

Test(region, is_born_with_its_size_sealed_close_on_exec_and_not_executable_where_the_kernel_can)
{
        _cleanup_fd_ int fd = -1;
        struct stat st;
        int seals;

        must(ring_create(16, &fd));
        seals = fcntl(fd, F_GET_SEALS);
        cr_assert_eq(seals & (F_SEAL_SHRINK | F_SEAL_GROW), F_SEAL_SHRINK | F_SEAL_GROW);
        cr_assert_eq(seals & (F_SEAL_SEAL | F_SEAL_FUTURE_WRITE), 0, "the writer has to map it first");
        cr_assert_eq(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
        must(fstat(fd, &st));
        cr_assert_eq((uint64_t)st.st_size, ring_size(16));
        if (seals & 0x20) /* F_SEAL_EXEC */
                cr_assert_eq(st.st_mode & 0111, 0);
        cr_assert_eq(ftruncate(fd, 4096), -1);
        cr_assert_eq(ftruncate(fd, 1 << 20), -1);
}

Test(region, once_sealed_nobody_can_write_map_writable_truncate_or_punch)
{
        Region rw, ro;
        int fd = bell_mapped(&rw);
        void *map;

        must(region_seal(fd, REGION_BELL));
        must(region_map_read(&ro, fd, REGION_BELL, bell_size()));
        cr_assert_eq(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
        cr_assert_eq(errno, EPERM);
        cr_assert_eq(mprotect(ro.map, 4096, PROT_READ | PROT_WRITE), -1, "a read-only mapping stays so");
        cr_assert_eq(errno, EACCES);
        cr_assert_eq(pwrite(fd, "x", 1, 0), -1);
        cr_assert_eq(errno, EPERM);
        cr_assert_eq(ftruncate(fd, 0), -1);
        cr_assert_eq(ftruncate(fd, 8192), -1);
        cr_assert_eq(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
        cr_assert_eq(fallocate(fd, 0, 0, 8192), -1, "growing");
        cr_assert_eq(madvise(ro.map, 4096, MADV_REMOVE), -1);
        cr_assert_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1, "nor can a peer lock the writer out");
        map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
        cr_assert_neq(map, MAP_FAILED, "a private copy harms nobody");
        ((struct bell_shared *)rw.map)->epoch = 77;
        cr_assert_eq(((const struct bell_shared *)ro.map)->epoch, 77, "the writer writes on");
        munmap(map, 4096);
        region_unmap(&rw);
        region_unmap(&ro);
        fd_close(fd);
}

Test(region, a_reader_cannot_get_a_writable_mapping_by_opening_it_again)
{
        Region rw;
        int fd = bell_mapped(&rw), again;
        char path[64];

        must(region_seal(fd, REGION_BELL));
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        again = open(path, O_RDWR | O_CLOEXEC);
        if (again >= 0) {
                cr_assert_eq(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0), MAP_FAILED);
                cr_assert_eq(pwrite(again, "x", 1, 0), -1);
        }
        fd_close(again);
        fd_close(fd);
        region_unmap(&rw);
}

Test(region, a_writer_gets_no_second_mapping)
{
        Region rw, second;
        int fd = bell_mapped(&rw);

        must(region_seal(fd, REGION_BELL));
        must(region_seal(fd, REGION_BELL)); /* idempotent */
        cr_assert_eq(region_map_write(&second, fd, REGION_BELL, bell_size()), -EPERM);
        region_unmap(&rw);
        fd_close(fd);
}

Test(region, readers_refuse_what_is_not_fully_sealed_and_anything_that_is_no_memfd)
{
        Region rw, ro = REGION_INIT;
        int fd = bell_mapped(&rw), fds[2], file;

        cr_assert_eq(region_map_read(&ro, fd, REGION_BELL, bell_size()), REGION_E_SEALS);
        must(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
        cr_assert_eq(region_map_read(&ro, fd, REGION_BELL, bell_size()), REGION_E_SEALS, "SEAL is missing");
        must(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL));
        must(region_map_read(&ro, fd, REGION_BELL, bell_size()));
        region_unmap(&ro);
        region_unmap(&rw);
        fd_close(fd);

        must(pipe2(fds, O_CLOEXEC));
        cr_assert_eq(region_map_read(&ro, fds[0], REGION_BELL, bell_size()), REGION_E_SEALS);
        cr_assert_eq(region_seal(fds[0], REGION_BELL), REGION_E_SEALS);
        file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        cr_assert_eq(region_map_read(&ro, file, REGION_BELL, bell_size()), REGION_E_SEALS);
        cr_assert_eq(region_map_read(&ro, -1, REGION_BELL, bell_size()), REGION_E_SEALS);
        cr_assert_null(ro.map);
        fd_close(file);
        fd_close(fds[0]);
        fd_close(fds[1]);

        fd = memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        must(ftruncate(fd, 256));
        must(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_GROW | F_SEAL_FUTURE_WRITE));
        cr_assert_eq(region_map_read(&ro, fd, REGION_BELL, 256), REGION_E_SEALS, "it could shrink under our feet");
        cr_assert_eq(region_seal(fd, REGION_BELL), REGION_E_SEALS);
        fd_close(fd);
}

Test(region, a_size_other_than_promised_is_refused_whatever_the_header_says)
{
        Region rw, ro = REGION_INIT;
        int fd = bell_mapped(&rw);

        must(region_seal(fd, REGION_BELL));
        cr_assert_eq(region_map_read(&ro, fd, REGION_BELL, bell_size() + 4096), REGION_E_SIZE);
        cr_assert_eq(region_map_read(&ro, fd, REGION_BELL, bell_size() - 1), REGION_E_SIZE);
        cr_assert_eq(region_map_read(&ro, fd, REGION_BELL, 0), REGION_E_SIZE);
        region_unmap(&rw);
        fd_close(fd);
        cr_assert_eq(region_create(REGION_BELL, 127, NULL, &fd), REGION_E_SIZE);
        cr_assert_eq(region_create(REGION_POOL, REGION_MAX_SIZE + 1, NULL, &fd), REGION_E_SIZE);
        cr_assert_eq(region_create(_REGION_KIND_MAX, 4096, NULL, &fd), REGION_E_SIZE);
        cr_assert_eq(ring_create(5, &fd), REGION_E_SIZE);
        cr_assert_eq(pool_create(NULL, 0, &fd), REGION_E_SIZE);
}

static void scribble(struct region_header *h, int what)
{
        switch (what) {
        case 0:
                h->magic ^= 1;
                break;
        case 1:
                h->version++;
                break;
        case 2:
                h->kind = REGION_CURSOR;
                break;
        case 3:
                h->size++;
                break;
        }
}

Test(region, a_wrong_magic_version_kind_or_size_in_the_header_is_refused)
{
        for (int what = 0; what < 4; what++) {
                Region rw, ro = REGION_INIT;
                int fd = bell_mapped(&rw);

                scribble(rw.map, what);
                must(region_seal(fd, REGION_BELL));
                cr_assert_eq(region_map_read(&ro, fd, REGION_BELL, bell_size()), REGION_E_HEADER, "case %d", what);
                cr_assert_null(ro.map);
                region_unmap(&rw);
                fd_close(fd);
        }
}

Test(region, a_ring_or_pool_whose_layout_does_not_fit_its_size_is_refused)
{
        const PoolClass class = {4096, 2};
        Region ring, pool, cursor;
        RingWriter *w = NULL;
        RingReader r;
        int fd = -1;

        must(ring_create(8, &fd));
        must(region_map_write(&ring, fd, REGION_RING, ring_size(8)));
        fd_close(fd);
        ring.layout[0] = 16;
        cr_assert_eq(ring_writer_new(&w, &ring, 1), RING_E_INVALID);
        ring.layout[0] = 8;
        ring.size -= 8;
        cr_assert_eq(ring_writer_new(&w, &ring, 1), RING_E_INVALID);
        ring.size += 8;
        ring.writable = false;
        cr_assert_eq(ring_writer_new(&w, &ring, 1), RING_E_INVALID);
        ring.writable = true;
        ((struct ring_shared *)ring.map)->head = 4;
        cr_assert_eq(ring_writer_new(&w, &ring, 1), RING_E_INVALID, "somebody's already");
        ((struct ring_shared *)ring.map)->head = 0;
        must(ring_writer_new(&w, &ring, 1));

        must(pool_create(&class, 1, &fd));
        must(region_map_write(&pool, fd, REGION_POOL, pool_size(&class, 1)));
        fd_close(fd);
        cr_assert_eq(ring_writer_add_segment(w, &ring), RING_E_INVALID);
        pool.layout[0]++;
        cr_assert_eq(ring_writer_add_segment(w, &pool), RING_E_INVALID);
        pool.layout[0] = 0;
        cr_assert_eq(ring_writer_add_segment(w, &pool), RING_E_INVALID);

        must(cursor_create(&fd));
        must(region_map_write(&cursor, fd, REGION_CURSOR, cursor_size()));
        fd_close(fd);
        cr_assert_eq(ring_reader_init(&r, &pool, &cursor, 0, 1, RING_DROP_OLDEST), RING_E_INVALID);
        cr_assert_eq(ring_reader_init(&r, &ring, &pool, 0, 1, RING_DROP_OLDEST), RING_E_INVALID);
        cr_assert_eq(ring_reader_init(&r, &ring, &cursor, 0, 8, RING_DROP_OLDEST), RING_E_INVALID);
        cr_assert_eq(ring_reader_init(&r, &ring, &cursor, 0, 0, RING_DROP_OLDEST), RING_E_INVALID);
        must(ring_reader_init(&r, &ring, &cursor, 0, 7, RING_DROP_OLDEST));
        ring_writer_free(w);
        region_unmap(&ring);
        region_unmap(&pool);
        region_unmap(&cursor);
        region_unmap(&cursor);
}

Test(region, a_control_page_can_be_mapped_writable_again_by_the_next_supervisor)
{
        Region first, node, second;
        uint32_t cause;
        nsec_t deadline;
        int fd = -1;

        must(control_create(&fd));
        must(region_map_write(&first, fd, REGION_CONTROL, control_size()));
        control_init(&first);
        must(region_seal(fd, REGION_CONTROL));
        must(region_map_read(&node, fd, REGION_CONTROL, control_size()));
        region_unmap(&first);
        must(region_map_write(&second, fd, REGION_CONTROL, control_size()));
        control_stop(&second, 1, 42);
        cr_assert(control_stop_read(&node, &cause, &deadline));
        cr_assert_eq(deadline, 42);
        cr_assert_eq(ftruncate(fd, 0), -1, "and the node cannot truncate it under the supervisor");
        region_unmap(&node);
        region_unmap(&second);
        fd_close(fd);
}

Test(region, is_not_inherited_writable_by_a_forked_child)
{
        Region rw, ro;
        int fd = bell_mapped(&rw), status;
        pid_t pid;

        must(region_seal(fd, REGION_BELL));
        must(region_map_read(&ro, fd, REGION_BELL, bell_size()));
        for (int what = 0; what < 2; what++) {
                pid = fork();
                if (pid == 0) {
                        signal(SIGSEGV, SIG_DFL);
                        if (what == 0)
                                ((struct bell_shared *)rw.map)->epoch = 1; /* must not be there at all */
                        _exit(((const struct bell_shared *)ro.map)->epoch == 0 ? 5 : 6);
                }
                cr_assert_eq(waitpid(pid, &status, 0), pid);
                if (what == 0)
                        cr_assert(WIFSIGNALED(status), "a child must not become a second writer");
                else
                        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 5, "reading is allowed");
        }
        region_unmap(&rw);
        region_unmap(&ro);
        fd_close(fd);
}

Test(region, takes_no_page_fault_once_it_is_mapped)
{
        const PoolClass classes[] = {{1 << 20, 4}, {1 << 20, REGION_POOL_HUGE >> 20}};

        for (size_t k = 0; k < ELEMENTSOF(classes); k++) {
                struct rusage before, after;
                Mapped m = {.fd = -1};
                volatile uint8_t *p;
                uint8_t sum = 0;

                must(pool_create(&classes[k], 1, &m.fd));
                mapped_open(&m, REGION_POOL, pool_size(&classes[k], 1));
                getrusage(RUSAGE_THREAD, &before);
                p = m.rw.map;
                for (size_t i = 0; i < m.size; i += 4096)
                        p[i + 64] = (uint8_t)i;
                p = m.ro.map;
                for (size_t i = 0; i < m.size; i += 4096)
                        sum += p[i + 64];
                getrusage(RUSAGE_THREAD, &after);
                cr_assert_leq(after.ru_minflt - before.ru_minflt, 16, "%ld faults over %lu pages, sum %u",
                        after.ru_minflt - before.ru_minflt, m.size / 4096, sum);
                mapped_close(&m);
        }
}

/* Whether this kernel makes huge pages of so much of a memfd on demand, now: it may be short of them. */
static bool collapses_by_hand(size_t size)
{
        const size_t huge = 2 << 20;
        int fd = memfd_create("by-hand", MFD_CLOEXEC);
        char *room = mmap(NULL, size + huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *at;
        bool works;

        must(ftruncate(fd, (off_t)size));
        at = (char *)(((uintptr_t)room + huge - 1) / huge * huge);
        cr_assert_eq(mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0), at);
        memset(at, 1, size);
        works = madvise(at, size, 25 /* MADV_COLLAPSE */) == 0;
        (void)munmap(room, size + huge);
        fd_close(fd);
        return works;
}

static bool pool_is_touched(uint64_t n_pages, uint64_t n_made)
{
        _cleanup_fd_ int fd = -1;

        must(region_create(REGION_POOL, n_pages * 4096, NULL, &fd));
        must(fallocate(fd, 0, 0, (off_t)(n_made * 4096)));
        must(region_seal(fd, REGION_POOL));
        return region_is_touched(fd, REGION_POOL);
}

Test(region, is_touched_once_its_writer_has_mapped_it)
{
        const PoolClass class = {1 << 16, 4};
        _cleanup_fd_ int ring = -1, pool = -1;
        Region rw[2];

        must(ring_create(64, &ring));
        must(pool_create(&class, 1, &pool));
        cr_assert_not(region_is_touched(ring, REGION_RING));
        cr_assert_not(region_is_touched(pool, REGION_POOL));
        must(region_map_write(&rw[0], ring, REGION_RING, ring_size(64)));
        must(region_map_write(&rw[1], pool, REGION_POOL, pool_size(&class, 1)));
        cr_assert(region_is_touched(ring, REGION_RING));
        cr_assert(region_is_touched(pool, REGION_POOL));
        must(fallocate(pool, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1 << 16, 4096));
        cr_assert_not(region_is_touched(pool, REGION_POOL), "given back before it was sealed");
        region_unmap(&rw[0]);
        region_unmap(&rw[1]);
}

Test(region, is_touched_when_no_page_is_missing_that_is_touched_while_mapping)
{
        const uint64_t most = REGION_POOL_TOUCHED / 4096;

        cr_assert(pool_is_touched(100, 100));
        cr_assert_not(pool_is_touched(100, 99));
        cr_assert(pool_is_touched(most + 1000, most), "so much of a large pool");
        cr_assert_not(pool_is_touched(most + 1000, most - 1));
}

static long faults_of_a_reader(const PoolClass *class)
{
        struct rusage before, after;
        Region rw, ro;
        int fd = -1;

        must(pool_create(class, 1, &fd));
        must(region_map_write(&rw, fd, REGION_POOL, pool_size(class, 1)));
        must(region_seal(fd, REGION_POOL));
        getrusage(RUSAGE_THREAD, &before);
        must(region_map_read(&ro, fd, REGION_POOL, pool_size(class, 1)));
        getrusage(RUSAGE_THREAD, &after);
        cr_assert_eq((uintptr_t)ro.map % (2 << 20), 0);
        region_unmap(&rw);
        region_unmap(&ro);
        fd_close(fd);
        return after.ru_minflt - before.ru_minflt;
}

Test(region, a_large_pool_is_made_of_huge_pages_where_that_works)
{
        const PoolClass class = {1 << 20, REGION_POOL_HUGE >> 20};
        const long few = (long)(pool_size(&class, 1) / 4096 / 64);
        unsigned n_tried = 0;

        for (unsigned i = 0; i < 10; i++) {
                if (!collapses_by_hand(REGION_POOL_HUGE))
                        continue;
                n_tried++;
                if (faults_of_a_reader(&class) < few)
                        return;
        }
        if (n_tried == 0)
                cr_skip("this kernel makes no huge pages of a memfd, or has none left");
        cr_assert_fail("it worked by hand %u times", n_tried);
}

Test(region, for_status_one_page_of_the_largest_ring_is_mapped_and_only_when_it_is_sealed)
{
        _cleanup_fd_ int fd = -1;
        Region rw = REGION_INIT, map = REGION_INIT;
        RingStatus status;
        struct rusage before, after;

        must(ring_create(RING_MAX_SLOTS, &fd));
        must(region_map_write(&rw, fd, REGION_RING, ring_size(RING_MAX_SLOTS)));
        ((struct ring_shared *)rw.map)->head = 42;
        cr_assert_eq(region_map_status(&map, fd, REGION_RING, ring_size(RING_MAX_SLOTS)), REGION_E_SEALS);
        must(region_seal(fd, REGION_RING));
        cr_assert_eq(region_map_status(&map, fd, REGION_CURSOR, ring_size(RING_MAX_SLOTS)), REGION_E_HEADER);
        cr_assert_eq(region_map_status(&map, fd, REGION_RING, ring_size(16)), REGION_E_SIZE);
        must(getrusage(RUSAGE_SELF, &before));
        must(region_map_status(&map, fd, REGION_RING, ring_size(RING_MAX_SLOTS)));
        must(getrusage(RUSAGE_SELF, &after));
        cr_assert_leq(after.ru_minflt - before.ru_minflt, 4);
        ring_read_status(&map, &status);
        cr_assert_eq(status.head, 42);
        region_unmap(&map);
        region_unmap(&rw);
}

Test(region, leaves_no_fd_or_mapping_behind_when_it_fails)
{
        struct rlimit old, none;
        Region map = REGION_INIT;
        int fd = -1, probe, probe2;

        probe = dup(0);
        fd_close(probe);
        getrlimit(RLIMIT_NOFILE, &old);
        none = (struct rlimit){.rlim_cur = (rlim_t)probe, .rlim_max = old.rlim_max};
        setrlimit(RLIMIT_NOFILE, &none);
        cr_assert_eq(bell_create(&fd), -EMFILE);
        cr_assert_eq(fd, -1, "the output is written only on success");
        setrlimit(RLIMIT_NOFILE, &old);

        must(pool_create(&(PoolClass){1 << 20, 64}, 1, &fd));
        getrlimit(RLIMIT_AS, &old);
        none = (struct rlimit){.rlim_cur = 1 << 20, .rlim_max = old.rlim_max};
        setrlimit(RLIMIT_AS, &none);
        probe = region_map_write(&map, fd, REGION_POOL, pool_size(&(PoolClass){1 << 20, 64}, 1));
        setrlimit(RLIMIT_AS, &old);
        cr_assert_eq(probe, -ENOMEM);
        cr_assert_null(map.map);
        probe = dup(0);
        fd_close(fd);
        probe2 = dup(0);
        cr_assert_eq(probe2, fd);
        fd_close(probe);
        fd_close(probe2);
}
