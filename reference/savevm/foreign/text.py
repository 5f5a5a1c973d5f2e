"""The vmdesc JSON, checked and typed.  It comes from a stream: every number in it
is a lie until it fits.

Bounds hold for what the text *describes*, arrays multiplied out: a machine built
from it takes no more memory than the stream that it came with could justify.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from savevm.constants import IDSTR_MAX, MAX_ELEMENTS, MAX_VMSTATE_DEPTH

DEVICES_MAX: Final = 1024
"""Devices one description may list; real machines have some dozens."""
ENTRIES_MAX: Final = 1 << 17
"""Field and subsection objects in one description; pc has a few thousand."""
STATES_MAX: Final = 1 << 16
"""Structs that a machine built from it may have, arrays multiplied out."""
EMPTY_MAX: Final = 32
"""Elements of no bytes that one device may have, arrays multiplied out: real ones
have a few (a buffer that is empty now).  Nothing in the stream pays for them, each
time that a section of the device comes."""
WORD_MAX: Final = 255
"""Characters of a field's name or type; real ones have some forty."""
PAGE_BITS: Final = range(10, 17)
"""Sizes of target pages that exist."""
_VERSION_MAX: Final = 0x7FFF_FFFF
_STRUCT_KEYS: Final = ("vmsd_name", "version", "fields", "subsections")
_SUBSECTION_HEADER: Final = 6  # mark, length byte, version


class UnfitVmdesc(ValueError):
    """A description that no machine can be built from."""


@dataclass(frozen=True, slots=True)
class StructText:
    """One vmsd as it was saved.

    Attributes:
        name: of the vmsd.
        version: as it was saved.
        fields: in wire order.
        subsections: that were present, in wire order.
        size: bytes on the wire, subsections included.
        states: structs in it, itself included, arrays multiplied out.
        empty: elements in it that take no bytes, arrays multiplied out.
    """

    name: str
    version: int
    fields: tuple["FieldText", ...]
    subsections: tuple["StructText", ...]
    size: int
    states: int
    empty: int


@dataclass(frozen=True, slots=True)
class FieldText:
    """One entry of a ``fields`` list.

    Attributes:
        name: with ``[k]`` where the vmsd has several of that name.
        type: name of the type.
        size: bytes of one element.
        array_len: elements this entry speaks for; ``None`` for a single one.
        index: number of this element where each has its own entry.
        struct: its description if it is a struct.
        inline: the description stands in the field itself (vstruct, tmp).
        marked: a pointer marker comes before the struct, as an array of pointers
            has it since 2026.
        more: keys that are of no use but must be saved again.
    """

    name: str
    type: str
    size: int
    array_len: int | None
    index: int | None
    struct: StructText | None
    inline: bool
    marked: bool
    more: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class DeviceText:
    """One entry of ``devices``.

    Attributes:
        name: idstr of its section.
        instance_id: of its section.
        struct: how it is saved; ``None`` for an old-style device.
        size: bytes of its payload.
    """

    name: str
    instance_id: int
    struct: StructText | None
    size: int


@dataclass(frozen=True, slots=True)
class VmdescText:
    """A whole description.

    Attributes:
        page_size: bytes of a target page.
        devices: in stream order.
    """

    page_size: int
    devices: tuple[DeviceText, ...]

    @property
    def page_bits(self) -> int:
        """Bits of an address within a page."""
        return self.page_size.bit_length() - 1


def parse_vmdesc(text: bytes, stream_size: int) -> VmdescText | None:
    """Read a description.

    Args:
        text: JSON, and maybe something behind it.
        stream_size: bytes of the stream it came in; it cannot describe more.

    Returns:
        ``None`` if it is no description, or one past all bounds.
    """
    try:
        root, _ = json.JSONDecoder().raw_decode(text.decode("latin-1"))
        return _Reading(stream_size).vmdesc(root)
    except (ValueError, RecursionError):
        return None


class _Reading:
    """One pass over a description, with what it may still use up."""

    def __init__(self, stream_size: int) -> None:
        self._entries = ENTRIES_MAX
        self._stream_size = stream_size

    def vmdesc(self, root: object) -> VmdescText:
        top = _object(root)
        page_size = _number(top.get("page_size"), 1 << 16)
        if page_size.bit_count() != 1 or page_size.bit_length() - 1 not in PAGE_BITS:
            raise UnfitVmdesc(f"pages of {page_size} bytes")
        listed = _list(top.get("devices"))
        if len(listed) > DEVICES_MAX:
            raise UnfitVmdesc(f"{len(listed)} devices")
        devices = tuple(self._device(_object(item)) for item in listed)
        states = sum(device.struct.states for device in devices if device.struct is not None)
        if sum(device.size for device in devices) > self._stream_size or states > STATES_MAX:
            raise UnfitVmdesc("it describes more than its stream holds")
        return VmdescText(page_size, devices)

    def _device(self, item: Mapping[str, object]) -> DeviceText:
        name = _name(item.get("name"))
        instance_id = _number(item.get("instance_id"), 0xFFFF_FFFF, least=-1)
        if "vmsd_name" not in item:
            size = _number(item.get("size"), self._stream_size)
            return DeviceText(name, instance_id, None, size)
        struct = self._struct(item, MAX_VMSTATE_DEPTH)
        return DeviceText(name, instance_id, struct, struct.size)

    def _struct(self, item: Mapping[str, object], depth: int) -> StructText:
        self._spend(1)
        if not depth:
            raise UnfitVmdesc("too deep")
        fields = tuple(
            self._field(_object(field), depth) for field in _list(item.get("fields", []))
        )
        subsections = tuple(
            self._struct(_object(sub), depth - 1) for sub in _list(item.get("subsections", []))
        )
        size = sum(field.size * (field.array_len or 1) for field in fields)
        size += sum(sub.size + _SUBSECTION_HEADER + len(sub.name) for sub in subsections)
        states = 1 + sum(sub.states for sub in subsections)
        states += sum(
            field.struct.states * (field.array_len or 1)
            for field in fields
            if field.struct is not None
        )
        empty = sum(map(_empty_elements, fields)) + sum(sub.empty for sub in subsections)
        if size > self._stream_size or states > STATES_MAX or empty > EMPTY_MAX:
            raise UnfitVmdesc("a struct that does not fit")
        name = item.get("vmsd_name")
        if not isinstance(name, str):
            raise UnfitVmdesc("a vmsd without a name")
        return StructText(
            _name(name), _number(item.get("version"), _VERSION_MAX), fields, subsections, size,
            states, empty,
        )  # fmt: skip

    def _field(self, item: Mapping[str, object], depth: int) -> FieldText:
        self._spend(1)
        kind, name = _word(item.get("type")), _word(item.get("name"))
        size = _number(item.get("size"), self._stream_size)
        array_len = index = None
        if "array_len" in item:
            array_len = _number(item["array_len"], MAX_ELEMENTS)
        if "index" in item:
            index = _number(item["index"], MAX_ELEMENTS)
        struct, inline = None, False
        if "struct" in item:
            struct = self._struct(_object(item["struct"]), depth - 1)
        elif "vmsd_name" in item:
            inline = True
            struct = self._struct(item, depth - 1)
        marked = struct is not None and index is not None and struct.size + 1 == size
        if struct is not None and struct.size != size and not marked:
            # Something in it is saved in a way that the description does not
            # tell (a list's markers): only its size is of use.
            struct, inline = None, False
        known = {"name", "type", "size", "array_len", "index"}
        if struct is not None:
            known |= set(_STRUCT_KEYS) if inline else {"struct"}
        more = {key: value for key, value in item.items() if key not in known}
        return FieldText(name, kind, size, array_len, index, struct, inline, marked, more)

    def _spend(self, entries: int) -> None:
        self._entries -= entries
        if self._entries < 0:
            raise UnfitVmdesc("too many entries")


def _empty_elements(field: FieldText) -> int:
    """Elements of no bytes that a field has, itself and what is in it."""
    inner = 0 if field.struct is None else field.struct.empty
    return (field.array_len or 1) * (inner + (field.size == 0))


def _object(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise UnfitVmdesc("expected an object")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise UnfitVmdesc("expected a list")
    return value


def _number(value: object, most: int, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= most:
        raise UnfitVmdesc(f"expected a number from {least} to {most}")
    return value


def _word(value: object) -> str:
    if not isinstance(value, str) or len(value) > WORD_MAX or not value.isascii():
        raise UnfitVmdesc("a field without name or type")
    return value


def _name(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= IDSTR_MAX or not value.isascii():
        raise UnfitVmdesc("expected a name")
    return value
