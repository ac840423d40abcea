/* SPDX-License-Identifier: Apache-2.0 */
/* Where tidegated is: beside this program, in the build tree as after an installation. */
#ifndef TG_CLI_BESIDE_H
#define TG_CLI_BESIDE_H

#include <stddef.h>

/* find_tidegated() - its path. 0 or a negative errno: there is none that may be executed. */
int find_tidegated(char *ret, size_t size);

#endif
