"""Constructors of fields, one for each VMSTATE_* macro that devices use.

Each takes the attribute's name first; the field's name on the wire is the same
unless ``name`` says otherwise.
"""

from collections.abc import Callable
from typing import Any

from savevm.vmstate import containers, fieldtypes
from savevm.vmstate.description import (
    Opaque,
    VMSFlags,
    VMStateDescription,
    VMStateField,
    VMStateInfo,
)

Exists = Callable[[Opaque, int], bool]
_COUNT_FLAGS = {
    "int32": VMSFlags.VARRAY_INT32,
    "uint32": VMSFlags.VARRAY_UINT32,
    "uint16": VMSFlags.VARRAY_UINT16,
    "uint8": VMSFlags.VARRAY_UINT8,
}


def single(
    attr: str,
    info: VMStateInfo,
    version_id: int = 0,
    exists: Exists | None = None,
    name: str = "",
) -> VMStateField:
    """``VMSTATE_SINGLE_TEST``: one element of a primitive type."""
    return VMStateField(
        name or attr, attr, info, VMSFlags.SINGLE, info.size,
        version_id=version_id, field_exists=exists,
    )  # fmt: skip


def _maker(info: VMStateInfo) -> Callable[..., VMStateField]:
    def make(
        attr: str, version_id: int = 0, exists: Exists | None = None, name: str = ""
    ) -> VMStateField:
        return single(attr, info, version_id, exists, name)

    make.__doc__ = f"One {info.name}."
    return make


int8, int16, int32, int64 = map(
    _maker, (fieldtypes.INT8, fieldtypes.INT16, fieldtypes.INT32, fieldtypes.INT64)
)
uint8, uint16, uint32, uint64 = map(
    _maker, (fieldtypes.UINT8, fieldtypes.UINT16, fieldtypes.UINT32, fieldtypes.UINT64)
)
bool_ = _maker(fieldtypes.BOOL)
float64 = _maker(fieldtypes.FLOAT64)
cpu_double = _maker(fieldtypes.CPU_DOUBLE)
int32_equal = _maker(fieldtypes.INT32_EQUAL)
int64_equal = _maker(fieldtypes.INT64_EQUAL)
uint8_equal = _maker(fieldtypes.UINT8_EQUAL)
uint16_equal = _maker(fieldtypes.UINT16_EQUAL)
uint32_equal = _maker(fieldtypes.UINT32_EQUAL)
uint64_equal = _maker(fieldtypes.UINT64_EQUAL)
int32_le = _maker(fieldtypes.INT32_LE)


def array(
    attr: str,
    info: VMStateInfo,
    num: int,
    version_id: int = 0,
    exists: Exists | None = None,
    name: str = "",
) -> VMStateField:
    """``VMSTATE_ARRAY_TEST``: ``num`` elements of a primitive type."""
    return VMStateField(
        name or attr, attr, info, VMSFlags.ARRAY, info.size, num,
        version_id=version_id, field_exists=exists,
    )  # fmt: skip


def varray(
    attr: str,
    info: VMStateInfo,
    num_attr: str,
    count: str = "uint32",
    version_id: int = 0,
    *,
    alloc: bool = False,
    multiply: int = 0,
) -> VMStateField:
    """``VMSTATE_VARRAY_*``: as many elements as ``num_attr`` says.

    Args:
        count: C type of the counting field: int32, uint32, uint16 or uint8.
        alloc: the array is made anew on load (``VMS_ALLOC``).
        multiply: the count is in units of this many elements
            (``VMS_MULTIPLY_ELEMENTS``); 0 for none.
    """
    flags: int = _COUNT_FLAGS[count]
    if alloc:
        flags |= VMSFlags.POINTER | VMSFlags.ALLOC
    if multiply:
        flags |= VMSFlags.MULTIPLY_ELEMENTS
    return VMStateField(
        attr, attr, info, flags, info.size, multiply, num_attr, version_id=version_id
    )


def buffer(
    attr: str,
    size: int,
    version_id: int = 0,
    exists: Exists | None = None,
    start: int = 0,
    name: str = "",
) -> VMStateField:
    """``VMSTATE_STATIC_BUFFER``: ``size`` bytes of a buffer, from byte ``start``."""
    return VMStateField(
        name or attr, attr, fieldtypes.BUFFER, VMSFlags.BUFFER, size, start=start,
        version_id=version_id, field_exists=exists,
    )  # fmt: skip


def vbuffer(
    attr: str,
    size_attr: str,
    version_id: int = 0,
    exists: Exists | None = None,
    start: int = 0,
    *,
    multiply: int = 0,
    alloc: bool = False,
) -> VMStateField:
    """``VMSTATE_VBUFFER``: as many bytes as ``size_attr`` says.

    Args:
        multiply: the size is in units of this many bytes (``VMS_MULTIPLY``).
        alloc: the buffer is made anew on load.
    """
    flags = VMSFlags.VBUFFER | VMSFlags.POINTER
    if multiply:
        flags |= VMSFlags.MULTIPLY
    if alloc:
        flags |= VMSFlags.ALLOC
    return VMStateField(
        attr, attr, fieldtypes.BUFFER, flags, multiply, size_attr=size_attr, start=start,
        version_id=version_id, field_exists=exists,
    )  # fmt: skip


def unused(size: int, version_id: int = 0, exists: Exists | None = None) -> VMStateField:
    """``VMSTATE_UNUSED``: ``size`` zero bytes that are skipped on load."""
    return VMStateField(
        "unused", "", fieldtypes.UNUSED, VMSFlags.BUFFER, size,
        version_id=version_id, field_exists=exists,
    )  # fmt: skip


def unused_vbuffer(size_attr: str, version_id: int = 0) -> VMStateField:
    """``VMSTATE_UNUSED_VARRAY``-like: skips as many bytes as ``size_attr`` says."""
    return VMStateField(
        "unused", "", fieldtypes.UNUSED, VMSFlags.VBUFFER, 0, size_attr=size_attr,
        version_id=version_id,
    )  # fmt: skip


def bitmap(attr: str, size_attr: str, version_id: int = 0, bits_max: int = 0) -> VMStateField:
    """``VMSTATE_BITMAP``: ``size_attr`` bits, at most ``bits_max`` if given."""
    return VMStateField(
        attr, attr, fieldtypes.BITMAP, VMSFlags.VBUFFER | VMSFlags.POINTER, 0, bits_max,
        size_attr=size_attr, version_id=version_id,
    )  # fmt: skip


def struct(
    attr: str,
    vmsd: VMStateDescription,
    version_id: int = 0,
    exists: Exists | None = None,
    *,
    pointer: bool = False,
    new: Callable[[], Opaque] | None = None,
) -> VMStateField:
    """``VMSTATE_STRUCT``: a nested state, in the current version of its description.

    Args:
        pointer: reached through a pointer (``VMS_POINTER``).
        new: makes the state on load if given (``VMS_ALLOC``).
    """
    flags: int = VMSFlags.STRUCT
    if pointer:
        flags |= VMSFlags.POINTER
    if new:
        flags |= VMSFlags.ALLOC
    return VMStateField(
        attr, attr, None, flags, vmsd=vmsd, version_id=version_id, field_exists=exists, new=new
    )


def vstruct(
    attr: str, vmsd: VMStateDescription, struct_version_id: int, version_id: int = 0
) -> VMStateField:
    """``VMSTATE_VSTRUCT``: a nested state in a fixed version of its description."""
    return VMStateField(
        attr, attr, None, VMSFlags.VSTRUCT, vmsd=vmsd, version_id=version_id,
        struct_version_id=struct_version_id,
    )  # fmt: skip


def struct_array(
    attr: str,
    vmsd: VMStateDescription,
    num: int,
    version_id: int = 0,
    exists: Exists | None = None,
) -> VMStateField:
    """``VMSTATE_STRUCT_ARRAY``: ``num`` nested states."""
    return VMStateField(
        attr, attr, None, VMSFlags.STRUCT | VMSFlags.ARRAY, 0, num, vmsd=vmsd,
        version_id=version_id, field_exists=exists,
    )  # fmt: skip


def struct_varray(
    attr: str,
    vmsd: VMStateDescription,
    num_attr: str,
    count: str = "uint32",
    version_id: int = 0,
    *,
    new: Callable[[], Opaque] | None = None,
) -> VMStateField:
    """``VMSTATE_STRUCT_VARRAY_*``: as many nested states as ``num_attr`` says.

    Args:
        new: makes an element; given, the array is made anew on load
            (``VMS_ALLOC``).
    """
    flags: int = VMSFlags.STRUCT | _COUNT_FLAGS[count]
    if new:
        flags |= VMSFlags.ALLOC | VMSFlags.POINTER
    return VMStateField(
        attr, attr, None, flags, num_attr=num_attr, vmsd=vmsd, version_id=version_id, new=new
    )


def array_of_pointers(
    attr: str,
    vmsd: VMStateDescription,
    num: int,
    version_id: int = 0,
    *,
    new: Callable[[], Opaque] | None = None,
) -> VMStateField:
    """``VMSTATE_ARRAY_OF_POINTER_TO_STRUCT``: elements may be ``None``.

    Args:
        new: makes an element; given, every element has a marker on the wire
            and is made on load (``VMS_ARRAY_OF_POINTER_AUTO_ALLOC``).
    """
    flags = VMSFlags.STRUCT | VMSFlags.ARRAY | VMSFlags.ARRAY_OF_POINTER
    if new:
        flags |= VMSFlags.ARRAY_OF_POINTER_AUTO_ALLOC
    return VMStateField(attr, attr, None, flags, 8, num, vmsd=vmsd, version_id=version_id, new=new)


def pointer_array(attr: str, info: VMStateInfo, num: int, version_id: int = 0) -> VMStateField:
    """``VMSTATE_ARRAY_OF_POINTER``: primitive elements behind pointers."""
    flags = VMSFlags.ARRAY | VMSFlags.ARRAY_OF_POINTER
    return VMStateField(attr, attr, info, flags, info.size, num, version_id=version_id)


def pointer(attr: str, info: VMStateInfo, version_id: int = 0) -> VMStateField:
    """``VMSTATE_POINTER``: one primitive element behind a pointer."""
    flags = VMSFlags.SINGLE | VMSFlags.POINTER
    return VMStateField(attr, attr, info, flags, info.size, version_id=version_id)


def validate(name: str, test: Exists) -> VMStateField:
    """``VMSTATE_VALIDATE``: nothing on the wire; loading stops if ``test`` fails."""
    flags = VMSFlags.ARRAY | VMSFlags.MUST_EXIST
    return VMStateField(name, "", None, flags, field_exists=test)


def qtailq(
    attr: str, vmsd: VMStateDescription, new: Callable[[], Opaque], version_id: int = 0
) -> VMStateField:
    """``VMSTATE_QTAILQ_V``: a list of states, as long as it is."""
    return VMStateField(
        attr, attr, containers.QTAILQ, VMSFlags.SINGLE, vmsd=vmsd, new=new, version_id=version_id
    )


def qlist(
    attr: str, vmsd: VMStateDescription, new: Callable[[], Opaque], version_id: int = 0
) -> VMStateField:
    """``VMSTATE_QLIST_V``: a list of states; a load keeps the order."""
    return VMStateField(
        attr, attr, containers.QLIST, VMSFlags.SINGLE, vmsd=vmsd, new=new, version_id=version_id
    )


def gtree(
    attr: str,
    vmsd: VMStateDescription,
    new: Callable[[], Opaque],
    version_id: int = 0,
    *,
    key_vmsd: VMStateDescription | None = None,
) -> VMStateField:
    """``VMSTATE_GTREE_V`` or, without ``key_vmsd``, ``VMSTATE_GTREE_DIRECT_KEY_V``.

    The attribute is a dict.  A direct key is an int; a described key is a
    State with a single integer attribute ``key``, and that integer is the
    dict's key.
    """
    return VMStateField(
        attr, attr, containers.GTREE, VMSFlags.SINGLE, vmsd=vmsd, key_vmsd=key_vmsd, new=new,
        version_id=version_id,
    )  # fmt: skip


def with_tmp(
    vmsd: VMStateDescription, new: Callable[[], Opaque], version_id: int = 0, name: str = "tmp"
) -> VMStateField:
    """``VMSTATE_WITH_TMP``: a temporary state that knows its ``parent``."""
    return VMStateField(
        name, "", containers.TMP, VMSFlags.SINGLE, vmsd=vmsd, new=new, version_id=version_id
    )


def custom(
    attr: str, info: VMStateInfo, version_id: int = 0, size: int = 0, name: str = "", **more: Any
) -> VMStateField:
    """A field of a type of one's own."""
    return VMStateField(
        name or attr, attr, info, VMSFlags.SINGLE, size, version_id=version_id, **more
    )
