/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nodes with `detach: true`: they outlive their dataflow, so each becomes a dataflow of its own, NAME.NODE, when NAME is
 * started. Everything that holds for a dataflow then holds for it: its cgroup, journal, adoption, stop. Pure.
 */
#ifndef TG_SUPERVISOR_DETACH_H
#define TG_SUPERVISOR_DETACH_H

#include "supervisor/plan.h"

/* detach_plan() - the plan of the dataflow that node @index (with `detach`) of @plan becomes. 0, -EINVAL (@ret_why says what), -ENOMEM. */
int detach_plan(Plan **ret, const Plan *plan, size_t index, char *ret_why, size_t why_size);

/* detach_rest() - @plan without such nodes. 0, -EINVAL (there is no other node; @ret_why says so), -ENOMEM. */
int detach_rest(Plan **ret, const Plan *plan, char *ret_why, size_t why_size);

/* detach_is_same() - was @running, which a node became, made of what that node says in @wanted (by detach_plan()) too? */
bool detach_is_same(const Plan *running, const Plan *wanted);

#endif
