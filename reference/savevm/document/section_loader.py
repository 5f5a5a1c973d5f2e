"""Sections that are survived: unknown devices, wrong headers, lost footers.

Each override notes what :class:`~savevm.load.Loader` would refuse, and finds out
where the section ends.
"""

from errno import EIO
from typing import Final

from savevm.constants import QEMU_VM_SECTION_FOOTER, QEMU_VM_SECTION_START
from savevm.document.reading import RecordingReader
from savevm.document.recorder import TreeRecorder
from savevm.document.resync import FOOTER_SIZE, LOOKBACK_MAX, Footing, Searcher
from savevm.document.unknown import Unknown, unknown_entry
from savevm.errors import LoadError
from savevm.load import Loader
from savevm.load_entry import LoadStateEntry, vmstate_load
from savevm.machine import Machine
from savevm.recording import NodeKind, Role
from savevm.registry import SaveStateEntry

HANDLERS_MAX: Final = 1024
"""Sections that one recorded stream may begin.  Real ones have some dozens; each
is compared with all before it."""
COMMANDS_MAX: Final = 4096
"""Commands that one recorded stream may have.  Real ones have a few, or one for
every twelve ranges that postcopy discards; each is a node with three leaves."""
NAME_SHOWN: Final = 60
"""Characters of a name that a problem's path shows; a damaged length makes a name
of whatever follows it."""
REASON_SHOWN: Final = 240
"""Characters of a reason, for the same reason."""
_HEADER_LEAST: Final = 6
"""Bytes of a START or FULL header up to its name."""


class SectionLoader(Loader):
    """The part of a lenient load that is about one section.

    Args:
        f: the stream.
        machine: knows the devices.
        searcher: finds where to go on.
        expects: the machine is thought to know every device: one it lacks is a
            problem.  Otherwise such a section is just opaque.

    Attributes:
        section_start: offset of the section under way.
        ran_out: the end of the stream was met inside something.
    """

    def __init__(
        self, f: RecordingReader, machine: Machine, searcher: Searcher, *, expects: bool
    ) -> None:
        super().__init__(f, machine)
        self._reader = f
        self._tree: TreeRecorder = f.recorder
        self._searcher = searcher
        self._expects = expects
        self.section_start = 0
        self.ran_out = False
        self._begun = 0
        self._commands = 0
        self._footerless: LoadError | None = None

    def find_handler(
        self, section_type: int, section_id: int, idstr: str, instance_id: int, start: int
    ) -> SaveStateEntry:
        self._begun += 1
        if self._begun > HANDLERS_MAX:
            raise LoadError(f"more than {HANDLERS_MAX} sections begin", offset=start)
        if section_type == QEMU_VM_SECTION_START:
            self._searcher.live_ids.add(section_id)
        try:
            return super().find_handler(section_type, section_id, idstr, instance_id, start)
        except LoadError as error:
            if not self._searcher.is_header(start):
                _, footing = self._searcher.end_of_section(section_id, start + _HEADER_LEAST)
                if footing is not Footing.OWN:
                    # Neither its beginning nor its end looks like a section's.
                    raise
            if self._expects and idstr:
                self.note(error.within(idstr), start)
            return unknown_entry(idstr, instance_id)

    def _read_idstr(self, section_id: int) -> str:
        try:
            return super()._read_idstr(section_id)
        except LoadError as error:
            if self._reader.tell() >= self._searcher.size:
                raise
            self.note(error)
            return ""

    def _check_version(self, se: SaveStateEntry, version_id: int, offset: int) -> int:
        if isinstance(se.opaque, Unknown):
            return 0
        try:
            return super()._check_version(se, version_id, offset)
        except LoadError as error:
            # The layout we know is the best guess for one that we do not.
            self.note(error.within(se.idstr))
            return se.version_id

    def load_body(self, le: LoadStateEntry, section_type: int) -> None:
        del section_type
        f, tree = self._reader, self._tree
        start = f.tell()
        try:
            if isinstance(le.se.opaque, Unknown):
                self._find_footing(le, self.section_start + _HEADER_LEAST)
                return
            self._load_payload(le)
            self.check_section_footer(le)
        except LoadError as error:
            self.note(error.within(*tree.open_names()), start)
            self._find_footing(le, max(start, f.tell() - LOOKBACK_MAX))

    def _load_payload(self, le: LoadStateEntry) -> None:
        try:
            vmstate_load(self.f, le, self._transaction)
        except LoadError:
            raise
        except Exception as error:
            # The machine may be one with bugs; what a stream is does not depend
            # on them.
            raise LoadError(f"the device fails: {type(error).__name__}: {error}") from None

    def check_section_footer(self, le: LoadStateEntry) -> None:
        f, searcher = self._reader, self._searcher
        start = f.tell()
        present = start < searcher.size and f.peek_byte() == QEMU_VM_SECTION_FOOTER
        try:
            super().check_section_footer(le)
        except LoadError as error:
            if present or start >= searcher.size:
                raise
            if searcher.is_next(start + FOOTER_SIZE):
                # Only the mark is wrong: what follows the footer is in its place.
                self.note(error.within(*self._tree.open_names()), start)
                f.get_be32(Role.FOOTER_ID)
                self._tree.enter(NodeKind.FOOTER, "footer", start)
                self._tree.leave(f.tell())
            elif searcher.is_next(start):
                self.note(error.within(*self._tree.open_names()), start)
                self._tree.cut(start)
                f.seek(start)
            else:
                raise

    def has_footer(self) -> bool:
        f, searcher, machine = self._reader, self._searcher, self.machine
        at = f.tell()
        if f.peek_byte() == QEMU_VM_SECTION_FOOTER and searcher.is_next(at + FOOTER_SIZE):
            if self._footerless is not None:
                # There are footers after all: the first one was lost.
                self.note(self._footerless)
                self._footerless = None
                machine.skip_section_footers, searcher.footers = False, True
        elif machine.adopts and not machine.skip_section_footers and searcher.is_next(at):
            if not super().has_footer():
                searcher.footers = False
                self._footerless = LoadError("the footer is missing", offset=at).within(
                    *self._tree.open_names(), "footer"
                )
        return not machine.skip_section_footers

    def _find_footing(self, le: LoadStateEntry, start: int) -> None:
        """Go to the end of a section whose payload is not understood from some
        point at or behind ``start``, and read its footer if it has one."""
        end, footing = self._searcher.end_of_section(le.section_id, start)
        self._tree.cut(end)
        self.go_to(end, start)
        if footing is not Footing.NONE:
            super().check_section_footer(le)
        elif end >= self._searcher.size and not self.ran_out:
            self.ran_out = True
            if isinstance(le.se.opaque, Unknown):
                error = LoadError("the stream ends inside the section", errno=EIO, offset=end)
                self.note(error.within(*self._tree.open_names()))

    # -- inside ------------------------------------------------------------------------------

    def go_to(self, offset: int, seen: int) -> None:
        """Go on at ``offset``; what was read from ``seen`` on may be read again."""
        self._searcher.charge(self._reader.tell() - seen)
        self._reader.seek(offset)

    def note(self, error: LoadError, offset: int | None = None) -> None:
        """Tell the tree of a problem; ``offset`` is where if the error has none."""
        if error.offset is None:
            error.offset = self._reader.tell() if offset is None else offset
        error.path = tuple(_shortened(name, NAME_SHOWN) for name in error.path)
        error.reason = _shortened(error.reason, REASON_SHOWN)
        self.ran_out |= error.errno == EIO
        self._tree.problem(error)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}…"
