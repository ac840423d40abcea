/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/load.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/error.h"

int load_option(LoadOptions *options, int option, char *value)
{
        DescriptorOptions *d = &options->descriptor;
        const char **env;

        switch (option) {
        case 'N':
                d->name = value;
                return 0;
        case 'S':
                d->allow_shell_nodes = true;
                return 0;
        case 'E':
                env = reallocarray(options->env, d->n_env + 1, sizeof(*env));
                if (!env)
                        return error_origin(-ENOMEM);
                env[d->n_env++] = value;
                options->env = env;
                d->env = env;
                return 0;
        default:
                return 1;
        }
}

void load_options_done(LoadOptions *options)
{
        free(options->env);
        *options = (LoadOptions)LOAD_OPTIONS_INIT;
}

unsigned cpus_here(void)
{
        long n = sysconf(_SC_NPROCESSORS_CONF);

        return n > 0 ? (unsigned)n : 0;
}

void print_diagnostics(FILE *f, const Diagnostics *diags, bool warnings)
{
        _cleanup_free_ char *text = NULL;

        if (diagnostics_render(diags, color_wanted(f), warnings, &text) != 0)
                text = NULL;
        fputs(text ? text : "out of memory\n", f);
}
