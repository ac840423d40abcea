/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plan: expanded leaves to the JSON of docs/plan.md: environments merged, args split, programs found. Inside the room
 * only.
 */
#ifndef TG_DESCRIPTOR_PLAN_H
#define TG_DESCRIPTOR_PLAN_H

#include <jansson.h>

#include "descriptor/descriptor.h"
#include "descriptor/expand.h"

/**
 * plan_build() - make the plan
 * @name:  of the dataflow
 * @file:  its absolute path
 * @env:   root environment with the command line's on top
 * @ret:   set on success, also when errors were reported; owned by the caller
 *
 * Stops early, with an error, when the plan grows beyond PLAN_BYTES_MAX. Return: 0 or -ENOMEM.
 */
int plan_build(const Expander *ex, const DescriptorOptions *options, const char *name, const char *file,
        const EnvList *env,
        json_t **ret);

#endif
