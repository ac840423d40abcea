/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/status.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/list.h"
#include "base/procstat.h"
#include "supervisor/status-internal.h"

#define STATUS_NAME      "status"
#define STATUS_MAX_PAGES 64u /* users who have one at the same time; those of others are counted as not shown */

typedef struct Page { /* of one user */
        ListLink link;
        uid_t uid;
        StatusFile file;  /* fd -1: it could not be had; not tried again while this daemon lives */
        uint32_t dataflows_used, nodes_used;
        uint32_t dataflows_missing, nodes_missing; /* known, and not shown for want of room */
} Page;

typedef struct ShownNode {
        uint32_t slot; /* STATUS_NONE: not shown */
        bool known;    /* it was put, by us or by a predecessor */
        bool left;     /* by a predecessor, and not put since */
} ShownNode;

typedef struct Shown { /* a dataflow */
        ListLink link;
        Page *page;
        char uuid[40];
        uint32_t slot;
        uint64_t serial;
        bool left;
        ShownNode *nodes; /* by index; owned */
        uint32_t n_nodes; /* entries */
} Shown;

struct Status {
        int dir_fd;
        uint32_t n_dataflows, n_nodes;
        StatusFile own; /* `status` */
        struct status_info info;
        List pages, shown;
        unsigned n_pages;
        uint64_t last_serial;
        char trouble[256];
        bool told;
};

#define store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED) /* words of their own: nothing is published through them */

__attribute__((format(printf, 2, 3))) static void complain(Status *status, const char *format, ...)
{
        va_list ap;

        if (status->trouble[0] && !status->told)
                return; /* the first of them says most */
        va_start(ap, format);
        (void)vsnprintf(status->trouble, sizeof(status->trouble), format, ap);
        va_end(ap);
        status->told = false;
}

const char *status_trouble(Status *status)
{
        if (!status->trouble[0] || status->told)
                return NULL;
        status->told = true;
        return status->trouble;
}

static void text_put(char *to, size_t size, const char *text)
{
        (void)snprintf(to, size, "%s", text ? text : "");
}

/* A path that was cut short would be the path of something else. */
static void path_put(char *to, size_t size, const char *path)
{
        if (path && strlen(path) < size)
                text_put(to, size, path);
}

/* --- headers --- */

static void info_write(Status *status, StatusFile *file, uid_t uid)
{
        struct status_info info = status->info;

        if (!file->header)
                return;
        info.uid = uid;
        status_changes_begin(file->header);
        status_slot_write(&file->header->info.seq, file->header->info.copy, &info, sizeof(info));
        status_changes_end(file->header);
}

static void info_changed(Status *status)
{
        Page *page, *next;

        info_write(status, &status->own, geteuid());
        list_for_each(page, next, &status->pages, link)
                info_write(status, &page->file, page->uid);
}

static void counts_write(StatusFile *file, uint32_t n_dataflows, uint32_t n_nodes, uint32_t dataflows_missing,
        uint32_t nodes_missing)
{
        if (!file->header)
                return;
        store(&file->header->n_dataflows_shown, n_dataflows);
        store(&file->header->n_nodes_shown, n_nodes);
        store(&file->header->n_dataflows_not_shown, dataflows_missing);
        store(&file->header->n_nodes_not_shown, nodes_missing);
}

static void counts_changed(Status *status, Page *changed)
{
        uint32_t sum[4] = {0};
        Page *page, *next;

        counts_write(&changed->file, changed->dataflows_used, changed->nodes_used, changed->dataflows_missing,
                changed->nodes_missing);
        list_for_each(page, next, &status->pages, link) {
                sum[0] += page->dataflows_used;
                sum[1] += page->nodes_used;
                sum[2] += page->dataflows_missing;
                sum[3] += page->nodes_missing;
        }
        counts_write(&status->own, sum[0], sum[1], sum[2], sum[3]);
}

/* --- slots --- */

static const struct status_dataflow *dataflow_at(const Page *page, uint32_t slot)
{
        const struct status_dataflow_slot *s = &page->file.dataflows[slot];

        return &s->copy[s->seq & 1];
}

static const struct status_node *node_at(const Page *page, uint32_t slot)
{
        const struct status_node_slot *s = &page->file.nodes[slot];

        return &s->copy[s->seq & 1];
}

static void dataflow_write(Page *page, uint32_t slot, const struct status_dataflow *row)
{
        status_changes_begin(page->file.header);
        status_slot_write(&page->file.dataflows[slot].seq, page->file.dataflows[slot].copy, row, sizeof(*row));
        status_changes_end(page->file.header);
}

static void node_write(Page *page, uint32_t slot, const struct status_node *row)
{
        status_changes_begin(page->file.header);
        status_slot_write(&page->file.nodes[slot].seq, page->file.nodes[slot].copy, row, sizeof(*row));
        status_changes_end(page->file.header);
}

static uint32_t dataflow_slot_find(Status *status, Page *page)
{
        StatusFile *file = &page->file;
        uint32_t end, slot;
        int r;

        if (!file->header || page->dataflows_used == file->n_dataflows)
                return STATUS_NONE;
        end = MIN(file->header->dataflows_end, file->n_dataflows);
        for (slot = 0; slot < end; slot++)
                if (dataflow_at(page, slot)->serial == 0)
                        break;
        if (slot == end) {
                r = status_file_reserve(file, &file->dataflows[slot], sizeof(file->dataflows[slot]));
                if (r) {
                        complain(status, "no room for another dataflow in the status page of uid %u: %s", page->uid,
                                strerrordesc_np(-r));
                        return STATUS_NONE;
                }
                store(&file->header->dataflows_end, end + 1);
        }
        return slot;
}

static uint32_t node_slot_find(Status *status, Page *page)
{
        StatusFile *file = &page->file;
        uint32_t end, slot;
        int r;

        if (!file->header || page->nodes_used == file->n_nodes)
                return STATUS_NONE;
        end = MIN(file->header->nodes_end, file->n_nodes);
        slot = page->nodes_used == end ? end : 0; /* the usual case: no holes */
        for (; slot < end; slot++)
                if (node_at(page, slot)->serial == 0)
                        break;
        if (slot == end) {
                r = status_file_reserve(file, &file->nodes[slot], sizeof(file->nodes[slot]));
                if (r) {
                        complain(status, "no room for another node in the status page of uid %u: %s", page->uid,
                                strerrordesc_np(-r));
                        return STATUS_NONE;
                }
                store(&file->header->nodes_end, end + 1);
        }
        return slot;
}

/* --- what is shown --- */

static Shown *shown_find(Status *status, const char *uuid)
{
        Shown *shown, *next;

        list_for_each(shown, next, &status->shown, link)
                if (strcmp(shown->uuid, uuid) == 0)
                        return shown;
        return NULL;
}

static Shown *shown_new(Status *status, Page *page, const char *uuid)
{
        Shown *shown = calloc(1, sizeof(*shown));

        if (!shown) {
                complain(status, "no memory for a dataflow in the status page");
                return NULL;
        }
        shown->page = page;
        shown->slot = STATUS_NONE;
        text_put(shown->uuid, sizeof(shown->uuid), uuid);
        list_append(&status->shown, &shown->link);
        return shown;
}

static ShownNode *shown_node(Status *status, Shown *shown, uint32_t index)
{
        if (index >= STATUS_MAX_NODES)
                return NULL;
        if (index >= shown->n_nodes) {
                uint32_t n = MAX(index + 1, MIN(2 * shown->n_nodes, STATUS_MAX_NODES));
                ShownNode *nodes = reallocarray(shown->nodes, n, sizeof(*nodes));

                if (!nodes) {
                        complain(status, "no memory for a node in the status page");
                        return NULL;
                }
                for (uint32_t i = shown->n_nodes; i < n; i++)
                        nodes[i] = (ShownNode){.slot = STATUS_NONE};
                shown->nodes = nodes;
                shown->n_nodes = n;
        }
        return &shown->nodes[index];
}

static void node_remove(Page *page, ShownNode *node)
{
        const struct status_node none = {.serial = 0};

        if (node->slot != STATUS_NONE) {
                node_write(page, node->slot, &none);
                page->nodes_used--;
        } else if (node->known) {
                page->nodes_missing--;
        }
        *node = (ShownNode){.slot = STATUS_NONE};
}

static void shown_remove(Status *status, Shown *shown)
{
        const struct status_dataflow none = {.serial = 0};
        Page *page = shown->page;

        for (uint32_t i = 0; i < shown->n_nodes; i++)
                node_remove(page, &shown->nodes[i]);
        if (shown->slot != STATUS_NONE) {
                dataflow_write(page, shown->slot, &none);
                page->dataflows_used--;
        } else {
                page->dataflows_missing--;
        }
        list_unlink(&shown->link);
        free(shown->nodes);
        free(shown);
        counts_changed(status, page);
}

/* --- pages of users --- */

/* Rows a predecessor left: known by the same names, so that putting them again goes to the same slots. */
static void page_index(Status *status, Page *page)
{
        StatusPage view = {.header = page->file.header, .dataflows = page->file.dataflows, .nodes = page->file.nodes,
                .n_dataflows = page->file.n_dataflows, .n_nodes = page->file.n_nodes};
        uint32_t end = MIN(page->file.header->dataflows_end, view.n_dataflows);
        struct status_dataflow dataflow;
        struct status_node node;
        Shown *shown, *next;

        for (uint32_t i = 0; i < end; i++) {
                if (status_page_dataflow(&view, i, &dataflow))
                        continue;
                page->dataflows_used++;
                status->last_serial = MAX(status->last_serial, dataflow.serial);
                shown = shown_find(status, dataflow.uuid) ? NULL : shown_new(status, page, dataflow.uuid);
                if (!shown) { /* twice: not by any supervisor of ours. Or no memory: better gone than shown for ever */
                        dataflow_write(page, i, &(const struct status_dataflow){.serial = 0});
                        page->dataflows_used--;
                        continue;
                }
                shown->slot = i;
                shown->serial = dataflow.serial;
                shown->left = true;
        }
        end = MIN(page->file.header->nodes_end, view.n_nodes);
        for (uint32_t i = 0; i < end; i++) {
                ShownNode *entry = NULL;

                if (status_page_node(&view, i, &node) == STATUS_E_FREE && node_at(page, i)->serial == 0)
                        continue;
                list_for_each(shown, next, &status->shown, link)
                        if (shown->page == page && shown->slot == node.dataflow && shown->serial == node.serial)
                                entry = shown_node(status, shown, node.index);
                page->nodes_used++;
                if (!entry || entry->known) {
                        ShownNode gone = {.slot = i, .known = true};

                        node_remove(page, &gone);
                        continue;
                }
                *entry = (ShownNode){.slot = i, .known = true, .left = true};
        }
}

static Page *page_new(Status *status, uid_t uid)
{
        Page *page = calloc(1, sizeof(*page));

        if (!page) {
                complain(status, "no memory for the status page of uid %u", uid);
                return NULL;
        }
        *page = (Page){.uid = uid, .file = STATUS_FILE_NULL};
        list_append(&status->pages, &page->link);
        status->n_pages++;
        return page;
}

static void page_name(char ret[static 32], uid_t uid)
{
        (void)snprintf(ret, 32, STATUS_NAME ".%u", uid);
}

static Page *page_of(Status *status, uid_t uid)
{
        struct status_info info = status->info;
        Page *page, *next;
        char name[32];
        int r;

        list_for_each(page, next, &status->pages, link)
                if (page->uid == uid)
                        return page;
        page = page_new(status, uid);
        if (!page)
                return NULL;
        page_name(name, uid);
        info.uid = uid;
        r = status->n_pages > STATUS_MAX_PAGES ? -EUSERS :
                status_file_make(&page->file, status->dir_fd, name, status->n_dataflows, status->n_nodes, &info, uid);
        if (r == STATUS_FILE_E_ACCESS)
                complain(status,
                        "the status page of uid %u can be read by the daemon's user only: the runtime directory's file system "
                                 "has no access lists", uid);
        else if (r)
                complain(status, "no status page for uid %u: %s", uid, strerrordesc_np(-r));
        return page;
}

static void page_take(Status *status, uid_t uid)
{
        StatusFile file = STATUS_FILE_NULL;
        char name[32];
        Page *page;

        page_name(name, uid);
        if (status->n_pages >= STATUS_MAX_PAGES ||
            status_file_take(&file, status->dir_fd, name, status->n_dataflows, status->n_nodes)) {
                (void)unlinkat(status->dir_fd, name, 0); /* better none than one that nobody writes any more */
                return;
        }
        page = page_new(status, uid);
        if (!page) {
                status_file_done(&file);
                return;
        }
        page->file = file;
        info_write(status, &page->file, uid);
        page_index(status, page);
        counts_changed(status, page);
}

static void pages_take(Status *status)
{
        int fd = openat(status->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
        struct dirent *e;

        if (!dir) {
                (void)fd_close(fd);
                complain(status, "cannot look for the status pages of users: %s", strerrordesc_np(errno));
                return;
        }
        while ((e = readdir(dir))) {
                char name[32], *end;
                unsigned long uid;

                if (strncmp(e->d_name, STATUS_NAME ".", strlen(STATUS_NAME ".")) != 0)
                        continue;
                uid = strtoul(e->d_name + strlen(STATUS_NAME "."), &end, 10);
                page_name(name, (uid_t)uid);
                if (uid < UINT32_MAX && strcmp(name, e->d_name) == 0) /* no other spelling of it */
                        page_take(status, (uid_t)uid);
        }
        (void)closedir(dir);
}

/* --- the whole --- */

static void info_fill(struct status_info *info, const StatusOptions *options)
{
        ProcStat stat = {.start_time = 0};

        (void)procstat_read(&stat, getpid()); /* not there: readers know the pid alone */
        *info = (struct status_info){.epoch = options->epoch,
                .started_at_ns = options->started_at,
                .stale_after_ns = options->stale_after_ns ? options->stale_after_ns : STATUS_STALE_NS,
                .pid_start = stat.start_time,
                .pid = getpid(),
                .guard_pid = options->guard_pid,
                .uid = geteuid(),
                .state = STATUS_RUNNING,
                .guard = STATUS_GUARD_OK};
        boot_id_read(info->boot_id);
        text_put(info->version, sizeof(info->version), TIDEGATE_VERSION);
        text_put(info->instance, sizeof(info->instance), options->instance);
        path_put(info->cgroup, sizeof(info->cgroup), options->cgroup);
}

int status_open(Status **ret, const StatusOptions *options)
{
        Status *status = calloc(1, sizeof(*status));
        int r;

        if (!status)
                return error_origin(-ENOMEM);
        *status = (Status){.dir_fd = options->dir_fd,
                .own = STATUS_FILE_NULL,
                .n_dataflows = options->n_dataflows ? options->n_dataflows : STATUS_DEFAULT_DATAFLOWS,
                .n_nodes = options->n_nodes ? options->n_nodes : STATUS_DEFAULT_NODES};
        list_init(&status->pages);
        list_init(&status->shown);
        info_fill(&status->info, options);
        r = status_file_take(&status->own, status->dir_fd, STATUS_NAME, 0, 0);
        if (r == 0) { /* our predecessor's last turn is not ours */
                for (size_t i = 0; i < sizeof(struct status_pulse) / sizeof(uint64_t); i++)
                        store((uint64_t *)&status->own.header->pulse + i, 0);
                info_write(status, &status->own, geteuid());
        } else {
                r = status_file_make(&status->own, status->dir_fd, STATUS_NAME, 0, 0, &status->info, (uid_t)-1);
        }
        if (r)
                complain(status, "no status page: %s", strerrordesc_np(-r));
        pages_take(status);
        *ret = status;
        return 0;
}

Status *status_free(Status *status)
{
        Shown *shown, *next_shown;
        Page *page, *next_page;

        if (!status)
                return NULL;
        list_for_each(shown, next_shown, &status->shown, link) {
                free(shown->nodes);
                free(shown);
        }
        list_for_each(page, next_page, &status->pages, link) {
                status_file_done(&page->file);
                free(page);
        }
        status_file_done(&status->own);
        free(status);
        return NULL;
}

struct status_pulse *status_pulse(Status *status)
{
        return status->own.header ? &status->own.header->pulse : NULL;
}

void status_set_state(Status *status, StatusState state)
{
        if (status->info.state == (uint32_t)state)
                return;
        status->info.state = state;
        info_changed(status);
}

void status_set_guard(Status *status, pid_t guard_pid, StatusGuard guard)
{
        if (status->info.guard == (uint32_t)guard && status->info.guard_pid == guard_pid)
                return;
        status->info.guard = guard;
        status->info.guard_pid = guard_pid;
        info_changed(status);
}

void status_set_adopted(Status *status, uint32_t adopted, uint32_t lost, uint32_t duplicated)
{
        status->info.adopted = adopted;
        status->info.lost = lost;
        status->info.duplicated = duplicated;
        info_changed(status);
}

void status_put_dataflow(Status *status, const StatusDataflow *row)
{
        Shown *shown = shown_find(status, row->uuid);
        struct status_dataflow d;

        if (!shown) {
                Page *page = page_of(status, row->uid);

                shown = page ? shown_new(status, page, row->uuid) : NULL;
                if (!shown)
                        return;
                page->dataflows_missing++;
        }
        if (shown->slot == STATUS_NONE) {
                shown->slot = dataflow_slot_find(status, shown->page);
                if (shown->slot != STATUS_NONE) {
                        shown->serial = ++status->last_serial;
                        shown->page->dataflows_used++;
                        shown->page->dataflows_missing--;
                }
                counts_changed(status, shown->page);
        }
        shown->left = false;
        if (shown->slot == STATUS_NONE)
                return;
        d = (struct status_dataflow){.serial = shown->serial,
                .started_at_ns = row->started_at,
                .since_ns = row->since,
                .stop_until_ns = row->stop_until,
                .stuck_since_ns = row->stuck_since,
                .uid = row->uid,
                .state = row->state,
                .wanted = row->wanted,
                .result = row->result,
                .health = row->health,
                .n_nodes = row->n_nodes,
                .n_running = row->n_running,
                .n_failed = row->n_failed,
                .n_stuck = row->n_stuck,
                .frozen = row->frozen};
        text_put(d.uuid, sizeof(d.uuid), row->uuid);
        text_put(d.name, sizeof(d.name), row->name);
        path_put(d.cgroup, sizeof(d.cgroup), row->cgroup);
        if (memcmp(&d, dataflow_at(shown->page, shown->slot), sizeof(d)) != 0)
                dataflow_write(shown->page, shown->slot, &d);
}

void status_put_node(Status *status, const StatusNode *row)
{
        Shown *shown = shown_find(status, row->uuid);
        ShownNode *node = shown ? shown_node(status, shown, row->index) : NULL;
        struct status_node n;

        if (!node)
                return;
        if (!node->known) {
                node->known = true;
                shown->page->nodes_missing++;
        }
        if (node->slot == STATUS_NONE) {
                if (shown->slot != STATUS_NONE)
                        node->slot = node_slot_find(status, shown->page);
                if (node->slot != STATUS_NONE) {
                        shown->page->nodes_used++;
                        shown->page->nodes_missing--;
                }
                counts_changed(status, shown->page);
        }
        node->left = false;
        if (node->slot == STATUS_NONE)
                return;
        n = (struct status_node){.serial = shown->serial,
                .generation = row->generation,
                .since_ns = row->since,
                .stuck_since_ns = row->stuck_since,
                .dataflow = shown->slot,
                .index = row->index,
                .kind = row->kind,
                .state = row->state,
                .wanted = row->wanted,
                .health = row->health,
                .waiting = row->waiting,
                .waits_for = row->waits_for,
                .restarts = row->restarts,
                .pid = row->pid,
                .exit_code = row->exit_code,
                .exit_status = row->exit_status,
                .frozen = row->frozen};
        text_put(n.id, sizeof(n.id), row->id);
        if (memcmp(&n, node_at(shown->page, node->slot), sizeof(n)) != 0)
                node_write(shown->page, node->slot, &n);
}

void status_remove_dataflow(Status *status, const char *uuid)
{
        Shown *shown = shown_find(status, uuid);

        if (shown)
                shown_remove(status, shown);
}

void status_settle(Status *status)
{
        Shown *shown, *next;

        list_for_each(shown, next, &status->shown, link) {
                if (shown->left) {
                        shown_remove(status, shown);
                        continue;
                }
                for (uint32_t i = 0; i < shown->n_nodes; i++)
                        if (shown->nodes[i].left)
                                node_remove(shown->page, &shown->nodes[i]);
                counts_changed(status, shown->page);
        }
}
