"""One live QEMU with an image of its own, from its start to its end.

Nothing of it has a name for long: as soon as QEMU has opened its image, its log and its
channel, the files are unlinked, so that not even a worker that is killed leaves any.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadfuzz.errors import InfraError, UsageError
from loadfuzz.qemu import qcow2
from loadfuzz.qemu.brief import BriefFolder
from loadfuzz.qemu.machine import START_DEADLINE_S, MachineSpec
from loadfuzz.qemu.monitor import NEGOTIATION, Monitor, refusal_of
from loadfuzz.qemu.process import PRINTED_MAX, REAP_DEADLINE_S, Process, complaint_of
from loadfuzz.qemu.starter import HeldFile, Starter
from loadfuzz.qemu.tracelog import TraceLog, log_arguments
from loadfuzz.qemu.vitals import CPUClock

INPUT: Final = "s0"
"""Slot of the input; short, since QEMU reads commands slowly."""
CLEAN: Final = "s1"
"""Slot of the stream that the machine saved of itself."""
AGAIN: Final = "again"
"""Snapshot that is made, loaded and deleted after a load."""
SHARED_MEMORY: Final = Path("/dev/shm")
SAVED_TIMES: Final = 8
"""How many times as long as the clean state, its memory apart, one saved after a load may be:
there are few lists in it that could grow.  The clean slot is one of them."""
TRANSLATION_MB: Final = 32
"""Room for translated code: TCG takes 1 GiB of address space otherwise, and a guest that runs
for some milliseconds fills no more."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What each process of an executor is started from.

    Attributes:
        spec: the machine.
        base: folder in which each gets a folder of its own.
        clean: stream that goes to :data:`CLEAN`.
        capacity: bytes of the slot of inputs.
    """

    spec: MachineSpec
    base: Path
    clean: bytes
    capacity: int

    @property
    def file_size(self) -> int:
        """Bytes that a file of a process may grow to: what it prints, or its image with a state
        saved again in it, beside the machine's memory."""
        return PRINTED_MAX + self.capacity + SAVED_TIMES * len(self.clean)

    def starter(self) -> Starter:
        """What starts the processes; each has a log and an image."""

        def arguments(names: Sequence[str]) -> list[str]:
            log, image = names
            disk = qcow2.blockdev(image)
            return [*accelerator(self.spec), "-no-shutdown", *disk, *log_arguments(log)]

        return Starter(self.spec, arguments, 2, self.file_size)


class Instance:
    """A QEMU that can be told to load; made by :meth:`start`.

    Attributes:
        process, monitor, image, log, clock: of it.
        loads: counted by whoever uses it.
    """

    __slots__ = (
        "_folder", "_spec", "clock", "image", "loads", "log", "monitor", "process",
    )  # fmt: skip

    def __init__(
        self,
        spec: MachineSpec,
        folder: BriefFolder,
        image: qcow2.Image,
        log: TraceLog,
        process: Process,
        monitor: Monitor,
    ) -> None:
        self._spec = spec
        self._folder = folder
        self.image = image
        self.log = log
        self.process = process
        self.monitor = monitor
        self.clock = CPUClock(process.pid)
        self.loads = 0

    @classmethod
    def start(cls, plan: Plan, starter: Starter) -> "Instance":
        """Start a QEMU and do not wait until it is :meth:`ready`; takes some milliseconds.

        Args:
            plan: what it is started from.
            starter: from :meth:`Plan.starter`.

        Raises:
            UsageError: the binary cannot be run.
            InfraError: no room, or no process can be started; nothing is left behind.
        """
        brief = BriefFolder(plan.base)
        folder = brief.path
        image: qcow2.Image | None = None
        log: TraceLog | None = None
        try:
            slots = [(INPUT, plan.capacity), (CLEAN, len(plan.clean))]
            image = qcow2.Image.create(folder / "image.qcow2", slots)
            image.write(CLEAN, plan.clean)
            image.write(INPUT, plan.clean)
            log = TraceLog(folder / "log")
            files = [HeldFile(file.path, file.descriptor) for file in (log, image)]
            process = starter.start(folder / "stderr", files)
        except BaseException as error:
            if image is not None:
                image.close()
            if log is not None:
                log.close()
            brief.remove()
            if isinstance(error, OSError):
                raise InfraError(
                    f"using {folder} failed: {error.strerror or error}; make room there"
                ) from error
            raise
        monitor = Monitor(process.channel)
        # It answers when it has come up, whenever that is looked for.
        monitor.send(*NEGOTIATION)
        return cls(plan.spec, brief, image, log, process, monitor)

    async def ready(self) -> None:
        """Wait until it takes commands.

        Cancellation leaves it running.

        Raises:
            UsageError: it ended before; with QEMU's own words.
            InfraError: it does not answer, or not in QMP.
        """
        binary, count = self._spec.binary, len(NEGOTIATION)
        if not await self.monitor.wait(count, START_DEADLINE_S):
            raise InfraError(
                f"{binary!r} did not speak QMP within {START_DEADLINE_S:.0f} s; is it a QEMU? "
                f"({complaint_of(self.process.stderr)})"
            )
        answers = self.monitor.replies(count)
        if len(answers) < count:
            code = await self.process.wait(REAP_DEADLINE_S)
            raise UsageError(
                f"{binary!r} ended with status {code} before it spoke QMP: "
                f"{complaint_of(self.process.stderr)}"
            )
        if refused := refusal_of(answers):
            raise InfraError(f"{binary!r} refuses to be spoken to: {refused}")
        self._unname()

    def settle(self) -> None:
        """Unlink its files if it has come up meanwhile."""
        if self.monitor.waiting:
            self._unname()

    def kill(self) -> None:
        """End it and remove its files; do not wait until it is gone."""
        self.process.kill()
        self.monitor.close()
        self.image.close()
        self.log.close()
        self._unname()

    async def end(self) -> None:
        """End it; nothing of it is left.

        Cancellation leaves it killed and its files removed.

        Raises:
            InfraError: it does not die.
        """
        self.kill()
        await self.process.end()

    def _unname(self) -> None:
        self._folder.remove()


def place_for(folder: Path, size: int) -> Path:
    """Where files that QEMU reads again and again are put: in memory where there is room.

    Args:
        folder: otherwise.
        size: bytes needed.
    """
    try:
        free = os.statvfs(SHARED_MEMORY)
    except OSError:
        return folder
    if os.access(SHARED_MEMORY, os.W_OK | os.X_OK) and free.f_bavail * free.f_frsize >= size:
        return SHARED_MEMORY
    return folder


def accelerator(spec: MachineSpec) -> list[str]:
    """Arguments for a small translator, where the machine does not say what it wants."""
    chosen = any(word in ("-accel", "-enable-kvm", "--accel") for word in spec.extra)
    if chosen or "accel=" in spec.machine:
        return []
    return ["-accel", f"tcg,tb-size={TRANSLATION_MB}"]
