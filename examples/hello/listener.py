# SPDX-License-Identifier: Apache-2.0
import tidegate

for event in tidegate.Node():
    if event.type == "INPUT":
        print("heard:", bytes(event.data).decode())
