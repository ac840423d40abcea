/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/status-internal.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"

/* The kernel's encoding of an access list (include/uapi/linux/posix_acl_xattr.h). */
#define ACL_XATTR      "system.posix_acl_access"
#define ACL_VERSION    2
#define ACL_USER_OBJ   0x01
#define ACL_USER       0x02
#define ACL_GROUP_OBJ  0x04
#define ACL_MASK       0x10
#define ACL_OTHER      0x20
#define ACL_READ       4
#define ACL_UNDEFINED  UINT32_MAX
#define MODE_NO_WRITER 022

struct acl_entry {
        uint16_t tag, permissions;
        uint32_t id;
};

struct acl {
        uint32_t version;
        struct acl_entry entry[5]; /* in the order of their tags */
};
_Static_assert(sizeof(struct acl) == 44, "what the kernel reads");

static int map_file(StatusFile *ret, int take_fd, uint32_t n_dataflows, uint32_t n_nodes)
{
        uint64_t size = status_page_size(n_dataflows, n_nodes);
        void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, take_fd, 0);

        if (map == MAP_FAILED)
                return error_origin(-errno);
        (void)madvise(map, size, MADV_DONTFORK); /* one writer; we do not fork, so that this is a precaution only */
        *ret = (StatusFile){.fd = take_fd, .header = map, .n_dataflows = n_dataflows, .n_nodes = n_nodes};
        ret->dataflows = (void *)(ret->header + 1);
        ret->nodes = (void *)(ret->dataflows + n_dataflows);
        return 0;
}

void status_file_done(StatusFile *file)
{
        if (file->header)
                (void)munmap(file->header, status_page_size(file->n_dataflows, file->n_nodes));
        (void)fd_close(file->fd);
        *file = STATUS_FILE_NULL;
}

int status_file_take(StatusFile *ret, int dir_fd, const char *name, uint32_t n_dataflows, uint32_t n_nodes)
{
        _cleanup_(status_file_done) StatusFile file = STATUS_FILE_NULL;
        /* NONBLOCK: what lies there may be a FIFO */
        _cleanup_fd_ int fd = openat(dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        struct stat st;
        StatusPage page;
        int r;

        if (fd < 0)
                return STATUS_FILE_E_OTHER; /* what is really wrong, making one will say */
        if (fstat(fd, &st) < 0)
                return error_origin(-errno);
        /* Nobody but us can cut it short while we have it mapped, then. */
        if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & MODE_NO_WRITER) || st.st_nlink != 1 ||
            (uint64_t)st.st_size != status_page_size(n_dataflows, n_nodes))
                return STATUS_FILE_E_OTHER;
        r = map_file(&file, fd, n_dataflows, n_nodes);
        if (r)
                return error_fold(r);
        (void)TAKE_FD(fd);
        if (status_page_open(&page, file.header, (uint64_t)st.st_size) || page.n_dataflows != n_dataflows ||
            page.n_nodes != n_nodes)
                return STATUS_FILE_E_OTHER;
        *ret = file;
        file = STATUS_FILE_NULL;
        return 0;
}

static int let_in(int fd, uid_t reader)
{
        const struct acl acl = {.version = htole32(ACL_VERSION),
                .entry = {
                        {htole16(ACL_USER_OBJ), htole16(ACL_READ), ACL_UNDEFINED},
                        {htole16(ACL_USER), htole16(ACL_READ), htole32(reader)},
                        {htole16(ACL_GROUP_OBJ), 0, ACL_UNDEFINED},
                        {htole16(ACL_MASK), htole16(ACL_READ), ACL_UNDEFINED},
                        {htole16(ACL_OTHER), 0, ACL_UNDEFINED},
                }};

        if (fchmod(fd, reader == (uid_t)-1 ? 0644 : 0400) < 0)
                return error_origin(-errno);
        if (reader == (uid_t)-1 || reader == geteuid())
                return 0;
        return fsetxattr(fd, ACL_XATTR, &acl, sizeof(acl), 0) < 0 ? STATUS_FILE_E_ACCESS : 0;
}

int status_file_make(StatusFile *ret, int dir_fd, const char *name, uint32_t n_dataflows, uint32_t n_nodes,
        const struct status_info *info, uid_t reader)
{
        _cleanup_(status_file_done) StatusFile file = STATUS_FILE_NULL;
        uint64_t size = status_page_size(n_dataflows, n_nodes);
        char temporary[64];
        int fd, r, access = 0;

        if (size == 0)
                return error_origin(-EINVAL);
        (void)snprintf(temporary, sizeof(temporary), ".%s.new", name);
        (void)unlinkat(dir_fd, temporary, 0); /* of a predecessor that died here */
        fd = openat(dir_fd, temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return error_origin(-errno);
        file.fd = fd;
        r = ftruncate(fd, (off_t)size) < 0 ? -errno : 0;
        if (!r)
                r = map_file(&file, fd, n_dataflows, n_nodes);
        if (!r)
                r = status_file_reserve(&file, file.header, sizeof(*file.header));
        if (!r) {
                status_page_init(file.header, n_dataflows, n_nodes);
                status_slot_write(&file.header->info.seq, file.header->info.copy, info, sizeof(*info));
                r = access = let_in(fd, reader);
                if (r >= 0)
                        r = renameat(dir_fd, temporary, dir_fd, name) < 0 ? -errno : 0;
        }
        if (r) {
                (void)unlinkat(dir_fd, temporary, 0);
                return error_origin(r);
        }
        *ret = file;
        file = STATUS_FILE_NULL;
        return access;
}

int status_file_reserve(StatusFile *file, const void *slot, size_t size)
{
        static const char zeros[sizeof(struct status_page_header)];
        off_t at = (const char *)slot - (const char *)file->header;
        ssize_t n = pwrite(file->fd, zeros, size, at); /* never used: zeros is what it holds. fallocate() is not everywhere */

        if (n < 0)
                return error_origin(-errno);
        return (size_t)n == size ? 0 : error_origin(-ENOSPC);
}
