# SPDX-License-Identifier: Apache-2.0
"""Every test of guest/, under every kernel (see conftest.py)."""

import pytest


def test_guest(guests, kernel, guest_test):
    guest = guests.guests[kernel, guest_test.mode]
    result = guest.result(guest_test)
    if guest.skip:
        pytest.skip(guest.skip)
    if not result:
        was = f"in {guest.running}" if guest.running != guest_test.id else "in it"
        pytest.fail(f"the guest ended {was if guest.running else 'before this test'}:\n{''.join(guest.console)[-4000:]}", pytrace=False)
    print(result["output"])
    if result["outcome"] == "skipped":
        pytest.skip(result["reason"])
    if result["outcome"] != "passed":
        pytest.fail(f"{result['reason']}\n{result['output']}", pytrace=False)
