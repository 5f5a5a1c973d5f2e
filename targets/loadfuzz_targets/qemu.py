"""The target ``qemu``: the loader of a stock QEMU binary, by machine profile.

``qemu:PROFILE[,OPTION=VALUE]...``: a machine of :mod:`loadfuzz.qemu.profiles`, changed by
options: ``qemu=PATH``, ``device=...``, ``arg=...``, ``machine=TYPE``, ``memory=MB``,
``env=NAME=VALUE``, ``space=MB``, ``via=incoming``.  ``device`` and ``arg`` add to
what the profile has and may be given several times; ``space=0`` takes the limit off the address
space, as a binary with AddressSanitizer needs.  Plain ``qemu`` is ``qemu:pc``.

Seeds are taken from the binary itself, so that they fit it, whatever its version.
"""

import asyncio
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from loadfuzz import variants
from loadfuzz.abc import Executor
from loadfuzz.errors import UsageError
from loadfuzz.execution import ExitKind
from loadfuzz.findings import Finding
from loadfuzz.inputs import Seed
from loadfuzz.qemu.capture import save_stream, version_of
from loadfuzz.qemu.incoming_pool import incoming_executor
from loadfuzz.qemu.loadvm import loadvm_executor
from loadfuzz.qemu.machine import MachineSpec, running
from loadfuzz.qemu.profiles import profiles
from loadfuzz.repro.qemu_script import qemu_files
from loadfuzz_targets.layouts import Layouts
from savevm.document import Document

DEFAULT: Final = "pc"
LOADVM: Final = "loadvm"
INCOMING: Final = "incoming"
WAYS: Final = (LOADVM, INCOMING)
"""Ways into QEMU's loader: over and over in one process, or once in each with a true end of
file."""
MEMORY_MAX_MB: Final = 1024
"""Largest guest: its pages are in every stream, and more than some MiB are no seed."""
SPACE_MAX_MB: Final = 1 << 20
"""Largest limit of the address space."""
SLOT: Final = "QEMU"
"""What a worker of a cluster declares as many of as it should run at a time
(:class:`loadfuzz.abc.NeedsSlots`)."""
SEED_TIMEOUT_S: Final = 10.0
"""CPU seconds for a load of what a QEMU saved of itself; it takes milliseconds."""


@dataclass(frozen=True, slots=True)
class QEMUMachine:
    """A QEMU as a certain machine (:class:`loadfuzz.abc.RemoteTarget`).

    Attributes:
        name: ``qemu:VARIANT``.
        summary: one line about it.
        spec: how it is started.
        stateful: what a load leaves is there at the next one: ``loadvm`` in one process, and
            not ``-incoming`` in a fresh one each time.
        slot: see :data:`SLOT`.
    """

    name: str
    summary: str
    spec: MachineSpec
    stateful: bool = True
    slot: str = SLOT
    _layouts: Layouts = field(default_factory=Layouts, repr=False, compare=False)

    def seeds(self) -> Iterable[Seed]:
        """The stream of the machine as it is when it was started, and the same without
        memory, if the loader takes that too.

        To be called where no event loop runs.

        Raises:
            UsageError, InfraError: the QEMU cannot be started, or not be saved.
        """
        return asyncio.run(self._capture())

    def parse(self, stream: bytes) -> Document:
        """The stream as a Document, laid out as its own vmdesc says or, where that is
        missing or damaged, as that of the first stream that had a good one."""
        return Document.parse(stream, self._layouts.factory_for(stream))

    def executor(
        self, folder: Path, load_timeout_s: float, *, explain: bool = True, copies: bool = False
    ) -> AbstractAsyncContextManager[Executor]:
        """A QEMU that loads again and again, see :func:`loadfuzz.qemu.loadvm.loadvm_executor`,
        or a pool of them, see :func:`loadfuzz.qemu.incoming_pool.incoming_executor`."""
        if not self.stateful:
            return incoming_executor(self.spec, folder, load_timeout_s, copies=copies)
        return loadvm_executor(self.spec, folder, load_timeout_s, explain=explain, copies=copies)

    def script(self, finding: Finding) -> Mapping[str, bytes]:
        """Files that rerun a finding with nothing but a QEMU
        (:class:`loadfuzz.abc.BringsScript`); none for ``-incoming``, whose stream is one file."""
        return qemu_files(self.spec, finding) if self.stateful else {}

    async def _capture(self) -> tuple[Seed, ...]:
        async with running(self.spec) as qemu:
            origin = f"qemu {await version_of(qemu)} {self.spec.machine}"
            full = await save_stream(qemu)
        slim = without_memory(self.parse(full))
        seeds: tuple[Seed, ...] = (Seed("full", full, origin),)
        if len(slim) < len(full) and await self._takes(slim):
            seeds += (Seed("without-memory", slim, origin),)
        return seeds

    async def _takes(self, stream: bytes) -> bool:
        with tempfile.TemporaryDirectory(prefix="loadfuzz-") as name:
            async with loadvm_executor(self.spec, Path(name), SEED_TIMEOUT_S, spares=0) as executor:
                return (await executor.execute(stream)).kind is ExitKind.ACCEPTED


class QEMUTarget:
    """All profiles, and the default one under its plain name
    (:class:`loadfuzz.abc.RemoteTarget`)."""

    name: Final = "qemu"
    summary: Final = "the loader of a stock QEMU, by machine profile"
    stateful: Final = True
    slot: Final = SLOT

    def __init__(self) -> None:
        self._plain: QEMUMachine | None = None

    def variant(self, name: str) -> QEMUMachine:
        """The machine of that description.

        Raises:
            KeyError: there is no such profile.
            UsageError: an option is none, or has no sensible value.
        """
        profile_name, options = variants.split(name)
        profile = profiles()[profile_name]
        spec, stateful = profile.spec(), True
        for key, value in options:
            if key == "via":
                if value not in WAYS:
                    raise UsageError(f"via={value} is no way into QEMU; use {' or '.join(WAYS)}")
                stateful = value != INCOMING
            else:
                spec = changed(spec, key, value)
        return QEMUMachine(f"{self.name}:{name}", profile.summary, spec, stateful)

    def variants(self) -> Sequence[str]:
        """Names of all profiles."""
        return tuple(profiles())

    def seeds(self) -> Iterable[Seed]:
        """As :meth:`QEMUMachine.seeds`, of the default profile."""
        return self._default().seeds()

    def parse(self, stream: bytes) -> Document:
        """As :meth:`QEMUMachine.parse`."""
        return self._default().parse(stream)

    def executor(
        self, folder: Path, load_timeout_s: float, *, explain: bool = True, copies: bool = False
    ) -> AbstractAsyncContextManager[Executor]:
        """As :meth:`QEMUMachine.executor`, of the default profile."""
        return self._default().executor(folder, load_timeout_s, explain=explain, copies=copies)

    def script(self, finding: Finding) -> Mapping[str, bytes]:
        """As :meth:`QEMUMachine.script`, of the default profile."""
        return self._default().script(finding)

    def _default(self) -> QEMUMachine:
        if self._plain is None:
            self._plain = self.variant(DEFAULT)
        return self._plain


def changed(spec: MachineSpec, key: str, value: str) -> MachineSpec:
    """``spec`` with one option of a variant applied.

    Raises:
        UsageError: there is no such option, or the value is none for it.
    """
    match key:
        case "qemu" if value:
            return replace(spec, binary=value)
        case "device" if value:
            return replace(spec, devices=(*spec.devices, value))
        case "machine" if value:
            return replace(spec, machine=value)
        case "arg" if value:
            return replace(spec, extra=(*spec.extra, value))
        case "memory":
            memory_mb = _number(key, value, 1, MEMORY_MAX_MB)
            grown = memory_mb - spec.memory_mb
            space_mb = spec.address_space_mb
            return replace(
                spec,
                memory_mb=memory_mb,
                address_space_mb=None if space_mb is None else space_mb + grown,
            )
        case "env" if "=" in value and not value.startswith("="):
            name, _, content = value.partition("=")
            return replace(spec, environment=(*spec.environment, (name, content)))
        case "space":
            space = _number(key, value, 0, SPACE_MAX_MB)
            return replace(spec, address_space_mb=space or None)
        case _:
            raise UsageError(
                f"{key}={value} is no option of a QEMU machine; there are qemu=PATH, device=..., "
                "arg=..., machine=TYPE, memory=MB, env=NAME=VALUE, space=MB and via=incoming"
            )


def without_memory(document: Document) -> bytes:
    """The stream of a Document without the sections of its RAM."""
    cuts = [(section.start, section.end) for section in document.sections if section.idstr == "ram"]
    pieces: list[bytes] = []
    at = 0
    for start, end in cuts:
        pieces.append(document.read(at, start))
        at = end
    return b"".join((*pieces, document.read(at, document.size)))


def _number(key: str, value: str, least: int, most: int) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) < 10):
        raise UsageError(f"{key}={value} is no number of MiB")
    number = int(value)
    if not least <= number <= most:
        raise UsageError(f"{key}={value} is not possible; use {least} to {most} MiB")
    return number


TARGET: Final = QEMUTarget()
