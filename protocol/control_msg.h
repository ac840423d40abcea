/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket: Varlink framing (one JSON object, one NUL byte). A daemon serves the interfaces of
 * dev.tidegate.Supervisor.varlink and org.varlink.service.
 *
 * A private instance (`tidegate run`) has two connections made before it starts, so that an order need not wait behind the stream
 * of the run, and two methods of its own on them:
 *
 * Method Run (more: true). Parameters: plan (docs/plan.md), grace_ns, budget_ns, umask, log_dir (absolute, or absent), allow_unenforced_limits. Replies:
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

#define CONTROL_INTERFACE "dev.tidegate.Supervisor"
#define CONTROL_SERVICE   "org.varlink.service"
#define CONTROL_RUN       CONTROL_INTERFACE ".Run"
#define CONTROL_STOP      CONTROL_INTERFACE ".Stop"

#define CONTROL_E_PLAN         CONTROL_INTERFACE ".InvalidPlan"
#define CONTROL_E_BUSY         CONTROL_INTERFACE ".Busy"
#define CONTROL_E_LEFTOVER     CONTROL_INTERFACE ".Leftover"
#define CONTROL_E_NO_DATAFLOW  CONTROL_INTERFACE ".NoSuchDataflow"
#define CONTROL_E_NO_NODE      CONTROL_INTERFACE ".NoSuchNode"
#define CONTROL_E_NO_OUTPUT    CONTROL_INTERFACE ".NoSuchOutput"
#define CONTROL_E_AMBIGUOUS    CONTROL_INTERFACE ".Ambiguous"
#define CONTROL_E_NOT_RUNNING  CONTROL_INTERFACE ".NotRunning"
#define CONTROL_E_UNREACHABLE  CONTROL_INTERFACE ".NotReachable"
#define CONTROL_E_REFUSED      CONTROL_INTERFACE ".Refused"
#define CONTROL_E_TIMED_OUT    CONTROL_INTERFACE ".TimedOut"
#define CONTROL_E_QUOTA        CONTROL_INTERFACE ".QuotaExceeded"
#define CONTROL_E_SHUTTING     CONTROL_INTERFACE ".ShuttingDown"
#define CONTROL_E_NO_INTERFACE CONTROL_SERVICE ".InterfaceNotFound" /* interface */
#define CONTROL_E_METHOD       CONTROL_SERVICE ".MethodNotFound"    /* method */
#define CONTROL_E_PARAMETER    CONTROL_SERVICE ".InvalidParameter"  /* parameter */
#define CONTROL_E_MORE         CONTROL_SERVICE ".ExpectedMore"

#define CONTROL_FRAME_MAX (1u << 20) /* bytes of one call, the NUL included */

#endif
