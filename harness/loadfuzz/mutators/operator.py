"""The shape of a built-in operator: a name, a weight and a total function."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from loadfuzz.abc import Mutable
from loadfuzz.mutation import Mutation, Splice
from loadfuzz.rng import Rng
from savevm.document import Node

Change: TypeAlias = Callable[[Mutable, Rng], Mutation | None]


@dataclass(frozen=True, slots=True)
class Operator:
    """A :class:`~loadfuzz.abc.Mutator` made of a function.

    Attributes:
        name: as in records and on the live screen.
        weight: how often it is drawn, relative to the others.
        change: proposes a mutation; ``None`` where the stream offers no place.
    """

    name: str
    weight: int
    change: Change

    def mutate(self, subject: Mutable, rng: Rng) -> Mutation | None:
        """See :meth:`loadfuzz.abc.Mutator.mutate`."""
        return self.change(subject, rng)


def replace(
    operator: str,
    node: Node,
    subject: Mutable,
    replacement: bytes,
    old: object = None,
    new: object = None,
) -> Mutation | None:
    """A mutation that replaces one leaf; ``None`` if nothing would change."""
    return replace_span(operator, node.path, subject, node.start, node.end, replacement, old, new)


def replace_span(
    operator: str,
    path: str,
    subject: Mutable,
    start: int,
    end: int,
    replacement: bytes,
    old: object = None,
    new: object = None,
) -> Mutation | None:
    """A mutation that replaces ``start`` to ``end``; ``None`` if nothing changes."""
    # A leaf of a cut-off stream may be shorter than its kind.
    end = min(end, len(subject.stream))
    before = subject.stream[start:end]
    if before == replacement:
        return None
    return Mutation(
        operator,
        path,
        (Splice(start, end, replacement),),
        shown(before if old is None else old),
        shown(replacement if new is None else new),
    )


def several(
    operator: str, path: str, splices: Sequence[Splice], old: object, new: object
) -> Mutation:
    """A mutation of several places; they are put in order."""
    ordered = tuple(sorted(splices, key=lambda item: (item.start, item.end)))
    return Mutation(operator, path, ordered, shown(old), shown(new))


def shown(value: object) -> str:
    """A value for people, cut to what fits a line."""
    if isinstance(value, bytes):
        return value[:24].hex() + ("…" if len(value) > 24 else "")
    if isinstance(value, int):
        return f"{value:#x}"
    return str(value)[:60]
