"""Where an input came from."""

from dataclasses import dataclass

from loadfuzz.inputs import digest_of
from loadfuzz.mutation import Mutation


@dataclass(frozen=True, slots=True)
class Lineage:
    """The parent of an input and what was changed.

    Attributes:
        parent: the stream that was mutated, ``None`` for a seed.
        mutations: what was done to it, in order.
    """

    parent: bytes | None = None
    mutations: tuple[Mutation, ...] = ()

    @property
    def parent_digest(self) -> str:
        """Content address of the parent, "" for a seed."""
        return "" if self.parent is None else digest_of(self.parent)

    @property
    def operators(self) -> tuple[str, ...]:
        """Names of the operators, in order."""
        return tuple(mutation.operator for mutation in self.mutations)


NO_LINEAGE = Lineage()
"""Of a seed, and of an input that came from elsewhere."""
