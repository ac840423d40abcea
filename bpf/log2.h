/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* In which bucket of a histogram a number is: 2^i <= n < 2^(i + 1); 0 is in the first. In steps that the verifier follows, without a loop. */
#ifndef TG_BPF_LOG2_H
#define TG_BPF_LOG2_H

static __always_inline __u32 log2_of(__u64 n)
{
        __u32 ret = 0;

        if (n >> 32) {
                n >>= 32;
                ret += 32;
        }
        if (n >> 16) {
                n >>= 16;
                ret += 16;
        }
        if (n >> 8) {
                n >>= 8;
                ret += 8;
        }
        if (n >> 4) {
                n >>= 4;
                ret += 4;
        }
        if (n >> 2) {
                n >>= 2;
                ret += 2;
        }
        return ret + (n >> 1 ? 1 : 0);
}

#endif
