"""The loader that survives: it notes what it would refuse, and goes on.

Everything is decoded by :class:`~savevm.load.Loader`; this subclass only
decides where to go on after an error, and reads what it cannot understand as
opaque bytes.
"""

from typing import Final

from savevm.constants import (
    QEMU_VM_COMMAND,
    QEMU_VM_EOF,
    QEMU_VM_SECTION_END,
    QEMU_VM_SECTION_PART,
    QEMU_VM_VMDESCRIPTION,
)
from savevm.document.resync import FOOTER_SIZE, Footing
from savevm.document.section_loader import COMMANDS_MAX, SectionLoader
from savevm.document.unknown import unknown_entry
from savevm.errors import LoadError
from savevm.load_entry import LoadStateEntry
from savevm.ram.items import PAGE_KINDS, RAMFlag
from savevm.recording import NodeKind, Role

_HEADER_END: Final = 8 + 1 + 4
"""Behind magic, version and the head of the configuration section."""

_COMMAND_HEAD: Final = 1 + 2 + 2
"""Type byte, number and length."""


class RecordingLoader(SectionLoader):
    """One lenient load of one stream, from its header to what follows its end.

    The machine is put back as it was when the load is over.
    """

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
            self.note(error)
            at = min(f.tell(), _HEADER_END)
            first = self._searcher.next_section(at)
            tree.cut(first)
            self.go_to(first, at)
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
                if not (self.ran_out and f.tell() >= self._searcher.size):
                    self.note(error)
                break
            following = self._behind_eof()
            if following is None:
                break
            self.go_to(following, following)
        if ended:
            try:
                self.load_vmdesc()
            except LoadError as error:
                self.note(error)
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
        self.note(LoadError("the stream goes on behind its end", offset=at - 1))
        return following

    # -- sections --------------------------------------------------------------------------

    def load_section(self, section_type: int, start: int, depth: int) -> None:
        self.section_start = start
        if section_type == QEMU_VM_COMMAND:
            self._commands += 1
            if self._commands > COMMANDS_MAX:
                self._skip_commands(start)
                return
        before = self._tree.noted
        try:
            super().load_section(section_type, start, depth)
        except LoadError as error:
            if start + 1 == self._searcher.vmdesc_start:
                self._tree.cut(start)
                self._reader.seek(start)
                self._reader.get_byte(Role.SECTION_TYPE)
                self.note(
                    LoadError(
                        f"expected the end of the sections, read {section_type:#x}",
                        offset=start, expected=QEMU_VM_EOF, actual=section_type,
                    )
                )  # fmt: skip
                raise _DamagedEof("the sections end here", offset=start) from None
            self.note(error, start)
            if not self._load_lost_part(section_type, start):
                self._skip_junk(start)
            return
        if section_type == QEMU_VM_COMMAND and self._tree.noted > before:
            # A command that was complained about may be none.
            if not self._searcher.is_next(self._reader.tell()):
                self._skip_junk(start)

    def _skip_commands(self, start: int) -> None:
        """One command too many: it and those that follow it stay opaque, which is
        said once."""
        f, size = self._reader, self._searcher.size
        if self._commands == COMMANDS_MAX + 1:
            self.note(LoadError(f"more than {COMMANDS_MAX} commands", offset=start))
        at = start
        while True:
            f.seek(at)
            head = f.peek_buffer(_COMMAND_HEAD)
            if len(head) < _COMMAND_HEAD or head[0] != QEMU_VM_COMMAND:
                break
            at = min(at + _COMMAND_HEAD + int.from_bytes(head[3:], "big"), size)
        if at == start:
            # Cut off in its head.
            at = size
        self._tree.cut(start)
        f.seek(at)

    def _skip_junk(self, start: int) -> None:
        """What began at ``start`` is no section: go on at the next one."""
        following = self._searcher.next_section(start + 1)
        self._tree.cut(start)
        self.go_to(following, start)

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
            le = LoadStateEntry(unknown_entry(f"section {section_id:#x}", 0), section_id, 0)
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


class _DamagedEof(LoadError):
    """The byte before the vmdesc is not the EOF it should be."""
