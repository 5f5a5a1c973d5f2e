"""RAM at speed: loading and saving full pages against plainly copying them."""

from collections.abc import Sequence
from typing import Final

from loadfuzz.bench.results import Figure, best_of
from savevm.load import load_from_bytes
from savevm.machine import Machine
from savevm.qemufile import QEMUFileWriter
from savevm.qemufile.sources import Buffer
from savevm.ram import RAMState
from savevm.save import qemu_savevm_state

PAGE: Final = 4096
GOAL: Final = 0.5


class _Area:
    """A sink over memory that is already there, as the baseline's target is."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self._view = memoryview(self.data)

    def writev(self, pieces: Sequence[Buffer], position: int) -> None:
        view = self._view
        for piece in pieces:
            end = position + len(piece)
            view[position:end] = piece
            position = end

    def close(self) -> None:
        """The area stays."""


def machine_with_ram(size: int) -> Machine:
    """A machine of nothing but ``size`` bytes of RAM, every page different and
    none of them zero."""
    machine = Machine("bench")
    ram = RAMState(PAGE, pages_per_iterate=1 << 20)
    block = ram.add_block("pc.ram", size)
    ram.register(machine)
    for page in range(0, size, PAGE):
        block.write(page, (page | 1).to_bytes(8, "big") * (PAGE // 8))
    return machine


def machine_pages(machine: Machine) -> bytes:
    """All of the machine's RAM."""
    assert machine.ram is not None
    (block,) = machine.ram.blocks
    return block.read(0, block.used_length)


def measure(size_mib: int) -> list[Figure]:
    """Load and save ``size_mib`` MiB of full pages; CPU time, MB/s."""
    size = size_mib << 20
    machine = machine_with_ram(size)
    area = _Area(size + (size // PAGE) * 8 + 4096)
    save_file = QEMUFileWriter(area)
    qemu_savevm_state(save_file, machine)
    length = save_file.tell()
    stream = bytes(memoryview(area.data)[:length])
    # The same pages, not zeros that were never touched and stay in the cache.
    source = memoryview(machine_pages(machine))
    target = memoryview(bytearray(source))

    def copy() -> None:
        for start in range(0, size, PAGE):
            target[start : start + PAGE] = source[start : start + PAGE]

    def load() -> None:
        load_from_bytes(machine, stream)

    def save() -> None:
        qemu_savevm_state(QEMUFileWriter(area), machine)

    load()  # the shadow of RAM is made once and kept
    copied, loaded, saved = best_of(copy, load, save)
    note = "copying the same pages 4 KiB at a time into a bytearray"
    rate = [size / 1e6 / seconds for seconds in (copied, loaded, saved)]
    return [
        Figure("ram-load", rate[1], "MB/s", rate[0], rate[1] / rate[0], GOAL, note),
        Figure("ram-save", rate[2], "MB/s", rate[0], rate[2] / rate[0], GOAL, note),
    ]
