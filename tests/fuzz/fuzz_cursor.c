/* SPDX-License-Identifier: Apache-2.0 */
/* A producer whose hostile links have any bytes in their cursors, and the honest readers beside them. */
#include "tests/shm/hostile_cursor.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static KeptRegions kept;

        fixture_kept = &kept;
        hostile_cursor_drive(data, MIN(size, (size_t)8192));
        return 0;
}
