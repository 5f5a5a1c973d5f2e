"""The loader that survives: it notes what it would refuse, and goes on.

Everything is decoded by :class:`~savevm.load.Loader`; this subclass only
decides where to go on after an error, and reads what it cannot understand as
opaque bytes.
"""

from errno import EIO
from typing import Final

from savevm.constants import (
    QEMU_VM_EOF,
    QEMU_VM_SECTION_END,
    QEMU_VM_SECTION_FOOTER,
    QEMU_VM_SECTION_PART,
    QEMU_VM_SECTION_START,
    QEMU_VM_VMDESCRIPTION,
)
from savevm.document.reading import RecordingReader
from savevm.document.recorder import TreeRecorder
from savevm.document.resync import FOOTER_SIZE, LOOKBACK_MAX, Footing, Searcher
from savevm.errors import LoadError
from savevm.load import Loader, LoadStateEntry, vmstate_load
from savevm.machine import Machine
from savevm.qemufile import QEMUFileWriter
from savevm.ram.items import PAGE_KINDS, RAMFlag
from savevm.recording import NodeKind, Role
from savevm.registry import SaveStateEntry, SaveVMHandlers
from savevm.state import State

HANDLERS_MAX: Final = 1024
"""Sections that one recorded stream may begin.  Real ones have some dozens; each
is compared with all before it."""
NAME_SHOWN: Final = 60
"""Characters of a name that a problem's path shows; a damaged length makes a name
of whatever follows it."""
REASON_SHOWN: Final = 240
"""Characters of a reason, for the same reason."""
_HEADER_END: Final = 8 + 1 + 4
"""Behind magic, version and the head of the configuration section."""
_HEADER_LEAST: Final = 6
"""Bytes of a START or FULL header up to its name."""


class RecordingLoader(Loader):
    """One lenient load of one stream.

    Args:
        f: the stream.
        machine: knows the devices; put back as it was at the end.
        searcher: finds where to go on.
        expects: the machine is thought to know every device: one it lacks is a
            problem.  Otherwise such a section is just opaque.
    """

    def __init__(
        self, f: RecordingReader, machine: Machine, searcher: Searcher, *, expects: bool
    ) -> None:
        super().__init__(f, machine)
        self._reader = f
        self._tree: TreeRecorder = f.recorder
        self._searcher = searcher
        self._expects = expects
        self._section_start = 0
        self._begun = 0
        self._footerless: LoadError | None = None
        self._ran_out = False

    def load(self) -> None:
        """Load all of it; nothing is raised, whatever the stream is."""
        try:
            self._load_stream()
        finally:
            self.free_handlers()
            if self._transaction is not None:
                self._transaction.rollback()

    def _load_stream(self) -> None:
        f, tree = self._reader, self._tree
        self.machine.savevm.begin_load()
        try:
            self.load_header()
        except LoadError as error:
            self._note(error)
            at = min(f.tell(), _HEADER_END)
            first = self._searcher.next_section(at)
            tree.cut(first)
            self._go_to(first, at)
        ended = False
        while True:
            try:
                self.load_sections(depth=0)
                ended = True
            except _DamagedEof:
                ended = True
                break
            except LoadError as error:
                # A stream that is cut off says so once.
                if not (self._ran_out and f.tell() >= self._searcher.size):
                    self._note(error)
                break
            following = self._behind_eof()
            if following is None:
                break
            self._go_to(following, following)
        if ended:
            try:
                self.load_vmdesc()
            except LoadError as error:
                self._note(error)
            tree.add_opaque(f.tell(), self._searcher.size, Role.TRAILER)

    def _behind_eof(self) -> int | None:
        """Where the stream goes on although an EOF was read; ``None`` if it does not."""
        f = self._reader
        at = f.tell()
        if at >= self._searcher.size or f.peek_byte() == QEMU_VM_VMDESCRIPTION:
            return None
        following = self._searcher.next_section(at)
        if following >= self._searcher.size:
            return None
        self._note(LoadError("the stream goes on behind its end", offset=at - 1))
        return following

    # -- sections --------------------------------------------------------------------------

    def load_section(self, section_type: int, start: int, depth: int) -> None:
        self._section_start = start
        before = len(self._tree.problems)
        try:
            super().load_section(section_type, start, depth)
        except LoadError as error:
            if start + 1 == self._searcher.vmdesc_start:
                self._tree.cut(start)
                self._reader.seek(start)
                self._reader.get_byte(Role.SECTION_TYPE)
                self._note(
                    LoadError(
                        f"expected the end of the sections, read {section_type:#x}",
                        offset=start, expected=QEMU_VM_EOF, actual=section_type,
                    )
                )  # fmt: skip
                raise _DamagedEof("the sections end here", offset=start) from None
            self._note(error, start)
            if not self._load_lost_part(section_type, start):
                self._skip_junk(start)
            return
        at = self._reader.tell()
        if len(self._tree.problems) > before and not self._plausible(section_type, at):
            self._skip_junk(start)

    def _plausible(self, section_type: int, at: int) -> bool:
        """Whether a command that was complained about was one."""
        known = section_type in (
            QEMU_VM_SECTION_START, QEMU_VM_SECTION_PART, QEMU_VM_SECTION_END, 4,
        )  # fmt: skip
        return known or self._searcher.is_next(at)

    def _skip_junk(self, start: int) -> None:
        """What began at ``start`` is no section: go on at the next one."""
        following = self._searcher.next_section(start + 1)
        self._tree.cut(start)
        self._go_to(following, start)

    def _load_lost_part(self, section_type: int, start: int) -> bool:
        """A PART or END whose START is missing: opaque up to its footer, or read by
        the only live handler there is."""
        f, tree = self._reader, self._tree
        if section_type not in (QEMU_VM_SECTION_PART, QEMU_VM_SECTION_END):
            return False
        if f.tell() != start + FOOTER_SIZE:
            return False
        f.seek(start + 1)
        tree.cut(start + 1)
        section_id = f.get_be32(Role.SECTION_ID)
        _, footing = self._searcher.end_of_section(section_id, f.tell())
        if footing is Footing.NONE:
            return False
        live = [le for le in self.handlers if le.se.live]
        if len(live) == 1 and live[0].se.is_ram and self._looks_like_ram():
            le = LoadStateEntry(live[0].se, section_id, live[0].version_id)
        else:
            le = LoadStateEntry(_unknown(f"section {section_id:#x}", 0), section_id, 0)
        tree.enter(NodeKind.SECTION, le.se.idstr, start)
        try:
            self.load_body(le, section_type)
        finally:
            tree.leave(f.tell())
        return True

    def _looks_like_ram(self) -> bool:
        word = int.from_bytes(self._reader.peek_buffer(8), "big")
        flags = word & (self.machine.page_size - 1) & ~RAMFlag.CONTINUE
        return flags in PAGE_KINDS or flags == RAMFlag.EOS

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
                self._note(error.within(idstr), start)
            return _unknown(idstr, instance_id)

    def _read_idstr(self, section_id: int) -> str:
        try:
            return super()._read_idstr(section_id)
        except LoadError as error:
            if self._reader.tell() >= self._searcher.size:
                raise
            self._note(error)
            return ""

    def _check_version(self, se: SaveStateEntry, version_id: int, offset: int) -> int:
        if isinstance(se.opaque, _Unknown):
            return 0
        try:
            return super()._check_version(se, version_id, offset)
        except LoadError as error:
            # The layout we know is the best guess for one that we do not.
            self._note(error.within(se.idstr))
            return se.version_id

    def load_body(self, le: LoadStateEntry, section_type: int) -> None:
        del section_type
        f, tree = self._reader, self._tree
        start = f.tell()
        try:
            if isinstance(le.se.opaque, _Unknown):
                self._find_footing(le, self._section_start + _HEADER_LEAST)
                return
            vmstate_load(f, le, self._transaction)
            self.check_section_footer(le)
        except LoadError as error:
            self._note(error.within(*tree.open_names()), start)
            self._find_footing(le, max(start, f.tell() - LOOKBACK_MAX))

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
                self._note(error.within(*self._tree.open_names()), start)
                f.get_be32(Role.FOOTER_ID)
                self._tree.enter(NodeKind.FOOTER, "footer", start)
                self._tree.leave(f.tell())
            elif searcher.is_next(start):
                self._note(error.within(*self._tree.open_names()), start)
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
                self._note(self._footerless)
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
        self._go_to(end, start)
        if footing is not Footing.NONE:
            super().check_section_footer(le)
        elif end >= self._searcher.size and not self._ran_out:
            self._ran_out = True
            if isinstance(le.se.opaque, _Unknown):
                error = LoadError("the stream ends inside the section", errno=EIO, offset=end)
                self._note(error.within(*self._tree.open_names()))

    # -- inside ------------------------------------------------------------------------------

    def _go_to(self, offset: int, seen: int) -> None:
        self._searcher.charge(self._reader.tell() - seen)
        self._reader.seek(offset)

    def _note(self, error: LoadError, offset: int | None = None) -> None:
        if error.offset is None:
            error.offset = self._reader.tell() if offset is None else offset
        error.path = tuple(_shortened(name, NAME_SHOWN) for name in error.path)
        error.reason = _shortened(error.reason, REASON_SHOWN)
        self._ran_out |= error.errno == EIO
        self._tree.problem(error)


class _DamagedEof(LoadError):
    """The byte before the vmdesc is not the EOF it should be."""


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}…"


class _Unknown(State):
    """The state of a device that nothing is known about."""


def _nothing_to_save(f: QEMUFileWriter, opaque: object) -> int:
    raise AssertionError((f, opaque))


def _unknown(idstr: str, instance_id: int) -> SaveStateEntry:
    """A handler for a section whose layout is not known."""
    ops = SaveVMHandlers(save_live_setup=_nothing_to_save)
    return SaveStateEntry(idstr, instance_id, 0, -1, _Unknown(), ops=ops)
