/* SPDX-License-Identifier: Apache-2.0 */
#include "base/blame.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/cleanup.h"

#define FLAG_EXITING 0x00000004u /* PF_EXITING of the kernel's */

static const char *const causes[_BLAME_CAUSE_MAX] = {
        [BLAME_UNKNOWN] = "unknown",
        [BLAME_EXITING] = "exiting",
        [BLAME_WAITING] = "waiting",
        [BLAME_SLEEPING] = "sleeping",
        [BLAME_INPUT] = "waiting-for-input",
        [BLAME_PIPE_EMPTY] = "pipe-empty",
        [BLAME_PEER_SILENT] = "peer-silent",
        [BLAME_CHILD] = "child",
        [BLAME_MUTEX] = "mutex",
        [BLAME_PEER_DEAD] = "peer-dead",
        [BLAME_CONNECT] = "connect",
        [BLAME_FIFO_OPEN] = "fifo-open",
        [BLAME_BACKPRESSURE] = "backpressure",
        [BLAME_PIPE_FULL] = "pipe-full",
        [BLAME_BUSY] = "busy",
        [BLAME_FILE_LOCK] = "file-lock",
        [BLAME_SIGNALS] = "signals",
        [BLAME_STARVED] = "starved",
        [BLAME_FILE_SYSTEM] = "file-system",
        [BLAME_PAGE_FAULT] = "page-fault",
        [BLAME_DEADLOCK] = "deadlock",
        [BLAME_MEMORY_HIGH] = "memory-high",
        [BLAME_THROTTLED] = "throttled",
        [BLAME_OOM] = "oom",
        [BLAME_STOPPED] = "stopped",
        [BLAME_TRACED] = "traced",
        [BLAME_FROZEN] = "frozen",
};

const char *blame_cause_to_string(BlameCause cause)
{
        return (unsigned)cause < _BLAME_CAUSE_MAX ? causes[cause] : "unknown";
}

bool blame_parse_call(const char *text, BlameCall *ret)
{
        BlameCall call = {};
        int n;

        n = sscanf(text, "%" SCNd32 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64, &call.number, &call.args[0],
                &call.args[1], &call.args[2], &call.args[3], &call.args[4], &call.args[5], &call.sp, &call.pc);
        if (n == 9) {
                call.known = true;
        } else if (n == 3 && call.number == -1) { /* "-1 sp pc": outside of any call, and not running */
                call = (BlameCall){.number = -1, .known = true, .sp = call.args[0], .pc = call.args[1]};
        } else {
                return false;
        }
        *ret = call;
        return true;
}

bool blame_parse_sched(const char *text, BlameSched *ret)
{
        BlameSched sched;

        if (sscanf(text, "%" SCNu64 " %" SCNu64, &sched.run, &sched.wait) != 2)
                return false;
        *ret = sched;
        return true;
}

bool blame_parse_stat(const char *text, BlameStat *ret)
{
        const char *p = strrchr(text, ')');
        BlameStat stat = {};
        uint32_t flags;

        /* state ppid pgrp session tty tpgid FLAGS, then 29 others, PROCESSOR rt_priority policy */
        if (!p || sscanf(p, ") %*c %" SCNd32 " %*d %*d %*d %*d %" SCNu32
                            " %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %*u %*u %*d %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*d"
                            " %" SCNd32 " %" SCNu32 " %" SCNu32, &stat.parent, &flags, &stat.processor, &stat.priority, &stat.policy) != 5)
                return false;
        stat.exiting = flags & FLAG_EXITING;
        *ret = stat;
        return true;
}

static bool hex_of(const char *text, const char *key, uint64_t *ret)
{
        const char *at = strstr(text, key);

        if (!at)
                return false;
        *ret = strtoull(at + strlen(key), NULL, 16);
        return true;
}

bool blame_parse_signals(const char *text, BlameSignals *ret)
{
        uint64_t own, shared;

        if (!hex_of(text, "\nSigPnd:", &own) || !hex_of(text, "\nShdPnd:", &shared) || !hex_of(text, "\nSigBlk:", &ret->blocked) ||
                !hex_of(text, "\nSigCgt:", &ret->caught))
                return false;
        ret->pending = own | shared;
        return true;
}

bool blame_parse_lock(const char *text, int32_t pid, BlameLock *ret)
{
        BlameLock holder = {};

        for (const char *line = text; line && *line; line = (line = strchr(line, '\n')) ? line + 1 : NULL) {
                const char *at = strchr(line, ':'), *end = strchr(line, '\n');
                int32_t owner;
                uint64_t inode;
                bool waits;
                char kind[12];

                if (!at || (end && at > end))
                        continue;
                at += 1 + strspn(at + 1, " "); /* of one who waits for one who waits it is deeper in */
                waits = strncmp(at, "->", 2) == 0;
                at += waits ? 2 : 0;
                if (sscanf(at, " %11s %*s %*s %" SCNd32 " %*x:%*x:%" SCNu64, kind, &owner, &inode) != 3)
                        continue;
                if (!waits) {
                        holder = (BlameLock){.holder = owner, .inode = inode};
                        memcpy(holder.kind, kind, sizeof(kind));
                } else if (owner == pid) {
                        *ret = holder;
                        return true;
                }
        }
        return false;
}

static void tcp_address(char *to, size_t size, const char *hex, unsigned port, bool v6)
{
        unsigned char bytes[16] = {};
        char text[INET6_ADDRSTRLEN] = "?";

        for (size_t word = 0; word < (v6 ? 4u : 1u); word++) {
                uint32_t value = 0;

                (void)sscanf(hex + 8 * word, "%8" SCNx32, &value);
                memcpy(bytes + 4 * word, &value, 4); /* in the kernel's order of bytes: printed as a word, so back as one */
        }
        (void)inet_ntop(v6 ? AF_INET6 : AF_INET, bytes, text, sizeof(text));
        (void)snprintf(to, size, v6 ? "[%s]:%u" : "%s:%u", text, port);
}

bool blame_parse_tcp(const char *line, bool v6, BlameTcp *ret)
{
        unsigned local_port, remote_port, state;
        char local[33], remote[33];
        uint64_t inode;

        if (sscanf(line, " %*d: %32[0-9A-Fa-f]:%4x %32[0-9A-Fa-f]:%4x %2x %*x:%*x %*x:%*x %*x %*u %*u %" SCNu64, local, &local_port, remote, &remote_port, &state, &inode) != 6 ||
                strlen(local) != (v6 ? 32 : 8) || strlen(remote) != strlen(local))
                return false;
        *ret = (BlameTcp){.state = state, .inode = inode};
        tcp_address(ret->local, sizeof(ret->local), local, local_port, v6);
        tcp_address(ret->remote, sizeof(ret->remote), remote, remote_port, v6);
        return true;
}

bool blame_parse_target(const char *target, const char *kind, uint64_t *ret_inode)
{
        size_t n = strlen(kind);
        char *end;

        if (strncmp(target, kind, n) != 0 || target[n] != ':' || target[n + 1] != '[')
                return false;
        *ret_inode = strtoull(target + n + 2, &end, 10);
        return *end == ']' && end[1] == '\0';
}

int32_t blame_parse_inner(const char *text)
{
        const char *line = strstr(text, "\nNSpid:"), *end = line ? strchr(line + 1, '\n') : NULL, *last;

        if (!end)
                return 0;
        for (last = end; last > line && last[-1] >= '0' && last[-1] <= '9'; last--)
                ;
        line += sizeof("\nNSpid:") - 1;
        line += strspn(line, " \t");
        return last > line ? (int32_t)strtol(last, NULL, 10) : 0;
}

bool blame_field(const char *text, const char *key, uint64_t *ret)
{
        size_t n = strlen(key);

        for (const char *line = text; line && *line; line = (line = strchr(line, '\n')) ? line + 1 : NULL) {
                const char *value = line + n;

                if (strncmp(line, key, n) != 0 || (*value != ' ' && *value != ':'))
                        continue;
                value += 1 + strspn(value + 1, " \t");
                if (*value < '0' || *value > '9')
                        return false;
                *ret = strtoull(value, NULL, 10);
                return true;
        }
        return false;
}

size_t blame_parse_epoll(const char *text, int *ret, size_t max)
{
        size_t n = 0;

        for (const char *at = strstr(text, "tfd:"); at && n < max; at = strstr(at + 4, "tfd:"))
                if (at == text || at[-1] == '\n')
                        ret[n++] = atoi(at + 4);
        return n;
}

const char *blame_address(const void *address, size_t size, char *buffer, size_t room)
{
        sa_family_t family = AF_UNSPEC;
        char text[INET6_ADDRSTRLEN] = "?";

        (void)snprintf(buffer, room, "?");
        if (size >= sizeof(family))
                memcpy(&family, address, sizeof(family));
        if (family == AF_UNIX && size > offsetof(struct sockaddr_un, sun_path)) {
                struct sockaddr_un unix_address = {};
                size_t n;

                memcpy(&unix_address, address, MIN(size, sizeof(unix_address)));
                n = MIN(size, sizeof(unix_address)) - offsetof(struct sockaddr_un, sun_path);
                if (unix_address.sun_path[0])
                        (void)snprintf(buffer, room, "%.*s", (int)n, unix_address.sun_path);
                else
                        (void)snprintf(buffer, room, "@%.*s", (int)n - 1, unix_address.sun_path + 1);
        } else if (family == AF_INET && size >= sizeof(struct sockaddr_in)) {
                struct sockaddr_in in;

                memcpy(&in, address, sizeof(in));
                (void)inet_ntop(AF_INET, &in.sin_addr, text, sizeof(text));
                (void)snprintf(buffer, room, "%s:%u", text, ntohs(in.sin_port));
        } else if (family == AF_INET6 && size >= sizeof(struct sockaddr_in6)) {
                struct sockaddr_in6 in6;

                memcpy(&in6, address, sizeof(in6));
                (void)inet_ntop(AF_INET6, &in6.sin6_addr, text, sizeof(text));
                (void)snprintf(buffer, room, "[%s]:%u", text, ntohs(in6.sin6_port));
        }
        for (char *p = buffer; *p; p++)
                if ((unsigned char)*p < ' ' || *p == 0x7f)
                        *p = '?';
        return buffer;
}

const char *blame_tcp_state(unsigned state)
{
        static const char *const names[] = {[TCP_ESTABLISHED] = "ESTABLISHED",
                [TCP_SYN_SENT] = "SYN_SENT",
                [TCP_SYN_RECV] = "SYN_RECV",
                [TCP_FIN_WAIT1] = "FIN_WAIT1",
                [TCP_FIN_WAIT2] = "FIN_WAIT2",
                [TCP_TIME_WAIT] = "TIME_WAIT",
                [TCP_CLOSE] = "CLOSE",
                [TCP_CLOSE_WAIT] = "CLOSE_WAIT",
                [TCP_LAST_ACK] = "LAST_ACK",
                [TCP_LISTEN] = "LISTEN",
                [TCP_CLOSING] = "CLOSING"};

        return state < ELEMENTSOF(names) && names[state] ? names[state] : "?";
}

/* ---- unix sockets */

static void take_attribute(BlameUnix *ret, const struct nlattr *attribute)
{
        const char *data = (const char *)attribute + NLA_HDRLEN;
        size_t n = attribute->nla_len - (size_t)NLA_HDRLEN;
        struct unix_diag_rqlen queue;
        uint32_t peer;

        if (attribute->nla_type == UNIX_DIAG_PEER && n >= sizeof(peer)) {
                memcpy(&peer, data, sizeof(peer));
                ret->peer = peer;
                ret->gone = peer == 0;
        } else if (attribute->nla_type == UNIX_DIAG_RQLEN && n >= sizeof(queue)) {
                memcpy(&queue, data, sizeof(queue));
                ret->n_in = queue.udiag_rqueue;
        } else if (attribute->nla_type == UNIX_DIAG_SHUTDOWN && n >= 1) {
                ret->dead = data[0] == 3;
        } else if (attribute->nla_type == UNIX_DIAG_NAME && n >= 1) {
                (void)snprintf(ret->name, sizeof(ret->name), data[0] ? "%.*s" : "@%.*s", (int)(data[0] ? n : n - 1), data[0] ? data : data + 1);
        }
}

bool blame_unix_peer(int diag_fd, uint64_t inode, BlameUnix *ret)
{
        struct {
                struct nlmsghdr header;
                struct unix_diag_req request;
        } ask = {.header = {.nlmsg_len = sizeof(ask), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST},
                .request = {.sdiag_family = AF_UNIX,
                        .udiag_states = UINT32_MAX,
                        .udiag_ino = (uint32_t)inode,
                        .udiag_show = UDIAG_SHOW_PEER | UDIAG_SHOW_NAME | UDIAG_SHOW_RQLEN,
                        .udiag_cookie = {UINT32_MAX, UINT32_MAX}}};
        union {
                struct nlmsghdr header;
                char bytes[4096];
        } reply;
        struct unix_diag_msg msg;
        size_t at, end;
        ssize_t n;

        if (send(diag_fd, &ask, sizeof(ask), 0) != (ssize_t)sizeof(ask))
                return false;
        n = recv(diag_fd, &reply, sizeof(reply), 0);
        if (n < (ssize_t)(NLMSG_HDRLEN + sizeof(msg)) || reply.header.nlmsg_type != SOCK_DIAG_BY_FAMILY || reply.header.nlmsg_len > (size_t)n)
                return false;
        memcpy(&msg, reply.bytes + NLMSG_HDRLEN, sizeof(msg));
        *ret = (BlameUnix){.type = msg.udiag_type, .state = msg.udiag_state};
        end = reply.header.nlmsg_len;
        for (at = NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(msg)); at + NLA_HDRLEN <= end;) {
                const struct nlattr *attribute = (const struct nlattr *)(const void *)(reply.bytes + at);

                if (attribute->nla_len < NLA_HDRLEN || attribute->nla_len > end - at)
                        break;
                take_attribute(ret, attribute);
                at += (size_t)NLA_ALIGN(attribute->nla_len);
        }
        return true;
}

static bool is_among(const struct nlattr *attribute, uint32_t inode)
{
        const char *data = (const char *)attribute + NLA_HDRLEN;
        uint32_t waits;

        for (size_t at = 0; at + sizeof(waits) <= attribute->nla_len - (size_t)NLA_HDRLEN; at += sizeof(waits)) {
                memcpy(&waits, data + at, sizeof(waits));
                if (waits == inode)
                        return true;
        }
        return false;
}

/* Of one message about a listening socket. */
static bool is_listener_of(const char *message, size_t size, uint32_t inode, uint64_t *ret)
{
        struct unix_diag_msg msg;

        if (size < sizeof(msg))
                return false;
        memcpy(&msg, message, sizeof(msg));
        for (size_t at = NLMSG_ALIGN(sizeof(msg)); at + NLA_HDRLEN <= size;) {
                const struct nlattr *attribute = (const struct nlattr *)(const void *)(message + at);

                if (attribute->nla_len < NLA_HDRLEN || attribute->nla_len > size - at)
                        return false;
                if (attribute->nla_type == UNIX_DIAG_ICONS && is_among(attribute, inode)) {
                        *ret = msg.udiag_ino;
                        return true;
                }
                at += (size_t)NLA_ALIGN(attribute->nla_len);
        }
        return false;
}

uint64_t blame_unix_listener(int diag_fd, uint64_t inode)
{
        struct {
                struct nlmsghdr header;
                struct unix_diag_req request;
        } ask = {.header = {.nlmsg_len = sizeof(ask), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
                .request = {.sdiag_family = AF_UNIX, .udiag_states = 1u << TCP_LISTEN, .udiag_show = UDIAG_SHOW_ICONS}};
        union {
                struct nlmsghdr header;
                char bytes[32768];
        } reply;
        uint64_t found = 0;
        ssize_t n;

        if (send(diag_fd, &ask, sizeof(ask), 0) != (ssize_t)sizeof(ask))
                return 0;
        while ((n = recv(diag_fd, &reply, sizeof(reply), 0)) > 0) {
                for (size_t at = 0; at + NLMSG_HDRLEN <= (size_t)n;) {
                        const struct nlmsghdr *header = (const struct nlmsghdr *)(const void *)(reply.bytes + at);

                        if (header->nlmsg_len < NLMSG_HDRLEN || header->nlmsg_len > (size_t)n - at || header->nlmsg_type != SOCK_DIAG_BY_FAMILY)
                                return found; /* the end of it, or that it is refused */
                        if (!found)
                                (void)is_listener_of(reply.bytes + at + NLMSG_HDRLEN, header->nlmsg_len - (size_t)NLMSG_HDRLEN, (uint32_t)inode, &found);
                        at += (size_t)NLMSG_ALIGN(header->nlmsg_len);
                }
        }
        return found;
}
