/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Wav: the samples of a RIFF/WAVE file, mono 16 bit PCM, read one piece at a time. Every size in the file is held against the
 * file before it is believed. Does not: resample, mix, decode.
 */
#ifndef EXAMPLE_AUDIO_WAV_H
#define EXAMPLE_AUDIO_WAV_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef struct Wav {
        FILE *file;
        uint32_t rate;      /* samples per second */
        uint64_t n_samples; /* in the whole file */
        uint64_t left;      /* not read yet */
        const char *error;  /* why the last call failed; static storage */
} Wav;

/**
 * wav_open() - open a file and find its samples
 *
 * Return: 0, or -1 with wav->error (and errno, when the system said no).
 */
int wav_open(Wav *wav, const char *path);

/**
 * wav_read() - the next samples, in the byte order of this machine
 *
 * Return: how many, 0 at the end, or -1 with wav->error.
 */
long wav_read(Wav *wav, int16_t *samples, size_t n);

void wav_close(Wav *wav); /* harmless twice */

#endif
