"""The state of a device that was built from a description."""

from collections.abc import Iterable

from savevm.state import State
from savevm.vmstate.description import VMStateDescription, VMStateField


class ForeignState(State):
    """An attribute for each field of ``vmsd`` and of its subsections, which load
    into the same state, as in C.

    Attributes:
        vmsd: how it travels.  It is no state: it never changes.
        listed_as: the type that vmdesc shows for it.
        inline: vmdesc has its description in the field itself.
        marker: pointer marker before it on the wire; ``None`` for none.
        present: which subsections the last load brought, by full name; all of
            them before the first one.
    """

    def __init__(
        self, vmsd: VMStateDescription, values: dict[str, object], subsections: Iterable[str]
    ) -> None:
        super().__init__(**values)
        self.vmsd = vmsd
        self.listed_as = ""
        self.inline = False
        self.marker: int | None = None
        self.present: dict[str, bool] = dict.fromkeys(subsections, True)


class ForeignElement(State):
    """An element that is no struct, in an array that may have structs.

    Attributes:
        field: how it travels.
        listed_as: the type that vmdesc shows for it.
        value: what it is.
    """

    def __init__(self, field: VMStateField, value: object) -> None:
        super().__init__()
        self.field = field
        self.listed_as = field.type_name()
        self.value = value


RESERVED = frozenset({"vmsd", "listed_as", "inline", "marker", "present"})
"""Attributes that no field may have."""


def forget_subsections(state: ForeignState) -> int:
    """``pre_load``: none came yet."""
    for name in state.present:
        state.present[name] = False
    return 0
