"""From a parent to a child: which operators, how many, and never a failure.

Theory of operation.  A batch swarms: some operators are switched off and
others weighted up, so that batches explore differently.  A child is made of
one to a few mutations; each after the first needs the intermediate stream's
own places, so stacks are short and their depth is drawn geometrically.
"""

from collections.abc import Callable, Sequence
from typing import Final

from loadfuzz.abc import Mutable, Mutator
from loadfuzz.mutation import Mutation, splice
from loadfuzz.mutators import ALL
from loadfuzz.rng import Rng

_DEPTH_MAX: Final = 4
"""Mutations in one child; more of them mostly break the stream early."""
_TRIES_MAX: Final = 8
"""Draws until an operator finds a place; then the stream has none to offer."""
_SWARM_OFF: Final = (1, 6)
"""Share of operators that a batch switches off."""


class MutationStack:
    """Makes children.

    Args:
        operators: what to draw from.
        weights: one for each; 0 switches it off.
    """

    def __init__(self, operators: Sequence[Mutator], weights: Sequence[int]) -> None:
        pairs = [(op, w) for op, w in zip(operators, weights, strict=True) if w > 0]
        self._operators = [op for op, _ in pairs]
        self._weights = [weight for _, weight in pairs]

    @classmethod
    def default(cls, rng: Rng) -> "MutationStack":
        """All built-in operators, swarmed by ``rng``: about one in six is off,
        the others weigh between half and double."""
        weights = []
        for operator in ALL:
            off = rng.chance(*_SWARM_OFF) and not operator.name.startswith("raw")
            weights.append(0 if off else max(operator.weight * rng.between(2, 8) // 4, 1))
        return cls(ALL, weights)

    def child(
        self, subject: Mutable, rng: Rng, again: Callable[[bytes], Mutable] | None = None
    ) -> tuple[bytes, tuple[Mutation, ...]]:
        """A changed stream and the records of its changes.

        Args:
            subject: the parent.
            rng: what to draw from; the same draws give the same child.
            again: makes a :class:`Mutable` of an intermediate stream, for more
                than one mutation; without it there is one.

        Returns:
            The child, at most ``size_max`` bytes, and what was done; the parent
            itself (cut to size) and nothing when no operator found a place.
        """
        stream = subject.stream
        done: list[Mutation] = []
        depth = 1
        while again is not None and depth < _DEPTH_MAX and rng.chance(1, 4):
            depth += 1
        for level in range(depth):
            if level and again is not None:
                subject = again(stream)
            mutation = self._one(subject, rng)
            if mutation is None:
                break
            stream = splice(stream, mutation.splices)
            done.append(mutation)
        return stream[: subject.size_max], tuple(done)

    def _one(self, subject: Mutable, rng: Rng) -> Mutation | None:
        for _ in range(_TRIES_MAX):
            if not self._operators:
                return None
            operator = rng.weighted(self._operators, self._weights)
            mutation = operator.mutate(subject, rng)
            if mutation is not None and _fits(mutation, subject):
                return mutation
        return None


def _fits(mutation: Mutation, subject: Mutable) -> bool:
    grown = sum(len(s.replacement) - (s.end - s.start) for s in mutation.splices)
    return len(subject.stream) + grown <= subject.size_max

