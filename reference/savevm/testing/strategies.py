"""Hypothesis strategies from the descriptions: descriptions themselves, their states,
machines that ran, their streams, and Documents with recorded edits.

For property tests of a loader, ours or your own.  The one module of ``savevm`` that
needs more than the standard library; nothing else imports it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from hypothesis import strategies as st

from savevm.board import DEVICE_SETS, machine_with
from savevm.document import Consistency, Document, Node, Role
from savevm.machine import Machine
from savevm.save import save_to_bytes
from savevm.state import State
from savevm.testing.descriptions import Drawn, draw_description

STEPS_MAX: Final = 200
"""Guest steps of a drawn machine: several times round its program."""
EDITS_MAX: Final = 4
"""Edits of a drawn Document."""

_NUMBERS: Final = frozenset({Role.FIELD, Role.COUNT, Role.VERSION_ID, Role.INSTANCE_ID})


@dataclass(frozen=True, slots=True)
class RecordedEdit:
    """One edit of a Document.

    Attributes:
        path: of the field.
        old, new: its value before and after, unsigned, as many bytes as it has.
    """

    path: str
    old: int
    new: int


@dataclass(frozen=True, slots=True)
class EditedDocument:
    """A stream, what was changed in it, and what came of that.

    Attributes:
        parent: the stream as a machine saved it.
        edits: in the order in which they were made; none twice at one field.
        child: the bytes after them.
    """

    parent: bytes
    edits: tuple[RecordedEdit, ...]
    child: bytes


@st.composite
def descriptions(draw: st.DrawFn) -> Drawn:
    """A VMStateDescription with fields of any kind and subsections, and its states."""
    return draw_description(_choose(draw))


@st.composite
def states(draw: st.DrawFn, drawn: Drawn) -> State:
    """A state that a save of ``drawn.vmsd`` could meet."""
    state = drawn.blank()
    drawn.fill(state, _choose(draw))
    return state


@st.composite
def machines(draw: st.DrawFn, device_sets: Sequence[str] = tuple(DEVICE_SETS)) -> Machine:
    """A machine whose guest has run for a while.

    Args:
        draw: of Hypothesis.
        device_sets: keys of :data:`savevm.board.DEVICE_SETS` to draw from.
    """
    machine = machine_with(*DEVICE_SETS[draw(st.sampled_from(list(device_sets)))])
    machine.step(draw(st.integers(0, STEPS_MAX)))
    return machine


def streams(device_sets: Sequence[str] = tuple(DEVICE_SETS)) -> st.SearchStrategy[bytes]:
    """What such a machine saves: a good stream."""
    return machines(device_sets).map(save_to_bytes)


@st.composite
def edited_documents(
    draw: st.DrawFn, device_sets: Sequence[str] = tuple(DEVICE_SETS)
) -> EditedDocument:
    """A good stream in which some numbers were changed, and which ones."""
    name = draw(st.sampled_from(list(device_sets)))
    machine = machine_with(*DEVICE_SETS[name])
    machine.step(draw(st.integers(0, STEPS_MAX)))
    parent = save_to_bytes(machine)
    document = Document.parse(parent, lambda: machine_with(*DEVICE_SETS[name]))
    leaves = [leaf for leaf in document.leaves() if _is_number(leaf)]
    chosen = draw(
        st.lists(st.sampled_from(leaves), min_size=1, max_size=EDITS_MAX, unique_by=_start_of)
    )
    child = bytearray(parent)
    edits = []
    for leaf in chosen:
        new = draw(st.integers(0, (1 << 8 * leaf.size) - 1))
        old = int.from_bytes(parent[leaf.start : leaf.end], "big")
        child[leaf.start : leaf.end] = new.to_bytes(leaf.size, "big")
        edits.append(RecordedEdit(leaf.path, old, new))
    return EditedDocument(parent, tuple(edits), bytes(child))


def consistencies() -> st.SearchStrategy[Consistency]:
    """How an edit of a Document may treat what depends on it."""
    return st.sampled_from(list(Consistency))


def _choose(draw: st.DrawFn) -> Callable[[int, int], int]:
    return lambda low, high: draw(st.integers(low, high))


def _is_number(leaf: Node) -> bool:
    return leaf.role in _NUMBERS and leaf.size in (1, 2, 4, 8) and not leaf.element_size


def _start_of(leaf: Node) -> int:
    return leaf.start
