"""Types of fields that are known by name and size only.

A machine built from a description takes whatever a stream has: a type that
compares with the destination is taken as the plain integer under it, and one
that is not known at all as that many bytes.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from savevm.foreign.states import ForeignState
from savevm.qemufile import QEMUFileReader, QEMUFileWriter
from savevm.recording import Role
from savevm.vmstate import fieldtypes
from savevm.vmstate.description import (
    Opaque,
    Vmdesc,
    VMStateField,
    VMStateInfo,
)
from savevm.vmstate.loading import vmstate_load_state
from savevm.vmstate.saving import vmstate_save_state

_INTEGERS: Final = {
    info.name: info
    for info in (
        fieldtypes.INT8, fieldtypes.INT16, fieldtypes.INT32, fieldtypes.INT64,
        fieldtypes.UINT8, fieldtypes.UINT16, fieldtypes.UINT32, fieldtypes.UINT64,
        fieldtypes.FLOAT64, fieldtypes.CPU_DOUBLE,
    )
}  # fmt: skip
_SUFFIXES: Final = (" equal", " le")


def info_for(name: str, size: int) -> VMStateInfo:
    """The type that vmdesc calls ``name``, with elements of ``size`` bytes."""
    base = _integer_under(name)
    if base is not None and base.size == size:
        return VMStateInfo(name, base.get, base.put, size, base.code, base.lo, base.hi)
    if name == "bool" and size == 1:
        return VMStateInfo(name, _get_bool, _put_bool, 1, "", 0, 0xFF)
    return VMStateInfo(name, _get_bytes, _put_bytes, size)


def is_opaque(info: VMStateInfo) -> bool:
    """Whether values of the type are bytes."""
    return info.get is _get_bytes


def _integer_under(name: str) -> VMStateInfo | None:
    if name == "timer":
        return fieldtypes.UINT64
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return _INTEGERS.get(name)


def _get_bool(f: QEMUFileReader, _c: Any, _s: int, _f: VMStateField, _o: Opaque) -> bool | int:
    value = f.get_byte(Role.FIELD)
    # Any byte but 0 is true; to save the same again it must be kept.
    return value == 1 if value < 2 else value


def _put_bool(f: QEMUFileWriter, value: bool | int, _s: int, _f: VMStateField, _o: Opaque) -> None:
    f.put_byte(int(value))


def _get_bytes(f: QEMUFileReader, _c: Any, _s: int, field: VMStateField, _o: Opaque) -> bytes:
    return f.get_buffer(field.size, Role.FIELD)


def _put_bytes(f: QEMUFileWriter, value: bytes, _s: int, field: VMStateField, _o: Opaque) -> None:
    f.put_buffer(bytes(value))


# -- structs ---------------------------------------------------------------------------------


def _get_struct(f: QEMUFileReader, current: Any, _s: int, _f: VMStateField, _o: Opaque) -> Any:
    vmsd = current.vmsd
    vmstate_load_state(f, vmsd, current, vmsd.version_id)
    return current


def _put_struct(f: QEMUFileWriter, value: Any, _s: int, _f: VMStateField, _o: Opaque) -> None:
    vmstate_save_state(f, value.vmsd, value, None)


def _describe_struct(
    f: QEMUFileWriter, value: Any, _s: int, _f: VMStateField, _o: Opaque, entry: Vmdesc
) -> None:
    inner: Vmdesc = {}
    entry["struct"] = inner
    vmstate_save_state(f, value.vmsd, value, inner)


def _describe_inline(
    f: QEMUFileWriter, value: Any, _s: int, _f: VMStateField, _o: Opaque, entry: Vmdesc
) -> None:
    vmstate_save_state(f, value.vmsd, value, entry)


def _get_listed(f: QEMUFileReader, current: Any, _s: int, _f: VMStateField, _o: Opaque) -> Any:
    if isinstance(current, ForeignState):
        if current.marker is not None:
            current.marker = f.get_byte(Role.MARKER)
        return _get_struct(f, current, _s, _f, _o)
    field = current.field
    current.value = field.info.get(f, current.value, field.size, field, current)
    return current


def _put_listed(f: QEMUFileWriter, value: Any, _s: int, _f: VMStateField, _o: Opaque) -> None:
    if isinstance(value, ForeignState):
        _put_marker(f, value)
        _put_struct(f, value, _s, _f, _o)
    else:
        value.field.info.put(f, value.value, value.field.size, value.field, value)


def _describe_listed(
    f: QEMUFileWriter, value: Any, _s: int, field: VMStateField, op: Opaque, entry: Vmdesc
) -> None:
    entry["type"] = value.listed_as
    if not isinstance(value, ForeignState):
        own = value.field
        if own.info.put_described is not None:
            own.info.put_described(f, value.value, own.size, own, value, entry)
        else:
            own.info.put(f, value.value, own.size, own, value)
        return
    _put_marker(f, value)
    if value.inline:
        _describe_inline(f, value, _s, field, op, entry)
    else:
        _describe_struct(f, value, _s, field, op, entry)


def _put_marker(f: QEMUFileWriter, value: ForeignState) -> None:
    if value.marker is not None:
        f.put_byte(value.marker)


def listed_info(name: str) -> VMStateInfo:
    """An element of an array whose elements are listed one by one: each knows
    what it is (an array of pointers has elements and NULLs)."""
    return VMStateInfo(name, _get_listed, _put_listed, put_described=_describe_listed)


def struct_info(name: str, *, inline: bool) -> VMStateInfo:
    """A struct whose description is its own.

    Args:
        name: the type as vmdesc has it.
        inline: vmdesc has its description in the field itself.
    """
    described = _describe_inline if inline else _describe_struct
    return VMStateInfo(name, _get_struct, _put_struct, put_described=described)


def with_keys(info: VMStateInfo, keys: Mapping[str, object]) -> VMStateInfo:
    """``info`` whose entry in vmdesc also has ``keys``."""

    def put(
        f: QEMUFileWriter, value: Any, size: int, field: VMStateField, op: Opaque, entry: Vmdesc
    ) -> None:
        entry.update(keys)
        info.put(f, value, size, field, op)

    return replace(info, put_described=put)
