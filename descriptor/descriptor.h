/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptor: a YAML dataflow in, a plan (docs/plan.md) out.
 *
 * Validates everything that can be known without running: grammar, types, ids, links, timers, environment, modules
 * (expanded here), and resolves programs to argv. Reports as many independent errors as it can find in one go.
 * Bounded: files of at most 1 MiB, depth, number of values, aliases, modules and the plan's size; hostile input costs
 * a message.
 *
 * Reads files and the caller's environment ($VAR, $PATH, $HOME, $TIDEGATE_PYTHON). Starts nothing and touches no
 * program: a name is looked for in directories, and the file found is not followed, opened or executed. Knows no
 * processes, no sockets.
 */
#ifndef TG_DESCRIPTOR_DESCRIPTOR_H
#define TG_DESCRIPTOR_DESCRIPTOR_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "descriptor/diagnostics.h"

/* What a probe found at a path. */
typedef enum ProgramState {
        PROGRAM_OK,
        PROGRAM_MISSING,
        PROGRAM_DIRECTORY,
        PROGRAM_NOT_EXECUTABLE,
        PROGRAM_SILENT, /* the file system did not answer in time */
} ProgramState;

typedef struct DescriptorOptions {
        const char *name;         /* of the dataflow; NULL: from the file's name */
        bool allow_shell_nodes;   /* `path: shell` runs its args through /bin/sh */
        const char *const *env;   /* "KEY=VALUE": laid over the root env; a node's own env still wins */
        size_t n_env;
        unsigned n_cpus;          /* that this machine has: higher numbers in cpu_affinity become a warning; 0: any */
        /* Asked for each program (or script: needs no execute bit) when set; what is not PROGRAM_OK becomes a
         * warning. The caller's, because looking at a file can block for ever and this room starts no processes. */
        ProgramState (*probe)(const char *path, bool is_script, void *userdata);
        void *userdata;
} DescriptorOptions;

#define DESCRIPTOR_OPTIONS_INIT {.name = NULL}

enum {
        DESCRIPTOR_E_INVALID = 1, /* @diags says why, in at least one error */
};

/**
 * descriptor_load() - read, validate and resolve a descriptor
 * @path:     the file; refused unless regular
 * @options:  NULL: none
 * @ret_plan: set on success; the caller owns the reference
 * @diags:    initialised by the caller; errors and warnings are added, sorted by place
 *
 * One thread at a time per @diags; reads the environment. Blocks as long as the file systems of @path, its modules
 * and the directories of $PATH do.
 *
 * Return: 0 (there may be warnings), DESCRIPTOR_E_INVALID, or -ENOMEM.
 */
int descriptor_load(const char *path, const DescriptorOptions *options, json_t **ret_plan, Diagnostics *diags);

/**
 * descriptor_parse() - the same for a text in memory
 * @file: the absolute path it stands for: programs and modules are looked for below its directory
 *
 * Return: as descriptor_load().
 */
int descriptor_parse(const void *data, size_t size, const char *file, const DescriptorOptions *options,
        json_t **ret_plan,
        Diagnostics *diags);

#endif
