/* SPDX-License-Identifier: Apache-2.0 */
/* testkeeper - a keeper in a fresh process: supervisor on 3, guard on 4, the instance's cgroup on 5. */
#include "supervisor/keeper.h"

int main(void)
{
        return keeper_main(3, 4, 5, -1);
}
