# SPDX-License-Identifier: Apache-2.0
"""Every test of guest/, under every kernel (see conftest.py)."""

import pytest


def test_guest(guests, kernel, guest_test, request):
    guest = guests.guests[kernel, guest_test.mode, guest_test.cpus]
    result = guest.result(guest_test)
    if guest.skip:
        pytest.skip(guest.skip)
    if guest_test.id in guest.crashes:
        request.node.user_properties.append(("note", f"a kernel crashed in it, and it was tried again: {guest.crashes[guest_test.id]}"))
    if not result:
        lost = guest.lost.get(guest_test.id)
        pytest.fail(f"the guest ended {'in it' if lost else 'before it'}:\n{(lost or ''.join(guest.console))[-8000:]}", pytrace=False)
    print(result["output"])
    if result["outcome"] == "skipped":
        pytest.skip(result["reason"])
    if result["outcome"] != "passed":
        pytest.fail(f"{result['reason']}\n{result['output']}", pytrace=False)
