/* SPDX-License-Identifier: Apache-2.0 */
#include "wav.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define WAVE_FORMAT_PCM        1
#define WAVE_FORMAT_EXTENSIBLE 0xfffe

struct riff_chunk {
        char id[4];
        uint32_t size;
};

struct wave_format { /* little-endian, as it lies in the file */
        uint16_t format, channels;
        uint32_t rate, bytes_per_second;
        uint16_t block_align, bits;
        /* WAVE_FORMAT_EXTENSIBLE only */
        uint16_t extension_size, valid_bits;
        uint32_t channel_mask;
        uint16_t sub_format;
        uint8_t guid[14];
} __attribute__((packed));
_Static_assert(sizeof(struct wave_format) == 40, "as RIFF has it");

static int wav_fail(Wav *wav, const char *error)
{
        wav->error = error;
        if (wav->file)
                (void)fclose(wav->file); /* only read */
        wav->file = NULL;
        return -1;
}

static int read_format(Wav *wav, uint32_t size)
{
        struct wave_format f = {0};
        size_t n = size < sizeof(f) ? size : sizeof(f);
        uint16_t format;

        if (size < 16)
                return wav_fail(wav, "its `fmt ` chunk is too short");
        if (fread(&f, 1, n, wav->file) != n)
                return wav_fail(wav, "it ends inside the `fmt ` chunk");
        format = le16toh(f.format);
        if (format == WAVE_FORMAT_EXTENSIBLE && size >= sizeof(f))
                format = le16toh(f.sub_format);
        if (format != WAVE_FORMAT_PCM)
                return wav_fail(wav, "its samples are compressed or no integers; this example reads PCM");
        if (le16toh(f.bits) != 16)
                return wav_fail(wav, "its samples do not have 16 bits");
        if (le16toh(f.channels) != 1)
                return wav_fail(wav, "it has more than one channel; this example reads mono");
        if (le16toh(f.block_align) != 2)
                return wav_fail(wav, "its `fmt ` chunk contradicts itself");
        wav->rate = le32toh(f.rate);
        if (wav->rate < 1000 || wav->rate > 768000)
                return wav_fail(wav, "its sample rate is out of range");
        return 0;
}

/* Chunks come in any order but the format before the samples; unknown ones are skipped, each padded to an even size. */
static int find_samples(Wav *wav, uint64_t file_size)
{
        uint64_t at = 12;

        while (at + sizeof(struct riff_chunk) <= file_size) {
                struct riff_chunk chunk;
                uint32_t size;

                if (fseeko(wav->file, (off_t)at, SEEK_SET) < 0 || fread(&chunk, sizeof(chunk), 1, wav->file) != 1)
                        return wav_fail(wav, "it cannot be read");
                size = le32toh(chunk.size);
                at += sizeof(chunk);
                if (size > file_size - at)
                        return wav_fail(wav, "it is cut off: a chunk is longer than the rest of the file");
                if (memcmp(chunk.id, "fmt ", 4) == 0 && read_format(wav, size) < 0)
                        return -1;
                if (memcmp(chunk.id, "data", 4) == 0) {
                        if (wav->rate == 0)
                                return wav_fail(wav, "its samples come before their format");
                        if (size % 2)
                                return wav_fail(wav, "its last sample is cut in half");
                        wav->n_samples = wav->left = size / 2;
                        return 0;
                }
                at += (uint64_t)size + size % 2;
        }
        return wav_fail(wav, "it has no `data` chunk");
}

int wav_open(Wav *wav, const char *path)
{
        char head[12];
        struct stat st;

        *wav = (Wav){.file = fopen(path, "rbe")};
        if (!wav->file)
                return wav_fail(wav, strerror(errno));
        if (fstat(fileno(wav->file), &st) < 0)
                return wav_fail(wav, strerror(errno));
        if (!S_ISREG(st.st_mode))
                return wav_fail(wav, "it is no regular file");
        if (fread(head, sizeof(head), 1, wav->file) != 1 || memcmp(head, "RIFF", 4) != 0 || memcmp(head + 8, "WAVE", 4) != 0)
                return wav_fail(wav, "it is no RIFF/WAVE file");
        return find_samples(wav, (uint64_t)st.st_size);
}

long wav_read(Wav *wav, int16_t *samples, size_t n)
{
        if (n > wav->left)
                n = (size_t)wav->left;
        if (fread(samples, sizeof(*samples), n, wav->file) != n)
                return wav_fail(wav, "it became shorter while it was read");
        for (size_t i = 0; i < n; i++)
                samples[i] = (int16_t)le16toh((uint16_t)samples[i]);
        wav->left -= n;
        return (long)n;
}

void wav_close(Wav *wav)
{
        if (wav->file)
                (void)fclose(wav->file); /* only read */
        wav->file = NULL;
}
