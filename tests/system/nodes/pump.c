/* SPDX-License-Identifier: Apache-2.0 */
/* pump FILE CHUNK: send a file on output `out`, CHUNK bytes a message; every second one is written in place. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node.h"

static void send_in_place(tg_node *node, const uint8_t *data, size_t size)
{
        tg_sample *sample;
        int r = tg_alloc(node, "out", size, &sample);

        if (r)
                DIE("tg_alloc(%zu bytes): %s", size, tg_strerror(r));
        memcpy(tg_sample_data(sample), data, size);
        r = tg_send_sample(sample, NULL);
        if (r)
                DIE("tg_send_sample(%zu bytes): %s", size, tg_strerror(r));
}

int main(int argc, char **argv)
{
        struct stat st;
        const uint8_t *file;
        size_t chunk, size;
        tg_node *node;
        int fd;

        if (argc != 3)
                DIE("usage: pump FILE CHUNK");
        chunk = number(argv[2]);
        fd = open(argv[1], O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0)
                DIE("%s: %s", argv[1], strerror(errno));
        size = (size_t)st.st_size;
        file = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (file == MAP_FAILED)
                DIE("%s: %s", argv[1], strerror(errno));
        node = open_node();
        for (size_t at = 0, i = 0; at < size; at += chunk, i++) {
                size_t n = chunk < size - at ? chunk : size - at;

                if (i % 2)
                        send_in_place(node, file + at, n);
                else
                        send_or_die(node, "out", file + at, n, NULL);
        }
        tg_node_close(node);
        return 0;
}
