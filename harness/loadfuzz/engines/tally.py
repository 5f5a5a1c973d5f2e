"""The numbers of one worker."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from loadfuzz.engines.times import class_of
from loadfuzz.events import Progress
from loadfuzz.execution import Depth, Execution, ExitKind
from loadfuzz.faults.plan import FaultPlan
from loadfuzz.mutation import Mutation

OPERATORS_MAX: Final = 1000
"""Operators counted by name; a mutator that invents names must not fill memory."""


class Tally:
    """Counts executions and what they came to.

    Attributes:
        executions: done.
        depths, kinds: executions by depth and by exit kind.
        judged: times each oracle was asked.
        loads: executions by class of their CPU time.
    """

    __slots__ = ("_applied", "_fresh", "depths", "executions", "judged", "kinds", "loads")

    def __init__(self) -> None:
        self.executions = 0
        self.depths = dict.fromkeys(Depth, 0)
        self.kinds = dict.fromkeys(ExitKind, 0)
        self.judged: dict[str, int] = {}
        self.loads: Counter[int] = Counter()
        self._applied: dict[str, int] = {}
        self._fresh: dict[str, int] = {}

    def count(self, execution: Execution) -> None:
        """One execution."""
        self.executions += 1
        self.depths[execution.depth] += 1
        self.kinds[execution.kind] += 1
        self.loads[class_of(execution.cpu_s)] += 1

    def applied(self, mutations: Iterable[Mutation]) -> None:
        """These were applied to make one input."""
        _count(self._applied, mutations)

    def fresh(self, mutations: Iterable[Mutation]) -> None:
        """That input showed something new."""
        _count(self._fresh, mutations)

    def struck(self, plan: FaultPlan, *, fresh: bool) -> None:
        """One execution was done under ``plan``; it showed something new."""
        for kind in sorted({fault.kind for fault in plan.faults}):
            name = f"fault-{kind}"
            self._applied[name] = self._applied.get(name, 0) + 1
            if fresh:
                self._fresh[name] = self._fresh.get(name, 0) + 1

    def depth_counts(self) -> dict[str, int]:
        """Executions by name of depth."""
        return {depth.name.lower(): count for depth, count in self.depths.items()}

    def kind_counts(self) -> dict[str, int]:
        """Executions by name of exit kind."""
        return {kind.value: count for kind, count in self.kinds.items()}

    def progress(self, worker: int, corpus: int) -> Progress:
        """The present totals as an event."""
        operators = {
            name: (count, self._fresh.get(name, 0)) for name, count in sorted(self._applied.items())
        }
        return Progress(
            worker,
            self.executions,
            corpus,
            self.depth_counts(),
            self.kind_counts(),
            operators,
            dict(self.judged),
            dict(self.loads),
        )


def _count(counts: dict[str, int], mutations: Iterable[Mutation]) -> None:
    for mutation in mutations:
        name = mutation.operator
        if name in counts:
            counts[name] += 1
        elif len(counts) < OPERATORS_MAX:
            counts[name] = 1
