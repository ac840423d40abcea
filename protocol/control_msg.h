/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket: Varlink framing (one JSON object, one NUL byte), interface dev.tidegate.Supervisor. A private instance
 * has two connections made before it starts, so that an order need not wait behind the stream of the run.
 *
 * Method Run (more: true). Parameters: plan (docs/plan.md), grace_ns, budget_ns, umask, log_dir (absolute, or absent). Replies:
 *   {"continues": true, "parameters": {"event": {...}}}, the first of them with the log stream's descriptor (SCM_RIGHTS,
 *   protocol/log_msg.h) and event type "accepted"; at last {"parameters": {"result": {...}}}.
 * Method Stop. Parameters: grace_ns (absent: the run's own), force (absent: false). Reply {"parameters": {}} once ordered.
 *
 * Events: {"type": "accepted" (uuid) | "dataflow" (state) | "node" (node, from, to, event, generation, pid, error) | "note" (node, text) |
 * "ledger" (at_ms, rung, node, result, count) | "error" (text) | "dropped" (count)}.
 *
 * Errors: InvalidPlan (text), Busy (text), and Varlink's own MethodNotFound and InvalidParameter.
 */
#ifndef TG_PROTOCOL_CONTROL_MSG_H
#define TG_PROTOCOL_CONTROL_MSG_H

#define CONTROL_INTERFACE   "dev.tidegate.Supervisor"
#define CONTROL_RUN         CONTROL_INTERFACE ".Run"
#define CONTROL_STOP        CONTROL_INTERFACE ".Stop"
#define CONTROL_E_PLAN      CONTROL_INTERFACE ".InvalidPlan"
#define CONTROL_E_BUSY      CONTROL_INTERFACE ".Busy"
#define CONTROL_E_METHOD    "org.varlink.service.MethodNotFound"
#define CONTROL_E_PARAMETER "org.varlink.service.InvalidParameter"

#define CONTROL_FRAME_MAX (1u << 20) /* bytes of one frame, the NUL included */

#endif
