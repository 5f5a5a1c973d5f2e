"""Runs a sweep over worker processes and makes maps of their answers."""

import asyncio
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from loadfuzz import codec
from loadfuzz.abc import Format
from loadfuzz.children import spawn
from loadfuzz.errors import InfraError, UsageError
from loadfuzz.faults.kinds import FaultKind
from loadfuzz.inputs import Seed
from loadfuzz.sweeps.cells import Answer, Job, Map, Request
from loadfuzz.sweeps.places import At, chunks, offsets_of
from savevm.document import Document, Role, SectionNode

JOB_PLACES: Final = 256
"""Places of one job: about a second of them, so that progress shows and little is lost."""
PLACES_MAX: Final = 50_000_000
"""Places of one sweep: a day of the fastest loader."""
COMMAND: Final = (sys.executable, "-m", "loadfuzz.sweeps.worker")


class Sweep:
    """One fault at every chosen place of some streams; for one use.

    Args:
        target: what is swept.
        seeds: the streams.
        kind, amount: of the fault; the kind's usual amount for ``None``.
        at: which places.
        step: of every offset, one in so many.

    Attributes:
        maps: of each stream; they fill while the sweep runs.
        places: how many there are in all.
        done: how many of them were tried.
    """

    def __init__(
        self,
        target: Format,
        seeds: Sequence[Seed],
        kind: FaultKind,
        amount: int | None,
        at: frozenset[At],
        step: int = 1,
    ) -> None:
        self._target = target.name
        self._kind = kind
        self._amount = amount
        self._streams = tuple(seed.stream for seed in seeds)
        self.maps: list[Map] = []
        self._jobs: list[Job] = []
        self.done = 0
        for number, seed in enumerate(seeds):
            document = target.parse(seed.stream)
            self.maps.append(Map(seed.name, len(seed.stream), marks_of(document)))
            offsets = offsets_of(document, at, step)
            self._jobs += [Job(number, part) for part in chunks(offsets, JOB_PLACES)]
        self.places = sum(len(job.offsets) for job in self._jobs)
        if self.places > PLACES_MAX:
            raise UsageError(
                f"{self.places:,} places are more than a sweep takes ({PLACES_MAX:,}); "
                "take fewer seeds, or --step"
            )

    async def run(
        self,
        workers: int,
        load_timeout_s: float,
        tell: Callable[[], None],
        command: Sequence[str] = COMMAND,
    ) -> None:
        """Sweep.  Cancellation ends the workers; what was swept stays in :attr:`maps`.

        Args:
            workers: processes.
            load_timeout_s: CPU seconds after which a load counts as a hang.
            tell: called when a job is done.
            command: starts a worker; the request's path is appended.

        Raises:
            UsageError: that fault cannot be swept on this target.
            InfraError: a worker died, or the target does not work.
        """
        with tempfile.TemporaryDirectory(prefix="loadfuzz-") as folder:
            try:
                async with asyncio.TaskGroup() as group:
                    for number in range(workers):
                        jobs = tuple(self._jobs[number::workers])
                        if jobs:
                            place = Path(folder) / str(number)
                            place.mkdir()
                            request = Request(
                                self._target, self._streams, self._kind, self._amount, jobs,
                                str(place), load_timeout_s,
                            )  # fmt: skip
                            group.create_task(self._run_worker(request, place, tell, command))
            except* (UsageError, InfraError) as errors:
                raise errors.exceptions[0] from None

    async def _run_worker(
        self, request: Request, place: Path, tell: Callable[[], None], command: Sequence[str]
    ) -> None:
        path = place / "request.json"
        path.write_bytes(codec.encode(request))
        waiting = list(request.jobs)

        def hear(line: bytes) -> None:
            answer = codec.decode(line, Answer)
            if answer.failure:
                raise (UsageError if answer.usage else InfraError)(answer.failure)
            if answer.job is not None:
                waiting.pop(0)
                self.maps[answer.job.seed].take(answer)
                self.done += len(answer.job.offsets)
                tell()

        async with spawn([*command, str(path)], hear) as child:
            end = await child.wait()
        if waiting:
            job = waiting[0]
            raise InfraError(
                f"target {self._target!r} took a worker along ({end}) between bytes "
                f"{job.offsets[0]} and {job.offsets[-1]} of {self.maps[job.seed].name}: "
                f"{end.stderr.strip()[-300:] or 'it said nothing'}"
            )


def marks_of(document: Document) -> list[tuple[int, str]]:
    """What begins where, for a map."""
    marks = [(0, "header")]
    for node in document.root.children:
        if isinstance(node, SectionNode):
            marks.append((node.start, node.path))
        elif node.role is Role.SECTION_TYPE:
            marks.append((node.start, "EOF"))
        elif node.start and node.role is None:
            marks.append((node.start, node.name or str(node.kind)))
    return marks
