"""From a parent to a child: which operators, how many, and never a failure.

Theory of operation.  Mutation swarms: for some thousand children some operators
are switched off and others weighted up, then the swarm is drawn anew, so that
stretches of a run explore differently and none misses an operator for good.  A
child is made of one to a few mutations; each after the first needs the
intermediate stream's own places, so stacks are short and their depth is drawn
geometrically.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from loadfuzz.abc import ChoosesOperators, Format, Mutable, Mutator
from loadfuzz.mutation import Mutation, splice
from loadfuzz.mutators import ALL
from loadfuzz.mutators.operator import Operator
from loadfuzz.rng import Rng

_DEPTH_MAX: Final = 4
"""Mutations in one child; more of them mostly break the stream early."""
_TRIES_MAX: Final = 8
"""Draws until an operator finds a place; then the stream has none to offer."""
_SWARM_OFF: Final = (1, 6)
"""Share of operators that a swarm switches off."""
FEW: Final = 8
"""So few operators are never switched off: a target that names them wants them."""
SWARM_CHILDREN: Final = 2000
"""Children until the next swarm: some seconds of one worker."""


class MutationStack:
    """Makes children.

    Args:
        operators: what to draw from.
        swarm: decides about swarms; ``None`` for every operator at its own
            weight all the time.
        factors: that chose these operators, ``None`` if nobody chose.
    """

    def __init__(
        self,
        operators: Sequence[Mutator],
        swarm: Rng | None = None,
        factors: Mapping[str, int] | None = None,
    ) -> None:
        self._all = tuple(operators)
        self._factors = factors
        self._swarm = swarm
        self._operators: list[Mutator] = []
        self._weights: list[int] = []
        self._left = 0

    @classmethod
    def of(
        cls, target: Format, swarm: Rng, operators: Mapping[str, int] | None = None
    ) -> "MutationStack":
        """The built-in operators that suit a target.

        Args:
            target: may choose (:class:`loadfuzz.abc.ChoosesOperators`).
            swarm: decides about swarms.
            operators: factors by name, in place of the target's choice.
        """
        if operators is None and isinstance(target, ChoosesOperators):
            operators = target.operators()
        return cls(ALL if operators is None else chosen(ALL, operators), swarm, operators)

    def allows(self, name: str) -> bool:
        """Whether who chose operators wants one of that name, too."""
        return self._factors is None or bool(factor_of(name, self._factors))

    def _draw_swarm(self) -> None:
        """About one operator in six is off, the others weigh half to double."""
        self._left = SWARM_CHILDREN
        self._operators, self._weights = list(self._all), [op.weight for op in self._all]
        swarm = self._swarm
        if swarm is None:
            return
        drawn = [(swarm.chance(*_SWARM_OFF), swarm.between(2, 8)) for _ in self._all]
        pairs = [
            (operator, operator.weight * quarters)
            for operator, (off, quarters) in zip(self._all, drawn, strict=True)
            if not off or operator.name.startswith("raw") or len(self._all) <= FEW
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


def chosen(operators: Sequence[Mutator], factors: Mapping[str, int]) -> tuple[Mutator, ...]:
    """The operators that are named, their weights multiplied.

    Args:
        operators: to choose from.
        factors: by name; one that ends in ``*`` stands for all that begin so, and one
            spelled out counts before it.
    """
    found: list[Mutator] = []
    for operator in operators:
        factor = factor_of(operator.name, factors)
        if factor:
            found.append(Operator(operator.name, operator.weight * factor, operator.mutate))
    return tuple(found)


def factor_of(name: str, factors: Mapping[str, int]) -> int:
    """The factor of an operator, 0 when it is not named; see :func:`chosen`."""
    if name in factors:
        return factors[name]
    return max(
        (
            value
            for pattern, value in factors.items()
            if pattern.endswith("*") and name.startswith(pattern[:-1])
        ),
        default=0,
    )


def _fits(mutation: Mutation, subject: Mutable) -> bool:
    grown = sum(len(s.replacement) - (s.end - s.start) for s in mutation.splices)
    return len(subject.stream) + grown <= subject.size_max
