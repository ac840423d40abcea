/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Expand: modules become the nodes they stand for, and every name of a source is looked up.
 *
 * A Scope is one use of one file: the dataflow itself (no parent), or a module used by a node of another scope. A
 * Leaf is a node that runs. The id of a leaf is its path of ids joined by dots; links lead from leaf to leaf. Inside
 * the room only.
 */
#ifndef TG_DESCRIPTOR_EXPAND_H
#define TG_DESCRIPTOR_EXPAND_H

#include "descriptor/diagnostics.h"
#include "descriptor/model.h"

typedef struct Leaf Leaf;
typedef struct Scope Scope;

struct Scope {
        Scope *parent;        /* NULL: the dataflow */
        const NodeSpec *user; /* the node that uses the module, in the parent's file */
        const FileSpec *file;
        const char *prefix;   /* "a.b." or "" */
        const char *dir;      /* of the file, absolute */
        unsigned line;        /* in the dataflow's file, of the outermost user; 0 for the dataflow itself */
        EnvList params;       /* own and, after them, those of the scopes around */
        Leaf **leaves;        /* by index of file->nodes; NULL for a module's user */
        Scope **children;     /* by index of file->nodes; NULL for a leaf, or a module that could not be used */
        size_t *producers;    /* by index of file->outputs: the index in file->nodes; SIZE_MAX: unknown, reported */
};

typedef struct Link {
        const InputSpec *input;
        const Leaf *from; /* NULL: a timer */
        const char *output;
        uint64_t timer_ns;
        LinkOptions options;
} Link;

typedef struct After {
        const Leaf *leaf;
        Until until;
        Span span; /* of the name */
        unsigned line;
} After;

struct Leaf {
        const NodeSpec *spec;
        const Scope *scope;
        const char *id;
        unsigned line; /* in the dataflow's file */
        size_t index;  /* among all leaves */
        Link *links;
        size_t n_links;
        After *after; /* own, and of the nodes that use the modules around; sorted by id */
        size_t n_after;
};

typedef struct Expander {
        Arena *arena;
        Diagnostics *diags;
        const char *dir; /* of the dataflow, absolute: no module lies outside */
        bool allow_shell_nodes;

        Scope *root;
        Leaf **leaves;
        size_t n_leaves;
        Leaf **by_id;
        size_t n_scopes;
        struct LoadedFile *files;
        size_t n_files, file_bytes;
} Expander;

/**
 * expand() - expand a dataflow, resolve its links and its order
 * @ex:   with arena, diags, dir and allow_shell_nodes set; root and leaves are set
 * @file: the dataflow
 *
 * Reads module files. Errors are reported; the leaves are those that could be made.
 *
 * Return: 0 or -ENOMEM.
 */
int expand(Expander *ex, const FileSpec *file);

/* file_find_node() - the node of an id in one file, NULL when there is none. */
const NodeSpec *file_find_node(const FileSpec *file, const char *id);

/* expand_scope() - make a scope and, recursively, those of the modules it uses (expand.c). */
int expand_scope(Expander *ex, const FileSpec *file, Scope *parent, const NodeSpec *user, const char *dir,
        Scope **ret);

/* expander_find_leaf() - the leaf of an expanded id, NULL when there is none. */
const Leaf *expander_find_leaf(const Expander *ex, const char *id);

/* resolve_links() - look up every source of every leaf (resolve.c). */
int resolve_links(Expander *ex);

/* resolve_order() - look up every `after` of every leaf, and refuse what could never start (order.c). */
int resolve_order(Expander *ex);

/* warn_of_cycles() - of links that all wait for room (cycle.c). */
int warn_of_cycles(Expander *ex);

#endif
