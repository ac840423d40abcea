/* SPDX-License-Identifier: Apache-2.0 */
#include "descriptor/program.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

bool program_is_python(const char *path)
{
        size_t n = strlen(path);

        return n > 3 && strcmp(path + n - 3, ".py") == 0;
}

static const char *join(Arena *arena, const char *dir, const char *path)
{
        while (strncmp(path, "./", 2) == 0) {
                path += 2;
                path += strspn(path, "/");
        }
        return arena_printf(arena, "%s%s%s", dir, dir[strlen(dir) - 1] == '/' ? "" : "/", path);
}

/* Something by that name that is not a directory. A link counts as it is: following it may lead anywhere. */
static bool entry_exists(const char *path, bool executable)
{
        struct stat st;

        if (fstatat(AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0)
                return false;
        if (S_ISLNK(st.st_mode))
                return true;
        return executable ? S_ISREG(st.st_mode) && (st.st_mode & 0111) : !S_ISDIR(st.st_mode);
}

/* Relative entries of $PATH are skipped: which program runs must not depend on where the command was typed. */
static const char *find_in_path(Arena *arena, const char *name)
{
        const char *list = getenv("PATH");
        size_t n;

        for (; list; list = list[n] == ':' ? list + n + 1 : NULL) {
                char path[PATH_MAX];

                n = strcspn(list, ":");
                if (list[0] != '/' || n + strlen(name) + 2 > sizeof(path))
                        continue;
                memcpy(path, list, n);
                path[n] = '/';
                strcpy(path + n + 1, name);
                if (entry_exists(path, true))
                        return arena_strndup(arena, path, strlen(path));
        }
        return name;
}

const char *program_find(Arena *arena, const char *path, const char *dir)
{
        const char *here, *found;
        struct stat st;

        if (path[0] == '/')
                return path;
        here = join(arena, dir, path);
        if (!here || strchr(path, '/'))
                return here;
        if (entry_exists(here, false))
                return here;
        found = find_in_path(arena, path);
        if (found != path)
                return found;
        /* Nowhere. A script, or a directory of that name, is named in full: the reason it cannot run will be
         * clearer. */
        if (program_is_python(path) || fstatat(AT_FDCWD, here, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) == 0)
                return here;
        return path;
}

const char *program_find_python(Arena *arena)
{
        const char *wanted = getenv("TIDEGATE_PYTHON");
        char cwd[PATH_MAX];

        if (!wanted || !*wanted)
                return find_in_path(arena, "python3");
        if (wanted[0] == '/')
                return wanted;
        if (strchr(wanted, '/') && getcwd(cwd, sizeof(cwd)))
                return join(arena, cwd, wanted);
        return find_in_path(arena, wanted);
}

bool path_stays_below(const char *path, const char *dir, const char *top)
{
        const char *rest = dir + strlen(top);
        size_t depth = 0;

        /* Parts of dir below top, then those of path; `..` takes one back. */
        for (int part = 0; part < 2; part++, rest = path) {
                while (*(rest += strspn(rest, "/"))) {
                        size_t n = strcspn(rest, "/");

                        if (n == 2 && memcmp(rest, "..", 2) == 0) {
                                if (depth == 0)
                                        return false;
                                depth--;
                        } else if (n != 1 || *rest != '.') {
                                depth++;
                        }
                        rest += n;
                }
        }
        return true;
}
