"""A handler that a stream has named, and the payload of one of its sections.

Source: QEMU ``migration/savevm.c``, ``LoadStateEntry`` and ``vmstate_load``.
"""

from dataclasses import dataclass
from errno import EIO

from savevm.errors import LoadError
from savevm.qemufile import QEMUFileReader
from savevm.registry import SaveStateEntry
from savevm.transaction import Transaction
from savevm.vmstate import vmstate_load_state


@dataclass(slots=True, eq=False)
class LoadStateEntry:
    """A handler that this stream has named (``LoadStateEntry``).

    Attributes:
        se: the handler.
        section_id: the stream's number for it.
        version_id: version the source saved, signed.
        full: it was named by a FULL section, not by a START.
        ended: its END section was read.
    """

    se: SaveStateEntry
    section_id: int
    version_id: int
    full: bool = False
    ended: bool = False


def vmstate_load(f: QEMUFileReader, le: LoadStateEntry, transaction: Transaction | None) -> None:
    """The payload of a section, described or old-style.

    Raises:
        LoadError: the handler refuses; its errno is the handler's.
    """
    se = le.se
    if f.trace is not None:
        f.trace("vmstate_load", se.idstr, se.vmsd.name if se.vmsd is not None else "(old)")
    if transaction is not None:
        transaction.protect(se.opaque)
    start = f.tell()
    if se.vmsd is not None:
        try:
            vmstate_load_state(f, se.vmsd, se.opaque, le.version_id)
        except LoadError as error:
            if error.offset is None:
                error.offset = start
            raise
        return
    if se.ops is None or se.ops.load_state is None:
        raise LoadError("the device has no way to load", offset=start)
    try:
        ret = se.ops.load_state(f, se.opaque, le.version_id) or 0
    except LoadError as error:
        if error.offset is None:
            error.offset = start
        raise
    if ret < 0 or (ret > 0 and not f.profile.positive_return_succeeds):
        raise LoadError(
            f"the handler refused with {ret}",
            errno=abs(ret),
            offset=start,
            expected=0,
            actual=ret,
            qemu=f"error while loading state for instance {se.instance_id:#x} of device "
            f"'{se.idstr}'",
        )
    if f.get_error() and not f.profile.eof_reads_as_zero:
        raise LoadError("the stream ended inside the device", errno=EIO, offset=start)
