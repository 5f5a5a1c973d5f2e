"""The VMStateInfo of every primitive type, get and put side by side.

Values are plain: int, bool, bytearray for buffers, an int bit pattern for
CPU_DoubleU and float64, an int for a bitmap (bit 0 lowest).  Source: QEMU
``migration/vmstate.c`` at the seed, ``migration/vmstate-types.c`` later.
"""

from collections.abc import Callable
from typing import Any, Final

from savevm.constants import MAX_ALLOC
from savevm.errors import LoadError, SaveError
from savevm.qemufile import QEMUFileReader, QEMUFileWriter
from savevm.recording import Role
from savevm.vmstate.description import Opaque, VMSFlags, VMStateField, VMStateInfo

_POINTER_NULL: Final = 0x30  # '0'
_POINTER_VALID: Final = 0x31  # '1'


def _integer(name: str, size: int, code: str, signed: bool) -> VMStateInfo:
    bits = 8 * size
    lo = -(1 << (bits - 1)) if signed else 0
    hi = (1 << (bits - 1 if signed else bits)) - 1

    def get(f: QEMUFileReader, _cur: Any, _size: int, _field: VMStateField, _op: Opaque) -> int:
        value = _READ[size](f, Role.FIELD)
        return value - (1 << bits) if value > hi else value

    def put(f: QEMUFileWriter, value: int, _size: int, _field: VMStateField, _op: Opaque) -> None:
        _WRITE[size](f, value)

    return VMStateInfo(name, get, put, size, code, lo, hi)


_READ: Final[dict[int, Callable[[QEMUFileReader, str], int]]] = {
    1: lambda f, what: f.get_byte(what),
    2: lambda f, what: f.get_be16(what),
    4: lambda f, what: f.get_be32(what),
    8: lambda f, what: f.get_be64(what),
}
_WRITE: Final[dict[int, Callable[[QEMUFileWriter, int], None]]] = {
    1: QEMUFileWriter.put_byte,
    2: QEMUFileWriter.put_be16,
    4: QEMUFileWriter.put_be32,
    8: QEMUFileWriter.put_be64,
}

INT8: Final = _integer("int8", 1, "b", True)
INT16: Final = _integer("int16", 2, "h", True)
INT32: Final = _integer("int32", 4, "i", True)
INT64: Final = _integer("int64", 8, "q", True)
UINT8: Final = _integer("uint8", 1, "B", False)
UINT16: Final = _integer("uint16", 2, "H", False)
UINT32: Final = _integer("uint32", 4, "I", False)
UINT64: Final = _integer("uint64", 8, "Q", False)
FLOAT64: Final = _integer("float64", 8, "Q", False)
"""Bit pattern of an IEEE double; the seed has it, later versions do not."""
CPU_DOUBLE: Final = _integer("CPU_Double_U", 8, "Q", False)
"""Upper word first, which is what a big-endian 64-bit word is."""


def _get_bool(f: QEMUFileReader, _c: Any, _s: int, _f: VMStateField, _o: Opaque) -> bool:
    return f.get_byte(Role.FIELD) != 0


def _put_bool(f: QEMUFileWriter, value: bool, _s: int, _f: VMStateField, _o: Opaque) -> None:
    f.put_byte(1 if value else 0)


BOOL: Final = VMStateInfo("bool", _get_bool, _put_bool, 1, "?", 0, 1)


def _equal(base: VMStateInfo) -> VMStateInfo:
    """A value that source and destination must have in common already."""

    def get(f: QEMUFileReader, current: int, size: int, field: VMStateField, op: Opaque) -> int:
        offset = f.tell()
        value: int = base.get(f, current, size, field, op)
        if value != current and not f.get_error():
            f.complain(
                LoadError(
                    f"expected {current:#x}, read {value:#x}",
                    offset=offset,
                    expected=current,
                    actual=value,
                    qemu=f"{current:x} != {value:x}",
                )
            )
        return current

    return VMStateInfo(f"{base.name} equal", get, base.put, base.size, "", base.lo, base.hi)


INT32_EQUAL: Final = _equal(INT32)
UINT8_EQUAL: Final = _equal(UINT8)
UINT16_EQUAL: Final = _equal(UINT16)
UINT32_EQUAL: Final = _equal(UINT32)
UINT64_EQUAL: Final = _equal(UINT64)
INT64_EQUAL: Final = _equal(INT64)


def _get_le(f: QEMUFileReader, current: int, size: int, field: VMStateField, op: Opaque) -> int:
    """``get_int32_le``: at least 0, at most what the destination has."""
    offset = f.tell()
    loaded: int = INT32.get(f, current, size, field, op)
    if not 0 <= loaded <= current and not f.get_error():
        f.complain(
            LoadError(
                f"expected 0 to {current}, read {loaded}",
                offset=offset,
                expected=current,
                actual=loaded,
                qemu=f"Invalid value {loaded} expecting positive value <= {current}",
            )
        )
        return current
    return loaded


INT32_LE: Final = VMStateInfo("int32 le", _get_le, INT32.put, 4, "", 0, INT32.hi)


# -- bytes -----------------------------------------------------------------------


def _get_buffer(
    f: QEMUFileReader, current: bytearray | None, size: int, field: VMStateField, _o: Opaque
) -> bytearray:
    offset = f.tell()
    if field.flags & VMSFlags.ALLOC:
        if size > MAX_ALLOC or size < 0:
            raise LoadError(
                f"a buffer of {size} bytes is asked for, at most {MAX_ALLOC} are given",
                offset=offset,
                expected=MAX_ALLOC,
                actual=size,
            )
        return bytearray(f.get_buffer(size, Role.FIELD))
    if current is None:
        raise LoadError("the buffer this would be loaded into does not exist", offset=offset)
    room = len(current) - field.start
    if size > room or (size < 0 and not f.profile.counts_are_int):
        raise LoadError(
            f"buffer holds {room} bytes, {size} announced",
            offset=offset,
            expected=room,
            actual=size,
        )
    data = f.get_buffer(size, Role.FIELD)
    current[field.start : field.start + len(data)] = data
    return current


def _put_buffer(
    f: QEMUFileWriter, value: bytearray | None, size: int, field: VMStateField, _o: Opaque
) -> None:
    if size > MAX_ALLOC:
        raise SaveError(f"{field.name}: a buffer of {size} bytes, at most {MAX_ALLOC} are saved")
    if size > 0:
        data = (value or b"")[field.start : field.start + size]
        f.put_buffer(bytes(data).ljust(size, b"\0"))


BUFFER: Final = VMStateInfo("buffer", _get_buffer, _put_buffer)


def _get_unused(
    f: QEMUFileReader, current: Any, size: int, _field: VMStateField, _o: Opaque
) -> Any:
    if size < 0:
        # Under every profile: C would read 2^64 bytes in a loop that no end of
        # file stops, which is no behaviour to reproduce.
        raise LoadError(f"negative size {size}", offset=f.tell(), expected=0, actual=size)
    f.skip_bytes(size, Role.FIELD)
    return current


def _put_unused(f: QEMUFileWriter, _v: Any, size: int, _field: VMStateField, _o: Opaque) -> None:
    f.put_buffer(bytes(max(size, 0)))


UNUSED: Final = VMStateInfo("unused_buffer", _get_unused, _put_unused)


# -- bitmaps -----------------------------------------------------------------------


def bitmap_words(bits: int) -> int:
    """64-bit words that ``bits`` bits take on the wire."""
    return (bits + 63) // 64


def _get_bitmap(f: QEMUFileReader, current: int, size: int, field: VMStateField, _o: Opaque) -> int:
    del current
    offset = f.tell()
    limit = field.num or MAX_ALLOC
    if not 0 <= size <= limit:
        raise LoadError(
            f"bitmap of {size} bits, at most {limit} fit",
            offset=offset,
            expected=limit,
            actual=size,
        )
    words = bitmap_words(size)
    data = f.get_buffer(8 * words, Role.FIELD).ljust(8 * words, b"\0")
    return int.from_bytes(_swap_words(data), "big")


def _put_bitmap(f: QEMUFileWriter, value: int, size: int, _f: VMStateField, _o: Opaque) -> None:
    width = 8 * bitmap_words(max(size, 0))
    f.put_buffer(_swap_words((value & ((1 << 8 * width) - 1)).to_bytes(width, "big")))


def _swap_words(data: bytes) -> bytes:
    """Words in reverse order: on the wire word 0, with the lowest bits, is first."""
    # One pass: shifting each word into place costs the square of their number.
    return b"".join(data[at : at + 8] for at in range(len(data) - 8, -8, -8))


BITMAP: Final = VMStateInfo("bitmap", _get_bitmap, _put_bitmap)


# -- pointer markers -----------------------------------------------------------------


def get_pointer_marker(f: QEMUFileReader, nullable_only: bool) -> bool:
    """Read the byte before an element of an array of pointers.

    Args:
        nullable_only: only the NULL marker is legal here (before AUTO_ALLOC
            a marker was written for NULL elements alone).

    Returns:
        True for a valid element, false for NULL.

    Raises:
        LoadError: the byte is no marker (``get_nullptr``: -EINVAL).
    """
    offset = f.tell()
    marker = f.get_byte(Role.MARKER)
    if marker == _POINTER_NULL:
        return False
    if marker == _POINTER_VALID and not nullable_only:
        return True
    if not f.get_error():
        raise LoadError(
            f"expected a pointer marker, read {marker:#x}",
            offset=offset,
            expected=_POINTER_NULL,
            actual=marker,
            qemu="vmstate: get_nullptr expected VMS_NULLPTR_MARKER",
        )
    return False


def put_pointer_marker(f: QEMUFileWriter, valid: bool) -> None:
    """Write the byte before an element of an array of pointers."""
    f.put_byte(_POINTER_VALID if valid else _POINTER_NULL)
