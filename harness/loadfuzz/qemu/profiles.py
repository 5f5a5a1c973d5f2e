"""Machine profiles: which QEMU machines there are to fuzz, as data.

They stand in ``profiles.toml`` beside this file.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Final

from loadfuzz.errors import InfraError
from loadfuzz.qemu.machine import MachineSpec

ADDRESS_SPACE_MB: Final = 2048
"""Address space of a QEMU beside its guest's memory.  A pc takes 0.6 GiB with a small
translation buffer, most of it reserved by threads and never used; what a stream can make it
allocate on top is then under 1.5 GiB."""
PERTURB: Final = (("MALLOC_PERTURB_", "165"),)
"""What is freed or not yet written is filled with a pattern by glibc: a use after free shows
at once, for some per cent of the time."""

_FILE: Final = "profiles.toml"
_KEYS: Final = frozenset(
    {"arch", "binary", "machine", "memory_mb", "devices", "extra", "summary"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Profile:
    """A machine.

    Attributes:
        name: as in ``qemu:NAME``.
        binary: name of its QEMU.
        machine: type, as ``-machine`` takes it.
        memory_mb: guest memory; 0 for a machine without.
        devices: arguments of ``-device``.
        extra: further arguments, as they are.
        summary: one line about it.
    """

    name: str
    binary: str
    machine: str
    memory_mb: int
    devices: tuple[str, ...]
    extra: tuple[str, ...]
    summary: str

    def spec(self) -> MachineSpec:
        """How to start it, with memory filled with a pattern and address space limited."""
        return MachineSpec(
            self.binary,
            self.machine,
            self.memory_mb,
            self.devices,
            self.extra,
            environment=PERTURB,
            address_space_mb=ADDRESS_SPACE_MB + self.memory_mb,
        )


def profiles() -> Mapping[str, Profile]:
    """All profiles by name, in the file's order."""
    return _read()


@cache
def _read() -> Mapping[str, Profile]:
    text = files(__package__).joinpath(_FILE).read_text(encoding="utf-8")
    return MappingProxyType(parse_profiles(text))


def parse_profiles(text: str) -> Mapping[str, Profile]:
    """The profiles that a TOML text describes.

    Raises:
        InfraError: it is none; the text is ours, so an installation is damaged.
    """
    try:
        tables: Mapping[str, object] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InfraError(f"{_FILE}: {error}; install loadfuzz again") from error
    return {name: _profile(name, table) for name, table in tables.items()}


def _profile(name: str, table: object) -> Profile:
    if not isinstance(table, dict):
        raise InfraError(f"{_FILE}: {name} is no table; install loadfuzz again")
    unknown = sorted(set(table) - _KEYS)
    if unknown:
        raise InfraError(f"{_FILE}: [{name}] has unknown keys {', '.join(unknown)}")
    memory_mb: object = table.get("memory_mb")
    if not isinstance(memory_mb, int):
        raise InfraError(f"{_FILE}: [{name}] memory_mb must be a number")
    binary = _text(name, table, "binary", f"qemu-system-{_text(name, table, 'arch', '?')}")
    return Profile(
        name,
        binary,
        _text(name, table, "machine"),
        memory_mb,
        _texts(name, table, "devices"),
        _texts(name, table, "extra"),
        _text(name, table, "summary"),
    )


def _text(
    name: str, table: Mapping[str, object], key: str, default: str | None = None
) -> str:  # fmt: skip
    value = table.get(key, default)
    if not isinstance(value, str):
        raise InfraError(f"{_FILE}: [{name}] {key} must be a text")
    return value


def _texts(name: str, table: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise InfraError(f"{_FILE}: [{name}] {key} must be a list of texts")
    return tuple(value)
