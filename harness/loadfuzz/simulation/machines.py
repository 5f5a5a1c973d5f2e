"""Machines for simulated processes: built once, as new for every story.

Building a machine is cheap and using one again is cheaper still: what a process was is written
back into the same objects, lists of handlers included.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from loadfuzz.simulation.guest import GuestPace, tick
from savevm.board import RAM, machine_with
from savevm.machine import Machine
from savevm.migration import IncomingMigration, OutgoingMigration
from savevm.ram.incoming import Incoming
from savevm.ram.outgoing import Outgoing
from savevm.save import save_to_bytes
from savevm.state import Capture

RAM_PAGES: Final = 6
"""Pages of main memory: enough for a round to be cut in two and for a page to be dirtied
while another one is sent; each costs a copy at every save, load and digest."""
VIDEO_PAGES: Final = 2
"""Pages of a second block, so that a stream goes from one block to the other and back."""
PAGE_BYTES: Final = 4096
FIRST_STEPS: Final = 40
"""Steps of every guest before a story begins: it has been nearly once round its program."""
FIRST_WRITES: Final = 16
"""Its writes to RAM besides: most pages hold something, some are zero still."""

KINDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "ram": ("timer", RAM, "cpu", "globalstate"),
        "small": ("timer", RAM, "cpu", "nic", "globalstate"),
        "memdev": ("timer", RAM, "memdev", "cpu", "globalstate"),
        "none": ("timer", "cpu", "globalstate"),
    }
)
"""Machines by name: RAM with little else, a described device with subsections, memory that is
plugged in, and no RAM at all."""

SLOTS: Final = 3
"""Machines of one kind in a story: a source, the destination that failed, and the next one."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What processes are made of; other parts are what a planted bug needs.

    Attributes:
        outgoing, incoming: the two sides of a migration.
        prepare: is given every machine when it is built.
    """

    outgoing: type[OutgoingMigration] = OutgoingMigration
    incoming: type[IncomingMigration] = IncomingMigration
    prepare: Callable[[Machine], None] | None = None


class Slot:
    """A machine that can be made as new.

    Args:
        machine: as it is now is what it goes back to.

    Attributes:
        machine: it.
    """

    __slots__ = ("_capture", "_counts", "_handlers", "_lists", "_memory", "machine")

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._capture = Capture(*machine.roots(), machine.devices)
        self._handlers = list(machine.savevm.handlers)
        self._lists: list[tuple[list[object], list[object]]] = [
            (these, list(these)) for these in _lists_of(machine)
        ]
        blocks = machine.ram.blocks if machine.ram is not None else []
        self._memory = [(block, block.read(0, block.used_length)) for block in blocks]
        self._counts = self.resources()

    def renew(self) -> None:
        """Back to how it was made."""
        machine = self.machine
        self._capture.restore()
        machine.savevm.handlers = list(self._handlers)
        machine.savevm.described = []
        machine.migration_is_running = False
        for these, elements in self._lists:
            these[:] = elements
        ram = machine.ram
        if ram is None:
            return
        if ram.staged:
            ram.rollback()
        ram.blocks[:] = [block for block, _ in self._memory]
        ram.incoming, ram.outgoing = Incoming(), Outgoing()
        for block, contents in self._memory:
            block.memory.write(0, contents)
            block.memory.dirty[:] = bytes(len(block.memory.dirty))

    def resources(self) -> dict[str, int]:
        """How many there are of what a migration may use and must give back."""
        machine = self.machine
        return {
            "handlers": len(machine.savevm.handlers),
            "described devices": len(machine.savevm.described),
            "timers": len(machine.timers.timers),
            "stop handlers": len(machine.stop_handlers),
            "announced NICs": len(machine.nics),
            "devices": len(machine.devices),
            "RAM blocks": len(machine.ram.blocks) if machine.ram is not None else 0,
        }

    def left_behind(self) -> tuple[str, ...]:
        """What there is more or less of than when it was new, and what of a save or a load
        is still remembered."""
        now = self.resources()
        found = [
            f"{now[name] - count:+d} {name}"
            for name, count in self._counts.items()
            if now[name] != count
        ]
        if self.machine.migration_is_running:
            found.append("a migration that is said to run")
        ram = self.machine.ram
        if ram is not None:
            if ram.staged:
                found.append("RAM that is staged")
            outgoing = ram.outgoing
            if outgoing.cache is not None or outgoing.schedule is not None:
                found.append("a cache of pages that were sent")
            if outgoing.page or outgoing.block or outgoing.rounds or not outgoing.bulk_stage:
                found.append("a place in RAM where a save goes on")
        return tuple(found)


def _lists_of(machine: Machine) -> tuple[list[object], ...]:
    lists: tuple[list[object], ...] = (
        machine.timers.timers, machine.stop_handlers, machine.nics, machine.block_devices,
    )  # type: ignore[assignment]  # fmt: skip
    return lists


class Stable:
    """The machines of all stories of one thread.

    Args:
        plant: makes the parts of one story that has planted bugs, which may remember what they
            like: nothing outlives a story then.

    Attributes:
        parts: those of the present story.
        device_bytes: what the devices of each kind take in a stream at most, as far as was
            asked: subsections that come and go make them a fifth larger.
    """

    __slots__ = ("_plant", "_slots", "_twins", "device_bytes", "parts")

    def __init__(self, plant: Callable[[], Parts] | None = None) -> None:
        self._plant = plant
        self.parts = Parts()
        self._slots: dict[str, list[Slot]] = {}
        self._twins: dict[str, Slot] = {}
        self.device_bytes: dict[str, int] = {}

    def slots(self, kind: str) -> list[Slot]:
        """Machines for a story that begins, as they were left; to be renewed before they are
        used."""
        if self._plant is not None:
            self._slots.clear()
            self.parts = self._plant()
        slots = self._slots.get(kind)
        if slots is None:
            slots = self._slots[kind] = [self._build(kind, self.parts) for _ in range(SLOTS)]
        if kind not in self.device_bytes:
            self.device_bytes[kind] = _device_bytes(self.twin(kind).machine) * 5 // 4
        return slots

    def twin(self, kind: str) -> Slot:
        """A machine as new that never migrates, and has no bugs."""
        twin = self._twins.get(kind)
        if twin is None:
            twin = self._twins[kind] = self._build(kind, Parts())
        twin.renew()
        return twin

    def forget(self) -> None:
        """Something went wrong: build anew what is needed next."""
        self._slots.clear()
        self._twins.clear()

    def _build(self, kind: str, parts: Parts) -> Slot:
        machine = machine_with(*KINDS[kind], ram_bytes=RAM_PAGES * PAGE_BYTES)
        if machine.ram is not None:
            machine.ram.add_block("vga.vram", VIDEO_PAGES * PAGE_BYTES)
        machine.vm_start()
        tick(machine, GuestPace(1, FIRST_STEPS, FIRST_WRITES))
        if parts.prepare is not None:
            parts.prepare(machine)
        return Slot(machine)


def _device_bytes(machine: Machine) -> int:
    """What a stream of ``machine`` has besides pages of RAM; its description of itself, too."""
    size = len(save_to_bytes(machine))
    for block in machine.ram.blocks if machine.ram is not None else ():
        memory = block.memory
        zeros = memory.zero_pages(0, block.used_pages)
        size -= (block.used_pages - len(zeros)) * memory.page_size
    return size
