"""How many elements a field has, of what size, and where they live.

The arithmetic of ``vmstate_n_elems``, ``vmstate_size`` and
``vmstate_base_addr``, with the bounds C leaves out.  Source: QEMU
``migration/vmstate.c``.
"""

from collections.abc import MutableSequence
from typing import Any

from savevm.constants import MAX_ELEMENTS, UINT32_MAX
from savevm.errors import LoadError
from savevm.qemufile import QEMUFileReader
from savevm.vmstate.description import (
    VMS_ANY_ARRAY,
    VMS_VARRAY,
    Opaque,
    VMSFlags,
    VMStateField,
)


def exists(field: VMStateField, opaque: Opaque, version_id: int) -> bool:
    """Whether the field is on the wire in this version of this state."""
    if field.field_exists is not None:
        return field.field_exists(opaque, version_id)
    return field.version_id <= version_id


def is_array(field: VMStateField) -> bool:
    """Whether the attribute is a sequence of elements."""
    return bool(field.flags & VMS_ANY_ARRAY)


def element_count(field: VMStateField, opaque: Opaque) -> int:
    """Elements as the state claims it now; may be negative or huge."""
    if field.flags & VMSFlags.ARRAY:
        count = field.num
    elif field.flags & VMS_VARRAY:
        count = int(getattr(opaque, field.num_attr))
    else:
        count = 1
    if field.flags & VMSFlags.MULTIPLY_ELEMENTS:
        count *= field.num
    return count


def element_size(field: VMStateField, opaque: Opaque) -> int:
    """Bytes (bits for a bitmap) of one element, as the state claims it now."""
    if not field.flags & VMSFlags.VBUFFER:
        return field.size
    size = int(getattr(opaque, field.size_attr))
    return size * field.size if field.flags & VMSFlags.MULTIPLY else size


def as_claimed(f: QEMUFileReader, number: int) -> int:
    """A count or size as the loader takes it: C's ``int`` wraps at 2^31."""
    if not f.profile.counts_are_int:
        return number
    return ((number + (1 << 31)) & UINT32_MAX) - (1 << 31)


def target_of(field: VMStateField, opaque: Opaque) -> Any:
    """What the field's attribute holds; the state itself for no attribute."""
    return getattr(opaque, field.attr) if field.attr else opaque


def load_sequence(
    f: QEMUFileReader, field: VMStateField, opaque: Opaque, count: int
) -> MutableSequence[Any]:
    """The sequence that ``count`` elements are loaded into.

    Raises:
        LoadError: the count does not fit the array, or is past all reason.
    """
    offset = f.tell()
    if field.flags & VMSFlags.ALLOC:
        if not 0 <= count <= MAX_ELEMENTS:
            raise _count_error(count, MAX_ELEMENTS, offset)
        # Grown as elements arrive, never on the count's word.
        return []
    sequence: MutableSequence[Any] | None = getattr(opaque, field.attr)
    if sequence is None:
        raise LoadError("the array this would be loaded into does not exist", offset=offset)
    if count > len(sequence) or (count < 0 and not f.profile.counts_are_int):
        raise _count_error(count, len(sequence), offset)
    return sequence


def _count_error(count: int, capacity: int, offset: int) -> LoadError:
    return LoadError(
        f"array holds {capacity} elements, {count} announced",
        offset=offset,
        expected=capacity,
        actual=count,
    )
