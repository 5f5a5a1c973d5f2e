"""Does it happen again?  Runs an input some times in fresh loaders, in a child process.

The same engine serves ``loadfuzz replay`` and the supervisor, which confirms
what a worker died of.
"""

import asyncio
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadfuzz import codec
from loadfuzz.campaign.batch import LOAD_TIMEOUT_S
from loadfuzz.children import Exit, spawn
from loadfuzz.engines.last_input import describe_death
from loadfuzz.errors import InfraError, UsageError
from loadfuzz.execution import Depth
from loadfuzz.findings import Violation
from loadfuzz.inputs import Input
from loadfuzz.repro.again import Answer, Request, Run
from loadfuzz.triage.naming import NOWHERE

RUNS_MAX: Final = 1000
"""Most runs of one request: beyond it a percentage does not change any more."""
SILENCE_MAX_S: Final = 60.0
"""Longest time one run may take with all its oracles; a load itself has some seconds of CPU."""

WORDS_MIN: Final = 24
"""Characters of what a loader said that are enough to know it again, wherever it says it: an
assertion's text, not a signal's name."""

_HANG: Final = "no-hang"
"""Oracle whose place is wherever the load happened to be interrupted."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """All runs of an input.

    Attributes:
        runs: in order.
        wanted: the violation that is looked for; any when ``None``.
    """

    runs: tuple[Run, ...]
    wanted: Violation | None

    @property
    def reproduced(self) -> int:
        """Runs that showed it again."""
        return sum(shows(run, self.wanted) for run in self.runs)


def shows(run: Run, wanted: Violation | None) -> bool:
    """Whether a run shows the violation that is looked for, any when ``None``."""
    if wanted is None:
        return bool(run.violations)
    return any(
        found.signature == wanted.signature
        or found.oracle == wanted.oracle == _HANG
        or _is_silent(found, wanted)
        or _says_the_same(found, wanted)
        for found in run.violations
    )


def _says_the_same(found: Violation, wanted: Violation) -> bool:
    """Whether a loader died with the same words: another release may have renamed the
    function, or moved it to another file."""
    words, _, place = wanted.actual.rpartition(" in ")
    return bool(
        found.oracle == wanted.oracle
        and len(words) >= WORDS_MIN
        and place
        and found.actual.rpartition(" in ")[0] == words
    )


def _is_silent(found: Violation, wanted: Violation) -> bool:
    """Whether a loader died without a word, and so it was wanted: such a death was named by
    the field that brings it about."""
    return (
        found.oracle == wanted.oracle
        and found.path.endswith(NOWHERE)
        and wanted.path.startswith(found.path)
    )


class _Replay:
    """One replay; for one use."""

    def __init__(
        self, target: str, item: Input, runs: int, folder: Path, load_timeout_s: float
    ) -> None:
        self._target = target
        self._item = item
        self._runs = runs
        self._folder = folder
        self._load_timeout_s = load_timeout_s
        self._done: list[Run] = []
        self._failure: Answer | None = None
        self._patience: asyncio.Timeout | None = None
        self._tell: Callable[[Run], None] = lambda run: None

    async def run(self, command: Sequence[str], tell: Callable[[Run], None]) -> tuple[Run, ...]:
        self._tell = tell
        while len(self._done) < self._runs:
            before = len(self._done)
            end, silent = await self._run_process(command)
            if self._failure is not None:
                raise (UsageError if self._failure.usage else InfraError)(self._failure.failure)
            if len(self._done) < self._runs:
                death = describe_death(self._folder, 0, end.returncode, stalled=silent)
                if death is not None:
                    self._keep(Run(
                        len(self._done), death.execution.kind, Depth.NOTHING,
                        death.violation.title, (death.violation,),
                    ))  # fmt: skip
                elif len(self._done) == before:
                    raise InfraError(
                        f"target {self._target!r} cannot be run: {end}: "
                        f"{end.stderr.strip() or 'it said nothing'}"
                    )
        return tuple(self._done)

    async def _run_process(self, command: Sequence[str]) -> tuple[Exit, bool]:
        request = Request(
            self._target, self._item.stream, self._item.delivery, len(self._done), self._runs,
            str(self._folder), self._load_timeout_s, self._item.before,
            self._item.faults,
        )  # fmt: skip
        path = self._folder / "request.json"
        path.write_bytes(codec.encode(request))
        async with spawn([*command, str(path)], self._hear) as child:
            try:
                async with asyncio.timeout(SILENCE_MAX_S) as self._patience:
                    return await child.wait(), False
            except TimeoutError:
                return await child.stop(0.0), True

    def _hear(self, line: bytes) -> None:
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time() + SILENCE_MAX_S)
        try:
            answer = codec.decode(line, Answer)
        except codec.DamagedError as error:
            raise InfraError(f"running again failed: {error}: {line[:80]!r}") from error
        if answer.failure:
            self._failure = answer
        if answer.run is not None:
            self._keep(answer.run)

    def _keep(self, run: Run) -> None:
        self._done.append(run)
        self._tell(run)


async def replay(
    target: str,
    item: Input,
    runs: int,
    *,
    wanted: Violation | None = None,
    tell: Callable[[Run], None] = lambda run: None,
    load_timeout_s: float = LOAD_TIMEOUT_S,
    command: Sequence[str] = (sys.executable, "-m", "loadfuzz.repro.again"),
) -> Replayed:
    """Run ``item`` again.  Cancellation ends the child process.

    Args:
        target: name of the target.
        item: what to run.
        runs: how often, 1 to :data:`RUNS_MAX`; each in a fresh loader.
        wanted: the violation that is looked for; any when ``None``.
        tell: hears each run as it is done.
        load_timeout_s: CPU seconds after which a load counts as a hang.
        command: starts the process; the request's path is appended.

    Raises:
        InfraError: the target cannot be run.
        UsageError: there is no such target.
    """
    with tempfile.TemporaryDirectory(prefix="loadfuzz-") as folder:
        again = _Replay(target, item, runs, Path(folder), load_timeout_s)
        done = await again.run(command, tell)
    return Replayed(done, wanted)
