/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_page DIR GUARD_PID INSTANCE_CGROUP [NAME UUID NODE...]: a status page as a supervisor writes it, with one dataflow. Says "ready" and lives
 * until its stdin ends, so that a test can stop or kill the page's supervisor.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "supervisor/status.h"

int main(int argc, char **argv)
{
        StatusOptions options = {.epoch = 1, .instance = "d-1", .started_at = clock_now(), .n_dataflows = 8, .n_nodes = 32};
        nsec_t since = clock_now() - 155 * NSEC_PER_SEC;
        char cgroup[4096];
        Status *status;
        int c;

        if (argc < 4)
                return 2;
        options.dir_fd = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        options.guard_pid = atoi(argv[2]);
        options.cgroup = argv[3];
        if (status_open(&status, &options))
                return 1;
        if (argc > 5) {
                (void)snprintf(cgroup, sizeof(cgroup), "%s/%s", argv[3], argv[5]);
                status_put_dataflow(status, &(StatusDataflow){.uuid = argv[5], .name = argv[4], .cgroup = cgroup, .uid = getuid(),
                                                    .state = STATUS_DATAFLOW_RUNNING, .wanted = STATUS_WANTED_RUNNING, .result = STATUS_RESULT_NONE,
                                                    .health = STATUS_HEALTH_OK, .started_at = since, .since = since, .n_nodes = (uint32_t)argc - 6,
                                                    .n_running = (uint32_t)argc - 6});
        }
        for (int i = 6; i < argc; i++)
                status_put_node(status, &(StatusNode){.uuid = argv[5], .index = (uint32_t)i - 6, .id = argv[i], .kind = STATUS_KIND_NODE,
                                                .state = STATUS_NODE_RUNNING, .wanted = STATUS_WANTED_RUNNING, .health = STATUS_HEALTH_OK, .generation = 1,
                                                .since = since, .waits_for = STATUS_NONE, .pid = 4711});
        puts("ready");
        (void)fflush(stdout);
        while (read(STDIN_FILENO, &c, 1) > 0)
                ;
        return 0;
}
