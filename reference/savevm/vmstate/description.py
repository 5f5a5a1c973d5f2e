"""VMStateDescription, VMStateField and their flags: device state as data.

One declaration per device, from which loading, saving, size, vmdesc, the
vmstate dump and field-aware mutation all derive.  Where C has an offset into a
struct there is the name of an attribute of the device's
:class:`~savevm.state.State`.  Source: QEMU ``include/migration/vmstate.h``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from savevm.qemufile import QEMUFileReader, QEMUFileWriter
    from savevm.vmstate.compiled import Plan

Opaque: TypeAlias = Any
"""A device's state: any object with attributes.  C calls it ``void *opaque``."""

Vmdesc: TypeAlias = dict[str, object]
"""One JSON object of the vmdesc while it is being built."""


PutDescribed: TypeAlias = "Callable[[QEMUFileWriter, Any, int, VMStateField, Opaque, Vmdesc], None]"


class VMSFlags(IntEnum):
    """``enum VMStateFlags``, with the values of QEMU 11.

    Not an IntFlag: combinations are plain ints, whose ``&`` is many times
    faster, and the engine does little else.
    """

    SINGLE = 0x1
    POINTER = 0x2
    ARRAY = 0x4
    STRUCT = 0x8
    VARRAY_INT32 = 0x10
    BUFFER = 0x20
    ARRAY_OF_POINTER = 0x40
    VARRAY_UINT16 = 0x80
    VBUFFER = 0x100
    MULTIPLY = 0x200
    VARRAY_UINT8 = 0x400
    VARRAY_UINT32 = 0x800
    MUST_EXIST = 0x1000
    ALLOC = 0x2000
    MULTIPLY_ELEMENTS = 0x4000
    VSTRUCT = 0x8000
    ARRAY_OF_POINTER_AUTO_ALLOC = 0x10000


VMS_VARRAY = (
    VMSFlags.VARRAY_INT32 | VMSFlags.VARRAY_UINT16 | VMSFlags.VARRAY_UINT8 | VMSFlags.VARRAY_UINT32
)
VMS_ANY_ARRAY = VMSFlags.ARRAY | VMS_VARRAY
VMS_NOT_INLINE = (
    VMSFlags.STRUCT
    | VMSFlags.VSTRUCT
    | VMSFlags.ALLOC
    | VMSFlags.ARRAY_OF_POINTER
    | VMSFlags.ARRAY_OF_POINTER_AUTO_ALLOC
)
"""Arrays with any of these do not hold their elements one behind the other."""


@dataclass(frozen=True, slots=True, eq=False)
class VMStateInfo:
    """How one element travels (``VMStateInfo``: name, get, put).

    Attributes:
        name: QEMU's name of the type, as vmdesc shows it.
        get: ``get(f, current, size, field, opaque)`` reads one element and
            returns the value to store; it may instead change ``current`` in
            place and return it.
        put: ``put(f, value, size, field, opaque)`` writes one element.
        size: bytes of one element on the wire where that is fixed, else 0.
        code: :mod:`struct` code where a run of fields may hold this type.
        lo: least value that travels unchanged (mutators aim around it).
        hi: greatest value that travels unchanged.
        put_described: ``put`` with the field's vmdesc entry as one argument
            more, for a type that says there what it is made of; ``None`` for
            the others.
    """

    name: str
    get: "Callable[[QEMUFileReader, Any, int, VMStateField, Opaque], Any]"
    put: "Callable[[QEMUFileWriter, Any, int, VMStateField, Opaque], None]"
    size: int = 0
    code: str = ""
    lo: int = 0
    hi: int = 0
    put_described: "PutDescribed | None" = None


@dataclass(frozen=True, slots=True, eq=False)
class VMStateField:
    """One field of a device (``VMStateField``).

    Attributes:
        name: name on vmdesc and in messages.
        attr: attribute of the State that holds the value; ``""`` means the
            State itself (C: offset 0 of the same struct).
        info: how an element travels; ``None`` for structs and validations.
        flags: kind of the field.
        size: bytes of one element, or the factor of ``MULTIPLY``.
        num: elements of a fixed array, or the factor of ``MULTIPLY_ELEMENTS``.
        num_attr: attribute with the element count of a VARRAY.
        size_attr: attribute with the byte count of a VBUFFER (or bits of a
            bitmap).
        start: first byte of the buffer that travels (the seed's ``start``).
        version_id: first version of the description that has the field.
        field_exists: ``(opaque, version_id)``; overrides ``version_id``.
        vmsd: description of a struct, or of a container's elements.
        key_vmsd: description of a GTREE's keys; ``None`` for direct keys.
        struct_version_id: version of a VSTRUCT.
        new: makes an empty element where loading allocates one.
    """

    name: str
    attr: str
    info: VMStateInfo | None = None
    flags: int = VMSFlags.SINGLE
    size: int = 0
    num: int = 0
    num_attr: str = ""
    size_attr: str = ""
    start: int = 0
    version_id: int = 0
    field_exists: Callable[[Opaque, int], bool] | None = None
    vmsd: "VMStateDescription | None" = None
    key_vmsd: "VMStateDescription | None" = None
    struct_version_id: int = 0
    new: Callable[[], Opaque] | None = None

    def type_name(self) -> str:
        """The ``type`` that vmdesc shows (``vmfield_get_type_name``)."""
        if self.flags & VMSFlags.STRUCT:
            return "struct"
        if self.flags & VMSFlags.VSTRUCT:
            return "vstruct"
        return self.info.name if self.info else "unknown"


@dataclass(frozen=True, slots=True, eq=False)
class VMStateDescription:
    """What a device's state looks like on the wire (``VMStateDescription``).

    Two descriptions are the same only if they are the same object, as in C.

    Attributes:
        name: idstr of the section, or full ``parent/child`` of a subsection.
        version_id: version that is written.
        minimum_version_id: oldest version that is read.
        minimum_version_id_old: oldest version that ``load_state_old`` reads.
        fields: in wire order.
        subsections: in table order.
        needed: whether a subsection travels; ``None`` means always.
        unmigratable: the device blocks saving and loading.
        pre_load, post_load, pre_save: hooks; a non-zero return refuses.
        load_state_old: reads what came before this description.
        early_setup: the section is saved before RAM (QEMU 7.2.50).
    """

    name: str
    version_id: int = 1
    minimum_version_id: int = 0
    minimum_version_id_old: int = 0
    fields: tuple[VMStateField, ...] = ()
    subsections: "tuple[VMStateDescription, ...]" = ()
    needed: Callable[[Opaque], bool] | None = None
    unmigratable: bool = False
    pre_load: Callable[[Opaque], int | None] | None = None
    post_load: Callable[[Opaque, int], int | None] | None = None
    pre_save: Callable[[Opaque], int | None] | None = None
    load_state_old: "Callable[[QEMUFileReader, Opaque, int], int | None] | None" = None
    early_setup: bool = False
    # Plans and names are derived from the fields alone, so keeping them changes nothing.
    plans: "dict[int, Plan]" = field(default_factory=dict, init=False, repr=False)
    names: "dict[int, str]" = field(default_factory=dict, init=False, repr=False)


def repeated_names(vmsd: VMStateDescription) -> Mapping[int, str]:
    """Names that vmdesc shows: ``name``, or ``name[k]`` for the k-th of several
    fields of one name (``vmfield_name_num``).  Keyed by position."""
    names = vmsd.names
    if names:
        return names
    total: dict[str, int] = {}
    for item in vmsd.fields:
        total[item.name] = total.get(item.name, 0) + 1
    seen: dict[str, int] = {}
    for position, item in enumerate(vmsd.fields):
        turn = seen.get(item.name, 0)
        seen[item.name] = turn + 1
        names[position] = f"{item.name}[{turn}]" if total[item.name] > 1 else item.name
    return names
