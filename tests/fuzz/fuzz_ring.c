/* SPDX-License-Identifier: Apache-2.0 */
/* Both ends of a ring, their claims and an observer, with any bytes written into any shared word between two calls.
 * */
#include "tests/shm/hostile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static KeptRegions kept;

        fixture_kept = &kept;
        (void)hostile_drive(data, MIN(size, (size_t)8192));
        return 0;
}
