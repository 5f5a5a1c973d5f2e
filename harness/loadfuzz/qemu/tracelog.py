"""Trace events of a stock QEMU while it loads: which sections it met, and which fields.

Needs no rebuilt binary: the ``log`` backend, which distributions compile in, prints events
to the file that ``-D`` names, and QMP's ``trace-event-set-state`` switches them on and off
by pattern (migration/trace-events names them).  Only names that the binary itself has
become part of an event, and each field is reported once: so their number is bounded,
whatever the stream says.
"""

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadfuzz.qemu.monitor import encode

PATTERN: Final = "*vm*state_*"
"""Events that are recorded: sections (``qemu_loadvm_state_section_startfull``), and what of their
descriptions was read (``vmstate_load*``, ``vmstate_subsection_load_good``).  One pattern for
all, and some that say nothing here: each command takes a third of a load's time."""
READ_MAX: Final = 4 << 20
"""Bytes of the log of one load that are read; a pc prints 160 kB, and an array whose length was
raised prints a line or two for each element."""
EVENTS_MAX: Final = 8192
"""Events kept of one load: a pc has 700 different ones."""
NAME_MAX: Final = 300
"""Characters of an event; a section's name has up to 255."""

SWITCH_ON: Final = encode("trace-event-set-state", name=PATTERN, enable=True)
SWITCH_OFF: Final = encode("trace-event-set-state", name=PATTERN, enable=False)

LINES_MAX: Final = 1 << 13
"""Lines that are remembered, about; a pc has two thousand different ones.  One load's more are all
that comes on top."""

_HOLE_SKIP: Final = os.SEEK_DATA
_SECTION: Final = re.compile(r"qemu_loadvm_state_section_startfull \d+\((.*)\) (\d+) (\d+)$")
_VMSTATE_LOAD: Final = re.compile(r"vmstate_load (.*), [^,]*$")
_END: Final = re.compile(r"vmstate_load_state_end (\S+) (.*)/(-?\d+)$")
_FIELD: Final = re.compile(
    r"(?P<event>vmstate_(?:load_state_field|subsection_load_good) \S+)(?: exists=(?P<exists>\d))?$"
)
"""Newer releases also say whether a field is in the stream (``vmstate_load_state`` in
migration/vmstate.c)."""
_STAMP: Final = re.compile(r"^\d+@\d+\.\d+:")
"""What QEMU puts before each line with ``-msg timestamp=on``."""
_DIGITS: Final = re.compile(r"\d+")


def log_arguments(name: str) -> list[str]:
    """QEMU's arguments that have it log to the file of that name."""
    return ["-D", name]


class TraceLog:
    """The file that a QEMU logs to.

    Args:
        path: of a file that QEMU does not have yet; made here, and may be unlinked.

    Attributes:
        position: bytes behind which QEMU goes on, as far as is known: all that it has logged.
    """

    __slots__ = ("_descriptor", "_reader", "path", "position")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        self._reader = LogReader()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @property
    def descriptor(self) -> int:
        """Of ours, open for reading and writing."""
        return self._descriptor

    def take(self) -> tuple[str, ...]:
        """The events since this was last called, see :class:`LogReader`; empties the file."""
        size = os.fstat(self._descriptor).st_size
        if not size:
            return ()
        # QEMU goes on at its own position behind what is cut off here: the file then begins
        # with a hole, which takes no room but counts for the limit of a file's size.
        self.position = max(self.position, size)
        begin = 0
        with suppress(OSError):
            begin = os.lseek(self._descriptor, 0, _HOLE_SKIP)
        data = os.pread(self._descriptor, READ_MAX, begin)
        os.ftruncate(self._descriptor, 0)
        return self._reader.events_of(data.lstrip(b"\0").decode("utf-8", "replace"))

    def close(self) -> None:
        """Close it.  Closing again does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@dataclass(frozen=True, slots=True)
class _Line:
    """What a line of a log says.

    Attributes:
        event: that is reported once, "" for none.
        section: IDSTR, INSTANCE and VERSION of a section that begins.
        device: whose state is loaded.
    """

    event: str = ""
    section: tuple[str, str] | None = None
    device: str | None = None


class LogReader:
    """Makes events of logs, and remembers lines: loads of one machine say nearly all the same.

    Made for one process, whose lines are of a limited kind.
    """

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}

    def events_of(self, log: str) -> tuple[str, ...]:
        """What a log says, for :mod:`loadfuzz.feedback.novelty`.

        Returns:
            In the order of the log: ``vmstate_load IDSTR INSTANCE VERSION`` for each section
            whose device was found, ``vmstate_load IDSTR part`` for one that continues; each
            field and subsection of a description that was read, once; and each description
            that was not read to its end, with the reason.
        """
        lines = self._lines
        if len(lines) > LINES_MAX:
            lines.clear()
        events: list[str] = []
        seen: set[str] = set()
        header: tuple[str, str] | None = None
        for text in log.split("\n"):
            if len(events) >= EVENTS_MAX:
                break
            line = lines.get(text)
            if line is None:
                line = lines[text] = _understand(_STAMP.sub("", text))
            if line.event:
                if line.event not in seen:
                    seen.add(line.event)
                    events.append(line.event)
            elif line.section is not None:
                header = line.section
            elif line.device is not None:
                known = header is not None and header[0] == line.device
                what = header[1] if header is not None and known else "part"
                header = None
                events.append(f"vmstate_load {line.device} {what}"[:NAME_MAX])
        return tuple(events)


def _understand(text: str) -> _Line:
    if found := _SECTION.match(text):
        return _Line(section=(found[1], f"{found[2]} {found[3]}"))
    if found := _VMSTATE_LOAD.match(text):
        return _Line(device=found[1])
    if found := _FIELD.match(text):
        event = "" if found["exists"] == "0" else found["event"]
        return _Line(_DIGITS.sub("#", event)[:NAME_MAX])
    if (found := _END.match(text)) and found[3] != "0":
        end = f"vmstate_load_state_end {found[1]} {found[2]}/{found[3]}"
        return _Line(_DIGITS.sub("#", end)[:NAME_MAX])
    return _Line()
