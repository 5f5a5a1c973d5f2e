"""The one fixture all rooms share: where the QEMU binary is, or why there is none."""

from __future__ import annotations

import os
import shutil

import pytest

QEMU_NAME = "qemu-system-x86_64"


@pytest.fixture(scope="session")
def qemu_binary() -> str:
    """Path of the QEMU to test against.

    ``QEMU_SYSTEM_X86_64`` names another binary than the one on the path. Without any, the test
    is skipped; where ``CI`` is set it fails, so that a green run cannot mean "nothing was run".
    """
    wanted = os.environ.get("QEMU_SYSTEM_X86_64") or QEMU_NAME
    found = shutil.which(wanted)
    if found is not None:
        return found
    reason = f"{wanted} is not installed; install QEMU or set QEMU_SYSTEM_X86_64 to a binary"
    if os.environ.get("CI", "").lower() in {"", "0", "false"}:
        pytest.skip(reason)
    pytest.fail(reason, pytrace=False)
