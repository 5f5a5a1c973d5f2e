"""How a recording load of RAM tells its recorder about runs of items.

A stream of a gibibyte has a quarter of a million items; one call per item and
an object for each would take longer and more memory than everything else.  A
long run is therefore one call, and only a short one is told item by item.
"""

from dataclasses import dataclass, field
from typing import Final

from savevm.qemufile import Buffer
from savevm.ram.items import RAMFlag, RAMItem, kind_name
from savevm.recording import NodeKind, Recorder, Role

RUN_MIN: Final = 4
"""Items from which on a run is told as one."""
_WORD_SIZE: Final = 8


@dataclass(slots=True)
class _Run:
    flags: int
    block: str
    address: int
    start: int
    size: int
    count: int = 0
    payloads: list[bytes] = field(default_factory=list)


class RunReport:
    """Gathers a run over any number of batches, then tells it.

    Args:
        recorder: who is told.
        page_size: bytes from one address to the next.
    """

    def __init__(self, recorder: Recorder, page_size: int) -> None:
        self._recorder = recorder
        self._page_size = page_size
        self._run: _Run | None = None

    def add(
        self, flags: int, block: str, address: int, count: int, start: int, buffer: Buffer, pos: int
    ) -> None:
        """``count`` regular items were taken.

        Args:
            flags: of each.
            block: their block.
            address: of the first.
            count: how many.
            start: stream offset of the first.
            buffer: where they are, the first at index ``pos``.
            pos: see there.
        """
        run = self._run
        if (
            run is None
            or run.flags != flags
            or run.block != block
            or run.address + run.count * self._page_size != address
        ):
            self.flush()
            payload = self._page_size if flags & RAMFlag.PAGE else 1
            run = self._run = _Run(flags, block, address, start, _WORD_SIZE + payload)
        # A run that stays short is told in full: keep what that will need.
        for _ in range(min(count, RUN_MIN - 1 - len(run.payloads))):
            run.payloads.append(bytes(buffer[pos + _WORD_SIZE : pos + run.size]))
            pos += run.size
        run.count += count

    def flush(self) -> None:
        """Tell what was gathered: something else comes next."""
        run, self._run = self._run, None
        if run is None:
            return
        if run.count >= RUN_MIN:
            end = run.start + run.count * run.size
            self._recorder.ram_run(run.flags, run.block, run.address, run.count, run.start, end)
            return
        for number in range(run.count):
            self._tell(run, number)

    def _tell(self, run: _Run, number: int) -> None:
        recorder = self._recorder
        start = run.start + number * run.size
        middle, end = start + _WORD_SIZE, start + run.size
        address = run.address + number * self._page_size
        payload = run.payloads[number]
        recorder.enter(NodeKind.RAM_ITEM, f"page {address:#x}", start, kind_name(run.flags))
        recorder.read(Role.RAM_HEADER, start, middle, address | run.flags)
        if run.flags & RAMFlag.PAGE:
            recorder.read(Role.RAM_PAGE, middle, end, payload)
        else:
            recorder.read(Role.RAM_FILL, middle, end, payload[0])
        recorder.value(RAMItem(run.flags, run.block, address))
        recorder.leave(end)
