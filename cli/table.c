/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/table.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/commands.h"
#include "cli/load.h"
#include "cli/session.h"

/*
 * These are linked in only when their libraries were found (cli/meson.build). A weak reference that nothing defines is
 * NULL, and the table then says what the build lacked: no list of features has to be kept in step by hand.
 */
#pragma weak cmd_run
#pragma weak cmd_start
#pragma weak cmd_validate
#pragma weak cmd_graph

#define ENFORCER_HELP \
        "  --enforcer E         what nodes are ended with: cgroup, cgroup+pidns, pidns, pid1, subreaper;\n" \
        "                       default: cgroup, and without one the next of these that works here\n"

const Command cli_commands[] = {
        {
                .name = "run",
                .synopsis = "FILE [--stop-after D] [--grace-duration D] [--name N] [--json]",
                .summary = "run a dataflow in the foreground, from start to bounded stop",
                .details = "Needs no daemon and no fixed port; any number run side by side. Root has cgroups to end\n"
                           "nodes with, and an ordinary user within a cgroup that is delegated to that user, as\n"
                           "`systemd-run --user --scope -p Delegate=yes tidegate run FILE` does; `tidegate doctor`\n"
                           "says whether it is. Elsewhere PID namespaces do, or the process table. Ctrl-C once stops\n"
                           "gracefully, twice stops now, three times aborts;\n"
                           "each ends in bounded time. The exit status says whether the dataflow succeeded.\n"
                           "\n"
                           "  --stop-after D       stop after this time (as if Ctrl-C was pressed): 500ms, 2s, 1m\n"
                           "  --grace-duration D   time nodes get to end by themselves, default 10s; the whole stop\n"
                           "                       takes at most 1.5 times as long, and 2 s to kill what is left\n"
                           "  --name N             name of the dataflow, default the file's\n"
                           "  --env K=V            set a variable for every node (a node's own env wins); may be repeated\n"
                           "  --allow-shell-nodes  accept nodes with `path: shell`\n"
                           "  --cgroup-root DIR    make the cgroups below DIR instead of where `doctor` says\n"
                           ENFORCER_HELP
                           "  --allow-unenforced-limits  go on where this host cannot enforce a limit that FILE asks for\n"
                           "  --json               one JSON object per event on stdout\n",
                .main = cmd_run,
        },
        {
                .name = "up",
                .synopsis = "[--cgroup-root DIR] [--enforcer E] [--watchdog D] [--json]",
                .summary = "start the daemon in the background, unless it runs",
                .details = "Returns once its supervisor answers, 10 s at most (--timeout D). The daemon's own log is\n"
                           "tidegated.log in the runtime directory.\n"
                           "\n"
                           "  --cgroup-root DIR    make the cgroups below DIR instead of where `doctor` says\n"
                           ENFORCER_HELP
                           "  --watchdog D         a supervisor whose loop stands still for so long is replaced\n"
                           "  --json               whether it was started, and its health\n" SESSION_RUNTIME_HELP,
                .main = cmd_up,
        },
        {
                .name = "down",
                .synopsis = "[--force] [--grace-duration D] [--json]",
                .summary = "stop every dataflow and end the daemon",
                .details = "Ends by a deadline known beforehand, also when the supervisor does not answer: then the\n"
                           "processes are ended from here, through the cgroups that its status page names.\n"
                           "\n"
                           "  --force              begin with SIGKILL\n"
                           "  --grace-duration D   time nodes get to end by themselves, default each dataflow's own\n"
                           "  --json               one JSON object per event\n" SESSION_TIMEOUT_HELP SESSION_OPTIONS_HELP,
                .main = cmd_down,
        },
        {
                .name = "start",
                .synopsis = "FILE [--attach | --detach] [--name N] [--replace] [--grace-duration D]",
                .summary = "hand a dataflow to the daemon",
                .details = "Attached it shows lines and events until the dataflow ends, and Ctrl-C stops it: once\n"
                           "gracefully, twice now, a third time only the command leaves. Detached it returns once the\n"
                           "dataflow runs. The default is attached on a terminal.\n"
                           "\n"
                           "  --attach, --detach   stay with it, or not\n"
                           "  --replace            stop a running dataflow of that name first\n"
                           "  --despite-leftover   also while somebody of an earlier one of that name would not die\n"
                           "  --grace-duration D   of its stops: time nodes get to end by themselves, default 10s\n"
                           "  --log-dir DIR        write the nodes' log files to DIR/<uuid>, default out/ beside FILE\n"
                           "  --no-logs            write none\n"
                           "  --allow-unenforced-limits  go on where this host cannot enforce a limit that FILE asks for;\n"
                           "                       `status` then says which\n"
                           "  --json               one JSON object per event\n" LOAD_OPTIONS_HELP SESSION_TIMEOUT_HELP SESSION_OPTIONS_HELP,
                .main = cmd_start,
        },
        {
                .name = "stop",
                .synopsis = "[NAME ... | --all] [--force] [--grace-duration D] [--json]",
                .summary = "stop dataflows by a deadline known beforehand, and show how",
                .details = "NAME is a name, a uuid or its beginning; without one, the only dataflow that runs. Shows the\n"
                           "ladder as it is climbed and prints its ledger. Ctrl-C leaves; the stop goes on. When the\n"
                           "supervisor does not answer the processes are ended from here, through their cgroup.\n"
                           "\n"
                           "  --all                all that run\n"
                           "  --force              begin with SIGKILL\n"
                           "  --grace-duration D   time nodes get to end by themselves; SIGTERM follows, after half as\n"
                           "                       much again SIGKILL; default as given when it was started\n"
                           "  --json               one JSON object per event, then the results\n" SESSION_TIMEOUT_HELP SESSION_OPTIONS_HELP,
                .main = cmd_stop,
        },
        {
                .name = "restart",
                .synopsis = "NAME [--force] [--despite-leftover] [--grace-duration D] [--json]",
                .summary = "stop a dataflow and start the same plan again",
                .details = "The new one begins when nobody of the old one is left, and has a uuid of its own.\n"
                           "\n"
                           "  --force              begin the stop with SIGKILL\n"
                           "  --despite-leftover   begin the new one although somebody of an old one would not die\n"
                           "  --grace-duration D   time nodes get to end by themselves\n"
                           "  --json               one JSON object per event\n" SESSION_TIMEOUT_HELP SESSION_OPTIONS_HELP,
                .main = cmd_restart,
        },
        {
                .name = "list",
                .synopsis = "[--status S] [--name PAT] [--sort-by KEY] [-q] [--json]",
                .summary = "the dataflows, one a line",
                .details = "CPU is of one processor, over the dataflow's life. Without an answer the supervisor's status\n"
                           "page is shown, and it is said so (exit status 5).\n"
                           "\n"
                           "  --status S           only running, finished or failed ones\n"
                           "  --name PAT           only those whose name has PAT in it, or matches it (*, ?)\n"
                           "  --sort-by KEY        cpu or memory, most first\n"
                           "  -q, --quiet          uuids only\n"
                           "  --json               the dataflows as JSON\n" SESSION_TIMEOUT_HELP SESSION_OPTIONS_HELP,
                .main = cmd_list,
        },
        {
                .name = "ps",
                .synopsis = "[--status S] [--name PAT] [--sort-by KEY] [-q] [--json]",
                .summary = "the same as list",
                .details = "CPU is of one processor, over the dataflow's life. Without an answer the supervisor's status\n"
                           "page is shown, and it is said so (exit status 5).\n"
                           "\n"
                           "  --status S           only running, finished or failed ones\n"
                           "  --name PAT           only those whose name has PAT in it, or matches it (*, ?)\n"
                           "  --sort-by KEY        cpu or memory, most first\n"
                           "  -q, --quiet          uuids only\n"
                           "  --json               the dataflows as JSON\n" SESSION_TIMEOUT_HELP SESSION_OPTIONS_HELP,
                .main = cmd_list,
        },
        {
                .name = "status",
                .synopsis = "[NAME | DATAFLOW:NODE ...] [--links] [--exit-code-on=WHAT] [--json]",
                .summary = "one line a node as supervisorctl has it; of one dataflow, all about it",
                .details = "`status NAME` adds the tree of its processes, memory and CPU, last exits and log lines. Exit\n"
                           "status 3 when one that is shown has failed, 4 for an unknown name. Without an answer the\n"
                           "supervisor's status page is shown, and it is said so (exit status 5).\n"
                           "\n"
                           "  --links              what became of the messages of each link, instead\n"
                           "  --exit-code-on=WHAT  any-not-running: 3 also for nodes that are stopped or about to start\n"
                           "  --json               dataflows, nodes and their processes\n" SESSION_TIMEOUT_HELP SESSION_OPTIONS_HELP,
                .main = cmd_status,
        },
        {
                .name = "node",
                .synopsis = "list | info NODE | stop NODE | restart NODE | signal NODE SIGNAL",
                .summary = "one node: look at it, stop, restart or signal it",
                .details = "NODE is DATAFLOW:NODE, or the node's id where only one dataflow has it. `stop` lets no restart\n"
                           "follow; `restart` starts also what has ended, whatever its policy. Both return when done.\n"
                           "\n"
                           "  -d, --dataflow NAME  of that dataflow\n"
                           "  -q, --quiet          list: names only\n"
                           "  --force              stop: begin with SIGKILL\n"
                           "  --despite-leftover   restart: also beside what would not die of the last incarnation\n"
                           "  --grace-duration D   stop, restart: time it gets to end by itself (also --grace)\n"
                           "  --all                signal: to all processes of the node, not only its first\n"
                           "  --json               the same as JSON\n" SESSION_TIMEOUT_HELP SESSION_OPTIONS_HELP,
                .main = cmd_node,
        },
        {
                .name = "pid",
                .synopsis = "[NAME | DATAFLOW:NODE | --guard] [--json]",
                .summary = "pid of the supervisor, the guard, a node or all nodes of a dataflow",
                .details = "0, and exit status 3, for what does not run.\n"
                           "\n"
                           "  --guard              of the guard\n"
                           "  --json               the same as JSON\n" SESSION_TIMEOUT_HELP SESSION_OPTIONS_HELP,
                .main = cmd_pid,
        },
        {
                .name = "tail",
                .synopsis = "NAME | DATAFLOW:NODE [-n LINES] [-f] [--json]",
                .summary = "the last lines that nodes printed",
                .details = "  -n, --lines LINES    so many, default 10\n"
                           "  -f, --follow         and what follows, until the dataflow ends\n"
                           "  --json               records of the log files, one a line\n" SESSION_TIMEOUT_HELP SESSION_OPTIONS_HELP,
                .main = cmd_tail,
        },
        {
                .name = "logs",
                .synopsis = "[NAME] [-n NODE] [-f] [--tail N] [--since T] [--level L] [--grep TEXT]",
                .summary = "what nodes printed, from their log files, by time",
                .details = "Read with your own rights, in this order: read, time, level and text, tail, shown. T is a span\n"
                           "back from now (30, 30s, 5m, 1h, 2d) or a date (2026-01-31T12:00:00, with Z for UTC).\n"
                           "\n"
                           "  -n, --node NODE      of that node; may be repeated\n"
                           "  --tail N             the last N of what passes\n"
                           "  -f, --follow         and what follows, until the dataflow ends\n"
                           "  --since T, --until T from and to that time\n"
                           "  --level L            so severe or more: stdout, trace, debug, info, warn (stderr), error\n"
                           "  --grep TEXT          with TEXT in message, node or target, in any case\n"
                           "  --log-dir DIR        read DIR; needs no daemon\n"
                           "  --json               records of the log files, one a line\n" SESSION_TIMEOUT_HELP SESSION_OPTIONS_HELP,
                .main = cmd_logs,
        },
        {
                .name = "top",
                .synopsis = "[DATAFLOW ...] [--once [--json]] [--interval D]",
                .summary = "nodes and links as they are now, again and again",
                .details = "State, CPU, memory, pressure and restarts of each node; rate, depth of the queue, drops and age\n"
                           "of the oldest message of each link. Key `h` has the keys, `q` leaves. Nodes are also shown when\n"
                           "the supervisor does not answer, or is gone; what is not known is `-`.\n"
                           "\n"
                           "  --once               print one picture, after one interval, so that it has rates; exit status 5\n"
                           "                       when the supervisor does not answer\n"
                           "  --interval D         between two looks, 100ms to 1h, default 1s\n"
                           "  --timeout D          how long a supervisor that says nothing is waited for, default 2s\n"
                           "  --json               with --once: the same as JSON\n" SESSION_OPTIONS_HELP,
                .main = cmd_top,
        },
        {
                .name = "probe",
                .synopsis = "[DATAFLOW | [DATAFLOW:]NODE] [--for D] [--budget P] [--report FILE] [--json]",
                .summary = "which system calls nodes make, and how messages wait, counted by the kernel",
                .details = "Counted by the kernel, of nodes in any language, while the command runs (docs/probes.md).\n"
                           "Each call of a node that is watched takes a little longer then, and each of anybody\n"
                           "else's a very little; how much is measured and shown. Where that cannot be had, and of\n"
                           "daemons that are not root's, threads are looked at ten times a second instead. Of links:\n"
                           "how many messages wait, and for how long (docs/queue-probes.md).\n"
                           "Without a name the only dataflow that runs. Ctrl-C ends early and shows what there is.\n"
                           "\n"
                           "  --for D              how long, default 10s\n"
                           "  --budget P           percent of a CPU that counting may take, default 3; beyond it for\n"
                           "                       3 s in a row it ends\n"
                           "  --report FILE        write a page with plots, too: HTML with everything in it\n"
                           "  --all                every call of each node, not only the 12 that took longest in all\n"
                           "  --json               what was counted, as one object\n" SESSION_TIMEOUT_HELP SESSION_OPTIONS_HELP,
                .main = cmd_probe,
        },
        {
                .name = "events",
                .synopsis = "[NAME] [--json]",
                .summary = "what happens from now on, until Ctrl-C",
                .details = "  --json               one JSON object a line\n" SESSION_OPTIONS_HELP,
                .main = cmd_events,
        },
        {
                .name = "wait",
                .synopsis = "NAME | DATAFLOW:NODE STATE [--timeout D] [--json]",
                .summary = "wait until a dataflow or a node is in a state",
                .details = "STATE of a dataflow: beginning, starting, running, stopping, ending, ended; of a node: pending,\n"
                           "starting, running, stopping, backoff, stopped, failed. Exit status 3 when the time is over, 1\n"
                           "when it can no longer get there.\n"
                           "\n"
                           "  --timeout D          how long, default 1m\n"
                           "  --json               the state as JSON\n" SESSION_OPTIONS_HELP,
                .main = cmd_wait,
        },
        {
                .name = "clean",
                .synopsis = "[NAME] [--json]",
                .summary = "forget dataflows that have ended",
                .details = "Those whose processes would not die stay.\n"
                           "\n"
                           "  --json               how many, as JSON\n" SESSION_TIMEOUT_HELP SESSION_OPTIONS_HELP,
                .main = cmd_clean,
        },
        {
                .name = "reset",
                .synopsis = "NAME [NODE] [--json]",
                .summary = "let failed nodes have their full number of restarts again",
                .details = "Starts those that should be running.\n"
                           "\n"
                           "  --json               how many, as JSON\n" SESSION_TIMEOUT_HELP SESSION_OPTIONS_HELP,
                .main = cmd_reset,
        },
        {
                .name = "set-limit",
                .synopsis = "NAME | DATAFLOW:NODE KEY=VALUE ... [--json]",
                .summary = "set limits of a node, or of a whole dataflow, while it runs",
                .details = "NAME is a dataflow's, or the id of a node that only one dataflow has. The kernel has them when\n"
                           "this returns, and every later life of the node gets them too. Keys and values are those of\n"
                           "`resources` in a descriptor; `max` takes a limit away:\n"
                           "\n"
                           "  memory_max=512M  memory_high=400M  memory_swap_max=0  pids_max=64\n"
                           "  cpu_max=1.5  cpu_weight=50  cpuset_cpus=0-3\n"
                           "  io_weight=50  io_max=\"/dev/sda rbps=10M wiops=100\"\n"
                           "\n"
                           "  --json               the limits that hold now\n" SESSION_TIMEOUT_HELP SESSION_OPTIONS_HELP,
                .main = cmd_set_limit,
        },
        {
                .name = "why",
                .synopsis = "DATAFLOW:NODE [--freeze] [--json]",
                .summary = "say why a node makes no progress, without its help",
                .details = "Looks twice at each of its threads, a tenth of a second apart: what it waits for, who could end\n"
                           "that and what they do, how much it ran, waited for a CPU, and was blocked. docs/why.md has the\n"
                           "causes, and what cannot be seen.\n"
                           "\n"
                           "  --freeze             have the node stand still while its memory is read\n"
                           "  --json               all of it as JSON\n" SESSION_TIMEOUT_HELP SESSION_OPTIONS_HELP,
                .main = cmd_why,
        },
        {
                .name = "freeze",
                .synopsis = "NAME | DATAFLOW:NODE [--json]",
                .summary = "have a node, or a whole dataflow, stand still until `thaw`",
                .details = "Returns once the kernel says that no process of it runs. Nobody is blamed meanwhile for being\n"
                           "late; a node that would start in a frozen dataflow waits. A stop thaws first, so that it can\n"
                           "be heard; one with --force does not.\n"
                           "\n"
                           "  --json               the same as JSON\n" SESSION_TIMEOUT_HELP SESSION_OPTIONS_HELP,
                .main = cmd_freeze,
        },
        {
                .name = "thaw",
                .synopsis = "NAME | DATAFLOW:NODE [--json]",
                .summary = "have it run again after `freeze`",
                .details = "  --json               the same as JSON\n" SESSION_TIMEOUT_HELP SESSION_OPTIONS_HELP,
                .main = cmd_thaw,
        },
        {
                .name = "topic",
                .synopsis = "list | echo|hz TOPIC... | info TOPIC | pub TOPIC TEXT [-d DATAFLOW] [--json]",
                .summary = "what the outputs of running dataflows send, without being waited for",
                .details = "A topic is NODE/OUTPUT, or DATAFLOW:NODE/OUTPUT. Messages are read out of shared memory that only\n"
                           "their sender can write: it costs the dataflow nothing, whether somebody looks or hangs. Needs\n"
                           "the daemon, and no option of the dataflow. What comes faster than it can be read passes.\n"
                           "\n"
                           "  list [DATAFLOW]      topics, messages so far, how many a second, and who reads them\n"
                           "  echo                 messages as they come, from now on: number, time, size, and text as\n"
                           "                       text, anything else in hex; metadata. Until Ctrl-C, or until no more\n"
                           "                       can come. A node that begins another life is followed\n"
                           "  hz                   how often they come: rate, intervals, and a plot of the window, painted\n"
                           "                       anew on a terminal, elsewhere a line a second\n"
                           "  info                 who sends and who reads, their queues, and what goes by in 5 s\n"
                           "  pub TOPIC TEXT       send messages, as a dynamic node whose place nobody has taken; what\n"
                           "                       the outputs of others send only they can write\n"
                           "\n"
                           "  -d, --dataflow NAME  of which dataflow the topics are\n"
                           "  -q, --quiet          list: names alone, at once\n"
                           "  --count N            echo: end after N messages; pub: send so many, default 1\n"
                           "  --for D              echo, hz, info: end after this time: 500ms, 10s, 1m\n"
                           "  --window D           hz: look at so much of the past, default 10s\n"
                           "  --last               echo: begin with the last message that was sent already\n"
                           "  --bytes N            echo: show so much of a payload; default 4096, on a terminal 256, in hex 64\n"
                           "  --file FILE          pub: what FILE holds, instead of TEXT; `-`: standard input\n"
                           "  --rate HZ            pub: so many a second, default 1\n"
                           "  --raw                echo: nothing but the bytes of payloads, one after the other\n"
                           "  --json               JSON: one object; of echo one a message, of hz one a second and topic\n" SESSION_TIMEOUT_HELP SESSION_OPTIONS_HELP,
                .main = cmd_topic,
        },
        {
                .name = "shell",
                .synopsis = "[--runtime-dir DIR]",
                .summary = "commands one after the other, with completion and history",
                .details = "Begins with `status`. `exit`, `quit`, Ctrl-D and Ctrl-C leave. The history is\n"
                           "~/.tidegate_history, or the file $TIDEGATE_HISTORY; empty: none is kept.\n"
                           "\n" SESSION_OPTIONS_HELP,
                .main = cmd_shell,
        },
        {
                .name = "validate",
                .synopsis = "FILE [--strict] [--json]",
                .summary = "check a descriptor, with line, column and a hint for each error",
                .details = "Starts nothing. Exit status 0 when the descriptor is valid, 1 when it is not.\n"
                           "\n"
                           "  --strict             warnings count as errors\n"
                           "  --json               the verdict, errors and warnings as JSON\n" LOAD_OPTIONS_HELP,
                .main = cmd_validate,
        },
        {
                .name = "graph",
                .synopsis = "FILE [--mermaid | --dot | --json]",
                .summary = "print a descriptor's graph as Mermaid or DOT text",
                .details = "  --mermaid            Mermaid flowchart (the default)\n"
                           "  --dot                Graphviz DOT\n"
                           "  --json               the plan itself\n" LOAD_OPTIONS_HELP,
                .main = cmd_graph,
        },
        {
                .name = "doctor",
                .synopsis = "[--runtime-dir DIR] [--json]",
                .summary = "what this kernel and host can promise, each feature tried, and how the daemon is",
                .details = "Tries every feature in a child process with a deadline and removes what it made. Exit\n"
                           "status 0 when `tidegate run` can keep its promises here, 1 when one is weaker: the last\n"
                           "lines say which, and why. Of the daemon it says what its status page shows, without asking\n"
                           "it: a stuck dataflow (amber), and a wedged supervisor (red, exit status 1), since when, and\n"
                           "what to do.\n"
                           "\n" SESSION_RUNTIME_HELP
                           "  --json               one JSON object: probes, backends, promises\n",
                .main = cmd_doctor,
        },
        {
                .name = "audit",
                .synopsis = "[--sweep [--force]] [--json]",
                .summary = "what is left on this host of instances that nobody holds any more",
                .details = "Needs no daemon. As root of all users, else of your own: cgroups, the processes in them, shared\n"
                           "memory, runtime directories and scopes whose owners are dead; whose they are, since when, and\n"
                           "what to do. What a living instance has is no stray. A process or a directory that hangs costs\n"
                           "a second and is named. Exit status 0 when there is nothing, 3 when there is something, 1 when\n"
                           "not everything could be looked at.\n"
                           "\n"
                           "  --sweep              remove what is provably dead: cgroups and runtime directories whose lock\n"
                           "                       can be had, with everybody in them; not a daemon's nodes, which wait\n"
                           "                       for the next `tidegate up`\n"
                           "  --force              with --sweep: those, too\n"
                           "  --cgroup-root DIR    tell and remove only what is below DIR\n"
                           "  --timeout D          for all looks together, default 20s\n"
                           "  --json               strays, what was removed and what could not be looked at\n" SESSION_RUNTIME_HELP,
                .main = cmd_audit,
        },
        {
                .name = "bench",
                .synopsis = "[latency|throughput|fanout|reclaim|spawn|stop|probe] [--report FILE] [--json]",
                .summary = "what messages cost here, beside what the machine takes for them alone",
                .details = "Runs dataflows of its own in a private instance, as `run` does, and measures Tidegate and the raw\n"
                           "mechanisms in the same processes, in turn. Judge the ratios: times are the machine's. Without a\n"
                           "name all of them, in some minutes. On a machine that does something else the figures mean little.\n"
                           "\n"
                           "  latency              one way, 0 B to 40 MiB, back to back and paced, on one CPU, on two, and\n"
                           "                       where the system puts them; beside spinning, a futex and a pipe. System\n"
                           "                       calls and page faults a message are counted\n"
                           "  throughput           messages a second, beside rings of slots and of descriptors\n"
                           "  fanout               deliveries a second to 1, 4 and 16 nodes, beside a broadcast ring\n"
                           "  reclaim              until a killed reader's messages are its producer's again\n"
                           "  spawn, stop          of a program and of a tree, beside clone3() and cgroup.kill; where we\n"
                           "                       may make cgroups\n"
                           "  probe                what each system call takes longer while calls are counted by the kernel; as\n"
                           "                       root, with BPF\n"
                           "\n"
                           "  --quick              a second or two each: to see that it works\n"
                           "  --urgent             nodes at the highest niceness (root): where something else runs\n"
                           "  --rounds N           how often each is measured, default 7; a ratio is the median\n"
                           "  --size LIST          payloads, as 64,4K,40M\n"
                           "  --place LIST         same, other, default: where the nodes are\n"
                           "  --report FILE        write one HTML file with plots and every row\n"
                           "  --json               everything as one JSON object\n",
                .main = cmd_bench,
        },
        {
                .name = "version",
                .synopsis = "[--json]",
                .summary = "version, compiler, libraries and kernel",
                .details = "  --json               the same as a JSON object\n",
                .main = cmd_version,
        },
        {
                .name = "help",
                .synopsis = "[COMMAND]",
                .summary = "this list, or the help of one command",
                .details = "`tidegate COMMAND --help` prints the same.\n",
                .main = cmd_help,
        },
};
const size_t n_cli_commands = ELEMENTSOF(cli_commands);

const Command *command_find(const char *name)
{
        for (size_t i = 0; i < n_cli_commands; i++)
                if (strcmp(cli_commands[i].name, name) == 0)
                        return &cli_commands[i];
        return NULL;
}

/* Edit distance with neighbouring letters swapped counting once (`rnu`); names longer than any command are far. */
static unsigned distance(const char *a, const char *b)
{
        enum { LONGEST = 24 };
        unsigned d[LONGEST + 1][LONGEST + 1];
        size_t n = strlen(a), m = strlen(b);

        if (n > LONGEST || m > LONGEST)
                return LONGEST;
        for (size_t i = 0; i <= n; i++) {
                for (size_t j = 0; j <= m; j++) {
                        unsigned best;

                        if (i == 0 || j == 0) {
                                d[i][j] = (unsigned)(i + j);
                                continue;
                        }
                        best = MIN(d[i - 1][j] + 1, d[i][j - 1] + 1);
                        best = MIN(best, d[i - 1][j - 1] + (a[i - 1] != b[j - 1]));
                        if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                                best = MIN(best, d[i - 2][j - 2] + 1);
                        d[i][j] = best;
                }
        }
        return d[n][m];
}

const Command *command_nearest(const char *name)
{
        const Command *nearest = NULL;
        unsigned best = 0;

        for (size_t i = 0; i < n_cli_commands; i++) {
                const char *known = cli_commands[i].name;
                unsigned d = distance(name, known);

                /* A beginning of at least two letters is meant ("val"); else at most a third of it may be wrong. */
                if (strlen(name) >= 2 && strncmp(name, known, strlen(name)) == 0)
                        d = 0;
                else if (d > MAX(strlen(known) / 3, (size_t)1))
                        continue;
                if (!nearest || d < best) {
                        nearest = &cli_commands[i];
                        best = d;
                }
        }
        return nearest;
}

const char *command_absence(const Command *command)
{
        /* All of them parse descriptors; with libfyaml there, a part of the tree itself is missing. */
        return FYAML_VERSION[0] ? "" : ": it was made without libfyaml";
}

void command_print_help(const Command *command)
{
        printf("usage: tidegate %s %s\n\n%c%s.\n", command->name, command->synopsis,
                toupper((unsigned char)command->summary[0]), command->summary + 1);
        if (!command->main)
                printf("This build has no `%s`%s.\n", command->name, command_absence(command));
        if (command->details[0])
                printf("\n%s", command->details);
}

int usage_error(const char *command, const char *format, ...)
{
        const Command *known = command ? command_find(command) : NULL;
        va_list ap;

        fprintf(stderr, "tidegate%s%s: ", command ? " " : "", command ? command : "");
        va_start(ap, format);
        vfprintf(stderr, format, ap);
        va_end(ap);
        if (known)
                fprintf(stderr, "\nusage: tidegate %s %s\n", known->name, known->synopsis);
        else
                fputs("\n`tidegate help` lists the commands\n", stderr);
        return CLI_USAGE;
}
