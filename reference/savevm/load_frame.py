"""What frames the sections of a stream: header, configuration, vmdesc.

The :class:`~savevm.load.Loader` is this and the sections in between.  Source:
QEMU ``migration/savevm.c``, both ends of ``qemu_loadvm_state``.
"""

from errno import ENOTSUP

from savevm.configuration import VMSTATE_CONFIGURATION, ConfigurationState
from savevm.constants import (
    MAX_VMDESC,
    QEMU_VM_CONFIGURATION,
    QEMU_VM_FILE_MAGIC,
    QEMU_VM_FILE_VERSION,
    QEMU_VM_FILE_VERSION_COMPAT,
    QEMU_VM_VMDESCRIPTION,
)
from savevm.errors import LoadError
from savevm.machine import Machine
from savevm.qemufile import QEMUFileReader
from savevm.recording import NodeKind, Role
from savevm.vmstate import vmstate_load_state


class FrameLoader:
    """Loads what is before and behind the sections.

    Args:
        f: the stream; its profile decides the manners of this load.
        machine: what is loaded into.
    """

    def __init__(self, f: QEMUFileReader, machine: Machine) -> None:
        self.f = f
        self.machine = machine

    def load_header(self) -> None:
        """Magic, version, and the configuration if there is one."""
        f = self.f
        start = f.tell()
        magic = f.get_be32(Role.MAGIC)
        if magic != QEMU_VM_FILE_MAGIC:
            f.complain(
                LoadError(
                    f"expected magic {QEMU_VM_FILE_MAGIC:#x}, read {magic:#x}: "
                    "not a migration stream",
                    offset=start,
                    path=("header",),
                    expected=QEMU_VM_FILE_MAGIC,
                    actual=magic,
                    qemu="Not a migration stream",
                )
            )
        version = f.get_be32(Role.VERSION)
        if version != QEMU_VM_FILE_VERSION:
            obsolete = version == QEMU_VM_FILE_VERSION_COMPAT
            f.complain(
                LoadError(
                    f"expected stream version {QEMU_VM_FILE_VERSION}, read {version}",
                    errno=ENOTSUP,
                    offset=start + 4,
                    path=("header",),
                    expected=QEMU_VM_FILE_VERSION,
                    actual=version,
                    qemu="SaveVM v2 format is obsolete and don't work anymore"
                    if obsolete
                    else "Unsupported migration stream version",
                )
            )
        if f.recorder is not None:
            f.recorder.enter(NodeKind.HEADER, "header", start)
            f.recorder.leave(f.tell())
        if f.peek_byte() == QEMU_VM_CONFIGURATION:
            self.load_configuration()

    def load_configuration(self) -> None:
        """The configuration section, behind the header."""
        f = self.f
        start = f.tell()
        f.get_byte(Role.SECTION_TYPE)
        if f.recorder is not None:
            f.recorder.enter(NodeKind.CONFIGURATION, "configuration", start)
        try:
            state = ConfigurationState(self.machine)
            vmstate_load_state(f, VMSTATE_CONFIGURATION, state, 0)
        except LoadError as error:
            if error.offset is None:
                error.offset = start
            raise error.within("configuration") from None
        finally:
            if f.recorder is not None:
                f.recorder.leave(f.tell())

    def load_vmdesc(self) -> None:
        """The description behind EOF, if there is one; its text is not used."""
        f = self.f
        if f.peek_byte() != QEMU_VM_VMDESCRIPTION:
            return
        start = f.tell()
        f.get_byte(Role.SECTION_TYPE)
        try:
            size = f.get_be32(Role.VMDESC_SIZE)
            if size > MAX_VMDESC and not f.profile.vmdesc_errors_ignored:
                raise LoadError(
                    f"a description of {size} bytes, at most {MAX_VMDESC} are read",
                    offset=start + 1,
                    expected=MAX_VMDESC,
                    actual=size,
                )
            if f.recorder is not None:
                f.get_buffer(size, Role.VMDESC)
            else:
                f.skip_bytes(size, Role.VMDESC)
        except LoadError as error:
            raise error.within("vmdesc") from None
        finally:
            if f.recorder is not None:
                f.recorder.enter(NodeKind.VMDESC, "vmdesc", start)
                f.recorder.leave(f.tell())
