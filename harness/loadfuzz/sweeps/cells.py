"""What a sweep asks of its workers, what they answer, and the map that it becomes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from loadfuzz.execution import Execution, ExitKind
from loadfuzz.faults.kinds import FaultKind
from loadfuzz.findings import Violation

LETTERS: Final = {
    ExitKind.ACCEPTED: "A",
    ExitKind.REJECTED: "R",
    ExitKind.CRASHED: "C",
    ExitKind.TIMED_OUT: "T",
    ExitKind.OUT_OF_MEMORY: "M",
}
"""A verdict as it travels: maps have hundreds of thousands of places.  A small letter is one
that breaks the expectation."""
KIND_OF: Final = {letter: kind for kind, letter in LETTERS.items()}


@dataclass(frozen=True, slots=True)
class Job:
    """Some places of one stream.

    Attributes:
        seed: number of the stream.
        offsets: ascending.
    """

    seed: int
    offsets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """What a worker is to do.

    Attributes:
        target: its name.
        streams: all that are swept, by number.
        kind, amount: of the fault.
        jobs: this worker's.
        folder: for what the loader leaves.
        load_timeout_s: CPU seconds after which a load counts as a hang.
    """

    target: str
    streams: tuple[bytes, ...]
    kind: FaultKind
    amount: int | None
    jobs: tuple[Job, ...]
    folder: str
    load_timeout_s: float


@dataclass(frozen=True, slots=True)
class Broken:
    """A place whose verdict breaks the expectation.

    Attributes:
        offset: where.
        violation: what is wrong.
        execution: what the loader did.
        words: the fault, for people.
        reliability: (did it again, tries) in a fresh loader, where that was tried.
        before: (stream, offset) of the places that the same loader had been given, in order,
            where the fresh one did not do it.
    """

    offset: int
    violation: Violation
    execution: Execution
    words: tuple[str, ...]
    reliability: tuple[int, int] = (0, 0)
    before: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A line from a worker: a job done, or why it cannot go on.

    Attributes:
        job: that was done.
        letters: the verdicts, one letter each (:data:`LETTERS`), in the order of its offsets;
            a small one where the verdict is wrong.
        struck: how many of its faults did happen.
        broken: places with a wrong verdict, the first ones of each signature.
        failure: why there is no answer.
        usage: because what was asked for makes no sense.
    """

    job: Job | None = None
    letters: str = ""
    struck: int = 0
    broken: tuple[Broken, ...] = ()
    failure: str = ""
    usage: bool = False


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring places with one verdict.

    Attributes:
        start, end: first and last offset that were tried.
        kind: the verdict.
        count: how many places.
    """

    start: int
    end: int
    kind: ExitKind
    count: int


@dataclass(slots=True)
class Map:
    """What came of a sweep over one stream.

    Attributes:
        name: of the stream.
        size: in bytes.
        marks: (offset, name) of what begins there: header, sections, end, vmdesc.
        verdicts: by offset.
        struck: how many faults did happen.
        wrong: offsets with a wrong verdict.
        broken: of those some of each signature, in full.
    """

    name: str
    size: int
    marks: Sequence[tuple[int, str]]
    verdicts: dict[int, ExitKind] = field(default_factory=dict)
    struck: int = 0
    wrong: set[int] = field(default_factory=set)
    broken: list[Broken] = field(default_factory=list)

    def take(self, answer: Answer) -> None:
        """Enter what a worker found."""
        assert answer.job is not None
        for offset, letter in zip(answer.job.offsets, answer.letters, strict=True):
            self.verdicts[offset] = KIND_OF[letter.upper()]
            if letter.islower():
                self.wrong.add(offset)
        self.struck += answer.struck
        self.broken += answer.broken

    def counts(self) -> dict[ExitKind, int]:
        """Places by verdict; every verdict is there."""
        counts = dict.fromkeys(ExitKind, 0)
        for kind in self.verdicts.values():
            counts[kind] += 1
        return counts

    def stretches(self) -> Iterator[Stretch]:
        """Places in order, neighbours with one verdict together."""
        start = end = -1
        last: ExitKind | None = None
        count = 0
        for offset, kind in sorted(self.verdicts.items()):
            if kind is not last:
                if last is not None:
                    yield Stretch(start, end, last, count)
                start, last, count = offset, kind, 0
            end = offset
            count += 1
        if last is not None:
            yield Stretch(start, end, last, count)

    def mark_at(self, offset: int) -> str:
        """What the offset is part of."""
        name = ""
        for start, mark in self.marks:
            if start > offset:
                break
            name = mark
        return name
