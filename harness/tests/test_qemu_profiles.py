"""Machine profiles: what stands in the file, and that a real QEMU takes it."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from loadfuzz.errors import InfraError
from loadfuzz.execution import Execution, ExitKind
from loadfuzz.inputs import STREAM_SIZE_MAX
from loadfuzz.qemu.closer import NOT_RUN
from loadfuzz.qemu.loadvm import loadvm_executor
from loadfuzz.qemu.machine import MachineSpec
from loadfuzz.qemu.profiles import ADDRESS_SPACE_MB, parse_profiles, profiles

NAMES = ("none", "microvm", "isapc", "pc", "q35", "arm-virt", "riscv-virt")
X86 = ("none", "microvm", "isapc", "pc", "q35")
GOOD = '[a]\narch = "arm"\nmachine = "virt"\nmemory_mb = 3\nsummary = "s"\n'


def test_the_profiles_are_there_in_order() -> None:
    assert tuple(profiles()) == NAMES
    assert all(profile.name == name for name, profile in profiles().items())


def test_the_binary_is_named_after_the_architecture() -> None:
    assert profiles()["arm-virt"].binary == "qemu-system-arm"
    assert profiles()["pc"].binary == "qemu-system-x86_64"
    other = parse_profiles(GOOD + 'binary = "my-qemu"\n')["a"]
    assert other.binary == "my-qemu"


def test_a_profile_starts_with_a_limit_and_a_pattern() -> None:
    spec = parse_profiles(GOOD + 'devices = ["d"]\nextra = ["-x"]\n')["a"].spec()
    assert spec == MachineSpec(
        "qemu-system-arm",
        "virt",
        memory_mb=3,
        devices=("d",),
        extra=("-x",),
        environment=(("MALLOC_PERTURB_", "165"),),
        address_space_mb=ADDRESS_SPACE_MB + 3,
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "profiles.toml"),
        ("a = 1", "a is no table"),
        (GOOD + "memory = 4\n", "unknown keys memory"),
        (GOOD.replace("memory_mb = 3", 'memory_mb = "3"'), "memory_mb must be a number"),
        (GOOD.replace('machine = "virt"\n', ""), "machine must be a text"),
        (GOOD + 'devices = "e1000"\n', "devices must be a list"),
        (GOOD + "devices = [1]\n", "devices must be a list"),
    ],
    ids=["toml", "table", "key", "number", "missing", "text", "list"],
)
def test_a_damaged_file_says_where(text: str, words: str) -> None:
    with pytest.raises(InfraError, match=words):
        parse_profiles(text)


@pytest.mark.qemu
@pytest.mark.parametrize("name", X86)
def test_a_profile_is_saved_loaded_run_and_saved_again(
    qemu_binary: str, tmp_path: Path, name: str
) -> None:
    async def main() -> tuple[Execution, int]:
        spec = replace(profiles()[name].spec(), binary=qemu_binary)
        async with loadvm_executor(spec, tmp_path, 5.0, spares=0) as executor:
            assert executor.remarks == ()
            return await executor.execute(executor.clean, closely=True), len(executor.clean)

    found, size = asyncio.run(main())
    assert found.kind is ExitKind.ACCEPTED, found
    assert [event for event in found.events if "refused" in event] == []
    assert size <= STREAM_SIZE_MAX
    assert NOT_RUN not in found.events
    assert any(event.startswith("vmstate_load_state_field ") for event in found.events)
    devices = {event.split(" ")[1] for event in found.events if event.startswith("vmstate_load ")}
    assert len(devices) >= (3 if name == "none" else 10)
