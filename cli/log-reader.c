/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/log-reader.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/utf8.h"

#define READ_SIZE 65536u
#define LINE_MAX_ (1u << 20) /* longer than what any logger of ours writes */
#define FILES_MAX 4096

/* ---- time */

uint64_t log_time_parse(const char *text)
{
        struct tm tm = {.tm_isdst = -1};
        const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
        uint64_t ns = 0, unit = 100000000;
        time_t seconds;

        if (!end)
                end = strptime(text, "%Y-%m-%d %H:%M:%S", &tm);
        if (!end)
                return 0;
        if (*end == '.')
                for (end++; *end >= '0' && *end <= '9'; end++, unit /= 10)
                        ns += unit * (uint64_t)(*end - '0');
        if (strcmp(end, "Z") == 0)
                seconds = timegm(&tm);
        else if (*end == '\0')
                seconds = mktime(&tm);
        else
                return 0;
        return seconds > 0 ? (uint64_t)seconds * NSEC_PER_SEC + ns : 0;
}

/* ---- files */

static void file_done(LogFile *file)
{
        file->fd = fd_close(file->fd);
        free(file->data);
        json_decref(file->next);
}

static bool is_asked_for(const LogReader *reader, const char *node)
{
        for (size_t i = 0; i < reader->n_nodes; i++)
                if (strcmp(reader->nodes[i], node) == 0)
                        return true;
        return reader->n_nodes == 0;
}

static void file_open(LogReader *reader, const char *name, const char *node)
{
        _cleanup_fd_ int fd = openat(reader->dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        LogFile *grown;
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
                reader->error = fd < 0 ? errno : EINVAL;
                (void)snprintf(reader->error_file, sizeof(reader->error_file), "%s", name);
                return;
        }
        grown = reallocarray(reader->files, reader->n_files + 1, sizeof(*grown));
        if (!grown)
                return;
        reader->files = grown;
        grown[reader->n_files] = (LogFile){.fd = TAKE_FD(fd)};
        (void)snprintf(grown[reader->n_files].node, sizeof(grown[0].node), "%s", node);
        reader->n_files++;
}

/* log_<node>.jsonl */
static bool node_of(const char *name, char *ret, size_t size)
{
        size_t n = strlen(name);

        if (n < sizeof("log_x.jsonl") - 1 || strncmp(name, "log_", 4) != 0 || strcmp(name + n - 6, ".jsonl") != 0 ||
                n - 10 >= size)
                return false;
        memcpy(ret, name + 4, n - 10);
        ret[n - 10] = '\0';
        return true;
}

static bool is_open(const LogReader *reader, const char *node)
{
        for (size_t i = 0; i < reader->n_files; i++)
                if (strcmp(reader->files[i].node, node) == 0)
                        return true;
        return false;
}

void log_reader_look(LogReader *reader)
{
        int copy = openat(reader->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = copy < 0 ? NULL : fdopendir(copy);
        const struct dirent *entry;
        char node[136];

        while (dir && reader->n_files < FILES_MAX && (entry = readdir(dir)))
                if (node_of(entry->d_name, node, sizeof(node)) && is_asked_for(reader, node) && !is_open(reader, node))
                        file_open(reader, entry->d_name, node);
        if (dir)
                (void)closedir(dir);
        else
                (void)fd_close(copy);
}

int log_reader_open(LogReader *ret, const char *dir, const char *const *nodes, size_t n_nodes)
{
        *ret = (LogReader){.dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), .nodes = nodes, .n_nodes = n_nodes};
        if (ret->dir_fd < 0)
                return -errno;
        log_reader_look(ret);
        return 0;
}

void log_reader_done(LogReader *reader)
{
        for (size_t i = 0; i < reader->n_files; i++)
                file_done(&reader->files[i]);
        free(reader->files);
        (void)fd_close(reader->dir_fd);
        *reader = LOG_READER_NULL;
}

/* Backwards block by block. The last newline ends the last line, so the one that is n before it begins the n-th line from the
 * end. */
static void file_skip(LogFile *file, size_t n)
{
        char block[READ_SIZE];
        struct stat st;
        uint64_t at;
        size_t seen = 0;

        file->offset = 0;
        if (fstat(file->fd, &st) < 0)
                return;
        at = (uint64_t)st.st_size;
        while (at > 0) {
                size_t size = MIN(at, (uint64_t)sizeof(block));

                if (pread(file->fd, block, size, (off_t)(at - size)) != (ssize_t)size)
                        return;
                for (size_t i = size; i > 0; i--) {
                        if (block[i - 1] == '\n' && ++seen == n + 1) {
                                file->offset = at - size + i;
                                return;
                        }
                }
                at -= size;
        }
}

void log_reader_skip(LogReader *reader, size_t n_lines)
{
        for (size_t i = 0; i < reader->n_files; i++)
                file_skip(&reader->files[i], n_lines);
}

/* ---- lines */

static json_t *make_record(LogFile *file, const char *line, size_t size)
{
        json_t *record = json_loadb(line, size, 0, NULL);
        const char *timestamp = json_string_value(json_object_get(record, "timestamp"));
        _cleanup_free_ char *clean = NULL;
        uint64_t ns = timestamp ? log_time_parse(timestamp) : 0;

        if (json_is_object(record)) {
                file->next_ns = ns ? ns : file->next_ns;
                (void)json_object_set_new(record, "node_id", json_string(file->node)); /* the file's name is what we know */
                return record;
        }
        json_decref(record);
        clean = utf8_clean(line, size, NULL);
        return clean ? json_pack("{ss ss ss}", "level", "stdout", "node_id", file->node, "message", clean) : NULL;
}

/* Return: false when the file has no more now. */
static bool file_fill(LogFile *file)
{
        struct stat st;
        ssize_t n;

        if (file->begin > 0) {
                memmove(file->data, file->data + file->begin, file->end - file->begin);
                file->end -= file->begin;
                file->begin = 0;
        }
        if (file->end >= LINE_MAX_) { /* not one of ours: its rest is passed over */
                file->end = 0;
                file->cutting = true;
        }
        if (file->room - file->end < READ_SIZE) {
                char *grown = realloc(file->data, file->room + 2 * READ_SIZE);

                if (!grown)
                        return false;
                file->data = grown;
                file->room += 2 * READ_SIZE;
        }
        if (fstat(file->fd, &st) == 0 && (uint64_t)st.st_size < file->offset) /* begun afresh */
                file->offset = file->end = 0;
        n = pread(file->fd, file->data + file->end, READ_SIZE, (off_t)file->offset);
        if (n <= 0)
                return false;
        file->offset += (uint64_t)n;
        file->end += (size_t)n;
        return true;
}

static void file_advance(LogFile *file)
{
        while (!file->next) {
                char *begin = file->data + file->begin;
                char *end = file->end > file->begin ? memchr(begin, '\n', file->end - file->begin) : NULL;

                if (!end) {
                        if (!file_fill(file))
                                return;
                        continue;
                }
                if (!file->cutting && end > begin)
                        file->next = make_record(file, begin, (size_t)(end - begin));
                file->cutting = false;
                file->begin += (size_t)(end - begin) + 1;
        }
}

bool log_reader_next(LogReader *reader, json_t **ret, uint64_t *ret_ns)
{
        LogFile *oldest = NULL;

        for (size_t i = 0; i < reader->n_files; i++) {
                LogFile *file = &reader->files[i];

                file_advance(file);
                if (file->next && (!oldest || file->next_ns < oldest->next_ns))
                        oldest = file;
        }
        if (!oldest)
                return false;
        *ret = TAKE_PTR(oldest->next);
        *ret_ns = oldest->next_ns;
        return true;
}
