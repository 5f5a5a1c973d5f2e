"""What a QEMU says of its memory when it is asked once more, in a fresh process."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from loadfuzz.execution import Depth, Escape, Execution, ExitKind
from loadfuzz.qemu.capture import capture
from loadfuzz.qemu.instance import Instance, Plan
from loadfuzz.qemu.machine import MachineSpec
from loadfuzz.qemu.secondopinion import is_silent, without_memory
from loadfuzz.qemu.verdicts import Death

SPACE_MB = 4096


def crash(name: str, message: str = "", depth: Depth = Depth.FIRST_SECTION) -> Execution:
    return Execution(ExitKind.CRASHED, depth, escape=Escape(name, message, ()))


def test_only_an_abort_over_a_load_without_a_word_is_silent() -> None:
    assert is_silent(crash("SIGABRT"))
    assert not is_silent(crash("SIGABRT", "Assertion `n' failed."))
    assert not is_silent(crash("SIGSEGV"))
    assert not is_silent(crash("SIGABRT", depth=Depth.ACCEPTED))
    assert not is_silent(Execution(ExitKind.ACCEPTED, Depth.ACCEPTED))


def asked(binary: str, folder: Path, change: Callable[[bytes], bytes]) -> Death | None:
    """What is said of the changed stream of a machine with plenty of address space."""

    async def main() -> Death | None:
        spec = MachineSpec(binary, "none", memory_mb=0, address_space_mb=SPACE_MB)
        clean = await capture(replace(spec, address_space_mb=None))
        plan = Plan(spec, folder, clean, 2 * len(clean))
        live = Instance.start(plan, plan.starter())
        try:
            return await without_memory(live, change(clean))
        finally:
            await live.end()

    return asyncio.run(main())


@pytest.mark.qemu
def test_a_length_that_takes_much_memory_is_told_from_a_good_stream(
    qemu_binary: str, tmp_path: Path
) -> None:
    # The length of the machine type's name, which is allocated at its word.
    long = (900 << 20).to_bytes(4, "big")
    death = asked(qemu_binary, tmp_path, lambda clean: clean[:9] + long + clean[13:])
    assert death is not None
    assert death.kind is ExitKind.OUT_OF_MEMORY
    assert "failed to allocate" in death.escape.message
    assert asked(qemu_binary, tmp_path, lambda clean: clean) is None
    assert asked(qemu_binary, tmp_path, lambda clean: b"QEVM") is None
