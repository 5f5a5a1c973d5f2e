"""Loading a machine: ``qemu_loadvm_state`` and all of its errors.

Theory of operation.  One :class:`Loader` serves one load.  It reads sections
until EOF; START and FULL name their handler and are remembered in a list,
newest first, where PART and END find it again by section id.  Under a strict
profile all of it happens inside a :class:`~savevm.transaction.Transaction`.
Only :class:`LoadError` leaves; its path begins with the section's name.  What
frames the sections is in :mod:`savevm.load_frame`, what one section's handler
does with it in :mod:`savevm.load_entry`.

A recording load (:mod:`savevm.document`) is a subclass that survives errors;
what it may override is marked so.  Source: QEMU ``migration/savevm.c``.
"""

from errno import EINVAL, EIO

from savevm.commands import (
    MAX_VM_CMD_PACKAGED_SIZE,
    PACKAGED_DEPTH_MAX,
    Command,
    PostcopyState,
    ReceivedCommand,
    next_postcopy_state,
    read_command,
)
from savevm.constants import (
    MAX_SECTIONS,
    QEMU_VM_COMMAND,
    QEMU_VM_EOF,
    QEMU_VM_SECTION_END,
    QEMU_VM_SECTION_FOOTER,
    QEMU_VM_SECTION_FULL,
    QEMU_VM_SECTION_PART,
    QEMU_VM_SECTION_START,
)
from savevm.errors import LoadError
from savevm.load_entry import LoadStateEntry, vmstate_load
from savevm.load_frame import FrameLoader
from savevm.machine import Machine
from savevm.qemufile import QEMUFileReader, Source
from savevm.recording import NodeKind, Role
from savevm.registry import SaveStateEntry
from savevm.save import qemu_savevm_state_blocked
from savevm.trace import Trace
from savevm.transaction import Transaction


class Loader(FrameLoader):
    """One load of one stream into one machine.

    Args:
        f: the stream; its profile decides the manners of this load.
        machine: what is loaded into.

    Attributes:
        handlers: what the stream has named so far, newest first
            (``loadvm_handlers``).
        commands: VM_COMMANDs received, in order.
    """

    def __init__(self, f: QEMUFileReader, machine: Machine) -> None:
        super().__init__(f, machine)
        self.handlers: list[LoadStateEntry] = []
        self.commands: list[ReceivedCommand] = []
        self._transaction = None if f.profile.failed_load_keeps_state else Transaction(machine)
        self._sections = 0
        self._postcopy = PostcopyState.NONE
        self._error_after_eof = 0

    def load(self) -> None:
        """Load the whole stream.

        Raises:
            LoadError: the stream is refused; under a strict profile the
                machine is as it was.
        """
        try:
            self.check_blocked()
            self.machine.savevm.begin_load()
            self.load_header()
            self.load_sections(depth=0)
            self._error_after_eof = self.f.get_error()
            if self.f.trace is not None:
                self.f.trace("qemu_loadvm_state_post_main", self._error_after_eof)
            self.load_vmdesc()
            self.machine.cpu_synchronize_all_post_init()
            if self._error_after_eof:
                raise LoadError(
                    "the stream ended where a section was expected",
                    errno=-self._error_after_eof,
                    offset=self.f.tell(),
                )
        except BaseException:
            if self._transaction is not None:
                self._transaction.rollback()
            raise
        finally:
            self.free_handlers()
        if self._transaction is not None:
            self._transaction.commit()

    def free_handlers(self) -> None:
        """Forget what the stream has named (``loadvm_free_handlers``)."""
        self.handlers.clear()

    def check_blocked(self) -> None:
        """Refuse when a device does not let the machine migrate."""
        blocked = qemu_savevm_state_blocked(self.machine)
        if blocked is not None:
            raise LoadError(blocked, errno=EINVAL, qemu=blocked)

    # -- sections ------------------------------------------------------------------------

    def load_sections(self, depth: int) -> None:
        """Sections up to EOF (``qemu_loadvm_state_main``).

        Args:
            depth: 0 for the stream itself, 1 inside a package.
        """
        while self.load_next_section(depth):
            pass
        if not self.f.profile.sections_are_untied:
            self.check_ended(self.f.tell() - 1)

    def load_next_section(self, depth: int) -> bool:
        """One section; false at EOF."""
        f = self.f
        start = f.tell()
        section_type = f.get_byte(Role.SECTION_TYPE)
        if section_type == QEMU_VM_EOF:
            return False
        if f.trace is not None:
            f.trace("qemu_loadvm_state_section", section_type)
        self._sections += 1
        if self._sections > MAX_SECTIONS:
            raise LoadError(
                f"more than {MAX_SECTIONS} sections", offset=start, expected=MAX_SECTIONS
            )
        self.load_section(section_type, start, depth)
        return True

    def load_section(self, section_type: int, start: int, depth: int) -> None:
        """One section behind its type byte.  A recording loader overrides this
        to survive what it raises."""
        if section_type in (QEMU_VM_SECTION_START, QEMU_VM_SECTION_FULL):
            self.load_section_start_full(section_type, start)
        elif section_type in (QEMU_VM_SECTION_PART, QEMU_VM_SECTION_END):
            self.load_section_part_end(section_type, start)
        elif section_type == QEMU_VM_COMMAND:
            self.load_command(start, depth)
        else:
            raise LoadError(
                f"unknown section type {section_type:#x}",
                offset=start,
                actual=section_type,
                qemu=f"Unknown savevm section type {section_type}",
            )

    def load_section_start_full(self, section_type: int, start: int) -> None:
        """A section that names its handler."""
        f = self.f
        section_id = f.get_be32(Role.SECTION_ID)
        idstr = self._read_idstr(section_id)
        try:
            instance_id = f.get_be32(Role.INSTANCE_ID)
            version_at = f.tell()
            version_id = f.get_be32(Role.VERSION_ID)
        except LoadError as error:
            raise error.within(idstr) from None
        if f.trace is not None:
            f.trace(
                "qemu_loadvm_state_section_startfull", section_id, idstr, instance_id, version_id
            )
        if f.recorder is not None:
            f.recorder.enter(NodeKind.SECTION, idstr, start)
        try:
            se = self.find_handler(section_type, section_id, idstr, instance_id, start)
            version = self._check_version(se, version_id, version_at)
            le = LoadStateEntry(se, section_id, version, section_type == QEMU_VM_SECTION_FULL)
            if self.machine.adopts:
                self._adopt(le)
            self.handlers.insert(0, le)
            self.load_body(le, section_type)
        except LoadError as error:
            raise error.within(idstr) from None
        finally:
            if f.recorder is not None:
                f.recorder.leave(f.tell())

    def _adopt(self, le: LoadStateEntry) -> None:
        """Take over what the stream alone knows of a handler."""
        le.se.section_id = le.section_id
        le.se.early = le.full and all(other.full for other in self.handlers)
        if le.se.vmsd is None:
            le.se.version_id = le.version_id

    def load_section_part_end(self, section_type: int, start: int) -> None:
        """A section that continues an earlier one."""
        f = self.f
        section_id = f.get_be32(Role.SECTION_ID)
        if f.trace is not None:
            f.trace("qemu_loadvm_state_section_partend", section_id)
        le = next((le for le in self.handlers if le.section_id == section_id), None)
        if le is None:
            raise LoadError(
                f"section id {section_id:#x} was not begun in this stream",
                offset=start + 1,
                path=(f"section {section_id:#x}",),
                actual=section_id,
                qemu=f"Unknown savevm section {section_id}",
            )
        if f.recorder is not None:
            f.recorder.enter(NodeKind.SECTION, le.se.idstr, start)
        try:
            if not f.profile.sections_are_untied and (le.full or le.ended):
                what = "has already ended" if le.ended else "does not come in parts"
                f.complain(LoadError(f"section id {section_id:#x} {what}", offset=start))
            le.ended = section_type == QEMU_VM_SECTION_END
            self.load_body(le, section_type)
        except LoadError as error:
            raise error.within(le.se.idstr) from None
        finally:
            if f.recorder is not None:
                f.recorder.leave(f.tell())

    def load_body(self, le: LoadStateEntry, section_type: int) -> None:
        """Payload and footer of a section whose handler is known."""
        del section_type
        vmstate_load(self.f, le, self._transaction)
        self.check_section_footer(le)

    def _read_idstr(self, section_id: int) -> str:
        f = self.f
        offset = f.tell()
        where = f"section {section_id:#x}"
        try:
            idstr = f.get_counted_string(Role.IDSTR)
        except LoadError as error:
            if not f.profile.string_failure_is_einval:
                raise error.within(where) from None
            idstr = None
        if idstr is not None and f.profile.strings_end_at_nul:
            idstr = idstr.partition("\0")[0]
        if not idstr:
            cut = idstr is None
            raise LoadError(
                f"the name of the section is {'cut off' if cut else 'empty'}",
                errno=EIO if cut and not f.profile.string_failure_is_einval else EINVAL,
                offset=offset,
                path=(where,),
                qemu=f"Unable to read ID string for section {section_id}",
            )
        if "\0" in idstr:
            f.complain(
                LoadError(f"the name {idstr!r} has a NUL inside", offset=offset, actual=idstr)
            )
        return idstr

    def find_handler(
        self, section_type: int, section_id: int, idstr: str, instance_id: int, start: int
    ) -> SaveStateEntry:
        """The handler that a START or FULL section is for.  A recording loader
        overrides this to go on without one.

        Raises:
            LoadError: there is none, or it is not one for this section.
        """
        f = self.f
        se = self.machine.savevm.find_se(idstr, instance_id, f.profile)
        if se is None:
            raise LoadError(
                f"no device {idstr!r} instance {instance_id} in this machine",
                offset=start,
                actual=(idstr, instance_id),
                qemu=f"Unknown savevm section or instance '{idstr}' {instance_id}",
            )
        if not f.profile.sections_are_untied:
            starts = section_type == QEMU_VM_SECTION_START
            if not (se.live if starts else se.full):
                kind = "START" if starts else "FULL"
                f.complain(
                    LoadError(f"a {kind} section for a device that never saves one", offset=start)
                )
            for le in self.handlers:
                if le.se is se and not le.full and not starts:
                    # A handler that is both live and old-style saves both kinds.
                    continue
                if le.se is se or le.section_id == section_id:
                    what = "device" if le.se is se else f"section id {section_id:#x}"
                    f.complain(LoadError(f"the {what} comes twice", offset=start))
                    break
        return se

    def _check_version(self, se: SaveStateEntry, version_id: int, offset: int) -> int:
        """The version as a signed number, if it is not newer than ours."""
        signed = version_id - (1 << 32) if version_id > 0x7FFF_FFFF else version_id
        if self.f.profile.version_compared_unsigned:
            too_new = version_id > se.version_id & 0xFFFF_FFFF
        else:
            too_new = signed > se.version_id or signed < min(se.version_id, 0)
        if too_new:
            raise LoadError(
                f"expected version {se.version_id} or older, read {version_id}",
                offset=offset,
                path=("version",),
                expected=se.version_id,
                actual=version_id,
                qemu=f"savevm: unsupported version {signed} for '{se.idstr}' v{se.version_id}",
            )
        return signed

    def has_footer(self) -> bool:
        """Whether a footer must follow.  Machine types of 2.3 and older send
        none; one that adopts learns from the first section what it adopts."""
        machine = self.machine
        first = machine.adopts and self._sections == 1
        if first and self.f.peek_byte() != QEMU_VM_SECTION_FOOTER:
            machine.skip_section_footers = True
        return not machine.skip_section_footers

    def check_section_footer(self, le: LoadStateEntry) -> None:
        """Mark and id behind a section (``check_section_footer``).

        Raises:
            LoadError: missing, or for another section.
        """
        f = self.f
        if not self.has_footer():
            return
        start = f.tell()
        mark = f.get_byte(Role.FOOTER_MARK)
        if mark != QEMU_VM_SECTION_FOOTER:
            raise LoadError(
                f"expected mark {QEMU_VM_SECTION_FOOTER:#x}, read {mark:#x}",
                offset=start,
                path=("footer",),
                expected=QEMU_VM_SECTION_FOOTER,
                actual=mark,
                qemu=f"Missing section footer for {le.se.idstr}",
            )
        section_id = f.get_be32(Role.FOOTER_ID)
        if f.profile.footer_compares_local_id:
            expected = le.se.section_id
        else:
            expected = le.section_id
        if f.recorder is not None:
            f.recorder.enter(NodeKind.FOOTER, "footer", start)
            f.recorder.leave(f.tell())
        if section_id != expected:
            f.complain(
                LoadError(
                    f"expected section id {expected:#x}, read {section_id:#x}",
                    offset=start + 1,
                    path=("footer",),
                    expected=expected,
                    actual=section_id,
                    qemu=f"Mismatched section id in footer for {le.se.idstr} - "
                    f"read 0x{section_id:x} expected 0x{expected:x}",
                )
            )

    def check_ended(self, offset: int) -> None:
        for le in self.handlers:
            if le.se.ends and not le.full and not le.ended:
                self.f.complain(
                    LoadError(
                        f"section id {le.section_id:#x} was begun and never ended",
                        offset=offset,
                        path=(le.se.idstr,),
                    )
                )

    # -- commands ----------------------------------------------------------------------------

    def load_command(self, start: int, depth: int) -> None:
        """A VM_COMMAND; a package's sections are loaded in place."""
        f = self.f
        try:
            received = read_command(f, start)
            self.commands.append(received)
            self._postcopy = next_postcopy_state(self._postcopy, received)
            if f.recorder is not None:
                f.recorder.enter(NodeKind.COMMAND, received.command.name, start)
                f.recorder.leave(f.tell())
            if received.command is Command.PACKAGED:
                self._load_package(received, depth)
        except LoadError as error:
            if f.trace is not None:
                f.trace("qemu_loadvm_state_section_command", -error.errno)
            raise error.within("command") from None
        if f.trace is not None:
            f.trace("qemu_loadvm_state_section_command", 0)

    def _load_package(self, received: ReceivedCommand, depth: int) -> None:
        f = self.f
        size = int.from_bytes(received.payload, "big")
        if size > MAX_VM_CMD_PACKAGED_SIZE or depth >= PACKAGED_DEPTH_MAX:
            raise LoadError(
                f"a package of {size} bytes, at most {MAX_VM_CMD_PACKAGED_SIZE} are read"
                if size > MAX_VM_CMD_PACKAGED_SIZE
                else "a package inside a package",
                offset=received.offset + 5,
                expected=MAX_VM_CMD_PACKAGED_SIZE,
                actual=size,
                qemu=f"Unreasonably large packaged state: {size}",
            )
        end = f.tell() + size
        while f.tell() < end and self.load_next_section(depth + 1):
            pass
        if f.tell() != end:
            raise LoadError(
                f"the package ends at {end:#x}, its sections at {f.tell():#x}",
                offset=f.tell(),
                expected=end,
                actual=f.tell(),
            )


def qemu_loadvm_state(f: QEMUFileReader, machine: Machine) -> None:
    """Load a stream into a machine.

    Args:
        f: the stream, with the profile and trace of this load.
        machine: must have the devices the stream was saved from.

    Raises:
        LoadError: and nothing else.  Under a strict profile the machine's
            digest is then what it was before.
    """
    Loader(f, machine).load()


def load_from_bytes(
    machine: Machine,
    data: bytes | bytearray | memoryview | Source,
    *,
    trace: Trace | None = None,
    trace_fields: bool = True,
) -> None:
    """Load a stream from memory or a source, in the manner of the machine's profile.

    Raises:
        LoadError: as :func:`qemu_loadvm_state`.
    """
    f = QEMUFileReader(data, profile=machine.profile, trace=trace, trace_fields=trace_fields)
    try:
        qemu_loadvm_state(f, machine)
    finally:
        f.close()
