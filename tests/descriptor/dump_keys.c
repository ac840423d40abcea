/* SPDX-License-Identifier: Apache-2.0 */
/* Prints every key the reader knows, "table key status" a line: docs/dataflow.schema.json is held against it. */
#include <stdio.h>

#include "descriptor/keys.h"

int main(void)
{
        for (const KeyTable *const *table = keys_all; *table; table++)
                for (const Key *key = (*table)->keys; key->name; key++)
                        printf("%s %s %s\n", (*table)->name, key->name, key_status_name(key->status));
        return 0;
}
