/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/last-resort.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

/* No supervisor writes a page yet, so there is none to be read: what is found under its name is not trusted. */
int last_resort_page(const char *runtime_dir, LastResortPage *ret, const char **ret_why)
{
        char path[PATH_MAX + 16];

        (void)snprintf(path, sizeof(path), "%s/status", runtime_dir);
        *ret = (LastResortPage){};
        *ret_why = access(path, F_OK) == 0 ? "this version cannot read status pages" : "there is none";
        return access(path, F_OK) == 0 ? -ENOTSUP : -ENOENT;
}
