/* SPDX-License-Identifier: Apache-2.0 */
/* The journal when something runs out, and when whoever writes it dies at any instruction. */
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "journal_fixture.h"

/* A predecessor that was killed, and hangs in the kernel, may still finish a pwrite() after its successor has read. */
Test(journal_death, a_predecessor_cannot_write_any_more, .timeout = 20)
{
        Fixture fx = fixture_make();
        JournalEntry *old = create(&fx, uuid_a, 1, 0), *entry;

        put_node(old, 0, 1);
        entry = load(&fx, uuid_a);
        put_node(entry, 0, 100);
        for (uint64_t k = 2; k < 9; k++)
                put_node(old, 0, k);
        journal_entry_free(old);
        journal_entry_free(entry);
        entry = load(&fx, uuid_a);
        cr_expect(node_is(entry, 0, 100));
        journal_entry_free(entry);
        fixture_close(&fx);
}

/* Takes every descriptor number below a new limit. */
static size_t hog_fds(int *ret_fds, size_t room)
{
        struct rlimit limit;
        size_t n = 0;

        cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
        limit.rlim_cur = room;
        cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        while ((ret_fds[n] = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0)) >= 0)
                cr_assert_lt(++n, room);
        return n;
}

/* With 0, 1, 2, ... descriptors to spare every function either works or says -EMFILE, and leaves all as it was. */
Test(journal_death, too_few_descriptors_are_an_error_and_no_more, .timeout = 20)
{
        Fixture fx = fixture_make();
        JournalEntry *entry = create(&fx, uuid_a, 1, 1);
        int created = -1, loaded = -1, hogs[256];
        size_t n_hogs = hog_fds(hogs, ELEMENTSOF(hogs));

        for (unsigned spare = 0; spare < 5; spare++) {
                JournalEntry *other = NULL;
                uint8_t(*uuids)[UUID_SIZE] = NULL;
                Journal journal = JOURNAL_NULL;
                size_t n = 0;
                int r;

                cr_expect_eq(journal_open(&journal, 0), spare > 0 ? 0 : -EMFILE); /* stdin: not looked at, not closed */
                put_node(entry, 0, spare);
                created = try_create(&fx, &other, uuid_b, plan_text, PLAN_SIZE, 1, 1);
                cr_expect(created == 0 || created == -EMFILE, "create with %u: %d", spare, created);
                other = journal_entry_free(other);
                r = journal_list(&fx.journal, &uuids, &n);
                cr_expect(r == 0 || r == -EMFILE, "list with %u: %d", spare, r);
                cr_expect(r != 0 || n == (created == 0 ? 2 : 1), "a create that failed left nothing");
                free(uuids);
                cr_assert_eq(journal_remove(&fx.journal, uuid_b), 0);
                cr_expect_eq(faccessat(fx.journal.dir_fd, NAME_B ".state", F_OK, 0), -1);
                entry = journal_entry_free(entry); /* one more to spare */
                loaded = try_load(&fx, uuid_a);
                cr_expect(loaded == 0 || loaded == -EMFILE, "load with %u: %d", spare, loaded);
                fd_closep(&hogs[--n_hogs]);
                fd_closep(&hogs[--n_hogs]);
                entry = load(&fx, uuid_a);
                cr_expect(node_is(entry, 0, spare), "spare %u", spare);
        }
        cr_expect_eq(created, 0);
        cr_expect_eq(loaded, 0);
        journal_entry_free(entry);
        while (n_hogs > 0)
                fd_closep(&hogs[--n_hogs]);
        fixture_close(&fx);
}

static bool mount_tiny(const char *dir)
{
        if (unshare(CLONE_NEWNS) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
                return false;
        return mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
               mount("tmpfs", dir, "tmpfs", MS_NOSUID | MS_NODEV, "size=64k,mode=0700") == 0;
}

/* Leaves @n_pages of the file system, all others are in the file "filler". */
static void fill(Fixture *fx, unsigned n_pages)
{
        static const uint8_t bytes[4096];
        _cleanup_fd_ int fd = openat(fx->journal.dir_fd, "filler", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        ssize_t n;

        cr_assert_geq(fd, 0);
        while ((n = write(fd, bytes, sizeof(bytes))) > 0)
                ;
        cr_assert(n < 0 && errno == ENOSPC);
        cr_assert_eq(ftruncate(fd, lseek(fd, 0, SEEK_END) - n_pages * (off_t)sizeof(bytes)), 0);
}

Test(journal_death, a_full_file_system_refuses_new_dataflows_and_keeps_old_ones, .timeout = 20)
{
        Fixture fx = fixture_make();
        JournalEntry *entry, *other = NULL;
        struct journal_node node = node_of(77);
        char filler[128], plan[16384];
        int r, fd;

        snprintf(filler, sizeof(filler), "%s/filler", fx.dir);
        memset(plan, ' ', sizeof(plan));
        journal_close(&fx.journal);
        if (!mount_tiny(fx.dir)) {
                (void)rmdir(fx.dir);
                cr_skip("no mount namespace of our own");
        }
        fixture_enter(&fx);
        entry = create(&fx, uuid_a, 8, 8);
        r = try_create(&fx, &other, uuid_b, plan_text, PLAN_SIZE, 100, 0);
        cr_expect_eq(r, -ENOSPC, "the state does not fit: %d", r);
        fill(&fx, 0);
        r = try_create(&fx, &other, uuid_b, plan_text, PLAN_SIZE, 0, 0);
        cr_expect_eq(r, -ENOSPC, "%d", r);
        cr_expect_eq(count_files(&fx), 3, "a create that failed left nothing");
        cr_assert_eq(truncate(filler, 0), 0);
        fill(&fx, 2);
        r = try_create(&fx, &other, uuid_b, plan, sizeof(plan), 0, 0);
        cr_expect_eq(r, -ENOSPC, "the state fits, the plan does not: %d", r);
        cr_expect_eq(count_files(&fx), 3, "and takes the state along");
        fill(&fx, 0);

        for (uint64_t k = 0; k < 100; k++)
                put_node(entry, (uint32_t)(k % 8), k); /* their room was taken at the beginning */
        journal_entry_free(entry);
        entry = load(&fx, uuid_a); /* without room for its copy */
        for (uint32_t i = 0; i < 8; i++)
                cr_expect(node_is(entry, i, i < 4 ? 96 + i : 88 + i), "node %u", i);
        put_node(entry, 0, 200);

        /* a put that does fail: its page was taken away */
        fd = openat(fx.journal.dir_fd, NAME_A ".state", O_RDWR | O_CLOEXEC);
        cr_assert_eq(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 12288, 4096), 0);
        (void)close(fd);
        fill(&fx, 0);
        r = journal_put_node(entry, 5, &node);
        cr_expect_eq(r, -ENOSPC, "%d", r);
        cr_expect(node_is(entry, 5, 93), "as before");
        cr_assert_eq(unlinkat(fx.journal.dir_fd, "filler", 0), 0);
        cr_expect_eq(journal_put_node(entry, 5, &node), 0, "the next one tries again");
        journal_entry_free(entry);
        entry = load(&fx, uuid_a);
        cr_expect(node_is(entry, 5, 77));
        cr_expect(node_is(entry, 0, 200));
        journal_entry_free(entry);
        cr_assert_eq(journal_remove(&fx.journal, uuid_a), 0);
        cr_expect_eq(count_files(&fx), 0);
        journal_close(&fx.journal);
        cr_expect_eq(umount(fx.dir), 0, "nothing holds a file of it open");
        cr_expect_eq(count_fds(), fx.fds_before);
        (void)rmdir(fx.dir);
}

/* What the writer child tells while it runs. */
typedef struct Shared {
        _Atomic uint64_t done; /* puts (or rounds) that have returned */
} Shared;

static Shared *shared_make(void)
{
        Shared *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

        cr_assert_neq(shared, MAP_FAILED);
        return shared;
}

/* Kills @pid with SIGKILL once it has done @count rounds, wherever it then is in the next one. */
static void kill_after(pid_t pid, Shared *shared, uint64_t count)
{
        nsec_t deadline = nsec_add(clock_now(), 20 * NSEC_PER_SEC);

        while (atomic_load(&shared->done) < count && clock_now() < deadline)
                (void)sched_yield(); /* the child needs the CPU; a sleep would make the moment less random */
        cr_assert_geq(atomic_load(&shared->done), count, "the writer did not get there in time");
        cr_assert_eq(kill(pid, SIGKILL), 0);
        cr_assert_eq(waitpid(pid, NULL, 0), pid);
}

static void write_on(JournalEntry *entry, Shared *shared, uint64_t k)
{
        for (;; k++) {
                struct journal_node node = node_of(k);

                if (journal_put_node(entry, 0, &node))
                        _exit(1);
                atomic_store(&shared->done, k);
        }
}

Test(journal_death, a_writer_killed_anywhere_leaves_its_last_put_or_the_one_under_way, .timeout = 120)
{
        Fixture fx = fixture_make();
        Shared *shared = shared_make();
        uint64_t put = 0; /* what node 0 of the journal holds */

        journal_entry_free(create(&fx, uuid_a, 2, 0));
        srandom((unsigned)getpid());
        for (unsigned round = 0; round < 200; round++) {
                JournalEntry *entry = load(&fx, uuid_a);
                pid_t pid;

                atomic_store(&shared->done, put);
                pid = fork();
                cr_assert_geq(pid, 0);
                if (pid == 0)
                        write_on(entry, shared, put + 1);
                entry = journal_entry_free(entry);
                kill_after(pid, shared, put + 1 + (uint64_t)random() % 300);
                put = atomic_load(&shared->done);
                entry = load(&fx, uuid_a);
                cr_assert_eq(entry->n_lost, 0);
                if (node_is(entry, 0, put + 1))
                        put++; /* it returned, and the child died before it could say so; or it was whole and did not return */
                cr_assert(node_is(entry, 0, put), "round %u: put %llu had returned, the record is of %llu", round,
                        (unsigned long long)put, (unsigned long long)entry->nodes[0].generation);
                journal_entry_free(entry);
        }
        (void)munmap(shared, sizeof(*shared));
        fixture_close(&fx);
}

/* Creates, loads and removes two dataflows over and over. */
static void churn(Fixture *fx, Shared *shared)
{
        for (uint64_t k = 1;; k++) {
                const uint8_t *uuid = k % 2 ? uuid_a : uuid_b;
                JournalEntry *entry = NULL;
                char *plan = NULL;

                if (try_create(fx, &entry, uuid, plan_text, PLAN_SIZE, 20, 5))
                        _exit(1);
                journal_entry_free(entry);
                if (journal_load(&fx->journal, &entry, &plan, uuid))
                        _exit(2);
                free(plan);
                journal_entry_free(entry);
                if (journal_remove(&fx->journal, uuid))
                        _exit(3);
                atomic_store(&shared->done, k);
        }
}

Test(journal_death, a_creator_killed_anywhere_leaves_dataflows_whole_or_not_at_all, .timeout = 120)
{
        Fixture fx = fixture_make();
        Shared *shared = shared_make();
        unsigned n_alive = 0;

        srandom((unsigned)getpid());
        for (unsigned round = 0; round < 200; round++) {
                uint8_t(*uuids)[UUID_SIZE] = NULL;
                size_t n = 0;
                pid_t pid;

                atomic_store(&shared->done, 0);
                pid = fork();
                cr_assert_geq(pid, 0);
                if (pid == 0)
                        churn(&fx, shared);
                kill_after(pid, shared, 1 + (uint64_t)random() % 20);
                cr_assert_eq(journal_list(&fx.journal, &uuids, &n), 0);
                cr_assert_leq(n, 1);
                cr_assert_eq(count_files(&fx), 2 * n, "round %u: what was half done is gone", round);
                for (size_t i = 0; i < n; i++) {
                        JournalEntry *entry = load(&fx, uuids[i]);

                        cr_assert_eq(entry->dataflow->sequence, 1, "round %u", round);
                        cr_assert_eq(entry->n_lost, 0);
                        journal_entry_free(entry);
                        cr_assert_eq(journal_remove(&fx.journal, uuids[i]), 0);
                        n_alive++;
                }
                free(uuids);
        }
        fprintf(stderr, "killed 200 times, %u of them with a dataflow in the journal\n", n_alive);
        (void)munmap(shared, sizeof(*shared));
        fixture_close(&fx);
}
