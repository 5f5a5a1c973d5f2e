"""The state of a device that was built from a description."""

from collections.abc import Iterable

from savevm.state import State
from savevm.vmstate.description import VMStateDescription


class ForeignState(State):
    """An attribute for each field of ``vmsd`` and of its subsections, which load
    into the same state, as in C.

    Attributes:
        vmsd: how it travels.  It is no state: it never changes.
        present: which subsections the last load brought, by full name; all of
            them before the first one.
    """

    def __init__(
        self, vmsd: VMStateDescription, values: dict[str, object], subsections: Iterable[str]
    ) -> None:
        super().__init__(**values)
        self.vmsd = vmsd
        self.present: dict[str, bool] = dict.fromkeys(subsections, True)


RESERVED = frozenset({"vmsd", "present"})
"""Attributes that no field may have."""


def forget_subsections(state: ForeignState) -> int:
    """``pre_load``: none came yet."""
    for name in state.present:
        state.present[name] = False
    return 0
