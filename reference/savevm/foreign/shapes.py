"""From the text of a vmsd to a description and the states that it describes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from savevm.foreign.infos import info_for, is_opaque, listed_info, struct_info, with_keys
from savevm.foreign.states import RESERVED, ForeignElement, ForeignState, forget_subsections
from savevm.foreign.text import FieldText, StructText
from savevm.vmstate.description import (
    VMSFlags,
    VMStateDescription,
    VMStateField,
    VMStateInfo,
)

_Make = Callable[[], object]
_STRUCT: Final = "struct"


@dataclass(frozen=True, slots=True)
class Shape:
    """A description, and how a state for it begins.

    Attributes:
        vmsd: the description.
        defaults: makes the first value of each attribute.
        subsections: full names of all there are, nested ones included.
    """

    vmsd: VMStateDescription
    defaults: dict[str, _Make]
    subsections: tuple[str, ...]

    def new(self) -> ForeignState:
        """A fresh state, all zero."""
        values = {attr: make() for attr, make in self.defaults.items()}
        return ForeignState(self.vmsd, values, self.subsections)


def shape_of(struct: StructText) -> Shape:
    """The shape of one vmsd with everything in it."""
    defaults: dict[str, _Make] = {}
    names: list[str] = []
    vmsd = _describe(struct, "", defaults, names, subsection=False)
    return Shape(vmsd, defaults, tuple(names))


def _describe(
    struct: StructText,
    prefix: str,
    defaults: dict[str, _Make],
    names: list[str],
    *,
    subsection: bool,
) -> VMStateDescription:
    fields: list[VMStateField] = []
    for entries in _groups(struct.fields):
        attr = f"{prefix}{entries[0].name}"
        if attr in defaults or attr in RESERVED or not attr or attr.startswith("__"):
            attr = f"{attr}#{len(defaults)}"
        field, defaults[attr] = _field(entries, attr)
        fields.append(field)
    subsections: list[VMStateDescription] = []
    for sub in struct.subsections:
        names.append(sub.name)
        subsections.append(_describe(sub, f"{sub.name}:", defaults, names, subsection=True))
    name = struct.name
    return VMStateDescription(
        name,
        struct.version,
        struct.version,
        fields=tuple(fields),
        subsections=tuple(subsections),
        needed=(lambda state: bool(state.present[name])) if subsection else None,
        pre_load=forget_subsections if subsections and not subsection else None,
        post_load=_arrived(name) if subsection else None,
    )


def _arrived(name: str) -> Callable[[ForeignState, int], int]:
    def post_load(state: ForeignState, version_id: int) -> int:
        del version_id
        state.present[name] = True
        return 0

    return post_load


def _groups(fields: tuple[FieldText, ...]) -> Iterator[tuple[FieldText, ...]]:
    """Fields one by one; elements that are listed one by one together."""
    group: list[FieldText] = []
    for field in fields:
        if group and not (
            group[-1].index is not None
            and field.index == group[-1].index + 1
            and field.name == group[-1].name
        ):
            yield tuple(group)
            group = []
        group.append(field)
    if group:
        yield tuple(group)


def _always(state: ForeignState, version_id: int) -> bool:
    del state, version_id
    return True


def _field(entries: tuple[FieldText, ...], attr: str) -> tuple[VMStateField, _Make]:
    first = entries[0]
    # A field_exists is what makes vmdesc list each element.
    exists = _always if first.index is not None else None
    count = first.array_len if first.index is None else len(entries)
    flags: int = VMSFlags.SINGLE if count is None else VMSFlags.ARRAY
    if exists is not None and not _uniform(entries):
        field = VMStateField(
            first.name, attr, listed_info(first.type), flags, 0, len(entries),
            field_exists=exists, vmsd=_ELEMENTS,
        )  # fmt: skip
        makers = [_element(entry) for entry in entries]
        return field, lambda: [make() for make in makers]
    if first.struct is None:
        info = info_for(first.type, first.size)
        default = bytes(first.size) if is_opaque(info) else 0
        if first.more:
            info = with_keys(info, first.more)
        field = VMStateField(
            first.name, attr, info, flags, first.size, count or 0, field_exists=exists
        )
        return field, (lambda: default) if count is None else (lambda: [default] * count)
    shape = shape_of(first.struct)
    described: VMStateInfo | None = None
    if first.inline or first.type != _STRUCT:
        described = struct_info(first.type, inline=first.inline)
    else:
        flags = VMSFlags.STRUCT if count is None else VMSFlags.STRUCT | VMSFlags.ARRAY
    field = VMStateField(first.name, attr, described, flags, 0, count or 0, vmsd=shape.vmsd)
    if count is None:
        return field, shape.new
    return field, lambda: [shape.new() for _ in range(count)]


_ELEMENTS: Final = VMStateDescription("elements")
"""Tells a recording load that elements are structures of their own."""


def _uniform(entries: tuple[FieldText, ...]) -> bool:
    """Whether listed elements are plain values of one type."""
    first = entries[0]
    return all(
        entry.struct is None
        and (entry.type, entry.size, entry.more) == (first.type, first.size, first.more)
        for entry in entries
    )


def _element(entry: FieldText) -> _Make:
    """Makes one listed element."""
    if entry.struct is None:
        info = info_for(entry.type, entry.size)
        if entry.more:
            info = with_keys(info, entry.more)
        field = VMStateField(entry.name, "value", info, VMSFlags.SINGLE, entry.size)
        value = bytes(entry.size) if is_opaque(info) else 0
        return lambda: ForeignElement(field, value)
    shape = shape_of(entry.struct)

    def make() -> ForeignState:
        state = shape.new()
        state.listed_as, state.inline = entry.type, entry.inline
        state.marker = 0 if entry.marked else None
        return state

    return make
