"""A loader that remembers, for tests of whoever drives one: which field does what is said
by rules.

It stands for a process of its own without being one, so that thousands of its deaths
take no time; what real processes do is for tests that start some.
"""

import math
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from loadfuzz.abc import Format
from loadfuzz.errors import InfraError, UsageError
from loadfuzz.execution import Depth, Escape, Execution, ExitKind, Refusal
from loadfuzz.inputs import Seed
from savevm.document import Document

RENEWS_MAX: Final = 1 << 30
"""More often than any test renews it."""


class Effect(StrEnum):
    """What a changed field brings about."""

    DIES = "dies"
    """At once, without a word."""
    HANGS = "hangs"
    """At once."""
    PLANTS = "plants"
    """The next load dies, and says where."""
    POISONS = "poisons"
    """From then on everything is refused."""
    STARVES = "starves"
    """Out of memory, at once."""
    RUNS_BADLY = "runs badly"
    """Accepted; dies without a word when it is looked at closely."""
    TROUBLE = "trouble"
    """Nothing can be said: the machinery fails."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What some fields do.

    Attributes:
        paths: fields that all have to differ from the seed.
        effect: what then happens.
    """

    paths: tuple[str, ...]
    effect: Effect


ACCEPTED: Final = Execution(ExitKind.ACCEPTED, Depth.ACCEPTED)
ABORTED: Final = Execution(
    ExitKind.CRASHED, Depth.NOTHING, escape=Escape("SIGABRT", "not possible", ("reset.c:reset:7",))
)
SILENT: Final = Execution(ExitKind.CRASHED, Depth.NOTHING, escape=Escape("SIGSEGV", "", ()))
DIED_RUNNING: Final = Execution(
    ExitKind.CRASHED, Depth.ACCEPTED, escape=Escape("SIGSEGV", "running the guest", ())
)
STARVED: Final = Execution(ExitKind.OUT_OF_MEMORY, Depth.NOTHING)
HUNG: Final = Execution(ExitKind.TIMED_OUT, Depth.NOTHING, escape=Escape("hang", "busy", ()))


class RememberingExecutor:
    """The loader (:class:`loadfuzz.abc.Executor`).

    Args:
        spans: by rule, where in the seed its fields are.
        seed: whose fields the rules are about.
        renews_max: times that it can be renewed.

    Attributes:
        loads: streams that were loaded, in all its processes.
    """

    def __init__(
        self,
        spans: dict[Rule, list[tuple[int, int]]],
        seed: bytes,
        renews_max: int = RENEWS_MAX,
    ) -> None:
        self._renews_max = renews_max
        self._spans = spans
        self._seed = seed
        self._planted = self._poisoned = self._dead = False
        self.generation = 0
        self.loads = 0

    async def execute(self, stream: bytes, *, closely: bool = False) -> Execution:
        """See :meth:`loadfuzz.abc.Executor.execute`."""
        if self._dead:
            raise InfraError("it is dead")
        self.loads += 1
        execution = self._load(stream, closely=closely)
        self._dead = execution.kind.ends_process
        return execution

    def _load(self, stream: bytes, *, closely: bool) -> Execution:
        if self._planted:
            return ABORTED
        if self._poisoned:
            return _refused("it is full")
        if len(stream) != len(self._seed):
            return _refused("another length")
        for rule, spans in self._spans.items():
            if all(stream[start:end] != self._seed[start:end] for start, end in spans):
                match rule.effect:
                    case Effect.DIES:
                        return SILENT
                    case Effect.HANGS:
                        return HUNG
                    case Effect.STARVES:
                        return STARVED
                    case Effect.RUNS_BADLY if closely:
                        return DIED_RUNNING
                    case Effect.TROUBLE:
                        self._dead = True
                        raise InfraError("nobody answers")
                    case Effect.PLANTS:
                        self._planted = True
                    case Effect.POISONS:
                        self._poisoned = True
        return ACCEPTED

    async def renew(self) -> None:
        """See :meth:`loadfuzz.abc.Executor.renew`."""
        if self.generation >= self._renews_max:
            raise InfraError("it cannot be started again")
        self._planted = self._poisoned = self._dead = False
        self.generation += 1


def _refused(text: str) -> Execution:
    return Execution(ExitKind.REJECTED, Depth.HEADER, Refusal(text, 22, None, ()))


class RememberingTarget:
    """Executors that obey rules (:class:`loadfuzz.abc.RemoteTarget`).

    Args:
        format: has the seed, and parses.
        seed: name of the seed.
        rules: what happens.
        stateful: whether a load may find what those before it left.

    Attributes:
        opened: executors that were started.
        patient_s: an executor that may take so long sees nothing hang.
        dies_once: only the first executor ever dies.
        starts_max: further executors cannot be started.
        renews_max: nor be renewed more often.
        open: of these, how many are.
    """

    summary = "remembers what it loaded"

    def __init__(
        self, format: Format, seed: str, rules: Sequence[Rule], *, stateful: bool = True
    ) -> None:
        self.name = "remembering"
        self.stateful = stateful
        self._format = format
        self.seed = next(item.stream for item in format.seeds() if item.name == seed)
        tree = self.parse(self.seed)
        self._spans = {
            rule: [(node.start, node.end) for node in map(tree.find, rule.paths)] for rule in rules
        }
        self.opened: list[RememberingExecutor] = []
        self.open = 0
        self.patient_s = math.inf
        self.dies_once = False
        self.starts_max = self.renews_max = RENEWS_MAX

    def seeds(self) -> Iterable[Seed]:
        """One."""
        return [Seed("seed", self.seed, "rules")]

    def parse(self, stream: bytes) -> Document:
        """As the format does."""
        return self._format.parse(stream)

    @asynccontextmanager
    async def executor(
        self, folder: Path, load_timeout_s: float, *, explain: bool = True, copies: bool = False
    ) -> AsyncIterator[RememberingExecutor]:
        """See :meth:`loadfuzz.abc.RemoteTarget.executor`."""
        if len(self.opened) >= self.starts_max:
            raise UsageError("it does not start any more")
        spans = self._spans
        if load_timeout_s >= self.patient_s:
            spans = {rule: at for rule, at in spans.items() if rule.effect is not Effect.HANGS}
        if self.dies_once and self.opened:
            spans = {rule: at for rule, at in spans.items() if rule.effect is not Effect.DIES}
        made = RememberingExecutor(spans, self.seed, self.renews_max)
        self.opened.append(made)
        self.open += 1
        try:
            yield made
        finally:
            self.open -= 1
