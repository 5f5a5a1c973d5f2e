"""From a parent to a child: which operators, how many, and never a failure.

Theory of operation.  Mutation swarms: for some thousand children some operators
are switched off and others weighted up, then the swarm is drawn anew, so that
stretches of a run explore differently and none misses an operator for good.  A
child is made of one to a few mutations; each after the first needs the
intermediate stream's own places, so stacks are short and their depth is drawn
geometrically.
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
"""Share of operators that a swarm switches off."""
SWARM_CHILDREN: Final = 2000
"""Children until the next swarm: some seconds of one worker."""


class MutationStack:
    """Makes children.

    Args:
        operators: what to draw from.
        swarm: decides about swarms; ``None`` for every operator at its own
            weight all the time.
    """

    def __init__(self, operators: Sequence[Mutator], swarm: Rng | None = None) -> None:
        self._all = tuple(operators)
        self._swarm = swarm
        self._operators: list[Mutator] = []
        self._weights: list[int] = []
        self._left = 0

    @classmethod
    def default(cls, rng: Rng) -> "MutationStack":
        """All built-in operators, swarmed by ``rng``."""
        return cls(ALL, rng)

    def _draw_swarm(self) -> None:
        """About one operator in six is off, the others weigh half to double."""
        self._left = SWARM_CHILDREN
        self._operators, self._weights = list(self._all), [op.weight for op in self._all]
        swarm = self._swarm
        if swarm is None:
            return
        drawn = [(swarm.chance(*_SWARM_OFF), swarm.between(2, 8)) for _ in self._all]
        pairs = [
            (operator, max(operator.weight * quarters // 4, 1))
            for operator, (off, quarters) in zip(self._all, drawn, strict=True)
            if not off or operator.name.startswith("raw")
        ]
        self._operators = [operator for operator, _ in pairs]
        self._weights = [weight for _, weight in pairs]

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
        if not self._left:
            self._draw_swarm()
        self._left -= 1
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
