"""How a stream looks on a screen of 80 columns.

Made from an :class:`~savevm.document.inspection.Inspection` alone, so that
what is shown is what ``--json`` says too.  Problems stand where they are in
the stream, between what was understood before and behind them.
"""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from savevm.document import Role, Value
from savevm.document.inspection import (
    FieldLine,
    Inspection,
    RamSummary,
    SectionReport,
    VmdescSummary,
)
from savevm.errors import LoadError

WIDTH: Final = 80
PATH_WIDTH: Final = 28
"""Longer paths get a line of their own."""
TYPE_WIDTH: Final = 13
HEX_BYTES_MAX: Final = 256
"""Bytes of one field in a hexdump; whoever wants a whole page has hexdump."""
HEX_COLUMNS: Final = 16
DECIMAL_LIMIT: Final = 1 << 40
"""From here on only the hexadecimal is shown: nobody reads the other."""
ELEMENTS_MAX: Final = 32
"""Elements of an array that are formatted, which is more than fit on a line."""

_HIDDEN: Final = frozenset({Role.SUBSECTION_MARK, Role.SUBSECTION_VERSION})

ReadBytes = Callable[[int, int], bytes]
"""Gives bytes ``start`` to ``end`` of the stream."""


@dataclass(frozen=True, slots=True)
class Options:
    """What of a stream is shown.

    Attributes:
        fields: show the fields of each section.
        hexdump: show their bytes too.
        section: name or path of the one section to show; all if ``None``.
    """

    fields: bool = True
    hexdump: bool = False
    section: str | None = None


def wanted(section: SectionReport, name: str | None) -> bool:
    """Whether ``name`` means this section: its idstr, or its path."""
    return name is None or name in (section.idstr, section.path, section.path.partition("/")[0])


class View:
    """One stream as lines of text.

    Args:
        inspection: what there is.
        errors: the problems in full, in stream order.
        read: the bytes, for a hexdump.
        options: what to show.
    """

    def __init__(
        self,
        inspection: Inspection,
        errors: Sequence[LoadError],
        read: ReadBytes,
        options: Options,
    ) -> None:
        self._inspection = inspection
        self._read = read
        self._options = options
        self._digits = max(8, len(f"{inspection.size:x}"))
        self._numbers = {section.start: at for at, section in enumerate(inspection.sections)}
        self._errors = list(errors)
        self._shown = 0

    def lines(self) -> Iterator[str]:
        """All of it, top to bottom."""
        inspection, options = self._inspection, self._options
        if options.section is None:
            yield from self._opening()
        items: list[SectionReport | FieldLine | VmdescSummary] = [
            section for section in inspection.sections if wanted(section, options.section)
        ]
        if options.section is None:
            items += inspection.others
            items += [inspection.vmdesc] if inspection.vmdesc is not None else []
        for item in sorted(items, key=lambda item: item.start):
            if options.section is None:
                yield from self._problems_before(item.start)
            if isinstance(item, SectionReport):
                yield from self._section(item)
            elif isinstance(item, FieldLine):
                yield from self._other(item)
            else:
                yield self._vmdesc(item)
        if options.section is None:
            yield from self._problems_before(None)
            if inspection.problems_dropped:
                yield f"! and {inspection.problems_dropped:,} problems more"

    # -- parts -----------------------------------------------------------------------------

    def _opening(self) -> Iterator[str]:
        """Header and configuration."""
        title = ""
        for line in self._inspection.header:
            yield from self._problems_before(line.start)
            part, _, name = line.path.partition("/")
            if part != title:
                title = part
                yield self._head(line.start, part, "")
            if self._options.fields and line.type != Role.SECTION_TYPE:
                yield from self._field(line, name)

    def _section(self, section: SectionReport) -> Iterator[str]:
        number = f"#{self._numbers[section.start]}"
        said = [f"id {section.section_id}"]
        if section.instance_id is not None:
            said.append(f"instance {_plain_number(section.instance_id)}")
        if section.version_id is not None:
            said.append(f"version {section.version_id}")
        said.append(_bytes(section.end - section.start))
        name = printable(section.idstr) or "(no name)"
        yield self._head(section.start, f"{number:<3} {section.type:<5} {name}", ", ".join(said))
        whole_ram = section.ram is not None and self._options.section is None
        if section.ram is not None:
            yield from self._ram(section.ram, section.type == "START")
        if self._options.fields and not whole_ram:
            yield from self._fields(section)
        elif section.opaque_bytes:
            yield f"{self._indent()}{section.opaque_bytes:,} bytes not understood"
        yield from self._problems_before(section.end, section.start)

    def _fields(self, section: SectionReport) -> Iterator[str]:
        prefix = f"{section.path}/"
        versions = {
            line.path.rpartition("/")[0]: line.value
            for line in section.fields
            if line.type == Role.SUBSECTION_VERSION
        }
        for line in section.fields:
            yield from self._problems_before(line.start, section.start)
            if line.type == Role.SUBSECTION_NAME:
                version = versions.get(line.path.rpartition("/")[0])
                said = version if isinstance(version, int) else "?"
                text = f"subsection {_text(line.value)}, version {said}"
                yield f"  {line.start:0{self._digits}x}  {text}"
            elif line.type not in _HIDDEN:
                yield from self._field(line, line.path.removeprefix(prefix))
        if section.fields_dropped:
            yield f"{self._indent()}and {section.fields_dropped:,} fields more"

    def _ram(self, ram: RamSummary, listing: bool) -> Iterator[str]:
        if not ram.blocks:
            yield f"{self._indent()}{'no blocks' if listing else 'no pages'}"
        for block in ram.blocks:
            counted = (
                (block.pages, "page"), (block.zero_pages, "zero page"),
                (block.xbzrle_pages, "XBZRLE page"),
            )  # fmt: skip
            said = [f"{n:,} {what}{'s' if n != 1 else ''}" for n, what in counted if n]
            if block.length is not None:
                said.insert(0, f"{size_words(block.length)} long")
            yield from self._wrapped(
                f"{printable(block.name) or '(no block)'}: {', '.join(said) or 'nothing'}",
                self._indent(),
            )

    def _other(self, line: FieldLine) -> Iterator[str]:
        if line.type == Role.SECTION_TYPE and line.value == 0:
            yield self._head(line.start, "EOF", "")
            return
        size = _bytes(line.end - line.start)
        if line.type in (Role.OPAQUE, Role.TRAILER):
            what = "behind the end" if line.type == Role.TRAILER else "not understood"
            yield self._head(line.start, what, size)
            yield from self._dump(line)
            return
        yield from self._field(line, line.path)

    def _vmdesc(self, vmdesc: VmdescSummary) -> str:
        size = f"{vmdesc.end - vmdesc.start:,} bytes"
        if vmdesc.page_size is None:
            return self._head(vmdesc.start, "vmdesc", f"no text that describes devices, {size}")
        said = f"{vmdesc.devices} devices, pages of {vmdesc.page_size:,} bytes"
        return self._head(vmdesc.start, "vmdesc", f"{said}, {size}")

    # -- lines -----------------------------------------------------------------------------

    def _head(self, start: int, title: str, said: str) -> str:
        left = f"{start:0{self._digits}x}  {title}"
        if not said:
            return left
        gap = WIDTH - len(left) - len(said)
        if gap >= 2:
            return f"{left}{' ' * gap}{said}"
        return f"{left}\n{said:>{WIDTH}}" if len(said) <= WIDTH else f"{left}\n  {said}"

    def _field(self, line: FieldLine, path: str) -> Iterator[str]:
        offset = f"  {line.start:0{self._digits}x}  "
        path = printable(path)
        # Of what is no field the type is its role, which is the end of its path too.
        kind = "" if path.endswith(f"/{line.type}") else shorten(printable(line.type), TYPE_WIDTH)
        if len(path) > PATH_WIDTH:
            yield f"{offset}{path}"
            head = f"{' ' * len(offset)}{'':<{PATH_WIDTH}} {kind:<{TYPE_WIDTH}} "
        else:
            head = f"{offset}{path:<{PATH_WIDTH}} {kind:<{TYPE_WIDTH}} "
        yield (head + shorten(value_words(line), WIDTH - len(head))).rstrip()
        yield from self._dump(line)

    def _dump(self, line: FieldLine) -> Iterator[str]:
        if not self._options.hexdump:
            return
        stop = min(line.end, line.start + HEX_BYTES_MAX)
        for at in range(line.start, stop, HEX_COLUMNS):
            row = self._read(at, min(at + HEX_COLUMNS, stop))
            text = "".join(chr(b) if 0x20 <= b < 0x7F else "." for b in row)
            yield f"  {at:0{self._digits}x}  {row.hex(' '):<{3 * HEX_COLUMNS - 1}}  {text}"
        if stop < line.end:
            yield f"{self._indent()}and {line.end - stop:,} bytes more"

    def _problems_before(self, end: int | None, start: int = 0) -> Iterator[str]:
        """Problems not shown yet that lie in front of ``end``."""
        while self._shown < len(self._errors):
            error = self._errors[self._shown]
            offset = error.offset or 0
            if end is not None and offset >= end:
                return
            self._shown += 1
            if offset >= start:
                yield from self.problem(error)

    def problem(self, error: LoadError) -> Iterator[str]:
        """One problem: where, what, and what QEMU says of it."""
        offset = f"! {error.offset or 0:0{self._digits}x}  "
        words = printable(": ".join((*error.path, error.reason)))
        yield from self._wrapped(words, offset, " " * len(offset))
        if error.qemu:
            yield from self._wrapped(f"QEMU says: {printable(error.qemu)}", " " * len(offset))

    def _wrapped(self, text: str, first: str, rest: str | None = None) -> Iterator[str]:
        yield from textwrap.wrap(
            text, WIDTH, initial_indent=first, subsequent_indent=first if rest is None else rest,
            break_on_hyphens=False,
        )  # fmt: skip

    def _indent(self) -> str:
        return " " * (self._digits + 4)


# -- words ---------------------------------------------------------------------------------


def printable(text: str) -> str:
    """``text`` with everything escaped that is no printable ASCII: names come
    from a stream, and a terminal obeys what it is sent."""
    return "".join(c if " " <= c <= "~" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def shorten(text: str, width: int) -> str:
    """``text`` in at most ``width`` columns."""
    return text if len(text) <= width else f"{text[: max(width - 1, 0)]}…"


def size_words(size: int) -> str:
    """A size in the unit that makes it short, if it is a whole number of them."""
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << shift and size % (1 << shift) == 0:
            return f"{size >> shift:,} {unit}"
    return f"{size:,} bytes"


def value_words(line: FieldLine) -> str:
    """What a field was understood as, in a phrase."""
    value = line.value
    if value is None:
        size = _bytes(line.end - line.start)
        return size if line.count == 1 else f"{line.count:,} elements, {size}"
    if isinstance(value, list):
        shown = ", ".join(_element(item) for item in value[:ELEMENTS_MAX])
        return f"{len(value)} × [{shown}{', …' if len(value) > ELEMENTS_MAX else ''}]"
    return _scalar(value)


def _element(value: int | float | bytes) -> str:
    return str(value) if isinstance(value, int) else _scalar(value)


def _scalar(value: int | float | str | bytes) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        if value >= DECIMAL_LIMIT:
            return f"{value:#x}"
        return f"{value} ({value:#x})" if value > 9 else str(value)
    if isinstance(value, str):
        return f'"{printable(value)}"'
    if isinstance(value, bytes):
        return _bytes_words(value)
    return repr(value)


def _bytes_words(value: bytes) -> str:
    """Text where it is text with zeros behind it, else the first bytes."""
    text = value.rstrip(b"\0")
    zeros = len(value) - len(text)
    if not text:
        return f"{zeros:,} zero byte{'s' if zeros != 1 else ''}"
    if all(0x20 <= b < 0x7F for b in text):
        return f'"{text.decode("ascii")}"' + (f" and {zeros:,} zeros" if zeros else "")
    return f"{value[:WIDTH].hex(' ')}"


def _bytes(count: int) -> str:
    return f"{count:,} byte{'s' if count != 1 else ''}"


def _text(value: Value) -> str:
    return printable(value) if isinstance(value, str) else "?"


def _plain_number(value: int) -> str:
    # All ones is what a device says that has no number of its own.
    return "-1" if value == 0xFFFF_FFFF else str(value)


def title(name: str, inspection: Inspection) -> str:
    """The line above a stream."""
    machine = f", machine {printable(inspection.machine)}" if inspection.machine else ""
    return f"{printable(name)}: {inspection.size:,} bytes{machine}"


def summary(inspection: Inspection) -> str:
    """The line below it."""
    problems = len(inspection.problems) + inspection.problems_dropped
    count = f"{len(inspection.sections)} sections"
    if not problems:
        return f"{count}, no problems"
    return f"{count}, {problems:,} problem{'s' if problems != 1 else ''} (marked with !)"
